//! Server-side apply: the client sends what it cares for, and owns just that. What it applied before and no longer
//! mentions goes, unless somebody else owns it; what somebody else owns with another value is a conflict, unless forced.
//! Semantics after structured-merge-diff's `merge.Updater`.

use serde_json::{Map, Value};

use crate::access::{Access, object_mut, remove};
use crate::cause::{Cause, Causes, Path};
use crate::fieldset::FieldSet;
use crate::kinds::{Kind, Subresource};
use crate::last_applied;
use crate::managed::{self, Manager, Operation};
use crate::status::Status;
use crate::typed;
use crate::write::{self, FieldValidation, WriteContext, Written};

/// The manager of what was there before the first apply, where nobody counted.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// The object that an applied configuration makes of the stored one, or a new object when there is none. The path's name
/// and namespace must stand in `applied`. When the answer equals `old`, nothing needs to be written.
pub fn server_side_apply(
    kind: &Kind,
    subresource: Option<Subresource>,
    old: Option<&Value>,
    applied: Value,
    force: bool,
    ctx: &WriteContext<'_>,
) -> Result<Written, Status> {
    let mut applied = applied;
    let warnings = decode(kind, &mut applied, ctx)?;
    let name = applied.at(&["metadata"]).text("name").to_owned();
    let version = applied.at(&["metadata"]).text("resourceVersion").to_owned();
    if let (Some(old), false) = (old, version.is_empty())
        && old.at(&["metadata"]).text("resourceVersion") != version
    {
        return Err(Status::modified(kind, &name));
    }
    reset(kind, subresource, &mut applied);
    let namespace = old.unwrap_or(&applied).at(&["metadata"]).text("namespace").to_owned();
    write::place(kind, &namespace, old, &mut applied)?;
    let mut own = Manager::of_request(kind, subresource, Operation::Apply, ctx);
    own.fields = managed::all_fields(kind, &applied);
    match old {
        None if subresource.is_some() => Err(Status::not_found(kind, &name)),
        None => {
            let mut created = write::create_decoded(kind, applied, warnings, ctx)?;
            managed::set_managers(&mut created.object, vec![own]);
            Ok(created)
        }
        Some(old) => {
            let object = merged(kind, subresource, old, &applied, own, force, ctx)?;
            Ok(Written { object, warnings })
        }
    }
}

/// Decodes a configuration. Unlike elsewhere an unknown field is an error whatever the request says: nobody can own it.
fn decode(kind: &Kind, applied: &mut Value, ctx: &WriteContext<'_>) -> Result<Vec<String>, Status> {
    if ctx.field_manager.is_empty() {
        let mut causes = Causes::default();
        causes.required(Path::Root.field("fieldManager"), "is required for apply patch");
        return Err(Status::invalid_of("meta.k8s.io", "PatchOptions", "", causes.0));
    }
    if !applied.at(&["metadata"]).items("managedFields").is_empty() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let lenient = ctx.field_validation != FieldValidation::Strict;
    let warning = WriteContext {
        field_validation: if lenient {
            FieldValidation::Warn
        } else {
            FieldValidation::Strict
        },
        ..*ctx
    };
    let name = applied.at(&["metadata"]).text("name").to_owned();
    let findings = write::decode_object(kind, applied, &warning)?;
    let shapes = kind.shapes();
    let ambiguity = typed::ambiguity(shapes.schemas(), &shapes.root(), applied);
    let unknown = findings
        .iter()
        .find_map(|finding| finding.strip_prefix("unknown field "));
    let undeclared = unknown.map(|field| format!(".{}: field not declared in schema", field.trim_matches('"')));
    if let Some(problem) = undeclared.or(ambiguity) {
        return Err(Status::bad_request(format!(
            "failed to create typed patch object ({name}; {}, Kind={}): {problem}",
            kind.api_version(),
            kind.kind
        )));
    }
    Ok(if ctx.field_validation == FieldValidation::Ignore {
        Vec::new()
    } else {
        findings
    })
}

/// Drops what this path cannot change: status on the object's own path, all but status on that of the status.
fn reset(kind: &Kind, subresource: Option<Subresource>, applied: &mut Value) {
    match subresource {
        Some(Subresource::Status) => {
            if let Some(members) = applied.as_object_mut() {
                members.retain(|name, _| matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
            }
            if let Some(metadata) = applied.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.retain(|name, _| matches!(name.as_str(), "name" | "namespace" | "uid"));
            }
        }
        Some(below @ (Subresource::EphemeralContainers | Subresource::Resize)) => {
            crate::kinds::pod_subresource::reset(below, applied);
        }
        _ if kind.has(Subresource::Status) => {
            remove(applied, "status");
        }
        _ => {}
    }
}

fn merged(
    kind: &Kind,
    subresource: Option<Subresource>,
    old: &Value,
    applied: &Value,
    mut own: Manager,
    force: bool,
    ctx: &WriteContext<'_>,
) -> Result<Value, Status> {
    let shapes = kind.shapes();
    let (schemas, shape) = (shapes.schemas(), shapes.root());
    let mut managers = managed::managers_of(old);
    if managers.is_empty() {
        managers.push(Manager {
            name: BEFORE_FIRST_APPLY.to_owned(),
            fields: managed::all_fields(kind, old),
            ..Manager::of_request(kind, None, Operation::Update, ctx)
        });
    }
    let previous = managers
        .iter()
        .position(|manager| manager.is_same(&own))
        .map(|index| managers.remove(index));
    let mut object = typed::merge(schemas, &shape, old, applied);
    if let Some(previous) = &previous {
        // With the envelope, of which nobody is the owner: it must not be taken for abandoned.
        let mut owned = typed::fields(schemas, &shape, applied);
        managers.iter().for_each(|manager| owned.union(&manager.fields));
        typed::prune(schemas, &shape, &mut object, &previous.fields, &owned);
    }
    let mut difference = typed::difference(schemas, &shape, old, &object);
    managed::without_server_fields(&mut difference.changed);
    managed::without_server_fields(&mut difference.removed);
    let inherited = last_applied::inherited(kind, &own.name, old);
    resolve(&mut managers, &difference.changed, force, &inherited)?;
    for manager in &mut managers {
        manager.fields.subtract(&difference.removed);
    }
    if !object.is_object() {
        object = Value::Object(Map::new());
    }
    last_applied::follow(&own.name, applied, &mut object);
    write::update_decoded(kind, subresource, old, &mut object, ctx)?;
    let unchanged = previous.as_ref().is_some_and(|previous| previous.fields == own.fields);
    if let (true, Some(previous)) = (unchanged && same_but_managers(old, &object), &previous) {
        own.time.clone_from(&previous.time);
    }
    managers.push(own);
    managed::set_managers(&mut object, managers);
    Ok(object)
}

fn same_but_managers(old: &Value, new: &Value) -> bool {
    let bare = |object: &Value| {
        let mut object = object.clone();
        remove(object_mut(&mut object, "metadata"), "managedFields");
        object
    };
    bare(old) == bare(new)
}

/// Finds the fields that others own and this apply changes: taken from them by force, or when all of them are
/// `inherited`, else a conflict.
fn resolve(managers: &mut [Manager], changed: &FieldSet, force: bool, inherited: &FieldSet) -> Result<(), Status> {
    let mut conflicts: Vec<(String, Vec<String>)> = Vec::new();
    for manager in managers.iter().filter(|_| !force) {
        let mut contested = manager.fields.intersection(changed);
        contested.subtract(inherited);
        if !contested.is_empty() {
            conflicts.push((manager.printed(), contested.printed()));
        }
    }
    if conflicts.is_empty() {
        for manager in managers {
            let contested = manager.fields.intersection(changed);
            manager.fields.subtract(&contested);
        }
        return Ok(());
    }
    conflicts.sort();
    let cause = |manager: &str, path: &str| Cause {
        field: path.to_owned(),
        reason: "FieldManagerConflict".into(),
        message: format!("conflict with {manager}"),
    };
    let causes: Vec<Cause> = conflicts
        .iter()
        .flat_map(|(manager, paths)| paths.iter().map(move |path| cause(manager, path)))
        .collect();
    let message = match causes.as_slice() {
        [one] => format!("Apply failed with 1 conflict: {}: {}", one.message, one.field),
        many => {
            let mut lines = Vec::new();
            for (manager, paths) in &conflicts {
                lines.push(format!("conflicts with {manager}:"));
                lines.extend(paths.iter().map(|path| format!("- {path}")));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    Err(Status::apply_conflict(message, causes))
}
