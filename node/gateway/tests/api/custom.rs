//! Custom kinds over the API: from their definition to its end.

use super::*;

use gateway::definitions;

pub const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CRON_TABS: &str = "/apis/stable.example.com/v1/namespaces/d/crontabs";

pub fn definition() -> Value {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["cronSpec"], "properties": {
            "cronSpec": {"type": "string", "pattern": "^[0-9* ]+$"},
            "image": {"type": "string", "default": "busybox"},
            "replicas": {"type": "integer", "minimum": 0, "x-kubernetes-validations": [{"rule": "self <= 10", "message": "too many"}]},
        }},
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "labelSelector": {"type": "string"}}},
    }});
    let version = |name: &str, storage: bool| {
        json!({
            "name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema},
            "subresources": {"status": {}, "scale": {
                "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.labelSelector",
            }},
            "selectableFields": [{"jsonPath": ".spec.image"}],
            "additionalPrinterColumns": [{"name": "Spec", "type": "string", "jsonPath": ".spec.cronSpec"}],
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {
            "group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "shortNames": ["ct"]},
            "versions": [version("v1", true), version("v1beta1", false)],
        },
    })
}

fn cron_tab(name: &str) -> Value {
    json!({
        "apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": name},
        "spec": {"cronSpec": "* * 5", "replicas": 1},
    })
}

/// Waits until a request is answered as wanted.
pub async fn until(api: &Api, path: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
    let mut last = Value::Null;
    for _ in 0..500 {
        let (code, body) = call(api, "GET", path, Value::Null).await;
        if wanted(code, &body) {
            return body;
        }
        last = body;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{path} does not come to what it should: {last}");
}

pub fn is_established(_: u16, body: &Value) -> bool {
    let conditions = body["status"]["conditions"].as_array();
    conditions.is_some_and(|all| {
        all.iter()
            .any(|one| one["type"] == "Established" && one["status"] == "True")
    })
}

/// An API with a namespace, a keeper of definitions, and the kind CronTab.
async fn with_cron_tabs() -> Api {
    let store = MemoryStore::new();
    let api = with_namespace_over(Arc::clone(&store)).await;
    let now: gateway::watch::Now = Arc::new(|| UnixMillis(1_800_000_000_000));
    tokio::spawn(definitions::keep(store, now));
    let (code, body) = call(&api, "POST", DEFINITIONS, definition()).await;
    assert_eq!(code, 201, "{body}");
    until(
        &api,
        &format!("{DEFINITIONS}/crontabs.stable.example.com"),
        is_established,
    )
    .await;
    api
}

#[tokio::test]
async fn a_custom_kind_is_served_like_any_other() {
    let api = with_cron_tabs().await;
    let (code, made) = call(&api, "POST", CRON_TABS, cron_tab("a")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["image"], "busybox");
    assert_eq!(made["metadata"]["generation"], 1);
    let (code, body) = call(&api, "POST", CRON_TABS, cron_tab("a")).await;
    assert_eq!(
        (code, body["message"].as_str()),
        (409, Some("crontabs.stable.example.com \"a\" already exists"))
    );
    let mut wrong = cron_tab("b");
    wrong["spec"] = json!({"cronSpec": "never", "replicas": 11});
    let (code, body) = call(&api, "POST", CRON_TABS, wrong).await;
    assert_eq!(code, 422);
    let message = body["message"].as_str().unwrap();
    let pattern = "spec.cronSpec: Invalid value: \"never\": spec.cronSpec in body should match '^[0-9* ]+$'";
    assert!(message.contains(pattern), "{message}");
    assert!(
        message.contains("spec.replicas: Invalid value: \"integer\": too many"),
        "{message}"
    );

    let (_, list) = call(&api, "GET", "/apis/stable.example.com/v1/crontabs", Value::Null).await;
    assert_eq!(
        (&list["kind"], list["items"].as_array().unwrap().len()),
        (&json!("CronTabList"), 1)
    );
    let (_, none) = call(
        &api,
        "GET",
        &format!("{CRON_TABS}?fieldSelector=spec.image=other"),
        Value::Null,
    )
    .await;
    assert_eq!(none["items"], json!([]));
    let (_, some) = call(
        &api,
        "GET",
        &format!("{CRON_TABS}?fieldSelector=spec.image=busybox"),
        Value::Null,
    )
    .await;
    assert_eq!(some["items"].as_array().unwrap().len(), 1);

    let mut patch = request("PATCH", &format!("{CRON_TABS}/a"), json!({"spec": {"replicas": 2}}));
    patch.content_type = "application/merge-patch+json".into();
    let (code, patched) = send(&api, patch.clone()).await;
    assert_eq!((code, &patched["metadata"]["generation"]), (200, &json!(2)));
    patch.content_type = "application/strategic-merge-patch+json".into();
    assert_eq!(send(&api, patch).await.0, 415);

    let (_, scale) = call(&api, "GET", &format!("{CRON_TABS}/a/scale"), Value::Null).await;
    assert_eq!(scale["spec"]["replicas"], 2);
    let (code, scaled) = call(&api, "PUT", &format!("{CRON_TABS}/a/scale"), json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "a", "namespace": "d"}, "spec": {"replicas": 4},
    })).await;
    assert_eq!((code, &scaled["spec"]["replicas"]), (200, &json!(4)));
    let mut status = request(
        "PATCH",
        &format!("{CRON_TABS}/a/status"),
        json!({"status": {"replicas": 4}, "spec": {"replicas": 9}}),
    );
    status.content_type = "application/merge-patch+json".into();
    let (_, body) = send(&api, status).await;
    assert_eq!(
        (&body["status"]["replicas"], &body["spec"]["replicas"]),
        (&json!(4), &json!(4))
    );

    let mut apply = request("PATCH", &format!("{CRON_TABS}/z?fieldManager=me"), cron_tab("z"));
    apply.content_type = "application/apply-patch+yaml".into();
    let (code, applied) = send(&api, apply).await;
    assert_eq!(code, 201, "{applied}");
    assert_eq!(applied["metadata"]["managedFields"][0]["manager"], "me");

    let mut table = request("GET", CRON_TABS, Value::Null);
    table.accept = "application/json;as=Table;v=v1;g=meta.k8s.io".into();
    let (_, table) = send(&api, table).await;
    assert_eq!(table["rows"][0]["cells"], json!(["a", "* * 5"]));
    let (code, _) = call(&api, "DELETE", &format!("{CRON_TABS}/a"), Value::Null).await;
    assert_eq!(code, 200);
    let (code, _) = call(&api, "DELETE", CRON_TABS, Value::Null).await;
    assert_eq!(code, 200);
    let (_, list) = call(&api, "GET", CRON_TABS, Value::Null).await;
    assert_eq!(list["items"], json!([]));
}

#[tokio::test]
async fn every_served_version_tells_of_the_same_object() {
    let api = with_cron_tabs().await;
    let (code, _) = call(&api, "POST", CRON_TABS, cron_tab("a")).await;
    assert_eq!(code, 201);
    let beta = "/apis/stable.example.com/v1beta1/namespaces/d/crontabs";
    let (_, body) = call(&api, "GET", &format!("{beta}/a"), Value::Null).await;
    assert_eq!(body["apiVersion"], "stable.example.com/v1beta1");
    let mut other = cron_tab("b");
    other["apiVersion"] = "stable.example.com/v1beta1".into();
    let (code, made) = call(&api, "POST", beta, other).await;
    assert_eq!((code, &made["apiVersion"]), (201, &json!("stable.example.com/v1beta1")));
    let (_, body) = call(&api, "GET", &format!("{CRON_TABS}/b"), Value::Null).await;
    assert_eq!(body["apiVersion"], "stable.example.com/v1");
    let (_, groups) = call(&api, "GET", "/apis/stable.example.com", Value::Null).await;
    assert_eq!(groups["preferredVersion"]["version"], "v1");
    let (_, list) = call(&api, "GET", "/apis/stable.example.com/v1", Value::Null).await;
    assert_eq!(list["resources"][0]["name"], "crontabs");
}

#[tokio::test]
async fn a_definitions_objects_and_watches_go_with_it() {
    let api = with_cron_tabs().await;
    let (code, _) = call(&api, "POST", CRON_TABS, cron_tab("a")).await;
    assert_eq!(code, 201);
    let mut held = cron_tab("held");
    held["metadata"]["finalizers"] = json!(["example.com/mine"]);
    let (code, _) = call(&api, "POST", CRON_TABS, held).await;
    assert_eq!(code, 201);
    let response = api
        .handle(request(
            "GET",
            &format!("{CRON_TABS}?watch=true&resourceVersion=0"),
            Value::Null,
        ))
        .await;
    let ResponseBody::Watch(lines) = response.body else {
        panic!("no watch")
    };

    let path = format!("{DEFINITIONS}/crontabs.stable.example.com");
    let (code, going) = call(&api, "DELETE", &path, Value::Null).await;
    assert_eq!(code, 200);
    assert_eq!(
        going["metadata"]["finalizers"],
        json!(["customresourcecleanup.apiextensions.k8s.io"])
    );
    until(&api, &format!("{CRON_TABS}/a"), |code, _| code == 404).await;
    let left = until(&api, &format!("{CRON_TABS}/held"), |_, body| {
        body["metadata"]["deletionTimestamp"].is_string()
    })
    .await;
    assert_eq!(left["metadata"]["finalizers"], json!(["example.com/mine"]));
    let (code, _) = call(&api, "POST", CRON_TABS, cron_tab("late")).await;
    assert_eq!(code, 405);
    let mut release = request(
        "PATCH",
        &format!("{CRON_TABS}/held"),
        json!({"metadata": {"finalizers": null}}),
    );
    release.content_type = "application/merge-patch+json".into();
    assert_eq!(send(&api, release).await.0, 200);
    until(&api, &path, |code, _| code == 404).await;
    until(&api, CRON_TABS, |code, _| code == 404).await;
    let ended = tokio::time::timeout(Duration::from_secs(5), lines.collect::<Vec<_>>()).await;
    assert!(ended.is_ok(), "the watch goes on");
    // The same kind may be defined again.
    let (code, _) = call(&api, "POST", DEFINITIONS, definition()).await;
    assert_eq!(code, 201);
    until(&api, &path, is_established).await;
    let (code, _) = call(&api, "POST", CRON_TABS, cron_tab("a")).await;
    assert_eq!(code, 201);
}

#[tokio::test]
async fn a_field_that_becomes_selectable_selects_older_objects_too() {
    let api = with_cron_tabs().await;
    for (name, spec) in [("a", "1"), ("b", "2")] {
        let mut made = cron_tab(name);
        made["spec"]["cronSpec"] = spec.into();
        let (code, body) = call(&api, "POST", CRON_TABS, made).await;
        assert_eq!(code, 201, "{body}");
    }
    let path = format!("{DEFINITIONS}/crontabs.stable.example.com");
    let (_, mut changed) = call(&api, "GET", &path, Value::Null).await;
    changed["spec"]["versions"][0]["selectableFields"] =
        json!([{"jsonPath": ".spec.image"}, {"jsonPath": ".spec.cronSpec"}]);
    let (code, body) = call(&api, "PUT", &path, changed).await;
    assert_eq!(code, 200, "{body}");
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().iter();
        items
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let selecting = |text: &str| format!("{CRON_TABS}?fieldSelector={text}");
    let found = until(&api, &selecting("spec.cronSpec=2"), |code, _| code == 200).await;
    assert_eq!(names(&found), ["b"]);
    for (text, expected) in [
        ("spec.cronSpec!=2", vec!["a"]),
        ("spec.cronSpec=1,spec.image=busybox", vec!["a"]),
        ("spec.cronSpec=1,metadata.name=b", vec![]),
        (r"spec.cronSpec=1\,2", vec![]),
    ] {
        let (code, list) = call(&api, "GET", &selecting(text), Value::Null).await;
        assert_eq!(
            (code, names(&list)),
            (200, expected.iter().map(|name| (*name).to_owned()).collect()),
            "{text}"
        );
    }
    let watch = format!("{CRON_TABS}?watch=true&fieldSelector=spec.cronSpec=2");
    let ResponseBody::Watch(mut lines) = api.handle(request("GET", &watch, Value::Null)).await.body else {
        panic!("no watch")
    };
    let mut next = async || -> Value {
        let line = tokio::time::timeout(Duration::from_secs(10), lines.next()).await;
        serde_json::from_slice(&line.expect("an event comes").expect("the watch goes on")).unwrap()
    };
    let event = next().await;
    assert_eq!(
        (&event["type"], &event["object"]["metadata"]["name"]),
        (&json!("ADDED"), &json!("b"))
    );
    let mut patch = request("PATCH", &format!("{CRON_TABS}/a"), json!({"spec": {"cronSpec": "2"}}));
    patch.content_type = "application/merge-patch+json".into();
    assert_eq!(send(&api, patch).await.0, 200);
    let event = next().await;
    assert_eq!(
        (&event["type"], &event["object"]["metadata"]["name"]),
        (&json!("ADDED"), &json!("a"))
    );
}
