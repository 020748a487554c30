//! How answers look in a terminal. Pure: values to text.

use protocol::admin::{ActorEntry, AdminReply, MemberEntry};
use serde_json::Value;

/// Columns, each as wide as its widest cell, two spaces between.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            line.push_str(cell);
            let padding = widths[column].saturating_sub(cell.chars().count()) + 2;
            line.extend(std::iter::repeat_n(' ', padding));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A reply as text. `tree` draws actors as a tree below `root`.
pub fn reply(reply: &AdminReply, tree_root: Option<&str>) -> String {
    match (reply, tree_root) {
        (AdminReply::Actors(actors), Some(root)) => tree(actors, root),
        (AdminReply::Actors(actors), None) => list(actors),
        (AdminReply::Members(members), _) => member_table(members),
        (AdminReply::Json(text), _) => pretty(text),
        (AdminReply::Done(text), _) => format!("{text}\n"),
    }
}

fn list(actors: &[ActorEntry]) -> String {
    if actors.is_empty() {
        return "nothing below this path\n".to_owned();
    }
    let mut rows = vec![
        ["NAME", "KIND", "STATE", "RESTARTS", "DOING"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for actor in actors {
        let name = actor.path.rsplit('/').next().unwrap_or_default();
        let name = if actor.children > 0 || actor.kind == "folder" {
            format!("{name}/")
        } else {
            name.to_owned()
        };
        let restarts = if actor.kind == "folder" {
            String::new()
        } else {
            actor.restarts.to_string()
        };
        rows.push(vec![
            name,
            actor.kind.clone(),
            actor.state.clone(),
            restarts,
            actor.summary.clone(),
        ]);
    }
    columns(&rows)
}

fn tree(actors: &[ActorEntry], root: &str) -> String {
    let mut text = format!("{root}\n");
    let base = root.trim_end_matches('/').matches('/').count();
    for (index, actor) in actors.iter().enumerate().filter(|(_, actor)| actor.path != root) {
        let depth = actor.path.matches('/').count().saturating_sub(base).max(1);
        let mut line = String::new();
        for level in 1..depth {
            line.push_str(if has_later(&actors[index..], actor, base + level) {
                "│  "
            } else {
                "   "
            });
        }
        line.push_str(if has_later(&actors[index..], actor, base + depth) {
            "├─ "
        } else {
            "└─ "
        });
        line.push_str(actor.path.rsplit('/').next().unwrap_or_default());
        if actor.kind != "folder" {
            line.push_str(&format!("  ({}, {}", actor.kind, actor.state));
            if actor.restarts > 0 {
                line.push_str(&format!(", restarted {}x", actor.restarts));
            }
            line.push(')');
            if !actor.summary.is_empty() {
                line.push_str(&format!("  {}", actor.summary));
            }
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// Whether a sibling of `actor`'s ancestor at `depth` follows.
fn has_later(rest: &[ActorEntry], actor: &ActorEntry, depth: usize) -> bool {
    let cut = |path: &str| path.split('/').take(depth + 1).collect::<Vec<_>>().join("/");
    let own = cut(&actor.path);
    let parent = own
        .rsplit_once('/')
        .map(|(parent, _)| format!("{parent}/"))
        .unwrap_or_default();
    rest.iter()
        .skip(1)
        .any(|later| later.path.starts_with(&parent) && cut(&later.path) != own)
}

fn member_table(members: &[MemberEntry]) -> String {
    let mut rows = vec![
        ["NAME", "STATE", "ROLE", "ADDRESS", "INCARNATION"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for member in members {
        let incarnation = member.incarnation.to_string();
        rows.push(vec![
            member.name.clone(),
            member.state.clone(),
            member.role.clone(),
            member.address.clone(),
            incarnation,
        ]);
    }
    columns(&rows)
}

/// An actor's JSON. Who manages which field of an object is left out, as `kubectl get -o yaml` does.
fn pretty(text: &str) -> String {
    let value: Result<Value, _> = serde_json::from_str(text);
    let shown = value.and_then(|mut value| {
        if let Some(Value::Object(metadata)) = value.pointer_mut("/object/metadata") {
            metadata.remove("managedFields");
        }
        serde_json::to_string_pretty(&value)
    });
    match shown {
        Ok(pretty) => format!("{pretty}\n"),
        Err(_) => format!("{text}\n"),
    }
}

/// A meta.k8s.io/v1 Table as text. Columns of lower priority are shown when `wide`; the namespace first when asked.
pub fn table(table: &Value, wide: bool, with_namespace: bool, headers: bool) -> String {
    let empty = Vec::new();
    let definitions = table["columnDefinitions"].as_array().unwrap_or(&empty);
    let shown: Vec<usize> = (0..definitions.len())
        .filter(|at| wide || definitions[*at]["priority"].as_u64() == Some(0))
        .collect();
    let mut rows = Vec::new();
    if headers {
        let names = shown
            .iter()
            .map(|at| definitions[*at]["name"].as_str().unwrap_or_default().to_uppercase());
        rows.push(
            with_namespace
                .then(|| "NAMESPACE".to_owned())
                .into_iter()
                .chain(names)
                .collect(),
        );
    }
    for row in table["rows"].as_array().unwrap_or(&empty) {
        let namespace = row
            .pointer("/object/metadata/namespace")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let cells = shown.iter().map(|at| cell(&row["cells"][*at]));
        rows.push(
            with_namespace
                .then(|| namespace.to_owned())
                .into_iter()
                .chain(cells)
                .collect(),
        );
    }
    columns(&rows)
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "<none>".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(path: &str, kind: &str) -> ActorEntry {
        ActorEntry {
            path: path.into(),
            kind: kind.into(),
            state: "running".into(),
            summary: String::new(),
            restarts: 0,
            children: 0,
        }
    }

    #[test]
    fn what_an_actor_knows_is_shown_without_managed_fields() {
        let text = r#"{"object":{"metadata":{"managedFields":[{"manager":"x"}],"name":"web"}}}"#;
        let shown = reply(&AdminReply::Json(text.to_owned()), None);
        assert!(shown.contains("web") && !shown.contains("manager"), "{shown}");
    }

    #[test]
    fn a_tree_shows_who_hangs_below_whom() {
        let actors = [
            entry("/a", "folder"),
            entry("/a/b", "pod"),
            entry("/a/c", "folder"),
            entry("/a/c/d", "pod"),
            entry("/e", "router"),
        ];
        let expected =
            "/\n├─ a\n│  ├─ b  (pod, running)\n│  └─ c\n│     └─ d  (pod, running)\n└─ e  (router, running)\n";
        assert_eq!(tree(&actors, "/"), expected);
    }

    #[test]
    fn a_table_hides_wide_columns_unless_asked() {
        let value = json!({
            "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "IP", "priority": 1}],
            "rows": [{"cells": ["web", "10.0.0.1"], "object": {"metadata": {"namespace": "d"}}}],
        });
        assert_eq!(table(&value, false, false, true), "NAME\nweb\n");
        assert_eq!(
            table(&value, true, true, true),
            "NAMESPACE  NAME  IP\nd          web   10.0.0.1\n"
        );
    }
}
