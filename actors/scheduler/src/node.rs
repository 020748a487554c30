//! Owns what scheduling knows of one node: what it offers, what its pods take. Called by the cluster state (which
//! alone changes it) and read by the plugins. It must never decide anything.

use crate::cluster::PodId;
use crate::intern::{Sym, Symbols};
use crate::pod::{HostPort, PodSignature, normalized_image, read_labels, read_resources};
use crate::quantity;
use crate::resources::Resources;
use crate::selector::{Labels, Taint};
use crate::volumes::VolumeUse;
use k8s_openapi::api::core::v1 as core;
use std::sync::Arc;

/// What the API says of a node, as far as scheduling reads it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NodeReading {
    /// Labels.
    pub labels: Labels,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// Taints.
    pub taints: Vec<Taint>,
    /// Resources that pods may take.
    pub allocatable: Resources,
    /// Number of pods that it may run.
    pub pods_max: i64,
    /// Images that it has, with their size in bytes (sorted by name).
    pub images: Vec<(Sym, i64)>,
}

/// A node: what it offers and what is taken.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: Sym,
    /// Whether the API knows it. A node that is only known by the pods bound to it is absent.
    pub present: bool,
    /// What the API says of it.
    pub reading: Arc<NodeReading>,
    /// The sum of its pods' requests.
    pub requested: Resources,
    /// The sum of its pods' milli-cpu as scoring sees it.
    pub scored_cpu_milli: i64,
    /// The sum of its pods' memory as scoring sees it.
    pub scored_memory_bytes: i64,
    /// Its pods, in no particular order.
    pub pods: Vec<PodId>,
    /// Host ports in use, one entry a use.
    pub host_ports: Vec<HostPort>,
    /// How often its pods use a claim: no more volumes than that are attached for claims.
    pub claims_used: usize,
    /// Pods that preemption nominated for it and that are not bound.
    pub nominated: Vec<PodId>,
}

impl Node {
    /// A node of which only the name is known.
    pub fn absent(name: Sym) -> Self {
        Self {
            name,
            present: false,
            reading: Arc::default(),
            requested: Resources::default(),
            scored_cpu_milli: 0,
            scored_memory_bytes: 0,
            pods: Vec::new(),
            host_ports: Vec::new(),
            claims_used: 0,
            nominated: Vec::new(),
        }
    }

    /// Accounts for a pod.
    pub fn add(&mut self, pod: PodId, signature: &PodSignature) {
        self.pods.push(pod);
        self.requested.add(&signature.requests);
        self.scored_cpu_milli += signature.scored_cpu_milli;
        self.scored_memory_bytes += signature.scored_memory_bytes;
        self.host_ports.extend_from_slice(&signature.host_ports);
        self.claims_used += claims_used(signature);
    }

    /// Releases what a pod took.
    pub fn remove(&mut self, pod: PodId, signature: &PodSignature) {
        let Some(at) = self.pods.iter().position(|other| *other == pod) else {
            return;
        };
        self.pods.swap_remove(at);
        self.requested.subtract(&signature.requests);
        self.scored_cpu_milli -= signature.scored_cpu_milli;
        self.scored_memory_bytes -= signature.scored_memory_bytes;
        self.claims_used -= claims_used(signature);
        for port in &signature.host_ports {
            if let Some(at) = self.host_ports.iter().position(|other| other == port) {
                self.host_ports.swap_remove(at);
            }
        }
    }
}

fn claims_used(signature: &PodSignature) -> usize {
    let claims = signature
        .volumes
        .iter()
        .filter(|used| matches!(used, VolumeUse::Claim(_)));
    claims.count()
}

/// Reads an API object.
pub fn read_node(symbols: &mut Symbols, node: &core::Node) -> NodeReading {
    let spec = node.spec.as_ref();
    let status = node.status.as_ref();
    let allocatable = status.and_then(|s| s.allocatable.as_ref());
    let mut images: Vec<(Sym, i64)> = Vec::new();
    for image in status.and_then(|s| s.images.as_ref()).into_iter().flatten() {
        for name in image.names.iter().flatten() {
            images.push((symbols.intern(&normalized_image(name)), image.size_bytes.unwrap_or(0)));
        }
    }
    images.sort_unstable();
    images.dedup_by_key(|(name, _)| *name);
    let taints = spec.and_then(|s| s.taints.as_ref()).into_iter().flatten();
    NodeReading {
        labels: read_labels(symbols, node.metadata.labels.as_ref()),
        unschedulable: spec.and_then(|s| s.unschedulable) == Some(true),
        taints: taints.map(|taint| Taint::parse(symbols, taint)).collect(),
        allocatable: read_resources(symbols, allocatable.into_iter().flatten()),
        pods_max: allocatable
            .and_then(|a| a.get("pods"))
            .and_then(|q| quantity::whole(&q.0))
            .unwrap_or(0),
        images,
    }
}
