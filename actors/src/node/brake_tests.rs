//! Tables for the eviction brake.

use super::*;
use crate::ownership::tests::stored;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

struct World {
    state: EvictionBrake,
    revision: u64,
}

impl World {
    fn new() -> World {
        World {
            state: EvictionBrake::new(NodeSettings::default()),
            revision: 0,
        }
    }

    /// A node of a zone whose Ready condition says this.
    fn node(&mut self, name: &str, zone: &str, ready: &str) {
        let conditions = json!([{"type": "Ready", "status": ready, "lastTransitionTime": NOW.rfc3339()}]);
        let labels = if zone.is_empty() {
            json!({})
        } else {
            json!({ ZONE: zone })
        };
        self.show(
            json!({"metadata": {"name": name, "uid": name, "labels": labels}, "status": {"conditions": conditions}}),
        );
    }

    /// Nodes of a zone, of which the first ones are silent.
    fn nodes(&mut self, zone: &str, count: usize, silent: usize) {
        for i in 0..count {
            let ready = if i < silent { "Unknown" } else { "True" };
            self.node(&format!("{zone}-{i:03}"), zone, ready);
        }
    }

    fn show(&mut self, value: Value) {
        self.revision += 1;
        let key = Key::new("nodes", "", value["metadata"]["name"].as_str().unwrap());
        self.state.observe(&key, Some(&stored(value, self.revision))).unwrap();
    }

    /// Decides, and carries out what was decided.
    fn decide(&mut self, now: UnixMillis) -> (Vec<String>, Option<u64>) {
        let mut effects = Effects::default();
        self.state.decide(now, Event::Changed, &mut effects);
        let mut written = Vec::new();
        for intent in effects.groups.into_iter().flatten() {
            let Intent::Update { key, value, .. } = intent else {
                panic!()
            };
            written.push(key.name.to_string());
            self.show(value);
        }
        (written, effects.timers.first().map(|timer| timer.after_ms))
    }

    /// Decides until nothing is left to do for so long, and says when which node was marked.
    fn run(&mut self, for_ms: u64) -> Vec<(u64, String)> {
        let (mut now, mut marked) = (NOW, Vec::new());
        loop {
            let (written, wait) = self.decide(now);
            marked.extend(written.iter().map(|name| (now.since_ms(NOW), name.clone())));
            let Some(wait) = wait.or((!written.is_empty()).then_some(0)) else {
                return marked;
            };
            now = now.plus_ms(wait);
            if now.since_ms(NOW) > for_ms {
                return marked;
            }
        }
    }

    fn marks(&self) -> usize {
        self.state
            .nodes
            .values()
            .filter(|node| node.marked_at().is_some())
            .count()
    }
}

#[test]
fn a_zone_is_judged_by_the_share_of_its_nodes_that_are_not_ready() {
    for (ready, not_ready, expected) in [
        (0, 0, Disruption::None),
        (3, 0, Disruption::None),
        (0, 1, Disruption::Full),
        (0, 9, Disruption::Full),
        // Two silent nodes are two broken machines.
        (1, 2, Disruption::None),
        (1, 3, Disruption::Partial),
        (3, 3, Disruption::None),
        (9, 11, Disruption::Partial),
        (46, 54, Disruption::None),
        (45, 55, Disruption::Partial),
    ] {
        assert_eq!(
            disruption(ready, not_ready, 55),
            expected,
            "{ready} ready, {not_ready} not"
        );
    }
}

#[test]
fn single_machines_that_die_are_marked_one_after_the_other() {
    let mut world = World::new();
    world.nodes("a", 10, 3);
    let marked = world.run(60_000);
    assert_eq!(
        marked,
        [(0, "a-000".into()), (1000, "a-001".into()), (2000, "a-002".into())]
    );
    assert_eq!(
        world.decide(NOW.plus_ms(90_000)),
        (vec![], None),
        "they are marked once"
    );
}

#[test]
fn a_small_zone_that_lost_most_of_its_nodes_is_left_alone() {
    let mut world = World::new();
    world.nodes("a", 10, 6);
    world.nodes("b", 10, 1);
    assert_eq!(
        world.run(3_600_000),
        [(0, "b-000".into())],
        "only the other zone goes on"
    );
}

#[test]
fn a_large_zone_that_lost_most_of_its_nodes_is_slowed_down() {
    let mut world = World::new();
    world.nodes("a", 51, 40);
    let marked = world.run(250_000);
    let times: Vec<u64> = marked.iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [0, 100_000, 200_000]);
}

#[test]
fn a_zone_that_is_silent_as_a_whole_goes_on_while_another_one_is_heard() {
    let mut world = World::new();
    world.nodes("a", 4, 4);
    world.nodes("b", 4, 0);
    assert_eq!(world.run(60_000).len(), 4);
}

#[test]
fn when_nothing_is_heard_at_all_the_marks_are_taken_back() {
    let mut world = World::new();
    world.nodes("a", 3, 1);
    world.nodes("b", 3, 0);
    assert_eq!(world.run(60_000).len(), 1);
    world.nodes("b", 3, 3);
    for i in 1..3 {
        world.node(&format!("a-{i:03}"), "a", "Unknown");
    }
    let (written, wait) = world.decide(NOW.plus_ms(60_000));
    assert_eq!((written, wait, world.marks()), (vec!["a-000".to_owned()], None, 0));
    assert_eq!(world.decide(NOW.plus_ms(61_000)), (vec![], None));
    // The first node that is heard again lets the others be marked, one after the other.
    world.node("b-000", "b", "True");
    let (written, _) = world.decide(NOW.plus_ms(70_000));
    assert_eq!(written.len(), 2, "one in each zone: {written:?}");
}

#[test]
fn a_zone_that_is_found_disrupted_keeps_its_marks() {
    let mut world = World::new();
    world.nodes("a", 4, 1);
    assert_eq!(world.run(60_000).len(), 1);
    for i in 1..3 {
        world.node(&format!("a-{i:03}"), "a", "Unknown");
    }
    assert_eq!(world.decide(NOW.plus_ms(60_000)), (vec![], None));
    assert_eq!(world.marks(), 1);
}

#[test]
fn an_actor_that_was_started_anew_counts_the_marks_in_the_store() {
    let mut world = World::new();
    world.nodes("a", 10, 2);
    assert_eq!(world.decide(NOW), (vec!["a-000".to_owned()], None));
    world.state.marked_at.clear();
    assert_eq!(world.decide(NOW.plus_ms(300)), (vec![], Some(700)));
}

#[test]
fn a_node_is_marked_by_what_it_says_and_other_taints_stay() {
    for (ready, expected) in [("Unknown", UNREACHABLE), ("False", NOT_READY)] {
        let mut world = World::new();
        world.node("ok", "", "True");
        let own = json!({"key": "mine", "effect": "NoExecute", "timeAdded": NOW.rfc3339()});
        world.show(json!({
            "metadata": {"name": "n", "uid": "n"}, "spec": {"taints": [own]},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }));
        assert_eq!(world.decide(NOW).0, ["n"]);
        let taints = &world.state.nodes[&Key::new("nodes", "", "n")].reading.spec.taints;
        let shown: Vec<(&str, &str)> = taints.iter().map(|t| (t.key.as_str(), t.effect.as_str())).collect();
        assert_eq!(shown, [("mine", "NoExecute"), (expected, "NoExecute")]);
    }
}
