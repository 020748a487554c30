//! Owns the list of the plugins that Kubernetes enables by default. Each plugin is one file; enabling it is one line
//! here. Third parties add theirs with `Profile::with`.

pub mod default_preemption;
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
use crate::framework::Plugin;
use std::sync::Arc;

/// The default plugins with Kubernetes' default weights, in Kubernetes' order.
pub fn default_plugins() -> Vec<EnabledPlugin> {
    fn enabled(plugin: impl Plugin + 'static, weight: i64) -> EnabledPlugin {
        EnabledPlugin {
            plugin: Arc::new(plugin),
            weight,
        }
    }
    vec![
        enabled(scheduling_gates::SchedulingGates, 0),
        enabled(priority_sort::PrioritySort, 0),
        enabled(node_unschedulable::NodeUnschedulable, 0),
        enabled(node_name::NodeName, 0),
        enabled(taint_toleration::TaintToleration, 3),
        enabled(node_affinity::NodeAffinity, 2),
        enabled(node_ports::NodePorts, 0),
        enabled(node_resources_fit::NodeResourcesFit::default(), 1),
        enabled(volume_restrictions::VolumeRestrictions, 0),
        enabled(node_volume_limits::NodeVolumeLimits, 0),
        enabled(volume_binding::VolumeBinding, 0),
        enabled(volume_zone::VolumeZone, 0),
        enabled(pod_topology_spread::PodTopologySpread::default(), 2),
        enabled(inter_pod_affinity::InterPodAffinity::default(), 2),
        enabled(default_preemption::DefaultPreemption::default(), 0),
        enabled(
            node_resources_balanced_allocation::NodeResourcesBalancedAllocation::default(),
            1,
        ),
        enabled(image_locality::ImageLocality, 1),
    ]
}
