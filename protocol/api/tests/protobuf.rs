//! Protobuf bodies, as kubectl 1.35 sent them (`create deployment`, `create service nodeport`, `create secret generic`).
#![allow(missing_docs)]

mod fixture;

use api::decode;
use fixture::*;
use proptest::prelude::*;
use serde_json::{Value, json};

const DEPLOYMENT: &[u8] = include_bytes!("fixture/protobuf/deployment.bin");
const SERVICE: &[u8] = include_bytes!("fixture/protobuf/service.bin");
const SECRET: &[u8] = include_bytes!("fixture/protobuf/secret.bin");

#[test]
fn bodies_of_kubectl_read_as_the_json_that_it_would_have_sent() {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d2", "labels": {"app": "d2"}},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": "d2"}}, "strategy": {},
            "template": {
                "metadata": {"labels": {"app": "d2"}},
                "spec": {"containers": [
                    {"name": "nginx", "image": "nginx", "ports": [{"containerPort": 80}], "resources": {}},
                ]},
            },
        },
        "status": {},
    });
    assert_eq!(decode::protobuf(DEPLOYMENT).unwrap().value, deployment);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s2", "labels": {"app": "s2"}},
        "spec": {
            "type": "NodePort", "selector": {"app": "s2"},
            "ports": [{"name": "80-8080", "port": 80, "protocol": "TCP", "targetPort": 8080}],
        },
        "status": {"loadBalancer": {}},
    });
    assert_eq!(decode::protobuf(SERVICE).unwrap().value, service);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "Yg=="}});
    assert_eq!(decode::protobuf(SECRET).unwrap().value, secret);
}

#[test]
fn a_decoded_body_goes_through_the_pipeline_in_strict_mode() {
    let object = create(deployments(), decode::protobuf(DEPLOYMENT).unwrap().value).unwrap();
    assert_eq!(object["spec"]["strategy"]["type"], "RollingUpdate");
}

/// A field of type message, text or bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
    field.extend_from_slice(bytes);
    field
}

fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), field(1, &meta), field(2, raw)].concat()
}

fn read(bytes: &[u8]) -> Value {
    decode::protobuf(bytes).unwrap().value
}

#[test]
fn zero_is_kept_where_go_has_a_pointer_and_dropped_where_it_has_none() {
    let options = read(&body("v1", "DeleteOptions", &[0x08, 0x00, 0x18, 0x00]));
    assert_eq!(options["gracePeriodSeconds"], 0);
    assert_eq!(options["orphanDependents"], false);
    let spec = field(2, &[0x08, 0x00, 0x38, 0x00]);
    let deployment = read(&body("apps/v1", "Deployment", &spec));
    assert_eq!(deployment["spec"]["replicas"], 0);
    assert_eq!(deployment["spec"].get("paused"), None);
}

#[test]
fn inlined_messages_quantities_and_instants_are_told_as_json_tells_them() {
    let volume = [field(1, b"v"), field(2, &field(2, &field(2, &field(1, b"1Gi"))))].concat();
    let created = field(8, &[0x08, 0x80, 0xf2, 0xd6, 0xca, 0x06]);
    let zero = field(9, &[]);
    let metadata = [field(1, b"p"), created, zero].concat();
    let pod = read(&body(
        "v1",
        "Pod",
        &[field(1, &metadata), field(2, &field(1, &volume))].concat(),
    ));
    assert_eq!(
        pod["spec"]["volumes"],
        json!([{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}])
    );
    assert_eq!(pod["metadata"]["creationTimestamp"], "2026-01-01T00:00:00Z");
    assert_eq!(pod["metadata"].get("deletionTimestamp"), None);
}

#[test]
fn what_is_no_such_body_is_refused() {
    let unknown = body("v9", "Thing", b"");
    for (bytes, expected) in [
        (&b"{}"[..], "expected prefix [107 56 115 0]"),
        (&unknown, "no kind \"Thing\" is registered for version \"v9\""),
        (&DEPLOYMENT[..DEPLOYMENT.len() - 9], "unexpected EOF"),
    ] {
        let status = decode::protobuf(bytes).unwrap_err();
        assert_eq!(status.code, 400);
        assert!(status.message.contains(expected), "{status}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..200usize, byte: u8) {
        let _ = decode::protobuf(&body("v1", "Pod", &bytes[..bytes.len().min(100)]));
        bytes.splice(0..0, b"k8s\0".iter().copied());
        let _ = decode::protobuf(&bytes);
        let mut broken = DEPLOYMENT.to_vec();
        let length = broken.len();
        broken[at % length] = byte;
        if let Ok(parsed) = decode::protobuf(&broken) {
            let _ = create(deployments(), parsed.value);
        }
    }
}

#[test]
fn every_stable_kind_that_clients_send_is_read() {
    // Stable since a release that is newer than the table of numbers, or with messages that JSON does not have.
    let unread = [
        "CustomResourceDefinition",
        "ClusterTrustBundle",
        "PodCertificateRequest",
        "MutatingAdmissionPolicy",
        "MutatingAdmissionPolicyBinding",
        "DeviceTaintRule",
        "StorageVersionMigration",
    ];
    for kind in api::kinds::kinds()
        .iter()
        .filter(|kind| matches!(kind.version, "v1" | "v2"))
    {
        let metadata = field(1, &field(1, b"a"));
        let parsed = decode::protobuf(&body(&kind.api_version(), kind.kind, &metadata));
        if unread.contains(&kind.kind) {
            continue;
        }
        let value = parsed.unwrap_or_else(|status| panic!("{kind:?}: {status}")).value;
        assert_eq!(value["metadata"]["name"], "a", "{kind:?}");
    }
}

#[test]
fn a_job_an_ingress_and_a_webhook_keep_what_their_clients_wrote() {
    let number = |number: u8, value: u8| vec![number << 3, value];
    // JobSpec: parallelism 1, completions 2, backoffLimit 7, suspend 10.
    let spec = [number(1, 0), number(2, 3), number(7, 0), number(10, 0)].concat();
    let job = read(&body("batch/v1", "Job", &field(2, &spec)));
    assert_eq!(
        job["spec"],
        json!({"parallelism": 0, "completions": 3, "backoffLimit": 0, "suspend": false})
    );
    // IngressRule inlines IngressRuleValue: host 1, ingressRuleValue 2 with http 1, paths 1: path 1, pathType 3.
    let path = [field(1, b"/"), field(3, b"Prefix")].concat();
    let rule = [field(1, b"a.b"), field(2, &field(1, &field(1, &path)))].concat();
    let ingress = read(&body("networking.k8s.io/v1", "Ingress", &field(2, &field(3, &rule))));
    assert_eq!(
        ingress["spec"]["rules"],
        json!([{"host": "a.b", "http": {"paths": [{"path": "/", "pathType": "Prefix"}]}}])
    );
    // RuleWithOperations inlines Rule: operations 1, rule 2 with apiGroups 1, scope 4.
    let rule = [
        field(1, b"CREATE"),
        field(2, &[field(1, b"apps"), field(4, b"*")].concat()),
    ]
    .concat();
    let webhook = field(2, &[field(1, b"w"), field(3, &rule)].concat());
    let read = read(&body(
        "admissionregistration.k8s.io/v1",
        "ValidatingWebhookConfiguration",
        &webhook,
    ));
    assert_eq!(
        read["webhooks"][0]["rules"],
        json!([{"operations": ["CREATE"], "apiGroups": ["apps"], "scope": "*"}])
    );
}
