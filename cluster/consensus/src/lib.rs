//! Replicates the store: openraft over the store's log, the gathering of proposals, the store's client and server.
//!
//! The node process calls `Consensus::start`, registers `service()` and `store_service()` with the mesh, and gives
//! everyone on the node a `StoreClient`. Membership (who votes) is decided elsewhere and carried out here.
//!
//! It must never interpret an object, never acknowledge a write before a majority has it on disk, and never ask for
//! more than one fsync for the proposals that arrived together.

mod barrier;
mod client;
mod config;
mod consensus;
mod disk;
mod follower;
mod front;
mod housekeeping;
mod lease;
mod log_store;
mod membership;
mod network;
mod peer_service;
mod standing;
mod state_machine;
mod status;
mod store_service;
mod types;
mod wire;

pub use client::{Candidates, StoreClient};
pub use config::{ConsensusConfig, Retention, StartError, Timings};
pub use consensus::Consensus;
pub use front::PROPOSAL_BYTES_MAX;
pub use membership::MembershipError;
pub use status::{Progress, Status};

/// The directive that a log filter should carry: openraft logs every timeout of a dead peer as an error, several times a
/// second. What matters of it is logged by this crate.
pub const LOG_DIRECTIVE: &str = "openraft=off";
