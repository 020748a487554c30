//! Who may do what, over the store: roles and bindings, tokens of service accounts, impersonation, reviews.

use super::*;

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/d/roles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/d/rolebindings";

fn as_user(name: &str, mut request: ApiRequest) -> ApiRequest {
    request.user = Some(User::authenticated(name, Vec::<String>::new()));
    request
}

fn with_token(token: &str, mut request: ApiRequest) -> ApiRequest {
    request.user = None;
    request.bearer = Some(token.to_owned());
    request
}

/// Sends until the answer has this code: rights reach a node with the store's next event.
async fn until(api: &Api, make: impl Fn() -> ApiRequest, expected: u16) -> Value {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let (code, answer) = send(api, make()).await;
            if code == expected {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("not answered with {expected}"))
}

async fn with_reader(subject: Value) -> Api {
    let api = with_namespace().await;
    let role = json!({"metadata": {"name": "reader"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]});
    assert_eq!(call(&api, "POST", ROLES, role).await.0, 201);
    let binding = json!({
        "metadata": {"name": "b"}, "subjects": [subject],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
    });
    let (code, answer) = call(&api, "POST", BINDINGS, binding).await;
    assert_eq!(code, 201, "{answer}");
    api
}

fn jane() -> Value {
    json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"})
}

#[tokio::test]
async fn a_bound_user_does_what_the_role_allows_and_nothing_else() {
    let api = with_reader(jane()).await;
    until(&api, || as_user("jane", request("GET", MAPS, Value::Null)), 200).await;
    let cases = [
        ("GET", "/api/v1/namespaces/d/secrets", 403),
        ("GET", "/api/v1/configmaps", 403),
        ("DELETE", "/api/v1/namespaces/d/configmaps/kube-root-ca.crt", 403),
        ("GET", "/api/v1/namespaces/other/configmaps", 403),
        ("GET", "/metrics", 403),
    ];
    for (method, path, expected) in cases {
        let (code, answer) = send(&api, as_user("jane", request(method, path, Value::Null))).await;
        assert_eq!(code, expected, "{method} {path}: {answer}");
    }
    let (_, refusal) = send(
        &api,
        as_user("jane", request("GET", "/api/v1/namespaces/d/secrets", Value::Null)),
    )
    .await;
    assert_eq!(
        refusal["message"],
        "secrets is forbidden: User \"jane\" cannot list resource \"secrets\" in API group \"\" in the namespace \"d\""
    );
    // The right goes with the binding.
    assert_eq!(call(&api, "DELETE", &format!("{BINDINGS}/b"), Value::Null).await.0, 200);
    until(&api, || as_user("jane", request("GET", MAPS, Value::Null)), 403).await;
}

#[tokio::test]
async fn nobody_gives_away_what_it_does_not_have() {
    let api = with_namespace().await;
    let rules = json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["create"]}]);
    assert_eq!(
        call(
            &api,
            "POST",
            ROLES,
            json!({"metadata": {"name": "maker"}, "rules": rules})
        )
        .await
        .0,
        201
    );
    let binding = json!({
        "metadata": {"name": "b"}, "subjects": [jane()],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "maker"},
    });
    assert_eq!(call(&api, "POST", BINDINGS, binding).await.0, 201);
    let same = json!({"metadata": {"name": "same"}, "rules": rules});
    until(&api, || as_user("jane", request("POST", ROLES, same.clone())), 201).await;
    let more = json!({"metadata": {"name": "more"}, "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]});
    let (code, refusal) = send(&api, as_user("jane", request("POST", ROLES, more))).await;
    assert_eq!(code, 403);
    assert!(
        refusal["message"]
            .as_str()
            .unwrap()
            .contains("is attempting to grant RBAC permissions not currently held"),
        "{refusal}"
    );
}

#[tokio::test]
async fn a_service_accounts_token_proves_it_until_the_account_goes() {
    let account = json!({"kind": "ServiceAccount", "namespace": "d", "name": "default"});
    let api = with_reader(account).await;
    let path = "/api/v1/namespaces/d/serviceaccounts/default/token";
    let (code, answer) = call(&api, "POST", path, json!({"spec": {"expirationSeconds": 600}})).await;
    assert_eq!(code, 201, "{answer}");
    let token = answer["status"]["token"].as_str().unwrap().to_owned();
    until(&api, || with_token(&token, request("GET", MAPS, Value::Null)), 200).await;
    let review = json!({"spec": {"token": token}});
    let (_, review) = call(&api, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!(
        review["status"]["user"]["username"], "system:serviceaccount:d:default",
        "{review}"
    );

    let forged = format!("{}x", &token[..token.len() - 1]);
    assert_eq!(
        send(&api, with_token(&forged, request("GET", MAPS, Value::Null)))
            .await
            .0,
        401
    );
    assert_eq!(
        call(
            &api,
            "DELETE",
            "/api/v1/namespaces/d/serviceaccounts/default",
            Value::Null
        )
        .await
        .0,
        200
    );
    assert_eq!(
        send(&api, with_token(&token, request("GET", MAPS, Value::Null)))
            .await
            .0,
        401
    );
}

#[tokio::test]
async fn another_is_impersonated_by_those_who_may() {
    let api = with_reader(jane()).await;
    let as_jane = |mut request: ApiRequest| {
        request.impersonation = vec![("impersonate-user".to_owned(), "jane".to_owned())];
        request
    };
    until(&api, || as_jane(request("GET", MAPS, Value::Null)), 200).await;
    let (code, _) = send(
        &api,
        as_jane(request("GET", "/api/v1/namespaces/d/secrets", Value::Null)),
    )
    .await;
    assert_eq!(code, 403, "the administrator has only jane's rights now");
    let (code, refusal) = send(&api, as_jane(as_user("eve", request("GET", MAPS, Value::Null)))).await;
    assert_eq!(code, 403);
    assert!(
        refusal["message"]
            .as_str()
            .unwrap()
            .contains("cannot impersonate resource \"users\""),
        "{refusal}"
    );
}

#[tokio::test]
async fn reviews_answer_who_may_do_what() {
    let api = with_reader(jane()).await;
    until(&api, || as_user("jane", request("GET", MAPS, Value::Null)), 200).await;
    let asks = |verb: &str| json!({"spec": {"user": "jane", "resourceAttributes": {"namespace": "d", "verb": verb, "resource": "configmaps"}}});
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    for (verb, allowed) in [("get", true), ("delete", false)] {
        let (code, answer) = call(&api, "POST", path, asks(verb)).await;
        assert_eq!(
            (code, &answer["status"]["allowed"]),
            (201, &json!(allowed)),
            "{verb}: {answer}"
        );
    }
    let (_, who) = call(
        &api,
        "POST",
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        json!({}),
    )
    .await;
    assert_eq!(who["status"]["userInfo"]["username"], "admin", "{who}");
}
