//! One pod on this node: its directory, its parent process and what is known of its containers. Made, found again and removed
//! here; `mod.rs` finds the right one for each call.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use parking_lot::Mutex;
use protocol::UnixMillis;
use protocol::runtime::{
    ContainerExit, ContainerPhase, ContainerState, PodIdentity, RuntimeError, SandboxSpec, SandboxState, VolumeSource,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::connection::ParentConnection;
use super::layout::PodLayout;
use super::program::ParentProgram;
use super::volumes;
use crate::cgroup::Group;
use crate::container::{CgroupEntry, IdRange};
use crate::failure::{configuration, io_failure, now};
use crate::pod_parent::message::{MemoryMount, ParentConfig, ParentIdentity, Readiness};
use crate::pod_parent::record::{read_container_states, read_json, write_json};
use crate::pod_parent::{CONFIG_FILE, IDENTITY_FILE};

/// A pod's /dev/shm, as Docker and containerd give it.
const SHM_BYTES: u64 = 64 << 20;

/// What a later node process needs to find the pod again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub spec: SandboxSpec,
    pub started_at: UnixMillis,
    /// Absent while the sandbox is being made.
    pub identity: Option<ParentIdentity>,
    /// The node's ids of its user namespace, if it has one: taken as long as this record exists.
    #[serde(default)]
    pub user_ids: Option<IdRange>,
    pub addresses: Vec<IpAddr>,
}

/// The changing part.
#[derive(Default)]
pub(crate) struct Known {
    pub record: Option<Arc<SandboxRecord>>,
    pub connection: Option<Arc<ParentConnection>>,
    pub containers: BTreeMap<String, ContainerState>,
    /// Being removed, or removed: the parent's end is no news.
    pub is_removed: bool,
}

/// A pod.
pub(crate) struct Sandbox {
    pub pod: PodIdentity,
    pub layout: PodLayout,
    /// Held by whoever starts or removes something of this pod.
    pub lifecycle: tokio::sync::Mutex<()>,
    pub known: Mutex<Known>,
    /// Counts changes of container states, for those who follow logs.
    pub changes: watch::Sender<u64>,
}

impl Sandbox {
    pub(crate) fn new(pod: PodIdentity, layout: PodLayout) -> Arc<Self> {
        Arc::new(Self {
            pod,
            layout,
            lifecycle: tokio::sync::Mutex::new(()),
            known: Mutex::new(Known::default()),
            changes: watch::Sender::new(0),
        })
    }

    /// Notes a container's state, unless a later start is known already.
    pub(crate) fn note(&self, state: ContainerState) {
        let mut known = self.known.lock();
        match known.containers.get(&state.name) {
            Some(old) if old.attempt > state.attempt => return,
            Some(old) if old.attempt == state.attempt && matches!(old.phase, ContainerPhase::Exited(_)) => return,
            _ => {}
        }
        known.containers.insert(state.name.clone(), state);
        drop(known);
        self.changes.send_modify(|count| *count += 1);
    }

    /// Notes that a container ended; false when that is known.
    pub(crate) fn note_exit(&self, container: &str, attempt: u32, exit: &ContainerExit) -> bool {
        let mut known = self.known.lock();
        let Some(state) = known
            .containers
            .get_mut(container)
            .filter(|state| state.attempt == attempt)
        else {
            return false;
        };
        if matches!(state.phase, ContainerPhase::Exited(_)) {
            return false;
        }
        state.phase = ContainerPhase::Exited(exit.clone());
        drop(known);
        self.changes.send_modify(|count| *count += 1);
        true
    }

    /// Whether that start of a container runs.
    pub(crate) fn is_running(&self, container: &str, attempt: u32) -> bool {
        let known = self.known.lock();
        known
            .containers
            .get(container)
            .is_some_and(|state| state.attempt == attempt && matches!(state.phase, ContainerPhase::Running { .. }))
    }

    /// The state as it is reported.
    pub(crate) fn state(&self) -> SandboxState {
        let known = self.known.lock();
        let record = known.record.as_deref();
        SandboxState {
            pod: self.pod.clone(),
            addresses: record.map(|record| record.addresses.clone()).unwrap_or_default(),
            started_at: record.map(|record| record.started_at).unwrap_or_default(),
            alive: known.connection.is_some(),
            containers: known.containers.values().cloned().collect(),
        }
    }

    /// The parent is gone: so are all containers that ran.
    pub(crate) fn note_death(&self, reason: &str) {
        let mut known = self.known.lock();
        known.connection = None;
        for state in known.containers.values_mut() {
            mark_lost(state, reason);
        }
        drop(known);
        self.changes.send_modify(|count| *count += 1);
    }
}

fn mark_lost(state: &mut ContainerState, reason: &str) {
    if let ContainerPhase::Running { started_at, .. } = state.phase {
        state.phase = ContainerPhase::Exited(ContainerExit {
            exit_code: 128 + libc::SIGKILL,
            signal: Some(libc::SIGKILL),
            oom_killed: false,
            started_at,
            finished_at: now().max(started_at),
            message: reason.to_owned(),
        });
    }
}

/// The record of a pod's directory.
pub(crate) fn read_record(layout: &PodLayout) -> io::Result<SandboxRecord> {
    read_json(&layout.record())
}

/// Writes the record, without what files of volumes hold: nobody needs it again, and Secrets and tokens have no place on the
/// disk.
pub(crate) fn write_record(layout: &PodLayout, record: &SandboxRecord) -> Result<(), RuntimeError> {
    let mut record = record.clone();
    for volume in &mut record.spec.volumes {
        if let VolumeSource::Files { files, .. } = &mut volume.source {
            files.clear();
        }
    }
    write_json(&layout.record(), &record).map_err(|error| io_failure("writing the sandbox's record", &error))
}

/// The containers as the files tell, for a pod whose parent is dead.
pub(crate) fn recorded_containers(layout: &PodLayout) -> BTreeMap<String, ContainerState> {
    let mut states = read_container_states(&layout.containers());
    for state in &mut states {
        mark_lost(state, "the pod's parent process died");
    }
    states.into_iter().map(|state| (state.name.clone(), state)).collect()
}

/// Makes the pod's directory and disk volumes, and writes what its parent is to be. Blocking.
pub(crate) fn make_directory(
    layout: &PodLayout,
    spec: &SandboxSpec,
    user_ids: Option<IdRange>,
    parents: CgroupEntry,
) -> Result<(), RuntimeError> {
    let failed = |error: io::Error| io_failure(format!("making {}", layout.root.display()), &error);
    for directory in [
        layout.root.clone(),
        layout.root.join("etc"),
        layout.volumes(),
        layout.containers(),
        layout.shm(),
    ] {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    // Written first: a sandbox that is half made when the node process dies is known by it.
    let record = SandboxRecord {
        spec: spec.clone(),
        started_at: now(),
        identity: None,
        user_ids,
        addresses: Vec::new(),
    };
    write_record(layout, &record)?;
    volumes::make_directories(layout, &spec.volumes)?;
    let mut memory_mounts = vec![MemoryMount {
        path: layout.shm(),
        size_bytes: Some(SHM_BYTES),
        mode: 0o1777,
    }];
    memory_mounts.extend(volumes::memory_mounts(layout, &spec.volumes));
    let config = ParentConfig {
        own_network: !spec.host_network,
        own_ipc: !spec.host_ipc,
        shared_pids: spec.share_process_namespace && !spec.host_pid,
        user_namespace: user_ids,
        hostname: spec.hostname.clone(),
        sysctls: spec
            .sysctls
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        memory_mounts,
        cgroup: parents,
    };
    write_json(&layout.root.join(CONFIG_FILE), &config).map_err(failed)
}

/// Starts the pod's parent and waits until it listens. Blocking.
pub(crate) fn spawn_parent(program: &ParentProgram, layout: &PodLayout) -> Result<ParentIdentity, RuntimeError> {
    let doing = || format!("starting the pod's parent {program}");
    let log = fs::File::create(layout.parent_log()).map_err(|error| io_failure(doing(), &error))?;
    // Without a closure before exec, std uses posix_spawn: no copy of this process's page tables is made.
    let mut child = program
        .command()
        .arg("pod-parent")
        .arg(&layout.root)
        .env_clear() // what the node process has in its environment is no business of a process that outlives it
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|error| io_failure(doing(), &error))?;
    let mut line = String::new();
    let read = child
        .stdout
        .take()
        .map_or(Ok(0), |stdout| BufReader::new(stdout).read_line(&mut line));
    let status = child.wait(); // it leaves at once; the pod's parent is its child
    read.map_err(|error| io_failure(doing(), &error))?;
    match serde_json::from_str(&line) {
        Ok(Readiness::Ready(identity)) => Ok(identity),
        Ok(Readiness::Failed(failure)) => Err(failure.into()),
        Err(_) => {
            let said = fs::read_to_string(layout.parent_log()).unwrap_or_default();
            Err(RuntimeError::Failed {
                doing: doing(),
                reason: format!("it ended ({status:?}) and said: {}", said.trim()),
            })
        }
    }
}

/// Refuses a user namespace beside namespaces of the node, in which its root would have no rights (the API server's rule).
pub(crate) fn validate_user_namespace(spec: &SandboxSpec) -> Result<(), RuntimeError> {
    let shared = [
        ("hostNetwork", spec.host_network),
        ("hostPID", spec.host_pid),
        ("hostIPC", spec.host_ipc),
    ];
    match shared.into_iter().find(|(_, is_set)| *is_set && !spec.host_users) {
        None => Ok(()),
        Some((name, _)) => Err(configuration(format!(
            "{name} cannot be set when hostUsers is false: leave one of the two out"
        ))),
    }
}

/// Refuses a sysctl that is not the pod's own: the parent writes them with the node's rights, and `kernel.core_pattern` would
/// be a command for the machine. The list is the kubelet's ("namespaced sysctls").
pub(crate) fn validate_sysctls(spec: &SandboxSpec) -> Result<(), RuntimeError> {
    const OF_IPC: [&str; 4] = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
    for name in spec.sysctls.keys() {
        let dotted = name.replace('/', ".");
        let is_ipc = OF_IPC.iter().any(|prefix| dotted.starts_with(prefix));
        let is_network = dotted.starts_with("net.");
        if is_ipc && !spec.host_ipc || is_network && !spec.host_network {
            continue;
        }
        let reason = if is_ipc || is_network {
            "the pod uses the node's namespace for it"
        } else {
            "only kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* and net.* belong to a pod"
        };
        return Err(configuration(format!(
            "sysctl {name:?} cannot be set for a pod: {reason}"
        )));
    }
    Ok(())
}

/// The files of the pod that are mounted below `/etc`.
pub(crate) fn write_etc(layout: &PodLayout, spec: &SandboxSpec, addresses: &[IpAddr]) -> Result<(), RuntimeError> {
    let write = || -> io::Result<()> {
        fs::write(layout.etc("hosts"), hosts(spec, addresses))?;
        fs::write(layout.etc("hostname"), format!("{}\n", spec.hostname))?;
        fs::write(layout.etc("resolv.conf"), &spec.resolv_conf)
    };
    write().map_err(|error| io_failure("writing the pod's /etc", &error))
}

fn hosts(spec: &SandboxSpec, addresses: &[IpAddr]) -> String {
    let mut text = String::new();
    if spec.host_network {
        text.push_str(&fs::read_to_string("/etc/hosts").unwrap_or_default());
        if !text.ends_with('\n') {
            text.push('\n');
        }
    } else {
        text.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        for address in addresses {
            text.push_str(&format!("{address}\t{}\n", spec.hostname));
        }
    }
    for (address, names) in &spec.host_aliases {
        text.push_str(&format!("{address}\t{}\n", names.join("\t")));
    }
    text
}

/// Ends the pod's parent and all its containers, and removes its cgroups. Blocking, idempotent. Directories remain.
pub(crate) fn kill_everything(layout: &PodLayout, group: &Group) -> Result<(), RuntimeError> {
    // The containers while their parent can still reap them: where init does not reap (a node in a container that has none),
    // they would stay zombies for ever. Then the parent, then whatever it may have started in between.
    let recorded = read_json::<ParentIdentity>(&layout.root.join(IDENTITY_FILE)).ok();
    if let Some(identity) = recorded.filter(|identity| identity.is_alive()) {
        group.kill_all()?;
        let pid = Pid::from_raw(identity.pid);
        let _ = kill(pid, Signal::SIGKILL); // it may have ended since
        wait_for_end(identity)?;
        let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG)); // ours to reap only when this process is init
    }
    group.kill_all()?;
    group.remove()
}

fn wait_for_end(identity: ParentIdentity) -> Result<(), RuntimeError> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while identity.is_alive() {
        if std::time::Instant::now() > deadline {
            return Err(RuntimeError::Kernel {
                operation: format!("kill of the pod's parent, pid {}", identity.pid),
                reason: "it does not end: see its wchan".to_owned(),
            });
        }
        std::thread::sleep(std::time::Duration::from_micros(300));
    }
    Ok(())
}

/// Removes a directory by way of the trash, so that a half-removed one is never taken for a pod. Blocking, idempotent.
pub(crate) fn discard(directory: &Path, trash: &Path) -> Result<(), RuntimeError> {
    let failed = |error: io::Error| io_failure(format!("removing {}", directory.display()), &error);
    let name = format!(
        "{}-{}",
        directory
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        now().0
    );
    fs::create_dir_all(trash).map_err(failed)?;
    let target = trash.join(name);
    match fs::rename(directory, &target) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    fs::remove_dir_all(&target).map_err(failed)
}

/// Throws away what a container wrote to its root, when it has ended: its state and its log stay. Blocking.
pub(crate) fn discard_root(attempt_directory: &Path) {
    for name in ["upper", "work", "root"] {
        match fs::remove_dir_all(attempt_directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(directory = %attempt_directory.display(), %error, "a container's root cannot be removed");
            }
            _ => {}
        }
    }
}
