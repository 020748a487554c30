//! When a pod has to leave a tainted node: Kubernetes' taint eviction with a default that is short. Pure.

use protocol::UnixMillis;

use super::NodeSettings;
use crate::reading::{Taint, Toleration, instant};

/// The node's machine cannot be reached.
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// The node itself says that it is not ready.
pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// Whether a taint drives pods away because of the Ready condition.
pub(crate) fn is_marked(taint: &Taint) -> bool {
    taint.effect == "NoExecute" && matches!(taint.key.as_str(), UNREACHABLE | NOT_READY)
}

/// When a pod has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Never, as things are.
    Stay,
    /// Now.
    Now,
    /// At this instant.
    At(UnixMillis),
}

/// Decides for one pod. Only NoExecute taints count; every one has to be tolerated, and the shortest toleration counts.
pub(crate) fn verdict(
    taints: &[Taint],
    tolerations: &[Toleration],
    settings: &NodeSettings,
    now: UnixMillis,
) -> Verdict {
    let mut leave_at: Option<UnixMillis> = None;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        let matching: Vec<&Toleration> = tolerations
            .iter()
            .filter(|toleration| toleration.tolerates(taint))
            .collect();
        let seconds = if matching.is_empty() {
            // Pods that say nothing about lost nodes get the default, as admission gives it to them elsewhere.
            match taint.key.as_str() {
                UNREACHABLE => Some(settings.default_toleration_seconds),
                NOT_READY => Some(settings.not_ready_toleration_seconds),
                _ => return Verdict::Now,
            }
        } else {
            let bounded = matching.iter().filter_map(|toleration| toleration.toleration_seconds);
            bounded.min().map(|seconds| u64::try_from(seconds).unwrap_or(0))
        };
        if let Some(seconds) = seconds {
            let since = instant(taint.time_added.as_deref()).unwrap_or(now);
            let at = since.plus_ms(seconds.saturating_mul(1000));
            leave_at = Some(leave_at.map_or(at, |other| other.min(at)));
        }
    }
    match leave_at {
        None => Verdict::Stay,
        Some(at) if at <= now => Verdict::Now,
        Some(at) => Verdict::At(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn pods_stay_as_long_as_they_tolerate() {
        let added = UnixMillis(1_800_000_000_000);
        let taint = |key: &str, effect: &str| json!({"key": key, "effect": effect, "timeAdded": added.rfc3339()});
        let lost = || json!([taint(UNREACHABLE, "NoSchedule"), taint(UNREACHABLE, "NoExecute")]);
        let exists = |key: &str, seconds: Value| json!([{"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
        let cases = [
            ("no taint", json!([]), json!([]), 10, Verdict::Stay),
            (
                "only NoSchedule",
                json!([taint("x", "NoSchedule")]),
                json!([]),
                10,
                Verdict::Stay,
            ),
            (
                "not ready is not lost",
                json!([taint(NOT_READY, "NoExecute")]),
                json!([]),
                10,
                Verdict::At(added.plus_ms(60_000)),
            ),
            (
                "default not over",
                lost(),
                json!([]),
                1,
                Verdict::At(added.plus_ms(2000)),
            ),
            ("default over", lost(), json!([]), 2, Verdict::Now),
            (
                "tolerated for ever",
                lost(),
                exists(UNREACHABLE, json!(null)),
                9999,
                Verdict::Stay,
            ),
            (
                "tolerated for a time",
                lost(),
                exists(UNREACHABLE, json!(300)),
                10,
                Verdict::At(added.plus_ms(300_000)),
            ),
            (
                "that time is over",
                lost(),
                exists(UNREACHABLE, json!(300)),
                300,
                Verdict::Now,
            ),
            (
                "a person's taint",
                json!([taint("mine", "NoExecute")]),
                json!([]),
                0,
                Verdict::Now,
            ),
            (
                "a person's taint, tolerated",
                json!([taint("mine", "NoExecute")]),
                json!([{"operator": "Exists"}]),
                9,
                Verdict::Stay,
            ),
            (
                "two taints, the shorter counts",
                json!([taint(UNREACHABLE, "NoExecute"), taint("mine", "NoExecute")]),
                json!([{"key": "mine", "operator": "Exists"}, {"key": UNREACHABLE, "operator": "Exists", "tolerationSeconds": 5}]),
                0,
                Verdict::At(added.plus_ms(5000)),
            ),
        ];
        let settings = NodeSettings {
            default_toleration_seconds: 2,
            not_ready_toleration_seconds: 60,
            ..NodeSettings::default()
        };
        for (name, taints, tolerations, after_seconds, expected) in cases {
            let taints: Vec<Taint> = serde_json::from_value(taints).unwrap();
            let tolerations: Vec<Toleration> = serde_json::from_value(tolerations).unwrap();
            assert_eq!(
                verdict(&taints, &tolerations, &settings, added.plus_ms(after_seconds * 1000)),
                expected,
                "{name}"
            );
        }
    }
}
