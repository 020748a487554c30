//! How a failed system call becomes a `RuntimeError`: a full disk is told apart from everything else. Used by all of this
//! crate; holds no state.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use protocol::UnixMillis;
use protocol::runtime::RuntimeError;

/// The error of a file operation in a step of the node's side.
pub(crate) fn io_failure(doing: impl Into<String>, error: &io::Error) -> RuntimeError {
    let doing = doing.into();
    if is_disk_full(error) {
        RuntimeError::DiskFull { doing }
    } else {
        RuntimeError::Failed {
            doing,
            reason: error.to_string(),
        }
    }
}

/// Whether the disk, the quota or the inode table is full.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
        || matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A specification that cannot be carried out.
pub(crate) fn configuration(reason: impl Into<String>) -> RuntimeError {
    RuntimeError::Configuration { reason: reason.into() }
}

/// The machine's clock.
pub(crate) fn now() -> UnixMillis {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
