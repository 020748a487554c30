//! Owns the reading of Google's clusterdata-2011: `machine_events` and `task_events`, as one CSV file each or folders of parts.
//! Called by the program and by tests. Columns as in the trace's own schema (format + schema document, version 2):
//!
//! ```text
//! machine_events  time, machine ID, event type, platform ID, CPUs, memory
//! task_events     time, missing info, job ID, task index, machine ID, event type, user, scheduling class, priority,
//!                 CPU request, memory request, disk space request, different machines restriction
//! ```
//!
//! Times are microseconds. CPUs and memory are in parts of the largest machine, which is taken to have 64 cores and 256 GiB. Event
//! types of tasks: SUBMIT 0, SCHEDULE 1, EVICT 2, FAIL 3, FINISH 4, KILL 5, LOST 6. A task arrives with SUBMIT and runs from SCHEDULE to
//! its end; one without SCHEDULE or end runs to the end of the trace. Machines that are added count from the beginning.

use super::{Machine, Task, Trace, TraceError, number, rows};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const CPU_UNIT_MILLI: f64 = 64_000.0;
const MEMORY_UNIT_BYTES: f64 = 256.0 * 1024.0 * 1024.0 * 1024.0;

/// Reads a folder with `machine_events` and `task_events` (`.csv` files, or folders with parts).
pub fn read(folder: &Path) -> Result<Trace, TraceError> {
    let mut machines: BTreeMap<String, Machine> = BTreeMap::new();
    for file in parts(folder, "machine_events")? {
        for row in rows(&file)?.records() {
            let row = row.map_err(failed(&file))?;
            let name = row.get(1).unwrap_or_default().to_owned();
            let (Some(cpus), Some(memory)) = (number(&file, &row, 4, "CPUs")?, number(&file, &row, 5, "memory")?)
            else {
                continue;
            };
            let machine = Machine {
                name: format!("machine-{name}"),
                cpu_milli: (cpus * CPU_UNIT_MILLI) as i64,
                memory_bytes: (memory * MEMORY_UNIT_BYTES) as i64,
            };
            machines.insert(name, machine);
        }
    }
    let mut tasks: BTreeMap<(String, String), Known> = BTreeMap::new();
    for file in parts(folder, "task_events")? {
        for row in rows(&file)?.records() {
            read_event(&file, &row.map_err(failed(&file))?, &mut tasks)?;
        }
    }
    let trace = Trace {
        machines: machines.into_values().collect(),
        tasks: tasks.into_iter().filter_map(|(id, known)| known.task(&id)).collect(),
    };
    trace.finished(folder.display().to_string())
}

/// What the events of a task have told so far.
#[derive(Default)]
struct Known {
    submitted_s: Option<u64>,
    scheduled_s: Option<u64>,
    ended_s: Option<u64>,
    cpu_milli: i64,
    memory_bytes: i64,
    priority: i32,
}

impl Known {
    fn task(self, (job, index): &(String, String)) -> Option<Task> {
        let runs = self.scheduled_s.zip(self.ended_s);
        Some(Task {
            name: format!("{job}-{index}"),
            arrives_s: self.submitted_s?,
            runs_s: runs.map(|(from, to)| to.saturating_sub(from)),
            cpu_milli: self.cpu_milli,
            memory_bytes: self.memory_bytes,
            priority: self.priority,
        })
    }
}

fn read_event(
    file: &Path,
    row: &csv::StringRecord,
    tasks: &mut BTreeMap<(String, String), Known>,
) -> Result<(), TraceError> {
    let text = |at: usize| row.get(at).unwrap_or_default().to_owned();
    let known = tasks.entry((text(2), text(3))).or_default();
    let at_s = (number(file, row, 0, "time")?.unwrap_or(0.0) / 1e6) as u64;
    match number(file, row, 5, "event type")?.unwrap_or(-1.0) as i64 {
        0 => {
            // A task that was evicted is submitted again: the first time counts.
            known.submitted_s.get_or_insert(at_s);
            known.cpu_milli = (number(file, row, 9, "CPU request")?.unwrap_or(0.0) * CPU_UNIT_MILLI) as i64;
            known.memory_bytes = (number(file, row, 10, "memory request")?.unwrap_or(0.0) * MEMORY_UNIT_BYTES) as i64;
            known.priority = number(file, row, 8, "priority")?.unwrap_or(0.0) as i32;
        }
        1 => {
            known.scheduled_s.get_or_insert(at_s);
        }
        2..=6 => known.ended_s = Some(at_s),
        _ => {}
    }
    Ok(())
}

fn parts(folder: &Path, name: &str) -> Result<Vec<PathBuf>, TraceError> {
    let single = folder.join(format!("{name}.csv"));
    if single.exists() {
        return Ok(vec![single]);
    }
    let inner = folder.join(name);
    let listed = std::fs::read_dir(&inner).map_err(|source| TraceError::File {
        file: inner.display().to_string(),
        source: source.into(),
    })?;
    let mut files: Vec<PathBuf> = listed.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "csv"));
    files.sort();
    Ok(files)
}

fn failed(file: &Path) -> impl Fn(csv::Error) -> TraceError {
    let file = file.display().to_string();
    move |source| TraceError::File {
        file: file.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::write;

    #[test]
    fn events_become_machines_and_tasks() {
        let folder = tempfile::tempdir().unwrap();
        write(
            folder.path().join("machine_events.csv"),
            "0,5,0,abc,0.5,0.25\n0,6,0,abc,1,1\n9,6,1,abc,,\n",
        )
        .unwrap();
        std::fs::create_dir(folder.path().join("task_events")).unwrap();
        write(
            folder.path().join("task_events/part-00000.csv"),
            "1000000,,77,0,,0,u,2,9,0.0625,0.0156,0,0\n3000000,,77,0,5,1,u,2,9,0.0625,0.0156,0,0\n",
        )
        .unwrap();
        write(
            folder.path().join("task_events/part-00001.csv"),
            "13000000,,77,0,5,4,u,2,9,,,,\n14000000,,78,3,,0,u,2,0,0.125,,,\n15000000,,79,0,5,4,u,2,0,,,,\n",
        )
        .unwrap();
        let trace = read(folder.path()).unwrap();
        assert_eq!(
            (trace.machines[0].cpu_milli, trace.machines[0].memory_bytes),
            (32_000, 64 << 30)
        );
        assert_eq!(trace.machines.len(), 2);
        let told: Vec<(&str, u64, Option<u64>, i64, i32)> = trace
            .tasks
            .iter()
            .map(|t| (&*t.name, t.arrives_s, t.runs_s, t.cpu_milli, t.priority))
            .collect();
        assert_eq!(told, [("77-0", 1, Some(10), 4000, 9), ("78-3", 14, None, 8000, 0)]);
    }

    #[test]
    fn a_folder_without_events_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("machine_events"), "{error}");
    }
}
