//! The node's side of the runtime: [`LinuxRuntime`] implements `protocol::runtime::PodRuntime`. It finds the sandbox of each
//! call, has the blocking steps carried out, keeps what is known of every pod, and passes on what the pods' parents report.
//! It restarts nothing and decides nothing.

mod connection;
mod id_ranges;
mod layout;
mod logs;
mod port;
mod prepare;
mod program;
mod resize;
mod sandbox;
mod session;
mod session_control;
mod start;
mod usage;
mod volumes;

use std::collections::HashMap;
use std::fs;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use parking_lot::Mutex;
use protocol::Uid;
use protocol::runtime::{
    ContainerPhase, ContainerSpec, ContainerState, EventStream, LogRequest, LogStream, PodIdentity, PodRuntime,
    PodUsage, PresentImage, PullPolicy, RegistryCredential, ResourceLimits, RuntimeError, RuntimeEvent, SandboxNetwork,
    SandboxSpec, SandboxState, VolumeSource, VolumeSpec,
};
use protocol::session::{AttachSpec, ExecSpec, InputStream, OutputStream, PortInput, PortOutput, PortSpec};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::cgroup::{Group, Hierarchies};
use crate::failure::{configuration, io_failure};
use crate::images::{ImageStore, PullSettings, Puller};
use crate::pod_parent::message::{FromParent, ReplyBody, RequestBody};
use crate::pod_parent::record::{read_json, write_json};
use connection::{Heard, ParentConnection};
use id_ranges::IdRanges;
use layout::{Layout, PARENTS_GROUP, attempt_group, pod_group};
use program::ParentProgram;
use sandbox::{Sandbox, discard, discard_root, kill_everything, read_record, recorded_containers};

/// How a runtime is opened.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Where images, pods and logs live.
    pub data_dir: PathBuf,
    /// This node's name.
    pub node_name: String,
    /// The cgroup below which all groups of this node are made, from the hierarchies' roots: `actorium/NODE`.
    pub cgroup_parent: String,
    /// The program that is executed as `PROGRAM pod-parent DIRECTORY`: the node's own binary.
    pub pod_parent_program: PathBuf,
    /// Registries (host and port) that are asked without TLS; loopback addresses always are.
    pub insecure_registries: Vec<String>,
    /// How long a connection to a registry may take.
    pub registry_connect_timeout: Duration,
    /// How long a registry may be silent in the middle of an answer.
    pub registry_read_timeout: Duration,
}

impl RuntimeConfig {
    /// The usual settings of a node.
    pub fn new(data_dir: impl Into<PathBuf>, node_name: &str, pod_parent_program: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            node_name: node_name.to_owned(),
            cgroup_parent: format!("actorium/{node_name}"),
            pod_parent_program: pod_parent_program.into(),
            insecure_registries: Vec::new(),
            registry_connect_timeout: Duration::from_secs(10),
            registry_read_timeout: Duration::from_secs(60),
        }
    }
}

/// Which cgroups belong to a data directory.
#[derive(Serialize, Deserialize)]
struct RuntimeRecord {
    node_name: String,
    cgroup_parent: String,
}

/// The runtime of one node. Cloning it gives another handle.
#[derive(Clone)]
pub struct LinuxRuntime {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    config: RuntimeConfig,
    parent_program: Arc<ParentProgram>,
    layout: Layout,
    network: Arc<dyn SandboxNetwork>,
    hierarchies: Hierarchies,
    images: Arc<ImageStore>,
    puller: Puller,
    sandboxes: Mutex<HashMap<Uid, Arc<Sandbox>>>,
    user_ids: Mutex<IdRanges>,
    events: Mutex<Option<mpsc::UnboundedSender<RuntimeEvent>>>,
    log_watch: logs::LogWatch,
}

/// Runs file and kernel work away from the threads that serve others.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T, RuntimeError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, RuntimeError> + Send + 'static,
{
    finished(tokio::task::spawn_blocking(work)).await
}

/// Runs a change of a pod to its end, also when the caller goes away in the middle: a pod's actor can be killed at any
/// instant, and half a start would be found by nobody.
async fn to_the_end<T, F>(work: F) -> Result<T, RuntimeError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, RuntimeError>> + Send + 'static,
{
    finished(tokio::spawn(work)).await
}

async fn finished<T>(task: tokio::task::JoinHandle<Result<T, RuntimeError>>) -> Result<T, RuntimeError> {
    match task.await {
        Ok(result) => result,
        Err(error) => Err(RuntimeError::Failed {
            doing: "a step of the runtime".to_owned(),
            reason: error.to_string(),
        }),
    }
}

impl LinuxRuntime {
    /// Opens the data directory, removes what interrupted pulls and removals left, and connects to the parents of all pods
    /// that it finds.
    ///
    /// # Errors
    /// The directory cannot be written, or a controller is missing.
    pub async fn open(config: RuntimeConfig, network: Arc<dyn SandboxNetwork>) -> Result<Self, RuntimeError> {
        let layout = Layout::new(&config.data_dir);
        let hierarchies = Hierarchies::detect().map_err(|error| io_failure("reading /proc/self/mountinfo", &error))?;
        if let Some(missing) = hierarchies.missing().first() {
            return Err(RuntimeError::Kernel {
                operation: format!("cgroup controller {}", missing.name()),
                reason: "it is mounted nowhere: mount the cgroup file system, or start the node process in a mount \
                         namespace that has it (nsenter --net keeps it, ip netns exec hides it)"
                    .to_owned(),
            });
        }
        let (opening, record_config) = (layout.clone(), config.clone());
        let images = blocking(move || prepare_data_directory(&opening, &record_config)).await?;
        let parents = hierarchies.group(&config.cgroup_parent).below(PARENTS_GROUP);
        blocking(move || parents.create()).await?;
        let images = Arc::new(images);
        let puller = Puller::new(
            images.clone(),
            PullSettings {
                insecure_registries: config.insecure_registries.clone(),
                connect_timeout: config.registry_connect_timeout,
                read_timeout: config.registry_read_timeout,
            },
        );
        let program = &config.pod_parent_program;
        let parent_program = ParentProgram::open(program)
            .map_err(|error| io_failure(format!("mounting {} read-only", program.display()), &error))?;
        let shared = Arc::new(Shared {
            layout,
            network,
            hierarchies,
            images,
            puller,
            sandboxes: Mutex::default(),
            user_ids: Mutex::default(),
            events: Mutex::default(),
            log_watch: logs::LogWatch::default(),
            parent_program: Arc::new(parent_program),
            config,
        });
        shared.find_pods().await?;
        Ok(Self { shared })
    }

    /// The store of images, for garbage collection and import.
    pub fn image_store(&self) -> Arc<ImageStore> {
        self.shared.images.clone()
    }
}

fn prepare_data_directory(layout: &Layout, config: &RuntimeConfig) -> Result<ImageStore, RuntimeError> {
    let failed = |error: std::io::Error| io_failure(format!("opening {}", config.data_dir.display()), &error);
    for directory in [layout.pods(), layout.trash(), layout.filters()] {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    // Pods' files hold secrets, and their roots set-user-id programs of strangers.
    for directory in [layout.pods(), layout.trash()] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    empty_trash(layout);
    let record = RuntimeRecord {
        node_name: config.node_name.clone(),
        cgroup_parent: config.cgroup_parent.clone(),
    };
    write_json(&layout.runtime_record(), &record).map_err(failed)?;
    let images = ImageStore::open(&config.data_dir)?;
    images.remove_leftovers()?;
    Ok(images)
}

/// An ended container keeps its state and its log. Processes that outlived its first one (only without a pid namespace of
/// their own) end with it.
fn clear_ended(directory: &Path, group: &Group) -> Result<(), RuntimeError> {
    group.kill_all()?;
    group.remove()?;
    discard_root(directory);
    Ok(())
}

fn empty_trash(layout: &Layout) {
    for entry in fs::read_dir(layout.trash()).into_iter().flatten().flatten() {
        if let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "the trash cannot be emptied");
        }
    }
}

impl Shared {
    pub(crate) fn pod_group(&self, uid: &Uid) -> Group {
        self.hierarchies
            .group(&self.config.cgroup_parent)
            .below(&pod_group(uid))
    }

    fn sandbox(&self, uid: &Uid) -> Option<Arc<Sandbox>> {
        self.sandboxes.lock().get(uid).cloned()
    }

    fn emit(&self, event: RuntimeEvent) {
        if let Some(sender) = &*self.events.lock() {
            let _ = sender.send(event); // a subscriber that has gone will ask `sandboxes` when it comes again
        }
    }

    /// Finds pods of an earlier node process.
    async fn find_pods(self: &Arc<Self>) -> Result<(), RuntimeError> {
        let pods = self.layout.pods();
        let entries = fs::read_dir(&pods).map_err(|error| io_failure(format!("reading {}", pods.display()), &error))?;
        for entry in entries.flatten() {
            let uid = Uid::from(entry.file_name().to_string_lossy().into_owned());
            let Ok(pod_layout) = self.layout.pod(&uid) else {
                continue;
            };
            let record = read_record(&pod_layout).ok();
            let pod = match &record {
                Some(record) => record.spec.pod.clone(),
                // Not even the record was written: listed, so that it is removed.
                None => PodIdentity {
                    uid: uid.clone(),
                    namespace: String::new(),
                    name: String::new(),
                },
            };
            if let Some(range) = record.as_ref().and_then(|record| record.user_ids) {
                self.user_ids.lock().found(&uid, range);
            }
            let sandbox = Sandbox::new(pod, pod_layout);
            sandbox.known.lock().record = record.clone().map(Arc::new);
            self.sandboxes.lock().insert(uid, sandbox.clone());
            let identity = record
                .and_then(|record| record.identity)
                .filter(|identity| identity.is_alive());
            let connected = match identity {
                Some(_) => self.connect(&sandbox).await.is_ok(),
                None => false,
            };
            if !connected {
                sandbox.known.lock().containers = recorded_containers(&sandbox.layout);
                // Its containers ended with it; one whose kernel has not caught up yet is ended here.
                let (group, layout) = (self.pod_group(&sandbox.pod.uid), sandbox.layout.clone());
                blocking(move || kill_everything(&layout, &group)).await?;
            }
            self.clear_ended_containers(&sandbox).await;
        }
        Ok(())
    }

    async fn clear_ended_containers(&self, sandbox: &Sandbox) {
        let pod_group = self.pod_group(&sandbox.pod.uid);
        let ended: Vec<(PathBuf, Group)> = {
            let known = sandbox.known.lock();
            let ended = known
                .containers
                .values()
                .filter(|state| matches!(state.phase, ContainerPhase::Exited(_)));
            ended
                .map(|state| {
                    let group = pod_group.below(&attempt_group(&state.name, state.attempt));
                    (sandbox.layout.attempt(&state.name, state.attempt), group)
                })
                .collect()
        };
        let cleared = blocking(move || {
            ended
                .iter()
                .try_for_each(|(directory, group)| clear_ended(directory, group))
        });
        if let Err(error) = cleared.await {
            tracing::warn!(%error, "something of an ended container remains until its pod is removed");
        }
    }

    /// Connects to a pod's parent and learns its containers.
    async fn connect(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), RuntimeError> {
        let (shared, pod): (Weak<Shared>, Weak<Sandbox>) = (Arc::downgrade(self), Arc::downgrade(sandbox));
        let connection = ParentConnection::connect(&sandbox.layout.root, move |heard| {
            if let (Some(shared), Some(sandbox)) = (shared.upgrade(), pod.upgrade()) {
                shared.hear(&sandbox, heard);
            }
        })
        .map_err(|error| io_failure("connecting to the pod's parent", &error))?;
        // Set before the first answer, so that a close which comes right after it is not overtaken.
        sandbox.known.lock().connection = Some(connection.clone());
        connection.ask(RequestBody::Status).await.map(drop)
    }

    /// Runs in the connection's reading task: notes first, then tells.
    fn hear(self: &Arc<Self>, sandbox: &Arc<Sandbox>, heard: Heard<'_>) {
        match heard {
            Heard::Reply(ReplyBody::Started(state)) => sandbox.note(state.clone()),
            Heard::Reply(ReplyBody::Status(states)) => {
                for state in states {
                    match &state.phase {
                        // Known as running: it ended while the connection was interrupted.
                        ContainerPhase::Exited(exit) if sandbox.is_running(&state.name, state.attempt) => {
                            self.container_ended(sandbox, &state.name, state.attempt, exit.clone());
                        }
                        _ => sandbox.note(state.clone()),
                    }
                }
            }
            Heard::Reply(_) => {}
            Heard::Ended(FromParent::Ended {
                container,
                attempt,
                exit,
            }) => {
                self.container_ended(sandbox, &container, attempt, exit);
            }
            Heard::Ended(_) => {}
            Heard::Closed => {
                let (shared, sandbox) = (self.clone(), sandbox.clone());
                tokio::spawn(async move { shared.connection_lost(&sandbox).await });
            }
        }
    }

    fn container_ended(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        container: &str,
        attempt: u32,
        exit: protocol::runtime::ContainerExit,
    ) {
        if !sandbox.note_exit(container, attempt, &exit) || sandbox.known.lock().is_removed {
            return; // told already, or the end that a removal brought
        }
        self.emit(RuntimeEvent::ContainerExited {
            pod: sandbox.pod.uid.clone(),
            container: container.to_owned(),
            attempt,
            exit,
        });
        let directory = sandbox.layout.attempt(container, attempt);
        let group = self
            .pod_group(&sandbox.pod.uid)
            .below(&attempt_group(container, attempt));
        tokio::task::spawn_blocking(move || {
            if let Err(error) = clear_ended(&directory, &group) {
                tracing::warn!(%error, "something of an ended container remains until its pod is removed");
            }
        });
    }

    /// The parent closed the connection: it is dead, or has dropped a node process that did not read.
    async fn connection_lost(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let identity = {
            let mut known = sandbox.known.lock();
            if known.is_removed {
                return;
            }
            known.connection = None;
            known.record.as_ref().and_then(|record| record.identity)
        };
        if identity.is_some_and(|identity| identity.is_alive()) && self.connect(sandbox).await.is_ok() {
            return;
        }
        let _lifecycle = sandbox.lifecycle.lock().await;
        if sandbox.known.lock().is_removed {
            return;
        }
        let (group, layout) = (self.pod_group(&sandbox.pod.uid), sandbox.layout.clone());
        if let Err(error) = blocking(move || kill_everything(&layout, &group)).await {
            tracing::warn!(%error, pod = %sandbox.pod.uid, "something of a pod whose parent died is left");
        }
        let reason = "the pod's parent process died".to_owned();
        sandbox.note_death(&reason);
        self.emit(RuntimeEvent::SandboxDied {
            pod: sandbox.pod.uid.clone(),
            reason,
        });
    }

    async fn remove(self: Arc<Self>, uid: Uid) -> Result<(), RuntimeError> {
        let layout = self.layout.pod(&uid)?;
        let sandbox = self.sandbox(&uid);
        if let Some(sandbox) = &sandbox {
            sandbox.known.lock().is_removed = true;
        }
        let _lifecycle = match &sandbox {
            None => None,
            Some(sandbox) => match sandbox.lifecycle.try_lock() {
                Ok(held) => Some(held),
                // A start is under way, perhaps held up by a volume that does not answer. Without its processes it fails at
                // once, takes back what it made, and lets go of the lock.
                Err(_) => {
                    let (group, killing) = (self.pod_group(&uid), layout.clone());
                    blocking(move || kill_everything(&killing, &group)).await?;
                    Some(sandbox.lifecycle.lock().await)
                }
            },
        };
        if let Some(sandbox) = &sandbox {
            let mut known = sandbox.known.lock();
            known.is_removed = true;
            known.connection = None;
        }
        let (group, killing) = (self.pod_group(&uid), layout.clone());
        blocking(move || kill_everything(&killing, &group)).await?;
        self.network.detach(&uid).await.map_err(|reason| RuntimeError::Failed {
            doing: format!("disconnecting the network of pod {uid}"),
            reason,
        })?;
        let trash = self.layout.trash();
        blocking(move || discard(&layout.root, &trash)).await?;
        self.user_ids.lock().release(&uid);
        if let Some(sandbox) = &sandbox {
            let mut sandboxes = self.sandboxes.lock();
            if sandboxes.get(&uid).is_some_and(|present| Arc::ptr_eq(present, sandbox)) {
                sandboxes.remove(&uid);
            }
            sandbox.changes.send_modify(|count| *count += 1);
        }
        Ok(())
    }
}

#[async_trait]
impl PodRuntime for LinuxRuntime {
    async fn ensure_image(
        &self,
        reference: &str,
        policy: PullPolicy,
        credentials: &[RegistryCredential],
    ) -> Result<PresentImage, RuntimeError> {
        self.shared.puller.ensure(reference, policy, credentials).await
    }

    async fn start_sandbox(&self, spec: &SandboxSpec) -> Result<SandboxState, RuntimeError> {
        let (shared, spec) = (self.shared.clone(), spec.clone());
        to_the_end(async move { start::start_sandbox(&shared, spec).await }).await
    }

    async fn start_container(&self, pod: &Uid, spec: &ContainerSpec) -> Result<ContainerState, RuntimeError> {
        let (shared, pod, spec) = (self.shared.clone(), pod.clone(), spec.clone());
        to_the_end(async move { start::start_container(&shared, &pod, spec).await }).await
    }

    async fn signal_container(&self, pod: &Uid, container: &str, signal: i32) -> Result<(), RuntimeError> {
        let not_found = || RuntimeError::NotFound {
            what: format!("container {container} of pod {pod}"),
        };
        let sandbox = self.shared.sandbox(pod).ok_or_else(not_found)?;
        let connection = {
            let known = sandbox.known.lock();
            match known.containers.get(container) {
                None => return Err(not_found()),
                Some(state) if matches!(state.phase, ContainerPhase::Exited(_)) => return Ok(()),
                Some(_) => known.connection.clone(),
            }
        };
        let Some(connection) = connection else { return Ok(()) }; // a dead parent took it along
        match connection
            .ask(RequestBody::Signal {
                container: container.to_owned(),
                signal,
            })
            .await?
        {
            ReplyBody::Failed(failure) => Err(failure.into()),
            ReplyBody::Absent => Err(not_found()),
            _ => Ok(()),
        }
    }

    async fn resize(
        &self,
        pod: &Uid,
        whole: &ResourceLimits,
        containers: &[(String, ResourceLimits)],
    ) -> Result<(), RuntimeError> {
        let (shared, pod) = (self.shared.clone(), pod.clone());
        let (whole, containers) = (whole.clone(), containers.to_vec());
        to_the_end(async move { resize::resize(&shared, &pod, &whole, &containers).await }).await
    }

    async fn usage(&self, pod: &Uid) -> Result<PodUsage, RuntimeError> {
        let not_found = || RuntimeError::NotFound {
            what: format!("the sandbox of pod {pod}"),
        };
        let sandbox = self.shared.sandbox(pod).ok_or_else(not_found)?;
        let record = sandbox.known.lock().record.clone().ok_or_else(not_found)?;
        let layout = sandbox.layout.clone();
        blocking(move || Ok(usage::of_pod(&layout, &record.spec))).await
    }

    async fn update_volume(&self, pod: &Uid, volume: &VolumeSpec) -> Result<(), RuntimeError> {
        volumes::validate(std::slice::from_ref(volume))?;
        let not_found = || RuntimeError::NotFound {
            what: format!("volume {} of pod {pod}", volume.name),
        };
        let sandbox = self.shared.sandbox(pod).ok_or_else(not_found)?;
        let _lifecycle = sandbox.lifecycle.lock().await;
        let record = sandbox.known.lock().record.clone().ok_or_else(not_found)?;
        let present = record
            .spec
            .volumes
            .iter()
            .find(|present| present.name == volume.name)
            .ok_or_else(not_found)?;
        let (VolumeSource::Files { memory, .. }, VolumeSource::Files { files, .. }) = (&present.source, &volume.source)
        else {
            return Err(configuration(format!(
                "volume {} does not hold files that can be replaced",
                volume.name
            )));
        };
        let Some(identity) = record.identity.filter(|identity| !memory || identity.is_alive()) else {
            return Err(not_found());
        };
        let path = volumes::path_from_node(&sandbox.layout, present, identity.pid);
        let (files, fs_group, name) = (files.clone(), record.spec.fs_group, volume.name.clone());
        blocking(move || {
            volumes::write_files(&path, &files, fs_group)
                .map_err(|error| io_failure(format!("replacing the files of volume {name}"), &error))
        })
        .await
    }

    async fn remove_sandbox(&self, pod: &Uid) -> Result<(), RuntimeError> {
        let (shared, pod) = (self.shared.clone(), pod.clone());
        to_the_end(shared.remove(pod)).await
    }

    async fn sandboxes(&self) -> Result<Vec<SandboxState>, RuntimeError> {
        let sandboxes: Vec<Arc<Sandbox>> = self.shared.sandboxes.lock().values().cloned().collect();
        // One whose removal failed half-way is listed too, as dead: whoever removes it must try again.
        Ok(sandboxes.iter().map(|sandbox| sandbox.state()).collect())
    }

    async fn images(&self) -> Result<Vec<PresentImage>, RuntimeError> {
        let images = self.shared.images.clone();
        blocking(move || images.list()).await
    }

    async fn logs(&self, request: &LogRequest) -> Result<LogStream, RuntimeError> {
        logs::open(&self.shared, request).await
    }

    async fn exec(&self, spec: &ExecSpec, input: InputStream) -> Result<OutputStream, RuntimeError> {
        session::exec(&self.shared, spec, input).await
    }

    async fn attach(&self, spec: &AttachSpec, input: InputStream) -> Result<OutputStream, RuntimeError> {
        session::attach(&self.shared, spec, input).await
    }

    async fn port_forward(&self, spec: &PortSpec, input: PortInput) -> Result<PortOutput, RuntimeError> {
        port::forward(&self.shared, spec, input).await
    }

    fn events(&self) -> EventStream {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.shared.events.lock() = Some(sender);
        futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|event| (event, receiver))
        })
        .boxed()
    }
}

/// Ends every pod of a data directory and removes their cgroups and directories: for `actorium node reset`, when no node
/// process runs. Images stay. Blocking. The network is reset by its owner.
///
/// # Errors
/// Something does not end, or cannot be removed.
pub fn destroy_all(data_dir: &Path) -> Result<(), RuntimeError> {
    let layout = Layout::new(data_dir);
    let Ok(record) = read_json::<RuntimeRecord>(&layout.runtime_record()) else {
        return Ok(()); // no runtime was ever opened here
    };
    let hierarchies = Hierarchies::detect().map_err(|error| io_failure("reading /proc/self/mountinfo", &error))?;
    let parent = hierarchies.group(&record.cgroup_parent);
    for entry in fs::read_dir(layout.pods()).into_iter().flatten().flatten() {
        let uid = Uid::from(entry.file_name().to_string_lossy().into_owned());
        let Ok(pod) = layout.pod(&uid) else { continue };
        kill_everything(&pod, &parent.below(&pod_group(&uid)))?;
        discard(&pod.root, &layout.trash())?;
    }
    // Parents whose pod's directory is gone, if ever, are in our group all the same.
    parent.kill_all()?;
    parent.remove()?;
    parent.remove_empty_ancestors();
    empty_trash(&layout);
    match fs::remove_file(layout.runtime_record()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(io_failure("removing the runtime's record", &error))
        }
        _ => Ok(()),
    }
}
