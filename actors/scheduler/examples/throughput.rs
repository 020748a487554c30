//! Measures how many pods a second the scheduler's core places, by workload. `cargo run --release -p scheduler --example
//! throughput -- [WORKLOAD] [NODES] [PODS]`. Called by hand; it must print only what it measured.

#![allow(clippy::disallowed_methods)] // It measures: the scheduler itself is told the time.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use scheduler::{Decision, PodKey, Scheduler, SchedulerConfiguration};
use serde_json::{Value, json};
use std::time::Instant;

fn node(at: usize) -> core::Node {
    let name = format!("node-{at}");
    let zone = format!("zone-{}", at % 3);
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {
        "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone}},
        "status": {"allocatable": {"cpu": "32", "memory": "128Gi", "pods": "256"}}}))
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

/// Makes the pending pods of a workload, and whatever runs before.
fn fill(scheduler: &mut Scheduler, workload: &str, nodes: usize, pods: usize) {
    let key = |at: usize| PodKey::new("default", &format!("pod-{at}"));
    let sized = |cpu: &str, memory: &str, priority: i32| {
        let mut object = pod("basic");
        let spec = object.spec.as_mut().expect("the pod has a spec");
        spec.priority = Some(priority);
        let resources = spec.containers[0].resources.get_or_insert_default();
        let requests = resources.requests.get_or_insert_default();
        requests.insert("cpu".to_owned(), Quantity(cpu.to_owned()));
        requests.insert("memory".to_owned(), Quantity(memory.to_owned()));
        object
    };
    match workload {
        // Four pods of low priority fill each node; each of the measured pods needs the room of three.
        "preemption" => {
            let low = scheduler.intern(&sized("8", "30Gi", 0));
            for at in 0..nodes * 4 {
                scheduler.insert_bound(
                    PodKey::new("low", &format!("low-{at}")),
                    low,
                    &format!("node-{}", at / 4),
                );
            }
            let high = scheduler.intern(&sized("24", "90Gi", 10));
            (0..pods).for_each(|at| scheduler.insert_pending(key(at), high));
        }
        // Every fiftieth pod fits nowhere.
        "unschedulable" => {
            let large = scheduler.intern(&sized("33", "1Gi", 0));
            let small = scheduler.intern(&pod("basic"));
            (0..pods).for_each(|at| scheduler.insert_pending(key(at), if at % 50 == 0 { large } else { small }));
        }
        // Each pod names its node, as those of a DaemonSet do.
        "daemonset" => {
            for at in 0..pods {
                let mut object = pod("basic");
                object.metadata.name = Some(format!("pod-{at}"));
                object.spec.as_mut().expect("the pod has a spec").affinity = serde_json::from_value(json!({
                    "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                        {"matchFields": [{"key": "metadata.name", "operator": "In",
                            "values": [format!("node-{}", at % nodes)]}]}]}}}))
                .expect("well-formed");
                scheduler.upsert_pod(&object);
            }
        }
        // Each pod has a label of its own, as those of a StatefulSet do, and comes as an API object.
        "statefulset" => {
            for at in 0..pods {
                let mut object = pod("basic");
                object.metadata.name = Some(format!("pod-{at}"));
                object
                    .metadata
                    .labels
                    .get_or_insert_default()
                    .insert("index".to_owned(), at.to_string());
                scheduler.upsert_pod(&object);
            }
        }
        // A hundred templates of different sizes, in turn.
        "mixed" => {
            let signatures: Vec<_> = (0..100)
                .map(|at| scheduler.intern(&sized(&format!("{}m", 50 + at), &format!("{}Mi", 100 + 3 * at), 0)))
                .collect();
            (0..pods).for_each(|at| scheduler.insert_pending(key(at), signatures[at % 100]));
        }
        // Pods of one service without constraints of their own.
        "default-spread" => {
            let service =
                json!({"metadata": {"name": "s", "namespace": "default"}, "spec": {"selector": {"color": "blue"}}});
            scheduler.upsert_service(&serde_json::from_value(service).expect("well-formed"));
            let signature = scheduler.intern(&pod("basic"));
            (0..pods).for_each(|at| scheduler.insert_pending(key(at), signature));
        }
        // A hundred namespaces of one team with forty pods each; the terms select the team's namespaces.
        "required-anti-affinity-ns"
        | "preferred-anti-affinity-ns"
        | "required-affinity-ns"
        | "preferred-affinity-ns" => {
            let key_of = if workload == "required-affinity-ns" {
                "topology.kubernetes.io/zone"
            } else {
                "kubernetes.io/hostname"
            };
            let term = json!({"topologyKey": key_of, "labelSelector": {"matchLabels": {"color": "blue"}},
                "namespaceSelector": {"matchLabels": {"team": "devops"}}});
            let kind = if workload.contains("anti") {
                "podAntiAffinity"
            } else {
                "podAffinity"
            };
            let terms = match workload.starts_with("required") {
                true => json!({"requiredDuringSchedulingIgnoredDuringExecution": [term]}),
                false => {
                    json!({"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": term}]})
                }
            };
            let mut object = pod("basic");
            object.spec.as_mut().expect("the pod has a spec").affinity =
                serde_json::from_value(json!({kind: terms})).expect("well-formed");
            for at in 0..=100 {
                let name = format!("ns-{at}");
                let namespace = json!({"metadata": {"name": name, "labels": {"team": "devops"}}});
                scheduler.upsert_namespace(&serde_json::from_value(namespace).expect("well-formed"));
                object.metadata.namespace = Some(name.clone());
                let signature = scheduler.intern(&object);
                if at == 100 {
                    (0..pods)
                        .for_each(|at| scheduler.insert_pending(PodKey::new(&name, &format!("pod-{at}")), signature));
                } else {
                    for pod in 0..40 {
                        let node = format!("node-{}", (at * 40 + pod) % nodes);
                        scheduler.insert_bound(PodKey::new(&name, &format!("init-{pod}")), signature, &node);
                    }
                }
            }
        }
        // A thousand of the nodes are tainted; the taints decide which nodes count.
        "node-inclusion" => {
            for at in 0..nodes / 5 {
                let mut object = node(at);
                object.spec = serde_json::from_value(json!({"taints": [{"key": "foo", "effect": "NoSchedule"}]})).ok();
                scheduler.upsert_node(&object);
            }
            let mut object = pod("spread-hosts");
            let spec = object.spec.as_mut().expect("the pod has a spec");
            let constraints = spec.topology_spread_constraints.as_mut().expect("it has a constraint");
            constraints[0].max_skew = 1;
            constraints[0].node_taints_policy = Some("Honor".to_owned());
            let signature = scheduler.intern(&object);
            (0..pods).for_each(|at| scheduler.insert_pending(key(at), signature));
        }
        // Every kind of affinity in turn, as in MixedSchedulingBasePod.
        "mixed-affinity" => {
            let kinds = [
                "basic",
                "affinity",
                "preferred-affinity",
                "preferred-anti-affinity",
                "node-affinity",
            ];
            let signatures: Vec<_> = kinds.iter().map(|kind| scheduler.intern(&pod(kind))).collect();
            (0..pods).for_each(|at| scheduler.insert_pending(key(at), signatures[at % signatures.len()]));
        }
        "gang" => {
            let signatures: Vec<_> = (0..pods.div_ceil(3))
                .map(|at| {
                    scheduler.set_group("default", &format!("g{at}"), 3);
                    let mut object = pod("basic");
                    object.spec.as_mut().expect("the pod has a spec").scheduling_group =
                        serde_json::from_value(json!({"podGroupName": format!("g{at}")})).expect("well-formed");
                    scheduler.intern(&object)
                })
                .collect();
            (0..pods).for_each(|at| scheduler.insert_pending(key(at), signatures[at / 3]));
        }
        _ => {
            let signature = scheduler.intern(&pod(workload));
            (0..pods).for_each(|at| scheduler.insert_pending(key(at), signature));
        }
    }
}

/// The largest resident memory of this process so far, in MiB.
fn resident_max_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap_or_default();
    line.split_whitespace()
        .next()
        .and_then(|kib| kib.parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
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
    let start = Instant::now();
    fill(&mut scheduler, workload, nodes, pods);
    let filled = start.elapsed().as_secs_f64();
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
        "{workload}: {nodes} nodes, {decided} decided, {bound} bound, filled in {filled:.3} s, decided in {seconds:.3} s, \
         {:.0} pods/s, {} MiB",
        decided as f64 / seconds,
        resident_max_mib()
    );
}
