//! The scheduler's deciding code: pure and deterministic, no I/O, no clock; threads only where the answer does not depend on
//! them (`SchedulerConfiguration::parallelism`).
//!
//! Owns the choice of a node for every pending pod, with kube-scheduler's meaning: plugins under their Kubernetes names,
//! profiles, queues with back-off and event hints, preemption. Called by the scheduler actor, which feeds `Scheduler`
//! with API objects and carries its `Decision`s out; by the simulation and by the benchmarks. It must never do
//! anything to the world: the same calls give the same answers.
//!
//! ```text
//! events ──> Scheduler ──> Cluster   nodes, pods, classes of equal pods, counts by topology domain
//!                     ├──> Queue     active, backing off, unschedulable, gated
//!                     ├──> Cycle     filter, score, choose: the plain path over all nodes
//!                     └──> Index     the same choice for a class of equal pods without looking at all nodes
//! ```
//!
//! How it is called:
//!
//! ```
//! use scheduler::{Decision, Scheduler, SchedulerConfiguration};
//! # use serde_json::json;
//! # let node = serde_json::from_value(json!({"metadata": {"name": "n1"}, "status": {"allocatable": {"cpu": "4", "pods": "9"}}}))?;
//! # let pod = serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "c"}]}}))?;
//! let mut scheduler = Scheduler::new(SchedulerConfiguration::default());
//! // Every watch event, of every kind that scheduling reads:
//! scheduler.upsert_node(&node);
//! scheduler.upsert_pod(&pod);
//! // After events, and at `next_wakeup_ms`:
//! for decision in scheduler.schedule_batch(1_000, 10_000) {
//!     match decision {
//!         // Fulfil `pre_bind`, write `spec.nodeName`; if the store refuses: `scheduler.forget(&binding.pod, now_ms)`. The
//!         // watch event of the binding confirms it.
//!         Decision::Bind(binding) => assert_eq!(&*binding.node, "n1"),
//!         // Write the condition PodScheduled=False, reason Unschedulable, and the event FailedScheduling; if room is made,
//!         // write `status.nominatedNodeName` and evict the victims.
//!         Decision::Unschedulable(why) => println!("{}: {}", why.pod, why.message()),
//!     }
//! }
//! assert!(!scheduler.has_work());
//! # Ok::<(), serde_json::Error>(())
//! ```
//!
//! Invariants: no node is filled above its allocatable by a decision; the sums and counts in `Cluster` equal a recount
//! after every call; every pending pod of our profiles is in exactly one stage of the queue.

mod audit;
mod binding_cycle;
pub mod cluster;
pub mod config;
pub mod cycle;
pub mod decision;
mod device_events;
pub mod devices;
pub mod diagnosis;
pub mod evaluation;
pub mod framework;
mod gang;
mod group_events;
mod groups;
pub mod index;
pub mod intern;
pub mod kube_configuration;
mod levels;
pub mod node;
mod parallel;
pub mod permit;
mod plan;
pub mod plugins;
pub mod pod;
pub mod quantity;
pub mod queue;
pub mod resources;
mod round;
pub mod scheduler;
pub mod selector;
mod storage_events;
#[cfg(test)]
mod testing;
pub mod topology;
pub mod volumes;

pub use config::{EnabledPlugin, Profile, SchedulerConfiguration};
pub use decision::{BindMethod, Binding, Decision, ObjectPatch, PreBind, Preemption, Unschedulable};
pub use diagnosis::{Diagnosis, RefusalCount};
pub use evaluation::{Evaluation, NodeScores};
pub use pod::PodKey;
pub use queue::{QueueLengths, Stage};
pub use scheduler::{Scheduler, SignatureId};
