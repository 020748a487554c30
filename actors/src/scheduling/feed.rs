//! What the scheduler reads beside pods: which resources, and how an object of each reaches the crate `scheduler`. Pure;
//! called by the desk. A resource that this cluster does not serve has no objects, and nothing is fed.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::policy::v1 as policy;
use k8s_openapi::api::resource::v1 as resource;
use k8s_openapi::api::scheduling::v1alpha3 as composite;
use k8s_openapi::api::scheduling::v1beta1 as groups;
use k8s_openapi::api::storage::v1 as storage;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use protocol::{Key, Object};
use scheduler::Scheduler;
use serde::Deserialize;

use crate::kind::{ObserveError, read};

pub(super) const PODS: &str = "pods";
pub(super) const PRIORITY_CLASSES: &str = "priorityclasses.scheduling.k8s.io";
const NODES: &str = "nodes";
const NAMESPACES: &str = "namespaces";
const BUDGETS: &str = "poddisruptionbudgets.policy";
const SERVICES: &str = "services";
const REPLICA_SETS: &str = "replicasets.apps";
const STATEFUL_SETS: &str = "statefulsets.apps";
const REPLICATION_CONTROLLERS: &str = "replicationcontrollers";
const CLAIMS: &str = "persistentvolumeclaims";
const VOLUMES: &str = "persistentvolumes";
const STORAGE_CLASSES: &str = "storageclasses.storage.k8s.io";
const CSI_NODES: &str = "csinodes.storage.k8s.io";
const CSI_DRIVERS: &str = "csidrivers.storage.k8s.io";
const STORAGE_CAPACITIES: &str = "csistoragecapacities.storage.k8s.io";
const DEVICE_CLASSES: &str = "deviceclasses.resource.k8s.io";
const RESOURCE_SLICES: &str = "resourceslices.resource.k8s.io";
const RESOURCE_CLAIMS: &str = "resourceclaims.resource.k8s.io";
const COMPOSITE_GROUPS: &str = "compositepodgroups.scheduling.k8s.io";
const POD_GROUPS: &str = "podgroups.scheduling.k8s.io";

/// All resources, in the order in which they are read at a start: pods last, so that each is judged in the light of the rest.
pub(super) const RESOURCES: [&str; 20] = [
    NAMESPACES,
    NODES,
    CSI_DRIVERS,
    CSI_NODES,
    STORAGE_CLASSES,
    STORAGE_CAPACITIES,
    VOLUMES,
    CLAIMS,
    SERVICES,
    REPLICATION_CONTROLLERS,
    REPLICA_SETS,
    STATEFUL_SETS,
    BUDGETS,
    DEVICE_CLASSES,
    RESOURCE_SLICES,
    RESOURCE_CLAIMS,
    COMPOSITE_GROUPS,
    POD_GROUPS,
    PRIORITY_CLASSES,
    PODS,
];

/// An object with a selector, and nothing else of it: the status of a ReplicaSet changes with every pod.
#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "T: Default + Deserialize<'de>"))]
struct Selecting<T> {
    spec: SelectingSpec<T>,
}

#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "T: Default + Deserialize<'de>"))]
struct SelectingSpec<T> {
    selector: T,
}

/// Takes note of an object that is neither a pod nor a priority class. `None` means that it does not exist.
pub(super) fn observe(scheduler: &mut Scheduler, key: &Key, object: Option<&Arc<Object>>) -> Result<(), ObserveError> {
    let (namespace, name) = (&*key.namespace, &*key.name);
    let Some(object) = object else {
        match key.resource.as_str() {
            NODES => scheduler.remove_node(name),
            NAMESPACES => scheduler.remove_namespace(name),
            BUDGETS => scheduler.remove_budget(namespace, name),
            SERVICES => scheduler.remove_service(namespace, name),
            CLAIMS => scheduler.remove_claim(namespace, name),
            VOLUMES => scheduler.remove_volume(name),
            STORAGE_CLASSES => scheduler.remove_storage_class(name),
            CSI_NODES => scheduler.remove_csi_node(name),
            CSI_DRIVERS => scheduler.remove_csi_driver(name),
            STORAGE_CAPACITIES => scheduler.remove_storage_capacity(namespace, name),
            DEVICE_CLASSES => scheduler.remove_device_class(name),
            RESOURCE_SLICES => scheduler.remove_resource_slice(name),
            RESOURCE_CLAIMS => scheduler.remove_resource_claim(namespace, name),
            COMPOSITE_GROUPS => scheduler.remove_composite_group(namespace, name),
            POD_GROUPS => scheduler.remove_group(namespace, name),
            resource => {
                if let Some(kind) = controller_kind(resource) {
                    scheduler.remove_controller(kind, namespace, name);
                }
            }
        }
        return Ok(());
    };
    match key.resource.as_str() {
        NODES => {
            scheduler.upsert_node(&read::<core::Node>(key, object)?);
        }
        NAMESPACES => scheduler.upsert_namespace(&read::<core::Namespace>(key, object)?),
        BUDGETS => scheduler.upsert_budget(&read::<policy::PodDisruptionBudget>(key, object)?),
        SERVICES => scheduler.upsert_service(&read::<core::Service>(key, object)?),
        CLAIMS => scheduler.upsert_claim(&read::<core::PersistentVolumeClaim>(key, object)?),
        VOLUMES => scheduler.upsert_volume(&read::<core::PersistentVolume>(key, object)?),
        STORAGE_CLASSES => scheduler.upsert_storage_class(&read::<storage::StorageClass>(key, object)?),
        CSI_NODES => scheduler.upsert_csi_node(&read::<storage::CSINode>(key, object)?),
        CSI_DRIVERS => scheduler.upsert_csi_driver(&read::<storage::CSIDriver>(key, object)?),
        STORAGE_CAPACITIES => scheduler.upsert_storage_capacity(&read::<storage::CSIStorageCapacity>(key, object)?),
        DEVICE_CLASSES => scheduler.upsert_device_class(&read::<resource::DeviceClass>(key, object)?),
        RESOURCE_SLICES => scheduler.upsert_resource_slice(&read::<resource::ResourceSlice>(key, object)?),
        RESOURCE_CLAIMS => scheduler.upsert_resource_claim(&read::<resource::ResourceClaim>(key, object)?),
        COMPOSITE_GROUPS => scheduler.upsert_composite_group(&read::<composite::CompositePodGroup>(key, object)?),
        POD_GROUPS => scheduler.upsert_group(&read::<groups::PodGroup>(key, object)?),
        resource => {
            if let Some(kind) = controller_kind(resource) {
                scheduler.upsert_controller(kind, namespace, name, &selector(key, object)?);
            }
        }
    }
    Ok(())
}

fn controller_kind(resource: &str) -> Option<&'static str> {
    match resource {
        REPLICA_SETS => Some("ReplicaSet"),
        STATEFUL_SETS => Some("StatefulSet"),
        REPLICATION_CONTROLLERS => Some("ReplicationController"),
        _ => None,
    }
}

/// The selector of a controller. That of a ReplicationController is a plain map.
fn selector(key: &Key, object: &Object) -> Result<meta::LabelSelector, ObserveError> {
    if key.resource.as_str() != REPLICATION_CONTROLLERS {
        return Ok(read::<Selecting<meta::LabelSelector>>(key, object)?.spec.selector);
    }
    let labels = read::<Selecting<BTreeMap<String, String>>>(key, object)?.spec.selector;
    Ok(meta::LabelSelector {
        match_labels: Some(labels),
        match_expressions: None,
    })
}

/// Whether objects of this resource may have to be written for a pod to be bound. The desk keeps them, so that what is written
/// is made from what was decided about.
pub(super) fn is_written(resource: &str) -> bool {
    matches!(resource, CLAIMS | VOLUMES | RESOURCE_CLAIMS)
}

/// The key of a claim that the scheduler calls `namespace/name`.
pub(super) fn claim_key(claim: &str) -> Option<Key> {
    let (namespace, name) = claim.split_once('/')?;
    Some(Key::new(CLAIMS, namespace, name))
}

/// The key of a volume.
pub(super) fn volume_key(name: &str) -> Key {
    Key::new(VOLUMES, "", name)
}
