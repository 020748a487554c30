//! Other servers' part of `/openapi/v2`: the paths below the group and version that they answer for, and the definitions that
//! those use. Pure.
//!
//! After kube-openapi's `pkg/aggregator`: of two definitions of one name that differ, the later one gets another name.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// How references to definitions begin.
const PREFIX: &str = "#/definitions/";

/// Merges what another server's document says of its group and version into this server's. What is there already stays.
pub(super) fn merge(document: &mut Value, other: &Value, group: &str, version: &str) {
    let base = format!("/apis/{group}/{version}");
    let is_below = |path: &str| {
        path.strip_prefix(&base)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let empty = Map::new();
    let paths = other["paths"].as_object().unwrap_or(&empty);
    let mut paths: Map<String, Value> = paths
        .iter()
        .filter(|(path, _)| is_below(path))
        .map(|(path, item)| (path.clone(), item.clone()))
        .collect();
    let theirs = other["definitions"].as_object().unwrap_or(&empty);
    let mut used = used_of(paths.values(), theirs);
    let renamed = {
        let ours = document["definitions"].as_object().unwrap_or(&empty);
        renamed(&used, ours)
    };
    for value in paths.values_mut().chain(used.values_mut()) {
        rename(value, &renamed);
    }
    let mut into = |field: &str, entries: Map<String, Value>| {
        if !document[field].is_object() {
            document[field] = Map::new().into();
        }
        if let Some(known) = document[field].as_object_mut() {
            for (name, value) in entries {
                known.entry(name).or_insert(value);
            }
        }
    };
    into("paths", paths);
    let used = used.into_iter().map(|(name, value)| {
        let name = renamed.get(&name).cloned().unwrap_or(name);
        (name, value)
    });
    into("definitions", used.collect());
}

/// The definitions that are referred to from some values, and from those in turn.
fn used_of<'v>(from: impl Iterator<Item = &'v Value>, all: &Map<String, Value>) -> BTreeMap<String, Value> {
    let mut names = BTreeSet::new();
    from.for_each(|value| references(value, &mut names));
    let mut used = BTreeMap::new();
    while let Some(name) = names.pop_first() {
        let Some(definition) = all.get(&name).filter(|_| !used.contains_key(&name)) else {
            continue;
        };
        references(definition, &mut names);
        used.insert(name, definition.clone());
    }
    used
}

fn references(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(name, member)| match (name.as_str(), member) {
            ("$ref", Value::String(reference)) => {
                names.extend(reference.strip_prefix(PREFIX).map(str::to_owned));
            }
            _ => references(member, names),
        }),
        Value::Array(items) => items.iter().for_each(|item| references(item, names)),
        _ => {}
    }
}

/// New names for definitions whose names mean something else already.
fn renamed(theirs: &BTreeMap<String, Value>, ours: &Map<String, Value>) -> BTreeMap<String, String> {
    let mut renamed = BTreeMap::new();
    for (name, definition) in theirs {
        if ours.get(name).is_none_or(|known| known == definition) {
            continue;
        }
        let free = (2_u32..)
            .map(|number| format!("{name}_v{number}"))
            .find(|free| !ours.contains_key(free) && !theirs.contains_key(free));
        renamed.extend(free.map(|free| (name.clone(), free)));
    }
    renamed
}

fn rename(value: &mut Value, renamed: &BTreeMap<String, String>) {
    match value {
        Value::Object(members) => members
            .iter_mut()
            .for_each(|(name, member)| match (name.as_str(), member) {
                ("$ref", Value::String(reference)) => {
                    if let Some(new) = reference.strip_prefix(PREFIX).and_then(|name| renamed.get(name)) {
                        *reference = format!("{PREFIX}{new}");
                    }
                }
                (_, member) => rename(member, renamed),
            }),
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, renamed)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_come_with_the_definitions_that_they_use() {
        let reference = |name: &str| json!({"$ref": format!("{PREFIX}{name}")});
        let mut document = json!({
            "paths": {"/apis/apps/v1/": {"get": {}}},
            "definitions": {"Meta": {"type": "object"}, "Time": {"type": "string"}},
        });
        let other = json!({
            "paths": {
                "/apis/g/v1/fish": {"get": {"schema": reference("Fish")}},
                "/apis/g/v10/fish": {"get": {}},
                "/apis/apps/v1/": {"get": {"not": "theirs"}},
                "/api/v1/pods": {"get": {"schema": reference("Pod")}},
            },
            "definitions": {
                "Fish": {"properties": {"meta": reference("Meta"), "at": reference("Time"), "in": [reference("Fish")]}},
                "Meta": {"type": "object", "title": "another one"},
                "Time": {"type": "string"},
                "Pod": {},
            },
        });
        merge(&mut document, &other, "g", "v1");
        assert_eq!(
            document,
            json!({
                "paths": {
                    "/apis/apps/v1/": {"get": {}},
                    "/apis/g/v1/fish": {"get": {"schema": reference("Fish")}},
                },
                "definitions": {
                    "Meta": {"type": "object"},
                    "Meta_v2": {"type": "object", "title": "another one"},
                    "Time": {"type": "string"},
                    "Fish": {"properties": {"meta": reference("Meta_v2"), "at": reference("Time"), "in": [reference("Fish")]}},
                },
            })
        );
        let again = document.clone();
        merge(&mut document, &json!({"paths": 7}), "g", "v1");
        assert_eq!(document, again, "what is no document adds nothing");
    }
}
