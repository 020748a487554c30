//! DefaultBinder (Bind): a pod is bound by writing `spec.nodeName`. A plugin that binds otherwise comes before it in its profile,
//! or takes its place. No difference from kube-scheduler is intended.

use crate::cluster::Cluster;
use crate::decision::BindMethod;
use crate::framework::{Assignment, EventKinds, Plugin, Reads};
use crate::pod::PodSignature;

/// The plugin.
pub struct DefaultBinder;

impl Plugin for DefaultBinder {
    fn name(&self) -> &'static str {
        "DefaultBinder"
    }

    fn hears(&self) -> EventKinds {
        EventKinds::NONE
    }

    fn reads(&self, _cluster: &Cluster, _signature: &PodSignature) -> Reads {
        Reads::NOTHING
    }

    fn bind(&self, _cluster: &Cluster, _assignment: Assignment) -> Option<BindMethod> {
        Some(BindMethod::NodeName)
    }
}
