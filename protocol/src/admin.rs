//! What the shell says: messages to actors by path. The gateway passes them to `AdminDoor`, which the router of actors
//! implements; a path below `/nodes/NAME` is carried to that node.
//!
//! Paths: `/` is the cluster. `/nodes/n1` is a machine, below it its own actors
//! (`/nodes/n1/agent`, `/nodes/n1/pods/default/web-1/containers/nginx`). `/cluster` is the control plane, below it one
//! actor for each object by ownership (`/cluster/default/deployments.apps/web`).

use async_trait::async_trait;
use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// A request to an actor, or about one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(tag = "verb", rename_all = "camelCase")]
pub enum AdminRequest {
    /// The children of an actor.
    Ls {
        /// Its path.
        path: String,
    },
    /// The actors below a path.
    Tree {
        /// Where to begin.
        path: String,
        /// How many levels; zero for all.
        depth: u32,
    },
    /// Asks an actor for something that it knows: `state`, `mailbox`, `why`, `help`.
    Ask {
        /// Its path.
        path: String,
        /// The question.
        question: String,
    },
    /// Tells an actor to do something: `reconcile`, `sleep`.
    Tell {
        /// Its path.
        path: String,
        /// The message.
        message: String,
    },
    /// Counters of an actor: messages, restarts, age.
    Stats {
        /// Its path.
        path: String,
    },
    /// Kills an actor without a chance to clean up: its supervisor restarts it.
    Kill {
        /// Its path.
        path: String,
    },
    /// The members of the cluster with their state, role and addresses.
    Members,
    /// The leader, the term and the voters.
    Leader,
}

/// One actor in an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(rename_all = "camelCase")]
pub struct ActorEntry {
    /// The whole path.
    pub path: String,
    /// What it is: `deployment`, `pod`, `router`, ...
    pub kind: String,
    /// `running`, `asleep`, `backing-off`.
    pub state: String,
    /// One line on what it does at present, such as `3/3 ready`.
    pub summary: String,
    /// How often its supervisor has restarted it.
    pub restarts: u64,
    /// How many actors it supervises.
    pub children: u64,
}

/// A member of the cluster in an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(rename_all = "camelCase")]
pub struct MemberEntry {
    /// The node's name.
    pub name: String,
    /// `alive`, `suspect`, `down` or `left`.
    pub state: String,
    /// `leader`, `voter` or `member`.
    pub role: String,
    /// Its mesh address.
    pub address: String,
    /// Its incarnation: grows with each restart of the node process.
    pub incarnation: u64,
}

/// An answer. `Text` holds JSON where the actor answers with its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(tag = "kind", content = "value", rename_all = "camelCase")]
pub enum AdminReply {
    /// Actors, in the order of their paths.
    Actors(Vec<ActorEntry>),
    /// Members.
    Members(Vec<MemberEntry>),
    /// A JSON document: an actor's state, its counters, the leader.
    Json(String),
    /// Done; what was done.
    Done(String),
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize, Encode, Decode)]
pub enum AdminError {
    /// No actor has this path; `near` are paths that exist.
    #[error("no actor at {path}{}", if near.is_empty() { String::new() } else { format!(" (there is: {})", near.join(", ")) })]
    NoSuchPath {
        /// The path.
        path: String,
        /// Its siblings, at most ten.
        near: Vec<String>,
    },
    /// The actor does not understand the question or message.
    #[error("{path} does not understand {message:?}; it understands: {understands}")]
    NotUnderstood {
        /// The actor.
        path: String,
        /// What was said.
        message: String,
        /// What it does understand.
        understands: String,
    },
    /// It did not answer in time, or its node cannot be reached.
    #[error("{path} did not answer: {reason}")]
    NoAnswer {
        /// The actor.
        path: String,
        /// What was seen.
        reason: String,
    },
}

/// The way into the world of actors.
#[async_trait]
pub trait AdminDoor: Send + Sync + 'static {
    /// Carries out a request. It has a deadline of its own.
    async fn serve(&self, request: AdminRequest) -> Result<AdminReply, AdminError>;
}
