//! DefaultTolerationSeconds: a pod that does not say how long it stays on a node that is not ready or unreachable is told,
//! so that the answer stands in the pod and not in a controller's flag.

use api::access::Access;
use api::status::Status;
use serde_json::{Value, json};

use crate::chain::Plugin;
use crate::facts::Facts;
use crate::review::{Attributes, Operation, Review};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// The plugin.
pub struct DefaultTolerationSeconds;

impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation != Operation::Delete && attributes.is_object_of("pods")
    }

    fn admit(&self, review: &mut Review<'_>, facts: &Facts) -> Result<(), Status> {
        let wanted = [
            (NOT_READY, facts.settings.not_ready_toleration_seconds),
            (UNREACHABLE, facts.settings.unreachable_toleration_seconds),
        ];
        for (key, seconds) in wanted {
            if !review
                .spec()
                .items("tolerations")
                .iter()
                .any(|toleration| tolerates(toleration, key))
            {
                let added = json!({
                    "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds,
                });
                match &mut review.object["spec"]["tolerations"] {
                    Value::Array(tolerations) => tolerations.push(added),
                    absent => *absent = json!([added]),
                }
            }
        }
        Ok(())
    }
}

/// Whether the pod itself has said something about this taint.
fn tolerates(toleration: &Value, key: &str) -> bool {
    matches!(toleration.text("key"), "") && toleration.text("operator") == "Exists" && effect_fits(toleration)
        || toleration.text("key") == key && effect_fits(toleration)
}

fn effect_fits(toleration: &Value) -> bool {
    matches!(toleration.text("effect"), "" | "NoExecute")
}
