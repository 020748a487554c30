//! Many members' protocol over a simulated network with a virtual clock: deaths, stalls, loss and partitions. Every case
//! runs over several seeds; a failure names its seed. One second of the simulated world takes about a millisecond.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use cluster::membership::swim::Swim;
use cluster::membership::{MemberEvent, MemberFacts, MemberIdentity, MemberStatus};
use protocol::{NodeName, UnixMillis};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const ORIGIN: UnixMillis = UnixMillis(1_800_000_000_000);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

struct Node {
    swim: Swim,
    /// Until when its process stands still.
    stalled_until: Duration,
    dead: bool,
    events: Vec<(Duration, MemberEvent)>,
}

/// When it arrives, a number that makes it unique, from whom, to whom, and what.
type Packet = (Duration, u64, NodeName, NodeName, Load);

/// What is under way: gossip, or one direction of an exchange of the whole state.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Load {
    Gossip(Vec<u8>),
    Ask(Vec<u8>),
    Answer(Vec<u8>),
}

/// A world of members.
struct World {
    seed: u64,
    now: Duration,
    random: SmallRng,
    nodes: BTreeMap<NodeName, Node>,
    in_flight: BinaryHeap<Reverse<Packet>>,
    sequence: u64,
    /// Of a thousand datagrams, so many are lost.
    loss_permille: u32,
    /// Members that can only reach each other.
    island: BTreeSet<NodeName>,
}

fn name(number: usize) -> NodeName {
    NodeName::from(format!("n{number}"))
}

impl World {
    fn new(members: usize, seed: u64) -> World {
        let mut world = World {
            seed,
            now: Duration::ZERO,
            random: SmallRng::seed_from_u64(seed),
            nodes: BTreeMap::new(),
            in_flight: BinaryHeap::new(),
            sequence: 0,
            loss_permille: 0,
            island: BTreeSet::new(),
        };
        for number in 1..=members {
            world.start(number, ORIGIN.0 + number as u64);
        }
        world
            .run_until(ms(20_000), |world| world.all_see(members))
            .unwrap_or_else(|| {
                panic!("seed {seed}: {members} members did not find each other in 20 s");
            });
        for node in world.nodes.values_mut() {
            node.events.clear();
        }
        world
    }

    fn start(&mut self, number: usize, incarnation: u64) {
        let address = format!("10.0.{}.{}:7443", number / 250, number % 250 + 1)
            .parse()
            .unwrap();
        let identity = MemberIdentity {
            name: name(number),
            address,
            incarnation,
            facts: MemberFacts::default(),
        };
        let mut swim = Swim::new(identity, ORIGIN, self.seed.wrapping_mul(31).wrapping_add(number as u64));
        let seeds: Vec<_> = if number == 1 {
            vec![]
        } else {
            vec![(name(1), "10.0.0.2:7443".parse().unwrap())]
        };
        swim.announce(self.now, &seeds);
        let node = Node {
            swim,
            stalled_until: Duration::ZERO,
            dead: false,
            events: Vec::new(),
        };
        self.nodes.insert(name(number), node);
        self.collect(&name(number));
    }

    /// Whether every living member sees so many living ones, itself among them.
    fn all_see(&self, living: usize) -> bool {
        self.nodes.values().filter(|node| !node.dead).all(|node| {
            node.swim
                .members()
                .iter()
                .filter(|member| member.status.is_live())
                .count()
                == living
        })
    }

    fn sees(&self, who: usize, whom: usize) -> Option<MemberStatus> {
        let members = self.nodes[&name(who)].swim.members();
        members
            .iter()
            .find(|member| member.name == name(whom))
            .map(|member| member.status)
    }

    fn reaches(&self, from: &NodeName, to: &NodeName) -> bool {
        self.island.contains(from) == self.island.contains(to)
    }

    fn collect(&mut self, who: &NodeName) {
        let node = self.nodes.get_mut(who).unwrap();
        let now = self.now;
        node.events
            .extend(node.swim.take_events().into_iter().map(|event| (now, event)));
        let mut loads: Vec<(NodeName, Load)> = (node.swim.take_outgoing().into_iter())
            .map(|outgoing| (outgoing.to, Load::Gossip(outgoing.bytes.to_vec())))
            .collect();
        if let Some(with) = node.swim.take_exchange() {
            loads.push((with, Load::Ask(node.swim.state())));
        }
        for (to, load) in loads {
            self.send(who.clone(), to, load);
        }
    }

    fn send(&mut self, from: NodeName, to: NodeName, load: Load) {
        let delay = Duration::from_micros(self.random.random_range(100..2000));
        let lost = self.random.random_range(0..1000) < self.loss_permille;
        // Streams repeat what is lost.
        if !lost || !matches!(load, Load::Gossip(_)) {
            self.sequence += 1;
            self.in_flight
                .push(Reverse((self.now + delay, self.sequence, from, to, load)));
        }
    }

    /// Runs until the condition holds; `None` if it does not within `limit` of simulated time.
    fn run_until(&mut self, limit: Duration, mut holds: impl FnMut(&World) -> bool) -> Option<Duration> {
        let (began, end) = (self.now, self.now + limit);
        loop {
            if holds(self) {
                return Some(self.now - began);
            }
            let timer = self
                .nodes
                .iter()
                .filter(|(_, node)| !node.dead)
                .map(|(name, node)| (node.swim.deadline().max(node.stalled_until), name.clone()));
            let timer = timer.min();
            let packet = self.in_flight.peek().map(|Reverse(packet)| packet.0);
            let next = timer
                .as_ref()
                .map_or(Duration::MAX, |(at, _)| *at)
                .min(packet.unwrap_or(Duration::MAX));
            if next > end {
                self.now = end;
                return None;
            }
            self.now = self.now.max(next);
            if packet.is_some_and(|at| at <= next) {
                let Reverse((_, _, from, to, load)) = self.in_flight.pop().unwrap();
                self.deliver(from, to, load);
            } else if let Some((_, who)) = timer {
                self.nodes.get_mut(&who).unwrap().swim.advance(self.now);
                self.collect(&who);
            }
        }
    }

    fn deliver(&mut self, from: NodeName, to: NodeName, load: Load) {
        let now = self.now;
        if !self.reaches(&from, &to) {
            return;
        }
        let Some(node) = self.nodes.get_mut(&to) else { return };
        if node.dead {
            return;
        }
        if node.stalled_until > now {
            // It waits in the socket, and is read a little after the process has come back to itself.
            self.sequence += 1;
            self.in_flight
                .push(Reverse((node.stalled_until + ms(5), self.sequence, from, to, load)));
            return;
        }
        let mut answer = None;
        match load {
            Load::Gossip(bytes) => node.swim.receive(now, &from, &bytes),
            Load::Answer(state) => node.swim.merge(now, &from, &state),
            Load::Ask(state) => {
                node.swim.merge(now, &from, &state);
                answer = Some(Load::Answer(node.swim.state()));
            }
        }
        self.collect(&to);
        if let Some(answer) = answer {
            self.send(to, from, answer);
        }
    }

    fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    fn downs(&self) -> Vec<String> {
        let mut downs = Vec::new();
        for (who, node) in &self.nodes {
            for (at, event) in &node.events {
                if let MemberEvent::Down(member) = event {
                    downs.push(format!("{who} declared {} dead at {at:?}", member.name));
                }
            }
        }
        downs
    }
}

#[test]
fn a_death_is_noticed_by_all_within_four_seconds() {
    let mut all = Vec::new();
    for members in [2, 3, 5, 8] {
        for seed in 0..100 {
            let mut world = World::new(members, seed);
            // Not always at the same point of the probes' rhythm.
            world.run_for(ms(seed * 37 % 500));
            world.nodes.get_mut(&name(members)).unwrap().dead = true;
            let noticed = world.run_until(ms(10_000), |world| {
                (1..members).all(|who| world.sees(who, members) == Some(MemberStatus::Down))
            });
            let noticed = noticed.unwrap_or_else(|| panic!("{members} members, seed {seed}: not noticed in 10 s"));
            assert!(
                noticed <= ms(4000),
                "{members} members, seed {seed}: noticed only after {noticed:?}"
            );
            assert_eq!(
                world.downs().len(),
                members - 1,
                "{members} members, seed {seed}: {:?}",
                world.downs()
            );
            all.push(noticed);
        }
    }
    all.sort();
    println!(
        "a death is noticed by all after {:?} (median), {:?} (slowest)",
        all[all.len() / 2],
        all[all.len() - 1]
    );
}

#[test]
fn nobody_is_declared_dead_when_processes_stand_still_for_a_second() {
    for members in [2, 3, 5] {
        for seed in 0..40 {
            let mut world = World::new(members, seed);
            for round in 0..4 {
                // One node alone, or all of the machine's at once.
                let until = world.now + ms(1000 + seed * 13 % 500);
                for number in 1..=members {
                    if round % 2 == 0 || number == 1 + round % members {
                        world.nodes.get_mut(&name(number)).unwrap().stalled_until = until;
                    }
                }
                world.run_for(ms(5000));
            }
            assert_eq!(world.downs(), [""; 0], "{members} members, seed {seed}");
            assert!(world.all_see(members));
        }
    }
}

#[test]
fn nobody_is_declared_dead_when_every_twentieth_datagram_is_lost() {
    for seed in 0..20 {
        let mut world = World::new(5, seed);
        world.loss_permille = 50;
        world.run_for(ms(120_000));
        assert_eq!(world.downs(), [""; 0], "seed {seed}");
    }
}

#[test]
fn a_partition_is_seen_by_both_sides_and_heals_within_a_few_seconds() {
    let mut slowest = Duration::ZERO;
    for (members, island) in [(3, vec![3]), (5, vec![4, 5]), (5, vec![1]), (2, vec![2])] {
        for seed in 0..25 {
            let mut world = World::new(members, seed);
            world.island = island.iter().map(|number| name(*number)).collect();
            let mainland: Vec<usize> = (1..=members).filter(|number| !island.contains(number)).collect();
            let split = world.run_until(ms(10_000), |world| {
                let gone = |a: &[usize], b: &[usize]| {
                    a.iter()
                        .all(|who| b.iter().all(|whom| world.sees(*who, *whom) == Some(MemberStatus::Down)))
                };
                gone(&mainland, &island) && gone(&island, &mainland)
            });
            let split = split.unwrap_or_else(|| panic!("{members}/{island:?}, seed {seed}: the split was not noticed"));
            assert!(
                split <= ms(6000),
                "{members}/{island:?}, seed {seed}: the split was noticed after {split:?}"
            );
            world.run_for(ms(seed * 1000));
            world.island.clear();
            let healed = world.run_until(ms(20_000), |world| world.all_see(members));
            let healed = healed.unwrap_or_else(|| panic!("{members}/{island:?}, seed {seed}: did not heal"));
            assert!(
                healed <= ms(4000),
                "{members}/{island:?}, seed {seed}: healed only after {healed:?}"
            );
            slowest = slowest.max(healed);
            // And stays healed.
            let before = world.downs().len();
            world.run_for(ms(20_000));
            assert_eq!(
                world.downs().len(),
                before,
                "{members}/{island:?}, seed {seed}: {:?}",
                world.downs()
            );
            assert!(world.all_see(members));
        }
    }
    println!("a partition is healed after at most {slowest:?}");
}

#[test]
fn a_process_that_is_killed_and_started_again_at_once_is_not_missed() {
    for seed in 0..20 {
        let mut world = World::new(3, seed);
        world.start(3, ORIGIN.0 + 50_000);
        let back = world.run_until(ms(5000), |world| {
            (1..=2).all(|who| {
                let members = world.nodes[&name(who)].swim.members();
                members
                    .iter()
                    .any(|member| member.name == name(3) && member.incarnation >= ORIGIN.0 + 50_000)
            })
        });
        assert!(back.is_some(), "seed {seed}");
        world.run_for(ms(10_000));
        assert_eq!(world.downs(), [""; 0], "seed {seed}");
        let told = |event: &(Duration, MemberEvent)| matches!(&event.1, MemberEvent::Changed(member) if member.name == name(3));
        assert!(world.nodes[&name(1)].events.iter().any(told), "seed {seed}");
    }
}

#[test]
fn who_leaves_has_left_and_is_not_declared_dead() {
    for seed in 0..20 {
        let mut world = World::new(4, seed);
        world.nodes.get_mut(&name(4)).unwrap().swim.begin_leave(world.now);
        world.collect(&name(4));
        world.run_for(ms(250));
        world.nodes.get_mut(&name(4)).unwrap().swim.leave(world.now);
        world.collect(&name(4));
        let gone = world.run_until(ms(3000), |world| {
            (1..=3).all(|who| world.sees(who, 4) == Some(MemberStatus::Left))
        });
        assert!(gone.is_some(), "seed {seed}");
        world.nodes.get_mut(&name(4)).unwrap().dead = true;
        world.run_for(ms(10_000));
        assert_eq!(world.downs(), [""; 0], "seed {seed}");
    }
}

#[test]
fn new_facts_reach_everyone_without_a_death() {
    for seed in 0..20 {
        let mut world = World::new(5, seed);
        let facts = MemberFacts {
            zone: "east".to_owned(),
            raft_id: 9,
            ..MemberFacts::default()
        };
        world
            .nodes
            .get_mut(&name(2))
            .unwrap()
            .swim
            .set_facts(world.now, facts.clone());
        world.collect(&name(2));
        let told = world.run_until(ms(5000), |world| {
            world.nodes.values().all(|node| {
                node.swim
                    .members()
                    .iter()
                    .any(|member| member.name == name(2) && member.facts == facts)
            })
        });
        assert!(told.is_some(), "seed {seed}");
        world.run_for(ms(10_000));
        assert_eq!(world.downs(), [""; 0], "seed {seed}");
    }
}

#[test]
fn sixty_members_find_each_other_and_notice_a_death() {
    for seed in 0..3 {
        let mut world = World::new(60, seed);
        world.nodes.get_mut(&name(60)).unwrap().dead = true;
        let noticed = world.run_until(ms(20_000), |world| {
            (1..60).all(|who| world.sees(who, 60) == Some(MemberStatus::Down))
        });
        let noticed = noticed.unwrap_or_else(|| panic!("seed {seed}: not noticed in 20 s"));
        println!("60 members noticed a death after {noticed:?}");
        assert!(noticed <= ms(6500), "seed {seed}: {noticed:?}");
        assert_eq!(world.downs().len(), 59, "seed {seed}: others were declared dead");
    }
}

#[test]
fn gossip_under_another_members_name_changes_nothing() {
    let mut world = World::new(3, 1);
    // n3 sends what n2 would say when it leaves.
    world.nodes.get_mut(&name(2)).unwrap().swim.leave(world.now);
    let forged = world.nodes.get_mut(&name(2)).unwrap().swim.take_outgoing();
    assert!(!forged.is_empty());
    let now = world.now;
    let victim = world.nodes.get_mut(&name(1)).unwrap();
    for outgoing in forged {
        victim.swim.receive(now, &name(3), &outgoing.bytes);
    }
    assert_eq!(world.sees(1, 2), Some(MemberStatus::Alive));
}
