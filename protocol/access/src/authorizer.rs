//! The authorizers in their order: the masters may do everything; then the node authorizer; then RBAC. The first that allows
//! or denies decides. The gateway holds one of these, feeds it from its watches, and asks it once per request.

use api::Status;
use serde_json::Value;

use crate::attributes::{Attributes, Verdict, forbidden};
use crate::node::NodeGraph;
use crate::rbac::Rbac;
use crate::user::MASTERS;

/// The resources that the authorizers must be told of: API group and resource.
pub const WATCHED: [(&str, &str); 8] = [
    ("rbac.authorization.k8s.io", "roles"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("", "pods"),
    ("", "persistentvolumes"),
    ("storage.k8s.io", "volumeattachments"),
    ("resource.k8s.io", "resourceslices"),
];

/// All that decides who may do what.
#[derive(Debug, Default)]
pub struct Authorizers {
    /// Roles and bindings.
    pub rbac: Rbac,
    /// What belongs to which node.
    pub nodes: NodeGraph,
}

impl Authorizers {
    /// Without an object: only the masters may do anything.
    pub fn new() -> Authorizers {
        Authorizers::default()
    }

    /// Takes an object of a watched resource as it is now; another one is ignored.
    pub fn upsert(&mut self, resource: &str, object: &Value) {
        self.rbac.upsert(resource, object);
        self.nodes.upsert(resource, object);
    }

    /// Forgets an object.
    pub fn remove(&mut self, resource: &str, namespace: &str, name: &str) {
        self.rbac.remove(resource, namespace, name);
        self.nodes.remove(resource, namespace, name);
    }

    /// The verdict. Without an opinion, its reason holds those of all authorizers, one a line.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Verdict {
        if attributes.user.is_in(MASTERS) {
            return Verdict::Allow { reason: String::new() };
        }
        let node = self.nodes.authorize(attributes);
        if !matches!(node, Verdict::NoOpinion { .. }) {
            return node;
        }
        let rbac = self.rbac.authorize(attributes);
        match (node.reason(), rbac) {
            ("", rbac) => rbac,
            (_, rbac) if rbac.allows() => rbac,
            (first, Verdict::NoOpinion { reason }) if reason.is_empty() => Verdict::NoOpinion {
                reason: first.to_owned(),
            },
            (first, Verdict::NoOpinion { reason }) => Verdict::NoOpinion {
                reason: format!("{first}\n{reason}"),
            },
            (_, rbac) => rbac,
        }
    }

    /// Whether the request may go on, as the 403 that it gets if not.
    pub fn check(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        match self.authorize(attributes) {
            Verdict::Allow { .. } => Ok(()),
            Verdict::NoOpinion { reason } | Verdict::Deny { reason } => Err(forbidden(attributes, &reason)),
        }
    }
}
