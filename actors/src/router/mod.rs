//! The router: gets the store's events in order, asks its index whom each concerns, and delivers it to those actors,
//! which it wakes, supervises and puts to sleep. Supervised by the control plane's root (permanent). It decides nothing
//! about objects: `index` says who, `restart` says when again.
//!
//! Invariants: at most one activation of a slot at a time; an event is delivered to an awake actor in the order of
//! revisions; what was dropped for want of credits is followed by a reload. If the router fails, its actors end with it
//! and the next router reads everything from the store.

mod directory;
pub mod index;
mod paths;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use admission::Facts;
use futures::StreamExt;
use parking_lot::RwLock;
use protocol::store::{Change, ListRequest, ObjectStore, ReadError, StoreEvent, WatchItem, WatchRequest};
use protocol::{Key, NodeName, Object, Revision};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use serde_json::json;
use supervision::{ActorView, AdminMessage, Clock, Exit, Registry, SleepersGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use crate::kind::{Liveness, Slot};
use crate::kinds::KindSettings;
use crate::membership::{MemberState, Membership};
use crate::object_actor::{ObjectMessage, list_all};
use crate::scheduling::SchedulerDoor;
use directory::Directory;
use index::Index;
pub(crate) use paths::Paths;

/// Events of the watch that may wait in the router's mailbox.
const WATCHED_MAX: usize = 4_096;
/// The wait after a failed list or watch.
const RETRY: Duration = Duration::from_millis(200);

/// What the router is told.
pub enum RouterMessage {
    /// To itself: read everything and begin to watch.
    Begin,
    /// From its watch. The permit bounds how many are under way.
    Watched(WatchItem, OwnedSemaphorePermit),
    /// Its watch ended: it is opened again after the last revision.
    WatchEnded,
    /// From the membership.
    Member(MemberState),
    /// An actor wants to know what is related to its object, as of a revision or later.
    Requery {
        /// Which.
        slot: Slot,
        /// Not before the router has seen this revision.
        at_least: Revision,
    },
    /// An actor has nothing to do. `heard` says how many messages of the router it has received.
    Idle {
        /// Which.
        slot: Slot,
        /// Messages of the router that it has received.
        heard: u64,
    },
    /// To itself: the back-off of a failed actor has passed.
    RestartDue(Slot, u64),
    /// From the shell, for an actor that sleeps.
    Wake(Slot, AdminMessage),
    /// From the shell.
    Admin(AdminMessage),
}

impl ractor::Message for RouterMessage {}

impl From<AdminMessage> for RouterMessage {
    fn from(message: AdminMessage) -> Self {
        RouterMessage::Admin(message)
    }
}

/// The actor.
pub struct Router;

/// What it starts with.
pub struct RouterArguments {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The membership.
    pub membership: Arc<dyn Membership>,
    /// What the kinds are told.
    pub settings: Arc<KindSettings>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Seeds the actors' generators.
    pub seed: u64,
    /// Where actors are registered.
    pub registry: Registry,
    /// Its own entry there.
    pub view: ActorView,
    /// The scheduler's mailbox.
    pub scheduler: SchedulerDoor,
    /// After how long without work an actor is put to sleep.
    pub idle_after: Duration,
    /// What an operator sets for admission plugins; without it, the actors' objects are not admitted.
    pub admission: Option<admission::Settings>,
}

/// The policy objects that the actors' new objects are admitted by, as of the events that they hear.
pub(crate) type SharedFacts = Option<Arc<RwLock<Facts>>>;

/// Its state.
pub struct RouterState {
    store: Arc<dyn ObjectStore>,
    index: Arc<RwLock<Index>>,
    directory: Directory,
    facts: SharedFacts,
    liveness: HashMap<NodeName, Liveness>,
    revision: Revision,
    /// Actors that wait until the router has seen a revision.
    waiting: BTreeMap<Revision, Vec<Slot>>,
    routed: u64,
    view: ActorView,
    scheduler: SchedulerDoor,
    watch: Option<Task>,
    _members: Task,
    _sleepers: SleepersGuard,
}

/// A task that ends with the state that holds it.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Actor for Router {
    type Msg = RouterMessage;
    type State = RouterState;
    type Arguments = RouterArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let index = Arc::new(RwLock::new(Index::default()));
        let facts = arguments.admission.map(|settings| {
            let mut facts = Facts::default();
            facts.settings = settings;
            Arc::new(RwLock::new(facts))
        });
        let paths = Arc::new(Paths::new(Arc::clone(&index), myself.clone()));
        let sleepers = arguments.registry.add_sleepers(paths::root(), paths);
        let members = Task(pump_members(arguments.membership.as_ref(), myself.clone()));
        myself.send_message(RouterMessage::Begin)?;
        Ok(RouterState {
            store: Arc::clone(&arguments.store),
            directory: Directory::new(&arguments, myself, Arc::clone(&index), facts.clone()),
            facts,
            index,
            liveness: HashMap::new(),
            revision: Revision::ZERO,
            waiting: BTreeMap::new(),
            routed: 0,
            view: arguments.view,
            scheduler: arguments.scheduler,
            watch: None,
            _members: members,
            _sleepers: sleepers,
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
            RouterMessage::Begin => {
                if let Err(error) = state.begin(&myself).await {
                    tracing::info!(%error, "the router could not read the store; it tries again");
                    state.view.summarize(format!("waits for the store: {error}"));
                    myself.send_after(RETRY, || RouterMessage::Begin);
                }
            }
            RouterMessage::Watched(item, permit) => {
                state.watched(&myself, item).await;
                drop(permit);
            }
            RouterMessage::WatchEnded => state.watch_again(&myself).await,
            RouterMessage::Member(member) => state.member(member).await,
            RouterMessage::Requery { slot, at_least } if at_least > state.revision => {
                state.waiting.entry(at_least).or_default().push(slot);
            }
            RouterMessage::Requery { slot, .. } => state.directory.requery(&slot, state.revision),
            RouterMessage::Idle { slot, heard } => state.directory.idle(&slot, heard),
            RouterMessage::RestartDue(slot, token) => {
                let liveness = state.liveness_of(&slot);
                state.directory.restart_due(slot, token, state.revision, liveness).await;
            }
            RouterMessage::Wake(slot, message) => {
                let liveness = state.liveness_of(&slot);
                state
                    .directory
                    .deliver(&slot, ObjectMessage::Admin(message), state.revision, liveness)
                    .await;
            }
            RouterMessage::Admin(message) => state.answer(message),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, exit) = match event {
            SupervisionEvent::ActorFailed(cell, error) => {
                tracing::warn!(slot = %state.directory.name_of(&cell), %error, "an object's actor failed");
                (cell, Exit::Failed)
            }
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                let killed = matches!(reason.as_deref(), Some("killed" | "actor_task_cancelled"));
                (cell, if killed { Exit::Killed } else { Exit::Normal })
            }
            _ => return Ok(()),
        };
        if let Some(slot) = state.directory.slot_of(&cell) {
            let liveness = state.liveness_of(&slot);
            state.directory.ended(&cell, slot, exit, state.revision, liveness).await;
        }
        Ok(())
    }
}

impl RouterState {
    /// Reads all objects as of one revision, wakes those that have something to do, and watches from there.
    async fn begin(&mut self, myself: &ActorRef<RouterMessage>) -> Result<(), ReadError> {
        self.watch = None;
        let revision = self.store.revision().await?;
        let mut fresh = Index::default();
        for kind in api::kinds::stored_kinds() {
            let mut request = ListRequest::all(kind.resource());
            request.at = Some(revision);
            self.forget_facts(kind.resource().as_str());
            for (key, object) in list_all(self.store.as_ref(), request).await? {
                self.note_fact(&key, &object);
                fresh.insert(&key, &object);
            }
        }
        for resource in fresh.custom_resources() {
            let mut request = ListRequest::all(resource);
            request.at = Some(revision);
            for (key, object) in list_all(self.store.as_ref(), request).await? {
                fresh.insert(&key, &object);
            }
        }
        self.open_watch(myself, revision).await?;
        let initial = fresh.initial();
        *self.index.write() = fresh;
        self.revision = revision;
        self.view
            .summarize(format!("began at revision {revision} with {} actors", initial.len()));
        // Awake actors may have missed events: each reads its state again.
        self.waiting.clear();
        self.directory.doubt_all(revision);
        for slot in initial {
            let liveness = self.liveness_of(&slot);
            self.directory.wake(slot, revision, liveness).await;
        }
        Ok(())
    }

    async fn open_watch(&mut self, myself: &ActorRef<RouterMessage>, after: Revision) -> Result<(), ReadError> {
        let request = WatchRequest {
            resources: Vec::new(),
            after: Some(after),
            ..WatchRequest::default()
        };
        let mut stream = self.store.watch(request).await?;
        let myself = myself.clone();
        let room = Arc::new(Semaphore::new(WATCHED_MAX));
        self.watch = Some(Task(tokio::spawn(async move {
            while let Some(item) = stream.next().await {
                let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                    return;
                };
                if myself.send_message(RouterMessage::Watched(item, permit)).is_err() {
                    return;
                }
            }
            let _ = myself.send_message(RouterMessage::WatchEnded);
        })));
        Ok(())
    }

    async fn watch_again(&mut self, myself: &ActorRef<RouterMessage>) {
        self.watch = None;
        match self.open_watch(myself, self.revision).await {
            Ok(()) => {}
            Err(ReadError::Compacted { .. } | ReadError::Ahead { .. }) => {
                let _ = myself.send_message(RouterMessage::Begin);
            }
            Err(error) => {
                tracing::info!(%error, "the router's watch ended; it is opened again");
                myself.send_after(RETRY, || RouterMessage::WatchEnded);
            }
        }
    }

    async fn watched(&mut self, myself: &ActorRef<RouterMessage>, item: WatchItem) {
        match item {
            WatchItem::Event(event) => {
                if event.revision > self.revision {
                    self.revision = event.revision;
                    self.route(&event).await;
                }
            }
            WatchItem::Progress(revision) => self.revision = self.revision.max(revision),
            WatchItem::Lost(error) => {
                tracing::warn!(%error, "the router lost its watch and reads everything again");
                let _ = myself.send_message(RouterMessage::Begin);
            }
        }
        while let Some(first) = self.waiting.first_entry().filter(|first| *first.key() <= self.revision) {
            for slot in first.remove() {
                self.directory.requery(&slot, self.revision);
            }
        }
    }

    fn forget_facts(&self, resource: &str) {
        if let Some(facts) = &self.facts {
            facts.write().clear(resource);
        }
    }

    fn note_fact(&self, key: &Key, object: &Object) {
        if let Some(facts) = &self.facts
            && let Err(error) = facts.write().note(key, object)
        {
            tracing::error!(%key, %error, "a stored policy object cannot be read");
        }
    }

    fn remove_fact(&self, key: &Key, removed: Revision) {
        if let Some(facts) = &self.facts {
            facts
                .write()
                .remove(key.resource.as_str(), &key.namespace, &key.name, removed);
        }
    }

    async fn route(&mut self, event: &Arc<StoreEvent>) {
        self.routed += 1;
        self.scheduler.observe(event);
        // Before the actors hear of it: what they then create is admitted by what they have heard of.
        match event.change {
            Change::Deleted => self.remove_fact(&event.key, event.revision),
            Change::Created | Change::Updated => self.note_fact(&event.key, &event.object),
        }
        let routed = self.index.write().route(event);
        for slot in routed.slots {
            let liveness = self.liveness_of(&slot);
            self.directory.observe(&slot, event, liveness).await;
        }
        if let Some(slot) = routed.reread {
            self.directory.requery(&slot, self.revision);
        }
        if self.routed.is_multiple_of(256) {
            self.view
                .summarize(format!("{} events routed, at revision {}", self.routed, self.revision));
        }
    }

    async fn member(&mut self, member: MemberState) {
        let former = self.liveness.insert(member.node.clone(), member.liveness);
        if former != Some(member.liveness) {
            let slot = Slot::own(protocol::Key::new(index::NODES, "", member.node.as_str()));
            self.directory
                .deliver(&slot, ObjectMessage::Liveness(member.liveness), self.revision, None)
                .await;
        }
    }

    fn liveness_of(&self, slot: &Slot) -> Option<Liveness> {
        if slot.key.resource.as_str() != index::NODES {
            return None;
        }
        self.liveness.get(&NodeName::from(&*slot.key.name)).copied()
    }

    fn answer(&self, message: AdminMessage) {
        const UNDERSTANDS: &str = "ask: state";
        match message {
            AdminMessage::Ask { question, reply } => {
                let answer = if question == "state" {
                    Ok(json!({
                        "revision": self.revision.0, "eventsRouted": self.routed, "objects": self.index.read().len(),
                        "actors": self.directory.awake(), "backingOff": self.directory.troubled(),
                        "members": self.liveness.iter().map(|(n, l)| (n.to_string(), format!("{l:?}"))).collect::<HashMap<_, _>>(),
                    })
                    .to_string())
                } else {
                    Err(UNDERSTANDS.to_owned())
                };
                // The shell may have gone.
                let _ = reply.send(answer);
            }
            AdminMessage::Tell { reply, .. } => {
                let _ = reply.send(Err(UNDERSTANDS.to_owned()));
            }
        }
    }
}

fn pump_members(membership: &dyn Membership, router: ActorRef<RouterMessage>) -> JoinHandle<()> {
    let mut members = membership.watch();
    tokio::spawn(async move {
        while let Some(member) = members.next().await {
            if router.send_message(RouterMessage::Member(member)).is_err() {
                return;
            }
        }
    })
}
