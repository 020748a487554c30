//! Strategic merge patch: a merge patch that knows which lists are keyed. Directives are Kubernetes' own: `$patch`
//! (replace, delete, merge), `$deleteFromPrimitiveList/field`, `$setElementOrder/field`, `$retainKeys`. Semantics after
//! apimachinery's `strategicpatch` package, as kubectl's three-way apply relies on them.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use crate::access::Access;
use crate::schema::{Definition, ListShape, Schemas, Shape};
use crate::status::Status;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

/// Whether a field of a patch says how to merge. Others may begin so too, such as a schema's `$ref`.
fn is_directive(name: &str) -> bool {
    name == DIRECTIVE || name == RETAIN_KEYS || name.starts_with(DELETE_PRIMITIVES) || name.starts_with(ELEMENT_ORDER)
}

/// The object that the patch makes of `old`.
pub fn apply(schemas: &Schemas, definition: &str, old: &Value, patch: &Value) -> Result<Value, Status> {
    let Some(patch) = patch.as_object() else {
        return Err(Status::bad_request(
            "error decoding patch: a strategic merge patch is a JSON object",
        ));
    };
    let merger = Merger { schemas };
    let shape = merger
        .schemas
        .definition(definition)
        .map_or(Shape::Any, |definition| Shape::Struct(definition.name));
    let merged = merger.object(&shape, old.as_object().cloned().unwrap_or_default(), patch)?;
    Ok(Value::Object(merged))
}

struct Merger<'a> {
    schemas: &'a Schemas,
}

/// What a field of an object is, as far as merging goes.
struct Target<'a> {
    shape: &'a Shape,
    replaced: bool,
}

static UNKNOWN: Shape = Shape::Any;

fn invalid(message: String) -> Status {
    Status::unprocessable_patch(message)
}

impl<'a> Merger<'a> {
    fn structure(&self, shape: &Shape) -> Option<&'a Definition> {
        match shape {
            Shape::Struct(name) => self.schemas.definition(name),
            _ => None,
        }
    }

    fn target(&self, shape: &'a Shape, definition: Option<&'a Definition>, name: &str) -> Target<'a> {
        match (definition, shape) {
            (Some(definition), _) => match definition.field(name) {
                Some(field) => Target {
                    shape: &field.shape,
                    replaced: field.patch_replace,
                },
                None => Target {
                    shape: &UNKNOWN,
                    replaced: false,
                },
            },
            (None, Shape::Map(map)) => Target {
                shape: &map.value,
                replaced: false,
            },
            _ => Target {
                shape: &UNKNOWN,
                replaced: false,
            },
        }
    }

    /// Merges a patch into an object of this shape.
    fn object(
        &self,
        shape: &Shape,
        mut original: Map<String, Value>,
        patch: &Map<String, Value>,
    ) -> Result<Map<String, Value>, Status> {
        match patch
            .get(DIRECTIVE)
            .map(|directive| directive.as_str().unwrap_or_default())
        {
            None | Some("merge") => {}
            Some("replace") => {
                let mut replacement = patch.clone();
                replacement.remove(DIRECTIVE);
                return Ok(replacement);
            }
            Some("delete") => return Ok(Map::new()),
            Some(other) => return Err(invalid(format!("Unknown patch type found: {other}"))),
        }
        retain_keys(&mut original, patch)?;
        for (name, value) in patch {
            if let Some(field) = name.strip_prefix(DELETE_PRIMITIVES) {
                delete_primitives(&mut original, field, value)?;
            }
        }
        let definition = self.structure(shape);
        for (name, value) in patch.iter().filter(|(name, _)| !is_directive(name)) {
            let target = match (definition, shape) {
                (Some(definition), _) => self.target(&UNKNOWN, Some(definition), name),
                (None, Shape::Map(map)) => Target {
                    shape: &map.value,
                    replaced: false,
                },
                _ => Target {
                    shape: &UNKNOWN,
                    replaced: false,
                },
            };
            let order = patch.get(&format!("{ELEMENT_ORDER}{name}"));
            self.field(&mut original, name, value, &target, order)?;
        }
        for (name, order) in patch {
            let Some(field) = name
                .strip_prefix(ELEMENT_ORDER)
                .filter(|field| !patch.contains_key(*field))
            else {
                continue;
            };
            // Only an order, no change: the live list is brought into it.
            let target = self.target(&UNKNOWN, definition, field);
            if let (Some(Value::Array(items)), Shape::List(list)) = (original.get_mut(field), target.shape) {
                let live = std::mem::take(items);
                *items = ordered(live, order, list)?;
            }
        }
        Ok(original)
    }

    fn field(
        &self,
        original: &mut Map<String, Value>,
        name: &str,
        value: &Value,
        target: &Target<'_>,
        order: Option<&Value>,
    ) -> Result<(), Status> {
        let merged = match (original.remove(name), value) {
            (_, Value::Null) => return Ok(()),
            (Some(Value::Object(members)), Value::Object(patch)) if !target.replaced => {
                Value::Object(self.object(target.shape, members, patch)?)
            }
            (_, Value::Object(patch)) => Value::Object(self.object(target.shape, Map::new(), patch)?),
            (live, Value::Array(patch)) => {
                let live = match live {
                    Some(Value::Array(items)) => items,
                    _ => Vec::new(),
                };
                match target.shape {
                    Shape::List(list) if list.patch_key.is_some() && !target.replaced => {
                        Value::Array(self.list(list, live, patch, order)?)
                    }
                    _ => Value::Array(without_directives(patch)),
                }
            }
            (_, scalar) => scalar.clone(),
        };
        original.insert(name.to_owned(), merged);
        Ok(())
    }

    /// Merges a patch into a list that merges.
    fn list(
        &self,
        list: &ListShape,
        live: Vec<Value>,
        patch: &[Value],
        order: Option<&Value>,
    ) -> Result<Vec<Value>, Status> {
        let key = list.patch_key.unwrap_or_default();
        let merged = if key.is_empty() {
            primitives(live, patch)
        } else {
            self.keyed(list, key, live, patch)?
        };
        match order {
            Some(order) => ordered(merged, order, list),
            None => Ok(merged),
        }
    }

    fn keyed(&self, list: &ListShape, key: &str, mut live: Vec<Value>, patch: &[Value]) -> Result<Vec<Value>, Status> {
        if patch.iter().any(|item| item.text(DIRECTIVE) == "replace") {
            return Ok(without_directives(patch));
        }
        let mut index = Index::new(key, &live);
        for item in patch {
            let Some(members) = item.as_object() else {
                return Err(invalid(format!(
                    "expected an object in a list that merges by {key:?}, but got {item}"
                )));
            };
            let name = item.at(&[key]);
            if name.is_null() {
                return Err(invalid(format!(
                    "map: {item} does not contain declared merge key: {key}"
                )));
            }
            match item.text(DIRECTIVE) {
                // Deleted items become null first, so that positions stay.
                "delete" => index.remove(name).into_iter().for_each(|at| live[at] = Value::Null),
                "" | "merge" => {
                    let position = index.best_match(&live, name, item.text("protocol"));
                    let base = position.map(|at| std::mem::take(&mut live[at])).unwrap_or_default();
                    let base = match base {
                        Value::Object(members) => members,
                        _ => Map::new(),
                    };
                    let merged = Value::Object(self.object(&list.item, base, members)?);
                    match position {
                        Some(at) => live[at] = merged,
                        None => {
                            index.insert(name, live.len());
                            live.push(merged);
                        }
                    }
                }
                other => return Err(invalid(format!("Unknown patch type found: {other}"))),
            }
        }
        live.retain(|item| !item.is_null());
        Ok(live)
    }
}

/// Where the items of a list are, by the text of their merge key. Lists of a client may be long: nothing here may be
/// quadratic.
struct Index {
    positions: HashMap<String, Vec<usize>>,
}

impl Index {
    fn new(key: &str, items: &[Value]) -> Index {
        let mut index = Index {
            positions: HashMap::new(),
        };
        for (at, item) in items.iter().enumerate() {
            index.insert(item.at(&[key]), at);
        }
        index
    }

    fn insert(&mut self, name: &Value, at: usize) {
        self.positions.entry(name.to_string()).or_default().push(at);
    }

    fn remove(&mut self, name: &Value) -> Vec<usize> {
        self.positions.remove(&name.to_string()).unwrap_or_default()
    }

    /// The live item that a patch's item is about: the first of its key whose protocol is the same, else the first of
    /// its key. Upstream takes the first of its key, and so confuses a port's TCP and UDP entries.
    fn best_match(&self, live: &[Value], name: &Value, protocol: &str) -> Option<usize> {
        let candidates = self.positions.get(&name.to_string())?;
        let same = candidates
            .iter()
            .find(|at| !protocol.is_empty() && live[**at].text("protocol") == protocol);
        same.or(candidates.first()).copied()
    }
}

/// A list as the client wrote it, its directives taken out.
fn without_directives(patch: &[Value]) -> Vec<Value> {
    let items = patch.iter().filter(|item| item.get(DIRECTIVE).is_none());
    items.cloned().collect()
}

fn primitives(mut live: Vec<Value>, patch: &[Value]) -> Vec<Value> {
    let mut known: HashSet<String> = live.iter().map(Value::to_string).collect();
    for item in patch {
        if known.insert(item.to_string()) {
            live.push(item.clone());
        }
    }
    live
}

fn delete_primitives(original: &mut Map<String, Value>, field: &str, values: &Value) -> Result<(), Status> {
    let Some(values) = values.as_array() else {
        return Err(invalid(format!("{DELETE_PRIMITIVES}{field} must be a list")));
    };
    if let Some(Value::Array(items)) = original.get_mut(field) {
        let values: HashSet<String> = values.iter().map(Value::to_string).collect();
        items.retain(|item| !values.contains(&item.to_string()));
        if items.is_empty() {
            original.remove(field);
        }
    }
    Ok(())
}

fn retain_keys(original: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), Status> {
    let Some(retained) = patch.get(RETAIN_KEYS) else {
        return Ok(());
    };
    let Some(retained) = retained.as_array() else {
        return Err(invalid(format!("{RETAIN_KEYS} must be a list")));
    };
    let kept = |name: &str| retained.iter().any(|entry| entry.as_str() == Some(name));
    let stray = patch
        .iter()
        .find(|(name, value)| !is_directive(name) && !value.is_null() && !kept(name));
    if let Some((name, _)) = stray {
        return Err(invalid(format!(
            "$retainKeys directive must contain all fields in the patch, but not {name:?}"
        )));
    }
    original.retain(|name, _| kept(name));
    Ok(())
}

/// Brings a merged list into the order that the client wants. Items that only the server knows keep their place relative
/// to the items before them.
fn ordered(merged: Vec<Value>, order: &Value, list: &ListShape) -> Result<Vec<Value>, Status> {
    let Some(order) = order.as_array() else {
        return Err(invalid("$setElementOrder must be a list".to_owned()));
    };
    let key = list.patch_key.unwrap_or_default();
    let name = |item: &Value| {
        if key.is_empty() {
            item.to_string()
        } else {
            item.at(&[key]).to_string()
        }
    };
    let mut ranks: HashMap<String, usize> = HashMap::new();
    for (rank, wanted) in order.iter().enumerate() {
        ranks.entry(name(wanted)).or_insert(rank);
    }
    let rank = |item: &Value| ranks.get(&name(item)).copied();
    let (mut wanted, server_only): (Vec<_>, Vec<_>) = merged
        .into_iter()
        .enumerate()
        .map(|(at, item)| (rank(&item), at, item))
        .partition(|(rank, ..)| rank.is_some());
    wanted.sort_by_key(|(rank, at, _)| (*rank, *at));
    // Merge of two ordered sequences: a server-only item comes before the first wanted item that stood after it.
    let mut result = Vec::with_capacity(wanted.len() + server_only.len());
    let mut server_only = server_only.into_iter().peekable();
    for (_, at, item) in wanted {
        while let Some((_, _, other)) = server_only.next_if(|(_, other, _)| *other < at) {
            result.push(other);
        }
        result.push(item);
    }
    result.extend(server_only.map(|(_, _, item)| item));
    Ok(result)
}
