//! Validation rules of custom resources (`x-kubernetes-validations`): compiled with a schema, evaluated with `self` and
//! `oldSelf` bound to the value of the node that they stand at. The language is the crate `expressions`.

use expressions::{
    Budget, CompileError, Environment, Evaluation, EvaluationError, Inputs, NamedFormat, ObjectType, Program, Type,
    Value as Cel,
};
use serde_json::Value;

use super::schema::{Additional, Schema, SchemaType};
use super::validate::same_item;
use crate::access::Access;
use crate::cause::{Causes, Path};
use crate::rules;

/// A rule.
#[derive(Debug)]
pub struct Rule {
    /// The expression.
    pub text: String,
    message: String,
    reason: Reason,
    /// Below which member the problem is reported: `.spec.replicas` without the dot.
    field_path: String,
    optional_old: bool,
    compiled: Option<Compiled>,
}

#[derive(Debug)]
struct Compiled {
    of: Type,
    old: Type,
    rule: Program,
    uses_old: bool,
    message: Option<Program>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Invalid,
    Forbidden,
    Required,
    Duplicate,
}

/// What is wrong with a rule itself.
#[derive(Debug)]
pub struct RuleProblem {
    /// Which field of the rule: `rule` or `messageExpression`.
    pub field: &'static str,
    /// In Kubernetes' words.
    pub text: String,
}

/// The formats that `format.named` knows.
pub static FORMATS: [NamedFormat; 12] = [
    NamedFormat {
        name: "dns1123Label",
        problems: rules::dns_label,
    },
    NamedFormat {
        name: "dns1123Subdomain",
        problems: rules::dns_subdomain,
    },
    NamedFormat {
        name: "dns1035Label",
        problems: rules::dns_1035_label,
    },
    NamedFormat {
        name: "qualifiedName",
        problems: rules::qualified_name,
    },
    NamedFormat {
        name: "labelValue",
        problems: rules::label_value,
    },
    NamedFormat {
        name: "dns1123LabelPrefix",
        problems: |text| prefix(text, rules::dns_label),
    },
    NamedFormat {
        name: "dns1123SubdomainPrefix",
        problems: |text| prefix(text, rules::dns_subdomain),
    },
    NamedFormat {
        name: "dns1035LabelPrefix",
        problems: |text| prefix(text, rules::dns_1035_label),
    },
    NamedFormat {
        name: "uri",
        problems: |text| unless(text.contains(':') || text.starts_with('/'), "invalid URI"),
    },
    NamedFormat {
        name: "byte",
        problems: |text| {
            use base64::Engine;
            unless(
                base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
                "invalid base64",
            )
        },
    },
    NamedFormat {
        name: "date",
        problems: |text| {
            unless(
                text.len() == 10 && crate::time::parse(&format!("{text}T00:00:00Z")).is_some(),
                "invalid date",
            )
        },
    },
    NamedFormat {
        name: "datetime",
        problems: |text| unless(crate::time::parse(text).is_some(), "invalid datetime"),
    },
];

fn unless(fits: bool, problem: &str) -> Vec<String> {
    if fits { Vec::new() } else { vec![problem.to_owned()] }
}

/// A prefix may end with a hyphen: a suffix follows.
fn prefix(text: &str, rule: fn(&str) -> Vec<String>) -> Vec<String> {
    match text.strip_suffix('-') {
        Some(cut) => rule(&format!("{cut}a")),
        None => rule(text),
    }
}

/// The type that expressions see of a schema; `None` where nothing is known of it.
pub fn type_of(schema: &Schema, is_resource: bool, name: &str) -> Option<Type> {
    if schema.int_or_string {
        return Some(Type::Dyn);
    }
    match schema.of {
        SchemaType::Array => Some(Type::list_of(type_of(
            schema.items.as_deref()?,
            false,
            &format!("{name}.@idx"),
        )?)),
        SchemaType::Object => {
            if let Additional::Of(value) = &schema.additional {
                return Some(Type::map_of(type_of(value, value.embedded, &format!("{name}.@elem"))?));
            }
            let field = |(field, schema): (&String, &Schema)| {
                Some((
                    field.clone(),
                    type_of(schema, schema.embedded, &format!("{name}.{field}"))?,
                ))
            };
            let mut fields: Vec<(String, Type)> = schema.properties.iter().filter_map(field).collect();
            if is_resource || schema.embedded {
                fields.retain(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind" | "metadata"));
                let texts = ["name", "generateName"].map(|name| (name.to_owned(), Type::Text));
                fields.extend([
                    ("apiVersion".to_owned(), Type::Text),
                    ("kind".to_owned(), Type::Text),
                    (
                        "metadata".to_owned(),
                        Type::object(ObjectType::new(format!("{name}.metadata"), texts)),
                    ),
                ]);
            }
            Some(Type::object(ObjectType::new(name, fields)))
        }
        SchemaType::Text => Some(match schema.checks.format.as_str() {
            "byte" => Type::Bytes,
            "duration" => Type::Duration,
            "date" | "date-time" => Type::Timestamp,
            _ => Type::Text,
        }),
        SchemaType::Boolean => Some(Type::Bool),
        SchemaType::Integer => Some(Type::Int),
        SchemaType::Number => Some(Type::Double),
        SchemaType::Any => None,
    }
}

impl Rule {
    /// Reads the rules that stand at a schema's node.
    pub fn read_all(schema: &Schema, rules: &[Value], is_root: bool) -> Vec<Rule> {
        if rules.is_empty() {
            return Vec::new();
        }
        let of = type_of(schema, is_root, "object");
        let read = |rule: &Value| {
            let optional_old = rule.flag("optionalOldSelf");
            Rule {
                text: rule.text("rule").to_owned(),
                message: rule.text("message").trim().to_owned(),
                reason: match rule.text("reason") {
                    "FieldValueForbidden" => Reason::Forbidden,
                    "FieldValueRequired" => Reason::Required,
                    "FieldValueDuplicate" => Reason::Duplicate,
                    _ => Reason::Invalid,
                },
                field_path: rule.text("fieldPath").trim_start_matches('.').to_owned(),
                optional_old,
                compiled: of.as_ref().and_then(|of| compile(rule, of, optional_old).ok()),
            }
        };
        rules.iter().map(read).collect()
    }

    /// What is wrong with a rule at a node of this type.
    pub fn problems(rule: &Value, schema: &Schema, is_root: bool) -> Vec<RuleProblem> {
        let Some(of) = type_of(schema, is_root, "object") else {
            let text = format!(
                "rule compiler initialization error: rule declared on schema that does not support validation rules type: '{}' \
                 x-kubernetes-preserve-unknown-fields: '{}'",
                schema.of.name(),
                schema.preserve_unknown
            );
            return vec![RuleProblem { field: "rule", text }];
        };
        compile(rule, &of, rule.flag("optionalOldSelf"))
            .err()
            .into_iter()
            .collect()
    }
}

fn compile(rule: &Value, of: &Type, optional_old: bool) -> Result<Compiled, RuleProblem> {
    let old = if optional_old {
        Type::optional_of(of.clone())
    } else {
        of.clone()
    };
    let mut environment = Environment::default();
    environment.declare("self", of.clone());
    environment.declare("oldSelf", old.clone());
    environment.offer_formats(&FORMATS);
    let refuse = |field: &'static str, text: String| RuleProblem { field, text };
    let failed = |error: CompileError| format!("compilation failed: {error}");
    let text = rule.text("rule");
    let program = environment
        .compile(text)
        .map_err(|error| refuse("rule", failed(error)))?;
    if !matches!(program.result(), Type::Bool | Type::Dyn) {
        return Err(refuse("rule", "cel expression must evaluate to a bool".to_owned()));
    }
    let message = match rule.text("messageExpression") {
        "" => None,
        text => {
            let program = environment
                .compile(text)
                .map_err(|error| refuse("messageExpression", format!("messageExpression {}", failed(error))))?;
            if !matches!(program.result(), Type::Text | Type::Dyn) {
                let text = "messageExpression must evaluate to a string".to_owned();
                return Err(refuse("messageExpression", text));
            }
            Some(program)
        }
    };
    Ok(Compiled {
        uses_old: program.names("oldSelf"),
        of: of.clone(),
        old,
        rule: program,
        message,
    })
}

/// Evaluates all rules of a schema over an object. `old` is the stored one, for a change.
pub fn evaluate(schema: &Schema, object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let mut budget = Budget::default();
    walk(schema, object, old, old, &Path::Root, &mut budget, causes);
}

/// `old` is what the value was before, where that can be told; `nearest` is that of the nearest ancestor where it can.
fn walk(
    schema: &Schema,
    value: &Value,
    old: Option<&Value>,
    unchanged: Option<&Value>,
    path: &Path<'_>,
    budget: &mut Budget,
    causes: &mut Causes,
) {
    if value.is_null() || !schema.has_rules || budget.total == 0 {
        return;
    }
    // A rule that does not look at the old value passes over what did not change.
    let ratcheted = unchanged.is_some_and(|old| old == value);
    for rule in &schema.rules {
        if !run(rule, schema, value, old, ratcheted, path, budget, causes) {
            budget.total = 0;
            return;
        }
    }
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let before = old.filter(|_| !schema.atomic).and_then(|old| old.get(name));
                match (schema.properties.get(name), &schema.additional) {
                    (Some(inner), _) => walk(inner, member, before, before, &path.field(name), budget, causes),
                    (None, Additional::Of(inner)) => {
                        walk(inner, member, before, before, &path.key(name), budget, causes)
                    }
                    _ => {}
                }
            }
        }
        Value::Array(items) => {
            let Some(inner) = schema.items.as_deref() else { return };
            for (index, item) in items.iter().enumerate() {
                let before = same_item(schema, item, old);
                // An item of a list that did not change did not change either.
                let unchanged = if ratcheted { Some(item) } else { before };
                walk(inner, item, before, unchanged, &path.index(index), budget, causes);
            }
        }
        _ => {}
    }
}

/// Evaluates one rule; false when no other may be.
#[allow(clippy::too_many_arguments)]
fn run(
    rule: &Rule,
    schema: &Schema,
    value: &Value,
    old: Option<&Value>,
    ratcheted: bool,
    path: &Path<'_>,
    budget: &mut Budget,
    causes: &mut Causes,
) -> bool {
    let Some(compiled) = &rule.compiled else { return true };
    if compiled.uses_old && old.is_none() && !rule.optional_old || !compiled.uses_old && ratcheted {
        return true;
    }
    let mut inputs = Inputs::default();
    inputs.bind("self", value, &compiled.of);
    match (rule.optional_old, old) {
        (false, Some(old)) => inputs.bind("oldSelf", old, &compiled.old),
        (true, Some(old)) => inputs.bind_value("oldSelf", Cel::some(Cel::of(old, &compiled.of))),
        (true, None) => inputs.bind_value("oldSelf", Cel::Optional(None)),
        (false, None) => {}
    }
    let shown = schema.of.name();
    let mut evaluation = Evaluation::new(&inputs, *budget);
    let result = evaluation.truth(&compiled.rule);
    let told = if rule.message.is_empty() {
        rule.text.trim()
    } else {
        &rule.message
    };
    let go_on = match result {
        Ok(true) => true,
        Ok(false) => {
            let written = compiled.message.as_ref().and_then(|message| {
                let text = evaluation.run(message).ok()?.as_text()?.trim().to_owned();
                (!text.is_empty() && text.len() <= MESSAGE_BYTES_MAX && !text.contains('\n')).then_some(text)
            });
            let detail = written.unwrap_or_else(|| match rule.message.is_empty() {
                true => format!("failed rule: {told}"),
                false => told.to_owned(),
            });
            let below = path.field(&rule.field_path);
            let at = if rule.field_path.is_empty() { *path } else { below };
            match rule.reason {
                Reason::Invalid => causes.invalid(at, shown, detail),
                Reason::Forbidden => causes.forbidden(at, detail),
                Reason::Required => causes.required(at, &detail),
                Reason::Duplicate => causes.duplicate(at, shown),
            }
            true
        }
        Err(EvaluationError::CostExceeded) => {
            let detail = if evaluation.remaining() == 0 {
                "validation failed due to running out of cost budget, no further validation rules will be run"
                    .to_owned()
            } else {
                format!(
                    "'{}': no further validation rules will be run due to call cost exceeds limit for rule: {told}",
                    EvaluationError::CostExceeded
                )
            };
            causes.invalid(*path, shown, detail);
            false
        }
        Err(error @ EvaluationError::NoSuchOverload) => {
            let detail = format!(
                "'{error}': call arguments did not match a supported operator, function or macro signature for rule: {told}"
            );
            causes.invalid(*path, shown, detail);
            true
        }
        Err(error) => {
            causes.invalid(*path, shown, format!("{error} evaluating rule: {told}"));
            true
        }
    };
    budget.total = evaluation.remaining();
    go_on
}

/// How long a message that an expression makes may be.
const MESSAGE_BYTES_MAX: usize = 5 * 1024;
