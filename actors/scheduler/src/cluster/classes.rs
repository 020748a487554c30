//! Owns the classes of equal pods within the state: which counters count them, which terms they carry, and which terms speak of
//! them. Called by the `Scheduler` and by plugins that hold counters. It must match every class against every counter and
//! term exactly once, whichever of the two came first.

use super::{Class, ClassId, Cluster, NodeId};
use crate::intern::Sym;
use crate::pod::{PodMatcher, PodSignature, PodTerm};
use crate::selector::Labels;
use crate::topology::{CounterId, CounterSpec, TermId, TermKind, TermSpec, TopologyId, matcher_matches};
use std::sync::Arc;

impl Cluster {
    /// The class of a signature, made if it is new. The caller holds one reference.
    pub(crate) fn hold_class(&mut self, signature: PodSignature) -> ClassId {
        if let Some(id) = self.class_ids.get(&signature).copied() {
            self.classes[id.0 as usize]
                .as_mut()
                .expect("indexed classes are live")
                .refs += 1;
            return id;
        }
        let signature = Arc::new(signature);
        let carries = self.hold_terms(&signature);
        let counted_by = self
            .topology
            .live_counters()
            .filter(|(_, counter)| self.counts_class(&counter.spec, &signature))
            .map(|(id, _)| id)
            .collect();
        let subject_to = self
            .topology
            .live_terms()
            .filter(|(_, term)| self.speaks_of(&term.spec, &signature))
            .map(|(id, _)| id)
            .collect();
        let class = Class {
            signature: signature.clone(),
            refs: 1,
            counted_by,
            carries,
            subject_to,
            subject_version: 0,
        };
        let id = match self.class_vacancies.pop() {
            Some(id) => {
                self.classes[id.0 as usize] = Some(class);
                id
            }
            None => {
                self.classes.push(Some(class));
                ClassId((self.classes.len() - 1) as u32)
            }
        };
        self.class_ids.insert(signature, id);
        id
    }

    /// Holds one more reference to a class.
    pub(crate) fn hold_class_again(&mut self, id: ClassId) {
        self.classes[id.0 as usize]
            .as_mut()
            .expect("held classes are live")
            .refs += 1;
    }

    /// Lets a class go. A class that nobody holds is listed by `take_dropped_classes` and then freed.
    pub(crate) fn release_class(&mut self, id: ClassId) {
        let class = self.classes[id.0 as usize].as_mut().expect("released classes are live");
        class.refs -= 1;
        if class.refs == 0 {
            self.classes_dropped.push(id);
        }
    }

    /// Frees the classes that nobody holds any more; the caller forgets what it compiled for them.
    pub(crate) fn take_dropped_classes(&mut self) -> Vec<ClassId> {
        let mut freed = Vec::new();
        for id in std::mem::take(&mut self.classes_dropped) {
            let unheld = self.classes[id.0 as usize]
                .as_ref()
                .is_some_and(|class| class.refs == 0);
            if !unheld {
                continue;
            }
            let class = self.classes[id.0 as usize].take().expect("looked at above");
            self.class_ids.remove(&class.signature);
            for term in class.carries {
                if self.topology.release_term(term) {
                    for other in self.classes.iter_mut().flatten() {
                        if let Some(at) = other.subject_to.iter().position(|t| *t == term) {
                            other.subject_to.remove(at);
                            other.subject_version += 1;
                        }
                    }
                }
            }
            self.class_vacancies.push(id);
            freed.push(id);
        }
        freed
    }

    fn hold_terms(&mut self, signature: &PodSignature) -> Vec<TermId> {
        let mut specs: Vec<(TermKind, &PodTerm)> = Vec::new();
        specs.extend(
            signature
                .affinity_required
                .iter()
                .map(|term| (TermKind::RequiredAffinity, term)),
        );
        specs.extend(
            signature
                .anti_affinity_required
                .iter()
                .map(|term| (TermKind::RequiredAntiAffinity, term)),
        );
        specs.extend(
            signature
                .affinity_preferred
                .iter()
                .map(|(w, term)| (TermKind::Preferred(*w), term)),
        );
        specs.extend(
            signature
                .anti_affinity_preferred
                .iter()
                .map(|(w, term)| (TermKind::Preferred(-*w), term)),
        );
        let mut held = Vec::new();
        for (kind, term) in specs {
            let key = self.topology.use_key(term.topology_key, &self.nodes);
            let spec = TermSpec {
                kind,
                matcher: term.matcher.clone(),
                key,
            };
            let (id, is_new) = self.topology.hold_term(spec.clone());
            if is_new {
                self.subject_classes_to(id, &spec);
            }
            held.push(id);
        }
        held
    }

    fn subject_classes_to(&mut self, id: TermId, spec: &TermSpec) {
        for class in self.classes.iter_mut().flatten() {
            if matcher_matches(&self.symbols, &self.namespaces, &spec.matcher, &class.signature) {
                let at = class.subject_to.partition_point(|other| *other < id);
                class.subject_to.insert(at, id);
                class.subject_version += 1;
            }
        }
    }

    fn counts_class(&self, spec: &CounterSpec, signature: &PodSignature) -> bool {
        spec.matchers
            .iter()
            .all(|m| matcher_matches(&self.symbols, &self.namespaces, m, signature))
    }

    fn speaks_of(&self, spec: &TermSpec, signature: &PodSignature) -> bool {
        matcher_matches(&self.symbols, &self.namespaces, &spec.matcher, signature)
    }

    // ---- Counters ------------------------------------------------------------------------------------------------

    /// Puts a topology key in use.
    pub fn use_topology_key(&mut self, key: Sym) -> TopologyId {
        self.topology.use_key(key, &self.nodes)
    }

    /// Holds a counter, filling it if it is new.
    pub fn hold_counter(&mut self, spec: CounterSpec) -> CounterId {
        let (id, is_new) = self.topology.hold_counter(spec.clone());
        if !is_new {
            return id;
        }
        for (slot, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.present) {
            self.topology.attach_node_to_counter(&self.symbols, id, slot, node);
        }
        let mut counted = vec![false; self.classes.len()];
        for (at, class) in self.classes.iter_mut().enumerate() {
            let Some(class) = class else { continue };
            let all = |m| matcher_matches(&self.symbols, &self.namespaces, m, &class.signature);
            if spec.matchers.iter().all(all) {
                class.counted_by.push(id);
                counted[at] = true;
            }
        }
        for (slot, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.present) {
            for pod in &node.pods {
                let record = self.pods[pod.0 as usize].as_ref().expect("nodes list known pods only");
                if counted[record.class.0 as usize] {
                    self.topology.count(id, slot, record.terminating, true);
                }
            }
        }
        id
    }

    /// Lets a counter go.
    pub fn release_counter(&mut self, id: CounterId) {
        if self.topology.release_counter(id) {
            for class in self.classes.iter_mut().flatten() {
                class.counted_by.retain(|other| *other != id);
            }
        }
    }

    /// Sets the labels of a namespace; true if terms with a namespace selector may now speak of other pods.
    pub(crate) fn set_namespace(&mut self, name: Sym, labels: Option<Labels>) -> bool {
        let old = match labels {
            Some(labels) => self.namespaces.insert(name, labels),
            None => self.namespaces.remove(&name),
        };
        if old.as_ref() == self.namespaces.get(&name) {
            return false;
        }
        let concerned = self
            .classes
            .iter()
            .flatten()
            .any(|class| class.signature.namespace == name);
        let by_selector = |matcher: &PodMatcher| matcher.namespace_selector.is_some();
        let selectors = self
            .topology
            .live_terms()
            .any(|(_, term)| by_selector(&term.spec.matcher))
            || self
                .topology
                .live_counters()
                .any(|(_, c)| c.spec.matchers.iter().any(by_selector));
        if concerned && selectors {
            self.match_classes_anew();
        }
        concerned && selectors
    }

    fn match_classes_anew(&mut self) {
        let present: Vec<NodeId> = (0..self.nodes.len() as u32)
            .map(NodeId)
            .filter(|id| self.node(*id).present)
            .collect();
        for node in &present {
            self.count_pods_of(*node, false);
        }
        for at in 0..self.classes.len() {
            let Some(class) = &self.classes[at] else { continue };
            let signature = class.signature.clone();
            let counted_by = self
                .topology
                .live_counters()
                .filter(|(_, c)| self.counts_class(&c.spec, &signature))
                .map(|(id, _)| id);
            let counted_by = counted_by.collect();
            let subject_to = self
                .topology
                .live_terms()
                .filter(|(_, t)| self.speaks_of(&t.spec, &signature))
                .map(|(id, _)| id);
            let subject_to = subject_to.collect();
            let class = self.classes[at].as_mut().expect("looked at above");
            class.counted_by = counted_by;
            class.subject_to = subject_to;
            class.subject_version += 1;
        }
        for node in &present {
            self.count_pods_of(*node, true);
        }
        self.layout += 1;
    }
}
