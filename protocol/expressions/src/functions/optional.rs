//! Optional values.

use super::{Function, Sort, global, member, refused};
use crate::error::EvaluationError;
use crate::value::{Map, Value};

const OPTIONAL: Sort = Sort::Optional(&Sort::A);

pub(super) static FUNCTIONS: &[Function] = &[
    global("optional.of", &[Sort::A], OPTIONAL, |call| {
        Ok(Value::some(call.values[0].clone()))
    }),
    global("optional.none", &[], Sort::Optional(&Sort::Dyn), |_| {
        Ok(Value::Optional(None))
    }),
    global("optional.ofNonZeroValue", &[Sort::A], OPTIONAL, |call| {
        let value = &call.values[0];
        let zero = match value {
            Value::Null | Value::Bool(false) | Value::Int(0) | Value::Uint(0) | Value::Optional(None) => true,
            Value::Double(value) => *value == 0.0,
            Value::Text(_)
            | Value::Bytes(_)
            | Value::List(_)
            | Value::Map(Map::Json(..) | Map::Object(..) | Map::Made(_)) => value.size() == 0,
            Value::Duration(span) => span.is_zero(),
            _ => false,
        };
        Ok(if zero {
            Value::Optional(None)
        } else {
            Value::some(value.clone())
        })
    }),
    member("hasValue", &[OPTIONAL], Sort::Bool, |call| {
        Ok(Value::Bool(matches!(call.values[0], Value::Optional(Some(_)))))
    }),
    member("value", &[OPTIONAL], Sort::A, |call| match &call.values[0] {
        Value::Optional(Some(value)) => Ok((**value).clone()),
        Value::Optional(None) => Err(refused("optional.none() dereference")),
        _ => Err(EvaluationError::NoSuchOverload),
    }),
    member("orValue", &[OPTIONAL, Sort::A], Sort::A, |call| match &call.values[0] {
        Value::Optional(Some(value)) => Ok((**value).clone()),
        _ => Ok(call.values[1].clone()),
    }),
    member("or", &[OPTIONAL, OPTIONAL], OPTIONAL, |call| match &call.values[0] {
        Value::Optional(None) => Ok(call.values[1].clone()),
        other => Ok(other.clone()),
    }),
];
