//! resource.k8s.io in its versions, and kinds that have no stable version.

use serde_json::{Value, json};

use super::{Sample, sample};

pub fn samples() -> Vec<Sample> {
    let mut all = preview();
    for version in ["resource.k8s.io/v1", "resource.k8s.io/v1beta2"] {
        all.extend(devices(version));
    }
    all.extend(oldest());
    all
}

fn class(version: &'static str) -> Sample {
    sample(
        version,
        "DeviceClass",
        json!({"spec": {"selectors": [{"cel": {"expression": "true"}}]}}),
        vec![
            ("/spec/selectors/0", json!({}), "spec.selectors[0].cel: Required value"),
            (
                "/spec/selectors/0/cel",
                json!({}),
                "spec.selectors[0].cel.expression: Required value",
            ),
        ],
    )
}

fn taint_rule(version: &'static str) -> Sample {
    sample(
        version,
        "DeviceTaintRule",
        json!({"spec": {"taint": {"key": "example.com/broken", "effect": "NoSchedule"}}}),
        vec![
            ("/spec/taint/key", json!(""), "spec.taint.key: Required value"),
            ("/spec/taint/effect", json!(""), "spec.taint.effect: Required value"),
        ],
    )
}

fn devices(version: &'static str) -> Vec<Sample> {
    let spec = json!({"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu"}}]}});
    vec![
        class(version),
        taint_rule(version),
        sample(
            version,
            "ResourceClaim",
            json!({"spec": spec}),
            vec![
                (
                    "/spec/devices/requests/0",
                    json!({"name": "gpu"}),
                    "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
                ),
                (
                    "/spec/devices/requests/0/exactly/deviceClassName",
                    json!(""),
                    "spec.devices.requests[0].exactly.deviceClassName: Required value",
                ),
                (
                    "/spec/devices/requests/0/exactly/allocationMode",
                    json!("Some"),
                    "spec.devices.requests[0].exactly.allocationMode: Unsupported value: \"Some\": supported values: \
                     \"All\", \"ExactCount\"",
                ),
                (
                    "/spec/devices/constraints",
                    json!([{"requests": ["disk"], "matchAttribute": "a/b"}]),
                    "spec.devices.constraints[0].requests[0]: Invalid value: \"disk\": must be the name of a request in the \
                     claim or the name of a request and a subrequest separated by '/'",
                ),
            ],
        )
        .fixed(vec![(
            "/spec/devices/requests/0/name",
            json!("other"),
            "spec: Invalid value: ",
        )]),
        sample(
            version,
            "ResourceClaimTemplate",
            json!({"spec": {"spec": spec}}),
            vec![(
                "/spec/spec/devices/requests/0/name",
                json!(""),
                "spec.spec.devices.requests[0].name: Required value",
            )],
        ),
        sample(
            version,
            "ResourceSlice",
            json!({"spec": {
                "driver": "gpu.example.com", "nodeName": "n1",
                "pool": {"name": "n1", "generation": 1, "resourceSliceCount": 1},
                "devices": [{"name": "gpu-0", "capacity": {"memory": {"value": "1Gi"}}}],
            }}),
            slice_refused(),
        )
        .fixed(vec![(
            "/spec/driver",
            json!("other.example.com"),
            "spec.driver: Invalid value: \"other.example.com\": field is immutable",
        )]),
    ]
}

fn slice_refused() -> Vec<super::Case> {
    vec![
        ("/spec/driver", json!(""), "spec.driver: Required value"),
        (
            "/spec/nodeName",
            json!(""),
            "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
        ),
        (
            "/spec/pool/resourceSliceCount",
            json!(0),
            "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
        ),
    ]
}

/// The beta in which requests and devices had another form.
fn oldest() -> Vec<Sample> {
    let version = "resource.k8s.io/v1beta1";
    let spec = json!({"devices": {"requests": [{"name": "gpu", "deviceClassName": "gpu"}]}});
    vec![
        class(version),
        taint_rule("resource.k8s.io/v1alpha3"),
        sample(
            version,
            "ResourceClaim",
            json!({"spec": spec}),
            vec![(
                "/spec/devices/requests/0/allocationMode",
                json!("Some"),
                "spec.devices.requests[0].allocationMode: Unsupported value: \"Some\": supported values: \"All\", \
                 \"ExactCount\"",
            )],
        ),
        sample(
            version,
            "ResourceClaimTemplate",
            json!({"spec": {"spec": spec}}),
            vec![],
        ),
        sample(
            version,
            "ResourceSlice",
            json!({"spec": {
                "driver": "gpu.example.com", "nodeName": "n1",
                "pool": {"name": "n1", "generation": 1, "resourceSliceCount": 1},
                "devices": [{"name": "gpu-0", "basic": {"capacity": {"memory": {"value": "1Gi"}}}}],
            }}),
            slice_refused(),
        ),
        sample(
            "resource.k8s.io/v1alpha3",
            "ResourcePoolStatusRequest",
            json!({"spec": {"driver": "gpu.example.com"}}),
            vec![("/spec/driver", json!(""), "spec.driver: Required value")],
        ),
    ]
}

fn preview() -> Vec<Sample> {
    let candidate = json!({"spec": {"leaseName": "l", "binaryVersion": "1.0.0", "strategy": "OldestEmulationVersion"}});
    vec![
        sample(
            "coordination.k8s.io/v1beta1",
            "LeaseCandidate",
            candidate.clone(),
            vec![("/spec/leaseName", json!(""), "spec.leaseName: Required value")],
        )
        .fixed(vec![(
            "/spec/leaseName",
            json!("m"),
            "spec.leaseName: Invalid value: \"m\": field is immutable",
        )]),
        sample("coordination.k8s.io/v1alpha2", "LeaseCandidate", candidate, vec![]),
        sample(
            "scheduling.k8s.io/v1beta1",
            "PodGroup",
            json!({"spec": {"schedulingPolicy": {"basic": {}}}}),
            vec![],
        ),
        sample(
            "scheduling.k8s.io/v1beta1",
            "Workload",
            json!({"spec": {"podGroupTemplates": []}}),
            vec![],
        ),
        sample(
            "scheduling.k8s.io/v1alpha3",
            "PodGroup",
            json!({"spec": {"schedulingPolicy": {"basic": {}}}}),
            vec![],
        ),
        sample(
            "scheduling.k8s.io/v1alpha3",
            "Workload",
            json!({"spec": {"podGroupTemplates": []}}),
            vec![],
        ),
        sample(
            "scheduling.k8s.io/v1alpha3",
            "CompositePodGroup",
            json!({"spec": {"schedulingPolicy": {}}}),
            vec![],
        ),
        sample(
            "lifecycle.k8s.io/v1alpha1",
            "EvictionRequest",
            json!({"spec": {"intent": "Evict", "requester": "example.com/drain", "target": {}}}),
            vec![("/spec/intent", Value::Null, "spec.intent: Required value")],
        ),
        sample(
            "lifecycle.k8s.io/v1alpha1",
            "Eviction",
            json!({"spec": {"target": {}}}),
            vec![],
        ),
    ]
}
