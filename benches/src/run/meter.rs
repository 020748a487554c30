//! Owns the clock of the timed section: it runs only while the scheduler runs for the measured section, so that making
//! objects and keeping the books of the benchmark are not in the figures. Called by the world of depth `core`.

#![allow(clippy::disallowed_methods)] // a meter reads the clock

use crate::statistics::{Percentiles, Timeline};
use std::time::{Duration, Instant};

/// What the scheduler is made to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Events of the world: pods that arrive, nodes, deletions.
    Ingest,
    /// Rounds.
    Decide,
    /// Victims that go after a preemption.
    Evict,
    /// The events of its own bindings. Not in the timed section: reported beside it.
    Confirm,
}

/// The meter.
#[derive(Debug, Default)]
pub struct Meter {
    collecting: bool,
    fill: Duration,
    parts: [Duration; 4],
    cpu: Duration,
    rounds: u64,
    latencies_us: Vec<f64>,
    costs_us: Vec<f64>,
    bound: Timeline,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The timed section.
    pub timed: Duration,
    /// Processor time of the deciding thread in the timed section: it does not grow when others use the machine.
    pub cpu: Duration,
    /// By part: ingest, decide, evict, confirm.
    pub parts: [Duration; 4],
    /// The scheduler's time before the timed section.
    pub fill: Duration,
    /// Rounds in the timed section.
    pub rounds: u64,
    /// From a pod's arrival to the end of the round that bound it, on the clock of the timed section.
    pub latency_us: Option<Percentiles>,
    /// The round's time divided by its decisions, for each decision.
    pub cost_us: Option<Percentiles>,
    /// Pods bound a second, by whole seconds; `None` under three of them.
    pub by_second: Option<Percentiles>,
    /// The same by windows of 100 ms; `None` under three of them.
    pub by_100ms: Option<Percentiles>,
}

impl Meter {
    /// The timed section begins or ends.
    pub fn collect(&mut self, on: bool) {
        self.collecting = on;
    }

    /// Whether the timed section is on.
    pub fn collecting(&self) -> bool {
        self.collecting
    }

    /// The clock of the timed section.
    pub fn now(&self) -> Duration {
        self.parts[Part::Ingest as usize] + self.parts[Part::Decide as usize] + self.parts[Part::Evict as usize]
    }

    /// Runs and times what the scheduler does.
    pub fn time<T>(&mut self, part: Part, work: impl FnOnce() -> T) -> T {
        let (begun, cpu_begun) = (Instant::now(), thread_cpu());
        let result = work();
        let passed = begun.elapsed();
        if self.collecting && part != Part::Confirm {
            self.cpu += thread_cpu().saturating_sub(cpu_begun);
        }
        match self.collecting {
            true => self.parts[part as usize] += passed,
            false => self.fill += passed,
        }
        if self.collecting && part == Part::Decide {
            self.rounds += 1;
        }
        result
    }

    /// A round made decisions; it began at `before` of the timed clock. Of each the share of the round's time is kept.
    pub fn decided(&mut self, before: Duration, decisions: usize) {
        if !self.collecting || decisions == 0 {
            return;
        }
        let each_us = (self.now() - before).as_nanos() as f64 / 1e3 / decisions as f64;
        self.costs_us.extend(std::iter::repeat_n(each_us, decisions));
    }

    /// A measured pod that arrived at `arrived` was bound by the round that just ended.
    pub fn bound(&mut self, arrived: Duration) {
        let now = self.now();
        self.latencies_us.push((now - arrived).as_nanos() as f64 / 1e3);
        self.bound.push(now.as_nanos() as u64, 1);
    }

    /// What was measured.
    pub fn finish(mut self) -> Measured {
        Measured {
            timed: self.now(),
            cpu: self.cpu,
            parts: self.parts,
            fill: self.fill,
            rounds: self.rounds,
            latency_us: Percentiles::of(&mut self.latencies_us),
            cost_us: Percentiles::of(&mut self.costs_us),
            by_second: self.bound.rates(1_000_000_000, 3),
            by_100ms: self.bound.rates(100_000_000, 3),
        }
    }
}

/// Processor time of this thread so far; zero if the kernel does not say.
fn thread_cpu() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
