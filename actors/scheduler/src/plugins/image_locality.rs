//! ImageLocality (Score): prefers nodes that have the pod's images, by size and by how widely they are spread;
//! image volumes count as containers do. No difference from kube-scheduler is intended.

use crate::cluster::{ClassId, Cluster};
use crate::framework::{Compiled, Context, EventKinds, MAX_NODE_SCORE, Plugin, Reach, Reads, Rule};
use crate::node::Node;
use crate::pod::PodSignature;

const MIB: i64 = 1024 * 1024;
/// Below this many bytes nothing is gained.
const THRESHOLD_MIN_BYTES: i64 = 23 * MIB;
/// Above this many bytes a container nothing more is gained.
const THRESHOLD_MAX_BYTES: i64 = 1000 * MIB;

/// The plugin.
pub struct ImageLocality;

struct Locality;

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn reads(&self, _cluster: &Cluster, _signature: &PodSignature) -> Reads {
        Reads::NOTHING
    }

    fn compile(&self, _cluster: &mut Cluster, _class: ClassId, signature: &PodSignature) -> Compiled {
        if signature.images.is_empty() {
            Compiled::Skip
        } else {
            Compiled::Rule(Box::new(Locality))
        }
    }

    fn hears(&self) -> EventKinds {
        EventKinds::NONE
    }
}

impl Rule for Locality {
    fn scores(&self) -> Reach {
        // How widely an image is spread concerns all nodes: the index is built anew when that changes (`image_stamp`).
        Reach::Node
    }

    fn score_node(&self, cx: &Context<'_>, node: &Node) -> i64 {
        if node.reading.images.is_empty() {
            return 0;
        }
        let nodes = cx.cluster.nodes_present().max(1) as f64;
        let mut sum = 0;
        for image in &cx.signature.images {
            if let Ok(at) = node.reading.images.binary_search_by_key(image, |(name, _)| *name) {
                let spread = f64::from(cx.cluster.nodes_with_image(*image)) / nodes;
                sum += (node.reading.images[at].1 as f64 * spread) as i64;
            }
        }
        let most = THRESHOLD_MAX_BYTES * cx.signature.images.len() as i64;
        MAX_NODE_SCORE * (sum.clamp(THRESHOLD_MIN_BYTES, most) - THRESHOLD_MIN_BYTES) / (most - THRESHOLD_MIN_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Bench, node, pod};
    use serde_json::json;

    #[test]
    fn large_local_images_score_by_size_and_spread() {
        let mut bench = Bench::new();
        let with_image = |bytes: i64| json!({"status": {"images": [{"names": ["web:latest"], "sizeBytes": bytes}]}});
        bench.node(node("n1").merge(with_image(500 * 1024 * 1024)));
        bench.node(node("n2"));
        let wants = json!({"spec": {"containers": [{"name": "c", "image": "web"}]}});
        // Half of the nodes have it: 250 MiB count, of 23 to 1000: 100 * 227 / 977.
        assert_eq!(
            bench.scores(pod("p").merge(wants.clone()), "ImageLocality"),
            [("n1".into(), 23), ("n2".into(), 0)]
        );
        bench.node(node("n2").merge(with_image(10 * 1024 * 1024)));
        assert_eq!(
            bench.scores(pod("p").merge(wants), "ImageLocality"),
            [("n1".into(), 48), ("n2".into(), 0)]
        );
    }
}
