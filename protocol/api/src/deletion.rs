//! What a delete request does to an object: it goes at once, or it is marked and waits, for its pod to stop or for its
//! finalizers. Pure; the gateway calls it and proposes what it answers.

use protocol::UnixMillis;
use serde_json::{Value, json};

use crate::access::{Access, object_mut, remove};
use crate::cause::{Causes, Path};
use crate::kinds::Kind;
use crate::status::Status;

/// What becomes of the objects that this one owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PropagationPolicy {
    /// They stay, without their owner.
    Orphan,
    /// They go after it.
    Background,
    /// They go before it.
    Foreground,
}

/// What must be true of the object, or nothing is deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// Its uid.
    pub uid: Option<String>,
    /// Its resourceVersion.
    pub resource_version: Option<String>,
}

/// A delete request: metav1.DeleteOptions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// How long a pod's containers get to stop. `None` asks for the pod's own period.
    pub grace_period_seconds: Option<i64>,
    /// What becomes of dependents; `None` leaves it to the object's finalizers, then to the background.
    pub propagation_policy: Option<PropagationPolicy>,
    /// What must be true.
    pub preconditions: Preconditions,
    /// Whether nothing is to be written.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Reads a DeleteOptions body; an absent body is an empty object.
    pub fn from_value(body: &Value) -> Result<DeleteOptions, Status> {
        let mut causes = Causes::default();
        let root = Path::Root;
        let policy = match body.text("propagationPolicy") {
            "" => None,
            "Orphan" => Some(PropagationPolicy::Orphan),
            "Background" => Some(PropagationPolicy::Background),
            "Foreground" => Some(PropagationPolicy::Foreground),
            other => {
                let known = ["Background", "Foreground", "Orphan"];
                causes.not_supported(root.field("propagationPolicy"), other, &known);
                None
            }
        };
        // `orphanDependents` is the older way to say it.
        let policy = match (body.get("orphanDependents").and_then(Value::as_bool), policy) {
            (Some(_), Some(_)) => {
                let text = "orphanDependents and deletionPropagation cannot be both set";
                causes.invalid(root.field("propagationPolicy"), body.text("propagationPolicy"), text);
                None
            }
            (Some(true), None) => Some(PropagationPolicy::Orphan),
            (Some(false), None) => Some(PropagationPolicy::Background),
            (None, policy) => policy,
        };
        for entry in body
            .items("dryRun")
            .iter()
            .filter(|entry| entry.as_str() != Some("All"))
        {
            causes.not_supported(root.field("dryRun"), entry.as_str().unwrap_or_default(), &["All"]);
        }
        if !causes.is_empty() {
            return Err(Status::invalid_of("meta.k8s.io", "DeleteOptions", "", causes.0));
        }
        let text = |name: &str| body.at(&["preconditions", name]).as_str().map(str::to_owned);
        Ok(DeleteOptions {
            grace_period_seconds: body.int("gracePeriodSeconds"),
            propagation_policy: policy,
            preconditions: Preconditions {
                uid: text("uid"),
                resource_version: text("resourceVersion"),
            },
            dry_run: !body.items("dryRun").is_empty(),
        })
    }

    /// Checks the preconditions against the stored object.
    pub fn check(&self, kind: &Kind, object: &Value) -> Result<(), Status> {
        let metadata = object.at(&["metadata"]);
        let name = metadata.text("name");
        let checks = [
            ("UID", &self.preconditions.uid, "uid"),
            (
                "ResourceVersion",
                &self.preconditions.resource_version,
                "resourceVersion",
            ),
        ];
        for (what, wanted, field) in checks {
            if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != metadata.text(field)) {
                let why = format!(
                    "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {}",
                    metadata.text(field)
                );
                return Err(Status::conflict(kind, name, why));
            }
        }
        Ok(())
    }
}

/// What a delete request does.
#[derive(Clone, Debug, PartialEq)]
pub enum Deletion {
    /// The object goes now.
    Remove,
    /// The object stays for the time being, marked so.
    Mark(Value),
    /// It is marked already and the request changes nothing.
    Nothing,
}

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Decides what a delete request does to an object. Preconditions are checked by `DeleteOptions::check`.
pub fn begin_deletion(kind: &Kind, object: &Value, options: &DeleteOptions, now: UnixMillis) -> Deletion {
    let mut marked = object.clone();
    if !object.at(&["metadata"]).has("deletionTimestamp") {
        (kind.before_deletion)(&mut marked, now);
    }
    propagate(options, object_mut(&mut marked, "metadata"));
    let grace = grace_period(kind, object, options);
    let held = !marked.at(&["metadata"]).items("finalizers").is_empty() || waits_for_content(kind, object);
    let deleting = object.at(&["metadata"]).has("deletionTimestamp");
    if grace == 0 && !held {
        return Deletion::Remove;
    }
    let metadata = object_mut(&mut marked, "metadata");
    if deleting {
        // A later request may shorten the time that is left, never lengthen it.
        let left = metadata.int("deletionGracePeriodSeconds").unwrap_or(0);
        if grace < left {
            mark(metadata, grace, now);
        } else if marked == *object {
            return Deletion::Nothing;
        }
        return Deletion::Mark(marked);
    }
    mark(metadata, grace, now);
    if let Some(generation) = metadata.int("generation").filter(|generation| *generation > 0) {
        metadata["generation"] = generation.saturating_add(1).into();
    }
    if waits_for_content(kind, object) {
        object_mut(&mut marked, "status")["phase"] = "Terminating".into();
    }
    Deletion::Mark(marked)
}

/// Whether an object that is marked has nothing left to wait for: an update that removed its last finalizer ends in its
/// removal.
pub fn may_go(kind: &Kind, object: &Value) -> bool {
    let metadata = object.at(&["metadata"]);
    metadata.has("deletionTimestamp")
        && metadata.items("finalizers").is_empty()
        && metadata.int("deletionGracePeriodSeconds").unwrap_or(0) == 0
        && !waits_for_content(kind, object)
}

fn mark(metadata: &mut Value, grace: i64, now: UnixMillis) {
    let grace_ms = u64::try_from(grace).unwrap_or(0).saturating_mul(1000);
    metadata["deletionTimestamp"] = now.plus_ms(grace_ms.min(MS_MAX)).rfc3339().into();
    metadata["deletionGracePeriodSeconds"] = grace.into();
}

/// A century: beyond it, a grace period means "never", and the instant must still print.
const MS_MAX: u64 = 100 * 365 * 24 * 3600 * 1000;

/// A namespace is held by `spec.finalizers` until it is empty.
fn waits_for_content(kind: &Kind, object: &Value) -> bool {
    kind.kind == "Namespace" && !object.at(&["spec"]).items("finalizers").is_empty()
}

/// Replaces the finalizers that stand for a propagation policy by the one that the request asks for.
fn propagate(options: &DeleteOptions, metadata: &mut Value) {
    let Some(policy) = options.propagation_policy else {
        return;
    };
    let mut finalizers: Vec<Value> = metadata
        .items("finalizers")
        .iter()
        .filter(|finalizer| !matches!(finalizer.as_str(), Some(ORPHAN | FOREGROUND)))
        .cloned()
        .collect();
    match policy {
        PropagationPolicy::Orphan => finalizers.push(json!(ORPHAN)),
        PropagationPolicy::Foreground => finalizers.push(json!(FOREGROUND)),
        PropagationPolicy::Background => {}
    }
    if finalizers.is_empty() {
        remove(metadata, "finalizers");
    } else {
        metadata["finalizers"] = finalizers.into();
    }
}

/// Seconds that a pod's containers get to stop. Nothing runs, so nothing is waited for, in a pod that is not bound to a
/// node or has finished; other kinds have no such time.
fn grace_period(kind: &Kind, object: &Value, options: &DeleteOptions) -> i64 {
    if kind.kind != "Pod" || !kind.group.is_empty() {
        return 0;
    }
    let (spec, status) = (object.at(&["spec"]), object.at(&["status"]));
    if spec.text("nodeName").is_empty() || matches!(status.text("phase"), "Succeeded" | "Failed") {
        return 0;
    }
    let period = options
        .grace_period_seconds
        .or(spec.int("terminationGracePeriodSeconds"))
        .unwrap_or(30);
    // A negative period means "as soon as the containers have stopped": one second.
    if period < 0 { 1 } else { period }
}
