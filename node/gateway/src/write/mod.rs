//! Creates, updates, patches, binds and deletes: reads what the write builds on, lets `api` and `admission` decide what is
//! stored, and proposes it against the revision that was read. A conflict is tried again only where the client named no
//! revision.

mod change;
mod connect;
mod create;
mod delete;
mod namespace_contents;
mod review;
mod service_addresses;

use std::sync::Arc;

use access::User;
use admission::matching::Verb;
use admission::{Attributes, Charge, Operation};
use api::decode::{self, Parsed};
use api::kinds::Kind;
use api::status::Status;
use api::write::{FieldValidation, WriteContext};
use protocol::store::{ObjectStore, Proposal, ProposeError, Refusal, Write};
use protocol::{Cause, Object, Revision, UnixMillis};
use serde_json::{Value, json};

use crate::addresses::AddressRange;
use crate::audit::Notes;
use crate::policy::{Gate, Policy};
use crate::read::{key_of, read_status, try_again};
use crate::request::ApiRequest;
use crate::rights::Rights;
use crate::route::Target;

/// How often a write without a revision of the client's is tried against a newer object.
const ATTEMPTS_MAX: u32 = 16;

/// The resource of the quotas, whose charges are written with an object.
const QUOTAS: &str = "resourcequotas";

/// What writes need from their surroundings.
pub struct Writer {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The range of cluster addresses.
    pub service_range: AddressRange,
    /// Admission.
    pub policy: Arc<Policy>,
    /// Who may write what.
    pub rights: Arc<Rights>,
    /// The certificate of the cluster's CA, PEM, which every namespace is given.
    pub cluster_ca: String,
}

/// One request's instant, random values and words.
pub struct Circumstances {
    /// The instant.
    pub now: UnixMillis,
    /// A fresh uid.
    pub uid: String,
    /// Random bits.
    pub random: u64,
    manager: String,
    user: User,
    validation: FieldValidation,
    dry_run: bool,
    /// The manager of fields that the query names, as webhooks are told of it.
    named_manager: String,
    /// Where the audit log is told what webhooks and policies say for it.
    notes: Notes,
    cause: Cause,
}

impl Circumstances {
    /// Reads what the query says about a write.
    pub fn of(request: &ApiRequest, now: UnixMillis, uid: String, random: u64) -> Result<Circumstances, Status> {
        let validation = request.parameter("fieldValidation");
        let dry_run = match request.parameter("dryRun") {
            "" => false,
            "All" => true,
            other => {
                return Err(Status::bad_request(format!(
                    "Unsupported value: {other:?}: supported values: \"All\" (dryRun)"
                )));
            }
        };
        Ok(Circumstances {
            now,
            uid,
            random,
            manager: request.field_manager(),
            named_manager: request.parameter("fieldManager").to_owned(),
            user: request.user.clone().unwrap_or_default(),
            validation: FieldValidation::parse(validation).ok_or_else(|| {
                Status::bad_request(format!(
                    "Unsupported value: {validation:?}: supported values: \"Ignore\", \"Strict\", \"Warn\" (fieldValidation)"
                ))
            })?,
            dry_run,
            cause: request.cause,
            notes: request.notes.clone(),
        })
    }

    /// The request's options as an object: what admission is told of them.
    fn options(&self, operation: Operation) -> Value {
        let kind = match operation {
            Operation::Create => "CreateOptions",
            Operation::Update => "UpdateOptions",
            Operation::Delete => "DeleteOptions",
        };
        let mut options = json!({"apiVersion": "meta.k8s.io/v1", "kind": kind});
        if self.dry_run {
            options["dryRun"] = json!(["All"]);
        }
        if operation != Operation::Delete {
            if !self.named_manager.is_empty() {
                options["fieldManager"] = self.named_manager.as_str().into();
            }
            options["fieldValidation"] = self.validation.name().into();
        }
        options
    }

    fn context<'a>(
        &'a self,
        suffix: &'a str,
        duplicate_fields: &'a [String],
        admission: &'a Gate<'a>,
    ) -> WriteContext<'a> {
        WriteContext {
            now: self.now,
            new_uid: &self.uid,
            random_suffix: suffix,
            field_manager: &self.manager,
            field_validation: self.validation,
            user: &self.user.name,
            groups: &self.user.groups,
            duplicate_fields,
            admission: Some(admission),
        }
    }
}

/// Parses a body by its content type: JSON, YAML or Kubernetes' protobuf.
pub fn parse_body(request: &ApiRequest) -> Result<Parsed, Status> {
    decode::body(&request.content_type, &request.body)
}

/// How a refused proposal looks to a client.
pub fn propose_status(kind: &Kind, name: &str, error: ProposeError) -> Status {
    match error {
        ProposeError::Refused(Refusal::AlreadyExists { .. }) => Status::already_exists(kind, name),
        ProposeError::Refused(Refusal::NotFound { .. }) => Status::not_found(kind, name),
        ProposeError::Refused(Refusal::Conflict { .. }) => Status::modified(kind, name),
        ProposeError::Refused(Refusal::Malformed { reason }) => Status::internal(reason),
        ProposeError::NoLeader { .. } => try_again(error.to_string()),
        ProposeError::Unknown { .. } => Status::timeout(error.to_string()),
        ProposeError::Storage { .. } => Status::internal(error.to_string()),
        ProposeError::Conversion { reason } => crate::versions::conversion_status(reason),
        ProposeError::TooLarge { bytes_max, .. } => Status::too_large(bytes_max),
    }
}

impl Writer {
    /// The same over another view of the store.
    pub fn over(&self, store: Arc<dyn ObjectStore>) -> Writer {
        Writer {
            store,
            service_range: self.service_range,
            policy: Arc::clone(&self.policy),
            rights: Arc::clone(&self.rights),
            cluster_ca: self.cluster_ca.clone(),
        }
    }

    async fn stored(&self, target: &Target) -> Result<Arc<Object>, Status> {
        let key = key_of(target);
        let stored = self.store.read(&key).await.map_err(read_status)?;
        stored.ok_or_else(|| Status::not_found(target.kind, &key.name))
    }

    /// The way of a request through admission, with what the plugins will look up at hand.
    async fn gate<'a>(
        &'a self,
        target: &'a Target,
        operation: Operation,
        object: &Value,
        with: &'a Circumstances,
    ) -> Result<Gate<'a>, Status> {
        let attributes = Attributes {
            operation,
            kind: target.kind,
            namespace: &target.namespace,
            name: target.name.as_deref().unwrap_or_default(),
            subresource: target.subresource,
            user: &with.user.name,
            groups: &with.user.groups,
            random: with.random,
        };
        self.policy.prepare(&attributes, object).await?;
        let mut gate = Gate {
            policy: &self.policy,
            rights: &self.rights,
            user: &with.user,
            attributes,
            related: None,
            verb: Verb::from(operation),
            options: Value::Null,
            dry_run: with.dry_run,
            asking: self.policy.asking(),
            notes: with.notes.clone(),
        };
        if gate.asks() {
            gate.options = with.options(operation);
        }
        gate.related = self
            .rights
            .related(&gate.node_write(attributes.name, object, &Value::Null))
            .await?;
        Ok(gate)
    }

    /// Proposes writes of which the first is the object's. `None` when something that the decision read has changed since: the
    /// caller decides again.
    async fn commit(
        &self,
        kind: &Kind,
        name: &str,
        with: &Circumstances,
        writes: Vec<Write>,
    ) -> Result<Option<Revision>, Status> {
        let cause = with.cause;
        match self.store.propose(Proposal { cause, writes }).await {
            Ok(committed) => Ok(Some(committed.revisions.first().copied().unwrap_or(Revision::ZERO))),
            Err(ProposeError::Refused(Refusal::Conflict { key, .. })) => {
                if key.resource.as_str() == QUOTAS {
                    self.policy.refresh(&key).await?;
                }
                Ok(None)
            }
            Err(error) => Err(propose_status(kind, name, error)),
        }
    }
}

/// The writes that charge quotas.
fn charges(charges: Vec<Charge>) -> Result<Vec<Write>, Status> {
    charges
        .into_iter()
        .map(|charge| charge.write().map_err(Status::internal))
        .collect()
}
