//! The API over an in-memory store, without a socket: status codes, bodies and streams as Kubernetes gives them.

mod conversion;
mod custom;
mod hook_server;
mod policies;
mod policy;
mod rights;
mod webhooks;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use access::User;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use gateway::addresses::AddressRange;
use gateway::request::{ApiRequest, ApiResponse, ResponseBody};
use gateway::service::{Api, ApiConfig};
use protocol::admin::{AdminDoor, AdminError, AdminReply, AdminRequest};
use protocol::node::{NodeDoor, NodeDoorError};
use protocol::runtime::{LogRequest, LogStream};
use protocol::{Cause, NodeName, UnixMillis};
use serde_json::{Value, json};
use store::MemoryStore;

struct NoDoors;

#[async_trait]
impl NodeDoor for NoDoors {
    async fn logs(&self, node: &NodeName, _: LogRequest) -> Result<LogStream, NodeDoorError> {
        Err(NodeDoorError::Unreachable {
            node: node.clone(),
            reason: "no node in this test".into(),
        })
    }
}

#[async_trait]
impl AdminDoor for NoDoors {
    async fn serve(&self, _: AdminRequest) -> Result<AdminReply, AdminError> {
        Ok(AdminReply::Done("heard".into()))
    }
}

fn api() -> Api {
    api_over(MemoryStore::new())
}

fn api_over(store: Arc<MemoryStore>) -> Api {
    let counter = AtomicU64::new(1);
    Api::new(ApiConfig {
        store,
        nodes: Arc::new(NoDoors),
        admin: Arc::new(NoDoors),
        service_range: AddressRange::parse("10.96.0.0/24").unwrap(),
        anonymous: false,
        admission: admission::Settings::default(),
        cluster_ca: "-----BEGIN CERTIFICATE-----".into(),
        address: "10.0.0.1:6443".into(),
        version: Default::default(),
        now: Arc::new(|| UnixMillis(1_800_000_000_000)),
        random: Arc::new(move || {
            u128::from(counter.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed))
                .wrapping_mul(0x1_0000_0001_0000_0003)
        }),
        readiness: Arc::new(|| Ok(())),
        leads: Arc::new(|| true),
        metrics: Arc::new(String::new),
        requests_in_flight_max: 600,
        audit: None,
    })
}

fn request(method: &str, path: &str, body: Value) -> ApiRequest {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    ApiRequest {
        method: method.into(),
        path: path.into(),
        query: pairs.map(|(k, v)| (k.into(), v.into())).collect::<BTreeMap<_, _>>(),
        accept: "application/json".into(),
        content_type: "application/json".into(),
        user_agent: "kubectl/v1".into(),
        body: if body.is_null() {
            Bytes::new()
        } else {
            Bytes::from(body.to_string())
        },
        user: Some(User::authenticated("admin", ["system:masters"])),
        bearer: None,
        impersonation: Vec::new(),
        cause: Cause(1),
        ..ApiRequest::default()
    }
}

async fn send(api: &Api, request: ApiRequest) -> (u16, Value) {
    let response = api.handle(request).await;
    let code = response.code;
    let ResponseBody::Full(body) = response.body else {
        panic!("a stream")
    };
    (
        code,
        serde_json::from_slice(&body).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned())),
    )
}

async fn call(api: &Api, method: &str, path: &str, body: Value) -> (u16, Value) {
    send(api, request(method, path, body)).await
}

async fn with_namespace() -> Api {
    with_namespace_over(MemoryStore::new()).await
}

async fn with_namespace_over(store: Arc<MemoryStore>) -> Api {
    let api = api_over(store);
    let (code, _) = call(&api, "POST", "/api/v1/namespaces", json!({"metadata": {"name": "d"}})).await;
    assert_eq!(code, 201);
    api
}

fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"v": value}}, "data": {"v": value}})
}

const MAPS: &str = "/api/v1/namespaces/d/configmaps";

#[tokio::test]
async fn objects_are_created_read_updated_and_deleted_with_kubernetes_answers() {
    let api = with_namespace().await;
    let (code, created) = call(&api, "POST", MAPS, config_map("a", "1")).await;
    assert_eq!(code, 201);
    assert!(created["metadata"]["uid"].is_string() && created["metadata"]["resourceVersion"].is_string());
    let (code, status) = call(&api, "POST", MAPS, config_map("a", "1")).await;
    assert_eq!((code, &status["reason"]), (409, &json!("AlreadyExists")));
    assert_eq!(status["message"], "configmaps \"a\" already exists");
    let (code, status) = call(&api, "GET", &format!("{MAPS}/none"), Value::Null).await;
    assert_eq!(
        (code, &status["message"]),
        (404, &json!("configmaps \"none\" not found"))
    );

    let mut stale = created.clone();
    stale["data"]["v"] = "2".into();
    let (code, updated) = call(&api, "PUT", &format!("{MAPS}/a"), stale.clone()).await;
    assert_eq!((code, &updated["data"]["v"]), (200, &json!("2")));
    stale["data"]["v"] = "3".into();
    let (code, status) = call(&api, "PUT", &format!("{MAPS}/a"), stale).await;
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")), "{status}");

    let (code, status) = call(&api, "DELETE", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!((code, &status["status"]), (200, &json!("Success")));
    assert_eq!(call(&api, "GET", &format!("{MAPS}/a"), Value::Null).await.0, 404);
}

#[tokio::test]
async fn nothing_is_created_in_a_namespace_that_does_not_exist() {
    let api = api();
    let (code, status) = call(&api, "POST", MAPS, config_map("a", "1")).await;
    assert_eq!((code, &status["message"]), (404, &json!("namespaces \"d\" not found")));
}

#[tokio::test]
async fn lists_are_paged_selected_and_consistent() {
    let api = with_namespace().await;
    for number in 0..5 {
        call(
            &api,
            "POST",
            MAPS,
            config_map(&format!("m{number}"), &(number % 2).to_string()),
        )
        .await;
    }
    let (_, all) = call(&api, "GET", &format!("{MAPS}?labelSelector=v=1"), Value::Null).await;
    let names = |list: &Value| -> Vec<String> {
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(&all), ["m1", "m3"]);
    let (_, first) = call(&api, "GET", &format!("{MAPS}?limit=2"), Value::Null).await;
    assert_eq!(
        (names(&first), &first["metadata"]["remainingItemCount"]),
        (vec!["kube-root-ca.crt".into(), "m0".into()], &json!(4)),
        "every namespace has the cluster's CA"
    );
    call(&api, "POST", MAPS, config_map("m0a", "9")).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, second) = call(&api, "GET", &format!("{MAPS}?limit=9&continue={token}"), Value::Null).await;
    assert_eq!(
        names(&second),
        ["m1", "m2", "m3", "m4"],
        "a page shows the list as of its first page"
    );
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
}

#[tokio::test]
async fn unknown_fields_are_refused_when_the_client_is_strict() {
    let api = with_namespace().await;
    let mut object = config_map("a", "1");
    object["datum"] = json!({});
    let (code, status) = call(&api, "POST", &format!("{MAPS}?fieldValidation=Strict"), object.clone()).await;
    assert_eq!(code, 400);
    assert!(
        status["message"].as_str().unwrap().contains("unknown field \"datum\""),
        "{status}"
    );
    let response = api
        .handle(request("POST", &format!("{MAPS}?fieldValidation=Warn"), object))
        .await;
    assert_eq!((response.code, response.warnings.len()), (201, 1));
}

#[tokio::test]
async fn every_kind_of_patch_changes_the_object() {
    let api = with_namespace().await;
    call(&api, "POST", MAPS, config_map("a", "1")).await;
    for (content_type, body, expected) in [
        ("application/merge-patch+json", json!({"data": {"v": "2"}}), "2"),
        (
            "application/strategic-merge-patch+json",
            json!({"data": {"v": "3"}}),
            "3",
        ),
        (
            "application/json-patch+json",
            json!([{"op": "replace", "path": "/data/v", "value": "4"}]),
            "4",
        ),
    ] {
        let mut patch = request("PATCH", &format!("{MAPS}/a"), body);
        patch.content_type = content_type.into();
        let (code, object) = send(&api, patch).await;
        assert_eq!(
            (code, &object["data"]["v"]),
            (200, &json!(expected)),
            "{content_type}: {object}"
        );
    }
    let mut wrong = request("PATCH", &format!("{MAPS}/a"), json!({}));
    wrong.content_type = "text/plain".into();
    assert_eq!(send(&api, wrong).await.0, 415);
}

#[tokio::test]
async fn server_side_apply_owns_fields_and_reports_conflicts() {
    let api = with_namespace().await;
    let apply = |manager: &str, value: &str, force: bool| {
        let mut object = config_map("a", value);
        object["metadata"]["labels"].take();
        let mut patch = request(
            "PATCH",
            &format!("{MAPS}/a?fieldManager={manager}&force={force}"),
            object,
        );
        patch.content_type = "application/apply-patch+yaml".into();
        patch
    };
    assert_eq!(send(&api, apply("one", "1", false)).await.0, 201);
    let (code, status) = send(&api, apply("two", "2", false)).await;
    assert_eq!(code, 409);
    assert_eq!(
        status["details"]["causes"][0]["reason"], "FieldManagerConflict",
        "{status}"
    );
    let (code, object) = send(&api, apply("two", "2", true)).await;
    assert_eq!((code, &object["data"]["v"]), (200, &json!("2")));
}

#[tokio::test]
async fn a_dry_run_answers_and_stores_nothing() {
    let api = with_namespace().await;
    let (code, object) = call(&api, "POST", &format!("{MAPS}?dryRun=All"), config_map("a", "1")).await;
    assert_eq!((code, &object["data"]["v"]), (201, &json!("1")));
    assert_eq!(call(&api, "GET", &format!("{MAPS}/a"), Value::Null).await.0, 404);
}

#[tokio::test]
async fn a_long_list_comes_in_parts_that_make_one_document() {
    let api = with_namespace().await;
    for number in 0..150 {
        let map = json!({"metadata": {"name": format!("m{number:03}")}, "data": {"v": "x".repeat(4_000)}});
        assert_eq!(call(&api, "POST", MAPS, map).await.0, 201);
    }
    let response = api.handle(request("GET", MAPS, Value::Null)).await;
    let ResponseBody::Parts { parts, .. } = response.body else {
        panic!("it is read while it is sent")
    };
    let parts: Vec<Bytes> = parts.map(|part| part.unwrap()).collect().await;
    assert!(parts.len() > 3, "{} parts", parts.len());
    let list: Value = serde_json::from_slice(&parts.concat()).unwrap();
    let (code, paged) = call(&api, "GET", &format!("{MAPS}?limit=200"), Value::Null).await;
    assert_eq!((code, list), (200, paged));
}

async fn watch(api: &Api, path: &str) -> gateway::request::BodyStream {
    let ApiResponse { code, body, .. } = api.handle(request("GET", path, Value::Null)).await;
    assert_eq!(code, 200);
    let ResponseBody::Watch(stream) = body else {
        panic!("no stream")
    };
    stream
}

async fn next(stream: &mut gateway::request::BodyStream) -> Value {
    let line = tokio::time::timeout(Duration::from_secs(5), stream.next())
        .await
        .expect("an event within 5 s")
        .expect("the watch goes on");
    serde_json::from_slice(&line).unwrap()
}

#[tokio::test]
async fn a_watch_shows_what_is_there_and_then_what_happens() {
    let api = with_namespace().await;
    call(&api, "POST", MAPS, config_map("a", "1")).await;
    let mut events = watch(&api, &format!("{MAPS}?watch=true&labelSelector=v=1")).await;
    let event = next(&mut events).await;
    assert_eq!(
        (&event["type"], &event["object"]["metadata"]["name"]),
        (&json!("ADDED"), &json!("a"))
    );
    call(&api, "POST", MAPS, config_map("b", "2")).await;
    let mut patch = request(
        "PATCH",
        &format!("{MAPS}/b"),
        json!({"metadata": {"labels": {"v": "1"}}}),
    );
    patch.content_type = "application/merge-patch+json".into();
    send(&api, patch).await;
    let event = next(&mut events).await;
    assert_eq!(
        (&event["type"], &event["object"]["metadata"]["name"]),
        (&json!("ADDED"), &json!("b")),
        "it came into the selector"
    );
    call(&api, "DELETE", &format!("{MAPS}/a"), Value::Null).await;
    let event = next(&mut events).await;
    assert_eq!(
        (&event["type"], &event["object"]["metadata"]["name"]),
        (&json!("DELETED"), &json!("a"))
    );
}

#[tokio::test]
async fn services_get_addresses_of_their_own_and_give_them_back() {
    let api = with_namespace().await;
    let service = |name: &str, ip: Option<&str>| {
        let mut object = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
        if let Some(ip) = ip {
            object["spec"]["clusterIP"] = ip.into();
        }
        object
    };
    let path = "/api/v1/namespaces/d/services";
    let (code, first) = call(&api, "POST", path, service("a", None)).await;
    assert_eq!(code, 201, "{first}");
    let ip = first["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let (code, status) = call(&api, "POST", path, service("b", Some(&ip))).await;
    assert_ne!(code, 201, "one address was given twice: {status}");
    let (code, status) = call(&api, "POST", path, service("c", Some("192.0.2.1"))).await;
    assert_eq!(code, 422, "{status}");
    let (_, gone) = call(&api, "DELETE", &format!("{path}/a"), Value::Null).await;
    assert_eq!(
        gone["spec"]["clusterIP"],
        json!(ip),
        "the deletion of a Service is answered with it"
    );
    let (code, again) = call(&api, "POST", path, service("b", Some(&ip))).await;
    assert_eq!(
        (code, again["spec"]["clusterIP"].as_str()),
        (201, Some(ip.as_str())),
        "{again}"
    );
}

#[tokio::test]
async fn scale_and_status_are_subresources() {
    let api = with_namespace().await;
    let path = "/apis/apps/v1/namespaces/d/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let object = json!({"metadata": {"name": "w"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let (code, created) = call(&api, "POST", path, object).await;
    assert_eq!(code, 201, "{created}");
    assert_eq!(created["status"], json!({}), "a status is there from the beginning");
    let (code, scale) = call(&api, "GET", &format!("{path}/w/scale"), Value::Null).await;
    assert_eq!(
        (code, &scale["spec"]["replicas"], &scale["kind"]),
        (200, &json!(2), &json!("Scale"))
    );
    let mut patch = request("PATCH", &format!("{path}/w/scale"), json!({"spec": {"replicas": 5}}));
    patch.content_type = "application/merge-patch+json".into();
    assert_eq!(send(&api, patch).await.0, 200);
    let mut patch = request(
        "PATCH",
        &format!("{path}/w/status"),
        json!({"status": {"replicas": 5}, "spec": {"replicas": 9}}),
    );
    patch.content_type = "application/merge-patch+json".into();
    let (code, object) = send(&api, patch).await;
    assert_eq!(
        (code, &object["spec"]["replicas"], &object["status"]["replicas"]),
        (200, &json!(5), &json!(5)),
        "{object}"
    );
}

#[tokio::test]
async fn clients_without_credential_or_right_are_refused() {
    let api = with_namespace().await;
    let mut anonymous = request("GET", MAPS, Value::Null);
    anonymous.user = None;
    assert_eq!(send(&api, anonymous).await.0, 401);
    let mut stranger = request("DELETE", &format!("{MAPS}/a"), Value::Null);
    stranger.user = Some(User::authenticated("eve", ["x"]));
    let (code, status) = send(&api, stranger).await;
    assert_eq!((code, &status["reason"]), (403, &json!("Forbidden")));
}

#[tokio::test]
async fn a_revision_that_is_compacted_is_410_and_one_that_is_to_come_is_504() {
    let store = MemoryStore::new();
    let api = with_namespace_over(Arc::clone(&store)).await;
    for name in ["a", "b", "c"] {
        call(&api, "POST", MAPS, config_map(name, "1")).await;
    }
    let (_, first) = call(&api, "GET", &format!("{MAPS}?limit=1"), Value::Null).await;
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    call(&api, "POST", MAPS, config_map("e", "1")).await;
    let (_, now) = call(&api, "GET", MAPS, Value::Null).await;
    let version: u64 = now["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    store.compact(protocol::Revision(version));

    let (code, status) = call(&api, "GET", &format!("{MAPS}?limit=1&continue={token}"), Value::Null).await;
    assert_eq!((code, &status["reason"]), (410, &json!("Expired")), "{status}");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("continue parameter is too old"),
        "{status}"
    );
    let mut events = watch(&api, &format!("{MAPS}?watch=true&resourceVersion=1")).await;
    let event = next(&mut events).await;
    assert_eq!(
        (&event["type"], &event["object"]["code"]),
        (&json!("ERROR"), &json!(410)),
        "{event}"
    );

    let ahead = api
        .handle(request(
            "GET",
            &format!("{MAPS}?resourceVersion={}", version + 9),
            Value::Null,
        ))
        .await;
    assert_eq!((ahead.code, ahead.retry_after_seconds), (504, 1));
    for path in [
        "?resourceVersion=abc",
        "?watch=true&resourceVersion=abc",
        "?resourceVersion=1&resourceVersionMatch=Newest",
    ] {
        let (code, status) = call(&api, "GET", &format!("{MAPS}{path}"), Value::Null).await;
        assert_eq!((code, &status["reason"]), (422, &json!("Invalid")), "{path}: {status}");
    }
    assert_eq!(
        call(&api, "GET", &format!("{MAPS}?continue=abc"), Value::Null).await.0,
        400
    );
}

#[tokio::test]
async fn the_namespaces_that_a_cluster_needs_stay() {
    let api = api();
    for name in ["default", "team"] {
        call(&api, "POST", "/api/v1/namespaces", json!({"metadata": {"name": name}})).await;
    }
    let (code, status) = call(&api, "DELETE", "/api/v1/namespaces/default", Value::Null).await;
    assert_eq!(
        (code, &status["message"]),
        (
            403,
            &json!("namespaces \"default\" is forbidden: this namespace may not be deleted")
        )
    );
    assert_eq!(
        call(&api, "DELETE", "/api/v1/namespaces/team", Value::Null).await.0,
        200
    );
}

#[tokio::test]
async fn bodies_may_be_yaml_and_nothing_else_that_is_unknown() {
    let api = with_namespace().await;
    let mut yaml = request("POST", MAPS, Value::Null);
    yaml.content_type = "application/yaml".into();
    yaml.body = Bytes::from("metadata: {name: y}\ndata: {v: '1'}\n");
    assert_eq!(send(&api, yaml.clone()).await.0, 201);
    yaml.content_type = "application/cbor".into();
    let (code, status) = send(&api, yaml).await;
    assert_eq!((code, &status["reason"]), (415, &json!("UnsupportedMediaType")));
}

#[tokio::test]
async fn an_applied_object_may_leave_its_namespace_to_the_path() {
    let api = with_namespace().await;
    for (namespace, expected) in [(Value::Null, 201), (json!("d"), 200), (json!("other"), 400)] {
        let mut object = config_map("a", "1");
        object["metadata"]["namespace"] = namespace;
        let mut patch = request("PATCH", &format!("{MAPS}/a?fieldManager=one"), object);
        patch.content_type = "application/apply-patch+yaml".into();
        let (code, answer) = send(&api, patch).await;
        assert_eq!(code, expected, "{answer}");
    }
}

#[tokio::test]
async fn one_stored_object_is_served_in_each_of_its_versions() {
    let api = with_namespace().await;
    let (first, second) = (
        "/apis/autoscaling/v1/namespaces/d/horizontalpodautoscalers",
        "/apis/autoscaling/v2/namespaces/d/horizontalpodautoscalers",
    );
    let object = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
        "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 70,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}});
    let (code, created) = call(&api, "POST", first, object).await;
    assert_eq!(
        (
            code,
            &created["apiVersion"],
            &created["spec"]["targetCPUUtilizationPercentage"]
        ),
        (201, &json!("autoscaling/v1"), &json!(70)),
        "{created}"
    );
    let (_, mut newer) = call(&api, "GET", &format!("{second}/web"), Value::Null).await;
    assert_eq!(newer["apiVersion"], "autoscaling/v2");
    let metrics = newer["spec"]["metrics"].as_array_mut().unwrap();
    assert_eq!(metrics[0]["resource"]["target"]["averageUtilization"], 70);
    metrics.push(json!({"type": "Resource", "resource": {"name": "memory",
        "target": {"type": "AverageValue", "averageValue": "1Gi"}}}));
    let (code, status) = call(&api, "PUT", &format!("{second}/web"), newer).await;
    assert_eq!(code, 200, "{status}");

    let (_, listed) = call(&api, "GET", first, Value::Null).await;
    assert_eq!(listed["apiVersion"], "autoscaling/v1");
    let item = &listed["items"][0];
    assert_eq!(item["apiVersion"], "autoscaling/v1");
    let kept = &item["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/metrics"];
    assert!(kept.as_str().unwrap().contains("memory"), "{item}");

    // A patch through the older version changes what it names and loses nothing of the rest.
    let mut patch = request("PATCH", &format!("{first}/web"), json!({"spec": {"maxReplicas": 9}}));
    patch.content_type = "application/merge-patch+json".into();
    let (code, patched) = send(&api, patch).await;
    assert_eq!((code, &patched["spec"]["maxReplicas"]), (200, &json!(9)), "{patched}");
    let (_, newest) = call(&api, "GET", &format!("{second}/web"), Value::Null).await;
    assert_eq!(newest["spec"]["metrics"].as_array().map(Vec::len), Some(2));
    let mut stream = watch(&api, &format!("{first}?watch=true")).await;
    assert_eq!(next(&mut stream).await["object"]["apiVersion"], "autoscaling/v1");
    let (code, _) = call(&api, "DELETE", &format!("{first}/web"), Value::Null).await;
    assert_eq!(code, 200);
    assert_eq!(call(&api, "GET", &format!("{second}/web"), Value::Null).await.0, 404);
}

#[tokio::test]
async fn events_of_both_groups_are_the_same_objects_and_are_selected_by_the_names_of_their_group() {
    let api = with_namespace().await;
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "example.com/c", "reportingInstance": "c-1",
        "action": "Try", "reason": "Tried", "type": "Normal", "note": "text",
        "regarding": {"kind": "Pod", "namespace": "d", "name": "web"},
    });
    let (code, status) = call(&api, "POST", "/apis/events.k8s.io/v1/namespaces/d/events", event).await;
    assert_eq!(code, 201, "{status}");
    for (path, field) in [
        (
            "/api/v1/namespaces/d/events?fieldSelector=involvedObject.name=web",
            "message",
        ),
        (
            "/apis/events.k8s.io/v1/namespaces/d/events?fieldSelector=regarding.name=web",
            "note",
        ),
    ] {
        let (path, selector) = path.split_once("?fieldSelector=").unwrap();
        let mut list = request("GET", path, Value::Null);
        list.query.insert("fieldSelector".into(), selector.into());
        let (code, listed) = send(&api, list).await;
        assert_eq!(
            (code, &listed["items"][0][field]),
            (200, &json!("text")),
            "{path} {listed}"
        );
    }
}

#[tokio::test]
async fn what_is_stored_nowhere_is_answered_and_has_no_other_verbs() {
    let api = with_namespace().await;
    let (code, listed) = call(&api, "GET", "/api/v1/componentstatuses", Value::Null).await;
    assert_eq!((code, &listed["kind"]), (200, &json!("ComponentStatusList")));
    let (_, one) = call(&api, "GET", "/api/v1/componentstatuses/scheduler", Value::Null).await;
    assert_eq!(one["conditions"][0]["status"], "True");
    for (method, path) in [
        ("POST", "/api/v1/componentstatuses"),
        ("GET", "/api/v1/namespaces/d/bindings"),
        ("DELETE", "/apis/authorization.k8s.io/v1/subjectaccessreviews"),
    ] {
        assert_eq!(call(&api, method, path, Value::Null).await.0, 405, "{method} {path}");
    }
    let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "c", "image": "c:1"}]}});
    assert_eq!(call(&api, "POST", "/api/v1/namespaces/d/pods", pod).await.0, 201);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "web"}, "target": {"name": "n1"}});
    let (code, status) = call(&api, "POST", "/api/v1/namespaces/d/bindings", binding).await;
    assert_eq!(code, 201, "{status}");
    let (_, pod) = call(&api, "GET", "/api/v1/namespaces/d/pods/web", Value::Null).await;
    assert_eq!(pod["spec"]["nodeName"], "n1");
}

#[tokio::test]
async fn a_signing_request_is_its_senders_and_is_approved_through_its_own_path() {
    let api = api();
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let object = json!({"metadata": {"name": "a"}, "spec": {
        "request": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K", "signerName": "example.com/signer",
        "usages": ["client auth"], "username": "somebody-else",
    }});
    let (code, created) = call(&api, "POST", path, object).await;
    assert_eq!(
        (code, &created["spec"]["username"]),
        (201, &json!("admin")),
        "{created}"
    );
    assert_eq!(
        created["spec"]["groups"],
        json!(["system:masters", "system:authenticated"])
    );
    let mut approved = created.clone();
    approved["status"]["conditions"] = json!([{"type": "Approved", "status": "True", "reason": "Fine"}]);
    approved["spec"]["usages"] = json!(["any"]);
    let (code, answer) = call(&api, "PUT", &format!("{path}/a/approval"), approved).await;
    assert_eq!(
        (code, &answer["status"]["conditions"][0]["type"]),
        (200, &json!("Approved")),
        "{answer}"
    );
    assert_eq!(answer["spec"]["usages"], json!(["client auth"]));
    let mut denied = answer.clone();
    denied["status"]["conditions"] = json!([{"type": "Denied", "status": "True"}]);
    let (code, status) = call(&api, "PUT", &format!("{path}/a/approval"), denied).await;
    assert_eq!(code, 422);
    let text = status["message"].as_str().unwrap();
    assert!(
        text.contains("updates may not remove a condition of type \"Approved\""),
        "{text}"
    );
}
