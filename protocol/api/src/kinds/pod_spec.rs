//! Validation of a pod's spec, alike for pods and for the templates of workloads.

use serde_json::Value;

use super::container::{self, Surroundings, only_known};
use super::{scheduling, volume};
use crate::access::Access;
use crate::cause::{Causes, Path};
use crate::{meta, rules};

/// Validates a pod's spec.
pub fn validate(spec: &Value, path: &Path<'_>, causes: &mut Causes) {
    let surroundings = Surroundings {
        volumes: volume::validate(spec, path, causes),
        host_network: spec.flag("hostNetwork"),
    };
    container::validate_all(spec, path, &surroundings, causes);
    only_known(spec, path, "restartPolicy", &["Always", "Never", "OnFailure"], causes);
    let policies = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    only_known(spec, path, "dnsPolicy", &policies, causes);
    dns(spec, path, causes);
    if let Some(seconds) = spec.int("terminationGracePeriodSeconds").filter(|seconds| *seconds < 0) {
        causes.invalid(
            path.field("terminationGracePeriodSeconds"),
            seconds,
            "must be greater than or equal to 0",
        );
    }
    if let Some(seconds) = spec.int("activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let text = format!("must be between 1 and {}, inclusive", i32::MAX);
        causes.invalid(path.field("activeDeadlineSeconds"), seconds, text);
    }
    names(spec, path, causes);
    host_users(spec, path, causes);
    host_aliases(spec, path, causes);
    let context = spec.at(&["securityContext"]);
    container::user_ids(
        context,
        &path.field("securityContext"),
        &["runAsUser", "runAsGroup", "fsGroup"],
        causes,
    );
    only_known(
        spec,
        path,
        "preemptionPolicy",
        &["Never", "PreemptLowerPriority"],
        causes,
    );
    scheduling::validate(spec, path, causes);
}

/// A field and the rule that its text follows.
type Rule = (&'static str, fn(&str) -> rules::Problems);

fn names(spec: &Value, path: &Path<'_>, causes: &mut Causes) {
    let rules: [Rule; 7] = [
        ("serviceAccountName", rules::dns_subdomain),
        ("nodeName", rules::dns_subdomain),
        ("hostname", rules::dns_label),
        ("subdomain", rules::dns_label),
        ("priorityClassName", rules::dns_subdomain),
        ("runtimeClassName", rules::dns_subdomain),
        ("schedulerName", rules::qualified_name),
    ];
    for (name, rule) in rules {
        let text = spec.text(name);
        for problem in rule(text).into_iter().filter(|_| !text.is_empty()) {
            causes.invalid(path.field(name), text, problem);
        }
    }
}

fn dns(spec: &Value, path: &Path<'_>, causes: &mut Causes) {
    let config = spec.at(&["dnsConfig"]);
    let at = path.field("dnsConfig");
    if spec.text("dnsPolicy") == "None" && config.items("nameservers").is_empty() {
        let text = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        if config.is_null() {
            causes.required(at, "must provide `dnsConfig` when `dnsPolicy` is None");
        } else {
            causes.required(at.field("nameservers"), text);
        }
    }
    let servers = at.field("nameservers");
    if config.items("nameservers").len() > 3 {
        causes.invalid(
            servers,
            config.at(&["nameservers"]).clone(),
            "must not have more than 3 nameservers",
        );
    }
    for (index, server) in config.items("nameservers").iter().enumerate() {
        let server = server.as_str().unwrap_or_default();
        for problem in rules::ip(server) {
            causes.invalid(servers.index(index), server, problem);
        }
    }
    if config.items("searches").len() > 32 {
        let text = "must not have more than 32 search paths";
        causes.invalid(at.field("searches"), config.at(&["searches"]).clone(), text);
    }
}

/// A pod with users of its own shares no namespace with the machine, and no raw device (KEP-127).
fn host_users(spec: &Value, path: &Path<'_>, causes: &mut Causes) {
    if spec.get("hostUsers").and_then(Value::as_bool) != Some(false) {
        return;
    }
    const WHY: &str = "when `hostUsers` is false";
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec.flag(field) {
            causes.forbidden(path.field(field), WHY);
        }
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (index, container) in spec.items(list).iter().enumerate() {
            if !container.items("volumeDevices").is_empty() {
                causes.forbidden(path.field(list).index(index).field("volumeDevices"), WHY);
            }
        }
    }
}

fn host_aliases(spec: &Value, path: &Path<'_>, causes: &mut Causes) {
    let list = path.field("hostAliases");
    for (index, alias) in spec.items("hostAliases").iter().enumerate() {
        let at = list.index(index);
        for problem in rules::ip(alias.text("ip")) {
            causes.invalid(at.field("ip"), alias.text("ip"), problem);
        }
        for name in alias.items("hostnames").iter().filter_map(Value::as_str) {
            for problem in rules::dns_subdomain(name) {
                causes.invalid(at.field("hostnames"), name, problem);
            }
        }
    }
}

/// Validates the template of a workload: the metadata of its pods and their spec. Workloads that never finish accept only
/// the restart policy Always; they name themselves for the message.
pub fn template(template: &Value, path: &Path<'_>, runs_forever: Option<&str>, causes: &mut Causes) {
    let metadata = path.field("metadata");
    meta::labels(template.at(&["metadata", "labels"]), metadata.field("labels"), causes);
    let at = path.field("spec");
    let spec = template.at(&["spec"]);
    validate(spec, &at, causes);
    if let Some(workload) = runs_forever {
        if !matches!(spec.text("restartPolicy"), "" | "Always") {
            causes.not_supported(at.field("restartPolicy"), spec.text("restartPolicy"), &["Always"]);
        }
        if spec.has("activeDeadlineSeconds") {
            causes.forbidden(
                at.field("activeDeadlineSeconds"),
                format!("activeDeadlineSeconds in {workload} is not Supported"),
            );
        }
    }
    if !spec.items("ephemeralContainers").is_empty() {
        causes.forbidden(
            at.field("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        );
    }
}
