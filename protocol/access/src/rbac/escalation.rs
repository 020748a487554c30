//! Who may write a role or a binding: nobody may give rights that it does not hold, unless it has the verb `escalate` on the
//! role or `bind` on the role that is bound. After Kubernetes' policybased storages, with their wording.

use api::access::Access;
use api::status::{Details, Status};
use serde_json::Value;

use crate::attributes::{Attributes, ResourceRequest, forbidden_object};
use crate::rbac::GROUP;
use crate::rbac::index::Rbac;
use crate::rbac::rule::{Rule, compacted, quoted, uncovered};
use crate::user::{MASTERS, User};

/// A create or update of one of the four kinds.
#[derive(Clone, Copy, Debug)]
pub struct RbacWrite<'a> {
    /// Who writes.
    pub user: &'a User,
    /// `roles`, `clusterroles`, `rolebindings` or `clusterrolebindings`.
    pub resource: &'a str,
    /// The object's namespace; empty for cluster-scoped kinds.
    pub namespace: &'a str,
    /// The object's name.
    pub name: &'a str,
    /// What it is about.
    pub change: RoleChange<'a>,
}

/// The object before and after.
#[derive(Clone, Copy, Debug)]
pub struct RoleChange<'a> {
    /// As it would be stored.
    pub new: &'a Value,
    /// As it is stored; `None` for a create.
    pub old: Option<&'a Value>,
}

/// Whether the update changes only what the garbage collector needs: owners and finalizers. Anyone who may update may do that.
fn changes_only_ownership(change: &RoleChange<'_>) -> bool {
    let Some(old) = change.old else { return false };
    let stripped = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for name in [
                "ownerReferences",
                "finalizers",
                "managedFields",
                "resourceVersion",
                "selfLink",
            ] {
                metadata.remove(name);
            }
        }
        object
    };
    stripped(old) == stripped(change.new)
}

fn everything() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    [
        Rule {
            verbs: all(),
            api_groups: all(),
            resources: all(),
            ..Rule::default()
        },
        Rule {
            verbs: all(),
            non_resource_urls: all(),
            ..Rule::default()
        },
    ]
}

impl Rbac {
    /// Whether `held` covers `wanted`; otherwise the sentence that says what is missing, in Kubernetes' words.
    pub fn rules_covered(&self, user: &User, namespace: &str, wanted: &[Rule]) -> Result<(), String> {
        let held = self.rules_for(user, namespace);
        let missing = uncovered(&held.rules, wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let mut texts: Vec<String> = compacted(&missing).iter().map(Rule::compact_text).collect();
        texts.sort();
        texts.dedup();
        let mut text = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            quoted(&user.groups),
            texts.join("\n")
        );
        if !held.errors.is_empty() {
            text.push_str(&format!("; resolution errors: [{}]", held.errors.join(" ")));
        }
        Err(text)
    }

    /// Whether the write may go on as far as escalation is concerned; the verb itself was authorized before. Writes of
    /// other resources are none of its business and pass.
    pub fn check_write(&self, write: &RbacWrite<'_>) -> Result<(), Status> {
        if write.user.is_in(MASTERS) || changes_only_ownership(&write.change) {
            return Ok(());
        }
        match write.resource {
            "roles" | "clusterroles" => self.check_role(write),
            "rolebindings" | "clusterrolebindings" => self.check_binding(write),
            _ => Ok(()),
        }
    }

    fn holds(&self, user: &User, verb: &str, namespace: &str, resource: &str, name: &str) -> bool {
        let request = ResourceRequest {
            namespace,
            group: GROUP,
            version: "v1",
            resource,
            name,
            ..ResourceRequest::default()
        };
        self.grant(&Attributes::resource(user, verb, request)).is_ok()
    }

    fn check_role(&self, write: &RbacWrite<'_>) -> Result<(), Status> {
        let RbacWrite {
            user,
            resource,
            namespace,
            name,
            change,
        } = *write;
        if self.holds(user, "escalate", namespace, resource, name) {
            return Ok(());
        }
        let refused = |why: &str| Err(forbidden_object(GROUP, resource, name, why));
        if let Err(why) = self.rules_covered(user, namespace, &Rule::list(change.new)) {
            return refused(&why);
        }
        // What an aggregation rule gathers later cannot be known now: it takes all rights to write one.
        let aggregates = change.new.has("aggregationRule") || change.old.is_some_and(|old| old.has("aggregationRule"));
        if aggregates && self.rules_covered(user, namespace, &everything()).is_err() {
            return refused("must have cluster-admin privileges to use an aggregationRule");
        }
        Ok(())
    }

    fn check_binding(&self, write: &RbacWrite<'_>) -> Result<(), Status> {
        let RbacWrite {
            user,
            resource,
            namespace,
            name,
            change,
        } = *write;
        let reference = change.new.at(&["roleRef"]);
        let role = reference.text("name");
        let (roles, role_namespace) = match reference.text("kind") {
            "ClusterRole" => ("clusterroles", ""),
            _ => ("roles", namespace),
        };
        if self.holds(user, "bind", namespace, roles, role) {
            return Ok(());
        }
        let Some(rules) = self.role_rules(role_namespace, role) else {
            return Err(role_not_found(roles, role));
        };
        self.rules_covered(user, namespace, &rules)
            .map_err(|why| forbidden_object(GROUP, resource, name, &why))
    }
}

fn role_not_found(resource: &str, name: &str) -> Status {
    Status {
        code: 404,
        reason: "NotFound".into(),
        message: format!("{resource}.{GROUP} {name:?} not found"),
        details: Box::new(Details {
            name: name.to_owned(),
            group: GROUP.to_owned(),
            kind: resource.to_owned(),
            ..Details::default()
        }),
    }
}
