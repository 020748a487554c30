//! PrioritySort (QueueSort): the higher priority first, then who entered the queue first. Differs from kube-scheduler in
//! one thing: "first" is the order of arrival at this scheduler, not a wall-clock timestamp, so that a replay is exact.

use crate::cluster::Cluster;
use crate::framework::{EventKinds, Plugin, QueueKey, Reads};
use crate::pod::PodSignature;

/// The plugin.
pub struct PrioritySort;

impl Plugin for PrioritySort {
    fn name(&self) -> &'static str {
        "PrioritySort"
    }

    fn hears(&self) -> EventKinds {
        EventKinds::NONE
    }

    fn reads(&self, _cluster: &Cluster, _signature: &PodSignature) -> Reads {
        Reads::NOTHING
    }

    fn queue_key(&self, signature: &PodSignature, entered: u64) -> Option<QueueKey> {
        Some(QueueKey(-i64::from(signature.priority), entered))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::signature_of;
    use serde_json::json;

    #[test]
    fn higher_priority_goes_first_then_arrival() {
        let low = signature_of(json!({"spec": {"priority": 1}}));
        let high = signature_of(json!({"spec": {"priority": 1000}}));
        let key = |signature, entered| PrioritySort.queue_key(signature, entered).expect("it sorts");
        assert!(key(&high, 9) < key(&low, 1));
        assert!(key(&low, 1) < key(&low, 2));
    }
}
