//! Regular expressions: `matches` of the language, `find` and `findAll` of Kubernetes'. The crate's syntax is RE2's in all but
//! corners, and like it takes linear time.

use ::regex::{Regex, RegexBuilder};

use super::{Arguments, Function, Outcome, Sort, global, int, member, refused, text, text_cost};
use crate::value::Value;

const TEXTS: Sort = Sort::List(&Sort::Text);

/// What a compiled pattern may take, in bytes: `(a{1000}){1000}` is small only as a text.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// What compiling a pattern during an evaluation costs: far more than looking for it.
const COMPILE_COST: u64 = 2_000;

pub(super) static FUNCTIONS: &[Function] = &[
    member("matches", &[Sort::Text, Sort::Text], Sort::Bool, |call| {
        with_pattern(call, |pattern, text| Value::Bool(pattern.is_match(text)))
    }),
    global("matches", &[Sort::Text, Sort::Text], Sort::Bool, |call| {
        with_pattern(call, |pattern, text| Value::Bool(pattern.is_match(text)))
    }),
    member("find", &[Sort::Text, Sort::Text], Sort::Text, |call| {
        with_pattern(call, |pattern, text| {
            Value::text(pattern.find(text).map_or("", |found| found.as_str()))
        })
    }),
    member("findAll", &[Sort::Text, Sort::Text], TEXTS, |call| {
        with_pattern(call, |pattern, text| found(pattern, text, usize::MAX))
    }),
    member("findAll", &[Sort::Text, Sort::Text, Sort::Int], TEXTS, |call| {
        let limit = int(&call.values[2])?;
        with_pattern(call, move |pattern, text| {
            found(pattern, text, usize::try_from(limit).unwrap_or(usize::MAX))
        })
    }),
];

/// Compiles a pattern; the error is Go's.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build();
    built.map_err(|_| format!("error parsing regexp: invalid or too large regular expression: `{pattern}`"))
}

fn with_pattern<'a>(call: Arguments<'_, 'a>, then: impl FnOnce(&Regex, &str) -> Value<'a>) -> Outcome<'a> {
    let (given, pattern) = (text(&call.values[0])?, text(&call.values[1])?);
    let steps = (pattern.len() as u64).div_ceil(4).max(1);
    (call.spend)(text_cost(given.len() + 1).saturating_mul(steps))?;
    match call.pattern {
        Some(compiled) => Ok(then(compiled, given)),
        None => {
            (call.spend)(COMPILE_COST)?;
            let compiled = compile(pattern).map_err(refused)?;
            Ok(then(&compiled, given))
        }
    }
}

fn found<'a>(pattern: &Regex, text: &str, limit: usize) -> Value<'a> {
    let found = pattern.find_iter(text).take(limit);
    Value::list(found.map(|found| Value::text(found.as_str())).collect())
}
