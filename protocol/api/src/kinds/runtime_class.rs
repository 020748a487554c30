//! node.k8s.io/v1 RuntimeClass: its row, validation and columns.

use super::checks::{self, Rule, check};
use super::{Kind, cells, container, scheduling};
use crate::access::Access;
use crate::cause::Path;
use crate::rules;
use crate::table::Column;

pub const KIND: Kind = Kind {
    namespaced: false,
    validate: |object, causes| {
        let root = Path::Root;
        check(
            object,
            &root,
            &[
                ("handler", Rule::RequiredForm(rules::dns_label)),
                ("scheduling.nodeSelector", Rule::Labels),
            ],
            causes,
        );
        // The overhead reads as requests do.
        let overhead = object.at(&["overhead", "podFixed"]);
        if !overhead.is_null() {
            let limits = serde_json::json!({"limits": overhead});
            let before = causes.0.len();
            container::resources(&limits, &root.field("overhead"), causes);
            for cause in &mut causes.0[before..] {
                cause.field = cause.field.replacen("overhead.limits", "overhead.podFixed", 1);
            }
        }
        scheduling::tolerations(object.at(&["scheduling"]), &root.field("scheduling"), causes);
    },
    validate_update: |old, new, causes| checks::immutable(old, new, &["handler"], causes),
    columns: &[
        Column::NAME,
        Column::text("Handler", "What runs pods of this class."),
        Column::AGE,
    ],
    cells: |object, now| {
        vec![
            cells::name(object),
            cells::text(object, &["handler"]),
            cells::created_ago(object, now),
        ]
    },
    ..row!("node.k8s.io", v1, node, RuntimeClass, "runtimeclasses", "runtimeclass")
};
