//! Every kind of the table: its least object goes through the whole pipeline, and what it lacks is said as Kubernetes says
//! it. A kind without an entry in `samples` fails the first test.
#![allow(missing_docs)]

mod fixture;
mod samples;

use std::collections::BTreeSet;

use api::kinds::{self, Kind};
use api::schema::{Schemas, Shape};
use api::table::{IncludeObject, table};
use api::write::prepare_virtual;
use api::{discovery, openapi};
use fixture::*;
use samples::{Sample, samples};
use serde_json::{Value, json};

/// Versions whose fields are others than those of the stored one, and which therefore convert more than the name.
const CONVERTED: [(&str, &str); 5] = [
    ("autoscaling/v1", "HorizontalPodAutoscaler"),
    ("events.k8s.io/v1", "Event"),
    ("resource.k8s.io/v1beta1", "ResourceClaim"),
    ("resource.k8s.io/v1beta1", "ResourceClaimTemplate"),
    ("resource.k8s.io/v1beta1", "ResourceSlice"),
];

fn row(sample: &Sample) -> &'static Kind {
    kinds::find_by_kind(sample.api_version, sample.kind)
        .unwrap_or_else(|| panic!("no row for {} {}", sample.api_version, sample.kind))
}

/// The sample as a client sends it.
fn body(sample: &Sample) -> Value {
    let mut object = sample.object.clone();
    object["apiVersion"] = sample.api_version.into();
    object["kind"] = sample.kind.into();
    if object["metadata"].is_null() && !row(sample).is_virtual {
        object["metadata"] = json!({"name": "a"});
    }
    object
}

fn made(kind: &Kind, object: Value) -> Result<Value, api::Status> {
    if kind.is_virtual {
        let namespace = if kind.namespaced { "default" } else { "" };
        return prepare_virtual(kind, namespace, object, &context("test")).map(|written| written.object);
    }
    create(kind, object)
}

#[test]
fn every_kind_has_a_sample() {
    let all = samples();
    for kind in kinds::kinds() {
        let known = all
            .iter()
            .any(|sample| sample.api_version == kind.api_version() && sample.kind == kind.kind);
        assert!(known || !kind.offers("create"), "{kind:?} has no sample");
    }
}

#[test]
fn the_least_object_of_every_kind_is_stored_and_told_again_as_it_was() {
    for sample in samples() {
        let kind = row(&sample);
        let created = made(kind, body(&sample)).unwrap_or_else(|status| panic!("{kind:?}: {status}"));
        assert_eq!(created["kind"], kind.kind);
        if kind.is_virtual {
            continue;
        }
        let draft = kind.draft(&created).unwrap();
        let stored = draft.commit(protocol::Revision(7), None).value().unwrap();
        assert_eq!(stored["kind"], kind.stored_row().kind);
        assert_eq!(stored["apiVersion"], kind.stored_row().api_version());
        let mut told = kind.served(stored.clone());
        told["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        assert_eq!(told, created, "{kind:?}");
        // A second round changes nothing: defaults are complete, and the object is valid as stored.
        let again = update(kind, &created, created.clone()).unwrap_or_else(|status| panic!("{kind:?}: {status}"));
        assert_eq!(again["spec"], created["spec"], "{kind:?}");
        assert_eq!(
            again["metadata"]["generation"], created["metadata"]["generation"],
            "{kind:?}"
        );
    }
}

#[test]
fn every_kind_prints_a_table_with_its_name() {
    for sample in samples() {
        let kind = row(&sample);
        let created = made(kind, body(&sample)).unwrap();
        let table = table(kind, std::iter::once(&created), json!({}), IncludeObject::None, NOW);
        let cells = table["rows"][0]["cells"].as_array().unwrap();
        assert_eq!(cells.len(), kind.columns.len(), "{kind:?}");
        let named = kind.columns.iter().position(|column| column.format == "name").unwrap();
        if !kind.is_virtual {
            assert_eq!(cells[named], created["metadata"]["name"], "{kind:?}");
        }
        for (cell, column) in cells.iter().zip(kind.columns) {
            let fits = match column.kind {
                "integer" => cell.is_i64(),
                "boolean" => cell.is_boolean(),
                _ => cell.is_string() || column.kind == "date",
            };
            assert!(fits, "{kind:?} {}: {cell}", column.name);
        }
    }
}

#[test]
fn what_a_kind_demands_is_said_as_kubernetes_says_it() {
    let mut wrong = Vec::new();
    for sample in samples() {
        let kind = row(&sample);
        for (pointer, value, expected) in &sample.refused {
            match made(kind, with(body(&sample), pointer, value.clone())) {
                Err(status) if status.code == 422 && says(&status, expected) => {}
                other => wrong.push(format!(
                    "{kind:?} {pointer} = {value}\n  expected {expected}\n  got      {other:?}"
                )),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn says(status: &api::Status, expected: &str) -> bool {
    let causes = &status.details.causes;
    causes.iter().any(|cause| cause.to_string() == expected)
}

#[test]
fn what_must_not_change_is_said_as_kubernetes_says_it() {
    let mut wrong = Vec::new();
    for sample in samples() {
        let kind = row(&sample);
        for (pointer, value, expected) in &sample.fixed {
            let created = create(kind, body(&sample)).unwrap();
            match update(kind, &created, with(created.clone(), pointer, value.clone())) {
                Err(status) if status.code == 422 && begins(&status, expected) => {}
                other => wrong.push(format!(
                    "{kind:?} {pointer} = {value}\n  expected {expected}\n  got      {other:?}"
                )),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn begins(status: &api::Status, expected: &str) -> bool {
    let causes = &status.details.causes;
    causes.iter().any(|cause| cause.to_string().starts_with(expected))
}

#[test]
fn every_kind_is_discovered_and_documented() {
    let rows: Vec<&'static Kind> = kinds::kinds().iter().collect();
    let v2 = openapi::v2(&rows);
    for kind in kinds::kinds() {
        let list = discovery::resources(&rows, kind.group, kind.version).unwrap();
        let entries = list["resources"].as_array().unwrap();
        let entry = entries.iter().find(|entry| entry["name"] == kind.plural).unwrap();
        assert_eq!(entry["verbs"], json!(kind.verbs), "{kind:?}");
        for subresource in kind.subresources {
            let name = format!("{}/{}", kind.plural, subresource.name());
            assert!(entries.iter().any(|entry| entry["name"] == name), "{name}");
        }
        let path = if kind.group.is_empty() {
            format!("api/{}", kind.version)
        } else {
            format!("apis/{}/{}", kind.group, kind.version)
        };
        let v3 = openapi::v3(&rows, &path).unwrap();
        let schema = &v3["components"]["schemas"][kind.definition];
        assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], kind.kind);
        assert!(v2["definitions"][kind.definition].is_object(), "{kind:?}");
        let collection = if kind.namespaced {
            format!("/{path}/namespaces/{{namespace}}/{}", kind.plural)
        } else {
            format!("/{path}/{}", kind.plural)
        };
        for (document, what) in [(&v3, "v3"), (&v2, "v2")] {
            let item = &document["paths"][&collection];
            for (method, verb) in [("get", "list"), ("post", "create"), ("delete", "deletecollection")] {
                assert_eq!(
                    item[method].is_object(),
                    kind.offers(verb),
                    "{collection} {method} {what}"
                );
            }
        }
    }
}

/// The paths of all fields that a definition reaches, each definition visited once.
fn paths(definition: &str) -> BTreeSet<String> {
    fn visit(definition: &str, path: &str, known: &mut BTreeSet<String>, found: &mut BTreeSet<String>) {
        let Some(definition) = Schemas::built_in().definition(definition) else {
            return;
        };
        if !known.insert(definition.name.to_owned()) {
            return;
        }
        for field in &definition.fields {
            let path = format!("{path}.{}", field.name);
            let mut shape = &field.shape;
            loop {
                match shape {
                    Shape::List(list) => shape = &list.item,
                    Shape::Map(map) => shape = &map.value,
                    Shape::Struct(name) => break visit(name, &path, known, found),
                    _ => break,
                }
            }
            found.insert(path);
        }
    }
    let mut found = BTreeSet::new();
    visit(definition, "", &mut BTreeSet::new(), &mut found);
    found
}

#[test]
fn versions_that_are_only_renamed_have_the_fields_of_the_stored_one() {
    let mut wrong = Vec::new();
    for kind in kinds::kinds().iter().filter(|kind| kind.conversion.is_some()) {
        if CONVERTED.contains(&(kind.api_version().as_str(), kind.kind)) {
            continue;
        }
        let (served, stored) = (paths(kind.definition), paths(kind.stored_row().definition));
        let lost: Vec<&String> = served.difference(&stored).collect();
        if !lost.is_empty() {
            wrong.push(format!("{kind:?} loses {lost:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_resource_is_stored_in_one_version() {
    let mut known = BTreeSet::new();
    for kind in kinds::stored_kinds() {
        assert!(known.insert(kind.resource().to_string()), "{kind:?}");
        assert_eq!(kinds::find_by_resource(&kind.resource()), Some(kind));
    }
    for kind in kinds::kinds().iter().filter(|kind| kind.conversion.is_some()) {
        assert_eq!(kind.stored_row().resource(), kind.resource(), "{kind:?}");
        assert!(kind.stored_row().conversion.is_none(), "{kind:?}");
    }
}
