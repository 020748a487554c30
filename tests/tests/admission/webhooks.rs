//! Webhooks: by URL and by Service, with answers and without; asked about what clients write and what controllers create.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tests::https_server::{HttpsServer, Reply, Request};

use super::World;

/// A webhook: it labels what it is asked about at `/mutate`, refuses `bad` at `/judge`, and says nothing at `/silent`.
fn hook(request: &Request) -> Reply {
    let review = &request.body["request"];
    let mut response = json!({"uid": review["uid"], "allowed": true});
    match request.path.split('?').next().unwrap_or_default() {
        "/mutate" => {
            let labels = json!([{"op": "add", "path": "/metadata/labels", "value": {"made-by": "webhook"}}]);
            response["patchType"] = "JSONPatch".into();
            response["patch"] = STANDARD.encode(labels.to_string()).into();
        }
        "/judge" => {
            let bad = review["object"]["data"]["v"] == "bad"
                && review["object"]["metadata"]["labels"]["made-by"] == "webhook";
            response["allowed"] = (!bad).into();
            response["status"] = json!({"message": "v is bad", "code": 403});
            response["warnings"] = json!(["seen by the webhook"]);
        }
        "/annotate" => {
            let annotations = json!([{"op": "add", "path": "/metadata/annotations", "value": {"made-by": "webhook"}}]);
            response["patchType"] = "JSONPatch".into();
            response["patch"] = STANDARD.encode(annotations.to_string()).into();
        }
        "/never" => {
            response["allowed"] = false.into();
            response["status"] = json!({"message": "never", "code": 403});
        }
        _ => return Reply::Silence,
    }
    Reply::Json(
        200,
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}),
    )
}

fn configuration(kind: &str, name: &str, client: &Value, more: Value) -> String {
    let mut webhook = json!({
        "name": format!("{name}.example.com"), "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "clientConfig": client, "timeoutSeconds": 1,
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
    });
    for (name, value) in more.as_object().expect("fields") {
        webhook[name] = value.clone();
    }
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "webhooks": [webhook]})
        .to_string()
}

pub fn change_and_refuse(world: &World) {
    let host = world.own_address();
    let server = HttpsServer::start(host, &[&host.to_string(), "hook.default.svc"], None, hook);
    let by_url = json!({"url": format!("https://{}/mutate", server.address), "caBundle": server.ca_bundle});
    world.kubectl.apply(&configuration(
        "MutatingWebhookConfiguration",
        "label",
        &by_url,
        json!({}),
    ));
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hook"},
        "spec": {"ports": [{"name": "https", "port": 443}]}});
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "hook-1", "labels": {"kubernetes.io/service-name": "hook"}},
        "ports": [{"name": "https", "port": server.address.port()}], "endpoints": [{"addresses": [host.to_string()]}],
    });
    world.kubectl.apply(&service.to_string());
    world.kubectl.apply(&slice.to_string());
    let by_service = json!({
        "service": {"namespace": "default", "name": "hook", "path": "/judge"}, "caBundle": server.ca_bundle,
    });
    world.kubectl.apply(&configuration(
        "ValidatingWebhookConfiguration",
        "judge",
        &by_service,
        json!({}),
    ));
    // Only an object that the first one has labelled is refused by the second: both are asked, in this order.
    world.until_refused(
        "v=bad",
        "admission webhook \"judge.example.com\" denied the request: v is bad",
    );
    let output = world.kubectl.output("create configmap good --from-literal=v=good");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("Warning: seen by the webhook"),
        "{said}"
    );
    let stored = world.kubectl.get("configmap good");
    assert_eq!(stored["metadata"]["labels"], json!({"made-by": "webhook"}));
    world.kubectl.run("create namespace elsewhere");
    world
        .kubectl
        .run("create configmap bad --from-literal=v=bad -n elsewhere");
    world.kubectl.run("delete mutatingwebhookconfiguration label");
    world.kubectl.run("delete validatingwebhookconfiguration judge");
    world.until_passed("v=bad");
}

pub fn give_no_answer(world: &World) {
    let host = world.own_address();
    let server = HttpsServer::start(host, &[&host.to_string()], None, hook);
    let silent = json!({"url": format!("https://{}/silent", server.address), "caBundle": server.ca_bundle});
    let dead = json!({"url": format!("https://{host}:1/"), "caBundle": server.ca_bundle});
    let nowhere = json!({"service": {"namespace": "default", "name": "none"}, "caBundle": server.ca_bundle});
    let cases = [
        (silent, "context deadline exceeded".to_owned()),
        (dead, format!("dial tcp {host}:1: connect: connection refused")),
        (nowhere, "service \"none\" not found".to_owned()),
    ];
    for (client, why) in cases {
        let kind = "ValidatingWebhookConfiguration";
        let kubectl = &world.kubectl;
        kubectl.apply(&configuration(kind, "mute", &client, json!({"failurePolicy": "Fail"})));
        world.until_refused(
            "v=1",
            "failed calling webhook \"mute.example.com\": failed to call webhook",
        );
        world.until_refused("v=1", &why);
        kubectl.apply(&configuration(
            kind,
            "mute",
            &client,
            json!({"failurePolicy": "Ignore"}),
        ));
        world.until_passed("v=1");
        kubectl.run("delete validatingwebhookconfiguration mute");
    }
}

pub fn judge_what_controllers_create(world: &World) {
    let host = world.own_address();
    let server = HttpsServer::start(host, &[&host.to_string()], None, hook);
    let at = |path: &str| json!({"url": format!("https://{}{path}", server.address), "caBundle": server.ca_bundle});
    let pods =
        json!({"rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]});
    let kubectl = &world.kubectl;
    let mutating = configuration(
        "MutatingWebhookConfiguration",
        "annotate",
        &at("/annotate"),
        pods.clone(),
    );
    kubectl.apply(&mutating);
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "none.invalid/i:1"}]}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template}});
    // Until the leader has heard of the webhook, pods come without it: each try makes new ones.
    let annotated = || {
        kubectl.apply(&deployment.to_string());
        let pods = kubectl.get("pods -l app=web");
        let pod = &pods["items"][0];
        if pod["metadata"]["annotations"]["made-by"] == "webhook" {
            return Ok(());
        }
        if pod.is_object() {
            kubectl.run("delete deployment web --cascade=foreground");
        }
        Err(pods.to_string())
    };
    tests::wait_for("a controller's pod is changed", super::HEARD, annotated);
    let validating = configuration("ValidatingWebhookConfiguration", "never", &at("/never"), pods);
    kubectl.apply(&validating);
    let refused = || {
        kubectl.run("scale deployment web --replicas=0");
        kubectl.run("scale deployment web --replicas=2");
        let events = kubectl.run("get events --field-selector reason=FailedCreate");
        let said = "admission webhook \"never.example.com\" denied the request: never";
        if events.contains(said) { Ok(()) } else { Err(events) }
    };
    tests::wait_for("a controller's pod is refused, and that is told", super::HEARD, refused);
    kubectl.run("delete mutatingwebhookconfiguration annotate");
    kubectl.run("delete validatingwebhookconfiguration never");
    kubectl.run("delete deployment web");
}
