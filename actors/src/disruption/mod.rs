//! The actor of a PodDisruptionBudget: counts the pods that it covers, and keeps in its status how many of them may be
//! disrupted. Evictions and the scheduler's preemption go by that status. Supervised by the router's directory (permanent,
//! back-off per object). It never disrupts a pod itself.
//!
//! Invariant: whenever the number of wanted pods cannot be told, the status allows no disruption.

mod decide;

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::selector::LabelSelector;
use protocol::{Key, Object, OwnerReference, Uid, UnixMillis};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::effects::Effects;
use crate::kind::{Event, ObjectKind, ObserveError, read};
use crate::reading;

/// What the actor knows.
pub struct DisruptionBudget {
    key: Key,
    own: Option<Own>,
    pods: BTreeMap<Key, Pod>,
    /// The controllers of its pods, and theirs.
    controllers: BTreeMap<Key, Controller>,
}

struct Own {
    object: Arc<Object>,
    value: Value,
    reading: BudgetReading,
    /// `None` selects nothing; one without requirements selects every pod of the namespace.
    selector: Option<LabelSelector>,
}

struct Pod {
    object: Arc<Object>,
    reading: reading::Pod,
}

/// An object that keeps a number of pods, as far as it is read.
struct Controller {
    uid: Uid,
    /// What `spec.replicas` wants; `None` for a kind that has no such number.
    replicas: Option<i64>,
    above: Option<OwnerReference>,
}

/// A PodDisruptionBudget, as its actor reads it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct BudgetReading {
    metadata: reading::Metadata,
    spec: BudgetSpec,
    status: BudgetStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct BudgetSpec {
    min_available: Value,
    max_unavailable: Value,
    selector: Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct BudgetStatus {
    disrupted_pods: BTreeMap<String, String>,
    current_healthy: i64,
    desired_healthy: i64,
    disruptions_allowed: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Scaled {
    spec: ScaledSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ScaledSpec {
    replicas: Option<i64>,
}

impl DisruptionBudget {
    /// An actor that knows nothing so far.
    pub fn new(key: Key) -> DisruptionBudget {
        DisruptionBudget {
            key,
            own: None,
            pods: BTreeMap::new(),
            controllers: BTreeMap::new(),
        }
    }
}

impl ObjectKind for DisruptionBudget {
    fn observe(&mut self, key: &Key, object: Option<&Arc<Object>>) -> Result<(), ObserveError> {
        match object {
            Some(object) if *key == self.key => {
                let reading: BudgetReading = read(key, object)?;
                let selector = &reading.spec.selector;
                // What cannot be parsed selects nothing; validation has refused it.
                let selector = selector.is_object().then(|| LabelSelector::from_value(selector).ok());
                self.own = Some(Own {
                    object: Arc::clone(object),
                    value: read(key, object)?,
                    selector: selector.flatten(),
                    reading,
                });
            }
            None if *key == self.key => self.own = None,
            Some(object) if key.resource.as_str() == "pods" => {
                let (object, reading) = (Arc::clone(object), read(key, object)?);
                self.pods.insert(key.clone(), Pod { object, reading });
            }
            Some(object) => {
                let scaled: Scaled = read(key, object)?;
                let controller = Controller {
                    uid: object.header.uid.clone(),
                    replicas: scaled.spec.replicas.or_else(|| decide::replicas_when_absent(key)),
                    above: object.header.controller().cloned(),
                };
                self.controllers.insert(key.clone(), controller);
            }
            None => {
                self.pods.remove(key);
                self.controllers.remove(key);
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
        let status = &own.reading.status;
        format!(
            "{} healthy, {} needed, {} may be disrupted",
            status.current_healthy, status.desired_healthy, status.disruptions_allowed
        )
    }

    fn inspect(&self) -> Value {
        json!({
            "key": self.key.to_string(), "object": self.own.as_ref().map(|own| &own.value),
            "pods": self.pods.keys().map(ToString::to_string).collect::<Vec<_>>(),
            "controllers": self.controllers.keys().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }
}
