//! PodSecurity: the Pod Security Standards (baseline, restricted), chosen by labels of the namespace: `enforce` refuses pods,
//! `warn` tells the client's user, also for the templates of workloads.
//!
//! Only the newest version of the standards is known: a namespace that pins an older one is judged by the newest, as a
//! cluster of Kubernetes without those older checks would.

mod baseline;
mod restricted;

use api::access::Access;
use api::kinds::Subresource;
use api::status::Status;
use serde_json::Value;

use crate::chain::Plugin;
use crate::facts::Facts;
use crate::pod::CONTAINER_LISTS;
use crate::review::{Attributes, Operation, Review};

/// A rule that is broken: what is forbidden, and by whom it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// `privileged`.
    pub(crate) rule: &'static str,
    /// `container "c" must not set securityContext.privileged=true`.
    pub(crate) detail: String,
}

/// How strict a namespace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    /// A level that is not known counts as the strictest, as upstream has it.
    fn of(namespace: &Value, mode: &str) -> Level {
        let label = format!("pod-security.kubernetes.io/{mode}");
        match namespace.at(&["metadata", "labels"]).text(&label) {
            "" | "privileged" => Level::Privileged,
            "baseline" => Level::Baseline,
            _ => Level::Restricted,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }
}

/// The plugin.
pub struct PodSecurity;

/// Where kinds with a pod template keep it.
const TEMPLATES: [(&str, &[&str]); 8] = [
    ("deployments.apps", &["spec", "template"]),
    ("replicasets.apps", &["spec", "template"]),
    ("statefulsets.apps", &["spec", "template"]),
    ("daemonsets.apps", &["spec", "template"]),
    ("replicationcontrollers", &["spec", "template"]),
    ("podtemplates", &["template"]),
    ("jobs.batch", &["spec", "template"]),
    ("cronjobs.batch", &["spec", "jobTemplate", "spec", "template"]),
];

impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        let resource = attributes.kind.resource();
        let known = resource.as_str() == "pods" || TEMPLATES.iter().any(|(name, _)| *name == resource.as_str());
        known
            && attributes.operation != Operation::Delete
            && matches!(attributes.subresource, None | Some(Subresource::EphemeralContainers))
    }

    fn validate(&self, review: &mut Review<'_>, facts: &Facts) -> Result<(), Status> {
        let Some(namespace) = facts.one("namespaces", "", review.attributes.namespace) else {
            return Ok(());
        };
        let (enforce, warn) = (
            Level::of(&namespace.value, "enforce"),
            Level::of(&namespace.value, "warn"),
        );
        if enforce.max(warn) == Level::Privileged {
            return Ok(());
        }
        let resource = review.attributes.kind.resource();
        let template = TEMPLATES.iter().find(|(name, _)| *name == resource.as_str());
        let is_pod = template.is_none();
        let path = template.map_or(&[][..], |(_, path)| *path);
        let pod = review.object.at(path);
        // An update that leaves the pod's meaning alone was judged when the pod was created.
        if is_pod && review.old.is_some_and(|old| old.at(&["spec"]) == pod.at(&["spec"])) {
            return Ok(());
        }
        if is_pod && enforce > Level::Privileged {
            let violations = violations(enforce, pod);
            if !violations.is_empty() {
                let text = describe(&violations);
                let level = enforce.name();
                return Err(review
                    .attributes
                    .forbidden(format_args!("violates PodSecurity \"{level}:latest\": {text}")));
            }
        }
        if warn > Level::Privileged {
            let violations = violations(warn, pod);
            if !violations.is_empty() {
                let (level, text) = (warn.name(), describe(&violations));
                review
                    .warnings
                    .push(format!("would violate PodSecurity \"{level}:latest\": {text}"));
            }
        }
        Ok(())
    }
}

fn violations(level: Level, pod: &Value) -> Vec<Violation> {
    let mut found = Vec::new();
    if level >= Level::Baseline {
        baseline::check(pod, level == Level::Restricted, &mut found);
    }
    if level >= Level::Restricted {
        restricted::check(pod, &mut found);
    }
    found
}

/// `rule (detail), rule (detail)`.
fn describe(violations: &[Violation]) -> String {
    let texts = violations.iter().map(|violation| {
        if violation.detail.is_empty() {
            violation.rule.to_owned()
        } else {
            format!("{} ({})", violation.rule, violation.detail)
        }
    });
    texts.collect::<Vec<_>>().join(", ")
}

/// The names of the containers for which something holds.
pub(crate) fn containers_that(pod: &Value, holds: impl Fn(&Value) -> bool) -> Vec<&str> {
    let lists = CONTAINER_LISTS.iter().flat_map(|list| pod.at(&["spec"]).items(list));
    lists
        .filter(|container| holds(container))
        .map(|container| container.text("name"))
        .collect()
}

/// `container "a"` or `containers "a", "b"`.
pub(crate) fn named(containers: &[&str]) -> String {
    let quoted: Vec<String> = containers.iter().map(|name| format!("{name:?}")).collect();
    let word = if containers.len() == 1 {
        "container"
    } else {
        "containers"
    };
    format!("{word} {}", quoted.join(", "))
}
