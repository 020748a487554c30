//! Fuzzing of everything that reads bytes of clients, peers and disks. `cargo xtask test` runs every target for a few seconds,
//! `cargo xtask test --suite fuzz` for a minute each (`ACTORIUM_FUZZ_SECONDS` says otherwise).
//!
//! Why not libFuzzer: it wants a nightly compiler, or instruments every dependency in a build of its own, and CI has neither
//! that compiler nor the time. Here the mutations know what they mutate (JSON trees, texts with a dictionary, bytes), inputs that
//! bring an answer that was not seen before are kept and mutated further, and a run is repeated by its seed (`FUZZ_SEED`).
//!
//! `engine` runs, `mutation` changes inputs, `targets` are functions from bytes to what came of them. An input that made a target
//! panic, take long or break a promise is written to a file that the message names: it belongs into `corpus/TARGET/`, where every
//! run begins. This package must never be known by the cluster.

pub mod engine;
// The samples that are the seeds build on it.
#[path = "../../protocol/api/tests/fixture/mod.rs"]
mod fixture;
pub mod mutation;
pub mod targets;
