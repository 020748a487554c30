//! The cluster's DNS on this node: what names mean (`zone`), how answers are written (`answer`), where other names are asked
//! (`forward`), the server (`server`), and what a pod's resolver is told (`resolv_conf`).
//!
//! Follows the Kubernetes DNS-based service discovery specification, version 1.1.0. Deciding code is in `zone`, `answer` and
//! `resolv_conf`; only `server` and `forward` touch sockets.

pub(crate) mod answer;
pub(crate) mod forward;
pub(crate) mod resolv_conf;
pub(crate) mod server;
pub(crate) mod zone;
