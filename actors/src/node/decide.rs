//! What a Node's actor does: notes that a machine is gone, keeps the taints that follow from the Ready condition, and
//! marks pods that have to leave. Pure.

use std::sync::Arc;

use protocol::UnixMillis;
use serde_json::{Value, json};

use super::eviction::{self, NOT_READY, UNREACHABLE, Verdict};
use super::{Node, Own};
use crate::conditions::{self, Times, Wanted};
use crate::effects::{Effects, Intent, Note, Regarding, Severity};
use crate::kind::{Event, Liveness};
use crate::ownership;
use crate::reading::{self, condition};

const COMPONENT: &str = "node-controller";
const UNHEARD_TIMER: &str = "unheard";
const EVICTION_TIMER: &str = "eviction";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Pods written by one decision; the next one goes on.
const PODS_MAX: usize = 500;

pub(super) fn decide(state: &mut Node, now: UnixMillis, event: Event, effects: &mut Effects) {
    match event {
        Event::Liveness(liveness) => {
            state.liveness = Some(liveness);
            state.unheard = false;
        }
        Event::Timer(UNHEARD_TIMER) if state.liveness.is_none() => state.unheard = true,
        _ => {}
    }
    let Some(own) = &state.own else { return };
    let unheard = state.liveness.is_none() && !state.unheard && event == Event::Loaded;
    if let Some(after_ms) = state.settings.unheard_after_ms.filter(|_| unheard) {
        effects.timer(UNHEARD_TIMER, after_ms);
    }
    let down = state.liveness == Some(Liveness::Down) || state.unheard;
    let mut value = own.value.clone();
    if down {
        note_unreachable(&mut value, own, now);
    }
    keep_taints(&mut value, now);
    if value != own.value {
        note_transition(own, &value, effects);
        effects.write_one(Intent::Update {
            key: state.key.clone(),
            base: Arc::clone(&own.object),
            value,
        });
        // Pods are decided about when the taints, with their times, are stored.
        return;
    }
    if down {
        mark_pods_not_ready(state, now, effects);
    }
    evict(state, own, now, effects);
}

/// Sets every condition that the machine itself would keep to Unknown.
fn note_unreachable(value: &mut Value, own: &Own, now: UnixMillis) {
    let mut kinds: Vec<&str> = own
        .reading
        .status
        .conditions
        .iter()
        .map(|condition| condition.kind.as_str())
        .collect();
    if !kinds.contains(&"Ready") {
        kinds.push("Ready");
    }
    for kind in kinds.into_iter().filter(|kind| *kind != "NetworkUnavailable") {
        let wanted = Wanted {
            kind,
            status: "Unknown",
            reason: "NodeStatusUnknown",
            message: "Kubelet stopped posting node status.",
        };
        conditions::set(value, wanted, Times::Transition, now);
    }
}

/// Makes the taints follow from the Ready condition and from `spec.unschedulable`. Taints of people stay. That pods are
/// driven away is the brake's decision: a node that is marked so stays marked, by what it says now, until it is ready.
fn keep_taints(value: &mut Value, now: UnixMillis) {
    let ready = value["status"]["conditions"]
        .as_array()
        .and_then(|all| all.iter().find(|condition| condition["type"] == "Ready"))
        .and_then(|ready| ready["status"].as_str());
    let key = match ready {
        Some("True") => None,
        Some("Unknown") => Some(UNREACHABLE),
        _ => Some(NOT_READY),
    };
    let mut taints = value["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let marked = taints.iter().any(|taint| {
        let by_condition = taint["key"] == UNREACHABLE || taint["key"] == NOT_READY;
        by_condition && taint["effect"] == "NoExecute"
    });
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    if let Some(key) = key {
        wanted.push((key, "NoSchedule"));
        wanted.extend(marked.then_some((key, "NoExecute")));
    }
    if value["spec"]["unschedulable"] == true {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let before = taints.clone();
    taints.retain(|taint| {
        let (key, effect) = (
            taint["key"].as_str().unwrap_or_default(),
            taint["effect"].as_str().unwrap_or_default(),
        );
        !matches!(key, UNREACHABLE | NOT_READY | UNSCHEDULABLE) || wanted.contains(&(key, effect))
    });
    for (key, effect) in wanted {
        if !taints
            .iter()
            .any(|taint| taint["key"] == key && taint["effect"] == effect)
        {
            taints.push(json!({ "key": key, "effect": effect, "timeAdded": now.rfc3339() }));
        }
    }
    if taints == before {
        return;
    }
    let spec = ownership::member(value, "spec");
    if taints.is_empty() {
        spec.remove("taints");
    } else {
        spec.insert("taints".into(), Value::Array(taints));
    }
}

fn note_transition(own: &Own, value: &Value, effects: &mut Effects) {
    let before = condition(&own.reading.status.conditions, "Ready").map(|ready| ready.status.as_str());
    let after = value["status"]["conditions"]
        .as_array()
        .and_then(|all| all.iter().find(|condition| condition["type"] == "Ready"))
        .and_then(|ready| ready["status"].as_str());
    if after == Some("Unknown") && before != after {
        let name = &own.reading.metadata.name;
        let regarding = Regarding::new("v1", "Node", &own.reading.metadata);
        let message = format!("Node {name} status is now: NodeNotReady");
        effects.notes.push(Note {
            regarding,
            severity: Severity::Normal,
            reason: "NodeNotReady",
            message,
            component: COMPONENT,
        });
    }
}

/// Pods of a machine that is gone are not ready: Services stop sending to them before they are evicted.
fn mark_pods_not_ready(state: &Node, now: UnixMillis, effects: &mut Effects) {
    for (key, pod) in state
        .pods
        .iter()
        .filter(|(_, pod)| pod.reading.is_ready())
        .take(PODS_MAX)
    {
        let Ok(mut value) = pod.object.value() else { continue };
        let wanted = Wanted {
            kind: "Ready",
            status: "False",
            reason: "NodeNotReady",
            message: "Node is not ready",
        };
        if conditions::set(&mut value, wanted, Times::Transition, now) {
            effects.write_one(Intent::Update {
                key: key.clone(),
                base: Arc::clone(&pod.object),
                value,
            });
        }
    }
}

fn evict(state: &Node, own: &Own, now: UnixMillis, effects: &mut Effects) {
    let taints = &own.reading.spec.taints;
    if !taints.iter().any(|taint| taint.effect == "NoExecute") {
        effects.timer_if(EVICTION_TIMER, None);
        return;
    }
    let mut next: Option<UnixMillis> = None;
    let mut evicted = 0;
    for (key, pod) in state
        .pods
        .iter()
        .filter(|(_, pod)| !pod.reading.is_deleting() && !pod.reading.is_finished())
    {
        // A pod that is marked not ready by this decision is written once; it is evicted by the next decision.
        if effects.groups.iter().flatten().any(|intent| intent.key() == Some(key)) {
            continue;
        }
        let tolerations = &pod.reading.spec.tolerations;
        match eviction::verdict(taints, tolerations, &state.settings, now) {
            Verdict::Stay => {}
            Verdict::At(at) => next = Some(next.map_or(at, |other| other.min(at))),
            Verdict::Now if evicted < PODS_MAX => {
                evicted += 1;
                mark_evicted(key, pod.object.clone(), &pod.reading, now, effects);
            }
            Verdict::Now => {}
        }
    }
    effects.timer_if(EVICTION_TIMER, next.map(|at| at.since_ms(now).max(1)));
}

fn mark_evicted(
    key: &protocol::Key,
    base: Arc<protocol::Object>,
    pod: &reading::Pod,
    now: UnixMillis,
    effects: &mut Effects,
) {
    let mut intent = ownership::delete(key, &base, now);
    if let Some(Intent::Update { value, .. }) = &mut intent {
        let wanted = Wanted {
            kind: "DisruptionTarget",
            status: "True",
            reason: "DeletionByTaintManager",
            message: "Taint manager: deleting due to NoExecute taint",
        };
        conditions::set(value, wanted, Times::Transition, now);
    }
    let Some(intent) = intent else { return };
    effects.write_one(intent);
    let metadata = &pod.metadata;
    effects.notes.push(Note {
        regarding: Regarding::new("v1", "Pod", metadata),
        severity: Severity::Normal,
        reason: "TaintManagerEviction",
        message: format!("Marking for deletion Pod {}/{}", metadata.namespace, metadata.name),
        component: "taint-eviction-controller",
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::ObjectKind;
    use crate::node::NodeSettings;
    use crate::ownership::tests::stored;
    use protocol::Key;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn node(ready: &str, taints: Value) -> Value {
        json!({
            "metadata": {"name": "n1", "uid": "n"}, "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready, "reason": "R", "message": "m"}]},
        })
    }

    fn pod(name: &str, ready: bool, tolerations: Value) -> Value {
        let status = if ready { "True" } else { "False" };
        json!({
            "metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {"nodeName": "n1", "tolerations": tolerations},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]},
        })
    }

    fn actor(node: Value, pods: Vec<Value>) -> Node {
        let key = Key::new("nodes", "", "n1");
        let mut state = Node::new(key.clone(), NodeSettings::default());
        state.observe(&key, Some(&stored(node, 1))).unwrap();
        for pod in pods {
            let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
            state
                .observe(&Key::new("pods", "default", name), Some(&stored(pod, 1)))
                .unwrap();
        }
        state
    }

    fn decide_on(state: &mut Node, event: Event, now: UnixMillis) -> Effects {
        let mut effects = Effects::default();
        state.decide(now, event, &mut effects);
        effects
    }

    fn taint_keys(effects: &Effects) -> Vec<String> {
        let Intent::Update { value, .. } = &effects.groups[0][0] else {
            panic!("no update")
        };
        let taints = value["spec"]["taints"].as_array().cloned().unwrap_or_default();
        taints
            .iter()
            .map(|t| format!("{}:{}", t["key"].as_str().unwrap(), t["effect"].as_str().unwrap()))
            .collect()
    }

    fn lost_taints(added: UnixMillis) -> Value {
        json!([
            {"key": UNREACHABLE, "effect": "NoSchedule", "timeAdded": added.rfc3339()},
            {"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": added.rfc3339()},
        ])
    }

    fn lost_node(added: UnixMillis) -> Value {
        let mut lost = node("Unknown", lost_taints(added));
        lost["status"]["conditions"][0]["reason"] = json!("NodeStatusUnknown");
        lost["status"]["conditions"][0]["message"] = json!("Kubelet stopped posting node status.");
        lost
    }

    #[test]
    fn a_machine_that_is_down_becomes_unknown_and_tainted_in_one_write() {
        let mut state = actor(node("True", json!([{"key": "mine", "effect": "NoSchedule"}])), vec![]);
        let effects = decide_on(&mut state, Event::Liveness(Liveness::Down), NOW);
        assert_eq!(
            taint_keys(&effects),
            ["mine:NoSchedule", &format!("{UNREACHABLE}:NoSchedule")],
            "whether its pods have to go is the brake's decision"
        );
        let Intent::Update { value, .. } = &effects.groups[0][0] else {
            panic!()
        };
        let ready = &value["status"]["conditions"][0];
        assert_eq!(
            (&ready["status"], &ready["reason"]),
            (&json!("Unknown"), &json!("NodeStatusUnknown"))
        );
        assert_eq!(effects.notes[0].reason, "NodeNotReady");
    }

    #[test]
    fn a_node_that_says_it_is_not_ready_gets_the_other_taint_and_a_ready_one_none() {
        let effects = decide_on(&mut actor(node("False", json!([])), vec![]), Event::Changed, NOW);
        assert_eq!(taint_keys(&effects), [format!("{NOT_READY}:NoSchedule")]);
        let mut marked = actor(node("False", lost_taints(NOW)), vec![]);
        assert_eq!(
            taint_keys(&decide_on(&mut marked, Event::Changed, NOW)),
            [format!("{NOT_READY}:NoSchedule"), format!("{NOT_READY}:NoExecute")],
            "a node that is marked stays marked, by what it says now"
        );
        let mut back = actor(node("True", lost_taints(NOW)), vec![]);
        assert!(taint_keys(&decide_on(&mut back, Event::Liveness(Liveness::Alive), NOW)).is_empty());
        assert!(decide_on(&mut actor(node("True", json!([])), vec![]), Event::Changed, NOW).writes_nothing());
    }

    #[test]
    fn a_machine_that_is_back_keeps_its_taints_until_it_says_that_it_is_ready() {
        let mut state = actor(lost_node(NOW), vec![]);
        assert!(decide_on(&mut state, Event::Liveness(Liveness::Alive), NOW).writes_nothing());
    }

    #[test]
    fn a_cordoned_node_is_tainted() {
        let mut cordoned = node("True", json!([]));
        cordoned["spec"]["unschedulable"] = json!(true);
        assert_eq!(
            taint_keys(&decide_on(&mut actor(cordoned, vec![]), Event::Changed, NOW)),
            [format!("{UNSCHEDULABLE}:NoSchedule")]
        );
    }

    #[test]
    fn pods_of_a_lost_machine_are_first_not_ready_and_then_evicted() {
        let patient = json!([{"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute"}]);
        let pods = vec![
            pod("a", true, json!([])),
            pod("b", false, json!([])),
            pod("c", false, patient),
        ];
        let mut state = actor(lost_node(NOW), pods);
        let effects = decide_on(&mut state, Event::Liveness(Liveness::Down), NOW);
        let Intent::Update { key, value, .. } = &effects.groups[0][0] else {
            panic!()
        };
        assert_eq!(
            (&*key.name, &value["status"]["conditions"][0]["status"]),
            ("a", &json!("False"))
        );
        assert_eq!((effects.groups.len(), effects.timers[0].timer), (1, EVICTION_TIMER));
        let effects = decide_on(&mut state, Event::Timer(EVICTION_TIMER), NOW.plus_ms(1500));
        let evicted: Vec<&str> = effects
            .groups
            .iter()
            .flatten()
            .filter_map(|intent| match intent {
                Intent::Update { key, value, .. } if value["metadata"]["deletionTimestamp"].is_string() => {
                    Some(&*key.name)
                }
                _ => None,
            })
            .collect();
        assert_eq!(evicted, ["b"], "a is written once in this decision, c tolerates");
        assert_eq!(effects.notes[0].reason, "TaintManagerEviction");
    }

    #[test]
    fn a_node_that_nobody_heard_of_counts_as_down_after_a_while() {
        let mut state = actor(node("True", json!([])), vec![]);
        let effects = decide_on(&mut state, Event::Loaded, NOW);
        assert!(effects.writes_nothing() && effects.timers[0].timer == UNHEARD_TIMER);
        assert!(!decide_on(&mut state, Event::Timer(UNHEARD_TIMER), NOW.plus_ms(40_000)).writes_nothing());
    }
}
