//! Validation by tables: what must hold for a field, written as a row of path and rule, with Kubernetes' wording. Kinds use
//! tables for what holds of one field alone and code for what holds between fields.

use std::collections::BTreeSet;

use protocol::quantity::Quantity;
use serde_json::Value;

use crate::access::{Access, is_zero};
use crate::cause::{Causes, Path};
use crate::meta;
use crate::rules::{self, Problems};
use crate::schema::{Schemas, Shape};

/// What must hold for one field.
#[derive(Clone, Copy)]
pub enum Rule {
    /// It is there and not empty.
    Required,
    /// The same, with a reason.
    RequiredBecause(&'static str),
    /// Empty, or one of these.
    Known(&'static [&'static str]),
    /// One of these; an empty one is missing.
    RequiredKnown(&'static [&'static str]),
    /// One of these; an empty one is not supported.
    MustBe(&'static [&'static str]),
    /// Not below zero.
    NotNegative,
    /// Above zero; the words that say so differ between kinds.
    Positive(&'static str),
    /// Between these, both included.
    Within(i64, i64),
    /// Empty, or of this form.
    Form(fn(&str) -> Problems),
    /// Of this form; an empty one is missing.
    RequiredForm(fn(&str) -> Problems),
    /// A label selector.
    Selector,
    /// Labels.
    Labels,
    /// A quantity that is not below zero.
    Quantity,
    /// A number that is not below zero, or a percentage up to 100 %.
    IntOrPercent,
    /// At most so many items.
    ItemsMax(usize),
    /// Items differ in this field; the empty name means the items themselves.
    Unique(&'static str),
}

/// A field by its path from where the table is applied, and its rule. `a.b` is a field of a field, `list[]` every item of
/// a list. What is below a missing part is not looked at, save for the required fields of structures that Go always has.
pub type Check = (&'static str, Rule);

/// Applies a table.
pub fn check(value: &Value, path: &Path<'_>, checks: &[Check], causes: &mut Causes) {
    for (field, rule) in checks {
        walk(value, path, field, *rule, causes);
    }
}

fn walk(value: &Value, path: &Path<'_>, rest: &str, rule: Rule, causes: &mut Causes) {
    let (first, below) = rest
        .split_once('.')
        .map_or((rest, None), |(first, below)| (first, Some(below)));
    if let Some(list) = first.strip_suffix("[]") {
        let at = path.field(list);
        for (index, item) in value.items(list).iter().enumerate() {
            let at = at.index(index);
            match below {
                Some(below) => walk(item, &at, below, rule, causes),
                None => apply(item, at, rule, causes),
            }
        }
        return;
    }
    let (inner, at) = (value.at(&[first]), path.field(first));
    match below {
        Some(below) => walk(inner, &at, below, rule, causes),
        None => apply(inner, at, rule, causes),
    }
}

fn apply(value: &Value, path: Path<'_>, rule: Rule, causes: &mut Causes) {
    let text = value.as_str().unwrap_or_default();
    match rule {
        Rule::Required => required(value, path, "", causes),
        Rule::RequiredBecause(why) => required(value, path, why, causes),
        Rule::Known(known) => {
            if !text.is_empty() && !known.contains(&text) {
                causes.not_supported(path, text, known);
            }
        }
        Rule::RequiredKnown(known) => {
            if text.is_empty() {
                causes.required(path, "");
            } else if !known.contains(&text) {
                causes.not_supported(path, text, known);
            }
        }
        Rule::MustBe(known) => {
            if !known.contains(&text) {
                causes.not_supported(path, text, known);
            }
        }
        Rule::NotNegative => {
            if let Some(number) = value.as_i64().filter(|number| *number < 0) {
                causes.invalid(path, number, "must be greater than or equal to 0");
            }
        }
        Rule::Positive(words) => {
            if let Some(number) = value.as_i64().filter(|number| *number <= 0) {
                causes.invalid(path, number, words);
            }
        }
        Rule::Within(low, high) => {
            if let Some(number) = value.as_i64().filter(|number| !(low..=high).contains(number)) {
                causes.invalid(path, number, format!("must be between {low} and {high}, inclusive"));
            }
        }
        Rule::Form(form) => form_of(text, path, form, causes),
        Rule::RequiredForm(form) => {
            required(value, path, "", causes);
            form_of(text, path, form, causes);
        }
        Rule::Selector => meta::label_selector(value, path, causes),
        Rule::Labels => meta::labels(value, path, causes),
        Rule::Quantity => {
            if Quantity::parse(text).is_ok_and(Quantity::is_negative) {
                causes.invalid(path, text, "must be greater than or equal to 0");
            }
        }
        Rule::IntOrPercent => {
            int_or_percent(value, path, causes);
            not_above_all(value, path, causes);
        }
        Rule::ItemsMax(most) => {
            let count = value.as_array().map_or(0, Vec::len);
            if count > most {
                causes.too_many(path, count, most);
            }
        }
        Rule::Unique(field) => unique(value, &path, field, causes),
    }
}

fn required(value: &Value, path: Path<'_>, why: &str, causes: &mut Causes) {
    // A number or a boolean that is there was meant, even if it is zero.
    let absent = is_zero(value) && !value.is_number() && !value.is_boolean();
    if absent {
        causes.required(path, why);
    }
}

fn form_of(text: &str, path: Path<'_>, form: fn(&str) -> Problems, causes: &mut Causes) {
    if !text.is_empty() {
        for problem in form(text) {
            causes.invalid(path, text, problem);
        }
    }
}

fn unique(list: &Value, path: &Path<'_>, field: &str, causes: &mut Causes) {
    let mut known = BTreeSet::new();
    for (index, item) in list.as_array().into_iter().flatten().enumerate() {
        let name = if field.is_empty() { item } else { item.at(&[field]) };
        if !name.is_null() && !known.insert(name.to_string()) {
            let at = path.index(index);
            let at = if field.is_empty() { at } else { at.field(field) };
            causes.duplicate(at, name.clone());
        }
    }
}

const PERCENT_MESSAGE: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or \
     '93%', regex used for validation is '[0-9]+%')";

/// A percentage that is not above 100 %.
pub fn not_above_all(value: &Value, path: Path<'_>, causes: &mut Causes) {
    let text = value.as_str().unwrap_or_default();
    let percent = text.strip_suffix('%').and_then(|digits| digits.parse::<u64>().ok());
    if percent.is_some_and(|percent| percent > 100) {
        causes.invalid(path, text, "must not be greater than 100%");
    }
}

/// A number that is not below zero, or a percentage. Returns what stands there.
pub fn int_or_percent(value: &Value, path: Path<'_>, causes: &mut Causes) -> Option<i64> {
    match value {
        Value::Number(number) => {
            let number = number.as_i64().unwrap_or(-1);
            if number < 0 {
                causes.invalid(path, number, "must be greater than or equal to 0");
            }
            Some(number)
        }
        Value::String(text) => {
            let digits = text.strip_suffix('%').filter(|digits| !digits.is_empty());
            let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
            let percent: Option<i64> = digits.and_then(|digits| digits.parse().ok());
            if percent.is_none() {
                causes.invalid(path, text.as_str(), PERCENT_MESSAGE);
            }
            percent
        }
        _ => None,
    }
}

/// Fields that an update must not change, by dotted path.
pub fn immutable(old: &Value, new: &Value, fields: &[&str], causes: &mut Causes) {
    for field in fields {
        let steps: Vec<&str> = field.split('.').collect();
        let (before, after) = (old.at(&steps), new.at(&steps));
        if before != after {
            at_path(&steps, &mut |path| meta::immutable(after, before, *path, causes));
        }
    }
}

/// Calls `use_path` with the path of these fields, which lives on the stack.
pub fn at_path(steps: &[&str], use_path: &mut dyn FnMut(&Path<'_>)) {
    fn descend(path: &Path<'_>, steps: &[&str], use_path: &mut dyn FnMut(&Path<'_>)) {
        match steps.split_first() {
            Some((first, rest)) => descend(&path.field(first), rest, use_path),
            None => use_path(path),
        }
    }
    descend(&Path::Root, steps, use_path);
}

/// `spec.example.com/path`: a domain, a slash and a path, such as the name of a controller.
pub fn domain_prefixed_path(text: &str) -> Problems {
    let Some((domain, path)) = text
        .split_once('/')
        .filter(|(domain, path)| !domain.is_empty() && !path.is_empty())
    else {
        return vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned()];
    };
    let mut problems = rules::dns_subdomain(domain);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
    if !path.bytes().all(allowed) {
        problems.push(
            "a valid path must consist of alphanumeric characters or any of '/', '-', '.', '_', '~', '%', '!', '$', '&', \
             ''', '(', ')', '*', '+', ',', ';', '=', ':'"
                .to_owned(),
        );
    }
    problems
}

/// Finds the fields that the schema demands and that are not there, down to the leaves. For kinds whose own validation adds
/// little to that; fields of a structure that is absent itself are not demanded.
pub fn required_by_schema(definition: &str, value: &Value, path: &Path<'_>, causes: &mut Causes) {
    let Some(definition) = Schemas::built_in().definition(definition) else {
        return;
    };
    for field in &definition.fields {
        if matches!(&*field.name, "metadata" | "status" | "apiVersion" | "kind") && matches!(path, Path::Root) {
            continue;
        }
        let (inner, at) = (value.at(&[&field.name]), path.field(&field.name));
        if field.required && !is_list(&field.shape) {
            required(inner, at, "", causes);
        }
        below(&field.shape, inner, &at, causes);
    }
}

/// An empty list of a required field is a list.
fn is_list(shape: &Shape) -> bool {
    matches!(shape, Shape::List(_) | Shape::Map(_) | Shape::Struct(_))
}

fn below(shape: &Shape, value: &Value, path: &Path<'_>, causes: &mut Causes) {
    match shape {
        Shape::Struct(name) if value.is_object() => required_by_schema(name, value, path, causes),
        Shape::List(list) => {
            for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                below(&list.item, item, &path.index(index), causes);
            }
        }
        Shape::Map(map) => {
            for (key, member) in value.as_object().into_iter().flatten() {
                below(&map.value, member, &path.key(key), causes);
            }
        }
        _ => {}
    }
}
