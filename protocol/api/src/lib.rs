//! The Kubernetes API's semantics as pure code: the table of kinds, decoding, defaulting, validation, patches, server-side
//! apply, deletion, tables, Status errors, discovery and OpenAPI documents. The gateway, the actors and the shell call it.
//!
//! No I/O, no clock, no randomness: the instant, uids and random suffixes come in as arguments. It knows of HTTP no more
//! than status codes. Objects are JSON values; their types and shapes come from k8s-openapi. Input may be anything: it is
//! answered with a `Status`, never with a panic.

pub mod access;
mod apply;
pub mod cause;
pub mod custom;
pub mod decode;
mod deletion;
pub mod discovery;
pub mod expression_types;
mod fieldset;
pub mod kinds;
mod last_applied;
mod managed;
mod merge;
mod meta;
pub mod openapi;
mod patch;
mod protobuf;
mod quantity;
pub mod rules;
mod scale;
pub mod schema;
pub mod status;
pub mod table;
pub mod time;
mod typed;
pub mod write;

pub use deletion::may_go;
pub use kinds::{Kind, Subresource};
pub use status::Status;
