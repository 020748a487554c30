//! What the tests over real sockets share: a CA, nodes on loopback, and a socket that loses packets on demand.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::disallowed_methods, reason = "tests measure time")]

use std::collections::HashSet;
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use cluster::Mesh;
use cluster::identity::{AuthorityMaterial, ClusterAuthority, NodeIdentity, NodeKey};
use parking_lot::Mutex;
use protocol::transport::{FrameStream, Service};
use protocol::{NodeName, UnixMillis};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};

pub fn now() -> UnixMillis {
    UnixMillis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64)
}

pub fn name(text: &str) -> NodeName {
    NodeName::from(text)
}

/// A cluster's CA.
pub struct TestAuthority {
    pub authority: ClusterAuthority,
    pub material: AuthorityMaterial,
}

impl TestAuthority {
    pub fn new() -> TestAuthority {
        let (authority, material) = ClusterAuthority::generate(now()).unwrap();
        TestAuthority { authority, material }
    }

    pub fn identity(&self, node: &str) -> NodeIdentity {
        let key = NodeKey::generate().unwrap();
        let request = key.signing_request(&name(node)).unwrap();
        let pem = self
            .authority
            .issue_node(&request, &name(node), &[], &[], now())
            .unwrap();
        NodeIdentity::new(pem, key.to_pem(), self.authority.certificate_pem().to_owned()).unwrap()
    }

    pub fn mesh(&self, node: &str) -> Mesh {
        Mesh::start(&self.identity(node), loopback()).unwrap()
    }

    /// A mesh whose packets can be lost.
    pub fn lossy_mesh(&self, node: &str) -> (Mesh, Arc<LossySocket>) {
        let socket = LossySocket::bind();
        (Mesh::start_on(&self.identity(node), socket.clone()).unwrap(), socket)
    }
}

pub fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Tells two meshes where the other is.
pub fn introduce(a: &Mesh, b: &Mesh) {
    a.set_address(b.name(), b.local_address());
    b.set_address(a.name(), a.local_address());
}

/// Waits until something holds; panics after `limit`.
pub async fn eventually(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    began.elapsed()
}

/// Answers with the caller's name and what it said.
pub struct Echo;

#[async_trait]
impl Service for Echo {
    async fn call(&self, from: &NodeName, request: Bytes) -> Bytes {
        [from.as_str().as_bytes(), b":", &request].concat().into()
    }

    async fn stream(&self, _from: &NodeName, request: Bytes) -> FrameStream {
        let count: u32 = std::str::from_utf8(&request).unwrap().parse().unwrap();
        Box::pin(futures::stream::iter(
            (0..count).map(|n| Ok(Bytes::from(n.to_string()))),
        ))
    }
}

/// A UDP socket that loses everything to and from some addresses, or everything.
#[derive(Debug)]
pub struct LossySocket {
    inner: Arc<dyn AsyncUdpSocket>,
    blocked: Mutex<HashSet<SocketAddr>>,
    cut: std::sync::atomic::AtomicBool,
}

impl LossySocket {
    pub fn bind() -> Arc<LossySocket> {
        let socket = std::net::UdpSocket::bind(loopback()).unwrap();
        Arc::new(LossySocket {
            inner: TokioRuntime.wrap_udp_socket(socket).unwrap(),
            blocked: Mutex::default(),
            cut: false.into(),
        })
    }

    /// Loses everything, or nothing.
    pub fn cut_off(&self, cut: bool) {
        self.cut.store(cut, std::sync::atomic::Ordering::Relaxed);
    }

    /// Loses what goes to and comes from an address.
    pub fn block(&self, address: SocketAddr) {
        self.blocked.lock().insert(address);
    }

    /// Loses nothing more.
    pub fn unblock_all(&self) {
        self.blocked.lock().clear();
    }

    fn loses(&self, address: &SocketAddr) -> bool {
        self.cut.load(std::sync::atomic::Ordering::Relaxed) || self.blocked.lock().contains(address)
    }
}

impl AsyncUdpSocket for LossySocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit) -> std::io::Result<()> {
        if self.loses(&transmit.destination) {
            Ok(())
        } else {
            self.inner.try_send(transmit)
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<std::io::Result<usize>> {
        loop {
            let received = std::task::ready!(self.inner.poll_recv(cx, buffers, meta))?;
            // Without GRO each entry has one sender; an entry that is lost is handed over as an empty one.
            let mut kept = 0;
            for entry in meta.iter_mut().take(received) {
                if self.loses(&entry.addr) {
                    entry.len = 0;
                    entry.stride = 0;
                } else {
                    kept += 1;
                }
            }
            if kept > 0 {
                return Poll::Ready(Ok(received));
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// Trusts anyone: a client without a certificate that wants more than it should.
#[derive(Debug)]
struct TrustAnyone;

impl rustls::client::danger::ServerCertVerifier for TrustAnyone {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

async fn connect_without_certificate(to: SocketAddr, protocol: &[u8]) -> Result<quinn::Connection, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAnyone))
        .with_no_client_auth();
    tls.alpn_protocols = vec![protocol.to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let endpoint = quinn::Endpoint::client(loopback()).unwrap();
    let connecting = endpoint
        .connect_with(quinn::ClientConfig::new(Arc::new(crypto)), to, "n1")
        .unwrap();
    connecting.await.map_err(|error| error.to_string())
}

/// Calls a purpose as a joiner would and returns all that is answered.
pub async fn ask_without_certificate(to: SocketAddr, purpose: protocol::transport::Purpose) -> Vec<u8> {
    use protocol::transport::Purpose;
    let connection = connect_without_certificate(to, cluster::mesh::tls::JOIN_PROTOCOL)
        .await
        .unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    let number = match purpose {
        Purpose::Join => 1,
        Purpose::Consensus => 2,
        Purpose::Store => 3,
        Purpose::Api => 4,
        Purpose::Logs => 5,
        Purpose::Remoting => 6,
        Purpose::Membership => 7,
        Purpose::Sessions => 8,
    };
    send.write_all(&[1, number, 0, 0, 0, 0, 0, 2, b'h', b'i'])
        .await
        .unwrap();
    send.finish().unwrap();
    receive.read_to_end(1024).await.unwrap()
}

/// Whether a client without a certificate is thrown out when it claims to be a member.
pub async fn member_without_certificate(to: SocketAddr) -> bool {
    match connect_without_certificate(to, cluster::mesh::tls::MEMBER_PROTOCOL).await {
        Err(_) => true,
        Ok(connection) => {
            let closed = tokio::time::timeout(Duration::from_secs(2), connection.closed()).await;
            matches!(closed, Ok(quinn::ConnectionError::ApplicationClosed(close)) if !close.reason.is_empty())
        }
    }
}
