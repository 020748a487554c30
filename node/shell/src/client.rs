//! A client of the Kubernetes API, for the shell and the daily verbs: requests, errors as the server gives them, streams.
//! Whom to reach and with which credential comes from a kubeconfig.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use config::kubeconfig::{Access, Kubeconfig, KubeconfigError, default_paths};
use futures::{Stream, StreamExt};
use protocol::admin::{AdminError, AdminReply, AdminRequest};
use serde_json::Value;

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a command did not succeed. The text is what the user reads.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No kubeconfig was found.
    #[error(
        "no kubeconfig: name one with --kubeconfig or KUBECONFIG. A node writes one as kubeconfig into its data directory; `cargo xtask up` writes target/up/kubeconfig"
    )]
    NoKubeconfig,
    /// A kubeconfig cannot be used.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    /// The server cannot be reached.
    #[error("cannot reach {server}: {reason}")]
    Unreachable {
        /// The server.
        server: String,
        /// What was seen.
        reason: String,
    },
    /// The server refused the request.
    #[error("Error from server ({reason}): {message}")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// `NotFound`, `Conflict`, ...
        reason: String,
        /// In its words.
        message: String,
    },
    /// An actor refused.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The answer is not what was asked for.
    #[error("{server} answered with something that is not {expected}: {reason}")]
    Malformed {
        /// The server.
        server: String,
        /// What was expected.
        expected: &'static str,
        /// What went wrong.
        reason: String,
    },
    /// A file cannot be read, or holds no objects.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// The command itself makes no sense.
    #[error("{0}")]
    Usage(String),
}

/// A connection to a cluster.
pub struct Client {
    http: reqwest::Client,
    access: Access,
}

impl Client {
    /// Reads the kubeconfig: the file named, else what kubectl would read.
    pub fn load(kubeconfig: Option<&PathBuf>, context: Option<&str>) -> Result<Client, ClientError> {
        let paths = match kubeconfig {
            Some(path) => vec![path.clone()],
            None => {
                let variable = |name: &str| std::env::var(name).ok();
                default_paths(variable("KUBECONFIG").as_deref(), variable("HOME").as_deref())
            }
        };
        let existing: Vec<PathBuf> = if kubeconfig.is_some() {
            paths
        } else {
            paths.into_iter().filter(|path| path.exists()).collect()
        };
        let (first, rest) = existing.split_first().ok_or(ClientError::NoKubeconfig)?;
        let mut merged = Kubeconfig::load(first)?;
        for path in rest {
            merged.fill_from(Kubeconfig::load(path)?);
        }
        Client::new(merged.access(first, context)?)
    }

    /// A client for this access.
    pub fn new(access: Access) -> Result<Client, ClientError> {
        // Another part of the process may have installed it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let malformed = |reason: String| ClientError::Malformed {
            server: "the kubeconfig".to_owned(),
            expected: "a usable credential",
            reason,
        };
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent("actorium");
        if let Some(pem) = &access.ca_pem {
            let certificates =
                reqwest::Certificate::from_pem_bundle(pem).map_err(|error| malformed(error.to_string()))?;
            builder = builder.tls_certs_only(certificates);
        }
        if access.insecure_skip_tls_verify {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        if let Some((certificate, key)) = &access.client_pem {
            let pem = [certificate.as_slice(), b"\n", key.as_slice()].concat();
            builder =
                builder.identity(reqwest::Identity::from_pem(&pem).map_err(|error| malformed(error.to_string()))?);
        }
        let http = builder.build().map_err(|error| malformed(error.to_string()))?;
        Ok(Client { http, access })
    }

    /// The namespace of commands that name none.
    pub fn namespace(&self) -> &str {
        if self.access.namespace.is_empty() {
            "default"
        } else {
            &self.access.namespace
        }
    }

    /// The CA by which the server is known, PEM.
    pub fn authority_pem(&self) -> Option<String> {
        String::from_utf8(self.access.ca_pem.clone()?).ok()
    }

    /// The server that is spoken to.
    pub fn server(&self) -> &str {
        &self.access.server
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        accept: &str,
        body: Vec<u8>,
    ) -> Result<reqwest::Response, ClientError> {
        let method =
            reqwest::Method::from_bytes(method.as_bytes()).map_err(|error| ClientError::Usage(error.to_string()))?;
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.access.server))
            .header("Accept", accept);
        if !body.is_empty() {
            request = request.header("Content-Type", content_type).body(body);
        }
        if let Some(token) = &self.access.token {
            request = request.bearer_auth(token);
        }
        request.send().await.map_err(|error| {
            let mut reason = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                reason = cause.to_string();
                source = cause.source();
            }
            ClientError::Unreachable {
                server: self.access.server.clone(),
                reason,
            }
        })
    }

    /// A request whose answer is JSON. Refusals become errors in the server's words.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        accept: &str,
        body: Vec<u8>,
    ) -> Result<Value, ClientError> {
        let response = self.send(method, path, content_type, accept, body).await?;
        let code = response.status().as_u16();
        let bytes = response
            .bytes()
            .await
            .map_err(|error| self.malformed("a whole answer", &error))?;
        if code >= 400 {
            return Err(refusal(code, &bytes));
        }
        serde_json::from_slice(&bytes).map_err(|error| self.malformed("JSON", &error))
    }

    /// GET of a JSON document.
    pub async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.request("GET", path, "", "application/json", Vec::new()).await
    }

    /// GET whose answer comes in parts.
    pub async fn stream(
        &self,
        path: &str,
        accept: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, ClientError>> + use<>, ClientError> {
        let response = self.send("GET", path, "", accept, Vec::new()).await?;
        let code = response.status().as_u16();
        if code >= 400 {
            let bytes = response
                .bytes()
                .await
                .map_err(|error| self.malformed("a whole answer", &error))?;
            return Err(refusal(code, &bytes));
        }
        let server = self.access.server.clone();
        Ok(response.bytes_stream().map(move |part| {
            part.map_err(|error| ClientError::Unreachable {
                server: server.clone(),
                reason: error.to_string(),
            })
        }))
    }

    /// A message to an actor.
    pub async fn admin(&self, request: &AdminRequest) -> Result<AdminReply, ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| self.malformed("a message", &error))?;
        let path = "/actorium/v1/admin";
        let response = self
            .send("POST", path, "application/json", "application/json", body)
            .await?;
        let code = response.status().as_u16();
        let bytes = response
            .bytes()
            .await
            .map_err(|error| self.malformed("a whole answer", &error))?;
        if code >= 400 {
            return match serde_json::from_slice::<AdminError>(&bytes) {
                Ok(error) => Err(error.into()),
                Err(_) => Err(refusal(code, &bytes)),
            };
        }
        serde_json::from_slice(&bytes).map_err(|error| self.malformed("an actor's answer", &error))
    }

    fn malformed(&self, expected: &'static str, error: &dyn std::error::Error) -> ClientError {
        ClientError::Malformed {
            server: self.access.server.clone(),
            expected,
            reason: error.to_string(),
        }
    }
}

/// A Status object as an error; anything else by its code.
fn refusal(code: u16, body: &[u8]) -> ClientError {
    let status: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| status[name].as_str().map(str::to_owned);
    ClientError::Refused {
        code,
        reason: text("reason").unwrap_or_else(|| code.to_string()),
        message: text("message").unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned()),
    }
}
