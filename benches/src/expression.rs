//! Owns the small arithmetic of workload files: `40`, `$pods * 3`, and in templates `{{index / groupSize}}`. Called by the
//! workload reader and by templates. It must stay total: every mistake is a typed error, nothing panics.

use std::collections::BTreeMap;

/// The values that names stand for.
pub type Parameters = BTreeMap<String, i64>;

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// A name that nothing gives a value to.
    #[error("`{expression}` names `{name}`, which has no value here; known are {known}")]
    Unknown {
        /// The whole expression.
        expression: String,
        /// The name.
        name: String,
        /// What could have been named.
        known: String,
    },
    /// It is not written as operands with + - * / % between them.
    #[error("`{expression}` is not numbers and names with + - * / % between them")]
    Malformed {
        /// The whole expression.
        expression: String,
    },
    /// It divides by zero, or leaves the range of 64 bits.
    #[error("`{expression}` divides by zero or overflows")]
    Arithmetic {
        /// The whole expression.
        expression: String,
    },
}

/// The value of an expression: operands (integers, names, `$names`) with + - * / % between them, taken from left to right
/// without precedence, as there are no parentheses to change it.
pub fn evaluate(expression: &str, parameters: &Parameters) -> Result<i64, ExpressionError> {
    let malformed = || ExpressionError::Malformed {
        expression: expression.to_owned(),
    };
    let arithmetic = || ExpressionError::Arithmetic {
        expression: expression.to_owned(),
    };
    let spaced: String = expression
        .chars()
        .flat_map(|c| match c {
            '+' | '-' | '*' | '/' | '%' => vec![' ', c, ' '],
            c => vec![c],
        })
        .collect();
    let mut words = spaced.split_whitespace();
    let mut value = operand(words.next().ok_or_else(malformed)?, expression, parameters)?;
    while let Some(operator) = words.next() {
        let right = operand(words.next().ok_or_else(malformed)?, expression, parameters)?;
        let result = match operator {
            "+" => value.checked_add(right),
            "-" => value.checked_sub(right),
            "*" => value.checked_mul(right),
            "/" => value.checked_div(right),
            "%" => value.checked_rem(right),
            _ => return Err(malformed()),
        };
        value = result.ok_or_else(arithmetic)?;
    }
    Ok(value)
}

fn operand(word: &str, expression: &str, parameters: &Parameters) -> Result<i64, ExpressionError> {
    if let Ok(number) = word.parse() {
        return Ok(number);
    }
    let name = word.strip_prefix('$').unwrap_or(word);
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_name {
        return Err(ExpressionError::Malformed {
            expression: expression.to_owned(),
        });
    }
    parameters.get(name).copied().ok_or_else(|| ExpressionError::Unknown {
        expression: expression.to_owned(),
        name: name.to_owned(),
        known: match parameters.is_empty() {
            true => "none".to_owned(),
            false => parameters.keys().cloned().collect::<Vec<_>>().join(", "),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_have_their_values() {
        let parameters = Parameters::from([("pods".to_owned(), 7), ("index".to_owned(), 9)]);
        for (expression, value) in [
            ("40", 40),
            ("$pods", 7),
            ("$pods * 3", 21),
            ("index/pods", 1),
            (" index % 4 ", 1),
            ("30000 / index", 3333),
            ("2 + 3 * 4", 20),
        ] {
            assert_eq!(evaluate(expression, &parameters), Ok(value), "{expression}");
        }
    }

    #[test]
    fn mistakes_say_what_is_wrong() {
        let parameters = Parameters::from([("pods".to_owned(), 0)]);
        for (expression, words) in [
            ("$podz", "names `podz`, which has no value here; known are pods"),
            ("3 +", "not numbers and names"),
            ("3 4", "not numbers and names"),
            ("", "not numbers and names"),
            ("a!", "not numbers and names"),
            ("1 / pods", "divides by zero"),
            ("9223372036854775807 + 1", "overflows"),
        ] {
            let error = evaluate(expression, &parameters).unwrap_err().to_string();
            assert!(error.contains(words), "{expression}: {error}");
        }
    }
}
