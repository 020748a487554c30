//! `metadata` of every object: what a client may set, what the server sets, and what must hold. Called by `write`; the
//! wording is that of apimachinery's `api/validation`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::access::Access;
use crate::cause::{Causes, Path};
use crate::kinds::Kind;
use crate::rules;

/// The bytes that an object's annotations may have together.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// Validates `metadata` of a complete object.
pub fn validate(kind: &Kind, metadata: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("metadata");
    let (name, namespace) = (metadata.text("name"), metadata.text("namespace"));
    if metadata.has("generateName") && !metadata.text("generateName").is_empty() {
        let prefix = metadata.text("generateName");
        // The prefix may end with a hyphen: the suffix follows.
        let probe = prefix
            .strip_suffix('-')
            .map_or_else(|| prefix.to_owned(), |cut| format!("{cut}a"));
        for problem in (kind.name_rule)(&probe) {
            causes.invalid(path.field("generateName"), prefix, problem);
        }
    }
    if name.is_empty() {
        causes.required(path.field("name"), "name or generateName is required");
    } else {
        for problem in (kind.name_rule)(name) {
            causes.invalid(path.field("name"), name, problem);
        }
    }
    match (kind.namespaced, namespace.is_empty()) {
        (true, true) => causes.required(path.field("namespace"), ""),
        (true, false) => {
            for problem in rules::dns_label(namespace) {
                causes.invalid(path.field("namespace"), namespace, problem);
            }
        }
        (false, true) => {}
        (false, false) => causes.forbidden(path.field("namespace"), "not allowed on this type"),
    }
    if metadata.int("generation").unwrap_or(0) < 0 {
        let generation = metadata.int("generation").unwrap_or(0);
        causes.invalid(
            path.field("generation"),
            generation,
            "must be greater than or equal to 0",
        );
    }
    labels(metadata.at(&["labels"]), path.field("labels"), causes);
    annotations(metadata.at(&["annotations"]), path.field("annotations"), causes);
    owner_references(metadata, &path, causes);
    finalizers(metadata, &path, causes);
}

/// Validates a map of labels.
pub fn labels(labels: &Value, path: Path<'_>, causes: &mut Causes) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        for problem in rules::qualified_name(key) {
            causes.invalid(path, key.as_str(), problem);
        }
        let value = value.as_str().unwrap_or_default();
        for problem in rules::label_value(value) {
            causes.invalid(path, value, problem);
        }
    }
}

/// Validates a map of annotations.
pub fn annotations(annotations: &Value, path: Path<'_>, causes: &mut Causes) {
    let mut bytes = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        bytes += key.len() + value.as_str().map_or(0, str::len);
        // Annotation keys may have upper case in their prefix: upstream lowers them before the check.
        for problem in rules::qualified_name(&key.to_lowercase()) {
            causes.invalid(path, key.as_str(), problem);
        }
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        causes.too_long(path, ANNOTATIONS_BYTES_MAX);
    }
}

fn owner_references(metadata: &Value, parent: &Path<'_>, causes: &mut Causes) {
    let path = parent.field("ownerReferences");
    let mut controller: Option<&str> = None;
    for (index, owner) in metadata.items("ownerReferences").iter().enumerate() {
        let at = path.index(index);
        let version = owner.text("apiVersion");
        if version.is_empty() || version.rsplit('/').next().is_some_and(str::is_empty) {
            causes.invalid(at.field("apiVersion"), version, "version must not be empty");
        }
        for name in ["kind", "name", "uid"] {
            if owner.text(name).is_empty() {
                causes.invalid(at.field(name), "", format!("{name} must not be empty"));
            }
        }
        if owner.text("kind") == "Event" && version.starts_with("v1") {
            causes.invalid(at, "", "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner.flag("controller") {
            if let Some(first) = controller {
                let text = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {} and {}",
                    first,
                    owner.text("name")
                );
                causes.invalid(path, metadata.at(&["ownerReferences"]).clone(), text);
            }
            controller = Some(owner.text("name"));
        }
    }
}

fn finalizers(metadata: &Value, parent: &Path<'_>, causes: &mut Causes) {
    let path = parent.field("finalizers");
    let names: BTreeSet<&str> = metadata.items("finalizers").iter().filter_map(Value::as_str).collect();
    for (index, finalizer) in metadata.items("finalizers").iter().enumerate() {
        let finalizer = finalizer.as_str().unwrap_or_default();
        for problem in rules::qualified_name(finalizer) {
            causes.invalid(path.index(index), finalizer, problem);
        }
    }
    if names.contains("orphan") && names.contains("foregroundDeletion") {
        let all = metadata.at(&["finalizers"]).clone();
        causes.invalid(path, all, "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

/// Validates what an update may do to `metadata`. Both are complete objects' metadata.
pub fn validate_update(old: &Value, new: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("metadata");
    for name in ["name", "namespace", "uid", "creationTimestamp"] {
        immutable(new.at(&[name]), old.at(&[name]), path.field(name), causes);
    }
    if old.has("deletionTimestamp") || new.has("deletionTimestamp") {
        for name in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
            immutable(new.at(&[name]), old.at(&[name]), path.field(name), causes);
        }
        if old.has("deletionTimestamp") {
            let known: BTreeSet<&str> = old.items("finalizers").iter().filter_map(Value::as_str).collect();
            let names = new.items("finalizers").iter().filter_map(Value::as_str);
            let added: Vec<&str> = names.filter(|name| !known.contains(name)).collect();
            if !added.is_empty() {
                let text = format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
                );
                causes.forbidden(path.field("finalizers"), text);
            }
        }
    }
    let (before, after) = (old.int("generation").unwrap_or(0), new.int("generation").unwrap_or(0));
    if after < before {
        causes.invalid(path.field("generation"), after, "must not be decremented");
    }
}

/// A field that an update must not change.
pub fn immutable(new: &Value, old: &Value, path: Path<'_>, causes: &mut Causes) {
    if new != old {
        causes.invalid(path, new.clone(), "field is immutable");
    }
}

/// Validates a `metav1.LabelSelector`.
pub fn label_selector(selector: &Value, path: Path<'_>, causes: &mut Causes) {
    labels(selector.at(&["matchLabels"]), path.field("matchLabels"), causes);
    let expressions = path.field("matchExpressions");
    for (index, expression) in selector.items("matchExpressions").iter().enumerate() {
        let at = expressions.index(index);
        let values = expression.items("values");
        match expression.text("operator") {
            "In" | "NotIn" if values.is_empty() => {
                causes.required(
                    at.field("values"),
                    "must be specified when `operator` is 'In' or 'NotIn'",
                );
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                causes.forbidden(at.field("values"), detail);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => causes.invalid(at.field("operator"), other, "not a valid selector operator"),
        }
        let key = expression.text("key");
        for problem in rules::qualified_name(key) {
            causes.invalid(at.field("key"), key, problem);
        }
        for (position, value) in values.iter().enumerate() {
            let text = value.as_str().unwrap_or_default();
            for problem in rules::label_value(text) {
                causes.invalid(at.field("values").index(position), text, problem);
            }
        }
    }
}
