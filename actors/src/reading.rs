//! Lean readings of stored objects: the fields that deciding code looks at, and none of the others, so that observing an
//! event costs little. Whatever is written back is the whole object, never a reading.

use std::collections::BTreeMap;

use protocol::UnixMillis;
use serde::Deserialize;
use serde_json::Value;

/// `metadata`, as far as it is read.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Uid.
    pub uid: String,
    /// Counts changes of the spec.
    pub generation: i64,
    /// RFC 3339.
    pub creation_timestamp: Option<String>,
    /// RFC 3339; set while the object is being deleted.
    pub deletion_timestamp: Option<String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

impl Metadata {
    /// When the object was created; the epoch when that cannot be read.
    pub fn created_at(&self) -> UnixMillis {
        instant(self.creation_timestamp.as_deref()).unwrap_or_default()
    }
}

/// Parses an optional RFC 3339 time.
pub fn instant(text: Option<&str>) -> Option<UnixMillis> {
    text.and_then(api::time::parse)
}

/// An entry of `status.conditions`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// A word in CamelCase.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// When `status` last changed.
    pub last_transition_time: Option<String>,
    /// When it was last written (Deployments have it).
    pub last_update_time: Option<String>,
}

/// The condition of a type.
pub fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.kind == kind)
}

/// A pod, as the control plane reads it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Pod {
    /// Metadata.
    pub metadata: Metadata,
    /// Specification.
    pub spec: PodSpec,
    /// Status.
    pub status: PodStatus,
}

/// `spec` of a pod.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct PodSpec {
    /// Where it is bound to.
    pub node_name: String,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// Containers, for their ports.
    pub containers: Vec<Container>,
    /// Containers that start first and go on.
    pub init_containers: Vec<Container>,
    /// For DNS records.
    pub hostname: String,
    /// For DNS records.
    pub subdomain: String,
    /// Seconds.
    pub termination_grace_period_seconds: Option<i64>,
    /// Whether it uses the node's network.
    pub host_network: bool,
}

/// A container, as far as its ports go.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Container {
    /// Name.
    pub name: String,
    /// Ports.
    pub ports: Vec<ContainerPort>,
}

/// A port of a container.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerPort {
    /// Name.
    pub name: String,
    /// Number.
    pub container_port: i32,
    /// `TCP` when absent.
    pub protocol: Option<String>,
}

/// `status` of a pod.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct PodStatus {
    /// Pending, Running, Succeeded, Failed, Unknown.
    pub phase: String,
    /// Conditions.
    pub conditions: Vec<Condition>,
    /// Its address.
    #[serde(rename = "podIP")]
    pub pod_ip: String,
    /// Its addresses.
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<PodIp>,
    /// States of its containers.
    pub container_statuses: Vec<ContainerStatus>,
}

/// An address of a pod.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct PodIp {
    /// The address.
    pub ip: String,
}

/// State of a container.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerStatus {
    /// How often it was restarted.
    pub restart_count: i64,
}

impl Pod {
    /// Whether it has ended for good.
    pub fn is_finished(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Whether it is being deleted.
    pub fn is_deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Whether it counts as a replica: neither ended nor being deleted.
    pub fn is_active(&self) -> bool {
        !self.is_finished() && !self.is_deleting()
    }

    /// Since when its Ready condition is True.
    pub fn ready_since(&self) -> Option<UnixMillis> {
        let ready = condition(&self.status.conditions, "Ready").filter(|ready| ready.status == "True")?;
        Some(instant(ready.last_transition_time.as_deref()).unwrap_or_default())
    }

    /// Whether its Ready condition is True.
    pub fn is_ready(&self) -> bool {
        self.ready_since().is_some()
    }

    /// Its addresses: `podIPs`, or `podIP` alone.
    pub fn addresses(&self) -> Vec<&str> {
        let several: Vec<&str> = self
            .status
            .pod_ips
            .iter()
            .map(|ip| ip.ip.as_str())
            .filter(|ip| !ip.is_empty())
            .collect();
        if several.is_empty() && !self.status.pod_ip.is_empty() {
            vec![&self.status.pod_ip]
        } else {
            several
        }
    }
}

/// A taint of a node.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule`, `NoExecute`.
    pub effect: String,
    /// When it was put on; NoExecute taints have it.
    pub time_added: Option<String>,
}

/// A toleration of a pod.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Toleration {
    /// Empty for all keys.
    pub key: String,
    /// `Equal` when empty, or `Exists`.
    pub operator: String,
    /// Value for `Equal`.
    pub value: String,
    /// Empty for all effects.
    pub effect: String,
    /// How long a NoExecute taint is tolerated; `None` for ever.
    pub toleration_seconds: Option<i64>,
}

impl Toleration {
    /// Whether it tolerates a taint: Kubernetes' `ToleratesTaint`.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        let effect = self.effect.is_empty() || self.effect == taint.effect;
        let key = self.key.is_empty() || self.key == taint.key;
        let value = match self.operator.as_str() {
            "Exists" => true,
            "" | "Equal" => !self.key.is_empty() && self.value == taint.value,
            _ => false,
        };
        effect && key && value
    }
}

/// A ReplicaSet.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct ReplicaSet {
    /// Metadata.
    pub metadata: Metadata,
    /// Specification.
    pub spec: ReplicaSetSpec,
    /// Status.
    pub status: ReplicaSetStatus,
}

/// `spec` of a ReplicaSet.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct ReplicaSetSpec {
    /// How many; one when absent.
    pub replicas: Option<i64>,
    /// Seconds that a pod must be ready to count as available.
    pub min_ready_seconds: i64,
    /// The label selector.
    pub selector: Value,
    /// The pod template.
    pub template: Value,
}

/// `status` of a ReplicaSet.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct ReplicaSetStatus {
    /// Active pods.
    pub replicas: i64,
    /// Pods with all labels of the template.
    pub fully_labeled_replicas: i64,
    /// Ready pods.
    pub ready_replicas: i64,
    /// Pods that are ready long enough.
    pub available_replicas: i64,
    /// Pods that are being deleted.
    pub terminating_replicas: Option<i64>,
    /// The generation that the status is about.
    pub observed_generation: i64,
    /// Conditions.
    pub conditions: Vec<Condition>,
}

impl ReplicaSet {
    /// How many pods it wants.
    pub fn replicas(&self) -> i64 {
        self.spec.replicas.unwrap_or(1)
    }
}

/// A Deployment.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Deployment {
    /// Metadata.
    pub metadata: Metadata,
    /// Specification.
    pub spec: DeploymentSpec,
    /// Status.
    pub status: DeploymentStatus,
}

/// `spec` of a Deployment.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct DeploymentSpec {
    /// How many; one when absent.
    pub replicas: Option<i64>,
    /// Seconds that a pod must be ready to count as available.
    pub min_ready_seconds: i64,
    /// The label selector.
    pub selector: Value,
    /// The pod template.
    pub template: Value,
    /// How to replace pods.
    pub strategy: Strategy,
    /// Old ReplicaSets to keep; ten when absent.
    pub revision_history_limit: Option<i64>,
    /// Whether it only scales.
    pub paused: bool,
    /// Seconds without progress that count as failure; `i32::MAX` for never.
    pub progress_deadline_seconds: Option<i64>,
}

/// `spec.strategy` of a Deployment.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Strategy {
    /// `RollingUpdate` when empty, or `Recreate`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Parameters of `RollingUpdate`.
    pub rolling_update: RollingUpdate,
}

/// Bounds of a rolling update; each a number or a percentage.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct RollingUpdate {
    /// How many pods may exist beyond the wanted ones.
    pub max_surge: Value,
    /// How many may be missing.
    pub max_unavailable: Value,
}

/// `status` of a Deployment.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct DeploymentStatus {
    /// Active pods.
    pub replicas: i64,
    /// Active pods of the newest template.
    pub updated_replicas: i64,
    /// Ready pods.
    pub ready_replicas: i64,
    /// Available pods.
    pub available_replicas: i64,
    /// How often a hash was taken by another template.
    pub collision_count: i64,
    /// Conditions.
    pub conditions: Vec<Condition>,
}

/// A Node.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Node {
    /// Metadata.
    pub metadata: Metadata,
    /// Specification.
    pub spec: NodeSpec,
    /// Status.
    pub status: NodeStatus,
}

/// `spec` of a Node.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeSpec {
    /// Range of its pods' addresses.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    /// Taints.
    pub taints: Vec<Taint>,
    /// Whether it takes no new pods.
    pub unschedulable: bool,
}

/// `status` of a Node.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeStatus {
    /// Conditions.
    pub conditions: Vec<Condition>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tolerations_match_taints_as_kubernetes_documents() {
        let taint = Taint {
            key: "k".into(),
            value: "v".into(),
            effect: "NoExecute".into(),
            time_added: None,
        };
        let cases = [
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}), false),
            (json!({"key": "k", "value": "v", "effect": "NoExecute"}), true),
            (json!({"key": "k", "operator": "Equal", "value": "w"}), false),
            (json!({"key": "other", "operator": "Exists"}), false),
            (json!({"operator": "Equal", "value": "v"}), false),
        ];
        for (toleration, expected) in cases {
            let parsed: Toleration = serde_json::from_value(toleration.clone()).unwrap();
            assert_eq!(parsed.tolerates(&taint), expected, "{toleration}");
        }
    }

    #[test]
    fn a_pod_is_active_until_it_ends_or_is_deleted() {
        let cases = [
            (json!({"status": {"phase": "Running"}}), true),
            (json!({}), true),
            (json!({"status": {"phase": "Failed"}}), false),
            (
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}}),
                false,
            ),
        ];
        for (pod, expected) in cases {
            assert_eq!(
                serde_json::from_value::<Pod>(pod.clone()).unwrap().is_active(),
                expected,
                "{pod}"
            );
        }
    }
}
