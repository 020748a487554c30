//! Owns the reading of Kubernetes quantities ("100m", "1.5Gi", "2e3") into whole numbers. Called by the parsers of
//! pods and nodes. It must round up, as Kubernetes' `Value()` and `MilliValue()` do, and must never panic on a
//! client's text.

/// A quantity in whole units (bytes, pods, devices), rounded up and held within an i64; `None` if it is not a quantity.
pub fn whole(text: &str) -> Option<i64> {
    scaled(text, 0)
}

/// A quantity in thousandths (milli-cpu), rounded up and held within an i64; `None` if it is not a quantity.
pub fn milli(text: &str) -> Option<i64> {
    scaled(text, 3)
}

fn scaled(text: &str, extra_decimals: i32) -> Option<i64> {
    let text = text.trim();
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let number_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_end);
    let (integer, fraction) = number.split_once('.').unwrap_or((number, ""));
    if integer.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let (binary_shift, decimal_exponent) = suffix_factor(suffix)?;
    // The number is digits * 10^exponent * 2^shift.
    let digits: String = integer.chars().chain(fraction.trim_end_matches('0').chars()).collect();
    let digits = digits.trim_start_matches('0');
    let exponent = decimal_exponent + extra_decimals - fraction.trim_end_matches('0').len() as i32;
    if digits.is_empty() {
        return Some(0);
    }
    if digits.len() > 24 {
        return Some(if negative { i64::MIN } else { i64::MAX });
    }
    let mut value: u128 = digits.parse().ok()?;
    value = value.saturating_mul(1u128 << binary_shift);
    let magnitude = if exponent >= 0 {
        let factor = 10u128.checked_pow(exponent.unsigned_abs()).unwrap_or(u128::MAX);
        value.saturating_mul(factor)
    } else {
        match 10u128.checked_pow(exponent.unsigned_abs()) {
            // Away from zero for positive values, as Kubernetes rounds up.
            Some(divisor) if !negative => value.div_ceil(divisor),
            Some(divisor) => value / divisor,
            None => u128::from(!negative),
        }
    };
    let clamped = i64::try_from(magnitude).unwrap_or(i64::MAX);
    Some(if negative { -clamped } else { clamped })
}

/// The binary shift and the decimal exponent that a suffix stands for.
fn suffix_factor(suffix: &str) -> Option<(u32, i32)> {
    Some(match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?;
            (0, exponent.clamp(-60, 60))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_suffix_and_rounds_up() {
        for (text, want) in [
            ("0", 0),
            ("1", 1),
            ("1.5Gi", 1_610_612_736),
            ("100m", 1),
            ("1500m", 2),
            ("2e3", 2000),
            ("2E3", 2000),
            ("1E", 1_000_000_000_000_000_000),
            ("12k", 12_000),
            ("1Ki", 1024),
            ("0.5", 1),
            ("-1", -1),
            ("-0.5", 0),
            ("99999999999999999999999999", i64::MAX),
            ("1e-70", 1),
        ] {
            assert_eq!(whole(text), Some(want), "{text}");
        }
        for (text, want) in [
            ("100m", 100),
            ("2", 2000),
            ("0.1", 100),
            ("1u", 1),
            ("1500u", 2),
            ("4", 4000),
        ] {
            assert_eq!(milli(text), Some(want), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_a_quantity() {
        for text in ["", "abc", "1.2.3", "1x", "Gi", ".", "1e", "--1"] {
            assert_eq!(whole(text), None, "{text}");
        }
    }
}
