//! coordination.k8s.io/v1 Lease: its row, validation and columns.

use protocol::UnixMillis;
use serde_json::Value;

use super::{Kind, STORED};
use crate::access::Access;
use crate::cause::Path;
use crate::table::Column;
use crate::time::age_since;

pub const KIND: Kind = Kind {
    group: "coordination.k8s.io",
    kind: "Lease",
    list_kind: "LeaseList",
    plural: "leases",
    singular: "lease",
    definition: "io.k8s.api.coordination.v1.Lease",
    schema: |generator| {
        generator.subschema_for::<k8s_openapi::api::coordination::v1::Lease>();
    },
    validate: |object, causes| {
        let root = Path::Root;
        let path = root.field("spec");
        let spec = object.at(&["spec"]);
        if let Some(seconds) = spec.int("leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
            causes.invalid(path.field("leaseDurationSeconds"), seconds, "must be greater than 0");
        }
        if let Some(count) = spec.int("leaseTransitions").filter(|count| *count < 0) {
            causes.invalid(
                path.field("leaseTransitions"),
                count,
                "must be greater than or equal to 0",
            );
        }
    },
    columns: &[
        Column::NAME,
        Column::text("Holder", "The identity of the current holder of the lease."),
        Column::AGE,
    ],
    cells,
    ..STORED
};

fn cells(object: &Value, now: UnixMillis) -> Vec<Value> {
    let metadata = object.at(&["metadata"]);
    vec![
        metadata.text("name").into(),
        object.at(&["spec"]).text("holderIdentity").into(),
        age_since(metadata.text("creationTimestamp"), now).into(),
    ]
}
