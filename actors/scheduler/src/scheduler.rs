//! Owns the scheduler: the cluster state, the queue, the compiled classes, and the round that decides for pods. Called by
//! the scheduler actor, the simulation and the benchmarks. It must stay pure: the same calls give the same answers, time
//! and seed come from outside, and nothing is done to the world here.

use crate::cluster::{Budget, ClassId, Cluster, NodeId, Placement, PodId, PodRecord};
use crate::config::{Profile, SchedulerConfiguration};
use crate::framework::{ClusterEvent, ExtensionPoints, QueueKey};
use crate::groups::Groups;
use crate::intern::Sym;
use crate::node::read_node;
use crate::permit::WaitingPods;
use crate::plan::Plans;
use crate::pod::{PodKey, PodMatcher, PodReading, PodSignature, controller_name, read_labels, read_pod};
use crate::queue::{BackOff, Queue, QueueLengths, Stage, mask_of};
use crate::selector::LabelSelector;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::policy::v1 as policy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// The scheduler.
pub struct Scheduler {
    pub(crate) configuration: SchedulerConfiguration,
    pub(crate) profiles: FxHashMap<Sym, usize>,
    pub(crate) cluster: Cluster,
    pub(crate) queue: Queue,
    pub(crate) plans: Plans,
    pub(crate) groups: Groups,
    pub(crate) waiting: WaitingPods,
    pub(crate) now_ms: u64,
    pub(crate) decided: u64,
    pub(crate) window_start: usize,
}

/// A reference to an interned pod signature, for callers that make many equal pods (`Scheduler::intern`). It lives as
/// long as the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignatureId(ClassId);

impl Scheduler {
    /// A scheduler that knows nothing of the cluster.
    pub fn new(configuration: SchedulerConfiguration) -> Self {
        let mut cluster = Cluster::default();
        let profiles = configuration
            .profiles
            .iter()
            .enumerate()
            .map(|(at, profile)| (cluster.symbols.intern(&profile.scheduler_name), at))
            .collect();
        let back_off = BackOff {
            initial_ms: configuration.backoff_initial_ms,
            max_ms: configuration.backoff_max_ms,
        };
        Self {
            queue: Queue::new(back_off, configuration.unschedulable_max_ms),
            configuration,
            profiles,
            cluster,
            plans: Plans::default(),
            groups: Groups::default(),
            waiting: WaitingPods::default(),
            now_ms: 0,
            decided: 0,
            window_start: 0,
        }
    }

    /// The state, for reading.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// How many pods wait where.
    pub fn queue_lengths(&self) -> QueueLengths {
        self.queue.lengths()
    }

    /// Where a pod waits; `None` if it does not.
    pub fn stage(&self, key: &PodKey) -> Option<Stage> {
        self.queue.stage(self.cluster.pod_id(key)?)
    }

    /// The node of a pod: bound, or assumed by a decision.
    pub fn node_of(&self, key: &PodKey) -> Option<&Arc<str>> {
        let node = self.cluster.pod(self.cluster.pod_id(key)?).placement.node()?;
        Some(self.cluster.symbols.text(self.cluster.node(node).name))
    }

    /// Whether `schedule_batch` has something to decide now.
    pub fn has_work(&self) -> bool {
        self.queue.has_active() || self.waiting.has_settled()
    }

    /// When `schedule_batch` should be called again even if nothing happens (milliseconds, the caller's clock).
    pub fn next_wakeup_ms(&self) -> Option<u64> {
        let timeout = self.waiting.next_timeout_ms();
        timeout.into_iter().chain(self.queue.next_wakeup_ms()).min()
    }

    // ---- What happens in the cluster --------------------------------------------------------------------------------

    /// A node was added or changed. True if scheduling reads anything that changed.
    pub fn upsert_node(&mut self, node: &core::Node) -> bool {
        let name = self
            .cluster
            .symbols
            .intern(node.metadata.name.as_deref().unwrap_or_default());
        let reading = read_node(&mut self.cluster.symbols, node);
        let id = self.cluster.node_place(name);
        let before = self.cluster.node(id).reading.clone();
        let was_present = self.cluster.node(id).present;
        if !self.cluster.set_node(id, Some(reading)) {
            return false;
        }
        let node = self.cluster.node(id).clone();
        if was_present {
            self.wake(&ClusterEvent::NodeChanged {
                before: &before,
                node: &node,
            });
        } else {
            self.wake(&ClusterEvent::NodeAdded(&node));
        }
        true
    }

    /// A node was removed. Pods on it stay accounted for on its name until they are removed themselves.
    pub fn remove_node(&mut self, name: &str) {
        let id = self
            .cluster
            .symbols
            .lookup(name)
            .and_then(|sym| self.cluster.node_id(sym));
        if let Some(id) = id
            && self.cluster.set_node(id, None)
        {
            self.wake(&ClusterEvent::NodeRemoved);
        }
    }

    /// A disruption budget was added or changed: preemption prefers not to violate it.
    pub fn upsert_budget(&mut self, budget: &policy::PodDisruptionBudget) {
        let symbols = &mut self.cluster.symbols;
        let namespace = budget.metadata.namespace.as_deref().unwrap_or("default");
        let spec = budget.spec.as_ref();
        let status = budget.status.as_ref();
        let read = Budget {
            matcher: PodMatcher {
                namespaces: vec![symbols.intern(namespace)],
                namespace_selector: None,
                selector: spec
                    .and_then(|s| s.selector.as_ref())
                    .map(|s| LabelSelector::parse(symbols, s)),
            },
            disruptions_allowed: status.and_then(|s| s.disruptions_allowed).unwrap_or(0),
            disrupted: status
                .and_then(|s| s.disrupted_pods.as_ref())
                .into_iter()
                .flatten()
                .map(|(n, _)| n.clone())
                .collect(),
        };
        let key = format!("{namespace}/{}", budget.metadata.name.as_deref().unwrap_or_default());
        self.cluster.set_budget(key, Some(read));
    }

    /// A disruption budget was removed.
    pub fn remove_budget(&mut self, namespace: &str, name: &str) {
        self.cluster.set_budget(format!("{namespace}/{name}"), None);
    }

    /// A service was added or changed: pods that it selects are spread by default.
    pub fn upsert_service(&mut self, service: &core::Service) {
        let symbols = &mut self.cluster.symbols;
        let namespace = symbols.intern(service.metadata.namespace.as_deref().unwrap_or("default"));
        let match_labels = service.spec.as_ref().and_then(|spec| spec.selector.clone());
        let selector = LabelSelector::parse(
            symbols,
            &meta::LabelSelector {
                match_labels,
                match_expressions: None,
            },
        );
        let name = service.metadata.name.as_deref().unwrap_or_default();
        if self.cluster.set_service(namespace, name, Some(selector)) {
            self.plans.release_namespace(&mut self.cluster, namespace);
        }
    }

    /// A service was removed.
    pub fn remove_service(&mut self, namespace: &str, name: &str) {
        let namespace = self.cluster.symbols.intern(namespace);
        if self.cluster.set_service(namespace, name, None) {
            self.plans.release_namespace(&mut self.cluster, namespace);
        }
    }

    /// A ReplicaSet, StatefulSet or ReplicationController was added or changed: its pods are spread by default.
    pub fn upsert_controller(&mut self, kind: &str, namespace: &str, name: &str, selector: &meta::LabelSelector) {
        let controller = controller_name(&mut self.cluster.symbols, kind, namespace, name);
        let selector = LabelSelector::parse(&mut self.cluster.symbols, selector);
        if self.cluster.set_controller(controller, Some(selector)) {
            let namespace = self.cluster.symbols.intern(namespace);
            self.plans.release_namespace(&mut self.cluster, namespace);
        }
    }

    /// Such a controller was removed.
    pub fn remove_controller(&mut self, kind: &str, namespace: &str, name: &str) {
        let controller = controller_name(&mut self.cluster.symbols, kind, namespace, name);
        if self.cluster.set_controller(controller, None) {
            let namespace = self.cluster.symbols.intern(namespace);
            self.plans.release_namespace(&mut self.cluster, namespace);
        }
    }

    /// A namespace was added or changed: its labels decide for terms with a namespace selector.
    pub fn upsert_namespace(&mut self, namespace: &core::Namespace) {
        let name = self
            .cluster
            .symbols
            .intern(namespace.metadata.name.as_deref().unwrap_or_default());
        let labels = read_labels(&mut self.cluster.symbols, namespace.metadata.labels.as_ref());
        if self.cluster.set_namespace(name, Some(labels)) {
            self.plans.release_all(&mut self.cluster);
            self.wake(&ClusterEvent::NamespaceChanged);
        }
    }

    /// A namespace was removed.
    pub fn remove_namespace(&mut self, name: &str) {
        let name = self.cluster.symbols.intern(name);
        if self.cluster.set_namespace(name, None) {
            self.plans.release_all(&mut self.cluster);
            self.wake(&ClusterEvent::NamespaceChanged);
        }
    }

    /// A pod was added or changed: bound pods are accounted for on their node, pending ones are queued (or held back by
    /// their gates), finished ones give back what they held. Pods of other schedulers count only once they are bound.
    pub fn upsert_pod(&mut self, pod: &core::Pod) {
        let key = PodKey::of(pod);
        let reading = read_pod(&mut self.cluster.symbols, pod);
        if let Some(id) = self.cluster.pod_id(&key) {
            let known = &self.cluster.pod(id).uid;
            // Another object of the same name; or fields changed that the API never changes.
            let before = self.cluster.signature(id);
            let replaced = !known.is_empty() && !reading.uid.is_empty() && *known != reading.uid
                || before.group != reading.signature.group
                || before.scheduler_name != reading.signature.scheduler_name;
            if replaced || reading.terminal {
                self.remove_id(id);
            }
        }
        if reading.terminal {
            self.sweep();
            return;
        }
        match self.cluster.pod_id(&key) {
            Some(id) => self.update_pod(id, reading),
            None => self.admit_pod(key, reading),
        }
        self.sweep();
    }

    /// A pod was removed.
    pub fn remove_pod(&mut self, key: &PodKey) {
        if let Some(id) = self.cluster.pod_id(key) {
            self.remove_id(id);
            self.sweep();
        }
    }

    /// The store took a binding that was decided, and nothing else of the pod has changed since: what `upsert_pod` would do with
    /// the bound pod, without reading it. False, and nothing is done, if the pod is not assumed to be on a node.
    pub fn confirm(&mut self, key: &PodKey) -> bool {
        let Some(id) = self.cluster.pod_id(key) else {
            return false;
        };
        let Placement::Assumed(node) = self.cluster.pod(id).placement else {
            return false;
        };
        self.put_on(id, node);
        self.sweep();
        true
    }

    /// The store refused a binding that was decided: the pod gives back its place and is tried again after its back-off.
    pub fn forget(&mut self, key: &PodKey, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        let Some(id) = self.cluster.pod_id(key) else { return };
        if !matches!(self.cluster.pod(id).placement, Placement::Assumed(_)) {
            return;
        }
        self.give_up(id);
        self.queue.bring_back(id, self.cluster.pod(id).attempts);
        self.queue.back_off(id, self.now_ms);
        let signature = self.cluster.signature(id).clone();
        self.wake(&ClusterEvent::PodLifted(&signature));
    }

    /// Interns the signature of a pod object, for `insert_pending` and `insert_bound`.
    pub fn intern(&mut self, pod: &core::Pod) -> SignatureId {
        let reading = read_pod(&mut self.cluster.symbols, pod);
        SignatureId(self.cluster.hold_class(reading.signature))
    }

    /// Queues a pod of an interned signature, without an API object. Does nothing if the key is known.
    pub fn insert_pending(&mut self, key: PodKey, signature: SignatureId) {
        if self.cluster.pod_id(&key).is_some() {
            return;
        }
        self.cluster.hold_class_again(signature.0);
        let id = self.cluster.insert_pod(new_record(key, signature.0));
        if let Some(group) = self.cluster.class(signature.0).signature.group {
            self.groups.join(group, id);
        }
        self.enqueue(id, &[]);
    }

    /// Accounts for a bound pod of an interned signature, without an API object. Does nothing if the key is known.
    pub fn insert_bound(&mut self, key: PodKey, signature: SignatureId, node: &str) {
        if self.cluster.pod_id(&key).is_some() {
            return;
        }
        let name = self.cluster.symbols.intern(node);
        let node = self.cluster.node_place(name);
        self.cluster.hold_class_again(signature.0);
        let id = self.cluster.insert_pod(new_record(key, signature.0));
        self.put_on(id, node);
    }

    fn admit_pod(&mut self, key: PodKey, reading: PodReading) {
        let scheduled_here = self.profiles.contains_key(&reading.signature.scheduler_name);
        if reading.node.is_none() && !scheduled_here {
            return;
        }
        let nominated = reading.nominated_node.filter(|_| reading.node.is_none());
        let group = reading.signature.group;
        let class = self.cluster.hold_class(reading.signature);
        let id = self.cluster.insert_pod(PodRecord {
            uid: reading.uid,
            terminating: reading.terminating,
            started_ms: reading.started_ms,
            ..new_record(key, class)
        });
        if let Some(group) = group {
            self.groups.join(group, id);
        }
        if let Some(name) = reading.node {
            let node = self.cluster.node_place(name);
            self.put_on(id, node);
            return;
        }
        if let Some(node) = nominated.and_then(|name| self.cluster.node_id(name)) {
            self.cluster.nominate(id, Some(node));
        }
        // A pod that is being deleted before it was bound is not worth a node.
        if !reading.terminating {
            self.enqueue(id, &reading.gates);
        }
    }

    fn update_pod(&mut self, id: PodId, reading: PodReading) {
        let before = self.cluster.signature(id).clone();
        let class = self.cluster.hold_class(reading.signature);
        let changed = class != self.cluster.pod(id).class;
        let was_terminating = self.cluster.pod(id).terminating;
        if changed {
            // The queue knows parked pods by class: out first.
            let stage = self.queue.stage(id);
            if matches!(stage, Some(Stage::Parked { .. })) {
                self.activate(id);
            }
            self.cluster.set_class(id, class);
            if matches!(stage, Some(Stage::Active(_) | Stage::Parked { .. })) {
                self.activate(id);
            }
        } else {
            self.cluster.release_class(class);
        }
        let record = self.cluster.pod_mut(id);
        if record.uid.is_empty() {
            record.uid = reading.uid;
        }
        self.cluster.set_started(id, reading.started_ms);
        if reading.terminating {
            self.cluster.set_terminating(id);
        }
        if let Some(name) = reading.node {
            let node = self.cluster.node_place(name);
            self.put_on(id, node);
        } else if self.cluster.pod(id).placement == Placement::Pending {
            if reading.terminating {
                self.queue.remove(id);
                self.withdraw(id);
            } else if self.queue.stage(id) == Some(Stage::Gated) || self.queue.stage(id).is_none() {
                self.enqueue(id, &reading.gates);
            }
        }
        if self.cluster.pod(id).placement.node().is_some() && (changed || was_terminating != reading.terminating) {
            let after = self.cluster.signature(id).clone();
            self.wake(&ClusterEvent::PodChanged {
                before: &before,
                after: &after,
            });
        }
    }

    /// Puts a bound pod on its node, takes it out of the queue, and tells the waiting pods.
    fn put_on(&mut self, id: PodId, node: NodeId) {
        let placement = Placement::Bound(node);
        let assumed_here = self.cluster.pod(id).placement == Placement::Assumed(node);
        let moved = self.cluster.pod(id).placement.node() != placement.node();
        if self.cluster.pod(id).nominated == placement.node() {
            self.cluster.nominate(id, None);
        }
        self.cluster.place(id, placement);
        self.queue.remove(id);
        self.waiting.remove(id);
        self.withdraw(id);
        if moved {
            let signature = self.cluster.signature(id).clone();
            self.wake(&ClusterEvent::PodPlaced(&signature));
        }
        if assumed_here {
            self.post_bind(id, node);
        }
    }

    /// Takes a nomination back: the place that was kept is free for others.
    pub(crate) fn withdraw(&mut self, id: PodId) {
        if self.cluster.pod(id).nominated.is_some() {
            self.cluster.nominate(id, None);
            let signature = self.cluster.signature(id).clone();
            self.wake(&ClusterEvent::PodLifted(&signature));
        }
    }

    fn remove_id(&mut self, id: PodId) {
        let placed = self.cluster.pod(id).placement.node().is_some() || self.cluster.pod(id).nominated.is_some();
        let signature = self.cluster.signature(id).clone();
        if let Some(group) = signature.group {
            self.groups.leave(group, id);
        }
        self.queue.remove(id);
        self.cluster.nominate(id, None);
        self.give_up(id);
        self.cluster.delete_pod(id);
        if placed {
            self.wake(&ClusterEvent::PodLifted(&signature));
        }
    }

    /// Lets go of the plans of classes that no pod has any more.
    pub(crate) fn sweep(&mut self) {
        for class in self.cluster.take_dropped_classes() {
            self.plans.release(&mut self.cluster, class);
        }
    }

    // ---- The queue ----------------------------------------------------------------------------------------------

    pub(crate) fn profile_of(&self, signature: &PodSignature) -> Option<usize> {
        self.profiles.get(&signature.scheduler_name).copied()
    }

    /// Queues a pod, or holds it back: for its gates, or until its gang is complete.
    fn enqueue(&mut self, id: PodId, gates: &[Box<str>]) {
        let signature = self.cluster.signature(id).clone();
        let Some(profile) = self.profile_of(&signature) else {
            return;
        };
        let plugins = &self.configuration.profiles[profile].plugins;
        let mut asked = plugins
            .iter()
            .filter(|enabled| enabled.points.meets(ExtensionPoints::PRE_ENQUEUE));
        if asked.any(|enabled| enabled.plugin.holds_back(gates).is_some()) {
            self.queue.gate(id);
            return;
        }
        match signature.group {
            Some(group) => {
                self.queue.gate(id);
                self.groups.is_ready(group, id);
                self.release_gang(group);
            }
            None => self.activate(id),
        }
    }

    /// Queues the pods of a group, and of those placed with it, that wait for it only, if enough are there.
    pub(crate) fn release_gang(&mut self, group: Sym) {
        for pod in self.groups.released(group) {
            if self.queue.stage(pod) == Some(Stage::Gated) {
                self.activate(pod);
            }
        }
    }

    pub(crate) fn activate(&mut self, id: PodId) {
        let (profiles, cluster) = (&self.configuration.profiles, &self.cluster);
        self.queue
            .activate(id, |entered| queue_key(profiles, cluster, id, entered));
    }

    pub(crate) fn wake(&mut self, event: &ClusterEvent<'_>) {
        let (profiles, cluster) = (&self.configuration.profiles, &self.cluster);
        if self.queue.lengths().unschedulable == 0 {
            return;
        }
        let kind = event.kind();
        let hears = |profile: &Profile| {
            let plugins = profile
                .plugins
                .iter()
                .enumerate()
                .filter(|(_, enabled)| enabled.plugin.hears().meets(kind));
            plugins.fold(0, |mask, (at, _)| mask | mask_of(at))
        };
        let heard = profiles.iter().fold(0, |mask, profile| mask | hears(profile));
        for group in self.queue.parked_groups(heard) {
            let (class, refused_by) = group;
            let signature = &cluster.class(class).signature;
            let Some(profile) = self.profiles.get(&signature.scheduler_name) else {
                continue;
            };
            let mut plugins = profiles[*profile].plugins.iter().enumerate();
            let helps = refused_by == 0
                || plugins.any(|(at, enabled)| {
                    refused_by & mask_of(at) != 0
                        && enabled.plugin.hears().meets(kind)
                        && enabled.plugin.may_help(cluster, event, signature)
                });
            if helps {
                self.queue.wake(group, self.now_ms, |pod, entered| {
                    queue_key(profiles, cluster, pod, entered)
                });
            }
        }
    }
}

fn new_record(key: PodKey, class: ClassId) -> PodRecord {
    PodRecord {
        key,
        uid: Box::default(),
        class,
        placement: Placement::Pending,
        terminating: false,
        nominated: None,
        evicted_until_ms: 0,
        started_ms: 0,
        attempts: 0,
    }
}

/// The place of a pod in the active queue, by the first plugin that sorts; arrival decides if none does.
pub(crate) fn queue_key(profiles: &[Profile], cluster: &Cluster, pod: PodId, entered: u64) -> QueueKey {
    let signature = cluster.signature(pod);
    let plugins = profiles.first().map_or(&[][..], |profile| &profile.plugins);
    let mut sorting = plugins
        .iter()
        .filter(|enabled| enabled.points.meets(ExtensionPoints::QUEUE_SORT));
    sorting
        .find_map(|enabled| enabled.plugin.queue_key(signature, entered))
        .unwrap_or(QueueKey(0, entered))
}
