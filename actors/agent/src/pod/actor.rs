//! The actor of one pod: receives events, calls `decide`, carries effects out. Whatever takes time runs in a task that
//! answers with an event, so that the mailbox is never blocked by a pull or a write.
//!
//! Its state is rebuilt at each start from the pod table (the API object) and the runtime (the sandbox): it can be killed
//! at any instant.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use protocol::runtime::{PodIdentity, PodRuntime, SandboxSpec};
use protocol::store::{ListRequest, ObjectStore, Precondition, Proposal, ProposeError, ReadError, Refusal, Write};
use protocol::{Cause, Key};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use serde_json::{Value, json};
use supervision::{ActorView, AdminMessage, Clock, SupervisorMessage};

use super::decide::{Effect, Event, decide};
use super::dependency::{Dependencies, Reference, ServiceAddress, Source};
use super::environment::PodFacts;
use super::plan;
use super::resize;
use super::state::{PodState, Role};
use super::status::phase;
use super::token::{self, HeldToken, TokenError, TokenSource, TokenWish};
use crate::event::{self, EventLog, Subject};
use crate::table::{Found, PodSlot, PodTable};

/// How often a status write is tried against a newer object before the actor decides again.
const WRITE_ATTEMPTS_MAX: u32 = 8;

/// What the actor is told.
pub enum PodMessage {
    /// Something happened.
    Event(Box<Event>),
    /// The write of a status has ended.
    StatusWritten {
        /// Whether it took effect.
        done: bool,
    },
    /// From the shell.
    Admin(AdminMessage),
}

impl ractor::Message for PodMessage {}

impl From<AdminMessage> for PodMessage {
    fn from(message: AdminMessage) -> Self {
        PodMessage::Admin(message)
    }
}

/// What all pods of a node share.
pub struct PodSurroundings {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The runtime.
    pub runtime: Arc<dyn PodRuntime>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// All pods of the node.
    pub table: Arc<PodTable>,
    /// Facts of the node.
    pub facts: PodFacts,
    /// `/etc/resolv.conf` of a pod.
    pub resolv_conf: crate::ResolvConf,
    /// Random bits, for uids and names.
    pub random: Arc<dyn Fn() -> u128 + Send + Sync>,
    /// Who gives tokens of ServiceAccounts.
    pub tokens: Arc<dyn TokenSource>,
}

/// The actor.
pub struct PodActor;

/// What it starts with.
pub struct PodArguments {
    /// The pod's slot.
    pub slot: Arc<PodSlot>,
    /// What all pods share.
    pub shared: Arc<PodSurroundings>,
    /// Its entry in the registry.
    pub view: ActorView,
    /// Its supervisor, which it asks to be stopped when nothing of the pod is left.
    pub supervisor: ActorCell,
}

/// Its state.
pub struct PodActorState {
    pod: PodState,
    identity: PodIdentity,
    events: EventLog,
    arguments: PodArguments,
    timer: Option<tokio::task::AbortHandle>,
    writing: bool,
    next_status: Option<Box<PodStatus>>,
}

impl Actor for PodActor {
    type Msg = PodMessage;
    type State = PodActorState;
    type Arguments = PodArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<PodMessage>,
        arguments: PodArguments,
    ) -> Result<PodActorState, ActorProcessingErr> {
        let pod = Pod::clone(&arguments.slot.latest.lock());
        let identity = plan::identity(&pod);
        let subject = Subject {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: identity.namespace.clone(),
            name: identity.name.clone(),
            uid: identity.uid.to_string(),
        };
        let facts = arguments.shared.facts.clone();
        let events = EventLog::new(subject, facts.node_name.clone());
        arguments.slot.started(myself.clone());
        let removed = *arguments.slot.removed.lock();
        match arguments.slot.found.lock().take() {
            Some(Found::Nothing) => myself.send_message(found(None))?,
            Some(Found::Sandbox(sandbox)) => myself.send_message(found(Some(*sandbox)))?,
            None => look_for_sandbox(&arguments, &identity, myself.clone()),
        }
        let event = if removed {
            Event::PodRemoved
        } else {
            Event::PodChanged(Box::new(pod.clone()))
        };
        myself.send_message(PodMessage::Event(Box::new(event)))?;
        let pod = PodState::new(pod, facts);
        Ok(PodActorState {
            pod,
            identity,
            events,
            arguments,
            timer: None,
            writing: false,
            next_status: None,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<PodMessage>,
        message: PodMessage,
        state: &mut PodActorState,
    ) -> Result<(), ActorProcessingErr> {
        state.arguments.view.count_message();
        match message {
            PodMessage::Event(event) => {
                let mut effects = Vec::new();
                decide(&mut state.pod, state.arguments.shared.clock.now(), *event, &mut effects);
                for effect in effects {
                    state.carry_out(&myself, effect);
                }
                state.arguments.view.summarize(summary(&state.pod));
            }
            PodMessage::StatusWritten { done } => {
                state.writing = false;
                match state.next_status.take() {
                    Some(status) => state.write_status(&myself, status),
                    None if !done => myself.send_message(PodMessage::Event(Box::new(Event::StatusRefused)))?,
                    None => {}
                }
            }
            PodMessage::Admin(message) => state.answer(&myself, message),
        }
        Ok(())
    }
}

fn found(sandbox: Option<protocol::runtime::SandboxState>) -> PodMessage {
    PodMessage::Event(Box::new(Event::SandboxFound(sandbox)))
}

/// After a restart of the actor, the runtime says what exists. It is asked again until it answers.
fn look_for_sandbox(arguments: &PodArguments, identity: &PodIdentity, myself: ActorRef<PodMessage>) {
    let (runtime, uid) = (Arc::clone(&arguments.shared.runtime), identity.uid.clone());
    tokio::spawn(async move {
        loop {
            match runtime.sandboxes().await {
                Ok(all) => {
                    let mine = all.into_iter().find(|sandbox| sandbox.pod.uid == uid);
                    // The actor may have ended meanwhile.
                    let _ = myself.send_message(found(mine));
                    return;
                }
                Err(error) => {
                    tracing::warn!(%uid, %error, "the runtime does not list its sandboxes");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    });
}

fn summary(state: &PodState) -> String {
    let ready = state
        .containers
        .iter()
        .filter(|record| record.role == Role::App && record.is_running())
        .count();
    let all = state
        .containers
        .iter()
        .filter(|record| record.role == Role::App)
        .count();
    let word = if state.termination.is_some() {
        "Terminating"
    } else {
        phase(state).word()
    };
    format!("{word}, {ready}/{all} ready")
}

impl PodActorState {
    /// What set the pod's last change in motion.
    fn cause(&self) -> Cause {
        *self.arguments.slot.cause.lock()
    }

    fn carry_out(&mut self, myself: &ActorRef<PodMessage>, effect: Effect) {
        tracing::debug!(cause = %self.cause(), pod = %self.identity.name, ?effect, "effect");
        let (runtime, uid) = (Arc::clone(&self.arguments.shared.runtime), self.identity.uid.clone());
        let name = self.identity.name.clone();
        match effect {
            Effect::ResolveDependencies(references, tokens) => self.resolve(myself, references, tokens),
            Effect::StartSandbox(spec) => self.start_sandbox(myself, *spec),
            Effect::EnsureImage {
                container,
                reference,
                policy,
                credentials,
            } => answer_with(myself, async move {
                let result = runtime.ensure_image(&reference, policy, &credentials).await;
                Event::ImageEnsured { container, result }
            }),
            Effect::StartContainer(spec) => answer_with(myself, async move {
                let result = runtime.start_container(&uid, &spec).await;
                Event::ContainerStarted {
                    container: spec.name.clone(),
                    attempt: spec.attempt,
                    result,
                }
            }),
            Effect::SignalContainer { container, signal } => {
                tokio::spawn(async move {
                    if let Err(error) = runtime.signal_container(&uid, &container, signal).await {
                        tracing::warn!(pod = %name, %container, %error, "a container was not signalled");
                    }
                });
            }
            Effect::UpdateVolume(volume) => {
                tokio::spawn(async move {
                    if let Err(error) = runtime.update_volume(&uid, &volume).await {
                        tracing::warn!(pod = %name, volume = %volume.name, %error, "a volume was not updated");
                    }
                });
            }
            Effect::AskRoom(wanted) => {
                let shared = &self.arguments.shared;
                let allocatable = resize::Amounts {
                    cpu_milli: shared.facts.allocatable_cpu_milli,
                    memory_bytes: shared.facts.allocatable_memory_bytes,
                };
                let answer = shared.table.grant(&uid, wanted, allocatable);
                answer_with(myself, std::future::ready(Event::RoomAnswered(answer)));
            }
            Effect::Resize { whole, containers } => answer_with(myself, async move {
                Event::Resized(runtime.resize(&uid, &whole, &containers).await)
            }),
            Effect::MeasureUsage => {
                answer_with(myself, async move { Event::UsageMeasured(runtime.usage(&uid).await) });
            }
            Effect::RemoveSandbox => {
                answer_with(myself, async move {
                    Event::SandboxRemoved(runtime.remove_sandbox(&uid).await)
                });
            }
            Effect::WriteStatus(status) if self.writing => self.next_status = Some(status),
            Effect::WriteStatus(status) => self.write_status(myself, status),
            Effect::RemovePod => self.remove_pod(myself),
            Effect::Record {
                warning,
                reason,
                message,
            } => self.record(warning, reason, &message),
            Effect::SetTimer { token, at } => self.set_timer(myself, token, at),
            Effect::Stop => self.stop(),
        }
    }

    fn start_sandbox(&self, myself: &ActorRef<PodMessage>, mut spec: SandboxSpec) {
        spec.resolv_conf = (self.arguments.shared.resolv_conf)(&self.pod.pod);
        let runtime = Arc::clone(&self.arguments.shared.runtime);
        answer_with(myself, async move {
            Event::SandboxStarted(runtime.start_sandbox(&spec).await)
        });
    }

    fn resolve(&self, myself: &ActorRef<PodMessage>, references: Vec<Reference>, wishes: Vec<TokenWish>) {
        let (store, namespace) = (
            Arc::clone(&self.arguments.shared.store),
            self.identity.namespace.clone(),
        );
        let (identity, source) = (self.identity.clone(), Arc::clone(&self.arguments.shared.tokens));
        let account = token::account(&self.pod.pod).to_owned();
        answer_with(myself, async move {
            let name = &identity.name;
            loop {
                // At the same time: neither needs the other, and a pod's start waits for both.
                let read = resolve(store.as_ref(), &namespace, &references);
                let (read, tokens) = futures::join!(read, tokens(source.as_ref(), &identity, &account, &wishes));
                let resolved = read.map_err(|error| error.to_string()).and_then(|read| {
                    Ok(Dependencies {
                        tokens: tokens?,
                        ..read
                    })
                });
                match resolved {
                    Ok(dependencies) => return Event::DependenciesResolved(dependencies),
                    Err(error) => {
                        tracing::debug!(pod = %name, %error, "the store does not answer; asked again");
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                }
            }
        });
    }

    fn write_status(&mut self, myself: &ActorRef<PodMessage>, status: Box<PodStatus>) {
        self.writing = true;
        let shared = Arc::clone(&self.arguments.shared);
        let (identity, myself, cause) = (self.identity.clone(), myself.clone(), self.cause());
        tokio::spawn(async move {
            let done = write_status(&shared, &identity, &status, cause).await;
            if !done {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            let _ = myself.send_message(PodMessage::StatusWritten { done });
        });
    }

    fn remove_pod(&self, myself: &ActorRef<PodMessage>) {
        let cause = self.cause();
        let (store, identity) = (Arc::clone(&self.arguments.shared.store), self.identity.clone());
        answer_with(myself, async move {
            match remove_pod(store.as_ref(), &identity, cause).await {
                true => Event::PodRemoved,
                false => Event::RemovalRefused,
            }
        });
    }

    fn record(&mut self, warning: bool, reason: &str, message: &str) {
        let shared = &self.arguments.shared;
        let object = self
            .events
            .occurred(shared.clock.now(), (shared.random)(), warning, reason, message);
        tokio::spawn(event::write(Arc::clone(&shared.store), self.cause(), object));
    }

    fn set_timer(&mut self, myself: &ActorRef<PodMessage>, token: u64, at: protocol::UnixMillis) {
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
        let (wait_ms, myself) = (at.since_ms(self.arguments.shared.clock.now()), myself.clone());
        let ring = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            let _ = myself.send_message(PodMessage::Event(Box::new(Event::TimerRang(token))));
        });
        self.timer = Some(ring.abort_handle());
    }

    fn stop(&mut self) {
        self.arguments.shared.table.remove(&self.identity.uid);
        let supervisor: ActorRef<SupervisorMessage> = self.arguments.supervisor.clone().into();
        let path = self.arguments.slot.path.clone();
        // A supervisor that is gone has taken this actor along.
        let _ = supervisor.send_message(SupervisorMessage::Stop { path, reply: None });
    }

    fn answer(&self, myself: &ActorRef<PodMessage>, message: AdminMessage) {
        const UNDERSTANDS: &str = "ask: state, containers; tell: reconcile";
        match message {
            AdminMessage::Ask { question, reply } => {
                let answer = match question.as_str() {
                    "state" => Ok(self.describe().to_string()),
                    "containers" => Ok(self.describe()["containers"].to_string()),
                    _ => Err(UNDERSTANDS.to_owned()),
                };
                let _ = reply.send(answer);
            }
            AdminMessage::Tell { message, reply } => {
                let answer = if message == "reconcile" {
                    let pod = Pod::clone(&self.arguments.slot.latest.lock());
                    let _ = myself.send_message(PodMessage::Event(Box::new(Event::PodChanged(Box::new(pod)))));
                    Ok("looking at the pod again".to_owned())
                } else {
                    Err(UNDERSTANDS.to_owned())
                };
                let _ = reply.send(answer);
            }
        }
    }

    fn describe(&self) -> Value {
        let containers = self.pod.containers.iter().map(|record| {
            json!({
                "name": record.name, "role": format!("{:?}", record.role), "attempt": record.attempt,
                "image": format!("{:?}", record.image), "run": format!("{:?}", record.run),
                "restartNotBefore": record.restart_backoff.until().rfc3339(),
            })
        });
        json!({
            "pod": format!("{}/{}", self.identity.namespace, self.identity.name),
            "uid": self.identity.uid.as_str(),
            "phase": phase(&self.pod).word(),
            "sandbox": format!("{:?}", self.pod.sandbox),
            "terminating": self.pod.termination.is_some(),
            "dependenciesRead": self.pod.dependencies.is_some(),
            "containers": containers.collect::<Vec<_>>(),
        })
    }
}

fn answer_with(myself: &ActorRef<PodMessage>, work: impl Future<Output = Event> + Send + 'static) {
    let myself = myself.clone();
    tokio::spawn(async move {
        let event = work.await;
        // The actor may have ended meanwhile; its successor asks again.
        let _ = myself.send_message(PodMessage::Event(Box::new(event)));
    });
}

async fn resolve(
    store: &dyn ObjectStore,
    namespace: &str,
    references: &[Reference],
) -> Result<Dependencies, ReadError> {
    let contents = references.iter().map(|reference| async move {
        let key = Key::new(reference.source.resource(), namespace, reference.name.as_str());
        let object = store.read(&key).await?;
        let value = object.and_then(|object| object.value().ok());
        Ok::<_, ReadError>((reference.clone(), value.map(|value| content(reference.source, &value))))
    });
    let mut namespaces = vec!["default"];
    if namespace != "default" {
        namespaces.push(namespace);
    }
    let services = namespaces.into_iter().map(|of| async move {
        let page = store.list(ListRequest::all("services").in_namespace(of)).await?;
        let wanted = |name: &str| of == namespace || name == "kubernetes";
        let listed = page.items.iter().filter(|(key, _)| wanted(&key.name));
        let addresses = listed.filter_map(|(_, object)| service_address(&object.value().ok()?));
        Ok::<_, ReadError>(addresses.collect::<Vec<ServiceAddress>>())
    });
    // All at the same time: a pod's start waits for the slowest alone.
    let (contents, services) = futures::future::try_join(try_join_all(contents), try_join_all(services)).await?;
    let (contents, services) = (contents.into_iter().collect(), services.concat());
    Ok(Dependencies {
        contents,
        services,
        tokens: BTreeMap::new(),
    })
}

/// Asks for tokens. An error means that nobody answers; a refusal is an answer.
async fn tokens(
    source: &dyn TokenSource,
    pod: &PodIdentity,
    account: &str,
    wishes: &[TokenWish],
) -> Result<BTreeMap<TokenWish, Result<HeldToken, String>>, String> {
    let mut given = BTreeMap::new();
    for wish in wishes {
        let answer = match source.token(pod, account, wish).await {
            Ok(token) => Ok(token),
            Err(TokenError::Refused(reason)) => Err(reason),
            Err(error @ TokenError::Unavailable(_)) => return Err(error.to_string()),
        };
        given.insert(wish.clone(), answer);
    }
    Ok(given)
}

/// `data` (and `binaryData` of a ConfigMap) as bytes.
fn content(source: Source, value: &Value) -> BTreeMap<String, Vec<u8>> {
    use base64::Engine;
    let engine = base64::engine::general_purpose::STANDARD;
    let entries = |field: &str| value.get(field).and_then(Value::as_object).into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let decoded = |(key, value): (&String, &Value)| Some((key.clone(), engine.decode(text(value)).ok()?));
    match source {
        Source::Secret => entries("data").filter_map(decoded).collect(),
        Source::ConfigMap => {
            let plain = entries("data").map(|(key, value)| (key.clone(), text(value).into_bytes()));
            plain.chain(entries("binaryData").filter_map(decoded)).collect()
        }
    }
}

fn service_address(value: &Value) -> Option<ServiceAddress> {
    let cluster_ip = value.pointer("/spec/clusterIP")?.as_str()?;
    if cluster_ip.is_empty() || cluster_ip == "None" {
        return None;
    }
    let ports = value
        .pointer("/spec/ports")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let port = |port: &Value| {
        let text = |name: &str, or: &str| port.get(name).and_then(Value::as_str).unwrap_or(or).to_owned();
        Some((
            text("name", ""),
            u16::try_from(port.get("port")?.as_u64()?).ok()?,
            text("protocol", "TCP"),
        ))
    };
    Some(ServiceAddress {
        name: value.pointer("/metadata/name")?.as_str()?.to_owned(),
        cluster_ip: cluster_ip.to_owned(),
        ports: ports.filter_map(port).collect(),
    })
}

/// Writes a pod's status against the newest object. Conditions that others own are kept. False when it must be decided
/// again.
async fn write_status(shared: &PodSurroundings, identity: &PodIdentity, status: &PodStatus, cause: Cause) -> bool {
    let Some(kind) = api::kinds::find_by_kind("v1", "Pod") else {
        return false;
    };
    let key = Key::new(kind.resource(), identity.namespace.as_str(), identity.name.as_str());
    for _ in 0..WRITE_ATTEMPTS_MAX {
        let stored = match shared.store.read(&key).await {
            Ok(Some(stored)) if stored.header.uid == identity.uid => stored,
            Ok(_) => return true,
            Err(error) => {
                tracing::debug!(%key, %error, "a status was not written");
                return false;
            }
        };
        let (Ok(old), Ok(status)) = (stored.value(), serde_json::to_value(status)) else {
            return false;
        };
        let mut new = old.clone();
        new["status"] = with_foreign_conditions(status, &old["status"]);
        let context = crate::write_context(shared.clock.now());
        let subresource = Some(api::kinds::Subresource::Status);
        let written = match api::write::prepare_update(kind, subresource, &old, new, &context) {
            Ok(written) => written,
            Err(refusal) => {
                tracing::error!(%key, message = %refusal.message, "a pod's status is not valid: a bug");
                return true;
            }
        };
        let Ok(draft) = kind.draft(&written.object) else {
            return false;
        };
        if draft.changes_nothing(&stored) {
            return true;
        }
        let precondition = Precondition::Revision(stored.header.revision);
        let write = Write::Put {
            key: key.clone(),
            precondition,
            draft,
        };
        match shared.store.propose(Proposal::one(cause, write)).await {
            Ok(_) => return true,
            Err(ProposeError::Refused(Refusal::Conflict { .. })) => {}
            Err(ProposeError::Refused(_)) => return true,
            Err(error) => {
                tracing::debug!(%key, %error, "a status was not written");
                return false;
            }
        }
    }
    false
}

/// Conditions in the store whose type the status does not speak of stay as they are.
fn with_foreign_conditions(mut status: Value, stored: &Value) -> Value {
    let kinds: Vec<Value> = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|own| own["type"].clone())
        .collect();
    let foreign = stored["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|known| !kinds.contains(&known["type"]))
        .filter(|known| {
            !known["type"]
                .as_str()
                .is_some_and(|kind| resize::CONDITIONS.contains(&kind))
        });
    let foreign: Vec<Value> = foreign.cloned().collect();
    if let Some(own) = status["conditions"].as_array_mut() {
        own.extend(foreign);
    }
    status
}

/// Removes the API object of a pod of which nothing is left. True when it is gone.
async fn remove_pod(store: &dyn ObjectStore, identity: &PodIdentity, cause: Cause) -> bool {
    let key = Key::new("pods", identity.namespace.as_str(), identity.name.as_str());
    for _ in 0..WRITE_ATTEMPTS_MAX {
        let stored = match store.read(&key).await {
            Ok(Some(stored)) if stored.header.uid == identity.uid => stored,
            Ok(_) => return true,
            Err(_) => break,
        };
        if !stored.header.finalizers.is_empty() {
            tracing::info!(%key, finalizers = ?stored.header.finalizers, "a pod is over but waits for its finalizers");
            return false;
        }
        let precondition = Precondition::Revision(stored.header.revision);
        match store
            .propose(Proposal::one(
                cause,
                Write::Delete {
                    key: key.clone(),
                    precondition,
                },
            ))
            .await
        {
            Ok(_) | Err(ProposeError::Refused(Refusal::NotFound { .. })) => return true,
            Err(ProposeError::Refused(_)) => {}
            Err(_) => break,
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    false
}
