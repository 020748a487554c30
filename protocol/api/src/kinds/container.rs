//! Validation of a pod's containers: names, images, ports, environment, mounts and resources, as
//! `pkg/apis/core/validation` has it.

use std::collections::BTreeSet;

use protocol::quantity::Quantity;
use serde_json::Value;

use super::{probe, volume};
use crate::access::Access;
use crate::cause::{Causes, Path};
use crate::rules;

/// What the containers of a pod may refer to.
pub struct Surroundings<'a> {
    /// Names of the pod's volumes.
    pub volumes: BTreeSet<&'a str>,
    /// Whether the pod uses its node's network.
    pub host_network: bool,
}

/// Validates all containers of a pod's spec.
pub fn validate_all(spec: &Value, path: &Path<'_>, surroundings: &Surroundings<'_>, causes: &mut Causes) {
    let mut names = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    if spec.items("containers").is_empty() {
        causes.required(path.field("containers"), "");
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        let at = path.field(list);
        for (index, container) in spec.items(list).iter().enumerate() {
            let at = at.index(index);
            let name = container.text("name");
            if !name.is_empty() && !names.insert(name) {
                causes.duplicate(at.field("name"), name);
            }
            validate(container, &at, surroundings, causes);
            if list == "containers" {
                unique_host_ports(container, &at, &mut host_ports, causes);
            }
            if list == "containers" && container.has("restartPolicy") && !container.has("restartPolicyRules") {
                only_known(
                    container,
                    &at,
                    "restartPolicy",
                    &["Always", "OnFailure", "Never"],
                    causes,
                );
            }
            if list == "initContainers" {
                init_container(container, &at, causes);
            }
            if list == "ephemeralContainers" {
                ephemeral_container(container, spec, &at, causes);
            }
            resize_policy(container, spec.text("restartPolicy"), &at, causes);
        }
    }
}

fn init_container(container: &Value, path: &Path<'_>, causes: &mut Causes) {
    only_known(
        container,
        path,
        "restartPolicy",
        &["Always", "OnFailure", "Never"],
        causes,
    );
    if container.text("restartPolicy") == "Always" {
        return;
    }
    for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if container.has(name) {
            causes.forbidden(
                path.field(name),
                "may not be set for init containers without restartPolicy=Always",
            );
        }
    }
}

/// What serves a pod's purpose has no place in a container for debugging (KEP-277). A field that is empty is not set.
const NOT_EPHEMERAL: [&str; 9] = [
    "lifecycle",
    "livenessProbe",
    "ports",
    "readinessProbe",
    "resizePolicy",
    "resources",
    "restartPolicy",
    "restartPolicyRules",
    "startupProbe",
];

fn ephemeral_container(container: &Value, spec: &Value, path: &Path<'_>, causes: &mut Causes) {
    const WHY: &str = "cannot be set for an Ephemeral Container";
    let target = container.text("targetContainerName");
    let mut others = spec.items("containers").iter().chain(spec.items("initContainers"));
    if !target.is_empty() && !others.any(|other| other.text("name") == target) {
        causes.not_found(path.field("targetContainerName"), target);
    }
    let is_set = |name: &&str| match container.at(&[name]) {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    };
    for name in NOT_EPHEMERAL.iter().filter(|name| is_set(name)) {
        causes.forbidden(path.field(name), WHY);
    }
    let mounts = path.field("volumeMounts");
    for (index, mount) in container.items("volumeMounts").iter().enumerate() {
        for name in ["subPath", "subPathExpr"]
            .into_iter()
            .filter(|name| !mount.text(name).is_empty())
        {
            causes.forbidden(mounts.index(index).field(name), WHY);
        }
    }
}

/// Whether a resize of cpu or memory restarts the container (KEP-1287).
fn resize_policy(container: &Value, restart_policy: &str, path: &Path<'_>, causes: &mut Causes) {
    let list = path.field("resizePolicy");
    let mut resources = BTreeSet::new();
    for (index, policy) in container.items("resizePolicy").iter().enumerate() {
        let at = list.index(index);
        let resource = policy.text("resourceName");
        if resource.is_empty() {
            causes.required(at.field("resourceName"), "");
        } else {
            only_known(policy, &at, "resourceName", &["cpu", "memory"], causes);
            if !resources.insert(resource) {
                causes.duplicate(at, resource);
            }
        }
        if policy.text("restartPolicy").is_empty() {
            causes.required(at.field("restartPolicy"), "");
        }
        only_known(
            policy,
            &at,
            "restartPolicy",
            &["NotRequired", "RestartContainer"],
            causes,
        );
        let restarts = container.text("restartPolicy") == "Always" || restart_policy != "Never";
        if policy.text("restartPolicy") == "RestartContainer" && !restarts {
            let text = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            causes.invalid(at.field("restartPolicy"), "RestartContainer", text);
        }
    }
}

fn validate(container: &Value, path: &Path<'_>, surroundings: &Surroundings<'_>, causes: &mut Causes) {
    let name = container.text("name");
    if name.is_empty() {
        causes.required(path.field("name"), "");
    } else {
        for problem in rules::dns_label(name) {
            causes.invalid(path.field("name"), name, problem);
        }
    }
    let image = container.text("image");
    if image.is_empty() {
        causes.required(path.field("image"), "");
    } else if image.trim() != image {
        causes.invalid(
            path.field("image"),
            image,
            "must not have leading or trailing whitespace",
        );
    }
    only_known(
        container,
        path,
        "imagePullPolicy",
        &["Always", "IfNotPresent", "Never"],
        causes,
    );
    only_known(
        container,
        path,
        "terminationMessagePolicy",
        &["File", "FallbackToLogsOnError"],
        causes,
    );
    ports(container, path, surroundings.host_network, causes);
    environment(container, path, causes);
    volume::mounts(container, path, &surroundings.volumes, causes);
    probe::validate(container, path, causes);
    security_context(
        container.at(&["securityContext"]),
        &path.field("securityContext"),
        causes,
    );
    resources(container.at(&["resources"]), &path.field("resources"), causes);
}

fn security_context(context: &Value, path: &Path<'_>, causes: &mut Causes) {
    user_ids(context, path, &["runAsUser", "runAsGroup"], causes);
    if context.at(&["allowPrivilegeEscalation"]) == &Value::Bool(false) {
        let raised = context
            .at(&["capabilities"])
            .items("add")
            .iter()
            .any(|name| name.as_str() == Some("CAP_SYS_ADMIN"));
        for (given, what) in [
            (context.flag("privileged"), "`privileged` to true"),
            (raised, "`capabilities.Add` CAP_SYS_ADMIN"),
        ] {
            if given {
                let text = format!("cannot set `allowPrivilegeEscalation` to false and {what}");
                causes.invalid(*path, context.clone(), text);
            }
        }
    }
}

/// Ids of users and groups are positive numbers of 32 bits.
pub fn user_ids(context: &Value, path: &Path<'_>, names: &[&str], causes: &mut Causes) {
    for name in names {
        if let Some(id) = context.int(name).filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
            let text = format!("must be between 0 and {}, inclusive", i32::MAX);
            causes.invalid(path.field(name), id, text);
        }
    }
}

/// A field that is empty or one of these.
pub fn only_known(value: &Value, path: &Path<'_>, name: &str, known: &[&str], causes: &mut Causes) {
    let text = value.text(name);
    if !text.is_empty() && !known.contains(&text) {
        causes.not_supported(path.field(name), text, known);
    }
}

/// A port given by number or by name.
pub fn port_reference(port: &Value, path: Path<'_>, causes: &mut Causes) {
    let problems = match port {
        Value::String(name) => rules::port_name(name),
        other => rules::port_number(other.as_i64().unwrap_or(0)),
    };
    for problem in problems {
        causes.invalid(path, port.clone(), problem);
    }
}

fn ports(container: &Value, path: &Path<'_>, host_network: bool, causes: &mut Causes) {
    let list = path.field("ports");
    let mut names = BTreeSet::new();
    for (index, port) in container.items("ports").iter().enumerate() {
        let at = list.index(index);
        let name = port.text("name");
        if !name.is_empty() {
            for problem in rules::port_name(name) {
                causes.invalid(at.field("name"), name, problem);
            }
            if !names.insert(name) {
                causes.duplicate(at.field("name"), name);
            }
        }
        match port.int("containerPort").unwrap_or(0) {
            0 => causes.required(at.field("containerPort"), ""),
            number => {
                for problem in rules::port_number(number) {
                    causes.invalid(at.field("containerPort"), number, problem);
                }
            }
        }
        if let Some(number) = port.int("hostPort").filter(|number| *number != 0) {
            for problem in rules::port_number(number) {
                causes.invalid(at.field("hostPort"), number, problem);
            }
            if host_network && Some(number) != port.int("containerPort") {
                causes.invalid(
                    at.field("hostPort"),
                    number,
                    "must match `containerPort` when `hostNetwork` is true",
                );
            }
        }
        only_known(port, &at, "protocol", &["SCTP", "TCP", "UDP"], causes);
        if port.text("protocol").is_empty() {
            causes.required(at.field("protocol"), "");
        }
    }
}

fn unique_host_ports<'a>(
    container: &'a Value,
    path: &Path<'_>,
    taken: &mut BTreeSet<(i64, &'a str, &'a str)>,
    causes: &mut Causes,
) {
    let list = path.field("ports");
    for (index, port) in container.items("ports").iter().enumerate() {
        if let Some(number) = port.int("hostPort").filter(|number| *number != 0)
            && !taken.insert((number, port.text("protocol"), port.text("hostIP")))
        {
            causes.duplicate(list.index(index).field("hostPort"), number);
        }
    }
}

fn environment(container: &Value, path: &Path<'_>, causes: &mut Causes) {
    let list = path.field("env");
    for (index, variable) in container.items("env").iter().enumerate() {
        let at = list.index(index);
        let name = variable.text("name");
        if name.is_empty() {
            causes.required(at.field("name"), "");
        } else {
            for problem in rules::env_name(name) {
                causes.invalid(at.field("name"), name, problem);
            }
        }
        if variable.has("valueFrom") {
            value_source(variable, &at.field("valueFrom"), causes);
        }
    }
    let list = path.field("envFrom");
    for (index, source) in container.items("envFrom").iter().enumerate() {
        let at = list.index(index);
        let given: Vec<&str> = ["configMapRef", "secretRef"]
            .into_iter()
            .filter(|name| source.has(name))
            .collect();
        match given.as_slice() {
            [] => causes.invalid(at, "", "must specify one of: `configMapRef` or `secretRef`"),
            [one] => {
                let reference = at.field(one);
                if source.at(&[one]).text("name").is_empty() {
                    causes.required(reference.field("name"), "");
                }
            }
            _ => causes.invalid(at, "", "may not have more than one field specified at a time"),
        }
        let prefix = source.text("prefix");
        if !prefix.is_empty() {
            for problem in rules::env_name(prefix) {
                causes.invalid(at.field("prefix"), prefix, problem);
            }
        }
    }
}

const VALUE_SOURCES: [&str; 5] = [
    "fieldRef",
    "resourceFieldRef",
    "configMapKeyRef",
    "secretKeyRef",
    "fileKeyRef",
];

fn value_source(variable: &Value, path: &Path<'_>, causes: &mut Causes) {
    let source = variable.at(&["valueFrom"]);
    let given: Vec<&str> = VALUE_SOURCES.into_iter().filter(|name| source.has(name)).collect();
    if given.is_empty() {
        causes.invalid(
            *path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        );
    } else if !variable.text("value").is_empty() {
        causes.invalid(*path, "", "may not be specified when `value` is not empty");
    } else if given.len() > 1 {
        causes.invalid(*path, "", "may not have more than one field specified at a time");
    }
    for name in given {
        let (reference, at) = (source.at(&[name]), path.field(name));
        let required: &[&str] = match name {
            "fieldRef" => &["fieldPath"],
            "resourceFieldRef" => &["resource"],
            "fileKeyRef" => &["volumeName", "path", "key"],
            _ => &["name", "key"],
        };
        for field in required.iter().filter(|field| reference.text(field).is_empty()) {
            causes.required(at.field(field), "");
        }
    }
}

/// Validates requests and limits.
pub fn resources(resources: &Value, path: &Path<'_>, causes: &mut Causes) {
    for list in ["limits", "requests"] {
        let at = path.field(list);
        for (name, quantity) in resources.members(list) {
            resource_name(name, at.key(name), causes);
            let text = quantity.as_str().unwrap_or_default();
            match Quantity::parse(text) {
                Ok(amount) if amount.is_negative() => {
                    causes.invalid(at.key(name), text, "must be greater than or equal to 0");
                }
                Ok(amount) if !divisible(name) && amount.milli() % 1000 != 0 => {
                    causes.invalid(at.key(name), text, "must be an integer");
                }
                Ok(_) => {}
                Err(error) => causes.invalid(at.key(name), text, error),
            }
        }
    }
    let at = path.field("requests");
    for (name, request) in resources.members("requests") {
        let limit = resources.at(&["limits", name]).as_str();
        let (Some(limit_text), Some(request_text)) = (limit, request.as_str()) else {
            if !divisible(name) && limit.is_none() {
                causes.required(
                    path.field("limits"),
                    "Limit must be set for non overcommitable resources",
                );
            }
            continue;
        };
        let (Ok(limit), Ok(request)) = (Quantity::parse(limit_text), Quantity::parse(request_text)) else {
            continue;
        };
        if !divisible(name) && request != limit {
            let text = format!("must be equal to {name} limit of {limit_text}");
            causes.invalid(at, request_text, text);
        } else if request > limit {
            let text = format!("must be less than or equal to {name} limit of {limit_text}");
            causes.invalid(at, request_text, text);
        }
    }
}

/// Whether a resource comes in fractions and may be overcommitted: the native ones do, extended ones do not.
fn divisible(name: &str) -> bool {
    !name.contains('/') && !name.starts_with("hugepages-")
}

fn resource_name(name: &str, path: Path<'_>, causes: &mut Causes) {
    for problem in rules::qualified_name(name) {
        causes.invalid(path, name, problem);
    }
    let native = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !name.contains('/') && !native {
        causes.invalid(path, name, "must be a standard resource type or fully qualified");
        causes.invalid(path, name, "must be a standard resource for containers");
    }
}
