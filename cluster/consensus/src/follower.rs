//! Reads from this node's own replica where another node leads: the leader is asked how far it is, and the replica is read
//! once it is as far (Raft's read index). One question serves all reads that wait when it is sent, so that a follower costs
//! its leader one small message a round, however much is read from it.
//!
//! Called by `client`, which asks the leader itself when this fails. It must not read before the answer.
#![allow(clippy::disallowed_methods)] // acting code: a replica that lags is left alone for a while

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::client::{Route, StoreClient};
use crate::consensus::Consensus;
use crate::store_service::{StoreAnswer, StoreRequest};

/// How long the leader may take to say how far it is, and the replica to come as far.
const ROUND_DEADLINE: Duration = Duration::from_millis(500);

/// How long a replica that did not come as far is left alone: its reads would only be late.
const LAG_PAUSE: Duration = Duration::from_secs(1);

/// Where reads wait for a round.
#[derive(Default)]
pub struct Rounds {
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// Whether a task asks for those who wait.
    asked_for: bool,
    callers: Vec<oneshot::Sender<bool>>,
    lagged: Option<Instant>,
}

impl StoreClient {
    /// This node's part in consensus, when its replica shows everything that was acknowledged before the call; `None` when
    /// another node must be asked.
    pub(crate) async fn caught_up(&self) -> Option<Arc<Consensus>> {
        let consensus = self.followed()?;
        let (reply, answer) = oneshot::channel();
        {
            let mut waiting = self.rounds().waiting.lock();
            if waiting.lagged.is_some_and(|at| at.elapsed() < LAG_PAUSE) {
                return None;
            }
            waiting.callers.push(reply);
            if !waiting.asked_for {
                waiting.asked_for = true;
                // A task of its own: a caller that gives up does not hold up the others.
                tokio::spawn(ask_rounds(self.shared()?, consensus.clone()));
            }
        }
        answer.await.unwrap_or(false).then_some(consensus)
    }

    /// How far the leader is, waited for here. Yields whether this replica is as far.
    async fn ask_round(&self, consensus: &Consensus) -> bool {
        let Some(Route::There(leader)) = self.known_route() else {
            return false;
        };
        match self.ask(&leader, &StoreRequest::Revision, ROUND_DEADLINE).await {
            Ok(StoreAnswer::Revision(Ok(revision))) => consensus.replica().hub().reached(revision).await,
            _ => false,
        }
    }
}

async fn ask_rounds(client: Arc<StoreClient>, consensus: Arc<Consensus>) {
    loop {
        let callers = {
            let mut waiting = client.rounds().waiting.lock();
            waiting.asked_for = !waiting.callers.is_empty();
            if !waiting.asked_for {
                return;
            }
            std::mem::take(&mut waiting.callers)
        };
        let in_time = timeout(ROUND_DEADLINE, client.ask_round(&consensus)).await;
        if in_time.is_err() {
            client.rounds().waiting.lock().lagged = Some(Instant::now());
        }
        for caller in callers {
            let _ = caller.send(in_time == Ok(true));
        }
    }
}
