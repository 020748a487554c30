//! apps/v1 ControllerRevision: its row, validation and columns.

use serde_json::Value;

use super::checks::{self, Rule};
use super::{Kind, cells};
use crate::access::Access;
use crate::cause::Path;
use crate::table::Column;

pub const KIND: Kind = Kind {
    validate: |object, causes| {
        checks::check(
            object,
            &Path::Root,
            &[
                ("revision", Rule::NotNegative),
                ("data", Rule::RequiredBecause("data is mandatory")),
            ],
            causes,
        );
    },
    validate_update: |old, new, causes| checks::immutable(old, new, &["data"], causes),
    columns: &[
        Column::NAME,
        Column::text("Controller", "Controller of the object"),
        Column::integer(
            "Revision",
            "Revision indicates the revision of the state represented by Data.",
        ),
        Column::AGE,
    ],
    cells: |object, now| {
        vec![
            cells::name(object),
            controller(object).into(),
            cells::int(object, &["revision"]),
            cells::created_ago(object, now),
        ]
    },
    ..row!(
        "apps",
        v1,
        apps,
        ControllerRevision,
        "controllerrevisions",
        "controllerrevision"
    )
};

/// `statefulset.apps/web`.
fn controller(object: &Value) -> String {
    let owners = object.at(&["metadata"]).items("ownerReferences");
    let Some(owner) = owners.iter().find(|owner| owner.flag("controller")) else {
        return "<none>".to_owned();
    };
    let (kind, name) = (owner.text("kind").to_lowercase(), owner.text("name"));
    match owner.text("apiVersion").split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{name}"),
        None => format!("{kind}/{name}"),
    }
}
