//! Writes on their way through admission, over the store: what plugins read is as new as it must be, and what they charge is
//! written in the same transaction.

use super::*;

/// Follows the store until the API answers as expected. What a plugin reads reaches a node with the store's next event.
pub(super) async fn until(api: &Api, method: &str, path: &str, body: Value, expected: u16) -> Value {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let (code, answer) = call(api, method, path, body.clone()).await;
            if code == expected {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    });
    waited
        .await
        .unwrap_or_else(|_| panic!("{method} {path} was not answered with {expected}"))
}

const PODS: &str = "/api/v1/namespaces/d/pods";

fn pod(name: &str, cpu: &str) -> Value {
    let resources = json!({"requests": {"cpu": cpu}});
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}})
}

#[tokio::test]
async fn a_namespace_begins_with_its_account_and_the_clusters_authority() {
    let api = with_namespace().await;
    let (code, account) = call(&api, "GET", "/api/v1/namespaces/d/serviceaccounts/default", Value::Null).await;
    assert_eq!((code, &account["metadata"]["namespace"]), (200, &json!("d")));
    let (code, map) = call(&api, "GET", &format!("{MAPS}/kube-root-ca.crt"), Value::Null).await;
    assert_eq!(
        (code, &map["data"]["ca.crt"]),
        (200, &json!("-----BEGIN CERTIFICATE-----"))
    );
    let uids = [&account, &map].map(|object| object["metadata"]["uid"].clone());
    assert_ne!(uids[0], uids[1]);
}

#[tokio::test]
async fn a_pod_may_use_the_account_and_the_class_of_the_moment_before() {
    let api = with_namespace().await;
    let class = json!({"metadata": {"name": "high"}, "value": 7});
    assert_eq!(
        call(&api, "POST", "/apis/scheduling.k8s.io/v1/priorityclasses", class)
            .await
            .0,
        201
    );
    let mut object = pod("p", "1");
    object["spec"]["priorityClassName"] = "high".into();
    let (code, created) = call(&api, "POST", PODS, object).await;
    assert_eq!((code, &created["spec"]["priority"]), (201, &json!(7)), "{created}");
    assert_eq!(created["spec"]["serviceAccountName"], "default");
}

#[tokio::test]
async fn a_quota_is_charged_once_for_each_object_whoever_races() {
    let api = Arc::new(with_namespace().await);
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "5"}}});
    let quotas = "/api/v1/namespaces/d/resourcequotas";
    assert_eq!(call(&api, "POST", quotas, quota).await.0, 201);
    // Until the quota is known here, nothing is charged: a pod over a quota of none shows that it is.
    let none = json!({"metadata": {"name": "none"}, "spec": {"hard": {"count/secrets": "0"}}});
    assert_eq!(call(&api, "POST", quotas, none).await.0, 201);
    let secret = json!({"metadata": {"generateName": "s-"}});
    until(&api, "POST", "/api/v1/namespaces/d/secrets", secret, 403).await;

    let creations = (0..12).map(|number| {
        let api = Arc::clone(&api);
        tokio::spawn(async move { call(&api, "POST", PODS, pod(&format!("p{number}"), "1")).await.0 })
    });
    let codes: Vec<u16> = futures::future::join_all(creations)
        .await
        .into_iter()
        .map(|code| code.unwrap())
        .collect();
    let count = |code: u16| codes.iter().filter(|seen| **seen == code).count();
    assert_eq!((count(201), count(403)), (5, 7), "{codes:?}");
    let (_, quota) = call(&api, "GET", &format!("{quotas}/q"), Value::Null).await;
    assert_eq!(quota["status"]["used"], json!({"pods": "5"}));
}

#[tokio::test]
async fn a_default_of_a_limit_range_is_stored_with_the_pod() {
    let api = with_namespace().await;
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [{"type": "Container", "default": {"cpu": "500m"}, "max": {"cpu": "1"}}]}});
    assert_eq!(
        call(&api, "POST", "/api/v1/namespaces/d/limitranges", range).await.0,
        201
    );
    let mut big = pod("big", "2");
    big["spec"]["containers"][0]["resources"]["limits"] = json!({"cpu": "2"});
    let refused = until(&api, "POST", &format!("{PODS}?dryRun=All"), big, 403).await;
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("maximum cpu usage per Container is 1"),
        "{refused}"
    );
    let mut object = pod("small", "1");
    object["spec"]["containers"][0]["resources"] = json!({});
    let (code, created) = call(&api, "POST", PODS, object).await;
    assert_eq!(code, 201, "{created}");
    assert_eq!(
        created["spec"]["containers"][0]["resources"]["limits"],
        json!({"cpu": "500m"})
    );
}
