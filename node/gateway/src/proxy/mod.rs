//! The `proxy` subresource of pods, services and nodes: a request goes on to a port of theirs, and its answer comes back, part by
//! part and in both directions, WebSockets included. `plan` says where to, `connect` how; here HTTP is passed on.
//!
//! What proves the client's identity to the API is not passed on. A path that an answer redirects to is put below the
//! proxy's own again, as far as the `Location` header says it.

mod connect;
pub mod plan;

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName as WebName, HeaderValue as WebValue};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use api::kinds::Subresource;
use api::status::Status;
use protocol::node::NodeDoor;

use crate::doorway::SessionRecord;
use crate::route::{Route, route};
use api::custom::CustomKinds;
use connect::connect;
use plan::Destination;

/// How many parts of a body wait in each direction.
const PARTS_WAITING_MAX: usize = 16;

/// A request that may go on.
pub struct ProxyPlan {
    /// Where to, in the order in which they are tried.
    pub destinations: Vec<Destination>,
    /// Whether the other side speaks TLS.
    pub tls: bool,
    /// The way to pods of other nodes.
    pub doors: Arc<dyn NodeDoor>,
    /// The audit log's record of it.
    pub record: SessionRecord,
    /// More headers of the answer.
    pub headers: Vec<(&'static str, String)>,
}

/// Whether a path may be one of a proxy: asked before anything else is read of a request.
pub fn may_concern(path: &str) -> bool {
    path.contains("/proxy") && path.starts_with("/api/v1/")
}

/// Whether a path is one of a proxy.
pub fn concerns(path: &str) -> bool {
    // No custom kind is a way to anything.
    matches!(route(path, &CustomKinds::default()), Route::Resource(target) if target.subresource == Some(Subresource::Proxy))
}

/// The path of the proxy and what follows it, as it was sent.
pub fn split(path: &str) -> (&str, &str) {
    let is_end = |rest: &str| rest.is_empty() || rest.starts_with('/');
    let mut from = 0;
    while let Some(at) = path[from..].find("/proxy") {
        let end = from + at + "/proxy".len();
        // The proxy is the segment after the object's name: a namespace or an object may have that name too.
        let segments = path[..end].split('/').count();
        if is_end(&path[end..]) && matches!(segments, 6 | 8) {
            return path.split_at(end);
        }
        from = end;
    }
    (path, "")
}

/// Headers that concern one connection (RFC 9110, 7.6.1), and what proves the client to the API alone.
fn stays_here(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "authorization"
    ) || name.starts_with("impersonate-")
}

type Body = http_body_util::combinators::BoxBody<Bytes, std::io::Error>;

/// Passes a request on and its answer back.
pub async fn pass(
    http: HttpRequest,
    payload: web::Payload,
    plan: ProxyPlan,
    runtime: Handle,
) -> Result<HttpResponse, Status> {
    let (below, rest) = split(http.uri().path());
    let below = below.to_owned();
    if rest.is_empty() && matches!(http.method().as_str(), "GET" | "HEAD") && !wants_websocket(&http) {
        let query = http.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        return Ok(HttpResponse::MovedPermanently()
            .insert_header(("location", format!("{below}/{query}")))
            .finish());
    }
    let trouble = |why: String| Status::service_unavailable(format!("error trying to reach service: {why}"));
    let wire = connect(&plan.destinations, plan.tls, &plan.doors, &runtime)
        .await
        .map_err(trouble)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(wire))
        .await
        .map_err(|error| trouble(error.to_string()))?;
    let connection = async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection ended");
        }
    };
    actix_web::rt::spawn(connection);
    let upgrades = wants_websocket(&http);
    let (body, payload) = if upgrades {
        (no_body(), Some(payload))
    } else {
        (streamed(payload), None)
    };
    let request = outgoing(&http, rest, upgrades, body).map_err(|error| Status::bad_request(error.to_string()))?;
    let answer = sender
        .send_request(request)
        .await
        .map_err(|error| trouble(error.to_string()))?;
    match payload {
        Some(payload) if answer.status() == hyper::StatusCode::SWITCHING_PROTOCOLS => {
            Ok(switch(answer, payload, &plan.headers, plan.record))
        }
        _ => Ok(back(answer, &below, plan)),
    }
}

/// actix reads on past the head of a request only for a WebSocket.
fn wants_websocket(http: &HttpRequest) -> bool {
    let upgrade = http.headers().get("upgrade").and_then(|value| value.to_str().ok());
    upgrade.is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
}

fn outgoing(http: &HttpRequest, rest: &str, upgrades: bool, body: Body) -> Result<Request<Body>, hyper::http::Error> {
    let path = if rest.is_empty() { "/" } else { rest };
    let query = http.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut request = Request::builder()
        .method(http.method().as_str())
        .uri(format!("{path}{query}"));
    for (name, value) in http.headers() {
        if !stays_here(name.as_str()) {
            request = request.header(name.as_str(), value.as_bytes());
        }
    }
    let info = http.connection_info();
    if !http.headers().contains_key("host") {
        request = request.header("host", info.host()); // HTTP/2 has it elsewhere
    }
    if let Some(peer) = http.peer_addr() {
        let before = http
            .headers()
            .get("x-forwarded-for")
            .and_then(|value| value.to_str().ok());
        let all = before.map_or_else(|| peer.ip().to_string(), |before| format!("{before}, {}", peer.ip()));
        request = replaced(request, "x-forwarded-for", &all);
    }
    request = replaced(request, "x-forwarded-host", info.host());
    request = replaced(request, "x-forwarded-uri", http.uri().path());
    request = replaced(request, "x-forwarded-proto", "https");
    if upgrades {
        request = request.header("connection", "Upgrade").header("upgrade", "websocket");
    }
    request.body(body)
}

fn replaced(
    mut request: hyper::http::request::Builder,
    name: &'static str,
    value: &str,
) -> hyper::http::request::Builder {
    if let (Some(headers), Ok(value)) = (request.headers_mut(), hyper::header::HeaderValue::from_str(value)) {
        headers.insert(name, value);
    }
    request
}

fn no_body() -> Body {
    http_body_util::Empty::new().map_err(|never| match never {}).boxed()
}

/// The request's body, which actix reads on this thread alone.
fn streamed(mut payload: web::Payload) -> Body {
    let (parts, body) = mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(PARTS_WAITING_MAX);
    actix_web::rt::spawn(async move {
        while let Some(part) = payload.next().await {
            let part = part.map(Frame::data).map_err(std::io::Error::other);
            let failed = part.is_err();
            if parts.send(part).await.is_err() || failed {
                return;
            }
        }
    });
    let body = futures::stream::unfold(
        body,
        |mut body| async move { body.recv().await.map(|part| (part, body)) },
    );
    BodyExt::boxed(StreamBody::new(body))
}

/// The head of an answer, without what concerns the connection to the other side.
fn head(answer: &Response<Incoming>, headers: &[(&'static str, String)]) -> actix_web::HttpResponseBuilder {
    let code = StatusCode::from_u16(answer.status().as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut response = HttpResponse::build(code);
    for (name, value) in answer.headers() {
        let converted = (
            WebName::from_bytes(name.as_ref()),
            WebValue::from_bytes(value.as_bytes()),
        );
        if let (false, (Ok(name), Ok(value))) = (stays_here(name.as_str()), converted) {
            response.append_header((name, value));
        }
    }
    for (name, value) in headers {
        response.insert_header((*name, value.as_str()));
    }
    response
}

fn back(answer: Response<Incoming>, below: &str, plan: ProxyPlan) -> HttpResponse {
    let mut response = head(&answer, &plan.headers);
    let location = answer.headers().get("location").and_then(|value| value.to_str().ok());
    if let Some(moved) = location.and_then(|location| relocated(location, below, &plan.destinations)) {
        response.insert_header(("location", moved));
    }
    let length = answer
        .headers()
        .get("content-length")
        .and_then(|value| value.to_str().ok());
    if let Some(length) = length.and_then(|length| length.parse().ok()) {
        response.no_chunking(length);
    }
    let record = plan.record;
    let parts = answer.into_body().into_data_stream().map(move |part| {
        let _until_the_end = &record;
        part
    });
    response.streaming(parts)
}

/// A redirect within what is proxied, below the proxy's path.
fn relocated(location: &str, below: &str, destinations: &[Destination]) -> Option<String> {
    if location.starts_with('/') && !location.starts_with("//") {
        return Some(format!("{below}{location}"));
    }
    let rest = location
        .strip_prefix("http://")
        .or_else(|| location.strip_prefix("https://"))?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let is_own = destinations
        .iter()
        .any(|destination| host == destination.address.to_string() || host == destination.address.ip().to_string());
    is_own.then(|| format!("{below}{path}"))
}

/// Both sides speak another protocol from here on: bytes are passed in both directions until one of them ends.
pub fn switch(
    mut answer: Response<Incoming>,
    mut payload: web::Payload,
    headers: &[(&'static str, String)],
    record: SessionRecord,
) -> HttpResponse {
    let upgraded = hyper::upgrade::on(&mut answer);
    let mut response = head(&answer, headers);
    response.upgrade("websocket");
    let (parts, from_there) = mpsc::channel::<Result<Bytes, std::io::Error>>(PARTS_WAITING_MAX);
    actix_web::rt::spawn(async move {
        let _until_the_end = record;
        let Ok(upgraded) = upgraded.await else { return };
        let (mut reading, mut writing) = tokio::io::split(TokioIo::new(upgraded));
        let there = async {
            while let Some(Ok(part)) = payload.next().await {
                if writing.write_all(&part).await.is_err() {
                    return;
                }
            }
            let _ = writing.shutdown().await;
        };
        let back = async {
            loop {
                let mut part = bytes::BytesMut::with_capacity(16 * 1024);
                match reading.read_buf(&mut part).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) if parts.send(Ok(part.freeze())).await.is_err() => return,
                    Ok(_) => {}
                }
            }
        };
        tokio::select! {
            () = back => {}
            () = async { there.await; parts.closed().await } => {}
        }
    });
    let body = futures::stream::unfold(from_there, |mut from_there| async move {
        from_there.recv().await.map(|part| (part, from_there))
    });
    response.streaming(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxys_path_ends_after_the_object() {
        let cases = [
            ("/api/v1/nodes/n1/proxy/metrics", ("/api/v1/nodes/n1/proxy", "/metrics")),
            ("/api/v1/nodes/n1/proxy", ("/api/v1/nodes/n1/proxy", "")),
            (
                "/api/v1/namespaces/d/services/x:80/proxy/a%2Fb/proxy/c",
                ("/api/v1/namespaces/d/services/x:80/proxy", "/a%2Fb/proxy/c"),
            ),
            (
                "/api/v1/namespaces/proxy/pods/proxy/proxy/",
                ("/api/v1/namespaces/proxy/pods/proxy/proxy", "/"),
            ),
            (
                "/api/v1/namespaces/d/pods/proxyless/log",
                ("/api/v1/namespaces/d/pods/proxyless/log", ""),
            ),
        ];
        for (path, expected) in cases {
            assert_eq!(split(path), expected, "{path}");
        }
    }

    #[test]
    fn redirects_stay_below_the_proxy() {
        let own = [Destination {
            address: "10.244.0.5:80".parse().unwrap(),
            pod: None,
        }];
        let cases = [
            ("/login", Some("/p/login")),
            ("http://10.244.0.5:80/x?y", Some("/p/x?y")),
            ("https://10.244.0.5", Some("/p")),
            ("http://example.com/x", None),
            ("//example.com/x", None),
            ("next", None),
        ];
        for (location, expected) in cases {
            assert_eq!(relocated(location, "/p", &own).as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn credentials_and_the_connections_headers_stay() {
        for name in ["authorization", "impersonate-user", "connection", "transfer-encoding"] {
            assert!(stays_here(name), "{name}");
        }
        for name in ["accept", "cookie", "content-length"] {
            assert!(!stays_here(name), "{name}");
        }
    }
}
