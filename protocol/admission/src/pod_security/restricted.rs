//! The restricted standard: what a hardened pod looks like, beside the baseline.

use api::access::Access;
use serde_json::Value;

use super::{Violation, containers_that, named};

/// The volume sources that it allows.
const VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
];

/// Finds what breaks the standard.
pub(super) fn check(pod: &Value, found: &mut Vec<Violation>) {
    let windows = pod.at(&["spec", "os"]).text("name") == "windows";
    if !windows {
        let escalating = containers_that(pod, |container| {
            container.at(&["securityContext", "allowPrivilegeEscalation"]) != false
        });
        if !escalating.is_empty() {
            add(
                found,
                "allowPrivilegeEscalation != false",
                format!(
                    "{} must set securityContext.allowPrivilegeEscalation=false",
                    named(&escalating)
                ),
            );
        }
        capabilities(pod, found);
    }
    volumes(pod, found);
    run_as_non_root(pod, found);
    run_as_user(pod, found);
    if !windows {
        seccomp(pod, found);
    }
}

fn add(found: &mut Vec<Violation>, rule: &'static str, detail: String) {
    found.push(Violation { rule, detail });
}

fn capabilities(pod: &Value, found: &mut Vec<Violation>) {
    let lists = |container: &Value, which: &str| -> Vec<String> {
        let names = container.at(&["securityContext", "capabilities"]).items(which).iter();
        names.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let keeping = containers_that(pod, |container| {
        !lists(container, "drop").iter().any(|name| name == "ALL")
    });
    let adding = containers_that(pod, |container| {
        lists(container, "add").iter().any(|name| name != "NET_BIND_SERVICE")
    });
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            named(&keeping)
        ));
    }
    if !adding.is_empty() {
        let all = super::CONTAINER_LISTS
            .iter()
            .flat_map(|list| pod.at(&["spec"]).items(list));
        let mut names: Vec<String> = all
            .flat_map(|container| lists(container, "add"))
            .filter(|name| name != "NET_BIND_SERVICE")
            .map(|name| format!("{name:?}"))
            .collect();
        names.sort();
        names.dedup();
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            named(&adding),
            names.join(", ")
        ));
    }
    if !details.is_empty() {
        add(found, "unrestricted capabilities", details.join("; "));
    }
}

fn volumes(pod: &Value, found: &mut Vec<Violation>) {
    let volumes = pod.at(&["spec"]).items("volumes").iter();
    let forbidden: Vec<(&str, &str)> = volumes
        .filter_map(|volume| {
            let source = volume.as_object()?.keys().find(|key| *key != "name")?;
            (!VOLUMES.contains(&source.as_str())).then_some((volume.text("name"), source.as_str()))
        })
        .collect();
    if forbidden.is_empty() {
        return;
    }
    let names: Vec<String> = forbidden.iter().map(|(name, _)| format!("{name:?}")).collect();
    let mut types: Vec<String> = forbidden.iter().map(|(_, source)| format!("{source:?}")).collect();
    types.sort();
    types.dedup();
    let (word, verb) = if names.len() == 1 {
        ("volume", "uses")
    } else {
        ("volumes", "use")
    };
    let kinds = if types.len() == 1 { "type" } else { "types" };
    add(
        found,
        "restricted volume types",
        format!(
            "{word} {} {verb} restricted volume {kinds} {}",
            names.join(", "),
            types.join(", ")
        ),
    );
}

/// The pod's own setting stands for containers that say nothing.
fn run_as_non_root(pod: &Value, found: &mut Vec<Violation>) {
    let of = |context: &Value| context.get("runAsNonRoot").and_then(Value::as_bool);
    let pods = of(pod.at(&["spec", "securityContext"]));
    let explicitly = containers_that(pod, |container| of(&container["securityContext"]) == Some(false));
    let silent = containers_that(pod, |container| of(&container["securityContext"]).is_none());
    let rule = "runAsNonRoot != true";
    if !explicitly.is_empty() {
        add(
            found,
            rule,
            format!("{} must not set securityContext.runAsNonRoot=false", named(&explicitly)),
        );
    } else if pods == Some(false) {
        add(
            found,
            rule,
            "pod must not set securityContext.runAsNonRoot=false".to_owned(),
        );
    } else if pods.is_none() && !silent.is_empty() {
        add(
            found,
            rule,
            format!("pod or {} must set securityContext.runAsNonRoot=true", named(&silent)),
        );
    }
}

fn run_as_user(pod: &Value, found: &mut Vec<Violation>) {
    let root = |context: &Value| context.int("runAsUser") == Some(0);
    let containers = containers_that(pod, |container| root(&container["securityContext"]));
    let pods = root(pod.at(&["spec", "securityContext"]));
    let who = match (pods, containers.as_slice()) {
        (false, []) => return,
        (true, []) => "pod".to_owned(),
        (true, some) => format!("pod and {}", named(some)),
        (false, some) => named(some),
    };
    add(found, "runAsUser=0", format!("{who} must not set runAsUser=0"));
}

fn seccomp(pod: &Value, found: &mut Vec<Violation>) {
    let of = |context: &Value| context.at(&["seccompProfile"]).text("type").to_owned();
    let allowed = |profile: &str| matches!(profile, "RuntimeDefault" | "Localhost");
    let pods = of(pod.at(&["spec", "securityContext"]));
    let wrong = containers_that(pod, |container| {
        let own = of(&container["securityContext"]);
        !own.is_empty() && !allowed(&own)
    });
    let silent = containers_that(pod, |container| of(&container["securityContext"]).is_empty());
    let wanted = "securityContext.seccompProfile.type";
    if !wrong.is_empty() {
        add(
            found,
            "seccompProfile",
            format!("{} must not set {wanted} to \"Unconfined\"", named(&wrong)),
        );
    } else if !pods.is_empty() && !allowed(&pods) {
        add(
            found,
            "seccompProfile",
            format!("pod must not set {wanted} to {pods:?}"),
        );
    } else if pods.is_empty() && !silent.is_empty() {
        let detail = format!(
            "pod or {} must set {wanted} to \"RuntimeDefault\" or \"Localhost\"",
            named(&silent)
        );
        add(found, "seccompProfile", detail);
    }
}
