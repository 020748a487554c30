//! Owns what the crate's tests build on: objects from JSON, and a small bench around a `Scheduler`. Called by tests only.

use crate::cluster::Cluster;
use crate::config::SchedulerConfiguration;
use crate::decision::{Decision, Unschedulable};
use crate::pod::{PodKey, PodSignature, read_pod};
use crate::scheduler::Scheduler;
use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

/// An API object under construction.
#[derive(Clone)]
pub struct Object(pub Value);

impl Object {
    /// Lays another object over this one: maps are merged, everything else is replaced.
    pub fn merge(mut self, over: Value) -> Self {
        merge(&mut self.0, over);
        self
    }

    /// The pod.
    pub fn pod(&self) -> core::Pod {
        serde_json::from_value(self.0.clone()).expect("the test's pod is well-formed")
    }

    /// The node.
    pub fn node(&self) -> core::Node {
        serde_json::from_value(self.0.clone()).expect("the test's node is well-formed")
    }
}

fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

/// A node with 32 cpus, 64 Gi and 110 pods.
pub fn node(name: &str) -> Object {
    Object(
        json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "32", "memory": "64Gi", "pods": "110"}}}),
    )
}

/// A pod with one container that requests nothing.
pub fn pod(name: &str) -> Object {
    Object(json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"containers": [{"name": "c"}]}}))
}

/// The signature of a pod given as JSON.
pub fn signature_of(over: Value) -> PodSignature {
    let mut cluster = Cluster::default();
    read_pod(&mut cluster.symbols, &pod("p").merge(over).pod()).signature
}

/// A scheduler with shorthands.
pub struct Bench {
    /// The scheduler.
    pub scheduler: Scheduler,
    /// The clock: each attempt is an hour after the one before, so that no back-off is left.
    pub now_ms: u64,
}

impl Bench {
    /// With the default configuration.
    pub fn new() -> Self {
        Self::with(SchedulerConfiguration::default())
    }

    /// With a configuration.
    pub fn with(configuration: SchedulerConfiguration) -> Self {
        Self {
            scheduler: Scheduler::new(configuration),
            now_ms: 0,
        }
    }

    /// Adds a node.
    pub fn node(&mut self, node: Object) {
        self.scheduler.upsert_node(&node.node());
    }

    /// Adds a pod, bound or pending.
    pub fn pod(&mut self, pod: Object) {
        self.scheduler.upsert_pod(&pod.pod());
    }

    /// Adds a volume.
    pub fn volume(&mut self, name: &str, over: Value) {
        let object = Object(json!({"metadata": {"name": name}})).merge(over).0;
        self.scheduler
            .upsert_volume(&serde_json::from_value(object).expect("the test's volume is well-formed"));
    }

    /// Adds a claim.
    pub fn claim(&mut self, name: &str, over: Value) {
        let object = Object(json!({"metadata": {"name": name, "namespace": "default"}}))
            .merge(over)
            .0;
        self.scheduler
            .upsert_claim(&serde_json::from_value(object).expect("the test's claim is well-formed"));
    }

    /// Removes a pod.
    pub fn remove_pod(&mut self, name: &str) {
        self.scheduler.remove_pod(&PodKey::new("default", name));
    }

    /// All decisions that can be made now.
    pub fn decide(&mut self) -> Vec<Decision> {
        self.now_ms += 3_600_000;
        self.scheduler.schedule_batch(self.now_ms, usize::MAX)
    }

    /// What is decided for a pod, which must be the only one that is ready.
    pub fn decide_for(&mut self, pod: Object) -> Decision {
        let object = pod.pod();
        self.scheduler.upsert_pod(&object);
        let key = PodKey::of(&object);
        let decided = self.decide();
        decided
            .into_iter()
            .find(|decision| *decision.pod() == key)
            .expect("the pod was ready")
    }

    /// Schedules a pod and gives its node.
    pub fn place(&mut self, pod: Object) -> String {
        match self.decide_for(pod) {
            Decision::Bind(binding) => binding.node.to_string(),
            Decision::Unschedulable(why) => panic!("{}: {}", why.pod, why.message()),
        }
    }

    /// Whether a pod would fit somewhere; the pod is gone afterwards.
    pub fn fits(&mut self, pod: Object) -> bool {
        let decision = self.decide_for(pod);
        self.scheduler.remove_pod(decision.pod());
        matches!(decision, Decision::Bind(_))
    }

    /// Why a pod does not fit; the pod is gone afterwards.
    pub fn refused(&mut self, pod: Object) -> Unschedulable {
        let decision = self.decide_for(pod);
        self.scheduler.remove_pod(decision.pod());
        match decision {
            Decision::Unschedulable(why) => why,
            Decision::Bind(binding) => panic!("{} was placed on {}", binding.pod, binding.node),
        }
    }

    /// The message of a pod that does not fit.
    pub fn why_not(&mut self, pod: Object) -> String {
        self.refused(pod).message()
    }

    /// Each feasible node's weighted score under one plugin, divided by the plugin's default weight, by node name.
    pub fn scores(&mut self, pod: Object, plugin: &str) -> Vec<(String, i64)> {
        let weight = crate::plugins::default_plugins()
            .iter()
            .find(|enabled| enabled.plugin.name() == plugin)
            .map_or(1, |enabled| enabled.weight);
        let evaluation = self
            .scheduler
            .evaluate(&pod.pod())
            .expect("the default profile schedules it");
        let mut scores: Vec<(String, i64)> = evaluation
            .feasible
            .iter()
            .filter_map(|scores| {
                let (_, score) = scores.by_plugin.iter().find(|(name, _)| *name == plugin)?;
                Some((scores.node.to_string(), score / weight))
            })
            .collect();
        scores.sort();
        scores
    }
}
