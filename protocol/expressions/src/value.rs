//! Values during an evaluation. What comes from a JSON document is looked at in place: a list or a map of it is a reference
//! and its declared type, and only the members that an expression names are read.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value as Json;

use crate::error::EvaluationError;
use crate::functions::opaque::Opaque;
use crate::functions::time;
use crate::types::{ObjectType, Type};

/// A value; the lifetime is that of the documents and programs that it looks into.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number without sign.
    Uint(u64),
    /// A number.
    Double(f64),
    /// A text.
    Text(Text<'a>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// An instant.
    Timestamp(Timestamp),
    /// A span of time.
    Duration(SignedDuration),
    /// A list.
    List(List<'a>),
    /// A map or a structure.
    Map(Map<'a>),
    /// A type, by its name.
    Type(Arc<str>),
    /// A value that may be absent.
    Optional(Option<Arc<Value<'a>>>),
    /// A value of one of Kubernetes' libraries.
    Opaque(Opaque<'a>),
}

/// A text, of a document or made.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    /// Of a document or a program.
    Borrowed(&'a str),
    /// Made by the evaluation.
    Made(Arc<str>),
}

impl Text<'_> {
    /// The text.
    pub fn as_str(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Made(text) => text,
        }
    }
}

/// A list, of a document or made.
#[derive(Clone, Debug)]
pub enum List<'a> {
    /// Of a document, with the type of its items.
    Json(&'a [Json], &'a Type),
    /// Made by the evaluation.
    Made(Arc<Vec<Value<'a>>>),
}

/// A map, of a document or made.
#[derive(Clone, Debug)]
pub enum Map<'a> {
    /// Of a document, with the type of its values.
    Json(&'a serde_json::Map<String, Json>, &'a Type),
    /// A structure of a document.
    Object(&'a serde_json::Map<String, Json>, &'a ObjectType),
    /// Made by the evaluation.
    Made(Arc<BTreeMap<Key, Value<'a>>>),
}

/// A map's key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A truth value.
    Bool(bool),
    /// A whole number, with or without sign.
    Int(i128),
    /// A text.
    Text(Arc<str>),
}

pub(crate) static DYN: Type = Type::Dyn;

impl<'a> Value<'a> {
    /// A JSON value as its declared type reads it. What does not fit the type is read as what it looks like: schemas are
    /// checked elsewhere, and an expression over an unfit value fails where it uses it.
    pub fn of(json: &'a Json, declared: &'a Type) -> Value<'a> {
        match (json, declared) {
            (Json::Null, _) => Value::Null,
            (Json::Bool(value), _) => Value::Bool(*value),
            (Json::Number(number), Type::Double) => Value::Double(number.as_f64().unwrap_or_default()),
            (Json::Number(number), _) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => Value::Int(value),
                (None, Some(value)) => Value::Uint(value),
                (None, None) => Value::Double(number.as_f64().unwrap_or_default()),
            },
            (Json::String(text), declared) => Value::of_text(text, declared),
            (Json::Array(items), Type::List(item)) => Value::List(List::Json(items, item)),
            (Json::Array(items), _) => Value::List(List::Json(items, &DYN)),
            (Json::Object(members), Type::Object(object)) => Value::Map(Map::Object(members, object)),
            (Json::Object(members), Type::Map(_, value)) => Value::Map(Map::Json(members, value)),
            (Json::Object(members), _) => Value::Map(Map::Json(members, &DYN)),
        }
    }

    fn of_text(text: &'a str, declared: &Type) -> Value<'a> {
        let read = match declared {
            Type::Bytes => base64::engine::general_purpose::STANDARD
                .decode(text)
                .ok()
                .map(|bytes| Value::Bytes(bytes.into())),
            Type::Timestamp => time::read_instant(text).map(Value::Timestamp),
            Type::Duration => time::read_duration(text).map(Value::Duration),
            _ => None,
        };
        read.unwrap_or(Value::Text(Text::Borrowed(text)))
    }

    /// A text that the evaluation made.
    pub fn text(text: impl Into<Arc<str>>) -> Value<'a> {
        Value::Text(Text::Made(text.into()))
    }

    /// A list that the evaluation made.
    pub fn list(items: Vec<Value<'a>>) -> Value<'a> {
        Value::List(List::Made(Arc::new(items)))
    }

    /// A value that is there.
    pub fn some(value: Value<'a>) -> Value<'a> {
        Value::Optional(Some(Arc::new(value)))
    }

    /// The name of its type.
    pub fn type_name(&self) -> &str {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::Text(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::List(_) => "list",
            Value::Map(Map::Object(_, object)) => &object.name,
            Value::Map(_) => "map",
            Value::Type(_) => "type",
            Value::Optional(_) => "optional_type",
            Value::Opaque(opaque) => opaque.type_name(),
        }
    }

    /// The value as JSON: what a policy's mutation or audit annotation is made of. Maps with keys that are no texts, types and
    /// absent values have no JSON.
    pub fn to_json(&self) -> Result<Json, EvaluationError> {
        Ok(match self {
            Value::Null | Value::Optional(None) => Json::Null,
            Value::Bool(value) => (*value).into(),
            Value::Int(value) => (*value).into(),
            Value::Uint(value) => (*value).into(),
            Value::Double(value) => (*value).into(),
            Value::Text(text) => text.as_str().into(),
            Value::Bytes(bytes) => base64::engine::general_purpose::STANDARD.encode(bytes).into(),
            Value::Timestamp(instant) => instant.to_string().into(),
            Value::Duration(span) => time::duration_text(*span).into(),
            Value::Optional(Some(value)) => value.to_json()?,
            Value::List(List::Json(items, _)) => Json::Array(items.to_vec()),
            Value::List(List::Made(items)) => items.iter().map(Value::to_json).collect::<Result<_, _>>()?,
            Value::Map(Map::Json(members, _) | Map::Object(members, _)) => Json::Object((*members).clone()),
            Value::Map(Map::Made(members)) => {
                let mut object = serde_json::Map::new();
                for (key, value) in members.iter() {
                    let Key::Text(key) = key else {
                        let text = "a map whose keys are not strings cannot be written as JSON";
                        return Err(EvaluationError::UnexpectedResult(text.to_owned()));
                    };
                    object.insert(key.to_string(), value.to_json()?);
                }
                Json::Object(object)
            }
            Value::Opaque(opaque) => opaque.text().ok_or(EvaluationError::NoSuchOverload)?.into(),
            Value::Type(_) => {
                let text = format!("a value of type {} cannot be written as JSON", self.type_name());
                return Err(EvaluationError::UnexpectedResult(text));
            }
        })
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// How much of it there is to look at: characters (bytes, as a bound), items, members.
    pub fn size(&self) -> usize {
        match self {
            Value::Text(text) => text.as_str().len(),
            Value::Bytes(bytes) => bytes.len(),
            Value::List(list) => list.len(),
            Value::Map(map) => map.len(),
            _ => 1,
        }
    }

    /// Whether two values are the same, as `==` has it: numbers by their value, others only within their type.
    /// `spend` is told of every part that is looked at.
    pub(crate) fn same(&self, other: &Value<'_>, spend: &mut Spend<'_>) -> Result<bool, EvaluationError> {
        spend(1)?;
        Ok(match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Text(a), Value::Text(b)) => {
                spend(a.as_str().len().min(b.as_str().len()) as u64 / 10)?;
                a.as_str() == b.as_str()
            }
            (Value::Bytes(a), Value::Bytes(b)) => {
                spend(a.len().min(b.len()) as u64 / 10)?;
                a == b
            }
            (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
            (Value::Duration(a), Value::Duration(b)) => a == b,
            (Value::Type(a), Value::Type(b)) => a == b,
            (Value::List(a), Value::List(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for (a, b) in a.iter().zip(b.iter()) {
                    if !a.same(&b, spend)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Value::Map(a), Value::Map(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for (key, a) in a.entries() {
                    match b.get(&key) {
                        Some(b) if a.same(&b, spend)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (Value::Optional(a), Value::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => a.same(b, spend)?,
                (None, None) => true,
                _ => false,
            },
            (Value::Opaque(a), Value::Opaque(b)) => a.same(b),
            _ => self.number_order(other) == Some(Ordering::Equal),
        })
    }

    /// How two values compare; `None` where `<` has no meaning.
    pub(crate) fn order(&self, other: &Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::Text(a), Value::Text(b)) => Some(a.as_str().cmp(b.as_str())),
            (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
            (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
            (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
            _ => self.number_order(other),
        }
    }

    fn number_order(&self, other: &Value<'_>) -> Option<Ordering> {
        let whole = |value: &Value<'_>| match value {
            Value::Int(value) => Some(i128::from(*value)),
            Value::Uint(value) => Some(i128::from(*value)),
            _ => None,
        };
        match (self, other) {
            (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
            (Value::Double(a), b) => a.partial_cmp(&(whole(b)? as f64)),
            (a, Value::Double(b)) => (whole(a)? as f64).partial_cmp(b),
            (a, b) => Some(whole(a)?.cmp(&whole(b)?)),
        }
    }

    /// The value as a map's key.
    pub(crate) fn key(&self) -> Option<Key> {
        match self {
            Value::Bool(value) => Some(Key::Bool(*value)),
            Value::Int(value) => Some(Key::Int((*value).into())),
            Value::Uint(value) => Some(Key::Int((*value).into())),
            Value::Double(value) if value.fract() == 0.0 => Some(Key::Int(*value as i128)),
            Value::Text(Text::Made(text)) => Some(Key::Text(Arc::clone(text))),
            Value::Text(Text::Borrowed(text)) => Some(Key::Text((*text).into())),
            _ => None,
        }
    }
}

/// Who is told of what a step costs; refuses when it is too much.
pub(crate) type Spend<'f> = dyn FnMut(u64) -> Result<(), EvaluationError> + 'f;

impl<'a> List<'a> {
    /// The number of items.
    pub fn len(&self) -> usize {
        match self {
            List::Json(items, _) => items.len(),
            List::Made(items) => items.len(),
        }
    }

    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An item.
    pub fn get(&self, index: usize) -> Option<Value<'a>> {
        match self {
            List::Json(items, item) => items.get(index).map(|json| Value::of(json, item)),
            List::Made(items) => items.get(index).cloned(),
        }
    }

    /// The items.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

impl<'a> Map<'a> {
    /// The number of members.
    pub fn len(&self) -> usize {
        match self {
            Map::Json(members, _) | Map::Object(members, _) => members.len(),
            Map::Made(members) => members.len(),
        }
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The member of this name, as `.name` reaches it.
    pub fn member(&self, name: &str) -> Option<Value<'a>> {
        match self {
            Map::Json(members, value) => members.get(name).map(|json| Value::of(json, value)),
            Map::Object(members, object) => {
                let field = object.fields.get(name)?;
                members.get(&field.name).map(|json| Value::of(json, &field.of))
            }
            Map::Made(members) => members.get(&Key::Text(name.into())).cloned(),
        }
    }

    /// The member under this key.
    pub(crate) fn get(&self, key: &Key) -> Option<Value<'a>> {
        match (self, key) {
            (Map::Made(members), key) => members.get(key).cloned(),
            (_, Key::Text(name)) => self.member(name),
            _ => None,
        }
    }

    /// Keys and values, by key.
    pub(crate) fn entries(&self) -> Vec<(Key, Value<'a>)> {
        let text = |name: &String| Key::Text(name.as_str().into());
        match self {
            Map::Json(members, value) => members
                .iter()
                .map(|(name, json)| (text(name), Value::of(json, value)))
                .collect(),
            Map::Object(members, object) => {
                let field = |(name, field): (&String, &'a crate::types::Field)| {
                    Some((text(name), Value::of(members.get(&field.name)?, &field.of)))
                };
                object.fields.iter().filter_map(field).collect()
            }
            Map::Made(members) => members
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        }
    }
}

impl Key {
    /// The key as a value.
    pub(crate) fn value<'a>(&self) -> Value<'a> {
        match self {
            Key::Bool(value) => Value::Bool(*value),
            Key::Int(value) => match i64::try_from(*value) {
                Ok(value) => Value::Int(value),
                Err(_) => Value::Uint(u64::try_from(*value).unwrap_or(u64::MAX)),
            },
            Key::Text(text) => Value::Text(Text::Made(Arc::clone(text))),
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Key::Bool(value) => value.fmt(f),
            Key::Int(value) => value.fmt(f),
            Key::Text(text) => text.fmt(f),
        }
    }
}
