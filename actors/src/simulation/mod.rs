//! The control plane's deciding code in one thread: the same `decide` functions, `Activation`s, routing index and
//! scheduler desk as in production, driven by a seeded generator and a virtual clock instead of ractor and tokio. Called by
//! the simulation tests; a new kind takes part in it by its row in `kinds`.
//!
//! One `step` does one thing that could happen next, chosen at random: an event is delivered, an actor decides, a plan is
//! proposed, its answers arrive, an actor or the whole control plane crashes, a timer fires. What is decided and what is
//! written are separate steps, so that others get between them.

pub mod invariants;
mod lifecycle;
pub mod machines;
mod reactor;
mod user;
mod world;

pub use reactor::{Glasses, MakeKind, Reactor};
pub use world::{Outcome, Scenario, World};

use std::future::Future;

use futures::FutureExt;

/// Takes the answer of a store that answers at once, as one in memory does.
pub fn at_once<T>(future: impl Future<Output = T>) -> T {
    match future.now_or_never() {
        Some(answer) => answer,
        None => panic!("the simulation needs a store that answers at once: use one in memory"),
    }
}
