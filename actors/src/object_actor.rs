//! The ractor shell of an object's actor: mailbox, timers, reads and writes around an `Activation`. Supervised by the
//! router, which starts it again when it fails and stops it when it has nothing to do. Holds no policy.
//!
//! Events are noted one by one and decided about together: the message that makes it decide stands behind those that
//! arrived before it.
//!
//! How the state is read matters: two activations exclude each other by the revision of their own object, so what they
//! know of the others must be at least as new as what they know of it. The own object is read first; the router, whose
//! index follows the store, then says what is related as of that moment or later; that is read, and the events that came
//! in the meantime are noted. (The simulation found what happens otherwise: pods that were created twice.)

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use protocol::store::{ListRequest, ObjectStore, ReadError, StoreEvent};
use protocol::{Cause, Key, Object, Resource, Revision};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::json;
use supervision::{ActorView, AdminMessage, Clock, Credit};
use tokio::task::JoinHandle;

use crate::activation::{Activation, Next};
use crate::kind::{Event, Liveness, Slot};
use crate::kinds::{self, KindSettings};
use crate::recorder;
use crate::reviewing;
use crate::router::{RouterMessage, SharedFacts};

/// So many objects of one resource are read one by one; more of them by a list.
const READS_MAX: usize = 8;
/// So many decisions in a row before other messages get a turn.
const DECISIONS_IN_A_ROW_MAX: u32 = 32;
/// A read that failed is tried again after so long.
const READ_RETRY: Duration = Duration::from_millis(200);
const UNDERSTANDS: &str = "ask: state, mailbox, why; tell: reconcile, sleep";

/// What an object's actor is told.
pub(crate) enum ObjectMessage {
    /// What it has to read, as of a revision: the answer to `RouterMessage::Requery`, and the first message of every
    /// activation.
    Related(Vec<Key>, Revision),
    /// Something happened to its object or to a related one. The credit bounds how many are under way.
    Observe(Arc<StoreEvent>, Credit),
    /// Too many events were under way: they were dropped, and the state must be read again.
    Overflow,
    /// What the membership says of the machine of its name.
    Liveness(Liveness),
    /// From the shell.
    Admin(AdminMessage),
    /// To itself: decide about what was noted.
    Decide,
    /// To itself: a timer is due.
    Timer(&'static str, u64),
    /// To itself: read the state again.
    Reload(u64),
    /// To itself: nothing happened for a while.
    Idle(u64),
}

impl ractor::Message for ObjectMessage {}

impl From<AdminMessage> for ObjectMessage {
    fn from(message: AdminMessage) -> Self {
        ObjectMessage::Admin(message)
    }
}

/// The actor.
pub(crate) struct ObjectActor;

/// What it starts with.
pub(crate) struct ObjectArguments {
    pub slot: Slot,
    pub settings: Arc<KindSettings>,
    pub store: Arc<dyn ObjectStore>,
    pub router: ActorRef<RouterMessage>,
    pub clock: Arc<dyn Clock>,
    pub seed: u64,
    pub view: ActorView,
    pub related: Vec<Key>,
    pub related_at: Revision,
    pub liveness: Option<Liveness>,
    pub cause: Cause,
    pub idle_after: Duration,
    pub facts: SharedFacts,
}

/// A task that ends with the state that holds it.
struct Alarm {
    token: u64,
    task: JoinHandle<()>,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Its state.
pub(crate) struct ObjectState {
    activation: Activation,
    settings: Arc<KindSettings>,
    store: Arc<dyn ObjectStore>,
    router: ActorRef<RouterMessage>,
    clock: Arc<dyn Clock>,
    rng: SmallRng,
    view: ActorView,
    idle_after: Duration,
    facts: SharedFacts,
    timers: HashMap<&'static str, Alarm>,
    idle: Option<Alarm>,
    reload: Option<Alarm>,
    tokens: u64,
    /// The own object and the revision as of which the related ones must be known, while they are not.
    own: Option<(Option<Arc<Object>>, Revision)>,
    /// Events that came while the state was being read.
    buffered: Vec<(Arc<StoreEvent>, Credit)>,
    /// Messages that the router sent to this activation.
    heard: u64,
    decide_is_queued: bool,
}

impl Actor for ObjectActor {
    type Msg = ObjectMessage;
    type State = ObjectState;
    type Arguments = ObjectArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let kind = kinds::make(&arguments.slot, &arguments.settings).ok_or("the resource has no actors")?;
        myself.send_message(ObjectMessage::Related(arguments.related, arguments.related_at))?;
        if let Some(liveness) = arguments.liveness {
            myself.send_message(ObjectMessage::Liveness(liveness))?;
        }
        let mut activation = Activation::new(arguments.slot, kind);
        activation.set_cause(arguments.cause);
        Ok(ObjectState {
            activation,
            settings: arguments.settings,
            store: arguments.store,
            router: arguments.router,
            clock: arguments.clock,
            rng: SmallRng::seed_from_u64(arguments.seed),
            view: arguments.view,
            idle_after: arguments.idle_after,
            facts: arguments.facts,
            timers: HashMap::new(),
            idle: None,
            reload: None,
            tokens: 0,
            own: None,
            buffered: Vec::new(),
            heard: 0,
            decide_is_queued: false,
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
            ObjectMessage::Related(keys, at) => {
                state.heard += 1;
                state.load(&myself, keys, at).await?;
            }
            ObjectMessage::Observe(event, credit) => {
                state.heard += 1;
                if !state.activation.is_loaded() {
                    state.buffered.push((event, credit));
                    return Ok(());
                }
                drop(credit);
                if state.activation.observe(&event)? && !state.decide_is_queued {
                    state.decide_is_queued = true;
                    myself.send_message(ObjectMessage::Decide)?;
                }
            }
            ObjectMessage::Overflow => {
                state.heard += 1;
                state.requery()?;
            }
            ObjectMessage::Liveness(liveness) => {
                state.heard += 1;
                state.decide(&myself, Event::Liveness(liveness)).await?;
            }
            ObjectMessage::Decide => {
                state.decide_is_queued = false;
                state.decide(&myself, Event::Changed).await?;
            }
            ObjectMessage::Timer(timer, token) => {
                if state.timers.get(timer).is_some_and(|alarm| alarm.token == token) {
                    state.timers.remove(timer);
                    state.decide(&myself, Event::Timer(timer)).await?;
                }
            }
            ObjectMessage::Reload(token) => {
                if state.reload.as_ref().is_some_and(|alarm| alarm.token == token) {
                    state.requery()?;
                }
            }
            ObjectMessage::Idle(token) => {
                if state.idle.as_ref().is_some_and(|alarm| alarm.token == token) {
                    state.report_idle()?;
                }
            }
            ObjectMessage::Admin(message) => {
                state.heard += 1;
                state.answer(&myself, message)?;
            }
        }
        Ok(())
    }
}

impl ObjectState {
    async fn load(
        &mut self,
        myself: &ActorRef<ObjectMessage>,
        keys: Vec<Key>,
        at: Revision,
    ) -> Result<(), ActorProcessingErr> {
        let slot = self.activation.slot().clone();
        match self.read(&slot, keys, at).await {
            Ok(Some(objects)) => {
                let kind = kinds::make(&slot, &self.settings).ok_or("the resource has no actors")?;
                self.timers.clear();
                self.reload = None;
                self.activation.load(kind, objects)?;
                for (event, _) in std::mem::take(&mut self.buffered) {
                    self.activation.observe(&event)?;
                }
                self.decide(myself, Event::Loaded).await
            }
            Ok(None) => Ok(()),
            Err(error) => {
                tracing::debug!(%slot, %error, "the state could not be read; it is tried again");
                self.view.summarize(format!("waits for the store: {error}"));
                self.reload_after(myself, READ_RETRY);
                Ok(())
            }
        }
    }

    /// Reads what is to be loaded. `None` when the router has to be asked again, because it was behind.
    async fn read(
        &mut self,
        slot: &Slot,
        keys: Vec<Key>,
        at: Revision,
    ) -> Result<Option<Vec<(Key, Option<Arc<Object>>)>>, ReadError> {
        let (own, needed) = match self.own.take() {
            Some(read) => read,
            None => {
                // Events that came before are older than what is read now.
                self.buffered.clear();
                let own = self.store.read(&slot.key).await?;
                (own, self.store.revision().await?)
            }
        };
        if at < needed {
            self.own = Some((own, needed));
            // A router that has ended takes this actor along.
            let _ = self.router.send_message(RouterMessage::Requery {
                slot: slot.clone(),
                at_least: needed,
            });
            return Ok(None);
        }
        let related = keys.into_iter().filter(|key| *key != slot.key).collect();
        let mut objects = read_all(self.store.as_ref(), related).await?;
        objects.push((slot.key.clone(), own));
        Ok(Some(objects))
    }

    /// Decides until there is nothing more to do.
    async fn decide(&mut self, myself: &ActorRef<ObjectMessage>, event: Event) -> Result<(), ActorProcessingErr> {
        let mut event = event;
        for _ in 0..DECISIONS_IN_A_ROW_MAX {
            if !self.activation.is_loaded() && !matches!(event, Event::Liveness(_)) {
                return Ok(());
            }
            let mut plan = {
                let facts = self.facts.as_ref().map(|facts| facts.read());
                self.activation
                    .decide(self.clock.now(), event, &mut self.rng, facts.as_deref())
            };
            if let Some(reviewer) = &self.settings.reviewer {
                reviewing::review(&mut plan, reviewer.0.as_ref()).await;
            }
            for timer in &plan.timers {
                self.set_timer(myself, timer.timer, timer.after_ms);
            }
            for timer in &plan.cancelled {
                self.timers.remove(timer);
            }
            if let Some(error) = &plan.invalid {
                tracing::warn!(slot = %self.activation.slot(), %error, "a decided object is invalid");
                self.view.summarize(format!("decided on an invalid object: {error}"));
            }
            let answers = if plan.proposals.is_empty() {
                Vec::new()
            } else {
                self.store.propose_all(std::mem::take(&mut plan.proposals)).await
            };
            for answer in &answers {
                if let Err(error) = answer {
                    tracing::debug!(slot = %self.activation.slot(), %error, "a write was not taken");
                }
            }
            let next = self.activation.settle(&mut plan, answers)?;
            let invalid = plan
                .invalid
                .as_ref()
                .and_then(|error| self.activation.invalid_note(error));
            plan.notes.extend(invalid);
            if !plan.notes.is_empty() {
                let (cause, now) = (self.activation.cause(), self.clock.now());
                recorder::record(self.store.as_ref(), &plan.notes, cause, now, &mut self.rng).await;
            }
            self.view.summarize(self.activation.kind().summary());
            match next {
                Next::Rest => {
                    self.rest(myself);
                    return Ok(());
                }
                Next::Decide => event = Event::Changed,
                Next::Reload => return self.requery(),
                Next::ReloadAfter { wait_ms } => {
                    self.reload_after(myself, Duration::from_millis(wait_ms));
                    return Ok(());
                }
            }
        }
        self.decide_is_queued = true;
        myself.send_message(ObjectMessage::Decide)?;
        Ok(())
    }

    fn requery(&mut self) -> Result<(), ActorProcessingErr> {
        self.activation.doubt();
        self.reload = None;
        self.own = None;
        let slot = self.activation.slot().clone();
        self.router.send_message(RouterMessage::Requery {
            slot,
            at_least: Revision::ZERO,
        })?;
        Ok(())
    }

    fn token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }

    fn set_timer(&mut self, myself: &ActorRef<ObjectMessage>, timer: &'static str, after_ms: u64) {
        let token = self.token();
        let task = alarm(
            myself,
            Duration::from_millis(after_ms),
            ObjectMessage::Timer(timer, token),
        );
        self.timers.insert(timer, Alarm { token, task });
    }

    fn reload_after(&mut self, myself: &ActorRef<ObjectMessage>, wait: Duration) {
        self.activation.doubt();
        let token = self.token();
        self.reload = Some(Alarm {
            token,
            task: alarm(myself, wait, ObjectMessage::Reload(token)),
        });
    }

    /// Nothing to do: if that stays so for a while and no timer is set, the actor may sleep.
    fn rest(&mut self, myself: &ActorRef<ObjectMessage>) {
        self.idle = None;
        if self.timers.is_empty() && self.reload.is_none() {
            let token = self.token();
            // What is left of an object that is gone is gone at once.
            let wait = if self.activation.subject_exists() {
                self.idle_after
            } else {
                Duration::ZERO
            };
            self.idle = Some(Alarm {
                token,
                task: alarm(myself, wait, ObjectMessage::Idle(token)),
            });
        }
    }

    fn report_idle(&mut self) -> Result<(), ActorProcessingErr> {
        self.idle = None;
        if self.timers.is_empty() && self.reload.is_none() {
            let slot = self.activation.slot().clone();
            self.router.send_message(RouterMessage::Idle {
                slot,
                heard: self.heard,
            })?;
        }
        Ok(())
    }

    fn answer(&mut self, myself: &ActorRef<ObjectMessage>, message: AdminMessage) -> Result<(), ActorProcessingErr> {
        let (reply, answer) = match message {
            AdminMessage::Ask { question, reply } => {
                let answer = match question.as_str() {
                    "state" => Ok(self.activation.kind().inspect().to_string()),
                    "why" => Ok(json!({ "why": self.activation.kind().why() }).to_string()),
                    "mailbox" => Ok(json!({
                        "heard": self.heard, "decisions": self.activation.decisions(),
                        "loaded": self.activation.is_loaded(), "timers": self.timers.keys().collect::<Vec<_>>(),
                    })
                    .to_string()),
                    _ => Err(UNDERSTANDS.to_owned()),
                };
                (reply, answer)
            }
            AdminMessage::Tell { message, reply } => {
                let answer = match message.as_str() {
                    "reconcile" => {
                        self.requery()?;
                        Ok("it reads its state again and decides".to_owned())
                    }
                    "sleep" => {
                        self.report_idle()?;
                        Ok("it sleeps if nothing is on its way to it and no timer is set".to_owned())
                    }
                    _ => Err(UNDERSTANDS.to_owned()),
                };
                (reply, answer)
            }
        };
        // The shell may have gone.
        let _ = reply.send(answer);
        if self.activation.is_loaded() && self.idle.is_none() {
            self.rest(myself);
        }
        Ok(())
    }
}

fn alarm(myself: &ActorRef<ObjectMessage>, wait: Duration, message: ObjectMessage) -> JoinHandle<()> {
    let myself = myself.clone();
    tokio::spawn(async move {
        tokio::time::sleep(wait).await;
        // An actor that has ended needs no alarm.
        let _ = myself.send_message(message);
    })
}

/// Reads objects. Many of one resource are read by lists: of their namespace, or of all when
/// they are spread over several.
pub(crate) async fn read_all(
    store: &dyn ObjectStore,
    keys: Vec<Key>,
) -> Result<Vec<(Key, Option<Arc<Object>>)>, ReadError> {
    let mut by_resource: HashMap<Resource, Vec<Key>> = HashMap::new();
    for key in keys {
        by_resource.entry(key.resource.clone()).or_default().push(key);
    }
    let mut found = Vec::new();
    for (resource, keys) in by_resource {
        if keys.len() <= READS_MAX {
            let reads = keys.iter().map(|key| store.read(key));
            for (key, object) in keys.iter().zip(join_all(reads).await) {
                found.push((key.clone(), object?));
            }
            continue;
        }
        let mut request = ListRequest::all(resource);
        if keys.iter().all(|key| key.namespace == keys[0].namespace) && !keys[0].namespace.is_empty() {
            request = request.in_namespace(Arc::clone(&keys[0].namespace));
        }
        let listed = list_all(store, request).await?;
        let mut missing: BTreeSet<Key> = keys.into_iter().collect();
        for (key, object) in listed {
            if missing.remove(&key) {
                found.push((key, Some(object)));
            }
        }
        found.extend(missing.into_iter().map(|key| (key, None)));
    }
    Ok(found)
}

/// All pages of a list.
pub(crate) async fn list_all(
    store: &dyn ObjectStore,
    mut request: ListRequest,
) -> Result<Vec<(Key, Arc<Object>)>, ReadError> {
    const PAGE: usize = 2_000;
    request.limit = PAGE;
    let mut items = Vec::new();
    loop {
        let page = store.list(request.clone()).await?;
        request.at = Some(page.revision);
        request.after = page.items.last().map(|(key, _)| key.clone());
        let more = page.more && request.after.is_some();
        items.extend(page.items);
        if !more {
            return Ok(items);
        }
    }
}
