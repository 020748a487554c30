//! Owns the events of pod groups: what happens to PodGroups and to the CompositePodGroups above them. Called by the scheduler's
//! actor and the benchmarks. It must queue the pods for which an event was the last thing to wait for.

use crate::framework::ClusterEvent;
use crate::groups::Member;
use crate::intern::Sym;
use crate::scheduler::Scheduler;
use k8s_openapi::api::scheduling::v1alpha3 as composite;
use k8s_openapi::api::scheduling::v1beta1 as scheduling;

impl Scheduler {
    /// A pod group was added or changed: the pods of a gang wait until enough of them are there, and are placed together.
    pub fn upsert_group(&mut self, group: &scheduling::PodGroup) {
        let namespace = group.metadata.namespace.as_deref().unwrap_or("default");
        let name = group.metadata.name.as_deref().unwrap_or_default();
        let gang = group.spec.scheduling_policy.gang.as_ref();
        let pods_min = gang.map_or(1, |gang| usize::try_from(gang.min_count).unwrap_or(1));
        self.set_group_below(
            namespace,
            name,
            pods_min,
            group.spec.parent_composite_pod_group_name.as_deref(),
        );
    }

    /// The same without an API object: at least `pods_min` of the group are placed, or none.
    pub fn set_group(&mut self, namespace: &str, name: &str, pods_min: usize) {
        self.set_group_below(namespace, name, pods_min, None);
    }

    /// The same for a group below a composite group.
    pub fn set_group_below(&mut self, namespace: &str, name: &str, pods_min: usize, parent: Option<&str>) {
        let group = self.group_symbol(namespace, name);
        let parent = parent.map(|parent| self.group_symbol(namespace, parent));
        if self.groups.set(group, Some(pods_min.max(1)), parent) {
            self.release_gang(group);
            self.wake(&ClusterEvent::GroupChanged(group));
        }
    }

    /// A pod group was removed: those of its pods that are still pending wait.
    pub fn remove_group(&mut self, namespace: &str, name: &str) {
        let group = self.group_symbol(namespace, name);
        self.groups.set(group, None, None);
    }

    /// A composite pod group was added or changed: so many of the groups below it are placed together, or none.
    pub fn upsert_composite_group(&mut self, group: &composite::CompositePodGroup) {
        let namespace = group.metadata.namespace.as_deref().unwrap_or("default");
        let name = group.metadata.name.as_deref().unwrap_or_default();
        let gang = group.spec.scheduling_policy.gang.as_ref();
        let groups_min = gang.map_or(1, |gang| usize::try_from(gang.min_group_count).unwrap_or(1));
        let parent = group.spec.parent_composite_pod_group_name.as_deref();
        self.set_composite_group(namespace, name, parent, groups_min);
    }

    /// The same without an API object.
    pub fn set_composite_group(&mut self, namespace: &str, name: &str, parent: Option<&str>, groups_min: usize) {
        let composite = self.group_symbol(namespace, name);
        let parent = parent.map(|parent| self.group_symbol(namespace, parent));
        if self.groups.set_composite(composite, Some(groups_min.max(1)), parent) {
            for leaf in self.groups.leaves(Member::Composite(composite)) {
                self.release_gang(leaf);
            }
            self.wake(&ClusterEvent::GroupChanged(composite));
        }
    }

    /// A composite pod group was removed: the pods below it that are still pending wait.
    pub fn remove_composite_group(&mut self, namespace: &str, name: &str) {
        let composite = self.group_symbol(namespace, name);
        self.groups.set_composite(composite, None, None);
    }

    fn group_symbol(&mut self, namespace: &str, name: &str) -> Sym {
        self.cluster.symbols.intern(&format!("{namespace}/{name}"))
    }
}
