//! Patches: the examples of the documents that define them, what kubectl sends, and laws.
#![allow(missing_docs)]

mod fixture;

use api::write::{PatchType, apply_patch};
use api::{Kind, Status};
use fixture::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn patch(kind: &Kind, patch_type: PatchType, old: &Value, patch: Value) -> Result<Value, Status> {
    apply_patch(kind, patch_type, old, &patch)
}

fn strategic(old: &Value, change: Value) -> Value {
    patch(deployments(), PatchType::Strategic, old, change).unwrap()
}

/// A patch of the one pod template.
fn pod_spec(spec: Value) -> Value {
    json!({"spec": {"template": {"spec": spec}}})
}

fn spec_of(object: &Value) -> &Value {
    &object["spec"]["template"]["spec"]
}

#[test]
fn merge_patches_follow_the_examples_of_rfc_7396() {
    let cases = [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (
            json!({"a": {"b": "c"}}),
            json!({"a": {"b": "d", "c": null}}),
            json!({"a": {"b": "d"}}),
        ),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ];
    for (old, change, expected) in cases {
        assert_eq!(
            patch(pods(), PatchType::Merge, &old, change.clone()).unwrap(),
            expected,
            "{change}"
        );
    }
    assert_eq!(
        patch(pods(), PatchType::Merge, &json!({}), json!([])).unwrap_err().code,
        400
    );
}

#[test]
fn json_patches_apply_in_order_or_not_at_all() {
    let old = deployment();
    let change = json!([
        {"op": "test", "path": "/spec/replicas", "value": 3},
        {"op": "replace", "path": "/spec/replicas", "value": 5},
        {"op": "add", "path": "/metadata/labels/a~1b", "value": "c"},
        {"op": "remove", "path": "/spec/template/spec/containers/0/env/0"},
    ]);
    let new = patch(deployments(), PatchType::Json, &old, change).unwrap();
    assert_eq!(new["spec"]["replicas"], 5);
    assert_eq!(new["metadata"]["labels"]["a/b"], "c");
    assert_eq!(
        spec_of(&new)["containers"][0]["env"],
        json!([{"name": "B", "value": "2"}])
    );
    let failing = json!([{"op": "test", "path": "/spec/replicas", "value": 4}]);
    let status = patch(deployments(), PatchType::Json, &old, failing).unwrap_err();
    assert_eq!((status.code, &*status.reason), (422, "Invalid"));
    assert_eq!(
        status.message,
        "the server rejected our request due to an error in our request"
    );
    let nonsense = json!([{"op": "frobnicate", "path": "/a"}]);
    assert_eq!(
        patch(deployments(), PatchType::Json, &old, nonsense).unwrap_err().code,
        400
    );
}

#[test]
fn a_test_for_null_finds_what_is_absent() {
    let old = json!({"metadata": {"name": "a"}, "items": []});
    let test = |path: &str, value: Value| {
        let change = json!([{"op": "test", "path": path, "value": value}]);
        patch(pods(), PatchType::Json, &old, change).is_ok()
    };
    for (path, value, passes) in [
        ("/metadata/finalizers", Value::Null, true),
        ("/metadata/finalizers", json!([]), false),
        ("/metadata/name", Value::Null, false),
        ("/metadata/none/finalizers", Value::Null, false),
        ("/items/0", Value::Null, false),
    ] {
        assert_eq!(test(path, value.clone()), passes, "{path} {value}");
    }
}

#[test]
fn json_patches_cannot_fill_the_memory() {
    let mut deep = json!(1);
    for _ in 0..100 {
        deep = json!({"a": deep});
    }
    let nested: Vec<Value> = (0..50)
        .map(|level| json!({"op": "add", "path": format!("/{}", vec!["a"; 100 * level + 1].join("/")), "value": deep}))
        .collect();
    let status = patch(pods(), PatchType::Json, &json!({}), Value::Array(nested)).unwrap_err();
    assert_eq!(status.code, 422);
    let doubling: Vec<Value> = std::iter::once(json!({"op": "add", "path": "/a", "value": "x".repeat(1000)}))
        .chain((0..40).map(|step| json!({"op": "copy", "from": "", "path": format!("/b{step}")})))
        .collect();
    assert_eq!(
        patch(pods(), PatchType::Json, &json!({}), Value::Array(doubling))
            .unwrap_err()
            .code,
        413
    );
    let many: Vec<Value> = (0..10_001)
        .map(|_| json!({"op": "add", "path": "/a", "value": 1}))
        .collect();
    assert_eq!(
        patch(pods(), PatchType::Json, &json!({}), Value::Array(many))
            .unwrap_err()
            .code,
        413
    );
}

#[test]
fn strategic_patches_merge_keyed_lists() {
    let old = deployment();
    let new = strategic(
        &old,
        pod_spec(json!({"containers": [{"name": "nginx", "image": "nginx:2"}]})),
    );
    let container = &spec_of(&new)["containers"][0];
    assert_eq!(container["image"], "nginx:2");
    assert_eq!(container["env"].as_array().unwrap().len(), 2);
    let new = strategic(
        &old,
        pod_spec(json!({"containers": [{"name": "log", "image": "log:1"}]})),
    );
    assert_eq!(spec_of(&new)["containers"].as_array().unwrap().len(), 2);
    let env = json!([{"name": "A", "$patch": "delete"}, {"name": "C", "value": "3"}]);
    let new = strategic(&old, pod_spec(json!({"containers": [{"name": "nginx", "env": env}]})));
    let expected = json!([{"name": "B", "value": "2"}, {"name": "C", "value": "3"}]);
    assert_eq!(spec_of(&new)["containers"][0]["env"], expected);
}

#[test]
fn strategic_patches_obey_their_directives() {
    let old = deployment();
    let replaced = strategic(
        &old,
        pod_spec(json!({"containers": [{"$patch": "replace"}, {"name": "x", "image": "x:1"}]})),
    );
    assert_eq!(spec_of(&replaced)["containers"], json!([{"name": "x", "image": "x:1"}]));
    let labels = strategic(&old, json!({"metadata": {"labels": {"$patch": "replace", "b": "c"}}}));
    assert_eq!(labels["metadata"]["labels"], json!({"b": "c"}));
    let deleted = strategic(&old, json!({"metadata": {"labels": {"$patch": "delete"}}}));
    assert_eq!(deleted["metadata"]["labels"], json!({}));
    let null = strategic(&old, json!({"spec": {"replicas": null}}));
    assert_eq!(null["spec"].get("replicas"), None);

    let rolling = with(
        old.clone(),
        "/spec/strategy",
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}),
    );
    let recreate = strategic(
        &rolling,
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
    );
    assert_eq!(recreate["spec"]["strategy"], json!({"type": "Recreate"}));

    let volumes = json!([{"name": "v", "emptyDir": {}}]);
    let with_volume = with(old.clone(), "/spec/template/spec/volumes", volumes);
    let change = json!([{"$retainKeys": ["name", "configMap"], "name": "v", "configMap": {"name": "c"}}]);
    let new = strategic(&with_volume, pod_spec(json!({"volumes": change})));
    assert_eq!(
        spec_of(&new)["volumes"],
        json!([{"name": "v", "configMap": {"name": "c"}}])
    );

    let finalizers = with(old.clone(), "/metadata/finalizers", json!(["a", "b", "c"]));
    let change = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"], "finalizers": ["d"]}});
    assert_eq!(
        strategic(&finalizers, change)["metadata"]["finalizers"],
        json!(["a", "c", "d"])
    );

    for bad in [
        json!({"metadata": {"labels": {"$patch": "explode"}}}),
        pod_spec(json!({"containers": [{"image": "x"}]})),
        pod_spec(json!({"containers": ["x"]})),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": 1}}),
    ] {
        assert_eq!(
            patch(deployments(), PatchType::Strategic, &finalizers, bad.clone())
                .unwrap_err()
                .code,
            422,
            "{bad}"
        );
    }
}

#[test]
fn the_order_of_a_strategic_patch_is_kept() {
    let names = |object: &Value| -> Vec<String> {
        let containers = spec_of(object)["containers"].as_array().unwrap();
        containers
            .iter()
            .map(|container| container["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let containers: Vec<Value> = ["a", "server", "b", "c"]
        .iter()
        .map(|name| json!({"name": name, "image": "x"}))
        .collect();
    let old = with(deployment(), "/spec/template/spec/containers", json!(containers));
    let order = json!([{"name": "c"}, {"name": "a"}, {"name": "new"}]);
    let change = pod_spec(json!({
        "$setElementOrder/containers": order,
        "containers": [{"name": "b", "$patch": "delete"}, {"name": "new", "image": "n"}],
    }));
    let new = names(&strategic(&old, change));
    assert_eq!(new, ["server", "c", "a", "new"]);
    let only_order = strategic(
        &old,
        pod_spec(json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]})),
    );
    assert_eq!(names(&only_order).len(), 4);
    let position = |name: &str| names(&only_order).iter().position(|other| other == name).unwrap();
    assert!(position("b") < position("a"));
}

#[test]
fn atomic_lists_are_replaced_by_a_strategic_patch() {
    let old = with(
        deployment(),
        "/spec/template/spec/tolerations",
        json!([{"key": "a", "operator": "Exists"}]),
    );
    let new = strategic(
        &old,
        pod_spec(json!({"tolerations": [{"key": "b", "operator": "Exists"}]})),
    );
    assert_eq!(
        spec_of(&new)["tolerations"],
        json!([{"key": "b", "operator": "Exists"}])
    );
}

#[test]
fn two_protocols_of_one_service_port_are_told_apart() {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "dns"},
        "spec": {"ports": [{"name": "udp", "port": 53, "protocol": "UDP"}, {"name": "tcp", "port": 53, "protocol": "TCP"}]},
    });
    let change = json!({"spec": {"ports": [{"port": 53, "protocol": "TCP", "targetPort": 5353}]}});
    let new = patch(kind("v1", "Service"), PatchType::Strategic, &service, change).unwrap();
    assert_eq!(new["spec"]["ports"][0].get("targetPort"), None);
    assert_eq!(new["spec"]["ports"][1]["targetPort"], 5353);
}

/// Environments by name: what a three-way patch is computed from.
fn environment() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::btree_map("[A-F]", "[0-3]", 0..5).prop_map(|map| map.into_iter().collect())
}

fn env_value(env: &[(String, String)]) -> Value {
    env.iter()
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect()
}

/// The patch that kubectl sends: from what was applied last to what is applied now, against what is live.
fn three_way(last: &[(String, String)], wanted: &[(String, String)], live: &[(String, String)]) -> Value {
    let mut items: Vec<Value> = Vec::new();
    for (name, value) in wanted {
        if !live.contains(&(name.clone(), value.clone())) {
            items.push(json!({"name": name, "value": value}));
        }
    }
    for (name, _) in last
        .iter()
        .filter(|(name, _)| !wanted.iter().any(|(other, _)| other == name))
    {
        items.push(json!({"name": name, "$patch": "delete"}));
    }
    let order: Vec<Value> = wanted.iter().map(|(name, _)| json!({"name": name})).collect();
    pod_spec(json!({"containers": [{"name": "nginx", "$setElementOrder/env": order, "env": items}]}))
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-c]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-d]", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

/// The merge patch that leads from one value to another.
fn merge_patch(from: &Value, to: &Value) -> Value {
    match (from, to) {
        (Value::Object(from), Value::Object(to)) => {
            let mut patch = serde_json::Map::new();
            for name in from.keys().filter(|name| !to.contains_key(*name)) {
                patch.insert(name.clone(), Value::Null);
            }
            for (name, value) in to {
                match from.get(name) {
                    Some(before) if before == value => {}
                    Some(before) => drop(patch.insert(name.clone(), merge_patch(before, value))),
                    None => drop(patch.insert(name.clone(), value.clone())),
                }
            }
            Value::Object(patch)
        }
        (_, to) => to.clone(),
    }
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(_) => false,
        Value::Object(members) => members.values().any(has_null),
        _ => false,
    }
}

proptest! {
    #[test]
    fn a_three_way_patch_brings_what_is_wanted_and_spares_what_others_added(
        last in environment(), wanted in environment(), extra in environment(),
    ) {
        let mut live = last.clone();
        live.extend(extra.into_iter().filter(|(name, _)| !last.iter().any(|(other, _)| other == name)));
        let old = with(deployment(), "/spec/template/spec/containers/0/env", env_value(&live));
        let new = strategic(&old, three_way(&last, &wanted, &live));
        let env = spec_of(&new)["containers"][0]["env"].as_array().unwrap().clone();
        for (name, value) in &wanted {
            let entry = json!({"name": name, "value": value});
            prop_assert_eq!(env.iter().filter(|item| **item == entry).count(), 1);
        }
        let spared: Vec<&(String, String)> = live
            .iter()
            .filter(|(name, _)| !wanted.iter().chain(&last).any(|(other, _)| other == name))
            .collect();
        for (name, value) in &spared {
            let entry = json!({"name": name, "value": value});
            prop_assert!(env.contains(&entry));
        }
        prop_assert_eq!(env.len(), wanted.len() + spared.len());
        let order: Vec<&Value> = env.iter().map(|item| &item["name"]).filter(|name| wanted.iter().any(|(other, _)| **name == json!(other))).collect();
        let expected: Vec<Value> = wanted.iter().map(|(name, _)| json!(name)).collect();
        prop_assert_eq!(order, expected.iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_computed_merge_patch_leads_to_its_target(from in json_value(), to in json_value()) {
        let (from, to) = (json!({"root": from}), json!({"root": to}));
        prop_assume!(!has_null(&to));
        let change = merge_patch(&from, &to);
        let new = patch(pods(), PatchType::Merge, &from, change.clone()).unwrap();
        prop_assert_eq!(&new, &to);
        prop_assert_eq!(patch(pods(), PatchType::Merge, &new, change).unwrap(), new);
    }

    #[test]
    fn no_patch_panics(old in json_value(), change in json_value()) {
        for patch_type in [PatchType::Json, PatchType::Merge, PatchType::Strategic] {
            let _ = patch(deployments(), patch_type, &json!({"spec": old}), json!({"spec": change}));
            let _ = patch(deployments(), patch_type, &old, change.clone());
        }
    }
}
