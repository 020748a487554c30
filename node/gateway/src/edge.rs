//! The HTTP edge: actix-web over rustls. It turns an HTTP request into an `ApiRequest`, lets the API serve it on the
//! process's main runtime, and turns the answer back. It knows nothing of the API.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::{Extensions, ServerHandle};
use actix_web::http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
    TRANSFER_ENCODING, USER_AGENT, WARNING,
};
use actix_web::http::{StatusCode, Version};
use actix_web::rt::net::TcpStream;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use futures::TryStreamExt;
use rustls::ServerConfig;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use access::User;
use access::token::bearer::of_header;
use api::status::Status;
use protocol::Cause;

use crate::audit::Notes;
use crate::compression;
use crate::proxy;
use crate::request::{ApiRequest, ApiResponse, ResponseBody};
use crate::service::Api;
use crate::session::{Connection, ConnectionOpen, Patience, Session, SessionCounters, UNREAD_MAX};
use crate::streams;

/// The largest request body, as etcd's and the API server's limit.
pub const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;

/// How long a client may take to send a body.
const BODY_SECONDS_MAX: u64 = 30;

/// Why the edge did not start.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// The port cannot be bound.
    #[error(
        "cannot listen on {address} (HTTPS): {source}; is another process using the port? Choose one with --https-port"
    )]
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

/// Takes the address on which the API is served. A node does so once before it makes anything, and gives it back: a port in
/// use must be found while there is nothing to leave behind, and no client may wait for an API that does not serve as yet.
///
/// # Errors
///
/// The address, and why it cannot be had.
pub fn bind(address: SocketAddr) -> Result<TcpListener, EdgeError> {
    TcpListener::bind(address).map_err(|source| EdgeError::Bind { address, source })
}

/// Starts to serve. `tls` says which certificate is shown and which client certificates are accepted.
pub fn start(
    address: SocketAddr,
    tls: ServerConfig,
    api: Arc<Api>,
    random: Arc<dyn Fn() -> u128 + Send + Sync>,
) -> Result<Edge, EdgeError> {
    let listener = bind(address)?;
    let address = listener
        .local_addr()
        .map_err(|source| EdgeError::Bind { address, source })?;
    let sessions = Arc::new(SessionCounters::default());
    let shared = web::Data::new(Shared {
        api,
        runtime: Handle::current(),
        sessions: Arc::clone(&sessions),
        random,
    });
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
    Ok(Edge {
        handle,
        address,
        sessions,
    })
}

/// Keeps with the connection who the client is, proven by its certificate, and how sessions learn that it has closed.
fn remember_client(connection: &dyn Any, extensions: &mut Extensions) {
    let stream = connection.downcast_ref::<actix_tls::accept::rustls_0_23::TlsStream<TcpStream>>();
    let certificates = stream.and_then(|stream| stream.get_ref().1.peer_certificates());
    if let Some(user) = certificates
        .and_then(|chain| chain.first())
        .and_then(|leaf| user_of(leaf))
    {
        extensions.insert(user);
    }
    let socket = stream.map(|stream| stream.get_ref().0);
    if let Some(socket) = socket
        && let Err(error) = socket.set_nodelay(true)
    {
        // Without it the first answer waits 40 ms for the client's acknowledgement of TLS' session tickets.
        tracing::debug!(%error, "a connection keeps Nagle's algorithm");
    }
    let socket = socket.map(AsRawFd::as_raw_fd);
    extensions.insert(ConnectionOpen::new(socket));
}

/// CN is the user, each O a group (Kubernetes' x509 authentication). rustls has verified the chain.
fn user_of(certificate: &[u8]) -> Option<User> {
    let sha256: [u8; 32] = Sha256::digest(certificate).into();
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject
        .iter_organization()
        .filter_map(|group| group.as_str().ok().map(str::to_owned));
    Some(User::of_certificate(&name, groups, &sha256))
}

async fn serve(http: HttpRequest, mut payload: web::Payload, shared: web::Data<Shared>) -> HttpResponse {
    if proxy::may_concern(http.path()) && percent_decoded(http.path()).is_some_and(|path| proxy::concerns(&path)) {
        return pass_on(http, payload, &shared).await;
    }
    let connection = connection_of(&http);
    let request = match read_request(&http, &mut payload, &shared).await {
        Ok(request) => request,
        Err(status) => return respond(ApiResponse::from(status), &http, connection, &shared),
    };
    if streams::upgrades_to(&http) == Some(streams::Upgrade::WebSocket) && request.path.starts_with("/apis/") {
        let (api, asked, handshake) = (Arc::clone(&shared.api), request.clone(), handshake_of(&http));
        let switching = shared
            .runtime
            .spawn(async move { api.switch_aggregated(asked, &handshake).await });
        match switching.await {
            Ok(None) => {}
            Ok(Some(Ok((answer, headers, record)))) => return proxy::switch(answer, payload, &headers, record),
            Ok(Some(Err(refused))) => return respond(refused, &http, connection, &shared),
            Err(error) => {
                tracing::error!(%error, "carrying an upgrade failed: a bug");
                let status = Status::internal("the request could not be served; see the node's log");
                return respond(ApiResponse::from(status), &http, connection, &shared);
            }
        }
    }
    if streams::upgrades_to(&http).is_some() {
        let begun = begin_session(&http, payload, request, connection.clone(), &shared).await;
        return begun.unwrap_or_else(|refused| respond(refused, &http, connection, &shared));
    }
    let gzip = compression::is_wanted(&request.method, &header(&http, ACCEPT_ENCODING));
    let cause = request.cause;
    tracing::debug!(%cause, method = %request.method, path = %request.path, "request");
    // The work of one client does not hold up the connections of this worker.
    let response = match shared.api.handle_beside(request, &shared.runtime).await {
        Ok(response) => response,
        Err(error) => {
            tracing::error!(%cause, %error, "serving a request failed: a bug");
            ApiResponse::from(Status::internal("the request could not be served; see the node's log"))
        }
    };
    let response = if gzip {
        compression::gzip(response, &shared.runtime).await
    } else {
        response
    };
    respond(response, &http, connection, &shared)
}

/// What a client says about the WebSocket that it asks for.
fn handshake_of(http: &HttpRequest) -> Vec<(String, String)> {
    let told = http.headers().iter();
    told.filter(|(name, _)| name.as_str().starts_with("sec-websocket-"))
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
        .collect()
}

fn connection_of(http: &HttpRequest) -> Connection {
    let open = http.conn_data::<ConnectionOpen>();
    open.map(ConnectionOpen::connection).unwrap_or_default()
}

/// Passes a request of the `proxy` subresource on.
async fn pass_on(http: HttpRequest, payload: web::Payload, shared: &Shared) -> HttpResponse {
    let connection = connection_of(&http);
    let request = match read_head(&http, shared) {
        Ok(request) => request,
        Err(status) => return respond(ApiResponse::from(status), &http, connection, shared),
    };
    let api = Arc::clone(&shared.api);
    let planned = shared.runtime.spawn(async move { api.plan_proxy(request).await }).await;
    let planned = planned.unwrap_or_else(|error| {
        tracing::error!(%error, "planning a proxied request failed: a bug");
        Err(ApiResponse::from(Status::internal(
            "the request could not be served; see the node's log",
        )))
    });
    let passed = match planned {
        Ok(plan) => proxy::pass(http.clone(), payload, plan, shared.runtime.clone())
            .await
            .map_err(ApiResponse::from),
        Err(refused) => Err(refused),
    };
    passed.unwrap_or_else(|refused| respond(refused, &http, connection, shared))
}

/// Upgrades the connection of a request for exec, attach or port-forward.
async fn begin_session(
    http: &HttpRequest,
    payload: web::Payload,
    request: ApiRequest,
    connection: Connection,
    shared: &Shared,
) -> Result<HttpResponse, ApiResponse> {
    let (api, pairs) = (Arc::clone(&shared.api), query_pairs(http)?);
    let planned = shared
        .runtime
        .spawn(async move { api.plan_session(request, &pairs).await });
    let (plan, doors, record) = planned.await.map_err(|error| {
        tracing::error!(%error, "planning a session failed: a bug");
        Status::internal("the request could not be served; see the node's log")
    })??;
    let with = (shared.runtime.clone(), connection, Arc::clone(&shared.sessions), record);
    streams::upgrade(http, payload, plan, doors, with).map_err(ApiResponse::from)
}

fn query_pairs(http: &HttpRequest) -> Result<Vec<(String, String)>, Status> {
    web::Query::<Vec<(String, String)>>::from_query(http.query_string())
        .map(web::Query::into_inner)
        .map_err(|error| Status::bad_request(format!("the query cannot be read: {error}")))
}

async fn read_request(http: &HttpRequest, payload: &mut web::Payload, shared: &Shared) -> Result<ApiRequest, Status> {
    let body = match streams::upgrades_to(http) {
        None => read_body(http, payload).await?,
        Some(_) => bytes::Bytes::new(), // what follows is the session's
    };
    Ok(ApiRequest {
        body,
        ..read_head(http, shared)?
    })
}

/// The request without its body.
fn read_head(http: &HttpRequest, shared: &Shared) -> Result<ApiRequest, Status> {
    let header = |name| header(http, name);
    let mut query = BTreeMap::new();
    for (name, value) in query_pairs(http)? {
        query.entry(name).or_insert(value);
    }
    let path = percent_decoded(http.path())
        .ok_or_else(|| Status::bad_request(format!("the path {:?} is not percent-encoded UTF-8", http.path())))?;
    Ok(ApiRequest {
        method: http.method().as_str().to_owned(),
        path,
        query,
        accept: header(ACCEPT),
        content_type: header(CONTENT_TYPE),
        user_agent: header(USER_AGENT),
        body: bytes::Bytes::new(),
        user: http.conn_data::<User>().cloned(),
        bearer: of_header(&header(AUTHORIZATION)).map(str::to_owned),
        impersonation: impersonation_headers(http),
        cause: Cause((shared.random)() as u64),
        uri: http.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
        peer: http.peer_addr().map(|address| address.ip()),
        forwarded_for: header(HeaderName::from_static("x-forwarded-for")),
        audit_id: header(HeaderName::from_static("audit-id")),
        connection: connection_of(http),
        notes: Notes::default(),
    })
}

/// A header's value; empty when there is none.
fn header(http: &HttpRequest, name: HeaderName) -> String {
    let value = http.headers().get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

fn impersonation_headers(http: &HttpRequest) -> Vec<(String, String)> {
    let named = http
        .headers()
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("impersonate-"));
    named
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
        .collect()
}

async fn read_body(http: &HttpRequest, payload: &mut web::Payload) -> Result<bytes::Bytes, Status> {
    let length = http.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let length: Option<u64> = length.and_then(|text| text.parse().ok());
    match length {
        // Most requests have no body: they pay for no timer.
        Some(0) => return Ok(bytes::Bytes::new()),
        None if !http.headers().contains_key(TRANSFER_ENCODING) && http.version() < Version::HTTP_2 => {
            return Ok(bytes::Bytes::new());
        }
        Some(length) if length > BODY_BYTES_MAX as u64 => return Err(Status::too_large(BODY_BYTES_MAX)),
        _ => {}
    }
    let gathered = gather(payload, length.unwrap_or(0) as usize);
    match tokio::time::timeout(Duration::from_secs(BODY_SECONDS_MAX), gathered).await {
        Ok(body) => body,
        Err(_) => Err(Status::timeout(format!(
            "the request's body did not come within {BODY_SECONDS_MAX} seconds"
        ))),
    }
}

async fn gather(payload: &mut web::Payload, expected: usize) -> Result<bytes::Bytes, Status> {
    use futures::StreamExt;
    let mut body = bytes::BytesMut::with_capacity(expected.min(64 << 10));
    while let Some(part) = payload.next().await {
        let part = part.map_err(|error| Status::bad_request(format!("the body was not received: {error}")))?;
        if body.len() + part.len() > BODY_BYTES_MAX {
            return Err(Status::too_large(BODY_BYTES_MAX));
        }
        body.extend_from_slice(&part);
    }
    Ok(body.freeze())
}

/// A warning as RFC 7234 writes it: code, agent and a quoted text.
fn warning_header(text: &str) -> String {
    let quoted: String = text
        .chars()
        .filter(|character| !character.is_control())
        .flat_map(|character| {
            matches!(character, '"' | '\\')
                .then_some('\\')
                .into_iter()
                .chain([character])
        })
        .collect();
    format!("299 - \"{quoted}\"")
}

/// Resolves `%XX` in a path; `None` when that is malformed or no UTF-8.
fn percent_decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [char::from(rest.next()?), char::from(rest.next()?)];
            bytes.push((digits[0].to_digit(16)? * 16 + digits[1].to_digit(16)?) as u8);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// A watch that nobody reads ends. Over HTTP/2 the connection carries other requests too, and is left to them.
fn watch_patience(http: &HttpRequest) -> Patience {
    let open = http
        .conn_data::<ConnectionOpen>()
        .filter(|_| http.version() < Version::HTTP_2);
    Patience {
        unread_max: Some(UNREAD_MAX),
        socket: open.and_then(ConnectionOpen::socket),
    }
}

fn respond(response: ApiResponse, http: &HttpRequest, connection: Connection, shared: &Shared) -> HttpResponse {
    let code = StatusCode::from_u16(response.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut builder = HttpResponse::build(code);
    builder.insert_header((CONTENT_TYPE, response.content_type.as_ref()));
    for warning in &response.warnings {
        if let Ok(value) = HeaderValue::from_bytes(warning_header(warning).as_bytes()) {
            builder.append_header((WARNING, value));
        }
    }
    for (name, value) in &response.headers {
        builder.insert_header((*name, value.as_str()));
    }
    if response.retry_after_seconds > 0 {
        builder.insert_header((RETRY_AFTER, response.retry_after_seconds.to_string()));
    }
    let (parts, patience) = match response.body {
        ResponseBody::Full(body) => return builder.body(body),
        ResponseBody::Parts { parts, .. } => {
            return builder.streaming(parts.inspect_err(|error| {
                tracing::error!(%error, "a list was cut off: the store could not be read to its end");
            }));
        }
        ResponseBody::Stream(parts) => (parts, Patience::default()),
        ResponseBody::Watch(events) => (events, watch_patience(http)),
    };
    builder.streaming(Session::start(
        parts,
        connection,
        patience,
        Arc::clone(&shared.sessions),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_keep_their_quotes() {
        assert_eq!(
            warning_header("unknown field \"a\\b\"\n"),
            r#"299 - "unknown field \"a\\b\"""#
        );
    }

    #[test]
    fn paths_are_decoded_or_refused() {
        assert_eq!(percent_decoded("/a%3Ab/%C3%A4").as_deref(), Some("/a:b/ä"));
        for bad in ["/%", "/%4", "/%zz", "/%FF"] {
            assert_eq!(percent_decoded(bad), None, "{bad}");
        }
    }
}
