//! The write pipeline, pure: what a client sent, and what is stored already, in; the object to store, or a Status, out.
//! The order is Kubernetes': decode, default, last touches of the kind, metadata, validate, ownership. The gateway calls
//! it between admission and the proposal; actors that write whole objects may call it too.

use protocol::UnixMillis;
use serde_json::{Map, Value};

use crate::access::{Access, object_mut, remove};
use crate::cause::Causes;
use crate::decode;
use crate::kinds::{Generation, Kind, Subresource, pod_subresource};
use crate::managed;
use crate::meta;
use crate::schema::Schemas;
use crate::status::Status;

pub use crate::apply::server_side_apply;
pub use crate::deletion::{DeleteOptions, Deletion, Preconditions, PropagationPolicy, begin_deletion};
pub use crate::patch::{PatchType, apply_patch};
pub use crate::scale::{scale_of, set_scale};

/// What to do about fields that the kind does not have: the query's `fieldValidation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and warn.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

impl FieldValidation {
    /// As the query has it.
    pub fn name(self) -> &'static str {
        match self {
            FieldValidation::Ignore => "Ignore",
            FieldValidation::Warn => "Warn",
            FieldValidation::Strict => "Strict",
        }
    }

    /// Parses the query's value; absent means `Warn`.
    pub fn parse(text: &str) -> Option<FieldValidation> {
        match text {
            "" | "Warn" => Some(FieldValidation::Warn),
            "Ignore" => Some(FieldValidation::Ignore),
            "Strict" => Some(FieldValidation::Strict),
            _ => None,
        }
    }
}

/// What changes an object between its defaults and its validation: the mutating part of admission.
pub trait Admission: std::fmt::Debug + Sync {
    /// Changes the object, or refuses it. `old` is the stored one, for a change.
    fn admit(&self, object: &mut Value, old: Option<&Value>) -> Result<(), Status>;
}

/// What a write needs beside the object. Time and randomness come in here.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteContext<'a> {
    /// The instant of the request.
    pub now: UnixMillis,
    /// A fresh uid for a new object.
    pub new_uid: &'a str,
    /// What ends a generated name: see `name_suffix`.
    pub random_suffix: &'a str,
    /// Who owns the fields that change: the query's `fieldManager`, or the user agent up to its first slash.
    pub field_manager: &'a str,
    /// What to do about unknown and duplicate fields.
    pub field_validation: FieldValidation,
    /// The caller's user name.
    pub user: &'a str,
    /// The groups that the caller is in.
    pub groups: &'a [String],
    /// Fields that stood in the body more than once (`decode::json` finds them).
    pub duplicate_fields: &'a [String],
    /// What else may change the object.
    pub admission: Option<&'a dyn Admission>,
}

impl WriteContext<'_> {
    fn admit(&self, object: &mut Value, old: Option<&Value>) -> Result<(), Status> {
        self.admission.map_or(Ok(()), |admission| admission.admit(object, old))
    }
}

/// A write that passed.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The object to store.
    pub object: Value,
    /// For the response's warning headers.
    pub warnings: Vec<String>,
}

/// The five characters that end a generated name: apimachinery's alphabet without vowels, so that no word comes out.
pub fn name_suffix(mut bits: u64) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut suffix = String::with_capacity(5);
    for _ in 0..5 {
        suffix.push(char::from(ALPHABET[(bits % 27) as usize]));
        bits /= 27;
    }
    suffix
}

/// How long the part of a generated name before its random suffix may be.
const GENERATED_BASE_BYTES_MAX: usize = 63 - 5;

/// Prepares a new object. `namespace` is the path's; empty for cluster-scoped kinds.
pub fn prepare_create(kind: &Kind, namespace: &str, object: Value, ctx: &WriteContext<'_>) -> Result<Written, Status> {
    let mut object = object;
    let warnings = decode_object(kind, &mut object, ctx)?;
    place(kind, namespace, None, &mut object)?;
    create_decoded(kind, object, warnings, ctx)
}

/// Prepares what is asked of a virtual kind: a review to answer, a binding to carry out. It is decoded, filled in and
/// validated as any object is, but it has no name to be stored under.
pub fn prepare_virtual(kind: &Kind, namespace: &str, object: Value, ctx: &WriteContext<'_>) -> Result<Written, Status> {
    let mut object = object;
    let warnings = decode_object(kind, &mut object, ctx)?;
    place(kind, namespace, None, &mut object)?;
    (kind.stamp)(&mut object, ctx);
    (kind.default)(&mut object);
    let mut causes = Causes::default();
    (kind.validate)(&object, &mut causes);
    refuse(kind, &object, causes)?;
    Ok(Written { object, warnings })
}

/// The part of a create after decoding, which server-side apply shares.
pub(crate) fn create_decoded(
    kind: &Kind,
    mut object: Value,
    warnings: Vec<String>,
    ctx: &WriteContext<'_>,
) -> Result<Written, Status> {
    remove(object_mut(&mut object, "metadata"), "managedFields");
    if !object.at(&["metadata"]).text("resourceVersion").is_empty() {
        return Err(Status::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    fill_metadata(kind, object_mut(&mut object, "metadata"), ctx);
    (kind.stamp)(&mut object, ctx);
    let custom = kind.custom_definition()?;
    if let Some(custom) = &custom {
        if custom.terminating {
            return Err(Status::method_not_allowed(kind, "create"));
        }
        custom.fill(&mut object);
    }
    (kind.default)(&mut object);
    ctx.admit(&mut object, None)?;
    if kind.has(Subresource::Status) && !kind.created_with_status {
        remove(&mut object, "status");
    }
    (kind.prepare_create)(&mut object);
    let mut causes = Causes::default();
    meta::validate(kind, object.at(&["metadata"]), &mut causes);
    (kind.validate_create)(&object, &mut causes);
    (kind.validate)(&object, &mut causes);
    if let Some(custom) = &custom {
        custom.validate(&object, None, &mut causes);
    }
    refuse(kind, &object, causes)?;
    managed::record_update(kind, None, None, &mut object, ctx);
    Ok(Written { object, warnings })
}

/// Prepares a change of an object, or of one of its subresources. Whether `old` is still the stored one is for the
/// caller to check.
pub fn prepare_update(
    kind: &Kind,
    subresource: Option<Subresource>,
    old: &Value,
    new: Value,
    ctx: &WriteContext<'_>,
) -> Result<Written, Status> {
    let mut new = new;
    let warnings = decode_object(kind, &mut new, ctx)?;
    place(kind, old.at(&["metadata"]).text("namespace"), Some(old), &mut new)?;
    let managers = new.at(&["metadata", "managedFields"]).clone();
    update_decoded(kind, subresource, old, &mut new, ctx)?;
    // A client that sends an empty list resets ownership; anything else keeps what is stored.
    let reset = managers.as_array().is_some_and(Vec::is_empty);
    let metadata = object_mut(&mut new, "metadata");
    let stored = old.at(&["metadata", "managedFields"]);
    if reset || stored.is_null() {
        remove(metadata, "managedFields");
    } else {
        metadata["managedFields"] = stored.clone();
    }
    if !reset {
        managed::record_update(kind, subresource, Some(old), &mut new, ctx);
    }
    Ok(Written { object: new, warnings })
}

/// The part of an update after decoding, which server-side apply shares; ownership is the caller's.
pub(crate) fn update_decoded(
    kind: &Kind,
    subresource: Option<Subresource>,
    old: &Value,
    new: &mut Value,
    ctx: &WriteContext<'_>,
) -> Result<(), Status> {
    keep_metadata(old, object_mut(new, "metadata"));
    let custom = kind.custom_definition()?;
    if let Some(custom) = &custom {
        custom.fill(new);
    }
    match subresource {
        // Admission comes first: what it changes outside of what this path writes is dropped like a client's change.
        Some(Subresource::Status) => {
            ctx.admit(new, Some(old))?;
            let status = remove(new, "status");
            *new = old.clone();
            match status {
                Some(status) => new["status"] = status,
                None => {
                    remove(new, "status");
                }
            }
        }
        Some(Subresource::Approval) => {
            ctx.admit(new, Some(old))?;
            let conditions = new.at(&["status", "conditions"]).clone();
            *new = old.clone();
            if conditions.is_array() {
                object_mut(new, "status")["conditions"] = conditions;
            }
        }
        Some(Subresource::Finalize) => {
            ctx.admit(new, Some(old))?;
            let finalizers = new.at(&["spec", "finalizers"]).clone();
            *new = old.clone();
            object_mut(new, "spec")["finalizers"] = finalizers;
            if new["spec"]["finalizers"].is_null() {
                remove(&mut new["spec"], "finalizers");
            }
        }
        Some(below @ (Subresource::EphemeralContainers | Subresource::Resize)) => {
            (kind.default)(new);
            ctx.admit(new, Some(old))?;
            pod_subresource::restrict(below, old, new);
        }
        _ => {
            (kind.default)(new);
            ctx.admit(new, Some(old))?;
            if kind.has(Subresource::Status) {
                match old.get("status") {
                    Some(status) => new["status"] = status.clone(),
                    None => {
                        remove(new, "status");
                    }
                }
            }
            (kind.prepare_update)(old, new);
        }
    }
    raise_generation(kind, old, new);
    let mut causes = Causes::default();
    meta::validate(kind, new.at(&["metadata"]), &mut causes);
    meta::validate_update(old.at(&["metadata"]), new.at(&["metadata"]), &mut causes);
    if let Some(custom) = &custom {
        custom.validate(new, Some(old), &mut causes);
    }
    match subresource {
        None => {
            (kind.validate)(new, &mut causes);
            (kind.validate_update)(old, new, &mut causes);
        }
        Some(below @ (Subresource::EphemeralContainers | Subresource::Resize)) => {
            (kind.validate)(new, &mut causes);
            pod_subresource::validate(below, old, new, &mut causes);
        }
        Some(_) => (kind.validate_status)(old, new, &mut causes),
    }
    refuse(kind, new, causes)
}

fn refuse(kind: &Kind, object: &Value, causes: Causes) -> Result<(), Status> {
    if causes.is_empty() {
        return Ok(());
    }
    let metadata = object.at(&["metadata"]);
    let name = [metadata.text("name"), metadata.text("generateName")]
        .into_iter()
        .find(|name| !name.is_empty());
    Err(Status::invalid(kind, name.unwrap_or_default(), causes.0))
}

/// Checks the envelope, brings the object into its kind's form, and applies the request's rule about unknown fields.
pub(crate) fn decode_object(kind: &Kind, object: &mut Value, ctx: &WriteContext<'_>) -> Result<Vec<String>, Status> {
    if !object.is_object() {
        let text = format!("couldn't get version/kind; json parse error: the body is no object but {object:.80}");
        return Err(Status::bad_request(text));
    }
    let api_version = kind.api_version();
    for (name, expected) in [("kind", kind.kind), ("apiVersion", api_version.as_str())] {
        let given = object.text(name);
        if given.is_empty() {
            object[name] = expected.into();
        } else if given != expected {
            let text = if name == "kind" {
                format!("the object provided is unrecognized (must be of type {expected}): its kind is {given:?}")
            } else {
                format!("the API version in the data ({given}) does not match the expected API version ({expected})")
            };
            return Err(Status::bad_request(text));
        }
    }
    let findings = match kind.custom_definition()? {
        Some(custom) => custom.conform(object),
        None => decode::conform(Schemas::built_in(), kind.definition, object),
    };
    let prefix = format!(
        "{} in version {:?} cannot be handled as a {}",
        kind.kind, kind.version, kind.kind
    );
    if let Some(problem) = findings.wrong_type {
        return Err(Status::bad_request(format!("{prefix}: {problem}")));
    }
    let unknown = findings
        .unknown_fields
        .iter()
        .map(|path| format!("unknown field {path:?}"));
    let duplicate = ctx
        .duplicate_fields
        .iter()
        .map(|path| format!("duplicate field {path:?}"));
    let problems: Vec<String> = unknown.chain(duplicate).collect();
    match ctx.field_validation {
        FieldValidation::Strict if !problems.is_empty() => {
            let list = problems.join(", ");
            Err(Status::bad_request(format!("{prefix}: strict decoding error: {list}")))
        }
        FieldValidation::Warn => Ok(problems),
        _ => Ok(Vec::new()),
    }
}

/// Sees that the object's name and namespace are those of the path.
pub(crate) fn place(kind: &Kind, namespace: &str, old: Option<&Value>, object: &mut Value) -> Result<(), Status> {
    let metadata = object_mut(object, "metadata");
    if kind.namespaced {
        let given = metadata.text("namespace");
        if !given.is_empty() && given != namespace {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        metadata["namespace"] = namespace.into();
    }
    if let Some(old) = old {
        let expected = old.at(&["metadata"]).text("name");
        let given = metadata.text("name");
        if !given.is_empty() && given != expected {
            let text = format!("the name of the object ({given}) does not match the name on the URL ({expected})");
            return Err(Status::bad_request(text));
        }
        metadata["name"] = expected.into();
        let (uid, stored) = (metadata.text("uid"), old.at(&["metadata"]).text("uid"));
        if !uid.is_empty() && uid != stored {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {stored}");
            return Err(Status::conflict(kind, expected, why));
        }
    }
    Ok(())
}

/// What the server alone writes into a new object's metadata.
fn fill_metadata(kind: &Kind, metadata: &mut Value, ctx: &WriteContext<'_>) {
    for name in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "generation",
        "resourceVersion",
    ] {
        remove(metadata, name);
    }
    if metadata.text("name").is_empty() && !metadata.text("generateName").is_empty() {
        let base = metadata.text("generateName");
        let mut end = base.len().min(GENERATED_BASE_BYTES_MAX);
        while !base.is_char_boundary(end) {
            end -= 1;
        }
        metadata["name"] = format!("{}{}", &base[..end], ctx.random_suffix).into();
    }
    metadata["uid"] = ctx.new_uid.into();
    metadata["creationTimestamp"] = ctx.now.rfc3339().into();
    if kind.generation != Generation::None {
        metadata["generation"] = 1.into();
    }
}

/// What an update leaves as it is, whatever the client sent.
fn keep_metadata(old: &Value, metadata: &mut Value) {
    let stored = old.at(&["metadata"]);
    let kept = [
        "uid",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "resourceVersion",
        "generateName",
    ];
    for name in kept {
        match stored.get(name) {
            Some(value) => metadata[name] = value.clone(),
            None => {
                remove(metadata, name);
            }
        }
    }
}

/// Raises `metadata.generation` when what the kind's desired state consists of has changed.
fn raise_generation(kind: &Kind, old: &Value, new: &mut Value) {
    if kind.generation == Generation::None {
        return;
    }
    // A custom kind without the subresource has no status: everything is wanted.
    let keeps_status = kind.custom.is_none() || kind.has(Subresource::Status);
    let desired = |object: &Value| -> Map<String, Value> {
        let members = object.as_object().into_iter().flatten();
        let desired = members.filter(|(name, _)| {
            let aside = matches!(name.as_str(), "metadata" | "apiVersion" | "kind");
            !aside && (*name != "status" || !keeps_status)
        });
        desired.map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    let mut changed = desired(old) != desired(new);
    if kind.generation == Generation::SpecAndAnnotations {
        changed |= old.at(&["metadata", "annotations"]) != new.at(&["metadata", "annotations"]);
    }
    if changed {
        let generation = old.at(&["metadata"]).int("generation").unwrap_or(0);
        new["metadata"]["generation"] = generation.saturating_add(1).into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_end_in_five_characters_without_vowels() {
        for bits in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
            let suffix = name_suffix(bits);
            assert_eq!(suffix.len(), 5);
            assert!(
                suffix.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b)),
                "{suffix}"
            );
        }
    }
}
