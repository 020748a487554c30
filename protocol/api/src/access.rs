//! Reading and editing JSON objects by field name, with Go's reading of absence: a missing field, a null and a zero value
//! are one and the same. Every module of this crate that looks into an object does it with these; they never fail and
//! never panic, because what a client sent may have any shape.

use serde_json::{Map, Value};

/// What stands in for a field that is not there.
pub static NULL: Value = Value::Null;

/// Reads of a JSON value that treat any wrong shape as absence.
pub trait Access {
    /// The value below these field names; null when a step is missing.
    fn at(&self, path: &[&str]) -> &Value;
    /// The field's text; empty when it is missing or no string.
    fn text(&self, name: &str) -> &str;
    /// The field's integer, when it is one.
    fn int(&self, name: &str) -> Option<i64>;
    /// The field's boolean; false when it is missing.
    fn flag(&self, name: &str) -> bool;
    /// The field's items; none when it is missing or no list.
    fn items(&self, name: &str) -> &[Value];
    /// The field's members; none when it is missing or no object.
    fn members(&self, name: &str) -> Members<'_>;
    /// Whether the field is there with something other than null.
    fn has(&self, name: &str) -> bool;
}

/// The members of a JSON object, or nothing.
pub type Members<'a> = std::iter::Flatten<std::option::IntoIter<&'a Map<String, Value>>>;

impl Access for Value {
    fn at(&self, path: &[&str]) -> &Value {
        path.iter()
            .try_fold(self, |value, name| value.get(name))
            .unwrap_or(&NULL)
    }

    fn text(&self, name: &str) -> &str {
        self.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn int(&self, name: &str) -> Option<i64> {
        self.get(name).and_then(Value::as_i64)
    }

    fn flag(&self, name: &str) -> bool {
        self.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    fn items(&self, name: &str) -> &[Value] {
        self.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    fn members(&self, name: &str) -> Members<'_> {
        self.get(name).and_then(Value::as_object).into_iter().flatten()
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !value.is_null())
    }
}

/// The field as an object to edit. A missing field, or one of another shape, becomes an empty object first.
pub fn object_mut<'a>(value: &'a mut Value, name: &str) -> &'a mut Value {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let field = &mut value[name];
    if !field.is_object() {
        *field = Value::Object(Map::new());
    }
    field
}

/// The field as an object to edit, when it is one.
pub fn existing_mut<'a>(value: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    value.get_mut(name).filter(|field| field.is_object())
}

/// The field's items to edit; none when it is missing or no list.
pub fn items_mut<'a>(value: &'a mut Value, name: &str) -> &'a mut [Value] {
    value
        .get_mut(name)
        .and_then(Value::as_array_mut)
        .map_or(&mut [], Vec::as_mut_slice)
}

/// Sets the field when it is missing or null: how a default is given.
pub fn set_default(value: &mut Value, name: &str, default: impl Into<Value>) {
    if let Some(members) = value.as_object_mut() {
        let field = members.entry(name).or_insert(Value::Null);
        if field.is_null() {
            *field = default.into();
        }
    }
}

/// Sets the field when it is missing, null or the empty string: how a default is given to a plain Go string.
pub fn set_default_text(value: &mut Value, name: &str, default: &str) {
    if value
        .get(name)
        .is_none_or(|field| field.is_null() || field.as_str() == Some(""))
        && let Some(members) = value.as_object_mut()
    {
        members.insert(name.to_owned(), default.into());
    }
}

/// Removes the field; a value that is no object has none.
pub fn remove(value: &mut Value, name: &str) -> Option<Value> {
    value.as_object_mut()?.remove(name)
}

/// Whether Go would hold the zero value for this: null, false, zero, an empty string, list or object.
pub fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}
