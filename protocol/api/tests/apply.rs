//! Server-side apply: ownership, conflicts, force, and what goes when nobody wants it any more.
#![allow(missing_docs)]

mod fixture;

use api::Status;
use api::write::{WriteContext, server_side_apply};
use fixture::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn apply(old: Option<&Value>, manager: &str, seconds: u64, force: bool, config: Value) -> Result<Value, Status> {
    let mut config = config;
    config["metadata"]["namespace"] = json!("default");
    server_side_apply(deployments(), None, old, config, force, &later(manager, seconds)).map(|written| written.object)
}

fn part(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
}

fn container(object: &Value, name: &str) -> Option<Value> {
    let containers = object["spec"]["template"]["spec"]["containers"].as_array()?;
    containers.iter().find(|container| container["name"] == name).cloned()
}

#[test]
fn applying_to_nothing_creates_the_object_and_owns_just_what_was_said() {
    let object = apply(None, "alice", 0, false, deployment()).unwrap();
    assert_eq!(object["spec"]["revisionHistoryLimit"], 10);
    assert_eq!(object["metadata"]["generation"], 1);
    assert_eq!(object["metadata"]["managedFields"].as_array().unwrap().len(), 1);
    let entry = manager(&object, "alice").unwrap();
    assert_eq!(entry["operation"], "Apply");
    let expected = json!({
        "f:metadata": {"f:labels": {"f:app": {}}},
        "f:spec": {
            "f:replicas": {},
            "f:selector": {},
            "f:template": {
                "f:metadata": {"f:labels": {"f:app": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"nginx\"}": {
                    ".": {}, "f:name": {}, "f:image": {},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                    "f:env": {
                        "k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:value": {}},
                        "k:{\"name\":\"B\"}": {".": {}, "f:name": {}, "f:value": {}},
                    },
                }}},
            },
        },
    });
    assert_eq!(entry["fieldsV1"], expected);
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let first = apply(None, "alice", 0, false, deployment()).unwrap();
    let second = apply(Some(&first), "alice", 500, false, deployment()).unwrap();
    assert_eq!(second, first);
}

#[test]
fn what_an_applier_no_longer_mentions_goes_unless_another_owns_it() {
    let first = apply(None, "alice", 0, false, deployment()).unwrap();
    let mut less = deployment();
    less["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{"name": "B", "value": "2"}]);
    less["metadata"].as_object_mut().unwrap().remove("labels");
    let second = apply(Some(&first), "alice", 10, false, less.clone()).unwrap();
    assert_eq!(
        container(&second, "nginx").unwrap()["env"],
        json!([{"name": "B", "value": "2"}])
    );
    assert_eq!(second["metadata"].get("labels"), None);
    assert_eq!(second["metadata"]["generation"], 2);

    let shared =
        part(json!({"template": {"spec": {"containers": [{"name": "nginx", "env": [{"name": "A", "value": "1"}]}]}}}));
    let both = apply(Some(&first), "bob", 5, false, shared).unwrap();
    let kept = apply(Some(&both), "alice", 10, false, less).unwrap();
    assert_eq!(
        container(&kept, "nginx").unwrap()["env"],
        json!([{"name": "A", "value": "1"}, {"name": "B", "value": "2"}])
    );
}

#[test]
fn items_keep_their_order_beside_those_of_others() {
    let env = |names: &str| {
        let env: Vec<Value> = names
            .chars()
            .map(|name| json!({"name": name.to_string(), "value": "1"}))
            .collect();
        part(json!({"template": {"spec": {"containers": [{"name": "nginx", "env": env}]}}}))
    };
    for (live, applied, expected) in [
        ("AB", "B", "AB"),
        ("A", "N", "AN"),
        ("AX", "NX", "ANX"),
        ("XA", "XN", "XAN"),
        ("ABC", "CA", "BCA"),
        ("AXBYC", "YX", "ABYCX"),
        ("XAYB", "NXMYO", "NXAMYBO"),
    ] {
        let base = with(
            deployment(),
            "/spec/template/spec/containers/0/env",
            env(live)["spec"]["template"]["spec"]["containers"][0]["env"].clone(),
        );
        let first = apply(None, "alice", 0, false, base).unwrap();
        let second = apply(Some(&first), "bob", 5, false, env(applied)).unwrap();
        let found = container(&second, "nginx").unwrap()["env"].clone();
        let found: String = found
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|item| item["name"].as_str())
            .collect();
        assert_eq!(found, expected, "{live} and {applied}");
    }
}

#[test]
fn defaults_survive_an_apply_that_does_not_mention_them() {
    let first = apply(None, "alice", 0, false, deployment()).unwrap();
    let second = apply(
        Some(&first),
        "alice",
        10,
        false,
        with(deployment(), "/spec/replicas", json!(4)),
    )
    .unwrap();
    assert_eq!(second["spec"]["strategy"], first["spec"]["strategy"]);
    assert_eq!(second["spec"]["replicas"], 4);
}

#[test]
fn another_value_for_an_owned_field_is_a_conflict_until_it_is_forced() {
    let first = apply(None, "alice", 0, false, deployment()).unwrap();
    let status = apply(Some(&first), "bob", 10, false, part(json!({"replicas": 9}))).unwrap_err();
    assert_eq!((status.code, &*status.reason), (409, "Conflict"));
    assert_eq!(
        status.message,
        "Apply failed with 1 conflict: conflict with \"alice\": .spec.replicas"
    );
    let cause = &status.details.causes[0];
    assert_eq!(
        (&*cause.reason, cause.field.as_str()),
        ("FieldManagerConflict", ".spec.replicas")
    );
    let forced = apply(Some(&first), "bob", 10, true, part(json!({"replicas": 9}))).unwrap();
    assert_eq!(forced["spec"]["replicas"], 9);
    assert_eq!(
        manager(&forced, "alice").unwrap()["fieldsV1"]["f:spec"].get("f:replicas"),
        None
    );
    assert_eq!(
        manager(&forced, "bob").unwrap()["fieldsV1"],
        json!({"f:spec": {"f:replicas": {}}})
    );
    let same = apply(Some(&first), "bob", 10, false, part(json!({"replicas": 3}))).unwrap();
    assert!(
        manager(&same, "alice").unwrap()["fieldsV1"]["f:spec"]
            .get("f:replicas")
            .is_some()
    );
}

#[test]
fn conflicts_with_updaters_name_their_version_and_every_field() {
    let first = create(deployments(), deployment()).unwrap();
    let config = part(json!({
        "replicas": 9,
        "template": {"spec": {"containers": [{"name": "nginx", "image": "nginx:2"}]}},
    }));
    let status = apply(Some(&first), "bob", 10, false, config).unwrap_err();
    assert_eq!(
        status.message,
        "Apply failed with 2 conflicts: conflicts with \"test\" using apps/v1:\n- .spec.replicas\n- \
         .spec.template.spec.containers[name=\"nginx\"].image"
    );
}

#[test]
fn two_appliers_bring_containers_and_each_takes_its_own_away() {
    let first = apply(None, "alice", 0, false, deployment()).unwrap();
    let sidecar = part(json!({"template": {"spec": {"containers": [{"name": "log", "image": "log:1"}]}}}));
    let both = apply(Some(&first), "bob", 5, false, sidecar).unwrap();
    assert!(container(&both, "log").is_some() && container(&both, "nginx").is_some());
    let again = apply(Some(&both), "alice", 6, false, deployment()).unwrap();
    assert!(container(&again, "log").is_some());
    let gone = apply(Some(&again), "bob", 7, false, part(json!({"template": {}}))).unwrap();
    assert!(container(&gone, "log").is_none() && container(&gone, "nginx").is_some());
}

#[test]
fn a_status_apply_changes_only_the_status_and_the_other_only_the_rest() {
    let first = apply(None, "alice", 0, false, deployment()).unwrap();
    let config = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": 9},
        "status": {"conditions": [{"type": "Available", "status": "True"}]},
    });
    let ctx = later("ctrl", 10);
    let status = Some(api::Subresource::Status);
    let second = server_side_apply(deployments(), status, Some(&first), config.clone(), false, &ctx)
        .unwrap()
        .object;
    assert_eq!(second["spec"], first["spec"]);
    assert_eq!(second["status"]["conditions"][0]["type"], "Available");
    let entry = manager(&second, "ctrl").unwrap();
    assert_eq!(entry["subresource"], "status");
    let third = apply(Some(&second), "carol", 20, true, config).unwrap();
    assert_eq!(third["status"], second["status"]);
    assert_eq!(
        manager(&third, "carol").unwrap()["fieldsV1"],
        json!({"f:spec": {"f:replicas": {}}})
    );
}

#[test]
fn an_apply_needs_a_manager_declared_fields_and_no_managed_fields() {
    let ctx = WriteContext {
        field_manager: "",
        ..context("")
    };
    let status = server_side_apply(deployments(), None, None, deployment(), false, &ctx).unwrap_err();
    assert_eq!(
        status.message,
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
    );
    let mut config = deployment();
    config["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    assert_eq!(
        apply(None, "a", 0, false, config).unwrap_err().message,
        "metadata.managedFields must be nil"
    );
    let mut config = deployment();
    config["spec"]["foo"] = json!(1);
    let ctx = WriteContext {
        field_validation: api::write::FieldValidation::Ignore,
        ..context("a")
    };
    let status = server_side_apply(deployments(), None, None, config, false, &ctx).unwrap_err();
    assert_eq!(
        status.message,
        "failed to create typed patch object (web; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema"
    );
}

#[test]
fn an_ambiguous_list_cannot_be_applied() {
    let env = |items: Value| part(json!({"template": {"spec": {"containers": [{"name": "nginx", "env": items}]}}}));
    let twice = json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]);
    let path = ".spec.template.spec.containers[name=\"nginx\"].env";
    for (items, problem) in [
        (twice, "list has duplicate entries for key [name=\"A\"]"),
        (
            json!([{"value": "1"}]),
            "associative list with keys has an element that omits key field \"name\" (and doesn't have default value)",
        ),
    ] {
        let status = apply(None, "a", 0, false, env(items)).unwrap_err();
        let prefix = "failed to create typed patch object (web; apps/v1, Kind=Deployment)";
        assert_eq!(
            (status.code, status.message),
            (400, format!("{prefix}: {path}: {problem}"))
        );
    }
}

#[test]
fn what_was_there_before_anybody_counted_belongs_to_before_first_apply() {
    let mut old = create(deployments(), deployment()).unwrap();
    old["metadata"].as_object_mut().unwrap().remove("managedFields");
    let status = apply(Some(&old), "alice", 0, false, part(json!({"replicas": 9}))).unwrap_err();
    assert!(
        status
            .message
            .contains("conflict with \"before-first-apply\" using apps/v1"),
        "{status}"
    );
}

#[test]
fn sets_of_finalizers_belong_to_each_of_their_appliers() {
    let with_finalizers = |names: &[&str]| {
        let mut config = part(json!({}));
        config["metadata"]["finalizers"] = json!(names);
        config
    };
    let first = apply(None, "alice", 0, false, deployment()).unwrap();
    let second = apply(Some(&first), "f1", 1, false, with_finalizers(&["a.io/1", "a.io/2"])).unwrap();
    let third = apply(Some(&second), "f2", 2, false, with_finalizers(&["a.io/2", "a.io/3"])).unwrap();
    assert_eq!(third["metadata"]["finalizers"], json!(["a.io/1", "a.io/2", "a.io/3"]));
    let fourth = apply(Some(&third), "f1", 3, false, with_finalizers(&[])).unwrap();
    assert_eq!(fourth["metadata"]["finalizers"], json!(["a.io/2", "a.io/3"]));
}

/// A configuration of a deployment: any labels, replicas or none, any of three containers with any environment.
fn config() -> impl Strategy<Value = Value> {
    let labels = prop::collection::btree_map("[a-c]", "[x-z]", 0..3);
    let env = prop::collection::btree_map("[A-C]", "[0-2]", 0..3);
    let containers = prop::collection::btree_map("[a-c]", (env, "[p-r]"), 0..3);
    (labels, prop::option::of(0..4i32), containers).prop_map(|(labels, replicas, containers)| {
        let mut object = part(json!({"template": {"spec": {}}}));
        let containers: Vec<Value> = containers
            .into_iter()
            .map(|(name, (env, image))| {
                let env: Vec<Value> = env
                    .iter()
                    .map(|(name, value)| json!({"name": name, "value": value}))
                    .collect();
                json!({"name": name, "image": image, "env": env})
            })
            .collect();
        if !labels.is_empty() {
            object["metadata"]["labels"] = json!(labels);
        }
        if let Some(replicas) = replicas {
            object["spec"]["replicas"] = json!(replicas);
        }
        object["spec"]["template"]["spec"]["containers"] = json!(containers);
        object
    })
}

/// Whether everything that the configuration says stands in the object.
fn holds(object: &Value, config: &Value) -> bool {
    match (object, config) {
        (Value::Object(object), Value::Object(config)) => config.iter().all(|(name, value)| {
            let empty = value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(|o| o.is_empty());
            empty || object.get(name).is_some_and(|object| holds(object, value))
        }),
        (Value::Array(items), Value::Array(config)) => config.iter().all(|wanted| {
            items
                .iter()
                .any(|item| item["name"] == wanted["name"] && holds(item, wanted))
        }),
        _ => object == config,
    }
}

proptest! {
    #[test]
    fn an_apply_is_idempotent_and_leaves_what_it_says(configs in prop::collection::vec((config(), 0..2usize), 1..6)) {
        let mut object = apply(None, "base", 0, false, deployment()).unwrap();
        for (step, (config, who)) in configs.into_iter().enumerate() {
            let manager = ["alice", "bob"][who];
            let seconds = step as u64 * 10 + 10;
            // A forced apply may still be invalid as a whole: two appliers' containers without an image.
            let Ok(next) = apply(Some(&object), manager, seconds, true, config.clone()) else { continue };
            prop_assert!(holds(&next, &config), "{next}\n{config}");
            let again = apply(Some(&next), manager, seconds + 5, true, config).unwrap();
            prop_assert_eq!(&again, &next);
            object = next;
        }
    }

    #[test]
    fn who_applies_and_then_applies_nothing_leaves_no_trace(config in config()) {
        let base = apply(None, "base", 0, false, deployment()).unwrap();
        let Ok(with_alice) = apply(Some(&base), "alice", 10, false, config) else { return Ok(()) };
        let mut nothing = part(Value::Null);
        nothing.as_object_mut().unwrap().remove("spec");
        let mut without = apply(Some(&with_alice), "alice", 20, false, nothing).unwrap();
        let generation = without["metadata"]["generation"].clone();
        without["metadata"]["generation"] = base["metadata"]["generation"].clone();
        prop_assert_eq!(&without["spec"], &base["spec"], "generation {}", generation);
        prop_assert_eq!(&without["metadata"]["labels"], &base["metadata"]["labels"]);
        prop_assert!(manager(&without, "alice").is_none());
    }
}

#[test]
fn kubectl_takes_over_what_its_client_side_apply_wrote_and_nothing_else() {
    let annotation = "kubectl.kubernetes.io/last-applied-configuration";
    let last = part(json!({"replicas": 3}));
    let mut config = deployment();
    config["spec"]["replicas"] = json!(3);
    config["metadata"]["annotations"] = json!({annotation: last.to_string()});
    let stored = apply(None, "kubectl-client-side-apply", 0, false, config).unwrap();
    let replicas = |number: u32| part(json!({"replicas": number}));

    let conflict = apply(Some(&stored), "other", 1, false, replicas(4)).unwrap_err();
    assert_eq!(conflict.code, 409);
    let taken = apply(Some(&stored), "kubectl", 1, false, replicas(4)).unwrap();
    assert_eq!(taken["spec"]["replicas"], 4);
    let followed: Value = serde_json::from_str(taken["metadata"]["annotations"][annotation].as_str().unwrap()).unwrap();
    assert_eq!(followed["spec"], json!({"replicas": 4}), "the annotation follows");

    // Somebody has scaled since: that is a conflict again.
    let mut scaled = stored.clone();
    scaled["spec"]["replicas"] = json!(7);
    assert_eq!(
        apply(Some(&scaled), "kubectl", 1, false, replicas(4)).unwrap_err().code,
        409
    );
}
