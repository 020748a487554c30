//! The API as one function from request to answer: routes, authorizes, and hands over to reading, watching or writing.
//! The HTTP edge calls it, and so do tests, without a socket.

use std::sync::Arc;

use serde_json::{Value, json};

use access::audit::AuditPolicy;
use api::discovery::BuildVersion;
use api::kinds::Subresource;
use api::status::Status;
use protocol::admin::{AdminDoor, AdminError, AdminRequest};
use protocol::node::NodeDoor;
use protocol::store::ObjectStore;
use protocol::{Cause, Key, Uid, UnixMillis};
use tokio::runtime::Handle;
use tokio::task::JoinError;

use crate::accept::{Form, negotiate};
use crate::addresses::AddressRange;
use crate::aggregation::{Aggregation, Surroundings, Switched};
use crate::audit::{Audit, AuditLog};
use crate::credentials::Credentials;
use crate::custom::Custom;
use crate::doorway::{Doorway, SessionRecord, verb_of};
use crate::fairness::Fairness;
use crate::issuer::Issuer;
use crate::logs;
use crate::policy::Policy;
use crate::proxy::plan::{Destination, ProxyName};
use crate::proxy::{self, ProxyPlan};
use crate::read;
use crate::request::{ApiRequest, ApiResponse};
use crate::reviews;
use crate::rights::Rights;
use crate::route::{Route, Target, route, verb};
use crate::streams::{self, plan::Plan};
use crate::versions::Versions;
use crate::virtual_kind;
use crate::watch::{self, Now, RecentLines};
use crate::webhooks::client::WebhookClient;
use crate::write::{Circumstances, Writer, parse_body};

/// How many endpoints of a Service are tried for one proxied request.
const PROXY_TRIES_MAX: usize = 3;

/// An aggregated API's agreement to a WebSocket, with more headers of the answer and the record of what follows; or an answer.
pub type Switching = Result<
    (
        http::Response<hyper::body::Incoming>,
        Vec<(&'static str, String)>,
        SessionRecord,
    ),
    ApiResponse,
>;

/// Whether this node can serve, and why not: `/readyz`.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the API needs.
pub struct ApiConfig {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The way to the pods of other nodes: their logs, and sessions with them.
    pub nodes: Arc<dyn NodeDoor>,
    /// The way to the actors.
    pub admin: Arc<dyn AdminDoor>,
    /// The range of cluster addresses.
    pub service_range: AddressRange,
    /// Whether a client without a credential is `system:anonymous` instead of refused.
    pub anonymous: bool,
    /// What the operator sets for admission plugins.
    pub admission: admission::Settings,
    /// The certificate of the cluster's CA, PEM.
    pub cluster_ca: String,
    /// The address and port of this node's API.
    pub address: String,
    /// What `/version` says.
    pub version: BuildVersion,
    /// Tells the time.
    pub now: Now,
    /// Random bits for uids and names.
    pub random: Arc<dyn Fn() -> u128 + Send + Sync>,
    /// Whether this node can serve.
    pub readiness: Readiness,
    /// Whether this node leads: the leader keeps the APIServices.
    pub leads: Arc<dyn Fn() -> bool + Send + Sync>,
    /// The text of `/metrics`, in Prometheus' format.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// How many seats requests share that are not exempt from flow control.
    pub requests_in_flight_max: u64,
    /// The audit log, where the operator wants one.
    pub audit: Option<AuditConfig>,
}

/// What is audited, and where to.
pub struct AuditConfig {
    /// The policy.
    pub policy: AuditPolicy,
    /// The log.
    pub log: AuditLog,
}

/// The API of a node.
pub struct Api {
    config: ApiConfig,
    writer: Writer,
    rights: Arc<Rights>,
    issuer: Arc<Issuer>,
    doorway: Doorway,
    custom: Arc<Custom>,
    aggregation: Arc<Aggregation>,
    watch_lines: Arc<RecentLines>,
    versions: Arc<Versions>,
}

impl Api {
    /// An API over a store. From now on it follows the policy objects, on the runtime that this is called on.
    pub fn new(mut config: ApiConfig) -> Api {
        let rights = Rights::start(Arc::clone(&config.store));
        let custom = Custom::start(Arc::clone(&config.store));
        let issuer = Arc::new(Issuer::new(Arc::clone(&config.store)));
        let credentials = Credentials {
            issuer: Arc::clone(&issuer),
            rights: Arc::clone(&rights),
            anonymous: config.anonymous,
        };
        let webhooks = Arc::new(WebhookClient::new(Arc::clone(&config.store)));
        let versions = Versions::new(
            Arc::clone(&config.store),
            Arc::clone(&webhooks),
            Arc::clone(&config.random),
        );
        let audit = config.audit.take().map(|audit| {
            let now = Arc::clone(&config.now);
            Arc::new(Audit {
                policy: audit.policy,
                log: audit.log,
                now,
            })
        });
        let doorway = Doorway {
            credentials,
            audit,
            fairness: Fairness::start(Arc::clone(&config.store), config.requests_in_flight_max),
            random: Arc::clone(&config.random),
        };
        let writer = Writer {
            rights: Arc::clone(&rights),
            store: Arc::clone(&config.store),
            service_range: config.service_range,
            policy: Policy::start(
                Arc::clone(&config.store),
                config.admission,
                webhooks,
                (Arc::clone(&custom), Arc::clone(&versions)),
            ),
            cluster_ca: config.cluster_ca.clone(),
        };
        let surroundings = Surroundings {
            leads: Arc::clone(&config.leads),
            now: Arc::clone(&config.now),
            random: Arc::clone(&config.random),
            cluster_ca: config.cluster_ca.clone(),
        };
        let aggregation = Aggregation::start(Arc::clone(&config.store), Arc::clone(&rights), surroundings);
        Api {
            config,
            aggregation,
            writer,
            rights,
            issuer,
            doorway,
            custom,
            watch_lines: Arc::default(),
            versions,
        }
    }

    /// What a request is about, as far as this node knows the kinds.
    fn route(&self, request: &ApiRequest) -> Route {
        route(&request.path, self.custom.kinds())
    }

    /// A path that leads nowhere may be that of a kind that was defined a moment ago. The store is asked only for those who
    /// have proven who they are.
    async fn looked_up(&self, request: &ApiRequest, known: Route) -> Result<Route, Status> {
        let may_ask = known == Route::Unknown && request.user.is_some();
        if may_ask && self.custom.look_up(&request.path).await? {
            return Ok(self.route(request));
        }
        Ok(known)
    }

    /// Serves one request. It never fails: a refusal is an answer.
    pub async fn handle(&self, request: ApiRequest) -> ApiResponse {
        let route = self.route(&request);
        self.handle_routed(request, route).await
    }

    /// The same for a worker of the HTTP server: what may take its time, and a write, which must not end with its client, is
    /// served on `runtime`; a get of one object costs less than the way there.
    ///
    /// # Errors
    ///
    /// Serving has panicked.
    pub async fn handle_beside(
        self: &Arc<Self>,
        request: ApiRequest,
        runtime: &Handle,
    ) -> Result<ApiResponse, JoinError> {
        let route = self.route(&request);
        if is_brief(&request, &route) {
            return Ok(self.handle_routed(request, route).await);
        }
        let api = Arc::clone(self);
        runtime
            .spawn(async move { api.handle_routed(request, route).await })
            .await
    }

    async fn handle_routed(&self, mut request: ApiRequest, route: Route) -> ApiResponse {
        let passage = match self.doorway.enter(&mut request, &route, (self.config.now)()).await {
            Ok(passage) => passage,
            Err(refused) => return refused,
        };
        let served = match self.looked_up(&request, route).await {
            Ok(route) => self.serve(&request, route).await,
            Err(status) => Err(status),
        };
        let mut response = served.unwrap_or_else(ApiResponse::from);
        if passage.wants_body() {
            response = response.whole().await;
        }
        passage.leave(response)
    }

    /// Whether webhooks or policies judge objects.
    pub fn has_reviewers(&self) -> bool {
        self.writer.asks()
    }

    /// Answers a SubjectAccessReview of this node's own control plane.
    ///
    /// # Errors
    ///
    /// This node has not read the cluster's roles, or the review is none.
    pub async fn review_access(&self, body: &Value) -> Result<Value, Status> {
        let asker = access::User::default();
        self.rights.loaded(&asker).await?;
        self.rights
            .ask(|authorizers| access::review::subject_access_review(body, authorizers))
    }

    /// A new object of the control plane as webhooks and policies let it be stored.
    ///
    /// # Errors
    ///
    /// Why it may not be.
    pub async fn review_created(&self, key: &Key, object: Value, cause: Cause) -> Result<Value, Status> {
        let random = (self.config.random)();
        let uid = Uid::from_bits(random).to_string();
        let with = Circumstances::of_control_plane((self.config.now)(), uid, random as u64, cause);
        self.writer.review_created(key, object, &with).await
    }

    /// The issuer of ServiceAccount tokens on this node.
    pub fn issuer(&self) -> Arc<Issuer> {
        Arc::clone(&self.issuer)
    }

    /// What a request for exec, attach or port-forward may begin, and the way to the pod's node.
    pub async fn plan_session(
        &self,
        mut request: ApiRequest,
        pairs: &[(String, String)],
    ) -> Result<(Plan, Arc<dyn NodeDoor>, SessionRecord), ApiResponse> {
        let route = self.route(&request);
        let passage = self.doorway.enter(&mut request, &route, (self.config.now)()).await?;
        match self.plan(&request, &route, pairs).await {
            Ok(plan) => Ok((plan, Arc::clone(&self.config.nodes), passage.session(101))),
            Err(status) => Err(passage.leave(ApiResponse::from(status))),
        }
    }

    /// Asks the server of an aggregated API for a WebSocket; `None` where this server answers for the path itself.
    pub async fn switch_aggregated(
        &self,
        mut request: ApiRequest,
        handshake: &[(String, String)],
    ) -> Option<Switching> {
        let remote = self.aggregation.remote(&request.path)?;
        let route = self.route(&request);
        let passage = match self.doorway.enter(&mut request, &route, (self.config.now)()).await {
            Ok(passage) => passage,
            Err(refused) => return Some(Err(refused)),
        };
        Some(match self.aggregation.switch(&request, &remote, handshake).await {
            Ok(Switched::Protocol(answer)) => Ok((answer, passage.headers(), passage.session(101))),
            Ok(Switched::Answer(response)) => Err(passage.leave(response)),
            Err(status) => Err(passage.leave(ApiResponse::from(status))),
        })
    }

    /// Where a request of the `proxy` subresource goes on to.
    pub async fn plan_proxy(&self, mut request: ApiRequest) -> Result<ProxyPlan, ApiResponse> {
        let route = self.route(&request);
        let passage = self.doorway.enter(&mut request, &route, (self.config.now)()).await?;
        match self.destinations(&request, &route).await {
            Ok((destinations, tls)) => Ok(ProxyPlan {
                destinations,
                tls,
                doors: Arc::clone(&self.config.nodes),
                headers: passage.headers(),
                record: passage.session(200),
            }),
            Err(status) => Err(passage.leave(ApiResponse::from(status))),
        }
    }

    async fn destinations(&self, request: &ApiRequest, route: &Route) -> Result<(Vec<Destination>, bool), Status> {
        let verb = verb_of(request, route);
        self.rights
            .authorize(request.user.as_ref(), verb, request, route)
            .await?;
        let Route::Resource(target) = route else {
            return Err(Status::no_such_resource());
        };
        let named = target.name.as_deref().unwrap_or_default();
        let name = ProxyName::parse(&target.kind.kind.to_ascii_lowercase(), named)?;
        let object = Target {
            name: Some(name.name.to_owned()),
            ..target.clone()
        };
        let value = self.stored(&object).await?.value().map_err(Status::internal)?;
        let destinations = match target.kind.plural {
            "pods" => vec![proxy::plan::of_pod(&name, &value)?],
            "nodes" => {
                // What a node serves by itself, it serves by TLS.
                let tls = name.tls || name.port.is_empty();
                return Ok((vec![proxy::plan::of_node(&name, &value)?], tls));
            }
            _ => {
                let slices = read::slices_of(self.config.store.as_ref(), &target.namespace, name.name).await?;
                let mut found = proxy::plan::of_service(&name, &value, &slices)?;
                // Requests spread over the endpoints.
                let first = (self.config.random)() as usize % found.len();
                found.rotate_left(first);
                found.truncate(PROXY_TRIES_MAX);
                found
            }
        };
        Ok((destinations, name.tls))
    }

    async fn plan(&self, request: &ApiRequest, route: &Route, pairs: &[(String, String)]) -> Result<Plan, Status> {
        // Kubernetes asks for the right to create, whichever method carries the upgrade (since 1.35).
        self.rights
            .authorize(request.user.as_ref(), "create", request, route)
            .await?;
        let Route::Resource(target) = route else {
            return Err(Status::no_such_resource());
        };
        let Some(subresource) = target.subresource else {
            return Err(Status::bad_request(
                "this resource has nothing that a connection could be upgraded to",
            ));
        };
        let stored = self.stored(target).await?;
        let with = self.circumstances(request, (self.config.now)())?;
        self.writer.connect(target, pairs, &with).await?;
        let pod = stored.value().map_err(Status::internal)?;
        streams::plan::plan(subresource, request, pairs, &pod)
    }

    async fn serve(&self, request: &ApiRequest, route: Route) -> Result<ApiResponse, Status> {
        if let Some(remote) = self.aggregation.remote(&request.path) {
            return self.aggregation.serve(request, &remote).await;
        }
        let verb = match &route {
            Route::Resource(target) => {
                let watches = request.flag("watch");
                verb(&request.method, target, watches).ok_or_else(Status::method_not_allowed_path)?
            }
            _ => verb_of(request, &route),
        };
        self.rights
            .authorize(request.user.as_ref(), verb, request, &route)
            .await?;
        match route {
            Route::Resource(target) => self.resource(request, &target, verb).await,
            Route::Admin => self.admin(request).await,
            Route::Unknown => Err(Status::no_such_resource()),
            _ if !matches!(request.method.as_str(), "GET" | "HEAD") => Err(Status::method_not_allowed_path()),
            Route::Issuer => Ok(self.issuer.discovery(&self.config.address)),
            Route::IssuerKeys => self.issuer.keys().await,
            other => self.document(request, &other).await,
        }
    }

    async fn document(&self, request: &ApiRequest, route: &Route) -> Result<ApiResponse, Status> {
        let aggregated = negotiate(&request.accept).is_ok_and(|(form, _)| form == Form::AggregatedDiscovery);
        let rows = || self.custom.kinds().with_built_in();
        let found = |document: Option<Value>| document.ok_or_else(Status::no_such_resource);
        let document = match route {
            Route::Health(_) => return Ok(self.health()),
            Route::Metrics => return Ok(ApiResponse::text(200, self.metrics())),
            Route::Version => api::discovery::version(&self.config.version),
            Route::CoreVersions if aggregated => {
                return Ok(aggregated_discovery(&api::discovery::aggregated_core(&rows())));
            }
            Route::Groups if aggregated => {
                let own = api::discovery::aggregated_groups(&rows());
                let merged = self.aggregation.merge_discovery(&own).await;
                return Ok(aggregated_discovery(merged.as_ref().unwrap_or(&own)));
            }
            Route::CoreVersions => api::discovery::core_versions(&self.config.address),
            Route::Groups => {
                let mut groups = api::discovery::groups(&rows());
                self.aggregation.merge_groups(&mut groups);
                groups
            }
            Route::Group(group) => found(self.aggregation.group(group, api::discovery::group(&rows(), group)))?,
            Route::GroupVersion(group, version) => found(api::discovery::resources(&rows(), group, version))?,
            Route::Root => api::discovery::root_paths(&rows()),
            Route::OpenApiV3Index => {
                let mut index = api::openapi::v3_index(&rows());
                self.aggregation.merge_openapi(&mut index);
                index
            }
            Route::OpenApiV3(path) => found(api::openapi::v3(&rows(), path))?,
            Route::OpenApiV2 => {
                let mut whole = api::openapi::v2(&rows());
                self.aggregation.merge_openapi_v2(&mut whole).await;
                let (content_type, body) = api::openapi::v2_encoded(&whole, &request.accept);
                return Ok(ApiResponse {
                    content_type: content_type.into(),
                    ..ApiResponse::json(200, body)
                });
            }
            Route::Issuer | Route::IssuerKeys | Route::Admin | Route::Resource(_) | Route::Unknown => {
                return Err(Status::no_such_resource());
            }
        };
        Ok(ApiResponse::value(200, &document))
    }

    fn metrics(&self) -> String {
        let mut text = (self.config.metrics)();
        text.push_str(&self.doorway.fairness.metrics());
        if let Some(audit) = &self.doorway.audit {
            text.push_str(&audit.metrics());
        }
        text
    }

    /// The next list of the resource is weighed by what this one held.
    fn note_list(&self, request: &ApiRequest, target: &Target, page: &protocol::store::ListPage) {
        let is_whole = request.parameter("limit").is_empty() && target.namespace.is_empty();
        if is_whole || page.items.len() > 100 {
            let objects = page.items.len() as u64 + page.remaining.unwrap_or(0);
            self.doorway.fairness.note_list(target.kind.resource(), objects);
        }
    }

    fn health(&self) -> ApiResponse {
        match (self.config.readiness)() {
            Ok(()) => ApiResponse::text(200, "ok"),
            Err(reason) => ApiResponse::text(503, format!("not ready: {reason}\n")),
        }
    }

    async fn resource(&self, request: &ApiRequest, target: &Target, verb: &str) -> Result<ApiResponse, Status> {
        let now = (self.config.now)();
        if target.subresource.is_none() && !target.kind.offers(verb) {
            return Err(Status::method_not_allowed_path());
        }
        if target.kind.is_virtual {
            return self.virtual_kind(request, target, verb, now).await;
        }
        match (verb, target.subresource) {
            ("get", Some(Subresource::Log)) => self.logs(request, target).await,
            (_, Some(Subresource::Proxy)) => Err(Status::bad_request("the proxy is reached over HTTPS alone")),
            (_, Some(Subresource::Exec | Subresource::Attach | Subresource::PortForward)) => Err(Status::bad_request(
                "unable to upgrade: the request does not ask for a WebSocket",
            )),
            ("get", Some(Subresource::Scale)) => {
                let stored = self.stored(target).await?;
                let value = target.kind.served(stored.value().map_err(Status::internal)?);
                Ok(ApiResponse::value(200, &api::write::scale_of(target.kind, &value)?))
            }
            ("get", below) if reads_object(below) && request.flag("watch") => self.watch(request, target).await,
            ("get", below) if reads_object(below) => {
                let stored = self.stored(target).await?;
                read::one(request, target.kind, 200, &stored, now)
            }
            ("create", Some(Subresource::Token)) => self.token(request, target, now).await,
            ("watch", None) => self.watch(request, target).await,
            ("list", None) => {
                let view = self.versions.for_request(target.kind, request);
                let store = view.as_deref().unwrap_or(self.config.store.as_ref());
                if read::is_passed_on(request, target.kind)? {
                    return self.pass_list_on(store, request, target).await;
                }
                let page = read::list(store, request, target).await?;
                self.note_list(request, target, &page);
                read::page(request, target.kind, &page, now)
            }
            _ => self.write(request, target, verb, now).await,
        }
    }

    /// A whole list of what is stored. The next list of the resource is weighed by what this one held.
    async fn pass_list_on(
        &self,
        store: &dyn ObjectStore,
        request: &ApiRequest,
        target: &Target,
    ) -> Result<ApiResponse, Status> {
        let list = read::list_request(request, target)?;
        let bodies = store.bodies(list).await.map_err(read::read_status)?;
        let (fairness, resource) = (Arc::clone(&self.doorway.fairness), target.kind.resource());
        let is_whole = target.namespace.is_empty();
        let note = move |objects: u64| {
            if is_whole || objects > 100 {
                fairness.note_list(resource, objects);
            }
        };
        read::passed_on(request, target.kind, bodies, note).await
    }

    fn circumstances(&self, request: &ApiRequest, now: UnixMillis) -> Result<Circumstances, Status> {
        let random = (self.config.random)();
        let uid = Uid::from_bits(random).to_string();
        Circumstances::of(request, now, uid, random as u64 ^ (random >> 64) as u64)
    }

    async fn write(
        &self,
        request: &ApiRequest,
        target: &Target,
        verb: &str,
        now: UnixMillis,
    ) -> Result<ApiResponse, Status> {
        let with = self.circumstances(request, now)?;
        if let Some(view) = self.versions.for_request(target.kind, request) {
            return self
                .write_by(&self.writer.over(view), request, target, verb, &with)
                .await;
        }
        self.write_by(&self.writer, request, target, verb, &with).await
    }

    async fn write_by(
        &self,
        writer: &Writer,
        request: &ApiRequest,
        target: &Target,
        verb: &str,
        with: &Circumstances,
    ) -> Result<ApiResponse, Status> {
        match (verb, target.subresource) {
            ("create", None) if target.name.is_none() => writer.create(request, target, with).await,
            ("create", Some(Subresource::Binding)) => writer.bind(request, target, with).await,
            ("create", Some(Subresource::Eviction)) => {
                writer.delete(request, target, with).await?;
                let done =
                    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
                Ok(ApiResponse::value(201, &done))
            }
            ("update", below)
                if reads_object(below) || matches!(below, Some(Subresource::Scale | Subresource::Finalize)) =>
            {
                writer.update(request, target, with).await
            }
            ("patch", below) if reads_object(below) || below == Some(Subresource::Scale) => {
                writer.patch(request, target, with).await
            }
            ("delete", None) => writer.delete(request, target, with).await,
            ("deletecollection", None) => writer.delete_collection(request, target, with).await,
            _ => Err(Status::method_not_allowed_path()),
        }
    }

    /// Kinds that are stored nowhere: what is asked is answered from what the node knows.
    async fn virtual_kind(
        &self,
        request: &ApiRequest,
        target: &Target,
        verb: &str,
        now: UnixMillis,
    ) -> Result<ApiResponse, Status> {
        match (target.kind.group, target.kind.plural, verb) {
            ("", "componentstatuses", "list") => {
                let parts = virtual_kind::components((self.config.readiness)());
                let meta = json!({"resourceVersion": ""});
                read::shown_list(request, target.kind, &parts, meta, now)
            }
            ("", "componentstatuses", "get") => {
                let name = target.name.as_deref().unwrap_or_default();
                let parts = virtual_kind::components((self.config.readiness)());
                let part = parts.iter().find(|part| part["metadata"]["name"] == name);
                let part = part.ok_or_else(|| Status::not_found(target.kind, name))?;
                read::shown(request, target.kind, 200, part, now)
            }
            ("", "bindings", _) => {
                let body = parse_body(request)?.value;
                let target = virtual_kind::bound_pod(target, &body)?;
                self.write(request, &target, "create", now).await
            }
            (_, _, "create") => {
                let body = parse_body(request)?.value;
                let user = request.user.clone().unwrap_or_default();
                let answer = reviews::answer(target, &body, &user, &self.rights, &self.issuer, now).await;
                let answer = answer.ok_or_else(Status::method_not_allowed_path)??;
                read::shown(request, target.kind, 201, &answer, now)
            }
            _ => Err(Status::method_not_allowed_path()),
        }
    }

    /// POST of a TokenRequest.
    async fn token(&self, request: &ApiRequest, target: &Target, now: UnixMillis) -> Result<ApiResponse, Status> {
        let body = parse_body(request)?.value;
        let account = target.name.as_deref().unwrap_or_default();
        let id = Uid::from_bits((self.config.random)());
        let (answer, warnings) = self
            .issuer
            .request((&target.namespace, account), &body, id.as_str(), now, None)
            .await?;
        Ok(ApiResponse::value(201, &answer).warning(warnings))
    }

    async fn watch(&self, request: &ApiRequest, target: &Target) -> Result<ApiResponse, Status> {
        let now = Arc::clone(&self.config.now);
        let lines = Arc::clone(&self.watch_lines);
        let view = self.versions.for_request(target.kind, request);
        let store = view.as_deref().unwrap_or(self.config.store.as_ref());
        let opened = watch::open(store, request, target, now, lines).await?;
        Ok(self.custom.while_defined(target.kind, opened))
    }

    async fn stored(&self, target: &Target) -> Result<Arc<protocol::Object>, Status> {
        let key = read::key_of(target);
        let view = target.kind.custom.and_then(|_| self.versions.of(target.kind, false));
        let store = view.as_deref().unwrap_or(self.config.store.as_ref());
        let stored = store.read(&key).await.map_err(read::read_status)?;
        stored.ok_or_else(|| Status::not_found(target.kind, &key.name))
    }

    async fn logs(&self, request: &ApiRequest, target: &Target) -> Result<ApiResponse, Status> {
        let stored = self.stored(target).await?;
        let pod = stored.value().map_err(Status::internal)?;
        logs::open(self.config.nodes.as_ref(), request, &pod, (self.config.now)()).await
    }

    async fn admin(&self, request: &ApiRequest) -> Result<ApiResponse, Status> {
        let message: AdminRequest = serde_json::from_slice(&request.body)
            .map_err(|error| Status::bad_request(format!("not a message for actors: {error}")))?;
        tracing::debug!(cause = %request.cause, user = ?request.user.as_ref().map(|user| &user.name), ?message, "admin");
        match self.config.admin.serve(message).await {
            Ok(reply) => Ok(ApiResponse::json(
                200,
                serde_json::to_vec(&reply).map_err(Status::internal)?,
            )),
            Err(error) => {
                let code = match &error {
                    AdminError::NoSuchPath { .. } => 404,
                    AdminError::NotUnderstood { .. } => 400,
                    AdminError::NoAnswer { .. } => 504,
                };
                Ok(ApiResponse::json(
                    code,
                    serde_json::to_vec(&error).map_err(Status::internal)?,
                ))
            }
        }
    }
}

/// Whether a request reads one object, or asks whether the node is well.
fn is_brief(request: &ApiRequest, route: &Route) -> bool {
    let asks_for_one = match route {
        Route::Resource(target) => {
            target.name.is_some()
                && target.subresource.is_none()
                && target.kind.told_as_stored()
                && !request.flag("watch")
        }
        Route::Health(_) => true,
        _ => false,
    };
    request.method == "GET" && asks_for_one
}

/// Whether this path is read and written as the whole object, of which it changes a part.
fn reads_object(below: Option<Subresource>) -> bool {
    use Subresource::{Approval, EphemeralContainers, Resize, Status};
    matches!(below, None | Some(Status | Approval | EphemeralContainers | Resize))
}

fn aggregated_discovery(document: &Value) -> ApiResponse {
    let mut response = ApiResponse::value(200, document);
    response.content_type = api::discovery::AGGREGATED_CONTENT_TYPE.into();
    response
}
