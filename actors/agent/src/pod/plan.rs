//! Turns a pod's specification into what the runtime is asked for: the sandbox and each container. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements, VolumeMount};
use protocol::Uid;
use protocol::quantity::Quantity;
use protocol::runtime::{
    ContainerSpec, PodIdentity, PullPolicy, RegistryCredential, ResourceLimits, SandboxSpec, SecuritySpec,
    VolumeMountSpec,
};

use super::dependency::{Dependencies, Source};
use super::environment::{ConfigurationError, PodFacts, environment, expand};
use super::volumes::volumes;

/// How many processes a container may have when nothing says otherwise. The kubelet leaves it open by default; a fork
/// bomb then takes the node along, so we do not.
const PIDS_MAX_DEFAULT: u64 = 4096;

/// Who the pod is.
pub fn identity(pod: &Pod) -> PodIdentity {
    PodIdentity {
        uid: Uid::new(pod.metadata.uid.clone().unwrap_or_default()),
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
    }
}

/// The sandbox of the pod. `resolv_conf` is decided by the node, which knows its DNS address.
pub fn sandbox(
    pod: &Pod,
    dependencies: &Dependencies,
    facts: &PodFacts,
    resolv_conf: String,
) -> Result<SandboxSpec, ConfigurationError> {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let security = spec.security_context.as_ref();
    let sysctls = security
        .and_then(|context| context.sysctls.as_ref())
        .into_iter()
        .flatten();
    let aliases = spec.host_aliases.iter().flatten();
    Ok(SandboxSpec {
        pod: identity(pod),
        hostname: hostname(pod),
        host_network: spec.host_network.unwrap_or(false),
        host_pid: spec.host_pid.unwrap_or(false),
        host_ipc: spec.host_ipc.unwrap_or(false),
        host_users: spec.host_users.unwrap_or(true),
        share_process_namespace: spec.share_process_namespace.unwrap_or(false),
        resolv_conf,
        host_aliases: aliases
            .map(|alias| (alias.ip.clone(), alias.hostnames.clone().unwrap_or_default()))
            .collect(),
        sysctls: sysctls
            .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
            .collect(),
        resources: pod_limits(spec)?,
        volumes: volumes(pod, dependencies, facts)?,
        fs_group: security.and_then(|context| context.fs_group).map(|group| group as u32),
    })
}

/// `spec.hostname`, else the pod's name, cut to the 63 characters that the kernel and DNS allow.
fn hostname(pod: &Pod) -> String {
    let chosen = pod.spec.as_ref().and_then(|spec| spec.hostname.clone());
    let mut name = chosen.or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    name.truncate(63);
    name.trim_end_matches(['-', '.']).to_owned()
}

/// The pod's own limits: the sum of its containers', where every one has a limit.
pub fn pod_limits(spec: &PodSpec) -> Result<ResourceLimits, ConfigurationError> {
    let mut all = ResourceLimits {
        cpu_request_milli: Some(0),
        cpu_limit_milli: Some(0),
        memory_limit_bytes: Some(0),
        pids_max: None,
    };
    let add = |sum: Option<u64>, part: Option<u64>| Some(sum?.saturating_add(part?));
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    for container in sidecars.chain(&spec.containers) {
        let limits = limits(container)?;
        all.cpu_request_milli = Some(all.cpu_request_milli.unwrap_or(0) + limits.cpu_request_milli.unwrap_or(0));
        all.cpu_limit_milli = add(all.cpu_limit_milli, limits.cpu_limit_milli);
        all.memory_limit_bytes = add(all.memory_limit_bytes, limits.memory_limit_bytes);
    }
    for container in spec.init_containers.iter().flatten() {
        let limits = limits(container)?;
        let at_least = |sum: Option<u64>, part: Option<u64>| Some(sum?.max(part?));
        all.cpu_limit_milli = at_least(all.cpu_limit_milli, limits.cpu_limit_milli);
        all.memory_limit_bytes = at_least(all.memory_limit_bytes, limits.memory_limit_bytes);
    }
    Ok(all)
}

/// A container's cgroup limits.
pub fn limits(container: &Container) -> Result<ResourceLimits, ConfigurationError> {
    let resources = container.resources.as_ref();
    let cpu_limit = quantity(resources, "limits", "cpu")?;
    let cpu_request = quantity(resources, "requests", "cpu")?.or(cpu_limit);
    let memory_limit = quantity(resources, "limits", "memory")?;
    Ok(ResourceLimits {
        cpu_request_milli: cpu_request.map(|q| q.milli().max(0) as u64),
        cpu_limit_milli: cpu_limit.map(|q| q.milli().max(0) as u64),
        memory_limit_bytes: memory_limit.map(|q| q.units().max(0) as u64),
        pids_max: Some(PIDS_MAX_DEFAULT),
    })
}

fn quantity(
    resources: Option<&ResourceRequirements>,
    list: &str,
    name: &str,
) -> Result<Option<Quantity>, ConfigurationError> {
    let values = resources.and_then(|r| {
        if list == "limits" {
            r.limits.as_ref()
        } else {
            r.requests.as_ref()
        }
    });
    let Some(text) = values.and_then(|values| values.get(name)) else {
        return Ok(None);
    };
    let wrong = |_| ConfigurationError::Quantity {
        what: format!("{list}.{name}"),
        text: text.0.clone(),
    };
    Quantity::parse(&text.0).map(Some).map_err(wrong)
}

/// A container of the pod, ready to be started for the `attempt`th time.
pub fn container(
    pod: &Pod,
    container: &Container,
    attempt: u32,
    dependencies: &Dependencies,
    facts: &PodFacts,
) -> Result<ContainerSpec, ConfigurationError> {
    let env = environment(pod, container, dependencies, facts)?;
    let lookup: BTreeMap<&str, &str> = env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let expanded = |text: &String| expand(text, |name| lookup.get(name).map(|value| (*value).to_owned()));
    let words = |list: &Option<Vec<String>>| list.iter().flatten().map(expanded).collect::<Vec<_>>();
    let mounts = container
        .volume_mounts
        .iter()
        .flatten()
        .map(|mount| mount_spec(pod, mount, &expanded));
    let (command, args) = (words(&container.command), words(&container.args));
    let mounts = mounts.collect::<Result<Vec<_>, _>>()?;
    let policy = container.termination_message_policy.as_deref();
    Ok(ContainerSpec {
        name: container.name.clone(),
        attempt,
        image: container.image.clone().unwrap_or_default(),
        command,
        args,
        working_dir: container.working_dir.clone(),
        mounts,
        resources: limits(container)?,
        security: security(pod, container),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        termination_message_path: container
            .termination_message_path
            .clone()
            .unwrap_or_else(|| "/dev/termination-log".to_owned()),
        termination_message_from_log: policy == Some("FallbackToLogsOnError"),
        oom_score_adj: oom_score_adj(pod, container, facts.memory_bytes)?,
        pid_namespace_of: None,
        env,
    })
}

/// Who is ended first when the node runs out of memory: the kubelet's `GetContainerOOMScoreAdjust`. The class is what the API
/// server noted when the pod was created.
fn oom_score_adj(pod: &Pod, container: &Container, node_memory_bytes: u64) -> Result<i32, ConfigurationError> {
    const GUARANTEED: i32 = -997;
    const BEST_EFFORT: i32 = 1000;
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let is_node_critical = spec.priority_class_name.as_deref() == Some("system-node-critical");
    match pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
        _ if is_node_critical => return Ok(GUARANTEED),
        Some("Guaranteed") => return Ok(GUARANTEED),
        Some("BestEffort") => return Ok(BEST_EFFORT),
        _ => {}
    }
    let score = |container: &Container| -> Result<i64, ConfigurationError> {
        let resources = container.resources.as_ref();
        let request = quantity(resources, "requests", "memory")?.or(quantity(resources, "limits", "memory")?);
        let request_bytes = i128::from(request.map_or(0, |request| request.units().max(0)));
        Ok(1000 - (1000 * request_bytes / i128::from(node_memory_bytes.max(1))) as i64)
    };
    let mut own = score(container)?;
    let is_sidecar = spec
        .init_containers
        .iter()
        .flatten()
        .any(|init| init.name == container.name)
        && container.restart_policy.as_deref() == Some("Always");
    if is_sidecar {
        // A sidecar is not to go before those that it serves: before the one of them that asked for the least memory.
        let served = spec.containers.iter().map(score).collect::<Result<Vec<_>, _>>()?;
        own = served
            .into_iter()
            .max()
            .map_or(own, |most_exposed| own.min(most_exposed));
    }
    // Between the guaranteed and those without any request.
    Ok(own.clamp(i64::from(1000 + GUARANTEED), i64::from(BEST_EFFORT - 1)) as i32)
}

fn mount_spec(
    pod: &Pod,
    mount: &VolumeMount,
    expanded: &impl Fn(&String) -> String,
) -> Result<VolumeMountSpec, ConfigurationError> {
    let mut declared = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    if !declared.any(|volume| volume.name == mount.name) {
        return Err(ConfigurationError::Mount(mount.name.clone()));
    }
    let sub_path = match &mount.sub_path_expr {
        Some(expression) => expanded(expression),
        None => mount.sub_path.clone().unwrap_or_default(),
    };
    Ok(VolumeMountSpec {
        volume: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        sub_path,
        read_only: mount.read_only.unwrap_or(false),
    })
}

/// The pod's and the container's security contexts, merged: the container's word counts where both speak.
fn security(pod: &Pod, container: &Container) -> SecuritySpec {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let own = container.security_context.as_ref();
    let id = |value: Option<i64>| value.map(|id| id as u32);
    let profile = own
        .and_then(|context| context.seccomp_profile.as_ref())
        .or_else(|| of_pod.and_then(|context| context.seccomp_profile.as_ref()));
    let capabilities = own.and_then(|context| context.capabilities.as_ref());
    let privileged = own.and_then(|context| context.privileged).unwrap_or(false);
    let mut supplemental: Vec<u32> = of_pod
        .and_then(|c| c.supplemental_groups.as_ref())
        .into_iter()
        .flatten()
        .map(|group| *group as u32)
        .collect();
    supplemental.extend(of_pod.and_then(|context| context.fs_group).map(|group| group as u32));
    SecuritySpec {
        run_as_user: id(own
            .and_then(|c| c.run_as_user)
            .or_else(|| of_pod.and_then(|c| c.run_as_user))),
        run_as_group: id(own
            .and_then(|c| c.run_as_group)
            .or_else(|| of_pod.and_then(|c| c.run_as_group))),
        run_as_non_root: own
            .and_then(|c| c.run_as_non_root)
            .or_else(|| of_pod.and_then(|c| c.run_as_non_root))
            .unwrap_or(false),
        supplemental_groups: supplemental,
        privileged,
        read_only_root_filesystem: own.and_then(|c| c.read_only_root_filesystem).unwrap_or(false),
        no_new_privileges: own.and_then(|c| c.allow_privilege_escalation) == Some(false),
        capabilities_add: capabilities.and_then(|c| c.add.clone()).unwrap_or_default(),
        capabilities_drop: capabilities.and_then(|c| c.drop.clone()).unwrap_or_default(),
        seccomp_unconfined: privileged || profile.is_some_and(|profile| profile.type_ == "Unconfined"),
    }
}

/// When the container's image is pulled.
pub fn pull_policy(container: &Container) -> PullPolicy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        _ => PullPolicy::IfNotPresent,
    }
}

/// The registry credentials of the pod's `imagePullSecrets` that concern an image: secrets of the type
/// `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg`.
pub fn credentials(pod: &Pod, image: &str, dependencies: &Dependencies) -> Vec<RegistryCredential> {
    let registry = image.split('/').next().unwrap_or_default();
    let secrets = pod
        .spec
        .iter()
        .flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    let mut found = Vec::new();
    for secret in secrets {
        let Some(content) = dependencies.content(Source::Secret, &secret.name) else {
            continue;
        };
        let config = content.get(".dockerconfigjson").or_else(|| content.get(".dockercfg"));
        let Some(parsed) = config.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(bytes).ok()) else {
            continue;
        };
        let entries = parsed
            .get("auths")
            .unwrap_or(&parsed)
            .as_object()
            .cloned()
            .unwrap_or_default();
        for (host, entry) in entries {
            let host = host.trim_start_matches("https://").trim_start_matches("http://");
            if host.split('/').next() == Some(registry) {
                found.extend(credential(&entry));
            }
        }
    }
    found
}

fn credential(entry: &serde_json::Value) -> Option<RegistryCredential> {
    use base64::Engine;
    let text = |name: &str| entry.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
    if let (Some(username), Some(password)) = (text("username"), text("password")) {
        return Some(RegistryCredential { username, password });
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(text("auth")?).ok()?;
    let (username, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some(RegistryCredential {
        username: username.to_owned(),
        password: password.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::dependency::Reference;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "d", "uid": "u"}, "spec": spec}))
            .unwrap()
    }

    #[test]
    fn limits_of_the_pod_are_sums_only_when_every_container_has_one() {
        let bounded = json!({"name": "a", "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}}});
        let open = json!({"name": "b", "resources": {"requests": {"cpu": "100m"}}});
        let both = pod_limits(
            pod(json!({"containers": [bounded.clone(), bounded.clone()]}))
                .spec
                .as_ref()
                .unwrap(),
        )
        .unwrap();
        assert_eq!(
            (both.cpu_limit_milli, both.memory_limit_bytes),
            (Some(1000), Some(128 << 20))
        );
        let mixed = pod_limits(pod(json!({"containers": [bounded, open]})).spec.as_ref().unwrap()).unwrap();
        assert_eq!(
            (mixed.cpu_request_milli, mixed.cpu_limit_milli, mixed.memory_limit_bytes),
            (Some(600), None, None)
        );
    }

    #[test]
    fn the_oom_score_follows_class_and_request() {
        let of = |class: &str, extra: serde_json::Value, at: usize| {
            let mut spec = json!({"containers": [
                {"name": "a", "resources": {"requests": {"memory": "1Gi"}}}, {"name": "b", "resources": {"requests": {"memory": "3Gi"}}},
                {"name": "none"}, {"name": "all", "resources": {"limits": {"memory": "64Gi"}}},
            ]});
            spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let mut pod = pod(spec);
            pod.status = Some(serde_json::from_value(json!({"qosClass": class})).unwrap());
            let spec = pod.spec.clone().unwrap();
            let all: Vec<Container> = spec
                .containers
                .into_iter()
                .chain(spec.init_containers.unwrap_or_default())
                .collect();
            oom_score_adj(&pod, &all[at], 4 << 30).unwrap()
        };
        let nothing = || json!({});
        assert_eq!(of("Guaranteed", nothing(), 0), -997);
        assert_eq!(of("BestEffort", nothing(), 0), 1000);
        assert_eq!(
            of("BestEffort", json!({"priorityClassName": "system-node-critical"}), 0),
            -997
        );
        let burstable = |at| of("Burstable", nothing(), at);
        assert_eq!((burstable(0), burstable(1)), (750, 250));
        assert_eq!((burstable(2), burstable(3)), (999, 3), "never beyond the other classes");
        let sidecar = json!({
            "initContainers": [{"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "a", "resources": {"requests": {"memory": "1Gi"}}}],
        });
        assert_eq!(
            of("Burstable", sidecar, 1),
            750,
            "a sidecar is as safe as whom it serves"
        );
    }

    #[test]
    fn the_containers_security_context_counts_more_than_the_pods() {
        let pod = pod(json!({
            "securityContext": {"runAsUser": 1000, "runAsGroup": 7, "fsGroup": 9},
            "containers": [{"name": "a", "securityContext": {"runAsUser": 5, "allowPrivilegeEscalation": false}}],
        }));
        let merged = security(&pod, &pod.spec.as_ref().unwrap().containers[0]);
        assert_eq!((merged.run_as_user, merged.run_as_group), (Some(5), Some(7)));
        assert_eq!(merged.supplemental_groups, [9]);
        assert!(merged.no_new_privileges && !merged.privileged);
    }

    #[test]
    fn commands_expand_the_containers_own_environment() {
        let pod = pod(json!({"containers": [{
            "name": "a", "env": [{"name": "N", "value": "7"}], "command": ["run"], "args": ["--n=$(N)", "$$(N)", "$(M)"],
        }]}));
        let spec = container(
            &pod,
            &pod.spec.as_ref().unwrap().containers[0],
            0,
            &Dependencies::default(),
            &PodFacts::default(),
        );
        assert_eq!(spec.unwrap().args, ["--n=7", "$(N)", "$(M)"]);
    }

    #[test]
    fn pull_secrets_are_matched_by_registry() {
        let pod = pod(json!({"containers": [], "imagePullSecrets": [{"name": "s"}]}));
        let config = json!({"auths": {"https://r.example:5000/v1": {"auth": "dTpw"}, "other": {"username": "x", "password": "y"}}});
        let content = BTreeMap::from([(".dockerconfigjson".to_owned(), config.to_string().into_bytes())]);
        let dependencies = Dependencies {
            contents: BTreeMap::from([(Reference::new(Source::Secret, "s"), Some(content))]),
            services: vec![],
            tokens: Default::default(),
        };
        let found = credentials(&pod, "r.example:5000/app:1", &dependencies);
        assert_eq!(
            found,
            [RegistryCredential {
                username: "u".into(),
                password: "p".into()
            }]
        );
    }
}
