//! Owns the policies that a trace is replayed with: our scheduler under two profiles, and first-fit, best-fit and random. Called
//! by the replay. A policy must not know the future, and must not overfill a machine.

use super::Trace;
use k8s_openapi::api::core::v1 as core;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use scheduler::plugins::node_resources_fit::{NodeResourcesFit, ScoringStrategy, cpu_and_memory};
use scheduler::{Decision, PodKey, Profile, Scheduler, SchedulerConfiguration, decision::Preemption};
use serde_json::json;
use std::collections::{BTreeSet, HashMap};

/// Decisions of one moment.
#[derive(Debug, Default)]
pub struct Placed {
    /// Tasks with their machines.
    pub placed: Vec<(usize, usize)>,
    /// Tasks that had to go. They have left when the tasks of this moment are placed.
    pub preempted: Vec<usize>,
}

/// Places tasks.
pub trait Policy {
    /// Its name.
    fn name(&self) -> &'static str;
    /// A task wants a place.
    fn arrive(&mut self, task: usize);
    /// A task has left its place.
    fn leave(&mut self, task: usize);
    /// Decides for those that wait.
    fn place(&mut self, now_s: u64) -> Placed;
    /// When it wants to be asked again, if nothing happens before.
    fn wakes_at(&self) -> Option<u64>;
}

/// How a simple policy chooses among the machines on which a task fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The first.
    First,
    /// The one that has least left afterwards (cpu and memory as shares of the machine).
    Best,
    /// Any.
    Random,
}

/// A simple policy: those that wait are looked at by priority, then by arrival; none is preempted.
pub struct Simple<'a> {
    trace: &'a Trace,
    choice: Choice,
    rng: SmallRng,
    /// Free cpu and memory by machine.
    free: Vec<(i64, i64)>,
    places: HashMap<usize, usize>,
    waiting: BTreeSet<(i32, u64, usize)>,
    arrivals: u64,
    /// Something came or went since the last look.
    stirred: bool,
}

impl<'a> Simple<'a> {
    /// The policy over empty machines.
    pub fn new(trace: &'a Trace, choice: Choice, seed: u64) -> Self {
        Self {
            trace,
            choice,
            rng: SmallRng::seed_from_u64(seed),
            free: trace.machines.iter().map(|m| (m.cpu_milli, m.memory_bytes)).collect(),
            places: HashMap::new(),
            waiting: BTreeSet::new(),
            arrivals: 0,
            stirred: false,
        }
    }

    fn choose(&mut self, task: usize) -> Option<usize> {
        let wanted = &self.trace.tasks[task];
        let fits = |free: &(i64, i64)| free.0 >= wanted.cpu_milli && free.1 >= wanted.memory_bytes;
        let mut fitting = self
            .free
            .iter()
            .enumerate()
            .filter(|(_, free)| fits(free))
            .map(|(at, _)| at);
        match self.choice {
            Choice::First => fitting.next(),
            Choice::Best => {
                let left = |at: &usize| {
                    let (free, machine) = (self.free[*at], &self.trace.machines[*at]);
                    let cpu = (free.0 - wanted.cpu_milli) as f64 / machine.cpu_milli.max(1) as f64;
                    cpu + (free.1 - wanted.memory_bytes) as f64 / machine.memory_bytes.max(1) as f64
                };
                fitting.min_by(|a, b| left(a).total_cmp(&left(b)))
            }
            Choice::Random => {
                let fitting: Vec<usize> = fitting.collect();
                (!fitting.is_empty()).then(|| fitting[self.rng.random_range(0..fitting.len())])
            }
        }
    }
}

impl Policy for Simple<'_> {
    fn name(&self) -> &'static str {
        match self.choice {
            Choice::First => "first-fit",
            Choice::Best => "best-fit",
            Choice::Random => "random",
        }
    }

    fn arrive(&mut self, task: usize) {
        self.arrivals += 1;
        self.waiting
            .insert((-self.trace.tasks[task].priority, self.arrivals, task));
        self.stirred = true;
    }

    fn leave(&mut self, task: usize) {
        if let Some(machine) = self.places.remove(&task) {
            self.free[machine].0 += self.trace.tasks[task].cpu_milli;
            self.free[machine].1 += self.trace.tasks[task].memory_bytes;
            self.stirred = true;
        }
    }

    fn place(&mut self, _: u64) -> Placed {
        let mut decided = Placed::default();
        if !std::mem::take(&mut self.stirred) {
            return decided;
        }
        for waiting in self.waiting.clone() {
            let task = waiting.2;
            let Some(machine) = self.choose(task) else { continue };
            self.waiting.remove(&waiting);
            self.free[machine].0 -= self.trace.tasks[task].cpu_milli;
            self.free[machine].1 -= self.trace.tasks[task].memory_bytes;
            self.places.insert(task, machine);
            decided.placed.push((task, machine));
        }
        decided
    }

    fn wakes_at(&self) -> Option<u64> {
        None
    }
}

/// Our scheduler.
pub struct Ours<'a> {
    trace: &'a Trace,
    name: &'static str,
    scheduler: Scheduler,
    machines: HashMap<String, usize>,
    tasks: HashMap<PodKey, usize>,
    /// The pod that a task is at present: a task that comes back is a new pod.
    pods: HashMap<usize, PodKey>,
    lives: u64,
    now_s: u64,
}

impl<'a> Ours<'a> {
    /// The default profile: pods are spread (LeastAllocated).
    pub fn least_allocated(trace: &'a Trace, seed: u64) -> Self {
        Self::new(
            trace,
            "actorium LeastAllocated",
            ScoringStrategy::LeastAllocated(cpu_and_memory()),
            seed,
        )
    }

    /// The profile that packs (MostAllocated).
    pub fn most_allocated(trace: &'a Trace, seed: u64) -> Self {
        Self::new(
            trace,
            "actorium MostAllocated",
            ScoringStrategy::MostAllocated(cpu_and_memory()),
            seed,
        )
    }

    fn new(trace: &'a Trace, name: &'static str, strategy: ScoringStrategy, seed: u64) -> Self {
        let profile = Profile::with_default_plugins("default-scheduler").replacing(
            NodeResourcesFit {
                strategy,
                ..NodeResourcesFit::default()
            },
            1,
        );
        let mut scheduler = Scheduler::new(SchedulerConfiguration {
            profiles: vec![profile],
            seed,
            ..SchedulerConfiguration::default()
        });
        for machine in &trace.machines {
            let node: core::Node = serde_json::from_value(json!({
                "metadata": {"name": machine.name, "labels": {"kubernetes.io/hostname": machine.name}},
                "status": {"allocatable": {"cpu": format!("{}m", machine.cpu_milli),
                    "memory": machine.memory_bytes.to_string(), "pods": "1000000"}},
            }))
            .expect("the node is well-formed: it is written out above");
            scheduler.upsert_node(&node);
        }
        let machines = trace
            .machines
            .iter()
            .enumerate()
            .map(|(at, machine)| (machine.name.clone(), at));
        Self {
            trace,
            name,
            scheduler,
            machines: machines.collect(),
            tasks: HashMap::new(),
            pods: HashMap::new(),
            lives: 0,
            now_s: 0,
        }
    }

    /// One round; whether it decided anything.
    fn round(&mut self, decided: &mut Placed) -> bool {
        let decisions = self.scheduler.schedule_batch(self.now_s * 1000, usize::MAX);
        let any = !decisions.is_empty();
        for decision in decisions {
            match decision {
                Decision::Bind(binding) => {
                    decided
                        .placed
                        .push((self.tasks[&binding.pod], self.machines[&*binding.node]));
                }
                Decision::Unschedulable(refused) => {
                    let Preemption::Nominated { victims, .. } = refused.preemption else {
                        continue;
                    };
                    for victim in victims {
                        self.scheduler.remove_pod(&victim);
                        let Some(task) = self.tasks.remove(&victim) else {
                            continue;
                        };
                        self.pods.remove(&task);
                        // One that was placed a moment ago never ran.
                        match decided.placed.iter().position(|(placed, _)| *placed == task) {
                            Some(at) => {
                                decided.placed.remove(at);
                                self.arrive(task);
                            }
                            None => decided.preempted.push(task),
                        }
                    }
                }
            }
        }
        any
    }
}

impl Policy for Ours<'_> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn arrive(&mut self, task: usize) {
        let wanted = &self.trace.tasks[task];
        self.lives += 1;
        let name = format!("{}-{}", task, self.lives);
        let pod: core::Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "trace"},
            "spec": {"priority": wanted.priority, "containers": [{"name": "task", "resources": {"requests": {
                "cpu": format!("{}m", wanted.cpu_milli), "memory": wanted.memory_bytes.to_string()}}}]},
        }))
        .expect("the pod is well-formed: it is written out above");
        let key = PodKey::of(&pod);
        self.scheduler.upsert_pod(&pod);
        self.tasks.insert(key.clone(), task);
        self.pods.insert(task, key);
    }

    fn leave(&mut self, task: usize) {
        if let Some(pod) = self.pods.remove(&task) {
            self.tasks.remove(&pod);
            self.scheduler.remove_pod(&pod);
        }
    }

    fn place(&mut self, now_s: u64) -> Placed {
        self.now_s = now_s;
        let mut decided = Placed::default();
        while self.round(&mut decided) {}
        decided
    }

    fn wakes_at(&self) -> Option<u64> {
        self.scheduler.next_wakeup_ms().map(|ms| ms.div_ceil(1000))
    }
}
