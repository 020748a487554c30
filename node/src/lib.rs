//! The node process: wires the crates together and is the program `actorium`. What it starts, and in which order, is in
//! `start`; the rest are adapters between the seams of the crates (`pod_network`, `doors`, `leader`, `authority`, `tokens`, `signer`). It holds
//! no policy.

// An acting crate: the process's clock and random source are here (`clock`).
#![allow(clippy::disallowed_methods)]

pub mod authority;
pub mod clock;
pub mod command;
pub mod doors;
pub mod identity;
pub mod leader;
pub mod machine;
pub mod pod_network;
pub mod reset;
pub mod services;
pub mod sessions;
pub mod signer;
pub mod start;
pub mod tokens;
