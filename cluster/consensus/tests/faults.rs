//! Clients that count registers up by compare-and-set, while nodes are cut off, slowed down, stopped and started. At the
//! end every acknowledged write is in the history, once, under the revision that was told, and no read has ever shown
//! less than was acknowledged before it began.
#![allow(clippy::disallowed_methods)] // tests wait and measure, and draw random faults

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use consensus::StoreClient;
use futures::StreamExt;
use parking_lot::Mutex;
use protocol::Revision;
use protocol::store::{ObjectStore, Precondition, WatchItem, WatchRequest};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::*;

const REGISTERS: usize = 4;

#[derive(Default)]
struct Record {
    /// Acknowledged writes: revision to register and value.
    acknowledged: Mutex<BTreeMap<Revision, (usize, u64)>>,
    /// The largest value of each register that was acknowledged.
    highest: [AtomicU64; REGISTERS],
    stale_reads: AtomicU64,
    stop: AtomicBool,
}

/// The clients of the nodes that run, and of a machine without a vote. A node's own client is the one that still reaches
/// it when it is cut off.
type Clients = Arc<Mutex<BTreeMap<u64, Arc<StoreClient>>>>;

/// Counts one register up: reads it, writes one more if it is still the same.
async fn count_up(clients: Clients, number: usize, record: Arc<Record>) {
    let register = number % REGISTERS;
    let key = key(format!("register-{register}"));
    let mut random = StdRng::seed_from_u64(number as u64);
    while !record.stop.load(Ordering::Relaxed) {
        let client = {
            let clients = clients.lock();
            clients
                .values()
                .nth(random.random_range(0..clients.len()))
                .unwrap()
                .clone()
        };
        let at_least = record.highest[register].load(Ordering::SeqCst);
        let Ok(read) = client.read(&key).await else { continue };
        let (old, precondition) = match &read {
            Some(object) => (value(object), Precondition::Revision(object.header.revision)),
            None => (0, Precondition::Absent),
        };
        if old < at_least {
            record.stale_reads.fetch_add(1, Ordering::Relaxed);
        }
        if let Ok(committed) = client.propose(put(&key, precondition, old + 1)).await {
            let before = record
                .acknowledged
                .lock()
                .insert(committed.revisions[0], (register, old + 1));
            assert_eq!(before, None, "revision {} was told twice", committed.revisions[0]);
            record.highest[register].fetch_max(old + 1, Ordering::SeqCst);
        }
    }
}

/// Makes life hard, from a seed.
async fn disturb(cluster: &mut Cluster, clients: &Clients, random: &mut StdRng, for_how_long: Duration) {
    let begun = Instant::now();
    // One fault is always there, for long enough that another leader is elected behind the back of the first.
    let leader = cluster.leader().await;
    cluster.mesh.isolate(&name(leader), &cluster.names());
    let others: Vec<u64> = cluster.nodes.keys().copied().filter(|id| *id != leader).collect();
    cluster.leader_among(&others).await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    cluster.mesh.heal();
    while begun.elapsed() < for_how_long {
        let ids: Vec<u64> = cluster.nodes.keys().copied().collect();
        let victim = ids[random.random_range(0..ids.len())];
        match random.random_range(0..6) {
            0 => cluster
                .mesh
                .isolate(&name(victim), &[cluster.names(), vec![name(9)]].concat()),
            1 => cluster.mesh.cut_one_way(&name(victim), &name(1 + victim % 3)),
            2 => cluster.mesh.lose(random.random_range(10..200)),
            3 => cluster.mesh.delay(random.random_range(5..120)),
            4 => {
                clients.lock().remove(&victim);
                cluster.stop(victim).await;
                tokio::time::sleep(Duration::from_millis(random.random_range(0..800))).await;
                cluster.start(victim).await;
                clients.lock().insert(victim, cluster.nodes[&victim].client.clone());
            }
            _ => {
                let leader = cluster.leader().await;
                cluster
                    .mesh
                    .isolate(&name(leader), &[cluster.names(), vec![name(9)]].concat());
            }
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(100..2000))).await;
        cluster.mesh.heal();
        tokio::time::sleep(Duration::from_millis(random.random_range(0..1500))).await;
    }
}

/// Checks the whole history against what was acknowledged.
async fn check(client: &StoreClient, record: &Record) {
    let request = WatchRequest {
        resources: vec![],
        after: Some(Revision::ZERO),
        ..WatchRequest::default()
    };
    let mut watch = client.watch(request).await.unwrap();
    let mut acknowledged = std::mem::take(&mut *record.acknowledged.lock());
    let told = acknowledged.len();
    let mut counts = [0; REGISTERS];
    let mut last = Revision::ZERO;
    while !acknowledged.is_empty() {
        match watch.next().await.expect("the watch ended early") {
            WatchItem::Event(event) => {
                assert_eq!(event.revision, last.next(), "a gap in the history");
                last = event.revision;
                let register: usize = event.key.name.strip_prefix("register-").unwrap().parse().unwrap();
                counts[register] += 1;
                assert_eq!(
                    value(&event.object),
                    counts[register],
                    "a compare-and-set write was lost or doubled"
                );
                if let Some(told) = acknowledged.remove(&event.revision) {
                    assert_eq!(
                        told,
                        (register, counts[register]),
                        "revision {last} holds another write"
                    );
                }
            }
            WatchItem::Progress(upto) => {
                panic!("acknowledged but not in the history up to {upto}: {acknowledged:?}");
            }
            WatchItem::Lost(error) => panic!("{error}"),
        }
    }
    assert!(
        told > 100,
        "only {told} writes were acknowledged: the test has not tested much"
    );
    assert_eq!(
        record.stale_reads.load(Ordering::Relaxed),
        0,
        "reads showed less than was acknowledged before"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_and_reads_are_never_stale() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random);
    println!("SEED={seed}");
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(directory.path());
    cluster.configure = |config| {
        // Snapshots and purges happen many times during the test.
        config.retention.log_bytes = 100 << 10;
        config.retention.log_kept_bytes = 10 << 10;
    };
    cluster.form(3).await;
    let record = Arc::new(Record::default());
    let outsider = cluster.client(&name(9), None);
    let clients: Clients = Arc::new(Mutex::new(BTreeMap::from([(9, outsider.clone())])));
    clients
        .lock()
        .extend(cluster.nodes.iter().map(|(id, node)| (*id, node.client.clone())));
    let counters = (0..16).map(|number| tokio::spawn(count_up(clients.clone(), number, record.clone())));
    let counters: Vec<_> = counters.collect();
    let mut random = StdRng::seed_from_u64(seed);
    disturb(&mut cluster, &clients, &mut random, Duration::from_secs(15)).await;
    record.stop.store(true, Ordering::Relaxed);
    for counter in counters {
        counter.await.unwrap();
    }
    clients.lock().clear();
    cluster.leader().await;
    check(&outsider, &record).await;
    // All replicas hold the same.
    let list = protocol::store::ListRequest::all("pods");
    let expected = outsider.list(list.clone()).await.unwrap();
    for node in cluster.nodes.values() {
        assert_eq!(node.client.list(list.clone()).await.unwrap().items, expected.items);
    }
    cluster.stop_all().await;
}
