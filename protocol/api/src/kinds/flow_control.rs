//! flowcontrol.apiserver.k8s.io/v1 FlowSchema and PriorityLevelConfiguration: rows, defaults, validation and columns.

use serde_json::{Value, json};

use super::checks::{Rule, check};
use super::{Generation, Kind, Subresource, cells};
use crate::access::{Access, existing_mut, object_mut, set_default};
use crate::cause::{Causes, Path};
use crate::table::Column;

/// Where a schema stands among others when it does not say.
const PRECEDENCE: i64 = 1000;
const PRECEDENCE_MAX: i64 = 10_000;
/// Queues of a level, at most.
const QUEUES_MAX: i64 = 10_000_000;

pub const FLOW_SCHEMA: Kind = Kind {
    namespaced: false,
    subresources: &[Subresource::Status],
    generation: Generation::Spec,
    default: |object| {
        let spec = object_mut(object, "spec");
        if spec.int("matchingPrecedence").unwrap_or(0) == 0 {
            spec["matchingPrecedence"] = PRECEDENCE.into();
        }
    },
    validate: validate_schema,
    columns: &[
        Column::NAME,
        Column::text("PriorityLevel", "The level that the requests go to."),
        Column::integer("MatchingPrecedence", "Which of several schemas counts: the lowest."),
        Column::text("DistinguisherMethod", "What makes two requests belong to one flow."),
        Column::AGE,
        Column::text("MissingPL", "Whether the level does not exist."),
    ],
    cells: |object, now| {
        let conditions = object.at(&["status"]).items("conditions");
        let dangling = conditions.iter().find(|condition| condition.text("type") == "Dangling");
        vec![
            cells::name(object),
            cells::text(object, &["spec", "priorityLevelConfiguration", "name"]),
            cells::int(object, &["spec", "matchingPrecedence"]),
            cells::text_or(object, &["spec", "distinguisherMethod", "type"], "<none>"),
            cells::created_ago(object, now),
            dangling.map_or("?", |condition| condition.text("status")).into(),
        ]
    },
    ..row!(
        "flowcontrol.apiserver.k8s.io",
        v1,
        flowcontrol,
        FlowSchema,
        "flowschemas",
        "flowschema"
    )
};

pub const PRIORITY_LEVEL: Kind = Kind {
    namespaced: false,
    subresources: &[Subresource::Status],
    generation: Generation::Spec,
    default: |object| {
        let spec = object_mut(object, "spec");
        if let Some(limited) = existing_mut(spec, "limited") {
            set_default(limited, "nominalConcurrencyShares", 30);
            set_default(limited, "lendablePercent", 0);
            let response = object_mut(limited, "limitResponse");
            if let Some(queuing) = existing_mut(response, "queuing") {
                for (name, number) in [("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)] {
                    if queuing.int(name).unwrap_or(0) == 0 {
                        queuing[name] = number.into();
                    }
                }
            }
        }
        if spec.text("type") == "Exempt" {
            set_default(spec, "exempt", json!({}));
            set_default(&mut spec["exempt"], "nominalConcurrencyShares", 0);
            set_default(&mut spec["exempt"], "lendablePercent", 0);
        }
    },
    validate: validate_level,
    columns: &[
        Column::NAME,
        Column::text("Type", "Whether requests are limited."),
        Column::text("NominalConcurrencyShares", "The level's share of the seats."),
        Column::text("Queues", "Its queues."),
        Column::text("HandSize", "Queues that one flow is dealt."),
        Column::text("QueueLengthLimit", "Requests that wait in a queue at most."),
        Column::AGE,
    ],
    cells: |object, now| {
        let spec = object.at(&["spec"]);
        let queuing = spec.at(&["limited", "limitResponse", "queuing"]);
        let limits = if spec.has("limited") {
            spec.at(&["limited"])
        } else {
            spec.at(&["exempt"])
        };
        vec![
            cells::name(object),
            cells::text(object, &["spec", "type"]),
            cells::int_or_percent(limits.at(&["nominalConcurrencyShares"]), "<none>"),
            cells::int_or_percent(queuing.at(&["queues"]), "<none>"),
            cells::int_or_percent(queuing.at(&["handSize"]), "<none>"),
            cells::int_or_percent(queuing.at(&["queueLengthLimit"]), "<none>"),
            cells::created_ago(object, now),
        ]
    },
    ..row!(
        "flowcontrol.apiserver.k8s.io",
        v1,
        flowcontrol,
        PriorityLevelConfiguration,
        "prioritylevelconfigurations",
        "prioritylevelconfiguration"
    )
};

fn validate_schema(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let spec = object.at(&["spec"]);
    let precedence = spec.int("matchingPrecedence").unwrap_or(0);
    let at = path.field("matchingPrecedence");
    if precedence <= 0 {
        causes.invalid(at, precedence, "must be a positive value");
    }
    if precedence > PRECEDENCE_MAX {
        let text = format!("must not be greater than {PRECEDENCE_MAX}");
        causes.invalid(at, precedence, text);
    }
    if precedence == 1 && object.at(&["metadata"]).text("name") != "exempt" {
        causes.invalid(
            at,
            precedence,
            "only the schema named 'exempt' may have matchingPrecedence 1",
        );
    }
    check(
        spec,
        &path,
        &[
            ("distinguisherMethod.type", Rule::Known(&["ByNamespace", "ByUser"])),
            (
                "priorityLevelConfiguration.name",
                Rule::RequiredBecause("must reference a priority level"),
            ),
        ],
        causes,
    );
    let list = path.field("rules");
    for (index, rule) in spec.items("rules").iter().enumerate() {
        let at = list.index(index);
        let text = "subjects must contain at least one value";
        check(rule, &at, &[("subjects", Rule::RequiredBecause(text))], causes);
        subjects(rule, &at, causes);
        if rule.items("resourceRules").is_empty() && rule.items("nonResourceRules").is_empty() {
            causes.required(
                at,
                "at least one of resourceRules and nonResourceRules has to be non-empty",
            );
        }
        check(
            rule,
            &at,
            &[
                (
                    "resourceRules[].verbs",
                    Rule::RequiredBecause("verbs must contain at least one value"),
                ),
                (
                    "resourceRules[].apiGroups",
                    Rule::RequiredBecause("resource rules must supply at least one api group"),
                ),
                (
                    "resourceRules[].resources",
                    Rule::RequiredBecause("resource rules must supply at least one resource"),
                ),
                (
                    "nonResourceRules[].verbs",
                    Rule::RequiredBecause("verbs must contain at least one value"),
                ),
                (
                    "nonResourceRules[].nonResourceURLs",
                    Rule::RequiredBecause("nonResourceURLs must contain at least one value"),
                ),
            ],
            causes,
        );
    }
}

fn subjects(rule: &Value, path: &Path<'_>, causes: &mut Causes) {
    let list = path.field("subjects");
    for (index, subject) in rule.items("subjects").iter().enumerate() {
        let at = list.index(index);
        let field = match subject.text("kind") {
            "User" => "user",
            "Group" => "group",
            "ServiceAccount" => "serviceAccount",
            other => {
                causes.not_supported(at.field("kind"), other, &["Group", "ServiceAccount", "User"]);
                continue;
            }
        };
        if !subject.has(field) {
            let text = format!("{field} is required when subject kind is '{}'", subject.text("kind"));
            causes.required(at.field(field), &text);
            continue;
        }
        check(
            subject.at(&[field]),
            &at.field(field),
            &[("name", Rule::Required)],
            causes,
        );
        if field == "serviceAccount" {
            let namespace = Rule::RequiredBecause("must specify namespace for service account");
            check(
                subject.at(&[field]),
                &at.field(field),
                &[("namespace", namespace)],
                causes,
            );
        }
        for other in ["user", "group", "serviceAccount"]
            .into_iter()
            .filter(|other| *other != field)
        {
            if subject.has(other) {
                let text = format!("{other} is forbidden when subject kind is not '{other}'");
                causes.forbidden(at.field(other), text);
            }
        }
    }
}

fn validate_level(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let spec = object.at(&["spec"]);
    let name = object.at(&["metadata"]).text("name");
    if (name == "exempt") != (spec.text("type") == "Exempt") && matches!(spec.text("type"), "Exempt" | "Limited") {
        let text = "type must be 'Exempt' if and only if `name` is 'exempt'";
        causes.invalid(path.field("type"), spec.text("type"), text);
    }
    match spec.text("type") {
        "Exempt" => {
            if spec.has("limited") {
                causes.forbidden(path.field("limited"), "must be nil if the type is not Limited");
            }
        }
        "Limited" => {
            if spec.has("exempt") {
                causes.forbidden(path.field("exempt"), "must be nil if the type is Limited");
            }
            if spec.has("limited") {
                limited(spec.at(&["limited"]), &path.field("limited"), causes);
            } else {
                causes.required(path.field("limited"), "must not be empty when type is Limited");
            }
        }
        other => causes.not_supported(path.field("type"), other, &["Exempt", "Limited"]),
    }
}

fn limited(limited: &Value, path: &Path<'_>, causes: &mut Causes) {
    check(
        limited,
        path,
        &[
            ("nominalConcurrencyShares", Rule::NotNegative),
            ("lendablePercent", Rule::Within(0, 100)),
            ("borrowingLimitPercent", Rule::NotNegative),
        ],
        causes,
    );
    let (response, at) = (limited.at(&["limitResponse"]), path.field("limitResponse"));
    match response.text("type") {
        "Reject" => {
            if response.has("queuing") {
                causes.forbidden(
                    at.field("queuing"),
                    "must be nil if limited.limitResponse.type is not Limited",
                );
            }
        }
        "Queue" => {
            let (queuing, at) = (response.at(&["queuing"]), at.field("queuing"));
            if queuing.is_null() {
                let text = "must not be empty if limited.limitResponse.type is Limited";
                causes.required(at, text);
                return;
            }
            let number = |name: &str| queuing.int(name).unwrap_or(0);
            for name in ["queueLengthLimit", "queues", "handSize"] {
                if number(name) <= 0 {
                    causes.invalid(at.field(name), number(name), "must be positive");
                }
            }
            if number("queues") > QUEUES_MAX {
                let text = format!("must not be greater than {QUEUES_MAX}");
                causes.invalid(at.field("queues"), number("queues"), text);
            }
            if number("handSize") > number("queues") {
                let text = format!("should not be greater than queues ({})", number("queues"));
                causes.invalid(at.field("handSize"), number("handSize"), text);
            }
        }
        "" => causes.required(at.field("type"), ""),
        other => causes.not_supported(at.field("type"), other, &["Queue", "Reject"]),
    }
}
