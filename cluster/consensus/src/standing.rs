//! Whether this node is still one of the members. A voter that was away while it was replaced believes its own old log, in
//! which it has a vote: it would stand for election again and again, with nobody who could grant it, and raise its term
//! with each attempt, which costs the cluster its leader on the day on which the node is chosen again. So it asks the
//! other members when it starts, and is answered the same when it stands for election; once told, it stands no more.
//! What a leader sends it makes it a member again.
//!
//! The rule is pure; `Standing` keeps the answer. `peer_service`, `network` and `consensus` call it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::storage::RaftLogStorage;
use protocol::transport::{Purpose, Transport};
use protocol::{NodeName, codec};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::log_store::LogStore;
use crate::types::{LogId, Raft};
use crate::wire::{PeerAnswer, PeerAsk, PeerRequest, WireLogId};

/// How long one member may take to say whether this node is one.
const ASK_DEADLINE: Duration = Duration::from_millis(300);

/// The pause before members that did not answer are asked again, and how often that is done. The mesh may not have come up.
const ASK_PAUSE: Duration = Duration::from_millis(100);
const ASK_ROUNDS: u32 = 50;

/// Whether a machine was removed, as far as an agreed membership tells. `agreed_at` is that membership's place in the log
/// and `is_listed` whether it lists the machine; `last` is the end of the machine's own log. An agreement that the
/// machine's log may contain says nothing: a later one, of which only that machine knows, may have added it.
pub fn is_removed(agreed_at: Option<LogId>, is_listed: bool, last: Option<LogId>) -> bool {
    !is_listed && agreed_at > last
}

/// What this node was told last.
#[derive(Clone)]
pub struct Standing {
    removed: watch::Sender<bool>,
}

impl Standing {
    pub fn new() -> Standing {
        Standing {
            removed: watch::Sender::new(false),
        }
    }

    /// Notes that this node was removed, or that a leader counts it among the members.
    pub fn set_removed(&self, removed: bool) {
        self.removed
            .send_if_modified(|now| std::mem::replace(now, removed) != removed);
    }

    /// Follows it.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.removed.subscribe()
    }
}

/// Asks the members of whom this node's log tells whether it still is one, until one of them says, or they have been silent
/// for some seconds: they are down as well then. A leader that counts it among the members overrules what is answered.
pub async fn ask_members(
    raft: Raft,
    mut log: LogStore,
    (raft_id, node): (u64, NodeName),
    transport: Arc<dyn Transport>,
    standing: Standing,
) {
    for _ in 0..ASK_ROUNDS {
        let metrics = raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        let others = membership.nodes().filter(|(_, member)| member.name != node);
        let others: Vec<(u64, NodeName)> = others.map(|(id, member)| (*id, member.name.clone())).collect();
        // Whom this node believes to lead says nothing: its vote of before the restart names a leader, too.
        if membership.get_node(&raft_id).is_none() || others.is_empty() {
            return;
        }
        // An error here is one of the disk, which stops raft.
        let Ok(end) = log.get_log_state().await else { return };
        let answers = others.into_iter().map(|(id, name)| {
            let ask = PeerAsk::Standing {
                raft_id,
                last: end.last_log_id.map(WireLogId::from),
            };
            ask_one(transport.clone(), id, name, ask)
        });
        let answers: Vec<bool> = futures::future::join_all(answers).await.into_iter().flatten().collect();
        // One that knows of the removal is enough: it was agreed. The others may lag behind.
        if answers.contains(&true) {
            standing.set_removed(true);
        }
        if !answers.is_empty() {
            return;
        }
        sleep(ASK_PAUSE).await;
    }
}

/// Whether a member says that this node was removed; `None` if it says nothing.
async fn ask_one(transport: Arc<dyn Transport>, id: u64, name: NodeName, ask: PeerAsk) -> Option<bool> {
    let request = Bytes::from(codec::encode(&PeerRequest { to: id, ask }).ok()?);
    let call = transport.call(&name, Purpose::Consensus, request, ASK_DEADLINE);
    let answer = timeout(ASK_DEADLINE, call).await.ok()?.ok()?;
    match codec::decode(&answer).ok()? {
        PeerAnswer::Standing { removed } => Some(removed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::CommittedLeaderId;

    #[test]
    fn only_an_agreement_that_a_machine_cannot_know_tells_that_it_was_removed() {
        let at = |term, index| Some(LogId::new(CommittedLeaderId::new(term, 1), index));
        let cases = [
            ("removed after its log ended", at(2, 10), false, at(2, 9), true),
            ("removed by a later leader", at(3, 5), false, at(2, 9), true),
            ("still listed", at(2, 10), true, at(2, 9), false),
            (
                "its log may hold a later membership",
                at(2, 10),
                false,
                at(2, 11),
                false,
            ),
            (
                "its log ends with this very agreement",
                at(2, 10),
                false,
                at(2, 10),
                false,
            ),
            ("of a later term than the agreement", at(2, 10), false, at(3, 4), false),
            ("nothing was agreed", None, false, None, false),
            ("an empty log", at(1, 1), false, None, true),
        ];
        for (case, agreed_at, is_listed, last, expected) in cases {
            assert_eq!(is_removed(agreed_at, is_listed, last), expected, "{case}");
        }
    }

    #[test]
    fn a_change_is_told_once() {
        let standing = Standing::new();
        let mut watched = standing.watch();
        watched.mark_unchanged();
        standing.set_removed(false);
        assert!(!watched.has_changed().unwrap());
        standing.set_removed(true);
        assert!(watched.has_changed().unwrap() && *watched.borrow_and_update());
    }
}
