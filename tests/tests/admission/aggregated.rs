//! An API that another server serves: listed, discovered, read and written through the nodes' own API, and missed when it goes.

use std::time::Duration;

use serde_json::{Value, json};
use tests::https_server::{HttpsServer, Reply, Request};
use tests::wait_for;

use super::World;

const NAME: &str = "v1alpha1.wardle.example.com";

/// A server of one resource. It believes the front proxy about who asks, and shows that in what it serves.
fn wardle(request: &Request) -> Reply {
    let user = request.header("x-remote-user").join(",");
    let groups = request.header("x-remote-group").join(",");
    let flunder = |name: &str| {
        json!({"apiVersion": "wardle.example.com/v1alpha1", "kind": "Flunder",
            "metadata": {"name": name, "namespace": "default", "annotations": {"user": user, "groups": groups}}})
    };
    let base = "/apis/wardle.example.com/v1alpha1";
    let path = request.path.split('?').next().unwrap_or_default();
    let document = match path.strip_prefix(base) {
        Some("") => {
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.example.com/v1alpha1",
            "resources": [{"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder",
                "verbs": ["get", "list", "create"], "shortNames": ["fl"]}]})
        }
        Some("/namespaces/default/flunders") if request.method == "POST" => {
            let mut created = request.body.clone();
            created["metadata"]["uid"] = "u-1".into();
            return Reply::Json(201, created);
        }
        Some("/namespaces/default/flunders") => {
            json!({"apiVersion": "wardle.example.com/v1alpha1", "kind": "FlunderList",
            "metadata": {}, "items": [flunder("fish"), flunder("chips")]})
        }
        Some("/namespaces/default/flunders/fish") => flunder("fish"),
        _ => {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404,
                "message": "no such flunder"});
            return Reply::Json(404, status);
        }
    };
    Reply::Json(200, document)
}

pub fn is_listed_served_and_missed(world: &World) {
    let kubectl = &world.kubectl;
    let local = || {
        let text = kubectl.run("get apiservices");
        let has = |name: &str| {
            text.lines()
                .any(|line| line.starts_with(name) && line.contains("Local") && line.contains("True"))
        };
        if has("v1. ") && has("v1.apps") {
            Ok(())
        } else {
            Err(text)
        }
    };
    wait_for("the built-in groups are listed", Duration::from_secs(20), local);
    let front_proxy = || {
        let published = kubectl.output("get configmap -n kube-system extension-apiserver-authentication -o json");
        let value: Value = serde_json::from_slice(&published.stdout).unwrap_or_default();
        let ca = value["data"]["requestheader-client-ca-file"]
            .as_str()
            .map(str::to_owned);
        ca.ok_or_else(|| value.to_string())
    };
    let (ca, _) = wait_for(
        "the front proxy's CA is published",
        Duration::from_secs(20),
        front_proxy,
    );

    let host = world.own_address();
    let server = HttpsServer::start(host, &["wardle.default.svc"], Some(&ca), wardle);
    register(world, &server);
    available(world, "True", "Passed");
    let listed = kubectl.run("get flunders");
    assert!(listed.contains("fish") && listed.contains("chips"), "{listed}");
    let one = kubectl.get("fl fish");
    assert_eq!(one["metadata"]["annotations"]["user"], "kubernetes-admin", "{one}");
    let groups = one["metadata"]["annotations"]["groups"].as_str().unwrap_or_default();
    assert!(
        groups.contains("system:masters") && groups.contains("system:authenticated"),
        "{groups}"
    );
    let refused = kubectl.refused("get flunders none");
    assert!(refused.contains("no such flunder"), "{refused}");
    let resources = kubectl.run("api-resources --api-group=wardle.example.com --no-headers");
    assert!(
        resources.contains("flunders") && resources.contains("Flunder"),
        "{resources}"
    );
    let manifest = json!({"apiVersion": "wardle.example.com/v1alpha1", "kind": "Flunder", "metadata": {"name": "new"}});
    let made = kubectl.fed("create", &manifest.to_string());
    let made = String::from_utf8_lossy(&made.stdout).into_owned() + &String::from_utf8_lossy(&made.stderr);
    assert!(made.contains("flunder.wardle.example.com/new created"), "{made}");

    // Who may read flunders is decided here, not there.
    let refused = kubectl.refused("get flunders --as=jane");
    assert!(
        refused.contains(
            "flunders.wardle.example.com is forbidden: User \"jane\" cannot list resource \"flunders\" in API group \
             \"wardle.example.com\" in the namespace \"default\""
        ),
        "{refused}"
    );
    kubectl.run("create clusterrole flunders --verb=list --resource=flunders.wardle.example.com");
    kubectl.run("create clusterrolebinding flunders --clusterrole=flunders --user=jane");
    wait_for("jane may list flunders", super::HEARD, || {
        let output = kubectl.output("get flunders --as=jane");
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    });

    drop(server);
    available(world, "False", "FailedDiscoveryCheck");
    let refused = kubectl.refused("get --raw /apis/wardle.example.com/v1alpha1/namespaces/default/flunders");
    assert!(
        refused.contains("the server is currently unable to handle the request"),
        "{refused}"
    );
    kubectl.run(&format!("delete apiservice {NAME}"));
    wait_for("the group is gone", super::HEARD, || {
        let groups = kubectl.run("api-versions");
        if groups.contains("wardle") { Err(groups) } else { Ok(()) }
    });
}

fn register(world: &World, server: &HttpsServer) {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "wardle"},
        "spec": {"ports": [{"port": 443}]}});
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "wardle-1", "labels": {"kubernetes.io/service-name": "wardle"}},
        "ports": [{"name": "", "port": server.address.port()}],
        "endpoints": [{"addresses": [server.address.ip().to_string()]}],
    });
    let api_service = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": NAME},
        "spec": {"group": "wardle.example.com", "version": "v1alpha1", "groupPriorityMinimum": 1000, "versionPriority": 15,
            "service": {"namespace": "default", "name": "wardle"}, "caBundle": server.ca_bundle},
    });
    for object in [service, slice, api_service] {
        world.kubectl.apply(&object.to_string());
    }
}

fn available(world: &World, status: &str, reason: &str) {
    let check = || {
        let object = world.kubectl.get(&format!("apiservice {NAME}"));
        let condition = &object["status"]["conditions"][0];
        if condition["status"] == status && condition["reason"] == reason {
            Ok(())
        } else {
            Err(object["status"].to_string())
        }
    };
    wait_for(&format!("it is available: {status}"), Duration::from_secs(20), check);
}
