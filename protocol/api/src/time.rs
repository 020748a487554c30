//! Instants in the API's text form. Nothing here reads a clock.

use protocol::UnixMillis;

/// The last instant that prints with a year of four digits: the end of 9999.
pub const MILLIS_MAX: u64 = 253_402_300_799_000;

/// Parses RFC 3339; instants before 1970 count as 1970.
pub fn parse(text: &str) -> Option<UnixMillis> {
    let timestamp: jiff::Timestamp = text.parse().ok()?;
    Some(UnixMillis(u64::try_from(timestamp.as_millisecond()).unwrap_or(0)))
}

/// A duration as kubectl prints an age: two units at most, the finer one left out when it tells nothing
/// (apimachinery's `duration.HumanDuration`).
pub fn age(duration_ms: u64) -> String {
    let seconds = duration_ms / 1000;
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    if seconds < 120 {
        return format!("{seconds}s");
    }
    if minutes < 10 {
        let rest = seconds % 60;
        return if rest == 0 {
            format!("{minutes}m")
        } else {
            format!("{minutes}m{rest}s")
        };
    }
    if minutes < 180 {
        return format!("{minutes}m");
    }
    if hours < 8 {
        let rest = minutes % 60;
        return if rest == 0 {
            format!("{hours}h")
        } else {
            format!("{hours}h{rest}m")
        };
    }
    if hours < 48 {
        return format!("{hours}h");
    }
    if hours < 24 * 8 {
        let rest = hours % 24;
        return if rest == 0 {
            format!("{}d", hours / 24)
        } else {
            format!("{}d{rest}h", hours / 24)
        };
    }
    if hours < 24 * 365 * 2 {
        return format!("{}d", hours / 24);
    }
    if hours < 24 * 365 * 8 {
        let days = hours / 24 % 365;
        return if days == 0 {
            format!("{}y", hours / 24 / 365)
        } else {
            format!("{}y{days}d", hours / 24 / 365)
        };
    }
    format!("{}y", hours / 24 / 365)
}

/// The age of something that began at `since`, as kubectl prints it; `<unknown>` when there is no such instant.
pub fn age_since(since: &str, now: UnixMillis) -> String {
    parse(since).map_or_else(|| "<unknown>".to_owned(), |since| age(now.since_ms(since)))
}
