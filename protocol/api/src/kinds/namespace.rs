//! core/v1 Namespace: its row, its first status, and the finalizer that holds it until it is empty.

use protocol::UnixMillis;
use serde_json::{Value, json};

use super::{Kind, STORED, Subresource};
use crate::access::{Access, object_mut};
use crate::rules;
use crate::table::Column;
use crate::time::age_since;

/// The label that every namespace carries with its own name, so that namespace selectors can name one.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub const KIND: Kind = Kind {
    kind: "Namespace",
    list_kind: "NamespaceList",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    namespaced: false,
    subresources: &[Subresource::Status, Subresource::Finalize],
    selectable_fields: &["status.phase"],
    definition: "io.k8s.api.core.v1.Namespace",
    schema: |generator| {
        generator.subschema_for::<k8s_openapi::api::core::v1::Namespace>();
    },
    name_rule: rules::dns_label,
    default: |object| {
        let name = object.at(&["metadata"]).text("name").to_owned();
        if !name.is_empty() {
            object_mut(object_mut(object, "metadata"), "labels")[NAME_LABEL] = name.into();
        }
    },
    prepare_create: |object| {
        object["spec"] = json!({"finalizers": ["kubernetes"]});
        object["status"] = json!({"phase": "Active"});
    },
    prepare_update: |old, new| {
        // Only the finalize subresource changes these.
        new["spec"] = old.at(&["spec"]).clone();
    },
    columns: &[
        Column::NAME,
        Column::text("Status", "The status of the namespace"),
        Column::AGE,
    ],
    cells,
    ..STORED
};

fn cells(object: &Value, now: UnixMillis) -> Vec<Value> {
    let metadata = object.at(&["metadata"]);
    vec![
        metadata.text("name").into(),
        object.at(&["status"]).text("phase").into(),
        age_since(metadata.text("creationTimestamp"), now).into(),
    ]
}
