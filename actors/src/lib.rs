//! What lives in the cluster: one module per kind of the control plane, the routing of events to them, and the shell that
//! runs them as supervised ractor actors. The node process starts a `ControlPlane` while its node leads.
//!
//! Each kind's folder holds its state and a pure `decide`; `activation` turns decisions into proposals; `object_actor` and
//! `router` are the acting code. Nothing in here opens a socket or makes a syscall: the store, the membership, the clock
//! and the seed are passed in.

pub mod activation;
pub mod addresses;
pub mod collection;
pub mod compose;
pub mod conditions;
pub mod control_plane;
pub mod credentials;
pub mod defaults;
pub mod deployment;
pub mod disruption;
pub mod effects;
pub mod expiry;
pub mod int_or_percent;
pub mod kind;
pub mod kinds;
pub mod membership;
pub mod namespace;
pub mod node;
mod object_actor;
pub mod ownership;
pub mod placement;
pub mod pod;
pub mod quota;
pub mod reading;
pub mod recorder;
pub mod replica_set;
pub mod resource_claims;
pub mod reviewing;
pub mod router;
pub mod scheduling;
pub mod service;
pub mod simulation;

pub use control_plane::{ControlPlane, ControlPlaneConfig, ControlPlaneError};
pub use kind::{Liveness, ObjectKind, Role, Slot};
pub use membership::{MemberState, Membership};
