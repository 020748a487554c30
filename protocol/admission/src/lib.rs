//! The built-in admission plugins of Kubernetes, as pure code: what a write becomes before it is validated and stored, and
//! why it is refused. One plugin is one file, named as upstream names it, and one line in `chain::PLUGINS`.
//!
//! The gateway calls the chain for requests of clients, the control plane's actors for the objects that they create. A plugin
//! reads the request and `Facts`, the policy objects that a node has at hand; it does no I/O and reads no clock. A plugin
//! that must write beside the object says so as data (`Review::charges`), and the write is part of the same atomic group.
//!
//! Beside the plugins: which webhooks a request concerns and what their answers mean (`webhook`; the gateway asks them), and
//! what admission policies in CEL say (`policy`; the gateway reads their parameters).
//!
//! Differs from Kubernetes: usage of a quota is charged in the transaction that creates the object, so two creations
//! can never pass the same remainder.

mod chain;
mod default_class;
mod facts;
pub mod matching;
mod pod;
mod reasons;
mod review;

mod certificate_subject_restriction;
mod default_ingress_class;
mod default_storage_class;
mod default_toleration_seconds;
mod limit_ranger;
mod namespace_lifecycle;
mod persistent_volume_claim_resize;
mod pod_security;
pub mod pod_topology_labels;
pub mod policy;
mod policy_expressions;
pub mod priority;
pub mod resource_quota;
mod runtime_class;
mod scene;
mod service_account;
pub mod signers;
mod storage_object_in_use_protection;
mod taint_nodes_by_condition;
pub mod webhook;

pub use chain::{Outcome, PLUGINS, Plugin, admit, charge, missing, run, validate};
pub use facts::{CONSULTED, Fact, Facts, Settings};
pub use namespace_lifecycle::refuse_namespace;
pub use review::{Attributes, Charge, Operation, Review};
pub use scene::Rights;
