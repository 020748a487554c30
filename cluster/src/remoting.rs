//! Messages between the well-known actors of different nodes: ractor_cluster over raw streams of the mesh. Each process has
//! one remotable actor, its router; whoever wants an actor of another node sends the router there an envelope of bytes,
//! which names the actor. The process starts it with the router's handler; the shell's verbs and the control plane call it.
//!
//! Traps of ractor_cluster, and what is done about them here:
//! - It opens a TCP listener, always. Ours is bound to loopback and asks for a certificate of the cluster's CA, so that it
//!   admits nobody who could not come through the mesh as well.
//! - It announces every remotable actor to every peer. Only the router is one.
//! - It does not compare node names with certificates. A session whose peer calls itself otherwise than its certificate
//!   does is stopped, and routers are found by the session on which they were announced, not by a name.
//! - Stopping a remote reference ends the whole session: nothing here stops one.
//! - A call whose answer never comes waits for ever: every call has a deadline.
//! - A new session of a peer that was restarted loses against the old one while that lingers. The mesh closes connections
//!   to an earlier life at once, and a call tries again until its deadline as long as nothing was sent.
#![allow(clippy::disallowed_methods)] // Acting code: deadlines and idle sessions are measured by the clock.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bincode::{Decode, Encode};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use protocol::NodeName;
use protocol::codec::{CodecError, decode, encode};
use protocol::transport::{Purpose, TransportError};
use ractor::rpc::CallResult;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort};
use ractor_cluster::node::{NodeConnectionMode, NodeServerSessionInformation};
use ractor_cluster::{
    BoxRead, BoxWrite, ClusterBidiStream, IncomingEncryptionMode, NodeEventSubscription, NodeServer, NodeServerMessage,
    RactorClusterMessage,
};
use tokio::sync::{Semaphore, watch};

use crate::identity::{CertificateFacts, IdentityError, NodeIdentity, fingerprint};
use crate::mesh::{Mesh, RawService, RawStream, tls};

/// What answers envelopes from other nodes: the sender's name and its bytes, to the answer's bytes.
pub type RouterHandler = Arc<dyn Fn(NodeName, Vec<u8>) -> BoxFuture<'static, Vec<u8>> + Send + Sync>;

/// The process group in which each process's router is; sessions carry it to the peers.
const ROUTERS: &str = "actorium-routers";
/// What follows the node's name in ractor_cluster's names.
const HOST: &str = "actorium";
/// The largest envelope. What is larger travels on a stream of its own: one of 8 MB delays everything behind it.
pub const ENVELOPE_BYTES_MAX: usize = 4 << 20;
/// Envelopes that are answered at once. More are refused, so that peers cannot fill this process's memory.
const IN_FLIGHT_MAX: usize = 512;
/// A session that this node opened and has not used for so long is closed.
const IDLE_SESSION: Duration = Duration::from_secs(60);
/// How long before the deadline the end of a reply's port is taken for the deadline itself.
const DEADLINE_RACE: Duration = Duration::from_millis(20);
/// Between attempts to get a session.
const RETRY: Duration = Duration::from_millis(50);

/// Why another node's actor did not answer.
#[derive(Debug, thiserror::Error)]
pub enum RemotingError {
    /// The node cannot be reached, or is too slow.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The envelope does not fit.
    #[error("an envelope of {length} bytes is larger than the {ENVELOPE_BYTES_MAX} that are allowed")]
    TooLarge {
        /// Its length.
        length: usize,
    },
    /// The node has too much to answer already.
    #[error("node {node} answers {IN_FLIGHT_MAX} requests of actors already; try again")]
    Busy {
        /// The node.
        node: NodeName,
    },
    /// The node's answer makes no sense.
    #[error("node {node} answered something else: {source}")]
    Codec {
        /// The node.
        node: NodeName,
        /// Why.
        source: CodecError,
    },
    /// ractor_cluster does not start.
    #[error("remoting does not start: {0}")]
    Start(String),
    /// The node's identity is at fault.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// What travels to a router.
#[derive(Debug, Encode, Decode)]
struct Envelope {
    from: NodeName,
    body: Vec<u8>,
}

/// What travels back.
#[derive(Debug, Encode, Decode)]
enum Answer {
    Body(Vec<u8>),
    Busy,
    Malformed,
}

#[derive(RactorClusterMessage)]
enum RouterMessage {
    #[rpc]
    Ask(Vec<u8>, RpcReplyPort<Vec<u8>>),
}

/// The process's one remotable actor. Each envelope is answered in a task of its own: a slow answer holds up nobody.
struct Router {
    handler: RouterHandler,
    places: Arc<Semaphore>,
}

impl Actor for Router {
    type Msg = RouterMessage;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _myself: ActorRef<RouterMessage>, _arguments: ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _myself: ActorRef<RouterMessage>,
        message: RouterMessage,
        _state: &mut (),
    ) -> Result<(), ActorProcessingErr> {
        let RouterMessage::Ask(bytes, reply) = message;
        let handler = self.handler.clone();
        let place = self.places.clone().try_acquire_owned();
        tokio::spawn(async move {
            let answer = match (place, decode::<Envelope>(&bytes)) {
                (Ok(_place), Ok(envelope)) => Answer::Body(handler(envelope.from, envelope.body).await),
                (Err(_), _) => Answer::Busy,
                (_, Err(_)) => Answer::Malformed,
            };
            // A caller that is gone needs no answer; an answer that does not encode is one that is too large.
            let _ = reply.send(encode(&answer).unwrap_or_default());
        });
        Ok(())
    }
}

/// A session with a peer that is ready for use.
struct Session {
    node_id: u64,
    actor: ActorRef<ractor_cluster::NodeSessionMessage>,
    accepted: bool,
    used: Instant,
}

struct Inner {
    mesh: Mesh,
    handler: RouterHandler,
    server: ActorRef<NodeServerMessage>,
    sessions: Mutex<HashMap<NodeName, Session>>,
    /// Ticks when a session is ready or gone.
    changed: watch::Sender<u64>,
    /// One attempt to open a session per peer at a time.
    opening: Mutex<HashMap<NodeName, Arc<tokio::sync::Mutex<()>>>>,
}

/// This node's remoting. Cheap to clone.
#[derive(Clone)]
pub struct Remoting {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Remoting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remoting")
            .field("node", self.inner.mesh.name())
            .finish_non_exhaustive()
    }
}

impl Remoting {
    /// Starts the router and serves `Purpose::Remoting` on the mesh. One per process: ractor's registries are global.
    pub async fn start(
        mesh: &Mesh,
        identity: &NodeIdentity,
        handler: RouterHandler,
    ) -> Result<Remoting, RemotingError> {
        let failed = |error: ractor::SpawnErr| RemotingError::Start(error.to_string());
        let authority = CertificateFacts::from_pem(&identity.authority_pem)?;
        // The mesh and the listener have verified the peer's certificate; the cookie tells clusters apart.
        let cookie = hex::encode(fingerprint(&rustls::pki_types::CertificateDer::from(authority.der)));
        let acceptor = tls::loopback_acceptor(identity)?;
        let server = NodeServer::new(
            0,
            cookie,
            mesh.name().to_string(),
            HOST.to_owned(),
            Some(IncomingEncryptionMode::Tls(acceptor)),
            Some(NodeConnectionMode::Isolated),
        )
        .with_listen_addr(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let (server, _) = Actor::spawn(None, server, ()).await.map_err(failed)?;
        let router = Router {
            handler: handler.clone(),
            places: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
        };
        let (router, _) = Actor::spawn(None, router, ()).await.map_err(failed)?;
        ractor::pg::join_scoped(HOST.to_owned(), ROUTERS.to_owned(), vec![router.get_cell()]);

        let inner = Arc::new(Inner {
            mesh: mesh.clone(),
            handler,
            server: server.clone(),
            sessions: Mutex::default(),
            changed: watch::channel(0).0,
            opening: Mutex::default(),
        });
        let subscription = Box::new(Sessions {
            inner: Arc::downgrade(&inner),
        });
        server
            .cast(NodeServerMessage::SubscribeToEvents {
                id: HOST.to_owned(),
                subscription,
            })
            .map_err(|error| RemotingError::Start(error.to_string()))?;
        mesh.serve_raw(Purpose::Remoting, Arc::new(Accepting { server }));
        tokio::spawn(close_idle_sessions(Arc::downgrade(&inner)));
        Ok(Remoting { inner })
    }

    /// Sends an envelope to the router of a node and waits for its answer. Opens a session if there is none.
    pub async fn call(&self, node: &NodeName, body: Vec<u8>, deadline: Duration) -> Result<Vec<u8>, RemotingError> {
        if body.len() > ENVELOPE_BYTES_MAX {
            return Err(RemotingError::TooLarge { length: body.len() });
        }
        let from = self.inner.mesh.name().clone();
        let late = || {
            RemotingError::from(TransportError::Deadline {
                node: node.clone(),
                deadline_ms: deadline.as_millis() as u64,
            })
        };
        let until = Instant::now() + deadline;
        if *node == from {
            return tokio::time::timeout(deadline, (self.inner.handler)(from, body))
                .await
                .map_err(|_| late());
        }
        let codec = |source| RemotingError::Codec {
            node: node.clone(),
            source,
        };
        let envelope = encode(&Envelope { from, body }).map_err(codec)?;
        let router = match tokio::time::timeout(deadline, self.router_of(node, until)).await {
            Ok(router) => router?,
            Err(_) => return Err(late()),
        };
        let left = until.saturating_duration_since(Instant::now());
        let reply = router.call(|port| RouterMessage::Ask(envelope, port), Some(left)).await;
        match reply {
            Ok(CallResult::Success(bytes)) => match decode(&bytes).map_err(codec)? {
                Answer::Body(body) => Ok(body),
                Answer::Busy => Err(RemotingError::Busy { node: node.clone() }),
                Answer::Malformed => Err(unreachable(node, "it cannot read our envelope: upgrade the older node")),
            },
            Ok(CallResult::Timeout) => Err(late()),
            // ractor drops the reply's port at the same deadline, and either of the two may be noticed first.
            Ok(CallResult::SenderError) if Instant::now() + DEADLINE_RACE >= until => Err(late()),
            Ok(CallResult::SenderError) | Err(_) => Err(unreachable(node, "the session ended before the answer came")),
        }
    }

    /// The peers with whom a session is open.
    pub fn sessions(&self) -> Vec<NodeName> {
        let mut names: Vec<NodeName> = self.inner.sessions.lock().keys().cloned().collect();
        names.sort();
        names
    }

    /// The router of a node as this process sees it: over the open session, or a new one.
    async fn router_of(&self, node: &NodeName, until: Instant) -> Result<ActorRef<RouterMessage>, RemotingError> {
        if let Some(router) = self.inner.router(node) {
            return Ok(router);
        }
        let turn = self.inner.opening.lock().entry(node.clone()).or_default().clone();
        let _turn = turn.lock().await;
        let mut changed = self.inner.changed.subscribe();
        let mut reason = "no session could be opened".to_owned();
        loop {
            if let Some(router) = self.inner.router(node) {
                return Ok(router);
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.inner.mesh.open(node, Purpose::Remoting, left).await {
                Ok(stream) => {
                    let stream = Box::new(MeshStream {
                        stream,
                        peer: node.clone(),
                    });
                    ractor_cluster::client_connect_external(&self.inner.server, stream)
                        .await
                        .map_err(|error| unreachable(node, &error.to_string()))?;
                    // Ready within a few round trips, unless it loses against another session: then that one is used.
                    let patience = left.min(Duration::from_secs(1));
                    let ready = async {
                        while self.inner.router(node).is_none() {
                            // The sender lives as long as this node's remoting.
                            let _ = tokio::time::timeout(RETRY, changed.changed()).await;
                        }
                    };
                    if tokio::time::timeout(patience, ready).await.is_err() {
                        reason = "it opened no session in time".to_owned();
                    }
                }
                Err(error @ (TransportError::UnknownNode(_) | TransportError::NotServed { .. })) => {
                    return Err(error.into());
                }
                Err(error) => reason = error.to_string(),
            }
            if Instant::now() + RETRY >= until {
                return Err(unreachable(node, &reason));
            }
            if self.inner.router(node).is_none() {
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn unreachable(node: &NodeName, reason: &str) -> RemotingError {
    TransportError::Unreachable {
        node: node.clone(),
        reason: reason.to_owned(),
    }
    .into()
}

impl Inner {
    /// The router that was announced on the session with a node.
    fn router(&self, node: &NodeName) -> Option<ActorRef<RouterMessage>> {
        let node_id = {
            let mut sessions = self.sessions.lock();
            let session = sessions.get_mut(node)?;
            session.used = Instant::now();
            session.node_id
        };
        let routers = ractor::pg::get_scoped_members(&HOST.to_owned(), &ROUTERS.to_owned());
        let here = |id| matches!(id, ActorId::Remote { node_id: found, .. } if found == node_id);
        routers.into_iter().find(|cell| here(cell.get_id())).map(ActorRef::from)
    }
}

/// Follows the sessions of ractor_cluster.
struct Sessions {
    inner: Weak<Inner>,
}

impl NodeEventSubscription for Sessions {
    fn node_session_opened(&self, _session: NodeServerSessionInformation) {}

    fn node_session_authenticated(&self, _session: NodeServerSessionInformation) {}

    fn node_session_ready(&self, session: NodeServerSessionInformation) {
        let Some(inner) = self.inner.upgrade() else { return };
        // The label is the name in the certificate of the mesh's connection.
        let certified = session.peer_addr.clone();
        let claimed = session.peer_name.as_ref().map(|name| name.name.clone());
        if claimed.as_deref() != Some(format!("{certified}@{HOST}").as_str()) {
            tracing::warn!(%certified, ?claimed, "a session under another's name was closed");
            session.actor.stop(Some("the name is not the certificate's".to_owned()));
            return;
        }
        let ready = Session {
            node_id: session.node_id,
            actor: session.actor,
            accepted: session.is_server,
            used: Instant::now(),
        };
        inner.sessions.lock().insert(NodeName::from(certified), ready);
        inner.changed.send_modify(|tick| *tick += 1);
    }

    fn node_session_disconnected(&self, session: NodeServerSessionInformation) {
        let Some(inner) = self.inner.upgrade() else { return };
        let name = NodeName::from(session.peer_addr.as_str());
        let mut sessions = inner.sessions.lock();
        if sessions.get(&name).is_some_and(|open| open.node_id == session.node_id) {
            sessions.remove(&name);
        }
        drop(sessions);
        inner.changed.send_modify(|tick| *tick += 1);
    }
}

/// Closes sessions that this node opened and no longer uses: they would keep a connection alive for ever.
async fn close_idle_sessions(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(IDLE_SESSION / 4).await;
        let Some(inner) = inner.upgrade() else { return };
        let idle = |session: &Session| !session.accepted && session.used.elapsed() > IDLE_SESSION;
        for session in inner.sessions.lock().values().filter(|session| idle(session)) {
            // The session's own actor, not a reference to a remote one.
            session.actor.stop(Some("idle".to_owned()));
        }
    }
}

/// Gives streams that peers open to ractor_cluster.
struct Accepting {
    server: ActorRef<NodeServerMessage>,
}

#[async_trait]
impl RawService for Accepting {
    async fn serve(&self, from: &NodeName, stream: RawStream) {
        let stream = Box::new(MeshStream {
            stream,
            peer: from.clone(),
        });
        // The server ends only with the process.
        let _ = self.server.cast(NodeServerMessage::ConnectionOpenedExternal {
            stream,
            is_server: true,
        });
    }
}

/// A stream of the mesh as ractor_cluster wants it, labelled with the name in the peer's certificate.
struct MeshStream {
    stream: RawStream,
    peer: NodeName,
}

impl ClusterBidiStream for MeshStream {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        (self.stream.reader, self.stream.writer)
    }

    fn peer_label(&self) -> Option<String> {
        Some(self.peer.to_string())
    }
}
