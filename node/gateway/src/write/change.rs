//! Updates, patches and bindings: all read the object, decide about the new one, and propose it against what was read.

use serde_json::{Value, json};

use admission::Operation;
use api::access::Access;
use api::decode;
use api::kinds::{Kind, Subresource};
use api::status::Status;
use api::write::{PatchType, Written};
use protocol::Object;
use protocol::store::{Precondition, Write};

use super::{ATTEMPTS_MAX, Circumstances, Writer, charges, parse_body};
use crate::policy::Gate;
use crate::read::{key_of, one};
use crate::request::{ApiRequest, ApiResponse};
use crate::route::Target;

impl Writer {
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
        let gate = self.gate(target, Operation::Update, &parsed.value, with).await?;
        self.change(request, target, with, &gate, |old| {
            check_version(target.kind, old, &named)?;
            let context = with.context("", &parsed.duplicate_fields, &gate);
            if target.subresource == Some(Subresource::Scale) {
                let scaled = api::write::set_scale(target.kind, old, &parsed.value)?;
                return api::write::prepare_update(target.kind, None, old, scaled, &context);
            }
            api::write::prepare_update(target.kind, target.subresource, old, parsed.value.clone(), &context)
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
        let gate = self.gate(target, Operation::Update, &parsed.value, with).await?;
        self.change(request, target, with, &gate, |old| {
            let context = with.context("", &parsed.duplicate_fields, &gate);
            if target.subresource == Some(Subresource::Scale) {
                let scale = api::write::scale_of(target.kind, old)?;
                let patched = api::write::apply_patch(target.kind, patch_type, &scale, &parsed.value)?;
                let scaled = api::write::set_scale(target.kind, old, &patched)?;
                return api::write::prepare_update(target.kind, None, old, scaled, &context);
            }
            let patched = api::write::apply_patch(target.kind, patch_type, old, &parsed.value)?;
            let named = patched
                .pointer("/metadata/resourceVersion")
                .and_then(Value::as_str)
                .unwrap_or_default();
            check_version(target.kind, old, named)?;
            api::write::prepare_update(target.kind, target.subresource, old, patched, &context)
        })
        .await
    }

    /// Reads, decides, proposes; again when something changed in between and the decision did not depend on that.
    pub(super) async fn change(
        &self,
        request: &ApiRequest,
        target: &Target,
        with: &Circumstances,
        gate: &Gate<'_>,
        decide: impl Fn(&Value) -> Result<Written, Status>,
    ) -> Result<ApiResponse, Status> {
        let key = key_of(target);
        for _ in 0..ATTEMPTS_MAX {
            let stored = self.stored(target).await?;
            let old = target.kind.served(stored.value().map_err(Status::internal)?);
            let Written {
                mut object,
                mut warnings,
            } = gate.decide(|| decide(&old)).await?;
            let judged = gate.judge(&mut object, Some(&old)).await?;
            warnings.extend(judged.warnings);
            let draft = target.kind.draft(&object).map_err(Status::internal)?;
            let committed = |revision| draft.commit(revision, Some(stored.header.created));
            if with.dry_run || draft.changes_nothing(&stored) {
                return self.answer(request, target, &committed(stored.header.revision), warnings, with);
            }
            let precondition = Precondition::Revision(stored.header.revision);
            let mut writes = if api::may_go(target.kind, &object) {
                self.removal(&key, precondition, &old).await?
            } else {
                vec![Write::Put {
                    key: key.clone(),
                    precondition,
                    draft: draft.clone(),
                }]
            };
            writes.extend(charges(judged.charges)?);
            if let Some(revision) = self.commit(target.kind, &key.name, with, writes).await? {
                return self.answer(request, target, &committed(revision), warnings, with);
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
        let mut binding = parse_body(request)?.value;
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
        let gate = self.gate(target, Operation::Create, &binding, with).await?;
        let warnings = gate.consult(&mut binding, &Value::Null).await?;
        let node = binding.at(&["target"]).text("name").to_owned();
        let key = protocol::Key::new("nodes", "", node.as_str());
        let of_node = self.store.read(&key).await.map_err(crate::read::read_status)?;
        let of_node = of_node.map(|node| node.value().map_err(Status::internal)).transpose()?;
        self.change(request, target, with, &gate, |old| {
            let bound = old
                .pointer("/spec/nodeName")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if !bound.is_empty() {
                let why = format!("pod {name} is already assigned to node {bound:?}");
                return Err(Status::conflict(target.kind, name, why));
            }
            let mut object = old.clone();
            object["spec"]["nodeName"] = node.as_str().into();
            if let Some(of_node) = &of_node {
                admission::pod_topology_labels::put(&mut object, of_node);
            }
            let condition = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": with.now.rfc3339()});
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let others = conditions.into_iter().filter(|known| known["type"] != "PodScheduled");
            object["status"]["conditions"] = others.chain([condition]).collect();
            Ok(Written {
                object,
                warnings: Vec::new(),
            })
        })
        .await?;
        Ok(ApiResponse::value(
            201,
            &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
        )
        .warning(warnings))
    }
}

/// A write that names a revision is refused when the object has another.
fn check_version(kind: &Kind, old: &Value, named: &str) -> Result<(), Status> {
    let metadata = &old["metadata"];
    if named.is_empty() || metadata["resourceVersion"].as_str() == Some(named) {
        return Ok(());
    }
    Err(Status::modified(kind, metadata["name"].as_str().unwrap_or_default()))
}
