//! How a machine becomes a member. `client` is the joiner's side: it recognises the cluster by the CA that its token
//! pins, before it says anything. `service` is the member's side: it hands requests to a `JoinAuthority`, which the process
//! implements on the replicated store. `check` holds the decisions. Renewals of a member's certificate take the same way,
//! over the member's own connection.

pub mod check;
mod client;
mod service;

pub use check::{TokenRecord, check_name, check_token};
pub use client::{Applicant, JoinError, Joined, join, renew};
pub use service::{JoinAuthority, JoinService};

use std::net::{IpAddr, SocketAddr};

use bincode::{Decode, Encode};
use config::cidr::CidrError;
use config::node::ClusterSettings;
use config::{Ipv4Cidr, JoinToken};
use protocol::{NodeName, UnixMillis};

/// What a machine says that wants to join. Its `Debug` form leaves the secret out.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct JoinRequest {
    /// The token's public part.
    pub token_id: String,
    /// The token's secret.
    pub token_secret: String,
    /// The name that the machine wants.
    pub name: NodeName,
    /// Where its mesh will listen.
    pub mesh_address: SocketAddr,
    /// Addresses for its certificate.
    pub addresses: Vec<IpAddr>,
    /// Its certificate signing request, DER.
    pub signing_request: Vec<u8>,
    /// The version of its program.
    pub version: String,
}

impl std::fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinRequest")
            .field("token_id", &self.token_id)
            .field("name", &self.name)
            .field("mesh_address", &self.mesh_address)
            .finish_non_exhaustive()
    }
}

/// What it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinGrant {
    /// Its certificate, PEM.
    pub certificate_pem: String,
    /// The CA's certificate, PEM.
    pub authority_pem: String,
    /// Members to call on, with their mesh addresses.
    pub members: Vec<(NodeName, SocketAddr)>,
    /// What all nodes of the cluster agree on.
    pub settings: ClusterSettings,
    /// The number by which consensus knows it.
    pub raft_id: u64,
}

/// Why it does not get in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Encode, Decode)]
pub enum JoinRefusal {
    /// No such token.
    #[error(
        "the cluster knows no join token {id}: it was deleted, or belongs to another cluster; make a new one on a member with `actorium token create`"
    )]
    UnknownToken {
        /// Its id.
        id: String,
    },
    /// The secret is another.
    #[error("the secret of join token {id} is wrong: copy the whole line that `actorium token create` printed")]
    WrongSecret {
        /// Its id.
        id: String,
    },
    /// The token's time is over.
    #[error("join token {id} expired at {}: make a new one on a member with `actorium token create`", .at.rfc3339())]
    Expired {
        /// Its id.
        id: String,
        /// When.
        at: UnixMillis,
    },
    /// The name may not be a node's.
    #[error("{reason}")]
    Name {
        /// Why.
        reason: String,
    },
    /// Another machine has the name, and lives.
    #[error("a living member at {address} is named {name} already: choose another name with --name")]
    NameTaken {
        /// The name.
        name: NodeName,
        /// Where it is.
        address: SocketAddr,
    },
    /// The signing request is not one.
    #[error("{reason}")]
    SigningRequest {
        /// Why.
        reason: String,
    },
    /// The cluster cannot admit anyone at present. Trying again is right.
    #[error("the cluster cannot admit a machine at present: {reason}")]
    NotReady {
        /// Why.
        reason: String,
    },
    /// The versions are too far apart.
    #[error("this machine runs version {theirs}, the cluster {ours}: {remedy}")]
    Version {
        /// The joiner's.
        theirs: String,
        /// The cluster's.
        ours: String,
        /// What to do.
        remedy: String,
    },
}

impl JoinRefusal {
    /// Whether asking again, or elsewhere, may end otherwise.
    pub fn is_passing(&self) -> bool {
        matches!(self, JoinRefusal::NotReady { .. })
    }
}

/// What travels to the member.
#[derive(Debug, Encode, Decode)]
enum WireRequest {
    Join(JoinRequest),
    Renew {
        signing_request: Vec<u8>,
        addresses: Vec<IpAddr>,
    },
}

/// What travels back.
#[derive(Debug, Encode, Decode)]
enum WireReply {
    Granted(WireGrant),
    Renewed { certificate_pem: String },
    Refused(JoinRefusal),
}

#[derive(Debug, Encode, Decode)]
struct WireGrant {
    certificate_pem: String,
    authority_pem: String,
    members: Vec<(NodeName, SocketAddr)>,
    cluster_cidr: String,
    service_cidr: String,
    cluster_domain: String,
    raft_id: u64,
}

impl From<JoinGrant> for WireGrant {
    fn from(grant: JoinGrant) -> WireGrant {
        WireGrant {
            certificate_pem: grant.certificate_pem,
            authority_pem: grant.authority_pem,
            members: grant.members,
            cluster_cidr: grant.settings.cluster_cidr.to_string(),
            service_cidr: grant.settings.service_cidr.to_string(),
            cluster_domain: grant.settings.cluster_domain,
            raft_id: grant.raft_id,
        }
    }
}

impl TryFrom<WireGrant> for JoinGrant {
    type Error = CidrError;

    fn try_from(wire: WireGrant) -> Result<JoinGrant, CidrError> {
        Ok(JoinGrant {
            certificate_pem: wire.certificate_pem,
            authority_pem: wire.authority_pem,
            members: wire.members,
            settings: ClusterSettings {
                cluster_cidr: Ipv4Cidr::parse(&wire.cluster_cidr)?,
                service_cidr: Ipv4Cidr::parse(&wire.service_cidr)?,
                cluster_domain: wire.cluster_domain,
            },
            raft_id: wire.raft_id,
        })
    }
}

/// A new join token for the cluster whose CA has this fingerprint, drawn from the system's random source. The caller
/// stores `TokenRecord::new(&token, ..)` and shows the token once.
pub fn new_token(authority_fingerprint: [u8; 32]) -> JoinToken {
    JoinToken::from_random(authority_fingerprint, crate::mesh::random())
}
