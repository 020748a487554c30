//! RuntimeClass: the class that a pod names must exist, and gives the pod its overhead, node selector and tolerations
//! (KEP-585, KEP-688).

use api::access::{Access, object_mut};
use api::status::Status;
use protocol::Key;
use serde_json::Value;

use crate::chain::Plugin;
use crate::facts::Facts;
use crate::review::{Attributes, Review};

/// The plugin.
pub struct RuntimeClass;

impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        attributes.creates("pods")
    }

    fn looks_up(&self, _: &Attributes<'_>, object: &Value) -> Option<Key> {
        let name = object.at(&["spec"]).text("runtimeClassName");
        (!name.is_empty()).then(|| Key::new("runtimeclasses.node.k8s.io", "", name))
    }

    fn admit(&self, review: &mut Review<'_>, facts: &Facts) -> Result<(), Status> {
        let name = review.spec().text("runtimeClassName").to_owned();
        if name.is_empty() {
            return match review.spec().members("overhead").next() {
                Some(_) => Err(review
                    .attributes
                    .forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")),
                None => Ok(()),
            };
        }
        let Some(class) = facts.one("runtimeclasses.node.k8s.io", "", &name) else {
            return Err(review
                .attributes
                .forbidden(format_args!("pod rejected: RuntimeClass {name:?} not found")));
        };
        let overhead = class.value.at(&["overhead", "podFixed"]);
        if !overhead.is_null() {
            let own = review.spec().at(&["overhead"]);
            if !own.is_null() && own != overhead {
                return Err(review
                    .attributes
                    .forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"));
            }
            review.object["spec"]["overhead"] = overhead.clone();
        }
        let scheduling = class.value.at(&["scheduling"]);
        for (key, value) in scheduling.members("nodeSelector") {
            let selector = object_mut(object_mut(&mut review.object, "spec"), "nodeSelector");
            if selector.has(key) && selector[key] != *value {
                return Err(review.attributes.forbidden(format_args!(
                    "pod rejected: conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    value.as_str().unwrap_or_default(),
                    selector.text(key)
                )));
            }
            selector[key] = value.clone();
        }
        for toleration in scheduling.items("tolerations") {
            let own = review.spec().items("tolerations").contains(toleration);
            if !own {
                match &mut review.object["spec"]["tolerations"] {
                    Value::Array(tolerations) => tolerations.push(toleration.clone()),
                    absent => *absent = Value::Array(vec![toleration.clone()]),
                }
            }
        }
        Ok(())
    }
}
