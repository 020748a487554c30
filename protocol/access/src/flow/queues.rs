//! The queues of one priority level: a flow is dealt a few of them (shuffle sharding), a request waits in the one of these with
//! the least work, and the next request comes from the queue that has had the least service. Fairness is by virtual time,
//! as KEP-1040 describes it ("fair queuing for server requests").

use std::collections::VecDeque;

use crate::flow::control::RequestId;

/// An instant of the caller's monotonic clock, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(pub u64);

impl Micros {
    /// This instant plus a duration in microseconds.
    #[must_use]
    pub fn plus(self, micros: u64) -> Micros {
        Micros(self.0.saturating_add(micros))
    }

    fn since(self, earlier: Micros) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// What a request is expected to take before it is known, in microseconds; the difference is made up when it ends.
const EXPECTED_MICROS: f64 = 3000.0;

/// A request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub request: RequestId,
    /// How many seats it takes.
    pub width: u32,
    pub since: Micros,
}

#[derive(Clone, Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Seats of those that wait.
    width: u64,
    /// Requests and seats in use.
    running: u32,
    seats: u64,
    /// The virtual time at which its next request starts.
    next_start: f64,
}

impl Queue {
    fn is_active(&self) -> bool {
        self.running > 0 || !self.waiting.is_empty()
    }
}

/// The queues of a level.
#[derive(Clone, Debug, Default)]
pub(super) struct Queues {
    queues: Vec<Queue>,
    /// How many of them are dealt; the others only drain.
    deck: usize,
    hand: usize,
    length_max: usize,
    /// Virtual time: seat-microseconds that each active queue has had.
    virtual_now: f64,
    at: Micros,
    /// Where the search for the next queue begins, so that equals take turns.
    turn: usize,
    waiting: usize,
}

impl Queues {
    /// Takes a new size. Requests that wait in a queue that is no longer dealt wait on.
    pub fn resize(&mut self, deck: usize, hand: usize, length_max: usize) {
        self.deck = deck;
        self.hand = hand.min(deck);
        self.length_max = length_max;
        let used = self
            .queues
            .iter()
            .rposition(Queue::is_active)
            .map_or(0, |last| last + 1);
        self.queues.resize(deck.max(used), Queue::default());
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The queues that a flow may use: `hand` different ones out of the deck, by its hash alone.
    pub fn deal(&self, hash: u64) -> Vec<usize> {
        let mut cards: Vec<usize> = Vec::with_capacity(self.hand);
        let mut rest = hash;
        for dealt in 0..self.hand {
            let left = (self.deck - dealt) as u64;
            let mut card = (rest % left) as usize;
            rest /= left;
            // The card is a place among those that are left: skip the ones that were dealt, in order.
            let mut taken = cards.clone();
            taken.sort_unstable();
            for earlier in taken {
                if earlier <= card {
                    card += 1;
                }
            }
            cards.push(card);
        }
        cards
    }

    /// Lets the request wait in the best of the flow's queues, and says in which. `None` when that queue is full.
    pub fn enqueue(&mut self, now: Micros, hash: u64, waiting: Waiting, seats: u64) -> Option<usize> {
        let work = |queue: &Queue| (queue.width + queue.seats, queue.waiting.len());
        let hand = self.deal(hash);
        let best = hand.into_iter().min_by_key(|index| work(&self.queues[*index]))?;
        if self.queues[best].waiting.len() >= self.length_max {
            return None;
        }
        self.advance(now, seats);
        let virtual_now = self.virtual_now;
        let queue = &mut self.queues[best];
        if !queue.is_active() {
            queue.next_start = virtual_now;
        }
        queue.width += u64::from(waiting.width);
        queue.waiting.push_back(waiting);
        self.waiting += 1;
        Some(best)
    }

    /// Virtual time goes on while requests run: as fast as each active queue is served.
    fn advance(&mut self, now: Micros, seats: u64) {
        let elapsed = now.since(self.at) as f64;
        self.at = self.at.max(now);
        let active = self.queues.iter().filter(|queue| queue.is_active()).count();
        if active == 0 {
            // Nobody remembers what was before: numbers stay small however long the server lives.
            self.virtual_now = 0.0;
            return;
        }
        let wanted: u64 = self.queues.iter().map(|queue| queue.seats + queue.width).sum();
        self.virtual_now += elapsed * wanted.min(seats) as f64 / active as f64;
    }

    /// The queue whose next request would start first in virtual time, and that request.
    pub fn next(&self) -> Option<(usize, Waiting)> {
        if self.waiting == 0 {
            return None;
        }
        let count = self.queues.len();
        let order = (0..count).map(|step| (self.turn + step) % count);
        let candidates = order.filter_map(|index| {
            let queue = &self.queues[index];
            let head = queue.waiting.front()?;
            let finish = queue.next_start + EXPECTED_MICROS * f64::from(head.width);
            Some((index, *head, finish))
        });
        let first = candidates.min_by(|a, b| a.2.total_cmp(&b.2))?;
        Some((first.0, first.1))
    }

    /// The head of the queue begins to run.
    pub fn start(&mut self, now: Micros, index: usize, seats: u64) -> Option<Waiting> {
        self.advance(now, seats);
        let queue = self.queues.get_mut(index)?;
        let head = queue.waiting.pop_front()?;
        queue.width -= u64::from(head.width);
        queue.running += 1;
        queue.seats += u64::from(head.width);
        queue.next_start += EXPECTED_MICROS * f64::from(head.width);
        self.waiting -= 1;
        self.turn = (index + 1) % self.queues.len();
        Some(head)
    }

    /// A request of the queue ended after it ran since `started`: the queue's account is put right.
    pub fn finish(&mut self, now: Micros, index: usize, width: u32, started: Micros, seats: u64) {
        self.advance(now, seats);
        let Some(queue) = self.queues.get_mut(index) else {
            return;
        };
        queue.running -= 1;
        queue.seats -= u64::from(width);
        queue.next_start += (now.since(started) as f64 - EXPECTED_MICROS) * f64::from(width);
    }

    /// Takes a waiting request out. Whether it was there.
    pub fn remove(&mut self, index: usize, request: RequestId) -> bool {
        let Some(queue) = self.queues.get_mut(index) else {
            return false;
        };
        let Some(at) = queue.waiting.iter().position(|waiting| waiting.request == request) else {
            return false;
        };
        if let Some(gone) = queue.waiting.remove(at) {
            queue.width -= u64::from(gone.width);
            self.waiting -= 1;
        }
        true
    }

    /// Since when the oldest of all has waited.
    pub fn oldest(&self) -> Option<Waiting> {
        let heads = self.queues.iter().filter_map(|queue| queue.waiting.front().copied());
        heads.min_by_key(|head| head.since)
    }

    /// All queues' indices with their oldest request that has waited since `before` or earlier.
    pub fn overdue(&self, before: Micros) -> Option<(usize, Waiting)> {
        let mut heads = self.queues.iter().enumerate();
        heads.find_map(|(index, queue)| {
            let head = queue.waiting.front().filter(|head| head.since <= before)?;
            Some((index, *head))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A hand is of different queues, and the same for the same flow.
        #[test]
        fn a_hand_is_fair(hash in any::<u64>(), deck in 1usize..200, hand in 1usize..10) {
            let mut queues = Queues::default();
            queues.resize(deck, hand, 10);
            let dealt = queues.deal(hash);
            let mut different = dealt.clone();
            different.sort_unstable();
            different.dedup();
            prop_assert_eq!(different.len(), hand.min(deck));
            prop_assert!(different.iter().all(|card| *card < deck));
            prop_assert_eq!(dealt, queues.deal(hash));
        }
    }

    #[test]
    fn all_queues_are_dealt_about_as_often() {
        let mut queues = Queues::default();
        queues.resize(16, 4, 10);
        let mut count = [0u32; 16];
        for flow in 0..16_000u64 {
            for card in queues.deal(flow.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
                count[card] += 1;
            }
        }
        assert!(count.iter().all(|times| (3600..4400).contains(times)), "{count:?}");
    }
}
