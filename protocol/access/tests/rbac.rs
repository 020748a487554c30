//! RBAC as its users see it: objects written one by one, requests allowed and refused, and who may write what. The tables
//! follow "Using RBAC Authorization" in Kubernetes' documentation.

use access::rbac::{RbacWrite, RoleChange};
use access::{Attributes, Rbac, ResourceRequest, User, Verdict};
use proptest::prelude::*;
use serde_json::{Value, json};

fn role(namespace: &str, name: &str, rules: Value) -> Value {
    json!({"metadata": {"namespace": namespace, "name": name}, "rules": rules})
}

fn binding(namespace: &str, name: &str, role: (&str, &str), subjects: Value) -> Value {
    json!({"metadata": {"namespace": namespace, "name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role.0, "name": role.1}, "subjects": subjects})
}

fn pods(namespace: &'static str) -> ResourceRequest<'static> {
    ResourceRequest {
        namespace,
        version: "v1",
        resource: "pods",
        name: "web",
        ..ResourceRequest::default()
    }
}

fn readers() -> Rbac {
    let mut rbac = Rbac::new();
    let rules = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]);
    rbac.upsert("clusterroles", &role("", "reader", rules.clone()));
    rbac.upsert("roles", &role("d", "local-reader", rules));
    rbac.upsert(
        "clusterrolebindings",
        &binding(
            "",
            "everywhere",
            ("ClusterRole", "reader"),
            json!([
            {"kind": "Group", "name": "ops"}, {"kind": "ServiceAccount", "name": "nobody"}]),
        ),
    );
    rbac.upsert(
        "rolebindings",
        &binding(
            "d",
            "by-cluster-role",
            ("ClusterRole", "reader"),
            json!([
            {"kind": "User", "name": "ann"}, {"kind": "ServiceAccount", "name": "robot"}]),
        ),
    );
    rbac.upsert(
        "rolebindings",
        &binding(
            "d",
            "by-role",
            ("Role", "local-reader"),
            json!([
            {"kind": "User", "name": "bob"}, {"kind": "ServiceAccount", "name": "ci", "namespace": "tools"}]),
        ),
    );
    rbac
}

#[test]
fn a_binding_holds_in_its_scope_and_for_its_subjects() {
    let rbac = readers();
    let user = |name: &str| User::authenticated(name, [""; 0]);
    // (user, in namespace d, in namespace e, cluster-wide)
    let cases = [
        (User::authenticated("olga", ["ops"]), true, true, true),
        (user("ann"), true, false, false),
        (user("bob"), true, false, false),
        (User::service_account("d", "robot", ""), true, false, false),
        (User::service_account("e", "robot", ""), false, false, false),
        (User::service_account("tools", "ci", ""), true, false, false),
        (User::service_account("d", "nobody", ""), false, false, false),
        (user("ops"), false, false, false),
        (User::authenticated("x", ["ann"]), false, false, false),
        (User::anonymous(), false, false, false),
    ];
    for (user, in_d, in_e, everywhere) in cases {
        for (namespace, expected) in [("d", in_d), ("e", in_e), ("", everywhere)] {
            let verdict = rbac.authorize(&Attributes::resource(&user, "get", pods(namespace)));
            assert_eq!(verdict.allows(), expected, "{} in {namespace:?}", user.name);
            assert!(
                !rbac
                    .authorize(&Attributes::resource(&user, "delete", pods(namespace)))
                    .allows()
            );
        }
    }
}

#[test]
fn the_reason_names_binding_role_and_subject() {
    let mut rbac = readers();
    let cases = [
        (
            User::authenticated("olga", ["ops"]),
            r#"RBAC: allowed by ClusterRoleBinding "everywhere" of ClusterRole "reader" to Group "ops""#,
        ),
        (
            User::authenticated("ann", [""; 0]),
            r#"RBAC: allowed by RoleBinding "by-cluster-role/d" of ClusterRole "reader" to User "ann""#,
        ),
        (
            User::service_account("tools", "ci", ""),
            r#"RBAC: allowed by RoleBinding "by-role/d" of Role "local-reader" to ServiceAccount "ci/tools""#,
        ),
    ];
    for (user, expected) in cases {
        let verdict = rbac.authorize(&Attributes::resource(&user, "get", pods("d")));
        assert_eq!(
            verdict,
            Verdict::Allow {
                reason: expected.into()
            }
        );
    }
    rbac.remove("roles", "d", "local-reader");
    let bob = User::authenticated("bob", [""; 0]);
    let verdict = rbac.authorize(&Attributes::resource(&bob, "get", pods("d")));
    let reason = r#"RBAC: role.rbac.authorization.k8s.io "local-reader" not found"#;
    assert_eq!(verdict, Verdict::NoOpinion { reason: reason.into() });
}

#[test]
fn a_change_counts_at_once() {
    let mut rbac = readers();
    let ann = User::authenticated("ann", [""; 0]);
    let may = |rbac: &Rbac, verb: &str| rbac.authorize(&Attributes::resource(&ann, verb, pods("d"))).allows();
    rbac.upsert(
        "clusterroles",
        &role(
            "",
            "reader",
            json!([{"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]}]),
        ),
    );
    assert!(!may(&rbac, "get") && may(&rbac, "list"));
    rbac.upsert(
        "rolebindings",
        &binding("d", "by-cluster-role", ("ClusterRole", "reader"), json!([])),
    );
    assert!(!may(&rbac, "list"), "the binding no longer names her");
    rbac.upsert(
        "rolebindings",
        &binding(
            "d",
            "again",
            ("ClusterRole", "reader"),
            json!([{"kind": "User", "name": "ann"}]),
        ),
    );
    assert!(may(&rbac, "list"));
    rbac.remove("rolebindings", "d", "again");
    assert!(!may(&rbac, "list"));
    rbac.remove("rolebindings", "d", "never-was");
}

#[test]
fn aggregation_gathers_by_label_through_levels() {
    let mut rbac = Rbac::new();
    let aggregating = |name: &str, selects: &str, label: &str| {
        json!({"metadata": {"name": name, "labels": {label: "true"}},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {selects: "true"}}]}, "rules": []})
    };
    let leaf = |name: &str, resource: &str| {
        json!({"metadata": {"name": name, "labels": {"to-view": "true"}},
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": [resource]}]})
    };
    // The outer one comes first, so that it must be computed again when what it selects appears.
    rbac.upsert("clusterroles", &aggregating("edit", "to-edit", "x"));
    rbac.upsert("clusterroles", &aggregating("view", "to-view", "to-edit"));
    rbac.upsert("clusterroles", &leaf("a", "pods"));
    rbac.upsert("clusterroles", &leaf("b", "services"));
    let resources = |rbac: &Rbac, name: &str| -> Vec<String> {
        let rules = rbac.role_rules("", name).unwrap();
        rules.into_iter().flat_map(|rule| rule.resources).collect()
    };
    assert_eq!(resources(&rbac, "edit"), ["pods", "services"]);
    let writes = rbac.aggregation_writes();
    assert_eq!(
        writes.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["edit", "view"]
    );
    rbac.remove("clusterroles", "", "a");
    assert_eq!(resources(&rbac, "edit"), ["services"]);
    rbac.upsert("clusterroles", &json!({"metadata": {"name": "b"}, "rules": []}));
    assert_eq!(resources(&rbac, "view"), [""; 0]);
    // Two that select each other end, with nothing.
    rbac.upsert("clusterroles", &aggregating("p", "q", "q"));
    rbac.upsert("clusterroles", &aggregating("r", "q", "q"));
    assert_eq!(resources(&rbac, "p"), [""; 0]);
}

#[test]
fn rules_are_listed_for_a_namespace() {
    let rbac = readers();
    let ann = User::authenticated("ann", ["ops"]);
    assert_eq!(rbac.rules_for(&ann, "d").rules.len(), 2);
    assert_eq!(rbac.rules_for(&ann, "e").rules.len(), 1);
    assert!(rbac.rules_for(&ann, "e").errors.is_empty());
}

/// A cluster where `grantor` holds `get pods` in namespace d, and the given extra rules.
fn escalation(extra: Value) -> (Rbac, User) {
    let mut rbac = readers();
    rbac.upsert("roles", &role("d", "extra", extra));
    rbac.upsert(
        "rolebindings",
        &binding(
            "d",
            "extra",
            ("Role", "extra"),
            json!([{"kind": "User", "name": "ann"}]),
        ),
    );
    rbac.upsert(
        "clusterroles",
        &role(
            "",
            "strong",
            json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]),
        ),
    );
    (rbac, User::authenticated("ann", ["dev"]))
}

fn write<'a>(user: &'a User, resource: &'a str, new: &'a Value, old: Option<&'a Value>) -> RbacWrite<'a> {
    RbacWrite {
        user,
        resource,
        namespace: "d",
        name: "n",
        change: RoleChange { new, old },
    }
}

#[test]
fn nobody_gives_what_it_does_not_hold() {
    let (rbac, ann) = escalation(json!([]));
    let held = role(
        "d",
        "n",
        json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]),
    );
    let more = role(
        "d",
        "n",
        json!([{"verbs": ["get", "delete"], "apiGroups": [""], "resources": ["pods", "secrets"]}]),
    );
    assert!(rbac.check_write(&write(&ann, "roles", &held, None)).is_ok());
    let error = rbac.check_write(&write(&ann, "roles", &more, None)).unwrap_err();
    assert_eq!(
        error.message,
        "roles.rbac.authorization.k8s.io \"n\" is forbidden: user \"ann\" (groups=[\"dev\" \"system:authenticated\"]) is \
         attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}\n\
         {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"delete\"]}"
    );
    let masters = User::authenticated("root", ["system:masters"]);
    assert!(rbac.check_write(&write(&masters, "roles", &more, None)).is_ok());
    assert!(
        rbac.check_write(&write(&ann, "pods", &more, None)).is_ok(),
        "other resources are not its business"
    );
}

#[test]
fn the_verbs_escalate_and_bind_lift_the_check() {
    let more = role(
        "d",
        "n",
        json!([{"verbs": ["delete"], "apiGroups": [""], "resources": ["pods"]}]),
    );
    let bind_strong = binding("d", "n", ("ClusterRole", "strong"), json!([]));
    let bind_reader = binding("d", "n", ("ClusterRole", "reader"), json!([]));
    let bind_missing = binding("d", "n", ("Role", "missing"), json!([]));
    let verb = |verb: &str, resource: &str, names: Value| json!([{"verbs": [verb], "apiGroups": ["rbac.authorization.k8s.io"], "resources": [resource], "resourceNames": names}]);
    // (extra rules, resource, object, code or 0)
    let cases = [
        (json!([]), "roles", &more, 403),
        (verb("escalate", "roles", json!([])), "roles", &more, 0),
        (verb("escalate", "roles", json!(["other"])), "roles", &more, 403),
        (json!([]), "rolebindings", &bind_reader, 0),
        (json!([]), "rolebindings", &bind_strong, 403),
        (
            verb("bind", "clusterroles", json!(["strong"])),
            "rolebindings",
            &bind_strong,
            0,
        ),
        (
            verb("bind", "clusterroles", json!(["weak"])),
            "rolebindings",
            &bind_strong,
            403,
        ),
        (verb("bind", "roles", json!([])), "rolebindings", &bind_strong, 403),
        (json!([]), "rolebindings", &bind_missing, 404),
    ];
    for (extra, resource, object, code) in cases {
        let (rbac, ann) = escalation(extra.clone());
        let result = rbac.check_write(&write(&ann, resource, object, None));
        assert_eq!(
            result.map_or_else(|status| status.code, |()| 0),
            code,
            "{resource} with {extra}"
        );
    }
}

#[test]
fn the_garbage_collector_may_change_owners_of_strong_roles() {
    let (rbac, ann) = escalation(json!([]));
    let old = role(
        "d",
        "n",
        json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]),
    );
    let mut new = old.clone();
    new["metadata"]["ownerReferences"] = json!([{"name": "x"}]);
    assert!(rbac.check_write(&write(&ann, "roles", &new, Some(&old))).is_ok());
    new["metadata"]["labels"] = json!({"a": "b"});
    assert!(rbac.check_write(&write(&ann, "roles", &new, Some(&old))).is_err());
}

#[test]
fn an_aggregation_rule_takes_all_rights() {
    let (mut rbac, ann) = escalation(json!([]));
    let role = json!({"metadata": {"name": "n"}, "rules": [], "aggregationRule": {"clusterRoleSelectors": []}});
    let attempt = |rbac: &Rbac| {
        rbac.check_write(&RbacWrite {
            namespace: "",
            ..write(&ann, "clusterroles", &role, None)
        })
    };
    assert_eq!(
        attempt(&rbac).unwrap_err().message,
        "clusterroles.rbac.authorization.k8s.io \"n\" is forbidden: must have cluster-admin privileges to use an aggregationRule"
    );
    rbac.upsert(
        "clusterroles",
        &json!({"metadata": {"name": "root"}, "rules": [
        {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}, {"verbs": ["*"], "nonResourceURLs": ["*"]}]}),
    );
    rbac.upsert(
        "clusterrolebindings",
        &binding(
            "",
            "root",
            ("ClusterRole", "root"),
            json!([{"kind": "User", "name": "ann"}]),
        ),
    );
    assert!(attempt(&rbac).is_ok());
}

/// The index after any history of writes answers like one that was built from the objects that remain.
#[derive(Clone, Debug)]
enum Step {
    Role(u8, u8, u8),
    DropRole(u8, u8),
    Bind(u8, u8, u8, Vec<u8>),
    Unbind(u8, u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..3u8, 0..3u8, 0..4u8).prop_map(|(n, r, v)| Step::Role(n, r, v)),
        (0..3u8, 0..3u8).prop_map(|(n, r)| Step::DropRole(n, r)),
        (0..3u8, 0..3u8, 0..3u8, proptest::collection::vec(0..4u8, 0..3))
            .prop_map(|(n, b, r, s)| Step::Bind(n, b, r, s)),
        (0..3u8, 0..3u8).prop_map(|(n, b)| Step::Unbind(n, b)),
    ];
    proptest::collection::vec(step, 0..40)
}

/// Namespace 0 is the cluster scope.
fn scope(index: u8) -> (String, &'static str, &'static str) {
    match index {
        0 => (String::new(), "clusterroles", "clusterrolebindings"),
        other => (format!("n{other}"), "roles", "rolebindings"),
    }
}

fn object_of(step: &Step) -> (&'static str, String, String, Option<Value>) {
    match step {
        Step::Role(namespace, name, verbs) => {
            let (namespace, resource, _) = scope(*namespace);
            let verb = ["get", "list", "*", "approve"][*verbs as usize];
            let rules = json!([{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}]);
            (
                resource,
                namespace.clone(),
                format!("r{name}"),
                Some(role(&namespace, &format!("r{name}"), rules)),
            )
        }
        Step::DropRole(namespace, name) => {
            let (namespace, resource, _) = scope(*namespace);
            (resource, namespace, format!("r{name}"), None)
        }
        Step::Bind(namespace, name, to, subjects) => {
            let (namespace, _, resource) = scope(*namespace);
            let subjects = subjects.iter().map(|subject| match subject {
                0 => json!({"kind": "User", "name": "ann"}),
                1 => json!({"kind": "Group", "name": "dev"}),
                2 => json!({"kind": "ServiceAccount", "name": "sa"}),
                _ => json!({"kind": "ServiceAccount", "name": "sa", "namespace": "n2"}),
            });
            let kind = if namespace.is_empty() || *to == 0 {
                "ClusterRole"
            } else {
                "Role"
            };
            let name = format!("b{name}");
            let object = binding(&namespace, &name, (kind, &format!("r{to}")), subjects.collect());
            (resource, namespace, name, Some(object))
        }
        Step::Unbind(namespace, name) => {
            let (namespace, _, resource) = scope(*namespace);
            (resource, namespace, format!("b{name}"), None)
        }
    }
}

proptest! {
    #[test]
    fn history_does_not_matter(steps in steps()) {
        let mut rbac = Rbac::new();
        let mut objects = std::collections::BTreeMap::new();
        for step in &steps {
            let (resource, namespace, name, object) = object_of(step);
            match object {
                Some(object) => {
                    rbac.upsert(resource, &object);
                    objects.insert((resource, namespace, name), object);
                }
                None => {
                    rbac.remove(resource, &namespace, &name);
                    objects.remove(&(resource, namespace, name));
                }
            }
        }
        let mut fresh = Rbac::new();
        for ((resource, ..), object) in &objects {
            fresh.upsert(resource, object);
        }
        let users = [
            User::authenticated("ann", [""; 0]),
            User::authenticated("x", ["dev"]),
            User::service_account("n1", "sa", ""),
            User::service_account("n2", "sa", ""),
        ];
        for user in &users {
            for namespace in ["", "n1", "n2"] {
                for verb in ["get", "list", "approve"] {
                    let request = ResourceRequest { namespace, resource: "pods", ..ResourceRequest::default() };
                    let attributes = Attributes::resource(user, verb, request);
                    prop_assert_eq!(rbac.authorize(&attributes), fresh.authorize(&attributes));
                }
                prop_assert_eq!(rbac.rules_for(user, namespace), fresh.rules_for(user, namespace));
            }
        }
    }
}

/// RBAC as its documentation puts it, over plain objects and without an index: what the index must agree with.
mod oracle {
    use serde_json::Value;

    fn has(list: &Value, wanted: &str) -> bool {
        let entries = list.as_array().into_iter().flatten().filter_map(Value::as_str);
        entries.into_iter().any(|entry| entry == "*" || entry == wanted)
    }

    fn names(resources: &Value, resource: &str, subresource: &str) -> bool {
        let full = if subresource.is_empty() {
            resource.to_owned()
        } else {
            format!("{resource}/{subresource}")
        };
        has(resources, &full) || !subresource.is_empty() && has(resources, &format!("*/{subresource}"))
    }

    fn is(subject: &Value, user: &access::User, binding_namespace: &str) -> bool {
        let name = subject["name"].as_str().unwrap_or_default();
        match subject["kind"].as_str() {
            Some("User") => user.name == name,
            Some("Group") => user.groups.iter().any(|group| group == name),
            _ => {
                let namespace = subject["namespace"].as_str().unwrap_or(binding_namespace);
                !namespace.is_empty() && user.name == format!("system:serviceaccount:{namespace}:{name}")
            }
        }
    }

    /// Roles and bindings by resource, namespace and name.
    pub type Objects = std::collections::BTreeMap<(&'static str, String, String), Value>;

    pub fn allows(objects: &Objects, user: &access::User, verb: &str, request: &access::ResourceRequest<'_>) -> bool {
        let bindings = objects.iter().filter(|((resource, namespace, _), _)| {
            *resource == "clusterrolebindings"
                || *resource == "rolebindings" && !request.namespace.is_empty() && namespace == request.namespace
        });
        let subjects = |binding: &Value| binding["subjects"].as_array().cloned().unwrap_or_default();
        bindings.into_iter().any(|((_, namespace, _), binding)| {
            let role = binding["roleRef"]["name"].as_str().unwrap_or_default().to_owned();
            let key = match binding["roleRef"]["kind"].as_str() {
                Some("ClusterRole") => ("clusterroles", String::new(), role),
                _ => ("roles", namespace.clone(), role),
            };
            let named = subjects(binding).iter().any(|subject| is(subject, user, namespace));
            let rules = objects
                .get(&key)
                .and_then(|role| role["rules"].as_array())
                .cloned()
                .unwrap_or_default();
            named
                && rules.iter().any(|rule| {
                    let limited = rule["resourceNames"].as_array().is_some_and(|names| !names.is_empty());
                    has(&rule["verbs"], verb)
                        && has(&rule["apiGroups"], request.group)
                        && names(&rule["resources"], request.resource, request.subresource)
                        && (!limited
                            || rule["resourceNames"]
                                .as_array()
                                .is_some_and(|names| names.iter().any(|name| name == request.name)))
                })
        })
    }
}

fn some_rule() -> impl Strategy<Value = Value> {
    let pick = |words: &'static [&'static str]| proptest::collection::vec(proptest::sample::select(words), 0..3);
    (
        pick(&["get", "list", "approve", "*"]),
        pick(&["", "apps", "*"]),
        pick(&["pods", "pods/log", "jobs", "*/log", "*"]),
        pick(&["a"]),
    )
        .prop_map(|(verbs, groups, resources, names)| {
            json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "resourceNames": names})
        })
}

proptest! {
    #[test]
    fn the_index_agrees_with_the_documentation(
        steps in steps(),
        rules in proptest::collection::vec(proptest::collection::vec(some_rule(), 0..4), 9),
    ) {
        let mut rbac = Rbac::new();
        let mut objects = oracle::Objects::new();
        for step in &steps {
            let (resource, namespace, name, object) = object_of(step);
            let Some(mut object) = object else {
                rbac.remove(resource, &namespace, &name);
                objects.remove(&(resource, namespace, name));
                continue;
            };
            if let Step::Role(namespace, role, _) = step {
                object["rules"] = rules[usize::from(namespace * 3 + role)].clone().into();
            }
            rbac.upsert(resource, &object);
            objects.insert((resource, namespace, name), object);
        }
        let users = [User::authenticated("ann", ["dev"]), User::service_account("n1", "sa", ""), User::service_account("n2", "sa", "")];
        for user in &users {
            for namespace in ["", "n1", "n2"] {
                for (group, resource, subresource) in [("", "pods", ""), ("apps", "pods", "log"), ("", "jobs", ""), ("", "jobs", "log")] {
                    for (verb, name) in [("get", "a"), ("list", ""), ("approve", "b")] {
                        let request = ResourceRequest { namespace, group, resource, subresource, name, ..ResourceRequest::default() };
                        let expected = oracle::allows(&objects, user, verb, &request);
                        let actual = rbac.grant(&Attributes::resource(user, verb, request)).is_ok();
                        prop_assert_eq!(actual, expected, "{} {} {:?}", user.name, verb, request);
                    }
                }
            }
        }
    }
}
