//! rbac.authorization.k8s.io/v1: roles and bindings in a namespace and in the cluster. Rows, defaults, validation, columns.

use protocol::UnixMillis;
use serde_json::Value;

use super::checks::{Rule, check};
use super::{Kind, cells};
use crate::access::{Access, existing_mut, items_mut, set_default_text};
use crate::cause::{Causes, Path};
use crate::rules;
use crate::table::Column;

const GROUP: &str = "rbac.authorization.k8s.io";

pub const ROLE: Kind = Kind {
    name_rule: rules::path_segment,
    validate: |object, causes| policy_rules(object, true, causes),
    columns: &[Column::NAME, Column::CREATED],
    cells: |object, _| vec![cells::name(object), super::created(object)],
    ..row!("rbac.authorization.k8s.io", v1, rbac, Role, "roles", "role")
};

pub const CLUSTER_ROLE: Kind = Kind {
    namespaced: false,
    name_rule: rules::path_segment,
    validate: |object, causes| {
        policy_rules(object, false, causes);
        let aggregation = object.at(&["aggregationRule"]);
        if aggregation.is_null() {
            return;
        }
        let root = Path::Root;
        let path = root.field("aggregationRule");
        let at = path.field("clusterRoleSelectors");
        if aggregation.items("clusterRoleSelectors").is_empty() {
            causes.required(
                at,
                "at least one clusterRoleSelector required if aggregationRule is non-nil",
            );
        }
        check(
            aggregation,
            &path,
            &[("clusterRoleSelectors[]", Rule::Selector)],
            causes,
        );
    },
    columns: &[Column::NAME, Column::CREATED],
    cells: |object, _| vec![cells::name(object), super::created(object)],
    ..row!(
        "rbac.authorization.k8s.io",
        v1,
        rbac,
        ClusterRole,
        "clusterroles",
        "clusterrole"
    )
};

pub const ROLE_BINDING: Kind = Kind {
    name_rule: rules::path_segment,
    default: default_binding,
    validate: |object, causes| binding(object, true, causes),
    validate_update: same_role,
    columns: BINDING_COLUMNS,
    cells: print_binding,
    ..row!(
        "rbac.authorization.k8s.io",
        v1,
        rbac,
        RoleBinding,
        "rolebindings",
        "rolebinding"
    )
};

pub const CLUSTER_ROLE_BINDING: Kind = Kind {
    namespaced: false,
    name_rule: rules::path_segment,
    default: default_binding,
    validate: |object, causes| binding(object, false, causes),
    validate_update: same_role,
    columns: BINDING_COLUMNS,
    cells: print_binding,
    ..row!(
        "rbac.authorization.k8s.io",
        v1,
        rbac,
        ClusterRoleBinding,
        "clusterrolebindings",
        "clusterrolebinding"
    )
};

const BINDING_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Role", "The role whose permissions are given."),
    Column::AGE,
    Column::wide("Users", "Users who get them."),
    Column::wide("Groups", "Groups that get them."),
    Column::wide("ServiceAccounts", "Service accounts that get them."),
];

fn policy_rules(object: &Value, namespaced: bool, causes: &mut Causes) {
    let root = Path::Root;
    let list = root.field("rules");
    for (index, rule) in object.items("rules").iter().enumerate() {
        let at = list.index(index);
        if rule.items("verbs").is_empty() {
            causes.required(at.field("verbs"), "verbs must contain at least one value");
        }
        let urls = rule.items("nonResourceURLs");
        if !urls.is_empty() {
            let value = rule.at(&["nonResourceURLs"]).clone();
            if namespaced {
                let text = "namespaced rules cannot apply to non-resource URLs";
                causes.invalid(at.field("nonResourceURLs"), value.clone(), text);
            }
            let names_resources = ["apiGroups", "resources", "resourceNames"]
                .iter()
                .any(|name| !rule.items(name).is_empty());
            if names_resources {
                let text = "rules cannot apply to both regular resources and non-resource URLs";
                causes.invalid(at.field("nonResourceURLs"), value, text);
            }
            continue;
        }
        if rule.items("apiGroups").is_empty() {
            causes.required(
                at.field("apiGroups"),
                "resource rules must supply at least one api group",
            );
        }
        if rule.items("resources").is_empty() {
            causes.required(
                at.field("resources"),
                "resource rules must supply at least one resource",
            );
        }
    }
}

fn default_binding(object: &mut Value) {
    if let Some(role) = existing_mut(object, "roleRef") {
        set_default_text(role, "apiGroup", GROUP);
    }
    for subject in items_mut(object, "subjects") {
        if matches!(subject.text("kind"), "User" | "Group") {
            set_default_text(subject, "apiGroup", GROUP);
        }
    }
}

fn binding(object: &Value, namespaced: bool, causes: &mut Causes) {
    let root = Path::Root;
    let roles: &[&str] = if namespaced {
        &["ClusterRole", "Role"]
    } else {
        &["ClusterRole"]
    };
    let (role, path) = (object.at(&["roleRef"]), root.field("roleRef"));
    check(role, &path, &[("apiGroup", Rule::MustBe(&[GROUP]))], causes);
    if !roles.contains(&role.text("kind")) {
        causes.not_supported(path.field("kind"), role.text("kind"), roles);
    }
    check(
        role,
        &path,
        &[("name", Rule::RequiredForm(rules::path_segment))],
        causes,
    );
    let list = root.field("subjects");
    for (index, subject) in object.items("subjects").iter().enumerate() {
        let at = list.index(index);
        check(subject, &at, &[("name", Rule::Required)], causes);
        match subject.text("kind") {
            "ServiceAccount" => {
                check(
                    subject,
                    &at,
                    &[
                        ("name", Rule::Form(rules::dns_subdomain)),
                        ("apiGroup", Rule::Known(&[""])),
                    ],
                    causes,
                );
                if !namespaced {
                    check(subject, &at, &[("namespace", Rule::Required)], causes);
                }
            }
            "User" | "Group" => check(subject, &at, &[("apiGroup", Rule::MustBe(&[GROUP]))], causes),
            other => causes.not_supported(at.field("kind"), other, &["Group", "ServiceAccount", "User"]),
        }
    }
}

fn same_role(old: &Value, new: &Value, causes: &mut Causes) {
    if old.at(&["roleRef"]) != new.at(&["roleRef"]) {
        let role = new.at(&["roleRef"]).clone();
        causes.invalid(Path::Root.field("roleRef"), role, "cannot change roleRef");
    }
}

fn print_binding(object: &Value, now: UnixMillis) -> Vec<Value> {
    let role = object.at(&["roleRef"]);
    let names = |kind: &str| {
        let subjects = object.items("subjects").iter();
        let names = subjects.filter(|subject| subject.text("kind") == kind).map(|subject| {
            if kind == "ServiceAccount" {
                format!("{}/{}", subject.text("namespace"), subject.text("name"))
            } else {
                subject.text("name").to_owned()
            }
        });
        names.collect::<Vec<String>>().join(", ")
    };
    vec![
        cells::name(object),
        format!("{}/{}", role.text("kind"), role.text("name")).into(),
        cells::created_ago(object, now),
        names("User").into(),
        names("Group").into(),
        names("ServiceAccount").into(),
    ]
}
