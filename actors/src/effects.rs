//! What deciding code asks for: writes in atomic groups, timers and notes for people. Data only; `Activation` turns it
//! into proposals, and an actor's shell or the simulation carries it out.

use std::sync::Arc;

use protocol::{Key, Object, Resource, Revision};
use serde_json::Value;

use crate::reading::Metadata;

/// One write that a decision asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Intent {
    /// Create an object. `value` has a name or a generateName; defaults, uid and times are filled in later.
    Create {
        /// Its resource.
        resource: Resource,
        /// Its namespace; empty for cluster-scoped ones.
        namespace: Arc<str>,
        /// The object.
        value: Value,
    },
    /// Replace an object, provided that it is still what the decision read.
    Update {
        /// Which.
        key: Key,
        /// What the decision read.
        base: Arc<Object>,
        /// The whole new content.
        value: Value,
    },
    /// Remove an object, provided that it is still at this revision.
    Remove {
        /// Which.
        key: Key,
        /// What the decision read.
        revision: Revision,
    },
    /// Write nothing, but refuse the whole group unless the object is still what the decision read. Two activations of
    /// one actor exclude each other by it.
    Fence {
        /// Which.
        key: Key,
        /// What the decision read.
        base: Arc<Object>,
    },
}

impl Intent {
    /// The key that is written, where it is known before the object has a name.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Intent::Update { key, .. } | Intent::Remove { key, .. } | Intent::Fence { key, .. } => Some(key),
            Intent::Create { .. } => None,
        }
    }
}

/// A timer of an actor. Setting one again replaces it; a reload clears all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerRequest {
    /// Which of the actor's timers.
    pub timer: &'static str,
    /// After how many milliseconds.
    pub after_ms: u64,
}

/// Whom a note is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regarding {
    /// Its `apiVersion`.
    pub api_version: String,
    /// Its `kind`.
    pub kind: String,
    /// Its namespace; empty for cluster-scoped ones.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

impl Regarding {
    /// An object by its kind and its metadata.
    pub fn new(api_version: &str, kind: &str, metadata: &Metadata) -> Regarding {
        Regarding {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
            uid: metadata.uid.clone(),
        }
    }
}

/// Whether a note is a warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// `type: Normal`.
    Normal,
    /// `type: Warning`.
    Warning,
}

/// A note for people: it becomes a core/v1 Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whom it is about.
    pub regarding: Regarding,
    /// Normal or Warning.
    pub severity: Severity,
    /// A word in CamelCase: `ScalingReplicaSet`.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
    /// Who says it: `deployment-controller`.
    pub component: &'static str,
}

/// What one decision asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effects {
    /// Each group is written whole or not at all; groups are independent of each other. A group that changes the deciding
    /// object and others ends with the object itself: events come in order, and whoever decides from its new version must
    /// have seen the others.
    pub groups: Vec<Vec<Intent>>,
    /// Timers to set.
    pub timers: Vec<TimerRequest>,
    /// Timers to take back.
    pub cancelled: Vec<&'static str>,
    /// Notes. They are written when all groups were.
    pub notes: Vec<Note>,
    /// The actor knows only a part of its surroundings and wants to see them afresh after these writes.
    pub look_again: bool,
}

impl Effects {
    /// Adds one group.
    pub fn write(&mut self, group: Vec<Intent>) {
        if !group.is_empty() {
            self.groups.push(group);
        }
    }

    /// Adds a group of one.
    pub fn write_one(&mut self, intent: Intent) {
        self.groups.push(vec![intent]);
    }

    /// Sets a timer.
    pub fn timer(&mut self, timer: &'static str, after_ms: u64) {
        self.timers.push(TimerRequest { timer, after_ms });
    }

    /// Sets a timer, or takes it back when there is nothing to wait for.
    pub fn timer_if(&mut self, timer: &'static str, after_ms: Option<u64>) {
        match after_ms {
            Some(after_ms) => self.timer(timer, after_ms),
            None => self.cancelled.push(timer),
        }
    }

    /// Whether nothing is to be written.
    pub fn writes_nothing(&self) -> bool {
        self.groups.is_empty()
    }
}
