//! How a pod looks from outside: phase, conditions and container statuses, after the kubelet's rules. Pure.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, HostIP,
    PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use protocol::UnixMillis;

use super::backoff::{Backoff, spelled};
use super::state::{ContainerRecord, Ending, Image, PodState, Role, Run, Sandbox};
use super::{ephemeral, eviction, resize};

/// A pod's phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Accepted; not every init container is done.
    Pending,
    /// Its containers run, or are being restarted.
    Running,
    /// Every container ended well and none will be restarted.
    Succeeded,
    /// Every container ended, one of them badly.
    Failed,
}

impl Phase {
    /// The word in the API.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
        }
    }

    /// Whether the pod will never run again.
    pub fn is_final(self) -> bool {
        matches!(self, Phase::Succeeded | Phase::Failed)
    }
}

/// The pod's phase. Once final it stays, whoever wrote it (an eviction, too).
pub fn phase(state: &PodState) -> Phase {
    match state.pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Succeeded") => return Phase::Succeeded,
        Some("Failed") => return Phase::Failed,
        _ if state.eviction.is_some() => return Phase::Failed,
        _ => {}
    }
    let gave_up = |record: &&ContainerRecord| matches!(record.run, Run::Ended(_)) && !restarts(state, record);
    let badly = |record: &ContainerRecord| matches!(&record.run, Run::Ended(ending) if ending.exit.exit_code != 0);
    let of = |role: Role| -> Vec<&ContainerRecord> {
        state.containers.iter().filter(|record| record.role == role).collect()
    };
    let (init, app) = (of(Role::Init), of(Role::App));
    if init
        .iter()
        .filter(|record| !state.is_sidecar(record))
        .any(|record| gave_up(record) && badly(record))
    {
        return Phase::Failed;
    }
    if !app.is_empty() && app.iter().all(gave_up) {
        return if app.iter().any(|record| badly(record)) {
            Phase::Failed
        } else {
            Phase::Succeeded
        };
    }
    let started =
        |record: &ContainerRecord| record.attempt > 0 || matches!(record.run, Run::Running { .. } | Run::Ended(_));
    if app.iter().any(|record| started(record)) {
        Phase::Running
    } else {
        Phase::Pending
    }
}

/// Whether a container that ended is started again.
pub fn restarts(state: &PodState, record: &ContainerRecord) -> bool {
    let Run::Ended(ending) = &record.run else { return false };
    if state.eviction.is_some() || record.role == Role::Ephemeral {
        return false;
    }
    let own = state
        .spec_of(record)
        .and_then(|container| container.restart_policy.as_deref());
    let of_pod = state.pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    let failed = ending.exit.exit_code != 0;
    match own.or(of_pod).unwrap_or("Always") {
        "Never" => false,
        "OnFailure" => failed,
        _ if record.role == Role::Init && own.is_none() => failed,
        _ => true,
    }
}

/// Containers that wait for their restart, having failed.
pub fn crash_loops(state: &PodState, now: UnixMillis) -> impl Iterator<Item = &ContainerRecord> {
    state
        .containers
        .iter()
        .filter(move |record| restarts(state, record) && record.restart_backoff.waits(now))
}

/// Takes over restart counts from the API object when the node has no sandbox of the pod: the machine was restarted.
pub fn resume(state: &mut PodState, now: UnixMillis) {
    let status = state.pod.status.clone().unwrap_or_default();
    let all = status
        .init_container_statuses
        .into_iter()
        .flatten()
        .chain(status.container_statuses.into_iter().flatten());
    for known in all {
        let was_started = known
            .state
            .as_ref()
            .is_some_and(|state| state.running.is_some() || state.terminated.is_some())
            || known
                .last_state
                .as_ref()
                .is_some_and(|state| state.terminated.is_some());
        let Some(record) = state.record_mut(&known.name) else {
            continue;
        };
        if was_started {
            record.attempt = known.restart_count.max(0) as u32 + 1;
            record.last_ending = Some(Ending::lost(now, now));
            record.restart_backoff = Backoff::resumed(record.attempt, now);
        }
    }
    ephemeral::resume(state, now);
}

/// Whether what the store has is what was written, as far as others change it: they add conditions of their own.
pub fn is_echo(stored: &PodStatus, written: &PodStatus) -> bool {
    let says = |status: &PodStatus, of: &PodCondition| {
        let mut conditions = status.conditions.iter().flatten();
        conditions.any(|known| (&known.type_, &known.status, &known.reason) == (&of.type_, &of.status, &of.reason))
    };
    let mut own = written.conditions.iter().flatten();
    stored.phase == written.phase && own.all(|condition| says(stored, condition))
}

/// The whole status.
pub fn status(state: &PodState, now: UnixMillis) -> PodStatus {
    let previous = state
        .written
        .clone()
        .or_else(|| state.pod.status.clone())
        .unwrap_or_default();
    let phase = phase(state);
    let of = |role: Role| -> Option<Vec<ContainerStatus>> {
        let records = state.containers.iter().filter(|record| record.role == role);
        let statuses: Vec<_> = records.map(|record| container_status(state, record, now)).collect();
        (!statuses.is_empty()).then_some(statuses)
    };
    let addresses: Vec<String> = match &state.sandbox {
        Sandbox::Running { addresses } if addresses.is_empty() => vec![state.facts.host_ip.clone()],
        Sandbox::Running { addresses } => addresses.iter().map(ToString::to_string).collect(),
        _ if phase.is_final() => previous.pod_ip.iter().cloned().collect(),
        _ => Vec::new(),
    };
    PodStatus {
        phase: Some(phase.word().to_owned()),
        conditions: Some(conditions(state, &previous, phase, now)),
        host_ip: Some(state.facts.host_ip.clone()),
        host_ips: Some(vec![HostIP {
            ip: state.facts.host_ip.clone(),
        }]),
        pod_ip: addresses.first().cloned(),
        pod_ips: (!addresses.is_empty()).then(|| addresses.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: previous.start_time.clone().or_else(|| Some(seconds(now))),
        init_container_statuses: of(Role::Init),
        container_statuses: of(Role::App),
        ephemeral_container_statuses: of(Role::Ephemeral),
        reason: state
            .eviction
            .as_ref()
            .map(|_| eviction::REASON.to_owned())
            .or_else(|| previous.reason.clone()),
        message: state
            .eviction
            .as_ref()
            .map(|eviction| eviction.message.clone())
            .or_else(|| previous.message.clone()),
        observed_generation: state.pod.metadata.generation,
        ..previous
    }
}

fn container_status(state: &PodState, record: &ContainerRecord, now: UnixMillis) -> ContainerStatus {
    let container = state.spec_of(record);
    let running = record.is_running();
    let digest = match &record.image {
        Image::Present { digest } => digest.clone(),
        _ => String::new(),
    };
    let done = record.role == Role::Init && matches!(&record.run, Run::Ended(ending) if ending.exit.exit_code == 0);
    let started_once = !matches!(record.run, Run::Waiting | Run::Starting | Run::Refused { .. });
    let uid = state.pod.metadata.uid.clone().unwrap_or_default();
    let id = |attempt: u32| format!("actorium://{uid}/{}/{attempt}", record.name);
    let waits_for_restart = matches!(record.run, Run::Ended(_)) && restarts(state, record);
    let last = match &record.run {
        Run::Ended(ending) if waits_for_restart => Some((ending, record.attempt)),
        _ => record
            .last_ending
            .as_ref()
            .map(|ending| (ending, record.attempt.saturating_sub(1))),
    };
    let (resources, allocated_resources) = container
        .map(|container| resize::of_status(state, container, record.role))
        .unwrap_or_default();
    ContainerStatus {
        resources,
        allocated_resources,
        name: record.name.clone(),
        image: container
            .and_then(|container| container.image.clone())
            .unwrap_or_default(),
        image_id: digest,
        container_id: started_once.then(|| id(record.attempt)),
        ready: running && (record.role == Role::App || state.is_sidecar(record)) || done,
        started: (record.role != Role::Ephemeral).then_some(running),
        restart_count: record.attempt as i32,
        state: Some(container_state(state, record, waits_for_restart, now, &id)),
        last_state: Some(ContainerState {
            terminated: last.map(|(ending, attempt)| terminated(ending, id(attempt))),
            ..ContainerState::default()
        }),
        ..ContainerStatus::default()
    }
}

fn container_state(
    state: &PodState,
    record: &ContainerRecord,
    waits_for_restart: bool,
    now: UnixMillis,
    id: &impl Fn(u32) -> String,
) -> ContainerState {
    let waiting = |reason: &str, message: Option<String>| ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message,
        }),
        ..ContainerState::default()
    };
    match &record.run {
        Run::Running { started_at } => ContainerState {
            running: Some(ContainerStateRunning {
                started_at: Some(seconds(*started_at)),
            }),
            ..ContainerState::default()
        },
        Run::Ended(_) if waits_for_restart => {
            let text = |value: &Option<String>| value.clone().unwrap_or_default();
            let metadata = &state.pod.metadata;
            let message = format!(
                "back-off {} restarting failed container={} pod={}_{}({})",
                spelled(record.restart_backoff.delay_ms()),
                record.name,
                text(&metadata.name),
                text(&metadata.namespace),
                text(&metadata.uid)
            );
            if record.restart_backoff.waits(now) {
                waiting("CrashLoopBackOff", Some(message))
            } else {
                waiting("ContainerCreating", None)
            }
        }
        Run::Ended(ending) => ContainerState {
            terminated: Some(terminated(ending, id(record.attempt))),
            ..ContainerState::default()
        },
        Run::Refused { reason, message } => waiting(reason, Some(message.clone())),
        Run::Waiting | Run::Starting => match (&record.image, &state.volume_problem, &state.sandbox) {
            (Image::Failed { reason, message }, ..) => {
                let backing_off = *reason == "ErrImagePull" && record.pull_backoff.failures() > 1;
                waiting(
                    if backing_off { "ImagePullBackOff" } else { reason },
                    Some(message.clone()),
                )
            }
            (_, Some(problem), _) => waiting("ContainerCreating", Some(problem.clone())),
            (_, _, Sandbox::Failed { message }) => waiting("ContainerCreating", Some(message.clone())),
            _ if record.role == Role::App && !initialized(state) => waiting("PodInitializing", None),
            _ => waiting("ContainerCreating", None),
        },
    }
}

fn terminated(ending: &Ending, container_id: String) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: Some(container_id),
        exit_code: ending.exit.exit_code,
        signal: ending.exit.signal,
        reason: Some(ending.reason.to_owned()),
        message: (!ending.exit.message.is_empty()).then(|| ending.exit.message.clone()),
        started_at: Some(seconds(ending.exit.started_at)),
        finished_at: Some(seconds(ending.exit.finished_at)),
    }
}

/// Whether every init container is done, sidecars running.
fn initialized(state: &PodState) -> bool {
    state
        .containers
        .iter()
        .filter(|record| record.role == Role::Init)
        .all(|record| match &record.run {
            Run::Running { .. } => state.is_sidecar(record),
            Run::Ended(ending) => !state.is_sidecar(record) && ending.exit.exit_code == 0,
            _ => false,
        })
}

fn conditions(state: &PodState, previous: &PodStatus, phase: Phase, now: UnixMillis) -> Vec<PodCondition> {
    let unready: Vec<&str> = state
        .containers
        .iter()
        .filter(|record| record.role == Role::App && !record.is_running())
        .map(|record| record.name.as_str())
        .collect();
    let unready_message = format!("containers with unready status: [{}]", unready.join(" "));
    let incomplete: Vec<&str> = state
        .containers
        .iter()
        .filter(|record| {
            record.role == Role::Init
                && !matches!(&record.run, Run::Ended(e) if e.exit.exit_code == 0)
                && !record.is_running()
        })
        .map(|record| record.name.as_str())
        .collect();
    let sandboxed = matches!(state.sandbox, Sandbox::Running { .. }) && !phase.is_final();
    let completed = || Some(("PodCompleted", String::new()));
    let ready = match phase {
        Phase::Succeeded => completed(),
        _ if unready.is_empty() => None,
        _ => Some(("ContainersNotReady", unready_message)),
    };
    let initialized = match phase {
        Phase::Succeeded => None,
        _ if incomplete.is_empty() => None,
        _ => Some((
            "ContainersNotInitialized",
            format!("containers with incomplete status: [{}]", incomplete.join(" ")),
        )),
    };
    let mut conditions = vec![
        condition(
            "PodReadyToStartContainers",
            if sandboxed { None } else { Some(("", String::new())) },
            previous,
            now,
        ),
        condition("Initialized", initialized, previous, now),
        condition("Ready", ready.clone(), previous, now),
        condition("ContainersReady", ready, previous, now),
    ];
    if let Some(eviction) = &state.eviction {
        let target = eviction::disruption_target(eviction);
        conditions.push(PodCondition {
            last_transition_time: since("DisruptionTarget", "True", previous).or_else(|| Some(seconds(now))),
            ..target
        });
    }
    conditions.extend(resize::conditions(state).into_iter().map(|of_resize| PodCondition {
        last_transition_time: since(&of_resize.type_, "True", previous).or_else(|| Some(seconds(now))),
        ..of_resize
    }));
    for kept in previous.conditions.iter().flatten() {
        if !resize::CONDITIONS.contains(&kept.type_.as_str()) && !conditions.iter().any(|own| own.type_ == kept.type_) {
            conditions.push(kept.clone());
        }
    }
    conditions
}

/// A condition that is True, or False with reason and message. The time of transition changes with the status only.
fn condition(kind: &str, wrong: Option<(&str, String)>, previous: &PodStatus, now: UnixMillis) -> PodCondition {
    let status = if wrong.is_none() { "True" } else { "False" };
    let (reason, message) = wrong.unwrap_or_default();
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: (!reason.is_empty()).then(|| reason.to_owned()),
        message: (!message.is_empty()).then_some(message),
        last_transition_time: since(kind, status, previous).or_else(|| Some(seconds(now))),
        ..PodCondition::default()
    }
}

/// Since when a condition has had a status.
fn since(kind: &str, status: &str, previous: &PodStatus) -> Option<Time> {
    let before = previous.conditions.iter().flatten().find(|known| known.type_ == kind)?;
    before.last_transition_time.clone().filter(|_| before.status == status)
}

/// An instant as `metav1.Time`: whole seconds.
pub fn seconds(at: UnixMillis) -> Time {
    Time(Timestamp::from_second((at.0 / 1000) as i64).unwrap_or(Timestamp::UNIX_EPOCH))
}
