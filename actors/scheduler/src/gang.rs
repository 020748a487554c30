//! Owns pod groups: which pods belong together, and the round of one gang, which is placed whole or not at all. Called by the
//! scheduler's round. It must never leave a part of a gang placed that is smaller than the group demands.
//!
//! As in Kubernetes, the pods of a group wait until the PodGroup exists and at least `minCount` of its pods are there. Then
//! all that wait are decided in one go. Differs from kube-scheduler: no preemption is tried for a gang.

use crate::cluster::{Placement, PodId};
use crate::cycle::{Found, NotFound};
use crate::decision::{Decision, Preemption};
use crate::diagnosis::Diagnosis;
use crate::framework::ClusterEvent;
use crate::intern::Sym;
use crate::queue::Stage;
use crate::scheduler::Scheduler;
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A pod group.
#[derive(Debug, Default)]
struct Group {
    /// How many of its pods are placed at least, if any; `None` while the PodGroup does not exist.
    pods_min: Option<usize>,
    /// Its pods, pending and placed.
    members: BTreeSet<PodId>,
    /// Those that wait for nothing but the group.
    ready: BTreeSet<PodId>,
}

/// All pod groups.
#[derive(Debug, Default)]
pub struct Groups {
    groups: FxHashMap<Sym, Group>,
}

impl Groups {
    /// Sets what a group demands; true if that changed.
    pub fn set(&mut self, group: Sym, pods_min: Option<usize>) -> bool {
        let known = self.groups.entry(group).or_default();
        let changed = known.pods_min != pods_min;
        known.pods_min = pods_min;
        self.drop_if_empty(group);
        changed
    }

    /// A pod of the group is there.
    pub fn join(&mut self, group: Sym, pod: PodId) {
        self.groups.entry(group).or_default().members.insert(pod);
    }

    /// A pod of the group is gone.
    pub fn leave(&mut self, group: Sym, pod: PodId) {
        if let Some(known) = self.groups.get_mut(&group) {
            known.members.remove(&pod);
            known.ready.remove(&pod);
        }
        self.drop_if_empty(group);
    }

    /// A pod of the group waits for nothing but the group.
    pub fn is_ready(&mut self, group: Sym, pod: PodId) {
        self.groups.entry(group).or_default().ready.insert(pod);
    }

    /// The pods that wait for nothing but the group, if enough of the group are there.
    pub fn released(&mut self, group: Sym) -> BTreeSet<PodId> {
        match self.groups.get_mut(&group) {
            Some(known) if known.pods_min.is_some_and(|min| known.members.len() >= min) => {
                std::mem::take(&mut known.ready)
            }
            _ => BTreeSet::new(),
        }
    }

    fn drop_if_empty(&mut self, group: Sym) {
        if self
            .groups
            .get(&group)
            .is_some_and(|known| known.members.is_empty() && known.pods_min.is_none())
        {
            self.groups.remove(&group);
        }
    }
}

/// What became of one pod of a gang while the others were tried.
struct Tried {
    pod: PodId,
    profile: usize,
    outcome: Result<Found, NotFound>,
}

impl Scheduler {
    /// Decides for all pods of a group that wait, of which `first` was just taken from the queue.
    pub(crate) fn decide_group(&mut self, group: Sym, first: PodId, decisions: &mut Vec<Decision>) {
        let known = self.groups.groups.get(&group);
        let members: Vec<PodId> = known.map_or(Vec::new(), |known| known.members.iter().copied().collect());
        let Some(pods_min) = known.and_then(|known| known.pods_min) else {
            // The PodGroup was removed after its pods were queued.
            self.queue.hold(first);
            self.groups.is_ready(group, first);
            return;
        };
        let placed = members
            .iter()
            .filter(|pod| self.cluster.pod(**pod).placement.node().is_some())
            .count();
        let mut waiting: Vec<PodId> = members
            .into_iter()
            .filter(|pod| *pod == first || matches!(self.queue.stage(*pod), Some(stage) if stage != Stage::Gated))
            .collect();
        // Kept in the order in which the queue would have given them.
        waiting.sort_by_key(|pod| (*pod != first, self.queue.entered(*pod)));
        let tried: Vec<Tried> = waiting.into_iter().map(|pod| self.try_member(pod)).collect();
        let fitted = tried.iter().filter(|tried| tried.outcome.is_ok()).count();
        let whole = placed + fitted >= pods_min;
        if !whole {
            for tried in tried.iter().filter(|tried| tried.outcome.is_ok()) {
                self.cluster.lift(tried.pod);
                self.unreserve(tried.pod);
            }
        }
        for tried in tried {
            let decision = match tried.outcome {
                Ok(found) if whole => {
                    self.queue.remove(tried.pod);
                    let signature = self.cluster.signature(tried.pod).clone();
                    self.wake(&ClusterEvent::PodPlaced(&signature));
                    self.binding(tried.pod, &found)
                }
                Ok(_) => {
                    let why = self.incomplete(group, placed + fitted, pods_min);
                    self.refuse(tried.pod, tried.profile, why, Preemption::NotTried)
                }
                Err(why) => self.refuse(tried.pod, tried.profile, why, Preemption::NotTried),
            };
            decisions.push(decision);
        }
    }

    /// Puts a pod of a gang where it fits, so that the next one sees it.
    fn try_member(&mut self, pod: PodId) -> Tried {
        self.queue.hold(pod);
        let class = self.cluster.pod(pod).class;
        let plan_id = self.plan_of(class);
        let mut plan = self.plans.take(plan_id);
        let outcome = self.find(pod, class, &mut plan);
        let profile = plan.class.profile;
        self.plans.put(plan_id, plan);
        if let Ok(found) = &outcome {
            self.withdraw(pod);
            self.cluster.place(pod, Placement::Assumed(found.node));
            self.reserve(pod, found.node);
        }
        Tried { pod, profile, outcome }
    }

    /// Why a pod that fits is not placed. No plugin is named, so that any event wakes it.
    fn incomplete(&self, group: Sym, fitted: usize, pods_min: usize) -> NotFound {
        let name = self.cluster.symbols.text(group);
        let message = format!("pod group {name} needs {pods_min} pods placed together, and only {fitted} fit");
        let diagnosis = Diagnosis {
            nodes_all: self.cluster.nodes_present(),
            pre_filter_message: Some(message),
            ..Diagnosis::default()
        };
        NotFound {
            diagnosis: Arc::new(diagnosis),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::decision::Decision;
    use crate::testing::{Bench, Object, node, pod};
    use serde_json::json;

    fn member(name: &str, group: &str) -> Object {
        pod(name).merge(
            json!({"spec": {"schedulingGroup": {"podGroupName": group}, "containers": [{"name": "c",
            "resources": {"requests": {"cpu": "1"}}}]}}),
        )
    }

    fn small_node(name: &str, cpu: &str) -> Object {
        node(name).merge(json!({"status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "10"}}}))
    }

    fn bound(decisions: &[Decision]) -> usize {
        decisions
            .iter()
            .filter(|decision| matches!(decision, Decision::Bind(_)))
            .count()
    }

    #[test]
    fn a_gang_waits_until_its_group_and_enough_pods_are_there() {
        let mut bench = Bench::new();
        bench.node(small_node("n1", "4"));
        bench.pod(member("a", "g"));
        bench.pod(member("b", "g"));
        assert_eq!(bench.decide(), []);
        bench.scheduler.set_group("default", "g", 3);
        assert_eq!(bench.decide(), []);
        bench.pod(member("c", "g"));
        let decisions = bench.decide();
        assert_eq!(bound(&decisions), 3);
        assert!(
            decisions
                .iter()
                .all(|d| matches!(d, Decision::Bind(b) if b.group.as_deref() == Some("default/g")))
        );
        // One more is placed at once: the gang is complete already.
        bench.pod(member("d", "g"));
        assert_eq!(bound(&bench.decide()), 1);
    }

    #[test]
    fn a_gang_that_does_not_fit_whole_is_not_placed_at_all() {
        let mut bench = Bench::new();
        bench.node(small_node("n1", "2"));
        bench.scheduler.set_group("default", "g", 3);
        for name in ["a", "b", "c"] {
            bench.pod(member(name, "g"));
        }
        let decisions = bench.decide();
        assert_eq!((decisions.len(), bound(&decisions)), (3, 0));
        let messages: Vec<String> = decisions
            .iter()
            .map(|decision| match decision {
                Decision::Unschedulable(why) => why.message(),
                Decision::Bind(binding) => panic!("{binding:?}"),
            })
            .collect();
        let short = "pod group default/g needs 3 pods placed together, and only 2 fit.";
        assert_eq!(messages[0], format!("0/1 nodes are available: {short}"));
        assert!(messages[2].contains("1 Insufficient cpu"));
        // Nothing is held: a pod of its own takes the room.
        assert_eq!(
            bench.place(
                pod("alone").merge(json!({"spec": {"containers": [{"name": "c", "resources":
            {"requests": {"cpu": "2"}}}]}}))
            ),
            "n1"
        );
        bench.remove_pod("alone");
        // Room comes: the whole gang is placed, woken by what helps any of its pods.
        bench.node(small_node("n2", "1"));
        assert_eq!(bound(&bench.decide()), 3);
    }

    #[test]
    fn more_than_the_minimum_is_placed_as_far_as_it_fits() {
        let mut bench = Bench::new();
        bench.node(small_node("n1", "3"));
        bench.scheduler.set_group("default", "g", 2);
        // The group's pods arrive before the minimum is reached by the second of them.
        for name in ["a", "b", "c", "d"] {
            bench.pod(member(name, "g"));
        }
        let decisions = bench.decide();
        assert_eq!((decisions.len(), bound(&decisions)), (4, 3));
    }
}
