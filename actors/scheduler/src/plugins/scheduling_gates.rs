//! SchedulingGates (PreEnqueue): a pod with `spec.schedulingGates` does not enter the queue. No difference from
//! kube-scheduler is intended. It must never look at nodes.

use crate::cluster::Cluster;
use crate::framework::{EventKinds, Plugin, Reads};
use crate::pod::PodSignature;

/// The plugin.
pub struct SchedulingGates;

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        "SchedulingGates"
    }

    fn hears(&self) -> EventKinds {
        EventKinds::NONE
    }

    fn reads(&self, _cluster: &Cluster, _signature: &PodSignature) -> Reads {
        Reads::NOTHING
    }

    fn holds_back(&self, gates: &[Box<str>]) -> Option<String> {
        (!gates.is_empty()).then(|| format!("waiting for scheduling gates: [{}]", gates.join(" ")))
    }
}
