//! Policies in CEL, put into force with kubectl.

use serde_json::json;

use super::World;

const POLICIES: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: few}
spec:
  failurePolicy: Fail
  paramKind: {apiVersion: v1, kind: ConfigMap}
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [configmaps]}
  matchConditions:
  - {name: has-data, expression: "has(object.data)"}
  variables:
  - {name: words, expression: "object.data.map(k, object.data[k])"}
  validations:
  - expression: "!(params.data.word in variables.words)"
    messageExpression: "'nobody says ' + params.data.word"
    reason: Forbidden
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: few-here}
spec:
  policyName: few
  validationActions: [Deny]
  paramRef: {name: words, namespace: default, parameterNotFoundAction: Allow}
  matchResources:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}
"#;

pub fn refuse_and_change(world: &World) {
    let kubectl = &world.kubectl;
    kubectl.run("create configmap words --from-literal=word=damn");
    kubectl.apply(POLICIES);
    world.until_refused(
        "v=damn",
        "configmaps \"probe\" is forbidden: ValidatingAdmissionPolicy 'few' with binding 'few-here' denied request: nobody \
         says damn",
    );
    kubectl.run("create configmap polite --from-literal=v=please");
    kubectl.run("create namespace saloon");
    kubectl.run("create configmap rude --from-literal=v=damn -n saloon");
    let broken = POLICIES.replace("params.data.word in", "parms.data.word in");
    let output = kubectl.fed("apply", &broken);
    let refused = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{refused}");
    assert!(
        refused.contains("spec.validations[0].expression") && refused.contains("undeclared reference to 'parms'"),
        "{refused}"
    );
    kubectl.run("delete validatingadmissionpolicybinding few-here");
    world.until_passed("v=damn");

    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": "team"}, "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["configmaps"]}]},
            "reinvocationPolicy": "Never", "failurePolicy": "Fail",
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {
                "expression": "Object{metadata: Object.metadata{labels: {'team': 'blue'}}}"}}]}});
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": "team"}, "spec": {"policyName": "team"}});
    kubectl.apply(&policy.to_string());
    kubectl.apply(&binding.to_string());
    let labelled = || {
        let text = kubectl.run("create configmap probe --dry-run=server -o jsonpath={.metadata.labels.team}");
        if text == "blue" { Ok(()) } else { Err(text) }
    };
    tests::wait_for("the policy comes into force", super::HEARD, labelled);
    kubectl.run("delete mutatingadmissionpolicybinding team");
}
