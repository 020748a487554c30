//! Writes `src/protobuf/fields.txt`: the field numbers of Kubernetes' protobuf messages, read from the sources of the crate
//! k8s-pb, for the definitions that the table of kinds reaches. Run it when kinds are added or k8s-pb follows a new release:
//! `cargo run --release -p api --example protobuf_fields -- PATH/TO/k8s-pb/src > protocol/api/src/protobuf/fields.txt`

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use api::schema::Schemas;

fn main() -> std::io::Result<()> {
    let root = std::env::args().nth(1).unwrap_or_else(|| {
        eprintln!("usage: protobuf_fields PATH/TO/k8s-pb/src");
        std::process::exit(2);
    });
    let mut messages = BTreeMap::new();
    visit(Path::new(&root), &mut Vec::new(), &mut messages)?;
    let definitions: BTreeMap<String, &str> = Schemas::built_in()
        .names()
        .map(|name| (name.to_lowercase(), name))
        .collect();
    // Messages that are no definitions of their own in JSON, where their fields stand in the message that holds them.
    let mut inlined = BTreeSet::new();
    let mut lines = BTreeMap::new();
    for (name, fields) in &messages {
        if let Some(definition) = definitions.get(&format!("io.k8s.{name}").to_lowercase()) {
            let line = told(definition, fields, &mut inlined);
            lines.insert((*definition).to_owned(), line);
        }
    }
    while let Some(name) = inlined.pop_first() {
        if let Some(fields) = messages
            .get(&name)
            .filter(|_| !lines.contains_key(&format!("io.k8s.{name}")))
        {
            let name = format!("io.k8s.{name}");
            let line = told(&name, fields, &mut inlined);
            lines.insert(name, line);
        }
    }
    for (name, line) in lines {
        println!("{name}{line}");
    }
    Ok(())
}

/// The fields of a message as the table has them, and which messages stand inlined in it. A message that is itself inlined
/// has a definition only where JSON has one for other places.
fn told(definition: &str, fields: &[Field], inlined: &mut BTreeSet<String>) -> String {
    let known = Schemas::built_in().definition(definition);
    let mut line = String::new();
    for field in fields {
        // Where JSON has no such field, the message's own fields stand in its place.
        let text = field.name.replace('_', "");
        let absent = known.is_some_and(|known| known.fields.iter().all(|field| field.name.to_lowercase() != text));
        line.push_str(&format!(" {}={}", field.name, field.number));
        if let Some(message) = field.message.as_ref().filter(|_| absent) {
            line.push_str(&format!(":io.k8s.{message}"));
            inlined.insert(message.clone());
        }
    }
    line
}

/// One field of a message.
struct Field {
    name: String,
    number: u32,
    message: Option<String>,
}

fn visit(folder: &Path, package: &mut Vec<String>, messages: &mut BTreeMap<String, Vec<Field>>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().replace('_', "-");
        if path.is_dir() {
            package.push(name);
            visit(&path, package, messages)?;
            package.pop();
        } else if name == "mod.rs" {
            read(&package.join("."), &std::fs::read_to_string(&path)?, messages);
        }
    }
    Ok(())
}

/// Reads the messages of one package: a `#[prost(..., tag = "n")]` line, then the field's line.
fn read(package: &str, source: &str, messages: &mut BTreeMap<String, Vec<Field>>) {
    let (mut message, mut number) = (String::new(), None);
    for line in source.lines().map(str::trim) {
        if let Some(name) = line
            .strip_prefix("pub struct ")
            .and_then(|rest| rest.strip_suffix(" {"))
        {
            message = format!("{package}.{name}");
            messages.insert(message.clone(), Vec::new());
        } else if let Some(attribute) = line.strip_prefix("#[prost(") {
            let tag = attribute
                .split("tag = \"")
                .nth(1)
                .and_then(|rest| rest.split('"').next());
            number = tag
                .and_then(|tag| tag.parse::<u32>().ok())
                .map(|tag| (tag, attribute.starts_with("message")));
        } else if let (Some((tag, is_message)), Some(field)) = (number, line.strip_prefix("pub ")) {
            number = None;
            let (name, kind) = field.split_once(':').unwrap_or((field, ""));
            let kind = kind
                .trim()
                .trim_start_matches("::core::option::Option<")
                .trim_end_matches([',', '>']);
            let message_kind = is_message && !kind.starts_with("::") && !kind.is_empty();
            messages.entry(message.clone()).or_default().push(Field {
                name: name.trim_start_matches("r#").to_owned(),
                number: tag,
                message: message_kind.then(|| resolved(package, kind)),
            });
        }
    }
}

/// The full name of a type that a package names: `super::v1::Rule`.
fn resolved(package: &str, kind: &str) -> String {
    let mut steps: Vec<&str> = package.split('.').collect();
    for step in kind.split("::") {
        if step == "super" {
            steps.pop();
        } else {
            steps.push(step);
        }
    }
    steps.join(".")
}
