//! NodeVolumeLimits (Filter): a node attaches no more volumes of a CSI driver than its CSINode says. Volumes that are yet to
//! be provisioned count by their claim. Differs from kube-scheduler in knowing CSI volumes only, not in-tree volumes that
//! are migrated to a driver.

use crate::cluster::{ClassId, Cluster};
use crate::diagnosis::Reason;
use crate::framework::{ClusterEvent, Compiled, Context, EventKinds, Plugin, Reach, Reads, Reasons, Rule, Verdict};
use crate::intern::Sym;
use crate::node::Node;
use crate::pod::PodSignature;
use crate::volumes::VolumeUse;
use std::collections::BTreeSet;

/// The plugin.
pub struct NodeVolumeLimits;

struct Limited {
    wanted: BTreeSet<(Sym, Sym)>,
}

/// The driver and the handle behind a claim.
fn attachment(cluster: &Cluster, used: &VolumeUse) -> Option<(Sym, Sym)> {
    let VolumeUse::Claim(name) = used else { return None };
    let claim = cluster.volumes().claim(*name)?;
    match claim.volume {
        Some(volume) => cluster.volumes().volume(volume)?.csi,
        None => Some((cluster.volumes().class(claim.class)?.provisioner?, *name)),
    }
}

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn reads(&self, _cluster: &Cluster, _signature: &PodSignature) -> Reads {
        Reads::NOTHING
    }

    fn compile(&self, cluster: &mut Cluster, _class: ClassId, signature: &PodSignature) -> Compiled {
        let wanted: BTreeSet<_> = signature
            .volumes
            .iter()
            .filter_map(|used| attachment(cluster, used))
            .collect();
        if wanted.is_empty() {
            Compiled::Skip
        } else {
            Compiled::Rule(Box::new(Limited { wanted }))
        }
    }

    fn hears(&self) -> EventKinds {
        EventKinds::NODES.and(EventKinds::POD_LIFTED).and(EventKinds::VOLUMES)
    }

    fn may_help(&self, _cluster: &Cluster, event: &ClusterEvent<'_>, _signature: &PodSignature) -> bool {
        match event {
            ClusterEvent::PodLifted(pod) => !pod.volumes.is_empty(),
            _ => true,
        }
    }
}

impl Rule for Limited {
    fn filters(&self) -> Reach {
        Reach::Node
    }

    fn filter_node(&self, cx: &Context<'_>, node: &Node, reasons: &mut Reasons) -> Verdict {
        let limits = cx.cluster.volumes().limits(node.name);
        if limits.is_empty() {
            return Verdict::Fits;
        }
        let mut attached = self.wanted.clone();
        for pod in &node.pods {
            attached.extend(
                cx.cluster
                    .signature(*pod)
                    .volumes
                    .iter()
                    .filter_map(|used| attachment(cx.cluster, used)),
            );
        }
        let exceeds = |(driver, limit): &(Sym, i64)| {
            self.wanted.iter().any(|(of, _)| of == driver)
                && attached.iter().filter(|(of, _)| of == driver).count() as i64 > *limit
        };
        if limits.iter().any(exceeds) {
            reasons.say(Reason::Text("node(s) exceed max volume count"));
            return Verdict::Refused;
        }
        Verdict::Fits
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, node, pod};
    use serde_json::json;

    #[test]
    fn a_node_attaches_no_more_volumes_than_its_driver_can() {
        let mut bench = Bench::new();
        bench.node(node("n1"));
        let limits = json!({"metadata": {"name": "n1"}, "spec": {"drivers": [
            {"name": "disk.example.com", "nodeID": "n1", "allocatable": {"count": 2}}]}});
        bench
            .scheduler
            .upsert_csi_node(&serde_json::from_value(limits).expect("well-formed"));
        for at in 0..4 {
            bench.volume(
                &format!("pv{at}"),
                json!({"spec": {"claimRef": {"namespace": "default", "name": format!("c{at}")},
                "csi": {"driver": "disk.example.com", "volumeHandle": format!("h{at}")}}}),
            );
            bench.claim(
                &format!("c{at}"),
                json!({"spec": {"volumeName": format!("pv{at}")}, "status": {"phase": "Bound"}}),
            );
        }
        let uses = |at: usize| json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": format!("c{at}")}}]}});
        bench.place(pod("a").merge(uses(0)));
        bench.place(pod("b").merge(uses(1)));
        assert!(
            bench
                .why_not(pod("c").merge(uses(2)))
                .contains("1 node(s) exceed max volume count")
        );
        // The same volume again takes no other attachment.
        assert!(bench.fits(pod("d").merge(uses(1))));
        bench.remove_pod("a");
        assert!(bench.fits(pod("c").merge(uses(2))));
    }
}
