//! The shape of every built-in type, read once from k8s-openapi's own JSON schemas and kept small: names, types and how
//! lists and maps merge. Decoding, strategic merge, server-side apply and the OpenAPI documents all walk these shapes, so
//! a new kind needs nothing but its row in the table of kinds.
//!
//! The schemas with their descriptions are large (megabytes) and are dropped after the reading; `openapi` builds them
//! again for a document that somebody asks for.

use std::collections::HashMap;
use std::sync::OnceLock;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use crate::merge::{self, ListType};

/// The type of one value.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// A JSON string.
    Text,
    /// Base64 text.
    Bytes,
    /// RFC 3339, to the second.
    Time,
    /// RFC 3339, to the microsecond.
    MicroTime,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// Any number.
    Number,
    /// A boolean.
    Boolean,
    /// A number or a text: a port, a percentage.
    IntOrString,
    /// A quantity: a text, or a number that stands for one.
    Quantity,
    /// Any JSON; nothing is known about it.
    Any,
    /// A structure with named fields.
    Struct(&'static str),
    /// Free keys, values of one type.
    Map(Box<MapShape>),
    /// A list.
    List(Box<ListShape>),
}

/// A map with free keys.
#[derive(Clone, Debug, PartialEq)]
pub struct MapShape {
    /// The type of the values.
    pub value: Shape,
    /// Whether appliers own it whole (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
}

/// A list, and how it merges.
#[derive(Clone, Debug, PartialEq)]
pub struct ListShape {
    /// The type of the items.
    pub item: Shape,
    /// How server-side apply merges it.
    pub list_type: ListType,
    /// How a strategic merge patch treats it: by this key when it has one (the empty key for primitive lists that
    /// merge), else it is replaced.
    pub patch_key: Option<&'static str>,
}

/// One field of a structure.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its JSON name.
    pub name: Box<str>,
    /// Its type.
    pub shape: Shape,
    /// Whether the schema demands it.
    pub required: bool,
    /// Whether a strategic merge patch replaces the whole field rather than merging into it.
    pub patch_replace: bool,
}

/// A named structure.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// `io.k8s.api.core.v1.PodSpec`.
    pub name: &'static str,
    /// Its fields by name, sorted.
    pub fields: Vec<Field>,
    /// Whether appliers own it whole (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
}

impl Definition {
    /// The field of this name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let at = self.fields.binary_search_by(|field| (*field.name).cmp(name)).ok()?;
        self.fields.get(at)
    }
}

/// Every definition that a kind of the table reaches.
#[derive(Debug)]
pub struct Schemas {
    definitions: HashMap<&'static str, Definition>,
    /// Where names that are not here are looked up: a custom kind's objects have metadata like any other.
    base: Option<&'static Schemas>,
}

impl Schemas {
    /// The shapes of all kinds of the table, built on first use.
    pub fn built_in() -> &'static Schemas {
        static BUILT_IN: OnceLock<Schemas> = OnceLock::new();
        BUILT_IN.get_or_init(|| {
            let mut generator = generator();
            for kind in crate::kinds::kinds() {
                (kind.schema)(&mut generator);
            }
            generator.subschema_for::<k8s_openapi::api::autoscaling::v1::Scale>();
            generator.subschema_for::<k8s_openapi::api::core::v1::Binding>();
            generator.subschema_for::<k8s_openapi::api::policy::v1::Eviction>();
            generator.subschema_for::<k8s_openapi::api::authentication::v1::TokenRequest>();
            generator.subschema_for::<k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions>();
            Schemas::read(generator.take_definitions(false))
        })
    }

    /// These definitions, beside the built-in ones.
    pub(crate) fn of(definitions: Vec<Definition>) -> Schemas {
        Schemas {
            definitions: definitions.into_iter().map(|of| (of.name, of)).collect(),
            base: Some(Schemas::built_in()),
        }
    }

    /// The names of all definitions.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.definitions.keys().copied()
    }

    /// The definition of this name.
    pub fn definition(&self, name: &str) -> Option<&Definition> {
        let own = self.definitions.get(name);
        own.or_else(|| self.base?.definition(name))
    }

    fn read(definitions: Map<String, Value>) -> Schemas {
        // The names live as long as the process: the table is built once and never dropped.
        let names: HashMap<String, &'static str> = definitions
            .keys()
            .map(|name| (name.clone(), &*Box::leak(name.clone().into_boxed_str())))
            .collect();
        let read = |(name, schema): (&String, &Value)| {
            let name = *names.get(name)?;
            let properties = schema.get("properties").and_then(Value::as_object)?;
            let required: Vec<&str> = required_fields(schema);
            let mut fields: Vec<Field> = properties
                .iter()
                .map(|(field, schema)| Field {
                    name: field.as_str().into(),
                    shape: shape(&names, &definitions, name, field, schema),
                    required: required.contains(&field.as_str()),
                    patch_replace: merge::replaces(name, field),
                })
                .collect();
            fields.sort_by(|a, b| a.name.cmp(&b.name));
            Some((
                name,
                Definition {
                    name,
                    fields,
                    atomic: merge::atomic_struct(name),
                },
            ))
        };
        Schemas {
            definitions: definitions.iter().filter_map(read).collect(),
            base: None,
        }
    }
}

/// A generator that names definitions as Kubernetes' OpenAPI v3 documents do.
pub fn generator() -> SchemaGenerator {
    SchemaSettings::openapi3().into_generator()
}

/// `required` as Kubernetes has it: k8s-openapi demands `metadata` of every kind, the API does not.
pub fn required_fields(schema: &Value) -> Vec<&str> {
    let is_kind = schema.pointer("/properties/apiVersion").is_some();
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    required
        .filter_map(Value::as_str)
        .filter(|name| !(is_kind && *name == "metadata"))
        .collect()
}

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";

fn shape(
    names: &HashMap<String, &'static str>,
    definitions: &Map<String, Value>,
    definition: &str,
    field: &str,
    schema: &Value,
) -> Shape {
    if let Some(target) = reference(schema) {
        return match target {
            QUANTITY => Shape::Quantity,
            INT_OR_STRING => Shape::IntOrString,
            TIME => Shape::Time,
            MICRO_TIME => Shape::MicroTime,
            _ => match (names.get(target), definitions.get(target)) {
                (Some(name), Some(schema)) if schema.get("properties").is_some() => Shape::Struct(name),
                _ => Shape::Any,
            },
        };
    }
    match (
        schema.get("type").and_then(Value::as_str),
        schema.get("format").and_then(Value::as_str),
    ) {
        (Some("string"), Some("byte")) => Shape::Bytes,
        (Some("string"), _) => Shape::Text,
        (Some("integer"), Some("int32")) => Shape::Int32,
        (Some("integer"), _) => Shape::Int64,
        (Some("number"), _) => Shape::Number,
        (Some("boolean"), _) => Shape::Boolean,
        (Some("array"), _) => {
            let item = schema
                .get("items")
                .map_or(Shape::Any, |items| shape(names, definitions, "", "", items));
            let (list_type, patch_key) = merge::list(definition, field, &item);
            Shape::List(Box::new(ListShape {
                item,
                list_type,
                patch_key,
            }))
        }
        (Some("object"), _) => match schema.get("additionalProperties") {
            Some(value) => {
                let value = shape(names, definitions, "", "", value);
                Shape::Map(Box::new(MapShape {
                    value,
                    atomic: merge::atomic_map(definition, field),
                }))
            }
            None => Shape::Any,
        },
        _ if schema.get("x-kubernetes-int-or-string").is_some() => Shape::IntOrString,
        _ => Shape::Any,
    }
}

/// The definition that a schema refers to, directly or, where a description stands beside the reference, in an `allOf`.
fn reference(schema: &Value) -> Option<&str> {
    let direct = schema.get("$ref").and_then(Value::as_str);
    let wrapped = || schema.get("allOf")?.get(0)?.get("$ref")?.as_str();
    direct.or_else(wrapped)?.rsplit('/').next()
}
