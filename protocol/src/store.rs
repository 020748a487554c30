//! What is said to the store: proposals (atomic groups of compare-and-set writes), reads, consistent paged lists and
//! watches; and `ObjectStore`, the trait through which every part of the system speaks to it. Implemented by the
//! consensus client in `cluster` (in process on the leader, over the mesh elsewhere) and by an in-memory store in
//! `store` for tests and the simulation.

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bincode::{Decode, Encode};
use futures::Stream;

use crate::selector::{FieldSelector, LabelSelector};
use crate::{Cause, Draft, Key, Object, Resource, Revision};

/// What must hold for a write to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Precondition {
    /// Nothing: the write replaces whatever is there.
    None,
    /// The object does not exist: a create.
    Absent,
    /// The object exists and its last write is this revision: an update or a delete that read it before.
    Revision(Revision),
}

/// One compare-and-set write.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Write {
    /// Creates or replaces.
    Put {
        /// What is written.
        key: Key,
        /// What must hold.
        precondition: Precondition,
        /// The new content.
        draft: Draft,
    },
    /// Removes. `Precondition::Absent` makes no sense here and is refused.
    Delete {
        /// What is removed.
        key: Key,
        /// What must hold. Removing what does not exist is refused, also with `None`.
        precondition: Precondition,
    },
}

impl Write {
    /// The key that it writes.
    pub fn key(&self) -> &Key {
        match self {
            Write::Put { key, .. } | Write::Delete { key, .. } => key,
        }
    }
}

/// Writes that are applied together or not at all. Each takes one revision, in order.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Proposal {
    /// What set it in motion.
    pub cause: Cause,
    /// At least one. A key occurs at most once.
    pub writes: Vec<Write>,
}

impl Proposal {
    /// A proposal of one write.
    pub fn one(cause: Cause, write: Write) -> Proposal {
        Proposal {
            cause,
            writes: vec![write],
        }
    }
}

/// Why a proposal was not applied: the first write whose precondition did not hold. An expected answer, not a failure.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
pub enum Refusal {
    /// A create of what exists.
    #[error("{key} already exists at revision {actual}")]
    AlreadyExists {
        /// The object.
        key: Key,
        /// Its revision.
        actual: Revision,
    },
    /// An update or delete of what does not exist.
    #[error("{key} does not exist")]
    NotFound {
        /// The object.
        key: Key,
    },
    /// It was written since the proposer read it.
    #[error("{key} is at revision {actual}, not {expected}")]
    Conflict {
        /// The object.
        key: Key,
        /// The revision that the proposer read.
        expected: Revision,
        /// Its revision now.
        actual: Revision,
    },
    /// The proposal contradicts itself.
    #[error("malformed proposal: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
}

/// What a committed proposal did.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Committed {
    /// The revision of each write, in the order of the proposal. A put that changes nothing keeps the old revision and
    /// makes no event.
    pub revisions: Vec<Revision>,
}

/// Why a proposal has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
pub enum ProposeError {
    /// A precondition did not hold; nothing was written.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No leader is known; nothing was written. Try again in a moment.
    #[error("the cluster has no leader at present ({reason}): less than half of the voters answer")]
    NoLeader {
        /// What was seen.
        reason: String,
    },
    /// The outcome is unknown: the proposal may or may not have been applied.
    #[error("no answer from the leader within {deadline_ms} ms: the write may or may not have been applied")]
    Unknown {
        /// How long was waited, in milliseconds.
        deadline_ms: u64,
    },
    /// The leader's disk takes no more writes; nothing was written.
    #[error("the store takes no writes: {reason}")]
    Storage {
        /// What the disk said, and what to do.
        reason: String,
    },
    /// The proposal is larger than the limit.
    #[error("the proposal has {bytes} bytes, more than the {bytes_max} that fit")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
}

/// Why a read has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
pub enum ReadError {
    /// History before `compacted` is gone: HTTP 410 Gone, reason Expired.
    #[error("revision {requested} is compacted; the oldest kept is {compacted}")]
    Compacted {
        /// The revision asked for.
        requested: Revision,
        /// The oldest that can be read.
        compacted: Revision,
    },
    /// A revision that does not exist as yet.
    #[error("revision {requested} lies ahead of the store's {current}")]
    Ahead {
        /// The revision asked for.
        requested: Revision,
        /// The store's revision.
        current: Revision,
    },
    /// No leader, or it did not answer in time.
    #[error("the store does not answer: {reason}")]
    Unavailable {
        /// What was seen.
        reason: String,
    },
    /// The disk failed, or its content is damaged.
    #[error("the store cannot be read: {reason}")]
    Storage {
        /// What the disk said.
        reason: String,
    },
}

/// A list of one resource. Answers are ordered by key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ListRequest {
    /// The resource.
    pub resource: Resource,
    /// One namespace; `None` for all, and for cluster-scoped resources.
    pub namespace: Option<Arc<str>>,
    /// Which labels.
    pub labels: LabelSelector,
    /// Which fields.
    pub fields: FieldSelector,
    /// At most so many objects; zero for no bound.
    pub limit: usize,
    /// Continue after this key.
    pub after: Option<Key>,
    /// As of this revision; `None` for now.
    pub at: Option<Revision>,
}

impl ListRequest {
    /// All objects of a resource, as of now.
    pub fn all(resource: impl Into<Resource>) -> ListRequest {
        ListRequest {
            resource: resource.into(),
            namespace: None,
            labels: LabelSelector::default(),
            fields: FieldSelector::default(),
            limit: 0,
            after: None,
            at: None,
        }
    }

    /// Restricts it to one namespace.
    #[must_use]
    pub fn in_namespace(mut self, namespace: impl Into<Arc<str>>) -> ListRequest {
        self.namespace = Some(namespace.into());
        self
    }
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ListPage {
    /// The objects with their keys.
    pub items: Vec<(Key, Arc<Object>)>,
    /// The revision as of which the list is consistent; pass it as `at` for the next page.
    pub revision: Revision,
    /// Whether more follow after the last item.
    pub more: bool,
    /// How many follow, when no selector hides the number.
    pub remaining: Option<u64>,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Change {
    /// It did not exist before.
    Created,
    /// It was replaced.
    Updated,
    /// It was removed.
    Deleted,
}

/// One applied write.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StoreEvent {
    /// Its revision.
    pub revision: Revision,
    /// What set it in motion.
    pub cause: Cause,
    /// What was written.
    pub key: Key,
    /// What happened.
    pub change: Change,
    /// The object after the write; for a removal the last content, its resourceVersion set to `revision`.
    pub object: Arc<Object>,
    /// The object before the write.
    pub previous: Option<Arc<Object>>,
}

/// What to watch. The store filters by resource and namespace only; whoever serves a client applies selectors, since a
/// selector turns an update into an appearance or a disappearance.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct WatchRequest {
    /// The resources; empty for all.
    pub resources: Vec<Resource>,
    /// One namespace; `None` for all.
    pub namespace: Option<Arc<str>>,
    /// Events after this revision; `None` for only what comes from now on.
    pub after: Option<Revision>,
}

/// What a watch yields.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum WatchItem {
    /// A write.
    Event(Arc<StoreEvent>),
    /// Nothing that concerns this watch happened up to this revision. Sent at least every few seconds.
    Progress(Revision),
    /// The watcher was too slow, or its revision is compacted: it must list again. The last item of a stream.
    Lost(ReadError),
}

/// The items of a watch, in the order of revisions, without gaps. It ends when the store can no longer serve it, such
/// as when its node lost the leader; the watcher then opens another from the last revision that it saw.
pub type WatchStream = Pin<Box<dyn Stream<Item = WatchItem> + Send>>;

/// The store, as everyone sees it. Reads and lists without a revision are linearizable: they see every write that was
/// acknowledged before they were asked. Every call has a deadline of its own and never hangs.
#[async_trait]
pub trait ObjectStore: Send + Sync + 'static {
    /// Proposes one atomic group and waits until it is durable on a majority and applied.
    async fn propose(&self, proposal: Proposal) -> Result<Committed, ProposeError>;

    /// Proposes many groups that are independent of each other, in one round of consensus where possible. The answers
    /// are in the order of the proposals.
    async fn propose_all(&self, proposals: Vec<Proposal>) -> Vec<Result<Committed, ProposeError>>;

    /// Reads one object.
    async fn read(&self, key: &Key) -> Result<Option<Arc<Object>>, ReadError>;

    /// Lists one page.
    async fn list(&self, request: ListRequest) -> Result<ListPage, ReadError>;

    /// Opens a watch.
    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, ReadError>;

    /// The revision of the last applied write.
    async fn revision(&self) -> Result<Revision, ReadError>;
}
