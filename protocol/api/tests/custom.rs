//! Custom kinds without a server: what a definition's schema must be, and what it makes of objects. Tables.

mod fixture;

use api::custom::{CustomKinds, conditions};
use api::write::{
    FieldValidation, PatchType, WriteContext, apply_patch, prepare_create, prepare_update, scale_of, server_side_apply,
    set_scale,
};
use api::{Kind, Status, Subresource, kinds};
use fixture::{NOW, context};
use serde_json::{Value, json};

fn definition(schema: Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
                    "labelSelectorPath": ".status.selector",
                }},
                "additionalPrinterColumns": [
                    {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                    {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
                ],
            }],
        },
    })
}

fn crds() -> &'static Kind {
    kinds::find_by_kind("apiextensions.k8s.io/v1", "CustomResourceDefinition").unwrap()
}

/// Stores a definition as a client and the keeper would.
fn established(definition: Value) -> Value {
    let created = prepare_create(crds(), "", definition, &context("test")).unwrap().object;
    conditions(&created, std::iter::empty(), NOW).unwrap()
}

fn served(schema: Value) -> (CustomKinds, &'static Kind) {
    let custom = CustomKinds::default();
    custom.define(&established(definition(schema)));
    let kind = custom.find("example.com", "v1", "widgets").unwrap();
    (custom, kind)
}

fn spec(properties: Value) -> Value {
    json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": properties},
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }})
}

fn widget(spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec})
}

fn create(kind: &Kind, spec: Value) -> Result<Value, Status> {
    let lenient = WriteContext {
        field_validation: FieldValidation::Ignore,
        ..context("test")
    };
    prepare_create(kind, "d", widget(spec), &lenient).map(|written| written.object)
}

#[test]
fn schemas_that_are_not_structural_are_refused_in_kubernetes_words() {
    let root = "spec.validation.openAPIV3Schema";
    let cases = [
        (json!({}), format!("{root}.type: Required value: must not be empty at the root")),
        (json!({"type": "string"}), format!("{root}.type: Invalid value: \"string\": must be object at the root")),
        (
            spec(json!({"a": {}})),
            format!("{root}.properties[spec].properties[a].type: Required value: must not be empty for specified object fields"),
        ),
        (
            spec(json!({"a": {"type": "array"}})),
            format!("{root}.properties[spec].properties[a].items: Required value: must be specified"),
        ),
        (
            spec(json!({"a": {"type": "array", "items": {}}})),
            format!("{root}.properties[spec].properties[a].items.type: Required value: must not be empty for specified array items"),
        ),
        (spec(json!({"a": {"$ref": "#/x", "type": "object"}})), "$ref: Forbidden: $ref is not supported".to_owned()),
        (
            spec(json!({"a": {"type": "string", "anyOf": [{"type": "string"}]}})),
            format!("{root}.properties[spec].properties[a].anyOf[0].type: Forbidden: must be empty to be structural"),
        ),
        (
            spec(json!({"a": {"type": "object", "properties": {"b": {"type": "string"}}, "additionalProperties": {"type": "string"}}})),
            "additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive".to_owned(),
        ),
        (
            spec(json!({"a": {"type": "string", "pattern": "("}})),
            "pattern: Invalid value: \"(\": must be a valid regular expression, but isn't".to_owned(),
        ),
        (
            spec(json!({"a": {"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}}})),
            "x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map".to_owned(),
        ),
        (
            spec(json!({"a": {"type": "integer", "default": "x"}})),
            format!("{root}.properties[spec].properties[a].default: Invalid value: \"string\": \
                     {root}.properties[spec].properties[a].default in body must be of type integer: \"string\""),
        ),
        (
            spec(json!({"a": {"type": "integer", "x-kubernetes-validations": [{"rule": "self.nope > 1"}]}})),
            "compilation failed: ERROR: <input>:1:5: type 'int' does not support field selection\n | self.nope > 1\n | ....^"
                .to_owned(),
        ),
        (
            spec(json!({"a": {"type": "integer", "x-kubernetes-validations": [{"rule": "self + 1"}]}})),
            "cel expression must evaluate to a bool".to_owned(),
        ),
        (
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
            "must not specify anything other than name and generateName, but metadata is implicitly specified".to_owned(),
        ),
    ];
    for (schema, expected) in cases {
        let status = prepare_create(crds(), "", definition(schema.clone()), &context("test")).unwrap_err();
        assert_eq!(status.code, 422);
        assert!(
            status.message.contains(&expected),
            "{schema}\n{}\n{expected}",
            status.message
        );
    }
}

#[test]
fn values_are_validated_in_kubernetes_words() {
    let schema = spec(json!({
        "size": {"type": "integer", "minimum": 1, "maximum": 10},
        "odd": {"type": "number", "exclusiveMinimum": true, "minimum": 0, "multipleOf": 0.5},
        "color": {"type": "string", "enum": ["red", "green"]},
        "name": {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 4},
        "list": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "string"}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "map": {"type": "object", "maxProperties": 1, "additionalProperties": {"type": "boolean"}},
        "when": {"type": "string", "format": "date-time"},
        "port": {"x-kubernetes-int-or-string": true},
        "needy": {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}},
        "either": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                   "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        "none": {"type": "string", "nullable": true},
    }));
    let (_custom, kind) = served(schema);
    let cases = [
        (
            json!({"size": "x"}),
            "spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\"",
        ),
        (
            json!({"size": 0}),
            "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1",
        ),
        (
            json!({"size": 11}),
            "spec.size: Invalid value: 11: spec.size in body should be less than or equal to 10",
        ),
        (
            json!({"size": 1.5}),
            "spec.size: Invalid value: \"number\": spec.size in body must be of type integer: \"number\"",
        ),
        (
            json!({"odd": 0}),
            "spec.odd: Invalid value: 0: spec.odd in body should be greater than 0",
        ),
        (
            json!({"odd": 0.7}),
            "spec.odd: Invalid value: 0.7: spec.odd in body should be a multiple of 0.5",
        ),
        (
            json!({"color": "blue"}),
            "spec.color: Unsupported value: \"blue\": supported values: \"red\", \"green\"",
        ),
        (
            json!({"name": "ABC"}),
            "spec.name: Invalid value: \"ABC\": spec.name in body should match '^[a-z]+$'",
        ),
        (
            json!({"name": "a"}),
            "spec.name: Invalid value: \"a\": spec.name in body should be at least 2 chars long",
        ),
        (
            json!({"name": "abcde"}),
            "spec.name: Too long: may not be more than 4 bytes",
        ),
        (
            json!({"list": []}),
            "spec.list: Invalid value: []: spec.list in body should have at least 1 items",
        ),
        (
            json!({"list": ["a", "b", "c"]}),
            "spec.list: Too many: 3: must have at most 2 items",
        ),
        (
            json!({"list": [1]}),
            "spec.list[0]: Invalid value: \"integer\": spec.list[0] in body must be of type string: \"integer\"",
        ),
        (json!({"set": ["a", "a"]}), "spec.set[1]: Duplicate value: \"a\""),
        (
            json!({"map": {"a": true, "b": true}}),
            "spec.map: Too many: 2: must have at most 1 item",
        ),
        (
            json!({"map": {"a": 1}}),
            "spec.map.a: Invalid value: \"integer\": spec.map.a in body must be of type boolean: \"integer\"",
        ),
        (
            json!({"when": "noon"}),
            "spec.when: Invalid value: \"noon\": spec.when in body must be of type date-time: \"noon\"",
        ),
        (
            json!({"port": true}),
            "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\"",
        ),
        (json!({"needy": {}}), "spec.needy.a: Required value"),
        (
            json!({"either": {}}),
            "\"spec.either\" must validate one and only one schema (oneOf). Found none valid",
        ),
        (
            json!({"either": {"a": "", "b": ""}}),
            "(oneOf). Found 2 valid alternatives",
        ),
        (
            json!({"size": null}),
            "spec.size: Invalid value: \"null\": spec.size in body must be of type integer: \"null\"",
        ),
    ];
    for (value, expected) in cases {
        let status = create(kind, value.clone()).unwrap_err();
        assert_eq!((status.code, &*status.reason), (422, "Invalid"));
        assert!(
            status.message.starts_with("Widget.example.com \"w\" is invalid: "),
            "{}",
            status.message
        );
        assert!(
            status.message.contains(expected),
            "{value}\n{}\n{expected}",
            status.message
        );
    }
    let valid = json!({
        "size": 5, "odd": 1.5, "color": "red", "name": "abc", "list": ["a"], "set": ["a", "b"], "map": {"a": true},
        "when": "2024-01-01T00:00:00Z", "port": "http", "needy": {"a": "x"}, "either": {"a": ""}, "none": null,
    });
    create(kind, valid).unwrap();
}

#[test]
fn unknown_fields_are_pruned_or_refused_and_defaults_are_given() {
    let schema = spec(json!({
        "size": {"type": "integer", "default": 3},
        "nested": {"type": "object", "default": {}, "properties": {"mode": {"type": "string", "default": "auto"}}},
        "items": {"type": "array", "items": {"type": "object", "properties": {"p": {"type": "string", "default": "TCP"}}}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                 "properties": {"known": {"type": "object", "properties": {"a": {"type": "string"}}}}},
        "inner": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
        "null": {"type": "string", "default": "given"},
    }));
    let (_custom, kind) = served(schema);
    let cases = [
        (
            json!({}),
            json!({"size": 3, "nested": {"mode": "auto"}, "null": "given"}),
        ),
        (
            json!({"size": 1, "nope": 1}),
            json!({"size": 1, "nested": {"mode": "auto"}, "null": "given"}),
        ),
        (
            json!({"null": null}),
            json!({"size": 3, "nested": {"mode": "auto"}, "null": "given"}),
        ),
        (
            json!({"items": [{}, {"p": "UDP", "x": 1}]}),
            json!({"size": 3, "nested": {"mode": "auto"}, "null": "given", "items": [{"p": "TCP"}, {"p": "UDP"}]}),
        ),
        (
            json!({"free": {"x": {"y": 1}, "known": {"a": "b", "c": 1}}}),
            json!({"size": 3, "nested": {"mode": "auto"}, "null": "given", "free": {"x": {"y": 1}, "known": {"a": "b"}}}),
        ),
        (
            json!({"inner": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"x": 1}}}),
            json!({"size": 3, "nested": {"mode": "auto"}, "null": "given",
                   "inner": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"x": 1}}}),
        ),
    ];
    for (given, expected) in cases {
        assert_eq!(create(kind, given.clone()).unwrap()["spec"], expected, "{given}");
    }
    let strict = prepare_create(
        kind,
        "d",
        widget(json!({"nope": {"a": 1}, "items": [{"x": 1}]})),
        &context("test"),
    );
    let message = strict.unwrap_err().message;
    assert!(
        message.contains("strict decoding error: unknown field \"spec."),
        "{message}"
    );
    let status = create(kind, json!({"inner": {"spec": 1}})).unwrap_err();
    assert!(
        status
            .message
            .contains("spec.inner.apiVersion: Required value: must not be empty"),
        "{}",
        status.message
    );
}

fn update(kind: &Kind, old: &Value, new: Value) -> Result<Value, Status> {
    prepare_update(kind, None, old, new, &context("test")).map(|written| written.object)
}

#[test]
fn rules_judge_objects_and_their_changes() {
    let schema = json!({"type": "object",
        "x-kubernetes-validations": [{"rule": "self.metadata.name.size() < 5", "message": "the name is too long"}],
        "properties": {
        "spec": {"type": "object",
            "x-kubernetes-validations": [
                {"rule": "self.low <= self.high", "messageExpression": "'low is ' + string(self.low)", "fieldPath": ".low"},
                {"rule": "has(self.color) == has(oldSelf.color)", "message": "color comes and goes", "reason": "FieldValueForbidden"},
                {"rule": "!oldSelf.hasValue() || oldSelf.value().low <= self.low", "optionalOldSelf": true},
                {"rule": "self.list.all(x, x.size() > 1)"},
            ],
            "properties": {
                "low": {"type": "integer", "default": 1}, "high": {"type": "integer", "default": 5},
                "color": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "color is immutable"}]},
                "list": {"type": "array", "default": [], "items": {"type": "string"}},
            }},
    }});
    let (_custom, kind) = served(schema);
    let cases = [
        (json!({"low": 7}), "spec.low: Invalid value: \"object\": low is 7"),
        (
            json!({"list": ["a"]}),
            "spec: Invalid value: \"object\": failed rule: self.list.all(x, x.size() > 1)",
        ),
        (
            json!({"low": "x"}),
            "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the \
             existing errors to complete validation",
        ),
    ];
    for (given, expected) in cases {
        let message = create(kind, given.clone()).unwrap_err().message;
        assert!(message.contains(expected), "{given}\n{message}\n{expected}");
    }
    let mut long = widget(json!({}));
    long["metadata"]["name"] = "longer".into();
    let message = prepare_create(kind, "d", long, &context("test")).unwrap_err().message;
    assert!(
        message.contains("[]: Invalid value: \"object\": the name is too long"),
        "{message}"
    );

    let old = create(kind, json!({"color": "red", "low": 2})).unwrap();
    let changes = [
        (
            "/spec/color",
            json!("blue"),
            "spec.color: Invalid value: \"string\": color is immutable",
        ),
        (
            "/spec/low",
            json!(1),
            "failed rule: !oldSelf.hasValue() || oldSelf.value().low <= self.low",
        ),
    ];
    for (pointer, value, expected) in changes {
        let mut new = old.clone();
        *new.pointer_mut(pointer).unwrap() = value;
        let message = update(kind, &old, new).unwrap_err().message;
        assert!(message.contains(expected), "{message}");
    }
    let mut new = old.clone();
    new["spec"].as_object_mut().unwrap().remove("color");
    let message = update(kind, &old, new).unwrap_err().message;
    assert!(message.contains("spec: Forbidden: color comes and goes"), "{message}");
}

#[test]
fn what_was_valid_once_stays_writable() {
    let (custom, kind) = served(spec(json!({"size": {"type": "integer"}, "other": {"type": "string"}})));
    let old = create(kind, json!({"size": 100})).unwrap();
    custom.define(&established(definition(spec(json!({
        "size": {"type": "integer", "maximum": 10, "x-kubernetes-validations": [{"rule": "self < 10"}]},
        "other": {"type": "string"},
    })))));
    let kind = custom.find("example.com", "v1", "widgets").unwrap();
    let mut new = old.clone();
    new["spec"]["other"] = "x".into();
    update(kind, &old, new.clone()).unwrap();
    new["spec"]["size"] = 101.into();
    let message = update(kind, &old, new).unwrap_err().message;
    assert!(
        message.contains("spec.size in body should be less than or equal to 10"),
        "{message}"
    );
    assert!(create(kind, json!({"size": 100})).is_err());
}

#[test]
fn status_and_scale_change_what_is_theirs() {
    let (_custom, kind) = served(spec(json!({"replicas": {"type": "integer"}})));
    let object = create(kind, json!({"replicas": 2})).unwrap();
    assert_eq!(
        (&object["metadata"]["generation"], object.get("status")),
        (&json!(1), None)
    );
    let mut new = object.clone();
    new["status"] = json!({"replicas": 1, "selector": "app=w"});
    new["spec"]["replicas"] = 9.into();
    let written = prepare_update(kind, Some(Subresource::Status), &object, new.clone(), &context("test"))
        .unwrap()
        .object;
    assert_eq!(
        (&written["spec"]["replicas"], &written["status"]["replicas"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(written["metadata"]["generation"], 1);
    let scale = scale_of(kind, &written).unwrap();
    assert_eq!(scale["spec"], json!({"replicas": 2}));
    assert_eq!(scale["status"], json!({"replicas": 1, "selector": "app=w"}));
    let scaled = set_scale(kind, &written, &json!({"spec": {"replicas": 5}})).unwrap();
    let scaled = update(kind, &written, scaled).unwrap();
    assert_eq!(
        (&scaled["spec"]["replicas"], &scaled["metadata"]["generation"]),
        (&json!(5), &json!(2))
    );
    assert_eq!(scaled["status"]["replicas"], 1);
}

#[test]
fn patches_and_applies_follow_the_schemas_lists() {
    let list = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
        "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "port": {"type": "integer"}}}});
    let (_custom, kind) = served(spec(
        json!({"ports": list, "tags": {"type": "array", "items": {"type": "string"}}}),
    ));
    let refused = apply_patch(kind, PatchType::Strategic, &widget(json!({})), &json!({})).unwrap_err();
    assert_eq!(refused.code, 415);
    let object = create(kind, json!({"ports": [{"name": "a", "port": 1}], "tags": ["x"]})).unwrap();
    let merged = apply_patch(kind, PatchType::Merge, &object, &json!({"spec": {"tags": null}})).unwrap();
    assert_eq!(merged["spec"], json!({"ports": [{"name": "a", "port": 1}]}));

    let mut applied = widget(json!({"ports": [{"name": "b", "port": 2}]}));
    applied["metadata"]["namespace"] = "d".into();
    let first = server_side_apply(kind, None, Some(&object), applied.clone(), false, &context("one"))
        .unwrap()
        .object;
    let ports = first["spec"]["ports"].as_array().unwrap();
    assert_eq!(ports.len(), 2);
    assert!(ports.contains(&json!({"name": "a", "port": 1})) && ports.contains(&json!({"name": "b", "port": 2})));
    applied["spec"]["ports"][0]["port"] = 3.into();
    let conflict = server_side_apply(kind, None, Some(&first), applied.clone(), false, &context("two")).unwrap_err();
    assert_eq!(
        conflict.message,
        "Apply failed with 1 conflict: conflict with \"one\": .spec.ports[name=\"b\"].port"
    );
    applied["spec"]["nope"] = 1.into();
    let undeclared = server_side_apply(kind, None, Some(&first), applied, true, &context("two")).unwrap_err();
    assert!(
        undeclared.message.contains(".spec.nope: field not declared in schema")
            || undeclared.message.contains("unknown field"),
        "{}",
        undeclared.message
    );
}

#[test]
fn tables_have_the_definitions_columns() {
    let (_custom, kind) = served(spec(json!({"size": {"type": "integer"}})));
    let mut object = create(kind, json!({"size": 7})).unwrap();
    object["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    let table = api::table::table(
        kind,
        std::iter::once(&object),
        json!({}),
        api::table::IncludeObject::None,
        NOW,
    );
    let names: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["Name", "Size", "Ready"]);
    assert_eq!(table["rows"][0]["cells"], json!(["w", 7, "True"]));
}

#[test]
fn names_that_another_definition_has_are_not_accepted() {
    let first = established(definition(spec(json!({}))));
    let mut second = definition(spec(json!({})));
    second["metadata"]["name"] = "gadgets.example.com".into();
    second["spec"]["names"] = json!({"plural": "gadgets", "singular": "gadget", "kind": "Widget"});
    let second = prepare_create(crds(), "", second, &context("test")).unwrap().object;
    let judged = conditions(&second, std::iter::once(&first), NOW).unwrap();
    let find = |kind: &str| {
        let list = judged["status"]["conditions"].as_array().unwrap();
        list.iter()
            .find(|condition| condition["type"] == kind)
            .cloned()
            .unwrap()
    };
    let names = find("NamesAccepted");
    assert_eq!(
        (&names["status"], &names["reason"]),
        (&json!("False"), &json!("KindConflict"))
    );
    assert_eq!(names["message"], "\"Widget\" is already in use");
    assert_eq!(find("Established")["status"], "False");
    let custom = CustomKinds::default();
    custom.define(&judged);
    assert_eq!(custom.rows().len(), 0);
    // The other one goes: now they are.
    let judged = conditions(&judged, std::iter::empty(), NOW).unwrap();
    custom.define(&judged);
    assert_eq!(custom.rows().len(), 1);
    assert_eq!(conditions(&judged, std::iter::empty(), NOW), None);
}

#[test]
fn rows_are_used_again_when_a_definition_is_updated() {
    let (custom, kind) = served(spec(json!({"size": {"type": "integer"}})));
    for maximum in 0..50 {
        custom.define(&established(definition(spec(
            json!({"size": {"type": "integer", "maximum": maximum}}),
        ))));
        let now = custom.find("example.com", "v1", "widgets").unwrap();
        assert!(std::ptr::eq(kind, now));
    }
    custom.undefine("widgets.example.com");
    assert!(custom.find("example.com", "v1", "widgets").is_none());
    assert_eq!(create(kind, json!({})).unwrap_err().code, 404);
}

#[test]
fn discovery_and_openapi_tell_of_custom_kinds() {
    let (custom, _) = served(spec(
        json!({"size": {"type": "integer", "description": "How large it is."}}),
    ));
    let rows = custom.with_built_in();
    let list = api::discovery::resources(&rows, "example.com", "v1").unwrap();
    let names: Vec<&str> = list["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["widgets", "widgets/status", "widgets/scale"]);
    assert_eq!(list["resources"][0]["shortNames"], json!(["wd"]));
    let document = api::openapi::v3(&rows, "apis/example.com/v1").unwrap();
    let schema = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(
        schema["properties"]["spec"]["properties"]["size"]["description"],
        "How large it is."
    );
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
    assert!(document["components"]["schemas"]["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"].is_object());
    assert!(api::openapi::v2(&rows)["definitions"]["com.example.v1.Widget"].is_object());
}

proptest::proptest! {
    /// Whatever is in a schema, reading it and judging objects by it must not panic.
    #[test]
    fn no_schema_makes_it_panic(
        kind in proptest::sample::select(vec!["object", "array", "string", "integer", "number", "boolean", ""]),
        key in proptest::sample::select(vec!["properties", "items", "additionalProperties", "anyOf", "not", "default", "enum",
            "pattern", "x-kubernetes-validations", "x-kubernetes-list-map-keys", "required", "minimum", "format"]),
        odd in proptest::sample::select(vec!["null", "1", "\"x\"", "[]", "{}", "[null]", "{\"a\":null}", "[{\"rule\":\"self\"}]", "true"]),
    ) {
        let odd: Value = serde_json::from_str(odd).unwrap();
        let schema = spec(json!({"a": {"type": kind, key: odd}}));
        let _ = prepare_create(crds(), "", definition(schema.clone()), &context("test"));
        let mut crd = definition(schema);
        crd["status"] = json!({"conditions": [{"type": "Established", "status": "True"}], "acceptedNames": crd["spec"]["names"]});
        let custom = CustomKinds::default();
        custom.define(&crd);
        if let Some(kind) = custom.find("example.com", "v1", "widgets") {
            for value in [json!({}), json!({"a": null}), json!({"a": [{}, null]}), json!({"a": {"b": {}}}), json!([])] {
                let _ = create(kind, value);
            }
        }
    }
}
