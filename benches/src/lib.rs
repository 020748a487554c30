//! Benchmarks: the scheduling benchmark program (workloads of Kubernetes' scheduler_perf from YAML, three depths), the replay of
//! cluster traces, the load on the API, and criterion benches of the hot functions.
//!
//! `workload`, `template`, `expression` and `catalog` read what is to be done; `run` does it; `report` shows what came of it.
//! `load` is on its own: many clients of a real cluster over HTTPS.
//! Called by the programs in `src/bin`. Nothing in here is used by the cluster: it measures it.

pub mod catalog;
pub mod child;
pub mod expression;
#[cfg(feature = "store")]
pub mod load;
pub mod plot;
pub mod progress;
pub mod replay;
pub mod report;
pub mod run;
pub mod statistics;
pub mod template;
pub mod workload;
