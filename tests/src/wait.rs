//! Waiting for a condition, with a bound and a message that says what was last seen.

use std::time::{Duration, Instant};

/// Asks `check` until it says `Ok`, at most for `bound`; returns its value and how long it took. Panics with the last
/// reason when the time is over.
pub fn wait_for<T>(what: &str, bound: Duration, mut check: impl FnMut() -> Result<T, String>) -> (T, Duration) {
    let begun = Instant::now();
    loop {
        let reason = match check() {
            Ok(value) => return (value, begun.elapsed()),
            Err(reason) => reason,
        };
        assert!(
            begun.elapsed() < bound,
            "{what}: not within {bound:?}; last seen: {reason}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
