//! Formats of names: `format.dns1123Label().validate(text)`. Which there are is given with the environment.

use super::opaque::{FORMAT, Opaque};
use super::{Function, Sort, global, member, text, text_cost};
use crate::error::EvaluationError;
use crate::value::Value;

const OF: Sort = Sort::Opaque(FORMAT);

/// The row of `format.dns1123Label()` and its like.
pub(super) const BY_NAME: &str = "format.*";

pub(super) static FUNCTIONS: &[Function] = &[
    global("format.named", &[Sort::Text], Sort::Optional(&OF), |call| {
        let name = text(&call.values[0])?;
        let found = call.formats.iter().find(|format| format.name == name);
        Ok(found.map_or(Value::Optional(None), |format| {
            Value::some(Value::Opaque(Opaque::Format(format)))
        }))
    }),
    global(BY_NAME, &[], OF, |call| {
        let name = call.name.trim_start_matches("format.");
        let found = call.formats.iter().find(|format| format.name == name);
        found
            .map(|format| Value::Opaque(Opaque::Format(format)))
            .ok_or(EvaluationError::NoSuchOverload)
    }),
    member(
        "validate",
        &[OF, Sort::Text],
        Sort::Optional(&Sort::List(&Sort::Text)),
        |call| {
            let given = text(&call.values[1])?;
            (call.spend)(text_cost(given.len()) + 1)?;
            let Value::Opaque(Opaque::Format(format)) = &call.values[0] else {
                return Err(EvaluationError::NoSuchOverload);
            };
            let problems = (format.problems)(given);
            Ok(match problems.is_empty() {
                true => Value::Optional(None),
                false => Value::some(Value::list(problems.into_iter().map(Value::text).collect())),
            })
        },
    ),
];
