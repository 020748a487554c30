//! The data plane on the real kernel: nodes and pods are network namespaces that each test makes and removes.
//!
//! Needs root. Two "nodes" are joined by a veth pair, as two machines by a cable; every pod is a namespace of its own.

#![allow(clippy::disallowed_methods, reason = "waiting with a bound needs the clock")]

mod lifecycle;
mod nodes;
mod pods;
mod services;
