//! What a pod's actor does next. Pure: `decide` takes the state and one event, and appends effects. It is level-triggered:
//! each event first records what happened, then `advance` looks at the whole state and asks for what is missing.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use protocol::UnixMillis;
use protocol::runtime::{
    ContainerExit, ContainerPhase, ContainerSpec, ContainerState, PodUsage, PresentImage, PullPolicy,
    RegistryCredential, ResourceLimits, RuntimeError, SandboxSpec, SandboxState, VolumeSource, VolumeSpec,
};

use super::backoff::spelled;
use super::dependency::{Dependencies, Reference};
use super::environment::ConfigurationError;
use super::ephemeral;
use super::eviction::{self, Eviction};
use super::plan;
use super::resize::{self, Amounts, Shortage};
use super::state::{ContainerRecord, Ending, Image, PodState, Role, Run, Sandbox, Termination};
use super::status;
use super::stop::{evict, stop_sidecars, terminate};
use super::token::TokenWish;
use super::volumes::volumes;

/// How long a pod that misses a ConfigMap or Secret waits before it looks again, should no event announce it.
const RESOLVE_AGAIN_MS: u64 = 5_000;
/// Statuses that are expected back from the store. One that is forgotten is at worst written once more, which changes nothing.
const UNHEARD_MAX: usize = 8;

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The API object was read or has changed.
    PodChanged(Box<Pod>),
    /// The API object is gone: someone removed it by force.
    PodRemoved,
    /// What the runtime has of this pod, asked when the actor starts.
    SandboxFound(Option<SandboxState>),
    /// ConfigMaps, Secrets and services were read.
    DependenciesResolved(Dependencies),
    /// One of them has changed.
    DependencyChanged(Reference),
    /// The answer to `StartSandbox`.
    SandboxStarted(Result<SandboxState, RuntimeError>),
    /// The sandbox's parent process died.
    SandboxDied(String),
    /// The answer to `RemoveSandbox`.
    SandboxRemoved(Result<(), RuntimeError>),
    /// The answer to `EnsureImage`.
    ImageEnsured {
        /// Which container it is for.
        container: String,
        /// The image, or why not.
        result: Result<PresentImage, RuntimeError>,
    },
    /// The answer to `StartContainer`.
    ContainerStarted {
        /// The container.
        container: String,
        /// Which start.
        attempt: u32,
        /// Its state, or why not.
        result: Result<ContainerState, RuntimeError>,
    },
    /// A container ended.
    ContainerExited {
        /// The container.
        container: String,
        /// Which start.
        attempt: u32,
        /// How.
        exit: ContainerExit,
    },
    /// The answer to `AskRoom`.
    RoomAnswered(Result<(), Shortage>),
    /// The answer to `Resize`.
    Resized(Result<(), RuntimeError>),
    /// The answer to `MeasureUsage`.
    UsageMeasured(Result<PodUsage, RuntimeError>),
    /// A timer rang; stale tokens are dropped.
    TimerRang(u64),
    /// The status could not be written.
    StatusRefused,
    /// The API object could not be removed.
    RemovalRefused,
}

/// What is to be done. All are idempotent.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Read these ConfigMaps and Secrets, and the services of the namespace, and ask for these tokens.
    ResolveDependencies(Vec<Reference>, Vec<TokenWish>),
    /// Start the sandbox; the actor fills in `resolv.conf`.
    StartSandbox(Box<SandboxSpec>),
    /// Make an image present.
    EnsureImage {
        /// Which container it is for.
        container: String,
        /// The reference.
        reference: String,
        /// When to pull.
        policy: PullPolicy,
        /// Credentials to try.
        credentials: Vec<RegistryCredential>,
    },
    /// Start a container.
    StartContainer(Box<ContainerSpec>),
    /// Send a signal.
    SignalContainer {
        /// The container.
        container: String,
        /// The signal's number.
        signal: i32,
    },
    /// Replace the files of a volume.
    UpdateVolume(VolumeSpec),
    /// Ask the node to grant these requests of the whole pod.
    AskRoom(Amounts),
    /// Change limits of what runs.
    Resize {
        /// The pod's.
        whole: ResourceLimits,
        /// Its containers', by name.
        containers: Vec<(String, ResourceLimits)>,
    },
    /// Measure what the pod holds on the disk.
    MeasureUsage,
    /// End everything that is left of the pod on this node.
    RemoveSandbox,
    /// Write the status.
    WriteStatus(Box<PodStatus>),
    /// Remove the API object: nothing of the pod is left.
    RemovePod,
    /// Tell people, as an Event object.
    Record {
        /// `Warning` instead of `Normal`.
        warning: bool,
        /// CamelCase reason.
        reason: &'static str,
        /// One sentence.
        message: String,
    },
    /// Ring at this instant; replaces the timer before.
    SetTimer {
        /// Comes back in `TimerRang`.
        token: u64,
        /// When.
        at: UnixMillis,
    },
    /// The actor is done.
    Stop,
}

/// Records the event and appends what is to be done.
pub fn decide(state: &mut PodState, now: UnixMillis, event: Event, effects: &mut Vec<Effect>) {
    record(state, now, event, effects);
    advance(state, now, effects);
    state.assert_invariants();
}

fn record(state: &mut PodState, now: UnixMillis, event: Event, effects: &mut Vec<Effect>) {
    match event {
        Event::PodChanged(pod) => pod_changed(state, now, *pod, effects),
        Event::PodRemoved => {
            state.forgotten = true;
            state
                .termination
                .get_or_insert(Termination {
                    kill_at: now,
                    signalled: false,
                })
                .kill_at = now;
        }
        Event::SandboxFound(found) => sandbox_found(state, now, found, effects),
        Event::DependenciesResolved(mut dependencies) => {
            state.resolving = false;
            state.resolve_again_at = None;
            state.tokens.merge(&mut dependencies, now);
            state.dependencies = Some(dependencies);
            forget_refusals(state);
            update_volumes(state, effects);
        }
        Event::DependencyChanged(_) => ask_dependencies(state, now, effects),
        Event::SandboxStarted(result) => sandbox_started(state, now, result, effects),
        Event::SandboxDied(reason) => sandbox_died(state, now, &reason, effects),
        Event::SandboxRemoved(result) => sandbox_removed(state, now, result, effects),
        Event::ImageEnsured { container, result } => image_ensured(state, now, &container, result, effects),
        Event::ContainerStarted {
            container,
            attempt,
            result,
        } => {
            container_started(state, now, &container, attempt, result, effects);
        }
        Event::ContainerExited {
            container,
            attempt,
            exit,
        } => {
            if let Some(record) = state.record_mut(&container)
                && record.attempt == attempt
                && record.may_run()
            {
                ended(record, now, Ending::of(exit));
                let for_size = record.resize_stop.take().is_some();
                if for_size && state.termination.is_none() && state.eviction.is_none() {
                    state.record_mut(&container).into_iter().for_each(next_attempt);
                } else {
                    announce_backoff(state, now, &container, effects);
                }
            }
        }
        Event::RoomAnswered(answer) => resize::answered(state, now, answer, effects),
        Event::Resized(result) => resize::resized(state, now, result, effects),
        Event::UsageMeasured(result) => usage_measured(state, now, result, effects),
        Event::TimerRang(token) => {
            if token == state.timer {
                state.timer_at = None;
            }
            if state.resolve_again_at.is_some_and(|at| at <= now) {
                ask_dependencies(state, now, effects);
            }
        }
        Event::StatusRefused => {
            state.written = None;
            state.unheard.clear();
        }
        Event::RemovalRefused => {
            state.forgotten = false;
            state.resolve_again_at = Some(now.plus_ms(RESOLVE_AGAIN_MS));
        }
    }
}

/// A measurement that failed says nothing: the next one will.
fn usage_measured(
    state: &mut PodState,
    now: UnixMillis,
    result: Result<PodUsage, RuntimeError>,
    effects: &mut Vec<Effect>,
) {
    state.measure_at = Some(now.plus_ms(eviction::MEASURE_EVERY_MS));
    let runs = matches!(state.sandbox, Sandbox::Running { .. }) && !status::phase(state).is_final();
    let over = result.ok().and_then(|usage| eviction::over_limit(&state.pod, &usage));
    if let (Some(message), true, None) = (over, runs, &state.termination) {
        warn(effects, eviction::REASON, message.clone());
        state.eviction = Some(Eviction {
            message,
            kill_at: now.plus_ms(eviction::GRACE_MS),
            signalled: false,
        });
    }
}

fn pod_changed(state: &mut PodState, now: UnixMillis, mut pod: Pod, effects: &mut Vec<Effect>) {
    if pod.metadata.deletion_timestamp.is_some() {
        let grace_seconds = pod.metadata.deletion_grace_period_seconds.unwrap_or(30).max(0) as u64;
        let kill_at = now.plus_ms(grace_seconds * 1000);
        match &mut state.termination {
            Some(termination) => termination.kill_at = termination.kill_at.min(kill_at),
            None => {
                state.termination = Some(Termination {
                    kill_at,
                    signalled: false,
                })
            }
        }
    }
    status_heard(state, pod.status.as_ref());
    resize::pod_changed(state, &mut pod);
    let needs_more = ephemeral::refresh(state, &pod);
    state.pod = pod;
    if needs_more && state.dependencies.is_some() {
        ask_dependencies(state, now, effects);
    }
}

/// A status came back from the store. What others wrote over ours is written again, as the kubelet does: the node's actor
/// says of the pods of a silent machine that they are not ready, and does not know when they are.
fn status_heard(state: &mut PodState, heard: Option<&PodStatus>) {
    let Some(heard) = heard else { return };
    let echo = state.unheard.iter().position(|written| status::is_echo(heard, written));
    match (echo, &state.written) {
        // Those before it were overtaken by it.
        (Some(at), _) => drop(state.unheard.drain(..=at)),
        (None, Some(written)) if status::is_echo(heard, written) => {}
        (None, _) => state.written = Some(heard.clone()),
    }
}

fn sandbox_found(state: &mut PodState, now: UnixMillis, found: Option<SandboxState>, effects: &mut Vec<Effect>) {
    if state.sandbox != Sandbox::Unknown {
        return;
    }
    match found {
        None => {
            status::resume(state, now);
            state.sandbox = Sandbox::Absent;
        }
        Some(found) => {
            state.adopt(&found);
            if !found.alive {
                sandbox_died(
                    state,
                    now,
                    "its parent process was gone when the node process started",
                    effects,
                );
            }
        }
    }
}

fn sandbox_started(
    state: &mut PodState,
    now: UnixMillis,
    result: Result<SandboxState, RuntimeError>,
    effects: &mut Vec<Effect>,
) {
    if state.sandbox != Sandbox::Starting {
        return;
    }
    match result {
        Ok(started) => {
            state.facts.pod_ip = started.addresses.first().map(ToString::to_string).unwrap_or_default();
            state.sandbox = Sandbox::Running {
                addresses: started.addresses,
            };
        }
        Err(error) => {
            warn(
                effects,
                "FailedCreatePodSandBox",
                format!("Failed to create pod sandbox: {error}"),
            );
            state.sandbox_backoff.failed_pull(now);
            state.sandbox = Sandbox::Failed {
                message: error.to_string(),
            };
        }
    }
}

/// The containers are gone with their parent. What is left is removed; the pod then gets a new sandbox, in which its init
/// containers run again.
fn sandbox_died(state: &mut PodState, now: UnixMillis, reason: &str, effects: &mut Vec<Effect>) {
    if !matches!(state.sandbox, Sandbox::Running { .. }) {
        return;
    }
    warn(
        effects,
        "SandboxChanged",
        format!("Pod sandbox died ({reason}); it will be killed and re-created."),
    );
    end_what_ran(state, now);
    for record in &mut state.containers {
        if record.role == Role::Init && state.termination.is_none() && matches!(record.run, Run::Ended(_)) {
            next_attempt(record);
        }
    }
    state.sandbox = Sandbox::Removing;
    effects.push(Effect::RemoveSandbox);
}

fn sandbox_removed(state: &mut PodState, now: UnixMillis, result: Result<(), RuntimeError>, effects: &mut Vec<Effect>) {
    match result {
        Ok(()) => {
            end_what_ran(state, now);
            state.sandbox = if state.termination.is_some() {
                Sandbox::Removed
            } else {
                Sandbox::Absent
            };
        }
        Err(error) => {
            warn(effects, "FailedKillPod", format!("error killing pod: {error}"));
            state.sandbox_backoff.failed_pull(now);
            state.sandbox = Sandbox::Failed {
                message: error.to_string(),
            };
        }
    }
}

fn image_ensured(
    state: &mut PodState,
    now: UnixMillis,
    container: &str,
    result: Result<PresentImage, RuntimeError>,
    effects: &mut Vec<Effect>,
) {
    let Some(record) = state.record_mut(container) else {
        return;
    };
    if record.image != Image::Pulling {
        return;
    }
    record.image = match result {
        Ok(image) => {
            record.pull_backoff = Default::default();
            let message = format!("Container image {:?} is present on the node", image.reference);
            effects.push(Effect::Record {
                warning: false,
                reason: "Pulled",
                message,
            });
            Image::Present { digest: image.digest }
        }
        Err(error) => {
            let reason = match &error {
                RuntimeError::ImageAbsent { .. } => "ErrImageNeverPull",
                RuntimeError::ImageName { .. } => "InvalidImageName",
                _ => "ErrImagePull",
            };
            record.pull_backoff.failed_pull(now);
            warn(effects, "Failed", format!("Error: {reason}: {error}"));
            Image::Failed {
                reason,
                message: error.to_string(),
            }
        }
    };
}

/// Without a sandbox no container runs, whether or not its exit was told: a removal may be answered before the exits that it
/// caused.
fn end_what_ran(state: &mut PodState, now: UnixMillis) {
    for record in &mut state.containers {
        record.resize_stop = None;
        match &record.run {
            Run::Running { started_at } => {
                let ending = Ending::lost(now, *started_at);
                ended(record, now, ending);
            }
            Run::Starting => record.run = Run::Waiting,
            _ => {}
        }
    }
}

fn container_started(
    state: &mut PodState,
    now: UnixMillis,
    container: &str,
    attempt: u32,
    result: Result<ContainerState, RuntimeError>,
    effects: &mut Vec<Effect>,
) {
    let Some(record) = state.record_mut(container) else {
        return;
    };
    if record.attempt != attempt || record.run != Run::Starting {
        return;
    }
    match result {
        Ok(started) => {
            let message = format!("Container {container} started");
            effects.push(Effect::Record {
                warning: false,
                reason: "Started",
                message,
            });
            record.image_stop_signal = started.stop_signal;
            match started.phase {
                ContainerPhase::Running { started_at, .. } => record.run = Run::Running { started_at },
                ContainerPhase::Exited(exit) => ended(record, now, Ending::of(exit)),
            }
        }
        Err(RuntimeError::Configuration { reason }) => {
            warn(effects, "Failed", format!("Error: {reason}"));
            record.run = Run::Refused {
                reason: "CreateContainerConfigError",
                message: reason,
            };
            state.resolve_again_at = Some(now.plus_ms(RESOLVE_AGAIN_MS));
        }
        Err(error) => {
            warn(
                effects,
                "Failed",
                format!("Error: failed to start container {container:?}: {error}"),
            );
            ended(record, now, Ending::start_error(now, error.to_string()));
        }
    }
}

fn ended(record: &mut ContainerRecord, now: UnixMillis, ending: Ending) {
    let ran_ms = ending.exit.finished_at.since_ms(ending.exit.started_at);
    record.restart_backoff.failed_restart(now, ran_ms);
    record.run = Run::Ended(ending);
}

fn announce_backoff(state: &PodState, now: UnixMillis, container: &str, effects: &mut Vec<Effect>) {
    for record in status::crash_loops(state, now).filter(|record| record.name == container) {
        let delay = spelled(record.restart_backoff.delay_ms());
        warn(
            effects,
            "BackOff",
            format!("Back-off {delay} restarting failed container {container}"),
        );
    }
}

fn next_attempt(record: &mut ContainerRecord) {
    if let Run::Ended(ending) = std::mem::replace(&mut record.run, Run::Waiting) {
        record.last_ending = Some(ending);
    }
    record.attempt += 1;
}

fn forget_refusals(state: &mut PodState) {
    state.volume_problem = None;
    for record in &mut state.containers {
        if matches!(record.run, Run::Refused { .. }) {
            record.run = Run::Waiting;
        }
    }
}

fn ask_dependencies(state: &mut PodState, now: UnixMillis, effects: &mut Vec<Effect>) {
    state.resolve_again_at = None;
    if !state.resolving && state.termination.is_none() {
        state.resolving = true;
        let spec = state.pod.spec.as_ref();
        let references = spec.map(super::dependency::references).unwrap_or_default();
        let tokens = state.tokens.missing(&state.pod, now);
        effects.push(Effect::ResolveDependencies(references.into_iter().collect(), tokens));
    }
}

/// A running pod sees new content of its ConfigMaps and Secrets in its volumes.
fn update_volumes(state: &mut PodState, effects: &mut Vec<Effect>) {
    let (Sandbox::Running { .. }, Some(dependencies)) = (&state.sandbox, &state.dependencies) else {
        return;
    };
    let Ok(current) = volumes(&state.pod, dependencies, &state.facts) else {
        return;
    };
    for volume in &current {
        let is_files = matches!(volume.source, VolumeSource::Files { .. });
        if is_files && !state.volumes.contains(volume) {
            effects.push(Effect::UpdateVolume(volume.clone()));
        }
    }
    state.volumes = current;
}

fn warn(effects: &mut Vec<Effect>, reason: &'static str, message: String) {
    effects.push(Effect::Record {
        warning: true,
        reason,
        message,
    });
}

/// Looks at the whole state and asks for what is missing.
fn advance(state: &mut PodState, now: UnixMillis, effects: &mut Vec<Effect>) {
    if state.sandbox == Sandbox::Unknown {
        return;
    }
    if state.termination.is_some() {
        terminate(state, now, effects);
    } else if state.eviction.is_some() {
        evict(state, now, effects);
    } else if status::phase(state).is_final() {
        stop_sidecars(state, effects);
    } else {
        run(state, now, effects);
    }
    if !state.forgotten && !is_history(state) {
        write_status(state, now, effects);
    }
    set_timer(state, now, effects);
}

fn run(state: &mut PodState, now: UnixMillis, effects: &mut Vec<Effect>) {
    if state.dependencies.is_none() {
        if state.resolve_again_at.is_none() {
            ask_dependencies(state, now, effects);
        }
        return;
    }
    if state.tokens.due_at(&state.pod).is_some_and(|at| at <= now) {
        ask_dependencies(state, now, effects);
    }
    ensure_images(state, now, effects);
    resize::advance(state, now, effects);
    match &state.sandbox {
        Sandbox::Absent => start_sandbox(state, now, effects),
        Sandbox::Failed { .. } if !state.sandbox_backoff.waits(now) => start_sandbox(state, now, effects),
        Sandbox::Running { .. } => {
            start_ephemeral(state, now, effects);
            resize::kill_overdue(state, now, effects);
            start_containers(state, now, effects);
            if state.measure_at.is_some_and(|at| at <= now) {
                state.measure_at = None;
                effects.push(Effect::MeasureUsage);
            }
        }
        _ => {}
    }
}

/// Whether the pod ended and its sandbox is gone: what its status says is all that is known of it.
fn is_history(state: &PodState) -> bool {
    let told = state.pod.status.as_ref().and_then(|status| status.phase.as_deref());
    state.sandbox == Sandbox::Absent && matches!(told, Some("Succeeded" | "Failed"))
}

fn start_sandbox(state: &mut PodState, now: UnixMillis, effects: &mut Vec<Effect>) {
    let Some(dependencies) = &state.dependencies else {
        return;
    };
    if state.volume_problem.is_some() {
        return;
    }
    match plan::sandbox(&state.pod, dependencies, &state.facts, String::new()) {
        Ok(spec) => {
            state.volumes = spec.volumes.clone();
            state.sandbox = Sandbox::Starting;
            effects.push(Effect::StartSandbox(Box::new(spec)));
        }
        Err(problem) => {
            warn(effects, "FailedMount", format!("MountVolume.SetUp failed: {problem}"));
            state.volume_problem = Some(problem.to_string());
            state.resolve_again_at = Some(now.plus_ms(RESOLVE_AGAIN_MS));
        }
    }
}

/// Images of all containers are made present at once: a slow pull delays only its own container.
fn ensure_images(state: &mut PodState, now: UnixMillis, effects: &mut Vec<Effect>) {
    let empty = Dependencies::default();
    let dependencies = state.dependencies.as_ref().unwrap_or(&empty);
    for at in 0..state.containers.len() {
        let record = &state.containers[at];
        let due = match record.image {
            Image::Unasked => matches!(record.run, Run::Waiting),
            Image::Failed { .. } => !record.pull_backoff.waits(now),
            Image::Pulling | Image::Present { .. } => false,
        };
        let (true, Some(container)) = (due, state.spec_of(record)) else {
            continue;
        };
        let reference = container.image.clone().unwrap_or_default();
        effects.push(Effect::EnsureImage {
            container: record.name.clone(),
            policy: plan::pull_policy(container),
            credentials: plan::credentials(&state.pod, &reference, dependencies),
            reference,
        });
        state.containers[at].image = Image::Pulling;
    }
}

/// Ephemeral containers are started whatever the others do: that may be what they are to find out.
fn start_ephemeral(state: &mut PodState, now: UnixMillis, effects: &mut Vec<Effect>) {
    for at in 0..state.containers.len() {
        let record = &state.containers[at];
        if record.role == Role::Ephemeral && record.run == Run::Waiting && !state.resolving {
            start_container(state, at, now, effects);
        }
    }
}

/// Init containers one after the other, sidecars as soon as it is their turn, then all others at once.
fn start_containers(state: &mut PodState, now: UnixMillis, effects: &mut Vec<Effect>) {
    for at in 0..state.containers.len() {
        let record = &state.containers[at];
        if record.role == Role::Ephemeral {
            continue;
        }
        let sidecar = state.is_sidecar(record);
        if let Run::Ended(_) = record.run
            && status::restarts(state, record)
            && !record.restart_backoff.waits(now)
        {
            let always = state.spec_of(record).map(plan::pull_policy) == Some(PullPolicy::Always);
            let record = &mut state.containers[at];
            next_attempt(record);
            if always {
                record.image = Image::Unasked;
            }
        }
        if state.containers[at].run == Run::Waiting && !state.resize.holds_up_starts() {
            start_container(state, at, now, effects);
        }
        let record = &state.containers[at];
        let passed = match &record.run {
            Run::Running { .. } => sidecar,
            Run::Ended(ending) => ending.exit.exit_code == 0 && !sidecar,
            _ => false,
        };
        if record.role == Role::Init && !passed {
            break;
        }
    }
    ensure_images(state, now, effects);
}

fn start_container(state: &mut PodState, at: usize, now: UnixMillis, effects: &mut Vec<Effect>) {
    let record = &state.containers[at];
    let (Image::Present { .. }, Some(dependencies)) = (&record.image, &state.dependencies) else {
        return;
    };
    let Some(container) = state.spec_of(record) else { return };
    let target = ephemeral::target(&state.pod, record);
    let runs = |name: &String| {
        state
            .containers
            .iter()
            .any(|other| other.name == *name && other.is_running())
    };
    let planned = match &target {
        Some(name) if !runs(name) => Err(ConfigurationError::Target(name.clone())),
        _ => plan::container(&state.pod, container, record.attempt, dependencies, &state.facts),
    };
    match planned {
        Ok(mut spec) => {
            spec.pid_namespace_of = target;
            state.containers[at].run = Run::Starting;
            effects.push(Effect::StartContainer(Box::new(spec)));
        }
        Err(problem) => {
            warn(effects, "Failed", format!("Error: {problem}"));
            let message = problem.to_string();
            state.containers[at].run = Run::Refused {
                reason: "CreateContainerConfigError",
                message,
            };
            state.resolve_again_at = Some(now.plus_ms(RESOLVE_AGAIN_MS));
        }
    }
}

fn write_status(state: &mut PodState, now: UnixMillis, effects: &mut Vec<Effect>) {
    let current = status::status(state, now);
    if state.written.as_ref() != Some(&current) {
        state.written = Some(current.clone());
        if state.unheard.len() == UNHEARD_MAX {
            state.unheard.pop_front();
        }
        state.unheard.push_back(current.clone());
        effects.push(Effect::WriteStatus(Box::new(current)));
    }
}

/// One timer, for the earliest instant at which something becomes due.
fn set_timer(state: &mut PodState, now: UnixMillis, effects: &mut Vec<Effect>) {
    let mut due: Vec<UnixMillis> = Vec::new();
    if let Some(termination) = &state.termination {
        due.push(termination.kill_at);
    } else {
        for record in &state.containers {
            if matches!(record.run, Run::Ended(_)) && status::restarts(state, record) {
                due.push(record.restart_backoff.until());
            }
            if matches!(record.image, Image::Failed { .. }) {
                due.push(record.pull_backoff.until());
            }
        }
        due.extend(state.tokens.due_at(&state.pod));
        due.extend(state.containers.iter().filter_map(|record| record.resize_stop));
        due.extend(state.resize.due_at());
        due.extend(state.measure_at);
        due.extend(state.eviction.as_ref().map(|eviction| eviction.kill_at));
    }
    if matches!(state.sandbox, Sandbox::Failed { .. }) {
        due.push(state.sandbox_backoff.until());
    }
    due.extend(state.resolve_again_at);
    let next = due.into_iter().filter(|at| *at > now).min();
    if next != state.timer_at {
        state.timer_at = next;
        state.timer += 1;
        if let Some(at) = next {
            effects.push(Effect::SetTimer { token: state.timer, at });
        }
    }
}
