//! Chooses the voters: which members take part in consensus. The leader calls `decide` whenever membership or the voters
//! change, and every second or so; it carries out the one step that it gets, and asks again. Pure.
//!
//! The rules:
//! - One voter in a cluster of one or two members, three from three members, five from five. Two members stay at one
//!   voter: with two, the death of either would stop the cluster, and with one only the death of that one does.
//! - A member becomes a voter only after it has followed as a learner and caught up, so that it counts towards the
//!   quorum from its first moment. Changes go through joint consensus, so several voters may change in one step.
//! - A voter that has been dead for a while, or has left, is replaced by a live member if there is one. If there is none,
//!   dead voters are dropped only where that lets the cluster survive more deaths than before.
//! - Voters are spread over zones, as far as zones are known.
//!
//! - A member whose consensus has stopped (its disk failed) lives, but counts as a dead voter from the moment it says so.
//!
//! What never happens: a voter that can vote is removed; the leader is removed; a change after which the living voters are no
//! majority; any change while they are none.

use std::collections::{BTreeMap, BTreeSet};

use protocol::{NodeName, UnixMillis};

use crate::membership::{Member, MemberStatus};

/// The most voters: each write waits for a majority of them.
pub const VOTERS_MAX: usize = 5;
/// A voter that is down for so long is replaced. Membership has waited some seconds before; a restart of the process
/// should not cost a voter its place.
pub const DEAD_AFTER_MS: u64 = 5_000;
/// A member is proposed as a voter when it has lived for so long.
pub const SETTLED_AFTER_MS: u64 = 1_000;

/// What the leader knows.
#[derive(Clone, Debug)]
pub struct AutopilotState<'a> {
    /// All members that gossip knows, dead ones too.
    pub members: &'a [Member],
    /// Who votes at present.
    pub voters: BTreeSet<NodeName>,
    /// Who follows without a vote.
    pub learners: BTreeSet<NodeName>,
    /// The learners that have what the leader had when it last looked.
    pub caught_up: BTreeSet<NodeName>,
    /// The leader, which is the node that asks.
    pub leader: NodeName,
    /// The present instant.
    pub now: UnixMillis,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AutopilotStep {
    /// Let a member follow the log without a vote.
    AddLearner(NodeName),
    /// Stop sending the log to a learner that will not vote.
    RemoveLearner(NodeName),
    /// Change the voters, in one step of joint consensus.
    ChangeVoters {
        /// Learners that have caught up and now vote.
        add: Vec<NodeName>,
        /// Voters that are gone.
        remove: Vec<NodeName>,
    },
}

/// How many of so many voters are a majority.
pub fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// How many voters a cluster of so many living members has.
pub fn voters_wanted(living: usize) -> usize {
    match living {
        0..=2 => 1,
        3..=4 => 3,
        _ => VOTERS_MAX,
    }
}

/// The next step, or none if all is well or nothing can be done. At most one step is returned; the list form leaves room
/// for the caller's loop.
pub fn decide(state: &AutopilotState<'_>) -> Vec<AutopilotStep> {
    next(state).into_iter().collect()
}

fn next(state: &AutopilotState<'_>) -> Option<AutopilotStep> {
    let by_name: BTreeMap<&NodeName, &Member> = state.members.iter().map(|member| (&member.name, member)).collect();
    // A voter of whom gossip knows nothing is neither alive nor dead: after a restart of all, gossip knows nobody yet.
    let is_live = |name: &NodeName| *name == state.leader || by_name.get(name).is_some_and(|member| can_vote(member));
    let is_gone =
        |name: &NodeName| *name != state.leader && by_name.get(name).is_some_and(|member| gone(member, state.now));

    let living_voters = state.voters.iter().filter(|name| is_live(name)).count();
    if living_voters < quorum(state.voters.len()) {
        return None;
    }
    let lost: Vec<NodeName> = state.voters.iter().filter(|name| is_gone(name)).cloned().collect();
    let kept: BTreeSet<NodeName> = state.voters.iter().filter(|name| !is_gone(name)).cloned().collect();
    let living = state.members.iter().filter(|member| can_vote(member)).count().max(1);
    let missing = voters_wanted(living).saturating_sub(kept.len());

    let chosen = choose(state, &kept, missing);
    // One voter more is worth having only if the number becomes odd, or if it takes a lost one's place: of four voters
    // no more may die than of three.
    let useful = if lost.is_empty() && (kept.len() + chosen.len()).is_multiple_of(2) {
        &chosen[..chosen.len().saturating_sub(1)]
    } else {
        &chosen[..]
    };
    if let Some(name) = useful.iter().find(|name| !state.learners.contains(*name)) {
        return Some(AutopilotStep::AddLearner(name.clone()));
    }
    if !useful.is_empty() {
        if !useful.iter().all(|name| state.caught_up.contains(name)) {
            return None;
        }
        // A lost voter keeps its seat until someone takes it: with fewer seats fewer deaths are survived.
        let remove: Vec<NodeName> = lost.iter().take(useful.len()).cloned().collect();
        return Some(AutopilotStep::ChangeVoters {
            add: useful.to_vec(),
            remove,
        });
    }
    if let Some(remove) = worth_dropping(state, &lost, living_voters) {
        return Some(AutopilotStep::ChangeVoters {
            add: Vec::new(),
            remove,
        });
    }
    let unneeded = state
        .learners
        .iter()
        .find(|name| !state.voters.contains(*name) && !chosen.contains(name));
    unneeded.map(|name| AutopilotStep::RemoveLearner(name.clone()))
}

/// Whether a member lives, and its consensus with it.
fn can_vote(member: &Member) -> bool {
    member.status.is_live() && !member.facts.voteless
}

/// Whether a voter is to be replaced: it left, is dead for long enough, or says that it votes no more.
fn gone(member: &Member, now: UnixMillis) -> bool {
    if member.facts.voteless {
        return true;
    }
    match member.status {
        MemberStatus::Left => true,
        MemberStatus::Down => now.since_ms(member.since) >= DEAD_AFTER_MS,
        MemberStatus::Alive | MemberStatus::Suspect => false,
    }
}

/// Lost voters that are better dropped than kept without a replacement: those that left are not coming back; those that
/// died may, and keep their seats unless the living survive more deaths without them.
fn worth_dropping(state: &AutopilotState<'_>, lost: &[NodeName], living_voters: usize) -> Option<Vec<NodeName>> {
    let spare = |voters: usize| living_voters.checked_sub(quorum(voters));
    let before = spare(state.voters.len())?;
    let after = spare(state.voters.len() - lost.len())?;
    if after > before && !lost.is_empty() {
        return Some(lost.to_vec());
    }
    let left: Vec<NodeName> = lost
        .iter()
        .filter(|name| {
            state
                .members
                .iter()
                .any(|member| member.name == **name && member.status == MemberStatus::Left)
        })
        .cloned()
        .collect();
    (!left.is_empty() && spare(state.voters.len() - left.len())? >= before).then_some(left)
}

/// The members that should vote next, at most so many: those in zones with the fewest voters first; of them those that
/// follow already, so that the choice does not waver; of them the oldest.
fn choose(state: &AutopilotState<'_>, kept: &BTreeSet<NodeName>, count: usize) -> Vec<NodeName> {
    let zone_of = |name: &NodeName| {
        let member = state.members.iter().find(|member| member.name == *name);
        member
            .map(|member| member.facts.zone.clone())
            .filter(|zone| !zone.is_empty())
    };
    let mut in_zone: BTreeMap<String, usize> = BTreeMap::new();
    for zone in kept.iter().filter_map(zone_of) {
        *in_zone.entry(zone).or_default() += 1;
    }
    let settled = |member: &&Member| {
        member.status == MemberStatus::Alive
            && state.now.since_ms(member.since) >= SETTLED_AFTER_MS
            && !member.facts.leaving
            && !member.facts.voteless
    };
    let mut candidates: Vec<&Member> = state
        .members
        .iter()
        .filter(settled)
        .filter(|member| !state.voters.contains(&member.name))
        .collect();
    let mut chosen = Vec::new();
    while chosen.len() < count {
        let crowd = |member: &Member| in_zone.get(&member.facts.zone).copied().unwrap_or(0);
        let best = (candidates.iter().enumerate())
            .min_by_key(|(_, member)| {
                (
                    crowd(member),
                    !state.learners.contains(&member.name),
                    member.since,
                    member.name.clone(),
                )
            })
            .map(|(place, _)| place);
        let Some(place) = best else { break };
        let member = candidates.remove(place);
        if !member.facts.zone.is_empty() {
            *in_zone.entry(member.facts.zone.clone()).or_default() += 1;
        }
        chosen.push(member.name.clone());
    }
    chosen
}

#[cfg(test)]
mod tests;
