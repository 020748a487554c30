//! Kinds of the other groups.

use serde_json::{Value, json};

use super::{Sample, sample};

pub fn samples() -> Vec<Sample> {
    let mut all = autoscaling();
    all.extend(networking());
    all.extend(storage());
    all.extend(access());
    all
}

fn autoscaling() -> Vec<Sample> {
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let refused = vec![
        (
            "/spec/maxReplicas",
            json!(0),
            "spec.maxReplicas: Invalid value: 0: must be greater than 0",
        ),
        (
            "/spec/minReplicas",
            json!(9),
            "spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`",
        ),
        (
            "/spec/minReplicas",
            json!(0),
            "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
        ),
        (
            "/spec/scaleTargetRef/kind",
            json!(""),
            "spec.scaleTargetRef.kind: Required value",
        ),
    ];
    let mut second = refused.clone();
    second.extend([
        (
            "/spec/metrics",
            json!([{"type": "Weather"}]),
            "spec.metrics[0].type: Unsupported value: \"Weather\": supported values: \"ContainerResource\", \
             \"External\", \"Object\", \"Pods\", \"Resource\"",
        ),
        (
            "/spec/metrics",
            json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization"}}}]),
            "spec.metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value or a \
             target utilization",
        ),
        (
            "/spec/metrics",
            json!([{"type": "Pods"}]),
            "spec.metrics[0].pods: Required value: must populate information for the given metric source",
        ),
        (
            "/spec/behavior",
            json!({"scaleUp": {"stabilizationWindowSeconds": 3601}}),
            "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
        ),
    ]);
    let mut first = refused;
    first.push((
        "/spec/targetCPUUtilizationPercentage",
        json!(0),
        "spec.targetCPUUtilizationPercentage: Invalid value: 0: must be greater than 0",
    ));
    let object = json!({"spec": {"scaleTargetRef": target, "maxReplicas": 3}});
    let mut old = object.clone();
    old["spec"]["targetCPUUtilizationPercentage"] = json!(50);
    vec![
        sample("autoscaling/v2", "HorizontalPodAutoscaler", object, second),
        sample("autoscaling/v1", "HorizontalPodAutoscaler", old, first),
        sample(
            "policy/v1",
            "PodDisruptionBudget",
            json!({"spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}}),
            vec![
                (
                    "/spec/maxUnavailable",
                    json!(1),
                    "spec: Invalid value: {\"maxUnavailable\":1,\"minAvailable\":1,\"selector\":{\"matchLabels\":\
                     {\"app\":\"web\"}}}: minAvailable and maxUnavailable cannot be both set",
                ),
                (
                    "/spec/minAvailable",
                    json!(-1),
                    "spec.minAvailable: Invalid value: -1: must be greater than or equal to 0",
                ),
                (
                    "/spec/minAvailable",
                    json!("110%"),
                    "spec.minAvailable: Invalid value: \"110%\": must not be greater than 100%",
                ),
                (
                    "/spec/minAvailable",
                    json!("some"),
                    "spec.minAvailable: Invalid value: \"some\": a valid percent string must be a numeric string followed \
                     by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                ),
                (
                    "/spec/unhealthyPodEvictionPolicy",
                    json!("Never"),
                    "spec.unhealthyPodEvictionPolicy: Unsupported value: \"Never\": supported values: \"AlwaysAllow\", \
                     \"IfHealthyBudget\"",
                ),
            ],
        ),
    ]
}

fn networking() -> Vec<Sample> {
    let group = "networking.k8s.io/v1";
    let service = json!({"service": {"name": "web", "port": {"number": 80}}});
    let rules = |path: Value| json!([{"host": "example.com", "http": {"paths": [path]}}]);
    vec![
        sample(
            group,
            "Ingress",
            json!({"spec": {"rules": rules(json!({"path": "/", "pathType": "Prefix", "backend": service}))}}),
            vec![
                (
                    "/spec/rules",
                    json!([]),
                    "spec: Invalid value: null: either `defaultBackend` or `rules` must be specified",
                ),
                (
                    "/spec/rules/0/http/paths/0/pathType",
                    Value::Null,
                    "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified",
                ),
                (
                    "/spec/rules/0/http/paths/0/pathType",
                    json!("Fuzzy"),
                    "spec.rules[0].http.paths[0].pathType: Unsupported value: \"Fuzzy\": supported values: \"Exact\", \
                     \"ImplementationSpecific\", \"Prefix\"",
                ),
                (
                    "/spec/rules/0/http/paths/0/path",
                    json!("web"),
                    "spec.rules[0].http.paths[0].path: Invalid value: \"web\": must be an absolute path",
                ),
                (
                    "/spec/rules/0/http/paths/0/path",
                    json!("/a//b"),
                    "spec.rules[0].http.paths[0].path: Invalid value: \"/a//b\": must not contain '//'",
                ),
                (
                    "/spec/rules/0/http/paths/0/path",
                    json!("/a/.."),
                    "spec.rules[0].http.paths[0].path: Invalid value: \"/a/..\": cannot end with '/..'",
                ),
                (
                    "/spec/rules/0/http/paths/0/backend",
                    json!({}),
                    "spec.rules[0].http.paths[0].backend: Invalid value: \"\": resource or service backend is required",
                ),
                (
                    "/spec/rules/0/http/paths/0/backend/service/port",
                    json!({"name": "http", "number": 80}),
                    "spec.rules[0].http.paths[0].backend: Invalid value: \"\": cannot set both port name & port number",
                ),
                (
                    "/spec/rules/0/host",
                    json!("10.0.0.1"),
                    "spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address",
                ),
            ],
        ),
        sample(
            group,
            "IngressClass",
            json!({"spec": {"controller": "example.com/proxy"}}),
            vec![
                ("/spec/controller", json!(""), "spec.controller: Required value"),
                (
                    "/spec/controller",
                    json!("proxy"),
                    "spec.controller: Invalid value: \"proxy\": must be a domain-prefixed path (such as \"acme.io/foo\")",
                ),
                (
                    "/spec/parameters",
                    json!({"kind": "A", "name": "b", "scope": "Namespace"}),
                    "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'",
                ),
            ],
        )
        .fixed(vec![(
            "/spec/controller",
            json!("example.com/other"),
            "spec.controller: Invalid value: \"example.com/other\": field is immutable",
        )]),
        sample(
            group,
            "NetworkPolicy",
            json!({"spec": {"podSelector": {}, "ingress": [{
                "from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}], "ports": [{"port": 80}],
            }]}}),
            vec![
                (
                    "/spec/ingress/0/from/0",
                    json!({}),
                    "spec.ingress[0].from[0]: Required value: must specify a peer",
                ),
                (
                    "/spec/ingress/0/from/0/podSelector",
                    json!({}),
                    "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer",
                ),
                (
                    "/spec/ingress/0/from/0/ipBlock/except/0",
                    json!("11.0.0.0/16"),
                    "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of \
                     `cidr`",
                ),
                (
                    "/spec/ingress/0/ports/0",
                    json!({"port": 80, "endPort": 70}),
                    "spec.ingress[0].ports[0].endPort: Invalid value: 70: must be greater than or equal to `port`",
                ),
                (
                    "/spec/policyTypes",
                    json!(["Sideways"]),
                    "spec.policyTypes[0]: Unsupported value: \"Sideways\": supported values: \"Egress\", \"Ingress\"",
                ),
            ],
        ),
        sample(
            group,
            "IPAddress",
            json!({"metadata": {"name": "10.96.0.1"}, "spec": {"parentRef": {
                "resource": "services", "namespace": "default", "name": "kubernetes",
            }}}),
            vec![
                ("/spec/parentRef", Value::Null, "spec.parentRef: Required value"),
                ("/spec/parentRef/name", json!(""), "spec.parentRef.name: Required value"),
                (
                    "/metadata/name",
                    json!("web"),
                    "metadata.name: Invalid value: \"web\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                ),
            ],
        )
        .fixed(vec![(
            "/spec/parentRef/name",
            json!("other"),
            "spec.parentRef: Invalid value: ",
        )]),
        sample(
            group,
            "ServiceCIDR",
            json!({"spec": {"cidrs": ["10.96.0.0/12"]}}),
            vec![
                ("/spec/cidrs", json!([]), "spec.cidrs: Required value: at least one CIDR required"),
                (
                    "/spec/cidrs/0",
                    json!("10.96.0.0"),
                    "spec.cidrs[0]: Invalid value: \"10.96.0.0\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or \
                     2001:db8::/64)",
                ),
            ],
        )
        .fixed(vec![(
            "/spec/cidrs",
            json!(["10.0.0.0/24"]),
            "spec.cidrs: Invalid value: [\"10.0.0.0/24\"]: field is immutable",
        )]),
        sample(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            json!({"addressType": "IPv4", "endpoints": []}),
            vec![("/addressType", json!(""), "addressType: Required value")],
        ),
        sample("coordination.k8s.io/v1", "Lease", json!({}), vec![]),
    ]
}

fn storage() -> Vec<Sample> {
    let group = "storage.k8s.io/v1";
    vec![
        sample(
            group,
            "StorageClass",
            json!({"provisioner": "example.com/disk"}),
            vec![
                ("/provisioner", json!(""), "provisioner: Required value"),
                (
                    "/reclaimPolicy",
                    json!("Recycle"),
                    "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
                ),
                (
                    "/volumeBindingMode",
                    json!("Late"),
                    "volumeBindingMode: Unsupported value: \"Late\": supported values: \"Immediate\", \
                     \"WaitForFirstConsumer\"",
                ),
            ],
        )
        .fixed(vec![
            ("/provisioner", json!("a/b"), "provisioner: Forbidden: updates to provisioner are forbidden."),
            ("/parameters", json!({"a": "b"}), "parameters: Forbidden: updates to parameters are forbidden."),
            (
                "/volumeBindingMode",
                json!("WaitForFirstConsumer"),
                "volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable",
            ),
        ]),
        sample(
            group,
            "VolumeAttributesClass",
            json!({"driverName": "example.com", "parameters": {"iops": "100"}}),
            vec![
                ("/driverName", json!(""), "driverName: Required value"),
                (
                    "/parameters",
                    json!({}),
                    "parameters: Required value: must contain at least one key/value pair",
                ),
            ],
        )
        .fixed(vec![(
            "/driverName",
            json!("other.com"),
            "driverName: Forbidden: updates to driverName are forbidden.",
        )]),
        sample(
            group,
            "VolumeAttachment",
            json!({"spec": {"attacher": "a.example.com", "nodeName": "n1", "source": {"persistentVolumeName": "pv"}}}),
            vec![
                ("/spec/attacher", json!(""), "spec.attacher: Required value"),
                (
                    "/spec/source",
                    json!({}),
                    "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
                ),
            ],
        )
        .fixed(vec![("/spec/nodeName", json!("n2"), "spec: Invalid value: ")]),
        sample(
            group,
            "CSIDriver",
            json!({"metadata": {"name": "a.example.com"}, "spec": {}}),
            vec![
                (
                    "/spec/volumeLifecycleModes",
                    json!(["Brief"]),
                    "spec.volumeLifecycleModes[0]: Unsupported value: \"Brief\": supported values: \"Ephemeral\", \
                     \"Persistent\"",
                ),
                (
                    "/spec/fsGroupPolicy",
                    json!("Some"),
                    "spec.fsGroupPolicy: Unsupported value: \"Some\": supported values: \"File\", \"None\", \
                     \"ReadWriteOnceWithFSType\"",
                ),
            ],
        )
        .fixed(vec![(
            "/spec/attachRequired",
            json!(false),
            "spec.attachRequired: Invalid value: false: field is immutable",
        )]),
        sample(
            group,
            "CSINode",
            json!({"spec": {"drivers": [{"name": "a.example.com", "nodeID": "n1", "topologyKeys": null}]}}),
            vec![
                ("/spec/drivers/0/nodeID", json!(""), "spec.drivers[0].nodeID: Required value"),
                ("/spec/drivers/0/name", json!(""), "spec.drivers[0].name: Required value"),
                (
                    "/spec/drivers",
                    json!([{"name": "a", "nodeID": "1"}, {"name": "a", "nodeID": "2"}]),
                    "spec.drivers[1].name: Duplicate value: \"a\"",
                ),
            ],
        ),
        sample(
            group,
            "CSIStorageCapacity",
            json!({"storageClassName": "fast", "capacity": "1Gi"}),
            vec![
                ("/storageClassName", json!(""), "storageClassName: Required value"),
                ("/capacity", json!("-1"), "capacity: Invalid value: \"-1\": must be greater than or equal to 0"),
            ],
        )
        .fixed(vec![(
            "/storageClassName",
            json!("slow"),
            "storageClassName: Invalid value: \"slow\": field is immutable",
        )]),
        sample(
            "scheduling.k8s.io/v1",
            "PriorityClass",
            json!({"value": 1}),
            vec![(
                "/value",
                json!(1_000_000_001),
                "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
            )],
        ),
    ]
}

fn access() -> Vec<Sample> {
    let group = "rbac.authorization.k8s.io/v1";
    let rule = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
    let rules = |url: &'static str| {
        vec![
            (
                "/rules/0/verbs",
                json!([]),
                "rules[0].verbs: Required value: verbs must contain at least one value",
            ),
            (
                "/rules/0/apiGroups",
                json!([]),
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
            ),
            (
                "/rules/0/resources",
                json!([]),
                "rules[0].resources: Required value: resource rules must supply at least one resource",
            ),
            ("/rules/0/nonResourceURLs", json!(["/healthz"]), url),
        ]
    };
    let mixed = "rules[0].nonResourceURLs: Invalid value: [\"/healthz\"]: rules cannot apply to both regular resources and \
                 non-resource URLs";
    let namespaced = "rules[0].nonResourceURLs: Invalid value: [\"/healthz\"]: namespaced rules cannot apply to \
                      non-resource URLs";
    let binding = json!({
        "roleRef": {"kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "name": "eve"}, {"kind": "ServiceAccount", "name": "bot", "namespace": "default"}],
    });
    let changed = vec![("/roleRef/name", json!("edit"), "roleRef: Invalid value: ")];
    vec![
        sample(group, "Role", json!({"rules": [rule]}), rules(namespaced)),
        sample(group, "ClusterRole", json!({"rules": [rule]}), rules(mixed)),
        sample(
            group,
            "RoleBinding",
            binding.clone(),
            vec![
                (
                    "/roleRef/kind",
                    json!("Group"),
                    "roleRef.kind: Unsupported value: \"Group\": supported values: \"ClusterRole\", \"Role\"",
                ),
                ("/roleRef/name", json!(""), "roleRef.name: Required value"),
                ("/subjects/0/name", json!(""), "subjects[0].name: Required value"),
                (
                    "/subjects/0/kind",
                    json!("Robot"),
                    "subjects[0].kind: Unsupported value: \"Robot\": supported values: \"Group\", \"ServiceAccount\", \
                     \"User\"",
                ),
            ],
        )
        .fixed(changed.clone()),
        sample(
            group,
            "ClusterRoleBinding",
            binding,
            vec![
                (
                    "/roleRef/kind",
                    json!("Role"),
                    "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
                ),
                (
                    "/subjects/1/namespace",
                    json!(""),
                    "subjects[1].namespace: Required value",
                ),
            ],
        )
        .fixed(changed),
    ]
}
