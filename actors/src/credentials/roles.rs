//! ClusterRoles that aggregate others hold the rules of what they select, as people read them. RBAC itself goes by the selection
//! (`access::rbac`); what is written here is for `kubectl get` and for tools. After Kubernetes' clusterroleaggregation controller.

use std::collections::BTreeMap;

use api::access::Access;
use protocol::selector::LabelSelector;
use serde_json::Value;

/// The role as it should be stored; `None` when it is, or when it aggregates nothing.
pub fn aggregated(role: &Value, others: &BTreeMap<&str, &Value>) -> Option<Value> {
    if !role.has("aggregationRule") || role.at(&["metadata"]).has("deletionTimestamp") {
        return None;
    }
    let own = role.at(&["metadata"]).text("name");
    let mut rules: Vec<&Value> = Vec::new();
    for selector in role.at(&["aggregationRule"]).items("clusterRoleSelectors") {
        let Ok(selector) = LabelSelector::from_value(selector) else {
            continue;
        };
        // By name, so that the order is the same each time.
        let selected = others
            .iter()
            .filter(|(name, other)| **name != own && selector.matches(&labels(other)));
        for rule in selected.flat_map(|(_, other)| other.items("rules")) {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
    }
    let rules = Value::from_iter(rules.into_iter().cloned());
    let is_so = match role.get("rules") {
        None | Some(Value::Null) => rules.as_array().is_some_and(Vec::is_empty),
        Some(stored) => *stored == rules,
    };
    if is_so {
        return None;
    }
    let mut wanted = role.clone();
    wanted["rules"] = rules;
    Some(wanted)
}

fn labels(role: &Value) -> BTreeMap<String, String> {
    let labels = role.at(&["metadata", "labels"]).as_object().into_iter().flatten();
    labels
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn role(name: &str, label: &str, verbs: &[&str]) -> (String, Value) {
        let rules: Vec<Value> = verbs
            .iter()
            .map(|verb| json!({"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}))
            .collect();
        (
            name.to_owned(),
            json!({"metadata": {"name": name, "labels": {"to": label}}, "rules": rules}),
        )
    }

    #[test]
    fn a_role_gathers_the_rules_of_those_that_it_selects_once() {
        let roles = BTreeMap::from([
            role("b", "x", &["get", "list"]),
            role("a", "x", &["list"]),
            role("c", "y", &["delete"]),
        ]);
        let others: BTreeMap<&str, &Value> = roles.iter().map(|(name, role)| (name.as_str(), role)).collect();
        let gathers = json!({"metadata": {"name": "all"}, "rules": [],
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "x"}}]}});
        let wanted = aggregated(&gathers, &others).unwrap();
        let verbs: Vec<&Value> = wanted["rules"]
            .as_array()
            .unwrap()
            .iter()
            .map(|rule| &rule["verbs"][0])
            .collect();
        assert_eq!(verbs, ["list", "get"]);
        assert_eq!(aggregated(&wanted, &others), None, "it is as it should be");
        assert_eq!(aggregated(others["a"], &others), None, "it aggregates nothing");
        let nothing =
            json!({"metadata": {"name": "n"}, "rules": null, "aggregationRule": {"clusterRoleSelectors": []}});
        assert_eq!(aggregated(&nothing, &others), None);
    }
}
