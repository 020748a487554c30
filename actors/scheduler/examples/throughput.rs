//! Measures how many pods a second the scheduler's core places, by workload. `cargo run --release -p scheduler --example
//! throughput -- [WORKLOAD] [NODES] [PODS]`. Called by hand; it must print only what it measured.

use k8s_openapi::api::core::v1 as core;
use scheduler::{Decision, PodKey, Scheduler, SchedulerConfiguration};
use serde_json::{Value, json};
use std::time::Instant;

fn node(at: usize) -> core::Node {
    let name = format!("node-{at}");
    let zone = format!("zone-{}", at % 3);
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {
        "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone}},
        "status": {"allocatable": {"cpu": "32", "memory": "128Gi", "pods": "110"}}}))
    .expect("well-formed")
}

fn term() -> Value {
    json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"color": "blue"}}})
}

fn zone_term() -> Value {
    json!({"topologyKey": "topology.kubernetes.io/zone", "labelSelector": {"matchLabels": {"color": "blue"}}})
}

/// The pod of a workload of scheduler_perf.
fn pod(workload: &str) -> core::Pod {
    let spread = |key: &str, when: &str| {
        json!({"topologySpreadConstraints": [{"maxSkew": 5, "topologyKey": key, "whenUnsatisfiable": when,
            "labelSelector": {"matchLabels": {"color": "blue"}}}]})
    };
    let extra = match workload {
        "anti-affinity" => json!({"affinity": {"podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [term()]}}}),
        "affinity" => json!({"affinity": {"podAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [zone_term()]}}}),
        "preferred-affinity" => json!({"affinity": {"podAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": term()}]}}}),
        "preferred-anti-affinity" => json!({"affinity": {"podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": term()}]}}}),
        "node-affinity" => json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zone-0", "zone-1"]}]}]}}}}),
        "spread" => spread("topology.kubernetes.io/zone", "DoNotSchedule"),
        "spread-hosts" => spread("kubernetes.io/hostname", "DoNotSchedule"),
        "preferred-spread" => spread("topology.kubernetes.io/zone", "ScheduleAnyway"),
        "preferred-spread-hosts" => spread("kubernetes.io/hostname", "ScheduleAnyway"),
        _ => json!({}),
    };
    let mut spec = json!({"containers": [{"name": "c", "image": "pause", "resources":
        {"requests": {"cpu": "100m", "memory": "500Mi"}}}]});
    for (key, value) in extra.as_object().expect("an object") {
        spec[key] = value.clone();
    }
    serde_json::from_value(
        json!({"metadata": {"name": "p", "namespace": "default", "labels": {"color": "blue"}},
        "spec": spec}),
    )
    .expect("well-formed")
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let workload = arguments.get(1).map_or("basic", String::as_str);
    let number = |at: usize, default: usize| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (nodes, pods) = (number(2, 5000), number(3, 10_000));
    let indexed = arguments.get(4).is_none_or(|text| text != "plain");
    let mut scheduler = Scheduler::new(SchedulerConfiguration {
        indexed,
        ..SchedulerConfiguration::default()
    });
    for at in 0..nodes {
        scheduler.upsert_node(&node(at));
    }
    let signature = scheduler.intern(&pod(workload));
    for at in 0..pods {
        scheduler.insert_pending(PodKey::new("default", &format!("pod-{at}")), signature);
    }
    let start = Instant::now();
    let (mut bound, mut decided) = (0, 0);
    loop {
        let decisions = scheduler.schedule_batch(0, 1000);
        if decisions.is_empty() {
            break;
        }
        decided += decisions.len();
        bound += decisions
            .iter()
            .filter(|decision| matches!(decision, Decision::Bind(_)))
            .count();
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{workload}: {nodes} nodes, {decided} decided, {bound} bound, {seconds:.3} s, {:.0} pods/s",
        decided as f64 / seconds
    );
}
