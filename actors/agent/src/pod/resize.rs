//! In-place resize (KEP-1287): what a pod has is what this node granted it, which follows what its API object asks for. The
//! API object in the pod's state holds the granted resources, so that all else is decided by those; what is asked for beyond
//! them is kept here until the node grants it. Pure; `decide` calls it, and `status` tells of it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodCondition, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use protocol::UnixMillis;
use protocol::quantity::Quantity;
use protocol::runtime::{ResourceLimits, RuntimeError};
use serde_json::json;

use super::decide::Effect;
use super::environment::ConfigurationError;
use super::plan;
use super::state::{PodState, Role, Sandbox};

/// How long a resize that was deferred, or that failed, waits until it is tried again.
pub const AGAIN_MS: u64 = 5_000;
/// The conditions that tell of a resize; they go when it is over.
pub const CONDITIONS: [&str; 2] = [PENDING, IN_PROGRESS];
const PENDING: &str = "PodResizePending";
const IN_PROGRESS: &str = "PodResizeInProgress";
/// What can be resized.
const RESIZED: [&str; 2] = ["cpu", "memory"];

/// What a pod asks of its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// cpu in thousandths of a core.
    pub cpu_milli: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// Why a node does not grant a resize, in the kubelet's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// There is no room for it at present.
    Deferred(String),
    /// The node is too small for it.
    Infeasible(String),
}

/// Whether a pod that has `granted` may have `wanted` on a node that can give `allocatable`, of which other pods have `used`.
/// What does not grow is not asked about.
pub fn room(wanted: Amounts, granted: Amounts, used: Amounts, allocatable: Amounts) -> Result<(), Shortage> {
    let parts = |amounts: Amounts| [("cpu", amounts.cpu_milli), ("memory", amounts.memory_bytes)];
    let all = parts(wanted)
        .into_iter()
        .zip(parts(granted))
        .zip(parts(used))
        .zip(parts(allocatable));
    let growing = all
        .map(|((((name, wanted), (_, granted)), (_, used)), (_, capacity))| (name, wanted, granted, used, capacity))
        .filter(|(_, wanted, granted, ..)| wanted > granted);
    let growing: Vec<_> = growing.collect();
    if let Some((name, requested, _, _, capacity)) = growing.iter().rev().find(|part| part.1 > part.4) {
        return Err(Shortage::Infeasible(format!(
            "Node didn't have enough capacity: {name}, requested: {requested}, capacity: {capacity}"
        )));
    }
    if let Some((name, requested, _, used, capacity)) =
        growing.iter().find(|part| part.1.saturating_add(part.3) > part.4)
    {
        return Err(Shortage::Deferred(format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        )));
    }
    Ok(())
}

/// Resources by container.
type Wanted = BTreeMap<String, ResourceRequirements>;

/// A resize that the node did not grant.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refused {
    shortage: Shortage,
    again_at: Option<UnixMillis>,
}

/// The part of a pod's state that is about its size.
#[derive(Clone, Debug, Default)]
pub struct Resize {
    /// What the API object asks for where the pod has something else.
    wanted: Wanted,
    /// What the node was asked to grant.
    asked: Option<Wanted>,
    refused: Option<Refused>,
    /// What containers that run had before, where their limits are still those.
    before: Wanted,
    /// The granted resources are not in force everywhere.
    in_progress: bool,
    /// The runtime is changing limits.
    under_way: bool,
    /// More was granted meanwhile.
    granted_more: bool,
    failure: Option<String>,
    again_at: Option<UnixMillis>,
}

impl Resize {
    /// Of a pod that was just bound or found again, whose resources become those that it was granted, as its status tells.
    pub fn of(pod: &mut Pod) -> Resize {
        let mut resize = Resize::default();
        let asks = pod.clone();
        grant_as_told(pod);
        resize.wanted = differences(&asks, pod);
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        resize.in_progress = conditions.into_iter().any(|condition| condition.type_ == IN_PROGRESS);
        resize
    }

    /// Whether containers are to be started with what was granted only when the pod itself has it.
    pub fn holds_up_starts(&self) -> bool {
        self.in_progress && self.failure.is_none()
    }

    /// When something is tried again.
    pub fn due_at(&self) -> impl Iterator<Item = UnixMillis> {
        let refused = self.refused.as_ref().and_then(|refused| refused.again_at);
        refused.into_iter().chain(self.again_at)
    }
}

fn resizable(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let sidecars = spec.init_containers.iter().flatten();
    sidecars
        .filter(|container| container.restart_policy.as_deref() == Some("Always"))
        .chain(&spec.containers)
}

fn resizable_mut(spec: &mut PodSpec) -> impl Iterator<Item = &mut Container> {
    let sidecars = spec.init_containers.iter_mut().flatten();
    sidecars
        .filter(|container| container.restart_policy.as_deref() == Some("Always"))
        .chain(&mut spec.containers)
}

/// What one pod asks for and the other does not have, by container.
fn differences(asks: &Pod, has: &Pod) -> Wanted {
    let (Some(asks), Some(has)) = (&asks.spec, &has.spec) else {
        return Wanted::new();
    };
    let pairs = resizable(asks).zip(resizable(has));
    let differing = pairs.filter(|(asks, has)| asks.resources != has.resources);
    differing
        .map(|(asks, _)| (asks.name.clone(), asks.resources.clone().unwrap_or_default()))
        .collect()
}

/// Puts what the node granted, by the pod's status, in the place of what is asked for.
pub fn grant_as_told(pod: &mut Pod) {
    let (Some(spec), Some(status)) = (&mut pod.spec, &pod.status) else {
        return;
    };
    let told = || {
        let init = status.init_container_statuses.iter().flatten();
        init.chain(status.container_statuses.iter().flatten())
    };
    for container in resizable_mut(spec) {
        if let Some(told) = told().find(|told| told.name == container.name) {
            grant_container_as_told(container, told);
        }
    }
}

fn grant_container_as_told(container: &mut Container, told: &ContainerStatus) {
    let Some(in_force) = &told.resources else { return };
    let resources = container.resources.get_or_insert_default();
    let set = |list: &mut Option<BTreeMap<String, ApiQuantity>>, told: Option<&BTreeMap<String, ApiQuantity>>| {
        for name in RESIZED {
            match told.and_then(|told| told.get(name)) {
                Some(amount) => drop(list.get_or_insert_default().insert(name.to_owned(), amount.clone())),
                None => drop(list.as_mut().and_then(|list| list.remove(name))),
            }
        }
        if list.as_ref().is_some_and(BTreeMap::is_empty) {
            *list = None;
        }
    };
    set(&mut resources.limits, in_force.limits.as_ref());
    let granted = told.allocated_resources.as_ref().or(in_force.requests.as_ref());
    set(&mut resources.requests, granted);
}

/// The API object has changed: it keeps what was granted, and what it asks for beyond that is remembered.
pub(super) fn pod_changed(state: &mut PodState, pod: &mut Pod) {
    let asks = pod.clone();
    if let (Some(spec), Some(held)) = (&mut pod.spec, &state.pod.spec) {
        for (container, held) in resizable_mut(spec).zip(resizable(held)) {
            container.resources.clone_from(&held.resources);
        }
    }
    let wanted = differences(&asks, pod);
    if wanted != state.resize.wanted {
        state.resize.refused = None;
        state.resize.wanted = wanted;
    }
}

/// cpu and memory that a pod's spec requests: its containers and sidecars, or the largest moment of its initialisation, and
/// its overhead (KEP-753).
pub fn requests(spec: &PodSpec) -> Amounts {
    let amount = |name: &str, read: fn(&Quantity) -> i128| {
        let of = |list: Option<&BTreeMap<String, ApiQuantity>>| -> i128 {
            let text = list.and_then(|list| list.get(name));
            text.and_then(|text| Quantity::parse(&text.0).ok())
                .map_or(0, |quantity| read(&quantity).max(0))
        };
        let own = |container: &Container| of(container.resources.as_ref().and_then(|of| of.requests.as_ref()));
        let (mut sidecars, mut initialising) = (0, 0);
        for container in spec.init_containers.iter().flatten() {
            if container.restart_policy.as_deref() == Some("Always") {
                sidecars += own(container);
                initialising = initialising.max(sidecars);
            } else {
                initialising = initialising.max(sidecars + own(container));
            }
        }
        let running: i128 = sidecars + spec.containers.iter().map(own).sum::<i128>();
        u64::try_from(running.max(initialising) + of(spec.overhead.as_ref())).unwrap_or(u64::MAX)
    };
    Amounts {
        cpu_milli: amount("cpu", |quantity| i128::from(quantity.milli())),
        memory_bytes: amount("memory", |quantity| i128::from(quantity.units())),
    }
}

/// Asks the node, and has the runtime change limits.
pub(super) fn advance(state: &mut PodState, now: UnixMillis, effects: &mut Vec<Effect>) {
    let resize = &state.resize;
    let waits = match &resize.refused {
        Some(refused) => refused.again_at.is_none_or(|at| now < at),
        None => false,
    };
    if !resize.wanted.is_empty() && resize.asked.is_none() && !waits {
        let wanted = resize.wanted.clone();
        let mut spec = state.pod.spec.clone().unwrap_or_default();
        give(&mut spec, &wanted);
        state.resize.asked = Some(wanted);
        effects.push(Effect::AskRoom(requests(&spec)));
    }
    let resize = &state.resize;
    let waits = resize.under_way || resize.again_at.is_some_and(|at| now < at);
    let stops = state.containers.iter().any(|record| record.resize_stop.is_some());
    if resize.in_progress && !waits && !stops && matches!(state.sandbox, Sandbox::Running { .. }) {
        change_limits(state, effects);
    }
}

fn change_limits(state: &mut PodState, effects: &mut Vec<Effect>) {
    let Some(spec) = &state.pod.spec else { return };
    let limits: Result<Vec<(String, ResourceLimits)>, ConfigurationError> = resizable(spec)
        .map(|container| Ok((container.name.clone(), plan::limits(container)?)))
        .collect();
    // Validation has read every quantity.
    if let (Ok(whole), Ok(containers)) = (plan::pod_limits(spec), limits) {
        state.resize.again_at = None;
        state.resize.under_way = true;
        effects.push(Effect::Resize { whole, containers });
    }
}

fn give(spec: &mut PodSpec, granted: &Wanted) {
    for container in resizable_mut(spec) {
        if let Some(resources) = granted.get(&container.name) {
            container.resources = Some(resources.clone());
        }
    }
}

/// The node has answered.
pub(super) fn answered(state: &mut PodState, now: UnixMillis, answer: Result<(), Shortage>, effects: &mut Vec<Effect>) {
    let Some(asked) = state.resize.asked.take() else { return };
    match answer {
        Ok(()) => granted(state, now, asked, effects),
        Err(shortage) if asked == state.resize.wanted => {
            let (reason, message, again_at) = match &shortage {
                Shortage::Deferred(message) => ("ResizeDeferred", message, Some(now.plus_ms(AGAIN_MS))),
                Shortage::Infeasible(message) => ("ResizeInfeasible", message, None),
            };
            if state
                .resize
                .refused
                .as_ref()
                .is_none_or(|known| known.shortage != shortage)
            {
                effects.push(event(true, reason, format!("Pod resize refused: {message}")));
            }
            state.resize.refused = Some(Refused { shortage, again_at });
        }
        // Something else is wanted by now, and asked for next.
        Err(_) => {}
    }
}

fn granted(state: &mut PodState, now: UnixMillis, granted: Wanted, effects: &mut Vec<Effect>) {
    let asks = state.resize.wanted.clone();
    let before = state.pod.spec.clone().unwrap_or_default();
    let grace_seconds = before.termination_grace_period_seconds.unwrap_or(30).max(0) as u64;
    for container in resizable(&before) {
        let Some(new) = granted.get(&container.name) else {
            continue;
        };
        let restarts = must_restart(container, new);
        let signal = state
            .containers
            .iter()
            .find(|record| record.name == container.name)
            .map(|record| state.stop_signal(record));
        let Some(record) = state.record_mut(&container.name).filter(|record| record.is_running()) else {
            continue;
        };
        if restarts {
            record.resize_stop = Some(now.plus_ms(grace_seconds * 1000));
            let message = format!("Container {} resize requires restart", container.name);
            effects.push(event(false, "Killing", message));
            effects.push(Effect::SignalContainer {
                container: container.name.clone(),
                signal: signal.unwrap_or(super::state::SIGTERM),
            });
        }
        let had = container.resources.clone().unwrap_or_default();
        state.resize.before.entry(container.name.clone()).or_insert(had);
    }
    if let Some(spec) = &mut state.pod.spec {
        give(spec, &granted);
    }
    let resize = &mut state.resize;
    resize.wanted = asks
        .into_iter()
        .filter(|(name, asks)| granted.get(name) != Some(asks))
        .collect();
    resize.refused = None;
    resize.failure = None;
    resize.again_at = None;
    resize.granted_more = resize.under_way;
    resize.in_progress = true;
    effects.push(event(false, "ResizeStarted", told(state, "started")));
}

/// Whether one of the changes is one for which the container wants to be started anew.
fn must_restart(container: &Container, new: &ResourceRequirements) -> bool {
    let amount =
        |list: Option<&BTreeMap<String, ApiQuantity>>, name: &str| list.and_then(|list| list.get(name)).cloned();
    let both = |of: Option<&ResourceRequirements>, name: &str| {
        let (requests, limits) = (
            of.and_then(|of| of.requests.as_ref()),
            of.and_then(|of| of.limits.as_ref()),
        );
        (amount(requests, name), amount(limits, name))
    };
    let mut policies = container.resize_policy.iter().flatten();
    policies.any(|policy| {
        let name = policy.resource_name.as_str();
        policy.restart_policy == "RestartContainer" && both(container.resources.as_ref(), name) != both(Some(new), name)
    })
}

/// The runtime has answered.
pub(super) fn resized(
    state: &mut PodState,
    now: UnixMillis,
    result: Result<(), RuntimeError>,
    effects: &mut Vec<Effect>,
) {
    let resize = &mut state.resize;
    resize.under_way = false;
    match result {
        Ok(()) if std::mem::take(&mut resize.granted_more) => {}
        Ok(()) => {
            let had_started = !resize.before.is_empty() || resize.failure.is_some();
            resize.before.clear();
            resize.failure = None;
            resize.in_progress = false;
            if had_started {
                effects.push(event(false, "ResizeCompleted", told(state, "completed")));
            }
        }
        Err(error) => {
            let message = error.to_string();
            resize.again_at = Some(now.plus_ms(AGAIN_MS));
            if resize.failure.as_ref() != Some(&message) {
                effects.push(event(true, "ResizeError", format!("Pod resize error: {message}")));
            }
            resize.failure = Some(message);
        }
    }
}

fn event(warning: bool, reason: &'static str, message: String) -> Effect {
    Effect::Record {
        warning,
        reason,
        message,
    }
}

fn told(state: &PodState, what: &str) -> String {
    let containers: Vec<_> = state
        .pod
        .spec
        .iter()
        .flat_map(resizable)
        .map(|container| json!({"name": container.name, "resources": container.resources}))
        .collect();
    let generation = state.pod.metadata.generation;
    format!(
        "Pod resize {what}: {}",
        json!({"containers": containers, "generation": generation})
    )
}

/// Containers that are stopped for their new size are killed when their time is over.
pub(super) fn kill_overdue(state: &mut PodState, now: UnixMillis, effects: &mut Vec<Effect>) {
    const SIGKILL: i32 = 9;
    let overdue = |at: Option<UnixMillis>| at.is_some_and(|at| at <= now);
    for record in state
        .containers
        .iter_mut()
        .filter(|record| record.is_running() && overdue(record.resize_stop))
    {
        record.resize_stop = Some(now.plus_ms(AGAIN_MS));
        effects.push(Effect::SignalContainer {
            container: record.name.clone(),
            signal: SIGKILL,
        });
    }
}

/// What a container has in force and what it was granted, as its status tells them.
pub(super) fn of_status(
    state: &PodState,
    container: &Container,
    role: Role,
) -> (Option<ResourceRequirements>, Option<BTreeMap<String, ApiQuantity>>) {
    let granted = container.resources.as_ref().filter(|_| role != Role::Ephemeral);
    let in_force = state.resize.before.get(&container.name).or(granted);
    let bare = |resources: &ResourceRequirements| resources.requests.is_none() && resources.limits.is_none();
    (
        in_force.filter(|resources| !bare(resources)).cloned(),
        granted.and_then(|granted| granted.requests.clone()),
    )
}

/// The conditions of the moment; `since` says when the status was last what it is.
pub(super) fn conditions(state: &PodState) -> Vec<PodCondition> {
    let observed_generation = state.pod.metadata.generation;
    let condition = |kind: &str, reason: Option<&str>, message: Option<String>| PodCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: reason.map(str::to_owned),
        message,
        observed_generation,
        ..PodCondition::default()
    };
    let pending = state.resize.refused.as_ref().map(|refused| {
        let (reason, message) = match &refused.shortage {
            Shortage::Deferred(message) => ("Deferred", message),
            Shortage::Infeasible(message) => ("Infeasible", message),
        };
        condition(PENDING, Some(reason), Some(message.clone()))
    });
    let failure = state.resize.failure.clone();
    let runs = state.resize.in_progress;
    let in_progress = runs.then(|| condition(IN_PROGRESS, failure.as_ref().map(|_| "Error"), failure.clone()));
    pending.into_iter().chain(in_progress).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_grants_what_fits() {
        let of = |cpu_milli: u64, memory_bytes: u64| Amounts {
            cpu_milli,
            memory_bytes,
        };
        let node = of(4000, 1000);
        let cases = [
            (of(1000, 100), of(500, 100), of(3000, 100), None),
            (
                of(1001, 100),
                of(500, 100),
                of(3000, 100),
                Some(
                    "Deferred(\"Node didn't have enough resource: cpu, requested: 1001, used: 3000, capacity: 4000\")",
                ),
            ),
            (
                of(4001, 100),
                of(500, 100),
                of(0, 0),
                Some("Infeasible(\"Node didn't have enough capacity: cpu, requested: 4001, capacity: 4000\")"),
            ),
            (
                of(4001, 1001),
                of(500, 100),
                of(0, 0),
                Some("Infeasible(\"Node didn't have enough capacity: memory, requested: 1001, capacity: 1000\")"),
            ),
            // What shrinks is granted on a node that has given away too much, too.
            (of(400, 90), of(500, 100), of(9000, 5000), None),
        ];
        for (wanted, granted, used, expected) in cases {
            let answer = room(wanted, granted, used, node)
                .err()
                .map(|shortage| format!("{shortage:?}"));
            assert_eq!(answer.as_deref(), expected);
        }
    }
}
