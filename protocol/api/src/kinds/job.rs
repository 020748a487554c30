//! batch/v1 Job: its row, defaults, the labels and selector that tie its pods to it, validation and columns.

use protocol::UnixMillis;
use protocol::selector::LabelSelector;
use serde_json::{Value, json};

use super::checks::{self, Check, Rule, check};
use super::{Generation, Kind, Subresource, apps, cells, pod_failure_policy, pod_spec};
use crate::access::{Access, object_mut, remove, set_default, set_default_text};
use crate::cause::{Causes, Path};
use crate::meta;
use crate::table::Column;

/// The labels by which a job's pods are found; the ones without a prefix are older.
const UID_LABELS: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];
const NAME_LABELS: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];
/// Pods that an indexed job may run at a time.
const INDEXED_PARALLELISM_MAX: i64 = 100_000;

pub const KIND: Kind = Kind {
    categories: &["all"],
    subresources: &[Subresource::Status],
    selectable_fields: &["status.successful"],
    generation: Generation::Spec,
    default,
    prepare_create: generate_selector,
    validate: |object, causes| {
        let root = Path::Root;
        let path = root.field("spec");
        let spec = object.at(&["spec"]);
        validate_spec(spec, &path, causes);
        selector(object, &path, causes);
    },
    validate_update,
    columns: &[
        Column::NAME,
        Column::text("Status", "Status of the job."),
        Column::text("Completions", "How many pods have succeeded, of how many that must."),
        Column::text("Duration", "Time required to complete the job."),
        Column::AGE,
        Column::wide("Containers", "Names of each container in the template."),
        Column::wide("Images", "Images referenced by each container in the template."),
        Column::wide("Selector", "Label selector for pods."),
    ],
    cells: print,
    field_value: |object, _| object.at(&["status"]).int("succeeded").unwrap_or(0).to_string(),
    ..row!("batch", v1, batch, Job, "jobs", "job")
};

fn default(object: &mut Value) {
    let labels = object.at(&["spec", "template", "metadata", "labels"]).clone();
    let spec = object_mut(object, "spec");
    if !spec.has("completions") && !spec.has("parallelism") {
        set_default(spec, "completions", 1);
    }
    set_default(spec, "parallelism", 1);
    // With a limit for each index the whole job has none.
    let backoff = if spec.has("backoffLimitPerIndex") {
        i64::from(i32::MAX)
    } else {
        6
    };
    set_default(spec, "backoffLimit", backoff);
    set_default_text(spec, "completionMode", "NonIndexed");
    set_default(spec, "suspend", false);
    set_default(spec, "manualSelector", false);
    let replacement = if spec.has("podFailurePolicy") {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    set_default_text(spec, "podReplacementPolicy", replacement);
    pod_failure_policy::default(spec);
    apps::default_template(spec);
    label_like_template(object, labels);
}

/// A job without labels of its own carries those of its pods.
fn label_like_template(object: &mut Value, labels: Value) {
    let metadata = object_mut(object, "metadata");
    if labels.is_object() && metadata.members("labels").next().is_none() {
        metadata["labels"] = labels;
    }
}

/// Unless the client manages the selector, the job selects by its own uid, which the template's labels carry.
fn generate_selector(object: &mut Value) {
    if object.at(&["spec"]).flag("manualSelector") {
        return;
    }
    let metadata = object.at(&["metadata"]);
    let (uid, name) = (metadata.text("uid").to_owned(), metadata.text("name").to_owned());
    let spec = object_mut(object, "spec");
    let labels = object_mut(object_mut(object_mut(spec, "template"), "metadata"), "labels");
    for (keys, value) in [(NAME_LABELS, &name), (UID_LABELS, &uid)] {
        for key in keys {
            if labels.text(key).is_empty() {
                labels[key] = value.as_str().into();
            }
        }
    }
    if !spec.has("selector") {
        spec["selector"] = json!({});
    }
    let wanted = object_mut(&mut spec["selector"], "matchLabels");
    if wanted.text(UID_LABELS[0]).is_empty() {
        wanted[UID_LABELS[0]] = uid.into();
    }
    let labels = spec.at(&["template", "metadata", "labels"]).clone();
    label_like_template(object, labels);
}

fn selector(object: &Value, path: &Path<'_>, causes: &mut Causes) {
    let (spec, uid) = (object.at(&["spec"]), object.at(&["metadata"]).text("uid"));
    let (selector, at) = (spec.at(&["selector"]), path.field("selector"));
    let template = path.field("template");
    let metadata = template.field("metadata");
    let labels_at = metadata.field("labels");
    let labels = spec.at(&["template", "metadata", "labels"]);
    if selector.is_null() {
        causes.required(at, "");
        return;
    }
    meta::label_selector(selector, at, causes);
    if !spec.flag("manualSelector") && !uid.is_empty() {
        let name = object.at(&["metadata"]).text("name");
        for (keys, expected) in [(UID_LABELS, uid), (NAME_LABELS, name)] {
            for key in keys.into_iter().filter(|key| labels.text(key) != expected) {
                let text = format!("must be '{expected}'");
                causes.invalid(labels_at.key(key), labels.at(&[key]).clone(), text);
            }
        }
        if selector.at(&["matchLabels"]).text(UID_LABELS[0]) != uid {
            causes.invalid(at, selector.clone(), "`selector` not auto-generated");
        }
    }
    let Ok(parsed) = LabelSelector::from_value(selector) else {
        return;
    };
    let set = labels.as_object().into_iter().flatten();
    let set = set
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    if !parsed.matches(&set) {
        causes.invalid(labels_at, labels.clone(), "`selector` does not match template `labels`");
    }
}

const NUMBERS: &[Check] = &[
    ("parallelism", Rule::NotNegative),
    ("completions", Rule::NotNegative),
    ("activeDeadlineSeconds", Rule::NotNegative),
    ("backoffLimit", Rule::NotNegative),
    ("ttlSecondsAfterFinished", Rule::NotNegative),
    ("backoffLimitPerIndex", Rule::NotNegative),
    ("maxFailedIndexes", Rule::NotNegative),
    ("completionMode", Rule::MustBe(&["Indexed", "NonIndexed"])),
    ("managedBy", Rule::Form(checks::domain_prefixed_path)),
];

/// Validates a job's spec, selector aside: alike for jobs and for the templates of cron jobs.
pub fn validate_spec(spec: &Value, path: &Path<'_>, causes: &mut Causes) {
    check(spec, path, NUMBERS, causes);
    let indexed = spec.text("completionMode") == "Indexed";
    if indexed {
        if !spec.has("completions") {
            let text = "when completion mode is Indexed";
            causes.required(path.field("completions"), text);
        }
        if let Some(count) = spec.int("parallelism").filter(|count| *count > INDEXED_PARALLELISM_MAX) {
            let text =
                format!("must be less than or equal to {INDEXED_PARALLELISM_MAX} when completion mode is Indexed");
            causes.invalid(path.field("parallelism"), count, text);
        }
    }
    if let (Some(limit), false) = (spec.int("backoffLimitPerIndex"), indexed) {
        causes.invalid(
            path.field("backoffLimitPerIndex"),
            limit,
            "requires indexed completion mode",
        );
    }
    if spec.has("maxFailedIndexes") && !spec.has("backoffLimitPerIndex") {
        causes.required(path.field("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    let most = spec.int("maxFailedIndexes").unwrap_or(0);
    if let Some(completions) = spec.int("completions").filter(|completions| *completions < most) {
        let text = format!("must be less than or equal to completions ({completions})");
        causes.invalid(path.field("maxFailedIndexes"), most, text);
    }
    let template = path.field("template");
    let at = template.field("spec");
    let restart = spec.at(&["template", "spec"]).text("restartPolicy");
    match restart {
        "OnFailure" | "Never" => {}
        "Always" => causes.required(at.field("restartPolicy"), "valid values: \"OnFailure\", \"Never\""),
        other => causes.not_supported(at.field("restartPolicy"), other, &["Never", "OnFailure"]),
    }
    if spec.has("podFailurePolicy") {
        if restart != "Never" && !restart.is_empty() {
            let text = "only \"Never\" is supported when podFailurePolicy is specified";
            causes.invalid(at.field("restartPolicy"), restart, text);
        }
        pod_failure_policy::validate(spec, path, causes);
    }
    // A pod that is still ending has no exit code for a failure policy to judge.
    let replacements: &[&str] = if spec.has("podFailurePolicy") {
        &["Failed"]
    } else {
        &["Failed", "TerminatingOrFailed"]
    };
    check(
        spec,
        path,
        &[("podReplacementPolicy", Rule::Known(replacements))],
        causes,
    );
    pod_failure_policy::validate_success(spec, path, causes);
    pod_spec::template(spec.at(&["template"]), &template, None, causes);
}

/// Scheduling directives that a suspended job's template may still change.
const DIRECTIVES: [&str; 4] = ["nodeSelector", "tolerations", "affinity", "schedulingGates"];

fn validate_update(old: &Value, new: &Value, causes: &mut Causes) {
    let (before, after) = (old.at(&["spec"]), new.at(&["spec"]));
    checks::immutable(
        old,
        new,
        &[
            "spec.selector",
            "spec.completionMode",
            "spec.podFailurePolicy",
            "spec.backoffLimitPerIndex",
            "spec.managedBy",
            "spec.successPolicy",
        ],
        causes,
    );
    let root = Path::Root;
    let path = root.field("spec");
    if before.at(&["completions"]) != after.at(&["completions"]) {
        completions(before, after, &path, causes);
    }
    let not_begun = old.at(&["status"]).at(&["startTime"]).is_null();
    let suspended = before.flag("suspend") && not_begun;
    let template = |spec: &Value| {
        let mut template = spec.at(&["template"]).clone();
        if suspended {
            if let Some(metadata) = template.get_mut("metadata") {
                for name in ["labels", "annotations"] {
                    remove(metadata, name);
                }
            }
            if let Some(spec) = template.get_mut("spec") {
                for name in DIRECTIVES {
                    remove(spec, name);
                }
            }
        }
        template
    };
    if template(before) != template(after) {
        causes.invalid(
            path.field("template"),
            after.at(&["template"]).clone(),
            "field is immutable",
        );
    }
}

/// An indexed job is elastic: its completions may follow its parallelism.
fn completions(before: &Value, after: &Value, path: &Path<'_>, causes: &mut Causes) {
    let at = path.field("completions");
    let wanted = after.at(&["completions"]);
    if before.text("completionMode") != "Indexed" {
        causes.invalid(at, wanted.clone(), "field is immutable");
    } else if wanted.is_null() || before.at(&["completions"]).is_null() {
        causes.required(at, "can only be modified in tandem with spec.parallelism");
    } else if wanted != after.at(&["parallelism"]) {
        let text = format!(
            "can only be modified in tandem with spec.parallelism, which is {}",
            after.at(&["parallelism"])
        );
        causes.invalid(at, wanted.clone(), text);
    }
}

fn status_word(object: &Value) -> &'static str {
    if cells::has_condition(object, "Complete") {
        "Complete"
    } else if cells::has_condition(object, "Failed") {
        "Failed"
    } else if object.at(&["metadata"]).has("deletionTimestamp") {
        "Terminating"
    } else if cells::has_condition(object, "Suspended") {
        "Suspended"
    } else if cells::has_condition(object, "FailureTarget") {
        "FailureTarget"
    } else if cells::has_condition(object, "SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn print(object: &Value, now: UnixMillis) -> Vec<Value> {
    let (spec, status) = (object.at(&["spec"]), object.at(&["status"]));
    let succeeded = status.int("succeeded").unwrap_or(0);
    let parallelism = spec.int("parallelism").unwrap_or(0);
    let completions = match spec.int("completions") {
        Some(completions) => format!("{succeeded}/{completions}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    };
    let (containers, images) = apps::containers_and_images(spec.at(&["template"]));
    vec![
        cells::name(object),
        status_word(object).into(),
        completions.into(),
        cells::duration(status.at(&["startTime"]), status.at(&["completionTime"]), now),
        cells::created_ago(object, now),
        containers.into(),
        images.into(),
        apps::selector_text(spec.at(&["selector"])).into(),
    ]
}
