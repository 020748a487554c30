//! Defaulting by schema: a member that is absent gets its default, one that is null and may not be null too; then the members
//! of what is there. Called when an object is written, and when it is read that was stored before a default was introduced.

use serde_json::Value;

use super::schema::{Additional, Schema};

/// Gives defaults.
pub fn fill(schema: &Schema, value: &mut Value) {
    if !schema.has_defaults {
        return;
    }
    match value {
        Value::Object(members) => {
            for (name, property) in &schema.properties {
                let absent = match members.get(name) {
                    None => true,
                    Some(Value::Null) => !property.nullable,
                    Some(_) => false,
                };
                if let (true, Some(default)) = (absent, &property.default) {
                    members.insert(name.clone(), default.clone());
                }
            }
            for (name, member) in members.iter_mut() {
                let additional = match &schema.additional {
                    Additional::Of(additional) => Some(&**additional),
                    _ => None,
                };
                let Some(inner) = schema.properties.get(name).or(additional) else {
                    continue;
                };
                if let (Value::Null, false, Some(default)) = (&*member, inner.nullable, &inner.default) {
                    *member = default.clone();
                }
                fill(inner, member);
            }
        }
        Value::Array(items) => {
            let Some(inner) = schema.items.as_deref() else { return };
            for item in items {
                if let (Value::Null, false, Some(default)) = (&*item, inner.nullable, &inner.default) {
                    *item = default.clone();
                }
                fill(inner, item);
            }
        }
        _ => {}
    }
}

/// Drops nulls where the schema knows the field, does not allow null, and has a default: they stand for absence.
pub fn drop_nulls(schema: &Schema, value: &mut Value) {
    match value {
        Value::Object(members) => members.retain(|name, member| {
            let Some(inner) = schema.member(name) else { return true };
            if member.is_null() && !inner.nullable && inner.default.is_some() {
                return false;
            }
            drop_nulls(inner, member);
            true
        }),
        Value::Array(items) => {
            if let Some(inner) = schema.items.as_deref() {
                items.iter_mut().for_each(|item| drop_nulls(inner, item));
            }
        }
        _ => {}
    }
}
