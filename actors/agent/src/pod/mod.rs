//! A pod on its node: from the moment it is bound to this node until nothing of it is left, one actor owns it.
//!
//! `dependency`, `environment`, `volumes` and `plan` turn the API object into what the runtime is asked for; `token` says which
//! tokens it needs and when they are replaced; `backoff` and `state` hold what happened; `decide` says what to do next, with `stop` for how it ends, `eviction` for when it must, `ephemeral` and
//! `resize` for how it changes while it runs; `status` says how it looks from
//! outside; `actor` carries decisions out. All but `actor` are pure. The agent supervises the actor (permanent: it ends when the pod is removed).
//!
//! Invariants: a container has at most one running start; a container of the app is not started before every init
//! container is done; nothing is started once deletion was asked for; the API object is removed only after the sandbox is.

pub mod actor;
pub mod backoff;
pub mod decide;
pub mod dependency;
pub mod environment;
pub mod ephemeral;
pub mod eviction;
pub mod plan;
pub mod resize;
pub mod state;
pub mod status;
mod stop;
pub mod token;
pub mod volumes;
