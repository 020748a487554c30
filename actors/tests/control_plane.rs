//! The control plane over the store in memory with a simulated agent: what a user sees of Deployments, Services, Namespaces
//! and garbage collection, and what happens when actors are killed. Nodes and preemption have files of their own.

mod world;

use actors::ControlPlaneConfig;
use api::write::{DeleteOptions, PropagationPolicy};
use protocol::Key;
use protocol::admin::{AdminReply, AdminRequest};
use protocol::store::{ObjectStore, Precondition, Proposal, Write};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use world::{World, deployment};

fn web() -> Key {
    Key::new("deployments.apps", "default", "web")
}

fn image_of(pod: &Value) -> &str {
    pod["spec"]["containers"][0]["image"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_rolls_out_scales_and_updates() {
    let world = World::with_nodes(&["n1", "n2", "n3"]).await;
    world
        .create("deployments.apps", "default", deployment("web", 5, "web:1"))
        .await;
    world.deployment_is_complete("web", 5).await;
    let nodes: BTreeSet<String> = world
        .active_pods()
        .await
        .iter()
        .map(|(_, pod)| pod["spec"]["nodeName"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(nodes.len(), 3, "pods are spread: {nodes:?}");

    world
        .edit(&web(), |deployment| deployment["spec"]["replicas"] = json!(12))
        .await;
    world.deployment_is_complete("web", 12).await;
    world
        .edit(&web(), |deployment| deployment["spec"]["replicas"] = json!(4))
        .await;
    world.deployment_is_complete("web", 4).await;
    assert_eq!(world.active_pods().await.len(), 4);

    world
        .edit(&web(), |d| {
            d["spec"]["template"]["spec"]["containers"][0]["image"] = json!("web:2")
        })
        .await;
    world.deployment_is_complete("web", 4).await;
    world
        .until("only pods of the new image remain", async |world: &World| {
            let pods = world.active_pods().await;
            pods.len() == 4 && pods.iter().all(|(_, pod)| image_of(pod) == "web:2")
        })
        .await;
    let deployment = world.read(&web()).await.unwrap();
    assert_eq!(
        deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"],
        "2"
    );
    let conditions = deployment["status"]["conditions"].as_array().unwrap();
    let reason = |kind: &str| {
        conditions
            .iter()
            .find(|c| c["type"] == kind)
            .map(|c| c["reason"].clone())
    };
    assert_eq!(reason("Progressing"), Some(json!("NewReplicaSetAvailable")));
    assert_eq!(reason("Available"), Some(json!("MinimumReplicasAvailable")));

    // kubectl rollout undo: the former template again. Its ReplicaSet is used again and gets the next revision.
    world
        .edit(&web(), |d| {
            d["spec"]["template"]["spec"]["containers"][0]["image"] = json!("web:1")
        })
        .await;
    world
        .until("the old image is back", async |world: &World| {
            let pods = world.active_pods().await;
            pods.len() == 4 && pods.iter().all(|(_, pod)| image_of(pod) == "web:1")
        })
        .await;
    assert_eq!(world.list("replicasets.apps").await.len(), 2);
    world
        .until("the revision is 3", async |world: &World| {
            world.read(&web()).await.unwrap()["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recreate_never_runs_two_templates_at_once() {
    let world = World::with_nodes(&["n1"]).await;
    let mut recreate = deployment("web", 3, "web:1");
    recreate["spec"]["strategy"] = json!({"type": "Recreate"});
    world.create("deployments.apps", "default", recreate).await;
    world.deployment_is_complete("web", 3).await;
    world
        .edit(&web(), |d| {
            d["spec"]["template"]["spec"]["containers"][0]["image"] = json!("web:2")
        })
        .await;
    world
        .until("the new template runs", async |world: &World| {
            let images: BTreeSet<String> = world
                .list("pods")
                .await
                .iter()
                .map(|(_, pod)| image_of(pod).to_owned())
                .collect();
            assert!(images.len() <= 1, "both templates have pods: {images:?}");
            images.contains("web:2") && world.active_pods().await.len() == 3
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_deployment_scales_but_does_not_roll() {
    let world = World::with_nodes(&["n1"]).await;
    world
        .create("deployments.apps", "default", deployment("web", 2, "web:1"))
        .await;
    world.deployment_is_complete("web", 2).await;
    world
        .edit(&web(), |d| {
            d["spec"]["paused"] = json!(true);
            d["spec"]["template"]["spec"]["containers"][0]["image"] = json!("web:2");
            d["spec"]["replicas"] = json!(4);
        })
        .await;
    world
        .until("there are four pods", async |world: &World| {
            world.active_pods().await.len() == 4
        })
        .await;
    assert!(
        world
            .active_pods()
            .await
            .iter()
            .all(|(_, pod)| image_of(pod) == "web:1")
    );
    world.edit(&web(), |d| d["spec"]["paused"] = json!(false)).await;
    world.deployment_is_complete("web", 4).await;
    world
        .until("it rolled", async |world: &World| {
            world
                .active_pods()
                .await
                .iter()
                .all(|(_, pod)| image_of(pod) == "web:2")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_follows_its_pods() {
    let world = World::with_nodes(&["n1"]).await;
    world
        .create(
            "services",
            "default",
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
                "spec": {"clusterIP": "10.96.0.50", "clusterIPs": ["10.96.0.50"], "selector": {"app": "web"},
                    "ports": [{"port": 80, "targetPort": "http", "protocol": "TCP"}]}}),
        )
        .await;
    world
        .create("deployments.apps", "default", deployment("web", 3, "web:1"))
        .await;
    let ready = async |world: &World, wanted: usize| {
        let slices = world.list("endpointslices.discovery.k8s.io").await;
        let mine = slices
            .iter()
            .filter(|(_, slice)| slice["metadata"]["labels"]["kubernetes.io/service-name"] == "web");
        let endpoints = mine.flat_map(|(_, slice)| slice["endpoints"].as_array().cloned().unwrap_or_default());
        endpoints
            .filter(|endpoint| endpoint["conditions"]["ready"] == true)
            .count()
            == wanted
    };
    world
        .until("three endpoints are ready", async |world: &World| ready(world, 3).await)
        .await;
    let object = Key::new("endpoints", "default", "web");
    let mirrored = async |world: &World, wanted: usize| {
        let endpoints = world.read(&object).await.unwrap_or_default();
        let subset = &endpoints["subsets"][0];
        subset["addresses"].as_array().is_some_and(|all| all.len() == wanted)
            && subset["notReadyAddresses"].is_null()
            && subset["ports"] == json!([{"port": 8080, "protocol": "TCP"}])
    };
    world
        .until("the Endpoints object has them too", async |world: &World| {
            mirrored(world, 3).await
        })
        .await;
    world.edit(&web(), |d| d["spec"]["replicas"] = json!(1)).await;
    world
        .until("one endpoint is left", async |world: &World| {
            ready(world, 1).await && mirrored(world, 1).await
        })
        .await;
    // Made by hand: it has no Service, and nobody takes it away.
    let by_hand =
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "mine", "namespace": "default"}});
    let by_hand = world.create("endpoints", "default", by_hand).await;
    world
        .delete(&Key::new("services", "default", "web"), DeleteOptions::default())
        .await;
    world
        .until("its slices are collected", async |world: &World| {
            let slices = world.list("endpointslices.discovery.k8s.io").await;
            slices
                .iter()
                .all(|(_, slice)| slice["metadata"]["labels"]["kubernetes.io/service-name"] != "web")
                && world.read(&object).await.is_none()
        })
        .await;
    assert!(world.read(&by_hand).await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_whose_service_ended_while_no_control_plane_ran_are_removed() {
    let mut world = World::with_nodes(&["n1"]).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 80}]}});
    let service = world.create("services", "default", service).await;
    let object = Key::new("endpoints", "default", "web");
    world
        .until(
            "the Endpoints object is made, without addresses",
            async |world: &World| {
                world
                    .read(&object)
                    .await
                    .is_some_and(|object| object["subsets"].is_null())
            },
        )
        .await;
    world.control_plane.take().unwrap().stop().await;
    world.delete(&service, DeleteOptions::default()).await;
    assert!(world.read(&object).await.is_some());
    world.start(ControlPlaneConfig::default()).await;
    world
        .until("it is removed", async |world: &World| {
            world.read(&object).await.is_none()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_an_owner_removes_its_subtree_in_each_order() {
    for policy in [PropagationPolicy::Background, PropagationPolicy::Foreground] {
        let world = World::with_nodes(&["n1"]).await;
        world
            .create("deployments.apps", "default", deployment("web", 3, "web:1"))
            .await;
        world.deployment_is_complete("web", 3).await;
        let options = DeleteOptions {
            propagation_policy: Some(policy),
            ..DeleteOptions::default()
        };
        world.delete(&web(), options).await;
        world
            .until(&format!("everything is gone ({policy:?})"), async |world: &World| {
                world.list("pods").await.is_empty()
                    && world.list("replicasets.apps").await.is_empty()
                    && world.list("deployments.apps").await.is_empty()
            })
            .await;
    }
    let world = World::with_nodes(&["n1"]).await;
    world
        .create("deployments.apps", "default", deployment("web", 3, "web:1"))
        .await;
    world.deployment_is_complete("web", 3).await;
    let options = DeleteOptions {
        propagation_policy: Some(PropagationPolicy::Orphan),
        ..DeleteOptions::default()
    };
    world.delete(&web(), options).await;
    world
        .until("the owner is gone", async |world: &World| {
            world.list("deployments.apps").await.is_empty()
        })
        .await;
    let sets = world.list("replicasets.apps").await;
    assert!(
        sets[0].1["metadata"]["ownerReferences"].is_null(),
        "{}",
        sets[0].1["metadata"]
    );
    assert_eq!(world.active_pods().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_emptied_of_every_kind_and_then_goes() {
    let world = World::with_nodes(&["n1"]).await;
    let namespace = Key::new("namespaces", "", "shop");
    world
        .create(
            "namespaces",
            "",
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}),
        )
        .await;
    let mut web = deployment("web", 3, "web:1");
    web["metadata"]["namespace"] = json!("shop");
    world.create("deployments.apps", "shop", web).await;
    for name in ["a", "b"] {
        let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}});
        world.create("configmaps", "shop", config).await;
    }
    let held =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "held", "finalizers": ["example.com/x"]}});
    let held = world.create("configmaps", "shop", held).await;
    world
        .until("three pods run", async |world: &World| {
            world.active_pods().await.len() == 3
        })
        .await;
    world.delete(&namespace, DeleteOptions::default()).await;
    world
        .until("it says what it waits for", async |world: &World| {
            let namespace = world.read(&namespace).await.unwrap();
            namespace["status"]["conditions"]
                .to_string()
                .contains("example.com/x in 1 resource instances")
        })
        .await;
    world
        .until("only that is left", async |world: &World| {
            world.list("pods").await.is_empty()
                && world
                    .list("configmaps")
                    .await
                    .iter()
                    .filter(|(key, _)| &*key.namespace == "shop")
                    .count()
                    == 1
        })
        .await;
    // Its finalizer goes, and with it the object, as the gateway does it.
    let revision = world.store.read(&held).await.unwrap().unwrap().header.revision;
    let write = Write::Delete {
        key: held,
        precondition: Precondition::Revision(revision),
    };
    world
        .store
        .propose(Proposal::one(protocol::Cause(9), write))
        .await
        .unwrap();
    world
        .until("the namespace is gone", async |world: &World| {
            world.read(&namespace).await.is_none()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_actor_can_be_killed_and_only_it_restarts() {
    let world = World::with_nodes(&["n1", "n2"]).await;
    world
        .create("deployments.apps", "default", deployment("web", 3, "web:1"))
        .await;
    world
        .create("deployments.apps", "default", deployment("other", 2, "web:1"))
        .await;
    world.deployment_is_complete("web", 3).await;
    world.deployment_is_complete("other", 2).await;
    let restarts = |path: &str| {
        world
            .registry
            .entries()
            .into_iter()
            .find(|entry| entry.path == path)
            .map_or(0, |entry| entry.restarts)
    };
    let path = "/cluster/default/deployments.apps/web";
    world
        .registry
        .serve(AdminRequest::Kill { path: path.into() })
        .await
        .unwrap();
    world
        .until("it was restarted", async |_: &World| restarts(path) == 1)
        .await;
    assert_eq!(restarts("/cluster/default/deployments.apps/other"), 0);
    assert_eq!(restarts("/cluster/router"), 0);
    world.edit(&web(), |d| d["spec"]["replicas"] = json!(5)).await;
    world.deployment_is_complete("web", 5).await;

    // The router last: its actors end with it.
    for path in [
        "/cluster/nodes/n1",
        "/cluster/scheduler",
        "/cluster/defaults",
        "/cluster/router",
    ] {
        world
            .registry
            .serve(AdminRequest::Kill { path: path.into() })
            .await
            .unwrap();
    }
    world.edit(&web(), |d| d["spec"]["replicas"] = json!(8)).await;
    world.deployment_is_complete("web", 8).await;
    assert_eq!(restarts("/cluster/router"), 1);

    // The root has no supervisor above it and comes back all the same.
    world
        .registry
        .serve(AdminRequest::Kill {
            path: "/cluster".into(),
        })
        .await
        .unwrap();
    world.edit(&web(), |d| d["spec"]["replicas"] = json!(2)).await;
    world.deployment_is_complete("web", 2).await;
    assert_eq!(restarts("/cluster"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_actors_at_random_during_rollouts_changes_nothing_about_the_end() {
    let world = World::with_nodes(&["n1", "n2", "n3"]).await;
    let names = ["web", "api", "shop"];
    for name in names {
        world
            .create("deployments.apps", "default", deployment(name, 6, "i:0"))
            .await;
    }
    for round in 0..30u64 {
        let name = names[(round % 3) as usize];
        let key = Key::new("deployments.apps", "default", name);
        world
            .edit(&key, |d| {
                d["spec"]["replicas"] = json!(3 + round % 5);
                d["spec"]["template"]["spec"]["containers"][0]["image"] = json!(format!("i:{round}"));
            })
            .await;
        let entries = world.registry.entries();
        // A simple stride over all paths: every kind of actor has its turn, the router and the scheduler too.
        for step in 0..3 {
            if let Some(entry) = entries.get((round as usize * 7 + step * 5) % entries.len().max(1)) {
                // One that has just ended cannot be killed.
                let _ = world
                    .registry
                    .serve(AdminRequest::Kill {
                        path: entry.path.clone(),
                    })
                    .await;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for (at, name) in names.into_iter().enumerate() {
        let last = 27 + at as u64;
        world.deployment_is_complete(name, 3 + last % 5).await;
        let image = format!("i:{last}");
        world
            .until("only pods of the last template remain", async |world: &World| {
                let pods = world.active_pods().await;
                let mine: Vec<_> = pods
                    .iter()
                    .filter(|(_, pod)| pod["metadata"]["labels"]["app"] == name)
                    .collect();
                mine.len() as u64 == 3 + last % 5 && mine.iter().all(|(_, pod)| image_of(pod) == image)
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_object_backs_off_and_does_not_disturb_the_others() {
    let world = World::with_nodes(&["n1"]).await;
    // Validation would have refused it; a damaged store has it all the same.
    let bad = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "bad", "namespace": "default", "uid": "bad"}, "spec": {"ports": "not a list"}});
    let draft = protocol::Draft::encode(&bad, vec![]).unwrap();
    let key = Key::new("services", "default", "bad");
    let write = Write::Put {
        key,
        precondition: Precondition::Absent,
        draft,
    };
    world
        .store
        .propose(Proposal::one(protocol::Cause(1), write))
        .await
        .unwrap();
    world
        .until("it backs off", async |world: &World| {
            let entries = world.registry.entries();
            entries
                .iter()
                .any(|e| e.path == "/cluster/default/services/bad" && e.state == "backing-off" && e.restarts > 5)
        })
        .await;
    world
        .create("deployments.apps", "default", deployment("web", 3, "web:1"))
        .await;
    world.deployment_is_complete("web", 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_actors_sleep_and_wake_on_the_next_event() {
    let config = ControlPlaneConfig {
        idle_after: Duration::from_millis(50),
        ..ControlPlaneConfig::default()
    };
    let world = World::with(&["n1"], config).await;
    world
        .create("deployments.apps", "default", deployment("web", 2, "web:1"))
        .await;
    world.deployment_is_complete("web", 2).await;
    let path = "/cluster/default/deployments.apps/web";
    let awake = || world.registry.entries().into_iter().any(|entry| entry.path == path);
    world.until("it sleeps", async |_: &World| !awake()).await;
    let AdminReply::Actors(listed) = world
        .registry
        .serve(AdminRequest::Ls {
            path: "/cluster/default/deployments.apps".into(),
        })
        .await
        .unwrap()
    else {
        panic!("no list")
    };
    assert_eq!(
        (listed[0].path.as_str(), listed[0].state.as_str(), listed[0].children),
        (path, "asleep", 1)
    );
    let asked = world
        .registry
        .serve(AdminRequest::Ask {
            path: path.into(),
            question: "state".into(),
        })
        .await
        .unwrap();
    assert!(matches!(asked, AdminReply::Json(text) if text.contains("replicaSets")));
    world.until("it sleeps again", async |_: &World| !awake()).await;
    for replicas in [3, 1, 4, 2, 5] {
        world.edit(&web(), |d| d["spec"]["replicas"] = json!(replicas)).await;
        world.deployment_is_complete("web", replicas).await;
        world.until("it sleeps once more", async |_: &World| !awake()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_control_planes_at_once_do_no_harm() {
    let mut world = World::with_nodes(&["n1", "n2"]).await;
    let first = world.control_plane.take().unwrap();
    world.registry = supervision::Registry::default();
    world.start(ControlPlaneConfig::default()).await;
    for (name, replicas) in [("web", 10), ("other", 7)] {
        world
            .create("deployments.apps", "default", deployment(name, replicas, "web:1"))
            .await;
    }
    world.deployment_is_complete("web", 10).await;
    world.deployment_is_complete("other", 7).await;
    assert_eq!(world.list("replicasets.apps").await.len(), 2);
    assert_eq!(world.list("pods").await.len(), 17, "no pod was made twice");
    first.stop().await;
    world.edit(&web(), |d| d["spec"]["replicas"] = json!(3)).await;
    world.deployment_is_complete("web", 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_says_why_and_runs_when_there_is_room() {
    let world = World::with_nodes(&["n1"]).await;
    let mut big = deployment("web", 1, "web:1");
    big["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "n2"});
    world.create("deployments.apps", "default", big).await;
    world
        .until("it says why", async |world: &World| {
            let events = world.list("events").await;
            events.iter().any(|(_, event)| {
                event["reason"] == "FailedScheduling"
                    && event["message"].as_str().unwrap().contains("0/1 nodes are available")
            })
        })
        .await;
    world.add_node("n2").await;
    world.deployment_is_complete("web", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_with_another_selector_has_other_endpoints() {
    let world = World::with_nodes(&["n1"]).await;
    for name in ["web", "api"] {
        world
            .create("deployments.apps", "default", deployment(name, 2, "web:1"))
            .await;
        world.deployment_is_complete(name, 2).await;
    }
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "front", "namespace": "default"},
        "spec": {"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 80, "protocol": "TCP"}]}});
    let service = world.create("services", "default", service).await;
    let targets = async |world: &World| -> Vec<String> {
        let slices = world.list("endpointslices.discovery.k8s.io").await;
        let mine = slices
            .iter()
            .filter(|(_, s)| s["metadata"]["labels"]["kubernetes.io/service-name"] == "front");
        let endpoints = mine.flat_map(|(_, slice)| slice["endpoints"].as_array().cloned().unwrap_or_default());
        endpoints
            .map(|endpoint| endpoint["targetRef"]["name"].as_str().unwrap()[..3].to_owned())
            .collect()
    };
    world
        .until("it has the pods of web", async |w: &World| {
            targets(w).await == ["web", "web"]
        })
        .await;
    world
        .edit(&service, |service| service["spec"]["selector"] = json!({"app": "api"}))
        .await;
    world
        .until("it has the pods of api", async |w: &World| {
            targets(w).await == ["api", "api"]
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_that_cannot_make_pods_is_reported() {
    let world = World::with_nodes(&["n1"]).await;
    let uid = "11111111-1111-4111-8111-111111111111";
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": "bad", "namespace": "default", "uid": uid, "generation": 1},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "bad"}},
            "template": {"metadata": {"labels": {"app": "bad"}}, "spec": {"containers": []}}}});
    let draft = protocol::Draft::encode(&set, vec![]).unwrap();
    let key = Key::new("replicasets.apps", "default", "bad");
    let write = Write::Put {
        key,
        precondition: Precondition::Absent,
        draft,
    };
    world
        .store
        .propose(Proposal::one(protocol::Cause(1), write))
        .await
        .unwrap();
    world
        .until("an event says why", async |world: &World| {
            world.list("events").await.iter().any(|(_, event)| {
                event["reason"] == "FailedCreate" && event["message"].as_str().unwrap().contains("spec.containers")
            })
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_cluster_has_its_default_objects() {
    let world = World::with_nodes(&["n1"]).await;
    world
        .until("the defaults are there", async |world: &World| {
            let names: Vec<String> = world
                .list("namespaces")
                .await
                .iter()
                .map(|(key, _)| key.name.to_string())
                .collect();
            let slice = world
                .read(&Key::new("endpointslices.discovery.k8s.io", "default", "kubernetes"))
                .await;
            names == ["default", "kube-node-lease", "kube-public", "kube-system"]
                && world
                    .read(&Key::new("services", "default", "kubernetes"))
                    .await
                    .is_some()
                && slice.is_some_and(|slice| slice["endpoints"][0]["addresses"] == json!(["10.9.0.1"]))
                && world
                    .read(&Key::new("endpoints", "default", "kubernetes"))
                    .await
                    .is_some_and(|object| object["subsets"][0]["addresses"] == json!([{"ip": "10.9.0.1"}]))
        })
        .await;
}
