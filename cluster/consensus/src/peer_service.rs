//! Serves what other members ask of this one's raft: appended entries, votes, snapshots. Registered with the mesh for
//! `Purpose::Consensus`. It refuses what was meant for another raft id, and entries that the disk has no room for.
#![allow(clippy::disallowed_methods)] // acting code: it notes when the leader was last heard

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use openraft::ServerState;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use parking_lot::Mutex;
use protocol::transport::Service;
use protocol::{NodeName, codec};

use crate::disk::DiskGuard;
use crate::lease::Lease;
use crate::standing::{Standing, is_removed};
use crate::types::{Entry, LogId, Raft, Snapshot, SnapshotDirectory, SnapshotMeta, Vote};
use crate::wire::{PeerAnswer, PeerAsk, PeerRequest, SnapshotFile, WireEntry, WireLogId, WireSnapshotMeta, WireVote};

/// A snapshot that is being received. One at a time: a new one replaces it.
struct Receiving {
    transfer: u64,
    vote: Vote,
    meta: SnapshotMeta,
    directory: SnapshotDirectory,
    files: Vec<SnapshotFile>,
}

/// The peer side of consensus.
pub struct PeerService {
    raft_id: u64,
    raft: Raft,
    disk: Arc<DiskGuard>,
    receiving: Mutex<Receptions>,
    /// When a leader was last heard.
    last_heard: Mutex<Instant>,
    promise: Promise,
    standing_instead: Arc<AtomicBool>,
    standing: Standing,
}

/// What a voter owes a leader that it has heard: to elect no other for a while.
pub struct Promise {
    /// How long.
    length: Duration,
    /// When what was owed from before this process started ends.
    until: Option<Instant>,
    /// What this node's own lead rests on: void once its vote is given away.
    lease: Arc<Lease>,
}

impl Promise {
    /// `is_owed` tells that a leader may count on this node's vote since before the process started.
    pub fn new(length: Duration, is_owed: bool, lease: Arc<Lease>) -> Promise {
        Promise {
            length,
            until: is_owed.then(|| Instant::now() + length),
            lease,
        }
    }

    fn is_owed(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }
}

/// How often, and how fast, a node stands in the place of a candidate that knows less.
const STAND_ATTEMPTS: u32 = 3;
const STAND_PAUSE: Duration = Duration::from_millis(40);

#[derive(Default)]
struct Receptions {
    last_transfer: u64,
    now: Option<Receiving>,
}

/// Why a request was not carried out; it travels as text.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("this is member {own}, not member {asked}")]
    WrongMember { own: u64, asked: u64 },
    #[error("{0}")]
    DiskFull(String),
    #[error("raft: {0}")]
    Raft(String),
    #[error("no snapshot is being received under number {0}")]
    NoTransfer(u64),
    #[error("the snapshot's file {0:?} is not as announced")]
    File(String),
    #[error("storing the snapshot: {0}")]
    Disk(#[from] std::io::Error),
    #[error(transparent)]
    Codec(#[from] codec::CodecError),
}

fn raft_error(error: impl std::fmt::Display) -> Refused {
    Refused::Raft(error.to_string())
}

impl PeerService {
    pub fn new(raft_id: u64, raft: Raft, disk: Arc<DiskGuard>, promise: Promise, standing: Standing) -> PeerService {
        PeerService {
            raft_id,
            raft,
            disk,
            receiving: Mutex::default(),
            last_heard: Mutex::new(Instant::now()),
            promise,
            standing_instead: Arc::default(),
            standing,
        }
    }

    async fn answer(&self, request: &[u8]) -> Result<PeerAnswer, Refused> {
        let PeerRequest { to, ask } = codec::decode(request)?;
        if to != self.raft_id {
            return Err(Refused::WrongMember {
                own: self.raft_id,
                asked: to,
            });
        }
        match ask {
            PeerAsk::Append {
                vote,
                previous,
                committed,
                entries,
            } => self.append(vote, previous, committed, entries).await,
            PeerAsk::Vote { vote, last } => self.vote(vote, last).await,
            PeerAsk::Standing { raft_id, last } => Ok(PeerAnswer::Standing {
                removed: self.was_removed(raft_id, last.map(LogId::from)).await?,
            }),
            PeerAsk::SnapshotBegin { vote, meta, files } => self.begin(vote, meta, files).await,
            PeerAsk::SnapshotPart {
                transfer,
                file,
                offset,
                bytes,
            } => self.part(transfer, file, offset, &bytes.0),
            PeerAsk::SnapshotEnd { transfer } => self.end(transfer).await,
        }
    }

    async fn append(
        &self,
        vote: WireVote,
        previous: Option<WireLogId>,
        committed: Option<WireLogId>,
        entries: Vec<WireEntry>,
    ) -> Result<PeerAnswer, Refused> {
        if !entries.is_empty() {
            // A write that fails stops raft; a refusal only makes the leader try again later.
            self.disk
                .check_follower()
                .map_err(|full| Refused::DiskFull(full.to_string()))?;
        }
        let request = AppendEntriesRequest {
            vote: vote.into(),
            prev_log_id: previous.map(LogId::from),
            entries: entries.into_iter().map(Entry::from).collect(),
            leader_commit: committed.map(LogId::from),
        };
        let response = self.raft.append_entries(request).await.map_err(raft_error)?;
        if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
            *self.last_heard.lock() = Instant::now();
            self.standing.set_removed(false);
        }
        Ok(response.into())
    }

    /// Whether the members have agreed to go on without another one, and it cannot know.
    async fn was_removed(&self, raft_id: u64, last: Option<LogId>) -> Result<bool, Refused> {
        let judged = self.raft.with_raft_state(move |state| {
            let agreed = state.membership_state.committed();
            is_removed(*agreed.log_id(), agreed.get_node(&raft_id).is_some(), last)
        });
        judged.await.map_err(raft_error)
    }

    async fn vote(&self, vote: WireVote, last: Option<WireLogId>) -> Result<PeerAnswer, Refused> {
        let last = last.map(LogId::from);
        if self.was_removed(Vote::from(vote).leader_id.node_id, last).await? {
            return Ok(PeerAnswer::Standing { removed: true });
        }
        if self.promise.is_owed() {
            let refusal = self
                .raft
                .with_raft_state(|state| VoteResponse::new(state.vote_ref(), None, false));
            return Ok(refusal.await.map_err(raft_error)?.into());
        }
        // Twice: no round may count that began before the vote was given, and none that ended while it was.
        self.promise.lease.revoke();
        let response = self.raft.vote(VoteRequest::new(vote.into(), last)).await;
        self.promise.lease.revoke();
        let response = response.map_err(raft_error)?;
        let leader_is_silent = self.last_heard.lock().elapsed() > self.promise.length;
        if !response.vote_granted && response.last_log_id > last && leader_is_silent {
            self.stand_instead();
        }
        Ok(response.into())
    }

    /// Stands for election at once. A candidate whose log is shorter than this node's has noticed that the leader is gone
    /// and cannot win itself; without this, the cluster waits for this node's own timeout, which openraft makes longer
    /// for a node that has lost an election before.
    fn stand_instead(&self) {
        if self.standing_instead.swap(true, Ordering::AcqRel) {
            return;
        }
        let (raft, standing) = (self.raft.clone(), self.standing_instead.clone());
        tokio::spawn(async move {
            // The first attempt can lose against the candidate's own, of the same term; the next is in a higher one.
            for _ in 0..STAND_ATTEMPTS {
                let state = raft.metrics().borrow().state;
                if state == ServerState::Leader || raft.trigger().elect().await.is_err() {
                    break;
                }
                tokio::time::sleep(STAND_PAUSE).await;
            }
            standing.store(false, Ordering::Release);
        });
    }

    async fn begin(
        &self,
        vote: WireVote,
        meta: WireSnapshotMeta,
        files: Vec<SnapshotFile>,
    ) -> Result<PeerAnswer, Refused> {
        let vote = Vote::from(vote);
        let own = self
            .raft
            .with_raft_state(|state| *state.vote_ref())
            .await
            .map_err(raft_error)?;
        if own > vote {
            return Ok(PeerAnswer::HigherVote(own.into()));
        }
        // A name is used as a path: it must be one of RocksDB's plain file names.
        let plain = |name: &str| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-')
                && name != ".."
        };
        if let Some(file) = files.iter().find(|file| !plain(&file.name)) {
            return Err(Refused::File(file.name.clone()));
        }
        let directory = *self.raft.begin_receiving_snapshot().await.map_err(raft_error)?;
        std::fs::create_dir_all(directory.path())?;
        for file in &files {
            std::fs::File::create(directory.path().join(&file.name))?;
        }
        let mut receiving = self.receiving.lock();
        receiving.last_transfer += 1;
        let transfer = receiving.last_transfer;
        receiving.now = Some(Receiving {
            transfer,
            vote,
            meta: meta.into(),
            directory,
            files,
        });
        Ok(PeerAnswer::SnapshotReady { transfer })
    }

    fn part(&self, transfer: u64, number: u32, offset: u64, bytes: &[u8]) -> Result<PeerAnswer, Refused> {
        let receiving = self.receiving.lock();
        let current = receiving.now.as_ref().filter(|current| current.transfer == transfer);
        let current = current.ok_or(Refused::NoTransfer(transfer))?;
        let file = current
            .files
            .get(number as usize)
            .ok_or_else(|| Refused::File(number.to_string()))?;
        if offset.saturating_add(bytes.len() as u64) > file.bytes {
            return Err(Refused::File(file.name.clone()));
        }
        let path = current.directory.path().join(&file.name);
        let mut file = std::fs::File::options().write(true).open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(bytes)?;
        Ok(PeerAnswer::SnapshotPartTaken)
    }

    async fn end(&self, transfer: u64) -> Result<PeerAnswer, Refused> {
        let received = self
            .receiving
            .lock()
            .now
            .take_if(|current| current.transfer == transfer);
        let received = received.ok_or(Refused::NoTransfer(transfer))?;
        check_files(received.directory.path(), &received.files)?;
        let snapshot = Snapshot {
            meta: received.meta,
            snapshot: Box::new(received.directory),
        };
        let response = self
            .raft
            .install_full_snapshot(received.vote, snapshot)
            .await
            .map_err(raft_error)?;
        Ok(PeerAnswer::SnapshotInstalled {
            vote: response.vote.into(),
        })
    }
}

fn check_files(directory: &Path, files: &[SnapshotFile]) -> Result<(), Refused> {
    for file in files {
        if std::fs::metadata(directory.join(&file.name))?.len() != file.bytes {
            return Err(Refused::File(file.name.clone()));
        }
    }
    Ok(())
}

#[async_trait]
impl Service for PeerService {
    async fn call(&self, from: &NodeName, request: Bytes) -> Bytes {
        let answer = self.answer(&request).await.unwrap_or_else(|refused| {
            tracing::debug!(%from, %refused, "refused a request of a consensus peer");
            PeerAnswer::Failed(refused.to_string())
        });
        Bytes::from(codec::encode(&answer).expect("an answer is small and encodes"))
    }
}
