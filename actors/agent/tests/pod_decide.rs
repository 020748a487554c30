//! What a pod's actor decides, without an actor: scenarios with a model of the runtime that answers every effect, and random
//! sequences of events with the invariants checked after each.

#[path = "pod_decide/running.rs"]
mod running;

use agent::pod::decide::{Effect, Event, decide};
use agent::pod::dependency::Dependencies;
use agent::pod::environment::PodFacts;
use agent::pod::resize::Shortage;
use agent::pod::state::{PodState, Run, SIGTERM, Sandbox};
use agent::pod::status::{Phase, phase, status};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use proptest::prelude::*;
use protocol::UnixMillis;
use protocol::runtime::{
    ContainerExit, ContainerPhase, ContainerState, PodUsage, PresentImage, RuntimeError, SandboxState,
};
use serde_json::{Value, json};

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "d", "uid": "u"}, "spec": spec})).unwrap()
}

fn one_container(policy: &str) -> Pod {
    pod(json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]}))
}

/// A pod's state with a runtime that does what it is asked, at once.
struct World {
    state: PodState,
    now: UnixMillis,
    started: Vec<(String, u32)>,
    signals: Vec<String>,
    signal_numbers: Vec<i32>,
    usage: PodUsage,
    measured: u32,
    image_stop_signal: Option<i32>,
    removed: u32,
    gone: bool,
    stopped: bool,
    image_fails: bool,
    start_fails: bool,
    shortage: Option<Shortage>,
    resize_fails: bool,
    /// Milli-cpu that the pod asked its node for, and the limits of containers that were put in force.
    asked: Vec<u64>,
    in_force: Vec<(String, Option<u64>)>,
    targets: Vec<Option<String>>,
    events: Vec<&'static str>,
}

impl World {
    fn new(pod: Pod) -> World {
        let state = PodState::new(pod.clone(), PodFacts::default());
        let mut world = World {
            state,
            now: UnixMillis(1_000_000),
            started: vec![],
            signals: vec![],
            signal_numbers: vec![],
            usage: PodUsage::default(),
            measured: 0,
            image_stop_signal: None,
            removed: 0,
            gone: false,
            stopped: false,
            image_fails: false,
            start_fails: false,
            shortage: None,
            resize_fails: false,
            asked: vec![],
            in_force: vec![],
            targets: vec![],
            events: vec![],
        };
        world.tell(Event::SandboxFound(None));
        world.tell(Event::PodChanged(Box::new(pod)));
        world
    }

    fn tell(&mut self, event: Event) {
        let mut events = vec![event];
        let mut steps = 0;
        while let Some(event) = events.pop() {
            steps += 1;
            assert!(steps < 500, "effects and answers go on for ever");
            let mut effects = Vec::new();
            decide(&mut self.state, self.now, event, &mut effects);
            events.extend(effects.into_iter().filter_map(|effect| self.answer(effect)));
        }
    }

    fn answer(&mut self, effect: Effect) -> Option<Event> {
        let exit_error = || RuntimeError::Exec {
            program: "/x".into(),
            reason: "No such file".into(),
        };
        Some(match effect {
            Effect::ResolveDependencies(..) => Event::DependenciesResolved(Dependencies::default()),
            Effect::StartSandbox(spec) => Event::SandboxStarted(Ok(SandboxState {
                pod: spec.pod.clone(),
                addresses: vec!["10.244.0.9".parse().unwrap()],
                started_at: self.now,
                alive: true,
                containers: vec![],
            })),
            Effect::EnsureImage {
                container, reference, ..
            } => {
                let result = if self.image_fails {
                    Err(RuntimeError::ImagePull {
                        reference,
                        reason: "not found".into(),
                    })
                } else {
                    Ok(PresentImage {
                        reference,
                        digest: "sha256:1".into(),
                        size_bytes: 1,
                    })
                };
                Event::ImageEnsured { container, result }
            }
            Effect::StartContainer(spec) => {
                self.started.push((spec.name.clone(), spec.attempt));
                self.targets.push(spec.pid_namespace_of.clone());
                let phase = ContainerPhase::Running {
                    pid: 1,
                    started_at: self.now,
                };
                let (name, attempt) = (spec.name.clone(), spec.attempt);
                let state = ContainerState {
                    name,
                    attempt,
                    image_digest: "sha256:1".into(),
                    stop_signal: self.image_stop_signal,
                    phase,
                };
                let result = if self.start_fails { Err(exit_error()) } else { Ok(state) };
                Event::ContainerStarted {
                    container: spec.name,
                    attempt: spec.attempt,
                    result,
                }
            }
            Effect::SignalContainer { container, signal } => {
                self.signal_numbers.push(signal);
                self.signals.push(container);
                return None;
            }
            Effect::MeasureUsage => {
                self.measured += 1;
                Event::UsageMeasured(Ok(self.usage.clone()))
            }
            Effect::RemoveSandbox => {
                self.removed += 1;
                Event::SandboxRemoved(Ok(()))
            }
            Effect::RemovePod => {
                self.gone = true;
                Event::PodRemoved
            }
            Effect::Stop => {
                self.stopped = true;
                return None;
            }
            Effect::AskRoom(amounts) => {
                self.asked.push(amounts.cpu_milli);
                Event::RoomAnswered(self.shortage.clone().map_or(Ok(()), Err))
            }
            Effect::Resize { containers, .. } => {
                let failure = || RuntimeError::Failed {
                    doing: "resizing".into(),
                    reason: "below current usage".into(),
                };
                if !self.resize_fails {
                    let limits = containers
                        .into_iter()
                        .map(|(name, limits)| (name, limits.cpu_limit_milli));
                    self.in_force = limits.collect();
                }
                Event::Resized(if self.resize_fails { Err(failure()) } else { Ok(()) })
            }
            Effect::Record { reason, .. } => {
                self.events.push(reason);
                return None;
            }
            Effect::WriteStatus(_) | Effect::SetTimer { .. } | Effect::UpdateVolume(_) => {
                return None;
            }
        })
    }

    fn exit(&mut self, container: &str, code: i32) {
        let attempt = self.state.record_mut(container).unwrap().attempt;
        let exit = ContainerExit {
            exit_code: code,
            signal: None,
            oom_killed: false,
            started_at: self.now,
            finished_at: self.now,
            message: String::new(),
        };
        self.tell(Event::ContainerExited {
            container: container.into(),
            attempt,
            exit,
        });
    }

    fn pass(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        self.tell(Event::TimerRang(self.state.timer));
    }

    fn running(&mut self, container: &str) -> bool {
        self.state.record_mut(container).unwrap().is_running()
    }

    fn delete(&mut self, grace_seconds: i64) {
        let mut pod = self.state.pod.clone();
        pod.metadata.deletion_timestamp = Some(agent::pod::status::seconds(self.now));
        pod.metadata.deletion_grace_period_seconds = Some(grace_seconds);
        self.tell(Event::PodChanged(Box::new(pod)));
    }
}

#[test]
fn a_bound_pod_gets_its_sandbox_image_and_container() {
    let mut world = World::new(one_container("Always"));
    assert_eq!(world.started, [("c".to_owned(), 0)]);
    assert!(world.running("c"));
    let status = status(&world.state, world.now);
    assert_eq!(
        (status.phase.as_deref(), status.pod_ip.as_deref()),
        (Some("Running"), Some("10.244.0.9"))
    );
    let ready = status
        .conditions
        .unwrap()
        .into_iter()
        .find(|c| c.type_ == "Ready")
        .unwrap();
    assert_eq!(ready.status, "True");
}

#[test]
fn restart_policies_follow_the_exit_code() {
    for (policy, code, restarted, expected) in [
        ("Always", 0, true, Phase::Running),
        ("Always", 1, true, Phase::Running),
        ("OnFailure", 1, true, Phase::Running),
        ("OnFailure", 0, false, Phase::Succeeded),
        ("Never", 0, false, Phase::Succeeded),
        ("Never", 3, false, Phase::Failed),
    ] {
        let mut world = World::new(one_container(policy));
        world.exit("c", code);
        assert_eq!(world.running("c"), restarted, "{policy} {code}");
        assert_eq!(phase(&world.state), expected, "{policy} {code}");
    }
}

#[test]
fn a_container_that_fails_again_waits_and_says_crash_loop() {
    let mut world = World::new(one_container("Always"));
    world.exit("c", 1);
    assert!(world.running("c"), "the first restart is at once");
    world.exit("c", 1);
    assert!(!world.running("c"));
    let waiting = status(&world.state, world.now).container_statuses.unwrap()[0]
        .state
        .clone()
        .unwrap()
        .waiting
        .unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    world.pass(9_999);
    assert!(!world.running("c"));
    world.pass(1);
    assert!(world.running("c"));
    assert_eq!(world.started.last(), Some(&("c".to_owned(), 2)));
}

#[test]
fn init_containers_run_one_after_the_other_before_the_app() {
    let mut world = World::new(pod(json!({
        "initContainers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}],
        "containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "i"}],
    })));
    assert_eq!(world.started, [("a".to_owned(), 0)]);
    world.exit("a", 0);
    assert_eq!(world.started.last(), Some(&("b".to_owned(), 0)));
    world.exit("b", 2);
    world.exit("b", 0);
    let last: Vec<&str> = world
        .started
        .iter()
        .rev()
        .take(2)
        .map(|(name, _)| name.as_str())
        .collect();
    assert!(last.contains(&"c") && last.contains(&"d"), "{:?}", world.started);
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let mut world = World::new(pod(json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "a", "image": "i"}], "containers": [{"name": "c", "image": "i"}],
    })));
    world.exit("a", 1);
    assert_eq!(phase(&world.state), Phase::Failed);
    assert!(!world.started.iter().any(|(name, _)| name == "c"));
}

#[test]
fn a_sidecar_starts_first_runs_on_and_stops_when_the_app_is_done() {
    let mut world = World::new(pod(json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always"}], "containers": [{"name": "c", "image": "i"}],
    })));
    assert!(world.running("s") && world.running("c"));
    world.exit("c", 0);
    assert_eq!(world.signals, ["s"]);
    assert_eq!(phase(&world.state), Phase::Succeeded);
}

#[test]
fn deletion_asks_waits_kills_and_removes() {
    let mut world = World::new(one_container("Always"));
    world.delete(30);
    assert_eq!((world.signals.len(), world.signals[0].as_str()), (1, "c"));
    assert_eq!(world.signal_numbers, [SIGTERM]);
    assert_eq!(world.removed, 0, "the container has its grace period");
    world.exit("c", 0);
    assert_eq!(world.removed, 1);
    assert!(world.gone && world.stopped);

    let mut stubborn = World::new(one_container("Always"));
    stubborn.delete(30);
    stubborn.pass(29_999);
    assert_eq!(stubborn.removed, 0);
    stubborn.pass(1);
    assert!(stubborn.removed == 1 && stubborn.gone);
}

#[test]
fn containers_are_asked_to_stop_by_their_own_signal() {
    let of = |lifecycle: Value, image: Option<i32>| {
        let mut world = World::new(pod(json!({"containers": [{"name": "other", "image": "i"}]})));
        world.image_stop_signal = image;
        let spec = json!({"containers": [{"name": "c", "image": "i", "lifecycle": lifecycle}]});
        world.state = PodState::new(pod(spec), PodFacts::default());
        world.tell(Event::SandboxFound(None));
        world.delete(30);
        world.signal_numbers
    };
    assert_eq!(of(json!({}), None), [SIGTERM]);
    assert_eq!(of(json!({}), Some(3)), [3], "the image's");
    assert_eq!(
        of(json!({"stopSignal": "SIGUSR1"}), Some(3)),
        [10],
        "the container's counts more"
    );
}

fn limited() -> Pod {
    pod(json!({
        "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}],
        "containers": [{"name": "c", "image": "i"}],
    }))
}

#[test]
fn a_pod_that_fills_its_volume_is_evicted_and_frees_the_disk() {
    let mut world = World::new(limited());
    assert_eq!(world.measured, 1);
    world.pass(9_999);
    assert_eq!(world.measured, 1);
    world.usage.volume_bytes.insert("v".into(), 2 << 20);
    world.pass(1);
    assert_eq!(
        (world.measured, world.signal_numbers.as_slice()),
        (2, [SIGTERM].as_slice())
    );
    let told = status(&world.state, world.now);
    let words = (told.phase.as_deref(), told.reason.as_deref(), told.message.as_deref());
    let message = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ";
    assert_eq!(words, (Some("Failed"), Some("Evicted"), Some(message)));
    let target = told
        .conditions
        .unwrap()
        .into_iter()
        .find(|known| known.type_ == "DisruptionTarget")
        .unwrap();
    assert_eq!(
        (target.status.as_str(), target.reason.as_deref()),
        ("True", Some("TerminationByKubelet"))
    );
    world.pass(1_000);
    assert_eq!(world.signal_numbers, [SIGTERM, 9], "it had its second");
    assert_eq!(world.removed, 0, "its exit is waited for");
    world.exit("c", 137);
    assert_eq!((world.removed, world.started.len()), (1, 1), "no restart");
    let told = status(&world.state, world.now).container_statuses.unwrap()[0]
        .state
        .clone()
        .unwrap();
    assert_eq!(told.terminated.unwrap().exit_code, 137);
    assert!(!world.gone, "the API object stays");
    world.pass(60_000);
    assert_eq!((world.measured, world.removed), (2, 1), "nothing is left to do");
    world.delete(30);
    assert!(world.gone && world.stopped);
}

#[test]
fn an_eviction_goes_on_after_the_actor_was_started_again_and_its_status_stays() {
    let mut evicted = limited();
    evicted.status = serde_json::from_value(json!({
        "phase": "Failed", "reason": "Evicted", "message": "full",
        "containerStatuses": [{"name": "c", "ready": false, "restartCount": 0, "image": "i", "imageID": "",
            "state": {"terminated": {"exitCode": 137}}}],
    }))
    .unwrap();
    let mut effects = Vec::new();
    let mut state = PodState::new(evicted.clone(), PodFacts::default());
    decide(&mut state, UnixMillis(5), Event::SandboxFound(None), &mut effects);
    decide(
        &mut state,
        UnixMillis(5),
        Event::PodChanged(Box::new(evicted.clone())),
        &mut effects,
    );
    assert_eq!(effects, [], "nothing is known beyond what was written");

    let running = ContainerState {
        name: "c".into(),
        attempt: 0,
        image_digest: "sha256:1".into(),
        stop_signal: None,
        phase: ContainerPhase::Running {
            pid: 1,
            started_at: UnixMillis(1),
        },
    };
    let found = SandboxState {
        pod: agent::pod::plan::identity(&evicted),
        addresses: vec![],
        started_at: UnixMillis(1),
        alive: true,
        containers: vec![running],
    };
    let mut state = PodState::new(evicted, PodFacts::default());
    decide(
        &mut state,
        UnixMillis(5),
        Event::SandboxFound(Some(found)),
        &mut effects,
    );
    let kill = Effect::SignalContainer {
        container: "c".into(),
        signal: 9,
    };
    assert!(effects.contains(&kill), "{effects:?}");
}

#[test]
fn a_pod_that_was_removed_by_force_leaves_nothing_and_is_not_removed_again() {
    let mut world = World::new(one_container("Always"));
    world.tell(Event::PodRemoved);
    assert!(world.removed == 1 && world.stopped && !world.gone);
}

#[test]
fn what_others_write_over_the_status_is_written_again_and_an_echo_is_not() {
    let mut state = PodState::new(one_container("Always"), PodFacts::default());
    let (mut asked, mut written) = (vec![Event::SandboxFound(None)], Vec::new());
    let mut world = World::new(one_container("Always"));
    while let Some(event) = asked.pop() {
        let mut effects = Vec::new();
        decide(&mut state, world.now, event, &mut effects);
        for effect in effects {
            match effect {
                Effect::WriteStatus(status) => written.push(*status),
                other => asked.extend(world.answer(other)),
            }
        }
    }
    let mut hears = |status: PodStatus| {
        let mut pod = one_container("Always");
        pod.status = Some(status);
        let mut effects = Vec::new();
        decide(
            &mut state,
            UnixMillis(2_000_000),
            Event::PodChanged(Box::new(pod)),
            &mut effects,
        );
        let statuses = effects.into_iter().filter_map(|effect| match effect {
            Effect::WriteStatus(status) => Some(*status),
            _ => None,
        });
        statuses.collect::<Vec<_>>()
    };
    let is_ready = |status: &PodStatus| {
        let mut conditions = status.conditions.iter().flatten();
        conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    assert!(written.len() > 2 && is_ready(written.last().unwrap()), "{written:?}");
    // Some come late, and one was overtaken.
    for status in [&written[0], written.last().unwrap()] {
        assert_eq!(hears(status.clone()), []);
    }
    let mut foreign = written.last().unwrap().clone();
    let scheduled = PodCondition {
        type_: "PodScheduled".into(),
        status: "True".into(),
        ..PodCondition::default()
    };
    foreign.conditions.get_or_insert_default().push(scheduled);
    assert_eq!(hears(foreign.clone()), [], "a condition of the scheduler's");
    for condition in foreign
        .conditions
        .iter_mut()
        .flatten()
        .filter(|condition| condition.type_ == "Ready")
    {
        (condition.status, condition.reason) = ("False".into(), Some("NodeNotReady".into()));
    }
    let again = hears(foreign);
    assert!(again.len() == 1 && is_ready(&again[0]), "{again:?}");
    assert_eq!(hears(again[0].clone()), []);
}

#[test]
fn an_image_that_cannot_be_pulled_is_tried_again_with_back_off() {
    let mut world = World::new(one_container("Always"));
    assert!(world.running("c"));
    let mut world = {
        let mut fresh = World {
            image_fails: true,
            state: PodState::new(one_container("Always"), PodFacts::default()),
            ..std::mem::replace(&mut world, World::new(one_container("Always")))
        };
        fresh.started.clear();
        fresh.tell(Event::SandboxFound(None));
        fresh
    };
    let waiting = status(&world.state, world.now).container_statuses.unwrap()[0]
        .state
        .clone()
        .unwrap()
        .waiting
        .unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("ErrImagePull"));
    world.pass(10_000);
    let waiting = status(&world.state, world.now).container_statuses.unwrap()[0]
        .state
        .clone()
        .unwrap()
        .waiting
        .unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("ImagePullBackOff"));
    world.image_fails = false;
    world.pass(20_000);
    assert!(world.running("c"));
}

#[test]
fn a_program_that_does_not_exist_is_a_start_error() {
    let mut world = World::new(one_container("Never"));
    world.exit("c", 0);
    let mut failing = World {
        start_fails: true,
        ..world
    };
    failing.state = PodState::new(one_container("Never"), PodFacts::default());
    failing.tell(Event::SandboxFound(None));
    assert_eq!(phase(&failing.state), Phase::Failed);
    let ended = status(&failing.state, failing.now).container_statuses.unwrap()[0]
        .state
        .clone()
        .unwrap()
        .terminated
        .unwrap();
    assert_eq!((ended.reason.as_deref(), ended.exit_code), (Some("StartError"), 128));
    assert!(ended.message.unwrap().contains("/x"));
}

#[test]
fn a_sandbox_that_died_is_replaced_and_init_containers_run_again() {
    let mut world = World::new(pod(json!({
        "initContainers": [{"name": "a", "image": "i"}], "containers": [{"name": "c", "image": "i"}],
    })));
    world.exit("a", 0);
    assert!(world.running("c"));
    world.tell(Event::SandboxDied("killed".into()));
    assert_eq!(world.started.last(), Some(&("a".to_owned(), 1)));
    world.exit("a", 0);
    world.pass(60_000);
    assert!(world.running("c"));
}

#[test]
fn a_missing_config_map_is_named_and_found_later() {
    let mut world = World::new(one_container("Always"));
    let spec = json!({"containers": [{"name": "c", "image": "i", "envFrom": [{"configMapRef": {"name": "m"}}]}]});
    world.state = PodState::new(pod(spec), PodFacts::default());
    world.tell(Event::SandboxFound(None));
    let refused = world.state.record_mut("c").unwrap().run.clone();
    assert!(
        matches!(&refused, Run::Refused { message, .. } if message == "configmap \"m\" not found"),
        "{refused:?}"
    );
    let reference = agent::pod::dependency::Reference::new(agent::pod::dependency::Source::ConfigMap, "m");
    let found = Dependencies {
        contents: [(reference, Some(Default::default()))].into(),
        services: vec![],
        tokens: Default::default(),
    };
    world.tell(Event::DependenciesResolved(found));
    assert!(world.running("c"));
}

#[test]
fn after_a_restart_of_the_node_process_running_containers_are_left_alone() {
    let mut state = PodState::new(one_container("Always"), PodFacts::default());
    let found = SandboxState {
        pod: agent::pod::plan::identity(&one_container("Always")),
        addresses: vec!["10.244.0.9".parse().unwrap()],
        started_at: UnixMillis(5),
        alive: true,
        containers: vec![ContainerState {
            name: "c".into(),
            attempt: 3,
            image_digest: "sha256:1".into(),
            stop_signal: None,
            phase: ContainerPhase::Running {
                pid: 7,
                started_at: UnixMillis(6),
            },
        }],
    };
    let mut effects = Vec::new();
    decide(
        &mut state,
        UnixMillis(10),
        Event::SandboxFound(Some(found)),
        &mut effects,
    );
    decide(
        &mut state,
        UnixMillis(10),
        Event::DependenciesResolved(Dependencies::default()),
        &mut effects,
    );
    let touches = |effect: &Effect| {
        matches!(
            effect,
            Effect::StartContainer(_) | Effect::StartSandbox(_) | Effect::RemoveSandbox | Effect::EnsureImage { .. }
        )
    };
    assert!(!effects.iter().any(touches), "{effects:?}");
    assert_eq!(state.record_mut("c").unwrap().attempt, 3);
}

#[derive(Clone, Debug)]
enum Step {
    Exit(usize, i32),
    SandboxDied,
    Delete(i64),
    Removed,
    Pass(u64),
    Changed,
    StaleTimer(u64),
    StaleExit(u32),
    FillsDisk,
    Resizes(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3usize, 0..3i32).prop_map(|(container, code)| Step::Exit(container, code)),
        1 => Just(Step::SandboxDied),
        1 => (0..40i64).prop_map(Step::Delete),
        1 => Just(Step::Removed),
        4 => (0..400_000u64).prop_map(Step::Pass),
        1 => Just(Step::Changed),
        1 => any::<u64>().prop_map(Step::StaleTimer),
        1 => (5..9u32).prop_map(Step::StaleExit),
        1 => Just(Step::FillsDisk),
        2 => (1..4u64).prop_map(Step::Resizes),
    ];
    proptest::collection::vec(step, 0..40)
}

proptest! {
    /// Whatever happens: the invariants hold (`decide` asserts them), a start is never repeated, nothing starts once
    /// deletion was asked for, and a pod that is deleted ends with nothing left.
    #[test]
    fn no_sequence_of_events_breaks_a_pod(policy in 0..3usize, steps in steps()) {
        let policy = ["Always", "OnFailure", "Never"][policy];
        let mut world = World::new(pod(json!({
            "restartPolicy": policy,
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}],
            "initContainers": [{"name": "a", "image": "i"}],
            "containers": [
                {"name": "b", "image": "i"},
                {"name": "c", "image": "i", "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]},
            ],
            "ephemeralContainers": [{"name": "d", "image": "i", "targetContainerName": "b"}],
        })));
        let mut deleted_after = None;
        let mut evicted_after = None;
        for step in steps {
            if world.stopped {
                break;
            }
            match step {
                Step::Exit(container, code) => {
                    let name = ["a", "b", "c"][container];
                    if world.running(name) {
                        world.exit(name, code);
                    }
                }
                Step::SandboxDied => world.tell(Event::SandboxDied("test".into())),
                Step::Delete(grace) => {
                    world.delete(grace);
                    deleted_after.get_or_insert(world.started.len());
                }
                Step::Removed => {
                    world.tell(Event::PodRemoved);
                    deleted_after.get_or_insert(world.started.len());
                }
                Step::FillsDisk => drop(world.usage.volume_bytes.insert("v".into(), 2 << 20)),
                Step::Resizes(milli) => {
                    let mut asks = world.state.pod.clone();
                    running::ask(&mut asks, "b", milli);
                    running::ask(&mut asks, "c", milli + 1);
                    world.tell(Event::PodChanged(Box::new(asks)));
                }
                Step::Pass(ms) => world.pass(ms),
                Step::Changed => world.tell(Event::PodChanged(Box::new(world.state.pod.clone()))),
                Step::StaleTimer(token) => world.tell(Event::TimerRang(token)),
                Step::StaleExit(attempt) => {
                    let exit = ContainerExit { exit_code: 1, signal: None, oom_killed: false, started_at: world.now, finished_at: world.now, message: String::new() };
                    world.tell(Event::ContainerExited { container: "b".into(), attempt: attempt + 100, exit });
                }
            }
            if world.state.eviction.is_some() {
                evicted_after.get_or_insert(world.started.len());
            }
        }
        if let Some(before) = evicted_after {
            prop_assert_eq!(world.started.len(), before, "something was started after eviction");
            prop_assert_eq!(phase(&world.state), Phase::Failed);
        }
        let mut unique = world.started.clone();
        unique.sort();
        unique.dedup();
        prop_assert_eq!(unique.len(), world.started.len(), "a start was repeated: {:?}", world.started);
        if let Some(before) = deleted_after {
            prop_assert_eq!(world.started.len(), before, "something was started after deletion");
            world.pass(100_000);
            prop_assert!(world.stopped && matches!(world.state.sandbox, Sandbox::Removed | Sandbox::Absent));
        }
    }
}
