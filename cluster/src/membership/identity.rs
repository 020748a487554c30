//! What gossip says of a member. It travels in every message, up to three times, so it is small.

use std::net::SocketAddr;

use bincode::{Decode, Encode};
use protocol::NodeName;

/// What a member says of itself beside its name and mesh address. Changes are rare: each one is told to all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct MemberFacts {
    /// Where its API is.
    pub https_address: Option<SocketAddr>,
    /// Its number in the consensus.
    pub raft_id: u64,
    /// Its failure domain (`topology.kubernetes.io/zone`); empty if unknown. At most 63 bytes.
    pub zone: String,
    /// The version of its program.
    pub version: String,
    /// It is about to leave: its end is not a failure.
    pub leaving: bool,
    /// Its consensus has stopped, as after an error of its disk: it lives and runs pods, but casts no vote until its
    /// process is started again.
    pub voteless: bool,
}

/// One life of a member. Of two with the same name, the higher incarnation is the member.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct MemberIdentity {
    /// The node's name, the same as in its certificate.
    pub name: NodeName,
    /// Where its mesh listens.
    pub address: SocketAddr,
    /// Grows with each start of the process, and each time that the member was thought dead and came back. Begins with
    /// the wall clock's milliseconds.
    pub incarnation: u64,
    /// What it says of itself.
    pub facts: MemberFacts,
}

impl foca::Identity for MemberIdentity {
    type Addr = NodeName;

    fn renew(&self) -> Option<Self> {
        Some(MemberIdentity {
            incarnation: self.incarnation + 1,
            ..self.clone()
        })
    }

    fn addr(&self) -> NodeName {
        self.name.clone()
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.incarnation > adversary.incarnation
    }
}
