//! Sizes, and lists as sets.

use super::{Arguments, Function, Outcome, Sort, count, global, member, text_cost};
use crate::error::EvaluationError;
use crate::value::{List, Spend, Value};

const LIST: Sort = Sort::List(&Sort::A);

pub(super) static FUNCTIONS: &[Function] = &[
    global("size", &[Sort::Text], Sort::Int, size),
    global("size", &[Sort::Bytes], Sort::Int, size),
    global("size", &[Sort::List(&Sort::Dyn)], Sort::Int, size),
    global("size", &[Sort::Map], Sort::Int, size),
    member("size", &[Sort::Text], Sort::Int, size),
    member("size", &[Sort::Bytes], Sort::Int, size),
    member("size", &[Sort::List(&Sort::Dyn)], Sort::Int, size),
    member("size", &[Sort::Map], Sort::Int, size),
    global("sets.contains", &[LIST, LIST], Sort::Bool, |call| {
        let (whole, part) = two_lists(&call)?;
        contains(&whole, &part, call.spend).map(Value::Bool)
    }),
    global("sets.equivalent", &[LIST, LIST], Sort::Bool, |call| {
        let (a, b) = two_lists(&call)?;
        Ok(Value::Bool(
            contains(&a, &b, call.spend)? && contains(&b, &a, call.spend)?,
        ))
    }),
    global("sets.intersects", &[LIST, LIST], Sort::Bool, |call| {
        let (a, b) = two_lists(&call)?;
        for item in a.iter() {
            for other in b.iter() {
                if item.same(&other, call.spend)? {
                    return Ok(Value::Bool(true));
                }
            }
        }
        Ok(Value::Bool(false))
    }),
];

fn size<'a>(call: Arguments<'_, 'a>) -> Outcome<'a> {
    match &call.values[0] {
        Value::Text(text) => {
            (call.spend)(text_cost(text.as_str().len()))?;
            Ok(count(text.as_str().chars().count()))
        }
        other => Ok(count(other.size())),
    }
}

fn two_lists<'a>(call: &Arguments<'_, 'a>) -> Result<(List<'a>, List<'a>), EvaluationError> {
    match (&call.values[0], &call.values[1]) {
        (Value::List(a), Value::List(b)) => Ok((a.clone(), b.clone())),
        _ => Err(EvaluationError::NoSuchOverload),
    }
}

fn contains(whole: &List<'_>, part: &List<'_>, spend: &mut Spend<'_>) -> Result<bool, EvaluationError> {
    for wanted in part.iter() {
        let mut found = false;
        for item in whole.iter() {
            if item.same(&wanted, spend)? {
                found = true;
                break;
            }
        }
        if !found {
            return Ok(false);
        }
    }
    Ok(true)
}
