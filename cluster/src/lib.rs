//! How machines become one cluster: the QUIC mesh, gossip membership, identity (PKI), joining, the autopilot that
//! chooses voters, and remoting between well-known actors.
//!
//! The node's process wires these together; the gateway, the store's client and the agents reach other nodes through
//! `protocol::transport::Transport`, which the mesh implements. What an object means is unknown here.
//!
//! Deciding code (`autopilot`, `join::check`, `membership::view`, `mesh::election`) is pure: it takes the time as an
//! argument. The rest acts: it owns sockets and timers.

pub mod autopilot;
pub mod identity;
pub mod join;
pub mod machine;
pub mod membership;
pub mod mesh;
pub mod remoting;

pub use membership::{Member, MemberEvent, Membership};
pub use mesh::Mesh;
pub use remoting::Remoting;
