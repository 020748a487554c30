//! Whether a pod uses more of the node's disk than it may, and what is said when it is evicted for it: the kubelet's
//! `localStorageEviction`, with its order and its words. Pure; `decide` asks for measurements and carries an eviction out.

use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, PodSpec};
use protocol::UnixMillis;
use protocol::quantity::Quantity;
use protocol::runtime::PodUsage;

/// How long after a measurement the next one is made (the eviction manager's monitoring interval).
pub const MEASURE_EVERY_MS: u64 = 10_000;
/// How long containers have to end (the kubelet's `immediateEvictionGracePeriodSeconds`).
pub const GRACE_MS: u64 = 1_000;
/// The reason in the pod's status, and of the event.
pub const REASON: &str = "Evicted";

/// An eviction that was decided. It is not taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// Why, in the kubelet's words.
    pub message: String,
    /// When what still runs is killed.
    pub kill_at: UnixMillis,
    /// Whether the containers were asked to stop.
    pub signalled: bool,
}

impl Eviction {
    /// The eviction that the pod's status tells of: it was decided before this actor was started.
    pub fn of_status(pod: &Pod) -> Option<Eviction> {
        let status = pod.status.as_ref()?;
        let is_evicted = status.phase.as_deref() == Some("Failed") && status.reason.as_deref() == Some(REASON);
        is_evicted.then(|| Eviction {
            message: status.message.clone().unwrap_or_default(),
            kill_at: UnixMillis(0),
            signalled: false,
        })
    }
}

/// What the kubelet adds to the conditions of a pod that it ends.
pub fn disruption_target(eviction: &Eviction) -> PodCondition {
    PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("TerminationByKubelet".to_owned()),
        message: Some(eviction.message.clone()),
        ..PodCondition::default()
    }
}

/// Whether anything of the pod's use of the disk is limited, so that it is worth measuring.
pub fn is_limited(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    empty_dir_limits(spec).next().is_some() || containers(spec).any(|container| storage_limit(container).is_some())
}

/// Why the pod must go, if so.
pub fn over_limit(pod: &Pod, usage: &PodUsage) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let used = |volume: &str| usage.volume_bytes.get(volume).copied().unwrap_or(0);
    let full = empty_dir_limits(spec).find(|(name, _, bytes)| *bytes > 0 && used(name) > *bytes);
    if let Some((name, text, _)) = full {
        return Some(format!(
            "Usage of EmptyDir volume {name:?} exceeds the limit {text:?}. "
        ));
    }
    let limits: Vec<(&Container, &str, u64)> = containers(spec)
        .filter_map(|container| storage_limit(container).map(|(text, bytes)| (container, text, bytes)))
        .collect();
    let total = usage
        .volume_bytes
        .values()
        .chain(usage.container_bytes.values())
        .sum::<u64>();
    if !limits.is_empty() && total > limits.iter().map(|(_, _, bytes)| bytes).sum() {
        let limit = match limits.as_slice() {
            [(_, text, _)] => (*text).to_owned(),
            several => binary(several.iter().map(|(_, _, bytes)| bytes).sum()),
        };
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
        ));
    }
    let of = |container: &Container| usage.container_bytes.get(&container.name).copied().unwrap_or(0);
    let (container, text, _) = limits
        .into_iter()
        .find(|(container, _, bytes)| of(container) > *bytes)?;
    Some(format!(
        "Container {} exceeded its local ephemeral storage limit {text:?}. ",
        container.name
    ))
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"))
        .chain(&spec.containers)
}

fn bytes(text: &str) -> Option<u64> {
    u64::try_from(Quantity::parse(text).ok()?.units()).ok()
}

/// Name, limit as written, and bytes. A volume in memory is limited by its file system.
fn empty_dir_limits(spec: &PodSpec) -> impl Iterator<Item = (&str, &str, u64)> {
    spec.volumes.iter().flatten().filter_map(|volume| {
        let empty = volume.empty_dir.as_ref()?;
        let limit = empty.size_limit.as_ref()?;
        (empty.medium.as_deref() != Some("Memory")).then_some(())?;
        Some((volume.name.as_str(), limit.0.as_str(), bytes(&limit.0)?))
    })
}

fn storage_limit(container: &Container) -> Option<(&str, u64)> {
    let limit = container
        .resources
        .as_ref()?
        .limits
        .as_ref()?
        .get("ephemeral-storage")?;
    Some((limit.0.as_str(), bytes(&limit.0)?))
}

/// A sum of bytes as Kubernetes writes it: in the greatest power of 1024 that divides it.
fn binary(mut amount: u64) -> String {
    let mut suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi"].into_iter();
    let mut suffix = suffixes.next().unwrap_or_default();
    while amount != 0 && amount.is_multiple_of(1024) {
        let Some(next) = suffixes.next() else { break };
        (amount, suffix) = (amount / 1024, next);
    }
    format!("{amount}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const MIB: u64 = 1 << 20;

    fn pod() -> Pod {
        let limited =
            |name: &str, limit: &str| json!({"name": name, "resources": {"limits": {"ephemeral-storage": limit}}});
        serde_json::from_value(json!({"spec": {
            "volumes": [
                {"name": "small", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "open", "emptyDir": {}},
                {"name": "zero", "emptyDir": {"sizeLimit": "0"}},
                {"name": "memory", "emptyDir": {"sizeLimit": "1Mi", "medium": "Memory"}},
            ],
            "containers": [limited("a", "3Mi"), limited("b", "1Mi")],
        }}))
        .unwrap()
    }

    #[test]
    fn each_limit_evicts_in_the_kubelets_words() {
        let usage = |volumes: &[(&str, u64)], containers: &[(&str, u64)]| {
            let owned = |list: &[(&str, u64)]| list.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect();
            PodUsage {
                volume_bytes: owned(volumes),
                container_bytes: owned(containers),
            }
        };
        let cases = [
            (usage(&[("small", MIB), ("zero", MIB)], &[("a", MIB)]), None),
            (
                usage(&[("small", MIB + 1)], &[]),
                Some("Usage of EmptyDir volume \"small\" exceeds the limit \"1Mi\". "),
            ),
            (
                usage(&[("open", 2 * MIB)], &[("a", MIB), ("b", MIB + 1)]),
                Some("Pod ephemeral local storage usage exceeds the total limit of containers 4Mi. "),
            ),
            (
                usage(&[], &[("a", MIB), ("b", MIB + 1)]),
                Some("Container b exceeded its local ephemeral storage limit \"1Mi\". "),
            ),
        ];
        for (usage, expected) in cases {
            assert_eq!(over_limit(&pod(), &usage).as_deref(), expected, "{usage:?}");
        }
    }

    #[test]
    fn a_pod_without_limits_is_not_measured() {
        assert!(is_limited(&pod()));
        let open = json!({"spec": {"containers": [{"name": "a"}], "volumes": [{"name": "v", "emptyDir": {}}]}});
        assert!(!is_limited(&serde_json::from_value(open).unwrap()));
    }

    #[test]
    fn sums_are_written_as_quantities() {
        for (amount, text) in [(0, "0"), (1536 * MIB, "1536Mi"), (MIB * 1024, "1Gi"), (1000, "1000")] {
            assert_eq!(binary(amount), text);
        }
    }
}
