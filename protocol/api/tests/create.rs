//! What becomes of a new object: defaults, metadata, and refusals in Kubernetes' words.
#![allow(missing_docs)]

mod fixture;

use api::write::{FieldValidation, WriteContext, prepare_create};
use fixture::*;
use serde_json::{Value, json};

#[test]
fn a_pod_gets_the_defaults_of_kubernetes() {
    let pod = create(pods(), pod()).unwrap();
    let expected = json!({
        "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30,
        "schedulerName": "default-scheduler", "securityContext": {}, "enableServiceLinks": true,
        "containers": [{
            "name": "nginx", "image": "nginx:1.27", "imagePullPolicy": "IfNotPresent", "resources": {},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        }],
    });
    assert_eq!(pod["spec"], expected);
    assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(pod["metadata"]["creationTimestamp"], "2026-01-01T00:00:00Z");
    assert_eq!(pod["metadata"]["namespace"], "default");
    assert_eq!(pod["metadata"]["generation"], 1);
}

#[test]
fn a_deployment_gets_the_defaults_of_kubernetes() {
    let object = create(deployments(), with(deployment(), "/spec/replicas", Value::Null)).unwrap();
    let spec = &object["spec"];
    assert_eq!(spec["replicas"], 1);
    assert_eq!(spec["revisionHistoryLimit"], 10);
    assert_eq!(spec["progressDeadlineSeconds"], 600);
    let rolling = json!({"maxSurge": "25%", "maxUnavailable": "25%"});
    assert_eq!(
        spec["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": rolling})
    );
    assert_eq!(spec["template"]["spec"]["containers"][0]["ports"][0]["protocol"], "TCP");
    assert_eq!(object.get("status"), None);
}

#[test]
fn a_service_gets_the_defaults_of_kubernetes() {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    });
    let object = create(kind("v1", "Service"), service).unwrap();
    let expected = json!({
        "selector": {"app": "web"}, "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
        "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
    });
    assert_eq!(object["spec"], expected);
}

#[test]
fn image_tags_decide_the_pull_policy() {
    let cases = [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.27", "IfNotPresent"),
        ("registry:5000/nginx", "Always"),
        ("registry:5000/nginx:1", "IfNotPresent"),
        (
            "nginx@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "IfNotPresent",
        ),
    ];
    for (image, expected) in cases {
        let object = create(pods(), with(pod(), "/spec/containers/0/image", json!(image))).unwrap();
        assert_eq!(object["spec"]["containers"][0]["imagePullPolicy"], expected, "{image}");
    }
}

#[test]
fn limits_become_requests_and_quantities_become_canonical() {
    let resources = json!({"limits": {"cpu": 0.5, "memory": "1024Mi"}, "requests": {"cpu": "0.25"}});
    let object = create(pods(), with(pod(), "/spec/containers/0/resources", resources)).unwrap();
    let expected = json!({"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "250m", "memory": "1Gi"}});
    assert_eq!(object["spec"]["containers"][0]["resources"], expected);
    assert_eq!(object["status"]["qosClass"], "Burstable");
}

#[test]
fn probes_volumes_and_host_ports_get_defaults() {
    let spec = json!({
        "hostNetwork": true,
        "containers": [{
            "name": "a", "image": "a:1", "ports": [{"containerPort": 80}],
            "livenessProbe": {"httpGet": {"port": 80}},
            "volumeMounts": [{"name": "c", "mountPath": "/c"}, {"name": "e", "mountPath": "/e"}],
            "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        }],
        "volumes": [{"name": "c", "configMap": {"name": "c"}}, {"name": "e"}],
    });
    let object = create(pods(), with(pod(), "/spec", spec)).unwrap();
    let container = &object["spec"]["containers"][0];
    assert_eq!(container["ports"][0]["hostPort"], 80);
    let probe = json!({
        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
        "successThreshold": 1, "failureThreshold": 3,
    });
    assert_eq!(container["livenessProbe"], probe);
    assert_eq!(container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
    assert_eq!(object["spec"]["volumes"][0]["configMap"]["defaultMode"], 420);
    assert_eq!(object["spec"]["volumes"][1], json!({"name": "e", "emptyDir": {}}));
}

#[test]
fn secrets_take_plain_strings_and_keep_base64() {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
        "stringData": {"password": "hunter2"}, "data": {"user": "YWRtaW4="},
    });
    let object = create(kind("v1", "Secret"), secret).unwrap();
    assert_eq!(object["data"], json!({"password": "aHVudGVyMg==", "user": "YWRtaW4="}));
    assert_eq!(object["type"], "Opaque");
    assert_eq!(object.get("stringData"), None);
}

#[test]
fn a_namespace_starts_active_and_is_held_until_it_is_empty() {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team-a"}});
    let object = create(kind("v1", "Namespace"), namespace).unwrap();
    assert_eq!(object["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(object["status"]["phase"], "Active");
    assert_eq!(object["metadata"]["labels"]["kubernetes.io/metadata.name"], "team-a");
}

#[test]
fn generated_names_are_a_shortened_base_and_the_suffix() {
    let mut object = pod();
    object["metadata"] = json!({"generateName": "web-"});
    assert_eq!(create(pods(), object.clone()).unwrap()["metadata"]["name"], "web-x2b4z");
    object["metadata"]["generateName"] = json!("a".repeat(100));
    let name = create(pods(), object).unwrap()["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(name.len(), 63);
    assert!(name.ends_with("x2b4z"));
}

#[test]
fn unknown_and_duplicate_fields_are_refused_warned_of_or_dropped() {
    let mut object = deployment();
    object["spec"]["template"]["spec"]["containers"][0]["imagePullPolciy"] = json!("Always");
    object["spec"]["foo"] = json!(1);
    let duplicates = vec!["spec.replicas".to_owned()];
    let ctx = WriteContext {
        duplicate_fields: &duplicates,
        ..context("test")
    };
    let status = prepare_create(deployments(), "default", object.clone(), &ctx).unwrap_err();
    assert_eq!((status.code, &*status.reason), (400, "BadRequest"));
    assert_eq!(
        status.message,
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \
         \"spec.foo\", unknown field \"spec.template.spec.containers[0].imagePullPolciy\", duplicate field \
         \"spec.replicas\""
    );
    let ctx = WriteContext {
        field_validation: FieldValidation::Warn,
        ..ctx
    };
    let written = prepare_create(deployments(), "default", object.clone(), &ctx).unwrap();
    assert_eq!(written.warnings.len(), 3);
    assert_eq!(written.warnings[0], "unknown field \"spec.foo\"");
    assert_eq!(written.object["spec"].get("foo"), None);
    let ctx = WriteContext {
        field_validation: FieldValidation::Ignore,
        ..ctx
    };
    assert!(
        prepare_create(deployments(), "default", object, &ctx)
            .unwrap()
            .warnings
            .is_empty()
    );
}

#[test]
fn wrong_types_are_named_as_gos_decoder_names_them() {
    let cases = [
        (
            "/spec/replicas",
            json!("three"),
            "cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "/spec/replicas",
            json!(1.5),
            "cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "/spec/paused",
            json!(1),
            "cannot unmarshal number into Go struct field DeploymentSpec.spec.paused of type bool",
        ),
        (
            "/spec/template/spec/containers/0/env/0/value",
            json!(1),
            "cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string",
        ),
        (
            "/metadata/labels",
            json!([]),
            "cannot unmarshal array into Go struct field ObjectMeta.metadata.labels of type map[string]string",
        ),
    ];
    for (pointer, value, expected) in cases {
        let status = create(deployments(), with(deployment(), pointer, value)).unwrap_err();
        assert_eq!(status.code, 400);
        let prefix = "Deployment in version \"v1\" cannot be handled as a Deployment: json: ";
        assert_eq!(status.message, format!("{prefix}{expected}"));
    }
}

#[test]
fn pods_with_users_of_their_own_share_no_namespace_with_the_machine() {
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        let mut pod = with(pod(), "/spec/hostUsers", json!(false));
        pod["spec"][field] = json!(true);
        let status = create(pods(), pod.clone()).unwrap_err();
        let causes: Vec<String> = status.details.causes.iter().map(ToString::to_string).collect();
        assert_eq!(causes, [format!("spec.{field}: Forbidden: when `hostUsers` is false")]);
        pod["spec"]["hostUsers"] = json!(true);
        assert!(create(pods(), pod).is_ok(), "{field}");
    }
}

#[test]
fn pods_are_refused_for_the_reasons_that_kubernetes_gives() {
    let cases: Vec<(&str, Value, &str)> = vec![
        ("/spec/containers", json!([]), "spec.containers: Required value"),
        (
            "/spec/containers/0/image",
            json!(""),
            "spec.containers[0].image: Required value",
        ),
        (
            "/spec/containers",
            json!([{"name": "a", "image": "a"}, {"name": "a", "image": "a"}]),
            "spec.containers[1].name: Duplicate value: \"a\"",
        ),
        (
            "/spec/restartPolicy",
            json!("Sometimes"),
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
        ),
        (
            "/spec/containers/0/volumeMounts",
            json!([{"name": "x", "mountPath": "/x"}]),
            "spec.containers[0].volumeMounts[0].name: Not found: \"x\"",
        ),
        (
            "/spec/containers/0/ports",
            json!([{"containerPort": 70000}]),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            "/spec/containers/0/resources",
            json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            "/spec/containers/0/livenessProbe",
            json!({}),
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            "/spec/volumes",
            json!([{"name": "v", "secret": {}}]),
            "spec.volumes[0].secret.secretName: Required value",
        ),
        (
            "/spec/terminationGracePeriodSeconds",
            json!(-1),
            "spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "/metadata/name",
            json!("Web"),
            "metadata.name: Invalid value: \"Web\": a lowercase RFC 1123 subdomain must consist of lower case \
             alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
             'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        ),
        (
            "/metadata",
            json!({}),
            "metadata.name: Required value: name or generateName is required",
        ),
        (
            "/metadata/labels",
            json!({"app": "a b"}),
            "metadata.labels: Invalid value: \"a b\": a valid label must be an empty string or consist of \
             alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. \
             'MyValue',  or 'my_value',  or '12345', regex used for validation is \
             '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
        ),
        (
            "/spec/tolerations",
            json!([{"key": "a", "operator": "Maybe"}]),
            "spec.tolerations[0].operator: Unsupported value: \"Maybe\": supported values: \"Equal\", \"Exists\"",
        ),
    ];
    for (pointer, value, expected) in cases {
        let status = create(pods(), with(pod(), pointer, value)).unwrap_err();
        assert_eq!((status.code, &*status.reason), (422, "Invalid"), "{pointer}");
        let causes: Vec<String> = status.details.causes.iter().map(ToString::to_string).collect();
        assert_eq!(causes, [expected], "{pointer}");
        let name = if pointer == "/metadata" {
            ""
        } else if pointer == "/metadata/name" {
            "Web"
        } else {
            "web"
        };
        assert_eq!(status.message, format!("Pod {name:?} is invalid: {expected}"));
        assert_eq!(status.details.kind, "Pod");
    }
}

#[test]
fn deployments_are_refused_for_the_reasons_that_kubernetes_gives() {
    let cases: Vec<(&str, Value, &str)> = vec![
        (
            "/spec/template/metadata/labels",
            json!({"app": "x"}),
            "spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`",
        ),
        (
            "/spec/replicas",
            json!(-1),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "/spec/template/spec/restartPolicy",
            json!("Never"),
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ),
        (
            "/spec/strategy",
            json!({"type": "Blue"}),
            "spec.strategy.type: Unsupported value: \"Blue\": supported values: \"Recreate\", \"RollingUpdate\"",
        ),
        (
            "/spec/strategy",
            json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
        ),
        (
            "/spec/strategy",
            json!({"type": "Recreate", "rollingUpdate": {}}),
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
        ),
        (
            "/spec/progressDeadlineSeconds",
            json!(0),
            "spec.progressDeadlineSeconds: Invalid value: 0: must be greater than minReadySeconds",
        ),
    ];
    for (pointer, value, expected) in cases {
        let status = create(deployments(), with(deployment(), pointer, value)).unwrap_err();
        assert_eq!(
            status.message,
            format!("Deployment.apps \"web\" is invalid: {expected}")
        );
        assert_eq!(
            (status.details.kind.as_str(), status.details.group.as_str()),
            ("Deployment", "apps")
        );
    }
}

#[test]
fn several_reasons_are_listed_together() {
    let mut object = deployment();
    object["spec"]["replicas"] = json!(-1);
    object["spec"]["template"]["spec"]["containers"][0]["image"] = json!("");
    let status = create(deployments(), object).unwrap_err();
    assert_eq!(
        status.message,
        "Deployment.apps \"web\" is invalid: [spec.replicas: Invalid value: -1: must be greater than or equal to 0, \
         spec.template.spec.containers[0].image: Required value]"
    );
}

#[test]
fn services_config_maps_and_secrets_are_refused_for_the_reasons_that_kubernetes_gives() {
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "b"}});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    let cases: Vec<(Value, &str, Value, &str)> = vec![
        (
            service.clone(),
            "/metadata/name",
            json!("1web"),
            "metadata.name: Invalid value: \"1web\": a DNS-1035 label must consist of lower case alphanumeric \
             characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. \
             'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
        ),
        (service.clone(), "/spec/ports", json!([]), "spec.ports: Required value"),
        (
            service.clone(),
            "/spec/ports",
            json!([{"port": 80, "name": "a"}, {"port": 81}]),
            "spec.ports[1].name: Required value",
        ),
        (
            service.clone(),
            "/spec/type",
            json!("Cluster"),
            "spec.type: Unsupported value: \"Cluster\": supported values: \"ClusterIP\", \"ExternalName\", \
             \"LoadBalancer\", \"NodePort\"",
        ),
        (
            service,
            "/spec/ports/0",
            json!({"port": 80, "nodePort": 30000}),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (
            map.clone(),
            "/data",
            json!({"a b": "c"}),
            "data[a b]: Invalid value: \"a b\": a valid config key must consist of alphanumeric characters, '-', '_' or \
             '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        ),
        (
            map,
            "/data",
            json!({"a": "x".repeat(1024 * 1024 + 1)}),
            "[]: Too long: may not be more than 1048576 bytes",
        ),
        (
            secret,
            "/type",
            json!("kubernetes.io/tls"),
            "data[tls.crt]: Required value",
        ),
    ];
    for (base, pointer, value, expected) in cases {
        let row = kind("v1", base["kind"].as_str().unwrap());
        let status = create(row, with(base, pointer, value)).unwrap_err();
        assert_eq!(status.details.causes[0].to_string(), expected);
    }
}

#[test]
fn envelopes_that_do_not_fit_the_path_are_bad_requests() {
    let cases = [
        (
            "/metadata/namespace",
            json!("other"),
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            "/apiVersion",
            json!("apps/v1"),
            "the API version in the data (apps/v1) does not match the expected API version (v1)",
        ),
        (
            "/metadata/resourceVersion",
            json!("5"),
            "resourceVersion should not be set on objects to be created",
        ),
    ];
    for (pointer, value, expected) in cases {
        let status = create(pods(), with(pod(), pointer, value)).unwrap_err();
        assert_eq!((status.code, status.message.as_str()), (400, expected));
    }
}

#[test]
fn every_kind_offers_its_selectable_fields() {
    let mut object = create(pods(), pod()).unwrap();
    object["spec"]["nodeName"] = json!("n1");
    let draft = pods().draft(&object).unwrap();
    assert_eq!(draft.header.field("spec.nodeName"), "n1");
    assert_eq!(draft.header.field("status.phase"), "Pending");
    assert_eq!(draft.header.field("spec.hostNetwork"), "false");
    assert_eq!(pods().resource().as_str(), "pods");
    assert_eq!(deployments().resource().as_str(), "deployments.apps");
}

#[test]
fn a_node_registers_with_its_status_and_other_kinds_do_not() {
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "status": {"capacity": {"cpu": "4", "memory": "16384Mi"}},
    });
    let object = create(kind("v1", "Node"), node).unwrap();
    assert_eq!(object["status"]["allocatable"], json!({"cpu": "4", "memory": "16Gi"}));
    assert_eq!(object["metadata"].get("namespace"), None);
    let deployment = create(deployments(), with(deployment(), "/status", json!({"replicas": 9}))).unwrap();
    assert_eq!(deployment.get("status"), None);
}

#[test]
fn contradictory_security_and_early_ephemeral_containers_are_refused() {
    let context = json!({"privileged": true, "allowPrivilegeEscalation": false, "runAsUser": -1});
    let status = create(pods(), with(pod(), "/spec/containers/0/securityContext", context)).unwrap_err();
    assert!(
        status
            .message
            .contains("cannot set `allowPrivilegeEscalation` to false and `privileged` to true"),
        "{status}"
    );
    assert!(
        status
            .message
            .contains("runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive"),
        "{status}"
    );
    let early = json!([{"name": "debug", "image": "x"}]);
    let status = create(pods(), with(pod(), "/spec/ephemeralContainers", early)).unwrap_err();
    assert!(
        status
            .message
            .contains("spec.ephemeralContainers: Forbidden: cannot be set on create"),
        "{status}"
    );
}
