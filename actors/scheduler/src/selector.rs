//! Owns label selectors, node selectors, taints and tolerations in interned form, and what they match. Called by
//! the parsers, the plugins and the topology counters. It must give Kubernetes' meaning exactly, also for absent keys.

use crate::intern::{Sym, Symbols};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

/// Labels, sorted by key.
pub type Labels = Vec<(Sym, Sym)>;

/// The value of a label.
pub fn label(labels: &[(Sym, Sym)], key: Sym) -> Option<Sym> {
    labels
        .binary_search_by_key(&key, |(k, _)| *k)
        .ok()
        .map(|at| labels[at].1)
}

/// One test on the value of a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// The key is present with one of the values (sorted).
    In(Vec<Sym>),
    /// The key is absent, or present with none of the values (sorted).
    NotIn(Vec<Sym>),
    /// The key is present.
    Exists,
    /// The key is absent.
    DoesNotExist,
    /// The value is an integer above this one.
    Gt(i64),
    /// The value is an integer below this one.
    Lt(i64),
    /// The requirement could not be understood: it matches nothing.
    Invalid,
}

/// A key and the test on its value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// The label's key.
    pub key: Sym,
    /// The test.
    pub operator: Operator,
}

impl Requirement {
    /// Reads a requirement; an unknown operator or an unusable value gives one that matches nothing.
    pub fn parse(symbols: &mut Symbols, key: &str, operator: &str, values: &[String]) -> Self {
        let mut syms: Vec<Sym> = values.iter().map(|value| symbols.intern(value)).collect();
        syms.sort_unstable();
        syms.dedup();
        let bound = || match values {
            [only] => only.parse::<i64>().ok(),
            _ => None,
        };
        let operator = match operator {
            "In" => Operator::In(syms),
            "NotIn" => Operator::NotIn(syms),
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => bound().map_or(Operator::Invalid, Operator::Gt),
            "Lt" => bound().map_or(Operator::Invalid, Operator::Lt),
            _ => Operator::Invalid,
        };
        Self {
            key: symbols.intern(key),
            operator,
        }
    }

    fn written(&self, symbols: &Symbols) -> serde_json::Value {
        let texts = |values: &[Sym]| values.iter().map(|value| symbols.text(*value).to_string()).collect();
        let (operator, values): (&str, Vec<String>) = match &self.operator {
            Operator::In(values) => ("In", texts(values)),
            Operator::NotIn(values) => ("NotIn", texts(values)),
            Operator::Exists => ("Exists", Vec::new()),
            Operator::DoesNotExist => ("DoesNotExist", Vec::new()),
            Operator::Gt(bound) => ("Gt", vec![bound.to_string()]),
            Operator::Lt(bound) => ("Lt", vec![bound.to_string()]),
            // Matches nothing, as the original does.
            Operator::Invalid => ("In", Vec::new()),
        };
        serde_json::json!({"key": &**symbols.text(self.key), "operator": operator, "values": values})
    }

    /// Whether labels meet the requirement.
    pub fn matches(&self, symbols: &Symbols, labels: &[(Sym, Sym)]) -> bool {
        self.matches_value(symbols, label(labels, self.key))
    }

    fn matches_value(&self, symbols: &Symbols, value: Option<Sym>) -> bool {
        let number = |value: Option<Sym>| value.and_then(|v| symbols.text(v).parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|v| values.binary_search(&v).is_ok()),
            Operator::NotIn(values) => value.is_none_or(|v| values.binary_search(&v).is_err()),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt(bound) => number(value).is_some_and(|n| n > *bound),
            Operator::Lt(bound) => number(value).is_some_and(|n| n < *bound),
            Operator::Invalid => false,
        }
    }
}

/// A label selector: all requirements hold. `None` in a term means "selects nothing"; an empty list selects everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct LabelSelector {
    /// The requirements, in a canonical order.
    pub requirements: Vec<Requirement>,
}

impl LabelSelector {
    /// Reads a selector.
    pub fn parse(symbols: &mut Symbols, selector: &meta::LabelSelector) -> Self {
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement {
                key: symbols.intern(key),
                operator: Operator::In(vec![symbols.intern(value)]),
            });
        }
        for expression in selector.match_expressions.iter().flatten() {
            let values = expression.values.as_deref().unwrap_or_default();
            requirements.push(Requirement::parse(
                symbols,
                &expression.key,
                &expression.operator,
                values,
            ));
        }
        requirements.sort_by_key(|requirement| requirement.key);
        Self { requirements }
    }

    /// Whether labels are selected.
    pub fn matches(&self, symbols: &Symbols, labels: &[(Sym, Sym)]) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.matches(symbols, labels))
    }
}

/// One alternative of a node selector: all expressions and all fields hold. An empty term matches no node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeSelectorTerm {
    /// Tests on labels.
    pub expressions: Vec<Requirement>,
    /// Tests on `metadata.name`, the only field that Kubernetes allows.
    pub name_fields: Vec<Requirement>,
}

impl NodeSelectorTerm {
    /// Reads a term.
    pub fn parse(symbols: &mut Symbols, term: &core::NodeSelectorTerm) -> Self {
        let mut read = |list: &Option<Vec<core::NodeSelectorRequirement>>| {
            list.iter()
                .flatten()
                .map(|r| Requirement::parse(symbols, &r.key, &r.operator, r.values.as_deref().unwrap_or_default()))
                .collect::<Vec<_>>()
        };
        let expressions = read(&term.match_expressions);
        let mut name_fields = read(&term.match_fields);
        let name_key = symbols.intern("metadata.name");
        for field in &mut name_fields {
            if field.key != name_key {
                field.operator = Operator::Invalid;
            }
        }
        Self {
            expressions,
            name_fields,
        }
    }

    /// Whether a node with this name and these labels matches.
    pub fn matches(&self, symbols: &Symbols, name: Sym, labels: &[(Sym, Sym)]) -> bool {
        (!self.expressions.is_empty() || !self.name_fields.is_empty())
            && self.expressions.iter().all(|r| r.matches(symbols, labels))
            && self.name_fields.iter().all(|r| r.matches_value(symbols, Some(name)))
    }

    /// The term as the API writes it.
    pub fn written(&self, symbols: &Symbols) -> serde_json::Value {
        let list = |requirements: &[Requirement]| -> Vec<serde_json::Value> {
            requirements
                .iter()
                .map(|requirement| requirement.written(symbols))
                .collect()
        };
        let mut term = serde_json::json!({});
        if !self.expressions.is_empty() {
            term["matchExpressions"] = list(&self.expressions).into();
        }
        if !self.name_fields.is_empty() {
            term["matchFields"] = list(&self.name_fields).into();
        }
        term
    }

    /// The node names to which the fields restrict the term, if they do.
    pub fn names(&self) -> Option<Vec<Sym>> {
        let mut restricted: Option<Vec<Sym>> = None;
        for field in &self.name_fields {
            if let Operator::In(values) = &field.operator {
                restricted = Some(match restricted {
                    None => values.clone(),
                    Some(names) => names.into_iter().filter(|name| values.contains(name)).collect(),
                });
            }
        }
        restricted
    }
}

/// What a pod requires of a node's labels: the node selector and one of the required terms.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct NodeRequirements {
    /// `spec.nodeSelector`, sorted.
    pub selector: Labels,
    /// `requiredDuringSchedulingIgnoredDuringExecution`: any of these; `None` if the pod has none.
    pub required: Option<Vec<NodeSelectorTerm>>,
}

impl NodeRequirements {
    /// Whether a node meets them.
    pub fn matches(&self, symbols: &Symbols, name: Sym, labels: &[(Sym, Sym)]) -> bool {
        self.selector
            .iter()
            .all(|(key, value)| label(labels, *key) == Some(*value))
            && self
                .required
                .as_ref()
                .is_none_or(|terms| terms.iter().any(|t| t.matches(symbols, name, labels)))
    }

    /// Whether every node meets them.
    pub fn is_empty(&self) -> bool {
        self.selector.is_empty() && self.required.is_none()
    }
}

/// What a taint does to pods that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TaintEffect {
    /// No new pods.
    NoSchedule,
    /// No new pods if it can be avoided.
    PreferNoSchedule,
    /// No new pods, and running ones go.
    NoExecute,
    /// An effect that this version does not know: it never keeps a pod away.
    Other,
}

impl TaintEffect {
    fn parse(text: &str) -> Self {
        match text {
            "NoSchedule" => Self::NoSchedule,
            "PreferNoSchedule" => Self::PreferNoSchedule,
            "NoExecute" => Self::NoExecute,
            _ => Self::Other,
        }
    }
}

/// A taint of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Taint {
    /// Key.
    pub key: Sym,
    /// Value, the empty string's symbol if absent.
    pub value: Sym,
    /// Effect.
    pub effect: TaintEffect,
}

impl Taint {
    /// Reads a taint.
    pub fn parse(symbols: &mut Symbols, taint: &core::Taint) -> Self {
        Self {
            key: symbols.intern(&taint.key),
            value: symbols.intern(taint.value.as_deref().unwrap_or_default()),
            effect: TaintEffect::parse(&taint.effect),
        }
    }
}

/// How a toleration compares its value with the taint's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TolerationOperator {
    /// The values are equal.
    Equal,
    /// Any value.
    Exists,
    /// The taint's value is an integer below the toleration's.
    Lt,
    /// The taint's value is an integer above the toleration's.
    Gt,
    /// Unknown: tolerates nothing.
    Invalid,
}

/// A toleration of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Toleration {
    /// Key; `None` (with `Exists`) tolerates every key.
    pub key: Option<Sym>,
    /// Operator.
    pub operator: TolerationOperator,
    /// Value.
    pub value: Sym,
    /// Effect; `None` tolerates every effect.
    pub effect: Option<TaintEffect>,
}

impl Toleration {
    /// Reads a toleration.
    pub fn parse(symbols: &mut Symbols, toleration: &core::Toleration) -> Self {
        Self {
            key: toleration
                .key
                .as_deref()
                .filter(|key| !key.is_empty())
                .map(|key| symbols.intern(key)),
            operator: match toleration.operator.as_deref().unwrap_or_default() {
                "" | "Equal" => TolerationOperator::Equal,
                "Exists" => TolerationOperator::Exists,
                "Lt" => TolerationOperator::Lt,
                "Gt" => TolerationOperator::Gt,
                _ => TolerationOperator::Invalid,
            },
            value: symbols.intern(toleration.value.as_deref().unwrap_or_default()),
            effect: toleration
                .effect
                .as_deref()
                .filter(|e| !e.is_empty())
                .map(TaintEffect::parse),
        }
    }

    /// Whether it tolerates a taint.
    pub fn tolerates(&self, symbols: &Symbols, taint: &Taint) -> bool {
        if self.effect.is_some_and(|effect| effect != taint.effect) || self.key.is_some_and(|key| key != taint.key) {
            return false;
        }
        let numbers = || {
            Some((
                symbols.text(taint.value).parse::<i64>().ok()?,
                symbols.text(self.value).parse::<i64>().ok()?,
            ))
        };
        match self.operator {
            TolerationOperator::Exists => true,
            TolerationOperator::Equal => self.value == taint.value,
            TolerationOperator::Lt => numbers().is_some_and(|(taint, own)| taint < own),
            TolerationOperator::Gt => numbers().is_some_and(|(taint, own)| taint > own),
            TolerationOperator::Invalid => false,
        }
    }
}

/// The first taint with one of the given effects that no toleration tolerates.
pub fn untolerated<'a>(
    symbols: &Symbols,
    taints: &'a [Taint],
    tolerations: &[Toleration],
    concerns: impl Fn(TaintEffect) -> bool,
) -> Option<&'a Taint> {
    taints.iter().filter(|taint| concerns(taint.effect)).find(|taint| {
        !tolerations
            .iter()
            .any(|toleration| toleration.tolerates(symbols, taint))
    })
}

/// Whether an effect keeps pods away.
pub fn keeps_away(effect: TaintEffect) -> bool {
    matches!(effect, TaintEffect::NoSchedule | TaintEffect::NoExecute)
}
