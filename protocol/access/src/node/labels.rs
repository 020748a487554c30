//! Which labels a node's agent may set on its own Node: all that are not Kubernetes' own, and of these the ones that describe
//! the machine. Whoever can label its node can draw pods to itself.

use std::collections::BTreeSet;

use api::access::Access;
use serde_json::Value;

/// Labels of Kubernetes that the agent sets.
const OWN: [&str; 11] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// Prefixes of labels that the agent may choose.
const OWN_PREFIXES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// Labels that only administrators set, so that workloads can be kept on nodes that are trusted.
const RESTRICTED: &str = "node-restriction.kubernetes.io";

fn is_below(prefix: &str, domain: &str) -> bool {
    prefix == domain || prefix.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

fn is_forbidden(label: &str) -> bool {
    let prefix = label.split_once('/').map_or("", |(prefix, _)| prefix);
    if is_below(prefix, RESTRICTED) {
        return true;
    }
    let kubernetes = is_below(prefix, "kubernetes.io") || is_below(prefix, "k8s.io");
    kubernetes && !OWN.contains(&label) && !OWN_PREFIXES.iter().any(|own| is_below(prefix, own))
}

/// The labels that differ between the two objects and are not the agent's to change, in order.
pub fn forbidden_changes(new: &Value, old: &Value) -> Vec<String> {
    let path = ["metadata", "labels"];
    let (new, old) = (new.at(&path), old.at(&path));
    let names = [new, old]
        .into_iter()
        .filter_map(Value::as_object)
        .flat_map(|map| map.keys());
    let names: BTreeSet<&String> = names.collect();
    let changed = names
        .into_iter()
        .filter(|name| new.get(name.as_str()) != old.get(name.as_str()));
    changed.filter(|name| is_forbidden(name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_sets_what_describes_its_machine() {
        let cases = [
            ("app", false),
            ("example.com/x", false),
            ("kubernetes.io/hostname", false),
            ("topology.kubernetes.io/zone", false),
            ("node.kubernetes.io/anything", false),
            ("sub.kubelet.kubernetes.io/x", false),
            ("node-restriction.kubernetes.io/trusted", true),
            ("team.node-restriction.kubernetes.io/x", true),
            ("node-role.kubernetes.io/control-plane", true),
            ("kubernetes.io/other", true),
            ("x.k8s.io/y", true),
            ("notkubernetes.io/x", false),
        ];
        for (label, expected) in cases {
            assert_eq!(is_forbidden(label), expected, "{label}");
        }
    }
}
