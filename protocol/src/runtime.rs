//! What a pod's actor says to the runtime of its node: sandboxes (a pod's namespaces and its parent process),
//! containers, images, volumes, logs; and the traits behind which the Linux runtime and the simulated one stand.
//! Everything here is decided already (Kubernetes' defaults applied, variables expanded): a runtime has no policy.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use serde::{Deserialize, Serialize};

use crate::session::{AttachSpec, ExecSpec, InputStream, OutputStream, PortInput, PortOutput, PortSpec};
use crate::{Uid, UnixMillis};

/// Which pod, for people and for paths; the uid alone identifies it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodIdentity {
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

/// A pod's sandbox: what its containers share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The pod.
    pub pod: PodIdentity,
    /// The UTS hostname.
    pub hostname: String,
    /// Whether the pod uses the node's network namespace instead of one of its own.
    pub host_network: bool,
    /// Whether the pod uses the node's pid namespace.
    pub host_pid: bool,
    /// Whether the pod uses the node's ipc namespace.
    pub host_ipc: bool,
    /// Whether the containers' user ids are the node's (`hostUsers`); `false` gives the pod a user namespace of its own
    /// (KEP-127), which goes with no other namespace of the node. Records of older versions lack it.
    #[serde(default = "yes")]
    pub host_users: bool,
    /// Whether the containers see each other's processes (`shareProcessNamespace`).
    pub share_process_namespace: bool,
    /// Content of `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// Lines for `/etc/hosts` beyond localhost and the pod's own name: address and names.
    pub host_aliases: Vec<(String, Vec<String>)>,
    /// `net.*` and other namespaced sysctls.
    pub sysctls: BTreeMap<String, String>,
    /// Limits of the whole pod.
    pub resources: ResourceLimits,
    /// The volumes that its containers mount, prepared before the first container starts.
    pub volumes: Vec<VolumeSpec>,
    /// `fsGroup`: volumes are owned by this group and group-writable.
    pub fs_group: Option<u32>,
}

fn yes() -> bool {
    true
}

/// cgroup limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimits {
    /// cpu request in thousandths of a core: the weight when cores are contended.
    pub cpu_request_milli: Option<u64>,
    /// cpu limit in thousandths of a core: the quota.
    pub cpu_limit_milli: Option<u64>,
    /// Memory limit in bytes.
    pub memory_limit_bytes: Option<u64>,
    /// How many processes and threads.
    pub pids_max: Option<u64>,
}

/// A volume of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// Its name within the pod.
    pub name: String,
    /// What it holds.
    pub source: VolumeSource,
}

/// What a volume holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeSource {
    /// An empty directory that lives as long as the pod.
    EmptyDir {
        /// On tmpfs instead of the disk.
        memory: bool,
        /// At most so many bytes.
        size_limit_bytes: Option<u64>,
    },
    /// Files given by content: configMap, secret, downwardAPI and projected volumes. On tmpfs when `memory`.
    Files {
        /// Relative path to file.
        files: BTreeMap<String, FileContent>,
        /// On tmpfs, as secrets are.
        memory: bool,
    },
    /// A path of the node.
    HostPath {
        /// The path.
        path: PathBuf,
        /// `type`: empty, `DirectoryOrCreate`, `Directory`, `FileOrCreate`, `File`, `Socket`, ...
        kind: String,
    },
}

/// A file of a `VolumeSource::Files`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileContent {
    /// Its content.
    pub content: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// The user whose file it is; root's when `None`.
    #[serde(default)]
    pub owner: Option<u32>,
}

/// Its content may be a secret, and what is printed for debugging ends in logs.
impl std::fmt::Debug for FileContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "FileContent({} bytes, {:o}, {:?})",
            self.content.len(),
            self.mode,
            self.owner
        )
    }
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// The registry is asked each time; layers that are present are not fetched again.
    Always,
    /// Only when it is not present.
    IfNotPresent,
    /// Never: it must be present.
    Never,
}

/// Credentials for a registry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryCredential {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for RegistryCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RegistryCredential({}, ...)", self.username)
    }
}

/// An image that is present on the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresentImage {
    /// The reference by which it was asked for.
    pub reference: String,
    /// `sha256:...` of its manifest: `status.containerStatuses[].imageID`.
    pub digest: String,
    /// Bytes on disk, of all its layers.
    pub size_bytes: u64,
}

/// A container to start. `attempt` counts its restarts: the first start is 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Its name within the pod.
    pub name: String,
    /// The restart count; names the log file and makes each start a new identity.
    pub attempt: u32,
    /// The image reference; empty for a program of the host without image.
    pub image: String,
    /// Overrides the image's entrypoint when not empty.
    pub command: Vec<String>,
    /// Overrides the image's command when not empty.
    pub args: Vec<String>,
    /// Overrides the image's working directory.
    pub working_dir: Option<String>,
    /// Added to the image's environment, in order, variables expanded.
    pub env: Vec<(String, String)>,
    /// Where volumes appear.
    pub mounts: Vec<VolumeMountSpec>,
    /// Limits.
    pub resources: ResourceLimits,
    /// Rights.
    pub security: SecuritySpec,
    /// Whether standard input stays open.
    pub stdin: bool,
    /// Whether it ends with the first client that was attached to it (`stdinOnce`).
    #[serde(default)]
    pub stdin_once: bool,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Where it leaves its last words; a file path in the container.
    pub termination_message_path: String,
    /// Whether the end of the log serves as message when that file is empty and the exit was not clean.
    pub termination_message_from_log: bool,
    /// From -1000 to 1000: who is ended first when the machine itself runs out of memory (proc_pid_oom_score_adj(5)).
    pub oom_score_adj: i32,
    /// A running container of the pod whose pid namespace this one enters instead of having its own
    /// (`targetContainerName`). It changes nothing where the containers share theirs anyway.
    #[serde(default)]
    pub pid_namespace_of: Option<String>,
}

/// Where a volume appears in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMountSpec {
    /// The volume's name.
    pub volume: String,
    /// Path in the container.
    pub mount_path: String,
    /// Path within the volume; empty for its root.
    pub sub_path: String,
    /// No writes.
    pub read_only: bool,
}

/// A container's rights: `securityContext` of pod and container, merged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecuritySpec {
    /// User id; `None` for the image's user.
    pub run_as_user: Option<u32>,
    /// Group id; `None` for the image's group.
    pub run_as_group: Option<u32>,
    /// Refuse to start as uid 0.
    pub run_as_non_root: bool,
    /// More groups.
    pub supplemental_groups: Vec<u32>,
    /// All rights and devices of the node.
    pub privileged: bool,
    /// The root file system cannot be written.
    pub read_only_root_filesystem: bool,
    /// `allowPrivilegeEscalation: false` sets no_new_privs.
    pub no_new_privileges: bool,
    /// Added to the default set, without `CAP_`; `ALL` for all.
    pub capabilities_add: Vec<String>,
    /// Taken from the default set, without `CAP_`; `ALL` for all.
    pub capabilities_drop: Vec<String>,
    /// No seccomp filter (`Unconfined`) instead of the default one.
    pub seccomp_unconfined: bool,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerExit {
    /// The exit code; 128 plus the signal when a signal ended it.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed it for memory: reason `OOMKilled`.
    pub oom_killed: bool,
    /// When it was started.
    pub started_at: UnixMillis,
    /// When it ended.
    pub finished_at: UnixMillis,
    /// Its last words, at most 4096 bytes.
    pub message: String,
}

/// A container as the runtime knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerPhase {
    /// It runs.
    Running {
        /// The pid of its first process, in the node's pid namespace.
        pid: u32,
        /// When it was started.
        started_at: UnixMillis,
    },
    /// It ended.
    Exited(ContainerExit),
}

/// A container's last start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Its name within the pod.
    pub name: String,
    /// Which start.
    pub attempt: u32,
    /// The digest of the image it was started from.
    pub image_digest: String,
    /// The number of the signal by which its image wants to be stopped, when it names one.
    #[serde(default)]
    pub stop_signal: Option<i32>,
    /// What became of it.
    pub phase: ContainerPhase,
}

/// A sandbox that exists on this node, found again after the node process restarted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxState {
    /// The pod.
    pub pod: PodIdentity,
    /// Its addresses; empty with host networking.
    pub addresses: Vec<IpAddr>,
    /// When the sandbox was started.
    pub started_at: UnixMillis,
    /// Whether its parent process lives. A dead one takes its containers along; the pod needs a new sandbox.
    pub alive: bool,
    /// The last start of each container.
    pub containers: Vec<ContainerState>,
}

/// What a pod holds on the node's disk, in bytes as du(1) counts them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodUsage {
    /// Each emptyDir on the disk, by its volume's name.
    pub volume_bytes: BTreeMap<String, u64>,
    /// What each container has written to its root, with its logs.
    pub container_bytes: BTreeMap<String, u64>,
}

/// What the runtime reports by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// A container ended.
    ContainerExited {
        /// The pod.
        pod: Uid,
        /// The container.
        container: String,
        /// Which start.
        attempt: u32,
        /// How.
        exit: ContainerExit,
    },
    /// A sandbox's parent process ended without being asked; its containers are gone.
    SandboxDied {
        /// The pod.
        pod: Uid,
        /// What is known of the reason.
        reason: String,
    },
}

/// The number of a signal by its name, with or without `SIG`, or its number: what an image's `StopSignal` and a container's
/// `lifecycle.stopSignal` hold. `RTMIN+n` and `RTMAX-n` count as with glibc.
pub fn signal_number(name: &str) -> Option<i32> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;
    let bare = name.strip_prefix("SIG").unwrap_or(name);
    if let Ok(number) = bare.parse::<i32>() {
        return (1..=*REAL_TIME.end()).contains(&number).then_some(number);
    }
    let offset = |text: &str, sign: char| match text.strip_prefix(sign) {
        None => text.is_empty().then_some(0),
        Some(digits) => digits.parse::<i32>().ok().filter(|offset| *offset >= 0),
    };
    let real_time = if let Some(rest) = bare.strip_prefix("RTMIN") {
        Some(REAL_TIME.start().checked_add(offset(rest, '+')?)?)
    } else if let Some(rest) = bare.strip_prefix("RTMAX") {
        Some(REAL_TIME.end() - offset(rest, '-')?)
    } else {
        None
    };
    if let Some(number) = real_time {
        return REAL_TIME.contains(&number).then_some(number);
    }
    NAMES
        .iter()
        .zip(1..)
        .find(|(known, _)| **known == bare)
        .map(|(_, number)| number)
}

/// Which part of a container's log is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, bincode::Encode, bincode::Decode)]
pub struct LogRequest {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// The pod's uid.
    pub uid: String,
    /// The container.
    pub container: String,
    /// The start before the last one.
    pub previous: bool,
    /// Go on as long as the container writes.
    pub follow: bool,
    /// Each line begins with its RFC 3339 time.
    pub timestamps: bool,
    /// Only the last so many lines.
    pub tail_lines: Option<u64>,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
    /// Only lines written at or after this instant, in milliseconds since the Unix epoch.
    pub since_ms: Option<u64>,
}

/// Why the runtime could not do what it was asked. The variant gives the reason that Kubernetes shows.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The registry or the layout has no such image: `ErrImagePull`, then `ImagePullBackOff`.
    #[error("image {reference} cannot be pulled: {reason}")]
    ImagePull {
        /// The reference.
        reference: String,
        /// What the registry said.
        reason: String,
    },
    /// Pull policy Never and the image is absent: `ErrImageNeverPull`.
    #[error(
        "image {reference} is not present on the node and its pull policy is Never: import it, or change the policy"
    )]
    ImageAbsent {
        /// The reference.
        reference: String,
    },
    /// The reference does not follow the grammar: `InvalidImageName`.
    #[error("{reference:?} is not an image reference: {reason}")]
    ImageName {
        /// The reference.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The program cannot be executed (absent, not executable, wrong machine): `StartError`, for which a cluster with
    /// containerd or CRI-O shows exit code 128, whatever the reason.
    #[error("cannot execute {program:?}: {reason}")]
    Exec {
        /// What was to be executed.
        program: String,
        /// What the kernel said.
        reason: String,
    },
    /// The specification asks for what cannot be: `CreateContainerConfigError`.
    #[error("the container cannot be configured: {reason}")]
    Configuration {
        /// What is wrong.
        reason: String,
    },
    /// The disk is full.
    #[error("no space left on the node's disk while {doing}: free space below the data directory")]
    DiskFull {
        /// The step that failed.
        doing: String,
    },
    /// The kernel lacks a feature, or the process lacks a right.
    #[error("the kernel refused {operation}: {reason}")]
    Kernel {
        /// The operation, such as `clone(CLONE_NEWNET)`.
        operation: String,
        /// What it answered and what to do.
        reason: String,
    },
    /// No such sandbox or container.
    #[error("{what} does not exist on this node")]
    NotFound {
        /// What was named.
        what: String,
    },
    /// Anything else, with its step.
    #[error("{doing}: {reason}")]
    Failed {
        /// The step.
        doing: String,
        /// The failure.
        reason: String,
    },
}

/// Bytes of a log, as they come.
pub type LogStream = Pin<Box<dyn Stream<Item = Result<Bytes, RuntimeError>> + Send>>;

/// The runtime of one node. Every call is idempotent: a pod's actor that died in the middle repeats it. Implemented by
/// `runtime` (the Linux kernel) and by the simulation (a model).
#[async_trait]
pub trait PodRuntime: Send + Sync + 'static {
    /// Makes an image present, as the policy says.
    async fn ensure_image(
        &self,
        reference: &str,
        policy: PullPolicy,
        credentials: &[RegistryCredential],
    ) -> Result<PresentImage, RuntimeError>;

    /// Starts the sandbox of a pod, or returns the one that runs.
    async fn start_sandbox(&self, spec: &SandboxSpec) -> Result<SandboxState, RuntimeError>;

    /// Starts a container in the pod's sandbox. The same name and attempt again returns the running one.
    async fn start_container(&self, pod: &Uid, spec: &ContainerSpec) -> Result<ContainerState, RuntimeError>;

    /// Sends a signal to a container's first process. One that has ended is no error.
    async fn signal_container(&self, pod: &Uid, container: &str, signal: i32) -> Result<(), RuntimeError>;

    /// Changes the limits of a pod and of containers that run, by name, without a restart. A memory limit below what a
    /// container uses is refused; what could be changed before a refusal stays changed, and the call may be repeated.
    async fn resize(
        &self,
        pod: &Uid,
        whole: &ResourceLimits,
        containers: &[(String, ResourceLimits)],
    ) -> Result<(), RuntimeError>;

    /// Measures what a pod holds on the disk. It walks directories: not for every second.
    async fn usage(&self, pod: &Uid) -> Result<PodUsage, RuntimeError>;

    /// Replaces the files of a `Files` volume of a running pod atomically.
    async fn update_volume(&self, pod: &Uid, volume: &VolumeSpec) -> Result<(), RuntimeError>;

    /// Ends everything of a pod (SIGKILL), removes its cgroups, mounts, network and directories, logs included.
    async fn remove_sandbox(&self, pod: &Uid) -> Result<(), RuntimeError>;

    /// All sandboxes of this node.
    async fn sandboxes(&self) -> Result<Vec<SandboxState>, RuntimeError>;

    /// Images that are present.
    async fn images(&self) -> Result<Vec<PresentImage>, RuntimeError>;

    /// Reads a container's log.
    async fn logs(&self, request: &LogRequest) -> Result<LogStream, RuntimeError>;

    /// Runs a command in a container that runs, with the container's namespaces, limits, rights, user, directory and
    /// environment. Dropping the output ends it.
    async fn exec(&self, spec: &ExecSpec, input: InputStream) -> Result<OutputStream, RuntimeError>;

    /// Joins the streams of a container's first process. Dropping the output leaves the container alone, but for an input
    /// that is to end with its first client.
    async fn attach(&self, spec: &AttachSpec, input: InputStream) -> Result<OutputStream, RuntimeError>;

    /// Connects to a port of a pod at its loopback addresses, IPv4 first.
    async fn port_forward(&self, spec: &PortSpec, input: PortInput) -> Result<PortOutput, RuntimeError>;

    /// What happens by itself, from now on. One subscriber: the node's agent. Exits that happened while no node process
    /// ran are found by `sandboxes`.
    fn events(&self) -> EventStream;
}

/// Events in the order in which they happened.
pub type EventStream = Pin<Box<dyn Stream<Item = RuntimeEvent> + Send>>;

/// Gives a pod its network. The runtime calls it with the path of the pod's network namespace while it starts or
/// removes a sandbox; the node's data plane implements it.
#[async_trait]
pub trait SandboxNetwork: Send + Sync + 'static {
    /// Connects the namespace and returns the pod's addresses. The same pod again returns the same addresses.
    async fn attach(&self, pod: &PodIdentity, network_namespace: &std::path::Path) -> Result<Vec<IpAddr>, String>;

    /// Frees the pod's addresses and what its connection needed on the node.
    async fn detach(&self, pod: &Uid) -> Result<(), String>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_their_numbers() {
        let cases = [
            ("SIGTERM", Some(15)),
            ("TERM", Some(15)),
            ("SIGQUIT", Some(3)),
            ("SIGSYS", Some(31)),
            ("9", Some(9)),
            ("SIGRTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-2", Some(62)),
            ("RTMIN+31", None),
            ("RTMIN-1", None),
            ("RTMAX+1", None),
            ("RTMIN+2147483647", None),
            ("0", None),
            ("65", None),
            ("SIGNOTHING", None),
            ("", None),
        ];
        for (name, number) in cases {
            assert_eq!(signal_number(name), number, "{name}");
        }
    }

    #[test]
    fn a_record_of_an_older_version_is_of_a_pod_with_the_nodes_user_ids() {
        let spec = SandboxSpec {
            pod: PodIdentity {
                uid: Uid::from("u".to_owned()),
                namespace: "d".into(),
                name: "web".into(),
            },
            hostname: "web".into(),
            host_network: false,
            host_pid: false,
            host_ipc: false,
            host_users: false,
            share_process_namespace: false,
            resolv_conf: String::new(),
            host_aliases: Vec::new(),
            sysctls: BTreeMap::new(),
            resources: ResourceLimits::default(),
            volumes: Vec::new(),
            fs_group: None,
        };
        let mut record = serde_json::to_value(&spec).expect("plain values");
        assert_eq!(
            serde_json::from_value::<SandboxSpec>(record.clone()).expect("it is one"),
            spec
        );
        record.as_object_mut().expect("an object").remove("host_users");
        assert!(
            serde_json::from_value::<SandboxSpec>(record)
                .expect("it is one")
                .host_users
        );
    }
}
