//! Tables for what a budget allows.

use super::*;
use crate::kind::ObjectKind;
use crate::ownership::tests::stored;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

struct World {
    state: DisruptionBudget,
    revision: u64,
}

impl World {
    fn new(spec: Value) -> World {
        let mut world = World {
            state: DisruptionBudget::new(Key::new("poddisruptionbudgets.policy", "default", "b")),
            revision: 0,
        };
        world.budget(spec, json!({}));
        world
    }

    fn show(&mut self, resource: &str, name: &str, value: Value) {
        self.revision += 1;
        let mut value = value;
        value["metadata"]["name"] = json!(name);
        value["metadata"]["namespace"] = json!("default");
        value["metadata"]["uid"] = json!(format!("{resource}-{name}"));
        let key = Key::new(resource, "default", name);
        self.state.observe(&key, Some(&stored(value, self.revision))).unwrap();
    }

    fn budget(&mut self, spec: Value, status: Value) {
        let mut spec = spec;
        if spec["selector"].is_null() {
            spec["selector"] = json!({"matchLabels": {"app": "web"}});
        }
        let value = json!({"metadata": {"generation": 3}, "spec": spec, "status": status});
        self.show("poddisruptionbudgets.policy", "b", value);
    }

    /// A Deployment of so many, with its ReplicaSet.
    fn deployment(&mut self, replicas: i64) {
        self.show("deployments.apps", "web", json!({"spec": {"replicas": replicas}}));
        let owners = json!([reference("Deployment", "deployments.apps", "web")]);
        let set = json!({"metadata": {"ownerReferences": owners}, "spec": {"replicas": 1}});
        self.show("replicasets.apps", "web-1", set);
    }

    fn pod(&mut self, name: &str, ready: bool, owner: Option<Value>) {
        let status = if ready { "True" } else { "False" };
        let owners: Vec<Value> = owner.into_iter().collect();
        let value = json!({
            "metadata": {"labels": {"app": "web"}, "ownerReferences": owners},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]},
        });
        self.show("pods", name, value);
    }

    /// Pods of the Deployment's ReplicaSet, of which so many are ready.
    fn pods(&mut self, count: usize, ready: usize) {
        for i in 0..count {
            let owner = reference("ReplicaSet", "replicasets.apps", "web-1");
            self.pod(&format!("p{i}"), i < ready, Some(owner));
        }
    }

    fn decide(&mut self, event: Event, now: UnixMillis) -> Effects {
        let mut effects = Effects::default();
        self.state.decide(now, event, &mut effects);
        effects
    }

    /// Healthy now, healthy wanted, wanted, allowed; and the condition's reason.
    fn settled(&mut self) -> (i64, i64, i64, i64, String) {
        let effects = self.decide(Event::Loaded, NOW);
        if let Some(Intent::Update { value, .. }) = effects.groups.iter().flatten().next() {
            let value = value.clone();
            self.show("poddisruptionbudgets.policy", "b", value);
            assert!(self.decide(Event::Changed, NOW).writes_nothing(), "it is written once");
        }
        let value = &self.state.own.as_ref().unwrap().value;
        let number = |name: &str| value["status"][name].as_i64().unwrap_or(-1);
        let condition = &value["status"]["conditions"][0];
        assert_eq!(condition["observedGeneration"], 3);
        (
            number("currentHealthy"),
            number("desiredHealthy"),
            number("expectedPods"),
            number("disruptionsAllowed"),
            condition["reason"].as_str().unwrap().to_owned(),
        )
    }
}

fn reference(kind: &str, resource: &str, name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": format!("{resource}-{name}"), "controller": true})
}

#[test]
fn a_budget_allows_what_is_healthy_beyond_what_is_needed() {
    let enough = "SufficientPods";
    let few = "InsufficientPods";
    for (spec, replicas, pods, ready, expected) in [
        (json!({"minAvailable": 2}), 5, 4, 4, (4, 2, 4, 2, enough)),
        (json!({"minAvailable": 2}), 5, 4, 2, (2, 2, 4, 0, few)),
        (json!({"minAvailable": 9}), 5, 4, 4, (4, 9, 4, 0, few)),
        // Of what the Deployment wants, not of the pods that there are; percentages round up.
        (json!({"minAvailable": "50%"}), 5, 4, 4, (4, 3, 5, 1, enough)),
        (json!({"minAvailable": "100%"}), 4, 4, 4, (4, 4, 4, 0, few)),
        (json!({"maxUnavailable": 1}), 4, 4, 4, (4, 3, 4, 1, enough)),
        (json!({"maxUnavailable": 1}), 5, 4, 4, (4, 4, 5, 0, few)),
        (json!({"maxUnavailable": "25%"}), 5, 5, 5, (5, 3, 5, 2, enough)),
        (json!({"maxUnavailable": 9}), 3, 3, 1, (1, 0, 3, 1, enough)),
        (json!({"maxUnavailable": 0}), 3, 3, 3, (3, 3, 3, 0, few)),
        (json!({"minAvailable": 0}), 3, 0, 0, (0, 0, 0, 0, few)),
        (
            json!({"minAvailable": 1, "selector": {}}),
            3,
            3,
            3,
            (3, 1, 3, 2, enough),
        ),
    ] {
        let mut world = World::new(spec.clone());
        world.deployment(replicas);
        world.pods(pods, ready);
        let (current, desired, wanted, allowed, reason) = expected;
        assert_eq!(
            world.settled(),
            (current, desired, wanted, allowed, reason.to_owned()),
            "{spec}"
        );
    }
}

#[test]
fn pods_that_are_going_or_granted_to_go_are_not_healthy() {
    let mut world = World::new(json!({"minAvailable": 1}));
    world.pods(4, 4);
    let going = json!({
        "metadata": {"labels": {"app": "web"}, "deletionTimestamp": NOW.rfc3339()},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    });
    world.show("pods", "p0", going);
    let at = |before_ms: u64| UnixMillis(NOW.0 - before_ms).rfc3339();
    // p0 goes already, the grant of p1 counts, that of p2 was never used, and there is no p9.
    let granted = json!({"p0": at(1000), "p1": at(60_000), "p2": at(121_000), "p9": at(1000)});
    world.budget(json!({"minAvailable": 1}), json!({ "disruptedPods": granted }));
    let effects = world.decide(Event::Loaded, NOW);
    let Intent::Update { value, .. } = &effects.groups[0][0] else {
        panic!()
    };
    let status = &value["status"];
    assert_eq!(
        (&status["currentHealthy"], &status["disruptionsAllowed"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(status["disruptedPods"], json!({"p1": at(60_000)}));
    assert_eq!(
        (effects.timers[0].timer, effects.timers[0].after_ms),
        (RECHECK_TIMER, 60_000)
    );
}

#[test]
fn nothing_is_allowed_while_the_wanted_number_is_unknown() {
    for (owner, words) in [
        (
            reference("ReplicaSet", "replicasets.apps", "unseen"),
            "found no controllers for pod \"p\"",
        ),
        (
            json!({"apiVersion": "example.com/v1", "kind": "Widget", "name": "w", "uid": "w", "controller": true}),
            "found no controllers for pod \"p\"",
        ),
    ] {
        let mut world = World::new(json!({"maxUnavailable": 1}));
        world.pod("p", true, Some(owner));
        assert!(world.decide(Event::Changed, NOW).look_again, "it looks around first");
        let effects = world.decide(Event::Loaded, NOW);
        assert!(effects.notes[0].message.ends_with(words), "{:?}", effects.notes);
        let (_, _, _, allowed, reason) = world.settled();
        assert_eq!((allowed, reason.as_str()), (0, "SyncFailed"));
    }
}

#[test]
fn pods_without_a_controller_count_only_for_a_plain_minimum() {
    for (spec, expected) in [
        (json!({"minAvailable": 1}), (3, 1, 3, 2, "SufficientPods".to_owned())),
        (
            json!({"maxUnavailable": 1}),
            (3, 0, 0, 0, "InsufficientPods".to_owned()),
        ),
    ] {
        let mut world = World::new(spec);
        for name in ["a", "b", "c"] {
            world.pod(name, true, None);
        }
        assert_eq!(world.settled(), expected);
    }
}
