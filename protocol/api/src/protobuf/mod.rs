//! Kubernetes' protobuf, read: Go clients (kubectl's `create` and `drain` among them) send it and do not fall back to JSON
//! when a server refuses it. Answers are JSON always, which the same clients accept.
//!
//! A body is the magic `k8s\0` and a `runtime.Unknown` that names the kind and holds the message. Messages are read along
//! the kind's shape; field numbers come from `fields.txt`, which `examples/protobuf_fields.rs` writes. The result is the
//! JSON object that the same client would have sent as JSON.

mod numbers;
mod wire;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::access::is_zero;
use crate::decode::Parsed;
use crate::kinds;
use crate::schema::{Definition, Schemas, Shape};
use crate::status::Status;
use numbers::{Message, Target};
use wire::{Reader, Wire};

/// The content type of such bodies.
pub const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";
/// How deep messages may nest, as for JSON.
const DEPTH_MAX: usize = 128;

/// Why a body was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// It does not begin as Kubernetes' bodies do.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Magic,
    /// It ends in the middle of a field.
    #[error("unexpected EOF")]
    Truncated,
    /// A number or a tag is malformed.
    #[error("proto: illegal tag or number")]
    Malformed,
    /// A text is no UTF-8.
    #[error("proto: a string field contains invalid UTF-8")]
    Text,
    /// Messages nest too deep.
    #[error("proto: nested deeper than {DEPTH_MAX} messages")]
    Depth,
    /// The kind is none that this server knows.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind {
        /// Its version.
        api_version: String,
        /// Its name.
        kind: String,
    },
}

/// Reads a body.
pub fn decode(bytes: &[u8]) -> Result<Parsed, Status> {
    let value = read(bytes).map_err(|error| Status::bad_request(format!("error decoding protobuf: {error}")))?;
    Ok(Parsed {
        value,
        duplicate_fields: Vec::new(),
    })
}

fn read(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let unknown = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Reader::new(unknown) {
        match field? {
            (1, Wire::Bytes(meta)) => {
                for field in Reader::new(meta) {
                    match field? {
                        (1, Wire::Bytes(bytes)) => api_version = text(bytes)?,
                        (2, Wire::Bytes(bytes)) => kind = text(bytes)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let Some(definition) = definition_of(&api_version, &kind) else {
        return Err(ProtobufError::UnknownKind { api_version, kind });
    };
    let mut members = Decoder {
        schemas: Schemas::built_in(),
    }
    .message(definition, raw, 0)?;
    members.insert("apiVersion".to_owned(), api_version.into());
    members.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(members))
}

/// The type of an envelope: a kind of the table, or one of the few bodies that are no kinds.
fn definition_of(api_version: &str, kind: &str) -> Option<&'static Definition> {
    let name = match kinds::find_by_kind(api_version, kind) {
        // A definition's schemas hold alternatives of which protobuf makes messages that JSON does not have.
        Some(row) if row.group == "apiextensions.k8s.io" => return None,
        Some(row) => row.definition,
        None => match (api_version, kind) {
            ("v1", "Binding") => "io.k8s.api.core.v1.Binding",
            ("authentication.k8s.io/v1", "TokenRequest") => "io.k8s.api.authentication.v1.TokenRequest",
            ("policy/v1", "Eviction") => "io.k8s.api.policy.v1.Eviction",
            ("autoscaling/v1", "Scale") => "io.k8s.api.autoscaling.v1.Scale",
            // Clients send it in the version of what they delete.
            (_, "DeleteOptions") => "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
            _ => return None,
        },
    };
    // A kind that is younger than the table of numbers cannot be read.
    numbers::message(name)?;
    Schemas::built_in().definition(name)
}

fn text(bytes: &[u8]) -> Result<String, ProtobufError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::Text)
}

struct Decoder {
    schemas: &'static Schemas,
}

impl Decoder {
    fn message(
        &self,
        definition: &'static Definition,
        bytes: &[u8],
        depth: usize,
    ) -> Result<Map<String, Value>, ProtobufError> {
        let mut members = Map::new();
        if let Some(message) = numbers::message(definition.name) {
            self.fields(definition, message, bytes, depth, &mut members)?;
        }
        // Go writes the zero value of a field that is no pointer; its JSON leaves it out.
        members.retain(|name, value| {
            let required = definition.field(name).is_some_and(|field| field.required);
            let scalar = !(value.is_object() || value.is_array());
            required || !(scalar && is_zero(value)) || numbers::is_pointer(definition.name, name)
        });
        Ok(members)
    }

    /// Reads the fields of one message into the members of a structure, also from messages that stand inlined in it.
    fn fields(
        &self,
        definition: &'static Definition,
        message: &'static Message,
        bytes: &[u8],
        depth: usize,
        members: &mut Map<String, Value>,
    ) -> Result<(), ProtobufError> {
        if depth > DEPTH_MAX {
            return Err(ProtobufError::Depth);
        }
        for field in Reader::new(bytes) {
            let (number, value) = field?;
            match message.target(number) {
                None => {}
                Some(Target::Inlined(name)) => {
                    if let (Some(inlined), Wire::Bytes(bytes)) = (numbers::message(name), value) {
                        self.fields(definition, inlined, bytes, depth + 1, members)?;
                    }
                }
                Some(Target::Field(name)) => {
                    let Some(field) = definition
                        .fields
                        .iter()
                        .find(|field| numbers::is_named(&field.name, name))
                    else {
                        continue;
                    };
                    self.field(&field.name, &field.shape, value, depth, members)?;
                }
            }
        }
        Ok(())
    }

    fn field(
        &self,
        name: &str,
        shape: &'static Shape,
        value: Wire<'_>,
        depth: usize,
        members: &mut Map<String, Value>,
    ) -> Result<(), ProtobufError> {
        match (shape, value) {
            (Shape::List(list), value) => {
                let slot = members.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                let Some(items) = slot.as_array_mut() else {
                    return Ok(());
                };
                match (&list.item, value) {
                    // Numbers may come packed.
                    (Shape::Int32 | Shape::Int64, Wire::Bytes(bytes)) => {
                        let mut rest = bytes;
                        while !rest.is_empty() {
                            items.push(wire::varint(&mut rest)?.cast_signed().into());
                        }
                    }
                    (item, value) => items.extend(self.value(item, value, depth)?),
                }
            }
            (Shape::Map(map), Wire::Bytes(bytes)) => {
                let (mut key, mut entry) = (String::new(), None);
                for field in Reader::new(bytes) {
                    match field? {
                        (1, Wire::Bytes(bytes)) => key = text(bytes)?,
                        (2, value) => entry = self.value(&map.value, value, depth)?,
                        _ => {}
                    }
                }
                let slot = members.entry(name).or_insert_with(|| Value::Object(Map::new()));
                if let Some(entries) = slot.as_object_mut() {
                    entries.insert(key, entry.unwrap_or_else(|| "".into()));
                }
            }
            (shape, value) => {
                if let Some(value) = self.value(shape, value, depth)? {
                    members.insert(name.to_owned(), value);
                }
            }
        }
        Ok(())
    }

    /// One value; `None` for what stands for an absent one, such as an empty instant.
    fn value(&self, shape: &'static Shape, value: Wire<'_>, depth: usize) -> Result<Option<Value>, ProtobufError> {
        Ok(match (shape, value) {
            (Shape::Text, Wire::Bytes(bytes)) => Some(text(bytes)?.into()),
            (Shape::Bytes, Wire::Bytes(bytes)) => Some(STANDARD.encode(bytes).into()),
            (Shape::Int32 | Shape::Int64, Wire::Varint(number)) => Some(number.cast_signed().into()),
            (Shape::Boolean, Wire::Varint(number)) => Some((number != 0).into()),
            (Shape::Number, Wire::Fixed64(bits)) => Some(f64::from_bits(bits).into()),
            (Shape::Quantity, Wire::Bytes(bytes)) => first_text(bytes)?.map(Value::from),
            (Shape::IntOrString, Wire::Bytes(bytes)) => Some(int_or_string(bytes)?),
            (Shape::Time, Wire::Bytes(bytes)) => instant(bytes, false)?.map(Value::from),
            (Shape::MicroTime, Wire::Bytes(bytes)) => instant(bytes, true)?.map(Value::from),
            (Shape::Any, Wire::Bytes(bytes)) => raw(bytes)?,
            (Shape::Struct(name), Wire::Bytes(bytes)) => match self.schemas.definition(name) {
                Some(definition) => Some(Value::Object(self.message(definition, bytes, depth + 1)?)),
                None => None,
            },
            _ => None,
        })
    }
}

/// The text in field 1: a quantity.
fn first_text(bytes: &[u8]) -> Result<Option<String>, ProtobufError> {
    for field in Reader::new(bytes) {
        if let (1, Wire::Bytes(bytes)) = field? {
            return text(bytes).map(Some);
        }
    }
    Ok(None)
}

/// JSON in field 1: a raw extension, a set of fields.
fn raw(bytes: &[u8]) -> Result<Option<Value>, ProtobufError> {
    for field in Reader::new(bytes) {
        if let (1, Wire::Bytes(bytes)) = field? {
            return Ok(serde_json::from_slice(bytes).ok());
        }
    }
    Ok(None)
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let (mut is_text, mut number, mut string) = (false, 0, String::new());
    for field in Reader::new(bytes) {
        match field? {
            (1, Wire::Varint(kind)) => is_text = kind == 1,
            (2, Wire::Varint(value)) => number = value.cast_signed(),
            (3, Wire::Bytes(bytes)) => string = text(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text { string.into() } else { number.into() })
}

/// Seconds and nanoseconds since 1970. An empty message is no instant.
fn instant(bytes: &[u8], micros: bool) -> Result<Option<String>, ProtobufError> {
    let (mut seconds, mut nanos) = (0i64, 0i64);
    for field in Reader::new(bytes) {
        match field? {
            (1, Wire::Varint(value)) => seconds = value.cast_signed(),
            (2, Wire::Varint(value)) => nanos = value.cast_signed(),
            _ => {}
        }
    }
    // The zero time of Go lies before 1970.
    if bytes.is_empty() || seconds < 0 {
        return Ok(None);
    }
    let millis = seconds.unsigned_abs().saturating_mul(1000).min(crate::time::MILLIS_MAX);
    let instant = protocol::UnixMillis(millis.saturating_add(nanos.clamp(0, 999_999_999).unsigned_abs() / 1_000_000));
    if !micros {
        return Ok(Some(instant.rfc3339()));
    }
    let whole = instant.rfc3339();
    let micros = nanos.clamp(0, 999_999_999) / 1000;
    Ok(Some(format!("{}.{micros:06}Z", whole.trim_end_matches('Z'))))
}
