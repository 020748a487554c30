//! Core kinds and workloads.

use serde_json::{Value, json};

use super::{Sample, sample};
use crate::fixture::{deployment, pod};

fn template() -> Value {
    deployment()["spec"]["template"].clone()
}

fn workload() -> Value {
    json!({"spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template()}})
}

fn job_template() -> Value {
    let mut template = template();
    template["spec"]["restartPolicy"] = "Never".into();
    template
}

const MISMATCH: &str =
    "spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: `selector` does not match template `labels`";

pub fn samples() -> Vec<Sample> {
    let mut all = core();
    all.extend(apps());
    all.extend(batch());
    all
}

fn core() -> Vec<Sample> {
    let quantity_error = "spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0";
    vec![
        sample("v1", "ConfigMap", json!({}), vec![]),
        sample("v1", "Namespace", json!({}), vec![]),
        sample("v1", "Node", json!({}), vec![]),
        sample("v1", "ServiceAccount", json!({}), vec![]),
        sample("v1", "Secret", json!({}), vec![]).fixed(vec![(
            "/type",
            json!("x"),
            "type: Invalid value: \"x\": field is immutable",
        )]),
        sample(
            "v1",
            "Pod",
            json!({"spec": pod()["spec"]}),
            vec![("/spec/containers", json!([]), "spec.containers: Required value")],
        ),
        sample(
            "v1",
            "Service",
            json!({"spec": {"ports": [{"port": 1}]}}),
            vec![("/spec/ports", json!([]), "spec.ports: Required value")],
        ),
        sample(
            "v1",
            "Event",
            json!({"involvedObject": {"namespace": "default"}}),
            vec![],
        ),
        sample(
            "v1",
            "Endpoints",
            json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]}),
            vec![
                (
                    "/subsets/0/addresses",
                    json!([]),
                    "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
                ),
                (
                    "/subsets/0/addresses/0/ip",
                    json!("127.0.0.1"),
                    "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range \
                     (127.0.0.0/8, ::1/128)",
                ),
                (
                    "/subsets/0/ports/0/port",
                    json!(0),
                    "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                ),
                (
                    "/subsets/0/ports",
                    json!([{"port": 1}, {"port": 2, "name": "b"}]),
                    "subsets[0].ports[0].name: Required value",
                ),
            ],
        ),
        sample(
            "v1",
            "ReplicationController",
            json!({"spec": {"template": template()}}),
            vec![
                (
                    "/spec/replicas",
                    json!(-1),
                    "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                ),
                ("/spec/template", Value::Null, "spec.template: Required value"),
                ("/spec/template/metadata", json!({}), "spec.selector: Required value"),
            ],
        ),
        sample(
            "v1",
            "PodTemplate",
            json!({"template": template()}),
            vec![(
                "/template/spec/containers",
                json!([]),
                "template.spec.containers: Required value",
            )],
        ),
        sample(
            "v1",
            "ResourceQuota",
            json!({"spec": {"hard": {"pods": "10", "requests.cpu": "1"}}}),
            vec![
                ("/spec/hard", json!({"pods": "-1"}), quantity_error),
                (
                    "/spec/hard",
                    json!({"pods": "1500m"}),
                    "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
                ),
                (
                    "/spec/hard",
                    json!({"pears": "1"}),
                    "spec.hard[pears]: Invalid value: \"pears\": must be a standard resource type or fully qualified",
                ),
                (
                    "/spec/scopes",
                    json!(["Often"]),
                    "spec.scopes: Invalid value: [\"Often\"]: unsupported scope",
                ),
                (
                    "/spec/scopes",
                    json!(["Terminating", "NotTerminating"]),
                    "spec.scopes: Invalid value: [\"Terminating\",\"NotTerminating\"]: conflicting scopes",
                ),
            ],
        )
        .fixed(vec![(
            "/spec/scopes",
            json!(["Terminating"]),
            "spec.scopes: Invalid value: [\"Terminating\"]: field is immutable",
        )]),
        sample(
            "v1",
            "LimitRange",
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "100m"}}]}}),
            vec![
                (
                    "/spec/limits/0/min",
                    json!({"cpu": "2"}),
                    "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
                ),
                (
                    "/spec/limits/0/defaultRequest",
                    json!({"cpu": "50m"}),
                    "spec.limits[0].defaultRequest[cpu]: Invalid value: \"50m\": min value 100m is greater than default \
                     request value 50m",
                ),
                (
                    "/spec/limits",
                    json!([{"type": "Pod"}, {"type": "Pod"}]),
                    "spec.limits[1].type: Duplicate value: \"Pod\"",
                ),
                (
                    "/spec/limits/0",
                    json!({"type": "Pod", "default": {"cpu": "1"}}),
                    "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
                ),
                (
                    "/spec/limits/0",
                    json!({"type": "PersistentVolumeClaim"}),
                    "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but \
                     neither was provided",
                ),
            ],
        ),
        volume(),
        claim(),
    ]
}

fn volume() -> Sample {
    sample(
        "v1",
        "PersistentVolume",
        json!({"spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/data"},
        }}),
        vec![
            ("/spec/accessModes", json!([]), "spec.accessModes: Required value"),
            (
                "/spec/accessModes",
                json!(["Sometimes"]),
                "spec.accessModes: Unsupported value: \"Sometimes\": supported values: \"ReadOnlyMany\", \
                 \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
            ),
            (
                "/spec/accessModes",
                json!(["ReadWriteOncePod", "ReadWriteOnce"]),
                "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
            ),
            ("/spec/capacity", json!({}), "spec.capacity: Required value"),
            (
                "/spec/capacity",
                json!({"storage": "0"}),
                "spec.capacity[storage]: Invalid value: \"0\": must be greater than zero",
            ),
            (
                "/spec/hostPath",
                Value::Null,
                "spec: Required value: must specify a volume type",
            ),
            (
                "/spec/nfs",
                json!({"server": "s", "path": "/p"}),
                "spec.nfs: Forbidden: may not specify more than 1 volume type",
            ),
            (
                "/spec/persistentVolumeReclaimPolicy",
                json!("Keep"),
                "spec.persistentVolumeReclaimPolicy: Unsupported value: \"Keep\": supported values: \"Delete\", \
                 \"Recycle\", \"Retain\"",
            ),
        ],
    )
    .fixed(vec![
        (
            "/spec/hostPath/path",
            json!("/other"),
            "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation",
        ),
        (
            "/spec/volumeMode",
            json!("Block"),
            "spec.volumeMode: Invalid value: \"Block\": field is immutable",
        ),
    ])
}

fn claim() -> Sample {
    sample(
        "v1",
        "PersistentVolumeClaim",
        json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
        vec![
            (
                "/spec/accessModes",
                json!([]),
                "spec.accessModes: Required value: at least 1 access mode is required",
            ),
            ("/spec/resources", json!({}), "spec.resources[storage]: Required value"),
            (
                "/spec/resources/requests/storage",
                json!("0"),
                "spec.resources.requests[storage]: Invalid value: \"0\": must be greater than zero",
            ),
            (
                "/spec/volumeMode",
                json!("Tape"),
                "spec.volumeMode: Unsupported value: \"Tape\": supported values: \"Block\", \"Filesystem\"",
            ),
        ],
    )
    .fixed(vec![
        (
            "/spec/storageClassName",
            json!("fast"),
            "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName \
             for bound claims",
        ),
        (
            "/spec/resources/requests/storage",
            json!("2Gi"),
            "spec: Forbidden: spec is immutable after creation",
        ),
    ])
}

fn apps() -> Vec<Sample> {
    let selector = (
        "/spec/selector/matchLabels/app",
        json!("changed"),
        "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"changed\"}}: field is immutable",
    );
    vec![
        sample(
            "apps/v1",
            "Deployment",
            workload(),
            vec![
                ("/spec/selector", Value::Null, "spec.selector: Required value"),
                (
                    "/spec/strategy",
                    json!({"rollingUpdate": {"maxUnavailable": "101%"}}),
                    "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
                ),
            ],
        ),
        sample(
            "apps/v1",
            "ReplicaSet",
            workload(),
            vec![
                ("/spec/selector", Value::Null, "spec.selector: Required value"),
                ("/spec/template/metadata/labels/app", json!("other"), MISMATCH),
            ],
        )
        .fixed(vec![selector.clone()]),
        sample(
            "apps/v1",
            "DaemonSet",
            workload(),
            vec![
                ("/spec/selector", Value::Null, "spec.selector: Required value"),
                (
                    "/spec/selector",
                    json!({}),
                    "spec.selector: Invalid value: {}: empty selector is invalid for daemonset",
                ),
                ("/spec/template/metadata/labels/app", json!("other"), MISMATCH),
                (
                    "/spec/updateStrategy",
                    json!({"type": "Never"}),
                    "spec.updateStrategy.type: Unsupported value: \"Never\": supported values: \"OnDelete\", \
                     \"RollingUpdate\"",
                ),
                (
                    "/spec/updateStrategy",
                    json!({"rollingUpdate": {"maxUnavailable": 0}}),
                    "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
                ),
                (
                    "/spec/updateStrategy",
                    json!({"rollingUpdate": {"maxSurge": 1}}),
                    "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is \
                     non-zero",
                ),
                (
                    "/spec/template/spec/restartPolicy",
                    json!("Never"),
                    "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                ),
                (
                    "/spec/template/spec/activeDeadlineSeconds",
                    json!(1),
                    "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in DaemonSet is not \
                     Supported",
                ),
            ],
        )
        .fixed(vec![selector]),
        stateful_set(),
        sample(
            "apps/v1",
            "ControllerRevision",
            json!({"data": {"a": 1}, "revision": 1}),
            vec![
                ("/data", Value::Null, "data: Required value: data is mandatory"),
                ("/revision", json!(-1), "revision: Invalid value: -1: must be greater than or equal to 0"),
            ],
        )
        .fixed(vec![(
            "/data",
            json!({"a": 2}),
            "data: Invalid value: {\"a\":2}: field is immutable",
        )]),
    ]
}

fn stateful_set() -> Sample {
    let forbidden = "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                     'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                     'minReadySeconds' are forbidden";
    sample(
        "apps/v1",
        "StatefulSet",
        json!({"spec": {
            "serviceName": "web", "selector": {"matchLabels": {"app": "web"}}, "template": template(),
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
            }}],
        }}),
        vec![
            ("/spec/selector", Value::Null, "spec.selector: Required value"),
            (
                "/spec/selector",
                json!({}),
                "spec.selector: Invalid value: {}: empty selector is invalid for statefulset",
            ),
            ("/spec/template/metadata/labels/app", json!("other"), MISMATCH),
            (
                "/spec/podManagementPolicy",
                json!("Chaotic"),
                "spec.podManagementPolicy: Invalid value: \"Chaotic\": must be 'OrderedReady' or 'Parallel'",
            ),
            (
                "/spec/updateStrategy",
                json!({"type": "OnDelete", "rollingUpdate": {"partition": 1}}),
                "spec.updateStrategy.rollingUpdate: Invalid value: {\"partition\":1}: only allowed for updateStrategy \
                 'RollingUpdate'",
            ),
            (
                "/spec/persistentVolumeClaimRetentionPolicy",
                json!({"whenDeleted": "Ask"}),
                "spec.persistentVolumeClaimRetentionPolicy.whenDeleted: Unsupported value: \"Ask\": supported values: \
                 \"Delete\", \"Retain\"",
            ),
            (
                "/spec/replicas",
                json!(-1),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
        ],
    )
    .fixed(vec![
        ("/spec/serviceName", json!("other"), forbidden),
        ("/spec/podManagementPolicy", json!("Parallel"), forbidden),
        ("/spec/selector/matchLabels", json!({"app": "other"}), forbidden),
        (
            "/spec/volumeClaimTemplates/0/spec/resources/requests/storage",
            json!("2Gi"),
            forbidden,
        ),
    ])
}

fn batch() -> Vec<Sample> {
    let required = "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"";
    vec![
        sample(
            "batch/v1",
            "Job",
            json!({"spec": {"template": job_template()}}),
            vec![
                ("/spec/template/spec/restartPolicy", Value::Null, required),
                ("/spec/template/spec/restartPolicy", json!("Always"), required),
                (
                    "/spec/completions",
                    json!(-1),
                    "spec.completions: Invalid value: -1: must be greater than or equal to 0",
                ),
                (
                    "/spec",
                    json!({"template": job_template(), "parallelism": 2, "completionMode": "Indexed"}),
                    "spec.completions: Required value: when completion mode is Indexed",
                ),
                (
                    "/spec/backoffLimitPerIndex",
                    json!(1),
                    "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
                ),
                ("/spec/manualSelector", json!(true), "spec.selector: Required value"),
                (
                    "/spec/selector",
                    json!({"matchLabels": {"mine": "a"}}),
                    "spec.template.metadata.labels: Invalid value: {\"app\":\"web\",\
                     \"batch.kubernetes.io/controller-uid\":\"11111111-2222-3333-4444-555555555555\",\
                     \"batch.kubernetes.io/job-name\":\"a\",\
                     \"controller-uid\":\"11111111-2222-3333-4444-555555555555\",\"job-name\":\"a\"}: `selector` does not \
                     match template `labels`",
                ),
                (
                    "/spec/podFailurePolicy",
                    json!({"rules": [{"action": "Ignore"}]}),
                    "spec.podFailurePolicy.rules[0]: Invalid value: {\"action\":\"Ignore\"}: specifying one of OnExitCodes \
                     and OnPodConditions is required",
                ),
                (
                    "/spec/podFailurePolicy",
                    json!({"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [0]}}]}),
                    "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In \
                     operator",
                ),
            ],
        )
        .fixed(vec![
            ("/spec/completions", json!(3), "spec.completions: Invalid value: 3: field is immutable"),
            (
                "/spec/completionMode",
                json!("Indexed"),
                "spec.completionMode: Invalid value: \"Indexed\": field is immutable",
            ),
            (
                "/spec/template/spec/containers/0/image",
                json!("other"),
                "spec.template: Invalid value: ",
            ),
        ]),
        sample(
            "batch/v1",
            "CronJob",
            json!({"spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": job_template()}}}}),
            vec![
                ("/spec/schedule", json!(""), "spec.schedule: Required value"),
                (
                    "/spec/schedule",
                    json!("every day"),
                    "spec.schedule: Invalid value: \"every day\": expected exactly 5 fields, found 2: [every day]",
                ),
                (
                    "/spec/schedule",
                    json!("TZ=UTC 0 * * * *"),
                    "spec.schedule: Invalid value: \"TZ=UTC 0 * * * *\": cannot use TZ or CRON_TZ in schedule, use \
                     timeZone field instead",
                ),
                (
                    "/spec/timeZone",
                    json!("Mars/Olympus"),
                    "spec.timeZone: Invalid value: \"Mars/Olympus\": unknown time zone Mars/Olympus",
                ),
                (
                    "/spec/concurrencyPolicy",
                    json!("Maybe"),
                    "spec.concurrencyPolicy: Unsupported value: \"Maybe\": supported values: \"Allow\", \"Forbid\", \
                     \"Replace\"",
                ),
                (
                    "/spec/jobTemplate/spec/template/spec/restartPolicy",
                    Value::Null,
                    "spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \
                     \"Never\"",
                ),
                (
                    "/metadata",
                    json!({"name": "a2345678901234567890123456789012345678901234567890123"}),
                    "metadata.name: Invalid value: \"a2345678901234567890123456789012345678901234567890123\": must be no \
                     more than 52 characters",
                ),
            ],
        ),
    ]
}
