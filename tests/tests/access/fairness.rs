//! Priority and fairness: a client that floods the API waits in its own queues, and another one hardly notices. The flood lists,
//! as fast as many connections can, what another lists now and then and reads one by one; figures are printed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::{Value, json};
use shell::client::{Client, ClientError};
use tests::{Cluster, Kubectl};

use crate::SOON;

const OBJECTS: usize = 400;
const CONTENT_BYTES: usize = 2000;
/// Connections of the flood.
const FLOODERS: usize = 96;
/// Reads of the other client in each measurement.
const READS: usize = 100;
/// Lists of the other client in each measurement.
const LISTS: usize = 20;
/// So many times shorter must the other client's lists be in the middle than beside a flood that nothing holds back.
const BETTER: u32 = 2;

fn client_of(cluster: &Cluster, admin: &Kubectl, account: &str) -> Client {
    let token = admin
        .run(&format!("create token {account} -n flooded"))
        .trim()
        .to_owned();
    let kubeconfig = config::Kubeconfig::load(&cluster.kubeconfig(0)).expect("the node wrote it");
    let mut access = kubeconfig
        .access(&cluster.kubeconfig(0), None)
        .expect("the administrator's access");
    access.client_pem = None;
    access.token = Some(token);
    Client::new(access).expect("a client")
}

/// Sorted times of reads one after the other.
async fn read_times(client: &Client) -> Vec<Duration> {
    let mut times = Vec::with_capacity(READS);
    for index in 0..READS {
        let begun = Instant::now();
        let path = format!("/api/v1/namespaces/flooded/configmaps/c{}", index % OBJECTS);
        client.get(&path).await.expect("a read of another client is served");
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    times
}

/// Sorted times of lists one after the other.
async fn list_times(client: &Client) -> Vec<Duration> {
    let mut times = Vec::with_capacity(LISTS);
    for _ in 0..LISTS {
        let begun = Instant::now();
        let path = "/api/v1/namespaces/flooded/configmaps";
        client.get(path).await.expect("a list of another client is served");
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    times
}

fn told(what: &str, times: &[Duration]) {
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1000.0;
    println!("{what}: p50 {:.1} ms, p99 {:.1} ms, of {}", at(50), at(99), times.len());
}

#[derive(Default)]
struct Flood {
    stopped: AtomicBool,
    served: AtomicU64,
    refused: AtomicU64,
}

impl Flood {
    /// One connection's part: lists without a pause, also after a refusal.
    async fn run(&self, client: &Client) {
        while !self.stopped.load(Ordering::Relaxed) {
            match client
                .stream("/api/v1/namespaces/flooded/configmaps", "application/json")
                .await
            {
                Ok(mut parts) => {
                    while let Some(part) = parts.next().await {
                        part.expect("a list comes whole");
                    }
                    self.served.fetch_add(1, Ordering::Relaxed);
                }
                Err(ClientError::Refused { code: 429, .. }) => drop(self.refused.fetch_add(1, Ordering::Relaxed)),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn prepare(admin: &Kubectl) {
    admin.run("create namespace flooded");
    let items: Vec<Value> = (0..OBJECTS)
        .map(|index| {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{index}"), "namespace": "flooded"},
                "data": {"text": "x".repeat(CONTENT_BYTES)}})
        })
        .collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    admin.apply(&list.to_string());
    for account in ["flood", "other"] {
        admin.run(&format!("create serviceaccount {account} -n flooded"));
        admin.run(&format!(
            "create rolebinding {account} -n flooded --clusterrole=view --serviceaccount=flooded:{account}"
        ));
    }
}

/// The other client's reads while a flood goes on, and then its lists, whose times are the answer.
async fn beside_flood(other: &Client, flooding: Arc<Client>, what: &str) -> Vec<Duration> {
    let flood = Arc::new(Flood::default());
    let connections: Vec<_> = (0..FLOODERS)
        .map(|_| {
            let (flood, flooding) = (Arc::clone(&flood), Arc::clone(&flooding));
            tokio::spawn(async move { flood.run(&flooding).await })
        })
        .collect();
    let begun = Instant::now();
    while flood.served.load(Ordering::Relaxed) < FLOODERS as u64 {
        assert!(begun.elapsed() < SOON, "the flood does not come up");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (begun, before) = (Instant::now(), flood.served.load(Ordering::Relaxed));
    told(&format!("reads beside {what}"), &read_times(other).await);
    let times = list_times(other).await;
    let served = flood.served.load(Ordering::Relaxed) - before;
    told(&format!("lists beside {what}"), &times);
    let rate = served as f64 / begun.elapsed().as_secs_f64();
    println!(
        "  the flood: {rate:.0} lists/s, {} refused",
        flood.refused.load(Ordering::Relaxed)
    );
    flood.stopped.store(true, Ordering::Relaxed);
    for connection in connections {
        connection.await.expect("a connection of the flood ends well");
    }
    assert!(served > 0, "the flood stood still");
    times
}

/// The other client's reads: without a flood, beside one that waits its turn, and beside one of an administrator, who is exempt.
pub fn a_flood_does_not_slow_others(cluster: &Cluster, admin: &Kubectl) {
    prepare(admin);
    let flooding = Arc::new(client_of(cluster, admin, "flood"));
    let other = client_of(cluster, admin, "other");
    let exempt = Arc::new(cluster.client(0).expect("the administrator's client"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads");
    let (limited, unlimited) = runtime.block_on(async {
        told("reads without a flood", &read_times(&other).await);
        told("lists without a flood", &list_times(&other).await);
        let limited = beside_flood(&other, flooding, "a flood").await;
        let unlimited = beside_flood(&other, exempt, "a flood that is exempt").await;
        (limited[LISTS / 2], unlimited[LISTS / 2])
    });
    assert!(
        limited * BETTER <= unlimited,
        "{limited:?} beside a flood that waits its turn, {unlimited:?} beside one that does not"
    );
    let metrics = admin.run("get --raw /metrics");
    assert!(
        metrics.contains("apiserver_flowcontrol_current_executing_seats{priority_level=\"workload-low\"}"),
        "{metrics}"
    );
}

/// The headers name the schema and the level, as their objects are called.
pub fn answers_name_their_priority_level(_: &Cluster, admin: &Kubectl) {
    let uid = admin.run("get flowschema exempt -o jsonpath={.metadata.uid}");
    let told = admin.output("get --raw /api/v1/namespaces -v=8");
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(
        told.contains(&uid),
        "no X-Kubernetes-Pf-Flowschema-Uid {uid} in\n{told}"
    );
    let levels = admin.run("get prioritylevelconfigurations -o name");
    assert_eq!(levels.lines().count(), 8, "{levels}");
}
