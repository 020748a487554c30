//! Creates, updates, patches, binds and deletes: reads what the write builds on, lets `api` decide what is stored, and
//! proposes it against the revision that was read. A conflict is tried again only where the client named no revision.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use serde_json::{Value, json};

use api::decode::{self, Parsed};
use api::kinds::{self, Kind, Subresource};
use api::status::Status;
use api::write::{DeleteOptions, Deletion, FieldValidation, PatchType, WriteContext, Written};
use protocol::store::{ListRequest, ObjectStore, Precondition, Proposal, ProposeError, Refusal, Write};
use protocol::{Cause, Key, Object, Revision, UnixMillis};

use crate::addresses::{AddressRange, choose_node_port};
use crate::read::{key_of, list_request, one, page, read_status, try_again};
use crate::request::{ApiRequest, ApiResponse};
use crate::route::Target;

/// How often a write without a revision of the client's is tried against a newer object.
const ATTEMPTS_MAX: u32 = 16;

/// The resource of the objects that keep a cluster address from being given twice.
const IP_ADDRESSES: &str = "ipaddresses.networking.k8s.io";

/// Whose deletion is answered with the object that went, where others are answered with a Status: clients with types, such
/// as Python's, refuse the other one (`ReturnDeletedObject` in Kubernetes).
const ANSWERED_WITH_OBJECT: [(&str, &str); 3] = [("", "pods"), ("", "services"), ("", "serviceaccounts")];

/// What writes need from their surroundings.
pub struct Writer {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The range of cluster addresses.
    pub service_range: AddressRange,
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
    user: String,
    groups: Vec<String>,
    validation: FieldValidation,
    dry_run: bool,
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
            user: request.user.as_ref().map(|user| user.name.clone()).unwrap_or_default(),
            groups: request.user.as_ref().map(|user| user.groups.clone()).unwrap_or_default(),
            validation: FieldValidation::parse(validation).ok_or_else(|| {
                Status::bad_request(format!(
                    "Unsupported value: {validation:?}: supported values: \"Ignore\", \"Strict\", \"Warn\" (fieldValidation)"
                ))
            })?,
            dry_run,
            cause: request.cause,
        })
    }

    /// What `api` needs to know of the request.
    pub fn context<'a>(&'a self, suffix: &'a str, duplicate_fields: &'a [String]) -> WriteContext<'a> {
        WriteContext {
            now: self.now,
            new_uid: &self.uid,
            random_suffix: suffix,
            field_manager: &self.manager,
            field_validation: self.validation,
            user: &self.user,
            groups: &self.groups,
            duplicate_fields,
        }
    }
}

/// The five characters that end a generated name: Kubernetes' alphabet without vowels, so that no word comes out.
pub fn name_suffix(mut bits: u64) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut suffix = String::with_capacity(5);
    for _ in 0..5 {
        suffix.push(char::from(ALPHABET[(bits % 27) as usize]));
        bits /= 27;
    }
    suffix
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
        ProposeError::TooLarge { bytes_max, .. } => Status::too_large(bytes_max),
    }
}

fn is_conflict(error: &ProposeError) -> bool {
    matches!(error, ProposeError::Refused(Refusal::Conflict { .. }))
}

impl Writer {
    async fn stored(&self, target: &Target) -> Result<Arc<Object>, Status> {
        let key = key_of(target);
        let stored = self.store.read(&key).await.map_err(read_status)?;
        stored.ok_or_else(|| Status::not_found(target.kind, &key.name))
    }

    /// POST to a collection.
    pub async fn create(
        &self,
        request: &ApiRequest,
        target: &Target,
        with: &Circumstances,
    ) -> Result<ApiResponse, Status> {
        let parsed = parse_body(request)?;
        self.check_namespace(target).await?;
        let generated = parsed
            .value
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .is_empty();
        let mut bits = with.random;
        for _ in 0..ATTEMPTS_MAX {
            let suffix = name_suffix(bits);
            let context = with.context(&suffix, &parsed.duplicate_fields);
            let written = api::write::prepare_create(target.kind, &target.namespace, parsed.value.clone(), &context)?;
            let outcome = self.put_new(target.kind, written, with, bits).await?;
            match outcome {
                Ok((object, warnings)) => {
                    return Ok(one(request, target.kind, 201, &object, with.now)?.warning(warnings));
                }
                Err((name, ProposeError::Refused(Refusal::AlreadyExists { key, .. })))
                    if key.resource.as_str() == IP_ADDRESSES && asks_for_address(&parsed.value) =>
                {
                    let taken = "provided IP is already allocated";
                    return Err(address_refused(target.kind, &name, &key.name, &taken));
                }
                Err((_, ProposeError::Refused(Refusal::AlreadyExists { key, .. })))
                    if generated || key.resource.as_str() == IP_ADDRESSES =>
                {
                    bits = bits
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407)
                        >> 1;
                }
                Err((name, error)) => return Err(propose_status(target.kind, &name, error)),
            }
        }
        Err(Status::timeout(
            "no free name or address was found in 16 tries; try again",
        ))
    }

    /// Stores a new object, its cluster address with it.
    async fn put_new(
        &self,
        kind: &'static Kind,
        mut written: Written,
        with: &Circumstances,
        bits: u64,
    ) -> Result<Result<(Object, Vec<String>), (String, ProposeError)>, Status> {
        let reserved = self.assign_addresses(kind, &mut written.object, bits).await?;
        if kind.has(Subresource::Status) && written.object["status"].is_null() {
            // Go writes an empty status, and clients with types read through it.
            written.object["status"] = json!({});
        }
        let metadata = &written.object["metadata"];
        let text = |name: &str| metadata[name].as_str().unwrap_or_default().to_owned();
        let (name, namespace) = (text("name"), text("namespace"));
        let draft = kind.draft(&written.object).map_err(Status::internal)?;
        if with.dry_run {
            return Ok(Ok((draft.preview(), written.warnings)));
        }
        let key = Key::new(kind.resource(), namespace, name.as_str());
        let mut writes = vec![Write::Put {
            key,
            precondition: Precondition::Absent,
            draft: draft.clone(),
        }];
        for address in reserved {
            writes.push(reservation(address, &written.object, with)?);
        }
        match self
            .store
            .propose(Proposal {
                cause: with.cause,
                writes,
            })
            .await
        {
            Ok(committed) => {
                let revision = committed.revisions.first().copied().unwrap_or(Revision::ZERO);
                Ok(Ok((draft.commit(revision, None), written.warnings)))
            }
            Err(error) => Ok(Err((name, error))),
        }
    }

    /// Nothing is created in a namespace that does not exist or is being deleted (admission plugin NamespaceLifecycle).
    async fn check_namespace(&self, target: &Target) -> Result<(), Status> {
        if !target.kind.namespaced || target.namespace.is_empty() {
            return Ok(());
        }
        let Some(namespaces) = kinds::find("", "v1", "namespaces") else {
            return Ok(());
        };
        let key = Key::new(namespaces.resource(), "", target.namespace.as_str());
        let stored = self.store.read(&key).await.map_err(read_status)?;
        let stored = stored.ok_or_else(|| Status::not_found(namespaces, &target.namespace))?;
        if stored.header.deleting {
            let why = format!(
                "unable to create new content in namespace {} because it is being terminated",
                target.namespace
            );
            return Err(Status::forbidden(
                target.kind,
                target.name.as_deref().unwrap_or_default(),
                why,
            ));
        }
        Ok(())
    }

    /// Gives a Service its cluster address and node ports. Returns the addresses to reserve with it.
    async fn assign_addresses(&self, kind: &Kind, object: &mut Value, bits: u64) -> Result<Vec<Ipv4Addr>, Status> {
        if (kind.group, kind.kind) != ("", "Service") {
            return Ok(Vec::new());
        }
        let service_type = object["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
        let wanted = object["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
        if service_type == "ExternalName" {
            return Ok(Vec::new());
        }
        if matches!(service_type.as_str(), "NodePort" | "LoadBalancer") {
            self.assign_node_ports(object, bits).await?;
        }
        if wanted == "None" {
            object["spec"]["clusterIPs"] = json!(["None"]);
            return Ok(Vec::new());
        }
        let address = if wanted.is_empty() {
            let taken = self
                .store
                .list(ListRequest::all(IP_ADDRESSES))
                .await
                .map_err(read_status)?;
            let used: BTreeSet<Ipv4Addr> = taken
                .items
                .iter()
                .filter_map(|(key, _)| key.name.parse().ok())
                .collect();
            self.service_range
                .choose(&used, bits as u32)
                .map_err(|error| Status::internal(error.to_string()))?
        } else {
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            self.service_range
                .check(&wanted)
                .map_err(|error| address_refused(kind, &name, &wanted, &error))?
        };
        object["spec"]["clusterIP"] = address.to_string().into();
        object["spec"]["clusterIPs"] = json!([address.to_string()]);
        Ok(vec![address])
    }

    async fn assign_node_ports(&self, object: &mut Value, bits: u64) -> Result<(), Status> {
        let services = self
            .store
            .list(ListRequest::all("services"))
            .await
            .map_err(read_status)?;
        let values = services.items.iter().filter_map(|(_, service)| service.value().ok());
        let ports = |value: &Value| -> Vec<u16> {
            let listed = value["spec"]["ports"].as_array().cloned().unwrap_or_default();
            listed
                .iter()
                .filter_map(|port| u16::try_from(port["nodePort"].as_u64()?).ok())
                .collect()
        };
        let mut used: BTreeSet<u16> = values.flat_map(|value| ports(&value)).collect();
        for port in object["spec"]["ports"].as_array_mut().into_iter().flatten() {
            if port["nodePort"].as_u64().unwrap_or(0) == 0 {
                let chosen = choose_node_port(&used, (bits >> 8) as u32);
                let chosen = chosen
                    .ok_or_else(|| Status::internal("every node port is taken: delete a Service of type NodePort"))?;
                used.insert(chosen);
                port["nodePort"] = chosen.into();
            }
        }
        Ok(())
    }

    /// PUT of an object or of its status.
    pub async fn update(
        &self,
        request: &ApiRequest,
        target: &Target,
        with: &Circumstances,
    ) -> Result<ApiResponse, Status> {
        let parsed = parse_body(request)?;
        let named = parsed
            .value
            .pointer("/metadata/resourceVersion")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        self.change(request, target, with, |old| {
            check_version(target.kind, old, &named)?;
            let context = with.context("", &parsed.duplicate_fields);
            if target.subresource == Some(Subresource::Scale) {
                let scaled = api::write::set_scale(target.kind, old, &parsed.value)?;
                return api::write::prepare_update(target.kind, None, old, scaled, &context).map(Some);
            }
            api::write::prepare_update(target.kind, target.subresource, old, parsed.value.clone(), &context).map(Some)
        })
        .await
    }

    /// PATCH of an object, its status or its scale.
    pub async fn patch(
        &self,
        request: &ApiRequest,
        target: &Target,
        with: &Circumstances,
    ) -> Result<ApiResponse, Status> {
        let content_type = request.content_type.split(';').next().unwrap_or_default().trim();
        if matches!(
            content_type,
            "application/apply-patch+yaml" | "application/apply-patch+json"
        ) {
            return self.apply(request, target, with).await;
        }
        let Some(patch_type) = PatchType::of_content_type(content_type) else {
            let accepted = [
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/apply-patch+yaml",
                "application/strategic-merge-patch+json",
            ];
            return Err(Status::unsupported_media_type(&accepted));
        };
        let parsed = decode::json(&request.body)?;
        self.change(request, target, with, |old| {
            let context = with.context("", &parsed.duplicate_fields);
            if target.subresource == Some(Subresource::Scale) {
                let scale = api::write::scale_of(target.kind, old)?;
                let patched = api::write::apply_patch(target.kind, patch_type, &scale, &parsed.value)?;
                let scaled = api::write::set_scale(target.kind, old, &patched)?;
                return api::write::prepare_update(target.kind, None, old, scaled, &context).map(Some);
            }
            let patched = api::write::apply_patch(target.kind, patch_type, old, &parsed.value)?;
            let named = patched
                .pointer("/metadata/resourceVersion")
                .and_then(Value::as_str)
                .unwrap_or_default();
            check_version(target.kind, old, named)?;
            api::write::prepare_update(target.kind, target.subresource, old, patched, &context).map(Some)
        })
        .await
    }

    /// Server-side apply (KEP-555): creates the object when it does not exist.
    async fn apply(&self, request: &ApiRequest, target: &Target, with: &Circumstances) -> Result<ApiResponse, Status> {
        if request.parameter("fieldManager").is_empty() {
            return Err(Status::bad_request(
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            ));
        }
        let mut parsed = decode::yaml(&request.body)?;
        place(&mut parsed.value, target)?;
        let parsed = parsed;
        let force = request.flag("force");
        let context = with.context("", &parsed.duplicate_fields);
        for _ in 0..ATTEMPTS_MAX {
            let key = key_of(target);
            if let Some(_exists) = self.store.read(&key).await.map_err(read_status)? {
                return self
                    .change(request, target, with, |old| {
                        let applied = parsed.value.clone();
                        let kind = target.kind;
                        api::write::server_side_apply(kind, target.subresource, Some(old), applied, force, &context)
                            .map(Some)
                    })
                    .await;
            }
            if target.subresource.is_some() {
                return Err(Status::not_found(target.kind, &key.name));
            }
            self.check_namespace(target).await?;
            let applied = parsed.value.clone();
            let written = api::write::server_side_apply(target.kind, None, None, applied, force, &context)?;
            match self.put_new(target.kind, written, with, with.random).await? {
                Ok((object, warnings)) => {
                    return Ok(one(request, target.kind, 201, &object, with.now)?.warning(warnings));
                }
                Err((_, ProposeError::Refused(Refusal::AlreadyExists { .. }))) => {}
                Err((name, error)) => return Err(propose_status(target.kind, &name, error)),
            }
        }
        Err(Status::timeout(
            "the object changed 16 times while it was applied; try again",
        ))
    }

    /// Reads, decides, proposes; again when the object changed in between and the decision did not depend on that.
    async fn change(
        &self,
        request: &ApiRequest,
        target: &Target,
        with: &Circumstances,
        decide: impl Fn(&Value) -> Result<Option<Written>, Status>,
    ) -> Result<ApiResponse, Status> {
        let key = key_of(target);
        for _ in 0..ATTEMPTS_MAX {
            let stored = self.stored(target).await?;
            let old = target.kind.served(stored.value().map_err(Status::internal)?);
            let Some(written) = decide(&old)? else {
                return one(request, target.kind, 200, &stored, with.now);
            };
            let draft = target.kind.draft(&written.object).map_err(Status::internal)?;
            if with.dry_run || draft.changes_nothing(&stored) {
                let object = draft.commit(stored.header.revision, Some(stored.header.created));
                return self.answer(request, target, &object, written.warnings, with);
            }
            let precondition = Precondition::Revision(stored.header.revision);
            let gone = api::may_go(target.kind, &written.object);
            let writes = if gone {
                self.removal(&key, precondition, &old).await?
            } else {
                vec![Write::Put {
                    key: key.clone(),
                    precondition,
                    draft: draft.clone(),
                }]
            };
            match self
                .store
                .propose(Proposal {
                    cause: with.cause,
                    writes,
                })
                .await
            {
                Ok(committed) => {
                    let revision = committed.revisions.first().copied().unwrap_or(stored.header.revision);
                    let object = draft.commit(revision, Some(stored.header.created));
                    return self.answer(request, target, &object, written.warnings, with);
                }
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(propose_status(target.kind, &key.name, error)),
            }
        }
        Err(Status::modified(target.kind, &key.name))
    }

    fn answer(
        &self,
        request: &ApiRequest,
        target: &Target,
        object: &Object,
        warnings: Vec<String>,
        with: &Circumstances,
    ) -> Result<ApiResponse, Status> {
        if target.subresource == Some(Subresource::Scale) {
            let value = object.value().map_err(Status::internal)?;
            let scale = api::write::scale_of(target.kind, &value)?;
            return Ok(ApiResponse::value(200, &scale).warning(warnings));
        }
        Ok(one(request, target.kind, 200, object, with.now)?.warning(warnings))
    }

    /// POST of a Binding: assigns the pod to a node, once.
    pub async fn bind(
        &self,
        request: &ApiRequest,
        target: &Target,
        with: &Circumstances,
    ) -> Result<ApiResponse, Status> {
        let binding = parse_body(request)?.value;
        let node = binding
            .pointer("/target/name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if node.is_empty() {
            return Err(Status::bad_request(
                "Binding.target.name: Required value: the node's name",
            ));
        }
        let name = target.name.as_deref().unwrap_or_default();
        self.change(request, target, with, |old| {
            let bound = old
                .pointer("/spec/nodeName")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if !bound.is_empty() {
                let why = format!("pod {name} is already assigned to node {bound:?}");
                return Err(Status::conflict(target.kind, name, why));
            }
            let mut object = old.clone();
            object["spec"]["nodeName"] = node.into();
            let condition = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": with.now.rfc3339()});
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let others = conditions.into_iter().filter(|known| known["type"] != "PodScheduled");
            object["status"]["conditions"] = others.chain([condition]).collect();
            Ok(Some(Written {
                object,
                warnings: Vec::new(),
            }))
        })
        .await?;
        Ok(ApiResponse::value(
            201,
            &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
        ))
    }

    /// DELETE of an object, and POST of an Eviction.
    pub async fn delete(
        &self,
        request: &ApiRequest,
        target: &Target,
        with: &Circumstances,
    ) -> Result<ApiResponse, Status> {
        check_mortal(target.kind, target.name.as_deref().unwrap_or_default())?;
        let options = delete_options(request)?;
        let (object, removed) = self.delete_one(target.kind, &key_of(target), &options, with).await?;
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
            check_mortal(target.kind, &key.name)?;
            match self.delete_one(target.kind, key, &options, with).await {
                Err(status) if status.code != 404 => return Err(status),
                _ => {}
            }
        }
        page(request, target.kind, &listed, with.now)
    }

    async fn delete_one(
        &self,
        kind: &'static Kind,
        key: &Key,
        options: &DeleteOptions,
        with: &Circumstances,
    ) -> Result<(Object, bool), Status> {
        for _ in 0..ATTEMPTS_MAX {
            let stored = self.store.read(key).await.map_err(read_status)?;
            let stored = stored.ok_or_else(|| Status::not_found(kind, &key.name))?;
            let old = kind.served(stored.value().map_err(Status::internal)?);
            options.check(kind, &old)?;
            let precondition = Precondition::Revision(stored.header.revision);
            let (writes, after) = match api::write::begin_deletion(kind, &old, options, with.now) {
                Deletion::Nothing => return Ok((Object::clone(&stored), false)),
                Deletion::Remove => (self.removal(key, precondition, &old).await?, None),
                Deletion::Mark(value) => {
                    let draft = kind.draft(&value).map_err(Status::internal)?;
                    (
                        vec![Write::Put {
                            key: key.clone(),
                            precondition,
                            draft: draft.clone(),
                        }],
                        Some(draft),
                    )
                }
            };
            if with.dry_run || options.dry_run {
                return Ok((Object::clone(&stored), after.is_none()));
            }
            match self
                .store
                .propose(Proposal {
                    cause: with.cause,
                    writes,
                })
                .await
            {
                Ok(committed) => {
                    let revision = committed.revisions.first().copied().unwrap_or(stored.header.revision);
                    let object = after.map(|draft| draft.commit(revision, Some(stored.header.created)));
                    let removed = object.is_none();
                    return Ok((object.unwrap_or_else(|| Object::clone(&stored)), removed));
                }
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(propose_status(kind, &key.name, error)),
            }
        }
        Err(Status::modified(kind, &key.name))
    }

    /// The writes that remove an object: with a Service goes the reservation of its address.
    async fn removal(&self, key: &Key, precondition: Precondition, old: &Value) -> Result<Vec<Write>, Status> {
        let mut writes = vec![Write::Delete {
            key: key.clone(),
            precondition,
        }];
        if key.resource.as_str() == "services"
            && let Some(address) = old["spec"]["clusterIP"]
                .as_str()
                .filter(|text| text.parse::<Ipv4Addr>().is_ok())
        {
            let reserved = Key::new(IP_ADDRESSES, "", address);
            if self.store.read(&reserved).await.map_err(read_status)?.is_some() {
                writes.push(Write::Delete {
                    key: reserved,
                    precondition: Precondition::None,
                });
            }
        }
        Ok(writes)
    }
}

/// An IPAddress object (networking.k8s.io/v1), named by the address.
fn reservation(address: Ipv4Addr, service: &Value, with: &Circumstances) -> Result<Write, Status> {
    let object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(),
            "uid": with.uid,
            "creationTimestamp": with.now.rfc3339(),
            "labels": {"ipaddress.kubernetes.io/managed-by": "actorium", "ipaddress.kubernetes.io/ip-family": "IPv4"},
        },
        "spec": {"parentRef": {
            "group": "", "resource": "services",
            "namespace": service["metadata"]["namespace"], "name": service["metadata"]["name"],
        }},
    });
    let draft = protocol::Draft::encode(&object, Vec::new()).map_err(Status::internal)?;
    Ok(Write::Put {
        key: Key::new(IP_ADDRESSES, "", address.to_string()),
        precondition: Precondition::Absent,
        draft,
    })
}

/// Whether a Service names its own address.
fn asks_for_address(service: &Value) -> bool {
    service
        .pointer("/spec/clusterIP")
        .and_then(Value::as_str)
        .is_some_and(|address| !address.is_empty())
}

fn address_refused(kind: &Kind, name: &str, wanted: &str, why: &dyn std::fmt::Display) -> Status {
    let cause = api::cause::Cause {
        field: "spec.clusterIPs".to_owned(),
        reason: "FieldValueInvalid",
        message: format!("Invalid value: [\"{wanted}\"]: failed to allocate IP {wanted}: {why}"),
    };
    Status::invalid(kind, name, vec![cause])
}

/// The namespaces that every cluster needs cannot be deleted (admission plugin NamespaceLifecycle).
fn check_mortal(kind: &Kind, name: &str) -> Result<(), Status> {
    let immortal = ["default", "kube-system", "kube-public"];
    if (kind.group, kind.plural) == ("", "namespaces") && immortal.contains(&name) {
        return Err(Status::forbidden(kind, name, "this namespace may not be deleted"));
    }
    Ok(())
}

/// A write that names a revision is refused when the object has another.
fn check_version(kind: &Kind, old: &Value, named: &str) -> Result<(), Status> {
    let metadata = &old["metadata"];
    if named.is_empty() || metadata["resourceVersion"].as_str() == Some(named) {
        return Ok(());
    }
    Err(Status::modified(kind, metadata["name"].as_str().unwrap_or_default()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_end_in_five_characters_without_vowels() {
        for bits in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
            let suffix = name_suffix(bits);
            assert_eq!(suffix.len(), 5);
            assert!(
                suffix.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b)),
                "{suffix}"
            );
        }
    }
}
