//! Linearizable reads: before it reads, the leader makes sure that a majority still takes it for the leader, and that it
//! has applied everything that was committed. One such round serves every read that waits when it begins, and by the
//! `lease` that it extends those of the next moments.

use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use openraft::error::{CheckIsLeaderError, RaftError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::front::NotLeader;
use crate::lease::Lease;
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
    lease: Arc<Lease>,
}

/// Nanoseconds since the machine started, those in which it slept included: a lease must not outlive its time because the
/// machine was suspended.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock since 2.6.39");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

impl Barrier {
    /// Starts the rounds for a raft.
    pub fn start(raft: Raft, lease: Arc<Lease>) -> (Barrier, tokio::task::JoinHandle<()>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let task = tokio::spawn(rounds(raft, lease.clone(), receiver));
        (Barrier { sender, lease }, task)
    }

    /// Whether everything that was acknowledged before the call is applied here, without asking anybody: writes are
    /// acknowledged by the leader after it has applied them, and while the lease holds there is no other.
    pub fn is_passed(&self) -> bool {
        self.lease.holds(now_ns())
    }

    /// Returns when everything that was acknowledged before the call is applied here.
    pub async fn pass(&self) -> Result<(), NotCurrent> {
        if self.is_passed() {
            return Ok(());
        }
        let stopped = || NotCurrent::NoQuorum("consensus has stopped on this node; its log says why".to_owned());
        let (reply, answer) = oneshot::channel();
        self.sender.send(reply).map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }
}

async fn rounds(raft: Raft, lease: Arc<Lease>, mut receiver: mpsc::UnboundedReceiver<Reply>) {
    while let Some(first) = receiver.recv().await {
        let mut waiting = vec![first];
        while let Ok(reply) = receiver.try_recv() {
            waiting.push(reply);
        }
        let ticket = lease.begin(now_ns());
        let outcome = match timeout(ROUND_DEADLINE, raft.ensure_linearizable()).await {
            Ok(Ok(_)) => {
                lease.extend(ticket);
                Ok(())
            }
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
