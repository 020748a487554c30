//! Custom kinds on this node: the definitions, followed in the store, as the table of kinds that this gateway serves beside
//! the built-in ones. What a definition means is `api::custom`'s business; who judges its names and removes its objects is
//! `definitions`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::custom::CustomKinds;
use api::kinds::Kind;
use api::status::Status;
use futures::StreamExt;
use parking_lot::Mutex;
use protocol::store::ObjectStore;
use protocol::{Key, Object, Resource, Revision};
use tokio::sync::watch;

use crate::follow::{Follower, follow};
use crate::read::{read_status, try_again};
use crate::request::{ApiResponse, ResponseBody};

/// The resource of the definitions.
pub const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// How long a request waits for a node that has just started to have read the definitions.
const LOADING_MAX: Duration = Duration::from_secs(5);

/// The custom kinds of a node.
pub struct Custom {
    store: Arc<dyn ObjectStore>,
    kinds: CustomKinds,
    /// Up to which revision each definition is known: one that was looked up may be ahead of what is followed.
    known: Mutex<HashMap<Arc<str>, Revision>>,
    complete: watch::Sender<bool>,
    /// Counts changes.
    changes: watch::Sender<u64>,
}

impl Custom {
    /// Begins to follow the definitions.
    pub fn start(store: Arc<dyn ObjectStore>) -> Arc<Custom> {
        let custom = Arc::new(Custom {
            store: Arc::clone(&store),
            kinds: CustomKinds::default(),
            known: Mutex::default(),
            complete: watch::channel(false).0,
            changes: watch::channel(0).0,
        });
        let resources = vec![Resource::new(DEFINITIONS)];
        tokio::spawn(follow(store, resources, Arc::clone(&custom) as Arc<dyn Follower>));
        custom
    }

    /// The kinds.
    pub fn kinds(&self) -> &CustomKinds {
        &self.kinds
    }

    /// Reads the definition that would serve a path, in case that this node has not heard of it. Whether the path may lead
    /// somewhere now.
    pub async fn look_up(&self, path: &str) -> Result<bool, Status> {
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let ["apis", group, version, rest @ ..] = segments.as_slice() else {
            return Ok(false);
        };
        let plural = match rest {
            ["namespaces", _, plural, ..] | [plural, ..] => *plural,
            [] => return Ok(false),
        };
        // No group of the table can be defined anew, and every definition's has a dot.
        if !group.contains('.') || self.kinds.find(group, version, plural).is_some() {
            return Ok(false);
        }
        let mut complete = self.complete.subscribe();
        let waited = tokio::time::timeout(LOADING_MAX, complete.wait_for(|complete| *complete)).await;
        let is_loaded = matches!(waited, Ok(Ok(_)));
        drop(waited);
        if !is_loaded {
            return Err(try_again(
                "this node has not read the cluster's definitions of kinds: the store does not answer it".to_owned(),
            ));
        }
        let key = Key::new(DEFINITIONS, "", format!("{plural}.{group}"));
        if let Some(object) = self.store.read(&key).await.map_err(read_status)? {
            self.changed(&key, &object);
        }
        Ok(self.kinds.find(group, version, plural).is_some())
    }

    /// A stream about a custom kind ends when the kind does.
    pub fn while_defined(&self, kind: &'static Kind, mut response: ApiResponse) -> ApiResponse {
        if kind.custom.is_none() {
            return response;
        }
        if let ResponseBody::Watch(lines) = response.body {
            let mut changes = self.changes.subscribe();
            let gone = async move {
                // The sender goes with the gateway, and then so does the stream.
                let _ = changes.wait_for(|_| kind.definition_now().is_none()).await;
            };
            response.body = ResponseBody::Watch(Box::pin(lines.take_until(Box::pin(gone))));
        }
        response
    }

    fn count_change(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

impl Follower for Custom {
    fn listed(&self, _: &Resource, items: &[(Key, Arc<Object>)]) {
        for name in self.kinds.names() {
            if !items.iter().any(|(key, _)| *key.name == *name) {
                self.kinds.undefine(&name);
            }
        }
        for (key, object) in items {
            self.changed(key, object);
        }
        self.count_change();
    }

    fn changed(&self, key: &Key, object: &Object) {
        let mut known = self.known.lock();
        let last = known.entry(Arc::clone(&key.name)).or_insert(Revision::ZERO);
        if object.header.revision <= *last {
            return;
        }
        *last = object.header.revision;
        match object.value() {
            Ok(value) => self.kinds.define(&value),
            Err(error) => tracing::error!(%key, %error, "a stored definition of a kind cannot be read"),
        }
        drop(known);
        self.count_change();
    }

    fn gone(&self, key: &Key, removed: Revision) {
        let mut known = self.known.lock();
        if known.get(&key.name).is_some_and(|last| *last > removed) {
            return;
        }
        known.remove(&key.name);
        self.kinds.undefine(&key.name);
        drop(known);
        self.count_change();
    }

    fn complete(&self) {
        self.complete.send_replace(true);
    }
}
