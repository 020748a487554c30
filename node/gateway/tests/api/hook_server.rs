//! An HTTPS server that answers as a test tells it: what webhooks are in a cluster. On loopback, with a CA of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What is answered.
pub enum Reply {
    /// This document.
    Json(Value),
    /// This status and text.
    Status(u16, &'static str),
    /// Nothing, for ever.
    Silence,
}

type Handler = dyn Fn(&Value) -> Reply + Send + Sync;

/// A server. It ends with the test's runtime.
pub struct HookServer {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its CA, as a `caBundle`.
    pub ca_bundle: String,
    /// What it was sent.
    pub seen: Arc<Mutex<Vec<Value>>>,
    /// How many connections were made to it.
    pub connections: Arc<AtomicUsize>,
}

impl HookServer {
    /// Serves on a free port of loopback, under the names of a certificate.
    pub async fn start(names: &[&str], handler: impl Fn(&Value) -> Reply + Send + Sync + 'static) -> HookServer {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_certificate = ca.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = HookServer {
            address: listener.local_addr().unwrap(),
            ca_bundle: STANDARD.encode(ca_certificate.pem()),
            seen: Arc::default(),
            connections: Arc::default(),
        };
        let (handler, acceptor): (Arc<Handler>, _) = (Arc::new(handler), TlsAcceptor::from(Arc::new(tls)));
        let (seen, connections) = (Arc::clone(&server.seen), Arc::clone(&server.connections));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (handler, acceptor, seen) = (Arc::clone(&handler), acceptor.clone(), Arc::clone(&seen));
                connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    // A client that does not trust the certificate ends here.
                    if let Ok(mut stream) = acceptor.accept(stream).await {
                        while let Some(body) = read_request(&mut stream).await {
                            let reply = handler(&body);
                            seen.lock().push(body);
                            let (code, text) = match reply {
                                Reply::Json(value) => (200, value.to_string()),
                                Reply::Status(code, text) => (code, text.to_owned()),
                                Reply::Silence => std::future::pending().await,
                            };
                            let head = format!("HTTP/1.1 {code} Answer\r\ncontent-length: {}\r\n\r\n", text.len());
                            if stream.write_all((head + &text).as_bytes()).await.is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    /// A `clientConfig` by URL.
    pub fn by_url(&self) -> Value {
        json!({"url": format!("https://{}/hook", self.address), "caBundle": self.ca_bundle})
    }

    /// The reviews' requests that it was sent, as `OPERATION resource/subresource name`.
    pub fn asked(&self) -> Vec<String> {
        let text = |request: &Value, name: &str| request[name].as_str().unwrap_or_default().to_owned();
        let seen = self.seen.lock();
        let tell = |review: &Value| {
            let request = &review["request"];
            let resource = request["resource"]["resource"].as_str().unwrap_or_default();
            let subresource = text(request, "subResource");
            let below = if subresource.is_empty() {
                String::new()
            } else {
                format!("/{subresource}")
            };
            format!(
                "{} {resource}{below} {}",
                text(request, "operation"),
                text(request, "name")
            )
        };
        seen.iter().map(tell).collect()
    }
}

async fn read_request(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Value> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
    let mut body = vec![0; length.trim().parse().ok()?];
    stream.read_exact(&mut body).await.ok()?;
    serde_json::from_slice(&body).ok()
}

/// An answer to a review that lets it pass, with more fields of the response.
pub fn allow(review: &Value, more: Value) -> Reply {
    let mut response = json!({"uid": review["request"]["uid"], "allowed": true});
    for (name, value) in more.as_object().unwrap() {
        response[name] = value.clone();
    }
    Reply::Json(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
}

/// An answer that changes the object.
pub fn patch(review: &Value, operations: Value) -> Reply {
    let patch = STANDARD.encode(operations.to_string());
    allow(review, json!({"patch": patch, "patchType": "JSONPatch"}))
}

/// An answer that refuses it.
pub fn refuse(review: &Value, message: &str) -> Reply {
    allow(
        review,
        json!({"allowed": false, "status": {"message": message, "code": 403, "reason": "Forbidden"}}),
    )
}
