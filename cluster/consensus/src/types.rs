//! openraft's view of us: what a log entry carries, what applying it answers, how a member is called, what a snapshot is.

use std::path::PathBuf;
use std::sync::Arc;

use bincode::{Decode, Encode};
use bytes::Bytes;
use protocol::codec::{self, CodecError};
use protocol::store::{Committed, Proposal, Refusal};
use protocol::{NodeName, Revision};

openraft::declare_raft_types!(
    /// The types that openraft is instantiated with.
    pub TypeConfig:
        D = Command,
        R = Answer,
        NodeId = u64,
        Node = Member,
        SnapshotData = SnapshotDirectory,
);

pub type Raft = openraft::Raft<TypeConfig>;
pub type Entry = openraft::Entry<TypeConfig>;
pub type LogId = openraft::LogId<u64>;
pub type Vote = openraft::Vote<u64>;
pub type Membership = openraft::Membership<u64, Member>;
pub type StoredMembership = openraft::StoredMembership<u64, Member>;
pub type SnapshotMeta = openraft::SnapshotMeta<u64, Member>;
pub type Snapshot = openraft::Snapshot<TypeConfig>;
pub type StorageError = openraft::StorageError<u64>;

/// A member of the consensus as the log records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The machine, under which the transport reaches it.
    pub name: NodeName,
}

impl Default for Member {
    fn default() -> Self {
        Member {
            name: NodeName::new(""),
        }
    }
}

/// What one log entry does to the store.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Step {
    /// Proposals that were gathered, each atomic by itself.
    Apply(Vec<Proposal>),
    /// History up to and including this revision goes, on every replica alike.
    Compact(Revision),
}

/// A step in the bytes that the log and the wire carry. Encoded once, by the leader; the leader also keeps it decoded
/// until it has applied it.
#[derive(Clone, Debug)]
pub struct Command {
    pub encoded: Bytes,
    decoded: Option<Arc<Step>>,
}

impl Command {
    /// `room` is about how many bytes it takes.
    pub fn new(step: Step, room: usize) -> Result<Command, CodecError> {
        let mut encoded = Vec::with_capacity(room);
        codec::encode_into(&step, &mut encoded)?;
        let encoded = Bytes::from(encoded);
        Ok(Command {
            encoded,
            decoded: Some(Arc::new(step)),
        })
    }

    pub fn from_encoded(encoded: Bytes) -> Command {
        Command { encoded, decoded: None }
    }

    pub fn step(&self) -> Result<Arc<Step>, CodecError> {
        match &self.decoded {
            Some(step) => Ok(step.clone()),
            None => Ok(Arc::new(codec::decode(&self.encoded)?)),
        }
    }
}

/// The outcomes of an entry's proposals, in order.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub outcomes: Vec<Result<Committed, Refusal>>,
}

/// A directory that holds a snapshot (a checkpoint of the store's database). It is removed with its last owner, unless
/// the store has taken it over by then.
#[derive(Clone, Debug)]
pub struct SnapshotDirectory(Arc<OwnedDirectory>);

#[derive(Debug)]
struct OwnedDirectory(PathBuf);

impl SnapshotDirectory {
    pub fn new(path: PathBuf) -> SnapshotDirectory {
        SnapshotDirectory(Arc::new(OwnedDirectory(path)))
    }

    pub fn path(&self) -> &std::path::Path {
        &self.0.0
    }
}

impl Drop for OwnedDirectory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "a snapshot's directory stays on disk until the next start");
        }
    }
}
