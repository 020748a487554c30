//! Which of two connections between the same pair of nodes is used, and how long a failed dial is waited out. Called by
//! `peer`. Pure.

use std::time::Duration;

use protocol::NodeName;

/// What one knows of a connection when two compete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkFacts {
    /// Whether this node dialled it.
    pub dialled_here: bool,
    /// Which life of the peer's process it leads to; unknown until the peer has said so.
    pub peer_boot: Option<u64>,
}

/// What becomes of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The new one is used. The old one leads to an earlier life of the peer and is closed.
    ReplaceDead,
    /// The new one is used. The old one serves what runs on it and is left to idle out.
    Replace,
    /// The old one is used. The new one serves what the peer asks on it and is left to idle out.
    Keep,
}

/// Decides between the connection in use and one that has just been made. Both ends come to the same verdict when they
/// dialled each other at the same moment: the connection of the node whose name sorts first wins.
pub fn elect(here: &NodeName, peer: &NodeName, old: LinkFacts, new: LinkFacts) -> Verdict {
    if let (Some(old_boot), Some(new_boot)) = (old.peer_boot, new.peer_boot)
        && old_boot != new_boot
    {
        return Verdict::ReplaceDead;
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

    fn facts(dialled_here: bool, peer_boot: Option<u64>) -> LinkFacts {
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
            let verdict = elect(&a, &b, facts(a_saw_own_first, None), facts(!a_saw_own_first, None));
            assert_eq!(verdict == Verdict::Keep, a_saw_own_first);
        }
        for b_saw_own_first in [true, false] {
            let verdict = elect(
                &b,
                &a,
                facts(b_saw_own_first, Some(1)),
                facts(!b_saw_own_first, Some(1)),
            );
            assert_eq!(verdict == Verdict::Replace, b_saw_own_first);
        }
    }

    #[test]
    fn a_connection_to_an_earlier_life_of_the_peer_is_replaced_whoever_dialled() {
        let (a, b) = (NodeName::from("a"), NodeName::from("b"));
        for old in [true, false] {
            for new in [true, false] {
                let verdict = elect(&a, &b, facts(old, Some(1)), facts(new, Some(2)));
                assert_eq!(verdict, Verdict::ReplaceDead);
            }
        }
        assert_eq!(
            elect(&a, &b, facts(false, Some(1)), facts(false, Some(1))),
            Verdict::Replace
        );
    }

    #[test]
    fn waits_double_up_to_a_second() {
        let waits: Vec<u128> = (0..8).map(|failures| retry_delay(failures).as_millis()).collect();
        assert_eq!(waits, [0, 50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(retry_delay(u32::MAX).as_millis(), 1000);
    }
}
