//! Admission policies in CEL over the store: put into force, given their parameters, and refused when they do not compile.

use super::policy::until;
use super::*;
use protocol::store::ObjectStore;

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";

fn constraints() -> Value {
    json!({"resourceRules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]})
}

async fn create(api: &Api, path: &str, body: Value) {
    let (code, answer) = call(api, "POST", path, body).await;
    assert_eq!(code, 201, "{answer}");
}

#[tokio::test]
async fn a_policy_refuses_by_its_parameters() {
    let api = with_namespace().await;
    create(
        &api,
        MAPS,
        json!({"metadata": {"name": "limits"}, "data": {"forbidden": "bad"}}),
    )
    .await;
    let policy = json!({"metadata": {"name": "words"}, "spec": {
        "matchConstraints": constraints(), "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "!has(object.data) || object.data.all(k, object.data[k] != params.data.forbidden)",
            "messageExpression": "'the word ' + params.data.forbidden + ' is not allowed'"}],
    }});
    create(&api, &format!("{ADMISSION}/validatingadmissionpolicies"), policy).await;
    let binding = json!({"metadata": {"name": "words-d"}, "spec": {"policyName": "words", "validationActions": ["Deny"],
        "paramRef": {"name": "limits", "namespace": "d", "parameterNotFoundAction": "Deny"},
        "matchResources": {"objectSelector": {"matchExpressions": [{"key": "v", "operator": "Exists"}]}}}});
    create(&api, &format!("{ADMISSION}/validatingadmissionpolicybindings"), binding).await;
    let refused = until(&api, "POST", &format!("{MAPS}?dryRun=All"), config_map("a", "bad"), 422).await;
    assert_eq!(
        refused["message"],
        "configmaps \"a\" is forbidden: ValidatingAdmissionPolicy 'words' with binding 'words-d' denied request: the word \
         bad is not allowed"
    );
    create(&api, MAPS, config_map("a", "good")).await;
    let mut patch = request("PATCH", &format!("{MAPS}/a"), json!({"data": {"v": "bad"}}));
    patch.content_type = "application/merge-patch+json".into();
    assert_eq!(send(&api, patch).await.0, 422);
    assert_eq!(
        call(&api, "DELETE", &format!("{MAPS}/limits"), Value::Null).await.0,
        200
    );
    let (code, refused) = call(&api, "POST", MAPS, config_map("b", "good")).await;
    assert_eq!(code, 422);
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("no params found for policy binding"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_mutating_policy_changes_what_is_stored_by_its_parameters() {
    let api = with_namespace().await;
    create(
        &api,
        MAPS,
        json!({"metadata": {"name": "team"}, "data": {"name": "blue"}}),
    )
    .await;
    let policy = json!({"metadata": {"name": "label"}, "spec": {
        "matchConstraints": constraints(), "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "reinvocationPolicy": "IfNeeded", "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {
            "expression": "Object{metadata: Object.metadata{labels: {'team': params.data.name}}}"}}],
    }});
    create(&api, &format!("{ADMISSION}/mutatingadmissionpolicies"), policy).await;
    let binding = json!({"metadata": {"name": "label"}, "spec": {"policyName": "label",
        "paramRef": {"name": "team", "namespace": "d", "parameterNotFoundAction": "Deny"}}});
    create(&api, &format!("{ADMISSION}/mutatingadmissionpolicybindings"), binding).await;
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let (code, answer) = call(&api, "POST", &format!("{MAPS}?dryRun=All"), config_map("a", "1")).await;
            assert_eq!(code, 201, "{answer}");
            if answer["metadata"]["labels"]["team"] == "blue" {
                return;
            }
        }
    });
    waited.await.expect("the policy comes into force");
    create(&api, MAPS, config_map("a", "1")).await;
    let (_, stored) = call(&api, "GET", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!(stored["metadata"]["labels"], json!({"v": "1", "team": "blue"}));
}

#[tokio::test]
async fn expressions_that_do_not_compile_are_refused() {
    let api = with_namespace().await;
    let policy = json!({"metadata": {"name": "x"}, "spec": {
        "matchConstraints": constraints(), "validations": [{"expression": "objekt.spec == 1"}],
    }});
    let (code, refused) = call(
        &api,
        "POST",
        &format!("{ADMISSION}/validatingadmissionpolicies"),
        policy,
    )
    .await;
    assert_eq!(code, 422);
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.contains("spec.validations[0].expression: Invalid value: \"objekt.spec == 1\": compilation failed: ERROR: <input>:1:1"),
        "{message}"
    );
    let hook = json!({"metadata": {"name": "x"}, "webhooks": [{
        "name": "h.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None", "clientConfig": {"url": "https://h/"},
        "matchConditions": [{"name": "c", "expression": "request.none"}],
    }]});
    let (code, refused) = call(
        &api,
        "POST",
        &format!("{ADMISSION}/validatingwebhookconfigurations"),
        hook,
    )
    .await;
    assert_eq!(code, 422, "{refused}");
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("webhooks[0].matchConditions[0].expression"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_policys_status_tells_what_does_not_fit_its_kinds() {
    let store = MemoryStore::new();
    let api = with_namespace_over(Arc::clone(&store)).await;
    tokio::spawn(gateway::policy_status::keep(Arc::clone(&store) as Arc<dyn ObjectStore>));
    let policies = format!("{ADMISSION}/validatingadmissionpolicies");
    let policy = |expression: &str| {
        json!({"metadata": {"name": "p"}, "spec": {
            "matchConstraints": constraints(), "validations": [{"expression": expression}]}})
    };
    create(&api, &policies, policy("object.dota == null")).await;
    let observed = async |generation: i64| -> Value {
        for _ in 0..500 {
            let (_, body) = call(&api, "GET", &format!("{policies}/p"), Value::Null).await;
            if body["status"]["observedGeneration"] == generation {
                return body;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("generation {generation} is not observed");
    };
    let body = observed(1).await;
    assert_eq!(
        body["status"]["typeChecking"]["expressionWarnings"],
        json!([{"fieldRef": "spec.validations[0].expression", "warning":
            "/v1, Kind=ConfigMap: ERROR: <input>:1:7: undefined field 'dota'\n | object.dota == null\n | ......^\n"}])
    );
    let mut patch = request("PATCH", &format!("{policies}/p"), policy("has(object.data)"));
    patch.content_type = "application/merge-patch+json".into();
    assert_eq!(send(&api, patch).await.0, 200);
    let body = observed(2).await;
    assert_eq!(body["status"]["typeChecking"], json!({}));
}
