//! What voters say to each other, and what the log holds, in types of ours: openraft's own types never reach a wire or
//! a disk, so that its next version can be taken up without a change of either.

use std::collections::{BTreeMap, BTreeSet};

use bincode::{Decode, Encode};
use openraft::EntryPayload;
use openraft::raft::{AppendEntriesResponse, VoteRequest, VoteResponse};
use protocol::NodeName;
use protocol::object::Body;

use crate::types::{Command, Entry, LogId, Member, Membership, SnapshotMeta, StoredMembership, TypeConfig, Vote};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct WireLogId {
    term: u64,
    leader: u64,
    index: u64,
}

impl From<LogId> for WireLogId {
    fn from(id: LogId) -> Self {
        WireLogId {
            term: id.leader_id.term,
            leader: id.leader_id.node_id,
            index: id.index,
        }
    }
}

impl From<WireLogId> for LogId {
    fn from(id: WireLogId) -> Self {
        LogId::new(openraft::CommittedLeaderId::new(id.term, id.leader), id.index)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct WireVote {
    term: u64,
    node: u64,
    committed: bool,
}

impl From<Vote> for WireVote {
    fn from(vote: Vote) -> Self {
        WireVote {
            term: vote.leader_id.term,
            node: vote.leader_id.node_id,
            committed: vote.committed,
        }
    }
}

impl From<WireVote> for Vote {
    fn from(vote: WireVote) -> Self {
        if vote.committed {
            Vote::new_committed(vote.term, vote.node)
        } else {
            Vote::new(vote.term, vote.node)
        }
    }
}

#[derive(Clone, Debug, Encode, Decode)]
pub struct WireMembership {
    configurations: Vec<BTreeSet<u64>>,
    members: BTreeMap<u64, NodeName>,
}

impl From<&Membership> for WireMembership {
    fn from(membership: &Membership) -> Self {
        WireMembership {
            configurations: membership.get_joint_config().clone(),
            members: membership
                .nodes()
                .map(|(id, member)| (*id, member.name.clone()))
                .collect(),
        }
    }
}

impl From<WireMembership> for Membership {
    fn from(wire: WireMembership) -> Self {
        let members: BTreeMap<u64, Member> = wire
            .members
            .into_iter()
            .map(|(id, name)| (id, Member { name }))
            .collect();
        Membership::new(wire.configurations, members)
    }
}

#[derive(Clone, Debug, Encode, Decode)]
pub struct WireStoredMembership {
    at: Option<WireLogId>,
    membership: WireMembership,
}

impl From<&StoredMembership> for WireStoredMembership {
    fn from(stored: &StoredMembership) -> Self {
        WireStoredMembership {
            at: stored.log_id().map(WireLogId::from),
            membership: stored.membership().into(),
        }
    }
}

impl From<WireStoredMembership> for StoredMembership {
    fn from(wire: WireStoredMembership) -> Self {
        StoredMembership::new(wire.at.map(LogId::from), wire.membership.into())
    }
}

/// Where in the log the state machine stands, as it is kept with the state.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Position {
    pub applied: Option<WireLogId>,
    pub membership: WireStoredMembership,
}

#[derive(Clone, Debug, Encode, Decode)]
enum WirePayload {
    Blank,
    Step(Body),
    Membership(WireMembership),
}

#[derive(Clone, Debug, Encode, Decode)]
pub struct WireEntry {
    id: WireLogId,
    payload: WirePayload,
}

impl From<&Entry> for WireEntry {
    fn from(entry: &Entry) -> Self {
        let payload = match &entry.payload {
            EntryPayload::Blank => WirePayload::Blank,
            EntryPayload::Normal(command) => WirePayload::Step(Body(command.encoded.clone())),
            EntryPayload::Membership(membership) => WirePayload::Membership(membership.into()),
        };
        WireEntry {
            id: entry.log_id.into(),
            payload,
        }
    }
}

impl From<WireEntry> for Entry {
    fn from(wire: WireEntry) -> Self {
        let payload = match wire.payload {
            WirePayload::Blank => EntryPayload::Blank,
            WirePayload::Step(body) => EntryPayload::Normal(Command::from_encoded(body.0)),
            WirePayload::Membership(membership) => EntryPayload::Membership(membership.into()),
        };
        Entry {
            log_id: wire.id.into(),
            payload,
        }
    }
}

#[derive(Clone, Debug, Encode, Decode)]
pub struct WireSnapshotMeta {
    last: Option<WireLogId>,
    membership: WireStoredMembership,
    id: String,
}

impl From<&SnapshotMeta> for WireSnapshotMeta {
    fn from(meta: &SnapshotMeta) -> Self {
        WireSnapshotMeta {
            last: meta.last_log_id.map(WireLogId::from),
            membership: (&meta.last_membership).into(),
            id: meta.snapshot_id.clone(),
        }
    }
}

impl From<WireSnapshotMeta> for SnapshotMeta {
    fn from(wire: WireSnapshotMeta) -> Self {
        SnapshotMeta {
            last_log_id: wire.last.map(LogId::from),
            last_membership: wire.membership.into(),
            snapshot_id: wire.id,
        }
    }
}

/// One file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SnapshotFile {
    pub name: String,
    pub bytes: u64,
}

/// A request from one voter to another.
#[derive(Clone, Debug, Encode, Decode)]
pub struct PeerRequest {
    /// The raft id that the sender believes the receiver to have. A machine that lost its disk comes back under another
    /// one, and must not take what was meant for its former self.
    pub to: u64,
    pub ask: PeerAsk,
}

/// What is asked.
#[derive(Clone, Debug, Encode, Decode)]
pub enum PeerAsk {
    Append {
        vote: WireVote,
        previous: Option<WireLogId>,
        committed: Option<WireLogId>,
        entries: Vec<WireEntry>,
    },
    Vote {
        vote: WireVote,
        last: Option<WireLogId>,
    },
    /// Whether the sender is still a member; `last` is the end of its log.
    Standing {
        raft_id: u64,
        last: Option<WireLogId>,
    },
    SnapshotBegin {
        vote: WireVote,
        meta: WireSnapshotMeta,
        files: Vec<SnapshotFile>,
    },
    SnapshotPart {
        transfer: u64,
        file: u32,
        offset: u64,
        bytes: Body,
    },
    SnapshotEnd {
        transfer: u64,
    },
}

/// What is answered.
#[derive(Clone, Debug, Encode, Decode)]
pub enum PeerAnswer {
    Appended,
    AppendedUpTo(Option<WireLogId>),
    Conflict,
    HigherVote(WireVote),
    Voted {
        vote: WireVote,
        last: Option<WireLogId>,
        granted: bool,
    },
    /// Also the answer to a vote that a removed member asks for.
    Standing {
        removed: bool,
    },
    SnapshotReady {
        transfer: u64,
    },
    SnapshotPartTaken,
    SnapshotInstalled {
        vote: WireVote,
    },
    /// The receiver cannot: its disk is full, its raft stopped, it has another raft id.
    Failed(String),
}

impl From<AppendEntriesResponse<u64>> for PeerAnswer {
    fn from(response: AppendEntriesResponse<u64>) -> Self {
        match response {
            AppendEntriesResponse::Success => PeerAnswer::Appended,
            AppendEntriesResponse::PartialSuccess(upto) => PeerAnswer::AppendedUpTo(upto.map(WireLogId::from)),
            AppendEntriesResponse::Conflict => PeerAnswer::Conflict,
            AppendEntriesResponse::HigherVote(vote) => PeerAnswer::HigherVote(vote.into()),
        }
    }
}

impl From<VoteResponse<u64>> for PeerAnswer {
    fn from(response: VoteResponse<u64>) -> Self {
        PeerAnswer::Voted {
            vote: response.vote.into(),
            last: response.last_log_id.map(WireLogId::from),
            granted: response.vote_granted,
        }
    }
}

pub fn append_ask(request: &openraft::raft::AppendEntriesRequest<TypeConfig>) -> PeerAsk {
    PeerAsk::Append {
        vote: request.vote.into(),
        previous: request.prev_log_id.map(WireLogId::from),
        committed: request.leader_commit.map(WireLogId::from),
        entries: request.entries.iter().map(WireEntry::from).collect(),
    }
}

pub fn vote_ask(request: &VoteRequest<u64>) -> PeerAsk {
    PeerAsk::Vote {
        vote: request.vote.into(),
        last: request.last_log_id.map(WireLogId::from),
    }
}
