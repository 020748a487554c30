//! The mesh: one QUIC endpoint per node, one connection per pair of nodes that need to talk, opened on demand, with
//! mutual TLS by the cluster's CA. Implements `protocol::transport::Transport`. Owned by the process; membership feeds
//! its address book and sends gossip through its datagrams; every other part asks for a peer by name.
//!
//! Invariants: a peer's name is the one in its certificate, and a dial by name succeeds only at the node of that name. A
//! machine without a certificate reaches `Purpose::Join` and nothing else. Every request has a stream of its own, so none
//! waits behind another. Nothing of a dead peer is waited for longer than the idle timeout, whatever a caller's deadline.
//!
//! It never decides who is a member, and never retries a request whose bytes may have arrived.
#![allow(clippy::disallowed_methods)] // Acting code: it owns sockets, timers and the clock that paces them.

pub mod election;
mod endpoint;
mod frame;
mod peer;
mod raw;
mod serve;
pub mod tls;
mod transport;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use protocol::NodeName;
use protocol::transport::{Purpose, SharedService, TransportError};
use quinn::Endpoint;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

pub use frame::{JOIN_BYTES_MAX, Kind};
pub use raw::{RawReader, RawStream, RawWriter};
pub(crate) use transport::JoinStream;

use crate::identity::{IdentityError, NodeIdentity};
use peer::Peer;

/// Joiners that are served at once; more are refused until one is done.
const JOINERS_MAX: usize = 32;

/// Why the mesh does not start.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// Another process has the port.
    #[error("UDP port {} on {} is taken by another process: stop that process (`ss -ulpn` shows it), or choose another port with --mesh-port", .address.port(), .address.ip())]
    PortInUse {
        /// The address.
        address: SocketAddr,
    },
    /// The socket cannot be opened.
    #[error("UDP socket on {address} cannot be opened: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's words.
        source: std::io::Error,
    },
    /// The node's identity is at fault.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Serves raw streams of one purpose.
#[async_trait]
pub trait RawService: Send + Sync + 'static {
    /// Owns the stream until it is done with it.
    async fn serve(&self, from: &NodeName, stream: RawStream);
}

/// A datagram from a member.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// The sender, by its certificate.
    pub from: NodeName,
    /// What it sent.
    pub bytes: Bytes,
}

/// What the shell shows of a peer.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Its name.
    pub name: NodeName,
    /// Where it is.
    pub address: SocketAddr,
    /// Round-trip time as QUIC measures it.
    pub round_trip: Duration,
    /// Whether streams run on the connection.
    pub in_use: bool,
}

/// Counters of the mesh since the process began.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub handshakes: AtomicU64,
    pub calls: AtomicU64,
    pub served: AtomicU64,
    pub datagrams_sent: AtomicU64,
    pub datagrams_dropped: AtomicU64,
}

/// A reading of the mesh's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeshCounters {
    /// Connections that were established, by either side.
    pub handshakes: u64,
    /// Requests that this node made of others.
    pub calls: u64,
    /// Streams that this node served.
    pub served: u64,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Datagrams that found no room, or no connection in time.
    pub datagrams_dropped: u64,
}

/// This node's end of the mesh. Cheap to clone; all clones are the same mesh.
#[derive(Clone)]
pub struct Mesh {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mesh")
            .field("name", &self.inner.name)
            .finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    pub name: NodeName,
    /// Names this life of the process to its peers.
    pub boot: u64,
    pub endpoint: Endpoint,
    pub client: RwLock<quinn::ClientConfig>,
    pub addresses: RwLock<HashMap<NodeName, SocketAddr>>,
    pub peers: Mutex<HashMap<NodeName, Arc<Peer>>>,
    pub services: RwLock<HashMap<Purpose, SharedService>>,
    pub raw_services: RwLock<HashMap<Purpose, Arc<dyn RawService>>>,
    pub datagrams: RwLock<Option<mpsc::Sender<Datagram>>>,
    pub joiners: Arc<Semaphore>,
    pub counters: Counters,
    pub closed: CancellationToken,
}

impl Mesh {
    /// Opens the socket and begins to accept. Nothing is served until `serve` registers it.
    pub fn start(identity: &NodeIdentity, bind: SocketAddr) -> Result<Mesh, MeshError> {
        endpoint::start(identity, bind_socket(bind)?)
    }

    /// As `start`, over a socket that the caller has opened.
    pub fn start_on(identity: &NodeIdentity, socket: Arc<dyn quinn::AsyncUdpSocket>) -> Result<Mesh, MeshError> {
        endpoint::start(identity, socket)
    }

    /// This node's name.
    pub fn name(&self) -> &NodeName {
        &self.inner.name
    }

    /// Where it listens; the port that the system chose if it was left to it.
    pub fn local_address(&self) -> SocketAddr {
        self.inner.endpoint.local_addr().expect("a bound socket has an address")
    }

    /// Takes a renewed certificate into use for connections that begin from now on.
    pub fn renew(&self, identity: &NodeIdentity) -> Result<(), MeshError> {
        let client = tls::client(identity)?;
        self.inner.endpoint.set_server_config(Some(tls::server(identity)?));
        *self.inner.client.write() = client;
        Ok(())
    }

    /// Registers who answers requests of this purpose, in place of whoever did.
    pub fn serve(&self, purpose: Purpose, service: SharedService) {
        self.inner.services.write().insert(purpose, service);
    }

    /// Registers who serves raw streams of this purpose, in place of whoever did.
    pub fn serve_raw(&self, purpose: Purpose, service: Arc<dyn RawService>) {
        self.inner.raw_services.write().insert(purpose, service);
    }

    /// Stops serving a purpose. What is being answered is answered.
    pub fn stop_serving(&self, purpose: Purpose) {
        self.inner.services.write().remove(&purpose);
        self.inner.raw_services.write().remove(&purpose);
    }

    /// Where datagrams from members go from now on. When the receiver falls behind, datagrams are dropped.
    pub fn receive_datagrams(&self, into: mpsc::Sender<Datagram>) {
        *self.inner.datagrams.write() = Some(into);
    }

    /// Notes where a node is. An open connection to another address stays until it breaks.
    pub fn set_address(&self, node: &NodeName, address: SocketAddr) {
        if *node != self.inner.name {
            self.inner.addresses.write().insert(node.clone(), address);
        }
    }

    /// Forgets where a node is: it has left. An open connection stays until it idles out or `disconnect` closes it.
    pub fn forget_address(&self, node: &NodeName) {
        self.inner.addresses.write().remove(node);
    }

    /// Where a node is, as far as is known.
    pub fn address_of(&self, node: &NodeName) -> Option<SocketAddr> {
        self.inner.addresses.read().get(node).copied()
    }

    /// Closes the connection to a node; what waits on it fails at once. Membership calls it when a node is declared dead.
    pub fn disconnect(&self, node: &NodeName, reason: &str) {
        let peer = self.inner.peers.lock().get(node).cloned();
        if let Some(peer) = peer {
            peer.disconnect(reason.as_bytes());
        }
    }

    /// The peers to which a connection is open.
    pub fn connected(&self) -> Vec<PeerStatus> {
        let peers: Vec<Arc<Peer>> = self.inner.peers.lock().values().cloned().collect();
        let mut status: Vec<PeerStatus> = peers
            .iter()
            .filter_map(|peer| {
                let link = peer.live()?;
                Some(PeerStatus {
                    name: peer.name.clone(),
                    address: link.connection.remote_address(),
                    round_trip: link.connection.rtt(),
                    in_use: link.in_use(),
                })
            })
            .collect();
        status.sort_by(|a, b| a.name.cmp(&b.name));
        status
    }

    /// The counters.
    pub fn counters(&self) -> MeshCounters {
        let counters = &self.inner.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MeshCounters {
            handshakes: read(&counters.handshakes),
            calls: read(&counters.calls),
            served: read(&counters.served),
            datagrams_sent: read(&counters.datagrams_sent),
            datagrams_dropped: read(&counters.datagrams_dropped),
        }
    }

    /// Opens a stream of bytes to a node. Fails at once if nothing serves raw streams of this purpose there.
    pub async fn open(
        &self,
        node: &NodeName,
        purpose: Purpose,
        deadline: Duration,
    ) -> Result<RawStream, TransportError> {
        transport::open(&self.inner, node, purpose, deadline).await
    }

    /// Sends a datagram, opening a connection if there is none. Nothing says whether it arrives. False if it was dropped
    /// at once: it is longer than `datagram_bytes_max`, or too many wait for the connection already.
    pub fn send_datagram(&self, node: &NodeName, bytes: Bytes) -> bool {
        transport::send_datagram(&self.inner, node, bytes)
    }

    /// The longest datagram that fits on every path. QUIC guarantees packets of 1,200 bytes; headers, the tag and our own
    /// byte take less than 60 of them.
    pub const fn datagram_bytes_max() -> usize {
        1140
    }

    /// Closes all connections and the socket, and waits (up to a second) until the peers have been told.
    pub async fn close(&self) {
        self.inner.closed.cancel();
        self.inner
            .endpoint
            .close(quinn::VarInt::from_u32(0), b"the node is stopping");
        // Those that do not answer within the second will see their connections time out.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.inner.endpoint.wait_idle()).await;
    }
}

/// Opens the mesh's socket for `Mesh::start_on`. A joiner calls it before it asks for admission, so that a port that is
/// taken is noticed while nothing has happened yet. Needs a tokio runtime.
pub fn bind_socket(address: SocketAddr) -> Result<Arc<dyn quinn::AsyncUdpSocket>, MeshError> {
    endpoint::bind(address)
}

/// Random bytes from the system.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .expect("the kernel's random source does not fail once the machine is up");
    bytes
}
