//! A request and its answer, apart from the HTTP server that carries them: the edge translates, everything behind it is
//! tested without a socket.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::Pin;

use access::User;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{Stream, TryStreamExt};
use serde_json::Value;

use api::status::Status;
use protocol::Cause;
use protocol::store::ReadError;

use crate::audit::Notes;
use crate::read::read_status;
use crate::session::Connection;

/// A request.
#[derive(Clone, Debug, Default)]
pub struct ApiRequest {
    /// `GET`, `POST`, ...
    pub method: String,
    /// The path, percent-decoded.
    pub path: String,
    /// The query's parameters; the first of a name counts.
    pub query: BTreeMap<String, String>,
    /// `Accept`.
    pub accept: String,
    /// `Content-Type`.
    pub content_type: String,
    /// `User-Agent`: its first word names the field manager where the query does not.
    pub user_agent: String,
    /// The body.
    pub body: Bytes,
    /// Who asks: at the edge as the client's certificate proves it, behind `credentials` as whom the request goes on.
    pub user: Option<User>,
    /// The token of `Authorization: Bearer`.
    pub bearer: Option<String>,
    /// The `Impersonate-*` headers.
    pub impersonation: Vec<(String, String)>,
    /// What the request's writes and effects are traced by.
    pub cause: Cause,
    /// Path and query as they were sent.
    pub uri: String,
    /// The client's address.
    pub peer: Option<IpAddr>,
    /// `X-Forwarded-For`: for whom proxies ask.
    pub forwarded_for: String,
    /// `Audit-ID`: by which the client wants to find the request in the audit log.
    pub audit_id: String,
    /// The client's connection.
    pub connection: Connection,
    /// What the audit log is told of the request while it is served.
    pub notes: Notes,
}

impl ApiRequest {
    /// A parameter's value.
    pub fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// A boolean parameter: `true` and `1` are true, as Go's ParseBool has it.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.parameter(name), "true" | "1" | "True" | "TRUE" | "t" | "T")
    }

    /// A numeric parameter; an unreadable one is refused as Kubernetes refuses it.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Status> {
        match self.parameter(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax ({name})"))
            }),
        }
    }

    /// Who manages the fields that this request writes.
    pub fn field_manager(&self) -> String {
        let named = self.parameter("fieldManager");
        if !named.is_empty() {
            return named.to_owned();
        }
        let agent = self.user_agent.split(['/', ' ']).next().unwrap_or_default();
        if agent.is_empty() {
            "unknown".to_owned()
        } else {
            agent.to_owned()
        }
    }
}

/// Parts of a body that comes as it happens.
pub type BodyStream = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// Parts of a body that is read while it is sent.
pub type PartStream = Pin<Box<dyn Stream<Item = Result<Bytes, ReadError>> + Send>>;

/// An answer's body.
pub enum ResponseBody {
    /// All at once.
    Full(Bytes),
    /// Parts of a whole that is being read. The client must not take it for one when a part is an error. `read` ends with the
    /// reading, whoever takes the parts.
    Parts {
        /// The parts.
        parts: PartStream,
        /// The end of the work.
        read: BoxFuture<'static, ()>,
    },
    /// Parts until the stream ends or the client goes.
    Stream(BodyStream),
    /// The same, but it also ends when the client takes nothing for `session::UNREAD_MAX`.
    Watch(BodyStream),
}

/// An answer.
pub struct ApiResponse {
    /// The HTTP status code.
    pub code: u16,
    /// `Content-Type`.
    pub content_type: Cow<'static, str>,
    /// `Warning` headers: texts for the client's user.
    pub warnings: Vec<String>,
    /// More headers, their names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// After how many seconds the client may try again by itself; zero says nothing.
    pub retry_after_seconds: u32,
    /// The body.
    pub body: ResponseBody,
}

/// The content type of JSON.
pub const JSON: &str = "application/json";

impl ApiResponse {
    /// JSON bytes.
    pub fn json(code: u16, body: impl Into<Bytes>) -> ApiResponse {
        let body = ResponseBody::Full(body.into());
        ApiResponse {
            code,
            content_type: JSON.into(),
            warnings: Vec::new(),
            headers: Vec::new(),
            retry_after_seconds: 0,
            body,
        }
    }

    /// A JSON value.
    pub fn value(code: u16, value: &Value) -> ApiResponse {
        ApiResponse::json(code, value.to_string())
    }

    /// Plain text.
    pub fn text(code: u16, text: impl Into<String>) -> ApiResponse {
        ApiResponse {
            content_type: "text/plain; charset=utf-8".into(),
            ..ApiResponse::json(code, text.into())
        }
    }

    /// A stream.
    pub fn stream(content_type: &'static str, stream: BodyStream) -> ApiResponse {
        ApiResponse {
            content_type: content_type.into(),
            body: ResponseBody::Stream(stream),
            ..ApiResponse::json(200, Bytes::new())
        }
    }

    /// The events of a watch.
    pub fn watch(content_type: &'static str, events: BodyStream) -> ApiResponse {
        ApiResponse {
            body: ResponseBody::Watch(events),
            ..ApiResponse::stream(content_type, Box::pin(futures::stream::empty()))
        }
    }

    /// With its body in one piece.
    pub async fn whole(self) -> ApiResponse {
        let ResponseBody::Parts { parts, .. } = self.body else {
            return self;
        };
        match parts.try_collect::<Vec<Bytes>>().await {
            Ok(parts) => ApiResponse {
                body: ResponseBody::Full(parts.concat().into()),
                ..self
            },
            Err(error) => ApiResponse::from(read_status(error)),
        }
    }

    /// With warnings for the client's user.
    #[must_use]
    pub fn warning(mut self, warnings: Vec<String>) -> ApiResponse {
        self.warnings = warnings;
        self
    }
}

impl From<Status> for ApiResponse {
    fn from(status: Status) -> ApiResponse {
        let retry_after_seconds = status.details.retry_after_seconds;
        ApiResponse {
            retry_after_seconds,
            ..ApiResponse::json(status.code, status.to_json())
        }
    }
}
