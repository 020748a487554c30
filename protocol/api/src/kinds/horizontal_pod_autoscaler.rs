//! autoscaling HorizontalPodAutoscaler: version 2, which is stored, and version 1, which keeps in annotations what it has no
//! fields for. Rows, defaults, conversion, validation of the spec and columns; metrics have a file of their own.

use protocol::UnixMillis;
use serde_json::{Map, Value, json};

use super::checks::{Rule, check};
use super::{Conversion, Kind, Subresource, cells, metrics};
use crate::access::{Access, existing_mut, object_mut, remove, set_default, set_default_text};
use crate::cause::{Causes, Path};
use crate::rules;
use crate::table::Column;

/// Utilization of cpu that an autoscaler without metrics aims at, in percent.
const CPU_UTILIZATION_PERCENT: i64 = 80;
/// How long a recommendation may be held back, and how long a policy may look back.
const STABILIZATION_SECONDS_MAX: i64 = 3600;
const PERIOD_SECONDS_MAX: i64 = 1800;

pub const V2: Kind = Kind {
    short_names: &["hpa"],
    categories: &["all"],
    subresources: &[Subresource::Status],
    default: |object| {
        let spec = object_mut(object, "spec");
        set_default(spec, "minReplicas", 1);
        if spec.items("metrics").is_empty() {
            spec["metrics"] = json!([cpu_metric(CPU_UTILIZATION_PERCENT)]);
        }
        default_behavior(spec);
    },
    validate,
    columns: &[
        Column::NAME,
        Column::text("Reference", "What is scaled."),
        Column::text("Targets", "The metrics, as they are and as they should be."),
        Column::text("MinPods", "The least number of replicas."),
        Column::text("MaxPods", "The greatest number of replicas."),
        Column::integer("Replicas", "The number of replicas that there are."),
        Column::AGE,
    ],
    cells: print,
    ..row!(
        "autoscaling",
        v2,
        autoscaling,
        HorizontalPodAutoscaler,
        "horizontalpodautoscalers",
        "horizontalpodautoscaler"
    )
};

static TO_V2: Conversion = Conversion {
    stored: (
        "autoscaling",
        "v2",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
    ),
    to_stored: to_v2,
    from_stored: to_v1,
    fields: &[],
};

pub const V1: Kind = Kind {
    short_names: &["hpa"],
    categories: &["all"],
    subresources: &[Subresource::Status],
    conversion: Some(&TO_V2),
    default: |object| set_default(object_mut(object, "spec"), "minReplicas", 1),
    validate: |object, causes| {
        // What is wrong with it is wrong with the stored form, save for the one field that is called otherwise.
        let mut stored = object.clone();
        to_v2(&mut stored);
        let before = causes.0.len();
        validate(&stored, causes);
        for cause in &mut causes.0[before..] {
            if cause.field == "spec.metrics[0].resource.target.averageUtilization" {
                cause.field = "spec.targetCPUUtilizationPercentage".to_owned();
            }
        }
    },
    columns: V2.columns,
    cells: |object, now| {
        let mut stored = object.clone();
        to_v2(&mut stored);
        print(&stored, now)
    },
    ..row!(
        "autoscaling",
        v1,
        autoscaling,
        HorizontalPodAutoscaler,
        "horizontalpodautoscalers",
        "horizontalpodautoscaler"
    )
};

fn cpu_metric(percent: i64) -> Value {
    json!({"type": "Resource", "resource": {
        "name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent},
    }})
}

fn is_cpu_utilization(metric: &Value) -> bool {
    let resource = metric.at(&["resource"]);
    metric.text("type") == "Resource"
        && resource.text("name") == "cpu"
        && resource.at(&["target"]).has("averageUtilization")
}

/// The annotations in which version 1 keeps the rest: field of spec or status, annotation.
const KEPT: [(&str, &str, &str); 4] = [
    ("spec", "metrics", "autoscaling.alpha.kubernetes.io/metrics"),
    ("spec", "behavior", "autoscaling.alpha.kubernetes.io/behavior"),
    (
        "status",
        "currentMetrics",
        "autoscaling.alpha.kubernetes.io/current-metrics",
    ),
    ("status", "conditions", "autoscaling.alpha.kubernetes.io/conditions"),
];

fn to_v1(object: &mut Value) {
    let mut kept = Vec::new();
    if let Some(spec) = existing_mut(object, "spec") {
        let mut metrics: Vec<Value> = spec.items("metrics").to_vec();
        if let Some(at) = metrics.iter().position(is_cpu_utilization) {
            let cpu = metrics.remove(at);
            let percent = cpu.at(&["resource", "target", "averageUtilization"]).clone();
            spec["targetCPUUtilizationPercentage"] = percent;
        }
        remove(spec, "metrics");
        if !metrics.is_empty() {
            kept.push((KEPT[0].2, Value::from(metrics)));
        }
        kept.extend(remove(spec, "behavior").map(|behavior| (KEPT[1].2, behavior)));
    }
    if let Some(status) = existing_mut(object, "status") {
        let current: Vec<Value> = status.items("currentMetrics").to_vec();
        let cpu = current
            .iter()
            .find(|metric| metric.at(&["resource"]).text("name") == "cpu");
        if let Some(percent) = cpu.and_then(|cpu| cpu.at(&["resource", "current"]).int("averageUtilization")) {
            status["currentCPUUtilizationPercentage"] = percent.into();
        }
        for (_, field, annotation) in &KEPT[2..] {
            let value = remove(status, field);
            kept.extend(value.filter(|value| !value.is_null()).map(|value| (*annotation, value)));
        }
    }
    if !kept.is_empty() {
        let annotations = object_mut(object_mut(object, "metadata"), "annotations");
        for (annotation, value) in kept {
            annotations[annotation] = value.to_string().into();
        }
    }
}

fn to_v2(object: &mut Value) {
    let mut kept: Vec<(usize, Value)> = Vec::new();
    if let Some(metadata) = existing_mut(object, "metadata")
        && let Some(annotations) = existing_mut(metadata, "annotations")
    {
        for (index, (_, _, annotation)) in KEPT.iter().enumerate() {
            let text = remove(annotations, annotation);
            let text = text.as_ref().and_then(Value::as_str).unwrap_or_default();
            kept.extend(serde_json::from_str(text).ok().map(|value| (index, value)));
        }
        if annotations.as_object().is_some_and(Map::is_empty) {
            remove(metadata, "annotations");
        }
    }
    let spec = object_mut(object, "spec");
    let percent = remove(spec, "targetCPUUtilizationPercentage").and_then(|percent| percent.as_i64());
    for (index, value) in kept {
        let (part, field, _) = KEPT[index];
        // Annotations are the client's to write: only what has the shape of the field is taken for it.
        let fits = if field == "behavior" {
            value.is_object()
        } else {
            value.is_array()
        };
        if fits {
            object_mut(object, part)[field] = value;
        }
    }
    let spec = object_mut(object, "spec");
    let mut metrics: Vec<Value> = spec.items("metrics").to_vec();
    match percent {
        Some(percent) => metrics.insert(0, cpu_metric(percent)),
        None if metrics.is_empty() => metrics.push(cpu_metric(CPU_UTILIZATION_PERCENT)),
        None => {}
    }
    spec["metrics"] = metrics.into();
    if let Some(status) = existing_mut(object, "status") {
        let percent = remove(status, "currentCPUUtilizationPercentage");
        if let Some(percent) = percent.filter(|_| !status.has("currentMetrics")) {
            status["currentMetrics"] = json!([{"type": "Resource", "resource": {
                "name": "cpu", "current": {"averageUtilization": percent},
            }}]);
        }
    }
}

/// A behavior that is given in part is filled in.
fn default_behavior(spec: &mut Value) {
    let Some(behavior) = existing_mut(spec, "behavior") else {
        return;
    };
    let both = json!([
        {"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15},
    ]);
    let up = object_mut(behavior, "scaleUp");
    set_default_text(up, "selectPolicy", "Max");
    set_default(up, "stabilizationWindowSeconds", 0);
    if up.items("policies").is_empty() {
        up["policies"] = both;
    }
    let down = object_mut(behavior, "scaleDown");
    set_default_text(down, "selectPolicy", "Max");
    if down.items("policies").is_empty() {
        down["policies"] = json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]);
    }
}

fn validate(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let spec = object.at(&["spec"]);
    let least = spec.int("minReplicas").unwrap_or(1);
    if least < 1 {
        causes.invalid(path.field("minReplicas"), least, "must be greater than or equal to 1");
    }
    let most = spec.int("maxReplicas").unwrap_or(0);
    if most < 1 {
        causes.invalid(path.field("maxReplicas"), most, "must be greater than 0");
    }
    if most < least {
        let text = "must be greater than or equal to `minReplicas`";
        causes.invalid(path.field("maxReplicas"), most, text);
    }
    reference(spec.at(&["scaleTargetRef"]), &path.field("scaleTargetRef"), causes);
    metrics::validate(spec, &path, causes);
    let at = path.field("behavior");
    for direction in ["scaleUp", "scaleDown"] {
        let rules = spec.at(&["behavior", direction]);
        if !rules.is_null() {
            scaling_rules(rules, &at.field(direction), causes);
        }
    }
}

/// What is scaled, or what a metric describes.
pub fn reference(target: &Value, path: &Path<'_>, causes: &mut Causes) {
    check(
        target,
        path,
        &[
            ("kind", Rule::RequiredForm(rules::path_segment)),
            ("name", Rule::RequiredForm(rules::path_segment)),
        ],
        causes,
    );
}

fn scaling_rules(scaling: &Value, path: &Path<'_>, causes: &mut Causes) {
    if let Some(seconds) = scaling.int("stabilizationWindowSeconds") {
        let at = path.field("stabilizationWindowSeconds");
        if seconds < 0 {
            causes.invalid(at, seconds, "must be greater than or equal to zero");
        }
        if seconds > STABILIZATION_SECONDS_MAX {
            let text = format!("must be less than or equal to {STABILIZATION_SECONDS_MAX}");
            causes.invalid(at, seconds, text);
        }
    }
    check(
        scaling,
        path,
        &[
            ("selectPolicy", Rule::Known(&["Disabled", "Max", "Min"])),
            ("policies", Rule::RequiredBecause("must specify at least one Policy")),
            ("policies[].type", Rule::MustBe(&["Percent", "Pods"])),
            ("policies[].value", Rule::Positive("must be greater than zero")),
            ("policies[].periodSeconds", Rule::Positive("must be greater than zero")),
        ],
        causes,
    );
    let list = path.field("policies");
    for (index, policy) in scaling.items("policies").iter().enumerate() {
        if let Some(seconds) = policy
            .int("periodSeconds")
            .filter(|seconds| *seconds > PERIOD_SECONDS_MAX)
        {
            let text = format!("must be less than or equal to {PERIOD_SECONDS_MAX}");
            causes.invalid(list.index(index).field("periodSeconds"), seconds, text);
        }
    }
}

fn print(object: &Value, now: UnixMillis) -> Vec<Value> {
    let (spec, status) = (object.at(&["spec"]), object.at(&["status"]));
    let target = spec.at(&["scaleTargetRef"]);
    vec![
        cells::name(object),
        format!("{}/{}", target.text("kind"), target.text("name")).into(),
        metrics::print(spec, status).into(),
        cells::int_or_percent(spec.at(&["minReplicas"]), "<unset>"),
        cells::int_or_percent(spec.at(&["maxReplicas"]), "0"),
        cells::int(object, &["status", "currentReplicas"]),
        cells::created_ago(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> Value {
        json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
                "minReplicas": 1, "maxReplicas": 5,
                "metrics": [
                    {"type": "Resource", "resource": {"name": "memory",
                        "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
                    cpu_metric(70),
                ],
                "behavior": {"scaleUp": {"selectPolicy": "Min"}},
            },
            "status": {"currentReplicas": 2, "conditions": [{"type": "AbleToScale", "status": "True"}],
                "currentMetrics": [{"type": "Resource", "resource": {
                    "name": "cpu", "current": {"averageUtilization": 33}}}]},
        })
    }

    #[test]
    fn version_1_tells_cpu_in_fields_and_the_rest_in_annotations_and_loses_nothing() {
        let mut object = stored();
        to_v1(&mut object);
        assert_eq!(object["spec"]["targetCPUUtilizationPercentage"], 70);
        assert_eq!(object["status"]["currentCPUUtilizationPercentage"], 33);
        let annotations = &object["metadata"]["annotations"];
        assert!(annotations.text(KEPT[0].2).contains("memory"), "{object}");
        assert!(annotations.text(KEPT[1].2).contains("Min"), "{object}");
        to_v2(&mut object);
        // The order of metrics is not kept: cpu comes first.
        let mut expected = stored();
        expected["spec"]["metrics"].as_array_mut().unwrap().reverse();
        assert_eq!(object["spec"], expected["spec"]);
        assert_eq!(object["status"], expected["status"]);
        assert_eq!(object["metadata"], json!({"name": "web"}));
    }

    #[test]
    fn an_autoscaler_without_metrics_aims_at_80_percent_of_cpu() {
        let mut object = json!({"spec": {"maxReplicas": 3}});
        to_v2(&mut object);
        assert_eq!(object["spec"]["metrics"], json!([cpu_metric(80)]));
    }

    #[test]
    fn annotations_that_hold_something_else_are_not_taken_for_fields() {
        let annotations = json!({KEPT[0].2: "{}", KEPT[1].2: "[1]", KEPT[3].2: "no json"});
        let mut object = json!({"metadata": {"annotations": annotations}, "spec": {"maxReplicas": 3}});
        to_v2(&mut object);
        assert_eq!(object["spec"], json!({"maxReplicas": 3, "metrics": [cpu_metric(80)]}));
    }
}
