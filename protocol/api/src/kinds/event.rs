//! core/v1 Event: its row, validation, columns and the fields by which `kubectl describe` finds an object's events.

use protocol::UnixMillis;
use serde_json::Value;

use super::{Kind, STORED, field_value};
use crate::access::Access;
use crate::cause::{Causes, Path};
use crate::table::Column;
use crate::time::{age_since, parse};

pub const KIND: Kind = Kind {
    kind: "Event",
    list_kind: "EventList",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    selectable_fields: &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ],
    definition: "io.k8s.api.core.v1.Event",
    schema: |generator| {
        generator.subschema_for::<k8s_openapi::api::core::v1::Event>();
    },
    validate,
    columns: &[
        Column::text("Last Seen", "Time when this event was last observed."),
        Column::text(
            "Type",
            "Type of this event (Normal, Warning), new types could be added in the future.",
        ),
        Column::text(
            "Reason",
            "This should be a short, machine understandable string that gives the reason for the transition into the object's current status.",
        ),
        Column::text("Object", "The object that this event is about."),
        Column::wide("Subobject", "The part of the object that this event is about."),
        Column::wide("Source", "The component reporting this event."),
        Column::text(
            "Message",
            "A human-readable description of the status of this operation.",
        ),
        Column::wide("First Seen", "The time at which the event was first recorded."),
        Column::wide("Count", "The number of times this event has occurred."),
        Column {
            priority: 1,
            ..Column::NAME
        },
    ],
    cells,
    field_value: |object, path| match (path, object.at(&["source"]).text("component")) {
        ("source", "") => object.text("reportingComponent").to_owned(),
        ("source", component) => component.to_owned(),
        _ => field_value(object, path),
    },
    ..STORED
};

fn validate(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let namespace = object.at(&["metadata"]).text("namespace");
    let involved = object.at(&["involvedObject"]).text("namespace");
    // Events about cluster-scoped objects live in `default`.
    let fits = if involved.is_empty() {
        matches!(namespace, "default" | "kube-system")
    } else {
        involved == namespace
    };
    if !fits {
        let at = root.field("involvedObject");
        causes.invalid(at.field("namespace"), involved, "does not match event.namespace");
    }
    if object.text("message").len() > 1024 {
        causes.invalid(root.field("message"), "", "can have at most 1024 characters");
    }
}

/// When the event was last seen: its series, else its last timestamp, else its time.
fn last_seen(event: &Value) -> &str {
    let times = [
        event.at(&["series"]).text("lastObservedTime"),
        event.text("lastTimestamp"),
        event.text("eventTime"),
    ];
    times.into_iter().find(|text| !text.is_empty()).unwrap_or_default()
}

fn interval(at: &str, now: UnixMillis) -> String {
    if parse(at).is_none() {
        "<unknown>".to_owned()
    } else {
        age_since(at, now)
    }
}

fn cells(event: &Value, now: UnixMillis) -> Vec<Value> {
    let object = event.at(&["involvedObject"]);
    let target = match object.text("name") {
        "" => object.text("kind").to_lowercase(),
        name => format!("{}/{name}", object.text("kind").to_lowercase()),
    };
    let source = match (
        event.at(&["source"]).text("component"),
        event.at(&["source"]).text("host"),
    ) {
        ("", _) => event.text("reportingComponent").to_owned(),
        (component, "") => component.to_owned(),
        (component, host) => format!("{component}, {host}"),
    };
    let first = [event.text("firstTimestamp"), event.text("eventTime")]
        .into_iter()
        .find(|text| !text.is_empty());
    let count = event.at(&["series"]).int("count").or(event.int("count")).unwrap_or(1);
    vec![
        interval(last_seen(event), now).into(),
        event.text("type").into(),
        event.text("reason").into(),
        target.into(),
        object.text("fieldPath").into(),
        source.into(),
        event.text("message").trim().into(),
        interval(first.unwrap_or_default(), now).into(),
        count.to_string().into(),
        event.at(&["metadata"]).text("name").into(),
    ]
}
