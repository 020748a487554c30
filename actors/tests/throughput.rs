//! How fast the control plane is over the store in memory: a bound that a regression would break, and the figures printed
//! with `--nocapture`. No consensus, no disk: this measures the actors alone.
#![allow(clippy::disallowed_methods)] // it measures time

mod world;

use std::time::Instant;

use serde_json::json;
use world::{World, deployment};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_pods_of_a_hundred_deployments_run_within_the_bound() {
    let world = World::with_nodes(&["n1", "n2", "n3", "n4", "n5", "n6"]).await;
    let begun = Instant::now();
    for i in 0..100 {
        world
            .create(
                "deployments.apps",
                "default",
                deployment(&format!("web-{i}"), 20, "web:1"),
            )
            .await;
    }
    world
        .until("two thousand pods run", async |world: &World| {
            let pods = world
                .store_count("pods", |pod| pod["status"]["phase"] == "Running")
                .await;
            pods == 2_000
        })
        .await;
    let elapsed = begun.elapsed();
    println!("2000 pods of 100 deployments running after {elapsed:?}");
    let begun = Instant::now();
    let key = protocol::Key::new("deployments.apps", "default", "web-7");
    world
        .edit(&key, |deployment| deployment["spec"]["replicas"] = json!(21))
        .await;
    world.deployment_is_complete("web-7", 21).await;
    println!("one more pod, among 2000, after {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_pod_is_bound_within_milliseconds() {
    let world = World::with_nodes(&["n1", "n2"]).await;
    let mut waits = Vec::new();
    for i in 0..50 {
        let begun = Instant::now();
        let name = format!("web-{i}");
        world
            .create("deployments.apps", "default", deployment(&name, 1, "web:1"))
            .await;
        world
            .until("its pod is bound", async |world: &World| {
                let bound = world.store_count("pods", |pod| {
                    pod["metadata"]["labels"]["app"] == *name && pod["spec"]["nodeName"].is_string()
                });
                bound.await == 1
            })
            .await;
        waits.push(begun.elapsed());
    }
    waits.sort();
    println!(
        "from a Deployment to its bound pod: median {:?}, longest {:?}",
        waits[25], waits[49]
    );
    assert!(waits[25].as_millis() < 100, "median {:?}", waits[25]);
}
