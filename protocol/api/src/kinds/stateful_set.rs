//! apps/v1 StatefulSet: its row, defaults, validation and columns.

use protocol::UnixMillis;
use serde_json::{Map, Value};

use super::checks::{Rule, check};
use super::{Generation, Kind, Subresource, apps, cells, persistent_volume_claim};
use crate::access::{Access, items_mut, object_mut, remove, set_default, set_default_text};
use crate::cause::{Causes, Path};
use crate::rules;
use crate::table::Column;

pub const KIND: Kind = Kind {
    short_names: &["sts"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Scale],
    // A pod's host name is made of the set's name, so it cannot have dots.
    name_rule: rules::dns_label,
    generation: Generation::Spec,
    default,
    validate,
    validate_update,
    columns: &[
        Column::NAME,
        Column::text("Ready", "Number of the pod with ready state"),
        Column::AGE,
        Column::wide("Containers", "Names of each container in the template."),
        Column::wide("Images", "Images referenced by each container in the template."),
    ],
    cells: print,
    ..row!("apps", v1, apps, StatefulSet, "statefulsets", "statefulset")
};

fn default(object: &mut Value) {
    let spec = object_mut(object, "spec");
    set_default_text(spec, "podManagementPolicy", "OrderedReady");
    let strategy = object_mut(spec, "updateStrategy");
    set_default_text(strategy, "type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        set_default(strategy, "rollingUpdate", Map::new());
        set_default(&mut strategy["rollingUpdate"], "partition", 0);
    }
    let retention = object_mut(spec, "persistentVolumeClaimRetentionPolicy");
    set_default_text(retention, "whenDeleted", "Retain");
    set_default_text(retention, "whenScaled", "Retain");
    set_default(spec, "replicas", 1);
    set_default(spec, "revisionHistoryLimit", 10);
    apps::default_template(spec);
    for claim in items_mut(spec, "volumeClaimTemplates")
        .iter_mut()
        .filter(|claim| claim.is_object())
    {
        set_default_text(claim, "apiVersion", "v1");
        set_default_text(claim, "kind", "PersistentVolumeClaim");
        persistent_volume_claim::default(claim);
    }
}

fn validate(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let spec = object.at(&["spec"]);
    if !matches!(spec.text("podManagementPolicy"), "OrderedReady" | "Parallel") {
        let policy = spec.text("podManagementPolicy");
        causes.invalid(
            path.field("podManagementPolicy"),
            policy,
            "must be 'OrderedReady' or 'Parallel'",
        );
    }
    update_strategy(spec.at(&["updateStrategy"]), &path.field("updateStrategy"), causes);
    let policies: &[&str] = &["Delete", "Retain"];
    check(
        spec,
        &path,
        &[
            (
                "persistentVolumeClaimRetentionPolicy.whenDeleted",
                Rule::MustBe(policies),
            ),
            (
                "persistentVolumeClaimRetentionPolicy.whenScaled",
                Rule::MustBe(policies),
            ),
            ("ordinals.start", Rule::NotNegative),
            ("revisionHistoryLimit", Rule::NotNegative),
        ],
        causes,
    );
    apps::validate(object, "statefulset", "StatefulSet", causes);
}

fn update_strategy(strategy: &Value, path: &Path<'_>, causes: &mut Causes) {
    let rolling = strategy.at(&["rollingUpdate"]);
    match strategy.text("type") {
        "OnDelete" => {
            if !rolling.is_null() {
                let text = "only allowed for updateStrategy 'RollingUpdate'";
                causes.invalid(path.field("rollingUpdate"), rolling.clone(), text);
            }
        }
        "RollingUpdate" => {
            check(
                rolling,
                &path.field("rollingUpdate"),
                &[("partition", Rule::NotNegative), ("maxUnavailable", Rule::IntOrPercent)],
                causes,
            );
            let most = rolling.at(&["maxUnavailable"]);
            if most.as_i64() == Some(0) || most.as_str() == Some("0%") {
                let at = path.field("rollingUpdate");
                causes.invalid(at.field("maxUnavailable"), most.clone(), "cannot be 0");
            }
        }
        "" => causes.required(*path, ""),
        _ => causes.invalid(*path, strategy.clone(), "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

/// What an update of the spec may change.
const MUTABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

fn validate_update(old: &Value, new: &Value, causes: &mut Causes) {
    let fixed = |object: &Value| {
        let mut spec = object.at(&["spec"]).clone();
        for name in MUTABLE {
            remove(&mut spec, name);
        }
        // The state of a claim in a template is nothing that was asked for.
        for claim in items_mut(&mut spec, "volumeClaimTemplates") {
            remove(claim, "status");
        }
        spec
    };
    if fixed(old) != fixed(new) {
        causes.forbidden(
            Path::Root.field("spec"),
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
             'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}

fn print(object: &Value, now: UnixMillis) -> Vec<Value> {
    let (spec, status) = (object.at(&["spec"]), object.at(&["status"]));
    let (containers, images) = apps::containers_and_images(spec.at(&["template"]));
    let (ready, wanted) = (status.int("readyReplicas"), spec.int("replicas"));
    vec![
        cells::name(object),
        format!("{}/{}", ready.unwrap_or(0), wanted.unwrap_or(0)).into(),
        cells::created_ago(object, now),
        containers.into(),
        images.into(),
    ]
}
