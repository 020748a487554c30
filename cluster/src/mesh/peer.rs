//! Connections to one peer: the one in use, the attempt to make one, and the failures so far. Used by the mesh alone.
//! `election` decides between two connections; this file keeps the result.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use protocol::NodeName;
use quinn::{Connection, VarInt};
use tokio::sync::Notify;

use super::election::{LinkFacts, Verdict, elect, retry_delay};

/// Close code: the connection leads to an earlier life of the peer.
pub const CLOSE_STALE: VarInt = VarInt::from_u32(2);
/// Datagrams that may wait for one connection to be made; gossip repeats itself, so more are dropped.
const WAITING_DATAGRAMS_MAX: usize = 16;

/// A connection to a member.
#[derive(Debug)]
pub struct Link {
    /// The connection.
    pub connection: Connection,
    /// Whether this node dialled it.
    pub dialled_here: bool,
    /// Which life of the peer's process it leads to.
    pub peer_boot: u64,
    /// Streams that run on it.
    uses: AtomicUsize,
    /// Wakes the task that keeps it alive.
    pub used: Notify,
}

/// Held by every stream: as long as one exists, the connection is kept alive.
#[derive(Debug)]
pub struct Usage {
    link: Arc<Link>,
}

impl Drop for Usage {
    fn drop(&mut self) {
        self.link.uses.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Link {
    /// Wraps a connection whose peer has said which of its lives it is.
    pub fn new(connection: Connection, dialled_here: bool, peer_boot: u64) -> Arc<Link> {
        Arc::new(Link {
            connection,
            dialled_here,
            peer_boot,
            uses: AtomicUsize::new(0),
            used: Notify::new(),
        })
    }

    /// Whether it is open, as far as one knows.
    pub fn is_live(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// Marks it as in use.
    pub fn use_it(self: &Arc<Self>) -> Usage {
        if self.uses.fetch_add(1, Ordering::Relaxed) == 0 {
            self.used.notify_one();
        }
        Usage { link: self.clone() }
    }

    /// Whether a stream runs on it.
    pub fn in_use(&self) -> bool {
        self.uses.load(Ordering::Relaxed) > 0
    }

    fn facts(&self) -> LinkFacts {
        LinkFacts {
            dialled_here: self.dialled_here,
            peer_boot: self.peer_boot,
        }
    }
}

/// A dial under way. All who want the peer wait for the same one, and it goes on when they give up.
pub type Attempt = Shared<BoxFuture<'static, Result<Arc<Link>, Arc<str>>>>;

/// What is known of one peer.
#[derive(Debug)]
pub struct Peer {
    /// Its name.
    pub name: NodeName,
    state: Mutex<PeerState>,
    /// Signalled when a connection comes into use.
    pub connected: Notify,
    waiting_datagrams: AtomicUsize,
}

#[derive(Default)]
struct PeerState {
    link: Option<Arc<Link>>,
    attempt: Option<Attempt>,
    failures: u32,
    failed_at: Option<Instant>,
}

impl std::fmt::Debug for PeerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerState")
            .field("link", &self.link)
            .field("failures", &self.failures)
            .finish_non_exhaustive()
    }
}

impl Peer {
    /// A peer of whom nothing is known.
    pub fn new(name: NodeName) -> Arc<Peer> {
        Arc::new(Peer {
            name,
            state: Mutex::default(),
            connected: Notify::new(),
            waiting_datagrams: AtomicUsize::new(0),
        })
    }

    /// The connection in use, if it is open.
    pub fn live(&self) -> Option<Arc<Link>> {
        self.state.lock().link.clone().filter(|link| link.is_live())
    }

    /// The connection in use, or the attempt to make one; `begin` starts a new attempt after the given wait.
    pub fn live_or_attempt(&self, now: Instant, begin: impl FnOnce(Duration) -> Attempt) -> Result<Arc<Link>, Attempt> {
        let mut state = self.state.lock();
        if let Some(link) = state.link.clone().filter(|link| link.is_live()) {
            return Ok(link);
        }
        if let Some(attempt) = &state.attempt {
            return Err(attempt.clone());
        }
        let since = state
            .failed_at
            .map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        let attempt = begin(retry_delay(state.failures).saturating_sub(since));
        state.attempt = Some(attempt.clone());
        Err(attempt)
    }

    /// Notes how an attempt ended. A failure beside an open connection, which the peer has made meanwhile, delays nothing.
    pub fn attempt_ended(&self, now: Instant, succeeded: bool) {
        let mut state = self.state.lock();
        state.attempt = None;
        if succeeded || state.link.as_ref().is_some_and(|link| link.is_live()) {
            state.failures = 0;
            state.failed_at = None;
        } else {
            state.failures = state.failures.saturating_add(1);
            state.failed_at = Some(now);
        }
    }

    /// Takes a new connection into account and returns the one to use.
    pub fn adopt(&self, here: &NodeName, new: &Arc<Link>) -> Arc<Link> {
        let mut state = self.state.lock();
        let verdict = match state.link.as_ref().filter(|old| old.is_live()) {
            None => Verdict::Replace,
            Some(old) if Arc::ptr_eq(old, new) => Verdict::Keep,
            Some(old) => elect(here, &self.name, old.facts(), new.facts()),
        };
        if verdict == Verdict::ReplaceDead
            && let Some(old) = &state.link
        {
            old.connection
                .close(CLOSE_STALE, b"this process has been restarted since");
        }
        if verdict != Verdict::Keep {
            state.link = Some(new.clone());
        }
        state.failures = 0;
        state.failed_at = None;
        let chosen = state.link.clone().unwrap_or_else(|| new.clone());
        drop(state);
        self.connected.notify_waiters();
        chosen
    }

    /// Forgets a connection that has ended.
    pub fn ended(&self, link: &Arc<Link>) {
        let mut state = self.state.lock();
        if state.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            state.link = None;
        }
    }

    /// Closes the connection in use.
    pub fn disconnect(&self, reason: &[u8]) {
        if let Some(link) = self.state.lock().link.take() {
            link.connection.close(CLOSE_STALE, reason);
        }
    }

    /// A place for a datagram that waits for a connection, if there is one left.
    pub fn datagram_place(self: &Arc<Self>) -> Option<DatagramPlace> {
        let taken = self.waiting_datagrams.fetch_add(1, Ordering::Relaxed);
        let place = DatagramPlace { peer: self.clone() };
        (taken < WAITING_DATAGRAMS_MAX).then_some(place)
    }
}

/// A place in the queue of datagrams that wait for a connection.
pub struct DatagramPlace {
    peer: Arc<Peer>,
}

impl Drop for DatagramPlace {
    fn drop(&mut self) {
        self.peer.waiting_datagrams.fetch_sub(1, Ordering::Relaxed);
    }
}
