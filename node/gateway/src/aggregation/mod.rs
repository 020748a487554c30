//! Aggregated APIs: groups and versions that another server answers for, named by an APIService with a Service. Requests
//! below them are carried there with the user in front-proxy headers; their discovery is merged into this server's; and the
//! leader keeps what APIServices say of themselves.
//!
//! After kube-aggregator (`staging/src/k8s.io/kube-aggregator/pkg/apiserver`).

mod availability;
mod discovery;
mod front_proxy;
mod keeper;
mod local;
mod openapi;
mod proxy;
mod registry;
mod request;

use std::sync::Arc;

use api::status::Status;
use protocol::UnixMillis;
use protocol::store::ObjectStore;
use serde_json::Value;

use crate::follow::{Follower, follow};
use crate::outgoing::https::Https;
use crate::request::{ApiRequest, ApiResponse};
use crate::rights::Rights;

use front_proxy::FrontProxy;
use registry::Registry;

pub use proxy::Switched;
pub use registry::Remote;

/// The resource that is followed.
const API_SERVICES: &str = "apiservices.apiregistration.k8s.io";

/// The aggregated APIs of a node's gateway.
pub struct Aggregation {
    store: Arc<dyn ObjectStore>,
    registry: Arc<Registry>,
    front_proxy: FrontProxy,
    https: Https,
    rights: Arc<Rights>,
}

/// What the keeper of APIServices needs from its surroundings.
#[derive(Clone)]
pub struct Surroundings {
    /// Whether this node leads: one node writes.
    pub leads: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Tells the time.
    pub now: Arc<dyn Fn() -> UnixMillis + Send + Sync>,
    /// Random bits for uids.
    pub random: Arc<dyn Fn() -> u128 + Send + Sync>,
    /// The certificate of the cluster's CA, PEM.
    pub cluster_ca: String,
}

impl Aggregation {
    /// Begins to follow APIServices, and to keep them while this node leads; until the process ends.
    pub fn start(store: Arc<dyn ObjectStore>, rights: Arc<Rights>, surroundings: Surroundings) -> Arc<Aggregation> {
        let aggregation = Arc::new(Aggregation {
            registry: Arc::new(Registry::default()),
            front_proxy: FrontProxy::new(Arc::clone(&store)),
            https: Https::default(),
            store: Arc::clone(&store),
            rights,
        });
        let follower = Arc::clone(&aggregation.registry) as Arc<dyn Follower>;
        tokio::spawn(follow(store, vec![API_SERVICES.into()], follower));
        tokio::spawn(keeper::run(Arc::clone(&aggregation), surroundings));
        aggregation
    }

    /// Who answers for a path instead of this server; `None` for this server's own.
    pub fn remote(&self, path: &str) -> Option<Arc<Remote>> {
        let path = path.strip_prefix("/openapi/v3").unwrap_or(path);
        let mut segments = path.strip_prefix("/apis/")?.split('/');
        self.registry.find(segments.next()?, segments.next()?)
    }

    /// Carries a request to the server that answers for its path.
    ///
    /// # Errors
    ///
    /// The user may not do this, or the server does not answer: 503.
    pub async fn serve(&self, request: &ApiRequest, remote: &Remote) -> Result<ApiResponse, Status> {
        self.carry(request, remote).await
    }

    /// Merges the aggregated groups into `/apis`.
    pub fn merge_groups(&self, document: &mut Value) {
        discovery::merge_groups(document, &self.registry.all());
    }

    /// `/apis/GROUP`, where another server answers for a version of it. `own` is what this server has of the group.
    pub fn group(&self, name: &str, own: Option<Value>) -> Option<Value> {
        discovery::group(name, own, &self.registry.all())
    }

    /// The aggregated discovery document with the groups of other servers.
    pub async fn merge_discovery(&self, document: &Value) -> Option<Value> {
        let remotes = self.registry.all();
        if remotes.is_empty() {
            return None;
        }
        let mut merged = document.clone();
        for remote in &remotes {
            // One that is known not to answer is not waited for.
            let resources = match remote.available {
                Some(false) => None,
                _ => self.resources(remote).await,
            };
            discovery::merge_version(&mut merged, remote, resources.as_ref());
        }
        Some(merged)
    }

    /// Merges other servers' paths and definitions into the OpenAPI v2 document. A server that does not answer has none.
    pub async fn merge_openapi_v2(&self, document: &mut Value) {
        let mut remotes = self.registry.all();
        remotes.retain(|remote| remote.available != Some(false));
        let fetched = remotes.iter().map(|remote| self.fetch(remote, "/openapi/v2"));
        for (remote, fetched) in remotes.iter().zip(futures::future::join_all(fetched).await) {
            match fetched {
                Ok(other) => openapi::merge(document, &other, &remote.group, &remote.version),
                Err(why) => tracing::debug!(api = remote.name, why, "an aggregated API shows no OpenAPI v2 document"),
            }
        }
    }

    /// Merges the paths of other servers' OpenAPI v3 documents into the index.
    pub fn merge_openapi(&self, index: &mut Value) {
        for remote in self.registry.all() {
            let path = format!("apis/{}/{}", remote.group, remote.version);
            let url = format!("/openapi/v3/{path}?hash={}", remote.revision);
            index["paths"][path] = serde_json::json!({"serverRelativeURL": url});
        }
    }
}
