//! Measures starts on the real kernel: from `start_sandbox` to a running program, and the parts. Prints medians in
//! milliseconds. Needs root, `/bin/busybox` and the built `pod-parent-test` beside the examples:
//!
//! ```text
//! cargo build --release -p runtime --bins --examples && target/release/examples/start_latency 50
//! ```
//!
//! With `own-users` as second argument the pods have user namespaces of their own.
#![allow(clippy::disallowed_methods)] // it measures real time

#[path = "../tests/machine/mod.rs"]
mod machine;

use std::time::Instant;

use machine::{Machine, container, pod};
use protocol::runtime::{ContainerSpec, PodRuntime, SandboxSpec};

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let rounds: usize = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(30);
    let host_users = std::env::args().nth(2).as_deref() != Some("own-users");
    let pod = || SandboxSpec { host_users, ..pod() };
    let machine = Machine::new().await;
    let names = [
        "sandbox",
        "container",
        "sandbox+container",
        "restart to exit",
        "removal",
    ];
    let mut columns: Vec<Vec<f64>> = vec![Vec::new(); names.len()];
    for _ in 0..rounds {
        let pod = pod();
        let uid = pod.pod.uid.clone();
        let begin = Instant::now();
        machine.runtime().start_sandbox(&pod).await.unwrap();
        let sandbox = begin.elapsed();
        machine
            .runtime()
            .start_container(&uid, &container("main", "sleep 600"))
            .await
            .unwrap();
        let both = begin.elapsed();
        let mut short = ContainerSpec {
            command: vec!["true".into()],
            ..container("short", "")
        };
        machine.runtime().start_container(&uid, &short).await.unwrap();
        machine.exit(&uid, "short").await;
        short.attempt = 1;
        let again = Instant::now();
        machine.runtime().start_container(&uid, &short).await.unwrap();
        machine.exit(&uid, "short").await;
        let restart = again.elapsed();
        let end = Instant::now();
        machine.runtime().remove_sandbox(&uid).await.unwrap();
        let parts = [sandbox, both - sandbox, both, restart, end.elapsed()];
        for (column, part) in columns.iter_mut().zip(parts) {
            column.push(part.as_secs_f64() * 1000.0);
        }
    }
    for (name, column) in names.iter().zip(&mut columns) {
        println!("{name:20} median {:6.2} ms", median(column));
    }
    let begin = Instant::now();
    let pods: Vec<_> = (0..rounds).map(|_| pod()).collect();
    let starts = pods.iter().map(|pod| {
        let machine = &machine;
        async move {
            machine.runtime().start_sandbox(pod).await.unwrap();
            machine
                .runtime()
                .start_container(&pod.pod.uid, &container("main", "sleep 600"))
                .await
                .unwrap();
        }
    });
    futures::future::join_all(starts).await;
    println!(
        "{rounds} pods at once      {:6.2} ms, {:.0} pods/s",
        begin.elapsed().as_secs_f64() * 1000.0,
        rounds as f64 / begin.elapsed().as_secs_f64()
    );
}
