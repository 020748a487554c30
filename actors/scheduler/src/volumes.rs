//! Owns what scheduling knows of storage: claims, volumes, storage classes, the limits of nodes' drivers, and what was
//! promised to pods that are assumed on a node. Called by the cluster state; read by the volume plugins. It must promise
//! no volume to two claims.

use crate::cluster::PodId;
use crate::intern::{Sym, Symbols};
use crate::pod::read_labels;
use crate::quantity;
use crate::selector::{LabelSelector, Labels, NodeSelectorTerm, Operator, Requirement};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::storage::v1 as storage;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;

/// The labels of zones and regions, those of today first, each with the one that it replaced.
pub const ZONE_LABELS: [(&str, &str); 2] = [
    ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"),
    (
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/region",
    ),
];

/// A volume that a pod uses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum VolumeUse {
    /// A claim, by `namespace/name`.
    Claim(Sym),
    /// A disk that is named in the pod.
    Disk {
        /// Its kind and name.
        id: Sym,
        /// The pod only reads it.
        read_only: bool,
        /// Several pods may read it at once.
        readers_share: bool,
    },
}

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its storage class, the empty string's symbol for none.
    pub class: Sym,
    /// The volume that it is bound to.
    pub volume: Option<Sym>,
    /// It is bound.
    pub bound: bool,
    /// Bytes asked for.
    pub request_bytes: i64,
    /// `ReadWriteOnce`, ... (sorted).
    pub access_modes: Vec<Sym>,
    /// Only one pod in the cluster may use it.
    pub one_pod: bool,
    /// `Filesystem` or `Block`.
    pub mode: Sym,
    /// Which volumes it accepts.
    pub selector: Option<LabelSelector>,
    /// The node for which it is being provisioned.
    pub selected_node: Option<Sym>,
    /// It is being deleted.
    pub terminating: bool,
}

/// A PersistentVolume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its storage class.
    pub class: Sym,
    /// The claim that it is bound or reserved to (`namespace/name`).
    pub claim: Option<Sym>,
    /// Its size in bytes.
    pub capacity_bytes: i64,
    /// `ReadWriteOnce`, ... (sorted).
    pub access_modes: Vec<Sym>,
    /// `Filesystem` or `Block`.
    pub mode: Sym,
    /// Its labels.
    pub labels: Labels,
    /// Which nodes reach it: any of these; `None` for all.
    pub nodes: Option<Vec<NodeSelectorTerm>>,
    /// Driver and handle of a CSI volume.
    pub csi: Option<(Sym, Sym)>,
    /// It can still be bound.
    pub available: bool,
    /// It has a label of a zone or region.
    pub is_zoned: bool,
}

/// A StorageClass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageClass {
    /// Claims are bound when their first pod is scheduled.
    pub waits_for_pod: bool,
    /// Who makes volumes; `None` if nobody does.
    pub provisioner: Option<Sym>,
    /// Where volumes can be made: any of these; empty for everywhere.
    pub topologies: Vec<NodeSelectorTerm>,
}

/// What becomes of a claim when its pod is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// The claim is bound to this volume.
    Bind {
        /// The claim.
        claim: Sym,
        /// The volume.
        volume: Sym,
    },
    /// A volume is made for it, for this node.
    Provision {
        /// The claim.
        claim: Sym,
        /// The node.
        node: Sym,
    },
}

/// How much storage of a class there is for new volumes, and for which nodes (CSIStorageCapacity).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageCapacity {
    /// The storage class.
    pub class: Sym,
    /// The nodes' labels; `None` is for no node.
    pub nodes: Option<LabelSelector>,
    /// The largest volume that can be made (bytes), if that is known.
    pub bytes_max: Option<i64>,
}

/// The storage of the cluster.
#[derive(Debug, Default)]
pub struct Volumes {
    claims: FxHashMap<Sym, Claim>,
    volumes: BTreeMap<Sym, Volume>,
    /// How many volumes have this driver and handle.
    handles: FxHashMap<(Sym, Sym), u32>,
    classes: FxHashMap<Sym, StorageClass>,
    /// How many volumes of a driver a node can attach.
    limits: FxHashMap<Sym, Vec<(Sym, i64)>>,
    /// Drivers that say how much storage they have.
    counting_drivers: FxHashSet<Sym>,
    capacities: BTreeMap<Sym, StorageCapacity>,
    promises: FxHashMap<Sym, (PodId, Promise)>,
    promised_volumes: FxHashSet<Sym>,
    promised_to: FxHashMap<PodId, Vec<Sym>>,
    version: u64,
}

impl Volumes {
    /// Changes with everything here.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A claim, as the API knows it.
    pub fn claim(&self, name: Sym) -> Option<&Claim> {
        self.claims.get(&name)
    }

    /// All volumes, by name.
    pub fn volumes(&self) -> impl Iterator<Item = (Sym, &Volume)> {
        self.volumes.iter().map(|(name, volume)| (*name, volume))
    }

    /// A volume.
    pub fn volume(&self, name: Sym) -> Option<&Volume> {
        self.volumes.get(&name)
    }

    /// A storage class.
    pub fn class(&self, name: Sym) -> Option<&StorageClass> {
        self.classes.get(&name)
    }

    /// How many volumes of which drivers a node can attach; empty if unlimited.
    pub fn limits(&self, node: Sym) -> &[(Sym, i64)] {
        self.limits.get(&node).map_or(&[], Vec::as_slice)
    }

    /// What was promised for a claim by a decision, until the claim is bound.
    pub fn promise(&self, claim: Sym) -> Option<Promise> {
        self.promises.get(&claim).map(|(_, promise)| *promise)
    }

    /// Whether a volume was promised to a claim.
    pub fn is_promised(&self, name: Sym) -> bool {
        self.promised_volumes.contains(&name)
    }

    /// What was promised to a pod.
    pub fn promises_to(&self, pod: PodId) -> impl Iterator<Item = Promise> {
        self.promised_to
            .get(&pod)
            .into_iter()
            .flatten()
            .filter_map(|claim| self.promise(*claim))
    }

    /// Notes what was promised to a pod.
    pub(crate) fn keep(&mut self, pod: PodId, promises: Vec<Promise>) {
        for promise in promises {
            let (Promise::Bind { claim, .. } | Promise::Provision { claim, .. }) = promise;
            if let Promise::Bind { volume, .. } = promise {
                self.promised_volumes.insert(volume);
            }
            self.promises.insert(claim, (pod, promise));
            self.promised_to.entry(pod).or_default().push(claim);
        }
        self.version += 1;
    }

    /// The pod will not be bound: what was promised to it is free again.
    pub(crate) fn release(&mut self, pod: PodId) {
        for claim in self.promised_to.remove(&pod).unwrap_or_default() {
            if self.promises.get(&claim).is_some_and(|(to, _)| *to == pod) {
                self.drop_promise(claim);
            }
        }
    }

    fn drop_promise(&mut self, claim: Sym) {
        let Some((_, promise)) = self.promises.remove(&claim) else {
            return;
        };
        if let Promise::Bind { volume, .. } = promise {
            self.promised_volumes.remove(&volume);
        }
        self.version += 1;
    }

    pub(crate) fn set_claim(&mut self, name: Sym, claim: Option<Claim>) -> bool {
        if claim.as_ref().is_none_or(|claim| claim.bound) {
            self.drop_promise(name);
        }
        let changed = match claim {
            Some(claim) => self.claims.insert(name, claim.clone()).as_ref() != Some(&claim),
            None => self.claims.remove(&name).is_some(),
        };
        self.version += u64::from(changed);
        changed
    }

    /// If all that a claim decides is that one volume more is attached: its driver, or `None` if none attaches it. Its volume is
    /// bound, can be reached from everywhere, and is nobody else's.
    pub fn only_attaches(&self, name: Sym) -> Option<Option<Sym>> {
        let claim = self.claims.get(&name)?;
        let volume = self.volumes.get(&claim.volume.filter(|_| claim.bound)?)?;
        let free = !claim.terminating && !claim.one_pod && volume.nodes.is_none() && !volume.is_zoned;
        let alone = volume.csi.is_none_or(|handle| self.handles.get(&handle) == Some(&1));
        (free && alone).then(|| volume.csi.map(|(driver, _)| driver))
    }

    pub(crate) fn set_volume(&mut self, name: Sym, volume: Option<Volume>) -> bool {
        if let Some(handle) = self.volumes.get(&name).and_then(|old| old.csi) {
            let count = self.handles.entry(handle).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.handles.remove(&handle);
            }
        }
        if let Some(handle) = volume.as_ref().and_then(|new| new.csi) {
            *self.handles.entry(handle).or_default() += 1;
        }
        let changed = match volume {
            Some(volume) => self.volumes.insert(name, volume.clone()).as_ref() != Some(&volume),
            None => self.volumes.remove(&name).is_some(),
        };
        self.version += u64::from(changed);
        changed
    }

    pub(crate) fn set_class(&mut self, name: Sym, class: Option<StorageClass>) -> bool {
        let changed = match class {
            Some(class) => self.classes.insert(name, class.clone()).as_ref() != Some(&class),
            None => self.classes.remove(&name).is_some(),
        };
        self.version += u64::from(changed);
        changed
    }

    /// The nodes for which a driver can make a volume of a class and size; `None` if it does not count its storage.
    pub fn nodes_with_room(&self, driver: Sym, class: Sym, bytes: i64) -> Option<Vec<LabelSelector>> {
        if bytes == 0 || !self.counting_drivers.contains(&driver) {
            return None;
        }
        let of_class = self.capacities.values().filter(|capacity| capacity.class == class);
        let sufficient = of_class.filter(|capacity| capacity.bytes_max.is_some_and(|most| most >= bytes));
        Some(sufficient.filter_map(|capacity| capacity.nodes.clone()).collect())
    }

    pub(crate) fn set_driver(&mut self, name: Sym, counts_storage: bool) -> bool {
        let changed = match counts_storage {
            true => self.counting_drivers.insert(name),
            false => self.counting_drivers.remove(&name),
        };
        self.version += u64::from(changed);
        changed
    }

    pub(crate) fn set_capacity(&mut self, name: Sym, capacity: Option<StorageCapacity>) -> bool {
        let changed = match capacity {
            Some(capacity) => self.capacities.insert(name, capacity.clone()).as_ref() != Some(&capacity),
            None => self.capacities.remove(&name).is_some(),
        };
        self.version += u64::from(changed);
        changed
    }

    pub(crate) fn set_limits(&mut self, node: Sym, limits: Vec<(Sym, i64)>) -> bool {
        let changed = match limits.is_empty() {
            true => self.limits.remove(&node).is_some(),
            false => self.limits.insert(node, limits.clone()).as_ref() != Some(&limits),
        };
        self.version += u64::from(changed);
        changed
    }
}

/// The volumes of a pod that matter for where it may go.
pub fn read_uses(symbols: &mut Symbols, pod: &core::Pod, spec: &core::PodSpec) -> Vec<VolumeUse> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let mut uses = Vec::new();
    for volume in spec.volumes.iter().flatten() {
        if let Some(claim) = &volume.persistent_volume_claim {
            uses.push(VolumeUse::Claim(
                symbols.intern(&format!("{namespace}/{}", claim.claim_name)),
            ));
        } else if volume.ephemeral.is_some() {
            uses.push(VolumeUse::Claim(
                symbols.intern(&format!("{namespace}/{pod_name}-{}", volume.name)),
            ));
        }
        let mut disk = |id: String, read_only: Option<bool>, readers_share: bool| {
            let id = symbols.intern(&id);
            uses.push(VolumeUse::Disk {
                id,
                read_only: read_only == Some(true),
                readers_share,
            });
        };
        if let Some(gce) = &volume.gce_persistent_disk {
            disk(format!("gce/{}", gce.pd_name), gce.read_only, true);
        }
        if let Some(ebs) = &volume.aws_elastic_block_store {
            disk(format!("ebs/{}", ebs.volume_id), ebs.read_only, false);
        }
        if let Some(iscsi) = &volume.iscsi {
            disk(format!("iscsi/{}", iscsi.iqn), iscsi.read_only, true);
        }
        if let Some(rbd) = &volume.rbd {
            let pool = rbd.pool.as_deref().unwrap_or("rbd");
            disk(
                format!("rbd/{}/{pool}/{}", rbd.monitors.join(","), rbd.image),
                rbd.read_only,
                true,
            );
        }
    }
    uses
}

fn modes(symbols: &mut Symbols, modes: Option<&Vec<String>>) -> Vec<Sym> {
    let mut read: Vec<Sym> = modes.into_iter().flatten().map(|mode| symbols.intern(mode)).collect();
    read.sort_unstable();
    read
}

fn bytes(list: Option<&BTreeMap<String, Quantity>>) -> i64 {
    list.and_then(|list| list.get("storage"))
        .and_then(|amount| quantity::whole(&amount.0))
        .unwrap_or(0)
}

/// Reads a claim; its name is `namespace/name`.
pub fn read_claim(symbols: &mut Symbols, object: &core::PersistentVolumeClaim) -> (Sym, Claim) {
    let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let spec = object.spec.clone().unwrap_or_default();
    let annotation = |key: &str| {
        object
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(key))
            .cloned()
    };
    let volume = spec.volume_name.as_deref().filter(|name| !name.is_empty());
    let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
    let bound = volume.is_some() && (phase == Some("Bound") || annotation("pv.kubernetes.io/bind-completed").is_some());
    let claim = Claim {
        class: symbols.intern(spec.storage_class_name.as_deref().unwrap_or_default()),
        volume: volume.map(|name| symbols.intern(name)),
        bound,
        request_bytes: bytes(spec.resources.as_ref().and_then(|r| r.requests.as_ref())),
        one_pod: spec
            .access_modes
            .iter()
            .flatten()
            .any(|mode| mode == "ReadWriteOncePod"),
        access_modes: modes(symbols, spec.access_modes.as_ref()),
        mode: symbols.intern(spec.volume_mode.as_deref().unwrap_or("Filesystem")),
        selector: spec
            .selector
            .as_ref()
            .map(|selector| LabelSelector::parse(symbols, selector)),
        selected_node: annotation("volume.kubernetes.io/selected-node").map(|node| symbols.intern(&node)),
        terminating: object.metadata.deletion_timestamp.is_some(),
    };
    (symbols.intern(&format!("{namespace}/{name}")), claim)
}

/// Reads a volume.
pub fn read_volume(symbols: &mut Symbols, object: &core::PersistentVolume) -> (Sym, Volume) {
    let spec = object.spec.clone().unwrap_or_default();
    let claim = spec.claim_ref.as_ref().map(|claim| {
        let namespace = claim.namespace.as_deref().unwrap_or("default");
        symbols.intern(&format!("{namespace}/{}", claim.name.as_deref().unwrap_or_default()))
    });
    let required = spec
        .node_affinity
        .as_ref()
        .and_then(|affinity| affinity.required.as_ref());
    let nodes = required.map(|s| {
        s.node_selector_terms
            .iter()
            .map(|t| NodeSelectorTerm::parse(symbols, t))
            .collect()
    });
    let phase = object
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Available");
    let volume = Volume {
        class: symbols.intern(spec.storage_class_name.as_deref().unwrap_or_default()),
        claim,
        capacity_bytes: bytes(spec.capacity.as_ref()),
        access_modes: modes(symbols, spec.access_modes.as_ref()),
        mode: symbols.intern(spec.volume_mode.as_deref().unwrap_or("Filesystem")),
        labels: read_labels(symbols, object.metadata.labels.as_ref()),
        is_zoned: object.metadata.labels.as_ref().is_some_and(|labels| {
            ZONE_LABELS
                .iter()
                .any(|(today, before)| labels.contains_key(*today) || labels.contains_key(*before))
        }),
        nodes,
        csi: spec
            .csi
            .as_ref()
            .map(|csi| (symbols.intern(&csi.driver), symbols.intern(&csi.volume_handle))),
        available: matches!(phase, "Available" | "Pending") && object.metadata.deletion_timestamp.is_none(),
    };
    (
        symbols.intern(object.metadata.name.as_deref().unwrap_or_default()),
        volume,
    )
}

/// Reads a storage class.
pub fn read_class(symbols: &mut Symbols, object: &storage::StorageClass) -> (Sym, StorageClass) {
    let mut topologies = Vec::new();
    for term in object.allowed_topologies.iter().flatten() {
        let mut expressions = Vec::new();
        for requirement in term.match_label_expressions.iter().flatten() {
            let mut values: Vec<Sym> = requirement.values.iter().map(|value| symbols.intern(value)).collect();
            values.sort_unstable();
            expressions.push(Requirement {
                key: symbols.intern(&requirement.key),
                operator: Operator::In(values),
            });
        }
        topologies.push(NodeSelectorTerm {
            expressions,
            name_fields: Vec::new(),
        });
    }
    let makes = object.provisioner != "kubernetes.io/no-provisioner";
    let class = StorageClass {
        waits_for_pod: object.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
        provisioner: makes.then(|| symbols.intern(&object.provisioner)),
        topologies,
    };
    (
        symbols.intern(object.metadata.name.as_deref().unwrap_or_default()),
        class,
    )
}

/// Reads the attach limits of a node's drivers.
pub fn read_limits(symbols: &mut Symbols, object: &storage::CSINode) -> (Sym, Vec<(Sym, i64)>) {
    let drivers = object.spec.drivers.iter();
    let limits = drivers.filter_map(|driver| {
        let count = driver.allocatable.as_ref()?.count?;
        Some((symbols.intern(&driver.name), i64::from(count)))
    });
    let limits = limits.collect();
    (
        symbols.intern(object.metadata.name.as_deref().unwrap_or_default()),
        limits,
    )
}

/// Reads how much storage there is; the first is `namespace/name`.
pub fn read_capacity(symbols: &mut Symbols, object: &storage::CSIStorageCapacity) -> (Sym, StorageCapacity) {
    // The largest single volume counts where it is known, the sum otherwise.
    let most = object.maximum_volume_size.as_ref().or(object.capacity.as_ref());
    let capacity = StorageCapacity {
        class: symbols.intern(&object.storage_class_name),
        nodes: object
            .node_topology
            .as_ref()
            .map(|selector| LabelSelector::parse(symbols, selector)),
        bytes_max: most.and_then(|amount| quantity::whole(&amount.0)),
    };
    let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
    let name = object.metadata.name.as_deref().unwrap_or_default();
    (symbols.intern(&format!("{namespace}/{name}")), capacity)
}
