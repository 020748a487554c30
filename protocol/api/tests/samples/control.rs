//! Kinds by which the API itself is configured and asked.

use serde_json::{Value, json};

use super::{Case, Sample, sample};

pub fn samples() -> Vec<Sample> {
    let mut all = admission();
    all.extend(reviews());
    all.extend(extension());
    all.extend(certificates());
    all.extend(flow_control());
    all
}

fn policies(version: &'static str) -> Vec<Sample> {
    let constraints = json!({"resourceRules": [{
        "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"],
    }]});
    vec![
        sample(
            version,
            "MutatingAdmissionPolicy",
            json!({"spec": {
                "matchConstraints": constraints, "reinvocationPolicy": "Never",
                "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}],
            }}),
            vec![
                (
                    "/spec/matchConstraints",
                    Value::Null,
                    "spec.matchConstraints: Required value",
                ),
                (
                    "/spec/mutations",
                    json!([]),
                    "spec.mutations: Required value: mutations must contain at least one item",
                ),
                (
                    "/spec/mutations/0/jsonPatch",
                    json!({}),
                    "spec.mutations[0].jsonPatch.expression: Required value: expression is not specified",
                ),
                (
                    "/spec/failurePolicy",
                    json!("Shrug"),
                    "spec.failurePolicy: Unsupported value: \"Shrug\": supported values: \"Fail\", \"Ignore\"",
                ),
            ],
        ),
        sample(
            version,
            "MutatingAdmissionPolicyBinding",
            json!({"spec": {"policyName": "p"}}),
            vec![("/spec/policyName", json!(""), "spec.policyName: Required value")],
        ),
    ]
}

fn admission() -> Vec<Sample> {
    let group = "admissionregistration.k8s.io/v1";
    let webhooks = json!({"webhooks": [{
        "name": "a.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "clientConfig": {"url": "https://example.com/check"},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
    }]});
    let refused: Vec<Case> = vec![
        (
            "/webhooks/0/name",
            json!("short"),
            "webhooks[0].name: Invalid value: \"short\": should be a domain with at least three segments separated by dots",
        ),
        (
            "/webhooks/0/sideEffects",
            Value::Null,
            "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
        ),
        (
            "/webhooks/0/admissionReviewVersions",
            json!([]),
            "webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1",
        ),
        (
            "/webhooks/0/clientConfig",
            json!({}),
            "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
        ),
        (
            "/webhooks/0/clientConfig/url",
            json!("http://example.com"),
            "webhooks[0].clientConfig.url: Invalid value: \"http://example.com\": 'https' is the only allowed URL scheme; \
             desired format: https://host[/path] (not \"http\")",
        ),
        (
            "/webhooks/0/timeoutSeconds",
            json!(31),
            "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
        ),
        (
            "/webhooks/0/rules/0/operations",
            json!(["*", "CREATE"]),
            "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other \
             operations",
        ),
    ];
    let mut all = vec![
        sample(
            group,
            "ValidatingWebhookConfiguration",
            webhooks.clone(),
            refused.clone(),
        ),
        sample(group, "MutatingWebhookConfiguration", webhooks, refused),
        sample(
            group,
            "ValidatingAdmissionPolicy",
            json!({"spec": {
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"],
                }]},
                "validations": [{"expression": "true"}],
            }}),
            vec![
                (
                    "/spec/validations",
                    json!([]),
                    "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
                ),
                (
                    "/spec/validations/0",
                    json!({}),
                    "spec.validations[0].expression: Required value: expression is not specified",
                ),
                (
                    "/spec/matchConstraints/resourceRules",
                    json!([]),
                    "spec.matchConstraints.resourceRules: Required value",
                ),
            ],
        ),
        sample(
            group,
            "ValidatingAdmissionPolicyBinding",
            json!({"spec": {"policyName": "p", "validationActions": ["Deny"]}}),
            vec![
                ("/spec/policyName", json!(""), "spec.policyName: Required value"),
                (
                    "/spec/validationActions",
                    json!([]),
                    "spec.validationActions: Required value: at least one validation action is required",
                ),
                (
                    "/spec/paramRef",
                    json!({}),
                    "spec.paramRef: Required value: one of name or selector must be specified",
                ),
            ],
        ),
    ];
    for version in [
        group,
        "admissionregistration.k8s.io/v1beta1",
        "admissionregistration.k8s.io/v1alpha1",
    ] {
        all.extend(policies(version));
    }
    all
}

fn reviews() -> Vec<Sample> {
    let group = "authorization.k8s.io/v1";
    let attributes = json!({"verb": "get", "resource": "pods", "namespace": "default"});
    let spec = json!({"spec": {"user": "eve", "resourceAttributes": attributes}});
    let neither = "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes \
                   must be specified";
    vec![
        sample(
            "v1",
            "Binding",
            json!({"metadata": {"name": "web"}, "target": {"kind": "Node", "name": "n1"}}),
            vec![
                ("/target/name", json!(""), "target.name: Required value"),
                (
                    "/target/kind",
                    json!("Pod"),
                    "target.kind: Unsupported value: \"Pod\": supported values: \"<empty>\", \"Node\"",
                ),
            ],
        ),
        sample("authentication.k8s.io/v1", "SelfSubjectReview", json!({}), vec![]),
        sample(
            "authentication.k8s.io/v1",
            "TokenReview",
            json!({"spec": {"token": "t"}}),
            vec![],
        ),
        sample(
            group,
            "SubjectAccessReview",
            spec.clone(),
            vec![
                (
                    "/spec/user",
                    json!(""),
                    "spec.user: Required value: at least one of user or group must be specified",
                ),
                ("/spec/resourceAttributes", Value::Null, neither),
            ],
        ),
        sample(
            group,
            "LocalSubjectAccessReview",
            spec,
            vec![(
                "/spec/resourceAttributes/namespace",
                json!("other"),
                "spec.resourceAttributes.namespace: Invalid value: \"other\": must match metadata.namespace",
            )],
        ),
        sample(
            group,
            "SelfSubjectAccessReview",
            json!({"spec": {"resourceAttributes": attributes}}),
            vec![("/spec/resourceAttributes", Value::Null, neither)],
        ),
        sample(
            group,
            "SelfSubjectRulesReview",
            json!({"spec": {"namespace": "default"}}),
            vec![],
        ),
    ]
}

fn extension() -> Vec<Sample> {
    vec![
        sample(
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            json!({"metadata": {"name": "widgets.example.com"}, "spec": {
                "group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                    "type": "object", "properties": {"spec": {"type": "object",
                        "properties": {"size": {"type": "integer", "default": 1}, "next": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}},
                }}}],
            }}),
            vec![
                (
                    "/metadata/name",
                    json!("widgets"),
                    "metadata.name: Invalid value: \"widgets\": must be spec.names.plural+\".\"+spec.group",
                ),
                ("/spec/scope", json!(""), "spec.scope: Required value"),
                (
                    "/spec/scope",
                    json!("Galaxy"),
                    "spec.scope: Unsupported value: \"Galaxy\": supported values: \"Cluster\", \"Namespaced\"",
                ),
                ("/spec/versions", json!([]), "spec.versions: Required value"),
                (
                    "/spec/versions/0/schema",
                    Value::Null,
                    "spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required",
                ),
                ("/spec/names/kind", json!(""), "spec.names.kind: Required value"),
                (
                    "/spec/conversion",
                    json!({"strategy": "Webhook"}),
                    "spec.conversion.webhook.clientConfig: Required value: required when strategy is set to Webhook",
                ),
            ],
        ),
        sample(
            "apiregistration.k8s.io/v1",
            "APIService",
            json!({"metadata": {"name": "v1.metrics.example.com"}, "spec": {
                "group": "metrics.example.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100,
                "service": {"namespace": "kube-system", "name": "metrics"},
            }}),
            vec![
                (
                    "/metadata/name",
                    json!("v2.x"),
                    "metadata.name: Invalid value: \"v2.x\": must be `spec.version+\".\"+spec.group`: \
                     \"v1.metrics.example.com\"",
                ),
                (
                    "/spec/groupPriorityMinimum",
                    json!(0),
                    "spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000",
                ),
                ("/spec/service/name", json!(""), "spec.service.name: Required value"),
            ],
        ),
        sample(
            "node.k8s.io/v1",
            "RuntimeClass",
            json!({"handler": "runc"}),
            vec![
                ("/handler", json!(""), "handler: Required value"),
                (
                    "/overhead",
                    json!({"podFixed": {"cpu": "-1"}}),
                    "overhead.podFixed[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
                ),
            ],
        )
        .fixed(vec![(
            "/handler",
            json!("other"),
            "handler: Invalid value: \"other\": field is immutable",
        )]),
        sample(
            "events.k8s.io/v1",
            "Event",
            json!({
                "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "example.com/c",
                "reportingInstance": "c-1", "action": "Try", "reason": "Tried", "type": "Normal",
                "regarding": {"kind": "Pod", "namespace": "default", "name": "web"}, "note": "text",
            }),
            vec![
                ("/eventTime", Value::Null, "eventTime: Required value"),
                ("/action", json!(""), "action: Required value"),
                (
                    "/regarding/namespace",
                    json!("other"),
                    "regarding.namespace: Invalid value: \"other\": does not match event.namespace",
                ),
            ],
        ),
        sample(
            "storagemigration.k8s.io/v1",
            "StorageVersionMigration",
            json!({"spec": {"resource": {"group": "apps", "resource": "deployments"}}}),
            vec![(
                "/spec/resource/resource",
                json!(""),
                "spec.resource.resource: Required value",
            )],
        ),
        sample(
            "storagemigration.k8s.io/v1beta1",
            "StorageVersionMigration",
            json!({"spec": {"resource": {"group": "apps", "resource": "deployments"}}}),
            vec![],
        ),
        sample(
            "internal.apiserver.k8s.io/v1alpha1",
            "StorageVersion",
            json!({"spec": {}, "status": {}}),
            vec![],
        ),
    ]
}

fn certificates() -> Vec<Sample> {
    let request = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K";
    let bundle = json!({"metadata": {"name": "example.com:signer:a"}, "spec": {
        "signerName": "example.com/signer", "trustBundle": "-----BEGIN CERTIFICATE-----\n",
    }});
    let pod = json!({"spec": {
        "signerName": "example.com/signer", "podName": "web", "podUID": "1", "serviceAccountName": "default",
        "serviceAccountUID": "2", "nodeName": "n1", "nodeUID": "3", "stubPKCS10Request": "AAAA",
    }});
    vec![
        sample(
            "certificates.k8s.io/v1",
            "CertificateSigningRequest",
            json!({"spec": {"request": request, "signerName": "example.com/signer", "usages": ["client auth"]}}),
            vec![
                (
                    "/spec/request",
                    json!("AAAA"),
                    "spec.request: Invalid value: \"AAAA\": PEM block type must be CERTIFICATE REQUEST",
                ),
                (
                    "/spec/usages",
                    json!([]),
                    "spec.usages: Required value: usages is required",
                ),
                ("/spec/signerName", json!(""), "spec.signerName: Required value"),
                (
                    "/spec/signerName",
                    json!("signer"),
                    "spec.signerName: Invalid value: \"signer\": must be a fully qualified domain and path of the form \
                     'example.com/signer-name'",
                ),
                (
                    "/spec/expirationSeconds",
                    json!(599),
                    "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 \
                     minutes)",
                ),
            ],
        ),
        sample(
            "certificates.k8s.io/v1",
            "ClusterTrustBundle",
            bundle.clone(),
            vec![(
                "/spec/trustBundle",
                json!("x"),
                "spec.trustBundle: Invalid value: \"<value omitted>\": at least one trust anchor must be provided",
            )],
        ),
        sample("certificates.k8s.io/v1beta1", "ClusterTrustBundle", bundle, vec![]),
        sample(
            "certificates.k8s.io/v1",
            "PodCertificateRequest",
            pod,
            vec![("/spec/podUID", json!(""), "spec.podUID: Required value")],
        ),
    ]
}

fn flow_control() -> Vec<Sample> {
    let group = "flowcontrol.apiserver.k8s.io/v1";
    vec![
        sample(
            group,
            "FlowSchema",
            json!({"spec": {"priorityLevelConfiguration": {"name": "global-default"}, "rules": [{
                "subjects": [{"kind": "Group", "group": {"name": "system:authenticated"}}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}],
            }]}}),
            vec![
                (
                    "/spec/priorityLevelConfiguration/name",
                    json!(""),
                    "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
                ),
                (
                    "/spec/matchingPrecedence",
                    json!(10001),
                    "spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000",
                ),
                (
                    "/spec/rules/0/subjects/0/kind",
                    json!("Robot"),
                    "spec.rules[0].subjects[0].kind: Unsupported value: \"Robot\": supported values: \"Group\", \
                     \"ServiceAccount\", \"User\"",
                ),
            ],
        ),
        sample(
            group,
            "PriorityLevelConfiguration",
            json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}}}),
            vec![
                (
                    "/spec/type",
                    json!("Free"),
                    "spec.type: Unsupported value: \"Free\": supported values: \"Exempt\", \"Limited\"",
                ),
                (
                    "/spec/limited",
                    Value::Null,
                    "spec.limited: Required value: must not be empty when type is Limited",
                ),
                (
                    "/spec/limited/limitResponse/queuing/handSize",
                    json!(65),
                    "spec.limited.limitResponse.queuing.handSize: Invalid value: 65: should not be greater than queues (64)",
                ),
            ],
        ),
    ]
}
