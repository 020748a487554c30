//! The bridge from client-side to server-side apply, for kubectl's own field manager alone: what the annotation of the
//! last client-side apply says, and still holds, was kubectl's, so it may take it over without a conflict; and the
//! annotation follows what kubectl applies on the server. Semantics after apimachinery's lastAppliedManager and
//! lastAppliedUpdater. `apply` calls it.

use serde_json::Value;

use crate::access::{Access, object_mut, remove};
use crate::fieldset::FieldSet;
use crate::kinds::Kind;
use crate::typed;

/// The field manager of `kubectl apply --server-side`. Who names another one opts out.
const KUBECTL: &str = "kubectl";

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The fields that this manager may take from others without a conflict: those of the last client-side apply whose
/// values still stand.
pub fn inherited(kind: &Kind, manager: &str, old: &Value) -> FieldSet {
    let annotation = old.at(&["metadata", "annotations"]).text(ANNOTATION);
    if manager != KUBECTL || annotation.is_empty() {
        return FieldSet::default();
    }
    // Anybody may write the annotation: what is no object says nothing.
    let last: Value = serde_json::from_str(annotation).unwrap_or_default();
    if !last.is_object() {
        return FieldSet::default();
    }
    let shapes = kind.shapes();
    let (schemas, shape) = (shapes.schemas(), shapes.root());
    let mut fields = typed::fields(schemas, &shape, &last);
    let since = typed::difference(schemas, &shape, &last, old);
    fields.subtract(&since.changed);
    fields.subtract(&since.removed);
    fields
}

/// Brings the annotation, where the object has one, up to what kubectl has now applied on the server.
pub fn follow(manager: &str, applied: &Value, object: &mut Value) {
    let has_annotation = object.at(&["metadata", "annotations"]).has(ANNOTATION);
    if manager != KUBECTL || !has_annotation {
        return;
    }
    let mut configuration = applied.clone();
    if let Some(annotations) = configuration.pointer_mut("/metadata/annotations") {
        remove(annotations, ANNOTATION);
    }
    object_mut(object_mut(object, "metadata"), "annotations")[ANNOTATION] = format!("{configuration}\n").into();
}
