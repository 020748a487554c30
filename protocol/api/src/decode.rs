//! From a client's bytes to an object of known shape: JSON (or YAML) with duplicate fields noticed, then a walk along the
//! kind's shape that finds unknown fields and wrong types in the words of Kubernetes' decoder, and brings the object into
//! the form in which Go would write it again (nulls and empty collections gone). The gateway and `write` call it; any
//! bytes may come in, and the answer is an object or a `Status`.

use std::cell::RefCell;
use std::fmt;

use protocol::quantity::Quantity;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::cause::Path;
use crate::schema::{Definition, Schemas, Shape};
use crate::status::Status;

/// A parsed body.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The value; of a duplicate field the last one counts, as in Go.
    pub value: Value,
    /// Paths of fields that stand there more than once.
    pub duplicate_fields: Vec<String>,
}

/// Parses JSON. Nesting beyond 128 levels is refused.
pub fn json(bytes: &[u8]) -> Result<Parsed, Status> {
    let duplicates = RefCell::new(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let seed = Node {
        path: Path::Root,
        duplicates: &duplicates,
    };
    let value = seed
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value));
    let value = value.map_err(|error| Status::bad_request(format!("error decoding JSON: {error}")))?;
    Ok(Parsed {
        value,
        duplicate_fields: duplicates.take(),
    })
}

/// Parses YAML, which JSON is a part of. Aliases are refused beyond what the parser bounds.
pub fn yaml(bytes: &[u8]) -> Result<Parsed, Status> {
    // Clients send JSON under YAML's name, and the JSON parser is many times faster.
    if bytes.trim_ascii_start().starts_with(b"{")
        && let Ok(parsed) = json(bytes)
    {
        return Ok(parsed);
    }
    let duplicates = RefCell::new(Vec::new());
    let seed = Node {
        path: Path::Root,
        duplicates: &duplicates,
    };
    let value = seed
        .deserialize(serde_norway::Deserializer::from_slice(bytes))
        .map_err(|error| Status::bad_request(format!("error converting YAML to JSON: {error}")))?;
    Ok(Parsed {
        value,
        duplicate_fields: duplicates.take(),
    })
}

/// The content types of bodies that this crate reads.
pub const CONTENT_TYPES: [&str; 3] = ["application/json", "application/yaml", PROTOBUF_CONTENT_TYPE];

/// Parses an object's body by its content type; an absent one means JSON.
pub fn body(content_type: &str, bytes: &[u8]) -> Result<Parsed, Status> {
    match content_type.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" | "application/apply-patch+json" => json(bytes),
        "application/yaml" | "application/apply-patch+yaml" => yaml(bytes),
        PROTOBUF_CONTENT_TYPE => protobuf(bytes),
        _ => Err(Status::unsupported_media_type(&CONTENT_TYPES)),
    }
}

pub use crate::protobuf::{CONTENT_TYPE as PROTOBUF_CONTENT_TYPE, decode as protobuf};

/// Deserializes one value and notes duplicate fields below it.
struct Node<'p> {
    path: Path<'p>,
    duplicates: &'p RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let path = self.path.index(list.len());
            match items.next_element_seed(Node {
                path,
                duplicates: self.duplicates,
            })? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = members.next_key_seed(Name)? {
            let path = self.path.field(&name);
            if object.contains_key(&name) {
                self.duplicates.borrow_mut().push(path.to_string());
            }
            let value = members.next_value_seed(Node {
                path,
                duplicates: self.duplicates,
            })?;
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

/// Deserializes a field's name. YAML reads `1` and `yes` as other things than texts; as names they are texts.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Name {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<String, E> {
        Ok(name.to_owned())
    }

    fn visit_string<E>(self, name: String) -> Result<String, E> {
        Ok(name)
    }

    fn visit_bool<E>(self, name: bool) -> Result<String, E> {
        Ok(name.to_string())
    }

    fn visit_i64<E>(self, name: i64) -> Result<String, E> {
        Ok(name.to_string())
    }

    fn visit_u64<E>(self, name: u64) -> Result<String, E> {
        Ok(name.to_string())
    }

    fn visit_f64<E>(self, name: f64) -> Result<String, E> {
        Ok(name.to_string())
    }
}

/// What the walk along a shape found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Paths of fields that the kind does not have. They are removed from the object.
    pub unknown_fields: Vec<String>,
    /// The first value of a wrong type, in the words of Go's decoder.
    pub wrong_type: Option<String>,
}

/// Brings `value` into the form of `definition`: drops unknown fields, nulls, and optional empty collections, and reports
/// what it met.
pub fn conform(schemas: &Schemas, definition: &str, value: &mut Value) -> Findings {
    let mut walk = Walk {
        schemas,
        findings: Findings::default(),
        owner: "",
    };
    match schemas.definition(definition) {
        Some(definition) if value.is_object() => walk.structure(definition, value, &Path::Root),
        _ => walk.wrong_type(
            &Path::Root,
            value,
            &format!("v1.{}", definition.rsplit('.').next().unwrap_or(definition)),
        ),
    }
    walk.findings
}

struct Walk<'a> {
    schemas: &'a Schemas,
    findings: Findings,
    /// The Go name of the structure that is being read, for the message about a wrong type.
    owner: &'static str,
}

impl Walk<'_> {
    fn structure(&mut self, definition: &Definition, value: &mut Value, path: &Path<'_>) {
        let Some(members) = value.as_object_mut() else { return };
        members.retain(|name, member| {
            let at = path.field(name);
            let Some(field) = definition.field(name) else {
                self.findings.unknown_fields.push(at.to_string());
                return false;
            };
            if member.is_null() {
                return false;
            }
            self.owner = short_name(definition.name);
            self.value(&field.shape, member, &at);
            field.required || !is_empty_collection(&field.shape, member)
        });
    }

    fn value(&mut self, shape: &Shape, value: &mut Value, path: &Path<'_>) {
        match shape {
            Shape::Struct(name) => match (self.schemas.definition(name), value.is_object()) {
                (Some(definition), true) => self.structure(definition, value, path),
                _ => self.wrong_type(path, value, &go_type(shape)),
            },
            Shape::List(list) => match value.as_array_mut() {
                Some(items) => {
                    let owner = self.owner;
                    for (index, item) in items.iter_mut().enumerate() {
                        self.owner = owner;
                        zero_for_null(&list.item, item);
                        self.value(&list.item, item, &path.index(index));
                    }
                }
                None => self.wrong_type(path, value, &go_type(shape)),
            },
            Shape::Map(map) => match value.as_object_mut() {
                Some(members) => {
                    for (key, member) in members.iter_mut() {
                        zero_for_null(&map.value, member);
                        self.value(&map.value, member, &path.field(key));
                    }
                }
                None => self.wrong_type(path, value, &go_type(shape)),
            },
            Shape::Quantity => self.quantity(value, path),
            Shape::Any => {}
            scalar => {
                if !scalar_fits(scalar, value) {
                    self.wrong_type(path, value, &go_type(shape));
                }
            }
        }
    }

    /// A quantity may be written as a number; it is kept as a text.
    fn quantity(&mut self, value: &mut Value, path: &Path<'_>) {
        if let Value::Number(number) = value {
            *value = Value::String(number.to_string());
        }
        let problem = match value.as_str() {
            Some(text) => match Quantity::parse(text) {
                Ok(_) => {
                    if let Some(canonical) = crate::quantity::canonical(text) {
                        *value = Value::String(canonical);
                    }
                    None
                }
                Err(error) => Some(error.to_string()),
            },
            None => Some("quantities must be a string or a number".to_owned()),
        };
        if let (Some(problem), None) = (problem, &self.findings.wrong_type) {
            self.findings.wrong_type = Some(format!("{path}: {problem}"));
        }
    }

    fn wrong_type(&mut self, path: &Path<'_>, value: &Value, expected: &str) {
        if self.findings.wrong_type.is_none() {
            let found = match value {
                Value::Null => "null".to_owned(),
                Value::Bool(_) => "bool".to_owned(),
                Value::Number(number) if number.is_f64() || expected.starts_with("int") => format!("number {number}"),
                Value::Number(_) => "number".to_owned(),
                Value::String(_) => "string".to_owned(),
                Value::Array(_) => "array".to_owned(),
                Value::Object(_) => "object".to_owned(),
            };
            let (owner, path) = (self.owner, path.dotted());
            let message =
                format!("json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {expected}");
            self.findings.wrong_type = Some(message);
        }
    }
}

fn short_name(definition: &'static str) -> &'static str {
    definition.rsplit('.').next().unwrap_or(definition)
}

fn is_empty_collection(shape: &Shape, value: &Value) -> bool {
    match shape {
        Shape::List(_) => value.as_array().is_some_and(Vec::is_empty),
        Shape::Map(_) => value.as_object().is_some_and(Map::is_empty),
        _ => false,
    }
}

/// In a list or map, Go reads null as the zero value of the item's type.
fn zero_for_null(shape: &Shape, value: &mut Value) {
    if value.is_null() {
        *value = match shape {
            Shape::Text | Shape::Bytes => Value::String(String::new()),
            Shape::Struct(_) | Shape::Map(_) => Value::Object(Map::new()),
            Shape::List(_) => Value::Array(Vec::new()),
            Shape::Int32 | Shape::Int64 | Shape::Number | Shape::IntOrString => 0.into(),
            Shape::Boolean => false.into(),
            Shape::Quantity => "0".into(),
            Shape::Time | Shape::MicroTime | Shape::Any => return,
        };
    }
}

fn scalar_fits(shape: &Shape, value: &Value) -> bool {
    match shape {
        Shape::Text => value.is_string(),
        Shape::Bytes => value.as_str().is_some_and(is_base64),
        Shape::Time | Shape::MicroTime => value.as_str().is_some_and(|text| crate::time::parse(text).is_some()),
        Shape::Int32 => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
        Shape::Int64 => value.is_i64(),
        Shape::Number => value.is_number(),
        Shape::Boolean => value.is_boolean(),
        Shape::IntOrString => value.is_string() || value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
        _ => true,
    }
}

fn is_base64(text: &str) -> bool {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD
        .decode(text.trim_end())
        .is_ok()
}

fn go_type(shape: &Shape) -> String {
    match shape {
        Shape::Text => "string".to_owned(),
        Shape::Bytes => "[]uint8".to_owned(),
        Shape::Time => "v1.Time".to_owned(),
        Shape::MicroTime => "v1.MicroTime".to_owned(),
        Shape::Int32 => "int32".to_owned(),
        Shape::Int64 => "int64".to_owned(),
        Shape::Number => "float64".to_owned(),
        Shape::Boolean => "bool".to_owned(),
        Shape::IntOrString => "intstr.IntOrString".to_owned(),
        Shape::Quantity => "resource.Quantity".to_owned(),
        Shape::Any => "runtime.RawExtension".to_owned(),
        Shape::Struct(name) => format!("v1.{}", short_name(name)),
        Shape::Map(map) => format!("map[string]{}", go_type(&map.value)),
        Shape::List(list) => format!("[]{}", go_type(&list.item)),
    }
}
