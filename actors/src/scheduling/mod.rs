//! The scheduler's actor: one for the cluster, on the leader. It feeds the pure crate `scheduler` through `desk` and
//! carries its rounds out: all bindings of a round are one call of the store. While the writes of a round are made durable, the
//! next rounds decide: the crate accounts for a pod from its decision on, and a refused one gives its place back. Supervised by
//! the control plane's root (permanent); after a failure it reads all that scheduling goes by from the store.
//!
//! Invariants: a pod is bound by a compare-and-set against the version that was decided about, so it is bound at most
//! once; a condition that says the same as before is not written again; everything is read again only when no round is
//! under way, so that what a round has taken is not given away twice.

mod announcer;
mod binding;
mod configuration;
pub mod desk;
mod feed;
mod patches;
mod pod_reading;
mod priority;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use protocol::store::{
    Change, Committed, ListRequest, ObjectStore, Proposal, ProposeError, ReadError, Refusal, StoreEvent,
};
use protocol::{Cause, Revision, UnixMillis};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use scheduler::SchedulerConfiguration;
use serde_json::json;
use supervision::{ActorView, AdminMessage, Clock, Credit, Credits};
use tokio::task::JoinHandle;

use crate::compose;
use crate::effects::{Intent, Note};
use crate::object_actor::list_all;
use crate::recorder;
use announcer::Announcer;
pub use configuration::SchedulerSettings;
use desk::{Desk, Round, Victim};
use patches::Patches;

/// Pods of one round: bounds the size of what is proposed together.
const ROUND_MAX: usize = 512;
/// Rounds under way. Consensus has two entries under way, each of which takes several rounds.
const ROUNDS_MAX: usize = 4;
/// Events under way to the scheduler; more of them are dropped and followed by a reload.
const EVENTS_MAX: usize = 100_000;
const READ_RETRY: Duration = Duration::from_millis(200);

/// What the scheduler's actor is told.
pub enum SchedulerMessage {
    /// Something happened to a pod, a node, or something else that scheduling goes by.
    Observe(Arc<StoreEvent>, Credit),
    /// Read everything: after a start, or because events were dropped.
    Load,
    /// To itself: decide for those that wait.
    Round,
    /// To itself: what became of a round.
    Answered(Box<Answered>),
    /// To itself: a back-off has passed.
    Wake(u64),
    /// From the shell.
    Admin(AdminMessage),
}

/// A round, and what the store said to each of its proposals.
pub struct Answered {
    round: Round,
    at: UnixMillis,
    answers: Vec<Result<Committed, ProposeError>>,
}

impl ractor::Message for SchedulerMessage {}

impl From<AdminMessage> for SchedulerMessage {
    fn from(message: AdminMessage) -> Self {
        SchedulerMessage::Admin(message)
    }
}

/// The way to the scheduler's mailbox. It outlives restarts of the scheduler and of the router. Bounded: what does not
/// fit is dropped, and the scheduler reads everything again.
#[derive(Clone, Default)]
pub struct SchedulerDoor {
    inner: Arc<RwLock<Option<Door>>>,
}

struct Door {
    actor: ActorRef<SchedulerMessage>,
    credits: Credits,
    overflowed: Arc<AtomicBool>,
}

impl SchedulerDoor {
    fn open(&self, actor: ActorRef<SchedulerMessage>) -> Arc<AtomicBool> {
        let overflowed = Arc::new(AtomicBool::new(false));
        let door = Door {
            actor,
            credits: Credits::new(EVENTS_MAX),
            overflowed: Arc::clone(&overflowed),
        };
        *self.inner.write() = Some(door);
        overflowed
    }

    /// Passes an event on, if it concerns the scheduler. While none runs, nothing is kept: it reads when it starts.
    pub fn observe(&self, event: &Arc<StoreEvent>) {
        if !Desk::wants(&event.key) {
            return;
        }
        let inner = self.inner.read();
        let Some(door) = inner.as_ref() else { return };
        // An actor that has ended is started again and reads everything.
        match door.credits.take() {
            Some(credit) => {
                let _ = door
                    .actor
                    .send_message(SchedulerMessage::Observe(Arc::clone(event), credit));
            }
            None if !door.overflowed.swap(true, Ordering::AcqRel) => {
                let _ = door.actor.send_message(SchedulerMessage::Load);
            }
            None => {}
        }
    }
}

/// The actor.
pub struct SchedulerActor;

/// What it starts with.
pub struct SchedulerArguments {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Seeds names and uids of Events.
    pub seed: u64,
    /// Its entry in the registry.
    pub view: ActorView,
    /// Where the router finds it.
    pub door: SchedulerDoor,
    /// Whether a Scheduled Event is written for each bound pod.
    pub scheduled_events: bool,
    /// What the node was told of scheduling.
    pub settings: SchedulerSettings,
}

/// Its state.
pub struct SchedulerState {
    store: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
    rng: SmallRng,
    view: ActorView,
    desk: Desk,
    settings: SchedulerSettings,
    /// What it was configured with last, where that could be used.
    configuration: SchedulerConfiguration,
    loaded_at: Option<Revision>,
    overflowed: Arc<AtomicBool>,
    announcer: Option<Announcer>,
    round_is_queued: bool,
    rounds_under_way: usize,
    /// Everything is to be read again as soon as no round is under way.
    load_is_due: bool,
    wake: Option<(u64, JoinHandle<()>)>,
    tokens: u64,
    cause: Cause,
    rounds: u64,
}

impl Drop for SchedulerState {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.wake {
            task.abort();
        }
    }
}

impl Actor for SchedulerActor {
    type Msg = SchedulerMessage;
    type State = SchedulerState;
    type Arguments = SchedulerArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let overflowed = arguments.door.open(myself.clone());
        myself.send_message(SchedulerMessage::Load)?;
        let mut rng = SmallRng::seed_from_u64(arguments.seed);
        let announcer = arguments.scheduled_events.then(|| {
            let (store, clock) = (Arc::clone(&arguments.store), Arc::clone(&arguments.clock));
            Announcer::start(store, clock, rng.random())
        });
        Ok(SchedulerState {
            store: arguments.store,
            clock: arguments.clock,
            rng,
            view: arguments.view,
            desk: Desk::new(arguments.settings.configuration().clone()),
            configuration: arguments.settings.configuration().clone(),
            settings: arguments.settings,
            loaded_at: None,
            overflowed,
            announcer,
            round_is_queued: false,
            rounds_under_way: 0,
            load_is_due: false,
            wake: None,
            tokens: 0,
            cause: Cause::default(),
            rounds: 0,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        state.view.count_message();
        match message {
            SchedulerMessage::Observe(event, credit) => {
                drop(credit);
                state.observe(&event);
                state.load_when_idle(&myself).await;
            }
            SchedulerMessage::Load => {
                state.load_is_due = true;
                state.load_when_idle(&myself).await;
            }
            SchedulerMessage::Round => {
                state.round_is_queued = false;
                state.round(&myself);
            }
            SchedulerMessage::Wake(token) => {
                if state.wake.as_ref().is_some_and(|(current, _)| *current == token) {
                    state.wake = None;
                    state.round(&myself);
                }
            }
            SchedulerMessage::Answered(answered) => {
                state.rounds_under_way -= 1;
                state.settle(*answered).await;
                state.load_when_idle(&myself).await;
            }
            SchedulerMessage::Admin(message) => state.answer(&myself, message),
        }
        state.go_on(&myself);
        Ok(())
    }
}

impl SchedulerState {
    /// Reads everything if that is due, once no round is under way: a round holds places that a fresh reading would not know of.
    async fn load_when_idle(&mut self, myself: &ActorRef<SchedulerMessage>) {
        if !self.load_is_due || self.rounds_under_way > 0 {
            return;
        }
        self.load_is_due = false;
        if let Err(error) = self.load().await {
            tracing::info!(%error, "the scheduler could not read the store; it tries again");
            self.view.summarize(format!("waits for the store: {error}"));
            myself.send_after(READ_RETRY, || SchedulerMessage::Load);
        }
    }

    async fn load(&mut self) -> Result<(), ReadError> {
        self.overflowed.store(false, Ordering::Release);
        let revision = self.store.revision().await?;
        self.configure().await?;
        let mut desk = Desk::new(self.configuration.clone());
        for resource in Desk::resources() {
            let mut request = ListRequest::all(*resource);
            request.at = Some(revision);
            for (key, object) in list_all(self.store.as_ref(), request).await? {
                note_damage(desk.observe(&key, Some(&object)));
            }
        }
        self.desk = desk;
        self.loaded_at = Some(revision);
        Ok(())
    }

    /// Reads the configuration. One that cannot be used is noted, and changes nothing.
    async fn configure(&mut self) -> Result<(), ReadError> {
        let object = self.store.read(&configuration::key()).await?;
        match (configuration::configuration(object.as_ref(), &self.settings), object) {
            (Ok(configuration), _) => self.configuration = configuration,
            (Err(reason), object) => {
                tracing::warn!(%reason, "the scheduler's configuration cannot be used");
                let note = object.map(|object| configuration::refusal(&object, &reason));
                let notes: Vec<Note> = note.into_iter().collect();
                let now = self.clock.now();
                recorder::record(self.store.as_ref(), &notes, self.cause, now, &mut self.rng).await;
            }
        }
        Ok(())
    }

    fn observe(&mut self, event: &StoreEvent) {
        // Before the first load nothing is kept; older events are in what was read.
        if self.loaded_at.is_none_or(|loaded| event.revision <= loaded) {
            return;
        }
        if configuration::is_it(&event.key) {
            // Another configuration is another scheduler: it is made anew from what is in the store.
            self.load_is_due = true;
            return;
        }
        self.cause = event.cause;
        let object = (event.change != Change::Deleted).then_some(&event.object);
        note_damage(self.desk.observe(&event.key, object));
    }

    /// Sees that a round comes when there is work, or when the next back-off passes.
    fn go_on(&mut self, myself: &ActorRef<SchedulerMessage>) {
        if self.loaded_at.is_none() {
            return;
        }
        let has_work = self.desk.has_work();
        if let Some(announcer) = &self.announcer {
            announcer.set_busy(has_work || self.rounds_under_way > 0);
        }
        if has_work {
            let has_room = self.rounds_under_way < ROUNDS_MAX && !self.load_is_due;
            if !self.round_is_queued && has_room {
                self.round_is_queued = myself.send_message(SchedulerMessage::Round).is_ok();
            }
            return;
        }
        // The answers of the rounds under way bring it here again.
        if self.rounds_under_way > 0 {
            return;
        }
        self.view.summarize(self.desk.summary());
        if let Some((_, task)) = self.wake.take() {
            task.abort();
        }
        if let Some(at) = self.desk.next_wakeup() {
            self.tokens += 1;
            let (token, wait) = (self.tokens, Duration::from_millis(at.since_ms(self.clock.now()).max(1)));
            let myself = myself.clone();
            let task = tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                let _ = myself.send_message(SchedulerMessage::Wake(token));
            });
            self.wake = Some((token, task));
        }
    }

    /// Decides, and sends what was decided on its way. What becomes of it comes back as a message.
    fn round(&mut self, myself: &ActorRef<SchedulerMessage>) {
        let at = self.clock.now();
        let mut round = self.desk.round(at, ROUND_MAX);
        self.rounds += 1;
        let mut proposals = Vec::with_capacity(round.bindings.len() + round.conditions.len());
        let mut patches = Vec::new();
        for group in &mut round.bindings {
            if !group.patches.is_empty() {
                patches.push((proposals.len(), std::mem::take(&mut group.patches)));
            }
            proposals.push(Proposal {
                cause: self.cause,
                writes: std::mem::take(&mut group.writes),
            });
        }
        for (intent, _) in &round.conditions {
            proposals.push(self.proposal(std::slice::from_ref(intent)));
        }
        // A refusal means that the volume or the claim has changed, and its event brings the pod forth again.
        for intent in &round.volumes {
            proposals.push(self.proposal(std::slice::from_ref(intent)));
        }
        if proposals.is_empty() && round.victims.is_empty() {
            return;
        }
        self.rounds_under_way += 1;
        let (store, myself) = (Arc::clone(&self.store), myself.clone());
        let proposing = tokio::spawn(async move { propose(store.as_ref(), proposals, patches).await });
        tokio::spawn(async move {
            // A call that was lost has no answers, which settles its groups as refused.
            let answers = proposing.await.unwrap_or_default();
            let answered = Answered { round, at, answers };
            // An actor that has ended is started again and reads everything.
            let _ = myself.send_message(SchedulerMessage::Answered(Box::new(answered)));
        });
    }

    /// Takes note of what became of a round.
    async fn settle(&mut self, answered: Answered) {
        let Answered { round, at, answers } = answered;
        let mut answers = answers.into_iter();
        let mut notes: Vec<Note> = Vec::new();
        for group in round.bindings {
            match answers.next() {
                Some(Ok(_)) => {
                    self.desk.bound(&group.pods);
                    if let Some(announcer) = &self.announcer {
                        for placed in group.placed {
                            announcer.placed(placed, self.cause);
                        }
                    }
                }
                answer => {
                    tracing::debug!(pods = ?group.pods, ?answer, "a binding was not taken");
                    self.desk.refused(&group.pods, at);
                }
            }
        }
        for (_, about) in round.conditions {
            if let Some(Ok(_)) = answers.next() {
                notes.extend(about);
            }
        }
        self.evict(round.victims, &mut notes).await;
        recorder::record(self.store.as_ref(), &notes, self.cause, at, &mut self.rng).await;
    }

    fn proposal(&mut self, intents: &[Intent]) -> Proposal {
        let mut writes = Vec::with_capacity(intents.len());
        for intent in intents {
            match intent {
                Intent::Update { key, base, value } => match compose::change(key, base, value) {
                    Ok(write) => writes.push(write),
                    Err(error) => tracing::warn!(%key, %error, "a decided object does not encode"),
                },
                Intent::Remove { key, revision } => writes.push(compose::removal(key, *revision)),
                Intent::Create { .. } | Intent::Fence { .. } => {}
            }
        }
        Proposal {
            cause: self.cause,
            writes,
        }
    }

    /// Makes room: victims are read, so that the mark is put on what they are now.
    async fn evict(&mut self, victims: Vec<Victim>, notes: &mut Vec<Note>) {
        let now = self.clock.now();
        let (mut proposals, mut about) = (Vec::new(), Vec::new());
        for victim in victims {
            let Ok(Some(object)) = self.store.read(&victim.key).await else {
                continue;
            };
            let Some((intent, note)) = desk::preempt(&victim, &object, now) else {
                continue;
            };
            proposals.push(self.proposal(&[intent]));
            about.push(note);
        }
        for (answer, note) in self.store.propose_all(proposals).await.into_iter().zip(about) {
            if answer.is_ok() {
                notes.push(note);
            }
        }
    }

    fn answer(&mut self, myself: &ActorRef<SchedulerMessage>, message: AdminMessage) {
        const UNDERSTANDS: &str = "ask: state; tell: reconcile";
        // The shell may have gone by the time of the answer.
        match message {
            AdminMessage::Ask { question, reply } if question == "state" => {
                let loaded_at = self.loaded_at.map(|revision| revision.0);
                let (written, dropped) = self.announcer.as_ref().map_or((0, 0), Announcer::counts);
                let state = json!({
                    "summary": self.desk.summary(), "rounds": self.rounds, "roundsUnderWay": self.rounds_under_way,
                    "loadedAt": loaded_at, "scheduledEvents": {"written": written, "dropped": dropped},
                });
                let _ = reply.send(Ok(state.to_string()));
            }
            AdminMessage::Tell { message, reply } if message == "reconcile" => {
                let _ = myself.send_message(SchedulerMessage::Load);
                let _ = reply.send(Ok("it reads everything again".to_owned()));
            }
            AdminMessage::Ask { reply, .. } | AdminMessage::Tell { reply, .. } => {
                let _ = reply.send(Err(UNDERSTANDS.to_owned()));
            }
        }
    }
}

/// One object that cannot be read must not keep the others from being scheduled.
fn note_damage(observed: Result<(), crate::kind::ObserveError>) {
    if let Err(error) = observed {
        tracing::warn!(%error, "the scheduler leaves an object out");
    }
}

/// Proposes. What is patched with a group and is not known to the desk is read now, and is one write of the group's proposal. A
/// group with a patch of something that is gone is refused.
async fn propose(
    store: &dyn ObjectStore,
    mut proposals: Vec<Proposal>,
    patches: Vec<(usize, Patches)>,
) -> Vec<Result<Committed, ProposeError>> {
    let mut refused = Vec::new();
    for (at, patches) in patches {
        for (key, patch) in patches {
            match store.read(&key).await.ok().flatten() {
                Some(base) => proposals[at].writes.extend(patches::write(&key, &base, &patch)),
                None => {
                    refused.push((at, key));
                    break;
                }
            }
        }
    }
    // From the last one, so that the places of the others stay.
    for (at, _) in refused.iter().rev() {
        proposals.remove(*at);
    }
    let mut answers = store.propose_all(proposals).await;
    for (at, key) in refused {
        answers.insert(at, Err(Refusal::NotFound { key }.into()));
    }
    answers
}
