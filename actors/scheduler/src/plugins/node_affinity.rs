//! NodeAffinity (PreFilter, Filter, Score): `spec.nodeSelector` and node affinity. Terms that name nodes by
//! `metadata.name` restrict the search to these (DaemonSets). `addedAffinity` of the profile holds for every pod. No difference
//! from kube-scheduler is intended.

use crate::cluster::{ClassId, Cluster, NodeId};
use crate::diagnosis::Reason;
use crate::framework::{
    ClusterEvent, Compiled, Context, EventKinds, Plugin, Reach, Reads, Reasons, Rule, Site, Verdict, default_normalize,
};
use crate::intern::Sym;
use crate::node::Node;
use crate::pod::{PodSignature, read_node_affinity};
use crate::selector::{NodeRequirements, NodeSelectorTerm};
use k8s_openapi::api::core::v1 as core;

/// The plugin.
#[derive(Default)]
pub struct NodeAffinity {
    /// Node affinity that every pod of the profile has on top of its own (`addedAffinity`).
    pub added: Option<core::NodeAffinity>,
}

struct Affinity {
    /// What the profile requires.
    added: NodeRequirements,
    /// What the pod and the profile prefer.
    preferences: Vec<(i32, NodeSelectorTerm)>,
    filters: bool,
    scores: bool,
    only_nodes: Option<Vec<Sym>>,
}

/// The names to which the required terms restrict the pod, if every term does.
fn names_required(signature: &PodSignature) -> Option<Vec<Sym>> {
    let terms = signature.node_requirements.required.as_ref()?;
    let mut names = Vec::new();
    for term in terms {
        names.extend(term.names()?);
    }
    if terms.is_empty() {
        return None;
    }
    names.sort_unstable();
    names.dedup();
    Some(names)
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn reads(&self, _cluster: &Cluster, _signature: &PodSignature) -> Reads {
        Reads::NOTHING
    }

    fn compile(&self, cluster: &mut Cluster, _class: ClassId, signature: &PodSignature) -> Compiled {
        let (added, added_preferences) = match &self.added {
            Some(added) => read_node_affinity(&mut cluster.symbols, added),
            None => (NodeRequirements::default(), Vec::new()),
        };
        let only_nodes = names_required(signature);
        if only_nodes.as_ref().is_some_and(Vec::is_empty) {
            return Compiled::Refuse("pod affinity terms conflict".to_owned());
        }
        let mut preferences = signature.node_preferences.clone();
        preferences.extend(added_preferences);
        let filters = !signature.node_requirements.is_empty() || !added.is_empty();
        let scores = !preferences.is_empty();
        if !filters && !scores {
            return Compiled::Skip;
        }
        Compiled::Rule(Box::new(Affinity {
            added,
            preferences,
            filters,
            scores,
            only_nodes,
        }))
    }

    fn hears(&self) -> EventKinds {
        EventKinds::NODES
    }

    fn may_help(&self, cluster: &Cluster, event: &ClusterEvent<'_>, signature: &PodSignature) -> bool {
        let matches = |node: &Node| {
            signature
                .node_requirements
                .matches(&cluster.symbols, node.name, &node.reading.labels)
        };
        match event {
            ClusterEvent::NodeAdded(node) => matches(node),
            ClusterEvent::NodeChanged { before, node } => before.labels != node.reading.labels && matches(node),
            _ => false,
        }
    }
}

impl Rule for Affinity {
    fn filters(&self) -> Reach {
        if self.filters { Reach::Node } else { Reach::None }
    }

    fn scores(&self) -> Reach {
        if self.scores { Reach::Site } else { Reach::None }
    }

    fn only_nodes(&self) -> Option<&[Sym]> {
        self.only_nodes.as_deref()
    }

    fn filter_node(&self, cx: &Context<'_>, node: &Node, reasons: &mut Reasons) -> Verdict {
        if !self.added.matches(&cx.cluster.symbols, node.name, &node.reading.labels) {
            reasons.say(Reason::Text("node(s) didn't match scheduler-enforced node affinity"));
            return Verdict::NeverFits;
        }
        if cx
            .signature
            .node_requirements
            .matches(&cx.cluster.symbols, node.name, &node.reading.labels)
        {
            return Verdict::Fits;
        }
        reasons.say(Reason::Text("node(s) didn't match Pod's node affinity/selector"));
        Verdict::NeverFits
    }

    fn site(&self, cx: &Context<'_>, _id: NodeId, node: &Node, site: &mut Site) {
        if !self.scores {
            return;
        }
        let weight = self
            .preferences
            .iter()
            .filter(|(_, term)| term.matches(&cx.cluster.symbols, node.name, &node.reading.labels))
            .map(|(weight, _)| i64::from(*weight))
            .sum();
        site.push(weight);
    }

    fn score_site(&self, _cx: &Context<'_>, site: &[i64], _scratch: &[f64]) -> Option<i64> {
        Some(site[0])
    }

    fn normalize(&self, raw: i64, _least: i64, greatest: i64) -> i64 {
        default_normalize(raw, greatest, false)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, node, pod};
    use serde_json::{Value, json};

    fn requiring(expressions: Value) -> Value {
        json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": expressions}}}}})
    }

    #[test]
    fn every_operator_decides_as_documented() {
        for (expression, fits) in [
            (json!({"key": "zone", "operator": "In", "values": ["a", "b"]}), true),
            (json!({"key": "zone", "operator": "In", "values": ["b"]}), false),
            (json!({"key": "zone", "operator": "NotIn", "values": ["b"]}), true),
            (json!({"key": "absent", "operator": "NotIn", "values": ["b"]}), true),
            (json!({"key": "zone", "operator": "NotIn", "values": ["a"]}), false),
            (json!({"key": "zone", "operator": "Exists"}), true),
            (json!({"key": "absent", "operator": "Exists"}), false),
            (json!({"key": "absent", "operator": "DoesNotExist"}), true),
            (json!({"key": "gen", "operator": "Gt", "values": ["3"]}), true),
            (json!({"key": "gen", "operator": "Gt", "values": ["4"]}), false),
            (json!({"key": "gen", "operator": "Lt", "values": ["5"]}), true),
            (json!({"key": "zone", "operator": "Lt", "values": ["5"]}), false),
        ] {
            let mut bench = Bench::new();
            bench.node(node("n1").merge(json!({"metadata": {"labels": {"zone": "a", "gen": "4"}}})));
            let terms = requiring(json!([{"matchExpressions": [expression]}]));
            assert_eq!(bench.fits(pod("p").merge(terms)), fits, "{expression}");
        }
    }

    #[test]
    fn terms_are_alternatives_and_an_empty_term_matches_nothing() {
        let mut bench = Bench::new();
        bench.node(node("n1").merge(json!({"metadata": {"labels": {"zone": "a"}}})));
        let zone = |value: &str| json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [value]}]});
        assert!(bench.fits(pod("p").merge(requiring(json!([zone("b"), zone("a")])))));
        assert!(!bench.fits(pod("p").merge(requiring(json!([{}])))));
        assert!(!bench.fits(pod("p").merge(requiring(json!([])))));
    }

    #[test]
    fn a_node_selector_refuses_in_kubernetes_words() {
        let mut bench = Bench::new();
        bench.node(node("n1"));
        bench.node(node("n2"));
        let message = bench.why_not(pod("p").merge(json!({"spec": {"nodeSelector": {"disk": "ssd"}}})));
        assert_eq!(
            message,
            "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. preemption: 0/2 nodes are \
             available: 2 Preemption is not helpful for scheduling."
        );
    }

    #[test]
    fn a_term_with_a_name_looks_at_that_node_only() {
        let mut bench = Bench::new();
        for name in ["n1", "n2", "n3"] {
            bench.node(node(name));
        }
        let named = requiring(json!([{"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": ["n2"]}]}]));
        assert_eq!(bench.place(pod("p").merge(named)), "n2");
        let conflict = requiring(json!([{"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": ["n1"]},
            {"key": "metadata.name", "operator": "In", "values": ["n2"]}]}]));
        let message = bench.why_not(pod("q").merge(conflict));
        assert!(
            message.starts_with("0/3 nodes are available: pod affinity terms conflict."),
            "{message}"
        );
    }

    #[test]
    fn preferences_add_their_weights() {
        let mut bench = Bench::new();
        bench.node(node("n1").merge(json!({"metadata": {"labels": {"a": "1"}}})));
        bench.node(node("n2").merge(json!({"metadata": {"labels": {"b": "1"}}})));
        bench.node(node("n3").merge(json!({"metadata": {"labels": {"a": "1", "b": "1"}}})));
        let prefers = |a: i32, b: i32| {
            let term = |key: &str, weight: i32| json!({"weight": weight, "preference": {"matchExpressions": [{"key": key, "operator": "Exists"}]}});
            json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
                [term("a", a), term("b", b)]}}}})
        };
        assert_eq!(bench.place(pod("p").merge(prefers(10, 1))), "n3");
        assert_eq!(
            bench.scores(pod("q").merge(prefers(30, 10)), "NodeAffinity"),
            [("n1".into(), 75), ("n2".into(), 25), ("n3".into(), 100)]
        );
    }
}
