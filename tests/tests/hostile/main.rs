//! Input that no honest client sends, against a real node process: bodies that are too large, nest too deeply or are no text;
//! huge labels and selectors; broken HTTP; slow and silent clients, too many connections, watches that nobody reads. Each is
//! refused as Kubernetes refuses it, and meanwhile another client, who only wants its ConfigMap, is served as ever, within a
//! bounded memory of the node process.
//!
//! One cluster carries all checks. A check that fails does not hide the others.

mod bystander;
mod refused;
mod slow;

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::cluster::resident_bytes;
use tests::https::{Answer, Endpoint};
use tests::{Cluster, wait_for};

use bystander::Bystander;

/// What a check needs.
pub struct Scene {
    /// The API.
    pub endpoint: Endpoint,
    /// Runs what waits.
    pub runtime: tokio::runtime::Runtime,
    /// The node's process.
    pub pid: u32,
}

/// Where the checks put things.
pub const COLLECTION: &str = "/api/v1/namespaces/default/configmaps";

/// The headers of a request with a JSON body.
pub const JSON: &[(&str, &str)] = &[("Content-Type", "application/json")];

/// How long a bystander may wait for its answer, at the 99th percentile. The machine does other things at the same time; an
/// attack that works makes it wait until its end.
const BYSTANDER_P99: Duration = Duration::from_millis(750);

/// By how much the checks together may grow the node process.
const GROWTH_BYTES_MAX: u64 = 256 << 20;

impl Scene {
    /// One request on a connection of its own.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let asked = self.endpoint.once(method, path, headers, body);
        let answer = self
            .runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(30), asked).await });
        answer
            .unwrap_or_else(|_| panic!("{method} {path:.80}: no answer in 30 s"))
            .unwrap_or_else(|error| panic!("{method} {path:.80}: {error}"))
    }

    /// Sends bytes on a connection of its own and reads one answer, or learns that the server has closed it.
    pub fn raw(&self, bytes: &[u8]) -> Option<Answer> {
        self.runtime.block_on(async {
            let mut connection = self.endpoint.connect().await.expect("a connection");
            // The server may have answered and closed before it has read everything.
            let _ = connection.send(bytes).await;
            let answer = tokio::time::timeout(Duration::from_secs(30), connection.answer()).await;
            answer.expect("an answer, or the end, within 30 s").ok()
        })
    }
}

/// An answer must be a Status with this code and reason.
#[track_caller]
pub fn is_refused(what: &str, answer: &Answer, code: u16, reason: &str) {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    assert_eq!(
        (
            answer.head.code,
            body["kind"].as_str(),
            body["reason"].as_str(),
            body["code"].as_u64()
        ),
        (code, Some("Status"), Some(reason), Some(u64::from(code))),
        "{what}: {:.300}",
        String::from_utf8_lossy(&answer.body)
    );
}

#[test]
fn hostile_input_is_refused_and_others_are_served() {
    let cluster = Cluster::start(23, 1);
    cluster.kubectl(0); // the kubeconfig is there when this returns
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let scene = Scene {
        endpoint: Endpoint::load(&cluster.kubeconfig(0)).expect("the node's kubeconfig"),
        runtime,
        pid: cluster.pid(0),
    };
    bystander::prepare(&scene);
    let quiet = Bystander::start(&scene);
    std::thread::sleep(Duration::from_secs(2)); // what a bystander sees while nothing happens is measured, not waited for
    println!(
        "measured: bystander, nothing else: {}",
        quiet.finish().expect("it is served")
    );
    // What the store itself keeps of many large objects is none of the attacks' doing.
    wait_for("the store's own memory settles", Duration::from_secs(120), || {
        let before = resident_bytes(scene.pid);
        slow::write_flood(&scene);
        slow::remove_flood(&scene);
        let grown = resident_bytes(scene.pid).saturating_sub(before) >> 20;
        if grown < 8 {
            Ok(())
        } else {
            Err(format!("one flood more took {grown} MiB"))
        }
    });
    let before = resident_bytes(scene.pid);
    let checks: &[(&str, fn(&Scene))] = &[
        ("bodies that are too large", refused::large_bodies),
        ("nesting", refused::nesting),
        ("bytes that are no text", refused::no_text),
        ("content types", refused::content_types),
        ("protobuf", refused::protobuf),
        ("labels and selectors", refused::labels_and_selectors),
        ("paths", refused::paths),
        ("broken HTTP", refused::broken_http),
        ("pipelining", refused::pipelining),
        ("slow heads and half-open connections", slow::heads),
        ("slow bodies", slow::bodies),
        ("many connections", slow::many_connections),
        ("watches that nobody reads", slow::unread_watches),
        ("a flood of watches", slow::watch_flood),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        let begun = Instant::now();
        let bystander = Bystander::start(&scene);
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&scene)));
        let seen = bystander.finish();
        let grown = resident_bytes(scene.pid).saturating_sub(before);
        let seen_text = seen.as_ref().map_or_else(Clone::clone, ToString::to_string);
        println!(
            "measured: {name}: {} ms; bystander {seen_text}; the node grew by {} MiB",
            begun.elapsed().as_millis(),
            grown >> 20
        );
        let served = seen.is_ok_and(|seen| seen.p99 < BYSTANDER_P99);
        if done.is_err() || !served || grown > GROWTH_BYTES_MAX {
            println!("{name}: FAILED");
            failed.push(*name);
        }
    }
    // What the attacks took is given back: nothing of them stays open.
    wait_for(
        "the connections of the attacks are gone",
        Duration::from_secs(60),
        || {
            let open = sockets(scene.pid);
            if open < 100 {
                Ok(())
            } else {
                Err(format!("{open} sockets"))
            }
        },
    );
    assert!(
        failed.is_empty(),
        "failed: {failed:?}; what was wrong stands above\n{}",
        cluster.logs()
    );
}

/// How many sockets a process has open.
pub fn sockets(pid: u32) -> usize {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives");
    let target = |entry: std::fs::DirEntry| std::fs::read_link(entry.path()).ok();
    entries
        .flatten()
        .filter_map(target)
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}
