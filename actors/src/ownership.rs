//! Owners and deletion, as edits of JSON objects: controller references, adoption, release, and what "delete" means for
//! an object (a mark, or its removal). Pure; every kind that has dependents uses it.

use std::sync::Arc;

use protocol::{Header, Key, Object, UnixMillis};
use serde_json::{Map, Value, json};

use crate::effects::Intent;

/// The identity of an owner, for references to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// `apiVersion`.
    pub api_version: &'static str,
    /// `kind`.
    pub kind: &'static str,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

impl Owner {
    /// A reference that makes it the controller and lets foreground deletion wait for the dependent.
    pub fn controller_reference(&self) -> Value {
        json!({
            "apiVersion": self.api_version, "kind": self.kind, "name": self.name, "uid": self.uid,
            "controller": true, "blockOwnerDeletion": true,
        })
    }
}

/// How an object relates to a would-be controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is controlled by it and matches.
    Own,
    /// It has no controller and matches: adopt it.
    Adopt,
    /// It is controlled by it and does not match any more: release it.
    Release,
    /// It is none of its business.
    Foreign,
}

/// Decides about one object. An object that is being deleted is neither adopted nor released.
pub fn claim(header: &Header, owner_uid: &str, matches: bool) -> Claim {
    match header.controller() {
        Some(controller) if controller.uid.as_str() == owner_uid => match (matches, header.deleting) {
            (true, _) | (false, true) => Claim::Own,
            (false, false) => Claim::Release,
        },
        Some(_) => Claim::Foreign,
        None if matches && !header.deleting => Claim::Adopt,
        None => Claim::Foreign,
    }
}

/// The member `metadata` of an object, made if absent.
pub fn metadata(value: &mut Value) -> &mut Map<String, Value> {
    member(value, "metadata")
}

/// A member that is a JSON object, made if absent.
pub fn member<'a>(value: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let slot = &mut value[name];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    match slot {
        Value::Object(map) => map,
        _ => unreachable!("made an object right above"),
    }
}

/// Sets an annotation.
pub fn annotate(value: &mut Value, name: &str, text: &str) {
    let annotations = metadata(value).entry("annotations").or_insert_with(|| json!({}));
    annotations[name] = json!(text);
}

/// The write that makes `owner` the controller of an object.
pub fn adopt(key: &Key, base: &Arc<Object>, owner: &Owner) -> Option<Intent> {
    let mut value = base.value().ok()?;
    let references = metadata(&mut value)
        .entry("ownerReferences")
        .or_insert_with(|| json!([]));
    references.as_array_mut()?.push(owner.controller_reference());
    Some(Intent::Update {
        key: key.clone(),
        base: Arc::clone(base),
        value,
    })
}

/// The write that takes the reference to an owner off an object.
pub fn release(key: &Key, base: &Arc<Object>, owner_uid: &str) -> Option<Intent> {
    let mut value = base.value().ok()?;
    without_owners(&mut value, |uid| uid == owner_uid);
    Some(Intent::Update {
        key: key.clone(),
        base: Arc::clone(base),
        value,
    })
}

/// Takes off the references to owners whose uid is `gone`.
pub fn without_owners(value: &mut Value, gone: impl Fn(&str) -> bool) {
    let metadata = metadata(value);
    if let Some(Value::Array(references)) = metadata.get_mut("ownerReferences") {
        references.retain(|reference| !reference["uid"].as_str().is_some_and(&gone));
        if references.is_empty() {
            metadata.remove("ownerReferences");
        }
    }
}

/// What the deletion of an object is: as the API server does a DELETE with background propagation. `None` when it is
/// already being deleted.
pub fn delete(key: &Key, base: &Arc<Object>, now: UnixMillis) -> Option<Intent> {
    if base.header.deleting {
        return None;
    }
    let value = base.value().ok()?;
    let grace_seconds = if key.resource.as_str() == "pods" {
        pod_grace_seconds(&value)
    } else {
        0
    };
    if grace_seconds == 0 && base.header.finalizers.is_empty() {
        return Some(Intent::Remove {
            key: key.clone(),
            revision: base.header.revision,
        });
    }
    Some(mark_deleted(key, base, value, now, grace_seconds))
}

/// The deletion with a mark, whatever its finalizers: with one more finalizer when `finalizer` is given.
pub fn delete_foreground(key: &Key, base: &Arc<Object>, now: UnixMillis) -> Option<Intent> {
    let mut value = base.value().ok()?;
    if base.header.deleting {
        return None;
    }
    let finalizers = metadata(&mut value).entry("finalizers").or_insert_with(|| json!([]));
    finalizers.as_array_mut()?.push(json!("foregroundDeletion"));
    let grace_seconds = if key.resource.as_str() == "pods" {
        pod_grace_seconds(&value)
    } else {
        0
    };
    Some(mark_deleted(key, base, value, now, grace_seconds))
}

fn mark_deleted(key: &Key, base: &Arc<Object>, mut value: Value, now: UnixMillis, grace_seconds: u64) -> Intent {
    let metadata = metadata(&mut value);
    metadata.insert(
        "deletionTimestamp".into(),
        json!(now.plus_ms(grace_seconds * 1000).rfc3339()),
    );
    metadata.insert("deletionGracePeriodSeconds".into(), json!(grace_seconds));
    if let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
        metadata.insert("generation".into(), json!(generation + 1));
    }
    Intent::Update {
        key: key.clone(),
        base: Arc::clone(base),
        value,
    }
}

/// A pod that was never bound, or has ended, needs no grace: nothing runs.
fn pod_grace_seconds(pod: &Value) -> u64 {
    let bound = pod["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
    let finished = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if !bound || finished {
        return 0;
    }
    // A grace of zero for a bound pod would remove it while it runs; one second is the API server's own floor.
    pod["spec"]["terminationGracePeriodSeconds"]
        .as_u64()
        .unwrap_or(30)
        .max(1)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use protocol::{Draft, Revision};

    /// A stored object at a revision.
    pub(crate) fn stored(value: Value, revision: u64) -> Arc<Object> {
        Arc::new(
            Draft::encode(&value, vec![])
                .expect("a complete object")
                .commit(Revision(revision), None),
        )
    }

    fn pod(spec: Value, status: Value, metadata: Value) -> Arc<Object> {
        let mut value = json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec, "status": status});
        for (name, part) in metadata.as_object().unwrap() {
            value["metadata"][name] = part.clone();
        }
        stored(value, 7)
    }

    #[test]
    fn a_pod_is_removed_at_once_only_when_nothing_of_it_runs() {
        let key = Key::new("pods", "default", "p");
        let removed = Some(Intent::Remove {
            key: key.clone(),
            revision: Revision(7),
        });
        let now = UnixMillis(1_000_000_000_000);
        assert_eq!(delete(&key, &pod(json!({}), json!({}), json!({})), now), removed);
        let finished = pod(json!({"nodeName": "n"}), json!({"phase": "Failed"}), json!({}));
        assert_eq!(delete(&key, &finished, now), removed);
        let running = pod(
            json!({"nodeName": "n", "terminationGracePeriodSeconds": 5}),
            json!({}),
            json!({}),
        );
        let Some(Intent::Update { value, .. }) = delete(&key, &running, now) else {
            panic!("not marked")
        };
        assert_eq!(value["metadata"]["deletionGracePeriodSeconds"], 5);
        assert_eq!(value["metadata"]["deletionTimestamp"], now.plus_ms(5000).rfc3339());
        let held = pod(json!({}), json!({}), json!({"finalizers": ["example.com/x"]}));
        assert!(matches!(delete(&key, &held, now), Some(Intent::Update { .. })));
        let deleting = pod(
            json!({}),
            json!({}),
            json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}),
        );
        assert_eq!(delete(&key, &deleting, now), None);
    }

    #[test]
    fn claims_follow_the_controller_reference_and_the_selector() {
        let reference = |uid: &str| json!({"ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": uid, "controller": true}]});
        let cases = [
            (reference("me"), true, Claim::Own),
            (reference("me"), false, Claim::Release),
            (reference("other"), true, Claim::Foreign),
            (json!({}), true, Claim::Adopt),
            (json!({}), false, Claim::Foreign),
            (
                json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}),
                true,
                Claim::Foreign,
            ),
        ];
        for (metadata, matches, expected) in cases {
            let object = pod(json!({}), json!({}), metadata.clone());
            assert_eq!(claim(&object.header, "me", matches), expected, "{metadata}");
        }
    }

    #[test]
    fn adoption_adds_a_controller_reference_and_release_takes_it_off() {
        let key = Key::new("pods", "default", "p");
        let owner = Owner {
            api_version: "apps/v1",
            kind: "ReplicaSet",
            name: "r".into(),
            uid: "me".into(),
        };
        let Some(Intent::Update { value, .. }) = adopt(&key, &pod(json!({}), json!({}), json!({})), &owner) else {
            panic!("not adopted")
        };
        let adopted = stored(value, 8);
        assert_eq!(claim(&adopted.header, "me", true), Claim::Own);
        let Some(Intent::Update { value, .. }) = release(&key, &adopted, "me") else {
            panic!("not released")
        };
        assert_eq!(value["metadata"].get("ownerReferences"), None);
    }
}
