//! The annotations by which `kubectl rollout` knows a Deployment's history, and by which the next decision knows how a
//! ReplicaSet was last scaled. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Set;

/// The number of a template in the Deployment's history.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// The numbers that a ReplicaSet had before it was rolled back to.
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The Deployment's replicas when the ReplicaSet was last scaled.
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// Its replicas and surge then.
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// Annotations of the Deployment that its ReplicaSets do not get.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
];

/// A number in an annotation; zero without one.
pub(super) fn number(set: &Set, annotation: &str) -> i64 {
    set.reading
        .metadata
        .annotations
        .get(annotation)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// The highest revision of some sets.
pub(super) fn highest<'a>(sets: impl IntoIterator<Item = &'a &'a Set>) -> i64 {
    sets.into_iter().map(|set| number(set, REVISION)).max().unwrap_or(0)
}

/// The annotations that a Deployment passes on.
pub(super) fn copied(annotations: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let wanted = annotations
        .iter()
        .filter(|(name, _)| !NOT_COPIED.contains(&name.as_str()));
    wanted.map(|(name, text)| (name.clone(), text.clone())).collect()
}

/// What has to change in the annotations of the newest set: those of the Deployment, and a revision above all others.
pub(super) fn changes(newest: &Set, deployment: &BTreeMap<String, String>, revision: i64) -> BTreeMap<String, String> {
    let present = &newest.reading.metadata.annotations;
    let mut changes = copied(deployment);
    changes.retain(|name, text| present.get(name) != Some(text));
    let former = number(newest, REVISION);
    if former < revision {
        changes.insert(REVISION.to_owned(), revision.to_string());
        if former > 0 {
            let history = present.get(HISTORY).map(String::as_str).unwrap_or_default();
            let separator = if history.is_empty() { "" } else { "," };
            changes.insert(HISTORY.to_owned(), format!("{history}{separator}{former}"));
        }
    }
    changes
}

/// Puts annotations on an object.
pub(super) fn put(value: &mut Value, annotations: &BTreeMap<String, String>) {
    for (name, text) in annotations {
        crate::ownership::annotate(value, name, text);
    }
}
