//! The clock that acting code passes on to deciding code. The simulation passes a virtual one. Must never be called from
//! deciding code.
#![allow(clippy::disallowed_methods)] // the one place of the actors that reads the machine's clock

use std::time::{SystemTime, UNIX_EPOCH};

use protocol::UnixMillis;

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// The wall-clock time.
    fn now(&self) -> UnixMillis;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixMillis {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }
}
