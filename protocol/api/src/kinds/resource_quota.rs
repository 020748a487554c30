//! core/v1 ResourceQuota: its row, validation and columns.

use std::collections::BTreeSet;

use protocol::quantity::Quantity;
use serde_json::Value;

use super::{Kind, Subresource, cells};
use crate::access::Access;
use crate::cause::{Causes, Path};
use crate::rules;
use crate::table::Column;

/// What a quota can count or measure without a group of its own.
const STANDARD: [&str; 19] = [
    "configmaps",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
/// What comes in whole numbers only.
const WHOLE: [&str; 9] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];
/// What a quota with the scope BestEffort can count, and one with another scope of pods.
const COUNTED_BEST_EFFORT: [&str; 1] = ["pods"];
const COUNTED_BY_POD: [&str; 8] = [
    "cpu",
    "limits.cpu",
    "limits.memory",
    "memory",
    "pods",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
];

pub const KIND: Kind = Kind {
    short_names: &["quota"],
    subresources: &[Subresource::Status],
    validate,
    validate_update: |old, new, causes| {
        let sorted = |object: &Value| {
            let scopes = object.at(&["spec"]).items("scopes").iter();
            scopes
                .filter_map(|scope| scope.as_str().map(str::to_owned))
                .collect::<BTreeSet<_>>()
        };
        if sorted(old) != sorted(new) {
            let root = Path::Root;
            let path = root.field("spec");
            let value = new.at(&["spec", "scopes"]).clone();
            causes.invalid(path.field("scopes"), value, "field is immutable");
        }
    },
    validate_status: |_, new, causes| {
        let root = Path::Root;
        let path = root.field("status");
        let status = new.at(&["status"]);
        for list in ["hard", "used"] {
            amounts(status, list, &path, causes);
        }
    },
    columns: &[
        Column::NAME,
        Column::text("Request", "What is requested, of how much there may be."),
        Column::text("Limit", "What is limited, of how much there may be."),
        Column::AGE,
    ],
    cells: |object, now| {
        let (requests, limits) = used_of_hard(object.at(&["status"]));
        vec![
            cells::name(object),
            requests.into(),
            limits.into(),
            cells::created_ago(object, now),
        ]
    },
    ..row!("", v1, core, ResourceQuota, "resourcequotas", "resourcequota")
};

fn validate(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let spec = object.at(&["spec"]);
    amounts(spec, "hard", &path, causes);
    scopes(spec, &path, causes);
    let selector = path.field("scopeSelector");
    let list = selector.field("matchExpressions");
    for (index, expression) in spec.at(&["scopeSelector"]).items("matchExpressions").iter().enumerate() {
        let at = list.index(index);
        let (scope, operator) = (expression.text("scopeName"), expression.text("operator"));
        if !SCOPES.contains(&scope) {
            causes.invalid(at.field("scopeName"), scope, "unsupported scope");
        }
        let only_exists = !matches!(scope, "PriorityClass" | "VolumeAttributesClass");
        if only_exists && operator != "Exists" {
            let text = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, \
                        ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or \
                        ResourceQuotaScopeCrossNamespacePodAffinity";
            causes.invalid(at.field("operator"), operator, text);
        }
        let values = expression.items("values");
        match operator {
            "In" | "NotIn" if values.is_empty() => causes.required(
                at.field("values"),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ),
            "Exists" | "DoesNotExist" if !values.is_empty() => causes.invalid(
                at.field("values"),
                expression.at(&["values"]).clone(),
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => causes.invalid(at.field("operator"), other, "not a valid selector operator"),
        }
    }
}

fn amounts(holder: &Value, list: &str, path: &Path<'_>, causes: &mut Causes) {
    let at = path.field(list);
    for (name, amount) in holder.members(list) {
        let at = at.key(name);
        for problem in rules::qualified_name(name) {
            causes.invalid(at, name.as_str(), problem);
        }
        let known = STANDARD.contains(&name.as_str())
            || name.starts_with("hugepages-")
            || name.starts_with("requests.hugepages-");
        if !name.contains('/') && !known {
            causes.invalid(at, name.as_str(), "must be a standard resource type or fully qualified");
        }
        let text = amount.as_str().unwrap_or_default();
        let Ok(parsed) = Quantity::parse(text) else { continue };
        if parsed.is_negative() {
            causes.invalid(at, text, "must be greater than or equal to 0");
        }
        let whole = WHOLE.contains(&name.as_str()) || name.starts_with("count/");
        if whole && parsed.milli() % 1000 != 0 {
            causes.invalid(at, text, "must be an integer");
        }
    }
}

fn scopes(spec: &Value, path: &Path<'_>, causes: &mut Causes) {
    let at = path.field("scopes");
    let all = spec.at(&["scopes"]);
    let names: BTreeSet<&str> = spec.items("scopes").iter().filter_map(Value::as_str).collect();
    for scope in spec.items("scopes").iter().filter_map(Value::as_str) {
        if !SCOPES.contains(&scope) {
            causes.invalid(at, all.clone(), "unsupported scope");
        }
        let counted: &[&str] = match scope {
            "BestEffort" => &COUNTED_BEST_EFFORT,
            "Terminating" | "NotTerminating" | "NotBestEffort" | "CrossNamespacePodAffinity" => &COUNTED_BY_POD,
            _ => continue,
        };
        let stray = |name: &&String| STANDARD.contains(&name.as_str()) && !counted.contains(&name.as_str());
        if spec.members("hard").map(|(name, _)| name).any(|name| stray(&name)) {
            causes.invalid(at, all.clone(), "unsupported scope applied to resource");
        }
    }
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if names.contains(one) && names.contains(other) {
            causes.invalid(at, all.clone(), "conflicting scopes");
        }
    }
}

/// `pods: 1/10, requests.cpu: 1/2`, and the same of what begins with `limits`.
fn used_of_hard(status: &Value) -> (String, String) {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    let mut hard: Vec<_> = status.members("hard").collect();
    hard.sort_by_key(|(name, _)| name.as_str());
    for (name, amount) in hard {
        let used = status.at(&["used", name]).as_str().unwrap_or("0");
        let text = format!("{name}: {used}/{}", amount.as_str().unwrap_or_default());
        if name.starts_with("limits.") {
            limits.push(text);
        } else {
            requests.push(text);
        }
    }
    (requests.join(", "), limits.join(", "))
}
