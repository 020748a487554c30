//! Owns what scheduling reads of a pod: its key, its signature (everything that decides where it may go, interned, so
//! that pods made from one template share it) and the reading of both from the API's object. Called by the cluster
//! state. It must keep out of the signature whatever differs between the replicas of one template but decides
//! nothing (name, uid, environment), because every distinct signature costs memory and its own index.

use crate::devices::ClaimUse;
use crate::intern::{Sym, Symbols};
use crate::quantity;
use crate::resources::{DEFAULT_SCORED_CPU_MILLI, DEFAULT_SCORED_MEMORY_BYTES, Resources};
use crate::selector::{
    LabelSelector, Labels, NodeRequirements, NodeSelectorTerm, Operator, Requirement, Toleration, label,
};
use crate::volumes::{VolumeUse, read_uses};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A pod's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodKey(Arc<str>);

impl PodKey {
    /// The key of a pod.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(format!("{namespace}/{name}").into())
    }

    /// The key of an API object; an absent namespace is `default`.
    pub fn of(pod: &core::Pod) -> Self {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        Self::new(namespace, pod.metadata.name.as_deref().unwrap_or_default())
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The name.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(_, name)| name)
    }

    /// `namespace/name`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A port of the node that a container takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Address; the symbol of `0.0.0.0` stands for all.
    pub ip: Sym,
    /// Whether `ip` stands for all addresses.
    pub any_ip: bool,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Sym,
    /// Number.
    pub port: i32,
}

impl HostPort {
    /// Whether two uses cannot share a node.
    pub fn conflicts(&self, other: &HostPort) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.any_ip || other.any_ip || self.ip == other.ip)
    }
}

/// Which pods a term speaks of: those in the namespaces that the selector selects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodMatcher {
    /// Namespaces by name (sorted).
    pub namespaces: Vec<Sym>,
    /// Namespaces by their labels.
    pub namespace_selector: Option<LabelSelector>,
    /// Pods by their labels; `None` selects nothing.
    pub selector: Option<LabelSelector>,
}

/// One term of pod affinity or anti-affinity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodTerm {
    /// The pods it speaks of.
    pub matcher: PodMatcher,
    /// The node label that makes a topology domain.
    pub topology_key: Sym,
}

/// A topology spread constraint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpreadConstraint {
    /// How uneven domains may be.
    pub max_skew: i32,
    /// The node label that makes a domain.
    pub topology_key: Sym,
    /// `DoNotSchedule` if true, `ScheduleAnyway` otherwise.
    pub hard: bool,
    /// The pods that are counted, all in the pod's namespace.
    pub matcher: PodMatcher,
    /// Below this number of domains the least count is taken as zero.
    pub min_domains: i32,
    /// Count only nodes that meet the pod's node selector and affinity.
    pub honor_affinity: bool,
    /// Count only nodes whose taints the pod tolerates.
    pub honor_taints: bool,
}

/// Everything about a pod that decides where it may go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodSignature {
    /// Namespace.
    pub namespace: Sym,
    /// Labels.
    pub labels: Labels,
    /// The profile that schedules it.
    pub scheduler_name: Sym,
    /// Priority; the larger goes first.
    pub priority: i32,
    /// `preemptionPolicy: Never`.
    pub never_preempts: bool,
    /// What it requests.
    pub requests: Resources,
    /// Milli-cpu that scoring sees: containers without a request count 100.
    pub scored_cpu_milli: i64,
    /// Bytes of memory that scoring sees: containers without a request count 200 MiB.
    pub scored_memory_bytes: i64,
    /// The only node that it may go to. Set by what-if questions; in the API a pod with `spec.nodeName` is bound already.
    pub required_node: Option<Sym>,
    /// Node selector and required node affinity.
    pub node_requirements: NodeRequirements,
    /// Preferred node affinity: weight and term.
    pub node_preferences: Vec<(i32, NodeSelectorTerm)>,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// Host ports.
    pub host_ports: Vec<HostPort>,
    /// Required pod affinity.
    pub affinity_required: Vec<PodTerm>,
    /// Preferred pod affinity.
    pub affinity_preferred: Vec<(i32, PodTerm)>,
    /// Required pod anti-affinity.
    pub anti_affinity_required: Vec<PodTerm>,
    /// Preferred pod anti-affinity.
    pub anti_affinity_preferred: Vec<(i32, PodTerm)>,
    /// Topology spread constraints.
    pub spread: Vec<SpreadConstraint>,
    /// Images of the containers, with a tag.
    pub images: Vec<Sym>,
    /// Volumes that matter for where it may go.
    pub volumes: Vec<VolumeUse>,
    /// ResourceClaims that it uses.
    pub device_claims: Vec<ClaimUse>,
    /// The ReplicaSet, StatefulSet or ReplicationController that owns it (`controller_name`), which matters for default
    /// spreading.
    pub controller: Option<Sym>,
    /// The pod group (gang) it belongs to (`namespace/name`).
    pub group: Option<Sym>,
}

/// The name under which a controller is known here.
pub fn controller_name(symbols: &mut Symbols, kind: &str, namespace: &str, name: &str) -> Sym {
    symbols.intern(&format!("{kind}/{namespace}/{name}"))
}

/// What one version of an API object says.
#[derive(Clone, Debug)]
pub struct PodReading {
    /// Its uid, empty if the object has none.
    pub uid: Box<str>,
    /// Its signature.
    pub signature: PodSignature,
    /// The node it is bound to.
    pub node: Option<Sym>,
    /// The node for which preemption nominated it.
    pub nominated_node: Option<Sym>,
    /// Scheduling gates that hold it back.
    pub gates: Vec<Box<str>>,
    /// It has succeeded or failed: it holds no resources.
    pub terminal: bool,
    /// It is being deleted.
    pub terminating: bool,
    /// When it started, or was created (milliseconds since 1970).
    pub started_ms: i64,
}

/// Reads an API object.
pub fn read_pod(symbols: &mut Symbols, pod: &core::Pod) -> PodReading {
    let empty = core::PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let status = pod.status.as_ref();
    let non_empty = |text: Option<&String>| text.filter(|text| !text.is_empty()).cloned();
    let time_ms =
        |time: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| time.map(|t| t.0.as_millisecond());
    PodReading {
        uid: pod.metadata.uid.as_deref().unwrap_or_default().into(),
        signature: signature(symbols, pod, spec),
        node: non_empty(spec.node_name.as_ref()).map(|name| symbols.intern(&name)),
        nominated_node: non_empty(status.and_then(|s| s.nominated_node_name.as_ref()))
            .map(|name| symbols.intern(&name)),
        gates: spec
            .scheduling_gates
            .iter()
            .flatten()
            .map(|gate| gate.name.as_str().into())
            .collect(),
        terminal: matches!(status.and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed")),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        started_ms: time_ms(status.and_then(|s| s.start_time.as_ref()))
            .or_else(|| time_ms(pod.metadata.creation_timestamp.as_ref()))
            .unwrap_or(0),
    }
}

fn signature(symbols: &mut Symbols, pod: &core::Pod, spec: &core::PodSpec) -> PodSignature {
    let namespace = symbols.intern(pod.metadata.namespace.as_deref().unwrap_or("default"));
    let labels = read_labels(symbols, pod.metadata.labels.as_ref());
    let (requests, scored_cpu_milli, scored_memory_bytes) = pod_requests(symbols, spec, pod.status.as_ref());
    let affinity = spec.affinity.as_ref();
    let (node_requirements, node_preferences) = node_terms(symbols, spec);
    let own = Own {
        namespace,
        labels: &labels,
    };
    let pod_affinity = affinity.and_then(|a| a.pod_affinity.as_ref());
    let anti_affinity = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
    PodSignature {
        scheduler_name: symbols.intern(spec.scheduler_name.as_deref().unwrap_or("default-scheduler")),
        priority: spec.priority.unwrap_or(0),
        never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
        requests,
        scored_cpu_milli,
        scored_memory_bytes,
        required_node: None,
        node_requirements,
        node_preferences,
        tolerations: spec
            .tolerations
            .iter()
            .flatten()
            .map(|t| Toleration::parse(symbols, t))
            .collect(),
        host_ports: host_ports(symbols, spec),
        affinity_required: required_terms(
            symbols,
            &own,
            pod_affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref()),
        ),
        affinity_preferred: preferred_terms(
            symbols,
            &own,
            pod_affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref()),
        ),
        anti_affinity_required: required_terms(
            symbols,
            &own,
            anti_affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref()),
        ),
        anti_affinity_preferred: preferred_terms(
            symbols,
            &own,
            anti_affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref()),
        ),
        spread: spec
            .topology_spread_constraints
            .iter()
            .flatten()
            .map(|constraint| spread_constraint(symbols, &own, constraint))
            .collect(),
        images: images(symbols, spec),
        volumes: read_uses(symbols, pod, spec),
        device_claims: device_claims(symbols, pod, spec),
        controller: controller(symbols, pod),
        group: spec
            .scheduling_group
            .as_ref()
            .and_then(|group| group.pod_group_name.as_ref())
            .map(|name| {
                symbols.intern(&format!(
                    "{}/{name}",
                    pod.metadata.namespace.as_deref().unwrap_or("default")
                ))
            }),
        namespace,
        labels,
    }
}

/// Node selector and node affinity.
fn node_terms(symbols: &mut Symbols, spec: &core::PodSpec) -> (NodeRequirements, Vec<(i32, NodeSelectorTerm)>) {
    let node_affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let (mut requirements, preferences) = match node_affinity {
        Some(affinity) => read_node_affinity(symbols, affinity),
        None => (NodeRequirements::default(), Vec::new()),
    };
    let selector = spec.node_selector.iter().flatten();
    requirements.selector = selector.map(|(k, v)| (symbols.intern(k), symbols.intern(v))).collect();
    requirements.selector.sort_unstable();
    (requirements, preferences)
}

/// Reads node affinity: what is required, and the preferred terms with their weights.
pub fn read_node_affinity(
    symbols: &mut Symbols,
    affinity: &core::NodeAffinity,
) -> (NodeRequirements, Vec<(i32, NodeSelectorTerm)>) {
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()
        .map(|s| {
            s.node_selector_terms
                .iter()
                .map(|term| NodeSelectorTerm::parse(symbols, term))
                .collect()
        });
    let preferences = affinity
        .preferred_during_scheduling_ignored_during_execution
        .iter()
        .flatten()
        .map(|p| (p.weight, NodeSelectorTerm::parse(symbols, &p.preference)))
        .collect();
    let requirements = NodeRequirements {
        selector: Labels::new(),
        required,
    };
    (requirements, preferences)
}

/// The ResourceClaims of a pod: named by it, or made for it from a template and named in its status.
fn device_claims(symbols: &mut Symbols, pod: &core::Pod, spec: &core::PodSpec) -> Vec<ClaimUse> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.resource_claim_statuses.as_ref());
    let mut used = Vec::new();
    for claim in spec.resource_claims.iter().flatten() {
        let made = statuses.into_iter().flatten().find(|status| status.name == claim.name);
        let name = match (&claim.resource_claim_name, made) {
            (Some(name), _) => Some(name),
            (None, Some(made)) => match &made.resource_claim_name {
                // The template turned out to need no claim.
                None => continue,
                name => name.as_ref(),
            },
            (None, None) => None,
        };
        used.push(match name {
            Some(name) => ClaimUse::Named(symbols.intern(&format!("{namespace}/{name}"))),
            None => ClaimUse::Awaited(symbols.intern(&claim.name)),
        });
    }
    used
}

/// The controller, if it is one that default spreading knows.
fn controller(symbols: &mut Symbols, pod: &core::Pod) -> Option<Sym> {
    let owner = pod
        .metadata
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))?;
    if !matches!(
        owner.kind.as_str(),
        "ReplicaSet" | "StatefulSet" | "ReplicationController"
    ) {
        return None;
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    Some(controller_name(symbols, &owner.kind, namespace, &owner.name))
}

/// Reads a label map into sorted symbols.
pub fn read_labels(symbols: &mut Symbols, labels: Option<&BTreeMap<String, String>>) -> Labels {
    let mut read: Labels = labels
        .into_iter()
        .flatten()
        .map(|(k, v)| (symbols.intern(k), symbols.intern(v)))
        .collect();
    read.sort_unstable();
    read
}

struct Own<'a> {
    namespace: Sym,
    labels: &'a Labels,
}

fn required_terms(symbols: &mut Symbols, own: &Own<'_>, terms: Option<&[core::PodAffinityTerm]>) -> Vec<PodTerm> {
    terms
        .into_iter()
        .flatten()
        .map(|term| pod_term(symbols, own, term))
        .collect()
}

fn preferred_terms(
    symbols: &mut Symbols,
    own: &Own<'_>,
    terms: Option<&[core::WeightedPodAffinityTerm]>,
) -> Vec<(i32, PodTerm)> {
    terms
        .into_iter()
        .flatten()
        .map(|term| (term.weight, pod_term(symbols, own, &term.pod_affinity_term)))
        .collect()
}

fn pod_term(symbols: &mut Symbols, own: &Own<'_>, term: &core::PodAffinityTerm) -> PodTerm {
    let mut namespaces: Vec<Sym> = term
        .namespaces
        .iter()
        .flatten()
        .map(|name| symbols.intern(name))
        .collect();
    if namespaces.is_empty() && term.namespace_selector.is_none() {
        namespaces.push(own.namespace);
    }
    namespaces.sort_unstable();
    namespaces.dedup();
    let mut selector = term.label_selector.as_ref().map(|s| LabelSelector::parse(symbols, s));
    add_label_keys(symbols, own, &mut selector, term.match_label_keys.as_deref(), false);
    add_label_keys(symbols, own, &mut selector, term.mismatch_label_keys.as_deref(), true);
    PodTerm {
        matcher: PodMatcher {
            namespaces,
            namespace_selector: term
                .namespace_selector
                .as_ref()
                .map(|s| LabelSelector::parse(symbols, s)),
            selector,
        },
        topology_key: symbols.intern(&term.topology_key),
    }
}

/// `matchLabelKeys` and `mismatchLabelKeys`: the pod's own value of a key becomes a requirement. The API server of
/// Kubernetes does the same at creation; doing it again changes nothing.
fn add_label_keys(
    symbols: &mut Symbols,
    own: &Own<'_>,
    selector: &mut Option<LabelSelector>,
    keys: Option<&[String]>,
    mismatch: bool,
) {
    let Some(selector) = selector else { return };
    for key in keys.into_iter().flatten() {
        let key = symbols.intern(key);
        let Some(value) = label(own.labels, key) else { continue };
        let operator = if mismatch {
            Operator::NotIn(vec![value])
        } else {
            Operator::In(vec![value])
        };
        let requirement = Requirement { key, operator };
        if !selector.requirements.contains(&requirement) {
            selector.requirements.push(requirement);
        }
    }
    selector.requirements.sort_by_key(|requirement| requirement.key);
}

fn spread_constraint(symbols: &mut Symbols, own: &Own<'_>, c: &core::TopologySpreadConstraint) -> SpreadConstraint {
    let mut selector = c.label_selector.as_ref().map(|s| LabelSelector::parse(symbols, s));
    add_label_keys(symbols, own, &mut selector, c.match_label_keys.as_deref(), false);
    SpreadConstraint {
        max_skew: c.max_skew,
        topology_key: symbols.intern(&c.topology_key),
        hard: c.when_unsatisfiable != "ScheduleAnyway",
        matcher: PodMatcher {
            namespaces: vec![own.namespace],
            namespace_selector: None,
            selector,
        },
        min_domains: c.min_domains.unwrap_or(1),
        honor_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
        honor_taints: c.node_taints_policy.as_deref() == Some("Honor"),
    }
}

/// An image name with a tag or digest, as nodes report it.
pub fn normalized_image(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') || last.contains('@') {
        name.to_owned()
    } else {
        format!("{name}:latest")
    }
}

fn images(symbols: &mut Symbols, spec: &core::PodSpec) -> Vec<Sym> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let of_containers = containers.map(|container| container.image.as_deref().unwrap_or_default());
    let volumes = spec.volumes.iter().flatten().filter_map(|volume| volume.image.as_ref());
    let of_volumes = volumes.map(|image| image.reference.as_deref().unwrap_or_default());
    of_containers
        .chain(of_volumes)
        .map(|name| symbols.intern(&normalized_image(name)))
        .collect()
}

fn is_sidecar(container: &core::Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn host_ports(symbols: &mut Symbols, spec: &core::PodSpec) -> Vec<HostPort> {
    let host_network = spec.host_network == Some(true);
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| is_sidecar(container));
    let mut taken = Vec::new();
    for port in sidecars
        .chain(&spec.containers)
        .flat_map(|container| container.ports.iter().flatten())
    {
        // The API server defaults the host port of a host-network pod to the container's port.
        let number = port
            .host_port
            .unwrap_or(if host_network { port.container_port } else { 0 });
        if number <= 0 {
            continue;
        }
        let ip = port.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
        taken.push(HostPort {
            ip: symbols.intern(ip),
            any_ip: ip == "0.0.0.0",
            protocol: symbols.intern(port.protocol.as_deref().filter(|p| !p.is_empty()).unwrap_or("TCP")),
            port: number,
        });
    }
    taken
}

/// What is asked for, and which of cpu and memory were named.
#[derive(Default, Clone)]
struct Asked {
    requests: Resources,
    scored_cpu_milli: i64,
    scored_memory_bytes: i64,
}

impl Asked {
    fn add(&mut self, other: &Asked) {
        self.requests.add(&other.requests);
        self.scored_cpu_milli = self.scored_cpu_milli.saturating_add(other.scored_cpu_milli);
        self.scored_memory_bytes = self.scored_memory_bytes.saturating_add(other.scored_memory_bytes);
    }

    fn raise_to(&mut self, other: &Asked) {
        self.requests.raise_to(&other.requests);
        self.scored_cpu_milli = self.scored_cpu_milli.max(other.scored_cpu_milli);
        self.scored_memory_bytes = self.scored_memory_bytes.max(other.scored_memory_bytes);
    }
}

/// Reads a list of resources; unreadable amounts count as nothing (the API refuses them before they get here).
pub fn read_resources<'a>(symbols: &mut Symbols, list: impl Iterator<Item = (&'a String, &'a Quantity)>) -> Resources {
    let mut resources = Resources::default();
    for (name, amount) in list {
        match name.as_str() {
            "cpu" => resources.cpu_milli = quantity::milli(&amount.0).unwrap_or(0),
            "memory" => resources.memory_bytes = quantity::whole(&amount.0).unwrap_or(0),
            "ephemeral-storage" => resources.ephemeral_bytes = quantity::whole(&amount.0).unwrap_or(0),
            "pods" => {}
            _ => {
                let sym = symbols.intern(name);
                resources.set_extended(sym, quantity::whole(&amount.0).unwrap_or(0));
            }
        }
    }
    resources
}

/// What the nodes tell of the resources of a pod's containers.
struct Told<'a> {
    statuses: Vec<&'a core::ContainerStatus>,
    /// The node is too small for what the spec asks for by now: it will never have it there.
    infeasible: bool,
}

impl<'a> Told<'a> {
    fn of(status: Option<&'a core::PodStatus>) -> Told<'a> {
        let lists = status.map(|status| [&status.init_container_statuses, &status.container_statuses]);
        let statuses = lists.into_iter().flatten().flat_map(|list| list.iter().flatten());
        let mut conditions = status.iter().flat_map(|status| status.conditions.iter().flatten());
        Told {
            statuses: statuses
                .filter(|told| told.resources.is_some() || told.allocated_resources.is_some())
                .collect(),
            infeasible: conditions.any(|condition| {
                condition.type_ == "PodResizePending" && condition.reason.as_deref() == Some("Infeasible")
            }),
        }
    }

    /// What a container holds, or will: the most of what it asks for, was granted and has in force (KEP-1287).
    fn requests(
        &self,
        container: &'a core::Container,
        asked: BTreeMap<&'a String, &'a Quantity>,
    ) -> BTreeMap<&'a String, &'a Quantity> {
        let Some(told) = self.statuses.iter().find(|told| told.name == container.name) else {
            return asked;
        };
        let in_force = told
            .resources
            .as_ref()
            .and_then(|resources| resources.requests.as_ref());
        let mut most = if self.infeasible { BTreeMap::new() } else { asked };
        for (name, amount) in in_force.into_iter().chain(&told.allocated_resources).flatten() {
            let read = |amount: &Quantity| quantity::milli(&amount.0).unwrap_or(0);
            let entry = most.entry(name).or_insert(amount);
            if read(amount) > read(entry) {
                *entry = amount;
            }
        }
        most
    }
}

fn container_asked<'a>(symbols: &mut Symbols, container: &'a core::Container, told: &Told<'a>) -> Asked {
    let mut named: BTreeMap<&String, &Quantity> = BTreeMap::new();
    if let Some(resources) = &container.resources {
        // The API server defaults absent requests to the limits.
        named.extend(resources.limits.iter().flatten());
        named.extend(resources.requests.iter().flatten());
    }
    let named = told.requests(container, named);
    let mut requests = read_resources(symbols, named.iter().map(|(name, amount)| (*name, *amount)));
    requests.extended.retain(|(_, amount)| *amount != 0);
    let has = |name: &str| named.keys().any(|key| key.as_str() == name);
    Asked {
        scored_cpu_milli: if has("cpu") {
            requests.cpu_milli
        } else {
            DEFAULT_SCORED_CPU_MILLI
        },
        scored_memory_bytes: if has("memory") {
            requests.memory_bytes
        } else {
            DEFAULT_SCORED_MEMORY_BYTES
        },
        requests,
    }
}

/// A pod's requests as Kubernetes computes them: the containers and sidecars together, or the most that any step of
/// the init phase needs (an init container with the sidecars started before it), and the overhead on top.
fn pod_requests(
    symbols: &mut Symbols,
    spec: &core::PodSpec,
    status: Option<&core::PodStatus>,
) -> (Resources, i64, i64) {
    let told = Told::of(status);
    let mut running = Asked::default();
    for container in &spec.containers {
        running.add(&container_asked(symbols, container, &told));
    }
    let mut sidecars = Asked::default();
    let mut initialising = Asked::default();
    for container in spec.init_containers.iter().flatten() {
        let mut step = container_asked(symbols, container, &told);
        if is_sidecar(container) {
            sidecars.add(&step);
            step = sidecars.clone();
        } else {
            step.add(&sidecars);
        }
        initialising.raise_to(&step);
    }
    running.add(&sidecars);
    running.raise_to(&initialising);
    if let Some(pod_level) = spec.resources.as_ref() {
        apply_pod_level(symbols, pod_level, &mut running);
    }
    let overhead = read_resources(symbols, spec.overhead.iter().flatten());
    running.scored_cpu_milli = running.scored_cpu_milli.saturating_add(overhead.cpu_milli);
    running.scored_memory_bytes = running.scored_memory_bytes.saturating_add(overhead.memory_bytes);
    running.requests.add(&overhead);
    running.requests.extended.retain(|(_, amount)| *amount != 0);
    (running.requests, running.scored_cpu_milli, running.scored_memory_bytes)
}

/// `spec.resources`: what is requested for the whole pod replaces the sum over its containers.
fn apply_pod_level(symbols: &mut Symbols, pod_level: &core::ResourceRequirements, asked: &mut Asked) {
    let read = read_resources(symbols, pod_level.requests.iter().flatten());
    for name in pod_level.requests.iter().flatten().map(|(name, _)| name.as_str()) {
        match name {
            "cpu" => {
                asked.requests.cpu_milli = read.cpu_milli;
                asked.scored_cpu_milli = read.cpu_milli;
            }
            "memory" => {
                asked.requests.memory_bytes = read.memory_bytes;
                asked.scored_memory_bytes = read.memory_bytes;
            }
            name if name.starts_with("hugepages-") => {
                let sym = symbols.intern(name);
                asked.requests.set_extended(sym, read.extended_amount(sym));
            }
            _ => {}
        }
    }
}
