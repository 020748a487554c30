//! `metadata.managedFields`: who owns which fields. Updates take ownership of what they change; `apply` does the rest.
//! The representation is that of Kubernetes, since `kubectl` and controllers read it.

use serde_json::{Map, Value, json};

use crate::access::{Access, NULL, object_mut, remove};
use crate::fieldset::FieldSet;
use crate::kinds::{Kind, Subresource};
use crate::typed;
use crate::write::WriteContext;

/// Update managers that an object keeps; the oldest are merged into one entry beyond that.
const UPDATERS_MAX: usize = 10;
/// The manager that the merged entries get.
const ANCIENT: &str = "ancient-changes";

/// How a manager came by its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// It applied them.
    Apply,
    /// It changed them.
    Update,
}

/// One entry of `managedFields`.
#[derive(Clone, Debug, PartialEq)]
pub struct Manager {
    /// Its name.
    pub name: String,
    /// Apply or Update.
    pub operation: Operation,
    /// The version of the kind in which its fields are named.
    pub api_version: String,
    /// The subresource through which it wrote; empty for the object itself.
    pub subresource: String,
    /// When it last wrote.
    pub time: String,
    /// What it owns.
    pub fields: FieldSet,
}

impl Manager {
    /// The manager of a request that has no fields yet.
    pub fn of_request(
        kind: &Kind,
        subresource: Option<Subresource>,
        operation: Operation,
        ctx: &WriteContext<'_>,
    ) -> Manager {
        Manager {
            name: if ctx.field_manager.is_empty() {
                "unknown".to_owned()
            } else {
                ctx.field_manager.to_owned()
            },
            operation,
            api_version: kind.api_version(),
            subresource: subresource.map_or("", Subresource::name).to_owned(),
            time: ctx.now.rfc3339(),
            fields: FieldSet::default(),
        }
    }

    /// Whether both entries are of one manager. An applier stays the same when the version changes.
    pub fn is_same(&self, other: &Manager) -> bool {
        self.name == other.name
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// The manager as messages name it: `"kubectl" using apps/v1`.
    pub fn printed(&self) -> String {
        let mut text = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }

    fn into_value(self) -> Value {
        let mut entry = json!({
            "manager": self.name,
            "operation": if self.operation == Operation::Apply { "Apply" } else { "Update" },
            "apiVersion": self.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.into_value(),
        });
        for (name, text) in [("time", self.time), ("subresource", self.subresource)] {
            if !text.is_empty() {
                entry[name] = text.into();
            }
        }
        entry
    }

    fn from_value(mut entry: Value) -> Manager {
        let fields = remove(&mut entry, "fieldsV1").unwrap_or_default();
        let operation = if entry.text("operation") == "Apply" {
            Operation::Apply
        } else {
            Operation::Update
        };
        Manager {
            name: entry.text("manager").to_owned(),
            operation,
            api_version: entry.text("apiVersion").to_owned(),
            subresource: entry.text("subresource").to_owned(),
            time: entry.text("time").to_owned(),
            fields: FieldSet::from_value(fields),
        }
    }
}

/// An object's managers.
pub fn managers_of(object: &Value) -> Vec<Manager> {
    let entries = object.at(&["metadata"]).items("managedFields");
    entries.iter().cloned().map(Manager::from_value).collect()
}

/// Takes an object's managers out of it.
fn take_managers(object: &mut Value) -> Vec<Manager> {
    match remove(object_mut(object, "metadata"), "managedFields") {
        Some(Value::Array(entries)) => entries.into_iter().map(Manager::from_value).collect(),
        _ => Vec::new(),
    }
}

/// Writes an object's managers, in Kubernetes' order.
pub fn set_managers(object: &mut Value, mut managers: Vec<Manager>) {
    managers.retain(|manager| !manager.fields.is_empty());
    managers.sort_by(|a, b| {
        let key = |manager: &Manager| (manager.operation, manager.time.clone(), manager.name.clone());
        (key(a), &a.api_version, &a.subresource).cmp(&(key(b), &b.api_version, &b.subresource))
    });
    let metadata = object_mut(object, "metadata");
    if managers.is_empty() {
        remove(metadata, "managedFields");
    } else {
        metadata["managedFields"] = managers.into_iter().map(Manager::into_value).collect();
    }
}

/// Drops what nobody owns: the envelope, and metadata that the server writes.
pub fn without_server_fields(set: &mut FieldSet) {
    set.children.remove("f:apiVersion");
    set.children.remove("f:kind");
    if let Some(metadata) = set.children.get_mut("f:metadata") {
        metadata.member = false;
        for name in [
            "name",
            "namespace",
            "creationTimestamp",
            "selfLink",
            "uid",
            "generation",
            "managedFields",
            "resourceVersion",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ] {
            metadata.below.children.remove(&format!("f:{name}"));
        }
        if metadata.below.is_empty() {
            set.children.remove("f:metadata");
        }
    }
}

/// Gives the request's manager what it changed between `old` and `new`, and takes that from all others. `new` carries the
/// managers as they were before.
pub fn record_update(
    kind: &Kind,
    subresource: Option<Subresource>,
    old: Option<&Value>,
    new: &mut Value,
    ctx: &WriteContext<'_>,
) {
    let empty = Value::Object(Map::new());
    let shapes = kind.shapes();
    let mut difference = typed::difference(shapes.schemas(), &shapes.root(), old.unwrap_or(&empty), new);
    without_server_fields(&mut difference.changed);
    without_server_fields(&mut difference.removed);
    if difference.is_empty() {
        return;
    }
    let mut managers = take_managers(new);
    let mut own = Manager::of_request(kind, subresource, Operation::Update, ctx);
    for manager in &mut managers {
        if manager.is_same(&own) {
            own.fields.absorb(std::mem::take(&mut manager.fields));
        } else {
            manager.fields.subtract(&difference.changed);
            manager.fields.subtract(&difference.removed);
        }
    }
    managers.retain(|manager| !manager.is_same(&own));
    own.fields.absorb(difference.changed);
    own.fields.subtract(&difference.removed);
    managers.push(own);
    cap(&mut managers);
    set_managers(new, managers);
}

/// Merges the oldest updaters of a version into one entry when there are too many.
fn cap(managers: &mut Vec<Manager>) {
    managers.retain(|manager| !manager.fields.is_empty());
    let mut updaters: Vec<usize> = (0..managers.len())
        .filter(|index| managers[*index].operation == Operation::Update)
        .collect();
    if updaters.len() <= UPDATERS_MAX {
        return;
    }
    updaters.sort_by(|a, b| managers[*a].time.cmp(&managers[*b].time));
    let mut excess: Vec<usize> = updaters[..updaters.len() - UPDATERS_MAX + 1].to_vec();
    excess.sort_unstable_by(|a, b| b.cmp(a));
    let mut ancient: Option<Manager> = None;
    for index in excess {
        let manager = managers.remove(index);
        match &mut ancient {
            Some(ancient) => {
                ancient.fields.union(&manager.fields);
                ancient.time = ancient.time.clone().max(manager.time);
            }
            None => {
                ancient = Some(Manager {
                    name: ANCIENT.to_owned(),
                    subresource: String::new(),
                    ..manager
                })
            }
        }
    }
    managers.extend(ancient);
}

/// Everything that is in the object, for objects that were written before anybody counted owners.
pub fn all_fields(kind: &Kind, object: &Value) -> FieldSet {
    let shapes = kind.shapes();
    let mut set = if object.is_null() {
        typed::fields(shapes.schemas(), &shapes.root(), &NULL)
    } else {
        typed::fields(shapes.schemas(), &shapes.root(), object)
    };
    without_server_fields(&mut set);
    set
}
