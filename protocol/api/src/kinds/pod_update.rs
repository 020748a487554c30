//! What an update may change in a pod's spec: images, deadlines, more tolerations, fewer scheduling gates. All else is
//! fixed when the pod is made.

use std::collections::HashSet;

use serde_json::Value;

use crate::access::{Access, items_mut, remove};
use crate::cause::{Causes, Path};

/// The lists whose containers are fixed, but for their images. Ephemeral containers have a path of their own.
const FIXED_LISTS: [&str; 2] = ["initContainers", "containers"];

const MESSAGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
     `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
     tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Validates a change of a pod.
pub fn validate(old: &Value, new: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let (before, after) = (old.at(&["spec"]), new.at(&["spec"]));
    if before == after {
        return;
    }
    for list in FIXED_LISTS {
        let (was, is) = (before.items(list).len(), after.items(list).len());
        if was != is {
            causes.forbidden(path.field(list), "pod updates may not add or remove containers");
            return;
        }
    }
    deadline(before, after, &path, causes);
    tolerations(before, after, &path, causes);
    gates(before, after, &path, causes);
    let (fixed_before, fixed_after) = (fixed(before), fixed(after));
    if fixed_before != fixed_after {
        let changed = first_difference(&fixed_before, &fixed_after);
        causes.forbidden(path, format!("{MESSAGE}\nchanged: {changed}\n"));
    }
}

fn deadline(before: &Value, after: &Value, path: &Path<'_>, causes: &mut Causes) {
    let at = path.field("activeDeadlineSeconds");
    match (before.int("activeDeadlineSeconds"), after.int("activeDeadlineSeconds")) {
        (Some(was), Some(is)) if is > was => {
            causes.invalid(at, is, format!("must be less than or equal to previous value `{was}`"));
        }
        (Some(_), None) => {
            causes.invalid(at, Value::Null, "must not update from a positive integer to nil value");
        }
        _ => {}
    }
}

fn tolerations(before: &Value, after: &Value, path: &Path<'_>, causes: &mut Causes) {
    // `tolerationSeconds` of an existing toleration may change, the rest must stay.
    let identity = |toleration: &Value| {
        let mut toleration = toleration.clone();
        remove(&mut toleration, "tolerationSeconds");
        toleration.to_string()
    };
    let now: HashSet<String> = after.items("tolerations").iter().map(identity).collect();
    if !before
        .items("tolerations")
        .iter()
        .map(identity)
        .all(|toleration| now.contains(&toleration))
    {
        causes.forbidden(
            path.field("tolerations"),
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
}

fn gates(before: &Value, after: &Value, path: &Path<'_>, causes: &mut Causes) {
    let known: HashSet<&str> = before
        .items("schedulingGates")
        .iter()
        .map(|gate| gate.text("name"))
        .collect();
    let names = after.items("schedulingGates").iter().map(|gate| gate.text("name"));
    let added: Vec<&str> = names.filter(|name| !known.contains(name)).collect();
    if !added.is_empty() {
        let text = format!(
            "only deletion is allowed, but found new scheduling gates '{}'",
            added.join(",")
        );
        causes.forbidden(path.field("schedulingGates"), text);
    }
}

/// The part of a spec that never changes.
fn fixed(spec: &Value) -> Value {
    let mut spec = spec.clone();
    for list in FIXED_LISTS {
        for container in items_mut(&mut spec, list) {
            remove(container, "image");
        }
    }
    for name in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        remove(&mut spec, name);
    }
    spec
}

/// The path and values of the first field that differs, so that the message says what to put back.
pub(super) fn first_difference(before: &Value, after: &Value) -> String {
    fn walk(path: &str, before: &Value, after: &Value) -> Option<String> {
        if before == after {
            return None;
        }
        match (before, after) {
            (Value::Object(a), Value::Object(b)) => {
                let names = a.keys().chain(b.keys().filter(|name| !a.contains_key(*name)));
                names.into_iter().find_map(|name| {
                    let (a, b) = (before.at(&[name]), after.at(&[name]));
                    walk(&format!("{path}.{name}"), a, b)
                })
            }
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                let pairs = a.iter().zip(b).enumerate();
                pairs
                    .into_iter()
                    .find_map(|(index, (a, b))| walk(&format!("{path}[{index}]"), a, b))
            }
            _ => Some(format!("{path} from {before} to {after}")),
        }
    }
    walk("spec", before, after).unwrap_or_default()
}
