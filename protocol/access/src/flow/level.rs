//! Priority levels: how many seats each has of its own, how many it lends and may borrow, and what becomes of a request that
//! finds none.

use std::collections::HashMap;

use api::access::Access;
use serde_json::Value;

use crate::flow::queues::Queues;

/// Objects of a list that weigh as much as one request. Kubernetes has 100, as its other requests wait for etcd; here a read of one
/// object takes tens of microseconds, and a list of 400 with 2 KB each took 3 ms of computing.
const OBJECTS_PER_SEAT: u64 = 20;
/// The most seats that one request takes, a quarter of the default seats of a server.
const SEATS_MAX: u64 = 50;

/// The most queues that a level gets, whatever its object says: more of them part flows no better, and each takes memory.
const QUEUES_MAX: u64 = 10_000;
/// The most queues that a flow is dealt. A hash of 64 bits cannot tell more hands apart in any deck worth having.
const HAND_MAX: u64 = 32;

/// How many seats a list or the start of a watch takes, by the number of objects that are read for it.
pub fn seats_of_list(objects: u64) -> u32 {
    objects.div_ceil(OBJECTS_PER_SEAT).clamp(1, SEATS_MAX) as u32
}

/// What a request meets that cannot run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Response {
    /// It is refused.
    Reject,
    /// It waits.
    Queue,
}

/// A `flowcontrol.apiserver.k8s.io/v1` PriorityLevelConfiguration, and what runs in it.
#[derive(Clone, Debug)]
pub(super) struct Level {
    pub uid: String,
    /// Exempt levels run everything at once.
    pub exempt: bool,
    pub response: Response,
    shares: u64,
    lendable_percent: u64,
    borrowing_percent: Option<u64>,
    /// Seats of its own; with those lent out it still keeps `kept`.
    pub nominal: u64,
    pub kept: u64,
    /// The most that it may use with what it borrows.
    pub most: u64,
    pub in_use: u64,
    /// How many requests use them.
    pub running: usize,
    pub queues: Queues,
    /// How many requests run beside the seats.
    pub stools_in_use: usize,
    /// How many requests of each flow wait or run, by the flow's hash.
    flows: HashMap<u64, usize>,
    /// It was deleted: what is in it ends, nothing more comes.
    pub leaving: bool,
}

impl Level {
    pub fn from_value(object: &Value, before: Option<Level>) -> Level {
        let spec = object.at(&["spec"]);
        let exempt = spec.text("type") == "Exempt";
        let part = spec.at(&[if exempt { "exempt" } else { "limited" }]);
        let response = part.at(&["limitResponse"]);
        let queuing = response.at(&["queuing"]);
        // Absent numbers mean what the API defaults them to.
        let number = |value: &Value, name: &str, default: i64| value.int(name).unwrap_or(default).max(0) as u64;
        let before = before.map(|level| {
            (
                level.queues,
                level.in_use,
                level.running,
                level.stools_in_use,
                level.flows,
            )
        });
        let (mut queues, in_use, running, stools_in_use, flows) = before.unwrap_or_default();
        let waits = response.text("type") == "Queue";
        if waits {
            let deck = number(queuing, "queues", 64).clamp(1, QUEUES_MAX) as usize;
            let hand = number(queuing, "handSize", 8).clamp(1, HAND_MAX) as usize;
            queues.resize(deck, hand, number(queuing, "queueLengthLimit", 50).max(1) as usize);
        } else {
            queues.resize(0, 0, 0);
        }
        Level {
            uid: object.at(&["metadata"]).text("uid").to_owned(),
            exempt,
            response: if waits { Response::Queue } else { Response::Reject },
            shares: number(part, "nominalConcurrencyShares", if exempt { 0 } else { 30 }),
            lendable_percent: number(part, "lendablePercent", 0).min(100),
            borrowing_percent: part.int("borrowingLimitPercent").map(|percent| percent.max(0) as u64),
            nominal: 0,
            kept: 0,
            most: 0,
            in_use,
            running,
            queues,
            stools_in_use,
            flows,
            leaving: false,
        }
    }

    /// Its share of the server's seats: rounded up, so that no level with a share is left without a seat.
    pub fn set_seats(&mut self, server: u64, all_shares: u64) {
        self.nominal = if self.leaving || all_shares == 0 {
            0
        } else {
            (server * self.shares).div_ceil(all_shares)
        };
        let lent = (self.nominal * self.lendable_percent + 50) / 100;
        self.kept = self.nominal - lent;
        let borrowed = self
            .borrowing_percent
            .map(|percent| (self.nominal * percent + 50) / 100);
        self.most = borrowed.map_or(u64::MAX, |borrowed| self.nominal.saturating_add(borrowed));
    }

    /// Whether a request that takes so many seats runs at once, beside them: the only one of its flow may, if it takes one. An
    /// eighth of the level's seats bounds what so many flows cost.
    pub fn offers_stool(&self, flow: u64, width: u32) -> bool {
        let stools = self.nominal.div_ceil(8) as usize;
        width == 1 && self.stools_in_use < stools && !self.flows.contains_key(&flow)
    }

    /// A request of a flow waits or runs from now on.
    pub fn enter(&mut self, flow: u64) {
        *self.flows.entry(flow).or_default() += 1;
    }

    /// A request of a flow is over.
    pub fn leave(&mut self, flow: u64) {
        if let Some(count) = self.flows.get_mut(&flow) {
            *count -= 1;
            if *count == 0 {
                self.flows.remove(&flow);
            }
        }
    }

    /// Whether nothing waits or runs.
    pub fn is_empty(&self) -> bool {
        self.in_use == 0 && self.stools_in_use == 0 && self.queues.waiting() == 0
    }

    /// A request begins to run.
    pub fn take(&mut self, width: u32) {
        self.in_use += u64::from(width);
        self.running += 1;
    }

    /// A request that ran has ended.
    pub fn give_back(&mut self, width: u32) {
        self.in_use -= u64::from(width);
        self.running -= 1;
    }

    pub fn shares(&self) -> u64 {
        if self.leaving { 0 } else { self.shares }
    }

    /// Seats that nobody else may use now.
    pub fn reserved(&self) -> u64 {
        if self.exempt { 0 } else { self.in_use.max(self.kept) }
    }
}
