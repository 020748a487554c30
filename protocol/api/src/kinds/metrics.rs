//! The metrics of an autoscaler: what each type must say, and how a table shows them.

use protocol::quantity::Quantity;
use serde_json::Value;

use super::checks::{Rule, check};
use super::horizontal_pod_autoscaler::reference;
use crate::access::Access;
use crate::cause::{Causes, Path};
use crate::rules;

/// Metrics that a table shows before it counts the rest.
const SHOWN_MAX: usize = 2;

/// A metric's type and the field that describes it.
const SOURCES: [(&str, &str); 5] = [
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];

/// Validates the metrics of a spec.
pub fn validate(spec: &Value, path: &Path<'_>, causes: &mut Causes) {
    let list = path.field("metrics");
    for (index, metric) in spec.items("metrics").iter().enumerate() {
        let at = list.index(index);
        let kind = metric.text("type");
        let types = SOURCES.map(|(kind, _)| kind);
        if kind.is_empty() {
            causes.required(at.field("type"), "must specify a metric source type");
        } else if !types.contains(&kind) {
            causes.not_supported(at.field("type"), kind, &types);
        }
        for (source, field) in SOURCES {
            let (described, given) = (metric.at(&[field]), metric.has(field));
            if source == kind && !given {
                causes.required(at.field(field), "must populate information for the given metric source");
            } else if source != kind && given {
                causes.forbidden(at.field(field), "must populate the given metric source only");
            } else if given {
                source_of(kind, described, &at.field(field), causes);
            }
        }
        if kind == "Resource" {
            // Only a container's own resources can be measured.
            let name = metric.at(&["resource"]).text("name");
            if name.is_empty() && metric.has("resource") {
                let at = at.field("resource");
                causes.required(at.field("name"), "must specify a resource name");
            }
        }
    }
}

fn source_of(kind: &str, source: &Value, path: &Path<'_>, causes: &mut Causes) {
    let target = source.at(&["target"]);
    let at = path.field("target");
    match kind {
        "Object" => {
            reference(source.at(&["describedObject"]), &path.field("describedObject"), causes);
            metric_name(source, path, causes);
        }
        "Pods" | "External" => metric_name(source, path, causes),
        "ContainerResource" => check(
            source,
            path,
            &[
                ("name", Rule::RequiredBecause("must specify a resource name")),
                ("container", Rule::RequiredBecause("must specify a container")),
            ],
            causes,
        ),
        _ => {}
    }
    let kind_of_target = target.text("type");
    if kind_of_target.is_empty() {
        causes.required(at.field("type"), "must specify a metric target type");
    }
    if !matches!(kind_of_target, "Utilization" | "Value" | "AverageValue") {
        let text = "must be either Utilization, Value, or AverageValue";
        causes.invalid(at.field("type"), kind_of_target, text);
    }
    if let Some(percent) = target.int("averageUtilization").filter(|percent| *percent < 1) {
        causes.invalid(at.field("averageUtilization"), percent, "must be greater than 0");
    }
    for name in ["value", "averageValue"] {
        let text = target.text(name);
        if Quantity::parse(text).is_ok_and(|amount| amount.milli() <= 0) {
            causes.invalid(at.field(name), text, "must be positive");
        }
    }
    let has = |name| target.has(name);
    match kind {
        "Resource" | "ContainerResource" => {
            if has("averageUtilization") && has("averageValue") {
                let text = "may not set both a target raw value and a target utilization";
                causes.forbidden(at.field("averageValue"), text);
            } else if !has("averageUtilization") && !has("averageValue") {
                let text = "must set either a target raw value or a target utilization";
                causes.required(at.field("averageUtilization"), text);
            }
        }
        "Pods" => {
            if !has("averageValue") {
                causes.required(at.field("averageValue"), "must specify a positive target averageValue");
            }
        }
        _ => {
            if has("value") && has("averageValue") {
                let text = "may not set both a target value for metric and a per-pod target";
                causes.forbidden(at.field("value"), text);
            } else if !has("value") && !has("averageValue") {
                let text = "must set either a target value for metric or a per-pod target";
                causes.required(at.field("averageValue"), text);
            }
        }
    }
}

fn metric_name(source: &Value, path: &Path<'_>, causes: &mut Causes) {
    let at = path.field("metric");
    let metric = source.at(&["metric"]);
    let name = metric.text("name");
    if name.is_empty() {
        causes.required(at.field("name"), "must specify a metric name");
    }
    for problem in rules::path_segment(name) {
        causes.invalid(at.field("name"), name, problem);
    }
    check(metric, &at, &[("selector", Rule::Selector)], causes);
}

/// `cpu: 3%/80%`: the metrics as they are and as they should be.
pub fn print(spec: &Value, status: &Value) -> String {
    let wanted = spec.items("metrics");
    if wanted.is_empty() {
        return "<none>".to_owned();
    }
    let shown: Vec<String> = wanted
        .iter()
        .zip(0..SHOWN_MAX)
        .map(|(metric, index)| print_one(metric, status.items("currentMetrics").get(index)))
        .collect();
    let list = shown.join(", ");
    match wanted.len().checked_sub(SHOWN_MAX) {
        Some(more) if more > 0 => format!("{list} + {more} more..."),
        _ => list,
    }
}

fn print_one(metric: &Value, current: Option<&Value>) -> String {
    let kind = metric.text("type");
    let Some((_, field)) = SOURCES.iter().find(|(source, _)| *source == kind) else {
        return "<unknown type>".to_owned();
    };
    let source = metric.at(&[field]);
    let target = source.at(&["target"]);
    let now = current.map(|current| current.at(&[field, "current"]));
    let amount = |name: &str| match now.map(|now| now.at(&[name])) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => format!("{number}%"),
        _ => "<unknown>".to_owned(),
    };
    match kind {
        "Resource" | "ContainerResource" => {
            let name = source.text("name");
            if target.has("averageValue") {
                format!("{name}: {}/{}", amount("averageValue"), target.text("averageValue"))
            } else {
                let wanted = match target.int("averageUtilization") {
                    Some(percent) => format!("{percent}%"),
                    None => "<auto>".to_owned(),
                };
                format!("{name}: {}/{wanted}", amount("averageUtilization"))
            }
        }
        "Pods" => format!("{}/{}", amount("averageValue"), target.text("averageValue")),
        _ if target.has("averageValue") => {
            format!("{}/{} (avg)", amount("averageValue"), target.text("averageValue"))
        }
        _ => format!("{}/{}", amount("value"), target.text("value")),
    }
}
