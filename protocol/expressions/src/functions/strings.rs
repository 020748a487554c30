//! Texts: the language's own functions and cel-go's extension. Positions count characters, not bytes.

use super::{Arguments, Function, Outcome, Sort, count, int, member, refused, text, text_cost, time};
use crate::error::EvaluationError;
use crate::value::{Spend, Value};

const TEXTS: Sort = Sort::List(&Sort::Text);

pub(super) static FUNCTIONS: &[Function] = &[
    member("startsWith", &[Sort::Text, Sort::Text], Sort::Bool, |call| {
        (call.spend)(text_cost(call.values[1].size()))?;
        Ok(Value::Bool(text(&call.values[0])?.starts_with(text(&call.values[1])?)))
    }),
    member("endsWith", &[Sort::Text, Sort::Text], Sort::Bool, |call| {
        (call.spend)(text_cost(call.values[1].size()))?;
        Ok(Value::Bool(text(&call.values[0])?.ends_with(text(&call.values[1])?)))
    }),
    member("contains", &[Sort::Text, Sort::Text], Sort::Bool, |call| {
        (call.spend)(text_cost(call.values[0].size()) * text_cost(call.values[1].size()).max(1))?;
        Ok(Value::Bool(text(&call.values[0])?.contains(text(&call.values[1])?)))
    }),
    member("charAt", &[Sort::Text, Sort::Int], Sort::Text, |call| {
        let (given, at) = (text(&call.values[0])?, int(&call.values[1])?);
        (call.spend)(text_cost(given.len()))?;
        let length = given.chars().count();
        match usize::try_from(at) {
            Ok(at) if at == length => Ok(Value::text("")),
            Ok(at) if at < length => Ok(Value::text(given.chars().nth(at).map(String::from).unwrap_or_default())),
            _ => Err(refused(format!("index out of range: {at}"))),
        }
    }),
    member("indexOf", &[Sort::Text, Sort::Text], Sort::Int, |call| {
        find(call, false)
    }),
    member("indexOf", &[Sort::Text, Sort::Text, Sort::Int], Sort::Int, |call| {
        find(call, false)
    }),
    member("lastIndexOf", &[Sort::Text, Sort::Text], Sort::Int, |call| {
        find(call, true)
    }),
    member("lastIndexOf", &[Sort::Text, Sort::Text, Sort::Int], Sort::Int, |call| {
        find(call, true)
    }),
    member("lowerAscii", &[Sort::Text], Sort::Text, |call| {
        made(call, str::to_ascii_lowercase)
    }),
    member("upperAscii", &[Sort::Text], Sort::Text, |call| {
        made(call, str::to_ascii_uppercase)
    }),
    member("trim", &[Sort::Text], Sort::Text, |call| {
        made(call, |text| text.trim().to_owned())
    }),
    member("reverse", &[Sort::Text], Sort::Text, |call| {
        made(call, |text| text.chars().rev().collect())
    }),
    member("substring", &[Sort::Text, Sort::Int], Sort::Text, substring),
    member("substring", &[Sort::Text, Sort::Int, Sort::Int], Sort::Text, substring),
    member("replace", &[Sort::Text, Sort::Text, Sort::Text], Sort::Text, replace),
    member(
        "replace",
        &[Sort::Text, Sort::Text, Sort::Text, Sort::Int],
        Sort::Text,
        replace,
    ),
    member("split", &[Sort::Text, Sort::Text], TEXTS, split),
    member("split", &[Sort::Text, Sort::Text, Sort::Int], TEXTS, split),
    member("join", &[TEXTS], Sort::Text, join),
    member("join", &[TEXTS, Sort::Text], Sort::Text, join),
    member("format", &[Sort::Text, Sort::List(&Sort::Dyn)], Sort::Text, format),
    super::global("strings.quote", &[Sort::Text], Sort::Text, |call| {
        made(call, |text| format!("{text:?}"))
    }),
];

fn made<'a>(call: Arguments<'_, 'a>, make: fn(&str) -> String) -> Outcome<'a> {
    let given = text(&call.values[0])?;
    (call.spend)(text_cost(given.len()))?;
    Ok(Value::text(make(given)))
}

/// The byte at which a character begins; the text's length for the place behind the last.
fn byte_of(text: &str, at: i64) -> Result<usize, EvaluationError> {
    let wanted = usize::try_from(at).map_err(|_| refused(format!("index out of range: {at}")))?;
    let mut places = text.char_indices().map(|(byte, _)| byte).chain([text.len()]);
    places
        .nth(wanted)
        .ok_or_else(|| refused(format!("index out of range: {at}")))
}

fn find<'a>(call: Arguments<'_, 'a>, last: bool) -> Outcome<'a> {
    let (given, part) = (text(&call.values[0])?, text(&call.values[1])?);
    (call.spend)(text_cost(given.len()) * text_cost(part.len()).max(1))?;
    let limit = call.values.get(2).map(|at| byte_of(given, int(at)?)).transpose()?;
    let found = match (last, limit) {
        (false, from) => {
            let from = from.unwrap_or(0);
            given[from..].find(part).map(|at| at + from)
        }
        (true, None) => given.rfind(part),
        // The match may begin at the limit, not behind it.
        (true, Some(limit)) => {
            let mut end = (limit + part.len()).min(given.len());
            while !given.is_char_boundary(end) {
                end += 1;
            }
            given[..end].rfind(part)
        }
    };
    Ok(found.map_or(Value::Int(-1), |byte| count(given[..byte].chars().count())))
}

fn substring<'a>(call: Arguments<'_, 'a>) -> Outcome<'a> {
    let given = text(&call.values[0])?;
    (call.spend)(text_cost(given.len()))?;
    let from = int(&call.values[1])?;
    let start = byte_of(given, from)?;
    let end = match call.values.get(2) {
        Some(to) => byte_of(given, int(to)?)?,
        None => given.len(),
    };
    let part = given.get(start..end);
    part.map(Value::text)
        .ok_or_else(|| refused(format!("invalid substring range. start: {from}, end: before it")))
}

fn replace<'a>(call: Arguments<'_, 'a>) -> Outcome<'a> {
    let (given, from, to) = (text(&call.values[0])?, text(&call.values[1])?, text(&call.values[2])?);
    let limit = match call.values.get(3) {
        Some(limit) => usize::try_from(int(limit)?).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    (call.spend)(text_cost(given.len()) * 2)?;
    // What is made may be far longer than what is given: it is paid for before it is made.
    let times = given.matches(from).take(limit).count();
    (call.spend)(text_cost(times.saturating_mul(to.len())))?;
    Ok(Value::text(given.replacen(from, to, times)))
}

fn split<'a>(call: Arguments<'_, 'a>) -> Outcome<'a> {
    let (given, separator) = (text(&call.values[0])?, text(&call.values[1])?);
    (call.spend)(text_cost(given.len()) * 2)?;
    let limit = call.values.get(2).map(int).transpose()?.filter(|limit| *limit >= 0);
    let parts: Vec<Value<'a>> = match (
        limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        separator,
    ) {
        (Some(0), _) => Vec::new(),
        (limit, "") => {
            let limit = limit.unwrap_or(usize::MAX);
            let cut = given
                .char_indices()
                .nth(limit.saturating_sub(1))
                .map_or(given.len(), |(at, _)| at);
            let mut parts: Vec<Value<'a>> = given[..cut].chars().map(|c| Value::text(c.to_string())).collect();
            if cut < given.len() {
                parts.push(Value::text(&given[cut..]));
            }
            parts
        }
        (Some(limit), separator) => given.splitn(limit, separator).map(Value::text).collect(),
        (None, separator) => given.split(separator).map(Value::text).collect(),
    };
    (call.spend)(parts.len() as u64)?;
    Ok(Value::list(parts))
}

fn join<'a>(call: Arguments<'_, 'a>) -> Outcome<'a> {
    let Value::List(list) = &call.values[0] else {
        return Err(EvaluationError::NoSuchOverload);
    };
    let separator = call.values.get(1).map(text).transpose()?.unwrap_or_default();
    let mut joined = String::new();
    for (index, item) in list.iter().enumerate() {
        let item = text(&item)?.to_owned();
        (call.spend)(1 + text_cost(item.len() + separator.len()))?;
        if index > 0 {
            joined.push_str(separator);
        }
        joined.push_str(&item);
    }
    Ok(Value::text(joined))
}

/// How wide or precise a number of `format` may be asked to be.
const PRECISION_MAX: usize = 1000;

fn format<'a>(call: Arguments<'_, 'a>) -> Outcome<'a> {
    let template = text(&call.values[0])?;
    let Value::List(arguments) = &call.values[1] else {
        return Err(EvaluationError::NoSuchOverload);
    };
    (call.spend)(text_cost(template.len()))?;
    let mut out = String::new();
    let mut rest = template;
    let mut used = 0;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let (precision, after) = match after.strip_prefix('.') {
            Some(after) => {
                let digits = after.bytes().take_while(u8::is_ascii_digit).count();
                let precision = after[..digits]
                    .parse()
                    .ok()
                    .filter(|precision| *precision <= PRECISION_MAX);
                let precision =
                    precision.ok_or_else(|| refused("could not parse formatting clause: invalid precision"))?;
                (Some(precision), &after[digits..])
            }
            None => (None, after),
        };
        let mut clause = after.chars();
        let verb = clause.next().ok_or_else(|| refused("unexpected end of string"))?;
        rest = clause.as_str();
        let value = arguments
            .get(used)
            .ok_or_else(|| refused(format!("index {used} out of range")))?;
        used += 1;
        let made = formatted(verb, precision, &value, call.spend)?;
        (call.spend)(text_cost(made.len()))?;
        out.push_str(&made);
    }
    out.push_str(rest);
    Ok(Value::text(out))
}

fn formatted(
    verb: char,
    precision: Option<usize>,
    value: &Value<'_>,
    spend: &mut Spend<'_>,
) -> Result<String, EvaluationError> {
    let unfit = || {
        refused(format!(
            "error during formatting: %{verb} does not take a value of type {}",
            value.type_name()
        ))
    };
    let signed = |digits: String, negative: bool| if negative { format!("-{digits}") } else { digits };
    Ok(match (verb, value) {
        ('s', value) => shown(value, spend)?,
        ('d', Value::Int(value)) => value.to_string(),
        ('d', Value::Uint(value)) => value.to_string(),
        ('d' | 'f' | 'e', Value::Double(value)) if !value.is_finite() => value.to_string(),
        ('f', Value::Double(value)) => format!("{value:.*}", precision.unwrap_or(6)),
        ('f', Value::Int(value)) => format!("{:.*}", precision.unwrap_or(6), *value as f64),
        ('e', Value::Double(value)) => exponent(*value, precision.unwrap_or(6)),
        ('b', Value::Bool(value)) => u8::from(*value).to_string(),
        ('b', Value::Int(value)) => signed(format!("{:b}", value.unsigned_abs()), *value < 0),
        ('b', Value::Uint(value)) => format!("{value:b}"),
        ('o', Value::Int(value)) => signed(format!("{:o}", value.unsigned_abs()), *value < 0),
        ('o', Value::Uint(value)) => format!("{value:o}"),
        ('x', Value::Int(value)) => signed(format!("{:x}", value.unsigned_abs()), *value < 0),
        ('X', Value::Int(value)) => signed(format!("{:X}", value.unsigned_abs()), *value < 0),
        ('x', Value::Uint(value)) => format!("{value:x}"),
        ('X', Value::Uint(value)) => format!("{value:X}"),
        ('x', Value::Text(value)) => value.as_str().bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('X', Value::Text(value)) => value.as_str().bytes().map(|byte| format!("{byte:02X}")).collect(),
        ('d' | 'f' | 'e' | 'b' | 'o' | 'x' | 'X', _) => return Err(unfit()),
        _ => {
            return Err(refused(format!(
                "could not parse formatting clause: unrecognized formatting clause {verb:?}"
            )));
        }
    })
}

/// A number with an exponent of two digits at least, as C writes it.
fn exponent(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// A value as `%s` shows it.
fn shown(value: &Value<'_>, spend: &mut Spend<'_>) -> Result<String, EvaluationError> {
    spend(1 + text_cost(value.size()))?;
    Ok(match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => value.to_string(),
        Value::Text(text) => text.as_str().to_owned(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Timestamp(instant) => instant.to_string(),
        Value::Duration(span) => time::duration_text(*span),
        Value::Type(name) => name.to_string(),
        Value::List(list) => {
            let mut shown_items = Vec::new();
            for item in list.iter() {
                shown_items.push(shown(&item, spend)?);
            }
            format!("[{}]", shown_items.join(", "))
        }
        Value::Map(map) => {
            let mut members = Vec::new();
            for (key, member) in map.entries() {
                members.push(format!("{key}: {}", shown(&member, spend)?));
            }
            format!("{{{}}}", members.join(", "))
        }
        Value::Optional(Some(value)) => shown(value, spend)?,
        Value::Optional(None) => "optional.none()".to_owned(),
        Value::Opaque(opaque) => opaque.text().ok_or(EvaluationError::NoSuchOverload)?,
    })
}
