//! One replica of the store: its machine, its readers, its watchers. `consensus` applies the log to it and answers
//! reads from it; `MemoryStore` writes to it directly. It keeps the one order that matters: a batch is committed to the
//! backend, then published to the watchers, and only then is anybody told that it was applied.

use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;
use protocol::store::{Bodies, ListPage, ListRequest, Proposal, ReadError, WatchRequest, WatchStream};
use protocol::{Key, Object, Revision};

use crate::backend::{Backend, BackendError, State};
use crate::list::{bodies, list};
use crate::machine::{Applied, Machine, Staging};
use crate::watch::{self, Hub};

/// A machine with readers and watchers.
pub struct Replica<B: Backend> {
    machine: Mutex<Machine<B>>,
    backend: B,
    hub: Arc<Hub>,
}

impl<B: Backend> Replica<B> {
    /// Takes up the state where the backend has it.
    pub fn open(backend: B) -> Result<Replica<B>, BackendError> {
        let machine = Machine::open(backend.clone())?;
        let hub = Arc::new(Hub::new(machine.state().revision));
        Ok(Replica {
            machine: Mutex::new(machine),
            backend,
            hub,
        })
    }

    /// Fills a batch, commits it and publishes its events. An error of `fill` or of the backend leaves the replica as
    /// it was.
    pub fn write<T>(
        &self,
        position: Option<Vec<u8>>,
        fill: impl FnOnce(&mut Staging<'_, B>) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        let mut machine = self.machine.lock();
        let mut staging = machine.stage();
        let answer = fill(&mut staging)?;
        let events = staging.commit(position)?;
        // Under the machine's lock, so that batches are published in the order in which they were committed.
        self.hub.publish(&events);
        Ok(answer)
    }

    /// Applies proposals as one batch.
    pub fn apply_all(&self, proposals: &[Proposal], position: Option<Vec<u8>>) -> Result<Vec<Applied>, BackendError> {
        self.write(position, |staging| {
            proposals.iter().map(|proposal| staging.apply(proposal)).collect()
        })
    }

    /// Forgets history up to and including `up_to`.
    pub fn compact(&self, up_to: Revision) -> Result<(), BackendError> {
        self.write(None, |staging| {
            staging.compact(up_to);
            Ok(())
        })
    }

    /// Takes up a state that was put under the backend from outside: an installed snapshot.
    pub fn reopen(&self) -> Result<(), BackendError> {
        let mut machine = self.machine.lock();
        *machine = Machine::open(self.backend.clone())?;
        self.hub.reset(machine.state().revision);
        Ok(())
    }

    /// The counters.
    pub fn state(&self) -> Result<State, BackendError> {
        self.backend.with_view(|view| view.state())
    }

    /// Reads one object.
    pub fn read(&self, key: &Key) -> Result<Option<Arc<Object>>, BackendError> {
        self.backend.object(key)
    }

    /// Lists one page.
    pub fn list(&self, request: &ListRequest) -> Result<ListPage, ReadError> {
        self.backend.with_view(|view| list(view, request))
    }

    /// Gathers the bodies of a whole list, see `list::bodies`.
    pub fn bodies(
        &self,
        request: &ListRequest,
        begun: impl FnOnce(Revision),
        send: &mut dyn FnMut(Bodies) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        self.backend.with_view(|view| bodies(view, request, begun, send))
    }

    /// Opens a watch.
    pub fn watch(&self, request: WatchRequest) -> Result<WatchStream, ReadError> {
        watch::open(self.backend.clone(), self.hub.clone(), request)
    }

    /// The watchers.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// What keeps the bytes.
    pub fn backend(&self) -> &B {
        &self.backend
    }
}
