//! Gathers proposals: everything that waits while an entry is being made durable goes into the next one, up to a bound.
//! One entry costs one fsync on each voter, however many proposals it carries; without this, openraft commits one
//! proposal a flush.
//!
//! What waits is bounded in bytes; past the bound a proposer waits for its turn, within its deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use openraft::error::{ClientWriteError, RaftError};
use protocol::NodeName;
use protocol::store::{Committed, Proposal, ProposeError, Write};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use crate::types::{Command, Member, Raft, Step};

/// The largest proposal. An object in the API is smaller than half of it.
pub const PROPOSAL_BYTES_MAX: usize = 4 << 20;

/// An entry takes no more proposals beyond these. Its size is bounded by what must reach a follower and its disk within
/// a heartbeat interval.
const ENTRY_BYTES: usize = 1 << 20;
const ENTRY_PROPOSALS: usize = 2048;

/// Proposals of one call that travel together to the front.
const CHUNK_BYTES: usize = 256 << 10;
const CHUNK_PROPOSALS: usize = 256;

/// Bytes that may wait or be under way.
const BUDGET_KIB: usize = 32 << 10;

/// Entries under way: while one is applied, the next is written.
const DEPTH: usize = 2;

/// This node is not the leader; nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotLeader {
    /// Who may be.
    pub hint: Option<NodeName>,
}

/// What became of a chunk.
type Outcomes = Result<Vec<Result<Committed, ProposeError>>, NotLeader>;

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const WITHDRAWN: u8 = 2;

struct Chunk {
    proposals: Vec<Proposal>,
    bytes: usize,
    /// Whether it went into an entry, or its proposer gave up before: exactly one of the two happens.
    fate: Arc<AtomicU8>,
    reply: oneshot::Sender<Outcomes>,
    _budget: OwnedSemaphorePermit,
}

/// Where proposals go in.
pub struct Front {
    sender: mpsc::UnboundedSender<Chunk>,
    budget: Arc<Semaphore>,
}

/// Roughly the bytes that a proposal takes in the log.
pub fn size(proposal: &Proposal) -> usize {
    let write = |write: &Write| match write {
        Write::Put { key, draft, .. } => 256 + key.name.len() + draft.len_bytes(),
        Write::Delete { key, .. } => 64 + key.name.len(),
    };
    proposal.writes.iter().map(write).sum()
}

impl Front {
    /// Starts the gathering for a raft.
    pub fn start(raft: Raft) -> (Front, tokio::task::JoinHandle<()>) {
        // Unbounded in number; the budget bounds it in bytes, and every chunk costs at least one of its units.
        let (sender, receiver) = mpsc::unbounded_channel();
        let task = tokio::spawn(gather(raft, receiver));
        (
            Front {
                sender,
                budget: Arc::new(Semaphore::new(BUDGET_KIB)),
            },
            task,
        )
    }

    /// Proposes; the answers are in the order of the proposals. `NotLeader` means that nothing of it was written.
    pub async fn propose(&self, proposals: Vec<Proposal>, deadline: Duration) -> Outcomes {
        let mut pending = Vec::new();
        let mut chunk = (Vec::new(), 0);
        let mut refused = Vec::new();
        let until = tokio::time::sleep(deadline);
        tokio::pin!(until);
        for (at, proposal) in proposals.into_iter().enumerate() {
            let bytes = size(&proposal);
            if bytes > PROPOSAL_BYTES_MAX {
                refused.push((
                    at,
                    ProposeError::TooLarge {
                        bytes,
                        bytes_max: PROPOSAL_BYTES_MAX,
                    },
                ));
                continue;
            }
            chunk.0.push(proposal);
            chunk.1 += bytes;
            if chunk.1 >= CHUNK_BYTES || chunk.0.len() >= CHUNK_PROPOSALS {
                pending.push(self.submit(std::mem::take(&mut chunk), deadline).await);
            }
        }
        if !chunk.0.is_empty() {
            pending.push(self.submit(chunk, deadline).await);
        }
        let mut outcomes = Vec::new();
        let mut not_leader = None;
        let mut written = false;
        for waiting in pending {
            match waiting.outcomes(&mut until, deadline).await {
                Ok(answers) => {
                    written = true;
                    outcomes.extend(answers);
                }
                Err((count, refusal)) => {
                    let error = no_leader(&refusal);
                    not_leader = Some(refusal);
                    outcomes.extend((0..count).map(|_| Err(error.clone())));
                }
            }
        }
        // The leader changed while a large call was under way: what is told must not lead to a second attempt of all.
        match not_leader {
            Some(refusal) if !written => return Err(refusal),
            _ => {}
        }
        for (at, error) in refused {
            outcomes.insert(at, Err(error));
        }
        Ok(outcomes)
    }

    async fn submit(&self, (proposals, bytes): (Vec<Proposal>, usize), deadline: Duration) -> Waiting {
        let count = proposals.len();
        let fate = Arc::new(AtomicU8::new(WAITING));
        let (reply, receiver) = oneshot::channel();
        let units = (bytes / 1024 + 1).min(BUDGET_KIB) as u32;
        if let Ok(Ok(budget)) = timeout(deadline, self.budget.clone().acquire_many_owned(units)).await {
            // A failed send drops the chunk, and with it `reply`: the receiver sees that the front has stopped.
            let _ = self.sender.send(Chunk {
                proposals,
                bytes,
                fate: fate.clone(),
                reply,
                _budget: budget,
            });
        } else {
            fate.store(WITHDRAWN, Ordering::Release);
        }
        Waiting { count, fate, receiver }
    }
}

fn no_leader(refusal: &NotLeader) -> ProposeError {
    let reason = match &refusal.hint {
        Some(leader) => format!("{leader} became the leader"),
        None => "the leader was lost".to_owned(),
    };
    ProposeError::NoLeader { reason }
}

/// A chunk on its way.
struct Waiting {
    count: usize,
    fate: Arc<AtomicU8>,
    receiver: oneshot::Receiver<Outcomes>,
}

impl Waiting {
    async fn outcomes(
        self,
        until: &mut std::pin::Pin<&mut tokio::time::Sleep>,
        deadline: Duration,
    ) -> Result<Vec<Result<Committed, ProposeError>>, (usize, NotLeader)> {
        let Waiting { count, fate, receiver } = self;
        let error = tokio::select! {
            biased;
            answered = receiver => match answered {
                Ok(Ok(outcomes)) => return Ok(outcomes),
                Ok(Err(refusal)) => return Err((count, refusal)),
                Err(_) if fate.load(Ordering::Acquire) == TAKEN => unknown(deadline),
                Err(_) => busy_or_stopped(&fate),
            },
            () = until.as_mut() => {
                // Either it is taken back before it went into an entry, or nobody can say what becomes of it.
                match fate.compare_exchange(WAITING, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => busy_or_stopped(&fate),
                    Err(TAKEN) => unknown(deadline),
                    Err(_) => busy_or_stopped(&fate),
                }
            }
        };
        Ok((0..count).map(|_| Err(error.clone())).collect())
    }
}

fn unknown(deadline: Duration) -> ProposeError {
    ProposeError::Unknown {
        deadline_ms: deadline.as_millis() as u64,
    }
}

fn busy_or_stopped(fate: &AtomicU8) -> ProposeError {
    match fate.load(Ordering::Acquire) {
        WITHDRAWN => ProposeError::NoLeader {
            reason: "earlier writes wait for a majority of the voters".to_owned(),
        },
        _ => ProposeError::Storage {
            reason: "consensus has stopped on this node; its log says why".to_owned(),
        },
    }
}

async fn gather(raft: Raft, mut receiver: mpsc::UnboundedReceiver<Chunk>) {
    let depth = Arc::new(Semaphore::new(DEPTH));
    loop {
        // First the turn, then the proposals: what arrives while waiting for the turn joins the same entry.
        let turn = depth
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let Some(first) = receiver.recv().await else { return };
        let mut chunks = Vec::new();
        let (mut bytes, mut count) = (0, 0);
        let mut next = Some(first);
        while let Some(chunk) = next {
            if chunk
                .fate
                .compare_exchange(WAITING, TAKEN, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
            {
                bytes += chunk.bytes;
                count += chunk.proposals.len();
                chunks.push(chunk);
            }
            next = if bytes < ENTRY_BYTES && count < ENTRY_PROPOSALS {
                receiver.try_recv().ok()
            } else {
                None
            };
        }
        if !chunks.is_empty() {
            let raft = raft.clone();
            tokio::spawn(async move {
                write(&raft, chunks).await;
                drop(turn);
            });
        }
    }
}

/// Writes one entry and tells everyone whose proposals were in it.
async fn write(raft: &Raft, mut chunks: Vec<Chunk>) {
    let counts: Vec<usize> = chunks.iter().map(|chunk| chunk.proposals.len()).collect();
    let room = chunks
        .iter()
        .map(|chunk| chunk.bytes + 256 * chunk.proposals.len())
        .sum();
    let proposals = chunks
        .iter_mut()
        .flat_map(|chunk| std::mem::take(&mut chunk.proposals))
        .collect();
    let command = match Command::new(Step::Apply(proposals), room) {
        Ok(command) => command,
        Err(error) => {
            return fail(
                chunks,
                &counts,
                &ProposeError::Storage {
                    reason: error.to_string(),
                },
            );
        }
    };
    match raft.client_write(command).await {
        Ok(response) => {
            let mut outcomes = response.data.outcomes.into_iter();
            for (chunk, count) in chunks.into_iter().zip(counts) {
                let answers = outcomes
                    .by_ref()
                    .take(count)
                    .map(|outcome| outcome.map_err(ProposeError::from));
                let _ = chunk.reply.send(Ok(answers.collect()));
            }
        }
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
            // Never appended, or cut off again by a new leader: in both cases not written, and never to be.
            let hint = forward.leader_node.map(|member: Member| member.name);
            for chunk in chunks {
                let _ = chunk.reply.send(Err(NotLeader { hint: hint.clone() }));
            }
        }
        // Dropping the replies of chunks that are marked as taken tells "unknown".
        Err(error) => tracing::warn!(%error, "an entry's outcome is unknown"),
    }
}

fn fail(chunks: Vec<Chunk>, counts: &[usize], error: &ProposeError) {
    for (chunk, count) in chunks.into_iter().zip(counts) {
        let _ = chunk.reply.send(Ok((0..*count).map(|_| Err(error.clone())).collect()));
    }
}
