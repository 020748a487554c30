//! ResourceQuota: what a namespace may hold. An object that would exceed a quota is refused; one that fits is charged, and
//! the charge is written in the transaction that writes the object.
//!
//! `usage_of` says what one object uses; the quota's own actor counts all objects of a namespace with it again.

use std::collections::BTreeSet;

use api::access::{Access, object_mut};
use api::kinds::{Kind, Subresource};
use api::status::Status;
use protocol::quantity::Quantity;
use protocol::{Key, Resource};
use serde_json::{Value, json};

use crate::chain::Plugin;
use crate::facts::Facts;
use crate::pod::{self, Amounts};
use crate::review::{Attributes, Charge, Operation, Review};

/// The plugin.
pub struct ResourceQuota;

impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation != Operation::Delete
            && matches!(attributes.subresource, None | Some(Subresource::Resize))
            && attributes.kind.namespaced
            // A quota that is written bounds others, not itself, unless objects of its kind are counted.
            && !attributes.namespace.is_empty()
    }

    fn charge(&self, review: &mut Review<'_>, facts: &Facts) -> Result<(), Status> {
        let namespace = review.attributes.namespace;
        let mut quotas = facts.all("resourcequotas", namespace).peekable();
        if quotas.peek().is_none() {
            return Ok(());
        }
        let kind = review.attributes.kind;
        let new = usage_of(kind, &review.object);
        let old = review.old.map(|old| usage_of(kind, old)).unwrap_or_default();
        let mut charges = Vec::new();
        for (name, fact) in quotas {
            let quota = &fact.value;
            let counts_new = selects(quota, kind, &review.object);
            let counts_old = review.old.is_some_and(|old| selects(quota, kind, old));
            let mut delta = if counts_new { new.clone() } else { Amounts::new() };
            if counts_old {
                for (resource, amount) in &old {
                    let entry = delta.entry(resource.clone()).or_insert_with(|| Quantity::from_units(0));
                    *entry = entry.minus(*amount);
                }
            }
            if counts_new {
                require_named(review, name, quota)?;
            }
            if let Some(charged) = charge(review, name, quota, &delta)? {
                charges.push(Charge {
                    key: Key::new("resourcequotas", namespace, name),
                    revision: fact.revision,
                    quota: charged,
                });
            }
        }
        review.charges.extend(charges);
        Ok(())
    }
}

/// Under a quota of cpu or memory every container must say how much it asks for, or nothing could be counted.
fn require_named(review: &Review<'_>, quota_name: &str, quota: &Value) -> Result<(), Status> {
    if !review.attributes.is_object_of("pods") {
        return Ok(());
    }
    let hard = quota.at(&["status"]);
    let hard = if hard.has("hard") {
        hard.at(&["hard"])
    } else {
        quota.at(&["spec", "hard"])
    };
    let mut missing = BTreeSet::new();
    for name in hard.as_object().into_iter().flatten().map(|(name, _)| name.as_str()) {
        let (which, resource) = match name {
            "cpu" | "memory" => ("requests", name),
            _ => match name.split_once('.') {
                Some(("requests", resource @ ("cpu" | "memory"))) => ("requests", resource),
                Some(("limits", resource @ ("cpu" | "memory"))) => ("limits", resource),
                _ => continue,
            },
        };
        let unnamed: Vec<&str> = ["initContainers", "containers"]
            .iter()
            .flat_map(|list| review.spec().items(list))
            .filter(|container| !container.at(&["resources", which]).has(resource))
            .map(|container| container.text("name"))
            .collect();
        let by_pod = review.spec().at(&["resources", which]).has(resource);
        if !unnamed.is_empty() && !by_pod {
            missing.insert(format!("{name} for: {}", unnamed.join(",")));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let missing: Vec<String> = missing.into_iter().collect();
    Err(review.attributes.forbidden(format_args!(
        "failed quota: {quota_name}: must specify {}",
        missing.join("; ")
    )))
}

/// The quota with a delta added to what is used; `None` when it does not count any of it.
fn charge(review: &Review<'_>, name: &str, quota: &Value, delta: &Amounts) -> Result<Option<Value>, Status> {
    let hard = quota.at(&["spec", "hard"]);
    let used = quota.at(&["status", "used"]);
    let zero = Quantity::from_units(0);
    let (mut changed, mut exceeded) = (Vec::new(), Vec::new());
    for (resource, limit) in hard.as_object().into_iter().flatten() {
        let Some(change) = delta.get(resource).filter(|change| **change != zero) else {
            continue;
        };
        let (Some(most), shown) = (pod::quantity(limit), limit.as_str().unwrap_or_default()) else {
            continue;
        };
        let before = pod::quantity(&used[resource]).unwrap_or(zero);
        let after = before.plus(*change);
        if *change > zero && after > most {
            let texts = [*change, before].map(|amount| pod::text(amount, shown));
            exceeded.push((resource.clone(), texts, shown.to_owned()));
        }
        let after = if after.is_negative() { zero } else { after };
        changed.push((resource.clone(), pod::text(after, shown)));
    }
    if !exceeded.is_empty() {
        let list = |text: fn(&(String, [String; 2], String)) -> String| {
            exceeded.iter().map(text).collect::<Vec<_>>().join(",")
        };
        return Err(review.attributes.forbidden(format_args!(
            "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
            list(|(resource, [asked, _], _)| format!("{resource}={asked}")),
            list(|(resource, [_, used], _)| format!("{resource}={used}")),
            list(|(resource, _, limit)| format!("{resource}={limit}")),
        )));
    }
    if changed.is_empty() {
        return Ok(None);
    }
    let mut charged = quota.clone();
    let status = object_mut(&mut charged, "status");
    status["hard"] = hard.clone();
    let used = object_mut(status, "used");
    for (resource, amount) in changed {
        used[&resource] = amount.into();
    }
    Ok(Some(charged))
}

/// What one object of a custom kind uses of a quota: it is counted, unless the quota is about some pods alone.
pub fn usage_of_custom(quota: &Value, resource: &Resource) -> Amounts {
    let spec = quota.at(&["spec"]);
    let mut usage = Amounts::new();
    if spec.items("scopes").is_empty() && !spec.has("scopeSelector") {
        usage.insert(format!("count/{resource}"), Quantity::from_units(1));
    }
    usage
}

/// What one object uses, under every name by which a quota may count it.
pub fn usage_of(kind: &Kind, object: &Value) -> Amounts {
    let mut usage = Amounts::new();
    if is_over(kind, object) {
        return usage;
    }
    let one = Quantity::from_units(1);
    let resource = kind.resource();
    usage.insert(format!("count/{resource}"), one);
    match resource.as_str() {
        "pods" => pod_usage(object, &mut usage),
        "services" => service_usage(&object["spec"], &mut usage),
        "persistentvolumeclaims" => claim_usage(object, &mut usage),
        "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => {
            usage.insert(resource.as_str().to_owned(), one);
        }
        _ => {}
    }
    usage
}

/// The sum of what objects use, for the names that a quota bounds, in the manner of its bounds.
pub fn sum<'a>(hard: &Value, usages: impl Iterator<Item = &'a Amounts> + Clone) -> Value {
    let total = |name: &String, bound: &Value| {
        let amounts = usages.clone().filter_map(|usage| usage.get(name));
        let total = amounts.fold(Quantity::from_units(0), |total, amount| total.plus(*amount));
        Value::from(pod::text(total, bound.as_str().unwrap_or_default()))
    };
    let names = hard.as_object().into_iter().flatten();
    Value::Object(names.map(|(name, bound)| (name.clone(), total(name, bound))).collect())
}

/// A pod that has ended for good holds nothing any more but its place among the objects.
fn is_over(kind: &Kind, object: &Value) -> bool {
    kind.resource().as_str() == "pods" && matches!(object.at(&["status"]).text("phase"), "Succeeded" | "Failed")
}

fn pod_usage(object: &Value, usage: &mut Amounts) {
    usage.insert("pods".to_owned(), Quantity::from_units(1));
    let (requests, limits) = (pod::total_requests(object), pod::total(object.at(&["spec"]), "limits"));
    for (which, plain, total) in [("requests", true, requests), ("limits", false, limits)] {
        for (name, amount) in total {
            if plain && matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
                usage.insert(name.clone(), amount);
            }
            usage.insert(format!("{which}.{name}"), amount);
        }
    }
}

fn service_usage(spec: &Value, usage: &mut Amounts) {
    let one = Quantity::from_units(1);
    usage.insert("services".to_owned(), one);
    let ports = i64::try_from(spec.items("ports").len()).unwrap_or(i64::MAX);
    match spec.text("type") {
        "NodePort" => {
            usage.insert("services.nodeports".to_owned(), Quantity::from_units(ports));
        }
        "LoadBalancer" => {
            usage.insert("services.loadbalancers".to_owned(), one);
            if spec.get("allocateLoadBalancerNodePorts").and_then(Value::as_bool) != Some(false) {
                usage.insert("services.nodeports".to_owned(), Quantity::from_units(ports));
            }
        }
        _ => {}
    }
}

fn claim_usage(claim: &Value, usage: &mut Amounts) {
    let one = Quantity::from_units(1);
    usage.insert("persistentvolumeclaims".to_owned(), one);
    let asked = pod::quantity(claim.at(&["spec", "resources", "requests", "storage"]));
    let class = claim.at(&["spec"]).text("storageClassName");
    if let Some(asked) = asked {
        usage.insert("requests.storage".to_owned(), asked);
    }
    if !class.is_empty() {
        let prefix = format!("{class}.storageclass.storage.k8s.io");
        usage.insert(format!("{prefix}/persistentvolumeclaims"), one);
        if let Some(asked) = asked {
            usage.insert(format!("{prefix}/requests.storage"), asked);
        }
    }
}

/// Whether the object is in the quota's scopes: all of `scopes` and of `scopeSelector`.
pub fn selects(quota: &Value, kind: &Kind, object: &Value) -> bool {
    let spec = quota.at(&["spec"]);
    let scopes = spec.items("scopes").iter().filter_map(Value::as_str);
    let mut requirements: Vec<Value> = scopes
        .map(|scope| json!({"scopeName": scope, "operator": "Exists"}))
        .collect();
    requirements.extend(spec.at(&["scopeSelector"]).items("matchExpressions").iter().cloned());
    if requirements.is_empty() {
        return true;
    }
    let pods = kind.resource().as_str() == "pods";
    requirements.iter().all(|requirement| {
        // Scopes speak of pods, but for volume classes: nothing else is in them.
        pods && in_scope(requirement, object.at(&["spec"]))
            || requirement.text("scopeName") == "VolumeAttributesClass"
                && kind.resource().as_str() == "persistentvolumeclaims"
                && matches_values(requirement, object.at(&["spec"]).text("volumeAttributesClassName"))
    })
}

fn in_scope(requirement: &Value, spec: &Value) -> bool {
    let bounded = spec.int("activeDeadlineSeconds").is_some();
    match requirement.text("scopeName") {
        "Terminating" => bounded,
        "NotTerminating" => !bounded,
        "BestEffort" => pod::is_best_effort(spec),
        "NotBestEffort" => !pod::is_best_effort(spec),
        "PriorityClass" => matches_values(requirement, spec.text("priorityClassName")),
        "CrossNamespacePodAffinity" => crosses_namespaces(spec.at(&["affinity"])),
        _ => false,
    }
}

fn matches_values(requirement: &Value, value: &str) -> bool {
    let listed = requirement.items("values").iter().any(|known| known == value);
    match requirement.text("operator") {
        "Exists" => !value.is_empty(),
        "DoesNotExist" => value.is_empty(),
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    }
}

fn crosses_namespaces(affinity: &Value) -> bool {
    let crosses = |term: &Value| !term.items("namespaces").is_empty() || term.has("namespaceSelector");
    ["podAffinity", "podAntiAffinity"].iter().any(|name| {
        let terms = affinity.at(&[name]);
        let required = terms.items("requiredDuringSchedulingIgnoredDuringExecution");
        let preferred = terms.items("preferredDuringSchedulingIgnoredDuringExecution");
        required.iter().any(crosses) || preferred.iter().any(|weighted| crosses(&weighted["podAffinityTerm"]))
    })
}
