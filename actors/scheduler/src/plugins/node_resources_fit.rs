//! NodeResourcesFit (Filter, Score): the pod's requests must fit into what the node's pods leave free, and the scoring
//! strategy says which node is better: LeastAllocated, MostAllocated or RequestedToCapacityRatio. Requests of nominated
//! pods of equal or higher priority count as taken. No difference from kube-scheduler is intended.

use crate::cluster::{ClassId, Cluster};
use crate::diagnosis::Reason;
use crate::framework::{
    ClusterEvent, Compiled, Context, EventKinds, MAX_NODE_SCORE, Plugin, Reach, Reads, Reasons, Rule, Verdict,
};
use crate::intern::{Sym, Symbols};
use crate::node::{Node, NodeReading};
use crate::pod::PodSignature;
use crate::resources::Resources;

/// A resource that scoring looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoredResource {
    /// Milli-cpu.
    Cpu,
    /// Bytes of memory.
    Memory,
    /// Bytes of local disk.
    EphemeralStorage,
    /// An extended resource.
    Extended(Sym),
}

impl ScoredResource {
    /// The resource of that name.
    pub fn named(cluster: &mut Cluster, name: &str) -> Self {
        match name {
            "cpu" => Self::Cpu,
            "memory" => Self::Memory,
            "ephemeral-storage" => Self::EphemeralStorage,
            _ => Self::Extended(cluster.symbols.intern(name)),
        }
    }

    /// The amount in a vector.
    pub fn of(self, resources: &Resources) -> i64 {
        match self {
            Self::Cpu => resources.cpu_milli,
            Self::Memory => resources.memory_bytes,
            Self::EphemeralStorage => resources.ephemeral_bytes,
            Self::Extended(name) => resources.extended_amount(name),
        }
    }
}

/// A resource by name and its weight in the score.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceWeight {
    /// `cpu`, `memory`, `ephemeral-storage` or an extended resource.
    pub name: String,
    /// From 1 to 100.
    pub weight: i64,
}

/// Cpu and memory, equally.
pub fn cpu_and_memory() -> Vec<ResourceWeight> {
    ["cpu", "memory"]
        .map(|name| ResourceWeight {
            name: name.to_owned(),
            weight: 1,
        })
        .to_vec()
}

/// Which node is better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScoringStrategy {
    /// The one with more left free.
    LeastAllocated(Vec<ResourceWeight>),
    /// The one with less left free (bin packing).
    MostAllocated(Vec<ResourceWeight>),
    /// By a curve over the utilisation.
    RequestedToCapacityRatio {
        /// Points: utilisation in per cent (ascending) and score from 0 to 10.
        shape: Vec<(i64, i64)>,
        /// The resources.
        resources: Vec<ResourceWeight>,
    },
}

/// The plugin.
pub struct NodeResourcesFit {
    /// The scoring strategy.
    pub strategy: ScoringStrategy,
    /// Extended resources that need not fit: somebody else looks after them.
    pub ignored_resources: Vec<String>,
    /// The same by group, what is before the slash: `example.com` for `example.com/gpu`.
    pub ignored_resource_groups: Vec<String>,
}

impl Default for NodeResourcesFit {
    fn default() -> Self {
        Self {
            strategy: ScoringStrategy::LeastAllocated(cpu_and_memory()),
            ignored_resources: Vec::new(),
            ignored_resource_groups: Vec::new(),
        }
    }
}

impl NodeResourcesFit {
    /// The extended resources that the pod asks for and that must fit.
    fn extended(&self, symbols: &Symbols, signature: &PodSignature) -> Vec<(Sym, i64)> {
        let ignored = |name: &str| {
            // Huge pages and attachable volumes are not extended resources, whatever the lists say.
            let extended = name.contains('/') && !name.starts_with("kubernetes.io/") && !name.starts_with("requests.");
            let group = name.split('/').next().unwrap_or_default();
            extended
                && (self.ignored_resources.iter().any(|other| other == name)
                    || self.ignored_resource_groups.iter().any(|other| other == group))
        };
        let asked = signature.requests.extended.iter().copied();
        asked.filter(|(name, _)| !ignored(symbols.text(*name))).collect()
    }
}

struct Fit {
    /// The extended resources that must fit.
    extended: Vec<(Sym, i64)>,
    curve: Curve,
    resources: Vec<(ScoredResource, i64)>,
}

enum Curve {
    Least,
    Most,
    Shape(Vec<(i64, i64)>),
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn reads(&self, _cluster: &Cluster, _signature: &PodSignature) -> Reads {
        Reads::NOTHING
    }

    fn compile(&self, cluster: &mut Cluster, _class: ClassId, signature: &PodSignature) -> Compiled {
        let extended = self.extended(&cluster.symbols, signature);
        let (curve, weights) = match &self.strategy {
            ScoringStrategy::LeastAllocated(weights) => (Curve::Least, weights),
            ScoringStrategy::MostAllocated(weights) => (Curve::Most, weights),
            ScoringStrategy::RequestedToCapacityRatio { shape, resources } => {
                // Scores from 0 to 10 become 0 to 100.
                let scaled = shape
                    .iter()
                    .map(|(utilisation, score)| (*utilisation, score * MAX_NODE_SCORE / 10));
                (Curve::Shape(scaled.collect()), resources)
            }
        };
        let resources = weights
            .iter()
            .map(|w| (ScoredResource::named(cluster, &w.name), w.weight))
            .collect();
        Compiled::Rule(Box::new(Fit {
            extended,
            curve,
            resources,
        }))
    }

    fn hears(&self) -> EventKinds {
        EventKinds::NODES
            .and(EventKinds::POD_LIFTED)
            .and(EventKinds::POD_CHANGED)
    }

    fn may_help(&self, cluster: &Cluster, event: &ClusterEvent<'_>, signature: &PodSignature) -> bool {
        let could_hold = |reading| could_hold(reading, signature, &self.extended(&cluster.symbols, signature));
        match event {
            ClusterEvent::NodeAdded(node) => could_hold(&node.reading),
            ClusterEvent::NodeChanged { before, node } => {
                let same = before.allocatable == node.reading.allocatable && before.pods_max == node.reading.pods_max;
                !same && could_hold(&node.reading)
            }
            // Whatever leaves frees at least a place for one pod.
            ClusterEvent::PodLifted(_) => true,
            ClusterEvent::PodChanged { before, after } => before.requests != after.requests,
            _ => false,
        }
    }
}

/// Whether an empty node would have room.
fn could_hold(reading: &NodeReading, signature: &PodSignature, extended: &[(Sym, i64)]) -> bool {
    let (have, want) = (&reading.allocatable, &signature.requests);
    reading.pods_max >= 1
        && have.cpu_milli >= want.cpu_milli
        && have.memory_bytes >= want.memory_bytes
        && have.ephemeral_bytes >= want.ephemeral_bytes
        && extended
            .iter()
            .all(|(name, amount)| have.extended_amount(*name) >= *amount)
}

impl Rule for Fit {
    fn filters(&self) -> Reach {
        Reach::Node
    }

    fn scores(&self) -> Reach {
        Reach::Node
    }

    fn filter_node(&self, cx: &Context<'_>, node: &Node, reasons: &mut Reasons) -> Verdict {
        let want = &cx.signature.requests;
        let mut pods = node.pods.len() as i64;
        let mut promised = Resources::default();
        for other in cx.nominated_before(node) {
            promised.add(&other.requests);
            pods += 1;
        }
        let mut refused = false;
        let mut never = false;
        if pods + 1 > node.reading.pods_max {
            reasons.say(Reason::Text("Too many pods"));
            refused = true;
        }
        let (have, taken) = (&node.reading.allocatable, &node.requested);
        let mut check = |want: i64, have: i64, taken: i64, promised: i64, reason: Reason| {
            if want > 0 && want > have - taken - promised {
                reasons.say(reason);
                refused = true;
                never |= want > have;
            }
        };
        check(
            want.cpu_milli,
            have.cpu_milli,
            taken.cpu_milli,
            promised.cpu_milli,
            Reason::Text("Insufficient cpu"),
        );
        let memory = Reason::Text("Insufficient memory");
        check(
            want.memory_bytes,
            have.memory_bytes,
            taken.memory_bytes,
            promised.memory_bytes,
            memory,
        );
        let disk = Reason::Text("Insufficient ephemeral-storage");
        check(
            want.ephemeral_bytes,
            have.ephemeral_bytes,
            taken.ephemeral_bytes,
            promised.ephemeral_bytes,
            disk,
        );
        for (name, amount) in &self.extended {
            let amounts = [have, taken, &promised].map(|resources| resources.extended_amount(*name));
            check(*amount, amounts[0], amounts[1], amounts[2], Reason::Insufficient(*name));
        }
        match (refused, never) {
            (_, true) => Verdict::NeverFits,
            (true, false) => Verdict::Refused,
            (false, false) => Verdict::Fits,
        }
    }

    fn score_node(&self, cx: &Context<'_>, node: &Node) -> i64 {
        let (mut sum, mut weights) = (0, 0);
        for (resource, weight) in &self.resources {
            let have = resource.of(&node.reading.allocatable);
            let Some(used) = scored_use(*resource, cx.signature, node) else {
                continue;
            };
            if have == 0 {
                continue;
            }
            let score = match &self.curve {
                Curve::Least if used > have => 0,
                Curve::Least => (have - used) * MAX_NODE_SCORE / have,
                Curve::Most => used.min(have) * MAX_NODE_SCORE / have,
                Curve::Shape(points) => {
                    let score = along(points, if used > have { 100 } else { used * 100 / have });
                    if score <= 0 {
                        continue;
                    }
                    score
                }
            };
            sum += score * weight;
            weights += weight;
        }
        match (&self.curve, weights) {
            (_, 0) => 0,
            (Curve::Shape(_), _) => (sum as f64 / weights as f64).round() as i64,
            _ => sum / weights,
        }
    }
}

/// What would be in use with the pod on the node, as scoring sees it; `None` if the pod does not ask for the resource
/// and it is therefore left out.
fn scored_use(resource: ScoredResource, signature: &PodSignature, node: &Node) -> Option<i64> {
    Some(match resource {
        ScoredResource::Cpu => node.scored_cpu_milli + signature.scored_cpu_milli,
        ScoredResource::Memory => node.scored_memory_bytes + signature.scored_memory_bytes,
        ScoredResource::EphemeralStorage => node.requested.ephemeral_bytes + signature.requests.ephemeral_bytes,
        ScoredResource::Extended(name) => {
            let want = signature.requests.extended_amount(name);
            if want == 0 {
                return None;
            }
            node.requested.extended_amount(name) + want
        }
    })
}

/// The height of a broken line.
fn along(points: &[(i64, i64)], at: i64) -> i64 {
    for (index, (x, y)) in points.iter().enumerate() {
        if at <= *x {
            let Some((x0, y0)) = index.checked_sub(1).map(|before| points[before]) else {
                return *y;
            };
            return y0 + (y - y0) * (at - x0) / (x - x0);
        }
    }
    points.last().map_or(0, |(_, y)| *y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Profile, SchedulerConfiguration};
    use crate::testing::{Bench, node, pod};
    use serde_json::{Value, json};

    fn requests(list: Value) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": list}}]}})
    }

    #[test]
    fn each_missing_resource_is_named() {
        let mut bench = Bench::new();
        bench.node(node("n1").merge(json!({"status": {"allocatable":
            {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi", "pods": "1", "example.com/gpu": "1"}}})));
        for (list, words) in [
            (json!({"cpu": "1001m"}), "1 Insufficient cpu."),
            (json!({"memory": "1025Mi"}), "1 Insufficient memory."),
            (json!({"ephemeral-storage": "2Gi"}), "1 Insufficient ephemeral-storage."),
            (json!({"example.com/gpu": "2"}), "1 Insufficient example.com/gpu."),
            (json!({"example.com/other": "1"}), "1 Insufficient example.com/other."),
            (
                json!({"cpu": "2", "memory": "2Gi"}),
                "1 Insufficient cpu, 1 Insufficient memory.",
            ),
        ] {
            let message = bench.why_not(pod("p").merge(requests(list.clone())));
            assert!(
                message.starts_with(&format!("0/1 nodes are available: {words}")),
                "{list}: {message}"
            );
        }
        assert_eq!(
            bench.place(pod("a").merge(requests(json!({"cpu": "1", "memory": "1Gi"})))),
            "n1"
        );
        let message = bench.why_not(pod("b").merge(requests(json!({"cpu": "1m"}))));
        assert!(
            message.starts_with("0/1 nodes are available: 1 Insufficient cpu, 1 Too many pods."),
            "{message}"
        );
    }

    #[test]
    fn init_containers_sidecars_and_overhead_count_as_kubernetes_counts_them() {
        let cpu = |name: &str, cpu: &str| json!({"name": name, "resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = cpu("s", "300m");
        sidecar["restartPolicy"] = json!("Always");
        for (spec, want) in [
            (json!({"containers": [cpu("a", "100m"), cpu("b", "200m")]}), 300),
            (
                json!({"containers": [cpu("a", "100m")], "initContainers": [cpu("i", "500m"), cpu("j", "400m")]}),
                500,
            ),
            (
                json!({"containers": [cpu("a", "100m")], "initContainers": [sidecar.clone()]}),
                400,
            ),
            (
                json!({"containers": [cpu("a", "100m")], "initContainers": [sidecar.clone(), cpu("i", "500m")]}),
                800,
            ),
            (
                json!({"containers": [cpu("a", "100m")], "initContainers": [cpu("i", "350m"), sidecar.clone()]}),
                400,
            ),
            (
                json!({"containers": [cpu("a", "100m")], "overhead": {"cpu": "50m"}}),
                150,
            ),
            (
                json!({"containers": [cpu("a", "100m")], "resources": {"requests": {"cpu": "1"}}}),
                1000,
            ),
            (
                json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "70m"}}}]}),
                70,
            ),
        ] {
            let signature = crate::testing::signature_of(json!({"spec": spec}));
            assert_eq!(signature.requests.cpu_milli, want, "{spec}");
        }
    }

    #[test]
    fn strategies_score_by_kubernetes_formulas() {
        let pod_asks = || pod("p").merge(requests(json!({"cpu": "1", "memory": "2Gi"})));
        for (strategy, scores) in [
            // n1: cpu 4000 with 1000 used, memory 8 Gi with 2 Gi used: 75 and 75. n2: cpu 2000: 50, memory 10 Gi: 80.
            (ScoringStrategy::LeastAllocated(cpu_and_memory()), [75, 65]),
            (ScoringStrategy::MostAllocated(cpu_and_memory()), [25, 35]),
            (
                ScoringStrategy::RequestedToCapacityRatio {
                    shape: vec![(0, 0), (50, 8), (100, 10)],
                    resources: cpu_and_memory(),
                },
                // n1: 25 and 25 per cent: 40 each. n2: 50 per cent: 80, 20 per cent: 32.
                [40, 56],
            ),
        ] {
            let profile = Profile::with_default_plugins("default-scheduler").replacing(
                NodeResourcesFit {
                    strategy: strategy.clone(),
                    ..NodeResourcesFit::default()
                },
                1,
            );
            let configuration = SchedulerConfiguration {
                profiles: vec![profile],
                ..SchedulerConfiguration::default()
            };
            let mut bench = Bench::with(configuration);
            let sized = |cpu: &str, memory: &str| json!({"status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": "10"}}});
            bench.node(node("n1").merge(sized("4", "8Gi")));
            bench.node(node("n2").merge(sized("2", "10Gi")));
            let got = bench.scores(pod_asks(), "NodeResourcesFit");
            assert_eq!(
                got,
                [("n1".into(), scores[0]), ("n2".into(), scores[1])],
                "{strategy:?}"
            );
        }
    }

    #[test]
    fn containers_without_requests_count_in_scoring_only() {
        let signature = crate::testing::signature_of(json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}));
        assert!(signature.requests.is_zero());
        assert_eq!(signature.scored_cpu_milli, 200);
        assert_eq!(signature.scored_memory_bytes, 2 * 200 * 1024 * 1024);
    }

    #[test]
    fn a_pod_that_left_gives_its_resources_back() {
        let mut bench = Bench::new();
        bench.node(node("n1").merge(json!({"status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "5"}}})));
        assert_eq!(bench.place(pod("a").merge(requests(json!({"cpu": "1"})))), "n1");
        assert!(!bench.fits(pod("b").merge(requests(json!({"cpu": "1"})))));
        bench.remove_pod("a");
        assert!(bench.fits(pod("b").merge(requests(json!({"cpu": "1"})))));
    }
}
