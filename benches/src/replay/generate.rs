//! Owns the making of a synthetic trace in the format of Alibaba's cluster-trace-v2018. Called by the program (`--generate`) and
//! by tests. The same seed must give the same bytes.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::fmt::Write as _;
use std::io;
use std::path::Path;

/// How large a synthetic trace is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Machines.
    pub machines: u32,
    /// Online containers, which run to the end.
    pub containers: u32,
    /// Batch tasks, of one to eight instances.
    pub batch_tasks: u32,
    /// Length in seconds.
    pub seconds: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            machines: 60,
            containers: 400,
            batch_tasks: 1800,
            seconds: 86_400,
        }
    }
}

/// Writes `machine_meta.csv`, `container_meta.csv` and `batch_task.csv` into a folder.
pub fn write(folder: &Path, shape: Shape, seed: u64) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut rng = SmallRng::seed_from_u64(seed);
    std::fs::write(folder.join("machine_meta.csv"), machines(shape, &mut rng))?;
    std::fs::write(folder.join("container_meta.csv"), containers(shape, &mut rng))?;
    std::fs::write(folder.join("batch_task.csv"), batch(shape, &mut rng))
}

/// Three kinds of machines, most of them the middle one.
fn machines(shape: Shape, rng: &mut SmallRng) -> String {
    let mut text = String::new();
    for machine in 1..=shape.machines {
        let (cpus, memory) = match rng.random_range(0..10) {
            0..2 => (32, 50),
            2..8 => (64, 100),
            _ => (96, 100),
        };
        let _ = writeln!(
            text,
            "m_{machine},0,{},{machine},{cpus},{memory},USING",
            machine % 7 + 1
        );
    }
    text
}

/// Services of a few sizes; most are there when the trace begins.
fn containers(shape: Shape, rng: &mut SmallRng) -> String {
    let mut text = String::new();
    for container in 1..=shape.containers {
        let cpu = [200, 400, 400, 400, 800, 1600][rng.random_range(0..6)];
        let memory = f64::from(cpu) / 100.0 * rng.random_range(0.6..2.4);
        let at = match rng.random_range(0..10) {
            0..8 => 0,
            _ => rng.random_range(0..shape.seconds / 2),
        };
        let app = rng.random_range(1..=shape.containers / 8 + 1);
        let _ = writeln!(
            text,
            "c_{container},,{at},app_{app},started,{cpu},{},{memory:.2}",
            cpu * 2
        );
    }
    text
}

/// Batch work that comes in a daily wave, mostly small and short.
fn batch(shape: Shape, rng: &mut SmallRng) -> String {
    let mut text = String::new();
    for task in 1..=shape.batch_tasks {
        // Twice as likely in the busy half of the day.
        let half = shape.seconds / 2;
        let at = rng.random_range(0..half.max(1)) + if rng.random_range(0..3) == 0 { 0 } else { half };
        let length = (60.0 * 2f64.powf(rng.random_range(0.0..7.0))) as u64;
        let cpu = [50, 50, 100, 100, 100, 200, 400, 800, 2400][rng.random_range(0..9)];
        let memory = f64::from(cpu) / 100.0 * rng.random_range(0.2..2.0);
        let instances = [1, 1, 2, 4, 8][rng.random_range(0..5)];
        let _ = writeln!(
            text,
            "task_{task},{instances},j_{},1,Terminated,{at},{},{cpu},{memory:.2}",
            task / 3,
            at + length
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::alibaba;

    #[test]
    fn a_seed_gives_one_trace_and_another_gives_another() {
        let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        let shape = Shape {
            machines: 5,
            containers: 10,
            batch_tasks: 20,
            seconds: 1000,
        };
        for (folder, seed) in folders.iter().zip([1, 1, 2]) {
            write(folder.path(), shape, seed).unwrap();
        }
        let traces: Vec<_> = folders.iter().map(|f| alibaba::read(f.path()).unwrap()).collect();
        assert_eq!(traces[0], traces[1]);
        assert_ne!(traces[0], traces[2]);
        assert_eq!(traces[0].machines.len(), 5);
    }
}
