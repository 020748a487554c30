//! VolumeZone (Filter): a pod whose bound volumes carry zone or region labels goes to a node of that zone or region. A
//! node without any such label takes every pod. No difference from kube-scheduler is intended.

use crate::cluster::{ClassId, Cluster};
use crate::diagnosis::Reason;
use crate::framework::{ClusterEvent, Compiled, Context, EventKinds, Plugin, Reach, Reads, Reasons, Rule, Verdict};
use crate::intern::Sym;
use crate::node::Node;
use crate::pod::PodSignature;
use crate::selector::label;
use crate::volumes::{VolumeUse, ZONE_LABELS};

/// The plugin.
pub struct VolumeZone;

struct Zones {
    /// Label, the label that stands for it on older nodes, and the values allowed.
    required: Vec<(Sym, Sym, Vec<Sym>)>,
    all_labels: Vec<Sym>,
}

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn reads(&self, _cluster: &Cluster, _signature: &PodSignature) -> Reads {
        Reads::NOTHING
    }

    fn compile(&self, cluster: &mut Cluster, _class: ClassId, signature: &PodSignature) -> Compiled {
        let mut required = Vec::new();
        let mut all_labels = Vec::new();
        for (today, before) in ZONE_LABELS {
            let pair = (cluster.symbols.intern(today), cluster.symbols.intern(before));
            all_labels.extend([pair.0, pair.1]);
            for volume in &signature.volumes {
                let VolumeUse::Claim(claim) = volume else { continue };
                let bound = cluster.volumes().claim(*claim).and_then(|claim| claim.volume);
                let Some(volume) = bound.and_then(|name| cluster.volumes().volume(name)) else {
                    continue;
                };
                let value = label(&volume.labels, pair.0).or_else(|| label(&volume.labels, pair.1));
                let Some(value) = value.map(|value| cluster.symbols.text(value).clone()) else {
                    continue;
                };
                // A volume in several zones lists them: "a__b".
                let values = value.split("__").map(|value| cluster.symbols.intern(value)).collect();
                required.push((pair.0, pair.1, values));
            }
        }
        if required.is_empty() {
            Compiled::Skip
        } else {
            Compiled::Rule(Box::new(Zones { required, all_labels }))
        }
    }

    fn hears(&self) -> EventKinds {
        EventKinds::NODES.and(EventKinds::VOLUMES)
    }

    fn may_help(&self, _cluster: &Cluster, event: &ClusterEvent<'_>, _signature: &PodSignature) -> bool {
        match event {
            ClusterEvent::NodeChanged { before, node } => before.labels != node.reading.labels,
            _ => true,
        }
    }
}

impl Rule for Zones {
    fn filters(&self) -> Reach {
        Reach::Node
    }

    fn filter_node(&self, _cx: &Context<'_>, node: &Node, reasons: &mut Reasons) -> Verdict {
        let labels = &node.reading.labels;
        if self.all_labels.iter().all(|key| label(labels, *key).is_none()) {
            return Verdict::Fits;
        }
        let meets = |(today, before, values): &(Sym, Sym, Vec<Sym>)| {
            let value = label(labels, *today).or_else(|| label(labels, *before));
            value.is_some_and(|value| values.contains(&value))
        };
        if self.required.iter().all(meets) {
            return Verdict::Fits;
        }
        reasons.say(Reason::Text("node(s) had no available volume zone"));
        Verdict::NeverFits
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, node, pod};
    use serde_json::json;

    #[test]
    fn a_pod_follows_the_zone_of_its_volume() {
        let mut bench = Bench::new();
        for (name, zone) in [("a1", "a"), ("b1", "b"), ("c1", "c")] {
            bench.node(node(name).merge(json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}})));
        }
        let uses = json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}});
        for (zones, feasible) in [("a", 1), ("a__b", 2), ("z", 0)] {
            bench.volume(
                "pv",
                json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zones}},
                "spec": {"claimRef": {"namespace": "default", "name": "c"}}}),
            );
            bench.claim("c", json!({"spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}}));
            let evaluation = bench
                .scheduler
                .evaluate(&pod("p").merge(uses.clone()).pod())
                .expect("scheduled here");
            assert_eq!(evaluation.feasible.len(), feasible, "{zones}");
        }
        assert!(
            bench
                .why_not(pod("p").merge(uses))
                .contains("3 node(s) had no available volume zone")
        );
    }
}
