//! Requests from one node to another: the seam between the QUIC mesh, which carries them, and what is asked for over it
//! (consensus, the store, API forwarding, logs). `cluster`'s mesh implements `Transport`; tests use one in memory.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bincode::{Decode, Encode};
use bytes::Bytes;
use futures::Stream;

use crate::NodeName;

/// What a stream between two nodes is for. Every purpose has streams of its own, so that none blocks another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub enum Purpose {
    /// A machine without a certificate asks to become a member.
    Join,
    /// Raft requests: votes, appended entries, snapshot chunks.
    Consensus,
    /// Requests to the store's leader.
    Store,
    /// API requests that a node forwards to the leader.
    Api,
    /// Logs of containers.
    Logs,
    /// Messages between well-known actors (ractor_cluster).
    Remoting,
    /// Questions about membership that do not fit into gossip.
    Membership,
    /// Sessions with containers: exec, attach, forwarded ports. Raw streams.
    Sessions,
}

/// Why a peer did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No live member has this name.
    #[error("no member named {0} is known")]
    UnknownNode(NodeName),
    /// The connection could not be opened, or broke.
    #[error("node {node} cannot be reached: {reason}")]
    Unreachable {
        /// The peer.
        node: NodeName,
        /// What was seen.
        reason: String,
    },
    /// It took too long.
    #[error("node {node} did not answer within {deadline_ms} ms")]
    Deadline {
        /// The peer.
        node: NodeName,
        /// How long was waited.
        deadline_ms: u64,
    },
    /// The peer has nothing that serves this purpose at present.
    #[error("node {node} does not serve {purpose:?} at present")]
    NotServed {
        /// The peer.
        node: NodeName,
        /// What was asked for.
        purpose: Purpose,
    },
}

/// Frames of an answer that comes in parts. Dropping it tells the peer to stop.
pub type FrameStream = Pin<Box<dyn Stream<Item = Result<Bytes, TransportError>> + Send>>;

/// Carries requests to other nodes by name. A request to the node itself is served without a socket.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// This node's name.
    fn local(&self) -> &NodeName;

    /// One request, one answer.
    async fn call(
        &self,
        to: &NodeName,
        purpose: Purpose,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, TransportError>;

    /// One request, an answer in frames without end or deadline (watches, followed logs).
    async fn stream(&self, to: &NodeName, purpose: Purpose, request: Bytes) -> Result<FrameStream, TransportError>;
}

/// Serves one purpose on this node. Registered with the mesh by whoever owns the purpose.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Answers a `Transport::call`. Errors of the service itself travel inside the answer.
    async fn call(&self, from: &NodeName, request: Bytes) -> Bytes;

    /// Answers a `Transport::stream`. The default serves none.
    async fn stream(&self, from: &NodeName, request: Bytes) -> FrameStream {
        let _ = (from, request);
        Box::pin(futures::stream::empty())
    }
}

/// A service as it is registered.
pub type SharedService = Arc<dyn Service>;
