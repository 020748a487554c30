//! Owns the list of the plugins that Kubernetes enables by default. Each plugin is one file; enabling it is one line
//! here. Third parties add theirs with `Profile::with`.

pub mod default_binder;
pub mod default_preemption;
pub mod dynamic_resources;
pub mod image_locality;
pub mod inter_pod_affinity;
pub mod node_affinity;
pub mod node_name;
pub mod node_ports;
pub mod node_resources_balanced_allocation;
pub mod node_resources_fit;
pub mod node_unschedulable;
pub mod node_volume_limits;
pub mod pod_topology_spread;
pub mod priority_sort;
pub mod scheduling_gates;
pub mod taint_toleration;
pub mod volume_binding;
pub mod volume_restrictions;
pub mod volume_zone;

use crate::config::EnabledPlugin;

/// The default plugins with Kubernetes' default weights, in Kubernetes' order.
pub fn default_plugins() -> Vec<EnabledPlugin> {
    use EnabledPlugin as Enabled;
    vec![
        Enabled::everywhere(scheduling_gates::SchedulingGates, 0),
        Enabled::everywhere(priority_sort::PrioritySort, 0),
        Enabled::everywhere(node_unschedulable::NodeUnschedulable, 0),
        Enabled::everywhere(node_name::NodeName, 0),
        Enabled::everywhere(taint_toleration::TaintToleration, 3),
        Enabled::everywhere(node_affinity::NodeAffinity::default(), 2),
        Enabled::everywhere(node_ports::NodePorts, 0),
        Enabled::everywhere(node_resources_fit::NodeResourcesFit::default(), 1),
        Enabled::everywhere(volume_restrictions::VolumeRestrictions, 0),
        Enabled::everywhere(node_volume_limits::NodeVolumeLimits, 0),
        Enabled::everywhere(volume_binding::VolumeBinding, 0),
        Enabled::everywhere(volume_zone::VolumeZone, 0),
        Enabled::everywhere(pod_topology_spread::PodTopologySpread::default(), 2),
        Enabled::everywhere(inter_pod_affinity::InterPodAffinity::default(), 2),
        Enabled::everywhere(dynamic_resources::DynamicResources, 0),
        Enabled::everywhere(default_preemption::DefaultPreemption::default(), 0),
        Enabled::everywhere(
            node_resources_balanced_allocation::NodeResourcesBalancedAllocation::default(),
            1,
        ),
        Enabled::everywhere(image_locality::ImageLocality, 1),
        Enabled::everywhere(default_binder::DefaultBinder, 0),
    ]
}
