//! The control plane's actor of a Node: its readiness when the machine is gone, its taints, and the eviction of pods that
//! do not tolerate them. It is supervised by the router's directory (permanent, back-off per object). The machine's own
//! agent registers the Node and writes its status while it lives; this actor writes status only about a machine that the
//! membership calls down.
//!
//! Invariants: a pod is only marked for deletion here, never removed: what runs on a machine that cannot be reached still
//! runs. Taints are those of the Ready condition, whoever wrote it; the one that drives pods away is added by `brake`,
//! which sees all nodes, and taken off here.

pub mod brake;
mod decide;
pub(crate) mod eviction;
pub mod pod_cidrs;

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::{Key, Object, UnixMillis};
use serde_json::{Value, json};

use crate::effects::Effects;
use crate::kind::{Event, Liveness, ObjectKind, ObserveError, read};
use crate::reading;

/// What a cluster's operator may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSettings {
    /// How long a pod without an explicit toleration stays on a node that is not reachable, in seconds.
    pub default_toleration_seconds: u64,
    /// The same on a node that is reachable and says that it is not ready, in seconds: its pods still run, so a short
    /// trouble of the node must not cost them their place.
    pub not_ready_toleration_seconds: u64,
    /// A node of which the membership never said anything counts as down after so many milliseconds; `None` trusts its
    /// Ready condition for ever, as simulated nodes need it.
    pub unheard_after_ms: Option<u64>,
    /// The time between two silent nodes of one zone whose pods are driven away, in milliseconds. Kubernetes takes ten
    /// seconds (`--node-eviction-rate`); here it is one, as a lost node's pods are to run elsewhere soon.
    pub eviction_interval_ms: u64,
    /// The same while most of a large zone is silent (`--secondary-node-eviction-rate`).
    pub secondary_eviction_interval_ms: u64,
    /// The share of silent nodes, in per cent, from which on a zone is disrupted (`--unhealthy-zone-threshold`).
    pub unhealthy_zone_threshold_percent: u64,
    /// A zone of more nodes is large; a smaller one that is disrupted is left alone (`--large-cluster-size-threshold`).
    pub large_zone_nodes: usize,
}

impl Default for NodeSettings {
    fn default() -> Self {
        NodeSettings {
            default_toleration_seconds: 1,
            not_ready_toleration_seconds: 300,
            unheard_after_ms: Some(40_000),
            eviction_interval_ms: 1_000,
            secondary_eviction_interval_ms: 100_000,
            unhealthy_zone_threshold_percent: 55,
            large_zone_nodes: 50,
        }
    }
}

/// What the actor knows.
pub struct Node {
    key: Key,
    settings: NodeSettings,
    own: Option<Own>,
    liveness: Option<Liveness>,
    unheard: bool,
    pods: BTreeMap<Key, Pod>,
}

/// Its own object.
struct Own {
    object: Arc<Object>,
    value: Value,
    reading: reading::Node,
}

/// A pod that is bound to it.
struct Pod {
    object: Arc<Object>,
    reading: reading::Pod,
}

impl Node {
    /// An actor that knows nothing so far.
    pub fn new(key: Key, settings: NodeSettings) -> Node {
        Node {
            key,
            settings,
            own: None,
            liveness: None,
            unheard: false,
            pods: BTreeMap::new(),
        }
    }
}

impl ObjectKind for Node {
    fn observe(&mut self, key: &Key, object: Option<&Arc<Object>>) -> Result<(), ObserveError> {
        match object {
            Some(object) if *key == self.key => {
                let (value, reading) = (read(key, object)?, read(key, object)?);
                self.own = Some(Own {
                    object: Arc::clone(object),
                    value,
                    reading,
                });
            }
            None if *key == self.key => self.own = None,
            Some(object) if key.resource.as_str() == "pods" => {
                let reading: reading::Pod = read(key, object)?;
                if reading.spec.node_name == *self.key.name {
                    self.pods.insert(
                        key.clone(),
                        Pod {
                            object: Arc::clone(object),
                            reading,
                        },
                    );
                }
            }
            _ => {
                self.pods.remove(key);
            }
        }
        Ok(())
    }

    fn decide(&mut self, now: UnixMillis, event: Event, effects: &mut Effects) {
        decide::decide(self, now, event, effects);
    }

    fn summary(&self) -> String {
        let Some(own) = &self.own else {
            return "deleted".to_owned();
        };
        let ready = match reading::condition(&own.reading.status.conditions, "Ready").map(|ready| &*ready.status) {
            Some("True") => "ready",
            Some("Unknown") => "unreachable",
            _ => "not ready",
        };
        format!("{ready}, {} pods", self.pods.len())
    }

    fn inspect(&self) -> Value {
        json!({
            "key": self.key.to_string(), "object": self.own.as_ref().map(|own| &own.value),
            "liveness": format!("{:?}", self.liveness), "pods": self.pods.keys().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }
}
