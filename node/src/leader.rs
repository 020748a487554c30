//! What a node does while it leads: it runs the control plane, the keeper of the definitions of custom kinds, and the autopilot
//! that chooses the voters. All stop when it no longer leads.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use actors::{ControlPlane, ControlPlaneConfig};
use cluster::Membership;
use cluster::autopilot::{AutopilotState, AutopilotStep, decide};
use consensus::{Consensus, MembershipError};
use protocol::NodeName;
use protocol::store::ObjectStore;
use supervision::{Registry, SystemClock};

use crate::clock::{now, random};
use crate::doors::GossipMembership;

/// How often the autopilot looks when nothing has changed.
const AUTOPILOT_PERIOD: Duration = Duration::from_millis(500);

/// A learner whose log is at most so many entries behind has caught up.
const CAUGHT_UP_ENTRIES: u64 = 100;

/// What leading needs.
pub struct Leadership {
    /// Consensus.
    pub consensus: Arc<Consensus>,
    /// Who is a member.
    pub membership: Membership,
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// Where the control plane's actors are registered.
    pub registry: Registry,
    /// How the control plane is set.
    pub config: ControlPlaneConfig,
}

impl Leadership {
    /// Follows who leads until the process ends.
    pub async fn run(self) {
        let mut status = self.consensus.watch_status();
        let mut members = self.membership.watch();
        let mut control: Option<ControlPlane> = None;
        let mut definitions = tokio::task::JoinSet::new();
        let mut tick = tokio::time::interval(AUTOPILOT_PERIOD);
        loop {
            let leads = status.borrow_and_update().is_leader;
            match (leads, control.take()) {
                (true, Some(running)) => control = Some(running),
                (true, None) => control = self.start().await,
                (false, Some(running)) => {
                    tracing::info!("this node no longer leads; its control plane stops");
                    running.stop().await;
                }
                (false, None) => {}
            }
            match (leads, definitions.is_empty()) {
                (true, true) => {
                    let now: gateway::watch::Now = Arc::new(now);
                    definitions.spawn(gateway::definitions::keep(Arc::clone(&self.store), now));
                    definitions.spawn(gateway::policy_status::keep(Arc::clone(&self.store)));
                }
                (false, false) => definitions.shutdown().await,
                _ => {}
            }
            if leads {
                self.autopilot().await;
            }
            tokio::select! {
                changed = status.changed() => if changed.is_err() { return },
                _ = members.changed() => {}
                _ = tick.tick() => {}
            }
        }
    }

    async fn start(&self) -> Option<ControlPlane> {
        tracing::info!(
            term = self.consensus.status().term,
            "this node leads; its control plane starts"
        );
        let membership = Arc::new(GossipMembership(self.membership.clone()));
        let started = ControlPlane::start(
            self.config.clone(),
            Arc::clone(&self.store),
            membership,
            Arc::new(SystemClock),
            self.registry.clone(),
            random() as u64,
        )
        .await;
        started
            .inspect_err(|error| tracing::error!(%error, "the control plane does not start"))
            .ok()
    }

    async fn autopilot(&self) {
        let members = self.membership.members();
        let status = self.consensus.status();
        if status.changing {
            return;
        }
        let progress = self.consensus.progress();
        let caught_up = progress
            .matched
            .iter()
            .filter(|(_, index)| **index + CAUGHT_UP_ENTRIES >= progress.last_log);
        let state = AutopilotState {
            members: &members,
            voters: status.voters.values().cloned().collect(),
            learners: status.learners.values().cloned().collect(),
            caught_up: caught_up.map(|(name, _)| name.clone()).collect(),
            leader: self.consensus.node().clone(),
            now: now(),
        };
        for step in decide(&state) {
            tracing::info!(?step, "autopilot");
            if let Err(error) = self.carry_out(&step, &state.voters).await {
                tracing::warn!(%error, ?step, "a change of the voters did not take place; decided again");
            }
        }
    }

    async fn carry_out(&self, step: &AutopilotStep, voters: &BTreeSet<NodeName>) -> Result<(), MembershipError> {
        match step {
            AutopilotStep::AddLearner(name) => match self.membership.member(name) {
                Some(member) => self.consensus.add_learner(member.facts.raft_id, name.clone()).await,
                None => Ok(()),
            },
            AutopilotStep::RemoveLearner(name) => self.consensus.remove(name).await,
            AutopilotStep::ChangeVoters { add, remove } => {
                let status = self.consensus.status();
                let known = status.voters.iter().chain(&status.learners);
                let wanted = |name: &NodeName| voters.contains(name) && !remove.contains(name) || add.contains(name);
                let voters = known
                    .filter(|(_, name)| wanted(name))
                    .map(|(id, name)| (*id, name.clone()))
                    .collect();
                self.consensus.change_voters(voters).await
            }
        }
    }
}
