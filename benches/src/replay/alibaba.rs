//! Owns the reading of Alibaba's cluster-trace-v2018: `machine_meta.csv` and, of `container_meta.csv` and `batch_task.csv`,
//! those that are there. Called by the program and by tests. Columns as in the trace's own schema (github.com/alibaba/clusterdata):
//!
//! ```text
//! machine_meta.csv    machine_id, time_stamp, failure_domain_1, failure_domain_2, cpu_num, mem_size, status
//! container_meta.csv  container_id, machine_id, time_stamp, app_du, status, cpu_request, cpu_limit, mem_size
//! batch_task.csv      task_name, instance_num, job_name, task_type, status, start_time, end_time, plan_cpu, plan_mem
//! ```
//!
//! Times are seconds, 100 of `cpu_request` and `plan_cpu` are one core, memory is in hundredths of the largest machine, which is taken
//! to have 100 GiB. A container runs from its first row to the end; each of a batch task's instances from `start_time` to
//! `end_time`. Containers (online services) have priority 100, batch instances 0, as Alibaba's scheduler prefers the former.

use super::{Machine, Task, Trace, TraceError, number, rows};
use std::collections::BTreeMap;
use std::path::Path;

/// Bytes of one hundredth of the largest machine.
const MEMORY_UNIT_BYTES: f64 = 1024.0 * 1024.0 * 1024.0;
/// What containers have and batch instances have not.
const ONLINE_PRIORITY: i32 = 100;
/// Instances of one task that are replayed at most: the trace has tasks of a hundred thousand.
const INSTANCES_MAX: u64 = 10_000;

/// Reads a folder.
pub fn read(folder: &Path) -> Result<Trace, TraceError> {
    let mut trace = Trace {
        machines: machines(&folder.join("machine_meta.csv"))?,
        tasks: Vec::new(),
    };
    let containers = folder.join("container_meta.csv");
    if containers.exists() {
        trace.tasks.extend(read_containers(&containers)?);
    }
    let batch = folder.join("batch_task.csv");
    if batch.exists() {
        trace.tasks.extend(read_batch(&batch)?);
    }
    trace.finished(folder.display().to_string())
}

fn failed(file: &Path) -> impl Fn(csv::Error) -> TraceError {
    let file = file.display().to_string();
    move |source| TraceError::File {
        file: file.clone(),
        source,
    }
}

/// Machines by name; of several rows of one the last counts.
fn machines(file: &Path) -> Result<Vec<Machine>, TraceError> {
    let mut machines = BTreeMap::new();
    for row in rows(file)?.records() {
        let row = row.map_err(failed(file))?;
        let name = row.get(0).unwrap_or_default().to_owned();
        let (Some(cpus), Some(memory)) = (number(file, &row, 4, "cpu_num")?, number(file, &row, 5, "mem_size")?) else {
            continue;
        };
        let machine = Machine {
            name: name.clone(),
            cpu_milli: (cpus * 1000.0) as i64,
            memory_bytes: (memory * MEMORY_UNIT_BYTES) as i64,
        };
        machines.insert(name, machine);
    }
    Ok(machines.into_values().collect())
}

fn read_containers(file: &Path) -> Result<Vec<Task>, TraceError> {
    let mut first: BTreeMap<String, Task> = BTreeMap::new();
    for row in rows(file)?.records() {
        let row = row.map_err(failed(file))?;
        let name = row.get(0).unwrap_or_default().to_owned();
        let at = number(file, &row, 2, "time_stamp")?.unwrap_or(0.0) as u64;
        let (Some(cpu), Some(memory)) = (
            number(file, &row, 5, "cpu_request")?,
            number(file, &row, 7, "mem_size")?,
        ) else {
            continue;
        };
        let task = Task {
            name: name.clone(),
            arrives_s: at,
            runs_s: None,
            cpu_milli: (cpu * 10.0) as i64,
            memory_bytes: (memory * MEMORY_UNIT_BYTES) as i64,
            priority: ONLINE_PRIORITY,
        };
        let known = first.entry(name).or_insert_with(|| task.clone());
        known.arrives_s = known.arrives_s.min(at);
    }
    Ok(first.into_values().collect())
}

fn read_batch(file: &Path) -> Result<Vec<Task>, TraceError> {
    let mut tasks = Vec::new();
    for row in rows(file)?.records() {
        let row = row.map_err(failed(file))?;
        let (Some(start), Some(end)) = (number(file, &row, 5, "start_time")?, number(file, &row, 6, "end_time")?)
        else {
            continue;
        };
        let (Some(cpu), Some(memory)) = (number(file, &row, 7, "plan_cpu")?, number(file, &row, 8, "plan_mem")?) else {
            continue;
        };
        // A task that had not ended when the trace did has an end of 0.
        let runs_s = (end > start).then_some((end - start) as u64);
        let instances = number(file, &row, 1, "instance_num")?.unwrap_or(1.0) as u64;
        let (task, job) = (row.get(0).unwrap_or_default(), row.get(2).unwrap_or_default());
        for instance in 0..instances.min(INSTANCES_MAX) {
            tasks.push(Task {
                name: format!("{job}-{task}-{instance}"),
                arrives_s: start as u64,
                runs_s,
                cpu_milli: (cpu * 10.0) as i64,
                memory_bytes: (memory * MEMORY_UNIT_BYTES) as i64,
                priority: 0,
            });
        }
    }
    Ok(tasks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::write;

    fn folder(machines: &str, containers: &str, batch: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path().join("machine_meta.csv"), machines).unwrap();
        write(folder.path().join("container_meta.csv"), containers).unwrap();
        write(folder.path().join("batch_task.csv"), batch).unwrap();
        folder
    }

    const GIB: i64 = 1 << 30;

    #[test]
    fn rows_become_machines_and_tasks() {
        let folder = folder(
            "m_1,0,1,2,96,100,USING\nm_1,50,1,2,96,100,USING\nm_2,0,1,3,32,50,USING\n",
            "c_1,m_1,100,app_1,started,400,800,3.5\nc_1,m_1,20,app_1,started,400,800,3.5\nc_2,m_2,5,app_2,started,,800,1\n",
            "task_a,2,j_1,1,Terminated,10,70,50,0.5\ntask_b,1,j_1,1,Running,30,0,100,\ntask_c,1,j_2,1,Running,30,0,100,1\n",
        );
        let trace = read(folder.path()).unwrap();
        assert_eq!(trace.machines.len(), 2);
        assert_eq!(
            (trace.machines[0].cpu_milli, trace.machines[1].memory_bytes),
            (96_000, 50 * GIB)
        );
        let task = |name: &str, arrives_s, runs_s, cpu_milli, memory_bytes, priority| Task {
            name: name.to_owned(),
            arrives_s,
            runs_s,
            cpu_milli,
            memory_bytes,
            priority,
        };
        assert_eq!(
            trace.tasks,
            [
                task("j_1-task_a-0", 10, Some(60), 500, GIB / 2, 0),
                task("j_1-task_a-1", 10, Some(60), 500, GIB / 2, 0),
                task("c_1", 20, None, 4000, 7 * GIB / 2, 100),
                task("j_2-task_c-0", 30, None, 1000, GIB, 0),
            ]
        );
    }

    #[test]
    fn mistakes_name_file_line_and_column() {
        let broken = folder("m_1,0,1,2,96,100,USING\nm_2,0,1,2,many,100,USING\n", "", "");
        let error = read(broken.path()).unwrap_err().to_string();
        assert!(
            error.contains("machine_meta.csv:2: column 5 (cpu_num): `many` is no number"),
            "{error}"
        );
        let empty = folder("m_1,0,1,2,96,100,USING\n", "", "");
        let error = read(empty.path()).unwrap_err().to_string();
        assert!(error.contains("1 machines and 0 tasks"), "{error}");
    }
}
