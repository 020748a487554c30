//! The APIServices that name another server, as they are followed in the store. Nothing here decides about requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::access::Access;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::{Mutex, RwLock};
use protocol::{Key, Object, Resource, Revision};
use serde_json::Value;
use tokio::sync::Notify;

use crate::follow::Follower;
use crate::outgoing::trust::Anchors;

/// A server that answers for a group and version.
#[derive(Debug)]
pub struct Remote {
    /// The APIService's name.
    pub name: String,
    /// The API group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The Service: namespace, name and port.
    pub service: (String, String, u16),
    /// Whose certificates are believed.
    pub anchors: Anchors,
    /// The group's place among groups, higher first; then the version's among its group's.
    pub priority: (i64, i64),
    /// What the leader found: `None` while nothing is known.
    pub available: Option<bool>,
    /// The revision of the APIService.
    pub revision: u64,
    /// What it answered to discovery last.
    pub(super) resources: Mutex<Option<Arc<Value>>>,
}

impl Remote {
    /// Reads an APIService; `None` when this server answers for it itself.
    pub fn read(name: &str, object: &Value) -> Option<Remote> {
        let spec = object.at(&["spec"]);
        let service = spec.at(&["service"]);
        if !service.is_object() {
            return None;
        }
        let bundle = STANDARD.decode(spec.text("caBundle")).unwrap_or_default();
        let conditions = object.at(&["status"]).items("conditions");
        let available = conditions
            .iter()
            .find(|condition| condition.text("type") == "Available");
        let version = object.at(&["metadata"]).text("resourceVersion");
        Some(Remote {
            name: name.to_owned(),
            group: spec.text("group").to_owned(),
            version: spec.text("version").to_owned(),
            service: (
                service.text("namespace").to_owned(),
                service.text("name").to_owned(),
                service
                    .int("port")
                    .and_then(|port| u16::try_from(port).ok())
                    .unwrap_or(443),
            ),
            anchors: if spec.flag("insecureSkipTLSVerify") {
                Anchors::Anybody
            } else if bundle.is_empty() {
                Anchors::Machine
            } else {
                Anchors::Bundle(bundle)
            },
            priority: (
                spec.int("groupPriorityMinimum").unwrap_or(0),
                spec.int("versionPriority").unwrap_or(0),
            ),
            available: available.map(|condition| condition.text("status") == "True"),
            revision: version.parse().unwrap_or(0),
            resources: Mutex::default(),
        })
    }
}

/// All of them, by APIService name.
#[derive(Default)]
pub(super) struct Registry {
    remotes: RwLock<BTreeMap<Arc<str>, Arc<Remote>>>,
    /// Told when one changes.
    pub(super) changed: Notify,
}

impl Registry {
    pub(super) fn find(&self, group: &str, version: &str) -> Option<Arc<Remote>> {
        let remotes = self.remotes.read();
        // The name is `VERSION.GROUP`, as validation requires.
        let found = remotes
            .values()
            .find(|remote| remote.group == group && remote.version == version);
        found.cloned()
    }

    /// By the priorities of group and version.
    pub(super) fn all(&self) -> Vec<Arc<Remote>> {
        let mut all: Vec<Arc<Remote>> = self.remotes.read().values().cloned().collect();
        all.sort_by_key(|remote| std::cmp::Reverse(remote.priority));
        all
    }

    fn note(&self, key: &Key, object: &Object) {
        let value = match object.value() {
            Ok(value) => value,
            Err(error) => {
                tracing::error!(%key, %error, "a stored APIService cannot be read");
                return;
            }
        };
        let mut remotes = self.remotes.write();
        match Remote::read(&key.name, &value) {
            Some(remote) => {
                // A change of its condition does not change what it serves.
                if let Some(known) = remotes.get(&*key.name) {
                    *remote.resources.lock() = known.resources.lock().clone();
                }
                remotes.insert(Arc::clone(&key.name), Arc::new(remote));
            }
            None => {
                remotes.remove(&*key.name);
            }
        }
    }
}

impl Follower for Registry {
    fn listed(&self, _: &Resource, items: &[(Key, Arc<Object>)]) {
        self.remotes
            .write()
            .retain(|name, _| items.iter().any(|(key, _)| key.name == *name));
        for (key, object) in items {
            self.note(key, object);
        }
        self.changed.notify_one();
    }

    fn changed(&self, key: &Key, object: &Object) {
        self.note(key, object);
        self.changed.notify_one();
    }

    fn gone(&self, key: &Key, _: Revision) {
        self.remotes.write().remove(&*key.name);
        self.changed.notify_one();
    }

    fn complete(&self) {}
}
