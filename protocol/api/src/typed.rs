//! Objects seen along their shapes, as structure-merge-diff sees them: which parts have owners of their own, what
//! differs between two objects, how an applied configuration merges into a live object, and what an applier that no
//! longer mentions a part leaves behind. `apply` and `managed` are built on it.

use serde_json::{Map, Value};

use crate::access::{Access, NULL};
use crate::fieldset::{FieldSet, Node};
use crate::merge::ListType;
use crate::schema::{Schemas, Shape};

/// A part of an object that can have owners of its own.
struct Part<'v, 's> {
    /// Its path element: `f:spec`, `k:{"name":"web"}`.
    element: String,
    value: &'v Value,
    shape: &'s Shape,
    kind: PartKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PartKind {
    Field,
    Entry,
    Item,
}

static ANY: Shape = Shape::Any;

/// The parts of a value; `None` when it is owned whole: a scalar, something atomic, or nothing that fits its shape.
fn parts<'v, 's>(schemas: &'s Schemas, shape: &'s Shape, value: &'v Value) -> Option<Vec<Part<'v, 's>>> {
    match (shape, value) {
        (Shape::Struct(name), Value::Object(members)) => {
            let definition = schemas.definition(name).filter(|definition| !definition.atomic)?;
            let part = |(name, value): (&String, &'v Value)| {
                let shape = definition.field(name).map_or(&ANY, |field| &field.shape);
                Part {
                    element: format!("f:{name}"),
                    value,
                    shape,
                    kind: PartKind::Field,
                }
            };
            Some(members.iter().map(part).collect())
        }
        (Shape::Map(map), Value::Object(members)) if !map.atomic => {
            let part = |(name, value): (&String, &'v Value)| Part {
                element: format!("f:{name}"),
                value,
                shape: &map.value,
                kind: PartKind::Entry,
            };
            Some(members.iter().map(part).collect())
        }
        (Shape::List(list), Value::Array(items)) if list.list_type != ListType::Atomic => {
            let part = |value: &'v Value| {
                let element = item_element(&list.list_type, value);
                Part {
                    element,
                    value,
                    shape: &list.item,
                    kind: PartKind::Item,
                }
            };
            Some(items.iter().map(part).collect())
        }
        _ => None,
    }
}

/// The path element of a list's item.
fn item_element(list_type: &ListType, item: &Value) -> String {
    let ListType::Map(keys) = list_type else {
        return format!("v:{item}");
    };
    let mut named: Vec<(&str, Value)> = keys
        .iter()
        .filter_map(|(key, default)| match (item.at(&[key]), default) {
            (Value::Null, None) => None,
            (Value::Null, Some(default)) => Some((*key, Value::from(*default))),
            (value, _) => Some((*key, value.clone())),
        })
        .collect();
    named.sort_by_key(|(key, _)| *key);
    let pairs: Vec<String> = named
        .iter()
        .map(|(key, value)| format!("{}:{value}", Value::from(*key)))
        .collect();
    format!("k:{{{}}}", pairs.join(","))
}

/// The fields that a configuration mentions.
pub fn fields(schemas: &Schemas, shape: &Shape, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    for part in parts(schemas, shape, value).into_iter().flatten() {
        let below = fields(schemas, part.shape, part.value);
        let whole = below.is_empty() || part.kind == PartKind::Item;
        let node = set.child(&part.element);
        node.member |= whole;
        node.below.union(&below);
    }
    set
}

/// What differs between two objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// What is new or has another value.
    pub changed: FieldSet,
    /// What is gone.
    pub removed: FieldSet,
}

impl Difference {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

/// Structures that are there in every object of Go's, even an empty one: nobody becomes their owner by writing into them.
const ALWAYS_THERE: [&str; 7] = [
    "f:metadata",
    "f:spec",
    "f:status",
    "f:template",
    "f:strategy",
    "f:updateStrategy",
    "f:containers",
];

/// What changes from `old` to `new`.
pub fn difference(schemas: &Schemas, shape: &Shape, old: &Value, new: &Value) -> Difference {
    let mut difference = Difference::default();
    compare(
        schemas,
        shape,
        old,
        new,
        &mut difference.changed,
        &mut difference.removed,
    );
    difference
}

fn compare(schemas: &Schemas, shape: &Shape, old: &Value, new: &Value, changed: &mut FieldSet, removed: &mut FieldSet) {
    let before = parts(schemas, shape, old).unwrap_or_default();
    let after = parts(schemas, shape, new).unwrap_or_default();
    for part in &after {
        match before.iter().find(|candidate| candidate.element == part.element) {
            Some(earlier) if earlier.value == part.value => {}
            Some(earlier) => {
                let granular = |value: &Value| parts(schemas, part.shape, value).is_some();
                if granular(earlier.value) && granular(part.value) {
                    let (mut more, mut less) = (FieldSet::default(), FieldSet::default());
                    compare(schemas, part.shape, earlier.value, part.value, &mut more, &mut less);
                    graft(changed, &part.element, more);
                    graft(removed, &part.element, less);
                } else {
                    changed.child(&part.element).member = true;
                }
            }
            None => *changed.child(&part.element) = whole(schemas, part, false),
        }
    }
    for part in &before {
        if !after.iter().any(|candidate| candidate.element == part.element) {
            *removed.child(&part.element) = whole(schemas, part, false);
        }
    }
}

fn graft(set: &mut FieldSet, element: &str, below: FieldSet) {
    if !below.is_empty() {
        set.child(element).below = below;
    }
}

/// A part with all that is in it.
fn whole(schemas: &Schemas, part: &Part<'_, '_>, inside_item: bool) -> Node {
    let inside_item = inside_item || part.kind == PartKind::Item;
    let mut below = FieldSet::default();
    for inner in parts(schemas, part.shape, part.value).into_iter().flatten() {
        *below.child(&inner.element) = whole(schemas, &inner, inside_item);
    }
    let implied = !inside_item && part.kind == PartKind::Field && ALWAYS_THERE.contains(&part.element.as_str());
    Node {
        member: below.is_empty() || !implied,
        below,
    }
}

/// The live value with the applied one merged in; the applied one wins.
pub fn merge(schemas: &Schemas, shape: &Shape, live: &Value, applied: &Value) -> Value {
    match (shape, live, applied) {
        (Shape::Struct(name), Value::Object(before), Value::Object(after)) => {
            match schemas.definition(name).filter(|definition| !definition.atomic) {
                Some(definition) => {
                    let shape = |name: &str| definition.field(name).map_or(&ANY, |field| &field.shape);
                    merge_members(schemas, shape, before, after)
                }
                None => applied.clone(),
            }
        }
        (Shape::Map(map), Value::Object(before), Value::Object(after)) if !map.atomic => {
            merge_members(schemas, |_| &map.value, before, after)
        }
        (Shape::List(list), Value::Array(before), Value::Array(after)) if list.list_type != ListType::Atomic => {
            merge_items(schemas, &list.item, &list.list_type, before, after)
        }
        _ => applied.clone(),
    }
}

fn merge_members<'s>(
    schemas: &'s Schemas,
    shape: impl Fn(&str) -> &'s Shape,
    before: &Map<String, Value>,
    after: &Map<String, Value>,
) -> Value {
    let mut merged = before.clone();
    for (name, applied) in after {
        let value = merge(schemas, shape(name), before.get(name).unwrap_or(&NULL), applied);
        merged.insert(name.clone(), value);
    }
    Value::Object(merged)
}

/// Items of both lists. The applied list's order holds; live items that it does not mention keep their place among those
/// that it does.
fn merge_items(schemas: &Schemas, shape: &Shape, list_type: &ListType, before: &[Value], after: &[Value]) -> Value {
    let name = |item: &Value| item_element(list_type, item);
    let live: Vec<(String, &Value)> = before.iter().map(|item| (name(item), item)).collect();
    let wanted: Vec<(String, &Value)> = after.iter().map(|item| (name(item), item)).collect();
    let is_wanted = |element: &String| wanted.iter().any(|(other, _)| other == element);
    let mut merged = Vec::with_capacity(live.len() + wanted.len());
    let mut rest = live.iter();
    let mut taken: Vec<&String> = Vec::new();
    for (element, item) in &wanted {
        if taken.contains(&element) {
            continue;
        }
        taken.push(element);
        let counterpart = live.iter().find(|(other, _)| other == element);
        if counterpart.is_some() {
            // Live-only items that stood before this one come before it.
            for (other, value) in rest.by_ref() {
                if other == element || is_wanted(other) && !taken.contains(&other) {
                    break;
                }
                if !is_wanted(other) {
                    merged.push((*value).clone());
                }
            }
        }
        merged.push(match counterpart {
            Some((_, value)) => merge(schemas, shape, value, item),
            None => (*item).clone(),
        });
    }
    let missing: Vec<Value> = rest
        .filter(|(element, _)| !is_wanted(element))
        .map(|(_, value)| (*value).clone())
        .collect();
    merged.extend(missing);
    Value::Array(merged)
}

/// Removes what is in `abandoned` and in nobody's `owned`. A field counts as mentioned when something below it is.
pub fn prune(schemas: &Schemas, shape: &Shape, value: &mut Value, abandoned: &FieldSet, owned: &FieldSet) {
    if abandoned.is_empty() {
        return;
    }
    let (is_field, item_type) = match shape {
        Shape::Struct(_) => (true, None),
        Shape::List(list) => (false, Some(&list.list_type)),
        _ => (false, None),
    };
    let mentions = |set: &FieldSet, element: &str| {
        let node = set.children.get(element);
        node.is_some_and(|node| node.member || is_field && !node.below.is_empty())
    };
    let nothing = FieldSet::default();
    let below = |set: &FieldSet, element: &str| set.children.get(element).map(|node| node.below.clone());
    let keep = |element: &str, shape: &Shape, value: &mut Value| {
        if mentions(abandoned, element) && !mentions(owned, element) {
            return false;
        }
        if let Some(inner) = below(abandoned, element).filter(|inner| !inner.is_empty()) {
            let had_parts = !crate::access::is_zero(value);
            prune(
                schemas,
                shape,
                value,
                &inner,
                &below(owned, element).unwrap_or_else(|| nothing.clone()),
            );
            let emptied = had_parts && (value.is_object() || value.is_array()) && crate::access::is_zero(value);
            return !emptied;
        }
        true
    };
    if parts(schemas, shape, value).is_none() {
        return;
    }
    match (value, shape) {
        (Value::Object(members), Shape::Struct(name)) => {
            let definition = schemas.definition(name);
            members.retain(|name, value| {
                let field = definition.and_then(|definition| definition.field(name));
                keep(&format!("f:{name}"), field.map_or(&ANY, |field| &field.shape), value)
            });
        }
        (Value::Object(members), Shape::Map(map)) => {
            members.retain(|name, value| keep(&format!("f:{name}"), &map.value, value));
        }
        (Value::Array(items), Shape::List(list)) => {
            let list_type = item_type.unwrap_or(&ListType::Atomic);
            items.retain_mut(|item| keep(&item_element(list_type, item), &list.item, item));
        }
        _ => {}
    }
}
