//! Ephemeral containers (KEP-277): what is added to a running pod to look into it. They are started as soon as the sandbox
//! runs, beside everything else, and never a second time. Pure; `decide` calls it.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};
use protocol::UnixMillis;

use super::state::{ContainerRecord, Ending, PodState, Role, Run};

/// The pod's ephemeral containers in the form of the others.
pub fn containers(pod: &Pod) -> Vec<Container> {
    listed(pod).map(container).collect()
}

fn listed(pod: &Pod) -> impl Iterator<Item = &EphemeralContainer> {
    pod.spec
        .iter()
        .flat_map(|spec| spec.ephemeral_containers.iter().flatten())
}

/// What validation lets an ephemeral container have.
fn container(from: &EphemeralContainer) -> Container {
    let from = from.clone();
    Container {
        name: from.name,
        image: from.image,
        image_pull_policy: from.image_pull_policy,
        command: from.command,
        args: from.args,
        working_dir: from.working_dir,
        env: from.env,
        env_from: from.env_from,
        volume_mounts: from.volume_mounts,
        volume_devices: from.volume_devices,
        security_context: from.security_context,
        stdin: from.stdin,
        stdin_once: from.stdin_once,
        tty: from.tty,
        termination_message_path: from.termination_message_path,
        termination_message_policy: from.termination_message_policy,
        ..Container::default()
    }
}

/// The container whose processes an ephemeral one is to see.
pub fn target(pod: &Pod, record: &ContainerRecord) -> Option<String> {
    if record.role != Role::Ephemeral {
        return None;
    }
    let container = listed(pod).find(|container| container.name == record.name)?;
    let target = container.target_container_name.clone();
    target.filter(|name| !name.is_empty())
}

/// Takes over what the API object has now: containers are only added, in any order. True when a new one needs ConfigMaps or
/// Secrets.
pub(super) fn refresh(state: &mut PodState, pod: &Pod) -> bool {
    state.ephemeral = containers(pod);
    let mut needs = false;
    for (index, container) in state.ephemeral.iter().enumerate() {
        let known = state.containers.iter_mut().find(|record| record.name == container.name);
        match known {
            Some(record) => record.index = index,
            None => {
                let mut variables = container.env.iter().flatten();
                needs |= container.env_from.is_some() || variables.any(|variable| variable.value_from.is_some());
                state
                    .containers
                    .push(ContainerRecord::new(container, index, Role::Ephemeral));
            }
        }
    }
    needs
}

/// After the machine was restarted: one that was started is over.
pub(super) fn resume(state: &mut PodState, now: UnixMillis) {
    let status = state.pod.status.clone().unwrap_or_default();
    for known in status.ephemeral_container_statuses.into_iter().flatten() {
        let Some(told) = known.state else { continue };
        if told.running.is_none() && told.terminated.is_none() {
            continue;
        }
        if let Some(record) = state
            .record_mut(&known.name)
            .filter(|record| record.role == Role::Ephemeral)
        {
            let mut ending = Ending::lost(now, now);
            if let Some(terminated) = told.terminated {
                ending.exit.exit_code = terminated.exit_code;
            }
            record.run = Run::Ended(ending);
        }
    }
}
