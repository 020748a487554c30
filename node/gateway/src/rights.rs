//! Who may do what on this node: the roles, bindings and node objects that `access` decides by, followed in the store, and the
//! questions that the gateway asks of it. No decision is made here.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use access::node::{NodeWrite, needed, restrict};
use access::rbac::{RbacWrite, RoleChange};
use access::user::NODES;
use access::{Attributes, Authorizers, ResourceRequest, User};
use api::kinds::Kind;
use api::status::Status;
use parking_lot::{Mutex, RwLock};
use protocol::selector::FieldSelector;
use protocol::store::ObjectStore;
use protocol::{Key, Object, Resource, Revision};
use serde_json::Value;
use tokio::sync::watch;

use crate::follow::{Follower, follow};
use crate::read::{read_status, try_again};
use crate::request::ApiRequest;
use crate::route::{Route, Target};

/// How long a request waits for a node that has just started to have read roles and bindings.
const LOADING_MAX: Duration = Duration::from_secs(5);

const RBAC: &str = "rbac.authorization.k8s.io";

/// What RBAC decides by.
const RULES: [&str; 4] = [
    "roles.rbac.authorization.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
];

/// What the node authorizer decides by. They are many, and nodes seldom come by HTTPS: they are followed from the first request
/// of a node on.
const NODE_OBJECTS: [&str; 4] = [
    "pods",
    "persistentvolumes",
    "volumeattachments.storage.k8s.io",
    "resourceslices.resource.k8s.io",
];

/// What authorization needs of a node.
pub struct Rights {
    store: Arc<dyn ObjectStore>,
    authorizers: RwLock<Authorizers>,
    rules: watch::Sender<bool>,
    node_objects: watch::Sender<bool>,
    follows_nodes: AtomicBool,
}

impl Rights {
    /// Begins to follow roles and bindings.
    pub fn start(store: Arc<dyn ObjectStore>) -> Arc<Rights> {
        let rights = Arc::new(Rights {
            store,
            authorizers: RwLock::default(),
            rules: watch::channel(false).0,
            node_objects: watch::channel(false).0,
            follows_nodes: AtomicBool::new(false),
        });
        rights.follow(&RULES, |rights| &rights.rules);
        rights
    }

    fn follow(self: &Arc<Self>, resources: &[&'static str], complete: fn(&Rights) -> &watch::Sender<bool>) {
        let resources = resources.iter().map(|name| Resource::new(*name)).collect();
        let follower = Following {
            rights: Arc::clone(self),
            known: Mutex::default(),
            complete,
        };
        tokio::spawn(follow(Arc::clone(&self.store), resources, Arc::new(follower)));
    }

    /// Whether the request may go on: 401 without a user where one is needed, 403 without the right.
    pub async fn authorize(
        self: &Arc<Self>,
        user: Option<&User>,
        verb: &str,
        request: &ApiRequest,
        route: &Route,
    ) -> Result<(), Status> {
        if is_open(route) {
            return Ok(());
        }
        let user = user.ok_or_else(Status::unauthorized)?;
        self.loaded(user).await?;
        match route {
            Route::Resource(target) => self.check_target(user, verb, request, target),
            _ => self.check(&attributes_of(user, verb, request, route)),
        }
    }

    fn check_target(&self, user: &User, verb: &str, request: &ApiRequest, target: &Target) -> Result<(), Status> {
        let offered = target.kind.selectable_fields;
        // A selector that cannot be read is refused by whoever reads the list.
        let fields = FieldSelector::parse(request.parameter("fieldSelector"), offered).unwrap_or_default();
        let about = ResourceRequest {
            subresource: target.subresource.map_or("", |subresource| subresource.name()),
            fields: &fields.requirements,
            ..resource_request(
                target.kind,
                &target.namespace,
                target.name.as_deref().unwrap_or_default(),
            )
        }
        .completed(verb);
        self.check(&Attributes::resource(user, verb, about))?;
        match about.also_needs(verb) {
            Some(verb) => self.check(&Attributes::resource(user, verb, about)),
            None => Ok(()),
        }
    }

    /// Whether the user may do this too, as the 403 that the request gets if not.
    pub fn check(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        self.authorizers.read().check(attributes)
    }

    /// Answers a question about rights from what is known.
    pub fn ask<T>(&self, question: impl FnOnce(&Authorizers) -> T) -> T {
        question(&self.authorizers.read())
    }

    /// Waits until what decides about this user was read.
    pub async fn loaded(self: &Arc<Self>, user: &User) -> Result<(), Status> {
        if user.is_in(access::user::MASTERS) {
            return Ok(());
        }
        let is_node = user.is_in(NODES);
        if is_node && !self.follows_nodes.swap(true, Ordering::Relaxed) {
            self.follow(&NODE_OBJECTS, |rights| &rights.node_objects);
        }
        let both = async {
            until_complete(&self.rules).await;
            if is_node {
                until_complete(&self.node_objects).await;
            }
        };
        if tokio::time::timeout(LOADING_MAX, both).await.is_err() {
            return Err(try_again(
                "this node has not read the cluster's roles: the store does not answer it".to_owned(),
            ));
        }
        Ok(())
    }

    /// What `check_write` must know beside the object.
    pub async fn related(&self, write: &NodeWrite<'_>) -> Result<Option<Value>, Status> {
        let Some(needed) = needed(write) else { return Ok(None) };
        let key = Key::new(needed.resource, needed.namespace, needed.name);
        let stored = self.store.read(&key).await.map_err(read_status)?;
        stored
            .map(|stored| stored.value().map_err(Status::internal))
            .transpose()
    }

    /// Whether the user may write just this content: nobody gives away rights that it does not have, and a node writes only
    /// what is its own.
    pub fn check_write(&self, kind: &Kind, write: &NodeWrite<'_>) -> Result<(), Status> {
        if kind.group == RBAC && write.subresource.is_empty() && !write.new.is_null() {
            let change = RoleChange {
                new: write.new,
                old: Some(write.old).filter(|old| !old.is_null()),
            };
            self.authorizers.read().rbac.check_write(&RbacWrite {
                user: write.user,
                resource: kind.plural,
                namespace: write.namespace,
                name: write.name,
                change,
            })?;
        }
        restrict(write)
    }
}

async fn until_complete(complete: &watch::Sender<bool>) {
    // The sender lives as long as this reference.
    let _ = complete.subscribe().wait_for(|complete| *complete).await;
}

/// Who wants what, without the request's selectors: as audit and fairness see a request.
pub fn attributes_of<'a>(user: &'a User, verb: &'a str, request: &'a ApiRequest, route: &'a Route) -> Attributes<'a> {
    match route {
        Route::Resource(target) => {
            let name = target.name.as_deref().unwrap_or_default();
            let about = ResourceRequest {
                subresource: target.subresource.map_or("", |subresource| subresource.name()),
                ..resource_request(target.kind, &target.namespace, name)
            };
            Attributes::resource(user, verb, about.completed(verb))
        }
        _ => Attributes::path(user, verb, &request.path),
    }
}

/// A request for objects of a kind.
pub fn resource_request<'a>(kind: &Kind, namespace: &'a str, name: &'a str) -> ResourceRequest<'a> {
    ResourceRequest {
        namespace,
        group: kind.group,
        version: kind.version,
        resource: kind.plural,
        name,
        ..ResourceRequest::default()
    }
}

/// Paths that need no credential: what load balancers and clients ask before they have one.
fn is_open(route: &Route) -> bool {
    matches!(route, Route::Health(_) | Route::Version)
}

/// Namespace and name.
type Place = (Arc<str>, Arc<str>);

/// Feeds the authorizers.
struct Following {
    rights: Arc<Rights>,
    /// What of each resource the authorizers have been told of.
    known: Mutex<HashMap<Resource, BTreeSet<Place>>>,
    complete: fn(&Rights) -> &watch::Sender<bool>,
}

impl Follower for Following {
    fn listed(&self, resource: &Resource, items: &[(Key, Arc<Object>)]) {
        let place = |key: &Key| (Arc::clone(&key.namespace), Arc::clone(&key.name));
        let now: BTreeSet<_> = items.iter().map(|(key, _)| place(key)).collect();
        let before = self
            .known
            .lock()
            .insert(resource.clone(), now.clone())
            .unwrap_or_default();
        let mut authorizers = self.rights.authorizers.write();
        for (namespace, name) in before.difference(&now) {
            authorizers.remove(resource.plural(), namespace, name);
        }
        for (key, object) in items {
            upsert(&mut authorizers, key, object);
        }
    }

    fn changed(&self, key: &Key, object: &Object) {
        let place = (Arc::clone(&key.namespace), Arc::clone(&key.name));
        self.known.lock().entry(key.resource.clone()).or_default().insert(place);
        upsert(&mut self.rights.authorizers.write(), key, object);
    }

    fn gone(&self, key: &Key, _: Revision) {
        let place = (Arc::clone(&key.namespace), Arc::clone(&key.name));
        self.known
            .lock()
            .entry(key.resource.clone())
            .or_default()
            .remove(&place);
        let mut authorizers = self.rights.authorizers.write();
        authorizers.remove(key.resource.plural(), &key.namespace, &key.name);
    }

    fn complete(&self) {
        (self.complete)(&self.rights).send_replace(true);
    }
}

fn upsert(authorizers: &mut Authorizers, key: &Key, object: &Object) {
    match object.value() {
        Ok(value) => authorizers.upsert(key.resource.plural(), &value),
        Err(error) => tracing::error!(%key, %error, "a stored object that rights depend on cannot be read"),
    }
}
