//! Extensions of the API: what a webhook says of a refusal reaches the client whole, what webhooks and policies say for the audit
//! log stands in it, and an aggregated API gets queries and upgrades as the client sent them.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::{Value, json};
use tests::https::Endpoint;
use tests::https_server::{HttpsServer, Reply, Request};
use tests::{Cluster, Kubectl, wait_for};

use crate::SOON;
use crate::audit::await_event;

/// The address of the test itself, as nodes reach it.
fn own_address(cluster: &Cluster) -> Ipv4Addr {
    let [a, b, c, _] = cluster.nodes[0].machine.address.octets();
    Ipv4Addr::new(a, b, c, 254)
}

/// One request to the first node, over a connection of its own.
fn ask(cluster: &Cluster, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let endpoint = Endpoint::load(&cluster.kubeconfig(0)).expect("the node's kubeconfig");
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let asked = endpoint.once(method, path, &[("Content-Type", "application/json")], body.as_bytes());
    let answer = runtime().block_on(async { tokio::time::timeout(SOON, asked).await });
    let answer = answer.expect("an answer in time").expect("an answer");
    (
        answer.head.code,
        serde_json::from_slice(&answer.body).unwrap_or_default(),
    )
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A webhook that lets nothing old pass, and says so in every way.
fn judge(request: &Request) -> Reply {
    let review = &request.body["request"];
    let is_old = review["object"]["data"]["age"] == "old";
    let mut response = json!({"uid": review["uid"], "allowed": !is_old, "auditAnnotations": {"seen": review["name"]}});
    if is_old {
        response["status"] = json!({
            "code": 409, "reason": "TooOld", "message": "it is too old",
            "details": {"causes": [{"reason": "Aged", "field": "data.age", "message": "old"}], "retryAfterSeconds": 7},
        });
    }
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    Reply::Json(200, review)
}

pub fn what_webhooks_and_policies_say_is_audited(cluster: &Cluster, client: &Kubectl) {
    let host = own_address(cluster);
    let server = HttpsServer::start(host, &[&host.to_string()], None, judge);
    let namespaces = json!({"matchLabels": {"kubernetes.io/metadata.name": "extended"}});
    let maps = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]});
    let webhook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "age"},
        "webhooks": [{
            "name": "age.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None", "rules": [maps],
            "clientConfig": {"url": format!("https://{}/", server.address), "caBundle": server.ca_bundle},
            "namespaceSelector": namespaces,
        }],
    });
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "colours"},
        "spec": {
            "matchConstraints": {"resourceRules": [maps]},
            "validations": [{"expression": "object.data.?colour.orValue('') == 'red'", "message": "it is not red"}],
            "auditAnnotations": [{"key": "colour", "valueExpression": "'it is ' + object.data.?colour.orValue('none')"}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "colours-here"},
        "spec": {"policyName": "colours", "validationActions": ["Audit"], "matchResources": {"namespaceSelector": namespaces}},
    });
    client.run("create namespace extended");
    for object in [&policy, &binding, &webhook] {
        client.apply(&object.to_string());
    }
    let path = "/api/v1/namespaces/extended/configmaps";
    let map = |name: &str, age: &str| json!({"metadata": {"name": name}, "data": {"age": age, "colour": "blue"}});
    let (refused, _) = wait_for("the node has heard of the webhook", SOON, || {
        match ask(cluster, "POST", &format!("{path}?dryRun=All"), &map("refused", "old")) {
            (409, status) => Ok(status),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(
        (&refused["reason"], &refused["message"], &refused["details"]),
        (
            &json!("TooOld"),
            &json!("admission webhook \"age.example.com\" denied the request: it is too old"),
            &json!({"causes": [{"reason": "Aged", "field": "data.age", "message": "old"}], "retryAfterSeconds": 7}),
        ),
        "{refused}"
    );
    // Another node's policies may be heard of later than webhooks: the last of these objects has met both.
    let mut number = 0;
    let (event, _) = wait_for("the policy's annotations", SOON, || {
        number += 1;
        let name = format!("kept-{number}");
        let (code, answer) = ask(cluster, "POST", path, &map(&name, "new"));
        assert_eq!(code, 201, "{answer}");
        let event = await_event(cluster, "the ConfigMap", |event| {
            event["objectRef"]["name"] == *name && event["verb"] == "create"
        });
        match event["annotations"]["colours/colour"].is_string() {
            true => Ok(event),
            false => Err(event.to_string()),
        }
    });
    let said = |key: &str| event["annotations"][key].as_str().unwrap_or_default();
    assert_eq!(said("colours/colour"), "it is blue");
    assert_eq!(said("age.example.com/seen"), format!("kept-{number}"));
    let failed: Value =
        serde_json::from_str(said("validation.policy.admission.k8s.io/validation_failure")).expect("JSON");
    assert_eq!(
        failed,
        json!([{"message": "it is not red", "policy": "colours", "binding": "colours-here", "expressionIndex": "0",
            "validationActions": ["Audit"]}])
    );
    let event = await_event(cluster, "the refusal", |event| {
        event["responseStatus"]["reason"] == "TooOld"
    });
    assert_eq!(event["annotations"]["age.example.com/seen"], "refused", "{event}");
    for kind in [
        "validatingwebhookconfiguration age",
        "validatingadmissionpolicybinding colours-here",
        "validatingadmissionpolicy colours",
    ] {
        client.run(&format!("delete {kind}"));
    }
}

/// A server of one resource: it shows the query that it got, and upgrades what asks for it.
fn pond(request: &Request) -> Reply {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    match path {
        "/apis/pond.example.com/v1" => Reply::Json(
            200,
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "pond.example.com/v1", "resources": [
                {"name": "carps", "singularName": "carp", "namespaced": true, "kind": "Carp", "verbs": ["get", "list"]},
                {"name": "carps/exec", "singularName": "", "namespaced": true, "kind": "Carp", "verbs": ["get", "create"]}]}),
        ),
        "/openapi/v2" => Reply::Json(
            200,
            json!({"swagger": "2.0",
                "paths": {"/apis/pond.example.com/v1/carps": {"get": {"schema": {"$ref": "#/definitions/com.example.pond.v1.Carp"}}}},
                "definitions": {"com.example.pond.v1.Carp": {"type": "object", "description": "It lives in a pond.",
                    "x-kubernetes-group-version-kind": [{"group": "pond.example.com", "version": "v1", "kind": "Carp"}]}}}),
        ),
        _ if !request.header("upgrade").is_empty() && path.ends_with("/old/exec") => Reply::Json(
            410,
            json!({"kind": "Status", "apiVersion": "v1", "code": 410, "reason": "Gone", "message": "it died"}),
        ),
        _ if !request.header("upgrade").is_empty() => {
            let protocol = request.header("sec-websocket-protocol").join(",");
            let user = request.header("x-remote-user").join(",");
            Reply::Echo(format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Protocol: {protocol}\r\n\r\n{user} {query}\n"
            ))
        }
        _ => Reply::Json(
            200,
            json!({"kind": "Carp", "apiVersion": "pond.example.com/v1", "spec": {"query": query}}),
        ),
    }
}

pub fn an_aggregated_api_gets_what_was_sent(cluster: &Cluster, client: &Kubectl) {
    let host = own_address(cluster);
    let server = HttpsServer::start(host, &["pond.default.svc"], None, pond);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "pond"}, "spec": {"ports": [{"port": 443}]}});
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "pond-1", "labels": {"kubernetes.io/service-name": "pond"}},
        "ports": [{"name": "", "port": server.address.port()}], "endpoints": [{"addresses": [host.to_string()]}],
    });
    let api_service = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.pond.example.com"},
        "spec": {"group": "pond.example.com", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 15,
            "service": {"namespace": "default", "name": "pond"}, "caBundle": server.ca_bundle},
    });
    for object in [service, slice, api_service] {
        client.apply(&object.to_string());
    }
    client.run("wait --for=condition=Available apiservice/v1.pond.example.com --timeout=30s");
    let carps = "/apis/pond.example.com/v1/namespaces/default/carps";
    let query = "command=ls&command=%2Dl&command=a%20b&tty=true";
    wait_for("the node has heard of the API", SOON, || {
        match ask(cluster, "GET", &format!("{carps}/a?{query}"), &Value::Null) {
            (200, carp) if carp["spec"]["query"] == query => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });

    let upgrade = |path: &str| {
        let endpoint = Endpoint::load(&cluster.kubeconfig(0)).expect("the node's kubeconfig");
        let headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Protocol", "v5.channel.k8s.io"),
        ];
        let request = endpoint.request("GET", path, &headers, b"");
        (endpoint, request)
    };
    let expected = format!("kubernetes-admin {query}\n");
    let session = async {
        let (endpoint, request) = upgrade(&format!("{carps}/a/exec?{query}"));
        let mut connection = endpoint.connect().await?;
        connection.send(&request).await?;
        let head = connection.head().await?;
        assert_eq!(head.code, 101);
        let first = connection.take(expected.len()).await?;
        assert_eq!(first, expected.as_bytes());
        // Both directions stay open, each part at once.
        for word in ["ping", "and again"] {
            connection.send(word.as_bytes()).await?;
            let back = connection.take(word.len()).await?;
            assert_eq!(back, word.to_uppercase().as_bytes());
        }
        let (endpoint, request) = upgrade(&format!("{carps}/old/exec"));
        let refused = endpoint.connect().await?.ask(&request).await?;
        assert_eq!(refused.head.code, 410);
        Ok::<(), tests::https::HttpsError>(())
    };
    let done = runtime().block_on(async { tokio::time::timeout(SOON, session).await });
    done.expect("the sessions end in time").expect("the sessions");
    // Who may not is refused here, before anybody else is asked.
    let refused = client.refused("get --raw /apis/pond.example.com/v1/namespaces/default/carps/a/exec --as jane");
    assert!(refused.contains("Forbidden"), "{refused}");

    let document: Value = serde_json::from_str(&client.run("get --raw /openapi/v2")).expect("JSON");
    assert!(document["paths"]["/apis/pond.example.com/v1/carps"].is_object());
    assert!(document["paths"]["/api/v1/namespaces/{namespace}/pods"].is_object());
    let explained = client.run("explain carp --output=plaintext-openapiv2");
    assert!(explained.contains("It lives in a pond."), "{explained}");
    client.run("delete apiservice v1.pond.example.com");
    wait_for("the API is gone", Duration::from_secs(10), || {
        match ask(cluster, "GET", carps, &Value::Null) {
            (404, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}
