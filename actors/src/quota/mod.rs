//! The actor of a ResourceQuota: counts what its namespace holds and keeps `status` at that. Creations are charged by
//! admission in their own transaction; this actor takes back what has gone, and counts what was there before the quota.
//! Supervised by the router's directory (permanent).
//!
//! Invariant: a count is written only over the quota that it was made from, and a creation's charge has a later revision
//! than its object: what is counted is never less than what the quota's revision stands for.

use std::collections::BTreeMap;
use std::sync::Arc;

use admission::resource_quota::{selects, sum, usage_of, usage_of_custom};
use api::kinds::find_by_resource;
use protocol::quantity::Quantity;
use protocol::{Key, Object, UnixMillis};
use serde_json::{Value, json};

use crate::effects::{Effects, Intent};
use crate::kind::{Event, ObjectKind, ObserveError, read};

/// What the actor knows.
pub struct ResourceQuota {
    key: Key,
    own: Option<(Arc<Object>, Value)>,
    /// What each object of the namespace uses.
    usage: BTreeMap<Key, BTreeMap<String, Quantity>>,
}

impl ResourceQuota {
    /// An actor that knows nothing so far.
    pub fn new(key: Key) -> ResourceQuota {
        ResourceQuota {
            key,
            own: None,
            usage: BTreeMap::new(),
        }
    }
}

impl ObjectKind for ResourceQuota {
    fn observe(&mut self, key: &Key, object: Option<&Arc<Object>>) -> Result<(), ObserveError> {
        let Some(object) = object else {
            self.usage.remove(key);
            if *key == self.key {
                self.own = None;
            }
            return Ok(());
        };
        let value = read::<Value>(key, object)?;
        // A quota's scopes do not change, and it is observed before the objects of its namespace.
        let counted = find_by_resource(&key.resource).filter(|kind| {
            let quota = if *key == self.key {
                Some(&value)
            } else {
                self.own.as_ref().map(|(_, quota)| quota)
            };
            quota.is_some_and(|quota| selects(quota, kind, &value))
        });
        let is_custom = *key != self.key && find_by_resource(&key.resource).is_none();
        match counted {
            Some(kind) => self.usage.insert(key.clone(), usage_of(kind, &value)),
            None if is_custom => {
                let quota = self.own.as_ref().map_or(&Value::Null, |(_, quota)| quota);
                self.usage.insert(key.clone(), usage_of_custom(quota, &key.resource))
            }
            None => self.usage.remove(key),
        };
        if *key == self.key {
            self.own = Some((Arc::clone(object), value));
        }
        Ok(())
    }

    fn decide(&mut self, _: UnixMillis, _: Event, effects: &mut Effects) {
        let Some((object, value)) = &self.own else { return };
        if object.header.deleting {
            return;
        }
        let hard = &value["spec"]["hard"];
        let used = sum(hard, self.usage.values());
        let status = json!({"hard": hard, "used": used});
        if value["status"]["hard"] == status["hard"] && value["status"]["used"] == status["used"] {
            return;
        }
        let mut value = value.clone();
        value["status"] = status;
        effects.write_one(Intent::Update {
            key: self.key.clone(),
            base: Arc::clone(object),
            value,
        });
    }

    fn summary(&self) -> String {
        match &self.own {
            None => "deleted".to_owned(),
            Some((_, value)) => format!("used {}", value["status"]["used"]),
        }
    }

    fn inspect(&self) -> Value {
        json!({
            "key": self.key.to_string(), "object": self.own.as_ref().map(|(_, value)| value),
            "counted": self.usage.keys().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ownership::tests::stored;

    fn pod(name: &str, phase: &str) -> (Key, Arc<Object>) {
        let value = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "d", "uid": name},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "250m"}}}]}, "status": {"phase": phase},
        });
        (Key::new("pods", "d", name), stored(value, 5))
    }

    fn actor(used: Value) -> ResourceQuota {
        let key = Key::new("resourcequotas", "d", "q");
        let mut actor = ResourceQuota::new(key.clone());
        let quota = json!({
            "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "d", "uid": "q"},
            "spec": {"hard": {"pods": "4", "requests.cpu": "2"}},
            "status": {"hard": {"pods": "4", "requests.cpu": "2"}, "used": used},
        });
        actor.observe(&key, Some(&stored(quota, 3))).unwrap();
        actor
    }

    fn written(actor: &mut ResourceQuota) -> Option<Value> {
        let mut effects = Effects::default();
        actor.decide(UnixMillis(0), Event::Changed, &mut effects);
        match effects.groups.pop()?.pop()? {
            Intent::Update { value, .. } => Some(value["status"]["used"].clone()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_has_gone_or_ended_is_taken_back() {
        let mut actor = actor(json!({"pods": "3", "requests.cpu": "750m"}));
        for (key, object) in [pod("a", "Running"), pod("b", "Succeeded"), pod("c", "Pending")] {
            actor.observe(&key, Some(&object)).unwrap();
        }
        assert_eq!(
            written(&mut actor),
            Some(json!({"pods": "2", "requests.cpu": "500m"})),
            "b has ended"
        );
        actor.observe(&pod("a", "Running").0, None).unwrap();
        assert_eq!(written(&mut actor), Some(json!({"pods": "1", "requests.cpu": "250m"})));
    }

    #[test]
    fn a_right_count_is_left_alone_and_a_missing_one_is_made() {
        let mut right = actor(json!({"pods": "1", "requests.cpu": "250m"}));
        let (key, object) = pod("a", "Running");
        right.observe(&key, Some(&object)).unwrap();
        assert_eq!(written(&mut right), None);
        assert_eq!(
            written(&mut actor(Value::Null)),
            Some(json!({"pods": "0", "requests.cpu": "0"}))
        );
    }
}
