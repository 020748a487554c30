//! What the node's side tells the per-pod parent about a container to start, and how a start can fail. Everything is
//! resolved already (image, limits, paths); only what must be read inside the container's root (user names, PATH) is left
//! to the child. It crosses a process boundary between binaries of different versions: fields are only ever added, with a
//! serde default.

use std::io;
use std::path::PathBuf;

use protocol::runtime::RuntimeError;
use serde::{Deserialize, Serialize};

use super::user_namespace::IdRange;
use crate::failure::is_disk_full;

/// A container to start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerLaunch {
    /// Its name within the pod.
    pub name: String,
    /// The restart count.
    pub attempt: u32,
    /// Digest of the image; empty for a host program.
    pub image_digest: String,
    /// State directory of this attempt: `root`, `upper`, `work`, the exit record.
    pub directory: PathBuf,
    /// Where its output goes.
    pub log_path: PathBuf,
    /// What its root is made of.
    pub root: RootSource,
    /// Program and arguments; never empty.
    pub argv: Vec<String>,
    /// Environment.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub working_dir: String,
    /// As whom it runs.
    pub user: UserChoice,
    /// Volumes and the pod's files under `/etc`, in the order in which they are mounted.
    pub binds: Vec<BindMount>,
    /// The pod's `/dev/shm`.
    pub shm: PathBuf,
    /// Where its processes are counted and limited.
    pub cgroup: CgroupEntry,
    /// The bounding set, one bit per capability.
    pub capabilities: u64,
    /// Whether exec may not raise rights.
    pub no_new_privileges: bool,
    /// Compiled filter; `None` for unconfined.
    pub seccomp_filter: Option<PathBuf>,
    /// All devices, nothing masked.
    pub privileged: bool,
    /// No writes to the root.
    pub read_only_root: bool,
    /// Whether it gets a pid namespace of its own.
    pub own_pid_namespace: bool,
    /// The container whose pid namespace it enters instead; only where each has its own.
    #[serde(default)]
    pub pid_namespace_of: Option<String>,
    /// The node's ids of the pod's user namespace, when it has one of its own.
    #[serde(default)]
    pub user_namespace: Option<IdRange>,
    /// Written to `oom_score_adj`.
    pub oom_score_adj: i32,
    /// The signal by which the image wants to be stopped.
    #[serde(default)]
    pub stop_signal: Option<i32>,
    /// Whether standard input stays open.
    pub stdin: bool,
    /// Whether it ends with the first client that was attached to it.
    #[serde(default)]
    pub stdin_once: bool,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// The node's file behind the termination message path.
    pub termination_message: PathBuf,
    /// Whether the end of the log stands in for an empty message.
    pub termination_message_from_log: bool,
}

impl ContainerLaunch {
    /// Whether its pid namespace is another than that of the pod's parent and of what that clones.
    pub(crate) fn has_pids_apart(&self) -> bool {
        self.own_pid_namespace || self.pid_namespace_of.is_some()
    }
}

/// What a container's root is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum RootSource {
    /// An overlay over unpacked layers, the lowest first, as an image lists them.
    Layers(Vec<PathBuf>),
    /// The machine's own root: a program of the host.
    Host,
}

/// As whom a container runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UserChoice {
    /// The image's `User`: `name`, `uid`, `name:group`, `uid:gid`, or empty.
    pub image_user: String,
    /// Overrides it.
    pub run_as_user: Option<u32>,
    /// Overrides its group.
    pub run_as_group: Option<u32>,
    /// Refuse uid 0.
    pub run_as_non_root: bool,
    /// More groups.
    pub supplemental_groups: Vec<u32>,
}

/// A file or directory that appears in the container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BindMount {
    /// Path in the mount namespace of the per-pod parent.
    pub source: PathBuf,
    /// Path within `source` that must not leave it; empty for `source` itself.
    pub sub_path: String,
    /// Path in the container.
    pub destination: String,
    /// No writes.
    pub read_only: bool,
}

/// The container's cgroups.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CgroupEntry {
    /// `tasks` of each v1 hierarchy. Not `cgroup.procs`: a single-threaded process that moves itself through `tasks` takes
    /// no global lock, where the other file waits for an RCU grace period (0.2 ms instead of 10 here).
    pub task_files: Vec<PathBuf>,
    /// Its directory on v2, entered by clone itself.
    pub unified: Option<PathBuf>,
    /// How they appear at `/sys/fs/cgroup`.
    #[serde(default)]
    pub mounts: Vec<CgroupMount>,
    /// The file whose `oom_kill` line counts the kernel's kills.
    pub oom_events: Option<PathBuf>,
}

/// One hierarchy, as a container sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupMount {
    /// Below `/sys/fs/cgroup`; empty for that directory itself.
    pub directory: String,
    /// Whether it is a v2 hierarchy.
    pub v2: bool,
    /// The controllers of a v1 hierarchy.
    pub options: String,
}

/// Why a start failed; the child sends it through a pipe that exec closes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LaunchFailure {
    /// The program cannot be executed.
    Exec {
        /// What was to be executed.
        program: String,
        /// What the kernel said.
        reason: String,
    },
    /// The specification asks for what cannot be.
    Configuration {
        /// What is wrong.
        reason: String,
    },
    /// The kernel refused a step.
    Kernel {
        /// The step.
        operation: String,
        /// Its answer.
        reason: String,
    },
    /// No space left.
    DiskFull {
        /// The step.
        doing: String,
    },
}

impl LaunchFailure {
    /// A refused system call of a step.
    pub(crate) fn kernel(operation: impl Into<String>, error: impl Into<io::Error>) -> Self {
        let (operation, error) = (operation.into(), error.into());
        if is_disk_full(&error) {
            LaunchFailure::DiskFull { doing: operation }
        } else {
            LaunchFailure::Kernel {
                operation,
                reason: error.to_string(),
            }
        }
    }

    /// Something wrong in the specification.
    pub(crate) fn configuration(reason: impl Into<String>) -> Self {
        LaunchFailure::Configuration { reason: reason.into() }
    }
}

impl From<LaunchFailure> for RuntimeError {
    fn from(failure: LaunchFailure) -> RuntimeError {
        match failure {
            LaunchFailure::Exec { program, reason } => RuntimeError::Exec { program, reason },
            LaunchFailure::Configuration { reason } => RuntimeError::Configuration { reason },
            LaunchFailure::Kernel { operation, reason } => RuntimeError::Kernel { operation, reason },
            LaunchFailure::DiskFull { doing } => RuntimeError::DiskFull { doing },
        }
    }
}
