//! Quantities of resources: `quantity("1.5Gi")`.

use protocol::quantity::Quantity;

use super::opaque::{Opaque, QUANTITY};
use super::{Function, Outcome, Sort, global, member, refused, text, text_cost};
use crate::error::EvaluationError;
use crate::value::Value;

const OF: Sort = Sort::Opaque(QUANTITY);

pub(super) static FUNCTIONS: &[Function] = &[
    global("quantity", &[Sort::Text], OF, |call| {
        let given = text(&call.values[0])?;
        (call.spend)(text_cost(given.len()))?;
        let parsed = Quantity::parse(given);
        parsed.map(made).map_err(|error| refused(error.to_string()))
    }),
    global("isQuantity", &[Sort::Text], Sort::Bool, |call| {
        let given = text(&call.values[0])?;
        (call.spend)(text_cost(given.len()))?;
        Ok(Value::Bool(Quantity::parse(given).is_ok()))
    }),
    member("sign", &[OF], Sort::Int, |call| {
        let zero = Quantity::from_units(0);
        Ok(Value::Int(of(&call.values[0])?.cmp(&zero) as i64))
    }),
    member("isInteger", &[OF], Sort::Bool, |call| {
        Ok(Value::Bool(whole(of(&call.values[0])?).is_some()))
    }),
    member("asInteger", &[OF], Sort::Int, |call| {
        let whole = whole(of(&call.values[0])?);
        whole
            .map(Value::Int)
            .ok_or_else(|| refused("cannot convert value to integer"))
    }),
    member("asApproximateFloat", &[OF], Sort::Double, |call| {
        let quantity = of(&call.values[0])?;
        let whole = if quantity.units().unsigned_abs() < 1 << 53 {
            quantity.milli() as f64 / 1000.0
        } else {
            quantity.units() as f64
        };
        Ok(Value::Double(whole))
    }),
    member("add", &[OF, OF], OF, |call| {
        Ok(made(of(&call.values[0])?.plus(of(&call.values[1])?)))
    }),
    member("add", &[OF, Sort::Int], OF, |call| {
        let units = Quantity::from_units(super::int(&call.values[1])?);
        Ok(made(of(&call.values[0])?.plus(units)))
    }),
    member("sub", &[OF, OF], OF, |call| {
        Ok(made(of(&call.values[0])?.minus(of(&call.values[1])?)))
    }),
    member("sub", &[OF, Sort::Int], OF, |call| {
        let units = Quantity::from_units(super::int(&call.values[1])?);
        Ok(made(of(&call.values[0])?.minus(units)))
    }),
    member("isLessThan", &[OF, OF], Sort::Bool, |call| {
        Ok(Value::Bool(of(&call.values[0])? < of(&call.values[1])?))
    }),
    member("isGreaterThan", &[OF, OF], Sort::Bool, |call| {
        Ok(Value::Bool(of(&call.values[0])? > of(&call.values[1])?))
    }),
    member("compareTo", &[OF, OF], Sort::Int, compare),
];

fn compare<'a>(call: super::Arguments<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Int(of(&call.values[0])?.cmp(&of(&call.values[1])?) as i64))
}

fn made<'a>(quantity: Quantity) -> Value<'a> {
    Value::Opaque(Opaque::Quantity(quantity))
}

fn of(value: &Value<'_>) -> Result<Quantity, EvaluationError> {
    match value {
        Value::Opaque(Opaque::Quantity(quantity)) => Ok(*quantity),
        _ => Err(EvaluationError::NoSuchOverload),
    }
}

fn whole(quantity: Quantity) -> Option<i64> {
    let units = quantity.units();
    (Quantity::from_units(units) == quantity).then_some(units)
}
