//! An `ObjectStore` in memory, without consensus: for the tests of whatever stands on the store. It behaves like the
//! real one down to refusals, compaction and watches.

use std::ops::ControlFlow;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{FutureExt, stream};
use protocol::store::{
    Bodies, BodyList, Committed, ListPage, ListRequest, ObjectStore, Proposal, ProposeError, ReadError, WatchRequest,
    WatchStream,
};
use protocol::{Key, Object, Revision};

use crate::backend::BackendError;
use crate::memory::MemoryBackend;
use crate::replica::Replica;

/// The store of a test.
pub struct MemoryStore {
    replica: Replica<MemoryBackend>,
}

impl MemoryStore {
    /// An empty store.
    #[allow(clippy::new_ret_no_self)] // a store is only ever used shared
    pub fn new() -> Arc<MemoryStore> {
        let replica = Replica::open(MemoryBackend::default()).expect("memory does not fail");
        Arc::new(MemoryStore { replica })
    }

    /// Forgets history up to and including `up_to`: older lists and watches are answered with `Compacted`.
    pub fn compact(&self, up_to: Revision) {
        self.replica.compact(up_to).expect("memory does not fail");
    }

    /// Ends all watches, as a change of the leader does.
    pub fn end_watches(&self) {
        self.replica.hub().end_all();
    }
}

fn storage(error: BackendError) -> ProposeError {
    ProposeError::Storage {
        reason: error.to_string(),
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn propose(&self, proposal: Proposal) -> Result<Committed, ProposeError> {
        let applied = self
            .replica
            .write(None, |staging| staging.apply(&proposal))
            .map_err(storage)?;
        Ok(applied?)
    }

    async fn propose_all(&self, proposals: Vec<Proposal>) -> Vec<Result<Committed, ProposeError>> {
        match self.replica.apply_all(&proposals, None) {
            Ok(applied) => applied
                .into_iter()
                .map(|outcome| outcome.map_err(ProposeError::from))
                .collect(),
            Err(error) => proposals.iter().map(|_| Err(storage(error.clone()))).collect(),
        }
    }

    async fn read(&self, key: &Key) -> Result<Option<Arc<Object>>, ReadError> {
        Ok(self.replica.read(key)?)
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage, ReadError> {
        self.replica.list(&request)
    }

    async fn bodies(&self, request: ListRequest) -> Result<BodyList, ReadError> {
        let (mut revision, mut parts, mut objects) = (Revision::ZERO, Vec::new(), 0);
        let begun = |at| revision = at;
        let mut gather = |part: Bodies| {
            objects += part.objects;
            parts.push(Ok(part));
            ControlFlow::Continue(())
        };
        self.replica.bodies(&request, begun, &mut gather)?;
        Ok(BodyList {
            revision,
            parts: Box::pin(stream::iter(parts)),
            read: std::future::ready(objects).boxed(),
        })
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, ReadError> {
        self.replica.watch(request)
    }

    async fn revision(&self) -> Result<Revision, ReadError> {
        Ok(self.replica.state()?.revision)
    }
}
