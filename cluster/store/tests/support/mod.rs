//! Objects, proposals and random histories for the store's tests.
#![allow(dead_code)] // each test program uses a part of it

use proptest::prelude::*;
use protocol::store::{Precondition, Proposal, Write};
use protocol::{Cause, Draft, Key, Revision};
use serde_json::json;

/// A small object whose content is `value`.
pub fn draft(key: &Key, value: u32) -> Draft {
    let object = json!({
        "apiVersion": "v1", "kind": "Thing",
        "metadata": {
            "name": &*key.name, "namespace": &*key.namespace, "uid": format!("uid-{}", key.name),
            "labels": {"parity": if value.is_multiple_of(2) { "even" } else { "odd" }},
        },
        "spec": {"value": value, "text": "\"metadata\":{\"resourceVersion\":\"7\"}"},
    });
    Draft::encode(&object, vec![("spec.value".to_owned(), value.to_string())]).unwrap()
}

pub fn put(key: &Key, precondition: Precondition, value: u32) -> Write {
    Write::Put {
        key: key.clone(),
        precondition,
        draft: draft(key, value),
    }
}

pub fn delete(key: &Key, precondition: Precondition) -> Write {
    Write::Delete {
        key: key.clone(),
        precondition,
    }
}

pub fn proposal(writes: Vec<Write>) -> Proposal {
    Proposal {
        cause: Cause(7),
        writes,
    }
}

pub fn one(write: Write) -> Proposal {
    Proposal::one(Cause(7), write)
}

pub fn pod(name: &str) -> Key {
    Key::new("pods", "default", name)
}

/// A step of a random history.
#[derive(Clone, Debug)]
pub enum Step {
    Apply(Vec<Proposal>),
    Compact(u64),
    Reopen,
}

fn key() -> impl Strategy<Value = Key> {
    (0..3usize, 0..3usize, 0..4usize).prop_map(|(resource, namespace, name)| {
        Key::new(
            ["pods", "podsx", "deployments.apps"][resource],
            ["", "a", "ab"][namespace],
            ["n", "n1", "n-2", "z"][name],
        )
    })
}

fn write() -> impl Strategy<Value = Write> {
    let precondition = prop_oneof![
        3 => Just(Precondition::None),
        3 => Just(Precondition::Absent),
        3 => (0..30u64).prop_map(|revision| Precondition::Revision(Revision(revision))),
    ];
    (key(), precondition, 0..4u32, 0..4u32).prop_map(|(key, precondition, value, choice)| {
        if choice == 0 {
            delete(&key, precondition)
        } else {
            put(&key, precondition, value)
        }
    })
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let proposals = prop::collection::vec(prop::collection::vec(write(), 0..3).prop_map(proposal), 1..4);
    let step = prop_oneof![
        12 => proposals.prop_map(Step::Apply),
        1 => (0..40u64).prop_map(Step::Compact),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..25)
}
