//! Benchmarks: the scheduling benchmark program (workloads of Kubernetes' scheduler_perf from YAML, three depths), the replay of
//! cluster traces, and criterion benches of the hot functions.
//!
//! `workload`, `template`, `expression` and `catalog` read what is to be done; `run` does it; `report` shows what came of it.
//! Called by the programs in `src/bin`. Nothing in here is used by the cluster: it measures it.

pub mod catalog;
pub mod child;
pub mod expression;
pub mod plot;
pub mod progress;
pub mod replay;
pub mod report;
pub mod run;
pub mod statistics;
pub mod template;
pub mod workload;
