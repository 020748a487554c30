//! Custom objects that a webhook converts between versions: through kubectl and every node, while the stored version changes, and
//! while the webhook is down or lies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::{Value, json};
use tests::https_server::{HttpsServer, Reply, Request};
use tests::{Following, wait_for};

use super::{HEARD, World};

/// What the webhook does.
const CONVERTS: u8 = 0;
const FAILS: u8 = 1;
const LIES: u8 = 2;

/// `v1beta1` holds `hostPort`, `v1` holds `host` and `port`.
fn convert(request: &Request, mode: u8) -> Reply {
    let asked = &request.body["request"];
    let mut response = json!({"uid": asked["uid"], "result": {"status": "Success"}});
    if mode == FAILS {
        response["result"] = json!({"status": "Failed", "message": "it has no will to"});
    }
    let mut objects = asked["objects"].as_array().cloned().unwrap_or_default();
    for object in &mut objects {
        let spec = object["spec"].clone();
        let text = |name: &str| spec[name].as_str().unwrap_or_default().to_owned();
        object["apiVersion"] = asked["desiredAPIVersion"].clone();
        object["spec"] = if asked["desiredAPIVersion"] == "net.example.com/v1" {
            let joined = text("hostPort");
            let (host, port) = joined.split_once(':').unwrap_or((&joined, ""));
            json!({"host": host, "port": port})
        } else {
            json!({"hostPort": format!("{}:{}", text("host"), text("port"))})
        };
        if mode == LIES {
            object["metadata"]["uid"] = "another".into();
        }
    }
    response["convertedObjects"] = objects.into();
    Reply::Json(
        200,
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response}),
    )
}

fn definition(client: &Value, storage: &str) -> String {
    let text = json!({"type": "string"});
    let version = |name: &str, properties: Value| {
        json!({
            "name": name, "served": true, "storage": name == storage,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": properties}}}},
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "places.net.example.com"},
        "spec": {
            "group": "net.example.com", "scope": "Namespaced", "names": {"plural": "places", "kind": "Place"},
            "conversion": {"strategy": "Webhook", "webhook": {
                "clientConfig": client, "conversionReviewVersions": ["v1"]}},
            "versions": [
                version("v1beta1", json!({"hostPort": text})),
                version("v1", json!({"host": text, "port": text})),
            ],
        },
    })
    .to_string()
}

fn old(name: &str, host_port: &str) -> String {
    json!({"apiVersion": "net.example.com/v1beta1", "kind": "Place", "metadata": {"name": name},
        "spec": {"hostPort": host_port}})
    .to_string()
}

const OLD: &str = "places.v1beta1.net.example.com";
const NEW: &str = "places.v1.net.example.com";

pub fn between_versions(world: &World) {
    let host = world.own_address();
    let mode = Arc::new(AtomicU8::new(CONVERTS));
    let does = Arc::clone(&mode);
    let server = HttpsServer::start(host, &[&host.to_string()], None, move |request| {
        convert(request, does.load(Ordering::Relaxed))
    });
    let client = json!({"url": format!("https://{}/convert", server.address), "caBundle": server.ca_bundle});
    let kubectl = &world.kubectl;
    kubectl.apply(&definition(&client, "v1beta1"));
    kubectl.run("wait --for=condition=Established crd/places.net.example.com --timeout=30s");

    kubectl.apply(&old("a", "h1:1"));
    kubectl.apply(&old("b", "h2:2"));
    let told = kubectl.get(&format!("{NEW} a"));
    assert_eq!(told["spec"], json!({"host": "h1", "port": "1"}));
    let list = kubectl.get(NEW);
    assert_eq!(list["items"][1]["spec"], json!({"host": "h2", "port": "2"}));
    // Every node converts, and a watch tells each object in its version.
    let leader = world.cluster.kubectl(0);
    let mut watch = leader.command();
    watch.args([
        "get",
        NEW,
        "--watch",
        "-o",
        "jsonpath={.metadata.name}={.spec.host}:{.spec.port}{\"\\n\"}",
    ]);
    let watch = Following::start(watch);
    watch.expect(&["a=h1:1"], HEARD);
    watch.expect(&["b=h2:2"], HEARD);

    kubectl.run(&format!(
        "patch {NEW} a --type=merge -p {{\"spec\":{{\"port\":\"9\"}}}}"
    ));
    watch.expect(&["a=h1:9"], HEARD);
    drop(watch);
    assert_eq!(kubectl.get(&format!("{OLD} a"))["spec"], json!({"hostPort": "h1:9"}));
    let applied = json!({"apiVersion": "net.example.com/v1", "kind": "Place", "metadata": {"name": "c"},
        "spec": {"host": "h3", "port": "3"}});
    let output = kubectl.fed("apply --server-side --field-manager=me", &applied.to_string());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = kubectl.get(&format!("{OLD} c --show-managed-fields"));
    assert_eq!(told["spec"], json!({"hostPort": "h3:3"}));
    assert_eq!(told["metadata"]["managedFields"][0]["apiVersion"], "net.example.com/v1");

    store_in_another_version(world, &client, &mode);
    give_no_answer(world, &mode, &server.address.to_string());
    drop(server);
    let down = kubectl.refused(&format!("get {OLD} a"));
    assert!(
        down.contains("conversion webhook for net.example.com/v1, Kind=Place failed: Post"),
        "{down}"
    );
    kubectl.run("delete crd places.net.example.com");
}

fn store_in_another_version(world: &World, client: &Value, mode: &AtomicU8) {
    let kubectl = &world.kubectl;
    kubectl.apply(&definition(client, "v1"));
    let crd = kubectl.get("crd places.net.example.com");
    assert_eq!(crd["status"]["storedVersions"], json!(["v1beta1", "v1"]));
    assert_eq!(kubectl.get(&format!("{OLD} b"))["spec"], json!({"hostPort": "h2:2"}));
    assert_eq!(
        kubectl.get(&format!("{NEW} b"))["spec"],
        json!({"host": "h2", "port": "2"})
    );
    // Objects are written again as they were read: so they come into the new version. A node that has not heard of the change
    // stores in the old one still. What is stored in a version is told in it without the webhook.
    let migrated = || {
        for name in ["a", "b", "c"] {
            let object = kubectl.get(&format!("{NEW} {name}"));
            let output = kubectl.fed("replace", &object.to_string());
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        mode.store(FAILS, Ordering::Relaxed);
        let told = kubectl.output(&format!("get {NEW}"));
        mode.store(CONVERTS, Ordering::Relaxed);
        match told.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&told.stderr).into_owned()),
        }
    };
    wait_for("all objects are in the new version", HEARD, migrated);
}

fn give_no_answer(world: &World, mode: &AtomicU8, address: &str) {
    let kubectl = &world.kubectl;
    let of = "conversion webhook for net.example.com/v1, Kind=Place";
    for (does, expected) in [
        (FAILS, format!("{of} failed: it has no will to")),
        (
            LIES,
            format!("{of} returned invalid converted object at index 0: must have the same UID"),
        ),
    ] {
        mode.store(does, Ordering::Relaxed);
        for command in [
            format!("get {OLD} a"),
            format!("get {OLD}"),
            format!("delete {OLD} a"),
            format!("patch {OLD} a --type=merge -p {{\"spec\":{{\"hostPort\":\"x:1\"}}}}"),
        ] {
            let said = kubectl.refused(&command);
            assert!(
                said.contains(&expected),
                "{command} with the webhook at {address}: {said}"
            );
        }
        assert_eq!(
            kubectl.get(&format!("{NEW} a"))["spec"]["host"],
            "h1",
            "what is stored so is told"
        );
    }
    mode.store(CONVERTS, Ordering::Relaxed);
}
