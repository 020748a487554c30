//! The schemas of a document: k8s-openapi's, brought into the form in which Kubernetes publishes them, with the markers
//! that k8s-openapi leaves out.

use serde_json::{Map, Value, json};

use crate::kinds::Kind;
use crate::merge::{self, ListType};
use crate::schema::{self, Shape};

const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
/// Where references lead in a v3 document.
pub const PREFIX: &str = "#/components/schemas/";

/// All schemas that these kinds reach.
pub fn of(rows: &[&Kind]) -> Map<String, Value> {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1;
    let mut generator = schema::generator();
    for kind in rows {
        (kind.schema)(&mut generator);
        for subresource in kind.subresources {
            match subresource.body(kind).2 {
                "Scale" => {
                    generator.subschema_for::<k8s_openapi::api::autoscaling::v1::Scale>();
                }
                "Binding" => {
                    generator.subschema_for::<k8s_openapi::api::core::v1::Binding>();
                }
                "Eviction" => {
                    generator.subschema_for::<k8s_openapi::api::policy::v1::Eviction>();
                }
                _ => {}
            }
        }
    }
    generator.subschema_for::<v1::DeleteOptions>();
    generator.subschema_for::<v1::Status>();
    generator.subschema_for::<v1::ListMeta>();
    generator.subschema_for::<v1::Patch>();
    let mut schemas = generator.take_definitions(false);
    for (name, schema) in &mut schemas {
        publish(name, schema);
    }
    if rows.iter().any(|kind| kind.custom.is_some()) {
        let mut generator = schema::generator();
        generator.subschema_for::<v1::ObjectMeta>();
        for (name, mut schema) in generator.take_definitions(false) {
            publish(&name, &mut schema);
            schemas.entry(name).or_insert(schema);
        }
    }
    for kind in rows {
        if let Some(custom) = kind.definition_now() {
            let schema = crate::custom::published_schema(kind, &custom, PREFIX);
            schemas.insert(kind.definition.to_owned(), schema);
        }
        if let Some(schema) = schemas.get_mut(kind.definition) {
            name_kind(schema, kind.group, kind.version, kind.kind);
        }
        if kind.offers("list") {
            schemas.insert(list_name(kind), list(kind));
        }
    }
    for (name, group, kind) in [
        ("io.k8s.api.autoscaling.v1.Scale", "autoscaling", "Scale"),
        ("io.k8s.api.core.v1.Binding", "", "Binding"),
        ("io.k8s.api.policy.v1.Eviction", "policy", "Eviction"),
        ("io.k8s.apimachinery.pkg.apis.meta.v1.Status", "", "Status"),
        (
            "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
            "",
            "DeleteOptions",
        ),
    ] {
        if let Some(schema) = schemas.get_mut(name) {
            name_kind(schema, group, "v1", kind);
        }
    }
    schemas
}

/// `io.k8s.api.core.v1.PodList`.
pub fn list_name(kind: &Kind) -> String {
    let package = kind.definition.rsplit_once('.').map_or("", |(package, _)| package);
    format!("{package}.{}", kind.list_kind)
}

fn list(kind: &Kind) -> Value {
    let text = |description: &str| json!({"description": description, "type": "string"});
    let mut schema = json!({
        "description": format!("{} is a list of {} objects.", kind.list_kind, kind.kind),
        "type": "object",
        "properties": {
            "apiVersion": text("APIVersion defines the versioned schema of this representation of an object."),
            "items": {
                "description": "The objects.", "type": "array",
                "items": {"allOf": [{"$ref": format!("{PREFIX}{}", kind.definition)}], "default": {}},
            },
            "kind": text("Kind is a string value representing the REST resource this object represents."),
            "metadata": {
                "allOf": [{"$ref": format!("{PREFIX}{LIST_META}")}], "default": {},
                "description": "Standard list metadata.",
            },
        },
        "required": ["items"],
    });
    name_kind(&mut schema, kind.group, kind.version, kind.list_kind);
    schema
}

fn name_kind(schema: &mut Value, group: &str, version: &str, kind: &str) {
    schema["x-kubernetes-group-version-kind"] = json!([{"group": group, "version": version, "kind": kind}]);
}

/// Brings one schema into the published form.
fn publish(name: &str, schema: &mut Value) {
    let description = schema.get("description").cloned();
    if name.ends_with(".api.resource.Quantity") {
        *schema = json!({"oneOf": [{"type": "string"}, {"type": "number"}]});
    } else if name.ends_with(".util.intstr.IntOrString") {
        *schema = json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]});
    }
    if let Some(description) = description {
        schema["description"] = description;
    }
    let required: Vec<String> = schema::required_fields(schema).into_iter().map(str::to_owned).collect();
    if let Some(members) = schema.as_object_mut() {
        members.remove("required");
        if !required.is_empty() {
            members.insert("required".to_owned(), required.into());
        }
    }
    if merge::atomic_struct(name) {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    for (field, property) in schema
        .get_mut("properties")
        .and_then(Value::as_object_mut)
        .into_iter()
        .flatten()
    {
        wrap_references(property);
        mark(name, field, property);
    }
    for place in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(place) {
            wrap_references(inner);
        }
    }
}

/// OpenAPI 3.0 ignores whatever stands beside a `$ref`, so a reference with a description becomes an `allOf`.
fn wrap_references(schema: &mut Value) {
    let Some(members) = schema.as_object_mut() else { return };
    if members.len() > 1
        && let Some(target) = members.remove("$ref")
    {
        members.insert("allOf".to_owned(), json!([{"$ref": target}]));
    }
    for place in ["items", "additionalProperties"] {
        if let Some(inner) = members.get_mut(place) {
            wrap_references(inner);
        }
    }
}

/// Adds the markers of list types, merge keys and patch strategies.
fn mark(definition: &str, field: &str, property: &mut Value) {
    let retains = merge::retains_keys(definition, field);
    match property.get("type").and_then(Value::as_str) {
        Some("array") => {
            let target = property
                .pointer("/items/$ref")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let condition = "io.k8s.apimachinery.pkg.apis.meta.v1.Condition";
            let item = if target.ends_with(condition) {
                Shape::Struct(condition)
            } else {
                Shape::Any
            };
            let (list_type, patch_key) = merge::list(definition, field, &item);
            match list_type {
                ListType::Atomic => property["x-kubernetes-list-type"] = "atomic".into(),
                ListType::Set => property["x-kubernetes-list-type"] = "set".into(),
                ListType::Map(keys) => {
                    property["x-kubernetes-list-type"] = "map".into();
                    property["x-kubernetes-list-map-keys"] = keys.iter().map(|(key, _)| *key).collect();
                }
            }
            if let Some(key) = patch_key {
                let strategy = if retains { "merge,retainKeys" } else { "merge" };
                property["x-kubernetes-patch-strategy"] = strategy.into();
                if !key.is_empty() {
                    property["x-kubernetes-patch-merge-key"] = key.into();
                }
            }
        }
        Some("object") if merge::atomic_map(definition, field) => {
            property["x-kubernetes-map-type"] = "atomic".into();
        }
        _ if retains => property["x-kubernetes-patch-strategy"] = "retainKeys".into(),
        _ if merge::replaces(definition, field) => property["x-kubernetes-patch-strategy"] = "replace".into(),
        _ => {}
    }
}
