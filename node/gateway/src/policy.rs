//! Admission on this node: the policy objects that plugins consult, followed in the store, and the gate through which every
//! write of a client goes. What the plugins decide is `admission`'s business.

use std::sync::Arc;
use std::time::Duration;

use access::User;
use access::node::NodeWrite;
use admission::{Attributes, CONSULTED, Facts, Outcome, Review, Settings};
use api::status::Status;
use parking_lot::RwLock;
use protocol::store::ObjectStore;
use protocol::{Key, Object, Resource, Revision};
use serde_json::Value;
use tokio::sync::watch;

use crate::follow::{Follower, follow};
use crate::read::{read_status, try_again};
use crate::rights::Rights;

/// How long a write waits for a node that has just started to have read its policy objects.
const LOADING_MAX: Duration = Duration::from_secs(5);

/// The policy objects of a node.
pub struct Policy {
    store: Arc<dyn ObjectStore>,
    facts: RwLock<Facts>,
    complete: watch::Sender<bool>,
}

impl Policy {
    /// Begins to follow the store.
    pub fn start(store: Arc<dyn ObjectStore>, settings: Settings) -> Arc<Policy> {
        let mut facts = Facts::default();
        facts.settings = settings;
        let policy = Arc::new(Policy {
            store: Arc::clone(&store),
            facts: RwLock::new(facts),
            complete: watch::channel(false).0,
        });
        let resources = CONSULTED.iter().map(|name| Resource::new(*name)).collect();
        tokio::spawn(follow(store, resources, Arc::clone(&policy) as Arc<dyn Follower>));
        policy
    }

    /// Reads what plugins will look up for this object and this node has not heard of.
    pub async fn prepare(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
        let mut complete = self.complete.subscribe();
        match tokio::time::timeout(LOADING_MAX, complete.wait_for(|complete| *complete)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => {
                return Err(try_again(
                    "this node has not read the cluster's policy objects: the store does not answer it".to_owned(),
                ));
            }
        }
        let missing = admission::missing(attributes, object, &self.facts.read());
        for key in missing {
            self.refresh(&key).await?;
        }
        Ok(())
    }

    /// Reads one object again.
    pub async fn refresh(&self, key: &Key) -> Result<(), Status> {
        if let Some(object) = self.store.read(key).await.map_err(read_status)? {
            self.changed(key, &object);
        }
        Ok(())
    }
}

impl Follower for Policy {
    fn listed(&self, resource: &Resource, items: &[(Key, Arc<Object>)]) {
        let mut facts = self.facts.write();
        facts.clear(resource.as_str());
        for (key, object) in items {
            note(&mut facts, key, object);
        }
    }

    fn changed(&self, key: &Key, object: &Object) {
        note(&mut self.facts.write(), key, object);
    }

    fn gone(&self, key: &Key, removed: Revision) {
        self.facts
            .write()
            .remove(key.resource.as_str(), &key.namespace, &key.name, removed);
    }

    fn complete(&self) {
        self.complete.send_replace(true);
    }
}

fn note(facts: &mut Facts, key: &Key, object: &Object) {
    if let Err(error) = facts.note(key, object) {
        tracing::error!(%key, %error, "a stored policy object cannot be read");
    }
}

/// One request's way through admission.
pub struct Gate<'a> {
    /// The policy objects.
    pub policy: &'a Policy,
    /// Who may write what.
    pub rights: &'a Rights,
    /// Who asks.
    pub user: &'a User,
    /// The request.
    pub attributes: Attributes<'a>,
    /// The other object that a node's write is judged by.
    pub related: Option<Value>,
}

impl std::fmt::Debug for Gate<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gate({:?})", self.attributes)
    }
}

impl api::write::Admission for Gate<'_> {
    fn admit(&self, object: &mut Value, old: Option<&Value>) -> Result<(), Status> {
        self.run(admission::admit, object, old).map(|_| ())
    }
}

impl Gate<'_> {
    /// Runs the plugins that only judge, then what depends on who writes.
    pub fn judge(&self, object: &mut Value, old: Option<&Value>) -> Result<Outcome, Status> {
        let outcome = self.run(admission::validate, object, old)?;
        let name = object["metadata"]["name"].as_str().unwrap_or(self.attributes.name);
        let write = self.node_write(name, object, old.unwrap_or(&Value::Null));
        self.rights.check_write(self.attributes.kind, &write)?;
        Ok(outcome)
    }

    /// Whether the object may go.
    pub fn may_delete(&self, old: &Value) -> Result<(), Status> {
        self.run(admission::admit, &mut Value::Null, Some(old))?;
        self.run(admission::validate, &mut Value::Null, Some(old))?;
        let write = self.node_write(self.attributes.name, &Value::Null, old);
        self.rights.check_write(self.attributes.kind, &write)
    }

    /// The write as authorization by content sees it.
    pub fn node_write<'w>(&'w self, name: &'w str, new: &'w Value, old: &'w Value) -> NodeWrite<'w> {
        let Attributes {
            operation,
            kind,
            namespace,
            subresource,
            ..
        } = self.attributes;
        NodeWrite {
            user: self.user,
            operation,
            group: kind.group,
            resource: kind.plural,
            subresource: subresource.map_or("", |subresource| subresource.name()),
            namespace,
            name,
            new,
            old,
            related: self.related.as_ref(),
        }
    }

    fn run(
        &self,
        plugins: fn(&mut Review<'_>, &Facts) -> Result<(), Status>,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<Outcome, Status> {
        admission::run(plugins, &self.attributes, object, old, &self.policy.facts.read())
    }
}
