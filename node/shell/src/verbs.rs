//! The daily verbs: get, describe, apply, delete, logs. Each is one or a few requests to the API, as kubectl makes them.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::Value;

use crate::client::{Client, ClientError};
use crate::describe::describe;
use crate::render;
use crate::resource::{collection, kind_named, names, object_path};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// Which namespace a command is about.
#[derive(Args, Clone, Debug)]
pub struct Scope {
    /// Namespace [default: the context's].
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Every namespace.
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

impl Scope {
    fn namespace<'a>(&'a self, client: &'a Client) -> Option<&'a str> {
        if self.all_namespaces {
            None
        } else {
            Some(self.namespace.as_deref().unwrap_or(client.namespace()))
        }
    }
}

/// How objects are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// All columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// `kind/name` only.
    Name,
}

/// `get`.
#[derive(Args, Clone, Debug)]
pub struct Get {
    /// Kind and names: `pods`, `pod web`, `deployment/web`.
    #[arg(required = true)]
    pub what: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub scope: Scope,
    /// Only objects with these labels.
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// Only objects with these fields.
    #[arg(long)]
    pub field_selector: Option<String>,
    /// How to print.
    #[arg(short, long)]
    pub output: Option<Format>,
    /// Go on and print changes.
    #[arg(short, long)]
    pub watch: bool,
    /// No headings.
    #[arg(long)]
    pub no_headers: bool,
}

/// Runs `get`; `deploy,svc` is several of them, one after the other.
pub async fn get(client: &Client, get: &Get) -> Result<(), ClientError> {
    let kinds: Vec<&str> = get.what[0].split(',').filter(|kind| !kind.is_empty()).collect();
    if kinds.len() < 2 {
        return get_kind(client, get).await;
    }
    if get.watch {
        return Err(ClientError::Usage(
            "--watch follows one kind; run it once for each".to_owned(),
        ));
    }
    for (index, kind) in kinds.into_iter().enumerate() {
        if index > 0 && !matches!(get.output, Some(Format::Json | Format::Yaml | Format::Name)) {
            println!();
        }
        let what = std::iter::once(kind.to_owned())
            .chain(get.what[1..].iter().cloned())
            .collect();
        get_kind(client, &Get { what, ..get.clone() }).await?;
    }
    Ok(())
}

async fn get_kind(client: &Client, get: &Get) -> Result<(), ClientError> {
    let (kind, listed) = names(&get.what)?;
    let namespace = get.scope.namespace(client);
    let base = collection(kind, namespace);
    let mut query: Vec<String> = Vec::new();
    for (name, value) in [("labelSelector", &get.selector), ("fieldSelector", &get.field_selector)] {
        query.extend(value.as_ref().map(|value| format!("{name}={}", encoded(value))));
    }
    let paths: Vec<String> = match listed.as_slice() {
        [] => vec![format!("{base}?{}", query.join("&"))],
        listed => listed.iter().map(|name| format!("{base}/{name}")).collect(),
    };
    let as_table = matches!(get.output, None | Some(Format::Wide));
    let mut headers = !get.no_headers;
    for path in &paths {
        let accept = if as_table { TABLE } else { "application/json" };
        let value = client.request("GET", path, "", accept, Vec::new()).await?;
        if as_table {
            let empty = value["rows"].as_array().is_none_or(Vec::is_empty);
            if empty && !get.watch {
                let place = namespace
                    .filter(|_| kind.namespaced)
                    .map_or(String::new(), |n| format!(" in {n} namespace"));
                eprintln!("No resources found{place}.");
                continue;
            }
            let wide = get.output == Some(Format::Wide);
            print!(
                "{}",
                render::table(&value, wide, get.scope.all_namespaces && kind.namespaced, headers)
            );
            headers = false;
        } else {
            print_objects(kind.singular, &value, get.output)?;
        }
    }
    if get.watch {
        return watch(client, &base, &query, get, kind.namespaced).await;
    }
    Ok(())
}

fn print_objects(singular: &str, value: &Value, format: Option<Format>) -> Result<(), ClientError> {
    let failed = |error: String| ClientError::Usage(error);
    match format {
        Some(Format::Yaml) => print!(
            "{}",
            serde_norway::to_string(value).map_err(|error| failed(error.to_string()))?
        ),
        Some(Format::Name) => {
            let items = value["items"]
                .as_array()
                .cloned()
                .unwrap_or_else(|| vec![value.clone()]);
            for item in items {
                println!("{singular}/{}", item["metadata"]["name"].as_str().unwrap_or_default());
            }
        }
        _ => println!(
            "{}",
            serde_json::to_string_pretty(value).map_err(|error| failed(error.to_string()))?
        ),
    }
    Ok(())
}

/// Prints what changes from now on, a line each.
async fn watch(client: &Client, base: &str, query: &[String], get: &Get, namespaced: bool) -> Result<(), ClientError> {
    let listed = client.get(&format!("{base}?limit=1&{}", query.join("&"))).await?;
    let revision = listed
        .pointer("/metadata/resourceVersion")
        .and_then(Value::as_str)
        .unwrap_or("0");
    let path = format!("{base}?watch=true&resourceVersion={revision}&{}", query.join("&"));
    let mut parts = Box::pin(client.stream(&path, TABLE).await?);
    let mut pending = Vec::new();
    let mut columns = Value::Null;
    while let Some(part) = parts.next().await {
        pending.extend_from_slice(&part?);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line).unwrap_or_default();
            if event["type"] == "ERROR" {
                let message = event
                    .pointer("/object/message")
                    .and_then(Value::as_str)
                    .unwrap_or("the watch failed");
                return Err(ClientError::Usage(message.to_owned()));
            }
            let mut table = event["object"].clone();
            if table["columnDefinitions"].is_array() {
                columns = table["columnDefinitions"].clone();
            } else {
                table["columnDefinitions"] = columns.clone();
            }
            let wide = get.output == Some(Format::Wide);
            print!(
                "{}",
                render::table(&table, wide, get.scope.all_namespaces && namespaced, false)
            );
            // A closed pipe ends the command at the next line.
            let _ = std::io::stdout().flush();
        }
    }
    Ok(())
}

/// `describe`.
#[derive(Args, Clone, Debug)]
pub struct Describe {
    /// Kind and names.
    #[arg(required = true)]
    pub what: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub scope: Scope,
}

/// Runs `describe`: the object for people, with its events.
pub async fn describe_objects(client: &Client, what: &Describe) -> Result<(), ClientError> {
    let (kind, listed) = names(&what.what)?;
    let base = collection(kind, what.scope.namespace(client));
    let objects = match listed.as_slice() {
        [] => client.get(&base).await?["items"]
            .as_array()
            .cloned()
            .unwrap_or_default(),
        listed => {
            let mut objects = Vec::new();
            for name in listed {
                objects.push(client.get(&format!("{base}/{name}")).await?);
            }
            objects
        }
    };
    let events_kind = kind_named("events")?;
    for (index, object) in objects.iter().enumerate() {
        let namespace = object
            .pointer("/metadata/namespace")
            .and_then(Value::as_str)
            .unwrap_or("default");
        let uid = object
            .pointer("/metadata/uid")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let path = format!(
            "{}?fieldSelector=involvedObject.uid%3D{uid}",
            collection(events_kind, Some(namespace))
        );
        let events = client.get(&path).await?;
        if index > 0 {
            println!("\n");
        }
        print!(
            "{}",
            describe(
                kind.kind,
                object,
                events["items"].as_array().map(Vec::as_slice).unwrap_or_default()
            )
        );
    }
    Ok(())
}

/// `apply`.
#[derive(Args, Clone, Debug)]
pub struct Apply {
    /// Files or folders of YAML or JSON; `-` is standard input.
    #[arg(short, long = "filename", required = true)]
    pub filename: Vec<PathBuf>,
    /// Namespace of objects that name none [default: the context's].
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Take over fields that others manage.
    #[arg(long)]
    pub force_conflicts: bool,
    /// Ask the server what would happen, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs `apply`: server-side apply of every object in the files, in their order.
pub async fn apply(client: &Client, apply: &Apply) -> Result<(), ClientError> {
    let namespace = apply.namespace.clone().unwrap_or_else(|| client.namespace().to_owned());
    for mut object in objects_of(&apply.filename)? {
        let (path, kind, name) = object_path(&object, &namespace)?;
        if kind.namespaced && object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = namespace.as_str().into();
        }
        let mut query = "fieldManager=actorium&fieldValidation=Strict".to_owned();
        if apply.force_conflicts {
            query.push_str("&force=true");
        }
        if apply.dry_run {
            query.push_str("&dryRun=All");
        }
        let before = match client.get(&path).await {
            Ok(value) => Some(value),
            Err(ClientError::Refused { code: 404, .. }) => None,
            Err(error) => return Err(error),
        };
        let body = object.to_string().into_bytes();
        let path = format!("{path}?{query}");
        let after = client
            .request("PATCH", &path, "application/apply-patch+yaml", "application/json", body)
            .await?;
        let version = |value: &Value| value["metadata"]["resourceVersion"].clone();
        let outcome = match before {
            None => "created",
            Some(before) if version(&before) == version(&after) => "unchanged",
            Some(_) => "configured",
        };
        let dry = if apply.dry_run { " (server dry run)" } else { "" };
        println!("{}/{name} {outcome}{dry}", kind.singular);
    }
    Ok(())
}

/// Every object in the files; folders give their `.yaml`, `.yml` and `.json` files by name.
fn objects_of(paths: &[PathBuf]) -> Result<Vec<Value>, ClientError> {
    let mut objects = Vec::new();
    for path in paths {
        let failed = |reason: String| ClientError::File {
            path: path.clone(),
            reason,
        };
        if path == Path::new("-") {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| failed(error.to_string()))?;
            objects.extend(documents(path, &text)?);
        } else if path.is_dir() {
            let entries = std::fs::read_dir(path).map_err(|error| failed(error.to_string()))?;
            let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
            files.retain(|file| {
                file.extension()
                    .is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
            });
            files.sort();
            if files.is_empty() {
                return Err(failed("no .yaml, .yml or .json file in this folder".to_owned()));
            }
            objects.extend(objects_of(&files)?);
        } else {
            let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
            objects.extend(documents(path, &text)?);
        }
    }
    Ok(objects)
}

/// The documents of one file; a `List` gives its items.
fn documents(path: &Path, text: &str) -> Result<Vec<Value>, ClientError> {
    let mut objects = Vec::new();
    for document in serde_norway::Deserializer::from_str(text) {
        let value = Value::deserialize(document).map_err(|error| ClientError::File {
            path: path.to_owned(),
            reason: format!("malformed YAML: {error}"),
        })?;
        match value {
            Value::Null => {}
            Value::Object(ref fields) if fields.get("kind").is_some_and(|kind| kind == "List") => {
                objects.extend(fields["items"].as_array().cloned().unwrap_or_default());
            }
            value => objects.push(value),
        }
    }
    Ok(objects)
}

/// `delete`.
#[derive(Args, Clone, Debug)]
pub struct Delete {
    /// Kind and names.
    pub what: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub scope: Scope,
    /// Delete what these files name.
    #[arg(short, long = "filename")]
    pub filename: Vec<PathBuf>,
    /// Only objects with these labels.
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// Seconds that containers get to stop.
    #[arg(long)]
    pub grace_period: Option<i64>,
    /// What becomes of dependents: background, foreground or orphan.
    #[arg(long, default_value = "background")]
    pub cascade: String,
}

/// Runs `delete`.
pub async fn delete(client: &Client, delete: &Delete) -> Result<(), ClientError> {
    let policy = match delete.cascade.as_str() {
        "background" => "Background",
        "foreground" => "Foreground",
        "orphan" => "Orphan",
        other => {
            return Err(ClientError::Usage(format!(
                "--cascade {other:?}: background, foreground or orphan"
            )));
        }
    };
    let mut body = serde_json::json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy});
    if let Some(seconds) = delete.grace_period {
        body["gracePeriodSeconds"] = seconds.into();
    }
    let namespace = delete.scope.namespace(client);
    let mut targets = Vec::new();
    for object in objects_of(&delete.filename)? {
        let (path, kind, name) = object_path(&object, namespace.unwrap_or(client.namespace()))?;
        targets.push((path, kind.singular, name));
    }
    if !delete.what.is_empty() {
        let (kind, listed) = names(&delete.what)?;
        let base = collection(kind, namespace);
        match (&delete.selector, listed.is_empty()) {
            (Some(selector), true) => {
                let found = client
                    .get(&format!("{base}?labelSelector={}", encoded(selector)))
                    .await?;
                for item in found["items"].as_array().into_iter().flatten() {
                    let (path, kind, name) = object_path(item, client.namespace())?;
                    targets.push((path, kind.singular, name));
                }
            }
            (None, true) => {
                return Err(ClientError::Usage(
                    "name the objects to delete, or a selector with -l".to_owned(),
                ));
            }
            (_, false) => targets.extend(
                listed
                    .into_iter()
                    .map(|name| (format!("{base}/{name}"), kind.singular, name)),
            ),
        }
    }
    if targets.is_empty() {
        return Err(ClientError::Usage(
            "nothing to delete: name a kind and objects, or files with -f".to_owned(),
        ));
    }
    for (path, singular, name) in targets {
        let bytes = body.to_string().into_bytes();
        client
            .request("DELETE", &path, "application/json", "application/json", bytes)
            .await?;
        println!("{singular} {name:?} deleted");
    }
    Ok(())
}

/// `logs`.
#[derive(Args, Clone, Debug)]
pub struct Logs {
    /// The pod.
    pub pod: String,
    /// Which container, where there are several.
    #[arg(short, long)]
    pub container: Option<String>,
    /// Namespace [default: the context's].
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Go on as the container writes.
    #[arg(short, long)]
    pub follow: bool,
    /// Of the start before the last one.
    #[arg(short, long)]
    pub previous: bool,
    /// Only the last lines.
    #[arg(long)]
    pub tail: Option<u64>,
    /// With the time of each line.
    #[arg(long)]
    pub timestamps: bool,
}

/// Runs `logs`.
pub async fn logs(client: &Client, logs: &Logs) -> Result<(), ClientError> {
    let pod = logs.pod.split_once('/').map_or(logs.pod.as_str(), |(_, name)| name);
    let namespace = logs.namespace.as_deref().unwrap_or(client.namespace());
    let mut path = format!("{}/{pod}/log?", collection(kind_named("pods")?, Some(namespace)));
    let flags = [
        ("follow", logs.follow),
        ("previous", logs.previous),
        ("timestamps", logs.timestamps),
    ];
    for (name, _) in flags.into_iter().filter(|(_, set)| *set) {
        path.push_str(&format!("{name}=true&"));
    }
    if let Some(container) = &logs.container {
        path.push_str(&format!("container={container}&"));
    }
    if let Some(tail) = logs.tail {
        path.push_str(&format!("tailLines={tail}&"));
    }
    let mut parts = Box::pin(client.stream(&path, "*/*").await?);
    let mut out = std::io::stdout().lock();
    while let Some(part) = parts.next().await {
        if out.write_all(&part?).and_then(|()| out.flush()).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// A query value, percent-encoded.
fn encoded(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    text.bytes()
        .map(|byte| {
            if keep(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_its_documents_and_the_items_of_lists() {
        let text = "a: 1\n---\n---\nkind: List\nitems: [{b: 2}, {c: 3}]\n";
        let objects = documents(Path::new("x"), text).unwrap();
        assert_eq!(
            objects,
            [
                serde_json::json!({"a": 1}),
                serde_json::json!({"b": 2}),
                serde_json::json!({"c": 3})
            ]
        );
        let error = documents(Path::new("x.yaml"), "a: [").unwrap_err().to_string();
        assert!(error.starts_with("x.yaml: malformed YAML:"), "{error}");
    }

    #[test]
    fn query_values_are_encoded() {
        assert_eq!(encoded("a in (b, c)"), "a%20in%20%28b%2C%20c%29");
    }
}
