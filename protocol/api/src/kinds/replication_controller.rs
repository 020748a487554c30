//! core/v1 ReplicationController: its row, defaults, validation and columns. Its selector is a plain map of labels.

use serde_json::Value;

use super::checks::{Rule, check};
use super::{Generation, Kind, Subresource, apps, cells, pod_spec};
use crate::access::{Access, object_mut, set_default};
use crate::cause::{Causes, Path};
use crate::table::Column;

pub const KIND: Kind = Kind {
    short_names: &["rc"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Scale],
    selectable_fields: &["status.replicas"],
    generation: Generation::Spec,
    default,
    validate,
    columns: &[
        Column::NAME,
        Column::integer("Desired", "Replicas is the number of desired replicas."),
        Column::integer("Current", "Replicas is the most recently observed number of replicas."),
        Column::integer("Ready", "The number of ready replicas for this replication controller."),
        Column::AGE,
        Column::wide("Containers", "Names of each container in the template."),
        Column::wide("Images", "Images referenced by each container in the template."),
        Column::wide("Selector", "Labels of the pods that are counted."),
    ],
    cells: |object, now| {
        let (containers, images) = apps::containers_and_images(object.at(&["spec", "template"]));
        vec![
            cells::name(object),
            cells::int(object, &["spec", "replicas"]),
            cells::int(object, &["status", "replicas"]),
            cells::int(object, &["status", "readyReplicas"]),
            cells::created_ago(object, now),
            containers.into(),
            images.into(),
            cells::labels(object.at(&["spec", "selector"])).into(),
        ]
    },
    field_value: |object, _| object.at(&["status"]).int("replicas").unwrap_or(0).to_string(),
    ..row!(
        "",
        v1,
        core,
        ReplicationController,
        "replicationcontrollers",
        "replicationcontroller"
    )
};

fn default(object: &mut Value) {
    let labels = object.at(&["spec", "template", "metadata", "labels"]).clone();
    let spec = object_mut(object, "spec");
    if !labels.is_null() {
        if spec.members("selector").next().is_none() {
            spec["selector"] = labels.clone();
        }
        let metadata = object_mut(object, "metadata");
        if metadata.members("labels").next().is_none() {
            metadata["labels"] = labels;
        }
    }
    let spec = object_mut(object, "spec");
    set_default(spec, "replicas", 1);
    apps::default_template(spec);
}

fn validate(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let spec = object.at(&["spec"]);
    check(
        spec,
        &path,
        &[
            ("minReadySeconds", Rule::NotNegative),
            ("selector", Rule::Required),
            ("replicas", Rule::NotNegative),
            ("template", Rule::Required),
        ],
        causes,
    );
    let template = spec.at(&["template"]);
    if template.is_null() {
        return;
    }
    let at = path.field("template");
    let labels = template.at(&["metadata", "labels"]);
    let mut wanted = spec.members("selector");
    if wanted.any(|(key, value)| labels.at(&[key]) != value) {
        let metadata = at.field("metadata");
        let text = "`selector` does not match template `labels`";
        causes.invalid(metadata.field("labels"), labels.clone(), text);
    }
    pod_spec::template(template, &at, Some("ReplicationController"), causes);
}
