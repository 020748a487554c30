//! The subresources through which a part of a running pod's spec changes: `ephemeralcontainers` (KEP-277) adds containers
//! for debugging, `resize` (KEP-1287) changes what containers ask for and may use. What else a client sends there is dropped;
//! the rules are those of `ValidatePodEphemeralContainersUpdate` and `ValidatePodResize`. The write pipeline calls it.

use serde_json::{Map, Value};

use super::Subresource;
use super::pod::quality_of_service;
use super::pod_update::first_difference;
use crate::access::{Access, items_mut, object_mut, remove};
use crate::cause::{Causes, Path};

/// The lists whose containers can be resized, with how messages call them.
const RESIZED_LISTS: [&str; 2] = ["initContainers", "containers"];
/// What a resize changes in a container.
const RESIZED_FIELDS: [&str; 2] = ["resources", "resizePolicy"];
/// The annotation of a pod that a node's own file describes.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// Keeps of a changed pod what this path may change.
pub fn restrict(below: Subresource, old: &Value, new: &mut Value) {
    let sent = std::mem::replace(new, old.clone());
    if below == Subresource::EphemeralContainers {
        let containers = sent.at(&["spec", "ephemeralContainers"]).clone();
        let spec = object_mut(new, "spec");
        if containers.is_null() {
            remove(spec, "ephemeralContainers");
        } else {
            spec["ephemeralContainers"] = containers;
        }
        return;
    }
    for list in RESIZED_LISTS {
        let sent = sent.at(&["spec", list]);
        if names(sent) != names(old.at(&["spec", list])) {
            // Validation says what is wrong with it.
            object_mut(new, "spec")[list] = sent.clone();
            continue;
        }
        let sent = sent.as_array().into_iter().flatten();
        for (container, sent) in items_mut(object_mut(new, "spec"), list).iter_mut().zip(sent) {
            for field in RESIZED_FIELDS {
                match sent.get(field) {
                    Some(value) => container[field] = value.clone(),
                    None => drop(remove(container, field)),
                }
            }
        }
    }
}

/// Keeps of an applied configuration what this path may change, with what names it.
pub fn reset(below: Subresource, applied: &mut Value) {
    if let Some(members) = applied.as_object_mut() {
        members.retain(|name, _| matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "spec"));
    }
    if let Some(metadata) = applied.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|name, _| matches!(name.as_str(), "name" | "namespace" | "uid" | "resourceVersion"));
    }
    let Some(spec) = applied.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    if below == Subresource::EphemeralContainers {
        spec.retain(|name, _| name == "ephemeralContainers");
        return;
    }
    spec.retain(|name, _| RESIZED_LISTS.contains(&name.as_str()));
    for container in spec.values_mut().filter_map(Value::as_array_mut).flatten() {
        if let Some(fields) = container.as_object_mut() {
            fields.retain(|name, _| name == "name" || RESIZED_FIELDS.contains(&name.as_str()));
        }
    }
}

/// Finds what is wrong with a change, beyond what is wrong with the pod as such.
pub fn validate(below: Subresource, old: &Value, new: &Value, causes: &mut Causes) {
    let is_mirror = old.at(&["metadata", "annotations"]).has(MIRROR_ANNOTATION);
    match below {
        Subresource::EphemeralContainers if is_mirror => {
            causes.forbidden(Path::Root, "static pods do not support ephemeral containers");
        }
        Subresource::EphemeralContainers => only_additions(old, new, causes),
        _ if is_mirror => causes.forbidden(Path::Root, "static pods cannot be resized"),
        _ if old.at(&["spec", "os"]).text("name") == "windows" => {
            causes.forbidden(Path::Root, "windows pods cannot be resized");
        }
        _ => resize(old, new, causes),
    }
}

fn names(list: &Value) -> Vec<&str> {
    let containers = list.as_array().into_iter().flatten();
    containers.map(|container| container.text("name")).collect()
}

/// A patch does not keep the order, so each is looked for by its name.
fn only_additions(old: &Value, new: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let spec = root.field("spec");
    let path = spec.field("ephemeralContainers");
    let after = new.at(&["spec"]).items("ephemeralContainers");
    for before in old.at(&["spec"]).items("ephemeralContainers") {
        let name = before.text("name");
        match after.iter().find(|container| container.text("name") == name) {
            None => causes.forbidden(
                path,
                format!("existing ephemeral containers {name:?} may not be removed\n"),
            ),
            Some(container) if container != before => {
                let changed = first_difference(before, container);
                let text = format!("existing ephemeral containers {name:?} may not be changed\n{changed}");
                causes.forbidden(path, text);
            }
            Some(_) => {}
        }
    }
}

fn resize(old: &Value, new: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let (before, after) = (old.at(&["spec"]), new.at(&["spec"]));
    if before.at(&["resources"]).is_object() && !before.members("resources").collect::<Vec<_>>().is_empty() {
        causes.forbidden(Path::Root, "pods with pod-level resources cannot be resized");
        return;
    }
    let (was, is) = (quality_of_service(before), quality_of_service(after));
    if was != is {
        causes.invalid(path, is, "Pod QOS Class may not change as a result of resizing");
    }
    if !same_containers(before, after, &path, causes) {
        return;
    }
    for list in RESIZED_LISTS {
        let at = path.field(list);
        let pairs = before.items(list).iter().zip(after.items(list)).enumerate();
        for (index, (was, is)) in pairs.filter(|(_, (was, _))| is_resizable(list, was)) {
            let at = at.index(index);
            let at = at.field("resources");
            for (of, what) in [("requests", "resource requests"), ("limits", "resource limits")] {
                let kept = is.at(&["resources", of]);
                if was.at(&["resources"]).members(of).any(|(name, _)| !kept.has(name)) {
                    causes.forbidden(at.field(of), format!("{what} cannot be removed"));
                }
            }
        }
    }
    if fixed(before) != fixed(after) {
        causes.forbidden(path, "only cpu and memory resources are mutable");
    }
}

/// Init containers run once, before anything could be resized; sidecars go on.
fn is_resizable(list: &str, container: &Value) -> bool {
    list == "containers" || container.text("restartPolicy") == "Always"
}

fn same_containers(before: &Value, after: &Value, path: &Path<'_>, causes: &mut Causes) -> bool {
    let mut same = true;
    for list in ["containers", "initContainers"] {
        let (was, is) = (names(before.at(&[list])), names(after.at(&[list])));
        if was.len() != is.len() {
            causes.forbidden(*path, format!("{list} may not be added or removed on resize"));
        } else if was != is {
            causes.forbidden(*path, format!("{list} may not be renamed or reordered on resize"));
        }
        same &= was == is;
    }
    same
}

/// The part of a spec that no resize changes.
fn fixed(spec: &Value) -> Value {
    let mut spec = spec.clone();
    for list in RESIZED_LISTS {
        let containers = items_mut(&mut spec, list).iter_mut();
        for container in containers.filter(|container| is_resizable(list, container)) {
            remove(container, "resizePolicy");
            let Some(resources) = container.get_mut("resources") else {
                continue;
            };
            for of in ["requests", "limits"] {
                if let Some(amounts) = resources.get_mut(of).and_then(Value::as_object_mut) {
                    amounts.retain(|name, _| !matches!(name.as_str(), "cpu" | "memory"));
                    if amounts.is_empty() {
                        remove(resources, of);
                    }
                }
            }
            if resources.as_object().is_some_and(Map::is_empty) {
                remove(container, "resources");
            }
        }
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(cpu: &str, extra: Value) -> Value {
        let mut container = json!({"name": "a", "image": "i", "resources": {"requests": {"cpu": cpu}}});
        container
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [container], "initContainers": [
            {"name": "i", "resources": {"requests": {"cpu": "1"}}},
            {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}},
        ]}})
    }

    fn found(below: Subresource, old: &Value, new: &Value) -> Vec<String> {
        let mut causes = Causes::default();
        validate(below, old, new, &mut causes);
        causes
            .0
            .into_iter()
            .map(|cause| format!("{}: {}", cause.field, cause.message))
            .collect()
    }

    #[test]
    fn a_resize_changes_cpu_and_memory_of_containers_that_go_on() {
        let old = pod("1", json!({}));
        let edited = |pointer: &str, value: Value| {
            let mut new = old.clone();
            *new.pointer_mut(pointer).unwrap() = value;
            found(Subresource::Resize, &old, &new)
        };
        assert!(edited("/spec/containers/0/resources/requests/cpu", json!("2")).is_empty());
        assert!(edited("/spec/initContainers/1/resources/requests/cpu", json!("2")).is_empty());
        let memory = json!({"cpu": "1", "memory": "1Gi"});
        assert!(edited("/spec/containers/0/resources/requests", memory).is_empty());
        let cases = [
            (
                "/spec/containers/0/image",
                json!("other"),
                "only cpu and memory resources are mutable",
            ),
            (
                "/spec/containers/0/resources/requests",
                json!({"cpu": "1", "ephemeral-storage": "1Gi"}),
                "only cpu and memory resources are mutable",
            ),
            (
                "/spec/initContainers/0/resources/requests/cpu",
                json!("2"),
                "only cpu and memory resources are mutable",
            ),
            (
                "/spec/containers/0/resources/requests",
                json!({"memory": "1Gi"}),
                "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
            ),
            (
                "/spec/containers/0/name",
                json!("b"),
                "spec: Forbidden: containers may not be renamed or reordered on resize",
            ),
            (
                "/spec/initContainers",
                json!([]),
                "initContainers may not be added or removed on resize",
            ),
        ];
        for (pointer, value, expected) in cases {
            let causes = edited(pointer, value);
            assert!(
                causes.iter().any(|cause| cause.contains(expected)),
                "{pointer}: {causes:?}"
            );
        }
        let best_effort = json!({"spec": {"containers": [{"name": "a"}]}});
        let burstable = json!({"spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]}});
        let causes = found(Subresource::Resize, &best_effort, &burstable);
        assert!(causes[0].contains("Pod QOS Class may not change"), "{causes:?}");
    }

    #[test]
    fn ephemeral_containers_are_only_added() {
        let with = |list: Value| json!({"metadata": {}, "spec": {"ephemeralContainers": list}});
        let (a, b) = (json!({"name": "a", "image": "i"}), json!({"name": "b", "image": "i"}));
        let both = with(json!([b, a]));
        let below = Subresource::EphemeralContainers;
        assert!(found(below, &with(json!([a])), &both).is_empty());
        assert!(found(below, &both, &with(json!([a])))[0].contains("\"b\" may not be removed"));
        let changed = with(json!([{"name": "a", "image": "j"}, b]));
        assert!(found(below, &both, &changed)[0].contains("\"a\" may not be changed"));
    }

    #[test]
    fn what_a_path_does_not_change_is_dropped() {
        let old = pod("1", json!({}));
        let mut new = pod("2", json!({"image": "other"}));
        new["spec"]["nodeName"] = json!("elsewhere");
        new["spec"]["ephemeralContainers"] = json!([{"name": "d"}]);
        let mut resized = new.clone();
        restrict(Subresource::Resize, &old, &mut resized);
        assert_eq!(resized, pod("2", json!({})));
        restrict(Subresource::EphemeralContainers, &old, &mut new);
        let mut expected = old.clone();
        expected["spec"]["ephemeralContainers"] = json!([{"name": "d"}]);
        assert_eq!(new, expected);
        reset(Subresource::Resize, &mut resized);
        assert_eq!(
            resized["spec"]["containers"],
            json!([{"name": "a", "resources": {"requests": {"cpu": "2"}}}])
        );
        assert!(resized["spec"]["nodeName"].is_null());
    }
}
