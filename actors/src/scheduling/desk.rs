//! What the scheduler's actor does between the store and the crate `scheduler`: keeps it fed (`feed` says with what), and
//! turns its decisions into writes and notes. Pure: time comes in; the same observations give the same writes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use protocol::store::Write;
use protocol::{Draft, Key, Object, Uid, UnixMillis};
use scheduler::{
    BindMethod, Binding, Decision, PodKey, PreBind, Preemption, Scheduler, SchedulerConfiguration, Unschedulable,
};
use serde_json::{Value, json};

use super::binding::Bound;
use super::configuration;
use super::feed::{self, PODS, PRIORITY_CLASSES};
use super::patches::{self, Patches};
use super::pod_reading::PodReader;
use super::priority::{PriorityClasses, Resolved};
use crate::conditions::{self, Times, Wanted};
use crate::effects::{Intent, Note, Regarding, Severity};
use crate::kind::ObserveError;
use crate::ownership;

pub(super) const COMPONENT: &str = "default-scheduler";
const GATED: &str = "Scheduling is blocked due to non-empty scheduling gates";

/// The scheduler and the pods that wait for it.
pub struct Desk {
    scheduler: Scheduler,
    classes: PriorityClasses,
    reader: PodReader,
    /// Pods that are not bound, as they were last seen.
    pending: HashMap<PodKey, Pending>,
    /// Claims and volumes, as they were last seen: what must be written of them for a pod to be bound.
    storage: BTreeMap<Key, Arc<Object>>,
    /// Pods whose gates have not been written about.
    gated: BTreeSet<PodKey>,
    bound: u64,
}

/// A pod that waits.
struct Pending {
    key: Key,
    object: Arc<Object>,
    /// Its priority, if only its class says it.
    priority: Option<Resolved>,
    /// Its binding, while nobody has said what became of it.
    sent: Option<Draft>,
}

/// A pod that has to make room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    /// The pod.
    pub key: Key,
    /// Its uid: another pod of the name is not meant.
    pub uid: String,
    /// For whom.
    pub preemptor: Key,
}

/// One round's writes. The groups are independent of each other.
#[derive(Default)]
pub struct Round {
    /// Bindings: each group is written whole or not at all. On a refusal, its pods are forgotten.
    pub bindings: Vec<BindingGroup>,
    /// Conditions about pods that were not placed, each with the notes to write if it was.
    pub conditions: Vec<(Intent, Vec<Note>)>,
    /// Pods that have to make room.
    pub victims: Vec<Victim>,
    /// Writes about volumes that must come before bindings. Their pods are decided about again when the claims are bound.
    pub volumes: Vec<Intent>,
}

/// Bindings that belong together.
#[derive(Default)]
pub struct BindingGroup {
    /// The pods.
    pub pods: Vec<Key>,
    /// Their writes, and those of objects that plugins want written with them.
    pub writes: Vec<Write>,
    /// What plugins want written with them of objects that are not known here.
    pub patches: Patches,
    /// What to tell of them when they were bound.
    pub placed: Vec<Placed>,
}

/// A pod that was put on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The pod.
    pub key: Key,
    /// Its uid.
    pub uid: Uid,
    /// The node.
    pub node: Arc<str>,
}

impl Placed {
    /// What is told of it.
    pub fn note(&self) -> Note {
        let Key { namespace, name, .. } = &self.key;
        let message = format!("Successfully assigned {namespace}/{name} to {}", self.node);
        note(&self.key, &self.uid, Severity::Normal, "Scheduled", message)
    }
}

impl Desk {
    /// A desk that knows nothing so far.
    pub fn new(configuration: SchedulerConfiguration) -> Desk {
        let scheduler = Scheduler::new(configuration);
        Desk {
            scheduler,
            classes: PriorityClasses::default(),
            reader: PodReader::default(),
            pending: HashMap::new(),
            storage: BTreeMap::new(),
            gated: BTreeSet::new(),
            bound: 0,
        }
    }

    /// The resources that it reads, in the order in which a start reads them.
    pub fn resources() -> &'static [&'static str] {
        &feed::RESOURCES
    }

    /// Whether an object concerns the scheduler.
    pub fn wants(key: &Key) -> bool {
        feed::RESOURCES.contains(&key.resource.as_str()) || configuration::is_it(key)
    }

    /// Takes note of an object. `None` means that it does not exist.
    pub fn observe(&mut self, key: &Key, object: Option<&Arc<Object>>) -> Result<(), ObserveError> {
        match (key.resource.as_str(), object) {
            (PODS, Some(object)) => self.observe_pod(key, object),
            (PODS, None) => {
                let pod = pod_key(key);
                self.pending.remove(&pod);
                self.gated.remove(&pod);
                self.scheduler.remove_pod(&pod);
                Ok(())
            }
            (PRIORITY_CLASSES, object) => {
                if self.classes.observe(key, object)? {
                    self.judge_again()?;
                }
                Ok(())
            }
            (resource, object) => {
                if feed::is_written(resource) {
                    match object {
                        Some(object) => self.storage.insert(key.clone(), Arc::clone(object)),
                        None => self.storage.remove(key),
                    };
                }
                feed::observe(&mut self.scheduler, key, object)
            }
        }
    }

    /// The classes have changed: pods that wait and have no number of their own may have another priority.
    fn judge_again(&mut self) -> Result<(), ObserveError> {
        let waiting = self.pending.values();
        let mut waiting: Vec<(Key, Arc<Object>)> = waiting
            .map(|pending| (pending.key.clone(), Arc::clone(&pending.object)))
            .collect();
        waiting.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for (key, object) in waiting {
            self.observe_pod(&key, &object)?;
        }
        Ok(())
    }

    fn observe_pod(&mut self, key: &Key, object: &Arc<Object>) -> Result<(), ObserveError> {
        let name = pod_key(key);
        // The store has taken the binding that was sent, as it was sent: all of it is known.
        let sent = self.pending.get(&name).and_then(|pending| pending.sent.as_ref());
        if sent.is_some_and(|sent| sent.changes_nothing(object)) && self.scheduler.confirm(&name) {
            self.pending.remove(&name);
            return Ok(());
        }
        let (scheduler, classes) = (&mut self.scheduler, &self.classes);
        let seen = self.reader.read(key, object, |pod| see(scheduler, classes, pod))?;
        let Seen { priority, bound, gates } = seen;
        if bound {
            self.pending.remove(&name);
            self.gated.remove(&name);
            return Ok(());
        }
        let pending = Pending {
            key: key.clone(),
            object: Arc::clone(object),
            priority,
            sent: None,
        };
        self.pending.insert(name.clone(), pending);
        if gates && !object.header.deleting {
            self.gated.insert(name);
        } else {
            self.gated.remove(&name);
        }
        Ok(())
    }

    /// Whether a round would decide something at once.
    pub fn has_work(&self) -> bool {
        self.scheduler.has_work() || !self.gated.is_empty()
    }

    /// When a round would next decide something by itself.
    pub fn next_wakeup(&self) -> Option<UnixMillis> {
        self.scheduler.next_wakeup_ms().map(UnixMillis)
    }

    /// Pods that wait, by stage, and how many were bound here.
    pub fn summary(&self) -> String {
        let lengths = self.scheduler.queue_lengths();
        format!(
            "{} bound, {} waiting ({} active, {} backing off, {} unschedulable, {} gated)",
            self.bound,
            self.pending.len(),
            lengths.active,
            lengths.backing_off,
            lengths.unschedulable,
            lengths.gated
        )
    }

    /// Decides for at most so many pods.
    pub fn round(&mut self, now: UnixMillis, pods_max: usize) -> Round {
        let mut round = Round::default();
        let mut gangs = Gangs::default();
        for decision in self.scheduler.schedule_batch(now.0, pods_max) {
            match decision {
                Decision::Bind(binding) => self.take_binding(&binding, now, &mut gangs, &mut round),
                Decision::Unschedulable(refused) => {
                    let Some(pending) = self.pending.get(&refused.pod) else {
                        continue;
                    };
                    if let Preemption::Nominated { victims, .. } = &refused.preemption {
                        round
                            .victims
                            .extend(victims.iter().map(|pod| self.victim(pod, &pending.key)));
                    }
                    round
                        .conditions
                        .extend(explain(&pending.key, &pending.object, &refused, now));
                }
            }
        }
        for (name, group) in gangs.groups {
            if gangs.waiting.contains(&name) {
                self.refused(&group.pods, now);
            } else {
                round.bindings.push(group);
            }
        }
        for group in &mut round.bindings {
            self.write_patches(group);
        }
        for name in std::mem::take(&mut self.gated) {
            let Some(pending) = self.pending.get(&name) else {
                continue;
            };
            round
                .conditions
                .extend(explain_gates(&pending.key, &pending.object, now).map(|intent| (intent, Vec::new())));
        }
        round
    }

    fn take_binding(&mut self, binding: &Binding, now: UnixMillis, gangs: &mut Gangs, round: &mut Round) {
        // The plugin that took the pod on has it bound; until the store shows that, it is accounted for.
        if let BindMethod::Elsewhere(_) = binding.method {
            return;
        }
        let waits = binding.pre_bind.iter().any(|step| !matches!(step, PreBind::Patch(_)));
        let bound = match self.pending.get_mut(&binding.pod) {
            Some(pending) if !waits => bind(pending, binding, now),
            _ => None,
        };
        let Some((write, placed)) = bound else {
            // It gives its place back; the claims that become bound bring it forth again. Its gang waits with it.
            let writes = binding.pre_bind.iter().filter_map(|step| self.prepare_volume(step));
            round.volumes.extend(writes);
            gangs.waiting.extend(binding.group.clone());
            self.scheduler.forget(&binding.pod, now.0);
            return;
        };
        let group = match &binding.group {
            Some(name) => gangs.groups.entry(Arc::clone(name)).or_default(),
            None => {
                round.bindings.push(BindingGroup::default());
                round.bindings.last_mut().expect("it was put there right above")
            }
        };
        group.push(write, placed);
        for step in &binding.pre_bind {
            if let PreBind::Patch(patch) = step {
                patches::add(&mut group.patches, patch);
            }
        }
    }

    /// Makes writes of a group's patches, as far as their objects are kept here: against what was decided about.
    fn write_patches(&self, group: &mut BindingGroup) {
        for (key, patch) in std::mem::take(&mut group.patches) {
            match self.storage.get(&key) {
                Some(base) => group.writes.extend(patches::write(&key, base, &patch)),
                None => {
                    group.patches.insert(key, patch);
                }
            }
        }
    }

    fn victim(&self, pod: &PodKey, preemptor: &Key) -> Victim {
        let cluster = self.scheduler.cluster();
        let uid = cluster.pod_id(pod).map(|id| cluster.pod(id).uid.to_string());
        Victim {
            key: Key::new(PODS, pod.namespace(), pod.name()),
            uid: uid.unwrap_or_default(),
            preemptor: preemptor.clone(),
        }
    }

    /// What must be written of a volume or a claim before a pod is bound. Nothing if it says so already.
    fn prepare_volume(&self, step: &PreBind) -> Option<Intent> {
        match step {
            PreBind::BindVolume { claim, volume } => {
                let claim = self.storage.get(&feed::claim_key(claim)?)?.value().ok()?;
                let key = feed::volume_key(volume);
                let reference = json!({
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim["metadata"]["namespace"],
                    "name": claim["metadata"]["name"], "uid": claim["metadata"]["uid"],
                });
                self.change_storage(key, |value| {
                    ownership::member(value, "spec").insert("claimRef".into(), reference);
                    ownership::annotate(value, "pv.kubernetes.io/bound-by-controller", "yes");
                })
            }
            PreBind::ProvisionVolume { claim, node } => self.change_storage(feed::claim_key(claim)?, |value| {
                ownership::annotate(value, "volume.kubernetes.io/selected-node", node);
            }),
            // It goes with the binding.
            PreBind::Patch(_) => None,
        }
    }

    fn change_storage(&self, key: Key, change: impl FnOnce(&mut Value)) -> Option<Intent> {
        let base = self.storage.get(&key)?;
        let before = base.value().ok()?;
        let mut value = before.clone();
        change(&mut value);
        let base = Arc::clone(base);
        (value != before).then_some(Intent::Update { key, base, value })
    }

    /// A binding was written.
    pub fn bound(&mut self, keys: &[Key]) {
        self.bound += keys.len() as u64;
    }

    /// A binding was refused: the pods are free again and come back after a wait.
    pub fn refused(&mut self, keys: &[Key], now: UnixMillis) {
        for key in keys {
            let name = pod_key(key);
            if let Some(pending) = self.pending.get_mut(&name) {
                pending.sent = None;
            }
            self.scheduler.forget(&name, now.0);
        }
    }
}

/// The gangs of a round.
#[derive(Default)]
struct Gangs {
    groups: BTreeMap<Arc<str>, BindingGroup>,
    /// Those of which a pod waits for a volume: they wait whole.
    waiting: BTreeSet<Arc<str>>,
}

impl BindingGroup {
    fn push(&mut self, write: Write, placed: Placed) {
        self.pods.push(placed.key.clone());
        self.writes.push(write);
        self.placed.push(placed);
    }
}

/// What the desk remembers of a pod that the scheduler was shown.
struct Seen {
    /// Its priority, if only its class says it.
    priority: Option<Resolved>,
    bound: bool,
    gates: bool,
}

/// Shows a pod to the scheduler, with the priority that its class gives it.
fn see(scheduler: &mut Scheduler, classes: &PriorityClasses, pod: &core::Pod) -> Seen {
    let priority = pod.spec.as_ref().and_then(|spec| classes.resolve(spec));
    match &priority {
        Some(priority) => {
            let mut pod = pod.clone();
            if let Some(spec) = &mut pod.spec {
                priority.apply(spec);
            }
            scheduler.upsert_pod(&pod);
        }
        None => scheduler.upsert_pod(pod),
    }
    let spec = pod.spec.as_ref();
    let node = spec.and_then(|spec| spec.node_name.as_deref());
    let gates = spec.and_then(|spec| spec.scheduling_gates.as_ref());
    Seen {
        priority,
        bound: node.is_some_and(|node| !node.is_empty()),
        gates: gates.is_some_and(|gates| !gates.is_empty()),
    }
}

fn pod_key(key: &Key) -> PodKey {
    PodKey::new(&key.namespace, &key.name)
}

fn bind(pending: &mut Pending, binding: &Binding, now: UnixMillis) -> Option<(Write, Placed)> {
    let (key, base) = (&pending.key, &pending.object);
    let bound = Bound {
        base,
        node: &binding.node,
        method: &binding.method,
        priority: pending.priority.as_ref(),
        now,
    };
    let write = bound.write(key)?;
    // What a plugin has written of the pod beside the node is read when it comes back.
    if let (Write::Put { draft, .. }, BindMethod::NodeName) = (&write, &binding.method) {
        pending.sent = Some(draft.clone());
    }
    let placed = Placed {
        key: key.clone(),
        uid: base.header.uid.clone(),
        node: Arc::clone(&binding.node),
    };
    Some((write, placed))
}

/// The condition of a pod that was not placed. Nothing when it says so already.
fn explain(key: &Key, base: &Arc<Object>, refused: &Unschedulable, now: UnixMillis) -> Option<(Intent, Vec<Note>)> {
    let mut value = base.value().ok()?;
    let message = refused.message();
    let wanted = Wanted {
        kind: "PodScheduled",
        status: "False",
        reason: "Unschedulable",
        message: &message,
    };
    let said = conditions::set(&mut value, wanted, Times::Transition, now);
    let mut nominated = false;
    if let Preemption::Nominated { node, .. } = &refused.preemption {
        let status = ownership::member(&mut value, "status");
        let former = status.insert("nominatedNodeName".into(), json!(&**node));
        nominated = former.as_ref().and_then(Value::as_str) != Some(&**node);
    }
    if !said && !nominated {
        return None;
    }
    let notes = if said {
        vec![note(
            key,
            &base.header.uid,
            Severity::Warning,
            "FailedScheduling",
            message,
        )]
    } else {
        Vec::new()
    };
    Some((
        Intent::Update {
            key: key.clone(),
            base: Arc::clone(base),
            value,
        },
        notes,
    ))
}

fn explain_gates(key: &Key, base: &Arc<Object>, now: UnixMillis) -> Option<Intent> {
    let mut value = base.value().ok()?;
    let wanted = Wanted {
        kind: "PodScheduled",
        status: "False",
        reason: "SchedulingGated",
        message: GATED,
    };
    conditions::set(&mut value, wanted, Times::Transition, now).then(|| Intent::Update {
        key: key.clone(),
        base: Arc::clone(base),
        value,
    })
}

/// The write that makes a victim go, and the note about it. `base` is what the victim is now: nothing if it goes already,
/// or if it is another pod of the name.
pub fn preempt(victim: &Victim, base: &Arc<Object>, now: UnixMillis) -> Option<(Intent, Note)> {
    let (key, preemptor) = (&victim.key, &victim.preemptor);
    if base.header.uid.as_str() != victim.uid {
        return None;
    }
    let mut intent = ownership::delete(key, base, now)?;
    if let Intent::Update { value, .. } = &mut intent {
        let message = format!("{COMPONENT}: preempting to accommodate a higher priority pod");
        let wanted = Wanted {
            kind: "DisruptionTarget",
            status: "True",
            reason: "PreemptionByScheduler",
            message: &message,
        };
        conditions::set(value, wanted, Times::Transition, now);
    }
    let message = format!("Preempted by pod {}/{}", preemptor.namespace, preemptor.name);
    let note = note(key, &base.header.uid, Severity::Normal, "Preempted", message);
    Some((intent, note))
}

fn note(key: &Key, uid: &Uid, severity: Severity, reason: &'static str, message: String) -> Note {
    Note {
        regarding: Regarding {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            uid: uid.to_string(),
        },
        severity,
        reason,
        message,
        component: COMPONENT,
    }
}

#[cfg(test)]
#[path = "desk_tests.rs"]
mod tests;
