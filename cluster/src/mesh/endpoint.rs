//! The endpoint's life: binding the socket, accepting, dialling, and the tasks of each connection. Acting code of the
//! mesh.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use protocol::NodeName;
use protocol::transport::TransportError;
use quinn::{AsyncUdpSocket, Connection, Endpoint, Runtime, TokioRuntime, VarInt};
use tokio_util::sync::CancellationToken;

use super::peer::{Attempt, Link, Peer};
use super::tls::{self, KEEP_ALIVE};
use super::{Counters, Datagram, Inner, JOINERS_MAX, Mesh, MeshError, serve};
use crate::identity::NodeIdentity;

/// A handshake and the greeting after it take two round trips and a millisecond of work; on a machine that is busy a second.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// First byte of a datagram that only shows that its sender lives.
const DATAGRAM_ALIVE: u8 = 0;
/// First byte of a datagram for whoever receives datagrams.
pub const DATAGRAM_PAYLOAD: u8 = 1;
/// Close code: the peer is not who it should be.
const CLOSE_REFUSED: VarInt = VarInt::from_u32(1);

/// Opens the socket.
pub fn bind(address: SocketAddr) -> Result<Arc<dyn AsyncUdpSocket>, MeshError> {
    std::net::UdpSocket::bind(address)
        .and_then(|socket| TokioRuntime.wrap_udp_socket(socket))
        .map_err(|source| match source.kind() {
            std::io::ErrorKind::AddrInUse => MeshError::PortInUse { address },
            _ => MeshError::Bind { address, source },
        })
}

/// Makes the endpoint and begins to accept.
pub fn start(identity: &NodeIdentity, socket: Arc<dyn AsyncUdpSocket>) -> Result<Mesh, MeshError> {
    let address = socket.local_addr().map_err(|source| MeshError::Bind {
        address: ([0, 0, 0, 0], 0).into(),
        source,
    })?;
    let server = tls::server(identity)?;
    let endpoint =
        Endpoint::new_with_abstract_socket(tls::endpoint(identity), Some(server), socket, Arc::new(TokioRuntime))
            .map_err(|source| MeshError::Bind { address, source })?;
    let inner = Arc::new(Inner {
        name: identity.name.clone(),
        boot: boot(),
        endpoint,
        client: parking_lot::RwLock::new(tls::client(identity)?),
        addresses: parking_lot::RwLock::default(),
        peers: parking_lot::Mutex::default(),
        services: parking_lot::RwLock::default(),
        raw_services: parking_lot::RwLock::default(),
        datagrams: parking_lot::RwLock::default(),
        joiners: Arc::new(tokio::sync::Semaphore::new(JOINERS_MAX)),
        counters: Counters::default(),
        closed: CancellationToken::new(),
    });
    tokio::spawn(accept(inner.clone()));
    Ok(Mesh { inner })
}

/// A number for this life of the process: of two lives of a node, the later has the higher one. A clock that was set back
/// in between costs the peers the idle timeout, after which the earlier life's connections are gone.
fn boot() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    // Nanoseconds fit until the year 2554.
    since.map_or(0, |since| since.as_nanos() as u64)
}

/// Accepts until the endpoint closes.
async fn accept(mesh: Arc<Inner>) {
    while let Some(incoming) = mesh.endpoint.accept().await {
        let mesh = mesh.clone();
        tokio::spawn(async move {
            let from = incoming.remote_address();
            let until = Instant::now() + HANDSHAKE_TIMEOUT;
            let handshake = async { incoming.accept()?.await };
            match tokio::time::timeout_at(until.into(), handshake).await {
                Ok(Ok(connection)) => accepted(&mesh, connection, until).await,
                Ok(Err(error)) => tracing::debug!(%from, %error, "a peer did not complete its handshake"),
                Err(_) => tracing::debug!(%from, "a peer did not complete its handshake in time"),
            }
        });
    }
}

/// Serves a connection that a peer dialled. A member's greeting is to be there by `until`.
async fn accepted(mesh: &Arc<Inner>, connection: Connection, until: Instant) {
    let from = connection.remote_address();
    match tls::peer_of(&connection) {
        Ok(tls::Peer::Member(name)) if name == mesh.name => {
            connection.close(
                CLOSE_REFUSED,
                b"this is the node itself, or another machine with its certificate",
            );
        }
        Ok(tls::Peer::Member(name)) => {
            mesh.counters.handshakes.fetch_add(1, Ordering::Relaxed);
            match greet(mesh, &connection, until).await {
                Ok(boot) => {
                    let peer = peer(mesh, &name);
                    let link = Link::new(connection, false, boot);
                    // Before its requests are served: what they make this node ask of the peer takes this connection.
                    peer.adopt(&mesh.name, &link);
                    run(mesh, &peer, &link);
                }
                Err(reason) => {
                    tracing::debug!(%name, %from, reason, "a peer's connection was given up");
                    connection.close(CLOSE_REFUSED, reason.as_bytes());
                }
            }
        }
        Ok(tls::Peer::Joiner) => match mesh.joiners.clone().try_acquire_owned() {
            Ok(permit) => {
                serve::joiner(mesh, connection).await;
                drop(permit);
            }
            Err(_) => connection.close(CLOSE_REFUSED, b"too many machines are joining at present; try again"),
        },
        Err(reason) => {
            tracing::info!(%from, reason, "a peer was refused");
            connection.close(CLOSE_REFUSED, reason.as_bytes());
        }
    }
}

/// What is known of a peer.
pub fn peer(mesh: &Inner, name: &NodeName) -> Arc<Peer> {
    mesh.peers
        .lock()
        .entry(name.clone())
        .or_insert_with(|| Peer::new(name.clone()))
        .clone()
}

/// The connection to a node: the one that is open, or a new one.
pub async fn link(mesh: &Arc<Inner>, to: &NodeName) -> Result<Arc<Link>, TransportError> {
    let peer = peer(mesh, to);
    if let Some(link) = peer.live() {
        return Ok(link);
    }
    if mesh.closed.is_cancelled() {
        return Err(TransportError::Unreachable {
            node: to.clone(),
            reason: "this node is stopping".to_owned(),
        });
    }
    let address = mesh.addresses.read().get(to).copied();
    let Some(address) = address else {
        return Err(TransportError::UnknownNode(to.clone()));
    };
    // Registered before the next look, so that a connection that comes up in between is not missed.
    let connected = peer.connected.notified();
    tokio::pin!(connected);
    connected.as_mut().enable();
    let begin = |wait| begin_dial(mesh, &peer, address, wait);
    let attempt = match peer.live_or_attempt(Instant::now(), begin) {
        Ok(link) => return Ok(link),
        Err(attempt) => attempt,
    };
    let unreachable = |reason: Arc<str>| TransportError::Unreachable {
        node: to.clone(),
        reason: reason.to_string(),
    };
    // The attempt may lead to a process that is gone, while the one that took its place has dialled.
    tokio::select! {
        biased;
        () = connected => match peer.live() {
            Some(link) => Ok(link),
            None => attempt.await.map_err(unreachable),
        },
        outcome = attempt.clone() => outcome.map_err(unreachable),
    }
}

/// A dial in a task of its own, so that a caller's short deadline does not end it for all others.
fn begin_dial(mesh: &Arc<Inner>, peer: &Arc<Peer>, address: SocketAddr, wait: Duration) -> Attempt {
    let (mesh, peer) = (mesh.clone(), peer.clone());
    let task = tokio::spawn(async move {
        if !wait.is_zero() {
            let connected = peer.connected.notified();
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = connected => {}
            }
        }
        // The peer may have dialled meanwhile.
        let result = match peer.live() {
            Some(link) => Ok(link),
            None => dial(&mesh, &peer, address).await,
        };
        peer.attempt_ended(Instant::now(), result.is_ok());
        result.map_err(Arc::from)
    });
    async move { task.await.unwrap_or_else(|error| Err(Arc::from(error.to_string()))) }
        .boxed()
        .shared()
}

async fn dial(mesh: &Arc<Inner>, peer: &Arc<Peer>, address: SocketAddr) -> Result<Arc<Link>, String> {
    let client = mesh.client.read().clone();
    let connecting = mesh
        .endpoint
        .connect_with(client, address, peer.name.as_str())
        .map_err(|error| error.to_string())?;
    let until = Instant::now() + HANDSHAKE_TIMEOUT;
    let connection = match tokio::time::timeout_at(until.into(), connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return Err(format!("{address}: {error}")),
        Err(_) => {
            return Err(format!(
                "{address} did not answer within {} ms",
                HANDSHAKE_TIMEOUT.as_millis()
            ));
        }
    };
    match tls::peer_of(&connection) {
        Ok(tls::Peer::Member(name)) if name == peer.name => {}
        other => {
            connection.close(CLOSE_REFUSED, b"not the node that was dialled");
            return Err(format!("{address} is not {}: {other:?}", peer.name));
        }
    }
    mesh.counters.handshakes.fetch_add(1, Ordering::Relaxed);
    let boot = match greet(mesh, &connection, until).await {
        Ok(boot) => boot,
        Err(reason) => {
            connection.close(CLOSE_REFUSED, reason.as_bytes());
            return Err(format!("{address}: {reason}"));
        }
    };
    let link = Link::new(connection, true, boot);
    run(mesh, peer, &link);
    Ok(peer.adopt(&mesh.name, &link))
}

/// Tells the peer which life of this process it talks to, and learns the same of the peer. No connection is used before:
/// a process that dies between its handshake and its greeting leaves nothing behind that could be taken for alive.
async fn greet(mesh: &Inner, connection: &Connection, until: Instant) -> Result<u64, String> {
    let exchange = async {
        let mut send = connection.open_uni().await.map_err(|error| error.to_string())?;
        send.write_all(&mesh.boot.to_be_bytes())
            .await
            .map_err(|error| error.to_string())?;
        let _ = send.finish();
        let mut receive = connection.accept_uni().await.map_err(|error| error.to_string())?;
        let mut boot = [0; 8];
        receive.read_exact(&mut boot).await.map_err(|error| error.to_string())?;
        Ok(u64::from_be_bytes(boot))
    };
    let greeted = tokio::time::timeout_at(until.into(), exchange).await;
    greeted.unwrap_or_else(|_| {
        Err(format!(
            "it did not say within {} ms which life of its process it is",
            HANDSHAKE_TIMEOUT.as_millis()
        ))
    })
}

/// Starts the tasks of a connection to a member. They end with it.
fn run(mesh: &Arc<Inner>, peer: &Arc<Peer>, link: &Arc<Link>) {
    tokio::spawn(serve::streams(mesh.clone(), peer.name.clone(), link.clone()));
    tokio::spawn(receive_datagrams(mesh.clone(), peer.clone(), link.clone()));
    tokio::spawn(keep_alive(link.clone()));
}

async fn receive_datagrams(mesh: Arc<Inner>, peer: Arc<Peer>, link: Arc<Link>) {
    // An error is the connection's end.
    while let Ok(datagram) = link.connection.read_datagram().await {
        if datagram.first() != Some(&DATAGRAM_PAYLOAD) {
            continue;
        }
        let into = mesh.datagrams.read().clone();
        let datagram = Datagram {
            from: peer.name.clone(),
            bytes: datagram.slice(1..),
        };
        if into.is_none_or(|into| into.try_send(datagram).is_err()) {
            mesh.counters.datagrams_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
    peer.ended(&link);
}

/// Keeps a connection alive while streams run on it. QUIC's own keep-alive cannot be switched per connection, and idle
/// peers should cost nothing.
async fn keep_alive(link: Arc<Link>) {
    let closed = link.connection.clone();
    let beat = async {
        loop {
            if !link.in_use() {
                link.used.notified().await;
            }
            tokio::time::sleep(KEEP_ALIVE).await;
            if link.in_use() {
                // A connection that is closing refuses it, and that ends this task.
                let _ = link.connection.send_datagram(Bytes::from_static(&[DATAGRAM_ALIVE]));
            }
        }
    };
    tokio::select! {
        _ = closed.closed() => {}
        () = beat => {}
    }
}
