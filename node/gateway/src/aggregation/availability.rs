//! Whether an aggregated API answers: asked by every node for its discovery, and written down by the leader. The texts are
//! kube-aggregator's.

use std::sync::Arc;
use std::time::Duration;

use access::User;
use access::user::MASTERS;
use api::access::Access;
use protocol::UnixMillis;
use serde_json::{Value, json};

use super::Aggregation;
use super::proxy::host;
use super::registry::Remote;
use super::request::user_headers;
use crate::outgoing::address::AddressError;

/// How long a document is waited for.
const DISCOVERY_MAX: Duration = Duration::from_secs(5);

/// The largest document.
const DISCOVERY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What was found: the condition `Available`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) available: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Finding {
    fn new(available: bool, reason: &'static str, message: impl Into<String>) -> Finding {
        Finding {
            available,
            reason,
            message: message.into(),
        }
    }

    /// Of an APIService without a Service.
    pub(super) fn local() -> Finding {
        Finding::new(true, "Local", "Local APIServices are always available")
    }
}

/// An APIService with this finding in its status; `None` when it says so already.
pub(super) fn noted(object: &Value, finding: &Finding, now: UnixMillis) -> Option<Value> {
    let status = if finding.available { "True" } else { "False" };
    let conditions = object.at(&["status"]).items("conditions");
    let known = conditions
        .iter()
        .find(|condition| condition.text("type") == "Available");
    let same = |known: &Value| {
        (known.text("status"), known.text("reason"), known.text("message"))
            == (status, finding.reason, &finding.message)
    };
    if known.is_some_and(same) {
        return None;
    }
    let since = known
        .filter(|known| known.text("status") == status)
        .map(|known| known.at(&["lastTransitionTime"]).clone());
    let condition = json!({
        "type": "Available", "status": status, "reason": finding.reason, "message": finding.message,
        "lastTransitionTime": since.unwrap_or_else(|| now.rfc3339().into()),
    });
    let others = conditions
        .iter()
        .filter(|condition| condition.text("type") != "Available")
        .cloned();
    let mut noted = object.clone();
    noted["status"] = json!({"conditions": others.chain([condition]).collect::<Vec<_>>()});
    Some(noted)
}

impl Aggregation {
    /// Asks a server for its discovery document, and notes that with the remote.
    pub(super) async fn check(&self, remote: &Remote) -> Finding {
        let (namespace, name, port) = &remote.service;
        let found = crate::outgoing::address::of_service(self.store.as_ref(), namespace, name, *port).await;
        match found {
            Ok(_) => {}
            Err(AddressError::NoService(_)) => {
                let text = format!("service/{name} in {namespace:?} is not present");
                return Finding::new(false, "ServiceNotFound", text);
            }
            Err(AddressError::NoPort { .. }) => {
                let text = format!("service/{name} in {namespace:?} is not listening on port {port}");
                return Finding::new(false, "ServiceAccessError", text);
            }
            Err(AddressError::NoEndpoints(_)) => {
                let text = format!("endpoints for service/{name} in {namespace:?} have no addresses with port {port}");
                return Finding::new(false, "MissingEndpoints", text);
            }
            Err(error) => return Finding::new(false, "ServiceAccessError", error.to_string()),
        }
        match self.discover(remote).await {
            Ok(list) => {
                *remote.resources.lock() = Some(Arc::new(list));
                Finding::new(true, "Passed", "all checks passed")
            }
            Err(why) => {
                let url = format!("https://{}/apis/{}/{}", host(remote), remote.group, remote.version);
                let text = format!("failing or missing response from {url}: {why}");
                Finding::new(false, "FailedDiscoveryCheck", text)
            }
        }
    }

    async fn discover(&self, remote: &Remote) -> Result<Value, String> {
        self.fetch(remote, &format!("/apis/{}/{}", remote.group, remote.version))
            .await
    }

    /// A document that a server has for everybody.
    pub(super) async fn fetch(&self, remote: &Remote, path: &str) -> Result<Value, String> {
        let destination = self.destination(remote).await?;
        let user = User::authenticated("system:kube-aggregator", [MASTERS]);
        let mut request = http::Request::get(path)
            .header("host", host(remote))
            .header("accept", "application/json");
        for (name, value) in user_headers(&user) {
            request = request.header(name, value);
        }
        let request = request
            .body(http_body_util::Full::default())
            .map_err(|error| error.to_string())?;
        let exchanged = self
            .https
            .exchange(&destination, request, DISCOVERY_MAX, DISCOVERY_BYTES_MAX)
            .await;
        let (head, body) = exchanged.map_err(|error| error.to_string())?;
        if !head.status.is_success() {
            return Err(format!("bad status from the server: {}", head.status.as_u16()));
        }
        serde_json::from_slice(&body).map_err(|error| format!("the document {path} is no JSON: {error}"))
    }

    /// What a server's version offers: what it said last, or says now.
    pub(super) async fn resources(&self, remote: &Remote) -> Option<Arc<Value>> {
        if let Some(known) = remote.resources.lock().clone() {
            return Some(known);
        }
        self.check(remote).await;
        remote.resources.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_written_when_it_says_something_new() {
        let now = UnixMillis(1_800_000_000_000);
        let object = json!({"metadata": {"name": "v1.g"}});
        let passed = Finding::new(true, "Passed", "all checks passed");
        let noted_once = noted(&object, &passed, now).expect("nothing was known");
        let condition = &noted_once["status"]["conditions"][0];
        assert_eq!(
            (&condition["status"], &condition["reason"]),
            (&json!("True"), &json!("Passed"))
        );
        assert_eq!(noted(&noted_once, &passed, UnixMillis(1_900_000_000_000)), None);
        let failed = Finding::new(false, "MissingEndpoints", "none");
        let later = UnixMillis(1_900_000_000_000);
        let down = noted(&noted_once, &failed, later).expect("it changed");
        assert_eq!(
            down["status"]["conditions"][0]["lastTransitionTime"],
            json!(later.rfc3339())
        );
        let worse = Finding::new(false, "ServiceNotFound", "none");
        let still = noted(&down, &worse, UnixMillis(1_950_000_000_000)).expect("its reason changed");
        assert_eq!(
            still["status"]["conditions"][0]["lastTransitionTime"],
            json!(later.rfc3339())
        );
    }
}
