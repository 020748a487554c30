//! The actors that are awake, by slot: waking, delivering, putting to sleep, starting again after a failure. Part of the
//! router's state. A sleeping actor has no entry here; the index knows its object.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use protocol::store::{ObjectStore, StoreEvent};
use protocol::{Cause, Revision};
use ractor::{Actor, ActorCell, ActorId, ActorRef};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use supervision::{
    Clock, Credits, Decision, Exit, Registration, Registry, RestartPolicy, RestartRule, RestartState, RunState,
};

use super::index::Index;
use super::{RouterArguments, RouterMessage, SharedFacts, paths};
use crate::kind::{Liveness, Slot};
use crate::kinds::{self, KindSettings};
use crate::object_actor::{ObjectActor, ObjectArguments, ObjectMessage};

/// Events under way to one actor; more of them are dropped and followed by a reload.
const EVENTS_MAX: usize = 256;

/// An actor that is awake.
struct Awake {
    actor: ActorRef<ObjectMessage>,
    registration: Registration,
    credits: Credits,
    /// Events were dropped, and the actor has not read its state since.
    overflowed: bool,
    /// Messages sent to this activation.
    sent: u64,
    /// It was told to stop.
    retiring: bool,
    /// Something happened since: it is woken again when it has stopped.
    woken: bool,
}

/// What is remembered of an actor that failed.
#[derive(Default)]
struct Trouble {
    restarts: RestartState,
    /// Its entry in the registry while it waits.
    waiting: Option<Registration>,
    token: u64,
}

/// The directory.
pub(super) struct Directory {
    store: Arc<dyn ObjectStore>,
    settings: Arc<KindSettings>,
    clock: Arc<dyn Clock>,
    registry: Registry,
    router: ActorRef<RouterMessage>,
    index: Arc<RwLock<Index>>,
    idle_after: Duration,
    facts: SharedFacts,
    rng: SmallRng,
    awake: HashMap<Slot, Awake>,
    slots: HashMap<ActorId, Slot>,
    trouble: HashMap<Slot, Trouble>,
    tokens: u64,
}

impl Directory {
    pub fn new(
        arguments: &RouterArguments,
        router: ActorRef<RouterMessage>,
        index: Arc<RwLock<Index>>,
        facts: SharedFacts,
    ) -> Directory {
        Directory {
            facts,
            store: Arc::clone(&arguments.store),
            settings: Arc::clone(&arguments.settings),
            clock: Arc::clone(&arguments.clock),
            registry: arguments.registry.clone(),
            router,
            index,
            idle_after: arguments.idle_after,
            rng: SmallRng::seed_from_u64(arguments.seed),
            awake: HashMap::new(),
            slots: HashMap::new(),
            trouble: HashMap::new(),
            tokens: 0,
        }
    }

    /// How many actors are awake.
    pub fn awake(&self) -> usize {
        self.awake.len()
    }

    /// How many wait after failures.
    pub fn troubled(&self) -> usize {
        self.trouble
            .values()
            .filter(|trouble| trouble.waiting.is_some())
            .count()
    }

    pub fn slot_of(&self, cell: &ActorCell) -> Option<Slot> {
        self.slots.get(&cell.get_id()).cloned()
    }

    pub fn name_of(&self, cell: &ActorCell) -> String {
        self.slot_of(cell)
            .map_or_else(|| cell.get_id().to_string(), |slot| slot.to_string())
    }

    /// Delivers an event: to an awake actor, or by waking it, in which case it reads what the event says.
    pub async fn observe(&mut self, slot: &Slot, event: &Arc<StoreEvent>, liveness: Option<Liveness>) {
        let Some(awake) = self.awake.get_mut(slot) else {
            return self.wake_for(slot.clone(), event.revision, event.cause, liveness).await;
        };
        if awake.retiring {
            awake.woken = true;
            return;
        }
        if awake.overflowed {
            return;
        }
        let message = match awake.credits.take() {
            Some(credit) => ObjectMessage::Observe(Arc::clone(event), credit),
            None => {
                awake.overflowed = true;
                ObjectMessage::Overflow
            }
        };
        awake.send(message);
    }

    /// Delivers any other message.
    pub async fn deliver(&mut self, slot: &Slot, message: ObjectMessage, at: Revision, liveness: Option<Liveness>) {
        if !self.awake.contains_key(slot) {
            self.wake(slot.clone(), at, liveness).await;
        }
        match self.awake.get_mut(slot) {
            Some(awake) if awake.retiring => awake.woken = true,
            Some(awake) => awake.send(message),
            None => {}
        }
    }

    /// Tells an awake actor what to read, as of the index's revision.
    pub fn requery(&mut self, slot: &Slot, at: Revision) {
        let related = self.index.read().related(slot);
        if let Some(awake) = self.awake.get_mut(slot).filter(|awake| !awake.retiring) {
            awake.overflowed = false;
            awake.send(ObjectMessage::Related(related, at));
        }
    }

    /// Has every awake actor read its state again.
    pub fn doubt_all(&mut self, at: Revision) {
        let slots: Vec<Slot> = self.awake.keys().cloned().collect();
        for slot in slots {
            self.requery(&slot, at);
        }
    }

    /// Puts an actor to sleep, unless something is on its way to it.
    pub fn idle(&mut self, slot: &Slot, heard: u64) {
        if let Some(awake) = self
            .awake
            .get_mut(slot)
            .filter(|awake| !awake.retiring && awake.sent == heard)
        {
            awake.retiring = true;
            awake.actor.stop(None);
        }
    }

    /// Starts the actor of a slot, unless it is awake, waits after failures, or has no subject.
    pub async fn wake(&mut self, slot: Slot, at: Revision, liveness: Option<Liveness>) {
        self.wake_for(slot, at, Cause::default(), liveness).await;
    }

    async fn wake_for(&mut self, slot: Slot, at: Revision, cause: Cause, liveness: Option<Liveness>) {
        if self.awake.contains_key(&slot) || self.trouble.get(&slot).is_some_and(|t| t.waiting.is_some()) {
            return;
        }
        let (path, related) = {
            let index = self.index.read();
            if !index.has_subject(&slot) {
                return;
            }
            (paths::path_of(&index, &slot), index.related(&slot))
        };
        if kinds::make(&slot, &self.settings).is_none() {
            return;
        }
        let registration = self.registry.register(path, kinds::name(&slot));
        let arguments = ObjectArguments {
            slot: slot.clone(),
            settings: Arc::clone(&self.settings),
            store: Arc::clone(&self.store),
            router: self.router.clone(),
            clock: Arc::clone(&self.clock),
            seed: self.rng.random(),
            view: registration.view(),
            related,
            related_at: at,
            liveness,
            cause,
            idle_after: self.idle_after,
            facts: self.facts.clone(),
        };
        let started = Actor::spawn_linked(None, ObjectActor, arguments, self.router.get_cell()).await;
        let actor = match started {
            Ok((actor, _)) => actor,
            Err(error) => {
                tracing::warn!(%slot, %error, "an object's actor did not start");
                return self.failed(slot, Exit::Failed, registration);
            }
        };
        let trouble = self.trouble.get_mut(&slot);
        let restarts = trouble.map_or(0, |trouble| {
            trouble.restarts.started(self.clock.now());
            trouble.restarts.restarts()
        });
        registration.ended(RunState::Running, restarts);
        registration.running(actor.get_cell(), Arc::new(actor.clone()));
        self.slots.insert(actor.get_id(), slot.clone());
        let awake = Awake {
            actor,
            registration,
            credits: Credits::new(EVENTS_MAX),
            overflowed: false,
            sent: 1 + u64::from(liveness.is_some()),
            retiring: false,
            woken: false,
        };
        self.awake.insert(slot, awake);
    }

    /// An actor has ended: asleep as it was told to, or by a failure.
    pub async fn ended(&mut self, cell: &ActorCell, slot: Slot, exit: Exit, at: Revision, liveness: Option<Liveness>) {
        self.slots.remove(&cell.get_id());
        let Some(awake) = self.awake.remove(&slot) else { return };
        if awake.retiring && exit == Exit::Normal {
            drop(awake.registration);
            self.trouble.remove(&slot);
            if awake.woken {
                self.wake(slot, at, liveness).await;
            }
            return;
        }
        self.failed(slot.clone(), exit, awake.registration);
        if self.trouble.get(&slot).is_some_and(|trouble| trouble.waiting.is_none()) {
            self.wake(slot, at, liveness).await;
        }
    }

    /// Decides when a failed actor is started again. One failure after the other: it waits, and only it.
    fn failed(&mut self, slot: Slot, exit: Exit, registration: Registration) {
        if !self.index.read().has_subject(&slot) {
            self.trouble.remove(&slot);
            return;
        }
        let policy = RestartPolicy::actor(RestartRule::Permanent);
        let now = self.clock.now();
        let trouble = self.trouble.entry(slot.clone()).or_default();
        match trouble.restarts.ended(&policy, exit, now) {
            Decision::RestartAfter { wait_ms } => {
                registration.ended(RunState::BackingOff, trouble.restarts.restarts());
                self.tokens += 1;
                trouble.token = self.tokens;
                trouble.waiting = Some(registration);
                let token = self.tokens;
                self.router.send_after(Duration::from_millis(wait_ms), move || {
                    RouterMessage::RestartDue(slot, token)
                });
            }
            Decision::Restart => trouble.waiting = None,
            Decision::Stop | Decision::Escalate => {
                self.trouble.remove(&slot);
            }
        }
    }

    /// The wait of a failed actor is over.
    pub async fn restart_due(&mut self, slot: Slot, token: u64, at: Revision, liveness: Option<Liveness>) {
        let Some(trouble) = self.trouble.get_mut(&slot).filter(|trouble| trouble.token == token) else {
            return;
        };
        trouble.waiting = None;
        self.wake(slot, at, liveness).await;
    }
}

impl Awake {
    fn send(&mut self, message: ObjectMessage) {
        self.sent += 1;
        // An actor that has just ended is started again when its end is heard of, and reads everything then.
        let _ = self.actor.send_message(message);
    }
}
