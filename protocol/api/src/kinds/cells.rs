//! The cells that many kinds' tables share: names, ages, texts at a path. Every kind's `cells` is built of these.

use protocol::UnixMillis;
use serde_json::Value;

use crate::access::Access;
use crate::time::{age, age_since, parse};

/// `metadata.name`.
pub fn name(object: &Value) -> Value {
    object.at(&["metadata"]).text("name").into()
}

/// How long ago the object was created.
pub fn created_ago(object: &Value, now: UnixMillis) -> Value {
    age_since(object.at(&["metadata"]).text("creationTimestamp"), now).into()
}

/// The text at a path; empty when there is none.
pub fn text(object: &Value, path: &[&str]) -> Value {
    object.at(path).as_str().unwrap_or_default().into()
}

/// The text at a path, or what is shown instead of none.
pub fn text_or(object: &Value, path: &[&str], absent: &str) -> Value {
    match object.at(path).as_str() {
        None | Some("") => absent.into(),
        Some(text) => text.into(),
    }
}

/// The whole number at a path; zero when there is none.
pub fn int(object: &Value, path: &[&str]) -> Value {
    object.at(path).as_i64().unwrap_or(0).into()
}

/// The boolean at a path; false when there is none.
pub fn flag(object: &Value, path: &[&str]) -> Value {
    object.at(path).as_bool().unwrap_or(false).into()
}

/// A number or a percentage; what is shown instead of none.
pub fn int_or_percent(value: &Value, absent: &str) -> Value {
    match value {
        Value::Number(number) => number.to_string().into(),
        Value::String(text) => text.as_str().into(),
        _ => absent.into(),
    }
}

/// Texts with commas between them; what is shown instead of none.
pub fn list_or(items: &[Value], absent: &str) -> Value {
    let texts: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
    if texts.is_empty() {
        absent.into()
    } else {
        texts.join(",").into()
    }
}

/// How long ago an instant was; what is shown instead of none.
pub fn since_or(object: &Value, path: &[&str], now: UnixMillis, absent: &str) -> Value {
    match object.at(path).as_str() {
        Some(text) => age_since(text, now).into(),
        None => absent.into(),
    }
}

/// How long it took from one instant to another, or to now; empty when it has not begun.
pub fn duration(from: &Value, to: &Value, now: UnixMillis) -> Value {
    let Some(from) = from.as_str().and_then(parse) else {
        return "".into();
    };
    let to = to.as_str().and_then(parse).unwrap_or(now);
    age(to.since_ms(from)).into()
}

/// `a=1,b=2`: a map of labels; `<none>` when it is empty.
pub fn labels(map: &Value) -> String {
    let pairs: Vec<String> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() {
        "<none>".to_owned()
    } else {
        pairs.join(",")
    }
}

/// Whether the object has a condition of this type that is true.
pub fn has_condition(object: &Value, kind: &str) -> bool {
    let conditions = object.at(&["status"]).items("conditions");
    conditions
        .iter()
        .any(|condition| condition.text("type") == kind && condition.text("status") == "True")
}
