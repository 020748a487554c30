//! The two policies of a job's spec: which failures of pods count, and when some successes are enough.

use std::collections::BTreeSet;

use serde_json::Value;

use super::checks::{Rule, check};
use crate::access::{Access, items_mut, set_default_text};
use crate::cause::{Causes, Path};

const RULES_MAX: usize = 20;
const VALUES_MAX: usize = 255;

/// A pattern without a status means a condition that is true.
pub fn default(spec: &mut Value) {
    if let Some(policy) = spec.get_mut("podFailurePolicy") {
        for rule in items_mut(policy, "rules") {
            for pattern in items_mut(rule, "onPodConditions") {
                set_default_text(pattern, "status", "True");
            }
        }
    }
}

/// Validates `podFailurePolicy`.
pub fn validate(spec: &Value, path: &Path<'_>, causes: &mut Causes) {
    let policy = spec.at(&["podFailurePolicy"]);
    let at = path.field("podFailurePolicy");
    let list = at.field("rules");
    let template = spec.at(&["template", "spec"]);
    let names: Vec<&str> = ["containers", "initContainers"]
        .into_iter()
        .flat_map(|list| template.items(list))
        .map(|container| container.text("name"))
        .collect();
    if policy.items("rules").len() > RULES_MAX {
        causes.too_many(list, policy.items("rules").len(), RULES_MAX);
    }
    for (index, rule) in policy.items("rules").iter().enumerate() {
        let at = list.index(index);
        let actions: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
        if rule.text("action").is_empty() {
            let text = "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]";
            causes.required(at.field("action"), text);
        }
        check(rule, &at, &[("action", Rule::Known(actions))], causes);
        if rule.text("action") == "FailIndex" && !spec.has("backoffLimitPerIndex") {
            causes.invalid(
                at.field("action"),
                "FailIndex",
                "requires the backoffLimitPerIndex to be set",
            );
        }
        let (codes, conditions) = (rule.at(&["onExitCodes"]), rule.items("onPodConditions"));
        match (codes.is_null(), conditions.is_empty()) {
            (false, false) => {
                let text = "specifying both OnExitCodes and OnPodConditions is not supported";
                causes.invalid(at, rule.clone(), text);
            }
            (true, true) => {
                let text = "specifying one of OnExitCodes and OnPodConditions is required";
                causes.invalid(at, rule.clone(), text);
            }
            _ => {}
        }
        if !codes.is_null() {
            exit_codes(codes, &at.field("onExitCodes"), &names, causes);
        }
        let patterns = at.field("onPodConditions");
        if conditions.len() > RULES_MAX {
            causes.too_many(patterns, conditions.len(), RULES_MAX);
        }
        for (index, pattern) in conditions.iter().enumerate() {
            check(
                pattern,
                &patterns.index(index),
                &[
                    ("type", Rule::RequiredForm(crate::rules::qualified_name)),
                    ("status", Rule::RequiredKnown(&["False", "True", "Unknown"])),
                ],
                causes,
            );
        }
    }
}

fn exit_codes(codes: &Value, path: &Path<'_>, names: &[&str], causes: &mut Causes) {
    check(
        codes,
        path,
        &[("operator", Rule::RequiredKnown(&["In", "NotIn"]))],
        causes,
    );
    let container = codes.text("containerName");
    if !container.is_empty() && !names.contains(&container) {
        let text = "must be one of the container or initContainer names in the pod template";
        causes.invalid(path.field("containerName"), container, text);
    }
    let at = path.field("values");
    let values: Vec<i64> = codes.items("values").iter().filter_map(Value::as_i64).collect();
    if values.is_empty() {
        causes.invalid(at, codes.at(&["values"]).clone(), "at least one value is required");
    } else if values.len() > VALUES_MAX {
        causes.too_many(at, values.len(), VALUES_MAX);
    }
    let mut known = BTreeSet::new();
    for (index, value) in values.iter().enumerate() {
        if codes.text("operator") == "In" && *value == 0 {
            causes.invalid(at.index(index), *value, "must not be 0 for the In operator");
        }
        if !known.insert(*value) {
            causes.duplicate(at.index(index), *value);
        }
    }
    if !values.is_sorted() {
        causes.invalid(at, codes.at(&["values"]).clone(), "must be ordered");
    }
}

/// Validates `successPolicy`.
pub fn validate_success(spec: &Value, path: &Path<'_>, causes: &mut Causes) {
    let policy = spec.at(&["successPolicy"]);
    if policy.is_null() {
        return;
    }
    let at = path.field("successPolicy");
    if spec.text("completionMode") != "Indexed" {
        causes.invalid(at, policy.clone(), "requires indexed completion mode");
        return;
    }
    let list = at.field("rules");
    if policy.items("rules").is_empty() {
        causes.required(
            list,
            "at least one rules must be specified when the successPolicy is specified",
        );
    }
    if policy.items("rules").len() > RULES_MAX {
        causes.too_many(list, policy.items("rules").len(), RULES_MAX);
    }
    let completions = spec.int("completions").unwrap_or(0);
    for (index, rule) in policy.items("rules").iter().enumerate() {
        let at = list.index(index);
        let text = rule.text("succeededIndexes");
        if text.is_empty() && !rule.has("succeededCount") {
            causes.required(
                at,
                "at least one of succeededCount or succeededIndexes must be specified",
            );
        }
        let indexes = (!text.is_empty()).then(|| count_indexes(text, completions));
        if let Some(Err(problem)) = &indexes {
            causes.invalid(at.field("succeededIndexes"), text, problem);
        }
        if let Some(count) = rule.int("succeededCount") {
            check(rule, &at, &[("succeededCount", Rule::NotNegative)], causes);
            if count > completions {
                let problem =
                    format!("must be less than or equal to {completions} (the number of specified completions)");
                causes.invalid(at.field("succeededCount"), count, problem);
            }
            if let Some(Ok(most)) = indexes
                && count > most
            {
                let problem = format!(
                    "must be less than or equal to {most} (the number of indexes in the specified succeededIndexes field)"
                );
                causes.invalid(at.field("succeededCount"), count, problem);
            }
        }
    }
}

/// How many indexes `1,3-5` names, which must be below the number of completions and in order.
fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    let number = |text: &str| -> Result<i64, String> {
        let number = text.parse::<i64>().ok().filter(|number| *number >= 0);
        let number = number.ok_or_else(|| format!("cannot convert string to integer for index: {text:?}"))?;
        if number >= completions {
            return Err(format!("too large index: {text:?}"));
        }
        Ok(number)
    };
    let (mut total, mut last) = (0, -1);
    for part in text.split(',') {
        let (from, to) = match part.split_once('-') {
            Some((from, to)) => (number(from)?, number(to)?),
            None => (number(part)?, number(part)?),
        };
        if from <= last || to < from {
            return Err(format!("non-increasing order, previous: {last}, current: {from}"));
        }
        total += to - from + 1;
        last = to;
    }
    Ok(total)
}
