//! The deterministic part: what a proposal does to the store. Called by `Replica` for every entry of the log, in the
//! order of the log, and by the simulation. It reads no clock and draws no random number: two machines that apply the
//! same proposals in the same order hold the same bytes and give the same answers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use protocol::object::Body;
use protocol::store::{Change, Committed, Precondition, Proposal, Refusal, StoreEvent, Write};
use protocol::{Cause, Draft, Key, Object, Revision};

use crate::backend::{Backend, BackendError, Batch, State};
use crate::memory::MemoryBackend;
use crate::recent::Recent;

/// What one proposal did.
pub type Applied = Result<Committed, Refusal>;

/// The state machine over a backend. There is one writer; readers go to the backend.
pub struct Machine<B> {
    backend: B,
    state: State,
    recent: Recent,
}

impl<B: Backend> Machine<B> {
    /// Takes up the state where the backend has it.
    pub fn open(backend: B) -> Result<Machine<B>, BackendError> {
        let state = backend.with_view(|view| view.state())?;
        Ok(Machine {
            backend,
            state,
            recent: Recent::default(),
        })
    }

    /// The counters.
    pub fn state(&self) -> State {
        self.state
    }

    /// What keeps its bytes.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Begins a batch: any number of proposals and compactions that become visible together.
    pub fn stage(&mut self) -> Staging<'_, B> {
        Staging {
            state: self.state,
            machine: self,
            pending: HashMap::new(),
            events: Vec::new(),
            compact: None,
        }
    }
}

impl Machine<MemoryBackend> {
    /// A machine in memory, empty.
    pub fn in_memory() -> Machine<MemoryBackend> {
        Machine {
            backend: MemoryBackend::default(),
            state: State::default(),
            recent: Recent::default(),
        }
    }

    /// Applies one proposal: what it did and the events that it made, or the first precondition that did not hold.
    pub fn apply(&mut self, proposal: &Proposal) -> Result<(Committed, Vec<Arc<StoreEvent>>), Refusal> {
        let mut staging = self.stage();
        let committed = staging.apply(proposal).expect("memory does not fail")?;
        let events = staging.commit(None).expect("memory does not fail");
        Ok((committed, events))
    }

    /// Forgets history up to and including `up_to`.
    pub fn compact(&mut self, up_to: Revision) {
        let mut staging = self.stage();
        staging.compact(up_to);
        staging.commit(None).expect("memory does not fail");
    }
}

/// A batch under construction. Dropping it changes nothing.
pub struct Staging<'a, B> {
    machine: &'a mut Machine<B>,
    /// Objects that this batch has written, as later proposals of the batch must see them.
    pending: HashMap<Key, Option<Arc<Object>>>,
    events: Vec<Arc<StoreEvent>>,
    state: State,
    compact: Option<(Revision, Revision)>,
}

impl<B: Backend> Staging<'_, B> {
    /// Applies a proposal to the batch. A refusal leaves the batch as it was.
    pub fn apply(&mut self, proposal: &Proposal) -> Result<Applied, BackendError> {
        if let Err(refusal) = well_formed(proposal) {
            return Ok(Err(refusal));
        }
        // A key occurs once in a proposal, so no write of it can depend on another one: check all, then carry out all.
        let mut before = Vec::with_capacity(proposal.writes.len());
        for write in &proposal.writes {
            let current = self.current(write.key())?;
            if let Err(refusal) = check(write, current.as_deref()) {
                return Ok(Err(refusal));
            }
            before.push(current);
        }
        let revisions = proposal.writes.iter().zip(before);
        let revisions = revisions
            .map(|(write, current)| self.write(proposal.cause, write, current))
            .collect();
        Ok(Ok(Committed { revisions }))
    }

    /// Forgets history up to and including `up_to`, or up to the present if that lies ahead. Going back is not possible
    /// and does nothing.
    pub fn compact(&mut self, up_to: Revision) {
        let up_to = up_to.min(self.state.revision);
        if up_to > self.state.compacted {
            let from = self.compact.map_or(self.state.compacted, |(from, _)| from);
            self.compact = Some((from, up_to));
            self.state.compacted = up_to;
        }
    }

    /// The counters as they will be.
    pub fn state(&self) -> State {
        self.state
    }

    /// Makes the batch visible and yields its events. `position` is where in the log it brings the machine. After an
    /// error the machine is where it was before the batch.
    pub fn commit(self, position: Option<Vec<u8>>) -> Result<Vec<Arc<StoreEvent>>, BackendError> {
        let objects: Vec<_> = self.pending.into_iter().collect();
        let batch = Batch {
            objects,
            events: self.events.clone(),
            state: self.state,
            compact: self.compact,
            position,
        };
        self.machine.backend.commit(&batch)?;
        for (key, object) in &batch.objects {
            self.machine.recent.note(key, object.as_ref());
        }
        self.machine.state = self.state;
        Ok(self.events)
    }

    fn current(&self, key: &Key) -> Result<Option<Arc<Object>>, BackendError> {
        if let Some(pending) = self.pending.get(key) {
            return Ok(pending.clone());
        }
        match self.machine.recent.get(key) {
            Some(object) => Ok(Some(Arc::clone(object))),
            None => self.machine.backend.object(key),
        }
    }

    fn write(&mut self, cause: Cause, write: &Write, previous: Option<Arc<Object>>) -> Revision {
        let revision = self.state.revision.next();
        let (key, object, change) = match (write, &previous) {
            (Write::Put { draft, .. }, Some(stored)) if is_no_op(draft, stored) => return stored.header.revision,
            (Write::Put { key, draft, .. }, Some(stored)) => (
                key,
                draft.commit(revision, Some(stored.header.created)),
                Change::Updated,
            ),
            (Write::Put { key, draft, .. }, None) => (key, draft.commit(revision, None), Change::Created),
            (Write::Delete { key, .. }, Some(stored)) => (key, tombstone(stored, revision), Change::Deleted),
            (Write::Delete { .. }, None) => unreachable!("checked: a delete of what does not exist is refused"),
        };
        let object = Arc::new(object);
        let kept = (change != Change::Deleted).then(|| object.clone());
        self.pending.insert(key.clone(), kept);
        self.events.push(Arc::new(StoreEvent {
            revision,
            cause,
            key: key.clone(),
            change,
            object,
            previous,
        }));
        self.state.revision = revision;
        revision
    }
}

/// A put of the same content is skipped, unless the header says that the object is another one or is selected
/// otherwise: header fields come from the kind's table, which may have grown since the object was stored.
fn is_no_op(draft: &Draft, stored: &Object) -> bool {
    draft.changes_nothing(stored) && draft.header.fields == stored.header.fields
}

fn malformed(reason: impl Into<String>) -> Refusal {
    Refusal::Malformed { reason: reason.into() }
}

fn well_formed(proposal: &Proposal) -> Result<(), Refusal> {
    if proposal.writes.is_empty() {
        return Err(malformed("it has no write"));
    }
    let mut seen = HashSet::with_capacity(proposal.writes.len());
    for write in &proposal.writes {
        let key = write.key();
        if key.resource.as_str().is_empty() || key.name.is_empty() {
            return Err(malformed(format!("the key {key:?} lacks a resource or a name")));
        }
        if [key.resource.as_str(), &*key.namespace, &*key.name]
            .iter()
            .any(|part| part.contains('\0'))
        {
            return Err(malformed(format!("the key {key:?} contains NUL")));
        }
        if matches!(
            write,
            Write::Delete {
                precondition: Precondition::Absent,
                ..
            }
        ) {
            return Err(malformed(format!("a delete of {key} that requires its absence")));
        }
        if !seen.insert(key) {
            return Err(malformed(format!("{key} is written twice")));
        }
    }
    Ok(())
}

fn check(write: &Write, current: Option<&Object>) -> Result<(), Refusal> {
    let (Write::Put { key, precondition, .. } | Write::Delete { key, precondition }) = write;
    let removes = matches!(write, Write::Delete { .. });
    match (precondition, current) {
        (Precondition::Absent, Some(object)) => Err(Refusal::AlreadyExists {
            key: key.clone(),
            actual: object.header.revision,
        }),
        (Precondition::Revision(_), None) => Err(Refusal::NotFound { key: key.clone() }),
        (Precondition::Revision(expected), Some(object)) if object.header.revision != *expected => {
            Err(Refusal::Conflict {
                key: key.clone(),
                expected: *expected,
                actual: object.header.revision,
            })
        }
        (Precondition::None, None) if removes => Err(Refusal::NotFound { key: key.clone() }),
        _ => Ok(()),
    }
}

/// The last content of a removed object, its resourceVersion set to the revision of the removal.
fn tombstone(stored: &Object, revision: Revision) -> Object {
    // `Draft::encode` puts the resourceVersion first in the metadata. The quotes of a string value are escaped, so no
    // value before it can contain this text.
    const MARK: &[u8] = b"\"metadata\":{\"resourceVersion\":\"";
    let body = &stored.body.0;
    let at = body
        .windows(MARK.len())
        .position(|window| window == MARK)
        .map(|at| at + MARK.len());
    let body = match at {
        Some(at) => {
            let tail = body[at..]
                .iter()
                .position(|byte| !byte.is_ascii_digit())
                .map_or(body.len(), |end| at + end);
            Bytes::from([&body[..at], revision.to_string().as_bytes(), &body[tail..]].concat())
        }
        None => body.clone(),
    };
    let mut header = stored.header.clone();
    header.revision = revision;
    Object {
        header,
        body: Body(body),
    }
}
