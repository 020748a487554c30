//! Nodes under the control plane, over the store in memory with a simulated agent: ranges, lost machines, silent zones, and
//! what becomes of their pods.
#![allow(clippy::disallowed_methods)] // it measures how long a node's loss takes

mod world;

use actors::Liveness;
use api::write::DeleteOptions;
use protocol::Key;
use protocol::admin::{AdminReply, AdminRequest};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use world::{World, deployment};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_dead_node_run_elsewhere_soon_and_the_node_recovers() {
    let world = World::with_nodes(&["n1", "n2", "n3"]).await;
    world
        .create("deployments.apps", "default", deployment("web", 6, "web:1"))
        .await;
    world.deployment_is_complete("web", 6).await;
    let begun = tokio::time::Instant::now();
    world.members.set("n2", Liveness::Down);
    world
        .until("six pods run elsewhere", async |world: &World| {
            let pods = world.active_pods().await;
            let elsewhere = pods
                .iter()
                .filter(|(_, pod)| pod["spec"]["nodeName"] != "n2" && pod["status"]["phase"] == "Running");
            elsewhere.count() == 6
        })
        .await;
    let elapsed = begun.elapsed();
    assert!(
        elapsed < Duration::from_secs(4),
        "it took {elapsed:?}: with 4 s to notice, that is more than 8 s"
    );
    let lost = world.read(&Key::new("nodes", "", "n2")).await.unwrap();
    let taints: Vec<(&str, &str)> = lost["spec"]["taints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| (t["key"].as_str().unwrap(), t["effect"].as_str().unwrap()))
        .collect();
    let unreachable = "node.kubernetes.io/unreachable";
    assert_eq!(taints, [(unreachable, "NoSchedule"), (unreachable, "NoExecute")]);
    // Nothing that may still run there was removed.
    let marked = world
        .list("pods")
        .await
        .into_iter()
        .filter(|(_, pod)| pod["spec"]["nodeName"] == "n2");
    assert!(marked.count() > 0);

    // The machine comes back, and says that it is ready as often as its Node says otherwise: an agent does not know how
    // soon the control plane hears of it.
    world.members.set("n2", Liveness::Alive);
    let key = Key::new("nodes", "", "n2");
    world
        .until("the taints are gone", async |world: &World| {
            let node = world.read(&key).await.unwrap();
            if node["status"]["conditions"].to_string().contains("Unknown") {
                let report = |node: &mut Value| {
                    for condition in node["status"]["conditions"].as_array_mut().unwrap() {
                        condition["status"] = json!("True");
                        condition["reason"] = json!("KubeletReady");
                    }
                };
                world.edit(&key, report).await;
            }
            node["spec"]["taints"].is_null()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_most_of_a_zone_goes_silent_at_once_its_pods_stay_until_it_is_heard_again() {
    let nodes = ["n1", "n2", "n3", "n4", "n5"];
    let world = World::with_nodes(&nodes).await;
    world
        .create("deployments.apps", "default", deployment("web", 10, "web:1"))
        .await;
    world.deployment_is_complete("web", 10).await;
    let before: BTreeSet<String> = world
        .active_pods()
        .await
        .iter()
        .map(|(key, _)| key.to_string())
        .collect();
    for node in &nodes[1..] {
        world.members.set(node, Liveness::Down);
    }
    let is_silent = |node: &Value| node["status"]["conditions"][0]["status"] == "Unknown";
    let marked = |node: &Value| {
        let taints = node["spec"]["taints"].as_array();
        taints.is_some_and(|taints| taints.iter().any(|taint| taint["effect"] == "NoExecute"))
    };
    world
        .until("four nodes are silent, and Services know it", async |world: &World| {
            let ready = |pod: &Value| {
                let conditions = pod["status"]["conditions"].as_array();
                conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
            };
            world.store_count("nodes", is_silent).await == 4 && world.store_count("pods", ready).await == 2
        })
        .await;
    // The first ones may have been marked before the others were known to be silent, and no more than those: one, and
    // one more a second later.
    let marks = world.store_count("nodes", marked).await;
    assert!(marks <= 2, "{marks} nodes are marked");
    let brake = AdminRequest::Ask {
        path: "/cluster/node-evictions".into(),
        question: "state".into(),
    };
    let state = world.registry.serve(brake).await.unwrap();
    assert!(
        matches!(&state, AdminReply::Json(state) if state.contains("\"Partial\"")),
        "{state:?}"
    );
    // At the usual rate, two more nodes would be marked in this time.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(world.store_count("nodes", marked).await, marks, "the brake holds");
    let lost = world.list("pods").await;
    let lost = lost
        .iter()
        .filter(|(_, pod)| !pod["metadata"]["deletionTimestamp"].is_null());
    assert!(lost.count() <= 2 * marks, "pods of other nodes are driven away");
    for node in &nodes[1..] {
        world.members.set(node, Liveness::Alive);
    }
    // A node's actor may still be writing what it believed before it heard that: agents say again and again what is.
    world
        .until("all nodes and pods are ready again", async |world: &World| {
            for node in &nodes[1..] {
                world
                    .edit(&Key::new("nodes", "", *node), |node| {
                        node["status"]["conditions"][0]["status"] = json!("True");
                    })
                    .await;
            }
            for (pod, _) in world.active_pods().await {
                world
                    .edit(&pod, |pod| {
                        let conditions = pod["status"]["conditions"].as_array_mut().unwrap().iter_mut();
                        conditions
                            .filter(|c| c["type"] == "Ready")
                            .for_each(|c| c["status"] = json!("True"));
                    })
                    .await;
            }
            let ready = |pod: &Value| {
                let conditions = pod["status"]["conditions"].as_array();
                conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
            };
            world.store_count("nodes", is_silent).await == 0 && world.store_count("pods", ready).await == 10
        })
        .await;
    world.deployment_is_complete("web", 10).await;
    let after: BTreeSet<String> = world
        .active_pods()
        .await
        .iter()
        .map(|(key, _)| key.to_string())
        .collect();
    assert!(
        before.intersection(&after).count() >= 10 - 2 * marks,
        "{before:?} {after:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_deleted_node_are_removed() {
    let world = World::with_nodes(&["n1", "n2"]).await;
    world
        .create("deployments.apps", "default", deployment("web", 4, "web:1"))
        .await;
    world.deployment_is_complete("web", 4).await;
    world.members.set("n2", Liveness::Down);
    world
        .until("its pods are marked", async |world: &World| {
            world
                .active_pods()
                .await
                .iter()
                .all(|(_, pod)| pod["spec"]["nodeName"] != "n2")
        })
        .await;
    world
        .delete(&Key::new("nodes", "", "n2"), DeleteOptions::default())
        .await;
    world
        .until("no pod of it is left", async |world: &World| {
            world
                .list("pods")
                .await
                .iter()
                .all(|(_, pod)| pod["spec"]["nodeName"] == "n1")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_gets_a_pod_range_of_its_own() {
    let names: Vec<String> = (0..40).map(|i| format!("node-{i}")).collect();
    let world = World::with_nodes(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    world
        .until("all nodes have a range", async |world: &World| {
            let nodes = world.list("nodes").await;
            nodes.iter().all(|(_, node)| node["spec"]["podCIDR"].is_string())
        })
        .await;
    let ranges: BTreeSet<String> = world
        .list("nodes")
        .await
        .iter()
        .map(|(_, node)| node["spec"]["podCIDR"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ranges.len(), 40);
}
