//! Priority: the class that a pod names becomes its number and its preemption policy; a PriorityClass is the default for all
//! only if no other is.

use api::access::Access;
use api::status::Status;
use protocol::Key;
use serde_json::{Value, json};

use crate::chain::Plugin;
use crate::facts::{Fact, Facts};
use crate::review::{Attributes, Operation, Review};

const CLASSES: &str = "priorityclasses.scheduling.k8s.io";

/// The classes that every cluster has, stored or not.
const SYSTEM: [(&str, i64); 2] = [
    ("system-node-critical", 2_000_001_000),
    ("system-cluster-critical", 2_000_000_000),
];

/// The plugin.
pub struct Priority;

impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation != Operation::Delete
            && (attributes.is_object_of("pods") || attributes.is_object_of(CLASSES))
    }

    fn looks_up(&self, attributes: &Attributes<'_>, object: &Value) -> Option<Key> {
        let name = object.at(&["spec"]).text("priorityClassName");
        (attributes.creates("pods") && !name.is_empty()).then(|| Key::new(CLASSES, "", name))
    }

    fn admit(&self, review: &mut Review<'_>, facts: &Facts) -> Result<(), Status> {
        if !review.attributes.is_object_of("pods") {
            return Ok(());
        }
        if let Some(old) = review.old {
            // The number was decided when the pod was created; what an update leaves out it does not change.
            for field in ["priority", "preemptionPolicy"] {
                if !review.spec().has(field) && old.at(&["spec"]).has(field) {
                    review.object["spec"][field] = old["spec"][field].clone();
                }
            }
            return Ok(());
        }
        let (name, value, policy) = class_of(review, facts)?;
        if let Some(own) = review.spec().int("priority").filter(|own| *own != value) {
            return Err(review.attributes.forbidden(format_args!(
                "the integer value of priority ({own}) must not be provided in pod spec; priority admission controller \
                 computed {value} from the given PriorityClass name"
            )));
        }
        let own_policy = review.spec().text("preemptionPolicy");
        if !own_policy.is_empty() && own_policy != policy {
            return Err(review.attributes.forbidden(format_args!(
                "the string value of PreemptionPolicy ({own_policy}) must not be provided in pod spec; priority admission \
                 controller computed {policy} from the given PriorityClass name"
            )));
        }
        let spec = &mut review.object["spec"];
        if !name.is_empty() {
            spec["priorityClassName"] = name.into();
        }
        spec["priority"] = value.into();
        spec["preemptionPolicy"] = policy.into();
        Ok(())
    }

    fn validate(&self, review: &mut Review<'_>, facts: &Facts) -> Result<(), Status> {
        if !review.attributes.is_object_of(CLASSES) || !review.object.flag("globalDefault") {
            return Ok(());
        }
        let name = review.object.at(&["metadata"]).text("name");
        let other = facts
            .all(CLASSES, "")
            .find(|(other, class)| *other != name && class.value.flag("globalDefault"));
        match other {
            Some((other, _)) => Err(review.attributes.forbidden(format_args!(
                "PriorityClass {other} is already marked as default. Only one default can exist"
            ))),
            None => Ok(()),
        }
    }
}

/// Name, number and preemption policy of the class that a new pod is in.
fn class_of(review: &Review<'_>, facts: &Facts) -> Result<(String, i64, String), Status> {
    let name = review.spec().text("priorityClassName");
    if name.is_empty() {
        let defaults = facts
            .all(CLASSES, "")
            .filter(|(_, class)| class.value.flag("globalDefault"));
        // Of several defaults, which a race can make, the lowest counts (upstream's rule).
        let lowest = defaults.min_by_key(|(_, class)| class.value.int("value"));
        return Ok(match lowest {
            Some((name, class)) => (name.to_owned(), value_of(class), policy_of(&class.value)),
            None => (String::new(), 0, "PreemptLowerPriority".to_owned()),
        });
    }
    if let Some(class) = facts.one(CLASSES, "", name) {
        return Ok((name.to_owned(), value_of(class), policy_of(&class.value)));
    }
    match SYSTEM.iter().find(|(system, _)| *system == name) {
        Some((_, value)) => Ok((name.to_owned(), *value, "PreemptLowerPriority".to_owned())),
        None => Err(review
            .attributes
            .forbidden(format_args!("no PriorityClass with name {name} was found"))),
    }
}

fn value_of(class: &Fact) -> i64 {
    class.value.int("value").unwrap_or(0)
}

fn policy_of(class: &Value) -> String {
    let policy = class.text("preemptionPolicy");
    if policy.is_empty() {
        "PreemptLowerPriority"
    } else {
        policy
    }
    .to_owned()
}

/// The system's classes as objects, for whoever fills a new cluster.
pub fn system_classes() -> Vec<Value> {
    let describe = |name: &str| {
        if name == "system-node-critical" {
            "Used for system critical pods that must not be moved from their current node."
        } else {
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."
        }
    };
    SYSTEM
        .iter()
        .map(|(name, value)| {
            json!({
                "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
                "value": value, "preemptionPolicy": "PreemptLowerPriority", "description": describe(name),
            })
        })
        .collect()
}
