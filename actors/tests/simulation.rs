//! The simulation: control planes over one store, simulated machines and people, in one thread, from a seed. First
//! safety under everything that a scenario has, with the invariants checked after every write; then everything is
//! healed and must converge. A failure prints its seed and the last writes; run a seed alone with `SIMULATION_SEED=n`,
//! and more of them with `SIMULATION_RUNS=n`. Planted bugs prove that each invariant bites.

use std::sync::Arc;

use actors::effects::{Effects, Intent};
use actors::kind::{Event, ObserveError, Role};
use actors::kinds::{self, KindSettings};
use actors::simulation::machines::ModelMachine;
use actors::simulation::{Glasses, MakeKind, Outcome, Scenario, World};
use actors::{ObjectKind, Slot};
use protocol::{Draft, Key, Object, UnixMillis};
use serde_json::{Value, json};
use store::MemoryStore;

fn honest() -> MakeKind {
    Box::new(kinds::make)
}

fn in_a_runtime<T>(run: impl FnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    run()
}

/// Runs one seed.
fn run(seed: u64, scenario: Scenario, make: fn() -> MakeKind) -> Outcome {
    in_a_runtime(|| World::new(MemoryStore::new(), seed, scenario, make, ModelMachine::make).run())
}

fn seeds(default: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match (number("SIMULATION_SEED"), number("SIMULATION_RUNS")) {
        (Some(seed), runs) => seed..seed + runs.unwrap_or(1),
        (None, Some(runs)) => default.start..default.start + runs,
        (None, None) => default,
    }
}

/// Runs these seeds. Returns how many pods were preempted in all of them.
fn all_is_well(scenario: Scenario, default: std::ops::Range<u64>) -> usize {
    let mut victims = 0;
    for seed in seeds(default) {
        let outcome = run(seed, scenario, honest);
        assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
        let unsettled = outcome.unsettled;
        assert!(unsettled.is_empty(), "seed {seed} did not settle: {unsettled:#?}");
        victims += outcome.victims;
    }
    victims
}

#[test]
fn crashes_and_a_second_control_plane_violate_nothing_and_everything_converges() {
    all_is_well(Scenario::Crashes, 0..40);
}

#[test]
fn lost_machines_violate_nothing_and_everything_converges() {
    all_is_well(Scenario::LostMachines, 1000..1040);
}

#[test]
fn deleted_owners_and_namespaces_violate_nothing_and_everything_converges() {
    all_is_well(Scenario::Deletions, 2000..2040);
}

#[test]
fn preemption_violates_nothing_and_everything_converges() {
    let victims = all_is_well(Scenario::Preemption, 3000..3030);
    assert!(victims > 0, "nobody had to make room: the scenario has too much of it");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |scenario| {
        in_a_runtime(|| {
            let mut world = World::new(MemoryStore::new(), 5, scenario, honest, ModelMachine::make);
            (0..1_500).for_each(|_| world.step());
            (world.seen(), world.pods())
        })
    };
    for scenario in [Scenario::Deletions, Scenario::Preemption] {
        assert!(trace(scenario) == trace(scenario));
    }
}

/// Changes what an actor decided, in view of its own object.
type Tamper = fn(&mut Effects, Option<&Object>);

/// A kind whose effects are tampered with.
struct Tampered {
    key: Key,
    own: Option<Arc<Object>>,
    honest: Box<dyn ObjectKind>,
    tamper: Tamper,
}

impl ObjectKind for Tampered {
    fn observe(&mut self, key: &Key, object: Option<&Arc<Object>>) -> Result<(), ObserveError> {
        if *key == self.key {
            self.own = object.cloned();
        }
        self.honest.observe(key, object)
    }

    fn decide(&mut self, now: UnixMillis, event: Event, effects: &mut Effects) {
        self.honest.decide(now, event, effects);
        (self.tamper)(effects, self.own.as_deref());
    }

    fn summary(&self) -> String {
        self.honest.summary()
    }

    fn inspect(&self) -> Value {
        self.honest.inspect()
    }
}

fn tampered(resource: &'static str, tamper: Tamper) -> MakeKind {
    tampered_slots(
        move |slot| slot.role == Role::Own && slot.key.resource.as_str() == resource,
        tamper,
    )
}

fn tampered_slots(which: impl Fn(&Slot) -> bool + Send + 'static, tamper: Tamper) -> MakeKind {
    Box::new(move |slot: &Slot, settings: &KindSettings| {
        let honest = kinds::make(slot, settings)?;
        if !which(slot) {
            return Some(honest);
        }
        let (key, own) = (slot.key.clone(), None);
        Some(Box::new(Tampered {
            key,
            own,
            honest,
            tamper,
        }))
    })
}

/// A planted bug must show in one of so many seeds. The rarest shows in about one of fifty: that of a pod that is removed
/// from a silent machine, which needs people to make it again before the machine is heard.
const SEEDS_TO_CATCH: u64 = 600;

fn is_caught(make: fn() -> MakeKind, words: &str) {
    is_caught_in(Scenario::Crashes, make, None, words);
}

fn is_caught_in(scenario: Scenario, make: fn() -> MakeKind, glasses: Option<Glasses>, words: &str) {
    let mut seen = Vec::new();
    for seed in 0..SEEDS_TO_CATCH {
        let outcome = in_a_runtime(|| {
            let mut world = World::new(MemoryStore::new(), seed, scenario, make, ModelMachine::make);
            if let Some(glasses) = glasses {
                world.put_on(glasses);
            }
            world.run()
        });
        let complaints = || outcome.violations.iter().chain(&outcome.unsettled);
        if complaints().any(|complaint| complaint.contains(words)) {
            return;
        }
        seen.extend(complaints().cloned());
    }
    panic!("the planted bug was not caught; what was seen: {seen:#?}");
}

#[test]
fn a_replica_set_that_creates_a_pod_too_many_is_caught() {
    is_caught(
        || {
            tampered("replicasets.apps", |effects, _| {
                for group in &mut effects.groups {
                    let extra = group
                        .iter()
                        .find(|intent| matches!(intent, Intent::Create { .. }))
                        .cloned();
                    group.extend(extra);
                }
            })
        },
        "pods and has",
    );
}

#[test]
fn a_replica_set_that_writes_its_status_apart_from_its_pods_is_caught() {
    // Without the atomic group two activations both act on what they saw.
    is_caught(
        || {
            tampered("replicasets.apps", |effects, _| {
                effects.groups = effects.groups.drain(..).flatten().map(|intent| vec![intent]).collect();
            })
        },
        "pods and has",
    );
}

#[test]
fn a_rollout_that_ignores_its_surge_is_caught() {
    is_caught(
        || {
            tampered("deployments.apps", |effects, _| {
                for intent in effects.groups.iter_mut().flatten() {
                    if let Intent::Create { value, .. } = intent {
                        value["spec"]["replicas"] = json!(value["spec"]["replicas"].as_i64().unwrap_or(0) + 5);
                    }
                }
            })
        },
        "its ReplicaSets want",
    );
}

#[test]
fn a_replica_set_that_forgets_a_pod_is_caught_when_nothing_converges() {
    is_caught(
        || {
            tampered("replicasets.apps", |effects, _| {
                for group in &mut effects.groups {
                    if group.iter().any(|intent| matches!(intent, Intent::Create { .. })) {
                        let at = group.iter().rposition(|intent| matches!(intent, Intent::Create { .. }));
                        at.map(|at| group.remove(at));
                    }
                }
            })
        },
        "wants",
    );
}

/// The removal of an object that is being deleted, whatever it waits for.
fn hurry(own: Option<&Object>, resource: &str) -> Option<Intent> {
    let own = own.filter(|own| own.header.deleting)?;
    let value = own.value().unwrap();
    let text = |name: &str| value["metadata"][name].as_str().unwrap_or_default().to_owned();
    Some(Intent::Remove {
        key: Key::new(resource, text("namespace"), text("name")),
        revision: own.header.revision,
    })
}

#[test]
fn a_namespace_that_goes_before_its_content_is_caught() {
    is_caught_in(
        Scenario::Deletions,
        || {
            tampered("namespaces", |effects, own| {
                effects
                    .groups
                    .extend(hurry(own, "namespaces").map(|intent| vec![intent]));
            })
        },
        None,
        "was removed while there was",
    );
}

#[test]
fn a_collector_that_deletes_what_is_to_be_orphaned_is_caught() {
    is_caught_in(
        Scenario::Deletions,
        || {
            tampered_slots(
                |slot| slot.role == Role::Collector,
                |effects, _| {
                    for intent in effects.groups.iter_mut().flatten() {
                        let Intent::Update { key, base, value } = intent else {
                            continue;
                        };
                        let released = !base.header.owners.is_empty() && value["metadata"]["ownerReferences"].is_null();
                        if released {
                            let (key, revision) = (key.clone(), base.header.revision);
                            *intent = Intent::Remove { key, revision };
                        }
                    }
                },
            )
        },
        None,
        "was to outlive its owner",
    );
}

#[test]
fn an_owner_that_goes_before_what_blocks_it_is_caught() {
    is_caught_in(
        Scenario::Deletions,
        || {
            tampered_slots(
                |slot| slot.role == Role::Collector && slot.key.resource.as_str() == "deployments.apps",
                |effects, own| {
                    effects
                        .groups
                        .extend(hurry(own, "deployments.apps").map(|intent| vec![intent]));
                },
            )
        },
        None,
        "which blocks it",
    );
}

#[test]
fn a_node_that_removes_the_pods_of_a_silent_machine_is_caught_when_they_run_twice() {
    is_caught_in(
        Scenario::Deletions,
        || {
            tampered("nodes", |effects, _| {
                for intent in effects.groups.iter_mut().flatten() {
                    let Intent::Update { key, base, value } = intent else {
                        continue;
                    };
                    let evicts = key.resource.as_str() == "pods" && value["metadata"]["deletionTimestamp"].is_string();
                    if evicts {
                        let (key, revision) = (key.clone(), base.header.revision);
                        *intent = Intent::Remove { key, revision };
                    }
                }
            })
        },
        None,
        "runs on",
    );
}

/// A bound pod seems less important than it is.
fn belittled(key: &Key, object: &Arc<Object>) -> Arc<Object> {
    let mut value = object.value().unwrap();
    let bound = value["spec"]["nodeName"].is_string();
    if key.resource.as_str() != "pods" || !bound {
        return Arc::clone(object);
    }
    let priority = value["spec"]["priority"].as_i64().unwrap_or(0);
    value["spec"]["priority"] = json!(priority - 1);
    let draft = Draft::encode(&value, object.header.fields.to_vec()).unwrap();
    Arc::new(draft.commit(object.header.revision, Some(object.header.created)))
}

#[test]
fn a_scheduler_that_preempts_its_equals_is_caught() {
    is_caught_in(
        Scenario::Preemption,
        honest,
        Some(belittled),
        "no pod that waits is more important",
    );
}

/// What runs seems to take no room.
fn weightless(key: &Key, object: &Arc<Object>) -> Arc<Object> {
    let mut value = object.value().unwrap();
    if key.resource.as_str() != "pods" || !value["spec"]["nodeName"].is_string() {
        return Arc::clone(object);
    }
    value["spec"]["containers"][0]["resources"] = json!({});
    let draft = Draft::encode(&value, object.header.fields.to_vec()).unwrap();
    Arc::new(draft.commit(object.header.revision, Some(object.header.created)))
}

#[test]
fn a_scheduler_that_fills_nodes_above_their_size_is_caught() {
    is_caught_in(
        Scenario::Preemption,
        honest,
        Some(weightless),
        "cores, and its pods want",
    );
}
