//! The field numbers of the messages, and which fields are pointers in Go. Read once from `fields.txt`.

use std::collections::HashMap;
use std::sync::OnceLock;

/// What a field number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A field, by its name in the message: `host_ip`.
    Field(&'static str),
    /// Another message, whose fields stand in this one in JSON.
    Inlined(&'static str),
}

/// One message.
#[derive(Debug, Default)]
pub struct Message {
    targets: HashMap<u32, Target>,
}

impl Message {
    /// What this number stands for.
    pub fn target(&self, number: u32) -> Option<Target> {
        self.targets.get(&number).copied()
    }
}

/// The message of a definition.
pub fn message(definition: &str) -> Option<&'static Message> {
    static MESSAGES: OnceLock<HashMap<&'static str, Message>> = OnceLock::new();
    let messages = MESSAGES.get_or_init(|| include_str!("fields.txt").lines().filter_map(read).collect());
    messages.get(definition)
}

/// Reads `definition name=number name=number:message ...`.
fn read(line: &'static str) -> Option<(&'static str, Message)> {
    let mut words = line.split(' ');
    let definition = words.next()?;
    let mut message = Message::default();
    for word in words {
        let (name, rest) = word.split_once('=')?;
        let (number, target) = match rest.split_once(':') {
            Some((number, inlined)) => (number, Target::Inlined(inlined)),
            None => (rest, Target::Field(name)),
        };
        message.targets.insert(number.parse().ok()?, target);
    }
    Some((definition, message))
}

/// Whether a JSON name is that of a message's field: `hostIP` is `host_ip`.
pub fn is_named(json: &str, field: &str) -> bool {
    let field = field.bytes().filter(|byte| *byte != b'_');
    json.bytes()
        .map(|byte| byte.to_ascii_lowercase())
        .eq(field.map(|byte| byte.to_ascii_lowercase()))
}

/// Scalars that are pointers in Go: their zero is a value, not an absence. The definition without its package, the fields.
#[rustfmt::skip]
const POINTERS: &[(&str, &[&str])] = &[
    ("AllocatedDeviceStatus", &["shareID"]),
    ("AppArmorProfile", &["localhostProfile"]),
    ("AzureDiskVolumeSource", &["cachingMode", "fsType", "readOnly"]),
    ("AzureFilePersistentVolumeSource", &["secretNamespace"]),
    ("BasicDevice", &["allNodes", "allowMultipleAllocations", "bindsToNode", "nodeName"]),
    ("CSIDriverSpec", &[
        "attachRequired", "fsGroupPolicy", "nodeAllocatableUpdatePeriodSeconds", "podInfoOnMount", "requiresRepublish",
        "seLinuxMount", "serviceAccountTokenInSecrets", "storageCapacity",
    ]),
    ("CSIVolumeSource", &["fsType", "readOnly"]),
    ("CertificateSigningRequestSpec", &["expirationSeconds"]),
    ("ClientIPConfig", &["timeoutSeconds"]),
    ("ClusterTrustBundleProjection", &["name", "optional", "signerName"]),
    ("ConfigMap", &["immutable"]),
    ("ConfigMapEnvSource", &["optional"]),
    ("ConfigMapKeySelector", &["optional"]),
    ("ConfigMapProjection", &["optional"]),
    ("ConfigMapVolumeSource", &["defaultMode", "optional"]),
    ("Container", &["restartPolicy"]),
    ("ContainerStatus", &["started", "stopSignal"]),
    ("CronJobSpec", &[
        "failedJobsHistoryLimit", "startingDeadlineSeconds", "successfulJobsHistoryLimit", "suspend", "timeZone",
    ]),
    ("DaemonSetSpec", &["revisionHistoryLimit"]),
    ("DaemonSetStatus", &["collisionCount"]),
    ("DeleteOptions", &[
        "gracePeriodSeconds", "ignoreStoreReadErrorWithClusterBreakingPotential", "orphanDependents", "propagationPolicy",
    ]),
    ("DeploymentSpec", &["progressDeadlineSeconds", "replicas", "revisionHistoryLimit"]),
    ("DeploymentStatus", &["collisionCount", "terminatingReplicas"]),
    ("Device", &["allNodes", "allowMultipleAllocations", "bindsToNode", "nodeName"]),
    ("DeviceAttribute", &["bool", "int", "string", "version"]),
    ("DeviceClassSpec", &["extendedResourceName"]),
    ("DeviceConstraint", &["distinctAttribute", "matchAttribute"]),
    ("DeviceRequest", &["adminAccess"]),
    ("DeviceRequestAllocationResult", &["adminAccess", "shareID"]),
    ("DeviceToleration", &["tolerationSeconds"]),
    ("DownwardAPIVolumeFile", &["mode"]),
    ("DownwardAPIVolumeSource", &["defaultMode"]),
    ("Endpoint", &["hostname", "nodeName", "zone"]),
    ("EndpointAddress", &["nodeName"]),
    ("EndpointConditions", &["ready", "serving", "terminating"]),
    ("EndpointPort", &["appProtocol", "name", "port", "protocol"]),
    ("EphemeralContainer", &["restartPolicy"]),
    ("ExactDeviceRequest", &["adminAccess"]),
    ("ExemptPriorityLevelConfiguration", &["lendablePercent", "nominalConcurrencyShares"]),
    ("FCVolumeSource", &["lun"]),
    ("FileKeySelector", &["optional"]),
    ("GRPCAction", &["service"]),
    ("GlusterfsPersistentVolumeSource", &["endpointsNamespace"]),
    ("HPAScalingRules", &["selectPolicy", "stabilizationWindowSeconds"]),
    ("HTTPIngressPath", &["pathType"]),
    ("HorizontalPodAutoscalerSpec", &["minReplicas", "targetCPUUtilizationPercentage"]),
    ("HorizontalPodAutoscalerStatus", &["currentCPUUtilizationPercentage", "observedGeneration"]),
    ("HostPathVolumeSource", &["type"]),
    ("ISCSIPersistentVolumeSource", &["initiatorName"]),
    ("ISCSIVolumeSource", &["initiatorName"]),
    ("IngressClassParametersReference", &["apiGroup", "namespace", "scope"]),
    ("IngressPortStatus", &["error"]),
    ("IngressSpec", &["ingressClassName"]),
    ("JobSpec", &[
        "activeDeadlineSeconds", "backoffLimit", "backoffLimitPerIndex", "completionMode", "completions", "managedBy",
        "manualSelector", "maxFailedIndexes", "parallelism", "podReplacementPolicy", "suspend", "ttlSecondsAfterFinished",
    ]),
    ("JobStatus", &["failedIndexes", "ready", "terminating"]),
    ("KeyToPath", &["mode"]),
    ("LeaseSpec", &["holderIdentity", "leaseDurationSeconds", "leaseTransitions", "preferredHolder", "strategy"]),
    ("Lifecycle", &["stopSignal"]),
    ("LimitedPriorityLevelConfiguration", &["borrowingLimitPercent", "lendablePercent", "nominalConcurrencyShares"]),
    ("LoadBalancerIngress", &["ipMode"]),
    ("LocalVolumeSource", &["fsType"]),
    ("MatchResources", &["matchPolicy"]),
    ("MetricTarget", &["averageUtilization"]),
    ("MetricValueStatus", &["averageUtilization"]),
    ("MutatingAdmissionPolicySpec", &["failurePolicy"]),
    ("MutatingWebhook", &["failurePolicy", "matchPolicy", "reinvocationPolicy", "sideEffects", "timeoutSeconds"]),
    ("NamedRuleWithOperations", &["scope"]),
    ("NetworkPolicyPort", &["endPort", "protocol"]),
    ("NodeFeatures", &["supplementalGroupsPolicy"]),
    ("NodeRuntimeHandlerFeatures", &["recursiveReadOnlyMounts", "userNamespaces"]),
    ("NodeSwapStatus", &["capacity"]),
    ("ObjectMeta", &["deletionGracePeriodSeconds"]),
    ("OwnerReference", &["blockOwnerDeletion", "controller"]),
    ("ParamRef", &["parameterNotFoundAction"]),
    ("PersistentVolumeClaimSpec", &["storageClassName", "volumeAttributesClassName", "volumeMode"]),
    ("PersistentVolumeClaimStatus", &["currentVolumeAttributesClassName"]),
    ("PersistentVolumeSpec", &["volumeAttributesClassName", "volumeMode"]),
    ("PodCertificateProjection", &["maxExpirationSeconds"]),
    ("PodDNSConfigOption", &["value"]),
    ("PodDisruptionBudgetSpec", &["unhealthyPodEvictionPolicy"]),
    ("PodFailurePolicyOnExitCodesRequirement", &["containerName"]),
    ("PodResourceClaim", &["resourceClaimName", "resourceClaimTemplateName"]),
    ("PodResourceClaimStatus", &["resourceClaimName"]),
    ("PodSecurityContext", &[
        "fsGroup", "fsGroupChangePolicy", "runAsGroup", "runAsNonRoot", "runAsUser", "seLinuxChangePolicy",
        "supplementalGroupsPolicy",
    ]),
    ("PodSpec", &[
        "activeDeadlineSeconds", "automountServiceAccountToken", "enableServiceLinks", "hostUsers", "hostnameOverride",
        "preemptionPolicy", "priority", "runtimeClassName", "setHostnameAsFQDN", "shareProcessNamespace",
        "terminationGracePeriodSeconds",
    ]),
    ("PortStatus", &["error"]),
    ("Preconditions", &["resourceVersion", "uid"]),
    ("PriorityClass", &["preemptionPolicy"]),
    ("Probe", &["terminationGracePeriodSeconds"]),
    ("ProjectedVolumeSource", &["defaultMode"]),
    ("ReplicaSetSpec", &["replicas"]),
    ("ReplicaSetStatus", &["terminatingReplicas"]),
    ("ReplicationControllerSpec", &["replicas"]),
    ("ResourceSliceSpec", &["allNodes", "nodeName", "perDeviceNodeSelection"]),
    ("RollingUpdateStatefulSetStrategy", &["partition"]),
    ("RuleWithOperations", &["scope"]),
    ("SeccompProfile", &["localhostProfile"]),
    ("Secret", &["immutable"]),
    ("SecretEnvSource", &["optional"]),
    ("SecretKeySelector", &["optional"]),
    ("SecretProjection", &["optional"]),
    ("SecretVolumeSource", &["defaultMode", "optional"]),
    ("SecurityContext", &[
        "allowPrivilegeEscalation", "privileged", "procMount", "readOnlyRootFilesystem", "runAsGroup", "runAsNonRoot",
        "runAsUser",
    ]),
    ("ServiceAccount", &["automountServiceAccountToken"]),
    ("ServiceAccountTokenProjection", &["expirationSeconds"]),
    ("ServicePort", &["appProtocol"]),
    ("ServiceReference", &["path", "port"]),
    ("ServiceSpec", &[
        "allocateLoadBalancerNodePorts", "internalTrafficPolicy", "ipFamilyPolicy", "loadBalancerClass",
        "trafficDistribution",
    ]),
    ("StatefulSetSpec", &["replicas", "revisionHistoryLimit"]),
    ("StatefulSetStatus", &["collisionCount"]),
    ("StorageClass", &["allowVolumeExpansion", "reclaimPolicy", "volumeBindingMode"]),
    ("SuccessPolicyRule", &["succeededCount", "succeededIndexes"]),
    ("TokenRequest", &["expirationSeconds"]),
    ("TokenRequestSpec", &["expirationSeconds"]),
    ("Toleration", &["tolerationSeconds"]),
    ("TopologySpreadConstraint", &["minDomains", "nodeAffinityPolicy", "nodeTaintsPolicy"]),
    ("TypedLocalObjectReference", &["apiGroup"]),
    ("TypedObjectReference", &["apiGroup", "namespace"]),
    ("ValidatingAdmissionPolicySpec", &["failurePolicy"]),
    ("ValidatingWebhook", &["failurePolicy", "matchPolicy", "sideEffects", "timeoutSeconds"]),
    ("Validation", &["reason"]),
    ("VolumeAttachmentSource", &["persistentVolumeName"]),
    ("VolumeError", &["errorCode"]),
    ("VolumeMount", &["mountPropagation", "recursiveReadOnly"]),
    ("VolumeMountStatus", &["recursiveReadOnly"]),
    ("VolumeNodeResources", &["count"]),
    ("WebhookClientConfig", &["url"]),
    ("WindowsSecurityContextOptions", &["gmsaCredentialSpec", "gmsaCredentialSpecName", "hostProcess", "runAsUserName"]),
];

/// Whether a field is a pointer in Go.
pub fn is_pointer(definition: &str, field: &str) -> bool {
    let short = definition.rsplit('.').next().unwrap_or(definition);
    let at = POINTERS.binary_search_by_key(&short, |(name, _)| name);
    at.is_ok_and(|at| POINTERS[at].1.contains(&field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Schemas;

    #[test]
    fn pointers_are_sorted_and_name_fields_that_there_are() {
        assert!(POINTERS.is_sorted_by_key(|(name, _)| *name));
        for (short, fields) in POINTERS {
            let known = |field: &str| {
                Schemas::built_in().names().any(|name| {
                    name.rsplit('.').next() == Some(short)
                        && Schemas::built_in()
                            .definition(name)
                            .is_some_and(|definition| definition.field(field).is_some())
                })
            };
            for field in *fields {
                assert!(known(field), "{short}.{field}");
            }
        }
    }
}
