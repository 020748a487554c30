//! PodTopologySpread (PreFilter, Filter, Score): topology spread constraints, with minDomains, matchLabelKeys and the node
//! inclusion policies; pods without constraints get the default ones (the system's, or a list of the profile) for the pods
//! that the same Services and controller select.
//!
//! Reads counts by domain that the cluster state keeps. Differs from kube-scheduler in two things: pods that are nominated
//! but not bound do not count; and nodes that share a `kubernetes.io/hostname` label are one domain, where kube-scheduler
//! counts each of them alone in scoring.

use crate::cluster::{ClassId, Cluster, NodeId};
use crate::diagnosis::Reason;
use crate::framework::{
    ClusterEvent, Compiled, Context, EventKinds, MAX_NODE_SCORE, Plugin, Reach, Reads, Reasons, Rule, Site, Verdict,
};
use crate::node::Node;
use crate::pod::{PodSignature, SpreadConstraint};
use crate::selector::label;
use crate::topology::{CounterId, CounterSpec, Eligible, NO_DOMAIN, TopologyId, matcher_matches};
use k8s_openapi::api::core::v1 as core;

const HOST: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// The constraints of pods that have none themselves, for the pods that the same Services and controller select.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum DefaultConstraints {
    /// Hosts with maxSkew 3 and zones with maxSkew 5, ScheduleAnyway. Nodes without one of the labels are scored by the other.
    #[default]
    System,
    /// These, which have no labelSelector. An empty list spreads nothing.
    List(Vec<core::TopologySpreadConstraint>),
}

/// The plugin.
#[derive(Default)]
pub struct PodTopologySpread {
    /// The constraints of pods that have none themselves.
    pub defaults: DefaultConstraints,
}

/// A constraint with the count that it reads.
struct Counted {
    key: TopologyId,
    counter: CounterId,
    max_skew: i64,
    min_domains: u32,
    matches_itself: bool,
    is_host: bool,
}

struct Spread {
    hard: Vec<Counted>,
    soft: Vec<Counted>,
    /// Nodes that lack one of the soft constraints' labels take no part in scoring.
    all_labels: bool,
}

impl PodTopologySpread {
    fn defaults(&self, cluster: &mut Cluster, signature: &PodSignature) -> Vec<SpreadConstraint> {
        if self.spreads_nothing() {
            return Vec::new();
        }
        let Some(matcher) = cluster.default_spread_matcher(signature) else {
            return Vec::new();
        };
        let constraint = |key, max_skew| SpreadConstraint {
            max_skew,
            topology_key: key,
            hard: false,
            matcher: matcher.clone(),
            min_domains: 1,
            honor_affinity: true,
            honor_taints: false,
        };
        match &self.defaults {
            DefaultConstraints::System => {
                let (host, zone) = (cluster.symbols.intern(HOST), cluster.symbols.intern(ZONE));
                vec![constraint(host, 3), constraint(zone, 5)]
            }
            DefaultConstraints::List(list) => list
                .iter()
                .map(|given| SpreadConstraint {
                    hard: given.when_unsatisfiable != "ScheduleAnyway",
                    min_domains: given.min_domains.unwrap_or(1),
                    honor_affinity: given.node_affinity_policy.as_deref() != Some("Ignore"),
                    honor_taints: given.node_taints_policy.as_deref() == Some("Honor"),
                    ..constraint(cluster.symbols.intern(&given.topology_key), given.max_skew)
                })
                .collect(),
        }
    }

    fn spreads_nothing(&self) -> bool {
        matches!(&self.defaults, DefaultConstraints::List(list) if list.is_empty())
    }
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn reads(&self, cluster: &Cluster, signature: &PodSignature) -> Reads {
        if signature.spread.is_empty() {
            let matcher = (!self.spreads_nothing())
                .then(|| cluster.default_spread_matcher(signature))
                .flatten();
            return matcher.map_or(Reads::NOTHING, Reads::Matcher);
        }
        let counts_itself =
            |c: &SpreadConstraint| matcher_matches(&cluster.symbols, cluster.namespaces(), &c.matcher, signature);
        Reads::Facts(signature.spread.iter().map(counts_itself).collect())
    }

    fn compile(&self, cluster: &mut Cluster, _class: ClassId, signature: &PodSignature) -> Compiled {
        let defaults = if signature.spread.is_empty() {
            self.defaults(cluster, signature)
        } else {
            Vec::new()
        };
        let constraints = if signature.spread.is_empty() {
            &defaults
        } else {
            &signature.spread
        };
        if constraints.is_empty() {
            return Compiled::Skip;
        }
        // Only the defaults of the system let nodes without a zone be spread by host.
        let all_labels = !signature.spread.is_empty() || self.defaults != DefaultConstraints::System;
        let counted = |cluster: &mut Cluster, hard: bool| {
            let chosen: Vec<&SpreadConstraint> = constraints.iter().filter(|c| c.hard == hard).collect();
            let keys: Vec<TopologyId> = chosen
                .iter()
                .map(|c| cluster.use_topology_key(c.topology_key))
                .collect();
            let required = if hard || all_labels { keys.clone() } else { Vec::new() };
            let mut counted = Vec::new();
            for (constraint, key) in chosen.iter().zip(&keys) {
                counted.push(count(cluster, signature, constraint, *key, &required));
            }
            counted
        };
        let (hard, soft) = (counted(cluster, true), counted(cluster, false));
        Compiled::Rule(Box::new(Spread { hard, soft, all_labels }))
    }

    fn hears(&self) -> EventKinds {
        let pods = EventKinds::POD_PLACED
            .and(EventKinds::POD_LIFTED)
            .and(EventKinds::POD_CHANGED);
        EventKinds::NODES.and(EventKinds::NODE_REMOVED).and(pods)
    }

    fn may_help(&self, cluster: &Cluster, event: &ClusterEvent<'_>, signature: &PodSignature) -> bool {
        // Refused by default constraints, which depend on Services: any event may help.
        if signature.spread.is_empty() {
            return true;
        }
        let hard = || signature.spread.iter().filter(|constraint| constraint.hard);
        let counts = |pod: &PodSignature| {
            hard().any(|c| matcher_matches(&cluster.symbols, cluster.namespaces(), &c.matcher, pod))
        };
        let labelled = |labels: &[_]| hard().all(|c| label(labels, c.topology_key).is_some());
        match event {
            ClusterEvent::NodeAdded(node) => labelled(&node.reading.labels),
            ClusterEvent::NodeChanged { before, node } => {
                (before.labels != node.reading.labels || before.taints != node.reading.taints)
                    && (labelled(&node.reading.labels) || labelled(&before.labels))
            }
            ClusterEvent::NodeRemoved => true,
            ClusterEvent::PodPlaced(pod) | ClusterEvent::PodLifted(pod) => counts(pod),
            ClusterEvent::PodChanged { before, after } => counts(before) || counts(after),
            _ => false,
        }
    }
}

fn count(
    cluster: &mut Cluster,
    signature: &PodSignature,
    constraint: &SpreadConstraint,
    key: TopologyId,
    required: &[TopologyId],
) -> Counted {
    let requirements = &signature.node_requirements;
    let spec = CounterSpec {
        matchers: vec![constraint.matcher.clone()],
        key,
        eligible: Eligible {
            keys: required.to_vec(),
            requirements: (constraint.honor_affinity && !requirements.is_empty()).then(|| requirements.clone()),
            tolerations: constraint.honor_taints.then(|| signature.tolerations.clone()),
        },
        skips_terminating: true,
    };
    Counted {
        key,
        counter: cluster.hold_counter(spec),
        max_skew: i64::from(constraint.max_skew),
        min_domains: u32::try_from(constraint.min_domains).unwrap_or(1),
        matches_itself: matcher_matches(&cluster.symbols, cluster.namespaces(), &constraint.matcher, signature),
        is_host: cluster.symbols.text(constraint.topology_key).as_ref() == HOST,
    }
}

/// "The node lacks the label."
const MISSING: i64 = -1;

// The site: one number a constraint, hard ones first. Where each domain holds one node (host names) it is the count of pods
// there; otherwise it is the domain.
impl Spread {
    fn matching(&self, cx: &Context<'_>, constraint: &Counted, place: i64) -> i64 {
        let topology = cx.cluster.topology();
        if topology.key(constraint.key).is_per_node() {
            return place;
        }
        i64::from(topology.counter(constraint.counter).count(place as u32))
    }

    fn ignores(&self, soft: &[i64]) -> bool {
        self.all_labels && soft.contains(&MISSING)
    }
}

impl Rule for Spread {
    fn filters(&self) -> Reach {
        if self.hard.is_empty() { Reach::None } else { Reach::Site }
    }

    fn scores(&self) -> Reach {
        if self.soft.is_empty() { Reach::None } else { Reach::Site }
    }

    fn site(&self, cx: &Context<'_>, id: NodeId, _node: &Node, site: &mut Site) {
        let topology = cx.cluster.topology();
        for constraint in self.hard.iter().chain(&self.soft) {
            let key = topology.key(constraint.key);
            let domain = key.domain(id.0 as usize);
            site.push(match (domain, key.is_per_node()) {
                (NO_DOMAIN, _) => MISSING,
                (_, true) => i64::from(topology.counter(constraint.counter).count(domain)),
                (_, false) => i64::from(domain),
            });
        }
    }

    fn filter_site(&self, cx: &Context<'_>, site: &[i64], reasons: &mut Reasons) -> Verdict {
        if site[..self.hard.len()].contains(&MISSING) {
            reasons.say(Reason::Text(
                "node(s) didn't match pod topology spread constraints (missing required label)",
            ));
            return Verdict::NeverFits;
        }
        for (constraint, place) in self.hard.iter().zip(site) {
            let counter = cx.cluster.topology().counter(constraint.counter);
            let least = match counter.domains() {
                0 => continue,
                domains if domains < constraint.min_domains => 0,
                _ => i64::from(counter.least()),
            };
            let matching = self.matching(cx, constraint, *place);
            if matching + i64::from(constraint.matches_itself) - least > constraint.max_skew {
                reasons.say(Reason::Text("node(s) didn't match pod topology spread constraints"));
                return Verdict::Refused;
            }
        }
        Verdict::Fits
    }

    fn pre_score(&self, cx: &Context<'_>, sites: &[(&[i64], u32)], scratch: &mut Vec<f64>) {
        let taking_part = || {
            let soft = sites.iter().map(|(site, nodes)| (&site[self.hard.len()..], *nodes));
            soft.filter(|(soft, _)| !self.ignores(soft))
        };
        for (at, constraint) in self.soft.iter().enumerate() {
            let size = if constraint.is_host {
                taking_part().map(|(_, nodes)| nodes as usize).sum()
            } else if cx.cluster.topology().key(constraint.key).is_per_node() {
                let labelled = taking_part().filter(|(soft, _)| soft[at] != MISSING);
                let unlabelled = taking_part().any(|(soft, _)| soft[at] == MISSING);
                labelled.map(|(_, nodes)| nodes as usize).sum::<usize>() + usize::from(unlabelled)
            } else {
                // Nodes without the label, where they take part, are one more domain, as in kube-scheduler.
                let mut domains: Vec<i64> = taking_part().map(|(soft, _)| soft[at]).collect();
                domains.sort_unstable();
                domains.dedup();
                domains.len()
            };
            scratch.push(((size + 2) as f64).ln());
        }
    }

    fn score_site(&self, cx: &Context<'_>, site: &[i64], weights: &[f64]) -> Option<i64> {
        let soft = &site[self.hard.len()..];
        if self.ignores(soft) {
            return None;
        }
        let mut score = 0.0;
        for ((constraint, place), weight) in self.soft.iter().zip(soft).zip(weights) {
            if *place != MISSING {
                let matching = self.matching(cx, constraint, *place);
                score += matching as f64 * weight + (constraint.max_skew - 1) as f64;
            }
        }
        Some(score.round() as i64)
    }

    fn normalize(&self, raw: i64, least: i64, greatest: i64) -> i64 {
        if greatest == 0 {
            return MAX_NODE_SCORE;
        }
        MAX_NODE_SCORE * (greatest + least - raw) / greatest
    }

    fn release(&self, cluster: &mut Cluster) {
        for constraint in self.hard.iter().chain(&self.soft) {
            cluster.release_counter(constraint.counter);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, Object, node, pod};
    use serde_json::{Value, json};

    fn in_zone(name: &str, zone: &str) -> Object {
        node(name).merge(json!({"metadata": {"labels": {"zone": zone}}}))
    }

    fn labelled(name: &str) -> Object {
        pod(name).merge(json!({"metadata": {"labels": {"app": "web"}}}))
    }

    fn on(object: Object, node: &str) -> Object {
        object.merge(json!({"spec": {"nodeName": node}}))
    }

    fn spread(key: &str, when: &str, over: Value) -> Value {
        let mut constraint = json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": when,
            "labelSelector": {"matchLabels": {"app": "web"}}});
        over.as_object()
            .expect("an object")
            .iter()
            .for_each(|(k, v)| constraint[k] = v.clone());
        json!({"spec": {"topologySpreadConstraints": [constraint]}})
    }

    fn hard(key: &str, over: Value) -> Value {
        spread(key, "DoNotSchedule", over)
    }

    fn zones() -> Bench {
        let mut bench = Bench::new();
        for (name, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
            bench.node(in_zone(name, zone));
        }
        bench
    }

    #[test]
    fn domains_differ_by_no_more_than_the_skew() {
        for key in ["zone", "kubernetes.io/hostname"] {
            let mut bench = zones();
            let mut counts = std::collections::BTreeMap::<String, usize>::new();
            for at in 0..12 {
                let name = bench.place(labelled(&format!("p{at}")).merge(hard(key, json!({}))));
                let domain = if key == "zone" { name[..1].to_owned() } else { name };
                *counts.entry(domain).or_default() += 1;
                let least = counts.values().min().copied().unwrap_or(0);
                let least = if counts.len() < if key == "zone" { 2 } else { 3 } {
                    0
                } else {
                    least
                };
                assert!(counts.values().all(|count| count - least <= 1), "{key}: {counts:?}");
            }
        }
    }

    #[test]
    fn a_node_without_the_label_is_refused_for_it() {
        let mut bench = zones();
        bench.node(node("bare"));
        bench.pod(on(labelled("x"), "a1"));
        let message = bench.why_not(labelled("p").merge(hard("zone", json!({}))).merge(json!({"spec":
            {"nodeSelector": {"kubernetes.io/hostname": "bare"}}})));
        assert!(
            message.contains("1 node(s) didn't match pod topology spread constraints (missing required label)"),
            "{message}"
        );
    }

    #[test]
    fn too_few_domains_count_as_an_empty_one() {
        let mut bench = zones();
        bench.pod(on(labelled("x"), "a1"));
        bench.pod(on(labelled("y"), "b1"));
        let three = hard("zone", json!({"minDomains": 3}));
        let message = bench.why_not(labelled("p").merge(three));
        assert!(
            message.contains("3 node(s) didn't match pod topology spread constraints"),
            "{message}"
        );
        assert!(bench.fits(labelled("p").merge(hard("zone", json!({"minDomains": 2})))));
        bench.node(in_zone("c1", "c"));
        assert_eq!(
            bench.place(labelled("p").merge(hard("zone", json!({"minDomains": 3})))),
            "c1"
        );
    }

    #[test]
    fn inclusion_policies_decide_which_nodes_count() {
        let mut bench = zones();
        bench.node(in_zone("c1", "c").merge(json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})));
        bench.pod(on(labelled("x"), "a1"));
        bench.pod(on(labelled("y"), "b1"));
        // Zone c is tainted and empty: by default it counts, and nothing else may take a second pod.
        assert!(!bench.fits(labelled("p").merge(hard("zone", json!({})))));
        assert!(bench.fits(labelled("p").merge(hard("zone", json!({"nodeTaintsPolicy": "Honor"})))));
        // With a selector for zone a only, zone a is the only domain, unless affinity is ignored.
        let selector = json!({"spec": {"nodeSelector": {"zone": "a"}}});
        assert!(bench.fits(labelled("p").merge(hard("zone", json!({}))).merge(selector.clone())));
        let ignoring = hard("zone", json!({"nodeAffinityPolicy": "Ignore"}));
        assert!(!bench.fits(labelled("p").merge(ignoring).merge(selector)));
    }

    #[test]
    fn match_label_keys_count_each_revision_alone() {
        let mut bench = zones();
        let revision = |hash: &str| json!({"metadata": {"labels": {"hash": hash}}});
        bench.pod(on(labelled("x").merge(revision("1")), "a1"));
        bench.pod(on(labelled("y").merge(revision("1")), "a2"));
        let constraint = hard("zone", json!({"matchLabelKeys": ["hash"]}));
        let evaluation = bench
            .scheduler
            .evaluate(&labelled("p").merge(revision("2")).merge(constraint.clone()).pod());
        assert_eq!(evaluation.expect("scheduled here").feasible.len(), 3);
        let evaluation = bench
            .scheduler
            .evaluate(&labelled("p").merge(revision("1")).merge(constraint).pod());
        assert_eq!(evaluation.expect("scheduled here").feasible.len(), 1);
    }

    #[test]
    fn terminating_pods_do_not_count() {
        let mut bench = zones();
        bench.pod(on(labelled("x"), "a1"));
        let constraint = || hard("zone", json!({}));
        assert_eq!(bench.place(labelled("p").merge(constraint())), "b1");
        bench.remove_pod("p");
        bench.pod(on(labelled("x"), "a1").merge(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})));
        let evaluation = bench.scheduler.evaluate(&labelled("p").merge(constraint()).pod());
        assert_eq!(evaluation.expect("scheduled here").feasible.len(), 3);
    }

    #[test]
    fn soft_constraints_score_the_emptier_domains() {
        let mut bench = zones();
        bench.node(node("bare"));
        for (name, place) in [("x", "a1"), ("y", "a2"), ("z", "b1")] {
            bench.pod(on(labelled(name), place));
        }
        let soft = spread("zone", "ScheduleAnyway", json!({}));
        // Weight ln(2 + 2): zone a has 2 * 1.386 = 3 (rounded), zone b 1; 100 * (3 + 1 - s) / 3. Without the label: 0.
        assert_eq!(
            bench.scores(labelled("p").merge(soft), "PodTopologySpread"),
            [
                ("a1".into(), 33),
                ("a2".into(), 33),
                ("b1".into(), 100),
                ("bare".into(), 0)
            ]
        );
        let hosts = spread("kubernetes.io/hostname", "ScheduleAnyway", json!({}));
        // Weight ln(4 + 2) = 1.79: one pod gives 2, none gives 0; 100 * (2 + 0 - s) / 2.
        assert_eq!(
            bench.scores(labelled("p").merge(hosts), "PodTopologySpread"),
            [
                ("a1".into(), 0),
                ("a2".into(), 0),
                ("b1".into(), 0),
                ("bare".into(), 100)
            ]
        );
    }

    #[test]
    fn pods_of_a_service_are_spread_by_default() {
        let mut bench = Bench::new();
        for (name, zone) in [("a1", "a"), ("b1", "b"), ("b2", "b")] {
            bench.node(node(name).merge(json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}})));
        }
        bench.pod(on(labelled("x"), "a1"));
        bench.pod(on(labelled("y"), "b1"));
        assert_eq!(bench.scores(labelled("p"), "PodTopologySpread"), []);
        let service = json!({"metadata": {"name": "s", "namespace": "default"}, "spec": {"selector": {"app": "web"}}});
        bench
            .scheduler
            .upsert_service(&serde_json::from_value(service).expect("well-formed"));
        // Hosts weigh ln 5 = 1.61 with 2 on top, zones ln 4 = 1.39 with 4 on top: a1 and b1 9 (8.996), b2 7 (7.386).
        assert_eq!(
            bench.scores(labelled("p"), "PodTopologySpread"),
            [("a1".into(), 77), ("b1".into(), 77), ("b2".into(), 100)]
        );
        bench.scheduler.remove_service("default", "s");
        assert_eq!(bench.scores(labelled("p"), "PodTopologySpread"), []);
    }
}
