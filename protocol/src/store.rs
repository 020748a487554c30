//! What is said to the store: proposals (atomic groups of compare-and-set writes), reads, consistent paged lists and
//! watches; and `ObjectStore`, the trait through which every part of the system speaks to it. Implemented by the
//! consensus client in `cluster` (in process on the leader, over the mesh elsewhere) and by an in-memory store in
//! `store` for tests and the simulation.

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bincode::{Decode, Encode};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, stream};

use crate::selector::{FieldRequirement, FieldSelector, LabelSelector};
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
    /// An object could not be brought into the version in which its kind is stored; nothing was written.
    #[error("{reason}")]
    Conversion {
        /// What the converting webhook said.
        reason: String,
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
    /// A stored object could not be brought into the version that was asked for.
    #[error("{reason}")]
    Conversion {
        /// What the converting webhook said.
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

/// A part of a list's bodies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bodies {
    /// The JSON of objects as the API serves them, with commas between them, and one before all but the list's first.
    pub joined: Bytes,
    /// How many objects these are.
    pub objects: u64,
}

/// The bodies of a whole list, in parts that are told while the next are read.
pub struct BodyList {
    /// The revision as of which the list is consistent.
    pub revision: Revision,
    /// In the order of the keys. An error ends them, and the list is worth nothing.
    pub parts: Pin<Box<dyn Stream<Item = Result<Bodies, ReadError>> + Send>>,
    /// Ends when the store has read the last part, whether it was taken or not; yields how many objects there were.
    pub read: BoxFuture<'static, u64>,
}

impl BodyList {
    /// Of a list that is there already.
    pub fn of(page: &ListPage) -> BodyList {
        let mut joined = Vec::with_capacity(page.items.iter().map(|(_, object)| object.body.0.len() + 1).sum());
        for (_, object) in &page.items {
            if !joined.is_empty() {
                joined.push(b',');
            }
            joined.extend_from_slice(&object.body.0);
        }
        let part = Bodies {
            joined: joined.into(),
            objects: page.items.len() as u64,
        };
        BodyList {
            revision: page.revision,
            read: std::future::ready(part.objects).boxed(),
            parts: Box::pin(stream::iter([Ok(part)])),
        }
    }
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
    /// What happened; in a watch with selections, as seen within them.
    pub change: Change,
    /// The object after the write; for a removal the last content, its resourceVersion set to `revision`.
    pub object: Arc<Object>,
    /// The object before the write.
    pub previous: Option<Arc<Object>>,
}

/// Which objects of a resource a watch wants. The labels and fields are those that the writer put into the header: the
/// store compares them and knows nothing of their meaning.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Selection {
    /// The resource that it restricts.
    pub resource: Resource,
    /// Which labels.
    pub labels: LabelSelector,
    /// Which fields.
    pub fields: FieldSelector,
}

impl Selection {
    /// The objects of a resource in which one field has one value, such as the pods of a node.
    pub fn field(resource: impl Into<Resource>, path: &str, value: &str) -> Selection {
        Selection {
            resource: resource.into(),
            labels: LabelSelector::default(),
            fields: FieldSelector {
                requirements: vec![FieldRequirement {
                    path: path.to_owned(),
                    value: value.to_owned(),
                    negated: false,
                }],
            },
        }
    }

    fn matches(&self, key: &Key, object: &Object) -> bool {
        self.labels.matches(&object.header.labels) && self.fields.matches(&key.namespace, &key.name, &object.header)
    }
}

/// What to watch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct WatchRequest {
    /// The resources; empty for all.
    pub resources: Vec<Resource>,
    /// One namespace; `None` for all.
    pub namespace: Option<Arc<str>>,
    /// Events after this revision; `None` for only what comes from now on.
    pub after: Option<Revision>,
    /// Restricts resources to some of their objects, those of any of a resource's selections. A resource that no selection
    /// names is watched whole. The watch then shows the world as it is within the selection, as Kubernetes does: an object
    /// that comes to match is created, and one that matches no longer is deleted.
    pub selections: Vec<Selection>,
}

impl WatchRequest {
    /// Whether it concerns a key at all; selections are not asked.
    pub fn covers(&self, key: &Key) -> bool {
        (self.resources.is_empty() || self.resources.contains(&key.resource)) && self.covers_namespace(key)
    }

    /// Whether it concerns a key's namespace.
    pub fn covers_namespace(&self, key: &Key) -> bool {
        self.namespace
            .as_ref()
            .is_none_or(|namespace| key.namespace == *namespace)
    }

    /// The selections of one resource; without any, all of its objects are wanted.
    pub fn selections_of(&self, resource: &Resource) -> impl Iterator<Item = &Selection> {
        self.selections
            .iter()
            .filter(move |selection| selection.resource == *resource)
    }

    /// What an event of a key that it covers is within the selections; `None` if it is not seen.
    pub fn view(&self, event: &StoreEvent) -> Option<Change> {
        let mut selections = self.selections_of(&event.key.resource).peekable();
        if selections.peek().is_none() {
            return Some(event.change);
        }
        let (mut before, mut now) = (false, false);
        let gone = event.change == Change::Deleted;
        let earlier = event.previous.as_ref().or(gone.then_some(&event.object));
        for selection in selections {
            before |= earlier.is_some_and(|object| selection.matches(&event.key, object));
            now |= !gone && selection.matches(&event.key, &event.object);
        }
        match (before, now) {
            (false, false) => None,
            (false, true) => Some(Change::Created),
            (true, true) => Some(event.change),
            (true, false) => Some(Change::Deleted),
        }
    }
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

    /// Lists all bodies at once, for a reader that passes them on as they are. `limit`, `after` and `at` must not be set.
    async fn bodies(&self, request: ListRequest) -> Result<BodyList, ReadError> {
        Ok(BodyList::of(&self.list(request).await?))
    }

    /// Opens a watch.
    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, ReadError>;

    /// The revision of the last applied write.
    async fn revision(&self) -> Result<Revision, ReadError>;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Draft;

    fn pod(node: &str, labels: &[(&str, &str)]) -> Arc<Object> {
        let labels: std::collections::BTreeMap<_, _> = labels.iter().copied().collect();
        let value = json!({"metadata": {"name": "web", "uid": "u-1", "labels": labels}});
        let draft = Draft::encode(&value, vec![("spec.nodeName".to_owned(), node.to_owned())]).unwrap();
        Arc::new(draft.commit(Revision(7), None))
    }

    fn event(change: Change, previous: Option<Arc<Object>>, object: Arc<Object>) -> StoreEvent {
        StoreEvent {
            revision: Revision(7),
            cause: Cause(1),
            key: Key::new("pods", "default", "web"),
            change,
            object,
            previous,
        }
    }

    #[test]
    fn an_object_appears_and_disappears_as_it_enters_and_leaves_a_selection() {
        use Change::{Created, Deleted, Updated};
        let (here, there, unbound) = (pod("n1", &[]), pod("n2", &[]), pod("", &[]));
        let request = WatchRequest {
            selections: vec![Selection::field("pods", "spec.nodeName", "n1")],
            ..WatchRequest::default()
        };
        let cases = [
            ("created outside", event(Created, None, unbound.clone()), None),
            ("created inside", event(Created, None, here.clone()), Some(Created)),
            (
                "bound to it",
                event(Updated, Some(unbound.clone()), here.clone()),
                Some(Created),
            ),
            (
                "changed inside",
                event(Updated, Some(here.clone()), here.clone()),
                Some(Updated),
            ),
            (
                "changed outside",
                event(Updated, Some(unbound.clone()), there.clone()),
                None,
            ),
            (
                "gone elsewhere",
                event(Updated, Some(here.clone()), there.clone()),
                Some(Deleted),
            ),
            (
                "removed inside",
                event(Deleted, Some(here.clone()), here.clone()),
                Some(Deleted),
            ),
            (
                "removed inside, the earlier content unknown",
                event(Deleted, None, here),
                Some(Deleted),
            ),
            ("removed outside", event(Deleted, Some(there.clone()), there), None),
        ];
        for (case, event, expected) in cases {
            assert_eq!(request.view(&event), expected, "{case}");
        }
    }

    #[test]
    fn selections_of_one_resource_add_up_and_leave_others_alone() {
        let labelled = Selection {
            resource: Resource::new("pods"),
            labels: LabelSelector::parse("app=web").unwrap(),
            fields: FieldSelector::default(),
        };
        let request = WatchRequest {
            selections: vec![Selection::field("pods", "spec.nodeName", "n1"), labelled],
            ..WatchRequest::default()
        };
        let both = event(Change::Updated, Some(pod("n1", &[])), pod("n2", &[("app", "web")]));
        assert_eq!(request.view(&both), Some(Change::Updated));
        let neither = event(Change::Updated, Some(pod("n2", &[])), pod("n3", &[]));
        assert_eq!(request.view(&neither), None);
        let other = StoreEvent {
            key: Key::new("secrets", "default", "web"),
            ..neither
        };
        assert_eq!(request.view(&other), Some(Change::Updated));
    }

    #[test]
    fn selections_survive_the_wire() {
        let request = WatchRequest {
            resources: vec![Resource::new("pods")],
            after: Some(Revision(3)),
            selections: vec![Selection::field("pods", "spec.nodeName", "n1")],
            ..WatchRequest::default()
        };
        let bytes = crate::codec::encode(&request).unwrap();
        assert_eq!(crate::codec::decode::<WatchRequest>(&bytes).unwrap(), request);
    }
}
