//! NodeUnschedulable (Filter): no pods on a cordoned node, unless they tolerate the taint
//! `node.kubernetes.io/unschedulable:NoSchedule`. No difference from kube-scheduler is intended.

use crate::cluster::{ClassId, Cluster};
use crate::diagnosis::Reason;
use crate::framework::{ClusterEvent, Compiled, Context, EventKinds, Plugin, Reach, Reads, Reasons, Rule, Verdict};
use crate::node::Node;
use crate::pod::PodSignature;
use crate::selector::{Taint, TaintEffect};

/// The plugin.
pub struct NodeUnschedulable;

struct NotCordoned;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn reads(&self, _cluster: &Cluster, _signature: &PodSignature) -> Reads {
        Reads::NOTHING
    }

    fn compile(&self, cluster: &mut Cluster, _class: ClassId, signature: &PodSignature) -> Compiled {
        let taint = Taint {
            key: cluster.symbols.intern("node.kubernetes.io/unschedulable"),
            value: cluster.symbols.intern(""),
            effect: TaintEffect::NoSchedule,
        };
        if signature
            .tolerations
            .iter()
            .any(|toleration| toleration.tolerates(&cluster.symbols, &taint))
        {
            return Compiled::Skip;
        }
        Compiled::Rule(Box::new(NotCordoned))
    }

    fn hears(&self) -> EventKinds {
        EventKinds::NODES
    }

    fn may_help(&self, _cluster: &Cluster, event: &ClusterEvent<'_>, _signature: &PodSignature) -> bool {
        match event {
            ClusterEvent::NodeAdded(node) => !node.reading.unschedulable,
            ClusterEvent::NodeChanged { before, node } => before.unschedulable && !node.reading.unschedulable,
            _ => false,
        }
    }
}

impl Rule for NotCordoned {
    fn filters(&self) -> Reach {
        Reach::Node
    }

    fn filter_node(&self, _cx: &Context<'_>, node: &Node, reasons: &mut Reasons) -> Verdict {
        if !node.reading.unschedulable {
            return Verdict::Fits;
        }
        reasons.say(Reason::Text("node(s) were unschedulable"));
        Verdict::NeverFits
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, node, pod};
    use serde_json::json;

    #[test]
    fn a_cordoned_node_takes_only_pods_that_tolerate_it() {
        let mut bench = Bench::new();
        bench.node(node("n1").merge(json!({"spec": {"unschedulable": true}})));
        assert_eq!(
            bench.why_not(pod("a")),
            "0/1 nodes are available: 1 node(s) were unschedulable. preemption: 0/1 nodes are available: 1 Preemption \
             is not helpful for scheduling."
        );
        let tolerant = json!({"spec": {"tolerations": [
            {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}]}});
        assert_eq!(bench.place(pod("b").merge(tolerant)), "n1");
    }
}
