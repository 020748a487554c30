//! POST to a collection, and server-side apply, which creates what does not exist.

use serde_json::{Value, json};

use admission::Operation;
use api::decode;
use api::kinds::{Kind, Subresource};
use api::status::Status;
use api::write::{Written, name_suffix};
use protocol::store::{Precondition, Proposal, ProposeError, Refusal, Write};
use protocol::{Key, Object, Revision};

use super::service_addresses::{IP_ADDRESSES, address_refused, asks_for_address, reservation};
use super::{ATTEMPTS_MAX, Circumstances, QUOTAS, Writer, charges, namespace_contents, parse_body, propose_status};
use crate::policy::Gate;
use crate::read::{key_of, one, read_status};
use crate::request::{ApiRequest, ApiResponse};
use crate::rights::resource_request;
use crate::route::Target;

/// What came of a new object.
enum Outcome {
    /// It is stored, with these warnings.
    Stored(Object, Vec<String>),
    /// The store did not take it.
    Refused {
        /// The name that it would have had.
        name: String,
        /// Why.
        error: ProposeError,
    },
}

impl Writer {
    /// POST to a collection.
    pub async fn create(
        &self,
        request: &ApiRequest,
        target: &Target,
        with: &Circumstances,
    ) -> Result<ApiResponse, Status> {
        let parsed = parse_body(request)?;
        let gate = self.gate(target, Operation::Create, &parsed.value, with).await?;
        let named = parsed.value.pointer("/metadata/name").and_then(Value::as_str);
        let generated = named.unwrap_or_default().is_empty();
        let mut bits = with.random;
        for _ in 0..ATTEMPTS_MAX {
            let suffix = name_suffix(bits);
            let context = with.context(&suffix, &parsed.duplicate_fields, &gate);
            let written = gate
                .decide(|| api::write::prepare_create(target.kind, &target.namespace, parsed.value.clone(), &context))
                .await?;
            let (name, error) = match self.put_new(target.kind, written, &gate, with, bits).await? {
                Outcome::Stored(object, warnings) => {
                    return Ok(one(request, target.kind, 201, &object, with.now)?.warning(warnings));
                }
                Outcome::Refused { name, error } => (name, error),
            };
            match error {
                ProposeError::Refused(Refusal::AlreadyExists { key, .. })
                    if key.resource.as_str() == IP_ADDRESSES && asks_for_address(&parsed.value) =>
                {
                    let taken = "provided IP is already allocated";
                    return Err(address_refused(target.kind, &name, &key.name, &taken));
                }
                ProposeError::Refused(Refusal::AlreadyExists { key, .. })
                    if generated || key.resource.as_str() == IP_ADDRESSES =>
                {
                    bits = next_bits(bits);
                }
                ProposeError::Refused(Refusal::Conflict { key, .. }) if key.resource.as_str() == QUOTAS => {
                    self.policy.refresh(&key).await?;
                }
                error => return Err(propose_status(target.kind, &name, error)),
            }
        }
        Err(Status::timeout(
            "no free name or address was found, or a quota changed, in 16 tries; try again",
        ))
    }

    /// Stores a new object, and with it its cluster address, what it is charged for, and what belongs to it from the
    /// beginning.
    async fn put_new(
        &self,
        kind: &'static Kind,
        written: Written,
        gate: &Gate<'_>,
        with: &Circumstances,
        bits: u64,
    ) -> Result<Outcome, Status> {
        let Written {
            mut object,
            mut warnings,
        } = written;
        let reserved = self.assign_addresses(kind, &mut object, bits).await?;
        if kind.has(Subresource::Status) && kind.custom.is_none() && object["status"].is_null() {
            // Go writes an empty status, and clients with types read through it. A custom object has only what was written.
            object["status"] = json!({});
        }
        let judged = gate.judge(&mut object, None).await?;
        warnings.extend(judged.warnings);
        let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
        let (name, namespace) = (text("name"), text("namespace"));
        let draft = kind.draft(&object).map_err(Status::internal)?;
        if with.dry_run {
            return Ok(Outcome::Stored(draft.preview(), warnings));
        }
        let key = Key::new(kind.resource(), namespace, name.as_str());
        let contents = namespace_contents::of(&key, &self.cluster_ca, with)?;
        let mut writes = vec![Write::Put {
            key,
            precondition: Precondition::Absent,
            draft: draft.clone(),
        }];
        for address in reserved {
            writes.push(reservation(address, &object, with)?);
        }
        writes.extend(charges(judged.charges)?);
        writes.extend(contents);
        let cause = with.cause;
        Ok(match self.store.propose(Proposal { cause, writes }).await {
            Ok(committed) => {
                let revision = committed.revisions.first().copied().unwrap_or(Revision::ZERO);
                Outcome::Stored(draft.commit(revision, None), warnings)
            }
            Err(error) => Outcome::Refused { name, error },
        })
    }

    /// A patch that creates needs the right to create too.
    fn check_create(&self, target: &Target, with: &Circumstances) -> Result<(), Status> {
        let name = target.name.as_deref().unwrap_or_default();
        let about = resource_request(target.kind, &target.namespace, name).completed("create");
        self.rights
            .check(&access::Attributes::resource(&with.user, "create", about))
    }

    /// Server-side apply (KEP-555): creates the object when it does not exist.
    pub(super) async fn apply(
        &self,
        request: &ApiRequest,
        target: &Target,
        with: &Circumstances,
    ) -> Result<ApiResponse, Status> {
        if request.parameter("fieldManager").is_empty() {
            return Err(Status::bad_request(
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            ));
        }
        let mut parsed = decode::yaml(&request.body)?;
        place(&mut parsed.value, target)?;
        let parsed = parsed;
        let force = request.flag("force");
        for _ in 0..ATTEMPTS_MAX {
            let key = key_of(target);
            let exists = self.store.read(&key).await.map_err(read_status)?.is_some();
            let operation = if exists { Operation::Update } else { Operation::Create };
            let gate = self.gate(target, operation, &parsed.value, with).await?;
            let context = with.context("", &parsed.duplicate_fields, &gate);
            let decide = |old: Option<&Value>| {
                let applied = parsed.value.clone();
                api::write::server_side_apply(target.kind, target.subresource, old, applied, force, &context)
            };
            if exists {
                return self.change(request, target, with, &gate, |old| decide(Some(old))).await;
            }
            if target.subresource.is_some() {
                return Err(Status::not_found(target.kind, &key.name));
            }
            self.check_create(target, with)?;
            let written = gate.decide(|| decide(None)).await?;
            match self.put_new(target.kind, written, &gate, with, with.random).await? {
                Outcome::Stored(object, warnings) => {
                    return Ok(one(request, target.kind, 201, &object, with.now)?.warning(warnings));
                }
                Outcome::Refused { error, .. } => match error {
                    ProposeError::Refused(Refusal::AlreadyExists { .. }) => {}
                    ProposeError::Refused(Refusal::Conflict { key, .. }) if key.resource.as_str() == QUOTAS => {
                        self.policy.refresh(&key).await?;
                    }
                    error => return Err(propose_status(target.kind, &key.name, error)),
                },
            }
        }
        Err(Status::timeout(
            "the object changed 16 times while it was applied; try again",
        ))
    }
}

/// An applied object need not repeat the namespace of its path, but may not name another.
fn place(applied: &mut Value, target: &Target) -> Result<(), Status> {
    let Some(metadata) = applied.get_mut("metadata").and_then(Value::as_object_mut) else {
        return Ok(());
    };
    let named = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
    if named.is_empty() && !target.namespace.is_empty() {
        metadata.insert("namespace".to_owned(), target.namespace.clone().into());
    } else if named != target.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Other bits for another try: one step of Knuth's linear congruential generator.
fn next_bits(bits: u64) -> u64 {
    bits.wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407)
        >> 1
}
