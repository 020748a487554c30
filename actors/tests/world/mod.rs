//! A small cluster for the tests of the control plane: the store in memory, a membership by hand, and an agent for all
//! machines that marks bound pods running and removes deleted ones. It never decides for the control plane.
#![allow(dead_code, clippy::disallowed_methods)] // each test binary uses a part of it; tests read the clock

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actors::membership::MemberStream;
use actors::{ControlPlane, ControlPlaneConfig, Liveness, MemberState, Membership, compose};
use futures::StreamExt;
use parking_lot::Mutex;
use protocol::store::{Change, ListRequest, ObjectStore, Precondition, Proposal, WatchItem, WatchRequest, Write};
use protocol::{Cause, Key, NodeName, Object, Resource};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};
use store::MemoryStore;
use supervision::{Clock, Registry, SystemClock};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The longest that a test waits for a condition.
const PATIENCE: Duration = Duration::from_secs(20);

type Watchers = Vec<mpsc::UnboundedSender<MemberState>>;

#[derive(Default)]
pub struct Members {
    state: Mutex<(BTreeMap<NodeName, MemberState>, Watchers)>,
}

impl Members {
    pub fn set(&self, node: &str, liveness: Liveness) {
        let member = MemberState {
            node: NodeName::from(node),
            liveness,
            api_address: Some("10.9.0.1:6443".parse().unwrap()),
        };
        let mut state = self.state.lock();
        state.0.insert(member.node.clone(), member.clone());
        state.1.retain(|watcher| watcher.send(member.clone()).is_ok());
    }

    pub fn alive(&self, node: &str) -> bool {
        self.state
            .lock()
            .0
            .get(&NodeName::from(node))
            .is_some_and(|member| member.liveness == Liveness::Alive)
    }
}

impl Membership for Members {
    fn watch(&self) -> MemberStream {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let mut state = self.state.lock();
        for member in state.0.values() {
            let _ = sender.send(member.clone());
        }
        state.1.push(sender);
        Box::pin(futures::stream::poll_fn(move |context| receiver.poll_recv(context)))
    }
}

pub struct World {
    pub store: Arc<MemoryStore>,
    pub members: Arc<Members>,
    pub registry: Registry,
    pub control_plane: Option<ControlPlane>,
    /// While it is set, no machine lets a pod go: a test removes those that are being deleted, as an agent would.
    pub holds_pods: Arc<AtomicBool>,
    agent: JoinHandle<()>,
    rng: Mutex<SmallRng>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.agent.abort();
    }
}

impl World {
    /// A cluster with these machines and a running control plane.
    pub async fn with_nodes(nodes: &[&str]) -> World {
        Self::with(nodes, ControlPlaneConfig::default()).await
    }

    pub async fn with(nodes: &[&str], config: ControlPlaneConfig) -> World {
        let store = MemoryStore::new();
        let members = Arc::new(Members::default());
        let holds_pods = Arc::new(AtomicBool::new(false));
        let agent = tokio::spawn(run_agent(store.clone(), members.clone(), Arc::clone(&holds_pods)));
        let mut world = World {
            store,
            members,
            registry: Registry::default(),
            control_plane: None,
            holds_pods,
            agent,
            rng: Mutex::new(SmallRng::seed_from_u64(42)),
        };
        for node in nodes {
            world.add_node(node).await;
        }
        world.start(config).await;
        world
    }

    pub async fn start(&mut self, config: ControlPlaneConfig) {
        let (store, members): (Arc<dyn ObjectStore>, Arc<dyn Membership>) = (self.store.clone(), self.members.clone());
        let started =
            ControlPlane::start(config, store, members, Arc::new(SystemClock), self.registry.clone(), 7).await;
        self.control_plane = Some(started.unwrap());
    }

    pub async fn add_node(&self, name: &str) {
        self.members.set(name, Liveness::Alive);
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        });
        self.create("nodes", "", node).await;
        self.edit(&Key::new("nodes", "", name), |node| {
            node["status"] = json!({
                "allocatable": {"cpu": "64", "memory": "64Gi", "pods": "500"},
                "capacity": {"cpu": "64", "memory": "64Gi", "pods": "500"},
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ok",
                    "lastTransitionTime": SystemClock.now().rfc3339()}],
            });
        })
        .await;
    }

    pub async fn create(&self, resource: &str, namespace: &str, value: Value) -> Key {
        let composed = compose::create(
            &Resource::new(resource),
            namespace,
            value,
            SystemClock.now(),
            &mut self.rng.lock(),
        );
        let (key, draft) = composed.unwrap();
        let write = Write::Put {
            key: key.clone(),
            precondition: Precondition::Absent,
            draft,
        };
        self.store.propose(Proposal::one(Cause(1), write)).await.unwrap();
        key
    }

    /// Changes an object as a client does: again and again until no one else was faster.
    pub async fn edit(&self, key: &Key, change: impl Fn(&mut Value)) {
        edit(self.store.as_ref(), key, change).await;
    }

    /// Deletes with background propagation, as the gateway does it.
    pub async fn delete(&self, key: &Key, options: api::write::DeleteOptions) {
        loop {
            let Some(object) = self.store.read(key).await.unwrap() else {
                return;
            };
            let kind = api::kinds::find_by_resource(&key.resource).unwrap();
            let precondition = Precondition::Revision(object.header.revision);
            let deletion = api::write::begin_deletion(kind, &object.value().unwrap(), &options, SystemClock.now());
            let write = match deletion {
                api::write::Deletion::Remove => Write::Delete {
                    key: key.clone(),
                    precondition,
                },
                api::write::Deletion::Mark(value) => Write::Put {
                    key: key.clone(),
                    precondition,
                    draft: kind.draft(&value).unwrap(),
                },
                api::write::Deletion::Nothing => return,
            };
            if self.store.propose(Proposal::one(Cause(2), write)).await.is_ok() {
                return;
            }
        }
    }

    /// Removes an object, as the agent of its machine does when nothing of a pod is left.
    pub async fn remove(&self, key: &Key) {
        while let Some(object) = self.store.read(key).await.unwrap() {
            remove(self.store.as_ref(), key, &object).await;
        }
    }

    pub async fn list(&self, resource: &str) -> Vec<(Key, Value)> {
        let page = self.store.list(ListRequest::all(resource)).await.unwrap();
        page.items
            .into_iter()
            .map(|(key, object)| (key, object.value().unwrap()))
            .collect()
    }

    pub async fn read(&self, key: &Key) -> Option<Value> {
        self.store
            .read(key)
            .await
            .unwrap()
            .map(|object| object.value().unwrap())
    }

    /// Pods that are neither deleting nor finished.
    pub async fn active_pods(&self) -> Vec<(Key, Value)> {
        let all = self.list("pods").await;
        let active = |pod: &Value| {
            pod["metadata"]["deletionTimestamp"].is_null()
                && !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
        };
        all.into_iter().filter(|(_, pod)| active(pod)).collect()
    }

    /// How many objects of a resource satisfy a condition.
    pub async fn store_count(&self, resource: &str, condition: impl Fn(&Value) -> bool) -> usize {
        self.list(resource)
            .await
            .iter()
            .filter(|(_, value)| condition(value))
            .count()
    }

    /// Waits until a condition of the deployments' status holds.
    pub async fn deployment_is_complete(&self, name: &str, replicas: u64) {
        let key = Key::new("deployments.apps", "default", name);
        self.until(&format!("deployment {name} has {replicas}"), async |world: &World| {
            let Some(deployment) = world.read(&key).await else {
                return false;
            };
            let status = &deployment["status"];
            let is = |field: &str, wanted: u64| status[field].as_u64().unwrap_or(0) == wanted;
            is("replicas", replicas)
                && is("updatedReplicas", replicas)
                && is("availableReplicas", replicas)
                && status["observedGeneration"] == deployment["metadata"]["generation"]
        })
        .await;
    }

    /// Waits until the condition holds, and fails the test with what there is otherwise.
    pub async fn until(&self, what: &str, condition: impl AsyncFn(&World) -> bool) {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if condition(self).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        let mut seen = String::new();
        for resource in ["nodes", "deployments.apps", "replicasets.apps", "pods"] {
            for (key, value) in self.list(resource).await {
                seen.push_str(&format!("{key}: {} status {}\n", value["metadata"], value["status"]));
            }
        }
        for entry in self.registry.entries() {
            seen.push_str(&format!("{entry:?}\n"));
        }
        panic!("it did not come to be within {PATIENCE:?} that {what}\n{seen}");
    }
}

async fn edit(store: &dyn ObjectStore, key: &Key, change: impl Fn(&mut Value)) {
    loop {
        let Some(object) = store.read(key).await.unwrap() else {
            return;
        };
        let mut value = object.value().unwrap();
        change(&mut value);
        if put(store, key, &object, value).await {
            return;
        }
    }
}

async fn put(store: &dyn ObjectStore, key: &Key, base: &Object, value: Value) -> bool {
    let mut value = value;
    let before = base.value().unwrap();
    if before["spec"] != value["spec"] && value["metadata"]["generation"].is_number() {
        value["metadata"]["generation"] = json!(value["metadata"]["generation"].as_i64().unwrap() + 1);
    }
    let draft = compose::update(&key.resource, &value).unwrap();
    let precondition = Precondition::Revision(base.header.revision);
    store
        .propose(Proposal::one(
            Cause(3),
            Write::Put {
                key: key.clone(),
                precondition,
                draft,
            },
        ))
        .await
        .is_ok()
}

async fn remove(store: &dyn ObjectStore, key: &Key, object: &Object) {
    let precondition = Precondition::Revision(object.header.revision);
    let write = Write::Delete {
        key: key.clone(),
        precondition,
    };
    // Refused if someone else wrote it.
    let _ = store.propose(Proposal::one(Cause(4), write)).await;
}

/// The agents of all machines in one task.
async fn run_agent(store: Arc<MemoryStore>, members: Arc<Members>, holds_pods: Arc<AtomicBool>) {
    let request = WatchRequest {
        resources: vec!["pods".into()],
        after: Some(protocol::Revision::ZERO),
        ..WatchRequest::default()
    };
    let mut watch = store.watch(request).await.unwrap();
    let mut addresses = 0u32;
    while let Some(item) = watch.next().await {
        let WatchItem::Event(event) = item else { continue };
        if event.change == Change::Deleted {
            continue;
        }
        let Ok(Some(object)) = store.read(&event.key).await else {
            continue;
        };
        let pod = object.value().unwrap();
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        if node.is_empty() || !members.alive(node) {
            continue;
        }
        if object.header.deleting {
            if !holds_pods.load(Ordering::Acquire) {
                remove(store.as_ref(), &event.key, &object).await;
            }
        } else if !matches!(
            pod["status"]["phase"].as_str(),
            Some("Running" | "Succeeded" | "Failed")
        ) {
            addresses += 1;
            let ip = format!("10.244.{}.{}", addresses / 250, addresses % 250 + 1);
            let now = SystemClock.now().rfc3339();
            let mut running = pod.clone();
            running["status"]["phase"] = json!("Running");
            running["status"]["podIP"] = json!(ip);
            running["status"]["podIPs"] = json!([{"ip": ip}]);
            let conditions = running["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let mut conditions: Vec<Value> = conditions.into_iter().filter(|c| c["type"] != "Ready").collect();
            conditions.push(json!({"type": "Ready", "status": "True", "lastTransitionTime": now}));
            running["status"]["conditions"] = json!(conditions);
            // Refused if someone else wrote it; that write makes another event.
            put(store.as_ref(), &event.key, &object, running).await;
        }
    }
}

/// A Deployment of pods labelled with its name.
pub fn deployment(name: &str, replicas: u64, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}]},
            },
        },
    })
}
