//! Owns CEL selectors of devices: compiled once, evaluated once for each device. Called by `Devices`. It must give Kubernetes'
//! meaning to what it evaluates and an error to what it cannot.
//!
//! `device.driver`, `device.attributes["domain"].name` and `device.capacity["domain"].name` are as in Kubernetes; quantities and
//! versions compare with `==`, `compareTo`, `isLessThan` and `isGreaterThan`. Differs from Kubernetes: expressions are not
//! type-checked beforehand, so a wrong type is an error at evaluation; other functions of Kubernetes' quantity and semver
//! libraries are unknown, and an expression that calls one is refused.

use super::{Attribute, Device, DeviceName};
use crate::intern::Symbols;
use crate::quantity;
use cel::extractors::This;
use cel::{Context, ExecutionError, Program, Value};
use rustc_hash::FxHashMap;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

/// A selector's place.
pub(super) type ExpressionId = usize;

/// What an expression sees of a device.
pub(super) struct Input {
    driver: String,
    attributes: HashMap<String, HashMap<String, Value>>,
    capacity: HashMap<String, HashMap<String, Value>>,
}

/// All selectors in use, with their answers by device.
#[derive(Default)]
pub(super) struct Expressions {
    ids: FxHashMap<String, ExpressionId>,
    all: Vec<Expression>,
}

struct Expression {
    /// The text, or why it does not compile.
    compiled: Result<Program, String>,
    /// Domains that the expression names: Kubernetes has an empty map for those that a device lacks.
    domains: Vec<String>,
    answers: Vec<Result<bool, String>>,
}

impl std::fmt::Debug for Expressions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(&self.ids).finish()
    }
}

impl Expressions {
    /// The place of a selector that is held.
    pub(super) fn id(&self, text: &str) -> Option<ExpressionId> {
        self.ids.get(text).copied()
    }

    /// Compiles a selector and evaluates it for all devices, unless that was done.
    pub(super) fn hold<I: Iterator<Item = Input>>(&mut self, text: &str, devices: impl FnOnce() -> I) {
        if self.ids.contains_key(text) {
            return;
        }
        let mut expression = Expression {
            compiled: Program::compile(text).map_err(|error| error.to_string()),
            domains: literals(text),
            answers: Vec::new(),
        };
        expression.answers = devices().map(|input| expression.evaluate(&input)).collect();
        self.ids.insert(text.to_owned(), self.all.len());
        self.all.push(expression);
    }

    /// Why a selector cannot be used at all.
    pub(super) fn error(&self, text: &str) -> Option<&str> {
        let expression = &self.all[self.id(text)?];
        expression.compiled.as_ref().err().map(String::as_str)
    }

    /// Whether a selector selects a device; the error is that of the evaluation.
    pub(super) fn matches(&self, id: ExpressionId, device: usize) -> Result<bool, String> {
        self.all[id].answers[device].clone()
    }

    /// The devices are numbered anew: for each, its former number if it is the same as before.
    pub(super) fn renumber(&mut self, kept: &[Option<usize>], input: impl Fn(usize) -> Input) {
        for expression in &mut self.all {
            let answer = |(at, old): (usize, &Option<usize>)| match old {
                Some(old) => expression.answers[*old].clone(),
                None => expression.evaluate(&input(at)),
            };
            expression.answers = kept.iter().enumerate().map(answer).collect();
        }
    }
}

impl Expression {
    fn evaluate(&self, input: &Input) -> Result<bool, String> {
        let program = self.compiled.as_ref().map_err(Clone::clone)?;
        let with_domains = |maps: &HashMap<String, HashMap<String, Value>>| {
            let mut maps: HashMap<String, Value> = maps.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
            for domain in &self.domains {
                maps.entry(domain.clone())
                    .or_insert_with(|| HashMap::<String, Value>::new().into());
            }
            Value::from(maps)
        };
        let device: HashMap<String, Value> = HashMap::from([
            ("driver".to_owned(), Value::from(input.driver.clone())),
            ("attributes".to_owned(), with_domains(&input.attributes)),
            ("capacity".to_owned(), with_domains(&input.capacity)),
        ]);
        let mut context = Context::default();
        context.add_variable_from_value("device", device);
        let functions = context
            .add_function("quantity", quantity_of)
            .and_then(|()| context.add_function("semver", semver_of))
            .and_then(|()| context.add_function("compareTo", compare_to))
            .and_then(|()| context.add_function("isLessThan", is_less_than))
            .and_then(|()| context.add_function("isGreaterThan", is_greater_than));
        functions.map_err(|error| error.to_string())?;
        match program.execute(&context) {
            Ok(Value::Bool(answer)) => Ok(answer),
            Ok(other) => Err(format!("it gives {other:?} rather than true or false")),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The texts between quotes.
fn literals(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(['"', '\'']) {
        let quote = &rest[start..=start];
        let Some(length) = rest[start + 1..].find(quote) else {
            break;
        };
        found.push(rest[start + 1..start + 1 + length].to_owned());
        rest = &rest[start + length + 2..];
    }
    found
}

/// What expressions see of a device. Names without a domain belong to the driver's.
pub(super) fn input(symbols: &Symbols, name: DeviceName, device: &Device) -> Input {
    let mut attributes: HashMap<String, HashMap<String, Value>> = HashMap::new();
    for (qualified, value) in &device.attributes {
        let (domain, identifier) = qualified.split_once('/').unwrap_or(("", qualified));
        let value = match value {
            Attribute::Bool(value) => Value::Bool(*value),
            Attribute::Int(value) => Value::Int(*value),
            Attribute::Text(value) => Value::from(value.as_str()),
            Attribute::Version(value) => version_value(value),
        };
        attributes
            .entry(domain.to_owned())
            .or_default()
            .insert(identifier.to_owned(), value);
    }
    let mut capacity: HashMap<String, HashMap<String, Value>> = HashMap::new();
    for (qualified, milli) in &device.capacity {
        let (domain, identifier) = qualified.split_once('/').unwrap_or(("", qualified));
        let of_domain = capacity.entry(domain.to_owned()).or_default();
        of_domain.insert(identifier.to_owned(), quantity_value(*milli));
    }
    Input {
        driver: symbols.text(name.driver).to_string(),
        attributes,
        capacity,
    }
}

// A quantity and a version are texts that no attribute can be, so that equal amounts are equal texts.
const QUANTITY: &str = "quantity\u{0}";
const VERSION: &str = "version\u{0}";

fn quantity_value(milli: i64) -> Value {
    Value::from(format!("{QUANTITY}{milli}"))
}

fn version_value(text: &str) -> Value {
    Value::from(format!("{VERSION}{text}"))
}

fn failed(function: &str, message: String) -> ExecutionError {
    ExecutionError::FunctionError {
        function: function.to_owned(),
        message,
    }
}

fn quantity_of(text: Arc<String>) -> Result<Value, ExecutionError> {
    let milli = quantity::milli(&text).ok_or_else(|| failed("quantity", format!("{text:?} is not a quantity")))?;
    Ok(quantity_value(milli))
}

fn semver_of(text: Arc<String>) -> Result<Value, ExecutionError> {
    match parse_version(&text) {
        Some(_) => Ok(version_value(&text)),
        None => Err(failed("semver", format!("{text:?} is not a semantic version"))),
    }
}

fn compare_to(This(this): This<Arc<String>>, other: Arc<String>) -> Result<Value, ExecutionError> {
    Ok(Value::Int(compare(&this, &other)? as i64))
}

fn is_less_than(This(this): This<Arc<String>>, other: Arc<String>) -> Result<Value, ExecutionError> {
    Ok(Value::Bool(compare(&this, &other)?.is_lt()))
}

fn is_greater_than(This(this): This<Arc<String>>, other: Arc<String>) -> Result<Value, ExecutionError> {
    Ok(Value::Bool(compare(&this, &other)?.is_gt()))
}

fn compare(this: &str, other: &str) -> Result<Ordering, ExecutionError> {
    let milli = |text: &str| text.strip_prefix(QUANTITY).and_then(|milli| milli.parse::<i64>().ok());
    let version = |text: &str| text.strip_prefix(VERSION).and_then(parse_version);
    if let (Some(a), Some(b)) = (milli(this), milli(other)) {
        return Ok(a.cmp(&b));
    }
    if let (Some(a), Some(b)) = (version(this), version(other)) {
        return Ok(a.cmp(&b));
    }
    Err(failed(
        "compareTo",
        "only two quantities, or two versions, can be compared".to_owned(),
    ))
}

/// A semantic version in the order of semver.org, without build metadata.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    numbers: [u64; 3],
    /// A release goes after its pre-releases.
    is_release: bool,
    pre_release: Vec<Identifier>,
}

/// Numbers go before texts.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    Number(u64),
    Text(String),
}

fn parse_version(text: &str) -> Option<Version> {
    let text = text.split('+').next()?;
    let (core, pre_release) = match text.split_once('-') {
        Some((core, pre_release)) => (core, Some(pre_release)),
        None => (text, None),
    };
    let numbers: Vec<u64> = core.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let identifiers = pre_release.into_iter().flat_map(|text| text.split('.'));
    let identifiers = identifiers.map(|part| match part.parse() {
        Ok(number) => Identifier::Number(number),
        Err(_) => Identifier::Text(part.to_owned()),
    });
    Some(Version {
        numbers: numbers.try_into().ok()?,
        is_release: pre_release.is_none(),
        pre_release: identifiers.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(expression: &str) -> Result<bool, String> {
        let of = |value: Value, name: &str| {
            HashMap::from([("gpu.example.com".to_owned(), HashMap::from([(name.to_owned(), value)]))])
        };
        let mut attributes = of(Value::from("GPU"), "family");
        let own = attributes.get_mut("gpu.example.com").expect("just made");
        own.insert("index".to_owned(), Value::Int(3));
        own.insert("ecc".to_owned(), Value::Bool(true));
        own.insert("driver".to_owned(), version_value("1.10.0"));
        let input = Input {
            driver: "gpu.example.com".to_owned(),
            attributes,
            capacity: of(quantity_value(1024 * 1024 * 1024 * 1000), "memory"),
        };
        let mut expressions = Expressions::default();
        expressions.hold(expression, || std::iter::once(input));
        expressions.matches(0, 0)
    }

    #[test]
    fn selectors_see_driver_attributes_and_capacity() {
        for (expression, want) in [
            ("device.driver == 'gpu.example.com'", true),
            ("device.driver == \"other\"", false),
            ("device.attributes['gpu.example.com'].family == 'GPU'", true),
            (
                "device.attributes[\"gpu.example.com\"].index > 2 && device.attributes[\"gpu.example.com\"].ecc",
                true,
            ),
            (
                "device.capacity['gpu.example.com'].memory.compareTo(quantity('1Gi')) == 0",
                true,
            ),
            ("device.capacity['gpu.example.com'].memory == quantity('1024Mi')", true),
            (
                "device.capacity['gpu.example.com'].memory.isGreaterThan(quantity('1G'))",
                true,
            ),
            (
                "device.attributes['gpu.example.com'].driver.isGreaterThan(semver('1.9.0'))",
                true,
            ),
            (
                "device.attributes['gpu.example.com'].driver.isLessThan(semver('1.10.0-rc.1'))",
                false,
            ),
            ("'family' in device.attributes['gpu.example.com']", true),
            ("'family' in device.attributes['other.example.com']", false),
            ("device.attributes['gpu.example.com'].family.startsWith('G')", true),
        ] {
            assert_eq!(answer(expression), Ok(want), "{expression}");
        }
    }

    #[test]
    fn what_cannot_be_evaluated_is_an_error() {
        for expression in [
            "device.driver",
            "device.attributes['gpu.example.com'].absent == 1",
            "device.capacity['gpu.example.com'].memory.asInteger() == 1",
            "device.driver ==",
            "quantity('many') == quantity('1')",
        ] {
            assert!(answer(expression).is_err(), "{expression}: {:?}", answer(expression));
        }
    }

    #[test]
    fn versions_are_ordered_as_semver_orders_them() {
        let ordered = [
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-rc.1",
            "1.0.0",
            "1.2.0",
            "1.10.0",
        ];
        for pair in ordered.windows(2) {
            assert!(parse_version(pair[0]) < parse_version(pair[1]), "{pair:?}");
        }
        assert!(parse_version("1.0").is_none() && parse_version("a.b.c").is_none());
    }
}
