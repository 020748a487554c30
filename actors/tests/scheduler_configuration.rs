//! The scheduler's configuration in a ConfigMap, over the store in memory with a simulated agent: profiles come from it, it is
//! obeyed as soon as it changes, and what cannot be used is noted and changes nothing.

mod world;

use protocol::Key;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use world::{World, deployment};

fn config_map(text: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-scheduler", "namespace": "kube-system"},
        "data": {"config.yaml": text}})
}

fn key() -> Key {
    Key::new("configmaps", "kube-system", "kube-scheduler")
}

/// Two profiles: the default, and one that packs pods onto few nodes.
const PACKING: &str = "
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- schedulerName: default-scheduler
- schedulerName: packing
  plugins:
    score:
      disabled: [{name: NodeResourcesBalancedAllocation}, {name: PodTopologySpread}]
  pluginConfig:
  - name: NodeResourcesFit
    args:
      scoringStrategy: {type: MostAllocated}
";

fn of_profile(name: &str, replicas: u64, profile: &str) -> Value {
    let mut value = deployment(name, replicas, "web:1");
    let spec = &mut value["spec"]["template"]["spec"];
    spec["schedulerName"] = json!(profile);
    spec["containers"][0]["resources"] = json!({"requests": {"cpu": "1", "memory": "1Gi"}});
    value
}

async fn nodes_of(world: &World, app: &str) -> BTreeSet<String> {
    let pods = world.active_pods().await;
    let own = pods.iter().filter(|(_, pod)| pod["metadata"]["labels"]["app"] == app);
    own.map(|(_, pod)| pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_scheduled_by_the_profile_that_they_name() {
    let world = World::with_nodes(&["n1", "n2", "n3"]).await;
    world
        .create("deployments.apps", "default", of_profile("packed", 6, "packing"))
        .await;
    world
        .until("the pods are there", async |world: &World| {
            world.active_pods().await.len() == 6
        })
        .await;
    // No profile has this name: nobody binds them.
    assert_eq!(nodes_of(&world, "packed").await, BTreeSet::from([String::new()]));
    world.create("configmaps", "kube-system", config_map(PACKING)).await;
    world.deployment_is_complete("packed", 6).await;
    assert_eq!(nodes_of(&world, "packed").await.len(), 1, "they are packed");
    world
        .create(
            "deployments.apps",
            "default",
            of_profile("spread", 6, "default-scheduler"),
        )
        .await;
    world.deployment_is_complete("spread", 6).await;
    assert!(nodes_of(&world, "spread").await.len() > 1, "they are spread");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_cannot_be_used_is_noted_and_changes_nothing() {
    let world = World::with_nodes(&["n1"]).await;
    world.create("configmaps", "kube-system", config_map(PACKING)).await;
    world
        .create("deployments.apps", "default", of_profile("first", 1, "packing"))
        .await;
    world.deployment_is_complete("first", 1).await;
    world
        .edit(&key(), |map| {
            map["data"]["config.yaml"] =
                json!("apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofils: []\n");
        })
        .await;
    world
        .until("it is noted", async |world: &World| {
            let events = world.list("events").await;
            events.iter().any(|(_, event)| {
                event["reason"] == "InvalidConfiguration"
                    && event["message"]
                        .as_str()
                        .is_some_and(|words| words.contains("unknown field `profils`"))
            })
        })
        .await;
    world
        .create("deployments.apps", "default", of_profile("second", 1, "packing"))
        .await;
    world.deployment_is_complete("second", 1).await;
}
