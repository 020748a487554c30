//! The scale subresource: an object's number of replicas as autoscaling/v1 Scale, read and written.

use protocol::selector::LabelSelector;
use serde_json::{Value, json};

use crate::access::{Access, object_mut};
use crate::cause::{Causes, Path};
use crate::kinds::{Kind, Subresource};
use crate::status::Status;

/// The object's Scale.
pub fn scale_of(kind: &Kind, object: &Value) -> Result<Value, Status> {
    if !kind.has(Subresource::Scale) {
        return Err(Status::no_such_resource());
    }
    let metadata = object.at(&["metadata"]);
    let mut kept = json!({});
    for name in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if metadata.has(name) {
            kept[name] = metadata.at(&[name]).clone();
        }
    }
    let (wanted, counted, selector) = match kind.custom_definition()? {
        Some(custom) => custom.replicas(object),
        None => (
            object.at(&["spec"]).int("replicas").unwrap_or(0),
            object.at(&["status"]).int("replicas").unwrap_or(0),
            selector_text(object.at(&["spec", "selector"])),
        ),
    };
    let mut status = json!({"replicas": counted});
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    Ok(json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": kept,
        "spec": {"replicas": wanted},
        "status": status,
    }))
}

/// A selector as a text. A replication controller's is a plain map of labels.
fn selector_text(selector: &Value) -> String {
    let plain = selector.as_object().into_iter().flatten();
    let plain: Option<Vec<String>> = plain
        .map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
        .collect();
    match plain {
        Some(pairs) if !pairs.is_empty() => pairs.join(","),
        _ => LabelSelector::from_value(selector).unwrap_or_default().to_string(),
    }
}

/// The object with the number of replicas that this Scale asks for; pass it on to `prepare_update`.
pub fn set_scale(kind: &Kind, object: &Value, scale: &Value) -> Result<Value, Status> {
    if !kind.has(Subresource::Scale) {
        return Err(Status::no_such_resource());
    }
    let (kind_name, version) = (scale.text("kind"), scale.text("apiVersion"));
    if !matches!(kind_name, "" | "Scale") || !matches!(version, "" | "autoscaling/v1") {
        let text = format!("expected autoscaling/v1, Kind=Scale, but got {version}, Kind={kind_name}");
        return Err(Status::bad_request(text));
    }
    let name = object.at(&["metadata"]).text("name");
    let given = scale.at(&["metadata"]);
    for field in ["name", "namespace"] {
        let (sent, stored) = (given.text(field), object.at(&["metadata"]).text(field));
        if !sent.is_empty() && sent != stored {
            let text = format!("the {field} of the object ({sent}) does not match the {field} on the URL ({stored})");
            return Err(Status::bad_request(text));
        }
    }
    let (sent, stored) = (
        given.text("resourceVersion"),
        object.at(&["metadata"]).text("resourceVersion"),
    );
    if !sent.is_empty() && !stored.is_empty() && sent != stored {
        return Err(Status::modified(kind, name));
    }
    let wanted = scale.at(&["spec", "replicas"]);
    let replicas = if wanted.is_null() { Some(0) } else { wanted.as_i64() };
    let Some(replicas) = replicas.and_then(|replicas| i32::try_from(replicas).ok()) else {
        let text =
            format!("json: cannot unmarshal {wanted} into Go struct field ScaleSpec.spec.replicas of type int32");
        return Err(Status::bad_request(format!(
            "Scale in version \"v1\" cannot be handled as a Scale: {text}"
        )));
    };
    if replicas < 0 {
        let mut causes = Causes::default();
        let root = Path::Root;
        let path = root.field("spec");
        causes.invalid(path.field("replicas"), replicas, "must be greater than or equal to 0");
        return Err(Status::invalid_of("autoscaling", "Scale", name, causes.0));
    }
    let mut object = object.clone();
    match kind.custom_definition()? {
        Some(custom) => custom.set_replicas(&mut object, replicas.into()),
        None => object_mut(&mut object, "spec")["replicas"] = replicas.into(),
    }
    Ok(object)
}
