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
        let pem = self.authority.issue_node(&request, &name(node), &[], &[], now()).unwrap();
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
        Box::pin(futures::stream::iter((0..count).map(|n| Ok(Bytes::from(n.to_string())))))
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

    fn loses(&self, address: &SocketAddr) -> bool {
        self.cut.load(std::sync::atomic::Ordering::Relaxed) || self.blocked.lock().contains(address)
    }
}

impl AsyncUdpSocket for LossySocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit) -> std::io::Result<()> {
        if self.loses(&transmit.destination) { Ok(()) } else { self.inner.try_send(transmit) }
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
