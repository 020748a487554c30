//! Semantic versions: `semver("1.2.3")`.

use std::sync::Arc;

use semver::Version;

use super::opaque::{Opaque, SEMVER};
use super::{Arguments, Function, Sort, global, member, refused, text, text_cost};
use crate::error::EvaluationError;
use crate::value::Value;

const OF: Sort = Sort::Opaque(SEMVER);

pub(super) static FUNCTIONS: &[Function] = &[
    global("semver", &[Sort::Text], OF, |call| made(call, false)),
    global("semver", &[Sort::Text, Sort::Bool], OF, |call| {
        let normalize = matches!(call.values[1], Value::Bool(true));
        made(call, normalize)
    }),
    global("isSemver", &[Sort::Text], Sort::Bool, |call| {
        Ok(Value::Bool(parse(call, false)?.is_ok()))
    }),
    global("isSemver", &[Sort::Text, Sort::Bool], Sort::Bool, |call| {
        let normalize = matches!(call.values[1], Value::Bool(true));
        Ok(Value::Bool(parse(call, normalize)?.is_ok()))
    }),
    member("major", &[OF], Sort::Int, |call| part(of(&call.values[0])?.major)),
    member("minor", &[OF], Sort::Int, |call| part(of(&call.values[0])?.minor)),
    member("patch", &[OF], Sort::Int, |call| part(of(&call.values[0])?.patch)),
    member("isLessThan", &[OF, OF], Sort::Bool, |call| {
        Ok(Value::Bool(
            of(&call.values[0])?.cmp_precedence(of(&call.values[1])?).is_lt(),
        ))
    }),
    member("isGreaterThan", &[OF, OF], Sort::Bool, |call| {
        Ok(Value::Bool(
            of(&call.values[0])?.cmp_precedence(of(&call.values[1])?).is_gt(),
        ))
    }),
    member("compareTo", &[OF, OF], Sort::Int, |call| {
        Ok(Value::Int(
            of(&call.values[0])?.cmp_precedence(of(&call.values[1])?) as i64
        ))
    }),
];

fn parse(call: Arguments<'_, '_>, normalize: bool) -> Result<Result<Version, semver::Error>, EvaluationError> {
    let given = text(&call.values[0])?;
    (call.spend)(text_cost(given.len()))?;
    if !normalize {
        return Ok(Version::parse(given));
    }
    // A `v` in front, missing parts, and zeros in front of a part are accepted.
    let given = given.strip_prefix('v').unwrap_or(given);
    let split = given.find(['-', '+']).unwrap_or(given.len());
    let (core, rest) = given.split_at(split);
    let mut parts: Vec<&str> = core.split('.').collect();
    parts.resize(parts.len().max(3), "0");
    let parts: Vec<&str> = parts
        .into_iter()
        .map(|part| match part.trim_start_matches('0') {
            "" if part.is_empty() => "",
            "" => "0",
            other => other,
        })
        .collect();
    Ok(Version::parse(&format!("{}{rest}", parts.join("."))))
}

fn made<'a>(call: Arguments<'_, 'a>, normalize: bool) -> super::Outcome<'a> {
    let parsed = parse(call, normalize)?;
    let version = parsed.map_err(|error| refused(error.to_string()))?;
    Ok(Value::Opaque(Opaque::Semver(Arc::new(version))))
}

fn part<'a>(number: u64) -> super::Outcome<'a> {
    let number = i64::try_from(number);
    number.map(Value::Int).map_err(|_| EvaluationError::Overflow("integer"))
}

fn of<'v>(value: &'v Value<'_>) -> Result<&'v Version, EvaluationError> {
    match value {
        Value::Opaque(Opaque::Semver(version)) => Ok(version),
        _ => Err(EvaluationError::NoSuchOverload),
    }
}
