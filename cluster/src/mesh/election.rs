//! Which of two connections between the same pair of nodes is used, and how long a failed dial is waited out. Called by
//! `peer`. Pure.

use std::cmp::Ordering;
use std::time::Duration;

use protocol::NodeName;

/// What one knows of a connection when two compete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkFacts {
    /// Whether this node dialled it.
    pub dialled_here: bool,
    /// Which life of the peer's process it leads to: of two, the later has the higher number. It is always known: a
    /// connection whose peer has not said it takes part in nothing. Were it unknown, as when a process dies between
    /// its handshake and that word, a dead connection could not be told from the other one of two simultaneous dials.
    pub peer_boot: u64,
}

/// What becomes of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The new one is used. The old one leads to an earlier life of the peer and is closed.
    ReplaceDead,
    /// The new one is used. The old one serves what runs on it and is left to idle out.
    Replace,
    /// The old one is used. The new one serves what the peer asks on it, if it lives, and is left to idle out. It is never
    /// closed, so that a peer whose clock was set back is heard, and is used when its earlier life has timed out.
    Keep,
}

/// Decides between the connection in use and one that has just been made. Both ends come to the same verdict when they
/// dialled each other at the same moment: the connection of the node whose name sorts first wins.
pub fn elect(here: &NodeName, peer: &NodeName, old: LinkFacts, new: LinkFacts) -> Verdict {
    // The order in which two connections come up here need not be the order in which the peer lived.
    match new.peer_boot.cmp(&old.peer_boot) {
        Ordering::Greater => return Verdict::ReplaceDead,
        Ordering::Less => return Verdict::Keep,
        Ordering::Equal => {}
    }
    // Whoever dials a second time has lost its first connection.
    if old.dialled_here == new.dialled_here {
        return Verdict::Replace;
    }
    let here_wins = here < peer;
    if new.dialled_here == here_wins {
        Verdict::Replace
    } else {
        Verdict::Keep
    }
}

/// The first wait after a failed dial.
const RETRY_MS_MIN: u64 = 50;
/// The longest wait: a peer that is back is reached within it.
const RETRY_MS_MAX: u64 = 1000;

/// How long after the last failure the next dial may begin.
pub fn retry_delay(failures_in_a_row: u32) -> Duration {
    if failures_in_a_row == 0 {
        return Duration::ZERO;
    }
    let doubled = RETRY_MS_MIN.saturating_mul(1 << (failures_in_a_row - 1).min(16));
    Duration::from_millis(doubled.min(RETRY_MS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(dialled_here: bool, peer_boot: u64) -> LinkFacts {
        LinkFacts {
            dialled_here,
            peer_boot,
        }
    }

    #[test]
    fn simultaneous_dials_end_in_the_same_connection_on_both_sides() {
        let (a, b) = (NodeName::from("a"), NodeName::from("b"));
        // Whatever order each side saw the two in, the one that a dialled is left.
        for a_saw_own_first in [true, false] {
            let verdict = elect(&a, &b, facts(a_saw_own_first, 1), facts(!a_saw_own_first, 1));
            assert_eq!(verdict == Verdict::Keep, a_saw_own_first);
        }
        for b_saw_own_first in [true, false] {
            let verdict = elect(&b, &a, facts(b_saw_own_first, 1), facts(!b_saw_own_first, 1));
            assert_eq!(verdict == Verdict::Replace, b_saw_own_first);
        }
    }

    #[test]
    fn a_connection_to_an_earlier_life_of_the_peer_is_replaced_whoever_dialled() {
        let (a, b) = (NodeName::from("a"), NodeName::from("b"));
        for (here, peer) in [(&a, &b), (&b, &a)] {
            for old in [true, false] {
                for new in [true, false] {
                    let verdict = elect(here, peer, facts(old, 1), facts(new, 2));
                    assert_eq!(verdict, Verdict::ReplaceDead);
                    // The news of the earlier life comes last: the living connection stays, and is not closed.
                    assert_eq!(elect(here, peer, facts(old, 2), facts(new, 1)), Verdict::Keep);
                }
            }
        }
        assert_eq!(elect(&a, &b, facts(false, 1), facts(false, 1)), Verdict::Replace);
    }

    #[test]
    fn waits_double_up_to_a_second() {
        let waits: Vec<u128> = (0..8).map(|failures| retry_delay(failures).as_millis()).collect();
        assert_eq!(waits, [0, 50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(retry_delay(u32::MAX).as_millis(), 1000);
    }
}
