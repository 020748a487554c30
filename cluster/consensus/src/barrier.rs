//! Linearizable reads: before it reads, the leader makes sure that a majority still takes it for the leader, and that it
//! has applied everything that was committed. One such round serves every read that waits when it begins.

use std::time::Duration;

use openraft::error::{CheckIsLeaderError, RaftError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::front::NotLeader;
use crate::types::Raft;

/// How long one round may take before the reads that wait for it are told so.
const ROUND_DEADLINE: Duration = Duration::from_secs(2);

/// Why this node cannot vouch for its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotCurrent {
    /// Another node may.
    NotLeader(NotLeader),
    /// It leads, but no majority answers.
    NoQuorum(String),
}

type Reply = oneshot::Sender<Result<(), NotCurrent>>;

/// Where reads wait for a round.
pub struct Barrier {
    sender: mpsc::UnboundedSender<Reply>,
}

impl Barrier {
    /// Starts the rounds for a raft.
    pub fn start(raft: Raft) -> (Barrier, tokio::task::JoinHandle<()>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Barrier { sender }, tokio::spawn(rounds(raft, receiver)))
    }

    /// Returns when everything that was acknowledged before the call is applied here.
    pub async fn pass(&self) -> Result<(), NotCurrent> {
        let stopped = || NotCurrent::NoQuorum("consensus has stopped on this node; its log says why".to_owned());
        let (reply, answer) = oneshot::channel();
        self.sender.send(reply).map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }
}

async fn rounds(raft: Raft, mut receiver: mpsc::UnboundedReceiver<Reply>) {
    while let Some(first) = receiver.recv().await {
        let mut waiting = vec![first];
        while let Ok(reply) = receiver.try_recv() {
            waiting.push(reply);
        }
        let outcome = match timeout(ROUND_DEADLINE, raft.ensure_linearizable()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(forward)))) => {
                Err(NotCurrent::NotLeader(NotLeader {
                    hint: forward.leader_node.map(|member| member.name),
                }))
            }
            Ok(Err(error)) => Err(NotCurrent::NoQuorum(error.to_string())),
            Err(_) => Err(NotCurrent::NoQuorum("no majority of the voters answers".to_owned())),
        };
        for reply in waiting {
            let _ = reply.send(outcome.clone());
        }
    }
}
