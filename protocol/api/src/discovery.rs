//! Discovery documents, made from the table of kinds: which groups, versions and resources there are. Both the plain form
//! (`/api`, `/apis`, `/apis/{group}/{version}`) and the aggregated one that newer clients ask for. The rows that are told of come
//! in as an argument: those of the table, and the custom ones of a cluster.

use serde_json::{Value, json};

use crate::kinds::{Kind, Subresource};

/// The content type of the aggregated form, as clients ask for it and as the answer names it.
pub const AGGREGATED_CONTENT_TYPE: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// What `/version` says of this build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildVersion {
    /// The Kubernetes release whose API this is, such as `v1.37.0`, with our own version behind a plus sign.
    pub git_version: String,
    /// The commit that was built; empty when unknown.
    pub git_commit: String,
    /// When it was built, RFC 3339; empty when unknown.
    pub build_date: String,
    /// `linux/amd64`.
    pub platform: String,
}

/// The Kubernetes release whose API the table follows: the newest that k8s-openapi knows.
pub const KUBERNETES_MAJOR: &str = "1";
/// Its minor version.
pub const KUBERNETES_MINOR: &str = "37";

/// `/version`.
pub fn version(build: &BuildVersion) -> Value {
    json!({
        "major": KUBERNETES_MAJOR, "minor": KUBERNETES_MINOR, "gitVersion": build.git_version,
        "gitCommit": build.git_commit, "gitTreeState": "clean", "buildDate": build.build_date,
        "goVersion": "none", "compiler": "rustc", "platform": build.platform,
    })
}

/// `/`: the paths that there are.
pub fn root_paths(rows: &[&'static Kind]) -> Value {
    let mut paths: Vec<String> = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for (group, versions) in groups_and_versions(rows) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
    }
    for path in [
        "/healthz",
        "/livez",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ] {
        paths.push(path.to_owned());
    }
    json!({"paths": paths})
}

/// The named groups with their versions, the preferred one first; both in the table's order, which is that in which clients
/// look for a resource of which they know only the name.
fn groups_and_versions(rows: &[&'static Kind]) -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for kind in rows.iter().filter(|kind| !kind.group.is_empty()) {
        match groups.iter_mut().find(|(group, _)| *group == kind.group) {
            Some((_, versions)) if versions.contains(&kind.version) => {}
            Some((_, versions)) => versions.push(kind.version),
            None => groups.push((kind.group, vec![kind.version])),
        }
    }
    groups
}

/// `/api`. `server_address` is `host:port` under which this node is reached.
pub fn core_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

/// `/apis`.
pub fn groups(rows: &[&'static Kind]) -> Value {
    let groups: Vec<Value> = groups_and_versions(rows)
        .iter()
        .map(|(name, versions)| group_value(name, versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/{group}`; `None` when there is no such group.
pub fn group(rows: &[&'static Kind], name: &str) -> Option<Value> {
    let groups = groups_and_versions(rows);
    let (_, versions) = groups.iter().find(|(group, _)| *group == name)?;
    let mut group = group_value(name, versions);
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    Some(group)
}

fn group_value(name: &str, versions: &[&str]) -> Value {
    let entry = |version: &&str| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let all: Vec<Value> = versions.iter().map(entry).collect();
    json!({"name": name, "versions": all, "preferredVersion": all.first()})
}

/// `/api/v1` (the empty group) and `/apis/{group}/{version}`; `None` when there is no such version.
pub fn resources(rows: &[&'static Kind], group: &str, version: &str) -> Option<Value> {
    let rows: Vec<&Kind> = rows
        .iter()
        .copied()
        .filter(|kind| kind.group == group && kind.version == version)
        .collect();
    let first = rows.first()?;
    let list: Vec<Value> = rows.iter().flat_map(|kind| resource_entries(kind)).collect();
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": first.api_version(), "resources": list,
    }))
}

fn resource_entries(kind: &Kind) -> Vec<Value> {
    let mut entry = json!({
        "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
        "verbs": kind.verbs,
    });
    for (name, words) in [("shortNames", kind.short_names), ("categories", kind.categories)] {
        if !words.is_empty() {
            entry[name] = words.into();
        }
    }
    let mut entries = vec![entry];
    entries.extend(
        kind.subresources
            .iter()
            .map(|subresource| subresource_entry(kind, *subresource)),
    );
    entries
}

fn subresource_entry(kind: &Kind, subresource: Subresource) -> Value {
    let (group, version, name) = subresource.body(kind);
    let mut entry = json!({
        "name": format!("{}/{}", kind.plural, subresource.name()), "singularName": "",
        "namespaced": kind.namespaced, "kind": name, "verbs": subresource.verbs(),
    });
    if (group, version) != (kind.group, kind.version) {
        entry["group"] = group.into();
        entry["version"] = version.into();
    }
    entry
}

/// `/api` in the aggregated form.
pub fn aggregated_core(rows: &[&'static Kind]) -> Value {
    aggregated(vec![aggregated_group(rows, "", &["v1"])])
}

/// `/apis` in the aggregated form.
pub fn aggregated_groups(rows: &[&'static Kind]) -> Value {
    aggregated(
        groups_and_versions(rows)
            .iter()
            .map(|(name, versions)| aggregated_group(rows, name, versions))
            .collect(),
    )
}

fn aggregated(items: Vec<Value>) -> Value {
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_group(rows: &[&'static Kind], name: &str, versions: &[&str]) -> Value {
    let metadata = if name.is_empty() {
        json!({})
    } else {
        json!({"name": name})
    };
    let version = |version: &&str| {
        let rows = rows
            .iter()
            .filter(|kind| kind.group == name && kind.version == *version);
        let resources: Vec<Value> = rows.map(|kind| aggregated_resource(kind)).collect();
        json!({"version": version, "freshness": "Current", "resources": resources})
    };
    json!({"metadata": metadata, "versions": versions.iter().map(version).collect::<Vec<_>>()})
}

fn aggregated_resource(kind: &Kind) -> Value {
    let mut entry = json!({
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    for (name, words) in [("shortNames", kind.short_names), ("categories", kind.categories)] {
        if !words.is_empty() {
            entry[name] = words.into();
        }
    }
    if !kind.subresources.is_empty() {
        let subresource = |subresource: &Subresource| {
            let (group, version, name) = subresource.body(kind);
            json!({
                "subresource": subresource.name(),
                "responseKind": {"group": group, "version": version, "kind": name},
                "verbs": subresource.verbs(),
            })
        };
        entry["subresources"] = kind.subresources.iter().map(subresource).collect();
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Access;
    use crate::kinds::kinds;

    fn rows() -> Vec<&'static Kind> {
        kinds().iter().collect()
    }

    #[test]
    fn every_kind_is_discovered_in_both_forms() {
        for kind in kinds() {
            let list = resources(&rows(), kind.group, kind.version).unwrap();
            assert_eq!(list.text("groupVersion"), kind.api_version());
            let entry = list
                .items("resources")
                .iter()
                .find(|entry| entry.text("name") == kind.plural)
                .unwrap();
            assert_eq!(entry.text("kind"), kind.kind);
            let document = if kind.group.is_empty() {
                aggregated_core(&rows())
            } else {
                aggregated_groups(&rows())
            };
            let group = document
                .items("items")
                .iter()
                .find(|group| group.at(&["metadata"]).text("name") == kind.group);
            let versions = group.unwrap().items("versions");
            let version = versions.iter().find(|version| version.text("version") == kind.version);
            assert!(
                version
                    .unwrap()
                    .items("resources")
                    .iter()
                    .any(|entry| entry.text("resource") == kind.plural)
            );
        }
    }

    #[test]
    fn the_scale_of_a_deployment_is_of_another_group() {
        let list = resources(&rows(), "apps", "v1").unwrap();
        let scale = list
            .items("resources")
            .iter()
            .find(|entry| entry.text("name") == "deployments/scale")
            .unwrap();
        assert_eq!((scale.text("group"), scale.text("kind")), ("autoscaling", "Scale"));
    }

    #[test]
    fn groups_that_do_not_exist_are_not_discovered() {
        assert_eq!(group(&rows(), "nope"), None);
        assert_eq!(resources(&rows(), "apps", "v9"), None);
        assert_eq!(
            group(&rows(), "apps")
                .unwrap()
                .at(&["preferredVersion"])
                .text("groupVersion"),
            "apps/v1"
        );
    }
}
