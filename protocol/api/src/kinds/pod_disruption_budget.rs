//! policy/v1 PodDisruptionBudget: its row, validation and columns.

use serde_json::Value;

use super::checks::{Rule, check};
use super::{Generation, Kind, Subresource, cells};
use crate::access::{Access, object_mut};
use crate::cause::{Causes, Path};
use crate::table::Column;

pub const KIND: Kind = Kind {
    short_names: &["pdb"],
    subresources: &[Subresource::Status],
    generation: Generation::Spec,
    default: |object| {
        object_mut(object, "spec");
    },
    validate: |object, causes| {
        let root = Path::Root;
        let path = root.field("spec");
        let spec = object.at(&["spec"]);
        if spec.has("minAvailable") && spec.has("maxUnavailable") {
            let text = "minAvailable and maxUnavailable cannot be both set";
            causes.invalid(path, spec.clone(), text);
        }
        check(
            spec,
            &path,
            &[
                ("minAvailable", Rule::IntOrPercent),
                ("maxUnavailable", Rule::IntOrPercent),
                ("selector", Rule::Selector),
                (
                    "unhealthyPodEvictionPolicy",
                    Rule::Known(&["AlwaysAllow", "IfHealthyBudget"]),
                ),
            ],
            causes,
        );
    },
    validate_status: |_, new, causes| validate_status(new, causes),
    columns: &[
        Column::NAME,
        Column::text("Min Available", "The minimum number of pods that must be available."),
        Column::text("Max Unavailable", "The maximum number of pods that can be unavailable."),
        Column::integer("Allowed Disruptions", "The number of pods that may be disrupted now."),
        Column::AGE,
    ],
    cells: |object, now| {
        let spec = object.at(&["spec"]);
        vec![
            cells::name(object),
            cells::int_or_percent(spec.at(&["minAvailable"]), "N/A"),
            cells::int_or_percent(spec.at(&["maxUnavailable"]), "N/A"),
            cells::int(object, &["status", "disruptionsAllowed"]),
            cells::created_ago(object, now),
        ]
    },
    ..row!(
        "policy",
        v1,
        policy,
        PodDisruptionBudget,
        "poddisruptionbudgets",
        "poddisruptionbudget"
    )
};

fn validate_status(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    check(
        object.at(&["status"]),
        &root.field("status"),
        &[
            ("disruptionsAllowed", Rule::NotNegative),
            ("currentHealthy", Rule::NotNegative),
            ("desiredHealthy", Rule::NotNegative),
            ("expectedPods", Rule::NotNegative),
        ],
        causes,
    );
}
