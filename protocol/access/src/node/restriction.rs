//! What a node's agent may write into objects that it may write at all: the NodeRestriction admission. It judges the object
//! as it would be stored. `needed` says which other object the gateway must look up first.

use api::access::Access;
use api::status::{Details, Status};
use serde_json::Value;

use crate::attributes::forbidden_object;
use crate::node::labels::forbidden_changes;
use crate::node::references::{MIRROR, refers_to};
use crate::user::User;

/// What a request does to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It makes one.
    Create,
    /// It changes one.
    Update,
    /// It deletes one, or one of a collection.
    Delete,
}

impl Operation {
    fn text(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
        }
    }
}

/// A write that waits for admission.
#[derive(Clone, Copy, Debug)]
pub struct NodeWrite<'a> {
    /// Who writes.
    pub user: &'a User,
    /// What it does.
    pub operation: Operation,
    /// The API group.
    pub group: &'a str,
    /// `pods`.
    pub resource: &'a str,
    /// `status`; empty for the object itself.
    pub subresource: &'a str,
    /// The namespace.
    pub namespace: &'a str,
    /// The object's name, as far as it is known.
    pub name: &'a str,
    /// The object as it would be stored, or the body of the subresource; null for a delete.
    pub new: &'a Value,
    /// The object as it is stored; null for a create.
    pub old: &'a Value,
    /// What `needed` named, if it exists.
    pub related: Option<&'a Value>,
}

/// An object that must be looked up for the decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needed {
    /// `pods` or `nodes`.
    pub resource: &'static str,
    /// Empty for a node.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The object that the decision about this write needs beside old and new: for the eviction of a pod the pod, for a token
/// the pod that it is to be bound to, for a mirror pod the Node that owns it.
pub fn needed(write: &NodeWrite<'_>) -> Option<Needed> {
    let node = write.user.as_node()?;
    if write.operation != Operation::Create || !write.group.is_empty() {
        return None;
    }
    let pod = |name: &str| Needed {
        resource: "pods",
        namespace: write.namespace.to_owned(),
        name: name.to_owned(),
    };
    match (write.resource, write.subresource) {
        ("pods", "") => Some(Needed {
            resource: "nodes",
            namespace: String::new(),
            name: node.to_owned(),
        }),
        ("pods", "eviction") => Some(pod(evicted(write))),
        ("serviceaccounts", "token") => Some(pod(write.new.at(&["spec", "boundObjectRef"]).text("name"))),
        _ => None,
    }
    .filter(|needed| !needed.name.is_empty())
}

fn evicted<'a>(write: &NodeWrite<'a>) -> &'a str {
    if write.name.is_empty() {
        write.new.at(&["metadata"]).text("name")
    } else {
        write.name
    }
}

/// Whether the write may go on. Writes of others than nodes, and of what no node has a special right to, pass.
pub fn restrict(write: &NodeWrite<'_>) -> Result<(), Status> {
    let Some(node) = write.user.as_node() else {
        return Ok(());
    };
    if node.is_empty() {
        return refuse(
            write,
            format!("could not determine node from user {:?}", write.user.name),
        );
    }
    match (write.group, write.resource, write.subresource) {
        ("", "pods", "") => pod(node, write),
        ("", "pods", "status") => pod_status(node, write),
        ("", "pods", "eviction") => eviction(node, write),
        ("", "pods", other) => refuse(
            write,
            format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"),
        ),
        ("", "nodes", _) => own_node(node, write),
        ("", "persistentvolumeclaims", "status") => claim_status(node, write),
        ("", "persistentvolumeclaims", _) => refuse(write, "may only update PVC status"),
        ("", "serviceaccounts", "token") => token(node, write),
        ("coordination.k8s.io", "leases", _) => lease(node, write),
        ("storage.k8s.io", "csinodes", _) => own_name(
            node,
            write,
            "can only access CSINode with the same name as the requesting node",
        ),
        ("resource.k8s.io", "resourceslices", _) => slice(node, write),
        _ => Ok(()),
    }
}

fn refuse(write: &NodeWrite<'_>, why: impl AsRef<str>) -> Result<(), Status> {
    Err(forbidden_object(write.group, write.resource, write.name, why.as_ref()))
}

fn require(holds: bool, write: &NodeWrite<'_>, why: impl AsRef<str>) -> Result<(), Status> {
    if holds { Ok(()) } else { refuse(write, why) }
}

fn missing(resource: &str, name: &str) -> Status {
    Status {
        code: 404,
        reason: "NotFound".into(),
        message: format!("{resource} {name:?} not found"),
        details: Box::new(Details {
            name: name.to_owned(),
            kind: resource.to_owned(),
            ..Details::default()
        }),
    }
}

fn bound_to(pod: &Value) -> &str {
    pod.at(&["spec"]).text("nodeName")
}

fn unexpected(write: &NodeWrite<'_>) -> Result<(), Status> {
    refuse(write, format!("unexpected operation {:?}", write.operation.text()))
}

fn pod(node: &str, write: &NodeWrite<'_>) -> Result<(), Status> {
    match write.operation {
        Operation::Create => mirror_pod(node, write),
        Operation::Delete => {
            let why = format!("node {node:?} can only delete pods with spec.nodeName set to itself");
            require(bound_to(write.old) == node, write, why)
        }
        Operation::Update => {
            let operation = write.operation.text();
            let why =
                format!("unexpected operation {operation:?}, node {node:?} can only create and delete mirror pods");
            refuse(write, why)
        }
    }
}

fn mirror_pod(node: &str, write: &NodeWrite<'_>) -> Result<(), Status> {
    let pod = write.new;
    let only = |rest: &str| format!("node {node:?} can only create pods {rest}");
    let mirrors = pod.at(&["metadata", "annotations"]).has(MIRROR);
    let why = format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods");
    require(mirrors, write, why)?;
    require(bound_to(pod) == node, write, only("with spec.nodeName set to itself"))?;
    let owners = pod.at(&["metadata"]).items("ownerReferences");
    require(
        owners.len() <= 1,
        write,
        only("with a single owner reference set to itself"),
    )?;
    let is_node =
        |owner: &&Value| owner.text("apiVersion") == "v1" && owner.text("kind") == "Node" && owner.text("name") == node;
    let Some(owner) = owners.first().filter(is_node) else {
        return refuse(write, only("with an owner reference set to itself"));
    };
    require(
        owner.flag("controller"),
        write,
        only("with a controller owner reference set to itself"),
    )?;
    let why = format!("node {node:?} must not set blockOwnerDeletion on an owner reference");
    require(!owner.flag("blockOwnerDeletion"), write, why)?;
    let stored = write.related.ok_or_else(|| missing("nodes", node))?;
    let (claimed, uid) = (owner.text("uid"), stored.at(&["metadata"]).text("uid"));
    let why = format!("node {node} UID mismatch: expected {claimed} got {uid}");
    require(claimed == uid, write, why)?;
    match refers_to(pod) {
        Some(what) => refuse(
            write,
            format!("node {node:?} can not create pods that reference {what}"),
        ),
        None => Ok(()),
    }
}

fn pod_status(node: &str, write: &NodeWrite<'_>) -> Result<(), Status> {
    if write.operation != Operation::Update {
        return unexpected(write);
    }
    let why = format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself");
    require(bound_to(write.old) == node, write, why)?;
    let same = |path: &[&str]| {
        let empty = |value: &Value| api::access::is_zero(value);
        let (old, new) = (write.old.at(path), write.new.at(path));
        old == new || empty(old) && empty(new)
    };
    let why = format!("node {node:?} cannot update labels through pod status");
    require(same(&["metadata", "labels"]), write, why)?;
    let why = format!("node {node:?} cannot update resource claim statuses");
    require(same(&["status", "resourceClaimStatuses"]), write, why)
}

fn eviction(node: &str, write: &NodeWrite<'_>) -> Result<(), Status> {
    if write.operation != Operation::Create {
        return unexpected(write);
    }
    let name = evicted(write);
    require(!name.is_empty(), write, "could not determine pod from request data")?;
    let pod = write.related.ok_or_else(|| missing("pods", name))?;
    let why = format!("node {node} can only evict pods with spec.nodeName set to itself");
    require(bound_to(pod) == node, write, why)
}

/// A node tells how far the growth of a volume is; everything else of the claim stays as it is.
fn claim_status(node: &str, write: &NodeWrite<'_>) -> Result<(), Status> {
    if write.operation != Operation::Update {
        return unexpected(write);
    }
    let stripped = |claim: &Value| {
        let mut claim = claim.clone();
        for (part, fields) in [
            ("metadata", ["resourceVersion", "managedFields", "", ""]),
            (
                "status",
                [
                    "capacity",
                    "conditions",
                    "allocatedResources",
                    "allocatedResourceStatuses",
                ],
            ),
        ] {
            if let Some(members) = claim.get_mut(part).and_then(Value::as_object_mut) {
                for field in fields {
                    members.remove(field);
                }
            }
        }
        claim
    };
    let why = format!("node {node:?} is not allowed to update fields other than status.capacity and status.conditions");
    require(stripped(write.old) == stripped(write.new), write, why)
}

fn own_node(node: &str, write: &NodeWrite<'_>) -> Result<(), Status> {
    let named = if write.name.is_empty() {
        write.new.at(&["metadata"]).text("name")
    } else {
        write.name
    };
    require(
        named == node,
        write,
        format!("node {node:?} is not allowed to modify node {named:?}"),
    )?;
    let source = |object: &Value| object.at(&["spec", "configSource"]).clone();
    match write.operation {
        Operation::Delete => Ok(()),
        Operation::Create => {
            let why = format!("node {node:?} is not allowed to create pods with a non-nil configSource");
            require(source(write.new).is_null(), write, why)?;
            let labels = forbidden_changes(write.new, &Value::Null);
            let list = labels.join(", ");
            let why = format!("node {node:?} is not allowed to set the following labels: {list}");
            require(labels.is_empty(), write, why)
        }
        Operation::Update => {
            let (new, old) = (source(write.new), source(write.old));
            let why = format!("node {node:?} is not allowed to update configSource to a new non-nil configSource");
            require(new.is_null() || new == old, write, why)?;
            let taints = |object: &'_ Value| object.at(&["spec"]).items("taints").to_vec();
            let why = format!("node {node:?} is not allowed to modify taints");
            require(taints(write.new) == taints(write.old), write, why)?;
            let labels = forbidden_changes(write.new, write.old);
            let why = format!("is not allowed to modify labels: {}", labels.join(", "));
            require(labels.is_empty(), write, why)
        }
    }
}

fn token(node: &str, write: &NodeWrite<'_>) -> Result<(), Status> {
    if write.operation != Operation::Create {
        return Ok(());
    }
    let bound = write.new.at(&["spec", "boundObjectRef"]);
    let (name, uid) = (bound.text("name"), bound.text("uid"));
    let is_pod = bound.text("apiVersion") == "v1" && bound.text("kind") == "Pod" && !name.is_empty();
    require(is_pod, write, "node requested token not bound to a pod")?;
    require(
        !uid.is_empty(),
        write,
        "node requested token with a pod binding without a uid",
    )?;
    let pod = write.related.ok_or_else(|| missing("pods", name))?;
    let why = format!(
        "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and \
         then recreated"
    );
    require(pod.at(&["metadata"]).text("uid") == uid, write, why)?;
    let why = "node requested token bound to a pod scheduled on a different node";
    require(bound_to(pod) == node, write, why)
}

fn own_name(node: &str, write: &NodeWrite<'_>, why: &str) -> Result<(), Status> {
    let named = match write.operation {
        Operation::Create => write.new.at(&["metadata"]).text("name"),
        _ => write.name,
    };
    require(named == node, write, why)
}

fn lease(node: &str, write: &NodeWrite<'_>) -> Result<(), Status> {
    let why = "can only access leases in the \"kube-node-lease\" system namespace";
    require(write.namespace == "kube-node-lease", write, why)?;
    own_name(
        node,
        write,
        "can only access node lease with the same name as the requesting node",
    )
}

fn slice(node: &str, write: &NodeWrite<'_>) -> Result<(), Status> {
    let owner = |object: &Value| object.at(&["spec"]).text("nodeName") == node;
    match write.operation {
        Operation::Create => {
            let why = "can only create ResourceSlice with the same NodeName as the requesting node";
            require(owner(write.new), write, why)
        }
        Operation::Update => {
            let why = "can only update ResourceSlice with the same NodeName as the requesting node";
            require(owner(write.old) && owner(write.new), write, why)
        }
        Operation::Delete => {
            let why = "can only delete ResourceSlice with the same NodeName as the requesting node";
            require(owner(write.old), write, why)
        }
    }
}
