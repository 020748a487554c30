//! Kubernetes' list library, and cel-go's.

use std::cmp::Ordering;

use super::{Arguments, Function, Outcome, Sort, count, global, int, member, refused};
use crate::error::EvaluationError;
use crate::node::Operator;
use crate::operators;
use crate::value::{List, Spend, Value};

const LIST: Sort = Sort::List(&Sort::A);

/// The longest list that `lists.range` makes.
const RANGE_MAX: i64 = 100_000;

pub(super) static FUNCTIONS: &[Function] = &[
    member("isSorted", &[LIST], Sort::Bool, |call| {
        let items = items(&call)?;
        for pair in items.windows(2) {
            (call.spend)(1)?;
            if pair[0].order(&pair[1]).ok_or(EvaluationError::NoSuchOverload)? == Ordering::Greater {
                return Ok(Value::Bool(false));
            }
        }
        Ok(Value::Bool(true))
    }),
    member("sum", &[LIST], Sort::A, sum),
    member("min", &[LIST], Sort::A, |call| extreme(call, Ordering::Less)),
    member("max", &[LIST], Sort::A, |call| extreme(call, Ordering::Greater)),
    member("indexOf", &[LIST, Sort::A], Sort::Int, |call| {
        let items = items(&call)?;
        for (at, item) in items.iter().enumerate() {
            if item.same(&call.values[1], call.spend)? {
                return Ok(count(at));
            }
        }
        Ok(Value::Int(-1))
    }),
    member("lastIndexOf", &[LIST, Sort::A], Sort::Int, |call| {
        let items = items(&call)?;
        for (at, item) in items.iter().enumerate().rev() {
            if item.same(&call.values[1], call.spend)? {
                return Ok(count(at));
            }
        }
        Ok(Value::Int(-1))
    }),
    member("slice", &[LIST, Sort::Int, Sort::Int], LIST, |call| {
        let items = items(&call)?;
        let (start, end) = (int(&call.values[1])?, int(&call.values[2])?);
        let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        let slice = range.and_then(|(start, end)| items.get(start..end));
        let slice =
            slice.ok_or_else(|| refused(format!("cannot slice({start}, {end}), list is length {}", items.len())))?;
        (call.spend)(slice.len() as u64)?;
        Ok(Value::list(slice.to_vec()))
    }),
    member("flatten", &[Sort::List(&Sort::List(&Sort::A))], LIST, |call| {
        let mut flat = Vec::new();
        for item in items(&call)? {
            match item {
                Value::List(inner) => {
                    (call.spend)(inner.len() as u64)?;
                    flat.extend(inner.iter());
                }
                other => flat.push(other),
            }
        }
        Ok(Value::list(flat))
    }),
    member("distinct", &[LIST], LIST, |call| {
        let mut kept: Vec<Value<'_>> = Vec::new();
        for item in items(&call)? {
            let mut known = false;
            for other in &kept {
                if other.same(&item, call.spend)? {
                    known = true;
                    break;
                }
            }
            if !known {
                kept.push(item);
            }
        }
        Ok(Value::list(kept))
    }),
    member("sort", &[LIST], LIST, |call| {
        let pairs = items(&call)?.into_iter();
        let pairs = pairs.map(|item| Value::list(vec![item.clone(), item])).collect();
        sort_pairs(pairs, call.spend)
    }),
    member("reverse", &[LIST], LIST, |call| {
        let mut items = items(&call)?;
        items.reverse();
        Ok(Value::list(items))
    }),
    member("first", &[LIST], Sort::Optional(&Sort::A), |call| {
        Ok(items(&call)?
            .into_iter()
            .next()
            .map_or(Value::Optional(None), Value::some))
    }),
    member("last", &[LIST], Sort::Optional(&Sort::A), |call| {
        Ok(items(&call)?.pop().map_or(Value::Optional(None), Value::some))
    }),
    global("lists.range", &[Sort::Int], Sort::List(&Sort::Int), |call| {
        let end = int(&call.values[0])?;
        if end > RANGE_MAX {
            return Err(refused(format!("lists.range: {end} is more than {RANGE_MAX}")));
        }
        (call.spend)(end.unsigned_abs())?;
        Ok(Value::list((0..end).map(Value::Int).collect()))
    }),
];

fn items<'a>(call: &Arguments<'_, 'a>) -> Result<Vec<Value<'a>>, EvaluationError> {
    match &call.values[0] {
        Value::List(list) => Ok(list.iter().collect()),
        _ => Err(EvaluationError::NoSuchOverload),
    }
}

fn sum<'a>(call: Arguments<'_, 'a>) -> Outcome<'a> {
    let mut total: Option<Value<'a>> = None;
    for item in items(&call)? {
        (call.spend)(1)?;
        total = Some(match total {
            None => match item {
                Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::Duration(_) => item,
                _ => return Err(EvaluationError::NoSuchOverload),
            },
            Some(total) => operators::apply(Operator::Add, &total, &item, call.spend)?,
        });
    }
    Ok(total.unwrap_or(Value::Int(0)))
}

fn extreme<'a>(call: Arguments<'_, 'a>, wanted: Ordering) -> Outcome<'a> {
    let mut items = items(&call)?.into_iter();
    let Some(mut best) = items.next() else {
        let name = call.name;
        return Err(refused(format!("{name} called on empty list")));
    };
    for item in items {
        (call.spend)(1)?;
        if item.order(&best).ok_or(EvaluationError::NoSuchOverload)? == wanted {
            best = item;
        }
    }
    Ok(best)
}

/// Pairs of a key and an item, sorted by key; the items.
pub(crate) fn sort_pairs<'a>(pairs: Vec<Value<'a>>, spend: &mut Spend<'_>) -> Outcome<'a> {
    let mut keyed = Vec::with_capacity(pairs.len());
    for pair in pairs {
        if let Value::List(List::Made(pair)) = pair
            && let [key, item] = pair.as_slice()
        {
            keyed.push((key.clone(), item.clone()));
        }
    }
    spend(keyed.len() as u64 * (keyed.len().max(2).ilog2() as u64))?;
    // Keys that do not compare with the first one compare with nothing.
    if let Some((first, _)) = keyed.first()
        && keyed.iter().any(|(key, _)| key.order(first).is_none())
    {
        return Err(EvaluationError::NoSuchOverload);
    }
    keyed.sort_by(|(a, _), (b, _)| a.order(b).unwrap_or(Ordering::Equal));
    Ok(Value::list(keyed.into_iter().map(|(_, item)| item).collect()))
}
