//! One line of the audit log: what is known of a request at a stage, as far as its level lets it be written.

use std::collections::BTreeMap;

use api::access::Access;
use protocol::UnixMillis;
use serde_json::{Map, Value, json};

use crate::attributes::{Attributes, Requested};
use crate::audit::policy::{Decision, Level};
use crate::user::User;

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// It was received; nothing was done.
    RequestReceived,
    /// The answer's head was sent, its body will take long: a watch, a followed log.
    ResponseStarted,
    /// The answer was sent.
    ResponseComplete,
    /// Its handler failed.
    Panic,
}

impl Stage {
    /// As policies and events have it.
    pub fn text(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Stage> {
        [
            Stage::RequestReceived,
            Stage::ResponseStarted,
            Stage::ResponseComplete,
            Stage::Panic,
        ]
        .into_iter()
        .find(|stage| stage.text() == text)
    }
}

/// A request and its answer, as far as they are known.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// The same id at all stages of a request; `Audit-ID` of the request, or a fresh uuid.
    pub id: &'a str,
    /// Who asked for what. The user is the real one, not the impersonated.
    pub attributes: Attributes<'a>,
    /// As whom the real user acted.
    pub impersonated: Option<&'a User>,
    /// Path and query.
    pub uri: &'a str,
    /// Addresses of the client: what proxies said first, the connection's last.
    pub source_ips: &'a [String],
    /// `User-Agent`.
    pub user_agent: &'a str,
    /// When it was received.
    pub received: UnixMillis,
    /// The request's body, once it was read.
    pub request: Option<&'a Value>,
    /// The answer's status code, once it is known; zero before.
    pub code: u16,
    /// The answer's body, where it is one object.
    pub response: Option<&'a Value>,
    /// `authorization.k8s.io/decision` and the like.
    pub annotations: &'a BTreeMap<String, String>,
}

/// Kubernetes writes at most this much of a user agent, in characters.
const USER_AGENT_MAX: usize = 1024;

impl Decision {
    /// The event of this stage; `None` when the policy wants none.
    pub fn event(&self, stage: Stage, exchange: &Exchange<'_>, now: UnixMillis) -> Option<Value> {
        if !self.records(stage) {
            return None;
        }
        let mut event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1",
            "level": self.level.text(), "auditID": exchange.id, "stage": stage.text(),
            "requestURI": exchange.uri, "verb": exchange.attributes.verb,
            "user": exchange.attributes.user,
            "requestReceivedTimestamp": exchange.received.rfc3339_micros(),
            "stageTimestamp": now.rfc3339_micros(),
        });
        if let Some(user) = exchange.impersonated {
            event["impersonatedUser"] = serde_json::to_value(user).unwrap_or_default();
        }
        if !exchange.source_ips.is_empty() {
            event["sourceIPs"] = exchange.source_ips.into();
        }
        if !exchange.user_agent.is_empty() {
            let cut: String = exchange.user_agent.chars().take(USER_AGENT_MAX).collect();
            let is_cut = cut.len() < exchange.user_agent.len();
            event["userAgent"] = if is_cut { format!("{cut}...TRUNCATED") } else { cut }.into();
        }
        if let Some(reference) = object_reference(exchange) {
            event["objectRef"] = reference;
        }
        if stage != Stage::RequestReceived {
            self.add_answer(&mut event, exchange);
        }
        if !exchange.annotations.is_empty() {
            event["annotations"] = json!(exchange.annotations);
        }
        Some(event)
    }

    fn add_answer(&self, event: &mut Value, exchange: &Exchange<'_>) {
        if exchange.code > 0 {
            event["responseStatus"] = response_status(exchange);
        }
        if let Some(body) = exchange.request.filter(|_| self.level >= Level::Request) {
            event["requestObject"] = self.body(body);
        }
        if let Some(body) = exchange.response.filter(|_| self.level >= Level::RequestResponse) {
            event["responseObject"] = self.body(body);
        }
    }

    fn body(&self, body: &Value) -> Value {
        let mut body = body.clone();
        if self.omit_managed_fields {
            strip_managed_fields(&mut body);
            for item in api::access::items_mut(&mut body, "items") {
                strip_managed_fields(item);
            }
        }
        body
    }
}

fn strip_managed_fields(object: &mut Value) {
    if let Some(metadata) = api::access::existing_mut(object, "metadata") {
        api::access::remove(metadata, "managedFields");
    }
}

fn object_reference(exchange: &Exchange<'_>) -> Option<Value> {
    let Requested::Resource(request) = &exchange.attributes.requested else {
        return None;
    };
    let request_metadata = exchange.request.unwrap_or(&Value::Null).at(&["metadata"]);
    // The name of a new object is in its body alone.
    let name = if request.name.is_empty() {
        request_metadata.text("name")
    } else {
        request.name
    };
    let mut reference = Map::new();
    for (field, text) in [
        ("resource", request.resource),
        ("namespace", request.namespace),
        ("name", name),
        ("uid", request_metadata.text("uid")),
        ("apiGroup", request.group),
        ("apiVersion", request.version),
        ("resourceVersion", request_metadata.text("resourceVersion")),
        ("subresource", request.subresource),
    ] {
        if !text.is_empty() {
            reference.insert(field.to_owned(), text.into());
        }
    }
    Some(Value::Object(reference))
}

/// The code; of a failure also reason and message, which hold no object.
fn response_status(exchange: &Exchange<'_>) -> Value {
    let mut status = json!({"metadata": {}, "code": exchange.code});
    let body = exchange
        .response
        .filter(|body| body.text("kind") == "Status" && body.text("apiVersion") == "v1");
    for field in ["status", "reason", "message", "details"] {
        if let Some(value) = body.and_then(|body| body.get(field)) {
            status[field] = value.clone();
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::ResourceRequest;

    /// What differs from a plain creation.
    #[derive(Default)]
    struct Differs<'a> {
        failure: Option<&'a Value>,
        user_agent: &'a str,
        impersonated: Option<&'a User>,
    }

    fn event(level: Level, stage: Stage, differs: &Differs<'_>) -> Option<Value> {
        let user = User::authenticated("ann", ["dev"]);
        let request = ResourceRequest {
            namespace: "d",
            group: "apps",
            version: "v1",
            resource: "deployments",
            ..ResourceRequest::default()
        };
        let body = json!({"metadata": {"name": "web", "managedFields": [1]}});
        let annotations = BTreeMap::from([("authorization.k8s.io/decision".to_owned(), "allow".to_owned())]);
        let exchange = Exchange {
            id: "a1",
            attributes: Attributes::resource(&user, "create", request),
            impersonated: differs.impersonated,
            uri: "/apis/apps/v1/namespaces/d/deployments",
            source_ips: &["10.0.0.1".to_owned()],
            user_agent: differs.user_agent,
            received: UnixMillis(1_700_000_000_123),
            request: Some(&body),
            code: if differs.failure.is_some() { 403 } else { 201 },
            response: differs.failure.or(Some(&body)),
            annotations: &annotations,
        };
        let decision = Decision {
            level,
            omit_stages: vec![Stage::Panic],
            omit_managed_fields: true,
        };
        decision.event(stage, &exchange, UnixMillis(1_700_000_000_456))
    }

    #[test]
    fn each_level_writes_its_part() {
        let metadata = event(Level::Metadata, Stage::ResponseComplete, &Differs::default()).unwrap();
        assert_eq!(
            metadata,
            json!({"kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": "a1",
                "stage": "ResponseComplete", "requestURI": "/apis/apps/v1/namespaces/d/deployments", "verb": "create",
                "user": {"username": "ann", "groups": ["dev", "system:authenticated"]}, "sourceIPs": ["10.0.0.1"],
                "objectRef": {"resource": "deployments", "namespace": "d", "name": "web", "apiGroup": "apps", "apiVersion": "v1"},
                "responseStatus": {"metadata": {}, "code": 201},
                "requestReceivedTimestamp": "2023-11-14T22:13:20.123000Z", "stageTimestamp": "2023-11-14T22:13:20.456000Z",
                "annotations": {"authorization.k8s.io/decision": "allow"}})
        );
        let request = event(Level::Request, Stage::ResponseComplete, &Differs::default()).unwrap();
        assert_eq!(request["requestObject"], json!({"metadata": {"name": "web"}}));
        assert!(!request.has("responseObject"));
        let full = event(Level::RequestResponse, Stage::ResponseComplete, &Differs::default()).unwrap();
        assert!(full.has("requestObject") && full.has("responseObject"));
        let received = event(Level::RequestResponse, Stage::RequestReceived, &Differs::default()).unwrap();
        assert!(!received.has("requestObject") && !received.has("responseStatus"));
        assert_eq!(event(Level::None, Stage::ResponseComplete, &Differs::default()), None);
        assert_eq!(
            event(Level::Metadata, Stage::Panic, &Differs::default()),
            None,
            "an omitted stage"
        );
    }

    #[test]
    fn a_failure_says_why() {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden",
            "message": "no", "code": 403});
        let differs = Differs {
            failure: Some(&status),
            ..Differs::default()
        };
        let event = event(Level::Metadata, Stage::ResponseComplete, &differs).unwrap();
        assert_eq!(
            event["responseStatus"],
            json!({"metadata": {}, "code": 403, "status": "Failure", "reason": "Forbidden", "message": "no"})
        );
        assert!(!event.has("responseObject"));
    }

    #[test]
    fn a_long_user_agent_is_cut_and_the_impersonated_user_is_named() {
        let long = "x".repeat(2000);
        let bob = User::authenticated("bob", [""; 0]);
        let differs = Differs {
            user_agent: &long,
            impersonated: Some(&bob),
            ..Differs::default()
        };
        let event = event(Level::Metadata, Stage::ResponseStarted, &differs).unwrap();
        assert_eq!(event["userAgent"].as_str().unwrap().len(), 1024 + 12);
        assert_eq!(event["impersonatedUser"]["username"], "bob");
    }
}
