//! Owns the check of a run from its log alone: what was placed and what went, in order, against the API objects. Called when
//! a case has ended. It must not use the scheduler's state or plugins: it counts for itself, slowly and plainly.
//!
//! For every placement, at its time: the node's allocatable and pod count, host ports, taints, `unschedulable`, node selector
//! and required node affinity, required pod affinity and anti-affinity in both directions, hard spread constraints,
//! attachable volumes, and volumes for one pod only.

use super::CaseError;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

mod terms;
use terms::{Matcher, node_admits, tolerates};

/// What happened, in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// A node came or changed.
    Node(Arc<core::Node>),
    /// A node went.
    NodeGone(Arc<str>),
    /// A pod was placed by a decision.
    Placed {
        /// The pod's number.
        pod: u32,
        /// The node's name.
        node: Arc<str>,
    },
    /// A placed pod went.
    Gone {
        /// The pod's number.
        pod: u32,
    },
    /// A pod's object was replaced.
    Changed {
        /// The pod's number.
        pod: u32,
        /// What it is now.
        shape: Arc<core::Pod>,
    },
}

/// What does not change during a run.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Labels by namespace.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Volumes that a node's drivers attach, by node.
    pub attachable: HashMap<String, u32>,
    /// Claims (`namespace/name`) that only one pod may use.
    pub for_one_pod: BTreeSet<String>,
}

/// A pod of the log.
#[derive(Clone, Debug)]
pub struct Subject {
    /// `namespace/name`.
    pub key: String,
    /// Its first object.
    pub shape: Arc<core::Pod>,
}

struct NodeState {
    object: Arc<core::Node>,
    capacity: BTreeMap<String, i128>,
    used: BTreeMap<String, i128>,
    pods: i128,
    ports: BTreeMap<(i32, String), u32>,
    volumes: u32,
}

/// What the rules read of a pod; pods with the same object share it.
struct Class {
    pod: Arc<core::Pod>,
    namespace: String,
    labels: BTreeMap<String, String>,
    requests: BTreeMap<String, i128>,
    ports: Vec<(i32, String)>,
    claims: Vec<String>,
    /// Indices of terms: own required affinity, own required anti-affinity, own hard spread constraints.
    affinity: Vec<usize>,
    anti_affinity: Vec<usize>,
    spread: Vec<(usize, i32, Option<i32>)>,
}

/// The pods that a term speaks of, counted by topology domain; and those that carry it as anti-affinity.
struct Term {
    key: String,
    matcher: Matcher,
    matching: BTreeMap<String, i64>,
    carriers: BTreeMap<String, i64>,
    total: i64,
}

/// The checker.
pub struct Oracle<'a> {
    world: &'a World,
    nodes: HashMap<Arc<str>, NodeState>,
    classes: Vec<Class>,
    by_shape: HashMap<usize, usize>,
    terms: Vec<Term>,
    by_term: HashMap<(String, Matcher), usize>,
    /// Whether the pods of a class are among those of a term, once asked.
    matches: HashMap<(usize, usize), bool>,
    placed: HashMap<u32, (usize, Arc<str>)>,
    users: HashMap<String, u32>,
    /// The domains of a term that count for a class; until a node changes.
    domains: HashMap<(usize, usize), Vec<String>>,
}

/// Checks a log.
pub fn check(world: &World, subjects: &[Subject], log: &[Event]) -> Result<(), CaseError> {
    let mut oracle = Oracle::new(world);
    let mut shapes: Vec<Arc<core::Pod>> = subjects.iter().map(|subject| subject.shape.clone()).collect();
    for subject in subjects {
        // Terms count from the beginning, so every class has to be known before the first placement.
        oracle.class_of(&subject.shape);
    }
    for event in log {
        if let Event::Changed { shape, .. } = event {
            oracle.class_of(shape);
        }
    }
    for (number, event) in log.iter().enumerate() {
        match event {
            Event::Node(node) => oracle.node(node),
            Event::NodeGone(name) => {
                oracle.nodes.remove(name);
                oracle.domains.clear();
            }
            Event::Placed { pod, node } => {
                let class = oracle.class_of(&shapes[*pod as usize]);
                oracle.admits(class, node).map_err(|rule| CaseError::Rule {
                    number,
                    pod: subjects[*pod as usize].key.clone(),
                    node: node.to_string(),
                    rule,
                })?;
                oracle.account(class, node, 1);
                oracle.placed.insert(*pod, (class, node.clone()));
            }
            Event::Gone { pod } => {
                if let Some((class, node)) = oracle.placed.remove(pod) {
                    oracle.account(class, &node, -1);
                }
            }
            Event::Changed { pod, shape } => {
                shapes[*pod as usize] = shape.clone();
                if let Some((class, node)) = oracle.placed.remove(pod) {
                    oracle.account(class, &node, -1);
                    let class = oracle.class_of(shape);
                    oracle.account(class, &node, 1);
                    oracle.placed.insert(*pod, (class, node));
                }
            }
        }
    }
    Ok(())
}

/// An amount of a resource in thousandths.
fn thousandths(text: &str) -> i128 {
    scheduler::quantity::milli(text).map_or(0, i128::from)
}

fn amounts<'a>(
    list: impl Iterator<Item = (&'a String, &'a k8s_openapi::apimachinery::pkg::api::resource::Quantity)>,
) -> BTreeMap<String, i128> {
    list.map(|(name, amount)| (name.clone(), thousandths(&amount.0)))
        .collect()
}

impl<'a> Oracle<'a> {
    fn new(world: &'a World) -> Self {
        Self {
            world,
            nodes: HashMap::new(),
            classes: Vec::new(),
            by_shape: HashMap::new(),
            terms: Vec::new(),
            by_term: HashMap::new(),
            matches: HashMap::new(),
            placed: HashMap::new(),
            users: HashMap::new(),
            domains: HashMap::new(),
        }
    }

    fn node(&mut self, node: &Arc<core::Node>) {
        self.domains.clear();
        let name: Arc<str> = node.metadata.name.as_deref().unwrap_or_default().into();
        let allocatable = node
            .status
            .iter()
            .flat_map(|status| status.allocatable.iter().flatten());
        let capacity = amounts(allocatable);
        let state = self.nodes.entry(name).or_insert_with(|| NodeState {
            object: node.clone(),
            capacity: BTreeMap::new(),
            used: BTreeMap::new(),
            pods: 0,
            ports: BTreeMap::new(),
            volumes: 0,
        });
        state.object = node.clone();
        state.capacity = capacity;
    }

    fn class_of(&mut self, pod: &Arc<core::Pod>) -> usize {
        let address = Arc::as_ptr(pod) as usize;
        if let Some(class) = self.by_shape.get(&address) {
            return *class;
        }
        let class = self.read(pod);
        self.classes.push(class);
        self.by_shape.insert(address, self.classes.len() - 1);
        self.classes.len() - 1
    }

    fn read(&mut self, pod: &Arc<core::Pod>) -> Class {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let spec = pod.spec.clone().unwrap_or_default();
        let mut requests: BTreeMap<String, i128> = BTreeMap::new();
        let mut ports = Vec::new();
        for container in &spec.containers {
            let resources = container.resources.iter();
            for (name, amount) in amounts(resources.flat_map(|r| r.requests.iter().flatten())) {
                *requests.entry(name).or_default() += amount;
            }
            let taken = container.ports.iter().flatten().filter_map(|port| {
                let number = port.host_port.filter(|number| *number > 0)?;
                Some((number, port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())))
            });
            ports.extend(taken);
        }
        let volumes = spec.volumes.iter().flatten();
        let claims = volumes
            .filter_map(|volume| volume.persistent_volume_claim.as_ref())
            .map(|claim| format!("{namespace}/{}", claim.claim_name))
            .collect();
        let affinity = spec.affinity.clone().unwrap_or_default();
        let together = affinity.pod_affinity.unwrap_or_default();
        let apart = affinity.pod_anti_affinity.unwrap_or_default();
        let mut required = |terms: Option<Vec<core::PodAffinityTerm>>| -> Vec<usize> {
            let terms = terms.unwrap_or_default();
            terms
                .into_iter()
                .map(|term| self.term(term.topology_key.clone(), Matcher::of_term(&namespace, term)))
                .collect()
        };
        let together = required(together.required_during_scheduling_ignored_during_execution);
        let apart = required(apart.required_during_scheduling_ignored_during_execution);
        let hard = spec.topology_spread_constraints.into_iter().flatten();
        let spread = hard
            .filter(|constraint| constraint.when_unsatisfiable == "DoNotSchedule")
            .map(|constraint| {
                let matcher = Matcher::in_namespace(&namespace, constraint.label_selector);
                let term = self.term(constraint.topology_key, matcher);
                (term, constraint.max_skew, constraint.min_domains)
            })
            .collect();
        Class {
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            pod: pod.clone(),
            namespace,
            requests,
            ports,
            claims,
            affinity: together,
            anti_affinity: apart,
            spread,
        }
    }

    fn term(&mut self, key: String, matcher: Matcher) -> usize {
        let next = self.terms.len();
        let at = *self.by_term.entry((key.clone(), matcher.clone())).or_insert(next);
        if at == next {
            self.terms.push(Term {
                key,
                matcher,
                matching: BTreeMap::new(),
                carriers: BTreeMap::new(),
                total: 0,
            });
        }
        at
    }

    fn is_matched(&mut self, term: usize, class: usize) -> bool {
        if let Some(known) = self.matches.get(&(term, class)) {
            return *known;
        }
        let of = &self.classes[class];
        let matched = self.terms[term]
            .matcher
            .matches(&of.namespace, &of.labels, &self.world.namespaces);
        self.matches.insert((term, class), matched);
        matched
    }

    fn domain(&self, node: &str, key: &str) -> Option<String> {
        let labels = self.nodes.get(node)?.object.metadata.labels.as_ref()?;
        labels.get(key).cloned()
    }

    /// Counts a pod of a class on a node, or takes it away.
    fn account(&mut self, class: usize, node: &Arc<str>, change: i64) {
        let of = &self.classes[class];
        let anti_affinity = of.anti_affinity.clone();
        let claims = of.claims.clone();
        if let Some(state) = self.nodes.get_mut(node) {
            for (name, amount) in &of.requests {
                *state.used.entry(name.clone()).or_default() += amount * i128::from(change);
            }
            state.pods += i128::from(change);
            state.volumes = state.volumes.saturating_add_signed(change as i32 * claims.len() as i32);
            for port in &of.ports {
                let users = state.ports.entry(port.clone()).or_default();
                *users = users.saturating_add_signed(change as i32);
            }
        }
        for claim in claims {
            let users = self.users.entry(claim).or_default();
            *users = users.saturating_add_signed(change as i32);
        }
        for term in 0..self.terms.len() {
            let matched = self.is_matched(term, class);
            let carries = anti_affinity.contains(&term);
            if !matched && !carries {
                continue;
            }
            let Some(domain) = self.domain(node, &self.terms[term].key) else {
                continue;
            };
            let term = &mut self.terms[term];
            if matched {
                *term.matching.entry(domain.clone()).or_default() += change;
                term.total += change;
            }
            if carries {
                *term.carriers.entry(domain).or_default() += change;
            }
        }
    }

    /// Whether a pod of a class may be placed on a node now; the broken rule otherwise.
    fn admits(&mut self, class: usize, node: &Arc<str>) -> Result<(), String> {
        self.has_room(class, node)?;
        let of = &self.classes[class];
        let state = &self.nodes[node];
        node_admits(&of.pod, &state.object)?;
        let (affinity, anti_affinity, spread) = (of.affinity.clone(), of.anti_affinity.clone(), of.spread.clone());
        for term in affinity {
            let selects_itself = self.is_matched(term, class);
            let term = &self.terms[term];
            let domain = self
                .domain(node, &term.key)
                .ok_or_else(|| format!("required affinity: the node has no {}", term.key))?;
            let there = term.matching.get(&domain).copied().unwrap_or(0);
            if there == 0 && !(term.total == 0 && selects_itself) {
                return Err(format!("required affinity: no matching pod in {}={domain}", term.key));
            }
        }
        for term in anti_affinity {
            let term = &self.terms[term];
            let Some(domain) = self.domain(node, &term.key) else {
                continue;
            };
            let there = term.matching.get(&domain).copied().unwrap_or(0);
            if there > 0 {
                return Err(format!(
                    "required anti-affinity: {there} matching pods in {}={domain}",
                    term.key
                ));
            }
        }
        for term in 0..self.terms.len() {
            if self.terms[term].carriers.is_empty() || !self.is_matched(term, class) {
                continue;
            }
            let term = &self.terms[term];
            let Some(domain) = self.domain(node, &term.key) else {
                continue;
            };
            let there = term.carriers.get(&domain).copied().unwrap_or(0);
            if there > 0 {
                return Err(format!(
                    "the anti-affinity of {there} pods in {}={domain} keeps it away",
                    term.key
                ));
            }
        }
        for (term, max_skew, min_domains) in spread {
            self.is_even(class, node, term, max_skew, min_domains)?;
        }
        Ok(())
    }

    fn has_room(&self, class: usize, node: &Arc<str>) -> Result<(), String> {
        let of = &self.classes[class];
        let Some(state) = self.nodes.get(node) else {
            return Err("there is no such node".to_owned());
        };
        for (name, amount) in &of.requests {
            let used = state.used.get(name).copied().unwrap_or(0);
            let capacity = state.capacity.get(name).copied().unwrap_or(0);
            if *amount > 0 && used + amount > capacity {
                return Err(format!(
                    "{name}: {used}m of {capacity}m are taken, it asks for {amount}m"
                ));
            }
        }
        let pods_max = state.capacity.get("pods").copied().unwrap_or(0) / 1000;
        if state.pods >= pods_max {
            return Err(format!("it has {} of {pods_max} pods", state.pods));
        }
        for port in &of.ports {
            if state.ports.get(port).is_some_and(|users| *users > 0) {
                return Err(format!("host port {}/{} is taken", port.0, port.1));
            }
        }
        let attachable = self.world.attachable.get(&**node);
        if let Some(limit) = attachable.filter(|limit| state.volumes + of.claims.len() as u32 > **limit) {
            return Err(format!("{} of {limit} volumes are attached", state.volumes));
        }
        for claim in &of.claims {
            let used = self.users.get(claim).is_some_and(|users| *users > 0);
            if used && self.world.for_one_pod.contains(claim) {
                return Err(format!("claim {claim} is for one pod and has one"));
            }
        }
        Ok(())
    }

    /// The domains of the nodes that count for the spread constraint of a class with a key.
    fn domains_for(&self, class: usize, key: &str) -> Vec<String> {
        let pod = &self.classes[class].pod;
        let mut all = pod
            .spec
            .iter()
            .flat_map(|spec| spec.topology_spread_constraints.iter().flatten());
        let constraint = all.find(|constraint| constraint.topology_key == key);
        let honors_taints = constraint.is_some_and(|c| c.node_taints_policy.as_deref() == Some("Honor"));
        let eligible = self.nodes.values().filter(|state| {
            terms::affinity_admits(pod, &state.object).is_ok()
                && (!honors_taints || tolerates(pod, &state.object).is_ok())
        });
        let labels = eligible.filter_map(|state| state.object.metadata.labels.as_ref()?.get(key));
        let domains: BTreeSet<&String> = labels.collect();
        domains.into_iter().cloned().collect()
    }

    fn is_even(
        &mut self,
        class: usize,
        node: &Arc<str>,
        term: usize,
        max_skew: i32,
        min_domains: Option<i32>,
    ) -> Result<(), String> {
        let itself = i64::from(self.is_matched(term, class));
        if !self.domains.contains_key(&(class, term)) {
            let domains = self.domains_for(class, &self.terms[term].key);
            self.domains.insert((class, term), domains);
        }
        let domains = &self.domains[&(class, term)];
        let term = &self.terms[term];
        let domain = self
            .domain(node, &term.key)
            .ok_or_else(|| format!("spread: the node has no {}", term.key))?;
        let count = |domain: &String| term.matching.get(domain).copied().unwrap_or(0);
        let too_few = min_domains.is_some_and(|min| domains.len() < min as usize);
        let least = match too_few {
            true => 0,
            false => domains.iter().map(count).min().unwrap_or(0),
        };
        let there = count(&domain);
        match there + itself - least > i64::from(max_skew) {
            true => Err(format!(
                "spread: {}={domain} would have {} matching pods, the least has {least}, maxSkew is {max_skew}",
                term.key,
                there + itself
            )),
            false => Ok(()),
        }
    }
}

/// A label selector, as objects hold it.
type Selector = Option<meta::LabelSelector>;
