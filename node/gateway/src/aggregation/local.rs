//! The APIServices of the groups that this server answers for itself: made when they are missing and kept as they should be,
//! as Kubernetes lists them. Pure.

use std::collections::BTreeSet;

use api::access::Access;
use api::kinds::kinds;
use serde_json::{Value, json};

/// The label of what is kept here, and its values: made at start, or for as long as a CustomResourceDefinition serves it.
pub(super) const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// Priorities of groups as kube-apiserver has them; others come last.
const GROUP_PRIORITIES: &[(&str, i64)] = &[
    ("", 18000),
    ("events.k8s.io", 17750),
    ("apps", 17800),
    ("authentication.k8s.io", 17700),
    ("authorization.k8s.io", 17600),
    ("autoscaling", 17500),
    ("batch", 17400),
    ("certificates.k8s.io", 17300),
    ("networking.k8s.io", 17200),
    ("policy", 17100),
    ("rbac.authorization.k8s.io", 17000),
    ("storage.k8s.io", 16800),
    ("apiextensions.k8s.io", 16700),
    ("admissionregistration.k8s.io", 16700),
    ("scheduling.k8s.io", 16600),
    ("coordination.k8s.io", 16500),
    ("node.k8s.io", 16300),
    ("discovery.k8s.io", 16200),
    ("resource.k8s.io", 16200),
    ("flowcontrol.apiserver.k8s.io", 16100),
    ("internal.apiserver.k8s.io", 16000),
    ("storagemigration.k8s.io", 16000),
];

/// A version without a place of its own, as those of custom resources.
const OTHER_PRIORITIES: (i64, i64) = (1000, 100);

/// The APIServices that there should be: the built-in groups', and those of the CustomResourceDefinitions that are established.
pub(super) fn wanted(definitions: &[Value]) -> Vec<Value> {
    let mut wanted: Vec<Value> = Vec::new();
    let mut known = BTreeSet::new();
    // APIServices do not list themselves.
    for kind in kinds().iter().filter(|kind| kind.group != "apiregistration.k8s.io") {
        if known.insert((kind.group, kind.version)) {
            let group = GROUP_PRIORITIES.iter().find(|(group, _)| *group == kind.group);
            let priority = group.map_or(OTHER_PRIORITIES.0, |(_, priority)| *priority);
            wanted.push(api_service(
                kind.group,
                kind.version,
                (priority, version_priority(kind.version)),
                "onstart",
            ));
        }
    }
    let mut custom = BTreeSet::new();
    for definition in definitions {
        let established = definition
            .at(&["status"])
            .items("conditions")
            .iter()
            .any(|condition| condition.text("type") == "Established" && condition.text("status") == "True");
        let spec = definition.at(&["spec"]);
        for version in spec
            .items("versions")
            .iter()
            .filter(|version| established && version.flag("served"))
        {
            let (group, version) = (spec.text("group"), version.text("name"));
            if !known.contains(&(group, version)) && custom.insert((group.to_owned(), version.to_owned())) {
                wanted.push(api_service(group, version, OTHER_PRIORITIES, "true"));
            }
        }
    }
    wanted
}

/// Stable versions before beta before alpha, as kube-apiserver numbers them.
fn version_priority(version: &str) -> i64 {
    match version {
        "v2" => 30,
        "v1" => 15,
        _ if version.contains("beta") => 9,
        _ => 1,
    }
}

fn api_service(group: &str, version: &str, (of_group, of_version): (i64, i64), managed: &str) -> Value {
    json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": format!("{version}.{group}"), "labels": {MANAGED: managed}},
        "spec": {
            "group": group, "version": version, "groupPriorityMinimum": of_group, "versionPriority": of_version,
        },
    })
}

/// What is to be done about one APIService.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// It is missing.
    Create(Value),
    /// It is to be as here.
    Change(Value),
    /// It is there for nothing any more.
    Remove(Value),
}

/// What leads from the APIServices that there are to those that there should be. One that somebody made for a server of his own
/// is left alone, also where it takes a group from this server.
pub(super) fn steps(present: &[Value], wanted: &[Value]) -> Vec<Step> {
    let name_of = |object: &Value| object.at(&["metadata"]).text("name").to_owned();
    let managed = |object: &Value| object.at(&["metadata", "labels"]).text(MANAGED).to_owned();
    let mut steps = Vec::new();
    for object in wanted {
        let name = name_of(object);
        match present.iter().find(|known| name_of(known) == name) {
            None => steps.push(Step::Create(object.clone())),
            Some(known) if managed(known).is_empty() => {}
            Some(known) if known.at(&["spec"]) != object.at(&["spec"]) => {
                let mut changed = known.clone();
                changed["spec"] = object["spec"].clone();
                steps.push(Step::Change(changed));
            }
            Some(_) => {}
        }
    }
    for known in present {
        let name = name_of(known);
        if managed(known) == "true" && !wanted.iter().any(|object| name_of(object) == name) {
            steps.push(Step::Remove(known.clone()));
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_and_version_is_listed_once() {
        let wanted = wanted(&[]);
        let names: BTreeSet<&str> = wanted
            .iter()
            .map(|object| object["metadata"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(names.len(), wanted.len());
        assert!(
            names.contains("v1.") && names.contains("v1.apps") && names.contains("v2.autoscaling"),
            "{names:?}"
        );
    }

    #[test]
    fn custom_resources_are_listed_while_they_are_served() {
        let definition = json!({
            "spec": {"group": "g.example.com", "versions": [{"name": "v1", "served": true}, {"name": "v0", "served": false}]},
            "status": {"conditions": [{"type": "Established", "status": "True"}]},
        });
        let with = wanted(&[definition]);
        let custom = with.last().unwrap();
        assert_eq!(custom["metadata"]["name"], "v1.g.example.com");
        let present = with.clone();
        assert_eq!(steps(&present, &with), []);
        assert_eq!(steps(&present, &wanted(&[])), [Step::Remove(custom.clone())]);
    }

    #[test]
    fn what_somebody_else_made_is_left_alone() {
        let own = json!({"metadata": {"name": "v1.apps"}, "spec": {"group": "apps", "service": {"name": "s"}}});
        let wanted: Vec<Value> = wanted(&[])
            .into_iter()
            .filter(|object| object["metadata"]["name"] == "v1.apps")
            .collect();
        assert_eq!(steps(&[own], &wanted), []);
        let mut drifted = wanted[0].clone();
        drifted["spec"]["versionPriority"] = 1.into();
        assert_eq!(steps(&[drifted], &wanted), [Step::Change(wanted[0].clone())]);
        assert_eq!(steps(&[], &wanted), [Step::Create(wanted[0].clone())]);
    }
}
