//! The process's clock and random source, which everything that decides is given as an argument.

use protocol::UnixMillis;
use rand::TryRngCore;
use rand::rngs::OsRng;
use std::time::{SystemTime, UNIX_EPOCH};

/// The wall clock.
pub fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(since.as_millis() as u64)
}

/// Bits of the kernel's random source.
///
/// # Panics
/// When the kernel gives none, which Linux does not do once it has booted.
pub fn random() -> u128 {
    let mut bytes = [0; 16];
    OsRng
        .try_fill_bytes(&mut bytes)
        .expect("the kernel's random source answers once the machine has booted");
    u128::from_ne_bytes(bytes)
}
