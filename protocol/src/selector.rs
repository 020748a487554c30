//! Label and field selectors: parsed from a query string or from an object's `selector`, matched against a header.
//! Semantics after Kubernetes' `labels.Parse` and `metav1.LabelSelectorAsSelector`; the gateway, the store's lists and
//! watches and the event router call it.

use std::collections::BTreeMap;
use std::fmt;

use bincode::{Decode, Encode};
use serde_json::Value;

use crate::Header;

/// Why a selector was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The text does not follow the grammar.
    #[error("unable to parse requirement: {reason} in {text:?}")]
    Syntax {
        /// The offending part.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The kind offers no such field selector.
    #[error("field label not supported: {0}")]
    UnknownField(String),
    /// A backslash in a field selector's value stands before something else than a backslash, a comma or an equals sign.
    #[error("invalid field selector: invalid escape sequence: {0}")]
    Escape(String),
    /// A comma or an equals sign in a field selector's value has no backslash before it.
    #[error("invalid field selector: unescaped character in value: {}", u32::from(*.0))]
    Unescaped(char),
    /// The operator of a `matchExpressions` entry is none of In, NotIn, Exists, DoesNotExist.
    #[error("{0:?} is not a valid label selector operator")]
    UnknownOperator(String),
}

/// How a requirement compares.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub enum Operator {
    /// The label exists and its value is one of these.
    In(Vec<String>),
    /// The label is absent or its value is none of these.
    NotIn(Vec<String>),
    /// The label exists.
    Exists,
    /// The label is absent.
    DoesNotExist,
    /// The label's value is an integer greater than this.
    GreaterThan(i64),
    /// The label's value is an integer less than this.
    LessThan(i64),
}

/// One requirement; a selector is the conjunction of its requirements.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// The comparison.
    pub operator: Operator,
}

impl Requirement {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let number = || value.and_then(|text| text.parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan(bound) => number().is_some_and(|value| value > *bound),
            Operator::LessThan(bound) => number().is_some_and(|value| value < *bound),
        }
    }
}

/// A label selector. Empty, it matches everything; what an *absent* selector means is the field's own business
/// (a Service without one selects nothing), so absence is an `Option` around this type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct LabelSelector {
    /// All must hold.
    pub requirements: Vec<Requirement>,
}

impl LabelSelector {
    /// Parses a query's `labelSelector`: `a=b,c!=d,e in (f,g),h,!i,j>1`.
    pub fn parse(text: &str) -> Result<LabelSelector, SelectorError> {
        if text.trim().is_empty() {
            return Ok(LabelSelector::default());
        }
        let parts = split_outside_parentheses(text).into_iter();
        let requirements = parts
            .map(|part| parse_requirement(part.trim()))
            .collect::<Result<_, _>>()?;
        Ok(LabelSelector { requirements })
    }

    /// From a plain map, as Service and ReplicationController have it: all labels equal.
    pub fn from_map<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> LabelSelector {
        let equal = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::In(vec![value.clone()]),
        };
        LabelSelector {
            requirements: labels.into_iter().map(equal).collect(),
        }
    }

    /// From a `metav1.LabelSelector` in JSON (`matchLabels` and `matchExpressions`).
    pub fn from_value(value: &Value) -> Result<LabelSelector, SelectorError> {
        let mut requirements = Vec::new();
        for (key, label) in value
            .get("matchLabels")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let label = label.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement {
                key: key.clone(),
                operator: Operator::In(vec![label]),
            });
        }
        for expression in value
            .get("matchExpressions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let text = |name: &str| {
                expression
                    .get(name)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
            let values: Vec<String> = values.filter_map(|v| v.as_str().map(str::to_owned)).collect();
            let operator = match text("operator").as_str() {
                "In" => Operator::In(values),
                "NotIn" => Operator::NotIn(values),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError::UnknownOperator(other.to_owned())),
            };
            requirements.push(Requirement {
                key: text("key"),
                operator,
            });
        }
        Ok(LabelSelector { requirements })
    }

    /// Whether it has no requirement.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether all requirements hold for these labels.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(labels))
    }
}

impl fmt::Display for LabelSelector {
    /// The form that `kubectl get -l` takes and that a `status.selector` holds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Requirement { key, operator }) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match operator {
                Operator::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0])?,
                Operator::In(values) => write!(f, "{key} in ({})", values.join(","))?,
                Operator::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", values[0])?,
                Operator::NotIn(values) => write!(f, "{key} notin ({})", values.join(","))?,
                Operator::Exists => f.write_str(key)?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
                Operator::GreaterThan(bound) => write!(f, "{key}>{bound}")?,
                Operator::LessThan(bound) => write!(f, "{key}<{bound}")?,
            }
        }
        Ok(())
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0usize, 0usize);
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_requirement(text: &str) -> Result<Requirement, SelectorError> {
    let fail = |reason| SelectorError::Syntax {
        text: text.to_owned(),
        reason,
    };
    let key = |raw: &str| {
        let raw = raw.trim();
        if is_label_key(raw) {
            Ok(raw.to_owned())
        } else {
            Err(fail("invalid label key"))
        }
    };
    let value = |raw: &str| {
        let raw = raw.trim();
        if is_label_value(raw) {
            Ok(raw.to_owned())
        } else {
            Err(fail("invalid label value"))
        }
    };
    if let Some(rest) = text.strip_prefix('!') {
        return Ok(Requirement {
            key: key(rest)?,
            operator: Operator::DoesNotExist,
        });
    }
    if let Some(open) = text.find('(') {
        let list = text[open + 1..]
            .strip_suffix(')')
            .ok_or_else(|| fail("missing closing parenthesis"))?;
        let values = list.split(',').map(value).collect::<Result<Vec<_>, _>>()?;
        let mut words = text[..open].split_whitespace();
        let name = words.next().ok_or_else(|| fail("missing label key"))?;
        let operator = match (words.next(), words.next()) {
            (Some("in"), None) => Operator::In(values),
            (Some("notin"), None) => Operator::NotIn(values),
            _ => return Err(fail("expected 'in' or 'notin'")),
        };
        return Ok(Requirement {
            key: key(name)?,
            operator,
        });
    }
    for (symbol, negated) in [("!=", true), ("==", false), ("=", false)] {
        if let Some((left, right)) = text.split_once(symbol) {
            let values = vec![value(right)?];
            let operator = if negated {
                Operator::NotIn(values)
            } else {
                Operator::In(values)
            };
            return Ok(Requirement {
                key: key(left)?,
                operator,
            });
        }
    }
    for (symbol, greater) in [('>', true), ('<', false)] {
        if let Some((left, right)) = text.split_once(symbol) {
            let bound = right.trim().parse().map_err(|_| fail("expected an integer"))?;
            let operator = if greater {
                Operator::GreaterThan(bound)
            } else {
                Operator::LessThan(bound)
            };
            return Ok(Requirement {
                key: key(left)?,
                operator,
            });
        }
    }
    Ok(Requirement {
        key: key(text)?,
        operator: Operator::Exists,
    })
}

/// A qualified name: an optional DNS prefix and `/`, then at most 63 characters that begin and end alphanumeric, with
/// `-`, `_` and `.` between.
pub fn is_label_key(text: &str) -> bool {
    let (prefix, name) = text
        .split_once('/')
        .map_or((None, text), |(prefix, name)| (Some(prefix), name));
    let prefix_ok = prefix.is_none_or(|prefix| {
        !prefix.is_empty()
            && prefix.len() <= 253
            && prefix.split('.').all(|part| {
                !part.is_empty()
                    && part
                        .bytes()
                        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                    && !part.starts_with('-')
                    && !part.ends_with('-')
            })
    });
    prefix_ok && !name.is_empty() && is_label_value(name)
}

/// A label value: empty, or at most 63 characters that begin and end alphanumeric, with `-`, `_` and `.` between.
pub fn is_label_value(text: &str) -> bool {
    text.is_empty()
        || text.len() <= 63
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && text.bytes().last().is_some_and(|b| b.is_ascii_alphanumeric())
}

/// One condition of a field selector.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct FieldRequirement {
    /// The field's path: `spec.nodeName`.
    pub path: String,
    /// The value that it must have or, when `negated`, must not have.
    pub value: String,
    /// `!=` instead of `=`.
    pub negated: bool,
}

/// A field selector: the conjunction of its conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct FieldSelector {
    /// All must hold.
    pub requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Parses a query's `fieldSelector`, `a=b,c!=d`, after Kubernetes' `fields.ParseSelector`: in a value a backslash stands
    /// before a comma, an equals sign and a backslash. `offered` are the paths that the kind has beside `metadata.name` and
    /// `metadata.namespace`.
    pub fn parse(text: &str, offered: &[&str]) -> Result<FieldSelector, SelectorError> {
        let mut requirements = Vec::new();
        for part in split_unescaped(text).into_iter().filter(|part| !part.is_empty()) {
            let operator = part.char_indices().find_map(|(at, _)| {
                let operator = ["!=", "==", "="]
                    .into_iter()
                    .find(|known| part[at..].starts_with(known));
                operator.map(|operator| (at, operator))
            });
            let Some((at, operator)) = operator else {
                return Err(SelectorError::Syntax {
                    text: part.to_owned(),
                    reason: "expected '=' or '!='",
                });
            };
            let path = &part[..at];
            let value = unescaped(&part[at + operator.len()..])?;
            if !matches!(path, "metadata.name" | "metadata.namespace") && !offered.contains(&path) {
                return Err(SelectorError::UnknownField(path.to_owned()));
            }
            requirements.push(FieldRequirement {
                path: path.to_owned(),
                value,
                negated: operator == "!=",
            });
        }
        Ok(FieldSelector { requirements })
    }

    /// Whether it has no condition.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether all conditions hold for the object.
    pub fn matches(&self, namespace: &str, name: &str, header: &Header) -> bool {
        self.requirements.iter().all(|requirement| {
            (field_of(namespace, name, header, &requirement.path) == requirement.value) != requirement.negated
        })
    }
}

/// The terms of a field selector: commas that a backslash stands before do not part them.
fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// A field selector's value without its backslashes.
fn unescaped(text: &str) -> Result<String, SelectorError> {
    let mut value = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(escaped @ ('\\' | ',' | '=')) => value.push(escaped),
                other => {
                    let sequence = std::iter::once('\\').chain(other);
                    return Err(SelectorError::Escape(sequence.collect()));
                }
            },
            ',' | '=' => return Err(SelectorError::Unescaped(character)),
            other => value.push(other),
        }
    }
    Ok(value)
}

/// The value of a selectable field; the empty string when the object has none.
pub fn field_of<'a>(namespace: &'a str, name: &'a str, header: &'a Header, path: &str) -> &'a str {
    match path {
        "metadata.name" => name,
        "metadata.namespace" => namespace,
        path => header.field(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split(',')
            .filter_map(|pair| pair.split_once('='))
            .map(|(k, v)| (k.into(), v.into()))
            .collect()
    }

    #[test]
    fn selectors_match_as_kubernetes_documents() {
        let cases = [
            ("", "a=1", true),
            ("a=1", "a=1", true),
            ("a==1,b!=2", "a=1", true),
            ("b!=2", "b=2", false),
            ("a in (1, 2)", "a=2", true),
            ("a notin (1,2)", "", true),
            ("a notin (1,2)", "a=1", false),
            ("a", "a=1", true),
            ("!a", "a=1", false),
            ("a>3", "a=4", true),
            ("a<3", "a=4", false),
            ("a>3", "a=x", false),
            ("app.kubernetes.io/name=web", "app.kubernetes.io/name=web", true),
        ];
        for (selector, set, expected) in cases {
            assert_eq!(
                LabelSelector::parse(selector).unwrap().matches(&labels(set)),
                expected,
                "{selector} on {set}"
            );
        }
    }

    #[test]
    fn values_of_field_selectors_may_hold_anything_behind_a_backslash() {
        let cases = [
            (r"f=a\,b", "a,b", false),
            (r"f==a\=b", "a=b", false),
            (r"f!=a\\\,", r"a\,", true),
            (r"f=a\!\=b", "", false),
            ("f=a!", "a!", false),
            ("f=", "", false),
        ];
        for (text, value, negated) in cases {
            match FieldSelector::parse(text, &["f"]) {
                Ok(selector) => {
                    let [requirement] = selector.requirements.as_slice() else {
                        panic!("{text}: {selector:?}")
                    };
                    assert_eq!(
                        (requirement.value.as_str(), requirement.negated),
                        (value, negated),
                        "{text}"
                    );
                }
                Err(error) => {
                    assert_eq!(
                        error.to_string(),
                        r"invalid field selector: invalid escape sequence: \!",
                        "{text}"
                    );
                }
            }
        }
        let two = FieldSelector::parse(r"f=a\,b,metadata.name!=c", &["f"]).unwrap();
        assert_eq!(two.requirements.len(), 2);
        for (text, expected) in [
            ("f=a=b", "invalid field selector: unescaped character in value: 61"),
            ("f=a\\", "invalid field selector: invalid escape sequence: \\"),
            ("f", "unable to parse requirement: expected '=' or '!=' in \"f\""),
        ] {
            let error = FieldSelector::parse(text, &["f"]).unwrap_err();
            assert_eq!(error.to_string(), expected, "{text}");
        }
    }

    #[test]
    fn malformed_selectors_are_refused() {
        for bad in [
            "a in 1",
            "a in (1",
            "=b",
            "a b",
            "a=-",
            "a/b/c=1",
            "a>x",
            "a foo (b)",
            "a in b (c)",
            "a,,b",
            ",a",
            "a,",
            ",",
        ] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_label_selector_object_is_the_conjunction_of_both_lists() {
        let selector = LabelSelector::from_value(&json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["back"]}, {"key": "x", "operator": "DoesNotExist"}],
        }))
        .unwrap();
        assert!(selector.matches(&labels("app=web,tier=front")));
        assert!(!selector.matches(&labels("app=web,tier=back")));
        assert!(!selector.matches(&labels("app=web,x=1")));
        assert_eq!(selector.to_string(), "app=web,tier!=back,!x");
    }

    #[test]
    fn field_selectors_know_only_the_offered_paths() {
        assert_eq!(
            FieldSelector::parse("spec.foo=1", &["spec.nodeName"]),
            Err(SelectorError::UnknownField("spec.foo".into()))
        );
        assert!(FieldSelector::parse("metadata.name=a,spec.nodeName!=n1", &["spec.nodeName"]).is_ok());
    }
}
