//! Status bodies, word for word: clients match on them.
#![allow(missing_docs)]

mod fixture;

use api::Status;
use fixture::*;
use serde_json::{Value, json};

fn body(status: &Status) -> Value {
    serde_json::from_slice(&status.to_json()).unwrap()
}

#[test]
fn statuses_have_the_codes_reasons_and_words_of_kubernetes() {
    let cases: Vec<(Status, u16, &str, &str)> = vec![
        (
            Status::not_found(pods(), "web"),
            404,
            "NotFound",
            "pods \"web\" not found",
        ),
        (
            Status::not_found(deployments(), "web"),
            404,
            "NotFound",
            "deployments.apps \"web\" not found",
        ),
        (
            Status::no_such_resource(),
            404,
            "NotFound",
            "the server could not find the requested resource",
        ),
        (
            Status::already_exists(deployments(), "web"),
            409,
            "AlreadyExists",
            "deployments.apps \"web\" already exists",
        ),
        (
            Status::modified(deployments(), "web"),
            409,
            "Conflict",
            "Operation cannot be fulfilled on deployments.apps \"web\": the object has been modified; please apply \
             your changes to the latest version and try again",
        ),
        (
            Status::too_old_resource_version(3, 9),
            410,
            "Expired",
            "too old resource version: 3 (9)",
        ),
        (
            Status::forbidden(pods(), "web", "no"),
            403,
            "Forbidden",
            "pods \"web\" is forbidden: no",
        ),
        (
            Status::forbidden(pods(), "", "no"),
            403,
            "Forbidden",
            "pods is forbidden: no",
        ),
        (Status::unauthorized(), 401, "Unauthorized", "Unauthorized"),
        (
            Status::too_large(10),
            413,
            "RequestEntityTooLarge",
            "Request entity too large: limit is 10",
        ),
        (Status::timeout("slow"), 504, "Timeout", "Timeout: slow"),
        (
            Status::internal("oops"),
            500,
            "InternalError",
            "Internal error occurred: oops",
        ),
        (
            Status::method_not_allowed(pods(), "delete"),
            405,
            "MethodNotAllowed",
            "delete is not supported on resources of kind \"pods\"",
        ),
        (
            Status::unsupported_media_type(&["application/json", "application/yaml"]),
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: application/json, \
             application/yaml",
        ),
        (
            Status::not_acceptable(&["application/json"]),
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json",
        ),
    ];
    for (status, code, reason, message) in cases {
        let body = body(&status);
        assert_eq!(
            (body["code"].as_u64(), body["reason"].as_str()),
            (Some(u64::from(code)), Some(reason))
        );
        assert_eq!(body["message"], message);
        assert_eq!(
            (body["kind"].as_str(), body["apiVersion"].as_str()),
            (Some("Status"), Some("v1"))
        );
        assert_eq!(body["status"], "Failure");
    }
}

#[test]
fn details_name_the_resource_and_list_the_causes() {
    assert_eq!(
        body(&Status::not_found(deployments(), "web"))["details"],
        json!({"name": "web", "group": "apps", "kind": "deployments"})
    );
    let mut object = pod();
    object["spec"]["containers"] = json!([]);
    let status = create(pods(), object).unwrap_err();
    assert_eq!(
        body(&status)["details"],
        json!({
            "name": "web", "kind": "Pod",
            "causes": [{"reason": "FieldValueRequired", "message": "Required value", "field": "spec.containers"}],
        })
    );
    assert_eq!(
        body(&Status::too_many_requests("busy", 3))["details"],
        json!({"retryAfterSeconds": 3})
    );
    assert_eq!(body(&Status::unauthorized()).get("details"), None);
}
