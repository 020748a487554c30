//! An HTTPS server of a test's own, beside the cluster: what webhooks and aggregated APIs are. It has a CA of its own, may demand
//! client certificates, and answers as the test tells it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body; null when there is none.
    pub body: Value,
}

impl Request {
    /// The values of a header.
    pub fn header(&self, name: &str) -> Vec<&str> {
        let of_name = self.headers.iter().filter(|(known, _)| known == name);
        of_name.map(|(_, value)| value.as_str()).collect()
    }
}

/// What is answered.
pub enum Reply {
    /// This status and document.
    Json(u16, Value),
    /// Nothing, for ever.
    Silence,
    /// Another protocol: the head as it is, and then every byte that comes is sent back in upper case.
    Echo(String),
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// A running server. Dropping it closes its port and its connections.
pub struct HttpsServer {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its CA, as a `caBundle`.
    pub ca_bundle: String,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for HttpsServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl HttpsServer {
    /// Serves on a free port, under the names of its certificate. With a `client_ca` (PEM) clients must show a certificate of it.
    pub fn start(
        host: Ipv4Addr,
        names: &[&str],
        client_ca: Option<&str>,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> HttpsServer {
        let (tls, ca_pem) = tls(names, client_ca);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime starts");
        let listener = runtime.block_on(TcpListener::bind((host, 0))).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let handler: Arc<Handler> = Arc::new(handler);
        runtime.spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(tls));
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, handler) = (acceptor.clone(), Arc::clone(&handler));
                // A client that is not trusted, or does not trust, ends here.
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, &handler).await;
                    }
                });
            }
        });
        HttpsServer {
            address,
            ca_bundle: STANDARD.encode(ca_pem),
            runtime: Some(runtime),
        }
    }
}

fn tls(names: &[&str], client_ca: Option<&str>) -> (rustls::ServerConfig, String) {
    let ca_key = KeyPair::generate().expect("a key is made");
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name = DistinguishedName::new();
    ca.distinguished_name.push(DnType::CommonName, "a test's CA");
    let ca_pem = ca.self_signed(&ca_key).expect("it signs itself").pem();
    let key = KeyPair::generate().expect("a key is made");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = CertificateParams::new(names)
        .and_then(|params| params.signed_by(&key, &Issuer::new(ca, ca_key)))
        .expect("the CA signs");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring has TLS 1.3");
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            let root = CertificateDer::from_pem_slice(pem.as_bytes()).expect("the CA is PEM");
            roots.add(root).expect("it is a certificate");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("there is a root"))
        }
    };
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let tls = builder.with_single_cert(vec![certificate.der().clone()], key);
    (tls.expect("key and certificate fit"), ca_pem)
}

async fn serve(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, handler: &Arc<Handler>) {
    while let Some(request) = read_request(&mut stream).await {
        let (code, text) = match handler(&request) {
            Reply::Json(code, value) => (code, value.to_string()),
            Reply::Silence => std::future::pending().await,
            Reply::Echo(head) => return echo(stream, &head).await,
        };
        let length = text.len();
        let head =
            format!("HTTP/1.1 {code} Answer\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
        if stream.write_all((head + &text).as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn echo(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, head: &str) {
    let mut sent = stream.write_all(head.as_bytes()).await;
    let mut part = [0; 1024];
    while sent.is_ok() {
        match stream.read(&mut part).await {
            Ok(0) | Err(_) => return,
            Ok(length) => sent = stream.write_all(&part[..length].to_ascii_uppercase()).await,
        }
    }
}

async fn read_request(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(Some(0), |(_, length)| length.parse().ok())?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Request {
        method,
        path,
        headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    })
}
