//! Owns the pods that wait at Permit: they have a node, hold their place on it, and some plugin has not let them go on. Called by
//! the binding cycle, and by plugins that let other pods go or send them back. It must let no pod wait without a time limit.

use crate::cluster::{NodeId, PodId};
use crate::cycle::Found;
use std::collections::BTreeMap;

/// The longest time that a plugin may let a pod wait, as in kube-scheduler.
pub const WAIT_MAX_MS: u64 = 15 * 60 * 1000;

/// What a plugin says of a pod that is about to be bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permission {
    /// It may be bound.
    Approve,
    /// It may not; the reason in words. It gives its place back.
    Deny(String),
    /// It waits, keeping its place, until this plugin allows it, for at most so long (and never longer than `WAIT_MAX_MS`).
    Wait {
        /// Milliseconds.
        timeout_ms: u64,
    },
}

/// Why a pod with a node is not bound there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The plugin that said so.
    pub plugin: &'static str,
    /// The reason.
    pub reason: String,
}

/// One waiting pod.
#[derive(Debug)]
struct Waiting {
    found: Found,
    /// The plugins that have not allowed it, and until when each waits.
    plugins: BTreeMap<&'static str, u64>,
    timeouts: BTreeMap<&'static str, u64>,
}

/// The pods that wait at Permit.
#[derive(Debug, Default)]
pub struct WaitingPods {
    pods: BTreeMap<PodId, Waiting>,
    rejected: BTreeMap<PodId, Denial>,
}

impl WaitingPods {
    /// The waiting pods with their nodes, in the order of pod places.
    pub fn iter(&self) -> impl Iterator<Item = (PodId, NodeId)> {
        let waiting = self.pods.iter().filter(|(pod, _)| !self.rejected.contains_key(pod));
        waiting.map(|(pod, waiting)| (*pod, waiting.found.node))
    }

    /// The plugins for which a pod waits.
    pub fn plugins_of(&self, pod: PodId) -> impl Iterator<Item = &'static str> {
        let waiting = self.pods.get(&pod).into_iter();
        waiting.flat_map(|waiting| waiting.plugins.keys().copied())
    }

    /// A plugin lets a pod go on. It is bound when no other plugin lets it wait.
    pub fn allow(&mut self, pod: PodId, plugin: &str) {
        if let Some(waiting) = self.pods.get_mut(&pod) {
            waiting.plugins.remove(plugin);
        }
    }

    /// A plugin sends a pod back. The first rejection counts.
    pub fn reject(&mut self, pod: PodId, plugin: &'static str, reason: String) {
        if self.pods.contains_key(&pod) {
            self.rejected.entry(pod).or_insert(Denial { plugin, reason });
        }
    }

    /// Whether a pod waits.
    pub fn contains(&self, pod: PodId) -> bool {
        self.pods.contains_key(&pod)
    }

    /// Number of waiting pods.
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Whether no pod waits.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    pub(crate) fn insert(&mut self, pod: PodId, found: Found, now_ms: u64, waits: &[(&'static str, u64)]) {
        let limited = |timeout_ms: u64| timeout_ms.min(WAIT_MAX_MS);
        let plugins = waits.iter().map(|(plugin, ms)| (*plugin, now_ms + limited(*ms)));
        let timeouts = waits.iter().map(|(plugin, ms)| (*plugin, limited(*ms)));
        self.pods.insert(
            pod,
            Waiting {
                found,
                plugins: plugins.collect(),
                timeouts: timeouts.collect(),
            },
        );
    }

    pub(crate) fn remove(&mut self, pod: PodId) -> bool {
        self.rejected.remove(&pod);
        self.pods.remove(&pod).is_some()
    }

    /// Whether a pod has been let go, or sent back, and nobody has acted on it.
    pub(crate) fn has_settled(&self) -> bool {
        !self.rejected.is_empty() || self.pods.values().any(|waiting| waiting.plugins.is_empty())
    }

    /// When the first of them has waited for too long.
    pub(crate) fn next_timeout_ms(&self) -> Option<u64> {
        let deadlines = self.pods.values().flat_map(|waiting| waiting.plugins.values());
        deadlines.min().copied()
    }

    /// Takes out the pods whose waiting is over, in the order of pod places.
    pub(crate) fn take_settled(&mut self, now_ms: u64) -> Vec<(PodId, Result<Found, Denial>)> {
        let mut settled = Vec::new();
        for (pod, waiting) in &self.pods {
            let overdue = waiting.plugins.iter().filter(|(_, until_ms)| **until_ms <= now_ms);
            let first_overdue = overdue
                .min_by_key(|(_, until_ms)| **until_ms)
                .map(|(plugin, _)| *plugin);
            if let Some(denial) = self.rejected.get(pod) {
                settled.push((*pod, Err(denial.clone())));
            } else if waiting.plugins.is_empty() {
                settled.push((*pod, Ok(waiting.found)));
            } else if let Some(plugin) = first_overdue {
                let waited = duration_words(waiting.timeouts[plugin]);
                let reason = format!("rejected due to timeout after waiting {waited} at plugin {plugin}");
                settled.push((*pod, Err(Denial { plugin, reason })));
            }
        }
        for (pod, _) in &settled {
            self.remove(*pod);
        }
        settled
    }
}

/// A duration as Go writes it: "10s", "1m30s", "500ms".
fn duration_words(ms: u64) -> String {
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let (minutes, rest_ms) = (ms / 60_000, ms % 60_000);
    let seconds = format!("{}", rest_ms as f64 / 1000.0);
    match minutes {
        0 => format!("{seconds}s"),
        _ => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(node: u32) -> Found {
        Found {
            node: NodeId(node),
            score: 0,
            feasible: 1,
            examined: 1,
        }
    }

    #[test]
    fn a_pod_waits_for_every_plugin_until_its_own_time() {
        let mut waiting = WaitingPods::default();
        waiting.insert(PodId(1), found(7), 100, &[("A", 1_000), ("B", 2_000)]);
        waiting.insert(PodId(2), found(8), 100, &[("A", 90_000)]);
        waiting.insert(PodId(3), found(9), 100, &[("A", u64::MAX)]);
        assert_eq!(waiting.next_timeout_ms(), Some(1_100));
        waiting.allow(PodId(1), "A");
        assert_eq!(waiting.next_timeout_ms(), Some(2_100));
        assert!(waiting.take_settled(2_099).is_empty());
        let denial = |plugin, reason: &str| Denial {
            plugin,
            reason: reason.to_owned(),
        };
        let timeout = "rejected due to timeout after waiting 2s at plugin B";
        assert_eq!(waiting.take_settled(2_100), [(PodId(1), Err(denial("B", timeout)))]);
        waiting.reject(PodId(2), "C", "no".to_owned());
        waiting.reject(PodId(2), "D", "too late".to_owned());
        waiting.allow(PodId(3), "A");
        assert!(waiting.has_settled());
        assert_eq!(
            waiting.take_settled(2_100),
            [(PodId(2), Err(denial("C", "no"))), (PodId(3), Ok(found(9)))]
        );
        assert!(waiting.is_empty() && !waiting.has_settled());
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (ms, words) in [
            (1, "1ms"),
            (1_000, "1s"),
            (1_500, "1.5s"),
            (90_000, "1m30s"),
            (900_000, "15m0s"),
        ] {
            assert_eq!(duration_words(ms), words);
        }
    }
}
