//! What a definition's schema must be: structural (KEP-1693), with Kubernetes' messages for what is not. Judges the JSON of the
//! schema itself, since what is forbidden has no place in the tree that `schema` reads.

use serde_json::Value;

use super::cel::Rule;
use super::prune::prune_part;
use super::schema::{ListKind, Schema, compile_pattern};
use super::validate::validate_part;
use crate::access::Access;
use crate::cause::{Causes, Path};

/// Where a node stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// How deep a schema may nest: every walk along it recurses.
const DEPTH_MAX: usize = 100;

/// Finds what is wrong with a schema.
pub fn check(schema: &Value, path: &Path<'_>, causes: &mut Causes) {
    if depth(schema) > DEPTH_MAX {
        let text = format!("must not nest deeper than {DEPTH_MAX} levels");
        causes.invalid(*path, "", text);
        return;
    }
    let mut found = Causes::default();
    node(schema, Level::Root, path, &mut found);
    defaults_and_rules(schema, &Schema::read_root(schema), true, path, &mut found);
    found
        .0
        .sort_by_key(|cause| (cause.field.clone(), cause.message.clone()));
    causes.0.append(&mut found.0);
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Keywords that no schema of a custom resource may use.
const UNSUPPORTED: [&str; 6] = [
    "id",
    "additionalItems",
    "patternProperties",
    "definitions",
    "dependencies",
    "$ref",
];

/// The types that there are.
const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

fn node(schema: &Value, level: Level, path: &Path<'_>, causes: &mut Causes) {
    keywords(schema, path, causes);
    let of = schema.text("type");
    if of == "array" && !schema.has("items") {
        causes.required(path.field("items"), "must be specified");
    }
    if schema.has("items") {
        node(schema.at(&["items"]), Level::Item, &path.field("items"), causes);
    }
    let properties = path.field("properties");
    for (name, property) in schema.members("properties") {
        node(property, Level::Field, &properties.key(name), causes);
    }
    let additional = schema.at(&["additionalProperties"]);
    if !additional.is_null() {
        let at = path.field("additionalProperties");
        if level == Level::Root {
            causes.forbidden(at, "must not be used at the root");
        }
        if additional.is_object() {
            node(additional, Level::Field, &at, causes);
        }
    }
    extensions(schema, level, path, causes);
    let skip_any = is_int_or_string(schema);
    let skip_first = schema.items("allOf").first().is_some_and(is_int_or_string);
    junctors(schema, skip_any, skip_first, path, causes);
    lists(schema, path, causes);
    metadata(schema, level, path, causes);
}

fn keywords(schema: &Value, path: &Path<'_>, causes: &mut Causes) {
    for name in UNSUPPORTED.iter().filter(|name| schema.has(name)) {
        causes.forbidden(path.field(name), format!("{name} is not supported"));
    }
    let of = schema.text("type");
    if of == "null" {
        causes.forbidden(
            path.field("type"),
            "type cannot be set to null, use nullable as an alternative",
        );
    } else if !of.is_empty() && !TYPES.contains(&of) {
        causes.not_supported(path.field("type"), of, &TYPES);
    }
    if schema.at(&["items"]).is_array() {
        causes.forbidden(path.field("items"), "items must be a schema object and not an array");
    }
    if schema.flag("uniqueItems") {
        let text = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        causes.forbidden(path.field("uniqueItems"), text);
    }
    let additional = schema.at(&["additionalProperties"]);
    if schema.members("properties").next().is_some() && !additional.is_null() && additional != &Value::Bool(true) {
        let text = "additionalProperties and properties are mutual exclusive";
        causes.forbidden(path.field("additionalProperties"), text);
    }
    let pattern = schema.text("pattern");
    if !pattern.is_empty() && compile_pattern(pattern).is_none() {
        let text = format!("must be a valid regular expression, but isn't: error parsing regexp: `{pattern}`");
        causes.invalid(path.field("pattern"), pattern, text);
    }
}

fn is_int_or_string(schema: &Value) -> bool {
    let types: Vec<&str> = schema.items("anyOf").iter().map(|one| one.text("type")).collect();
    types == ["integer", "string"]
}

fn extensions(schema: &Value, level: Level, path: &Path<'_>, causes: &mut Causes) {
    let (of, at) = (schema.text("type"), path.field("type"));
    let int_or_string = schema.flag("x-kubernetes-int-or-string");
    let preserve = schema.flag("x-kubernetes-preserve-unknown-fields");
    let embedded = schema.flag("x-kubernetes-embedded-resource");
    if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        let text = "must be true or undefined";
        causes.invalid(path.field("x-kubernetes-preserve-unknown-fields"), false, text);
    }
    for (name, set) in [
        ("x-kubernetes-preserve-unknown-fields", preserve),
        ("x-kubernetes-embedded-resource", embedded),
    ] {
        if int_or_string && set {
            causes.invalid(
                path.field(name),
                true,
                "must be false if x-kubernetes-int-or-string is true",
            );
        }
    }
    if embedded && of != "object" {
        let text = "must be object if x-kubernetes-embedded-resource is true";
        match of {
            "" => causes.required(at, text),
            of => causes.invalid(at, of, text),
        }
    } else if of.is_empty() && !int_or_string && !preserve {
        causes.required(
            at,
            match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            },
        );
    }
    if int_or_string && !of.is_empty() {
        causes.invalid(at, of, "must be empty if x-kubernetes-int-or-string is true");
    }
    if embedded && schema.has("additionalProperties") {
        let text = "must not be used if x-kubernetes-embedded-resource is set";
        causes.forbidden(path.field("additionalProperties"), text);
    }
    if level == Level::Root && !of.is_empty() && of != "object" {
        causes.invalid(at, of, "must be object at the root");
    }
    if embedded && !preserve && schema.members("properties").next().is_none() {
        let text =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        causes.required(path.field("properties"), text);
    }
}

/// `allOf`, `anyOf`, `oneOf` and `not` constrain values; they define nothing.
fn junctors(schema: &Value, skip_any: bool, skip_first_all: bool, path: &Path<'_>, causes: &mut Causes) {
    for name in ["anyOf", "allOf", "oneOf"] {
        let list = path.field(name);
        for (index, inner) in schema.items(name).iter().enumerate() {
            let inner_skips = name == "allOf" && index == 0 && skip_first_all;
            if !(name == "anyOf" && skip_any) {
                nested(inner, inner_skips, &list.index(index), causes);
            }
        }
    }
    if schema.has("not") {
        nested(schema.at(&["not"]), false, &path.field("not"), causes);
    }
}

/// What a schema inside of a junctor may not say, with the words for it.
const FORBIDDEN_INSIDE: [(&str, &str); 14] = [
    ("type", "must be empty to be structural"),
    ("additionalProperties", "must be undefined to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("externalDocs", "must be undefined to be structural"),
    ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
    ("x-kubernetes-validations", "must be empty to be structural"),
];

fn nested(schema: &Value, skip_any: bool, path: &Path<'_>, causes: &mut Causes) {
    keywords(schema, path, causes);
    for (name, text) in FORBIDDEN_INSIDE {
        if schema.get(name).is_some_and(|value| !crate::access::is_zero(value)) {
            causes.forbidden(path.field(name), text);
        }
    }
    junctors(schema, skip_any, false, path, causes);
    if schema.has("items") {
        nested(schema.at(&["items"]), false, &path.field("items"), causes);
    }
    let properties = path.field("properties");
    for (name, property) in schema.members("properties") {
        let at = properties.key(name);
        if name == "metadata" {
            causes.forbidden(at, "must not be specified in a nested context");
        }
        nested(property, false, &at, causes);
    }
}

/// List and map types must fit what they stand at.
fn lists(schema: &Value, path: &Path<'_>, causes: &mut Causes) {
    let of = schema.text("type");
    let (list, map) = (
        schema.text("x-kubernetes-list-type"),
        schema.text("x-kubernetes-map-type"),
    );
    let at = path.field("x-kubernetes-list-type");
    if !list.is_empty() && of != "array" {
        match of {
            "" => causes.required(
                path.field("type"),
                "must be array if x-kubernetes-list-type is specified",
            ),
            of => causes.invalid(
                path.field("type"),
                of,
                "must be array if x-kubernetes-list-type is specified",
            ),
        }
    }
    if !matches!(list, "" | "atomic" | "set" | "map") {
        causes.not_supported(at, list, &["atomic", "map", "set"]);
    }
    let keys = schema.items("x-kubernetes-list-map-keys");
    let keys_at = path.field("x-kubernetes-list-map-keys");
    if list == "map" {
        if keys.is_empty() {
            causes.required(keys_at, "must not be empty if x-kubernetes-list-type is map");
        }
        let items = schema.at(&["items"]);
        if items.text("type") != "object" {
            let (inner, text) = (
                path.field("items"),
                "must be object if parent array's x-kubernetes-list-type is map",
            );
            causes.invalid(inner.field("type"), items.text("type"), text);
        }
        let required = items.items("required");
        for (index, key) in keys.iter().enumerate() {
            let name = key.as_str().unwrap_or_default();
            let property = items.at(&["properties", name]);
            let inner = path.field("items");
            let properties = inner.field("properties");
            if property.is_null() {
                let text = "entries must all be names of item properties";
                causes.invalid(keys_at.index(index), name, text);
                continue;
            }
            if matches!(property.text("type"), "array" | "object") {
                let text = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                let at = properties.key(name);
                causes.invalid(at.field("type"), property.text("type"), text);
            }
            if !required.contains(key) && !property.has("default") {
                let text = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                let at = properties.key(name);
                causes.required(at.field("default"), text);
            }
        }
    } else if !keys.is_empty() {
        match list {
            "" => causes.required(at, "must be map if x-kubernetes-list-map-keys is non-empty"),
            list => causes.invalid(at, list, "must be map if x-kubernetes-list-map-keys is non-empty"),
        }
    }
    if !map.is_empty() && of != "object" {
        match of {
            "" => causes.required(
                path.field("type"),
                "must be object if x-kubernetes-map-type is specified",
            ),
            of => causes.invalid(
                path.field("type"),
                of,
                "must be object if x-kubernetes-map-type is specified",
            ),
        }
    }
    if !matches!(map, "" | "atomic" | "granular") {
        causes.not_supported(path.field("x-kubernetes-map-type"), map, &["atomic", "granular"]);
    }
}

/// What an object says of itself is fixed: a schema may constrain the name alone.
fn metadata(schema: &Value, level: Level, path: &Path<'_>, causes: &mut Causes) {
    let is_resource = level == Level::Root || schema.flag("x-kubernetes-embedded-resource");
    let properties = path.field("properties");
    for name in ["kind", "apiVersion"] {
        let property = schema.at(&["properties", name]);
        if is_resource && property.is_object() && property.text("type") != "string" {
            let at = properties.key(name);
            causes.invalid(at.field("type"), property.text("type"), "must be string");
        }
    }
    let metadata = schema.at(&["properties", "metadata"]);
    if !metadata.is_object() {
        return;
    }
    let at = properties.key("metadata");
    if is_resource && metadata.text("type") != "object" {
        causes.invalid(at.field("type"), metadata.text("type"), "must be object");
    }
    let other_members = metadata
        .members("properties")
        .any(|(name, _)| !matches!(name.as_str(), "name" | "generateName"));
    let other_keywords = metadata.as_object().into_iter().flatten().any(|(name, value)| {
        !matches!(name.as_str(), "type" | "properties" | "description" | "default") && !crate::access::is_zero(value)
    });
    if level == Level::Root && (other_members || other_keywords) {
        let text = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        causes.forbidden(at, text);
    }
}

/// Defaults must be valid by their own schema, and rules must compile.
fn defaults_and_rules(value: &Value, schema: &Schema, is_root: bool, path: &Path<'_>, causes: &mut Causes) {
    if let Some(default) = &schema.default {
        let at = path.field("default");
        if is_root {
            causes.forbidden(at, "must not be set at the root");
        }
        let (mut pruned, mut unknown) = (default.clone(), Vec::new());
        prune_part(schema, &mut pruned, &mut unknown);
        if !unknown.is_empty() {
            causes.invalid(at, default.clone(), "must not have unknown fields");
        } else {
            validate_part(schema, default, &at, causes);
        }
    }
    let rules = path.field("x-kubernetes-validations");
    for (index, rule) in value.items("x-kubernetes-validations").iter().enumerate() {
        check_rule(rule, schema, is_root, &rules.index(index), causes);
    }
    let properties = path.field("properties");
    for (name, property) in value.members("properties") {
        if let Some(inner) = schema.properties.get(name) {
            defaults_and_rules(property, inner, false, &properties.key(name), causes);
        }
    }
    if let Some(inner) = schema.items.as_deref() {
        defaults_and_rules(value.at(&["items"]), inner, false, &path.field("items"), causes);
    }
    if let super::schema::Additional::Of(inner) = &schema.additional {
        let at = path.field("additionalProperties");
        defaults_and_rules(value.at(&["additionalProperties"]), inner, false, &at, causes);
    }
    if let (ListKind::Set, Some(items)) = (&schema.list, schema.items.as_deref())
        && items.of == super::schema::SchemaType::Object
        && !items.atomic
    {
        let (inner, text) = (
            path.field("items"),
            "must be atomic as item of a list with x-kubernetes-list-type=set",
        );
        causes.invalid(inner.field("x-kubernetes-map-type"), Value::Null, text);
    }
}

/// Reasons that a rule may give.
const REASONS: [&str; 4] = [
    "FieldValueDuplicate",
    "FieldValueForbidden",
    "FieldValueInvalid",
    "FieldValueRequired",
];

fn check_rule(rule: &Value, schema: &Schema, is_root: bool, path: &Path<'_>, causes: &mut Causes) {
    if rule.text("rule").trim().is_empty() {
        causes.required(path.field("rule"), "rule is not specified");
        return;
    }
    let message = rule.text("message");
    if rule.has("message") && message.trim().is_empty() {
        causes.invalid(path.field("message"), message, "message must be non-empty if specified");
    } else if message.trim().contains('\n') {
        causes.invalid(path.field("message"), message, "message must not contain line breaks");
    }
    if message.is_empty() && rule.text("rule").trim().contains('\n') {
        let text = "message must be specified if rule contains line breaks";
        causes.required(path.field("message"), text);
    }
    let reason = rule.text("reason");
    if !reason.is_empty() && !REASONS.contains(&reason) {
        causes.not_supported(path.field("reason"), reason, &REASONS);
    }
    let field_path = rule.text("fieldPath");
    if !field_path.is_empty() {
        let mut at = Some(schema);
        for name in field_path.trim_start_matches('.').split('.') {
            at = at.and_then(|schema| schema.member(name));
        }
        if !field_path.starts_with('.') && !field_path.starts_with('[') {
            let text = format!("fieldPath must be a valid path: expected [ or . but got: {field_path}");
            causes.invalid(path.field("fieldPath"), field_path, text);
        } else if at.is_none() {
            let text = "fieldPath must be a valid path: does not refer to a valid field";
            causes.invalid(path.field("fieldPath"), field_path, text);
        }
    }
    for problem in Rule::problems(rule, schema, is_root) {
        causes.invalid(path.field(problem.field), rule.clone(), problem.text);
    }
}
