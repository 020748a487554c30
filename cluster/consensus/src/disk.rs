//! Whether the disk has room for more. A raft whose write fails must stop for good, since it cannot know what of the
//! write is there; so the leader refuses proposals, and a follower entries, while there is still room for what is
//! under way, and takes them again when space was freed.
#![allow(clippy::disallowed_methods)] // acting code: it asks the filesystem at most so often

use std::path::PathBuf;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long an answer of the filesystem counts.
const FRESH: Duration = Duration::from_millis(200);

/// Too little room is left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the disk under {} has {free_bytes} bytes free, less than the {reserve_bytes} that are kept in reserve: \
     free some space or enlarge it, and writes are accepted again", directory.display()
)]
pub struct DiskFull {
    /// What lies on the disk.
    pub directory: PathBuf,
    /// What is free.
    pub free_bytes: u64,
    /// What must be.
    pub reserve_bytes: u64,
}

#[derive(Clone, Copy)]
struct Measured {
    at: Instant,
    free_bytes: u64,
    total_bytes: u64,
}

/// Watches the room under one directory.
pub struct DiskGuard {
    directory: PathBuf,
    reserve_bytes: u64,
    measured: Mutex<Option<Measured>>,
}

impl DiskGuard {
    /// Keeps `reserve_bytes` free, or an eighth of the filesystem if that is less.
    pub fn new(directory: PathBuf, reserve_bytes: u64) -> DiskGuard {
        DiskGuard {
            directory,
            reserve_bytes,
            measured: Mutex::new(None),
        }
    }

    /// Whether the leader may take proposals.
    pub fn check_leader(&self) -> Result<(), DiskFull> {
        self.check(1)
    }

    /// Whether a follower may take entries: it goes on a little longer than the leader, so that what the leader has
    /// accepted still reaches a majority.
    pub fn check_follower(&self) -> Result<(), DiskFull> {
        self.check(2)
    }

    fn check(&self, part: u64) -> Result<(), DiskFull> {
        let Some(measured) = self.measure() else { return Ok(()) };
        let reserve_bytes = self.reserve_bytes.min(measured.total_bytes / 8) / part;
        if measured.free_bytes >= reserve_bytes {
            return Ok(());
        }
        Err(DiskFull {
            directory: self.directory.clone(),
            free_bytes: measured.free_bytes,
            reserve_bytes,
        })
    }

    /// `None` when the filesystem does not say; the write itself will tell then.
    fn measure(&self) -> Option<Measured> {
        let mut measured = self.measured.lock();
        if let Some(fresh) = measured.filter(|measured| measured.at.elapsed() < FRESH) {
            return Some(fresh);
        }
        let stat = nix::sys::statvfs::statvfs(&self.directory).ok()?;
        let fragment = stat.fragment_size() as u64;
        *measured = Some(Measured {
            at: Instant::now(),
            free_bytes: stat.blocks_available() as u64 * fragment,
            total_bytes: stat.blocks() as u64 * fragment,
        });
        *measured
    }
}
