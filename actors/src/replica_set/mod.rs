//! The actor of a ReplicaSet: keeps as many active pods as its spec says. It is supervised by the router's directory
//! (permanent, back-off per object), owns the pods that its controller reference names, and alone writes its status.
//!
//! Invariants: pods are created and deleted only in one atomic group with a change of its own status, so that
//! two activations never both act on the same state; that status is the group's last write; a pod of another controller is never touched.

mod decide;
mod ranking;

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::selector::LabelSelector;
use protocol::{Key, Object, UnixMillis};
use serde_json::{Value, json};

use crate::effects::Effects;
use crate::kind::{Event, ObjectKind, ObserveError, read};
use crate::reading;

/// What the actor knows.
pub struct ReplicaSet {
    key: Key,
    own: Option<Own>,
    pods: BTreeMap<Key, Pod>,
}

/// Its own object.
struct Own {
    object: Arc<Object>,
    value: Value,
    reading: reading::ReplicaSet,
    selector: LabelSelector,
}

/// A pod that it owns, or that its selector matches.
struct Pod {
    object: Arc<Object>,
    reading: reading::Pod,
}

impl ReplicaSet {
    /// An actor that knows nothing so far.
    pub fn new(key: Key) -> ReplicaSet {
        ReplicaSet {
            key,
            own: None,
            pods: BTreeMap::new(),
        }
    }
}

impl ObjectKind for ReplicaSet {
    fn observe(&mut self, key: &Key, object: Option<&Arc<Object>>) -> Result<(), ObserveError> {
        match object {
            Some(object) if *key == self.key => {
                let value: Value = read(key, object)?;
                let reading: reading::ReplicaSet = read(key, object)?;
                let selector = LabelSelector::from_value(&reading.spec.selector).unwrap_or_default();
                self.own = Some(Own {
                    object: Arc::clone(object),
                    value,
                    reading,
                    selector,
                });
            }
            None if *key == self.key => self.own = None,
            Some(object) if key.resource.as_str() == "pods" => {
                let pod = Pod {
                    object: Arc::clone(object),
                    reading: read(key, object)?,
                };
                self.pods.insert(key.clone(), pod);
            }
            _ => {
                self.pods.remove(key);
            }
        }
        Ok(())
    }

    fn decide(&mut self, now: UnixMillis, _: Event, effects: &mut Effects) {
        decide::decide(self, now, effects);
    }

    fn summary(&self) -> String {
        match &self.own {
            Some(own) => format!("{}/{} ready", own.reading.status.ready_replicas, own.reading.replicas()),
            None => "deleted".to_owned(),
        }
    }

    fn inspect(&self) -> Value {
        let pods: Vec<Value> = self
            .pods
            .values()
            .map(|pod| {
                json!({
                    "name": pod.reading.metadata.name, "phase": pod.reading.status.phase,
                    "node": pod.reading.spec.node_name, "ready": pod.reading.is_ready(),
                    "deleting": pod.reading.is_deleting(),
                })
            })
            .collect();
        json!({ "key": self.key.to_string(), "object": self.own.as_ref().map(|own| &own.value), "pods": pods })
    }
}
