//! PodTopologyLabels (KEP-4742): a pod is told by labels in which zone and region its node is. It changes the pod at its binding;
//! the scheduler's own bindings, which do not come by the API, follow the same table.

use api::access::{Access, object_mut};
use serde_json::Value;

/// The labels that a pod takes over from its node.
pub const LABELS: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

/// Puts the labels of a pod's node on the pod, over what it says itself.
pub fn put(pod: &mut Value, node: &Value) {
    let told = node.at(&["metadata", "labels"]);
    for name in LABELS {
        let text = told.text(name);
        if !text.is_empty() {
            object_mut(object_mut(pod, "metadata"), "labels")[name] = text.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_is_where_its_node_is() {
        let node = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "a", "other": "x"}}});
        let mut pod = json!({"metadata": {"labels": {"app": "w", "topology.kubernetes.io/zone": "guess"}}});
        put(&mut pod, &node);
        assert_eq!(
            pod["metadata"]["labels"],
            json!({"app": "w", "topology.kubernetes.io/zone": "a"})
        );
        let mut bare = json!({"metadata": {}});
        put(&mut bare, &json!({"metadata": {}}));
        assert_eq!(bare, json!({"metadata": {}}));
    }
}
