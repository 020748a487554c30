//! Measures durable proposals a second, over nodes in one process: `cargo run --release -p consensus --example
//! proposals`. Prints, for one and for three voters and for several numbers of concurrent clients, how many proposals
//! of one object of 1.5 KiB are acknowledged a second and how long one takes; then creates and binds pods.
#![allow(clippy::disallowed_methods, missing_docs)] // a measurement reads the clock

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use consensus::StoreClient;
use protocol::store::{ObjectStore, Precondition, Proposal, Write};
use protocol::{Cause, Revision};
use support::{Cluster, draft, key};

const OBJECT_BYTES: usize = 1536;
const RUN: Duration = Duration::from_secs(4);

fn create(name: String) -> Proposal {
    let key = key(name);
    let draft = draft(&key, 1, OBJECT_BYTES);
    Proposal::one(
        Cause(1),
        Write::Put {
            key,
            precondition: Precondition::Absent,
            draft,
        },
    )
}

fn bind(name: String, revision: Revision) -> Proposal {
    let key = key(name);
    let draft = draft(&key, 2, OBJECT_BYTES);
    Proposal::one(
        Cause(1),
        Write::Put {
            key,
            precondition: Precondition::Revision(revision),
            draft,
        },
    )
}

async fn singly(client: &Arc<StoreClient>, label: &str, clients: u64) {
    let done = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|number| {
            let (client, done, label) = (client.clone(), done.clone(), label.to_owned());
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                for turn in 0.. {
                    if begun.elapsed() > RUN {
                        break;
                    }
                    let asked = Instant::now();
                    client
                        .propose(create(format!("{label}-{clients}-{number}-{turn}")))
                        .await
                        .unwrap();
                    latencies.push(asked.elapsed());
                    done.fetch_add(1, Ordering::Relaxed);
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.unwrap());
    }
    latencies.sort();
    let rate = done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    let (median, tail) = (latencies[latencies.len() / 2], latencies[latencies.len() * 99 / 100]);
    println!("{label}: {clients:5} clients {rate:9.0} proposals/s, median {median:?}, p99 {tail:?}");
}

/// Pods created and then bound, in calls of 500 as a scheduler and a controller make them, eight at a time.
async fn pods(client: &Arc<StoreClient>, label: &str) {
    const CALLS: u64 = 160;
    const PODS: u64 = 500;
    let begun = Instant::now();
    let tasks: Vec<_> = (0..8)
        .map(|number| {
            let (client, label) = (client.clone(), label.to_owned());
            tokio::spawn(async move {
                for call in 0..CALLS / 8 {
                    let name = |pod: u64| format!("pods-{label}-{number}-{call}-{pod}");
                    let created = client
                        .propose_all((0..PODS).map(|pod| create(name(pod))).collect())
                        .await;
                    let bound = created.into_iter().enumerate();
                    let bound = bound.map(|(pod, created)| bind(name(pod as u64), created.unwrap().revisions[0]));
                    for outcome in client.propose_all(bound.collect()).await {
                        outcome.unwrap();
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{label}: {:9.0} pods created and bound/s",
        (CALLS * PODS) as f64 / seconds
    );
}

async fn reads(client: &Arc<StoreClient>, label: &str, clients: u64) {
    let name = format!("{label}-{clients}-read");
    client.propose(create(name.clone())).await.unwrap();
    let begun = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let (client, key) = (client.clone(), key(&name));
            tokio::spawn(async move {
                let mut done = 0u64;
                while begun.elapsed() < RUN / 2 {
                    client.read(&key).await.unwrap().unwrap();
                    done += 1;
                }
                done
            })
        })
        .collect();
    let mut done = 0;
    for task in tasks {
        done += task.await.unwrap();
    }
    println!(
        "{label}: {clients:5} clients {:9.0} linearizable reads/s",
        done as f64 / begun.elapsed().as_secs_f64()
    );
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// How long writes are refused when the leader is lost: the last write before, to the first one after.
async fn fail_over(cluster: &Cluster) {
    let outsider = cluster.client(&support::name(9), None);
    let mut gaps = Vec::new();
    for round in 0..10 {
        let leader = cluster.leader().await;
        outsider.propose(create(format!("before-{round}"))).await.unwrap();
        cluster.mesh.isolate(
            &support::name(leader),
            &[cluster.names(), vec![support::name(9)]].concat(),
        );
        let begun = Instant::now();
        for attempt in 0.. {
            if outsider
                .propose(create(format!("after-{round}-{attempt}")))
                .await
                .is_ok()
            {
                break;
            }
        }
        gaps.push(begun.elapsed());
        cluster.mesh.heal();
        support::wait_for("the old leader to follow", || {
            let status = cluster.nodes[&leader].consensus.status();
            !status.is_leader && status.leader.is_some_and(|now| now != support::name(leader))
        })
        .await;
    }
    println!("3 voters: writes accepted again after the leader's loss: {gaps:?}");
}

#[tokio::main(flavor = "multi_thread")]
async fn main() {
    for voters in [1, 3] {
        let directory = std::env::temp_dir().join(format!("consensus-proposals-{}-{voters}", std::process::id()));
        let mut cluster = Cluster::new(&directory);
        cluster.form(voters).await;
        let label = format!("{voters} voters");
        println!("{label}: {} KiB resident when idle", resident_kib());
        let leader = cluster.leader().await;
        let client = cluster.nodes[&leader].client.clone();
        for clients in [1, 64, 1024] {
            singly(&client, &label, clients).await;
        }
        pods(&client, &label).await;
        for clients in [1, 64] {
            reads(&client, &label, clients).await;
        }
        println!("{label}: {} KiB resident afterwards", resident_kib());
        if voters == 3 {
            fail_over(&cluster).await;
        }
        drop(client);
        cluster.stop_all().await;
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
