//! Patches: RFC 6902 (JSON), RFC 7396 (merge) and Kubernetes' strategic merge. Each takes the stored object and the
//! client's patch and returns the object that the client wants; `write::prepare_update` takes it from there. Server-side
//! apply is in `apply`.

mod strategic;

use serde_json::{Map, Value};

use crate::kinds::Kind;
use crate::schema::Schemas;
use crate::status::Status;

/// Which kind of patch a request carries, by its content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// `application/json-patch+json`.
    Json,
    /// `application/merge-patch+json`.
    Merge,
    /// `application/strategic-merge-patch+json`.
    Strategic,
}

impl PatchType {
    /// The patch type of a content type.
    pub fn of_content_type(content_type: &str) -> Option<PatchType> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Some(PatchType::Json),
            "application/merge-patch+json" => Some(PatchType::Merge),
            "application/strategic-merge-patch+json" => Some(PatchType::Strategic),
            _ => None,
        }
    }
}

/// Operations that one JSON patch may have.
const OPERATIONS_MAX: usize = 10_000;
/// Bytes that the `copy` operations of one JSON patch may add.
const COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;
/// How deep a patched object may nest: as deep as the decoder lets a new object be.
const DEPTH_MAX: usize = 128;

/// The object that a patch makes of the stored one.
pub fn apply_patch(kind: &Kind, patch_type: PatchType, old: &Value, patch: &Value) -> Result<Value, Status> {
    match patch_type {
        PatchType::Json => json(old, patch),
        PatchType::Merge => {
            if !patch.is_object() {
                return Err(Status::bad_request(
                    "error decoding patch: a merge patch is a JSON object",
                ));
            }
            let mut object = old.clone();
            merge(&mut object, patch);
            Ok(object)
        }
        PatchType::Strategic if kind.custom.is_some() => {
            let accepted = [
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/apply-patch+yaml",
            ];
            Err(Status::unsupported_media_type(&accepted))
        }
        PatchType::Strategic => strategic::apply(Schemas::built_in(), kind.definition, old, patch),
    }
}

fn json(old: &Value, patch: &Value) -> Result<Value, Status> {
    let operations: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    if operations.0.len() > OPERATIONS_MAX {
        let mut status = Status::too_large(OPERATIONS_MAX);
        status.message = format!(
            "Request entity too large: The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}",
            operations.0.len()
        );
        return Err(status);
    }
    let mut object = old.clone();
    let mut copied_bytes = 0;
    for operation in operations.0 {
        bounded(&object, &operation, &mut copied_bytes)?;
        if finds_absent(&object, &operation) {
            continue;
        }
        json_patch::patch(&mut object, &[operation]).map_err(Status::unprocessable_patch)?;
    }
    Ok(object)
}

/// Whether an operation tests for null what its object does not have. Kubernetes' library lets that pass where RFC 6902 does
/// not, and clients rely on it: kube-rs tests so that no finalizer is there before it adds the first one.
fn finds_absent(object: &Value, operation: &json_patch::PatchOperation) -> bool {
    let json_patch::PatchOperation::Test(test) = operation else {
        return false;
    };
    let path = test.path.as_str();
    let parent = path.rsplit_once('/').and_then(|(parent, _)| object.pointer(parent));
    test.value.is_null() && parent.is_some_and(Value::is_object) && object.pointer(path).is_none()
}

/// Refuses an operation that would nest too deep or copy too much: a few bytes of patch must not fill the memory.
fn bounded(object: &Value, operation: &json_patch::PatchOperation, copied_bytes: &mut usize) -> Result<(), Status> {
    use json_patch::PatchOperation::{Add, Copy, Move, Remove, Replace, Test};
    let (path, value) = match operation {
        Add(add) => (&add.path, Some(&add.value)),
        Replace(replace) => (&replace.path, Some(&replace.value)),
        Copy(copy) => {
            let source = object.pointer(copy.from.as_str());
            *copied_bytes += source.map_or(0, size);
            (&copy.path, source)
        }
        Move(step) => (&step.path, object.pointer(step.from.as_str())),
        Remove(_) | Test(_) => return Ok(()),
    };
    if *copied_bytes > COPIED_BYTES_MAX {
        return Err(Status::too_large(COPIED_BYTES_MAX));
    }
    if path.as_str().matches('/').count() + value.map_or(0, depth) > DEPTH_MAX {
        return Err(Status::unprocessable_patch("the patched object would nest too deep"));
    }
    Ok(())
}

/// About as many bytes as the value has as JSON.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => items.iter().map(|item| size(item) + 1).sum::<usize>() + 2,
        Value::Object(members) => {
            members
                .iter()
                .map(|(name, member)| name.len() + size(member) + 4)
                .sum::<usize>()
                + 2
        }
        _ => 8,
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 1,
    }
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(members) = target.as_object_mut() else { return };
    for (name, value) in patch {
        if value.is_null() {
            members.remove(name);
        } else {
            merge(members.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}
