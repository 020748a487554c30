//! The operator, as one of kube-rs' users would write it: nothing here knows on which cluster it runs.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::finalizer::{self, Event, finalizer};
use kube::runtime::watcher;
use kube::{Client, CustomResource, Resource, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A page on the web.
#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "operator.example",
    version = "v1",
    kind = "Site",
    namespaced,
    status = "SiteStatus",
    shortname = "st",
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.ready"),
    printcolumn = r#"{"name": "Title", "type": "string", "jsonPath": ".spec.title"}"#,
    printcolumn = r#"{"name": "Ready", "type": "integer", "jsonPath": ".status.ready"}"#
)]
pub struct SiteSpec {
    /// What stands at the top of the page.
    #[schemars(length(min = 1, max = 60))]
    pub title: String,
    /// How many pods show the page.
    #[serde(default = "one", skip_serializing_if = "is_zero")]
    #[schemars(range(min = 1, max = 5))]
    pub replicas: i32,
}

/// What the operator has found.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
pub struct SiteStatus {
    /// Pods that are ready.
    pub ready: i32,
}

fn one() -> i32 {
    1
}

fn is_zero(replicas: &i32) -> bool {
    *replicas == 0
}

impl SiteSpec {
    /// With a title; how many pods there are is the schema's default.
    pub fn of(title: &str) -> SiteSpec {
        SiteSpec {
            title: title.to_owned(),
            replicas: 0,
        }
    }
}

const MANAGER: &str = "operator.example";

/// Why a Site is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The API.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// The finalizer.
    #[error("the finalizer: {0}")]
    Finalizer(#[from] Box<finalizer::Error<Failed>>),
}

/// Runs until it is aborted.
pub async fn run(client: Client) {
    let sites: Api<Site> = Api::all(client.clone());
    let of_sites = watcher::Config::default().labels("made-for=site");
    Controller::new(sites, watcher::Config::default())
        .owns(Api::<Deployment>::all(client.clone()), of_sites.clone())
        .owns(Api::<ConfigMap>::all(client.clone()), of_sites)
        .run(
            reconcile,
            |_, error, _| {
                eprintln!("the operator tries again: {error}");
                Action::requeue(Duration::from_millis(200))
            },
            Arc::new(client),
        )
        .for_each(|_| async {})
        .await;
}

async fn reconcile(site: Arc<Site>, client: Arc<Client>) -> Result<Action, Failed> {
    let sites: Api<Site> = Api::namespaced(Client::clone(&client), &site.namespace().unwrap_or_default());
    let done = finalizer(&sites, "operator.example/farewell", site, |event| async {
        match event {
            Event::Apply(site) => make(&site, &client).await,
            Event::Cleanup(site) => farewell(&site, &client).await,
        }
    });
    done.await.map_err(|error| Failed::from(Box::new(error)))
}

/// Metadata of what is made for a Site. Whoever deletes the Site in the foreground waits for it too: kube-rs leaves that out.
fn meta(site: &Site, name: &str) -> Value {
    let owner = site.controller_owner_ref(&()).map(|owner| OwnerReference {
        block_owner_deletion: Some(true),
        ..owner
    });
    json!({"name": name, "labels": {"made-for": "site"}, "ownerReferences": [owner]})
}

async fn make(site: &Site, client: &Client) -> Result<Action, Failed> {
    let (name, namespace) = (site.name_any(), site.namespace().unwrap_or_default());
    let apply = PatchParams::apply(MANAGER).force();
    let page = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(site, &format!("{name}-page")), "data": {"title": site.spec.title},
    });
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    maps.patch(&format!("{name}-page"), &apply, &Patch::Apply(&page))
        .await?;
    let labels = json!({"site": name});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta(site, &name),
        "spec": {
            "replicas": site.spec.replicas, "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
                    "name": "page", "image": "actorium.local/busybox:1",
                    "command": ["sh", "-c", "trap exit TERM; while true; do sleep 0.1; done"],
                    "envFrom": [{"configMapRef": {"name": format!("{name}-page")}}],
                }]},
            },
        },
    });
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let made = deployments.patch(&name, &apply, &Patch::Apply(&deployment)).await?;
    let ready = made.status.and_then(|status| status.ready_replicas).unwrap_or(0);
    let sites: Api<Site> = Api::namespaced(client.clone(), &namespace);
    let status = json!({"apiVersion": Site::api_version(&()), "kind": Site::kind(&()), "status": SiteStatus { ready }});
    sites.patch_status(&name, &apply, &Patch::Apply(&status)).await?;
    Ok(Action::await_change())
}

/// What is done before a Site goes.
async fn farewell(site: &Site, client: &Client) -> Result<Action, Failed> {
    let name = format!("farewell-{}", site.name_any());
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"title": site.spec.title}});
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &site.namespace().unwrap_or_default());
    maps.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&map))
        .await?;
    Ok(Action::await_change())
}
