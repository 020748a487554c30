//! VolumeRestrictions (Filter): a disk that can be attached once is not attached twice to a node, and a claim with
//! ReadWriteOncePod is used by one pod in the cluster. No difference from kube-scheduler is intended.

use crate::cluster::{ClassId, Cluster};
use crate::diagnosis::Reason;
use crate::framework::{ClusterEvent, Compiled, Context, EventKinds, Plugin, Reach, Reads, Reasons, Rule, Verdict};
use crate::intern::Sym;
use crate::node::Node;
use crate::pod::PodSignature;
use crate::volumes::VolumeUse;

/// The plugin.
pub struct VolumeRestrictions;

struct Restricted {
    disks: Vec<VolumeUse>,
    one_pod_claims: Vec<Sym>,
}

fn conflict(a: &VolumeUse, b: &VolumeUse) -> bool {
    match (a, b) {
        (
            VolumeUse::Disk {
                id,
                read_only,
                readers_share,
            },
            VolumeUse::Disk {
                id: other,
                read_only: other_reads,
                ..
            },
        ) => id == other && !(*readers_share && *read_only && *other_reads),
        _ => false,
    }
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn reads(&self, _cluster: &Cluster, _signature: &PodSignature) -> Reads {
        Reads::NOTHING
    }

    fn compile(&self, cluster: &mut Cluster, _class: ClassId, signature: &PodSignature) -> Compiled {
        let disks: Vec<VolumeUse> = signature
            .volumes
            .iter()
            .filter(|volume| matches!(volume, VolumeUse::Disk { .. }))
            .cloned()
            .collect();
        let one_pod_claims: Vec<Sym> = signature
            .volumes
            .iter()
            .filter_map(|volume| match volume {
                VolumeUse::Claim(claim) => Some(*claim),
                VolumeUse::Disk { .. } => None,
            })
            .filter(|claim| cluster.volumes().claim(*claim).is_some_and(|claim| claim.one_pod))
            .collect();
        if disks.is_empty() && one_pod_claims.is_empty() {
            return Compiled::Skip;
        }
        Compiled::Rule(Box::new(Restricted { disks, one_pod_claims }))
    }

    fn hears(&self) -> EventKinds {
        EventKinds::NODES
            .and(EventKinds::POD_LIFTED)
            .and(EventKinds::NODE_REMOVED)
            .and(EventKinds::VOLUMES)
    }

    fn may_help(&self, _cluster: &Cluster, event: &ClusterEvent<'_>, signature: &PodSignature) -> bool {
        match event {
            ClusterEvent::PodLifted(pod) => pod.volumes.iter().any(|volume| {
                signature
                    .volumes
                    .iter()
                    .any(|own| own == volume || conflict(own, volume))
            }),
            _ => true,
        }
    }
}

impl Rule for Restricted {
    fn filters(&self) -> Reach {
        // Who uses a claim is a question to the whole cluster.
        if self.one_pod_claims.is_empty() {
            Reach::Node
        } else {
            Reach::Cluster
        }
    }

    fn filter_node(&self, cx: &Context<'_>, node: &Node, reasons: &mut Reasons) -> Verdict {
        let taken = |want: &VolumeUse| {
            node.pods.iter().any(|pod| {
                cx.cluster
                    .signature(*pod)
                    .volumes
                    .iter()
                    .any(|used| conflict(want, used))
            })
        };
        if self.disks.iter().any(taken) {
            reasons.say(Reason::Text("node(s) had no available disk"));
            return Verdict::Refused;
        }
        if self
            .one_pod_claims
            .iter()
            .any(|claim| cx.cluster.claim_users(*claim) > 0)
        {
            reasons.say(Reason::Text(
                "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode",
            ));
            return Verdict::Refused;
        }
        Verdict::Fits
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, node, pod};
    use serde_json::{Value, json};

    fn with_volume(volume: Value) -> Value {
        json!({"spec": {"volumes": [volume]}})
    }

    #[test]
    fn disks_are_attached_once_unless_all_only_read() {
        let gce = |read_only: bool| {
            with_volume(json!({"name": "v", "gcePersistentDisk": {"pdName": "d", "readOnly": read_only}}))
        };
        let ebs = |read_only: bool| {
            with_volume(json!({"name": "v", "awsElasticBlockStore": {"volumeID": "d", "readOnly": read_only}}))
        };
        for (first, second, fits) in [
            (gce(false), gce(false), false),
            (gce(true), gce(false), false),
            (gce(true), gce(true), true),
            (ebs(true), ebs(true), false),
            (gce(false), ebs(false), true),
        ] {
            let mut bench = Bench::new();
            bench.node(node("n1"));
            bench.place(pod("a").merge(first.clone()));
            assert_eq!(bench.fits(pod("b").merge(second.clone())), fits, "{first} {second}");
        }
    }

    #[test]
    fn a_claim_for_one_pod_is_used_by_one_pod() {
        let mut bench = Bench::new();
        bench.node(node("n1"));
        bench.node(node("n2"));
        bench.volume(
            "pv",
            json!({"spec": {"claimRef": {"namespace": "default", "name": "c"}}}),
        );
        bench.claim(
            "c",
            json!({"spec": {"accessModes": ["ReadWriteOncePod"], "volumeName": "pv"},
            "status": {"phase": "Bound"}}),
        );
        let uses = with_volume(json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}));
        bench.place(pod("a").merge(uses.clone()));
        let message = bench.why_not(pod("b").merge(uses.clone()));
        assert!(
            message.contains("2 node has pod using PersistentVolumeClaim with the same name"),
            "{message}"
        );
        bench.remove_pod("a");
        assert!(bench.fits(pod("b").merge(uses)));
    }
}
