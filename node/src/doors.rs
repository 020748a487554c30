//! The doors between nodes: logs of and sessions with containers that run elsewhere, the shell's messages to actors elsewhere, and what the
//! control plane hears of membership. Each implements a seam of `protocol` or `actors` over the mesh.

use std::sync::Arc;
use std::time::Duration;

use actors::reviewing::Reviewer;
use actors::{Liveness, MemberState};
use async_trait::async_trait;
use bytes::Bytes;
use cluster::membership::{Member, MemberStatus};
use cluster::remoting::RouterHandler;
use cluster::{Membership, Mesh, Remoting};
use consensus::{Consensus, StoreClient};
use futures::{FutureExt, StreamExt};
use gateway::service::Api;
use protocol::admin::{ActorEntry, AdminDoor, AdminError, AdminReply, AdminRequest, MemberEntry};
use protocol::codec::{decode, encode};
use protocol::node::{NodeDoor, NodeDoorError};
use protocol::runtime::{LogRequest, LogStream, PodRuntime, RuntimeError};
use protocol::session::{
    AttachSpec, ExecSpec, InputStream, OutputStream, PortInput, PortOutput, PortSpec, SessionRequest,
};
use protocol::transport::{FrameStream, Purpose, Service, Transport, TransportError};
use protocol::{Cause, Key, NodeName};
use serde_json::Value;
use supervision::Registry;

use crate::sessions;

/// How long another node's actors have to answer.
const REMOTE_DEADLINE: Duration = Duration::from_secs(6);

/// What the control plane's actors create goes past the same webhooks and policies as what clients create.
pub struct ApiReviewer {
    /// The API of this node.
    pub api: Arc<Api>,
}

#[async_trait]
impl Reviewer for ApiReviewer {
    fn has_anybody(&self) -> bool {
        self.api.has_reviewers()
    }

    async fn review(&self, key: &Key, object: Value, cause: Cause) -> Result<Value, String> {
        let reviewed = self.api.review_created(key, object, cause).await;
        reviewed.map_err(|status| status.message)
    }
}

/// Serves logs of this node's containers to other nodes. The first byte of each frame says what it is.
pub struct LogService {
    /// The runtime.
    pub runtime: Arc<dyn PodRuntime>,
}

const LOG_PART: u8 = 0;
const LOG_REFUSED: u8 = 1;

fn frame(kind: u8, bytes: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(bytes.len() + 1);
    frame.push(kind);
    frame.extend_from_slice(bytes);
    Bytes::from(frame)
}

#[async_trait]
impl Service for LogService {
    async fn call(&self, _from: &NodeName, _request: Bytes) -> Bytes {
        Bytes::new()
    }

    async fn stream(&self, _from: &NodeName, request: Bytes) -> FrameStream {
        let refused = |text: String| {
            let frame = frame(LOG_REFUSED, text.as_bytes());
            futures::stream::once(async move { Ok(frame) }).boxed()
        };
        let request: LogRequest = match decode(&request) {
            Ok(request) => request,
            Err(error) => return refused(error.to_string()),
        };
        match self.runtime.logs(&request).await {
            Ok(parts) => parts
                .map(|part| {
                    Ok(match part {
                        Ok(bytes) => frame(LOG_PART, &bytes),
                        Err(error) => frame(LOG_REFUSED, error.to_string().as_bytes()),
                    })
                })
                .boxed(),
            Err(error) => refused(error.to_string()),
        }
    }
}

/// Reads logs and begins sessions wherever the pod runs.
pub struct NodeDoors {
    /// To other nodes.
    pub mesh: Mesh,
}

#[async_trait]
impl NodeDoor for NodeDoors {
    async fn logs(&self, node: &NodeName, request: LogRequest) -> Result<LogStream, NodeDoorError> {
        let unreachable = |reason: String| NodeDoorError::Unreachable {
            node: node.clone(),
            reason,
        };
        let bytes = encode(&request).map_err(|error| unreachable(error.to_string()))?;
        let frames = self.mesh.stream(node, Purpose::Logs, Bytes::from(bytes)).await;
        let mut frames = frames.map_err(|error| unreachable(error.to_string()))?;
        // A refusal is the first frame: the client then gets an error instead of an empty log.
        let first = frames.next().await;
        let first = match first {
            None => return Ok(futures::stream::empty().boxed()),
            Some(Err(error)) => return Err(unreachable(error.to_string())),
            Some(Ok(frame)) if frame.first() == Some(&LOG_REFUSED) => {
                return Err(NodeDoorError::Refused(
                    String::from_utf8_lossy(&frame[1..]).into_owned(),
                ));
            }
            Some(first) => first,
        };
        let rest = futures::stream::once(async move { first }).chain(frames);
        Ok(rest.map(log_part).boxed())
    }

    async fn exec(&self, node: &NodeName, spec: ExecSpec, input: InputStream) -> Result<OutputStream, NodeDoorError> {
        sessions::exec_or_attach(&self.mesh, node, SessionRequest::Exec(spec), input).await
    }

    async fn attach(
        &self,
        node: &NodeName,
        spec: AttachSpec,
        input: InputStream,
    ) -> Result<OutputStream, NodeDoorError> {
        sessions::exec_or_attach(&self.mesh, node, SessionRequest::Attach(spec), input).await
    }

    async fn port_forward(
        &self,
        node: &NodeName,
        spec: PortSpec,
        input: PortInput,
    ) -> Result<PortOutput, NodeDoorError> {
        sessions::port_forward(&self.mesh, node, SessionRequest::Port(spec), input).await
    }
}

fn log_part(frame: Result<Bytes, TransportError>) -> Result<Bytes, RuntimeError> {
    let failed = |reason: String| RuntimeError::Failed {
        doing: "reading a log from another node".to_owned(),
        reason,
    };
    match frame {
        Ok(frame) if frame.first() == Some(&LOG_PART) => Ok(frame.slice(1..)),
        Ok(frame) => Err(failed(
            String::from_utf8_lossy(frame.get(1..).unwrap_or_default()).into_owned(),
        )),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// The shell's way to every actor of the cluster.
pub struct ClusterAdmin {
    node: NodeName,
    registry: Registry,
    membership: Membership,
    consensus: Arc<Consensus>,
    store: Arc<StoreClient>,
    remoting: parking_lot::RwLock<Option<Remoting>>,
}

impl ClusterAdmin {
    /// A door for this node. `set_remoting` opens the way to the others.
    pub fn new(
        node: NodeName,
        registry: Registry,
        membership: Membership,
        consensus: Arc<Consensus>,
        store: Arc<StoreClient>,
    ) -> Arc<ClusterAdmin> {
        Arc::new(ClusterAdmin {
            node,
            registry,
            membership,
            consensus,
            store,
            remoting: parking_lot::RwLock::new(None),
        })
    }

    /// Opens the way to other nodes.
    pub fn set_remoting(&self, remoting: Remoting) {
        *self.remoting.write() = Some(remoting);
    }

    /// What answers other nodes: the same requests, for this node's actors.
    pub fn handler(self: &Arc<Self>) -> RouterHandler {
        let admin = Arc::clone(self);
        Arc::new(move |_from, bytes| {
            let admin = Arc::clone(&admin);
            async move {
                let answer: Result<AdminReply, AdminError> = match decode::<AdminRequest>(&bytes) {
                    Ok(request) => admin.registry.serve(request).await,
                    Err(error) => Err(AdminError::NoAnswer {
                        path: "/".to_owned(),
                        reason: error.to_string(),
                    }),
                };
                encode(&answer).unwrap_or_default()
            }
            .boxed()
        })
    }

    fn leader(&self) -> Option<NodeName> {
        self.store.leader()
    }

    /// On which node a path's actors live; `None` for the levels that several nodes share.
    fn home(&self, path: &str) -> Result<Option<NodeName>, AdminError> {
        let mut segments = path.split('/').filter(|segment| !segment.is_empty());
        match (segments.next(), segments.next()) {
            (Some("cluster"), _) => {
                let no_leader = || AdminError::NoAnswer {
                    path: path.to_owned(),
                    reason: "the control plane lives on the leader, and there is none at present".to_owned(),
                };
                self.leader().map(Some).ok_or_else(no_leader)
            }
            (Some("nodes"), Some(node)) => Ok(Some(NodeName::from(node))),
            _ => Ok(None),
        }
    }

    async fn ask(&self, node: &NodeName, request: AdminRequest) -> Result<AdminReply, AdminError> {
        if *node == self.node {
            return self.registry.serve(request).await;
        }
        let path = format!("/nodes/{node}");
        let no_answer = |reason: String| AdminError::NoAnswer {
            path: path.clone(),
            reason,
        };
        let members = self.membership.members();
        if !members
            .iter()
            .any(|member| member.name == *node && member.status.is_live())
        {
            let near = members
                .iter()
                .filter(|member| member.status.is_live())
                .map(|m| format!("/nodes/{}", m.name))
                .collect();
            return Err(AdminError::NoSuchPath { path, near });
        }
        let remoting = self
            .remoting
            .read()
            .clone()
            .ok_or_else(|| no_answer("this node has just started".to_owned()))?;
        let bytes = encode(&request).map_err(|error| no_answer(error.to_string()))?;
        let answer = remoting
            .call(node, bytes, REMOTE_DEADLINE)
            .await
            .map_err(|error| no_answer(error.to_string()))?;
        decode::<Result<AdminReply, AdminError>>(&answer).map_err(|error| no_answer(error.to_string()))?
    }

    /// `/` and `/nodes` exist on every node in part; here they are put together.
    async fn shared_level(&self, request: AdminRequest) -> Result<AdminReply, AdminError> {
        match &request {
            AdminRequest::Ls { path } if path.trim_matches('/').is_empty() => {
                Ok(AdminReply::Actors(vec![folder("/cluster"), folder("/nodes")]))
            }
            AdminRequest::Ls { path } if path.trim_matches('/') == "nodes" => Ok(AdminReply::Actors(self.machines())),
            AdminRequest::Tree { path, depth } if matches!(path.trim_matches('/'), "" | "nodes") => {
                Ok(AdminReply::Actors(self.whole_tree(path, *depth).await))
            }
            _ => self.registry.serve(request).await,
        }
    }

    fn machines(&self) -> Vec<ActorEntry> {
        let live = self
            .members()
            .into_iter()
            .filter(|member| member.state == "alive" || member.state == "suspect");
        live.map(|member| ActorEntry {
            kind: "node".to_owned(),
            state: "running".to_owned(),
            summary: format!("{}, {}", member.role, member.address),
            children: 3,
            ..folder(&format!("/nodes/{}", member.name))
        })
        .collect()
    }

    async fn whole_tree(&self, path: &str, depth: u32) -> Vec<ActorEntry> {
        let base = path.matches('/').count() as u32 - u32::from(path == "/");
        let mut entries = Vec::new();
        if path.trim_matches('/').is_empty() {
            entries.push(folder("/cluster"));
            if let Some(leader) = self.leader() {
                entries.extend(self.subtree(&leader, "/cluster").await);
            }
            entries.push(folder("/nodes"));
        }
        for machine in self.machines() {
            let node = NodeName::from(machine.path.trim_start_matches("/nodes/"));
            let below = machine.path.clone();
            entries.push(machine);
            entries.extend(self.subtree(&node, &below).await);
        }
        let level = |entry: &ActorEntry| entry.path.matches('/').count() as u32;
        entries.retain(|entry| depth == 0 || level(entry) <= base + depth);
        entries
    }

    async fn subtree(&self, node: &NodeName, path: &str) -> Vec<ActorEntry> {
        match self
            .ask(
                node,
                AdminRequest::Tree {
                    path: path.to_owned(),
                    depth: 0,
                },
            )
            .await
        {
            Ok(AdminReply::Actors(actors)) => actors.into_iter().filter(|actor| actor.path != path).collect(),
            _ => Vec::new(),
        }
    }

    fn members(&self) -> Vec<MemberEntry> {
        let (status, leader) = (self.consensus.status(), self.store.leader());
        let entry = |member: &Member| MemberEntry {
            name: member.name.to_string(),
            state: member.status.as_str().to_owned(),
            role: match () {
                () if leader.as_ref() == Some(&member.name) => "leader",
                () if member.facts.voteless => "voteless",
                () if status.is_voter(&member.name) => "voter",
                () => "member",
            }
            .to_owned(),
            address: member.address.to_string(),
            incarnation: member.incarnation,
        };
        self.membership.members().iter().map(entry).collect()
    }

    fn leader_document(&self) -> String {
        let status = self.consensus.status();
        let progress = self.consensus.progress();
        serde_json::json!({
            "leader": self.store.leader(),
            "term": status.term,
            "voters": status.voters.values().collect::<Vec<_>>(),
            "learners": status.learners.values().collect::<Vec<_>>(),
            "askedNode": self.node,
            "lastLogIndex": progress.last_log,
            "lastAppliedIndex": progress.last_applied,
            "failed": status.failed,
            "removed": status.removed,
        })
        .to_string()
    }
}

fn folder(path: &str) -> ActorEntry {
    ActorEntry {
        path: path.to_owned(),
        kind: "folder".to_owned(),
        state: String::new(),
        summary: String::new(),
        restarts: 0,
        children: 1,
    }
}

#[async_trait]
impl AdminDoor for ClusterAdmin {
    async fn serve(&self, request: AdminRequest) -> Result<AdminReply, AdminError> {
        let path = match &request {
            AdminRequest::Members => return Ok(AdminReply::Members(self.members())),
            AdminRequest::Leader => return Ok(AdminReply::Json(self.leader_document())),
            AdminRequest::Ls { path }
            | AdminRequest::Tree { path, .. }
            | AdminRequest::Ask { path, .. }
            | AdminRequest::Tell { path, .. }
            | AdminRequest::Stats { path }
            | AdminRequest::Kill { path } => path.clone(),
        };
        match self.home(&path)? {
            Some(node) => self.ask(&node, request).await,
            None => self.shared_level(request).await,
        }
    }
}

/// Membership as the control plane needs it.
pub struct GossipMembership(pub Membership);

impl actors::Membership for GossipMembership {
    fn watch(&self) -> actors::membership::MemberStream {
        let mut members = self.0.watch();
        members.mark_changed();
        let states = futures::stream::unfold(
            (members, std::collections::BTreeMap::new()),
            |(mut members, mut known)| async move {
                members.changed().await.ok()?;
                let all = members.borrow_and_update().clone();
                let mut changed = Vec::new();
                for member in all.iter() {
                    let state = state_of(member);
                    if known.get(&member.name) != Some(&state) {
                        known.insert(member.name.clone(), state.clone());
                        changed.push(state);
                    }
                }
                Some((futures::stream::iter(changed), (members, known)))
            },
        );
        states.flatten().boxed()
    }
}

fn state_of(member: &Member) -> MemberState {
    let alive = matches!(member.status, MemberStatus::Alive | MemberStatus::Suspect);
    MemberState {
        node: member.name.clone(),
        liveness: if alive { Liveness::Alive } else { Liveness::Down },
        api_address: member.facts.https_address.filter(|_| alive),
    }
}
