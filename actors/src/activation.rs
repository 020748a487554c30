//! One activation of an object's actor, without its mailbox: what it has seen, what it decided, what came of its writes.
//! Pure but for the generator that it is given; the ractor shell and the simulation drive the same code.
//!
//! Invariants: an object is never replaced by an older version of itself; after a refused write nothing is decided before
//! the state was read again.

use std::collections::HashMap;
use std::sync::Arc;

use admission::Facts;
use protocol::store::{Change, Committed, Precondition, Proposal, ProposeError, StoreEvent, Write};
use protocol::{Cause, Draft, Key, Object, Revision, UnixMillis};
use rand::rngs::SmallRng;

use crate::compose::{self, ComposeError, Composed};
use crate::effects::{Effects, Intent, Note, Regarding, Severity, TimerRequest};
use crate::kind::{Event, Liveness, ObjectKind, ObserveError, Slot};
use crate::kinds;

/// The first wait after a failed write, in milliseconds; it doubles.
const RETRY_FIRST_MS: u64 = 50;
/// The longest wait.
const RETRY_MAX_MS: u64 = 30_000;
/// So many refusals in a row are followed by an immediate reload; more of them wait.
const REFUSALS_AT_ONCE: u32 = 3;

/// An activation.
pub struct Activation {
    slot: Slot,
    kind: Box<dyn ObjectKind>,
    seen: HashMap<Key, Revision>,
    loaded: bool,
    liveness: Option<Liveness>,
    cause: Cause,
    failures: u32,
    decisions: u64,
    exists: bool,
    uid: String,
}

/// What a decision became: proposals, and what has to be done when they are answered.
#[derive(Default)]
pub struct Plan {
    /// Groups to propose, independent of each other.
    pub proposals: Vec<Proposal>,
    /// Timers to set.
    pub timers: Vec<TimerRequest>,
    /// Timers to take back.
    pub cancelled: Vec<&'static str>,
    /// Notes, to be written when all groups were.
    pub notes: Vec<Note>,
    /// The actor wants to see its surroundings afresh afterwards.
    pub look_again: bool,
    /// A group could not be composed: why.
    pub invalid: Option<ComposeError>,
    written: Vec<Vec<Planned>>,
}

/// A write that was proposed.
struct Planned {
    key: Key,
    /// What is put; a removal has none.
    put: Option<PlannedPut>,
}

struct PlannedPut {
    draft: Draft,
    created: Option<Revision>,
    base: Option<Revision>,
}

/// What follows the answers to a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing more until something happens.
    Rest,
    /// Decide again: the state has changed by its own writes.
    Decide,
    /// Read the state again, then decide: someone else was faster, or it wants to see more.
    Reload,
    /// The same after so many milliseconds: the store did not take the write.
    ReloadAfter {
        /// The wait in milliseconds.
        wait_ms: u64,
    },
}

impl Plan {
    /// Takes a group back before it is proposed.
    pub(crate) fn drop_group(&mut self, group: usize) {
        self.proposals.remove(group);
        self.written.remove(group);
    }

    /// Puts another draft in the place of a new object's.
    pub(crate) fn replace_put(&mut self, group: usize, index: usize, new: Draft) {
        if let Some(Write::Put { draft, .. }) = self.proposals[group].writes.get_mut(index) {
            *draft = new.clone();
        }
        if let Some(put) = self.written[group]
            .get_mut(index)
            .and_then(|planned| planned.put.as_mut())
        {
            put.draft = new;
        }
    }
}

impl Activation {
    /// An activation that has not read anything.
    pub fn new(slot: Slot, kind: Box<dyn ObjectKind>) -> Activation {
        Activation {
            slot,
            kind,
            seen: HashMap::new(),
            loaded: false,
            liveness: None,
            cause: Cause::default(),
            failures: 0,
            decisions: 0,
            exists: true,
            uid: String::new(),
        }
    }

    /// Its slot.
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// The deciding part.
    pub fn kind(&self) -> &dyn ObjectKind {
        self.kind.as_ref()
    }

    /// Whether its state was read and nothing has cast doubt on it since.
    pub fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// Whether its object existed when it was last heard of. An actor that sees all nodes needs none.
    pub fn subject_exists(&self) -> bool {
        self.exists || kinds::is_about_all_nodes(&self.slot.key)
    }

    /// What set its first activation in motion.
    pub fn set_cause(&mut self, cause: Cause) {
        self.cause = cause;
    }

    /// What is said about a decided object that is invalid.
    pub fn invalid_note(&self, error: &ComposeError) -> Option<Note> {
        let kind = api::kinds::find_by_resource(&self.slot.key.resource)?;
        Some(Note {
            regarding: Regarding {
                api_version: kind.api_version(),
                kind: kind.kind.to_owned(),
                namespace: self.slot.key.namespace.to_string(),
                name: self.slot.key.name.to_string(),
                uid: self.uid.clone(),
            },
            severity: Severity::Warning,
            reason: "FailedCreate",
            message: format!("Error creating: {error}"),
            component: "actorium-control-plane",
        })
    }

    /// How often it decided.
    pub fn decisions(&self) -> u64 {
        self.decisions
    }

    /// The cause of what it last heard of.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Replaces the state by what was read. `kind` is a fresh one.
    pub fn load(
        &mut self,
        kind: Box<dyn ObjectKind>,
        objects: Vec<(Key, Option<Arc<Object>>)>,
    ) -> Result<(), ObserveError> {
        self.kind = kind;
        self.seen.clear();
        let own = self.slot.key.clone();
        // The own object first: the others are read in its light.
        let (first, rest): (Vec<_>, Vec<_>) = objects.into_iter().partition(|(key, _)| *key == own);
        self.exists = first.iter().any(|(_, object)| object.is_some());
        if let Some((_, Some(own))) = first.first() {
            self.uid = own.header.uid.to_string();
        }
        for (key, object) in first.into_iter().chain(rest) {
            if let Some(object) = &object {
                self.seen.insert(key.clone(), object.header.revision);
            }
            self.kind.observe(&key, object.as_ref())?;
        }
        self.loaded = true;
        Ok(())
    }

    /// The state can no longer be trusted.
    pub fn doubt(&mut self) {
        self.loaded = false;
    }

    /// Takes note of an event. Returns whether it said something new.
    pub fn observe(&mut self, event: &StoreEvent) -> Result<bool, ObserveError> {
        if self.seen.get(&event.key).is_some_and(|&seen| seen >= event.revision) {
            return Ok(false);
        }
        self.cause = event.cause;
        if event.key == self.slot.key {
            self.exists = event.change != Change::Deleted;
        }
        if event.change == Change::Deleted {
            self.seen.remove(&event.key);
            self.kind.observe(&event.key, None)?;
        } else {
            self.seen.insert(event.key.clone(), event.revision);
            self.kind.observe(&event.key, Some(&event.object))?;
        }
        Ok(true)
    }

    /// Decides, and composes what was decided.
    /// New objects go through admission with these policy objects, if there are any.
    pub fn decide(&mut self, now: UnixMillis, event: Event, rng: &mut SmallRng, facts: Option<&Facts>) -> Plan {
        let mut effects = Effects::default();
        if let Event::Liveness(liveness) = event {
            self.liveness = Some(liveness);
        }
        // A fresh state has forgotten what the membership said.
        if let (Event::Loaded, Some(liveness)) = (event, self.liveness) {
            self.kind.decide(now, Event::Liveness(liveness), &mut effects);
        } else {
            self.kind.decide(now, event, &mut effects);
        }
        self.decisions += 1;
        let mut plan = Plan {
            timers: effects.timers,
            cancelled: effects.cancelled,
            notes: effects.notes,
            look_again: effects.look_again,
            ..Plan::default()
        };
        for group in effects.groups {
            match compose_group(group, now, rng, facts) {
                Ok((writes, planned)) => {
                    plan.proposals.push(Proposal {
                        cause: self.cause,
                        writes,
                    });
                    plan.written.push(planned);
                }
                Err(error) => plan.invalid = Some(error),
            }
        }
        plan
    }

    /// Takes note of what came of a plan's proposals.
    pub fn settle(
        &mut self,
        plan: &mut Plan,
        answers: Vec<Result<Committed, ProposeError>>,
    ) -> Result<Next, ObserveError> {
        let (mut refused, mut failed, mut changed) = (false, plan.invalid.is_some(), false);
        for (planned, answer) in std::mem::take(&mut plan.written).into_iter().zip(answers) {
            match answer {
                Ok(committed) => {
                    for (write, revision) in planned.into_iter().zip(committed.revisions) {
                        changed |= self.applied(write, revision)?;
                    }
                }
                Err(ProposeError::Refused(_)) => refused = true,
                Err(_) => failed = true,
            }
        }
        if failed || refused {
            plan.notes.clear();
            self.failures += 1;
            self.loaded = false;
            let at_once = refused && !failed && self.failures <= REFUSALS_AT_ONCE;
            if at_once {
                return Ok(Next::Reload);
            }
            let doublings = self.failures.saturating_sub(1).min(16);
            return Ok(Next::ReloadAfter {
                wait_ms: (RETRY_FIRST_MS << doublings).min(RETRY_MAX_MS),
            });
        }
        self.failures = 0;
        Ok(if plan.look_again {
            self.loaded = false;
            Next::Reload
        } else if changed {
            Next::Decide
        } else {
            Next::Rest
        })
    }

    /// Observes a write of its own. Returns whether it changed something.
    fn applied(&mut self, write: Planned, revision: Revision) -> Result<bool, ObserveError> {
        let key = write.key;
        if self.seen.get(&key).is_some_and(|&seen| seen > revision) {
            // Its event, and a later one, were faster than the answer.
            return Ok(true);
        }
        let Some(put) = write.put else {
            // Events of its former life may still be on their way here.
            self.seen.insert(key.clone(), revision);
            self.exists &= key != self.slot.key;
            self.kind.observe(&key, None)?;
            return Ok(true);
        };
        if put.base == Some(revision) {
            return Ok(false);
        }
        let object = Arc::new(put.draft.commit(revision, put.created));
        self.seen.insert(key.clone(), revision);
        self.exists |= key == self.slot.key;
        self.kind.observe(&key, Some(&object))?;
        Ok(true)
    }
}

fn compose_group(
    group: Vec<Intent>,
    now: UnixMillis,
    rng: &mut SmallRng,
    facts: Option<&Facts>,
) -> Result<(Vec<Write>, Vec<Planned>), ComposeError> {
    let (mut writes, mut planned) = (Vec::with_capacity(group.len()), Vec::with_capacity(group.len()));
    // After the objects: whoever counts what a quota bounds sees an object before its charge.
    let mut charged = Vec::new();
    for intent in group {
        match intent {
            Intent::Create {
                resource,
                namespace,
                value,
            } => {
                let Composed { key, draft, charges } = compose::compose(&resource, &namespace, value, now, rng, facts)?;
                charged.extend(charges);
                let put = PlannedPut {
                    draft: draft.clone(),
                    created: None,
                    base: None,
                };
                planned.push(Planned {
                    key: key.clone(),
                    put: Some(put),
                });
                writes.push(Write::Put {
                    key,
                    precondition: Precondition::Absent,
                    draft,
                });
            }
            Intent::Update { key, base, value } => {
                let draft = compose::changed(&key.resource, &base, &value)?;
                push_put(key, &base, draft, &mut writes, &mut planned);
            }
            Intent::Fence { key, base } => {
                let draft = compose::unchanged(&key.resource, &base)?;
                push_put(key, &base, draft, &mut writes, &mut planned);
            }
            Intent::Remove { key, revision } => {
                planned.push(Planned {
                    key: key.clone(),
                    put: None,
                });
                writes.push(Write::Delete {
                    key,
                    precondition: Precondition::Revision(revision),
                });
            }
        }
    }
    writes.extend(charged);
    Ok((writes, planned))
}

fn push_put(key: Key, base: &Object, draft: Draft, writes: &mut Vec<Write>, planned: &mut Vec<Planned>) {
    let revision = base.header.revision;
    let put = PlannedPut {
        draft: draft.clone(),
        created: Some(base.header.created),
        base: Some(revision),
    };
    planned.push(Planned {
        key: key.clone(),
        put: Some(put),
    });
    writes.push(Write::Put {
        key,
        precondition: Precondition::Revision(revision),
        draft,
    });
}
