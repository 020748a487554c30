//! Gets and lists. A list in its plain form copies the stored bytes; only tables, metadata and YAML parse objects.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt};
use serde_json::{Value, json};

use api::cause::Cause;
use api::kinds::Kind;
use api::status::Status;
use api::table::{self, IncludeObject};
use protocol::selector::{FieldSelector, LabelSelector};
use protocol::store::{BodyList, ListPage, ListRequest, ObjectStore, ReadError, Selection};
use protocol::{Key, Object, Resource, Revision, UnixMillis};

use crate::accept::{Encoding, Form, negotiate};
use crate::request::{ApiRequest, ApiResponse, JSON, ResponseBody};
use crate::route::Target;

/// Both selectors of a request.
#[derive(Clone, Debug, Default)]
pub struct Selectors {
    /// `labelSelector`.
    pub labels: LabelSelector,
    /// `fieldSelector`.
    pub fields: FieldSelector,
}

impl Selectors {
    /// The same for the store's watch, so that the leader sends only what is selected.
    pub fn selections(&self, resource: Resource) -> Vec<Selection> {
        if self.labels.is_empty() && self.fields.is_empty() {
            return Vec::new();
        }
        vec![Selection {
            resource,
            labels: self.labels.clone(),
            fields: self.fields.clone(),
        }]
    }

    /// Reads the query. An object's name in the path counts as a field selector (`watch` of one object).
    pub fn of(request: &ApiRequest, target: &Target) -> Result<Selectors, Status> {
        let labels = LabelSelector::parse(request.parameter("labelSelector"))
            .map_err(|error| Status::bad_request(error.to_string()))?;
        let offered = target.kind.selectable_fields;
        let mut fields = FieldSelector::parse(request.parameter("fieldSelector"), offered)
            .map_err(|error| Status::bad_request(error.to_string()))?;
        for requirement in &mut fields.requirements {
            requirement.path = target.kind.stored_field(&requirement.path).to_owned();
        }
        if let Some(name) = &target.name {
            fields.requirements.push(protocol::selector::FieldRequirement {
                path: "metadata.name".to_owned(),
                value: name.clone(),
                negated: false,
            });
        }
        Ok(Selectors { labels, fields })
    }

    /// Whether an object is selected.
    pub fn select(&self, key: &Key, object: &Object) -> bool {
        self.labels.matches(&object.header.labels) && self.fields.matches(&key.namespace, &key.name, &object.header)
    }
}

/// The key of a target's object.
pub fn key_of(target: &Target) -> Key {
    let name = target.name.as_deref().unwrap_or_default();
    Key::new(target.kind.resource(), target.namespace.as_str(), name)
}

/// The namespace that a list is restricted to.
pub fn namespace_of(target: &Target) -> Option<Arc<str>> {
    (!target.namespace.is_empty()).then(|| Arc::from(target.namespace.as_str()))
}

/// How a refused read looks to a client.
pub fn read_status(error: ReadError) -> Status {
    match error {
        ReadError::Compacted { requested, compacted } => Status::too_old_resource_version(requested.0, compacted.0),
        ReadError::Ahead { requested, current } => {
            let mut status = Status::timeout(format!("Too large resource version: {requested}, current: {current}"));
            status.details.causes.push(Cause {
                field: String::new(),
                reason: "ResourceVersionTooLarge".into(),
                message: "Too large resource version".to_owned(),
            });
            status.details.retry_after_seconds = 1;
            status
        }
        ReadError::Unavailable { reason } => try_again(format!("the store does not answer: {reason}")),
        ReadError::Storage { reason } => Status::internal(format!("the store cannot be read: {reason}")),
        ReadError::Conversion { reason } => crate::versions::conversion_status(reason),
    }
}

/// The slices of a Service's endpoints, in the order of their names.
pub async fn slices_of(store: &dyn ObjectStore, namespace: &str, service: &str) -> Result<Vec<Value>, Status> {
    let label = format!("kubernetes.io/service-name={service}");
    let labels = LabelSelector::parse(&label).map_err(|error| Status::bad_request(error.to_string()))?;
    let list = ListRequest {
        labels,
        ..ListRequest::all("endpointslices.discovery.k8s.io").in_namespace(namespace)
    };
    let page = store.list(list).await.map_err(read_status)?;
    let values = page
        .items
        .iter()
        .map(|(_, object)| object.value().map_err(Status::internal));
    values.collect()
}

/// Nothing was done and the same request may succeed in a moment: clients repeat it by themselves.
pub fn try_again(why: String) -> Status {
    let mut status = Status::service_unavailable(why);
    status.details.retry_after_seconds = 1;
    status
}

/// The refusal of a list's or a watch's options, as Kubernetes words it.
pub fn invalid_option(field: &str, reason: &'static str, message: String) -> Status {
    let cause = Cause {
        field: field.to_owned(),
        reason: reason.into(),
        message,
    };
    Status::invalid_of("meta.k8s.io", "ListOptions", "", vec![cause])
}

/// The query's `resourceVersion`; zero when there is none.
pub fn version_of(request: &ApiRequest) -> Result<Revision, Status> {
    match request.parameter("resourceVersion") {
        "" | "0" => Ok(Revision::ZERO),
        text => Revision::parse(text).ok_or_else(|| {
            let message = format!("Invalid value: {text:?}: must be a version that the server has given");
            invalid_option("resourceVersion", "FieldValueInvalid", message)
        }),
    }
}

/// One object in the form that the client wants.
pub fn one(
    request: &ApiRequest,
    kind: &Kind,
    code: u16,
    object: &Object,
    now: UnixMillis,
) -> Result<ApiResponse, Status> {
    let (form, encoding) = negotiate(&request.accept)?;
    if (form, encoding) == (Form::Objects, Encoding::Json) && kind.told_as_stored() {
        return Ok(ApiResponse::json(code, object.body.0.clone()));
    }
    let value = kind.served(object.value().map_err(Status::internal)?);
    shown(request, kind, code, &value, now)
}

/// An object that is stored nowhere, or is told in another version than it is stored in, in the form that the client wants.
pub fn shown(
    request: &ApiRequest,
    kind: &Kind,
    code: u16,
    value: &Value,
    now: UnixMillis,
) -> Result<ApiResponse, Status> {
    let (form, encoding) = negotiate(&request.accept)?;
    let value = match form {
        Form::Table => {
            let meta = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
            &table::table(kind, std::iter::once(value), meta, include_object(request)?, now)
        }
        Form::Metadata => &table::partial_metadata(value),
        Form::Objects | Form::AggregatedDiscovery => value,
    };
    encoded(code, value, encoding)
}

/// A value as JSON or YAML.
pub fn encoded(code: u16, value: &Value, encoding: Encoding) -> Result<ApiResponse, Status> {
    match encoding {
        Encoding::Json => Ok(ApiResponse::value(code, value)),
        Encoding::Yaml => {
            let text = serde_norway::to_string(value).map_err(Status::internal)?;
            let body = ResponseBody::Full(Bytes::from(text));
            Ok(ApiResponse {
                content_type: "application/yaml".into(),
                body,
                ..ApiResponse::json(code, Bytes::new())
            })
        }
    }
}

/// The query's `includeObject`.
pub fn include_object(request: &ApiRequest) -> Result<IncludeObject, Status> {
    let text = request.parameter("includeObject");
    IncludeObject::parse(text).ok_or_else(|| Status::bad_request(format!("unrecognized includeObject value: {text:?}")))
}

/// The list that a request asks for.
pub fn list_request(request: &ApiRequest, target: &Target) -> Result<ListRequest, Status> {
    let selectors = Selectors::of(request, target)?;
    let limit = request.number("limit")?.unwrap_or(0) as usize;
    let mut list = ListRequest {
        resource: target.kind.resource(),
        namespace: namespace_of(target),
        labels: selectors.labels,
        fields: selectors.fields,
        limit,
        after: None,
        at: None,
    };
    let (version, how) = (version_of(request)?, request.parameter("resourceVersionMatch"));
    if !how.is_empty() {
        check_match(request, how)?;
    }
    match request.parameter("continue") {
        "" => {}
        _ if version != Revision::ZERO => {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        token => {
            let (revision, after) = parse_continue(token, &list)?;
            list.at = Some(revision);
            list.after = Some(after);
        }
    }
    if how == "Exact" {
        list.at = Some(version);
    }
    Ok(list)
}

/// Checks `resourceVersionMatch` against the other options (ValidateListOptions).
fn check_match(request: &ApiRequest, how: &str) -> Result<(), Status> {
    let forbidden = |why: &str| {
        let message = format!("Forbidden: resourceVersionMatch {why}");
        Err(invalid_option("resourceVersionMatch", "FieldValueForbidden", message))
    };
    let version = request.parameter("resourceVersion");
    match how {
        // A watch that begins with what is there has no version of its own.
        "NotOlderThan" if !request.parameter("sendInitialEvents").is_empty() => Ok(()),
        "Exact" | "NotOlderThan" if version.is_empty() => forbidden("is forbidden unless resourceVersion is provided"),
        "Exact" | "NotOlderThan" if !request.parameter("continue").is_empty() => {
            forbidden("is forbidden when continue is provided")
        }
        "Exact" if version == "0" => forbidden("\"Exact\" is forbidden for resourceVersion \"0\""),
        "Exact" | "NotOlderThan" => Ok(()),
        other => {
            let message = format!("Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\"");
            Err(invalid_option(
                "resourceVersionMatch",
                "FieldValueNotSupported",
                message,
            ))
        }
    }
}

/// A page of the list that a request asks for, at least as new as the version that it names.
pub async fn list(store: &dyn ObjectStore, request: &ApiRequest, target: &Target) -> Result<ListPage, Status> {
    let list = list_request(request, target)?;
    let continued = list.after.is_some();
    let requested = version_of(request)?;
    let page = store.list(list).await.map_err(|error| match error {
        ReadError::Compacted { .. } if continued => Status::continue_expired(),
        error => read_status(error),
    })?;
    if requested > page.revision {
        return Err(read_status(ReadError::Ahead {
            requested,
            current: page.revision,
        }));
    }
    Ok(page)
}

/// The token by which a client asks for the next page: revision and last key, as Kubernetes encodes it.
fn continue_token(revision: Revision, last: &Key) -> String {
    let token = json!({"v": "meta.k8s.io/v1", "rv": revision.0, "start": format!("{}\0{}", last.namespace, last.name)});
    URL_SAFE_NO_PAD.encode(token.to_string())
}

fn parse_continue(token: &str, list: &ListRequest) -> Result<(Revision, Key), Status> {
    let wrong = || Status::bad_request("continue key is not valid: it must be one that the server has given");
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| wrong())?;
    let token: Value = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
    let revision = token["rv"]
        .as_u64()
        .filter(|revision| *revision > 0)
        .ok_or_else(wrong)?;
    let (namespace, name) = token["start"]
        .as_str()
        .and_then(|start| start.split_once('\0'))
        .ok_or_else(wrong)?;
    Ok((Revision(revision), Key::new(list.resource.clone(), namespace, name)))
}

/// A page of a list in the form that the client wants.
pub fn page(request: &ApiRequest, kind: &Kind, page: &ListPage, now: UnixMillis) -> Result<ApiResponse, Status> {
    let mut meta = json!({"resourceVersion": page.revision.to_string()});
    if let Some((last, _)) = page.items.last().filter(|_| page.more) {
        meta["continue"] = continue_token(page.revision, last).into();
        if let Some(remaining) = page.remaining {
            meta["remainingItemCount"] = remaining.into();
        }
    }
    if negotiate(&request.accept)? == (Form::Objects, Encoding::Json) && kind.told_as_stored() {
        return Ok(ApiResponse::json(200, plain_list(kind, page, &meta)));
    }
    let values = page
        .items
        .iter()
        .map(|(_, object)| object.value().map(|value| kind.served(value)).map_err(Status::internal));
    let values = values.collect::<Result<Vec<Value>, Status>>()?;
    shown_list(request, kind, &values, meta, now)
}

/// Objects as a list in the form that the client wants.
pub fn shown_list(
    request: &ApiRequest,
    kind: &Kind,
    values: &[Value],
    meta: Value,
    now: UnixMillis,
) -> Result<ApiResponse, Status> {
    let (form, encoding) = negotiate(&request.accept)?;
    let value = match form {
        Form::Table => table::table(kind, values.iter(), meta, include_object(request)?, now),
        Form::Metadata => {
            let items: Vec<Value> = values.iter().map(table::partial_metadata).collect();
            json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "items": items,
            })
        }
        Form::Objects | Form::AggregatedDiscovery => {
            json!({"kind": kind.list_kind, "apiVersion": kind.api_version(), "metadata": meta, "items": values})
        }
    };
    encoded(200, &value, encoding)
}

/// Whether a list's bodies go to the client as they are stored, and all of them: nothing needs to be known of them then.
pub fn is_passed_on(request: &ApiRequest, kind: &Kind) -> Result<bool, Status> {
    let as_stored = negotiate(&request.accept)? == (Form::Objects, Encoding::Json) && kind.told_as_stored();
    let is_all = request.parameter("continue").is_empty()
        && request.number("limit")?.unwrap_or(0) == 0
        && request.parameter("resourceVersionMatch") != "Exact";
    Ok(as_stored && is_all)
}

/// A list as it is read from the store. `note` is told how many objects there were.
pub async fn passed_on(
    request: &ApiRequest,
    kind: &Kind,
    bodies: BodyList,
    note: impl FnOnce(u64) + Send + 'static,
) -> Result<ApiResponse, Status> {
    let requested = version_of(request)?;
    let BodyList { revision, parts, read } = bodies;
    if requested > revision {
        return Err(read_status(ReadError::Ahead {
            requested,
            current: revision,
        }));
    }
    let meta = json!({"resourceVersion": revision.to_string()});
    let mut parts = parts.map_ok(|part| part.joined);
    let mut begin = list_head(kind, &meta).into_bytes();
    begin.extend_from_slice(&parts.try_next().await.map_err(read_status)?.unwrap_or_default());
    let end = Bytes::from_static(b"]}");
    // Most lists are short: one piece, whose length is told.
    let Some(second) = parts.try_next().await.map_err(read_status)? else {
        begin.extend_from_slice(&end);
        note(read.await);
        return Ok(ApiResponse::json(200, begin));
    };
    let begin = futures::stream::iter([Ok(Bytes::from(begin)), Ok(second)]);
    let body = ResponseBody::Parts {
        parts: Box::pin(begin.chain(parts).chain(futures::stream::iter([Ok(end)]))),
        read: Box::pin(read.map(note)),
    };
    Ok(ApiResponse {
        body,
        ..ApiResponse::json(200, Bytes::new())
    })
}

fn list_head(kind: &Kind, meta: &Value) -> String {
    format!(
        r#"{{"kind":"{}","apiVersion":"{}","metadata":{meta},"items":["#,
        kind.list_kind,
        kind.api_version()
    )
}

fn plain_list(kind: &Kind, page: &ListPage, meta: &Value) -> Bytes {
    let size: usize = page.items.iter().map(|(_, object)| object.body.0.len() + 1).sum();
    let head = list_head(kind, meta);
    let mut body = Vec::with_capacity(head.len() + size + 2);
    body.extend_from_slice(head.as_bytes());
    for (index, (_, object)) in page.items.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&object.body.0);
    }
    body.extend_from_slice(b"]}");
    Bytes::from(body)
}

/// The content type of a list or an object.
pub fn content_type(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Json => JSON,
        Encoding::Yaml => "application/yaml",
    }
}
