//! The membership protocol without input and output: foca, its timers, and the view. It is given datagrams, commands and
//! the time; it returns datagrams to send and events. `driver` runs it over the mesh, and the tests run many of them over a
//! simulated network.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foca::{Foca, NoCustomBroadcast, Notification, Runtime, Timer};
use protocol::{NodeName, UnixMillis};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::codec::{GossipCodec, decode_state, encode_state, source};
use super::identity::{MemberFacts, MemberIdentity};
use super::timing::timings;
use super::view::{Known, Member, MemberEvent, View};

/// How often suspicion is looked for, and whether anyone has to be called on.
const TICK: Duration = Duration::from_millis(200);
/// A member that knows no other calls on known addresses so often.
const CALL_PERIOD: Duration = Duration::from_millis(600);
/// Addresses called on at a time.
const CALLS_MAX: usize = 3;
/// A member exchanges all that it knows with another so often. What a datagram holds of a large cluster is a part, and who
/// misses a piece of gossip would never hear it again.
const EXCHANGE_PERIOD: Duration = Duration::from_secs(30);
/// The first exchange, after the first contact.
const FIRST_EXCHANGE: Duration = Duration::from_millis(100);
/// A timer that fires so late means that this process, or its machine, stood still.
const STALL: Duration = Duration::from_millis(250);

/// A datagram to send.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// To whom.
    pub to: NodeName,
    /// Where that is, as far as the sender knows.
    pub address: SocketAddr,
    /// What.
    pub bytes: Bytes,
}

/// One member's end of the protocol.
pub struct Swim {
    foca: Foca<MemberIdentity, GossipCodec, SmallRng, NoCustomBroadcast>,
    effects: Effects,
    view: View,
    events: Vec<MemberEvent>,
    /// Members that were down or gone when this one last lost sight of all others. foca has forgotten them.
    lost: BTreeMap<NodeName, MemberIdentity>,
    /// Where members were that this one has known or was told of.
    known: BTreeMap<NodeName, SocketAddr>,
    origin: UnixMillis,
    /// How long the process stood still in all. Timers run on the time without it.
    stalled: Duration,
    next_tick: Duration,
    next_call: Duration,
    next_exchange: Option<Duration>,
    exchange: Option<NodeName>,
    sized_for: usize,
    /// Where the next call begins in `known`.
    turn: usize,
    left: bool,
    seed: u64,
    random: SmallRng,
}

/// What foca asks for.
#[derive(Default)]
struct Effects {
    now: Duration,
    timers: BinaryHeap<Pending>,
    sequence: u64,
    outgoing: Vec<Outgoing>,
    changed: bool,
    call_now: bool,
    alone: bool,
}

struct Pending {
    at: Duration,
    sequence: u64,
    timer: Timer<MemberIdentity>,
}

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pending {}

impl PartialOrd for Pending {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pending {
    /// The heap's greatest is the next to fire. Of those due at the same instant, foca's order holds.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at.cmp(&self.at))
            .then_with(|| other.timer.cmp(&self.timer))
            .then_with(|| other.sequence.cmp(&self.sequence))
    }
}

impl Runtime<MemberIdentity> for &mut Effects {
    fn notify(&mut self, notification: Notification<'_, MemberIdentity>) {
        self.changed = true;
        match notification {
            // Declared down by others, it has a new identity now and must make it known.
            Notification::Rejoin(_) => self.call_now = true,
            Notification::Idle => self.alone = true,
            _ => {}
        }
    }

    fn send_to(&mut self, to: MemberIdentity, bytes: &[u8]) {
        self.outgoing.push(Outgoing {
            to: to.name,
            address: to.address,
            bytes: Bytes::copy_from_slice(bytes),
        });
    }

    fn submit_after(&mut self, timer: Timer<MemberIdentity>, after: Duration) {
        self.sequence += 1;
        self.timers.push(Pending {
            at: self.now + after,
            sequence: self.sequence,
            timer,
        });
    }
}

impl Swim {
    /// A member that knows nobody. `origin` is the wall clock at elapsed time zero; `seed` makes it draw its numbers.
    pub fn new(identity: MemberIdentity, origin: UnixMillis, seed: u64) -> Swim {
        let foca = Foca::new(identity, timings(1), SmallRng::seed_from_u64(seed), GossipCodec);
        let mut swim = Swim {
            foca,
            effects: Effects::default(),
            view: View::default(),
            events: Vec::new(),
            lost: BTreeMap::new(),
            known: BTreeMap::new(),
            origin,
            stalled: Duration::ZERO,
            next_tick: TICK,
            next_call: Duration::ZERO,
            next_exchange: None,
            exchange: None,
            sized_for: 1,
            turn: 0,
            left: false,
            seed,
            random: SmallRng::seed_from_u64(!seed),
        };
        swim.refresh(Duration::ZERO);
        swim
    }

    /// This member as it calls itself at present.
    pub fn identity(&self) -> &MemberIdentity {
        self.foca.identity()
    }

    /// All members that are known, this one among them.
    pub fn members(&self) -> Arc<Vec<Member>> {
        self.view.members()
    }

    /// Where members are or were.
    pub fn known(&self) -> &BTreeMap<NodeName, SocketAddr> {
        &self.known
    }

    /// Takes what is to be sent.
    pub fn take_outgoing(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.effects.outgoing)
    }

    /// Takes what has changed.
    pub fn take_events(&mut self) -> Vec<MemberEvent> {
        std::mem::take(&mut self.events)
    }

    /// Takes the member with whom the whole state is to be exchanged now: it is sent `state`, and its own is given to
    /// `merge`.
    pub fn take_exchange(&mut self) -> Option<NodeName> {
        self.exchange.take()
    }

    /// The living members that this one knows, itself among them.
    pub fn state(&self) -> Vec<u8> {
        let own = (self.foca.identity(), 0);
        let others = self
            .foca
            .iter_members()
            .map(|member| (member.id(), member.incarnation()));
        // A state that does not encode is one of more members than fit into the largest message.
        encode_state(std::iter::once(own).chain(others)).unwrap_or_default()
    }

    /// Takes over the living members that another one knows.
    pub fn merge(&mut self, elapsed: Duration, from: &NodeName, state: &[u8]) {
        if self.left {
            return;
        }
        let members = match decode_state(state) {
            Ok(members) => members,
            Err(error) => {
                tracing::debug!(%from, %error, "a malformed state was dropped");
                return;
            }
        };
        self.effects.now = self.running(elapsed);
        let own = self.foca.identity().name.clone();
        let others = members.into_iter().filter(|member| member.id().name != own);
        if let Err(error) = self.foca.apply_many(others, true, &mut self.effects) {
            tracing::debug!(%from, %error, "a state was refused");
        }
        self.effects.changed = true;
        self.refresh(elapsed);
    }

    /// When `advance` is to be called next, in elapsed time.
    pub fn deadline(&self) -> Duration {
        let timer = self.effects.timers.peek().map_or(Duration::MAX, |pending| pending.at);
        timer.min(self.next_tick).saturating_add(self.stalled)
    }

    /// Calls on members by name and address, to be let into their midst.
    pub fn announce(&mut self, elapsed: Duration, seeds: &[(NodeName, SocketAddr)]) {
        for (name, address) in seeds {
            if *name != self.foca.identity().name {
                self.known.insert(name.clone(), *address);
            }
        }
        self.effects.now = self.running(elapsed);
        self.call();
        self.refresh(elapsed);
    }

    /// Takes a datagram that came over the connection of `from`. One that claims to be from someone else is dropped.
    pub fn receive(&mut self, elapsed: Duration, from: &NodeName, datagram: &[u8]) {
        match source(datagram) {
            Ok(source) if source.name == *from => {}
            Ok(source) => {
                tracing::warn!(%from, claims = %source.name, "gossip under another's name was dropped");
                return;
            }
            Err(error) => {
                tracing::debug!(%from, %error, "malformed gossip was dropped");
                return;
            }
        }
        if self.left {
            return;
        }
        self.effects.now = self.running(elapsed);
        if let Err(error) = self.foca.handle_data(datagram, &mut self.effects) {
            tracing::debug!(%from, %error, "gossip was refused");
        }
        self.refresh(elapsed);
    }

    /// Lets the time pass.
    pub fn advance(&mut self, elapsed: Duration) {
        let mut running = self.running(elapsed);
        if let Some(first) = self.effects.timers.peek() {
            let late = running.saturating_sub(first.at);
            if late > STALL {
                // This process stood still. What it has not heard meanwhile says nothing about the others: their answers
                // wait in the socket. So the time that was lost has not passed.
                tracing::debug!(late_ms = late.as_millis() as u64, "membership's timers were late");
                self.stalled += late;
                running = self.running(elapsed);
            }
        }
        self.effects.now = running;
        while self.effects.timers.peek().is_some_and(|pending| pending.at <= running) {
            let Some(Pending { timer, .. }) = self.effects.timers.pop() else {
                break;
            };
            if let Err(error) = self.foca.handle_timer(timer, &mut self.effects) {
                tracing::debug!(%error, "a membership timer was refused");
            }
        }
        if running >= self.next_tick {
            self.next_tick = running + TICK;
            self.effects.changed = true;
            if self.foca.num_members() == 0 && running >= self.next_call {
                self.effects.call_now = true;
            }
            self.plan_exchange(running);
        }
        self.refresh(elapsed);
    }

    /// Says something new of this member.
    pub fn set_facts(&mut self, elapsed: Duration, facts: MemberFacts) {
        let current = self.foca.identity();
        if current.facts == facts {
            return;
        }
        let renewed = MemberIdentity {
            facts,
            incarnation: current.incarnation + 1,
            ..current.clone()
        };
        self.effects.now = self.running(elapsed);
        if let Err(error) = self.foca.change_identity(renewed, &mut self.effects) {
            tracing::warn!(%error, "this member's facts could not be changed");
        }
        self.effects.changed = true;
        self.refresh(elapsed);
    }

    /// First step of leaving: tells the others that what follows is no failure.
    pub fn begin_leave(&mut self, elapsed: Duration) {
        let facts = MemberFacts {
            leaving: true,
            ..self.foca.identity().facts.clone()
        };
        self.set_facts(elapsed, facts);
    }

    /// Second step of leaving: declares itself down.
    pub fn leave(&mut self, elapsed: Duration) {
        self.effects.now = self.running(elapsed);
        self.left = true;
        if let Err(error) = self.foca.leave_cluster(&mut self.effects) {
            tracing::debug!(%error, "the others could not be told of the leave");
        }
        self.effects.timers.clear();
        self.next_tick = Duration::MAX;
    }

    fn running(&self, elapsed: Duration) -> Duration {
        elapsed.saturating_sub(self.stalled)
    }

    /// Chooses someone for an exchange when it is time for one.
    fn plan_exchange(&mut self, running: Duration) {
        let members = self.foca.num_members();
        if members == 0 {
            self.next_exchange = None;
            return;
        }
        let at = *self.next_exchange.get_or_insert(running + FIRST_EXCHANGE);
        if running >= at {
            self.next_exchange = Some(running + EXCHANGE_PERIOD);
            let chosen = self.random.random_range(0..members);
            self.exchange = self
                .foca
                .iter_members()
                .nth(chosen)
                .map(|member| member.id().name.clone());
        }
    }

    /// Calls on a few of those who were known, in turn.
    fn call(&mut self) {
        self.next_call = self.effects.now + CALL_PERIOD;
        self.effects.call_now = false;
        if self.left || self.known.is_empty() {
            return;
        }
        let targets: Vec<(NodeName, SocketAddr)> = self
            .known
            .iter()
            .cycle()
            .skip(self.turn % self.known.len())
            .take(CALLS_MAX.min(self.known.len()))
            .map(|(name, address)| (name.clone(), *address))
            .collect();
        self.turn = (self.turn + targets.len()) % self.known.len();
        for (name, address) in targets {
            // An announcement reaches whatever life of the member is there: only its name has to be right.
            let target = MemberIdentity {
                name,
                address,
                incarnation: 0,
                facts: MemberFacts::default(),
            };
            if let Err(error) = self.foca.announce(target, &mut self.effects) {
                tracing::debug!(%error, "a member could not be called on");
            }
        }
    }

    /// Begins a new life that accuses nobody. A member that sees all others dead has most likely been cut off itself. If
    /// it kept its accusations, it would spread them as soon as it is back, and each of the accused would be taken for
    /// dead by all until it has protested.
    fn start_afresh(&mut self) {
        self.effects.alone = false;
        if self.left {
            return;
        }
        for member in self.foca.iter_membership_state() {
            self.lost.insert(member.id().name.clone(), member.id().clone());
        }
        let own = self.foca.identity();
        let renewed = MemberIdentity {
            incarnation: own.incarnation + 1,
            ..own.clone()
        };
        self.seed = self.seed.wrapping_add(1);
        self.effects.timers.clear();
        self.sized_for = 1;
        self.foca = Foca::new(renewed, timings(1), SmallRng::seed_from_u64(self.seed), GossipCodec);
        self.effects.call_now = true;
    }

    /// Brings the view up to date with what foca knows, and foca's settings with the number of members.
    fn refresh(&mut self, elapsed: Duration) {
        if self.effects.alone {
            self.start_afresh();
        }
        if self.effects.call_now {
            self.call();
        }
        if !std::mem::take(&mut self.effects.changed) && !self.view.members().is_empty() {
            return;
        }
        let own = self.foca.identity().clone();
        for member in self.foca.iter_membership_state() {
            self.lost.remove(&member.id().name);
        }
        let others = self.foca.iter_membership_state().map(|member| Known {
            identity: member.id(),
            state: member.state(),
        });
        let lost = self.lost.values().map(|identity| Known {
            identity,
            state: foca::State::Down,
        });
        let own_known = Known {
            identity: &own,
            state: foca::State::Alive,
        };
        let known = others
            .chain(lost)
            .filter(|known| known.identity.name != own.name)
            .chain(std::iter::once(own_known));
        let now = UnixMillis(self.origin.0.saturating_add(elapsed.as_millis() as u64));
        let events = self.view.update(known, now);
        for event in &events {
            let member = event.member();
            if member.name != own.name {
                self.known.insert(member.name.clone(), member.address);
            }
            // Who has left is not called on.
            if matches!(event, MemberEvent::Left(_)) {
                self.known.remove(&member.name);
            }
        }
        self.events
            .extend(events.into_iter().filter(|event| event.member().name != own.name));
        let size = self.foca.num_members() + 1;
        if size != self.sized_for && self.foca.set_config(timings(size)).is_ok() {
            self.sized_for = size;
        }
    }
}
