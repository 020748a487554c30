//! The cases of Kubernetes' own table tests, as facts: the same objects must give the same feasible nodes, scores and words. Only
//! the public interface is used; plugins are asked through what-if questions.

mod affinity;
mod placement;
mod resources;
mod spreading;

use k8s_openapi::api::core::v1 as core;
use scheduler::kube_configuration::Registry;
use scheduler::{Decision, Scheduler, Unschedulable};
use serde_json::{Value, json};

/// An object under construction.
#[derive(Clone, Debug)]
pub struct Object(Value);

impl Object {
    /// Lays another object over this one: maps are merged, everything else is replaced.
    pub fn with(mut self, over: Value) -> Self {
        merge(&mut self.0, over);
        self
    }

    /// With labels.
    pub fn labelled(self, labels: Value) -> Self {
        self.with(json!({"metadata": {"labels": labels}}))
    }

    /// A pod that runs on a node.
    pub fn on(self, node: &str) -> Self {
        self.with(json!({"spec": {"nodeName": node}}))
    }

    fn pod(&self) -> core::Pod {
        serde_json::from_value(self.0.clone()).expect("well-formed")
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

/// A node with plenty of everything.
pub fn node(name: &str) -> Object {
    Object(json!({"metadata": {"name": name},
        "status": {"allocatable": {"cpu": "1000", "memory": "1000Gi", "pods": "1000"}}}))
}

/// A pod without containers, as in Kubernetes' tables.
pub fn pod(name: &str) -> Object {
    Object(json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"containers": []}}))
}

/// A cluster, and what a plugin's arguments are there.
pub struct Case {
    scheduler: Scheduler,
}

impl Case {
    /// These nodes, with default arguments.
    pub fn new(nodes: impl IntoIterator<Item = Object>) -> Self {
        Self::configured("", nodes)
    }

    /// With a `pluginConfig` (YAML, one entry).
    pub fn configured(plugin_config: &str, nodes: impl IntoIterator<Item = Object>) -> Self {
        let text = format!(
            "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles: [{{pluginConfig: \
             [{plugin_config}]}}]\n"
        );
        let mut scheduler = Scheduler::new(Registry::default().read(&text).expect("it is valid"));
        for node in nodes {
            scheduler.upsert_node(&serde_json::from_value(node.0).expect("well-formed"));
        }
        Self { scheduler }
    }

    /// Adds running pods.
    pub fn running(mut self, pods: impl IntoIterator<Item = Object>) -> Self {
        for (at, pod) in pods.into_iter().enumerate() {
            let named = pod.with(json!({"metadata": {"name": format!("running-{at}")}}));
            self.scheduler.upsert_pod(&named.pod());
        }
        self
    }

    /// Adds a namespace.
    pub fn namespace(mut self, name: &str, labels: Value) -> Self {
        let object = json!({"metadata": {"name": name, "labels": labels}});
        self.scheduler
            .upsert_namespace(&serde_json::from_value(object).expect("well-formed"));
        self
    }

    /// The nodes that a pod fits on, sorted.
    pub fn feasible(&mut self, pod: &Object) -> Vec<String> {
        let evaluation = self
            .scheduler
            .evaluate(&pod.pod())
            .expect("the default profile schedules it");
        let mut names: Vec<String> = evaluation.feasible.iter().map(|node| node.node.to_string()).collect();
        names.sort();
        names
    }

    /// The score that a plugin gives each feasible node, by node name, without its weight; 0 where the plugin has nothing to say.
    pub fn scores(&mut self, pod: &Object, plugin: &str) -> Vec<i64> {
        let defaults = scheduler::plugins::default_plugins();
        let weight = defaults
            .iter()
            .find(|enabled| enabled.plugin.name() == plugin)
            .map_or(1, |enabled| enabled.weight);
        let evaluation = self
            .scheduler
            .evaluate(&pod.pod())
            .expect("the default profile schedules it");
        let mut scores: Vec<(String, i64)> = Vec::new();
        for node in &evaluation.feasible {
            let own = node.by_plugin.iter().find(|(name, _)| *name == plugin);
            scores.push((node.node.to_string(), own.map_or(0, |(_, score)| score / weight)));
        }
        scores.sort();
        scores.into_iter().map(|(_, score)| score).collect()
    }

    /// What is decided for a pod.
    pub fn decide(&mut self, pod: &Object) -> Decision {
        self.scheduler.upsert_pod(&pod.pod());
        self.scheduler.schedule_batch(0, 1).pop().expect("the pod was ready")
    }

    /// Why a pod fits nowhere.
    pub fn refused(&mut self, pod: &Object) -> Unschedulable {
        match self.decide(pod) {
            Decision::Unschedulable(why) => why,
            Decision::Bind(binding) => panic!("{} was placed on {}", binding.pod, binding.node),
        }
    }

    /// The scheduler.
    pub fn scheduler(&mut self) -> &mut Scheduler {
        &mut self.scheduler
    }
}
