//! Everything that reads bytes of others, as functions from bytes to what came of them. The tests run each of them.

mod bodies;
mod expressions;
mod frames;
mod patches;
mod requests;
#[path = "../../../protocol/api/tests/samples/mod.rs"]
mod samples;
mod texts;

use crate::engine::{Outcome, Target};
use api::kinds::{Kind, find_by_kind};
use api::status::Status;
use api::write::{FieldValidation, WriteContext};
use protocol::UnixMillis;
use serde_json::{Value, json};

pub use bodies::{JSON_BODY, PROTOBUF_BODY, YAML_BODY};
pub use expressions::EXPRESSION;
pub use frames::{CHANNEL, MESSAGE, SPDY, STORED_KEY};
pub use patches::PATCH;
pub use requests::{CREDENTIAL, REQUEST};
pub use texts::{FIELD_SELECTOR, LABEL_SELECTOR, QUANTITY, SELECTOR_OBJECT};

/// All of them.
pub const ALL: &[&Target] = &[
    &JSON_BODY,
    &YAML_BODY,
    &PROTOBUF_BODY,
    &PATCH,
    &LABEL_SELECTOR,
    &FIELD_SELECTOR,
    &SELECTOR_OBJECT,
    &QUANTITY,
    &EXPRESSION,
    &REQUEST,
    &CREDENTIAL,
    &MESSAGE,
    &STORED_KEY,
    &SPDY,
    &CHANNEL,
];

/// Words of objects and patches.
const FIELDS: &[&str] = &[
    "apiVersion",
    "kind",
    "metadata",
    "name",
    "generateName",
    "namespace",
    "labels",
    "annotations",
    "finalizers",
    "ownerReferences",
    "managedFields",
    "fieldsV1",
    "f:metadata",
    "uid",
    "resourceVersion",
    "deletionTimestamp",
    "spec",
    "status",
    "containers",
    "initContainers",
    "volumes",
    "ports",
    "containerPort",
    "env",
    "valueFrom",
    "resources",
    "requests",
    "limits",
    "cpu",
    "100m",
    "1Gi",
    "selector",
    "matchLabels",
    "matchExpressions",
    "operator",
    "In",
    "values",
    "replicas",
    "template",
    "strategy",
    "rollingUpdate",
    "maxSurge",
    "25%",
    "clusterIP",
    "v1",
    "apps/v1",
    "Pod",
    "Deployment",
    "Service",
    "List",
    "items",
    "op",
    "path",
    "value",
    "from",
    "add",
    "remove",
    "replace",
    "move",
    "copy",
    "test",
    "/spec/containers/-",
    "/metadata/labels/a~1b",
    "$patch",
    "delete",
    "merge",
    "2026-11-24T14:00:00Z",
    "10.96.0.1",
    "::1/128",
    "k8s.io/a",
];

/// A request's circumstances, the same for every input.
fn context<'a>(duplicate_fields: &'a [String]) -> WriteContext<'a> {
    WriteContext {
        now: UnixMillis(1_767_225_600_000),
        new_uid: "11111111-2222-3333-4444-555555555555",
        random_suffix: "x2b4z",
        field_manager: "fuzz",
        field_validation: FieldValidation::Ignore,
        user: "someone",
        groups: &[],
        duplicate_fields,
        admission: None,
    }
}

/// An object of each kind, whole.
fn objects() -> Vec<Value> {
    let whole = samples::samples().into_iter().map(|sample| {
        let mut object = sample.object;
        object["apiVersion"] = sample.api_version.into();
        object["kind"] = sample.kind.into();
        if object["metadata"].is_null() {
            object["metadata"] = json!({"name": "a"});
        }
        object
    });
    whole.collect()
}

/// The kind that an object names.
fn kind_of(object: &Value) -> Option<&'static Kind> {
    find_by_kind(object["apiVersion"].as_str()?, object["kind"].as_str()?)
}

/// The namespace that an object of a kind lies in.
fn namespace_of(kind: &Kind) -> &'static str {
    if kind.namespaced { "default" } else { "" }
}

/// A refusal must be one that a client understands.
fn refused(status: &Status) -> Outcome {
    let body: Value = serde_json::from_slice(&status.to_json()).expect("a refusal is JSON");
    assert_eq!(body["kind"], "Status");
    assert!(
        (400..500).contains(&status.code),
        "a client's bytes are never the server's fault: {body}"
    );
    // What is wrong where tells refusals apart, whatever the values are.
    let of = |value: &Value| Outcome::of(value.as_str().unwrap_or_default()).0;
    let causes = body["details"]["causes"].as_array().into_iter().flatten();
    let places = causes.map(|cause| {
        let field = cause["field"].as_str().unwrap_or_default();
        Outcome::of(&field.replace(|character: char| !character.is_ascii_lowercase(), " ")).0 ^ of(&cause["reason"])
    });
    Outcome(places.fold(of(&body["message"]) ^ u64::from(status.code), |all, one| {
        all.rotate_left(5) ^ one
    }))
}
