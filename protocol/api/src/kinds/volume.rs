//! Validation of a pod's volumes and of the places where its containers mount them.

use std::collections::BTreeSet;

use protocol::quantity::Quantity;
use serde_json::Value;

use super::container::only_known;
use crate::access::Access;
use crate::cause::{Causes, Path};
use crate::rules;

/// Validates the volumes of a pod's spec and returns their names.
pub fn validate<'a>(spec: &'a Value, path: &Path<'_>, causes: &mut Causes) -> BTreeSet<&'a str> {
    let list = path.field("volumes");
    let mut names = BTreeSet::new();
    for (index, volume) in spec.items("volumes").iter().enumerate() {
        let at = list.index(index);
        let name = volume.text("name");
        if name.is_empty() {
            causes.required(at.field("name"), "");
        }
        for problem in rules::dns_label(name).into_iter().filter(|_| !name.is_empty()) {
            causes.invalid(at.field("name"), name, problem);
        }
        if !names.insert(name) {
            causes.duplicate(at.field("name"), name);
        }
        source(volume, &at, causes);
    }
    names
}

fn source(volume: &Value, path: &Path<'_>, causes: &mut Causes) {
    let mut given = 0;
    for (kind, body) in volume
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| *name != "name")
    {
        given += 1;
        let at = path.field(kind);
        if given > 1 {
            causes.forbidden(at, "may not specify more than 1 volume type");
            continue;
        }
        match kind.as_str() {
            "emptyDir" => empty_dir(body, &at, causes),
            "hostPath" => host_path(body, &at, causes),
            "configMap" => {
                required_text(body, &at, "name", causes);
                projected_items(body, &at, causes);
            }
            "secret" => {
                required_text(body, &at, "secretName", causes);
                projected_items(body, &at, causes);
            }
            "persistentVolumeClaim" => required_text(body, &at, "claimName", causes),
            "projected" => projected(body, &at, causes),
            "downwardAPI" => downward(body, &at, causes),
            "nfs" => {
                required_text(body, &at, "server", causes);
                required_text(body, &at, "path", causes);
            }
            "csi" => required_text(body, &at, "driver", causes),
            _ => {}
        }
    }
    if given == 0 {
        causes.required(*path, "must specify a volume type");
    }
}

fn required_text(body: &Value, path: &Path<'_>, name: &str, causes: &mut Causes) {
    if body.text(name).is_empty() {
        causes.required(path.field(name), "");
    }
}

fn empty_dir(body: &Value, path: &Path<'_>, causes: &mut Causes) {
    let medium = body.text("medium");
    if !matches!(medium, "" | "Memory" | "HugePages") && !medium.starts_with("HugePages-") {
        causes.not_supported(path.field("medium"), medium, &["", "Memory", "HugePages"]);
    }
    let limit = body.text("sizeLimit");
    if Quantity::parse(limit).is_ok_and(Quantity::is_negative) {
        causes.forbidden(
            path.field("sizeLimit"),
            "SizeLimit field must be a valid resource quantity",
        );
    }
}

const HOST_PATH_TYPES: [&str; 8] = [
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];

fn host_path(body: &Value, path: &Path<'_>, causes: &mut Causes) {
    required_text(body, path, "path", causes);
    if body.text("path").split('/').any(|part| part == "..") {
        causes.invalid(path.field("path"), body.text("path"), "must not contain '..'");
    }
    only_known(body, path, "type", &HOST_PATH_TYPES, causes);
}

fn projected_items(body: &Value, path: &Path<'_>, causes: &mut Causes) {
    mode(body, path, "defaultMode", causes);
    let list = path.field("items");
    for (index, item) in body.items("items").iter().enumerate() {
        let at = list.index(index);
        required_text(item, &at, "key", causes);
        item_path(item, &at, causes);
        mode(item, &at, "mode", causes);
    }
}

fn item_path(item: &Value, path: &Path<'_>, causes: &mut Causes) {
    let target = item.text("path");
    if target.is_empty() {
        causes.required(path.field("path"), "");
    } else {
        relative(target, path.field("path"), causes);
        if target.starts_with("..") {
            causes.invalid(path.field("path"), target, "must not start with '..'");
        }
    }
}

fn mode(body: &Value, path: &Path<'_>, name: &str, causes: &mut Causes) {
    if let Some(mode) = body.int(name).filter(|mode| !(0..=0o777).contains(mode)) {
        let text = "must be a number between 0 and 0777 (octal), both inclusive";
        causes.invalid(path.field(name), mode, text);
    }
}

fn downward(body: &Value, path: &Path<'_>, causes: &mut Causes) {
    mode(body, path, "defaultMode", causes);
    let list = path.field("items");
    for (index, item) in body.items("items").iter().enumerate() {
        let at = list.index(index);
        item_path(item, &at, causes);
        match (item.has("fieldRef"), item.has("resourceFieldRef")) {
            (false, false) => causes.required(at, "one of fieldRef and resourceFieldRef is required"),
            (true, true) => {
                causes.invalid(
                    at,
                    "resource",
                    "fieldRef and resourceFieldRef can not be specified simultaneously",
                );
            }
            _ => {}
        }
    }
}

fn projected(body: &Value, path: &Path<'_>, causes: &mut Causes) {
    mode(body, path, "defaultMode", causes);
    let list = path.field("sources");
    for (index, source) in body.items("sources").iter().enumerate() {
        let at = list.index(index);
        let mut given = 0;
        for (kind, projection) in source.as_object().into_iter().flatten() {
            given += 1;
            let at = at.field(kind);
            if given > 1 {
                causes.forbidden(at, "may not specify more than 1 volume type per source");
                continue;
            }
            match kind.as_str() {
                "configMap" | "secret" => {
                    required_text(projection, &at, "name", causes);
                    projected_items(projection, &at, causes);
                }
                "downwardAPI" => downward(projection, &at, causes),
                "serviceAccountToken" => required_text(projection, &at, "path", causes),
                _ => {}
            }
        }
        if given == 0 {
            causes.required(at, "must specify a volume source type");
        }
    }
}

fn relative(text: &str, path: Path<'_>, causes: &mut Causes) {
    if text.starts_with('/') {
        causes.invalid(path, text, "must be a relative path");
    }
    if text.split('/').any(|part| part == "..") {
        causes.invalid(path, text, "must not contain '..'");
    }
}

/// Validates where a container mounts volumes.
pub fn mounts(container: &Value, path: &Path<'_>, volumes: &BTreeSet<&str>, causes: &mut Causes) {
    let list = path.field("volumeMounts");
    let mut places = BTreeSet::new();
    for (index, mount) in container.items("volumeMounts").iter().enumerate() {
        let at = list.index(index);
        let name = mount.text("name");
        if name.is_empty() {
            causes.required(at.field("name"), "");
        } else if !volumes.contains(name) {
            causes.not_found(at.field("name"), name);
        }
        let place = mount.text("mountPath");
        if place.is_empty() {
            causes.required(at.field("mountPath"), "");
        } else if !places.insert(place) {
            causes.invalid(at.field("mountPath"), place, "must be unique");
        }
        for field in ["subPath", "subPathExpr"] {
            if !mount.text(field).is_empty() {
                relative(mount.text(field), at.field(field), causes);
            }
        }
        if !mount.text("subPath").is_empty() && !mount.text("subPathExpr").is_empty() {
            let text = "subPathExpr and subPath are mutually exclusive";
            causes.invalid(at.field("subPathExpr"), mount.text("subPathExpr"), text);
        }
        only_known(
            mount,
            &at,
            "mountPropagation",
            &["Bidirectional", "HostToContainer", "None"],
            causes,
        );
    }
}
