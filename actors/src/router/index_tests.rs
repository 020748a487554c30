//! Tables for whom an event concerns.

use super::*;
use crate::ownership::tests::stored;
use protocol::{Cause, Revision};
use serde_json::json;

struct World {
    index: Index,
    objects: BTreeMap<Key, Arc<Object>>,
    revision: u64,
}

impl World {
    fn new() -> World {
        let mut world = World {
            index: Index::default(),
            objects: BTreeMap::new(),
            revision: 0,
        };
        world.put(NODES, "", "n1", json!({}), json!({}));
        let selector = json!({"selector": {"matchLabels": {"app": "web"}}});
        world.put(DEPLOYMENTS, "default", "web", json!({}), selector.clone());
        world.put(REPLICA_SETS, "default", "web-1", owned("Deployment", "web"), selector);
        world.put(
            SERVICES,
            "default",
            "web",
            json!({}),
            json!({"selector": {"app": "web"}}),
        );
        world.put(SERVICES, "default", "headless", json!({}), json!({}));
        world
    }

    fn put(&mut self, resource: &str, namespace: &str, name: &str, metadata: Value, spec: Value) -> BTreeSet<String> {
        self.revision += 1;
        let mut value = json!({"metadata": {"name": name, "namespace": namespace, "uid": format!("{resource}-{name}")}, "spec": spec});
        for (field, part) in metadata.as_object().unwrap() {
            value["metadata"][field] = part.clone();
        }
        let key = Key::new(resource, namespace, name);
        let mut object = (*stored(value.clone(), self.revision)).clone();
        if let Some(node) = value["spec"]["nodeName"].as_str() {
            object.header.fields = Arc::new(vec![(NODE_NAME.into(), node.into())]);
        }
        let object = Arc::new(object);
        let previous = self.objects.insert(key.clone(), Arc::clone(&object));
        let change = if previous.is_some() {
            Change::Updated
        } else {
            Change::Created
        };
        self.route(key, change, object, previous)
    }

    fn delete(&mut self, resource: &str, namespace: &str, name: &str) -> BTreeSet<String> {
        self.revision += 1;
        let key = Key::new(resource, namespace, name);
        let object = self.objects.remove(&key).unwrap();
        self.route(key, Change::Deleted, Arc::clone(&object), Some(object))
    }

    fn route(
        &mut self,
        key: Key,
        change: Change,
        object: Arc<Object>,
        previous: Option<Arc<Object>>,
    ) -> BTreeSet<String> {
        let event = StoreEvent {
            revision: Revision(self.revision),
            cause: Cause(0),
            key,
            change,
            object,
            previous,
        };
        let slots = self.index.route(&event).slots;
        slots
            .into_iter()
            .filter(|slot| self.index.has_subject(slot))
            .map(|slot| slot.to_string())
            .collect()
    }

    fn related(&self, resource: &str, namespace: &str, name: &str) -> Vec<String> {
        let slot = Slot::own(Key::new(resource, namespace, name));
        self.index
            .related(&slot)
            .into_iter()
            .map(|key| key.to_string())
            .collect()
    }
}

fn owned(kind: &str, name: &str) -> Value {
    let uid = format!("{}s.apps-{name}", kind.to_lowercase());
    json!({"labels": {"app": "web"}, "ownerReferences": [
        {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": true, "blockOwnerDeletion": true}]})
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn endpoints_concern_their_service_and_are_woken_when_it_ends() {
    let mut world = World::new();
    assert_eq!(
        world.put(ENDPOINTS, "default", "web", json!({}), json!({})),
        set(&[SERVICE])
    );
    assert_eq!(world.put(ENDPOINTS, "default", "early", json!({}), json!({})), set(&[]));
    assert!(
        world
            .related(SERVICES, "default", "web")
            .contains(&"endpoints/default/web".to_owned())
    );
    assert_eq!(world.related(ENDPOINTS, "default", "web"), [SERVICE]);
    let leftovers = |world: &World| -> Vec<String> {
        let slots = world.index.initial().into_iter();
        slots
            .map(|slot| slot.to_string())
            .filter(|slot| slot.starts_with(ENDPOINTS))
            .collect()
    };
    assert_eq!(leftovers(&world), ["endpoints/default/early"]);
    assert!(
        world
            .delete(SERVICES, "default", "web")
            .contains("endpoints/default/web")
    );
    assert_eq!(leftovers(&world), ["endpoints/default/early", "endpoints/default/web"]);
}

#[test]
fn a_budget_is_told_of_the_pods_that_it_covers_and_of_the_sizes_of_their_controllers() {
    let mut world = World::new();
    let (budget, whole) = (
        "poddisruptionbudgets.policy/default/web",
        "poddisruptionbudgets.policy/default/whole",
    );
    let selector = json!({"selector": {"matchLabels": {"app": "web"}}});
    assert_eq!(
        world.put(BUDGETS, "default", "web", json!({}), selector.clone()),
        set(&[budget])
    );
    let pod = |world: &mut World| {
        world.put(
            PODS,
            "default",
            "a",
            owned("ReplicaSet", "web-1"),
            json!({"nodeName": "n1"}),
        )
    };
    assert_eq!(pod(&mut world), set(&[SET, SERVICE, budget]));
    let sized = |world: &mut World| world.put(DEPLOYMENTS, "default", "web", json!({}), selector.clone());
    assert_eq!(sized(&mut world), set(&[DEPLOYMENT, budget]));
    let set_changed = world.put(
        REPLICA_SETS,
        "default",
        "web-1",
        owned("Deployment", "web"),
        selector.clone(),
    );
    assert_eq!(set_changed, set(&[SET, DEPLOYMENT, budget]));
    assert_eq!(
        world.related(BUDGETS, "default", "web"),
        [DEPLOYMENT, "pods/default/a", SET]
    );
    // An empty selector covers the namespace; none at all covers nothing.
    assert_eq!(
        world.put(BUDGETS, "default", "whole", json!({}), json!({"selector": {}})),
        set(&[whole])
    );
    world.put(BUDGETS, "default", "none", json!({}), json!({}));
    assert_eq!(pod(&mut world), set(&[SET, SERVICE, budget, whole]));
    assert_eq!(world.put(PODS, "default", "b", json!({}), json!({})), set(&[whole]));
    assert_eq!(world.related(BUDGETS, "default", "none"), [""; 0]);
}

const SERVICE: &str = "services/default/web";
const SET: &str = "replicasets.apps/default/web-1";
const DEPLOYMENT: &str = "deployments.apps/default/web";

#[test]
fn a_pod_concerns_its_owner_and_the_services_that_select_it_and_no_one_else() {
    let mut world = World::new();
    let bound = json!({"nodeName": "n1"});
    assert_eq!(
        world.put(PODS, "default", "a", owned("ReplicaSet", "web-1"), bound.clone()),
        set(&[SET, SERVICE])
    );
    assert_eq!(
        world.put(PODS, "default", "a", owned("ReplicaSet", "web-1"), bound.clone()),
        set(&[SET, SERVICE])
    );
    assert_eq!(
        world.put(PODS, "default", "b", json!({"labels": {"app": "web"}}), bound.clone()),
        set(&[SERVICE, SET]),
        "an orphan"
    );
    assert_eq!(
        world.put(PODS, "default", "c", json!({"labels": {"app": "api"}}), bound.clone()),
        set(&[])
    );
    assert_eq!(
        world.put(PODS, "other", "d", json!({"labels": {"app": "web"}}), bound.clone()),
        set(&[]),
        "another namespace"
    );
    // Its labels change: whom it concerned before hears of it too.
    assert_eq!(
        world.put(PODS, "default", "b", json!({"labels": {"app": "api"}}), bound),
        set(&[SERVICE, SET])
    );
    assert_eq!(world.delete(PODS, "default", "a"), set(&[SET, SERVICE]));
}

#[test]
fn a_replica_set_concerns_its_deployment_and_an_orphan_those_that_select_it() {
    let mut world = World::new();
    assert_eq!(
        world.put(REPLICA_SETS, "default", "web-1", owned("Deployment", "web"), json!({})),
        set(&[DEPLOYMENT, SET])
    );
    let orphan = world.put(
        REPLICA_SETS,
        "default",
        "web-2",
        json!({"labels": {"app": "web"}}),
        json!({}),
    );
    assert_eq!(orphan, set(&[DEPLOYMENT, "replicasets.apps/default/web-2"]));
}

#[test]
fn a_pod_wakes_its_own_actor_only_when_no_machine_does_its_work() {
    let mut world = World::new();
    let deleting = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
    assert_eq!(
        world.put(PODS, "default", "a", deleting.clone(), json!({})),
        set(&["pods/default/a"])
    );
    assert_eq!(
        world.put(PODS, "default", "b", deleting, json!({"nodeName": "n1"})),
        set(&[])
    );
    assert_eq!(
        world.put(PODS, "default", "c", json!({}), json!({"nodeName": "gone"})),
        set(&["pods/default/c"])
    );
    assert_eq!(
        world.delete(NODES, "", "n1"),
        set(&[
            "pods/default/b",
            "configmaps/kube-system/node-pod-cidrs",
            "configmaps/kube-system/node-evictions"
        ])
    );
}

#[test]
fn only_a_node_that_is_silent_or_drives_pods_away_hears_of_its_pods() {
    let mut world = World::new();
    let pod = |world: &mut World| world.put(PODS, "default", "a", json!({}), json!({"nodeName": "n1"}));
    for (key, effect, hears) in [
        ("x", "NoSchedule", false),
        ("x", "NoExecute", true),
        (eviction::UNREACHABLE, "NoSchedule", true),
        (eviction::NOT_READY, "NoSchedule", true),
    ] {
        world.put(
            NODES,
            "",
            "n1",
            json!({}),
            json!({"taints": [{"key": key, "effect": effect}]}),
        );
        let expected = if hears { set(&["nodes/n1"]) } else { set(&[]) };
        assert_eq!(pod(&mut world), expected, "{key}:{effect}");
    }
    assert_eq!(world.related(NODES, "", "n1"), ["pods/default/a"]);
}

#[test]
fn the_end_of_an_owner_wakes_the_collectors_of_its_dependents() {
    let mut world = World::new();
    world.put("configmaps", "default", "c", owned("ReplicaSet", "web-1"), json!({}));
    let woken = world.delete(REPLICA_SETS, "default", "web-1");
    assert_eq!(woken, set(&[DEPLOYMENT, "configmaps/default/c (collector)"]));
    // An object whose owner is gone when it appears is collected as well.
    let late = world.put("configmaps", "default", "late", owned("ReplicaSet", "web-1"), json!({}));
    assert_eq!(late, set(&["configmaps/default/late (collector)"]));
    assert!(
        world
            .index
            .initial()
            .iter()
            .any(|slot| slot.to_string() == "configmaps/default/late (collector)")
    );
}

#[test]
fn everything_in_a_namespace_that_is_being_deleted_concerns_it() {
    let mut world = World::new();
    world.put(
        NAMESPACES,
        "",
        "default",
        json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}),
        json!({}),
    );
    assert_eq!(
        world.put("configmaps", "default", "c", json!({}), json!({})),
        set(&["namespaces/default"])
    );
    assert_eq!(world.delete("configmaps", "default", "c"), set(&["namespaces/default"]));
    assert_eq!(world.related(NAMESPACES, "", "default").len(), 4);
}

#[test]
fn actors_are_shown_what_they_select_and_own() {
    let mut world = World::new();
    world.put(PODS, "default", "mine", owned("ReplicaSet", "web-1"), json!({}));
    world.put(PODS, "default", "orphan", json!({"labels": {"app": "web"}}), json!({}));
    world.put(
        PODS,
        "default",
        "stranger",
        json!({"labels": {"app": "api"}}),
        json!({}),
    );
    assert_eq!(
        world.related(REPLICA_SETS, "default", "web-1"),
        ["pods/default/mine", "pods/default/orphan"]
    );
    assert_eq!(
        world.related(SERVICES, "default", "web"),
        ["endpoints/default/web", "pods/default/mine", "pods/default/orphan"]
    );
    assert_eq!(
        world.related(SERVICES, "default", "headless"),
        ["endpoints/default/headless"]
    );
    assert_eq!(world.related(DEPLOYMENTS, "default", "web"), [SET]);
}

#[test]
fn a_service_whose_selector_changes_reads_its_state_again() {
    let mut world = World::new();
    let key = Key::new(SERVICES, "default", "web");
    let previous = world.objects.get(&key).cloned();
    let value = json!({"metadata": {"name": "web", "namespace": "default", "uid": "services-web"}, "spec": {"selector": {"app": "api"}}});
    let object = stored(value, 99);
    let event = StoreEvent {
        revision: Revision(99),
        cause: Cause(0),
        key: key.clone(),
        change: Change::Updated,
        object,
        previous,
    };
    assert_eq!(world.index.route(&event).reread, Some(Slot::own(key)));
}
