//! core/v1 LimitRange: its row, defaults, validation and columns.

use protocol::quantity::Quantity;
use serde_json::{Map, Value};

use super::checks::{Rule, check};
use super::{Kind, cells};
use crate::access::{Access, items_mut, object_mut, set_default};
use crate::cause::{Causes, Path};
use crate::rules;
use crate::table::Column;

pub const KIND: Kind = Kind {
    short_names: &["limits"],
    default: |object| {
        let spec = object_mut(object, "spec");
        for limit in items_mut(spec, "limits")
            .iter_mut()
            .filter(|limit| limit.text("type") == "Container")
        {
            default_container(limit);
        }
    },
    validate,
    columns: &[Column::NAME, Column::CREATED],
    cells: |object, _| vec![cells::name(object), super::created(object)],
    ..row!("", v1, core, LimitRange, "limitranges", "limitrange")
};

/// A container's default limit is the maximum, its default request the default limit, or else the minimum.
fn default_container(limit: &mut Value) {
    for (from, to) in [
        ("max", "default"),
        ("default", "defaultRequest"),
        ("min", "defaultRequest"),
    ] {
        let amounts: Map<String, Value> = limit.at(&[from]).as_object().cloned().unwrap_or_default();
        if amounts.is_empty() {
            continue;
        }
        let target = object_mut(limit, to);
        for (name, amount) in amounts {
            set_default(target, &name, amount);
        }
    }
}

/// Which amounts must not be greater than which: field and what it is called, field and what that is called.
const ORDERS: [(&str, &str, &str, &str); 6] = [
    ("min", "min value", "max", "max value"),
    ("min", "min value", "defaultRequest", "default request value"),
    ("defaultRequest", "default request value", "max", "max value"),
    (
        "defaultRequest",
        "default request value",
        "default",
        "default limit value",
    ),
    ("min", "min value", "default", "default value"),
    ("default", "default value", "max", "max value"),
];

fn validate(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let path = root.field("spec");
    let list = path.field("limits");
    let spec = object.at(&["spec"]);
    check(spec, &path, &[("limits", Rule::Unique("type"))], causes);
    for (index, limit) in spec.items("limits").iter().enumerate() {
        let at = list.index(index);
        let kind = limit.text("type");
        for problem in rules::qualified_name(kind) {
            causes.invalid(at.field("type"), kind, problem);
        }
        if !kind.contains('/') && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim") {
            let text = "must be a standard limit type or fully qualified";
            causes.invalid(at.field("type"), kind, text);
        }
        if kind == "Pod" {
            for name in ["default", "defaultRequest"] {
                if limit.members(name).next().is_some() {
                    causes.forbidden(at.field(name), "may not be specified when `type` is 'Pod'");
                }
            }
        }
        let stores = |name: &str| limit.at(&[name]).has("storage");
        if kind == "PersistentVolumeClaim" && !stores("min") && !stores("max") {
            let text = "either minimum or maximum storage value is required, but neither was provided";
            causes.required(at.field("limits"), text);
        }
        for (low, low_word, high, high_word) in ORDERS {
            for (name, amount) in limit.members(low) {
                let (amount, bound) = (amount.as_str().unwrap_or_default(), limit.at(&[high]).text(name));
                let (Ok(one), Ok(other)) = (Quantity::parse(amount), Quantity::parse(bound)) else {
                    continue;
                };
                if one > other {
                    let field = at.field(low);
                    let text = format!("{low_word} {amount} is greater than {high_word} {bound}");
                    causes.invalid(field.key(name), amount, text);
                }
            }
        }
        for (name, ratio) in limit.members("maxLimitRequestRatio") {
            let text = ratio.as_str().unwrap_or_default();
            if Quantity::parse(text).is_ok_and(|ratio| ratio.milli() < 1000) {
                let field = at.field("maxLimitRequestRatio");
                causes.invalid(field.key(name), text, format!("ratio {text} is less than 1"));
            }
        }
    }
}
