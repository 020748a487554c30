//! A whole cluster from a seed: control planes over one store, machines and people. First everything goes wrong that the
//! scenario has, with the invariants checked after every write; then everything is healed and must converge. Called by the
//! simulation tests; decides nothing of its own.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use protocol::store::{ObjectStore, StoreEvent, WatchItem, WatchRequest, WatchStream};
use protocol::{NodeName, Revision, UnixMillis};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::at_once;
use super::invariants::Observed;
use super::machines::{Health, Machines, MakeMachine};
use super::reactor::{Glasses, MakeKind, Reactor};
use super::user::User;
use crate::addresses::Ipv4Range;
use crate::kind::Liveness;
use crate::kinds::KindSettings;
use crate::node::NodeSettings;

/// Steps of the part in which things go wrong.
pub const STEPS: u32 = 1_500;
/// Steps in which a healed cluster must come to rest.
const STEPS_TO_REST: u32 = 60_000;
/// Writes that a failure's report shows.
const TRACED: usize = 80;
/// A machine's cores where there is room for everyone, and where there is not.
const CORES: (u32, u32) = (64, 5);

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Actors and control planes crash, and there are two control planes.
    Crashes,
    /// The same, and machines die, fall silent and come back.
    LostMachines,
    /// The same, and people delete owners in each of the three ways, Services, single pods and a whole namespace.
    Deletions,
    /// One control plane, machines that come and go, and pods of two priorities in scarce room.
    Preemption,
}

/// How a run ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was violated, with the writes before it.
    pub violations: Vec<String>,
    /// What had not come to rest in the end, with the last writes.
    pub unsettled: Vec<String>,
    /// How many pods were preempted.
    pub victims: usize,
}

/// The cluster.
pub struct World {
    store: Arc<dyn ObjectStore>,
    watch: Option<WatchStream>,
    seen: Revision,
    observed: Observed,
    machines: Machines,
    reactors: Vec<Reactor>,
    user: User,
    rng: SmallRng,
    now: UnixMillis,
    scenario: Scenario,
    violations: Vec<String>,
    /// The last writes, for a failure's report.
    trace: VecDeque<String>,
}

fn settings() -> KindSettings {
    KindSettings {
        cluster_cidr: Ipv4Range::parse("10.244.0.0/16").expect("it is a range"),
        node_prefix: 24,
        node: NodeSettings {
            default_toleration_seconds: 1,
            not_ready_toleration_seconds: 2,
            unheard_after_ms: None,
            ..NodeSettings::default()
        },
        cluster_ca: None,
        reviewer: None,
    }
}

impl World {
    /// A cluster over an empty store that answers at once.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        seed: u64,
        scenario: Scenario,
        make_kind: fn() -> MakeKind,
        make_machine: MakeMachine,
    ) -> World {
        let mut rng = SmallRng::seed_from_u64(seed);
        let now = UnixMillis(1_800_000_000_000);
        let request = WatchRequest {
            resources: vec![],
            after: Some(Revision::ZERO),
            ..WatchRequest::default()
        };
        let watch = at_once(store.watch(request)).ok();
        let one_scheduler = scenario == Scenario::Preemption;
        let (planes, cores) = if one_scheduler { (1, CORES.1) } else { (2, CORES.0) };
        let names: Vec<String> = (1..=4).map(|i| format!("n{i}")).collect();
        let machines = Machines::register(Arc::clone(&store), &names, cores, make_machine, now, &mut rng);
        let user = User {
            store: Arc::clone(&store),
            scenario,
        };
        user.begin(now, &mut rng);
        let mut reactors: Vec<Reactor> = (0..planes)
            .map(|i| Reactor::start(Arc::clone(&store), settings(), make_kind(), seed * 7 + i))
            .collect();
        for reactor in &mut reactors {
            machines
                .names()
                .iter()
                .for_each(|name| reactor.member(name, Liveness::Alive));
        }
        World {
            store,
            watch,
            seen: Revision::ZERO,
            observed: Observed::new(one_scheduler),
            machines,
            reactors,
            user,
            rng,
            now,
            scenario,
            violations: Vec::new(),
            trace: VecDeque::new(),
        }
    }

    /// Lets the schedulers see objects through these.
    pub fn put_on(&mut self, glasses: Glasses) {
        self.reactors.iter_mut().for_each(|reactor| reactor.put_on(glasses));
    }

    /// The store's revision that was last checked.
    pub fn seen(&self) -> Revision {
        self.seen
    }

    /// Runs to the first violation, or to rest.
    pub fn run(mut self) -> Outcome {
        for _ in 0..STEPS {
            self.step();
            if !self.violations.is_empty() {
                break;
            }
        }
        let mut outcome = Outcome::default();
        if self.violations.is_empty() {
            outcome.unsettled = self.heal();
        }
        if !outcome.unsettled.is_empty() {
            outcome.unsettled.extend(self.trace.drain(..));
            outcome.unsettled.push(format!("at rest: {:?}", self.reactors[0]));
        }
        outcome.victims = self.observed.victims();
        outcome.violations = self.violations;
        outcome
    }

    /// Something happens.
    pub fn step(&mut self) {
        let one = self.rng.random_range(0..self.reactors.len());
        match self.rng.random_range(0..1000) {
            0..12 => self.user.act(self.now, &mut self.rng),
            12..18 => self.reactors[one].crash_one(),
            18..20 => self.reactors[one].crash(),
            20..22 => self.reactors[one].crash_scheduler(),
            22..26 if self.scenario != Scenario::Crashes => self.change_a_machine(),
            26..28 => self.machines.restart_one(self.now, &mut self.rng),
            28..250 => {
                self.machines.step(self.now, &mut self.rng);
            }
            250..300 => self.now = self.now.plus_ms(self.rng.random_range(1..2_000)),
            _ => {
                self.reactors[one].step(self.now);
            }
        }
        self.check();
    }

    fn change_a_machine(&mut self) {
        let names = self.machines.names();
        let name = &names[self.rng.random_range(0..names.len())];
        let health = match self.machines.health(name.as_str()) {
            Health::Alive => [Health::Dead, Health::Silent][self.rng.random_range(0..2)],
            Health::Dead | Health::Silent => Health::Alive,
        };
        self.set_health(name, health);
    }

    fn set_health(&mut self, name: &NodeName, health: Health) {
        self.machines.set_health(name, health, self.now);
        let liveness = match health {
            Health::Alive => Liveness::Alive,
            Health::Dead | Health::Silent => Liveness::Down,
        };
        self.reactors
            .iter_mut()
            .for_each(|reactor| reactor.member(name, liveness));
    }

    /// Everything that was written since is checked.
    fn check(&mut self) {
        while let Some(Some(item)) = self.watch.as_mut().and_then(|watch| watch.next().now_or_never()) {
            let WatchItem::Event(event) = item else { continue };
            self.seen = event.revision;
            self.note(&event);
            let mut violations = self.observed.apply(&event);
            if self.scenario != Scenario::Crashes {
                // What lost machines and people take is not the rollout's doing.
                violations.retain(|violation| !violation.contains("available pods"));
            }
            self.complain(violations);
        }
        let twice = self.machines.run_twice();
        self.complain(
            twice
                .iter()
                .map(|(key, nodes)| format!("{key} runs on {nodes:?}"))
                .collect(),
        );
    }

    fn complain(&mut self, violations: Vec<String>) {
        if !violations.is_empty() && self.violations.is_empty() {
            self.violations.extend(self.trace.drain(..));
        }
        self.violations.extend(violations);
    }

    fn note(&mut self, event: &StoreEvent) {
        if event.key.resource.as_str() == "events" {
            return;
        }
        let value = event.object.value().unwrap_or_default();
        let (spec, status) = (&value["spec"], &value["status"]);
        let image = spec["template"]["spec"]["containers"][0]["image"].as_str();
        self.trace.push_back(format!(
            "{} {:?} {} {} wants {} has {} available {} {} on {} desired {} deleting {} {:?} taints {}",
            event.revision,
            event.change,
            event.key,
            image.unwrap_or_default(),
            spec["replicas"],
            status["replicas"],
            status["availableReplicas"],
            status["phase"],
            spec["nodeName"],
            value["metadata"]["annotations"]["deployment.kubernetes.io/desired-replicas"],
            event.object.header.deleting,
            event.object.header.finalizers,
            spec["taints"],
        ));
        if self.trace.len() > TRACED {
            self.trace.pop_front();
        }
    }

    /// All machines are well, nobody interferes, one control plane is left: it must come to rest as everyone wished.
    fn heal(&mut self) -> Vec<String> {
        self.reactors.truncate(1);
        for name in self.machines.names() {
            self.set_health(&name, Health::Alive);
        }
        for _ in 0..STEPS_TO_REST {
            let busy = self.reactors[0].step(self.now) | self.machines.step(self.now, &mut self.rng);
            self.check();
            if busy {
                continue;
            }
            let complaints = self.unsettled();
            if complaints.is_empty() {
                return complaints;
            }
            // Timers and back-offs of half a minute at most are waited for; a rollout's deadline is not one of them.
            let due = self.reactors[0].next_due().into_iter().chain(self.machines.next_due());
            match due.min() {
                Some(due) if due.since_ms(self.now) <= 61_000 => self.now = UnixMillis(due.0.max(self.now.0 + 1)),
                _ => return complaints,
            }
        }
        let mut complaints = self.unsettled();
        complaints.push("it did not come to rest".to_owned());
        complaints
    }

    fn unsettled(&self) -> Vec<String> {
        self.observed.unsettled(&|name| self.machines.is_alive(name))
    }

    /// The store's content, to compare two runs.
    pub fn pods(&self) -> Vec<(protocol::Key, Vec<u8>)> {
        let page = at_once(self.store.list(protocol::store::ListRequest::all("pods")));
        let items = page.map(|page| page.items).unwrap_or_default();
        items
            .into_iter()
            .map(|(key, object)| (key, object.body.0.to_vec()))
            .collect()
    }
}
