//! storage.k8s.io/v1 StorageClass, VolumeAttributesClass and CSIStorageCapacity: rows, defaults, validation and columns.

use serde_json::Value;

use super::checks::{self, Rule, check};
use super::{Kind, cells};
use crate::access::{Access, set_default_text};
use crate::cause::{Causes, Path};
use crate::rules;
use crate::table::Column;

/// The annotations of the class that is taken when none is named.
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const DEFAULT_CLASS_BETA: &str = "storageclass.beta.kubernetes.io/is-default-class";
/// What the parameters of a class may take together, and how many there may be.
const PARAMETERS_BYTES_MAX: usize = 256 * 1024;
const PARAMETERS_MAX: usize = 512;

pub const STORAGE_CLASS: Kind = Kind {
    short_names: &["sc"],
    namespaced: false,
    default: |object| {
        set_default_text(object, "reclaimPolicy", "Delete");
        set_default_text(object, "volumeBindingMode", "Immediate");
    },
    validate: |object, causes| {
        let root = Path::Root;
        check(
            object,
            &root,
            &[
                ("provisioner", Rule::RequiredForm(provisioner)),
                ("reclaimPolicy", Rule::Known(&["Delete", "Retain"])),
                (
                    "volumeBindingMode",
                    Rule::RequiredKnown(&["Immediate", "WaitForFirstConsumer"]),
                ),
            ],
            causes,
        );
        parameters(object, &root, causes);
        topologies(object, &root, causes);
    },
    validate_update: |old, new, causes| {
        fixed(old, new, &["parameters", "provisioner", "reclaimPolicy"], causes);
        checks::immutable(old, new, &["volumeBindingMode"], causes);
    },
    columns: &[
        Column::NAME,
        Column::text("Provisioner", "Who makes volumes of this class."),
        Column::text("ReclaimPolicy", "What happens to a volume when its claim is gone."),
        Column::text("VolumeBindingMode", "When a claim of this class is bound."),
        Column::boolean("AllowVolumeExpansion", "Whether volumes can grow."),
        Column::AGE,
    ],
    cells: |object, now| {
        vec![
            class_name(object, &[DEFAULT_CLASS, DEFAULT_CLASS_BETA]).into(),
            cells::text(object, &["provisioner"]),
            cells::text_or(object, &["reclaimPolicy"], "Delete"),
            cells::text_or(object, &["volumeBindingMode"], "Immediate"),
            cells::flag(object, &["allowVolumeExpansion"]),
            cells::created_ago(object, now),
        ]
    },
    ..row!(
        "storage.k8s.io",
        v1,
        storage,
        StorageClass,
        "storageclasses",
        "storageclass"
    )
};

pub const ATTRIBUTES_CLASS: Kind = Kind {
    short_names: &["vac"],
    namespaced: false,
    validate: |object, causes| {
        let root = Path::Root;
        check(
            object,
            &root,
            &[("driverName", Rule::RequiredForm(provisioner))],
            causes,
        );
        if object.members("parameters").next().is_none() {
            causes.required(root.field("parameters"), "must contain at least one key/value pair");
        }
        parameters(object, &root, causes);
    },
    validate_update: |old, new, causes| fixed(old, new, &["driverName", "parameters"], causes),
    columns: &[
        Column::NAME,
        Column::text("DriverName", "The driver that understands the parameters."),
        Column::AGE,
    ],
    cells: |object, now| {
        vec![
            class_name(object, &[DEFAULT_CLASS]).into(),
            cells::text(object, &["driverName"]),
            cells::created_ago(object, now),
        ]
    },
    ..row!(
        "storage.k8s.io",
        v1,
        storage,
        VolumeAttributesClass,
        "volumeattributesclasses",
        "volumeattributesclass"
    )
};

pub const CAPACITY: Kind = Kind {
    validate: |object, causes| {
        let root = Path::Root;
        check(
            object,
            &root,
            &[
                ("storageClassName", Rule::RequiredForm(rules::dns_subdomain)),
                ("capacity", Rule::Quantity),
                ("maximumVolumeSize", Rule::Quantity),
                ("nodeTopology", Rule::Selector),
            ],
            causes,
        );
    },
    validate_update: |old, new, causes| {
        checks::immutable(old, new, &["nodeTopology", "storageClassName"], causes);
    },
    columns: &[
        Column::NAME,
        Column::text("StorageClassName", "The class that the capacity is for."),
        Column::text("Capacity", "How much there is."),
    ],
    cells: |object, _| {
        vec![
            cells::name(object),
            cells::text(object, &["storageClassName"]),
            cells::text_or(object, &["capacity"], "<unset>"),
        ]
    },
    ..row!(
        "storage.k8s.io",
        v1,
        storage,
        CSIStorageCapacity,
        "csistoragecapacities",
        "csistoragecapacity"
    )
};

/// The name of a provisioner or driver: qualified, upper case allowed.
fn provisioner(text: &str) -> rules::Problems {
    rules::qualified_name(&text.to_lowercase())
}

/// The class's name, marked when it is taken for claims that name none.
fn class_name(object: &Value, annotations: &[&str]) -> String {
    let metadata = object.at(&["metadata"]);
    let given = metadata.at(&["annotations"]);
    let name = metadata.text("name");
    if annotations.iter().any(|annotation| given.text(annotation) == "true") {
        format!("{name} (default)")
    } else {
        name.to_owned()
    }
}

fn parameters(object: &Value, path: &Path<'_>, causes: &mut Causes) {
    let at = path.field("parameters");
    let count = object.members("parameters").count();
    if count > PARAMETERS_MAX {
        causes.too_many(at, count, PARAMETERS_MAX);
        return;
    }
    let mut bytes = 0;
    for (key, value) in object.members("parameters") {
        if key.is_empty() {
            causes.invalid(at, key.as_str(), "field can not be empty.");
        }
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > PARAMETERS_BYTES_MAX {
        causes.too_long(at, PARAMETERS_BYTES_MAX);
    }
}

fn topologies(object: &Value, path: &Path<'_>, causes: &mut Causes) {
    let list = path.field("allowedTopologies");
    for (index, term) in object.items("allowedTopologies").iter().enumerate() {
        let at = list.index(index);
        check(
            term,
            &at,
            &[
                ("matchLabelExpressions", Rule::Unique("key")),
                ("matchLabelExpressions[].key", Rule::RequiredForm(rules::qualified_name)),
                ("matchLabelExpressions[].values", Rule::Required),
                ("matchLabelExpressions[].values", Rule::Unique("")),
            ],
            causes,
        );
    }
}

/// Fields that storage.k8s.io says in its own words may not change.
fn fixed(old: &Value, new: &Value, fields: &[&str], causes: &mut Causes) {
    for field in fields {
        if old.at(&[field]) != new.at(&[field]) {
            let text = format!("updates to {field} are forbidden.");
            causes.forbidden(Path::Root.field(field), text);
        }
    }
}
