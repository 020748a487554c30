//! Owns templates of API objects: JSON trees whose strings may hold `{{expression}}`. Called by the world that a workload
//! runs in. It must render the same object for the same index, and must say which template a mistake is in.

use crate::expression::{ExpressionError, Parameters, evaluate};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Why a template gives no object.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// An expression in it has no value.
    #[error("template {template}: {source}")]
    Expression {
        /// The template's name.
        template: String,
        /// Why.
        source: ExpressionError,
    },
    /// What it renders is not the object that it should be.
    #[error("template {template} does not make a {kind}: {source}")]
    Object {
        /// The template's name.
        template: String,
        /// The wanted kind.
        kind: &'static str,
        /// Why.
        source: serde_json::Error,
    },
}

/// A template.
#[derive(Clone, Debug)]
pub struct Template {
    name: String,
    value: Value,
    varies: bool,
}

impl Template {
    /// A template from its tree.
    pub fn new(name: &str, value: Value) -> Self {
        let varies = holds_expression(&value);
        Self {
            name: name.to_owned(),
            value,
            varies,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether two indices may give different objects.
    pub fn varies(&self) -> bool {
        self.varies
    }

    /// The tree as it is written.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The tree with every expression replaced. A string that is one expression and nothing else becomes a number.
    pub fn render(&self, parameters: &Parameters) -> Result<Value, TemplateError> {
        if !self.varies {
            return Ok(self.value.clone());
        }
        render(&self.value, parameters).map_err(|source| TemplateError::Expression {
            template: self.name.clone(),
            source,
        })
    }

    /// Reads a rendered tree as an API object.
    pub fn read<T: DeserializeOwned>(&self, value: Value, kind: &'static str) -> Result<T, TemplateError> {
        serde_json::from_value(value).map_err(|source| TemplateError::Object {
            template: self.name.clone(),
            kind,
            source,
        })
    }
}

fn holds_expression(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains("{{"),
        Value::Array(items) => items.iter().any(holds_expression),
        Value::Object(fields) => fields
            .iter()
            .any(|(key, value)| key.contains("{{") || holds_expression(value)),
        _ => false,
    }
}

fn render(value: &Value, parameters: &Parameters) -> Result<Value, ExpressionError> {
    Ok(match value {
        Value::String(text) => match text.strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}")) {
            Some(expression) if !expression.contains("{{") => Value::from(evaluate(expression, parameters)?),
            _ => Value::String(render_text(text, parameters)?),
        },
        Value::Array(items) => Value::Array(
            items
                .iter()
                .map(|item| render(item, parameters))
                .collect::<Result<_, _>>()?,
        ),
        Value::Object(fields) => {
            let mut rendered = Map::new();
            for (key, value) in fields {
                rendered.insert(render_text(key, parameters)?, render(value, parameters)?);
            }
            Value::Object(rendered)
        }
        other => other.clone(),
    })
}

fn render_text(text: &str, parameters: &Parameters) -> Result<String, ExpressionError> {
    let mut rendered = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((expression, after)) = after.split_once("}}") else {
            return Err(ExpressionError::Malformed {
                expression: text.to_owned(),
            });
        };
        rendered.push_str(before);
        rendered.push_str(&evaluate(expression, parameters)?.to_string());
        rest = after;
    }
    rendered.push_str(rest);
    Ok(rendered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expressions_are_replaced_in_keys_strings_and_numbers() {
        let template = Template::new(
            "t",
            json!({"a-{{index}}": "x{{index % 3}}y{{index}}", "n": "{{index * 2}}", "list": ["{{index}}m", true]}),
        );
        let rendered = template.render(&Parameters::from([("index".to_owned(), 4)])).unwrap();
        assert_eq!(rendered, json!({"a-4": "x1y4", "n": 8, "list": ["4m", true]}));
    }

    #[test]
    fn a_mistake_names_its_template() {
        let template = Template::new("wrong", json!({"a": "{{who}}"}));
        let error = template.render(&Parameters::new()).unwrap_err().to_string();
        assert!(error.starts_with("template wrong: `who`"), "{error}");
        let template = Template::new("open", json!({"a": "x{{index"}));
        assert!(template.render(&Parameters::new()).is_err());
    }
}
