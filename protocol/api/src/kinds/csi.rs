//! storage.k8s.io/v1 CSIDriver and CSINode: rows, defaults, validation and columns.

use serde_json::{Value, json};

use super::checks::{self, Rule, check};
use super::{Generation, Kind, cells};
use crate::access::{Access, object_mut, set_default, set_default_text};
use crate::cause::{Causes, Path};
use crate::rules;
use crate::table::Column;

pub const DRIVER: Kind = Kind {
    namespaced: false,
    generation: Generation::Spec,
    default: |object| {
        let spec = object_mut(object, "spec");
        set_default(spec, "attachRequired", true);
        set_default(spec, "podInfoOnMount", false);
        set_default(spec, "storageCapacity", false);
        set_default_text(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if spec.items("volumeLifecycleModes").is_empty() {
            spec["volumeLifecycleModes"] = json!(["Persistent"]);
        }
        set_default(spec, "requiresRepublish", false);
        set_default(spec, "seLinuxMount", false);
    },
    validate: validate_driver,
    validate_update: |old, new, causes| {
        checks::immutable(
            old,
            new,
            &["spec.attachRequired", "spec.fsGroupPolicy", "spec.volumeLifecycleModes"],
            causes,
        );
    },
    columns: &[
        Column::NAME,
        Column::boolean(
            "AttachRequired",
            "Whether volumes are attached before they are mounted.",
        ),
        Column::boolean("PodInfoOnMount", "Whether the driver is told of the pod that mounts."),
        Column::boolean("StorageCapacity", "Whether the driver says how much it can store."),
        Column::text("TokenRequests", "Audiences of the tokens that the driver is given."),
        Column::boolean(
            "RequiresRepublish",
            "Whether the driver is called again from time to time.",
        ),
        Column::text("Modes", "The ways in which volumes come and go."),
        Column::AGE,
    ],
    cells: |object, now| {
        let spec = object.at(&["spec"]);
        let audiences: Vec<&str> = spec
            .items("tokenRequests")
            .iter()
            .map(|request| request.text("audience"))
            .collect();
        let audiences = if audiences.is_empty() {
            "<unset>".to_owned()
        } else {
            audiences.join(",")
        };
        vec![
            cells::name(object),
            spec.at(&["attachRequired"]).as_bool().unwrap_or(true).into(),
            cells::flag(object, &["spec", "podInfoOnMount"]),
            cells::flag(object, &["spec", "storageCapacity"]),
            audiences.into(),
            cells::flag(object, &["spec", "requiresRepublish"]),
            cells::list_or(spec.items("volumeLifecycleModes"), "<none>"),
            cells::created_ago(object, now),
        ]
    },
    ..row!("storage.k8s.io", v1, storage, CSIDriver, "csidrivers", "csidriver")
};

pub const NODE: Kind = Kind {
    namespaced: false,
    validate: |object, causes| {
        let root = Path::Root;
        check(
            object.at(&["spec"]),
            &root.field("spec"),
            &[
                ("drivers", Rule::Unique("name")),
                ("drivers[].name", Rule::RequiredForm(driver_name)),
                ("drivers[].nodeID", Rule::Required),
                ("drivers[].allocatable.count", Rule::NotNegative),
                ("drivers[].topologyKeys[]", Rule::Form(rules::qualified_name)),
                ("drivers[].topologyKeys", Rule::Unique("")),
            ],
            causes,
        );
    },
    validate_update: |old, new, causes| {
        // What a driver has said of itself stays until it is taken away.
        let root = Path::Root;
        let path = root.field("spec");
        let list = path.field("drivers");
        let known = old.at(&["spec"]).items("drivers");
        for (index, driver) in new.at(&["spec"]).items("drivers").iter().enumerate() {
            let before = known.iter().find(|known| known.text("name") == driver.text("name"));
            let fixed = |driver: &Value| (driver.at(&["nodeID"]).clone(), driver.at(&["topologyKeys"]).clone());
            if before.is_some_and(|before| fixed(before) != fixed(driver)) {
                causes.invalid(list.index(index), driver.clone(), "field is immutable");
            }
        }
    },
    columns: &[
        Column::NAME,
        Column::integer("Drivers", "The number of drivers that serve the node."),
        Column::AGE,
    ],
    cells: |object, now| {
        vec![
            cells::name(object),
            object.at(&["spec"]).items("drivers").len().into(),
            cells::created_ago(object, now),
        ]
    },
    ..row!("storage.k8s.io", v1, storage, CSINode, "csinodes", "csinode")
};

/// The name of a driver: a DNS subdomain of at most 63 bytes, upper case allowed.
fn driver_name(text: &str) -> rules::Problems {
    let mut problems = rules::dns_subdomain(&text.to_lowercase());
    if text.len() > 63 {
        problems.push("must be no more than 63 bytes".to_owned());
    }
    problems
}

fn validate_driver(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let name = object.at(&["metadata"]).text("name");
    if name.len() > 63 {
        let metadata = root.field("metadata");
        causes.too_long(metadata.field("name"), 63);
    }
    check(
        object.at(&["spec"]),
        &root.field("spec"),
        &[
            (
                "fsGroupPolicy",
                Rule::Known(&["File", "None", "ReadWriteOnceWithFSType"]),
            ),
            ("volumeLifecycleModes[]", Rule::MustBe(&["Ephemeral", "Persistent"])),
            ("tokenRequests", Rule::Unique("audience")),
            ("tokenRequests[].expirationSeconds", Rule::Within(600, 1 << 32)),
        ],
        causes,
    );
}
