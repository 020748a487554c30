//! Changes of the voters: one at a time, on the leader, and only such that the cluster can go on. A new voter first
//! catches up as a learner; openraft then goes through a joint configuration, so that no two disjoint majorities exist
//! at any moment, and a dead voter is replaced in one step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::error::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, RaftMetrics};
use protocol::{NodeName, Revision};
use tokio::time::timeout;

use crate::consensus::Consensus;
use crate::types::{Command, Member, Step};

type Metrics = RaftMetrics<u64, Member>;

/// How long a learner may take to catch up, and the cluster to agree on a change.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(60);
const AGREE_DEADLINE: Duration = Duration::from_secs(10);

/// How long a live voter may take for an entry.
const LIVE_DEADLINE: Duration = Duration::from_secs(3);

/// How long the status may lag behind raft.
const SHOW_DEADLINE: Duration = Duration::from_secs(1);

/// Why a change of the membership was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Only the leader changes the membership.
    #[error("this node does not lead; ask {}", hint.as_ref().map_or("the leader, when there is one", |node| node.as_str()))]
    NotLeader {
        /// Who may lead.
        hint: Option<NodeName>,
    },
    /// Another change is being made.
    #[error("another change of the voters is being made: try again when it is done")]
    InProgress,
    /// The cluster would be left without a voter.
    #[error("{node} is the last voter and cannot be removed")]
    LastVoter {
        /// The voter.
        node: NodeName,
    },
    /// The voters that would remain could not decide anything.
    #[error(
        "the voters that would remain have no majority that answers: {} did not take an entry within {deadline_ms} ms; \
         bring them back, or put live machines in their place",
        names(silent)
    )]
    NoLiveMajority {
        /// Those that do not answer.
        silent: Vec<NodeName>,
        /// How long was waited.
        deadline_ms: u64,
    },
    /// Two members would share a number or a name.
    #[error("{node} is already a member under number {raft_id}: remove it first")]
    Duplicate {
        /// The member.
        node: NodeName,
        /// Its number.
        raft_id: u64,
    },
    /// The new member does not get the log.
    #[error("{node} did not catch up within {deadline_ms} ms: it stays a learner; check that it runs and is reachable")]
    NotCaughtUp {
        /// The member.
        node: NodeName,
        /// How long was waited.
        deadline_ms: u64,
    },
    /// No majority agreed in time. The change may still be made later.
    #[error("no majority of the voters agreed within {deadline_ms} ms; the change may still be made when they answer")]
    NoQuorum {
        /// How long was waited.
        deadline_ms: u64,
    },
    /// Raft refused or has stopped.
    #[error("the membership cannot be changed: {reason}")]
    Raft {
        /// What it said.
        reason: String,
    },
}

impl Consensus {
    /// Forms a cluster of this node alone. Does nothing if the node already belongs to one.
    pub async fn bootstrap(&self) -> Result<(), MembershipError> {
        let raft = self.raft();
        if raft.is_initialized().await.map_err(raft_stopped)? {
            return Ok(());
        }
        let members = BTreeMap::from([(
            self.raft_id(),
            Member {
                name: self.node().clone(),
            },
        )]);
        raft.initialize(members).await.map_err(raft_stopped)?;
        let mut status = self.watch_status();
        let led = timeout(AGREE_DEADLINE, status.wait_for(|status| status.is_leader)).await;
        let led = led.map_err(|_| no_quorum())?;
        led.map(|_| ()).map_err(|_| MembershipError::Raft {
            reason: "consensus has stopped".to_owned(),
        })
    }

    /// Gives a machine the log but no vote, and waits until it has caught up.
    pub async fn add_learner(&self, raft_id: u64, node: NodeName) -> Result<(), MembershipError> {
        let _one_at_a_time = self.begin_change()?;
        self.learn(raft_id, node).await
    }

    /// Makes a machine a voter.
    pub async fn add_voter(&self, raft_id: u64, node: NodeName) -> Result<(), MembershipError> {
        let _one_at_a_time = self.begin_change()?;
        self.learn(raft_id, node).await?;
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([raft_id])), true)
            .await
    }

    /// Removes a voter or learner.
    pub async fn remove(&self, node: &NodeName) -> Result<(), MembershipError> {
        let _one_at_a_time = self.begin_change()?;
        let members = self.members().await?;
        let voters: BTreeSet<u64> = ids_of(&members.voters, node);
        if !voters.is_empty() {
            if voters.len() == members.voters.len() {
                return Err(MembershipError::LastVoter { node: node.clone() });
            }
            let mut remaining = members.voters.clone();
            remaining.retain(|id, _| !voters.contains(id));
            self.require_majority(&remaining).await?;
            self.change(ChangeMembers::RemoveVoters(voters), false).await?;
        }
        let learners = ids_of(&self.members().await?.learners, node);
        if learners.is_empty() {
            return Ok(());
        }
        self.change(ChangeMembers::RemoveNodes(learners), false).await
    }

    /// Makes exactly these machines the voters, in one joint step: new ones catch up first, those that are left out are
    /// removed. This is how a dead voter is replaced.
    pub async fn change_voters(&self, voters: BTreeMap<u64, NodeName>) -> Result<(), MembershipError> {
        let _one_at_a_time = self.begin_change()?;
        if voters.is_empty() {
            return Err(MembershipError::Raft {
                reason: "a cluster needs a voter".to_owned(),
            });
        }
        for (raft_id, node) in &voters {
            if !self.members().await?.voters.contains_key(raft_id) {
                self.learn(*raft_id, node.clone()).await?;
            }
        }
        self.require_majority(&voters).await?;
        let ids = voters.keys().copied().collect();
        self.change(ChangeMembers::ReplaceAllVoters(ids), false).await
    }

    /// Completes a change that a former leader has left between two sets of voters.
    pub(crate) async fn complete_change(&self) -> Result<(), MembershipError> {
        let _one_at_a_time = self.begin_change()?;
        let last = {
            let metrics = self.raft().metrics().borrow().clone();
            let joint = metrics.membership_config.membership().get_joint_config().clone();
            if joint.len() < 2 {
                return Ok(());
            }
            joint
                .into_iter()
                .next_back()
                .expect("a joint configuration has two sets")
        };
        self.change(ChangeMembers::ReplaceAllVoters(last), false).await
    }

    fn begin_change(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, MembershipError> {
        let status = self.status();
        if !status.is_leader {
            let hint = status.leader.filter(|leader| leader != self.node());
            return Err(MembershipError::NotLeader { hint });
        }
        self.changing().try_lock().map_err(|_| MembershipError::InProgress)
    }

    async fn learn(&self, raft_id: u64, node: NodeName) -> Result<(), MembershipError> {
        let present = self.members().await?;
        let members = || present.voters.iter().chain(&present.learners);
        if present.voters.get(&raft_id) == Some(&node) {
            return Ok(());
        }
        let other = members().find(|(id, name)| (**id == raft_id) != (**name == node));
        if let Some((id, name)) = other {
            return Err(MembershipError::Duplicate {
                node: name.clone(),
                raft_id: *id,
            });
        }
        if !present.learners.contains_key(&raft_id) {
            let add = self.raft().add_learner(raft_id, Member { name: node.clone() }, false);
            timeout(AGREE_DEADLINE, add)
                .await
                .map_err(|_| no_quorum())?
                .map_err(refused)?;
        }
        let raft = self.raft();
        let goal = raft.metrics().borrow().last_log_index.unwrap_or(0);
        let wait = raft.wait(Some(CATCH_UP_DEADLINE));
        let caught_up = wait.metrics(
            |metrics| match &metrics.replication {
                Some(replication) => replication
                    .get(&raft_id)
                    .is_some_and(|at| at.is_some_and(|at| at.index >= goal)),
                None => true,
            },
            "a learner catches up",
        );
        match caught_up.await {
            Ok(metrics) if metrics.replication.is_some() => self.show().await,
            Ok(_) => Err(MembershipError::NotLeader {
                hint: self.status().leader,
            }),
            Err(_) => {
                let deadline_ms = CATCH_UP_DEADLINE.as_millis() as u64;
                Err(MembershipError::NotCaughtUp { node, deadline_ms })
            }
        }
    }

    /// Makes sure that a majority of these voters takes entries now: a change to a set that cannot decide would stop the
    /// cluster for good.
    async fn require_majority(&self, voters: &BTreeMap<u64, NodeName>) -> Result<(), MembershipError> {
        // An entry that does nothing: whoever has it is alive.
        let command = Command::new(Step::Compact(Revision::ZERO), 32).map_err(raft_stopped)?;
        let written = timeout(AGREE_DEADLINE, self.raft().client_write(command)).await;
        let index = written.map_err(|_| no_quorum())?.map_err(refused)?.log_id.index;
        let own = self.raft_id();
        let has_it = |metrics: &Metrics, id: &u64| {
            let matched = metrics
                .replication
                .as_ref()
                .and_then(|replication| *replication.get(id)?);
            *id == own || matched.is_some_and(|matched| matched.index >= index)
        };
        let wait = self.raft().wait(Some(LIVE_DEADLINE));
        let live = |metrics: &Metrics| voters.keys().filter(|id| has_it(metrics, id)).count();
        let majority = wait.metrics(|metrics| live(metrics) * 2 > voters.len(), "a majority takes an entry");
        if majority.await.is_ok() {
            return Ok(());
        }
        let metrics = self.raft().metrics().borrow().clone();
        let silent = voters
            .iter()
            .filter(|(id, _)| !has_it(&metrics, id))
            .map(|(_, name)| name.clone());
        Err(MembershipError::NoLiveMajority {
            silent: silent.collect(),
            deadline_ms: LIVE_DEADLINE.as_millis() as u64,
        })
    }

    async fn change(&self, changes: ChangeMembers<u64, Member>, retain: bool) -> Result<(), MembershipError> {
        let change = self.raft().change_membership(changes, retain);
        timeout(AGREE_DEADLINE, change)
            .await
            .map_err(|_| no_quorum())?
            .map_err(refused)?;
        self.show().await
    }

    /// The members as raft has them; the status follows a little later.
    async fn members(&self) -> Result<Members, MembershipError> {
        let read = self.raft().with_raft_state(|state| {
            let effective = state.membership_state.effective();
            let mut members = Members::default();
            for (id, member) in effective.nodes() {
                let voter = effective.voter_ids().any(|voter| voter == *id);
                let set = if voter {
                    &mut members.voters
                } else {
                    &mut members.learners
                };
                set.insert(*id, member.name.clone());
            }
            members
        });
        read.await.map_err(raft_stopped)
    }

    /// Waits a moment until the status shows the members, so that whoever made a change sees it there.
    async fn show(&self) -> Result<(), MembershipError> {
        let members = self.members().await?;
        let mut status = self.watch_status();
        let shown = status.wait_for(|now| now.voters == members.voters && now.learners == members.learners);
        // A later change may have come between; that it is late is no failure of this one.
        let _ = timeout(SHOW_DEADLINE, shown).await;
        Ok(())
    }
}

#[derive(Default)]
struct Members {
    voters: BTreeMap<u64, NodeName>,
    learners: BTreeMap<u64, NodeName>,
}

fn names(nodes: &[NodeName]) -> String {
    let names: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
    names.join(", ")
}

fn ids_of(members: &BTreeMap<u64, NodeName>, node: &NodeName) -> BTreeSet<u64> {
    members
        .iter()
        .filter(|(_, name)| *name == node)
        .map(|(id, _)| *id)
        .collect()
}

fn no_quorum() -> MembershipError {
    MembershipError::NoQuorum {
        deadline_ms: AGREE_DEADLINE.as_millis() as u64,
    }
}

fn raft_stopped(error: impl std::fmt::Display) -> MembershipError {
    MembershipError::Raft {
        reason: error.to_string(),
    }
}

fn refused(error: RaftError<u64, ClientWriteError<u64, Member>>) -> MembershipError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => MembershipError::NotLeader {
            hint: forward.leader_node.map(|member| member.name),
        },
        RaftError::APIError(ClientWriteError::ChangeMembershipError(
            openraft::error::ChangeMembershipError::InProgress(_),
        )) => MembershipError::InProgress,
        error => MembershipError::Raft {
            reason: error.to_string(),
        },
    }
}
