//! Types of expressions, found before anything is evaluated, with cel-go's words for what does not fit. What is dynamic fits
//! everywhere; so does what follows from a mistake that was reported already.

use std::sync::Arc;

use crate::environment::Environment;
use crate::error::{CompileError, Problem};
use crate::functions::{Function, Sort};
use crate::node::{Call, Entry, Item, Loop, LoopKind, Node, Operator, Select, Step};
use crate::operators;
use crate::parse::problem_at;
use crate::types::Type;

/// Names of types, as expressions may compare them with `type(x)`.
pub(crate) const TYPE_NAMES: [&str; 10] = [
    "bool",
    "bytes",
    "double",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "type",
    "uint",
];

/// The type of an expression.
pub(crate) fn check(environment: &Environment, text: &str, root: &Node) -> Result<Type, CompileError> {
    let mut checker = Checker {
        environment,
        text,
        scopes: Vec::new(),
        problems: Vec::new(),
    };
    let result = checker.node(root);
    if checker.problems.is_empty() {
        return Ok(result);
    }
    checker.problems.sort_by_key(|problem| (problem.line, problem.column));
    Err(CompileError {
        source_text: text.to_owned(),
        problems: checker.problems,
    })
}

struct Checker<'c> {
    environment: &'c Environment,
    text: &'c str,
    /// Variables of the macros that are walked.
    scopes: Vec<(&'c str, Type)>,
    problems: Vec<Problem>,
}

impl<'c> Checker<'c> {
    fn refuse(&mut self, at: u32, text: String) -> Type {
        self.problems.push(problem_at(self.text, at, text));
        Type::Dyn
    }

    fn no_overload(&mut self, at: u32, name: &str, is_member: bool, types: &[Type]) -> Type {
        let texts: Vec<String> = types.iter().map(Type::to_string).collect();
        let shown = match texts.split_first() {
            Some((target, rest)) if is_member => format!("{target}.({})", rest.join(", ")),
            _ => format!("({})", texts.join(", ")),
        };
        self.refuse(
            at,
            format!("found no matching overload for '{name}' applied to '{shown}'"),
        )
    }

    fn node(&mut self, node: &'c Node) -> Type {
        match &node.step {
            Step::Constant(value) => operators::type_of(value),
            Step::Name(name) => self.name(node.at, name),
            Step::Select { operand, field, form } => {
                let operand_type = self.node(operand);
                let of = self.select(node.at, &operand_type, field);
                match form {
                    Select::Test => Type::Bool,
                    Select::Optional if !matches!(of, Type::Optional(_)) => Type::optional_of(of),
                    Select::Optional | Select::Plain => of,
                }
            }
            Step::Index {
                operand,
                index,
                optional,
            } => {
                let (operand, index) = (self.node(operand), self.node(index));
                let of = self.index(node.at, &operand, &index);
                if *optional && !matches!(of, Type::Optional(_)) {
                    Type::optional_of(of)
                } else {
                    of
                }
            }
            Step::Operator(operator, arguments) => {
                let types: Vec<Type> = arguments.iter().map(|argument| self.node(argument)).collect();
                match operators::result_type(*operator, &types) {
                    Some(of) => of,
                    None => self.no_overload(node.at, operator.name(), false, &types),
                }
            }
            Step::Call(call) => self.call(node.at, call),
            Step::List(items) => self.list(items, false),
            Step::Map(entries) => self.map(entries),
            Step::Structure(name, fields) => {
                for (_, value, _) in fields {
                    self.node(value);
                }
                if name == "JSONPatch" || name == "Object" || name.starts_with("Object.") {
                    Type::Dyn
                } else {
                    self.refuse(node.at, format!("undeclared reference to '{name}' (in container '')"))
                }
            }
            Step::Loop(walk) => self.walk(node.at, walk),
        }
    }

    fn name(&mut self, at: u32, name: &str) -> Type {
        if let Some((_, of)) = self.scopes.iter().rev().find(|(known, _)| *known == name) {
            return of.clone();
        }
        match self.environment.declared(name) {
            Some(of) => of.clone(),
            None if TYPE_NAMES.contains(&name) => Type::Type,
            None => self.refuse(at, format!("undeclared reference to '{name}' (in container '')")),
        }
    }

    fn select(&mut self, at: u32, operand: &Type, field: &str) -> Type {
        match operand {
            Type::Dyn => Type::Dyn,
            Type::Object(object) => match object.fields.get(field) {
                Some(field) => field.of.clone(),
                None => self.refuse(at, format!("undefined field '{field}'")),
            },
            Type::Map(_, value) => (**value).clone(),
            Type::Optional(inner) => match self.select(at, inner, field) {
                of @ Type::Optional(_) => of,
                of => Type::optional_of(of),
            },
            other => self.refuse(at, format!("type '{other}' does not support field selection")),
        }
    }

    fn index(&mut self, at: u32, operand: &Type, index: &Type) -> Type {
        match operand {
            Type::Dyn => Type::Dyn,
            Type::List(item) if matches!(index, Type::Int | Type::Uint | Type::Dyn) => (**item).clone(),
            Type::Map(key, value) if key.takes(index) => (**value).clone(),
            Type::Optional(inner) => match self.index(at, inner, index) {
                of @ Type::Optional(_) => of,
                of => Type::optional_of(of),
            },
            _ => self.no_overload(at, "_[_]", false, &[operand.clone(), index.clone()]),
        }
    }

    fn list(&mut self, items: &'c [Item], mixed: bool) -> Type {
        let mut of: Option<Type> = None;
        for item in items {
            let mut found = self.node(&item.value);
            if item.optional
                && let Type::Optional(inner) = &found
            {
                found = (**inner).clone();
            }
            of = Some(match of {
                Some(before) if mixed => before.joined(&found),
                of => self.homogeneous(item.value.at, of, found),
            });
        }
        Type::list_of(of.unwrap_or(Type::Dyn))
    }

    fn map(&mut self, entries: &'c [Entry]) -> Type {
        let (mut keys, mut values) = (None, None);
        for entry in entries {
            let key = self.node(&entry.key);
            let mut value = self.node(&entry.value);
            if entry.optional
                && let Type::Optional(inner) = &value
            {
                value = (**inner).clone();
            }
            keys = Some(self.homogeneous(entry.key.at, keys, key));
            values = Some(self.homogeneous(entry.value.at, values, value));
        }
        Type::Map(
            Arc::new(keys.unwrap_or(Type::Dyn)),
            Arc::new(values.unwrap_or(Type::Dyn)),
        )
    }

    /// Literals hold values of one type, as Kubernetes demands.
    fn homogeneous(&mut self, at: u32, before: Option<Type>, found: Type) -> Type {
        match before {
            None => found,
            Some(before) if before.takes(&found) => before.joined(&found),
            Some(before) => {
                self.refuse(at, format!("expected type '{before}' but found '{found}'"));
                before
            }
        }
    }

    fn call(&mut self, at: u32, call: &'c Call) -> Type {
        let argument = |argument: &'c Node| match &argument.step {
            // What a template is filled with may be of any types.
            Step::List(items) if call.name == "format" => self.list(items, true),
            _ => self.node(argument),
        };
        let types: Vec<Type> = call.arguments.iter().map(argument).collect();
        if call.name == "dyn" {
            return Type::Dyn;
        }
        if call.name.starts_with("format.") && call.name != "format.named" {
            let name = call.name.trim_start_matches("format.");
            let known = self.environment.formats.iter().any(|format| format.name == name);
            return match known {
                true => Type::Opaque("kubernetes.NamedFormat"),
                false => self.refuse(at, format!("undeclared reference to '{name}' (in container '')")),
            };
        }
        let mut results = call.forms.iter().filter_map(|form| applied(form, &types));
        match (results.next(), results.next()) {
            (Some(of), None) => of,
            // Several forms fit: an argument is dynamic.
            (Some(first), Some(second)) => results.fold(first.joined(&second), |of, other| of.joined(&other)),
            _ => self.no_overload(at, &call.name, call.is_member, &types),
        }
    }

    fn walk(&mut self, at: u32, walk: &'c Loop) -> Type {
        let range = self.node(&walk.range);
        let optional = matches!(walk.kind, LoopKind::OptMap | LoopKind::OptFlatMap);
        let (first, second) = match &range {
            Type::Dyn => (Type::Dyn, Type::Dyn),
            Type::Optional(inner) if optional => ((**inner).clone(), Type::Dyn),
            Type::List(item) if walk.second.is_some() => (Type::Int, (**item).clone()),
            Type::List(item) => ((**item).clone(), Type::Dyn),
            Type::Map(key, value) => ((**key).clone(), (**value).clone()),
            // A structure is walked by its fields' names.
            Type::Object(_) => (Type::Text, Type::Dyn),
            other => {
                let text = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.refuse(walk.range.at, text);
                (Type::Dyn, Type::Dyn)
            }
        };
        self.scopes.push((&walk.variable, first.clone()));
        if let Some(name) = &walk.second {
            self.scopes.push((name, second));
        }
        if let Some(filter) = &walk.filter {
            let found = self.node(filter);
            if !Type::Bool.takes(&found) {
                self.no_overload(filter.at, "_?_:_", false, &[found, Type::Dyn, Type::Dyn]);
            }
        }
        let body = self.node(&walk.body);
        self.scopes
            .truncate(self.scopes.len() - 1 - usize::from(walk.second.is_some()));
        let predicate = matches!(
            walk.kind,
            LoopKind::All | LoopKind::Exists | LoopKind::ExistsOne | LoopKind::Filter
        );
        if predicate && !Type::Bool.takes(&body) {
            let operator = match walk.kind {
                LoopKind::All => Operator::And,
                LoopKind::Exists => Operator::Or,
                _ => Operator::Conditional,
            };
            return self.no_overload(walk.body.at, operator.name(), false, &[Type::Bool, body]);
        }
        match walk.kind {
            LoopKind::All | LoopKind::Exists | LoopKind::ExistsOne => Type::Bool,
            LoopKind::Map | LoopKind::TransformList => Type::list_of(body),
            LoopKind::Filter => Type::list_of(first),
            LoopKind::SortBy => range,
            LoopKind::TransformMap => Type::Map(Arc::new(first), Arc::new(body)),
            LoopKind::TransformMapEntry if matches!(body, Type::Map(..) | Type::Dyn) => body,
            LoopKind::TransformMapEntry => self.no_overload(at, "transformMapEntry", false, &[body]),
            LoopKind::OptMap => Type::optional_of(body),
            LoopKind::OptFlatMap if matches!(body, Type::Optional(_) | Type::Dyn) => body,
            LoopKind::OptFlatMap => self.no_overload(at, "optFlatMap", true, &[range, body]),
        }
    }
}

/// The type of a call of this form with these arguments; `None` where they do not fit.
fn applied(form: &Function, types: &[Type]) -> Option<Type> {
    let mut parameter = None;
    for (sort, of) in form.arguments.iter().zip(types) {
        if !fits(sort, of, &mut parameter) {
            return None;
        }
    }
    Some(type_of_sort(&form.result, parameter.as_ref()))
}

fn fits(sort: &Sort, of: &Type, parameter: &mut Option<Type>) -> bool {
    match (sort, of) {
        (Sort::Dyn, _) => true,
        (Sort::A, of) => {
            let fits = parameter.as_ref().is_none_or(|bound| bound.takes(of));
            if fits {
                *parameter = Some(parameter.as_ref().map_or_else(|| of.clone(), |bound| bound.joined(of)));
            }
            fits
        }
        (_, Type::Dyn) => true,
        (Sort::List(item), Type::List(of)) => fits(item, of, parameter),
        (Sort::Optional(inner), Type::Optional(of)) => fits(inner, of, parameter),
        (Sort::Map, Type::Map(..) | Type::Object(_)) => true,
        (sort, of) => type_of_sort(sort, None) == *of,
    }
}

fn type_of_sort(sort: &Sort, parameter: Option<&Type>) -> Type {
    match sort {
        Sort::Dyn | Sort::Map => Type::Dyn,
        Sort::A => parameter.cloned().unwrap_or(Type::Dyn),
        Sort::Bool => Type::Bool,
        Sort::Int => Type::Int,
        Sort::Uint => Type::Uint,
        Sort::Double => Type::Double,
        Sort::Text => Type::Text,
        Sort::Bytes => Type::Bytes,
        Sort::Timestamp => Type::Timestamp,
        Sort::Duration => Type::Duration,
        Sort::Type => Type::Type,
        Sort::Opaque(name) => Type::Opaque(name),
        Sort::List(item) => Type::list_of(type_of_sort(item, parameter)),
        Sort::Optional(inner) => Type::optional_of(type_of_sort(inner, parameter)),
    }
}
