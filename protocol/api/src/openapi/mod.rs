//! OpenAPI documents, made from k8s-openapi's own schemas and the table of kinds: `/openapi/v3`, one document a group
//! version, and the one document of `/openapi/v2`. kubectl reads them to explain fields, to learn that the server
//! validates, and to compute strategic merge patches.
//!
//! A document is built when somebody asks and is not kept: the schemas' texts are megabytes, and clients keep what they
//! got by its hash. The hash is that of the table's rows and of this crate's version, so asking for it builds nothing.

mod operations;
mod schemas;
mod v2;
mod v2_protobuf;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::discovery::{KUBERNETES_MAJOR, KUBERNETES_MINOR};
use crate::kinds::Kind;

pub use v2::document as v2;

/// The document of `/openapi/v2` in the encoding that `accept` asks for: the content type and the body.
pub fn v2_encoded(document: &Value, accept: &str) -> (&'static str, Vec<u8>) {
    // Clients ask with `@` before the version, which is no valid media type, or with a dot.
    if accept.contains("com.github.proto-openapi.spec.v2") {
        (v2_protobuf::CONTENT_TYPE, v2_protobuf::encode(document))
    } else {
        ("application/json", document.to_string().into_bytes())
    }
}

/// `/openapi/v3`: where each group version's document is.
pub fn v3_index(rows: &[&'static Kind]) -> Value {
    let mut paths = Map::new();
    for kind in rows {
        let path = path_of(kind);
        if !paths.contains_key(&path) {
            let url = format!("/openapi/v3/{path}?hash={}", hash(rows, kind.group, kind.version));
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

/// `/openapi/v3/{path}`, the path as in the index (`api/v1`, `apis/apps/v1`); `None` when there is no such document.
pub fn v3(rows: &[&'static Kind], path: &str) -> Option<Value> {
    let rows: Vec<&Kind> = rows.iter().copied().filter(|kind| path_of(kind) == path).collect();
    if rows.is_empty() {
        return None;
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": format!("v{KUBERNETES_MAJOR}.{KUBERNETES_MINOR}.0")},
        "paths": operations::paths(&rows),
        "components": {"schemas": schemas::of(&rows)},
    }))
}

/// A text that changes when the document of this group version does: for the index, and for an `ETag`.
pub fn hash(rows: &[&'static Kind], group: &str, version: &str) -> String {
    let mut digest = Sha256::new();
    digest.update(env!("CARGO_PKG_VERSION"));
    digest.update(KUBERNETES_MINOR);
    for kind in rows
        .iter()
        .filter(|kind| kind.group == group && kind.version == version)
    {
        digest.update(format!(
            "{}/{}/{}/{:?};",
            kind.group, kind.version, kind.kind, kind.subresources
        ));
        if let Some(custom) = kind.definition_now() {
            digest.update(custom.published.to_string());
        }
    }
    hex::encode_upper(digest.finalize())
}

/// The document that a kind is in.
fn path_of(kind: &Kind) -> String {
    if kind.group.is_empty() {
        format!("api/{}", kind.version)
    } else {
        format!("apis/{}/{}", kind.group, kind.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Access;
    use crate::kinds::kinds;

    fn rows() -> Vec<&'static Kind> {
        kinds().iter().collect()
    }

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    match member.as_str() {
                        Some(target) if name == "$ref" => found.push(target.to_owned()),
                        _ => references(member, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_of_every_document_leads_somewhere() {
        for path in v3_index(&rows()).members("paths").map(|(path, _)| path.clone()) {
            let document = v3(&rows(), &path).unwrap();
            let mut found = Vec::new();
            references(&document, &mut found);
            assert!(!found.is_empty());
            for reference in found {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference} in {path}");
            }
        }
        let document = v2(&rows());
        let mut found = Vec::new();
        references(&document, &mut found);
        for reference in found {
            assert!(
                document.pointer(reference.strip_prefix('#').unwrap()).is_some(),
                "{reference} in v2"
            );
        }
    }

    #[test]
    fn a_patch_of_every_kind_takes_field_validation_so_that_kubectl_leaves_it_to_the_server() {
        for kind in kinds().iter().filter(|kind| kind.offers("patch")) {
            let document = v3(&rows(), &path_of(kind)).unwrap();
            let supported = document.members("paths").any(|(_, item)| {
                let operation = item.at(&["patch"]);
                operation.at(&["x-kubernetes-group-version-kind"]).text("kind") == kind.kind
                    && operation
                        .items("parameters")
                        .iter()
                        .any(|parameter| parameter.text("name") == "fieldValidation")
            });
            assert!(supported, "{}", kind.kind);
        }
    }

    #[test]
    fn merge_keys_are_printed_where_kubectl_looks_for_them() {
        let document = v3(&rows(), "api/v1").unwrap();
        let schema = |name: &str| document.at(&["components", "schemas", name]).clone();
        let containers = schema("io.k8s.api.core.v1.PodSpec")["properties"]["containers"].clone();
        assert_eq!(containers.text("x-kubernetes-patch-merge-key"), "name");
        assert_eq!(containers.text("x-kubernetes-patch-strategy"), "merge");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        let volumes = schema("io.k8s.api.core.v1.PodSpec")["properties"]["volumes"].clone();
        assert_eq!(volumes.text("x-kubernetes-patch-strategy"), "merge,retainKeys");
        let pod = schema("io.k8s.api.core.v1.Pod");
        assert_eq!(
            pod["x-kubernetes-group-version-kind"],
            json!([{"group": "", "version": "v1", "kind": "Pod"}])
        );
        assert_eq!(pod.get("required"), None);
        assert_eq!(schema("io.k8s.api.core.v1.PodList")["required"], json!(["items"]));
    }

    #[test]
    fn the_older_document_is_encoded_as_the_client_asks() {
        let asked = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
        let (content_type, body) = v2_encoded(&v2(&rows()), asked);
        assert_eq!(
            content_type,
            "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
        );
        assert!(body.starts_with(b"\x0a\x032.0"));
        assert_eq!(v2_encoded(&v2(&rows()), "application/json").0, "application/json");
    }

    #[test]
    fn hashes_differ_between_group_versions_and_stay_between_calls() {
        assert_eq!(hash(&rows(), "apps", "v1"), hash(&rows(), "apps", "v1"));
        assert_ne!(hash(&rows(), "apps", "v1"), hash(&rows(), "", "v1"));
    }
}
