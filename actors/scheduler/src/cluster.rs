//! Owns the state of the cluster as scheduling sees it: nodes, pods, the classes of equal pods, and the change log by
//! which indexes follow. Called by the `Scheduler` (which alone changes it) and read by plugins. It must keep every
//! sum and count exact after every call, and must never choose a node.

mod classes;

use crate::devices::{Allocation, Devices};
use crate::intern::{Sym, Symbols};
use crate::node::{Node, NodeReading};
use crate::pod::{PodKey, PodMatcher, PodSignature};
use crate::selector::{LabelSelector, Labels};
use crate::topology::{CounterId, TermId, Topology, matcher_matches};
use crate::volumes::{VolumeUse, Volumes};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A node's place in the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// A pod's place in the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodId(pub u32);

/// All pods with one signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(pub u32);

/// Where a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Nowhere.
    Pending,
    /// Decided here; the store has not confirmed it.
    Assumed(NodeId),
    /// Bound, says the store.
    Bound(NodeId),
}

impl Placement {
    /// The node, if there is one.
    pub fn node(self) -> Option<NodeId> {
        match self {
            Self::Pending => None,
            Self::Assumed(node) | Self::Bound(node) => Some(node),
        }
    }
}

/// A pod.
#[derive(Clone, Debug)]
pub struct PodRecord {
    /// Its key.
    pub key: PodKey,
    /// Its uid; empty if unknown.
    pub uid: Box<str>,
    /// Its class.
    pub class: ClassId,
    /// Where it is.
    pub placement: Placement,
    /// It is being deleted.
    pub terminating: bool,
    /// The node for which preemption nominated it.
    pub nominated: Option<NodeId>,
    /// Its eviction was asked for, and is awaited until this time (milliseconds, the scheduler's clock).
    pub evicted_until_ms: u64,
    /// When it started, or was created (milliseconds since 1970).
    pub started_ms: i64,
    /// How often it was tried until it was assumed on a node.
    pub attempts: u32,
}

/// A PodDisruptionBudget, as far as preemption reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The pods that it covers.
    pub matcher: PodMatcher,
    /// How many of them may be disrupted now.
    pub disruptions_allowed: i32,
    /// Names of pods whose eviction has been granted already.
    pub disrupted: Vec<String>,
}

/// On how many nodes an image is, and when that changed last.
#[derive(Clone, Copy, Debug, Default)]
struct ImageSpread {
    nodes: u32,
    changed: u64,
}

/// The pods of one signature, and which counts and terms concern them.
#[derive(Debug)]
pub struct Class {
    /// The signature.
    pub signature: Arc<PodSignature>,
    refs: u32,
    counted_by: Vec<CounterId>,
    carries: Vec<TermId>,
    subject_to: Vec<TermId>,
    /// Changes whenever `subject_to` does.
    pub(crate) subject_version: u64,
}

impl Class {
    /// The terms that pods of this class carry.
    pub fn carries(&self) -> &[TermId] {
        &self.carries
    }

    /// The terms, carried by pods of any class, that speak of pods of this class.
    pub fn subject_to(&self) -> &[TermId] {
        &self.subject_to
    }
}

/// The state.
#[derive(Debug, Default)]
pub struct Cluster {
    /// The symbol table.
    pub symbols: Symbols,
    nodes: Vec<Node>,
    node_ids: FxHashMap<Sym, NodeId>,
    node_vacancies: Vec<NodeId>,
    nodes_present: usize,
    pods: Vec<Option<PodRecord>>,
    pod_vacancies: Vec<PodId>,
    pod_ids: FxHashMap<PodKey, PodId>,
    classes: Vec<Option<Class>>,
    class_vacancies: Vec<ClassId>,
    class_ids: FxHashMap<Arc<PodSignature>, ClassId>,
    classes_dropped: Vec<ClassId>,
    namespaces: FxHashMap<Sym, Labels>,
    budgets: BTreeMap<String, Budget>,
    services: BTreeMap<(Sym, String), LabelSelector>,
    controllers: FxHashMap<Sym, LabelSelector>,
    volumes: Volumes,
    devices: Devices,
    claim_users: FxHashMap<Sym, u32>,
    topology: Topology,
    images: FxHashMap<Sym, ImageSpread>,
    image_changes: u64,
    nodes_changed: u64,
    changes: Vec<NodeId>,
    changes_before: u64,
    layout: u64,
}

impl Cluster {
    // ---- Reading -------------------------------------------------------------------------------------------------

    /// All node places, also those of absent nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The node of that name, present or not.
    pub fn node_id(&self, name: Sym) -> Option<NodeId> {
        self.node_ids.get(&name).copied()
    }

    /// Number of nodes that the API knows.
    pub fn nodes_present(&self) -> usize {
        self.nodes_present
    }

    /// A pod.
    pub fn pod(&self, id: PodId) -> &PodRecord {
        self.pods[id.0 as usize]
            .as_ref()
            .expect("pod ids are used only while the pod is known")
    }

    /// All pods.
    pub fn pods(&self) -> impl Iterator<Item = (PodId, &PodRecord)> {
        let known = self.pods.iter().enumerate();
        known.filter_map(|(at, record)| Some((PodId(at as u32), record.as_ref()?)))
    }

    /// The pod of that key.
    pub fn pod_id(&self, key: &PodKey) -> Option<PodId> {
        self.pod_ids.get(key).copied()
    }

    /// Number of pods known.
    pub fn pods_known(&self) -> usize {
        self.pod_ids.len()
    }

    /// A class.
    pub fn class(&self, id: ClassId) -> &Class {
        self.classes[id.0 as usize]
            .as_ref()
            .expect("class ids are used only while a pod has the class")
    }

    /// The signature of a pod.
    pub fn signature(&self, pod: PodId) -> &Arc<PodSignature> {
        &self.class(self.pod(pod).class).signature
    }

    /// The topology counts.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Labels of the namespaces.
    pub fn namespaces(&self) -> &FxHashMap<Sym, Labels> {
        &self.namespaces
    }

    /// The storage.
    pub fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    pub(crate) fn volumes_mut(&mut self) -> &mut Volumes {
        &mut self.volumes
    }

    /// The devices.
    pub fn devices(&self) -> &Devices {
        &self.devices
    }

    /// Devices, classes and claims, for changes.
    pub(crate) fn devices_mut(&mut self) -> &mut Devices {
        &mut self.devices
    }

    /// Makes ready to look for devices for a claim.
    pub(crate) fn prepare_claim(&mut self, claim: Sym) {
        self.devices.prepare(&self.symbols, claim);
    }

    /// Allocates devices to claims for a pod that is assumed on a node.
    pub(crate) fn promise_devices(&mut self, pod: PodId, claims: Vec<(Sym, Allocation)>) {
        self.devices.promise(pod, claims);
    }

    /// Takes back what was allocated for a pod and is not in the store.
    pub(crate) fn release_devices(&mut self, pod: PodId) {
        self.devices.release(pod);
    }

    /// Number of pods on nodes that use a claim.
    pub fn claim_users(&self, claim: Sym) -> u32 {
        self.claim_users.get(&claim).copied().unwrap_or(0)
    }

    /// If all that the volumes of a pod decide is how many more are attached, and no pod on a node uses one of its claims: how
    /// many, by driver. Pods that agree in this are decided alike, whichever claims they have.
    pub fn attachments(&self, signature: &PodSignature) -> Option<Vec<(Sym, usize)>> {
        let mut claims: Vec<Sym> = Vec::new();
        let mut attachments: Vec<(Sym, usize)> = Vec::new();
        for used in &signature.volumes {
            let VolumeUse::Claim(claim) = used else { return None };
            if claims.contains(claim) || self.claim_users(*claim) > 0 {
                return None;
            }
            claims.push(*claim);
            let Some(driver) = self.volumes.only_attaches(*claim)? else {
                continue;
            };
            match attachments.iter_mut().find(|(other, _)| *other == driver) {
                Some((_, count)) => *count += 1,
                None => attachments.push((driver, 1)),
            }
        }
        attachments.sort_unstable();
        Some(attachments)
    }

    fn count_claims(&mut self, signature: &PodSignature, added: bool) {
        for used in &signature.volumes {
            let VolumeUse::Claim(claim) = used else { continue };
            let users = self.claim_users.entry(*claim).or_default();
            *users = if added { *users + 1 } else { users.saturating_sub(1) };
            if *users == 0 {
                self.claim_users.remove(claim);
            }
        }
    }

    /// The disruption budgets, by `namespace/name`.
    pub fn budgets(&self) -> impl Iterator<Item = &Budget> {
        self.budgets.values()
    }

    /// Whether a budget covers a pod.
    pub fn covers(&self, budget: &Budget, pod: PodId) -> bool {
        matcher_matches(&self.symbols, &self.namespaces, &budget.matcher, self.signature(pod))
            && !budget.disrupted.iter().any(|name| name == self.pod(pod).key.name())
    }

    /// Number of nodes that have an image.
    pub fn nodes_with_image(&self, image: Sym) -> u32 {
        self.images.get(&image).map_or(0, |spread| spread.nodes)
    }

    /// Counts all changes of nodes; equal positions mean that nothing has changed in between.
    pub fn position(&self) -> u64 {
        self.changes_before + self.changes.len() as u64
    }

    /// Changes when indexes must be built anew rather than follow the change log.
    pub fn layout(&self) -> u64 {
        self.layout
    }

    /// The nodes changed since a position (with repetitions); `None` if the log no longer reaches back that far.
    pub fn changes_since(&self, position: u64) -> Option<&[NodeId]> {
        let from = position.checked_sub(self.changes_before)?;
        self.changes.get(from as usize..)
    }

    // ---- Nodes ---------------------------------------------------------------------------------------------------

    /// The place of a node, made if the name is new.
    pub(crate) fn node_place(&mut self, name: Sym) -> NodeId {
        if let Some(id) = self.node_ids.get(&name) {
            return *id;
        }
        let id = match self.node_vacancies.pop() {
            Some(id) => {
                self.nodes[id.0 as usize] = Node::absent(name);
                id
            }
            None => {
                self.nodes.push(Node::absent(name));
                NodeId((self.nodes.len() - 1) as u32)
            }
        };
        self.node_ids.insert(name, id);
        id
    }

    /// Gives up the place of a node that the API does not know and that no pod names.
    fn retire(&mut self, id: NodeId) {
        let node = &self.nodes[id.0 as usize];
        if !node.present && node.pods.is_empty() && node.nominated.is_empty() {
            self.node_ids.remove(&node.name);
            self.node_vacancies.push(id);
        }
    }

    /// Sets what the API says of a node; `None` takes it away. True if that changed anything.
    pub(crate) fn set_node(&mut self, id: NodeId, reading: Option<NodeReading>) -> bool {
        let slot = id.0 as usize;
        let node = &self.nodes[slot];
        if node.present == reading.is_some() && reading.as_ref().is_none_or(|new| *new == *node.reading) {
            return false;
        }
        let empty = Arc::default();
        let images_before = self.nodes[slot].reading.clone();
        self.count_images(
            &images_before.images,
            &reading.as_ref().unwrap_or(&empty as &NodeReading).images,
            self.nodes[slot].present != reading.is_some(),
        );
        if self.nodes[slot].present {
            self.count_pods_of(id, false);
            let flipped = self.topology.detach_node(slot);
            self.layout += u64::from(flipped);
            self.nodes[slot].present = false;
            self.nodes_present -= 1;
        }
        self.nodes[slot].reading = Arc::default();
        if let Some(reading) = reading {
            self.nodes[slot].reading = Arc::new(reading);
            self.nodes[slot].present = true;
            self.nodes_present += 1;
            let flipped = self.topology.attach_node(&self.symbols, slot, &self.nodes[slot]);
            self.layout += u64::from(flipped);
            self.count_pods_of(id, true);
        }
        self.touch(id);
        self.retire(id);
        true
    }

    /// A node has other images than before, or came or went.
    fn count_images(&mut self, before: &[(Sym, i64)], after: &[(Sym, i64)], came_or_went: bool) {
        self.image_changes += 1;
        if came_or_went {
            self.nodes_changed = self.image_changes;
        }
        let missing = |image: Sym, from: &[(Sym, i64)]| from.binary_search_by_key(&image, |(name, _)| *name).is_err();
        for (image, _) in after.iter().filter(|(image, _)| missing(*image, before)) {
            let spread = self.images.entry(*image).or_default();
            *spread = ImageSpread {
                nodes: spread.nodes + 1,
                changed: self.image_changes,
            };
        }
        for (image, _) in before.iter().filter(|(image, _)| missing(*image, after)) {
            let spread = self.images.entry(*image).or_default();
            *spread = ImageSpread {
                nodes: spread.nodes.saturating_sub(1),
                changed: self.image_changes,
            };
            if spread.nodes == 0 {
                self.images.remove(image);
            }
        }
    }

    /// Changes whenever one of these images came to a node or went from one, or the share of nodes that have it changed.
    pub fn image_stamp(&self, images: &[Sym]) -> u64 {
        let spreads = images.iter().filter_map(|image| self.images.get(image));
        // Without the image anywhere, the number of nodes does not matter.
        spreads
            .map(|spread| spread.changed.max(self.nodes_changed))
            .max()
            .unwrap_or(0)
    }

    fn count_pods_of(&mut self, id: NodeId, added: bool) {
        for at in 0..self.nodes[id.0 as usize].pods.len() {
            let pod = self.nodes[id.0 as usize].pods[at];
            self.count_pod(pod, id, added);
        }
    }

    fn count_pod(&mut self, pod: PodId, node: NodeId, added: bool) {
        let record = self.pods[pod.0 as usize].as_ref().expect("nodes list known pods only");
        let class = self.classes[record.class.0 as usize]
            .as_ref()
            .expect("pods have live classes");
        for counter in &class.counted_by {
            self.topology
                .count(*counter, node.0 as usize, record.terminating, added);
        }
        for term in &class.carries {
            self.topology.count_term(*term, node.0 as usize, added);
        }
    }

    /// Writes a node into the change log.
    pub(crate) fn touch(&mut self, id: NodeId) {
        self.changes.push(id);
        let kept_max = 4 * self.nodes.len() + 4096;
        if self.changes.len() > 2 * kept_max {
            let dropped = self.changes.len() - kept_max;
            self.changes.drain(..dropped);
            self.changes_before += dropped as u64;
        }
    }

    /// Sets or takes away a disruption budget.
    pub(crate) fn set_budget(&mut self, key: String, budget: Option<Budget>) {
        let old = match budget.clone() {
            Some(budget) => self.budgets.insert(key, budget),
            None => self.budgets.remove(&key),
        };
        // What preemption remembers of any node may depend on it.
        self.layout += u64::from(old != budget);
    }

    /// Sets or takes away the selector of a service; true if that changed anything.
    pub(crate) fn set_service(&mut self, namespace: Sym, name: &str, selector: Option<LabelSelector>) -> bool {
        let key = (namespace, name.to_owned());
        let old = match selector.clone() {
            Some(new) => self.services.insert(key, new),
            None => self.services.remove(&key),
        };
        old != selector
    }

    /// Sets or takes away the selector of a controller (by `controller_name`); true if that changed anything.
    pub(crate) fn set_controller(&mut self, controller: Sym, selector: Option<LabelSelector>) -> bool {
        let old = match selector.clone() {
            Some(new) => self.controllers.insert(controller, new),
            None => self.controllers.remove(&controller),
        };
        old != selector
    }

    /// The pods that belong with a pod: those that all its Services and its controller select. `None` without any.
    pub fn default_spread_matcher(&self, signature: &PodSignature) -> Option<PodMatcher> {
        let namespace = signature.namespace;
        let services = self
            .services
            .range((namespace, String::new())..)
            .take_while(|((of, _), _)| *of == namespace);
        let selecting = services
            .map(|(_, selector)| selector)
            .filter(|selector| !selector.requirements.is_empty())
            .filter(|selector| selector.matches(&self.symbols, &signature.labels));
        let controller = signature
            .controller
            .and_then(|controller| self.controllers.get(&controller));
        let mut requirements: Vec<_> = selecting
            .chain(controller)
            .flat_map(|s| s.requirements.clone())
            .collect();
        if requirements.is_empty() {
            return None;
        }
        requirements.sort_by_key(|requirement| requirement.key);
        requirements.dedup();
        let selector = Some(LabelSelector { requirements });
        Some(PodMatcher {
            namespaces: vec![namespace],
            namespace_selector: None,
            selector,
        })
    }

    // ---- Pods ----------------------------------------------------------------------------------------------------

    /// Takes a pod in, pending. The class reference passes to the record.
    pub(crate) fn insert_pod(&mut self, record: PodRecord) -> PodId {
        let key = record.key.clone();
        let id = match self.pod_vacancies.pop() {
            Some(id) => {
                self.pods[id.0 as usize] = Some(record);
                id
            }
            None => {
                self.pods.push(Some(record));
                PodId((self.pods.len() - 1) as u32)
            }
        };
        self.pod_ids.insert(key, id);
        id
    }

    /// Takes a pod out; it must not be on a node.
    pub(crate) fn delete_pod(&mut self, id: PodId) -> PodRecord {
        let record = self.pods[id.0 as usize].take().expect("deleted pods are known");
        assert!(
            record.placement == Placement::Pending,
            "a pod leaves its node before it is forgotten"
        );
        self.pod_ids.remove(&record.key);
        self.pod_vacancies.push(id);
        self.release_class(record.class);
        record
    }

    /// Puts a pending pod on a node, or confirms an assumed one.
    pub(crate) fn place(&mut self, id: PodId, placement: Placement) {
        let old = self.pod(id).placement;
        if old.node() != placement.node() {
            self.lift(id);
            if let Some(node) = placement.node() {
                let signature = self.signature(id).clone();
                self.nodes[node.0 as usize].add(id, &signature);
                self.count_claims(&signature, true);
                if self.nodes[node.0 as usize].present {
                    self.count_pod(id, node, true);
                }
                self.touch(node);
            }
        }
        self.pod_mut(id).placement = placement;
    }

    /// Takes a pod off its node.
    pub(crate) fn lift(&mut self, id: PodId) {
        if let Some(node) = self.pod(id).placement.node() {
            self.lift_from(id, node);
            self.retire(node);
        }
    }

    fn lift_from(&mut self, id: PodId, node: NodeId) {
        let signature = self.signature(id).clone();
        if self.nodes[node.0 as usize].present {
            self.count_pod(id, node, false);
        }
        self.nodes[node.0 as usize].remove(id, &signature);
        self.count_claims(&signature, false);
        self.pod_mut(id).placement = Placement::Pending;
        self.touch(node);
    }

    /// Takes a pod off its node while something is tried out; `resume` puts it back. Its record keeps its place.
    pub fn suspend(&mut self, id: PodId) {
        if let Some(node) = self.pod(id).placement.node() {
            let placement = self.pod(id).placement;
            self.lift_from(id, node);
            self.pod_mut(id).placement = placement;
        }
    }

    /// Puts a suspended pod back on its node.
    pub fn resume(&mut self, id: PodId, node: NodeId) {
        let signature = self.signature(id).clone();
        self.nodes[node.0 as usize].add(id, &signature);
        self.count_claims(&signature, true);
        self.count_pod(id, node, true);
        self.touch(node);
    }

    /// Nominates a pod for a node, or takes the nomination back.
    pub(crate) fn nominate(&mut self, id: PodId, node: Option<NodeId>) {
        let old = self.pod(id).nominated;
        if old == node {
            return;
        }
        if let Some(old) = old {
            self.nodes[old.0 as usize].nominated.retain(|other| *other != id);
            self.touch(old);
            self.retire(old);
        }
        if let Some(new) = node {
            self.nodes[new.0 as usize].nominated.push(id);
            self.touch(new);
        }
        self.pod_mut(id).nominated = node;
    }

    /// Changes a pod's class (its labels or resources were updated) in place. The new reference passes in.
    pub(crate) fn set_class(&mut self, id: PodId, class: ClassId) {
        let placement = self.pod(id).placement;
        if let Some(node) = placement.node() {
            self.lift_from(id, node);
        }
        let old = self.pod(id).class;
        self.pod_mut(id).class = class;
        self.release_class(old);
        self.place(id, placement);
    }

    /// Sets when a pod started, by which preemption chooses.
    pub(crate) fn set_started(&mut self, id: PodId, started_ms: i64) {
        if self.pod(id).started_ms != started_ms {
            self.pod_mut(id).started_ms = started_ms;
            if let Some(node) = self.pod(id).placement.node() {
                self.touch(node);
            }
        }
    }

    /// Marks a pod as being deleted.
    pub(crate) fn set_terminating(&mut self, id: PodId) {
        let placement = self.pod(id).placement;
        if self.pod(id).terminating {
            return;
        }
        if let Some(node) = placement.node() {
            self.lift_from(id, node);
        }
        self.pod_mut(id).terminating = true;
        self.place(id, placement);
    }

    /// The record of a pod, for changes that no sum depends on.
    pub(crate) fn pod_mut(&mut self, id: PodId) -> &mut PodRecord {
        self.pods[id.0 as usize]
            .as_mut()
            .expect("pod ids are used only while the pod is known")
    }
}
