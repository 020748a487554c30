//! apiextensions.k8s.io/v1 CustomResourceDefinition: the kind itself: its row, defaults, validation of names and versions,
//! and columns. What its schemas mean for the objects of the defined kind is decided elsewhere.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::checks::{self, Rule, check};
use super::{Generation, Kind, STORED, Subresource, cells};
use crate::access::{Access, existing_mut, items_mut, object_mut, set_default_text};
use crate::cause::{Causes, Path};
use crate::custom::{self, CLEANUP_FINALIZER};
use crate::rules;
use crate::table::Column;

pub const KIND: Kind = Kind {
    group: "apiextensions.k8s.io",
    kind: "CustomResourceDefinition",
    list_kind: "CustomResourceDefinitionList",
    plural: "customresourcedefinitions",
    singular: "customresourcedefinition",
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    namespaced: false,
    subresources: &[Subresource::Status],
    definition: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    schema: |generator| {
        use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
        generator.subschema_for::<CustomResourceDefinition>();
    },
    generation: Generation::Spec,
    default,
    prepare_create: |object| {
        let versions = object.at(&["spec"]).items("versions").iter();
        let stored: Vec<Value> = versions
            .filter(|version| version.flag("storage"))
            .map(|version| version.at(&["name"]).clone())
            .collect();
        object["status"] = json!({
            "conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored,
        });
    },
    prepare_update: |old, new| {
        // Objects may be stored in each version that was ever the stored one.
        let mut stored = old.at(&["status"]).items("storedVersions").to_vec();
        for version in new
            .at(&["spec"])
            .items("versions")
            .iter()
            .filter(|version| version.flag("storage"))
        {
            if !stored.contains(version.at(&["name"])) {
                stored.push(version.at(&["name"]).clone());
            }
        }
        object_mut(new, "status")["storedVersions"] = stored.into();
    },
    // Its objects go before it does.
    before_deletion: |object, now| {
        let metadata = object_mut(object, "metadata");
        if !metadata["finalizers"].is_array() {
            metadata["finalizers"] = json!([]);
        }
        if let Some(finalizers) = metadata["finalizers"].as_array_mut()
            && !finalizers.iter().any(|finalizer| finalizer == CLEANUP_FINALIZER)
        {
            finalizers.push(CLEANUP_FINALIZER.into());
        }
        crate::custom::set_terminating(object, now);
    },
    validate,
    validate_update: |old, new, causes| {
        let established = cells::has_condition(old, "Established");
        if established {
            let fixed = [
                "spec.group",
                "spec.names.plural",
                "spec.scope",
                "spec.names.kind",
                "spec.names.listKind",
            ];
            checks::immutable(old, new, &fixed, causes);
        }
        let root = Path::Root;
        let known: BTreeSet<&str> = new
            .at(&["spec"])
            .items("versions")
            .iter()
            .map(|version| version.text("name"))
            .collect();
        let status = root.field("status");
        let list = status.field("storedVersions");
        for (index, version) in old.at(&["status"]).items("storedVersions").iter().enumerate() {
            let version = version.as_str().unwrap_or_default();
            if !known.contains(version) {
                let text = format!(
                    "missing from spec.versions; {version} was previously a storage version, and must remain in \
                                    spec.versions until a storage migration ensures no data remains persisted in {version} and \
                                    removes {version} from status.storedVersions"
                );
                causes.invalid(list.index(index), version, text);
            }
        }
    },
    validate_status: |_, new, causes| stored_versions(new, causes),
    columns: &[Column::NAME, Column::CREATED],
    cells: |object, _| vec![cells::name(object), super::created(object)],
    ..STORED
};

/// `status.storedVersions` may lose a version once no object is stored in it any more, but not the one that is stored now.
fn stored_versions(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let status = root.field("status");
    let at = status.field("storedVersions");
    let stored = object.at(&["status"]).items("storedVersions");
    if stored.is_empty() {
        return causes.required(at, "must have at least one stored version");
    }
    let versions = object.at(&["spec"]).items("versions");
    for version in versions.iter().filter(|version| version.flag("storage")) {
        let name = version.text("name");
        if !stored.iter().any(|stored| stored == name) {
            causes.invalid(at, name, format!("must have the storage version {name}"));
        }
    }
    for (index, stored) in stored.iter().enumerate() {
        if !versions.iter().any(|version| version.at(&["name"]) == stored) {
            causes.invalid(at.index(index), stored.clone(), "must appear in spec.versions");
        }
    }
}

fn default(object: &mut Value) {
    let spec = object_mut(object, "spec");
    let names = object_mut(spec, "names");
    let kind = names.text("kind").to_owned();
    if !kind.is_empty() {
        set_default_text(names, "singular", &kind.to_lowercase());
        set_default_text(names, "listKind", &format!("{kind}List"));
    }
    let conversion = object_mut(spec, "conversion");
    set_default_text(conversion, "strategy", "None");
    if let Some(webhook) = existing_mut(conversion, "webhook")
        && let Some(client) = existing_mut(webhook, "clientConfig")
        && let Some(service) = existing_mut(client, "service")
    {
        crate::access::set_default(service, "port", 443);
    }
    for version in items_mut(spec, "versions") {
        for column in items_mut(version, "additionalPrinterColumns") {
            // Upstream keeps the priority only where it is not zero.
            if column.int("priority") == Some(0) {
                crate::access::remove(column, "priority");
            }
        }
    }
}

fn validate(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let spec = object.at(&["spec"]);
    let names = spec.at(&["names"]);
    let expected = format!("{}.{}", names.text("plural"), spec.text("group"));
    let name = object.at(&["metadata"]).text("name");
    if name != expected {
        let metadata = root.field("metadata");
        causes.invalid(
            metadata.field("name"),
            name,
            "must be spec.names.plural+\".\"+spec.group",
        );
    }
    check(
        spec,
        &path,
        &[("group", Rule::RequiredForm(rules::dns_subdomain))],
        causes,
    );
    if !spec.text("group").is_empty() && !spec.text("group").contains('.') {
        let text = "should be a domain with at least one dot";
        causes.invalid(path.field("group"), spec.text("group"), text);
    }
    check(
        spec,
        &path,
        &[
            ("scope", Rule::RequiredKnown(&["Cluster", "Namespaced"])),
            ("versions", Rule::Required),
        ],
        causes,
    );
    versions(spec, &path, causes);
    let at = path.field("names");
    check(
        names,
        &at,
        &[
            ("plural", Rule::RequiredForm(rules::dns_1035_label)),
            ("singular", Rule::Form(rules::dns_1035_label)),
            ("kind", Rule::Required),
            ("listKind", Rule::Required),
            ("shortNames[]", Rule::Form(rules::dns_1035_label)),
            ("categories[]", Rule::Form(rules::dns_1035_label)),
        ],
        causes,
    );
    for field in ["kind", "listKind"] {
        let text = names.text(field);
        for problem in rules::dns_1035_label(&text.to_lowercase())
            .into_iter()
            .filter(|_| !text.is_empty())
        {
            causes.invalid(
                at.field(field),
                text,
                format!("may have mixed case, but should otherwise match: {problem}"),
            );
        }
    }
    if !names.text("kind").is_empty() && names.text("kind") == names.text("listKind") {
        let text = "kind and listKind may not be the same";
        causes.invalid(at.field("listKind"), names.text("listKind"), text);
    }
    conversion(spec, &path, causes);
}

fn versions(spec: &Value, path: &Path<'_>, causes: &mut Causes) {
    let list = path.field("versions");
    let versions = spec.items("versions");
    let stored = versions.iter().filter(|version| version.flag("storage")).count();
    let mut known = BTreeSet::new();
    let schemas = || {
        versions
            .iter()
            .map(|version| version.at(&["schema", "openAPIV3Schema"]))
    };
    let same_schemas = schemas().zip(schemas().skip(1)).all(|(a, b)| a == b);
    for (index, version) in versions.iter().enumerate() {
        let at = list.index(index);
        check(
            version,
            &at,
            &[("name", Rule::RequiredForm(rules::dns_1035_label))],
            causes,
        );
        if !known.insert(version.text("name")) {
            causes.duplicate(at.field("name"), version.text("name"));
        }
        let schema = version.at(&["schema", "openAPIV3Schema"]);
        let (validation, own) = (path.field("validation"), at.field("schema"));
        if schema.is_null() {
            causes.required(own.field("openAPIV3Schema"), "schemas are required");
        } else if !same_schemas {
            custom::structural::check(schema, &own.field("openAPIV3Schema"), causes);
        } else if index == 0 {
            // Kubernetes names a schema that all versions share so.
            custom::structural::check(schema, &validation.field("openAPIV3Schema"), causes);
        }
        selectable_fields(version, &at, causes);
        subresources(version.at(&["subresources"]), &at.field("subresources"), causes);
        check(
            version,
            &at,
            &[
                ("additionalPrinterColumns[].name", Rule::Required),
                (
                    "additionalPrinterColumns[].type",
                    Rule::RequiredKnown(&["boolean", "date", "integer", "number", "string"]),
                ),
                ("additionalPrinterColumns[].jsonPath", Rule::Required),
            ],
            causes,
        );
    }
    if !versions.is_empty() && stored != 1 {
        let value = spec.at(&["versions"]).clone();
        let text = "must have exactly one version marked as storage version";
        causes.invalid(list, value, text);
    }
}

/// How many fields of a version may be selected by.
const SELECTABLE_FIELDS_MAX: usize = 8;

fn selectable_fields(version: &Value, path: &Path<'_>, causes: &mut Causes) {
    let (fields, at) = (version.items("selectableFields"), path.field("selectableFields"));
    if fields.len() > SELECTABLE_FIELDS_MAX {
        causes.too_many(at, fields.len(), SELECTABLE_FIELDS_MAX);
    }
    let mut known = BTreeSet::new();
    for (index, field) in fields.iter().enumerate() {
        let (text, at) = (field.text("jsonPath"), at.index(index));
        let at = at.field("jsonPath");
        if text.is_empty() {
            causes.required(at, "");
            continue;
        }
        if !known.insert(text) {
            causes.duplicate(at, text);
        }
        let mut schema = version.at(&["schema", "openAPIV3Schema"]);
        let mut inside_list = false;
        for name in text.trim_start_matches('.').split('.') {
            inside_list |= name.contains('[') || schema.text("type") == "array";
            schema = schema.at(&["properties", name]);
        }
        if text.starts_with(".metadata.") {
            causes.invalid(at, text, "must not point to fields in metadata");
        } else if !text.starts_with('.') || inside_list {
            causes.invalid(at, text, "must be a simple path");
        } else if schema.is_null() {
            causes.invalid(at, text, "is an invalid path: does not refer to a valid field");
        } else if !matches!(schema.text("type"), "string" | "boolean" | "integer") {
            causes.invalid(at, text, "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.");
        }
    }
}

fn subresources(subresources: &Value, path: &Path<'_>, causes: &mut Causes) {
    let scale = subresources.at(&["scale"]);
    if scale.is_null() {
        return;
    }
    let at = path.field("scale");
    for (field, prefix) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let text = scale.text(field);
        if text.is_empty() {
            causes.required(at.field(field), "");
        } else if !text.starts_with(prefix) {
            let problem = format!("should be a json path under {}", prefix.trim_end_matches('.'));
            causes.invalid(at.field(field), text, problem);
        }
    }
    let selector = scale.text("labelSelectorPath");
    if !selector.is_empty() && !selector.starts_with(".spec.") && !selector.starts_with(".status.") {
        let problem = "should be a json path under either .spec or .status";
        causes.invalid(at.field("labelSelectorPath"), selector, problem);
    }
}

fn conversion(spec: &Value, path: &Path<'_>, causes: &mut Causes) {
    let (conversion, at) = (spec.at(&["conversion"]), path.field("conversion"));
    check(
        conversion,
        &at,
        &[("strategy", Rule::RequiredKnown(&["None", "Webhook"]))],
        causes,
    );
    let webhook = at.field("webhook");
    match (conversion.text("strategy"), conversion.has("webhook")) {
        ("Webhook", false) => {
            causes.required(
                webhook.field("clientConfig"),
                "required when strategy is set to Webhook",
            );
        }
        ("Webhook", true) => {
            let reviewed = conversion.at(&["webhook"]).items("conversionReviewVersions");
            if reviewed.is_empty() {
                causes.required(webhook.field("conversionReviewVersions"), "");
            } else if !reviewed
                .iter()
                .any(|version| matches!(version.as_str(), Some("v1" | "v1beta1")))
            {
                let value = conversion.at(&["webhook", "conversionReviewVersions"]).clone();
                let text = "must include at least one of v1, v1beta1";
                causes.invalid(webhook.field("conversionReviewVersions"), value, text);
            }
            let client = conversion.at(&["webhook", "clientConfig"]);
            super::admission::client_config(client, &webhook.field("clientConfig"), causes);
        }
        (_, true) => causes.forbidden(webhook, "should not be set when strategy is not set to Webhook"),
        _ => {}
    }
}
