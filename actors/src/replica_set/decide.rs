//! What a ReplicaSet does: adopt and release, create and delete, report. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use protocol::{Key, Resource, UnixMillis};
use serde_json::{Value, json};

use super::ranking::deletion_order;
use super::{Own, Pod, ReplicaSet};
use crate::effects::{Effects, Intent, Note, Regarding, Severity};
use crate::ownership::{self, Claim, Owner};

const COMPONENT: &str = "replicaset-controller";
/// Pods created or deleted by one decision; the next one goes on. Bounds a proposal's size.
const BURST_MAX: usize = 250;
/// The timer of the next pod that becomes available.
const AVAILABLE_TIMER: &str = "available";

pub(super) fn decide(state: &mut ReplicaSet, now: UnixMillis, effects: &mut Effects) {
    let Some(own) = &state.own else { return };
    let owner = Owner {
        api_version: "apps/v1",
        kind: "ReplicaSet",
        name: own.reading.metadata.name.clone(),
        uid: own.reading.metadata.uid.clone(),
    };
    let deleting = own.object.header.deleting;
    if !deleting && claim_pods(state, own, &owner, effects) {
        return;
    }
    let mine: Vec<(&Key, &Pod)> = state
        .pods
        .iter()
        .filter(|(_, pod)| {
            pod.object
                .header
                .controller()
                .is_some_and(|c| c.uid.as_str() == owner.uid)
        })
        .collect();
    let active: Vec<(&Key, &Pod)> = mine
        .iter()
        .copied()
        .filter(|(_, pod)| pod.reading.is_active())
        .collect();
    let wanted = usize::try_from(own.reading.replicas()).unwrap_or(0);
    let mut group = Vec::new();
    let actual = Counts::of(own, &mine, now);
    let mut counts = actual.clone();
    if deleting {
        // The collector takes the pods; only the status is kept up.
    } else if active.len() < wanted {
        create(
            own,
            &owner,
            (wanted - active.len()).min(BURST_MAX),
            &mut counts,
            &mut group,
        );
    } else if active.len() > wanted {
        delete(
            own,
            &active,
            active.len() - wanted,
            now,
            &mut counts,
            &mut group,
            effects,
        );
    }
    effects.timer_if(AVAILABLE_TIMER, counts.next_available_ms);
    match status_update(state, own, &counts) {
        // Last: who sees this status, by events in order, has seen the pods that it counts.
        Some(update) => group.push(update),
        // The counts after these writes are those of the stored status, so the status would not change, and a second
        // activation could do the same. What is true now is written first; the next decision then changes it.
        None if !group.is_empty() => {
            effects.notes.clear();
            group = status_update(state, own, &actual).into_iter().collect();
        }
        None => {}
    }
    effects.write(group);
}

/// Adopts and releases. Returns whether something was asked for: the rest is decided when it is done.
fn claim_pods(state: &ReplicaSet, own: &Own, owner: &Owner, effects: &mut Effects) -> bool {
    let mut asked = false;
    for (key, pod) in &state.pods {
        let matches = !own.selector.is_empty() && own.selector.matches(&pod.object.header.labels);
        let intent = match ownership::claim(&pod.object.header, &owner.uid, matches) {
            // A finished pod that nobody controls is left alone.
            Claim::Adopt if pod.reading.is_active() => ownership::adopt(key, &pod.object, owner),
            Claim::Release => ownership::release(key, &pod.object, &owner.uid),
            _ => None,
        };
        if let Some(intent) = intent {
            let fence = Intent::Fence {
                key: state.key.clone(),
                base: Arc::clone(&own.object),
            };
            effects.write(vec![fence, intent]);
            asked = true;
        }
    }
    asked
}

/// What the status says.
#[derive(Clone)]
struct Counts {
    replicas: i64,
    fully_labeled: i64,
    ready: i64,
    available: i64,
    terminating: i64,
    next_available_ms: Option<u64>,
}

impl Counts {
    fn of(own: &Own, mine: &[(&Key, &Pod)], now: UnixMillis) -> Counts {
        let mut counts = Counts {
            replicas: 0,
            fully_labeled: 0,
            ready: 0,
            available: 0,
            terminating: 0,
            next_available_ms: None,
        };
        for (_, pod) in mine {
            counts.add(own, pod, now, 1);
            if pod.reading.is_deleting() && !pod.reading.is_finished() {
                counts.terminating += 1;
            }
        }
        counts
    }

    /// Adds an active pod, or takes one away with `by` minus one.
    fn add(&mut self, own: &Own, pod: &Pod, now: UnixMillis, by: i64) {
        if !pod.reading.is_active() {
            return;
        }
        self.replicas += by;
        let labels = &own.reading.spec.template["metadata"]["labels"];
        let has =
            |(name, value): (&String, &Value)| pod.object.header.labels.get(name).map(String::as_str) == value.as_str();
        if labels.as_object().is_none_or(|labels| labels.iter().all(has)) {
            self.fully_labeled += by;
        }
        let Some(since) = pod.reading.ready_since() else { return };
        self.ready += by;
        let needed_ms = u64::try_from(own.reading.spec.min_ready_seconds).unwrap_or(0) * 1000;
        let ready_ms = now.since_ms(since);
        if ready_ms >= needed_ms {
            self.available += by;
        } else {
            let left_ms = needed_ms - ready_ms;
            self.next_available_ms = Some(self.next_available_ms.map_or(left_ms, |next| next.min(left_ms)));
        }
    }
}

fn create(own: &Own, owner: &Owner, count: usize, counts: &mut Counts, group: &mut Vec<Intent>) {
    let namespace: Arc<str> = own.reading.metadata.namespace.as_str().into();
    for _ in 0..count {
        let value = new_pod(own, owner);
        group.push(Intent::Create {
            resource: Resource::new("pods"),
            namespace: Arc::clone(&namespace),
            value,
        });
    }
    counts.replicas += count as i64;
    counts.fully_labeled += count as i64;
}

/// A pod of the template.
fn new_pod(own: &Own, owner: &Owner) -> Value {
    let template = &own.reading.spec.template;
    let mut metadata = json!({
        "generateName": format!("{}-", owner.name), "namespace": own.reading.metadata.namespace,
        "ownerReferences": [owner.controller_reference()],
    });
    for name in ["labels", "annotations", "finalizers"] {
        if let Some(part) = template["metadata"].get(name).filter(|part| !part.is_null()) {
            metadata[name] = part.clone();
        }
    }
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"] })
}

fn delete(
    own: &Own,
    active: &[(&Key, &Pod)],
    surplus: usize,
    now: UnixMillis,
    counts: &mut Counts,
    group: &mut Vec<Intent>,
    effects: &mut Effects,
) {
    let mut per_node: HashMap<&str, usize> = HashMap::new();
    for (_, pod) in active {
        *per_node.entry(&pod.reading.spec.node_name).or_default() += 1;
    }
    let mut ranked: Vec<(&Key, &Pod)> = active.to_vec();
    let rank = |pod: &Pod| per_node.get(pod.reading.spec.node_name.as_str()).copied().unwrap_or(0);
    ranked.sort_by(|a, b| deletion_order((&a.1.reading, rank(a.1)), (&b.1.reading, rank(b.1))));
    for (key, pod) in ranked.into_iter().take(surplus.min(BURST_MAX)) {
        let Some(intent) = ownership::delete(key, &pod.object, now) else {
            continue;
        };
        counts.add(own, pod, now, -1);
        if matches!(intent, Intent::Update { .. }) {
            counts.terminating += 1;
        }
        group.push(intent);
        effects
            .notes
            .push(note(own, "SuccessfulDelete", format!("Deleted pod: {}", key.name)));
    }
}

fn note(own: &Own, reason: &'static str, message: String) -> Note {
    Note {
        regarding: Regarding::new("apps/v1", "ReplicaSet", &own.reading.metadata),
        severity: Severity::Normal,
        reason,
        message,
        component: COMPONENT,
    }
}

/// The update of the status, when it says something new.
fn status_update(state: &ReplicaSet, own: &Own, counts: &Counts) -> Option<Intent> {
    let status = &own.reading.status;
    let generation = own.reading.metadata.generation;
    let same = status.replicas == counts.replicas
        && status.fully_labeled_replicas == counts.fully_labeled
        && status.ready_replicas == counts.ready
        && status.available_replicas == counts.available
        && status.terminating_replicas.unwrap_or(0) == counts.terminating
        && status.observed_generation == generation;
    if same {
        return None;
    }
    let mut value = own.value.clone();
    let written = ownership::member(&mut value, "status");
    written.insert("replicas".into(), json!(counts.replicas));
    written.insert("observedGeneration".into(), json!(generation));
    for (name, count) in [
        ("fullyLabeledReplicas", counts.fully_labeled),
        ("readyReplicas", counts.ready),
        ("availableReplicas", counts.available),
        ("terminatingReplicas", counts.terminating),
    ] {
        if count == 0 {
            written.remove(name);
        } else {
            written.insert(name.into(), json!(count));
        }
    }
    Some(Intent::Update {
        key: state.key.clone(),
        base: Arc::clone(&own.object),
        value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::{Event, ObjectKind};
    use crate::ownership::tests::stored;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn set(replicas: i64, min_ready_seconds: i64, status: Value) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": "web", "namespace": "default", "uid": "rs", "generation": 1},
            "spec": {
                "replicas": replicas, "minReadySeconds": min_ready_seconds,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}]}},
            },
            "status": status,
        })
    }

    fn pod(name: &str, owner: Option<&str>, more: Value) -> Value {
        let mut value = json!({
            "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "n"}, "status": {"phase": "Running"},
        });
        if let Some(uid) = owner {
            value["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": uid, "controller": true}]);
        }
        for (name, part) in more.as_object().unwrap() {
            value[name] = part.clone();
        }
        value
    }

    fn ready(since: UnixMillis) -> Value {
        json!({"status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": since.rfc3339()}]}})
    }

    fn decided(set: Value, pods: Vec<Value>) -> Effects {
        let key = Key::new("replicasets.apps", "default", "web");
        let mut state = ReplicaSet::new(key.clone());
        state.observe(&key, Some(&stored(set, 1))).unwrap();
        for pod in pods {
            let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
            state
                .observe(&Key::new("pods", "default", name), Some(&stored(pod, 1)))
                .unwrap();
        }
        let mut effects = Effects::default();
        state.decide(NOW, Event::Changed, &mut effects);
        effects
    }

    fn created(effects: &Effects) -> usize {
        effects
            .groups
            .iter()
            .flatten()
            .filter(|intent| matches!(intent, Intent::Create { .. }))
            .count()
    }

    #[test]
    fn missing_pods_are_created_in_one_group_with_the_status() {
        let effects = decided(set(3, 0, json!({})), vec![pod("a", Some("rs"), json!({}))]);
        assert_eq!((effects.groups.len(), created(&effects)), (1, 2));
        let Intent::Update { value, .. } = &effects.groups[0][2] else {
            panic!("the status comes last")
        };
        assert_eq!(value["status"]["replicas"], 3);
        let Intent::Create { value, .. } = &effects.groups[0][0] else {
            panic!("the pods come first")
        };
        assert_eq!(value["metadata"]["generateName"], "web-");
        assert_eq!(value["metadata"]["ownerReferences"][0]["blockOwnerDeletion"], true);
        assert_eq!(value["metadata"]["labels"]["app"], "web");
    }

    #[test]
    fn a_set_that_has_what_it_wants_writes_nothing() {
        let status = json!({"replicas": 1, "fullyLabeledReplicas": 1, "observedGeneration": 1});
        assert_eq!(
            decided(set(1, 0, status), vec![pod("a", Some("rs"), json!({}))]).groups,
            Vec::<Vec<Intent>>::new()
        );
    }

    #[test]
    fn creations_that_would_leave_the_status_as_it_is_wait_for_the_true_status() {
        let status = json!({"replicas": 1, "fullyLabeledReplicas": 1, "observedGeneration": 1});
        let effects = decided(set(1, 0, status), vec![]);
        assert_eq!(created(&effects), 0);
        let Intent::Update { value, .. } = &effects.groups[0][0] else {
            panic!()
        };
        assert_eq!(value["status"]["replicas"], 0);
    }

    #[test]
    fn finished_and_deleting_pods_are_replaced() {
        let failed = pod("a", Some("rs"), json!({"status": {"phase": "Failed"}}));
        let mut deleting = pod("b", Some("rs"), json!({}));
        deleting["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let effects = decided(set(2, 0, json!({})), vec![failed, deleting]);
        assert_eq!(created(&effects), 2);
        let Some(Intent::Update { value, .. }) = effects.groups[0].last() else {
            panic!()
        };
        assert_eq!(value["status"]["terminatingReplicas"], 1);
    }

    #[test]
    fn surplus_pods_are_deleted_least_useful_first() {
        let pods = vec![
            pod("a-ready", Some("rs"), ready(NOW)),
            pod("b-starting", Some("rs"), json!({})),
            pod("c-unbound", Some("rs"), json!({"spec": {}})),
        ];
        let effects = decided(set(1, 0, json!({})), pods);
        let deleted: Vec<String> = effects.groups[0][..2]
            .iter()
            .map(|i| i.key().unwrap().name.to_string())
            .collect();
        assert_eq!(deleted, ["c-unbound", "b-starting"]);
        assert!(
            matches!(effects.groups[0][0], Intent::Remove { .. }),
            "an unbound pod is removed at once"
        );
        let Some(Intent::Update { value, .. }) = effects.groups[0].last() else {
            panic!()
        };
        assert_eq!(
            (&value["status"]["replicas"], &value["status"]["readyReplicas"]),
            (&json!(1), &json!(1))
        );
    }

    #[test]
    fn orphans_are_adopted_and_strangers_released_before_anything_else() {
        let mut stray = pod("stray", Some("rs"), json!({}));
        stray["metadata"]["labels"] = json!({"app": "other"});
        let pods = vec![
            pod("orphan", None, json!({})),
            stray,
            pod("foreign", Some("other"), json!({})),
        ];
        let effects = decided(set(1, 0, json!({})), pods);
        let touched: Vec<&str> = effects
            .groups
            .iter()
            .map(|group| &*group[1].key().unwrap().name)
            .collect();
        assert_eq!(touched, ["orphan", "stray"]);
        assert_eq!(created(&effects), 0);
    }

    #[test]
    fn a_pod_is_available_after_min_ready_seconds_and_a_timer_waits_for_it() {
        let pods = vec![
            pod("a", Some("rs"), ready(UnixMillis(NOW.0 - 20_000))),
            pod("b", Some("rs"), ready(UnixMillis(NOW.0 - 4_000))),
        ];
        let effects = decided(set(2, 10, json!({})), pods);
        let Intent::Update { value, .. } = &effects.groups[0][0] else {
            panic!()
        };
        assert_eq!(
            (&value["status"]["readyReplicas"], &value["status"]["availableReplicas"]),
            (&json!(2), &json!(1))
        );
        assert_eq!(effects.timers[0].after_ms, 6_000);
    }

    #[test]
    fn a_set_that_is_being_deleted_creates_nothing() {
        let mut deleting = set(3, 0, json!({}));
        deleting["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        deleting["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
        assert_eq!(created(&decided(deleting, vec![])), 0);
    }
}
