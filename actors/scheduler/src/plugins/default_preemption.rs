//! DefaultPreemption (PostFilter): makes room for a pod that fits nowhere by evicting pods of lower priority, where that does
//! least harm: fewest disruption budgets violated, then the least important of the most important victims, then the
//! smallest sum of priorities, then the fewest victims, then the latest started.
//!
//! Differs from kube-scheduler: if the pod's filters read the node only, all nodes are compared, not a sample, and what was
//! found for each is kept for the next pod of the kind; otherwise the sample starts at an offset that the seed gives and is
//! tried in order, not in parallel (so the same seed gives the same victims). Victims that were asked to leave are awaited
//! for 30 s even before their deletion timestamp is seen. It must never evict a pod of equal or higher priority, and leaves
//! the state as it was.

use crate::cluster::{Cluster, NodeId, PodId};
use crate::diagnosis::{Reason, histogram};
use crate::framework::{EventKinds, Memory, Plugin, PostFilterOutcome, Reads, Reasons, Unplaced, Verdict};
use crate::node::Node;
use crate::pod::PodSignature;
use std::cmp::Reverse;
use std::collections::BTreeSet;

const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
/// What kube-scheduler adds to a priority so that sums of priorities count victims too: 2^31.
const PRIORITY_OFFSET: i64 = 1 << 31;

/// The plugin.
pub struct DefaultPreemption {
    /// Candidates to look at, in per cent of the nodes where preemption may help.
    pub candidate_nodes_percentage_min: usize,
    /// Candidates to look at, at least.
    pub candidate_nodes_min: usize,
}

impl Default for DefaultPreemption {
    fn default() -> Self {
        Self {
            candidate_nodes_percentage_min: 10,
            candidate_nodes_min: 100,
        }
    }
}

/// A node and who would have to go. Less harm orders first.
#[derive(Debug)]
struct Candidate {
    node: NodeId,
    victims: Vec<PodId>,
    violations: usize,
}

impl Plugin for DefaultPreemption {
    fn name(&self) -> &'static str {
        "DefaultPreemption"
    }

    fn hears(&self) -> EventKinds {
        EventKinds::NONE
    }

    fn reads(&self, _cluster: &Cluster, _signature: &PodSignature) -> Reads {
        Reads::NOTHING
    }

    fn post_filter(&self, cluster: &mut Cluster, unplaced: &Unplaced<'_>, memory: &mut Memory) -> PostFilterOutcome {
        if unplaced.signature.never_preempts {
            return PostFilterOutcome::Waiting("not eligible due to preemptionPolicy=Never.".to_owned());
        }
        if self.awaits_victims(cluster, unplaced) {
            let words = "not eligible due to a terminating pod on the nominated node.";
            return PostFilterOutcome::Waiting(words.to_owned());
        }
        if cluster.nodes_present() == 0 {
            return PostFilterOutcome::Skipped;
        }
        if !unplaced.rules.filters_nodes_only() {
            let (candidates, refusals) = self.sample(cluster, unplaced);
            return match candidates.into_iter().min_by_key(|candidate| harm(cluster, candidate)) {
                Some(best) => PostFilterOutcome::Nominated {
                    node: best.node,
                    victims: best.victims,
                },
                None => PostFilterOutcome::Failed(refusals.words(cluster)),
            };
        }
        let known = memory
            .as_mut()
            .and_then(|kept| kept.downcast_mut::<Harms>())
            .filter(|_| unplaced.may_remember);
        let mut made = Harms::default();
        let harms = known.unwrap_or(&mut made);
        harms.catch_up(cluster, unplaced);
        let best = harms.by_harm.first().map(|(_, node)| *node);
        let outcome = match best.map(|node| victims_on(cluster, unplaced, node)) {
            Some(Ok(best)) => PostFilterOutcome::Nominated {
                node: best.node,
                victims: best.victims,
            },
            Some(Err(_)) | None => PostFilterOutcome::Failed(harms.refusals.words(cluster)),
        };
        if unplaced.may_remember && made.position.is_some() {
            *memory = Some(Box::new(made));
        }
        outcome
    }
}

/// Violated budgets, the priority of the most important victim, the sum of priorities, the number of victims, and when the
/// first of the most important started: less is less harm.
type Harm = (usize, i32, i64, usize, Reverse<i64>);

/// How much harm a candidate does. Nodes that do equal harm are told apart by their place.
fn harm(cluster: &Cluster, candidate: &Candidate) -> (Harm, NodeId) {
    let priority = |pod: &PodId| cluster.signature(*pod).priority;
    let highest = candidate.victims.iter().map(priority).max().unwrap_or(i32::MIN);
    let sum = candidate
        .victims
        .iter()
        .map(|pod| i64::from(priority(pod)) + PRIORITY_OFFSET)
        .sum();
    let important = candidate.victims.iter().filter(|pod| priority(pod) == highest);
    let earliest = important.map(|pod| cluster.pod(*pod).started_ms).min().unwrap_or(0);
    let harm = (
        candidate.violations,
        highest,
        sum,
        candidate.victims.len(),
        Reverse(earliest),
    );
    (harm, candidate.node)
}

/// Nodes where nothing came of it, by reason.
#[derive(Default)]
struct Refusals {
    counts: Vec<(String, usize)>,
    nodes: usize,
}

impl Refusals {
    fn change(&mut self, reasons: &[String], added: bool) {
        self.nodes = if added { self.nodes + 1 } else { self.nodes - 1 };
        for words in reasons {
            match self.counts.iter_mut().find(|(known, _)| known == words) {
                Some((_, nodes)) => *nodes = if added { *nodes + 1 } else { *nodes - 1 },
                None => self.counts.push((words.clone(), 1)),
            }
        }
    }

    /// kube-scheduler's sentence. Nodes that were not tried are nodes where nobody's leaving helps.
    fn words(&self, cluster: &Cluster) -> String {
        let all = cluster.nodes_present();
        let tried = self.counts.iter().map(|(words, nodes)| (words.as_str(), *nodes));
        let counts = tried
            .chain([(NOT_HELPFUL, all - self.nodes)])
            .filter(|(_, nodes)| *nodes > 0);
        format!("0/{all} nodes are available: {}.", histogram(counts))
    }
}

/// What is known of one node.
#[derive(Clone, Default)]
enum Known {
    /// Nobody's leaving helps, or the pod fits as it is.
    #[default]
    NotTried,
    /// It was tried, for nothing.
    Tried(Vec<String>),
    /// Room can be made, at this harm.
    Room(Harm),
}

/// What is known of all nodes, for pods whose filters read the node only. Follows the cluster's change log.
#[derive(Default)]
struct Harms {
    position: Option<u64>,
    layout: u64,
    nodes: Vec<Known>,
    by_harm: BTreeSet<(Harm, NodeId)>,
    refusals: Refusals,
}

impl Harms {
    fn catch_up(&mut self, cluster: &mut Cluster, unplaced: &Unplaced<'_>) {
        let places = cluster.nodes().len();
        let changes = self.position.and_then(|position| cluster.changes_since(position));
        let follows = changes.filter(|changes| changes.len() <= places && self.layout == cluster.layout());
        let changed: Vec<NodeId> = match follows {
            Some(changes) => changes.to_vec(),
            None => {
                *self = Self::default();
                (0..places as u32).map(NodeId).collect()
            }
        };
        self.position = Some(cluster.position());
        self.layout = cluster.layout();
        self.nodes.resize(places, Known::NotTried);
        for node in changed {
            let new = look_at(cluster, unplaced, node);
            match std::mem::replace(&mut self.nodes[node.0 as usize], Known::NotTried) {
                Known::NotTried => {}
                Known::Tried(reasons) => self.refusals.change(&reasons, false),
                Known::Room(harm) => {
                    self.by_harm.remove(&(harm, node));
                }
            }
            match &new {
                Known::NotTried => {}
                Known::Tried(reasons) => self.refusals.change(reasons, true),
                Known::Room(harm) => {
                    self.by_harm.insert((*harm, node));
                }
            }
            self.nodes[node.0 as usize] = new;
        }
    }
}

fn look_at(cluster: &mut Cluster, unplaced: &Unplaced<'_>, node: NodeId) -> Known {
    let mut reasons = Reasons {
        said: Vec::new(),
        muted: true,
    };
    let cycle = unplaced.cycle(cluster);
    if !cluster.node(node).present
        || unplaced.rules.refusal.is_some()
        || cycle.filter_copy(cluster.node(node), &mut reasons).0 != Verdict::Refused
    {
        return Known::NotTried;
    }
    match victims_on(cluster, unplaced, node) {
        Ok(candidate) => Known::Room(harm(cluster, &candidate).0),
        Err(reasons) => Known::Tried(reasons),
    }
}

impl DefaultPreemption {
    /// The pods that the preemptor has already asked to leave are still on their way out.
    fn awaits_victims(&self, cluster: &Cluster, unplaced: &Unplaced<'_>) -> bool {
        let Some(node) = cluster.pod(unplaced.pod).nominated else {
            return false;
        };
        let mut reasons = Reasons {
            said: Vec::new(),
            muted: true,
        };
        if !cluster.node(node).present || unplaced.cycle(cluster).filter(node, &mut reasons).0 != Verdict::Refused {
            return false;
        }
        cluster.node(node).pods.iter().any(|pod| {
            let record = cluster.pod(*pod);
            let leaving = record.terminating || record.evicted_until_ms > unplaced.now_ms;
            leaving && cluster.signature(*pod).priority < unplaced.signature.priority
        })
    }

    /// Looks at some of the nodes where preemption may help.
    fn sample(&self, cluster: &mut Cluster, unplaced: &Unplaced<'_>) -> (Vec<Candidate>, Refusals) {
        let nodes = unplaced.candidates(cluster);
        let mut found: Vec<Candidate> = Vec::new();
        let mut refusals = Refusals::default();
        if nodes.is_empty() {
            return (found, refusals);
        }
        let share = nodes.len() * self.candidate_nodes_percentage_min / 100;
        let wanted = share.max(self.candidate_nodes_min).min(nodes.len());
        let offset = (unplaced.chance % nodes.len() as u64) as usize;
        let mut without_violation = 0;
        for step in 0..nodes.len() {
            match victims_on(cluster, unplaced, nodes[(offset + step) % nodes.len()]) {
                Ok(candidate) => {
                    without_violation += usize::from(candidate.violations == 0);
                    found.push(candidate);
                    if found.len() >= wanted && without_violation > 0 {
                        break;
                    }
                }
                Err(reasons) => refusals.change(&reasons, true),
            }
        }
        (found, refusals)
    }
}

/// The fewest pods that must leave a node, the most important kept first; or why it would not help.
fn victims_on(cluster: &mut Cluster, unplaced: &Unplaced<'_>, node: NodeId) -> Result<Candidate, Vec<String>> {
    let priority = unplaced.signature.priority;
    let mut lower: Vec<PodId> = cluster
        .node(node)
        .pods
        .iter()
        .copied()
        .filter(|pod| cluster.signature(*pod).priority < priority)
        .collect();
    if lower.is_empty() {
        return Err(vec![NO_VICTIMS.to_owned()]);
    }
    // The most important first: by priority, then who started first; the key makes the order total.
    lower.sort_by(|a, b| {
        let rank = |pod: &PodId| (Reverse(cluster.signature(*pod).priority), cluster.pod(*pod).started_ms);
        rank(a)
            .cmp(&rank(b))
            .then_with(|| cluster.pod(*a).key.cmp(&cluster.pod(*b).key))
    });
    let violating = violations(cluster, &lower);
    let mut trial = match unplaced.rules.filters_nodes_only() {
        true => Trial::Copy(Box::new(cluster.node(node).clone())),
        false => Trial::InPlace,
    };
    for pod in &lower {
        trial.remove(cluster, *pod);
    }
    let outcome = trial.fits(cluster, unplaced, node).map(|()| {
        let mut victims = Vec::new();
        let mut violated = 0;
        let order = |wanted: bool| {
            lower
                .iter()
                .zip(&violating)
                .filter(move |(_, v)| **v == wanted)
                .map(|(pod, _)| *pod)
        };
        for (pod, violates) in order(true)
            .map(|pod| (pod, true))
            .chain(order(false).map(|pod| (pod, false)))
        {
            trial.add(cluster, node, pod);
            if trial.fits(cluster, unplaced, node).is_err() {
                trial.remove(cluster, pod);
                victims.push(pod);
                violated += usize::from(violates);
            }
        }
        victims.sort_by_key(|pod| lower.iter().position(|other| other == pod));
        Candidate {
            node,
            victims,
            violations: violated,
        }
    });
    trial.restore(cluster, node, &lower);
    match outcome {
        // Nobody has to leave: the filters do not agree with themselves, so nothing is gained by evicting.
        Ok(candidate) if candidate.victims.is_empty() => Err(vec![NOT_HELPFUL.to_owned()]),
        outcome => outcome,
    }
}

/// Which pods, if all of them left in this order, would violate a disruption budget.
fn violations(cluster: &Cluster, pods: &[PodId]) -> Vec<bool> {
    let mut budgets: Vec<_> = cluster
        .budgets()
        .map(|budget| (budget, budget.disruptions_allowed))
        .collect();
    let mut violates = |pod: &PodId| {
        let mut violated = false;
        for (budget, left) in budgets.iter_mut().filter(|(budget, _)| cluster.covers(budget, *pod)) {
            let _: &_ = budget;
            *left -= 1;
            violated |= *left < 0;
        }
        violated
    };
    pods.iter().map(&mut violates).collect()
}

/// Where it is tried out who must leave: on a copy of the node if the filters read nothing else, otherwise in the state.
enum Trial {
    Copy(Box<Node>),
    InPlace,
}

impl Trial {
    fn remove(&mut self, cluster: &mut Cluster, pod: PodId) {
        match self {
            Self::Copy(node) => node.remove(pod, cluster.signature(pod)),
            Self::InPlace => cluster.suspend(pod),
        }
    }

    fn add(&mut self, cluster: &mut Cluster, id: NodeId, pod: PodId) {
        match self {
            Self::Copy(node) => node.add(pod, cluster.signature(pod)),
            Self::InPlace => cluster.resume(pod, id),
        }
    }

    /// Puts back whoever is still away.
    fn restore(&mut self, cluster: &mut Cluster, id: NodeId, pods: &[PodId]) {
        if matches!(self, Self::InPlace) {
            for pod in pods {
                if !cluster.node(id).pods.contains(pod) {
                    cluster.resume(*pod, id);
                }
            }
        }
    }

    fn fits(&self, cluster: &Cluster, unplaced: &Unplaced<'_>, id: NodeId) -> Result<(), Vec<String>> {
        let cycle = unplaced.cycle(cluster);
        let mut reasons = Reasons::default();
        let verdict = match self {
            Self::Copy(node) => cycle.filter_copy(node, &mut reasons).0,
            Self::InPlace => cycle.filter(id, &mut reasons).0,
        };
        match verdict {
            Verdict::Fits => Ok(()),
            _ => Err(reasons
                .said
                .iter()
                .map(|reason: &Reason| reason.words(&cluster.symbols))
                .collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::decision::{Decision, Preemption};
    use crate::testing::{Bench, Object, node, pod};
    use serde_json::json;

    fn sized(name: &str, cpu: &str, priority: i32) -> Object {
        pod(name).merge(
            json!({"spec": {"priority": priority, "containers": [{"name": "c", "resources":
            {"requests": {"cpu": cpu}}}]}}),
        )
    }

    fn small_node(name: &str) -> Object {
        node(name).merge(json!({"status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}}}))
    }

    fn on(object: Object, node: &str) -> Object {
        object.merge(json!({"spec": {"nodeName": node}}))
    }

    fn nomination(decision: &Decision) -> (String, Vec<String>) {
        match decision {
            Decision::Unschedulable(why) => match &why.preemption {
                Preemption::Nominated { node, victims } => (
                    node.to_string(),
                    victims.iter().map(|victim| victim.name().to_owned()).collect(),
                ),
                other => panic!("{other:?}: {}", why.message()),
            },
            Decision::Bind(binding) => panic!("{} was bound to {}", binding.pod, binding.node),
        }
    }

    #[test]
    fn the_fewest_and_least_important_pods_leave() {
        let mut bench = Bench::new();
        bench.node(small_node("n1"));
        for (name, cpu, priority) in [("low", "1", 1), ("lower", "1", 0), ("mid", "2", 5)] {
            bench.pod(on(sized(name, cpu, priority), "n1"));
        }
        let decision = bench.decide_for(sized("high", "1", 10));
        assert_eq!(nomination(&decision), ("n1".into(), vec!["lower".into()]));
        // The victim goes: the pod fits and is tried again.
        bench.remove_pod("lower");
        assert!(matches!(&bench.decide()[..], [Decision::Bind(binding)] if &*binding.node == "n1"));
    }

    #[test]
    fn equal_priority_is_never_evicted() {
        let mut bench = Bench::new();
        bench.node(small_node("n1"));
        bench.pod(on(sized("a", "4", 10), "n1"));
        assert_eq!(
            bench.why_not(sized("b", "1", 10)),
            "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims \
             found for incoming pod."
        );
    }

    #[test]
    fn preemption_policy_never_waits() {
        let mut bench = Bench::new();
        bench.node(small_node("n1"));
        bench.pod(on(sized("a", "4", 0), "n1"));
        let meek = sized("b", "1", 10).merge(json!({"spec": {"preemptionPolicy": "Never"}}));
        assert_eq!(
            bench.why_not(meek),
            "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."
        );
    }

    #[test]
    fn the_node_with_least_harm_is_chosen() {
        // (pods by node, the node that must be chosen)
        let start = |object: Object, time: &str| object.merge(json!({"status": {"startTime": time}}));
        for (pods, want) in [
            // The least important of the most important victims.
            (vec![on(sized("a", "4", 5), "n1"), on(sized("b", "4", 4), "n2")], "n2"),
            // The smallest sum of priorities: fewer victims of the same priority.
            (
                vec![
                    on(sized("a", "4", 5), "n1"),
                    on(sized("b", "2", 5), "n2"),
                    on(sized("c", "2", 5), "n2"),
                ],
                "n1",
            ),
            // The latest started.
            (
                vec![
                    start(on(sized("a", "4", 5), "n1"), "2026-01-01T00:00:00Z"),
                    start(on(sized("b", "4", 5), "n2"), "2026-01-02T00:00:00Z"),
                ],
                "n2",
            ),
        ] {
            let mut bench = Bench::new();
            bench.node(small_node("n1"));
            bench.node(small_node("n2"));
            pods.into_iter().for_each(|pod| bench.pod(pod));
            let decision = bench.decide_for(sized("high", "4", 10));
            assert_eq!(nomination(&decision).0, want);
        }
    }

    #[test]
    fn disruption_budgets_are_respected_where_possible() {
        let mut bench = Bench::new();
        bench.node(small_node("n1"));
        bench.node(small_node("n2"));
        let guarded = json!({"metadata": {"labels": {"app": "db"}}});
        bench.pod(on(sized("a", "4", 0), "n1").merge(guarded));
        bench.pod(on(sized("b", "4", 5), "n2"));
        let budget = serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "db"}}},
            "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}}));
        bench.scheduler.upsert_budget(&budget.expect("well-formed"));
        let decision = bench.decide_for(sized("high", "4", 10));
        assert_eq!(nomination(&decision), ("n2".into(), vec!["b".into()]));
    }

    #[test]
    fn the_place_of_a_nominated_pod_is_kept_from_lower_priorities() {
        let mut bench = Bench::new();
        bench.node(small_node("n1"));
        bench.pod(on(sized("low", "4", 0), "n1"));
        nomination(&bench.decide_for(sized("high", "4", 10)));
        bench.remove_pod("low");
        // A pod of lower priority arrives before the nominated one is tried again.
        bench.pod(sized("thief", "1", 5));
        let decisions = bench.decide();
        let bound: Vec<&str> = decisions
            .iter()
            .filter_map(|decision| match decision {
                Decision::Bind(binding) => Some(binding.pod.name()),
                Decision::Unschedulable(_) => None,
            })
            .collect();
        assert_eq!(bound, ["high"]);
    }

    #[test]
    fn victims_on_their_way_out_are_awaited() {
        let mut bench = Bench::new();
        bench.node(small_node("n1"));
        bench.pod(on(sized("low", "4", 0), "n1"));
        nomination(&bench.decide_for(sized("high", "4", 10)));
        bench.pod(on(sized("low", "4", 0), "n1").merge(json!({"metadata": {
            "deletionTimestamp": "2026-01-01T00:00:00Z"}})));
        let decisions = bench.decide();
        let [Decision::Unschedulable(why)] = &decisions[..] else {
            panic!("{decisions:?}")
        };
        assert!(
            why.message()
                .ends_with("preemption: not eligible due to a terminating pod on the nominated node.")
        );
    }
}
