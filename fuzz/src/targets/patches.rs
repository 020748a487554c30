//! Patches of every type against a stored object of every kind.

use api::write::{PatchType, apply_patch, prepare_create, prepare_update, server_side_apply};
use serde_json::{Value, json};
use std::sync::OnceLock;

use super::{FIELDS, context, kind_of, namespace_of, objects, refused};
use crate::engine::{Outcome, Target};
use crate::mutation::Shape;

/// A patch, with the number of the object that it is for.
pub const PATCH: Target = Target {
    name: "patch",
    shape: Shape::Json,
    seeds,
    dictionary: FIELDS,
    run: patched,
};

/// Objects as they are stored.
fn stored() -> &'static [Value] {
    static STORED: OnceLock<Vec<Value>> = OnceLock::new();
    STORED.get_or_init(|| {
        let made = objects().into_iter().filter_map(|object| {
            let kind = kind_of(&object).filter(|kind| !kind.is_virtual)?;
            let written = prepare_create(kind, namespace_of(kind), object, &context(&[]));
            let mut object = written.expect("a sample can be created").object;
            object["metadata"]["resourceVersion"] = "7".into();
            Some(object)
        });
        made.collect()
    })
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (at, object) in stored().iter().enumerate() {
        let mut applied = object.clone();
        for name in ["managedFields", "uid", "creationTimestamp", "generation"] {
            applied["metadata"].as_object_mut().expect("metadata").remove(name);
        }
        seeds.push(json!({"of": at, "patch": applied}));
    }
    let pod = stored()
        .iter()
        .position(|object| object["kind"] == "Pod")
        .expect("a pod is among the samples");
    for patch in [
        json!([
            {"op": "test", "path": "/kind", "value": "Pod"}, {"op": "add", "path": "/spec/containers/-", "value": {"name": "b"}},
            {"op": "copy", "from": "/spec", "path": "/metadata/labels"}, {"op": "move", "from": "/spec/containers/0", "path": "/spec/initContainers"},
            {"op": "remove", "path": "/metadata/name"}, {"op": "replace", "path": "", "value": {}}
        ]),
        json!({"metadata": {"labels": {"a": null, "b": "c"}, "finalizers": ["x/y"], "$deleteFromPrimitiveList/finalizers": ["z/z"]}}),
        json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}], "$setElementOrder/containers": [{"name": "a"}],
            "$retainKeys": ["containers"]}}),
        json!({"spec": {"$patch": "replace", "containers": [{"name": "a", "image": "b", "ports": [{"containerPort": 1, "protocol": "TCP"}]}]}}),
    ] {
        seeds.push(json!({"of": pod, "patch": patch}));
    }
    seeds.iter().map(|seed| seed.to_string().into_bytes()).collect()
}

fn patched(bytes: &[u8]) -> Outcome {
    let Ok(parsed) = api::decode::json(bytes) else {
        return Outcome(0);
    };
    let at = parsed.value["of"].as_u64().unwrap_or(0) as usize;
    let (old, patch) = (&stored()[at % stored().len()], &parsed.value["patch"]);
    let kind = kind_of(old).expect("it was found before");
    let mut outcomes = Vec::new();
    for patch_type in [PatchType::Json, PatchType::Merge, PatchType::Strategic] {
        let written = apply_patch(kind, patch_type, old, patch)
            .and_then(|new| prepare_update(kind, None, old, new, &context(&[])));
        match written {
            Ok(written) => {
                kind.draft(&written.object)
                    .expect("an object that passed validation can be stored");
                outcomes.push(Outcome(0));
            }
            Err(status) => outcomes.push(refused(&status)),
        }
    }
    if patch.is_object() {
        match server_side_apply(kind, None, Some(old), patch.clone(), true, &context(&[])) {
            Ok(written) => {
                let draft = kind.draft(&written.object);
                draft.expect("an object that passed validation can be stored");
                outcomes.push(Outcome(0));
            }
            Err(status) => outcomes.push(refused(&status)),
        }
    }
    // The answers together, in their order.
    Outcome(outcomes.iter().fold(1, |all, one| all.rotate_left(7) ^ one.0))
}
