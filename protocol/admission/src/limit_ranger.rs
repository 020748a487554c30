//! LimitRanger: a namespace's LimitRanges give containers their default requests and limits, and bound what containers,
//! pods and claims may ask for.

use api::access::{Access, items_mut, object_mut};
use api::kinds::Subresource;
use api::status::Status;
use protocol::quantity::Quantity;
use serde_json::Value;

use crate::chain::Plugin;
use crate::facts::Facts;
use crate::pod::{self, Amounts};
use crate::review::{Attributes, Operation, Review};

/// The plugin.
pub struct LimitRanger;

impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        attributes.creates("pods")
            || is_resize(attributes)
            || attributes.operation != Operation::Delete && attributes.is_object_of("persistentvolumeclaims")
    }

    fn admit(&self, review: &mut Review<'_>, facts: &Facts) -> Result<(), Status> {
        if review.attributes.creates("pods") {
            let namespace = review.attributes.namespace;
            for (name, range) in facts.all("limitranges", namespace) {
                give_defaults(&mut review.object, name, &range.value);
            }
        }
        Ok(())
    }

    fn validate(&self, review: &mut Review<'_>, facts: &Facts) -> Result<(), Status> {
        let is_pod = review.attributes.creates("pods") || is_resize(&review.attributes);
        let mut problems = Vec::new();
        for (_, range) in facts.all("limitranges", review.attributes.namespace) {
            for item in range.value.at(&["spec"]).items("limits") {
                match item.text("type") {
                    "Container" if is_pod => {
                        for list in ["initContainers", "containers"] {
                            for container in review.spec().items(list) {
                                let resources = &container["resources"];
                                let (requests, limits) =
                                    (pod::amounts(&resources["requests"]), pod::amounts(&resources["limits"]));
                                check(item, "Container", &requests, &limits, &mut problems);
                            }
                        }
                    }
                    "Pod" if is_pod => {
                        let (requests, limits) = (
                            pod::total(review.spec(), "requests"),
                            pod::total(review.spec(), "limits"),
                        );
                        check(item, "Pod", &requests, &limits, &mut problems);
                    }
                    "PersistentVolumeClaim" if review.attributes.is_object_of("persistentvolumeclaims") => {
                        let requests = pod::amounts(review.spec().at(&["resources", "requests"]));
                        check(item, "PersistentVolumeClaim", &requests, &Amounts::new(), &mut problems);
                    }
                    _ => {}
                }
            }
        }
        match problems.as_slice() {
            [] => Ok(()),
            [one] => Err(review.attributes.forbidden(one)),
            many => Err(review.attributes.forbidden(format_args!("[{}]", many.join(", ")))),
        }
    }
}

/// What is asked for anew is bounded as what a new pod asks for.
fn is_resize(attributes: &Attributes<'_>) -> bool {
    attributes.kind.resource().as_str() == "pods" && attributes.subresource == Some(Subresource::Resize)
}

/// Fills in requests and limits that containers do not have.
fn give_defaults(object: &mut Value, range_name: &str, range: &Value) {
    let items = range.at(&["spec"]).items("limits");
    let mut told = Vec::new();
    for item in items.iter().filter(|item| item.text("type") == "Container") {
        for (list, word) in [("containers", "container"), ("initContainers", "init container")] {
            for container in items_mut(&mut object["spec"], list) {
                let name = container.text("name").to_owned();
                for (which, from) in [("limits", "default"), ("requests", "defaultRequest")] {
                    let set = fill(container, which, item.at(&[from]));
                    if !set.is_empty() {
                        let which = which.trim_end_matches('s');
                        told.push(format!("{} {which} for {word} {name}", set.join(", ")));
                    }
                }
            }
        }
    }
    if !told.is_empty() {
        let annotations = object_mut(object_mut(object, "metadata"), "annotations");
        annotations["kubernetes.io/limit-ranger"] =
            format!("LimitRanger plugin set: {} ({range_name})", told.join("; ")).into();
    }
}

/// Sets the quantities that are not there. Returns their names.
fn fill(container: &mut Value, which: &str, defaults: &Value) -> Vec<String> {
    let mut set = Vec::new();
    for (name, amount) in defaults.as_object().into_iter().flatten() {
        if !container.at(&["resources", which]).has(name) {
            object_mut(object_mut(container, "resources"), which)[name] = amount.clone();
            set.push(name.clone());
        }
    }
    set
}

/// Compares what is asked for with one item of a range, in the order and the words of upstream.
fn check(item: &Value, what: &str, requests: &Amounts, limits: &Amounts, problems: &mut Vec<String>) {
    let bounds = |field: &str| -> Vec<(String, Quantity, String)> {
        let members = item.members(field);
        members
            .filter_map(|(name, value)| Some((name.clone(), pod::quantity(value)?, value.as_str()?.to_owned())))
            .collect()
    };
    for (name, least, shown) in bounds("min") {
        let (request, limit) = (requests.get(&name), limits.get(&name));
        match request {
            None => problems.push(format!(
                "minimum {name} usage per {what} is {shown}.  No request is specified"
            )),
            Some(request) if *request < least => {
                let asked = pod::text(*request, &shown);
                problems.push(format!(
                    "minimum {name} usage per {what} is {shown}, but request is {asked}"
                ));
            }
            Some(_) => {}
        }
        if let Some(limit) = limit.filter(|limit| **limit < least) {
            let asked = pod::text(*limit, &shown);
            problems.push(format!(
                "minimum {name} usage per {what} is {shown}, but limit is {asked}"
            ));
        }
    }
    for (name, most, shown) in bounds("max") {
        let (request, limit) = (requests.get(&name), limits.get(&name));
        // A claim has no limits: its request is bounded.
        let subject = if what == "PersistentVolumeClaim" {
            request
        } else {
            limit
        };
        let word = if what == "PersistentVolumeClaim" {
            "request"
        } else {
            "limit"
        };
        match subject {
            None => problems.push(format!(
                "maximum {name} usage per {what} is {shown}.  No {word} is specified"
            )),
            Some(subject) if *subject > most => {
                let asked = pod::text(*subject, &shown);
                problems.push(format!(
                    "maximum {name} usage per {what} is {shown}, but {word} is {asked}"
                ));
            }
            Some(_) => {}
        }
        if what != "PersistentVolumeClaim"
            && let Some(request) = request.filter(|request| **request > most)
        {
            let asked = pod::text(*request, &shown);
            problems.push(format!(
                "maximum {name} usage per {what} is {shown}, but request is {asked}"
            ));
        }
    }
    for (name, ratio, shown) in bounds("maxLimitRequestRatio") {
        let (Some(request), Some(limit)) = (requests.get(&name), limits.get(&name)) else {
            problems.push(format!(
                "{name} max limit to request ratio per {what} is {shown}, but no request is specified or request is 0"
            ));
            continue;
        };
        let actual = limit.milli() as f64 / request.milli().max(1) as f64;
        if actual > ratio.milli() as f64 / 1000.0 {
            problems.push(format!(
                "{name} max limit to request ratio per {what} is {shown}, but provided ratio is {actual:.6}"
            ));
        }
    }
}
