//! Benches of the scheduler's hot functions: one decision with filter, score and selection on the plain path and by index, the
//! index's update, a pod's reading, and the search for victims. Run by hand: `cargo bench -p benches`.

#![allow(missing_docs)] // criterion's macros make public items without words

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use k8s_openapi::api::core::v1 as core;
use scheduler::{Decision, PodKey, Scheduler, SchedulerConfiguration};
use serde_json::{Value, json};
use std::hint::black_box;

const NODES: usize = 5000;

fn node(at: usize) -> core::Node {
    let name = format!("node-{at}");
    serde_json::from_value(
        json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name,
        "topology.kubernetes.io/zone": format!("zone-{}", at % 3)}},
        "status": {"allocatable": {"cpu": "64", "memory": "512Gi", "pods": "1000"}}}),
    )
    .expect("well-formed")
}

/// A pod of 100m and 500 MiB, with what a kind of workload adds.
fn pod(kind: &str, name: &str) -> core::Pod {
    let term =
        json!({"topologyKey": "topology.kubernetes.io/zone", "labelSelector": {"matchLabels": {"color": "blue"}}});
    let more = match kind {
        "affinity" => json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}),
        "spread" => json!({"topologySpreadConstraints": [{"maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"color": "blue"}}}]}),
        _ => json!({}),
    };
    let mut spec = json!({"containers": [{"name": "c", "image": "pause", "resources":
        {"requests": {"cpu": "100m", "memory": "500Mi"}}}]});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    serde_json::from_value(
        json!({"metadata": {"name": name, "namespace": "default", "labels": {"color": "blue"}},
        "spec": spec}),
    )
    .expect("well-formed")
}

fn cluster(indexed: bool) -> Scheduler {
    let mut scheduler = Scheduler::new(SchedulerConfiguration {
        indexed,
        ..SchedulerConfiguration::default()
    });
    (0..NODES).for_each(|at| {
        scheduler.upsert_node(&node(at));
    });
    scheduler
}

/// Decides for one pod; the pod is taken away again, so that the cluster stays the same.
fn decide_one(scheduler: &mut Scheduler, key: &PodKey, pod: &core::Pod) {
    scheduler.upsert_pod(pod);
    let decisions = scheduler.schedule_batch(0, 1);
    assert!(matches!(decisions[..], [Decision::Bind(_)]));
    scheduler.remove_pod(key);
}

/// Filter, score and selection for one pod over 5,000 nodes.
fn decisions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide one of 5000 nodes");
    for (path, indexed) in [("index", true), ("plain", false)] {
        for kind in ["plain", "affinity", "spread"] {
            let mut scheduler = cluster(indexed);
            let first = pod(kind, "first");
            scheduler.upsert_pod(&first);
            scheduler.schedule_batch(0, 1);
            let (key, object) = (PodKey::new("default", "pod"), pod(kind, "pod"));
            group.bench_function(BenchmarkId::new(path, kind), |bencher| {
                bencher.iter(|| decide_one(&mut scheduler, &key, &object));
            });
        }
    }
    group.finish();
}

/// A node changes: the index of a class has to follow before the next decision.
fn index_update(criterion: &mut Criterion) {
    let mut scheduler = cluster(true);
    let object = pod("plain", "pod");
    let key = PodKey::new("default", "pod");
    decide_one(&mut scheduler, &key, &object);
    let mut turn = 0;
    let nodes: Vec<[core::Node; 2]> = (0..64)
        .map(|at| {
            let mut changed = node(at);
            let labels = changed.metadata.labels.get_or_insert_default();
            labels.insert("changed".to_owned(), "yes".to_owned());
            [node(at), changed]
        })
        .collect();
    criterion.bench_function("index update after a node's change, and a decision", |bencher| {
        bencher.iter(|| {
            turn += 1;
            scheduler.upsert_node(&nodes[turn % 64][turn / 64 % 2]);
            decide_one(&mut scheduler, &key, &object);
        });
    });
}

/// A pod's object is read, queued, and taken away.
fn upsert_pod(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("upsert_pod");
    for kind in ["plain", "affinity", "spread"] {
        let mut scheduler = cluster(true);
        let (key, object) = (PodKey::new("default", "pod"), pod(kind, "pod"));
        group.bench_function(kind, |bencher| {
            bencher.iter(|| {
                scheduler.upsert_pod(black_box(&object));
                scheduler.remove_pod(&key);
            });
        });
    }
    group.finish();
}

/// A pod of high priority on full nodes: the search for victims among 4,000 pods on 1,000 nodes.
fn preemption(criterion: &mut Criterion) {
    let sized = |name: &str, cpu: &str, priority: i32| -> core::Pod {
        let mut value: Value = serde_json::to_value(pod("plain", name)).expect("well-formed");
        value["spec"]["priority"] = json!(priority);
        value["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!(cpu);
        serde_json::from_value(value).expect("well-formed")
    };
    let full = || {
        let mut scheduler = Scheduler::new(SchedulerConfiguration::default());
        (0..1000).for_each(|at| {
            scheduler.upsert_node(&node(at));
        });
        let low = scheduler.intern(&sized("low", "16", 0));
        for at in 0..4000 {
            let key = PodKey::new("default", &format!("low-{at}"));
            scheduler.insert_bound(key, low, &format!("node-{}", at % 1000));
        }
        scheduler.upsert_pod(&sized("high", "40", 10));
        scheduler
    };
    criterion.bench_function("search for victims on 1000 full nodes", |bencher| {
        bencher.iter_batched_ref(
            full,
            |scheduler| {
                let decisions = scheduler.schedule_batch(0, 1);
                assert!(matches!(decisions[..], [Decision::Unschedulable(_)]));
            },
            BatchSize::LargeInput,
        );
    });
}

criterion_group!(hot, decisions, index_update, upsert_pod, preemption);
criterion_main!(hot);
