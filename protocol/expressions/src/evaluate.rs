//! Evaluation: programs over bound values, within a budget. One `Evaluation` serves all expressions of one object or one
//! request: it keeps what composed variables came to, and what is left of the budget.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value as Json;

use crate::check::TYPE_NAMES;
use crate::environment::Program;
use crate::error::EvaluationError;
use crate::functions::opaque::Opaque;
use crate::functions::{Arguments, Authorizer};
use crate::node::{Call, Loop, LoopKind, Node, Operator, Select, Step};
use crate::operators;
use crate::types::Type;
use crate::value::{Key, Map, Value};

/// What evaluations may spend, in cel-go's units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// By all expressions together.
    pub total: u64,
    /// By one expression.
    pub per_call: u64,
}

impl Default for Budget {
    /// Kubernetes' budgets: about a second for an object, and a tenth of one for an expression, on the machines of its authors.
    fn default() -> Budget {
        Budget {
            total: 10_000_000,
            per_call: 1_000_000,
        }
    }
}

/// What the names of an expression stand for.
#[derive(Debug, Default)]
pub struct Inputs<'a> {
    values: Vec<(&'a str, Value<'a>)>,
    composed: Vec<(&'a str, &'a [(String, Program)])>,
}

impl<'a> Inputs<'a> {
    /// Binds a name to a JSON value that is of this type.
    pub fn bind(&mut self, name: &'a str, value: &'a Json, of: &'a Type) {
        self.values.push((name, Value::of(value, of)));
    }

    /// Binds a name to a value, such as an absent one (`Value::Optional(None)`).
    pub fn bind_value(&mut self, name: &'a str, value: Value<'a>) {
        self.values.push((name, value));
    }

    /// Binds a name to a structure of which each member is an expression, evaluated when it is first named: a policy's
    /// `variables`. A member may name those before it.
    pub fn bind_composed(&mut self, name: &'a str, members: &'a [(String, Program)]) {
        self.composed.push((name, members));
    }

    /// Binds `authorizer` to who decides about access.
    pub fn bind_authorizer(&mut self, name: &'a str, authorizer: &'a dyn Authorizer) {
        self.values.push((name, Value::Opaque(Opaque::authorizer(authorizer))));
    }
}

/// A run of expressions over the same inputs.
pub struct Evaluation<'a> {
    inputs: &'a Inputs<'a>,
    budget: Budget,
    /// What the running call may spend.
    left: u64,
    scopes: Vec<(&'a str, Value<'a>)>,
    composed: HashMap<(&'a str, &'a str), Result<Value<'a>, EvaluationError>>,
    formats: &'static [crate::functions::NamedFormat],
    nesting: u32,
}

/// How many steps may be inside each other: what a thread's stack of 2 MiB holds with room to spare.
const NESTING_MAX: u32 = 600;

impl<'a> Evaluation<'a> {
    /// A run with this budget.
    pub fn new(inputs: &'a Inputs<'a>, budget: Budget) -> Evaluation<'a> {
        Evaluation {
            inputs,
            budget,
            left: 0,
            scopes: Vec::new(),
            composed: HashMap::new(),
            formats: &[],
            nesting: 0,
        }
    }

    /// What is left of the budget for all expressions.
    pub fn remaining(&self) -> u64 {
        self.budget.total
    }

    /// Evaluates a program.
    pub fn run(&mut self, program: &'a Program) -> Result<Value<'a>, EvaluationError> {
        let may = self.budget.per_call.min(self.budget.total);
        self.left = may;
        self.formats = program.formats;
        self.scopes.clear();
        let result = self.node(&program.root);
        self.budget.total = self.budget.total.saturating_sub(may - self.left);
        result
    }

    /// Evaluates a program that must come to true or false.
    pub fn truth(&mut self, program: &'a Program) -> Result<bool, EvaluationError> {
        match self.run(program)? {
            Value::Bool(truth) => Ok(truth),
            other => {
                let text = format!("the expression gives {} rather than bool", other.type_name());
                Err(EvaluationError::UnexpectedResult(text))
            }
        }
    }

    fn spend(&mut self, cost: u64) -> Result<(), EvaluationError> {
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(EvaluationError::CostExceeded)
            }
        }
    }

    fn node(&mut self, node: &'a Node) -> Result<Value<'a>, EvaluationError> {
        // A program is not deep, but members of a composed variable may name each other in a long chain.
        if self.nesting >= NESTING_MAX {
            return Err(EvaluationError::CostExceeded);
        }
        self.nesting += 1;
        let result = self.step(node);
        self.nesting -= 1;
        result
    }

    fn step(&mut self, node: &'a Node) -> Result<Value<'a>, EvaluationError> {
        match &node.step {
            Step::Constant(value) => Ok(value.clone()),
            Step::Name(name) => self.name(name),
            Step::Select { operand, field, form } => self.select(operand, field, *form),
            Step::Index {
                operand,
                index,
                optional,
            } => self.index(operand, index, *optional),
            Step::Operator(operator, arguments) => self.operator(*operator, arguments),
            Step::Call(call) => self.call(call),
            Step::List(items) => {
                self.spend(10)?;
                let mut list = Vec::with_capacity(items.len());
                for item in items {
                    match (self.node(&item.value)?, item.optional) {
                        (Value::Optional(value), true) => list.extend(value.map(|value| (*value).clone())),
                        (value, _) => list.push(value),
                    }
                }
                Ok(Value::list(list))
            }
            Step::Map(entries) => {
                self.spend(30)?;
                let mut map = BTreeMap::new();
                for entry in entries {
                    let key = self.node(&entry.key)?.key().ok_or(EvaluationError::NoSuchOverload)?;
                    let value = match (self.node(&entry.value)?, entry.optional) {
                        (Value::Optional(None), true) => continue,
                        (Value::Optional(Some(value)), true) => (*value).clone(),
                        (value, _) => value,
                    };
                    if map.insert(key.clone(), value).is_some() {
                        return Err(EvaluationError::Refused(format!("Failed with repeated key: {key}")));
                    }
                }
                Ok(Value::Map(Map::Made(Arc::new(map))))
            }
            Step::Structure(_, fields) => {
                self.spend(40)?;
                let mut map = BTreeMap::new();
                for (name, node, optional) in fields {
                    let value = match (self.node(node)?, optional) {
                        (Value::Optional(None), true) => continue,
                        (Value::Optional(Some(value)), true) => (*value).clone(),
                        (value, _) => value,
                    };
                    map.insert(Key::Text(crate::unescape(name).into()), value);
                }
                Ok(Value::Map(Map::Made(Arc::new(map))))
            }
            Step::Loop(walk) => self.walk(walk),
        }
    }

    fn name(&mut self, name: &'a str) -> Result<Value<'a>, EvaluationError> {
        self.spend(1)?;
        if let Some((_, value)) = self.scopes.iter().rev().find(|(known, _)| *known == name) {
            return Ok(value.clone());
        }
        if let Some((_, value)) = self.inputs.values.iter().rev().find(|(known, _)| *known == name) {
            return Ok(value.clone());
        }
        if TYPE_NAMES.contains(&name) {
            return Ok(operators::type_value(name));
        }
        Err(EvaluationError::NoSuchAttribute(name.to_owned()))
    }

    /// A member of a composed variable; `None` when the operand is no such variable.
    fn composed(&mut self, operand: &Node, field: &str) -> Option<Result<Value<'a>, EvaluationError>> {
        let Step::Name(name) = &operand.step else { return None };
        if self.scopes.iter().any(|(known, _)| known == name) {
            return None;
        }
        let (name, members) = *self.inputs.composed.iter().find(|(known, _)| known == name)?;
        let Some((member, program)) = members.iter().find(|(member, _)| member == field) else {
            return Some(Err(EvaluationError::NoSuchKey(field.to_owned())));
        };
        if let Some(known) = self.composed.get(&(name, member.as_str())) {
            let known = known.clone();
            return Some(self.spend(1).and(known));
        }
        // The member's own macros must not see the variables around the place that names it.
        let outer = std::mem::take(&mut self.scopes);
        let value = self.node(&program.root);
        self.scopes = outer;
        self.composed.insert((name, member), value.clone());
        Some(value)
    }

    fn select(&mut self, operand: &'a Node, field: &'a str, form: Select) -> Result<Value<'a>, EvaluationError> {
        if let Some(value) = self.composed(operand, field) {
            return match form {
                Select::Plain => value,
                Select::Optional => value.map(Value::some),
                Select::Test => value.map(|_| Value::Bool(true)),
            };
        }
        let mut value = self.node(operand)?;
        self.spend(1)?;
        let mut optional = form == Select::Optional;
        if let Value::Optional(inner) = value {
            let Some(inner) = inner else {
                return Ok(match form {
                    Select::Test => Value::Bool(false),
                    _ => Value::Optional(None),
                });
            };
            optional = true;
            value = (*inner).clone();
        }
        let Value::Map(map) = &value else {
            return Err(EvaluationError::NoSuchOverload);
        };
        match (form, map.member(field)) {
            (Select::Test, found) => Ok(Value::Bool(found.is_some())),
            (_, Some(found)) if optional => Ok(Value::some(found)),
            (_, None) if optional => Ok(Value::Optional(None)),
            (_, Some(found)) => Ok(found),
            (_, None) => Err(EvaluationError::NoSuchKey(field.to_owned())),
        }
    }

    fn index(&mut self, operand: &'a Node, index: &'a Node, optional: bool) -> Result<Value<'a>, EvaluationError> {
        let mut value = self.node(operand)?;
        let index = self.node(index)?;
        self.spend(1)?;
        let mut optional = optional;
        if let Value::Optional(inner) = value {
            let Some(inner) = inner else {
                return Ok(Value::Optional(None));
            };
            optional = true;
            value = (*inner).clone();
        }
        let found = match &value {
            Value::List(list) => {
                let at = match &index {
                    Value::Int(at) => *at,
                    Value::Uint(at) => i64::try_from(*at).unwrap_or(i64::MAX),
                    Value::Double(at) if at.fract() == 0.0 => *at as i64,
                    _ => return Err(EvaluationError::NoSuchOverload),
                };
                let found = usize::try_from(at).ok().and_then(|at| list.get(at));
                found.ok_or(EvaluationError::IndexOutOfBounds(at))
            }
            Value::Map(map) => {
                let key = index.key().ok_or(EvaluationError::NoSuchOverload)?;
                map.get(&key).ok_or_else(|| EvaluationError::NoSuchKey(key.to_string()))
            }
            _ => return Err(EvaluationError::NoSuchOverload),
        };
        match (found, optional) {
            (Ok(found), true) => Ok(Value::some(found)),
            (Err(_), true) => Ok(Value::Optional(None)),
            (found, false) => found,
        }
    }

    fn operator(&mut self, operator: Operator, arguments: &'a [Node]) -> Result<Value<'a>, EvaluationError> {
        match (operator, arguments) {
            (Operator::And, terms) => self.decide(terms, false),
            (Operator::Or, terms) => self.decide(terms, true),
            (Operator::Conditional, [test, yes, no]) => match self.node(test)? {
                Value::Bool(true) => self.node(yes),
                Value::Bool(false) => self.node(no),
                _ => Err(EvaluationError::NoSuchOverload),
            },
            (Operator::Not, [operand]) => match self.node(operand)? {
                Value::Bool(value) => self.spend(1).map(|()| Value::Bool(!value)),
                _ => Err(EvaluationError::NoSuchOverload),
            },
            (Operator::Negate, [operand]) => {
                let value = self.node(operand)?;
                self.spend(1)?;
                operators::negate(&value)
            }
            (_, [a, b]) => {
                let (a, b) = (self.node(a)?, self.node(b)?);
                self.spend(1)?;
                operators::apply(operator, &a, &b, &mut |cost| self.spend(cost))
            }
            _ => Err(EvaluationError::NoSuchOverload),
        }
    }

    /// `&&` (decided by false) and `||` (decided by true): a term that decides makes errors of the others unimportant.
    fn decide(&mut self, terms: &'a [Node], decisive: bool) -> Result<Value<'a>, EvaluationError> {
        let mut error = None;
        for term in terms {
            match self.node(term) {
                Ok(Value::Bool(value)) if value == decisive => return Ok(Value::Bool(decisive)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => error = error.or(Some(EvaluationError::NoSuchOverload)),
                Err(EvaluationError::CostExceeded) => return Err(EvaluationError::CostExceeded),
                Err(found) => error = error.or(Some(found)),
            }
        }
        error.map_or(Ok(Value::Bool(!decisive)), Err)
    }

    fn call(&mut self, call: &'a Call) -> Result<Value<'a>, EvaluationError> {
        let mut values = Vec::with_capacity(call.arguments.len());
        for argument in &call.arguments {
            values.push(self.node(argument)?);
        }
        self.spend(1)?;
        let fits = |form: &&&'static crate::functions::Function| {
            form.arguments
                .iter()
                .zip(&values)
                .all(|(sort, value)| sort.takes(value))
        };
        let form = call.forms.iter().find(fits).ok_or(EvaluationError::NoSuchOverload)?;
        let run = form.run;
        let formats = self.formats;
        run(Arguments {
            name: &call.name,
            values: &values,
            pattern: call.pattern.as_ref(),
            formats,
            spend: &mut |cost| self.spend(cost),
        })
    }

    fn walk(&mut self, walk: &'a Loop) -> Result<Value<'a>, EvaluationError> {
        let range = self.node(&walk.range)?;
        let items: Vec<(Value<'a>, Value<'a>)> = match (&range, walk.kind) {
            (Value::Optional(inner), LoopKind::OptMap | LoopKind::OptFlatMap) => {
                let Some(inner) = inner else {
                    return Ok(Value::Optional(None));
                };
                vec![((**inner).clone(), Value::Null)]
            }
            (Value::List(list), _) if walk.second.is_some() => {
                let index = |at: usize| Value::Int(i64::try_from(at).unwrap_or(i64::MAX));
                list.iter().enumerate().map(|(at, item)| (index(at), item)).collect()
            }
            (Value::List(list), _) => list.iter().map(|item| (item, Value::Null)).collect(),
            (Value::Map(map), _) => {
                let entries = map.entries().into_iter();
                entries.map(|(key, value)| (key.value(), value)).collect()
            }
            _ => return Err(EvaluationError::NoSuchOverload),
        };
        self.spend(items.len() as u64)?;
        let depth = self.scopes.len();
        let result = self.walk_items(walk, items);
        self.scopes.truncate(depth);
        result
    }

    fn walk_items(&mut self, walk: &'a Loop, items: Vec<(Value<'a>, Value<'a>)>) -> Result<Value<'a>, EvaluationError> {
        let depth = self.scopes.len();
        let mut error = None;
        let mut count = 0usize;
        let mut list = Vec::new();
        let mut map = BTreeMap::new();
        for (first, second) in items {
            self.scopes.truncate(depth);
            self.scopes.push((&walk.variable, first.clone()));
            if let Some(name) = &walk.second {
                self.scopes.push((name, second));
            }
            if let Some(filter) = &walk.filter {
                match self.node(filter)? {
                    Value::Bool(true) => {}
                    Value::Bool(false) => continue,
                    _ => return Err(EvaluationError::NoSuchOverload),
                }
            }
            let body = self.node(&walk.body);
            match (walk.kind, body) {
                (_, Err(EvaluationError::CostExceeded)) => return Err(EvaluationError::CostExceeded),
                (LoopKind::All, Ok(Value::Bool(false))) => return Ok(Value::Bool(false)),
                (LoopKind::Exists, Ok(Value::Bool(true))) => return Ok(Value::Bool(true)),
                (LoopKind::All | LoopKind::Exists, Ok(Value::Bool(_))) => {}
                (LoopKind::All | LoopKind::Exists, Ok(_)) => error = error.or(Some(EvaluationError::NoSuchOverload)),
                (LoopKind::All | LoopKind::Exists, Err(found)) => error = error.or(Some(found)),
                (_, Err(found)) => return Err(found),
                (LoopKind::ExistsOne, Ok(Value::Bool(found))) => count += usize::from(found),
                (LoopKind::Filter, Ok(Value::Bool(keep))) => list.extend(keep.then_some(first)),
                (LoopKind::ExistsOne | LoopKind::Filter, Ok(_)) => return Err(EvaluationError::NoSuchOverload),
                (LoopKind::Map | LoopKind::TransformList, Ok(value)) => list.push(value),
                (LoopKind::SortBy, Ok(key)) => list.push(Value::list(vec![key, first])),
                (LoopKind::TransformMap, Ok(value)) => {
                    map.insert(first.key().ok_or(EvaluationError::NoSuchOverload)?, value);
                }
                (LoopKind::TransformMapEntry, Ok(Value::Map(entries))) => {
                    for (key, value) in entries.entries() {
                        if map.insert(key.clone(), value).is_some() {
                            return Err(EvaluationError::Refused(format!(
                                "insert failed: key {key} already exists"
                            )));
                        }
                    }
                }
                (LoopKind::TransformMapEntry, Ok(_)) => return Err(EvaluationError::NoSuchOverload),
                (LoopKind::OptMap, Ok(value)) => return Ok(Value::some(value)),
                (LoopKind::OptFlatMap, Ok(value)) => return Ok(value),
            }
        }
        match walk.kind {
            LoopKind::All => error.map_or(Ok(Value::Bool(true)), Err),
            LoopKind::Exists => error.map_or(Ok(Value::Bool(false)), Err),
            LoopKind::ExistsOne => Ok(Value::Bool(count == 1)),
            LoopKind::TransformMap | LoopKind::TransformMapEntry => Ok(Value::Map(Map::Made(Arc::new(map)))),
            LoopKind::SortBy => crate::functions::lists::sort_pairs(list, &mut |cost| self.spend(cost)),
            _ => Ok(Value::list(list)),
        }
    }
}

impl std::fmt::Debug for Evaluation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evaluation")
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}
