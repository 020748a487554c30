//! Reads of a stored pod what the crate `scheduler` looks at, and nothing else: of the metadata most is in the header already,
//! managed fields are skipped, of container statuses only resources are taken (KEP-1287), and a spec that is equal to the byte to one that was read lately is not
//! read again, since pods come from templates. Pure; used by the desk for every pod event that is not the echo of its own
//! binding.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use protocol::{Key, Object};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::kind::ObserveError;

/// Specs that are kept. Pods whose specs all differ fill it, and it begins anew.
const SPECS_MAX: usize = 256;

/// The reader, with the specs that it has read.
#[derive(Default)]
pub(super) struct PodReader {
    specs: HashMap<Box<str>, core::PodSpec>,
}

#[derive(Deserialize)]
struct Stored<'a> {
    metadata: Option<Times>,
    #[serde(borrow)]
    spec: Option<&'a RawValue>,
    status: Option<Status>,
}

/// What the header does not say of the metadata.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Times {
    creation_timestamp: Option<meta::Time>,
    deletion_timestamp: Option<meta::Time>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    phase: Option<String>,
    nominated_node_name: Option<String>,
    start_time: Option<meta::Time>,
    resource_claim_statuses: Option<Vec<core::PodResourceClaimStatus>>,
    init_container_statuses: Option<Vec<Size>>,
    container_statuses: Option<Vec<Size>>,
    conditions: Option<Vec<Condition>>,
}

/// What a container has and was granted.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Size {
    #[serde(default)]
    name: String,
    resources: Option<core::ResourceRequirements>,
    allocated_resources: Option<BTreeMap<String, Quantity>>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(default, rename = "type")]
    kind: String,
    reason: Option<String>,
}

impl PodReader {
    /// Reads a pod and hands it to `look`, which must leave its spec as it is.
    pub fn read<R>(
        &mut self,
        key: &Key,
        object: &Object,
        look: impl FnOnce(&core::Pod) -> R,
    ) -> Result<R, ObserveError> {
        let failed = |source| ObserveError {
            key: key.clone(),
            revision: object.header.revision,
            source,
        };
        let stored: Stored<'_> = serde_json::from_slice(&object.body.0).map_err(failed)?;
        let raw = stored.spec.map_or("{}", RawValue::get);
        if !self.specs.contains_key(raw) {
            let spec: core::PodSpec = serde_json::from_str(raw).map_err(failed)?;
            if self.specs.len() >= SPECS_MAX {
                self.specs.clear();
            }
            self.specs.insert(raw.into(), spec);
        }
        let Some(place) = self.specs.get_mut(raw) else {
            unreachable!("it was put there right above")
        };
        let mut pod = core::Pod {
            metadata: metadata(key, object, stored.metadata.unwrap_or_default()),
            spec: Some(std::mem::take(place)),
            status: Some(status(stored.status.unwrap_or_default())),
        };
        let seen = look(&pod);
        *place = pod.spec.take().unwrap_or_default();
        Ok(seen)
    }
}

fn metadata(key: &Key, object: &Object, times: Times) -> meta::ObjectMeta {
    let header = &object.header;
    let owners = header.owners.iter().map(|owner| meta::OwnerReference {
        api_version: owner.api_version.clone(),
        kind: owner.kind.clone(),
        name: owner.name.clone(),
        uid: owner.uid.to_string(),
        controller: Some(owner.controller),
        block_owner_deletion: Some(owner.block_owner_deletion),
    });
    meta::ObjectMeta {
        name: Some(key.name.to_string()),
        namespace: Some(key.namespace.to_string()),
        uid: Some(header.uid.to_string()),
        labels: Some((*header.labels).clone()),
        owner_references: (!header.owners.is_empty()).then(|| owners.collect()),
        creation_timestamp: times.creation_timestamp,
        deletion_timestamp: times.deletion_timestamp,
        ..meta::ObjectMeta::default()
    }
}

fn status(status: Status) -> core::PodStatus {
    core::PodStatus {
        phase: status.phase,
        nominated_node_name: status.nominated_node_name,
        start_time: status.start_time,
        resource_claim_statuses: status.resource_claim_statuses,
        init_container_statuses: sizes(status.init_container_statuses),
        container_statuses: sizes(status.container_statuses),
        conditions: resize_pending(status.conditions),
        ..core::PodStatus::default()
    }
}

/// `None` when nothing is told of resources, as with most pods.
fn sizes(statuses: Option<Vec<Size>>) -> Option<Vec<core::ContainerStatus>> {
    let told = statuses?
        .into_iter()
        .filter(|size| size.resources.is_some() || size.allocated_resources.is_some());
    let told: Vec<_> = told
        .map(|size| core::ContainerStatus {
            name: size.name,
            resources: size.resources,
            allocated_resources: size.allocated_resources,
            ..core::ContainerStatus::default()
        })
        .collect();
    (!told.is_empty()).then_some(told)
}

fn resize_pending(conditions: Option<Vec<Condition>>) -> Option<Vec<core::PodCondition>> {
    let mut all = conditions?.into_iter();
    let pending = all.find(|condition| condition.kind == "PodResizePending")?;
    Some(vec![core::PodCondition {
        type_: pending.kind,
        reason: pending.reason,
        ..core::PodCondition::default()
    }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ownership::tests::stored;
    use serde_json::{Value, json};

    fn pod() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "web", "namespace": "default", "uid": "u-1", "labels": {"app": "web"},
                "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-02T00:00:00Z",
                "managedFields": [{"manager": "m", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}}}],
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "u-0",
                    "controller": true, "blockOwnerDeletion": true}],
            },
            "spec": {"schedulerName": "s", "nodeSelector": {"disk": "ssd"},
                "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}}}]},
            "status": {"phase": "Pending", "nominatedNodeName": "n1", "startTime": "2026-01-01T00:00:01Z",
                "resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "web-gpu"}],
                "containerStatuses": [{"name": "c", "ready": false, "restartCount": 0, "image": "i", "imageID": "x"}]},
        })
    }

    /// What the scheduler looks at, of a pod that was read whole.
    fn looked_at(mut pod: core::Pod) -> core::Pod {
        pod.metadata.managed_fields = None;
        pod.metadata.resource_version = None;
        pod.status.as_mut().unwrap().container_statuses = None;
        pod
    }

    #[test]
    fn it_reads_what_a_reading_of_the_whole_pod_says() {
        let key = Key::new("pods", "default", "web");
        let object = stored(pod(), 7);
        let whole = looked_at(object.parse().unwrap());
        let mut reader = PodReader::default();
        for time in ["first", "second"] {
            assert_eq!(
                reader.read(&key, &object, Clone::clone).unwrap(),
                whole,
                "the {time} time"
            );
        }
        assert_eq!(reader.specs.len(), 1);
    }

    #[test]
    fn specs_that_differ_are_kept_apart_and_their_number_is_bounded() {
        let key = Key::new("pods", "default", "web");
        let mut reader = PodReader::default();
        for number in 0..SPECS_MAX + 10 {
            let mut value = pod();
            value["spec"]["nodeSelector"]["disk"] = json!(number.to_string());
            let read = |pod: &core::Pod| pod.spec.as_ref().unwrap().node_selector.clone().unwrap()["disk"].clone();
            let disk = reader.read(&key, &stored(value, 7), read).unwrap();
            assert_eq!(disk, number.to_string());
            assert!(reader.specs.len() <= SPECS_MAX);
        }
    }

    #[test]
    fn a_pod_without_spec_and_status_is_read_as_empty_and_a_damaged_one_is_an_error() {
        let key = Key::new("pods", "default", "web");
        let mut reader = PodReader::default();
        let bare = stored(json!({"metadata": {"name": "web", "uid": "u"}, "spec": null}), 1);
        let pod = reader.read(&key, &bare, Clone::clone).unwrap();
        assert_eq!(
            (pod.spec, pod.metadata.labels),
            (Some(core::PodSpec::default()), Some(Default::default()))
        );
        let damaged = stored(
            json!({"metadata": {"name": "web", "uid": "u"}, "spec": {"containers": 1}}),
            1,
        );
        let error = reader.read(&key, &damaged, Clone::clone).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("pods/default/web at revision 1 cannot be read"),
            "{error}"
        );
    }
}
