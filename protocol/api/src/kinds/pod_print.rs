//! What `kubectl get pods` shows: the one word that sums up a pod's state, how many containers are ready, how often they
//! restarted. The rules are those of Kubernetes' printers (`printPod`), since people read these words by habit.

use protocol::UnixMillis;
use serde_json::Value;

use crate::access::Access;
use crate::table::Column;
use crate::time::{self, age_since};

/// The columns of pods.
pub const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text(
        "Ready",
        "The aggregate readiness state of this pod for accepting traffic.",
    ),
    Column::text("Status", "The aggregate status of the containers in this pod."),
    Column::text(
        "Restarts",
        "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
    ),
    Column::AGE,
    Column::wide("IP", "IP address allocated to the pod."),
    Column::wide("Node", "The node that the pod runs on."),
    Column::wide("Nominated Node", "The node on which preemption made room for the pod."),
    Column::wide(
        "Readiness Gates",
        "Conditions beside container readiness that must be true.",
    ),
];

/// The cells of a pod.
pub fn cells(pod: &Value, now: UnixMillis) -> Vec<Value> {
    let (metadata, spec, status) = (pod.at(&["metadata"]), pod.at(&["spec"]), pod.at(&["status"]));
    let summary = summarize(pod);
    let restarts = match summary.last_restart {
        Some(at) if summary.restarts > 0 => format!("{} ({} ago)", summary.restarts, time::age(now.since_ms(at))),
        _ => summary.restarts.to_string(),
    };
    vec![
        metadata.text("name").into(),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        age_since(metadata.text("creationTimestamp"), now).into(),
        or_none(address(status)),
        or_none(spec.text("nodeName")),
        or_none(status.text("nominatedNodeName")),
        gates(spec, status).into(),
    ]
}

fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

fn address(status: &Value) -> &str {
    status
        .items("podIPs")
        .first()
        .map_or_else(|| status.text("podIP"), |entry| entry.text("ip"))
}

fn gates(spec: &Value, status: &Value) -> String {
    let gates = spec.items("readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let is_true = |gate: &&Value| condition(status, gate.text("conditionType")) == Some("True");
    format!("{}/{}", gates.iter().filter(is_true).count(), gates.len())
}

/// The state of a condition: `True`, `False`, `Unknown`.
fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a str> {
    let found = status
        .items("conditions")
        .iter()
        .find(|condition| condition.text("type") == kind)?;
    Some(found.text("status"))
}

/// A pod in a few words.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// `Running`, `CrashLoopBackOff`, `Init:0/1` and so on.
    pub reason: String,
    /// Containers that are ready.
    pub ready: usize,
    /// Containers in all.
    pub total: usize,
    /// Restarts of all containers.
    pub restarts: i64,
    /// When a container last ended to be restarted.
    pub last_restart: Option<UnixMillis>,
}

/// Sums up a pod's state.
pub fn summarize(pod: &Value) -> Summary {
    let (metadata, spec, status) = (pod.at(&["metadata"]), pod.at(&["spec"]), pod.at(&["status"]));
    let phase = [status.text("reason"), status.text("phase")]
        .into_iter()
        .find(|text| !text.is_empty());
    let mut summary = Summary {
        reason: phase.unwrap_or("Unknown").to_owned(),
        total: spec.items("containers").len(),
        ..Summary::default()
    };
    let gated = status
        .items("conditions")
        .iter()
        .any(|condition| condition.text("type") == "PodScheduled" && condition.text("reason") == "SchedulingGated");
    if gated {
        summary.reason = "SchedulingGated".to_owned();
    }
    let initializing = init_containers(spec, status, &mut summary);
    if !initializing || condition(status, "Initialized") == Some("True") {
        containers(status, &mut summary);
    }
    if metadata.has("deletionTimestamp") {
        let finished = matches!(status.text("phase"), "Succeeded" | "Failed");
        if status.text("reason") == "NodeLost" {
            summary.reason = "Unknown".to_owned();
        } else if !finished {
            summary.reason = "Terminating".to_owned();
        }
    }
    summary
}

/// Whether the container is an init container that keeps running beside the others.
fn is_sidecar(spec: &Value, name: &str) -> bool {
    let container = spec
        .items("initContainers")
        .iter()
        .find(|container| container.text("name") == name);
    container.is_some_and(|container| container.text("restartPolicy") == "Always")
}

fn note_restart(status: &Value, summary: &mut Summary) {
    summary.restarts += status.int("restartCount").unwrap_or(0);
    let ended = status.at(&["lastState", "terminated"]).text("finishedAt");
    summary.last_restart = summary.last_restart.max(time::parse(ended));
}

/// Goes through the init containers up to the first that is not done, and says whether there is one.
fn init_containers(spec: &Value, status: &Value, summary: &mut Summary) -> bool {
    let total = spec.items("initContainers").len();
    let sidecars = spec
        .items("initContainers")
        .iter()
        .filter(|container| container.text("restartPolicy") == "Always");
    summary.total += sidecars.count();
    for (index, container) in status.items("initContainerStatuses").iter().enumerate() {
        note_restart(container, summary);
        let sidecar = is_sidecar(spec, container.text("name"));
        let (terminated, waiting) = (
            container.at(&["state", "terminated"]),
            container.at(&["state", "waiting"]),
        );
        if !terminated.is_null() && terminated.int("exitCode") == Some(0) {
            continue;
        }
        if sidecar && container.flag("started") {
            summary.ready += usize::from(container.flag("ready"));
            continue;
        }
        summary.reason = if !terminated.is_null() {
            format!("Init:{}", termination(terminated))
        } else if !matches!(waiting.text("reason"), "" | "PodInitializing") {
            format!("Init:{}", waiting.text("reason"))
        } else {
            format!("Init:{index}/{total}")
        };
        return true;
    }
    false
}

/// How a container ended: its reason, or its signal, or its exit code.
fn termination(terminated: &Value) -> String {
    if !terminated.text("reason").is_empty() {
        return terminated.text("reason").to_owned();
    }
    match terminated.int("signal").unwrap_or(0) {
        0 => format!("ExitCode:{}", terminated.int("exitCode").unwrap_or(0)),
        signal => format!("Signal:{signal}"),
    }
}

fn containers(status: &Value, summary: &mut Summary) {
    let mut running = false;
    // The first container in the spec has the last word.
    for container in status.items("containerStatuses").iter().rev() {
        note_restart(container, summary);
        let state = container.at(&["state"]);
        let (terminated, waiting) = (state.at(&["terminated"]), state.at(&["waiting"]));
        if !waiting.text("reason").is_empty() {
            summary.reason = waiting.text("reason").to_owned();
        } else if !terminated.is_null() {
            summary.reason = termination(terminated);
        } else if container.flag("ready") && state.has("running") {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && running {
        let ready = condition(status, "Ready") == Some("True");
        summary.reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}
