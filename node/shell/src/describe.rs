//! `describe`: an object for people. Pure; the same for every kind: its fields as an indented outline, the important ones
//! first, then its conditions and events as tables.

use serde_json::Value;

use crate::render::columns;

/// Fields that machines keep for themselves.
const HIDDEN: &[&str] = &[
    "managedFields",
    "resourceVersion",
    "uid",
    "generation",
    "apiVersion",
    "kind",
];

/// The text of an object with its events, oldest first.
pub fn describe(kind: &str, object: &Value, events: &[Value]) -> String {
    let mut text = String::new();
    let metadata = &object["metadata"];
    for (label, name) in [
        ("Name", "name"),
        ("Namespace", "namespace"),
        ("Created", "creationTimestamp"),
    ] {
        if let Some(value) = metadata[name].as_str() {
            line(&mut text, 0, label, value);
        }
    }
    line(&mut text, 0, "Kind", kind);
    for (label, name) in [("Labels", "labels"), ("Annotations", "annotations")] {
        let entries = metadata[name].as_object();
        let entries = entries
            .into_iter()
            .flatten()
            .filter(|(key, _)| !key.ends_with("last-applied-configuration"));
        let listed: Vec<String> = entries.map(|(key, value)| format!("{key}={}", scalar(value))).collect();
        line(
            &mut text,
            0,
            label,
            if listed.is_empty() {
                "<none>".to_owned()
            } else {
                listed.join("\n")
            }
            .as_str(),
        );
    }
    let owners = metadata["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|owner| owner["controller"] == true);
    for owner in owners {
        line(
            &mut text,
            0,
            "Controlled By",
            &format!("{}/{}", scalar(&owner["kind"]), scalar(&owner["name"])),
        );
    }
    if let Some(at) = metadata["deletionTimestamp"].as_str() {
        line(&mut text, 0, "Deleting", &format!("until {at}"));
    }
    for (name, value) in object.as_object().into_iter().flatten() {
        if name != "metadata" && name != "status" && !HIDDEN.contains(&name.as_str()) {
            outline(&mut text, 0, name, value);
        }
    }
    if let Some(status) = object["status"].as_object() {
        text.push_str("Status:\n");
        for (name, value) in status.iter().filter(|(name, _)| *name != "conditions") {
            outline(&mut text, 1, name, value);
        }
    }
    conditions(&mut text, object);
    event_table(&mut text, events);
    text
}

fn conditions(text: &mut String, object: &Value) {
    let Some(conditions) = object.pointer("/status/conditions").and_then(Value::as_array) else {
        return;
    };
    let mut rows = vec![
        ["Type", "Status", "Since", "Reason", "Message"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for condition in conditions {
        let cell = |name: &str| condition[name].as_str().unwrap_or_default().to_owned();
        rows.push(
            ["type", "status", "lastTransitionTime", "reason", "message"]
                .map(cell)
                .to_vec(),
        );
    }
    text.push_str("Conditions:\n");
    indent(text, &columns(&rows));
}

fn event_table(text: &mut String, events: &[Value]) {
    if events.is_empty() {
        text.push_str("Events:  <none>\n");
        return;
    }
    let mut sorted: Vec<&Value> = events.iter().collect();
    sorted.sort_by_key(|event| scalar(&event["lastTimestamp"]));
    let mut rows = vec![
        ["Type", "Reason", "Last seen", "Count", "From", "Message"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for event in sorted {
        rows.push(vec![
            scalar(&event["type"]),
            scalar(&event["reason"]),
            scalar(&event["lastTimestamp"]),
            event["count"].as_u64().unwrap_or(1).to_string(),
            scalar(&event["source"]["component"]),
            scalar(&event["message"]),
        ]);
    }
    text.push_str("Events:\n");
    indent(text, &columns(&rows));
}

fn indent(text: &mut String, block: &str) {
    for row in block.lines() {
        text.push_str("  ");
        text.push_str(row);
        text.push('\n');
    }
}

fn outline(text: &mut String, depth: usize, name: &str, value: &Value) {
    let label = heading(name);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            text.push_str(&format!("{}{label}:\n", "  ".repeat(depth)));
            for (name, value) in fields.iter().filter(|(name, _)| !HIDDEN.contains(&name.as_str())) {
                outline(text, depth + 1, name, value);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            text.push_str(&format!("{}{label}:\n", "  ".repeat(depth)));
            for item in items {
                let title = ["name", "type", "key", "ip"]
                    .iter()
                    .find_map(|name| item[*name].as_str());
                text.push_str(format!("{}- {}", "  ".repeat(depth + 1), title.unwrap_or_default()).trim_end());
                text.push('\n');
                for (name, value) in item
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter(|(name, _)| *name != "name")
                {
                    outline(text, depth + 2, name, value);
                }
            }
        }
        Value::Array(items) => {
            let listed: Vec<String> = items.iter().map(scalar).collect();
            line(text, depth, &label, &listed.join(" "));
        }
        Value::Object(_) | Value::Null => {}
        value => line(text, depth, &label, &scalar(value)),
    }
}

fn line(text: &mut String, depth: usize, label: &str, value: &str) {
    let indent = "  ".repeat(depth);
    let head = format!(
        "{indent}{:<width$}",
        format!("{label}:"),
        width = 18usize.saturating_sub(indent.len())
    );
    let mut rows = value.lines();
    text.push_str(&format!("{head} {}\n", rows.next().unwrap_or_default()));
    for row in rows {
        text.push_str(&format!("{:width$} {row}\n", "", width = head.len()));
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// `terminationGracePeriodSeconds` as `Termination Grace Period Seconds`.
fn heading(name: &str) -> String {
    let mut heading = String::new();
    let characters: Vec<char> = name.chars().collect();
    for (at, character) in characters.iter().enumerate() {
        let begins_word = at > 0 && character.is_uppercase() && !characters[at - 1].is_uppercase();
        if begins_word {
            heading.push(' ');
        }
        heading.extend(if at == 0 {
            character.to_uppercase().collect::<Vec<_>>()
        } else {
            vec![*character]
        });
    }
    heading
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_description_shows_fields_conditions_and_events() {
        let object = json!({
            "metadata": {"name": "web", "namespace": "d", "labels": {"app": "web"}, "uid": "hidden"},
            "spec": {"restartPolicy": "Always", "containers": [{"name": "c", "image": "i"}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        });
        let events = [json!({"type": "Warning", "reason": "BackOff", "message": "again", "count": 3})];
        let text = describe("Pod", &object, &events);
        for part in [
            "Name:              web",
            "Restart Policy:  Always",
            "    - c",
            "Image:       i",
            "Ready  True",
            "BackOff",
            "again",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
        assert!(!text.contains("hidden"));
    }
}
