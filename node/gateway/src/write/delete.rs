//! DELETE of objects and collections, and evictions.

use serde_json::{Value, json};

use admission::Operation;
use api::status::Status;
use api::write::{DeleteOptions, Deletion};
use protocol::store::{Precondition, Write};
use protocol::{Key, Object};

use super::{ATTEMPTS_MAX, Circumstances, Writer, parse_body};
use crate::read::{key_of, list_request, one, page, read_status};
use crate::request::{ApiRequest, ApiResponse};
use crate::route::Target;

/// Whose deletion is answered with the object that went, where others are answered with a Status: clients with types, such
/// as Python's, refuse the other one (`ReturnDeletedObject` in Kubernetes).
const ANSWERED_WITH_OBJECT: [(&str, &str); 3] = [("", "pods"), ("", "services"), ("", "serviceaccounts")];

impl Writer {
    /// DELETE of an object, and POST of an Eviction.
    pub async fn delete(
        &self,
        request: &ApiRequest,
        target: &Target,
        with: &Circumstances,
    ) -> Result<ApiResponse, Status> {
        let options = delete_options(request)?;
        let (object, removed) = self.delete_one(target, &key_of(target), &options, with).await?;
        let shown = (target.kind.group, target.kind.plural);
        if removed && !ANSWERED_WITH_OBJECT.contains(&shown) {
            let name = target.name.as_deref().unwrap_or_default();
            return Ok(ApiResponse::value(
                200,
                &Status::success(target.kind, name, object.header.uid.as_str()),
            ));
        }
        one(request, target.kind, 200, &object, with.now)
    }

    /// DELETE of a collection: each selected object in turn; answers the list of what was selected.
    pub async fn delete_collection(
        &self,
        request: &ApiRequest,
        target: &Target,
        with: &Circumstances,
    ) -> Result<ApiResponse, Status> {
        let options = delete_options(request)?;
        let listed = self
            .store
            .list(list_request(request, target)?)
            .await
            .map_err(read_status)?;
        for (key, _) in &listed.items {
            match self.delete_one(target, key, &options, with).await {
                Err(status) if status.code != 404 => return Err(status),
                _ => {}
            }
        }
        page(request, target.kind, &listed, with.now)
    }

    /// Deletes one object of the target's kind. Returns it as it is afterwards, or was, and whether it is gone.
    async fn delete_one(
        &self,
        target: &Target,
        key: &Key,
        options: &DeleteOptions,
        with: &Circumstances,
    ) -> Result<(Object, bool), Status> {
        let kind = target.kind;
        let one = Target {
            name: Some(key.name.to_string()),
            namespace: key.namespace.to_string(),
            ..target.clone()
        };
        let gate = self.gate(&one, Operation::Delete, &Value::Null, with).await?;
        for _ in 0..ATTEMPTS_MAX {
            let stored = self.store.read(key).await.map_err(read_status)?;
            let stored = stored.ok_or_else(|| Status::not_found(kind, &key.name))?;
            let old = kind.served(stored.value().map_err(Status::internal)?);
            options.check(kind, &old)?;
            gate.may_delete(&old)?;
            let precondition = Precondition::Revision(stored.header.revision);
            let (writes, marked) = match api::write::begin_deletion(kind, &old, options, with.now) {
                Deletion::Nothing => return Ok((Object::clone(&stored), false)),
                Deletion::Remove => (self.removal(key, precondition, &old).await?, None),
                Deletion::Mark(value) => {
                    let draft = kind.draft(&value).map_err(Status::internal)?;
                    let key = key.clone();
                    let mark = Write::Put {
                        key,
                        precondition,
                        draft: draft.clone(),
                    };
                    (vec![mark], Some(draft))
                }
            };
            if with.dry_run || options.dry_run {
                return Ok((Object::clone(&stored), marked.is_none()));
            }
            if let Some(revision) = self.commit(kind, &key.name, with, writes).await? {
                let object = marked.map(|draft| draft.commit(revision, Some(stored.header.created)));
                let removed = object.is_none();
                return Ok((object.unwrap_or_else(|| Object::clone(&stored)), removed));
            }
        }
        Err(Status::modified(kind, &key.name))
    }
}

/// DeleteOptions from body and query; an Eviction carries them inside.
fn delete_options(request: &ApiRequest) -> Result<DeleteOptions, Status> {
    let mut body = if request.body.is_empty() {
        json!({})
    } else {
        parse_body(request)?.value
    };
    if body["kind"] == "Eviction" {
        body = body["deleteOptions"].take();
    }
    if !body.is_object() {
        body = json!({});
    }
    if let (Some(seconds), true) = (
        request.number("gracePeriodSeconds")?,
        body["gracePeriodSeconds"].is_null(),
    ) {
        body["gracePeriodSeconds"] = seconds.into();
    }
    if !request.parameter("orphanDependents").is_empty() && body["orphanDependents"].is_null() {
        body["orphanDependents"] = request.flag("orphanDependents").into();
    }
    let policy = request.parameter("propagationPolicy");
    if !policy.is_empty() && body["propagationPolicy"].is_null() {
        body["propagationPolicy"] = policy.into();
    }
    DeleteOptions::from_value(&body)
}
