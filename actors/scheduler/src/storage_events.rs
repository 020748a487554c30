//! Owns the events of storage: what happens to claims, volumes, classes, drivers and their limits and capacities. Called by the
//! scheduler's actor and the benchmarks. It must wake the pods that wait for volumes.

use crate::framework::ClusterEvent;
use crate::scheduler::Scheduler;
use crate::volumes::{read_capacity, read_claim, read_class, read_limits, read_volume};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::storage::v1 as storage;

impl Scheduler {
    /// A claim was added or changed.
    pub fn upsert_claim(&mut self, claim: &core::PersistentVolumeClaim) {
        let (name, claim) = read_claim(&mut self.cluster.symbols, claim);
        let changed = self.cluster.volumes_mut().set_claim(name, Some(claim));
        self.storage_changed(changed);
    }

    /// A claim was removed.
    pub fn remove_claim(&mut self, namespace: &str, name: &str) {
        let name = self.cluster.symbols.intern(&format!("{namespace}/{name}"));
        let changed = self.cluster.volumes_mut().set_claim(name, None);
        self.storage_changed(changed);
    }

    /// A volume was added or changed.
    pub fn upsert_volume(&mut self, volume: &core::PersistentVolume) {
        let (name, volume) = read_volume(&mut self.cluster.symbols, volume);
        let changed = self.cluster.volumes_mut().set_volume(name, Some(volume));
        self.storage_changed(changed);
    }

    /// A volume was removed.
    pub fn remove_volume(&mut self, name: &str) {
        let name = self.cluster.symbols.intern(name);
        let changed = self.cluster.volumes_mut().set_volume(name, None);
        self.storage_changed(changed);
    }

    /// A storage class was added or changed.
    pub fn upsert_storage_class(&mut self, class: &storage::StorageClass) {
        let (name, class) = read_class(&mut self.cluster.symbols, class);
        let changed = self.cluster.volumes_mut().set_class(name, Some(class));
        self.storage_changed(changed);
    }

    /// A storage class was removed.
    pub fn remove_storage_class(&mut self, name: &str) {
        let name = self.cluster.symbols.intern(name);
        let changed = self.cluster.volumes_mut().set_class(name, None);
        self.storage_changed(changed);
    }

    /// The drivers of a node were added or changed.
    pub fn upsert_csi_node(&mut self, node: &storage::CSINode) {
        let (name, limits) = read_limits(&mut self.cluster.symbols, node);
        let changed = self.cluster.volumes_mut().set_limits(name, limits);
        self.storage_changed(changed);
    }

    /// The drivers of a node are gone.
    pub fn remove_csi_node(&mut self, name: &str) {
        let name = self.cluster.symbols.intern(name);
        let changed = self.cluster.volumes_mut().set_limits(name, Vec::new());
        self.storage_changed(changed);
    }

    fn storage_changed(&mut self, changed: bool) {
        if changed {
            self.wake(&ClusterEvent::VolumesChanged);
        }
    }

    /// A CSI driver was added or changed: it says whether it counts its storage.
    pub fn upsert_csi_driver(&mut self, driver: &storage::CSIDriver) {
        let name = driver.metadata.name.as_deref().unwrap_or_default();
        let name = self.cluster.symbols.intern(name);
        let counts = driver.spec.storage_capacity == Some(true);
        let changed = self.cluster.volumes_mut().set_driver(name, counts);
        self.storage_changed(changed);
    }

    /// A CSI driver was removed.
    pub fn remove_csi_driver(&mut self, name: &str) {
        let name = self.cluster.symbols.intern(name);
        let changed = self.cluster.volumes_mut().set_driver(name, false);
        self.storage_changed(changed);
    }

    /// How much storage a driver has was said or changed.
    pub fn upsert_storage_capacity(&mut self, capacity: &storage::CSIStorageCapacity) {
        let (name, capacity) = read_capacity(&mut self.cluster.symbols, capacity);
        let changed = self.cluster.volumes_mut().set_capacity(name, Some(capacity));
        self.storage_changed(changed);
    }

    /// How much storage a driver has is no longer known.
    pub fn remove_storage_capacity(&mut self, namespace: &str, name: &str) {
        let name = self.cluster.symbols.intern(&format!("{namespace}/{name}"));
        let changed = self.cluster.volumes_mut().set_capacity(name, None);
        self.storage_changed(changed);
    }
}
