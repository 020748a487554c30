//! TaintNodesByCondition: a new node takes no pods until its keeper has seen that it is ready, whatever the node says of itself.

use api::access::{Access, object_mut};
use api::status::Status;
use serde_json::{Value, json};

use crate::chain::Plugin;
use crate::facts::Facts;
use crate::review::{Attributes, Review};

/// The taint that the node's keeper takes off.
const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// The plugin.
pub struct TaintNodesByCondition;

impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        attributes.creates("nodes")
    }

    fn admit(&self, review: &mut Review<'_>, _: &Facts) -> Result<(), Status> {
        let is_it = |taint: &Value| taint.text("key") == NOT_READY && taint.text("effect") == "NoSchedule";
        if review.spec().items("taints").iter().any(is_it) {
            return Ok(());
        }
        let taint = json!({"key": NOT_READY, "effect": "NoSchedule"});
        match &mut object_mut(&mut review.object, "spec")["taints"] {
            Value::Array(taints) => taints.push(taint),
            absent => *absent = json!([taint]),
        }
        Ok(())
    }
}
