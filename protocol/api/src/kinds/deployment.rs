//! apps/v1 Deployment: its row, defaults, validation and columns.

use protocol::UnixMillis;
use serde_json::{Map, Value};

use super::checks::{int_or_percent, not_above_all};
use super::{Generation, Kind, STORED, Subresource, apps};
use crate::access::{Access, object_mut, set_default, set_default_text};
use crate::cause::{Causes, Path};
use crate::table::Column;
use crate::time::age_since;

pub const KIND: Kind = Kind {
    group: "apps",
    kind: "Deployment",
    list_kind: "DeploymentList",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Scale],
    definition: "io.k8s.api.apps.v1.Deployment",
    schema: |generator| {
        generator.subschema_for::<k8s_openapi::api::apps::v1::Deployment>();
    },
    generation: Generation::SpecAndAnnotations,
    default,
    validate,
    validate_update: apps::validate_update,
    columns: &[
        Column::NAME,
        Column::text("Ready", "Number of the pod with ready state"),
        Column::integer(
            "Up-to-date",
            "Total number of pods targeted by this deployment that have the desired template",
        ),
        Column::integer(
            "Available",
            "Total number of available pods targeted by this deployment",
        ),
        Column::AGE,
        Column::wide("Containers", "Names of each container in the template."),
        Column::wide("Images", "Images referenced by each container in the template."),
        Column::wide("Selector", "Label selector for pods."),
    ],
    cells,
    ..STORED
};

/// How many old ReplicaSets are kept for a rollback.
const REVISION_HISTORY_LIMIT: i64 = 10;
/// How long a rollout may make no progress before it counts as failed.
const PROGRESS_DEADLINE_SECONDS: i64 = 600;

fn default(object: &mut Value) {
    let spec = object_mut(object, "spec");
    set_default(spec, "replicas", 1);
    set_default(spec, "revisionHistoryLimit", REVISION_HISTORY_LIMIT);
    set_default(spec, "progressDeadlineSeconds", PROGRESS_DEADLINE_SECONDS);
    let strategy = object_mut(spec, "strategy");
    set_default_text(strategy, "type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        set_default(strategy, "rollingUpdate", Map::new());
        let rolling = &mut strategy["rollingUpdate"];
        set_default(rolling, "maxUnavailable", "25%");
        set_default(rolling, "maxSurge", "25%");
    }
    apps::default_template(spec);
}

fn validate(object: &Value, causes: &mut Causes) {
    apps::validate(object, "deployment", "ReplicaSet", causes);
    let root = Path::Root;
    let path = root.field("spec");
    let spec = object.at(&["spec"]);
    strategy(spec.at(&["strategy"]), &path.field("strategy"), causes);
    if let Some(limit) = spec.int("revisionHistoryLimit").filter(|limit| *limit < 0) {
        causes.invalid(
            path.field("revisionHistoryLimit"),
            limit,
            "must be greater than or equal to 0",
        );
    }
    if let Some(deadline) = spec.int("progressDeadlineSeconds") {
        let at = path.field("progressDeadlineSeconds");
        if deadline < 0 {
            causes.invalid(at, deadline, "must be greater than or equal to 0");
        } else if deadline <= spec.int("minReadySeconds").unwrap_or(0) {
            causes.invalid(at, deadline, "must be greater than minReadySeconds");
        }
    }
}

fn strategy(strategy: &Value, path: &Path<'_>, causes: &mut Causes) {
    let rolling = path.field("rollingUpdate");
    match strategy.text("type") {
        "Recreate" => {
            if strategy.has("rollingUpdate") {
                causes.forbidden(rolling, "may not be specified when strategy `type` is 'Recreate'");
            }
        }
        "RollingUpdate" => {
            let bounds = strategy.at(&["rollingUpdate"]);
            let mut bound = |name| int_or_percent(bounds.at(&[name]), rolling.field(name), causes);
            let (unavailable, surge) = (bound("maxUnavailable"), bound("maxSurge"));
            if unavailable == Some(0) && surge == Some(0) {
                let value = strategy.at(&["rollingUpdate", "maxUnavailable"]).clone();
                causes.invalid(
                    rolling.field("maxUnavailable"),
                    value,
                    "may not be 0 when `maxSurge` is 0",
                );
            }
            not_above_all(bounds.at(&["maxUnavailable"]), rolling.field("maxUnavailable"), causes);
        }
        other => causes.not_supported(path.field("type"), other, &["Recreate", "RollingUpdate"]),
    }
}

fn cells(object: &Value, now: UnixMillis) -> Vec<Value> {
    let (metadata, spec, status) = (object.at(&["metadata"]), object.at(&["spec"]), object.at(&["status"]));
    let count = |name: &str| status.int(name).unwrap_or(0);
    let (containers, images) = apps::containers_and_images(spec.at(&["template"]));
    vec![
        metadata.text("name").into(),
        format!("{}/{}", count("readyReplicas"), spec.int("replicas").unwrap_or(0)).into(),
        count("updatedReplicas").into(),
        count("availableReplicas").into(),
        age_since(metadata.text("creationTimestamp"), now).into(),
        containers.into(),
        images.into(),
        apps::selector_text(spec.at(&["selector"])).into(),
    ]
}
