//! Gives every Node its `spec.podCIDR`. One actor for all nodes, because a range is only unique if one decision sees all
//! that are taken. Each group that it writes also writes a ConfigMap that counts its rounds: two activations, during a
//! fail-over, exclude each other by it. Supervised by the router's directory; its slot is that ConfigMap's key.
//!
//! Invariant: no two nodes have overlapping ranges. A node keeps its range for its whole life.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::{Key, Object, Resource, UnixMillis};
use serde_json::{Value, json};

use crate::addresses::Ipv4Range;
use crate::effects::{Effects, Intent, Note, Regarding, Severity};
use crate::kind::{Event, ObjectKind, ObserveError, read};
use crate::ownership;
use crate::reading;

/// Nodes that one round serves.
const NODES_MAX: usize = 100;
const COUNTER: &str = "round";

/// The key of the ConfigMap.
pub fn key() -> Key {
    Key::new("configmaps", "kube-system", "node-pod-cidrs")
}

/// What the actor knows.
pub struct PodCidrs {
    cluster: Ipv4Range,
    node_prefix: u8,
    counter: Option<Arc<Object>>,
    nodes: BTreeMap<Key, (Arc<Object>, reading::Node)>,
    /// Nodes that were told that nothing is left.
    refused: BTreeSet<Key>,
}

impl PodCidrs {
    /// An actor that knows nothing so far. `cluster` is cut into ranges of `node_prefix` bits.
    pub fn new(cluster: Ipv4Range, node_prefix: u8) -> PodCidrs {
        PodCidrs {
            cluster,
            node_prefix,
            counter: None,
            nodes: BTreeMap::new(),
            refused: BTreeSet::new(),
        }
    }

    fn counter_write(&self, counted: usize) -> Option<Intent> {
        match &self.counter {
            None => {
                let value = json!({
                    "apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": &*key().name, "namespace": "kube-system"}, "data": {COUNTER: counted.to_string()},
                });
                Some(Intent::Create {
                    resource: Resource::new("configmaps"),
                    namespace: "kube-system".into(),
                    value,
                })
            }
            Some(base) => {
                let mut value = base.value().ok()?;
                let former = value["data"][COUNTER]
                    .as_str()
                    .and_then(|text| text.parse::<u64>().ok())
                    .unwrap_or(0);
                ownership::member(&mut value, "data")
                    .insert(COUNTER.into(), json!((former + counted as u64).to_string()));
                Some(Intent::Update {
                    key: key(),
                    base: Arc::clone(base),
                    value,
                })
            }
        }
    }
}

impl ObjectKind for PodCidrs {
    fn observe(&mut self, seen: &Key, object: Option<&Arc<Object>>) -> Result<(), ObserveError> {
        match object {
            _ if *seen == key() => self.counter = object.cloned(),
            Some(object) if seen.resource.as_str() == "nodes" => {
                self.nodes
                    .insert(seen.clone(), (Arc::clone(object), read(seen, object)?));
            }
            _ => {
                self.nodes.remove(seen);
                self.refused.remove(seen);
            }
        }
        Ok(())
    }

    fn decide(&mut self, _: UnixMillis, _: Event, effects: &mut Effects) {
        let parse = |(_, node): &(Arc<Object>, reading::Node)| Ipv4Range::parse(&node.spec.pod_cidr).ok();
        let mut taken: BTreeSet<Ipv4Range> = self.nodes.values().filter_map(parse).collect();
        let mut group = Vec::new();
        let needy = self
            .nodes
            .iter()
            .filter(|(_, (object, node))| node.spec.pod_cidr.is_empty() && !object.header.deleting);
        for (key, (object, node)) in needy.take(NODES_MAX) {
            match self.cluster.free_part(self.node_prefix, &taken) {
                Ok(part) => {
                    taken.insert(part);
                    let Ok(mut value) = object.value() else { continue };
                    let spec = ownership::member(&mut value, "spec");
                    spec.insert("podCIDR".into(), json!(part.to_string()));
                    spec.insert("podCIDRs".into(), json!([part.to_string()]));
                    group.push(Intent::Update {
                        key: key.clone(),
                        base: Arc::clone(object),
                        value,
                    });
                }
                Err(error) => {
                    if self.refused.insert(key.clone()) {
                        effects.notes.push(refusal(node, error.to_string()));
                    }
                }
            }
        }
        if group.is_empty() {
            return;
        }
        if let Some(counter) = self.counter_write(group.len()) {
            // Last: who sees the counter, by events in order, has seen the ranges that it counts.
            group.push(counter);
            effects.write(group);
        }
    }

    fn summary(&self) -> String {
        let served = self
            .nodes
            .values()
            .filter(|(_, node)| !node.spec.pod_cidr.is_empty())
            .count();
        format!("{served}/{} nodes have a range of {}", self.nodes.len(), self.cluster)
    }

    fn inspect(&self) -> Value {
        let ranges: BTreeMap<&str, &str> = self
            .nodes
            .values()
            .map(|(_, node)| (node.metadata.name.as_str(), node.spec.pod_cidr.as_str()))
            .collect();
        json!({ "cluster": self.cluster.to_string(), "nodePrefix": self.node_prefix, "ranges": ranges })
    }
}

fn refusal(node: &reading::Node, message: String) -> Note {
    Note {
        regarding: Regarding::new("v1", "Node", &node.metadata),
        severity: Severity::Warning,
        reason: "CIDRNotAvailable",
        message,
        component: "cidrAllocator",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ownership::tests::stored;

    fn node(name: &str, cidr: &str) -> (Key, Arc<Object>) {
        let value = json!({"metadata": {"name": name, "uid": name}, "spec": {"podCIDR": cidr}});
        (Key::new("nodes", "", name), stored(value, 1))
    }

    fn decided(cluster: &str, nodes: &[(&str, &str)]) -> Effects {
        let mut state = PodCidrs::new(Ipv4Range::parse(cluster).unwrap(), 24);
        for (name, cidr) in nodes {
            let (key, object) = node(name, cidr);
            state.observe(&key, Some(&object)).unwrap();
        }
        let mut effects = Effects::default();
        state.decide(UnixMillis(0), Event::Changed, &mut effects);
        effects
    }

    #[test]
    fn nodes_without_a_range_get_free_ones_in_one_group_with_the_counter() {
        let effects = decided("10.244.0.0/16", &[("a", ""), ("b", "10.244.0.0/24"), ("c", "")]);
        let given: Vec<(String, String)> = effects.groups[0][..2]
            .iter()
            .map(|intent| match intent {
                Intent::Update { key, value, .. } => (
                    key.name.to_string(),
                    value["spec"]["podCIDR"].as_str().unwrap().to_owned(),
                ),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            given,
            [
                ("a".into(), "10.244.1.0/24".into()),
                ("c".into(), "10.244.2.0/24".into())
            ]
        );
        assert!(matches!(&effects.groups[0][2], Intent::Create { resource, .. } if resource.as_str() == "configmaps"));
        assert!(decided("10.244.0.0/16", &[("b", "10.244.0.0/24")]).writes_nothing());
    }

    #[test]
    fn a_node_for_which_nothing_is_left_is_told_once() {
        let effects = decided("10.244.0.0/24", &[("a", ""), ("b", "10.244.0.0/24")]);
        assert!(effects.writes_nothing());
        assert_eq!((effects.notes.len(), effects.notes[0].reason), (1, "CIDRNotAvailable"));
    }
}
