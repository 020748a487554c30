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

/// Scalars that are pointers in Go: their zero is a value, not an absence. The definition without its package, the field.
#[rustfmt::skip]
const POINTERS: &[(&str, &str)] = &[
    ("ConfigMap", "immutable"), ("ConfigMapEnvSource", "optional"), ("ConfigMapKeySelector", "optional"),
    ("ConfigMapProjection", "optional"), ("ConfigMapVolumeSource", "defaultMode"), ("ConfigMapVolumeSource", "optional"),
    ("ContainerStatus", "started"), ("DeleteOptions", "gracePeriodSeconds"), ("DeleteOptions", "orphanDependents"),
    ("DeleteOptions", "propagationPolicy"), ("DeploymentSpec", "progressDeadlineSeconds"),
    ("DeploymentSpec", "replicas"), ("DeploymentSpec", "revisionHistoryLimit"), ("DownwardAPIVolumeFile", "mode"),
    ("DownwardAPIVolumeSource", "defaultMode"), ("EndpointConditions", "ready"), ("EndpointConditions", "serving"),
    ("EndpointConditions", "terminating"), ("EndpointPort", "appProtocol"), ("EndpointPort", "name"),
    ("EndpointPort", "port"), ("EndpointPort", "protocol"), ("GRPCAction", "service"), ("HostPathVolumeSource", "type"),
    ("KeyToPath", "mode"), ("LeaseSpec", "holderIdentity"), ("LeaseSpec", "leaseDurationSeconds"),
    ("LeaseSpec", "leaseTransitions"), ("ObjectMeta", "deletionGracePeriodSeconds"),
    ("OwnerReference", "blockOwnerDeletion"), ("OwnerReference", "controller"), ("PersistentVolumeClaimSpec", "storageClassName"),
    ("PodDNSConfigOption", "value"), ("PodSecurityContext", "fsGroup"), ("PodSecurityContext", "runAsGroup"),
    ("PodSecurityContext", "runAsNonRoot"), ("PodSecurityContext", "runAsUser"), ("PodSpec", "activeDeadlineSeconds"),
    ("PodSpec", "automountServiceAccountToken"), ("PodSpec", "enableServiceLinks"), ("PodSpec", "hostUsers"),
    ("PodSpec", "priority"), ("PodSpec", "setHostnameAsFQDN"), ("PodSpec", "shareProcessNamespace"),
    ("PodSpec", "terminationGracePeriodSeconds"), ("Preconditions", "resourceVersion"), ("Preconditions", "uid"),
    ("Probe", "terminationGracePeriodSeconds"), ("ProjectedVolumeSource", "defaultMode"), ("ReplicaSetSpec", "replicas"),
    ("Secret", "immutable"), ("SecretEnvSource", "optional"), ("SecretKeySelector", "optional"),
    ("SecretProjection", "optional"), ("SecretVolumeSource", "defaultMode"), ("SecretVolumeSource", "optional"),
    ("SecurityContext", "allowPrivilegeEscalation"), ("SecurityContext", "privileged"),
    ("SecurityContext", "readOnlyRootFilesystem"), ("SecurityContext", "runAsGroup"),
    ("SecurityContext", "runAsNonRoot"), ("SecurityContext", "runAsUser"), ("ServiceAccount", "automountServiceAccountToken"),
    ("ServiceAccountTokenProjection", "expirationSeconds"), ("ServiceSpec", "allocateLoadBalancerNodePorts"),
    ("Toleration", "tolerationSeconds"), ("TopologySpreadConstraint", "minDomains"),
];

/// Whether a field is a pointer in Go.
pub fn is_pointer(definition: &str, field: &str) -> bool {
    let short = definition.rsplit('.').next().unwrap_or(definition);
    POINTERS.contains(&(short, field))
}
