//! Which requests run now. One event in, effects out; between two events no request waits that could run.
//!
//! Invariants: the seats in use of all limited levels never exceed the server's; each level always has the seats that it does
//! not lend, whatever the others do; a request that arrived is run or refused once, unless it is cancelled first.
//!
//! Beside its seats a level with queues has a few stools, which Kubernetes has not: a flow's only request, if it takes one seat
//! and none is free, runs on one at once. Reading an object takes less time than the next end of a long list.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use crate::attributes::Attributes;
use crate::flow::defaults::{CATCH_ALL, EXEMPT, catch_all_objects, exempt_objects};
use crate::flow::level::{Level, Response};
use crate::flow::queues::{Micros, Waiting};
use crate::flow::schema::{Flow, FlowSchema};

/// The caller's number of a request, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// The server's bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowLimits {
    /// How many seats all limited levels share.
    pub seats: u64,
    /// How long a request may wait, in microseconds: Kubernetes lets it wait a quarter of its time.
    pub wait_max: u64,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum FlowEvent {
    /// A request came.
    Arrive {
        /// Its number.
        request: RequestId,
        /// Where it belongs: `FlowControl::classify`.
        flow: Flow,
        /// How many seats it takes, at least one.
        seats: u32,
    },
    /// A request that ran has ended.
    Finish {
        /// Its number.
        request: RequestId,
    },
    /// The client of a request that waits has gone.
    Cancel {
        /// Its number.
        request: RequestId,
    },
    /// `FlowControl::deadline` has come.
    Tick,
}

/// Why a request was not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitRefusal {
    /// The level refuses what it cannot run at once.
    Concurrency,
    /// The flow's queues are full.
    QueueFull,
    /// It waited as long as it may.
    TimeOut,
}

/// What the caller does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowEffect {
    /// The request runs; its end must be told.
    Run {
        /// Its number.
        request: RequestId,
    },
    /// The request is refused with 429 and `Retry-After: 1`.
    Refuse {
        /// Its number.
        request: RequestId,
        /// Why.
        why: WaitRefusal,
    },
}

#[derive(Clone, Debug)]
struct Place {
    level: String,
    /// The flow's hash.
    flow: u64,
    /// It runs beside the level's seats.
    stool: bool,
    /// The queue that it came through; `None` where it ran without waiting in a level without queues.
    queue: Option<usize>,
    width: u32,
    /// When it began to run; `None` while it waits.
    started: Option<Micros>,
}

/// The state.
#[derive(Clone, Debug)]
pub struct FlowControl {
    limits: FlowLimits,
    /// By precedence and name.
    schemas: BTreeMap<(i64, String), FlowSchema>,
    levels: BTreeMap<String, Level>,
    requests: HashMap<RequestId, Place>,
    /// The level that is asked first for the next free seat.
    turn: usize,
}

impl FlowControl {
    /// With the two levels that always exist.
    pub fn new(limits: FlowLimits) -> FlowControl {
        let mut control = FlowControl {
            limits,
            schemas: BTreeMap::new(),
            levels: BTreeMap::new(),
            requests: HashMap::new(),
            turn: 0,
        };
        control.restore_mandatory();
        control.share_seats();
        control
    }

    /// The exempt and the catch-all objects are there even when their stored ones are not.
    fn restore_mandatory(&mut self) {
        for (schema, level) in [exempt_objects(), catch_all_objects()] {
            let schema = FlowSchema::from_value(&schema);
            if !self.schemas.values().any(|known| known.name == schema.name) {
                self.schemas.insert((schema.precedence, schema.name.clone()), schema);
            }
            let name = level["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            if self.levels.get(&name).is_none_or(|level| level.leaving) {
                let before = self.levels.remove(&name);
                self.levels.insert(name, Level::from_value(&level, before));
            }
        }
    }

    /// Takes an object of `flowschemas` or `prioritylevelconfigurations` as it is now. What waits may run by it.
    pub fn upsert(&mut self, now: Micros, resource: &str, object: &Value, effects: &mut Vec<FlowEffect>) {
        match resource {
            "flowschemas" => {
                let schema = FlowSchema::from_value(object);
                self.schemas.retain(|_, known| known.name != schema.name);
                self.schemas.insert((schema.precedence, schema.name.clone()), schema);
            }
            "prioritylevelconfigurations" => {
                let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let before = self.levels.remove(&name);
                self.levels.insert(name, Level::from_value(object, before));
            }
            _ => return,
        }
        self.share_seats();
        self.dispatch(now, effects);
    }

    /// Forgets an object. What is in a level that goes runs to its end.
    pub fn remove(&mut self, now: Micros, resource: &str, name: &str, effects: &mut Vec<FlowEffect>) {
        match resource {
            "flowschemas" => self.schemas.retain(|_, known| known.name != name),
            "prioritylevelconfigurations" => {
                if let Some(level) = self.levels.get_mut(name) {
                    level.leaving = true;
                }
            }
            _ => return,
        }
        self.restore_mandatory();
        self.share_seats();
        self.dispatch(now, effects);
    }

    fn share_seats(&mut self) {
        self.levels.retain(|_, level| !level.leaving || !level.is_empty());
        let shares: u64 = self.levels.values().map(Level::shares).sum();
        for level in self.levels.values_mut() {
            level.set_seats(self.limits.seats, shares);
        }
    }

    /// Where the request belongs. A schema whose level does not exist is passed over.
    pub fn classify(&self, attributes: &Attributes<'_>) -> Flow {
        let exists = |schema: &&FlowSchema| self.levels.get(&schema.level).is_some_and(|level| !level.leaving);
        let mut schemas = self.schemas.values().filter(exists);
        let schema = schemas.find(|schema| schema.matches(attributes));
        schema.map_or_else(
            || Flow {
                schema: CATCH_ALL.to_owned(),
                schema_uid: String::new(),
                level: CATCH_ALL.to_owned(),
                distinguisher: attributes.user.name.clone(),
            },
            |schema| schema.flow(attributes),
        )
    }

    /// The uid of a priority level, for the header `X-Kubernetes-PF-PriorityLevel-UID`.
    pub fn level_uid(&self, name: &str) -> &str {
        self.levels.get(name).map_or("", |level| &level.uid)
    }

    /// Whether the level runs everything at once: its requests need not be told.
    pub fn is_exempt(&self, level: &str) -> bool {
        self.levels.get(level).is_some_and(|level| level.exempt)
    }

    /// When `Tick` must be told at the latest: the first instant at which a request has waited too long.
    pub fn deadline(&self) -> Option<Micros> {
        let oldest = self.levels.values().filter_map(|level| level.queues.oldest());
        oldest
            .map(|waiting| waiting.since)
            .min()
            .map(|since| since.plus(self.limits.wait_max))
    }

    /// How many requests wait and how many seats are in use, by level.
    pub fn occupancy(&self) -> impl Iterator<Item = (&str, usize, u64)> {
        self.levels
            .iter()
            .map(|(name, level)| (name.as_str(), level.queues.waiting(), level.in_use))
    }

    /// Takes one event.
    pub fn decide(&mut self, now: Micros, event: FlowEvent, effects: &mut Vec<FlowEffect>) {
        match event {
            FlowEvent::Arrive { request, flow, seats } => self.arrive(now, request, &flow, seats, effects),
            FlowEvent::Finish { request } => self.finish(now, request),
            FlowEvent::Cancel { request } => self.cancel(request),
            FlowEvent::Tick => {}
        }
        self.expire(now, effects);
        self.dispatch(now, effects);
        self.assert_invariants();
    }

    fn arrive(&mut self, now: Micros, request: RequestId, flow: &Flow, seats: u32, effects: &mut Vec<FlowEffect>) {
        let name = if self.levels.contains_key(&flow.level) {
            &flow.level
        } else {
            CATCH_ALL
        };
        let waits = |level: &Level| level.queues.waiting() > 0 || !self.may_take(name, seats.max(1));
        let would_wait = self.levels.get(name).is_some_and(waits);
        let Some(level) = self.levels.get_mut(name) else { return };
        // Nothing takes more seats than a level has of its own, or it could never run.
        let width = u64::from(seats.max(1)).min(level.nominal.max(1)) as u32;
        let hash = flow.hash();
        let place = |queue, started| Place {
            level: name.to_owned(),
            flow: hash,
            stool: false,
            queue,
            width,
            started,
        };
        if level.exempt {
            level.take(width);
            self.requests.insert(request, place(None, Some(now)));
            effects.push(FlowEffect::Run { request });
            return;
        }
        if level.response == Response::Queue {
            if would_wait && level.offers_stool(hash, width) {
                level.enter(hash);
                level.stools_in_use += 1;
                let stool = Place {
                    stool: true,
                    ..place(None, Some(now))
                };
                self.requests.insert(request, stool);
                effects.push(FlowEffect::Run { request });
                return;
            }
            let waiting = Waiting {
                request,
                width,
                since: now,
            };
            match level.queues.enqueue(now, hash, waiting, level.nominal) {
                Some(queue) => {
                    level.enter(hash);
                    self.requests.insert(request, place(Some(queue), None));
                }
                None => effects.push(FlowEffect::Refuse {
                    request,
                    why: WaitRefusal::QueueFull,
                }),
            }
            return;
        }
        let place = place(None, Some(now));
        if self.may_take(name, width) {
            if let Some(level) = self.levels.get_mut(name) {
                level.take(width);
            }
            self.requests.insert(request, place);
            effects.push(FlowEffect::Run { request });
        } else {
            effects.push(FlowEffect::Refuse {
                request,
                why: WaitRefusal::Concurrency,
            });
        }
    }

    /// All seats of the limited levels. Rounding up gives a few more than the server's bound.
    fn seats(&self) -> u64 {
        self.levels.values().map(|level| level.nominal).sum()
    }

    /// Whether the level may use so many more seats: what the others use or keep, and what it would use itself, must fit.
    fn may_take(&self, name: &str, width: u32) -> bool {
        let Some(level) = self.levels.get(name) else {
            return false;
        };
        if level.exempt {
            return true;
        }
        let wanted = level.in_use + u64::from(width);
        let others = self.levels.iter().filter(|(other, _)| other.as_str() != name);
        let reserved: u64 = others.map(|(_, level)| level.reserved()).sum();
        let fits = reserved + wanted.max(level.kept) <= self.seats() || wanted <= level.kept;
        // A level without seats, which is leaving or has no share, empties one request at a time.
        fits && wanted <= level.most.max(1) || level.in_use == 0 && level.nominal == 0
    }

    fn finish(&mut self, now: Micros, request: RequestId) {
        let Some(place) = self.requests.remove(&request) else {
            return;
        };
        let Some(started) = place.started else {
            // It waits: only a cancel ends that.
            self.requests.insert(request, place);
            return;
        };
        let Some(level) = self.levels.get_mut(&place.level) else {
            return;
        };
        if place.stool {
            level.leave(place.flow);
            level.stools_in_use -= 1;
        } else {
            level.give_back(place.width);
        }
        if let Some(queue) = place.queue {
            let seats = level.nominal;
            level.leave(place.flow);
            level.queues.finish(now, queue, place.width, started, seats);
        }
        if level.leaving {
            self.share_seats();
        }
    }

    fn cancel(&mut self, request: RequestId) {
        let Some(place) = self.requests.get(&request) else {
            return;
        };
        let (Some(queue), None) = (place.queue, place.started) else {
            return;
        };
        if let Some(level) = self.levels.get_mut(&place.level) {
            level.leave(place.flow);
            level.queues.remove(queue, request);
        }
        self.requests.remove(&request);
    }

    fn expire(&mut self, now: Micros, effects: &mut Vec<FlowEffect>) {
        let Some(before) = now.0.checked_sub(self.limits.wait_max) else {
            return;
        };
        for level in self.levels.values_mut() {
            while let Some((queue, waiting)) = level.queues.overdue(Micros(before)) {
                level.queues.remove(queue, waiting.request);
                if let Some(place) = self.requests.remove(&waiting.request) {
                    level.leave(place.flow);
                }
                let why = WaitRefusal::TimeOut;
                effects.push(FlowEffect::Refuse {
                    request: waiting.request,
                    why,
                });
            }
        }
    }

    /// Starts what can run: first in the levels that use fewer seats than are theirs, then in those that borrow. Levels take
    /// turns.
    fn dispatch(&mut self, now: Micros, effects: &mut Vec<FlowEffect>) {
        let waits = self.levels.iter().filter(|(_, level)| level.queues.waiting() > 0);
        let names: Vec<String> = waits.map(|(name, _)| name.clone()).collect();
        for borrows in [false, true] {
            let mut idle = 0;
            while idle < names.len() {
                let name = &names[self.turn % names.len()];
                self.turn = (self.turn + 1) % names.len();
                if self.start_one(now, name, borrows, effects) {
                    idle = 0;
                } else {
                    idle += 1;
                }
            }
        }
    }

    fn start_one(&mut self, now: Micros, name: &str, borrows: bool, effects: &mut Vec<FlowEffect>) -> bool {
        let Some(level) = self.levels.get(name) else {
            return false;
        };
        let Some((queue, head)) = level.queues.next() else {
            return false;
        };
        let within = level.in_use + u64::from(head.width) <= level.nominal;
        if !within && !borrows || !self.may_take(name, head.width) {
            return false;
        }
        let Some(level) = self.levels.get_mut(name) else {
            return false;
        };
        level.take(head.width);
        let seats = level.nominal;
        level.queues.start(now, queue, seats);
        if let Some(place) = self.requests.get_mut(&head.request) {
            place.started = Some(now);
        }
        effects.push(FlowEffect::Run { request: head.request });
        true
    }

    /// Checked after every event, in release too: it is a bug of ours if a request is counted in two places or in none.
    fn assert_invariants(&self) {
        let counted: usize = self
            .levels
            .values()
            .map(|level| level.queues.waiting() + level.running + level.stools_in_use)
            .sum();
        assert_eq!(counted, self.requests.len(), "requests are lost or counted twice");
        assert!(self.levels.contains_key(CATCH_ALL) && self.levels.contains_key(EXEMPT));
    }
}
