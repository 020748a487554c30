//! What plugins write of other objects together with a binding: JSON merge patches (RFC 7386), gathered for each group of
//! bindings and made into writes. Pure; called by the desk, and by the actor for objects that the desk does not keep.

use std::collections::BTreeMap;

use protocol::store::Write;
use protocol::{Key, Object};
use scheduler::ObjectPatch;
use serde_json::Value;

use crate::compose;

/// Patches by the object that they change.
pub type Patches = BTreeMap<Key, Value>;

const RESERVED_FOR: &str = "/status/reservedFor";

/// Adds a patch. Of one object there is one patch in a group: a key occurs once in a proposal. Pods of a gang that share a claim
/// each bring the consumers that they know of, and all of these are kept.
pub(super) fn add(patches: &mut Patches, patch: &ObjectPatch) {
    let key = Key::new(&*patch.resource, patch.namespace.clone(), patch.name.clone());
    let Some(before) = patches.get_mut(&key) else {
        patches.insert(key, patch.patch.clone());
        return;
    };
    let consumers = |patch: &Value| patch.pointer(RESERVED_FOR).and_then(Value::as_array).cloned();
    let (mine, theirs) = (consumers(before), consumers(&patch.patch));
    json_patch::merge(before, &patch.patch);
    if let (Some(mut all), Some(theirs), Some(place)) = (mine, theirs, before.pointer_mut(RESERVED_FOR)) {
        all.extend(theirs.into_iter().filter(|one| !all.contains(one)).collect::<Vec<_>>());
        *place = Value::Array(all);
    }
}

/// The write of a patched object, provided that it is still `base`. `None` where the patch changes nothing.
pub(super) fn write(key: &Key, base: &Object, patch: &Value) -> Option<Write> {
    let before = base.value().ok()?;
    let mut value = before.clone();
    json_patch::merge(&mut value, patch);
    (value != before).then(|| compose::change(key, base, &value).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ownership::tests::stored;
    use protocol::Revision;
    use protocol::store::Precondition;
    use serde_json::json;

    fn of(patch: Value) -> ObjectPatch {
        ObjectPatch {
            resource: "nodes".into(),
            namespace: "".into(),
            name: "n1".into(),
            patch,
        }
    }

    #[test]
    fn two_patches_of_one_object_become_one_and_keep_all_consumers() {
        let mut patches = Patches::new();
        let consumer = |name: &str| json!({"resource": "pods", "name": name, "uid": name});
        add(
            &mut patches,
            &of(json!({"status": {"reservedFor": [consumer("a"), consumer("b")], "allocation": {"x": 1}}})),
        );
        add(
            &mut patches,
            &of(json!({"status": {"reservedFor": [consumer("a"), consumer("c")]}, "metadata": {"y": 2}})),
        );
        let all = json!({"status": {"reservedFor": [consumer("a"), consumer("b"), consumer("c")], "allocation": {"x": 1}},
            "metadata": {"y": 2}});
        assert_eq!(patches.into_values().collect::<Vec<_>>(), [all]);
    }

    #[test]
    fn a_patch_is_written_against_what_it_was_made_from_and_only_if_it_changes_something() {
        let key = Key::new("nodes", "", "n1");
        let node = stored(
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "uid": "u"}}),
            9,
        );
        let patch = json!({"metadata": {"annotations": {"marked": "yes"}}});
        let Some(Write::Put {
            draft, precondition, ..
        }) = write(&key, &node, &patch)
        else {
            panic!("it is marked")
        };
        assert_eq!(precondition, Precondition::Revision(Revision(9)));
        let marked = draft.commit(Revision(10), None);
        assert_eq!(marked.value().unwrap()["metadata"]["annotations"]["marked"], "yes");
        assert!(write(&key, &marked, &patch).is_none());
    }
}
