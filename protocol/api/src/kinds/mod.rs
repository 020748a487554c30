//! The table of kinds. One row is all that the gateway, discovery, OpenAPI, the store and the shell need to serve a kind;
//! the row names the pure functions that are the kind's behaviour: its defaults, what an update may change, what is
//! valid, what `kubectl get` shows. A new kind is a new file here and a line in `rows`.
//!
//! A version that is served but not stored has a `Conversion`; all versions of a kind share one resource in the store.
//! Nothing outside this folder knows a kind by name, and nothing in here does I/O.

/// A row with the names that follow from where k8s-openapi keeps the type: group, version, package, type, plural, singular.
macro_rules! row {
    ($group:literal, $version:ident, $package:ident, $kind:ident, $plural:literal, $singular:literal) => {
        $crate::kinds::Kind {
            group: $group,
            version: stringify!($version),
            kind: stringify!($kind),
            list_kind: concat!(stringify!($kind), "List"),
            plural: $plural,
            singular: $singular,
            definition: concat!(
                "io.k8s.api.",
                stringify!($package),
                ".",
                stringify!($version),
                ".",
                stringify!($kind)
            ),
            schema: |generator| {
                generator.subschema_for::<k8s_openapi::api::$package::$version::$kind>();
            },
            ..$crate::kinds::STORED
        }
    };
}

/// Another version of a kind whose rules are those of the row that it starts from: row, version, package, type, conversion.
macro_rules! version_of {
    ($row:expr, $version:ident, $package:ident, $kind:ident, $conversion:expr) => {
        $crate::kinds::Kind {
            version: stringify!($version),
            definition: concat!(
                "io.k8s.api.",
                stringify!($package),
                ".",
                stringify!($version),
                ".",
                stringify!($kind)
            ),
            schema: |generator| {
                generator.subschema_for::<k8s_openapi::api::$package::$version::$kind>();
            },
            conversion: Some($conversion),
            ..$row
        }
    };
}

mod admission;
mod api_service;
mod apps;
mod cells;
mod certificates;
mod checks;
mod component_status;
mod config_map;
mod container;
mod controller_revision;
mod cron_job;
mod cron_schedule;
mod csi;
mod custom_resource;
mod daemon_set;
mod deployment;
mod endpoint_slice;
mod endpoints;
mod event;
mod event_conversion;
mod flow_control;
mod horizontal_pod_autoscaler;
mod ingress;
mod job;
mod lease;
mod limit_range;
mod metrics;
mod namespace;
mod network_policy;
mod node;
mod persistent_volume;
mod persistent_volume_claim;
mod pod;
mod pod_defaults;
mod pod_disruption_budget;
mod pod_failure_policy;
mod pod_print;
mod pod_spec;
pub(crate) mod pod_subresource;
mod pod_template;
mod pod_update;
mod preview;
mod priority_class;
mod probe;
mod rbac;
mod replica_set;
mod replication_controller;
mod resource_claim;
mod resource_quota;
mod resource_slice;
mod reviews;
mod rows;
mod runtime_class;
mod scheduling;
mod secret;
mod service;
mod service_account;
mod service_network;
mod stateful_set;
mod storage_class;
mod volume;
mod volume_attachment;

use std::sync::Arc;

use protocol::object::DraftError;
use protocol::{Draft, Resource, UnixMillis};
use schemars::SchemaGenerator;
use serde_json::Value;

use crate::access::Access;
use crate::cause::Causes;
use crate::custom::{Definition, Slot};
use crate::rules::{self, Problems};
use crate::schema::{Schemas, Shape};
use crate::status::Status;
use crate::table::Column;
use crate::write::WriteContext;

/// What hangs below an object's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subresource {
    /// The object's status: writes change nothing else.
    Status,
    /// The number of replicas, as autoscaling/v1 Scale.
    Scale,
    /// The containers' output.
    Log,
    /// Assigns a pod to a node.
    Binding,
    /// Deletes a pod if its budgets allow it.
    Eviction,
    /// Sets a namespace's `spec.finalizers`.
    Finalize,
    /// Approves or denies a certificate signing request: writes change its conditions alone.
    Approval,
    /// Issues a token of a service account.
    Token,
    /// Runs a command in a container.
    Exec,
    /// Joins the streams of a container.
    Attach,
    /// Connects to ports of a pod.
    PortForward,
    /// Passes a request on to a port of the object.
    Proxy,
    /// A pod's ephemeral containers (KEP-277): writes add some and change nothing else.
    EphemeralContainers,
    /// What a pod's containers ask for and may use (KEP-1287): writes change nothing else.
    Resize,
}

impl Subresource {
    /// The path's last segment.
    pub fn name(self) -> &'static str {
        match self {
            Subresource::Status => "status",
            Subresource::Scale => "scale",
            Subresource::Log => "log",
            Subresource::Binding => "binding",
            Subresource::Eviction => "eviction",
            Subresource::Finalize => "finalize",
            Subresource::Approval => "approval",
            Subresource::Token => "token",
            Subresource::Exec => "exec",
            Subresource::Attach => "attach",
            Subresource::PortForward => "portforward",
            Subresource::Proxy => "proxy",
            Subresource::EphemeralContainers => "ephemeralcontainers",
            Subresource::Resize => "resize",
        }
    }

    /// The subresource of this name.
    pub fn find(name: &str) -> Option<Subresource> {
        use Subresource::*;
        [
            Status,
            Scale,
            Log,
            Binding,
            Eviction,
            Finalize,
            Approval,
            Token,
            Exec,
            Attach,
            PortForward,
            Proxy,
            EphemeralContainers,
            Resize,
        ]
        .into_iter()
        .find(|subresource| subresource.name() == name)
    }

    /// Group, version and kind of what a request sends and what a read answers, for a kind that has this subresource.
    pub fn body(self, kind: &Kind) -> (&'static str, &'static str, &'static str) {
        match self {
            Subresource::Status
            | Subresource::Finalize
            | Subresource::Log
            | Subresource::Approval
            | Subresource::EphemeralContainers
            | Subresource::Resize => (kind.group, kind.version, kind.kind),
            Subresource::Scale => ("autoscaling", "v1", "Scale"),
            Subresource::Binding => ("", "v1", "Binding"),
            Subresource::Eviction => ("policy", "v1", "Eviction"),
            Subresource::Token => ("authentication.k8s.io", "v1", "TokenRequest"),
            Subresource::Exec => ("", "v1", "PodExecOptions"),
            Subresource::Attach => ("", "v1", "PodAttachOptions"),
            Subresource::PortForward => ("", "v1", "PodPortForwardOptions"),
            Subresource::Proxy => match kind.kind {
                "Node" => ("", "v1", "NodeProxyOptions"),
                "Service" => ("", "v1", "ServiceProxyOptions"),
                _ => ("", "v1", "PodProxyOptions"),
            },
        }
    }

    /// The verbs that discovery lists.
    pub fn verbs(self) -> &'static [&'static str] {
        match self {
            Subresource::Status
            | Subresource::Scale
            | Subresource::Approval
            | Subresource::EphemeralContainers
            | Subresource::Resize => &["get", "patch", "update"],
            Subresource::Log => &["get"],
            Subresource::Binding | Subresource::Eviction | Subresource::Token => &["create"],
            Subresource::Finalize => &["update"],
            Subresource::Exec | Subresource::Attach | Subresource::PortForward => &["create", "get"],
            Subresource::Proxy => &["create", "delete", "get", "patch", "update"],
        }
    }
}

/// Which changes raise `metadata.generation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// The kind has no generation.
    None,
    /// Every change outside metadata and status.
    Spec,
    /// The same, and changes of annotations.
    SpecAndAnnotations,
}

/// How a version that is served, but not stored, relates to the one that is.
#[derive(Debug)]
pub struct Conversion {
    /// Group, version, kind and plural under which the objects are stored.
    pub stored: (&'static str, &'static str, &'static str, &'static str),
    /// Turns an object of this version into the stored one; `apiVersion` and `kind` are set by the caller.
    pub to_stored: fn(&mut Value),
    /// The other way.
    pub from_stored: fn(&mut Value),
    /// Selectable fields of this version and what they are called in the stored one, where that differs.
    pub fields: &'static [(&'static str, &'static str)],
}

impl Conversion {
    /// A version that has the fields of the stored one.
    const fn renamed(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
    ) -> Conversion {
        Conversion {
            stored: (group, version, kind, plural),
            to_stored: |_| {},
            from_stored: |_| {},
            fields: &[],
        }
    }
}

/// The verbs of a kind whose objects are stored.
pub const STORED_VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// One row of the table: what a kind is called, and what is particular to it.
#[derive(Clone, Copy)]
pub struct Kind {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The version: `v1`.
    pub version: &'static str,
    /// `Pod`.
    pub kind: &'static str,
    /// `PodList`.
    pub list_kind: &'static str,
    /// `pods`, as in paths and store keys.
    pub plural: &'static str,
    /// `pod`.
    pub singular: &'static str,
    /// `po`.
    pub short_names: &'static [&'static str],
    /// `all`: groups of kinds that kubectl knows by one name.
    pub categories: &'static [&'static str],
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// What hangs below its objects.
    pub subresources: &'static [Subresource],
    /// What clients may do with it, as discovery lists it.
    pub verbs: &'static [&'static str],
    /// Whether it is a question or an order rather than something that is kept: its create is answered and stored nowhere.
    pub is_virtual: bool,
    /// How it relates to the stored version; `None` when it is the stored version itself.
    pub conversion: Option<&'static Conversion>,
    /// Field selectors beside `metadata.name` and `metadata.namespace`.
    pub selectable_fields: &'static [&'static str],
    /// The name of its type in k8s-openapi and in OpenAPI documents: `io.k8s.api.core.v1.Pod`.
    pub definition: &'static str,
    /// Puts its type, and all that it reaches, into a generator.
    pub schema: fn(&mut SchemaGenerator),
    /// What its objects may be called.
    pub name_rule: fn(&str) -> Problems,
    /// Which changes raise its generation.
    pub generation: Generation,
    /// Fills in what the client left out.
    pub default: fn(&mut Value),
    /// Last touches before a new object is validated: its first status, fields that clients may not set.
    pub prepare_create: fn(&mut Value),
    /// Writes down who asked, where a kind keeps that.
    pub stamp: fn(&mut Value, &WriteContext<'_>),
    /// Last touches before a changed object (old, new) is validated: fields that this path may not change.
    pub prepare_update: fn(&Value, &mut Value),
    /// Whether a new object may bring its status along, although the status has its own path: a node registers so.
    pub created_with_status: bool,
    /// Last touches of an object that begins to be deleted.
    pub before_deletion: fn(&mut Value, UnixMillis),
    /// Finds what a new object may not have yet.
    pub validate_create: fn(&Value, &mut Causes),
    /// Finds what is wrong with a complete object, metadata aside.
    pub validate: fn(&Value, &mut Causes),
    /// Finds what is wrong with a change (old, new).
    pub validate_update: fn(&Value, &Value, &mut Causes),
    /// Finds what is wrong with a change of the status (old, new).
    pub validate_status: fn(&Value, &Value, &mut Causes),
    /// The columns that `kubectl get` shows.
    pub columns: &'static [Column],
    /// An object's cells, one for each column.
    pub cells: fn(&Value, UnixMillis) -> Vec<Value>,
    /// The value of a selectable field.
    pub field_value: fn(&Value, &str) -> String,
    /// What a custom kind has beyond its row; `None` for the kinds of the table.
    pub custom: Option<&'static Slot>,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kind({}, {})", self.api_version(), self.kind)
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Kind) -> bool {
        (self.group, self.version, self.kind) == (other.group, other.version, other.kind)
    }
}

/// What a row starts from: a stored, namespaced kind without particulars. A row sets its names and what differs.
pub(crate) const STORED: Kind = Kind {
    group: "",
    version: "v1",
    kind: "",
    list_kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    subresources: &[],
    verbs: STORED_VERBS,
    is_virtual: false,
    conversion: None,
    selectable_fields: &[],
    definition: "",
    schema: |_| {},
    name_rule: rules::dns_subdomain,
    generation: Generation::None,
    default: |_| {},
    prepare_create: |_| {},
    stamp: |_, _| {},
    prepare_update: |_, _| {},
    created_with_status: false,
    before_deletion: |_, _| {},
    validate_create: |_, _| {},
    validate: |_, _| {},
    validate_update: |_, _, _| {},
    validate_status: |_, _, _| {},
    columns: &[Column::NAME, Column::CREATED],
    cells: |object, _| vec![object.at(&["metadata"]).text("name").into(), created(object)],
    field_value,
    custom: None,
};

/// All kinds, grouped by API group, versions of a group by preference.
pub fn kinds() -> &'static [Kind] {
    rows::ROWS
}

/// The kinds under which objects are stored: each resource of the store once.
pub fn stored_kinds() -> impl Iterator<Item = &'static Kind> {
    rows::ROWS
        .iter()
        .filter(|kind| !kind.is_virtual && kind.conversion.is_none())
}

/// The kind behind a path.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    rows::ROWS
        .iter()
        .find(|kind| kind.plural == plural && kind.group == group && kind.version == version)
}

/// The kind of an object.
pub fn find_by_kind(api_version: &str, kind: &str) -> Option<&'static Kind> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    rows::ROWS
        .iter()
        .find(|row| row.kind == kind && row.group == group && row.version == version)
}

/// The kind under which the objects of a store key's resource are stored.
pub fn find_by_resource(resource: &Resource) -> Option<&'static Kind> {
    let (plural, group) = (resource.plural(), resource.group());
    stored_kinds().find(|kind| kind.plural == plural && kind.group == group)
}

impl Kind {
    /// The resource under which its objects are stored.
    pub fn resource(&self) -> Resource {
        match self.conversion {
            Some(conversion) => Resource::of(conversion.stored.3, conversion.stored.0),
            None => Resource::of(self.plural, self.group),
        }
    }

    /// An object as this version tells it, made of the stored one.
    pub fn served(&self, mut object: Value) -> Value {
        if let Some(custom) = self.definition_now() {
            return custom.served(object);
        }
        if let Some(conversion) = self.conversion
            && object.is_object()
        {
            (conversion.from_stored)(&mut object);
            object["apiVersion"] = self.api_version().into();
            object["kind"] = self.kind.into();
        }
        object
    }

    /// The row under which its objects are stored.
    pub fn stored_row(&self) -> &Kind {
        let stored = self.conversion.and_then(|conversion| {
            let (group, version, _, plural) = conversion.stored;
            find(group, version, plural)
        });
        stored.unwrap_or(self)
    }

    /// What a selectable field of this version is called in what is stored.
    pub fn stored_field<'p>(&self, path: &'p str) -> &'p str {
        let renamed = self.conversion.into_iter().flat_map(|conversion| conversion.fields);
        renamed
            .filter(|(served, _)| *served == path)
            .map(|(_, stored)| *stored)
            .next()
            .unwrap_or(path)
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Whether it has this subresource.
    pub fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }

    /// The values of an object's selectable fields.
    pub fn fields(&self, object: &Value) -> Vec<(String, String)> {
        let value = |path: &&str| ((*path).to_owned(), (self.field_value)(object, path));
        self.selectable_fields.iter().map(value).collect()
    }

    /// Encodes a complete object for the store, in its stored version and with that version's selectable fields.
    pub fn draft(&self, object: &Value) -> Result<Draft, DraftError> {
        if let Some(custom) = self.definition_now() {
            let stored = custom.stored(object.clone());
            return Draft::encode(&stored, custom.fields(&stored));
        }
        let Some(conversion) = self.conversion.filter(|_| object.is_object()) else {
            return Draft::encode(object, self.fields(object));
        };
        let row = self.stored_row();
        let mut stored = object.clone();
        (conversion.to_stored)(&mut stored);
        stored["apiVersion"] = row.api_version().into();
        stored["kind"] = row.kind.into();
        Draft::encode(&stored, row.fields(&stored))
    }

    /// Whether stored bytes may be told to clients as they are.
    pub fn told_as_stored(&self) -> bool {
        self.conversion.is_none() && self.definition_now().is_none_or(|custom| !custom.reads_convert)
    }

    /// A custom kind's definition as it is now. `None` for the kinds of the table, and for one that is gone.
    pub fn definition_now(&self) -> Option<Arc<Definition>> {
        self.custom?.get()
    }

    /// A custom kind's definition; refuses when it is gone. `None` for the kinds of the table.
    pub fn custom_definition(&self) -> Result<Option<Arc<Definition>>, Status> {
        let Some(slot) = self.custom else { return Ok(None) };
        slot.get().map(Some).ok_or_else(Status::no_such_resource)
    }

    /// The shapes along which its objects are decoded and owned.
    pub(crate) fn shapes(&self) -> KindShapes {
        match self.definition_now() {
            Some(custom) => KindShapes::Custom(custom),
            None => KindShapes::BuiltIn(Schemas::built_in(), self.definition),
        }
    }

    /// Whether all names and subresources of two rows are the same.
    pub(crate) fn is_same_row(&self, other: &Kind) -> bool {
        let names = |kind: &Kind| {
            [
                kind.group,
                kind.version,
                kind.kind,
                kind.list_kind,
                kind.plural,
                kind.singular,
            ]
        };
        let lists = |kind: &Kind| [kind.short_names, kind.categories, kind.selectable_fields];
        names(self) == names(other)
            && lists(self) == lists(other)
            && self.namespaced == other.namespaced
            && self.subresources == other.subresources
    }

    /// Whether clients may do this with it.
    pub fn offers(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }
}

/// The shapes of a kind, held while they are walked along.
pub(crate) enum KindShapes {
    BuiltIn(&'static Schemas, &'static str),
    Custom(Arc<Definition>),
}

impl KindShapes {
    pub(crate) fn schemas(&self) -> &Schemas {
        match self {
            KindShapes::BuiltIn(schemas, _) => schemas,
            KindShapes::Custom(custom) => custom.shapes(),
        }
    }

    /// The shape of a whole object.
    pub(crate) fn root(&self) -> Shape {
        match self {
            KindShapes::BuiltIn(_, name) => Shape::Struct(name),
            KindShapes::Custom(custom) => custom.shape(),
        }
    }
}

/// Whether a definition is served.
pub(crate) fn established(crd: &Value) -> bool {
    cells::has_condition(crd, "Established")
}

/// A field's value as a field selector compares it.
fn field_value(object: &Value, path: &str) -> String {
    match path.split('.').try_fold(object, |value, name| value.get(name)) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(flag)) => flag.to_string(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

/// The same for a field that is a boolean in Go: absent, it is false.
fn boolean_field(object: &Value, path: &str) -> String {
    let text = field_value(object, path);
    if text.is_empty() { "false".to_owned() } else { text }
}

/// `metadata.creationTimestamp`, for tables.
fn created(object: &Value) -> Value {
    object.at(&["metadata", "creationTimestamp"]).clone()
}
