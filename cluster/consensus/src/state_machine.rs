//! Applies committed entries to the store's replica, and makes and installs snapshots. openraft is the only caller.
//!
//! The store's database is not synced: after a crash it stands where it was last flushed, and openraft applies the log
//! from there. That is sound because the log is purged only up to a snapshot, and making one flushes the database.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError};
use parking_lot::Mutex;
use protocol::codec;
use store::{Backend, BackendError, Replica, RocksBackend};

use crate::types::{
    Answer, Entry, LogId, Snapshot, SnapshotDirectory, SnapshotMeta, Step, StorageError, StoredMembership, TypeConfig,
};
use crate::wire::{Position, WireLogId, WireStoredMembership};

/// The replica that consensus applies to.
pub type StoreReplica = Replica<RocksBackend>;

/// Where the store stands in the log.
#[derive(Clone, Debug, Default)]
struct Applied {
    last: Option<LogId>,
    membership: StoredMembership,
}

impl Applied {
    fn decode(position: Option<Vec<u8>>) -> Result<Applied, BackendError> {
        let Some(bytes) = position else {
            return Ok(Applied::default());
        };
        let position: Position = codec::decode(&bytes).map_err(|error| BackendError::Damaged {
            what: "the store's position in the log".to_owned(),
            reason: error.to_string(),
        })?;
        Ok(Applied {
            last: position.applied.map(LogId::from),
            membership: position.membership.into(),
        })
    }

    fn encode(&self) -> Vec<u8> {
        let position = Position {
            applied: self.last.map(WireLogId::from),
            membership: WireStoredMembership::from(&self.membership),
        };
        codec::encode(&position).expect("a position is small and encodes")
    }
}

/// Where snapshots lie on this machine, and the one that is current.
pub struct Snapshots {
    directory: PathBuf,
    number: AtomicU64,
    current: Mutex<Option<(SnapshotMeta, SnapshotDirectory)>>,
}

impl Snapshots {
    /// Takes over a directory; what lies in it from before is removed. A snapshot can always be made again.
    pub fn open(directory: PathBuf) -> std::io::Result<Snapshots> {
        if directory.exists() {
            std::fs::remove_dir_all(&directory)?;
        }
        std::fs::create_dir_all(&directory)?;
        Ok(Snapshots {
            directory,
            number: AtomicU64::new(1),
            current: Mutex::new(None),
        })
    }

    /// A path that is in use by nobody. It does not exist.
    pub fn fresh_path(&self) -> PathBuf {
        self.directory
            .join(format!("snapshot-{}", self.number.fetch_add(1, Ordering::Relaxed)))
    }
}

/// openraft's state machine.
pub struct StateMachine {
    replica: Arc<StoreReplica>,
    snapshots: Arc<Snapshots>,
    applied: Applied,
}

impl StateMachine {
    /// Takes up the state where the replica has it.
    pub fn open(replica: Arc<StoreReplica>, snapshots: Arc<Snapshots>) -> Result<StateMachine, BackendError> {
        let applied = Applied::decode(replica.backend().position()?)?;
        Ok(StateMachine {
            replica,
            snapshots,
            applied,
        })
    }
}

fn damaged_entry(id: LogId, error: impl ToString) -> BackendError {
    BackendError::Damaged {
        what: format!("the log entry {id}"),
        reason: error.to_string(),
    }
}

/// Applies entries as one batch of the database.
fn apply(replica: &StoreReplica, applied: &Applied, entries: &[Entry]) -> Result<Vec<Answer>, BackendError> {
    replica.write(Some(applied.encode()), |staging| {
        let mut answers = Vec::with_capacity(entries.len());
        for entry in entries {
            let EntryPayload::Normal(command) = &entry.payload else {
                answers.push(Answer::default());
                continue;
            };
            let step = command.step().map_err(|error| damaged_entry(entry.log_id, error))?;
            let mut outcomes = Vec::new();
            match &*step {
                Step::Apply(proposals) => {
                    outcomes.reserve(proposals.len());
                    for proposal in proposals {
                        outcomes.push(staging.apply(proposal)?);
                    }
                }
                Step::Compact(up_to) => staging.compact(*up_to),
            }
            answers.push(Answer { outcomes });
        }
        Ok(answers)
    })
}

fn apply_error(error: &BackendError) -> StorageError {
    StorageIOError::write_state_machine(AnyError::new(error)).into()
}

fn snapshot_error(error: &BackendError) -> StorageError {
    StorageIOError::write_snapshot(None, AnyError::new(error)).into()
}

/// Runs what waits for the disk where it blocks no other task.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackendError> + Send + 'static,
) -> Result<T, BackendError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(BackendError::Disk {
            what: "the write was abandoned".to_owned(),
            reason: error.to_string(),
        })
    })
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.applied.last, self.applied.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Answer>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let mut applied = self.applied.clone();
        for entry in &entries {
            applied.last = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = &entry.payload {
                applied.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
            }
        }
        let (replica, position) = (self.replica.clone(), applied.clone());
        let answers = blocking(move || apply(&replica, &position, &entries))
            .await
            .map_err(|e| apply_error(&e))?;
        self.applied = applied;
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            replica: self.replica.clone(),
            snapshots: self.snapshots.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotDirectory>, StorageError> {
        Ok(Box::new(SnapshotDirectory::new(self.snapshots.fresh_path())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<SnapshotDirectory>,
    ) -> Result<(), StorageError> {
        let (replica, snapshots) = (self.replica.clone(), self.snapshots.clone());
        let install = move || {
            replica.backend().install(snapshot.path())?;
            replica.reopen()?;
            // The directory that came is now the store itself; this node's own snapshot is a new checkpoint of it.
            make_snapshot(&replica, &snapshots)?;
            Applied::decode(replica.backend().position()?)
        };
        self.applied = blocking(install).await.map_err(|error| snapshot_error(&error))?;
        tracing::info!(snapshot = %meta.snapshot_id, "installed a snapshot of the store");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let current = self.snapshots.current.lock();
        Ok(current.as_ref().map(|(meta, directory)| Snapshot {
            meta: meta.clone(),
            snapshot: Box::new(directory.clone()),
        }))
    }
}

fn make_snapshot(replica: &StoreReplica, snapshots: &Snapshots) -> Result<Snapshot, BackendError> {
    let directory = SnapshotDirectory::new(snapshots.fresh_path());
    let applied = Applied::decode(replica.backend().checkpoint(directory.path())?)?;
    let last = applied.last.map_or_else(|| "empty".to_owned(), |last| last.to_string());
    let name = directory
        .path()
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
        .to_owned();
    let meta = SnapshotMeta {
        last_log_id: applied.last,
        last_membership: applied.membership,
        snapshot_id: format!("{last}-{name}"),
    };
    *snapshots.current.lock() = Some((meta.clone(), directory.clone()));
    Ok(Snapshot {
        meta,
        snapshot: Box::new(directory),
    })
}

/// Makes a snapshot beside the application of entries.
pub struct SnapshotBuilder {
    replica: Arc<StoreReplica>,
    snapshots: Arc<Snapshots>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let (replica, snapshots) = (self.replica.clone(), self.snapshots.clone());
        blocking(move || make_snapshot(&replica, &snapshots))
            .await
            .map_err(|error| snapshot_error(&error))
    }
}

/// The files of a snapshot and their sizes.
pub fn snapshot_files(directory: &Path) -> std::io::Result<Vec<crate::wire::SnapshotFile>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string()
            && name != "LOCK"
            && !name.starts_with("LOG")
        {
            files.push(crate::wire::SnapshotFile {
                name,
                bytes: entry.metadata()?.len(),
            });
        }
    }
    Ok(files)
}
