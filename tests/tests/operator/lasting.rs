//! What an operator meets over time: each way to delete what it keeps, its own restart, and a new leader of the cluster while it
//! runs.

use std::future::Future;

use super::*;

/// A client's parts for the namespace that a test works in.
struct Ground {
    client: Client,
    sites: Api<Site>,
    deployments: Api<Deployment>,
    maps: Api<ConfigMap>,
}

impl Ground {
    /// Defines the kind, and makes the namespace.
    async fn new(client: Client, name: &str) -> Ground {
        namespace(&client, name).await;
        define(&client).await;
        Ground {
            sites: Api::namespaced(client.clone(), name),
            deployments: Api::namespaced(client.clone(), name),
            maps: Api::namespaced(client.clone(), name),
            client,
        }
    }

    async fn site(&self, name: &str) -> Site {
        let site = Site::new(name, SiteSpec::of("hello"));
        let made = self.sites.create(&PostParams::default(), &site).await;
        made.expect("it is created")
    }

    /// Waits until the operator has made what a Site wants.
    async fn await_ready(&self, name: &str) {
        let ready = |site: &Site| site.status.as_ref().is_some_and(|status| status.ready == 1);
        until(&self.sites, name, "the operator has made it", ready).await;
    }

    async fn await_gone(&self, site: &Site) {
        let (name, uid) = (site.name_any(), site.uid().expect("a uid"));
        let gone = await_condition(self.sites.clone(), &name, conditions::is_deleted(&uid));
        let gone = tokio::time::timeout(SOON, gone).await;
        gone.expect("it goes in time").expect("the watch goes on");
    }

    /// Which of a Site's dependents are there, and whether they say who owns them.
    async fn dependents(&self, name: &str) -> Vec<(String, bool)> {
        let page = self.maps.get_opt(&format!("{name}-page")).await.expect("an answer");
        let deployment = self.deployments.get_opt(name).await.expect("an answer");
        let metadata = [page.map(|it| it.metadata), deployment.map(|it| it.metadata)];
        let told = |it: ObjectMeta| {
            let is_owned = it.owner_references.is_some_and(|owners| !owners.is_empty());
            (it.name.unwrap_or_default(), is_owned)
        };
        metadata.into_iter().flatten().map(told).collect()
    }
}

/// Asks until the answer is what is waited for.
async fn eventually<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        match ask().await {
            Ok(found) => return found,
            Err(seen) => assert!(
                tokio::time::Instant::now() < deadline,
                "{what}: not within {SOON:?}; last seen: {seen}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_of_a_custom_owner_go_as_its_deletion_says() {
    let cluster = tokio::task::spawn_blocking(|| {
        let cluster = Cluster::start(26, 1);
        cluster.import_images(0);
        cluster
    });
    let cluster = cluster.await.expect("a cluster");
    let ground = Ground::new(client(&cluster).await, "cascades").await;
    let running = tokio::spawn(operator::run(ground.client.clone()));
    for policy in [
        PropagationPolicy::Background,
        PropagationPolicy::Foreground,
        PropagationPolicy::Orphan,
    ] {
        let name = format!("{policy:?}").to_lowercase();
        let site = ground.site(&name).await;
        ground.await_ready(&name).await;
        let page = format!("{name}-page");
        assert_eq!(
            ground.dependents(&name).await,
            [(page.clone(), true), (name.clone(), true)]
        );
        let parameters = DeleteParams {
            propagation_policy: Some(policy),
            ..DeleteParams::default()
        };
        ground.sites.delete(&name, &parameters).await.expect("it is deleted");
        ground.await_gone(&site).await;
        let left = ground.dependents(&name).await;
        match name.as_str() {
            "foreground" => assert_eq!(left, [], "dependents go before their owner"),
            "orphan" => assert_eq!(left, [(page, false), (name, false)], "they stay, and nobody owns them"),
            _ => {
                eventually("the dependents go", || async {
                    let left = ground.dependents(&name).await;
                    if left.is_empty() {
                        Ok(())
                    } else {
                        Err(format!("{left:?}"))
                    }
                })
                .await
            }
        }
    }
    // Whom nobody owns stays, also when the whole kind goes.
    let definitions: Api<CustomResourceDefinition> = Api::all(ground.client.clone());
    let deleted = definitions.delete(Site::crd_name(), &DeleteParams::default()).await;
    assert!(deleted.is_ok(), "{deleted:?}");
    eventually("the kind goes", || async {
        match ground.sites.list(&ListParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(ground.dependents("orphan").await.len(), 2);
    running.abort();
    tokio::task::spawn_blocking(move || drop(cluster))
        .await
        .expect("it is removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_catches_up_after_its_restart_and_outlives_the_leader() {
    let cluster = tokio::task::spawn_blocking(|| {
        let cluster = Cluster::start(27, 3);
        (0..3).for_each(|index| cluster.import_images(index));
        cluster
    });
    let mut cluster = cluster.await.expect("a cluster");
    let leader = tokio::task::block_in_place(|| cluster.leader());
    let ground = Ground::new(client_of(&cluster, (leader + 1) % 3).await, "lasting").await;
    let running = tokio::spawn(operator::run(ground.client.clone()));
    let first = ground.site("first").await;
    ground.await_ready("first").await;

    // While the operator is away one Site is deleted, one is made, and one loses what was made of it.
    let third = ground.site("third").await;
    ground.await_ready("third").await;
    running.abort();
    assert!(running.await.is_err_and(|ended| ended.is_cancelled()));
    let deleted = ground.sites.delete("first", &DeleteParams::default()).await;
    assert!(
        deleted.is_ok_and(|answer| answer.left().is_some()),
        "its finalizer holds it"
    );
    ground.site("second").await;
    let deleted = ground.maps.delete("third-page", &DeleteParams::default()).await;
    assert!(deleted.is_ok(), "{deleted:?}");
    let running = tokio::spawn(operator::run(ground.client.clone()));
    ground.await_gone(&first).await;
    assert!(
        ground.maps.get("farewell-first").await.is_ok(),
        "its last work was done"
    );
    ground.await_ready("second").await;
    until(&ground.maps, "third-page", "it comes back", |map| {
        map.owner_references()
            .iter()
            .any(|owner| Some(&owner.uid) == third.uid().as_ref())
    })
    .await;

    // The node that leads dies. The operator's watches go on, and so does all that it keeps.
    tokio::task::block_in_place(|| cluster.kill_node(leader));
    let site = Site::new("fourth", SiteSpec::of("hello"));
    eventually("a write after the leader's death", || async {
        match ground.sites.create(&PostParams::default(), &site).await {
            Ok(_) => Ok(()),
            // It was made before, and the answer did not come.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
    ground.await_ready("fourth").await;
    let deleted = ground.sites.delete("second", &DeleteParams::default()).await;
    assert!(deleted.is_ok(), "{deleted:?}");
    eventually("the owner and what it owned go", || async {
        let site = ground
            .sites
            .get_opt("second")
            .await
            .map_err(|error| error.to_string())?;
        let left = ground.dependents("second").await;
        if site.is_none() && left.is_empty() {
            Ok(())
        } else {
            Err(format!("{site:?} {left:?}"))
        }
    })
    .await;
    assert!(!running.is_finished(), "the operator runs");
    running.abort();
    tokio::task::spawn_blocking(move || drop(cluster))
        .await
        .expect("it is removed");
}
