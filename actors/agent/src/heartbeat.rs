//! Registers the node and shows that it lives: keeps the Node object's status true and renews the Lease. Its supervisor
//! restarts it always; it keeps nothing that it could not read again.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use protocol::store::{
    ObjectStore, Precondition, Proposal, ProposeError, Refusal, Selection, WatchItem, WatchRequest, Write,
};
use protocol::{Cause, Key, Resource, Uid, UnixMillis};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::{Value, json};
use supervision::{ActorView, AdminMessage, Clock};
use tokio::sync::watch;

use crate::node_object::{LEASE_PERIOD_MS, NodeFacts, lease, registration, status, status_is_due};

/// How soon a write that failed is tried again.
const RETRY_MS: u64 = 300;

/// What the actor is told.
pub enum HeartbeatMessage {
    /// Look whether something is due.
    Tick,
    /// From the shell.
    Admin(AdminMessage),
}

impl ractor::Message for HeartbeatMessage {}

impl From<AdminMessage> for HeartbeatMessage {
    fn from(message: AdminMessage) -> Self {
        HeartbeatMessage::Admin(message)
    }
}

/// The actor.
pub struct Heartbeat;

/// What it starts with.
#[derive(Clone)]
pub struct HeartbeatArguments {
    /// What the machine is.
    pub facts: NodeFacts,
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Random bits, for uids.
    pub random: Arc<dyn Fn() -> u128 + Send + Sync>,
    /// Why pods cannot run here at present; `None` when they can.
    pub unready: watch::Receiver<Option<String>>,
    /// Its entry in the registry.
    pub view: Option<ActorView>,
}

/// Its state.
pub struct HeartbeatState {
    arguments: HeartbeatArguments,
    status_written: UnixMillis,
    lease_renewed: UnixMillis,
    last_error: Option<String>,
    followers: Vec<tokio::task::AbortHandle>,
}

impl Drop for HeartbeatState {
    fn drop(&mut self) {
        for follower in &self.followers {
            follower.abort();
        }
    }
}

impl Actor for Heartbeat {
    type Msg = HeartbeatMessage;
    type State = HeartbeatState;
    type Arguments = HeartbeatArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<HeartbeatMessage>,
        arguments: HeartbeatArguments,
    ) -> Result<HeartbeatState, ActorProcessingErr> {
        myself.send_message(HeartbeatMessage::Tick)?;
        let followers = vec![
            tokio::spawn(follow_readiness(arguments.unready.clone(), myself.clone())).abort_handle(),
            tokio::spawn(follow_node(
                Arc::clone(&arguments.store),
                arguments.facts.name.clone(),
                myself.clone(),
            ))
            .abort_handle(),
            tokio::spawn(tick(myself)).abort_handle(),
        ];
        Ok(HeartbeatState {
            arguments,
            status_written: UnixMillis(0),
            lease_renewed: UnixMillis(0),
            last_error: None,
            followers,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<HeartbeatMessage>,
        message: HeartbeatMessage,
        state: &mut HeartbeatState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            HeartbeatMessage::Tick => {
                let outcome = state.beat().await;
                if let Err(error) = &outcome {
                    tracing::debug!(%error, "the node's status was not written");
                    myself.send_after(Duration::from_millis(RETRY_MS), || HeartbeatMessage::Tick);
                }
                state.last_error = outcome.err();
                state.summarize();
            }
            HeartbeatMessage::Admin(AdminMessage::Ask { question, reply }) => {
                let answer = match question.as_str() {
                    "state" => Ok(state.describe().to_string()),
                    _ => Err("ask: state".to_owned()),
                };
                let _ = reply.send(answer);
            }
            HeartbeatMessage::Admin(AdminMessage::Tell { reply, .. }) => {
                let _ = reply.send(Err("ask: state".to_owned()));
            }
        }
        Ok(())
    }
}

/// Ticks often enough for the Lease.
async fn tick(myself: ActorRef<HeartbeatMessage>) {
    let mut interval = tokio::time::interval(Duration::from_millis(LEASE_PERIOD_MS / 2));
    loop {
        interval.tick().await;
        if myself.send_message(HeartbeatMessage::Tick).is_err() {
            return;
        }
    }
}

async fn follow_readiness(mut unready: watch::Receiver<Option<String>>, myself: ActorRef<HeartbeatMessage>) {
    while unready.changed().await.is_ok() {
        if myself.send_message(HeartbeatMessage::Tick).is_err() {
            return;
        }
    }
}

/// The control plane marks a node that it cannot reach; a node that lives corrects that at once.
async fn follow_node(store: Arc<dyn ObjectStore>, name: String, myself: ActorRef<HeartbeatMessage>) {
    let request = WatchRequest {
        resources: vec![Resource::new("nodes")],
        selections: vec![Selection::field("nodes", "metadata.name", &name)],
        after: None,
        ..WatchRequest::default()
    };
    loop {
        if let Ok(mut events) = store.watch(request.clone()).await {
            if myself.send_message(HeartbeatMessage::Tick).is_err() {
                return;
            }
            while let Some(item) = events.next().await {
                let written = matches!(item, WatchItem::Event(_));
                if written && myself.send_message(HeartbeatMessage::Tick).is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
    }
}

impl HeartbeatState {
    async fn beat(&mut self) -> Result<(), String> {
        let now = self.arguments.clock.now();
        let node = self.register(now).await?;
        self.write_status(&node, now).await?;
        if now.since_ms(self.lease_renewed) >= LEASE_PERIOD_MS {
            self.renew_lease(node["metadata"]["uid"].as_str().unwrap_or_default(), now)
                .await?;
            self.lease_renewed = now;
        }
        Ok(())
    }

    /// The Node object; created when it does not exist.
    async fn register(&self, now: UnixMillis) -> Result<Value, String> {
        let key = Key::new("nodes", "", self.arguments.facts.name.as_str());
        let store = &self.arguments.store;
        if let Some(stored) = store.read(&key).await.map_err(|error| error.to_string())? {
            return stored.value().map_err(|error| error.to_string());
        }
        self.create(&key, registration(&self.arguments.facts), "v1", "Node", now)
            .await?;
        let stored = store.read(&key).await.map_err(|error| error.to_string())?;
        let stored = stored.ok_or("the Node object vanished right after its creation")?;
        tracing::info!(node = %self.arguments.facts.name, "the node is registered");
        stored.value().map_err(|error| error.to_string())
    }

    async fn create(
        &self,
        key: &Key,
        object: Value,
        api_version: &str,
        kind: &str,
        now: UnixMillis,
    ) -> Result<(), String> {
        let kind = api::kinds::find_by_kind(api_version, kind).ok_or("the table of kinds lacks a kind")?;
        let uid = Uid::from_bits((self.arguments.random)());
        let context = api::write::WriteContext {
            new_uid: uid.as_str(),
            ..crate::write_context(now)
        };
        let written = api::write::prepare_create(kind, &key.namespace, object, &context);
        let object = written.map_err(|refusal| refusal.message)?.object;
        let draft = kind.draft(&object).map_err(|error| error.to_string())?;
        let write = Write::Put {
            key: key.clone(),
            precondition: Precondition::Absent,
            draft,
        };
        match self
            .arguments
            .store
            .propose(Proposal::one(Cause::default(), write))
            .await
        {
            Ok(_) | Err(ProposeError::Refused(Refusal::AlreadyExists { .. })) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn update(
        &self,
        key: &Key,
        api_version: &str,
        kind: &str,
        subresource: Option<api::kinds::Subresource>,
        change: impl Fn(&Value) -> Value,
    ) -> Result<(), String> {
        let kind = api::kinds::find_by_kind(api_version, kind).ok_or("the table of kinds lacks a kind")?;
        let stored = self
            .arguments
            .store
            .read(key)
            .await
            .map_err(|error| error.to_string())?;
        let stored = stored.ok_or_else(|| format!("{key} does not exist"))?;
        let old = stored.value().map_err(|error| error.to_string())?;
        let context = crate::write_context(self.arguments.clock.now());
        let written = api::write::prepare_update(kind, subresource, &old, change(&old), &context);
        let object = written.map_err(|refusal| refusal.message)?.object;
        let draft = kind.draft(&object).map_err(|error| error.to_string())?;
        let precondition = Precondition::Revision(stored.header.revision);
        let write = Write::Put {
            key: key.clone(),
            precondition,
            draft,
        };
        self.arguments
            .store
            .propose(Proposal::one(Cause::default(), write))
            .await
            .map_err(|error| error.to_string())?;
        Ok(())
    }

    async fn write_status(&mut self, node: &Value, now: UnixMillis) -> Result<(), String> {
        let facts = &self.arguments.facts;
        let unready = self.arguments.unready.borrow().clone();
        let wanted = status(facts, node, unready.as_deref(), now);
        if !status_is_due(node, &wanted, self.status_written, now) {
            return Ok(());
        }
        let key = Key::new("nodes", "", facts.name.as_str());
        let change = |old: &Value| {
            let mut new = old.clone();
            let wanted = status(facts, old, unready.as_deref(), now);
            for (name, part) in wanted.as_object().into_iter().flatten() {
                new["status"][name] = part.clone();
            }
            new
        };
        self.update(&key, "v1", "Node", Some(api::kinds::Subresource::Status), change)
            .await?;
        self.status_written = now;
        Ok(())
    }

    async fn renew_lease(&self, node_uid: &str, now: UnixMillis) -> Result<(), String> {
        let object = lease(&self.arguments.facts, node_uid, now);
        let key = Key::new(
            "leases.coordination.k8s.io",
            "kube-node-lease",
            self.arguments.facts.name.as_str(),
        );
        let exists = self
            .arguments
            .store
            .read(&key)
            .await
            .map_err(|error| error.to_string())?
            .is_some();
        if !exists {
            return self.create(&key, object, "coordination.k8s.io/v1", "Lease", now).await;
        }
        let change = |old: &Value| {
            let mut new = old.clone();
            new["spec"] = object["spec"].clone();
            new
        };
        self.update(&key, "coordination.k8s.io/v1", "Lease", None, change).await
    }

    fn summarize(&self) {
        if let Some(view) = &self.arguments.view {
            view.count_message();
            view.summarize(match &self.last_error {
                None => format!("lease renewed {}", self.lease_renewed.rfc3339()),
                Some(error) => error.clone(),
            });
        }
    }

    fn describe(&self) -> Value {
        json!({
            "node": self.arguments.facts.name,
            "unready": *self.arguments.unready.borrow(),
            "statusWritten": self.status_written.rfc3339(),
            "leaseRenewed": self.lease_renewed.rfc3339(),
            "lastError": self.last_error,
        })
    }
}
