//! Holds the scheduler to what its caller relies on: profiles, queues and their timing, assumed pods, sampling, messages, and
//! plugins of third parties. Only the public interface is used.

use k8s_openapi::api::core::v1 as core;
use scheduler::cluster::{ClassId, Cluster};
use scheduler::diagnosis::Reason;
use scheduler::framework::{Compiled, Context, Plugin, Reach, Reasons, Rule, Verdict};
use scheduler::node::Node;
use scheduler::pod::PodSignature;
use scheduler::{Decision, PodKey, Preemption, Profile, Scheduler, SchedulerConfiguration, Stage};
use serde_json::{Value, json};

fn node(name: &str, over: Value) -> core::Node {
    let mut object = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}}});
    merge(&mut object, over);
    serde_json::from_value(object).expect("well-formed")
}

fn pod(name: &str, over: Value) -> core::Pod {
    let mut object = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"containers": [
        {"name": "c", "resources": {"requests": {"cpu": "1"}}}]}});
    merge(&mut object, over);
    serde_json::from_value(object).expect("well-formed")
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

fn key(name: &str) -> PodKey {
    PodKey::new("default", name)
}

fn bound(decisions: &[Decision]) -> Vec<(String, String)> {
    let bindings = decisions.iter().filter_map(|decision| match decision {
        Decision::Bind(binding) => Some((binding.pod.name().to_owned(), binding.node.to_string())),
        Decision::Unschedulable(_) => None,
    });
    bindings.collect()
}

fn one_node() -> Scheduler {
    let mut scheduler = Scheduler::new(SchedulerConfiguration::default());
    scheduler.upsert_node(&node("n1", json!({})));
    scheduler
}

/// The actor that holds a scheduler moves between threads.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Scheduler>();
};

#[test]
fn the_message_is_kube_schedulers() {
    let mut scheduler = Scheduler::new(SchedulerConfiguration::default());
    scheduler.upsert_pod(&pod("none", json!({})));
    let decisions = scheduler.schedule_batch(0, 1);
    let [Decision::Unschedulable(why)] = &decisions[..] else {
        panic!("{decisions:?}")
    };
    assert_eq!(why.message(), "no nodes available to schedule pods");
    assert_eq!(why.preemption, Preemption::NotTried);
    scheduler.remove_pod(&key("none"));

    let tainted = json!({"spec": {"taints": [{"key": "key", "value": "value", "effect": "NoSchedule"}]}});
    scheduler.upsert_node(&node("n1", json!({"status": {"allocatable": {"cpu": "1"}}})));
    scheduler.upsert_node(&node("n2", tainted.clone()));
    scheduler.upsert_node(&node("n3", tainted));
    scheduler.upsert_pod(&pod("first", json!({})));
    scheduler.upsert_pod(&pod("second", json!({})));
    let decisions = scheduler.schedule_batch(0, 10);
    assert_eq!(bound(&decisions), [("first".to_owned(), "n1".to_owned())]);
    let Decision::Unschedulable(why) = &decisions[1] else {
        panic!("{decisions:?}")
    };
    assert_eq!(
        why.message(),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {key: value}. preemption: 0/3 nodes \
         are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."
    );
    assert_eq!(why.diagnosis.plugins, ["TaintToleration", "NodeResourcesFit"]);
}

#[test]
fn pods_go_to_the_profile_that_they_name() {
    let binpack = scheduler::plugins::node_resources_fit::NodeResourcesFit {
        strategy: scheduler::plugins::node_resources_fit::ScoringStrategy::MostAllocated(
            scheduler::plugins::node_resources_fit::cpu_and_memory(),
        ),
        ..Default::default()
    };
    let profiles = vec![
        Profile::with_default_plugins("default-scheduler"),
        Profile::with_default_plugins("packing")
            .replacing(binpack, 1)
            .without("NodeResourcesBalancedAllocation"),
    ];
    let mut scheduler = Scheduler::new(SchedulerConfiguration {
        profiles,
        ..SchedulerConfiguration::default()
    });
    scheduler.upsert_node(&node("n1", json!({})));
    scheduler.upsert_node(&node("n2", json!({})));
    scheduler.upsert_pod(&pod("running", json!({"spec": {"nodeName": "n1"}})));
    scheduler.upsert_pod(&pod("spreads", json!({})));
    scheduler.upsert_pod(&pod("packs", json!({"spec": {"schedulerName": "packing"}})));
    scheduler.upsert_pod(&pod("foreign", json!({"spec": {"schedulerName": "someone-else"}})));
    let mut placed = bound(&scheduler.schedule_batch(0, 1));
    assert_eq!(placed, [("spreads".to_owned(), "n2".to_owned())]);
    scheduler.remove_pod(&key("spreads"));
    placed = bound(&scheduler.schedule_batch(0, 10));
    assert_eq!(placed, [("packs".to_owned(), "n1".to_owned())]);
    assert_eq!(scheduler.stage(&key("foreign")), None);
    // A pod of another scheduler counts once it is bound.
    scheduler.upsert_pod(&pod(
        "foreign",
        json!({"spec": {"schedulerName": "someone-else", "nodeName": "n2"}}),
    ));
    assert_eq!(
        scheduler.node_of(&key("foreign")).map(|node| node.to_string()),
        Some("n2".to_owned())
    );
}

#[test]
fn assumed_pods_hold_their_place_until_confirmed_or_forgotten() {
    let mut scheduler = one_node();
    let large = |name: &str| {
        pod(
            name,
            json!({"spec": {"containers": [{"name": "c", "resources":
        {"requests": {"cpu": "4"}}}]}}),
        )
    };
    scheduler.upsert_pod(&large("a"));
    scheduler.upsert_pod(&large("b"));
    let decisions = scheduler.schedule_batch(0, 10);
    assert_eq!(bound(&decisions), [("a".to_owned(), "n1".to_owned())]);
    // An update that was written before the binding is not a reason to give the place up.
    scheduler.upsert_pod(&large("a"));
    assert_eq!(
        scheduler.node_of(&key("a")).map(|node| node.to_string()),
        Some("n1".to_owned())
    );
    // The store refuses the binding: the other pod is woken, this one backs off.
    scheduler.forget(&key("a"), 0);
    assert_eq!(scheduler.node_of(&key("a")), None);
    assert!(matches!(
        scheduler.stage(&key("a")),
        Some(Stage::BackingOff { until_ms: 1000 })
    ));
    assert_eq!(bound(&scheduler.schedule_batch(1000, 10)).len(), 1);
    // A confirmed pod that finishes gives its place back.
    let owner = if scheduler.node_of(&key("a")).is_some() {
        "a"
    } else {
        "b"
    };
    let mut object = large(owner);
    object.spec.as_mut().expect("a spec").node_name = Some("n1".to_owned());
    scheduler.upsert_pod(&object);
    scheduler.forget(&key(owner), 1000);
    assert!(
        scheduler.node_of(&key(owner)).is_some(),
        "a confirmed pod is not forgotten"
    );
    object.status = serde_json::from_value(json!({"phase": "Succeeded"})).expect("well-formed");
    scheduler.upsert_pod(&object);
    assert_eq!(scheduler.node_of(&key(owner)), None);
    assert_eq!(bound(&scheduler.schedule_batch(20_000, 10)).len(), 1);
}

#[test]
fn a_refused_pod_waits_for_an_event_that_helps_and_for_its_back_off() {
    let mut scheduler = one_node();
    let large = pod(
        "large",
        json!({"spec": {"containers": [{"name": "c", "resources":
        {"requests": {"cpu": "8"}}}]}}),
    );
    scheduler.upsert_pod(&large);
    let mut now_ms = 0;
    for back_off_ms in [1_000, 2_000, 4_000, 8_000, 10_000, 10_000] {
        assert_eq!(scheduler.schedule_batch(now_ms, 10).len(), 1);
        assert!(matches!(scheduler.stage(&key("large")), Some(Stage::Parked { .. })));
        // What does not help does not wake it.
        scheduler.upsert_node(&node(
            "n1",
            json!({"metadata": {"labels": {"now": now_ms.to_string()}}}),
        ));
        assert!(matches!(scheduler.stage(&key("large")), Some(Stage::Parked { .. })));
        // A node that could hold it (but is cordoned) wakes it, once its back-off is over.
        scheduler.upsert_node(&node(
            "big",
            json!({"spec": {"unschedulable": true}, "status": {"allocatable":
            {"cpu": "16", "memory": format!("{}Mi", 1024 + now_ms)}}}),
        ));
        let until_ms = now_ms + back_off_ms;
        assert_eq!(scheduler.stage(&key("large")), Some(Stage::BackingOff { until_ms }));
        assert_eq!(scheduler.next_wakeup_ms(), Some(until_ms));
        assert_eq!(scheduler.schedule_batch(until_ms - 1, 10), []);
        now_ms = until_ms;
    }
    // Without any event it is tried again after five minutes.
    assert_eq!(scheduler.schedule_batch(now_ms, 10).len(), 1);
    assert_eq!(scheduler.next_wakeup_ms(), Some(now_ms + 300_000));
    assert_eq!(scheduler.schedule_batch(now_ms + 299_999, 10), []);
    assert_eq!(scheduler.schedule_batch(now_ms + 300_000, 10).len(), 1);
}

#[test]
fn bindings_that_are_refused_again_and_again_back_off_longer() {
    let mut scheduler = one_node();
    scheduler.upsert_pod(&pod("a", json!({})));
    let mut now_ms = 0;
    for back_off_ms in [1_000, 2_000, 4_000, 8_000, 10_000] {
        assert_eq!(bound(&scheduler.schedule_batch(now_ms, 10)).len(), 1);
        scheduler.forget(&key("a"), now_ms);
        let until_ms = now_ms + back_off_ms;
        assert_eq!(scheduler.stage(&key("a")), Some(Stage::BackingOff { until_ms }));
        now_ms = until_ms;
    }
}

#[test]
fn gates_and_deletion_keep_a_pod_out_of_the_queue() {
    let mut scheduler = one_node();
    scheduler.upsert_pod(&pod("gated", json!({"spec": {"schedulingGates": [{"name": "wait"}]}})));
    scheduler.upsert_pod(&pod(
        "leaving",
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
    ));
    assert!(!scheduler.has_work());
    assert_eq!(scheduler.stage(&key("gated")), Some(Stage::Gated));
    assert_eq!(scheduler.schedule_batch(0, 10), []);
    scheduler.upsert_pod(&pod("gated", json!({})));
    assert_eq!(bound(&scheduler.schedule_batch(0, 10)).len(), 1);
}

#[test]
fn priorities_go_first_and_a_batch_is_bounded() {
    let mut scheduler = one_node();
    for (name, priority) in [("low", 1), ("high", 100), ("mid", 10), ("high2", 100)] {
        scheduler.upsert_pod(&pod(name, json!({"spec": {"priority": priority}})));
    }
    let names = |decisions: &[Decision]| decisions.iter().map(|d| d.pod().name().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&scheduler.schedule_batch(0, 2)), ["high", "high2"]);
    assert_eq!(names(&scheduler.schedule_batch(0, 10)), ["mid", "low"]);
}

#[test]
fn sampling_looks_at_as_many_nodes_as_kubernetes_would() {
    for (nodes, percentage, feasible) in [
        (50, 10, 50),
        (1000, 10, 100),
        (1000, 50, 500),
        (1000, 0, 420),
        (1000, 100, 1000),
    ] {
        let configuration = SchedulerConfiguration {
            percentage_of_nodes_to_score: percentage,
            ..Default::default()
        };
        let mut scheduler = Scheduler::new(configuration);
        for at in 0..nodes {
            scheduler.upsert_node(&node(&format!("n{at}"), json!({})));
        }
        for name in ["a", "b", "c"] {
            scheduler.upsert_pod(&pod(name, json!({})));
        }
        let decisions = scheduler.schedule_batch(0, 10);
        let mut places = Vec::new();
        for decision in &decisions {
            let Decision::Bind(binding) = decision else {
                panic!("{decision:?}")
            };
            assert_eq!(binding.feasible_nodes, feasible, "{nodes} nodes, {percentage} %");
            places.push(binding.node.to_string());
        }
        // Each search starts where the one before has stopped.
        if percentage == 10 && nodes == 1000 {
            let number = |name: &String| name[1..].parse::<usize>().expect("a number");
            assert!(
                number(&places[0]) < 100 && (100..200).contains(&number(&places[1])),
                "{places:?}"
            );
        }
    }
}

#[test]
fn the_seed_decides_between_equal_nodes() {
    let first = |seed| {
        let mut scheduler = Scheduler::new(SchedulerConfiguration {
            seed,
            ..SchedulerConfiguration::default()
        });
        for at in 0..100 {
            scheduler.upsert_node(&node(&format!("n{at}"), json!({})));
        }
        scheduler.upsert_pod(&pod("a", json!({})));
        bound(&scheduler.schedule_batch(0, 1))
    };
    assert_eq!(first(1), first(1));
    let places: std::collections::BTreeSet<_> = (0..20).map(first).collect();
    assert!(places.len() > 10, "20 seeds chose {} nodes", places.len());
}

/// A plugin of a third party: at most two pods of one namespace on a node, and rather the node with more pods.
struct TwoPerNamespace;

struct Crowd;

impl Plugin for TwoPerNamespace {
    fn name(&self) -> &'static str {
        "TwoPerNamespace"
    }

    fn compile(&self, _cluster: &mut Cluster, _class: ClassId, _signature: &PodSignature) -> Compiled {
        Compiled::Rule(Box::new(Crowd))
    }
}

impl Rule for Crowd {
    fn filters(&self) -> Reach {
        Reach::Cluster
    }

    fn scores(&self) -> Reach {
        Reach::Cluster
    }

    fn filter_node(&self, cx: &Context<'_>, node: &Node, reasons: &mut Reasons) -> Verdict {
        let own = |pod: &&scheduler::cluster::PodId| cx.cluster.signature(**pod).namespace == cx.signature.namespace;
        if node.pods.iter().filter(own).count() < 2 {
            return Verdict::Fits;
        }
        reasons.say(Reason::Text("node(s) had two pods of the namespace"));
        Verdict::Refused
    }

    fn score_node(&self, _cx: &Context<'_>, node: &Node) -> i64 {
        node.pods.len() as i64 * 10
    }
}

#[test]
fn a_plugin_of_a_third_party_filters_and_scores_with_ours() {
    let profile = Profile::with_default_plugins("default-scheduler").with(TwoPerNamespace, 100);
    let configuration = SchedulerConfiguration {
        profiles: vec![profile],
        ..SchedulerConfiguration::default()
    };
    let mut scheduler = Scheduler::new(configuration);
    scheduler.upsert_node(&node("n1", json!({})));
    scheduler.upsert_node(&node("n2", json!({})));
    for name in ["a", "b", "c", "d", "e"] {
        scheduler.upsert_pod(&pod(name, json!({})));
    }
    let decisions = scheduler.schedule_batch(0, 10);
    let placed = bound(&decisions);
    assert_eq!(placed.len(), 4);
    // The first two share a node, because the plugin's score outweighs ours.
    assert_eq!(placed[0].1, placed[1].1);
    let Decision::Unschedulable(why) = &decisions[4] else {
        panic!("{:?}", decisions[4])
    };
    assert!(
        why.message()
            .starts_with("0/2 nodes are available: 2 node(s) had two pods of the namespace.")
    );
}
