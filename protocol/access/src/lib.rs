//! Who may do what, as decisions: users, RBAC, the node authorizer, tokens, impersonation, reviews, audit policy, and priority
//! and fairness. The gateway calls it for every request and carries out what it says.
//!
//! No I/O, no clock, no random number: instants, keys and ids are arguments. Objects come as JSON, one write at a time. Input
//! may be anything; it is refused, never a panic. A secret is compared in constant time and never formatted into a message.

pub mod attributes;
pub mod audit;
pub mod authorizer;
pub mod flow;
pub mod impersonation;
pub mod node;
pub mod policy;
pub mod rbac;
pub mod review;
pub mod token;
pub mod user;

pub use attributes::{Attributes, Requested, ResourceRequest, Verdict};
pub use authorizer::Authorizers;
pub use rbac::Rbac;
pub use user::User;
