//! The seam to the cluster's membership: which machines answer. The node process implements `Membership` over the gossip;
//! tests pass a channel. Holds no policy: what follows from a lost machine is the Node actor's to decide.

use std::net::SocketAddr;
use std::pin::Pin;

use futures::Stream;
use protocol::NodeName;

use crate::kind::Liveness;

/// What the membership says of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberState {
    /// Its name, the name of its Node.
    pub node: NodeName,
    /// Whether it answers. One that left is `Down`.
    pub liveness: Liveness,
    /// Where its gateway serves the API, if it does.
    pub api_address: Option<SocketAddr>,
}

/// Changes of the membership, in order.
pub type MemberStream = Pin<Box<dyn Stream<Item = MemberState> + Send>>;

/// Tells of the members.
pub trait Membership: Send + Sync + 'static {
    /// The present state of every member, and then each change. Called again when the router restarts.
    fn watch(&self) -> MemberStream;
}
