//! Gets and lists. A list in its plain form copies the stored bytes; only tables, metadata and YAML parse objects.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde_json::{Value, json};

use api::kinds::Kind;
use api::status::Status;
use api::table::{self, IncludeObject};
use protocol::selector::{FieldSelector, LabelSelector};
use protocol::store::{ListPage, ListRequest, ReadError};
use protocol::{Key, Object, Revision, UnixMillis};

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
    /// Reads the query. An object's name in the path counts as a field selector (`watch` of one object).
    pub fn of(request: &ApiRequest, target: &Target) -> Result<Selectors, Status> {
        let labels = LabelSelector::parse(request.parameter("labelSelector"))
            .map_err(|error| Status::bad_request(error.to_string()))?;
        let offered = target.kind.selectable_fields;
        let mut fields = FieldSelector::parse(request.parameter("fieldSelector"), offered)
            .map_err(|error| Status::bad_request(error.to_string()))?;
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
        ReadError::Ahead { requested, current } => Status::timeout(format!(
            "Too large resource version: {requested}, current: {current}"
        )),
        ReadError::Unavailable { reason } => Status::service_unavailable(format!("the store does not answer: {reason}")),
        ReadError::Storage { reason } => Status::internal(format!("the store cannot be read: {reason}")),
    }
}

/// One object in the form that the client wants.
pub fn one(request: &ApiRequest, kind: &Kind, code: u16, object: &Object, now: UnixMillis) -> Result<ApiResponse, Status> {
    let (form, encoding) = negotiate(&request.accept)?;
    if (form, encoding) == (Form::Objects, Encoding::Json) {
        return Ok(ApiResponse::json(code, object.body.0.clone()));
    }
    let value = object.value().map_err(Status::internal)?;
    let value = match form {
        Form::Table => {
            let meta = json!({"resourceVersion": object.header.revision.to_string()});
            table::table(kind, std::iter::once(&value), meta, include_object(request)?, now)
        }
        Form::Metadata => table::partial_metadata(&value),
        Form::Objects | Form::AggregatedDiscovery => value,
    };
    encoded(code, &value, encoding)
}

/// A value as JSON or YAML.
pub fn encoded(code: u16, value: &Value, encoding: Encoding) -> Result<ApiResponse, Status> {
    match encoding {
        Encoding::Json => Ok(ApiResponse::value(code, value)),
        Encoding::Yaml => {
            let text = serde_norway::to_string(value).map_err(Status::internal)?;
            let body = ResponseBody::Full(Bytes::from(text));
            Ok(ApiResponse { code, content_type: "application/yaml", warnings: Vec::new(), body })
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
    let (version, exact) = (request.parameter("resourceVersion"), request.parameter("resourceVersionMatch"));
    match request.parameter("continue") {
        "" => {}
        token => {
            let (revision, after) = parse_continue(token, &list)?;
            list.at = Some(revision);
            list.after = Some(after);
            return Ok(list);
        }
    }
    if !exact.is_empty() && version.is_empty() {
        return Err(Status::bad_request("resourceVersionMatch is forbidden unless resourceVersion is provided"));
    }
    if exact == "Exact" {
        let revision = Revision::parse(version).filter(|revision| *revision != Revision::ZERO);
        let refuse = || Status::bad_request("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        list.at = Some(revision.ok_or_else(refuse)?);
    }
    Ok(list)
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
    let revision = token["rv"].as_u64().filter(|revision| *revision > 0).ok_or_else(wrong)?;
    let (namespace, name) = token["start"].as_str().and_then(|start| start.split_once('\0')).ok_or_else(wrong)?;
    Ok((Revision(revision), Key::new(list.resource.clone(), namespace, name)))
}

/// A page of a list in the form that the client wants.
pub fn page(request: &ApiRequest, kind: &Kind, page: &ListPage, now: UnixMillis) -> Result<ApiResponse, Status> {
    let (form, encoding) = negotiate(&request.accept)?;
    let mut meta = json!({"resourceVersion": page.revision.to_string()});
    if let Some((last, _)) = page.items.last().filter(|_| page.more) {
        meta["continue"] = continue_token(page.revision, last).into();
        if let Some(remaining) = page.remaining {
            meta["remainingItemCount"] = remaining.into();
        }
    }
    if (form, encoding) == (Form::Objects, Encoding::Json) {
        return Ok(ApiResponse::json(200, plain_list(kind, page, &meta)));
    }
    let values = page.items.iter().map(|(_, object)| object.value().map_err(Status::internal));
    let values = values.collect::<Result<Vec<Value>, Status>>()?;
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

fn plain_list(kind: &Kind, page: &ListPage, meta: &Value) -> Bytes {
    let size: usize = page.items.iter().map(|(_, object)| object.body.0.len() + 1).sum();
    let head = format!(
        r#"{{"kind":"{}","apiVersion":"{}","metadata":{meta},"items":["#,
        kind.list_kind,
        kind.api_version()
    );
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
