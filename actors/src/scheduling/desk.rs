//! What the scheduler's actor does between the store and the crate `scheduler`: keeps it fed (`feed` says with what), and
//! turns its decisions into writes and notes. Pure: time comes in; the same observations give the same writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use protocol::{Key, Object, UnixMillis};
use scheduler::{
    Binding, Decision, PodKey, PreBind, Scheduler, SchedulerConfiguration, Unschedulable, decision::Preemption,
};
use serde_json::{Value, json};

use super::feed::{self, PODS, PRIORITY_CLASSES};
use super::priority::{PriorityClasses, Resolved};
use crate::conditions::{self, Times, Wanted};
use crate::effects::{Intent, Note, Regarding, Severity};
use crate::kind::{ObserveError, read};
use crate::ownership;

const COMPONENT: &str = "default-scheduler";
const GATED: &str = "Scheduling is blocked due to non-empty scheduling gates";

/// The scheduler and the pods that wait for it.
pub struct Desk {
    scheduler: Scheduler,
    classes: PriorityClasses,
    /// Pods that are not bound, as they were last seen.
    pending: BTreeMap<Key, Pending>,
    /// Claims and volumes, as they were last seen: what must be written of them before a pod is bound.
    storage: BTreeMap<Key, Arc<Object>>,
    /// Pods whose gates have not been written about.
    gated: BTreeSet<Key>,
    bound: u64,
}

/// A pod that waits.
struct Pending {
    object: Arc<Object>,
    /// Its priority, if only its class says it.
    priority: Option<Resolved>,
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
    /// Their writes.
    pub intents: Vec<Intent>,
    /// The notes to write when they were bound.
    pub notes: Vec<Note>,
}

impl Desk {
    /// A desk that knows nothing so far.
    pub fn new(configuration: SchedulerConfiguration) -> Desk {
        let scheduler = Scheduler::new(configuration);
        Desk {
            scheduler,
            classes: PriorityClasses::default(),
            pending: BTreeMap::new(),
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
        feed::RESOURCES.contains(&key.resource.as_str())
    }

    /// Takes note of an object. `None` means that it does not exist.
    pub fn observe(&mut self, key: &Key, object: Option<&Arc<Object>>) -> Result<(), ObserveError> {
        match (key.resource.as_str(), object) {
            (PODS, Some(object)) => self.observe_pod(key, object),
            (PODS, None) => {
                self.pending.remove(key);
                self.gated.remove(key);
                self.scheduler.remove_pod(&pod_key(key));
                Ok(())
            }
            (PRIORITY_CLASSES, object) => {
                if self.classes.observe(key, object)? {
                    self.judge_again()?;
                }
                Ok(())
            }
            (resource, object) => {
                if feed::is_storage(resource) {
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
        let waiting: Vec<(Key, Arc<Object>)> = self
            .pending
            .iter()
            .map(|(key, pending)| (key.clone(), Arc::clone(&pending.object)))
            .collect();
        for (key, object) in waiting {
            self.observe_pod(&key, &object)?;
        }
        Ok(())
    }

    fn observe_pod(&mut self, key: &Key, object: &Arc<Object>) -> Result<(), ObserveError> {
        let mut pod: core::Pod = read(key, object)?;
        let priority = pod.spec.as_ref().and_then(|spec| self.classes.resolve(spec));
        if let (Some(priority), Some(spec)) = (&priority, &mut pod.spec) {
            priority.apply(spec);
        }
        self.scheduler.upsert_pod(&pod);
        let spec = pod.spec.as_ref();
        let bound = spec
            .and_then(|spec| spec.node_name.as_deref())
            .is_some_and(|node| !node.is_empty());
        if bound {
            self.pending.remove(key);
            self.gated.remove(key);
            return Ok(());
        }
        let pending = Pending {
            object: Arc::clone(object),
            priority,
        };
        self.pending.insert(key.clone(), pending);
        let gates = spec
            .and_then(|spec| spec.scheduling_gates.as_ref())
            .is_some_and(|gates| !gates.is_empty());
        if gates && !object.header.deleting {
            self.gated.insert(key.clone());
        } else {
            self.gated.remove(key);
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
        let mut gangs: BTreeMap<Arc<str>, BindingGroup> = BTreeMap::new();
        for decision in self.scheduler.schedule_batch(now.0, pods_max) {
            let key = Key::new(PODS, decision.pod().namespace(), decision.pod().name());
            match decision {
                Decision::Bind(binding) => self.take_binding(key, &binding, now, &mut gangs, &mut round),
                Decision::Unschedulable(refused) => {
                    let Some(pending) = self.pending.get(&key) else {
                        continue;
                    };
                    if let Preemption::Nominated { victims, .. } = &refused.preemption {
                        round.victims.extend(victims.iter().map(|pod| self.victim(pod, &key)));
                    }
                    round.conditions.extend(explain(&key, &pending.object, &refused, now));
                }
            }
        }
        round.bindings.extend(gangs.into_values());
        for key in std::mem::take(&mut self.gated) {
            let Some(pending) = self.pending.get(&key) else {
                continue;
            };
            round
                .conditions
                .extend(explain_gates(&key, &pending.object, now).map(|intent| (intent, Vec::new())));
        }
        round
    }

    fn take_binding(
        &mut self,
        key: Key,
        binding: &Binding,
        now: UnixMillis,
        gangs: &mut BTreeMap<Arc<str>, BindingGroup>,
        round: &mut Round,
    ) {
        if !binding.pre_bind.is_empty() {
            let writes = binding.pre_bind.iter().filter_map(|step| self.prepare_volume(step));
            round.volumes.extend(writes);
        }
        let bound = match self.pending.get(&key) {
            Some(pending) if binding.pre_bind.is_empty() => bind(&key, pending, binding, now),
            _ => None,
        };
        let Some((intent, note)) = bound else {
            // It gives its place back; the claims that become bound bring it forth again.
            self.scheduler.forget(&binding.pod, now.0);
            return;
        };
        match &binding.group {
            Some(name) => gangs.entry(Arc::clone(name)).or_default().push(key, intent, note),
            None => {
                let mut alone = BindingGroup::default();
                alone.push(key, intent, note);
                round.bindings.push(alone);
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
            // No plugin that runs here asks for it: ResourceClaims are not fed, and no plugin of a third party is registered.
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
            self.scheduler.forget(&pod_key(key), now.0);
        }
    }
}

impl BindingGroup {
    fn push(&mut self, pod: Key, intent: Intent, note: Note) {
        self.pods.push(pod);
        self.intents.push(intent);
        self.notes.push(note);
    }
}

fn pod_key(key: &Key) -> PodKey {
    PodKey::new(&key.namespace, &key.name)
}

fn bind(key: &Key, pending: &Pending, binding: &Binding, now: UnixMillis) -> Option<(Intent, Note)> {
    let base = &pending.object;
    let mut value = base.value().ok()?;
    if let Some(priority) = &pending.priority {
        priority.write(&mut value);
    }
    ownership::member(&mut value, "spec").insert("nodeName".into(), json!(&*binding.node));
    let wanted = Wanted {
        kind: "PodScheduled",
        status: "True",
        reason: "",
        message: "",
    };
    conditions::set(&mut value, wanted, Times::Transition, now);
    ownership::member(&mut value, "status").remove("nominatedNodeName");
    let message = format!(
        "Successfully assigned {}/{} to {}",
        key.namespace, key.name, binding.node
    );
    let note = note(key, base, Severity::Normal, "Scheduled", message);
    Some((
        Intent::Update {
            key: key.clone(),
            base: Arc::clone(base),
            value,
        },
        note,
    ))
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
        vec![note(key, base, Severity::Warning, "FailedScheduling", message)]
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
    Some((intent, note(key, base, Severity::Normal, "Preempted", message)))
}

fn note(key: &Key, base: &Object, severity: Severity, reason: &'static str, message: String) -> Note {
    Note {
        regarding: Regarding {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            uid: base.header.uid.to_string(),
        },
        severity,
        reason,
        message,
        component: COMPONENT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ownership::tests::stored;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn node(name: &str, cpu: &str) -> (Key, Arc<Object>) {
        let value = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": name},
            "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}},
        });
        (Key::new("nodes", "", name), stored(value, 1))
    }

    fn pod(name: &str, cpu: &str, more: Value) -> (Key, Arc<Object>) {
        let mut value = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {"schedulerName": "default-scheduler",
                "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]},
        });
        for (field, part) in more.as_object().unwrap() {
            value["spec"][field] = part.clone();
        }
        (Key::new("pods", "default", name), stored(value, 2))
    }

    fn desk(objects: &[(Key, Arc<Object>)]) -> Desk {
        let mut desk = Desk::new(SchedulerConfiguration::default());
        for (key, object) in objects {
            desk.observe(key, Some(object)).unwrap();
        }
        desk
    }

    #[test]
    fn a_pod_that_fits_is_bound_once_with_its_condition() {
        let mut desk = desk(&[node("n1", "4"), pod("web", "1", json!({}))]);
        let round = desk.round(NOW, 10);
        let Intent::Update { value, .. } = &round.bindings[0].intents[0] else {
            panic!()
        };
        assert_eq!(value["spec"]["nodeName"], "n1");
        assert_eq!(value["status"]["conditions"][0]["status"], "True");
        assert_eq!(
            round.bindings[0].notes[0].message,
            "Successfully assigned default/web to n1"
        );
        assert!(
            desk.round(NOW, 10).bindings.is_empty(),
            "it is assumed until the store says otherwise"
        );
    }

    #[test]
    fn a_pod_that_fits_nowhere_is_told_why_and_told_only_once() {
        let (key, object) = pod("big", "64", json!({}));
        let mut desk = desk(&[node("n1", "4"), (key.clone(), object)]);
        let round = desk.round(NOW, 10);
        let (intent, notes) = &round.conditions[0];
        let Intent::Update { value, .. } = intent else { panic!() };
        let condition = &value["status"]["conditions"][0];
        assert_eq!(
            (&condition["status"], &condition["reason"]),
            (&json!("False"), &json!("Unschedulable"))
        );
        assert!(
            condition["message"]
                .as_str()
                .unwrap()
                .starts_with("0/1 nodes are available: 1 Insufficient cpu."),
            "{condition}"
        );
        assert_eq!(notes[0].reason, "FailedScheduling");
        let told = stored(value.clone(), 9);
        desk.observe(&key, Some(&told)).unwrap();
        desk.observe(&Key::new("nodes", "", "n2"), Some(&node("n2", "4").1))
            .unwrap();
        for later in 1..20 {
            let round = desk.round(NOW.plus_ms(later * 60_000), 10);
            let repeated = round.conditions.iter().any(|(intent, _)| matches!(intent, Intent::Update { value: again, .. } if again["status"] == told.value().unwrap()["status"]));
            assert!(!repeated, "the same words are not written again");
        }
    }

    #[test]
    fn a_gated_pod_is_not_scheduled_and_says_so() {
        let mut desk = desk(&[
            node("n1", "4"),
            pod("held", "1", json!({"schedulingGates": [{"name": "x"}]})),
        ]);
        let round = desk.round(NOW, 10);
        assert!(round.bindings.is_empty());
        let Intent::Update { value, .. } = &round.conditions[0].0 else {
            panic!()
        };
        assert_eq!(value["status"]["conditions"][0]["reason"], "SchedulingGated");
    }

    #[test]
    fn a_refused_binding_frees_the_node_and_the_pod_comes_back() {
        let mut desk = desk(&[node("n1", "1"), pod("a", "1", json!({}))]);
        let round = desk.round(NOW, 10);
        desk.refused(&round.bindings[0].pods, NOW);
        assert!(desk.next_wakeup().is_some());
        let round = desk.round(NOW.plus_ms(60_000), 10);
        assert_eq!(round.bindings.len(), 1);
    }
}
