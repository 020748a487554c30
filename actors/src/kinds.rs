//! The table of the control plane's kinds: which deciding part an object's actor gets. A kind joins the cluster, and the
//! simulation, by one line here and its routes in `router::index`.

use std::sync::Arc;

use protocol::Key;

use crate::addresses::Ipv4Range;
use crate::collection::Collection;
use crate::deployment::Deployment;
use crate::disruption::DisruptionBudget;
use crate::kind::{ObjectKind, Role, Slot};
use crate::namespace::Namespace;
use crate::node::brake::{self, EvictionBrake};
use crate::node::pod_cidrs::{self, PodCidrs};
use crate::node::{Node, NodeSettings};
use crate::pod::Pod;
use crate::quota::ResourceQuota;
use crate::replica_set::ReplicaSet;
use crate::reviewing::SharedReviewer;
use crate::router::index::{BUDGETS, DEPLOYMENTS, ENDPOINTS, NAMESPACES, NODES, PODS, QUOTAS, REPLICA_SETS, SERVICES};
use crate::service::Service;
use crate::service::leftover::Leftover;

/// What the kinds are told about the cluster.
#[derive(Clone, Debug)]
pub struct KindSettings {
    /// The range that is cut into the nodes' pod ranges.
    pub cluster_cidr: Ipv4Range,
    /// The length of a node's prefix.
    pub node_prefix: u8,
    /// For nodes.
    pub node: NodeSettings,
    /// The certificate of the cluster's CA, PEM, which every namespace has; without one, namespaces are left as they are.
    pub cluster_ca: Option<Arc<str>>,
    /// Who judges new objects beside the built-in admission plugins.
    pub reviewer: Option<SharedReviewer>,
}

/// The actors that see all nodes. They have no object of a kind of their own, and are always there.
pub(crate) fn about_all_nodes() -> [Key; 2] {
    [pod_cidrs::key(), brake::key()]
}

/// Whether a key is that of an actor that sees all nodes.
pub(crate) fn is_about_all_nodes(key: &Key) -> bool {
    about_all_nodes().contains(key)
}

/// A deciding part that knows nothing so far, and the name of its kind for the shell. `None` for objects that have no
/// actor of their own.
pub fn make(slot: &Slot, settings: &KindSettings) -> Option<Box<dyn ObjectKind>> {
    let key = slot.key.clone();
    if slot.role == Role::Collector {
        return Some(Box::new(Collection::new(key)));
    }
    Some(match key.resource.as_str() {
        DEPLOYMENTS => Box::new(Deployment::new(key)),
        REPLICA_SETS => Box::new(ReplicaSet::new(key)),
        PODS => Box::new(Pod::new(key)),
        NODES => Box::new(Node::new(key, settings.node.clone())),
        SERVICES => Box::new(Service::new(key)),
        BUDGETS => Box::new(DisruptionBudget::new(key)),
        ENDPOINTS => Box::new(Leftover::new(key)),
        NAMESPACES => Box::new(Namespace::new(key, settings.cluster_ca.clone())),
        QUOTAS => Box::new(ResourceQuota::new(key)),
        _ if key == pod_cidrs::key() => Box::new(PodCidrs::new(settings.cluster_cidr, settings.node_prefix)),
        _ if key == brake::key() => Box::new(EvictionBrake::new(settings.node.clone())),
        _ => return None,
    })
}

/// What the shell calls the actor of a slot.
pub fn name(slot: &Slot) -> &'static str {
    if slot.role == Role::Collector {
        return "collector";
    }
    match slot.key.resource.as_str() {
        DEPLOYMENTS => "deployment",
        REPLICA_SETS => "replicaset",
        PODS => "pod",
        NODES => "node",
        SERVICES => "service",
        BUDGETS => "poddisruptionbudget",
        ENDPOINTS => "endpoints",
        NAMESPACES => "namespace",
        QUOTAS => "resourcequota",
        _ if slot.key == pod_cidrs::key() => "pod-cidrs",
        _ if slot.key == brake::key() => "node-evictions",
        _ => "object",
    }
}
