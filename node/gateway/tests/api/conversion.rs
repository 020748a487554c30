//! Conversion of custom objects by a webhook, over a real connection: what is asked when, and what comes of its answers.

use std::sync::atomic::AtomicU8;

use super::custom::{DEFINITIONS, is_established, until};
use super::hook_server::{HookServer, Reply, allow, refuse};
use super::*;

use gateway::definitions;
use protocol::Key;
use protocol::store::ObjectStore;

const OLD: &str = "/apis/example.com/v1beta1/namespaces/d/endpointers";
const NEW: &str = "/apis/example.com/v1/namespaces/d/endpointers";
const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/endpointers.example.com";

/// What the webhook does.
const CONVERTS: u8 = 0;
const FAILS: u8 = 1;
const LIES: u8 = 2;

fn split(object: &mut Value) {
    let text = object["spec"]["hostPort"].as_str().unwrap_or_default().to_owned();
    let (host, port) = text.split_once(':').unwrap_or((&text, ""));
    object["apiVersion"] = "example.com/v1".into();
    object["spec"] = json!({"host": host, "port": port});
}

fn join(object: &mut Value) {
    let text = |name: &str| object["spec"][name].as_str().unwrap_or_default().to_owned();
    let joined = format!("{}:{}", text("host"), text("port"));
    object["apiVersion"] = "example.com/v1beta1".into();
    object["spec"] = json!({"hostPort": joined});
}

fn answer(review: &Value, mode: u8) -> Reply {
    let request = &review["request"];
    let mut response = json!({"uid": request["uid"], "result": {"status": "Success"}});
    if mode == FAILS {
        response["result"] = json!({"status": "Failed", "message": "it has no will to"});
    } else {
        let mut objects = request["objects"].as_array().cloned().unwrap_or_default();
        for object in &mut objects {
            match request["desiredAPIVersion"].as_str() {
                Some("example.com/v1") => split(object),
                _ => join(object),
            }
            object["metadata"]["annotations"]["converted"] = "by the webhook".into();
            if mode == LIES {
                object["metadata"]["name"] = "other".into();
            }
        }
        response["convertedObjects"] = objects.into();
    }
    Reply::Json(json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response}))
}

fn definition(client: &Value, storage: &str) -> Value {
    let text = json!({"type": "string"});
    let version = |name: &str, properties: Value, field: &str| {
        json!({
            "name": name, "served": true, "storage": name == storage,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": properties},
            }}},
            "selectableFields": [{"jsonPath": field}],
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "endpointers.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "endpointers", "singular": "endpointer", "kind": "Endpointer"},
            "conversion": {"strategy": "Webhook", "webhook": {
                "clientConfig": client, "conversionReviewVersions": ["v1"],
            }},
            "versions": [
                version("v1beta1", json!({"hostPort": text}), ".spec.hostPort"),
                version("v1", json!({"host": text, "port": text}), ".spec.host"),
            ],
        },
    })
}

struct World {
    api: Api,
    store: Arc<MemoryStore>,
    hook: HookServer,
    mode: Arc<AtomicU8>,
}

impl World {
    async fn new() -> World {
        let mode = Arc::new(AtomicU8::new(CONVERTS));
        let does = Arc::clone(&mode);
        let hook = HookServer::start(&["127.0.0.1"], move |review| {
            answer(review, does.load(Ordering::Relaxed))
        })
        .await;
        let store = MemoryStore::new();
        let api = with_namespace_over(Arc::clone(&store)).await;
        let now: gateway::watch::Now = Arc::new(|| UnixMillis(1_800_000_000_000));
        tokio::spawn(definitions::keep(Arc::clone(&store) as Arc<dyn ObjectStore>, now));
        let (code, body) = call(&api, "POST", DEFINITIONS, definition(&hook.by_url(), "v1beta1")).await;
        assert_eq!(code, 201, "{body}");
        until(&api, PATH, is_established).await;
        until(&api, NEW, |code, _| code == 200).await;
        World { api, store, hook, mode }
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        call(&self.api, method, path, body).await
    }

    async fn patch(&self, path: &str, content_type: &str, body: Value) -> (u16, Value) {
        let mut patch = request("PATCH", path, body);
        patch.content_type = content_type.into();
        send(&self.api, patch).await
    }

    /// What the store holds.
    async fn stored(&self, name: &str) -> Value {
        let key = Key::new("endpointers.example.com", "d", name);
        self.store.read(&key).await.unwrap().unwrap().value().unwrap()
    }

    /// How many objects each review since the last look asked for.
    fn asked(&self) -> Vec<usize> {
        let seen = std::mem::take(&mut *self.hook.seen.lock());
        let objects = |review: &Value| review["request"]["objects"].as_array().map_or(0, Vec::len);
        seen.iter().map(objects).collect()
    }

    fn does(&self, mode: u8) {
        self.mode.store(mode, Ordering::Relaxed);
    }

    /// Changes the version that is stored, and waits until this node has heard of it.
    async fn store_in(&self, storage: &str) {
        let (_, now) = self.call("GET", PATH, Value::Null).await;
        let mut changed = definition(&self.hook.by_url(), storage);
        changed["metadata"]["resourceVersion"] = now["metadata"]["resourceVersion"].clone();
        let (code, body) = self.call("PUT", PATH, changed).await;
        assert_eq!(code, 200, "{body}");
        assert_eq!(body["status"]["storedVersions"], json!(["v1beta1", "v1"]));
        for index in 0..500 {
            let name = format!("probe-{index}");
            let (code, body) = self.call("POST", NEW, new(&name, "probe", "1")).await;
            assert_eq!(code, 201, "{body}");
            let version = self.stored(&name).await["apiVersion"].clone();
            let (code, _) = self.call("DELETE", &format!("{NEW}/{name}"), Value::Null).await;
            assert_eq!(code, 200);
            if version == format!("example.com/{storage}") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("objects are not stored in {storage}");
    }
}

fn old(name: &str, host_port: &str) -> Value {
    json!({"apiVersion": "example.com/v1beta1", "kind": "Endpointer", "metadata": {"name": name, "labels": {"l": name}},
        "spec": {"hostPort": host_port}})
}

fn new(name: &str, host: &str, port: &str) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Endpointer", "metadata": {"name": name},
        "spec": {"host": host, "port": port}})
}

#[tokio::test]
async fn each_version_tells_of_an_object_in_its_own_form() {
    let world = World::new().await;
    for (name, host_port) in [("a", "h1:1"), ("b", "h2:2")] {
        let (code, body) = world.call("POST", OLD, old(name, host_port)).await;
        assert_eq!((code, &body["spec"]["hostPort"]), (201, &json!(host_port)));
    }
    assert!(world.asked().is_empty(), "what is stored as it is written asks nobody");
    let (code, body) = world.call("GET", &format!("{NEW}/a"), Value::Null).await;
    assert_eq!((code, &body["spec"]), (200, &json!({"host": "h1", "port": "1"})));
    assert_eq!(body["apiVersion"], "example.com/v1");
    assert_eq!(body["metadata"]["annotations"]["converted"], "by the webhook");
    assert_eq!(world.asked(), [1]);
    let (code, list) = world.call("GET", NEW, Value::Null).await;
    assert_eq!((code, &list["apiVersion"]), (200, &json!("example.com/v1")));
    assert_eq!(list["items"][1]["spec"], json!({"host": "h2", "port": "2"}));
    assert_eq!(world.asked(), [2], "one review for all of a list");
    let (_, list) = world
        .call("GET", &format!("{NEW}?fieldSelector=spec.host=h2&limit=1"), Value::Null)
        .await;
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().iter();
        items
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        names(&list),
        ["b"],
        "fields are those of the version that was asked for"
    );
    let (_, list) = world
        .call("GET", &format!("{OLD}?fieldSelector=spec.hostPort=h1:1"), Value::Null)
        .await;
    assert_eq!(names(&list), ["a"]);
    let (_, list) = world
        .call("GET", &format!("{NEW}?labelSelector=l=a"), Value::Null)
        .await;
    assert_eq!(names(&list), ["a"]);
    let (_, first) = world.call("GET", &format!("{NEW}?limit=1"), Value::Null).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, second) = world
        .call("GET", &format!("{NEW}?limit=1&continue={token}"), Value::Null)
        .await;
    assert_eq!((names(&first), names(&second)), (vec!["a".into()], vec!["b".into()]));
}

#[tokio::test]
async fn writes_come_in_any_version_and_are_stored_in_one() {
    let world = World::new().await;
    let (code, body) = world.call("POST", NEW, new("a", "h", "1")).await;
    assert_eq!((code, &body["spec"]), (201, &json!({"host": "h", "port": "1"})));
    let stored = world.stored("a").await;
    assert_eq!(
        (&stored["apiVersion"], &stored["spec"]),
        (&json!("example.com/v1beta1"), &json!({"hostPort": "h:1"}))
    );
    assert_eq!(stored["metadata"]["managedFields"][0]["apiVersion"], "example.com/v1");

    let merge = "application/merge-patch+json";
    let (code, body) = world
        .patch(&format!("{NEW}/a"), merge, json!({"spec": {"port": "2"}}))
        .await;
    assert_eq!((code, &body["spec"]), (200, &json!({"host": "h", "port": "2"})));
    assert_eq!(world.stored("a").await["spec"], json!({"hostPort": "h:2"}));
    let operations = json!([{"op": "test", "path": "/spec/host", "value": "h"},
        {"op": "replace", "path": "/spec/host", "value": "i"}]);
    let (code, body) = world
        .patch(&format!("{NEW}/a"), "application/json-patch+json", operations)
        .await;
    assert_eq!((code, &body["spec"]["host"]), (200, &json!("i")));
    let (_, mut told) = world.call("GET", &format!("{NEW}/a"), Value::Null).await;
    told["spec"]["port"] = "3".into();
    let (code, body) = world.call("PUT", &format!("{NEW}/a"), told).await;
    assert_eq!(code, 200, "{body}");
    let (_, body) = world.call("GET", &format!("{OLD}/a"), Value::Null).await;
    assert_eq!(body["spec"], json!({"hostPort": "i:3"}));

    let apply = "application/apply-patch+yaml";
    let path = |base: &str, manager: &str| format!("{base}/applied?fieldManager={manager}");
    let (code, body) = world.patch(&path(NEW, "me"), apply, new("applied", "h", "1")).await;
    assert_eq!((code, &body["spec"]["host"]), (201, &json!("h")), "{body}");
    let (code, body) = world.patch(&path(NEW, "me"), apply, new("applied", "h", "9")).await;
    assert_eq!((code, &body["spec"]["port"]), (200, &json!("9")), "{body}");
    let labelled = json!({"apiVersion": "example.com/v1beta1", "kind": "Endpointer",
        "metadata": {"name": "applied", "labels": {"by": "you"}}});
    let (code, body) = world.patch(&path(OLD, "you"), apply, labelled).await;
    assert_eq!((code, &body["spec"]["hostPort"]), (200, &json!("h:9")), "{body}");
    let managers = body["metadata"]["managedFields"].as_array().unwrap();
    let version_of = |name: &str| {
        let of = managers.iter().find(|entry| entry["manager"] == name);
        of.map(|entry| entry["apiVersion"].clone())
    };
    assert_eq!(version_of("me"), Some(json!("example.com/v1")));
    assert_eq!(version_of("you"), Some(json!("example.com/v1beta1")));

    let before = world.stored("applied").await["metadata"]["resourceVersion"].clone();
    let (code, _) = world.patch(&format!("{NEW}/applied"), merge, json!({})).await;
    assert_eq!(code, 200);
    let after = world.stored("applied").await["metadata"]["resourceVersion"].clone();
    assert_eq!(before, after, "a patch that changes nothing is not written");
    let (code, _) = world.call("DELETE", &format!("{NEW}/a"), Value::Null).await;
    assert_eq!(code, 200);
    let (code, _) = world.call("DELETE", NEW, Value::Null).await;
    assert_eq!(code, 200);
    let (_, list) = world.call("GET", OLD, Value::Null).await;
    assert_eq!(list["items"], json!([]));
}

#[tokio::test]
async fn a_watch_converts_each_event() {
    let world = World::new().await;
    let (code, _) = world.call("POST", OLD, old("a", "h1:1")).await;
    assert_eq!(code, 201);
    let watching = |query: &str| {
        let path = format!("{NEW}?watch=true{query}");
        let response = world.api.handle(request("GET", &path, Value::Null));
        async {
            match response.await.body {
                ResponseBody::Watch(lines) => lines,
                _ => panic!("no watch"),
            }
        }
    };
    let next = async |lines: &mut gateway::request::BodyStream| -> Value {
        let line = tokio::time::timeout(Duration::from_secs(10), lines.next()).await;
        serde_json::from_slice(&line.expect("an event comes").expect("the watch goes on")).unwrap()
    };
    let mut all = watching("").await;
    let mut some = watching("&fieldSelector=spec.host=h2").await;
    let first = next(&mut all).await;
    assert_eq!(
        (&first["type"], &first["object"]["spec"]),
        (&json!("ADDED"), &json!({"host": "h1", "port": "1"}))
    );
    world.asked();
    let merge = "application/merge-patch+json";
    let (code, _) = world
        .patch(&format!("{OLD}/a"), merge, json!({"spec": {"hostPort": "h2:1"}}))
        .await;
    assert_eq!(code, 200);
    let event = next(&mut all).await;
    assert_eq!(
        (&event["type"], &event["object"]["spec"]["host"]),
        (&json!("MODIFIED"), &json!("h2"))
    );
    let event = next(&mut some).await;
    assert_eq!(
        (&event["type"], &event["object"]["spec"]["host"]),
        (&json!("ADDED"), &json!("h2"))
    );
    // The object before and after: each is converted once, however many watch.
    assert!(world.asked().len() <= 2);
    let (code, _) = world.call("DELETE", &format!("{OLD}/a"), Value::Null).await;
    assert_eq!(code, 200);
    for lines in [&mut all, &mut some] {
        let event = next(lines).await;
        assert_eq!(
            (&event["type"], &event["object"]["spec"]["host"]),
            (&json!("DELETED"), &json!("h2"))
        );
    }
    world.does(FAILS);
    let (code, _) = world.call("POST", OLD, old("b", "h1:1")).await;
    assert_eq!(code, 201);
    let event = next(&mut all).await;
    assert_eq!(
        (&event["type"], &event["object"]["code"]),
        (&json!("ERROR"), &json!(500))
    );
    assert!(all.next().await.is_none(), "the watch has ended");
}

#[tokio::test]
async fn objects_come_into_a_new_storage_version_with_their_next_write() {
    let world = World::new().await;
    for name in ["a", "b"] {
        let (code, _) = world.call("POST", OLD, old(name, "h:1")).await;
        assert_eq!(code, 201);
    }
    world.store_in("v1").await;
    assert_eq!(world.stored("a").await["apiVersion"], "example.com/v1beta1");
    let (_, body) = world.call("GET", &format!("{NEW}/a"), Value::Null).await;
    assert_eq!(body["spec"], json!({"host": "h", "port": "1"}));
    // What migrates storage writes what it read.
    let (code, body) = world.call("PUT", &format!("{NEW}/a"), body).await;
    assert_eq!(code, 200, "{body}");
    let stored = world.stored("a").await;
    assert_eq!(
        (&stored["apiVersion"], &stored["spec"]["host"]),
        (&json!("example.com/v1"), &json!("h"))
    );
    world.asked();
    let (_, body) = world.call("GET", &format!("{NEW}/a"), Value::Null).await;
    assert_eq!(
        (&body["spec"]["port"], world.asked()),
        (&json!("1"), vec![]),
        "it is stored so"
    );
    let (_, body) = world.call("GET", &format!("{OLD}/a"), Value::Null).await;
    assert_eq!(body["spec"], json!({"hostPort": "h:1"}));
    let (_, list) = world.call("GET", NEW, Value::Null).await;
    assert_eq!(list["items"][1]["spec"], json!({"host": "h", "port": "1"}));
    assert_eq!(world.asked(), [1, 1], "of the list only the other one is converted");

    let status = |versions: Value| json!({"status": {"storedVersions": versions}});
    let merge = "application/merge-patch+json";
    let (code, body) = world
        .patch(&format!("{PATH}/status"), merge, status(json!(["v1beta1"])))
        .await;
    assert_eq!(code, 422, "{body}");
    assert!(
        body["message"]
            .as_str()
            .unwrap()
            .contains("must have the storage version v1"),
        "{body}"
    );
    let (code, body) = world
        .patch(&format!("{PATH}/status"), merge, status(json!(["v1"])))
        .await;
    assert_eq!(
        (code, &body["status"]["storedVersions"]),
        (200, &json!(["v1"])),
        "{body}"
    );
}

#[tokio::test]
async fn a_webhook_that_fails_or_lies_fails_what_needs_it() {
    let world = World::new().await;
    let (code, _) = world.call("POST", OLD, old("a", "h:1")).await;
    assert_eq!(code, 201);
    let of = "conversion webhook for example.com/v1beta1, Kind=Endpointer";
    let cases = [
        (FAILS, format!("{of} failed: it has no will to")),
        (
            LIES,
            format!("{of} returned invalid converted object at index 0: must have the same name: a != other"),
        ),
    ];
    for (mode, expected) in cases {
        world.does(mode);
        let merge = "application/merge-patch+json";
        let one = format!("{NEW}/a");
        let answers = [
            world.call("GET", &one, Value::Null).await,
            world.call("GET", NEW, Value::Null).await,
            world.call("PUT", &one, new("a", "h", "2")).await,
            world.patch(&one, merge, json!({"spec": {"port": "2"}})).await,
            world.call("DELETE", &one, Value::Null).await,
            world.call("DELETE", NEW, Value::Null).await,
        ];
        for (code, body) in answers {
            assert_eq!((code, body["message"].as_str()), (500, Some(&*expected)), "{body}");
        }
        let (code, body) = world.call("POST", NEW, new("b", "h", "2")).await;
        assert_eq!(code, 500, "{body}");
        let (code, body) = world.call("GET", &format!("{OLD}/a"), Value::Null).await;
        assert_eq!(
            (code, &body["spec"]["hostPort"]),
            (200, &json!("h:1")),
            "what is stored so is told"
        );
    }
}

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";

fn rules(version: &str) -> Value {
    json!([{"operations": ["CREATE", "UPDATE"], "apiGroups": ["example.com"], "apiVersions": [version],
        "resources": ["endpointers"]}])
}

/// Puts a webhook into force that knows one version.
async fn put_webhook(world: &World, kind: &str, hook: &HookServer, fields: Value) {
    let mut webhook = json!({
        "name": "h.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "clientConfig": hook.by_url(), "rules": rules("v1"),
    });
    for (name, value) in fields.as_object().unwrap() {
        webhook[name] = value.clone();
    }
    let body = json!({"kind": kind, "metadata": {"name": "h"}, "webhooks": [webhook]});
    let path = format!("{ADMISSION}/{}s", kind.to_lowercase());
    let (code, answer) = world.call("POST", &path, body).await;
    assert_eq!(code, 201, "{answer}");
}

/// Repeats a write that stores nothing until it is answered so.
async fn until_answered(world: &World, body: &Value, wanted: impl Fn(u16, &Value) -> bool) -> Value {
    let mut last = Value::Null;
    for _ in 0..500 {
        let (code, answer) = world.call("POST", &format!("{OLD}?dryRun=All"), body.clone()).await;
        if wanted(code, &answer) {
            return answer;
        }
        last = answer;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the write is not answered as it should be: {last}");
}

#[tokio::test]
async fn a_webhook_that_knows_one_version_judges_and_changes_objects_of_the_others() {
    let world = World::new().await;
    let judges = HookServer::start(&["127.0.0.1"], |review| {
        let request = &review["request"];
        assert_eq!(request["kind"]["version"], "v1");
        assert_eq!(request["requestKind"]["version"], "v1beta1");
        match request["object"]["spec"]["host"].as_str() {
            Some("bad") => refuse(review, "the host is bad"),
            Some(_) => allow(review, json!({})),
            None => refuse(review, "that is not the form that was registered for"),
        }
    })
    .await;
    put_webhook(&world, "ValidatingWebhookConfiguration", &judges, json!({})).await;
    let refused = until_answered(&world, &old("x", "bad:1"), |code, _| code == 403).await;
    assert_eq!(
        refused["message"],
        "admission webhook \"h.example.com\" denied the request: the host is bad"
    );
    let (code, body) = world.call("POST", OLD, old("a", "good:1")).await;
    assert_eq!((code, &body["spec"]["hostPort"]), (201, &json!("good:1")), "{body}");
    world.does(FAILS);
    let (code, body) = world.call("POST", OLD, old("b", "good:1")).await;
    assert_eq!(code, 500, "what cannot be shown is not let pass: {body}");
    world.does(CONVERTS);

    let changes = HookServer::start(&["127.0.0.1"], |review| {
        hook_server::patch(
            review,
            json!([{"op": "replace", "path": "/spec/port", "value": "8080"}]),
        )
    })
    .await;
    put_webhook(&world, "MutatingWebhookConfiguration", &changes, json!({})).await;
    let changed = until_answered(&world, &old("x", "h:1"), |code, body| {
        code == 201 && body["spec"]["hostPort"] != "h:1"
    })
    .await;
    assert_eq!(
        (&changed["spec"]["hostPort"], &changed["apiVersion"]),
        (&json!("h:8080"), &json!("example.com/v1beta1"))
    );
    let path = format!("{ADMISSION}/mutatingwebhookconfigurations/h");
    let exact = json!({"webhooks": [{"name": "h.example.com", "matchPolicy": "Exact", "admissionReviewVersions": ["v1"],
        "sideEffects": "None", "clientConfig": changes.by_url(), "rules": rules("v1")}]});
    let (code, body) = world.patch(&path, "application/merge-patch+json", exact).await;
    assert_eq!(code, 200, "{body}");
    until_answered(&world, &old("x", "h:1"), |code, body| {
        code == 201 && body["spec"]["hostPort"] == "h:1"
    })
    .await;
}

#[tokio::test]
async fn policies_take_custom_objects_as_parameters_and_judge_them_in_their_version() {
    let world = World::new().await;
    let (code, _) = world.call("POST", OLD, old("limits", "forbidden:7")).await;
    assert_eq!(code, 201);
    let policy = json!({"metadata": {"name": "p"}, "spec": {
        "matchConstraints": {"resourceRules": rules("v1")},
        "paramKind": {"apiVersion": "example.com/v1", "kind": "Endpointer"},
        "validations": [{"expression": "object.spec.host != params.spec.host",
            "messageExpression": "object.spec.host + ' is not allowed'"}],
    }});
    let (code, body) = world
        .call("POST", &format!("{ADMISSION}/validatingadmissionpolicies"), policy)
        .await;
    assert_eq!(code, 201, "{body}");
    let binding = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"],
        "paramRef": {"name": "limits", "namespace": "d", "parameterNotFoundAction": "Deny"}}});
    let (code, body) = world
        .call(
            "POST",
            &format!("{ADMISSION}/validatingadmissionpolicybindings"),
            binding,
        )
        .await;
    assert_eq!(code, 201, "{body}");
    let refused = until_answered(&world, &old("x", "forbidden:1"), |code, _| code == 422).await;
    assert_eq!(
        refused["message"],
        "endpointers.example.com \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: \
         forbidden is not allowed"
    );
    let (code, body) = world.call("POST", OLD, old("a", "other:1")).await;
    assert_eq!(code, 201, "{body}");

    let policy = json!({"metadata": {"name": "m"}, "spec": {
        "matchConstraints": {"resourceRules": rules("v1")}, "reinvocationPolicy": "Never", "failurePolicy": "Fail",
        "paramKind": {"apiVersion": "example.com/v1", "kind": "Endpointer"},
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression":
            "[JSONPatch{op: 'replace', path: '/spec/port', value: params.spec.port}]"}}],
    }});
    let (code, body) = world
        .call("POST", &format!("{ADMISSION}/mutatingadmissionpolicies"), policy)
        .await;
    assert_eq!(code, 201, "{body}");
    let binding = json!({"metadata": {"name": "b"}, "spec": {"policyName": "m",
        "paramRef": {"name": "limits", "namespace": "d", "parameterNotFoundAction": "Deny"}}});
    let (code, body) = world
        .call("POST", &format!("{ADMISSION}/mutatingadmissionpolicybindings"), binding)
        .await;
    assert_eq!(code, 201, "{body}");
    until_answered(&world, &old("x", "other:1"), |code, body| {
        code == 201 && body["spec"]["hostPort"] == "other:7"
    })
    .await;
}
