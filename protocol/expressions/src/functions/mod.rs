//! The functions of expressions: one table, read by the checker (which types) and by the evaluation (what to run). A function
//! with several forms has several rows. New ones are a row in the file of their library.

pub(crate) mod access;
mod collections;
mod conversions;
mod format;
pub(crate) mod lists;
mod network;
pub(crate) mod opaque;
mod optional;
mod quantity;
pub(crate) mod regex;
mod semver;
mod strings;
pub(crate) mod time;
mod url;

pub use access::{AccessQuestion, AccessReview, Authorizer};

use ::regex::Regex;

use crate::error::EvaluationError;
use crate::value::{Spend, Value};

/// A type of a function's argument or result, as a constant.
#[derive(Debug)]
pub(crate) enum Sort {
    Dyn,
    /// Any type, but the same wherever it stands in a row.
    A,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    Timestamp,
    Duration,
    Type,
    Map,
    Opaque(&'static str),
    List(&'static Sort),
    Optional(&'static Sort),
}

impl Sort {
    /// Whether a value is of this type; of lists and optional values the outside alone is looked at.
    pub(crate) fn takes(&self, value: &Value<'_>) -> bool {
        match (self, value) {
            (Sort::Dyn | Sort::A, _) => true,
            (Sort::Bool, Value::Bool(_))
            | (Sort::Int, Value::Int(_))
            | (Sort::Uint, Value::Uint(_))
            | (Sort::Double, Value::Double(_))
            | (Sort::Text, Value::Text(_))
            | (Sort::Bytes, Value::Bytes(_))
            | (Sort::Timestamp, Value::Timestamp(_))
            | (Sort::Duration, Value::Duration(_))
            | (Sort::Type, Value::Type(_))
            | (Sort::Map, Value::Map(_))
            | (Sort::List(_), Value::List(_))
            | (Sort::Optional(_), Value::Optional(_)) => true,
            (Sort::Opaque(name), Value::Opaque(opaque)) => *name == opaque.type_name(),
            _ => false,
        }
    }
}

/// What a function is called with.
pub(crate) struct Arguments<'c, 'a> {
    pub name: &'c str,
    pub values: &'c [Value<'a>],
    /// The regular expression, where it was a constant.
    pub pattern: Option<&'c Regex>,
    pub formats: &'static [NamedFormat],
    pub spend: &'c mut Spend<'c>,
}

/// What a function comes to.
pub(crate) type Outcome<'a> = Result<Value<'a>, EvaluationError>;

/// One form of a function.
pub(crate) struct Function {
    pub name: &'static str,
    /// Whether its first argument stands before the name.
    pub is_member: bool,
    pub arguments: &'static [Sort],
    pub result: Sort,
    pub run: for<'c, 'a> fn(Arguments<'c, 'a>) -> Outcome<'a>,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{:?}", self.name, self.arguments)
    }
}

/// A format of names, for `format.named(...)`.
#[derive(Debug)]
pub struct NamedFormat {
    /// `dns1123Label`.
    pub name: &'static str,
    /// What is wrong with a text.
    pub problems: fn(&str) -> Vec<String>,
}

pub(crate) const fn global(
    name: &'static str,
    arguments: &'static [Sort],
    result: Sort,
    run: for<'c, 'a> fn(Arguments<'c, 'a>) -> Outcome<'a>,
) -> Function {
    Function {
        name,
        is_member: false,
        arguments,
        result,
        run,
    }
}

pub(crate) const fn member(
    name: &'static str,
    arguments: &'static [Sort],
    result: Sort,
    run: for<'c, 'a> fn(Arguments<'c, 'a>) -> Outcome<'a>,
) -> Function {
    Function {
        name,
        is_member: true,
        arguments,
        result,
        run,
    }
}

static LIBRARIES: [&[Function]; 13] = [
    conversions::FUNCTIONS,
    collections::FUNCTIONS,
    strings::FUNCTIONS,
    lists::FUNCTIONS,
    regex::FUNCTIONS,
    time::FUNCTIONS,
    optional::FUNCTIONS,
    quantity::FUNCTIONS,
    url::FUNCTIONS,
    network::FUNCTIONS,
    format::FUNCTIONS,
    semver::FUNCTIONS,
    access::FUNCTIONS,
];

fn all() -> impl Iterator<Item = &'static Function> {
    LIBRARIES.iter().flat_map(|library| library.iter())
}

/// The forms of a function with this many arguments.
pub(crate) fn forms(name: &str, is_member: bool, arguments: usize) -> Vec<&'static Function> {
    // `format.dns1123Label()` is `format.named("dns1123Label")`; which formats there are is the environment's.
    let name = match name.strip_prefix("format.") {
        Some("named") | None => name,
        Some(_) => format::BY_NAME,
    };
    let fits =
        |row: &&'static Function| row.name == name && row.is_member == is_member && row.arguments.len() == arguments;
    all().filter(fits).collect()
}

/// Whether a function of this name exists in any form.
pub(crate) fn is_known(name: &str) -> bool {
    name.starts_with("format.") || all().any(|row| row.name == name)
}

/// Whether a name with a dot is a function's.
pub(crate) fn is_qualified(name: &str) -> bool {
    name.starts_with("format.") || all().any(|row| !row.is_member && row.name == name)
}

/// Which argument of a function is a regular expression.
pub(crate) fn pattern_argument(name: &str) -> Option<usize> {
    matches!(name, "matches" | "find" | "findAll").then_some(1)
}

/// A text argument.
pub(crate) fn text<'v>(value: &'v Value<'_>) -> Result<&'v str, EvaluationError> {
    value.as_text().ok_or(EvaluationError::NoSuchOverload)
}

/// A whole number argument.
pub(crate) fn int(value: &Value<'_>) -> Result<i64, EvaluationError> {
    match value {
        Value::Int(value) => Ok(*value),
        _ => Err(EvaluationError::NoSuchOverload),
    }
}

/// A number as a value; sizes always fit.
pub(crate) fn count<'a>(number: usize) -> Value<'a> {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

/// What looking through a text of this length costs.
pub(crate) fn text_cost(length: usize) -> u64 {
    (length as u64).div_ceil(10)
}

/// A refusal with this text.
pub(crate) fn refused(text: impl Into<String>) -> EvaluationError {
    EvaluationError::Refused(text.into())
}
