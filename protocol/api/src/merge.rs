//! How the lists and maps of the built-in types merge: the list types and keys of server-side apply, and the keys of
//! strategic merge patches. k8s-openapi's schemas do not carry these markers, so they stand here as one table, in the
//! names of Kubernetes' OpenAPI documents. `schema` reads it into the shapes, `openapi` prints it as `x-kubernetes-*`.
//!
//! A list that is not in the table is atomic for appliers and is replaced by patches, a map is granular.

use std::borrow::Cow;

use crate::schema::Shape;

/// How server-side apply merges a list: `x-kubernetes-list-type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    /// Owned and replaced whole.
    Atomic,
    /// Each scalar item has its owners.
    Set,
    /// Each item is named by these fields and has its owners. A key that may be missing has a default.
    Map(&'static [(&'static str, Option<&'static str>)]),
}

const NAME: ListType = ListType::Map(&[("name", None)]);
const RULE: ListType = ListType::Map(&[("rule", None)]);
const TYPE: ListType = ListType::Map(&[("type", None)]);
const IP: ListType = ListType::Map(&[("ip", None)]);
const UID: ListType = ListType::Map(&[("uid", None)]);
const MOUNT_PATH: ListType = ListType::Map(&[("mountPath", None)]);
const DEVICE_PATH: ListType = ListType::Map(&[("devicePath", None)]);
const CONTAINER_PORT: ListType = ListType::Map(&[("containerPort", None), ("protocol", Some("TCP"))]);
const SERVICE_PORT: ListType = ListType::Map(&[("port", None), ("protocol", Some("TCP"))]);
const SPREAD: ListType = ListType::Map(&[("topologyKey", None), ("whenUnsatisfiable", None)]);
const DEVICE: ListType = ListType::Map(&[("driver", None), ("device", None), ("pool", None), ("shareID", None)]);

/// One list: its definition without the `io.k8s.` prefix, its field, its list type, and its patch merge key: `None`
/// where a strategic merge patch replaces it, the empty key where it merges primitive items.
type Row = (&'static str, &'static str, ListType, Option<&'static str>);

#[rustfmt::skip]
const LISTS: &[Row] = &[
    ("api.admissionregistration.v1.MutatingAdmissionPolicySpec", "matchConditions", NAME, Some("name")),
    ("api.admissionregistration.v1.MutatingAdmissionPolicySpec", "variables", ListType::Atomic, None),
    ("api.admissionregistration.v1.MutatingWebhook", "matchConditions", NAME, Some("name")),
    ("api.admissionregistration.v1.MutatingWebhookConfiguration", "webhooks", NAME, Some("name")),
    ("api.admissionregistration.v1.ValidatingAdmissionPolicyBindingSpec", "validationActions", ListType::Set, None),
    ("api.admissionregistration.v1.ValidatingAdmissionPolicySpec", "matchConditions", NAME, Some("name")),
    ("api.admissionregistration.v1.ValidatingAdmissionPolicySpec", "variables", NAME, Some("name")),
    ("api.admissionregistration.v1.ValidatingAdmissionPolicyStatus", "conditions", TYPE, None),
    ("api.admissionregistration.v1.ValidatingWebhook", "matchConditions", NAME, Some("name")),
    ("api.admissionregistration.v1.ValidatingWebhookConfiguration", "webhooks", NAME, Some("name")),
    ("api.apps.v1.DaemonSetStatus", "conditions", TYPE, Some("type")),
    ("api.apps.v1.DeploymentStatus", "conditions", TYPE, Some("type")),
    ("api.apps.v1.ReplicaSetStatus", "conditions", TYPE, Some("type")),
    ("api.apps.v1.StatefulSetStatus", "conditions", TYPE, Some("type")),
    ("api.autoscaling.v2.HorizontalPodAutoscalerStatus", "conditions", TYPE, Some("type")),
    ("api.batch.v1.JobStatus", "conditions", ListType::Atomic, Some("type")),
    ("api.batch.v1.PodFailurePolicyOnExitCodesRequirement", "values", ListType::Set, None),
    ("api.batch.v1.UncountedTerminatedPods", "failed", ListType::Set, None),
    ("api.batch.v1.UncountedTerminatedPods", "succeeded", ListType::Set, None),
    ("api.certificates.v1.CertificateSigningRequestStatus", "conditions", TYPE, None),
    ("api.core.v1.ComponentStatus", "conditions", TYPE, Some("type")),
    ("api.core.v1.Container", "env", NAME, Some("name")),
    ("api.core.v1.Container", "ports", CONTAINER_PORT, Some("containerPort")),
    ("api.core.v1.Container", "volumeDevices", DEVICE_PATH, Some("devicePath")),
    ("api.core.v1.Container", "volumeMounts", MOUNT_PATH, Some("mountPath")),
    ("api.core.v1.ContainerRestartRuleOnExitCodes", "values", ListType::Set, None),
    ("api.core.v1.ContainerStatus", "allocatedResourcesStatus", NAME, Some("name")),
    ("api.core.v1.ContainerStatus", "volumeMounts", MOUNT_PATH, Some("mountPath")),
    ("api.core.v1.EphemeralContainer", "env", NAME, Some("name")),
    ("api.core.v1.EphemeralContainer", "ports", CONTAINER_PORT, Some("containerPort")),
    ("api.core.v1.EphemeralContainer", "volumeDevices", DEVICE_PATH, Some("devicePath")),
    ("api.core.v1.EphemeralContainer", "volumeMounts", MOUNT_PATH, Some("mountPath")),
    ("api.core.v1.NamespaceStatus", "conditions", TYPE, Some("type")),
    ("api.core.v1.NodeSpec", "podCIDRs", ListType::Set, Some("")),
    ("api.core.v1.NodeStatus", "addresses", TYPE, Some("type")),
    ("api.core.v1.NodeStatus", "conditions", TYPE, Some("type")),
    ("api.core.v1.PersistentVolumeClaimStatus", "conditions", TYPE, Some("type")),
    ("api.core.v1.PodSpec", "containers", NAME, Some("name")),
    ("api.core.v1.PodSpec", "ephemeralContainers", NAME, Some("name")),
    ("api.core.v1.PodSpec", "evictionResponders", NAME, Some("name")),
    ("api.core.v1.PodSpec", "hostAliases", IP, Some("ip")),
    ("api.core.v1.PodSpec", "imagePullSecrets", NAME, Some("name")),
    ("api.core.v1.PodSpec", "initContainers", NAME, Some("name")),
    ("api.core.v1.PodSpec", "resourceClaims", NAME, Some("name")),
    ("api.core.v1.PodSpec", "schedulingGates", NAME, Some("name")),
    ("api.core.v1.PodSpec", "topologySpreadConstraints", SPREAD, Some("topologyKey")),
    ("api.core.v1.PodSpec", "volumes", NAME, Some("name")),
    ("api.core.v1.PodStatus", "conditions", TYPE, Some("type")),
    ("api.core.v1.PodStatus", "hostIPs", ListType::Atomic, Some("ip")),
    ("api.core.v1.PodStatus", "podIPs", IP, Some("ip")),
    ("api.core.v1.PodStatus", "resourceClaimStatuses", NAME, Some("name")),
    ("api.core.v1.ReplicationControllerStatus", "conditions", TYPE, Some("type")),
    ("api.core.v1.ResourceRequirements", "claims", NAME, None),
    ("api.core.v1.ResourceStatus", "resources", ListType::Map(&[("resourceID", None)]), None),
    ("api.core.v1.ServiceAccount", "secrets", NAME, Some("name")),
    ("api.core.v1.ServiceSpec", "ports", SERVICE_PORT, Some("port")),
    ("api.core.v1.ServiceStatus", "conditions", TYPE, Some("type")),
    ("api.core.v1.VolumeResourceRequirements", "claims", NAME, None),
    ("api.discovery.v1.Endpoint", "addresses", ListType::Set, None),
    ("api.flowcontrol.v1.FlowSchemaStatus", "conditions", TYPE, Some("type")),
    ("api.flowcontrol.v1.NonResourcePolicyRule", "nonResourceURLs", ListType::Set, None),
    ("api.flowcontrol.v1.NonResourcePolicyRule", "verbs", ListType::Set, None),
    ("api.flowcontrol.v1.PriorityLevelConfigurationStatus", "conditions", TYPE, Some("type")),
    ("api.flowcontrol.v1.ResourcePolicyRule", "apiGroups", ListType::Set, None),
    ("api.flowcontrol.v1.ResourcePolicyRule", "namespaces", ListType::Set, None),
    ("api.flowcontrol.v1.ResourcePolicyRule", "resources", ListType::Set, None),
    ("api.flowcontrol.v1.ResourcePolicyRule", "verbs", ListType::Set, None),
    ("api.networking.v1.ServiceCIDRStatus", "conditions", TYPE, Some("type")),
    ("api.policy.v1.PodDisruptionBudgetStatus", "conditions", TYPE, Some("type")),
    ("api.resource.v1.AllocatedDeviceStatus", "conditions", TYPE, None),
    ("api.resource.v1.ResourceClaimStatus", "devices", DEVICE, None),
    ("api.resource.v1.ResourceClaimStatus", "reservedFor", UID, Some("uid")),
    ("api.storage.v1.CSIDriverSpec", "volumeLifecycleModes", ListType::Set, None),
    ("api.storage.v1.CSINodeSpec", "drivers", NAME, Some("name")),
    ("apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps", "x-kubernetes-validations", RULE, Some("rule")),
    ("apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionStatus", "conditions", TYPE, None),
    ("apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers", ListType::Set, Some("")),
    ("apimachinery.pkg.apis.meta.v1.ObjectMeta", "ownerReferences", UID, Some("uid")),
    ("kube-aggregator.pkg.apis.apiregistration.v1.APIServiceStatus", "conditions", TYPE, Some("type")),
];

/// Maps that appliers own whole.
const ATOMIC_MAPS: &[(&str, &str)] = &[
    ("api.core.v1.PodSpec", "nodeSelector"),
    ("api.core.v1.ReplicationControllerSpec", "selector"),
    ("api.core.v1.ServiceSpec", "selector"),
    ("api.node.v1.Scheduling", "nodeSelector"),
];

/// Structures that appliers own whole.
const ATOMIC_STRUCTS: &[&str] = &[
    "api.admissionregistration.v1.MatchResources",
    "api.admissionregistration.v1.NamedRuleWithOperations",
    "api.admissionregistration.v1.ParamKind",
    "api.admissionregistration.v1.ParamRef",
    "api.autoscaling.v1.CrossVersionObjectReference",
    "api.core.v1.ConfigMapKeySelector",
    "api.core.v1.EndpointAddress",
    "api.core.v1.EndpointPort",
    "api.core.v1.FileKeySelector",
    "api.core.v1.LocalObjectReference",
    "api.core.v1.NodeSelector",
    "api.core.v1.NodeSelectorTerm",
    "api.core.v1.ObjectFieldSelector",
    "api.core.v1.ObjectReference",
    "api.core.v1.ResourceFieldSelector",
    "api.core.v1.ScopeSelector",
    "api.core.v1.ScopedResourceSelectorRequirement",
    "api.core.v1.SecretKeySelector",
    "api.core.v1.SecretReference",
    "api.core.v1.TopologySelectorTerm",
    "api.core.v1.TypedLocalObjectReference",
    "api.discovery.v1.EndpointPort",
    "api.rbac.v1.RoleRef",
    "api.rbac.v1.Subject",
    "apimachinery.pkg.apis.meta.v1.LabelSelector",
];

/// Fields whose strategic merge replaces the whole value.
const REPLACED: &[(&str, &str)] = &[("api.policy.v1.PodDisruptionBudgetSpec", "selector")];

/// Fields that a strategic merge patch may prune with `$retainKeys`, for the OpenAPI documents.
const RETAIN_KEYS: &[(&str, &str)] = &[
    ("api.apps.v1.DeploymentSpec", "strategy"),
    ("api.core.v1.PodSpec", "resourceClaims"),
    ("api.core.v1.PodSpec", "volumes"),
    ("api.core.v1.PodStatus", "resourceClaimStatuses"),
];

/// A definition's name without the prefix, and an alpha or beta version as the stable one that it becomes: lists keep how
/// they merge.
fn short(definition: &str) -> Cow<'_, str> {
    let definition = definition.strip_prefix("io.k8s.").unwrap_or(definition);
    let unstable = |part: &&str| {
        let digits = part.strip_prefix('v').and_then(|rest| rest.bytes().next());
        digits.is_some_and(|first| first.is_ascii_digit()) && (part.contains("alpha") || part.contains("beta"))
    };
    match definition.split('.').find(unstable) {
        Some(version) => Cow::Owned(definition.replacen(version, "v1", 1)),
        None => Cow::Borrowed(definition),
    }
}

fn row(definition: &str, field: &str) -> Option<&'static Row> {
    let definition = short(definition);
    LISTS.iter().find(|row| row.0 == definition && row.1 == field)
}

/// How a list merges: for appliers, and for strategic merge patches.
pub fn list(definition: &str, field: &str, item: &Shape) -> (ListType, Option<&'static str>) {
    match row(definition, field) {
        Some((_, _, list_type, patch_key)) => (*list_type, *patch_key),
        // Conditions of every kind are keyed by type: the convention of the API.
        None if field == "conditions" && *item == Shape::Struct("io.k8s.apimachinery.pkg.apis.meta.v1.Condition") => {
            (TYPE, None)
        }
        None => (ListType::Atomic, None),
    }
}

/// Whether a map is owned whole.
pub fn atomic_map(definition: &str, field: &str) -> bool {
    ATOMIC_MAPS.contains(&(&*short(definition), field))
}

/// Whether a structure is owned whole.
pub fn atomic_struct(definition: &str) -> bool {
    ATOMIC_STRUCTS.contains(&&*short(definition))
}

/// Whether a strategic merge patch replaces the field.
pub fn replaces(definition: &str, field: &str) -> bool {
    REPLACED.contains(&(&*short(definition), field))
}

/// Whether the field's patch strategy includes `retainKeys`.
pub fn retains_keys(definition: &str, field: &str) -> bool {
    RETAIN_KEYS.contains(&(&*short(definition), field))
}
