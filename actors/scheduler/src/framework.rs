//! Owns the contract between the scheduler and its plugins, with Kubernetes' extension points. Called by the
//! `Scheduler`; implemented by every file in `plugins/` and by third parties. It must stay free of any one plugin's
//! knowledge.
//!
//! A plugin is asked once for each pod signature (`Plugin::compile`, the static part of PreFilter and PreScore) and
//! answers with a `Rule`, which then filters and scores nodes. A rule says how far its answers reach (`Reach`):
//!
//! - `Node`: the answer reads only the node itself (and the signature). It changes only when that node does.
//! - `Site`: the answer reads a few numbers that the rule derives from a node (its *site*: a domain, a count) and
//!   state that all nodes share (counts by domain). Nodes with equal sites get equal answers, so the scheduler asks once
//!   for each distinct site rather than for each node.
//! - `Cluster`: the answer may read anything. Always right, never indexed; the default of a third party's rule.
//!
//! With `Node` and `Site` rules only, the scheduler keeps an index by class of pods, and a pod costs O(sites + nodes / 64).
//!
//! The extension points, in the order in which a pod meets them, and where they are here:
//!
//! | Kubernetes | here |
//! |---|---|
//! | PreEnqueue | `Plugin::holds_back` |
//! | QueueSort | `Plugin::queue_key` |
//! | EventsToRegister, queueing hints | `Plugin::hears`, `Plugin::may_help` |
//! | PreFilter | `Plugin::compile`: `Compiled::Refuse`, `Compiled::Skip`, `Rule::only_nodes` |
//! | Filter | `Rule::filter_node`, `Rule::filter_site` |
//! | PostFilter | `Plugin::post_filter` |
//! | PreScore | `Plugin::compile`, `Rule::pre_score` |
//! | Score, NormalizeScore | `Rule::score_node`, `Rule::score_site`, `Rule::normalize` |
//! | Reserve, Unreserve | `Plugin::reserve`, `Plugin::unreserve` |
//! | Permit | `Plugin::permit` |
//! | PreBind | `Plugin::pre_bind` |
//! | Bind | `Plugin::bind` |
//! | PostBind | `Plugin::post_bind` |
//!
//! # How to write a plugin
//!
//! A plugin is a type with a name; every extension point has a default that does nothing. It goes into a profile with
//! `Profile::with`, or into a `kube_configuration::Registry` under its name, and is then enabled, disabled, weighed and given
//! arguments by a KubeSchedulerConfiguration like the plugins of this crate. Nothing in this crate has to be touched.
//!
//! ```
//! use scheduler::cluster::{ClassId, Cluster};
//! use scheduler::diagnosis::Reason;
//! use scheduler::framework::{Compiled, Context, Plugin, Reach, Reads, Reasons, Rule, Verdict};
//! use scheduler::node::Node;
//! use scheduler::pod::PodSignature;
//! use scheduler::{Profile, Scheduler, SchedulerConfiguration};
//!
//! /// At most so many pods on a node, and rather a node with few.
//! struct Quiet { pods_max: usize }
//!
//! impl Plugin for Quiet {
//!     fn name(&self) -> &'static str { "Quiet" }
//!     // It looks at no pod's labels, so pods that differ by these are decided together.
//!     fn reads(&self, _: &Cluster, _: &PodSignature) -> Reads { Reads::NOTHING }
//!     // Asked once for all pods of a kind.
//!     fn compile(&self, _: &mut Cluster, _: ClassId, _: &PodSignature) -> Compiled {
//!         Compiled::Rule(Box::new(QuietRule(self.pods_max)))
//!     }
//! }
//!
//! struct QuietRule(usize);
//!
//! impl Rule for QuietRule {
//!     // Only the node itself is read: the answer is indexed. A rule that reads anything else says `Reach::Cluster`.
//!     fn filters(&self) -> Reach { Reach::Node }
//!     fn scores(&self) -> Reach { Reach::Node }
//!     fn filter_node(&self, _: &Context<'_>, node: &Node, reasons: &mut Reasons) -> Verdict {
//!         if node.pods.len() < self.0 {
//!             return Verdict::Fits;
//!         }
//!         reasons.say(Reason::Text("node(s) were not quiet"));
//!         Verdict::Refused
//!     }
//!     fn score_node(&self, _: &Context<'_>, node: &Node) -> i64 {
//!         100 - (node.pods.len() * 100 / self.0) as i64
//!     }
//! }
//!
//! let profile = Profile::with_default_plugins("default-scheduler").with(Quiet { pods_max: 10 }, 5);
//! let scheduler = Scheduler::new(SchedulerConfiguration { profiles: vec![profile], ..Default::default() });
//! ```
//!
//! Three promises make a plugin fast, and wrong if they are broken: what a rule reads (`Reach`), what `compile` reads of a pod's
//! identity (`Plugin::reads`), and which events can help a pod that the plugin refused (`Plugin::hears`, `Plugin::may_help`). Each
//! has a default that is always right. A plugin reads no clock and draws no random number: the same calls give the same answers.
//!
//! What Kubernetes' PreBind and Bind plugins do to the world, plugins here say (`PreBind`, `BindMethod`), and whoever carries
//! the decision out does it: the crate stays pure, and a decision can be replayed.

use crate::cluster::{ClassId, Cluster, NodeId, PodId};
use crate::cycle::{CompiledClass, Cycle};
use crate::decision::{BindMethod, PreBind};
use crate::diagnosis::Reason;
use crate::intern::Sym;
use crate::node::{Node, NodeReading};
use crate::permit::{Permission, WaitingPods};
use crate::pod::{PodMatcher, PodSignature};
use std::any::Any;
use std::sync::Arc;

/// The largest score that a plugin gives a node, after normalisation.
pub const MAX_NODE_SCORE: i64 = 100;

/// What rules read.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// The class of the pod that is being placed.
    pub class: ClassId,
    /// Its signature.
    pub signature: &'a PodSignature,
    /// The pod itself, so that its own nomination is not counted against it; `None` for questions about a class.
    pub pod: Option<PodId>,
}

impl<'a> Context<'a> {
    /// The pods that preemption nominated for a node and that go before this one: their place counts as taken.
    pub fn nominated_before(&self, node: &'a Node) -> impl Iterator<Item = &'a Arc<PodSignature>> {
        let cx = *self;
        node.nominated
            .iter()
            .filter(move |other| Some(**other) != cx.pod)
            .map(move |other| cx.cluster.signature(*other))
            .filter(move |other| other.priority >= cx.signature.priority)
    }
}

/// How far the answers of a rule reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The rule has no such answers.
    None,
    /// They read the node.
    Node,
    /// They read the node's site.
    Site,
    /// They read anything.
    Cluster,
}

/// What a filter says of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The pod may go there.
    Fits,
    /// It may not, but it might if other pods left (Kubernetes: Unschedulable).
    Refused,
    /// It may not, whoever leaves (Kubernetes: UnschedulableAndUnresolvable).
    NeverFits,
}

/// Where filters put their reasons.
#[derive(Clone, Debug, Default)]
pub struct Reasons {
    /// What was said, in order.
    pub said: Vec<Reason>,
    /// Nobody listens: the caller wants the verdict only.
    pub muted: bool,
}

impl Reasons {
    /// Says a reason.
    pub fn say(&mut self, reason: Reason) {
        if !self.muted {
            self.said.push(reason);
        }
    }
}

/// The site of a node: numbers that stand for everything that a `Site` rule reads of it.
pub type Site = Vec<i64>;

/// The sites among which `pre_score` looks: each with the number of feasible nodes that share it.
pub type Sites<'a> = [(&'a [i64], u32)];

/// What a plugin has to say about pods of one signature.
pub trait Rule: Send + Sync {
    /// How far `filter_node` (Node, Cluster) or `filter_site` (Site) reaches.
    fn filters(&self) -> Reach {
        Reach::None
    }

    /// How far `score_node` (Node, Cluster) or `score_site` (Site) reaches.
    fn scores(&self) -> Reach {
        Reach::None
    }

    /// The only nodes that need to be looked at (PreFilter's result); `None` for all.
    fn only_nodes(&self) -> Option<&[Sym]> {
        None
    }

    /// Filter, for rules that read the node.
    fn filter_node(&self, _cx: &Context<'_>, _node: &Node, _reasons: &mut Reasons) -> Verdict {
        Verdict::Fits
    }

    /// Score, for rules that read the node. `Node` scores are final, from 0 to 100; `Cluster` scores are normalised.
    fn score_node(&self, _cx: &Context<'_>, _node: &Node) -> i64 {
        0
    }

    /// Appends the node's site. Every call for one class, between two changes of the layout, appends equally many numbers.
    fn site(&self, _cx: &Context<'_>, _id: NodeId, _node: &Node, _site: &mut Site) {}

    /// Filter, for rules that read the site.
    fn filter_site(&self, _cx: &Context<'_>, _site: &[i64], _reasons: &mut Reasons) -> Verdict {
        Verdict::Fits
    }

    /// PreScore: looks at the sites of all feasible nodes and leaves what `score_site` needs in `scratch`.
    fn pre_score(&self, _cx: &Context<'_>, _sites: &Sites<'_>, _scratch: &mut Vec<f64>) {}

    /// Score, for rules that read the site: a raw score, or `None` for a node that takes no part in normalisation and
    /// ends with 0.
    fn score_site(&self, _cx: &Context<'_>, _site: &[i64], _scratch: &[f64]) -> Option<i64> {
        None
    }

    /// NormalizeScore: from a raw score and the least and greatest raw scores to 0..100.
    fn normalize(&self, raw: i64, _least: i64, _greatest: i64) -> i64 {
        raw
    }

    /// Lets go of the counters that `compile` held.
    fn release(&self, _cluster: &mut Cluster) {}
}

/// Kubernetes' DefaultNormalizeScore: in proportion to the greatest, reversed if a small raw score is good.
pub fn default_normalize(raw: i64, greatest: i64, reverse: bool) -> i64 {
    if greatest == 0 {
        return if reverse { MAX_NODE_SCORE } else { 0 };
    }
    let score = raw * MAX_NODE_SCORE / greatest;
    if reverse { MAX_NODE_SCORE - score } else { score }
}

/// What `Plugin::compile` reads of a pod's identity: its namespace, labels, controller and group. Everything else of the
/// signature may be read freely.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reads {
    /// It may read anything; pods that differ in any of these are not decided together.
    Everything,
    /// Only through these facts; pods with equal facts are decided together.
    Facts(Vec<bool>),
    /// Only through the pods that this matcher selects.
    Matcher(PodMatcher),
}

impl Reads {
    /// It reads nothing of them.
    pub const NOTHING: Self = Self::Facts(Vec::new());
}

/// What `compile` answers.
pub enum Compiled {
    /// The plugin has nothing to say about these pods.
    Skip,
    /// It has.
    Rule(Box<dyn Rule>),
    /// PreFilter refuses these pods on every node, with this message.
    Refuse(String),
}

/// Something that happened and that may make a waiting pod schedulable.
#[derive(Clone, Copy, Debug)]
pub enum ClusterEvent<'a> {
    /// A node was added, or became known after its pods.
    NodeAdded(&'a Node),
    /// A node was changed.
    NodeChanged {
        /// As it was.
        before: &'a NodeReading,
        /// As it is.
        node: &'a Node,
    },
    /// A node was removed.
    NodeRemoved,
    /// A pod came to a node.
    PodPlaced(&'a PodSignature),
    /// A pod left a node.
    PodLifted(&'a PodSignature),
    /// A pod on a node changed its signature, or began to be deleted.
    PodChanged {
        /// As it was.
        before: &'a PodSignature,
        /// As it is.
        after: &'a PodSignature,
    },
    /// The labels of a namespace changed.
    NamespaceChanged,
    /// A pod group came or changed.
    GroupChanged(Sym),
    /// A volume, a claim, a storage class or the limits of a node's driver came, changed or went.
    VolumesChanged,
    /// A device class, devices, or a ResourceClaim came, changed or went.
    DevicesChanged,
}

/// Kinds of events, as a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventKinds(u16);

impl EventKinds {
    /// None.
    pub const NONE: Self = Self(0);
    /// `NodeAdded` and `NodeChanged`.
    pub const NODES: Self = Self(1);
    /// `NodeRemoved`.
    pub const NODE_REMOVED: Self = Self(2);
    /// `PodPlaced`.
    pub const POD_PLACED: Self = Self(4);
    /// `PodLifted`.
    pub const POD_LIFTED: Self = Self(8);
    /// `PodChanged`.
    pub const POD_CHANGED: Self = Self(16);
    /// `NamespaceChanged`.
    pub const NAMESPACES: Self = Self(32);
    /// `GroupChanged`.
    pub const GROUPS: Self = Self(64);
    /// `VolumesChanged`.
    pub const VOLUMES: Self = Self(128);
    /// `DevicesChanged`.
    pub const DEVICES: Self = Self(256);
    /// All, also those of later versions.
    pub const ALL: Self = Self(u16::MAX);

    /// Both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether they have one in common.
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl ClusterEvent<'_> {
    /// Its kind.
    pub fn kind(&self) -> EventKinds {
        match self {
            Self::NodeAdded(_) | Self::NodeChanged { .. } => EventKinds::NODES,
            Self::NodeRemoved => EventKinds::NODE_REMOVED,
            Self::PodPlaced(_) => EventKinds::POD_PLACED,
            Self::PodLifted(_) => EventKinds::POD_LIFTED,
            Self::PodChanged { .. } => EventKinds::POD_CHANGED,
            Self::NamespaceChanged => EventKinds::NAMESPACES,
            Self::GroupChanged(_) => EventKinds::GROUPS,
            Self::VolumesChanged => EventKinds::VOLUMES,
            Self::DevicesChanged => EventKinds::DEVICES,
        }
    }
}

/// The place of a pod in the active queue: the least goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueKey(pub i64, pub u64);

/// A set of extension points, by which a profile enables a plugin at some of them only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtensionPoints(u16);

impl ExtensionPoints {
    /// None.
    pub const NONE: Self = Self(0);
    /// PreEnqueue.
    pub const PRE_ENQUEUE: Self = Self(1);
    /// QueueSort.
    pub const QUEUE_SORT: Self = Self(2);
    /// PreFilter.
    pub const PRE_FILTER: Self = Self(4);
    /// Filter.
    pub const FILTER: Self = Self(8);
    /// PostFilter.
    pub const POST_FILTER: Self = Self(16);
    /// PreScore.
    pub const PRE_SCORE: Self = Self(32);
    /// Score.
    pub const SCORE: Self = Self(64);
    /// Reserve.
    pub const RESERVE: Self = Self(128);
    /// Permit.
    pub const PERMIT: Self = Self(256);
    /// PreBind.
    pub const PRE_BIND: Self = Self(512);
    /// Bind.
    pub const BIND: Self = Self(1024);
    /// PostBind.
    pub const POST_BIND: Self = Self(2048);
    /// All (MultiPoint).
    pub const ALL: Self = Self(4095);

    /// Both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These without the others.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether they have one in common.
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// A pod and the node that was chosen for it, for the extension points after the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The pod. It is accounted for on the node.
    pub pod: PodId,
    /// The node.
    pub node: NodeId,
    /// The time (milliseconds, the scheduler's clock).
    pub now_ms: u64,
}

/// What PostFilter achieved for a pod that fits nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostFilterOutcome {
    /// The plugin does not take part.
    Skipped,
    /// Nothing could be done; the message says why. A nomination is taken back.
    Failed(String),
    /// Nothing needs to be done now; the message says why. A nomination stays.
    Waiting(String),
    /// The pod will fit on this node when the victims are gone.
    Nominated {
        /// The node.
        node: NodeId,
        /// The pods to evict, the least important last.
        victims: Vec<PodId>,
    },
}

/// A pod that fits nowhere, for PostFilter.
pub struct Unplaced<'a> {
    /// The pod.
    pub pod: PodId,
    /// Its class.
    pub class: ClassId,
    /// Its signature.
    pub signature: Arc<PodSignature>,
    /// The rules of its class.
    pub rules: &'a CompiledClass,
    /// The time (milliseconds, the scheduler's clock).
    pub now_ms: u64,
    /// A number from the seed, for choices that do not matter.
    pub chance: u64,
    /// Whether what is kept in `Memory` pays off: the pods of this plan are indexed, and this one is like any other.
    pub may_remember: bool,
}

impl Unplaced<'_> {
    /// The pod in front of the nodes.
    pub fn cycle<'a>(&'a self, cluster: &'a Cluster) -> Cycle<'a> {
        Cycle::new(cluster, self.class, Some(self.pod), self.rules)
    }

    /// The nodes where it might fit if other pods left, in the order of node places.
    pub fn candidates(&self, cluster: &Cluster) -> Vec<NodeId> {
        self.cycle(cluster).refused_nodes()
    }
}

/// What a PostFilter plugin keeps from one pod to the next that is decided alike. It is dropped at any time.
pub type Memory = Option<Box<dyn Any + Send>>;

/// A plugin. One file and one registration (`Profile::plugins`) make a new one.
pub trait Plugin: Send + Sync {
    /// Its name, as in a KubeSchedulerConfiguration.
    fn name(&self) -> &'static str;

    /// PreEnqueue: why a pod with these gates must not be queued yet, if it must not.
    fn holds_back(&self, _gates: &[Box<str>]) -> Option<String> {
        None
    }

    /// QueueSort: the place of a pod that entered the queue as the `entered`th; `None` if the plugin does not sort.
    fn queue_key(&self, _signature: &PodSignature, _entered: u64) -> Option<QueueKey> {
        None
    }

    /// What `compile` reads of a pod's identity.
    fn reads(&self, _cluster: &Cluster, _signature: &PodSignature) -> Reads {
        Reads::Everything
    }

    /// PreFilter and PreScore, as far as they depend on the signature and on the terms of other pods about the class only.
    /// The class stands for all that share its signature and these terms.
    fn compile(&self, _cluster: &mut Cluster, _class: ClassId, _signature: &PodSignature) -> Compiled {
        Compiled::Skip
    }

    /// EventsToRegister: the kinds of events for which `may_help` is asked.
    fn hears(&self) -> EventKinds {
        EventKinds::ALL
    }

    /// Queueing hint: whether an event may make pods of a signature schedulable that this plugin refused.
    fn may_help(&self, _cluster: &Cluster, _event: &ClusterEvent<'_>, _signature: &PodSignature) -> bool {
        true
    }

    /// Reserve: a node was chosen for a pod, and the pod is accounted for there. Changes of the state that go with it. The error
    /// is the reason for which the pod cannot go there after all: then all plugins unreserve.
    fn reserve(&self, _cluster: &mut Cluster, _assignment: Assignment) -> Result<(), String> {
        Ok(())
    }

    /// Unreserve: the pod will not be bound there after all, or is gone. Called in the reverse order of Reserve, also for plugins
    /// that reserved nothing, so it must not mind being called for nothing.
    fn unreserve(&self, _cluster: &mut Cluster, _pod: PodId) {}

    /// Permit: the last word before binding. A pod that waits keeps its place; this or any later call, and
    /// `Scheduler::allow_waiting`, can let it go on, and `Scheduler::reject_waiting` can send it back. After the timeout it is
    /// sent back by itself.
    fn permit(&self, _cluster: &Cluster, _assignment: Assignment, _waiting: &mut WaitingPods) -> Permission {
        Permission::Approve
    }

    /// PreBind: what must be done before the pod is bound. The error is the reason for which it cannot be bound.
    fn pre_bind(&self, _cluster: &Cluster, _assignment: Assignment) -> Result<Vec<PreBind>, String> {
        Ok(Vec::new())
    }

    /// Bind: how the pod is bound; `None` leaves it to the next plugin.
    fn bind(&self, _cluster: &Cluster, _assignment: Assignment) -> Option<BindMethod> {
        None
    }

    /// PostBind: the store has confirmed the binding.
    fn post_bind(&self, _cluster: &Cluster, _assignment: Assignment) {}

    /// PostFilter: makes room. It may move pods in the state to try things out, and must put them back.
    fn post_filter(&self, _cluster: &mut Cluster, _unplaced: &Unplaced<'_>, _memory: &mut Memory) -> PostFilterOutcome {
        PostFilterOutcome::Skipped
    }
}
