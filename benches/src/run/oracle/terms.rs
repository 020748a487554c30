//! Owns the plain reading of selectors, node affinity and taints, as the API documents them. Called by the oracle alone. It
//! must share no code with the scheduler.

use super::Selector;
use k8s_openapi::api::core::v1 as core;
use std::collections::BTreeMap;

type Labels = BTreeMap<String, String>;

/// Which pods a term speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Matcher {
    namespaces: Vec<String>,
    namespace_selector: Option<Vec<Requirement>>,
    /// `None` selects nothing.
    selector: Option<Vec<Requirement>>,
}

/// Key, operator, values.
type Requirement = (String, String, Vec<String>);

impl Matcher {
    /// Of a term of affinity or anti-affinity of a pod in a namespace.
    pub fn of_term(own_namespace: &str, term: core::PodAffinityTerm) -> Self {
        let mut namespaces = term.namespaces.unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(own_namespace.to_owned());
        }
        namespaces.sort();
        Self {
            namespaces,
            namespace_selector: term
                .namespace_selector
                .map(|selector| requirements(Some(selector)).unwrap_or_default()),
            selector: requirements(term.label_selector),
        }
    }

    /// Of a spread constraint.
    pub fn in_namespace(own_namespace: &str, selector: Selector) -> Self {
        Self {
            namespaces: vec![own_namespace.to_owned()],
            namespace_selector: None,
            selector: requirements(selector),
        }
    }

    /// Whether a pod is among them.
    pub fn matches(&self, namespace: &str, labels: &Labels, namespaces: &BTreeMap<String, Labels>) -> bool {
        let empty = Labels::new();
        let of_namespace = namespaces.get(namespace).unwrap_or(&empty);
        let by_label = self.namespace_selector.as_ref();
        let in_namespace = self.namespaces.iter().any(|name| name == namespace)
            || by_label.is_some_and(|selector| selector.iter().all(|r| meets(r, of_namespace)));
        let selector = self.selector.as_ref();
        in_namespace && selector.is_some_and(|selector| selector.iter().all(|r| meets(r, labels)))
    }
}

fn requirements(selector: Selector) -> Option<Vec<Requirement>> {
    let selector = selector?;
    let equal = selector.match_labels.unwrap_or_default().into_iter();
    let mut all: Vec<Requirement> = equal.map(|(key, value)| (key, "In".to_owned(), vec![value])).collect();
    let expressions = selector.match_expressions.unwrap_or_default().into_iter();
    all.extend(expressions.map(|r| (r.key, r.operator, r.values.unwrap_or_default())));
    Some(all)
}

fn meets((key, operator, values): &Requirement, labels: &Labels) -> bool {
    let value = labels.get(key);
    match operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" | "Lt" => {
            let numbers = (
                value.and_then(|v| v.parse::<i64>().ok()),
                values.first().and_then(|v| v.parse().ok()),
            );
            match numbers {
                (Some(have), Some(limit)) if operator == "Gt" => have > limit,
                (Some(have), Some(limit)) => have < limit,
                _ => false,
            }
        }
        _ => false,
    }
}

/// Whether taints, `unschedulable`, node selector and required node affinity let a pod on a node.
pub fn node_admits(pod: &core::Pod, node: &core::Node) -> Result<(), String> {
    tolerates(pod, node)?;
    let cordoned = node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true));
    let taint = core::Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Default::default()
    };
    if cordoned && !is_tolerated(pod, &taint) {
        return Err("the node is unschedulable".to_owned());
    }
    affinity_admits(pod, node)
}

/// Whether a pod tolerates the taints that keep pods away.
pub fn tolerates(pod: &core::Pod, node: &core::Node) -> Result<(), String> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let mut hard = taints.filter(|taint| taint.effect != "PreferNoSchedule");
    match hard.find(|taint| !is_tolerated(pod, taint)) {
        Some(taint) => Err(format!("taint {}:{} is not tolerated", taint.key, taint.effect)),
        None => Ok(()),
    }
}

fn is_tolerated(pod: &core::Pod, taint: &core::Taint) -> bool {
    let mut tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    tolerations.any(|toleration| {
        let effect = toleration.effect.as_deref().unwrap_or_default();
        let key = toleration.key.as_deref().unwrap_or_default();
        let exists = toleration.operator.as_deref() == Some("Exists");
        (effect.is_empty() || effect == taint.effect)
            && (key == taint.key || key.is_empty() && exists)
            && (exists || toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default())
    })
}

/// Whether node selector and required node affinity let a pod on a node.
pub fn affinity_admits(pod: &core::Pod, node: &core::Node) -> Result<(), String> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let empty = Labels::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    for (key, value) in spec.node_selector.iter().flatten() {
        if labels.get(key) != Some(value) {
            return Err(format!("node selector {key}={value}"));
        }
    }
    let affinity = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref());
    let Some(required) = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()) else {
        return Ok(());
    };
    let name = Labels::from([(
        "metadata.name".to_owned(),
        node.metadata.name.clone().unwrap_or_default(),
    )]);
    let holds = |requirement: &core::NodeSelectorRequirement, of: &Labels| {
        let values = requirement.values.clone().unwrap_or_default();
        meets(&(requirement.key.clone(), requirement.operator.clone(), values), of)
    };
    let admits = required.node_selector_terms.iter().any(|term| {
        let (expressions, fields) = (
            term.match_expressions.iter().flatten(),
            term.match_fields.iter().flatten(),
        );
        let says_something = expressions.clone().next().is_some() || fields.clone().next().is_some();
        says_something && expressions.clone().all(|r| holds(r, labels)) && fields.clone().all(|r| holds(r, &name))
    });
    match admits {
        true => Ok(()),
        false => Err("required node affinity".to_owned()),
    }
}
