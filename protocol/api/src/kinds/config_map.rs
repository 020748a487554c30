//! core/v1 ConfigMap: its row, keys, size limit and immutability. `secret` shares the last two.

use std::collections::BTreeSet;

use protocol::UnixMillis;
use serde_json::Value;

use super::{Kind, STORED};
use crate::access::Access;
use crate::cause::{Causes, Path};
use crate::rules;
use crate::table::Column;
use crate::time::age_since;

pub const KIND: Kind = Kind {
    kind: "ConfigMap",
    list_kind: "ConfigMapList",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    definition: "io.k8s.api.core.v1.ConfigMap",
    schema: |generator| {
        generator.subschema_for::<k8s_openapi::api::core::v1::ConfigMap>();
    },
    validate,
    validate_update: |old, new, causes| immutable_content(old, new, &["data", "binaryData"], causes),
    columns: &[Column::NAME, Column::text("Data", "Number of keys."), Column::AGE],
    cells,
    ..STORED
};

/// What the values of a ConfigMap or Secret may take together.
pub const CONTENT_BYTES_MAX: usize = 1024 * 1024;

fn validate(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let mut bytes = 0;
    let mut keys = BTreeSet::new();
    for list in ["data", "binaryData"] {
        let path = root.field(list);
        for (key, value) in object.members(list) {
            for problem in rules::config_key(key) {
                causes.invalid(path.key(key), key.as_str(), problem);
            }
            if !keys.insert(key) {
                let text = format!(
                    "duplicate of key present in {}",
                    if list == "data" { "binaryData" } else { "data" }
                );
                causes.invalid(path.key(key), key.as_str(), text);
            }
            let length = value.as_str().map_or(0, str::len);
            // Base64 takes four bytes for three.
            bytes += if list == "data" { length } else { length / 4 * 3 };
        }
    }
    if bytes > CONTENT_BYTES_MAX {
        causes.too_long(root, CONTENT_BYTES_MAX);
    }
}

/// A ConfigMap or Secret that is `immutable` keeps its content and stays immutable.
pub fn immutable_content(old: &Value, new: &Value, fields: &[&str], causes: &mut Causes) {
    if !old.flag("immutable") {
        return;
    }
    let root = Path::Root;
    if !new.flag("immutable") {
        causes.forbidden(root.field("immutable"), "field is immutable when `immutable` is set");
    }
    for field in fields {
        if old.at(&[field]) != new.at(&[field]) {
            causes.forbidden(root.field(field), "field is immutable when `immutable` is set");
        }
    }
}

fn cells(object: &Value, now: UnixMillis) -> Vec<Value> {
    let metadata = object.at(&["metadata"]);
    let count = object.members("data").count() + object.members("binaryData").count();
    vec![
        metadata.text("name").into(),
        count.to_string().into(),
        age_since(metadata.text("creationTimestamp"), now).into(),
    ]
}
