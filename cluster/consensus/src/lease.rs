//! The leader's lease. A round in which a majority took this node for the leader keeps every other node from being elected
//! for a while; until then the leader answers reads without asking again (Ongaro's thesis, section 6.4.1). Pure: the clock
//! and the ends of rounds come from `barrier`, revocations from `peer_service`.
//!
//! What it rests on, beside Raft itself:
//! - a voter that has heard the leader grants nobody its vote for `election_max_ms`, and does not stand itself. openraft keeps
//!   this while the process runs, `peer_service` across a restart;
//! - the leader's own vote is the exception: once it is given away the lease is void, `revoke`;
//! - the clocks of two machines run at rates that differ by less than a third. They need not agree on the time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// The start of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    begun_ns: u64,
    epoch: u64,
}

/// Until when this node is surely the only leader.
#[derive(Debug)]
pub struct Lease {
    length_ns: u64,
    /// Counts the revocations.
    epoch: Mutex<u64>,
    /// Zero when there is no lease.
    until_ns: AtomicU64,
}

impl Lease {
    /// A lease for voters that keep their vote back for `election_max`.
    pub fn new(election_max: Duration) -> Lease {
        Lease {
            length_ns: election_max.as_nanos() as u64 / 3 * 2,
            epoch: Mutex::new(0),
            until_ns: AtomicU64::new(0),
        }
    }

    /// A round begins: nothing was sent as yet.
    pub fn begin(&self, now_ns: u64) -> Ticket {
        Ticket {
            begun_ns: now_ns,
            epoch: *self.epoch.lock(),
        }
    }

    /// A majority has answered in the round. It counts from its beginning, and not at all if the lease was revoked since.
    pub fn extend(&self, ticket: Ticket) {
        let epoch = self.epoch.lock();
        if *epoch == ticket.epoch {
            self.until_ns
                .fetch_max(ticket.begun_ns + self.length_ns, Ordering::AcqRel);
        }
    }

    /// This node may have given its vote away, or leads no more.
    pub fn revoke(&self) {
        let mut epoch = self.epoch.lock();
        *epoch += 1;
        self.until_ns.store(0, Ordering::Release);
    }

    /// Whether this node is surely the only leader.
    pub fn holds(&self, now_ns: u64) -> bool {
        now_ns < self.until_ns.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> Lease {
        Lease::new(Duration::from_nanos(600))
    }

    #[test]
    fn a_round_counts_from_its_beginning_for_two_thirds_of_the_voters_patience() {
        let lease = lease();
        assert!(!lease.holds(0));
        let ticket = lease.begin(1_000);
        assert!(!lease.holds(1_001), "nobody has answered");
        lease.extend(ticket);
        assert!(lease.holds(1_399));
        assert!(!lease.holds(1_400));
    }

    #[test]
    fn an_older_round_that_ends_later_shortens_nothing() {
        let lease = lease();
        let (first, second) = (lease.begin(1_000), lease.begin(1_200));
        lease.extend(second);
        lease.extend(first);
        assert!(lease.holds(1_599));
    }

    #[test]
    fn what_began_before_a_revocation_is_void() {
        let lease = lease();
        let under_way = lease.begin(1_000);
        lease.extend(lease.begin(1_000));
        lease.revoke();
        assert!(!lease.holds(1_001));
        lease.extend(under_way);
        assert!(!lease.holds(1_001), "the round asked before the vote was given away");
        lease.extend(lease.begin(1_100));
        assert!(lease.holds(1_101));
    }
}
