//! Garbage collection by ownerReferences, one actor per object that it concerns, of any kind: it deletes a dependent whose
//! owners are all gone, drops references to gone owners, and carries out foreground and orphan deletion of an owner.
//! Awake only while there is something to collect; supervised by the router's directory (permanent, back-off per object).
//!
//! Invariants: an owner counts as gone only when the store says so, by uid, and never because its kind is unknown here; an
//! object with one living owner is never deleted.

mod decide;

pub(crate) use decide::{FOREGROUND, ORPHAN};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::{Key, Object, OwnerReference, UnixMillis};
use serde_json::{Value, json};

use crate::effects::Effects;
use crate::kind::{Event, ObjectKind, ObserveError};

/// What the actor knows.
pub struct Collection {
    key: Key,
    own: Option<Arc<Object>>,
    /// Every object that was shown and exists: owners and dependents.
    others: BTreeMap<Key, Arc<Object>>,
    /// Whether it has looked around since the object is being deleted: from then on it is told of every dependent.
    looked_since_marked: bool,
    /// Owners that were looked for and are not there.
    absent: BTreeSet<Key>,
}

impl Collection {
    /// An actor that knows nothing so far.
    pub fn new(key: Key) -> Collection {
        Collection {
            key,
            own: None,
            others: BTreeMap::new(),
            looked_since_marked: false,
            absent: BTreeSet::new(),
        }
    }
}

/// The key of an owner: in the dependent's namespace, or cluster-scoped. `None` when no kind of the table has this name: custom
/// kinds are the index's business.
pub fn owner_key(reference: &OwnerReference, namespace: &str) -> Option<Key> {
    let kind = api::kinds::find_by_kind(&reference.api_version, &reference.kind)?;
    let namespace = if kind.namespaced { namespace } else { "" };
    Some(Key::new(kind.resource(), namespace, reference.name.as_str()))
}

impl ObjectKind for Collection {
    fn observe(&mut self, key: &Key, object: Option<&Arc<Object>>) -> Result<(), ObserveError> {
        match object {
            _ if *key == self.key => {
                let marked = |own: &Arc<Object>| own.header.deleting.then(|| own.header.uid.clone());
                self.looked_since_marked &= self.own.as_ref().and_then(marked) == object.and_then(marked);
                self.own = object.cloned();
            }
            Some(object) => {
                self.absent.remove(key);
                self.others.insert(key.clone(), Arc::clone(object));
            }
            None => {
                self.absent.insert(key.clone());
                self.others.remove(key);
            }
        }
        Ok(())
    }

    fn decide(&mut self, now: UnixMillis, event: Event, effects: &mut Effects) {
        decide::decide(self, now, event, effects);
    }

    fn summary(&self) -> String {
        match &self.own {
            None => "deleted".to_owned(),
            Some(own) if own.header.deleting => format!("waits for dependents, {} seen", self.others.len()),
            Some(own) => format!("{} owners", own.header.owners.len()),
        }
    }

    fn inspect(&self) -> Value {
        json!({
            "key": self.key.to_string(), "finalizers": self.own.as_ref().map(|own| &own.header.finalizers),
            "related": self.others.keys().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }
}
