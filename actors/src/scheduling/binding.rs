//! The write that binds a pod, as an edit of the stored bytes: the node is put into the spec, the status gets its condition,
//! and everything else is copied as it lies. Pure; called by the desk once for every pod that is placed, so it makes no tree
//! of the pod. It must give the bytes that an edit of the tree would give: a test compares the two.

use protocol::store::{Precondition, Write};
use protocol::{Draft, Key, Object, UnixMillis};
use scheduler::BindMethod;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::priority::Resolved;
use crate::compose;
use crate::conditions::{self, Times, Wanted};
use crate::ownership;

const NODE_NAME: &str = "spec.nodeName";
const NOMINATED: &str = "status.nominatedNodeName";

/// What is decided of a pod that is bound.
pub(super) struct Bound<'a> {
    /// The pod that was decided about.
    pub base: &'a Object,
    /// The node.
    pub node: &'a str,
    /// What a plugin wants written of the pod beside the node.
    pub method: &'a BindMethod,
    /// The pod's priority, if only its class says it.
    pub priority: Option<&'a Resolved>,
    /// Now.
    pub now: UnixMillis,
}

impl Bound<'_> {
    /// The write, provided that the pod is still what was decided about; `None` for a stored object that is no pod.
    pub fn write(&self, key: &Key) -> Option<Write> {
        let Bound {
            base,
            node,
            priority,
            now,
            ..
        } = *self;
        let patch = match self.method {
            BindMethod::Patch(patch) => Some(&**patch),
            BindMethod::NodeName | BindMethod::Elsewhere(_) => None,
        };
        let spliced = match patch {
            None => spliced(base, node, priority, now),
            Some(_) => None,
        };
        let draft = match spliced {
            Some(draft) => draft,
            None => compose::update(&key.resource, &edited(base, patch, node, priority, now)?).ok()?,
        };
        Some(Write::Put {
            key: key.clone(),
            precondition: Precondition::Revision(base.header.revision),
            draft,
        })
    }
}

/// The bound pod, by way of its tree: for an object that is not laid out as `Draft::encode` does it, for a plugin's patch, and
/// the yardstick of the test.
fn edited(
    base: &Object,
    patch: Option<&Value>,
    node: &str,
    priority: Option<&Resolved>,
    now: UnixMillis,
) -> Option<Value> {
    let mut value = base.value().ok()?;
    if let Some(patch) = patch {
        json_patch::merge(&mut value, patch);
    }
    if let Some(priority) = priority {
        priority.write(&mut value);
    }
    ownership::member(&mut value, "spec").insert("nodeName".into(), json!(node));
    status_of_bound(&mut value, now);
    Some(value)
}

/// The status of a pod that is bound, in a tree that need not have more than the status.
fn status_of_bound(value: &mut Value, now: UnixMillis) {
    let wanted = Wanted {
        kind: "PodScheduled",
        status: "True",
        reason: "",
        message: "",
    };
    conditions::set(value, wanted, Times::Transition, now);
    ownership::member(value, "status").remove("nominatedNodeName");
}

/// The bound pod, by way of its bytes.
fn spliced(base: &Object, node: &str, priority: Option<&Resolved>, now: UnixMillis) -> Option<Draft> {
    let body: &[u8] = &base.body.0;
    let members: Members<'_> = serde_json::from_slice(body).ok()?;
    let metadata = members.find("metadata")?;
    let kept = members.0[metadata].1.as_ptr() as usize - body.as_ptr() as usize + members.0[metadata].1.len();
    let mut rest = Vec::with_capacity(body.len() - kept + 256);
    // Of one order with what `Draft::encode` writes: the members behind the metadata by name.
    let mut wanted = vec!["spec", "status"];
    for (name, value) in &members.0[metadata + 1..] {
        while wanted.first().is_some_and(|first| quoted(first).as_str() < *name) {
            put(&mut rest, wanted.remove(0), None, node, priority, now)?;
        }
        if wanted.first().is_some_and(|first| quoted(first) == *name) {
            put(&mut rest, wanted.remove(0), Some(value), node, priority, now)?;
            continue;
        }
        rest.push(b',');
        rest.extend_from_slice(name.as_bytes());
        rest.push(b':');
        rest.extend_from_slice(value.as_bytes());
    }
    for name in wanted {
        put(&mut rest, name, None, node, priority, now)?;
    }
    rest.push(b'}');
    Draft::continued(base, kept, &rest, fields(base, node)?)
}

/// Writes `spec` or `status` of the bound pod behind a comma. `stored` is what it is now.
fn put(
    into: &mut Vec<u8>,
    name: &str,
    stored: Option<&str>,
    node: &str,
    priority: Option<&Resolved>,
    now: UnixMillis,
) -> Option<()> {
    into.extend_from_slice(b",\"");
    into.extend_from_slice(name.as_bytes());
    into.extend_from_slice(b"\":");
    match name {
        "spec" => spec(into, stored, node, priority),
        _ => status(into, stored, now),
    }
}

fn spec(into: &mut Vec<u8>, stored: Option<&str>, node: &str, priority: Option<&Resolved>) -> Option<()> {
    let members: Members<'_> = serde_json::from_str(stored.unwrap_or("{}")).ok()?;
    let mut edits: Vec<(String, String)> = vec![(quoted("nodeName"), serde_json::to_string(node).ok()?)];
    if let Some(priority) = priority {
        for (name, value) in priority.members() {
            edits.push((quoted(name), value.to_string()));
        }
    }
    edits.sort_unstable();
    let mut edits = edits.into_iter().peekable();
    let mut separator = b'{';
    let mut member = |name: &str, value: &str| {
        into.push(separator);
        separator = b',';
        into.extend_from_slice(name.as_bytes());
        into.push(b':');
        into.extend_from_slice(value.as_bytes());
    };
    for (name, value) in members.0 {
        while let Some((edit, new)) = edits.next_if(|(edit, _)| edit.as_str() < name) {
            member(&edit, &new);
        }
        match edits.next_if(|(edit, _)| edit == name) {
            Some((_, new)) => member(name, &new),
            None => member(name, value),
        }
    }
    for (name, value) in edits {
        member(&name, &value);
    }
    into.push(b'}');
    Some(())
}

/// The status is small, and its conditions are merged: it is edited as a tree of its own.
fn status(into: &mut Vec<u8>, stored: Option<&str>, now: UnixMillis) -> Option<()> {
    let stored: Value = stored.map_or(Ok(Value::Null), serde_json::from_str).ok()?;
    let mut value = json!({ "status": stored });
    status_of_bound(&mut value, now);
    serde_json::to_writer(into, &value["status"]).ok()
}

/// The selectable fields of the bound pod. `None` if the stored one does not have those that change.
fn fields(base: &Object, node: &str) -> Option<Vec<(String, String)>> {
    let mut fields = base.header.fields.to_vec();
    for (path, value) in [(NODE_NAME, node), (NOMINATED, "")] {
        let (_, field) = fields.iter_mut().find(|(other, _)| other == path)?;
        value.clone_into(field);
    }
    Some(fields)
}

fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

/// The members of a JSON object as they lie in it: names in their quotes, values unread.
struct Members<'a>(Vec<(&'a str, &'a str)>);

impl Members<'_> {
    fn find(&self, name: &str) -> Option<usize> {
        let name = quoted(name);
        self.0.iter().position(|(other, _)| *other == name)
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::with_capacity(16);
                while let Some((name, value)) = map.next_entry::<&'de RawValue, &'de RawValue>()? {
                    members.push((name.get(), value.get()));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use protocol::{Resource, Revision};

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn pod(spec: Value, status: Value) -> Value {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "namespace": "default", "uid": "u-1", "labels": {"app": "w\"e}b"}},
            "spec": spec, "status": status,
        });
        for name in ["spec", "status"] {
            if pod[name].is_null() {
                pod.as_object_mut().unwrap().remove(name);
            }
        }
        pod
    }

    fn stored(value: &Value) -> Object {
        let draft = compose::update(&Resource::new("pods"), value).unwrap();
        draft.commit(Revision(42), Some(Revision(40)))
    }

    /// Both ways, which must give the same draft to the byte.
    fn both(value: &Value, priority: Option<&Resolved>) -> Value {
        let base = stored(value);
        let spliced = spliced(&base, "node \"7\"", priority, NOW).expect("laid out as encode does it");
        let tree = edited(&base, None, "node \"7\"", priority, NOW).unwrap();
        let by_tree = compose::update(&Resource::new("pods"), &tree).unwrap();
        assert_eq!(spliced, by_tree);
        spliced.preview().value().unwrap()
    }

    #[test]
    fn the_bytes_are_those_of_an_edited_tree() {
        let none = json!(null);
        let containers = json!({"containers": [{"name": "c", "image": "{\"spec\":{}}"}], "schedulerName": "s"});
        let condition = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "m"}]);
        let cases = [
            (
                containers.clone(),
                json!({"phase": "Pending", "qosClass": "BestEffort"}),
            ),
            (containers.clone(), none.clone()),
            (none.clone(), json!({"phase": "Pending"})),
            (none.clone(), none.clone()),
            (json!({}), json!({})),
            (
                json!({"nodeName": ""}),
                json!({"nominatedNodeName": "n1", "phase": "Pending"}),
            ),
            (
                json!({"a": 1, "zz": {"nodeName": "other"}}),
                json!({"conditions": condition, "phase": "Pending"}),
            ),
            (
                json!({"priority": 0, "preemptionPolicy": "Never", "tolerations": []}),
                none,
            ),
        ];
        for (spec, status) in cases {
            for priority in [
                None,
                Some(Resolved::for_test(1000, Some("Never"))),
                Some(Resolved::for_test(-3, None)),
            ] {
                let bound = both(&pod(spec.clone(), status.clone()), priority.as_ref());
                assert_eq!(bound["spec"]["nodeName"], "node \"7\"");
                assert_eq!(bound["status"]["conditions"][0]["status"], "True");
                assert!(bound["status"]["nominatedNodeName"].is_null());
            }
        }
    }

    #[test]
    fn an_object_of_another_layout_is_edited_as_a_tree() {
        let mut base = stored(&pod(json!({"schedulerName": "s"}), json!(null)));
        base.header.fields = std::sync::Arc::default();
        assert!(
            spliced(&base, "n1", None, NOW).is_none(),
            "its header lacks the fields that change"
        );
        let key = Key::new("pods", "default", "web");
        let bound = Bound {
            base: &base,
            node: "n1",
            method: &BindMethod::NodeName,
            priority: None,
            now: NOW,
        };
        let Some(Write::Put {
            draft, precondition, ..
        }) = bound.write(&key)
        else {
            panic!("it is a pod")
        };
        assert_eq!(precondition, Precondition::Revision(Revision(42)));
        assert_eq!(draft.header.field(NODE_NAME), "n1");
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,12}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{1,12}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_spec_and_any_further_member_are_kept(
            spec in prop::collection::btree_map("[a-z\"\\\\]{1,8}", any_value(), 0..6),
            more in prop::collection::btree_map("[a-z]{1,8}", any_value(), 0..3),
        ) {
            let mut value = pod(Value::Object(spec.into_iter().collect()), json!({"phase": "Pending"}));
            for (name, part) in more {
                if !matches!(name.as_str(), "kind" | "metadata" | "spec" | "status") {
                    value[name] = part;
                }
            }
            both(&value, None);
        }
    }
}
