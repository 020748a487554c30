//! The control plane's actor of a Pod: what must be done when no machine does it. A pod's real actor lives on its node;
//! this one is only awake while the pod is being deleted without ever having been bound, or while its node does not exist.
//! Supervised by the router's directory (permanent, back-off per object).
//!
//! Invariant: a pod that is bound to an existing node is never removed here, whatever the state of that node: it may
//! still run there.

use std::sync::Arc;

use protocol::{Key, Object, UnixMillis};
use serde_json::{Value, json};

use crate::effects::{Effects, Intent};
use crate::kind::{Event, ObjectKind, ObserveError, read};
use crate::reading;

/// A pod whose node is absent waits so long, in milliseconds: the node may just be registering.
const QUARANTINE_MS: u64 = 10_000;
const QUARANTINE_TIMER: &str = "quarantine";

/// What the actor knows.
pub struct Pod {
    key: Key,
    own: Option<(Arc<Object>, reading::Pod)>,
    node_exists: bool,
}

impl Pod {
    /// An actor that knows nothing so far.
    pub fn new(key: Key) -> Pod {
        Pod {
            key,
            own: None,
            node_exists: false,
        }
    }
}

impl ObjectKind for Pod {
    fn observe(&mut self, key: &Key, object: Option<&Arc<Object>>) -> Result<(), ObserveError> {
        if *key == self.key {
            self.own = match object {
                Some(object) => Some((Arc::clone(object), read(key, object)?)),
                None => None,
            };
        } else if key.resource.as_str() == "nodes" {
            let bound_to = self.own.as_ref().map(|(_, pod)| pod.spec.node_name.as_str());
            if bound_to.is_none_or(|node| node == &*key.name) {
                self.node_exists = object.is_some();
            }
        }
        Ok(())
    }

    fn decide(&mut self, _: UnixMillis, event: Event, effects: &mut Effects) {
        let Some((object, pod)) = &self.own else { return };
        let bound = !pod.spec.node_name.is_empty();
        if bound && self.node_exists {
            return;
        }
        if !object.header.finalizers.is_empty() {
            return;
        }
        let due =
            !bound && pod.is_deleting() || bound && (pod.is_deleting() || event == Event::Timer(QUARANTINE_TIMER));
        if due {
            effects.write_one(Intent::Remove {
                key: self.key.clone(),
                revision: object.header.revision,
            });
        } else if bound && event == Event::Loaded {
            effects.timer(QUARANTINE_TIMER, QUARANTINE_MS);
        }
    }

    fn summary(&self) -> String {
        match &self.own {
            None => "deleted".to_owned(),
            Some((_, pod)) if pod.spec.node_name.is_empty() => "not bound".to_owned(),
            Some((_, pod)) if !self.node_exists => format!("its node {} does not exist", pod.spec.node_name),
            Some((_, pod)) => format!("{} on {}", pod.status.phase, pod.spec.node_name),
        }
    }

    fn inspect(&self) -> Value {
        let object = self.own.as_ref().and_then(|(object, _)| object.value().ok());
        json!({ "key": self.key.to_string(), "object": object, "nodeExists": self.node_exists })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ownership::tests::stored;

    fn decided(spec: Value, deleting: bool, finalizers: Value, node: bool, event: Event) -> Effects {
        let key = Key::new("pods", "default", "p");
        let mut value = json!({"metadata": {"name": "p", "uid": "u", "finalizers": finalizers}, "spec": spec});
        if deleting {
            value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let mut state = Pod::new(key.clone());
        state.observe(&key, Some(&stored(value, 3))).unwrap();
        let present = stored(json!({"metadata": {"name": "n", "uid": "n"}}), 1);
        state
            .observe(&Key::new("nodes", "", "n"), node.then_some(&present))
            .unwrap();
        let mut effects = Effects::default();
        state.decide(UnixMillis(0), event, &mut effects);
        effects
    }

    #[test]
    fn a_pod_is_removed_only_when_no_machine_can_run_it() {
        let (bound, unbound) = (json!({"nodeName": "n"}), json!({}));
        let cases = [
            (
                "deleted before it was bound",
                unbound.clone(),
                true,
                json!([]),
                false,
                Event::Loaded,
                true,
            ),
            (
                "not deleted, not bound",
                unbound.clone(),
                false,
                json!([]),
                false,
                Event::Loaded,
                false,
            ),
            (
                "held by a finalizer",
                unbound,
                true,
                json!(["x/y"]),
                false,
                Event::Loaded,
                false,
            ),
            (
                "deleted, on a live node",
                bound.clone(),
                true,
                json!([]),
                true,
                Event::Loaded,
                false,
            ),
            (
                "deleted, node gone",
                bound.clone(),
                true,
                json!([]),
                false,
                Event::Loaded,
                true,
            ),
            (
                "node gone, in quarantine",
                bound.clone(),
                false,
                json!([]),
                false,
                Event::Loaded,
                false,
            ),
            (
                "node gone for long",
                bound.clone(),
                false,
                json!([]),
                false,
                Event::Timer(QUARANTINE_TIMER),
                true,
            ),
            (
                "node came in time",
                bound,
                false,
                json!([]),
                true,
                Event::Timer(QUARANTINE_TIMER),
                false,
            ),
        ];
        for (name, spec, deleting, finalizers, node, event, removed) in cases {
            let effects = decided(spec, deleting, finalizers, node, event);
            assert_eq!(!effects.writes_nothing(), removed, "{name}");
        }
    }
}
