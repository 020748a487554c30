//! Validation of what a pod says about where it may run: node selector, affinity, tolerations, topology spread.

use std::collections::BTreeSet;

use serde_json::Value;

use super::container::only_known;
use crate::access::Access;
use crate::cause::{Causes, Path};
use crate::{meta, rules};

/// Validates the scheduling fields of a pod's spec.
pub fn validate(spec: &Value, path: &Path<'_>, causes: &mut Causes) {
    meta::labels(spec.at(&["nodeSelector"]), path.field("nodeSelector"), causes);
    tolerations(spec, path, causes);
    affinity(spec.at(&["affinity"]), &path.field("affinity"), causes);
    spread(spec, path, causes);
    let gates = path.field("schedulingGates");
    let mut names = BTreeSet::new();
    for (index, gate) in spec.items("schedulingGates").iter().enumerate() {
        let name = gate.text("name");
        for problem in rules::qualified_name(name) {
            causes.invalid(gates.index(index), name, problem);
        }
        if !names.insert(name) {
            causes.duplicate(gates.index(index), name);
        }
    }
}

const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "PreferNoSchedule"];

/// Validates the tolerations of a pod, or those that a class of pods adds.
pub fn tolerations(spec: &Value, path: &Path<'_>, causes: &mut Causes) {
    let list = path.field("tolerations");
    for (index, toleration) in spec.items("tolerations").iter().enumerate() {
        let at = list.index(index);
        let (key, operator, effect) = (
            toleration.text("key"),
            toleration.text("operator"),
            toleration.text("effect"),
        );
        if !key.is_empty() {
            for problem in rules::qualified_name(key) {
                causes.invalid(at.field("key"), key, problem);
            }
        }
        if key.is_empty() && operator != "Exists" {
            let text = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            causes.invalid(at.field("operator"), operator, text);
        }
        if toleration.has("tolerationSeconds") && effect != "NoExecute" {
            causes.invalid(
                at.field("effect"),
                effect,
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            );
        }
        match operator {
            "" | "Equal" => {
                for problem in rules::label_value(toleration.text("value")) {
                    causes.invalid(at.field("operator"), toleration.text("value"), problem);
                }
            }
            "Exists" => {
                if !toleration.text("value").is_empty() {
                    let text = "value must be empty when `operator` is 'Exists'";
                    causes.invalid(at.field("operator"), toleration.clone(), text);
                }
            }
            other => causes.not_supported(at.field("operator"), other, &["Equal", "Exists"]),
        }
        only_known(toleration, &at, "effect", &EFFECTS, causes);
    }
}

/// Validates the taints of a node.
pub fn taints(spec: &Value, path: &Path<'_>, causes: &mut Causes) {
    let list = path.field("taints");
    let mut known = BTreeSet::new();
    for (index, taint) in spec.items("taints").iter().enumerate() {
        let at = list.index(index);
        for problem in rules::qualified_name(taint.text("key")) {
            causes.invalid(at.field("key"), taint.text("key"), problem);
        }
        for problem in rules::label_value(taint.text("value")) {
            causes.invalid(at.field("value"), taint.text("value"), problem);
        }
        if taint.text("effect").is_empty() {
            causes.required(at.field("effect"), "");
        }
        only_known(taint, &at, "effect", &EFFECTS, causes);
        if !known.insert((taint.text("key"), taint.text("effect"))) {
            let text = format!("taints must be unique by key and effect pair: {}", taint.text("key"));
            causes.duplicate(at, text);
        }
    }
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn affinity(affinity: &Value, path: &Path<'_>, causes: &mut Causes) {
    let node = affinity.at(&["nodeAffinity"]);
    if !node.is_null() {
        let at = path.field("nodeAffinity");
        let required = node.at(&[REQUIRED]);
        if !required.is_null() {
            node_selector(required, &at.field(REQUIRED), causes);
        }
        let preferred = at.field(PREFERRED);
        for (index, weighted) in node.items(PREFERRED).iter().enumerate() {
            let at = preferred.index(index);
            weight(weighted, &at, causes);
            node_term(weighted.at(&["preference"]), &at.field("preference"), causes);
        }
    }
    for name in ["podAffinity", "podAntiAffinity"] {
        let (rules, at) = (affinity.at(&[name]), path.field(name));
        let required = at.field(REQUIRED);
        for (index, term) in rules.items(REQUIRED).iter().enumerate() {
            pod_term(term, &required.index(index), causes);
        }
        let preferred = at.field(PREFERRED);
        for (index, weighted) in rules.items(PREFERRED).iter().enumerate() {
            let at = preferred.index(index);
            weight(weighted, &at, causes);
            pod_term(weighted.at(&["podAffinityTerm"]), &at.field("podAffinityTerm"), causes);
        }
    }
}

/// Validates terms of which a node must fit one.
pub fn node_selector(selector: &Value, path: &Path<'_>, causes: &mut Causes) {
    let terms = path.field("nodeSelectorTerms");
    if selector.items("nodeSelectorTerms").is_empty() {
        causes.required(terms, "must have at least one node selector term");
    }
    for (index, term) in selector.items("nodeSelectorTerms").iter().enumerate() {
        node_term(term, &terms.index(index), causes);
    }
}

fn weight(weighted: &Value, path: &Path<'_>, causes: &mut Causes) {
    let weight = weighted.int("weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        causes.invalid(path.field("weight"), weight, "must be in the range 1-100");
    }
}

fn node_term(term: &Value, path: &Path<'_>, causes: &mut Causes) {
    for list in ["matchExpressions", "matchFields"] {
        let expressions = path.field(list);
        for (index, requirement) in term.items(list).iter().enumerate() {
            let at = expressions.index(index);
            let values = requirement.items("values");
            match requirement.text("operator") {
                "In" | "NotIn" if values.is_empty() => {
                    causes.required(
                        at.field("values"),
                        "must be specified when `operator` is 'In' or 'NotIn'",
                    );
                }
                "Exists" | "DoesNotExist" if !values.is_empty() => {
                    let text = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    causes.forbidden(at.field("values"), text);
                }
                "Gt" | "Lt" if values.len() != 1 => {
                    let text = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                    causes.required(at.field("values"), text);
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
                other => causes.invalid(at.field("operator"), other, "not a valid selector operator"),
            }
            if list == "matchFields" {
                if requirement.text("key") != "metadata.name" {
                    causes.invalid(
                        at.field("key"),
                        requirement.text("key"),
                        "not a valid field selector key",
                    );
                }
            } else {
                for problem in rules::qualified_name(requirement.text("key")) {
                    causes.invalid(at.field("key"), requirement.text("key"), problem);
                }
            }
        }
    }
}

fn pod_term(term: &Value, path: &Path<'_>, causes: &mut Causes) {
    for name in ["labelSelector", "namespaceSelector"] {
        meta::label_selector(term.at(&[name]), path.field(name), causes);
    }
    let key = term.text("topologyKey");
    if key.is_empty() {
        causes.required(path.field("topologyKey"), "can not be empty");
    } else {
        for problem in rules::qualified_name(key) {
            causes.invalid(path.field("topologyKey"), key, problem);
        }
    }
    let namespaces = path.field("namespaces");
    for (index, namespace) in term.items("namespaces").iter().enumerate() {
        let namespace = namespace.as_str().unwrap_or_default();
        for problem in rules::dns_label(namespace) {
            causes.invalid(namespaces.index(index), namespace, problem);
        }
    }
}

fn spread(spec: &Value, path: &Path<'_>, causes: &mut Causes) {
    let list = path.field("topologySpreadConstraints");
    let mut known = BTreeSet::new();
    for (index, constraint) in spec.items("topologySpreadConstraints").iter().enumerate() {
        let at = list.index(index);
        let skew = constraint.int("maxSkew").unwrap_or(0);
        if skew <= 0 {
            causes.invalid(at.field("maxSkew"), skew, "must be greater than zero");
        }
        let (key, when) = (constraint.text("topologyKey"), constraint.text("whenUnsatisfiable"));
        if key.is_empty() {
            causes.required(at.field("topologyKey"), "can not be empty");
        }
        if !matches!(when, "DoNotSchedule" | "ScheduleAnyway") {
            causes.not_supported(
                at.field("whenUnsatisfiable"),
                when,
                &["DoNotSchedule", "ScheduleAnyway"],
            );
        }
        if let Some(domains) = constraint.int("minDomains") {
            if domains <= 0 {
                causes.invalid(at.field("minDomains"), domains, "must be greater than zero");
            }
            if when != "DoNotSchedule" {
                let text = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}");
                causes.invalid(at.field("minDomains"), domains, text);
            }
        }
        if !known.insert((key, when)) {
            causes.duplicate(at, format!("{{{key}, {when}}}"));
        }
        for name in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            only_known(constraint, &at, name, &["Honor", "Ignore"], causes);
        }
        meta::label_selector(constraint.at(&["labelSelector"]), at.field("labelSelector"), causes);
    }
}
