//! The Node object and the Lease by which a node shows that it lives (KEP-589): what they say, and when they must be
//! written. Pure.

use std::collections::BTreeMap;

use protocol::UnixMillis;
use serde_json::{Value, json};

/// A status that did not change is written again after this time, so that its heartbeat is never older.
pub const STATUS_PERIOD_MS: u64 = 300_000;
/// How often the Lease is renewed.
pub const LEASE_PERIOD_MS: u64 = 10_000;
/// For how long a Lease counts.
pub const LEASE_DURATION_SECONDS: u64 = 40;

/// What a machine is; collected once by the node process.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// The node's name.
    pub name: String,
    /// Its address in the cluster.
    pub address: String,
    /// The port of its API.
    pub https_port: u16,
    /// Cores, in thousandths.
    pub cpu_milli: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Disk below the data directory in bytes.
    pub ephemeral_storage_bytes: u64,
    /// How many pods it takes.
    pub pods_max: u64,
    /// Kept for the system: cpu in thousandths.
    pub reserved_cpu_milli: u64,
    /// Kept for the system: memory in bytes.
    pub reserved_memory_bytes: u64,
    /// Labels from its configuration.
    pub labels: BTreeMap<String, String>,
    /// Taints from its configuration: key, value, effect.
    pub taints: Vec<(String, String, String)>,
    /// `kubernetes.io/arch`: `amd64`, `arm64`.
    pub architecture: String,
    /// From `uname`.
    pub kernel_version: String,
    /// From `/etc/os-release`.
    pub os_image: String,
    /// From `/etc/machine-id`.
    pub machine_id: String,
    /// From the kernel's `boot_id`.
    pub boot_id: String,
    /// This program's version.
    pub version: String,
    /// The Kubernetes release whose API is served.
    pub kubernetes_version: String,
}

/// The labels that every node has, and those of its configuration.
pub fn labels(facts: &NodeFacts) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), facts.name.clone()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), facts.architecture.clone()),
    ]);
    labels.extend(facts.labels.clone());
    labels
}

/// The object by which a machine registers itself.
pub fn registration(facts: &NodeFacts) -> Value {
    let taints: Vec<Value> = facts
        .taints
        .iter()
        .map(|(key, value, effect)| json!({"key": key, "value": value, "effect": effect}))
        .collect();
    let mut node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": facts.name, "labels": labels(facts)},
        "spec": {},
    });
    if !taints.is_empty() {
        node["spec"]["taints"] = Value::Array(taints);
    }
    node
}

/// The status that the node wants to show. `unready` says why its pods cannot run, if so. Conditions that others own are
/// kept, and times of transition change with the condition only.
pub fn status(facts: &NodeFacts, stored: &Value, unready: Option<&str>, now: UnixMillis) -> Value {
    let kibibytes = |bytes: u64| format!("{}Ki", bytes / 1024);
    let resources = |cpu: u64, memory: u64| {
        json!({
            "cpu": if cpu.is_multiple_of(1000) { (cpu / 1000).to_string() } else { format!("{cpu}m") },
            "memory": kibibytes(memory),
            "ephemeral-storage": kibibytes(facts.ephemeral_storage_bytes),
            "pods": facts.pods_max.to_string(),
        })
    };
    let pressure = |kind: &str, reason: &str, message: &str| condition(stored, kind, "False", reason, message, now);
    let ready = match unready {
        None => condition(stored, "Ready", "True", "KubeletReady", "the node runs pods", now),
        Some(why) => condition(stored, "Ready", "False", "KubeletNotReady", why, now),
    };
    let own = [
        pressure(
            "MemoryPressure",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        pressure(
            "DiskPressure",
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure",
        ),
        pressure(
            "PIDPressure",
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        ),
        ready,
    ];
    let stored_conditions = stored["status"]["conditions"].as_array().into_iter().flatten();
    let foreign = stored_conditions.filter(|known| own.iter().all(|own| own["type"] != known["type"]));
    let conditions: Vec<Value> = foreign.cloned().chain(own.iter().cloned()).collect();
    json!({
        "addresses": [
            {"type": "InternalIP", "address": facts.address},
            {"type": "Hostname", "address": facts.name},
        ],
        "capacity": resources(facts.cpu_milli, facts.memory_bytes),
        "allocatable": resources(
            facts.cpu_milli.saturating_sub(facts.reserved_cpu_milli),
            facts.memory_bytes.saturating_sub(facts.reserved_memory_bytes),
        ),
        "conditions": conditions,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": facts.https_port}},
        "nodeInfo": {
            "architecture": facts.architecture, "bootID": facts.boot_id,
            "containerRuntimeVersion": format!("actorium://{}", facts.version),
            "kernelVersion": facts.kernel_version, "kubeProxyVersion": "",
            "kubeletVersion": facts.kubernetes_version, "machineID": facts.machine_id,
            "operatingSystem": "linux", "osImage": facts.os_image, "systemUUID": facts.machine_id,
        },
    })
}

fn condition(stored: &Value, kind: &str, status: &str, reason: &str, message: &str, now: UnixMillis) -> Value {
    let known = stored["status"]["conditions"].as_array().into_iter().flatten();
    let before = known
        .clone()
        .find(|known| known["type"] == kind && known["status"] == status);
    let since = before.map_or_else(|| json!(now.rfc3339()), |before| before["lastTransitionTime"].clone());
    json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": now.rfc3339(), "lastTransitionTime": since,
    })
}

/// Whether the stored object must be written: it says something else than wanted, heartbeat times aside, or its heartbeat
/// is old.
pub fn status_is_due(stored: &Value, wanted: &Value, last_write: UnixMillis, now: UnixMillis) -> bool {
    let without_times = |status: &Value| {
        let mut status = status.clone();
        for condition in status["conditions"].as_array_mut().into_iter().flatten() {
            if let Some(fields) = condition.as_object_mut() {
                fields.remove("lastHeartbeatTime");
                fields.remove("lastTransitionTime");
            }
        }
        status
    };
    let part = |name: &str| without_times(&stored["status"])[name] != without_times(wanted)[name];
    let names = [
        "addresses",
        "capacity",
        "allocatable",
        "conditions",
        "daemonEndpoints",
        "nodeInfo",
    ];
    now.since_ms(last_write) >= STATUS_PERIOD_MS || names.into_iter().any(part)
}

/// The Lease in `kube-node-lease`.
pub fn lease(facts: &NodeFacts, node_uid: &str, now: UnixMillis) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "name": facts.name, "namespace": "kube-node-lease",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": facts.name, "uid": node_uid}],
        },
        "spec": {
            "holderIdentity": facts.name, "leaseDurationSeconds": LEASE_DURATION_SECONDS,
            "renewTime": now.rfc3339_micros(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> NodeFacts {
        NodeFacts {
            name: "n1".into(),
            address: "10.0.0.1".into(),
            cpu_milli: 2000,
            memory_bytes: 1 << 30,
            reserved_cpu_milli: 100,
            pods_max: 110,
            ..NodeFacts::default()
        }
    }

    #[test]
    fn allocatable_is_capacity_without_what_is_reserved() {
        let status = status(&facts(), &json!({}), None, UnixMillis(0));
        assert_eq!(
            (&status["capacity"]["cpu"], &status["allocatable"]["cpu"]),
            (&json!("2"), &json!("1900m"))
        );
        assert_eq!(status["capacity"]["memory"], "1048576Ki");
    }

    #[test]
    fn a_status_is_written_when_it_changes_or_grows_old() {
        let first = status(&facts(), &json!({}), None, UnixMillis(0));
        let stored = json!({"status": first});
        let later = status(&facts(), &stored, None, UnixMillis(60_000));
        assert!(!status_is_due(&stored, &later, UnixMillis(0), UnixMillis(60_000)));
        assert!(status_is_due(
            &stored,
            &later,
            UnixMillis(0),
            UnixMillis(STATUS_PERIOD_MS)
        ));
        let unready = status(&facts(), &stored, Some("no network"), UnixMillis(60_000));
        assert!(status_is_due(&stored, &unready, UnixMillis(0), UnixMillis(60_000)));
    }

    #[test]
    fn conditions_of_others_stay_and_transition_times_change_with_the_status() {
        let stored = json!({"status": {"conditions": [
            {"type": "NetworkUnavailable", "status": "False"},
            {"type": "Ready", "status": "Unknown", "lastTransitionTime": "2020-01-01T00:00:00Z"},
            {"type": "PIDPressure", "status": "False", "lastTransitionTime": "2020-01-01T00:00:00Z"},
        ]}});
        let status = status(&facts(), &stored, None, UnixMillis(0));
        let of = |kind: &str| {
            status["conditions"]
                .as_array()
                .unwrap()
                .iter()
                .find(|c| c["type"] == kind)
                .unwrap()
                .clone()
        };
        assert_eq!(of("NetworkUnavailable")["status"], "False");
        assert_eq!(of("Ready")["lastTransitionTime"], "1970-01-01T00:00:00Z");
        assert_eq!(of("PIDPressure")["lastTransitionTime"], "2020-01-01T00:00:00Z");
    }
}
