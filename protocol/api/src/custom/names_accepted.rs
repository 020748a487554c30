//! Which definitions get the names that they ask for: a definition whose names another one of its group has taken waits, as
//! Kubernetes' naming controller has it. Pure; the gateway writes the conditions that come of it.

use protocol::UnixMillis;
use serde_json::{Value, json};

use crate::access::{Access, object_mut};
use crate::kinds;

/// What keeps a definition until its objects are gone.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// The definition with its names judged against the others and its conditions set; `None` when nothing changes.
pub fn conditions<'o>(crd: &Value, others: impl Iterator<Item = &'o Value>, now: UnixMillis) -> Option<Value> {
    let name = crd.at(&["metadata"]).text("name");
    let (group, wanted) = (crd.at(&["spec"]).text("group"), crd.at(&["spec", "names"]));
    let accepted = crd.at(&["status", "acceptedNames"]);
    let mut taken: Vec<(String, bool)> = Vec::new();
    for other in others
        .filter(|other| other.at(&["spec"]).text("group") == group && other.at(&["metadata"]).text("name") != name)
    {
        let names = other.at(&["status", "acceptedNames"]);
        let resources = ["plural", "singular"].map(|field| names.text(field));
        let short = names.items("shortNames").iter().filter_map(Value::as_str);
        taken.extend(resources.into_iter().chain(short).map(|name| (name.to_owned(), false)));
        let kinds = ["kind", "listKind"].map(|field| names.text(field).to_owned());
        taken.extend(kinds.into_iter().map(|kind| (kind, true)));
    }
    let group_built_in = kinds::kinds().iter().filter(|kind| kind.group == group);
    for kind in group_built_in {
        taken.push((kind.plural.to_owned(), false));
        taken.push((kind.kind.to_owned(), true));
    }
    let is_taken = |name: &str, is_kind: bool| !name.is_empty() && taken.contains(&(name.to_owned(), is_kind));
    let mut names = accepted.clone();
    if !names.is_object() {
        names = json!({"plural": "", "kind": ""});
    }
    let mut refusal: Option<(&str, String)> = None;
    for (field, reason, is_kind) in [
        ("plural", "PluralConflict", false),
        ("singular", "SingularConflict", false),
        ("shortNames", "ShortNamesConflict", false),
        ("kind", "KindConflict", true),
        ("listKind", "ListKindConflict", true),
    ] {
        let asked: Vec<&str> = match wanted.at(&[field]) {
            Value::Array(texts) => texts.iter().filter_map(Value::as_str).collect(),
            other => other.as_str().into_iter().collect(),
        };
        match asked.iter().find(|name| is_taken(name, is_kind)) {
            Some(conflict) => {
                refusal = refusal.or(Some((reason, format!("{conflict:?} is already in use"))));
            }
            None => match wanted.get(field) {
                Some(value) => names[field] = value.clone(),
                None => {
                    crate::access::remove(&mut names, field);
                }
            },
        }
    }
    if refusal.is_none() {
        match wanted.get("categories") {
            Some(value) => names["categories"] = value.clone(),
            None => {
                crate::access::remove(&mut names, "categories");
            }
        }
    }
    let mut changed = crd.clone();
    object_mut(&mut changed, "status")["acceptedNames"] = names;
    match &refusal {
        Some((reason, message)) => {
            set(&mut changed, "NamesAccepted", "False", reason, message, now);
            // Once established, it stays so: what is served does not vanish by a rename.
            if !kinds::established(crd) {
                let text = "not all names are accepted";
                set(&mut changed, "Established", "False", "NotAccepted", text, now);
            }
        }
        None => {
            set(
                &mut changed,
                "NamesAccepted",
                "True",
                "NoConflicts",
                "no conflicts found",
                now,
            );
            let text = "the initial names have been accepted";
            set(&mut changed, "Established", "True", "InitialNamesAccepted", text, now);
        }
    }
    if crd.at(&["metadata"]).has("deletionTimestamp") {
        let text = "CustomResource deletion is in progress";
        set(
            &mut changed,
            "Terminating",
            "True",
            "InstanceDeletionInProgress",
            text,
            now,
        );
    }
    (changed != *crd).then_some(changed)
}

/// Says that a definition waits for its objects to go.
pub fn set_terminating(crd: &mut Value, now: UnixMillis) {
    let text = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    set(crd, "Terminating", "True", "InstanceDeletionPending", text, now);
}

fn set(crd: &mut Value, kind: &str, status: &str, reason: &str, message: &str, now: UnixMillis) {
    let object = object_mut(crd, "status");
    if !object["conditions"].is_array() {
        object["conditions"] = json!([]);
    }
    let Some(conditions) = object["conditions"].as_array_mut() else {
        return;
    };
    let known = conditions.iter_mut().find(|condition| condition.text("type") == kind);
    match known {
        Some(known) => {
            if known.text("status") != status {
                known["lastTransitionTime"] = now.rfc3339().into();
            }
            known["status"] = status.into();
            known["reason"] = reason.into();
            known["message"] = message.into();
        }
        None => conditions.push(json!({
            "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now.rfc3339(),
        })),
    }
}
