//! TaintToleration (Filter, Score): no pods on nodes with a NoSchedule or NoExecute taint that they do not tolerate; fewer
//! untolerated PreferNoSchedule taints are better. Differs from kube-scheduler 1.35 and later in its words only: these
//! name the taint ("node(s) had untolerated taint {key: value}"), as releases before it did, because that tells more.

use crate::cluster::{ClassId, Cluster, NodeId};
use crate::diagnosis::Reason;
use crate::framework::{
    ClusterEvent, Compiled, Context, EventKinds, Plugin, Reach, Reads, Reasons, Rule, Site, Verdict, default_normalize,
};
use crate::node::{Node, NodeReading};
use crate::pod::PodSignature;
use crate::selector::{TaintEffect, keeps_away, untolerated};

/// The plugin.
pub struct TaintToleration;

struct Tolerance;

fn admits(cluster: &Cluster, reading: &NodeReading, signature: &PodSignature) -> bool {
    untolerated(&cluster.symbols, &reading.taints, &signature.tolerations, keeps_away).is_none()
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn reads(&self, _cluster: &Cluster, _signature: &PodSignature) -> Reads {
        Reads::NOTHING
    }

    fn compile(&self, _cluster: &mut Cluster, _class: ClassId, _signature: &PodSignature) -> Compiled {
        Compiled::Rule(Box::new(Tolerance))
    }

    fn hears(&self) -> EventKinds {
        EventKinds::NODES
    }

    fn may_help(&self, cluster: &Cluster, event: &ClusterEvent<'_>, signature: &PodSignature) -> bool {
        match event {
            ClusterEvent::NodeAdded(node) => admits(cluster, &node.reading, signature),
            ClusterEvent::NodeChanged { before, node } => {
                before.taints != node.reading.taints && admits(cluster, &node.reading, signature)
            }
            _ => false,
        }
    }
}

impl Rule for Tolerance {
    fn filters(&self) -> Reach {
        Reach::Node
    }

    fn scores(&self) -> Reach {
        Reach::Site
    }

    fn filter_node(&self, cx: &Context<'_>, node: &Node, reasons: &mut Reasons) -> Verdict {
        let (symbols, tolerations) = (&cx.cluster.symbols, &cx.signature.tolerations);
        match untolerated(symbols, &node.reading.taints, tolerations, keeps_away) {
            None => Verdict::Fits,
            Some(taint) => {
                reasons.say(Reason::UntoleratedTaint {
                    key: taint.key,
                    value: taint.value,
                });
                Verdict::NeverFits
            }
        }
    }

    fn site(&self, cx: &Context<'_>, _id: NodeId, node: &Node, site: &mut Site) {
        let disliked = node
            .reading
            .taints
            .iter()
            .filter(|taint| taint.effect == TaintEffect::PreferNoSchedule)
            .filter(|taint| {
                !cx.signature
                    .tolerations
                    .iter()
                    .any(|t| t.tolerates(&cx.cluster.symbols, taint))
            })
            .count();
        site.push(disliked as i64);
    }

    fn score_site(&self, _cx: &Context<'_>, site: &[i64], _scratch: &[f64]) -> Option<i64> {
        Some(site[0])
    }

    fn normalize(&self, raw: i64, _least: i64, greatest: i64) -> i64 {
        default_normalize(raw, greatest, true)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, node, pod};
    use serde_json::json;

    fn tainted(name: &str, effect: &str) -> crate::testing::Object {
        node(name).merge(json!({"spec": {"taints": [{"key": "team", "value": "db", "effect": effect}]}}))
    }

    #[test]
    fn tolerations_match_by_key_operator_value_and_effect() {
        for (toleration, admitted) in [
            (
                json!({"key": "team", "operator": "Equal", "value": "db", "effect": "NoSchedule"}),
                true,
            ),
            (json!({"key": "team", "value": "db"}), true),
            (json!({"key": "team", "operator": "Exists"}), true),
            (json!({"operator": "Exists"}), true),
            (json!({"key": "team", "value": "web"}), false),
            (json!({"key": "other", "operator": "Exists"}), false),
            (
                json!({"key": "team", "operator": "Exists", "effect": "NoExecute"}),
                false,
            ),
            (json!({"key": "team", "operator": "Unheard", "value": "db"}), false),
        ] {
            let mut bench = Bench::new();
            bench.node(tainted("n1", "NoSchedule"));
            let tolerant = pod("a").merge(json!({"spec": {"tolerations": [toleration]}}));
            assert_eq!(bench.fits(tolerant), admitted, "{toleration}");
        }
    }

    #[test]
    fn the_untolerated_taint_is_named() {
        for effect in ["NoSchedule", "NoExecute"] {
            let mut bench = Bench::new();
            bench.node(tainted("n1", effect));
            assert!(
                bench
                    .why_not(pod("a"))
                    .contains("1 node(s) had untolerated taint {team: db}."),
                "{effect}: {}",
                bench.why_not(pod("a"))
            );
        }
    }

    #[test]
    fn nodes_with_fewer_disliked_taints_are_preferred() {
        let mut bench = Bench::new();
        bench.node(tainted("n1", "PreferNoSchedule"));
        bench.node(node("n2"));
        for name in ["a", "b", "c"] {
            assert_eq!(bench.place(pod(name)), "n2");
        }
    }
}
