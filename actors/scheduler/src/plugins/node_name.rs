//! NodeName (Filter): a pod that names its node fits no other. In the API a pod with `spec.nodeName` is bound already, so
//! this matters for what-if questions only, as in kube-scheduler.

use crate::cluster::{ClassId, Cluster};
use crate::diagnosis::Reason;
use crate::framework::{ClusterEvent, Compiled, Context, EventKinds, Plugin, Reach, Reads, Reasons, Rule, Verdict};
use crate::intern::Sym;
use crate::node::Node;
use crate::pod::PodSignature;

/// The plugin.
pub struct NodeName;

struct Named(Sym);

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn reads(&self, _cluster: &Cluster, _signature: &PodSignature) -> Reads {
        Reads::NOTHING
    }

    fn compile(&self, _cluster: &mut Cluster, _class: ClassId, signature: &PodSignature) -> Compiled {
        match signature.required_node {
            Some(name) => Compiled::Rule(Box::new(Named(name))),
            None => Compiled::Skip,
        }
    }

    fn hears(&self) -> EventKinds {
        EventKinds::NODES
    }

    fn may_help(&self, _cluster: &Cluster, event: &ClusterEvent<'_>, signature: &PodSignature) -> bool {
        matches!(event, ClusterEvent::NodeAdded(node) if Some(node.name) == signature.required_node)
    }
}

impl Rule for Named {
    fn filters(&self) -> Reach {
        Reach::Node
    }

    fn filter_node(&self, _cx: &Context<'_>, node: &Node, reasons: &mut Reasons) -> Verdict {
        if node.name == self.0 {
            return Verdict::Fits;
        }
        reasons.say(Reason::Text("node(s) didn't match the requested node name"));
        Verdict::NeverFits
    }
}
