//! Holds the scheduler to deciding the same with any number of threads, with and without its index, and in every run with one
//! seed, on random clusters that are large enough to be shared between threads.

use k8s_openapi::api::core::v1 as core;
use proptest::prelude::*;
use scheduler::{Decision, PodKey, Scheduler, SchedulerConfiguration};
use serde_json::{Value, json};

/// Whole numbers from a seed (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

fn node(at: u64, numbers: &mut Numbers) -> core::Node {
    let name = format!("n{at}");
    let mut labels = json!({"kubernetes.io/hostname": name});
    if numbers.below(10) > 0 {
        labels["topology.kubernetes.io/zone"] = json!(format!("z{}", numbers.below(5)));
    }
    let effect = ["NoSchedule", "PreferNoSchedule"][numbers.below(2) as usize];
    let taints = match numbers.below(10) {
        0 => json!([{"key": "k", "value": "v", "effect": effect}]),
        _ => json!([]),
    };
    serde_json::from_value(json!({"metadata": {"name": name, "labels": labels},
        "spec": {"taints": taints, "unschedulable": numbers.below(20) == 0},
        "status": {"allocatable": {"cpu": (1 + numbers.below(8)).to_string(), "memory": "16Gi", "pods": "4"}}}))
    .expect("well-formed")
}

fn pod(at: u64, numbers: &mut Numbers) -> core::Pod {
    let app = format!("a{}", numbers.below(4));
    let key = ["kubernetes.io/hostname", "topology.kubernetes.io/zone"][numbers.below(2) as usize];
    let term = json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}});
    let spread = |when: &str| {
        json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": when,
            "labelSelector": {"matchLabels": {"app": app}}}]})
    };
    let extra = match numbers.below(8) {
        0 => json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}),
        1 => json!({"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1 + numbers.below(50), "podAffinityTerm": term}]}}}),
        2 => spread("DoNotSchedule"),
        3 => spread("ScheduleAnyway"),
        4 => json!({"nodeSelector": {"topology.kubernetes.io/zone": "z1"}}),
        5 => json!({"tolerations": [{"key": "k", "operator": "Exists"}]}),
        _ => json!({}),
    };
    let mut spec = json!({"priority": numbers.below(3), "containers": [{"name": "c", "resources":
        {"requests": {"cpu": (1 + numbers.below(10)).to_string(), "memory": "1Gi"}}}]});
    extra
        .as_object()
        .expect("an object")
        .iter()
        .for_each(|(key, value): (&String, &Value)| spec[key] = value.clone());
    serde_json::from_value(
        json!({"metadata": {"name": format!("p{at}"), "namespace": "default", "labels": {"app": app}},
        "spec": spec}),
    )
    .expect("well-formed")
}

/// What a scheduler decides for a random cluster, while pods come and go.
fn decide(seed: u64, nodes: u64, parallelism: usize, indexed: bool, percentage: u32) -> Vec<Decision> {
    let mut numbers = Numbers(seed);
    let mut scheduler = Scheduler::new(SchedulerConfiguration {
        seed,
        parallelism,
        indexed,
        percentage_of_nodes_to_score: percentage,
        ..SchedulerConfiguration::default()
    });
    for at in 0..nodes {
        scheduler.upsert_node(&node(at, &mut numbers));
    }
    let mut decisions = Vec::new();
    let mut pods = 0;
    for round in 1..=4 {
        for _ in 0..30 {
            scheduler.upsert_pod(&pod(pods, &mut numbers));
            pods += 1;
        }
        decisions.extend(scheduler.schedule_batch(round * 20_000, usize::MAX));
        for _ in 0..5 {
            scheduler.remove_pod(&PodKey::new("default", &format!("p{}", numbers.below(pods))));
        }
        scheduler.upsert_node(&node(numbers.below(nodes), &mut Numbers(seed ^ round)));
    }
    scheduler.assert_invariants();
    decisions
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn threads_and_repetition_change_no_decision(seed in any::<u64>(), nodes in 1024u64..2600) {
        let alone = decide(seed, nodes, 1, true, 100);
        prop_assert!(alone.iter().any(|decision| matches!(decision, Decision::Bind(_))));
        prop_assert_eq!(&alone, &decide(seed, nodes, 1, true, 100), "the same again");
        prop_assert_eq!(&alone, &decide(seed, nodes, 4, true, 100), "four threads with an index");
        prop_assert_eq!(&alone, &decide(seed, nodes, 3, false, 100), "three threads without an index");
        prop_assert_eq!(decide(seed, nodes, 1, true, 30), decide(seed, nodes, 4, true, 30), "four threads with sampling");
    }
}
