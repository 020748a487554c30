//! What is done about APIServices from time to time, and when one changes: every node asks the other servers for what they
//! offer; the node that leads also keeps the list of its own, notes who answers, and publishes whom aggregated servers are to
//! believe.

use std::sync::Arc;
use std::time::Duration;

use api::kinds::{self, Kind};
use api::write::{FieldValidation, WriteContext};
use protocol::store::{ListRequest, ObjectStore, Precondition, Proposal, ProposeError, ReadError, Refusal, Write};
use protocol::{Cause, Draft, Key, Object, Uid};
use serde_json::{Value, json};

use super::availability::{Finding, noted};
use super::front_proxy::CLIENT_NAME;
use super::local::{Step, steps, wanted};
use super::registry::Remote;
use super::{API_SERVICES, Aggregation, Surroundings};

/// How often all is looked at again. An APIService that changes is looked at at once.
const PERIOD: Duration = Duration::from_secs(5);

/// Why a round ended early. The next one begins anew.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Propose(#[from] ProposeError),
    #[error("a stored object cannot be read: {0}")]
    Stored(#[from] serde_json::Error),
    #[error(transparent)]
    Status(#[from] api::Status),
    #[error(transparent)]
    Draft(#[from] protocol::object::DraftError),
    #[error("no kind is known for {0}")]
    UnknownKind(&'static str),
}

pub(super) async fn run(aggregation: Arc<Aggregation>, surroundings: Surroundings) {
    loop {
        if (surroundings.leads)()
            && let Err(error) = lead(&aggregation, &surroundings).await
        {
            tracing::debug!(%error, "the APIServices are looked at again later");
        }
        let remotes = aggregation.registry.all();
        let asking = &aggregation;
        let checks = remotes.iter().map(|remote| async move {
            let finding = asking.check(remote).await;
            (remote, finding)
        });
        let findings = futures::future::join_all(checks).await;
        if (surroundings.leads)() {
            for (remote, finding) in findings {
                if let Err(error) = write_finding(&aggregation, remote, &finding, &surroundings).await {
                    tracing::debug!(%error, name = remote.name, "an APIService's condition is written later");
                }
            }
        }
        tokio::select! {
            () = aggregation.registry.changed.notified() => {}
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

/// What the leader alone does.
async fn lead(aggregation: &Aggregation, surroundings: &Surroundings) -> Result<(), KeepError> {
    let store = aggregation.store.as_ref();
    let definitions = values(store, "customresourcedefinitions.apiextensions.k8s.io").await?;
    let definitions: Vec<Value> = definitions.into_iter().map(|(_, value)| value).collect();
    let present = values(store, API_SERVICES).await?;
    let known: Vec<Value> = present.iter().map(|(_, value)| value.clone()).collect();
    for step in steps(&known, &wanted(&definitions)) {
        carry_out(store, step, surroundings).await?;
    }
    publish(aggregation, surroundings).await
}

async fn values(store: &dyn ObjectStore, resource: &str) -> Result<Vec<(Arc<Object>, Value)>, KeepError> {
    let page = store.list(ListRequest::all(resource)).await?;
    let mut values = Vec::with_capacity(page.items.len());
    for (_, object) in page.items {
        let value = object.value()?;
        values.push((object, value));
    }
    Ok(values)
}

fn api_services() -> Result<&'static Kind, KeepError> {
    kinds::find("apiregistration.k8s.io", "v1", "apiservices").ok_or(KeepError::UnknownKind(API_SERVICES))
}

async fn carry_out(store: &dyn ObjectStore, step: Step, surroundings: &Surroundings) -> Result<(), KeepError> {
    let kind = api_services()?;
    let key_of = |object: &Value| {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        Key::new(API_SERVICES, "", name)
    };
    match step {
        Step::Create(object) => {
            let local = noted(&object, &Finding::local(), (surroundings.now)());
            let object = create(kind, "", local.unwrap_or(object), surroundings)?;
            put(store, key_of(&object), Precondition::Absent, kind.draft(&object)?).await
        }
        Step::Change(object) => {
            let precondition = precondition(&object);
            put(store, key_of(&object), precondition, kind.draft(&object)?).await
        }
        Step::Remove(object) => {
            let write = Write::Delete {
                key: key_of(&object),
                precondition: precondition(&object),
            };
            propose(store, write).await
        }
    }
}

/// A new object, as a client of the control plane would write it; with the status that it brings.
fn create(kind: &Kind, namespace: &str, object: Value, surroundings: &Surroundings) -> Result<Value, KeepError> {
    let uid = Uid::from_bits((surroundings.random)());
    let status = object["status"].clone();
    let context = WriteContext {
        now: (surroundings.now)(),
        new_uid: uid.as_str(),
        field_manager: "actorium-control-plane",
        field_validation: FieldValidation::Ignore,
        user: "system:kube-aggregator",
        ..WriteContext::default()
    };
    let mut created = api::write::prepare_create(kind, namespace, object, &context)?.object;
    if !status.is_null() {
        created["status"] = status;
    }
    Ok(created)
}

/// That nothing was written since the object was read.
fn precondition(object: &Value) -> Precondition {
    let revision = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    Precondition::Revision(protocol::Revision(revision.parse().unwrap_or(0)))
}

async fn put(store: &dyn ObjectStore, key: Key, precondition: Precondition, draft: Draft) -> Result<(), KeepError> {
    propose(
        store,
        Write::Put {
            key,
            precondition,
            draft,
        },
    )
    .await
}

/// A refusal says that somebody else wrote meanwhile: the next round sees what.
async fn propose(store: &dyn ObjectStore, write: Write) -> Result<(), KeepError> {
    match store.propose(Proposal::one(Cause::default(), write)).await {
        Ok(_)
        | Err(ProposeError::Refused(
            Refusal::AlreadyExists { .. } | Refusal::Conflict { .. } | Refusal::NotFound { .. },
        )) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn write_finding(
    aggregation: &Aggregation,
    remote: &Remote,
    finding: &Finding,
    surroundings: &Surroundings,
) -> Result<(), KeepError> {
    let key = Key::new(API_SERVICES, "", remote.name.as_str());
    let Some(stored) = aggregation.store.read(&key).await? else {
        return Ok(());
    };
    let value = stored.value()?;
    let Some(noted) = noted(&value, finding, (surroundings.now)()) else {
        return Ok(());
    };
    let (available, reason, message) = (finding.available, finding.reason, &finding.message);
    tracing::info!(name = remote.name, available, reason, message, "an aggregated API");
    let precondition = Precondition::Revision(stored.header.revision);
    put(
        aggregation.store.as_ref(),
        key,
        precondition,
        api_services()?.draft(&noted)?,
    )
    .await
}

/// Publishes how this server is known by those that it carries requests to: the ConfigMap that they read.
async fn publish(aggregation: &Aggregation, surroundings: &Surroundings) -> Result<(), KeepError> {
    let identity = aggregation.front_proxy.identity().await?;
    let list = |names: &[&str]| json!(names).to_string();
    let data = json!({
        "client-ca-file": surroundings.cluster_ca,
        "requestheader-client-ca-file": identity.ca_pem,
        "requestheader-allowed-names": list(&[CLIENT_NAME]),
        "requestheader-username-headers": list(&["X-Remote-User"]),
        "requestheader-uid-headers": list(&["X-Remote-Uid"]),
        "requestheader-group-headers": list(&["X-Remote-Group"]),
        "requestheader-extra-headers-prefix": list(&["X-Remote-Extra-"]),
    });
    let kind = kinds::find("", "v1", "configmaps").ok_or(KeepError::UnknownKind("configmaps"))?;
    let store = aggregation.store.as_ref();
    // Without its namespace there is nobody to publish to.
    let namespace = Key::new("namespaces", "", "kube-system");
    if store.read(&namespace).await?.is_none() {
        return Ok(());
    }
    let key = Key::new("configmaps", "kube-system", "extension-apiserver-authentication");
    match store.read(&key).await? {
        None => {
            let object = json!({"metadata": {"name": &*key.name}, "data": data});
            let object = create(kind, "kube-system", object, surroundings)?;
            put(store, key, Precondition::Absent, kind.draft(&object)?).await
        }
        Some(stored) => {
            let mut object = stored.value()?;
            if object["data"] == data {
                return Ok(());
            }
            object["data"] = data;
            let precondition = Precondition::Revision(stored.header.revision);
            put(store, key, precondition, kind.draft(&object)?).await
        }
    }
}
