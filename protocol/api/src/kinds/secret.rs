//! core/v1 Secret: its row, `stringData`, types and what each type demands.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use protocol::UnixMillis;
use serde_json::{Map, Value};

use super::config_map::{CONTENT_BYTES_MAX, immutable_content};
use super::{Kind, STORED};
use crate::access::{Access, object_mut, remove, set_default_text};
use crate::cause::{Causes, Path};
use crate::table::Column;
use crate::time::age_since;
use crate::{meta, rules};

pub const KIND: Kind = Kind {
    kind: "Secret",
    list_kind: "SecretList",
    plural: "secrets",
    singular: "secret",
    selectable_fields: &["type"],
    definition: "io.k8s.api.core.v1.Secret",
    schema: |generator| {
        generator.subschema_for::<k8s_openapi::api::core::v1::Secret>();
    },
    default,
    validate,
    validate_update: |old, new, causes| {
        immutable_content(old, new, &["data"], causes);
        meta::immutable(new.at(&["type"]), old.at(&["type"]), Path::Root.field("type"), causes);
    },
    columns: &[
        Column::NAME,
        Column::text("Type", "Used to facilitate programmatic handling of secret data."),
        Column::text("Data", "Number of keys."),
        Column::AGE,
    ],
    cells,
    ..STORED
};

fn default(object: &mut Value) {
    set_default_text(object, "type", "Opaque");
    // `stringData` is for writing only: it becomes `data`, and wins over it.
    if let Some(Value::Object(plain)) = remove(object, "stringData") {
        let data = object_mut(object, "data");
        for (key, value) in plain {
            data[key] = STANDARD.encode(value.as_str().unwrap_or_default()).into();
        }
    }
}

fn validate(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("data");
    let mut bytes = 0;
    for (key, value) in object.members("data") {
        for problem in rules::config_key(key) {
            causes.invalid(path.key(key), key.as_str(), problem);
        }
        bytes += value.as_str().map_or(0, str::len) / 4 * 3;
    }
    if bytes > CONTENT_BYTES_MAX {
        causes.too_long(path, CONTENT_BYTES_MAX);
    }
    let demanded: &[&str] = match object.text("type") {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in demanded.iter().filter(|key| !object.at(&["data"]).has(key)) {
        causes.required(path.key(key), "");
    }
    let content = object.at(&["data"]);
    if object.text("type") == "kubernetes.io/basic-auth" && !content.has("username") && !content.has("password") {
        causes.required(path.key("username"), "");
        causes.required(path.key("password"), "");
    }
    if object.text("type") == "kubernetes.io/service-account-token" {
        let metadata = root.field("metadata");
        let annotations = metadata.field("annotations");
        let key = "kubernetes.io/service-account.name";
        if object.at(&["metadata", "annotations"]).text(key).is_empty() {
            causes.required(annotations.key(key), "");
        }
    }
    for key in [".dockerconfigjson", ".dockercfg"]
        .into_iter()
        .filter(|key| demanded.contains(key))
    {
        let content = object.at(&["data"]).text(key);
        let decoded = STANDARD.decode(content).unwrap_or_default();
        if !content.is_empty() && serde_json::from_slice::<Map<String, Value>>(&decoded).is_err() {
            causes.invalid(path.key(key), "<secret contents redacted>", "must be a JSON object");
        }
    }
}

fn cells(object: &Value, now: UnixMillis) -> Vec<Value> {
    let metadata = object.at(&["metadata"]);
    vec![
        metadata.text("name").into(),
        object.text("type").into(),
        object.members("data").count().to_string().into(),
        age_since(metadata.text("creationTimestamp"), now).into(),
    ]
}
