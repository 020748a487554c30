//! The roles and bindings that every cluster starts with, and how a newer release brings an older cluster's up to date. The
//! table is `policy.yaml`; the leader carries out the writes of `reconcile`. After Kubernetes' bootstrap policy and
//! `registry/rbac/reconciliation`: rules and subjects that are missing come back, what an administrator added stays, and an
//! object with `rbac.authorization.kubernetes.io/autoupdate: "false"` is left alone.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use api::access::{Access, object_mut};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::rbac::{GROUP, Rule, uncovered};

/// The annotation that protects an object when it says `false`.
pub const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// An object of the default policy.
#[derive(Clone, Debug, PartialEq)]
pub struct DefaultObject {
    /// `clusterroles`, `clusterrolebindings`, `roles` or `rolebindings`.
    pub resource: &'static str,
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The object in JSON.
    pub object: Value,
}

/// What brings a stored object in line with the default.
#[derive(Clone, Debug, PartialEq)]
pub enum PolicyWrite {
    /// It is missing.
    Create(Value),
    /// It lacks something.
    Update(Value),
    /// The binding refers to another role, which cannot be changed in place: delete it, then create this.
    Recreate(Value),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RoleRow {
    Rules(Vec<String>),
    Named {
        #[serde(default)]
        aggregate: Option<String>,
        #[serde(default)]
        into: Option<String>,
        #[serde(default)]
        rules: Vec<String>,
    },
}

#[derive(Deserialize)]
struct BindingRow {
    role: String,
    to: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Table {
    cluster_roles: BTreeMap<String, RoleRow>,
    controllers: BTreeMap<String, Vec<String>>,
    cluster_role_bindings: BTreeMap<String, Vec<String>>,
    roles: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    role_bindings: BTreeMap<String, BTreeMap<String, BindingRow>>,
}

static DEFAULTS: LazyLock<Vec<DefaultObject>> = LazyLock::new(|| {
    // The table is part of the program and a test reads all of it: a mistake in it is a bug of ours.
    let table: Table = serde_norway::from_str(include_str!("policy.yaml")).expect("policy.yaml is well-formed");
    objects(&table)
});

/// All default objects, roles before bindings.
pub fn defaults() -> &'static [DefaultObject] {
    &DEFAULTS
}

/// The rules of `system:node`, by which the node authorizer decides about what it has no other rule for.
pub fn node_rules() -> &'static [Rule] {
    static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
        let node = defaults().iter().find(|default| default.name == "system:node");
        node.map(|default| Rule::list(&default.object)).unwrap_or_default()
    });
    &RULES
}

fn objects(table: &Table) -> Vec<DefaultObject> {
    let mut objects = Vec::new();
    for (name, row) in &table.cluster_roles {
        objects.push(cluster_role(name, row));
    }
    for (name, rules) in &table.controllers {
        let name = format!("system:controller:{name}");
        objects.push(object("clusterroles", "", &name, json!({"rules": rules_of(rules)})));
    }
    for (namespace, roles) in &table.roles {
        for (name, rules) in roles {
            objects.push(object("roles", namespace, name, json!({"rules": rules_of(rules)})));
        }
    }
    for (name, subjects) in &table.cluster_role_bindings {
        objects.push(object(
            "clusterrolebindings",
            "",
            name,
            bound("ClusterRole", name, subjects),
        ));
    }
    for name in table.controllers.keys() {
        let subject = format!("ServiceAccount kube-system/{name}");
        let name = format!("system:controller:{name}");
        let body = bound("ClusterRole", &name, &[subject]);
        objects.push(object("clusterrolebindings", "", &name, body));
    }
    for (namespace, bindings) in &table.role_bindings {
        for (name, BindingRow { role, to }) in bindings {
            objects.push(object("rolebindings", namespace, name, bound("Role", role, to)));
        }
    }
    objects
}

fn object(resource: &'static str, namespace: &str, name: &str, body: Value) -> DefaultObject {
    let kind = match resource {
        "clusterroles" => "ClusterRole",
        "clusterrolebindings" => "ClusterRoleBinding",
        "roles" => "Role",
        _ => "RoleBinding",
    };
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind,
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
            "annotations": {AUTO_UPDATE: "true"},
        },
    });
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = namespace.into();
    }
    for (field, value) in body.as_object().into_iter().flatten() {
        object[field] = value.clone();
    }
    DefaultObject {
        resource,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        object,
    }
}

fn cluster_role(name: &str, row: &RoleRow) -> DefaultObject {
    let label = |role: &str| format!("{GROUP}/aggregate-to-{role}");
    let (aggregate, into, rules) = match row {
        RoleRow::Rules(rules) => (None, None, rules.as_slice()),
        RoleRow::Named { aggregate, into, rules } => (aggregate.as_deref(), into.as_deref(), rules.as_slice()),
    };
    let mut body = json!({"rules": rules_of(rules)});
    if let Some(role) = aggregate {
        body["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label(role): "true"}}]});
    }
    let mut default = object("clusterroles", "", name, body);
    if let Some(role) = into {
        default.object["metadata"]["labels"][label(role)] = "true".into();
    }
    default
}

fn rules_of(lines: &[String]) -> Value {
    lines
        .iter()
        .map(|line| serde_json::to_value(rule_of(line)).unwrap_or_default())
        .collect()
}

/// One line of the table; the grammar is at its head.
fn rule_of(line: &str) -> Rule {
    let line = if line == "events" {
        "create,patch,update core,events.k8s.io events"
    } else {
        line
    };
    let words: Vec<&str> = line.split(' ').collect();
    let list = |index: usize| -> Vec<String> {
        let word = words.get(index).copied().unwrap_or_default();
        word.split(',')
            .filter(|entry| !entry.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let verbs = match words[0] {
        "read" => "get,list,watch",
        "write" => "create,delete,deletecollection,patch,update",
        "all-verbs" => "create,delete,deletecollection,get,list,patch,update,watch",
        verbs => verbs,
    };
    let verbs = verbs.split(',').map(str::to_owned).collect();
    if words.len() == 2 {
        return Rule {
            verbs,
            non_resource_urls: list(1),
            ..Rule::default()
        };
    }
    let group = |group: String| if group == "core" { String::new() } else { group };
    Rule {
        verbs,
        api_groups: list(1).into_iter().map(group).collect(),
        resources: list(2),
        resource_names: list(3),
        non_resource_urls: Vec::new(),
    }
}

fn bound(kind: &str, role: &str, subjects: &[String]) -> Value {
    let subjects: Vec<Value> = subjects.iter().filter_map(|subject| subject_of(subject)).collect();
    let mut body = json!({"roleRef": {"apiGroup": GROUP, "kind": kind, "name": role}});
    if !subjects.is_empty() {
        body["subjects"] = subjects.into();
    }
    body
}

fn subject_of(text: &str) -> Option<Value> {
    let (kind, name) = text.split_once(' ')?;
    Some(match name.split_once('/') {
        Some((namespace, name)) => json!({"kind": kind, "name": name, "namespace": namespace}),
        None => json!({"apiGroup": GROUP, "kind": kind, "name": name}),
    })
}

/// The write that brings the stored object in line, if one is needed.
pub fn reconcile(existing: Option<&Value>, default: &DefaultObject) -> Option<PolicyWrite> {
    let Some(existing) = existing else {
        return Some(PolicyWrite::Create(default.object.clone()));
    };
    if existing.at(&["metadata", "annotations"]).text(AUTO_UPDATE) == "false" {
        return None;
    }
    let mut object = existing.clone();
    match default.resource {
        "clusterroles" | "roles" => add_rules(&mut object, &default.object),
        _ if existing.at(&["roleRef"]) != default.object.at(&["roleRef"]) => {
            let mut new = default.object.clone();
            merge_metadata(&mut new, existing);
            add_subjects(&mut new, existing);
            return Some(PolicyWrite::Recreate(new));
        }
        _ => add_subjects(&mut object, &default.object),
    }
    merge_metadata(&mut object, &default.object);
    (object != *existing).then_some(PolicyWrite::Update(object))
}

/// All writes that a cluster needs. `stored` gives the stored object by resource, namespace and name.
pub fn reconcile_all<'a>(
    stored: impl Fn(&str, &str, &str) -> Option<&'a Value>,
) -> Vec<(&'static DefaultObject, PolicyWrite)> {
    let defaults = defaults().iter();
    defaults
        .filter_map(|default| {
            let existing = stored(default.resource, &default.namespace, &default.name);
            Some((default, reconcile(existing, default)?))
        })
        .collect()
}

/// Labels and annotations that are missing; those that are there keep their values.
fn merge_metadata(object: &mut Value, from: &Value) {
    for field in ["labels", "annotations"] {
        for (key, value) in from.at(&["metadata"]).members(field) {
            let metadata = object_mut(object, "metadata");
            let members = object_mut(metadata, field);
            if !members.has(key) {
                members[key] = value.clone();
            }
        }
    }
}

/// Rules and aggregation selectors that are missing. An aggregating role's rules are its selectors' business.
fn add_rules(object: &mut Value, default: &Value) {
    if default.has("aggregationRule") {
        let selectors = default.at(&["aggregationRule"]).items("clusterRoleSelectors").to_vec();
        let rule = object_mut(object, "aggregationRule");
        append_missing(rule, "clusterRoleSelectors", &selectors);
        return;
    }
    let missing = uncovered(&Rule::list(object), &Rule::list(default));
    let missing: Vec<Value> = missing
        .iter()
        .filter_map(|rule| serde_json::to_value(rule).ok())
        .collect();
    append_missing(object, "rules", &missing);
}

fn add_subjects(object: &mut Value, from: &Value) {
    append_missing(object, "subjects", from.items("subjects"));
}

fn append_missing(object: &mut Value, field: &str, entries: &[Value]) {
    let known = object.items(field);
    let missing: Vec<Value> = entries.iter().filter(|entry| !known.contains(entry)).cloned().collect();
    if missing.is_empty() {
        return;
    }
    let all = [known.to_vec(), missing].concat();
    if let Some(members) = object.as_object_mut() {
        members.insert(field.to_owned(), all.into());
    } else {
        *object = Value::Object(Map::from_iter([(field.to_owned(), all.into())]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::{Attributes, ResourceRequest};
    use crate::rbac::Rbac;
    use crate::user::User;

    fn cluster() -> Rbac {
        let mut rbac = Rbac::new();
        for default in defaults() {
            rbac.upsert(default.resource, &default.object);
        }
        rbac
    }

    #[test]
    fn every_rule_of_the_table_is_whole() {
        for default in defaults() {
            for rule in Rule::list(&default.object) {
                let about_resources = !rule.api_groups.is_empty() && !rule.resources.is_empty();
                let about_paths = !rule.non_resource_urls.is_empty();
                assert!(
                    about_resources != about_paths && !rule.verbs.is_empty(),
                    "{}: {rule:?}",
                    default.name
                );
            }
        }
        let exists = |resource: &str, namespace: &str, name: &str| {
            let mut found = defaults().iter();
            found.any(|default| default.resource == resource && default.namespace == namespace && default.name == name)
        };
        for default in defaults()
            .iter()
            .filter(|default| default.resource.ends_with("bindings"))
        {
            let (kind, role) = (
                &default.object["roleRef"]["kind"],
                default.object["roleRef"]["name"].as_str(),
            );
            let (resource, namespace) = match kind.as_str() {
                Some("ClusterRole") => ("clusterroles", ""),
                _ => ("roles", default.namespace.as_str()),
            };
            assert!(exists(resource, namespace, role.unwrap()), "{}", default.name);
            assert!(
                default.name == "system:node" || default.object.has("subjects"),
                "{}",
                default.name
            );
        }
        for default in defaults()
            .iter()
            .filter(|default| default.name.starts_with("system:controller:"))
        {
            let bindings = if default.resource.starts_with("cluster") {
                "clusterrolebindings"
            } else {
                "rolebindings"
            };
            assert!(exists(bindings, &default.namespace, &default.name), "{}", default.name);
        }
    }

    #[test]
    fn the_people_s_roles_do_what_the_documentation_says() {
        let mut rbac = cluster();
        for role in ["admin", "edit", "view"] {
            rbac.upsert(
                "rolebindings",
                &json!({"metadata": {"name": role, "namespace": "d"},
                    "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
                    "subjects": [{"kind": "User", "name": role}]}),
            );
        }
        // (verb, group, resource, subresource, [admin, edit, view])
        let cases = [
            ("get", "", "pods", "", [true, true, true]),
            ("get", "", "pods", "log", [true, true, true]),
            ("create", "", "pods", "exec", [true, true, false]),
            ("get", "", "secrets", "", [true, true, false]),
            ("create", "", "secrets", "", [true, true, false]),
            ("deletecollection", "apps", "deployments", "", [true, true, false]),
            (
                "create",
                "rbac.authorization.k8s.io",
                "rolebindings",
                "",
                [true, false, false],
            ),
            ("update", "", "resourcequotas", "", [false, false, false]),
            ("update", "", "namespaces", "", [false, false, false]),
            ("get", "", "namespaces", "", [true, true, true]),
            ("create", "", "endpoints", "", [false, false, false]),
            ("list", "", "nodes", "", [false, false, false]),
        ];
        for (verb, group, resource, subresource, expected) in cases {
            for (name, expected) in ["admin", "edit", "view"].into_iter().zip(expected) {
                let user = User::authenticated(name, [""; 0]);
                let request = ResourceRequest {
                    namespace: "d",
                    group,
                    resource,
                    subresource,
                    ..Default::default()
                };
                let verdict = rbac.authorize(&Attributes::resource(&user, verb, request));
                assert_eq!(verdict.allows(), expected, "{name} {verb} {resource}/{subresource}");
                let request = ResourceRequest {
                    namespace: "other",
                    ..request
                };
                assert!(!rbac.authorize(&Attributes::resource(&user, verb, request)).allows());
            }
        }
    }

    #[test]
    fn everyone_may_ask_what_it_is_and_what_there_is() {
        let rbac = cluster();
        let (known, unknown) = (User::authenticated("ann", [""; 0]), User::anonymous());
        let cases = [
            ("/healthz", true, true),
            ("/version", true, true),
            ("/apis/apps/v1", true, false),
            ("/openapi/v3", true, false),
            ("/metrics", false, false),
        ];
        for (path, authenticated, anonymous) in cases {
            assert_eq!(
                rbac.authorize(&Attributes::path(&known, "get", path)).allows(),
                authenticated,
                "{path}"
            );
            assert_eq!(
                rbac.authorize(&Attributes::path(&unknown, "get", path)).allows(),
                anonymous,
                "{path}"
            );
        }
        let whoami = ResourceRequest {
            group: "authentication.k8s.io",
            resource: "selfsubjectreviews",
            ..Default::default()
        };
        assert!(rbac.authorize(&Attributes::resource(&known, "create", whoami)).allows());
        let pods = ResourceRequest {
            resource: "pods",
            ..Default::default()
        };
        assert!(
            !rbac
                .authorize(&Attributes::resource(&User::node("n1"), "list", pods))
                .allows()
        );
        assert!(
            rbac.authorize(&Attributes::resource(
                &User::authenticated("a", ["system:masters"]),
                "list",
                pods
            ))
            .allows()
        );
    }

    fn default(resource: &str, name: &str) -> &'static DefaultObject {
        let found = defaults()
            .iter()
            .find(|default| default.resource == resource && default.name == name);
        found.unwrap()
    }

    #[test]
    fn a_cluster_that_has_all_needs_no_write() {
        let stored = |resource: &str, namespace: &str, name: &str| {
            let found = defaults()
                .iter()
                .find(|default| default.resource == resource && default.namespace == namespace && default.name == name);
            found.map(|default| &default.object)
        };
        assert_eq!(reconcile_all(stored), []);
        assert_eq!(reconcile_all(|_, _, _| None).len(), defaults().len());
    }

    #[test]
    fn what_is_missing_comes_back_and_what_was_added_stays() {
        let discovery = default("clusterroles", "system:discovery");
        let mut mine = discovery.object.clone();
        mine["rules"] = json!([{"verbs": ["get"], "nonResourceURLs": ["/mine", "/api", "/api/*"]}]);
        mine["metadata"]["labels"] = json!({"mine": "1"});
        let Some(PolicyWrite::Update(written)) = reconcile(Some(&mine), discovery) else {
            panic!("an update is needed")
        };
        assert!(uncovered(&Rule::list(&written), &Rule::list(&discovery.object)).is_empty());
        assert!(uncovered(&Rule::list(&written), &Rule::list(&mine)).is_empty());
        assert_eq!(
            written["metadata"]["labels"],
            json!({"mine": "1", "kubernetes.io/bootstrapping": "rbac-defaults"})
        );
        assert_eq!(
            reconcile(Some(&written), discovery),
            None,
            "a second time writes nothing"
        );

        mine["metadata"]["annotations"][AUTO_UPDATE] = "false".into();
        assert_eq!(reconcile(Some(&mine), discovery), None);
    }

    #[test]
    fn a_binding_gets_its_subjects_back_and_a_changed_role_needs_a_new_one() {
        let basic = default("clusterrolebindings", "system:basic-user");
        let mut mine = basic.object.clone();
        mine["subjects"] = json!([{"kind": "User", "name": "ann", "apiGroup": GROUP}]);
        let Some(PolicyWrite::Update(written)) = reconcile(Some(&mine), basic) else {
            panic!("an update is needed")
        };
        assert_eq!(written["subjects"].as_array().unwrap().len(), 2);
        mine["roleRef"]["name"] = "cluster-admin".into();
        let Some(PolicyWrite::Recreate(written)) = reconcile(Some(&mine), basic) else {
            panic!("the binding must be made anew")
        };
        assert_eq!(written["roleRef"], basic.object["roleRef"]);
        assert_eq!(written["subjects"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn an_aggregating_role_keeps_the_rules_that_its_controller_wrote() {
        let view = default("clusterroles", "view");
        let mut stored = view.object.clone();
        stored["rules"] = json!([{"verbs": ["get"], "apiGroups": ["x"], "resources": ["y"]}]);
        assert_eq!(reconcile(Some(&stored), view), None);
        stored["aggregationRule"]["clusterRoleSelectors"] = json!([{"matchLabels": {"mine": "true"}}]);
        let Some(PolicyWrite::Update(written)) = reconcile(Some(&stored), view) else {
            panic!("the selector is missing")
        };
        assert_eq!(
            written["aggregationRule"]["clusterRoleSelectors"]
                .as_array()
                .unwrap()
                .len(),
            2
        );
    }
}
