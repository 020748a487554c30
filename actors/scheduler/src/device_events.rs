//! Owns the events of dynamic resource allocation: what happens to device classes, ResourceSlices and ResourceClaims. Called by
//! the scheduler's actor and the benchmarks. It must wake the pods that wait for devices.

use crate::devices::{read_claim, read_device_class, read_slice};
use crate::framework::ClusterEvent;
use crate::scheduler::Scheduler;
use k8s_openapi::api::resource::v1 as resource;

impl Scheduler {
    /// A device class was added or changed.
    pub fn upsert_device_class(&mut self, class: &resource::DeviceClass) {
        let (name, class) = read_device_class(&mut self.cluster.symbols, class);
        let changed = self.cluster.devices_mut().set_class(name, Some(class));
        self.devices_changed(changed);
    }

    /// A device class was removed.
    pub fn remove_device_class(&mut self, name: &str) {
        let name = self.cluster.symbols.intern(name);
        let changed = self.cluster.devices_mut().set_class(name, None);
        self.devices_changed(changed);
    }

    /// A ResourceSlice was added or changed.
    pub fn upsert_resource_slice(&mut self, slice: &resource::ResourceSlice) {
        let (name, slice) = read_slice(&mut self.cluster.symbols, slice);
        let changed = self.cluster.devices_mut().set_slice(name, Some(slice));
        self.devices_changed(changed);
    }

    /// A ResourceSlice was removed.
    pub fn remove_resource_slice(&mut self, name: &str) {
        let name = self.cluster.symbols.intern(name);
        let changed = self.cluster.devices_mut().set_slice(name, None);
        self.devices_changed(changed);
    }

    /// A ResourceClaim was added or changed: what it says of its allocation replaces what was decided here.
    pub fn upsert_resource_claim(&mut self, claim: &resource::ResourceClaim) {
        let (name, claim) = read_claim(&mut self.cluster.symbols, claim);
        let changed = self.cluster.devices_mut().set_claim(name, Some(claim));
        self.devices_changed(changed);
    }

    /// A ResourceClaim was removed: its devices are free.
    pub fn remove_resource_claim(&mut self, namespace: &str, name: &str) {
        let name = self.cluster.symbols.intern(&format!("{namespace}/{name}"));
        let changed = self.cluster.devices_mut().set_claim(name, None);
        self.devices_changed(changed);
    }

    fn devices_changed(&mut self, changed: bool) {
        if changed {
            self.wake(&ClusterEvent::DevicesChanged);
        }
    }
}
