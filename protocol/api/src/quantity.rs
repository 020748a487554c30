//! The canonical text of a quantity, as Kubernetes writes it back: `0.5` becomes `500m`, `1.5Gi` becomes `1536Mi`,
//! `1000m` becomes `1`. Decoding applies it; the meaning of quantities is in `protocol::quantity`.

use protocol::quantity::Quantity;

const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
const FRACTIONS: [&str; 4] = ["", "m", "u", "n"];

/// The canonical text; `None` for what is no quantity.
pub fn canonical(text: &str) -> Option<String> {
    Quantity::parse(text).ok()?;
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let digits = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, suffix) = rest.split_at(digits);
    let nanos = nanos(number, suffix)?;
    let sign = if negative && nanos > 0 { "-" } else { "" };
    let magnitude = if BINARY[1..].contains(&suffix) && nanos % NANO == 0 && nanos / NANO >= 1024 {
        base_1024(nanos / NANO)
    } else if suffix.len() > 1 && suffix.starts_with(['e', 'E']) && !BINARY.contains(&suffix) {
        exponent(nanos)
    } else {
        decimal(nanos)
    };
    Some(format!("{sign}{magnitude}"))
}

const NANO: i128 = 1_000_000_000;

/// The magnitude in billionths, rounded up.
fn nanos(number: &str, suffix: &str) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mantissa: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let binary = BINARY.iter().position(|unit| !unit.is_empty() && *unit == suffix);
    let decimal = DECIMAL.iter().position(|unit| *unit == suffix);
    let small = FRACTIONS.iter().position(|unit| !unit.is_empty() && *unit == suffix);
    let (factor, power) = match (binary, decimal, small) {
        (Some(step), ..) => (1i128 << (10 * step), 0),
        (_, Some(step), _) => (1, 3 * i32::try_from(step).ok()?),
        (_, _, Some(step)) => (1, -3 * i32::try_from(step).ok()?),
        _ => (1, suffix.get(1..)?.parse().ok()?),
    };
    let value = mantissa.checked_mul(factor)?;
    let power: i32 = power + 9 - i32::try_from(fraction.len()).ok()?;
    let ten = 10i128.checked_pow(power.unsigned_abs())?;
    if power >= 0 {
        value.checked_mul(ten)
    } else {
        Some(value / ten + i128::from(value % ten != 0))
    }
}

fn base_1024(mut units: i128) -> String {
    let mut step = 0;
    while units != 0 && units % 1024 == 0 && step + 1 < BINARY.len() {
        units /= 1024;
        step += 1;
    }
    format!("{units}{}", BINARY[step])
}

/// The number without trailing groups of three zeros, and how many groups (negative: below one) were counted.
fn thousands(nanos: i128) -> (i128, i32) {
    let (mut number, mut groups) = (nanos, -3);
    while number != 0 && number % 1000 == 0 && groups < 6 {
        number /= 1000;
        groups += 1;
    }
    (number, groups)
}

fn decimal(nanos: i128) -> String {
    match thousands(nanos) {
        (0, _) => "0".to_owned(),
        (number, groups) if groups < 0 => format!("{number}{}", FRACTIONS[groups.unsigned_abs() as usize]),
        (number, groups) => format!("{number}{}", DECIMAL[groups.unsigned_abs() as usize]),
    }
}

fn exponent(nanos: i128) -> String {
    match thousands(nanos) {
        (0, _) => "0".to_owned(),
        (number, 0) => number.to_string(),
        (number, groups) => format!("{number}e{}", 3 * groups),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_written_as_kubernetes_writes_them() {
        let cases = [
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1", "1"),
            ("1000", "1k"),
            ("12000k", "12M"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("64Mi", "64Mi"),
            ("100Ki", "100Ki"),
            ("0", "0"),
            ("0Mi", "0"),
            ("1e3", "1e3"),
            ("100e3", "100e3"),
            ("-0.5", "-500m"),
            ("+2", "2"),
            ("1E", "1E"),
            ("1Ei", "1Ei"),
            ("0.5Ki", "512"),
        ];
        for (text, expected) in cases {
            assert_eq!(canonical(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(canonical("abc"), None);
    }

    proptest::proptest! {
        #[test]
        fn canonical_texts_mean_the_same_and_stay_as_they_are(
            number in 0u32..2_000_000, fraction in 0u32..1000, suffix in "m|k|M|G|Ki|Mi|Gi|e3|"
        ) {
            let text = format!("{number}.{fraction:03}{suffix}");
            let written = canonical(&text).unwrap();
            proptest::prop_assert_eq!(Quantity::parse(&text), Quantity::parse(&written));
            proptest::prop_assert_eq!(canonical(&written), Some(written));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[-+0-9.eEinumkKMGTP]{0,40}") {
            let _ = canonical(&text);
        }
    }
}
