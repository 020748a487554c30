//! What the collector of an object does. Pure.

use std::sync::Arc;

use protocol::{Key, Object, OwnerReference, UnixMillis};
use serde_json::Value;

use super::{Collection, owner_key};
use crate::effects::{Effects, Intent};
use crate::kind::Event;
use crate::ownership;

/// The finalizer of an owner that goes after its dependents.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an owner that leaves its dependents behind.
pub(crate) const ORPHAN: &str = "orphan";

/// What cannot be undone is decided only right after the actor looked around: one that is awake from before was not told
/// what became of owners and dependents as long as there was nothing to collect.
pub(super) fn decide(state: &mut Collection, now: UnixMillis, event: Event, effects: &mut Effects) {
    let looked = event == Event::Loaded;
    state.looked_since_marked |= looked;
    let state = &*state;
    let Some(own) = &state.own else {
        // It is awake from a life of this name that has ended. What it is told of now may concern another one, of whose beginning
        // it was not told.
        effects.look_again = !looked;
        return;
    };
    let has = |finalizer: &str| own.header.finalizers.iter().any(|name| name == finalizer);
    if own.header.deleting && !state.looked_since_marked {
        effects.look_again = has(ORPHAN) || has(FOREGROUND);
        return;
    }
    if own.header.deleting && has(ORPHAN) {
        orphan_dependents(state, own, looked, effects);
    } else if own.header.deleting && has(FOREGROUND) {
        delete_dependents(state, own, now, looked, effects);
    } else if !own.header.deleting && !own.header.owners.is_empty() {
        follow_owners(state, own, now, looked, effects);
    }
}

/// What is known of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ownership {
    /// It exists, or cannot be judged.
    Solid,
    /// It does not exist, or under this name another one does.
    Gone,
    /// It is being deleted and waits for this dependent.
    Waiting,
}

fn judge(state: &Collection, reference: &OwnerReference) -> Ownership {
    let owner = match owner_key(reference, &state.key.namespace) {
        Some(key) => state.others.get(&key),
        // An owner of a custom kind: the index knows where it would be, and the load has shown it or its absence. One of a
        // kind that nobody has defined cannot be judged.
        None => match state.others.values().find(|other| other.header.uid == reference.uid) {
            Some(owner) => Some(owner),
            None if state.absent.iter().any(|key| is_named(key, reference)) => None,
            None => match state.others.iter().find(|(key, _)| is_named(key, reference)) {
                Some((_, another)) => Some(another),
                None => return Ownership::Solid,
            },
        },
    };
    match owner {
        Some(owner) if owner.header.uid == reference.uid => {
            let waits = owner.header.deleting && owner.header.finalizers.iter().any(|name| name == FOREGROUND);
            if waits && reference.block_owner_deletion {
                Ownership::Waiting
            } else {
                Ownership::Solid
            }
        }
        _ => Ownership::Gone,
    }
}

/// Whether a key is that of an owner of a custom kind, as far as group and name tell.
fn is_named(key: &Key, reference: &OwnerReference) -> bool {
    let group = reference.api_version.split_once('/').map_or("", |(group, _)| group);
    *key.name == *reference.name && key.resource.group() == group
}

fn follow_owners(state: &Collection, own: &Arc<Object>, now: UnixMillis, looked: bool, effects: &mut Effects) {
    let judged: Vec<(&OwnerReference, Ownership)> = own
        .header
        .owners
        .iter()
        .map(|reference| (reference, judge(state, reference)))
        .collect();
    let count = |wanted: Ownership| judged.iter().filter(|(_, ownership)| *ownership == wanted).count();
    let (solid, gone, waiting) = (
        count(Ownership::Solid),
        count(Ownership::Gone),
        count(Ownership::Waiting),
    );
    if gone + waiting > 0 && !looked {
        effects.look_again = true;
        return;
    }
    if solid > 0 {
        if gone + waiting > 0 {
            let lost = |uid: &str| {
                judged
                    .iter()
                    .any(|(r, o)| r.uid.as_str() == uid && *o != Ownership::Solid)
            };
            if let Ok(mut value) = own.value() {
                ownership::without_owners(&mut value, lost);
                effects.write_one(Intent::Update {
                    key: state.key.clone(),
                    base: Arc::clone(own),
                    value,
                });
            }
        }
        return;
    }
    let intent = if waiting > 0 && can_have_dependents(&state.key) {
        ownership::delete_foreground(&state.key, own, now)
    } else {
        ownership::delete(&state.key, own, now)
    };
    if let Some(intent) = intent {
        effects.write_one(intent);
    }
}

/// Pods own nothing; sparing them the finalizer spares two writes for each.
fn can_have_dependents(key: &Key) -> bool {
    key.resource.as_str() != "pods"
}

/// The objects that refer to this one.
fn dependents<'a>(state: &'a Collection, own: &'a Object) -> impl Iterator<Item = (&'a Key, &'a Arc<Object>, bool)> {
    state.others.iter().filter_map(|(key, object)| {
        let reference = object
            .header
            .owners
            .iter()
            .find(|reference| reference.uid == own.header.uid)?;
        Some((key, object, reference.block_owner_deletion))
    })
}

fn delete_dependents(state: &Collection, own: &Arc<Object>, now: UnixMillis, looked: bool, effects: &mut Effects) {
    let mut blocked = false;
    for (key, object, blocks) in dependents(state, own) {
        blocked |= blocks;
        // One with other owners loses this one; its own collector judges the others.
        let intent = if object.header.owners.len() > 1 {
            object.value().ok().map(|mut value| {
                ownership::without_owners(&mut value, |uid| uid == own.header.uid.as_str());
                Intent::Update {
                    key: key.clone(),
                    base: Arc::clone(object),
                    value,
                }
            })
        } else if can_have_dependents(key) {
            ownership::delete_foreground(key, object, now)
        } else {
            ownership::delete(key, object, now)
        };
        if let Some(intent) = intent {
            effects.write_one(intent);
        }
    }
    if !effects.writes_nothing() || (!blocked && !looked) {
        effects.look_again = true;
    } else if !blocked {
        effects.write_one(without_finalizer(&state.key, own, FOREGROUND));
    }
}

fn orphan_dependents(state: &Collection, own: &Arc<Object>, looked: bool, effects: &mut Effects) {
    for (key, object, _) in dependents(state, own) {
        if let Some(intent) = ownership::release(key, object, own.header.uid.as_str()) {
            effects.write_one(intent);
        }
    }
    if effects.writes_nothing() && looked {
        effects.write_one(without_finalizer(&state.key, own, ORPHAN));
    } else {
        effects.look_again = true;
    }
}

/// Takes a finalizer off; an object that has no other, and no grace left to wait for, is removed.
fn without_finalizer(key: &Key, own: &Arc<Object>, finalizer: &str) -> Intent {
    let remove = Intent::Remove {
        key: key.clone(),
        revision: own.header.revision,
    };
    let Ok(mut value) = own.value() else { return remove };
    let metadata = ownership::metadata(&mut value);
    let mut left = metadata
        .get("finalizers")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    left.retain(|name| name != finalizer);
    let grace = metadata
        .get("deletionGracePeriodSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    if left.is_empty() && grace == 0 {
        return remove;
    }
    if left.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), Value::Array(left));
    }
    Intent::Update {
        key: key.clone(),
        base: Arc::clone(own),
        value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::ObjectKind;
    use crate::ownership::tests::stored;
    use serde_json::json;

    fn object(kind: &str, name: &str, more: Value) -> (Key, Arc<Object>) {
        let mut value = json!({"metadata": {"name": name, "namespace": "default", "uid": name}});
        for (field, part) in more.as_object().unwrap() {
            value["metadata"][field] = part.clone();
        }
        (Key::new(kind, "default", name), stored(value, 4))
    }

    fn owned_by(uids: &[&str]) -> Value {
        let references: Vec<Value> = uids
            .iter()
            .map(|uid| {
                json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": uid, "uid": uid, "controller": false, "blockOwnerDeletion": true})
            })
            .collect();
        json!({ "ownerReferences": references })
    }

    fn going(finalizer: &str) -> Value {
        json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0, "finalizers": [finalizer]})
    }

    fn decided(own: (Key, Arc<Object>), others: Vec<(Key, Arc<Object>)>) -> Effects {
        let mut state = Collection::new(own.0.clone());
        state.observe(&own.0, Some(&own.1)).unwrap();
        for (key, object) in others {
            state.observe(&key, Some(&object)).unwrap();
        }
        let mut effects = Effects::default();
        state.decide(UnixMillis(0), Event::Loaded, &mut effects);
        effects
    }

    #[test]
    fn an_actor_of_an_ended_life_looks_for_the_next_one() {
        let (key, first) = object("replicasets.apps", "web", json!({}));
        let mut state = Collection::new(key.clone());
        state.observe(&key, Some(&first)).unwrap();
        state.observe(&key, None).unwrap();
        // The end of the new life's owner: it is told so as a dependent, and knows nothing of that life.
        state
            .observe(&Key::new("deployments.apps", "default", "web"), None)
            .unwrap();
        let mut effects = Effects::default();
        state.decide(UnixMillis(0), Event::Changed, &mut effects);
        assert!(effects.look_again);
        let mut effects = Effects::default();
        state.decide(UnixMillis(0), Event::Loaded, &mut effects);
        assert!(!effects.look_again, "there is no next one");
    }

    #[test]
    fn a_dependent_goes_when_all_its_owners_are_gone_and_only_then() {
        let config = |uids: &[&str]| object("configmaps", "c", owned_by(uids));
        let alive = object("replicasets.apps", "a", json!({}));
        assert!(matches!(
            decided(config(&["x"]), vec![]).groups[0][0],
            Intent::Remove { .. }
        ));
        assert!(decided(config(&["a"]), vec![alive.clone()]).writes_nothing());
        let effects = decided(config(&["a", "x"]), vec![alive.clone()]);
        let Intent::Update { value, .. } = &effects.groups[0][0] else {
            panic!()
        };
        assert_eq!(value["metadata"]["ownerReferences"].as_array().unwrap().len(), 1);
        // Another life of the same name is not the owner.
        let reborn = object("replicasets.apps", "x", json!({"uid": "other"}));
        assert!(matches!(
            decided(config(&["x"]), vec![reborn]).groups[0][0],
            Intent::Remove { .. }
        ));
    }

    #[test]
    fn an_actor_that_is_awake_from_before_looks_around_before_it_decides() {
        let orphaning = object("replicasets.apps", "o", going(ORPHAN));
        let foreground = object("replicasets.apps", "f", going(FOREGROUND));
        let dependent = object("configmaps", "c", owned_by(&["x"]));
        for own in [orphaning, foreground, dependent] {
            let mut state = Collection::new(own.0.clone());
            state.observe(&own.0, Some(&own.1)).unwrap();
            let mut effects = Effects::default();
            state.decide(UnixMillis(0), Event::Changed, &mut effects);
            assert!(effects.writes_nothing() && effects.look_again, "{}", own.0);
        }
        // It has looked around; the last dependent that it knew of is gone; there may be others.
        let (key, owner) = object("replicasets.apps", "o", going(FOREGROUND));
        let (dependent, body) = object("configmaps", "c", owned_by(&["o"]));
        let mut state = Collection::new(key.clone());
        state.observe(&key, Some(&owner)).unwrap();
        state.observe(&dependent, Some(&body)).unwrap();
        let decided = |state: &mut Collection, event| {
            let mut effects = Effects::default();
            state.decide(UnixMillis(0), event, &mut effects);
            (effects.groups.len(), effects.look_again)
        };
        assert_eq!(decided(&mut state, Event::Loaded), (1, true));
        state.observe(&dependent, None).unwrap();
        assert_eq!(decided(&mut state, Event::Changed), (0, true));
        assert_eq!(decided(&mut state, Event::Loaded), (1, false));
    }

    #[test]
    fn an_owner_of_an_unknown_kind_is_never_taken_for_gone() {
        let mut references = owned_by(&["x"]);
        references["ownerReferences"][0]["kind"] = json!("Widget");
        references["ownerReferences"][0]["apiVersion"] = json!("example.com/v1");
        assert!(decided(object("configmaps", "c", references), vec![]).writes_nothing());
    }

    #[test]
    fn foreground_deletion_takes_the_dependents_first() {
        let owner = object("replicasets.apps", "rs", going(FOREGROUND));
        let pod = object("pods", "p", owned_by(&["rs"]));
        let effects = decided(owner.clone(), vec![pod]);
        assert!(matches!(&effects.groups[0][0], Intent::Remove { key, .. } if &*key.name == "p"));
        let mut leaving = owned_by(&["rs"]);
        leaving["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(
            decided(owner.clone(), vec![object("pods", "p", leaving)]).writes_nothing(),
            "it waits"
        );
        assert!(matches!(&decided(owner, vec![]).groups[0][0], Intent::Remove { key, .. } if &*key.name == "rs"));
    }

    #[test]
    fn orphan_deletion_leaves_the_dependents_without_a_reference() {
        let owner = object("replicasets.apps", "rs", going(ORPHAN));
        let effects = decided(owner.clone(), vec![object("pods", "p", owned_by(&["rs"]))]);
        let Intent::Update { value, .. } = &effects.groups[0][0] else {
            panic!()
        };
        assert_eq!(value["metadata"].get("ownerReferences"), None);
        assert!(effects.look_again);
        assert!(matches!(&decided(owner, vec![]).groups[0][0], Intent::Remove { .. }));
    }

    #[test]
    fn a_dependent_of_a_waiting_owner_is_deleted_in_the_foreground() {
        let owner = object("replicasets.apps", "rs", going(FOREGROUND));
        let effects = decided(object("configmaps", "c", owned_by(&["rs"])), vec![owner]);
        let Intent::Update { value, .. } = &effects.groups[0][0] else {
            panic!()
        };
        assert_eq!(value["metadata"]["finalizers"], json!([FOREGROUND]));
    }
}
