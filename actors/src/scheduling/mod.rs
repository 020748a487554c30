//! The scheduler's actor: one for the cluster, on the leader. It feeds the pure crate `scheduler` through `desk` and
//! carries its rounds out: all bindings of a round are one round of consensus. Supervised by the control plane's root
//! (permanent); after a failure it reads all that scheduling goes by from the store.
//!
//! Invariants: a pod is bound by a compare-and-set against the version that was decided about, so it is bound at most
//! once; a condition that says the same as before is not written again.

pub mod desk;
mod feed;
mod priority;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use protocol::store::{Change, ListRequest, ObjectStore, Proposal, ReadError, StoreEvent};
use protocol::{Cause, Revision};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use scheduler::SchedulerConfiguration;
use serde_json::json;
use supervision::{ActorView, AdminMessage, Clock, Credit, Credits};
use tokio::task::JoinHandle;

use crate::compose;
use crate::effects::{Intent, Note};
use crate::object_actor::list_all;
use crate::recorder;
use desk::{Desk, Round, Victim};

/// Pods of one round: bounds the size of what is proposed together.
const ROUND_MAX: usize = 512;
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
    /// To itself: a back-off has passed.
    Wake(u64),
    /// From the shell.
    Admin(AdminMessage),
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
}

/// Its state.
pub struct SchedulerState {
    store: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
    rng: SmallRng,
    view: ActorView,
    desk: Desk,
    loaded_at: Option<Revision>,
    overflowed: Arc<AtomicBool>,
    scheduled_events: bool,
    round_is_queued: bool,
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
        Ok(SchedulerState {
            store: arguments.store,
            clock: arguments.clock,
            rng: SmallRng::seed_from_u64(arguments.seed),
            view: arguments.view,
            desk: Desk::new(SchedulerConfiguration::default()),
            loaded_at: None,
            overflowed,
            scheduled_events: arguments.scheduled_events,
            round_is_queued: false,
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
            }
            SchedulerMessage::Load => {
                if let Err(error) = state.load().await {
                    tracing::info!(%error, "the scheduler could not read the store; it tries again");
                    state.view.summarize(format!("waits for the store: {error}"));
                    myself.send_after(READ_RETRY, || SchedulerMessage::Load);
                    return Ok(());
                }
            }
            SchedulerMessage::Round => {
                state.round_is_queued = false;
                state.round().await;
            }
            SchedulerMessage::Wake(token) => {
                if state.wake.as_ref().is_some_and(|(current, _)| *current == token) {
                    state.wake = None;
                    state.round().await;
                }
            }
            SchedulerMessage::Admin(message) => state.answer(&myself, message),
        }
        state.go_on(&myself);
        Ok(())
    }
}

impl SchedulerState {
    async fn load(&mut self) -> Result<(), ReadError> {
        self.overflowed.store(false, Ordering::Release);
        let revision = self.store.revision().await?;
        let mut desk = Desk::new(SchedulerConfiguration::default());
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

    fn observe(&mut self, event: &StoreEvent) {
        // Before the first load nothing is kept; older events are in what was read.
        if self.loaded_at.is_none_or(|loaded| event.revision <= loaded) {
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
        if self.desk.has_work() {
            if !self.round_is_queued {
                self.round_is_queued = myself.send_message(SchedulerMessage::Round).is_ok();
            }
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

    async fn round(&mut self) {
        let now = self.clock.now();
        let Round {
            bindings,
            conditions,
            victims,
            volumes,
        } = self.desk.round(now, ROUND_MAX);
        self.rounds += 1;
        let mut proposals = Vec::with_capacity(bindings.len() + conditions.len());
        for group in &bindings {
            proposals.push(self.proposal(&group.intents));
        }
        for (intent, _) in &conditions {
            proposals.push(self.proposal(std::slice::from_ref(intent)));
        }
        // A refusal means that the volume or the claim has changed, and its event brings the pod forth again.
        for intent in &volumes {
            proposals.push(self.proposal(std::slice::from_ref(intent)));
        }
        let mut answers = self.store.propose_all(proposals).await.into_iter();
        let mut notes: Vec<Note> = Vec::new();
        let mut scheduled: Vec<Note> = Vec::new();
        for group in bindings {
            match answers.next() {
                Some(Ok(_)) => {
                    self.desk.bound(&group.pods);
                    scheduled.extend(group.notes);
                }
                answer => {
                    tracing::debug!(pods = ?group.pods, ?answer, "a binding was not taken");
                    self.desk.refused(&group.pods, now);
                }
            }
        }
        for (_, about) in conditions {
            if let Some(Ok(_)) = answers.next() {
                notes.extend(about);
            }
        }
        self.evict(victims, &mut notes).await;
        recorder::record(self.store.as_ref(), &notes, self.cause, now, &mut self.rng).await;
        self.record_scheduled(&scheduled).await;
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

    /// A pod is bound once, so its Scheduled Event is new: no read is needed to count.
    async fn record_scheduled(&mut self, notes: &[Note]) {
        if !self.scheduled_events || notes.is_empty() {
            return;
        }
        let now = self.clock.now();
        let writes = notes
            .iter()
            .filter_map(|note| recorder::compose(note, None, now, &mut self.rng));
        let proposals: Vec<Proposal> = writes.map(|write| Proposal::one(self.cause, write)).collect();
        for answer in self.store.propose_all(proposals).await {
            if let Err(error) = answer {
                tracing::debug!(%error, "a note was dropped");
            }
        }
    }

    fn answer(&mut self, myself: &ActorRef<SchedulerMessage>, message: AdminMessage) {
        const UNDERSTANDS: &str = "ask: state; tell: reconcile";
        // The shell may have gone by the time of the answer.
        match message {
            AdminMessage::Ask { question, reply } if question == "state" => {
                let loaded_at = self.loaded_at.map(|revision| revision.0);
                let state = json!({ "summary": self.desk.summary(), "rounds": self.rounds, "loadedAt": loaded_at });
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
