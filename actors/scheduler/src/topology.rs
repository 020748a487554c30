//! Owns topology domains and the counts of pods in them, kept up to date with every pod and node: what pod affinity and
//! topology spreading read instead of looking at all pods. Called by the cluster state (which alone changes it) and
//! read by plugins. It must hold, after every event, exactly what a recount over all pods would give.

use crate::intern::{Sym, Symbols};
use crate::node::Node;
use crate::pod::{PodMatcher, PodSignature};
use crate::selector::{Labels, NodeRequirements, Toleration, keeps_away, label, untolerated};
use rustc_hash::FxHashMap;

/// "This node has no such label", or "not counted".
pub const NO_DOMAIN: u32 = u32::MAX;

/// A topology key in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopologyId(pub u32);

/// A count of pods by domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CounterId(pub u32);

/// A term that pods carry, and that speaks of other pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TermId(pub u32);

/// The domains of one topology key.
#[derive(Debug)]
pub struct TopologyKey {
    /// The label's key.
    pub key: Sym,
    domain_of: Vec<u32>,
    domains: FxHashMap<Sym, u32>,
    nodes_in: Vec<u32>,
    crowded: u32,
}

impl TopologyKey {
    fn new(key: Sym) -> Self {
        Self {
            key,
            domain_of: Vec::new(),
            domains: FxHashMap::default(),
            nodes_in: Vec::new(),
            crowded: 0,
        }
    }

    /// The domain of a node, `NO_DOMAIN` if it lacks the label or is absent.
    pub fn domain(&self, node: usize) -> u32 {
        self.domain_of.get(node).copied().unwrap_or(NO_DOMAIN)
    }

    /// Whether no domain holds two nodes (host names): then what happens in a domain concerns one node only.
    pub fn is_per_node(&self) -> bool {
        self.crowded == 0
    }

    /// Number of domain numbers given out.
    pub fn domains_max(&self) -> usize {
        self.nodes_in.len()
    }

    fn attach(&mut self, slot: usize, labels: &[(Sym, Sym)]) {
        if self.domain_of.len() <= slot {
            self.domain_of.resize(slot + 1, NO_DOMAIN);
        }
        let Some(value) = label(labels, self.key) else { return };
        let next = self.nodes_in.len() as u32;
        let domain = *self.domains.entry(value).or_insert(next);
        if domain == next {
            self.nodes_in.push(0);
        }
        self.domain_of[slot] = domain;
        self.nodes_in[domain as usize] += 1;
        self.crowded += u32::from(self.nodes_in[domain as usize] == 2);
    }

    fn detach(&mut self, slot: usize) {
        let domain = self.domain(slot);
        if domain == NO_DOMAIN {
            return;
        }
        self.domain_of[slot] = NO_DOMAIN;
        self.nodes_in[domain as usize] -= 1;
        self.crowded -= u32::from(self.nodes_in[domain as usize] == 1);
    }
}

/// The nodes that a counter looks at. The default is all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Eligible {
    /// The node has all of these labels.
    pub keys: Vec<TopologyId>,
    /// The node meets these requirements.
    pub requirements: Option<NodeRequirements>,
    /// Every taint that keeps pods away is tolerated.
    pub tolerations: Option<Vec<Toleration>>,
}

/// What a counter counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CounterSpec {
    /// Pods that all of these match.
    pub matchers: Vec<PodMatcher>,
    /// By the domains of this key.
    pub key: TopologyId,
    /// On these nodes.
    pub eligible: Eligible,
    /// Pods that are being deleted do not count.
    pub skips_terminating: bool,
}

/// Counts of matching pods by domain, with the least of them.
#[derive(Debug)]
pub struct Counter {
    /// What it counts.
    pub spec: CounterSpec,
    refs: u32,
    counts: Vec<u32>,
    total: u64,
    node_counted: Vec<bool>,
    eligible_nodes: Vec<u32>,
    domains_with_count: Vec<u32>,
    present: u32,
    least: usize,
}

impl Counter {
    fn new(spec: CounterSpec) -> Self {
        Self {
            spec,
            refs: 0,
            counts: Vec::new(),
            total: 0,
            node_counted: Vec::new(),
            eligible_nodes: Vec::new(),
            domains_with_count: vec![0],
            present: 0,
            least: 0,
        }
    }

    /// Matching pods in a domain.
    pub fn count(&self, domain: u32) -> u32 {
        self.counts.get(domain as usize).copied().unwrap_or(0)
    }

    /// Matching pods in all domains.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Domains that have an eligible node.
    pub fn domains(&self) -> u32 {
        self.present
    }

    /// The least count of a domain with an eligible node; 0 without any.
    pub fn least(&self) -> u32 {
        if self.present == 0 { 0 } else { self.least as u32 }
    }

    fn grow(&mut self, domain: u32) {
        let len = domain as usize + 1;
        if self.counts.len() < len {
            self.counts.resize(len, 0);
            self.eligible_nodes.resize(len, 0);
        }
    }

    fn attach_node(&mut self, slot: usize, domain: u32, eligible: bool) {
        if self.node_counted.len() <= slot {
            self.node_counted.resize(slot + 1, false);
        }
        let counted = eligible && domain != NO_DOMAIN;
        self.node_counted[slot] = counted;
        if !counted {
            return;
        }
        self.grow(domain);
        self.eligible_nodes[domain as usize] += 1;
        if self.eligible_nodes[domain as usize] == 1 {
            self.present += 1;
            self.enter(self.counts[domain as usize] as usize);
            if self.present == 1 {
                self.least = self.counts[domain as usize] as usize;
            }
        }
    }

    fn detach_node(&mut self, slot: usize, domain: u32) {
        if !self.node_counted.get(slot).copied().unwrap_or(false) {
            return;
        }
        self.node_counted[slot] = false;
        self.eligible_nodes[domain as usize] -= 1;
        if self.eligible_nodes[domain as usize] == 0 {
            self.present -= 1;
            self.leave(self.counts[domain as usize] as usize);
        }
    }

    fn enter(&mut self, count: usize) {
        if self.domains_with_count.len() <= count {
            self.domains_with_count.resize(count + 1, 0);
        }
        self.domains_with_count[count] += 1;
        self.least = self.least.min(count);
    }

    fn leave(&mut self, count: usize) {
        self.domains_with_count[count] -= 1;
        if self.present > 0 {
            while self.domains_with_count[self.least] == 0 && self.least + 1 < self.domains_with_count.len() {
                self.least += 1;
            }
        }
    }

    fn change(&mut self, slot: usize, domain: u32, added: bool) {
        if !self.node_counted.get(slot).copied().unwrap_or(false) {
            return;
        }
        let old = self.counts[domain as usize];
        let new = if added { old + 1 } else { old - 1 };
        self.counts[domain as usize] = new;
        self.total = if added { self.total + 1 } else { self.total - 1 };
        // Enter before leaving, so that the least count always has a domain to stop at.
        self.enter(new as usize);
        self.leave(old as usize);
    }
}

/// What a carried term asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TermKind {
    /// Required pod affinity.
    RequiredAffinity,
    /// Required pod anti-affinity.
    RequiredAntiAffinity,
    /// Preferred pod affinity (positive weight) or anti-affinity (negative weight).
    Preferred(i32),
}

/// A term that pods carry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TermSpec {
    /// What it asks for.
    pub kind: TermKind,
    /// The pods it speaks of.
    pub matcher: PodMatcher,
    /// Its topology key.
    pub key: TopologyId,
}

/// Counts, by domain, of the pods that carry a term.
#[derive(Debug)]
pub struct Term {
    /// The term.
    pub spec: TermSpec,
    serial: u64,
    refs: u32,
    counts: Vec<u32>,
    total: u64,
}

impl Term {
    /// A number that no other term ever has, unlike its id, which is used again.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Carriers in a domain.
    pub fn count(&self, domain: u32) -> u32 {
        self.counts.get(domain as usize).copied().unwrap_or(0)
    }

    /// Carriers in all domains.
    pub fn total(&self) -> u64 {
        self.total
    }

    fn change(&mut self, domain: u32, added: bool) {
        if domain == NO_DOMAIN {
            return;
        }
        if self.counts.len() <= domain as usize {
            self.counts.resize(domain as usize + 1, 0);
        }
        let count = &mut self.counts[domain as usize];
        *count = if added { *count + 1 } else { *count - 1 };
        self.total = if added { self.total + 1 } else { self.total - 1 };
    }
}

/// All topology keys, counters and carried terms.
#[derive(Debug, Default)]
pub struct Topology {
    keys: Vec<TopologyKey>,
    key_ids: FxHashMap<Sym, TopologyId>,
    counters: Vec<Option<Counter>>,
    counter_ids: FxHashMap<CounterSpec, CounterId>,
    terms: Vec<Option<Term>>,
    term_ids: FxHashMap<TermSpec, TermId>,
    terms_made: u64,
}

/// Whether a matcher speaks of pods of a signature.
pub fn matcher_matches(
    symbols: &Symbols,
    namespaces: &FxHashMap<Sym, Labels>,
    matcher: &PodMatcher,
    signature: &PodSignature,
) -> bool {
    let in_namespace = matcher.namespaces.binary_search(&signature.namespace).is_ok()
        || matcher.namespace_selector.as_ref().is_some_and(|selector| {
            let labels = namespaces.get(&signature.namespace).map_or(&[][..], Vec::as_slice);
            selector.matches(symbols, labels)
        });
    in_namespace
        && matcher
            .selector
            .as_ref()
            .is_some_and(|s| s.matches(symbols, &signature.labels))
}

impl Topology {
    /// A topology key.
    pub fn key(&self, id: TopologyId) -> &TopologyKey {
        &self.keys[id.0 as usize]
    }

    /// The id of a key that is in use.
    pub fn lookup(&self, key: Sym) -> Option<TopologyId> {
        self.key_ids.get(&key).copied()
    }

    /// A counter.
    pub fn counter(&self, id: CounterId) -> &Counter {
        self.counters[id.0 as usize]
            .as_ref()
            .expect("a counter is used only while it is held")
    }

    /// A carried term.
    pub fn term(&self, id: TermId) -> &Term {
        self.terms[id.0 as usize]
            .as_ref()
            .expect("a term is used only while a class carries it")
    }

    /// The live counters.
    pub(crate) fn live_counters(&self) -> impl Iterator<Item = (CounterId, &Counter)> {
        self.counters
            .iter()
            .enumerate()
            .filter_map(|(at, c)| Some((CounterId(at as u32), c.as_ref()?)))
    }

    /// The live terms.
    pub(crate) fn live_terms(&self) -> impl Iterator<Item = (TermId, &Term)> {
        self.terms
            .iter()
            .enumerate()
            .filter_map(|(at, t)| Some((TermId(at as u32), t.as_ref()?)))
    }

    /// The id of a key, put in use if it was not.
    pub(crate) fn use_key(&mut self, key: Sym, nodes: &[Node]) -> TopologyId {
        if let Some(id) = self.key_ids.get(&key) {
            return *id;
        }
        let id = TopologyId(self.keys.len() as u32);
        let mut made = TopologyKey::new(key);
        for (slot, node) in nodes.iter().enumerate().filter(|(_, node)| node.present) {
            made.attach(slot, &node.reading.labels);
        }
        self.keys.push(made);
        self.key_ids.insert(key, id);
        id
    }

    /// Holds a counter; the second is true if it was made now and must be filled.
    pub(crate) fn hold_counter(&mut self, spec: CounterSpec) -> (CounterId, bool) {
        if let Some(id) = self.counter_ids.get(&spec).copied() {
            self.counters[id.0 as usize]
                .as_mut()
                .expect("indexed counters are live")
                .refs += 1;
            return (id, false);
        }
        let mut counter = Counter::new(spec.clone());
        counter.refs = 1;
        let at = vacancy(&mut self.counters, counter);
        self.counter_ids.insert(spec, CounterId(at));
        (CounterId(at), true)
    }

    /// Lets a counter go; true if nobody holds it any more and it is gone.
    pub(crate) fn release_counter(&mut self, id: CounterId) -> bool {
        let slot = &mut self.counters[id.0 as usize];
        let counter = slot.as_mut().expect("released counters are live");
        counter.refs -= 1;
        if counter.refs > 0 {
            return false;
        }
        self.counter_ids.remove(&counter.spec);
        *slot = None;
        true
    }

    /// Holds a term; the second is true if it was made now.
    pub(crate) fn hold_term(&mut self, spec: TermSpec) -> (TermId, bool) {
        if let Some(id) = self.term_ids.get(&spec).copied() {
            self.terms[id.0 as usize].as_mut().expect("indexed terms are live").refs += 1;
            return (id, false);
        }
        self.terms_made += 1;
        let term = Term {
            spec: spec.clone(),
            serial: self.terms_made,
            refs: 1,
            counts: Vec::new(),
            total: 0,
        };
        let at = vacancy(&mut self.terms, term);
        self.term_ids.insert(spec, TermId(at));
        (TermId(at), true)
    }

    /// Lets a term go; true if it is gone.
    pub(crate) fn release_term(&mut self, id: TermId) -> bool {
        let slot = &mut self.terms[id.0 as usize];
        let term = slot.as_mut().expect("released terms are live");
        term.refs -= 1;
        if term.refs > 0 {
            return false;
        }
        self.term_ids.remove(&term.spec);
        *slot = None;
        true
    }

    /// Takes a node in: its domains, and its place in every counter. Its pods are counted afterwards.
    /// True if some key has changed between "one node a domain" and "several".
    pub(crate) fn attach_node(&mut self, symbols: &Symbols, slot: usize, node: &Node) -> bool {
        let before = self.per_node_keys();
        for key in &mut self.keys {
            key.attach(slot, &node.reading.labels);
        }
        for at in 0..self.counters.len() {
            self.attach_node_to_counter(symbols, CounterId(at as u32), slot, node);
        }
        before != self.per_node_keys()
    }

    /// Gives a node its place in one counter.
    pub(crate) fn attach_node_to_counter(&mut self, symbols: &Symbols, id: CounterId, slot: usize, node: &Node) {
        let Some(counter) = self.counters[id.0 as usize].as_mut() else {
            return;
        };
        let eligible = &counter.spec.eligible;
        let fits = eligible
            .keys
            .iter()
            .all(|key| self.keys[key.0 as usize].domain(slot) != NO_DOMAIN)
            && eligible
                .requirements
                .as_ref()
                .is_none_or(|r| r.matches(symbols, node.name, &node.reading.labels))
            && eligible
                .tolerations
                .as_ref()
                .is_none_or(|t| untolerated(symbols, &node.reading.taints, t, keeps_away).is_none());
        let domain = self.keys[counter.spec.key.0 as usize].domain(slot);
        counter.attach_node(slot, domain, fits);
    }

    /// Takes a node out, after its pods were.
    pub(crate) fn detach_node(&mut self, slot: usize) -> bool {
        let before = self.per_node_keys();
        for counter in self.counters.iter_mut().flatten() {
            let domain = self.keys[counter.spec.key.0 as usize].domain(slot);
            counter.detach_node(slot, domain);
        }
        for key in &mut self.keys {
            key.detach(slot);
        }
        before != self.per_node_keys()
    }

    fn per_node_keys(&self) -> Vec<bool> {
        self.keys.iter().map(TopologyKey::is_per_node).collect()
    }

    /// Counts a pod in, or out, of one counter.
    pub(crate) fn count(&mut self, id: CounterId, slot: usize, terminating: bool, added: bool) {
        let counter = self.counters[id.0 as usize]
            .as_mut()
            .expect("classes list live counters only");
        if terminating && counter.spec.skips_terminating {
            return;
        }
        let domain = self.keys[counter.spec.key.0 as usize].domain(slot);
        counter.change(slot, domain, added);
    }

    /// Counts a carrier of a term in, or out.
    pub(crate) fn count_term(&mut self, id: TermId, slot: usize, added: bool) {
        let term = self.terms[id.0 as usize]
            .as_mut()
            .expect("classes list live terms only");
        let domain = self.keys[term.spec.key.0 as usize].domain(slot);
        term.change(domain, added);
    }
}

fn vacancy<T>(slots: &mut Vec<Option<T>>, value: T) -> u32 {
    match slots.iter().position(Option::is_none) {
        Some(at) => {
            slots[at] = Some(value);
            at as u32
        }
        None => {
            slots.push(Some(value));
            (slots.len() - 1) as u32
        }
    }
}
