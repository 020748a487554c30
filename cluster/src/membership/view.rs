//! What the others are shown of membership: each member with its state and since when, and what changed. Pure; fed by
//! `swim` with what gossip knows at an instant.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use protocol::admin::MemberEntry;
use protocol::{NodeName, UnixMillis};

use super::identity::{MemberFacts, MemberIdentity};

/// How a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberStatus {
    /// It answers.
    Alive,
    /// It has not answered, and may still say that it lives.
    Suspect,
    /// It is dead, or cannot be reached.
    Down,
    /// It left by itself.
    Left,
}

impl MemberStatus {
    /// The word in the shell's answers.
    pub fn as_str(self) -> &'static str {
        match self {
            MemberStatus::Alive => "alive",
            MemberStatus::Suspect => "suspect",
            MemberStatus::Down => "down",
            MemberStatus::Left => "left",
        }
    }

    /// Whether it counts as a member that works: suspicion alone changes nothing.
    pub fn is_live(self) -> bool {
        matches!(self, MemberStatus::Alive | MemberStatus::Suspect)
    }
}

/// A member as it is known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: NodeName,
    /// Where its mesh is.
    pub address: SocketAddr,
    /// Its present life.
    pub incarnation: u64,
    /// What it says of itself.
    pub facts: MemberFacts,
    /// How it is.
    pub status: MemberStatus,
    /// Since when it is so.
    pub since: UnixMillis,
}

impl Member {
    /// The member as the shell shows it; `role` is `leader`, `voter` or `member`, which consensus knows.
    pub fn entry(&self, role: &str) -> MemberEntry {
        MemberEntry {
            name: self.name.to_string(),
            state: self.status.as_str().to_owned(),
            role: role.to_owned(),
            address: self.address.to_string(),
            incarnation: self.incarnation,
        }
    }
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberEvent {
    /// A member that was not known, or was down, is alive.
    Joined(Member),
    /// It has not answered.
    Suspected(Member),
    /// It has answered after all.
    Recovered(Member),
    /// It is declared dead.
    Down(Member),
    /// It has left by itself.
    Left(Member),
    /// It began a new life (its process was started again) before anyone missed it, or says something new of itself.
    Changed(Member),
}

impl MemberEvent {
    /// The member that it is about.
    pub fn member(&self) -> &Member {
        match self {
            MemberEvent::Joined(member)
            | MemberEvent::Suspected(member)
            | MemberEvent::Recovered(member)
            | MemberEvent::Down(member)
            | MemberEvent::Left(member)
            | MemberEvent::Changed(member) => member,
        }
    }
}

/// What gossip knows of a member at an instant.
#[derive(Clone, Debug)]
pub struct Known<'a> {
    /// The member.
    pub identity: &'a MemberIdentity,
    /// Its state in gossip's terms.
    pub state: foca::State,
}

/// All members, this node among them, by name.
#[derive(Clone, Debug, Default)]
pub struct View {
    members: BTreeMap<NodeName, Member>,
}

impl View {
    /// All members in the order of their names.
    pub fn members(&self) -> Arc<Vec<Member>> {
        Arc::new(self.members.values().cloned().collect())
    }

    /// Takes over what gossip knows now and says what is new. A member that gossip has forgotten (a day after its death)
    /// is forgotten here too, without an event.
    pub fn update<'a>(&mut self, known: impl Iterator<Item = Known<'a>>, now: UnixMillis) -> Vec<MemberEvent> {
        let mut events = Vec::new();
        let mut seen = BTreeMap::new();
        for Known { identity, state } in known {
            let old = self.members.remove(&identity.name);
            let member = merge(old.as_ref(), identity, state, now);
            events.extend(event(old.as_ref(), &member));
            seen.insert(member.name.clone(), member);
        }
        self.members = seen;
        events
    }
}

fn merge(old: Option<&Member>, identity: &MemberIdentity, state: foca::State, now: UnixMillis) -> Member {
    let status = match state {
        foca::State::Alive => MemberStatus::Alive,
        foca::State::Suspect => MemberStatus::Suspect,
        foca::State::Down if identity.facts.leaving => MemberStatus::Left,
        foca::State::Down => MemberStatus::Down,
    };
    let since = old.filter(|old| old.status == status).map_or(now, |old| old.since);
    Member {
        name: identity.name.clone(),
        address: identity.address,
        incarnation: identity.incarnation,
        facts: identity.facts.clone(),
        status,
        since,
    }
}

fn event(old: Option<&Member>, new: &Member) -> Option<MemberEvent> {
    use MemberStatus::{Alive, Down, Left, Suspect};
    let member = || new.clone();
    let before = old.map(|old| old.status);
    match (before, new.status) {
        // Whoever was never seen alive is history that gossip told, not news.
        (None | Some(Down | Left), Alive | Suspect) => Some(MemberEvent::Joined(member())),
        (Some(Alive | Suspect), Down) => Some(MemberEvent::Down(member())),
        (Some(Alive | Suspect), Left) => Some(MemberEvent::Left(member())),
        (Some(Alive), Suspect) => Some(MemberEvent::Suspected(member())),
        (Some(Suspect), Alive) => Some(MemberEvent::Recovered(member())),
        (Some(Alive), Alive) | (Some(Suspect), Suspect) => {
            let changed = old.is_some_and(|old| {
                (old.incarnation, &old.facts, old.address) != (new.incarnation, &new.facts, new.address)
            });
            changed.then(|| MemberEvent::Changed(member()))
        }
        (None | Some(Down | Left), Down | Left) => None,
    }
}

#[cfg(test)]
mod tests {
    use foca::State;

    use super::*;

    fn identity(incarnation: u64, leaving: bool) -> MemberIdentity {
        MemberIdentity {
            name: NodeName::from("n2"),
            address: "127.0.0.1:7443".parse().unwrap(),
            incarnation,
            facts: MemberFacts {
                leaving,
                ..MemberFacts::default()
            },
        }
    }

    /// Feeds one member's states in order and returns the names of the events.
    fn events(steps: &[(u64, bool, State)]) -> Vec<String> {
        let mut view = View::default();
        let mut all = Vec::new();
        for (at, (incarnation, leaving, state)) in steps.iter().enumerate() {
            let identity = identity(*incarnation, *leaving);
            let known = [Known {
                identity: &identity,
                state: *state,
            }];
            for event in view.update(known.into_iter(), UnixMillis(at as u64)) {
                let text = format!("{event:?}");
                all.push(format!(
                    "{}@{}",
                    text.split('(').next().unwrap(),
                    event.member().since.0
                ));
            }
        }
        all
    }

    #[test]
    fn each_change_is_told_once_and_dated() {
        let plain = |steps: &[(u64, State)]| -> Vec<(u64, bool, State)> {
            steps
                .iter()
                .map(|(incarnation, state)| (*incarnation, false, *state))
                .collect()
        };
        use State::{Alive, Down, Suspect};
        assert_eq!(
            events(&plain(&[
                (1, Alive),
                (1, Alive),
                (1, Suspect),
                (1, Suspect),
                (1, Alive)
            ])),
            ["Joined@0", "Suspected@2", "Recovered@4"]
        );
        assert_eq!(
            events(&plain(&[(1, Alive), (1, Suspect), (1, Down), (1, Down), (2, Alive)])),
            ["Joined@0", "Suspected@1", "Down@2", "Joined@4"]
        );
        // A restart that nobody noticed, and a renewal while suspected.
        assert_eq!(
            events(&plain(&[(1, Alive), (2, Alive), (2, Suspect), (3, Suspect)])),
            ["Joined@0", "Changed@0", "Suspected@2", "Changed@2"]
        );
        // Someone who died before we came.
        assert_eq!(events(&plain(&[(1, Down), (1, Down), (2, Alive)])), ["Joined@2"]);
    }

    #[test]
    fn who_says_that_it_leaves_has_left_and_not_died() {
        use State::{Alive, Down};
        assert_eq!(
            events(&[(1, false, Alive), (2, true, Alive), (2, true, Down), (3, false, Alive)]),
            ["Joined@0", "Changed@0", "Left@2", "Joined@3"]
        );
    }

    #[test]
    fn who_is_forgotten_by_gossip_is_forgotten_here() {
        let mut view = View::default();
        let identity = identity(1, false);
        view.update(
            [Known {
                identity: &identity,
                state: State::Down,
            }]
            .into_iter(),
            UnixMillis(1),
        );
        assert_eq!(view.members().len(), 1);
        assert_eq!(view.update(std::iter::empty(), UnixMillis(2)), []);
        assert!(view.members().is_empty());
    }
}
