//! Which pods go first when a ReplicaSet is scaled down: Kubernetes' order (`ActivePodsWithRanks`). Pure.

use std::cmp::Ordering;

use crate::reading::Pod;

/// The annotation by which a person makes a pod dearer (positive) or cheaper (negative).
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Less means: deleted earlier. `same_node` counts the active pods of the set on each pod's node.
pub(super) fn deletion_order(a: (&Pod, usize), b: (&Pod, usize)) -> Ordering {
    let ((a, a_same_node), (b, b_same_node)) = (a, b);
    let assigned = |pod: &Pod| !pod.spec.node_name.is_empty();
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| a.is_ready().cmp(&b.is_ready()))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| b_same_node.cmp(&a_same_node))
        .then_with(|| b.ready_since().cmp(&a.ready_since()))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| b.metadata.created_at().cmp(&a.metadata.created_at()))
        .then_with(|| a.metadata.name.cmp(&b.metadata.name))
}

fn phase_rank(pod: &Pod) -> u8 {
    match pod.status.phase.as_str() {
        "Unknown" => 1,
        "Running" => 2,
        _ => 0,
    }
}

fn cost(pod: &Pod) -> i32 {
    pod.metadata
        .annotations
        .get(DELETION_COST)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn restarts(pod: &Pod) -> i64 {
    pod.status
        .container_statuses
        .iter()
        .map(|status| status.restart_count)
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(node: &str, phase: &str, ready_at: Option<&str>, more: Value) -> Pod {
        let conditions = match ready_at {
            Some(at) => json!([{"type": "Ready", "status": "True", "lastTransitionTime": at}]),
            None => json!([]),
        };
        let mut value = json!({
            "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": node}, "status": {"phase": phase, "conditions": conditions},
        });
        for (name, part) in more.as_object().unwrap() {
            value[name] = part.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn pods_go_in_kubernetes_order() {
        let (early, late) = (Some("2026-01-01T00:00:10Z"), Some("2026-01-01T00:10:00Z"));
        let costly = |cost: &str| json!({"metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {DELETION_COST: cost}}});
        let born = |at: &str| json!({"metadata": {"name": "p", "creationTimestamp": at}});
        // Each line: what goes first, and what stays longer.
        type Ranked = (Pod, usize);
        let cases: Vec<(&str, Ranked, Ranked)> = vec![
            (
                "unassigned",
                (pod("", "Pending", None, json!({})), 0),
                (pod("n", "Pending", None, json!({})), 1),
            ),
            (
                "pending",
                (pod("n", "Pending", None, json!({})), 1),
                (pod("n", "Running", None, json!({})), 1),
            ),
            (
                "not ready",
                (pod("n", "Running", None, json!({})), 1),
                (pod("n", "Running", early, json!({})), 1),
            ),
            (
                "cheap",
                (pod("n", "Running", early, costly("-5")), 1),
                (pod("n", "Running", late, costly("0")), 1),
            ),
            (
                "crowded",
                (pod("n", "Running", early, json!({})), 3),
                (pod("m", "Running", late, json!({})), 1),
            ),
            (
                "ready lately",
                (pod("n", "Running", late, json!({})), 1),
                (pod("n", "Running", early, json!({})), 1),
            ),
            (
                "younger",
                (pod("n", "Running", None, born("2026-01-01T01:00:00Z")), 1),
                (pod("n", "Running", None, born("2026-01-01T00:00:00Z")), 1),
            ),
        ];
        for (name, first, second) in cases {
            assert_eq!(
                deletion_order((&first.0, first.1), (&second.0, second.1)),
                Ordering::Less,
                "{name}"
            );
            assert_eq!(
                deletion_order((&second.0, second.1), (&first.0, first.1)),
                Ordering::Greater,
                "{name}"
            );
        }
    }
}
