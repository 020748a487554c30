//! Tables for what a Deployment decides. A small world applies its writes and plays the ReplicaSets' part.

use super::*;
use crate::kind::ObjectKind;
use crate::ownership::tests::stored;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn spec(replicas: i64, image: &str, more: Value) -> Value {
    let mut spec = json!({
        "replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template(image),
        "progressDeadlineSeconds": 600, "revisionHistoryLimit": 10,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
    });
    for (name, part) in more.as_object().unwrap() {
        spec[name] = part.clone();
    }
    spec
}

struct World {
    state: Deployment,
    own: Value,
    sets: BTreeMap<String, Value>,
    revision: u64,
    now: UnixMillis,
    notes: Vec<String>,
}

impl World {
    fn new(spec: Value) -> World {
        let key = Key::new("deployments.apps", "default", "web");
        let own = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": 1, "annotations": {"note": "kept"}},
            "spec": spec,
        });
        let mut world = World {
            state: Deployment::new(key),
            own,
            sets: BTreeMap::new(),
            revision: 0,
            now: NOW,
            notes: Vec::new(),
        };
        world.show_own();
        world
    }

    fn show_own(&mut self) {
        self.revision += 1;
        let key = self.state.key.clone();
        self.state
            .observe(&key, Some(&stored(self.own.clone(), self.revision)))
            .unwrap();
    }

    fn show_set(&mut self, name: &str) {
        self.revision += 1;
        let key = Key::new("replicasets.apps", "default", name);
        let object = stored(self.sets[name].clone(), self.revision);
        self.state.observe(&key, Some(&object)).unwrap();
    }

    fn decide(&mut self) -> Effects {
        let mut effects = Effects::default();
        self.state.decide(self.now, Event::Changed, &mut effects);
        effects
    }

    /// One decision, applied.
    fn step(&mut self) -> bool {
        let effects = self.decide();
        self.notes.extend(effects.notes.iter().map(|note| note.message.clone()));
        let mut wrote = false;
        for intent in effects.groups.into_iter().flatten() {
            match intent {
                Intent::Create { mut value, .. } => {
                    let name = value["metadata"]["name"].as_str().unwrap().to_owned();
                    value["metadata"]["uid"] = json!(format!("uid-{name}"));
                    value["metadata"]["generation"] = json!(1);
                    value["metadata"]["creationTimestamp"] = json!(self.now.plus_ms(self.revision * 1000).rfc3339());
                    self.sets.insert(name.clone(), value);
                    self.show_set(&name);
                    wrote = true;
                }
                Intent::Update { key, value, .. } if key == self.state.key => {
                    self.own = value;
                    self.show_own();
                    wrote = true;
                }
                Intent::Update { key, value, .. } => {
                    self.sets.insert(key.name.to_string(), value);
                    self.show_set(&key.name);
                    wrote = true;
                }
                Intent::Remove { key, .. } => {
                    self.sets.remove(&*key.name);
                    self.state.observe(&key, None).unwrap();
                    wrote = true;
                }
                Intent::Fence { .. } => {}
            }
        }
        wrote
    }

    fn decide_until_rest(&mut self) {
        for _ in 0..20 {
            if !self.step() {
                return;
            }
        }
        panic!("it never rests");
    }

    /// The ReplicaSets bring up to `ready` of their pods to readiness.
    fn pods_become_ready(&mut self, ready: i64) {
        let names: Vec<String> = self.sets.keys().cloned().collect();
        for name in names {
            let set = self.sets.get_mut(&name).unwrap();
            let (wanted, generation) = (
                set["spec"]["replicas"].as_i64().unwrap(),
                set["metadata"]["generation"].clone(),
            );
            let ready = ready.min(wanted);
            set["status"] = json!({
                "replicas": wanted, "readyReplicas": ready, "availableReplicas": ready, "observedGeneration": generation,
            });
            self.show_set(&name);
        }
    }

    fn roll_out(&mut self) {
        for _ in 0..40 {
            self.decide_until_rest();
            self.pods_become_ready(i64::MAX);
        }
        self.decide_until_rest();
    }

    fn set_image(&mut self, image: &str) {
        self.own["spec"]["template"] = template(image);
        self.own["metadata"]["generation"] = json!(self.own["metadata"]["generation"].as_i64().unwrap() + 1);
        self.show_own();
    }

    fn sizes(&self) -> BTreeMap<&str, i64> {
        self.sets
            .values()
            .map(|set| {
                let image = set["spec"]["template"]["spec"]["containers"][0]["image"]
                    .as_str()
                    .unwrap();
                (image, set["spec"]["replicas"].as_i64().unwrap())
            })
            .collect()
    }

    fn revision_of(&self, image: &str) -> String {
        let with = |set: &&Value| set["spec"]["template"]["spec"]["containers"][0]["image"] == image;
        self.sets.values().find(with).unwrap()["metadata"]["annotations"][revision::REVISION]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn condition(&self, kind: &str) -> (String, String, String) {
        let conditions = self.own["status"]["conditions"].as_array().unwrap();
        let condition = conditions.iter().find(|condition| condition["type"] == kind).unwrap();
        let text = |name: &str| condition[name].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"), text("message"))
    }
}

#[test]
fn the_first_replica_set_has_the_hash_the_owner_and_the_revision() {
    let mut world = World::new(spec(3, "i:1", json!({"minReadySeconds": 5})));
    world.step();
    let set = world.sets.values().next().unwrap().clone();
    let hash = set["metadata"]["labels"][template::HASH_LABEL].as_str().unwrap();
    assert_eq!(set["metadata"]["name"], format!("web-{hash}"));
    assert_eq!(
        set["spec"]["selector"]["matchLabels"],
        json!({"app": "web", "pod-template-hash": hash})
    );
    assert_eq!(
        set["spec"]["template"]["metadata"]["labels"],
        json!({"app": "web", "pod-template-hash": hash})
    );
    assert_eq!(
        (&set["spec"]["replicas"], &set["spec"]["minReadySeconds"]),
        (&json!(3), &json!(5))
    );
    let annotations = &set["metadata"]["annotations"];
    assert_eq!(
        (&annotations[revision::REVISION], &annotations["note"]),
        (&json!("1"), &json!("kept"))
    );
    assert_eq!(set["metadata"]["ownerReferences"][0]["uid"], "d");
    assert_eq!(world.own["metadata"]["annotations"][revision::REVISION], "1");
    assert_eq!(world.notes, [format!("Scaled up replica set web-{hash} from 0 to 3")]);
    assert_eq!(world.condition("Progressing").1, "NewReplicaSetCreated");
    assert_eq!(world.condition("Available").0, "False");
}

#[test]
fn a_rollout_completes_with_kubernetes_reasons_and_an_undo_raises_the_revision() {
    let mut world = World::new(spec(3, "i:1", json!({})));
    world.roll_out();
    assert_eq!(world.condition("Available").1, "MinimumReplicasAvailable");
    let (status, reason, message) = world.condition("Progressing");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "NewReplicaSetAvailable"));
    assert!(message.ends_with("has successfully progressed."), "{message}");
    world.set_image("i:2");
    world.roll_out();
    assert_eq!(world.sizes(), BTreeMap::from([("i:1", 0), ("i:2", 3)]));
    assert_eq!(
        (world.revision_of("i:1").as_str(), world.revision_of("i:2").as_str()),
        ("1", "2")
    );
    world.set_image("i:1");
    world.roll_out();
    assert_eq!(world.sizes(), BTreeMap::from([("i:1", 3), ("i:2", 0)]));
    assert_eq!(world.revision_of("i:1"), "3");
    assert_eq!(world.own["metadata"]["annotations"][revision::REVISION], "3");
    assert_eq!(world.own["status"]["observedGeneration"], 3);
}

#[test]
fn no_step_of_a_rollout_exceeds_surge_or_takes_an_available_pod_too_many() {
    for (surge, unavailable) in [(1, 0), (0, 1), (2, 2), (5, 0)] {
        let strategy = json!({"strategy": {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}});
        let mut world = World::new(spec(5, "i:1", strategy));
        world.roll_out();
        world.set_image("i:2");
        for round in 0..30 {
            world.decide_until_rest();
            let total: i64 = world.sizes().values().sum();
            assert!(total <= 5 + surge, "{surge}/{unavailable}: {:?}", world.sizes());
            let old = world.sizes()["i:1"];
            let new_ready = world
                .state
                .replica_sets
                .values()
                .map(|s| s.reading.status.available_replicas.min(s.reading.replicas()));
            assert!(
                new_ready.sum::<i64>() >= 5 - unavailable,
                "{surge}/{unavailable} round {round}: old {old}"
            );
            world.pods_become_ready(round % 6);
            world.pods_become_ready(i64::MAX);
        }
        assert_eq!(world.sizes(), BTreeMap::from([("i:1", 0), ("i:2", 5)]));
    }
}

#[test]
fn a_rollout_that_makes_no_progress_is_reported_after_its_deadline() {
    let mut world = World::new(spec(3, "i:1", json!({"progressDeadlineSeconds": 10})));
    world.roll_out();
    world.set_image("i:broken");
    world.decide_until_rest();
    let effects = world.decide();
    assert!(
        effects
            .timers
            .iter()
            .any(|timer| timer.timer == PROGRESS_TIMER && timer.after_ms <= 11_000),
        "{effects:?}"
    );
    world.now = NOW.plus_ms(9_000);
    world.decide_until_rest();
    assert_eq!(world.condition("Progressing").0, "True");
    world.now = NOW.plus_ms(12_000);
    world.decide_until_rest();
    let (status, reason, message) = world.condition("Progressing");
    assert_eq!(
        (status.as_str(), reason.as_str()),
        ("False", "ProgressDeadlineExceeded")
    );
    assert!(message.ends_with("has timed out progressing."), "{message}");
    // The old pods serve on.
    assert_eq!(world.sizes()["i:1"], 3);
    assert!(world.decide().writes_nothing());
}

#[test]
fn a_paused_deployment_scales_the_active_set_only_and_says_so() {
    let mut world = World::new(spec(2, "i:1", json!({})));
    world.roll_out();
    world.own["spec"]["paused"] = json!(true);
    world.own["spec"]["replicas"] = json!(6);
    world.set_image("i:2");
    world.roll_out();
    assert_eq!(world.sizes(), BTreeMap::from([("i:1", 6)]));
    assert_eq!(world.condition("Progressing").1, "DeploymentPaused");
    world.own["spec"]["paused"] = json!(false);
    world.show_own();
    world.roll_out();
    assert_eq!(world.sizes(), BTreeMap::from([("i:1", 0), ("i:2", 6)]));
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut world = World::new(spec(2, "i:1", json!({"strategy": {"type": "Recreate"}})));
    world.roll_out();
    world.set_image("i:2");
    world.decide_until_rest();
    assert_eq!(world.sizes(), BTreeMap::from([("i:1", 0)]));
    let name = world.sets.keys().next().unwrap().clone();
    for status in [
        json!({"replicas": 1, "observedGeneration": 9}),
        json!({"terminatingReplicas": 1, "observedGeneration": 9}),
    ] {
        world.sets.get_mut(&name).unwrap()["status"] = status;
        world.show_set(&name);
        world.decide_until_rest();
        assert_eq!(world.sizes().len(), 1, "old pods are still there");
    }
    world.sets.get_mut(&name).unwrap()["status"] = json!({"observedGeneration": 9});
    world.show_set(&name);
    world.roll_out();
    assert_eq!(world.sizes(), BTreeMap::from([("i:1", 0), ("i:2", 2)]));
}

#[test]
fn the_history_keeps_as_many_old_sets_as_it_may() {
    let mut world = World::new(spec(1, "i:1", json!({"revisionHistoryLimit": 2})));
    for image in 1..=6 {
        world.set_image(&format!("i:{image}"));
        world.roll_out();
    }
    assert_eq!(world.sizes().keys().copied().collect::<Vec<_>>(), ["i:4", "i:5", "i:6"]);
}

#[test]
fn a_name_that_is_taken_gives_another_hash() {
    let mut world = World::new(spec(1, "i:1", json!({})));
    let taken = format!("web-{}", template::hash(&template("i:1"), 0));
    let other = json!({"metadata": {"name": taken, "namespace": "default", "uid": "x", "generation": 1}, "spec": {"replicas": 0, "template": template("i:9")}});
    world.sets.insert(taken.clone(), other);
    world.show_set(&taken);
    world.roll_out();
    assert_eq!(world.own["status"]["collisionCount"], 1);
    assert_eq!(world.sets.len(), 2);
    assert_eq!(world.sizes()["i:1"], 1);
}

#[test]
fn orphans_that_match_are_adopted_and_strangers_released() {
    let mut world = World::new(spec(2, "i:1", json!({})));
    let orphan = json!({
        "metadata": {"name": "web-old", "namespace": "default", "uid": "o", "labels": {"app": "web"}},
        "spec": {"replicas": 1, "template": template("i:0")},
    });
    world.sets.insert("web-old".into(), orphan);
    world.show_set("web-old");
    world.step();
    assert_eq!(world.sets["web-old"]["metadata"]["ownerReferences"][0]["uid"], "d");
    world.sets.get_mut("web-old").unwrap()["metadata"]["labels"] = json!({"app": "other"});
    world.show_set("web-old");
    world.step();
    assert_eq!(world.sets["web-old"]["metadata"].get("ownerReferences"), None);
}

#[test]
fn a_deployment_that_is_being_deleted_is_left_to_the_collector() {
    let mut world = World::new(spec(2, "i:1", json!({})));
    world.own["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    world.show_own();
    assert_eq!(world.decide(), Effects::default());
}
