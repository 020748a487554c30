//! InterPodAffinity (PreFilter, Filter, Score): pod affinity and anti-affinity, required and preferred, in both
//! directions: the terms of the pod about pods that run, and the terms of pods that run about the pod.
//!
//! Reads counts by topology domain that the cluster state keeps, instead of all pods. Differs from kube-scheduler in one
//! thing: pods that are nominated but not bound do not count (kube-scheduler tries both with and without them).

use crate::cluster::{ClassId, Cluster, NodeId};
use crate::diagnosis::Reason;
use crate::framework::{
    ClusterEvent, Compiled, Context, EventKinds, MAX_NODE_SCORE, Plugin, Reach, Reads, Reasons, Rule, Site, Verdict,
};
use crate::node::Node;
use crate::pod::{PodMatcher, PodSignature, PodTerm};
use crate::topology::{CounterId, CounterSpec, Eligible, NO_DOMAIN, TermId, TermKind, TopologyId, matcher_matches};

/// The plugin.
pub struct InterPodAffinity {
    /// The weight that a required affinity term of a running pod has in scoring nodes for the pods it wants near.
    pub hard_pod_affinity_weight: i64,
    /// Whether the preferred (and required) terms of running pods are left out of the score of pods that prefer nothing
    /// themselves.
    pub ignore_preferred_terms_of_existing_pods: bool,
}

impl Default for InterPodAffinity {
    fn default() -> Self {
        Self {
            hard_pod_affinity_weight: 1,
            ignore_preferred_terms_of_existing_pods: false,
        }
    }
}

/// A term of the pod, with the count that it reads.
struct Counted {
    key: TopologyId,
    counter: CounterId,
    weight: i64,
}

struct Affinity {
    affinity: Vec<Counted>,
    anti_affinity: Vec<Counted>,
    preferred: Vec<Counted>,
    /// The terms of other pods about these: whether they forbid, or their weight.
    about: Vec<(TermId, TopologyId, Option<i64>)>,
    matches_itself: bool,
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn reads(&self, cluster: &Cluster, signature: &PodSignature) -> Reads {
        Reads::Facts(vec![matches_itself(cluster, signature)])
    }

    fn compile(&self, cluster: &mut Cluster, class: ClassId, signature: &PodSignature) -> Compiled {
        let required = &signature.affinity_required;
        // A running pod satisfies required affinity only if all terms speak of it.
        let all: Vec<PodMatcher> = required.iter().map(|term| term.matcher.clone()).collect();
        let matches_itself = matches_itself(cluster, signature);
        let affinity: Vec<Counted> = required
            .iter()
            .map(|term| counted(cluster, term, all.clone(), 0))
            .collect();
        let one = |term: &PodTerm| vec![term.matcher.clone()];
        let anti_affinity: Vec<Counted> = signature
            .anti_affinity_required
            .iter()
            .map(|term| counted(cluster, term, one(term), 0))
            .collect();
        let mut preferred = Vec::new();
        for (weight, term) in &signature.affinity_preferred {
            preferred.push(counted(cluster, term, one(term), i64::from(*weight)));
        }
        for (weight, term) in &signature.anti_affinity_preferred {
            preferred.push(counted(cluster, term, one(term), -i64::from(*weight)));
        }
        let mut about = self.terms_about(cluster, class);
        if self.ignore_preferred_terms_of_existing_pods && preferred.is_empty() {
            about.retain(|(_, _, weight)| weight.is_none());
        }
        if about.is_empty() && affinity.is_empty() && anti_affinity.is_empty() && preferred.is_empty() {
            return Compiled::Skip;
        }
        Compiled::Rule(Box::new(Affinity {
            affinity,
            anti_affinity,
            preferred,
            about,
            matches_itself,
        }))
    }

    fn hears(&self) -> EventKinds {
        let pods = EventKinds::POD_PLACED
            .and(EventKinds::POD_LIFTED)
            .and(EventKinds::POD_CHANGED);
        EventKinds::NODES
            .and(EventKinds::NODE_REMOVED)
            .and(pods)
            .and(EventKinds::NAMESPACES)
    }

    fn may_help(&self, cluster: &Cluster, event: &ClusterEvent<'_>, signature: &PodSignature) -> bool {
        let speaks = |terms: &[PodTerm], of: &PodSignature| {
            terms
                .iter()
                .any(|term| matcher_matches(&cluster.symbols, cluster.namespaces(), &term.matcher, of))
        };
        let wanted = |pod: &PodSignature| speaks(&signature.affinity_required, pod);
        let unwanted = |pod: &PodSignature| {
            speaks(&signature.anti_affinity_required, pod) || speaks(&pod.anti_affinity_required, signature)
        };
        match event {
            // The pods of a node that is gone no longer keep others away.
            ClusterEvent::NodeAdded(_) | ClusterEvent::NodeRemoved | ClusterEvent::NamespaceChanged => true,
            ClusterEvent::NodeChanged { before, node } => before.labels != node.reading.labels,
            ClusterEvent::PodPlaced(pod) => wanted(pod),
            // When the last pod that was wanted near goes, the first of a group may go anywhere.
            ClusterEvent::PodLifted(pod) => unwanted(pod) || wanted(pod),
            ClusterEvent::PodChanged { before, after } => wanted(after) || wanted(before) || unwanted(before),
            _ => false,
        }
    }
}

impl InterPodAffinity {
    fn terms_about(&self, cluster: &Cluster, class: ClassId) -> Vec<(TermId, TopologyId, Option<i64>)> {
        let about = cluster.class(class).subject_to().iter().map(|id| {
            let spec = &cluster.topology().term(*id).spec;
            let weight = match spec.kind {
                TermKind::RequiredAntiAffinity => None,
                TermKind::RequiredAffinity => Some(self.hard_pod_affinity_weight),
                TermKind::Preferred(weight) => Some(i64::from(weight)),
            };
            (*id, spec.key, weight)
        });
        about.filter(|(_, _, weight)| *weight != Some(0)).collect()
    }
}

/// Whether all required affinity terms of a pod speak of the pod itself.
fn matches_itself(cluster: &Cluster, signature: &PodSignature) -> bool {
    let mut terms = signature.affinity_required.iter();
    terms.all(|term| matcher_matches(&cluster.symbols, cluster.namespaces(), &term.matcher, signature))
}

fn counted(cluster: &mut Cluster, term: &PodTerm, matchers: Vec<PodMatcher>, weight: i64) -> Counted {
    let key = cluster.use_topology_key(term.topology_key);
    let spec = CounterSpec {
        matchers,
        key,
        eligible: Eligible::default(),
        skips_terminating: false,
    };
    Counted {
        key,
        counter: cluster.hold_counter(spec),
        weight,
    }
}

// The site: two numbers about domains that hold one node only (host names), which are that node's own, and then the domain
// of each term whose domains hold several nodes.
const FLAGS: usize = 0;
const OWN_SCORE: usize = 1;
const DOMAINS: usize = 2;

/// A topology label of a required affinity term is missing.
const LABEL_MISSING: i64 = 1;
/// No pod that all required affinity terms speak of is here.
const AFFINITY_UNMET: i64 = 2;
/// A pod that an anti-affinity term of the pod speaks of is here.
const ANTI_AFFINITY_VIOLATED: i64 = 4;
/// A pod here has an anti-affinity term that speaks of the pod.
const EXISTING_ANTI_AFFINITY: i64 = 8;

impl Affinity {
    /// Flags and score of a site, with the counts of its shared domains taken in.
    fn read(&self, cx: &Context<'_>, site: &[i64]) -> (i64, i64) {
        let topology = cx.cluster.topology();
        let (mut flags, mut score) = (site[FLAGS], site[OWN_SCORE]);
        let mut domains = site[DOMAINS..]
            .iter()
            .map(|domain| u32::try_from(*domain).unwrap_or(NO_DOMAIN));
        let mut shared = |key: TopologyId| match topology.key(key).is_per_node() {
            true => None,
            false => domains.next(),
        };
        for term in &self.affinity {
            match shared(term.key) {
                Some(NO_DOMAIN) => flags |= LABEL_MISSING,
                Some(domain) if topology.counter(term.counter).count(domain) == 0 => flags |= AFFINITY_UNMET,
                _ => {}
            }
        }
        for term in &self.anti_affinity {
            if shared(term.key).is_some_and(|domain| topology.counter(term.counter).count(domain) > 0) {
                flags |= ANTI_AFFINITY_VIOLATED;
            }
        }
        for term in &self.preferred {
            if let Some(domain) = shared(term.key) {
                score += term.weight * i64::from(topology.counter(term.counter).count(domain));
            }
        }
        for (id, key, weight) in &self.about {
            let Some(domain) = shared(*key) else { continue };
            let term = topology.term(*id);
            match weight {
                None if term.count(domain) > 0 => flags |= EXISTING_ANTI_AFFINITY,
                None => {}
                Some(weight) => score += weight * i64::from(term.count(domain)),
            }
        }
        (flags, score)
    }
}

impl Rule for Affinity {
    fn filters(&self) -> Reach {
        Reach::Site
    }

    fn scores(&self) -> Reach {
        Reach::Site
    }

    fn site(&self, cx: &Context<'_>, id: NodeId, _node: &Node, site: &mut Site) {
        let topology = cx.cluster.topology();
        let slot = id.0 as usize;
        let from = site.len();
        let (mut flags, mut score) = (0, 0);
        site.extend([0, 0]);
        // The domain, if it is this node's own; a shared one is left to `read`.
        let mut own = |key: TopologyId| {
            let key = topology.key(key);
            let domain = key.domain(slot);
            if key.is_per_node() {
                return Some(domain);
            }
            site.push(i64::from(domain));
            None
        };
        for term in &self.affinity {
            match own(term.key) {
                Some(NO_DOMAIN) => flags |= LABEL_MISSING,
                Some(domain) if topology.counter(term.counter).count(domain) == 0 => flags |= AFFINITY_UNMET,
                _ => {}
            }
        }
        for term in &self.anti_affinity {
            if own(term.key).is_some_and(|domain| topology.counter(term.counter).count(domain) > 0) {
                flags |= ANTI_AFFINITY_VIOLATED;
            }
        }
        for term in &self.preferred {
            if let Some(domain) = own(term.key) {
                score += term.weight * i64::from(topology.counter(term.counter).count(domain));
            }
        }
        for (id, key, weight) in &self.about {
            let Some(domain) = own(*key) else { continue };
            let term = topology.term(*id);
            match weight {
                None if term.count(domain) > 0 => flags |= EXISTING_ANTI_AFFINITY,
                None => {}
                Some(weight) => score += weight * i64::from(term.count(domain)),
            }
        }
        site[from + FLAGS] = flags;
        site[from + OWN_SCORE] = score;
    }

    fn filter_site(&self, cx: &Context<'_>, site: &[i64], reasons: &mut Reasons) -> Verdict {
        let (flags, _) = self.read(cx, site);
        let topology = cx.cluster.topology();
        // The first of a group that wants to be together may go anywhere where the labels are.
        let is_first = || self.matches_itself && self.affinity.iter().all(|t| topology.counter(t.counter).total() == 0);
        if flags & LABEL_MISSING != 0 || (flags & AFFINITY_UNMET != 0 && !is_first()) {
            reasons.say(Reason::Text("node(s) didn't match pod affinity rules"));
            return Verdict::NeverFits;
        }
        if flags & ANTI_AFFINITY_VIOLATED != 0 {
            reasons.say(Reason::Text("node(s) didn't match pod anti-affinity rules"));
            return Verdict::Refused;
        }
        if flags & EXISTING_ANTI_AFFINITY != 0 {
            reasons.say(Reason::Text("node(s) didn't satisfy existing pods anti-affinity rules"));
            return Verdict::Refused;
        }
        Verdict::Fits
    }

    fn score_site(&self, cx: &Context<'_>, site: &[i64], _scratch: &[f64]) -> Option<i64> {
        Some(self.read(cx, site).1)
    }

    fn normalize(&self, raw: i64, least: i64, greatest: i64) -> i64 {
        if greatest == least {
            return 0;
        }
        (MAX_NODE_SCORE as f64 * ((raw - least) as f64 / (greatest - least) as f64)) as i64
    }

    fn release(&self, cluster: &mut Cluster) {
        for term in self.affinity.iter().chain(&self.anti_affinity).chain(&self.preferred) {
            cluster.release_counter(term.counter);
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

    fn labelled(name: &str, app: &str) -> Object {
        pod(name).merge(json!({"metadata": {"labels": {"app": app}}}))
    }

    fn term(app: &str, key: &str) -> Value {
        json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}})
    }

    fn required(kind: &str, term: Value) -> Value {
        json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}})
    }

    fn preferred(kind: &str, weight: i32, term: Value) -> Value {
        json!({"spec": {"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": weight, "podAffinityTerm": term}]}}}})
    }

    fn zones() -> Bench {
        let mut bench = Bench::new();
        for (name, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b")] {
            bench.node(in_zone(name, zone));
        }
        bench
    }

    fn on(object: Object, node: &str) -> Object {
        object.merge(json!({"spec": {"nodeName": node}}))
    }

    #[test]
    fn required_affinity_goes_to_the_domain_of_a_matching_pod() {
        let mut bench = zones();
        bench.pod(on(labelled("db", "db"), "b1"));
        let near = |name: &str, key: &str| labelled(name, "web").merge(required("podAffinity", term("db", key)));
        for name in ["w1", "w2", "w3", "w4"] {
            assert!(bench.place(near(name, "zone")).starts_with('b'));
        }
        assert_eq!(bench.place(near("w5", "kubernetes.io/hostname")), "b1");
        assert!(
            bench
                .why_not(near("w6", "rack"))
                .contains("4 node(s) didn't match pod affinity rules")
        );
    }

    #[test]
    fn the_first_of_a_group_may_go_anywhere_and_the_others_follow() {
        let mut bench = zones();
        let together = |name: &str| labelled(name, "web").merge(required("podAffinity", term("web", "zone")));
        let first = bench.place(together("w1"));
        for name in ["w2", "w3", "w4"] {
            assert_eq!(bench.place(together(name)).chars().next(), first.chars().next());
        }
        let lonely = labelled("x", "other").merge(required("podAffinity", term("nobody", "zone")));
        assert!(!bench.fits(lonely));
    }

    #[test]
    fn required_anti_affinity_works_in_both_directions() {
        let mut bench = zones();
        let apart = |name: &str, key: &str| labelled(name, "web").merge(required("podAntiAffinity", term("web", key)));
        let first = bench.place(apart("w1", "zone"));
        let second = bench.place(apart("w2", "zone"));
        assert_ne!(first.chars().next(), second.chars().next());
        assert!(
            bench
                .why_not(apart("w3", "zone"))
                .contains("4 node(s) didn't match pod anti-affinity rules")
        );
        // A pod without terms is kept away by the terms of those that run.
        let message = bench.why_not(labelled("plain", "web"));
        assert!(
            message.contains("4 node(s) didn't satisfy existing pods anti-affinity rules"),
            "{message}"
        );
        assert!(bench.fits(labelled("other", "db")));
        bench.remove_pod("w1");
        assert_eq!(
            bench.place(labelled("plain", "web")).chars().next(),
            first.chars().next()
        );
    }

    #[test]
    fn anti_affinity_by_host_name_gives_one_pod_a_node() {
        let mut bench = zones();
        let apart = |name: &str| {
            labelled(name, "web").merge(required("podAntiAffinity", term("web", "kubernetes.io/hostname")))
        };
        let mut nodes: Vec<String> = ["w1", "w2", "w3", "w4"]
            .into_iter()
            .map(|name| bench.place(apart(name)))
            .collect();
        nodes.sort();
        assert_eq!(nodes, ["a1", "a2", "b1", "b2"]);
        assert!(!bench.fits(apart("w5")));
    }

    #[test]
    fn preferred_terms_of_both_sides_score() {
        let mut bench = zones();
        bench.pod(on(labelled("db", "db"), "a1"));
        let wants = |weight| labelled("p", "web").merge(preferred("podAffinity", weight, term("db", "zone")));
        let score = |bench: &mut Bench, pod: Object| bench.scores(pod, "InterPodAffinity");
        let names = ["a1", "a2", "b1", "b2"];
        let expect = |scores: [i64; 4]| -> Vec<(String, i64)> {
            names.iter().map(|name| (*name).to_owned()).zip(scores).collect()
        };
        assert_eq!(score(&mut bench, wants(10)), expect([100, 100, 0, 0]));
        let avoids = labelled("p", "web").merge(preferred("podAntiAffinity", 10, term("db", "kubernetes.io/hostname")));
        assert_eq!(score(&mut bench, avoids), expect([0, 100, 100, 100]));
        // A running pod that prefers to be near, and one that requires it.
        bench.pod(on(
            labelled("fan", "fan").merge(preferred("podAffinity", 4, term("web", "kubernetes.io/hostname"))),
            "b1",
        ));
        bench.pod(on(labelled("web", "web"), "b2"));
        bench.pod(on(
            labelled("tie", "tie").merge(required("podAffinity", term("web", "kubernetes.io/hostname"))),
            "b2",
        ));
        assert_eq!(score(&mut bench, labelled("p", "web")), expect([0, 0, 100, 25]));
    }

    #[test]
    fn namespaces_are_chosen_by_name_and_by_label() {
        let mut bench = zones();
        let namespace = |name: &str, team: &str| {
            serde_json::from_value(json!({"metadata": {"name": name, "labels": {"team": team}}})).expect("well-formed")
        };
        bench.scheduler.upsert_namespace(&namespace("red", "r"));
        bench.scheduler.upsert_namespace(&namespace("default", "d"));
        bench.pod(on(
            labelled("db", "db").merge(json!({"metadata": {"namespace": "red"}})),
            "b1",
        ));
        let near = |over: Value| {
            let mut term = term("db", "kubernetes.io/hostname");
            over.as_object()
                .expect("an object")
                .iter()
                .for_each(|(k, v)| term[k] = v.clone());
            labelled("p", "web").merge(required("podAffinity", term))
        };
        for (over, fits) in [
            (json!({}), false),
            (json!({"namespaces": ["red"]}), true),
            (json!({"namespaces": ["blue"]}), false),
            (json!({"namespaceSelector": {"matchLabels": {"team": "r"}}}), true),
            (json!({"namespaceSelector": {"matchLabels": {"team": "d"}}}), false),
            (json!({"namespaceSelector": {}}), true),
        ] {
            assert_eq!(bench.fits(near(over.clone())), fits, "{over}");
        }
        // Labels change later.
        let wants = near(json!({"namespaceSelector": {"matchLabels": {"team": "new"}}}));
        assert!(!bench.fits(wants.clone()));
        bench.scheduler.upsert_namespace(&namespace("red", "new"));
        assert!(bench.fits(wants));
    }

    #[test]
    fn match_label_keys_narrow_and_mismatch_label_keys_widen() {
        let mut bench = zones();
        let versioned = |name: &str, version: &str| {
            labelled(name, "web").merge(json!({"metadata": {"labels": {"version": version}}}))
        };
        let apart = |key: &str| {
            let mut term = term("web", "zone");
            term[key] = json!(["version"]);
            required("podAntiAffinity", term)
        };
        bench.pod(on(versioned("old", "1"), "a1"));
        assert!(
            bench
                .place(versioned("p", "2").merge(apart("mismatchLabelKeys")))
                .starts_with('b')
        );
        bench.remove_pod("p");
        let evaluation = bench
            .scheduler
            .evaluate(&versioned("q", "2").merge(apart("matchLabelKeys")).pod());
        assert_eq!(evaluation.expect("scheduled here").feasible.len(), 4);
    }
}
