//! apps/v1 ReplicaSet: its row, defaults, validation and columns.

use protocol::UnixMillis;
use serde_json::Value;

use super::{Generation, Kind, STORED, Subresource, apps};
use crate::access::{Access, object_mut, set_default};
use crate::table::Column;
use crate::time::age_since;

pub const KIND: Kind = Kind {
    group: "apps",
    kind: "ReplicaSet",
    list_kind: "ReplicaSetList",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Scale],
    selectable_fields: &["status.replicas"],
    definition: "io.k8s.api.apps.v1.ReplicaSet",
    schema: |generator| {
        generator.subschema_for::<k8s_openapi::api::apps::v1::ReplicaSet>();
    },
    generation: Generation::Spec,
    default: |object| {
        let spec = object_mut(object, "spec");
        set_default(spec, "replicas", 1);
        apps::default_template(spec);
    },
    validate: |object, causes| apps::validate(object, "replicaset", "ReplicaSet", causes),
    validate_update: apps::validate_update,
    columns: &[
        Column::NAME,
        Column::integer("Desired", "Replicas is the number of desired pods."),
        Column::integer(
            "Current",
            "Replicas is the most recently observed number of non-terminating pods.",
        ),
        Column::integer(
            "Ready",
            "The number of non-terminating pods targeted by this ReplicaSet with a Ready Condition.",
        ),
        Column::AGE,
        Column::wide("Containers", "Names of each container in the template."),
        Column::wide("Images", "Images referenced by each container in the template."),
        Column::wide("Selector", "Label selector for pods."),
    ],
    cells,
    field_value: |object, _| object.at(&["status"]).int("replicas").unwrap_or(0).to_string(),
    ..STORED
};

fn cells(object: &Value, now: UnixMillis) -> Vec<Value> {
    let (metadata, spec, status) = (object.at(&["metadata"]), object.at(&["spec"]), object.at(&["status"]));
    let (containers, images) = apps::containers_and_images(spec.at(&["template"]));
    vec![
        metadata.text("name").into(),
        spec.int("replicas").unwrap_or(0).into(),
        status.int("replicas").unwrap_or(0).into(),
        status.int("readyReplicas").unwrap_or(0).into(),
        age_since(metadata.text("creationTimestamp"), now).into(),
        containers.into(),
        images.into(),
        apps::selector_text(spec.at(&["selector"])).into(),
    ]
}
