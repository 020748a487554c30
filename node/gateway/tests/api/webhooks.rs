//! Webhooks over a real connection: who is asked about what, what their answers do to a write, and what happens when they
//! give none.

use std::sync::atomic::Ordering;

use protocol::store::{ObjectStore, Precondition, Proposal, Write};
use protocol::{Draft, Key};

use super::hook_server::{HookServer, Reply, allow, patch, refuse};
use super::policy::until;
use super::*;

const WEBHOOKS: &str = "/apis/admissionregistration.k8s.io/v1";

fn any(resource: &str) -> Value {
    json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": [resource]}])
}

fn configuration(kind: &str, name: &str, client: Value, more: Value) -> Value {
    let mut webhook = json!({
        "name": format!("{name}.example.com"), "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "clientConfig": client, "rules": any("configmaps"),
    });
    for (name, value) in more.as_object().unwrap() {
        webhook[name] = value.clone();
    }
    json!({"kind": kind, "metadata": {"name": name}, "webhooks": [webhook]})
}

async fn mutating(api: &Api, name: &str, client: Value, more: Value) {
    let body = configuration("MutatingWebhookConfiguration", name, client, more);
    let path = format!("{WEBHOOKS}/mutatingwebhookconfigurations");
    let (code, answer) = call(api, "POST", &path, body).await;
    assert_eq!(code, 201, "{answer}");
}

async fn validating(api: &Api, name: &str, client: Value, more: Value) {
    let body = configuration("ValidatingWebhookConfiguration", name, client, more);
    let path = format!("{WEBHOOKS}/validatingwebhookconfigurations");
    let (code, answer) = call(api, "POST", &path, body).await;
    assert_eq!(code, 201, "{answer}");
}

/// Waits until this node asks the webhooks: what follows the store comes to it with the next event.
async fn until_refused(api: &Api, body: Value) -> Value {
    until(api, "POST", &format!("{MAPS}?dryRun=All"), body, 403).await
}

#[tokio::test]
async fn a_webhook_changes_what_is_stored_and_another_refuses_what_it_made() {
    let api = with_namespace().await;
    let changes = HookServer::start(&["127.0.0.1"], |review| {
        patch(
            review,
            json!([{"op": "add", "path": "/data/made", "value": "by the webhook"}]),
        )
    })
    .await;
    let judges = HookServer::start(&["127.0.0.1"], |review| {
        let object = &review["request"]["object"];
        assert_eq!(
            object["data"]["made"], "by the webhook",
            "it sees what the other one made"
        );
        match object["data"]["v"].as_str() {
            Some("bad") => refuse(review, "v is bad"),
            _ => allow(review, json!({"warnings": ["looks fine"]})),
        }
    })
    .await;
    mutating(&api, "changes", changes.by_url(), json!({})).await;
    validating(&api, "judges", judges.by_url(), json!({})).await;
    let refused = until_refused(&api, config_map("a", "bad")).await;
    assert_eq!(
        refused["message"],
        "admission webhook \"judges.example.com\" denied the request: v is bad"
    );
    assert_eq!(refused["reason"], "Forbidden");

    let response = api.handle(request("POST", MAPS, config_map("a", "1"))).await;
    assert_eq!(
        (response.code, response.warnings.as_slice()),
        (201, ["looks fine".to_owned()].as_slice())
    );
    let (_, stored) = call(&api, "GET", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!(stored["data"], json!({"v": "1", "made": "by the webhook"}));
    assert_eq!(
        (
            changes.connections.load(Ordering::Relaxed),
            judges.connections.load(Ordering::Relaxed)
        ),
        (1, 1),
        "connections are kept"
    );
}

#[tokio::test]
async fn webhooks_are_asked_about_every_way_to_write() {
    let api = with_namespace().await;
    let server = HookServer::start(&["127.0.0.1"], |review| match review["request"]["name"].as_str() {
        Some("probe") => refuse(review, "seen"),
        _ => allow(review, json!({})),
    })
    .await;
    let rules = json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"],
        "resources": ["configmaps", "*/scale", "*/status", "pods/binding", "pods/exec", "pods/eviction"]}]);
    validating(&api, "all", server.by_url(), json!({"rules": rules})).await;
    until_refused(&api, config_map("probe", "1")).await;
    server.seen.lock().clear();

    let one = format!("{MAPS}/a");
    assert_eq!(call(&api, "POST", MAPS, config_map("a", "1")).await.0, 201);
    assert_eq!(call(&api, "PUT", &one, config_map("a", "2")).await.0, 200);
    let mut merge = request("PATCH", &one, json!({"data": {"v": "3"}}));
    merge.content_type = "application/merge-patch+json".into();
    assert_eq!(send(&api, merge).await.0, 200);
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}, "data": {"k": "v"}});
    let mut apply = request("PATCH", &format!("{MAPS}/b?fieldManager=m"), applied);
    apply.content_type = "application/apply-patch+yaml".into();
    assert_eq!(send(&api, apply).await.0, 201);
    assert_eq!(call(&api, "DELETE", &one, Value::Null).await.0, 200);
    assert_eq!(call(&api, "DELETE", MAPS, Value::Null).await.0, 200);
    assert_eq!(
        server.asked(),
        [
            "CREATE configmaps a",
            "UPDATE configmaps a",
            "UPDATE configmaps a",
            "CREATE configmaps b",
            "DELETE configmaps a",
            "DELETE configmaps b",
            "DELETE configmaps kube-root-ca.crt",
        ]
    );
    {
        let seen = server.seen.lock();
        let request = &seen[1]["request"];
        assert_eq!(
            (&request["oldObject"]["data"]["v"], &request["object"]["data"]["v"]),
            (&json!("1"), &json!("2"))
        );
        assert_eq!(request["userInfo"]["username"], "admin");
        let deleted = &seen[4]["request"];
        assert_eq!(
            (&deleted["object"], &deleted["oldObject"]["data"]["v"]),
            (&Value::Null, &json!("3"))
        );
        assert_eq!(deleted["options"]["kind"], "DeleteOptions");
    }
    server.seen.lock().clear();

    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deployment = json!({"metadata": {"name": "w"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": template}});
    let deployments = "/apis/apps/v1/namespaces/d/deployments";
    assert_eq!(call(&api, "POST", deployments, deployment).await.0, 201);
    let scale = json!({"metadata": {"name": "w", "namespace": "d"}, "spec": {"replicas": 3}});
    let (code, scaled) = call(&api, "PUT", &format!("{deployments}/w/scale"), scale).await;
    assert_eq!((code, &scaled["spec"]["replicas"]), (200, &json!(3)), "{scaled}");
    let status = json!({"metadata": {"name": "w"}, "status": {"replicas": 1}});
    let mut patch = request("PATCH", &format!("{deployments}/w/status"), status);
    patch.content_type = "application/merge-patch+json".into();
    assert_eq!(send(&api, patch).await.0, 200);
    let pods = "/api/v1/namespaces/d/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(call(&api, "POST", pods, pod).await.0, 201);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"name": "n1"}});
    assert_eq!(call(&api, "POST", &format!("{pods}/p/binding"), binding).await.0, 201);
    let exec = request("POST", &format!("{pods}/p/exec"), Value::Null);
    let pairs = [("command", "ls"), ("stdout", "true"), ("container", "c")];
    let pairs: Vec<(String, String)> = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let exec = ApiRequest {
        query: pairs.iter().cloned().collect(),
        ..exec
    };
    let planned = api.plan_session(exec, &pairs).await;
    planned.map(drop).map_err(|refused| refused.code).unwrap();
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    assert_eq!(call(&api, "POST", &format!("{pods}/p/eviction"), eviction).await.0, 201);
    assert_eq!(
        server.asked(),
        [
            "UPDATE deployments/scale w",
            "UPDATE deployments/status w",
            "CREATE pods/binding p",
            "CONNECT pods/exec p",
            "CREATE pods/eviction p",
        ]
    );
    let seen = server.seen.lock();
    let kinds: Vec<&str> = seen
        .iter()
        .map(|review| review["request"]["object"]["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["Scale", "Deployment", "Binding", "PodExecOptions", "Eviction"]);
    assert_eq!(seen[3]["request"]["object"]["command"], json!(["ls"]));
}

#[tokio::test]
async fn a_webhook_that_gives_no_answer_fails_the_request_unless_it_may_fail() {
    let silent = HookServer::start(&["127.0.0.1"], |_| Reply::Silence).await;
    let broken = HookServer::start(&["127.0.0.1"], |_| Reply::Status(500, "boom")).await;
    let stranger = HookServer::start(&["127.0.0.1"], |review| allow(review, json!({}))).await;
    let dead = json!({"url": "https://127.0.0.1:1/hook", "caBundle": silent.ca_bundle});
    let distrusted = json!({"url": format!("https://{}/hook", stranger.address), "caBundle": silent.ca_bundle});
    let nowhere = json!({"service": {"namespace": "d", "name": "none"}, "caBundle": silent.ca_bundle});
    let cases = [
        (
            silent.by_url(),
            format!(
                "Post \"https://{}/hook?timeout=1s\": context deadline exceeded",
                silent.address
            ),
        ),
        (broken.by_url(), "an error on the server (\"boom\")".to_owned()),
        (
            dead,
            "Post \"https://127.0.0.1:1/hook?timeout=1s\": dial tcp 127.0.0.1:1: connect: connection refused".into(),
        ),
        (
            distrusted,
            format!(
                "Post \"https://{}/hook?timeout=1s\": tls: failed to verify certificate: x509: certificate signed by \
                 unknown authority",
                stranger.address
            ),
        ),
        (
            nowhere,
            "Post \"https://none.d.svc:443?timeout=1s\": service \"none\" not found".into(),
        ),
    ];
    for (client, why) in cases {
        let api = with_namespace().await;
        mutating(&api, "h", client.clone(), json!({"timeoutSeconds": 1})).await;
        let failed = until(&api, "POST", &format!("{MAPS}?dryRun=All"), config_map("a", "1"), 500).await;
        assert_eq!(
            failed["message"],
            format!("Internal error occurred: failed calling webhook \"h.example.com\": failed to call webhook: {why}")
        );
        let path = format!("{WEBHOOKS}/mutatingwebhookconfigurations/h");
        assert_eq!(
            call(&api, "DELETE", &path, Value::Null).await.0,
            200,
            "a broken webhook can be removed"
        );
        mutating(
            &api,
            "h",
            client,
            json!({"timeoutSeconds": 1, "failurePolicy": "Ignore"}),
        )
        .await;
        until(&api, "POST", MAPS, config_map("a", "1"), 201).await;
    }
}

#[tokio::test]
async fn a_dry_run_asks_no_webhook_that_has_effects() {
    let api = with_namespace().await;
    let server = HookServer::start(&["127.0.0.1"], |review| allow(review, json!({}))).await;
    let mut body = configuration("MutatingWebhookConfiguration", "h", server.by_url(), json!({}));
    body["webhooks"][0]["sideEffects"] = "Some".into();
    let path = format!("{WEBHOOKS}/mutatingwebhookconfigurations");
    assert_eq!(
        call(&api, "POST", &path, body).await.0,
        422,
        "v1 has no such side effects"
    );
    mutating(&api, "h", server.by_url(), json!({"sideEffects": "NoneOnDryRun"})).await;
    let dry = format!("{MAPS}?dryRun=All");
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while server.seen.lock().is_empty() {
            assert_eq!(call(&api, "POST", &dry, config_map("a", "1")).await.0, 201);
        }
    });
    waited.await.expect("the webhook is asked");
    let seen = server.seen.lock();
    assert_eq!(
        (&seen[0]["request"]["dryRun"], &seen[0]["request"]["options"]["dryRun"]),
        (&json!(true), &json!(["All"]))
    );
}

#[tokio::test]
async fn a_webhook_behind_a_service_is_found_by_its_ready_endpoints() {
    let store = MemoryStore::new();
    let api = with_namespace_over(Arc::clone(&store)).await;
    let server = HookServer::start(&["hook.d.svc"], |review| refuse(review, "by service")).await;
    let port = server.address.port();
    let service = json!({"metadata": {"name": "hook"}, "spec": {"ports": [{"name": "https", "port": 8443}]}});
    assert_eq!(
        call(&api, "POST", "/api/v1/namespaces/d/services", service).await.0,
        201
    );
    // Put into the store itself: the API would refuse an address of loopback, which is all that this test has.
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "hook-1", "namespace": "d", "uid": "u", "labels": {"kubernetes.io/service-name": "hook"}},
        "ports": [{"name": "https", "port": port}],
        "endpoints": [{"addresses": ["127.0.0.9"], "conditions": {"ready": false}}, {"addresses": ["127.0.0.1"]}],
    });
    let write = Write::Put {
        key: Key::new("endpointslices.discovery.k8s.io", "d", "hook-1"),
        precondition: Precondition::Absent,
        draft: Draft::encode(&slice, Vec::new()).unwrap(),
    };
    store.propose(Proposal::one(Cause(1), write)).await.unwrap();
    let client = json!({
        "service": {"namespace": "d", "name": "hook", "port": 8443, "path": "/x"}, "caBundle": server.ca_bundle,
    });
    validating(&api, "h", client, json!({})).await;
    let refused = until_refused(&api, config_map("a", "1")).await;
    assert_eq!(
        refused["message"],
        "admission webhook \"h.example.com\" denied the request: by service"
    );
}
