//! The grammar of cron schedules, as the library that Kubernetes uses reads them (robfig/cron, five fields and the `@`
//! descriptors): whether a text is one, and what is wrong with it. When a schedule comes due is not decided here.

/// One of the five fields: what it is called, its bounds, and the names that stand for numbers.
struct Field {
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field {
        low: 0,
        high: 59,
        names: &[],
    },
    Field {
        low: 0,
        high: 23,
        names: &[],
    },
    Field {
        low: 1,
        high: 31,
        names: &[],
    },
    Field {
        low: 1,
        high: 12,
        names: &[
            "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
        ],
    },
    Field {
        low: 0,
        high: 6,
        names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    },
];

const DESCRIPTORS: [&str; 7] = [
    "@yearly",
    "@annually",
    "@monthly",
    "@weekly",
    "@daily",
    "@midnight",
    "@hourly",
];

/// Reads a schedule; the error is that of the library.
pub fn parse(text: &str) -> Result<(), String> {
    if text.starts_with('@') {
        return descriptor(text);
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.len() != FIELDS.len() {
        return Err(format!(
            "expected exactly {} fields, found {}: [{}]",
            FIELDS.len(),
            words.len(),
            words.join(" ")
        ));
    }
    for (word, field) in words.iter().zip(&FIELDS) {
        for range in word.split(',').filter(|range| !range.is_empty()) {
            read_range(range, field)?;
        }
    }
    Ok(())
}

fn descriptor(text: &str) -> Result<(), String> {
    if DESCRIPTORS.contains(&text) {
        return Ok(());
    }
    let Some(duration) = text.strip_prefix("@every ") else {
        return Err(format!("unrecognized descriptor: {text}"));
    };
    if is_duration(duration) {
        return Ok(());
    }
    Err(format!(
        "failed to parse duration {text}: time: invalid duration {duration:?}"
    ))
}

/// A duration as Go writes it: numbers, each with its unit.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let number = &rest[..rest.len() - digits.len()];
        if number.is_empty() || number == "." || number.matches('.').count() > 1 {
            return false;
        }
        let units = ["ns", "us", "µs", "ms", "s", "m", "h"];
        // The longest unit that fits: `ms` begins with `m`.
        let unit = units
            .into_iter()
            .filter(|unit| digits.starts_with(unit))
            .max_by_key(|unit| unit.len());
        let Some(unit) = unit else { return false };
        rest = &digits[unit.len()..];
    }
    true
}

fn read_range(text: &str, field: &Field) -> Result<(), String> {
    let (span, step) = match text.split_once('/') {
        Some((_, step)) if step.contains('/') => return Err(format!("too many slashes: {text}")),
        Some((span, step)) => (span, Some(step)),
        None => (text, None),
    };
    let (from, mut to) = match span.split_once('-') {
        None if matches!(span, "*" | "?") => (field.low, field.high),
        None => {
            let number = read_number(span, field)?;
            (number, number)
        }
        Some((_, to)) if to.contains('-') => return Err(format!("too many hyphens: {text}")),
        Some((from, to)) => (read_number(from, field)?, read_number(to, field)?),
    };
    if let Some(step) = step {
        let step: u32 = plain_number(step)?;
        if !span.contains('-') {
            // `5/15` begins at 5 and goes on to the end.
            to = field.high;
        }
        if step == 0 {
            return Err(format!("step of range should be a positive number: {text}"));
        }
    }
    if from < field.low {
        return Err(format!(
            "beginning of range ({from}) below minimum ({}): {text}",
            field.low
        ));
    }
    if to > field.high {
        return Err(format!("end of range ({to}) above maximum ({}): {text}", field.high));
    }
    if from > to {
        return Err(format!(
            "beginning of range ({from}) beyond end of range ({to}): {text}"
        ));
    }
    Ok(())
}

fn read_number(text: &str, field: &Field) -> Result<u32, String> {
    let lower = text.to_lowercase();
    let named = field.names.iter().position(|name| *name == lower);
    match named.and_then(|at| u32::try_from(at).ok()) {
        Some(at) => Ok(field.low + at),
        None => plain_number(text),
    }
}

fn plain_number(text: &str) -> Result<u32, String> {
    match text.parse::<i64>() {
        Ok(number) if number < 0 => Err(format!("negative number ({number}) not allowed: {text}")),
        Ok(number) => u32::try_from(number).map_err(|_| unreadable(text, "value out of range")),
        Err(_) => Err(unreadable(text, "invalid syntax")),
    }
}

fn unreadable(text: &str, why: &str) -> String {
    format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_that_kubernetes_takes_are_taken() {
        for text in [
            "* * * * *",
            "*/5 * * * *",
            "0 0 1 1 *",
            "5/15 0 * * mon-fri",
            "1,2,3 * ? JAN,DEC SUN",
            "@hourly",
            "@every 1h30m",
            "@every 1.5s",
            "0 0 31 2 *",
        ] {
            assert_eq!(parse(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_schedule_is_said_as_the_library_says_it() {
        let cases = [
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            (
                "a * * * *",
                "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax",
            ),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("@never", "unrecognized descriptor: @never"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            (
                "@every x",
                "failed to parse duration @every x: time: invalid duration \"x\"",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Err(expected.to_owned()), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[@a-z0-9 */,?.µ-]{0,30}") {
            let _ = parse(&text);
        }
    }
}
