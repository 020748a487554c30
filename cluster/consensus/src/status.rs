//! What consensus looks like from this node: who leads, who votes, how far everyone is. Pure over openraft's metrics.

use std::collections::BTreeMap;

use openraft::{RaftMetrics, ServerState};
use protocol::NodeName;

use crate::config::Timings;
use crate::types::Member;

type Metrics = RaftMetrics<u64, Member>;

/// What changes rarely; watched by whoever must follow the leader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Who leads, as far as this node knows.
    pub leader: Option<NodeName>,
    /// The term.
    pub term: u64,
    /// Whether this node leads and a majority has answered it lately.
    pub is_leader: bool,
    /// The voters by raft id; while the membership changes, those of the old and of the new set.
    pub voters: BTreeMap<u64, NodeName>,
    /// The members that get the log but have no vote.
    pub learners: BTreeMap<u64, NodeName>,
    /// Whether the membership is between two sets of voters.
    pub changing: bool,
    /// Why consensus has stopped on this node, if it has: nothing but a restart of the process takes it up again.
    pub failed: Option<String>,
    /// Whether the other members have gone on without this node, while it was away. It then has no vote, whatever its old
    /// log says in `voters`, and reaches the store as any machine does. A leader that adds it again ends this.
    pub removed: bool,
}

impl Status {
    /// Reads openraft's metrics.
    pub(crate) fn of(metrics: &Metrics, timings: &Timings, removed: bool) -> Status {
        let membership = metrics.membership_config.membership();
        let name = |id: u64| membership.get_node(&id).map(|member| member.name.clone());
        let named = |ids: &mut dyn Iterator<Item = u64>| ids.filter_map(|id| Some((id, name(id)?))).collect();
        let voters: BTreeMap<u64, NodeName> = named(&mut membership.voter_ids());
        // From this silence on, the others may have elected another leader.
        let silence_ms_max = timings.election_max_ms + timings.election_min_ms;
        let heard = voters.len() <= 1 || metrics.millis_since_quorum_ack.is_none_or(|ms| ms <= silence_ms_max);
        Status {
            leader: metrics.current_leader.and_then(name),
            term: metrics.current_term,
            is_leader: metrics.state == ServerState::Leader && heard && metrics.running_state.is_ok(),
            learners: named(&mut membership.learner_ids()),
            voters,
            changing: membership.get_joint_config().len() > 1,
            failed: match &metrics.running_state {
                Ok(()) => None,
                Err(error) => Some(error.to_string()),
            },
            removed,
        }
    }

    /// Whether a machine is a voter or a learner.
    pub fn is_member(&self, node: &NodeName) -> bool {
        self.voters
            .values()
            .chain(self.learners.values())
            .any(|member| member == node)
    }

    /// Whether a machine has a vote.
    pub fn is_voter(&self, node: &NodeName) -> bool {
        self.voters.values().any(|member| member == node)
    }
}

/// What changes with every write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Index of the last entry in this node's log.
    pub last_log: u64,
    /// Index of the last entry that this node's store has applied.
    pub last_applied: u64,
    /// Index up to which the last snapshot goes.
    pub snapshot: u64,
    /// Index up to which the log was purged.
    pub purged: u64,
    /// On the leader: how far each member's log is known to match.
    pub matched: BTreeMap<NodeName, u64>,
    /// On the leader: milliseconds since a majority last answered.
    pub quorum_ack_ms: Option<u64>,
}

impl Progress {
    /// Reads openraft's metrics.
    pub(crate) fn of(metrics: &Metrics) -> Progress {
        let membership = metrics.membership_config.membership();
        let matched = metrics.replication.iter().flatten();
        let matched = matched.filter_map(|(id, log_id)| {
            Some((
                membership.get_node(id)?.name.clone(),
                log_id.map_or(0, |log_id| log_id.index),
            ))
        });
        Progress {
            last_log: metrics.last_log_index.unwrap_or(0),
            last_applied: metrics.last_applied.map_or(0, |id| id.index),
            snapshot: metrics.snapshot.map_or(0, |id| id.index),
            purged: metrics.purged.map_or(0, |id| id.index),
            matched: matched.collect(),
            quorum_ack_ms: metrics.millis_since_quorum_ack,
        }
    }
}
