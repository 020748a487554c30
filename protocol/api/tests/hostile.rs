//! Anything may come in: it is answered, never with a panic.
#![allow(missing_docs, clippy::disallowed_methods)] // one test bounds its own time

mod fixture;
mod samples;

use api::decode;
use api::kinds::kinds;
use api::table::{IncludeObject, table};
use api::write::{
    DeleteOptions, FieldValidation, PatchType, WriteContext, apply_patch, begin_deletion, prepare_create,
    prepare_update, prepare_virtual, scale_of, server_side_apply, set_scale,
};
use fixture::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn lenient() -> WriteContext<'static> {
    WriteContext {
        field_validation: FieldValidation::Ignore,
        ..context("test")
    }
}

/// Every path through the crate that takes an object.
fn everything(object: &Value) {
    for kind in kinds() {
        let namespace = if kind.namespaced { "default" } else { "" };
        let ctx = lenient();
        let created = prepare_create(kind, namespace, object.clone(), &ctx);
        let _ = server_side_apply(kind, None, None, object.clone(), true, &ctx);
        for old in [Some(object), created.as_ref().ok().map(|written| &written.object)]
            .into_iter()
            .flatten()
        {
            for subresource in std::iter::once(None).chain(kind.subresources.iter().copied().map(Some)) {
                let _ = prepare_update(kind, subresource, old, object.clone(), &ctx);
                let _ = server_side_apply(kind, subresource, Some(old), object.clone(), false, &ctx);
            }
        }
        let _ = scale_of(kind, object);
        let _ = set_scale(kind, object, object);
        let _ = begin_deletion(
            kind,
            object,
            &DeleteOptions::from_value(object).unwrap_or_default(),
            NOW,
        );
        let _ = table(kind, std::iter::once(object), json!({}), IncludeObject::Metadata, NOW);
        let _ = kind.fields(object);
        let _ = kind.draft(object);
        let _ = kind.served(object.clone());
        let _ = prepare_virtual(kind, namespace, object.clone(), &ctx);
    }
}

#[test]
fn deep_nesting_is_refused_by_the_decoder() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let text = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        assert_eq!(decode::json(text.as_bytes()).unwrap_err().code, 400);
    }
    let yaml = "[".repeat(100_000);
    assert_eq!(decode::yaml(yaml.as_bytes()).unwrap_err().code, 400);
}

#[test]
fn yaml_bombs_and_broken_texts_are_refused() {
    let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (level, name) in ["b", "c", "d", "e", "f", "g", "h", "i"].iter().enumerate() {
        let before = ["a", "b", "c", "d", "e", "f", "g", "h"][level];
        bomb.push_str(&format!(
            "{name}: &{name} [{}]\n",
            vec![format!("*{before}"); 9].join(",")
        ));
    }
    assert_eq!(decode::yaml(bomb.as_bytes()).unwrap_err().code, 400);
    for text in ["", "{", "{\"a\":1}}", "\"", "{\"a\":}", "\u{0}"] {
        assert_eq!(decode::json(text.as_bytes()).unwrap_err().code, 400, "{text:?}");
    }
    assert_eq!(decode::json(&[0xff, 0xfe]).unwrap_err().code, 400);
    assert_eq!(decode::yaml(b"a: [1\nb: }").unwrap_err().code, 400);
}

#[test]
fn duplicate_fields_are_noticed_wherever_they_stand() {
    let parsed = decode::json(br#"{"a":1,"b":{"c":1,"c":2},"d":[{"e":1,"e":1}],"a":3}"#).unwrap();
    assert_eq!(parsed.duplicate_fields, ["b.c", "d[0].e", "a"]);
    assert_eq!(parsed.value, json!({"a": 3, "b": {"c": 2}, "d": [{"e": 1}]}));
}

#[test]
fn yaml_is_read_as_kubernetes_reads_it() {
    let parsed = decode::yaml(b"a: 1\nb: {1: x, true: y}\nc: [yes, 'no', null, 1.5]\na: 2\n").unwrap();
    assert_eq!(
        parsed.value,
        json!({"a": 2, "b": {"1": "x", "true": "y"}, "c": ["yes", "no", null, 1.5]})
    );
    assert_eq!(parsed.duplicate_fields, ["a"]);
    assert_eq!(decode::yaml(b" {\"a\": 1, \"a\": 2}").unwrap().duplicate_fields, ["a"]);
    assert_eq!(decode::yaml(b"{a: 1}").unwrap().value, json!({"a": 1}));
    assert_eq!(decode::body("text/plain", b"").unwrap_err().code, 415);
    assert_eq!(
        decode::body("application/json; charset=utf-8", b"{}").unwrap().value,
        json!({})
    );
}

#[test]
fn huge_numbers_and_texts_are_answered() {
    let huge = [
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1e308),
        json!("9".repeat(100_000)),
        json!("99999999999999999999Ei"),
        json!("1e999999999"),
        json!("-"),
        json!("\u{1F980}".repeat(300)),
    ];
    for value in huge {
        for pointer in [
            "/metadata/name",
            "/metadata/generateName",
            "/metadata/generation",
            "/metadata/deletionGracePeriodSeconds",
            "/metadata/managedFields",
            "/spec/replicas",
            "/spec/terminationGracePeriodSeconds",
            "/spec/nodeName",
            "/spec/template/spec/containers/0/image",
        ] {
            everything(&with(deployment(), pointer, value.clone()));
        }
        let object = with(
            pod(),
            "/spec/containers/0/resources",
            json!({"requests": {"cpu": value}, "limits": {"cpu": "1"}}),
        );
        everything(&object);
        everything(&with(pod(), "/spec/terminationGracePeriodSeconds", value));
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        Just(json!("x")),
    ];
    let names = "apiVersion|kind|metadata|spec|status|name|labels|containers|ports|template|selector|matchLabels|env|data|\
                 volumes|image|managedFields|fieldsV1|finalizers|ownerReferences|strategy|rollingUpdate|resources|limits";
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(names, inner, 0..6).prop_map(|map| json!(map)),
        ]
    })
}

/// A deployment or pod with something odd somewhere.
fn nearly_right() -> impl Strategy<Value = Value> {
    let pointers = prop::sample::select(vec![
        "/metadata",
        "/metadata/name",
        "/metadata/labels",
        "/metadata/ownerReferences",
        "/metadata/finalizers",
        "/metadata/managedFields",
        "/spec",
        "/spec/selector",
        "/spec/selector/matchLabels",
        "/spec/template",
        "/spec/template/metadata",
        "/spec/template/spec",
        "/spec/template/spec/containers",
        "/spec/template/spec/containers/0",
        "/spec/template/spec/containers/0/env",
        "/spec/template/spec/containers/0/ports/0",
        "/spec/template/spec/containers/0/livenessProbe",
        "/spec/template/spec/affinity",
        "/spec/template/spec/volumes",
        "/spec/strategy",
        "/status",
    ]);
    (pointers, json_value()).prop_map(|(pointer, value)| with(deployment(), pointer, value))
}

proptest! {
    #[test]
    fn no_value_panics(value in json_value()) {
        everything(&value);
    }

    #[test]
    fn no_nearly_right_object_panics(object in nearly_right()) {
        everything(&object);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = decode::json(&bytes);
        let _ = decode::yaml(&bytes);
    }

    #[test]
    fn what_was_created_is_accepted_again_and_stays_as_it_is(object in nearly_right()) {
        let Ok(created) = create(deployments(), object) else { return Ok(()) };
        let again = update(deployments(), &created, created.clone()).unwrap();
        prop_assert_eq!(again, created);
    }
}

/// A megabyte of list items or map entries must cost no more than its length.
#[test]
fn long_lists_and_maps_take_no_quadratic_time() {
    let started = std::time::Instant::now();
    let count = 30_000;
    let env: Vec<Value> = (0..count)
        .map(|i| json!({"name": format!("V{i}"), "value": "x"}))
        .collect();
    let object = with(deployment(), "/spec/template/spec/containers/0/env", json!(env));
    let created = create(deployments(), object.clone()).unwrap();
    let reversed: Vec<Value> = env
        .iter()
        .rev()
        .map(|item| json!({"name": item["name"], "value": "y"}))
        .collect();
    let order: Vec<Value> = reversed.iter().map(|item| json!({"name": item["name"]})).collect();
    let patch = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "nginx", "env": reversed, "$setElementOrder/env": order},
    ]}}}});
    let patched = api::write::apply_patch(deployments(), api::write::PatchType::Strategic, &created, &patch).unwrap();
    let updated = update(deployments(), &created, patched).unwrap();
    let applied = server_side_apply(deployments(), None, Some(&updated), object, true, &context("a"));
    // Every apply without a namespace is placed into the stored object's.
    assert!(applied.is_ok(), "{applied:?}");
    let names: Vec<String> = (0..count).map(|i| format!("a.io/{i}")).collect();
    let finalizers = with(pod(), "/metadata/finalizers", json!(names));
    let first = create(pods(), finalizers).unwrap();
    let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": names, "finalizers": names}});
    api::write::apply_patch(pods(), api::write::PatchType::Strategic, &first, &patch).unwrap();
    let bad: Vec<Value> = (0..count)
        .map(|i| json!({"name": format!("C{i}"), "image": ""}))
        .collect();
    assert_eq!(
        create(pods(), with(pod(), "/spec/containers", json!(bad)))
            .unwrap_err()
            .code,
        422
    );
    let data: serde_json::Map<String, Value> = (0..count).map(|i| (format!("k{i}"), json!(""))).collect();
    let row = kind("v1", "ConfigMap");
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data});
    let created = create(row, map).unwrap();
    update(row, &created, with(created.clone(), "/data", json!({"z": "z"}))).unwrap();
    // Linear, all of this takes well under a second; quadratic, minutes.
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

/// How many values a tree has.
fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Object(members) => 1 + members.values().map(count).sum::<usize>(),
        _ => 1,
    }
}

/// Puts something else in the place of the `at`th value of a tree.
fn replace(value: &mut Value, at: &mut usize, with: &Value) {
    if *at == 0 {
        *value = with.clone();
        *at = usize::MAX;
        return;
    }
    *at = at.saturating_sub(1);
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| {
            if *at < usize::MAX / 2 {
                replace(item, at, with);
            }
        }),
        Value::Object(members) => members.values_mut().for_each(|member| {
            if *at < usize::MAX / 2 {
                replace(member, at, with);
            }
        }),
        _ => {}
    }
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!({})),
        Just(json!([])),
        Just(json!([null])),
        Just(json!([{}, [], "", 0])),
        Just(json!({"a": null, "": [], "matchLabels": 1, "name": {}})),
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        "[-*/:.%0-9a-zA-Z \u{e9}]{0,12}".prop_map(Value::from),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// The least object of a kind, damaged in two places, goes every way that an object can go.
    #[test]
    fn damaged_objects_of_every_kind_are_answered(
        which in any::<prop::sample::Index>(), first in any::<prop::sample::Index>(), second in any::<prop::sample::Index>(),
        one in leaf(), other in leaf(),
    ) {
        let all = samples::samples();
        let sample = which.get(&all);
        let kind = kind(sample.api_version, sample.kind);
        let whole = sample.object.clone();
        let mut object = whole.clone();
        for (at, with) in [(first, &one), (second, &other)] {
            let mut place = at.index(count(&object));
            replace(&mut object, &mut place, with);
        }
        let namespace = if kind.namespaced { "default" } else { "" };
        let ctx = lenient();
        let _ = prepare_create(kind, namespace, object.clone(), &ctx);
        let _ = prepare_virtual(kind, namespace, object.clone(), &ctx);
        let _ = server_side_apply(kind, None, None, object.clone(), true, &ctx);
        let mut named = whole;
        if named.is_object() && named["metadata"].is_null() {
            named["metadata"] = json!({"name": "a"});
        }
        if let Ok(created) = prepare_create(kind, namespace, named, &ctx) {
            let old = created.object;
            for subresource in std::iter::once(None).chain(kind.subresources.iter().copied().map(Some)) {
                let _ = prepare_update(kind, subresource, &old, object.clone(), &ctx);
            }
            for patch_type in [PatchType::Merge, PatchType::Strategic, PatchType::Json] {
                if let Ok(patched) = apply_patch(kind, patch_type, &old, &object) {
                    let _ = prepare_update(kind, None, &old, patched, &ctx);
                }
            }
            let _ = server_side_apply(kind, None, Some(&old), object.clone(), false, &ctx);
        }
        let _ = table(kind, std::iter::once(&object), json!({}), IncludeObject::Object, NOW);
        let _ = kind.draft(&object);
        let _ = kind.served(object);
    }
}
