//! A custom resource's schema, read once from its definition into a tree: types, structure and constraints side by side, with
//! patterns and rules compiled. What the tree means for objects is in the neighbours (`prune`, `fill`, `validate`, `cel`).
//!
//! Reading never fails: what `structural` would refuse is read as if it were not there, because a definition that is stored
//! already must be served.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use crate::access::Access;

/// A node of a schema.
#[derive(Debug, Default)]
pub struct Schema {
    /// `type`.
    pub of: SchemaType,
    /// `properties`.
    pub properties: BTreeMap<String, Schema>,
    /// `additionalProperties`.
    pub additional: Additional,
    /// `items`.
    pub items: Option<Box<Schema>>,
    /// `nullable`.
    pub nullable: bool,
    /// `default`.
    pub default: Option<Value>,
    /// `x-kubernetes-int-or-string`.
    pub int_or_string: bool,
    /// `x-kubernetes-preserve-unknown-fields`.
    pub preserve_unknown: bool,
    /// `x-kubernetes-embedded-resource`.
    pub embedded: bool,
    /// `x-kubernetes-list-type`.
    pub list: ListKind,
    /// `x-kubernetes-map-type: atomic`.
    pub atomic: bool,
    /// What values must hold.
    pub checks: Checks,
    /// `x-kubernetes-validations`.
    pub rules: Vec<super::cel::Rule>,
    /// Whether a rule is here or below.
    pub has_rules: bool,
    /// Whether a default is here or below.
    pub has_defaults: bool,
}

/// `type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SchemaType {
    /// None.
    #[default]
    Any,
    /// `object`.
    Object,
    /// `array`.
    Array,
    /// `string`.
    Text,
    /// `integer`.
    Integer,
    /// `number`.
    Number,
    /// `boolean`.
    Boolean,
}

/// `additionalProperties`.
#[derive(Debug, Default)]
pub enum Additional {
    /// It is not there.
    #[default]
    Absent,
    /// `true`: values of any kind.
    Anything,
    /// A schema.
    Of(Box<Schema>),
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    /// `atomic`, which is the default.
    #[default]
    Atomic,
    /// `set`.
    Set,
    /// `map`, with its keys.
    Map(Vec<String>),
}

/// Constraints on values, by the keyword's name.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Checks {
    pub format: String,
    pub pattern: Option<Regex>,
    pub minimum: Option<f64>,
    pub maximum: Option<f64>,
    pub exclusive_minimum: bool,
    pub exclusive_maximum: bool,
    pub multiple_of: Option<f64>,
    pub min_length: Option<u64>,
    pub max_length: Option<u64>,
    pub min_items: Option<u64>,
    pub max_items: Option<u64>,
    pub min_properties: Option<u64>,
    pub max_properties: Option<u64>,
    pub unique_items: bool,
    pub one_of_values: Vec<Value>,
    pub required: Vec<String>,
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Box<Schema>>,
}

impl SchemaType {
    fn read(text: &str) -> SchemaType {
        match text {
            "object" => SchemaType::Object,
            "array" => SchemaType::Array,
            "string" => SchemaType::Text,
            "integer" => SchemaType::Integer,
            "number" => SchemaType::Number,
            "boolean" => SchemaType::Boolean,
            _ => SchemaType::Any,
        }
    }

    /// Its name in a schema; empty for none.
    pub fn name(self) -> &'static str {
        match self {
            SchemaType::Any => "",
            SchemaType::Object => "object",
            SchemaType::Array => "array",
            SchemaType::Text => "string",
            SchemaType::Integer => "integer",
            SchemaType::Number => "number",
            SchemaType::Boolean => "boolean",
        }
    }
}

impl Schema {
    /// Reads a JSONSchemaProps.
    pub fn read(value: &Value) -> Schema {
        let children = |name: &str| value.items(name).iter().map(Schema::read).collect::<Vec<_>>();
        let child = |name: &str| {
            value
                .get(name)
                .filter(|value| value.is_object())
                .map(|value| Box::new(Schema::read(value)))
        };
        let keys = value.items("x-kubernetes-list-map-keys").iter();
        let mut schema = Schema {
            of: SchemaType::read(value.text("type")),
            properties: value
                .members("properties")
                .map(|(name, property)| (name.clone(), Schema::read(property)))
                .collect(),
            additional: match value.get("additionalProperties") {
                Some(Value::Bool(true)) => Additional::Anything,
                Some(inner @ Value::Object(_)) => Additional::Of(Box::new(Schema::read(inner))),
                _ => Additional::Absent,
            },
            items: child("items"),
            nullable: value.flag("nullable"),
            default: value.get("default").filter(|default| !default.is_null()).cloned(),
            int_or_string: value.flag("x-kubernetes-int-or-string"),
            preserve_unknown: value.flag("x-kubernetes-preserve-unknown-fields"),
            embedded: value.flag("x-kubernetes-embedded-resource"),
            list: match value.text("x-kubernetes-list-type") {
                "set" => ListKind::Set,
                "map" => ListKind::Map(keys.filter_map(|key| Some(key.as_str()?.to_owned())).collect()),
                _ => ListKind::Atomic,
            },
            atomic: value.text("x-kubernetes-map-type") == "atomic",
            checks: Checks {
                format: value.text("format").to_owned(),
                pattern: compile_pattern(value.text("pattern")),
                minimum: value.at(&["minimum"]).as_f64(),
                maximum: value.at(&["maximum"]).as_f64(),
                exclusive_minimum: value.flag("exclusiveMinimum"),
                exclusive_maximum: value.flag("exclusiveMaximum"),
                multiple_of: value.at(&["multipleOf"]).as_f64(),
                min_length: value.at(&["minLength"]).as_u64(),
                max_length: value.at(&["maxLength"]).as_u64(),
                min_items: value.at(&["minItems"]).as_u64(),
                max_items: value.at(&["maxItems"]).as_u64(),
                min_properties: value.at(&["minProperties"]).as_u64(),
                max_properties: value.at(&["maxProperties"]).as_u64(),
                unique_items: value.flag("uniqueItems"),
                one_of_values: value.items("enum").to_vec(),
                required: value
                    .items("required")
                    .iter()
                    .filter_map(|name| Some(name.as_str()?.to_owned()))
                    .collect(),
                all_of: children("allOf"),
                any_of: children("anyOf"),
                one_of: children("oneOf"),
                not: child("not"),
            },
            ..Schema::default()
        };
        schema.rules = super::cel::Rule::read_all(&schema, value.items("x-kubernetes-validations"), false);
        schema.sum_up();
        schema
    }

    /// Reads the schema of a whole object.
    pub fn read_root(value: &Value) -> Schema {
        let mut schema = Schema::read(value);
        // Rules at the root see metadata, which no schema spells out.
        schema.rules = super::cel::Rule::read_all(&schema, value.items("x-kubernetes-validations"), true);
        schema
    }

    fn sum_up(&mut self) {
        let below = || {
            let additional = match &self.additional {
                Additional::Of(schema) => Some(&**schema),
                _ => None,
            };
            self.properties.values().chain(self.items.as_deref()).chain(additional)
        };
        let has_rules = !self.rules.is_empty() || below().any(|schema| schema.has_rules);
        let has_defaults = self.default.is_some() || below().any(|schema| schema.has_defaults);
        (self.has_rules, self.has_defaults) = (has_rules, has_defaults);
    }

    /// The schema of a member of an object.
    pub fn member(&self, name: &str) -> Option<&Schema> {
        self.properties.get(name).or(match &self.additional {
            Additional::Of(schema) => Some(schema),
            _ => None,
        })
    }
}

/// What one pattern may take, in bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// Compiles a pattern; `None` for none and for one that is wrong.
pub fn compile_pattern(pattern: &str) -> Option<Regex> {
    if pattern.is_empty() {
        return None;
    }
    regex::RegexBuilder::new(pattern)
        .size_limit(PATTERN_BYTES_MAX)
        .build()
        .ok()
}
