//! The process's clock and random source, which everything that decides is given as an argument.

use protocol::UnixMillis;
use rand::Rng;
use std::time::{SystemTime, UNIX_EPOCH};

/// The wall clock.
pub fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(since.as_millis() as u64)
}

/// Bits of the thread's generator, which cannot be guessed: ChaCha12, seeded by the kernel's random source and again every
/// 64 KiB. Each request needs some, and asking the kernel each time costs more than reading an object.
pub fn random() -> u128 {
    rand::rng().random()
}
