//! scheduling.k8s.io/v1 PriorityClass: its row, validation and columns.

use super::{Kind, STORED};
use crate::access::{Access, set_default_text};
use crate::cause::Path;
use crate::meta;
use crate::table::Column;
use crate::time::age_since;

/// The highest value that is not kept for the system's own classes.
const USER_VALUE_MAX: i64 = 1_000_000_000;

pub const KIND: Kind = Kind {
    group: "scheduling.k8s.io",
    kind: "PriorityClass",
    list_kind: "PriorityClassList",
    plural: "priorityclasses",
    singular: "priorityclass",
    short_names: &["pc"],
    namespaced: false,
    definition: "io.k8s.api.scheduling.v1.PriorityClass",
    schema: |generator| {
        generator.subschema_for::<k8s_openapi::api::scheduling::v1::PriorityClass>();
    },
    default: |object| set_default_text(object, "preemptionPolicy", "PreemptLowerPriority"),
    validate: |object, causes| {
        let root = Path::Root;
        let value = object.int("value").unwrap_or(0);
        let name = object.at(&["metadata"]).text("name");
        if value > USER_VALUE_MAX && !name.starts_with("system-") {
            let text = format!("maximum allowed value of a user defined priority is {USER_VALUE_MAX}");
            causes.forbidden(root.field("value"), text);
        }
        let policy = object.text("preemptionPolicy");
        if !matches!(policy, "Never" | "PreemptLowerPriority") {
            causes.not_supported(
                root.field("preemptionPolicy"),
                policy,
                &["Never", "PreemptLowerPriority"],
            );
        }
    },
    validate_update: |old, new, causes| {
        let root = Path::Root;
        if old.int("value") != new.int("value") {
            causes.forbidden(root.field("value"), "may not be changed in an update.");
        }
        let (before, after) = (old.at(&["preemptionPolicy"]), new.at(&["preemptionPolicy"]));
        meta::immutable(after, before, root.field("preemptionPolicy"), causes);
    },
    columns: &[
        Column::NAME,
        Column::integer("Value", "The integer value of this priority class."),
        Column::text("Global-Default", "Whether pods without a class get this one."),
        Column::AGE,
        Column::text("PreemptionPolicy", "Whether pods of this class preempt others."),
    ],
    cells: |object, now| {
        let metadata = object.at(&["metadata"]);
        vec![
            metadata.text("name").into(),
            object.int("value").unwrap_or(0).into(),
            object.flag("globalDefault").to_string().into(),
            age_since(metadata.text("creationTimestamp"), now).into(),
            object.text("preemptionPolicy").into(),
        ]
    },
    ..STORED
};
