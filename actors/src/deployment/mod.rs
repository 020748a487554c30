//! The actor of a Deployment: makes one ReplicaSet per pod template and moves pods from the old ones to the newest. It is
//! supervised by the router's directory (permanent, back-off per object), owns its ReplicaSets, and alone writes its
//! status. It never touches a pod: its ReplicaSets do.
//!
//! Invariants: the sum of the ReplicaSets' wanted pods never exceeds replicas plus maxSurge; old pods are taken away only
//! as far as maxUnavailable allows. Every change of a ReplicaSet is fenced by the Deployment's own revision.

mod decide;
mod progress;
mod revision;
mod scale;
mod template;

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::selector::LabelSelector;
use protocol::{Key, Object, UnixMillis};
use serde_json::{Value, json};

use crate::effects::Effects;
use crate::kind::{Event, ObjectKind, ObserveError, read};
use crate::reading;

/// What the actor knows.
pub struct Deployment {
    key: Key,
    own: Option<Own>,
    replica_sets: BTreeMap<Key, Set>,
}

/// Its own object.
struct Own {
    object: Arc<Object>,
    value: Value,
    reading: reading::Deployment,
    selector: LabelSelector,
}

/// A ReplicaSet that it owns, that its selector matches, or whose name it might want.
struct Set {
    key: Key,
    object: Arc<Object>,
    value: Value,
    reading: reading::ReplicaSet,
}

impl Deployment {
    /// An actor that knows nothing so far.
    pub fn new(key: Key) -> Deployment {
        Deployment {
            key,
            own: None,
            replica_sets: BTreeMap::new(),
        }
    }
}

impl ObjectKind for Deployment {
    fn observe(&mut self, key: &Key, object: Option<&Arc<Object>>) -> Result<(), ObserveError> {
        match object {
            Some(object) if *key == self.key => {
                let reading: reading::Deployment = read(key, object)?;
                let selector = LabelSelector::from_value(&reading.spec.selector).unwrap_or_default();
                self.own = Some(Own {
                    object: Arc::clone(object),
                    value: read(key, object)?,
                    reading,
                    selector,
                });
            }
            None if *key == self.key => self.own = None,
            Some(object) if key.resource.as_str() == "replicasets.apps" => {
                let set = Set {
                    key: key.clone(),
                    object: Arc::clone(object),
                    value: read(key, object)?,
                    reading: read(key, object)?,
                };
                self.replica_sets.insert(key.clone(), set);
            }
            _ => {
                self.replica_sets.remove(key);
            }
        }
        Ok(())
    }

    fn decide(&mut self, now: UnixMillis, event: Event, effects: &mut Effects) {
        decide::decide(self, now, event, effects);
    }

    fn summary(&self) -> String {
        match &self.own {
            Some(own) => {
                let status = &own.reading.status;
                let wanted = own.reading.spec.replicas.unwrap_or(1);
                format!(
                    "{}/{wanted} ready, {} up to date",
                    status.ready_replicas, status.updated_replicas
                )
            }
            None => "deleted".to_owned(),
        }
    }

    fn inspect(&self) -> Value {
        let sets: Vec<Value> = self
            .replica_sets
            .values()
            .map(|set| {
                json!({
                    "name": set.reading.metadata.name, "replicas": set.reading.replicas(),
                    "ready": set.reading.status.ready_replicas, "available": set.reading.status.available_replicas,
                    "revision": set.reading.metadata.annotations.get(revision::REVISION),
                })
            })
            .collect();
        json!({ "key": self.key.to_string(), "object": self.own.as_ref().map(|own| &own.value), "replicaSets": sets })
    }

    fn why(&self) -> String {
        let conditions = self
            .own
            .as_ref()
            .map(|own| own.reading.status.conditions.as_slice())
            .unwrap_or_default();
        let lines = conditions
            .iter()
            .map(|c| format!("{}={}: {} {}", c.kind, c.status, c.reason, c.message));
        lines.collect::<Vec<_>>().join("\n")
    }
}
