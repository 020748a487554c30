//! The main job on real processes: three node processes in three network namespaces, the example by the real kubectl, a page
//! through the Service from another node, scale, update, and every kind of loss; at the end every acknowledged write is
//! present and the desired pods run. Figures are printed as `measured:` lines.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tests::{Cluster, wait_for};

/// Where the example is, from this crate.
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/guestbook");

fn measured(what: &str, took: Duration) {
    println!("measured: {what}: {} ms", took.as_millis());
}

fn apply_example(cluster: &Cluster) {
    let kubectl = cluster.kubectl(0);
    for file in ["configmap.yaml", "redis.yaml", "frontend.yaml"] {
        kubectl.run(&format!("apply -f {EXAMPLE}/{file}"));
    }
}

fn service_address(cluster: &Cluster, name: &str) -> SocketAddr {
    let service = cluster.kubectl(0).get(&format!("service {name}"));
    let ip = service["spec"]["clusterIP"]
        .as_str()
        .expect("the service has a cluster address")
        .to_owned();
    let port = service["spec"]["ports"][0]["port"].as_u64().expect("it has a port");
    format!("{ip}:{port}").parse().expect("an address")
}

/// Writes ConfigMaps, one after the other, through whichever node answers, until told to stop. Returns the names that were
/// acknowledged and the longest time without an acknowledgement.
fn write_until(stop: Arc<AtomicBool>, configs: Vec<std::path::PathBuf>) -> (Vec<String>, Duration) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let clients: Vec<_> = configs
        .iter()
        .map(|path| shell::client::Client::load(Some(path), None).expect("a client"))
        .collect();
    let (mut acknowledged, mut gap, mut last) = (Vec::new(), Duration::ZERO, Instant::now());
    let mut number = 0u64;
    let mut through = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let name = format!("written-{number}");
        let body = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"n":"{number}"}}}}"#
        );
        let written = runtime.block_on(async {
            let path = "/api/v1/namespaces/default/configmaps";
            let client = &clients[through % clients.len()];
            let request = client.request("POST", path, "application/json", "application/json", body.into_bytes());
            tokio::time::timeout(Duration::from_millis(700), request).await
        });
        match written {
            Ok(Ok(_)) => {
                gap = gap.max(last.elapsed());
                last = Instant::now();
                acknowledged.push(name);
            }
            _ => through += 1,
        }
    }
    (acknowledged, gap)
}

#[test]
fn the_guestbook_survives_the_loss_of_leader_worker_and_network() {
    let mut cluster = Cluster::empty(1);
    measured(
        "cold start of a one-node cluster to Ready",
        cluster.add(Default::default()),
    );
    measured("a join, second node", cluster.add(Default::default()));
    measured("a join, third node", cluster.add(Default::default()));
    for index in 0..3 {
        cluster.import_images(index);
    }
    apply_example(&cluster);
    measured("the example's four pods Ready after kubectl apply", {
        cluster.await_pods("tier=backend", 1, Duration::from_secs(30));
        cluster.await_pods("tier=frontend", 3, Duration::from_secs(30))
    });

    let address = service_address(&cluster, "frontend");
    await_pages(&cluster, address);

    cluster.kubectl(0).run("scale deployment frontend --replicas=30");
    measured(
        "scale from 3 to 30 Ready pods",
        cluster.await_pods("tier=frontend", 30, Duration::from_secs(60)),
    );
    let image = "set image deployment/frontend frontend=actorium.local/guestbook:v2";
    cluster.kubectl(0).run(image);
    let rollout = Instant::now();
    cluster
        .kubectl(0)
        .run("rollout status deployment/frontend --timeout=120s");
    measured("rolling update of 30 pods", rollout.elapsed());
    cluster.await_pods("tier=frontend", 30, Duration::from_secs(60)); // old pods may still be stopping
    for pod in cluster.pods("tier=frontend").expect("pods are listed") {
        assert_eq!(pod["spec"]["containers"][0]["image"], "actorium.local/guestbook:v2");
    }
    cluster.kubectl(0).run("scale deployment frontend --replicas=9");
    cluster.await_pods("tier=frontend", 9, Duration::from_secs(60));

    let stop = Arc::new(AtomicBool::new(false));
    let configs = (0..3).map(|index| cluster.kubeconfig(index)).collect();
    let writer = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || write_until(stop, configs)
    });
    std::thread::sleep(Duration::from_millis(500)); // lets the writer write before its leader dies; nothing depends on it
    lose_the_leader(&mut cluster);
    lose_a_worker(&mut cluster);
    cut_a_node_off(&mut cluster);
    stop.store(true, Ordering::Relaxed);
    let (acknowledged, gap) = writer.join().expect("the writer ends");
    measured(
        "the longest time in which no write was acknowledged, over all three losses",
        gap,
    );
    println!("measured: acknowledged writes: {}", acknowledged.len());
    assert!(!acknowledged.is_empty(), "no write was acknowledged at all");
    let stored = cluster
        .read("/api/v1/namespaces/default/configmaps")
        .expect("config maps are listed");
    let names: std::collections::BTreeSet<&str> = stored["items"]
        .as_array()
        .expect("items")
        .iter()
        .filter_map(|item| item["metadata"]["name"].as_str())
        .collect();
    for name in &acknowledged {
        assert!(names.contains(name.as_str()), "the acknowledged write {name} is lost");
    }
    cluster.await_pods("tier=frontend", 9, Duration::from_secs(60));
    cluster.await_pods("tier=backend", 1, Duration::from_secs(60));
    await_pages(&cluster, address);
    await_no_forgotten_process(&cluster);
}

/// Waits until every node gives a page through the Service, with an entry that it has just made.
fn await_pages(cluster: &Cluster, address: SocketAddr) {
    for node in &cluster.nodes {
        let page = || match node.machine.get(address, "/?add=hello") {
            Ok(page) if page.contains("200 OK") && page.contains("<li>hello") => Ok(()),
            Ok(page) => Err(page),
            Err(error) => Err(error),
        };
        wait_for(
            &format!("a page through the Service from {}", node.name),
            Duration::from_secs(10),
            page,
        );
    }
}

/// Waits until as many front ends run on each machine as the API says: a node that was lost and came back has ended those
/// whose pods were given to others.
fn await_no_forgotten_process(cluster: &Cluster) {
    let serves = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("guestbook.py")
    };
    for node in &cluster.nodes {
        wait_for("the processes are those of the pods", Duration::from_secs(20), || {
            let pods = cluster.pods("tier=frontend")?;
            let told = pods.iter().filter(|pod| pod["spec"]["nodeName"] == *node.name).count();
            let in_groups = tests::remains::pids_in_group(&format!("/actorium/{}/", node.name));
            let found = in_groups.iter().filter(|pid| serves(pid)).count();
            if found == told {
                Ok(())
            } else {
                Err(format!("{found} processes of {told} pods on {}", node.name))
            }
        });
    }
}

/// Kills the leader's process; its pods run on and the node comes back.
fn lose_the_leader(cluster: &mut Cluster) {
    let leader = cluster.leader();
    let killed = Instant::now();
    cluster.kill_node(leader);
    let other = (leader + 1) % 3;
    let client = cluster.client(other).expect("a client");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let write = || {
        let body = br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"after-"}}"#.to_vec();
        let path = "/api/v1/namespaces/default/configmaps";
        let request = client.request("POST", path, "application/json", "application/json", body);
        let answer = runtime.block_on(async { tokio::time::timeout(Duration::from_millis(500), request).await });
        answer
            .map_err(|_| "no answer".to_owned())?
            .map_err(|error| error.to_string())
            .map(|_| ())
    };
    wait_for(
        "a write is accepted after the leader's death",
        Duration::from_secs(15),
        write,
    );
    measured("writes accepted again after kill -9 of the leader", killed.elapsed());
    cluster.restart_node(leader);
}

/// A node that does not lead, is Ready, and runs some of the frontends: after earlier losses they are spread again.
fn worker_with_pods(cluster: &Cluster) -> (usize, String) {
    cluster
        .kubectl(cluster.leader())
        .run("rollout restart deployment/frontend");
    cluster
        .kubectl(cluster.leader())
        .run("rollout status deployment/frontend --timeout=60s");
    cluster.await_pods("tier=frontend", 9, Duration::from_secs(60));
    let worker = (cluster.leader() + 1) % 3;
    let name = cluster.nodes[worker].name.clone();
    assert_eq!(node_is_ready(cluster, &name), Ok(true));
    let pods = cluster.pods("tier=frontend").expect("pods are listed");
    let count = pods.iter().filter(|pod| pod["spec"]["nodeName"] == *name).count();
    assert!(count > 0, "no frontend runs on {name}");
    (worker, name)
}

fn node_is_ready(cluster: &Cluster, name: &str) -> Result<bool, String> {
    let node = cluster.read(&format!("/api/v1/nodes/{name}"))?;
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    Ok(conditions
        .iter()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True"))
}

/// Waits until a lost node is noticed and its frontends run elsewhere.
fn await_replacement(cluster: &Cluster, lost: &str, since: Instant, how: &str) {
    wait_for("the dead node is noticed", Duration::from_secs(20), || {
        if node_is_ready(cluster, lost)? {
            Err("still Ready".to_owned())
        } else {
            Ok(())
        }
    });
    measured(&format!("dead node noticed ({how})"), since.elapsed());
    wait_for("its pods run elsewhere", Duration::from_secs(40), || {
        let pods = cluster.pods("tier=frontend")?;
        let elsewhere = |pod: &&serde_json::Value| pod["spec"]["nodeName"] != *lost && tests::cluster::is_ready(pod);
        let count = pods.iter().filter(elsewhere).count();
        if count == 9 {
            Ok(())
        } else {
            Err(format!("{count} of 9"))
        }
    });
    measured(&format!("its pods run elsewhere ({how})"), since.elapsed());
}

/// Kills a node that does not lead and cuts it off, as a machine that lost its power: nothing of it answers.
fn lose_a_worker(cluster: &mut Cluster) {
    let (worker, name) = worker_with_pods(cluster);
    let since = Instant::now();
    cluster.kill_node(worker);
    await_replacement(cluster, &name, since, "kill -9");
    cluster.restart_node(worker);
}

/// Drops all packets of a node that does not lead, then lets them pass again.
fn cut_a_node_off(cluster: &mut Cluster) {
    let (worker, name) = worker_with_pods(cluster);
    let since = Instant::now();
    cluster.nodes[worker].machine.cut(true);
    await_replacement(cluster, &name, since, "packets dropped");
    cluster.nodes[worker].machine.cut(false);
    cluster.await_ready(&name);
    cluster.await_alive(worker, 0);
}
