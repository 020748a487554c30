//! Owns the round: it takes ready pods from the queue and decides for each. Called by whoever calls
//! `Scheduler::schedule_batch`. It must account for every binding before it looks at the next pod, and must put every pod
//! that it does not place back into the queue.

use crate::cluster::{ClassId, PodId};
use crate::cycle::{Cycle, Found, NotFound, Search};
use crate::decision::{Decision, Preemption, Unschedulable};
use crate::framework::{ClusterEvent, ExtensionPoints, PostFilterOutcome, Reasons, Unplaced, Verdict};
use crate::index::ClassIndex;
use crate::plan::{Failure, Plan, PlanId};
use crate::queue::{PluginMask, mask_of};
use crate::scheduler::{Scheduler, queue_key};

/// How long a pod that waits for its victims to go does not look for others. Longer than a round trip to the store;
/// from then on the victims' deletion timestamps say the same.
const EVICTION_AWAITED_MS: u64 = 30_000;

impl Scheduler {
    /// Decides for up to `pods_max` pods that are ready, in the queue's order (a gang is decided whole, so there may be more
    /// decisions). Bindings are accounted for at once, so that each decision sees the earlier ones: `upsert_pod` confirms
    /// them, `forget` takes them back.
    pub fn schedule_batch(&mut self, now_ms: u64, pods_max: usize) -> Vec<Decision> {
        self.now_ms = self.now_ms.max(now_ms);
        let (profiles, cluster) = (&self.configuration.profiles, &self.cluster);
        self.queue
            .advance(self.now_ms, |pod, entered| queue_key(profiles, cluster, pod, entered));
        let mut decisions = Vec::new();
        self.settle_waiting(&mut decisions);
        while decisions.len() < pods_max {
            let Some(pod) = self.queue.pop() else { break };
            match self.cluster.signature(pod).group {
                Some(group) => self.decide_group(group, pod, &mut decisions),
                None => decisions.extend(self.decide(pod)),
            }
            if self.waiting.has_settled() {
                self.settle_waiting(&mut decisions);
            }
        }
        decisions
    }

    /// The decision for a pod, unless it has a node and waits at Permit.
    fn decide(&mut self, pod: PodId) -> Option<Decision> {
        let class_id = self.cluster.pod(pod).class;
        let plan_id = self.plan_of(class_id);
        let mut plan = self.plans.take(plan_id);
        let decision = match self.find(pod, class_id, &mut plan) {
            Ok(found) => match self.assume(pod, found.node) {
                Ok(()) => {
                    let attempts = self.queue.remove(pod);
                    self.cluster.pod_mut(pod).attempts = attempts;
                    let signature = self.cluster.signature(pod).clone();
                    self.wake(&ClusterEvent::PodPlaced(&signature));
                    self.go_on(pod, &found)
                }
                Err(denial) => Some(self.deny(pod, denial)),
            },
            Err(why) => {
                let preemption = self.make_room(pod, class_id, &mut plan);
                Some(self.refuse(pod, plan.class.profile, why, preemption))
            }
        };
        // Pods that name their nodes come one to a plan (DaemonSets): it is not kept for as long as the pod lives.
        let names_nodes = plan.class.only_nodes.is_some();
        self.plans.put(plan_id, plan);
        if names_nodes {
            self.plans.release(&mut self.cluster, class_id);
        }
        decision
    }

    /// The plan of a class of pods of our profiles.
    pub(crate) fn plan_of(&mut self, class: ClassId) -> PlanId {
        let signature = &self.cluster.class(class).signature;
        let profile = self
            .profile_of(signature)
            .expect("only pods of our profiles are asked for");
        self.plans
            .of(&mut self.cluster, profile, &self.configuration.profiles[profile], class)
    }

    /// Finds a node for a pod, without putting it there.
    pub(crate) fn find(&mut self, pod: PodId, class_id: ClassId, plan: &mut Plan) -> Result<Found, NotFound> {
        let chance = chance(self.configuration.seed, self.decided);
        self.decided += 1;
        plan.uses += 1;
        plan.last_used = self.decided;
        let nominated = self.cluster.pod(pod).nominated.is_some();
        let cycle = Cycle::new(&self.cluster, class_id, Some(pod), &plan.class);
        if nominated && let Some(found) = self.try_nominated(pod, &cycle) {
            return Ok(found);
        }
        let slots = self.cluster.nodes().len().max(1);
        let tie_start = (chance % slots as u64) as usize;
        let feasible_max = self.feasible_max(plan.class.profile);
        let search = Search {
            tie_start,
            window_start: self.window_start % slots,
            feasible_max,
            threads: self.configuration.parallelism,
        };
        if feasible_max < usize::MAX || nominated {
            let found = cycle.find(&search);
            if feasible_max < usize::MAX
                && let Ok(found) = &found
            {
                self.window_start = self.window_start.wrapping_add(found.examined);
            }
            return found;
        }
        self.find_among_all(pod, class_id, plan, &search)
    }

    /// Finds a node among all, by the index where there is one.
    fn find_among_all(
        &mut self,
        pod: PodId,
        class_id: ClassId,
        plan: &mut Plan,
        search: &Search,
    ) -> Result<Found, NotFound> {
        match &plan.failure {
            Some(failure) if failure.holds(&self.cluster) => return Err(failure.why.clone()),
            _ => plan.failure = None,
        }
        let nodes = self.cluster.nodes().len();
        if self.configuration.indexed && self.plans.may_index(plan, nodes, self.decided) {
            // The index is of all pods of the plan, so the cycle is of no pod in particular.
            let cycle = Cycle::new(&self.cluster, class_id, None, &plan.class);
            let index = match plan.index.take() {
                Some(mut index) => {
                    index.catch_up(&cycle, search.threads);
                    index
                }
                None => ClassIndex::new(&cycle, search.threads),
            };
            let found = index.find(&cycle, search.tie_start);
            let why = if found.is_none() { index.why_not(&cycle) } else { None };
            plan.index = Some(index);
            if let Some(found) = found {
                return Ok(found);
            }
            if let Some(why) = why {
                plan.failure = Some(Failure::new(&self.cluster, why.clone()));
                return Err(why);
            }
        }
        let found = Cycle::new(&self.cluster, class_id, Some(pod), &plan.class).find(search);
        if let Err(why) = &found {
            plan.failure = Some(Failure::new(&self.cluster, why.clone()));
        }
        found
    }

    /// A pod for which room was made looks at that node first.
    fn try_nominated(&self, pod: PodId, cycle: &Cycle<'_>) -> Option<Found> {
        let node = self.cluster.pod(pod).nominated?;
        if !self.cluster.node(node).present || cycle.class.refusal.is_some() {
            return None;
        }
        let (verdict, _) = cycle.filter(
            node,
            &mut Reasons {
                said: Vec::new(),
                muted: true,
            },
        );
        (verdict == Verdict::Fits).then_some(Found {
            node,
            score: 0,
            feasible: 1,
            examined: 1,
        })
    }

    /// How many feasible nodes are enough.
    fn feasible_max(&self, profile: usize) -> usize {
        let own = self.configuration.profiles[profile].percentage_of_nodes_to_score;
        let percentage = own.unwrap_or(self.configuration.percentage_of_nodes_to_score);
        nodes_to_find(percentage, self.cluster.nodes_present()).unwrap_or(usize::MAX)
    }

    /// Asks the PostFilter plugins to make room, and notes what they did.
    fn make_room(&mut self, pod: PodId, class_id: ClassId, plan: &mut Plan) -> Preemption {
        // What was in vain for a pod of the plan is in vain for the next, until something changes.
        let like_others = self.cluster.pod(pod).nominated.is_none();
        let failure = plan
            .failure
            .as_ref()
            .filter(|failure| like_others && failure.holds(&self.cluster));
        if let Some(no_room) = failure.and_then(|failure| failure.no_room.clone()) {
            return no_room;
        }
        let preemption = self.try_to_make_room(pod, class_id, plan);
        if like_others
            && !matches!(preemption, Preemption::Nominated { .. })
            && let Some(failure) = plan.failure.as_mut().filter(|failure| failure.holds(&self.cluster))
        {
            failure.no_room = Some(preemption.clone());
        }
        preemption
    }

    fn try_to_make_room(&mut self, pod: PodId, class_id: ClassId, plan: &mut Plan) -> Preemption {
        match self.post_filter(pod, class_id, plan) {
            PostFilterOutcome::Skipped => Preemption::NotTried,
            PostFilterOutcome::Waiting(words) => Preemption::Failed(words.into()),
            PostFilterOutcome::Failed(words) => {
                self.withdraw(pod);
                Preemption::Failed(words.into())
            }
            PostFilterOutcome::Nominated { node, victims } => {
                if self.cluster.pod(pod).nominated != Some(node) {
                    self.withdraw(pod);
                }
                self.cluster.nominate(pod, Some(node));
                // A pod that waits at Permit was never bound: it is sent back rather than evicted.
                let (waiting, victims): (Vec<PodId>, Vec<PodId>) =
                    victims.into_iter().partition(|victim| self.waiting.contains(*victim));
                for victim in waiting {
                    self.waiting_mut()
                        .reject(victim, "DefaultPreemption", "preempted".to_owned());
                }
                for victim in &victims {
                    self.cluster.pod_mut(*victim).evicted_until_ms = self.now_ms + EVICTION_AWAITED_MS;
                }
                Preemption::Nominated {
                    node: self.cluster.symbols.text(self.cluster.node(node).name).clone(),
                    victims: victims
                        .iter()
                        .map(|victim| self.cluster.pod(*victim).key.clone())
                        .collect(),
                }
            }
        }
    }

    /// Parks a pod that fits nowhere, until an event helps one of the plugins that refused it.
    pub(crate) fn refuse(&mut self, pod: PodId, profile: usize, why: NotFound, preemption: Preemption) -> Decision {
        let refused_by = self.mask(profile, &why.diagnosis.plugins);
        let class = self.cluster.pod(pod).class;
        self.queue.park(pod, self.now_ms, class, refused_by);
        let record = self.cluster.pod(pod);
        Decision::Unschedulable(Unschedulable {
            pod: record.key.clone(),
            uid: record.uid.clone(),
            diagnosis: why.diagnosis,
            preemption,
        })
    }

    fn mask(&self, profile: usize, plugins: &[&'static str]) -> PluginMask {
        let all = self.configuration.profiles[profile].plugins.iter().enumerate();
        all.filter(|(_, enabled)| plugins.contains(&enabled.plugin.name()))
            .fold(0, |mask, (at, _)| mask | mask_of(at))
    }

    fn post_filter(&mut self, pod: PodId, class_id: ClassId, plan: &mut Plan) -> PostFilterOutcome {
        let unplaced = Unplaced {
            pod,
            class: class_id,
            signature: self.cluster.class(class_id).signature.clone(),
            rules: &plan.class,
            now_ms: self.now_ms,
            chance: chance(self.configuration.seed, self.decided),
            may_remember: plan.index.is_some() && self.cluster.pod(pod).nominated.is_none(),
        };
        let plugins = &self.configuration.profiles[plan.class.profile].plugins;
        for (enabled, memory) in plugins.iter().zip(&mut plan.memory) {
            if !enabled.points.meets(ExtensionPoints::POST_FILTER) {
                continue;
            }
            match enabled.plugin.post_filter(&mut self.cluster, &unplaced, memory) {
                PostFilterOutcome::Skipped => {}
                outcome => return outcome,
            }
        }
        PostFilterOutcome::Skipped
    }
}

/// A number from the seed and a count (SplitMix64): equal for equal arguments, and evenly spread.
fn chance(seed: u64, count: u64) -> u64 {
    let mut z = seed.wrapping_add(count.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Kubernetes' number of feasible nodes after which the search stops; `None` to look at all.
fn nodes_to_find(percentage: u32, nodes: usize) -> Option<usize> {
    const NODES_MIN: usize = 100;
    if nodes < NODES_MIN || percentage >= 100 {
        return None;
    }
    let percentage = match percentage {
        0 => 50usize.saturating_sub(nodes / 125).max(5),
        some => some as usize,
    };
    Some((nodes * percentage / 100).max(NODES_MIN))
}
