//! The paths and operations of a document.

use serde_json::{Map, Value, json};

use super::schemas::{PREFIX, list_name};
use crate::kinds::{Kind, Subresource};

const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";

/// Patch content types, as the document lists them.
const PATCH_TYPES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// All paths of these kinds.
pub fn paths(rows: &[&Kind]) -> Map<String, Value> {
    let mut paths = Map::new();
    for kind in rows {
        let root = if kind.group.is_empty() {
            format!("/api/{}", kind.version)
        } else {
            format!("/apis/{}/{}", kind.group, kind.version)
        };
        let collection = if kind.namespaced {
            if kind.offers("list") {
                paths.insert(format!("{root}/{}", kind.plural), json!({"get": list(kind, true)}));
            }
            format!("{root}/namespaces/{{namespace}}/{}", kind.plural)
        } else {
            format!("{root}/{}", kind.plural)
        };
        let (mut whole, mut item) = (json!({}), json!({}));
        for verb in kind.verbs {
            match *verb {
                "list" => whole["get"] = list(kind, false),
                "create" => whole["post"] = write(kind, "post", "create", kind.definition, own(kind)),
                "deletecollection" => whole["delete"] = delete(kind, true),
                "get" => item["get"] = read(kind, kind.definition, own(kind)),
                "update" => item["put"] = write(kind, "put", "replace", kind.definition, own(kind)),
                "patch" => item["patch"] = patch(kind, kind.definition, own(kind)),
                "delete" => item["delete"] = delete(kind, false),
                _ => {}
            }
        }
        let has_items = item != json!({});
        let mut parameters = Vec::new();
        if kind.namespaced {
            parameters.push(path_parameter(
                "namespace",
                "object name and auth scope, such as for teams and projects",
            ));
        }
        parameters.push(query(
            "pretty",
            "string",
            "If 'true', then the output is pretty printed.",
        ));
        whole["parameters"] = parameters.clone().into();
        parameters.insert(0, path_parameter("name", &format!("name of the {}", kind.kind)));
        item["parameters"] = parameters.clone().into();
        paths.insert(collection.clone(), whole);
        if has_items {
            paths.insert(format!("{collection}/{{name}}"), item);
        }
        for subresource in kind.subresources {
            let mut item = subresource_item(kind, *subresource);
            item["parameters"] = parameters.clone().into();
            paths.insert(format!("{collection}/{{name}}/{}", subresource.name()), item);
        }
    }
    paths
}

type Gvk = (&'static str, &'static str, &'static str);

fn own(kind: &Kind) -> Gvk {
    (kind.group, kind.version, kind.kind)
}

fn subresource_item(kind: &Kind, subresource: Subresource) -> Value {
    let gvk = subresource.body(kind);
    if matches!(
        subresource,
        Subresource::Exec | Subresource::Attach | Subresource::PortForward
    ) {
        let operation = connect(kind, subresource, gvk);
        return json!({"get": operation, "post": operation});
    }
    if subresource == Subresource::Proxy {
        let operation = connect(kind, subresource, gvk);
        let methods = ["get", "post", "put", "patch", "delete", "options", "head"];
        return Value::Object(
            methods
                .map(|method| (method.to_owned(), operation.clone()))
                .into_iter()
                .collect(),
        );
    }
    let definition = match gvk.2 {
        "Scale" => "io.k8s.api.autoscaling.v1.Scale",
        "Binding" => "io.k8s.api.core.v1.Binding",
        "Eviction" => "io.k8s.api.policy.v1.Eviction",
        _ => kind.definition,
    };
    let mut item = json!({});
    for verb in subresource.verbs() {
        match *verb {
            "get" if subresource == Subresource::Log => item["get"] = log(kind),
            "get" => item["get"] = read(kind, definition, gvk),
            "update" => item["put"] = write(kind, "put", "replace", definition, gvk),
            "patch" => item["patch"] = patch(kind, definition, gvk),
            "create" => item["post"] = write(kind, "post", "create", definition, gvk),
            _ => {}
        }
    }
    item
}

fn path_parameter(name: &str, description: &str) -> Value {
    json!({
        "name": name, "in": "path", "required": true, "description": description,
        "schema": {"type": "string", "uniqueItems": true},
    })
}

fn query(name: &str, kind: &str, description: &str) -> Value {
    json!({
        "name": name, "in": "query", "description": description, "schema": {"type": kind, "uniqueItems": true},
    })
}

fn write_parameters() -> Vec<Value> {
    vec![
        query(
            "dryRun",
            "string",
            "When present, indicates that modifications should not be persisted. Valid: All.",
        ),
        query(
            "fieldManager",
            "string",
            "A name associated with the actor or entity that is making these changes.",
        ),
        query(
            "fieldValidation",
            "string",
            "How the server treats unknown or duplicate fields: Ignore, Warn (the default) or Strict.",
        ),
    ]
}

fn reference(definition: &str) -> Value {
    json!({"$ref": format!("{PREFIX}{definition}")})
}

fn content(definition: &str) -> Value {
    json!({
        "application/json": {"schema": reference(definition)},
        "application/yaml": {"schema": reference(definition)},
    })
}

fn responses(definition: &str, codes: &[&str]) -> Value {
    let mut responses = Map::new();
    for code in codes {
        let description = match *code {
            "201" => "Created",
            "202" => "Accepted",
            _ => "OK",
        };
        responses.insert(
            (*code).to_owned(),
            json!({"description": description, "content": content(definition)}),
        );
    }
    responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    Value::Object(responses)
}

fn operation(kind: &Kind, action: &str, gvk: Gvk, parameters: Vec<Value>, responses: Value) -> Value {
    let (group, version, name) = gvk;
    let tag = if kind.group.is_empty() {
        format!("core_{}", kind.version)
    } else {
        format!("{}_{}", kind.group.split('.').next().unwrap_or_default(), kind.version)
    };
    json!({
        "tags": [tag], "parameters": parameters, "responses": responses, "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": name},
    })
}

fn list(kind: &Kind, everywhere: bool) -> Value {
    let parameters = vec![
        query(
            "allowWatchBookmarks",
            "boolean",
            "Requests watch events with type BOOKMARK.",
        ),
        query("continue", "string", "Where a paged list goes on."),
        query(
            "fieldSelector",
            "string",
            "Restricts the returned objects by their fields. Defaults to everything.",
        ),
        query(
            "labelSelector",
            "string",
            "Restricts the returned objects by their labels. Defaults to everything.",
        ),
        query("limit", "integer", "The maximum number of objects to return."),
        query(
            "resourceVersion",
            "string",
            "Which resource versions a request may be served from.",
        ),
        query(
            "resourceVersionMatch",
            "string",
            "How resourceVersion is applied to list calls.",
        ),
        query(
            "sendInitialEvents",
            "boolean",
            "Whether a watch begins with the objects that there are.",
        ),
        query(
            "timeoutSeconds",
            "integer",
            "Limits the duration of the call, whether or not it is a watch.",
        ),
        query(
            "watch",
            "boolean",
            "Watch for changes and return them as a stream of notifications.",
        ),
    ];
    let mut operation = operation(
        kind,
        "list",
        own(kind),
        parameters,
        responses(&list_name(kind), &["200"]),
    );
    operation["description"] = format!("list or watch objects of kind {}", kind.kind).into();
    if everywhere {
        operation["description"] = format!("list or watch objects of kind {} in all namespaces", kind.kind).into();
    }
    operation
}

fn read(kind: &Kind, definition: &str, gvk: Gvk) -> Value {
    let mut operation = operation(kind, "get", gvk, Vec::new(), responses(definition, &["200"]));
    operation["description"] = format!("read the specified {}", gvk.2).into();
    operation
}

fn write(kind: &Kind, method: &str, verb: &str, definition: &str, gvk: Gvk) -> Value {
    let codes: &[&str] = if method == "post" {
        &["200", "201", "202"]
    } else {
        &["200", "201"]
    };
    let mut operation = operation(kind, method, gvk, write_parameters(), responses(definition, codes));
    operation["description"] = format!("{verb} a {}", gvk.2).into();
    operation["requestBody"] = json!({"required": true, "content": {"*/*": {"schema": reference(definition)}}});
    operation
}

fn patch(kind: &Kind, definition: &str, gvk: Gvk) -> Value {
    let mut parameters = write_parameters();
    parameters.push(query(
        "force",
        "boolean",
        "Take fields from other managers. Only for apply patches.",
    ));
    let mut operation = operation(kind, "patch", gvk, parameters, responses(definition, &["200", "201"]));
    operation["description"] = format!("partially update the specified {}", gvk.2).into();
    let mut bodies = Map::new();
    let offered = |content_type: &&str| kind.custom.is_none() || !content_type.contains("strategic");
    for content_type in PATCH_TYPES.into_iter().filter(offered) {
        bodies.insert(content_type.to_owned(), json!({"schema": reference(PATCH)}));
    }
    operation["requestBody"] = json!({"required": true, "content": bodies});
    operation
}

fn delete(kind: &Kind, all: bool) -> Value {
    let parameters = vec![
        query(
            "dryRun",
            "string",
            "When present, indicates that modifications should not be persisted. Valid: All.",
        ),
        query(
            "gracePeriodSeconds",
            "integer",
            "The duration in seconds before the object should be deleted.",
        ),
        query("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
        query(
            "propagationPolicy",
            "string",
            "Whether and how dependents are deleted: Orphan, Background, Foreground.",
        ),
    ];
    let (action, codes): (&str, &[&str]) = if all {
        ("deletecollection", &["200"])
    } else {
        ("delete", &["200", "202"])
    };
    let mut operation = operation(kind, action, own(kind), parameters, responses(STATUS, codes));
    operation["description"] = format!("delete {} {}", if all { "collection of" } else { "a" }, kind.kind).into();
    operation["requestBody"] = json!({"content": {"*/*": {"schema": reference(DELETE_OPTIONS)}}});
    operation
}

fn log(kind: &Kind) -> Value {
    let parameters = vec![
        query("container", "string", "The container for which to stream logs."),
        query("follow", "boolean", "Follow the log stream of the pod."),
        query(
            "limitBytes",
            "integer",
            "The number of bytes to read before terminating the log output.",
        ),
        query("previous", "boolean", "Return previous terminated container logs."),
        query(
            "sinceSeconds",
            "integer",
            "A relative time in seconds before the current time from which to show logs.",
        ),
        query(
            "tailLines",
            "integer",
            "The number of lines from the end of the logs to show.",
        ),
        query(
            "timestamps",
            "boolean",
            "Add an RFC3339 timestamp at the beginning of every line.",
        ),
    ];
    let answer = json!({
        "200": {"description": "OK", "content": {"text/plain": {"schema": {"type": "string"}}}},
        "401": {"description": "Unauthorized"},
    });
    let mut operation = operation(kind, "get", own(kind), parameters, answer);
    operation["description"] = "read log of the specified Pod".into();
    operation
}

/// A session over an upgraded connection.
fn connect(kind: &Kind, subresource: Subresource, gvk: Gvk) -> Value {
    let stream = |name: &str| query(name, "boolean", &format!("Whether {name} is connected."));
    let container = || {
        query(
            "container",
            "string",
            "The container; defaults to the only one of the pod.",
        )
    };
    let terminal = || query("tty", "boolean", "Whether a terminal is used instead of pipes.");
    let streams = || ["stdin", "stdout", "stderr"].map(stream).to_vec();
    let parameters = match subresource {
        Subresource::Proxy => vec![query("path", "string", "The path of the request that is passed on.")],
        Subresource::PortForward => vec![query("ports", "integer", "The ports to forward.")],
        Subresource::Exec => {
            let command = query(
                "command",
                "string",
                "The program and its arguments, one parameter each.",
            );
            [vec![command, container(), terminal()], streams()].concat()
        }
        _ => [vec![container(), terminal()], streams()].concat(),
    };
    let answer = json!({
        "200": {"description": "OK", "content": {"*/*": {"schema": {"type": "string"}}}},
        "401": {"description": "Unauthorized"},
    });
    let mut operation = operation(kind, "connect", gvk, parameters, answer);
    operation["description"] = format!("connect requests to {} of {}", subresource.name(), kind.kind).into();
    operation
}
