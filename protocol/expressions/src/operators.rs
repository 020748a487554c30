//! Operators: which types they take (for the checker) and what they make (for the evaluation). Arithmetic never wraps.

use std::cmp::Ordering;
use std::sync::Arc;

use jiff::SignedDuration;

use crate::error::EvaluationError;
use crate::node::Operator;
use crate::types::Type;
use crate::value::{Key, Spend, Value};

/// The type of a constant.
pub(crate) fn type_of(value: &Value<'_>) -> Type {
    match value {
        Value::Null => Type::Null,
        Value::Bool(_) => Type::Bool,
        Value::Int(_) => Type::Int,
        Value::Uint(_) => Type::Uint,
        Value::Double(_) => Type::Double,
        Value::Text(_) => Type::Text,
        Value::Bytes(_) => Type::Bytes,
        Value::Timestamp(_) => Type::Timestamp,
        Value::Duration(_) => Type::Duration,
        _ => Type::Dyn,
    }
}

fn is_number(of: &Type) -> bool {
    matches!(of, Type::Int | Type::Uint | Type::Double | Type::Dyn)
}

/// The type of an operator's result; `None` where it does not take these types.
pub(crate) fn result_type(operator: Operator, types: &[Type]) -> Option<Type> {
    use Operator::*;
    let bools = || types.iter().all(|of| Type::Bool.takes(of)).then_some(Type::Bool);
    match (operator, types) {
        (And | Or | Not, _) => bools(),
        (Conditional, [test, yes, no]) => (Type::Bool.takes(test) && yes.takes(no)).then(|| yes.joined(no)),
        (Equal | Unequal, [a, b]) => a.takes(b).then_some(Type::Bool),
        (Less | LessOrEqual | Greater | GreaterOrEqual, [a, b]) => {
            let ordered = |of: &Type| {
                matches!(
                    of,
                    Type::Bool | Type::Text | Type::Bytes | Type::Timestamp | Type::Duration | Type::Dyn
                )
            };
            (is_number(a) && is_number(b) || ordered(a) && a.takes(b)).then_some(Type::Bool)
        }
        (In, [item, range]) => match range {
            Type::Dyn => Some(Type::Bool),
            Type::List(of) => of.takes(item).then_some(Type::Bool),
            Type::Map(key, _) => key.takes(item).then_some(Type::Bool),
            Type::Object(_) => Type::Text.takes(item).then_some(Type::Bool),
            _ => None,
        },
        (Negate, [of]) => matches!(of, Type::Int | Type::Double | Type::Dyn).then(|| of.clone()),
        (Add, [a, b]) => add_type(a, b),
        (Subtract, [Type::Timestamp, Type::Timestamp]) => Some(Type::Duration),
        (Subtract, [a @ (Type::Timestamp | Type::Duration), Type::Duration]) => Some(a.clone()),
        (Subtract | Multiply | Divide, [a, b]) => same_number(a, b),
        (Modulo, [a, b]) if !matches!((a, b), (Type::Double, _) | (_, Type::Double)) => same_number(a, b),
        _ => None,
    }
}

fn add_type(a: &Type, b: &Type) -> Option<Type> {
    match (a, b) {
        (Type::Text, Type::Text) | (Type::Bytes, Type::Bytes) | (Type::Duration, Type::Duration) => Some(a.clone()),
        (Type::Timestamp, Type::Duration) | (Type::Duration, Type::Timestamp) => Some(Type::Timestamp),
        (Type::List(_), Type::List(_)) if a.takes(b) => Some(a.joined(b)),
        (Type::Dyn, _) | (_, Type::Dyn) => Some(Type::Dyn),
        _ => same_number(a, b),
    }
}

fn same_number(a: &Type, b: &Type) -> Option<Type> {
    match (a, b) {
        (Type::Dyn, Type::Dyn) => Some(Type::Dyn),
        (Type::Dyn, of) | (of, Type::Dyn) => Some(if is_number(of) { of.clone() } else { Type::Dyn }),
        (a, b) if a == b && is_number(a) => Some(a.clone()),
        _ => None,
    }
}

/// An operator of two values. What decides without looking at both (`&&`, `||`, `?:`) is the evaluation's business.
pub(crate) fn apply<'a>(
    operator: Operator,
    a: &Value<'a>,
    b: &Value<'a>,
    spend: &mut Spend<'_>,
) -> Result<Value<'a>, EvaluationError> {
    use Operator::*;
    let ordered = |test: fn(Ordering) -> bool, spend: &mut Spend<'_>| {
        spend(a.size().min(b.size()) as u64 / 10)?;
        a.order(b)
            .map(|order| Value::Bool(test(order)))
            .ok_or(EvaluationError::NoSuchOverload)
    };
    match operator {
        Equal => a.same(b, spend).map(Value::Bool),
        Unequal => a.same(b, spend).map(|same| Value::Bool(!same)),
        Less => ordered(Ordering::is_lt, spend),
        LessOrEqual => ordered(Ordering::is_le, spend),
        Greater => ordered(Ordering::is_gt, spend),
        GreaterOrEqual => ordered(Ordering::is_ge, spend),
        In => is_in(a, b, spend).map(Value::Bool),
        Add => add(a, b, spend),
        Subtract | Multiply | Divide | Modulo => arithmetic(operator, a, b),
        And | Or | Not | Conditional | Negate => Err(EvaluationError::NoSuchOverload),
    }
}

/// `-a`.
pub(crate) fn negate<'a>(a: &Value<'a>) -> Result<Value<'a>, EvaluationError> {
    match a {
        Value::Int(value) => value
            .checked_neg()
            .map(Value::Int)
            .ok_or(EvaluationError::Overflow("integer")),
        Value::Double(value) => Ok(Value::Double(-value)),
        _ => Err(EvaluationError::NoSuchOverload),
    }
}

fn is_in(item: &Value<'_>, range: &Value<'_>, spend: &mut Spend<'_>) -> Result<bool, EvaluationError> {
    match range {
        Value::List(list) => {
            for other in list.iter() {
                if item.same(&other, spend)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Map(map) => Ok(item.key().is_some_and(|key: Key| map.get(&key).is_some())),
        _ => Err(EvaluationError::NoSuchOverload),
    }
}

fn add<'a>(a: &Value<'a>, b: &Value<'a>, spend: &mut Spend<'_>) -> Result<Value<'a>, EvaluationError> {
    let instant_overflow = EvaluationError::Overflow("timestamp");
    match (a, b) {
        (Value::Text(x), Value::Text(y)) => {
            let (x, y) = (x.as_str(), y.as_str());
            spend((x.len() + y.len()) as u64 / 10)?;
            Ok(Value::text([x, y].concat()))
        }
        (Value::Bytes(x), Value::Bytes(y)) => {
            spend((x.len() + y.len()) as u64 / 10)?;
            Ok(Value::Bytes([&x[..], &y[..]].concat().into()))
        }
        (Value::List(x), Value::List(y)) => {
            spend((x.len() + y.len()) as u64)?;
            Ok(Value::list(x.iter().chain(y.iter()).collect()))
        }
        (Value::Timestamp(instant), Value::Duration(span)) | (Value::Duration(span), Value::Timestamp(instant)) => {
            instant
                .checked_add(*span)
                .map(Value::Timestamp)
                .map_err(|_| instant_overflow)
        }
        (Value::Duration(x), Value::Duration(y)) => duration(x.checked_add(*y)),
        _ => arithmetic(Operator::Add, a, b),
    }
}

fn duration<'a>(span: Option<SignedDuration>) -> Result<Value<'a>, EvaluationError> {
    span.map(Value::Duration).ok_or(EvaluationError::Overflow("duration"))
}

fn arithmetic<'a>(operator: Operator, a: &Value<'a>, b: &Value<'a>) -> Result<Value<'a>, EvaluationError> {
    use Operator::*;
    match (a, b) {
        (Value::Int(x), Value::Int(y)) => {
            let result = match operator {
                Add => x.checked_add(*y),
                Subtract => x.checked_sub(*y),
                Multiply => x.checked_mul(*y),
                Divide if *y == 0 => return Err(EvaluationError::DivisionByZero),
                Divide => x.checked_div(*y),
                _ if *y == 0 => return Err(EvaluationError::ModulusByZero),
                _ => x.checked_rem(*y),
            };
            result.map(Value::Int).ok_or(EvaluationError::Overflow("integer"))
        }
        (Value::Uint(x), Value::Uint(y)) => {
            let result = match operator {
                Add => x.checked_add(*y),
                Subtract => x.checked_sub(*y),
                Multiply => x.checked_mul(*y),
                Divide if *y == 0 => return Err(EvaluationError::DivisionByZero),
                Divide => x.checked_div(*y),
                _ if *y == 0 => return Err(EvaluationError::ModulusByZero),
                _ => x.checked_rem(*y),
            };
            result
                .map(Value::Uint)
                .ok_or(EvaluationError::Overflow("unsigned integer"))
        }
        (Value::Double(x), Value::Double(y)) => Ok(Value::Double(match operator {
            Add => x + y,
            Subtract => x - y,
            Multiply => x * y,
            Divide => x / y,
            _ => return Err(EvaluationError::NoSuchOverload),
        })),
        (Value::Timestamp(x), Value::Timestamp(y)) if operator == Subtract => Ok(Value::Duration(x.duration_since(*y))),
        (Value::Timestamp(x), Value::Duration(y)) if operator == Subtract => x
            .checked_sub(*y)
            .map(Value::Timestamp)
            .map_err(|_| EvaluationError::Overflow("timestamp")),
        (Value::Duration(x), Value::Duration(y)) if operator == Subtract => duration(x.checked_sub(*y)),
        _ => Err(EvaluationError::NoSuchOverload),
    }
}

/// A type's name as a value.
pub(crate) fn type_value<'a>(name: &str) -> Value<'a> {
    Value::Type(Arc::from(name))
}
