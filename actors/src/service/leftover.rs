//! The actor of an Endpoints object whose Service is gone: it removes it. It is only awake for such objects: the router's
//! index wakes it when a Service ends, and at the control plane's start, where the Service may have ended unseen. Endpoints
//! that are made before their Service are left alone, as Kubernetes leaves them. Supervised by the router's directory
//! (permanent, back-off per object).
//!
//! Invariant: Endpoints whose Service exists are never removed here.

use std::sync::Arc;

use protocol::{Key, Object, UnixMillis};
use serde_json::{Value, json};

use crate::effects::{Effects, Intent};
use crate::kind::{Event, ObjectKind, ObserveError};

/// Older leader elections keep their lock in an Endpoints object, which has no Service.
pub(crate) const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

/// What the actor knows.
pub struct Leftover {
    key: Key,
    own: Option<Arc<Object>>,
    service_is_gone: bool,
}

impl Leftover {
    /// An actor that knows nothing so far.
    pub fn new(key: Key) -> Leftover {
        Leftover {
            key,
            own: None,
            service_is_gone: false,
        }
    }
}

impl ObjectKind for Leftover {
    fn observe(&mut self, key: &Key, object: Option<&Arc<Object>>) -> Result<(), ObserveError> {
        if *key == self.key {
            // What was said of the Service was about the object that is gone now.
            self.service_is_gone &= self.own.is_some();
            self.own = object.cloned();
        } else {
            self.service_is_gone = object.is_none();
        }
        Ok(())
    }

    fn decide(&mut self, _: UnixMillis, event: Event, effects: &mut Effects) {
        let Some(own) = self.own.as_ref().filter(|own| !own.header.deleting) else {
            // The actor is not told when its object is made again: it looks, once, when another Service has ended.
            effects.look_again = self.own.is_none() && self.service_is_gone && event != Event::Loaded;
            return;
        };
        let holds_a_lock = || {
            let value = own.value().unwrap_or_default();
            value["metadata"]["annotations"].get(LEADER).is_some()
        };
        if self.service_is_gone && !holds_a_lock() {
            effects.write_one(Intent::Remove {
                key: self.key.clone(),
                revision: own.header.revision,
            });
        }
    }

    fn summary(&self) -> String {
        match (&self.own, self.service_is_gone) {
            (None, _) => "deleted".to_owned(),
            (Some(_), true) => "its Service is gone".to_owned(),
            (Some(_), false) => "kept by its Service".to_owned(),
        }
    }

    fn inspect(&self) -> Value {
        json!({ "key": self.key.to_string(), "serviceIsGone": self.service_is_gone })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ownership::tests::stored;

    fn decided(annotations: Value, services: &[bool]) -> bool {
        let key = Key::new("endpoints", "default", "web");
        let service = Key::new("services", "default", "web");
        let mut state = Leftover::new(key.clone());
        let own = stored(
            json!({"metadata": {"name": "web", "namespace": "default", "uid": "e", "annotations": annotations}}),
            1,
        );
        state.observe(&key, Some(&own)).unwrap();
        for exists in services {
            let object = stored(json!({"metadata": {"name": "web", "uid": "s"}}), 2);
            state.observe(&service, exists.then_some(&object)).unwrap();
        }
        let mut effects = Effects::default();
        state.decide(UnixMillis(0), Event::Loaded, &mut effects);
        !effects.writes_nothing()
    }

    #[test]
    fn endpoints_go_only_with_their_service() {
        for (name, annotations, services, goes) in [
            ("nothing is known of the Service", json!({}), &[][..], false),
            ("it exists", json!({}), &[true], false),
            ("it is gone", json!({}), &[false], true),
            ("it was made again", json!({}), &[false, true], false),
            ("a lock has no Service", json!({LEADER: "{}"}), &[false], false),
        ] {
            assert_eq!(decided(annotations, services), goes, "{name}");
        }
    }

    #[test]
    fn endpoints_that_are_made_anew_are_not_those_of_the_service_that_is_gone() {
        let key = Key::new("endpoints", "default", "web");
        let mut state = Leftover::new(key.clone());
        let own = stored(
            json!({"metadata": {"name": "web", "namespace": "default", "uid": "e"}}),
            1,
        );
        state.observe(&key, Some(&own)).unwrap();
        state.observe(&Key::new("services", "default", "web"), None).unwrap();
        state.observe(&key, None).unwrap();
        state.observe(&key, Some(&own)).unwrap();
        let mut effects = Effects::default();
        state.decide(UnixMillis(0), Event::Changed, &mut effects);
        assert!(effects.writes_nothing() && !effects.look_again);
    }

    #[test]
    fn an_actor_that_outlived_its_object_looks_again_when_another_service_ends() {
        let mut state = Leftover::new(Key::new("endpoints", "default", "web"));
        state.observe(&Key::new("services", "default", "web"), None).unwrap();
        for (event, looks) in [(Event::Changed, true), (Event::Loaded, false)] {
            let mut effects = Effects::default();
            state.decide(UnixMillis(0), event, &mut effects);
            assert_eq!((effects.look_again, effects.writes_nothing()), (looks, true));
        }
    }
}
