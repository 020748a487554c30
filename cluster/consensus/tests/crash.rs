//! All nodes are killed at once (SIGKILL), again and again, under writing clients. What was acknowledged before is there
//! afterwards. The nodes run in a process of their own, since closing a database in good order would put it on disk.
#![allow(clippy::disallowed_methods)] // tests wait and measure

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use protocol::store::{ListRequest, ObjectStore, Precondition};
use support::*;

/// Set in the process that is killed: where its nodes lie, and the number of its round.
const CRASH_IN: &str = "CONSENSUS_TEST_CRASH_IN";
const ROUND: &str = "CONSENSUS_TEST_ROUND";

fn small_snapshots(config: &mut consensus::ConsensusConfig) {
    config.retention.log_bytes = 300 << 10;
    config.retention.log_kept_bytes = 50 << 10;
    // Memtables are flushed now and then by themselves, too.
    config.store.write_buffer_bytes = 256 << 10;
}

/// Writes for ever, and prints the key of each write that was acknowledged.
async fn write_until_killed(directory: &Path, round: &str, voters: u64) {
    let mut cluster = Cluster::new(directory);
    cluster.configure = small_snapshots;
    if round == "0" {
        cluster.form(voters).await;
    } else {
        for id in 1..=voters {
            cluster.start(id).await;
        }
    }
    cluster.leader().await;
    let outsider = cluster.client(&name(9), None);
    let writers = (0..16).map(|writer| {
        let (client, round) = (outsider.clone(), round.to_owned());
        tokio::spawn(async move {
            for number in 0u64.. {
                let name = format!("r{round}-w{writer}-{number}");
                if client
                    .propose(put(&key(&name), Precondition::Absent, number))
                    .await
                    .is_ok()
                {
                    println!("acknowledged {name}");
                }
            }
        })
    });
    futures::future::join_all(writers).await;
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the test itself in another process, and kills it after so many acknowledged writes. Yields their keys.
fn killed_after(test: &str, directory: &Path, round: usize, writes: usize) -> Vec<String> {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CRASH_IN, directory)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut acknowledged = Vec::new();
    for line in lines.by_ref() {
        // The test harness prints its own lines, the first of ours possibly behind one of them.
        if let Some((_, name)) = line.unwrap().split_once("acknowledged ") {
            acknowledged.push(name.to_owned());
            if acknowledged.len() == writes {
                break;
            }
        }
    }
    assert_eq!(acknowledged.len(), writes, "the nodes stopped by themselves");
    drop(child);
    acknowledged
}

async fn crash_again_and_again(test: &str, voters: u64) {
    if let Some(directory) = std::env::var_os(CRASH_IN) {
        let round = std::env::var(ROUND).unwrap();
        return write_until_killed(Path::new(&directory), &round, voters).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for (round, writes) in [700, 1500, 300].into_iter().enumerate() {
        acknowledged.extend(killed_after(test, directory.path(), round, writes));
    }
    let mut cluster = Cluster::new(directory.path());
    cluster.configure = small_snapshots;
    for id in 1..=voters {
        cluster.start(id).await;
    }
    let leader = cluster.leader().await;
    let client = cluster.nodes[&leader].client.clone();
    let listed = client.list(ListRequest::all("pods")).await.unwrap();
    let present: std::collections::HashSet<&str> = listed.items.iter().map(|(key, _)| &*key.name).collect();
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|name| !present.contains(name.as_str()))
        .collect();
    assert!(lost.is_empty(), "{} acknowledged writes are lost: {lost:?}", lost.len());
    // One revision for each object, as each was written once.
    assert_eq!(listed.revision.0, listed.items.len() as u64);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_voter_loses_nothing_when_it_is_killed() {
    crash_again_and_again("a_single_voter_loses_nothing_when_it_is_killed", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_voters_lose_nothing_when_all_are_killed_at_once() {
    crash_again_and_again("three_voters_lose_nothing_when_all_are_killed_at_once", 3).await;
}
