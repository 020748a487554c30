//! core/v1 PersistentVolume: its row, defaults, validation and columns; and what volumes and claims share.

use protocol::UnixMillis;
use protocol::quantity::Quantity;
use serde_json::{Value, json};

use super::checks::{Rule, check};
use super::{Kind, Subresource, cells, scheduling};
use crate::access::{Access, existing_mut, object_mut, set_default, set_default_text};
use crate::cause::{Causes, Path};
use crate::rules;
use crate::table::Column;

/// The access modes, in the order in which tables show them, and their short forms.
const ACCESS_MODES: [(&str, &str); 4] = [
    ("ReadWriteOnce", "RWO"),
    ("ReadOnlyMany", "ROX"),
    ("ReadWriteMany", "RWX"),
    ("ReadWriteOncePod", "RWOP"),
];

/// The fields of a spec that say where the volume is.
const SOURCES: [&str; 22] = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "glusterfs",
    "hostPath",
    "iscsi",
    "local",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

/// The class of a volume or claim in an annotation, from before there was a field for it.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

pub const KIND: Kind = Kind {
    short_names: &["pv"],
    namespaced: false,
    subresources: &[Subresource::Status],
    default: |object| {
        let spec = object_mut(object, "spec");
        set_default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        set_default_text(spec, "volumeMode", "Filesystem");
        if let Some(path) = existing_mut(spec, "hostPath") {
            set_default(path, "type", "");
        }
        if let Some(target) = existing_mut(spec, "iscsi") {
            set_default_text(target, "iscsiInterface", "default");
        }
        if let Some(image) = existing_mut(spec, "rbd") {
            set_default_text(image, "pool", "rbd");
            set_default_text(image, "user", "admin");
            set_default_text(image, "keyring", "/etc/ceph/keyring");
        }
    },
    prepare_create: |object| object["status"] = json!({"phase": "Pending"}),
    validate,
    validate_update,
    columns: &[
        Column::NAME,
        Column::text("Capacity", "The volume's size."),
        Column::text("Access Modes", "All ways in which the volume can be mounted."),
        Column::text("Reclaim Policy", "What happens to the volume when its claim is gone."),
        Column::text(
            "Status",
            "Whether the volume is available, bound to a claim, or released by one.",
        ),
        Column::text("Claim", "The claim that the volume is bound to."),
        Column::text("StorageClass", "The class that the volume belongs to."),
        Column::text(
            "VolumeAttributesClass",
            "The attributes class that the volume belongs to.",
        ),
        Column::text("Reason", "Why the volume is in its state."),
        Column::AGE,
        Column::wide("VolumeMode", "Whether the volume is a file system or a block device."),
    ],
    cells: print,
    ..row!("", v1, core, PersistentVolume, "persistentvolumes", "persistentvolume")
};

/// Validates access modes, alike for volumes and claims. `missing` says why one is needed.
pub fn access_modes(spec: &Value, path: &Path<'_>, missing: &str, causes: &mut Causes) {
    let at = path.field("accessModes");
    let modes = spec.items("accessModes");
    if modes.is_empty() {
        causes.required(at, missing);
    }
    let known = ACCESS_MODES.map(|(mode, _)| mode);
    let mut alone = false;
    for mode in modes {
        let mode = mode.as_str().unwrap_or_default();
        if !known.contains(&mode) {
            causes.not_supported(at, mode, &known);
        }
        alone |= mode == "ReadWriteOncePod";
    }
    if alone && modes.len() > 1 {
        causes.forbidden(at, "may not use ReadWriteOncePod with other access modes");
    }
}

/// `RWO,ROX`: access modes as tables show them.
pub fn access_modes_text(modes: &[Value]) -> String {
    let has = |mode: &str| modes.iter().any(|given| given.as_str() == Some(mode));
    let shown: Vec<&str> = ACCESS_MODES
        .iter()
        .filter(|(mode, _)| has(mode))
        .map(|(_, short)| *short)
        .collect();
    shown.join(",")
}

/// The storage class that a volume or claim names.
pub fn class_of(object: &Value) -> &str {
    match object.at(&["metadata", "annotations", CLASS_ANNOTATION]).as_str() {
        Some(class) => class,
        None => object.at(&["spec"]).text("storageClassName"),
    }
}

/// An amount of storage, which must be more than none.
pub fn positive(text: &str, path: Path<'_>, causes: &mut Causes) {
    if Quantity::parse(text).is_ok_and(|amount| amount.milli() <= 0) {
        causes.invalid(path, text, "must be greater than zero");
    }
}

fn validate(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let spec = object.at(&["spec"]);
    access_modes(spec, &path, "", causes);
    let capacity = path.field("capacity");
    let amounts = spec.at(&["capacity"]);
    if spec.members("capacity").next().is_none() {
        causes.required(capacity, "");
    } else if !amounts.has("storage") || spec.members("capacity").count() > 1 {
        // Upstream shows the whole map where the unsupported value would stand.
        causes.not_supported(capacity, &amounts.to_string(), &["storage"]);
    }
    for (name, amount) in spec.members("capacity") {
        positive(amount.as_str().unwrap_or_default(), capacity.key(name), causes);
    }
    check(
        spec,
        &path,
        &[
            (
                "persistentVolumeReclaimPolicy",
                Rule::Known(&["Delete", "Recycle", "Retain"]),
            ),
            ("storageClassName", Rule::Form(rules::dns_subdomain)),
            ("volumeMode", Rule::Known(&["Block", "Filesystem"])),
            ("volumeAttributesClassName", Rule::Form(rules::dns_subdomain)),
        ],
        causes,
    );
    source(spec, &path, causes);
    let affinity = spec.at(&["nodeAffinity"]);
    if !affinity.is_null() {
        let at = path.field("nodeAffinity");
        if affinity.has("required") {
            scheduling::node_selector(affinity.at(&["required"]), &at.field("required"), causes);
        } else {
            causes.required(at.field("required"), "must specify required node constraints");
        }
    } else if spec.has("local") {
        causes.required(path.field("nodeAffinity"), "Local volume requires node affinity");
    }
}

fn source(spec: &Value, path: &Path<'_>, causes: &mut Causes) {
    let given: Vec<&str> = SOURCES.into_iter().filter(|name| spec.has(name)).collect();
    if given.is_empty() {
        causes.required(*path, "must specify a volume type");
    }
    for more in given.iter().skip(1) {
        causes.forbidden(path.field(more), "may not specify more than 1 volume type");
    }
    let Some(first) = given.first() else { return };
    let (body, at) = (spec.at(&[first]), path.field(first));
    let required: &[(&str, Rule)] = match *first {
        "hostPath" => &[("path", Rule::Required)],
        "local" => &[("path", Rule::Required)],
        "nfs" => &[("server", Rule::Required), ("path", Rule::Required)],
        "csi" => &[("driver", Rule::Required), ("volumeHandle", Rule::Required)],
        "iscsi" => &[("targetPortal", Rule::Required), ("iqn", Rule::Required)],
        "rbd" => &[("monitors", Rule::Required), ("image", Rule::Required)],
        "cephfs" => &[("monitors", Rule::Required)],
        "gcePersistentDisk" => &[("pdName", Rule::Required)],
        "awsElasticBlockStore" | "cinder" => &[("volumeID", Rule::Required)],
        "azureFile" => &[("secretName", Rule::Required), ("shareName", Rule::Required)],
        "azureDisk" => &[("diskName", Rule::Required), ("diskURI", Rule::Required)],
        "vsphereVolume" => &[("volumePath", Rule::Required)],
        "flexVolume" => &[("driver", Rule::Required)],
        "glusterfs" => &[("endpoints", Rule::Required), ("path", Rule::Required)],
        _ => &[],
    };
    check(body, &at, required, causes);
    if matches!(*first, "hostPath" | "local" | "nfs") {
        let place = body.text("path");
        if place.split('/').any(|part| part == "..") {
            causes.invalid(at.field("path"), place, "must not contain '..'");
        }
        if *first == "nfs" && !place.is_empty() && !place.starts_with('/') {
            causes.invalid(at.field("path"), place, "must be an absolute path");
        }
        if *first == "hostPath" && place == "/" && spec.text("persistentVolumeReclaimPolicy") == "Recycle" {
            let text = "may not be 'recycle' for a hostPath mount of '/'";
            causes.forbidden(path.field("persistentVolumeReclaimPolicy"), text);
        }
    }
}

fn validate_update(old: &Value, new: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let (before, after) = (old.at(&["spec"]), new.at(&["spec"]));
    if SOURCES.iter().any(|name| before.at(&[name]) != after.at(&[name])) {
        let text = "spec.persistentvolumesource is immutable after creation";
        causes.forbidden(path.field("persistentvolumesource"), text);
    }
    super::checks::immutable(old, new, &["spec.volumeMode"], causes);
    if before.has("nodeAffinity") && before.at(&["nodeAffinity"]) != after.at(&["nodeAffinity"]) {
        let value = after.at(&["nodeAffinity"]).clone();
        causes.invalid(path.field("nodeAffinity"), value, "field is immutable");
    }
}

fn print(object: &Value, now: UnixMillis) -> Vec<Value> {
    let (spec, status) = (object.at(&["spec"]), object.at(&["status"]));
    let claim = spec.at(&["claimRef"]);
    let claim = if claim.is_null() {
        String::new()
    } else {
        format!("{}/{}", claim.text("namespace"), claim.text("name"))
    };
    vec![
        cells::name(object),
        cells::text(object, &["spec", "capacity", "storage"]),
        access_modes_text(spec.items("accessModes")).into(),
        cells::text(object, &["spec", "persistentVolumeReclaimPolicy"]),
        phase(object).into(),
        claim.into(),
        class_of(object).into(),
        cells::text_or(object, &["spec", "volumeAttributesClassName"], "<unset>"),
        status.text("reason").into(),
        cells::created_ago(object, now),
        cells::text_or(object, &["spec", "volumeMode"], "<unset>"),
    ]
}

/// The phase of a volume or claim; one that is being deleted is terminating.
pub fn phase(object: &Value) -> &str {
    if object.at(&["metadata"]).has("deletionTimestamp") {
        "Terminating"
    } else {
        object.at(&["status"]).text("phase")
    }
}
