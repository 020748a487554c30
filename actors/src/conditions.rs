//! Edits of `status.conditions`. A condition keeps its transition time as long as its status stays the same. Pure.

use protocol::UnixMillis;
use serde_json::{Map, Value, json};

/// What a condition should say.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Its type.
    pub kind: &'a str,
    /// `True`, `False` or `Unknown`.
    pub status: &'a str,
    /// A word in CamelCase; empty for none.
    pub reason: &'a str,
    /// A sentence; empty for none.
    pub message: &'a str,
}

/// Which times a kind's conditions carry beside the transition time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// Only `lastTransitionTime`.
    Transition,
    /// Also `lastUpdateTime`, as Deployments have it.
    Update,
}

/// Puts a condition into `status.conditions`. Returns whether status, reason or message changed; if not, nothing is
/// touched, so that a decision that finds what it wants writes nothing.
pub fn set(object: &mut Value, wanted: Wanted<'_>, times: Times, now: UnixMillis) -> bool {
    let status = crate::ownership::member(object, "status");
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(conditions) = conditions.as_array_mut() else {
        return false;
    };
    let text = |condition: &Value, name: &str| condition[name].as_str().unwrap_or_default().to_owned();
    let existing = conditions.iter_mut().find(|condition| condition["type"] == wanted.kind);
    let now = now.rfc3339();
    let mut transition = now.clone();
    if let Some(existing) = &existing {
        let same_status = text(existing, "status") == wanted.status;
        if same_status && text(existing, "reason") == wanted.reason && text(existing, "message") == wanted.message {
            return false;
        }
        if same_status {
            transition = text(existing, "lastTransitionTime");
        }
    }
    let mut condition = existing
        .as_deref()
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    condition.insert("type".into(), json!(wanted.kind));
    condition.insert("status".into(), json!(wanted.status));
    set_text(&mut condition, "reason", wanted.reason);
    set_text(&mut condition, "message", wanted.message);
    condition.insert("lastTransitionTime".into(), json!(transition));
    if times == Times::Update {
        condition.insert("lastUpdateTime".into(), json!(now));
    }
    match existing {
        Some(existing) => *existing = Value::Object(condition),
        None => conditions.push(Value::Object(condition)),
    }
    true
}

/// Takes a condition off. Returns whether it was there.
pub fn remove(object: &mut Value, kind: &str) -> bool {
    let Some(Value::Array(conditions)) = object.get_mut("status").and_then(|status| status.get_mut("conditions"))
    else {
        return false;
    };
    let before = conditions.len();
    conditions.retain(|condition| condition["type"] != kind);
    conditions.len() != before
}

fn set_text(condition: &mut Map<String, Value>, name: &str, text: &str) {
    if text.is_empty() {
        condition.remove(name);
    } else {
        condition.insert(name.into(), json!(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_its_transition_time_until_its_status_changes() {
        let mut object = json!({});
        let mut put = |status, reason, at| {
            let wanted = Wanted {
                kind: "Ready",
                status,
                reason,
                message: "",
            };
            let changed = set(&mut object, wanted, Times::Transition, UnixMillis(at));
            (
                changed,
                object["status"]["conditions"][0]["lastTransitionTime"]
                    .as_str()
                    .unwrap()
                    .to_owned(),
            )
        };
        let (first, second) = (UnixMillis(1000).rfc3339(), UnixMillis(5000).rfc3339());
        assert_eq!(put("True", "A", 1000), (true, first.clone()));
        assert_eq!(put("True", "A", 2000), (false, first.clone()));
        assert_eq!(put("True", "B", 3000), (true, first));
        assert_eq!(put("False", "B", 5000), (true, second));
    }
}
