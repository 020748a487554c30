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
    /// Volumes that may be attached already, by driver and handle.
    wanted: BTreeSet<(Sym, Sym)>,
    /// How many more are attached by each driver, of volumes that no pod has.
    fresh: Vec<(Sym, usize)>,
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
        // Such pods share what is compiled, so nothing of their own may be in it.
        if let Some(fresh) = cluster.attachments(signature) {
            return match fresh.is_empty() {
                true => Compiled::Skip,
                false => Compiled::Rule(Box::new(Limited {
                    wanted: BTreeSet::new(),
                    fresh,
                })),
            };
        }
        let wanted: BTreeSet<_> = signature
            .volumes
            .iter()
            .filter_map(|used| attachment(cluster, used))
            .collect();
        if wanted.is_empty() {
            Compiled::Skip
        } else {
            Compiled::Rule(Box::new(Limited {
                wanted,
                fresh: Vec::new(),
            }))
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
        let fresh = |driver: Sym| {
            let own = self.fresh.iter().find(|(of, _)| *of == driver);
            own.map_or(0, |(_, count)| *count)
        };
        let wants = |driver: Sym| fresh(driver) > 0 || self.wanted.iter().any(|(of, _)| *of == driver);
        // Every claim that is used attaches one volume at most: mostly that is enough to know.
        let most = |driver: Sym| (node.claims_used + self.wanted.len() + fresh(driver)) as i64;
        if limits
            .iter()
            .all(|(driver, limit)| !wants(*driver) || most(*driver) <= *limit)
        {
            return Verdict::Fits;
        }
        let mut attached = self.wanted.clone();
        for pod in &node.pods {
            let used = &cx.cluster.signature(*pod).volumes;
            attached.extend(used.iter().filter_map(|used| attachment(cx.cluster, used)));
        }
        let exceeds = |(driver, limit): &(Sym, i64)| {
            let of_driver = attached.iter().filter(|(of, _)| of == driver).count() + fresh(*driver);
            wants(*driver) && of_driver as i64 > *limit
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

    fn limited_to(bench: &mut Bench, name: &str, count: i32) {
        bench.node(node(name));
        let limits = json!({"metadata": {"name": name}, "spec": {"drivers": [
            {"name": "disk.example.com", "nodeID": name, "allocatable": {"count": count}}]}});
        bench
            .scheduler
            .upsert_csi_node(&serde_json::from_value(limits).expect("well-formed"));
    }

    /// A bound claim with its own volume.
    fn bound_claim(bench: &mut Bench, name: &str, handle: &str) {
        bench.volume(
            &format!("pv-{name}"),
            json!({"spec": {"claimRef": {"namespace": "default", "name": name},
            "csi": {"driver": "disk.example.com", "volumeHandle": handle}}}),
        );
        bench.claim(
            name,
            json!({"spec": {"volumeName": format!("pv-{name}")}, "status": {"phase": "Bound"}}),
        );
    }

    fn using(name: &str, claim: &str) -> crate::testing::Object {
        pod(name).merge(json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}}))
    }

    #[test]
    fn pods_with_a_claim_each_are_limited_as_one() {
        let mut bench = Bench::new();
        for at in 0..6 {
            limited_to(&mut bench, &format!("n{at}"), 1);
        }
        for at in 0..8 {
            bound_claim(&mut bench, &format!("c{at}"), &format!("h{at}"));
            bench.pod(using(&format!("p{at}"), &format!("c{at}")));
        }
        let decisions = bench.decide();
        let bound = decisions
            .iter()
            .filter(|decision| matches!(decision, crate::decision::Decision::Bind(_)))
            .count();
        assert_eq!((decisions.len(), bound), (8, 6));
        bench.scheduler.assert_invariants();
        // A second pod of a claim that is there attaches nothing more.
        assert!(bench.fits(using("again", "c0")));
    }

    #[test]
    fn two_volumes_with_one_handle_are_one_attachment() {
        let mut bench = Bench::new();
        limited_to(&mut bench, "n1", 1);
        bound_claim(&mut bench, "c1", "shared");
        bound_claim(&mut bench, "c2", "shared");
        bound_claim(&mut bench, "c3", "other");
        assert_eq!(bench.place(using("p1", "c1")), "n1");
        assert_eq!(bench.place(using("p2", "c2")), "n1");
        assert!(!bench.fits(using("p3", "c3")));
    }
}
