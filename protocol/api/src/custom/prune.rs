//! Pruning: fields that a schema does not name are dropped, except where it says that unknown fields stay. Called when an
//! object is decoded; what was dropped is reported for strict field validation.

use serde_json::Value;

use super::schema::{Additional, Schema, SchemaType};
use crate::cause::Path;

/// Members that every object has, and every embedded one.
const ENVELOPE: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Drops unknown fields of a whole object; `unknown` gets their paths.
pub fn prune(schema: &Schema, object: &mut Value, unknown: &mut Vec<String>) {
    walk(Some(schema), true, false, object, &Path::Root, unknown);
}

/// Drops unknown fields of a part of an object, such as a default.
pub fn prune_part(schema: &Schema, value: &mut Value, unknown: &mut Vec<String>) {
    walk(Some(schema), schema.embedded, false, value, &Path::Root, unknown);
}

fn walk(
    schema: Option<&Schema>,
    is_resource: bool,
    preserved: bool,
    value: &mut Value,
    path: &Path<'_>,
    unknown: &mut Vec<String>,
) {
    // Inside of preserved fields only what the schema names is looked at; the rest stays.
    let preserves = schema.map_or(preserved, |schema| schema.preserve_unknown);
    match value {
        Value::Array(items) => {
            let item = schema.and_then(|schema| schema.items.as_deref());
            if item.is_none() && preserves {
                return;
            }
            for (index, inner) in items.iter_mut().enumerate() {
                let embedded = item.is_some_and(|item| item.embedded);
                walk(item, embedded, preserves, inner, &path.index(index), unknown);
            }
        }
        Value::Object(members) => {
            let anything = schema.is_some_and(|schema| {
                matches!(schema.additional, Additional::Anything)
                    || schema.int_or_string && schema.of == SchemaType::Any
            });
            members.retain(|name, member| {
                let at = path.field(name);
                if is_resource && ENVELOPE.contains(&name.as_str()) {
                    return true;
                }
                match schema.and_then(|schema| schema.member(name)) {
                    Some(inner) => walk(Some(inner), inner.embedded, false, member, &at, unknown),
                    None if preserves || anything => {}
                    None => {
                        unknown.push(at.to_string());
                        return false;
                    }
                }
                true
            });
        }
        _ => {}
    }
}
