//! The keeper of CustomResourceDefinitions: judges their names, says in their conditions whether they are served, and lets
//! them go when their objects are gone. Runs where the control plane runs; what it writes is compare-and-set, so that two of
//! them do no harm. What it decides is `api::custom`'s.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::custom::{CLEANUP_FINALIZER, conditions};
use api::kinds;
use parking_lot::Mutex;
use protocol::store::{ListRequest, ObjectStore, Precondition, Proposal, ProposeError, ReadError, Write};
use protocol::{Cause, Draft, Key, Object, Resource, Revision};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::custom::DEFINITIONS;
use crate::follow::{Follower, follow};
use crate::watch::Now;

/// How often it looks whether the objects of a definition that goes are gone: they may wait for their own finalizers.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// How many objects go in one proposal.
const BATCH: usize = 100;

/// What could not be done; it is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Propose(#[from] ProposeError),
    #[error("an object cannot be encoded: {0}")]
    Draft(#[from] protocol::object::DraftError),
    #[error("a stored object cannot be read: {0}")]
    Stored(#[from] serde_json::Error),
}

/// The objects of one resource, as they are in the store.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) objects: Mutex<BTreeMap<Key, (Value, Revision)>>,
    pub(crate) changed: Notify,
}

impl Follower for Known {
    fn listed(&self, _: &Resource, items: &[(Key, Arc<Object>)]) {
        self.objects.lock().clear();
        for (key, object) in items {
            self.changed(key, object);
        }
        self.changed.notify_one();
    }

    fn changed(&self, key: &Key, object: &Object) {
        match object.value() {
            Ok(value) => {
                let entry = (value, object.header.revision);
                self.objects.lock().insert(key.clone(), entry);
            }
            Err(error) => tracing::error!(%key, %error, "a stored object cannot be read"),
        }
        self.changed.notify_one();
    }

    fn gone(&self, key: &Key, _: Revision) {
        self.objects.lock().remove(key);
        self.changed.notify_one();
    }

    fn complete(&self) {
        self.changed.notify_one();
    }
}

/// Keeps the definitions until it is dropped.
pub async fn keep(store: Arc<dyn ObjectStore>, now: Now) {
    let known = Arc::new(Known::default());
    let resources = vec![Resource::new(DEFINITIONS)];
    let following = follow(Arc::clone(&store), resources, Arc::clone(&known) as Arc<dyn Follower>);
    let working = async {
        loop {
            let waits = look(store.as_ref(), &known, &now).await;
            if waits {
                let _ = tokio::time::timeout(LOOK_AGAIN, known.changed.notified()).await;
            } else {
                known.changed.notified().await;
            }
        }
    };
    tokio::select! {
        () = following => {}
        () = working => {}
    }
}

/// Brings every definition one step on. Whether there is one that waits for something which no event tells of.
async fn look(store: &dyn ObjectStore, known: &Known, now: &Now) -> bool {
    let definitions = known.objects.lock().clone();
    let mut waits = false;
    for (key, (definition, revision)) in &definitions {
        let result = one(store, &definitions, key, definition, *revision, now).await;
        match result {
            Ok(is_waiting) => waits |= is_waiting,
            // It was written meanwhile: its event comes.
            Err(KeepError::Propose(ProposeError::Refused(_))) => {}
            Err(error) => {
                tracing::debug!(%key, %error, "a definition of a kind cannot be kept; trying again");
                waits = true;
            }
        }
    }
    waits
}

async fn one(
    store: &dyn ObjectStore,
    definitions: &BTreeMap<Key, (Value, Revision)>,
    key: &Key,
    definition: &Value,
    revision: Revision,
    now: &Now,
) -> Result<bool, KeepError> {
    let others = definitions
        .iter()
        .filter(|(other, _)| *other != key)
        .map(|(_, (value, _))| value);
    let precondition = Precondition::Revision(revision);
    if let Some(changed) = conditions(definition, others, now()) {
        put(store, key, precondition, &changed).await?;
        return Ok(false);
    }
    let finalizers = definition["metadata"]["finalizers"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let is_kept = finalizers.iter().any(|finalizer| finalizer == CLEANUP_FINALIZER);
    if definition["metadata"]["deletionTimestamp"].is_null() || !is_kept {
        return Ok(false);
    }
    if !remove_objects(store, definition, now).await? {
        return Ok(true);
    }
    let left: Vec<Value> = finalizers
        .into_iter()
        .filter(|finalizer| finalizer != CLEANUP_FINALIZER)
        .collect();
    if left.is_empty() {
        let key = key.clone();
        propose(store, vec![Write::Delete { key, precondition }]).await?;
        return Ok(false);
    }
    let mut changed = definition.clone();
    changed["metadata"]["finalizers"] = left.into();
    put(store, key, precondition, &changed).await?;
    Ok(false)
}

pub(crate) async fn put(
    store: &dyn ObjectStore,
    key: &Key,
    precondition: Precondition,
    value: &Value,
) -> Result<(), KeepError> {
    let draft = match kinds::find_by_resource(&key.resource) {
        Some(kind) => kind.draft(value)?,
        None => Draft::encode(value, Vec::new())?,
    };
    let key = key.clone();
    propose(
        store,
        vec![Write::Put {
            key,
            precondition,
            draft,
        }],
    )
    .await
}

async fn propose(store: &dyn ObjectStore, writes: Vec<Write>) -> Result<(), KeepError> {
    let cause = Cause::default();
    store.propose(Proposal { cause, writes }).await?;
    Ok(())
}

/// Deletes the objects of a definition; those that have finalizers are marked and waited for. Whether none is left.
async fn remove_objects(store: &dyn ObjectStore, definition: &Value, now: &Now) -> Result<bool, KeepError> {
    let text = |name: &str| definition["spec"][name].as_str().unwrap_or_default();
    let plural = definition["spec"]["names"]["plural"].as_str().unwrap_or_default();
    let mut request = ListRequest::all(Resource::of(plural, text("group")));
    request.limit = BATCH;
    let mut left = false;
    loop {
        let page = store.list(request.clone()).await?;
        let mut writes = Vec::new();
        for (key, object) in &page.items {
            let (key, precondition) = (key.clone(), Precondition::Revision(object.header.revision));
            if object.header.finalizers.is_empty() {
                writes.push(Write::Delete { key, precondition });
                continue;
            }
            left = true;
            if !object.header.deleting {
                let mut value = object.value()?;
                value["metadata"]["deletionTimestamp"] = now().rfc3339().into();
                value["metadata"]["deletionGracePeriodSeconds"] = json!(0);
                let draft = Draft::encode(&value, object.header.fields.to_vec())?;
                writes.push(Write::Put {
                    key,
                    precondition,
                    draft,
                });
            }
        }
        if !writes.is_empty() {
            propose(store, writes).await?;
        }
        match page.items.last().filter(|_| page.more) {
            Some((last, _)) => (request.after, request.at) = (Some(last.clone()), Some(page.revision)),
            None => return Ok(!left),
        }
    }
}
