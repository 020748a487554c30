//! Owns the replay of a cluster trace: arrivals and departures in virtual time, placed by our scheduler and by simple rules, and
//! how well each packed. Called by the program `replay` and by tests. It must give every policy the same arrivals.
//!
//! A task keeps its place for as long as the trace says it ran, counted from its placement; a task of which the trace knows
//! no end keeps it to the end. A preempted task comes back as a new arrival with its whole duration.

pub mod alibaba;
pub mod generate;
pub mod google;
pub mod policy;
pub mod quality;

use policy::{Placed, Policy};
use quality::{Gauge, Quality};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// A machine of a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Thousandths of a cpu.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory_bytes: i64,
}

/// Something that wants a place.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// Arrival in seconds since the trace began.
    pub arrives_s: u64,
    /// How long it runs; `None` to the end of the trace.
    pub runs_s: Option<u64>,
    /// Thousandths of a cpu.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory_bytes: i64,
    /// A pod's priority.
    pub priority: i32,
}

/// A trace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// The machines; they are there from the beginning to the end.
    pub machines: Vec<Machine>,
    /// The tasks by arrival.
    pub tasks: Vec<Task>,
}

/// Why a trace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A file cannot be read.
    #[error("{file} cannot be read: {source}")]
    File {
        /// The file.
        file: String,
        /// Why.
        source: csv::Error,
    },
    /// A row makes no sense.
    #[error("{file}:{line}: column {column}: {problem}")]
    Row {
        /// The file.
        file: String,
        /// Its line.
        line: u64,
        /// The column, from 1, with its name.
        column: String,
        /// What is wrong.
        problem: String,
    },
    /// There is nothing to replay.
    #[error("{place} has {machines} machines and {tasks} tasks: a replay needs both")]
    Empty {
        /// Where.
        place: String,
        /// How many machines were found.
        machines: usize,
        /// How many tasks.
        tasks: usize,
    },
}

impl Trace {
    /// When the last task arrives or ends, in seconds.
    pub fn ends_s(&self) -> u64 {
        let ends = self.tasks.iter().map(|task| task.arrives_s + task.runs_s.unwrap_or(0));
        ends.max().unwrap_or(0)
    }

    /// Sorts tasks by arrival, and refuses a trace without machines or tasks.
    fn finished(mut self, place: String) -> Result<Self, TraceError> {
        if self.machines.is_empty() || self.tasks.is_empty() {
            return Err(TraceError::Empty {
                place,
                machines: self.machines.len(),
                tasks: self.tasks.len(),
            });
        }
        self.tasks
            .sort_by(|a, b| (a.arrives_s, &a.name).cmp(&(b.arrives_s, &b.name)));
        Ok(self)
    }
}

/// A reader of one of a trace's files without a heading.
fn rows(file: &std::path::Path) -> Result<csv::Reader<std::fs::File>, TraceError> {
    csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_path(file)
        .map_err(|source| TraceError::File {
            file: file.display().to_string(),
            source,
        })
}

/// A number in a column of a row; an empty field is `None`.
fn number(
    file: &std::path::Path,
    row: &csv::StringRecord,
    column: usize,
    name: &str,
) -> Result<Option<f64>, TraceError> {
    let text = row.get(column).unwrap_or_default().trim();
    if text.is_empty() {
        return Ok(None);
    }
    let problem = match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => return Ok(Some(value)),
        Ok(_) => format!("`{text}` is below zero or no finite number"),
        Err(_) => format!("`{text}` is no number"),
    };
    Err(TraceError::Row {
        file: file.display().to_string(),
        line: row.position().map_or(0, csv::Position::line),
        column: format!("{} ({name})", column + 1),
        problem,
    })
}

/// What waits to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// A task is done. Before arrivals of the same second, so that its place is free for them.
    Done { task: usize, life: u32 },
    /// A task wants a place.
    Arrival { task: usize },
}

/// Replays a trace with a policy; quality is sampled each `sample_s` seconds of the trace.
pub fn replay(trace: &Trace, policy: &mut dyn Policy, sample_s: u64) -> Quality {
    let end = trace.ends_s();
    let mut queue: BinaryHeap<Reverse<(u64, Happening)>> = BinaryHeap::new();
    for (task, arrives) in trace.tasks.iter().enumerate() {
        queue.push(Reverse((arrives.arrives_s, Happening::Arrival { task })));
    }
    let mut gauge = Gauge::new(trace);
    let mut lives: HashMap<usize, u32> = HashMap::new();
    let mut next_sample = 0;
    while let Some(Reverse((now, _))) = queue.peek().copied() {
        while next_sample <= now.min(end) {
            gauge.sample();
            next_sample += sample_s.max(1);
        }
        let mut departed = Vec::new();
        let mut arrived = Vec::new();
        while let Some(Reverse((at, happening))) = queue.peek().copied() {
            if at > now {
                break;
            }
            queue.pop();
            match happening {
                Happening::Done { task, life } if lives.get(&task) == Some(&life) => departed.push(task),
                Happening::Done { .. } => {}
                Happening::Arrival { task } => arrived.push(task),
            }
        }
        for task in departed {
            gauge.leave(task);
            lives.remove(&task);
            policy.leave(task);
        }
        for task in arrived {
            gauge.arrive(task, now);
            policy.arrive(task);
        }
        let Placed { placed, preempted } = policy.place(now);
        for task in preempted {
            gauge.preempt(task);
            lives.remove(&task);
            gauge.arrive(task, now);
            policy.arrive(task);
            // It is looked at when something happens next; something always does, as its preemptor arrives or ends.
            queue.push(Reverse((now + 1, Happening::Done { task, life: u32::MAX })));
        }
        for (task, machine) in placed {
            gauge.place(task, machine, now);
            let life = gauge.placements(task);
            lives.insert(task, life);
            if let Some(runs) = trace.tasks[task].runs_s {
                queue.push(Reverse((now + runs.max(1), Happening::Done { task, life })));
            }
        }
        // Placing may wait for the policy's own clock (a back-off), which brings it back here.
        if let Some(at) = policy.wakes_at().filter(|at| *at > now && *at <= end) {
            queue.push(Reverse((
                at,
                Happening::Done {
                    task: usize::MAX,
                    life: u32::MAX,
                },
            )));
        }
    }
    gauge.finish(policy.name())
}
