//! What a pod's actor knows: the API object as last seen, what the runtime said, what is under way, and how often what
//! failed. All of it can be rebuilt from the API object and the runtime's list of sandboxes.

use std::collections::VecDeque;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use protocol::UnixMillis;
use protocol::runtime::{ContainerExit, ContainerPhase, SandboxState, VolumeSpec, signal_number};

use super::backoff::Backoff;
use super::dependency::Dependencies;
use super::environment::PodFacts;
use super::ephemeral;
use super::eviction::{Eviction, is_limited};
use super::resize::Resize;
use super::token::Tokens;

/// What a container is asked to stop by when neither it nor its image says otherwise.
pub const SIGTERM: i32 = 15;

/// The sandbox's part of the state.
#[derive(Clone, Debug, PartialEq)]
pub enum Sandbox {
    /// It is not known as yet whether one exists.
    Unknown,
    /// None exists.
    Absent,
    /// It was asked for.
    Starting,
    /// It could not be started; tried again after `Progress::sandbox_backoff`.
    Failed {
        /// What went wrong.
        message: String,
    },
    /// It runs.
    Running {
        /// The pod's addresses.
        addresses: Vec<IpAddr>,
    },
    /// It is being removed.
    Removing,
    /// It is gone for good: the pod is over.
    Removed,
}

/// Where a container's image is.
#[derive(Clone, Debug, PartialEq)]
pub enum Image {
    /// Not asked for as yet.
    Unasked,
    /// It is being pulled.
    Pulling,
    /// It is present.
    Present {
        /// Its digest.
        digest: String,
    },
    /// It could not be made present.
    Failed {
        /// `ErrImagePull`, `ErrImageNeverPull`, `InvalidImageName`.
        reason: &'static str,
        /// What the registry said.
        message: String,
    },
}

/// What a container does.
#[derive(Clone, Debug, PartialEq)]
pub enum Run {
    /// Not started as yet in this attempt.
    Waiting,
    /// It cannot be started: reason and message, such as `CreateContainerConfigError`.
    Refused {
        /// The reason that the status shows.
        reason: &'static str,
        /// What is wrong.
        message: String,
    },
    /// The runtime was asked to start it.
    Starting,
    /// It runs.
    Running {
        /// Since when.
        started_at: UnixMillis,
    },
    /// It ended.
    Ended(Ending),
}

/// How a start of a container ended, with the reason that the status shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Exit code, signal, times, last words.
    pub exit: ContainerExit,
    /// `Completed`, `Error`, `OOMKilled`, `StartError` or `ContainerStatusUnknown`.
    pub reason: &'static str,
}

impl Ending {
    /// Of a container that ran.
    pub fn of(exit: ContainerExit) -> Ending {
        let reason = match (exit.oom_killed, exit.exit_code) {
            (true, _) => "OOMKilled",
            (false, 0) => "Completed",
            _ => "Error",
        };
        Ending { exit, reason }
    }

    /// Of a container whose program could not be executed. Kubernetes shows exit code 128 for it.
    pub fn start_error(now: UnixMillis, message: String) -> Ending {
        Ending {
            exit: without_run(128, now, message),
            reason: "StartError",
        }
    }

    /// Of a container that was lost with its sandbox.
    pub fn lost(now: UnixMillis, started_at: UnixMillis) -> Ending {
        let message = "The container could not be located when the pod's sandbox died".to_owned();
        let exit = ContainerExit {
            started_at,
            ..without_run(137, now, message)
        };
        Ending {
            exit,
            reason: "ContainerStatusUnknown",
        }
    }
}

fn without_run(exit_code: i32, now: UnixMillis, message: String) -> ContainerExit {
    ContainerExit {
        exit_code,
        signal: None,
        oom_killed: false,
        started_at: now,
        finished_at: now,
        message,
    }
}

/// What a container is for its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It runs before the others, or beside them as a sidecar.
    Init,
    /// It is what the pod is for.
    App,
    /// It was added to look into the pod.
    Ephemeral,
}

/// One container of the pod.
#[derive(Clone, Debug)]
pub struct ContainerRecord {
    /// Its name.
    pub name: String,
    /// Where in the list of its role it stands.
    pub index: usize,
    /// What it is for the pod.
    pub role: Role,
    /// Which start this is, from zero: the restart count.
    pub attempt: u32,
    /// Its image.
    pub image: Image,
    /// The signal by which the image wants to be stopped, known when it was started.
    pub image_stop_signal: Option<i32>,
    /// What it does.
    pub run: Run,
    /// How the start before this one ended.
    pub last_ending: Option<Ending>,
    /// Waits between restarts.
    pub restart_backoff: Backoff,
    /// Waits between pulls.
    pub pull_backoff: Backoff,
    /// When it is killed, having been asked to stop so that it is started again with its new size.
    pub resize_stop: Option<UnixMillis>,
}

impl ContainerRecord {
    /// One that was not started as yet.
    pub fn new(container: &Container, index: usize, role: Role) -> ContainerRecord {
        ContainerRecord {
            name: container.name.clone(),
            index,
            role,
            attempt: 0,
            image: Image::Unasked,
            image_stop_signal: None,
            run: Run::Waiting,
            last_ending: None,
            restart_backoff: Backoff::default(),
            pull_backoff: Backoff::default(),
            resize_stop: None,
        }
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        matches!(self.run, Run::Running { .. })
    }

    /// Whether a process of it may exist.
    pub fn may_run(&self) -> bool {
        matches!(self.run, Run::Running { .. } | Run::Starting)
    }
}

/// Deletion, once it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Termination {
    /// When the grace period ends and what still runs is killed.
    pub kill_at: UnixMillis,
    /// Whether the containers were asked to stop.
    pub signalled: bool,
}

/// A pod's whole state.
#[derive(Clone, Debug)]
pub struct PodState {
    /// The API object as last seen, with the resources that this node granted.
    pub pod: Pod,
    /// Facts of node and pod for the downward API.
    pub facts: PodFacts,
    /// ConfigMaps, Secrets and services, once they were read.
    pub dependencies: Option<Dependencies>,
    /// Whether they are being read.
    pub resolving: bool,
    /// The tokens that its volumes show.
    pub tokens: Tokens,
    /// The sandbox.
    pub sandbox: Sandbox,
    /// Waits between tries to start the sandbox.
    pub sandbox_backoff: Backoff,
    /// Why the volumes cannot be prepared, if so.
    pub volume_problem: Option<String>,
    /// The volumes as the runtime has them, to update what changed.
    pub volumes: Vec<VolumeSpec>,
    /// When ConfigMaps and Secrets are read again because something was missing.
    pub resolve_again_at: Option<UnixMillis>,
    /// Whether the sidecars were asked to stop, the app being done.
    pub sidecars_stopped: bool,
    /// Init containers in order, then the app's, then ephemeral ones.
    pub containers: Vec<ContainerRecord>,
    /// The specifications of the ephemeral ones.
    pub ephemeral: Vec<Container>,
    /// What is asked for and not granted, and what is granted and not in force.
    pub resize: Resize,
    /// Deletion, once it was asked for.
    pub termination: Option<Termination>,
    /// Eviction, once it was decided.
    pub eviction: Option<Eviction>,
    /// When the pod's use of the disk is measured; `None` while nothing of it is limited or a measurement is under way.
    pub measure_at: Option<UnixMillis>,
    /// Whether the API object is gone, or being removed by us.
    pub forgotten: bool,
    /// The status last written or read, to write only changes.
    pub written: Option<PodStatus>,
    /// What was written and has not come back from the store, oldest first: what comes back otherwise was written by others.
    pub unheard: VecDeque<PodStatus>,
    /// The number of the newest timer; older ones are stale.
    pub timer: u64,
    /// For when the newest timer is set.
    pub timer_at: Option<UnixMillis>,
}

impl PodState {
    /// A pod that was just bound, or found after a restart of the node process.
    pub fn new(mut pod: Pod, facts: PodFacts) -> PodState {
        let resize = Resize::of(&mut pod);
        let spec = pod.spec.clone().unwrap_or_default();
        let ephemeral = ephemeral::containers(&pod);
        let lists = [
            (Role::Init, spec.init_containers.unwrap_or_default()),
            (Role::App, spec.containers),
            (Role::Ephemeral, ephemeral.clone()),
        ];
        let mut containers = Vec::new();
        for (role, list) in &lists {
            let records = list.iter().enumerate();
            containers.extend(records.map(|(index, container)| ContainerRecord::new(container, index, *role)));
        }
        let written = pod.status.clone();
        let (eviction, limited) = (Eviction::of_status(&pod), is_limited(&pod));
        PodState {
            pod,
            facts,
            dependencies: None,
            resolving: false,
            tokens: Tokens::default(),
            sandbox: Sandbox::Unknown,
            sandbox_backoff: Backoff::default(),
            volume_problem: None,
            volumes: Vec::new(),
            resolve_again_at: None,
            sidecars_stopped: false,
            containers,
            ephemeral,
            resize,
            termination: None,
            eviction,
            measure_at: limited.then_some(UnixMillis(0)),
            forgotten: false,
            written,
            unheard: VecDeque::new(),
            timer: 0,
            timer_at: None,
        }
    }

    /// The container's specification.
    pub fn spec_of(&self, record: &ContainerRecord) -> Option<&Container> {
        let spec = self.pod.spec.as_ref()?;
        match record.role {
            Role::Init => spec.init_containers.as_ref()?.get(record.index),
            Role::App => spec.containers.get(record.index),
            Role::Ephemeral => self.ephemeral.get(record.index),
        }
    }

    /// How a container is asked to stop: `lifecycle.stopSignal`, else its image's `StopSignal`, else SIGTERM.
    pub fn stop_signal(&self, record: &ContainerRecord) -> i32 {
        let lifecycle = self.spec_of(record).and_then(|container| container.lifecycle.as_ref());
        let chosen = lifecycle.and_then(|lifecycle| signal_number(lifecycle.stop_signal.as_deref()?));
        chosen.or(record.image_stop_signal).unwrap_or(SIGTERM)
    }

    /// The record of a container by name.
    pub fn record_mut(&mut self, name: &str) -> Option<&mut ContainerRecord> {
        self.containers.iter_mut().find(|record| record.name == name)
    }

    /// Whether an init container is a sidecar: `restartPolicy: Always`.
    pub fn is_sidecar(&self, record: &ContainerRecord) -> bool {
        record.role == Role::Init && self.spec_of(record).and_then(|c| c.restart_policy.as_deref()) == Some("Always")
    }

    /// Takes over what the runtime found on the node: a sandbox whose parent process lives.
    pub fn adopt(&mut self, found: &SandboxState) {
        self.sandbox = Sandbox::Running {
            addresses: found.addresses.clone(),
        };
        self.facts.pod_ip = found.addresses.first().map(ToString::to_string).unwrap_or_default();
        for container in &found.containers {
            let Some(record) = self.record_mut(&container.name) else {
                continue;
            };
            record.attempt = container.attempt;
            record.image_stop_signal = container.stop_signal;
            record.image = Image::Present {
                digest: container.image_digest.clone(),
            };
            record.run = match &container.phase {
                ContainerPhase::Running { started_at, .. } => Run::Running {
                    started_at: *started_at,
                },
                ContainerPhase::Exited(exit) => Run::Ended(Ending::of(exit.clone())),
            };
        }
    }

    /// Panics when the state contradicts the module's invariants: a bug of ours.
    pub fn assert_invariants(&self) {
        let sandbox_runs = matches!(self.sandbox, Sandbox::Running { .. });
        for record in &self.containers {
            // A removal that failed leaves containers about which nothing is known.
            let on_its_way_out = matches!(self.sandbox, Sandbox::Removing | Sandbox::Failed { .. });
            assert!(
                !record.may_run() || sandbox_runs || on_its_way_out,
                "container {} runs without a sandbox",
                record.name
            );
        }
        let app_runs = self
            .containers
            .iter()
            .any(|record| record.role == Role::App && record.may_run());
        let init_done = self
            .containers
            .iter()
            .filter(|record| record.role == Role::Init && !self.is_sidecar(record))
            .all(|record| matches!(&record.run, Run::Ended(ending) if ending.exit.exit_code == 0));
        assert!(
            !app_runs || init_done,
            "a container of the app runs before every init container is done"
        );
    }
}
