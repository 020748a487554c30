//! The HTTP edge: actix-web over rustls. It turns an HTTP request into an `ApiRequest`, lets the API serve it on the
//! process's main runtime, and turns the answer back. It knows nothing of the API.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use actix_web::dev::{Extensions, ServerHandle};
use actix_web::http::StatusCode;
use actix_web::http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, USER_AGENT, WARNING};
use actix_web::rt::net::TcpStream;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use rustls::ServerConfig;
use tokio::runtime::Handle;

use api::status::Status;
use protocol::Cause;

use crate::request::{ApiRequest, ApiResponse, ResponseBody, User};
use crate::service::Api;
use crate::session::{Session, SessionCounters};

/// The largest request body, as etcd's and the API server's limit.
pub const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Why the edge did not start.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// The port cannot be bound.
    #[error("cannot listen on {address} (HTTPS): {source}; is another process using the port? Choose one with --https-port")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The HTTP server did not start.
    #[error("the HTTP server did not start: {0}")]
    Start(String),
}

/// A running edge.
pub struct Edge {
    handle: ServerHandle,
    /// Where it listens.
    pub address: SocketAddr,
    /// What its sessions add up to.
    pub sessions: Arc<SessionCounters>,
}

impl Edge {
    /// Stops listening and ends open connections.
    pub async fn stop(&self) {
        self.handle.stop(false).await;
    }
}

struct Shared {
    api: Arc<Api>,
    runtime: Handle,
    sessions: Arc<SessionCounters>,
    random: Arc<dyn Fn() -> u128 + Send + Sync>,
}

/// Starts to serve. `tls` says which certificate is shown and which client certificates are accepted.
pub fn start(
    address: SocketAddr,
    tls: ServerConfig,
    api: Arc<Api>,
    random: Arc<dyn Fn() -> u128 + Send + Sync>,
) -> Result<Edge, EdgeError> {
    let listener = TcpListener::bind(address).map_err(|source| EdgeError::Bind { address, source })?;
    let address = listener.local_addr().map_err(|source| EdgeError::Bind { address, source })?;
    let sessions = Arc::new(SessionCounters::default());
    let shared = web::Data::new(Shared { api, runtime: Handle::current(), sessions: Arc::clone(&sessions), random });
    let (started, outcome) = std::sync::mpsc::channel();
    let run = move || {
        let system = actix_web::rt::System::new();
        let server = system.block_on(async move {
            HttpServer::new(move || App::new().app_data(shared.clone()).default_service(web::to(serve)))
                .workers(2)
                .disable_signals()
                .shutdown_timeout(1)
                .on_connect(remember_client)
                .listen_rustls_0_23(listener, tls)
                .map(HttpServer::run)
        });
        match server {
            Ok(server) => {
                // Nobody waits any longer when the caller has gone.
                let _ = started.send(Ok(server.handle()));
                if let Err(error) = system.block_on(server) {
                    tracing::error!(%error, "the HTTP server ended");
                }
            }
            Err(error) => {
                let _ = started.send(Err(EdgeError::Start(error.to_string())));
            }
        }
    };
    std::thread::Builder::new()
        .name("gateway".to_owned())
        .spawn(run)
        .map_err(|error| EdgeError::Start(error.to_string()))?;
    let handle = outcome.recv().map_err(|error| EdgeError::Start(error.to_string()))??;
    Ok(Edge { handle, address, sessions })
}

/// Keeps who the client is, proven by its certificate, with the connection.
fn remember_client(connection: &dyn Any, extensions: &mut Extensions) {
    type Tls = actix_web::rt::net::TcpStream;
    let stream = connection.downcast_ref::<actix_tls::accept::rustls_0_23::TlsStream<Tls>>();
    let certificates = stream.and_then(|stream| stream.get_ref().1.peer_certificates());
    if let Some(user) = certificates.and_then(|chain| chain.first()).and_then(|leaf| user_of(leaf)) {
        extensions.insert(user);
    }
    let _: Option<&TcpStream> = None;
}

/// CN is the user, each O a group (Kubernetes' x509 authentication). rustls has verified the chain.
fn user_of(certificate: &[u8]) -> Option<User> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|group| group.as_str().ok().map(str::to_owned)).collect();
    groups.push("system:authenticated".to_owned());
    Some(User { name, groups })
}

async fn serve(http: HttpRequest, mut payload: web::Payload, shared: web::Data<Shared>) -> HttpResponse {
    let body = match read_body(&mut payload).await {
        Ok(body) => body,
        Err(status) => return respond(ApiResponse::from(status), &shared),
    };
    let header = |name| http.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let mut query = BTreeMap::new();
    for (name, value) in web::Query::<Vec<(String, String)>>::from_query(http.query_string()).map(|q| q.into_inner()).unwrap_or_default() {
        query.entry(name).or_insert(value);
    }
    let cause = Cause((shared.random)() as u64);
    let request = ApiRequest {
        method: http.method().as_str().to_owned(),
        path: http.path().to_owned(),
        query,
        accept: header(ACCEPT),
        content_type: header(CONTENT_TYPE),
        user_agent: header(USER_AGENT),
        body,
        user: http.conn_data::<User>().cloned(),
        cause,
    };
    tracing::debug!(%cause, method = %request.method, path = %request.path, "request");
    let api = Arc::clone(&shared.api);
    // On the main runtime: the work of one client does not hold up the connections of this worker.
    match shared.runtime.spawn(async move { api.handle(request).await }).await {
        Ok(response) => respond(response, &shared),
        Err(error) => {
            tracing::error!(%cause, %error, "serving a request failed: a bug");
            respond(ApiResponse::from(Status::internal("the request could not be served; see the node's log")), &shared)
        }
    }
}

async fn read_body(payload: &mut web::Payload) -> Result<bytes::Bytes, Status> {
    use futures::StreamExt;
    let mut body = bytes::BytesMut::new();
    while let Some(part) = payload.next().await {
        let part = part.map_err(|error| Status::bad_request(format!("the body was not received: {error}")))?;
        if body.len() + part.len() > BODY_BYTES_MAX {
            return Err(Status::too_large(BODY_BYTES_MAX));
        }
        body.extend_from_slice(&part);
    }
    Ok(body.freeze())
}

fn respond(response: ApiResponse, shared: &Shared) -> HttpResponse {
    let code = StatusCode::from_u16(response.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut builder = HttpResponse::build(code);
    builder.insert_header((CONTENT_TYPE, response.content_type));
    for warning in &response.warnings {
        let text = warning.replace(['"', '\\'], "'").replace(['\n', '\r'], " ");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            builder.append_header((WARNING, value));
        }
    }
    match response.body {
        ResponseBody::Full(body) => builder.body(body),
        ResponseBody::Stream(parts) => builder.streaming(Session::start(parts, Arc::clone(&shared.sessions))),
    }
}
