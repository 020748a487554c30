//! The actor of a Namespace: empties it when it is deleted, of every kind that there is, and then lets it go. Supervised
//! by the router's directory (permanent, back-off per object).
//!
//! Invariants: nothing is deleted in a namespace that is not being deleted; the finalizer `kubernetes` goes only after a
//! fresh look found the namespace empty.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::{Key, Object, UnixMillis};
use serde_json::{Value, json};

use crate::conditions::{self, Times, Wanted};
use crate::effects::{Effects, Intent};
use crate::kind::{Event, ObjectKind, ObserveError, read};
use crate::ownership;

const FINALIZER: &str = "kubernetes";

/// What the actor knows: of the namespace's content as much as the router showed it at a time.
pub struct Namespace {
    key: Key,
    own: Option<(Arc<Object>, Value)>,
    content: BTreeMap<Key, Arc<Object>>,
    cluster_ca: Option<Arc<str>>,
    /// Whether the content was read in the light of the deletion: of an active namespace only `contents` is shown.
    sees_all: bool,
}

/// What every namespace has: the account that pods run as unless they name another, and the cluster's CA.
pub(crate) fn contents(namespace: &str) -> [Key; 2] {
    [
        Key::new("serviceaccounts", namespace, "default"),
        Key::new("configmaps", namespace, "kube-root-ca.crt"),
    ]
}

impl Namespace {
    /// An actor that knows nothing so far.
    pub fn new(key: Key, cluster_ca: Option<Arc<str>>) -> Namespace {
        Namespace {
            cluster_ca,
            sees_all: false,
            key,
            own: None,
            content: BTreeMap::new(),
        }
    }
}

impl ObjectKind for Namespace {
    fn observe(&mut self, key: &Key, object: Option<&Arc<Object>>) -> Result<(), ObserveError> {
        match object {
            Some(object) if *key == self.key => {
                // The own object is the first that a load shows; what becomes of it later does not bring the content along.
                self.sees_all = object.header.deleting && (self.own.is_none() || self.sees_all);
                self.own = Some((Arc::clone(object), read(key, object)?));
            }
            None if *key == self.key => self.own = None,
            Some(object) => {
                self.content.insert(key.clone(), Arc::clone(object));
            }
            None => {
                self.content.remove(key);
            }
        }
        Ok(())
    }

    fn decide(&mut self, now: UnixMillis, event: Event, effects: &mut Effects) {
        let Some((object, value)) = &self.own else { return };
        if !object.header.deleting {
            return self.complete(effects);
        }
        if !has_finalizer(value) {
            return;
        }
        if !self.sees_all {
            effects.look_again = true;
            return;
        }
        if self.content.is_empty() {
            if event == Event::Loaded {
                effects.write_one(finalize(&self.key, object, value));
            } else {
                effects.look_again = true;
            }
            return;
        }
        let mut waits = true;
        for (key, object) in &self.content {
            if let Some(intent) = ownership::delete(key, object, now) {
                effects.write_one(intent);
                waits = false;
            }
        }
        if waits {
            self.report(object, value, now, effects);
        }
    }

    fn summary(&self) -> String {
        match &self.own {
            None => "deleted".to_owned(),
            Some((object, _)) if object.header.deleting => format!("terminating, {} objects left", self.content.len()),
            Some(_) => "active".to_owned(),
        }
    }

    fn inspect(&self) -> Value {
        json!({
            "key": self.key.to_string(), "object": self.own.as_ref().map(|(_, value)| value),
            "content": self.content.keys().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }
}

impl Namespace {
    /// Writes what every namespace has and this one lacks.
    fn complete(&self, effects: &mut Effects) {
        let Some(cluster_ca) = &self.cluster_ca else { return };
        for key in contents(&self.key.name) {
            if self.content.contains_key(&key) {
                continue;
            }
            let mut value = json!({"metadata": {"name": &*key.name}});
            if key.resource.as_str() == "configmaps" {
                value["data"] = json!({"ca.crt": &**cluster_ca});
            }
            effects.write_one(Intent::Create {
                resource: key.resource.clone(),
                namespace: Arc::clone(&key.namespace),
                value,
            });
        }
    }

    /// Says in the conditions what the namespace waits for.
    fn report(&self, object: &Arc<Object>, value: &Value, now: UnixMillis, effects: &mut Effects) {
        let (mut resources, mut finalizers) = (BTreeMap::<&str, usize>::new(), BTreeMap::<&str, usize>::new());
        for (key, object) in &self.content {
            *resources.entry(key.resource.as_str()).or_default() += 1;
            for finalizer in &object.header.finalizers {
                *finalizers.entry(finalizer).or_default() += 1;
            }
        }
        let list = |counts: &BTreeMap<&str, usize>, verb: &str| {
            let parts: Vec<String> = counts
                .iter()
                .map(|(name, count)| format!("{name}{verb}{count} resource instances"))
                .collect();
            parts.join(", ")
        };
        let remaining = format!("Some resources are remaining: {}", list(&resources, " has "));
        let held = format!(
            "Some content in the namespace has finalizers remaining: {}",
            list(&finalizers, " in ")
        );
        let mut value = value.clone();
        let mut set = |kind, some: bool, (reason, message): (&str, &str), (none, text): (&str, &str)| {
            let wanted = if some {
                Wanted {
                    kind,
                    status: "True",
                    reason,
                    message,
                }
            } else {
                Wanted {
                    kind,
                    status: "False",
                    reason: none,
                    message: text,
                }
            };
            conditions::set(&mut value, wanted, Times::Transition, now);
        };
        set(
            "NamespaceContentRemaining",
            true,
            ("SomeResourcesRemain", &remaining),
            ("ContentRemoved", "All content successfully removed"),
        );
        set(
            "NamespaceFinalizersRemaining",
            !finalizers.is_empty(),
            ("SomeFinalizersRemain", &held),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        );
        value["status"]["phase"] = json!("Terminating");
        if self.own.as_ref().is_some_and(|(_, stored)| *stored != value) {
            effects.write_one(Intent::Update {
                key: self.key.clone(),
                base: Arc::clone(object),
                value,
            });
        }
    }
}

fn has_finalizer(value: &Value) -> bool {
    value["spec"]["finalizers"]
        .as_array()
        .is_some_and(|all| all.iter().any(|finalizer| finalizer == FINALIZER))
}

/// Takes the finalizer off; what has no other is removed.
fn finalize(key: &Key, object: &Arc<Object>, value: &Value) -> Intent {
    let mut value = value.clone();
    let mut left = value["spec"]["finalizers"].as_array().cloned().unwrap_or_default();
    left.retain(|finalizer| finalizer != FINALIZER);
    if left.is_empty() && object.header.finalizers.is_empty() {
        return Intent::Remove {
            key: key.clone(),
            revision: object.header.revision,
        };
    }
    value["spec"]["finalizers"] = Value::Array(left);
    Intent::Update {
        key: key.clone(),
        base: Arc::clone(object),
        value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ownership::tests::stored;

    fn actor(deleting: bool, more_finalizers: &[&str]) -> Namespace {
        let key = Key::new("namespaces", "", "old");
        let mut finalizers = vec![FINALIZER];
        finalizers.extend(more_finalizers);
        let mut value = json!({"metadata": {"name": "old", "uid": "ns"}, "spec": {"finalizers": finalizers}});
        if deleting {
            value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let mut state = Namespace::new(key.clone(), None);
        state.observe(&key, Some(&stored(value, 5))).unwrap();
        state
    }

    fn hold(state: &mut Namespace, name: &str, metadata: Value) {
        let mut value = json!({"metadata": {"name": name, "namespace": "old", "uid": name}});
        for (field, part) in metadata.as_object().unwrap() {
            value["metadata"][field] = part.clone();
        }
        state
            .observe(&Key::new("configmaps", "old", name), Some(&stored(value, 6)))
            .unwrap();
    }

    fn decide(state: &mut Namespace, event: Event) -> Effects {
        let mut effects = Effects::default();
        state.decide(UnixMillis(0), event, &mut effects);
        effects
    }

    #[test]
    fn an_active_namespace_is_left_alone() {
        let mut state = actor(false, &[]);
        hold(&mut state, "a", json!({}));
        assert_eq!(decide(&mut state, Event::Loaded), Effects::default());
    }

    #[test]
    fn an_active_namespace_gets_its_account_and_the_clusters_authority() {
        let mut state = actor(false, &[]);
        state.cluster_ca = Some("PEM".into());
        let effects = decide(&mut state, Event::Loaded);
        let created = effects.groups.iter().flatten().map(|intent| match intent {
            Intent::Create { resource, value, .. } => (resource.as_str().to_owned(), value["data"]["ca.crt"].clone()),
            other => panic!("{other:?}"),
        });
        let expected = [
            ("serviceaccounts".to_owned(), Value::Null),
            ("configmaps".to_owned(), json!("PEM")),
        ];
        assert_eq!(created.collect::<Vec<_>>(), expected);
        for key in contents("old") {
            let value = json!({"metadata": {"name": &*key.name, "namespace": "old", "uid": "u"}});
            state.observe(&key, Some(&stored(value, 6))).unwrap();
        }
        assert_eq!(decide(&mut state, Event::Changed), Effects::default());
    }

    #[test]
    fn a_namespace_that_is_deleted_after_it_was_read_is_read_again() {
        let mut state = actor(false, &[]);
        let key = Key::new("namespaces", "", "old");
        let value = json!({
            "metadata": {"name": "old", "uid": "ns", "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"finalizers": [FINALIZER]},
        });
        state.observe(&key, Some(&stored(value, 7))).unwrap();
        let effects = decide(&mut state, Event::Loaded);
        assert!(
            effects.look_again && effects.writes_nothing(),
            "its content was never shown"
        );
    }

    #[test]
    fn content_is_deleted_and_what_is_held_is_reported() {
        let mut state = actor(true, &[]);
        hold(&mut state, "a", json!({}));
        hold(
            &mut state,
            "b",
            json!({"finalizers": ["example.com/x"], "deletionTimestamp": "2026-01-01T00:00:00Z"}),
        );
        let effects = decide(&mut state, Event::Loaded);
        assert!(
            matches!(&effects.groups[..], [group] if matches!(&group[0], Intent::Remove { key, .. } if &*key.name == "a"))
        );
        state.observe(&Key::new("configmaps", "old", "a"), None).unwrap();
        let effects = decide(&mut state, Event::Changed);
        let Intent::Update { value, .. } = &effects.groups[0][0] else {
            panic!()
        };
        let messages = value["status"]["conditions"].to_string();
        assert!(
            messages.contains("configmaps has 1 resource instances") && messages.contains("example.com/x in 1"),
            "{messages}"
        );
    }

    #[test]
    fn an_empty_namespace_goes_only_after_a_fresh_look() {
        let mut state = actor(true, &[]);
        let effects = decide(&mut state, Event::Changed);
        assert!(effects.writes_nothing() && effects.look_again);
        assert!(matches!(
            decide(&mut state, Event::Loaded).groups[0][0],
            Intent::Remove { .. }
        ));
        let mut held = actor(true, &["example.com/x"]);
        let effects = decide(&mut held, Event::Loaded);
        let Intent::Update { value, .. } = &effects.groups[0][0] else {
            panic!()
        };
        assert_eq!(value["spec"]["finalizers"], json!(["example.com/x"]));
    }
}
