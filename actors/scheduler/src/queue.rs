//! Owns where pending pods wait: active, backing off, parked as unschedulable, or held back by gates. Called by the
//! `Scheduler`. It must hold every pending pod in exactly one place, and must never let a pod wait without an event or a
//! time that will bring it back.
//!
//! Differs from kube-scheduler: a pod that backs off stays there until its time has come, also when nothing else is ready
//! (`SchedulerPopFromBackoffQ`); and there is no waiting stage for Permit, because gangs are decided whole in one round.

use crate::cluster::{ClassId, PodId};
use crate::framework::QueueKey;
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};

/// The plugins that refused a pod, one bit for each place in its profile (the 64th and later share the last bit).
pub type PluginMask = u64;

/// The mask of one plugin.
pub fn mask_of(place: usize) -> PluginMask {
    1 << place.min(63)
}

/// Where a pod waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Ready to be scheduled.
    Active(QueueKey),
    /// Ready when this time has come.
    BackingOff {
        /// The time in milliseconds.
        until_ms: u64,
    },
    /// Not schedulable until an event helps.
    Parked {
        /// Since when (milliseconds).
        since_ms: u64,
        /// Its class.
        class: ClassId,
        /// Who refused it.
        refused_by: PluginMask,
    },
    /// Held back by a plugin's PreEnqueue.
    Gated,
}

/// A waiting pod.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    stage: Stage,
    attempts: u32,
    failed_ms: u64,
    /// The order in which it entered, or failed last.
    entered: u64,
}

/// Back-off times.
#[derive(Clone, Copy, Debug)]
pub struct BackOff {
    /// The first.
    pub initial_ms: u64,
    /// The longest.
    pub max_ms: u64,
}

impl BackOff {
    /// After so many attempts: doubling from the first to the longest.
    pub fn after(&self, attempts: u32) -> u64 {
        let doublings = attempts.saturating_sub(1).min(32);
        self.initial_ms.saturating_mul(1 << doublings).min(self.max_ms)
    }
}

/// The pods of one class that the same plugins refused.
type ParkedKey = (ClassId, PluginMask);

/// The queue.
#[derive(Debug)]
pub struct Queue {
    back_off: BackOff,
    parked_max_ms: u64,
    waiting: FxHashMap<PodId, Waiting>,
    active: BTreeSet<(QueueKey, PodId)>,
    backing_off: BTreeSet<(u64, PodId)>,
    parked: BTreeMap<PluginMask, BTreeMap<ClassId, BTreeSet<PodId>>>,
    parked_by_age: BTreeSet<(u64, PodId)>,
    gated: usize,
    entered: u64,
}

/// How many pods wait where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLengths {
    /// Ready.
    pub active: usize,
    /// Backing off.
    pub backing_off: usize,
    /// Unschedulable.
    pub unschedulable: usize,
    /// Gated.
    pub gated: usize,
}

impl Queue {
    /// An empty queue.
    pub fn new(back_off: BackOff, parked_max_ms: u64) -> Self {
        Self {
            back_off,
            parked_max_ms,
            waiting: FxHashMap::default(),
            active: BTreeSet::new(),
            backing_off: BTreeSet::new(),
            parked: BTreeMap::new(),
            parked_by_age: BTreeSet::new(),
            gated: 0,
            entered: 0,
        }
    }

    /// How many pods wait where.
    pub fn lengths(&self) -> QueueLengths {
        QueueLengths {
            active: self.active.len(),
            backing_off: self.backing_off.len(),
            unschedulable: self.parked_by_age.len(),
            gated: self.gated,
        }
    }

    /// Where a pod waits.
    pub fn stage(&self, pod: PodId) -> Option<Stage> {
        self.waiting.get(&pod).map(|waiting| waiting.stage)
    }

    /// Takes a pod out, wherever it is; the answer is how often it was tried.
    pub fn remove(&mut self, pod: PodId) -> u32 {
        match self.waiting.remove(&pod) {
            Some(waiting) => {
                self.unlink(pod, waiting.stage);
                waiting.attempts
            }
            None => 0,
        }
    }

    /// Takes a pod in again that was taken out, and was tried so often. It must be put somewhere.
    pub fn bring_back(&mut self, pod: PodId, attempts: u32) {
        self.entry(pod);
        let waiting = self.waiting.get_mut(&pod).expect("made by entry");
        waiting.attempts = waiting.attempts.max(attempts);
    }

    fn unlink(&mut self, pod: PodId, stage: Stage) {
        match stage {
            Stage::Active(key) => {
                self.active.remove(&(key, pod));
            }
            Stage::BackingOff { until_ms } => {
                self.backing_off.remove(&(until_ms, pod));
            }
            Stage::Parked {
                since_ms,
                class,
                refused_by,
            } => {
                self.parked_by_age.remove(&(since_ms, pod));
                let Some(classes) = self.parked.get_mut(&refused_by) else {
                    return;
                };
                let Some(pods) = classes.get_mut(&class) else { return };
                pods.remove(&pod);
                if pods.is_empty() {
                    classes.remove(&class);
                }
                if classes.is_empty() {
                    self.parked.remove(&refused_by);
                }
            }
            Stage::Gated => self.gated -= 1,
        }
    }

    fn link(&mut self, pod: PodId, stage: Stage) {
        match stage {
            Stage::Active(key) => {
                self.active.insert((key, pod));
            }
            Stage::BackingOff { until_ms } => {
                self.backing_off.insert((until_ms, pod));
            }
            Stage::Parked {
                since_ms,
                class,
                refused_by,
            } => {
                self.parked_by_age.insert((since_ms, pod));
                let classes = self.parked.entry(refused_by).or_default();
                classes.entry(class).or_default().insert(pod);
            }
            Stage::Gated => self.gated += 1,
        }
    }

    fn move_to(&mut self, pod: PodId, stage: Stage) {
        let entered = self.entry(pod);
        let waiting = self.waiting.get_mut(&pod).expect("made by entry");
        let old = std::mem::replace(&mut waiting.stage, stage);
        waiting.entered = entered;
        self.unlink(pod, old);
        self.link(pod, stage);
    }

    /// The order in which a pod entered; a new pod enters now, gated.
    fn entry(&mut self, pod: PodId) -> u64 {
        if let Some(waiting) = self.waiting.get(&pod) {
            return waiting.entered;
        }
        self.entered += 1;
        let entered = self.entered;
        self.waiting.insert(
            pod,
            Waiting {
                stage: Stage::Gated,
                attempts: 0,
                failed_ms: 0,
                entered,
            },
        );
        self.gated += 1;
        entered
    }

    /// Notes that a pod failed: it goes behind those that have waited longer.
    fn failed(&mut self, pod: PodId, now_ms: u64) -> u32 {
        self.entry(pod);
        self.entered += 1;
        let waiting = self.waiting.get_mut(&pod).expect("made by entry");
        waiting.failed_ms = now_ms;
        waiting.attempts = waiting.attempts.max(1);
        waiting.entered = self.entered;
        waiting.attempts
    }

    /// Makes a pod ready. `key_of` gives its place, from the order in which it entered.
    pub fn activate(&mut self, pod: PodId, key_of: impl FnOnce(u64) -> QueueKey) {
        let entered = self.entry(pod);
        self.move_to(pod, Stage::Active(key_of(entered)));
    }

    /// Holds a pod back.
    pub fn gate(&mut self, pod: PodId) {
        self.move_to(pod, Stage::Gated);
    }

    /// Takes the first ready pod. It stays known with its attempts, and must be put back or removed.
    pub fn pop(&mut self) -> Option<PodId> {
        let (_, pod) = self.active.pop_first()?;
        if let Some(waiting) = self.waiting.get_mut(&pod) {
            waiting.attempts += 1;
            // Not linked anywhere: the stage that costs nothing to leave.
            waiting.stage = Stage::Gated;
            self.gated += 1;
        }
        Some(pod)
    }

    /// Takes a pod out of wherever it waits, to decide for it. It must be put back or removed.
    pub fn hold(&mut self, pod: PodId) {
        match self.stage(pod) {
            Some(Stage::Gated) | None => {}
            Some(_) => {
                self.gate(pod);
                if let Some(waiting) = self.waiting.get_mut(&pod) {
                    waiting.attempts += 1;
                }
            }
        }
    }

    /// The order in which a pod entered, or failed last.
    pub fn entered(&self, pod: PodId) -> u64 {
        self.waiting.get(&pod).map_or(u64::MAX, |waiting| waiting.entered)
    }

    /// Parks a pod that was just refused.
    pub fn park(&mut self, pod: PodId, now_ms: u64, class: ClassId, refused_by: PluginMask) {
        self.failed(pod, now_ms);
        self.move_to(
            pod,
            Stage::Parked {
                since_ms: now_ms,
                class,
                refused_by,
            },
        );
    }

    /// Lets a pod back off that failed for another reason than its own.
    pub fn back_off(&mut self, pod: PodId, now_ms: u64) {
        let attempts = self.failed(pod, now_ms);
        self.move_to(
            pod,
            Stage::BackingOff {
                until_ms: now_ms + self.back_off.after(attempts),
            },
        );
    }

    /// The groups of parked pods that one of these plugins refused, or nobody, in a fixed order.
    pub fn parked_groups(&self, refused_by: PluginMask) -> Vec<ParkedKey> {
        let concerned = self
            .parked
            .iter()
            .filter(|(mask, _)| **mask == 0 || **mask & refused_by != 0);
        concerned
            .flat_map(|(mask, classes)| classes.keys().map(|class| (*class, *mask)))
            .collect()
    }

    /// Wakes a group of parked pods: to the active queue (with the key that `key_of` gives), or to back off if their time
    /// has not come.
    pub fn wake(&mut self, group: ParkedKey, now_ms: u64, key_of: impl Fn(PodId, u64) -> QueueKey) {
        let (class, refused_by) = group;
        let pods = self.parked.get(&refused_by).and_then(|classes| classes.get(&class));
        for pod in pods.cloned().unwrap_or_default() {
            let waiting = self.waiting[&pod];
            let until_ms = waiting.failed_ms + self.back_off.after(waiting.attempts);
            let ready = until_ms <= now_ms;
            let stage = if ready {
                Stage::Active(key_of(pod, waiting.entered))
            } else {
                Stage::BackingOff { until_ms }
            };
            self.move_to(pod, stage);
        }
    }

    /// Moves to the active queue what has backed off, and what was parked for the longest time allowed.
    pub fn advance(&mut self, now_ms: u64, key_of: impl Fn(PodId, u64) -> QueueKey) {
        while let Some((until_ms, pod)) = self.backing_off.first().copied() {
            if until_ms > now_ms {
                break;
            }
            self.activate(pod, |entered| key_of(pod, entered));
        }
        while let Some((since_ms, pod)) = self.parked_by_age.first().copied() {
            if since_ms + self.parked_max_ms > now_ms {
                break;
            }
            self.activate(pod, |entered| key_of(pod, entered));
        }
    }

    /// When `advance` has something to do.
    pub fn next_wakeup_ms(&self) -> Option<u64> {
        let back_off = self.backing_off.first().map(|(until_ms, _)| *until_ms);
        let parked = self
            .parked_by_age
            .first()
            .map(|(since_ms, _)| since_ms + self.parked_max_ms);
        back_off.into_iter().chain(parked).min()
    }

    /// Whether a pod is ready.
    pub fn has_active(&self) -> bool {
        !self.active.is_empty()
    }
}
