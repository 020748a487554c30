//! From a container's specification and its image to a launch: command, environment, mounts, rights. Pure but for the paths
//! that it composes.

use std::path::PathBuf;

use protocol::runtime::{ContainerSpec, RuntimeError, SandboxSpec, VolumeSource, signal_number};

use super::layout::{PodLayout, checked_name};
use crate::container::capabilities::{CapabilityMask, bounding_set};
use crate::container::exec::DEFAULT_PATH;
use crate::container::{BindMount, CgroupEntry, ContainerLaunch, IdRange, RootSource, UserChoice};
use crate::failure::configuration;
use crate::images::ImageConfig;

/// The kubelet's default.
const DEFAULT_TERMINATION_PATH: &str = "/dev/termination-log";

/// An image that a container is started from.
pub(crate) struct LaunchImage {
    pub digest: String,
    pub config: ImageConfig,
    pub layers: Vec<PathBuf>,
}

/// What the node's side made for this start.
pub(crate) struct Prepared {
    pub cgroup: CgroupEntry,
    pub user_ids: Option<IdRange>,
    pub seccomp_filter: Option<PathBuf>,
    pub capabilities: CapabilityMask,
}

/// The bounding set of a container.
pub(crate) fn capabilities(spec: &ContainerSpec) -> Result<CapabilityMask, RuntimeError> {
    bounding_set(
        spec.security.privileged,
        &spec.security.capabilities_add,
        &spec.security.capabilities_drop,
    )
    .map_err(configuration)
}

/// Entrypoint and command, with Kubernetes' rule: `command` replaces the image's entrypoint and discards its command.
fn argv(spec: &ContainerSpec, image: &ImageConfig) -> Vec<String> {
    match (spec.command.is_empty(), spec.args.is_empty()) {
        (false, _) => [spec.command.as_slice(), spec.args.as_slice()].concat(),
        (true, false) => [image.entrypoint.as_slice(), spec.args.as_slice()].concat(),
        (true, true) => [image.entrypoint.as_slice(), image.command.as_slice()].concat(),
    }
}

/// The image's environment, overridden by the pod's, with what every container has.
fn environment(spec: &ContainerSpec, image: &ImageConfig, hostname: &str) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = Vec::new();
    let mut put = |name: &str, value: &str| match env.iter_mut().find(|(known, _)| known == name) {
        Some((_, known)) => value.clone_into(known),
        None => env.push((name.to_owned(), value.to_owned())),
    };
    put("PATH", DEFAULT_PATH);
    put("HOSTNAME", hostname);
    if spec.tty {
        put("TERM", "xterm");
    }
    for variable in &image.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        put(name, value);
    }
    for (name, value) in &spec.env {
        put(name, value);
    }
    env
}

/// Where a volume lies, and whether it may only be read. File sets are never writable: the node process replaces their files
/// with its own rights, along whatever symlinks a container might have put there (CVE-2017-1002102).
fn volume_source(
    layout: &PodLayout,
    sandbox: &SandboxSpec,
    spec: &ContainerSpec,
    volume: &str,
) -> Result<(PathBuf, bool), RuntimeError> {
    let found = sandbox
        .volumes
        .iter()
        .find(|candidate| candidate.name == volume)
        .ok_or_else(|| {
            configuration(format!(
                "container {} mounts volume {volume:?}, which the pod does not have",
                spec.name
            ))
        })?;
    Ok(match &found.source {
        VolumeSource::HostPath { path, .. } => (path.clone(), false),
        VolumeSource::Files { .. } => (layout.volume(volume), true),
        VolumeSource::EmptyDir { .. } => (layout.volume(volume), false),
    })
}

/// The pod's files under `/etc`, the termination message and the volumes, outer paths before inner ones. A volume at one of
/// our own paths takes its place.
fn binds(
    layout: &PodLayout,
    sandbox: &SandboxSpec,
    spec: &ContainerSpec,
    termination_message: PathBuf,
) -> Result<Vec<BindMount>, RuntimeError> {
    let mut binds = Vec::new();
    for mount in &spec.mounts {
        let destination = normalized_destination(&mount.mount_path)?;
        if destination == "/" || destination == "/proc" || destination.starts_with("/proc/") {
            return Err(configuration(format!(
                "a volume cannot be mounted at {}",
                mount.mount_path
            )));
        }
        let (source, is_read_only) = volume_source(layout, sandbox, spec, &mount.volume)?;
        binds.push(BindMount {
            source,
            sub_path: mount.sub_path.clone(),
            destination,
            read_only: mount.read_only || is_read_only,
        });
    }
    let termination_path = match spec.termination_message_path.as_str() {
        "" => DEFAULT_TERMINATION_PATH.to_owned(),
        path => normalized_destination(path)?,
    };
    let own = [
        (layout.etc("hosts"), "/etc/hosts".to_owned(), false),
        (layout.etc("hostname"), "/etc/hostname".to_owned(), false),
        (layout.etc("resolv.conf"), "/etc/resolv.conf".to_owned(), false),
        (termination_message, termination_path, false),
    ];
    for (source, destination, read_only) in own {
        if !binds.iter().any(|bind| bind.destination == destination) {
            binds.push(BindMount {
                source,
                sub_path: String::new(),
                destination,
                read_only,
            });
        }
    }
    binds.sort_by_key(|bind| bind.destination.matches('/').count());
    Ok(binds)
}

fn normalized_destination(path: &str) -> Result<String, RuntimeError> {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    if parts.contains(&"..") || path.contains('\0') {
        return Err(configuration(format!("the mount path {path:?} must not contain '..'")));
    }
    Ok(format!("/{}", parts.join("/")))
}

/// Checks what does not need the image.
pub(crate) fn validate(spec: &ContainerSpec) -> Result<(), RuntimeError> {
    checked_name("container", &spec.name)?;
    capabilities(spec).map(drop)
}

/// Composes the launch.
pub(crate) fn launch(
    layout: &PodLayout,
    sandbox: &SandboxSpec,
    spec: &ContainerSpec,
    image: Option<LaunchImage>,
    prepared: Prepared,
) -> Result<ContainerLaunch, RuntimeError> {
    let directory = layout.attempt(&spec.name, spec.attempt);
    let (root, image_config, image_digest) = match image {
        Some(image) => (RootSource::Layers(image.layers), image.config, image.digest),
        None => (RootSource::Host, ImageConfig::default(), String::new()),
    };
    // Where containers share one pid namespace, or use the node's, it is the target's too.
    let pids_apart = !sandbox.host_pid && !sandbox.share_process_namespace;
    let pid_namespace_of = spec.pid_namespace_of.clone().filter(|_| pids_apart);
    let argv = argv(spec, &image_config);
    if argv.is_empty() || argv[0].is_empty() {
        return Err(configuration(format!(
            "container {} has no command: its image has no entrypoint, set command",
            spec.name
        )));
    }
    let termination_message = directory.join("termination-log");
    let mut supplemental_groups = spec.security.supplemental_groups.clone();
    supplemental_groups.extend(sandbox.fs_group);
    let binds = binds(layout, sandbox, spec, termination_message.clone())?;
    let env = environment(spec, &image_config, &sandbox.hostname);
    Ok(ContainerLaunch {
        name: spec.name.clone(),
        attempt: spec.attempt,
        image_digest,
        log_path: layout.log(&spec.name, spec.attempt),
        root,
        argv,
        env,
        working_dir: spec
            .working_dir
            .clone()
            .filter(|path| !path.is_empty())
            .unwrap_or(image_config.working_dir),
        user: UserChoice {
            image_user: image_config.user,
            run_as_user: spec.security.run_as_user,
            run_as_group: spec.security.run_as_group,
            run_as_non_root: spec.security.run_as_non_root,
            supplemental_groups,
        },
        binds,
        shm: layout.shm(),
        cgroup: prepared.cgroup,
        capabilities: prepared.capabilities,
        no_new_privileges: spec.security.no_new_privileges,
        seccomp_filter: prepared.seccomp_filter,
        privileged: spec.security.privileged,
        read_only_root: spec.security.read_only_root_filesystem,
        user_namespace: prepared.user_ids,
        own_pid_namespace: pids_apart && pid_namespace_of.is_none(),
        pid_namespace_of,
        oom_score_adj: spec.oom_score_adj,
        stop_signal: signal_number(&image_config.stop_signal),
        stdin: spec.stdin,
        stdin_once: spec.stdin_once,
        tty: spec.tty,
        termination_message,
        termination_message_from_log: spec.termination_message_from_log,
        directory,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    fn container(command: &[&str], args: &[&str]) -> ContainerSpec {
        ContainerSpec {
            name: "c".into(),
            attempt: 0,
            image: "i".into(),
            command: texts(command),
            args: texts(args),
            working_dir: None,
            env: Vec::new(),
            mounts: Vec::new(),
            resources: Default::default(),
            security: Default::default(),
            stdin: false,
            stdin_once: false,
            tty: false,
            termination_message_path: String::new(),
            termination_message_from_log: false,
            oom_score_adj: 0,
            pid_namespace_of: None,
        }
    }

    #[test]
    fn command_and_args_override_the_image_as_kubernetes_says() {
        let image = ImageConfig {
            entrypoint: texts(&["e"]),
            command: texts(&["c"]),
            ..ImageConfig::default()
        };
        let cases: [(&[&str], &[&str], &[&str]); 4] = [
            (&[], &[], &["e", "c"]),
            (&["x"], &[], &["x"]),
            (&[], &["y"], &["e", "y"]),
            (&["x"], &["y"], &["x", "y"]),
        ];
        for (command, args, expected) in cases {
            assert_eq!(argv(&container(command, args), &image), texts(expected));
        }
    }

    #[test]
    fn the_pods_environment_overrides_the_images() {
        let image = ImageConfig {
            env: texts(&["PATH=/image", "A=1", "B"]),
            ..ImageConfig::default()
        };
        let mut spec = container(&[], &[]);
        spec.env = vec![("A".into(), "2".into())];
        let pairs = environment(&spec, &image, "h");
        let text: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(text, ["PATH=/image", "HOSTNAME=h", "A=2", "B="]);
    }

    #[test]
    fn mount_paths_are_normalized_and_those_with_dots_refused() {
        assert_eq!(normalized_destination("data//x/./y/").unwrap(), "/data/x/y");
        assert!(normalized_destination("/data/../proc").is_err());
    }
}
