//! Owns what happens to a pod between the choice of its node and the decision to bind it: Reserve, Permit, PreBind, Bind; and
//! how all of it is undone. Called by the round, by gangs, and by callers that let waiting pods go. It must leave no pod on a
//! node that no decision mentions, except those that wait at Permit.

use crate::cluster::{NodeId, Placement, PodId};
use crate::cycle::{Found, NotFound};
use crate::decision::{Binding, Decision, PreBind, Preemption};
use crate::diagnosis::{Diagnosis, RefusalCount};
use crate::framework::{Assignment, ClusterEvent, ExtensionPoints};
use crate::permit::{Denial, Permission, WaitingPods};
use crate::pod::PodKey;
use crate::scheduler::Scheduler;
use std::sync::Arc;

/// What Permit says of a pod.
pub(crate) enum Permitted {
    /// It may be bound now.
    Now,
    /// It waits, and keeps its place.
    Later,
}

impl Scheduler {
    /// The pods that wait at Permit, with their nodes' names.
    pub fn waiting_pods(&self) -> impl Iterator<Item = (&PodKey, &Arc<str>)> {
        self.waiting.iter().map(|(pod, node)| {
            let name = self.cluster.symbols.text(self.cluster.node(node).name);
            (&self.cluster.pod(pod).key, name)
        })
    }

    /// Lets a pod that waits at Permit go on, on behalf of a plugin. It is bound by the next `schedule_batch`, unless
    /// another plugin lets it wait.
    pub fn allow_waiting(&mut self, key: &PodKey, plugin: &str) {
        if let Some(pod) = self.cluster.pod_id(key) {
            self.waiting.allow(pod, plugin);
        }
    }

    /// Sends a pod that waits at Permit back, on behalf of a plugin, with the reason.
    pub fn reject_waiting(&mut self, key: &PodKey, plugin: &'static str, reason: &str) {
        if let Some(pod) = self.cluster.pod_id(key) {
            self.waiting.reject(pod, plugin, reason.to_owned());
        }
    }

    fn assignment(&self, pod: PodId, node: NodeId) -> Assignment {
        Assignment {
            pod,
            node,
            now_ms: self.now_ms,
        }
    }

    /// Puts a pod on the node that was found for it and lets the plugins reserve. On a refusal everything is as before.
    pub(crate) fn assume(&mut self, pod: PodId, node: NodeId) -> Result<(), Denial> {
        if self.cluster.pod(pod).nominated == Some(node) {
            self.cluster.nominate(pod, None);
        }
        self.cluster.place(pod, Placement::Assumed(node));
        self.withdraw(pod);
        let assignment = self.assignment(pod, node);
        let profile = self.profile_of(self.cluster.signature(pod)).unwrap_or(0);
        for enabled in &self.configuration.profiles[profile].plugins {
            if !enabled.points.meets(ExtensionPoints::RESERVE) {
                continue;
            }
            if let Err(reason) = enabled.plugin.reserve(&mut self.cluster, assignment) {
                let plugin = enabled.plugin.name();
                self.give_up(pod);
                return Err(Denial { plugin, reason });
            }
        }
        Ok(())
    }

    /// Takes an assumed pod off its node and lets the plugins unreserve. Nobody is told.
    pub(crate) fn give_up(&mut self, pod: PodId) {
        self.waiting.remove(pod);
        self.cluster.lift(pod);
        self.unreserve(pod);
    }

    /// Tells the plugins, the last first, that what they reserved is no longer needed.
    pub(crate) fn unreserve(&mut self, pod: PodId) {
        let Some(profile) = self.profile_of(self.cluster.signature(pod)) else {
            return;
        };
        for enabled in self.configuration.profiles[profile].plugins.iter().rev() {
            if enabled.points.meets(ExtensionPoints::RESERVE) {
                enabled.plugin.unreserve(&mut self.cluster, pod);
            }
        }
    }

    /// Asks every plugin whether an assumed pod may be bound. A refusal undoes nothing.
    pub(crate) fn permit(&mut self, pod: PodId, found: &Found) -> Result<Permitted, Denial> {
        let assignment = self.assignment(pod, found.node);
        let profile = self.profile_of(self.cluster.signature(pod)).unwrap_or(0);
        let mut waits = Vec::new();
        for enabled in &self.configuration.profiles[profile].plugins {
            if !enabled.points.meets(ExtensionPoints::PERMIT) {
                continue;
            }
            let plugin = enabled.plugin.name();
            match enabled.plugin.permit(&self.cluster, assignment, &mut self.waiting) {
                Permission::Approve => {}
                Permission::Deny(reason) => return Err(Denial { plugin, reason }),
                Permission::Wait { timeout_ms } => waits.push((plugin, timeout_ms)),
            }
        }
        if waits.is_empty() {
            return Ok(Permitted::Now);
        }
        self.waiting.insert(pod, *found, self.now_ms, &waits);
        Ok(Permitted::Later)
    }

    /// PreBind and Bind: how an assumed pod is bound. A refusal undoes nothing.
    pub(crate) fn bind(&self, pod: PodId, found: &Found) -> Result<Binding, Denial> {
        let assignment = self.assignment(pod, found.node);
        let profile = self.profile_of(self.cluster.signature(pod)).unwrap_or(0);
        let plugins = &self.configuration.profiles[profile].plugins;
        let mut pre_bind: Vec<PreBind> = Vec::new();
        for enabled in plugins.iter().filter(|e| e.points.meets(ExtensionPoints::PRE_BIND)) {
            match enabled.plugin.pre_bind(&self.cluster, assignment) {
                Ok(steps) => pre_bind.extend(steps),
                Err(reason) => {
                    let plugin = enabled.plugin.name();
                    return Err(Denial { plugin, reason });
                }
            }
        }
        let mut binders = plugins.iter().filter(|e| e.points.meets(ExtensionPoints::BIND));
        let method = binders.find_map(|enabled| enabled.plugin.bind(&self.cluster, assignment));
        let Some(method) = method else {
            let reason = "no plugin of the profile binds pods; enable DefaultBinder".to_owned();
            return Err(Denial { plugin: "", reason });
        };
        let record = self.cluster.pod(pod);
        let group = self.cluster.signature(pod).group;
        Ok(Binding {
            pod: record.key.clone(),
            uid: record.uid.clone(),
            node: self.cluster.symbols.text(self.cluster.node(found.node).name).clone(),
            score: found.score,
            feasible_nodes: found.feasible,
            pre_bind,
            method,
            group: group.map(|group| self.cluster.symbols.text(self.bound_together(group)).clone()),
        })
    }

    /// Runs an assumed pod through Permit, PreBind and Bind. `None` if it waits.
    pub(crate) fn go_on(&mut self, pod: PodId, found: &Found) -> Option<Decision> {
        let bound = match self.permit(pod, found) {
            Ok(Permitted::Later) => return None,
            Ok(Permitted::Now) => self.bind(pod, found),
            Err(denial) => Err(denial),
        };
        Some(self.settle(pod, bound))
    }

    /// PreBind and Bind for an assumed pod that Permit has let go.
    pub(crate) fn bind_or_give_up(&mut self, pod: PodId, found: &Found) -> Decision {
        let bound = self.bind(pod, found);
        self.settle(pod, bound)
    }

    /// The decision for an assumed pod whose way has ended: bound, or back in the queue.
    fn settle(&mut self, pod: PodId, bound: Result<Binding, Denial>) -> Decision {
        match bound {
            Ok(binding) => Decision::Bind(binding),
            Err(denial) => {
                self.give_up(pod);
                self.queue.bring_back(pod, self.cluster.pod(pod).attempts);
                let decision = self.deny(pod, denial);
                let signature = self.cluster.signature(pod).clone();
                self.wake(&ClusterEvent::PodLifted(&signature));
                decision
            }
        }
    }

    /// Parks a pod that has no node any more, in the words that kube-scheduler has for it.
    pub(crate) fn deny(&mut self, pod: PodId, denial: Denial) -> Decision {
        let profile = self.profile_of(self.cluster.signature(pod)).unwrap_or(0);
        self.refuse(pod, profile, refusal(denial), Preemption::NotTried)
    }

    /// Decides for the pods whose waiting at Permit is over.
    pub(crate) fn settle_waiting(&mut self, decisions: &mut Vec<Decision>) {
        if self.waiting.is_empty() {
            return;
        }
        for (pod, outcome) in self.waiting.take_settled(self.now_ms) {
            let bound = outcome.and_then(|found| self.bind(pod, &found));
            let decision = self.settle(pod, bound);
            decisions.push(decision);
        }
    }

    /// Tells the plugins that the store has confirmed a binding.
    pub(crate) fn post_bind(&mut self, pod: PodId, node: NodeId) {
        let Some(profile) = self.profile_of(self.cluster.signature(pod)) else {
            return;
        };
        let assignment = self.assignment(pod, node);
        for enabled in &self.configuration.profiles[profile].plugins {
            if enabled.points.meets(ExtensionPoints::POST_BIND) {
                enabled.plugin.post_bind(&self.cluster, assignment);
            }
        }
    }

    /// The pods that wait at Permit, for plugins and for preemption.
    pub(crate) fn waiting_mut(&mut self) -> &mut WaitingPods {
        &mut self.waiting
    }
}

/// The evidence against one node, the chosen one, as kube-scheduler counts it.
fn refusal(denial: Denial) -> NotFound {
    let named = !denial.plugin.is_empty();
    let diagnosis = Diagnosis {
        nodes_all: 1,
        pre_filter_message: None,
        refusals: vec![RefusalCount {
            plugin: named.then_some(denial.plugin),
            reason: denial.reason,
            nodes: 1,
        }],
        plugins: if named { vec![denial.plugin] } else { Vec::new() },
    };
    NotFound {
        diagnosis: Arc::new(diagnosis),
    }
}
