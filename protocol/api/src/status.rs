//! Kubernetes' Status object: the body of every failed request. Reasons, codes and wording are those of apimachinery's
//! `api/errors`, since clients match on them. The gateway sends what these functions return; nothing here knows HTTP
//! beyond the code.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde_json::{Map, Value, json};

use crate::cause::Cause;
use crate::kinds::Kind;

/// What a failed request was about, for machines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The object's name; empty when there is none.
    pub name: String,
    /// The API group; empty for the core group.
    pub group: String,
    /// The resource (`pods`), or the kind (`Pod`) for invalid objects.
    pub kind: String,
    /// The object's uid, where a precondition on it failed.
    pub uid: String,
    /// What was wrong, one entry a field.
    pub causes: Vec<Cause>,
    /// How long the client should wait before it tries again; zero says nothing.
    pub retry_after_seconds: u32,
}

/// A failed request: metav1.Status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason: `NotFound`. A webhook's refusal has the webhook's.
    pub reason: Cow<'static, str>,
    /// For people.
    pub message: String,
    /// For machines. Boxed: a `Result` carries a Status past every successful write.
    pub details: Box<Details>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

/// `pods`, `deployments.apps`: how messages name a resource.
fn resource_text(kind: &Kind) -> String {
    if kind.group.is_empty() {
        kind.plural.to_owned()
    } else {
        format!("{}.{}", kind.plural, kind.group)
    }
}

impl Status {
    fn plain(code: u16, reason: &'static str, message: impl Into<String>) -> Status {
        Status {
            code,
            reason: reason.into(),
            message: message.into(),
            details: Box::default(),
        }
    }

    fn of(kind: &Kind, name: &str, code: u16, reason: &'static str, message: String) -> Status {
        let details = Box::new(Details {
            name: name.to_owned(),
            group: kind.group.to_owned(),
            kind: kind.plural.to_owned(),
            ..Details::default()
        });
        Status {
            code,
            reason: reason.into(),
            message,
            details,
        }
    }

    /// The object does not exist.
    pub fn not_found(kind: &Kind, name: &str) -> Status {
        Self::of(
            kind,
            name,
            404,
            "NotFound",
            format!("{} {name:?} not found", resource_text(kind)),
        )
    }

    /// No such path, group, version or resource is served.
    pub fn no_such_resource() -> Status {
        Self::plain(404, "NotFound", "the server could not find the requested resource")
    }

    /// An object of this name exists.
    pub fn already_exists(kind: &Kind, name: &str) -> Status {
        Self::of(
            kind,
            name,
            409,
            "AlreadyExists",
            format!("{} {name:?} already exists", resource_text(kind)),
        )
    }

    /// A precondition failed; `why` says which.
    pub fn conflict(kind: &Kind, name: &str, why: impl fmt::Display) -> Status {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            resource_text(kind)
        );
        Self::of(kind, name, 409, "Conflict", message)
    }

    /// The object was written since the client read it.
    pub fn modified(kind: &Kind, name: &str) -> Status {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    /// Server-side apply met fields that another manager owns.
    pub fn apply_conflict(message: String, causes: Vec<Cause>) -> Status {
        let mut status = Self::plain(409, "Conflict", message);
        status.details.causes = causes;
        status
    }

    /// The revision that a watch or a list asked for is compacted.
    pub fn expired(message: impl Into<String>) -> Status {
        Self::plain(410, "Expired", message)
    }

    /// A watch asked to start at a revision that is compacted.
    pub fn too_old_resource_version(asked: u64, oldest: u64) -> Status {
        Self::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    /// A list's continue token names a revision that is compacted.
    pub fn continue_expired() -> Status {
        Self::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list \
             without the continue parameter.",
        )
    }

    /// The object fails validation.
    pub fn invalid(kind: &Kind, name: &str, causes: Vec<Cause>) -> Status {
        Self::invalid_of(kind.group, kind.kind, name, causes)
    }

    /// As `invalid`, for objects that have no row of their own, such as Scale or DeleteOptions.
    pub fn invalid_of(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Status {
        let qualified = if group.is_empty() {
            kind.to_owned()
        } else {
            format!("{kind}.{group}")
        };
        let mut known = HashSet::new();
        let texts = causes.iter().map(Cause::to_string);
        let unique: Vec<String> = texts.filter(|text| known.insert(text.clone())).collect();
        let list = match unique.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let details = Box::new(Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            causes,
            ..Details::default()
        });
        Status {
            code: 422,
            reason: "Invalid".into(),
            message: format!("{qualified} {name:?} is invalid: {list}"),
            details,
        }
    }

    /// A patch that parses but cannot be applied to this object.
    pub fn unprocessable_patch(error: impl fmt::Display) -> Status {
        let mut status = Self::plain(
            422,
            "Invalid",
            "the server rejected our request due to an error in our request",
        );
        let message = error.to_string();
        status.details.causes = vec![Cause {
            field: String::new(),
            reason: "UnexpectedServerResponse".into(),
            message,
        }];
        status
    }

    /// The request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Status {
        Self::plain(400, "BadRequest", message)
    }

    /// The caller may not do this to this object; `why` completes the sentence.
    pub fn forbidden(kind: &Kind, name: &str, why: impl fmt::Display) -> Status {
        let resource = resource_text(kind);
        let message = if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} {name:?} is forbidden: {why}")
        };
        Self::of(kind, name, 403, "Forbidden", message)
    }

    /// The caller may not do this, and it is about no kind of the table.
    pub fn forbidden_path(message: impl Into<String>) -> Status {
        Self::plain(403, "Forbidden", message)
    }

    /// The caller is not known.
    pub fn unauthorized() -> Status {
        Self::plain(401, "Unauthorized", "Unauthorized")
    }

    /// The body's content type is none that is understood here.
    pub fn unsupported_media_type(accepted: &[&str]) -> Status {
        let list = accepted.join(", ");
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {list}");
        Self::plain(415, "UnsupportedMediaType", message)
    }

    /// The answer exists in none of the media types that the client accepts.
    pub fn not_acceptable(offered: &[&str]) -> Status {
        let message = format!("only the following media types are accepted: {}", offered.join(", "));
        Self::plain(406, "NotAcceptable", message)
    }

    /// The resource does not have this verb.
    pub fn method_not_allowed(kind: &Kind, verb: &str) -> Status {
        let message = format!("{verb} is not supported on resources of kind {:?}", resource_text(kind));
        Self::of(kind, "", 405, "MethodNotAllowed", message)
    }

    /// The path does not have this HTTP method.
    pub fn method_not_allowed_path() -> Status {
        Self::plain(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// The body is larger than the server reads.
    pub fn too_large(bytes_max: usize) -> Status {
        let message = format!("Request entity too large: limit is {bytes_max}");
        Self::plain(413, "RequestEntityTooLarge", message)
    }

    /// The client should slow down.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Status {
        let mut status = Self::plain(429, "TooManyRequests", message);
        status.details.retry_after_seconds = retry_after_seconds;
        status
    }

    /// The server could not answer in time.
    pub fn timeout(message: impl fmt::Display) -> Status {
        Self::plain(504, "Timeout", format!("Timeout: {message}"))
    }

    /// The server cannot serve now: no leader, or starting.
    pub fn service_unavailable(message: impl Into<String>) -> Status {
        Self::plain(503, "ServiceUnavailable", message)
    }

    /// A failure of ours.
    pub fn internal(error: impl fmt::Display) -> Status {
        let mut status = Self::plain(500, "InternalError", format!("Internal error occurred: {error}"));
        let message = error.to_string();
        status.details.causes = vec![Cause {
            field: String::new(),
            reason: "".into(),
            message,
        }];
        status
    }

    /// The JSON object.
    pub fn to_value(&self) -> Value {
        let mut body = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        let details = self.details.to_value();
        if details != json!({}) {
            body["details"] = details;
        }
        body
    }

    /// The response's body.
    pub fn to_json(&self) -> Vec<u8> {
        self.to_value().to_string().into_bytes()
    }

    /// The body of a success that has no object to show, such as a delete: `details` names what it was done to.
    pub fn success(kind: &Kind, name: &str, uid: &str) -> Value {
        let details = Box::new(Details {
            name: name.to_owned(),
            group: kind.group.to_owned(),
            kind: kind.plural.to_owned(),
            uid: uid.to_owned(),
            ..Details::default()
        });
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": details.to_value(),
        })
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut details = Map::new();
        for (name, text) in [
            ("name", &self.name),
            ("group", &self.group),
            ("kind", &self.kind),
            ("uid", &self.uid),
        ] {
            if !text.is_empty() {
                details.insert(name.to_owned(), text.as_str().into());
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(|cause| {
                let mut entry = Map::new();
                for (name, text) in [
                    ("reason", &*cause.reason),
                    ("message", cause.message.as_str()),
                    ("field", cause.field.as_str()),
                ] {
                    if !text.is_empty() {
                        entry.insert(name.to_owned(), text.into());
                    }
                }
                Value::Object(entry)
            });
            details.insert("causes".to_owned(), causes.collect());
        }
        if self.retry_after_seconds > 0 {
            details.insert("retryAfterSeconds".to_owned(), self.retry_after_seconds.into());
        }
        Value::Object(details)
    }
}
