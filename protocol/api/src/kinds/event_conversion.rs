//! events.k8s.io/v1 Event: the same objects as core/v1 Event, told with other names. Its row and the conversion; validation
//! and columns are those of core's.

use serde_json::Value;

use super::{Conversion, Kind, event};
use crate::access::{Access, remove, set_default};
use crate::cause::{Causes, Path};

static STORED: Conversion = Conversion {
    stored: ("", "v1", "Event", "events"),
    to_stored: |object| rename(object, true),
    from_stored: |object| rename(object, false),
    fields: &[
        ("regarding.kind", "involvedObject.kind"),
        ("regarding.namespace", "involvedObject.namespace"),
        ("regarding.name", "involvedObject.name"),
        ("regarding.uid", "involvedObject.uid"),
        ("regarding.apiVersion", "involvedObject.apiVersion"),
        ("regarding.resourceVersion", "involvedObject.resourceVersion"),
        ("regarding.fieldPath", "involvedObject.fieldPath"),
        ("reportingController", "reportingComponent"),
    ],
};

/// What a field is called here and in core/v1.
const NAMES: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("reportingController", "reportingComponent"),
];

pub const KIND: Kind = Kind {
    short_names: &["ev"],
    selectable_fields: &[
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "regarding.apiVersion",
        "regarding.resourceVersion",
        "regarding.fieldPath",
        "reason",
        "reportingController",
        "type",
    ],
    conversion: Some(&STORED),
    validate_create: |object, causes| validate_new(object, causes),
    validate: |object, causes| {
        let before = causes.0.len();
        (event::KIND.validate)(&stored(object), causes);
        for cause in &mut causes.0[before..] {
            for (served, core) in NAMES {
                if let Some(rest) = cause.field.strip_prefix(core) {
                    cause.field = format!("{served}{rest}");
                    break;
                }
            }
        }
    },
    validate_update: |old, new, causes| (event::KIND.validate_update)(&stored(old), &stored(new), causes),
    columns: event::KIND.columns,
    cells: |object, now| (event::KIND.cells)(&stored(object), now),
    ..row!("events.k8s.io", v1, events, Event, "events", "event")
};

fn stored(object: &Value) -> Value {
    let mut object = object.clone();
    rename(&mut object, true);
    object
}

fn rename(object: &mut Value, to_stored: bool) {
    for (served, core) in NAMES {
        let (from, to) = if to_stored { (served, core) } else { (core, served) };
        if let Some(value) = remove(object, from) {
            object[to] = value;
        }
    }
    // The stored schema demands the field, as Go always writes it.
    if to_stored {
        set_default(object, "involvedObject", Value::Object(serde_json::Map::new()));
    }
}

/// New events of this group say when, who and what: pkg/apis/core/validation/events.go.
fn validate_new(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    if object.text("eventTime").is_empty() {
        causes.required(root.field("eventTime"), "");
    }
    for (name, bytes_max) in [
        ("reportingController", 0),
        ("reportingInstance", 128),
        ("action", 128),
        ("reason", 128),
    ] {
        let text = object.text(name);
        if text.is_empty() {
            causes.required(root.field(name), "");
        } else if bytes_max > 0 && text.len() > bytes_max {
            causes.invalid(root.field(name), "", format!("can have at most {bytes_max} characters"));
        }
    }
    for problem in crate::rules::qualified_name(object.text("reportingController")) {
        if !object.text("reportingController").is_empty() {
            let name = object.text("reportingController");
            causes.invalid(root.field("reportingController"), name, problem);
        }
    }
    if !matches!(object.text("type"), "Normal" | "Warning") {
        causes.invalid(root.field("type"), "", "has invalid value: ");
    }
    for (name, zero) in [("deprecatedFirstTimestamp", Value::Null), ("deprecatedCount", 0.into())] {
        let value = object.at(&[name]);
        if !value.is_null() && *value != zero {
            causes.invalid(root.field(name), "", "needs to be unset");
        }
    }
}
