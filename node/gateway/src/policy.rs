//! Admission on this node: the policy objects that plugins consult, followed in the store, and the gate through which every
//! write of a client goes. What the plugins decide is `admission`'s business.

use std::sync::Arc;
use std::time::Duration;

use admission::{Attributes, CONSULTED, Charge, Fact, Facts, Operation, Review, Settings};
use api::status::Status;
use parking_lot::RwLock;
use protocol::store::ObjectStore;
use protocol::{Key, Object, Resource, Revision};
use serde_json::Value;
use tokio::sync::watch;

use crate::follow::{Follower, follow};
use crate::read::{read_status, try_again};

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
    match object.value() {
        Ok(value) => {
            let fact = Fact {
                revision: object.header.revision,
                value: Arc::new(value),
            };
            facts.upsert(key.resource.as_str(), &key.namespace, &key.name, fact);
        }
        Err(error) => tracing::error!(%key, %error, "a stored policy object cannot be read"),
    }
}

/// One request's way through admission.
#[derive(Clone, Copy)]
pub struct Gate<'a> {
    /// The policy objects.
    pub policy: &'a Policy,
    /// The request.
    pub attributes: Attributes<'a>,
}

impl std::fmt::Debug for Gate<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gate({:?})", self.attributes)
    }
}

impl api::write::Admission for Gate<'_> {
    fn admit(&self, object: &mut Value, old: Option<&Value>) -> Result<(), Status> {
        self.run(object, old, admission::admit).map(|_| ())
    }
}

impl Gate<'_> {
    /// Runs the plugins that only judge. Returns warnings, and what is to be charged to quotas in the same transaction.
    pub fn judge(&self, object: &mut Value, old: Option<&Value>) -> Result<(Vec<String>, Vec<Charge>), Status> {
        self.run(object, old, admission::validate)
    }

    /// Whether the object may go.
    pub fn may_delete(&self, old: &Value) -> Result<(), Status> {
        debug_assert_eq!(self.attributes.operation, Operation::Delete);
        self.run(&mut Value::Null, Some(old), admission::admit)?;
        self.run(&mut Value::Null, Some(old), admission::validate).map(|_| ())
    }

    fn run(
        &self,
        object: &mut Value,
        old: Option<&Value>,
        plugins: fn(&mut Review<'_>, &Facts) -> Result<(), Status>,
    ) -> Result<(Vec<String>, Vec<Charge>), Status> {
        // A generated name is known by now.
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or(self.attributes.name)
            .to_owned();
        let attributes = Attributes {
            name: &name,
            ..self.attributes
        };
        let mut review = Review::new(attributes, std::mem::take(object), old);
        let outcome = plugins(&mut review, &self.policy.facts.read());
        *object = std::mem::take(&mut review.object);
        outcome.map(|()| (review.warnings, review.charges))
    }
}
