//! What an update may change, what it leaves alone, and what deletion and scale do.
#![allow(missing_docs)]

mod fixture;

use api::write::{DeleteOptions, Deletion, PropagationPolicy, begin_deletion, prepare_update, scale_of, set_scale};
use api::{Subresource, may_go};
use fixture::*;
use serde_json::{Value, json};

#[test]
fn only_changes_of_what_is_desired_raise_the_generation() {
    let old = create(deployments(), deployment()).unwrap();
    let same = update(deployments(), &old, old.clone()).unwrap();
    assert_eq!(same, old);
    let labelled = update(
        deployments(),
        &old,
        with(old.clone(), "/metadata/labels/tier", json!("front")),
    )
    .unwrap();
    assert_eq!(labelled["metadata"]["generation"], 1);
    let scaled = update(deployments(), &old, with(old.clone(), "/spec/replicas", json!(5))).unwrap();
    assert_eq!(scaled["metadata"]["generation"], 2);
}

#[test]
fn an_update_keeps_status_and_a_status_update_keeps_everything_else() {
    let old = with(
        create(deployments(), deployment()).unwrap(),
        "/status",
        json!({"replicas": 3}),
    );
    let mut sent = with(old.clone(), "/spec/replicas", json!(5));
    sent["status"] = json!({"replicas": 99});
    assert_eq!(
        update(deployments(), &old, sent.clone()).unwrap()["status"],
        json!({"replicas": 3})
    );
    let updated = update_status(deployments(), &old, sent).unwrap();
    assert_eq!(updated["status"], json!({"replicas": 99}));
    assert_eq!(updated["spec"], old["spec"]);
    assert_eq!(updated["metadata"]["generation"], 1);
}

#[test]
fn metadata_that_the_server_owns_stays() {
    let old = create(deployments(), deployment()).unwrap();
    let mut sent = old.clone();
    sent["metadata"]["creationTimestamp"] = json!("2020-01-01T00:00:00Z");
    sent["metadata"]["generation"] = json!(77);
    sent["metadata"].as_object_mut().unwrap().remove("uid");
    assert_eq!(update(deployments(), &old, sent).unwrap(), old);
    let other = with(old.clone(), "/metadata/uid", json!("another"));
    let status = update(deployments(), &old, other).unwrap_err();
    assert_eq!((status.code, &*status.reason), (409, "Conflict"));
    assert!(
        status
            .message
            .starts_with("Operation cannot be fulfilled on deployments.apps \"web\": Precondition failed")
    );
    let renamed = with(old.clone(), "/metadata/name", json!("other"));
    let status = update(deployments(), &old, renamed).unwrap_err();
    assert_eq!(
        status.message,
        "the name of the object (other) does not match the name on the URL (web)"
    );
}

#[test]
fn a_selector_is_immutable() {
    let old = create(deployments(), deployment()).unwrap();
    let mut sent = old.clone();
    sent["spec"]["selector"]["matchLabels"] = json!({"app": "x"});
    sent["spec"]["template"]["metadata"]["labels"] = json!({"app": "x"});
    let status = update(deployments(), &old, sent).unwrap_err();
    assert_eq!(
        status.message,
        "Deployment.apps \"web\" is invalid: spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"x\"}}: field is \
         immutable"
    );
}

#[test]
fn of_a_pod_only_images_deadlines_and_tolerations_may_change() {
    let old = create(pods(), pod()).unwrap();
    assert!(
        update(
            pods(),
            &old,
            with(old.clone(), "/spec/containers/0/image", json!("nginx:1.28"))
        )
        .is_ok()
    );
    assert!(
        update(
            pods(),
            &old,
            with(old.clone(), "/spec/activeDeadlineSeconds", json!(10))
        )
        .is_ok()
    );
    let more = json!([{"key": "a", "operator": "Exists"}]);
    assert!(update(pods(), &old, with(old.clone(), "/spec/tolerations", more)).is_ok());
    let status = update(pods(), &old, with(old.clone(), "/spec/dnsPolicy", json!("Default"))).unwrap_err();
    assert!(
        status
            .message
            .contains("spec: Forbidden: pod updates may not change fields other than"),
        "{status}"
    );
    assert!(
        status
            .message
            .contains("spec.dnsPolicy from \"ClusterFirst\" to \"Default\""),
        "{status}"
    );
    let two = json!([{"name": "nginx", "image": "a"}, {"name": "b", "image": "b"}]);
    let status = update(pods(), &old, with(old.clone(), "/spec/containers", two)).unwrap_err();
    assert!(
        status.message.contains("pod updates may not add or remove containers"),
        "{status}"
    );
}

#[test]
fn immutable_config_maps_keep_their_content() {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "immutable": true, "data": {"a": "1"},
    });
    let row = kind("v1", "ConfigMap");
    let old = create(row, map).unwrap();
    let status = update(row, &old, with(old.clone(), "/data/a", json!("2"))).unwrap_err();
    assert_eq!(
        status.message,
        "ConfigMap \"m\" is invalid: data: Forbidden: field is immutable when `immutable` is set"
    );
    assert!(update(row, &old, with(old.clone(), "/metadata/labels", json!({"x": "y"}))).is_ok());
}

#[test]
fn a_service_keeps_its_address_when_an_update_leaves_it_out() {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"clusterIP": "10.0.0.7", "ports": [{"port": 80}]},
    });
    let row = kind("v1", "Service");
    let old = create(row, service).unwrap();
    let mut sent = old.clone();
    sent["spec"].as_object_mut().unwrap().remove("clusterIP");
    sent["spec"].as_object_mut().unwrap().remove("clusterIPs");
    assert_eq!(update(row, &old, sent).unwrap()["spec"]["clusterIP"], "10.0.0.7");
    let mut moved = with(old.clone(), "/spec/clusterIP", json!("10.0.0.8"));
    moved["spec"]["clusterIPs"] = json!(["10.0.0.8"]);
    let status = update(row, &old, moved).unwrap_err();
    assert_eq!(
        status.message,
        "Service \"web\" is invalid: spec.clusterIPs[0]: Invalid value: [\"10.0.0.8\"]: may not change once set"
    );
}

#[test]
fn an_object_that_is_being_deleted_takes_no_new_finalizers() {
    let mut old = create(deployments(), deployment()).unwrap();
    old["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    old["metadata"]["finalizers"] = json!(["a.io/x"]);
    let status = update(
        deployments(),
        &old,
        with(old.clone(), "/metadata/finalizers", json!(["a.io/x", "b.io/y"])),
    );
    assert!(
        status
            .unwrap_err()
            .message
            .contains("no new finalizers can be added if the object is being deleted")
    );
    let freed = update(
        deployments(),
        &old,
        with(old.clone(), "/metadata/finalizers", json!([])),
    )
    .unwrap();
    assert!(may_go(deployments(), &freed));
    assert!(!may_go(deployments(), &old));
}

#[test]
fn managed_fields_say_who_changed_what() {
    let old = create(deployments(), deployment()).unwrap();
    let created = manager(&old, "test").unwrap();
    assert_eq!(created["operation"], "Update");
    assert_eq!(created["apiVersion"], "apps/v1");
    assert_eq!(
        created["fieldsV1"]["f:metadata"],
        json!({"f:labels": {".": {}, "f:app": {}}})
    );
    let container = &created["fieldsV1"]["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"nginx\"}"];
    assert_eq!(container["f:image"], json!({}));
    assert_eq!(
        container["f:ports"]["k:{\"containerPort\":80,\"protocol\":\"TCP\"}"]["f:containerPort"],
        json!({})
    );
    let ctx = later("scaler", 60);
    let sent = with(old.clone(), "/spec/replicas", json!(7));
    let new = prepare_update(deployments(), None, &old, sent, &ctx).unwrap().object;
    assert_eq!(
        manager(&new, "scaler").unwrap()["fieldsV1"],
        json!({"f:spec": {"f:replicas": {}}})
    );
    assert_eq!(
        manager(&new, "test").unwrap()["fieldsV1"]["f:spec"].get("f:replicas"),
        None
    );
    let status = update_status(
        deployments(),
        &new,
        with(new.clone(), "/status", json!({"replicas": 7})),
    )
    .unwrap();
    let node = manager(&status, "node").unwrap();
    assert_eq!(node["subresource"], "status");
    assert_eq!(node["fieldsV1"], json!({"f:status": {"f:replicas": {}}}));
}

#[test]
fn many_updaters_are_merged_into_one_ancient_entry() {
    let mut object = create(deployments(), deployment()).unwrap();
    for step in 0..20u64 {
        let name = format!("m{step}");
        let ctx = later(&name, step);
        let sent = with(
            object.clone(),
            "/metadata/annotations",
            json!({"step": step.to_string(), format!("k{step}"): "v"}),
        );
        object = prepare_update(deployments(), None, &object, sent, &ctx).unwrap().object;
    }
    let managers = object["metadata"]["managedFields"].as_array().unwrap();
    assert!(managers.len() <= 10, "{}", managers.len());
    assert!(manager(&object, "m19").is_some());
}

fn options(policy: Option<PropagationPolicy>, grace: Option<i64>) -> DeleteOptions {
    DeleteOptions {
        grace_period_seconds: grace,
        propagation_policy: policy,
        ..DeleteOptions::default()
    }
}

#[test]
fn a_bound_pod_gets_its_grace_period_and_an_unbound_one_goes_at_once() {
    let unbound = create(pods(), pod()).unwrap();
    assert_eq!(
        begin_deletion(pods(), &unbound, &options(None, None), NOW),
        Deletion::Remove
    );
    let bound = with(unbound, "/spec/nodeName", json!("n1"));
    let Deletion::Mark(marked) = begin_deletion(pods(), &bound, &options(None, None), NOW) else {
        panic!("not marked")
    };
    assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:30Z");
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(marked["metadata"]["generation"], 2);
    assert_eq!(
        begin_deletion(pods(), &marked, &options(None, None), NOW.plus_ms(1000)),
        Deletion::Nothing
    );
    let shorter = begin_deletion(pods(), &marked, &options(None, Some(5)), NOW);
    let Deletion::Mark(shorter) = shorter else {
        panic!("not shortened")
    };
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    assert_eq!(
        begin_deletion(pods(), &marked, &options(None, Some(0)), NOW),
        Deletion::Remove
    );
    let finished = with(bound, "/status/phase", json!("Succeeded"));
    assert_eq!(
        begin_deletion(pods(), &finished, &options(None, None), NOW),
        Deletion::Remove
    );
}

#[test]
fn propagation_becomes_a_finalizer() {
    let object = create(deployments(), deployment()).unwrap();
    assert_eq!(
        begin_deletion(deployments(), &object, &options(None, None), NOW),
        Deletion::Remove
    );
    for (policy, expected) in [
        (PropagationPolicy::Foreground, "foregroundDeletion"),
        (PropagationPolicy::Orphan, "orphan"),
    ] {
        let Deletion::Mark(marked) = begin_deletion(deployments(), &object, &options(Some(policy), None), NOW) else {
            panic!("not marked")
        };
        assert_eq!(marked["metadata"]["finalizers"], json!([expected]));
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
        let background = options(Some(PropagationPolicy::Background), None);
        assert_eq!(
            begin_deletion(deployments(), &marked, &background, NOW),
            Deletion::Remove
        );
    }
}

#[test]
fn a_namespace_is_marked_until_its_content_is_gone() {
    let row = kind("v1", "Namespace");
    let object = create(
        row,
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}),
    )
    .unwrap();
    let Deletion::Mark(marked) = begin_deletion(row, &object, &options(None, None), NOW) else {
        panic!("not marked")
    };
    assert_eq!(marked["status"]["phase"], "Terminating");
    let sent = with(marked.clone(), "/spec", json!({}));
    let freed = prepare_update(row, Some(Subresource::Finalize), &marked, sent, &context("test"))
        .unwrap()
        .object;
    assert!(may_go(row, &freed));
}

#[test]
fn delete_options_are_read_and_checked() {
    let read = |body: Value| DeleteOptions::from_value(&body);
    let options = read(json!({"propagationPolicy": "Foreground", "gracePeriodSeconds": 3, "dryRun": ["All"]})).unwrap();
    assert_eq!(options.propagation_policy, Some(PropagationPolicy::Foreground));
    assert_eq!((options.grace_period_seconds, options.dry_run), (Some(3), true));
    assert!(
        read(json!({"propagationPolicy": "Sideways"}))
            .unwrap_err()
            .message
            .contains("Unsupported value")
    );
    assert!(read(json!({"dryRun": ["Some"]})).is_err());
    let object = create(pods(), pod()).unwrap();
    let options = read(json!({"preconditions": {"uid": "other"}})).unwrap();
    let status = options.check(pods(), &object).unwrap_err();
    assert_eq!(
        status.message,
        "Operation cannot be fulfilled on pods \"web\": Precondition failed: UID in precondition: other, UID in object \
         meta: 11111111-2222-3333-4444-555555555555"
    );
}

#[test]
fn scale_reads_and_writes_the_number_of_replicas() {
    let mut object = create(deployments(), deployment()).unwrap();
    object["status"] = json!({"replicas": 2});
    object["metadata"]["resourceVersion"] = json!("9");
    let scale = scale_of(deployments(), &object).unwrap();
    assert_eq!(scale["spec"]["replicas"], 3);
    assert_eq!(scale["status"], json!({"replicas": 2, "selector": "app=web"}));
    let scaled = set_scale(deployments(), &object, &with(scale.clone(), "/spec/replicas", json!(8))).unwrap();
    assert_eq!(scaled["spec"]["replicas"], 8);
    let status = set_scale(
        deployments(),
        &object,
        &with(scale.clone(), "/spec/replicas", json!(-1)),
    )
    .unwrap_err();
    assert_eq!(
        status.message,
        "Scale.autoscaling \"web\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"
    );
    let stale = with(scale, "/metadata/resourceVersion", json!("8"));
    assert_eq!(
        set_scale(deployments(), &object, &stale).unwrap_err().reason,
        "Conflict"
    );
    assert_eq!(scale_of(pods(), &object).unwrap_err().code, 404);
}

#[test]
fn a_service_that_changes_its_type_lets_go_of_what_the_new_type_does_not_use() {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"type": "NodePort", "clusterIP": "10.0.0.7", "ports": [{"port": 80, "nodePort": 30080}]},
    });
    let row = kind("v1", "Service");
    let old = create(row, service).unwrap();
    let inner = update(row, &old, with(old.clone(), "/spec/type", json!("ClusterIP"))).unwrap();
    assert_eq!(
        inner["spec"]["ports"],
        json!([{"port": 80, "protocol": "TCP", "targetPort": 80}])
    );
    assert_eq!(
        (inner["spec"].get("externalTrafficPolicy"), &inner["spec"]["clusterIP"]),
        (None, &json!("10.0.0.7"))
    );
    let mut sent = with(inner.clone(), "/spec/type", json!("ExternalName"));
    sent["spec"]["externalName"] = json!("example.com");
    let outer = update(row, &inner, sent).unwrap();
    assert_eq!(outer["spec"].get("clusterIP"), None);
}
