//! Columns of custom kinds' tables: `additionalPrinterColumns`, each a JSONPath into the object. The paths are those that
//! Kubernetes takes here: fields, indices, `[*]`, quoted names and filters that compare one field with a constant.

use protocol::UnixMillis;
use serde_json::{Value, json};

use crate::access::Access;
use crate::table::Column;
use crate::time::age_since;

/// A column.
#[derive(Debug)]
pub struct CustomColumn {
    name: String,
    kind: String,
    format: String,
    description: String,
    priority: i64,
    path: Option<JsonPath>,
}

impl CustomColumn {
    /// Reads a version's columns. One that has none shows the age.
    pub fn read_all(version: &Value) -> Vec<CustomColumn> {
        let read = |column: &Value| CustomColumn {
            name: column.text("name").to_owned(),
            kind: column.text("type").to_owned(),
            format: column.text("format").to_owned(),
            description: match column.text("description") {
                "" => format!(
                    "Custom resource definition column (in JSONPath format): {}",
                    column.text("jsonPath")
                ),
                text => text.to_owned(),
            },
            priority: column.int("priority").unwrap_or(0),
            path: JsonPath::parse(column.text("jsonPath")),
        };
        let columns: Vec<CustomColumn> = version.items("additionalPrinterColumns").iter().map(read).collect();
        if !columns.is_empty() {
            return columns;
        }
        let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
                         "description": Column::AGE.description});
        vec![read(&age)]
    }

    /// The column as a table defines it.
    pub fn definition(&self) -> Value {
        json!({
            "name": self.name, "type": self.kind, "format": self.format,
            "description": self.description, "priority": self.priority,
        })
    }

    /// The column's cell for an object; null where the path leads nowhere.
    pub fn cell(&self, object: &Value, now: UnixMillis) -> Value {
        let Some(found) = self.path.as_ref().and_then(|path| path.first(object)) else {
            return Value::Null;
        };
        match (self.kind.as_str(), found) {
            ("integer", Value::Number(number)) => number.as_i64().map_or(Value::Null, Value::from),
            ("integer", Value::String(text)) => text.parse::<i64>().map_or(Value::Null, Value::from),
            ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => found.clone(),
            ("string", Value::String(text)) => text.as_str().into(),
            ("string", Value::Null) => Value::Null,
            ("string", other) => other.to_string().into(),
            ("date", Value::String(text)) => match crate::time::parse(text) {
                Some(_) => age_since(text, now).into(),
                None => "<invalid>".into(),
            },
            _ => Value::Null,
        }
    }
}

/// A path into an object.
#[derive(Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Debug, PartialEq)]
enum Step {
    Member(String),
    Item(i64),
    Every,
    /// `?(@.type=="Ready")`: the members to walk to, whether they must be equal, and to what.
    Where(Vec<String>, bool, Value),
    /// `?(@.name)`: the member is there.
    Has(Vec<String>),
}

impl JsonPath {
    /// Parses a path; `None` for what is none.
    pub fn parse(text: &str) -> Option<JsonPath> {
        let mut rest = text.trim();
        // `{.spec}` and `.spec` are the same.
        if let Some(inner) = rest.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            rest = inner;
        }
        rest = rest.strip_prefix('$').unwrap_or(rest);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                let (name, after) = member(after)?;
                rest = after;
                match name.as_str() {
                    "*" => steps.push(Step::Every),
                    "" if rest.starts_with('[') || rest.is_empty() => {}
                    "" => return None,
                    _ => steps.push(Step::Member(name)),
                }
            } else {
                let inner = rest.strip_prefix('[')?;
                let end = closing(inner)?;
                steps.push(bracket(inner[..end].trim())?);
                rest = &inner[end + 1..];
            }
        }
        Some(JsonPath(steps))
    }

    /// The first value that the path leads to.
    pub fn first<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        let mut found = vec![value];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.apply(value)).collect();
        }
        found.into_iter().next()
    }

    /// The members that it walks through, where it is a plain path.
    pub fn members(&self) -> Option<Vec<&str>> {
        let member = |step: &'_ Step| match step {
            Step::Member(name) => Some(name.clone()),
            _ => None,
        };
        self.0.iter().all(|step| member(step).is_some()).then(|| {
            let names = self.0.iter().filter_map(|step| match step {
                Step::Member(name) => Some(name.as_str()),
                _ => None,
            });
            names.collect()
        })
    }
}

impl Step {
    fn apply<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let items = || match value {
            Value::Array(items) => items.iter().collect(),
            Value::Object(members) => members.values().collect(),
            _ => Vec::new(),
        };
        let walk = |value: &'v Value, names: &[String]| names.iter().try_fold(value, |value, name| value.get(name));
        match self {
            Step::Member(name) => value.get(name).into_iter().collect(),
            Step::Item(index) => {
                let list = value.as_array().map_or(&[][..], Vec::as_slice);
                let at = if *index < 0 { *index + list.len() as i64 } else { *index };
                usize::try_from(at)
                    .ok()
                    .and_then(|at| list.get(at))
                    .into_iter()
                    .collect()
            }
            Step::Every => items(),
            Step::Where(names, equal, wanted) => {
                let fits = |item: &&'v Value| walk(item, names).is_some_and(|found| (found == wanted) == *equal);
                items().into_iter().filter(fits).collect()
            }
            Step::Has(names) => items().into_iter().filter(|item| walk(item, names).is_some()).collect(),
        }
    }
}

/// A member's name up to the next step; a backslash takes a dot into it.
fn member(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '.' | '[' => return Some((name, &text[at..])),
            '\\' => name.push(characters.next()?.1),
            other => name.push(other),
        }
    }
    Some((name, ""))
}

/// Where the bracket closes, quotes aside.
fn closing(text: &str) -> Option<usize> {
    let (mut quote, mut depth) = (None, 0);
    for (at, character) in text.char_indices() {
        match (quote, character) {
            (Some(open), character) if character == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(character),
            (None, '[' | '(') => depth += 1,
            (None, ')') => depth -= 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(inner: &str) -> Option<Step> {
    if inner == "*" {
        return Some(Step::Every);
    }
    if let Some(name) = quoted(inner) {
        return Some(Step::Member(name));
    }
    if let Some(filter) = inner.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        let filter = filter.trim().strip_prefix('@')?;
        let (path, test) = match (filter.find("=="), filter.find("!=")) {
            (Some(at), _) => (&filter[..at], Some((true, &filter[at + 2..]))),
            (None, Some(at)) => (&filter[..at], Some((false, &filter[at + 2..]))),
            (None, None) => (filter, None),
        };
        let path = JsonPath::parse(path.trim())?;
        let names: Vec<String> = path.members()?.into_iter().map(str::to_owned).collect();
        return Some(match test {
            None => Step::Has(names),
            Some((equal, wanted)) => {
                let wanted = wanted.trim();
                let wanted = match quoted(wanted) {
                    Some(text) => Value::String(text),
                    None => serde_json::from_str(wanted).ok()?,
                };
                Step::Where(names, equal, wanted)
            }
        });
    }
    inner.parse().ok().map(Step::Item)
}

fn quoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    Some(inner.replace("\\.", "."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_where_kubernetes_leads_them() {
        let object = json!({
            "spec": {"replicas": 3, "images": ["a", "b"], "a.b": "dotted", "nested": [{"name": "x", "port": 80}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Stale", "status": "False"}]},
        });
        let cases = [
            (".spec.replicas", Some(json!(3))),
            ("{.spec.replicas}", Some(json!(3))),
            (".spec.images[1]", Some(json!("b"))),
            (".spec.images[-1]", Some(json!("b"))),
            (".spec.images[*]", Some(json!("a"))),
            (".spec.images", Some(json!(["a", "b"]))),
            (".spec.a\\.b", Some(json!("dotted"))),
            (".spec['a.b']", Some(json!("dotted"))),
            (".status.conditions[?(@.type==\"Stale\")].status", Some(json!("False"))),
            (".status.conditions[?(@.type=='Ready')].status", Some(json!("True"))),
            (".status.conditions[?(@.type!='Ready')].type", Some(json!("Stale"))),
            (".spec.nested[?(@.port==80)].name", Some(json!("x"))),
            (".spec.nested[?(@.port)].name", Some(json!("x"))),
            (".spec.nope.deep", None),
            (".spec.images[7]", None),
        ];
        for (path, expected) in cases {
            let parsed = JsonPath::parse(path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!(parsed.first(&object), expected.as_ref(), "{path}");
        }
        for wrong in [".spec[", ".spec[x]", "spec", ".a..b", ".a[?(b)]"] {
            assert_eq!(JsonPath::parse(wrong), None, "{wrong}");
        }
    }
}
