//! Conversions between types, `type` and `dyn`.

use base64::Engine;

use super::{Arguments, Function, Outcome, Sort, global, refused, text, text_cost, time};
use crate::error::EvaluationError;
use crate::operators;
use crate::value::Value;

pub(super) static FUNCTIONS: &[Function] = &[
    global("int", &[Sort::Int], Sort::Int, same),
    global("int", &[Sort::Uint], Sort::Int, to_int),
    global("int", &[Sort::Double], Sort::Int, to_int),
    global("int", &[Sort::Text], Sort::Int, to_int),
    global("int", &[Sort::Timestamp], Sort::Int, to_int),
    global("int", &[Sort::Duration], Sort::Int, to_int),
    global("uint", &[Sort::Uint], Sort::Uint, same),
    global("uint", &[Sort::Int], Sort::Uint, to_uint),
    global("uint", &[Sort::Double], Sort::Uint, to_uint),
    global("uint", &[Sort::Text], Sort::Uint, to_uint),
    global("double", &[Sort::Double], Sort::Double, same),
    global("double", &[Sort::Int], Sort::Double, to_double),
    global("double", &[Sort::Uint], Sort::Double, to_double),
    global("double", &[Sort::Text], Sort::Double, to_double),
    global("bool", &[Sort::Bool], Sort::Bool, same),
    global("bool", &[Sort::Text], Sort::Bool, to_bool),
    global("string", &[Sort::Dyn], Sort::Text, to_text),
    global("bytes", &[Sort::Bytes], Sort::Bytes, same),
    global("bytes", &[Sort::Text], Sort::Bytes, |call| {
        (call.spend)(text_cost(call.values[0].size()))?;
        Ok(Value::Bytes(text(&call.values[0])?.as_bytes().into()))
    }),
    global("timestamp", &[Sort::Timestamp], Sort::Timestamp, same),
    global("timestamp", &[Sort::Text], Sort::Timestamp, |call| {
        let given = text(&call.values[0])?;
        time::read_instant(given).map(Value::Timestamp).ok_or_else(|| {
            refused(format!(
                "type conversion error from 'string' to 'google.protobuf.Timestamp': {given:?}"
            ))
        })
    }),
    global("timestamp", &[Sort::Int], Sort::Timestamp, |call| {
        let seconds = super::int(&call.values[0])?;
        let instant = jiff::Timestamp::from_second(seconds);
        instant
            .map(Value::Timestamp)
            .map_err(|_| EvaluationError::Overflow("timestamp"))
    }),
    global("duration", &[Sort::Duration], Sort::Duration, same),
    global("duration", &[Sort::Text], Sort::Duration, |call| {
        let given = text(&call.values[0])?;
        time::read_duration(given).map(Value::Duration).ok_or_else(|| {
            refused(format!(
                "type conversion error from 'string' to 'google.protobuf.Duration': {given:?}"
            ))
        })
    }),
    global("dyn", &[Sort::A], Sort::Dyn, same),
    global("type", &[Sort::Dyn], Sort::Type, |call| {
        Ok(operators::type_value(call.values[0].type_name()))
    }),
    global("base64.encode", &[Sort::Bytes], Sort::Text, |call| {
        match &call.values[0] {
            Value::Bytes(bytes) => {
                (call.spend)(text_cost(bytes.len()))?;
                Ok(Value::text(base64::engine::general_purpose::STANDARD.encode(bytes)))
            }
            _ => Err(EvaluationError::NoSuchOverload),
        }
    }),
    global("base64.decode", &[Sort::Text], Sort::Bytes, |call| {
        let given = text(&call.values[0])?;
        (call.spend)(text_cost(given.len()))?;
        let decoded = base64::engine::general_purpose::STANDARD.decode(given);
        decoded
            .map(|bytes| Value::Bytes(bytes.into()))
            .map_err(|error| refused(error.to_string()))
    }),
];

fn same<'a>(call: Arguments<'_, 'a>) -> Outcome<'a> {
    Ok(call.values[0].clone())
}

fn to_int<'a>(call: Arguments<'_, 'a>) -> Outcome<'a> {
    let overflow = EvaluationError::Overflow("integer");
    match &call.values[0] {
        Value::Uint(value) => i64::try_from(*value).map(Value::Int).map_err(|_| overflow),
        // The bounds themselves are no whole numbers that a double holds exactly.
        Value::Double(value) if *value > -9.223_372_036_854_775e18 && *value < 9.223_372_036_854_775e18 => {
            Ok(Value::Int(*value as i64))
        }
        Value::Double(_) => Err(overflow),
        Value::Text(given) => {
            let parsed = given.as_str().parse().map(Value::Int);
            parsed.map_err(|_| {
                refused(format!(
                    "type conversion error from 'string' to 'int': {:?}",
                    given.as_str()
                ))
            })
        }
        Value::Timestamp(instant) => Ok(Value::Int(instant.as_second())),
        Value::Duration(span) => i64::try_from(span.as_nanos()).map(Value::Int).map_err(|_| overflow),
        _ => Err(EvaluationError::NoSuchOverload),
    }
}

fn to_uint<'a>(call: Arguments<'_, 'a>) -> Outcome<'a> {
    let overflow = EvaluationError::Overflow("unsigned integer");
    match &call.values[0] {
        Value::Int(value) => u64::try_from(*value).map(Value::Uint).map_err(|_| overflow),
        Value::Double(value) if *value >= 0.0 && *value < 1.844_674_407_370_955e19 => Ok(Value::Uint(*value as u64)),
        Value::Double(_) => Err(overflow),
        Value::Text(given) => {
            let parsed = given.as_str().parse().map(Value::Uint);
            parsed.map_err(|_| {
                refused(format!(
                    "type conversion error from 'string' to 'uint': {:?}",
                    given.as_str()
                ))
            })
        }
        _ => Err(EvaluationError::NoSuchOverload),
    }
}

fn to_double<'a>(call: Arguments<'_, 'a>) -> Outcome<'a> {
    match &call.values[0] {
        Value::Int(value) => Ok(Value::Double(*value as f64)),
        Value::Uint(value) => Ok(Value::Double(*value as f64)),
        Value::Text(given) => {
            let parsed = given.as_str().parse().map(Value::Double);
            parsed.map_err(|_| {
                refused(format!(
                    "type conversion error from 'string' to 'double': {:?}",
                    given.as_str()
                ))
            })
        }
        _ => Err(EvaluationError::NoSuchOverload),
    }
}

fn to_bool<'a>(call: Arguments<'_, 'a>) -> Outcome<'a> {
    match text(&call.values[0])? {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
        other => Err(refused(format!(
            "type conversion error from 'string' to 'bool': {other:?}"
        ))),
    }
}

fn to_text<'a>(call: Arguments<'_, 'a>) -> Outcome<'a> {
    let value = &call.values[0];
    (call.spend)(text_cost(value.size()))?;
    Ok(Value::text(match value {
        Value::Text(_) => return Ok(value.clone()),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => value.to_string(),
        Value::Timestamp(instant) => instant.to_string(),
        Value::Duration(span) => time::duration_text(*span),
        Value::Bytes(bytes) => {
            let decoded = std::str::from_utf8(bytes);
            decoded
                .map_err(|_| refused("invalid UTF-8 in bytes, cannot convert to string"))?
                .to_owned()
        }
        Value::Opaque(opaque) => opaque.text().ok_or(EvaluationError::NoSuchOverload)?,
        _ => return Err(EvaluationError::NoSuchOverload),
    }))
}
