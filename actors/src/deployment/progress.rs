//! What a Deployment's status says: counts, and the conditions Available and Progressing with the reasons and messages
//! that `kubectl rollout status` reads. Pure.

use protocol::UnixMillis;
use serde_json::{Value, json};

use super::scale::Bounds;
use super::{Own, Set};
use crate::conditions::{self, Times, Wanted};
use crate::ownership;
use crate::reading::{Condition, condition, instant};

/// A deadline of this many seconds means none.
const NO_DEADLINE: i64 = i32::MAX as i64;

/// The counts of the ReplicaSets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub replicas: i64,
    pub updated: i64,
    pub ready: i64,
    pub available: i64,
    pub unavailable: i64,
    pub terminating: i64,
}

impl Counts {
    /// Of all sets, the newest among them.
    pub fn of(all: &[&Set], newest: Option<&Set>) -> Counts {
        let sum = |count: fn(&Set) -> i64| all.iter().map(|set| count(set)).sum::<i64>();
        let available = sum(|set| set.reading.status.available_replicas);
        Counts {
            replicas: sum(|set| set.reading.status.replicas),
            updated: newest.map_or(0, |set| set.reading.status.replicas),
            ready: sum(|set| set.reading.status.ready_replicas),
            available,
            unavailable: (sum(|set| set.reading.replicas()) - available).max(0),
            terminating: sum(|set| set.reading.status.terminating_replicas.unwrap_or(0)),
        }
    }

    /// Whether the rollout is done.
    pub fn complete(&self, wanted: i64) -> bool {
        self.updated == wanted && self.replicas == wanted && self.available == wanted
    }

    /// Writes the counts into the status.
    pub fn write(&self, value: &mut Value, generation: i64) {
        let status = ownership::member(value, "status");
        status.insert("observedGeneration".into(), json!(generation));
        for (name, count) in [
            ("replicas", self.replicas),
            ("updatedReplicas", self.updated),
            ("readyReplicas", self.ready),
            ("availableReplicas", self.available),
            ("unavailableReplicas", self.unavailable),
            ("terminatingReplicas", self.terminating),
        ] {
            if count == 0 {
                status.remove(name);
            } else {
                status.insert(name.into(), json!(count));
            }
        }
    }
}

/// What this decision did about the newest set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Newest {
    /// There is none, or not as yet.
    None,
    /// It is created by this decision.
    Created(String),
    /// It exists.
    Found(String),
}

/// Sets the conditions. Returns after how many milliseconds the deadline passes, if it is running.
pub(super) fn write_conditions(
    value: &mut Value,
    own: &Own,
    bounds: &Bounds,
    counts: &Counts,
    newest: &Newest,
    now: UnixMillis,
) -> Option<u64> {
    write_availability(value, bounds, counts, now);
    let deadline_seconds = own
        .reading
        .spec
        .progress_deadline_seconds
        .filter(|&seconds| seconds != NO_DEADLINE);
    let Some(deadline_seconds) = deadline_seconds else {
        conditions::remove(value, "Progressing");
        return None;
    };
    let deadline_ms = u64::try_from(deadline_seconds).unwrap_or(0) * 1000;
    let current = condition(&own.reading.status.conditions, "Progressing");
    let next = progressing(own, bounds, counts, newest, current, deadline_ms, now);
    if let Some((status, reason, message)) = &next {
        let wanted = Wanted {
            kind: "Progressing",
            status,
            reason,
            message,
        };
        let set = conditions::set(value, wanted, Times::Update, now);
        if !set && moved(own, counts) {
            touch(value, now);
        }
    }
    let reason = next
        .as_ref()
        .map(|(_, reason, _)| *reason)
        .or(current.map(|current| current.reason.as_str()));
    let waits = !matches!(
        reason,
        Some("NewReplicaSetAvailable" | "ProgressDeadlineExceeded" | "DeploymentPaused") | None
    );
    waits.then(|| {
        let updated_at = if next.is_some() {
            None
        } else {
            current.and_then(last_update)
        }
        .unwrap_or(now);
        updated_at.plus_ms(deadline_ms + 1000).since_ms(now).max(1000)
    })
}

fn write_availability(value: &mut Value, bounds: &Bounds, counts: &Counts, now: UnixMillis) {
    let (status, reason, message) = if counts.available >= bounds.available_min() {
        (
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        )
    } else {
        (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    };
    conditions::set(
        value,
        Wanted {
            kind: "Available",
            status,
            reason,
            message,
        },
        Times::Update,
        now,
    );
}

/// The condition Progressing that should be, or `None` to leave it.
fn progressing(
    own: &Own,
    bounds: &Bounds,
    counts: &Counts,
    newest: &Newest,
    current: Option<&Condition>,
    deadline_ms: u64,
    now: UnixMillis,
) -> Option<(&'static str, &'static str, String)> {
    let reason = current.map(|current| current.reason.as_str()).unwrap_or_default();
    if own.reading.spec.paused {
        let leave = matches!(reason, "DeploymentPaused" | "ProgressDeadlineExceeded");
        return (!leave).then(|| ("Unknown", "DeploymentPaused", "Deployment is paused".to_owned()));
    }
    if reason == "DeploymentPaused" {
        return Some(("Unknown", "DeploymentResumed", "Deployment is resumed".to_owned()));
    }
    let subject = match newest {
        Newest::Created(name) => {
            return Some((
                "True",
                "NewReplicaSetCreated",
                format!("Created new replica set {name:?}"),
            ));
        }
        Newest::Found(name) => format!("ReplicaSet {name:?}"),
        Newest::None => format!("Deployment {:?}", own.reading.metadata.name),
    };
    if counts.replicas == counts.updated && reason == "NewReplicaSetAvailable" {
        return None;
    }
    if counts.complete(bounds.replicas) {
        return Some((
            "True",
            "NewReplicaSetAvailable",
            format!("{subject} has successfully progressed."),
        ));
    }
    if moved(own, counts) {
        return Some(("True", "ReplicaSetUpdated", format!("{subject} is progressing.")));
    }
    let Some(current) = current else {
        return Some(match newest {
            Newest::Found(name) => ("True", "FoundNewReplicaSet", format!("Found new replica set {name:?}")),
            _ => ("True", "ReplicaSetUpdated", format!("{subject} is progressing.")),
        });
    };
    if reason == "NewReplicaSetAvailable" {
        // Scaled, or a pod was lost, with the newest template in place: the rollout was done.
        return None;
    }
    let late = last_update(current).is_some_and(|at| now.since_ms(at) > deadline_ms);
    (late && reason != "ProgressDeadlineExceeded").then(|| {
        (
            "False",
            "ProgressDeadlineExceeded",
            format!("{subject} has timed out progressing."),
        )
    })
}

/// Whether the counts moved towards the goal since the status was last written.
fn moved(own: &Own, counts: &Counts) -> bool {
    let status = &own.reading.status;
    let old_before = status.replicas - status.updated_replicas;
    counts.updated > status.updated_replicas
        || counts.replicas - counts.updated < old_before
        || counts.ready > status.ready_replicas
        || counts.available > status.available_replicas
}

fn last_update(condition: &Condition) -> Option<UnixMillis> {
    instant(condition.last_update_time.as_deref())
}

fn touch(value: &mut Value, now: UnixMillis) {
    let conditions = value["status"]["conditions"].as_array_mut();
    if let Some(condition) = conditions.and_then(|all| all.iter_mut().find(|c| c["type"] == "Progressing")) {
        condition["lastUpdateTime"] = json!(now.rfc3339());
    }
}
