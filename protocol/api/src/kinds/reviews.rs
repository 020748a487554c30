//! Questions and orders that are stored nowhere: the reviews of authentication.k8s.io and authorization.k8s.io, and core/v1
//! Binding posted to its collection. Rows and validation; whoever knows who is who answers them.

use serde_json::Value;

use super::Kind;
use super::checks::{Rule, check};
use crate::access::Access;
use crate::cause::{Causes, Path};

/// What a virtual kind starts from.
const CREATE_ONLY: &[&str] = &["create"];

pub const BINDING: Kind = Kind {
    verbs: CREATE_ONLY,
    is_virtual: true,
    validate: |object, causes| {
        let root = Path::Root;
        let path = root.field("target");
        let target = object.at(&["target"]);
        if !matches!(target.text("kind"), "" | "Node") {
            causes.not_supported(path.field("kind"), target.text("kind"), &["Node", "<empty>"]);
        }
        check(target, &path, &[("name", Rule::Required)], causes);
    },
    ..row!("", v1, core, Binding, "bindings", "binding")
};

pub const SELF_SUBJECT_REVIEW: Kind = Kind {
    namespaced: false,
    verbs: CREATE_ONLY,
    is_virtual: true,
    ..row!(
        "authentication.k8s.io",
        v1,
        authentication,
        SelfSubjectReview,
        "selfsubjectreviews",
        "selfsubjectreview"
    )
};

pub const TOKEN_REVIEW: Kind = Kind {
    namespaced: false,
    verbs: CREATE_ONLY,
    is_virtual: true,
    ..row!(
        "authentication.k8s.io",
        v1,
        authentication,
        TokenReview,
        "tokenreviews",
        "tokenreview"
    )
};

pub const SUBJECT_ACCESS_REVIEW: Kind = Kind {
    namespaced: false,
    verbs: CREATE_ONLY,
    is_virtual: true,
    validate: subject_review,
    ..row!(
        "authorization.k8s.io",
        v1,
        authorization,
        SubjectAccessReview,
        "subjectaccessreviews",
        "subjectaccessreview"
    )
};

pub const LOCAL_SUBJECT_ACCESS_REVIEW: Kind = Kind {
    verbs: CREATE_ONLY,
    is_virtual: true,
    validate: |object, causes| {
        subject_review(object, causes);
        let root = Path::Root;
        let path = root.field("spec");
        let attributes = path.field("resourceAttributes");
        let asked = object.at(&["spec", "resourceAttributes"]);
        let namespace = object.at(&["metadata"]).text("namespace");
        if asked.text("namespace") != namespace {
            let text = "must match metadata.namespace";
            causes.invalid(attributes.field("namespace"), asked.text("namespace"), text);
        }
        if object.at(&["spec"]).has("nonResourceAttributes") {
            let value = object.at(&["spec", "nonResourceAttributes"]).clone();
            let text = "disallowed on this kind of request";
            causes.invalid(path.field("nonResourceAttributes"), value, text);
        }
    },
    ..row!(
        "authorization.k8s.io",
        v1,
        authorization,
        LocalSubjectAccessReview,
        "localsubjectaccessreviews",
        "localsubjectaccessreview"
    )
};

pub const SELF_SUBJECT_ACCESS_REVIEW: Kind = Kind {
    namespaced: false,
    verbs: CREATE_ONLY,
    is_virtual: true,
    validate: |object, causes| {
        attributes(object.at(&["spec"]), causes);
    },
    ..row!(
        "authorization.k8s.io",
        v1,
        authorization,
        SelfSubjectAccessReview,
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview"
    )
};

pub const SELF_SUBJECT_RULES_REVIEW: Kind = Kind {
    namespaced: false,
    verbs: CREATE_ONLY,
    is_virtual: true,
    ..row!(
        "authorization.k8s.io",
        v1,
        authorization,
        SelfSubjectRulesReview,
        "selfsubjectrulesreviews",
        "selfsubjectrulesreview"
    )
};

fn subject_review(object: &Value, causes: &mut Causes) {
    let spec = object.at(&["spec"]);
    attributes(spec, causes);
    if spec.text("user").is_empty() && spec.items("groups").is_empty() {
        let root = Path::Root;
        let path = root.field("spec");
        causes.required(path.field("user"), "at least one of user or group must be specified");
    }
}

/// A question is about a resource or about a path, and not about both.
fn attributes(spec: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let (resource, other) = (spec.has("resourceAttributes"), spec.has("nonResourceAttributes"));
    if resource && other {
        let value = spec.at(&["nonResourceAttributes"]).clone();
        let text = "cannot be specified in combination with resourceAttributes";
        causes.invalid(path.field("nonResourceAttributes"), value, text);
    }
    if !resource && !other {
        let text = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        causes.invalid(path.field("resourceAttributes"), Value::Null, text);
    }
}
