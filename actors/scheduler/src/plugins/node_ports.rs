//! NodePorts (Filter): the pod's host ports must be free on the node. Ports that nominated pods of equal or higher priority
//! will take count as taken. No difference from kube-scheduler is intended.

use crate::cluster::{ClassId, Cluster};
use crate::diagnosis::Reason;
use crate::framework::{ClusterEvent, Compiled, Context, EventKinds, Plugin, Reach, Reads, Reasons, Rule, Verdict};
use crate::node::Node;
use crate::pod::{HostPort, PodSignature};

/// The plugin.
pub struct NodePorts;

struct FreePorts;

fn conflict(wanted: &[HostPort], used: &[HostPort]) -> bool {
    wanted.iter().any(|want| used.iter().any(|use_| want.conflicts(use_)))
}

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn reads(&self, _cluster: &Cluster, _signature: &PodSignature) -> Reads {
        Reads::NOTHING
    }

    fn compile(&self, _cluster: &mut Cluster, _class: ClassId, signature: &PodSignature) -> Compiled {
        if signature.host_ports.is_empty() {
            Compiled::Skip
        } else {
            Compiled::Rule(Box::new(FreePorts))
        }
    }

    fn hears(&self) -> EventKinds {
        EventKinds::NODES.and(EventKinds::POD_LIFTED)
    }

    fn may_help(&self, _cluster: &Cluster, event: &ClusterEvent<'_>, signature: &PodSignature) -> bool {
        match event {
            ClusterEvent::NodeAdded(_) => true,
            ClusterEvent::PodLifted(pod) => conflict(&signature.host_ports, &pod.host_ports),
            _ => false,
        }
    }
}

impl Rule for FreePorts {
    fn filters(&self) -> Reach {
        Reach::Node
    }

    fn filter_node(&self, cx: &Context<'_>, node: &Node, reasons: &mut Reasons) -> Verdict {
        let wanted = &cx.signature.host_ports;
        let promised = cx
            .nominated_before(node)
            .any(|other| conflict(wanted, &other.host_ports));
        if !promised && !conflict(wanted, &node.host_ports) {
            return Verdict::Fits;
        }
        reasons.say(Reason::Text(
            "node(s) didn't have free ports for the requested pod ports",
        ));
        Verdict::Refused
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, node, pod};
    use serde_json::{Value, json};

    fn port(number: i32, protocol: &str, ip: &str) -> Value {
        json!({"spec": {"containers": [{"name": "c", "ports": [
            {"containerPort": 80, "hostPort": number, "protocol": protocol, "hostIP": ip}]}]}})
    }

    #[test]
    fn ports_conflict_by_number_protocol_and_address() {
        for (second, fits) in [
            (port(80, "TCP", ""), false),
            (port(81, "TCP", ""), true),
            (port(80, "UDP", ""), true),
            (port(80, "TCP", "127.0.0.1"), false),
        ] {
            let mut bench = Bench::new();
            bench.node(node("n1"));
            assert_eq!(bench.place(pod("a").merge(port(80, "TCP", ""))), "n1");
            assert_eq!(bench.fits(pod("b").merge(second.clone())), fits, "{second}");
        }
        let mut bench = Bench::new();
        bench.node(node("n1"));
        bench.place(pod("a").merge(port(80, "TCP", "127.0.0.1")));
        assert!(bench.fits(pod("b").merge(port(80, "TCP", "10.0.0.1"))));
        assert!(
            bench
                .why_not(pod("c").merge(port(80, "TCP", "0.0.0.0")))
                .contains("1 node(s) didn't have free ports for the requested pod ports")
        );
    }

    #[test]
    fn a_port_is_free_again_when_its_pod_is_gone() {
        let mut bench = Bench::new();
        bench.node(node("n1"));
        bench.place(pod("a").merge(port(80, "TCP", "")));
        assert!(!bench.fits(pod("b").merge(port(80, "TCP", ""))));
        bench.remove_pod("a");
        assert!(bench.fits(pod("b").merge(port(80, "TCP", ""))));
    }
}
