//! apps/v1 DaemonSet: its row, defaults, validation and columns.

use protocol::UnixMillis;
use serde_json::{Map, Value};

use super::checks::{Rule, check};
use super::{Generation, Kind, Subresource, apps, cells};
use crate::access::{Access, object_mut, set_default, set_default_text};
use crate::cause::{Causes, Path};
use crate::table::Column;

/// Counts the changes of the template, as older versions of the API did in a field of its own.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub const KIND: Kind = Kind {
    short_names: &["ds"],
    categories: &["all"],
    subresources: &[Subresource::Status],
    generation: Generation::Spec,
    default,
    prepare_create: |object| set_template_generation(object, 1),
    prepare_update: |old, new| {
        let known = old.at(&["metadata", "annotations"]).text(TEMPLATE_GENERATION);
        let count: i64 = known.parse().unwrap_or(1);
        let changed = old.at(&["spec", "template"]) != new.at(&["spec", "template"]);
        set_template_generation(new, if changed { count.saturating_add(1) } else { count });
    },
    validate,
    validate_update: apps::validate_update,
    columns: &[
        Column::NAME,
        Column::integer("Desired", "The number of nodes that should run the daemon pod."),
        Column::integer(
            "Current",
            "The number of nodes that run at least one daemon pod and should.",
        ),
        Column::integer("Ready", "The number of nodes whose daemon pod is ready."),
        Column::integer(
            "Up-to-date",
            "The number of nodes whose daemon pod is of the newest template.",
        ),
        Column::integer("Available", "The number of nodes whose daemon pod is available."),
        Column::text("Node Selector", "Labels of the nodes that run the pod."),
        Column::AGE,
        Column::wide("Containers", "Names of each container in the template."),
        Column::wide("Images", "Images referenced by each container in the template."),
        Column::wide("Selector", "Label selector for pods."),
    ],
    cells: print,
    ..row!("apps", v1, apps, DaemonSet, "daemonsets", "daemonset")
};

fn set_template_generation(object: &mut Value, count: i64) {
    object_mut(object_mut(object, "metadata"), "annotations")[TEMPLATE_GENERATION] = count.to_string().into();
}

fn default(object: &mut Value) {
    let spec = object_mut(object, "spec");
    let strategy = object_mut(spec, "updateStrategy");
    set_default_text(strategy, "type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        set_default(strategy, "rollingUpdate", Map::new());
        let rolling = &mut strategy["rollingUpdate"];
        set_default(rolling, "maxUnavailable", 1);
        set_default(rolling, "maxSurge", 0);
    }
    set_default(spec, "revisionHistoryLimit", 10);
    apps::default_template(spec);
}

fn validate(object: &Value, causes: &mut Causes) {
    apps::validate(object, "daemonset", "DaemonSet", causes);
    let root = Path::Root;
    let path = root.field("spec");
    let spec = object.at(&["spec"]);
    check(
        spec,
        &path,
        &[
            ("revisionHistoryLimit", Rule::NotNegative),
            ("updateStrategy.type", Rule::MustBe(&["OnDelete", "RollingUpdate"])),
            ("updateStrategy.rollingUpdate.maxUnavailable", Rule::IntOrPercent),
            ("updateStrategy.rollingUpdate.maxSurge", Rule::IntOrPercent),
        ],
        causes,
    );
    let strategy = spec.at(&["updateStrategy"]);
    if strategy.text("type") != "RollingUpdate" {
        return;
    }
    let at = path.field("updateStrategy");
    let at = at.field("rollingUpdate");
    let rolling = strategy.at(&["rollingUpdate"]);
    let is_some = |name: &str| {
        let bound = rolling.at(&[name]);
        !(bound.as_i64() == Some(0) || bound.as_str() == Some("0%") || bound.is_null())
    };
    match (is_some("maxUnavailable"), is_some("maxSurge")) {
        (true, true) => {
            let text = "may not be set when maxUnavailable is non-zero";
            causes.invalid(at.field("maxSurge"), rolling.at(&["maxSurge"]).clone(), text);
        }
        (false, false) => causes.required(at.field("maxUnavailable"), "cannot be 0 when maxSurge is 0"),
        _ => {}
    }
}

fn print(object: &Value, now: UnixMillis) -> Vec<Value> {
    let spec = object.at(&["spec"]);
    let (containers, images) = apps::containers_and_images(spec.at(&["template"]));
    vec![
        cells::name(object),
        cells::int(object, &["status", "desiredNumberScheduled"]),
        cells::int(object, &["status", "currentNumberScheduled"]),
        cells::int(object, &["status", "numberReady"]),
        cells::int(object, &["status", "updatedNumberScheduled"]),
        cells::int(object, &["status", "numberAvailable"]),
        cells::labels(spec.at(&["template", "spec", "nodeSelector"])).into(),
        cells::created_ago(object, now),
        containers.into(),
        images.into(),
        apps::selector_text(spec.at(&["selector"])).into(),
    ]
}
