//! Tables over single decisions, and a property over random histories: whatever dies, comes back or leaves, no step of
//! the autopilot costs the cluster its majority, and it comes to rest.

use proptest::prelude::*;

use super::*;
use crate::membership::MemberFacts;

const NOW: UnixMillis = UnixMillis(1_000_000);

fn member(name: &str, status: MemberStatus, age_ms: u64, zone: &str) -> Member {
    Member {
        name: NodeName::from(name),
        address: "127.0.0.1:7443".parse().unwrap(),
        incarnation: 1,
        facts: MemberFacts {
            zone: zone.to_owned(),
            ..MemberFacts::default()
        },
        status,
        since: UnixMillis(NOW.0 - age_ms),
    }
}

/// `a` alive, `b!` down, `c!!` down for long, `d-` left, `e?` suspect, `f'` alive but new, `g*` alive with a consensus
/// that has stopped; `@x` gives a zone.
fn members(text: &str) -> Vec<Member> {
    text.split_whitespace()
        .map(|word| {
            let (word, zone) = word.split_once('@').unwrap_or((word, ""));
            let name = word.trim_end_matches(['!', '-', '?', '\'', '*']);
            let (status, age) = match &word[name.len()..] {
                "" | "*" => (MemberStatus::Alive, 60_000),
                "'" => (MemberStatus::Alive, SETTLED_AFTER_MS - 1),
                "?" => (MemberStatus::Suspect, 500),
                "!" => (MemberStatus::Down, DEAD_AFTER_MS - 1),
                "!!" => (MemberStatus::Down, DEAD_AFTER_MS),
                "-" => (MemberStatus::Left, 0),
                other => panic!("{other}"),
            };
            let mut member = member(name, status, age, zone);
            member.facts.voteless = word.ends_with('*');
            member
        })
        .collect()
}

fn names(text: &str) -> BTreeSet<NodeName> {
    text.split_whitespace().map(NodeName::from).collect()
}

fn step(all: &str, voters: &str, learners: &str, caught_up: &str) -> String {
    let all = members(all);
    let state = AutopilotState {
        members: &all,
        voters: names(voters),
        learners: names(learners),
        caught_up: names(caught_up),
        leader: NodeName::from("a"),
        now: NOW,
    };
    let list = |names: &[NodeName]| names.iter().map(NodeName::as_str).collect::<Vec<_>>().join(" ");
    match decide(&state).as_slice() {
        [] => "nothing".to_owned(),
        [AutopilotStep::AddLearner(name)] => format!("learner {name}"),
        [AutopilotStep::RemoveLearner(name)] => format!("unlearn {name}"),
        [AutopilotStep::ChangeVoters { add, remove }] => {
            format!("+{} -{}", list(add), list(remove))
        }
        more => panic!("{more:?}"),
    }
}

#[test]
fn each_situation_has_its_step() {
    let cases = [
        // Growing: one, two, three, four, five members.
        ("a", "a", "", "", "nothing"),
        ("a b", "a", "", "", "nothing"),
        ("a b c", "a", "", "", "learner b"),
        ("a b c", "a", "b", "b", "learner c"),
        ("a b c", "a", "b c", "b", "nothing"),
        ("a b c", "a", "b c", "b c", "+b c -"),
        ("a b c d", "a b c", "", "", "nothing"),
        ("a b c d e", "a b c", "", "", "learner d"),
        ("a b c d e", "a b c", "d e", "d e", "+d e -"),
        ("a b c d e f", "a b c d e", "", "", "nothing"),
        // One that has only just come, or is suspected, is not chosen.
        ("a b c'", "a", "", "", "nothing"),
        ("a b c?", "a", "", "", "nothing"),
        // A dead voter: waited for, then replaced if someone is there.
        ("a b c! d", "a b c", "", "", "nothing"),
        ("a b c!! d", "a b c", "", "", "learner d"),
        ("a b c!! d", "a b c", "d", "", "nothing"),
        ("a b c!! d", "a b c", "d", "d", "+d -c"),
        ("a b c!!", "a b c", "", "", "nothing"),
        // One that left is not waited for.
        ("a b c- d", "a b c", "d", "d", "+d -c"),
        ("a b c-", "a b c", "", "", "+ -c"),
        // Five voters with two dead: three living ones survive one more death, five with two dead none.
        ("a b c d!! e!!", "a b c d e", "", "", "+ -d e"),
        ("a b c d e!!", "a b c d e", "", "", "nothing"),
        // No majority: nothing can be decided, and nothing is.
        ("a b!! c!! d e", "a b c", "d e", "d e", "nothing"),
        // Gossip knows nothing of the others yet.
        ("a", "a b c", "", "", "nothing"),
        ("a b", "a b c", "", "", "nothing"),
        // After a loss of one of three the fourth member takes the seat even if the third comes back later.
        ("a b c d", "a b d", "", "", "nothing"),
        // A voter that lives and cannot vote is replaced at once, and never chosen.
        ("a b c* d", "a b c", "", "", "learner d"),
        ("a b c* d", "a b c", "d", "d", "+d -c"),
        ("a b c*", "a b c", "", "", "nothing"),
        ("a b* c* d e", "a b c", "d e", "d e", "nothing"),
        ("a b c d* e*", "a b c d e", "", "", "+ -d e"),
        ("a b c*", "a", "", "", "nothing"),
        ("a b c* d", "a", "", "", "learner b"),
        // Learners that nobody needs.
        ("a b c d", "a b c", "d", "d", "unlearn d"),
        ("a b", "a", "b", "b", "unlearn b"),
    ];
    for (all, voters, learners, caught_up, expected) in cases {
        assert_eq!(
            step(all, voters, learners, caught_up),
            expected,
            "{all} | {voters} | {learners} | {caught_up}"
        );
    }
}

#[test]
fn voters_are_spread_over_zones() {
    assert_eq!(step("a@x b@x c@x d@y e@z", "a b c", "", ""), "learner d");
    assert_eq!(step("a@x b@x c@y", "a", "", ""), "learner c");
    assert_eq!(step("a@x b@y c!!@z d@x e@z", "a b c", "", ""), "learner e");
    // Without zones, age decides, and then the name.
    assert_eq!(step("a c b", "a", "", ""), "learner b");
}

#[derive(Clone, Debug)]
enum Happening {
    Join(u8, u8),
    Die(u8),
    Return(u8),
    Leave(u8),
    /// Its consensus stops, until it returns.
    Fail(u8),
    Wait,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => (1_u8..9, 0_u8..4).prop_map(|(node, zone)| Happening::Join(node, zone)),
        2 => (1_u8..9).prop_map(Happening::Die),
        2 => (1_u8..9).prop_map(Happening::Return),
        1 => (1_u8..9).prop_map(Happening::Leave),
        1 => (1_u8..9).prop_map(Happening::Fail),
        3 => Just(Happening::Wait),
    ]
}

/// A cluster to which things happen between the autopilot's steps.
struct World {
    members: Vec<Member>,
    voters: BTreeSet<NodeName>,
    learners: BTreeSet<NodeName>,
    now: UnixMillis,
}

impl World {
    fn apply(&mut self, happening: &Happening) {
        self.now = self.now.plus_ms(700);
        let now = self.now;
        let mut set = |node: &u8, status: MemberStatus| {
            let name = NodeName::from(format!("m{node}"));
            if let Some(member) = self.members.iter_mut().find(|member| member.name == name) {
                member.status = status;
                member.since = now;
                member.facts.voteless &= status != MemberStatus::Alive;
            }
        };
        match happening {
            Happening::Join(node, zone) => {
                let name = format!("m{node}");
                let known = self.members.iter().any(|member| member.name.as_str() == name);
                if !known {
                    let zone = if *zone == 0 { String::new() } else { format!("z{zone}") };
                    let mut joined = member(&name, MemberStatus::Alive, 0, &zone);
                    joined.since = now;
                    self.members.push(joined);
                }
            }
            Happening::Die(node) => set(node, MemberStatus::Down),
            Happening::Return(node) => set(node, MemberStatus::Alive),
            Happening::Leave(node) => set(node, MemberStatus::Left),
            Happening::Fail(node) => {
                let name = format!("m{node}");
                let failing = self.members.iter_mut().find(|member| member.name.as_str() == name);
                if let Some(member) = failing {
                    member.facts.voteless = true;
                }
            }
            Happening::Wait => self.now = now.plus_ms(DEAD_AFTER_MS),
        }
    }

    fn is_live(&self, name: &NodeName) -> bool {
        self.members
            .iter()
            .any(|member| member.name == *name && can_vote(member))
    }

    fn living_voters(&self) -> usize {
        self.voters.iter().filter(|name| self.is_live(name)).count()
    }

    /// Lets the autopilot take its step, and checks what must never happen. False when it comes to rest.
    fn step(&mut self) -> Result<bool, TestCaseError> {
        let state = AutopilotState {
            members: &self.members,
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            caught_up: self
                .learners
                .iter()
                .filter(|name| self.is_live(name))
                .cloned()
                .collect(),
            leader: NodeName::from("m0"),
            now: self.now,
        };
        let had_majority = self.living_voters() >= quorum(self.voters.len());
        let spare = self.living_voters() as i64 - quorum(self.voters.len()) as i64;
        let steps = decide(&state);
        prop_assert!(steps.len() <= 1);
        let Some(step) = steps.into_iter().next() else {
            return Ok(false);
        };
        prop_assert!(had_majority, "a step without a majority: {step:?}");
        match step {
            AutopilotStep::AddLearner(name) => {
                prop_assert!(self.is_live(&name) && !self.voters.contains(&name));
                prop_assert!(self.learners.insert(name));
            }
            AutopilotStep::RemoveLearner(name) => {
                prop_assert!(self.learners.remove(&name));
            }
            AutopilotStep::ChangeVoters { add, remove } => {
                for name in &remove {
                    prop_assert!(name.as_str() != "m0", "the leader was removed");
                    prop_assert!(!self.is_live(name), "{name} lives and was removed");
                    prop_assert!(self.voters.remove(name));
                }
                for name in &add {
                    prop_assert!(self.is_live(name), "{name} is dead and was added");
                    prop_assert!(self.learners.remove(name), "{name} has not caught up");
                    prop_assert!(self.voters.insert(name.clone()));
                }
                prop_assert!(self.voters.len() <= VOTERS_MAX);
                let after = self.living_voters() as i64 - quorum(self.voters.len()) as i64;
                prop_assert!(after >= spare, "fewer deaths are survived after +{add:?} -{remove:?}");
            }
        }
        Ok(true)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_step_costs_the_majority_and_the_autopilot_comes_to_rest(
        happenings in proptest::collection::vec((happening(), 0_usize..4), 0..60)
    ) {
        let mut world = World {
            members: vec![member("m0", MemberStatus::Alive, 60_000, "z1")],
            voters: names("m0"),
            learners: BTreeSet::new(),
            now: NOW,
        };
        for (happening, steps) in happenings {
            world.apply(&happening);
            for _ in 0..steps {
                world.step()?;
            }
        }
        // Then nothing more happens.
        world.now = world.now.plus_ms(DEAD_AFTER_MS);
        let mut steps = 0;
        while world.step()? {
            steps += 1;
            prop_assert!(steps < 60, "it does not come to rest");
        }
        // And there are as many living voters as there should be, if there is a majority at all.
        if world.living_voters() >= quorum(world.voters.len()) {
            let living = world.members.iter().filter(|member| can_vote(member)).count();
            prop_assert!(world.living_voters() >= voters_wanted(living), "{living} live, {} vote", world.living_voters());
        }
    }
}
