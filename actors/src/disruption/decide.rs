//! How many pods of a budget may be disrupted: Kubernetes' disruption controller. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::{Key, Uid, UnixMillis};
use serde_json::{Value, json};

use super::{DisruptionBudget, Own, Pod};
use crate::collection::owner_key;
use crate::conditions::{self, Times, Wanted};
use crate::effects::{Effects, Intent, Note, Regarding, Severity};
use crate::int_or_percent;
use crate::kind::Event;
use crate::ownership;
use crate::reading::instant;

const COMPONENT: &str = "controllermanager";
const CONDITION: &str = "DisruptionAllowed";
/// An eviction that was granted counts against the budget so long, should the pod's deletion not be seen: two minutes.
const DELETION_TIMEOUT_MS: u64 = 120_000;
const RECHECK_TIMER: &str = "recheck";

/// How many pods there should be, and how many of them healthy.
#[derive(Debug, PartialEq, Eq)]
struct Expected {
    pods: i64,
    healthy: i64,
}

/// Why it cannot be told how many pods there should be.
#[derive(Debug, PartialEq, Eq)]
enum Unknown {
    /// A controller was not shown to this actor.
    Unseen(String),
    /// The controller keeps no number of replicas.
    Unscaled(String),
}

impl Unknown {
    fn message(&self) -> String {
        match self {
            Unknown::Unseen(pod) => format!("found no controllers for pod {pod:?}"),
            Unknown::Unscaled(controller) => format!("{controller} does not implement the scale subresource"),
        }
    }
}

/// Kinds whose absent `spec.replicas` means one pod.
pub(super) fn replicas_when_absent(key: &Key) -> Option<i64> {
    let scaled = [
        "deployments.apps",
        "replicasets.apps",
        "statefulsets.apps",
        "replicationcontrollers",
    ];
    scaled.contains(&key.resource.as_str()).then_some(1)
}

pub(super) fn decide(state: &DisruptionBudget, now: UnixMillis, event: Event, effects: &mut Effects) {
    let Some(own) = state.own.as_ref().filter(|own| !own.object.header.deleting) else {
        return;
    };
    let pods: Vec<&Pod> = covered(state, own).collect();
    let expected = expected(state, own, &pods);
    if let (Err(Unknown::Unseen(_)), true) = (&expected, event != Event::Loaded) {
        // A pod of a controller that was not there when this actor looked around.
        effects.look_again = true;
        return;
    }
    let disrupted = disrupted(own, &pods, now);
    let healthy = |pod: &&&Pod| pod.reading.is_ready() && !pod.reading.is_deleting();
    let current = pods
        .iter()
        .filter(healthy)
        .filter(|pod| !disrupted.contains_key(&pod.reading.metadata.name));
    let mut value = own.value.clone();
    match &expected {
        Ok(expected) => set_status(&mut value, own, expected, current.count() as i64, &disrupted, now),
        Err(unknown) => set_unknown(&mut value, own, &unknown.message(), now),
    }
    if value != own.value {
        effects.notes.extend(note(own, &expected));
        effects.write_one(Intent::Update {
            key: state.key.clone(),
            base: Arc::clone(&own.object),
            value,
        });
    }
    let expiry = disrupted
        .values()
        .map(|since| since.plus_ms(DELETION_TIMEOUT_MS).since_ms(now).max(1));
    effects.timer_if(RECHECK_TIMER, expiry.min());
}

fn covered<'a>(state: &'a DisruptionBudget, own: &'a Own) -> impl Iterator<Item = &'a Pod> {
    let selector = own.selector.as_ref();
    let matches = move |pod: &&Pod| selector.is_some_and(|selector| selector.matches(&pod.object.header.labels));
    state.pods.values().filter(matches)
}

/// A percentage is one of what the pods' controllers want. A plain `minAvailable` needs no controllers.
fn expected(state: &DisruptionBudget, own: &Own, pods: &[&Pod]) -> Result<Expected, Unknown> {
    let spec = &own.reading.spec;
    if !spec.max_unavailable.is_null() {
        let wanted = wanted_by_controllers(state, pods)?;
        let healthy = wanted - int_or_percent::of_total(&spec.max_unavailable, wanted, true);
        return Ok(Expected {
            pods: wanted,
            healthy: healthy.max(0),
        });
    }
    let wanted = match &spec.min_available {
        Value::String(_) => wanted_by_controllers(state, pods)?,
        _ => pods.len() as i64,
    };
    Ok(Expected {
        pods: wanted,
        healthy: int_or_percent::of_total(&spec.min_available, wanted, true),
    })
}

/// The sum of what the controllers of these pods want, each counted once. Pods without a controller do not count.
fn wanted_by_controllers(state: &DisruptionBudget, pods: &[&Pod]) -> Result<i64, Unknown> {
    let mut wanted: BTreeMap<&Uid, i64> = BTreeMap::new();
    for pod in pods {
        let Some(reference) = pod.object.header.controller() else {
            continue;
        };
        let unseen = || Unknown::Unseen(pod.reading.metadata.name.clone());
        let seen = |reference: &protocol::OwnerReference| {
            let controller = state.controllers.get(&owner_key(reference, &state.key.namespace)?)?;
            (controller.uid == reference.uid).then_some(controller)
        };
        let mut controller = seen(reference).ok_or_else(unseen)?;
        // A ReplicaSet of a Deployment changes its size in a rollout; what is wanted is the Deployment's.
        if let Some(above) = &controller.above {
            controller = seen(above).ok_or_else(unseen)?;
        }
        let named = || format!("{}/{}", reference.kind, reference.name);
        let replicas = controller.replicas.ok_or_else(|| Unknown::Unscaled(named()))?;
        wanted.insert(&controller.uid, replicas);
    }
    Ok(wanted.values().sum())
}

/// Pods whose eviction was granted, and which have not begun to go.
fn disrupted(own: &Own, pods: &[&Pod], now: UnixMillis) -> BTreeMap<String, UnixMillis> {
    let mut left = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !pod.reading.is_deleting()) {
        let name = &pod.reading.metadata.name;
        let granted = own.reading.status.disrupted_pods.get(name);
        let Some(granted) = granted.and_then(|at| instant(Some(at))) else {
            continue;
        };
        if granted.plus_ms(DELETION_TIMEOUT_MS) > now {
            left.insert(name.clone(), granted);
        }
    }
    left
}

fn set_status(
    value: &mut Value,
    own: &Own,
    expected: &Expected,
    current: i64,
    disrupted: &BTreeMap<String, UnixMillis>,
    now: UnixMillis,
) {
    // A budget that covers no pod allows nothing, so that the first pods are not evicted before they are counted.
    let allowed = if expected.pods > 0 {
        (current - expected.healthy).max(0)
    } else {
        0
    };
    let status = ownership::member(value, "status");
    for (name, number) in [
        ("currentHealthy", current),
        ("desiredHealthy", expected.healthy),
        ("expectedPods", expected.pods),
        ("disruptionsAllowed", allowed),
        ("observedGeneration", own.reading.metadata.generation),
    ] {
        status.insert(name.into(), json!(number));
    }
    if disrupted.is_empty() {
        status.remove("disruptedPods");
    } else {
        let kept = own.reading.status.disrupted_pods.iter();
        let kept: BTreeMap<_, _> = kept.filter(|(name, _)| disrupted.contains_key(*name)).collect();
        status.insert("disruptedPods".into(), json!(kept));
    }
    let (status, reason) = if allowed > 0 {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    set_condition(value, own, status, reason, "", now);
}

/// Nothing may be disrupted while it is not known what is wanted.
fn set_unknown(value: &mut Value, own: &Own, message: &str, now: UnixMillis) {
    ownership::member(value, "status").insert("disruptionsAllowed".into(), json!(0));
    set_condition(value, own, "False", "SyncFailed", message, now);
}

fn set_condition(value: &mut Value, own: &Own, status: &str, reason: &str, message: &str, now: UnixMillis) {
    let wanted = Wanted {
        kind: CONDITION,
        status,
        reason,
        message,
    };
    conditions::set(value, wanted, Times::Transition, now);
    let conditions = value["status"]["conditions"].as_array_mut().into_iter().flatten();
    for condition in conditions.filter(|condition| condition["type"] == CONDITION) {
        condition["observedGeneration"] = json!(own.reading.metadata.generation);
        // metav1.Condition requires both, even where they are empty.
        condition["message"] = json!(message);
        condition["reason"] = json!(reason);
    }
}

fn note(own: &Own, expected: &Result<Expected, Unknown>) -> Option<Note> {
    let (severity, reason, message) = match expected {
        Ok(Expected { pods: 0, .. }) => (Severity::Normal, "NoPods", "No matching pods found".to_owned()),
        Ok(_) => return None,
        Err(unknown) => (
            Severity::Warning,
            "CalculateExpectedPodCountFailed",
            format!("Failed to calculate the number of expected pods: {}", unknown.message()),
        ),
    };
    Some(Note {
        regarding: Regarding::new("policy/v1", "PodDisruptionBudget", &own.reading.metadata),
        severity,
        reason,
        message,
        component: COMPONENT,
    })
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
