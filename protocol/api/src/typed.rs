//! Objects seen along their shapes, as structure-merge-diff sees them: which parts have owners of their own, what
//! differs between two objects, how an applied configuration merges into a live object, and what an applier that no
//! longer mentions a part leaves behind. `apply` and `managed` are built on it.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use crate::access::{Access, NULL};
use crate::fieldset::{FieldSet, Node, element_text};
use crate::merge::ListType;
use crate::schema::{ListShape, Schemas, Shape};

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
        let member = below.is_empty() || part.kind == PartKind::Item;
        set.children.insert(part.element, Node { member, below });
    }
    set
}

/// What makes a list of an applied configuration ambiguous: two items of one name, or an item without one. The words are
/// those of structured-merge-diff.
pub fn ambiguity(schemas: &Schemas, shape: &Shape, value: &Value) -> Option<String> {
    fn walk(schemas: &Schemas, shape: &Shape, value: &Value, path: &str) -> Option<String> {
        let mut known = HashSet::new();
        for part in parts(schemas, shape, value)? {
            let below = format!("{path}{}", element_text(&part.element));
            if let (PartKind::Item, Shape::List(list)) = (part.kind, shape) {
                if let ListType::Map(keys) = list.list_type {
                    let missing = |(key, default): &&(&str, Option<&str>)| default.is_none() && !part.value.has(key);
                    // A key that no item has, such as a device's share, is no mistake when others name the item.
                    if let Some((key, _)) = keys
                        .iter()
                        .find(missing)
                        .filter(|_| part.element == "k:{}" || keys.len() == 1)
                    {
                        return Some(format!(
                            "{path}: associative list with keys has an element that omits key field {key:?} (and \
                             doesn't have default value)"
                        ));
                    }
                }
                if !known.insert(part.element.clone()) {
                    let kind = if matches!(list.list_type, ListType::Set) {
                        "set"
                    } else {
                        "list"
                    };
                    return Some(format!(
                        "{path}: {kind} has duplicate entries for key {}",
                        element_text(&part.element)
                    ));
                }
            }
            if let Some(found) = walk(schemas, part.shape, part.value, &below) {
                return Some(found);
            }
        }
        None
    }
    walk(schemas, shape, value, "")
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
    match shape {
        Shape::List(list) => compare_items(schemas, list, old, new, changed, removed),
        _ => compare_members(schemas, shape, old, new, changed, removed),
    }
}

/// Compares structures and maps member by member; nothing is allocated for members that are equal.
fn compare_members(
    schemas: &Schemas,
    shape: &Shape,
    old: &Value,
    new: &Value,
    changed: &mut FieldSet,
    removed: &mut FieldSet,
) {
    let (definition, kind) = match shape {
        Shape::Struct(name) => (schemas.definition(name), PartKind::Field),
        _ => (None, PartKind::Entry),
    };
    let shape_of = |name: &str| match (definition, shape) {
        (Some(definition), _) => definition.field(name).map_or(&ANY, |field| &field.shape),
        (None, Shape::Map(map)) => &map.value,
        _ => &ANY,
    };
    let part = |name: &str, value| Part {
        element: format!("f:{name}"),
        value,
        shape: shape_of(name),
        kind,
    };
    for (name, value) in new.as_object().into_iter().flatten() {
        match old.get(name) {
            Some(earlier) if earlier == value => {}
            Some(earlier) => differ(schemas, &part(name, value), earlier, changed, removed),
            None => add(schemas, &part(name, value), changed),
        }
    }
    for (name, value) in old.as_object().into_iter().flatten() {
        if new.get(name).is_none() {
            add(schemas, &part(name, value), removed);
        }
    }
}

fn compare_items(
    schemas: &Schemas,
    list: &ListShape,
    old: &Value,
    new: &Value,
    changed: &mut FieldSet,
    removed: &mut FieldSet,
) {
    let index = |value| -> HashMap<String, &Value> {
        let items = Value::as_array(value).into_iter().flatten();
        items.map(|item| (item_element(&list.list_type, item), item)).collect()
    };
    let (before, after) = (index(old), index(new));
    let part = |element: &String, value| Part {
        element: element.clone(),
        value,
        shape: &list.item,
        kind: PartKind::Item,
    };
    for (element, value) in &after {
        match before.get(element) {
            Some(earlier) if earlier == value => {}
            Some(earlier) => differ(schemas, &part(element, value), earlier, changed, removed),
            None => add(schemas, &part(element, value), changed),
        }
    }
    for (element, value) in before.iter().filter(|(element, _)| !after.contains_key(*element)) {
        add(schemas, &part(element, value), removed);
    }
}

/// Notes a part that has another value than before.
fn differ(schemas: &Schemas, part: &Part<'_, '_>, earlier: &Value, changed: &mut FieldSet, removed: &mut FieldSet) {
    if is_granular(schemas, part.shape, earlier) && is_granular(schemas, part.shape, part.value) {
        let (mut more, mut less) = (FieldSet::default(), FieldSet::default());
        compare(schemas, part.shape, earlier, part.value, &mut more, &mut less);
        graft(changed, &part.element, more);
        graft(removed, &part.element, less);
    } else {
        changed.child(&part.element).member = true;
    }
}

/// Notes a part that is only there on one side, with all that is in it.
fn add(schemas: &Schemas, part: &Part<'_, '_>, set: &mut FieldSet) {
    *set.child(&part.element) = whole(schemas, part, false);
}

/// Whether a value's parts can have owners of their own.
fn is_granular(schemas: &Schemas, shape: &Shape, value: &Value) -> bool {
    match (shape, value) {
        (Shape::Struct(name), Value::Object(_)) => {
            schemas.definition(name).is_some_and(|definition| !definition.atomic)
        }
        (Shape::Map(map), Value::Object(_)) => !map.atomic,
        (Shape::List(list), Value::Array(_)) => list.list_type != ListType::Atomic,
        _ => false,
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
        let node = whole(schemas, &inner, inside_item);
        below.children.insert(inner.element, node);
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

/// Items of both lists. The applied list's order holds; live items that it does not mention keep their place before the next
/// that it does, and stand before what is new there, as structured-merge-diff has it.
fn merge_items(schemas: &Schemas, shape: &Shape, list_type: &ListType, before: &[Value], after: &[Value]) -> Value {
    let live: Vec<String> = before.iter().map(|item| item_element(list_type, item)).collect();
    let wanted: Vec<String> = after.iter().map(|item| item_element(list_type, item)).collect();
    let place: HashMap<&String, usize> = live.iter().enumerate().map(|(at, element)| (element, at)).collect();
    let is_wanted: HashSet<&String> = wanted.iter().collect();
    let mut shared = wanted.iter().filter(|element| place.contains_key(element)).peekable();
    let mut merged = Vec::with_capacity(live.len() + wanted.len());
    let mut taken: HashSet<&String> = HashSet::new();
    let mut next = 0;
    for (element, item) in wanted.iter().zip(after) {
        if !taken.insert(element) {
            continue;
        }
        while shared
            .next_if(|shared| *shared != element && taken.contains(shared))
            .is_some()
        {}
        // Up to the live item that the applied list comes to next: those that only the live list has. Another that both have
        // comes, or came, where the applied list has it.
        while next < live.len() && shared.peek() != Some(&&live[next]) {
            if !is_wanted.contains(&live[next]) {
                merged.push(before[next].clone());
            }
            next += 1;
        }
        match place.get(element) {
            Some(at) => merged.push(merge(schemas, shape, &before[*at], item)),
            None => merged.push(item.clone()),
        }
    }
    let rest = (next..live.len()).filter(|at| !is_wanted.contains(&live[*at]));
    merged.extend(rest.map(|at| before[at].clone()));
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
