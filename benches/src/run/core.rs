//! Owns the world of depth `core`: the crate `scheduler` alone, in virtual time. Called for each case in a process of its own,
//! and by tests. It must do for the scheduler what the scheduler's actor does (feed events, carry decisions out), and must
//! keep its own books out of the timed section.
//!
//! Time is virtual: measured pods arrive at the rate of the case's threshold (1,000 a second without one), so that churn,
//! gradual deletions and back-off come as often for each pod as they do in Kubernetes' benchmark at its threshold.

use super::meter::{Measured, Meter, Part};
use super::objects::{Made, Maker, PodMaker};
use super::oracle::{self, Event, Subject, World};
use super::outcome::CaseResult;
use super::{CaseError, RunOptions};
use crate::catalog::Selected;
use crate::statistics::resident_bytes_max;
use crate::workload::{BoundShare, Expectation, Opcode, StageRequirement, Step};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::resource::v1 as resource;
use scheduler::plugins::pod_topology_spread::{DefaultConstraints, PodTopologySpread};
use scheduler::{
    Decision, PodKey, Profile, Scheduler, SchedulerConfiguration, Stage, Unschedulable, decision::Preemption,
};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

mod background;
mod devices;
mod steps;
use background::Background;
use devices::Devices;

/// How long (virtual milliseconds) a step waits without any progress before it is called stuck: longer than any back-off.
const PATIENCE_MS: u64 = 700_000;

/// Told now and then how many measured pods are bound, of how many.
pub type Progress<'a> = dyn FnMut(u64, u64) + Send + 'a;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Pending,
    Bound,
    Deleted,
}

struct PodRun {
    key: PodKey,
    step: u32,
    shape: Arc<core::Pod>,
    node: Option<Arc<str>>,
    life: Life,
    was_bound: bool,
    measured: bool,
    awaited: bool,
    attempted: bool,
    arrived: Duration,
}

/// The world of one case.
struct CoreWorld<'a> {
    case: &'a Selected,
    options: &'a RunOptions,
    maker: Maker<'a>,
    scheduler: Scheduler,
    meter: Meter,
    /// Virtual microseconds.
    now_us: u64,
    pods: Vec<PodRun>,
    by_key: HashMap<PodKey, u32>,
    /// The first objects of pods that were updated.
    first: HashMap<u32, Arc<core::Pod>>,
    /// Pods that the current step waits for.
    awaited: usize,
    background: Vec<Background>,
    collecting: Option<Step>,
    devices: Devices,
    log: Vec<Event>,
    oracle: World,
    digest: Sha256,
    decisions: u64,
    refusals: u64,
    victims: u64,
    bound: u64,
    measured: u64,
    last_refusal: Option<Unschedulable>,
    progress: &'a mut Progress<'a>,
}

/// Runs a case at depth `core`.
pub fn run<'a>(
    case: &'a Selected,
    options: &'a RunOptions,
    progress: &'a mut Progress<'a>,
) -> Result<CaseResult, CaseError> {
    let sizes = case.sizes()?;
    let mut result = CaseResult::begin(case, sizes, "core", options);
    let mut world = CoreWorld::new(case, options, sizes.measured_pods, progress);
    for (at, step) in case.workload.steps.iter().enumerate() {
        world.step(at, step)?;
    }
    // What memory the run took is read before the checks take theirs.
    result.rss_bytes_max = resident_bytes_max();
    world.check_outcome()?;
    world.scheduler.assert_invariants();
    let subjects: Vec<Subject> = world.first_shapes();
    oracle::check(&world.oracle, &subjects, &world.log)?;
    result.bound = world.bound;
    result.refusals = world.refusals;
    result.victims = world.victims;
    result.decisions = world.decisions;
    result.digest = Some(hex::encode(world.digest.clone().finalize()));
    fill(&mut result, world.meter.finish());
    check_bounds(case, &result)?;
    Ok(result)
}

fn fill(result: &mut CaseResult, measured: Measured) {
    let part = |part: Part| Some(measured.parts[part as usize].as_secs_f64());
    result.cpu_seconds = Some(measured.cpu.as_secs_f64());
    result.ingest_seconds = part(Part::Ingest);
    result.decide_seconds = part(Part::Decide);
    result.evict_seconds = part(Part::Evict);
    result.confirm_seconds = part(Part::Confirm);
    result.fill_seconds = measured.fill.as_secs_f64();
    result.decision_latency_us = measured.latency_us;
    result.decision_cost_us = measured.cost_us;
    result.pods_per_s_by_second = measured.by_second;
    result.pods_per_s_by_100ms = measured.by_100ms;
    result.notes.push(format!("{} rounds", measured.rounds));
    result.rate(measured.timed.as_secs_f64());
}

/// Whether the run kept to the limits of its case.
pub(super) fn check_bounds(case: &Selected, result: &CaseResult) -> Result<(), CaseError> {
    let bounds = case.case.bounds;
    if let Some(limit) = bounds.seconds.filter(|limit| result.seconds > *limit) {
        return Err(CaseError::Bound {
            what: "the timed section",
            found: format!("{:.1} s", result.seconds),
            limit: format!("{limit} s"),
        });
    }
    if let Some(limit) = bounds.rss_bytes.filter(|limit| result.rss_bytes_max > *limit) {
        return Err(CaseError::Bound {
            what: "the largest resident memory",
            found: format!("{} MiB", result.rss_bytes_max >> 20),
            limit: format!("{} MiB", limit >> 20),
        });
    }
    Ok(())
}

impl<'a> CoreWorld<'a> {
    fn new(case: &'a Selected, options: &'a RunOptions, measured: u64, progress: &'a mut Progress<'a>) -> Self {
        let mut profile = Profile::with_default_plugins("default-scheduler");
        if !case.workload.default_spread_constraints {
            let weights = profile.plugins.iter();
            let weight = weights
                .filter(|enabled| enabled.plugin.name() == "PodTopologySpread")
                .map(|enabled| enabled.weight)
                .sum();
            profile = profile.replacing(
                PodTopologySpread {
                    defaults: DefaultConstraints::List(Vec::new()),
                },
                weight,
            );
        }
        let configuration = SchedulerConfiguration {
            profiles: vec![profile],
            seed: options.seed,
            parallelism: options.threads,
            ..SchedulerConfiguration::default()
        };
        Self {
            case,
            options,
            maker: Maker::new(case),
            scheduler: Scheduler::new(configuration),
            meter: Meter::default(),
            now_us: 0,
            pods: Vec::new(),
            by_key: HashMap::new(),
            first: HashMap::new(),
            awaited: 0,
            background: Vec::new(),
            collecting: None,
            devices: Devices::default(),
            log: Vec::new(),
            oracle: World::default(),
            digest: Sha256::new(),
            decisions: 0,
            refusals: 0,
            victims: 0,
            bound: 0,
            measured,
            last_refusal: None,
            progress,
        }
    }

    fn now_ms(&self) -> u64 {
        self.now_us / 1000
    }

    /// One round: decisions are made (timed) and carried out.
    fn round(&mut self) {
        let (now_ms, round) = (self.now_ms(), self.options.round);
        let before = self.meter.now();
        let scheduler = &mut self.scheduler;
        let decisions = self
            .meter
            .time(Part::Decide, || scheduler.schedule_batch(now_ms, round));
        self.meter.decided(before, decisions.len());
        self.decisions += decisions.len() as u64;
        let (mut confirmations, mut claims) = (Vec::new(), Vec::new());
        for decision in decisions {
            let Some(number) = self.by_key.get(decision.pod()).copied() else {
                continue;
            };
            self.digest.update(decision.pod().as_str());
            self.pods[number as usize].attempted = true;
            match decision {
                Decision::Bind(binding) => {
                    self.digest.update(b" ");
                    self.digest.update(binding.node.as_bytes());
                    self.take_binding(number, &binding.node);
                    claims.extend(self.devices.bind(&binding));
                    confirmations.push(number);
                }
                Decision::Unschedulable(refused) => {
                    self.digest.update(b" !");
                    self.refusals += u64::from(self.meter.collecting());
                    if let Preemption::Nominated { victims, node } = &refused.preemption {
                        self.digest.update(node.as_bytes());
                        for victim in victims {
                            self.delete(victim, Part::Evict);
                        }
                        self.victims += victims.len() as u64;
                    }
                    if !self.pods[number as usize].measured {
                        self.last_refusal.get_or_insert(refused);
                    } else {
                        self.last_refusal = Some(refused);
                    }
                }
            }
            self.digest.update(b"\n");
        }
        self.confirm(&confirmations, &claims);
        (self.progress)(self.bound, self.measured);
    }

    fn take_binding(&mut self, number: u32, node: &Arc<str>) {
        let pod = &mut self.pods[number as usize];
        pod.node = Some(node.clone());
        pod.life = Life::Bound;
        pod.was_bound = true;
        if pod.measured {
            self.bound += 1;
            self.meter.bound(pod.arrived);
        }
        if std::mem::take(&mut pod.awaited) {
            self.awaited -= 1;
        }
        self.log.push(Event::Placed {
            pod: number,
            node: node.clone(),
        });
    }

    /// The watch's events of its own bindings come back.
    fn confirm(&mut self, numbers: &[u32], claims: &[resource::ResourceClaim]) {
        let objects: Vec<core::Pod> = numbers
            .iter()
            .filter(|number| self.pods[**number as usize].life == Life::Bound)
            .map(|number| self.object(*number))
            .collect();
        let scheduler = &mut self.scheduler;
        self.meter.time(Part::Confirm, || {
            claims.iter().for_each(|claim| scheduler.upsert_resource_claim(claim));
            objects.iter().for_each(|pod| scheduler.upsert_pod(pod))
        });
    }

    /// A pod as the API has it now.
    fn object(&self, number: u32) -> core::Pod {
        let pod = &self.pods[number as usize];
        let made = Made {
            name: pod.key.name().to_owned(),
            shape: pod.shape.clone(),
        };
        let mut object = made.object(number as usize);
        object.spec.get_or_insert_default().node_name = pod.node.as_ref().map(ToString::to_string);
        object
    }

    /// A pod goes; a finalizer only marks it.
    fn delete(&mut self, key: &PodKey, part: Part) {
        let Some(number) = self.by_key.get(key).copied() else {
            return;
        };
        let pod = &mut self.pods[number as usize];
        if pod.life == Life::Deleted {
            return;
        }
        if std::mem::take(&mut pod.awaited) {
            self.awaited -= 1;
        }
        let held = pod
            .shape
            .metadata
            .finalizers
            .as_ref()
            .is_some_and(|held| !held.is_empty());
        if held {
            let mut object = self.object(number);
            object.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).ok();
            let scheduler = &mut self.scheduler;
            self.meter.time(part, || scheduler.upsert_pod(&object));
            return;
        }
        if pod.life == Life::Bound {
            self.log.push(Event::Gone { pod: number });
        }
        pod.life = Life::Deleted;
        let scheduler = &mut self.scheduler;
        self.meter.time(part, || scheduler.remove_pod(key));
    }

    /// Pods arrive: they are in the books, and the scheduler is told of them (timed).
    fn arrive(&mut self, step: usize, made: Vec<Made>, objects: &[core::Pod], measured: bool, awaited: bool) {
        let first = self.pods.len();
        for pod in made {
            let namespace = pod.shape.metadata.namespace.as_deref().unwrap_or_default();
            let key = PodKey::new(namespace, &pod.name);
            self.by_key.insert(key.clone(), self.pods.len() as u32);
            self.pods.push(PodRun {
                key,
                step: step as u32,
                shape: pod.shape,
                node: None,
                life: Life::Pending,
                was_bound: false,
                measured,
                awaited,
                attempted: false,
                arrived: Duration::ZERO,
            });
        }
        self.awaited += usize::from(awaited) * objects.len();
        let before = self.meter.now();
        let scheduler = &mut self.scheduler;
        self.meter.time(Part::Ingest, || {
            objects.iter().for_each(|object| scheduler.upsert_pod(object))
        });
        for pod in &mut self.pods[first..] {
            pod.arrived = before;
        }
    }

    /// Rounds until no pod is awaited, advancing time when there is nothing to do. `attempted` ends the wait for a pod
    /// that was looked at, or is held back.
    fn settle(&mut self, step: usize, wanted: &'static str, attempted: bool) -> Result<(), CaseError> {
        let mut progress = (self.now_ms(), self.awaited);
        loop {
            self.run_background()?;
            if attempted {
                self.release_attempted();
            }
            if self.awaited == 0 {
                return Ok(());
            }
            if progress.1 != self.awaited {
                progress = (self.now_ms(), self.awaited);
            }
            if self.scheduler.has_work() {
                self.round();
                continue;
            }
            let wakeups = self.scheduler.next_wakeup_ms().map(|ms| ms.saturating_mul(1000));
            let due = self.background.iter().map(|background| background.next_us);
            let next = due.chain(wakeups).min();
            match next {
                Some(next) if next / 1000 <= progress.0 + PATIENCE_MS => {
                    // A round has to see that the time has come.
                    self.now_us = self.now_us.max(next);
                    self.round();
                }
                _ => return Err(self.stuck(step, wanted)),
            }
        }
    }

    fn release_attempted(&mut self) {
        for pod in &mut self.pods {
            if pod.awaited && (pod.attempted || self.scheduler.stage(&pod.key) == Some(Stage::Gated)) {
                pod.awaited = false;
                self.awaited -= 1;
            }
        }
    }

    fn stuck(&self, step: usize, wanted: &'static str) -> CaseError {
        let refusal = self.last_refusal.as_ref();
        let why = refusal.map_or_else(
            || "no pod was refused".to_owned(),
            |refused| format!("the last refusal: {}: {}", refused.pod, refused.message()),
        );
        CaseError::Stuck {
            step,
            waiting: self.awaited,
            wanted,
            why: format!("{why}; queue: {:?}", self.scheduler.queue_lengths()),
        }
    }

    /// Whether of each step came what it expects.
    fn check_outcome(&self) -> Result<(), CaseError> {
        if let Some(broken) = &self.devices.broken {
            return Err(CaseError::Outcome {
                step: self.case.workload.steps.len() - 1,
                found: broken.clone(),
                expected: "each device to be on its pod's node, and given once".to_owned(),
            });
        }
        for (at, step) in self.case.workload.steps.iter().enumerate() {
            let makes = step.makes_pods() || step.opcode == Opcode::Churn;
            let of_step = || self.pods.iter().filter(|pod| pod.step as usize == at);
            if !makes {
                continue;
            }
            let expect = step.expect.unwrap_or(Expectation {
                bound: Some(BoundShare::All),
                victims_each: None,
            });
            let (all, bound) = (of_step().count(), of_step().filter(|pod| pod.was_bound).count());
            let wanted = match expect.bound {
                Some(BoundShare::All) => Some(all),
                Some(BoundShare::None) => Some(0),
                Some(BoundShare::Any) | None => None,
            };
            if let Some(wanted) = wanted.filter(|wanted| *wanted != bound) {
                return Err(CaseError::Outcome {
                    step: at,
                    found: format!("{bound} of {all} pods were bound"),
                    expected: format!("{wanted}"),
                });
            }
            let victims = expect.victims_each.map(|each| each * bound as u64);
            if let Some(wanted) = victims.filter(|wanted| *wanted != self.victims) {
                return Err(CaseError::Outcome {
                    step: at,
                    found: format!("{} pods had to go for {bound} bound ones", self.victims),
                    expected: format!("{wanted}"),
                });
            }
        }
        match self.bound == self.measured {
            true => Ok(()),
            false => Err(CaseError::Outcome {
                step: self.case.workload.steps.len() - 1,
                found: format!("{} measured pods were bound", self.bound),
                expected: format!("{}", self.measured),
            }),
        }
    }

    /// The pods with their first objects, for the check of the log.
    fn first_shapes(&self) -> Vec<Subject> {
        let pods = self.pods.iter().enumerate();
        pods.map(|(number, pod)| Subject {
            key: pod.key.as_str().to_owned(),
            shape: self.first.get(&(number as u32)).unwrap_or(&pod.shape).clone(),
        })
        .collect()
    }

    fn matches(&self, pod: &PodRun, step: &Step) -> bool {
        let empty = BTreeMap::new();
        step.selects(
            pod.key.namespace(),
            pod.shape.metadata.labels.as_ref().unwrap_or(&empty),
        )
    }

    fn is_measured(&self, step: &Step, pods: &PodMaker<'_>) -> Result<bool, CaseError> {
        if step.collect_metrics {
            return Ok(true);
        }
        let Some(collecting) = &self.collecting else {
            return Ok(false);
        };
        let first = pods.make(0)?;
        let namespace = first.shape.metadata.namespace.as_deref().unwrap_or_default();
        let labels = first.shape.metadata.labels.clone().unwrap_or_default();
        Ok(collecting.selects(namespace, &labels))
    }

    fn await_selected(&mut self, step: &Step, stage: StageRequirement) {
        let wanted: Vec<usize> = (0..self.pods.len())
            .filter(|at| {
                let pod = &self.pods[*at];
                let done = match stage {
                    StageRequirement::Scheduled => pod.life != Life::Pending,
                    StageRequirement::Attempted => pod.attempted || pod.life != Life::Pending,
                };
                !done && self.matches(pod, step)
            })
            .collect();
        for at in wanted {
            self.awaited += usize::from(!self.pods[at].awaited);
            self.pods[at].awaited = true;
        }
    }
}
