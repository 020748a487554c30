//! The figures of the node process that are promised, as medians over many runs. They are printed as `measured:` lines, and
//! checked against bounds that a busy machine can hold as well.

use std::time::{Duration, Instant};

use tests::{Cluster, wait_for};

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}

fn manifest(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  - {{name: c, image: \"actorium.local/busybox:1\", command: [sleep, \"1000\"]}}\n"
    )
}

#[test]
fn a_node_is_quick_and_small() {
    let mut starts = Vec::new();
    for number in 10..15 {
        let mut cluster = Cluster::empty(number);
        starts.push(cluster.add(Default::default()));
    }
    println!(
        "measured: cold start of a one-node cluster to Ready, median of 5: {} ms",
        median(starts.clone()).as_millis()
    );
    assert!(median(starts) < Duration::from_secs(2));

    let cluster = Cluster::start(15, 1);
    let resident = || {
        let text = std::fs::read_to_string(format!("/proc/{}/status", cluster.pid(0))).expect("the process lives");
        let line = text
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .expect("its memory is told")
            .to_owned();
        line.split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse::<u64>().ok())
            .expect("a number")
            / 1024
    };
    // Settled: the same figure twice, two seconds apart.
    let mut last = 0;
    wait_for("the memory of an idle node settles", Duration::from_secs(30), || {
        std::thread::sleep(Duration::from_secs(2));
        let now = resident();
        if std::mem::replace(&mut last, now) == now {
            Ok(())
        } else {
            Err(format!("{now} MiB"))
        }
    });
    println!("measured: resident memory of an idle node process: {} MiB", resident());
    assert!(resident() <= 80, "{} MiB", resident());

    cluster.import_images(0);
    let kubectl = cluster.kubectl(0);
    kubectl.apply(&manifest("warm-up"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let client = cluster.client(0).expect("a client");
    let running = |name: &str| {
        let path = format!("/api/v1/namespaces/default/pods/{name}");
        loop {
            let pod = runtime.block_on(client.get(&path)).expect("the pod is read");
            if pod["status"]["phase"] == "Running" {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    running("warm-up");
    let (mut with_kubectl, mut from_create) = (Vec::new(), Vec::new());
    for number in 0..15 {
        let name = format!("pod-{number}");
        let begun = Instant::now();
        kubectl.apply(&manifest(&name));
        running(&name);
        with_kubectl.push(begun.elapsed());
    }
    for number in 0..30 {
        let name = format!("quick-{number}");
        let pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "image": "actorium.local/busybox:1", "command": ["sleep", "1000"]}]},
        });
        let begun = Instant::now();
        let path = "/api/v1/namespaces/default/pods";
        let bytes = pod.to_string().into_bytes();
        runtime
            .block_on(client.request("POST", path, "application/json", "application/json", bytes))
            .expect("created");
        running(&name);
        from_create.push(begun.elapsed());
    }
    println!(
        "measured: kubectl apply to Running, kubectl's own time included, median of 15: {} ms",
        median(with_kubectl.clone()).as_millis()
    );
    println!(
        "measured: POST of a pod to Running, median of 30: {} ms",
        median(from_create.clone()).as_millis()
    );
    assert!(median(from_create) < Duration::from_millis(150));
}
