//! The audit log as decisions: which requests are written down and how much of them (the policy), and what is written (the
//! events). `audit.k8s.io/v1`. The gateway asks once per request, builds an event at each stage, and writes it out.

mod event;
mod policy;

pub use event::{Exchange, Stage};
pub use policy::{AuditPolicy, Decision, Level, PolicyError};
