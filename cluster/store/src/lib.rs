//! The replicated state machine: objects by key, history by revision, compaction, watches, snapshots.
//!
//! `Machine` is the deterministic part: what a proposal does depends on the log alone, so that every replica that
//! applies the same entries holds the same state. It works over a `Backend`: `MemoryBackend` (tests, the simulation) or
//! `RocksBackend` (feature `rocksdb`). `Replica` adds readers and watchers around one machine; `consensus` applies the
//! log to it. `MemoryStore` is an `ObjectStore` without consensus.
//!
//! It must never decide by a clock, a random number or anything else that is not in the log, and never interpret an
//! object beyond its header.

mod backend;
mod list;
mod machine;
mod memory;
mod memory_store;
mod recent;
mod replica;
mod watch;

#[cfg(feature = "rocksdb")]
mod rocks;

pub use backend::{Backend, BackendError, Batch, Keep, State, View, Visit, VisitEvent};
pub use list::list;
pub use machine::{Applied, Machine, Staging};
pub use memory::MemoryBackend;
pub use memory_store::MemoryStore;
pub use replica::Replica;
pub use watch::{Hub, QUEUE_EVENTS_MAX};

#[cfg(feature = "rocksdb")]
pub use rocks::{RocksBackend, RocksOptions};
