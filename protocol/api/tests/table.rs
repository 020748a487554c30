//! What `kubectl get` shows.
#![allow(missing_docs)]

mod fixture;

use api::Kind;
use api::table::{IncludeObject, table};
use fixture::*;
use serde_json::{Value, json};

fn cells(kind: &Kind, object: &Value) -> Vec<Value> {
    let table = table(
        kind,
        std::iter::once(object),
        json!({"resourceVersion": "7"}),
        IncludeObject::None,
        NOW,
    );
    assert_eq!(table["metadata"]["resourceVersion"], "7");
    let cells = table["rows"][0]["cells"].as_array().unwrap().clone();
    assert_eq!(cells.len(), table["columnDefinitions"].as_array().unwrap().len());
    cells
}

/// Ready, Status and Restarts of a pod.
fn pod_cells(pod: &Value) -> (String, String, String) {
    let cells = cells(pods(), pod);
    let text = |index: usize| cells[index].as_str().unwrap().to_owned();
    (text(1), text(2), text(3))
}

fn running(restarts: i64) -> Value {
    json!({"name": "a", "ready": true, "started": true, "restartCount": restarts, "state": {"running": {}}})
}

fn terminated(reason: &str, code: i64) -> Value {
    json!({"name": "a", "ready": false, "restartCount": 0, "state": {"terminated": {"reason": reason, "exitCode": code}}})
}

fn waiting(reason: &str, restarts: i64, ended: &str) -> Value {
    json!({
        "name": "a", "ready": false, "restartCount": restarts, "state": {"waiting": {"reason": reason}},
        "lastState": {"terminated": {"finishedAt": ended, "exitCode": 1}},
    })
}

fn pod_with(status: Value) -> Value {
    with(pod(), "/status", status)
}

#[test]
fn a_pod_is_summed_up_in_the_words_that_people_know() {
    let cases: Vec<(Value, (&str, &str, &str))> = vec![
        (json!({"phase": "Pending"}), ("0/1", "Pending", "0")),
        (
            json!({"phase": "Running", "containerStatuses": [running(0)]}),
            ("1/1", "Running", "0"),
        ),
        (
            json!({"phase": "Running", "containerStatuses": [waiting("CrashLoopBackOff", 2, "2025-12-31T23:57:00Z")]}),
            ("0/1", "CrashLoopBackOff", "2 (3m ago)"),
        ),
        (
            json!({"phase": "Pending", "containerStatuses": [waiting("ImagePullBackOff", 0, "")]}),
            ("0/1", "ImagePullBackOff", "0"),
        ),
        (
            json!({"phase": "Succeeded", "containerStatuses": [terminated("Completed", 0)]}),
            ("0/1", "Completed", "0"),
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [terminated("OOMKilled", 137)]}),
            ("0/1", "OOMKilled", "0"),
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [terminated("", 3)]}),
            ("0/1", "ExitCode:3", "0"),
        ),
        (json!({"phase": "Failed", "reason": "Evicted"}), ("0/1", "Evicted", "0")),
        (
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
            ("0/1", "SchedulingGated", "0"),
        ),
    ];
    for (status, expected) in cases {
        let (ready, word, restarts) = pod_cells(&pod_with(status.clone()));
        assert_eq!((ready.as_str(), word.as_str(), restarts.as_str()), expected, "{status}");
    }
}

#[test]
fn a_pod_that_is_being_deleted_is_terminating() {
    let mut object = pod_with(json!({"phase": "Running", "containerStatuses": [running(0)]}));
    object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(pod_cells(&object).1, "Terminating");
}

#[test]
fn init_containers_show_how_far_they_got() {
    let init = |statuses: Value| {
        let mut object = pod_with(json!({"phase": "Pending", "initContainerStatuses": statuses}));
        object["spec"]["initContainers"] = json!([{"name": "i1", "image": "i"}, {"name": "i2", "image": "i"}]);
        pod_cells(&object).1
    };
    let done = json!({"name": "i1", "state": {"terminated": {"exitCode": 0}}});
    assert_eq!(
        init(json!([{"name": "i1", "state": {"waiting": {"reason": "PodInitializing"}}}])),
        "Init:0/2"
    );
    assert_eq!(
        init(json!([done, {"name": "i2", "state": {"running": {}}}])),
        "Init:1/2"
    );
    assert_eq!(
        init(json!([{"name": "i1", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}])),
        "Init:Error"
    );
    assert_eq!(
        init(json!([{"name": "i1", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}])),
        "Init:CrashLoopBackOff"
    );
}

#[test]
fn sidecars_count_as_containers() {
    let mut object = pod_with(json!({
        "phase": "Running", "containerStatuses": [running(0)],
        "initContainerStatuses": [{"name": "side", "ready": true, "started": true, "state": {"running": {}}}],
    }));
    object["spec"]["initContainers"] = json!([{"name": "side", "image": "s", "restartPolicy": "Always"}]);
    assert_eq!(
        pod_cells(&object),
        ("2/2".to_owned(), "Running".to_owned(), "0".to_owned())
    );
}

#[test]
fn the_wide_columns_of_a_pod_say_where_it_is() {
    let mut object = pod_with(json!({"phase": "Running", "podIPs": [{"ip": "10.1.0.5"}]}));
    object["spec"]["nodeName"] = json!("n1");
    object["metadata"]["creationTimestamp"] = json!("2025-12-31T22:00:00Z");
    let cells = cells(pods(), &object);
    assert_eq!(
        cells[4..],
        [
            json!("120m"),
            json!("10.1.0.5"),
            json!("n1"),
            json!("<none>"),
            json!("<none>")
        ]
    );
}

#[test]
fn workloads_show_their_numbers() {
    let mut object = create(deployments(), deployment()).unwrap();
    object["status"] = json!({"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2});
    let row = cells(deployments(), &object);
    let expected = [
        json!("web"),
        json!("2/3"),
        json!(3),
        json!(2),
        json!("0s"),
        json!("nginx"),
        json!("nginx:1.27"),
        json!("app=web"),
    ];
    assert_eq!(row, expected);
}

#[test]
fn services_show_addresses_and_ports() {
    let row = kind("v1", "Service");
    let service = |spec: Value| {
        let object = json!({"metadata": {"name": "web", "creationTimestamp": "2025-12-31T00:00:00Z"}, "spec": spec});
        cells(row, &object)
    };
    let plain =
        service(json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "ports": [{"port": 80, "protocol": "TCP"}]}));
    let expected = ["web", "ClusterIP", "10.0.0.1", "<none>", "80/TCP", "24h", "<none>"];
    assert_eq!(plain, expected.map(Value::from));
    let node_port = service(json!({
        "type": "NodePort", "clusterIP": "10.0.0.1", "selector": {"a": "b"},
        "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}],
    }));
    assert_eq!((&node_port[4], &node_port[6]), (&json!("80:30080/TCP"), &json!("a=b")));
    assert_eq!(service(json!({"type": "LoadBalancer"}))[3], "<pending>");
    assert_eq!(
        service(json!({"type": "ExternalName", "externalName": "x.io"}))[3],
        "x.io"
    );
}

#[test]
fn nodes_show_their_state_and_roles() {
    let mut node = json!({
        "metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/control-plane": ""}},
        "spec": {"unschedulable": true},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.2"}],
            "nodeInfo": {"kubeletVersion": "v1.37.0"},
        },
    });
    let row = cells(kind("v1", "Node"), &node);
    assert_eq!(row[1..3], [json!("Ready,SchedulingDisabled"), json!("control-plane")]);
    assert_eq!(row[4..7], [json!("v1.37.0"), json!("10.0.0.2"), json!("<none>")]);
    node["status"]["conditions"][0]["status"] = json!("Unknown");
    node["spec"] = json!({});
    assert_eq!(cells(kind("v1", "Node"), &node)[1], "NotReady");
}

#[test]
fn ages_are_printed_as_kubectl_prints_them() {
    let (minute, hour, day) = (60, 3600, 86_400);
    let cases = [
        (0, "0s"),
        (119, "119s"),
        (2 * minute, "2m"),
        (2 * minute + 5, "2m5s"),
        (10 * minute, "10m"),
        (179 * minute, "179m"),
        (3 * hour, "3h"),
        (3 * hour + 4 * minute, "3h4m"),
        (8 * hour, "8h"),
        (47 * hour, "47h"),
        (2 * day, "2d"),
        (3 * day + 5 * hour, "3d5h"),
        (8 * day, "8d"),
        (729 * day, "729d"),
        (730 * day, "2y"),
        (800 * day, "2y70d"),
    ];
    for (seconds, expected) in cases {
        assert_eq!(api::time::age(seconds * 1000), expected, "{seconds}");
    }
}

#[test]
fn rows_carry_what_the_client_asks_for() {
    let object = pod_with(json!({"phase": "Pending"}));
    let row = |include| table(pods(), std::iter::once(&object), json!({}), include, NOW)["rows"][0].clone();
    assert_eq!(row(IncludeObject::None).get("object"), None);
    assert_eq!(row(IncludeObject::Object)["object"], object);
    let partial = row(IncludeObject::Metadata)["object"].clone();
    assert_eq!(
        (&partial["kind"], &partial["metadata"]),
        (&json!("PartialObjectMetadata"), &object["metadata"])
    );
    assert_eq!(IncludeObject::parse(""), Some(IncludeObject::Metadata));
    assert_eq!(IncludeObject::parse("Everything"), None);
}

#[test]
fn every_kind_has_a_cell_for_each_column_whatever_the_object_looks_like() {
    for kind in api::kinds::kinds() {
        for object in [
            json!({}),
            json!(null),
            json!({"metadata": 1, "spec": [], "status": "x"}),
            json!({"spec": {"ports": [1]}}),
        ] {
            cells(kind, &object);
        }
    }
}
