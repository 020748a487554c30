//! The audit log: what the policy wants to be written down of each request, from the moment it is known who asks until its answer
//! has ended. What an event holds is `access::audit`'s decision; `log` writes it.

mod log;

pub use log::{AuditLog, LogCounters, LogOptions};

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use access::audit::{AuditPolicy, Decision, Exchange, Level, PolicyError, Stage};
use access::{Attributes, User};
use api::decode;

use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use protocol::UnixMillis;
use serde_json::Value;

use crate::request::{ApiRequest, ApiResponse, ResponseBody};
use crate::rights::attributes_of;
use crate::route::Route;
use crate::watch::Now;

/// Why a policy file is refused.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    /// It cannot be read.
    #[error("the audit policy {path} cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is neither YAML nor JSON.
    #[error("the audit policy {path} is no YAML: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        reason: String,
    },
    /// It says what no policy says.
    #[error("{path}: {source}")]
    Policy {
        /// The file.
        path: PathBuf,
        /// What.
        source: PolicyError,
    },
}

/// Reads a policy.
///
/// # Errors
///
/// What is wrong with the file, and where.
pub fn read_policy(path: &Path) -> Result<AuditPolicy, PolicyFileError> {
    let text = std::fs::read(path).map_err(|source| PolicyFileError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let value: Value = serde_norway::from_slice(&text).map_err(|error| PolicyFileError::Malformed {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    AuditPolicy::from_value(&value).map_err(|source| PolicyFileError::Policy {
        path: path.to_owned(),
        source,
    })
}

/// What a node audits by.
pub struct Audit {
    /// The policy.
    pub policy: AuditPolicy,
    /// The log.
    pub log: AuditLog,
    /// Tells the time.
    pub now: Now,
}

impl Audit {
    /// Begins the record of a request; `None` when the policy wants nothing of it. `user` is who really asks.
    pub fn begin(
        self: &Arc<Self>,
        request: &ApiRequest,
        route: &Route,
        verb: &str,
        user: &User,
        id: &str,
        received: UnixMillis,
    ) -> Option<Record> {
        let decision = self.policy.decide(&attributes_of(user, verb, request, route));
        if decision.level == Level::None {
            return None;
        }
        let forwarded = request
            .forwarded_for
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        let mut source_ips: Vec<String> = forwarded.map(str::to_owned).collect();
        source_ips.extend(request.peer.map(|peer| peer.to_string()));
        let record = Record {
            audit: Arc::clone(self),
            decision,
            id: id.to_owned(),
            request: request.clone(),
            route: route.clone(),
            verb: verb.to_owned(),
            user: user.clone(),
            impersonated: None,
            source_ips,
            received,
            annotations: BTreeMap::new(),
            is_complete: false,
        };
        record.write(Stage::RequestReceived, 0, None);
        Some(record)
    }

    /// What `/metrics` says of it, in Prometheus' format, by Kubernetes' names.
    pub fn metrics(&self) -> String {
        let counter = |name: &str, help: &str, value: u64| {
            format!("# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}\n")
        };
        let counters = &self.log.counters;
        let written = counter(
            "apiserver_audit_event_total",
            "Audit events that were written.",
            counters.written.load(Ordering::Relaxed),
        );
        let lost = counter(
            "apiserver_audit_error_total",
            "Audit events that were lost.",
            counters.lost.load(Ordering::Relaxed),
        );
        written + &lost
    }
}

/// What is said for the audit log while a request is served, by webhooks and policies. The request and its record share it; where
/// nobody audits it holds nothing.
#[derive(Clone, Debug, Default)]
pub struct Notes(Option<Arc<Mutex<BTreeMap<String, String>>>>);

impl Notes {
    /// Some that are kept.
    pub fn wanted() -> Notes {
        Notes(Some(Arc::default()))
    }

    /// Adds annotations. What a key has said stands, as in Kubernetes.
    pub fn add(&self, annotations: Vec<(String, String)>) {
        let Some(kept) = self.0.as_ref().filter(|_| !annotations.is_empty()) else {
            return;
        };
        let mut kept = kept.lock();
        for (key, value) in annotations {
            kept.entry(key).or_insert(value);
        }
    }

    /// These annotations and those that were added.
    fn beside<'a>(&self, annotations: &'a BTreeMap<String, String>) -> Cow<'a, BTreeMap<String, String>> {
        let kept = self.0.as_ref().map(|kept| kept.lock());
        match kept.filter(|kept| !kept.is_empty()) {
            None => Cow::Borrowed(annotations),
            Some(kept) => {
                let mut all = kept.clone();
                all.extend(annotations.clone());
                Cow::Owned(all)
            }
        }
    }
}

/// What is known of one request. Dropped before its answer has ended, it tells of the failure that did it.
pub struct Record {
    audit: Arc<Audit>,
    decision: Decision,
    id: String,
    request: ApiRequest,
    route: Route,
    verb: String,
    user: User,
    impersonated: Option<User>,
    source_ips: Vec<String>,
    received: UnixMillis,
    annotations: BTreeMap<String, String>,
    is_complete: bool,
}

impl Record {
    /// As whom the request goes on.
    pub fn impersonates(&mut self, user: &User) {
        self.impersonated = Some(user.clone());
    }

    /// Adds an annotation.
    pub fn annotate(&mut self, key: &str, value: &str) {
        self.annotations.insert(key.to_owned(), value.to_owned());
    }

    /// The answer is on its way. A stream's end is its own event.
    pub fn answered(mut self, response: ApiResponse) -> ApiResponse {
        if response.code == 403 {
            self.annotate("authorization.k8s.io/decision", "forbid");
        } else if response.code != 401 && response.code != 429 {
            self.annotate("authorization.k8s.io/decision", "allow");
        }
        let body = match response.body {
            ResponseBody::Full(body) => {
                let wanted = self.wants_body() || response.code >= 400;
                let value = wanted.then(|| value_of(&body)).flatten();
                self.complete(response.code, value.as_ref());
                ResponseBody::Full(body)
            }
            ResponseBody::Parts { parts, read } => {
                let parts = until_end(parts, self, response.code);
                ResponseBody::Parts { parts, read }
            }
            ResponseBody::Stream(parts) => {
                self.write(Stage::ResponseStarted, response.code, None);
                ResponseBody::Stream(until_end(parts, self, response.code))
            }
            ResponseBody::Watch(events) => {
                self.write(Stage::ResponseStarted, response.code, None);
                ResponseBody::Watch(until_end(events, self, response.code))
            }
        };
        ApiResponse { body, ..response }
    }

    /// Whether it tells an answer's body.
    pub fn wants_body(&self) -> bool {
        self.decision.level >= Level::RequestResponse
    }

    /// A session or a proxied connection begins.
    pub fn started(&self, code: u16) {
        self.write(Stage::ResponseStarted, code, None);
    }

    /// The answer has ended.
    pub fn complete(&mut self, code: u16, response: Option<&Value>) {
        self.write(Stage::ResponseComplete, code, response);
        self.is_complete = true;
    }

    fn write(&self, stage: Stage, code: u16, response: Option<&Value>) {
        if !self.decision.records(stage) {
            return;
        }
        // Also where only metadata is written: a new object's name is in its body alone.
        let body = (stage != Stage::RequestReceived && !self.request.body.is_empty())
            .then(|| request_value(&self.request))
            .flatten();
        let exchange = Exchange {
            id: &self.id,
            attributes: self.attributes(),
            impersonated: self.impersonated.as_ref(),
            uri: &self.request.uri,
            source_ips: &self.source_ips,
            user_agent: &self.request.user_agent,
            received: self.received,
            request: body.as_ref(),
            code,
            response,
            annotations: &self.request.notes.beside(&self.annotations),
        };
        if let Some(event) = self.decision.event(stage, &exchange, (self.audit.now)()) {
            self.audit.log.write(event.to_string());
        }
    }

    fn attributes(&self) -> Attributes<'_> {
        attributes_of(&self.user, &self.verb, &self.request, &self.route)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.is_complete && std::thread::panicking() {
            self.write(Stage::Panic, 500, None);
        }
    }
}

/// A request's body: an object in any of its encodings, or a patch.
fn request_value(request: &ApiRequest) -> Option<Value> {
    match decode::body(&request.content_type, &request.body) {
        Ok(parsed) => Some(parsed.value),
        Err(_) => serde_json::from_slice(&request.body).ok(),
    }
}

/// An answer's body, if it is an object.
fn value_of(body: &[u8]) -> Option<Value> {
    serde_json::from_slice(body).ok().filter(Value::is_object)
}

/// Tells the end of a stream when it has ended, whoever ended it.
fn until_end<T: 'static>(
    parts: Pin<Box<dyn Stream<Item = T> + Send>>,
    record: Record,
    code: u16,
) -> Pin<Box<dyn Stream<Item = T> + Send>> {
    struct End(Record, u16);
    impl Drop for End {
        fn drop(&mut self) {
            self.0.complete(self.1, None);
        }
    }
    let end = End(record, code);
    Box::pin(parts.map(move |part| {
        let _held = &end;
        part
    }))
}
