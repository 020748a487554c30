//! What a Deployment does: claim its ReplicaSets, make the newest, move pods, keep the history, report. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::{Key, Resource, UnixMillis};
use serde_json::{Value, json};

use super::progress::{self, Counts, Newest};
use super::revision;
use super::scale::{self, Bounds, SetSize, Share};
use super::{Deployment, Own, Set, template};
use crate::effects::{Effects, Intent, Note, Regarding, Severity};
use crate::kind::Event;
use crate::ownership::{self, Claim, Owner};

const COMPONENT: &str = "deployment-controller";
const PROGRESS_TIMER: &str = "progress";

/// What is to change in a ReplicaSet.
#[derive(Default)]
struct Edit {
    replicas: Option<i64>,
    annotations: BTreeMap<String, String>,
    min_ready_seconds: Option<i64>,
}

/// A decision in the making.
struct Plan<'a> {
    own: &'a Own,
    owner: Owner,
    bounds: Bounds,
    /// All owned sets, oldest first.
    all: Vec<&'a Set>,
    newest: Option<&'a Set>,
    /// All but the newest, oldest first.
    old: Vec<&'a Set>,
    edits: BTreeMap<&'a Key, Edit>,
    created: Option<Value>,
    collision: bool,
    /// Old sets that the history has no room for.
    forgotten: Vec<&'a Set>,
}

pub(super) fn decide(state: &mut Deployment, now: UnixMillis, _: Event, effects: &mut Effects) {
    let Some(own) = &state.own else { return };
    if own.object.header.deleting {
        return;
    }
    let owner = Owner {
        api_version: "apps/v1",
        kind: "Deployment",
        name: own.reading.metadata.name.clone(),
        uid: own.reading.metadata.uid.clone(),
    };
    if claim_sets(state, own, &owner, effects) {
        return;
    }
    let mut plan = Plan::new(state, own, owner);
    if own.reading.spec.paused || plan.was_scaled() {
        plan.scale();
    } else if own.reading.spec.strategy.kind == "Recreate" {
        plan.recreate(state);
    } else {
        plan.roll(state);
    }
    plan.forget();
    plan.carry(state, now, effects);
}

/// Adopts and releases. Returns whether something was asked for: the rest is decided when it is done.
fn claim_sets(state: &Deployment, own: &Own, owner: &Owner, effects: &mut Effects) -> bool {
    let mut asked = false;
    for (key, set) in &state.replica_sets {
        let matches = !own.selector.is_empty() && own.selector.matches(&set.object.header.labels);
        let intent = match ownership::claim(&set.object.header, &owner.uid, matches) {
            Claim::Adopt => ownership::adopt(key, &set.object, owner),
            Claim::Release => ownership::release(key, &set.object, &owner.uid),
            Claim::Own | Claim::Foreign => None,
        };
        if let Some(intent) = intent {
            effects.write(vec![
                Intent::Fence {
                    key: state.key.clone(),
                    base: Arc::clone(&own.object),
                },
                intent,
            ]);
            asked = true;
        }
    }
    asked
}

fn size(set: &Set) -> SetSize {
    SetSize {
        replicas: set.reading.replicas(),
        available: set.reading.status.available_replicas,
    }
}

impl<'a> Plan<'a> {
    fn new(state: &'a Deployment, own: &'a Own, owner: Owner) -> Plan<'a> {
        let spec = &own.reading.spec;
        let rolling = &spec.strategy.rolling_update;
        let recreate = spec.strategy.kind == "Recreate";
        let bounds = Bounds::new(
            spec.replicas.unwrap_or(1),
            recreate,
            &rolling.max_surge,
            &rolling.max_unavailable,
        );
        let owned = |set: &&Set| {
            let header = &set.object.header;
            !header.deleting && header.controller().is_some_and(|c| c.uid.as_str() == owner.uid)
        };
        let mut all: Vec<&Set> = state.replica_sets.values().filter(owned).collect();
        all.sort_by_key(|set| (set.reading.metadata.created_at(), set.object.header.created));
        let newest = all
            .iter()
            .copied()
            .find(|set| template::same(&set.reading.spec.template, &spec.template));
        let old = all
            .iter()
            .copied()
            .filter(|set| newest.is_none_or(|newest| newest.key != set.key))
            .collect();
        let (edits, forgotten) = (BTreeMap::new(), Vec::new());
        Plan {
            own,
            owner,
            bounds,
            all,
            newest,
            old,
            edits,
            created: None,
            collision: false,
            forgotten,
        }
    }

    /// Whether the Deployment was scaled since its active sets were.
    fn was_scaled(&self) -> bool {
        let mut active = self.all.iter().filter(|set| set.reading.replicas() > 0);
        active.any(|set| {
            set.reading.metadata.annotations.contains_key(revision::DESIRED)
                && revision::number(set, revision::DESIRED) != self.bounds.replicas
        })
    }

    /// Scales without rolling on.
    fn scale(&mut self) {
        let active: Vec<&Set> = self
            .all
            .iter()
            .copied()
            .filter(|set| set.reading.replicas() > 0)
            .collect();
        let only = match active.as_slice() {
            [] => self.newest.or(self.old.last().copied()),
            [one] => Some(*one),
            _ => None,
        };
        if let Some(set) = only {
            return self.resize(set, self.bounds.replicas);
        }
        if active.is_empty() {
            return;
        }
        let saturated = self.newest.is_some_and(|newest| {
            newest.reading.replicas() == self.bounds.replicas
                && revision::number(newest, revision::DESIRED) == self.bounds.replicas
                && newest.reading.status.available_replicas == self.bounds.replicas
        });
        if saturated {
            for set in self.old.clone() {
                self.resize(set, 0);
            }
            return;
        }
        if self.own.reading.spec.strategy.kind == "Recreate" {
            return;
        }
        // Growing prefers the larger and newer sets, shrinking the larger and older ones.
        let total: i64 = active.iter().map(|set| set.reading.replicas()).sum();
        let grows = self.bounds.pods_max() > total;
        let mut ordered = active;
        if grows {
            ordered.reverse();
        }
        ordered.sort_by_key(|set| std::cmp::Reverse(set.reading.replicas()));
        let shares: Vec<Share> = ordered
            .iter()
            .map(|set| Share {
                replicas: set.reading.replicas(),
                former_max: match revision::number(set, revision::MAX) {
                    0 => set.reading.status.replicas,
                    former => former,
                },
            })
            .collect();
        for (set, replicas) in ordered.into_iter().zip(scale::proportional(&self.bounds, &shares)) {
            self.resize(set, replicas);
        }
    }

    fn recreate(&mut self, state: &Deployment) {
        let running: Vec<&Set> = self
            .old
            .iter()
            .copied()
            .filter(|set| set.reading.replicas() > 0)
            .collect();
        if !running.is_empty() {
            for set in running {
                self.resize(set, 0);
            }
            return;
        }
        let pods_left = |set: &&Set| {
            let status = &set.reading.status;
            status.replicas > 0
                || status.terminating_replicas.unwrap_or(0) > 0
                || status.observed_generation < set.reading.metadata.generation
        };
        if self.old.iter().any(pods_left) {
            return;
        }
        self.ensure_newest(state, self.bounds.replicas);
        if let Some(newest) = self.newest {
            self.resize(newest, self.bounds.replicas);
        }
    }

    fn roll(&mut self, state: &Deployment) {
        let old: Vec<SetSize> = self.old.iter().map(|set| size(set)).collect();
        let newest = self.newest.map_or(
            SetSize {
                replicas: 0,
                available: 0,
            },
            size,
        );
        let grown = scale::newest_size(&self.bounds, newest, &old);
        self.ensure_newest(state, grown);
        let Some(set) = self.newest else { return };
        if grown != newest.replicas {
            return self.resize(set, grown);
        }
        self.resize(set, grown);
        for (set, replicas) in self
            .old
            .clone()
            .into_iter()
            .zip(scale::old_sizes(&self.bounds, newest, &old))
        {
            if set.reading.replicas() != replicas {
                self.resize(set, replicas);
            }
        }
    }

    /// Creates the newest set if there is none; otherwise keeps its annotations.
    fn ensure_newest(&mut self, state: &Deployment, replicas: i64) {
        let next_revision = revision::highest(&self.old) + 1;
        let annotations = &self.own.reading.metadata.annotations;
        if let Some(newest) = self.newest {
            let changes = revision::changes(newest, annotations, next_revision);
            let min_ready = self.own.reading.spec.min_ready_seconds;
            let edit = self.edits.entry(&newest.key).or_default();
            edit.annotations.extend(changes);
            edit.min_ready_seconds = (newest.reading.spec.min_ready_seconds != min_ready).then_some(min_ready);
            return;
        }
        let spec = &self.own.reading.spec;
        let hash = template::hash(&spec.template, self.own.reading.status.collision_count);
        let name = format!("{}-{hash}", self.owner.name);
        let namespace = self.own.reading.metadata.namespace.as_str();
        if state
            .replica_sets
            .contains_key(&Key::new("replicasets.apps", namespace, name.as_str()))
        {
            self.collision = true;
            return;
        }
        let mut annotations = revision::copied(annotations);
        annotations.insert(revision::REVISION.into(), next_revision.to_string());
        annotations.extend(self.scaled_annotations());
        self.created = Some(new_set(self.own, &self.owner, &name, &hash, replicas, &annotations));
    }

    fn scaled_annotations(&self) -> BTreeMap<String, String> {
        let (desired, max) = (self.bounds.replicas.to_string(), self.bounds.pods_max().to_string());
        BTreeMap::from([(revision::DESIRED.to_owned(), desired), (revision::MAX.to_owned(), max)])
    }

    /// Wants a set to have so many pods, and notes how large the Deployment was then.
    fn resize(&mut self, set: &'a Set, replicas: i64) {
        let annotations = self.scaled_annotations();
        let edit = self.edits.entry(&set.key).or_default();
        edit.replicas = (set.reading.replicas() != replicas).then_some(replicas);
        let present = &set.reading.metadata.annotations;
        edit.annotations.extend(
            annotations
                .into_iter()
                .filter(|(name, text)| present.get(name) != Some(text)),
        );
    }

    /// Chooses the old sets that the history has no room for, once the rollout is complete.
    fn forget(&mut self) {
        let spec = &self.own.reading.spec;
        let counts = Counts::of(&self.all, self.newest);
        let limit = spec.revision_history_limit.unwrap_or(10);
        if self.newest.is_none()
            || !(counts.complete(self.bounds.replicas) || spec.paused)
            || limit == i64::from(i32::MAX)
        {
            return;
        }
        let surplus = self.old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        let mut old = self.old.clone();
        old.sort_by_key(|set| revision::number(set, revision::REVISION));
        let idle = |set: &&Set| {
            let (metadata, status) = (&set.reading.metadata, &set.reading.status);
            set.reading.replicas() == 0
                && status.replicas == 0
                && status.terminating_replicas.unwrap_or(0) == 0
                && status.observed_generation >= metadata.generation
        };
        self.forgotten = old.into_iter().take(surplus).filter(idle).collect();
    }

    /// Turns the plan into effects: one group with the Deployment itself last, so that who sees its new status, by events
    /// in order, has seen the ReplicaSets that it follows from.
    fn carry(self, state: &Deployment, now: UnixMillis, effects: &mut Effects) {
        let mut group = Vec::new();
        for (key, edit) in &self.edits {
            let Some(set) = self.all.iter().find(|set| set.key == **key) else {
                continue;
            };
            if let Some(intent) = edited(set, edit) {
                group.push(intent);
            }
            if let Some(replicas) = edit.replicas {
                effects
                    .notes
                    .push(self.scaled_note(&set.reading.metadata.name, set.reading.replicas(), replicas));
            }
        }
        if let Some(value) = &self.created {
            let name = value["metadata"]["name"].as_str().unwrap_or_default();
            let replicas = value["spec"]["replicas"].as_i64().unwrap_or(0);
            if replicas > 0 {
                effects.notes.push(self.scaled_note(name, 0, replicas));
            }
            let namespace = self.own.reading.metadata.namespace.as_str().into();
            let resource = Resource::new("replicasets.apps");
            group.push(Intent::Create {
                resource,
                namespace,
                value: value.clone(),
            });
        }
        for set in &self.forgotten {
            group.push(Intent::Remove {
                key: set.key.clone(),
                revision: set.object.header.revision,
            });
        }
        let (value, deadline_ms) = self.own_value(now);
        effects.timer_if(PROGRESS_TIMER, deadline_ms);
        let (key, base) = (state.key.clone(), Arc::clone(&self.own.object));
        if value != self.own.value {
            group.push(Intent::Update { key, base, value });
        } else if !group.is_empty() {
            group.push(Intent::Fence { key, base });
        }
        effects.write(group);
    }

    /// The Deployment with its new status and revision.
    fn own_value(&self, now: UnixMillis) -> (Value, Option<u64>) {
        let mut value = self.own.value.clone();
        let newest = match (&self.created, self.newest) {
            (Some(created), _) => Newest::Created(created["metadata"]["name"].as_str().unwrap_or_default().to_owned()),
            (None, Some(set)) => Newest::Found(set.reading.metadata.name.clone()),
            (None, None) => Newest::None,
        };
        let revision = match (&self.created, self.newest) {
            (Some(created), _) => created["metadata"]["annotations"][revision::REVISION]
                .as_str()
                .map(str::to_owned),
            (None, Some(set)) => {
                let edited = self
                    .edits
                    .get(&set.key)
                    .and_then(|edit| edit.annotations.get(revision::REVISION));
                edited
                    .or_else(|| set.reading.metadata.annotations.get(revision::REVISION))
                    .cloned()
            }
            (None, None) => None,
        };
        if let Some(revision) = revision {
            ownership::annotate(&mut value, revision::REVISION, &revision);
        }
        let counts = Counts::of(&self.all, self.newest);
        counts.write(&mut value, self.own.reading.metadata.generation);
        let deadline_ms = progress::write_conditions(&mut value, self.own, &self.bounds, &counts, &newest, now);
        if self.collision {
            value["status"]["collisionCount"] = json!(self.own.reading.status.collision_count + 1);
        }
        (value, deadline_ms)
    }

    fn scaled_note(&self, set: &str, from: i64, to: i64) -> Note {
        let direction = if to > from { "up" } else { "down" };
        Note {
            regarding: Regarding::new("apps/v1", "Deployment", &self.own.reading.metadata),
            severity: Severity::Normal,
            reason: "ScalingReplicaSet",
            message: format!("Scaled {direction} replica set {set} from {from} to {to}"),
            component: COMPONENT,
        }
    }
}

/// The write of an edit, unless it changes nothing.
fn edited(set: &Set, edit: &Edit) -> Option<Intent> {
    if edit.replicas.is_none() && edit.annotations.is_empty() && edit.min_ready_seconds.is_none() {
        return None;
    }
    let mut value = set.value.clone();
    revision::put(&mut value, &edit.annotations);
    let spec = ownership::member(&mut value, "spec");
    if let Some(replicas) = edit.replicas {
        spec.insert("replicas".into(), json!(replicas));
    }
    match edit.min_ready_seconds {
        Some(0) => {
            spec.remove("minReadySeconds");
        }
        Some(seconds) => {
            spec.insert("minReadySeconds".into(), json!(seconds));
        }
        None => {}
    }
    if edit.replicas.is_some() || edit.min_ready_seconds.is_some() {
        value["metadata"]["generation"] = json!(set.reading.metadata.generation + 1);
    }
    Some(Intent::Update {
        key: set.key.clone(),
        base: Arc::clone(&set.object),
        value,
    })
}

/// The ReplicaSet of the Deployment's template.
fn new_set(
    own: &Own,
    owner: &Owner,
    name: &str,
    hash: &str,
    replicas: i64,
    annotations: &BTreeMap<String, String>,
) -> Value {
    let spec = &own.reading.spec;
    let mut template = spec.template.clone();
    let labels = ownership::metadata(&mut template)
        .entry("labels")
        .or_insert_with(|| json!({}));
    labels[template::HASH_LABEL] = json!(hash);
    let labels = labels.clone();
    let mut selector = spec.selector.clone();
    ownership::member(&mut selector, "matchLabels").insert(template::HASH_LABEL.into(), json!(hash));
    let mut set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": name, "namespace": own.reading.metadata.namespace, "labels": labels, "annotations": annotations,
            "ownerReferences": [owner.controller_reference()],
        },
        "spec": { "replicas": replicas, "selector": selector, "template": template },
    });
    if spec.min_ready_seconds > 0 {
        set["spec"]["minReadySeconds"] = json!(spec.min_ready_seconds);
    }
    set
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
