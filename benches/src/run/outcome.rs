//! Owns the result of a case: what JSON, CSV and the tables show. Called by the worlds, which fill it, and by the reports. It
//! must say with each figure what it is a figure of.

use super::RunOptions;
use crate::catalog::Selected;
use crate::statistics::Percentiles;
use crate::workload::Sizes;
use serde::{Deserialize, Serialize};

/// What `seconds` is, at depth `core`.
pub const TIMED_CORE: &str = "the scheduler's time from the first measured pod entering the queue until the last is decided and recorded: \
     reading the objects, the rounds, evictions; without making the objects and without the events of its own bindings (confirm_seconds)";
/// What `seconds` is, at depth `store`.
pub const TIMED_STORE: &str = "from the proposal of the first measured pod until the last one's binding is applied and seen by a watch: created, \
     decided, bound and durable (fsync on a majority)";
/// What `seconds` is, at depth `api`.
pub const TIMED_API: &str =
    "from the first POST of a measured pod until the last one is seen bound by a watch over HTTPS";
/// What `decision_latency_us` is, at depth `core`.
pub const LATENCY_CORE: &str = "for each measured pod, from entering the queue to the end of the round that bound it, on the clock of the timed section \
     (so it grows with the size of a round); decision_cost_us is a round's time by its decisions, for each decision";
/// What `decision_latency_us` is, at the other depths.
pub const LATENCY_LIVE: &str =
    "for each measured pod, from the request that creates it to its binding seen by a watch, on the wall clock";

/// One run of a case.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CaseResult {
    /// The workload.
    pub workload: String,
    /// The case.
    pub case: String,
    /// `core`, `store` or `api`.
    pub depth: String,
    /// Nodes.
    pub nodes: u64,
    /// Measured pods.
    pub pods: u64,
    /// Pods made outside of the timed section.
    pub init_pods: u64,
    /// The timed section.
    pub seconds: f64,
    /// What the timed section is.
    pub timed_section: String,
    /// Measured pods that were bound, by `seconds`.
    pub pods_per_s: f64,
    /// Processor time within `seconds`, which does not grow when others use the machine: of the deciding thread (depth `core`),
    /// of the whole process, clients and voters included (depth `store`).
    pub cpu_seconds: Option<f64>,
    /// Of `seconds`: reading events of the world.
    pub ingest_seconds: Option<f64>,
    /// Of `seconds`: rounds.
    pub decide_seconds: Option<f64>,
    /// Of `seconds`: victims that go.
    pub evict_seconds: Option<f64>,
    /// Beside `seconds`: the events of its own bindings.
    pub confirm_seconds: Option<f64>,
    /// Before `seconds`: nodes and other pods.
    pub fill_seconds: f64,
    /// Latency of decisions; see `decision_latency_of`.
    pub decision_latency_us: Option<Percentiles>,
    /// What the latency is of.
    pub decision_latency_of: String,
    /// A round's time by its decisions.
    pub decision_cost_us: Option<Percentiles>,
    /// Pods bound a second, by whole seconds; null for runs under 3 s.
    pub pods_per_s_by_second: Option<Percentiles>,
    /// The same by windows of 100 ms; null under three of them.
    pub pods_per_s_by_100ms: Option<Percentiles>,
    /// Largest resident memory of the process that ran this case alone.
    pub rss_bytes_max: u64,
    /// kube-scheduler's threshold.
    pub threshold: Option<f64>,
    /// What else is said about it.
    pub threshold_note: Option<String>,
    /// `pods_per_s` by `threshold`.
    pub ratio: Option<f64>,
    /// Measured pods that were bound.
    pub bound: u64,
    /// Answers that a pod fits nowhere, of all pods in the timed section.
    pub refusals: u64,
    /// Pods that had to go.
    pub victims: u64,
    /// Decisions of the whole run.
    pub decisions: u64,
    /// SHA-256 over all decisions in order.
    pub digest: Option<String>,
    /// The seed.
    pub seed: u64,
    /// Threads; see `RunOptions`.
    pub threads: usize,
    /// Pods of a round.
    pub round_pods_max: usize,
    /// Voters.
    pub voters: Option<u64>,
    /// Connections.
    pub clients: Option<usize>,
    /// Which of several runs.
    pub repeat: u32,
    /// What else is to be said, such as the bottleneck.
    pub notes: Vec<String>,
    /// Why it failed; null if every check held.
    pub failure: Option<String>,
}

impl CaseResult {
    /// A result with what is known before the run.
    pub fn begin(selected: &Selected, sizes: Sizes, depth: &str, options: &RunOptions) -> Self {
        let (timed, latency) = match depth {
            "core" => (TIMED_CORE, LATENCY_CORE),
            "store" => (TIMED_STORE, LATENCY_LIVE),
            _ => (TIMED_API, LATENCY_LIVE),
        };
        Self {
            workload: selected.workload.name.clone(),
            case: selected.case.name.clone(),
            depth: depth.to_owned(),
            nodes: sizes.nodes,
            pods: sizes.measured_pods,
            init_pods: sizes.init_pods,
            timed_section: timed.to_owned(),
            decision_latency_of: latency.to_owned(),
            threshold: selected.case.threshold,
            threshold_note: selected.case.threshold_note.clone(),
            seed: options.seed,
            threads: options.threads,
            round_pods_max: options.round,
            ..Self::default()
        }
    }

    /// Sets the rate and its ratio to the threshold.
    pub fn rate(&mut self, seconds: f64) {
        self.seconds = seconds;
        self.pods_per_s = if seconds > 0.0 {
            self.bound as f64 / seconds
        } else {
            0.0
        };
        self.ratio = self.threshold.map(|threshold| self.pods_per_s / threshold);
    }
}
