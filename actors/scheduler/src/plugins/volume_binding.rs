//! VolumeBinding (PreFilter, Filter, Reserve, PreBind): a pod goes where its bound volumes can be reached, and where volumes for
//! its unbound claims are or can be made. Choosing a node promises volumes to the claims; the promises are part of the
//! binding (`Binding::pre_bind`), and whoever carries it out fulfils them first.
//!
//! Differs from kube-scheduler: nodes are not scored by storage capacity.

use crate::cluster::{ClassId, Cluster, PodId};
use crate::decision::PreBind;
use crate::diagnosis::Reason;
use crate::framework::{
    Assignment, ClusterEvent, Compiled, Context, EventKinds, Plugin, Reach, Reads, Reasons, Rule, Verdict,
};
use crate::intern::{Sym, Symbols};
use crate::node::Node;
use crate::pod::PodSignature;
use crate::selector::{LabelSelector, NodeSelectorTerm};
use crate::volumes::{Claim, Promise, Volume, VolumeUse};

const NO_VOLUMES: &str = "node(s) didn't find available persistent volumes to bind";
const NO_ROOM: &str = "node(s) did not have enough free storage";

/// The plugin.
pub struct VolumeBinding;

/// A claim that is bound when its pod is.
struct Unbound {
    claim: Sym,
    /// Volumes that would do, the smallest first, and the nodes that reach them.
    candidates: Vec<(Sym, Option<Vec<NodeSelectorTerm>>)>,
    /// Where a volume can be made for it: any of these, everywhere if empty; `None` if nobody makes one.
    makes: Option<Vec<NodeSelectorTerm>>,
    /// Where there is room to make one: any of these; `None` if that is not counted.
    room: Option<Vec<LabelSelector>>,
    /// The node for which one is being made already.
    selected_node: Option<Sym>,
}

#[derive(Default)]
struct Claims {
    /// The nodes that reach each bound volume.
    bound: Vec<Vec<NodeSelectorTerm>>,
    unbound: Vec<Unbound>,
    lost: bool,
}

fn reaches(symbols: &Symbols, terms: &[NodeSelectorTerm], node: &Node) -> bool {
    terms
        .iter()
        .any(|term| term.matches(symbols, node.name, &node.reading.labels))
}

/// Whether a volume would do for a claim.
fn suits(symbols: &Symbols, name: Sym, claim: &Claim, volume: &Volume) -> bool {
    match volume.claim {
        Some(reserved) => reserved == name,
        None => {
            volume.available
                && volume.class == claim.class
                && volume.mode == claim.mode
                && volume.capacity_bytes >= claim.request_bytes
                && claim.access_modes.iter().all(|mode| volume.access_modes.contains(mode))
                && claim
                    .selector
                    .as_ref()
                    .is_none_or(|selector| selector.matches(symbols, &volume.labels))
        }
    }
}

/// Looks the claims of a pod up; the error is PreFilter's message.
fn claims(cluster: &Cluster, signature: &PodSignature) -> Result<Claims, String> {
    let volumes = cluster.volumes();
    let mut read = Claims::default();
    for used in &signature.volumes {
        let VolumeUse::Claim(name) = used else { continue };
        let short = || {
            cluster
                .symbols
                .text(*name)
                .split_once('/')
                .map_or(String::new(), |(_, name)| name.to_owned())
        };
        let Some(claim) = volumes.claim(*name) else {
            return Err(format!("persistentvolumeclaim \"{}\" not found", short()));
        };
        if claim.terminating {
            return Err(format!("persistentvolumeclaim \"{}\" is being deleted", short()));
        }
        let promise = volumes.promise(*name);
        let chosen = match (claim.volume.filter(|_| claim.bound), promise) {
            (Some(volume), _) | (None, Some(Promise::Bind { volume, .. })) => Some(volume),
            _ => None,
        };
        if let Some(volume) = chosen {
            match volumes.volume(volume) {
                Some(volume) => read.bound.extend(volume.nodes.clone()),
                None => read.lost = true,
            }
            continue;
        }
        let class = volumes.class(claim.class);
        if !class.is_some_and(|class| class.waits_for_pod) {
            return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
        let mut candidates: Vec<(i64, Sym, Option<Vec<NodeSelectorTerm>>)> = volumes
            .volumes()
            .filter(|(volume, _)| !volumes.is_promised(*volume))
            .filter(|(_, volume)| suits(&cluster.symbols, *name, claim, volume))
            .map(|(volume_name, volume)| (volume.capacity_bytes, volume_name, volume.nodes.clone()))
            .collect();
        candidates.sort_by_key(|(bytes, volume, _)| (*bytes, *volume));
        let selected_node = match promise {
            Some(Promise::Provision { node, .. }) => Some(node),
            _ => claim.selected_node,
        };
        read.unbound.push(Unbound {
            claim: *name,
            candidates: candidates
                .into_iter()
                .map(|(_, volume, nodes)| (volume, nodes))
                .collect(),
            room: class
                .and_then(|class| class.provisioner)
                .and_then(|driver| volumes.nodes_with_room(driver, claim.class, claim.request_bytes)),
            makes: class
                .filter(|class| class.provisioner.is_some())
                .map(|class| class.topologies.clone()),
            selected_node,
        });
    }
    Ok(read)
}

impl Claims {
    /// What would be promised on a node, or why some claim finds no volume there. Each volume is promised once.
    fn promises(&self, symbols: &Symbols, node: &Node) -> Result<Vec<Promise>, &'static str> {
        let mut promises: Vec<Promise> = Vec::new();
        for unbound in &self.unbound {
            if unbound.selected_node.is_some_and(|selected| selected != node.name) {
                return Err(NO_VOLUMES);
            }
            let claim = unbound.claim;
            let is_free = |name: Sym| {
                !promises.contains(&Promise::Bind { claim, volume: name })
                    && !promises
                        .iter()
                        .any(|p| matches!(p, Promise::Bind { volume, .. } if *volume == name))
            };
            let found = unbound.candidates.iter().find(|(name, nodes)| {
                is_free(*name) && nodes.as_ref().is_none_or(|terms| reaches(symbols, terms, node))
            });
            let makes = unbound
                .makes
                .as_ref()
                .is_some_and(|t| t.is_empty() || reaches(symbols, t, node));
            let has_room = unbound
                .room
                .as_ref()
                .is_none_or(|room| room.iter().any(|nodes| nodes.matches(symbols, &node.reading.labels)));
            promises.push(match found {
                Some((volume, _)) => Promise::Bind { claim, volume: *volume },
                None if makes && !has_room => return Err(NO_ROOM),
                None if makes => Promise::Provision { claim, node: node.name },
                None => return Err(NO_VOLUMES),
            });
        }
        Ok(promises)
    }
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn reads(&self, _cluster: &Cluster, _signature: &PodSignature) -> Reads {
        Reads::NOTHING
    }

    fn compile(&self, cluster: &mut Cluster, _class: ClassId, signature: &PodSignature) -> Compiled {
        match claims(cluster, signature) {
            Err(message) => Compiled::Refuse(message),
            Ok(read) if read.bound.is_empty() && read.unbound.is_empty() && !read.lost => Compiled::Skip,
            Ok(read) => Compiled::Rule(Box::new(read)),
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

    fn reserve(&self, cluster: &mut Cluster, assignment: Assignment) -> Result<(), String> {
        let signature = cluster.signature(assignment.pod).clone();
        if signature.volumes.is_empty() {
            return Ok(());
        }
        let promises = match claims(cluster, &signature) {
            Ok(read) => read
                .promises(&cluster.symbols, cluster.node(assignment.node))
                .unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        if !promises.is_empty() {
            cluster.volumes_mut().keep(assignment.pod, promises);
        }
        Ok(())
    }

    fn unreserve(&self, cluster: &mut Cluster, pod: PodId) {
        cluster.volumes_mut().release(pod);
    }

    fn pre_bind(&self, cluster: &Cluster, assignment: Assignment) -> Result<Vec<PreBind>, String> {
        let text = |sym| cluster.symbols.text(sym).clone();
        let steps = cluster
            .volumes()
            .promises_to(assignment.pod)
            .map(|promise| match promise {
                Promise::Bind { claim, volume } => PreBind::BindVolume {
                    claim: text(claim),
                    volume: text(volume),
                },
                Promise::Provision { claim, node } => PreBind::ProvisionVolume {
                    claim: text(claim),
                    node: text(node),
                },
            });
        Ok(steps.collect())
    }
}

impl Rule for Claims {
    fn filters(&self) -> Reach {
        Reach::Node
    }

    fn filter_node(&self, cx: &Context<'_>, node: &Node, reasons: &mut Reasons) -> Verdict {
        let symbols = &cx.cluster.symbols;
        if self.lost {
            reasons.say(Reason::Text(
                "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
            ));
            return Verdict::NeverFits;
        }
        if !self.bound.iter().all(|terms| reaches(symbols, terms, node)) {
            reasons.say(Reason::Text("node(s) didn't match PersistentVolume's node affinity"));
            return Verdict::NeverFits;
        }
        match self.promises(symbols, node) {
            Ok(_) => Verdict::Fits,
            Err(words) => {
                reasons.say(Reason::Text(words));
                Verdict::NeverFits
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::decision::{Decision, PreBind};
    use crate::testing::{Bench, Object, node, pod};
    use serde_json::{Value, json};

    fn zones() -> Bench {
        let mut bench = Bench::new();
        for (name, zone) in [("a1", "a"), ("b1", "b")] {
            bench.node(node(name).merge(json!({"metadata": {"labels": {"zone": zone}}})));
        }
        bench
    }

    fn using(name: &str, claim: &str) -> Object {
        pod(name).merge(json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}}))
    }

    fn in_zone(zone: &str) -> Value {
        json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "zone", "operator": "In", "values": [zone]}]}]}})
    }

    fn waiting_class(bench: &mut Bench, provisioner: &str, topologies: Value) {
        let class = json!({"metadata": {"name": "late"}, "provisioner": provisioner,
            "volumeBindingMode": "WaitForFirstConsumer", "allowedTopologies": topologies});
        bench
            .scheduler
            .upsert_storage_class(&serde_json::from_value(class).expect("well-formed"));
    }

    fn local_volume(bench: &mut Bench, name: &str, zone: &str, size: &str) {
        bench.volume(
            name,
            json!({"spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"],
            "storageClassName": "late", "nodeAffinity": in_zone(zone)}}),
        );
    }

    fn late_claim(bench: &mut Bench, name: &str, size: &str) {
        bench.claim(
            name,
            json!({"spec": {"storageClassName": "late", "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": size}}}}),
        );
    }

    fn bound(decision: Decision) -> (String, Vec<PreBind>) {
        match decision {
            Decision::Bind(binding) => (binding.node.to_string(), binding.pre_bind),
            Decision::Unschedulable(why) => panic!("{}", why.message()),
        }
    }

    #[test]
    fn claims_that_cannot_be_used_refuse_the_pod() {
        let mut bench = zones();
        let start = |bench: &mut Bench| bench.why_not(using("p", "c"));
        assert!(start(&mut bench).starts_with("0/2 nodes are available: persistentvolumeclaim \"c\" not found."));
        bench.claim("c", json!({"spec": {}}));
        assert!(
            start(&mut bench).starts_with("0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.")
        );
        bench.claim(
            "c",
            json!({"spec": {"volumeName": "gone"}, "status": {"phase": "Bound"}}),
        );
        assert!(
            start(&mut bench).contains("2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
        );
        bench.claim(
            "c",
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {}}),
        );
        assert!(start(&mut bench).contains("persistentvolumeclaim \"c\" is being deleted"));
    }

    #[test]
    fn a_waiting_pod_is_woken_by_its_claim() {
        let mut bench = zones();
        let decision = bench.decide_for(using("p", "c"));
        assert!(matches!(decision, Decision::Unschedulable(_)));
        bench.volume(
            "pv",
            json!({"spec": {"claimRef": {"namespace": "default", "name": "c"}}}),
        );
        bench.claim("c", json!({"spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}}));
        assert!(matches!(&bench.decide()[..], [Decision::Bind(_)]));
    }

    #[test]
    fn a_pod_goes_where_its_bound_volume_is_reached() {
        let mut bench = zones();
        bench.volume(
            "pv",
            json!({"spec": {"claimRef": {"namespace": "default", "name": "c"}, "nodeAffinity": in_zone("b")}}),
        );
        bench.claim("c", json!({"spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}}));
        assert_eq!(bench.place(using("p", "c")), "b1");
        let on_a = using("q", "c").merge(json!({"spec": {"nodeSelector": {"zone": "a"}}}));
        assert!(
            bench
                .why_not(on_a)
                .contains("1 node(s) didn't match PersistentVolume's node affinity")
        );
    }

    #[test]
    fn the_smallest_volume_that_suits_is_promised_once() {
        let mut bench = zones();
        waiting_class(&mut bench, "kubernetes.io/no-provisioner", json!([]));
        local_volume(&mut bench, "large", "a", "10Gi");
        local_volume(&mut bench, "small", "a", "2Gi");
        local_volume(&mut bench, "tiny", "b", "1Gi");
        for name in ["c1", "c2", "c3"] {
            late_claim(&mut bench, name, "2Gi");
        }
        let promise = |claim: &str, volume: &str| {
            vec![PreBind::BindVolume {
                claim: format!("default/{claim}").into(),
                volume: volume.into(),
            }]
        };
        assert_eq!(
            bound(bench.decide_for(using("p1", "c1"))),
            ("a1".to_owned(), promise("c1", "small"))
        );
        assert_eq!(
            bound(bench.decide_for(using("p2", "c2"))),
            ("a1".to_owned(), promise("c2", "large"))
        );
        let message = bench.why_not(using("p3", "c3"));
        assert!(
            message.contains("2 node(s) didn't find available persistent volumes to bind"),
            "{message}"
        );
        // The binding was refused: the volume is free again.
        bench.scheduler.forget(&crate::pod::PodKey::new("default", "p1"), 0);
        bench.remove_pod("p1");
        assert_eq!(bound(bench.decide_for(using("p3", "c3"))).1, promise("c3", "small"));
    }

    #[test]
    fn volumes_are_made_where_the_class_allows_it() {
        let mut bench = zones();
        waiting_class(
            &mut bench,
            "disk.example.com",
            json!([{"matchLabelExpressions": [{"key": "zone", "values": ["b"]}]}]),
        );
        late_claim(&mut bench, "c", "1Gi");
        let (node, pre_bind) = bound(bench.decide_for(using("p", "c")));
        assert_eq!(node, "b1");
        assert_eq!(
            pre_bind,
            [PreBind::ProvisionVolume {
                claim: "default/c".into(),
                node: "b1".into()
            }]
        );
        // A second pod with the claim follows the first.
        assert_eq!(bench.place(using("q", "c")), "b1");
    }

    #[test]
    fn volumes_are_made_where_there_is_room_if_the_driver_counts_it() {
        let mut bench = zones();
        waiting_class(&mut bench, "disk.example.com", json!([]));
        late_claim(&mut bench, "c", "5Gi");
        let driver =
            |counts: bool| json!({"metadata": {"name": "disk.example.com"}, "spec": {"storageCapacity": counts}});
        let capacity = |zone: &str, over: Value| {
            let mut capacity = json!({"metadata": {"name": zone, "namespace": "default"}, "storageClassName": "late",
                "nodeTopology": {"matchLabels": {"zone": zone}}});
            over.as_object()
                .expect("an object")
                .iter()
                .for_each(|(key, value)| capacity[key] = value.clone());
            serde_json::from_value(capacity).expect("well-formed")
        };
        let feasible = |bench: &mut Bench| {
            let evaluation = bench
                .scheduler
                .evaluate(&using("p", "c").pod())
                .expect("scheduled here");
            evaluation
                .feasible
                .iter()
                .map(|node| node.node.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(feasible(&mut bench), ["a1", "b1"]);
        bench
            .scheduler
            .upsert_csi_driver(&serde_json::from_value(driver(true)).expect("well-formed"));
        assert!(feasible(&mut bench).is_empty());
        assert!(
            bench
                .why_not(using("p", "c"))
                .contains("2 node(s) did not have enough free storage")
        );
        bench
            .scheduler
            .upsert_storage_capacity(&capacity("a", json!({"capacity": "10Gi"})));
        bench
            .scheduler
            .upsert_storage_capacity(&capacity("b", json!({"capacity": "10Gi", "maximumVolumeSize": "4Gi"})));
        assert_eq!(feasible(&mut bench), ["a1"]);
        bench
            .scheduler
            .upsert_storage_capacity(&capacity("b", json!({"maximumVolumeSize": "5Gi"})));
        bench.scheduler.remove_storage_capacity("default", "a");
        assert_eq!(feasible(&mut bench), ["b1"]);
        bench
            .scheduler
            .upsert_csi_driver(&serde_json::from_value(driver(false)).expect("well-formed"));
        assert_eq!(feasible(&mut bench), ["a1", "b1"]);
    }
}
