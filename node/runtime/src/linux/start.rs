//! The node's steps of a start: of a sandbox, and of a container in it. Each either ends well or takes back all that it made.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::sync::Arc;

use protocol::Uid;
use protocol::runtime::{ContainerSpec, ContainerState, RuntimeError, SandboxSpec, SandboxState};

use super::layout::{PARENTS_GROUP, PodLayout, attempt_group};
use super::prepare::{self, LaunchImage, Prepared};
use super::sandbox::{
    Sandbox, SandboxRecord, discard, kill_everything, make_directory, spawn_parent, validate_sysctls,
    validate_user_namespace, write_etc, write_record,
};
use super::{Shared, blocking, volumes};
use crate::cgroup::Group;
use crate::container::{ContainerLaunch, seccomp};
use crate::failure::{configuration, io_failure, now};
use crate::pod_parent::message::{ReplyBody, RequestBody};

/// Starts a pod's sandbox, or returns the running one.
pub(super) async fn start_sandbox(shared: &Arc<Shared>, spec: SandboxSpec) -> Result<SandboxState, RuntimeError> {
    volumes::validate(&spec.volumes)?;
    validate_sysctls(&spec)?;
    validate_user_namespace(&spec)?;
    let layout = shared.layout.pod(&spec.pod.uid)?;
    loop {
        let sandbox = {
            let mut sandboxes = shared.sandboxes.lock();
            sandboxes
                .entry(spec.pod.uid.clone())
                .or_insert_with(|| Sandbox::new(spec.pod.clone(), layout.clone()))
                .clone()
        };
        let _lifecycle = sandbox.lifecycle.lock().await;
        // While this one waited for the lock, another may have removed the pod and its entry.
        if !shared
            .sandbox(&spec.pod.uid)
            .is_some_and(|present| Arc::ptr_eq(&present, &sandbox))
        {
            continue;
        }
        if sandbox.known.lock().connection.is_some() {
            return Ok(sandbox.state());
        }
        clear_remains(shared, &sandbox).await?;
        let result = make_sandbox(shared, &sandbox, &spec).await;
        if let Err(error) = result {
            take_back(shared, &sandbox).await;
            return Err(error);
        }
        return Ok(sandbox.state());
    }
}

/// What a dead sandbox left, but for its volumes and logs: an emptyDir lives as long as the pod, not as its parent process.
async fn clear_remains(shared: &Arc<Shared>, sandbox: &Arc<Sandbox>) -> Result<(), RuntimeError> {
    let (group, layout, trash) = (
        shared.pod_group(&sandbox.pod.uid),
        sandbox.layout.clone(),
        shared.layout.trash(),
    );
    {
        let mut known = sandbox.known.lock();
        known.containers.clear();
        known.is_removed = false;
    }
    if !layout.root.exists() {
        return Ok(());
    }
    blocking(move || {
        kill_everything(&layout, &group)?;
        for entry in fs::read_dir(&layout.root)
            .map_err(|error| io_failure(format!("reading {}", layout.root.display()), &error))?
            .flatten()
        {
            let path = entry.path();
            if path.ends_with("volumes") || path.ends_with("logs") {
                continue;
            }
            if path.is_dir() {
                discard(&path, &trash)?;
            } else {
                fs::remove_file(&path).map_err(|error| io_failure(format!("removing {}", path.display()), &error))?;
            }
        }
        Ok(())
    })
    .await
}

/// After a failed start: nothing remains, and the pod is not known.
async fn take_back(shared: &Arc<Shared>, sandbox: &Arc<Sandbox>) {
    {
        let mut known = sandbox.known.lock();
        known.is_removed = true;
        known.connection = None;
    }
    let (group, layout, trash) = (
        shared.pod_group(&sandbox.pod.uid),
        sandbox.layout.clone(),
        shared.layout.trash(),
    );
    let removed = blocking(move || {
        kill_everything(&layout, &group)?;
        discard(&layout.root, &trash)
    });
    if let Err(error) = removed.await {
        tracing::warn!(%error, pod = %sandbox.pod.uid, "a sandbox that could not be started left something behind");
        return; // listed as dead until `remove_sandbox` succeeds
    }
    if let Err(reason) = shared.network.detach(&sandbox.pod.uid).await {
        tracing::warn!(reason, pod = %sandbox.pod.uid, "the network of a sandbox that could not be started remains");
        return;
    }
    shared.user_ids.lock().release(&sandbox.pod.uid);
    shared.sandboxes.lock().remove(&sandbox.pod.uid);
}

async fn make_sandbox(shared: &Arc<Shared>, sandbox: &Arc<Sandbox>, spec: &SandboxSpec) -> Result<(), RuntimeError> {
    let user_ids = if spec.host_users {
        None
    } else {
        Some(shared.user_ids.lock().take(&spec.pod.uid)?)
    };
    let identity = blocking({
        let (spec, layout) = (spec.clone(), sandbox.layout.clone());
        let (group, program) = (shared.pod_group(&spec.pod.uid), Arc::clone(&shared.parent_program));
        let parents = shared
            .hierarchies
            .group(&shared.config.cgroup_parent)
            .below(PARENTS_GROUP);
        move || {
            make_directory(&layout, &spec, user_ids, parents.entry())?;
            group.create()?;
            group.limit(&spec.resources, false)?;
            spawn_parent(&program, &layout)
        }
    })
    .await?;
    let addresses = if spec.host_network {
        Vec::new()
    } else {
        let path = PathBuf::from(format!("/proc/{}/ns/net", identity.pid));
        shared
            .network
            .attach(&spec.pod, &path)
            .await
            .map_err(|reason| RuntimeError::Failed {
                doing: format!("connecting the network of pod {}/{}", spec.pod.namespace, spec.pod.name),
                reason,
            })?
    };
    let record = SandboxRecord {
        spec: spec.clone(),
        started_at: now(),
        identity: Some(identity),
        user_ids,
        addresses,
    };
    let record = blocking({
        let layout = sandbox.layout.clone();
        move || {
            write_etc(&layout, &record.spec, &record.addresses)?;
            volumes::fill(&layout, &record.spec.volumes, record.spec.fs_group, identity.pid)?;
            write_record(&layout, &record)?;
            Ok(record)
        }
    })
    .await?;
    sandbox.known.lock().record = Some(Arc::new(record));
    shared.connect(sandbox).await
}

/// Starts a container, or returns the one of this attempt.
pub(super) async fn start_container(
    shared: &Arc<Shared>,
    pod: &Uid,
    spec: ContainerSpec,
) -> Result<ContainerState, RuntimeError> {
    prepare::validate(&spec)?;
    let not_found = || RuntimeError::NotFound {
        what: format!("the sandbox of pod {pod}"),
    };
    let sandbox = shared.sandbox(pod).ok_or_else(not_found)?;
    let _lifecycle = sandbox.lifecycle.lock().await;
    let (record, connection) = {
        let known = sandbox.known.lock();
        if let Some(state) = known.containers.get(&spec.name) {
            if state.attempt == spec.attempt {
                return Ok(state.clone());
            }
            if state.attempt > spec.attempt {
                return Err(configuration(format!(
                    "start {} of container {} is over: start {} took place already",
                    spec.attempt, spec.name, state.attempt
                )));
            }
        }
        let connection = known.connection.clone().ok_or_else(not_found)?;
        (known.record.clone().ok_or_else(not_found)?, connection)
    };
    let group = shared.pod_group(pod).below(&attempt_group(&spec.name, spec.attempt));
    let launch = blocking({
        let (shared, layout, spec, group) = (shared.clone(), sandbox.layout.clone(), spec.clone(), group.clone());
        move || {
            let made = make_container(&shared, &layout, &record, &spec, &group);
            if made.is_err() {
                take_back_container(&layout, &spec, &group);
            }
            made
        }
    })
    .await?;
    let reply = connection.ask(RequestBody::Start(Box::new(launch))).await;
    let error = match reply {
        Ok(ReplyBody::Started(state)) => {
            remove_earlier(&sandbox, &spec);
            return Ok(state);
        }
        Ok(ReplyBody::Failed(failure)) => failure.into(),
        Ok(other) => RuntimeError::Failed {
            doing: format!("starting container {}", spec.name),
            reason: format!("the pod's parent answered {other:?}: it may be of another version, restart the pod"),
        },
        Err(error) => error,
    };
    let layout = sandbox.layout.clone();
    blocking(move || {
        take_back_container(&layout, &spec, &group);
        Ok(())
    })
    .await?;
    Err(error)
}

fn make_container(
    shared: &Shared,
    layout: &PodLayout,
    record: &SandboxRecord,
    spec: &ContainerSpec,
    group: &Group,
) -> Result<ContainerLaunch, RuntimeError> {
    let image = if spec.image.is_empty() {
        None
    } else {
        let found = shared
            .images
            .find(&spec.image)?
            .ok_or_else(|| RuntimeError::ImageAbsent {
                reference: spec.image.clone(),
            })?;
        Some(LaunchImage {
            layers: shared.images.layer_paths(&found),
            digest: found.digest,
            config: found.config,
        })
    };
    let capabilities = prepare::capabilities(spec)?;
    let seccomp_filter = if spec.security.privileged || spec.security.seccomp_unconfined {
        None
    } else {
        let path = seccomp::shared_file(&shared.layout.filters(), capabilities)
            .map_err(|error| io_failure("writing the seccomp filter", &error))?;
        Some(path)
    };
    let prepared = Prepared {
        cgroup: group.entry(),
        user_ids: record.user_ids,
        seccomp_filter,
        capabilities,
    };
    let launch = prepare::launch(layout, &record.spec, spec, image, prepared)?;
    make_container_directory(layout, &launch)?;
    group.create()?;
    group.limit(&spec.resources, true)?;
    Ok(launch)
}

fn make_container_directory(layout: &PodLayout, launch: &ContainerLaunch) -> Result<(), RuntimeError> {
    let failed = |error: std::io::Error| io_failure(format!("making {}", launch.directory.display()), &error);
    // A start that was interrupted may have left a directory of the same attempt.
    match fs::remove_dir_all(&launch.directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    for name in ["root", "upper", "work"] {
        fs::create_dir_all(launch.directory.join(name)).map_err(failed)?;
    }
    // The upper directory becomes the container's /, which belongs to its root and which programs of any user must be able to
    // pass.
    let upper = launch.directory.join("upper");
    fs::set_permissions(&upper, Permissions::from_mode(0o755)).map_err(failed)?;
    if let Some(range) = launch.user_namespace {
        chown(&upper, Some(range.first), Some(range.first)).map_err(failed)?;
    }
    fs::write(&launch.termination_message, "").map_err(failed)?;
    fs::set_permissions(&launch.termination_message, Permissions::from_mode(0o666)).map_err(failed)?;
    fs::create_dir_all(layout.container_logs(&launch.name)).map_err(failed)
}

fn take_back_container(layout: &PodLayout, spec: &ContainerSpec, group: &Group) {
    if let Err(error) = group.kill_all().and_then(|()| group.remove()) {
        tracing::warn!(%error, "the cgroup of a container that did not start remains until its pod is removed");
    }
    for result in [
        fs::remove_dir_all(layout.attempt(&spec.name, spec.attempt)),
        fs::remove_file(layout.log(&spec.name, spec.attempt)),
    ] {
        match result {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, "a directory of a container that did not start remains until its pod is removed");
            }
            _ => {}
        }
    }
}

/// The directories of earlier starts go; of their logs the last one stays, for `previous`.
fn remove_earlier(sandbox: &Arc<Sandbox>, spec: &ContainerSpec) {
    if spec.attempt == 0 {
        return;
    }
    let (layout, name, attempt) = (sandbox.layout.clone(), spec.name.clone(), spec.attempt);
    tokio::task::spawn_blocking(move || {
        let earlier = |path: &std::path::Path, before: u32| {
            let number = path.file_name()?.to_str()?.split('.').next()?.parse::<u32>().ok()?;
            (number < before).then(|| path.to_owned())
        };
        for entry in fs::read_dir(layout.container(&name)).into_iter().flatten().flatten() {
            if let Some(path) = earlier(&entry.path(), attempt) {
                let _ = fs::remove_dir_all(path); // tried again at the next start, and with the pod
            }
        }
        for entry in fs::read_dir(layout.container_logs(&name))
            .into_iter()
            .flatten()
            .flatten()
        {
            if let Some(path) = earlier(&entry.path(), attempt - 1) {
                let _ = fs::remove_file(path);
            }
        }
    });
}
