//! Kubernetes quantities (`100m`, `1.5Gi`, `2e3`): exact decimal numbers with a suffix, as defined by
//! apimachinery's `resource.Quantity`. Used by validation, the scheduler's front door and the runtime's limits.

/// Why a text is no quantity. The message is Kubernetes' own, since clients match on it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The text does not match the grammar.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Syntax,
    /// The number does not fit.
    #[error("the quantity {0:?} is out of range")]
    Range(String),
}

/// A quantity in billionths (nano units), the finest that Kubernetes keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity {
    nanos: i128,
}

const NANO: i128 = 1_000_000_000;

impl Quantity {
    /// Parses the printed form. Digits finer than a nano round away from zero, as upstream does.
    pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let digits = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (number, suffix) = rest.split_at(digits);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || fraction.contains('.') {
            return Err(QuantityError::Syntax);
        }
        let range = || QuantityError::Range(text.to_owned());
        if whole.len() + fraction.len() > 28 {
            return Err(range());
        }
        let mantissa: i128 = format!("{whole}{fraction}")
            .parse()
            .map_err(|_| QuantityError::Syntax)?;
        let (factor, exponent) = scale(suffix)?;
        let mut value = mantissa.checked_mul(factor).ok_or_else(range)?;
        let power = exponent + 9 - fraction.len() as i32;
        let ten = 10i128.checked_pow(power.unsigned_abs()).ok_or_else(range)?;
        if power >= 0 {
            value = value.checked_mul(ten).ok_or_else(range)?;
        } else {
            value = value / ten + i128::from(value % ten != 0);
        }
        Ok(Quantity {
            nanos: if negative { -value } else { value },
        })
    }

    /// From whole units.
    pub fn from_units(units: i64) -> Quantity {
        Quantity {
            nanos: i128::from(units) * NANO,
        }
    }

    /// From thousandths.
    pub fn from_milli(milli: i64) -> Quantity {
        Quantity {
            nanos: i128::from(milli) * (NANO / 1000),
        }
    }

    /// Whole units, rounded up, saturating: Kubernetes' `Value()`.
    pub fn units(self) -> i64 {
        round_up(self.nanos, NANO)
    }

    /// Thousandths, rounded up, saturating: Kubernetes' `MilliValue()`.
    pub fn milli(self) -> i64 {
        round_up(self.nanos, NANO / 1000)
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// The sum.
    #[must_use]
    pub fn plus(self, other: Quantity) -> Quantity {
        Quantity {
            nanos: self.nanos.saturating_add(other.nanos),
        }
    }

    /// The difference.
    #[must_use]
    pub fn minus(self, other: Quantity) -> Quantity {
        Quantity {
            nanos: self.nanos.saturating_sub(other.nanos),
        }
    }
}

fn round_up(nanos: i128, unit: i128) -> i64 {
    let rounded = nanos.div_euclid(unit) + i128::from(nanos.rem_euclid(unit) != 0);
    rounded.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

/// The factor and the decimal exponent that a suffix stands for.
fn scale(suffix: &str) -> Result<(i128, i32), QuantityError> {
    Ok(match suffix {
        "" => (1, 0),
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Syntax)?;
            let exponent: i32 = exponent.parse().map_err(|_| QuantityError::Syntax)?;
            if exponent.abs() > 30 {
                return Err(QuantityError::Range(suffix.to_owned()));
            }
            (1, exponent)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_mean_what_kubernetes_says() {
        let cases = [
            ("0", 0, 0),
            ("100m", 1, 100),
            ("1", 1, 1000),
            ("1.5", 2, 1500),
            ("0.1", 1, 100),
            ("128Mi", 134_217_728, 134_217_728_000),
            ("1.5Gi", 1_610_612_736, 1_610_612_736_000),
            ("2e3", 2000, 2_000_000),
            ("1E3", 1000, 1_000_000),
            ("1E", 1_000_000_000_000_000_000, i64::MAX),
            ("12k", 12_000, 12_000_000),
            ("-1", -1, -1000),
            ("100n", 1, 1),
            (".5", 1, 500),
            ("5.", 5, 5000),
        ];
        for (text, units, milli) in cases {
            let quantity = Quantity::parse(text).unwrap();
            assert_eq!((quantity.units(), quantity.milli()), (units, milli), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for bad in ["", "m", "1mm", "1.2.3", "1 Gi", "Gi", "1e", "0x1", "1kk", "+", "--1"] {
            assert!(Quantity::parse(bad).is_err(), "{bad}");
        }
    }
}
