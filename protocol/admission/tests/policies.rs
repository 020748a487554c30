//! What admission policies in CEL say of requests, and which are due: as Kubernetes documents it.

use std::sync::Arc;

use access::User;
use admission::matching::{Asked, Verb};
use admission::policy::{self, Parameters, Policies, PolicySort};
use admission::webhook::Said;
use admission::{Fact, Facts, Rights};
use api::cause::Causes;
use api::kinds::{self, Kind};
use api::status::Status;
use protocol::Revision;
use serde_json::{Value, json};

const POLICIES: &str = "validatingadmissionpolicies.admissionregistration.k8s.io";
const BINDINGS: &str = "validatingadmissionpolicybindings.admissionregistration.k8s.io";
const MUTATING: &str = "mutatingadmissionpolicies.admissionregistration.k8s.io";
const MUTATING_BINDINGS: &str = "mutatingadmissionpolicybindings.admissionregistration.k8s.io";

fn deployments() -> &'static Kind {
    kinds::find("apps", "v1", "deployments").unwrap()
}

fn facts() -> Facts {
    let mut facts = Facts::default();
    let namespace = json!({"metadata": {"name": "d", "labels": {"tier": "gold"}}});
    let fact = Fact {
        revision: Revision(7),
        value: Arc::new(namespace),
    };
    facts.upsert("namespaces", "", "d", fact);
    facts
}

fn asked<'a>(user: &'a User, kind: &'a Kind) -> Asked<'a> {
    Asked {
        verb: Verb::Create,
        kind,
        subresource: None,
        namespace: "d",
        name: "w",
        user,
        dry_run: false,
        options: &Value::Null,
        random: 7,
        customs: &admission::matching::NoCustoms,
    }
}

fn constraints() -> Value {
    json!({"resourceRules": [{"operations": ["*"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}]})
}

fn deployment(replicas: i64) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "w", "namespace": "d"},
        "spec": {"replicas": replicas}})
}

fn spec(fields: Value) -> Value {
    let mut spec = json!({"matchConstraints": constraints(), "failurePolicy": "Fail"});
    for (name, value) in fields.as_object().unwrap() {
        spec[name] = value.clone();
    }
    json!({"metadata": {"name": "x"}, "spec": spec})
}

fn binding(fields: Value) -> Value {
    let mut spec = json!({"policyName": "x", "validationActions": ["Deny"]});
    for (name, value) in fields.as_object().unwrap() {
        spec[name] = value.clone();
    }
    json!({"metadata": {"name": "y"}, "spec": spec})
}

/// What a policy with a binding says of an object; `params` are what was read for it.
fn judged(policy: Value, binding: Value, object: &Value, params: &[Value]) -> Result<Said, Status> {
    let mut policies = Policies::default();
    policies.upsert(POLICIES, "x", &policy);
    policies.upsert(BINDINGS, "y", &binding);
    let user = User::authenticated("jane", ["devs"]);
    let (asked, facts) = (asked(&user, deployments()), facts());
    let in_force = policies.in_force(PolicySort::Validating);
    let due = policy::due(&in_force, &asked, object, &Value::Null, &facts);
    let read: Vec<Arc<Value>> = params.iter().cloned().map(Arc::new).collect();
    let due: Vec<_> = due.into_iter().map(|due| (due, read.clone())).collect();
    let rights = Rights {
        authorizers: None,
        user: &user,
    };
    let mut said = Said::default();
    policy::validate(&due, &asked, (object, &Value::Null), (&facts, &rights), &mut said).map(|()| said)
}

fn validation(expression: &str, more: Value) -> Value {
    let mut validation = json!({"expression": expression});
    for (name, value) in more.as_object().unwrap() {
        validation[name] = value.clone();
    }
    spec(json!({"validations": [validation]}))
}

#[test]
fn a_failed_validation_refuses_in_kubernetes_words() {
    let by = "deployments.apps \"w\" is forbidden: ValidatingAdmissionPolicy 'x' with binding 'y' denied request: ";
    let few = "object.spec.replicas <= 5";
    let cases = [
        (
            few,
            json!({}),
            422,
            "Invalid",
            "failed expression: object.spec.replicas <= 5",
        ),
        (few, json!({"message": " too many "}), 422, "Invalid", "too many"),
        (
            few,
            json!({"messageExpression": "'at most 5, not ' + string(object.spec.replicas)", "reason": "Forbidden"}),
            403,
            "Forbidden",
            "at most 5, not 6",
        ),
        (
            few,
            json!({"messageExpression": "object.absent", "message": "m"}),
            422,
            "Invalid",
            "m",
        ),
        (
            few,
            json!({"messageExpression": "'two\\nlines'", "message": "m"}),
            422,
            "Invalid",
            "m",
        ),
        (
            "object.spec.absent > 1",
            json!({}),
            422,
            "Invalid",
            "expression 'object.spec.absent > 1' resulted in error: no such key: absent",
        ),
    ];
    for (expression, more, code, reason, message) in cases {
        let status = judged(validation(expression, more), binding(json!({})), &deployment(6), &[]).unwrap_err();
        assert_eq!((status.code, &*status.reason), (code, reason), "{expression}");
        assert_eq!(status.message, format!("{by}{message}"));
    }
    judged(validation(few, json!({})), binding(json!({})), &deployment(5), &[]).unwrap();
}

#[test]
fn a_binding_says_what_a_failure_does() {
    let policy = || validation("object.spec.replicas <= 5", json!({"message": "too many"}));
    let said = judged(
        policy(),
        binding(json!({"validationActions": ["Warn"]})),
        &deployment(6),
        &[],
    )
    .unwrap();
    assert_eq!(
        said.warnings,
        ["Validation failed for ValidatingAdmissionPolicy 'x' with binding 'y': too many"]
    );
    let said = judged(
        policy(),
        binding(json!({"validationActions": ["Audit"]})),
        &deployment(6),
        &[],
    )
    .unwrap();
    assert_eq!(
        said.annotations[0].0,
        "validation.policy.admission.k8s.io/validation_failure"
    );
    let value: Value = serde_json::from_str(&said.annotations[0].1).unwrap();
    assert_eq!(
        value,
        json!([{"message": "too many", "policy": "x", "binding": "y", "expressionIndex": "0", "validationActions": ["Audit"]}])
    );
}

#[test]
fn a_policy_is_in_force_by_its_bindings_where_both_match() {
    let policy = || validation("false", json!({}));
    let cases = [
        (json!({"policyName": "other"}), false),
        (
            json!({"matchResources": {"namespaceSelector": {"matchLabels": {"tier": "iron"}}}}),
            false,
        ),
        (
            json!({"matchResources": {"namespaceSelector": {"matchLabels": {"tier": "gold"}}}}),
            true,
        ),
        (
            json!({"matchResources": {"excludeResourceRules": constraints()["resourceRules"]}}),
            false,
        ),
    ];
    for (fields, denies) in cases {
        let outcome = judged(policy(), binding(fields.clone()), &deployment(1), &[]);
        assert_eq!(outcome.is_err(), denies, "{fields}");
    }
    let mut named = validation("false", json!({}));
    named["spec"]["matchConstraints"]["resourceRules"][0]["resourceNames"] = json!(["other"]);
    judged(named, binding(json!({})), &deployment(1), &[]).unwrap();
}

#[test]
fn variables_conditions_and_the_request_are_at_hand() {
    let policy = spec(json!({
        "variables": [
            {"name": "replicas", "expression": "object.spec.replicas"},
            {"name": "twice", "expression": "variables.replicas * 2"},
        ],
        "matchConditions": [{"name": "c", "expression": "request.userInfo.username == 'jane'"}],
        "validations": [
            {"expression": "variables.twice == 12 && request.operation == 'CREATE' && oldObject == null"},
            {"expression": "namespaceObject.metadata.labels['tier'] == 'gold'"},
            {"expression": "!authorizer.group('').resource('pods').check('list').allowed()"},
        ],
        "auditAnnotations": [
            {"key": "k", "valueExpression": "'replicas: ' + string(variables.replicas)"},
            {"key": "none", "valueExpression": "null"},
        ],
    }));
    let said = judged(policy.clone(), binding(json!({})), &deployment(6), &[]).unwrap();
    assert_eq!(said.annotations, [("x/k".to_owned(), "replicas: 6".to_owned())]);
    judged(policy.clone(), binding(json!({})), &deployment(7), &[]).unwrap_err();
    let mut other = policy;
    other["spec"]["matchConditions"][0]["expression"] = "request.userInfo.username == 'joe'".into();
    judged(other, binding(json!({})), &deployment(7), &[]).unwrap();
}

#[test]
fn failures_of_a_policy_that_may_fail_are_passed_over() {
    let mut policy = validation("object.spec.absent > 1", json!({}));
    policy["spec"]["failurePolicy"] = "Ignore".into();
    judged(policy, binding(json!({})), &deployment(1), &[]).unwrap();
}

#[test]
fn a_policy_is_evaluated_with_each_of_its_parameters() {
    let mut policy = validation("object.spec.replicas <= int(params.data.max)", json!({}));
    policy["spec"]["paramKind"] = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    let by =
        |action: &str| binding(json!({"paramRef": {"name": "p", "namespace": "d", "parameterNotFoundAction": action}}));
    let limit = |max: &str| json!({"data": {"max": max}});
    judged(policy.clone(), by("Deny"), &deployment(6), &[limit("6")]).unwrap();
    judged(policy.clone(), by("Deny"), &deployment(6), &[limit("6"), limit("5")]).unwrap_err();
    judged(policy.clone(), by("Allow"), &deployment(6), &[]).unwrap();
    let status = judged(policy.clone(), by("Deny"), &deployment(6), &[]).unwrap_err();
    assert!(
        status.message.ends_with(
            "denied request: failed to configure binding: no params found for policy binding with `Deny` \
             parameterNotFoundAction"
        ),
        "{status}"
    );
    policy["spec"]["paramKind"] = json!({"apiVersion": "none.example.com/v1", "kind": "Limit"});
    let status = judged(policy, by("Allow"), &deployment(6), &[]).unwrap_err();
    assert!(
        status
            .message
            .ends_with("paramKind kind `none.example.com/v1, Kind=Limit` not known"),
        "{status}"
    );
}

#[test]
fn parameters_are_named_or_selected_in_the_requests_namespace() {
    let user = User::authenticated("jane", ["devs"]);
    let object = deployment(1);
    let due = |reference: Value| {
        let mut policies = Policies::default();
        let mut policy = validation("true", json!({}));
        policy["spec"]["paramKind"] = json!({"apiVersion": "v1", "kind": "ConfigMap"});
        policies.upsert(POLICIES, "x", &policy);
        policies.upsert(BINDINGS, "y", &binding(json!({"paramRef": reference})));
        let in_force = policies.in_force(PolicySort::Validating);
        let asked = asked(&user, deployments());
        policy::due(&in_force, &asked, &object, &Value::Null, &facts())
            .remove(0)
            .parameters
    };
    let Parameters::One { key, .. } = due(json!({"name": "p"})) else {
        panic!()
    };
    assert_eq!((&*key.namespace, &*key.name), ("d", "p"));
    let Parameters::One { key, .. } = due(json!({"name": "p", "namespace": "e"})) else {
        panic!()
    };
    assert_eq!(&*key.namespace, "e");
    let Parameters::Selected {
        namespace, selector, ..
    } = due(json!({"selector": {"matchLabels": {"a": "b"}}}))
    else {
        panic!()
    };
    assert_eq!(
        (namespace.as_deref(), selector.to_string()),
        (Some("d"), "a=b".to_owned())
    );
}

fn mutated(mutations: Value, object: Value) -> Result<(bool, Value), Status> {
    let mut policies = Policies::default();
    let policy = spec(json!({"reinvocationPolicy": "Never", "mutations": mutations}));
    policies.upsert(MUTATING, "x", &policy);
    policies.upsert(MUTATING_BINDINGS, "y", &json!({"spec": {"policyName": "x"}}));
    let user = User::authenticated("jane", ["devs"]);
    let (asked, facts) = (asked(&user, deployments()), facts());
    let in_force = policies.in_force(PolicySort::Mutating);
    let due = policy::due(&in_force, &asked, &object, &Value::Null, &facts);
    let rights = Rights {
        authorizers: None,
        user: &user,
    };
    let mut object = object;
    let changed = policy::mutate(&due[0], &[], &asked, (&mut object, &Value::Null), &facts, &rights)?;
    Ok((changed, object))
}

#[test]
fn a_mutating_policy_changes_the_object_by_patch_or_by_what_it_applies() {
    let patch = json!([{"patchType": "JSONPatch", "jsonPatch": {"expression":
        "[JSONPatch{op: 'replace', path: '/spec/replicas', value: object.spec.replicas + 1}]"}}]);
    let (changed, object) = mutated(patch, deployment(1)).unwrap();
    assert_eq!((changed, &object["spec"]["replicas"]), (true, &json!(2)));
    let mut template = deployment(1);
    template["spec"]["template"] = json!({"spec": {"containers": [{"name": "a", "image": "i"}]}});
    let apply = json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
        "Object{metadata: Object.metadata{labels: {'by': 'policy'}}, spec: Object.spec{template: Object.spec.template{spec: \
         Object.spec.template.spec{containers: [Object.spec.template.spec.containers{name: 'b', image: 'j'}]}}}}"}}]);
    let (_, object) = mutated(apply, template).unwrap();
    assert_eq!(object["metadata"]["labels"]["by"], "policy");
    let containers = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    let mut names: Vec<&str> = containers
        .iter()
        .map(|container| container["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b"], "lists with keys are merged by them");
    let broken =
        json!([{"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'remove', path: '/none'}]"}}]);
    let status = mutated(broken, deployment(1)).unwrap_err();
    assert!(
        status.message.contains("policy 'x' with binding 'y' denied request: "),
        "{status}"
    );
}

#[test]
fn an_expression_that_does_not_compile_is_found_when_the_policy_is_written() {
    let policy = spec(json!({
        "variables": [{"name": "v", "expression": "object.spec"}],
        "matchConditions": [{"name": "c", "expression": "request.absent"}],
        "validations": [
            {"expression": "variables.v.replicas < 5 && variables.none"},
            {"expression": "'text'"},
            {"expression": "params.x"},
            {"expression": "true", "messageExpression": "1"},
        ],
    }));
    let mut causes = Causes::default();
    policy::problems(&policy, &mut causes);
    let fields: Vec<&str> = causes.0.iter().map(|cause| cause.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.matchConditions[0].expression",
            "spec.validations[0].expression",
            "spec.validations[1].expression",
            "spec.validations[2].expression",
            "spec.validations[3].messageExpression",
        ],
        "{causes:?}"
    );
    assert!(causes.0[1].message.contains("undefined field 'none'"), "{causes:?}");
}
