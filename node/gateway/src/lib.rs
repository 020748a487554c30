//! The Kubernetes API over HTTPS, on every node. It reads and writes through `ObjectStore`, which finds the leader; so a
//! node that is not the leader serves the same API.
//!
//! `route` and `accept` read a request, `credentials` and `issuer` say who asks, `rights` and `reviews` who may; `doorway` is what
//! every request passes: these, the `audit` log, and `fairness`. `policy` is admission, with `webhooks` behind it, and
//! `policy_status` keeps what policies' statuses say; `read`, `watch`,
//! `write`, `logs`, `streams` and `proxy` serve a request, and `aggregation` those that another server answers. `custom` and
//! `definitions` are the kinds that people define, `versions` the store as one of their versions shows it. `follow` keeps at hand what every request needs of the store, `outgoing` are the
//! gateway's own requests, `cluster_secret` the keys that it keeps, `service` puts all together, `edge` carries HTTP and `session` the long-lived streams. What an object
//! means is `api`'s business: nothing here names a kind, but for the addresses that a Service is given, what a namespace begins
//! with, and the answer to a deletion.

// An acting crate: it tells the time of requests.
#![allow(clippy::disallowed_methods)]

pub mod accept;
pub mod addresses;
pub mod aggregation;
pub mod audit;
mod cluster_secret;
mod compression;
pub mod credentials;
pub mod custom;
pub mod definitions;
pub mod doorway;
pub mod edge;
pub mod eviction;
pub mod fairness;
pub mod follow;
pub mod issuer;
pub mod logs;
pub mod outgoing;
pub mod policy;
pub mod policy_status;
pub mod proxy;
pub mod read;
pub mod request;
pub mod reviews;
pub mod rights;
pub mod route;
pub mod service;
pub mod session;
pub mod streams;
pub mod versions;
pub mod virtual_kind;
pub mod watch;
pub mod webhooks;
pub mod write;
