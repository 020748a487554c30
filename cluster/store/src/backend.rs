//! What the state machine asks of whatever keeps its bytes: consistent reads and one atomic batch. Implemented by
//! `MemoryBackend` and `RocksBackend`; called by `Machine`, `list` and the watches. A backend decides nothing.

use std::ops::ControlFlow;
use std::sync::Arc;

use protocol::store::{ReadError, StoreEvent};
use protocol::{Header, Key, Object, Resource, Revision};

/// Why bytes could not be read or written. `MemoryBackend` never returns one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// The disk refused: full, read-only, gone.
    #[error("{what}: {reason}")]
    Disk {
        /// What was attempted, and where.
        what: String,
        /// What the disk said, and what to do.
        reason: String,
    },
    /// What was read is not what was written.
    #[error("{what} is damaged: {reason}")]
    Damaged {
        /// Which record.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl From<BackendError> for ReadError {
    fn from(error: BackendError) -> ReadError {
        ReadError::Storage {
            reason: error.to_string(),
        }
    }
}

/// The two counters of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The revision of the last applied write.
    pub revision: Revision,
    /// History up to and including this revision is gone; it is the oldest revision that can be listed or watched from.
    pub compacted: Revision,
}

impl State {
    /// Whether the state as of `requested` can still be told.
    pub fn admits(&self, requested: Revision) -> Result<(), ReadError> {
        if requested < self.compacted {
            return Err(ReadError::Compacted {
                requested,
                compacted: self.compacted,
            });
        }
        if requested > self.revision {
            return Err(ReadError::Ahead {
                requested,
                current: self.revision,
            });
        }
        Ok(())
    }
}

/// Decides by key and header whether an object is wanted, before its body is copied.
pub type Keep<'a> = &'a dyn Fn(&Key, &Header) -> bool;

/// Receives objects in the order of their keys.
pub type Visit<'a> = &'a mut dyn FnMut(Key, Arc<Object>) -> ControlFlow<()>;

/// Receives bodies in the order of the keys.
pub type VisitBody<'a> = &'a mut dyn FnMut(&[u8]) -> ControlFlow<()>;

/// Receives events in the order of their revisions.
pub type VisitEvent<'a> = &'a mut dyn FnMut(Arc<StoreEvent>) -> ControlFlow<()>;

/// A consistent state of the store: no write shows up while it is held.
pub trait View {
    /// The counters.
    fn state(&self) -> Result<State, BackendError>;

    /// One object.
    fn object(&self, key: &Key) -> Result<Option<Arc<Object>>, BackendError>;

    /// The objects of a resource, or of one namespace of it, that come after `after` and that `keep` wants.
    fn scan(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        after: Option<&Key>,
        keep: Keep<'_>,
        visit: Visit<'_>,
    ) -> Result<(), BackendError>;

    /// The bodies of the objects of a resource, or of one namespace of it, that `keep` wants; of all without it.
    fn bodies(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        keep: Option<Keep<'_>>,
        visit: VisitBody<'_>,
    ) -> Result<(), BackendError> {
        let all: Keep<'_> = &|_, _| true;
        self.scan(resource, namespace, None, keep.unwrap_or(all), &mut |_, object| {
            visit(&object.body.0)
        })
    }

    /// How many objects of that range come after `after`; counting stops at `most`.
    fn count(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        after: Option<&Key>,
        most: u64,
    ) -> Result<u64, BackendError>;

    /// The events after a revision whose key is `wanted`.
    fn history(
        &self,
        after: Revision,
        wanted: &dyn Fn(&Key) -> bool,
        visit: VisitEvent<'_>,
    ) -> Result<(), BackendError>;
}

/// What one call of `Staging::commit` changes, all of it or nothing.
#[derive(Debug, Default)]
pub struct Batch {
    /// Objects as they are afterwards; `None` removes. A key occurs once.
    pub objects: Vec<(Key, Option<Arc<Object>>)>,
    /// New history, in order.
    pub events: Vec<Arc<StoreEvent>>,
    /// The counters afterwards.
    pub state: State,
    /// History in (`from`, `to`] goes.
    pub compact: Option<(Revision, Revision)>,
    /// Where in the log this brings the machine, in the bytes of whoever keeps the log.
    pub position: Option<Vec<u8>>,
}

/// Keeps the bytes. Clones share them.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Runs reads on a consistent state.
    fn with_view<R>(&self, read: impl FnOnce(&dyn View) -> R) -> R;

    /// Reads one object as it is now.
    fn object(&self, key: &Key) -> Result<Option<Arc<Object>>, BackendError>;

    /// Writes a batch atomically. Whether it is on disk afterwards is the backend's affair: the log is what is synced.
    fn commit(&self, batch: &Batch) -> Result<(), BackendError>;

    /// The position of the last committed batch that carried one.
    fn position(&self) -> Result<Option<Vec<u8>>, BackendError>;
}
