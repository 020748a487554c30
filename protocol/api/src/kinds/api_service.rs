//! apiregistration.k8s.io/v1 APIService: its row, defaults, validation and columns.

use serde_json::Value;

use super::checks::{Rule, check};
use super::{Kind, STORED, Subresource, cells};
use crate::access::{Access, existing_mut, set_default};
use crate::cause::{Causes, Path};
use crate::rules;
use crate::table::Column;

pub const KIND: Kind = Kind {
    group: "apiregistration.k8s.io",
    kind: "APIService",
    list_kind: "APIServiceList",
    plural: "apiservices",
    singular: "apiservice",
    categories: &["api-extensions"],
    namespaced: false,
    subresources: &[Subresource::Status],
    definition: "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService",
    schema: |generator| {
        generator.subschema_for::<k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService>();
    },
    name_rule: rules::path_segment,
    default: |object| {
        if let Some(spec) = existing_mut(object, "spec")
            && let Some(service) = existing_mut(spec, "service")
        {
            set_default(service, "port", 443);
        }
    },
    validate,
    columns: &[
        Column::NAME,
        Column::text(
            "Service",
            "The service that answers for this version, or this server itself.",
        ),
        Column::text("Available", "Whether it answers."),
        Column::AGE,
    ],
    cells: |object, now| {
        let service = object.at(&["spec", "service"]);
        let service = if service.is_null() {
            "Local".to_owned()
        } else {
            format!("{}/{}", service.text("namespace"), service.text("name"))
        };
        let conditions = object.at(&["status"]).items("conditions");
        let available = conditions
            .iter()
            .find(|condition| condition.text("type") == "Available");
        let available = match available {
            None => "Unknown".to_owned(),
            Some(condition) if condition.text("status") == "True" => "True".to_owned(),
            Some(condition) => format!("{} ({})", condition.text("status"), condition.text("reason")),
        };
        vec![
            cells::name(object),
            service.into(),
            available.into(),
            cells::created_ago(object, now),
        ]
    },
    ..STORED
};

fn validate(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let spec = object.at(&["spec"]);
    let expected = format!("{}.{}", spec.text("version"), spec.text("group"));
    let name = object.at(&["metadata"]).text("name");
    if name != expected {
        let metadata = root.field("metadata");
        let text = format!("must be `spec.version+\".\"+spec.group`: {expected:?}");
        causes.invalid(metadata.field("name"), name, text);
    }
    if spec.text("group").is_empty() && spec.text("version") != "v1" {
        let text = "only v1 is allowed when group is empty";
        causes.invalid(path.field("version"), spec.text("version"), text);
    }
    check(
        spec,
        &path,
        &[
            ("group", Rule::Form(rules::dns_subdomain)),
            ("version", Rule::RequiredForm(rules::dns_1035_label)),
        ],
        causes,
    );
    for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let number = spec.int(field).unwrap_or(0);
        if number <= 0 || number > most {
            let text = format!("must be positive and less than {most}");
            causes.invalid(path.field(field), number, text);
        }
    }
    let verifies = !spec.text("caBundle").is_empty();
    let insecure = spec.flag("insecureSkipTLSVerify");
    if spec.at(&["service"]).is_null() {
        if verifies {
            let text = "local APIServices may not have a caBundle";
            causes.invalid(path.field("caBundle"), "<bundle>", text);
        }
        if insecure {
            let text = "local APIServices may not have insecureSkipTLSVerify";
            causes.invalid(path.field("insecureSkipTLSVerify"), true, text);
        }
        return;
    }
    if verifies && insecure {
        let text = "may not be true if caBundle is present";
        causes.invalid(path.field("insecureSkipTLSVerify"), true, text);
    }
    check(
        spec,
        &path,
        &[
            ("service.namespace", Rule::Required),
            ("service.name", Rule::Required),
            ("service.port", Rule::Within(1, 65535)),
        ],
        causes,
    );
}
