//! A third party's plugin, written against the public interface only, that takes part at every extension point. Holds the
//! scheduler to the order in which the points are called, to what is undone when one refuses, and to waiting at Permit.

use k8s_openapi::api::core::v1 as core;
use scheduler::cluster::{ClassId, Cluster, PodId};
use scheduler::diagnosis::Reason;
use scheduler::framework::{
    Assignment, ClusterEvent, Compiled, Context, Memory, Plugin, PostFilterOutcome, QueueKey, Reach, Reasons, Rule,
    Site, Unplaced, Verdict,
};
use scheduler::node::Node;
use scheduler::permit::{Permission, WaitingPods};
use scheduler::pod::PodSignature;
use scheduler::{
    BindMethod, Decision, ObjectPatch, PodKey, PreBind, Profile, Scheduler, SchedulerConfiguration, Stage,
};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// Everything that was called, in order, without repetitions next to each other.
type Journal = Arc<Mutex<Vec<String>>>;

fn note(journal: &Journal, what: impl Into<String>) {
    let what = what.into();
    let mut said = journal.lock().expect("no test panics while it writes");
    if said.last() != Some(&what) {
        said.push(what);
    }
}

fn taken(journal: &Journal) -> Vec<String> {
    std::mem::take(&mut *journal.lock().expect("no test panics while it writes"))
}

/// What the plugin is to do; the pod's labels are its orders: `fail-at: reserve`, `wait: "1000"`.
struct Tracer {
    name: &'static str,
    journal: Journal,
}

fn order(cluster: &Cluster, signature: &PodSignature, key: &str) -> Option<String> {
    let key = cluster.symbols.lookup(key)?;
    let (_, value) = signature.labels.iter().find(|(label, _)| *label == key)?;
    Some(cluster.symbols.text(*value).to_string())
}

impl Tracer {
    fn note(&self, point: &str) {
        note(&self.journal, format!("{} {point}", self.name));
    }

    fn fails(&self, cluster: &Cluster, pod: PodId, point: &str) -> bool {
        let signature = cluster.signature(pod);
        order(cluster, signature, "fail-at").as_deref() == Some(point)
            && order(cluster, signature, "fail-in").is_none_or(|name| name == self.name)
    }
}

struct TracingRule {
    name: &'static str,
    journal: Journal,
}

impl Rule for TracingRule {
    fn filters(&self) -> Reach {
        Reach::Cluster
    }

    fn scores(&self) -> Reach {
        Reach::Site
    }

    fn filter_node(&self, cx: &Context<'_>, _node: &Node, reasons: &mut Reasons) -> Verdict {
        note(&self.journal, format!("{} Filter", self.name));
        if order(cx.cluster, cx.signature, "fail-at").as_deref() == Some("Filter") {
            reasons.say(Reason::Text("node(s) were traced"));
            return Verdict::Refused;
        }
        Verdict::Fits
    }

    fn site(&self, _cx: &Context<'_>, _id: scheduler::cluster::NodeId, node: &Node, site: &mut Site) {
        site.push(node.pods.len() as i64);
    }

    fn pre_score(&self, _cx: &Context<'_>, _sites: &scheduler::framework::Sites<'_>, _scratch: &mut Vec<f64>) {
        note(&self.journal, format!("{} PreScore", self.name));
    }

    fn score_site(&self, _cx: &Context<'_>, site: &[i64], _scratch: &[f64]) -> Option<i64> {
        note(&self.journal, format!("{} Score", self.name));
        Some(site[0])
    }

    fn normalize(&self, raw: i64, _least: i64, _greatest: i64) -> i64 {
        note(&self.journal, format!("{} NormalizeScore", self.name));
        raw.min(100)
    }
}

impl Plugin for Tracer {
    fn name(&self) -> &'static str {
        self.name
    }

    fn holds_back(&self, gates: &[Box<str>]) -> Option<String> {
        self.note("PreEnqueue");
        gates
            .iter()
            .any(|gate| &**gate == "trace")
            .then(|| "waits for the tracer".to_owned())
    }

    fn queue_key(&self, signature: &PodSignature, entered: u64) -> Option<QueueKey> {
        self.note("QueueSort");
        Some(QueueKey(-i64::from(signature.priority), entered))
    }

    fn compile(&self, cluster: &mut Cluster, _class: ClassId, signature: &PodSignature) -> Compiled {
        self.note("PreFilter");
        if order(cluster, signature, "fail-at").as_deref() == Some("PreFilter") {
            return Compiled::Refuse("the tracer refuses".to_owned());
        }
        Compiled::Rule(Box::new(TracingRule {
            name: self.name,
            journal: self.journal.clone(),
        }))
    }

    fn may_help(&self, _cluster: &Cluster, event: &ClusterEvent<'_>, _signature: &PodSignature) -> bool {
        self.note("QueueingHint");
        matches!(event, ClusterEvent::NodeAdded(_))
    }

    fn post_filter(&self, _cluster: &mut Cluster, _unplaced: &Unplaced<'_>, _memory: &mut Memory) -> PostFilterOutcome {
        self.note("PostFilter");
        PostFilterOutcome::Skipped
    }

    fn reserve(&self, cluster: &mut Cluster, assignment: Assignment) -> Result<(), String> {
        self.note("Reserve");
        assert_eq!(cluster.pod(assignment.pod).placement.node(), Some(assignment.node));
        match self.fails(cluster, assignment.pod, "Reserve") {
            true => Err("the tracer has no room".to_owned()),
            false => Ok(()),
        }
    }

    fn unreserve(&self, _cluster: &mut Cluster, _pod: PodId) {
        self.note("Unreserve");
    }

    fn permit(&self, cluster: &Cluster, assignment: Assignment, waiting: &mut WaitingPods) -> Permission {
        self.note("Permit");
        if self.fails(cluster, assignment.pod, "Permit") {
            return Permission::Deny("the tracer denies".to_owned());
        }
        let signature = cluster.signature(assignment.pod);
        match order(cluster, signature, "wait") {
            // The second of a pair lets the first go, as a coscheduling plugin would.
            Some(_) if order(cluster, signature, "opens").is_some() => {
                let others: Vec<PodId> = waiting.iter().map(|(pod, _)| pod).collect();
                others.into_iter().for_each(|pod| waiting.allow(pod, self.name));
                Permission::Approve
            }
            Some(timeout_ms) => Permission::Wait {
                timeout_ms: timeout_ms.parse().expect("the test gives a number"),
            },
            None => Permission::Approve,
        }
    }

    fn pre_bind(&self, cluster: &Cluster, assignment: Assignment) -> Result<Vec<PreBind>, String> {
        self.note("PreBind");
        if self.fails(cluster, assignment.pod, "PreBind") {
            return Err("the tracer cannot prepare".to_owned());
        }
        let node = cluster.symbols.text(cluster.node(assignment.node).name).clone();
        Ok(vec![PreBind::Patch(ObjectPatch {
            resource: "nodes".into(),
            namespace: "".into(),
            name: node,
            patch: json!({"metadata": {"annotations": {"traced.example.com/by": self.name}}}),
        })])
    }

    fn bind(&self, cluster: &Cluster, assignment: Assignment) -> Option<BindMethod> {
        self.note("Bind");
        let patch = order(cluster, cluster.signature(assignment.pod), "mark")?;
        let patch = json!({"metadata": {"annotations": {"traced.example.com/mark": patch}}});
        Some(BindMethod::Patch(Arc::new(patch)))
    }

    fn post_bind(&self, _cluster: &Cluster, _assignment: Assignment) {
        self.note("PostBind");
    }
}

fn traced(names: &[&'static str]) -> (Scheduler, Journal) {
    let journal = Journal::default();
    let mut profile = Profile::with_default_plugins("default-scheduler")
        .without("PrioritySort")
        .without("DefaultBinder");
    for name in names {
        let journal = journal.clone();
        profile = profile.with(Tracer { name, journal }, 1);
    }
    let profile = profile.with(scheduler::plugins::default_binder::DefaultBinder, 0);
    let mut scheduler = Scheduler::new(SchedulerConfiguration {
        profiles: vec![profile],
        ..SchedulerConfiguration::default()
    });
    scheduler.upsert_node(&node("n1"));
    scheduler.upsert_node(&node("n2"));
    (scheduler, journal)
}

fn node(name: &str) -> core::Node {
    serde_json::from_value(
        json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}}}),
    )
    .expect("well-formed")
}

fn pod(name: &str, labels: Value) -> core::Pod {
    serde_json::from_value(
        json!({"metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}}),
    )
    .expect("well-formed")
}

fn key(name: &str) -> PodKey {
    PodKey::new("default", name)
}

fn message(decisions: &[Decision]) -> String {
    match decisions {
        [Decision::Unschedulable(why)] => why.message(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_extension_point_is_called_in_kubernetes_order() {
    let (mut scheduler, journal) = traced(&["T"]);
    let mut object = pod("a", json!({"mark": "x"}));
    scheduler.upsert_pod(&object);
    assert_eq!(taken(&journal), ["T PreEnqueue", "T QueueSort"]);
    let decisions = scheduler.schedule_batch(0, 10);
    let [Decision::Bind(binding)] = &decisions[..] else {
        panic!("{decisions:?}")
    };
    assert_eq!(
        taken(&journal),
        [
            "T PreFilter",
            "T Filter",
            "T PreScore",
            "T Score",
            "T NormalizeScore",
            "T Reserve",
            "T Permit",
            "T PreBind",
            "T Bind"
        ]
    );
    // What the plugin asks for is part of the decision.
    let PreBind::Patch(patch) = &binding.pre_bind[0] else {
        panic!("{binding:?}")
    };
    assert_eq!((&*patch.resource, &patch.name), ("nodes", &binding.node));
    assert!(matches!(&binding.method, BindMethod::Patch(patch)
        if patch["metadata"]["annotations"]["traced.example.com/mark"] == "x"));
    object.spec.as_mut().expect("a spec").node_name = Some(binding.node.to_string());
    scheduler.upsert_pod(&object);
    assert_eq!(taken(&journal), ["T PostBind"]);
    // Confirmed once: the next version of the pod is no binding.
    scheduler.upsert_pod(&object);
    assert_eq!(taken(&journal), Vec::<String>::new());
}

#[test]
fn a_plugin_leaves_what_it_does_not_want_to_the_next() {
    let (mut scheduler, journal) = traced(&["T"]);
    scheduler.upsert_pod(&pod("a", json!({})));
    let decisions = scheduler.schedule_batch(0, 10);
    let [Decision::Bind(binding)] = &decisions[..] else {
        panic!("{decisions:?}")
    };
    assert_eq!(binding.method, BindMethod::NodeName);
    assert!(taken(&journal).contains(&"T Bind".to_owned()));
}

#[test]
fn a_refusal_after_the_choice_undoes_everything_in_reverse() {
    for (point, plugin, calls, words) in [
        ("Reserve", "A", vec!["A Reserve"], "the tracer has no room"),
        ("Reserve", "B", vec!["A Reserve", "B Reserve"], "the tracer has no room"),
        (
            "Permit",
            "B",
            vec!["A Reserve", "B Reserve", "A Permit", "B Permit"],
            "the tracer denies",
        ),
        (
            "PreBind",
            "A",
            vec!["A Reserve", "B Reserve", "A Permit", "B Permit", "A PreBind"],
            "the tracer cannot prepare",
        ),
    ] {
        let (mut scheduler, journal) = traced(&["A", "B"]);
        scheduler.upsert_pod(&pod("a", json!({"fail-at": point, "fail-in": plugin})));
        let decisions = scheduler.schedule_batch(0, 10);
        assert_eq!(
            message(&decisions),
            format!("0/1 nodes are available: 1 {words}."),
            "{point} {plugin}"
        );
        let said = taken(&journal);
        let from = said.iter().position(|what| what == "A Reserve").expect("it was called");
        let mut expected = calls;
        expected.extend(["B Unreserve", "A Unreserve"]);
        let after: Vec<&str> = said[from..]
            .iter()
            .map(String::as_str)
            .filter(|w| !w.contains("QueueingHint"))
            .collect();
        assert_eq!(after, expected, "{point} {plugin}");
        // Nothing is left of it.
        assert_eq!(scheduler.node_of(&key("a")), None);
        scheduler.assert_invariants();
        assert!(matches!(scheduler.stage(&key("a")), Some(Stage::Parked { .. })));
        // The plugin's queueing hint decides when it is tried again.
        scheduler.upsert_node(&node("n3"));
        assert!(
            matches!(scheduler.stage(&key("a")), Some(Stage::BackingOff { .. })),
            "{point} {plugin}"
        );
    }
}

#[test]
fn filters_and_pre_filters_refuse_and_post_filter_is_asked() {
    for (point, words) in [
        ("PreFilter", "0/2 nodes are available: the tracer refuses."),
        ("Filter", "0/2 nodes are available: 2 node(s) were traced."),
    ] {
        // Without preemption, which would answer first.
        let (mut scheduler, journal) = traced(&["T"]);
        scheduler.upsert_pod(&pod("a", json!({"fail-at": point})));
        let message = message(&scheduler.schedule_batch(0, 10));
        assert!(message.starts_with(words), "{message}");
        assert!(!taken(&journal).contains(&"T Reserve".to_owned()));
    }
    let journal = Journal::default();
    let tracer = Tracer {
        name: "T",
        journal: journal.clone(),
    };
    let profile = Profile::with_default_plugins("default-scheduler")
        .without("DefaultPreemption")
        .with(tracer, 1);
    let mut scheduler = Scheduler::new(SchedulerConfiguration {
        profiles: vec![profile],
        ..SchedulerConfiguration::default()
    });
    scheduler.upsert_node(&node("n1"));
    scheduler.upsert_pod(&pod("a", json!({"fail-at": "Filter"})));
    scheduler.schedule_batch(0, 10);
    assert_eq!(taken(&journal).last().map(String::as_str), Some("T PostFilter"));
}

#[test]
fn a_gate_of_the_plugin_holds_a_pod_back() {
    let (mut scheduler, _) = traced(&["T"]);
    let mut gated = pod("a", json!({}));
    gated.spec.as_mut().expect("a spec").scheduling_gates =
        serde_json::from_value(json!([{"name": "trace"}])).expect("well-formed");
    scheduler.upsert_pod(&gated);
    assert_eq!(scheduler.stage(&key("a")), Some(Stage::Gated));
}

#[test]
fn a_pod_waits_at_permit_until_it_is_allowed() {
    let (mut scheduler, journal) = traced(&["T"]);
    scheduler.upsert_pod(&pod("a", json!({"wait": "5000"})));
    assert_eq!(scheduler.schedule_batch(1_000, 10), []);
    // It keeps its place, and is in no queue.
    assert!(scheduler.node_of(&key("a")).is_some());
    assert_eq!(scheduler.stage(&key("a")), None);
    assert_eq!(scheduler.waiting_pods().count(), 1);
    assert_eq!(scheduler.next_wakeup_ms(), Some(6_000));
    scheduler.assert_invariants();
    assert_eq!(scheduler.schedule_batch(5_999, 10), []);
    taken(&journal);
    scheduler.allow_waiting(&key("a"), "T");
    assert!(scheduler.has_work());
    let decisions = scheduler.schedule_batch(5_999, 10);
    assert!(
        matches!(&decisions[..], [Decision::Bind(binding)] if binding.pod == key("a")),
        "{decisions:?}"
    );
    assert_eq!(taken(&journal), ["T PreBind", "T Bind"]);
    assert_eq!(scheduler.waiting_pods().count(), 0);
}

#[test]
fn a_pod_that_waits_for_too_long_or_is_rejected_gives_its_place_back() {
    for (reject, words) in [
        (
            false,
            "0/1 nodes are available: 1 rejected due to timeout after waiting 5s at plugin T.",
        ),
        (true, "0/1 nodes are available: 1 somebody else was faster."),
    ] {
        let (mut scheduler, journal) = traced(&["T"]);
        scheduler.upsert_pod(&pod("a", json!({"wait": "5000"})));
        assert_eq!(scheduler.schedule_batch(0, 10), []);
        taken(&journal);
        if reject {
            scheduler.reject_waiting(&key("a"), "T", "somebody else was faster");
        }
        let now_ms = if reject { 1 } else { 5_000 };
        assert_eq!(message(&scheduler.schedule_batch(now_ms, 10)), words);
        assert!(taken(&journal).contains(&"T Unreserve".to_owned()));
        assert_eq!(scheduler.node_of(&key("a")), None);
        assert!(matches!(scheduler.stage(&key("a")), Some(Stage::Parked { .. })));
        scheduler.assert_invariants();
    }
}

#[test]
fn one_pod_lets_another_go() {
    let (mut scheduler, _) = traced(&["T"]);
    scheduler.upsert_pod(&pod("first", json!({"wait": "60000"})));
    assert_eq!(scheduler.schedule_batch(0, 10), []);
    scheduler.upsert_pod(&pod("second", json!({"wait": "60000", "opens": "yes"})));
    let decisions = scheduler.schedule_batch(0, 10);
    let mut bound: Vec<&str> = decisions.iter().map(|decision| decision.pod().name()).collect();
    bound.sort_unstable();
    assert_eq!(bound, ["first", "second"]);
}

#[test]
fn a_waiting_pod_that_is_deleted_or_bound_by_others_waits_no_more() {
    let (mut scheduler, _) = traced(&["T"]);
    for name in ["gone", "taken"] {
        scheduler.upsert_pod(&pod(name, json!({"wait": "60000"})));
    }
    assert_eq!(scheduler.schedule_batch(0, 10), []);
    scheduler.remove_pod(&key("gone"));
    let mut bound = pod("taken", json!({"wait": "60000"}));
    bound.spec.as_mut().expect("a spec").node_name = Some("n1".to_owned());
    scheduler.upsert_pod(&bound);
    assert_eq!(scheduler.waiting_pods().count(), 0);
    assert_eq!(scheduler.schedule_batch(100_000, 10), []);
    assert_eq!(
        scheduler.node_of(&key("taken")).map(|node| node.to_string()),
        Some("n1".to_owned())
    );
    scheduler.assert_invariants();
}

#[test]
fn a_waiting_pod_is_sent_back_rather_than_evicted() {
    let (mut scheduler, _) = traced(&["T"]);
    scheduler.remove_node("n2");
    let sized = |name: &str, cpu: &str, priority: i32, labels: Value| {
        let mut object = pod(name, labels);
        let spec = object.spec.as_mut().expect("a spec");
        spec.priority = Some(priority);
        spec.containers[0].resources = serde_json::from_value(json!({"requests": {"cpu": cpu}})).expect("well-formed");
        object
    };
    scheduler.upsert_pod(&sized("low", "4", 0, json!({"wait": "60000"})));
    assert_eq!(scheduler.schedule_batch(0, 10), []);
    scheduler.upsert_pod(&sized("high", "4", 10, json!({})));
    let decisions = scheduler.schedule_batch(1, 10);
    let low = decisions
        .iter()
        .find(|decision| decision.pod().name() == "low")
        .expect("it was decided");
    assert_eq!(
        message(std::slice::from_ref(low)),
        "0/1 nodes are available: 1 preempted."
    );
    for decision in &decisions {
        if let Decision::Unschedulable(why) = decision {
            assert!(
                !matches!(&why.preemption, scheduler::Preemption::Nominated { victims, .. } if !victims.is_empty())
            );
        }
    }
    let later = scheduler.schedule_batch(20_000, 10);
    assert!(
        later
            .iter()
            .any(|decision| matches!(decision, Decision::Bind(binding) if binding.pod == key("high"))),
        "{later:?}"
    );
}

#[test]
fn a_binding_that_the_store_refuses_is_unreserved() {
    let (mut scheduler, journal) = traced(&["A", "B"]);
    scheduler.upsert_pod(&pod("a", json!({})));
    scheduler.schedule_batch(0, 10);
    taken(&journal);
    scheduler.forget(&key("a"), 0);
    let undone: Vec<String> = taken(&journal)
        .into_iter()
        .filter(|what| what.contains("Unreserve"))
        .collect();
    assert_eq!(undone, ["B Unreserve", "A Unreserve"]);
}

#[test]
fn a_gang_counts_a_denied_pod_as_one_that_does_not_fit() {
    let member = |name: &str, labels: Value| {
        let mut object = pod(name, labels);
        object.spec.as_mut().expect("a spec").scheduling_group =
            serde_json::from_value(json!({"podGroupName": "g"})).expect("well-formed");
        object
    };
    for (pods_min, bound) in [(2, 2), (3, 0)] {
        let (mut scheduler, _) = traced(&["T"]);
        scheduler.set_group("default", "g", pods_min);
        scheduler.upsert_pod(&member("a", json!({})));
        scheduler.upsert_pod(&member("b", json!({})));
        scheduler.upsert_pod(&member("c", json!({"fail-at": "Permit"})));
        let decisions = scheduler.schedule_batch(0, 10);
        let bindings = decisions
            .iter()
            .filter(|decision| matches!(decision, Decision::Bind(_)))
            .count();
        assert_eq!((bindings, decisions.len()), (bound, 3));
        scheduler.assert_invariants();
    }
}
