//! The agent follows the pods that are bound to this node and gives each an actor. It reads the store and the runtime's
//! events, and forwards what concerns a pod to that pod's actor; it decides nothing about a pod itself.
//!
//! Killed, it is started again by its supervisor and lists anew; the pods' actors do not notice.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use protocol::runtime::{RuntimeEvent, SandboxState};
use protocol::store::{Change, ListRequest, Selection, StoreEvent, WatchItem, WatchRequest};
use protocol::{Cause, Object, Resource, Revision, Uid};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::json;
use supervision::{ActorPath, ActorView, AdminMessage, ChildSpec, RestartPolicy, RestartRule, SupervisorMessage};

use crate::pod::actor::{PodActor, PodArguments, PodSurroundings};
use crate::pod::decide::Event;
use crate::pod::dependency::{Reference, Source, references};
use crate::table::{Found, PodSlot};

/// How soon a watch that ended is opened again.
const REOPEN_MS: u64 = 200;

/// What the agent is told.
pub enum AgentMessage {
    /// Every pod that is bound to this node, as of a revision; those that are missing are gone.
    Listed(Vec<Arc<Object>>),
    /// A write to a pod, a ConfigMap or a Secret.
    Changed(Arc<StoreEvent>),
    /// From the runtime.
    Runtime(RuntimeEvent),
    /// From the shell.
    Admin(AdminMessage),
}

impl ractor::Message for AgentMessage {}

impl From<AdminMessage> for AgentMessage {
    fn from(message: AdminMessage) -> Self {
        AgentMessage::Admin(message)
    }
}

/// The actor.
pub struct AgentActor;

/// What it starts with.
#[derive(Clone)]
pub struct AgentArguments {
    /// What all pods share.
    pub shared: Arc<PodSurroundings>,
    /// The pods' supervisor.
    pub supervisor: ActorRef<SupervisorMessage>,
    /// The path of this node.
    pub node: ActorPath,
    /// Its entry in the registry.
    pub view: Option<ActorView>,
}

/// Its state.
pub struct AgentState {
    arguments: AgentArguments,
    found: HashMap<Uid, SandboxState>,
    listed: bool,
    /// Which pods name a ConfigMap or Secret, by namespace.
    dependents: BTreeMap<(String, Reference), HashSet<Uid>>,
    followers: Vec<tokio::task::AbortHandle>,
}

impl Drop for AgentState {
    fn drop(&mut self) {
        for follower in &self.followers {
            follower.abort();
        }
    }
}

impl Actor for AgentActor {
    type Msg = AgentMessage;
    type State = AgentState;
    type Arguments = AgentArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<AgentMessage>,
        arguments: AgentArguments,
    ) -> Result<AgentState, ActorProcessingErr> {
        let shared = &arguments.shared;
        let events = shared.runtime.events();
        let sandboxes = shared.runtime.sandboxes().await?;
        let found = sandboxes
            .into_iter()
            .map(|sandbox| (sandbox.pod.uid.clone(), sandbox))
            .collect();
        let followers = vec![
            tokio::spawn(follow_store(Arc::clone(shared), myself.clone())).abort_handle(),
            tokio::spawn(follow_runtime(events, myself)).abort_handle(),
        ];
        Ok(AgentState {
            arguments,
            found,
            listed: false,
            dependents: BTreeMap::new(),
            followers,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<AgentMessage>,
        message: AgentMessage,
        state: &mut AgentState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            AgentMessage::Listed(pods) => state.listed(&pods),
            AgentMessage::Changed(event) => state.changed(&event),
            AgentMessage::Runtime(event) => state.runtime_event(event),
            AgentMessage::Admin(message) => state.answer(message),
        }
        if let Some(view) = &state.arguments.view {
            view.count_message();
            view.summarize(format!("{} pods", state.arguments.shared.table.all().len()));
        }
        Ok(())
    }
}

async fn follow_runtime(mut events: protocol::runtime::EventStream, myself: ActorRef<AgentMessage>) {
    while let Some(event) = events.next().await {
        if myself.send_message(AgentMessage::Runtime(event)).is_err() {
            return;
        }
    }
}

/// Lists, then watches from the list's revision; begins anew when the watch is lost.
async fn follow_store(shared: Arc<PodSurroundings>, myself: ActorRef<AgentMessage>) {
    let mut after: Option<Revision> = None;
    loop {
        let from = match after {
            Some(revision) => revision,
            None => match list(&shared, &myself).await {
                Some(revision) => revision,
                None => {
                    tokio::time::sleep(Duration::from_millis(REOPEN_MS)).await;
                    continue;
                }
            },
        };
        after = watch(&shared, &myself, from).await;
        if myself.get_status() >= ractor::ActorStatus::Stopping {
            return;
        }
        tokio::time::sleep(Duration::from_millis(REOPEN_MS)).await;
    }
}

async fn list(shared: &PodSurroundings, myself: &ActorRef<AgentMessage>) -> Option<Revision> {
    let selector = format!("spec.nodeName={}", shared.facts.node_name);
    let fields = protocol::selector::FieldSelector::parse(&selector, &["spec.nodeName"]).ok()?;
    let page = shared
        .store
        .list(ListRequest {
            fields,
            ..ListRequest::all("pods")
        })
        .await;
    let page = page
        .inspect_err(|error| tracing::debug!(%error, "pods were not listed"))
        .ok()?;
    let pods = page.items.into_iter().map(|(_, object)| object).collect();
    myself.send_message(AgentMessage::Listed(pods)).ok()?;
    Some(page.revision)
}

/// Forwards events until the watch ends. Returns the revision to continue from, or `None` to list again.
async fn watch(shared: &PodSurroundings, myself: &ActorRef<AgentMessage>, from: Revision) -> Option<Revision> {
    let resources = ["pods", "configmaps", "secrets"].map(Resource::new).to_vec();
    // The leader sends of the pods only those of this node: a pod that is bound to it shows up as created.
    let selections = vec![Selection::field("pods", "spec.nodeName", &shared.facts.node_name)];
    let request = WatchRequest {
        selections,
        resources,
        after: Some(from),
        ..WatchRequest::default()
    };
    let mut last = from;
    let mut items = match shared.store.watch(request).await {
        Ok(items) => items,
        Err(error) => {
            tracing::debug!(%error, "pods are not watched");
            return matches!(error, protocol::store::ReadError::Unavailable { .. }).then_some(last);
        }
    };
    while let Some(item) = items.next().await {
        match item {
            WatchItem::Event(event) => {
                last = event.revision;
                myself.send_message(AgentMessage::Changed(event)).ok()?;
            }
            WatchItem::Progress(revision) => last = last.max(revision),
            WatchItem::Lost(error) => {
                tracing::info!(%error, "the watch of pods was lost; listing again");
                return None;
            }
        }
    }
    Some(last)
}

impl AgentState {
    fn listed(&mut self, pods: &[Arc<Object>]) {
        let present: HashSet<Uid> = pods.iter().map(|object| object.header.uid.clone()).collect();
        for object in pods {
            self.pod_present(object, Cause::default());
        }
        for (uid, slot) in self.arguments.shared.table.all() {
            if !present.contains(&uid) {
                *slot.removed.lock() = true;
                slot.send(Event::PodRemoved);
            }
        }
        if !std::mem::replace(&mut self.listed, true) {
            self.remove_orphans(&present);
        }
    }

    /// Sandboxes of pods that were removed while no node process ran.
    fn remove_orphans(&mut self, present: &HashSet<Uid>) {
        let known = &self.arguments.shared.table;
        let orphans = self
            .found
            .drain()
            .filter(|(uid, _)| !present.contains(uid) && known.slot(uid).is_none());
        for (uid, sandbox) in orphans.collect::<Vec<_>>() {
            let runtime = Arc::clone(&self.arguments.shared.runtime);
            tokio::spawn(async move {
                let (namespace, name) = (&sandbox.pod.namespace, &sandbox.pod.name);
                tracing::info!(%namespace, %name, %uid, "removing what is left of a pod that no longer exists");
                if let Err(error) = runtime.remove_sandbox(&uid).await {
                    tracing::warn!(%uid, %error, "the remains of a pod were not removed");
                }
            });
        }
    }

    fn changed(&mut self, event: &StoreEvent) {
        let source = match event.key.resource.as_str() {
            "pods" => {
                return match event.change {
                    Change::Deleted => self.pod_gone(&event.object.header.uid, event.cause),
                    Change::Created | Change::Updated => {
                        self.replaced(event);
                        self.pod_present(&event.object, event.cause);
                    }
                };
            }
            "configmaps" => Source::ConfigMap,
            _ => Source::Secret,
        };
        let reference = Reference::new(source, &*event.key.name);
        let dependents = self
            .dependents
            .get(&(event.key.namespace.to_string(), reference.clone()));
        for slot in dependents
            .into_iter()
            .flatten()
            .filter_map(|uid| self.arguments.shared.table.slot(uid))
        {
            slot.send(Event::DependencyChanged(reference.clone()));
        }
    }

    /// A pod of the same name and another uid took the place of one whose removal was not seen.
    fn replaced(&mut self, event: &StoreEvent) {
        if let Some(previous) = event
            .previous
            .as_ref()
            .filter(|p| p.header.uid != event.object.header.uid)
        {
            self.pod_gone(&previous.header.uid, event.cause);
        }
    }

    fn pod_gone(&mut self, uid: &Uid, cause: Cause) {
        for dependents in self.dependents.values_mut() {
            dependents.remove(uid);
        }
        self.dependents.retain(|_, dependents| !dependents.is_empty());
        if let Some(slot) = self.arguments.shared.table.slot(uid) {
            *slot.removed.lock() = true;
            *slot.cause.lock() = cause;
            slot.send(Event::PodRemoved);
        }
    }

    fn pod_present(&mut self, object: &Object, cause: Cause) {
        let pod: Pod = match object.parse() {
            Ok(pod) => pod,
            Err(error) => {
                tracing::error!(uid = %object.header.uid, %error, "a stored pod does not parse");
                return;
            }
        };
        let uid = object.header.uid.clone();
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        for reference in pod.spec.as_ref().map(references).unwrap_or_default() {
            self.dependents
                .entry((namespace.clone(), reference))
                .or_default()
                .insert(uid.clone());
        }
        let pod = Arc::new(pod);
        if let Some(slot) = self.arguments.shared.table.slot(&uid) {
            *slot.latest.lock() = Arc::clone(&pod);
            *slot.cause.lock() = cause;
            slot.send(Event::PodChanged(Box::new(Pod::clone(&pod))));
            return;
        }
        let found = self
            .found
            .remove(&uid)
            .map_or(Found::Nothing, |found| Found::Sandbox(Box::new(found)));
        let slot = Arc::new(PodSlot::new(self.path_for(&pod), pod, found));
        *slot.cause.lock() = cause;
        self.arguments.shared.table.insert(uid, Arc::clone(&slot));
        let spec = pod_child(slot, Arc::clone(&self.arguments.shared));
        // The supervisor ends only with this actor's own supervisor.
        let _ = self
            .arguments
            .supervisor
            .send_message(SupervisorMessage::Start { spec, reply: None });
    }

    /// `/nodes/n1/pods/default/web`; with a part of the uid while the remains of an older pod of this name are removed.
    fn path_for(&self, pod: &Pod) -> ActorPath {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let folder = self.arguments.node.child("pods").child(&text(&pod.metadata.namespace));
        let path = folder.child(&text(&pod.metadata.name));
        if !self.arguments.shared.table.has_path(&path) {
            return path;
        }
        let uid = text(&pod.metadata.uid);
        folder.child(&format!(
            "{}.{}",
            text(&pod.metadata.name),
            uid.get(..8).unwrap_or(&uid)
        ))
    }

    fn runtime_event(&self, event: RuntimeEvent) {
        let (pod, event) = match event {
            RuntimeEvent::ContainerExited {
                pod,
                container,
                attempt,
                exit,
            } => (
                pod,
                Event::ContainerExited {
                    container,
                    attempt,
                    exit,
                },
            ),
            RuntimeEvent::SandboxDied { pod, reason } => (pod, Event::SandboxDied(reason)),
        };
        if let Some(slot) = self.arguments.shared.table.slot(&pod) {
            slot.send(event);
        }
    }

    fn answer(&self, message: AdminMessage) {
        const UNDERSTANDS: &str = "ask: state";
        match message {
            AdminMessage::Ask { question, reply } => {
                let pods = || {
                    self.arguments
                        .shared
                        .table
                        .all()
                        .into_iter()
                        .map(|(_, slot)| slot.path.to_string())
                };
                let answer = match question.as_str() {
                    "state" => Ok(json!({
                        "listed": self.listed,
                        "pods": pods().collect::<Vec<_>>(),
                        "configurationWatched": self.dependents.len(),
                    })
                    .to_string()),
                    _ => Err(UNDERSTANDS.to_owned()),
                };
                let _ = reply.send(answer);
            }
            AdminMessage::Tell { reply, .. } => {
                let _ = reply.send(Err(UNDERSTANDS.to_owned()));
            }
        }
    }
}

/// How a pod's actor is started, each time.
pub fn pod_child(slot: Arc<PodSlot>, shared: Arc<PodSurroundings>) -> ChildSpec {
    let path = slot.path.clone();
    ChildSpec::actor(
        path,
        "pod",
        RestartPolicy::actor(RestartRule::Permanent),
        move |context| {
            let arguments = PodArguments {
                slot: Arc::clone(&slot),
                shared: Arc::clone(&shared),
                view: context.view.clone(),
                supervisor: context.supervisor.clone(),
            };
            (PodActor, arguments)
        },
    )
}
