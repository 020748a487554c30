//! The baseline standard: no known way to more rights (https://kubernetes.io/docs/concepts/security/pod-security-standards/).

use api::access::Access;
use serde_json::Value;

use super::{Violation, containers_that, named};

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

const SYSCTLS: [&str; 14] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_notsent_lowat",
];

const SELINUX_TYPES: [&str; 5] = [
    "",
    "container_t",
    "container_init_t",
    "container_kvm_t",
    "container_engine_t",
];

/// Finds what breaks the standard. The restricted standard has stricter forms of two rules, which stand for these.
pub(super) fn check(pod: &Value, restricted: bool, found: &mut Vec<Violation>) {
    let spec = pod.at(&["spec"]);
    host_namespaces(spec, found);
    for_containers(
        pod,
        found,
        "privileged",
        "must not set securityContext.privileged=true",
        |c| c.at(&["securityContext"]).flag("privileged"),
    );
    if !restricted {
        capabilities(pod, found);
        seccomp(pod, found);
    }
    host_paths(spec, found);
    host_ports(pod, found);
    host_probes(pod, found);
    apparmor(pod, found);
    selinux(pod, found);
    for_containers(
        pod,
        found,
        "procMount",
        "must not set securityContext.procMount to \"Unmasked\"",
        |c| !matches!(c.at(&["securityContext"]).text("procMount"), "" | "Default"),
    );
    let unsafe_sysctls: Vec<&str> = spec
        .at(&["securityContext"])
        .items("sysctls")
        .iter()
        .map(|sysctl| sysctl.text("name"))
        .filter(|name| !SYSCTLS.contains(name))
        .collect();
    if !unsafe_sysctls.is_empty() {
        add(found, "forbidden sysctls", unsafe_sysctls.join(", "));
    }
    windows(pod, found);
}

fn add(found: &mut Vec<Violation>, rule: &'static str, detail: String) {
    found.push(Violation { rule, detail });
}

fn for_containers(
    pod: &Value,
    found: &mut Vec<Violation>,
    rule: &'static str,
    must: &str,
    breaks: impl Fn(&Value) -> bool,
) {
    let breaking = containers_that(pod, breaks);
    if !breaking.is_empty() {
        add(found, rule, format!("{} {must}", named(&breaking)));
    }
}

fn host_namespaces(spec: &Value, found: &mut Vec<Violation>) {
    let shared: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|name| spec.flag(name))
        .map(|name| format!("{name}=true"))
        .collect();
    if !shared.is_empty() {
        add(found, "host namespaces", shared.join(", "));
    }
}

fn capabilities(pod: &Value, found: &mut Vec<Violation>) {
    let added = |container: &Value| -> Vec<String> {
        let list = container.at(&["securityContext", "capabilities"]).items("add");
        let names = list.iter().filter_map(Value::as_str);
        names
            .filter(|name| !CAPABILITIES.contains(name))
            .map(str::to_owned)
            .collect()
    };
    let breaking = containers_that(pod, |container| !added(container).is_empty());
    if breaking.is_empty() {
        return;
    }
    let mut all: Vec<String> = super::CONTAINER_LISTS
        .iter()
        .flat_map(|list| pod.at(&["spec"]).items(list))
        .flat_map(added)
        .map(|name| format!("{name:?}"))
        .collect();
    all.sort();
    all.dedup();
    let detail = format!(
        "{} must not include {} in securityContext.capabilities.add",
        named(&breaking),
        all.join(", ")
    );
    add(found, "non-default capabilities", detail);
}

fn host_paths(spec: &Value, found: &mut Vec<Violation>) {
    let volumes: Vec<String> = spec
        .items("volumes")
        .iter()
        .filter(|volume| volume.has("hostPath"))
        .map(|volume| format!("{:?}", volume.text("name")))
        .collect();
    if !volumes.is_empty() {
        let word = if volumes.len() == 1 { "volume" } else { "volumes" };
        add(found, "hostPath volumes", format!("{word} {}", volumes.join(", ")));
    }
}

fn host_ports(pod: &Value, found: &mut Vec<Violation>) {
    let ports = |container: &Value| -> Vec<i64> {
        let list = container.items("ports").iter().filter_map(|port| port.int("hostPort"));
        list.filter(|port| *port != 0).collect()
    };
    let breaking = containers_that(pod, |container| !ports(container).is_empty());
    if breaking.is_empty() {
        return;
    }
    let lists = super::CONTAINER_LISTS
        .iter()
        .flat_map(|list| pod.at(&["spec"]).items(list));
    let mut all: Vec<i64> = lists.flat_map(ports).collect();
    all.sort_unstable();
    all.dedup();
    let word = if all.len() == 1 { "hostPort" } else { "hostPorts" };
    let all: Vec<String> = all.iter().map(i64::to_string).collect();
    add(
        found,
        "hostPort",
        format!("{} uses {word} {}", named(&breaking), all.join(", ")),
    );
}

/// Probes and hooks may not make the node talk to another host.
fn host_probes(pod: &Value, found: &mut Vec<Violation>) {
    let names_host = |handler: &Value| {
        ["httpGet", "tcpSocket"]
            .iter()
            .any(|way| !handler.at(&[way]).text("host").is_empty())
    };
    for_containers(
        pod,
        found,
        "probe or lifecycle host",
        "must not set host in probes or lifecycle hooks",
        |container| {
            let probes = ["livenessProbe", "readinessProbe", "startupProbe"];
            let hooks = ["postStart", "preStop"];
            probes.iter().any(|probe| names_host(&container[*probe]))
                || hooks.iter().any(|hook| names_host(container.at(&["lifecycle", hook])))
        },
    );
}

fn apparmor(pod: &Value, found: &mut Vec<Violation>) {
    let unconfined = |context: &Value| context.at(&["appArmorProfile"]).text("type") == "Unconfined";
    if unconfined(pod.at(&["spec", "securityContext"])) {
        add(
            found,
            "forbidden AppArmor profile",
            "pod must not set AppArmor profile type to \"Unconfined\"".to_owned(),
        );
    }
    for_containers(
        pod,
        found,
        "forbidden AppArmor profile",
        "must not set AppArmor profile type to \"Unconfined\"",
        |container| unconfined(&container["securityContext"]),
    );
    let forbidden = pod.at(&["metadata"]).members("annotations").find(|(name, value)| {
        let profile = value.as_str().unwrap_or_default();
        name.starts_with("container.apparmor.security.beta.kubernetes.io/")
            && !(matches!(profile, "" | "runtime/default") || profile.starts_with("localhost/"))
    });
    if let Some((name, value)) = forbidden {
        add(
            found,
            "forbidden AppArmor profile",
            format!("annotation {name}={value}"),
        );
    }
}

fn selinux(pod: &Value, found: &mut Vec<Violation>) {
    let breaks = |context: &Value| {
        let options = context.at(&["seLinuxOptions"]);
        !SELINUX_TYPES.contains(&options.text("type"))
            || !options.text("user").is_empty()
            || !options.text("role").is_empty()
    };
    if breaks(pod.at(&["spec", "securityContext"])) {
        add(
            found,
            "seLinuxOptions",
            "pod set forbidden securityContext.seLinuxOptions".to_owned(),
        );
    }
    for_containers(
        pod,
        found,
        "seLinuxOptions",
        "set forbidden securityContext.seLinuxOptions",
        |container| breaks(&container["securityContext"]),
    );
}

fn seccomp(pod: &Value, found: &mut Vec<Violation>) {
    let unconfined = |context: &Value| context.at(&["seccompProfile"]).text("type") == "Unconfined";
    if unconfined(pod.at(&["spec", "securityContext"])) {
        let detail = "pod must not set securityContext.seccompProfile.type to \"Unconfined\"";
        add(found, "seccompProfile", detail.to_owned());
    }
    for_containers(
        pod,
        found,
        "seccompProfile",
        "must not set securityContext.seccompProfile.type to \"Unconfined\"",
        |container| unconfined(&container["securityContext"]),
    );
}

fn windows(pod: &Value, found: &mut Vec<Violation>) {
    let host_process = |context: &Value| context.at(&["windowsOptions"]).flag("hostProcess");
    if host_process(pod.at(&["spec", "securityContext"])) {
        add(
            found,
            "hostProcess",
            "pod must not set securityContext.windowsOptions.hostProcess=true".to_owned(),
        );
    }
    for_containers(
        pod,
        found,
        "hostProcess",
        "must not set securityContext.windowsOptions.hostProcess=true",
        |container| host_process(&container["securityContext"]),
    );
}
