//! The simulation: two control planes over one store, simulated machines and a user, in one thread, from a seed. First
//! safety under crashes, duplicates and lost machines, with the invariants checked after every write; then everything is
//! healed and must converge. A failure prints its seed and the last writes; run a seed alone with
//! `SIMULATION_SEED=n`, and more of them with `SIMULATION_RUNS=n`.

use std::collections::VecDeque;
use std::sync::Arc;

use actors::addresses::Ipv4Range;
use actors::effects::{Effects, Intent};
use actors::kind::{Event, ObserveError};
use actors::kinds::{self, KindSettings};
use actors::node::NodeSettings;
use actors::simulation::invariants::Observed;
use actors::simulation::machines::Machines;
use actors::simulation::{MakeKind, Reactor};
use actors::{Liveness, ObjectKind, Slot, compose};
use futures::{FutureExt, StreamExt};
use protocol::store::{
    ListRequest, ObjectStore, Precondition, Proposal, StoreEvent, WatchItem, WatchRequest, WatchStream, Write,
};
use protocol::{Cause, Key, Object, Revision, UnixMillis};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use store::MemoryStore;

const STEPS: u32 = 1_500;

fn settings() -> KindSettings {
    KindSettings {
        cluster_cidr: Ipv4Range::parse("10.244.0.0/16").unwrap(),
        node_prefix: 24,
        node: NodeSettings {
            default_toleration_seconds: 1,
            not_ready_toleration_seconds: 2,
            unheard_after_ms: None,
        },
    }
}

/// Which faults a run has.
#[derive(Clone, Copy, PartialEq)]
enum Faults {
    /// Crashes of actors and control planes, and a second control plane.
    Crashes,
    /// The same, and machines that die and come back.
    LostMachines,
}

struct Simulation {
    store: Arc<MemoryStore>,
    watch: WatchStream,
    seen: Revision,
    observed: Observed,
    machines: Machines,
    reactors: Vec<Reactor>,
    rng: SmallRng,
    now: UnixMillis,
    faults: Faults,
    violations: Vec<String>,
    /// The last writes, for a failure's report.
    trace: VecDeque<String>,
}

fn honest() -> MakeKind {
    Box::new(kinds::make)
}

impl Simulation {
    fn new(seed: u64, faults: Faults, make: fn() -> MakeKind) -> Simulation {
        let store = MemoryStore::new();
        let mut rng = SmallRng::seed_from_u64(seed);
        let now = UnixMillis(1_800_000_000_000);
        let request = WatchRequest {
            resources: vec![],
            namespace: None,
            after: Some(Revision::ZERO),
        };
        let watch = store.watch(request).now_or_never().unwrap().unwrap();
        let names: Vec<String> = (1..=4).map(|i| format!("n{i}")).collect();
        let machines = Machines::register(store.clone(), &names, 60, now, &mut rng);
        let mut reactors: Vec<Reactor> = (0..2)
            .map(|i| Reactor::start(store.clone(), settings(), make(), seed * 7 + i))
            .collect();
        for reactor in &mut reactors {
            for name in machines.names() {
                reactor.member(&name, Liveness::Alive);
            }
        }
        let (seen, observed) = (Revision::ZERO, Observed::default());
        let (violations, trace) = (Vec::new(), VecDeque::new());
        let mut simulation = Simulation {
            store,
            watch,
            seen,
            observed,
            machines,
            reactors,
            rng,
            now,
            faults,
            violations,
            trace,
        };
        for name in ["web", "api"] {
            simulation.create(name);
        }
        simulation
    }

    fn create(&mut self, name: &str) {
        let (surge, unavailable) = [("25%", "25%"), ("1", "0"), ("0", "1"), ("100%", "0")][self.rng.random_range(0..4)];
        let number = |text: &str| text.parse::<i64>().map_or(json!(text), |number| json!(number));
        let value = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {
                "replicas": self.rng.random_range(1..8), "selector": {"matchLabels": {"app": name}},
                "strategy": {"rollingUpdate": {"maxSurge": number(surge), "maxUnavailable": number(unavailable)}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}},
            },
        });
        let (key, draft) =
            compose::create(&"deployments.apps".into(), "default", value, self.now, &mut self.rng).unwrap();
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"clusterIP": "None", "selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
        });
        let (service_key, service) =
            compose::create(&"services".into(), "default", service, self.now, &mut self.rng).unwrap();
        for (key, draft) in [(key, draft), (service_key, service)] {
            let write = Write::Put {
                key,
                precondition: Precondition::Absent,
                draft,
            };
            self.store
                .propose(Proposal::one(Cause(1), write))
                .now_or_never()
                .unwrap()
                .unwrap();
        }
    }

    /// A user changes something: scales, updates the image, goes back, deletes a pod.
    fn user(&mut self) {
        let name = ["web", "api"][self.rng.random_range(0..2)];
        let key = Key::new("deployments.apps", "default", name);
        let Some(object) = self.store.read(&key).now_or_never().unwrap().unwrap() else {
            return;
        };
        let mut value = object.value().unwrap();
        match self.rng.random_range(0..3) {
            0 => value["spec"]["replicas"] = json!(self.rng.random_range(0..10)),
            1 => {
                let image = format!("i:{}", self.rng.random_range(1..4));
                value["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
            }
            // People who delete pods give up what a rollout counts on, as lost machines do.
            _ if self.faults == Faults::LostMachines => return self.delete_a_pod(),
            _ => return,
        }
        value["metadata"]["generation"] = json!(value["metadata"]["generation"].as_i64().unwrap() + 1);
        self.put(&key, &object, &value);
    }

    fn delete_a_pod(&mut self) {
        let pods = self
            .store
            .list(ListRequest::all("pods"))
            .now_or_never()
            .unwrap()
            .unwrap()
            .items;
        let live: Vec<_> = pods.into_iter().filter(|(_, pod)| !pod.header.deleting).collect();
        if live.is_empty() {
            return;
        }
        let (key, object) = &live[self.rng.random_range(0..live.len())];
        let mut value = object.value().unwrap();
        value["metadata"]["annotations"]["simulation/deleted-by"] = json!("person");
        value["metadata"]["deletionTimestamp"] = json!(self.now.rfc3339());
        value["metadata"]["deletionGracePeriodSeconds"] = json!(1);
        self.put(key, object, &value);
    }

    fn put(&self, key: &Key, base: &Object, value: &Value) {
        let draft = compose::update(&key.resource, value).unwrap();
        let precondition = Precondition::Revision(base.header.revision);
        let write = Write::Put {
            key: key.clone(),
            precondition,
            draft,
        };
        let _ = self
            .store
            .propose(Proposal::one(Cause(2), write))
            .now_or_never()
            .unwrap();
    }

    /// Everything that was written since is checked.
    fn check(&mut self) {
        while self.seen < self.store.revision().now_or_never().unwrap().unwrap() {
            let Some(Some(item)) = self.watch.next().now_or_never() else {
                return;
            };
            if let WatchItem::Event(event) = item {
                self.seen = event.revision;
                self.note(&event);
                let mut violations = self.observed.apply(&event);
                if self.faults == Faults::LostMachines {
                    // What lost machines and people take is not the rollout's doing.
                    violations.retain(|violation| !violation.contains("available pods"));
                }
                if !violations.is_empty() && self.violations.is_empty() {
                    self.violations.extend(self.trace.drain(..));
                }
                self.violations.extend(violations);
            }
        }
    }

    fn note(&mut self, event: &StoreEvent) {
        if !matches!(
            event.key.resource.as_str(),
            "deployments.apps" | "replicasets.apps" | "pods"
        ) {
            return;
        }
        let value = event.object.value().unwrap();
        let (spec, status) = (&value["spec"], &value["status"]);
        let image = spec["template"]["spec"]["containers"][0]["image"]
            .as_str()
            .unwrap_or_default();
        self.trace.push_back(format!(
            "{} {:?} {} {image} wants {} has {} available {} {} on {} desired {} deleting {}",
            event.revision,
            event.change,
            event.key,
            spec["replicas"],
            status["replicas"],
            status["availableReplicas"],
            status["phase"],
            spec["nodeName"],
            value["metadata"]["annotations"]["deployment.kubernetes.io/desired-replicas"],
            event.object.header.deleting,
        ));
        if self.trace.len() > 60 {
            self.trace.pop_front();
        }
    }

    fn step(&mut self) {
        match self.rng.random_range(0..1000) {
            0..12 => self.user(),
            12..18 => {
                let at = self.rng.random_range(0..self.reactors.len());
                self.reactors[at].crash_one();
            }
            18..20 => {
                let at = self.rng.random_range(0..self.reactors.len());
                self.reactors[at].crash();
            }
            20..22 => {
                let at = self.rng.random_range(0..self.reactors.len());
                self.reactors[at].crash_scheduler();
            }
            22..26 if self.faults == Faults::LostMachines => self.flip_a_machine(),
            26..250 => {
                self.machines.step(self.now, &mut self.rng);
            }
            250..300 => self.now = self.now.plus_ms(self.rng.random_range(1..2_000)),
            _ => {
                let at = self.rng.random_range(0..self.reactors.len());
                self.reactors[at].step(self.now);
            }
        }
        self.check();
    }

    fn flip_a_machine(&mut self) {
        let names = self.machines.names();
        let name = &names[self.rng.random_range(0..names.len())];
        let alive = !self.machines.is_alive(name.as_str());
        self.machines.set_alive(name, alive, self.now);
        for reactor in &mut self.reactors {
            reactor.member(name, if alive { Liveness::Alive } else { Liveness::Down });
        }
    }

    /// All machines are well, nobody interferes, one control plane is left: it must come to rest as everyone wished.
    fn heal(&mut self) -> Vec<String> {
        self.reactors.truncate(1);
        for name in self.machines.names() {
            self.machines.set_alive(&name, true, self.now);
            self.reactors[0].member(&name, Liveness::Alive);
        }
        for _ in 0..40_000 {
            let busy = self.reactors[0].step(self.now) | self.machines.step(self.now, &mut self.rng);
            self.check();
            if busy {
                continue;
            }
            let machines = &self.machines;
            let complaints = self.observed.unsettled(&|name| machines.is_alive(name));
            if complaints.is_empty() {
                return complaints;
            }
            // Timers and back-offs of half a minute at most are waited for; a rollout's deadline is not one of them.
            match self.reactors[0].next_due() {
                Some(due) if due.since_ms(self.now) <= 61_000 => self.now = UnixMillis(due.0.max(self.now.0 + 1)),
                _ => return complaints,
            }
        }
        let machines = &self.machines;
        let mut complaints = self.observed.unsettled(&|name| machines.is_alive(name));
        complaints.push("it did not come to rest".to_owned());
        complaints
    }
}

/// Runs one seed. Returns what was violated, and what had not settled at the end.
fn run(seed: u64, faults: Faults, make: fn() -> MakeKind) -> (Vec<String>, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    let mut simulation = Simulation::new(seed, faults, make);
    for _ in 0..STEPS {
        simulation.step();
        if !simulation.violations.is_empty() {
            return (simulation.violations, Vec::new());
        }
    }
    let mut unsettled = simulation.heal();
    if !unsettled.is_empty() {
        unsettled.extend(simulation.trace.drain(..));
        unsettled.push(format!("at rest: {:?}", simulation.reactors[0]));
    }
    (simulation.violations, unsettled)
}

fn seeds(default: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match (number("SIMULATION_SEED"), number("SIMULATION_RUNS")) {
        (Some(seed), runs) => seed..seed + runs.unwrap_or(1),
        (None, Some(runs)) => default.start..default.start + runs,
        (None, None) => default,
    }
}

#[test]
fn crashes_and_a_second_control_plane_violate_nothing_and_everything_converges() {
    for seed in seeds(0..60) {
        let (violations, unsettled) = run(seed, Faults::Crashes, honest);
        assert!(violations.is_empty(), "seed {seed}: {violations:#?}");
        assert!(unsettled.is_empty(), "seed {seed} did not settle: {unsettled:#?}");
    }
}

#[test]
fn lost_machines_violate_nothing_and_everything_converges() {
    for seed in seeds(1000..1060) {
        let (violations, unsettled) = run(seed, Faults::LostMachines, honest);
        assert!(violations.is_empty(), "seed {seed}: {violations:#?}");
        assert!(unsettled.is_empty(), "seed {seed} did not settle: {unsettled:#?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    let trace = || {
        let mut simulation = Simulation::new(5, Faults::LostMachines, honest);
        (0..STEPS).for_each(|_| simulation.step());
        let pods = simulation
            .store
            .list(ListRequest::all("pods"))
            .now_or_never()
            .unwrap()
            .unwrap();
        (
            simulation.seen,
            pods.items
                .into_iter()
                .map(|(key, object)| (key, object.body.0.clone()))
                .collect::<Vec<_>>(),
        )
    };
    assert!(trace() == trace());
}

/// A kind whose effects are tampered with.
struct Tampered {
    honest: Box<dyn ObjectKind>,
    tamper: fn(&mut Effects),
}

impl ObjectKind for Tampered {
    fn observe(&mut self, key: &Key, object: Option<&Arc<Object>>) -> Result<(), ObserveError> {
        self.honest.observe(key, object)
    }

    fn decide(&mut self, now: UnixMillis, event: Event, effects: &mut Effects) {
        self.honest.decide(now, event, effects);
        (self.tamper)(effects);
    }

    fn summary(&self) -> String {
        self.honest.summary()
    }

    fn inspect(&self) -> Value {
        self.honest.inspect()
    }
}

fn tampered(resource: &'static str, tamper: fn(&mut Effects)) -> MakeKind {
    Box::new(move |slot: &Slot, settings: &KindSettings| {
        let honest = kinds::make(slot, settings)?;
        if slot.key.resource.as_str() != resource {
            return Some(honest);
        }
        Some(Box::new(Tampered { honest, tamper }))
    })
}

fn is_caught(make: fn() -> MakeKind, words: &str) {
    let mut seen = Vec::new();
    for seed in 0..60 {
        let (violations, unsettled) = run(seed, Faults::Crashes, make);
        if violations
            .iter()
            .chain(&unsettled)
            .any(|complaint| complaint.contains(words))
        {
            return;
        }
        seen.extend(violations);
        seen.extend(unsettled);
    }
    panic!("the planted bug was not caught; what was seen: {seen:#?}");
}

#[test]
fn a_replica_set_that_creates_a_pod_too_many_is_caught() {
    is_caught(
        || {
            tampered("replicasets.apps", |effects| {
                for group in &mut effects.groups {
                    let extra = group
                        .iter()
                        .find(|intent| matches!(intent, Intent::Create { .. }))
                        .cloned();
                    group.extend(extra);
                }
            })
        },
        "pods and has",
    );
}

#[test]
fn a_replica_set_that_writes_its_status_apart_from_its_pods_is_caught() {
    // Without the atomic group two activations both act on what they saw.
    is_caught(
        || {
            tampered("replicasets.apps", |effects| {
                effects.groups = effects.groups.drain(..).flatten().map(|intent| vec![intent]).collect();
            })
        },
        "pods and has",
    );
}

#[test]
fn a_rollout_that_ignores_its_surge_is_caught() {
    is_caught(
        || {
            tampered("deployments.apps", |effects| {
                for intent in effects.groups.iter_mut().flatten() {
                    if let Intent::Create { value, .. } = intent {
                        value["spec"]["replicas"] = json!(value["spec"]["replicas"].as_i64().unwrap_or(0) + 5);
                    }
                }
            })
        },
        "its ReplicaSets want",
    );
}

#[test]
fn a_replica_set_that_forgets_a_pod_is_caught_when_nothing_converges() {
    is_caught(
        || {
            tampered("replicasets.apps", |effects| {
                for group in &mut effects.groups {
                    if group.iter().any(|intent| matches!(intent, Intent::Create { .. })) {
                        let at = group.iter().rposition(|intent| matches!(intent, Intent::Create { .. }));
                        at.map(|at| group.remove(at));
                    }
                }
            })
        },
        "wants",
    );
}
