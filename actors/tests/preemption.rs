//! Preemption in the scheduler's actor, over the store in memory with simulated agents: who has to leave for whom, how, and
//! when the place is taken.

mod world;

use std::sync::atomic::Ordering;

use protocol::Key;
use serde_json::{Value, json};
use world::World;

const HIGH: &str = "high";

async fn class(world: &World, name: &str, value: i64, policy: &str) {
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
        "value": value, "preemptionPolicy": policy});
    world.create("priorityclasses.scheduling.k8s.io", "", class).await;
}

/// A pod that takes nearly half of a node, and may be told where to run.
fn pod(name: &str, app: &str, class: Option<&str>, node: Option<&str>) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "labels": {"app": app}},
        "spec": {"terminationGracePeriodSeconds": 20,
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "30"}}}]},
    });
    if let Some(class) = class {
        pod["spec"]["priorityClassName"] = json!(class);
    }
    if let Some(node) = node {
        pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    }
    pod
}

fn pod_key(name: &str) -> Key {
    Key::new("pods", "default", name)
}

async fn running(world: &World, count: usize) {
    world
        .until(&format!("{count} pods run"), async |world: &World| {
            world
                .store_count("pods", |pod| pod["status"]["phase"] == "Running")
                .await
                == count
        })
        .await;
}

/// The pods that are being deleted.
async fn victims(world: &World) -> Vec<(Key, Value)> {
    let mut pods = world.list("pods").await;
    pods.retain(|(_, pod)| !pod["metadata"]["deletionTimestamp"].is_null());
    pods
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_of_high_priority_takes_the_place_of_one_of_low_priority_when_that_has_left() {
    let world = World::with_nodes(&["n1", "n2"]).await;
    class(&world, HIGH, 1000, "PreemptLowerPriority").await;
    for i in 0..4 {
        world
            .create("pods", "default", pod(&format!("low-{i}"), "low", None, None))
            .await;
    }
    running(&world, 4).await;
    world.holds_pods.store(true, Ordering::Release);
    let high = world
        .create("pods", "default", pod("important", "high", Some(HIGH), None))
        .await;
    world
        .until("the pod is nominated for a node", async |world: &World| {
            let pod = world.read(&high).await.unwrap();
            pod["status"]["nominatedNodeName"].is_string() && !victims(world).await.is_empty()
        })
        .await;
    let nominated = world.read(&high).await.unwrap()["status"]["nominatedNodeName"].clone();
    let leaving = victims(&world).await;
    let [(victim, value)] = leaving.as_slice() else {
        panic!("one has to leave: {leaving:?}")
    };
    assert!(victim.name.starts_with("low-"), "{victim}");
    assert_eq!(value["spec"]["nodeName"], nominated);
    assert_eq!(
        value["metadata"]["deletionGracePeriodSeconds"], 20,
        "it is asked to leave, with its grace"
    );
    let target = value["status"]["conditions"].as_array().unwrap().iter();
    let target = target.clone().find(|c| c["type"] == "DisruptionTarget").unwrap();
    assert_eq!(
        (&target["status"], &target["reason"]),
        (&json!("True"), &json!("PreemptionByScheduler"))
    );
    world
        .until("people are told", async |world: &World| {
            world
                .store_count("events", |event| event["reason"] == "Preempted")
                .await
                == 1
        })
        .await;

    // A pod that comes meanwhile must not take the place, and the important one must not be bound before it is free.
    let late = world.create("pods", "default", pod("late", "late", None, None)).await;
    world
        .until("the late pod was refused", async |world: &World| {
            let pod = world.read(&late).await.unwrap();
            pod["status"]["conditions"][0]["reason"] == "Unschedulable"
        })
        .await;
    assert!(world.read(&high).await.unwrap()["spec"]["nodeName"].is_null());
    assert_eq!(victims(&world).await.len(), 1, "nobody else has to leave");

    world.holds_pods.store(false, Ordering::Release);
    world.remove(victim).await;
    world
        .until("the important pod runs in its place", async |world: &World| {
            let pod = world.read(&high).await.unwrap();
            pod["status"]["phase"] == "Running" && pod["spec"]["nodeName"] == nominated
        })
        .await;
    let pod = world.read(&high).await.unwrap();
    assert_eq!(
        (&pod["spec"]["priority"], &pod["spec"]["preemptionPolicy"]),
        (&json!(1000), &json!("PreemptLowerPriority"))
    );
    assert!(world.read(&late).await.unwrap()["spec"]["nodeName"].is_null());
    let left = world
        .store_count("pods", |pod| pod["metadata"]["labels"]["app"] == "low")
        .await;
    assert_eq!(left, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_priority_and_a_policy_of_never_preempt_nobody() {
    let world = World::with_nodes(&["n1"]).await;
    class(&world, HIGH, 1000, "PreemptLowerPriority").await;
    class(&world, "patient", 2000, "Never").await;
    for name in ["a", "b"] {
        world
            .create("pods", "default", pod(name, "first", Some(HIGH), None))
            .await;
    }
    running(&world, 2).await;
    for (name, class) in [("equal", HIGH), ("patient", "patient")] {
        let key = world
            .create("pods", "default", pod(name, "second", Some(class), None))
            .await;
        world
            .until("it is refused", async |world: &World| {
                let pod = world.read(&key).await.unwrap();
                pod["status"]["conditions"][0]["reason"] == "Unschedulable"
            })
            .await;
        let pod = world.read(&key).await.unwrap();
        assert!(pod["status"]["nominatedNodeName"].is_null(), "{}", pod["status"]);
        assert!(victims(&world).await.is_empty());
    }
    // A place that becomes free is taken.
    world.remove(&pod_key("equal")).await;
    world.remove(&pod_key("a")).await;
    world
        .until("the patient pod runs", async |world: &World| {
            world.read(&pod_key("patient")).await.unwrap()["status"]["phase"] == "Running"
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_that_comes_after_its_pods_counts() {
    let world = World::with_nodes(&["n1"]).await;
    for name in ["a", "b"] {
        world.create("pods", "default", pod(name, "low", None, None)).await;
    }
    running(&world, 2).await;
    let waiting = world
        .create("pods", "default", pod("waiting", "high", Some(HIGH), None))
        .await;
    world
        .until("it is refused", async |world: &World| {
            let pod = world.read(&waiting).await.unwrap();
            pod["status"]["conditions"][0]["reason"] == "Unschedulable"
        })
        .await;
    assert!(victims(&world).await.is_empty());
    class(&world, HIGH, 1000, "PreemptLowerPriority").await;
    world
        .until("it runs", async |world: &World| {
            world.read(&waiting).await.unwrap()["status"]["phase"] == "Running"
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_that_allows_nothing_turns_preemption_elsewhere_and_follows_its_pods() {
    let world = World::with_nodes(&["n1", "n2"]).await;
    class(&world, "middle", 500, "PreemptLowerPriority").await;
    class(&world, HIGH, 1000, "PreemptLowerPriority").await;
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "guard", "namespace": "default"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "guarded"}}},
    });
    let budget = world.create("poddisruptionbudgets.policy", "default", budget).await;
    // Without the budget, the pods of low priority on n1 would have to leave.
    for (name, app, class, node) in [
        ("a", "guarded", None, "n1"),
        ("b", "guarded", None, "n1"),
        ("c", "free", Some("middle"), "n2"),
        ("d", "free", Some("middle"), "n2"),
    ] {
        let pod = pod(name, app, class, Some(node));
        world.create("pods", "default", pod).await;
    }
    running(&world, 4).await;
    let allows = async |world: &World, healthy: i64, allowed: i64| {
        let status = world.read(&budget).await.unwrap()["status"].clone();
        (&status["currentHealthy"], &status["disruptionsAllowed"]) == (&json!(healthy), &json!(allowed))
            && status["expectedPods"] == healthy
            && status["desiredHealthy"] == 2
    };
    world
        .until("the budget has counted its pods", async |world: &World| {
            allows(world, 2, 0).await
        })
        .await;
    let high = world
        .create("pods", "default", pod("important", "high", Some(HIGH), None))
        .await;
    world
        .until("the important pod runs", async |world: &World| {
            world.read(&high).await.unwrap()["status"]["phase"] == "Running"
        })
        .await;
    assert_eq!(world.read(&high).await.unwrap()["spec"]["nodeName"], "n2");
    let guarded = |pod: &Value| pod["metadata"]["labels"]["app"] == "guarded";
    assert_eq!(world.store_count("pods", guarded).await, 2);

    // With a third healthy pod, one may go; a pod that is being deleted counts no more.
    world.add_node("n3").await;
    world
        .create("pods", "default", pod("e", "guarded", None, Some("n3")))
        .await;
    world
        .until("one may be disrupted", async |world: &World| allows(world, 3, 1).await)
        .await;
    let condition = world.read(&budget).await.unwrap()["status"]["conditions"][0].clone();
    assert_eq!(
        (&condition["type"], &condition["status"], &condition["reason"]),
        (&json!("DisruptionAllowed"), &json!("True"), &json!("SufficientPods"))
    );
    world.remove(&pod_key("e")).await;
    world
        .until("none may be disrupted again", async |world: &World| {
            allows(world, 2, 0).await
        })
        .await;
}
