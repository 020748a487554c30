//! kube-rs, unmodified: an operator that owns a CustomResourceDefinition, as its users write them, and what its client does beside.
//! Runs only when it is named (`cargo xtask test --suite operator`), since kube-rs takes a minute to compile.
//!
//! The operator makes a Deployment and a ConfigMap of each `Site`, by server-side apply; keeps the Site's status; brings back what
//! others delete; holds a finalizer, and does its last work before the Site goes.

mod lasting;
mod operator;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    Api, AttachParams, DeleteParams, DynamicObject, ListParams, LogParams, ObjectMeta, Patch, PatchParams, PostParams,
};
use kube::core::PartialObjectMetaExt;
use kube::core::params::PropagationPolicy;
use kube::discovery::{Discovery, Scope};
use kube::runtime::wait::{await_condition, conditions, delete::delete_and_finalize};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Config, CustomResourceExt, Resource, ResourceExt};
use serde_json::json;
use tests::Cluster;
use tokio::io::AsyncReadExt;

use operator::{Site, SiteSpec};

const SOON: Duration = Duration::from_secs(60);

async fn client(cluster: &Cluster) -> Client {
    client_of(cluster, 0).await
}

/// A client that speaks to a node.
async fn client_of(cluster: &Cluster, index: usize) -> Client {
    tokio::task::block_in_place(|| cluster.kubectl(index)); // the kubeconfig is there when this returns
    let kubeconfig = kube::config::Kubeconfig::read_from(cluster.kubeconfig(index)).expect("the node's kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await;
    Client::try_from(config.expect("a configuration")).expect("a client")
}

async fn namespace(client: &Client, name: &str) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    };
    let namespace = Namespace {
        metadata,
        ..Namespace::default()
    };
    namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .expect("it is created");
}

/// Defines the operator's kind, and waits until it is served.
async fn define(client: &Client) -> Api<CustomResourceDefinition> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let apply = PatchParams::apply("operator").force();
    definitions
        .patch(Site::crd_name(), &apply, &Patch::Apply(&Site::crd()))
        .await
        .expect("it is defined");
    let established = await_condition(definitions.clone(), Site::crd_name(), conditions::is_crd_established());
    tokio::time::timeout(SOON, established)
        .await
        .expect("in time")
        .expect("the watch goes on");
    definitions
}

/// Waits until an object is as it should be.
async fn until<K>(api: &Api<K>, name: &str, what: &str, condition: impl Fn(&K) -> bool)
where
    K: Clone + std::fmt::Debug + Send + serde::de::DeserializeOwned + kube::Resource + 'static,
{
    let is = |object: Option<&K>| object.is_some_and(&condition);
    let waited = tokio::time::timeout(SOON, await_condition(api.clone(), name, is)).await;
    match waited {
        Ok(outcome) => drop(outcome.unwrap_or_else(|error| panic!("{what}: {error}"))),
        Err(_) => panic!("{what}: not within {SOON:?}; it is {:?}", api.get_opt(name).await),
    }
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([("app".to_owned(), "kube-rs".to_owned())])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([("key".to_owned(), value.to_owned())])),
        ..ConfigMap::default()
    }
}

/// The code and the reason of a refusal.
fn refusal<T: std::fmt::Debug>(outcome: kube::Result<T>) -> (u16, String) {
    match outcome {
        Err(kube::Error::Api(status)) => (status.code, status.reason.clone()),
        other => panic!("not refused by the API: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_reads_writes_and_watches() {
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(24, 1))
        .await
        .expect("a cluster");
    let client = client(&cluster).await;
    namespace(&client, "client").await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "client");
    let create = PostParams::default();
    let made = maps
        .create(&create, &config_map("a", "1"))
        .await
        .expect("it is created");
    assert_eq!(
        refusal(maps.create(&create, &config_map("a", "1")).await),
        (409, "AlreadyExists".to_owned())
    );
    for name in ["b", "c", "d"] {
        maps.create(&create, &config_map(name, name))
            .await
            .expect("it is created");
    }

    // In pages, selected, and of metadata alone.
    let (mut names, mut page) = (Vec::new(), ListParams::default().labels("app=kube-rs").limit(3));
    loop {
        let list = maps.list(&page).await.expect("a page");
        names.extend(list.items.iter().map(ResourceExt::name_any));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page.continue_token = Some(token),
            None => break,
        }
    }
    assert_eq!(names, ["a", "b", "c", "d"]);
    let metadata = maps
        .list_metadata(&ListParams::default().fields("metadata.name=b"))
        .await
        .expect("a list");
    assert_eq!(metadata.items.len(), 1);
    assert_eq!(
        maps.get_opt("none").await.expect("an answer").map(|map| map.name_any()),
        None
    );

    // Every patch; ownership; a replace of what has changed.
    let merge = Patch::Merge(json!({"data": {"key": "2"}}));
    let parameters = PatchParams::default();
    assert_eq!(
        maps.patch("a", &parameters, &merge).await.expect("patched").data,
        Some(BTreeMap::from([("key".to_owned(), "2".to_owned())]))
    );
    let strategic = Patch::Strategic(json!({"metadata": {"labels": {"more": "x"}}}));
    assert!(
        maps.patch("a", &parameters, &strategic)
            .await
            .expect("patched")
            .labels()
            .contains_key("more")
    );
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"applied": "yes"}});
    maps.patch("a", &PatchParams::apply("one"), &Patch::Apply(&applied))
        .await
        .expect("applied");
    let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"applied": "no"}});
    let conflict = maps.patch("a", &PatchParams::apply("two"), &Patch::Apply(&other)).await;
    assert_eq!(refusal(conflict), (409, "Conflict".to_owned()));
    maps.patch("a", &PatchParams::apply("two").force(), &Patch::Apply(&other))
        .await
        .expect("forced");
    assert_eq!(
        refusal(maps.replace("a", &create, &made).await),
        (409, "Conflict".to_owned())
    );
    let patch = made.meta().clone().into_request_partial::<ConfigMap>();
    let refused = maps
        .patch_metadata("a", &PatchParams::default(), &Patch::Merge(&patch))
        .await;
    assert_eq!(
        refusal(refused),
        (409, "Conflict".to_owned()),
        "its resourceVersion is an old one"
    );

    // A kind that is found out at run time.
    let discovery = Discovery::new(client.clone()).run().await.expect("discovery");
    let (resource, capabilities) = discovery
        .groups()
        .flat_map(|group| group.recommended_resources())
        .find(|(resource, _)| resource.kind == "ResourceQuota")
        .expect("it is discovered");
    assert_eq!(capabilities.scope, Scope::Namespaced);
    let quotas: Api<DynamicObject> = Api::namespaced_with(client.clone(), "client", &resource);
    let quota = DynamicObject::new("q", &resource).data(json!({"spec": {"hard": {"pods": "9"}}}));
    quotas.create(&create, &quota).await.expect("it is created");
    assert_eq!(
        quotas.get("q").await.expect("it is there").data["spec"]["hard"]["pods"],
        "9"
    );

    // A watch by list and watch, and one that streams its list.
    use futures::StreamExt;
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut stream = Box::pin(
            watcher(maps.clone(), config.labels("app=kube-rs"))
                .default_backoff()
                .applied_objects(),
        );
        let mut seen = Vec::new();
        while seen.len() < 4 {
            let next = tokio::time::timeout(SOON, stream.next())
                .await
                .expect("an event in time");
            seen.push(next.expect("the watch goes on").expect("an object").name_any());
        }
        seen.sort();
        assert_eq!(seen, ["a", "b", "c", "d"]);
        maps.patch(
            "b",
            &parameters,
            &Patch::Merge(json!({"data": {"at": format!("{:?}", std::time::Instant::now())}})),
        )
        .await
        .expect("patched");
        let next = tokio::time::timeout(SOON, stream.next())
            .await
            .expect("an event in time");
        assert_eq!(next.expect("the watch goes on").expect("an object").name_any(), "b");
    }
    let gone = maps
        .delete_collection(&DeleteParams::default(), &ListParams::default().labels("app=kube-rs"))
        .await;
    assert!(gone.is_ok(), "{gone:?}");
    pods(&cluster, &client).await;
    tokio::task::spawn_blocking(move || drop(cluster))
        .await
        .expect("it is removed");
}

/// Logs and exec of a pod that runs.
async fn pods(cluster: &Cluster, client: &Client) {
    tokio::task::block_in_place(|| cluster.import_images(0));
    let pods: Api<Pod> = Api::namespaced(client.clone(), "client");
    let script = "echo it runs; trap exit TERM; while true; do sleep 0.1; done";
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p"},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": "actorium.local/busybox:1", "command": ["sh", "-c", script]}]},
    }))
    .expect("a pod");
    pods.create(&PostParams::default(), &pod).await.expect("it is created");
    let running = tokio::time::timeout(SOON, await_condition(pods.clone(), "p", conditions::is_pod_running())).await;
    running.expect("it runs in time").expect("the watch goes on");
    assert_eq!(pods.logs("p", &LogParams::default()).await.expect("logs"), "it runs\n");
    let mut process = pods
        .exec("p", ["sh", "-c", "echo from within; exit 4"], &AttachParams::default())
        .await
        .expect("a session");
    let mut text = String::new();
    process
        .stdout()
        .expect("output")
        .read_to_string(&mut text)
        .await
        .expect("it is read");
    assert_eq!(text, "from within\n");
    let status = process.take_status().expect("a status").await.expect("it is told");
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));
    let deleted = delete_and_finalize(pods.clone(), "p", &DeleteParams::default()).await;
    assert!(deleted.is_ok(), "{deleted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_owns_its_kind() {
    let cluster = tokio::task::spawn_blocking(|| {
        let cluster = Cluster::start(25, 1);
        cluster.import_images(0);
        cluster
    });
    let cluster = cluster.await.expect("a cluster");
    let client = client(&cluster).await;
    namespace(&client, "sites").await;
    let definitions = define(&client).await;

    let running = tokio::spawn(operator::run(client.clone()));
    let sites: Api<Site> = Api::namespaced(client.clone(), "sites");
    let (deployments, maps): (Api<Deployment>, Api<ConfigMap>) = (
        Api::namespaced(client.clone(), "sites"),
        Api::namespaced(client.clone(), "sites"),
    );
    let create = PostParams::default();
    // The schema's defaults, bounds and rules.
    let made = sites
        .create(&create, &Site::new("blog", SiteSpec::of("hello")))
        .await
        .expect("it is created");
    assert_eq!(made.spec.replicas, 1);
    for (replicas, title) in [(99, "many"), (1, "")] {
        let refused = sites
            .create(
                &create,
                &Site::new(
                    "bad",
                    SiteSpec {
                        replicas,
                        ..SiteSpec::of(title)
                    },
                ),
            )
            .await;
        assert_eq!(refusal(refused), (422, "Invalid".to_owned()), "{replicas} {title}");
    }
    until(&sites, "blog", "the operator has made it", |site| {
        site.status.as_ref().is_some_and(|status| status.ready == 1)
    })
    .await;
    let deployment = deployments.get("blog").await.expect("it was made");
    assert_eq!(deployment.owner_references()[0].uid, made.uid().expect("a uid"));

    // A new wish, by the scale subresource; and status is another resource than the object.
    let scale = Patch::Merge(json!({"spec": {"replicas": 2}}));
    let scaled = sites
        .patch_scale("blog", &PatchParams::default(), &scale)
        .await
        .expect("it is scaled");
    assert_eq!(scaled.spec.and_then(|spec| spec.replicas), Some(2));
    until(&sites, "blog", "two replicas", |site| {
        site.status.as_ref().is_some_and(|status| status.ready == 2)
    })
    .await;
    let cheat = Patch::Merge(json!({"status": {"ready": 77}}));
    let kept = sites
        .patch("blog", &PatchParams::default(), &cheat)
        .await
        .expect("it is patched");
    assert_ne!(kept.status.map(|status| status.ready), Some(77));
    assert_eq!(
        kept.metadata.generation,
        Some(2),
        "the generation counts changes of the spec"
    );

    // What others delete comes back.
    let first = maps.get("blog-page").await.expect("it was made").uid();
    maps.delete("blog-page", &DeleteParams::default())
        .await
        .expect("it is deleted");
    until(&maps, "blog-page", "the ConfigMap comes back", |map| map.uid() != first).await;

    // kubectl knows the kind.
    let kubectl = cluster.kubectl(0);
    let printed = tokio::task::block_in_place(|| kubectl.run("get st -n sites --no-headers"));
    assert_eq!(
        printed.split_whitespace().take(3).collect::<Vec<_>>(),
        ["blog", "hello", "2"],
        "{printed}"
    );
    assert!(tokio::task::block_in_place(|| kubectl.run("explain site.spec.replicas")).contains("How many"));

    // The operator's last work, and then nothing is left.
    let parameters = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Foreground),
        ..DeleteParams::default()
    };
    sites.delete("blog", &parameters).await.expect("it is deleted");
    let uid = made.uid().expect("a uid");
    let gone = await_condition(sites.clone(), "blog", conditions::is_deleted(&uid));
    tokio::time::timeout(SOON, gone)
        .await
        .expect("it goes in time")
        .expect("the watch goes on");
    assert_eq!(
        deployments
            .get_opt("blog")
            .await
            .expect("an answer")
            .map(|found| found.name_any()),
        None
    );
    assert_eq!(
        maps.get("farewell-blog")
            .await
            .expect("the operator's last work")
            .data
            .expect("data")["title"],
        "hello"
    );

    definitions
        .delete(Site::crd_name(), &DeleteParams::default())
        .await
        .expect("it is deleted");
    let mut after = Some(200);
    let deadline = tokio::time::Instant::now() + SOON;
    while after != Some(404) && tokio::time::Instant::now() < deadline {
        after = match sites.list(&ListParams::default()).await {
            Err(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        };
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(after, Some(404), "the kind is gone");
    running.abort();
    tokio::task::spawn_blocking(move || drop(cluster))
        .await
        .expect("it is removed");
}
