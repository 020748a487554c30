//! Owns the check that the state is what it should be: every sum and count equals a recount. Called by tests and by the
//! simulation after every event, never in a round. It must trust nothing that is kept incrementally.

use crate::cluster::{Cluster, NodeId, Placement};
use crate::intern::Sym;
use crate::node::Node;
use crate::resources::Resources;
use crate::scheduler::Scheduler;
use crate::selector::{keeps_away, label, untolerated};
use crate::topology::{Counter, TopologyId, matcher_matches};
use crate::volumes::VolumeUse;
use std::collections::BTreeMap;

impl Scheduler {
    /// Panics if a sum, a count or the queue is not what a recount gives.
    pub fn assert_invariants(&self) {
        self.cluster.assert_invariants();
        let lengths = self.queue.lengths();
        let waiting = lengths.active + lengths.backing_off + lengths.unschedulable + lengths.gated;
        let pending = self
            .cluster
            .pods()
            .filter(|(_, pod)| pod.placement == Placement::Pending && !pod.terminating);
        let mut count = 0;
        for (id, pod) in pending {
            count += 1;
            assert!(self.queue.stage(id).is_some(), "pending pod {} waits nowhere", pod.key);
        }
        assert_eq!(waiting, count, "the queue holds pods that are not pending");
    }
}

impl Cluster {
    /// Panics if a sum or a count is not what a recount gives.
    pub fn assert_invariants(&self) {
        for (at, node) in self.nodes().iter().enumerate() {
            self.assert_node_sums(NodeId(at as u32), node);
        }
        let images = self
            .present()
            .flat_map(|(_, node)| node.reading.images.iter().map(|(image, _)| *image));
        let mut spread: BTreeMap<Sym, u32> = BTreeMap::new();
        images.for_each(|image| *spread.entry(image).or_default() += 1);
        for (image, nodes) in spread {
            assert_eq!(
                self.nodes_with_image(image),
                nodes,
                "nodes with image {}",
                self.symbols.text(image)
            );
        }
        assert_eq!(self.nodes_present(), self.present().count());
        for (_, counter) in self.topology().live_counters() {
            self.assert_counter(counter);
        }
        for (id, term) in self.topology().live_terms() {
            let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
            for (slot, node) in self.present() {
                let carriers = node
                    .pods
                    .iter()
                    .filter(|pod| self.class(self.pod(**pod).class).carries().contains(&id));
                let carriers = carriers.count() as u32;
                if let Some(domain) = self.domain(term.spec.key, slot) {
                    *counts.entry(domain).or_default() += carriers;
                }
            }
            for domain in 0..self.topology().key(term.spec.key).domains_max() as u32 {
                let recount = counts.get(&domain).copied().unwrap_or(0);
                assert_eq!(
                    term.count(domain),
                    recount,
                    "carriers of {:?} in domain {domain}",
                    term.spec
                );
            }
        }
    }

    fn present(&self) -> impl Iterator<Item = (usize, &Node)> {
        self.nodes().iter().enumerate().filter(|(_, node)| node.present)
    }

    fn domain(&self, key: TopologyId, slot: usize) -> Option<u32> {
        let key = self.topology().key(key);
        let labelled = label(&self.nodes()[slot].reading.labels, key.key).is_some();
        labelled.then(|| key.domain(slot))
    }

    fn assert_node_sums(&self, id: NodeId, node: &Node) {
        let mut requested = Resources::default();
        let (mut cpu, mut memory, mut ports, mut claims) = (0, 0, 0, 0);
        for pod in &node.pods {
            assert_eq!(
                self.pod(*pod).placement.node(),
                Some(id),
                "{} is listed elsewhere",
                self.pod(*pod).key
            );
            let signature = self.signature(*pod);
            requested.add(&signature.requests);
            cpu += signature.scored_cpu_milli;
            memory += signature.scored_memory_bytes;
            ports += signature.host_ports.len();
            claims += signature
                .volumes
                .iter()
                .filter(|used| matches!(used, VolumeUse::Claim(_)))
                .count();
        }
        let name = self.symbols.text(node.name);
        assert_eq!(node.requested, requested, "requests on {name}");
        assert_eq!(
            (node.scored_cpu_milli, node.scored_memory_bytes),
            (cpu, memory),
            "scored requests on {name}"
        );
        assert_eq!(node.host_ports.len(), ports, "host ports on {name}");
        assert_eq!(node.claims_used, claims, "claims used on {name}");
    }

    fn assert_counter(&self, counter: &Counter) {
        let spec = &counter.spec;
        let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
        for (slot, node) in self.present() {
            let labels = &node.reading.labels;
            let eligible = spec.eligible.keys.iter().all(|key| self.domain(*key, slot).is_some())
                && spec
                    .eligible
                    .requirements
                    .as_ref()
                    .is_none_or(|r| r.matches(&self.symbols, node.name, labels))
                && spec
                    .eligible
                    .tolerations
                    .as_ref()
                    .is_none_or(|t| untolerated(&self.symbols, &node.reading.taints, t, keeps_away).is_none());
            let Some(domain) = self.domain(spec.key, slot).filter(|_| eligible) else {
                continue;
            };
            let matching = node.pods.iter().filter(|pod| {
                let pod = self.pod(**pod);
                let signature = &self.class(pod.class).signature;
                let matches = |m| matcher_matches(&self.symbols, self.namespaces(), m, signature);
                !(spec.skips_terminating && pod.terminating) && spec.matchers.iter().all(matches)
            });
            *counts.entry(domain).or_default() += matching.count() as u32;
        }
        for domain in 0..self.topology().key(spec.key).domains_max() as u32 {
            let recount = counts.get(&domain).copied().unwrap_or(0);
            assert_eq!(counter.count(domain), recount, "count of {spec:?} in domain {domain}");
        }
        assert_eq!(
            counter.total(),
            counts.values().map(|count| u64::from(*count)).sum::<u64>(),
            "total of {spec:?}"
        );
        assert_eq!(counter.domains() as usize, counts.len(), "domains of {spec:?}");
        assert_eq!(
            counter.least(),
            counts.values().copied().min().unwrap_or(0),
            "least count of {spec:?}"
        );
    }
}
