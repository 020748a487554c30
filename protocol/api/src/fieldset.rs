//! Sets of fields: what managedFields' `fieldsV1` holds. A set is a trie whose edges are the serialised path elements of
//! structured-merge-diff (`f:name`, `k:{"name":"web"}`, `v:"x"`); a node may be a member itself (`.`) and have children.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde_json::{Map, Value};

/// A set of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// What lies below, by path element.
    pub children: BTreeMap<String, Node>,
}

/// What is known of one path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Whether the path itself belongs to the set.
    pub member: bool,
    /// The set below it.
    pub below: FieldSet,
}

/// How deep a stored set is read: deeper ones are no field sets of any object that decodes.
const DEPTH_MAX: usize = 128;

impl FieldSet {
    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.children.is_empty()
    }

    /// The node of a path element, made when it is not there.
    pub fn child(&mut self, element: &str) -> &mut Node {
        if !self.children.contains_key(element) {
            self.children.insert(element.to_owned(), Node::default());
        }
        self.children.entry(element.to_owned()).or_default()
    }

    /// Reads `fieldsV1`. What is malformed is skipped: it owns nothing.
    pub fn from_value(value: Value) -> FieldSet {
        fn read(value: Value, depth: usize) -> FieldSet {
            let mut set = FieldSet::default();
            let Value::Object(members) = value else { return set };
            for (element, below) in members.into_iter().filter(|(element, _)| element != ".") {
                if depth > DEPTH_MAX {
                    break;
                }
                let inner = below.as_object();
                let member = inner.is_none_or(|members| members.is_empty() || members.contains_key("."));
                set.children.insert(
                    element,
                    Node {
                        member,
                        below: read(below, depth + 1),
                    },
                );
            }
            set
        }
        read(value, 0)
    }

    /// As `fieldsV1`.
    pub fn into_value(self) -> Value {
        let mut object = Map::new();
        for (element, node) in self.children {
            let dot = node.member && !node.below.is_empty();
            let mut below = node.below.into_value();
            if let (true, Some(members)) = (dot, below.as_object_mut()) {
                members.insert(".".to_owned(), Map::new().into());
            }
            object.insert(element, below);
        }
        Value::Object(object)
    }

    /// All paths of either.
    pub fn union(&mut self, other: &FieldSet) {
        for (element, node) in &other.children {
            let mine = self.child(element);
            mine.member |= node.member;
            mine.below.union(&node.below);
        }
    }

    /// The same of a set that is not needed any more.
    pub fn absorb(&mut self, other: FieldSet) {
        if self.is_empty() {
            *self = other;
            return;
        }
        for (element, node) in other.children {
            match self.children.entry(element) {
                Entry::Vacant(vacant) => {
                    vacant.insert(node);
                }
                Entry::Occupied(mut occupied) => {
                    let mine = occupied.get_mut();
                    mine.member |= node.member;
                    mine.below.absorb(node.below);
                }
            }
        }
    }

    /// Drops the paths of the other set.
    pub fn subtract(&mut self, other: &FieldSet) {
        for (element, node) in &other.children {
            if let Some(mine) = self.children.get_mut(element) {
                mine.member &= !node.member;
                mine.below.subtract(&node.below);
            }
        }
        self.prune();
    }

    fn prune(&mut self) {
        self.children.retain(|_, node| node.member || !node.below.is_empty());
    }

    /// The paths of both.
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let mut common = FieldSet::default();
        for (element, node) in &self.children {
            if let Some(theirs) = other.children.get(element) {
                let both = Node {
                    member: node.member && theirs.member,
                    below: node.below.intersection(&theirs.below),
                };
                if both.member || !both.below.is_empty() {
                    common.children.insert(element.clone(), both);
                }
            }
        }
        common
    }

    /// Every path, as Kubernetes prints it: `.spec.containers[name="web"].image`.
    pub fn printed(&self) -> Vec<String> {
        fn walk(set: &FieldSet, prefix: &str, paths: &mut Vec<String>) {
            for (element, node) in &set.children {
                let path = format!("{prefix}{}", element_text(element));
                if node.member {
                    paths.push(path.clone());
                }
                walk(&node.below, &path, paths);
            }
        }
        let mut paths = Vec::new();
        walk(self, "", &mut paths);
        paths
    }
}

/// One path element as Kubernetes prints it: `.image`, `[name="web"]`.
pub fn element_text(element: &str) -> String {
    match element.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("v", value)) => format!("[={value}]"),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let pairs: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("[{}]", pairs.join(","))
        }
        Some((_, index)) => format!("[{index}]"),
        None => element.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_set_reads_back_as_it_was_written() {
        let fields = json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}}}, "f:replicas": {}},
        });
        assert_eq!(FieldSet::from_value(fields.clone()).into_value(), fields);
    }

    #[test]
    fn paths_print_as_kubernetes_prints_them() {
        let set = FieldSet::from_value(json!({
            "f:spec": {
                "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {"f:name": {}}},
                "f:finalizers": {"v:\"a/b\"": {}},
            },
        }));
        assert_eq!(
            set.printed(),
            [
                ".spec.finalizers[=\"a/b\"]",
                ".spec.ports[containerPort=80,protocol=\"TCP\"].name"
            ]
        );
    }

    #[test]
    fn sets_add_intersect_and_subtract() {
        let set = FieldSet::from_value;
        let mut a = set(json!({"f:a": {".": {}, "f:x": {}}, "f:b": {}}));
        let b = set(json!({"f:a": {"f:x": {}}, "f:c": {}}));
        assert_eq!(a.intersection(&b).into_value(), json!({"f:a": {"f:x": {}}}));
        a.subtract(&b);
        assert_eq!(a.clone().into_value(), json!({"f:a": {}, "f:b": {}}));
        let (mut absorbed, mut from_nothing) = (a.clone(), FieldSet::default());
        a.union(&b);
        assert_eq!(
            a.clone().into_value(),
            json!({"f:a": {".": {}, "f:x": {}}, "f:b": {}, "f:c": {}})
        );
        absorbed.absorb(b.clone());
        assert_eq!(absorbed, a);
        from_nothing.absorb(b.clone());
        assert_eq!(from_nothing, b);
    }
}
