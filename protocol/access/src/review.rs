//! The reviews: questions about rights and identity that are asked as objects (`POST .../subjectaccessreviews`) and answered in
//! their status. After Kubernetes' registries of `authorization.k8s.io` and `authentication.k8s.io`. Nothing is stored. Who
//! may ask is RBAC's business and was decided before.

use api::access::Access;
use api::cause::Cause;
use api::status::Status;
use protocol::selector::{FieldRequirement, FieldSelector};
use serde_json::{Value, json};

use crate::attributes::{Attributes, Requested, ResourceRequest, Verdict};
use crate::authorizer::Authorizers;
use crate::rbac::Rule;
use crate::user::{Extra, MASTERS, User};

const AUTHORIZATION: &str = "authorization.k8s.io";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// The body with its kind and its status; what else it holds is given back.
fn answered(body: &Value, group: &str, kind: &str, status: Value) -> Value {
    let mut answer = if body.is_object() { body.clone() } else { json!({}) };
    answer["apiVersion"] = format!("{group}/v1").into();
    answer["kind"] = kind.into();
    if !answer.has("metadata") {
        answer["metadata"] = json!({});
    }
    answer["status"] = status;
    answer
}

fn invalid(kind: &str, field: &str, value: &Value, why: &str) -> Status {
    let cause = Cause {
        field: field.to_owned(),
        reason: "FieldValueInvalid".into(),
        message: format!("Invalid value: {value}: {why}"),
    };
    Status::invalid_of(AUTHORIZATION, kind, "", vec![cause])
}

/// Exactly one of the two kinds of attributes must be there.
fn check_attributes(kind: &str, spec: &Value) -> Result<(), Status> {
    match (spec.has("resourceAttributes"), spec.has("nonResourceAttributes")) {
        (true, true) => Err(invalid(
            kind,
            "spec.nonResourceAttributes",
            spec.at(&["nonResourceAttributes"]),
            "cannot be specified in combination with resourceAttributes",
        )),
        (false, false) => Err(invalid(
            kind,
            "spec.resourceAttributes",
            &Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => Ok(()),
    }
}

fn user_of(spec: &Value) -> User {
    let texts = |value: &Value| {
        value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    User {
        name: spec.text("user").to_owned(),
        uid: spec.text("uid").to_owned(),
        groups: texts(spec.at(&["groups"])),
        extra: spec
            .members("extra")
            .map(|(key, values)| (key.clone(), texts(values)))
            .collect::<Extra>(),
    }
}

/// The equalities of the review's field selector. Other operators cannot make a request narrower for any authorizer here.
fn fields_of(attributes: &Value) -> Vec<FieldRequirement> {
    let selector = attributes.at(&["fieldSelector"]);
    let raw = selector.text("rawSelector");
    if !raw.is_empty() {
        let named: Vec<&str> = raw
            .split(',')
            .map(|part| part.split(['=', '!']).next().unwrap_or_default())
            .collect();
        return FieldSelector::parse(raw, &named)
            .map(|parsed| parsed.requirements)
            .unwrap_or_default();
    }
    let requirements = selector.items("requirements").iter();
    requirements
        .filter_map(
            |requirement| match (requirement.text("operator"), requirement.items("values")) {
                ("In", [value]) => Some(FieldRequirement {
                    path: requirement.text("key").to_owned(),
                    value: value.as_str()?.to_owned(),
                    negated: false,
                }),
                _ => None,
            },
        )
        .collect()
}

/// The authorizers' verdict on what the spec describes, as the status shows it.
fn judge(spec: &Value, user: &User, authorizers: &Authorizers) -> Value {
    let resource = spec.at(&["resourceAttributes"]);
    let path = spec.at(&["nonResourceAttributes"]);
    let fields = fields_of(resource);
    let (verb, requested) = if spec.has("resourceAttributes") {
        let request = ResourceRequest {
            namespace: resource.text("namespace"),
            group: resource.text("group"),
            version: resource.text("version"),
            resource: resource.text("resource"),
            subresource: resource.text("subresource"),
            name: resource.text("name"),
            fields: &fields,
        };
        (resource.text("verb"), Requested::Resource(request))
    } else {
        (path.text("verb"), Requested::Path(path.text("path")))
    };
    let verdict = authorizers.authorize(&Attributes { user, verb, requested });
    let mut status = json!({"allowed": verdict.allows()});
    if matches!(verdict, Verdict::Deny { .. }) {
        status["denied"] = true.into();
    }
    if !verdict.reason().is_empty() {
        status["reason"] = verdict.reason().into();
    }
    status
}

/// Whether the user whom the spec names may do what it describes.
pub fn subject_access_review(body: &Value, authorizers: &Authorizers) -> Result<Value, Status> {
    let kind = "SubjectAccessReview";
    let status = of_subject(body, kind, authorizers)?;
    Ok(answered(body, AUTHORIZATION, kind, status))
}

fn of_subject(body: &Value, kind: &str, authorizers: &Authorizers) -> Result<Value, Status> {
    let spec = body.at(&["spec"]);
    check_attributes(kind, spec)?;
    let user = user_of(spec);
    if user.name.is_empty() && user.groups.is_empty() {
        let why = "at least one of user or group must be specified";
        return Err(invalid(kind, "spec.user", &json!(""), why));
    }
    Ok(judge(spec, &user, authorizers))
}

/// As `subject_access_review`, within the namespace of the request's path.
pub fn local_subject_access_review(body: &Value, namespace: &str, authorizers: &Authorizers) -> Result<Value, Status> {
    let kind = "LocalSubjectAccessReview";
    let spec = body.at(&["spec"]);
    let asked = spec.at(&["resourceAttributes"]).text("namespace");
    if spec.has("nonResourceAttributes") {
        let value = spec.at(&["nonResourceAttributes"]);
        return Err(invalid(
            kind,
            "spec.nonResourceAttributes",
            value,
            "disallowed on this kind of request",
        ));
    }
    if asked != namespace {
        let text = format!("spec.resourceAttributes.namespace must match namespace: {namespace}");
        return Err(Status::bad_request(text));
    }
    let status = of_subject(body, kind, authorizers)?;
    Ok(answered(body, AUTHORIZATION, kind, status))
}

/// Whether whoever asks may do what the spec describes.
pub fn self_subject_access_review(body: &Value, user: &User, authorizers: &Authorizers) -> Result<Value, Status> {
    let kind = "SelfSubjectAccessReview";
    let spec = body.at(&["spec"]);
    check_attributes(kind, spec)?;
    Ok(answered(body, AUTHORIZATION, kind, judge(spec, user, authorizers)))
}

fn resource_rule(rule: &Rule) -> Value {
    let mut value = json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
    if !rule.resource_names.is_empty() {
        value["resourceNames"] = rule.resource_names.clone().into();
    }
    value
}

fn path_rule(rule: &Rule) -> Value {
    json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls})
}

/// All rules that hold for whoever asks in the namespace of the spec.
pub fn self_subject_rules_review(body: &Value, user: &User, authorizers: &Authorizers) -> Result<Value, Status> {
    let namespace = body.at(&["spec"]).text("namespace");
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let mut rules = authorizers.rbac.rules_for(user, namespace);
    if user.is_in(MASTERS) {
        let all = || vec!["*".to_owned()];
        let (verbs, api_groups, resources) = (all(), all(), all());
        rules.rules.insert(
            0,
            Rule {
                verbs: all(),
                non_resource_urls: all(),
                ..Rule::default()
            },
        );
        rules.rules.insert(
            0,
            Rule {
                verbs,
                api_groups,
                resources,
                ..Rule::default()
            },
        );
    }
    if user.as_node().is_some() {
        rules
            .errors
            .insert(0, "node authorizer does not support user rule resolution".to_owned());
    }
    let of_resources = rules.rules.iter().filter(|rule| !rule.resources.is_empty());
    let of_paths = rules.rules.iter().filter(|rule| !rule.non_resource_urls.is_empty());
    let mut status = json!({
        "resourceRules": of_resources.map(resource_rule).collect::<Value>(),
        "nonResourceRules": of_paths.map(path_rule).collect::<Value>(),
        "incomplete": !rules.errors.is_empty(),
    });
    if !rules.errors.is_empty() {
        status["evaluationError"] = rules.error_text().into();
    }
    Ok(answered(body, AUTHORIZATION, "SelfSubjectRulesReview", status))
}

/// Who asks.
pub fn self_subject_review(body: &Value, user: &User) -> Value {
    let status = json!({"userInfo": serde_json::to_value(user).unwrap_or_default()});
    answered(body, AUTHENTICATION, "SelfSubjectReview", status)
}

/// The token that a TokenReview asks about, and the audiences that it asks for; none means the API's own.
pub fn token_review_asks(body: &Value) -> Result<(&str, Vec<String>), Status> {
    let spec = body.at(&["spec"]);
    let token = spec.text("token");
    if token.is_empty() {
        return Err(Status::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    let audiences = spec.items("audiences").iter().filter_map(Value::as_str);
    Ok((token, audiences.map(str::to_owned).collect()))
}

/// The answer to a TokenReview: who the token proves its bearer to be and for which of the audiences, or why nobody.
pub fn token_review(body: &Value, outcome: Result<(&User, &[String]), &str>) -> Value {
    let status = match outcome {
        Ok((user, audiences)) => {
            let user = serde_json::to_value(user).unwrap_or_default();
            json!({"authenticated": true, "user": user, "audiences": audiences})
        }
        Err(why) => json!({"user": {}, "error": why}),
    };
    answered(body, AUTHENTICATION, "TokenReview", status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authorizers() -> Authorizers {
        let mut authorizers = Authorizers::new();
        authorizers.upsert(
            "roles",
            &json!({"metadata": {"namespace": "d", "name": "r"}, "rules": [
                {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}),
        );
        authorizers.upsert(
            "rolebindings",
            &json!({"metadata": {"namespace": "d", "name": "b"},
                "roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "ann"}]}),
        );
        authorizers
    }

    fn review(user: &str, verb: &str) -> Value {
        json!({"spec": {"user": user, "resourceAttributes": {"namespace": "d", "verb": verb, "resource": "pods"}}})
    }

    #[test]
    fn a_review_is_answered_in_its_status() {
        let authorizers = authorizers();
        let answer = subject_access_review(&review("ann", "get"), &authorizers).unwrap();
        assert_eq!(answer["kind"], "SubjectAccessReview");
        assert_eq!(
            answer["status"],
            json!({"allowed": true, "reason": "RBAC: allowed by RoleBinding \"b/d\" of Role \"r\" to User \"ann\""})
        );
        let answer = subject_access_review(&review("bob", "get"), &authorizers).unwrap();
        assert_eq!(answer["status"], json!({"allowed": false}));
        let ann = User::authenticated("ann", [""; 0]);
        let own = self_subject_access_review(&review("bob", "get"), &ann, &authorizers).unwrap();
        assert_eq!(own["status"]["allowed"], true, "the spec's user does not count");
        let path = json!({"spec": {"nonResourceAttributes": {"path": "/metrics", "verb": "get"}}});
        assert_eq!(
            self_subject_access_review(&path, &ann, &authorizers).unwrap()["status"]["allowed"],
            false
        );
    }

    #[test]
    fn a_review_that_asks_nothing_or_for_nobody_is_invalid() {
        let authorizers = authorizers();
        let both = json!({"spec": {"user": "a", "resourceAttributes": {}, "nonResourceAttributes": {"path": "/"}}});
        let cases = [
            (
                json!({"spec": {"user": "a"}}),
                "SubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.resourceAttributes: Invalid value: null: \
                 exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ),
            (
                review("", "get"),
                "SubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.user: Invalid value: \"\": at least one of \
                 user or group must be specified",
            ),
            (
                both,
                "SubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.nonResourceAttributes: Invalid value: \
                 {\"path\":\"/\"}: cannot be specified in combination with resourceAttributes",
            ),
        ];
        for (body, expected) in cases {
            let error = subject_access_review(&body, &authorizers).unwrap_err();
            assert_eq!((error.code, error.message.as_str()), (422, expected));
        }
    }

    #[test]
    fn a_local_review_keeps_to_its_namespace() {
        let authorizers = authorizers();
        assert!(
            local_subject_access_review(&review("ann", "get"), "d", &authorizers).unwrap()["status"]["allowed"] == true
        );
        let error = local_subject_access_review(&review("ann", "get"), "e", &authorizers).unwrap_err();
        assert_eq!(
            (error.code, error.message.as_str()),
            (400, "spec.resourceAttributes.namespace must match namespace: e")
        );
        let path = json!({"spec": {"user": "ann", "nonResourceAttributes": {"path": "/"}}});
        assert_eq!(
            local_subject_access_review(&path, "d", &authorizers).unwrap_err().code,
            422
        );
    }

    #[test]
    fn a_node_s_selector_counts() {
        let spec = |selector: Value| {
            json!({"spec": {"resourceAttributes":
            {"verb": "list", "resource": "pods", "fieldSelector": selector}}})
        };
        let node = User::node("n1");
        let requirements = json!({"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n1"]}]});
        for (selector, expected) in [
            (requirements, true),
            (json!({"rawSelector": "spec.nodeName=n1"}), true),
            (json!({"rawSelector": "spec.nodeName=n2"}), false),
            (json!({"rawSelector": "nonsense"}), false),
        ] {
            let answer = self_subject_access_review(&spec(selector.clone()), &node, &authorizers()).unwrap();
            assert_eq!(answer["status"]["allowed"], expected, "{selector}");
        }
    }

    #[test]
    fn the_rules_are_listed() {
        let authorizers = authorizers();
        let body = json!({"spec": {"namespace": "d"}});
        let ask = |user: &User| self_subject_rules_review(&body, user, &authorizers).unwrap()["status"].clone();
        let pods = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
        assert_eq!(
            ask(&User::authenticated("ann", [""; 0])),
            json!({"resourceRules": [pods], "nonResourceRules": [], "incomplete": false})
        );
        let root = ask(&User::authenticated("root", ["system:masters"]));
        assert_eq!(
            root["nonResourceRules"],
            json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}])
        );
        assert_eq!(ask(&User::node("n1"))["incomplete"], true);
        let nowhere = self_subject_rules_review(&json!({}), &User::anonymous(), &authorizers).unwrap_err();
        assert_eq!(nowhere.code, 400);
    }

    #[test]
    fn who_am_i_and_whose_token_is_this() {
        let ann = User::authenticated("ann", ["dev"]);
        assert_eq!(
            self_subject_review(&json!({}), &ann)["status"]["userInfo"]["username"],
            "ann"
        );
        let body = json!({"spec": {"token": "t", "audiences": ["vault"]}});
        assert_eq!(token_review_asks(&body).unwrap(), ("t", vec!["vault".to_owned()]));
        assert_eq!(token_review_asks(&json!({})).unwrap_err().code, 400);
        let answer = token_review(&body, Ok((&ann, &["vault".to_owned()])));
        assert_eq!(answer["status"]["authenticated"], true);
        assert_eq!(answer["status"]["audiences"], json!(["vault"]));
        let refused = token_review(&body, Err("service account token has expired"));
        assert_eq!(
            refused["status"],
            json!({"user": {}, "error": "service account token has expired"})
        );
    }
}
