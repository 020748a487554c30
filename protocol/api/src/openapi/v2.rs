//! `/openapi/v2`: the v3 documents told in Swagger 2.0, for clients that know no newer form.

use serde_json::{Map, Value, json};

use super::schemas::PREFIX;
use super::{operations, schemas};
use crate::discovery::{KUBERNETES_MAJOR, KUBERNETES_MINOR};
use crate::kinds::Kind;

/// The document.
pub fn document(rows: &[&Kind]) -> Value {
    let mut definitions: Value = schemas::of(rows).into();
    let mut paths: Value = operations::paths(rows).into();
    translate(&mut definitions);
    for (_, item) in paths.as_object_mut().into_iter().flatten() {
        for (name, part) in item.as_object_mut().into_iter().flatten() {
            if name == "parameters" {
                parameters(part);
            } else {
                operation(part);
            }
        }
    }
    translate(&mut paths);
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": format!("v{KUBERNETES_MAJOR}.{KUBERNETES_MINOR}.0")},
        "paths": paths, "definitions": definitions,
    })
}

/// Parameters carry their type themselves.
fn parameters(parameters: &mut Value) {
    for parameter in parameters.as_array_mut().into_iter().flatten() {
        if let Some(Value::Object(schema)) = parameter.as_object_mut().and_then(|members| members.remove("schema")) {
            for (name, value) in schema {
                parameter[name] = value;
            }
        }
    }
}

/// A body is a parameter, and an answer has one schema for all its media types.
fn operation(operation: &mut Value) {
    if let Some(list) = operation.get_mut("parameters") {
        parameters(list);
    }
    let Some(members) = operation.as_object_mut() else {
        return;
    };
    if let Some(body) = members.remove("requestBody") {
        let content = body.get("content").and_then(Value::as_object);
        let consumes: Vec<&String> = content.into_iter().flat_map(Map::keys).collect();
        let schema = content.and_then(|content| content.values().next()?.get("schema").cloned());
        let required = body.get("required").cloned().unwrap_or(false.into());
        let parameter = json!({"name": "body", "in": "body", "required": required, "schema": schema});
        members.insert("consumes".to_owned(), consumes.into_iter().cloned().collect());
        if let Some(list) = members.get_mut("parameters").and_then(Value::as_array_mut) {
            list.push(parameter);
        }
    }
    for (_, response) in members
        .get_mut("responses")
        .and_then(Value::as_object_mut)
        .into_iter()
        .flatten()
    {
        let content = response.as_object_mut().and_then(|members| members.remove("content"));
        let schema = content
            .as_ref()
            .and_then(|content| content.as_object()?.values().next()?.get("schema").cloned());
        if let Some(schema) = schema {
            response["schema"] = schema;
        }
    }
    members.insert("produces".to_owned(), json!(["application/json", "application/yaml"]));
}

/// References lead to `#/definitions/`, stand bare, and alternatives become the type that Swagger can say.
fn translate(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(translate),
        Value::Object(members) => {
            if let Some(target) = members.get("allOf").and_then(|all| all.get(0)?.get("$ref").cloned()) {
                members.remove("allOf");
                members.insert("$ref".to_owned(), target);
            }
            if members.get("oneOf").is_some_and(Value::is_array) {
                members.remove("oneOf");
                members.insert("type".to_owned(), "string".into());
            }
            if let Some(Value::String(target)) = members.get_mut("$ref")
                && let Some(name) = target.strip_prefix(PREFIX)
            {
                *target = format!("#/definitions/{name}");
            }
            members.values_mut().for_each(translate);
        }
        _ => {}
    }
}
