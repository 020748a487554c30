//! The node authorizer: whether a node's agent may make a request, before its body is read. What it may write into its own
//! objects is the restriction's business.

use crate::attributes::{Attributes, Requested, ResourceRequest, Verdict, equal_to};
use crate::node::graph::{NodeGraph, Related};
use crate::policy::node_rules;

fn allowed() -> Verdict {
    Verdict::Allow { reason: String::new() }
}

fn refused(reason: impl Into<String>) -> Verdict {
    Verdict::NoOpinion { reason: reason.into() }
}

impl NodeGraph {
    /// Decides about a node's agent; it has no opinion about anybody else.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Verdict {
        let Some(node) = attributes.user.as_node() else {
            return Verdict::none();
        };
        if node.is_empty() {
            return refused(format!("unknown node for user {:?}", attributes.user.name));
        }
        if let Requested::Resource(request) = &attributes.requested
            && let Some(verdict) = self.by_resource(node, attributes.verb, request)
        {
            return verdict;
        }
        if node_rules().iter().any(|rule| rule.allows(attributes)) {
            return allowed();
        }
        Verdict::none()
    }

    /// The resources that are not the same for all nodes; `None` for the others.
    fn by_resource(&self, node: &str, verb: &str, request: &ResourceRequest<'_>) -> Option<Verdict> {
        Some(match (request.group, request.resource) {
            ("", "secrets") => self.read_namespaced(node, Related::Secret, verb, request),
            ("", "configmaps") => self.read_namespaced(node, Related::ConfigMap, verb, request),
            ("", "persistentvolumeclaims") if request.subresource == "status" => match verb {
                "update" | "patch" => self.related(node, Related::Claim, request),
                _ => refused("can only get/update/patch this type"),
            },
            ("", "persistentvolumeclaims") => self.get(node, Related::Claim, verb, request),
            ("", "persistentvolumes") => self.get(node, Related::Volume, verb, request),
            ("resource.k8s.io", "resourceclaims") => self.get(node, Related::ResourceClaim, verb, request),
            ("storage.k8s.io", "volumeattachments") => self.get(node, Related::Attachment, verb, request),
            ("", "serviceaccounts") => self.account(node, verb, request),
            ("coordination.k8s.io", "leases") => lease(node, verb, request),
            ("storage.k8s.io", "csinodes") => csi_node(node, verb, request),
            ("resource.k8s.io", "resourceslices") => self.slice(node, verb, request),
            ("", "nodes") => own_node(node, verb, request),
            ("", "pods") => self.pod(node, verb, request),
            _ => return None,
        })
    }

    fn related(&self, node: &str, what: Related, request: &ResourceRequest<'_>) -> Verdict {
        if request.name.is_empty() {
            return refused("No Object name found");
        }
        if self.is_related(node, what, request.namespace, request.name) {
            allowed()
        } else {
            refused(format!("no relationship found between node '{node}' and this object"))
        }
    }

    fn get(&self, node: &str, what: Related, verb: &str, request: &ResourceRequest<'_>) -> Verdict {
        if verb != "get" {
            return refused("can only get individual resources of this type");
        }
        if !request.subresource.is_empty() {
            return refused("cannot get subresource");
        }
        self.related(node, what, request)
    }

    /// A list or a watch is of one object: the name that its field selector pins.
    fn read_namespaced(&self, node: &str, what: Related, verb: &str, request: &ResourceRequest<'_>) -> Verdict {
        if !matches!(verb, "get" | "list" | "watch") {
            return refused("can only read resources of this type");
        }
        if !request.subresource.is_empty() {
            return refused("cannot read subresource");
        }
        if request.namespace.is_empty() {
            return refused("can only read namespaced object of this type");
        }
        self.related(node, what, request)
    }

    fn account(&self, node: &str, verb: &str, request: &ResourceRequest<'_>) -> Verdict {
        if verb == "get" && request.subresource.is_empty() {
            return self.related(node, Related::ServiceAccount, request);
        }
        if verb != "create" || request.name.is_empty() {
            return refused("can only create tokens for individual service accounts");
        }
        if request.subresource != "token" {
            return refused("can only create token subresource of serviceaccount");
        }
        self.related(node, Related::ServiceAccount, request)
    }

    fn slice(&self, node: &str, verb: &str, request: &ResourceRequest<'_>) -> Verdict {
        if !request.subresource.is_empty() {
            return refused("cannot authorize ResourceSlice subresources");
        }
        match verb {
            "create" => allowed(),
            "get" | "update" | "patch" | "delete" => self.related(node, Related::Slice, request),
            "watch" | "list" | "deletecollection" if equal_to(request.fields, "nodeName") == Some(node) => allowed(),
            "watch" | "list" | "deletecollection" => {
                refused("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => refused(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, \
                 deletecollection",
            ),
        }
    }

    fn pod(&self, node: &str, verb: &str, request: &ResourceRequest<'_>) -> Verdict {
        match (request.subresource, verb) {
            ("", "get") => self.get(node, Related::Pod, verb, request),
            ("", "list" | "watch") if equal_to(request.fields, "spec.nodeName") == Some(node) => allowed(),
            ("", "list" | "watch") if !request.name.is_empty() => self.related(node, Related::Pod, request),
            ("", "list" | "watch") => refused("can only list/watch pods with spec.nodeName field selector"),
            // The restriction sees to it that these are the node's own pods.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => allowed(),
            _ => Verdict::none(),
        }
    }
}

fn own_node(node: &str, verb: &str, request: &ResourceRequest<'_>) -> Verdict {
    match (request.subresource, verb) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => allowed(),
        ("", "get" | "list" | "watch") if request.name == node => allowed(),
        ("", "get" | "list" | "watch") if request.name.is_empty() => {
            refused(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch") => {
            let other = request.name;
            refused(format!("node '{node}' cannot read '{other}', only its own Node object"))
        }
        _ => Verdict::none(),
    }
}

fn lease(node: &str, verb: &str, request: &ResourceRequest<'_>) -> Verdict {
    if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
        return refused("can only get, create, update, patch, or delete a node lease");
    }
    if request.namespace != "kube-node-lease" {
        return refused("can only access leases in the \"kube-node-lease\" system namespace");
    }
    // The name of a new object is in its body, where the restriction reads it.
    if verb != "create" && request.name != node {
        return refused("can only access node lease with the same name as the requesting node");
    }
    allowed()
}

fn csi_node(node: &str, verb: &str, request: &ResourceRequest<'_>) -> Verdict {
    if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
        return refused("can only get, create, update, patch, or delete a CSINode");
    }
    if !request.subresource.is_empty() {
        return refused("cannot authorize CSINode subresources");
    }
    if verb != "create" && request.name != node {
        return refused("can only access CSINode with the same name as the requesting node");
    }
    allowed()
}
