//! A control plane as a state machine that is told to take one step. Two of them over one store are a fail-over. Must
//! never read a clock or draw from any other generator than its own.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use protocol::store::{
    Change, Committed, ListRequest, ObjectStore, Proposal, ProposeError, StoreEvent, WatchItem, WatchRequest,
    WatchStream, Write,
};
use protocol::{Key, NodeName, Object, Revision, UnixMillis};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use scheduler::SchedulerConfiguration;

use super::at_once;
use crate::activation::{Activation, Next, Plan};
use crate::effects::Intent;
use crate::kind::{Event, Liveness, ObjectKind, Slot};
use crate::kinds::KindSettings;
use crate::router::index::Index;
use crate::scheduling::desk::{self, Desk, Round};
use crate::{compose, recorder};

/// Makes the deciding part of a slot: `kinds::make`, or a test's own with a planted bug.
pub type MakeKind = Box<dyn Fn(&Slot, &KindSettings) -> Option<Box<dyn ObjectKind>> + Send>;

/// One actor.
struct Running {
    activation: Activation,
    inbox: VecDeque<Arc<StoreEvent>>,
    pending: Option<Event>,
    liveness: Option<Liveness>,
    wants_load: bool,
    /// The own object, and the revision that the reactor must have seen before the related ones are read.
    own: Option<(Option<Arc<Object>>, Revision)>,
    load_at: UnixMillis,
    timers: BTreeMap<&'static str, UnixMillis>,
    plan: Option<Plan>,
    answers: Option<Vec<Result<Committed, ProposeError>>>,
}

/// The scheduler.
struct Scheduling {
    glasses: Glasses,
    desk: Desk,
    loaded_at: Revision,
    inbox: VecDeque<Arc<StoreEvent>>,
    round: Option<Round>,
}

/// Through what the scheduler sees objects: as they are, or falsified by a planted bug.
pub type Glasses = fn(&Key, &Arc<Object>) -> Arc<Object>;

/// What a reactor could do next.
#[derive(Clone, Debug)]
enum Step {
    Watch,
    Load(Slot),
    Observe(Slot),
    Decide(Slot),
    Timer(Slot, &'static str),
    Propose(Slot),
    Settle(Slot),
    SchedulerObserve,
    SchedulerDecide,
    SchedulerPropose,
}

/// The control plane.
pub struct Reactor {
    store: Arc<dyn ObjectStore>,
    settings: KindSettings,
    make: MakeKind,
    rng: SmallRng,
    index: Index,
    revision: Revision,
    watch: WatchStream,
    slots: BTreeMap<Slot, Running>,
    liveness: BTreeMap<NodeName, Liveness>,
    scheduling: Scheduling,
}

impl std::fmt::Debug for Reactor {
    /// What it has to do, for a failure's report.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slots = self.slots.iter().map(|(slot, running)| {
            let load = running.wants_load.then_some(running.load_at);
            (
                slot.to_string(),
                (
                    running.inbox.len(),
                    running.pending,
                    load,
                    running.timers.clone(),
                    running.activation.kind().summary(),
                ),
            )
        });
        f.debug_map().entries(slots).finish()?;
        write!(
            f,
            " scheduler: {} ({} events wait)",
            self.scheduling.desk.summary(),
            self.scheduling.inbox.len()
        )
    }
}

impl Reactor {
    /// Starts a control plane: reads everything, and wakes whoever has something to do.
    pub fn start(store: Arc<dyn ObjectStore>, settings: KindSettings, make: MakeKind, seed: u64) -> Reactor {
        let watch = Box::pin(futures::stream::empty());
        let scheduling = Scheduling {
            glasses: |_, object| Arc::clone(object),
            desk: Desk::new(SchedulerConfiguration::default()),
            loaded_at: Revision::ZERO,
            inbox: VecDeque::new(),
            round: None,
        };
        let mut reactor = Reactor {
            store,
            settings,
            make,
            rng: SmallRng::seed_from_u64(seed),
            index: Index::default(),
            revision: Revision::ZERO,
            watch,
            slots: BTreeMap::new(),
            liveness: BTreeMap::new(),
            scheduling,
        };
        reactor.crash();
        reactor
    }

    /// Everything that is not in the store is lost, and it starts again.
    pub fn crash(&mut self) {
        self.slots.clear();
        self.index = Index::default();
        self.revision = at_once(self.store.revision()).unwrap_or_default();
        for (key, object) in self.all() {
            self.index.insert(&key, &object);
        }
        let request = WatchRequest {
            resources: Vec::new(),
            after: Some(self.revision),
            ..WatchRequest::default()
        };
        if let Ok(watch) = at_once(self.store.watch(request)) {
            self.watch = watch;
        }
        for slot in self.index.initial() {
            self.wake(slot);
        }
        self.crash_scheduler();
    }

    /// The scheduler starts again and sees everything through these.
    pub fn put_on(&mut self, glasses: Glasses) {
        self.scheduling.glasses = glasses;
        self.crash_scheduler();
    }

    /// The scheduler is lost and starts again.
    pub fn crash_scheduler(&mut self) {
        let mut desk = Desk::new(SchedulerConfiguration::default());
        let glasses = self.scheduling.glasses;
        let loaded_at = at_once(self.store.revision()).unwrap_or_default();
        for resource in Desk::resources() {
            let page = at_once(self.store.list(ListRequest::all(*resource)));
            for (key, object) in page.map(|page| page.items).unwrap_or_default() {
                // What cannot be read is left out, as the actor does it.
                let _ = desk.observe(&key, Some(&glasses(&key, &object)));
            }
        }
        self.scheduling = Scheduling {
            glasses,
            desk,
            loaded_at,
            inbox: VecDeque::new(),
            round: None,
        };
    }

    /// A random actor is lost, with what it had decided and not written, and starts again.
    pub fn crash_one(&mut self) {
        if self.slots.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.slots.len());
        let Some(slot) = self.slots.keys().nth(at).cloned() else {
            return;
        };
        self.slots.remove(&slot);
        self.wake(slot);
    }

    fn all(&self) -> Vec<(Key, Arc<Object>)> {
        let mut found = Vec::new();
        for kind in api::kinds::stored_kinds() {
            if let Ok(page) = at_once(self.store.list(ListRequest::all(kind.resource()))) {
                found.extend(page.items);
            }
        }
        found
    }

    /// The membership says something.
    pub fn member(&mut self, node: &NodeName, liveness: Liveness) {
        self.liveness.insert(node.clone(), liveness);
        let slot = Slot::own(Key::new("nodes", "", node.as_str()));
        self.wake(slot.clone());
        if let Some(running) = self.slots.get_mut(&slot) {
            running.liveness = Some(liveness);
        }
    }

    fn wake(&mut self, slot: Slot) {
        if self.slots.contains_key(&slot) || !self.index.has_subject(&slot) {
            return;
        }
        let Some(kind) = (self.make)(&slot, &self.settings) else {
            return;
        };
        let liveness = (slot.key.resource.as_str() == "nodes")
            .then(|| self.liveness.get(&NodeName::from(&*slot.key.name)).copied())
            .flatten();
        let running = Running {
            activation: Activation::new(slot.clone(), kind),
            inbox: VecDeque::new(),
            pending: None,
            liveness,
            wants_load: true,
            own: None,
            load_at: UnixMillis(0),
            timers: BTreeMap::new(),
            plan: None,
            answers: None,
        };
        self.slots.insert(slot, running);
    }

    /// The next instant at which a timer or a back-off is due.
    pub fn next_due(&self) -> Option<UnixMillis> {
        let timers = self.slots.values().flat_map(|running| running.timers.values().copied());
        let loads = self
            .slots
            .values()
            .filter(|running| running.wants_load)
            .map(|running| running.load_at);
        timers.chain(loads).chain(self.scheduling.desk.next_wakeup()).min()
    }

    /// Does one of the things that could happen next. False when nothing can happen before `next_due`.
    pub fn step(&mut self, now: UnixMillis) -> bool {
        let steps = self.possible(now);
        if steps.is_empty() {
            return false;
        }
        let step = steps[self.rng.random_range(0..steps.len())].clone();
        self.take(step, now);
        true
    }

    fn possible(&mut self, now: UnixMillis) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.revision < at_once(self.store.revision()).unwrap_or_default() {
            steps.push(Step::Watch);
        }
        for (slot, running) in &self.slots {
            // While the state is being read, the mailbox keeps what comes.
            if !running.inbox.is_empty() && !running.wants_load {
                steps.push(Step::Observe(slot.clone()));
            }
            if running.answers.is_some() {
                steps.push(Step::Settle(slot.clone()));
            } else if running.plan.is_some() {
                steps.push(Step::Propose(slot.clone()));
            } else if running.wants_load {
                let ready = running.own.as_ref().is_none_or(|(_, needed)| self.revision >= *needed);
                if running.load_at <= now && ready {
                    steps.push(Step::Load(slot.clone()));
                }
            } else if running.pending.is_some() || running.liveness.is_some() {
                steps.push(Step::Decide(slot.clone()));
            } else {
                let due = running.timers.iter().filter(|(_, at)| **at <= now);
                steps.extend(due.map(|(timer, _)| Step::Timer(slot.clone(), timer)));
            }
        }
        let scheduling = &self.scheduling;
        if !scheduling.inbox.is_empty() {
            steps.push(Step::SchedulerObserve);
        }
        if scheduling.round.is_some() {
            steps.push(Step::SchedulerPropose);
        } else if scheduling.desk.has_work() || scheduling.desk.next_wakeup().is_some_and(|at| at <= now) {
            steps.push(Step::SchedulerDecide);
        }
        steps
    }

    fn take(&mut self, step: Step, now: UnixMillis) {
        match step {
            Step::Watch => self.watch_one(),
            Step::Load(slot) => self.load(&slot),
            Step::Observe(slot) => {
                let Some(running) = self.slots.get_mut(&slot) else {
                    return;
                };
                let Some(event) = running.inbox.pop_front() else { return };
                if running.activation.observe(&event).unwrap_or(false) && running.pending.is_none() {
                    running.pending = Some(Event::Changed);
                }
            }
            Step::Decide(slot) => {
                let Some(running) = self.slots.get_mut(&slot) else {
                    return;
                };
                // What was read is decided about first; it includes what the membership said before.
                let event = running
                    .liveness
                    .take()
                    .map(Event::Liveness)
                    .or_else(|| running.pending.take());
                self.decide(&slot, event.unwrap_or(Event::Changed), now);
            }
            Step::Timer(slot, timer) => {
                if let Some(running) = self.slots.get_mut(&slot) {
                    running.timers.remove(timer);
                }
                self.decide(&slot, Event::Timer(timer), now);
            }
            Step::Propose(slot) => {
                let Some(running) = self.slots.get_mut(&slot) else {
                    return;
                };
                let Some(plan) = running.plan.as_mut() else { return };
                let proposals = std::mem::take(&mut plan.proposals);
                running.answers = Some(at_once(self.store.propose_all(proposals)));
            }
            Step::Settle(slot) => self.settle(&slot, now),
            Step::SchedulerObserve => self.scheduler_observe(),
            Step::SchedulerDecide => self.scheduling.round = Some(self.scheduling.desk.round(now, 16)),
            Step::SchedulerPropose => self.scheduler_propose(now),
        }
    }

    fn watch_one(&mut self) {
        let Some(Some(item)) = self.watch.next().now_or_never() else {
            return;
        };
        match item {
            WatchItem::Event(event) => {
                self.revision = event.revision;
                if Desk::wants(&event.key) {
                    self.scheduling.inbox.push_back(Arc::clone(&event));
                }
                let routed = self.index.route(&event);
                for slot in routed.slots {
                    match self.slots.get_mut(&slot) {
                        Some(running) => running.inbox.push_back(Arc::clone(&event)),
                        None => self.wake(slot),
                    }
                }
                if let Some(running) = routed.reread.and_then(|slot| self.slots.get_mut(&slot)) {
                    running.wants_load = true;
                }
                self.retire();
            }
            WatchItem::Progress(revision) => self.revision = self.revision.max(revision),
            WatchItem::Lost(_) => self.crash(),
        }
    }

    /// Actors of objects that are gone, and that have nothing left to do, go.
    fn retire(&mut self) {
        let index = &self.index;
        self.slots.retain(|slot, running| {
            index.has_subject(slot) || !running.inbox.is_empty() || running.plan.is_some() || running.pending.is_some()
        });
    }

    fn load(&mut self, slot: &Slot) {
        // The same two steps as in the shell: first the own object, then, not before the index has caught up, the others.
        let Some(running) = self.slots.get_mut(slot) else {
            return;
        };
        let Some((own, _)) = running.own.take() else {
            running.activation.doubt();
            let own = at_once(self.store.read(&slot.key)).ok().flatten();
            running.own = Some((own, at_once(self.store.revision()).unwrap_or_default()));
            return;
        };
        let related = self.index.related(slot).into_iter().filter(|key| *key != slot.key);
        let mut objects: Vec<(Key, Option<Arc<Object>>)> = related
            .map(|key| (key.clone(), at_once(self.store.read(&key)).ok().flatten()))
            .collect();
        objects.push((slot.key.clone(), own));
        let Some(kind) = (self.make)(slot, &self.settings) else {
            return;
        };
        running.timers.clear();
        if running.activation.load(kind, objects).is_ok() {
            running.wants_load = false;
            running.pending = Some(Event::Loaded);
        }
    }

    fn decide(&mut self, slot: &Slot, event: Event, now: UnixMillis) {
        let Some(running) = self.slots.get_mut(slot) else {
            return;
        };
        let plan = running.activation.decide(now, event, &mut self.rng, None);
        for timer in &plan.timers {
            running.timers.insert(timer.timer, now.plus_ms(timer.after_ms));
        }
        for timer in &plan.cancelled {
            running.timers.remove(timer);
        }
        running.plan = Some(plan);
    }

    fn settle(&mut self, slot: &Slot, now: UnixMillis) {
        let Some(running) = self.slots.get_mut(slot) else {
            return;
        };
        let (Some(mut plan), Some(answers)) = (running.plan.take(), running.answers.take()) else {
            return;
        };
        let next = running.activation.settle(&mut plan, answers).unwrap_or(Next::Reload);
        match next {
            Next::Rest => {}
            Next::Decide => running.pending = Some(Event::Changed),
            Next::Reload => (running.wants_load, running.load_at) = (true, now),
            Next::ReloadAfter { wait_ms } => (running.wants_load, running.load_at) = (true, now.plus_ms(wait_ms)),
        }
        let mut proposals = Vec::new();
        for note in &plan.notes {
            let stored = at_once(self.store.read(&recorder::key(note))).ok().flatten();
            let write = recorder::compose(note, stored.as_deref(), now, &mut self.rng);
            proposals.extend(write.map(|write| Proposal::one(Default::default(), write)));
        }
        // Notes are dropped when they are refused, as the shell drops them.
        let _ = at_once(self.store.propose_all(proposals));
    }

    fn scheduler_observe(&mut self) {
        let Some(event) = self.scheduling.inbox.pop_front() else {
            return;
        };
        if event.revision > self.scheduling.loaded_at {
            let object =
                (event.change != Change::Deleted).then(|| (self.scheduling.glasses)(&event.key, &event.object));
            let _ = self.scheduling.desk.observe(&event.key, object.as_ref());
        }
    }

    fn scheduler_propose(&mut self, now: UnixMillis) {
        let Some(round) = self.scheduling.round.take() else {
            return;
        };
        for group in round.bindings {
            if self.propose_writes(group.writes) {
                self.scheduling.desk.bound(&group.pods);
            } else {
                self.scheduling.desk.refused(&group.pods, now);
            }
        }
        for (intent, _) in round.conditions {
            self.propose_intents(&[intent]);
        }
        for intent in round.volumes {
            self.propose_intents(&[intent]);
        }
        for victim in round.victims {
            let stored = at_once(self.store.read(&victim.key)).ok().flatten();
            if let Some((intent, _)) = stored.and_then(|stored| desk::preempt(&victim, &stored, now)) {
                self.propose_intents(&[intent]);
            }
        }
    }

    fn propose_intents(&self, intents: &[Intent]) -> bool {
        let writes = intents.iter().filter_map(|intent| match intent {
            Intent::Update { key, base, value } => compose::change(key, base, value).ok(),
            Intent::Remove { key, revision } => Some(compose::removal(key, *revision)),
            Intent::Create { .. } | Intent::Fence { .. } => None,
        });
        self.propose_writes(writes.collect())
    }

    fn propose_writes(&self, writes: Vec<Write>) -> bool {
        let proposal = Proposal {
            cause: Default::default(),
            writes,
        };
        at_once(self.store.propose(proposal)).is_ok()
    }
}
