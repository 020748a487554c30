//! The raft log in a RocksDB of its own: the only thing in the system that is synced. An append is one batch and one
//! fsync, however many proposals its entries carry. openraft is the only caller; it never has two writes in flight.
//!
//! The latest entries are also kept in memory, bounded by bytes: replication and the state machine read each entry back
//! right after it was written.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, LogState, OptionalSend, RaftLogReader, StorageIOError};
use parking_lot::Mutex;
use protocol::codec;
use rocksdb::{
    DB, DBCompressionType, DBRecoveryMode, Direction, IteratorMode, LogLevel, Options, WriteBatch, WriteOptions,
};

use crate::types::{Entry, LogId, StorageError, TypeConfig, Vote};
use crate::wire::{WireEntry, WireLogId, WireVote};

const VOTE_KEY: &[u8] = b"m/vote";
const PURGED_KEY: &[u8] = b"m/purged";
const IDENTITY_KEY: &[u8] = b"m/identity";
const ENTRY_PREFIX: u8 = b'e';

/// Entries kept in memory, by the bytes of their encoding.
const RECENT_BYTES_MAX: usize = 4 << 20;

/// One read for replication yields about so many bytes: an append must reach the follower and its disk within one
/// heartbeat interval, or it is sent again.
const READ_BYTES_MAX: usize = 1 << 20;

/// Why the log cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// RocksDB failed.
    #[error("{what}: {source}")]
    Disk {
        /// What was attempted.
        what: &'static str,
        /// What it said.
        source: rocksdb::Error,
    },
    /// A record is not what was written.
    #[error("{what} is damaged: {source}")]
    Damaged {
        /// Which record.
        what: String,
        /// Why it does not decode.
        source: codec::CodecError,
    },
    /// The thread that writes was lost.
    #[error("the write was abandoned: {0}")]
    Abandoned(String),
}

fn disk(what: &'static str) -> impl Fn(rocksdb::Error) -> LogError {
    move |source| LogError::Disk { what, source }
}

#[derive(Default)]
struct Recent {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
    /// Index and size of every entry that was appended since the start and is not purged.
    sizes: VecDeque<(u64, usize)>,
}

impl Recent {
    fn push(&mut self, entry: Entry, bytes: usize) {
        let index = entry.log_id.index;
        if self
            .entries
            .back()
            .is_some_and(|(last, _)| last.log_id.index + 1 != index)
        {
            self.entries.clear();
            self.bytes = 0;
        }
        self.sizes.push_back((index, bytes));
        self.entries.push_back((entry, bytes));
        self.bytes += bytes;
        while self.bytes > RECENT_BYTES_MAX && self.entries.len() > 1 {
            let (_, bytes) = self.entries.pop_front().expect("more than one entry");
            self.bytes -= bytes;
        }
    }

    fn truncate(&mut self, since: u64) {
        while self
            .entries
            .back()
            .is_some_and(|(entry, _)| entry.log_id.index >= since)
        {
            let (_, bytes) = self.entries.pop_back().expect("there is a last entry");
            self.bytes -= bytes;
        }
        while self.sizes.back().is_some_and(|(index, _)| *index >= since) {
            self.sizes.pop_back();
        }
    }

    fn purge(&mut self, upto: u64) {
        while self.sizes.front().is_some_and(|(index, _)| *index <= upto) {
            self.sizes.pop_front();
        }
    }

    /// The entries from `start` on, if all of them are here.
    fn from(&self, start: u64) -> Option<impl Iterator<Item = &(Entry, usize)>> {
        let first = self.entries.front()?.0.log_id.index;
        (start >= first).then(|| self.entries.iter().skip((start - first) as usize))
    }
}

struct Inner {
    db: DB,
    recent: Mutex<Recent>,
    syncs: AtomicU64,
}

/// The log. Clones share it.
#[derive(Clone)]
pub struct LogStore {
    inner: Arc<Inner>,
}

fn entry_key(index: u64) -> [u8; 9] {
    let mut key = [ENTRY_PREFIX; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

fn decode_entry(key: &[u8], value: &[u8]) -> Result<Entry, LogError> {
    let wire: WireEntry = codec::decode(value).map_err(|source| LogError::Damaged {
        what: format!("the log entry under {key:02x?}"),
        source,
    })?;
    Ok(wire.into())
}

impl Inner {
    fn read<T: bincode::Decode<()>>(&self, key: &'static [u8], what: &'static str) -> Result<Option<T>, LogError> {
        let value = self.db.get(key).map_err(disk(what))?;
        value
            .map(|value| codec::decode(&value))
            .transpose()
            .map_err(|source| LogError::Damaged {
                what: what.to_owned(),
                source,
            })
    }

    fn write_synced(&self, batch: WriteBatch, what: &'static str) -> Result<(), LogError> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.db.write_opt(batch, &synced()).map_err(disk(what))
    }

    fn append(&self, entries: Vec<Entry>) -> Result<(), LogError> {
        let mut batch = WriteBatch::default();
        let mut sizes = Vec::with_capacity(entries.len());
        for entry in &entries {
            let value = codec::encode(&WireEntry::from(entry)).map_err(|source| LogError::Damaged {
                what: format!("the log entry {}", entry.log_id),
                source,
            })?;
            batch.put(entry_key(entry.log_id.index), &value);
            sizes.push(value.len());
        }
        self.write_synced(batch, "appending to the log")?;
        let mut recent = self.recent.lock();
        for (entry, bytes) in entries.into_iter().zip(sizes) {
            recent.push(entry, bytes);
        }
        Ok(())
    }

    fn last(&self) -> Result<Option<Entry>, LogError> {
        let mut iterator = self
            .db
            .iterator(IteratorMode::From(&entry_key(u64::MAX), Direction::Reverse));
        match iterator
            .next()
            .transpose()
            .map_err(disk("reading the end of the log"))?
        {
            Some((key, value)) if key.first() == Some(&ENTRY_PREFIX) => Ok(Some(decode_entry(&key, &value)?)),
            _ => Ok(None),
        }
    }

    /// Entries in [start, end), stopping after the one that reaches `bytes_max`.
    fn entries(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, LogError> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        if let Some(recent) = self.recent.lock().from(start) {
            for (entry, size) in recent {
                if entry.log_id.index >= end || bytes >= bytes_max {
                    break;
                }
                entries.push(entry.clone());
                bytes += size;
            }
            return Ok(entries);
        }
        for item in self
            .db
            .iterator(IteratorMode::From(&entry_key(start), Direction::Forward))
        {
            let (key, value) = item.map_err(disk("reading the log"))?;
            if *key >= entry_key(end)[..] || bytes >= bytes_max {
                break;
            }
            entries.push(decode_entry(&key, &value)?);
            bytes += value.len();
        }
        Ok(entries)
    }
}

impl LogStore {
    /// Opens the log in a directory of its own.
    pub fn open(directory: &Path) -> Result<LogStore, LogError> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(1 << 20);
        options.set_max_open_files(64);
        options.set_max_background_jobs(2);
        options.set_write_buffer_size(8 << 20);
        // Entries are read back from memory and purged within minutes: to compress them costs more than their place.
        options.set_compression_type(DBCompressionType::None);
        options.set_level_zero_file_num_compaction_trigger(8);
        options.set_max_write_buffer_number(3);
        // A crash may tear the last record, which nobody was told of. Anything else that is damaged must stop the start:
        // the default mode would silently drop acknowledged entries that lie behind it.
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        let db = DB::open(&options, directory).map_err(disk("opening the log"))?;
        Ok(LogStore {
            inner: Arc::new(Inner {
                db,
                recent: Mutex::default(),
                syncs: AtomicU64::new(0),
            }),
        })
    }

    /// The raft id that this log belongs to; notes `raft_id` if it belongs to none.
    pub fn identity(&self, raft_id: u64) -> Result<u64, LogError> {
        if let Some(identity) = self.inner.read(IDENTITY_KEY, "the log's identity")? {
            return Ok(identity);
        }
        let mut batch = WriteBatch::default();
        batch.put(IDENTITY_KEY, codec::encode(&raft_id).expect("a number encodes"));
        self.inner.write_synced(batch, "noting the log's identity")?;
        Ok(raft_id)
    }

    /// How often it was synced since it was opened.
    pub fn syncs(&self) -> u64 {
        self.inner.syncs.load(Ordering::Relaxed)
    }

    /// Bytes and number of the entries after `index` that were appended since the start.
    pub fn since(&self, index: u64) -> (usize, usize) {
        let recent = self.inner.recent.lock();
        recent
            .sizes
            .iter()
            .rev()
            .take_while(|(other, _)| *other > index)
            .fold((0, 0), |(bytes, count), (_, size)| (bytes + size, count + 1))
    }

    /// The index up to which entries can go such that about `bytes` or `count` of those up to `snapshot` stay.
    pub fn purgeable(&self, snapshot: u64, bytes: usize, count: usize) -> u64 {
        let recent = self.inner.recent.lock();
        let mut kept = (0, 0);
        let within = recent.sizes.iter().rev().skip_while(|(index, _)| *index > snapshot);
        for (index, size) in within {
            if kept.0 >= bytes || kept.1 >= count {
                return *index;
            }
            kept = (kept.0 + size, kept.1 + 1);
        }
        // What was appended before the start has no known size: it goes only when enough came after it.
        0
    }
}

fn read_error(error: LogError) -> StorageError {
    StorageIOError::read_logs(AnyError::new(&error)).into()
}

fn write_error(error: LogError) -> StorageError {
    StorageIOError::write_logs(AnyError::new(&error)).into()
}

/// Runs what waits for the disk where it blocks no other task.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(LogError::Abandoned(error.to_string())))
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.inner.entries(start, end, usize::MAX).map_err(read_error)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.inner.entries(start, end, READ_BYTES_MAX).map_err(read_error)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let purged: Option<WireLogId> = self.inner.read(PURGED_KEY, "the log's beginning").map_err(read_error)?;
        let last_purged_log_id = purged.map(LogId::from);
        let last = self.inner.last().map_err(read_error)?;
        let last_log_id = last.map(|entry| entry.log_id).or(last_purged_log_id);
        Ok(LogState {
            last_purged_log_id,
            last_log_id,
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let mut batch = WriteBatch::default();
        batch.put(VOTE_KEY, codec::encode(&WireVote::from(*vote)).expect("a vote encodes"));
        let inner = self.inner.clone();
        blocking(move || inner.write_synced(batch, "saving the vote"))
            .await
            .map_err(write_error)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let vote: Option<WireVote> = self.inner.read(VOTE_KEY, "the vote").map_err(read_error)?;
        let identity: Option<u64> = self
            .inner
            .read(IDENTITY_KEY, "the log's identity")
            .map_err(read_error)?;
        // openraft would take up the lead of before the restart at once, and take what the store has applied for all
        // that was committed. But the store stands where it was last flushed: reads would miss acknowledged writes
        // until the log is applied again. A lead that is won anew begins with an entry of its own, and reads wait
        // until that is applied. To forget that a majority granted this node's vote is always safe.
        Ok(vote.map(Vote::from).map(|mut vote| {
            vote.committed &= Some(vote.leader_id.node_id) != identity;
            vote
        }))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let inner = self.inner.clone();
        let result = blocking(move || inner.append(entries)).await;
        callback.log_io_completed(result.map_err(io::Error::other));
        Ok(())
    }

    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        let mut batch = WriteBatch::default();
        batch.delete_range(entry_key(since.index), entry_key(u64::MAX));
        self.inner.recent.lock().truncate(since.index);
        let inner = self.inner.clone();
        blocking(move || inner.write_synced(batch, "truncating the log"))
            .await
            .map_err(write_error)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let mut batch = WriteBatch::default();
        batch.put(
            PURGED_KEY,
            codec::encode(&WireLogId::from(upto)).expect("a log id encodes"),
        );
        batch.delete_range(entry_key(0), entry_key(upto.index + 1));
        self.inner.recent.lock().purge(upto.index);
        let inner = self.inner.clone();
        // Need not be synced: a purge that is forgotten leaves entries that are purged again.
        let purge = move || {
            inner.db.write(batch).map_err(disk("purging the log"))?;
            inner
                .db
                .delete_file_in_range(entry_key(0), entry_key(upto.index))
                .map_err(disk("purging the log"))
        };
        blocking(purge).await.map_err(write_error)
    }
}
