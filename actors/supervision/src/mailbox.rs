//! What keeps ractor's unbounded mailboxes bounded: credits for senders that wait or are refused, and a set of pending
//! keys for events that may be merged; and the admin messages that every actor understands. Holds no policy about what is
//! sent.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use ractor::{ActorRef, Message};
use tokio::sync::oneshot;

/// What the shell asks of any actor. Delivered into the mailbox like every other message, so that the answer is what the
/// actor knows at that point of its work. `Err` in an answer lists what the actor does understand.
#[derive(Debug)]
pub enum AdminMessage {
    /// `ask PATH QUESTION`. The answer is JSON.
    Ask {
        /// `state`, `mailbox`, `why`, ...
        question: String,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<String, String>>,
    },
    /// `tell PATH MESSAGE`. The answer says what was done.
    Tell {
        /// `reconcile`, `sleep`, ...
        message: String,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<String, String>>,
    },
}

/// An actor's mailbox as far as admin messages are concerned.
pub trait AdminInbox: Send + Sync + 'static {
    /// Puts the message into the mailbox; false when the actor has stopped.
    fn deliver(&self, message: AdminMessage) -> bool;
}

impl<M: Message + From<AdminMessage> + Sync> AdminInbox for ActorRef<M> {
    fn deliver(&self, message: AdminMessage) -> bool {
        self.send_message(M::from(message)).is_ok()
    }
}

/// A bound on how many messages of one kind are under way to an actor. The sender takes a credit and puts it into the
/// message; the credit comes back when the receiver drops it.
#[derive(Clone, Debug)]
pub struct Credits {
    taken: Arc<AtomicUsize>,
    credits_max: usize,
}

impl Credits {
    /// So many messages may be under way.
    pub fn new(credits_max: usize) -> Credits {
        Credits {
            taken: Arc::default(),
            credits_max,
        }
    }

    /// Takes a credit, or `None` when all are taken: the sender then refuses, merges or waits.
    pub fn take(&self) -> Option<Credit> {
        let grow = |taken: usize| (taken < self.credits_max).then_some(taken + 1);
        let took = self
            .taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, grow)
            .is_ok();
        took.then(|| Credit {
            taken: Arc::clone(&self.taken),
        })
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }
}

/// A credit that is taken until it is dropped, also when the message is dropped with a dead actor's mailbox.
#[derive(Debug)]
pub struct Credit {
    taken: Arc<AtomicUsize>,
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Keys for which a message is under way: the next event for the same key needs no message of its own, since the receiver
/// reads the newest state when it gets to the first. Bounds a mailbox by the number of keys.
#[derive(Clone, Debug)]
pub struct PendingKeys<K> {
    pending: Arc<Mutex<HashSet<K>>>,
}

impl<K> Default for PendingKeys<K> {
    fn default() -> Self {
        PendingKeys {
            pending: Arc::default(),
        }
    }
}

impl<K: Hash + Eq + Clone> PendingKeys<K> {
    /// Whether a message must be sent for this key, because none is under way.
    pub fn offer(&self, key: &K) -> bool {
        self.pending.lock().insert(key.clone())
    }

    /// The receiver begins with this key: what happens from here on needs another message. Call it before reading the
    /// state, not after.
    pub fn begin(&self, key: &K) {
        self.pending.lock().remove(key);
    }

    /// How many keys wait.
    pub fn len(&self) -> usize {
        self.pending.lock().len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.pending.lock().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credits_are_bounded_and_come_back_when_dropped() {
        let credits = Credits::new(2);
        let (first, second) = (credits.take(), credits.take());
        assert!(first.is_some() && second.is_some() && credits.take().is_none());
        drop(first);
        assert_eq!(credits.taken(), 1);
        assert!(credits.take().is_some());
    }

    #[test]
    fn events_for_a_pending_key_are_merged() {
        let pending = PendingKeys::default();
        assert!(pending.offer(&"a"));
        assert!(!pending.offer(&"a"));
        assert!(pending.offer(&"b"));
        assert_eq!(pending.len(), 2);
        pending.begin(&"a");
        assert!(pending.offer(&"a"));
    }
}
