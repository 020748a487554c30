//! Owns the round of one gang, which is placed whole or not at all: a pod group, or a tree of groups below a composite group.
//! Called by the scheduler's round. It must never leave a part placed that is smaller than its group, and every group above it,
//! demand.
//!
//! As in Kubernetes, the pods of a group wait until the PodGroup and everything above it exist, at least `minCount` of its pods
//! are there, and at least `minGroupCount` groups of each composite group are complete in this sense. Then all that wait are
//! decided in one go. Differs from kube-scheduler: no preemption is tried for a gang; placements are not tried domain by domain
//! (`schedulingConstraints.topology`); a group's own priority is not used, its pods have theirs.

use crate::binding_cycle::Permitted;
use crate::cluster::PodId;
use crate::cycle::{Found, NotFound};
use crate::decision::{Decision, Preemption};
use crate::diagnosis::Diagnosis;
use crate::framework::ClusterEvent;
use crate::groups::Member;
use crate::intern::Sym;
use crate::permit::Denial;
use crate::queue::Stage;
use crate::scheduler::Scheduler;
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// What became of one pod of a gang while the others were tried.
struct Tried {
    pod: PodId,
    profile: usize,
    /// The node, and what Permit said if it was asked.
    outcome: Result<(Found, Option<Permitted>), Why>,
}

/// A group whose waiting pods were tried.
struct TriedGroup {
    pods: Vec<Tried>,
    /// How many were placed before.
    placed: usize,
    pods_min: usize,
    /// Whether those that fit keep their places.
    is_whole: bool,
}

impl TriedGroup {
    fn fitted(&self) -> usize {
        self.placed + self.pods.iter().filter(|tried| tried.outcome.is_ok()).count()
    }
}

/// Why a pod of a gang is not placed.
enum Why {
    NoNode(NotFound),
    Denied(Denial),
}

impl Scheduler {
    /// Decides for all pods that wait of a group, and of the groups that are placed with it. `first` was just taken from the queue.
    pub(crate) fn decide_group(&mut self, group: Sym, first: PodId, decisions: &mut Vec<Decision>) {
        let Some(root) = self.groups.root(group) else {
            // The PodGroup, or what is above it, was removed after its pods were queued.
            self.queue.hold(first);
            self.groups.is_ready(group, first);
            return;
        };
        let mut leaves = self.groups.leaves(root);
        // The group whose pod is the first in the queue goes first.
        leaves.sort_by_key(|leaf| *leaf != group);
        let mut tried: FxHashMap<Sym, TriedGroup> = FxHashMap::default();
        for leaf in &leaves {
            let group = self.try_group(*leaf, first);
            tried.insert(*leaf, group);
        }
        self.give_up_incomplete(root, &mut tried);
        for leaf in leaves {
            if let Some(group) = tried.remove(&leaf) {
                self.conclude(root, leaf, group, decisions);
            }
        }
    }

    /// Puts the waiting pods of a group where they fit; all of them give their places back if they are too few.
    fn try_group(&mut self, group: Sym, first: PodId) -> TriedGroup {
        let pods_min = self.groups.pods_min(group).unwrap_or(usize::MAX);
        let members: Vec<PodId> = self.groups.members(group).collect();
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
        let pods = waiting.into_iter().map(|pod| self.try_member(pod)).collect();
        let mut tried = TriedGroup {
            pods,
            placed,
            pods_min,
            is_whole: true,
        };
        // Permit is asked when the gang is whole. A pod that is denied counts as one that does not fit.
        if tried.fitted() >= pods_min {
            tried.pods.iter_mut().for_each(|pod| self.permit_member(pod));
        }
        if tried.fitted() < pods_min {
            self.give_up_group(&mut tried);
        }
        tried
    }

    fn give_up_group(&mut self, tried: &mut TriedGroup) {
        tried.is_whole = false;
        for pod in tried.pods.iter().filter(|pod| pod.outcome.is_ok()) {
            self.give_up(pod.pod);
        }
    }

    /// Whether enough is placed of a composite group (below a root there are no circles). If not, everything below it gives its places back.
    fn give_up_incomplete(&mut self, member: Member, tried: &mut FxHashMap<Sym, TriedGroup>) -> bool {
        let composite = match member {
            Member::Group(group) => return tried.get(&group).is_some_and(|group| group.is_whole),
            Member::Composite(composite) => composite,
        };
        let children: Vec<Member> = self.groups.children(composite).collect();
        let mut whole = 0;
        for child in &children {
            whole += usize::from(self.give_up_incomplete(*child, tried));
        }
        let is_whole = self.groups.groups_min(composite).is_some_and(|min| whole >= min);
        if !is_whole {
            for leaf in self.groups.leaves(member) {
                if let Some(group) = tried.get_mut(&leaf).filter(|group| group.is_whole) {
                    self.give_up_group(group);
                }
            }
        }
        is_whole
    }

    /// The decisions for the pods of a group that were tried.
    fn conclude(&mut self, root: Member, group: Sym, tried: TriedGroup, decisions: &mut Vec<Decision>) {
        let (is_whole, fitted, pods_min) = (tried.is_whole, tried.fitted(), tried.pods_min);
        for tried in tried.pods {
            let decision = match tried.outcome {
                Ok((found, permitted)) if is_whole => {
                    let attempts = self.queue.remove(tried.pod);
                    self.cluster.pod_mut(tried.pod).attempts = attempts;
                    let signature = self.cluster.signature(tried.pod).clone();
                    self.wake(&ClusterEvent::PodPlaced(&signature));
                    match permitted {
                        Some(Permitted::Later) => continue,
                        _ => self.bind_or_give_up(tried.pod, &found),
                    }
                }
                Ok(_) => {
                    let why = match root {
                        Member::Composite(root) if fitted >= pods_min => self.incomplete_composite(root),
                        _ => self.incomplete(group, fitted, pods_min),
                    };
                    self.refuse(tried.pod, tried.profile, why, Preemption::NotTried)
                }
                Err(Why::NoNode(why)) => self.refuse(tried.pod, tried.profile, why, Preemption::NotTried),
                Err(Why::Denied(denial)) => self.deny(tried.pod, denial),
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
        let found = self.find(pod, class, &mut plan);
        let profile = plan.class.profile;
        self.plans.put(plan_id, plan);
        let outcome = match found {
            Ok(found) => match self.assume(pod, found.node) {
                Ok(()) => Ok((found, None)),
                Err(denial) => Err(Why::Denied(denial)),
            },
            Err(why) => Err(Why::NoNode(why)),
        };
        Tried { pod, profile, outcome }
    }

    fn permit_member(&mut self, tried: &mut Tried) {
        let Ok((found, permitted)) = &mut tried.outcome else {
            return;
        };
        match self.permit(tried.pod, found) {
            Ok(answer) => *permitted = Some(answer),
            Err(denial) => {
                self.give_up(tried.pod);
                tried.outcome = Err(Why::Denied(denial));
            }
        }
    }

    /// Why a pod that fits is not placed. No plugin is named, so that any event wakes it.
    fn incomplete(&self, group: Sym, fitted: usize, pods_min: usize) -> NotFound {
        let name = self.cluster.symbols.text(group);
        self.refused_whole(format!(
            "pod group {name} needs {pods_min} pods placed together, and only {fitted} fit"
        ))
    }

    fn incomplete_composite(&self, root: Sym) -> NotFound {
        let name = self.cluster.symbols.text(root);
        let min = self.groups.groups_min(root).unwrap_or(1);
        self.refused_whole(format!(
            "composite pod group {name} needs {min} groups placed together, and fewer fit"
        ))
    }

    fn refused_whole(&self, message: String) -> NotFound {
        let diagnosis = Diagnosis {
            nodes_all: self.cluster.nodes_present(),
            pre_filter_message: Some(message),
            ..Diagnosis::default()
        };
        NotFound {
            diagnosis: Arc::new(diagnosis),
        }
    }

    /// The name under which all bindings that belong together are known: that of the group, or of the composite group on top.
    pub(crate) fn bound_together(&self, group: Sym) -> Sym {
        match self.groups.root(group) {
            Some(Member::Group(root) | Member::Composite(root)) => root,
            None => group,
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

    #[test]
    fn a_tree_of_groups_is_placed_as_far_as_its_demands_allow() {
        // (cpus of the only node, how many pods are placed): two groups of 2 pods each, of which 2, or 1, are needed.
        for (groups_min, cpu, placed) in [(2, "4", 4), (2, "3", 0), (1, "3", 2), (1, "1", 0)] {
            let mut bench = Bench::new();
            bench.node(small_node("n1", cpu));
            bench.scheduler.set_composite_group("default", "tree", None, groups_min);
            for group in ["g1", "g2"] {
                bench.scheduler.set_group_below("default", group, 2, Some("tree"));
                bench.pod(member(&format!("{group}-a"), group));
                bench.pod(member(&format!("{group}-b"), group));
            }
            let decisions = bench.decide();
            assert_eq!(
                (decisions.len(), bound(&decisions)),
                (4, placed),
                "{groups_min} of 2 groups, {cpu} cpus"
            );
            for decision in &decisions {
                if let Decision::Bind(binding) = decision {
                    assert_eq!(binding.group.as_deref(), Some("default/tree"));
                }
            }
            bench.scheduler.assert_invariants();
        }
    }

    #[test]
    fn groups_below_composites_below_composites() {
        let mut bench = Bench::new();
        bench.node(small_node("n1", "3"));
        bench.scheduler.set_composite_group("default", "root", None, 2);
        bench.scheduler.set_composite_group("default", "left", Some("root"), 1);
        bench.scheduler.set_composite_group("default", "right", Some("root"), 1);
        bench.scheduler.set_group_below("default", "l1", 2, Some("left"));
        bench.scheduler.set_group_below("default", "r1", 2, Some("right"));
        for name in ["a", "b"] {
            bench.pod(member(&format!("l{name}"), "l1"));
        }
        // The other branch is not there.
        assert_eq!(bench.decide(), []);
        for name in ["a", "b"] {
            bench.pod(member(&format!("r{name}"), "r1"));
        }
        // Both branches are needed, and there is room for one and a half.
        let decisions = bench.decide();
        assert_eq!((decisions.len(), bound(&decisions)), (4, 0));
        let words = "composite pod group default/root needs 2 groups placed together, and fewer fit.";
        assert!(
            decisions
                .iter()
                .any(|decision| matches!(decision, Decision::Unschedulable(why) if why.message().ends_with(words)))
        );
        bench.node(small_node("n2", "1"));
        assert_eq!(bound(&bench.decide()), 4);
    }

    #[test]
    fn pods_wait_for_what_is_above_their_group() {
        let mut bench = Bench::new();
        bench.node(small_node("n1", "4"));
        bench.scheduler.set_group_below("default", "g", 1, Some("tree"));
        bench.pod(member("a", "g"));
        assert_eq!(bench.decide(), []);
        // Circles are never complete.
        bench.scheduler.set_composite_group("default", "tree", Some("tree"), 1);
        assert_eq!(bench.decide(), []);
        bench.scheduler.set_composite_group("default", "tree", None, 1);
        assert_eq!(bound(&bench.decide()), 1);
        bench.scheduler.remove_composite_group("default", "tree");
        bench.pod(member("b", "g"));
        assert_eq!(bench.decide(), []);
    }
}
