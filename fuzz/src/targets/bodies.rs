//! Bodies of creates in the three encodings that are read: decoded, and taken through defaults, validation and all that is made of
//! a stored object.

use api::decode::{self, Parsed};
use api::status::Status;
use api::table::{IncludeObject, table};
use api::write::prepare_create;
use protocol::{Revision, UnixMillis};
use serde_json::{Value, json};

use super::{FIELDS, context, kind_of, namespace_of, objects, refused};
use crate::engine::{Outcome, Target};
use crate::mutation::Shape;

/// `application/json`.
pub const JSON_BODY: Target = Target {
    name: "json_body",
    shape: Shape::Json,
    seeds: || objects().iter().map(|object| object.to_string().into_bytes()).collect(),
    dictionary: FIELDS,
    run: |bytes| created(decode::json(bytes)),
};

/// `application/yaml`.
pub const YAML_BODY: Target = Target {
    name: "yaml_body",
    shape: Shape::Text,
    seeds: yaml_seeds,
    dictionary: FIELDS,
    run: |bytes| created(decode::yaml(bytes)),
};

/// `application/vnd.kubernetes.protobuf`.
pub const PROTOBUF_BODY: Target = Target {
    name: "protobuf_body",
    shape: Shape::Bytes,
    seeds: || {
        // As kubectl sent them.
        vec![
            include_bytes!("../../../protocol/api/tests/fixture/protobuf/deployment.bin").to_vec(),
            include_bytes!("../../../protocol/api/tests/fixture/protobuf/service.bin").to_vec(),
            include_bytes!("../../../protocol/api/tests/fixture/protobuf/secret.bin").to_vec(),
        ]
    },
    dictionary: &[],
    run: |bytes| created(decode::protobuf(bytes)),
};

/// Texts that use what YAML has and JSON has not, and some objects in blocks.
fn yaml_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  labels: &l {a: b}\n  annotations: *l\ndata:\n  text: |-\n    one\n    two\n  folded: >\n    x\n    y\n",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: c\n    image: \"x\"\n    command: [sh, -c, 'sleep 1']\n    ports:\n    - {containerPort: 0x50}\n",
        "%YAML 1.2\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: 'w'\nspec:\n  replicas: 0o17\n  selector: {matchLabels: {a: 'yes'}}\n  template:\n    metadata: {labels: {a: 'yes'}}\n    spec: {containers: [{name: c, image: i}]}\n...\n",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {k: !!binary aGk=}\nstringData: {<<: {x: ~}, y: .inf}\n",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// What comes of a body that is posted to the collection of the kind that it names.
fn created(parsed: Result<Parsed, Status>) -> Outcome {
    let parsed = match parsed {
        Ok(parsed) => parsed,
        Err(status) => return refused(&status),
    };
    let Some(kind) = kind_of(&parsed.value) else {
        return Outcome(0);
    };
    let context = context(&parsed.duplicate_fields);
    let object = match prepare_create(kind, namespace_of(kind), parsed.value, &context) {
        Ok(written) => written.object,
        Err(status) => return refused(&status),
    };
    if kind.is_virtual {
        return Outcome(1);
    }
    let draft = kind
        .draft(&object)
        .expect("an object that passed validation can be stored");
    let stored = draft.commit(Revision(7), None);
    let told: Value = stored.value().expect("what is stored is JSON");
    assert_eq!(told["metadata"]["resourceVersion"], "7");
    let served = kind.served(told);
    let rows = table(
        kind,
        std::iter::once(&served),
        json!({}),
        IncludeObject::Metadata,
        UnixMillis(1_767_225_700_000),
    );
    assert_eq!(rows["rows"].as_array().map(Vec::len), Some(1));
    Outcome::of(kind.kind)
}
