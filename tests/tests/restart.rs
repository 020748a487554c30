//! The node process can be killed and started again under running pods: they have not noticed, and an exit that happened
//! meanwhile is not lost. A machine that was silent for a while has its pods ready again. And all processes of a cluster can
//! be killed at once: its state survives.

use std::time::Duration;

use serde_json::Value;
use tests::{Cluster, wait_for};

fn pod(cluster: &Cluster, name: &str) -> Result<Value, String> {
    cluster.read(&format!("/api/v1/namespaces/default/pods/{name}"))
}

fn status_of(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

const SLEEPER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: sleeper}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: "actorium.local/busybox:1", command: [sh, -c, "n=0; while true; do n=$((n+1)); echo $n; sleep 0.1; done"]}
---
apiVersion: v1
kind: Pod
metadata: {name: worker}
spec:
  restartPolicy: Never
  containers:
  - {name: c, image: "actorium.local/busybox:1", command: [sh, -c, "sleep 6; exit 7"]}
"#;

#[test]
fn pods_do_not_notice_that_their_node_process_was_killed() {
    let mut cluster = Cluster::start(3, 1);
    cluster.import_images(0);
    cluster.kubectl(0).apply(SLEEPER);
    let running = |name: &str| {
        wait_for(&format!("{name} runs"), Duration::from_secs(20), || {
            let pod = pod(&cluster, name)?;
            if pod["status"]["phase"] == "Running" {
                Ok(pod)
            } else {
                Err(pod["status"].to_string())
            }
        })
        .0
    };
    let before = running("sleeper");
    running("worker");
    let pids = |cluster: &Cluster| cluster.pids_of("while true; do n=$((n+1)); echo $n; sleep 0.1; done");
    let pids_before = pids(&cluster);
    assert_eq!(pids_before.len(), 1, "one process of the container: {pids_before:?}");

    let counted = |cluster: &Cluster| -> Vec<u64> {
        let log = cluster.kubectl(0).run("logs sleeper");
        log.lines()
            .map(|line| line.parse().unwrap_or_else(|_| panic!("{line:?}")))
            .collect()
    };
    let counted_before = counted(&cluster).len();
    cluster.kill_node(0);
    assert_eq!(pids(&cluster), pids_before, "the container died with the node process");
    // The worker ends while no node process runs.
    wait_for("the worker's process ends", Duration::from_secs(20), || {
        let left = cluster.pids_of("sleep 6; exit 7");
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    });
    cluster.start_node(0);
    let (ended, _) = wait_for("the exit is found", Duration::from_secs(20), || {
        let pod = pod(&cluster, "worker")?;
        if pod["status"]["phase"] == "Failed" {
            Ok(pod)
        } else {
            Err(pod["status"].to_string())
        }
    });
    assert_eq!(status_of(&ended)["state"]["terminated"]["exitCode"], 7);
    let after = pod(&cluster, "sleeper").expect("it exists");
    assert_eq!(pids(&cluster), pids_before, "the container was restarted");
    assert_eq!(status_of(&after)["restartCount"], 0);
    assert_eq!(status_of(&after)["containerID"], status_of(&before)["containerID"]);
    assert_eq!(status_of(&after)["state"], status_of(&before)["state"]);
    assert_eq!(after["status"]["podIP"], before["status"]["podIP"]);
    // What it wrote meanwhile is in its log, in the log's one file, without a gap. The worker lived for six seconds.
    let numbers = counted(&cluster);
    assert!(
        numbers.len() > counted_before + 10,
        "{counted_before} lines, then {}",
        numbers.len()
    );
    assert!(
        numbers.iter().copied().eq(1..=numbers.len() as u64),
        "lines are missing: {numbers:?}"
    );
}

/// It stays on a machine that is silent for a while.
const PATIENT: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: patient}
spec:
  nodeName: NODE
  terminationGracePeriodSeconds: 1
  tolerations:
  - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 300}
  containers:
  - {name: c, image: "actorium.local/busybox:1", command: [sleep, "600"]}
"#;

#[test]
fn pods_of_a_machine_that_is_heard_again_are_ready_again() {
    let cluster = Cluster::start(10, 3);
    let worker = (cluster.leader() + 1) % 3;
    cluster.import_images(worker);
    cluster
        .kubectl(worker)
        .apply(&PATIENT.replace("NODE", &cluster.nodes[worker].name));
    let ready = |wanted: bool| {
        let what = format!("the pod's readiness is {wanted}");
        wait_for(&what, Duration::from_secs(20), || {
            let pod = pod(&cluster, "patient")?;
            if tests::is_ready(&pod) == wanted {
                Ok(pod)
            } else {
                Err(pod["status"].to_string())
            }
        })
        .0
    };
    let begun = ready(true);
    cluster.nodes[worker].machine.cut(true);
    let silent = ready(false);
    let conditions = silent["status"]["conditions"].as_array().expect("conditions");
    let is_of_the_node = |condition: &&Value| condition["type"] == "Ready" && condition["reason"] == "NodeNotReady";
    assert!(
        conditions.iter().any(|condition| is_of_the_node(&condition)),
        "{silent}"
    );
    cluster.nodes[worker].machine.cut(false);
    let heard = ready(true);
    assert_eq!(heard["metadata"]["uid"], begun["metadata"]["uid"]);
    assert_eq!(status_of(&heard)["containerID"], status_of(&begun)["containerID"]);
}

#[test]
fn state_survives_the_death_of_every_process_at_once() {
    let mut cluster = Cluster::start(5, 3);
    let body = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"kept"},"data":{"a":"b"}}"#;
    cluster.kubectl(0).apply(body);
    for index in 0..3 {
        cluster.kill_node(index);
    }
    for index in 0..3 {
        cluster.start_node(index);
    }
    let (kept, _) = wait_for("the cluster answers again", Duration::from_secs(30), || {
        cluster.read("/api/v1/namespaces/default/configmaps/kept")
    });
    assert_eq!(kept["data"]["a"], "b");
    cluster.kubectl(1).run("create configmap later --from-literal=x=y");
}

#[test]
fn any_actor_can_be_killed_and_only_it_restarts() {
    let cluster = Cluster::start(6, 1);
    cluster.import_images(0);
    let kubectl = cluster.kubectl(0);
    kubectl.run("create deployment web --image=actorium.local/guestbook:v1 --replicas=2");
    cluster.await_pods("app=web", 2, Duration::from_secs(20));
    let node = cluster.nodes[0].name.clone();
    let pods = cluster.pods("app=web").expect("pods");
    let pod = pods[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let restarts = |path: &String| -> u64 {
        let (done, text) = cluster.actorium(0, &["shell", "-o", "json", "-c", &format!("stats {path}")]);
        assert!(done, "{text}");
        let stats: Value = serde_json::from_str(&text).expect("JSON");
        stats["restarts"]
            .as_u64()
            .unwrap_or_else(|| panic!("no restarts in {text}"))
    };
    let paths = [
        "/cluster/scheduler".to_owned(),
        "/cluster/router".to_owned(),
        format!("/nodes/{node}/agent"),
        format!("/nodes/{node}/pods/default/{pod}"),
    ];
    for killed in 0..paths.len() {
        let before = paths.each_ref().map(restarts);
        cluster.shell(0, &format!("kill {}", paths[killed]));
        wait_for(&format!("{} restarts", paths[killed]), Duration::from_secs(10), || {
            let now = restarts(&paths[killed]);
            if now == before[killed] + 1 {
                Ok(())
            } else {
                Err(format!("{now} restarts"))
            }
        });
        for other in (0..paths.len()).filter(|other| *other != killed) {
            assert_eq!(
                restarts(&paths[other]),
                before[other],
                "{} restarted with {}",
                paths[other],
                paths[killed]
            );
        }
    }
    cluster.shell(0, "tell /cluster/default/deployments.apps/web reconcile");
    cluster.shell(0, "kill /cluster/default/deployments.apps/web");
    kubectl.run("scale deployment web --replicas=4");
    cluster.await_pods("app=web", 4, Duration::from_secs(20));
    let now = cluster.pods("app=web").expect("pods");
    let same = pods.iter().all(|old| {
        now.iter()
            .any(|p| p["metadata"]["uid"] == old["metadata"]["uid"] && status_of(p)["restartCount"] == 0)
    });
    assert!(same, "a pod was replaced or restarted because an actor was killed");
}
