//! Owns what the scheduler answers. Called by the scheduler actor, which carries decisions out: it writes bindings and
//! conditions to the store and evicts victims. It must say everything that this needs, in names rather than numbers.

use crate::diagnosis::Diagnosis;
use crate::pod::PodKey;
use serde_json::Value;
use std::sync::Arc;

/// What was decided for a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Bind it.
    Bind(Binding),
    /// It fits nowhere now.
    Unschedulable(Unschedulable),
}

impl Decision {
    /// The pod that was decided for.
    pub fn pod(&self) -> &PodKey {
        match self {
            Self::Bind(binding) => &binding.pod,
            Self::Unschedulable(unschedulable) => &unschedulable.pod,
        }
    }
}

/// A pod and the node for it. The scheduler already accounts for it: say `forget` if the store refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The pod.
    pub pod: PodKey,
    /// Its uid, to bind exactly this one; empty if unknown.
    pub uid: Box<str>,
    /// The node's name.
    pub node: Arc<str>,
    /// The node's weighted score.
    pub score: i64,
    /// Number of nodes among which it was the best.
    pub feasible_nodes: usize,
    /// The pod group with which it must be bound together (`namespace/name`): all of a round's bindings of one group
    /// belong into one proposal.
    pub group: Option<Arc<str>>,
    /// What must be done, and be done with, before the pod is bound.
    pub pre_bind: Vec<PreBind>,
    /// How it is bound.
    pub method: BindMethod,
}

/// How a pod is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindMethod {
    /// Its `spec.nodeName` is written.
    NodeName,
    /// Its `spec.nodeName` is written together with this JSON merge patch (RFC 7386) of the pod.
    Patch(Arc<Value>),
    /// Somebody else binds it, whom this names; nothing is written. The pod is accounted for until the store shows it bound, or
    /// `Scheduler::forget` is told that it will not be.
    Elsewhere(Arc<str>),
}

/// What must be done before a pod is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PreBind {
    /// Bind a claim to a volume (set the volume's `claimRef`), and wait until the claim is bound.
    BindVolume {
        /// The claim, `namespace/name`.
        claim: Arc<str>,
        /// The volume's name.
        volume: Arc<str>,
    },
    /// Have a volume made for a claim (set its annotation `volume.kubernetes.io/selected-node`), and wait until the claim is
    /// bound.
    ProvisionVolume {
        /// The claim, `namespace/name`.
        claim: Arc<str>,
        /// The node's name.
        node: Arc<str>,
    },
    /// Write another object. All patches of a binding belong into the proposal that binds the pod.
    Patch(ObjectPatch),
}

/// A JSON merge patch (RFC 7386) of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectPatch {
    /// The resource by which the store knows the kind: `nodes`, `resourceclaims.resource.k8s.io`.
    pub resource: Arc<str>,
    /// The namespace, empty for objects of the cluster.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
    /// The patch.
    pub patch: Value,
}

/// Why a pod was not placed, and what was done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unschedulable {
    /// The pod.
    pub pod: PodKey,
    /// Its uid; empty if unknown.
    pub uid: Box<str>,
    /// The evidence by plugin.
    pub diagnosis: Arc<Diagnosis>,
    /// Whether room is being made.
    pub preemption: Preemption,
}

/// Whether room is being made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preemption {
    /// No plugin tried.
    NotTried,
    /// It was tried in vain; the words are kube-scheduler's.
    Failed(Arc<str>),
    /// Evict the victims, and set `status.nominatedNodeName`; the pod is tried again when they are gone.
    Nominated {
        /// The node's name.
        node: Arc<str>,
        /// The pods to evict.
        victims: Vec<PodKey>,
    },
}

impl Unschedulable {
    /// The message for the pod's `PodScheduled` condition and its FailedScheduling event, in kube-scheduler's words.
    pub fn message(&self) -> String {
        let mut message = self.diagnosis.message();
        if let Preemption::Failed(words) = &self.preemption {
            message.push_str(&format!(" preemption: {words}"));
        }
        message
    }
}
