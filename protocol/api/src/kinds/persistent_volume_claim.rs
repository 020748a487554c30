//! core/v1 PersistentVolumeClaim: its row, defaults, validation and columns. StatefulSets hold claims in their templates.

use protocol::UnixMillis;
use protocol::quantity::Quantity;
use serde_json::{Value, json};

use super::checks::{Rule, check};
use super::persistent_volume::{access_modes, access_modes_text, class_of, phase, positive};
use super::{Kind, Subresource, cells};
use crate::access::{Access, object_mut, remove, set_default_text};
use crate::cause::{Causes, Path};
use crate::rules;
use crate::table::Column;

pub const KIND: Kind = Kind {
    short_names: &["pvc"],
    subresources: &[Subresource::Status],
    default: |object| {
        default(object);
        // The state belongs to the status subresource; only a template's claim carries it along.
        remove(object, "status");
    },
    prepare_create: |object| object["status"] = json!({"phase": "Pending"}),
    validate: |object, causes| {
        let root = Path::Root;
        validate_spec(object.at(&["spec"]), &root.field("spec"), causes);
    },
    validate_update,
    columns: &[
        Column::NAME,
        Column::text("Status", "Whether the claim is bound to a volume."),
        Column::text("Volume", "The volume that the claim is bound to."),
        Column::text("Capacity", "The size of the volume."),
        Column::text("Access Modes", "The ways in which the volume can be mounted."),
        Column::text("StorageClass", "The class that the claim asks for."),
        Column::text("VolumeAttributesClass", "The attributes class that the claim asks for."),
        Column::AGE,
        Column::wide("VolumeMode", "Whether the volume is a file system or a block device."),
    ],
    cells: print,
    ..row!(
        "",
        v1,
        core,
        PersistentVolumeClaim,
        "persistentvolumeclaims",
        "persistentvolumeclaim"
    )
};

/// Fills in a claim, also one in a template.
pub fn default(object: &mut Value) {
    let spec = object_mut(object, "spec");
    set_default_text(spec, "volumeMode", "Filesystem");
    // The newer field for the source says all that the older one does.
    let (source, reference) = (spec.at(&["dataSource"]).clone(), spec.at(&["dataSourceRef"]).clone());
    if source.is_object() && reference.is_null() {
        spec["dataSourceRef"] = source;
    } else if source.is_null() && reference.is_object() && reference.text("namespace").is_empty() {
        spec["dataSource"] = reference;
    }
    set_default_text(object_mut(object, "status"), "phase", "Pending");
}

/// Validates a claim's spec.
pub fn validate_spec(spec: &Value, path: &Path<'_>, causes: &mut Causes) {
    access_modes(spec, path, "at least 1 access mode is required", causes);
    check(spec, path, &[("selector", Rule::Selector)], causes);
    let resources = path.field("resources");
    match spec.at(&["resources", "requests", "storage"]).as_str() {
        None => causes.required(resources.key("storage"), ""),
        Some(amount) => {
            let requests = resources.field("requests");
            positive(amount, requests.key("storage"), causes);
        }
    }
    check(
        spec,
        path,
        &[
            ("storageClassName", Rule::Form(rules::dns_subdomain)),
            ("volumeMode", Rule::Known(&["Block", "Filesystem"])),
            ("volumeAttributesClassName", Rule::Form(rules::dns_subdomain)),
        ],
        causes,
    );
    for name in ["dataSource", "dataSourceRef"] {
        let source = spec.at(&[name]);
        if source.is_null() {
            continue;
        }
        let at = path.field(name);
        check(
            source,
            &at,
            &[("name", Rule::Required), ("kind", Rule::Required)],
            causes,
        );
        if source.text("apiGroup").is_empty() && source.text("kind") != "PersistentVolumeClaim" {
            let text = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            causes.invalid(at.field("kind"), source.text("kind"), text);
        }
    }
}

/// What of a claim's spec may still change: its size once it is bound, its volume once, and its attributes.
fn validate_update(old: &Value, new: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let (before, after) = (old.at(&["spec"]), new.at(&["spec"]));
    let bound = old.at(&["status"]).text("phase") == "Bound";
    let fixed = |spec: &Value| {
        let mut spec = spec.clone();
        if before.text("volumeName").is_empty() {
            remove(&mut spec, "volumeName");
        }
        remove(&mut spec, "volumeAttributesClassName");
        if bound && let Some(requests) = spec.pointer_mut("/resources/requests") {
            remove(requests, "storage");
        }
        spec
    };
    if fixed(before) != fixed(after) {
        let text = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound \
                    claims";
        causes.forbidden(path, text);
    }
    let size = |spec: &Value| Quantity::parse(spec.at(&["resources", "requests"]).text("storage")).ok();
    let granted = Quantity::parse(old.at(&["status", "capacity"]).text("storage")).ok();
    if let (Some(was), Some(is)) = (size(before), size(after))
        && bound
        && is < was
        && granted.is_none_or(|granted| is <= granted)
    {
        let resources = path.field("resources");
        let requests = resources.field("requests");
        causes.forbidden(requests.field("storage"), "field can not be less than status.capacity");
    }
}

fn print(object: &Value, now: UnixMillis) -> Vec<Value> {
    let (spec, status) = (object.at(&["spec"]), object.at(&["status"]));
    let is_bound = !spec.text("volumeName").is_empty();
    let (capacity, modes) = if is_bound {
        (
            cells::text_or(object, &["status", "capacity", "storage"], "0"),
            access_modes_text(status.items("accessModes")),
        )
    } else {
        ("".into(), String::new())
    };
    vec![
        cells::name(object),
        phase(object).into(),
        spec.text("volumeName").into(),
        capacity,
        modes.into(),
        class_of(object).into(),
        cells::text_or(object, &["spec", "volumeAttributesClassName"], "<unset>"),
        cells::created_ago(object, now),
        cells::text_or(object, &["spec", "volumeMode"], "<unset>"),
    ]
}
