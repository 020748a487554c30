//! Exponential back-off of restarts and image pulls, with Kubernetes' numbers: 10 s, doubled up to 5 min, forgotten
//! after 10 min of running. Pure; `decide` owns one for each container and one for each pull.

use protocol::UnixMillis;

/// The first delay.
pub const INITIAL_MS: u64 = 10_000;
/// The longest delay.
pub const LIMIT_MS: u64 = 300_000;
/// A container that ran so long is considered well, and its next failure starts over.
pub const RESET_AFTER_MS: u64 = 600_000;

/// How often something failed in a row, and until when it must wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
    until: UnixMillis,
}

impl Backoff {
    /// Continues a back-off after the node process restarted, from the restart count that the status shows.
    pub fn resumed(failures: u32, until: UnixMillis) -> Backoff {
        Backoff { failures, until }
    }

    /// The first failure may be followed by a try at once, as the kubelet does with a container's first restart; every
    /// later one waits.
    pub fn failed_restart(&mut self, now: UnixMillis, ran_ms: u64) {
        if ran_ms >= RESET_AFTER_MS {
            self.failures = 0;
        }
        self.until = if self.failures == 0 {
            now
        } else {
            now.plus_ms(delay_ms(self.failures - 1))
        };
        self.failures = self.failures.saturating_add(1);
    }

    /// Every failure waits, the first one too, as image pulls do.
    pub fn failed_pull(&mut self, now: UnixMillis) {
        self.until = now.plus_ms(delay_ms(self.failures));
        self.failures = self.failures.saturating_add(1);
    }

    /// Whether it must still wait at `now`.
    pub fn waits(&self, now: UnixMillis) -> bool {
        now < self.until
    }

    /// Until when it must wait.
    pub fn until(&self) -> UnixMillis {
        self.until
    }

    /// How often it failed in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The delay that is being waited, in milliseconds, for messages.
    pub fn delay_ms(&self) -> u64 {
        match self.failures {
            0 => 0,
            failures => delay_ms(failures.saturating_sub(2)),
        }
    }
}

fn delay_ms(failures: u32) -> u64 {
    INITIAL_MS.saturating_mul(1 << failures.min(10)).min(LIMIT_MS)
}

/// A delay as Kubernetes prints it in messages: `10s`, `1m20s`, `5m0s`.
pub fn spelled(ms: u64) -> String {
    let seconds = ms / 1000;
    if seconds < 60 {
        format!("{seconds}s")
    } else {
        format!("{}m{}s", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_wait_0_10_20_40_up_to_300_seconds() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..8)
            .map(|_| {
                backoff.failed_restart(UnixMillis(1000), 0);
                backoff.until().since_ms(UnixMillis(1000)) / 1000
            })
            .collect();
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(spelled(backoff.delay_ms()), "5m0s");
    }

    #[test]
    fn ten_minutes_of_running_forgive_earlier_failures() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.failed_restart(UnixMillis(0), 0);
        }
        backoff.failed_restart(UnixMillis(0), RESET_AFTER_MS);
        assert!(!backoff.waits(UnixMillis(0)));
    }

    #[test]
    fn pulls_wait_from_the_first_failure_on() {
        let mut backoff = Backoff::default();
        backoff.failed_pull(UnixMillis(0));
        assert_eq!(backoff.until(), UnixMillis(INITIAL_MS));
        backoff.failed_pull(UnixMillis(0));
        assert_eq!(backoff.until(), UnixMillis(2 * INITIAL_MS));
        assert_eq!(backoff.delay_ms(), INITIAL_MS);
    }
}
