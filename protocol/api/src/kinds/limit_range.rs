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

/// An amount that must not be greater than another: the lesser and what it is called, the greater and what that is called,
/// the field at which it is said and the one whose amount is shown.
struct Order {
    lesser: (&'static str, &'static str),
    greater: (&'static str, &'static str),
    place: &'static str,
    shown: &'static str,
}

const fn order(
    lesser: (&'static str, &'static str),
    greater: (&'static str, &'static str),
    place: &'static str,
    shown: &'static str,
) -> Order {
    Order {
        lesser,
        greater,
        place,
        shown,
    }
}

const MIN: (&str, &str) = ("min", "min value");
const MAX: (&str, &str) = ("max", "max value");
const REQUEST: (&str, &str) = ("defaultRequest", "default request value");
const LIMIT: (&str, &str) = ("default", "default limit value");
const DEFAULT: (&str, &str) = ("default", "default value");

const ORDERS: [Order; 6] = [
    order(MIN, MAX, "min", "min"),
    order(MIN, REQUEST, "defaultRequest", "defaultRequest"),
    order(REQUEST, MAX, "defaultRequest", "defaultRequest"),
    order(REQUEST, LIMIT, "defaultRequest", "defaultRequest"),
    order(MIN, DEFAULT, "default", "min"),
    order(DEFAULT, MAX, "default", "max"),
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
        for order in &ORDERS {
            for (name, amount) in limit.members(order.lesser.0) {
                let (amount, bound) = (
                    amount.as_str().unwrap_or_default(),
                    limit.at(&[order.greater.0]).text(name),
                );
                let (Ok(one), Ok(other)) = (Quantity::parse(amount), Quantity::parse(bound)) else {
                    continue;
                };
                if one > other {
                    let field = at.field(order.place);
                    let shown = limit.at(&[order.shown]).text(name);
                    let text = format!(
                        "{} {amount} is greater than {} {bound}",
                        order.lesser.1, order.greater.1
                    );
                    causes.invalid(field.key(name), shown, text);
                }
            }
        }
        ratios(limit, &at.field("maxLimitRequestRatio"), causes);
    }
}

/// A limit may be so many times its request: at least once, and no more often than the bounds allow.
fn ratios(limit: &Value, path: &Path<'_>, causes: &mut Causes) {
    for (name, ratio) in limit.members("maxLimitRequestRatio") {
        let text = ratio.as_str().unwrap_or_default();
        let Ok(ratio) = Quantity::parse(text) else { continue };
        if ratio.milli() < 1000 {
            causes.invalid(path.key(name), text, format!("ratio {text} is less than 1"));
        }
        let bound = |list: &str| Quantity::parse(limit.at(&[list]).text(name)).map(Quantity::milli);
        if let (Ok(low), Ok(high)) = (bound("min"), bound("max"))
            && low > 0
        {
            let most = high as f64 / low as f64;
            if ratio.milli() as f64 / 1000.0 > most {
                let text_of = format!("ratio {text} is greater than max/min = {most:.6}");
                causes.invalid(path.key(name), text, text_of);
            }
        }
    }
}
