//! Validation of values by schema, in the words of kube-openapi as apiextensions turns them into field errors. On an update
//! what did not change is not judged again (KEP-4008): an object that was valid stays writable when its schema gets stricter.

use std::collections::HashSet;

use serde_json::Value;

use super::schema::{Additional, ListKind, Schema, SchemaType};
use crate::access::Access;
use crate::cause::{Causes, Path};
use crate::rules;

/// What is wrong with a whole object; `old` is the stored one, for a change.
pub fn validate(schema: &Schema, object: &Value, old: Option<&Value>, causes: &mut Causes) {
    walk(schema, object, old, &Path::Root, true, causes);
}

/// What is wrong with a part of an object, such as a default.
pub fn validate_part(schema: &Schema, value: &Value, path: &Path<'_>, causes: &mut Causes) {
    walk(schema, value, None, path, false, causes);
}

fn walk(schema: &Schema, value: &Value, old: Option<&Value>, path: &Path<'_>, is_root: bool, causes: &mut Causes) {
    if old.is_some_and(|old| old == value) {
        return;
    }
    if value.is_null() && schema.nullable {
        return;
    }
    if !has_type(schema, value) {
        return wrong_type(schema, value, path, causes);
    }
    constraints(schema, value, path, causes);
    combined(schema, value, path, causes);
    match value {
        Value::Object(members) => {
            if schema.embedded && !is_root {
                embedded(value, path, causes);
            }
            for (name, member) in members {
                let before = if schema.atomic {
                    None
                } else {
                    old.and_then(|old| old.get(name))
                };
                if is_root && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                    continue;
                }
                match (schema.properties.get(name), &schema.additional) {
                    (Some(inner), _) => walk(inner, member, before, &path.field(name), false, causes),
                    // kube-openapi names entries of maps as fields.
                    (None, Additional::Of(inner)) => walk(inner, member, before, &path.field(name), false, causes),
                    _ => {}
                }
            }
        }
        Value::Array(items) => {
            if let Some(inner) = schema.items.as_deref() {
                for (index, item) in items.iter().enumerate() {
                    let before = same_item(schema, item, old);
                    walk(inner, item, before, &path.index(index), false, causes);
                }
            }
            uniqueness(schema, items, path, causes);
        }
        _ => {}
    }
}

/// The item of the old list that an item is the successor of: only lists of type map say so.
pub fn same_item<'o>(schema: &Schema, item: &Value, old: Option<&'o Value>) -> Option<&'o Value> {
    let ListKind::Map(keys) = &schema.list else { return None };
    let same = |other: &&Value| keys.iter().all(|key| other.get(key) == item.get(key));
    old?.as_array()?.iter().find(same)
}

/// Whether a value is of a schema's type.
fn has_type(schema: &Schema, value: &Value) -> bool {
    if schema.int_or_string {
        return value.is_string() || is_whole(value);
    }
    match schema.of {
        SchemaType::Any => true,
        SchemaType::Object => value.is_object(),
        SchemaType::Array => value.is_array(),
        SchemaType::Text => value.is_string(),
        SchemaType::Integer => is_whole(value),
        SchemaType::Number => value.is_number(),
        SchemaType::Boolean => value.is_boolean(),
    }
}

fn is_whole(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

fn wrong_type(schema: &Schema, value: &Value, path: &Path<'_>, causes: &mut Causes) {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if is_whole(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let wanted = if schema.int_or_string {
        "integer,string"
    } else {
        schema.of.name()
    };
    let text = format!("Invalid value: {found:?}: {path} in body must be of type {wanted}: {found:?}");
    causes.add(*path, "FieldValueTypeInvalid", text);
}

fn constraints(schema: &Schema, value: &Value, path: &Path<'_>, causes: &mut Causes) {
    let checks = &schema.checks;
    let mut wrong = |text: String| causes.invalid(*path, value.clone(), format!("{path} in body {text}"));
    match value {
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            if let Some(minimum) = checks.minimum {
                match checks.exclusive_minimum {
                    true if number <= minimum => wrong(format!("should be greater than {minimum}")),
                    false if number < minimum => wrong(format!("should be greater than or equal to {minimum}")),
                    _ => {}
                }
            }
            if let Some(maximum) = checks.maximum {
                match checks.exclusive_maximum {
                    true if number >= maximum => wrong(format!("should be less than {maximum}")),
                    false if number > maximum => wrong(format!("should be less than or equal to {maximum}")),
                    _ => {}
                }
            }
            if let Some(factor) = checks.multiple_of.filter(|factor| *factor > 0.0)
                && ((number / factor) - (number / factor).round()).abs() > 1e-9
            {
                wrong(format!("should be a multiple of {factor}"));
            }
            let bounds = match checks.format.as_str() {
                "int32" => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
                _ => None,
            };
            if bounds.is_some_and(|(least, most)| number < least || number > most) {
                wrong(format!("must be of type {}: {number}", checks.format));
            }
        }
        Value::String(text) => {
            let length = text.chars().count() as u64;
            if let Some(least) = checks.min_length.filter(|least| length < *least) {
                wrong(format!("should be at least {least} chars long"));
            }
            if let Some(pattern) = checks.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
                wrong(format!("should match '{pattern}'"));
            }
            if let Some(most) = checks.max_length.filter(|most| length > *most) {
                causes.too_long(*path, usize::try_from(most).unwrap_or(usize::MAX));
            }
            if !has_format(&checks.format, text) {
                let detail = format!("{path} in body must be of type {}: {text:?}", checks.format);
                causes.add(
                    *path,
                    "FieldValueTypeInvalid",
                    format!("Invalid value: {text:?}: {detail}"),
                );
            }
        }
        Value::Array(items) => {
            let count = items.len() as u64;
            if let Some(least) = checks.min_items.filter(|least| count < *least) {
                wrong(format!("should have at least {least} items"));
            }
            if let Some(most) = checks.max_items.filter(|most| count > *most) {
                causes.too_many(*path, items.len(), usize::try_from(most).unwrap_or(usize::MAX));
            }
        }
        Value::Object(members) => {
            let count = members.len() as u64;
            if let Some(least) = checks.min_properties.filter(|least| count < *least) {
                wrong(format!("should have at least {least} properties"));
            }
            if let Some(most) = checks.max_properties.filter(|most| count > *most) {
                causes.too_many(*path, members.len(), usize::try_from(most).unwrap_or(usize::MAX));
            }
            for name in checks.required.iter().filter(|name| !members.contains_key(*name)) {
                causes.required(path.field(name), "");
            }
        }
        _ => {}
    }
    if !checks.one_of_values.is_empty() && !checks.one_of_values.contains(value) {
        let known: Vec<String> = checks
            .one_of_values
            .iter()
            .map(|known| format!("{:?}", known.as_str().map_or_else(|| known.to_string(), str::to_owned)))
            .collect();
        let text = format!("Unsupported value: {value}: supported values: {}", known.join(", "));
        causes.add(*path, "FieldValueNotSupported", text);
    }
}

/// `allOf`, `anyOf`, `oneOf` and `not`.
fn combined(schema: &Schema, value: &Value, path: &Path<'_>, causes: &mut Causes) {
    let checks = &schema.checks;
    let fits = |schema: &Schema| {
        let mut inner = Causes::default();
        walk(schema, value, None, path, false, &mut inner);
        inner.is_empty()
    };
    let mut fails = |text: &str| {
        let message = format!("Invalid value: \"\": {:?} {text}", path.to_string());
        causes.add(*path, "FieldValueInvalid", message);
    };
    if !checks.any_of.is_empty() && !checks.any_of.iter().any(fits) {
        fails("must validate at least one schema (anyOf)");
    }
    if !checks.one_of.is_empty() {
        match checks.one_of.iter().filter(|schema| fits(schema)).count() {
            1 => {}
            0 => fails("must validate one and only one schema (oneOf). Found none valid"),
            count => fails(&format!(
                "must validate one and only one schema (oneOf). Found {count} valid alternatives"
            )),
        }
    }
    if checks.not.as_deref().is_some_and(fits) {
        fails("must not validate the schema (not)");
    }
    let before = causes.0.len();
    for schema in &checks.all_of {
        walk(schema, value, None, path, false, causes);
    }
    if causes.0.len() > before {
        let message = format!(
            "Invalid value: \"\": {:?} must validate all the schemas (allOf)",
            path.to_string()
        );
        causes.add(*path, "FieldValueInvalid", message);
    }
}

/// Items of sets and maps must differ.
fn uniqueness(schema: &Schema, items: &[Value], path: &Path<'_>, causes: &mut Causes) {
    let mut known = HashSet::new();
    for (index, item) in items.iter().enumerate() {
        let identity = match &schema.list {
            ListKind::Atomic if !schema.checks.unique_items => return,
            ListKind::Atomic | ListKind::Set => item.clone(),
            ListKind::Map(keys) => {
                let named = keys
                    .iter()
                    .filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
                Value::Object(named.collect())
            }
        };
        if !known.insert(identity.to_string()) {
            causes.duplicate(path.index(index), identity);
        }
    }
}

/// An object inside of another must say what it is.
fn embedded(value: &Value, path: &Path<'_>, causes: &mut Causes) {
    for name in ["apiVersion", "kind"] {
        if value.text(name).is_empty() {
            causes.required(path.field(name), "must not be empty");
        }
    }
    let (metadata, at) = (value.at(&["metadata"]), path.field("metadata"));
    for (field, name) in [
        ("name", metadata.text("name")),
        ("generateName", metadata.text("generateName")),
    ] {
        for problem in rules::dns_subdomain(name).into_iter().filter(|_| !name.is_empty()) {
            causes.invalid(at.field(field), name, problem);
        }
    }
    crate::meta::labels(metadata.at(&["labels"]), at.field("labels"), causes);
}

/// Whether a text is of a format; formats that Kubernetes does not know are no constraint.
fn has_format(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => crate::time::parse(text).is_some(),
        "date" => text.len() == 10 && crate::time::parse(&format!("{text}T00:00:00Z")).is_some(),
        "duration" => expressions::read_duration(text).is_some(),
        "byte" => {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.decode(text).is_ok()
        }
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => rules::cidr(text).is_empty(),
        "mac" => {
            let parts: Vec<&str> = text.split([':', '-']).collect();
            parts.len() == 6
                && parts
                    .iter()
                    .all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
        }
        "hostname" => {
            text.len() <= 255
                && text
                    .split('.')
                    .all(|label| rules::dns_label(&label.to_lowercase()).is_empty())
        }
        "uri" => text.contains(':') || text.starts_with('/'),
        "email" => text
            .split_once('@')
            .is_some_and(|(user, host)| !user.is_empty() && !host.is_empty() && !host.contains('@')),
        "uuid" => is_uuid(text),
        _ => true,
    }
}

fn is_uuid(text: &str) -> bool {
    let bare: String = text.chars().filter(|character| *character != '-').collect();
    bare.len() == 32 && bare.bytes().all(|byte| byte.is_ascii_hexdigit())
}
