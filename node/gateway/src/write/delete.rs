//! DELETE of objects and collections, and evictions.

use serde_json::{Value, json};

use admission::Operation;
use admission::matching::Verb;
use api::kinds::Subresource;
use api::status::Status;
use api::write::{DeleteOptions, Deletion};
use protocol::store::{ListRequest, Precondition, Write};
use protocol::{Key, Object};

use super::{ATTEMPTS_MAX, Circumstances, Writer, parse_body};
use crate::eviction;
use crate::read::{key_of, list_request, one, page, read_status};
use crate::request::{ApiRequest, ApiResponse};
use crate::route::Target;

/// The resource of what evictions are charged to.
const BUDGETS: &str = "poddisruptionbudgets.policy";

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
        let (options, sent) = delete_options(request, target)?;
        let evicts = target.subresource == Some(Subresource::Eviction);
        let mut warnings = if evicts {
            self.consult_about_eviction(request, target, with).await?
        } else {
            Vec::new()
        };
        let deleted = self
            .delete_one(target, &key_of(target), (&options, &sent), with)
            .await?;
        warnings.extend(deleted.warnings);
        let (object, removed) = (deleted.object, deleted.is_gone);
        let shown = (target.kind.group, target.kind.plural);
        if removed && !ANSWERED_WITH_OBJECT.contains(&shown) {
            let name = target.name.as_deref().unwrap_or_default();
            return Ok(
                ApiResponse::value(200, &Status::success(target.kind, name, object.header.uid.as_str()))
                    .warning(warnings),
            );
        }
        Ok(one(request, target.kind, 200, &object, with.now)?.warning(warnings))
    }

    /// What webhooks say about an eviction, which is a creation to them.
    async fn consult_about_eviction(
        &self,
        request: &ApiRequest,
        target: &Target,
        with: &Circumstances,
    ) -> Result<Vec<String>, Status> {
        let mut eviction = parse_body(request)?.value;
        let gate = self.gate(target, Operation::Create, &eviction, with).await?;
        gate.consult(&mut eviction, &Value::Null).await
    }

    /// DELETE of a collection: each selected object in turn; answers the list of what was selected.
    pub async fn delete_collection(
        &self,
        request: &ApiRequest,
        target: &Target,
        with: &Circumstances,
    ) -> Result<ApiResponse, Status> {
        let (options, sent) = delete_options(request, target)?;
        let listed = self
            .store
            .list(list_request(request, target)?)
            .await
            .map_err(read_status)?;
        for (key, _) in &listed.items {
            match self.delete_one(target, key, (&options, &sent), with).await {
                Err(status) if status.code != 404 => return Err(status),
                _ => {}
            }
        }
        page(request, target.kind, &listed, with.now)
    }

    /// Deletes one object of the target's kind.
    async fn delete_one(
        &self,
        target: &Target,
        key: &Key,
        (options, sent): (&DeleteOptions, &Value),
        with: &Circumstances,
    ) -> Result<Deleted, Status> {
        let kind = target.kind;
        let one = Target {
            name: Some(key.name.to_string()),
            namespace: key.namespace.to_string(),
            ..target.clone()
        };
        let mut gate = self.gate(&one, Operation::Delete, &Value::Null, with).await?;
        if target.subresource == Some(Subresource::Eviction) {
            gate.verb = Verb::Create;
        }
        if gate.asks() {
            gate.dry_run |= options.dry_run;
            gate.options = told_options(sent, gate.dry_run);
        }
        let gate = gate;
        for _ in 0..ATTEMPTS_MAX {
            let stored = self.store.read(key).await.map_err(read_status)?;
            let stored = stored.ok_or_else(|| Status::not_found(kind, &key.name))?;
            let old = kind.served(stored.value().map_err(Status::internal)?);
            options.check(kind, &old)?;
            let warnings = gate.may_delete(&old).await?;
            let charged = match target.subresource {
                Some(Subresource::Eviction) => self.charge_budget(key, &old, with).await?,
                _ => None,
            };
            let precondition = Precondition::Revision(stored.header.revision);
            let (mut writes, marked) = match api::write::begin_deletion(kind, &old, options, with.now) {
                Deletion::Nothing => return Ok(Deleted::new(&stored, false, warnings)),
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
            writes.extend(charged);
            if with.dry_run || options.dry_run {
                return Ok(Deleted::new(&stored, marked.is_none(), warnings));
            }
            if let Some(revision) = self.commit(kind, &key.name, with, writes).await? {
                let object = marked.map(|draft| draft.commit(revision, Some(stored.header.created)));
                let is_gone = object.is_none();
                return Ok(Deleted {
                    object: object.unwrap_or_else(|| Object::clone(&stored)),
                    is_gone,
                    warnings,
                });
            }
        }
        Err(Status::modified(kind, &key.name))
    }
}

/// What came of a deletion.
struct Deleted {
    /// The object as it is afterwards, or was.
    object: Object,
    /// Whether it is gone.
    is_gone: bool,
    /// For the client's user.
    warnings: Vec<String>,
}

impl Deleted {
    fn new(object: &Object, is_gone: bool, warnings: Vec<String>) -> Deleted {
        Deleted {
            object: object.clone(),
            is_gone,
            warnings,
        }
    }
}

/// The options as admission is told of them.
fn told_options(sent: &Value, dry_run: bool) -> Value {
    let mut told = sent.clone();
    told["apiVersion"] = "meta.k8s.io/v1".into();
    told["kind"] = "DeleteOptions".into();
    if dry_run {
        told["dryRun"] = json!(["All"]);
    }
    told
}

impl Writer {
    /// The write that charges a pod's eviction to its budget; refused where the budget does not allow it.
    async fn charge_budget(&self, pod: &Key, old: &Value, with: &Circumstances) -> Result<Option<Write>, Status> {
        let budgets = ListRequest::all(BUDGETS).in_namespace(&*pod.namespace);
        let budgets = self.store.list(budgets).await.map_err(read_status)?.items;
        let values = budgets
            .iter()
            .map(|(_, object)| object.value().map_err(Status::internal));
        let values = values.collect::<Result<Vec<Value>, Status>>()?;
        let Some((index, charged)) = eviction::decide(old, &values, with.now)? else {
            return Ok(None);
        };
        let kind = api::kinds::find_by_kind("policy/v1", "PodDisruptionBudget").ok_or_else(Status::no_such_resource)?;
        let (key, stored) = &budgets[index];
        Ok(Some(Write::Put {
            key: key.clone(),
            precondition: Precondition::Revision(stored.header.revision),
            draft: kind.draft(&charged).map_err(Status::internal)?,
        }))
    }
}

/// DeleteOptions from body and query, read and as they came; an Eviction carries them inside.
fn delete_options(request: &ApiRequest, target: &Target) -> Result<(DeleteOptions, Value), Status> {
    let mut body = if request.body.is_empty() {
        json!({})
    } else {
        parse_body(request)?.value
    };
    if body["kind"] == "Eviction" {
        let named = body["metadata"]["name"].as_str().unwrap_or_default();
        if !named.is_empty() && target.name.as_deref() != Some(named) {
            return Err(Status::bad_request(
                "name in URL does not match name in Eviction object",
            ));
        }
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
    Ok((DeleteOptions::from_value(&body)?, body))
}
