//! Tables for the Endpoints object.

use super::*;
use crate::kind::{Event, ObjectKind};
use crate::ownership::tests::stored;
use crate::service::Service;
use protocol::{Key, UnixMillis};

fn service(metadata: Value, spec: Value) -> Service {
    let mut value =
        json!({"metadata": {"name": "web", "namespace": "default", "uid": "svc", "labels": {"tier": "front"}}});
    for (field, part) in metadata.as_object().unwrap() {
        value["metadata"][field] = part.clone();
    }
    value["spec"] =
        json!({"clusterIP": "10.96.0.20", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]});
    for (field, part) in spec.as_object().unwrap() {
        value["spec"][field] = part.clone();
    }
    let key = Key::new("services", "default", "web");
    let mut state = Service::new(key.clone());
    state.observe(&key, Some(&stored(value, 1))).unwrap();
    state
}

fn pod(name: &str, ip: &str, ready: bool, more: Value) -> Value {
    let mut value = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [
            {"name": "http", "containerPort": 8080}, {"name": "metrics", "containerPort": 9090}]}]},
        "status": {"phase": "Running", "podIP": ip,
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    });
    for (path, part) in more.as_object().unwrap() {
        *value.pointer_mut(path).unwrap() = part.clone();
    }
    value
}

fn show(state: &mut Service, pods: Vec<Value>) {
    for value in pods {
        let key = Key::new("pods", "default", value["metadata"]["name"].as_str().unwrap());
        state.observe(&key, Some(&stored(value, 2))).unwrap();
    }
}

/// The Endpoints object that is written, if one is.
fn written(state: &mut Service) -> Option<Value> {
    let mut effects = Effects::default();
    state.decide(UnixMillis(0), Event::Changed, &mut effects);
    let mut intents = effects.groups.into_iter().flatten();
    intents.find_map(|intent| match intent {
        Intent::Create { resource, value, .. } if resource.as_str() == "endpoints" => Some(value),
        Intent::Update { key, value, .. } if key.resource.as_str() == "endpoints" => Some(value),
        _ => None,
    })
}

fn store(state: &mut Service, value: Value) {
    let mut value = value;
    value["metadata"]["uid"] = json!("e");
    state
        .observe(&Key::new("endpoints", "default", "web"), Some(&stored(value, 7)))
        .unwrap();
}

fn target(name: &str) -> Value {
    json!({"kind": "Pod", "namespace": "default", "name": name, "uid": format!("uid-{name}")})
}

#[test]
fn ready_and_other_addresses_are_told_apart_and_what_ends_is_left_out() {
    let mut state = service(json!({}), json!({}));
    let ending = json!("2026-01-01T00:00:00Z");
    let mut terminating = pod("c", "10.0.0.3", true, json!({}));
    terminating["metadata"]["deletionTimestamp"] = ending;
    show(
        &mut state,
        vec![
            pod("b", "10.0.0.2", true, json!({})),
            pod("a", "10.0.0.1", true, json!({"/spec/nodeName": ""})),
            pod("n", "10.0.0.9", false, json!({})),
            terminating,
            pod("d", "10.0.0.4", true, json!({"/status/phase": "Succeeded"})),
            pod("e", "", true, json!({})),
        ],
    );
    let object = written(&mut state).unwrap();
    assert_eq!(
        object["subsets"],
        json!([{
            "addresses": [
                {"ip": "10.0.0.1", "targetRef": target("a")},
                {"ip": "10.0.0.2", "nodeName": "n1", "targetRef": target("b")},
            ],
            "notReadyAddresses": [{"ip": "10.0.0.9", "nodeName": "n1", "targetRef": target("n")}],
            "ports": [{"port": 8080, "protocol": "TCP"}],
        }])
    );
    assert_eq!(
        object["metadata"]["labels"],
        json!({"tier": "front", MANAGED_BY: MANAGER})
    );
    store(&mut state, object);
    assert_eq!(written(&mut state), None, "what is stored is not written again");
}

#[test]
fn ports_with_the_same_addresses_share_a_subset() {
    let ports = json!([
        {"name": "http", "port": 80, "targetPort": "http"},
        {"name": "metrics", "port": 90, "targetPort": "metrics", "appProtocol": "http"},
        {"name": "raw", "port": 70, "targetPort": 7070},
    ]);
    let mut state = service(json!({}), json!({ "ports": ports }));
    let mut without_metrics = pod("b", "10.0.0.2", true, json!({}));
    without_metrics["spec"]["containers"][0]["ports"] = json!([{"name": "http", "containerPort": 8080}]);
    show(&mut state, vec![pod("a", "10.0.0.1", true, json!({})), without_metrics]);
    let object = written(&mut state).unwrap();
    let shown: Vec<(Vec<&str>, Vec<i64>)> = object["subsets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|subset| {
            let ips = subset["addresses"].as_array().unwrap().iter();
            let ports = subset["ports"].as_array().unwrap().iter();
            (
                ips.map(|a| a["ip"].as_str().unwrap()).collect(),
                ports.map(|p| p["port"].as_i64().unwrap()).collect(),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            (vec!["10.0.0.1"], vec![9090]),
            (vec!["10.0.0.1", "10.0.0.2"], vec![8080, 7070])
        ]
    );
}

#[test]
fn headless_services_publish_and_name_their_pods() {
    let spec = json!({"clusterIP": "None", "ports": [], "publishNotReadyAddresses": true});
    let mut state = service(json!({}), spec);
    let mut named = pod("a", "10.0.0.1", false, json!({}));
    named["spec"]["hostname"] = json!("web-0");
    named["spec"]["subdomain"] = json!("web");
    named["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    show(&mut state, vec![named]);
    let object = written(&mut state).unwrap();
    assert_eq!(
        object["subsets"],
        json!([{"addresses": [{"ip": "10.0.0.1", "hostname": "web-0", "nodeName": "n1", "targetRef": target("a")}]}])
    );
    assert_eq!(object["metadata"]["labels"][HEADLESS], "");
}

#[test]
fn one_family_of_addresses_is_shown() {
    for (families, expected) in [
        (json!([]), "10.0.0.1"),
        (json!(["IPv4"]), "10.0.0.1"),
        (json!(["IPv6", "IPv4"]), "fd00::1"),
    ] {
        let mut state = service(json!({}), json!({ "ipFamilies": families }));
        let mut both = pod("a", "10.0.0.1", true, json!({}));
        both["status"]["podIPs"] = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
        show(&mut state, vec![both]);
        assert_eq!(
            written(&mut state).unwrap()["subsets"][0]["addresses"][0]["ip"],
            expected
        );
    }
}

#[test]
fn a_thousand_addresses_are_shown_ready_ones_first_and_it_is_said() {
    let count = |object: &Value, name: &str| -> Vec<usize> {
        let subsets = object["subsets"].as_array().unwrap();
        subsets.iter().map(|s| s[name].as_array().map_or(0, Vec::len)).collect()
    };
    for (ready, others, expected) in [
        (600, 400, (600, 400, false)),
        (600, 700, (600, 400, true)),
        (1200, 50, (1000, 0, true)),
    ] {
        let mut state = service(json!({}), json!({}));
        let name = |i: usize| {
            (
                format!("p{i:05}"),
                format!("10.{}.{}.{}", i / 62500, i / 250 % 250, i % 250),
            )
        };
        let pods = (0..ready + others).map(|i| pod(&name(i).0, &name(i).1, i < ready, json!({})));
        show(&mut state, pods.collect());
        let object = written(&mut state).unwrap();
        let truncated = object["metadata"]["annotations"][OVER_CAPACITY] == "truncated";
        assert_eq!(
            (
                count(&object, "addresses"),
                count(&object, "notReadyAddresses"),
                truncated
            ),
            (vec![expected.0], vec![expected.1], expected.2)
        );
        store(&mut state, object);
        assert_eq!(written(&mut state), None);
        if truncated {
            for i in 900..ready + others {
                state.observe(&Key::new("pods", "default", name(i).0), None).unwrap();
            }
            let object = written(&mut state).unwrap();
            assert!(
                object["metadata"]["annotations"].is_null(),
                "the mark goes again: {}",
                object["metadata"]
            );
        }
    }
}

#[test]
fn each_subset_loses_its_share() {
    // 900 pods serve 8080 and 300 serve 9091 under the same name.
    let mut state = service(json!({}), json!({}));
    let pods = (0..1200).map(|i| {
        let number = if i < 900 { 8080 } else { 9091 };
        let more = json!({"/spec/containers/0/ports/0/containerPort": number});
        pod(
            &format!("p{i:05}"),
            &format!("10.0.{}.{}", i / 250, i % 250),
            true,
            more,
        )
    });
    show(&mut state, pods.collect());
    let object = written(&mut state).unwrap();
    let lengths: Vec<usize> = object["subsets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|subset| subset["addresses"].as_array().unwrap().len())
        .collect();
    assert_eq!(lengths, [750, 250]);
}

#[test]
fn endpoints_of_a_service_without_selector_are_left_alone() {
    for spec in [json!({"selector": {}}), json!({"type": "ExternalName"})] {
        let mut state = service(json!({}), spec);
        show(&mut state, vec![pod("a", "10.0.0.1", true, json!({}))]);
        assert_eq!(written(&mut state), None);
        store(
            &mut state,
            json!({"metadata": {"name": "web", "namespace": "default"}, "subsets": [{"addresses": [{"ip": "192.0.2.1"}]}]}),
        );
        assert_eq!(written(&mut state), None);
    }
}

#[test]
fn what_is_made_for_a_service_is_refused_when_that_is_gone() {
    let mut state = service(json!({}), json!({}));
    show(&mut state, vec![pod("a", "10.0.0.1", true, json!({}))]);
    let mut effects = Effects::default();
    state.decide(UnixMillis(0), Event::Changed, &mut effects);
    assert_eq!(effects.groups.len(), 2, "a slice and the Endpoints object");
    for group in effects.groups {
        let [Intent::Create { .. }, Intent::Fence { key, .. }] = group.as_slice() else {
            panic!("{group:?}")
        };
        assert_eq!(key.to_string(), "services/default/web");
    }
}
