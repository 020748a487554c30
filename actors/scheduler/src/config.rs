//! Owns the scheduler's configuration: profiles by schedulerName, plugins with their weights, sampling, back-off, seed.
//! Called by whoever makes a `Scheduler`; `kube_configuration` reads one from Kubernetes' format. It must not read files.

use crate::framework::{ExtensionPoints, Plugin};
use crate::plugins;
use std::sync::Arc;

/// A plugin that takes part in a profile.
#[derive(Clone)]
pub struct EnabledPlugin {
    /// The plugin.
    pub plugin: Arc<dyn Plugin>,
    /// The weight of its score.
    pub weight: i64,
    /// Where it takes part.
    pub points: ExtensionPoints,
}

impl EnabledPlugin {
    /// A plugin that takes part wherever it can.
    pub fn everywhere(plugin: impl Plugin + 'static, weight: i64) -> Self {
        Self {
            plugin: Arc::new(plugin),
            weight,
            points: ExtensionPoints::ALL,
        }
    }
}

/// How pods with one `schedulerName` are scheduled.
#[derive(Clone)]
pub struct Profile {
    /// The pods' `spec.schedulerName`.
    pub scheduler_name: String,
    /// The plugins, in the order in which filters run. Exactly one of them sorts the queue in the first profile.
    pub plugins: Vec<EnabledPlugin>,
    /// Kubernetes' `percentageOfNodesToScore`: stop looking for feasible nodes when so many per cent of all nodes are
    /// found; 0 is Kubernetes' adaptive rule (50 % less one per 125 nodes, at least 5 %); never fewer than 100 nodes.
    /// `None` takes the configuration's.
    pub percentage_of_nodes_to_score: Option<u32>,
}

impl Profile {
    /// A profile with the default plugins and weights of Kubernetes.
    pub fn with_default_plugins(scheduler_name: &str) -> Self {
        Self {
            scheduler_name: scheduler_name.to_owned(),
            plugins: plugins::default_plugins(),
            percentage_of_nodes_to_score: None,
        }
    }

    /// Adds a plugin at the end.
    pub fn with(mut self, plugin: impl Plugin + 'static, weight: i64) -> Self {
        self.plugins.push(EnabledPlugin::everywhere(plugin, weight));
        self
    }

    /// Leaves a plugin out.
    pub fn without(mut self, name: &str) -> Self {
        self.plugins.retain(|enabled| enabled.plugin.name() != name);
        self
    }

    /// Puts a plugin in the place of the one of the same name.
    pub fn replacing(mut self, plugin: impl Plugin + 'static, weight: i64) -> Self {
        let name = plugin.name();
        let replacement = EnabledPlugin::everywhere(plugin, weight);
        match self.plugins.iter_mut().find(|enabled| enabled.plugin.name() == name) {
            Some(enabled) => *enabled = replacement,
            None => self.plugins.push(replacement),
        }
        self
    }
}

/// The scheduler's configuration.
#[derive(Clone)]
pub struct SchedulerConfiguration {
    /// Profiles; pods whose `schedulerName` is in none of them are left to other schedulers.
    pub profiles: Vec<Profile>,
    /// See `Profile::percentage_of_nodes_to_score`. The default is 100 where Kubernetes has 0: the index makes looking at
    /// all nodes as cheap as looking at a few, and placement is better for it. Below 100 every pod takes the plain path, which
    /// looks at nodes in the order in which they came, not interleaved by zone.
    pub percentage_of_nodes_to_score: u32,
    /// Decides between equally good nodes.
    pub seed: u64,
    /// The first back-off of a pod that was not placed.
    pub backoff_initial_ms: u64,
    /// The longest back-off.
    pub backoff_max_ms: u64,
    /// How long a pod stays unschedulable without any event before it is tried again.
    pub unschedulable_max_ms: u64,
    /// Threads that look at nodes, 1 or more (Kubernetes' `parallelism`). Every decision is the same for any number; more than
    /// one pays off only where thousands of nodes are looked at for one pod, so small clusters are looked at by one.
    pub parallelism: usize,
    /// Whether classes of equal pods are indexed. Off, every pod looks at every node; the decisions are the same.
    pub indexed: bool,
}

impl Default for SchedulerConfiguration {
    fn default() -> Self {
        Self {
            profiles: vec![Profile::with_default_plugins("default-scheduler")],
            percentage_of_nodes_to_score: 100,
            seed: 0,
            backoff_initial_ms: 1_000,
            backoff_max_ms: 10_000,
            unschedulable_max_ms: 300_000,
            parallelism: 1,
            indexed: true,
        }
    }
}
