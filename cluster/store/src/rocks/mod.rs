//! The state machine's bytes in RocksDB.
//!
//! It writes without a write-ahead log: only consensus' log is synced, and after a crash the state is that of the last
//! flush, from which the log is applied again. All column families are flushed together (`atomic_flush`), so that
//! objects, history, counters and the log position that they belong to never disagree. Whoever purges the log may only
//! do so up to what `checkpoint` or `flush` has put on disk.
//!
//! One directory holds generations of the database: an installed snapshot becomes a new generation, and readers of the
//! old one finish undisturbed. `generation.rs` has the rules.

mod generation;
mod layout;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use protocol::store::StoreEvent;
use protocol::{Key, Object, Resource, Revision};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBPinnableSlice,
    FlushOptions, LogLevel, Options, ReadOptions, SnapshotWithThreadMode, WriteBatch, WriteOptions,
};

use crate::backend::{Backend, BackendError, Batch, Keep, State, View, Visit, VisitBody, VisitEvent};
use generation::Generations;

const OBJECTS: &str = "objects";
const HISTORY: &str = "history";
const STATE_KEY: &[u8] = b"state";
const POSITION_KEY: &[u8] = b"position";

/// How much memory the database may take.
#[derive(Clone, Copy, Debug)]
pub struct RocksOptions {
    /// Cached blocks of files, indexes and filters included.
    pub cache_bytes: usize,
    /// One memtable; at most three of each of the two large column families exist at a time.
    pub write_buffer_bytes: usize,
}

impl Default for RocksOptions {
    fn default() -> Self {
        // A whole idle node is to stay under 80 MiB resident.
        RocksOptions {
            cache_bytes: 16 << 20,
            write_buffer_bytes: 16 << 20,
        }
    }
}

/// Says what RocksDB says, where, and what to do about it.
pub(crate) fn disk_error(what: impl Into<String>, error: &rocksdb::Error) -> BackendError {
    let (what, reason) = (what.into(), error.to_string());
    if error.kind() == rocksdb::ErrorKind::Corruption {
        return BackendError::Damaged { what, reason };
    }
    let hint = if reason.contains("No space left") {
        "; free some space on that disk"
    } else if reason.contains("While lock file") || reason.contains("lock hold by") {
        "; another process uses this directory: stop it first"
    } else {
        ""
    };
    BackendError::Disk {
        what,
        reason: format!("{reason}{hint}"),
    }
}

struct Open {
    db: Arc<DB>,
    path: PathBuf,
}

struct Inner {
    open: RwLock<Open>,
    generations: Generations,
    options: RocksOptions,
    cache: Cache,
}

/// Keeps the store in RocksDB. Clones share it.
#[derive(Clone)]
pub struct RocksBackend {
    inner: Arc<Inner>,
}

impl RocksBackend {
    /// Opens the current generation in `directory`, creating the first one if there is none.
    pub fn open(directory: &Path, options: RocksOptions) -> Result<RocksBackend, BackendError> {
        let generations = Generations::open(directory)?;
        let cache = Cache::new_lru_cache(options.cache_bytes);
        let path = generations.current();
        let db = Arc::new(open_database(&path, options, &cache)?);
        generations.remove_all_but_current();
        Ok(RocksBackend {
            inner: Arc::new(Inner {
                open: RwLock::new(Open { db, path }),
                generations,
                options,
                cache,
            }),
        })
    }

    /// Puts everything committed so far on disk.
    pub fn flush(&self) -> Result<(), BackendError> {
        let open = self.inner.open.read();
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let default = family(&open.db, rocksdb::DEFAULT_COLUMN_FAMILY_NAME)?;
        let families = [default, family(&open.db, OBJECTS)?, family(&open.db, HISTORY)?];
        open.db
            .flush_cfs_opt(&families, &options)
            .map_err(|error| disk_error(format!("flushing {}", open.path.display()), &error))
    }

    /// Puts everything committed so far on disk and a copy of it, of hard links, into the new directory `target`.
    /// Yields the copy's position in the log: commits during the call may or may not be part of it.
    pub fn checkpoint(&self, target: &Path) -> Result<Option<Vec<u8>>, BackendError> {
        let db = self.database();
        let failed = |error| disk_error(format!("making a checkpoint in {}", target.display()), &error);
        Checkpoint::new(&db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(target))
            .map_err(failed)?;
        RocksBackend::position_of(target)
    }

    /// The log position of a checkpoint.
    pub fn position_of(checkpoint: &Path) -> Result<Option<Vec<u8>>, BackendError> {
        let failed = |error| disk_error(format!("reading the checkpoint {}", checkpoint.display()), &error);
        let families = [rocksdb::DEFAULT_COLUMN_FAMILY_NAME, OBJECTS, HISTORY];
        let db = DB::open_cf_for_read_only(&quiet_options(), checkpoint, families, false).map_err(failed)?;
        db.get(POSITION_KEY).map_err(failed)
    }

    /// Replaces the whole store by a checkpoint. The directory `checkpoint` is taken over; it must lie on the same
    /// filesystem. Survives a crash at any instant: the store is the old one or the new one.
    pub fn install(&self, checkpoint: &Path) -> Result<(), BackendError> {
        let inner = &self.inner;
        let path = inner.generations.adopt(checkpoint)?;
        let db = Arc::new(open_database(&path, inner.options, &inner.cache)?);
        inner.generations.switch_to(&path)?;
        let old = std::mem::replace(&mut *inner.open.write(), Open { db, path });
        // Readers that began before may still hold the old database; its files go when the directory is opened next.
        if Arc::strong_count(&old.db) == 1 {
            drop(old);
            inner.generations.remove_all_but_current();
        }
        Ok(())
    }

    fn database(&self) -> Arc<DB> {
        self.inner.open.read().db.clone()
    }
}

fn quiet_options() -> Options {
    let mut options = Options::default();
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options
}

fn open_database(path: &Path, limits: RocksOptions, cache: &Cache) -> Result<DB, BackendError> {
    let mut options = quiet_options();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_atomic_flush(true);
    options.set_max_open_files(256);
    options.set_max_background_jobs(2);
    let families = [
        ColumnFamilyDescriptor::new(
            rocksdb::DEFAULT_COLUMN_FAMILY_NAME,
            family_options(limits, cache, false),
        ),
        ColumnFamilyDescriptor::new(OBJECTS, family_options(limits, cache, true)),
        ColumnFamilyDescriptor::new(HISTORY, family_options(limits, cache, false)),
    ];
    DB::open_cf_descriptors(&options, path, families)
        .map_err(|error| disk_error(format!("opening the store in {}", path.display()), &error))
}

fn family_options(limits: RocksOptions, cache: &Cache, point_reads: bool) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_block_size(16 << 10);
    if point_reads {
        // Creates ask for keys that do not exist; the filter spares them the disk.
        blocks.set_bloom_filter(10.0, false);
    }
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    // What was written lately is rewritten soon, or its history is dropped: only what has sunk is worth the processor's time.
    let (none, lz4) = (DBCompressionType::None, DBCompressionType::Lz4);
    options.set_compression_per_level(&[none, none, lz4, lz4, lz4, lz4, lz4]);
    options.set_level_zero_file_num_compaction_trigger(8);
    options.set_write_buffer_size(limits.write_buffer_bytes);
    options.set_max_write_buffer_number(3);
    options.set_target_file_size_base(32 << 20);
    options
}

fn family<'a>(db: &'a DB, name: &str) -> Result<&'a ColumnFamily, BackendError> {
    db.cf_handle(name).ok_or_else(|| BackendError::Damaged {
        what: format!("the store in {}", db.path().display()),
        reason: format!("it has no column family {name}"),
    })
}

fn read_failed(error: rocksdb::Error) -> BackendError {
    disk_error("reading the store", &error)
}

fn object_of(key: &[u8], value: Option<DBPinnableSlice<'_>>) -> Result<Option<Arc<Object>>, BackendError> {
    value
        .map(|value| layout::object_from_bytes(key, &value).map(Arc::new))
        .transpose()
}

/// Roughly what a batch writes: a batch that grows copies what it has.
fn batch_bytes(batch: &Batch) -> usize {
    let event = |event: &Arc<StoreEvent>| {
        let previous = event.previous.as_ref().map_or(0, |previous| previous.body.0.len());
        2 * event.object.body.0.len() + previous + 1_536
    };
    batch.events.iter().map(event).sum()
}

impl Backend for RocksBackend {
    fn with_view<R>(&self, read: impl FnOnce(&dyn View) -> R) -> R {
        let db = self.database();
        let snapshot = db.snapshot();
        read(&RocksView { db: &db, snapshot })
    }

    fn object(&self, key: &Key) -> Result<Option<Arc<Object>>, BackendError> {
        let open = self.inner.open.read();
        let key = key.to_bytes();
        object_of(
            &key,
            open.db
                .get_pinned_cf(family(&open.db, OBJECTS)?, &key)
                .map_err(read_failed)?,
        )
    }

    fn commit(&self, batch: &Batch) -> Result<(), BackendError> {
        let open = self.inner.open.read();
        let (objects, history) = (family(&open.db, OBJECTS)?, family(&open.db, HISTORY)?);
        let mut writes = WriteBatch::with_capacity_bytes(batch_bytes(batch));
        let mut values = Vec::with_capacity(batch.events.len());
        for event in &batch.events {
            let value = layout::object_to_bytes(&event.object)?;
            let key = layout::revision_key(event.revision);
            writes.put_cf(history, key, layout::event_to_bytes(event, &value)?);
            values.push(value);
        }
        // The revisions of a batch have no gaps.
        let first = batch.events.first().map_or(0, |event| event.revision.0);
        for (key, object) in &batch.objects {
            let Some(object) = object else {
                writes.delete_cf(objects, key.to_bytes());
                continue;
            };
            let at = object.header.revision.0.checked_sub(first);
            match at.and_then(|at| values.get(at as usize)) {
                Some(value) => writes.put_cf(objects, key.to_bytes(), value),
                None => writes.put_cf(objects, key.to_bytes(), layout::object_to_bytes(object)?),
            }
        }
        if let Some((from, to)) = batch.compact {
            let range = (layout::revision_key(from), layout::revision_key(to.next()));
            writes.delete_range_cf(history, range.0, range.1);
        }
        writes.put(STATE_KEY, layout::state_to_bytes(batch.state));
        if let Some(position) = &batch.position {
            writes.put(POSITION_KEY, position);
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        open.db
            .write_opt(writes, &options)
            .map_err(|error| disk_error(format!("writing to the store in {}", open.path.display()), &error))
    }

    fn position(&self) -> Result<Option<Vec<u8>>, BackendError> {
        self.database().get(POSITION_KEY).map_err(read_failed)
    }
}

struct RocksView<'a> {
    db: &'a DB,
    snapshot: SnapshotWithThreadMode<'a, DB>,
}

impl RocksView<'_> {
    /// Walks a range of a column family.
    fn walk(
        &self,
        name: &str,
        from: &[u8],
        end: Option<Vec<u8>>,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, BackendError>,
    ) -> Result<(), BackendError> {
        let mut options = ReadOptions::default();
        if let Some(end) = end {
            options.set_iterate_upper_bound(end);
        }
        let mut iterator = self.snapshot.raw_iterator_cf_opt(family(self.db, name)?, options);
        iterator.seek(from);
        while let Some((key, value)) = iterator.item() {
            if visit(key, value)?.is_break() {
                break;
            }
            iterator.next();
        }
        iterator.status().map_err(read_failed)
    }

    fn walk_objects(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        after: Option<&Key>,
        visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, BackendError>,
    ) -> Result<(), BackendError> {
        let prefix = Key::prefix(resource, namespace);
        let end = layout::prefix_end(&prefix);
        let from = match after.map(Key::to_bytes) {
            // No key lies between a key and itself followed by NUL.
            Some(mut after) if after >= prefix => {
                after.push(0);
                after
            }
            _ => prefix,
        };
        self.walk(OBJECTS, &from, Some(end), visit)
    }
}

fn key_of(bytes: &[u8]) -> Result<Key, BackendError> {
    Key::from_bytes(bytes).ok_or_else(|| BackendError::Damaged {
        what: "the store".to_owned(),
        reason: format!("{:?} is no key", String::from_utf8_lossy(bytes)),
    })
}

impl View for RocksView<'_> {
    fn state(&self) -> Result<State, BackendError> {
        let value = self.snapshot.get(STATE_KEY).map_err(read_failed)?;
        value.map_or(Ok(State::default()), |value| layout::state_from_bytes(&value))
    }

    fn object(&self, key: &Key) -> Result<Option<Arc<Object>>, BackendError> {
        let key = key.to_bytes();
        object_of(
            &key,
            self.snapshot
                .get_pinned_cf(family(self.db, OBJECTS)?, &key)
                .map_err(read_failed)?,
        )
    }

    fn scan(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        after: Option<&Key>,
        keep: Keep<'_>,
        visit: Visit<'_>,
    ) -> Result<(), BackendError> {
        self.walk_objects(resource, namespace, after, |key_bytes, value| {
            let key = key_of(key_bytes)?;
            let (header, body_at) = layout::header_from_bytes(key_bytes, value)?;
            if !keep(&key, &header) {
                return Ok(ControlFlow::Continue(()));
            }
            let body = protocol::object::Body(bytes::Bytes::copy_from_slice(&value[body_at..]));
            Ok(visit(key, Arc::new(Object { header, body })))
        })
    }

    fn bodies(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        keep: Option<Keep<'_>>,
        visit: VisitBody<'_>,
    ) -> Result<(), BackendError> {
        self.walk_objects(resource, namespace, None, |key_bytes, value| {
            let Some(keep) = keep else {
                return Ok(visit(layout::body_of_bytes(key_bytes, value)?));
            };
            let (header, body_at) = layout::header_from_bytes(key_bytes, value)?;
            if !keep(&key_of(key_bytes)?, &header) {
                return Ok(ControlFlow::Continue(()));
            }
            Ok(visit(&value[body_at..]))
        })
    }

    fn count(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        after: Option<&Key>,
        most: u64,
    ) -> Result<u64, BackendError> {
        let mut count = 0;
        self.walk_objects(resource, namespace, after, |_, _| {
            count += 1;
            Ok(if count < most {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        })?;
        Ok(count)
    }

    fn history(
        &self,
        after: Revision,
        wanted: &dyn Fn(&Key) -> bool,
        visit: VisitEvent<'_>,
    ) -> Result<(), BackendError> {
        self.walk(HISTORY, &layout::revision_key(after.next()), None, |key, value| {
            let revision = layout::revision_from_key(key)?;
            if !wanted(&layout::event_key(revision, value)?) {
                return Ok(ControlFlow::Continue(()));
            }
            let event: StoreEvent = layout::event_from_bytes(revision, value)?;
            Ok(visit(Arc::new(event)))
        })
    }
}
