//! Owns the scheduler: the cluster state, the queue, the compiled classes, and the round that decides for pods. Called by
//! the scheduler actor, the simulation and the benchmarks. It must stay pure: the same calls give the same answers, time
//! and seed come from outside, and nothing is done to the world here.

use crate::cluster::{Budget, ClassId, Cluster, NodeId, Placement, PodId, PodRecord};
use crate::config::{Profile, SchedulerConfiguration};
use crate::cycle::{CompiledClass, Cycle, Found, NotFound, Search};
use crate::decision::{Binding, Decision, Preemption, Unschedulable};
use crate::framework::{ClusterEvent, PostFilterOutcome, QueueKey, Reasons, Unplaced, Verdict};
use crate::index::ClassIndex;
use crate::node::read_node;
use crate::pod::{PodKey, PodMatcher, PodReading, PodSignature, controller_name, read_labels, read_pod};
use crate::queue::{BackOff, PluginMask, Queue, QueueLengths, Stage, mask_of};
use crate::selector::LabelSelector;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::policy::v1 as policy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// The scheduler.
pub struct Scheduler {
    configuration: SchedulerConfiguration,
    profiles: FxHashMap<crate::intern::Sym, usize>,
    cluster: Cluster,
    queue: Queue,
    compiled: Vec<Option<Box<Compiled>>>,
    indexed: usize,
    now_ms: u64,
    decided: u64,
    window_start: usize,
}

/// What is kept for a class while it has pods.
struct Compiled {
    class: CompiledClass,
    index: Option<ClassIndex>,
    failure: Option<Failure>,
    uses: u64,
    last_used: u64,
}

/// Why a class fitted nowhere, and when that was found: it holds until something changes.
struct Failure {
    position: u64,
    layout: u64,
    why: NotFound,
}

/// Nodes times indexed classes, at most: about 100 bytes each.
const INDEX_ENTRIES_MAX: usize = 4_000_000;
/// An index that was not used for so many decisions may give way to another.
const INDEX_IDLE_DECISIONS: u64 = 10_000;

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
            compiled: Vec::new(),
            indexed: 0,
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
        self.queue.has_active()
    }

    /// When `schedule_batch` should be called again even if nothing happens (milliseconds, the caller's clock).
    pub fn next_wakeup_ms(&self) -> Option<u64> {
        self.queue.next_wakeup_ms()
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
            self.recompile(namespace);
        }
    }

    /// A service was removed.
    pub fn remove_service(&mut self, namespace: &str, name: &str) {
        let namespace = self.cluster.symbols.intern(namespace);
        if self.cluster.set_service(namespace, name, None) {
            self.recompile(namespace);
        }
    }

    /// A ReplicaSet, StatefulSet or ReplicationController was added or changed: its pods are spread by default.
    pub fn upsert_controller(&mut self, kind: &str, namespace: &str, name: &str, selector: &meta::LabelSelector) {
        let controller = controller_name(&mut self.cluster.symbols, kind, namespace, name);
        let selector = LabelSelector::parse(&mut self.cluster.symbols, selector);
        if self.cluster.set_controller(controller, Some(selector)) {
            let namespace = self.cluster.symbols.intern(namespace);
            self.recompile(namespace);
        }
    }

    /// Such a controller was removed.
    pub fn remove_controller(&mut self, kind: &str, namespace: &str, name: &str) {
        let controller = controller_name(&mut self.cluster.symbols, kind, namespace, name);
        if self.cluster.set_controller(controller, None) {
            let namespace = self.cluster.symbols.intern(namespace);
            self.recompile(namespace);
        }
    }

    /// Forgets what was compiled for the pods of a namespace that name no spread constraints of their own.
    fn recompile(&mut self, namespace: crate::intern::Sym) {
        for at in 0..self.compiled.len() {
            if self.compiled[at].is_none() {
                continue;
            }
            let signature = &self.cluster.class(ClassId(at as u32)).signature;
            if signature.namespace == namespace && signature.spread.is_empty() {
                self.discard(at);
            }
        }
    }

    /// Forgets what was compiled for a class.
    fn discard(&mut self, at: usize) {
        if let Some(compiled) = self.compiled.get_mut(at).and_then(Option::take) {
            self.indexed -= usize::from(compiled.index.is_some());
            compiled.class.release(&mut self.cluster);
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
            (0..self.compiled.len()).for_each(|at| self.discard(at));
            self.wake(&ClusterEvent::NamespaceChanged);
        }
    }

    /// A namespace was removed.
    pub fn remove_namespace(&mut self, name: &str) {
        let name = self.cluster.symbols.intern(name);
        if self.cluster.set_namespace(name, None) {
            (0..self.compiled.len()).for_each(|at| self.discard(at));
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
            let replaced = !known.is_empty() && !reading.uid.is_empty() && *known != reading.uid;
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

    /// The store refused a binding that was decided: the pod gives back its place and is tried again after its back-off.
    pub fn forget(&mut self, key: &PodKey, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        let Some(id) = self.cluster.pod_id(key) else { return };
        if !matches!(self.cluster.pod(id).placement, Placement::Assumed(_)) {
            return;
        }
        self.cluster.lift(id);
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
        self.activate(id);
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
        self.put_on(id, Placement::Bound(node));
    }

    fn admit_pod(&mut self, key: PodKey, reading: PodReading) {
        let scheduled_here = self.profiles.contains_key(&reading.signature.scheduler_name);
        if reading.node.is_none() && !scheduled_here {
            return;
        }
        let nominated = reading.nominated_node.filter(|_| reading.node.is_none());
        let class = self.cluster.hold_class(reading.signature);
        let id = self.cluster.insert_pod(PodRecord {
            uid: reading.uid,
            terminating: reading.terminating,
            started_ms: reading.started_ms,
            ..new_record(key, class)
        });
        if let Some(name) = reading.node {
            let node = self.cluster.node_place(name);
            self.put_on(id, Placement::Bound(node));
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
        record.started_ms = reading.started_ms;
        if reading.terminating {
            self.cluster.set_terminating(id);
        }
        if let Some(name) = reading.node {
            let node = self.cluster.node_place(name);
            self.put_on(id, Placement::Bound(node));
        } else if self.cluster.pod(id).placement == Placement::Pending {
            if reading.terminating {
                self.queue.remove(id);
                self.cluster.nominate(id, None);
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

    /// Puts a pod on a node, takes it out of the queue, and tells the waiting pods.
    fn put_on(&mut self, id: PodId, placement: Placement) {
        let moved = self.cluster.pod(id).placement.node() != placement.node();
        self.cluster.nominate(id, None);
        self.cluster.place(id, placement);
        self.queue.remove(id);
        if moved {
            let signature = self.cluster.signature(id).clone();
            self.wake(&ClusterEvent::PodPlaced(&signature));
        }
    }

    fn remove_id(&mut self, id: PodId) {
        let placed = self.cluster.pod(id).placement.node().is_some() || self.cluster.pod(id).nominated.is_some();
        let signature = self.cluster.signature(id).clone();
        self.queue.remove(id);
        self.cluster.nominate(id, None);
        self.cluster.lift(id);
        self.cluster.delete_pod(id);
        if placed {
            self.wake(&ClusterEvent::PodLifted(&signature));
        }
    }

    /// Drops what was compiled for classes that no pod has any more.
    fn sweep(&mut self) {
        for class in self.cluster.take_dropped_classes() {
            self.discard(class.0 as usize);
        }
    }

    // ---- The queue ----------------------------------------------------------------------------------------------

    fn profile_of(&self, signature: &PodSignature) -> Option<usize> {
        self.profiles.get(&signature.scheduler_name).copied()
    }

    fn enqueue(&mut self, id: PodId, gates: &[Box<str>]) {
        let Some(profile) = self.profile_of(self.cluster.signature(id)) else {
            return;
        };
        let plugins = &self.configuration.profiles[profile].plugins;
        if plugins.iter().any(|enabled| enabled.plugin.holds_back(gates).is_some()) {
            self.queue.gate(id);
        } else {
            self.activate(id);
        }
    }

    fn activate(&mut self, id: PodId) {
        let (profiles, cluster) = (&self.configuration.profiles, &self.cluster);
        self.queue
            .activate(id, |entered| queue_key(profiles, cluster, id, entered));
    }

    fn wake(&mut self, event: &ClusterEvent<'_>) {
        let (profiles, cluster) = (&self.configuration.profiles, &self.cluster);
        for group in self.queue.parked_groups() {
            let (class, refused_by) = group;
            let signature = &cluster.class(class).signature;
            let Some(profile) = self.profiles.get(&signature.scheduler_name) else {
                continue;
            };
            let mut plugins = profiles[*profile].plugins.iter().enumerate();
            let helps = refused_by == 0
                || plugins.any(|(at, enabled)| {
                    refused_by & mask_of(at) != 0 && enabled.plugin.may_help(cluster, event, signature)
                });
            if helps {
                self.queue.wake(group, self.now_ms, |pod, entered| {
                    queue_key(profiles, cluster, pod, entered)
                });
            }
        }
    }

    // ---- The round ----------------------------------------------------------------------------------------------

    /// Decides for up to `pods_max` pods that are ready, in the queue's order. Bindings are accounted for at once, so that
    /// each decision sees the earlier ones: `upsert_pod` confirms them, `forget` takes them back.
    pub fn schedule_batch(&mut self, now_ms: u64, pods_max: usize) -> Vec<Decision> {
        self.now_ms = self.now_ms.max(now_ms);
        let (profiles, cluster) = (&self.configuration.profiles, &self.cluster);
        self.queue
            .advance(self.now_ms, |pod, entered| queue_key(profiles, cluster, pod, entered));
        let mut decisions = Vec::new();
        while decisions.len() < pods_max {
            let Some(pod) = self.queue.pop() else { break };
            decisions.push(self.decide(pod));
        }
        decisions
    }

    fn decide(&mut self, pod: PodId) -> Decision {
        let class_id = self.cluster.pod(pod).class;
        self.compile(class_id);
        let mut compiled = self.compiled[class_id.0 as usize].take().expect("compiled above");
        let outcome = self.find(pod, class_id, &mut compiled);
        let decision = match outcome {
            Ok(found) => self.assume(pod, found),
            Err(not_found) => self.refuse(pod, class_id, &compiled.class, not_found),
        };
        self.compiled[class_id.0 as usize] = Some(compiled);
        decision
    }

    fn compile(&mut self, class: ClassId) {
        let at = class.0 as usize;
        if self.compiled.len() <= at {
            self.compiled.resize_with(at + 1, || None);
        }
        if self.compiled[at].is_none() {
            let signature = self.cluster.class(class).signature.clone();
            let profile = self
                .profile_of(&signature)
                .expect("only pods of our profiles are queued");
            let plugins = &self.configuration.profiles[profile];
            let class = CompiledClass::new(&mut self.cluster, profile, plugins, &signature);
            self.compiled[at] = Some(Box::new(Compiled {
                class,
                index: None,
                failure: None,
                uses: 0,
                last_used: 0,
            }));
        }
    }

    fn find(&mut self, pod: PodId, class_id: ClassId, compiled: &mut Compiled) -> Result<Found, NotFound> {
        let chance = chance(self.configuration.seed, self.decided);
        self.decided += 1;
        compiled.uses += 1;
        compiled.last_used = self.decided;
        let feasible_max = self.feasible_max(compiled.class.profile);
        let nominated = self.cluster.pod(pod).nominated.is_some();
        if nominated && let Some(found) = self.try_nominated(pod, &self.cycle(class_id, pod, &compiled.class)) {
            return Ok(found);
        }
        let slots = self.cluster.nodes().len();
        let tie_start = if slots == 0 {
            0
        } else {
            (chance % slots as u64) as usize
        };
        let whole = feasible_max == usize::MAX && !nominated;
        if whole && let Some(failure) = &compiled.failure {
            if failure.position == self.cluster.position() && failure.layout == self.cluster.layout() {
                return Err(failure.why.clone());
            }
            compiled.failure = None;
        }
        if whole && self.may_index(compiled) {
            // The index is of the class, so the cycle is of no pod in particular.
            let cycle = Cycle::new(&self.cluster, class_id, None, &compiled.class);
            let index = match compiled.index.take() {
                Some(mut index) => {
                    index.catch_up(&cycle);
                    index
                }
                None => {
                    self.indexed += 1;
                    ClassIndex::new(&cycle)
                }
            };
            let found = index.find(&cycle, tie_start);
            compiled.index = Some(index);
            if let Some(found) = found {
                return Ok(found);
            }
        }
        let window_start = if slots == 0 { 0 } else { self.window_start % slots };
        let found = self.cycle(class_id, pod, &compiled.class).find(&Search {
            tie_start,
            window_start,
            feasible_max,
        });
        match &found {
            Ok(found) if feasible_max < usize::MAX => {
                self.window_start = self.window_start.wrapping_add(found.examined);
            }
            Err(why) if whole => {
                let (position, layout) = (self.cluster.position(), self.cluster.layout());
                compiled.failure = Some(Failure {
                    position,
                    layout,
                    why: why.clone(),
                });
            }
            _ => {}
        }
        found
    }

    fn cycle<'a>(&'a self, class_id: ClassId, pod: PodId, class: &'a CompiledClass) -> Cycle<'a> {
        Cycle::new(&self.cluster, class_id, Some(pod), class)
    }

    /// Whether the class has an index, or is worth one: it is used again, and there is room, or an index is idle.
    fn may_index(&mut self, compiled: &Compiled) -> bool {
        if compiled.index.is_some() {
            return true;
        }
        if !self.configuration.indexed || compiled.uses < 2 || !compiled.class.is_indexable() {
            return false;
        }
        let classes_max = (INDEX_ENTRIES_MAX / self.cluster.nodes().len().max(1)).max(8);
        if self.indexed < classes_max {
            return true;
        }
        let idle_since = self.decided.saturating_sub(INDEX_IDLE_DECISIONS);
        let idle = self.compiled.iter_mut().flatten().filter(|other| other.index.is_some());
        match idle
            .min_by_key(|other| other.last_used)
            .filter(|other| other.last_used < idle_since)
        {
            Some(idle) => {
                idle.index = None;
                self.indexed -= 1;
                true
            }
            None => false,
        }
    }

    /// A pod for which room was made looks at that node first.
    fn try_nominated(&self, pod: PodId, cycle: &Cycle<'_>) -> Option<Found> {
        let node = self.cluster.pod(pod).nominated?;
        if !self.cluster.node(node).present || cycle.class.refusal.is_some() {
            return None;
        }
        let (verdict, _) = cycle.filter(
            node,
            &mut Reasons {
                said: Vec::new(),
                muted: true,
            },
        );
        (verdict == Verdict::Fits).then_some(Found {
            node,
            score: 0,
            feasible: 1,
            examined: 1,
        })
    }

    /// How many feasible nodes are enough.
    fn feasible_max(&self, profile: usize) -> usize {
        let own = self.configuration.profiles[profile].percentage_of_nodes_to_score;
        let percentage = own.unwrap_or(self.configuration.percentage_of_nodes_to_score);
        nodes_to_find(percentage, self.cluster.nodes_present()).unwrap_or(usize::MAX)
    }

    fn assume(&mut self, pod: PodId, found: Found) -> Decision {
        self.put_on(pod, Placement::Assumed(found.node));
        let record = self.cluster.pod(pod);
        Decision::Bind(Binding {
            pod: record.key.clone(),
            uid: record.uid.clone(),
            node: self.cluster.symbols.text(self.cluster.node(found.node).name).clone(),
            score: found.score,
            feasible_nodes: found.feasible,
            group: self
                .cluster
                .signature(pod)
                .group
                .map(|group| self.cluster.symbols.text(group).clone()),
        })
    }

    fn refuse(&mut self, pod: PodId, class_id: ClassId, class: &CompiledClass, why: NotFound) -> Decision {
        let outcome = self.post_filter(pod, class_id, class, &why);
        let preemption = match outcome {
            PostFilterOutcome::Skipped => Preemption::NotTried,
            PostFilterOutcome::Waiting(words) => Preemption::Failed(words.into()),
            PostFilterOutcome::Failed(words) => {
                self.cluster.nominate(pod, None);
                Preemption::Failed(words.into())
            }
            PostFilterOutcome::Nominated { node, victims } => {
                self.cluster.nominate(pod, Some(node));
                for victim in &victims {
                    self.cluster.pod_mut(*victim).evicted_until_ms = self.now_ms + EVICTION_AWAITED_MS;
                }
                Preemption::Nominated {
                    node: self.cluster.symbols.text(self.cluster.node(node).name).clone(),
                    victims: victims
                        .iter()
                        .map(|victim| self.cluster.pod(*victim).key.clone())
                        .collect(),
                }
            }
        };
        let refused_by = self.mask(class.profile, &why.diagnosis.plugins);
        self.queue.park(pod, self.now_ms, class_id, refused_by);
        let record = self.cluster.pod(pod);
        Decision::Unschedulable(Unschedulable {
            pod: record.key.clone(),
            uid: record.uid.clone(),
            diagnosis: why.diagnosis,
            preemption,
        })
    }

    fn mask(&self, profile: usize, plugins: &[&'static str]) -> PluginMask {
        let all = self.configuration.profiles[profile].plugins.iter().enumerate();
        all.filter(|(_, enabled)| plugins.contains(&enabled.plugin.name()))
            .fold(0, |mask, (at, _)| mask | mask_of(at))
    }

    fn post_filter(
        &mut self,
        pod: PodId,
        class_id: ClassId,
        class: &CompiledClass,
        why: &NotFound,
    ) -> PostFilterOutcome {
        let unplaced = Unplaced {
            pod,
            class: class_id,
            signature: self.cluster.class(class_id).signature.clone(),
            rules: class,
            candidates: &why.resolvable,
            now_ms: self.now_ms,
            chance: chance(self.configuration.seed, self.decided),
        };
        for enabled in &self.configuration.profiles[class.profile].plugins {
            match enabled.plugin.post_filter(&mut self.cluster, &unplaced) {
                PostFilterOutcome::Skipped => {}
                outcome => return outcome,
            }
        }
        PostFilterOutcome::Skipped
    }

    // ---- Questions ----------------------------------------------------------------------------------------------

    /// What would be decided for a pod now, node by node, without deciding anything: scores (weighted, by plugin) of the
    /// nodes that fit, the refusing plugin of those that do not. `None` if no profile schedules the pod.
    pub fn evaluate(&mut self, pod: &core::Pod) -> Option<Evaluation> {
        let reading = read_pod(&mut self.cluster.symbols, pod);
        self.profile_of(&reading.signature)?;
        let class_id = self.cluster.hold_class(reading.signature);
        self.compile(class_id);
        let compiled = self.compiled[class_id.0 as usize].take().expect("compiled above");
        let evaluation = self.evaluate_class(class_id, &compiled.class);
        self.compiled[class_id.0 as usize] = Some(compiled);
        self.cluster.release_class(class_id);
        self.sweep();
        Some(evaluation)
    }

    fn evaluate_class(&self, class_id: ClassId, class: &CompiledClass) -> Evaluation {
        let cycle = Cycle::new(&self.cluster, class_id, None, class);
        let names = &class.plugin_names;
        let mut feasible = Vec::new();
        let mut evaluation = Evaluation::default();
        for at in 0..self.cluster.nodes().len() as u32 {
            let id = NodeId(at);
            if !self.cluster.node(id).present {
                continue;
            }
            let name = self.cluster.symbols.text(self.cluster.node(id).name).clone();
            let refused = match &class.refusal {
                Some((plugin, _)) => Some(*plugin),
                None => match cycle.filter(
                    id,
                    &mut Reasons {
                        said: Vec::new(),
                        muted: true,
                    },
                ) {
                    (Verdict::Fits, _) => None,
                    (_, plugin) => Some(plugin),
                },
            };
            match refused {
                Some(plugin) => evaluation.refused.push((name, names[plugin])),
                None => {
                    feasible.push(id);
                    evaluation.feasible.push((name, Vec::new()));
                }
            }
        }
        for (plugin, column) in cycle.score_table(&feasible) {
            for ((_, scores), score) in evaluation.feasible.iter_mut().zip(column) {
                scores.push((names[plugin], score));
            }
        }
        evaluation
    }
}

/// How long a pod that waits for its victims to go does not look for others. Longer than a round trip to the store;
/// from then on the victims' deletion timestamps say the same.
const EVICTION_AWAITED_MS: u64 = 30_000;

/// The answer to a what-if question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evaluation {
    /// Nodes that fit, with the weighted score that each plugin gives.
    pub feasible: Vec<(Arc<str>, Vec<(&'static str, i64)>)>,
    /// Nodes that do not, with the plugin that refused.
    pub refused: Vec<(Arc<str>, &'static str)>,
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
    }
}

/// The place of a pod in the active queue, by the first plugin that sorts; arrival decides if none does.
fn queue_key(profiles: &[Profile], cluster: &Cluster, pod: PodId, entered: u64) -> QueueKey {
    let signature = cluster.signature(pod);
    let plugins = profiles.first().map_or(&[][..], |profile| &profile.plugins);
    plugins
        .iter()
        .find_map(|enabled| enabled.plugin.queue_key(signature, entered))
        .unwrap_or(QueueKey(0, entered))
}

/// A number from the seed and a count (SplitMix64): equal for equal arguments, and evenly spread.
fn chance(seed: u64, count: u64) -> u64 {
    let mut z = seed.wrapping_add(count.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Kubernetes' number of feasible nodes after which the search stops; `None` to look at all.
fn nodes_to_find(percentage: u32, nodes: usize) -> Option<usize> {
    const NODES_MIN: usize = 100;
    if nodes < NODES_MIN || percentage >= 100 {
        return None;
    }
    let percentage = match percentage {
        0 => 50usize.saturating_sub(nodes / 125).max(5),
        some => some as usize,
    };
    Some((nodes * percentage / 100).max(NODES_MIN))
}
