//! One served version of a custom kind: everything that its objects' requests need, read once from the CustomResourceDefinition.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::UnixMillis;
use serde_json::{Value, json};

use super::columns::{CustomColumn, JsonPath};
use super::conversion::ConversionWebhook;
use super::schema::Schema;
use super::{cel, fill, prune, shapes, validate};
use crate::access::{Access, object_mut};
use crate::cause::{Causes, Path};
use crate::decode::{self, Findings};
use crate::kinds::Kind;
use crate::schema::{Schemas, Shape};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// A served version of a custom kind.
#[derive(Debug)]
pub struct Definition {
    /// The definition's name: `crontabs.stable.example.com`.
    pub name: String,
    /// The version in which its objects are stored.
    pub storage_version: String,
    /// Whether objects may be stored in another version than this one, or lack defaults that it has: reads must look inside.
    pub reads_convert: bool,
    /// Why the definition takes no new objects: it is being deleted.
    pub terminating: bool,
    /// The schema as it was written, for OpenAPI.
    pub published: Value,
    /// Who converts between versions; `None` where they differ in their name alone.
    pub webhook: Option<ConversionWebhook>,
    /// Whether the definition was changed since it was made: what is noted beside older objects, such as their selectable
    /// fields, may be of an earlier form of it.
    pub was_changed: bool,
    /// `stable.example.com/v1`.
    api_version: String,
    group: String,
    schema: Arc<Schema>,
    all: AllSchemas,
    shapes: Schemas,
    root: &'static str,
    columns: Vec<CustomColumn>,
    /// Selectable fields of all versions, without the dot.
    stored_fields: Vec<String>,
    scale: Option<ScalePaths>,
}

/// `subresources.scale`.
#[derive(Debug)]
struct ScalePaths {
    spec: Vec<String>,
    status: Vec<String>,
    selector: Option<Vec<String>>,
}

/// The schemas of all versions of a definition, by the versions' names.
pub type AllSchemas = Arc<BTreeMap<String, Arc<Schema>>>;

/// Reads the schemas of all versions.
pub fn all_schemas(crd: &Value) -> AllSchemas {
    let versions = crd.at(&["spec"]).items("versions").iter();
    let read = versions.map(|version| {
        let schema = Schema::read_root(version.at(&["schema", "openAPIV3Schema"]));
        (version.text("name").to_owned(), Arc::new(schema))
    });
    Arc::new(read.collect())
}

impl Definition {
    /// Reads a version of a definition; `None` when there is no room for its names.
    pub fn read(crd: &Value, version: &Value, all: &AllSchemas) -> Option<Definition> {
        let spec = crd.at(&["spec"]);
        let versions = spec.items("versions");
        let storage = versions.iter().find(|version| version.flag("storage"));
        let published = version.at(&["schema", "openAPIV3Schema"]).clone();
        let schema = Arc::clone(all.get(version.text("name"))?);
        let (shapes, root) = shapes::shapes(&schema)?;
        let stored = crd.at(&["status"]).items("storedVersions");
        let only_this = versions.len() == 1 && stored.len() <= 1;
        let mut stored_fields: Vec<String> = versions
            .iter()
            .flat_map(|version| version.items("selectableFields"))
            .map(|field| field.text("jsonPath").trim_start_matches('.').to_owned())
            .collect();
        stored_fields.sort();
        stored_fields.dedup();
        Some(Definition {
            name: crd.at(&["metadata"]).text("name").to_owned(),
            storage_version: storage.map_or("", |version| version.text("name")).to_owned(),
            reads_convert: !only_this || schema.has_defaults || spec.at(&["conversion"]).text("strategy") == "Webhook",
            terminating: crd.at(&["metadata"]).has("deletionTimestamp"),
            webhook: ConversionWebhook::read(spec.at(&["conversion"])),
            was_changed: crd.at(&["metadata"]).int("generation").unwrap_or(0) > 1,
            api_version: format!("{}/{}", spec.text("group"), version.text("name")),
            group: spec.text("group").to_owned(),
            all: Arc::clone(all),
            columns: CustomColumn::read_all(version),
            scale: ScalePaths::read(version.at(&["subresources", "scale"])),
            published,
            schema,
            shapes,
            root,
            stored_fields,
        })
    }

    /// The shapes of its objects.
    pub fn shapes(&self) -> &Schemas {
        &self.shapes
    }

    /// The shape of a whole object.
    pub fn shape(&self) -> Shape {
        Shape::Struct(self.root)
    }

    /// What expressions know of its objects.
    pub fn expression_type(&self) -> Option<expressions::Type> {
        cel::type_of(&self.schema, true, "object")
    }

    /// Brings what a client sent into the definition's form: nulls that stand for absence and unknown fields go, and metadata
    /// is decoded as that of any object.
    pub fn conform(&self, object: &mut Value) -> Findings {
        let metadata = object_mut(object, "metadata");
        let mut findings = decode::conform(Schemas::built_in(), OBJECT_META, metadata);
        for path in &mut findings.unknown_fields {
            *path = format!("metadata.{path}");
        }
        fill::drop_nulls(&self.schema, object);
        prune::prune(&self.schema, object, &mut findings.unknown_fields);
        findings
    }

    /// Gives defaults.
    pub fn fill(&self, object: &mut Value) {
        fill::fill(&self.schema, object);
    }

    /// Finds what is wrong with an object, metadata aside; `old` is the stored one, for a change.
    pub fn validate(&self, object: &Value, old: Option<&Value>, causes: &mut Causes) {
        let mut found = Causes::default();
        validate::validate(&self.schema, object, old, &mut found);
        // Rules may rely on types and bounds: they are not asked about an object that lacks them.
        let blocking = found.0.iter().any(|cause| {
            matches!(
                &*cause.reason,
                "FieldValueNotSupported"
                    | "FieldValueRequired"
                    | "FieldValueTooLong"
                    | "FieldValueTooMany"
                    | "FieldValueTypeInvalid"
            )
        });
        match blocking {
            true if self.schema.has_rules => {
                let nowhere = Path::Root;
                found.add(
                    nowhere.field("<nil>"),
                    "FieldValueInvalid",
                    "Invalid value: null: some validation rules were not checked because the object was invalid; correct the \
                     existing errors to complete validation"
                        .to_owned(),
                );
            }
            true => {}
            false => cel::evaluate(&self.schema, object, old, &mut found),
        }
        causes.0.append(&mut found.0);
    }

    /// The columns of its tables, as a table defines them.
    pub fn columns(&self) -> Vec<Value> {
        std::iter::once(crate::table::Column::NAME.definition())
            .chain(self.columns.iter().map(CustomColumn::definition))
            .collect()
    }

    /// An object's cells.
    pub fn cells(&self, object: &Value, now: UnixMillis) -> Vec<Value> {
        let name = object.at(&["metadata"]).text("name").into();
        std::iter::once(name)
            .chain(self.columns.iter().map(|column| column.cell(object, now)))
            .collect()
    }

    /// An object in this version, made of a stored one. Where a webhook converts, it has been asked already: see
    /// `recalled` and `settle`.
    pub fn served(&self, object: Value) -> Value {
        if self.webhook.is_some() || !object.is_object() {
            return object;
        }
        let mut object = self.recalled(object);
        if !self.is_own(&object) {
            object["apiVersion"] = self.api_version.as_str().into();
            self.settle(&mut object);
        }
        object
    }

    /// An object in the stored version, made of one in this version. Where a webhook converts, that is left to it.
    pub fn stored(&self, mut object: Value) -> Value {
        if self.webhook.is_none() && object.is_object() {
            object["apiVersion"] = self.storage_api_version().into();
        }
        object
    }

    /// The version in which its objects are stored: `stable.example.com/v1`.
    pub fn storage_api_version(&self) -> String {
        format!("{}/{}", self.group, self.storage_version)
    }

    /// This version: `stable.example.com/v1`.
    pub fn api_version(&self) -> &str {
        &self.api_version
    }

    /// Whether an object is in this version.
    pub fn is_own(&self, object: &Value) -> bool {
        object.text("apiVersion") == self.api_version
    }

    /// The schema of an object by its own version; `None` for a version that the definition has no longer.
    fn schema_of(&self, object: &Value) -> Option<&Schema> {
        let (group, version) = object.text("apiVersion").split_once('/')?;
        let schema = (group == self.group).then(|| self.all.get(version))??;
        Some(schema)
    }

    /// A stored object, in the version that it is stored in, as that version's schema has it today: without fields that it
    /// no longer names, and with defaults that came later.
    pub fn recalled(&self, mut object: Value) -> Value {
        self.settle(&mut object);
        if let Some(schema) = self.schema_of(&object) {
            fill::fill(schema, &mut object);
        }
        object
    }

    /// Drops from an object that was converted what its version does not name.
    pub fn settle(&self, object: &mut Value) {
        if let Some(schema) = self.schema_of(object) {
            prune::prune(schema, object, &mut Vec::new());
        }
    }

    /// Whether a stored object's fields, as they were noted when it was written, may differ from what they are in this
    /// version today.
    pub fn may_lag(&self, fields: &[(String, String)]) -> bool {
        let noted = |path: &String| fields.iter().any(|(known, value)| known == path && !value.is_empty());
        !self.stored_fields.iter().all(noted)
    }

    /// The selectable fields of a stored object.
    pub fn fields(&self, object: &Value) -> Vec<(String, String)> {
        let value = |path: &String| {
            let found = path.split('.').try_fold(object, |value, name| value.get(name));
            let text = match found {
                Some(Value::String(text)) => text.clone(),
                Some(found @ (Value::Bool(_) | Value::Number(_))) => found.to_string(),
                _ => String::new(),
            };
            (path.clone(), text)
        };
        self.stored_fields.iter().map(value).collect()
    }

    /// The object's number of replicas as its Scale shows it: wanted, counted, and the selector of what is counted.
    pub fn replicas(&self, object: &Value) -> (i64, i64, String) {
        let Some(scale) = &self.scale else {
            return (0, 0, String::new());
        };
        let at = |path: &[String]| path.iter().try_fold(object, |value, name| value.get(name));
        let number = |path: &[String]| at(path).and_then(Value::as_i64).unwrap_or(0);
        let selector = scale.selector.as_deref().and_then(at).and_then(Value::as_str);
        (
            number(&scale.spec),
            number(&scale.status),
            selector.unwrap_or_default().to_owned(),
        )
    }

    /// Sets the wanted number of replicas.
    pub fn set_replicas(&self, object: &mut Value, replicas: i64) {
        let Some((last, path)) = self.scale.as_ref().and_then(|scale| scale.spec.split_last()) else {
            return;
        };
        let mut at = object;
        for name in path {
            at = object_mut(at, name);
        }
        if let Some(members) = at.as_object_mut() {
            members.insert(last.clone(), replicas.into());
        }
    }
}

impl ScalePaths {
    fn read(scale: &Value) -> Option<ScalePaths> {
        let path = |name: &str| {
            let path = JsonPath::parse(scale.text(name))?;
            let names: Vec<String> = path.members()?.into_iter().map(str::to_owned).collect();
            (!names.is_empty()).then_some(names)
        };
        Some(ScalePaths {
            spec: path("specReplicasPath")?,
            status: path("statusReplicasPath")?,
            selector: path("labelSelectorPath"),
        })
    }
}

/// The schema as OpenAPI documents show it: with the members that every object has.
pub fn published_schema(kind: &Kind, definition: &Definition, prefix: &str) -> Value {
    let mut schema = match definition.published.is_object() {
        true => definition.published.clone(),
        false => json!({"type": "object"}),
    };
    // kubectl explains these for every kind; rules and defaults stay as they are.
    let properties = object_mut(&mut schema, "properties");
    properties["apiVersion"] = json!({
        "type": "string", "description": "APIVersion defines the versioned schema of this representation of an object.",
    });
    properties["kind"] = json!({
        "type": "string", "description": "Kind is a string value representing the REST resource this object represents.",
    });
    properties["metadata"] = json!({
        "allOf": [{"$ref": format!("{prefix}{OBJECT_META}")}],
        "description": "Standard object's metadata. More info: \
                        https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
    });
    schema["x-kubernetes-group-version-kind"] = json!([{
        "group": kind.group, "version": kind.version, "kind": kind.kind,
    }]);
    schema
}
