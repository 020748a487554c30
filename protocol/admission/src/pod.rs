//! Pods as several plugins read them: containers of all sorts, requests and limits, quality of service.

use std::collections::BTreeMap;

use api::access::{Access, items_mut, object_mut};
use protocol::quantity::Quantity;
use serde_json::{Value, json};

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// The field below which a pod's spec keeps its containers, with what Kubernetes calls them in messages.
pub const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Every container of a pod's spec, init and ephemeral ones too.
pub fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    CONTAINER_LISTS.iter().flat_map(|list| spec.items(list))
}

/// `requests` or `limits` of a container, or any other map of quantities. What is no quantity was refused by validation.
pub fn amounts(map: &Value) -> Amounts {
    let members = map.as_object().into_iter().flatten();
    members
        .filter_map(|(name, value)| Some((name.clone(), quantity(value)?)))
        .collect()
}

/// A quantity that stands as text or as a number.
pub fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let entry = sum.entry(name.clone()).or_insert_with(|| Quantity::from_units(0));
        *entry = entry.plus(*amount);
    }
}

fn raise(sum: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let entry = sum.entry(name.clone()).or_insert(*amount);
        *entry = (*entry).max(*amount);
    }
}

/// What a stored pod asks for or holds: each container at the most of what it asks for, what its node granted it and what it
/// has in force; what the node will never grant does not count (KEP-1287, `UseStatusResources` in component-helpers).
pub fn total_requests(pod: &Value) -> Amounts {
    let status = pod.at(&["status"]);
    let told = |list: &str| status.items(list).iter().filter(|told| told.has("resources"));
    if told("containerStatuses")
        .chain(told("initContainerStatuses"))
        .next()
        .is_none()
    {
        return total(pod.at(&["spec"]), "requests");
    }
    let infeasible = status
        .items("conditions")
        .iter()
        .any(|condition| condition.text("type") == "PodResizePending" && condition.text("reason") == "Infeasible");
    let mut spec = pod.at(&["spec"]).clone();
    for (list, statuses) in [
        ("initContainers", "initContainerStatuses"),
        ("containers", "containerStatuses"),
    ] {
        for container in items_mut(&mut spec, list) {
            let name = container.text("name").to_owned();
            let Some(told) = told(statuses).find(|told| told.text("name") == name) else {
                continue;
            };
            let requests = object_mut(object_mut(container, "resources"), "requests");
            if infeasible {
                *requests = json!({});
            }
            for held in [told.at(&["resources", "requests"]), told.at(&["allocatedResources"])] {
                for (name, amount) in held.as_object().into_iter().flatten() {
                    if requests.get(name).and_then(quantity) < quantity(amount) {
                        requests[name] = amount.clone();
                    }
                }
            }
        }
    }
    total(&spec, "requests")
}

/// What a pod asks for (`which` is `requests`) or may use at most (`limits`): the sum of its containers and sidecars or the
/// largest moment of its initialisation, whichever is more, and its overhead (KEP-753, PodRequests in component-helpers).
pub fn total(spec: &Value, which: &str) -> Amounts {
    let mut running = Amounts::new();
    for container in spec.items("containers") {
        add(&mut running, &amounts(container.at(&["resources", which])));
    }
    let (mut sidecars, mut initialising) = (Amounts::new(), Amounts::new());
    for container in spec.items("initContainers") {
        let own = amounts(container.at(&["resources", which]));
        if container.text("restartPolicy") == "Always" {
            add(&mut running, &own);
            add(&mut sidecars, &own);
            raise(&mut initialising, &sidecars);
        } else {
            let mut moment = sidecars.clone();
            add(&mut moment, &own);
            raise(&mut initialising, &moment);
        }
    }
    raise(&mut running, &initialising);
    // A pod's own resources, where they are given, stand for the sum of its containers (KEP-2837).
    for (name, amount) in amounts(spec.at(&["resources", which])) {
        running.insert(name, amount);
    }
    let overhead = amounts(&spec["overhead"]);
    for (name, amount) in overhead {
        if which == "requests" || running.contains_key(&name) {
            let entry = running.entry(name).or_insert_with(|| Quantity::from_units(0));
            *entry = entry.plus(amount);
        }
    }
    running
}

/// Whether no container asks for or limits cpu or memory: quality of service BestEffort.
pub fn is_best_effort(spec: &Value) -> bool {
    let named = |map: &Value| {
        ["cpu", "memory"].iter().any(|name| {
            map.get(*name)
                .and_then(quantity)
                .is_some_and(|amount| amount > Quantity::from_units(0))
        })
    };
    let bounded =
        |holder: &Value| named(holder.at(&["resources", "requests"])) || named(holder.at(&["resources", "limits"]));
    !(containers(spec).any(bounded) || bounded(spec))
}

/// A quantity as text in the manner of another one: with binary suffixes if that has one.
pub fn text(amount: Quantity, like: &str) -> String {
    let milli = amount.milli();
    if milli % 1000 != 0 {
        return format!("{milli}m");
    }
    let (base, suffixes): (i64, [&str; 7]) = if like.ends_with('i') {
        (1024, ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"])
    } else {
        (1000, ["", "k", "M", "G", "T", "P", "E"])
    };
    let (mut units, mut step) = (amount.units(), 0);
    while units != 0 && units % base == 0 && step + 1 < suffixes.len() {
        units /= base;
        step += 1;
    }
    format!("{units}{}", suffixes[step])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_request_is_its_largest_moment() {
        let cpu = |text: &str| json!({"resources": {"requests": {"cpu": text}}});
        let sidecar = json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": "200m"}}});
        let cases = [
            (json!({"containers": [cpu("1"), cpu("500m")]}), 1500),
            (
                json!({"containers": [cpu("1")], "initContainers": [cpu("3"), cpu("2")]}),
                3000,
            ),
            (
                json!({"containers": [cpu("1")], "initContainers": [sidecar, cpu("3")]}),
                3200,
            ),
            (
                json!({"containers": [cpu("1")], "initContainers": [cpu("3"), sidecar]}),
                3000,
            ),
            (json!({"containers": [cpu("1")], "overhead": {"cpu": "100m"}}), 1100),
            (
                json!({"containers": [cpu("1")], "resources": {"requests": {"cpu": "4"}}}),
                4000,
            ),
        ];
        for (spec, milli) in cases {
            assert_eq!(total(&spec, "requests")["cpu"].milli(), milli, "{spec}");
        }
    }

    #[test]
    fn a_pod_that_is_resized_holds_the_most_of_what_it_has_and_asks_for() {
        let pod = |asks: &str, granted: &str, in_force: &str, reason: &str| {
            json!({
                "spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": asks}}}, {"name": "b"}]},
                "status": {
                    "conditions": [{"type": "PodResizePending", "reason": reason}],
                    "containerStatuses": [{
                        "name": "a", "allocatedResources": {"cpu": granted}, "resources": {"requests": {"cpu": in_force}},
                    }],
                },
            })
        };
        let cases = [
            (pod("3", "1", "1", "Deferred"), 3000),
            (pod("3", "1", "2", "Infeasible"), 2000),
            (pod("1", "2", "3", ""), 3000),
            (pod("1", "4", "3", ""), 4000),
        ];
        for (pod, milli) in cases {
            assert_eq!(total_requests(&pod)["cpu"].milli(), milli, "{pod}");
        }
    }

    #[test]
    fn texts_keep_the_manner_of_their_model() {
        let cases = [
            ("1536Mi", "10Gi", "1536Mi"),
            ("2048Mi", "10Gi", "2Gi"),
            ("1500m", "10", "1500m"),
            ("3000", "10", "3k"),
            ("0", "1Gi", "0"),
        ];
        for (amount, like, expected) in cases {
            assert_eq!(text(Quantity::parse(amount).unwrap(), like), expected);
        }
    }
}
