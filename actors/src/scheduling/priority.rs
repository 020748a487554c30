//! The priority of pods that only name a class. Kubernetes resolves the name when a pod is created; here the scheduler does
//! it, since only it reads priorities, and writes the numbers with the binding. So pods that controllers make need no
//! second reading of the classes. Pure; called by the desk.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use protocol::{Key, Object};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::kind::{ObserveError, read};
use crate::ownership;

/// The priority classes.
#[derive(Default)]
pub(super) struct PriorityClasses {
    classes: BTreeMap<Arc<str>, Class>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
struct Class {
    value: i32,
    global_default: bool,
    preemption_policy: Option<String>,
}

/// What a pod's class gives it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Resolved {
    priority: i32,
    preemption_policy: Option<String>,
}

impl PriorityClasses {
    /// Takes note of a class. Returns whether pods may have another priority now.
    pub fn observe(&mut self, key: &Key, object: Option<&Arc<Object>>) -> Result<bool, ObserveError> {
        let class = match object {
            Some(object) => Some(read::<Class>(key, object)?),
            None => None,
        };
        if self.classes.get(&key.name) == class.as_ref() {
            return Ok(false);
        }
        match class {
            Some(class) => self.classes.insert(Arc::clone(&key.name), class),
            None => self.classes.remove(&key.name),
        };
        Ok(true)
    }

    /// What a pod without a priority of its own gets: from its class, or from the default one. `None` for one that has a
    /// priority, or whose class does not exist.
    pub fn resolve(&self, spec: &core::PodSpec) -> Option<Resolved> {
        if spec.priority.is_some() {
            return None;
        }
        let class = match spec.priority_class_name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => self.classes.get(name)?,
            // Of several defaults, the lowest counts.
            None => self
                .classes
                .values()
                .filter(|class| class.global_default)
                .min_by_key(|class| class.value)?,
        };
        let own = spec.preemption_policy.clone();
        Some(Resolved {
            priority: class.value,
            preemption_policy: own.or_else(|| class.preemption_policy.clone()),
        })
    }
}

impl Resolved {
    /// The pod with its priority, as the scheduler sees it.
    pub fn apply(&self, spec: &mut core::PodSpec) {
        spec.priority = Some(self.priority);
        spec.preemption_policy.clone_from(&self.preemption_policy);
    }

    /// The members of the spec that say the same in the object that is written.
    pub fn members(&self) -> impl Iterator<Item = (&'static str, Value)> {
        let policy = self.preemption_policy.as_ref();
        let policy = policy.map(|policy| ("preemptionPolicy", json!(policy)));
        [("priority", json!(self.priority))].into_iter().chain(policy)
    }

    /// The object that is written, with them.
    pub fn write(&self, pod: &mut Value) {
        let spec = ownership::member(pod, "spec");
        spec.extend(self.members().map(|(name, value)| (name.to_owned(), value)));
    }

    #[cfg(test)]
    pub fn for_test(priority: i32, preemption_policy: Option<&str>) -> Resolved {
        Resolved {
            priority,
            preemption_policy: preemption_policy.map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ownership::tests::stored;

    #[test]
    fn a_class_gives_its_priority_to_pods_that_have_none() {
        let mut classes = PriorityClasses::default();
        let mut show = |name: &str, value: Value| {
            let mut value = value;
            value["metadata"] = json!({"name": name, "uid": name});
            let key = Key::new(super::super::feed::PRIORITY_CLASSES, "", name);
            classes.observe(&key, Some(&stored(value, 1))).unwrap()
        };
        assert!(show("high", json!({"value": 1000, "preemptionPolicy": "Never"})));
        assert!(
            !show("high", json!({"value": 1000, "preemptionPolicy": "Never"})),
            "nothing new"
        );
        show("usual", json!({"value": 7, "globalDefault": true}));
        show("usual-too", json!({"value": 9, "globalDefault": true}));
        for (spec, expected) in [
            (json!({"priorityClassName": "high"}), Some((1000, Some("Never")))),
            (
                json!({"priorityClassName": "high", "preemptionPolicy": "PreemptLowerPriority"}),
                Some((1000, Some("PreemptLowerPriority"))),
            ),
            (json!({}), Some((7, None))),
            (json!({"priorityClassName": "high", "priority": 3}), None),
            (json!({"priorityClassName": "none"}), None),
        ] {
            let mut spec = spec;
            spec["containers"] = json!([]);
            let spec: core::PodSpec = serde_json::from_value(spec).unwrap();
            let resolved = classes.resolve(&spec);
            let shown = resolved.as_ref().map(|r| (r.priority, r.preemption_policy.as_deref()));
            assert_eq!(shown, expected, "{spec:?}");
        }
    }
}
