//! Requests on their way to an aggregated server and its answers on their way back.

use std::sync::Arc;
use std::time::Duration;

use access::{Attributes, User};
use api::status::Status;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::future::ready;
use http_body_util::BodyExt;

use super::Aggregation;
use super::registry::Remote;
use super::request::{About, outgoing, upgrading};
use crate::outgoing::address;
use crate::outgoing::https::Destination;
use crate::outgoing::trust::Trust;
use crate::request::{ApiRequest, ApiResponse, BodyStream};

/// How long the head of an answer is waited for. A watch's comes at once.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Answers of a known length up to this are read whole; others are passed on as they come.
const WHOLE_BYTES_MAX: u64 = 1024 * 1024;

impl Aggregation {
    pub(super) async fn carry(&self, request: &ApiRequest, remote: &Remote) -> Result<ApiResponse, Status> {
        let user = self.admitted(request, remote).await?;
        let host = host(remote);
        let outgoing = outgoing(request, user, &host).map_err(|error| Status::bad_request(error.to_string()))?;
        let unreachable = |why: &dyn std::fmt::Display| unreachable(request, &host, why);
        let destination = self.destination(remote).await.map_err(|why| unreachable(&why))?;
        let answer = tokio::time::timeout(ANSWER_MAX, self.https.send(&destination, outgoing)).await;
        let answer = answer
            .map_err(|_| unreachable(&"context deadline exceeded"))?
            .map_err(|why| unreachable(&why))?;
        passed_on(answer.into_parts()).await.map_err(|why| unreachable(&why))
    }

    /// Carries a request that asks for a WebSocket. The other server's answer either agrees, and the connection is then another
    /// protocol's, or is an answer like others.
    ///
    /// # Errors
    ///
    /// As for `serve`.
    pub async fn switch(
        &self,
        request: &ApiRequest,
        remote: &Remote,
        handshake: &[(String, String)],
    ) -> Result<Switched, Status> {
        let user = self.admitted(request, remote).await?;
        let host = host(remote);
        let outgoing =
            upgrading(request, user, &host, handshake).map_err(|error| Status::bad_request(error.to_string()))?;
        let unreachable = |why: &dyn std::fmt::Display| unreachable(request, &host, why);
        let destination = self.destination(remote).await.map_err(|why| unreachable(&why))?;
        let answer = tokio::time::timeout(ANSWER_MAX, self.https.upgrade(&destination, outgoing)).await;
        let answer = answer
            .map_err(|_| unreachable(&"context deadline exceeded"))?
            .map_err(|why| unreachable(&why))?;
        if answer.status() == http::StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Switched::Protocol(answer));
        }
        let response = passed_on(answer.into_parts()).await.map_err(|why| unreachable(&why))?;
        Ok(Switched::Answer(response))
    }

    /// Who asks, if he may, of a server that is there.
    async fn admitted<'r>(&self, request: &'r ApiRequest, remote: &Remote) -> Result<&'r User, Status> {
        let user = request.user.as_ref().ok_or_else(Status::unauthorized)?;
        self.authorize(user, request, remote).await?;
        if remote.available == Some(false) {
            return Err(unavailable());
        }
        Ok(user)
    }

    async fn authorize(&self, user: &User, request: &ApiRequest, remote: &Remote) -> Result<(), Status> {
        self.rights.loaded(user).await?;
        let about = match request.path.starts_with("/apis/") {
            true => About::read(&request.path),
            false => None,
        };
        let Some(about) = about else {
            let verb = request.method.to_ascii_lowercase();
            return self.rights.check(&Attributes::path(user, &verb, &request.path));
        };
        let verb = about.verb(&request.method, request.flag("watch"));
        let resource = about.resource_request(&remote.group, &remote.version);
        self.rights.check(&Attributes::resource(user, verb, resource))
    }

    /// Where the Service of an aggregated API is now, and who must answer there.
    pub(super) async fn destination(&self, remote: &Remote) -> Result<Destination, String> {
        let (namespace, name, port) = &remote.service;
        let addresses = address::of_service(self.store.as_ref(), namespace, name, *port)
            .await
            .map_err(|error| error.to_string())?;
        let identity = self.front_proxy.identity().await.map_err(|status| status.message)?;
        let trust = Trust::new(remote.anchors.clone(), Some(identity.client.clone()));
        Ok(Destination {
            addresses,
            server_name: format!("{name}.{namespace}.svc"),
            trust: Arc::new(trust),
        })
    }
}

/// What a server says to a request that asks for a WebSocket.
pub enum Switched {
    /// It agrees.
    Protocol(http::Response<hyper::body::Incoming>),
    /// It answers as to any request.
    Answer(ApiResponse),
}

fn unreachable(request: &ApiRequest, service: &str, why: &dyn std::fmt::Display) -> Status {
    tracing::debug!(cause = %request.cause, service, %why, "an aggregated API was not reached");
    Status::service_unavailable(format!("error trying to reach service: {why}"))
}

/// How the server is called in messages and in `Host`.
pub(super) fn host(remote: &Remote) -> String {
    let (namespace, name, port) = &remote.service;
    format!("{name}.{namespace}.svc:{port}")
}

/// As Kubernetes answers while an aggregated API is not available.
pub(super) fn unavailable() -> Status {
    Status::service_unavailable("the server is currently unable to handle the request")
}

async fn passed_on((head, body): (http::response::Parts, hyper::body::Incoming)) -> Result<ApiResponse, hyper::Error> {
    let text = |name: http::HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
    let length = text(http::header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    let content_type = text(http::header::CONTENT_TYPE)
        .unwrap_or("application/json")
        .to_owned();
    let retry_after = text(http::header::RETRY_AFTER).and_then(|seconds| seconds.parse().ok());
    let warnings = head.headers.get_all(http::header::WARNING).iter();
    let warnings = warnings.filter_map(|value| warning_text(value.to_str().ok()?));
    let mut response = if length.is_some_and(|length| length <= WHOLE_BYTES_MAX) {
        let mut whole = BytesMut::new();
        let mut body = body;
        while let Some(frame) = body.frame().await {
            if let Ok(part) = frame?.into_data() {
                whole.extend_from_slice(&part);
            }
        }
        ApiResponse::json(head.status.as_u16(), whole.freeze())
    } else {
        // An answer that ends early ends here too.
        let whole = body.into_data_stream().take_while(|part| {
            if let Err(error) = part {
                tracing::debug!(%error, "the answer of an aggregated API ended early");
            }
            ready(part.is_ok())
        });
        let parts: BodyStream = Box::pin(whole.filter_map(|part: Result<Bytes, _>| ready(part.ok())));
        ApiResponse::stream("", parts)
    };
    response.code = head.status.as_u16();
    response.content_type = content_type.into();
    response.retry_after_seconds = retry_after.unwrap_or(0);
    response.warnings = warnings.collect();
    Ok(response)
}

/// The text of a `Warning` header: `299 - "text"`.
fn warning_text(header: &str) -> Option<String> {
    let quoted = header.split_once('"')?.1;
    let quoted = &quoted[..quoted.rfind('"')?];
    let mut text = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        text.push(if character == '\\' {
            characters.next()?
        } else {
            character
        });
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_read_back() {
        assert_eq!(warning_text(r#"299 - "say \"a\\b\"""#).as_deref(), Some(r#"say "a\b""#));
        assert_eq!(warning_text("299 -"), None);
    }
}
