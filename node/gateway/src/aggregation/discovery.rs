//! Other servers' groups in this server's discovery documents. Pure.

use std::sync::Arc;

use api::access::Access;
use serde_json::{Value, json};

use super::registry::Remote;

fn group_version(remote: &Remote) -> Value {
    json!({"groupVersion": format!("{}/{}", remote.group, remote.version), "version": remote.version})
}

/// Adds the remotes' versions to an APIGroup, which may be new.
fn add_versions(group: &mut Value, remotes: &[&Arc<Remote>]) {
    for remote in remotes {
        let version = group_version(remote);
        let known = group["versions"].as_array().cloned().unwrap_or_default();
        if !known.contains(&version) {
            group["versions"] = known.into_iter().chain([version]).collect();
        }
    }
    if group["preferredVersion"].is_null() {
        group["preferredVersion"] = group["versions"][0].clone();
    }
}

fn of_group<'r>(remotes: &'r [Arc<Remote>], name: &str) -> Vec<&'r Arc<Remote>> {
    remotes.iter().filter(|remote| remote.group == name).collect()
}

/// `/apis` with the groups of other servers behind this server's own.
pub(super) fn merge_groups(document: &mut Value, remotes: &[Arc<Remote>]) {
    let mut groups = document["groups"].as_array().cloned().unwrap_or_default();
    for remote in remotes {
        let own = of_group(remotes, &remote.group);
        match groups.iter_mut().find(|group| group["name"] == *remote.group) {
            Some(group) => add_versions(group, &own),
            None => {
                let mut group = json!({"name": remote.group, "versions": []});
                add_versions(&mut group, &own);
                groups.push(group);
            }
        }
    }
    document["groups"] = groups.into();
}

/// `/apis/GROUP`; `None` where neither this server nor another has the group.
pub(super) fn group(name: &str, own: Option<Value>, remotes: &[Arc<Remote>]) -> Option<Value> {
    let remotes = of_group(remotes, name);
    if remotes.is_empty() {
        return own;
    }
    let mut group =
        own.unwrap_or_else(|| json!({"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": []}));
    add_versions(&mut group, &remotes);
    Some(group)
}

/// Adds a version of another server to an APIGroupDiscoveryList. `resources` is the APIResourceList that it answered;
/// without one the version is stale.
pub(super) fn merge_version(document: &mut Value, remote: &Remote, resources: Option<&Arc<Value>>) {
    let version = match resources {
        Some(list) => json!({
            "version": remote.version, "freshness": "Current", "resources": discovered(remote, list),
        }),
        None => json!({"version": remote.version, "freshness": "Stale"}),
    };
    let mut items = document["items"].as_array().cloned().unwrap_or_default();
    match items.iter_mut().find(|item| item["metadata"]["name"] == *remote.group) {
        Some(item) => {
            let known = item["versions"].as_array().cloned().unwrap_or_default();
            let others = known.into_iter().filter(|known| known["version"] != *remote.version);
            item["versions"] = others.chain([version]).collect();
        }
        None => items.push(json!({"metadata": {"name": remote.group}, "versions": [version]})),
    }
    document["items"] = items.into();
}

/// An APIResourceList in the aggregated form: subresources below their resources.
fn discovered(remote: &Remote, list: &Value) -> Vec<Value> {
    let kind_of = |resource: &Value| {
        let or = |name: &str, default: &str| match resource.text(name) {
            "" => default.to_owned(),
            text => text.to_owned(),
        };
        json!({"group": or("group", &remote.group), "version": or("version", &remote.version), "kind": resource.text("kind")})
    };
    let mut found: Vec<Value> = Vec::new();
    for resource in list.items("resources") {
        let name = resource.text("name");
        if let Some((parent, below)) = name.split_once('/') {
            let Some(parent) = found.iter_mut().find(|known| known["resource"] == parent) else {
                continue;
            };
            let entry = json!({
                "subresource": below, "responseKind": kind_of(resource), "verbs": resource.items("verbs"),
            });
            let known = parent["subresources"].as_array().cloned().unwrap_or_default();
            parent["subresources"] = known.into_iter().chain([entry]).collect();
            continue;
        }
        let mut entry = json!({
            "resource": name, "responseKind": kind_of(resource), "verbs": resource.items("verbs"),
            "scope": if resource.flag("namespaced") { "Namespaced" } else { "Cluster" },
            "singularResource": resource.text("singularName"),
        });
        for field in ["shortNames", "categories"] {
            if resource.has(field) {
                entry[field] = resource.at(&[field]).clone();
            }
        }
        found.push(entry);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote() -> Arc<Remote> {
        let object = json!({
            "metadata": {"resourceVersion": "5"},
            "spec": {"group": "wardle.example.com", "version": "v1", "service": {"namespace": "d", "name": "s"}},
        });
        Arc::new(Remote::read("v1.wardle.example.com", &object).expect("it names a service"))
    }

    #[test]
    fn a_local_api_service_names_nobody_else() {
        assert!(Remote::read("v1.apps", &json!({"spec": {"group": "apps", "version": "v1"}})).is_none());
    }

    #[test]
    fn another_servers_groups_stand_behind_ours() {
        let mut document = json!({"groups": [{"name": "apps", "versions": [], "preferredVersion": {}}]});
        merge_groups(&mut document, &[remote()]);
        let version = json!({"groupVersion": "wardle.example.com/v1", "version": "v1"});
        assert_eq!(
            document["groups"][1],
            json!({"name": "wardle.example.com", "versions": [version], "preferredVersion": version})
        );
        let alone = group("wardle.example.com", None, &[remote()]).expect("it exists");
        assert_eq!(
            (alone["kind"].as_str(), &alone["preferredVersion"]),
            (Some("APIGroup"), &version)
        );
        assert_eq!(group("none", None, &[remote()]), None);
    }

    #[test]
    fn resources_are_told_in_the_aggregated_form() {
        let list = json!({"resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"],
                "shortNames": ["fl"]},
            {"name": "flunders/status", "namespaced": true, "kind": "Flunder", "verbs": ["update"]},
        ]});
        let mut document = json!({"items": []});
        merge_version(&mut document, &remote(), Some(&Arc::new(list)));
        let kind = json!({"group": "wardle.example.com", "version": "v1", "kind": "Flunder"});
        assert_eq!(
            document["items"][0]["versions"],
            json!([{"version": "v1", "freshness": "Current", "resources": [{
                "resource": "flunders", "responseKind": kind, "verbs": ["get"], "scope": "Namespaced",
                "singularResource": "flunder", "shortNames": ["fl"],
                "subresources": [{"subresource": "status", "responseKind": kind, "verbs": ["update"]}],
            }]}])
        );
        merge_version(&mut document, &remote(), None);
        assert_eq!(
            document["items"][0]["versions"],
            json!([{"version": "v1", "freshness": "Stale"}])
        );
    }
}
