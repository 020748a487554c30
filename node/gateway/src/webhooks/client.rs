//! The client of webhooks: one JSON document out, one back, to a URL or a Service, within a time. Admission and conversion
//! use it alike; what the documents say is their business.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use api::access::Access;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use parking_lot::Mutex;
use protocol::store::ObjectStore;
use serde_json::Value;

use crate::outgoing::address::{self, AddressError};
use crate::outgoing::https::{Destination, Https, HttpsError};
use crate::outgoing::trust::{Anchors, Trust};

/// The largest answer that is read: three times what a request may have, as the API server bounds it.
const ANSWER_BYTES_MAX: usize = 9 * 1024 * 1024;

/// Where a webhook is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// An `https` URL.
    Url(String),
    /// A Service of the cluster.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The path to post to, with its leading slash; may be empty.
        path: String,
        /// The Service's port.
        port: u16,
    },
}

/// A webhook's `clientConfig`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// Where it is.
    pub location: Location,
    /// Whose certificates are believed, PEM; the machine's roots when there is none.
    pub ca_bundle: Option<Vec<u8>>,
}

impl ClientConfig {
    /// Reads a `clientConfig`, of a webhook's configuration or of a CustomResourceDefinition's conversion.
    pub fn read(config: &Value) -> ClientConfig {
        let service = config.at(&["service"]);
        let location = if service.is_object() {
            Location::Service {
                namespace: service.text("namespace").to_owned(),
                name: service.text("name").to_owned(),
                path: with_slash(service.text("path")),
                port: service
                    .int("port")
                    .and_then(|port| u16::try_from(port).ok())
                    .unwrap_or(443),
            }
        } else {
            Location::Url(config.text("url").to_owned())
        };
        let bundle = STANDARD.decode(config.text("caBundle")).unwrap_or_default();
        ClientConfig {
            location,
            ca_bundle: (!bundle.is_empty()).then_some(bundle),
        }
    }

    /// The URL as messages show it.
    pub fn url(&self) -> String {
        match &self.location {
            Location::Url(url) => url.clone(),
            Location::Service {
                namespace,
                name,
                path,
                port,
            } => format!("https://{name}.{namespace}.svc:{port}{path}"),
        }
    }
}

fn with_slash(path: &str) -> String {
    if path.is_empty() || path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

/// Why a webhook gave no answer, in the words of Kubernetes.
#[derive(Debug)]
pub struct CallError {
    url: String,
    why: CallFailure,
}

/// What failed.
#[derive(Debug, thiserror::Error)]
pub enum CallFailure {
    /// The URL is none.
    #[error("the URL cannot be read: {0}")]
    Url(String),
    /// No address leads there.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The exchange failed.
    #[error(transparent)]
    Https(#[from] HttpsError),
    /// It answered with a status that is not success.
    #[error("{0}")]
    Refused(String),
    /// The answer is no JSON.
    #[error("couldn't parse the response: {0}")]
    Unreadable(#[from] serde_json::Error),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            CallFailure::Refused(_) | CallFailure::Unreadable(_) => write!(f, "{}", self.why),
            // Go's http.Client names the request where there was no answer to it.
            why => write!(f, "Post {:?}: {why}", self.url),
        }
    }
}

impl std::error::Error for CallError {}

/// Calls webhooks from this node.
pub struct WebhookClient {
    store: Arc<dyn ObjectStore>,
    https: Https,
    /// Settings of TLS are costly to make: those of the last bundles are kept.
    trusts: Mutex<Vec<Arc<Trust>>>,
}

impl fmt::Debug for WebhookClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebhookClient({:?})", self.https)
    }
}

/// How many bundles' settings are kept: more than clusters have webhooks.
const TRUSTS_MAX: usize = 256;

impl WebhookClient {
    /// A client that finds Services in this store.
    pub fn new(store: Arc<dyn ObjectStore>) -> WebhookClient {
        WebhookClient {
            store,
            https: Https::default(),
            trusts: Mutex::default(),
        }
    }

    /// Posts a document and returns the one that is answered. `?timeout=` tells the webhook how long it is waited for.
    ///
    /// # Errors
    ///
    /// Why there is no answer.
    pub async fn post(&self, to: &ClientConfig, document: &Value, timeout: Duration) -> Result<Value, CallError> {
        let url = format!("{}?timeout={}s", to.url(), timeout.as_secs());
        let exchange = self.exchange(to, &url, document, timeout);
        exchange.await.map_err(|why| CallError { url, why })
    }

    async fn exchange(
        &self,
        to: &ClientConfig,
        url: &str,
        document: &Value,
        timeout: Duration,
    ) -> Result<Value, CallFailure> {
        let unreadable = |_| CallFailure::Url(url.to_owned());
        let uri: http::Uri = url.parse().map_err(unreadable)?;
        let host = uri.host().ok_or_else(|| CallFailure::Url(url.to_owned()))?;
        let resolve = async {
            match &to.location {
                Location::Url(_) => address::of_host(bare(host), uri.port_u16().unwrap_or(443)).await,
                Location::Service {
                    namespace, name, port, ..
                } => address::of_service(self.store.as_ref(), namespace, name, *port).await,
            }
        };
        let begun = tokio::time::Instant::now();
        let addresses = tokio::time::timeout(timeout, resolve)
            .await
            .map_err(|_| HttpsError::Deadline)??;
        let server_name = match &to.location {
            Location::Url(_) => bare(host).to_owned(),
            Location::Service { namespace, name, .. } => format!("{name}.{namespace}.svc"),
        };
        let destination = Destination {
            addresses,
            server_name,
            trust: self.trust(to),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = http::Request::post(path)
            .header("host", uri.authority().map_or(host, |authority| authority.as_str()))
            .header("content-type", "application/json")
            .header("accept", "application/json, */*")
            .header("user-agent", concat!("actorium/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(Bytes::from(document.to_string())))
            .map_err(|_| CallFailure::Url(url.to_owned()))?;
        let left = timeout.saturating_sub(begun.elapsed());
        let (head, body) = self
            .https
            .exchange(&destination, request, left, ANSWER_BYTES_MAX)
            .await?;
        if !head.status.is_success() {
            return Err(CallFailure::Refused(refusal(head.status.as_u16(), &body)));
        }
        Ok(serde_json::from_slice(&body)?)
    }

    fn trust(&self, to: &ClientConfig) -> Arc<Trust> {
        let anchors = match &to.ca_bundle {
            Some(bundle) => Anchors::Bundle(bundle.clone()),
            None => Anchors::Machine,
        };
        let trust = Trust::new(anchors, None);
        let mut known = self.trusts.lock();
        if let Some(known) = known.iter().find(|known| known.digest == trust.digest) {
            return Arc::clone(known);
        }
        if known.len() >= TRUSTS_MAX {
            known.remove(0);
        }
        let trust = Arc::new(trust);
        known.push(Arc::clone(&trust));
        trust
    }
}

/// A host without the brackets of an IPv6 address.
fn bare(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

/// What Kubernetes' REST client says of an answer that is no success: the Status' message, or what the body begins with.
fn refusal(code: u16, body: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 2048;
    let status: Value = serde_json::from_slice(body).unwrap_or_default();
    if status.text("kind") == "Status" && !status.text("message").is_empty() {
        return status.text("message").to_owned();
    }
    let shown = &body[..body.len().min(SHOWN_BYTES_MAX)];
    let shown = String::from_utf8_lossy(shown);
    let what = match code {
        404 => "the server could not find the requested resource".to_owned(),
        503 => "the server is currently unable to handle the request".to_owned(),
        500 => "an error on the server".to_owned(),
        _ => format!("the server responded with the status code {code}"),
    };
    let shown = shown.trim();
    if shown.is_empty() {
        what
    } else {
        format!("{what} ({shown:?})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_client_config_names_a_service_or_a_url() {
        let config = ClientConfig::read(&json!({
            "service": {"namespace": "d", "name": "w", "path": "mutate"}, "caBundle": STANDARD.encode("PEM"),
        }));
        assert_eq!(config.url(), "https://w.d.svc:443/mutate");
        assert_eq!(config.ca_bundle.as_deref(), Some(b"PEM".as_slice()));
        let config = ClientConfig::read(&json!({"url": "https://h:8443/x"}));
        assert_eq!((config.url().as_str(), config.ca_bundle), ("https://h:8443/x", None));
    }

    #[test]
    fn an_answer_that_is_no_success_is_told_by_its_message() {
        let status = json!({"kind": "Status", "message": "no"}).to_string();
        assert_eq!(refusal(500, status.as_bytes()), "no");
        assert_eq!(refusal(500, b"boom\n"), "an error on the server (\"boom\")");
        assert_eq!(refusal(404, b""), "the server could not find the requested resource");
    }
}
