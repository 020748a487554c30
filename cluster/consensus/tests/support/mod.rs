//! Nodes in one process over a transport in memory that can lose, delay and cut. Shared by the tests and the
//! measurements of this crate.
#![allow(dead_code)] // each program uses a part of it
#![allow(clippy::disallowed_methods)] // tests wait, and draw random faults

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use consensus::{Consensus, ConsensusConfig, StoreClient};
use futures::StreamExt;
use parking_lot::{Mutex, RwLock};
use protocol::store::{Precondition, Proposal, Write};
use protocol::transport::{FrameStream, Purpose, SharedService, Transport, TransportError};
use protocol::{Cause, Draft, Key, NodeName};
use rand::Rng;

#[derive(Default)]
struct Wires {
    services: RwLock<HashMap<(NodeName, Purpose), SharedService>>,
    cut: RwLock<HashSet<(NodeName, NodeName)>>,
    /// Of a thousand requests, how many are lost; half of them after they were carried out.
    lost_per_mille: AtomicU32,
    delay_ms_max: AtomicU32,
    /// How often each machine was asked for the store.
    store_calls: Mutex<HashMap<NodeName, u64>>,
}

/// The network between the nodes.
#[derive(Clone, Default)]
pub struct Mesh {
    wires: Arc<Wires>,
}

impl Mesh {
    pub fn register(&self, node: &NodeName, purpose: Purpose, service: SharedService) {
        self.wires.services.write().insert((node.clone(), purpose), service);
    }

    pub fn deregister(&self, node: &NodeName) {
        self.wires.services.write().retain(|(name, _), _| name != node);
    }

    /// Cuts one machine off from all others.
    pub fn isolate(&self, node: &NodeName, others: &[NodeName]) {
        let mut cut = self.wires.cut.write();
        for other in others.iter().filter(|other| *other != node) {
            cut.insert((node.clone(), other.clone()));
            cut.insert((other.clone(), node.clone()));
        }
    }

    pub fn cut_one_way(&self, from: &NodeName, to: &NodeName) {
        self.wires.cut.write().insert((from.clone(), to.clone()));
    }

    pub fn heal(&self) {
        self.wires.cut.write().clear();
        self.lose(0);
        self.delay(0);
    }

    pub fn lose(&self, per_mille: u32) {
        self.wires.lost_per_mille.store(per_mille, Ordering::Relaxed);
    }

    pub fn delay(&self, ms_max: u32) {
        self.wires.delay_ms_max.store(ms_max, Ordering::Relaxed);
    }

    /// How often a machine was asked for the store, whether it answered or not.
    pub fn store_calls(&self, to: &NodeName) -> u64 {
        self.wires.store_calls.lock().get(to).copied().unwrap_or(0)
    }

    pub fn transport(&self, node: &NodeName) -> Arc<dyn Transport> {
        Arc::new(Wire {
            node: node.clone(),
            wires: self.wires.clone(),
        })
    }
}

struct Wire {
    node: NodeName,
    wires: Arc<Wires>,
}

impl Wire {
    fn is_cut(&self, from: &NodeName, to: &NodeName) -> bool {
        self.wires.cut.read().contains(&(from.clone(), to.clone()))
    }

    fn service(&self, to: &NodeName, purpose: Purpose) -> Result<SharedService, TransportError> {
        if self.is_cut(&self.node, to) {
            return Err(TransportError::Unreachable {
                node: to.clone(),
                reason: "cut".to_owned(),
            });
        }
        let services = self.wires.services.read();
        let found = services.get(&(to.clone(), purpose)).cloned();
        found.ok_or_else(|| TransportError::Unreachable {
            node: to.clone(),
            reason: "it is down".to_owned(),
        })
    }

    fn unlucky(&self) -> bool {
        let per_mille = self.wires.lost_per_mille.load(Ordering::Relaxed);
        per_mille != 0 && rand::rng().random_range(0..2000) < per_mille
    }

    async fn travel(&self) {
        let ms_max = self.wires.delay_ms_max.load(Ordering::Relaxed);
        if ms_max != 0 {
            let ms = rand::rng().random_range(0..ms_max);
            tokio::time::sleep(Duration::from_millis(ms.into())).await;
        }
    }
}

#[async_trait]
impl Transport for Wire {
    fn local(&self) -> &NodeName {
        &self.node
    }

    async fn call(
        &self,
        to: &NodeName,
        purpose: Purpose,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, TransportError> {
        if purpose == Purpose::Store {
            *self.wires.store_calls.lock().entry(to.clone()).or_default() += 1;
        }
        let service = self.service(to, purpose)?;
        let late = || TransportError::Deadline {
            node: to.clone(),
            deadline_ms: deadline.as_millis() as u64,
        };
        let exchange = async {
            self.travel().await;
            if self.unlucky() {
                std::future::pending::<()>().await;
            }
            let answer = service.call(&self.node, request).await;
            self.travel().await;
            if self.unlucky() || self.is_cut(to, &self.node) {
                std::future::pending::<()>().await;
            }
            answer
        };
        tokio::time::timeout(deadline, exchange).await.map_err(|_| late())
    }

    async fn stream(&self, to: &NodeName, purpose: Purpose, request: Bytes) -> Result<FrameStream, TransportError> {
        let service = self.service(to, purpose)?;
        let frames = service.stream(&self.node, request).await;
        let (wires, here, there) = (self.wires.clone(), self.node.clone(), to.clone());
        let connected = move || {
            let services = wires.services.read().contains_key(&(there.clone(), purpose));
            services && !wires.cut.read().contains(&(there.clone(), here.clone()))
        };
        Ok(Box::pin(
            frames.take_while(move |_| futures::future::ready(connected())),
        ))
    }
}

/// A node of a test.
pub struct Node {
    pub name: NodeName,
    pub id: u64,
    pub consensus: Arc<Consensus>,
    pub client: Arc<StoreClient>,
}

/// Some nodes and what is between them.
pub struct Cluster {
    pub mesh: Mesh,
    pub directory: PathBuf,
    pub nodes: BTreeMap<u64, Node>,
    /// Everyone who ever was there: whom clients may ask for the leader.
    everyone: Arc<Mutex<Vec<NodeName>>>,
    /// Changes what nodes are started with.
    pub configure: fn(&mut ConsensusConfig),
}

pub fn name(id: u64) -> NodeName {
    NodeName::new(format!("n{id}"))
}

impl Cluster {
    pub fn new(directory: &Path) -> Cluster {
        Cluster {
            mesh: Mesh::default(),
            directory: directory.to_owned(),
            nodes: BTreeMap::new(),
            everyone: Arc::default(),
            configure: |_| {},
        }
    }

    pub async fn start(&mut self, id: u64) {
        let name = name(id);
        let mut config = ConsensusConfig::new(name.clone(), id, self.directory.join(name.as_str()));
        (self.configure)(&mut config);
        let transport = self.mesh.transport(&name);
        let consensus = Consensus::start(config, transport)
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        self.mesh.register(&name, Purpose::Consensus, consensus.service());
        self.mesh.register(&name, Purpose::Store, consensus.store_service());
        if !self.everyone.lock().contains(&name) {
            self.everyone.lock().push(name.clone());
        }
        let client = self.client(&name, Some(consensus.clone()));
        self.nodes.insert(
            id,
            Node {
                name,
                id,
                consensus,
                client,
            },
        );
    }

    pub fn client(&self, name: &NodeName, consensus: Option<Arc<Consensus>>) -> Arc<StoreClient> {
        let everyone = self.everyone.clone();
        StoreClient::new(
            self.mesh.transport(name),
            consensus,
            Arc::new(move || everyone.lock().clone()),
        )
    }

    /// Starts nodes 1 to `count` and makes all of them voters.
    pub async fn form(&mut self, count: u64) {
        for id in 1..=count {
            self.start(id).await;
        }
        self.nodes[&1].consensus.bootstrap().await.unwrap();
        for id in 2..=count {
            self.nodes[&1].consensus.add_voter(id, name(id)).await.unwrap();
        }
    }

    /// Takes a node away: nobody reaches it any more, and it stops.
    pub async fn stop(&mut self, id: u64) {
        let node = self.nodes.remove(&id).expect("the node runs");
        self.mesh.deregister(&node.name);
        node.consensus.shutdown().await;
        let Node { consensus, client, .. } = node;
        client.set_consensus(None);
        let weak = Arc::downgrade(&consensus);
        drop((consensus, client));
        wait_for("the stopped node to let go of its files", || weak.strong_count() == 0).await;
    }

    pub fn names(&self) -> Vec<NodeName> {
        self.everyone.lock().clone()
    }

    /// Waits until one of the running nodes leads and yields its id.
    pub async fn leader(&self) -> u64 {
        self.leader_among(&self.nodes.keys().copied().collect::<Vec<_>>()).await
    }

    pub async fn leader_among(&self, ids: &[u64]) -> u64 {
        let mut leader = None;
        wait_for("a leader", || {
            leader = ids
                .iter()
                .copied()
                .find(|id| self.nodes[id].consensus.status().is_leader);
            leader.is_some()
        })
        .await;
        leader.unwrap()
    }

    pub async fn stop_all(&mut self) {
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.stop(id).await;
        }
    }
}

/// Waits for a condition, at most 20 seconds.
pub async fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn key(name: impl AsRef<str>) -> Key {
    Key::new("pods", "default", name.as_ref())
}

/// An object with a body of about so many bytes.
pub fn draft(key: &Key, value: u64, bytes: usize) -> Draft {
    let object = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": &*key.name, "namespace": &*key.namespace, "uid": format!("uid-{}", key.name)},
        "spec": {"value": value, "filling": "x".repeat(bytes.saturating_sub(200))},
    });
    Draft::encode(&object, vec![]).unwrap()
}

pub fn put(key: &Key, precondition: Precondition, value: u64) -> Proposal {
    let write = Write::Put {
        key: key.clone(),
        precondition,
        draft: draft(key, value, 0),
    };
    Proposal::one(Cause(1), write)
}

/// The value in an object of `draft`.
pub fn value(object: &protocol::Object) -> u64 {
    object.value().unwrap()["spec"]["value"].as_u64().unwrap()
}
