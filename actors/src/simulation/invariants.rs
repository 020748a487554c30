//! What must hold after every write, and what must hold when everything has come to rest. Pure: looks at the objects, and
//! never at how they came about.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::store::{Change, StoreEvent};
use protocol::{Key, Object};
use serde_json::Value;

use super::lifecycle::{self, Lifecycle, Objects};
use crate::reading;

/// All objects as of one revision, and what was true before.
#[derive(Default)]
pub struct Observed {
    objects: Objects,
    lifecycle: Lifecycle,
    /// The node of every pod that was ever bound, by uid.
    bound: BTreeMap<String, String>,
}

impl Observed {
    /// Knows nothing so far. With one scheduler alone, no node may ever be too full.
    pub fn new(one_scheduler: bool) -> Observed {
        let mut observed = Observed::default();
        observed.lifecycle.checks_room = one_scheduler;
        observed
    }

    /// An object.
    pub fn object(&self, key: &Key) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    /// How many pods were preempted so far.
    pub fn victims(&self) -> usize {
        self.lifecycle.victims()
    }

    /// Takes note of a write. Returns what it violates.
    pub fn apply(&mut self, event: &StoreEvent) -> Vec<String> {
        match event.change {
            Change::Deleted => self.objects.remove(&event.key),
            _ => self.objects.insert(event.key.clone(), Arc::clone(&event.object)),
        };
        let mut violations = self.lifecycle.apply(&self.objects, event);
        match event.key.resource.as_str() {
            "pods" => {
                self.check_binding(event, &mut violations);
                if event.change == Change::Created {
                    self.check_creation(event, &mut violations);
                }
            }
            "replicasets.apps" => {
                self.check_surge(event, &mut violations);
                self.check_availability(event, &mut violations);
            }
            "nodes" => self.check_ranges(&mut violations),
            _ => {}
        }
        violations
    }

    /// A pod is bound at most once.
    fn check_binding(&mut self, event: &StoreEvent, violations: &mut Vec<String>) {
        let node = event.object.header.field("spec.nodeName");
        if node.is_empty() {
            return;
        }
        let former = self
            .bound
            .entry(event.object.header.uid.to_string())
            .or_insert_with(|| node.to_owned());
        if former != node {
            violations.push(format!("{} was bound to {former} and then to {node}", event.key));
        }
    }

    /// A ReplicaSet never makes more pods than it wants.
    fn check_creation(&self, event: &StoreEvent, violations: &mut Vec<String>) {
        let Some(controller) = event.object.header.controller() else {
            return;
        };
        let set_key = Key::new(
            "replicasets.apps",
            Arc::clone(&event.key.namespace),
            controller.name.as_str(),
        );
        let Some(set) = self
            .objects
            .get(&set_key)
            .and_then(|set| set.parse::<reading::ReplicaSet>().ok())
        else {
            violations.push(format!("{} was created for {set_key}, which does not exist", event.key));
            return;
        };
        let active = self.active_of(controller.uid.as_str()).count() as i64;
        if active > set.replicas() {
            violations.push(format!(
                "{set_key} wants {} pods and has {active} with {}",
                set.replicas(),
                event.key
            ));
        }
    }

    /// The ReplicaSets of a Deployment together never want more than its surge allows, unless they did before.
    fn check_surge(&self, event: &StoreEvent, violations: &mut Vec<String>) {
        if event.change == Change::Deleted {
            return;
        }
        let wanted = |object: &Object| object.parse::<reading::ReplicaSet>().map_or(0, |set| set.replicas());
        let grew = wanted(&event.object) > event.previous.as_deref().map_or(0, wanted);
        let Some(controller) = event.object.header.controller().filter(|_| grew) else {
            return;
        };
        let Some((key, deployment)) = self.deployment(&event.key.namespace, &controller.name) else {
            return;
        };
        let total: i64 = self
            .controlled("replicasets.apps", controller.uid.as_str())
            .map(|(_, set)| wanted(set))
            .sum();
        let (surge, _) = bounds(&deployment);
        let replicas = deployment.spec.replicas.unwrap_or(1);
        if total > replicas + surge {
            violations.push(format!(
                "{key} wants {replicas} and {surge} more, its ReplicaSets want {total}"
            ));
        }
        let mut templates = BTreeSet::new();
        for (_, set) in self.controlled("replicasets.apps", controller.uid.as_str()) {
            let hash = set.header.labels.get("pod-template-hash").cloned().unwrap_or_default();
            if !templates.insert(hash.clone()) {
                violations.push(format!("{key} has two ReplicaSets with the hash {hash}"));
            }
        }
    }

    /// A rollout takes wanted pods from a ReplicaSet only as far as enough available ones stay wanted. What machines and
    /// people take away meanwhile is not the rollout's doing: without them, this is exact.
    fn check_availability(&self, event: &StoreEvent, violations: &mut Vec<String>) {
        let wanted = |object: &Object| object.parse::<reading::ReplicaSet>().map_or(0, |set| set.replicas());
        let before = event.previous.as_deref().map_or(0, wanted);
        if event.change != Change::Updated || wanted(&event.object) >= before {
            return;
        }
        // A change of the Deployment's size is spread over its ReplicaSets in proportion, whatever is available.
        let sized = |object: &Object| {
            let set = object.parse::<reading::ReplicaSet>().unwrap_or_default();
            set.metadata
                .annotations
                .get("deployment.kubernetes.io/desired-replicas")
                .cloned()
        };
        if event.previous.as_deref().map(sized) != Some(sized(&event.object)) {
            return;
        }
        let Some(owner) = event.object.header.controller() else {
            return;
        };
        let Some((key, deployment)) = self.deployment(&event.key.namespace, &owner.name) else {
            return;
        };
        let kept = |set: &Object, wanted: i64| {
            let available = self
                .active_of(set.header.uid.as_str())
                .filter(|(_, pod)| counts_as_available(pod))
                .count();
            wanted.min(available as i64)
        };
        let sets: Vec<_> = self.controlled("replicasets.apps", owner.uid.as_str()).collect();
        let after: i64 = sets.iter().map(|(_, set)| kept(set, wanted(set))).sum();
        // A pod that has just become ready, and that the ReplicaSet's status does not show as such, may be taken for a
        // broken one; giving up what the status shows is a decision.
        let shown = event
            .object
            .parse::<reading::ReplicaSet>()
            .map_or(0, |set| set.status.available_replicas);
        let given_up = before.min(shown) - wanted(&event.object).min(shown);
        let (_, unavailable) = bounds(&deployment);
        let minimum = deployment.spec.replicas.unwrap_or(1) - unavailable;
        if given_up > 0 && after < minimum {
            violations.push(format!(
                "{key} needs {minimum} available pods and keeps {after} after {}",
                event.key
            ));
        }
    }

    /// No two nodes have the same range.
    fn check_ranges(&self, violations: &mut Vec<String>) {
        let mut seen = BTreeSet::new();
        for (key, node) in self.of("nodes") {
            let range = node.value().unwrap_or_default()["spec"]["podCIDR"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            if !range.is_empty() && !seen.insert(range.clone()) {
                violations.push(format!("{key} has the range {range}, as another node has"));
            }
        }
    }

    /// What is not as it should be, once everything has come to rest.
    pub fn unsettled(&self, alive: &dyn Fn(&str) -> bool) -> Vec<String> {
        let mut complaints = lifecycle::unfinished(&self.objects);
        for (key, object) in self.of("deployments.apps") {
            let Ok(deployment) = object.parse::<reading::Deployment>() else {
                continue;
            };
            let sets = self.controlled("replicasets.apps", object.header.uid.as_str());
            let uids: BTreeSet<String> = sets.map(|(_, set)| set.header.uid.to_string()).collect();
            let pods: Vec<_> = uids.iter().flat_map(|uid| self.active_of(uid)).collect();
            let wanted = deployment.spec.replicas.unwrap_or(1);
            let current = pods.iter().filter(|(_, pod)| {
                let value = pod.value().unwrap_or_default();
                counts_as_available(pod)
                    && alive(pod.header.field("spec.nodeName"))
                    && value["spec"]["containers"][0]["image"]
                        == deployment.spec.template["spec"]["containers"][0]["image"]
            });
            let current = current.count() as i64;
            if current != wanted || pods.len() as i64 != wanted {
                complaints.push(format!(
                    "{key} wants {wanted} and has {} pods, {current} of them as wanted",
                    pods.len()
                ));
            }
            let status = &deployment.status;
            if (status.replicas, status.updated_replicas, status.available_replicas) != (wanted, wanted, wanted) {
                complaints.push(format!("{key} wants {wanted}, its status says {status:?}"));
            }
        }
        for (key, _) in self.of("services") {
            self.check_endpoints(key, &mut complaints);
        }
        for (key, object) in self.of("pods").chain(self.of("replicasets.apps")) {
            for owner in object.header.owners.iter() {
                if !self.objects.values().any(|other| other.header.uid == owner.uid) {
                    complaints.push(format!(
                        "{key} is owned by {} {}, which is gone",
                        owner.kind, owner.name
                    ));
                }
            }
        }
        for (key, node) in self.of("nodes") {
            let node = node.value().unwrap_or_default();
            if node["spec"]["podCIDR"].is_null() {
                complaints.push(format!("{key} has no pod range"));
            }
            if alive(&key.name) && !node["spec"]["taints"].is_null() {
                complaints.push(format!("{key} is alive and tainted: {}", node["spec"]["taints"]));
            }
        }
        complaints
    }

    /// The slices of a Service have exactly its available pods.
    fn check_endpoints(&self, service: &Key, complaints: &mut Vec<String>) {
        let mut listed: Vec<String> = Vec::new();
        for (key, slice) in self.of("endpointslices.discovery.k8s.io") {
            if key.namespace == service.namespace
                && slice
                    .header
                    .labels
                    .get("kubernetes.io/service-name")
                    .is_some_and(|name| **name == *service.name)
            {
                let value = slice.value().unwrap_or_default();
                let endpoints = value["endpoints"].as_array().cloned().unwrap_or_default();
                let ready = endpoints
                    .iter()
                    .filter(|endpoint| endpoint["conditions"]["ready"] == true);
                listed.extend(ready.filter_map(|endpoint| endpoint["targetRef"]["name"].as_str().map(str::to_owned)));
            }
        }
        listed.sort();
        let expected: Vec<String> = self
            .of("pods")
            .filter(|(key, pod)| {
                key.namespace == service.namespace
                    && counts_as_available(pod)
                    && pod.header.labels.get("app").is_some_and(|app| **app == *service.name)
            })
            .map(|(key, _)| key.name.to_string())
            .collect();
        if listed != expected {
            complaints.push(format!(
                "{service} lists {listed:?}, its available pods are {expected:?}"
            ));
        }
        let object = Key::new("endpoints", Arc::clone(&service.namespace), Arc::clone(&service.name));
        let object = self
            .object(&object)
            .and_then(|object| object.value().ok())
            .unwrap_or_default();
        let subsets = object["subsets"].as_array().into_iter().flatten();
        let addresses = subsets.flat_map(|subset| subset["addresses"].as_array().into_iter().flatten());
        let mut mirrored: Vec<&str> = addresses.filter_map(|a| a["targetRef"]["name"].as_str()).collect();
        mirrored.sort_unstable();
        if mirrored != expected {
            complaints.push(format!(
                "the Endpoints of {service} list {mirrored:?}, its available pods are {expected:?}"
            ));
        }
    }

    /// All objects of a resource.
    pub fn of<'a>(&'a self, resource: &'a str) -> impl Iterator<Item = (&'a Key, &'a Arc<Object>)> {
        self.objects
            .iter()
            .filter(move |(key, _)| key.resource.as_str() == resource)
    }

    fn controlled<'a>(&'a self, resource: &'a str, uid: &'a str) -> impl Iterator<Item = (&'a Key, &'a Arc<Object>)> {
        let by = move |object: &Object| object.header.controller().is_some_and(|c| c.uid.as_str() == uid);
        self.of(resource).filter(move |(_, object)| by(object))
    }

    fn active_of<'a>(&'a self, uid: &'a str) -> impl Iterator<Item = (&'a Key, &'a Arc<Object>)> {
        let active = |object: &Object| object.parse::<reading::Pod>().is_ok_and(|pod| pod.is_active());
        self.controlled("pods", uid).filter(move |(_, object)| active(object))
    }

    fn deployment(&self, namespace: &Arc<str>, name: &str) -> Option<(Key, reading::Deployment)> {
        let key = Key::new("deployments.apps", Arc::clone(namespace), name);
        let deployment = self.objects.get(&key)?.parse().ok()?;
        Some((key, deployment))
    }
}

fn counts_as_available(pod: &Object) -> bool {
    pod.parse::<reading::Pod>()
        .is_ok_and(|pod| pod.is_active() && pod.is_ready())
}

/// Surge and unavailability of a Deployment, computed here a second time, by the documentation.
fn bounds(deployment: &reading::Deployment) -> (i64, i64) {
    let replicas = deployment.spec.replicas.unwrap_or(1);
    let of = |value: &Value, up: bool| match value {
        Value::Number(number) => number.as_i64().unwrap_or(0),
        Value::String(text) => {
            let percent: f64 = text.trim_end_matches('%').parse().unwrap_or(0.0);
            let share = percent * replicas as f64 / 100.0;
            if up { share.ceil() as i64 } else { share.floor() as i64 }
        }
        _ => 0,
    };
    let rolling = &deployment.spec.strategy.rolling_update;
    if deployment.spec.strategy.kind == "Recreate" {
        return (0, replicas);
    }
    let (surge, unavailable) = (of(&rolling.max_surge, true), of(&rolling.max_unavailable, false));
    if (surge, unavailable) == (0, 0) {
        (0, 1)
    } else {
        (surge, unavailable)
    }
}
