//! Owns the running of a case against a cluster that lives: nodes, namespaces and pods are created through a door (the store,
//! or the API), and a watch tells which pods are bound. Called for depths `store` and `api`. It must take times on the wall
//! clock, from the first request to the last sight of a binding, and must check placements as depth `core` does.

#![allow(clippy::disallowed_methods)] // it measures a system that runs in real time

use super::objects::{Made, Maker};
use super::oracle::{self, Event, Subject, World};
use super::outcome::CaseResult;
use super::{CaseError, RunOptions};
use crate::catalog::Selected;
use crate::statistics::{Percentiles, Timeline};
use crate::workload::{Opcode, Step};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedReceiver;

pub mod api;
pub mod loopback;
pub mod store;

/// How long nothing may happen before a case is called stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// A pod was seen bound.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// `namespace/name`.
    pub pod: String,
    /// The node.
    pub node: Arc<str>,
    /// When.
    pub at: Instant,
}

/// The way into a cluster.
#[async_trait]
pub trait Door: Send + Sync + 'static {
    /// What is sent for an object, made before the clock runs.
    type Prepared: Send + Sync + 'static;

    /// How many objects one request carries.
    fn batch(&self) -> usize;

    /// Makes what is sent.
    fn prepare(&self, resource: &'static str, namespace: &str, object: &Value) -> Result<Self::Prepared, CaseError>;

    /// Sends some and waits until they are created.
    async fn create(&self, prepared: &[Self::Prepared]) -> Result<(), CaseError>;

    /// Pods as they are seen bound, from now on.
    async fn watch(&self) -> Result<UnboundedReceiver<Sighting>, CaseError>;

    /// What is to be said about the run when it has ended: the bottleneck, by counters.
    fn notes(&self, wall: Duration) -> Vec<String>;

    /// The largest resident memory of the process that serves, if it is not this one.
    fn resident_bytes_max(&self) -> Option<u64>;
}

/// The books of a run.
struct Books {
    subjects: Vec<Subject>,
    by_key: HashMap<String, u32>,
    log: Vec<Event>,
    world: World,
    /// Which subjects were seen bound; a pod is seen again whenever it changes.
    seen: Vec<bool>,
}

/// Runs a case through a door.
pub async fn run<D: Door>(
    case: &Selected,
    depth: &'static str,
    options: &RunOptions,
    door: Arc<D>,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<CaseResult, CaseError> {
    let sizes = case.sizes()?;
    let mut result = CaseResult::begin(case, sizes, depth, options);
    let mut sightings = door.watch().await?;
    let maker = Maker::new(case);
    let mut books = Books {
        subjects: Vec::new(),
        by_key: HashMap::new(),
        log: Vec::new(),
        world: World::default(),
        seen: Vec::new(),
    };
    let begun = Instant::now();
    for (at, step) in case.workload.steps.iter().enumerate() {
        match step.opcode {
            Opcode::CreateNodes => create_nodes(&maker, at, step, case, options, &door, &mut books).await?,
            Opcode::CreateNamespaces => create_namespaces(&maker, step, case, &door, &mut books).await?,
            Opcode::CreatePods => {
                let namespace = step.namespace.clone().unwrap_or_else(|| format!("namespace-{at}"));
                if step.namespace.is_none() {
                    let tree = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
                    door.create(&[door.prepare("namespaces", "", &tree)?]).await?;
                    books.world.namespaces.insert(namespace.clone(), BTreeMap::new());
                }
                let count = step
                    .count
                    .as_ref()
                    .map_or(Ok(1), |count| count.value(case.parameters()))?;
                let pods = maker.pods(at, step, &namespace, count)?;
                let mut trees = Vec::new();
                for index in 0..count {
                    trees.push((pods.make(index)?, pods.tree(index)?));
                }
                let timed = step.collect_metrics;
                let fill = begun.elapsed();
                let run = create_pods(at, &namespace, &trees, &door, options, &mut books, &mut sightings);
                let mut of_step = run.await?;
                if timed {
                    result.fill_seconds = fill.as_secs_f64();
                    result.bound = count;
                    // Where another process serves, this one's time says little.
                    result.cpu_seconds = door.resident_bytes_max().is_none().then_some(of_step.cpu.as_secs_f64());
                    of_step.fill(&mut result);
                    progress(count, count);
                }
            }
            Opcode::CreatePodSets => {
                let sets = step
                    .namespaces
                    .as_ref()
                    .map_or(Ok(1), |count| count.value(case.parameters()))?;
                let count = step
                    .count
                    .as_ref()
                    .map_or(Ok(1), |count| count.value(case.parameters()))?;
                for set in 0..sets {
                    let namespace = format!("{}-{set}", step.namespace_prefix.as_deref().unwrap_or_default());
                    let pods = maker.pods(at, step, &namespace, count)?;
                    let mut trees = Vec::new();
                    for index in 0..count {
                        trees.push((pods.make(index)?, pods.tree(index)?));
                    }
                    create_pods(at, &namespace, &trees, &door, options, &mut books, &mut sightings).await?;
                }
            }
            other => {
                return Err(CaseError::Depth {
                    depth,
                    why: format!("step {at} is {other:?}; it creates nodes, namespaces and pods that are waited for"),
                });
            }
        }
    }
    result.rss_bytes_max = door
        .resident_bytes_max()
        .unwrap_or_else(crate::statistics::resident_bytes_max);
    result.notes = door.notes(Duration::from_secs_f64(result.seconds));
    result.clients = Some(options.clients);
    oracle::check(&books.world, &books.subjects, &books.log)?;
    super::core::check_bounds(case, &result)?;
    Ok(result)
}

/// What was measured of one step.
struct StepRun {
    passed: Duration,
    /// Processor time of this process.
    cpu: Duration,
    latencies_us: Vec<f64>,
    bound: Timeline,
}

impl StepRun {
    fn fill(&mut self, result: &mut CaseResult) {
        result.decision_latency_us = Percentiles::of(&mut self.latencies_us);
        result.pods_per_s_by_second = self.bound.rates(1_000_000_000, 3);
        result.pods_per_s_by_100ms = self.bound.rates(100_000_000, 3);
        result.rate(self.passed.as_secs_f64());
    }
}

async fn create_nodes<D: Door>(
    maker: &Maker<'_>,
    at: usize,
    step: &Step,
    case: &Selected,
    options: &RunOptions,
    door: &Arc<D>,
    books: &mut Books,
) -> Result<(), CaseError> {
    let count = step.total(case.parameters())?;
    let mut prepared = Vec::new();
    for index in 0..count {
        let tree = maker.node_tree(at, step, index, count)?;
        prepared.push(door.prepare("nodes", "", &tree)?);
        books
            .log
            .push(Event::Node(Arc::new(maker.node(at, step, index, count)?)));
    }
    send(door, prepared, options.clients).await?;
    Ok(())
}

async fn create_namespaces<D: Door>(
    maker: &Maker<'_>,
    step: &Step,
    case: &Selected,
    door: &Arc<D>,
    books: &mut Books,
) -> Result<(), CaseError> {
    let mut prepared = Vec::new();
    for index in 0..step.total(case.parameters())? {
        let tree = maker.namespace_tree(step, index)?;
        let labels = tree["metadata"]["labels"].as_object().cloned().unwrap_or_default();
        let labels = labels
            .into_iter()
            .filter_map(|(key, value)| Some((key, value.as_str()?.to_owned())));
        let name = tree["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        books.world.namespaces.insert(name, labels.collect());
        prepared.push(door.prepare("namespaces", "", &tree)?);
    }
    send(door, prepared, 4).await?;
    Ok(())
}

/// Sends everything over so many connections; for each object when its request began.
async fn send<D: Door>(door: &Arc<D>, prepared: Vec<D::Prepared>, clients: usize) -> Result<Vec<Instant>, CaseError> {
    let (total, batch) = (prepared.len(), door.batch().max(1));
    let prepared = Arc::new(prepared);
    let next = Arc::new(AtomicUsize::new(0));
    let clients = (0..clients.max(1)).map(|_| {
        let (door, prepared, next) = (door.clone(), prepared.clone(), next.clone());
        tokio::spawn(async move {
            let mut begun = Vec::new();
            loop {
                let from = next.fetch_add(batch, Ordering::Relaxed);
                if from >= prepared.len() {
                    return Ok::<_, CaseError>(begun);
                }
                let to = (from + batch).min(prepared.len());
                begun.push((from..to, Instant::now()));
                door.create(&prepared[from..to]).await?;
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    let mut times = vec![Instant::now(); total];
    for client in clients {
        let begun = client.await.map_err(|error| CaseError::Failed {
            what: "a client's task",
            why: error.to_string(),
        })??;
        for (range, at) in begun {
            times[range].fill(at);
        }
    }
    Ok(times)
}

/// Creates pods and waits until each was seen bound.
async fn create_pods<D: Door>(
    at: usize,
    namespace: &str,
    trees: &[(Made, Value)],
    door: &Arc<D>,
    options: &RunOptions,
    books: &mut Books,
    sightings: &mut UnboundedReceiver<Sighting>,
) -> Result<StepRun, CaseError> {
    let first = books.subjects.len();
    let mut prepared = Vec::with_capacity(trees.len());
    for (made, tree) in trees {
        let key = format!("{namespace}/{}", made.name);
        books.by_key.insert(key.clone(), books.subjects.len() as u32);
        books.subjects.push(Subject {
            key,
            shape: made.shape.clone(),
        });
        books.seen.push(false);
        prepared.push(door.prepare("pods", namespace, tree)?);
    }
    let (begun, cpu_begun) = (Instant::now(), process_cpu());
    let sending = tokio::spawn({
        let (door, clients) = (door.clone(), options.clients);
        async move { send(&door, prepared, clients).await }
    });
    let mut seen: Vec<(u32, Instant)> = Vec::with_capacity(trees.len());
    while seen.len() < trees.len() {
        let waited = tokio::time::timeout(PATIENCE, sightings.recv()).await;
        let Ok(Some(sighting)) = waited else {
            // A client that failed says more than the silence that follows.
            if sending.is_finished()
                && let Ok(Err(error)) = sending.await
            {
                return Err(error);
            }
            return Err(CaseError::Stuck {
                step: at,
                waiting: trees.len() - seen.len(),
                wanted: "bound",
                why: format!("no binding was seen for {} s", PATIENCE.as_secs()),
            });
        };
        let Some(number) = books.by_key.get(&sighting.pod).copied() else {
            continue;
        };
        if std::mem::replace(&mut books.seen[number as usize], true) {
            continue;
        }
        books.log.push(Event::Placed {
            pod: number,
            node: sighting.node,
        });
        seen.push((number, sighting.at));
    }
    let created = sending.await.map_err(|error| CaseError::Failed {
        what: "the clients' task",
        why: error.to_string(),
    })??;
    let cpu = process_cpu().saturating_sub(cpu_begun);
    let last = seen.iter().map(|(_, at)| *at).max().unwrap_or(begun);
    let mut bound = Timeline::default();
    let mut latencies_us = Vec::with_capacity(seen.len());
    for (number, at) in seen {
        let asked = created[number as usize - first];
        latencies_us.push(at.saturating_duration_since(asked).as_nanos() as f64 / 1e3);
        bound.push(at.saturating_duration_since(begun).as_nanos() as u64, 1);
    }
    Ok(StepRun {
        passed: last - begun,
        cpu,
        latencies_us,
        bound,
    })
}

/// Processor time of this process so far; zero if the kernel does not say.
fn process_cpu() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Processor seconds of a process so far (user, system), by proc(5); zeros if the kernel does not say.
pub fn cpu_seconds(pid: u32) -> (f64, f64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    // Fields 14 and 15 in ticks of 10 ms: USER_HZ is 100 on every platform that we build for.
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0) / 100.0;
    (ticks(11), ticks(12))
}
