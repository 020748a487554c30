//! Numbers that may be given as a percentage of another one: `maxSurge`, `maxUnavailable`, `minAvailable`. Pure.

use serde_json::Value;

/// A number, or a percentage of `total`, rounded up or down. What is neither counts as zero: validation has refused it.
pub fn of_total(value: &Value, total: i64, up: bool) -> i64 {
    if let Some(number) = value.as_i64() {
        return number.max(0);
    }
    let percent = value
        .as_str()
        .and_then(|text| text.strip_suffix('%'))
        .and_then(|text| text.trim().parse::<i64>().ok());
    let product = percent.unwrap_or(0).max(0).saturating_mul(total);
    if up {
        product.div_euclid(100) + i64::from(product.rem_euclid(100) != 0)
    } else {
        product.div_euclid(100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn percentages_round_as_they_are_told() {
        for (value, total, up, expected) in [
            (json!(3), 10, true, 3),
            (json!(-3), 10, true, 0),
            (json!("25%"), 10, true, 3),
            (json!("25%"), 10, false, 2),
            (json!("100%"), 7, false, 7),
            (json!("0%"), 7, true, 0),
            (json!("3"), 7, true, 0),
            (json!(null), 7, true, 0),
        ] {
            assert_eq!(of_total(&value, total, up), expected, "{value} of {total}");
        }
    }
}
