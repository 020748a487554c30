//! Owns the measures of packing. Called by the replay, which tells what happens. It must count for itself, from the trace's
//! amounts, and stop the program when a policy overfills a machine.

use super::Trace;
use crate::statistics::Percentiles;
use serde::{Deserialize, Serialize};

/// How well a policy packed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// The policy.
    pub policy: String,
    /// Tasks of the trace.
    pub tasks: u64,
    /// Tasks that got a place at least once.
    pub placed: u64,
    /// Tasks that wait for a place when the trace ends.
    pub left_pending: u64,
    /// Requested cpu of placed tasks by the cpu of all machines: mean over the samples.
    pub cpu_mean: f64,
    /// Its largest.
    pub cpu_peak: f64,
    /// The same of memory.
    pub memory_mean: f64,
    /// Its largest.
    pub memory_peak: f64,
    /// Free cpu on machines on which the median request (cpu and memory) does not fit, by all free cpu: mean over the samples.
    pub fragmentation_median: f64,
    /// The same for the request of the 95th percentile.
    pub fragmentation_large: f64,
    /// Seconds from arrival to placement, over all placements; those of preempted tasks count from the preemption.
    pub pending_s: Option<Percentiles>,
    /// Tasks that had to go for others.
    pub preemptions: u64,
    /// Machines with a task: mean over the samples.
    pub nodes_used_mean: f64,
    /// Most at a time.
    pub nodes_used_peak: u64,
    /// Samples of utilisation and fragmentation.
    pub samples: u64,
    /// Share of cpu requested, by sample.
    #[serde(skip)]
    pub cpu_over_time: Vec<f64>,
    /// `fragmentation_large`, by sample.
    #[serde(skip)]
    pub fragmentation_over_time: Vec<f64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Load {
    cpu_milli: i64,
    memory_bytes: i64,
    tasks: u64,
}

/// The measures as they grow.
pub struct Gauge<'a> {
    trace: &'a Trace,
    loads: Vec<Load>,
    places: Vec<Option<usize>>,
    arrived_s: Vec<Option<u64>>,
    placements: Vec<u32>,
    pending_s: Vec<f64>,
    median: (i64, i64),
    large: (i64, i64),
    quality: Quality,
    memory: Vec<f64>,
    fragmentation_median: Vec<f64>,
    nodes_used: Vec<f64>,
}

/// The request at a share of the sorted requests, each resource for itself.
fn request_at(trace: &Trace, share: f64) -> (i64, i64) {
    let at = |mut amounts: Vec<i64>| {
        amounts.sort_unstable();
        amounts[((amounts.len() as f64 * share) as usize).min(amounts.len() - 1)]
    };
    (
        at(trace.tasks.iter().map(|task| task.cpu_milli).collect()),
        at(trace.tasks.iter().map(|task| task.memory_bytes).collect()),
    )
}

impl<'a> Gauge<'a> {
    /// Nothing is placed.
    pub fn new(trace: &'a Trace) -> Self {
        Self {
            trace,
            loads: vec![Load::default(); trace.machines.len()],
            places: vec![None; trace.tasks.len()],
            arrived_s: vec![None; trace.tasks.len()],
            placements: vec![0; trace.tasks.len()],
            pending_s: Vec::new(),
            median: request_at(trace, 0.5),
            large: request_at(trace, 0.95),
            quality: Quality::default(),
            memory: Vec::new(),
            fragmentation_median: Vec::new(),
            nodes_used: Vec::new(),
        }
    }

    /// A task wants a place.
    pub fn arrive(&mut self, task: usize, now_s: u64) {
        self.arrived_s[task] = Some(now_s);
    }

    /// A task got a place. Panics if the machine is overfull: no policy may do that.
    pub fn place(&mut self, task: usize, machine: usize, now_s: u64) {
        let (wanted, offered) = (&self.trace.tasks[task], &self.trace.machines[machine]);
        let load = &mut self.loads[machine];
        load.cpu_milli += wanted.cpu_milli;
        load.memory_bytes += wanted.memory_bytes;
        load.tasks += 1;
        assert!(
            load.cpu_milli <= offered.cpu_milli && load.memory_bytes <= offered.memory_bytes,
            "{} overfills {}: {load:?} of {offered:?}",
            wanted.name,
            offered.name
        );
        assert!(self.places[task].is_none(), "{} is placed twice", wanted.name);
        self.places[task] = Some(machine);
        self.placements[task] += 1;
        if let Some(arrived) = self.arrived_s[task].take() {
            self.pending_s.push((now_s - arrived) as f64);
        }
    }

    /// How often a task got a place.
    pub fn placements(&self, task: usize) -> u32 {
        self.placements[task]
    }

    /// A task is done.
    pub fn leave(&mut self, task: usize) {
        if let Some(machine) = self.places[task].take() {
            let (wanted, load) = (&self.trace.tasks[task], &mut self.loads[machine]);
            load.cpu_milli -= wanted.cpu_milli;
            load.memory_bytes -= wanted.memory_bytes;
            load.tasks -= 1;
        }
    }

    /// A task had to go.
    pub fn preempt(&mut self, task: usize) {
        self.leave(task);
        self.quality.preemptions += 1;
    }

    /// Takes a sample.
    pub fn sample(&mut self) {
        let sum = |pick: fn(&Load) -> i64| self.loads.iter().map(pick).sum::<i64>() as f64;
        let cpu_all: i64 = self.trace.machines.iter().map(|machine| machine.cpu_milli).sum();
        let memory_all: i64 = self.trace.machines.iter().map(|machine| machine.memory_bytes).sum();
        self.quality
            .cpu_over_time
            .push(sum(|load| load.cpu_milli) / cpu_all as f64);
        self.memory.push(sum(|load| load.memory_bytes) / memory_all as f64);
        self.fragmentation_median.push(self.fragmentation(self.median));
        let large = self.fragmentation(self.large);
        self.quality.fragmentation_over_time.push(large);
        self.nodes_used
            .push(self.loads.iter().filter(|load| load.tasks > 0).count() as f64);
    }

    /// Free cpu where a request does not fit, by all free cpu.
    fn fragmentation(&self, (cpu, memory): (i64, i64)) -> f64 {
        let (mut free_all, mut free_stranded) = (0, 0);
        for (machine, load) in self.trace.machines.iter().zip(&self.loads) {
            let free = machine.cpu_milli - load.cpu_milli;
            free_all += free;
            if free < cpu || machine.memory_bytes - load.memory_bytes < memory {
                free_stranded += free;
            }
        }
        if free_all == 0 {
            0.0
        } else {
            free_stranded as f64 / free_all as f64
        }
    }

    /// The measures.
    pub fn finish(mut self, policy: &str) -> Quality {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let peak = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
        let mut quality = std::mem::take(&mut self.quality);
        quality.policy = policy.to_owned();
        quality.tasks = self.trace.tasks.len() as u64;
        quality.placed = self.placements.iter().filter(|count| **count > 0).count() as u64;
        quality.left_pending = self.arrived_s.iter().flatten().count() as u64;
        quality.cpu_mean = mean(&quality.cpu_over_time);
        quality.cpu_peak = peak(&quality.cpu_over_time);
        quality.memory_mean = mean(&self.memory);
        quality.memory_peak = peak(&self.memory);
        quality.fragmentation_median = mean(&self.fragmentation_median);
        quality.fragmentation_large = mean(&quality.fragmentation_over_time);
        quality.pending_s = Percentiles::of(&mut self.pending_s);
        quality.nodes_used_mean = mean(&self.nodes_used);
        quality.nodes_used_peak = peak(&self.nodes_used) as u64;
        quality.samples = quality.cpu_over_time.len() as u64;
        quality
    }
}
