//! DefaultBinder (Bind): a pod is bound by writing `spec.nodeName`. A plugin that binds otherwise comes before it in its profile,
//! or takes its place. What the API server's admission plugin PodTopologyLabels adds at a binding (KEP-4742) is part of it, since
//! these bindings do not come by the API: the labels of the node's zone and region are put on the pod.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::cluster::Cluster;
use crate::decision::BindMethod;
use crate::framework::{Assignment, EventKinds, Plugin, Reads};
use crate::pod::PodSignature;

/// The labels that a pod takes over from its node.
const TOPOLOGY_LABELS: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

/// The plugin.
pub struct DefaultBinder;

impl Plugin for DefaultBinder {
    fn name(&self) -> &'static str {
        "DefaultBinder"
    }

    fn hears(&self) -> EventKinds {
        EventKinds::NONE
    }

    fn reads(&self, _cluster: &Cluster, _signature: &PodSignature) -> Reads {
        Reads::NOTHING
    }

    fn bind(&self, cluster: &Cluster, assignment: Assignment) -> Option<BindMethod> {
        let labels = &cluster.node(assignment.node).reading.labels;
        let mut put = Map::new();
        for name in TOPOLOGY_LABELS {
            let known = cluster.symbols.lookup(name);
            let label = known.and_then(|name| labels.iter().find(|(key, _)| *key == name));
            if let Some((_, value)) = label {
                put.insert(name.to_owned(), Value::from(&**cluster.symbols.text(*value)));
            }
        }
        if put.is_empty() {
            return Some(BindMethod::NodeName);
        }
        Some(BindMethod::Patch(Arc::new(json!({"metadata": {"labels": put}}))))
    }
}
