//! What an object's actor is: a state that observes objects and a pure `decide`. One implementation per kind; the shell
//! that runs them (`object_actor`) and the simulation know only this trait.

use std::fmt;
use std::sync::Arc;

use protocol::{Key, Object, UnixMillis};
use serde_json::Value;

use crate::effects::Effects;

/// What made an actor decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its state was read from the store: after a start, a refused write, or when it is told to reconcile.
    Loaded,
    /// Something that it observes has changed.
    Changed,
    /// One of its timers is due.
    Timer(&'static str),
    /// The machine of its name is reachable, or is not. Only nodes get it; repeated after each load.
    Liveness(Liveness),
}

/// What the cluster's membership says of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Liveness {
    /// It answers.
    Alive,
    /// It was declared failed, or left.
    Down,
}

/// Why a stored object cannot be taken note of. The store only holds what was validated, so this is a damaged store or
/// our own bug; the actor fails and backs off, and the others go on.
#[derive(Debug, thiserror::Error)]
#[error("{key} at revision {revision} cannot be read: {source}")]
pub struct ObserveError {
    /// Which.
    pub key: Key,
    /// Its revision.
    pub revision: protocol::Revision,
    /// What the parser said.
    pub source: serde_json::Error,
}

/// The deciding part of an actor. Deterministic: the same observations and events give the same effects.
pub trait ObjectKind: Send + 'static {
    /// Takes note of an object: its own or a related one. `None` means that it does not exist.
    fn observe(&mut self, key: &Key, object: Option<&Arc<Object>>) -> Result<(), ObserveError>;

    /// Decides what to do. Called again after its writes were applied and observed, until it asks for no further ones.
    fn decide(&mut self, now: UnixMillis, event: Event, effects: &mut Effects);

    /// One line on what it does at present, such as `3/3 ready`.
    fn summary(&self) -> String;

    /// What it knows, for `ask PATH state`.
    fn inspect(&self) -> Value;

    /// Why it is not where it should be, for `ask PATH why`.
    fn why(&self) -> String {
        self.summary()
    }
}

/// Parses a body into a reading of a kind, with the evidence in the error.
pub(crate) fn read<T: serde::de::DeserializeOwned>(key: &Key, object: &Object) -> Result<T, ObserveError> {
    let fail = |source| ObserveError {
        key: key.clone(),
        revision: object.header.revision,
        source,
    };
    object.parse().map_err(fail)
}

/// Which of an object's actors. Most have only one of their own; the collector is a second one, for ownership, that any
/// object of any kind has when needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The object's own actor.
    Own,
    /// Its garbage collector: owners and dependents.
    Collector,
}

/// Names one actor of the control plane.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot {
    /// The object.
    pub key: Key,
    /// Which of its actors.
    pub role: Role,
}

impl Slot {
    /// The object's own actor.
    pub fn own(key: Key) -> Slot {
        Slot { key, role: Role::Own }
    }

    /// The object's collector.
    pub fn collector(key: Key) -> Slot {
        Slot {
            key,
            role: Role::Collector,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.role {
            Role::Own => self.key.fmt(f),
            Role::Collector => write!(f, "{} (collector)", self.key),
        }
    }
}
