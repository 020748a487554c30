//! Owns depth `store`: one or three voters with RocksDB and fsync in this process, the control plane with its real scheduler
//! actor on the leader, and a door into the store. Called for each case in a process of its own. It must leave no files.

#![allow(clippy::disallowed_methods)] // objects get the time of their creation

use super::loopback::Loopback;
use super::{Door, Sighting, cpu_seconds};
use crate::catalog::Selected;
use crate::run::outcome::CaseResult;
use crate::run::{CaseError, RunOptions};
use actors::membership::{MemberState, MemberStream};
use actors::{ControlPlane, ControlPlaneConfig, Membership, compose};
use async_trait::async_trait;
use consensus::{Consensus, ConsensusConfig, StoreClient};
use futures::StreamExt;
use protocol::store::{ObjectStore, Precondition, Proposal, WatchItem, WatchRequest, Write};
use protocol::transport::Purpose;
use protocol::{Cause, Draft, Key, NodeName, Resource, UnixMillis};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use supervision::{Registry, SystemClock};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Pods that one call of the store carries, each a proposal of its own: what a controller that makes replicas sends.
const BATCH: usize = 128;
const LEADER_BOUND: Duration = Duration::from_secs(20);

struct Voter {
    consensus: Arc<Consensus>,
    client: Arc<StoreClient>,
}

/// The door into the store.
struct StoreDoor {
    store: Arc<StoreClient>,
    seed: u64,
    voters: u64,
    cpu_before: (f64, f64),
}

/// The hollow nodes have no machines, so nothing is ever said of them.
struct NoMembers;

impl Membership for NoMembers {
    fn watch(&self) -> MemberStream {
        let nobody = futures::stream::empty::<MemberState>();
        Box::pin(nobody.chain(futures::stream::pending()))
    }
}

fn failed(what: &'static str) -> impl Fn(String) -> CaseError {
    move |why| CaseError::Failed { what, why }
}

/// Runs a case at depth `store`.
pub fn run(
    case: &Selected,
    options: &RunOptions,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<CaseResult, CaseError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.threads.max(2))
        .enable_all()
        .build()
        .map_err(|error| failed("the runtime")(error.to_string()))?;
    runtime.block_on(run_in(case, options, progress))
}

async fn run_in(
    case: &Selected,
    options: &RunOptions,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<CaseResult, CaseError> {
    let directory = tempfile::tempdir().map_err(|error| failed("the data directory")(error.to_string()))?;
    let mesh = Loopback::default();
    let mut voters = Vec::new();
    for id in 1..=options.voters {
        voters.push(start_voter(&mesh, directory.path(), id, options.voters).await?);
    }
    let consensus = failed("the consensus group");
    voters[0]
        .consensus
        .bootstrap()
        .await
        .map_err(|error| consensus(error.to_string()))?;
    for id in 2..=options.voters {
        let added = voters[0].consensus.add_voter(id, name(id)).await;
        added.map_err(|error| consensus(error.to_string()))?;
    }
    let leader = leader(&voters).await?;
    let store: Arc<StoreClient> = voters[leader].client.clone();
    let mut config = ControlPlaneConfig::default();
    config.node.unheard_after_ms = None;
    let registry = Registry::default();
    let started = ControlPlane::start(
        config,
        store.clone(),
        Arc::new(NoMembers),
        Arc::new(SystemClock),
        registry,
        options.seed,
    );
    let control_plane = started
        .await
        .map_err(|error| failed("the control plane")(error.to_string()))?;
    let door = Arc::new(StoreDoor {
        store,
        seed: options.seed,
        voters: options.voters,
        cpu_before: cpu_seconds(std::process::id()),
    });
    let outcome = super::run(case, "store", options, door, progress).await;
    control_plane.stop().await;
    for voter in &voters {
        voter.consensus.shutdown().await;
    }
    let mut result = outcome?;
    result.voters = Some(options.voters);
    Ok(result)
}

fn name(id: u64) -> NodeName {
    NodeName::new(format!("voter-{id}"))
}

async fn start_voter(mesh: &Loopback, directory: &std::path::Path, id: u64, voters: u64) -> Result<Voter, CaseError> {
    let node = name(id);
    let config = ConsensusConfig::new(node.clone(), id, directory.join(node.as_str()));
    let consensus = Consensus::start(config, mesh.transport(&node))
        .await
        .map_err(|error| failed("a voter")(error.to_string()))?;
    mesh.register(&node, Purpose::Consensus, consensus.service());
    mesh.register(&node, Purpose::Store, consensus.store_service());
    let everyone = Arc::new(move || (1..=voters).map(name).collect());
    let client = StoreClient::new(mesh.transport(&node), Some(consensus.clone()), everyone);
    Ok(Voter { consensus, client })
}

async fn leader(voters: &[Voter]) -> Result<usize, CaseError> {
    let begun = Instant::now();
    loop {
        let leads = voters.iter().position(|voter| voter.consensus.status().is_leader);
        if let Some(leader) = leads {
            return Ok(leader);
        }
        if begun.elapsed() > LEADER_BOUND {
            return Err(failed("the election")(format!("nobody leads after {LEADER_BOUND:?}")));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(since.as_millis() as u64)
}

#[async_trait]
impl Door for StoreDoor {
    type Prepared = (Key, Draft);

    fn batch(&self) -> usize {
        BATCH
    }

    fn prepare(&self, resource: &'static str, namespace: &str, object: &Value) -> Result<(Key, Draft), CaseError> {
        let resource = Resource::from(resource);
        let refused = |error: compose::ComposeError| failed("an object")(error.to_string());
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if resource.as_str() == "nodes" {
            // As the node itself wrote it: with its status, which a create through the API would drop.
            let mut object = object.clone();
            object["metadata"]["uid"] = json!(format!("uid-{name}"));
            object["metadata"]["creationTimestamp"] = json!(now().rfc3339());
            let draft = compose::update(&resource, &object).map_err(refused)?;
            return Ok((Key::new(resource, "", name), draft));
        }
        // Seeded by the name, so that an object is the same in every run.
        let seed = name.bytes().fold(self.seed, |seed, byte| {
            seed.wrapping_mul(31).wrapping_add(u64::from(byte))
        });
        let mut rng = SmallRng::seed_from_u64(seed);
        compose::create(&resource, namespace, object.clone(), now(), &mut rng).map_err(refused)
    }

    async fn create(&self, prepared: &[(Key, Draft)]) -> Result<(), CaseError> {
        let proposals = prepared.iter().map(|(key, draft)| {
            let write = Write::Put {
                key: key.clone(),
                precondition: Precondition::Absent,
                draft: draft.clone(),
            };
            Proposal::one(Cause(1), write)
        });
        for answer in self.store.propose_all(proposals.collect()).await {
            answer.map_err(|error| failed("a proposal")(error.to_string()))?;
        }
        Ok(())
    }

    async fn watch(&self) -> Result<UnboundedReceiver<Sighting>, CaseError> {
        let after = self.store.revision().await;
        let after = after.map_err(|error| failed("the store's revision")(error.to_string()))?;
        let request = WatchRequest {
            resources: vec![Resource::from("pods")],
            after: Some(after),
            selections: Vec::new(),
            ..WatchRequest::default()
        };
        let watch = self.store.watch(request).await;
        let mut events = watch.map_err(|error| failed("the watch")(error.to_string()))?;
        let (sender, receiver) = unbounded_channel();
        tokio::spawn(async move {
            while let Some(item) = events.next().await {
                let WatchItem::Event(event) = item else { continue };
                let fields = &event.object.header.fields;
                let Some((_, node)) = fields
                    .iter()
                    .find(|(path, node)| path == "spec.nodeName" && !node.is_empty())
                else {
                    continue;
                };
                let pod = format!("{}/{}", event.key.namespace, event.key.name);
                let sighting = Sighting {
                    pod,
                    node: node.as_str().into(),
                    at: Instant::now(),
                };
                // Nobody listens after the run.
                if sender.send(sighting).is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    fn notes(&self, wall: Duration) -> Vec<String> {
        let (user, system) = cpu_seconds(std::process::id());
        let (user, system) = (user - self.cpu_before.0, system - self.cpu_before.1);
        vec![format!(
            "{} voters in one process; {user:.2} s user and {system:.2} s system over the whole run, of which the timed section is {:.2} s",
            self.voters,
            wall.as_secs_f64()
        )]
    }

    fn resident_bytes_max(&self) -> Option<u64> {
        None
    }
}
