//! What must hold about the ends of objects: namespaces, owners and their dependents, victims of preemption, and the room on
//! nodes. Pure; part of `invariants`, which feeds it every write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::store::{Change, StoreEvent};
use protocol::{Key, Object};
use serde_json::Value;

use crate::collection::{FOREGROUND, ORPHAN};

/// So many writes a scheduler may lag behind.
const LATELY: u64 = 300;

/// Objects by key.
pub(super) type Objects = BTreeMap<Key, Arc<Object>>;

/// What was true before.
#[derive(Default)]
pub(super) struct Lifecycle {
    /// Objects that are to outlive an owner, by uid, with the owner's uid.
    spared: BTreeMap<String, String>,
    /// The pods that wait for a node, or did a while ago, by uid: their priority, and until which revision they waited.
    waiting: BTreeMap<String, (i64, Option<u64>)>,
    /// Pods that were marked as victims, by uid.
    victims: BTreeSet<String>,
    /// Whether one scheduler alone binds pods: only then no node is ever too full.
    pub checks_room: bool,
}

impl Lifecycle {
    /// Takes note of a write, after it. Returns what it violates.
    pub fn apply(&mut self, objects: &Objects, event: &StoreEvent) -> Vec<String> {
        let mut violations = Vec::new();
        match (event.change, event.key.resource.as_str()) {
            (Change::Deleted, "namespaces") => check_emptied(objects, event, &mut violations),
            (Change::Created, _) => check_namespace(objects, event, &mut violations),
            _ => {}
        }
        self.check_owners(objects, event, &mut violations);
        if event.key.resource.as_str() == "pods" {
            self.check_victim(event, &mut violations);
            if self.checks_room {
                check_room(objects, event, &mut violations);
            }
        }
        violations
    }

    /// An owner that is deleted in the foreground goes last; what an orphaning owner leaves behind stays.
    fn check_owners(&mut self, objects: &Objects, event: &StoreEvent, violations: &mut Vec<String>) {
        let header = &event.object.header;
        let has = |finalizer: &str| header.finalizers.iter().any(|name| name == finalizer);
        let removed = event.change == Change::Deleted;
        let marked_before = event.previous.as_ref().is_some_and(|object| object.header.deleting);
        if removed && has(FOREGROUND) {
            for (key, _) in dependents(objects, &event.object, true) {
                violations.push(format!("{} was removed before {key}, which blocks it", event.key));
            }
        }
        if header.deleting && !marked_before && !removed && has(ORPHAN) {
            let left = dependents(objects, &event.object, false);
            self.spared
                .extend(left.map(|(_, object)| (object.header.uid.to_string(), header.uid.to_string())));
        }
        let Some(owner) = self.spared.get(header.uid.as_str()) else {
            return;
        };
        let adopted = header.controller().is_some_and(|c| c.uid.as_str() != owner);
        if adopted || in_ending_namespace(objects, &event.key) {
            self.spared.remove(header.uid.as_str());
        } else if removed || header.deleting {
            violations.push(format!("{} was to outlive its owner and is deleted", event.key));
        }
    }

    /// Nobody has to make room for a pod that is not more important.
    fn check_victim(&mut self, event: &StoreEvent, violations: &mut Vec<String>) {
        let value = event.object.value().unwrap_or_default();
        let (priority, now) = (priority(&value), event.revision.0);
        let waits = event.change != Change::Deleted && value["spec"]["nodeName"].is_null();
        let uid = event.object.header.uid.to_string();
        let waited = self.waiting.entry(uid).or_insert((priority, Some(0)));
        match waited.1 {
            _ if waits => waited.1 = None,
            None => waited.1 = Some(now),
            Some(_) => {}
        }
        let conditions = value["status"]["conditions"].as_array().into_iter().flatten();
        let preempted = conditions
            .clone()
            .any(|c| c["type"] == "DisruptionTarget" && c["reason"] == "PreemptionByScheduler");
        if !preempted || !self.victims.insert(event.object.header.uid.to_string()) {
            return;
        }
        let lately = |until: Option<u64>| until.is_none_or(|until| until + LATELY > now);
        let mut others = self.waiting.values();
        if !others.any(|(other, until)| *other > priority && lately(*until)) {
            violations.push(format!(
                "{} has the priority {priority} and was preempted, and no pod that waits is more important",
                event.key
            ));
        }
    }

    /// How many pods were preempted.
    pub fn victims(&self) -> usize {
        self.victims.len()
    }
}

/// The priority of a pod: its own, or that of the class that the simulation names after its value.
fn priority(pod: &Value) -> i64 {
    let spec = &pod["spec"];
    let of_class = || {
        spec["priorityClassName"]
            .as_str()?
            .strip_prefix("priority-")?
            .parse()
            .ok()
    };
    spec["priority"].as_i64().or_else(of_class).unwrap_or(0)
}

/// A namespace goes when nothing is left in it. Events are notes that may come late; they expire.
fn check_emptied(objects: &Objects, event: &StoreEvent, violations: &mut Vec<String>) {
    let left: Vec<String> = inside(objects, &event.key.name).map(Key::to_string).collect();
    if !left.is_empty() {
        violations.push(format!("{} was removed while there was {}", event.key, left.join(", ")));
    }
}

fn inside<'a>(objects: &'a Objects, namespace: &'a str) -> impl Iterator<Item = &'a Key> {
    objects
        .keys()
        .filter(move |key| &*key.namespace == namespace && key.resource.as_str() != "events")
}

fn check_namespace(objects: &Objects, event: &StoreEvent, violations: &mut Vec<String>) {
    let namespace = Key::new("namespaces", "", Arc::clone(&event.key.namespace));
    let counts = !event.key.namespace.is_empty() && event.key.resource.as_str() != "events";
    if counts && !objects.contains_key(&namespace) {
        violations.push(format!("{} was created in a namespace that does not exist", event.key));
    }
}

fn in_ending_namespace(objects: &Objects, key: &Key) -> bool {
    let namespace = Key::new("namespaces", "", Arc::clone(&key.namespace));
    objects
        .get(&namespace)
        .is_none_or(|namespace| namespace.header.deleting)
}

/// The objects that name this one as their owner.
fn dependents<'a>(
    objects: &'a Objects,
    owner: &'a Object,
    only_blocking: bool,
) -> impl Iterator<Item = (&'a Key, &'a Arc<Object>)> {
    objects.iter().filter(move |(_, object)| {
        let mut owners = object.header.owners.iter();
        owners.any(|reference| reference.uid == owner.header.uid && (reference.block_owner_deletion || !only_blocking))
    })
}

/// What is bound to a node fits it, those that are still on their way out included.
fn check_room(objects: &Objects, event: &StoreEvent, violations: &mut Vec<String>) {
    let node = event.object.header.field("spec.nodeName");
    let former = event.previous.as_ref().map(|pod| pod.header.field("spec.nodeName"));
    if node.is_empty() || former == Some(node) || event.change == Change::Deleted {
        return;
    }
    let cores = |text: &Value| text.as_str().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let wanted = |pod: &Object| {
        let pod = pod.value().unwrap_or_default();
        let containers = pod["spec"]["containers"].as_array().cloned().unwrap_or_default();
        containers
            .iter()
            .map(|c| cores(&c["resources"]["requests"]["cpu"]))
            .sum::<u64>()
    };
    let there = objects
        .iter()
        .filter(|(key, pod)| key.resource.as_str() == "pods" && pod.header.field("spec.nodeName") == node);
    let total: u64 = there.map(|(_, pod)| wanted(pod)).sum();
    let Some(object) = objects.get(&Key::new("nodes", "", node)) else {
        violations.push(format!("{} was bound to {node}, which does not exist", event.key));
        return;
    };
    let room = cores(&object.value().unwrap_or_default()["status"]["allocatable"]["cpu"]);
    if total > room {
        violations.push(format!(
            "{node} has {room} cores, and its pods want {total} with {}",
            event.key
        ));
    }
}

/// What has not ended although everything is at rest.
pub(super) fn unfinished(objects: &Objects) -> Vec<String> {
    let mut complaints = Vec::new();
    for (key, object) in objects {
        if object.header.deleting {
            complaints.push(format!("{key} is still being deleted"));
        }
        let namespace = Key::new("namespaces", "", Arc::clone(&key.namespace));
        if !key.namespace.is_empty() && key.resource.as_str() != "events" && !objects.contains_key(&namespace) {
            complaints.push(format!("{key} is in a namespace that does not exist"));
        }
        let service = Key::new("services", Arc::clone(&key.namespace), Arc::clone(&key.name));
        if key.resource.as_str() == "endpoints" && !objects.contains_key(&service) {
            complaints.push(format!("{key} has no Service"));
        }
    }
    complaints
}
