//! What is said in an Actorium cluster: keys, objects, selectors, quantities, the messages between the parts, the wire
//! codec and the errors. Every other crate depends on this one.
//!
//! It owns types and pure functions. It never does I/O, never reads a clock and never draws a random number: where an
//! operation needs one, its caller passes it in. The traits at the seams (`store::ObjectStore`, `runtime::PodRuntime`,
//! `admin::AdminDoor`, `node::NodeDoor`) are defined here and implemented in the crates that act.

pub mod admin;
pub mod codec;
pub mod identity;
pub mod key;
pub mod node;
pub mod object;
pub mod quantity;
pub mod runtime;
pub mod selector;
pub mod session;
pub mod store;
pub mod transport;

pub use identity::{Cause, NodeName, Revision, Uid, UnixMillis};
pub use key::{Key, Resource};
pub use object::{Draft, Header, Object, OwnerReference};
