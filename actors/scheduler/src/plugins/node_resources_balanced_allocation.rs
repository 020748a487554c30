//! NodeResourcesBalancedAllocation (Score): prefers nodes whose resources would be used to similar fractions. Pods that
//! request none of these resources are not scored. No difference from kube-scheduler is intended.

use super::node_resources_fit::{ResourceWeight, ScoredResource, cpu_and_memory};
use crate::cluster::{ClassId, Cluster};
use crate::framework::{Compiled, Context, EventKinds, MAX_NODE_SCORE, Plugin, Reach, Reads, Rule};
use crate::node::Node;
use crate::pod::PodSignature;

/// The plugin.
pub struct NodeResourcesBalancedAllocation {
    /// The resources; weights do not matter here.
    pub resources: Vec<ResourceWeight>,
}

impl Default for NodeResourcesBalancedAllocation {
    fn default() -> Self {
        Self {
            resources: cpu_and_memory(),
        }
    }
}

struct Balance {
    resources: Vec<ScoredResource>,
}

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn reads(&self, _cluster: &Cluster, _signature: &PodSignature) -> Reads {
        Reads::NOTHING
    }

    fn compile(&self, cluster: &mut Cluster, _class: ClassId, signature: &PodSignature) -> Compiled {
        let resources: Vec<_> = self
            .resources
            .iter()
            .map(|r| ScoredResource::named(cluster, &r.name))
            .collect();
        if resources.iter().all(|resource| resource.of(&signature.requests) == 0) {
            return Compiled::Skip;
        }
        Compiled::Rule(Box::new(Balance { resources }))
    }

    fn hears(&self) -> EventKinds {
        EventKinds::NONE
    }
}

impl Rule for Balance {
    fn scores(&self) -> Reach {
        Reach::Node
    }

    fn score_node(&self, cx: &Context<'_>, node: &Node) -> i64 {
        let fractions = || {
            self.resources.iter().filter_map(|resource| {
                let have = resource.of(&node.reading.allocatable);
                let want = resource.of(&cx.signature.requests);
                if have == 0 || (want == 0 && matches!(resource, ScoredResource::Extended(_))) {
                    return None;
                }
                Some(((resource.of(&node.requested) + want) as f64 / have as f64).min(1.0))
            })
        };
        let (count, sum) = fractions().fold((0, 0.0), |(count, sum), fraction| (count + 1, sum + fraction));
        let deviation = match count {
            0 | 1 => 0.0,
            2 => {
                let mut both = fractions();
                ((both.next().unwrap_or(0.0) - both.next().unwrap_or(0.0)) / 2.0).abs()
            }
            many => {
                let mean = sum / f64::from(many);
                (fractions().map(|f| (f - mean) * (f - mean)).sum::<f64>() / f64::from(many)).sqrt()
            }
        };
        ((1.0 - deviation) * MAX_NODE_SCORE as f64) as i64
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, node, pod};
    use serde_json::json;

    #[test]
    fn scores_one_minus_the_deviation_of_the_fractions() {
        let mut bench = Bench::new();
        for (name, cpu, memory) in [("n1", "4", "4Gi"), ("n2", "4", "8Gi"), ("n3", "1", "40Gi")] {
            bench.node(node(name).merge(json!({"status": {"allocatable":
                {"cpu": cpu, "memory": memory, "pods": "10"}}})));
        }
        let asks = json!({"spec": {"containers": [{"name": "c", "resources":
            {"requests": {"cpu": "1", "memory": "2Gi"}}}]}});
        // n1: 0.25 and 0.5; n2: 0.25 and 0.25; n3: 1.0 and 0.05 (0.525 left, cut to whole points).
        assert_eq!(
            bench.scores(pod("p").merge(asks), "NodeResourcesBalancedAllocation"),
            [("n1".into(), 87), ("n2".into(), 100), ("n3".into(), 52)]
        );
    }

    #[test]
    fn pods_without_requests_are_not_scored() {
        let mut bench = Bench::new();
        bench.node(node("n1"));
        assert_eq!(bench.scores(pod("p"), "NodeResourcesBalancedAllocation"), []);
    }
}
