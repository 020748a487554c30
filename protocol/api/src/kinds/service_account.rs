//! core/v1 ServiceAccount: its row and columns.

use super::{Kind, STORED};
use crate::access::Access;
use crate::table::Column;
use crate::time::age_since;

pub const KIND: Kind = Kind {
    kind: "ServiceAccount",
    list_kind: "ServiceAccountList",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    definition: "io.k8s.api.core.v1.ServiceAccount",
    schema: |generator| {
        generator.subschema_for::<k8s_openapi::api::core::v1::ServiceAccount>();
    },
    columns: &[
        Column::NAME,
        Column::text("Secrets", "Number of secrets that pods of this account may mount."),
        Column::AGE,
    ],
    cells: |object, now| {
        let metadata = object.at(&["metadata"]);
        vec![
            metadata.text("name").into(),
            object.items("secrets").len().to_string().into(),
            age_since(metadata.text("creationTimestamp"), now).into(),
        ]
    },
    ..STORED
};
