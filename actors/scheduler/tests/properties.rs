//! Holds the scheduler to its invariants over random clusters and events. Each case builds two schedulers, one with the index
//! and one without, feeds both the same events, and compares every decision; after every round it recounts what each
//! node holds from the objects themselves.

use k8s_openapi::api::core::v1 as core;
use proptest::prelude::*;
use scheduler::{Decision, PodKey, Preemption, Scheduler, SchedulerConfiguration, Stage};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Event {
    Node {
        name: u8,
        zone: u8,
        cpu: u8,
        taint: Option<u8>,
        cordoned: bool,
    },
    RemoveNode(u8),
    Pod(PodShape),
    RemovePod(u8),
    /// The store confirms, or refuses, what was decided for this pod.
    Confirm(u8),
    Forget(u8),
    Terminate(u8),
    /// The label of a pod changes, pending or placed.
    Relabel {
        name: u8,
        app: u8,
    },
    /// A disruption budget for one app.
    Budget {
        app: u8,
        allowed: u8,
    },
    /// A service that selects one app, or none any more.
    Service {
        app: u8,
        exists: bool,
    },
    /// A pod group and how many of its pods it needs.
    Group {
        name: u8,
        pods_min: u8,
    },
    Round {
        pods_max: usize,
    },
}

#[derive(Clone, Debug)]
struct PodShape {
    name: u8,
    cpu: u8,
    priority: u8,
    app: u8,
    kind: u8,
    port: bool,
    group: Option<u8>,
}

fn node_object(name: u8, zone: u8, cpu: u8, taint: Option<u8>, cordoned: bool) -> core::Node {
    let mut labels = json!({"kubernetes.io/hostname": format!("n{name}")});
    if zone > 0 {
        labels["zone"] = json!(format!("z{zone}"));
        labels["topology.kubernetes.io/zone"] = json!(format!("z{zone}"));
    }
    let taints: Vec<Value> = taint
        .map(|at| {
            let effect = ["NoSchedule", "PreferNoSchedule", "NoExecute"][usize::from(at) % 3];
            json!({"key": "k", "value": "v", "effect": effect})
        })
        .into_iter()
        .collect();
    serde_json::from_value(json!({"metadata": {"name": format!("n{name}"), "labels": labels},
        "spec": {"unschedulable": cordoned, "taints": taints},
        "status": {"allocatable": {"cpu": cpu.to_string(), "memory": "16Gi", "pods": "6"},
            "images": [{"names": [format!("i{}:latest", cpu % 3)], "sizeBytes": 400_000_000}]}}))
    .expect("well-formed")
}

fn pod_object(shape: &PodShape, node: Option<&str>, terminating: bool) -> core::Pod {
    let app = format!("a{}", shape.app);
    let term = |key: &str, app: &str| json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}});
    let required = |term: Value| json!({"requiredDuringSchedulingIgnoredDuringExecution": [term]});
    let preferred = |weight: i32, term: Value| json!({"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": weight, "podAffinityTerm": term}]});
    let spread = |key: &str, when: &str, skew: i32| {
        json!({"maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": when,
            "labelSelector": {"matchLabels": {"app": app}}})
    };
    const HOST: &str = "kubernetes.io/hostname";
    let extra = match shape.kind {
        1 => json!({"affinity": {"podAntiAffinity": required(term(HOST, &app))}}),
        2 => json!({"affinity": {"podAntiAffinity": required(term("zone", &app))}}),
        3 => json!({"affinity": {"podAffinity": required(term("zone", &app))}}),
        4 => json!({"affinity": {"podAffinity": required(term(HOST, "a0"))}}),
        5 => json!({"affinity": {"podAffinity": preferred(7, term("zone", "a1"))}}),
        6 => {
            json!({"affinity": {"podAntiAffinity": preferred(9, term(HOST, "a0")), "podAffinity": preferred(3, term("zone", &app))}})
        }
        7 => json!({"topologySpreadConstraints": [spread("zone", "DoNotSchedule", 1)]}),
        8 => json!({"topologySpreadConstraints": [spread(HOST, "DoNotSchedule", 2)]}),
        9 => {
            json!({"topologySpreadConstraints": [spread("zone", "ScheduleAnyway", 1), spread(HOST, "ScheduleAnyway", 3)]})
        }
        10 => {
            json!({"topologySpreadConstraints": [spread("zone", "DoNotSchedule", 2), spread(HOST, "ScheduleAnyway", 1)]})
        }
        11 => json!({"nodeSelector": {"zone": "z1"}}),
        12 => json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 5, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["z2"]}]}}]}}}),
        13 => json!({"tolerations": [{"key": "k", "operator": "Exists"}]}),
        14 => {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]}}}})
        }
        _ => json!({}),
    };
    let mut container = json!({"name": "c", "image": format!("i{}", shape.app), "resources": {"requests": {"cpu": shape.cpu.to_string(), "memory": "1Gi"}}});
    if shape.port {
        container["ports"] = json!([{"containerPort": 80, "hostPort": 80}]);
    }
    let mut spec = json!({"priority": shape.priority, "containers": [container]});
    for (key, value) in extra.as_object().expect("an object") {
        spec[key] = value.clone();
    }
    if let Some(group) = shape.group {
        spec["schedulingGroup"] = json!({"podGroupName": format!("g{group}")});
    }
    if let Some(node) = node {
        spec["nodeName"] = json!(node);
    }
    let mut metadata = json!({"name": format!("p{}", shape.name), "namespace": "default", "labels": {"app": app}});
    if terminating {
        metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("well-formed")
}

fn shape() -> impl Strategy<Value = PodShape> {
    let group = prop::option::weighted(0.2, 0u8..2);
    (
        0u8..40,
        0u8..3,
        0u8..3,
        0u8..3,
        0u8..18,
        prop::bool::weighted(0.1),
        group,
    )
        .prop_map(|(name, cpu, priority, app, kind, port, group)| PodShape {
            name,
            cpu,
            priority,
            app,
            kind,
            port,
            group,
        })
}

fn event() -> impl Strategy<Value = Event> {
    let node = (
        0u8..8,
        0u8..4,
        2u8..6,
        prop::option::weighted(0.2, 0u8..3),
        prop::bool::weighted(0.1),
    );
    prop_oneof![
        2 => node.prop_map(|(name, zone, cpu, taint, cordoned)| Event::Node { name, zone, cpu, taint, cordoned }),
        1 => (0u8..8).prop_map(Event::RemoveNode),
        12 => shape().prop_map(Event::Pod),
        3 => (0u8..40).prop_map(Event::RemovePod),
        3 => (0u8..40).prop_map(Event::Confirm),
        1 => (0u8..40).prop_map(Event::Forget),
        1 => (0u8..40).prop_map(Event::Terminate),
        2 => (0u8..40, 0u8..3).prop_map(|(name, app)| Event::Relabel { name, app }),
        1 => (0u8..3, 0u8..3).prop_map(|(app, allowed)| Event::Budget { app, allowed }),
        1 => (0u8..3, any::<bool>()).prop_map(|(app, exists)| Event::Service { app, exists }),
        1 => (0u8..2, 1u8..4).prop_map(|(name, pods_min)| Event::Group { name, pods_min }),
        4 => (1usize..20).prop_map(|pods_max| Event::Round { pods_max }),
    ]
}

fn key(name: u8) -> PodKey {
    PodKey::new("default", &format!("p{name}"))
}

/// The world as an outsider knows it: the objects, and where the scheduler says that pods are.
#[derive(Default)]
struct World {
    nodes: BTreeMap<String, core::Node>,
    pods: BTreeMap<PodKey, (PodShape, Option<String>)>,
    groups: BTreeMap<u8, usize>,
    terminating: BTreeSet<PodKey>,
}

impl World {
    fn cpu_free(&self, node: &str) -> i64 {
        let allocatable = self.nodes[node].status.as_ref().and_then(|s| s.allocatable.as_ref());
        let cpu: i64 = allocatable.and_then(|a| a["cpu"].0.parse().ok()).unwrap_or(0);
        cpu - self.on(node).map(|shape| i64::from(shape.cpu)).sum::<i64>()
    }

    fn on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a PodShape> {
        self.pods
            .values()
            .filter(move |(_, at)| at.as_deref() == Some(node))
            .map(|(shape, _)| shape)
    }
}

/// Feeds one event to a scheduler.
fn feed(scheduler: &mut Scheduler, world: &World, event: &Event, now_ms: u64) -> Vec<Decision> {
    match event {
        Event::Node {
            name,
            zone,
            cpu,
            taint,
            cordoned,
        } => {
            scheduler.upsert_node(&node_object(*name, *zone, *cpu, *taint, *cordoned));
        }
        Event::RemoveNode(name) => scheduler.remove_node(&format!("n{name}")),
        Event::Pod(shape) if !world.pods.contains_key(&key(shape.name)) => {
            scheduler.upsert_pod(&pod_object(shape, None, false));
        }
        Event::RemovePod(name) => scheduler.remove_pod(&key(*name)),
        Event::Confirm(name) | Event::Terminate(name) => {
            if let Some((shape, Some(node))) = world.pods.get(&key(*name)) {
                scheduler.upsert_pod(&pod_object(shape, Some(node), matches!(event, Event::Terminate(_))));
            }
        }
        Event::Forget(name) => scheduler.forget(&key(*name), now_ms),
        Event::Relabel { name, app } => {
            if let Some((shape, node)) = world.pods.get(&key(*name)) {
                let shape = PodShape {
                    app: *app,
                    ..shape.clone()
                };
                scheduler.upsert_pod(&pod_object(&shape, node.as_deref(), false));
            }
        }
        Event::Budget { app, allowed } => {
            let budget = json!({"metadata": {"name": format!("b{app}"), "namespace": "default"},
                "spec": {"selector": {"matchLabels": {"app": format!("a{app}")}}},
                "status": {"disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
            scheduler.upsert_budget(&serde_json::from_value(budget).expect("well-formed"));
        }
        Event::Service { app, exists: true } => {
            let service = json!({"metadata": {"name": format!("s{app}"), "namespace": "default"},
                "spec": {"selector": {"app": format!("a{app}")}}});
            scheduler.upsert_service(&serde_json::from_value(service).expect("well-formed"));
        }
        Event::Service { app, exists: false } => scheduler.remove_service("default", &format!("s{app}")),
        Event::Group { name, pods_min } => {
            scheduler.set_group("default", &format!("g{name}"), usize::from(*pods_min));
        }
        Event::Round { pods_max } => return scheduler.schedule_batch(now_ms, *pods_max),
        Event::Pod(_) => {}
    }
    Vec::new()
}

fn check_binding(world: &World, shape: &PodShape, node: &str) -> Result<(), TestCaseError> {
    prop_assert!(world.nodes.contains_key(node), "{node} does not exist");
    let object = &world.nodes[node];
    prop_assert!(
        object.spec.as_ref().is_none_or(|spec| spec.unschedulable != Some(true)),
        "{node} is cordoned"
    );
    prop_assert!(
        shape.cpu == 0 || i64::from(shape.cpu) <= world.cpu_free(node),
        "{node} is filled above its cpu"
    );
    prop_assert!(world.on(node).count() < 6, "{node} has too many pods");
    prop_assert!(
        !shape.port || !world.on(node).any(|other| other.port),
        "{node} has the port taken"
    );
    let keeps_away = |taint: &core::Taint| taint.effect != "PreferNoSchedule";
    let tainted = object
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten())
        .any(keeps_away);
    prop_assert!(!tainted || shape.kind == 13, "{node} is tainted");
    let zone = |name: &str| {
        world.nodes[name]
            .metadata
            .labels
            .as_ref()
            .and_then(|l| l.get("zone").cloned())
    };
    if shape.kind == 1 {
        prop_assert!(
            world.on(node).all(|other| other.app != shape.app),
            "{node} has a pod to keep away from"
        );
    }
    if shape.kind == 2 && zone(node).is_some() {
        let same_zone = world.nodes.keys().filter(|name| zone(name) == zone(node));
        for name in same_zone {
            prop_assert!(
                world.on(name).all(|other| other.app != shape.app),
                "the zone of {node} has such a pod"
            );
        }
    }
    check_terms_of_others(world, shape, node)?;
    check_affinity(world, shape, node)?;
    check_spread(world, shape, node)?;
    if shape.kind == 11 {
        prop_assert_eq!(zone(node), Some("z1".to_owned()));
    }
    if shape.kind == 14 {
        prop_assert_eq!(node, "n1");
    }
    Ok(())
}

fn zone_of(world: &World, node: &str) -> Option<String> {
    world.nodes[node]
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get("zone").cloned())
}

/// Pods on nodes that exist, with their nodes.
fn placed(world: &World) -> impl Iterator<Item = (&PodKey, &PodShape, &str)> {
    let with_node = world
        .pods
        .iter()
        .filter_map(|(key, (shape, at))| Some((key, shape, at.as_deref()?)));
    with_node.filter(|(_, _, at)| world.nodes.contains_key(*at))
}

/// Pods that run and want to be away from such a pod stay alone.
fn check_terms_of_others(world: &World, shape: &PodShape, node: &str) -> Result<(), TestCaseError> {
    for (key, other, at) in placed(world).filter(|(_, other, _)| other.app == shape.app) {
        let same_zone = zone_of(world, at).is_some() && zone_of(world, at) == zone_of(world, node);
        prop_assert!(other.kind != 1 || at != node, "{key} on {node} keeps it away");
        prop_assert!(
            other.kind != 2 || !same_zone,
            "{key} in the zone of {node} keeps it away"
        );
    }
    Ok(())
}

/// Required affinity: kind 3 to its own app by zone, kind 4 to a0 by host. The first of a group may go anywhere.
fn check_affinity(world: &World, shape: &PodShape, node: &str) -> Result<(), TestCaseError> {
    if shape.kind == 3 {
        let zone = zone_of(world, node);
        prop_assert!(zone.is_some(), "{node} has no zone");
        let mates = placed(world).filter(|(_, other, _)| other.app == shape.app);
        let zones: Vec<String> = mates.filter_map(|(_, _, at)| zone_of(world, at)).collect();
        prop_assert!(
            zones.is_empty() || zones.iter().any(|of| Some(of) == zone.as_ref()),
            "{node} is far from its mates"
        );
    }
    if shape.kind == 4 {
        let hosts: Vec<&str> = placed(world)
            .filter(|(_, other, _)| other.app == 0)
            .map(|(_, _, at)| at)
            .collect();
        prop_assert!(
            hosts.contains(&node) || (hosts.is_empty() && shape.app == 0),
            "{node} has no pod of a0"
        );
    }
    Ok(())
}

/// Hard spreading: kind 7 by zone with skew 1, kind 10 by zone with skew 2, kind 8 by host with skew 2.
fn check_spread(world: &World, shape: &PodShape, node: &str) -> Result<(), TestCaseError> {
    let (skew, by_zone) = match shape.kind {
        7 => (1, true),
        10 => (2, true),
        8 => (2, false),
        _ => return Ok(()),
    };
    let domain = |node: &str| {
        if by_zone {
            zone_of(world, node)
        } else {
            Some(node.to_owned())
        }
    };
    let Some(own) = domain(node) else {
        return Err(TestCaseError::fail(format!("{node} has no zone")));
    };
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for name in world.nodes.keys().filter_map(|name| domain(name)) {
        counts.entry(name).or_default();
    }
    for (key, other, at) in placed(world) {
        if other.app == shape.app
            && !world.terminating.contains(key)
            && let Some(count) = domain(at).and_then(|at| counts.get_mut(&at))
        {
            *count += 1;
        }
    }
    let least = counts.values().min().copied().unwrap_or(0);
    prop_assert!(counts[&own] + 1 - least <= skew, "{node}: {counts:?} is too uneven");
    Ok(())
}

/// A pod without any wish but cpu, that no node refuses, must not be left pending.
fn check_refusal(world: &World, shape: &PodShape) -> Result<(), TestCaseError> {
    if shape.kind != 0 && shape.kind < 15 || shape.port || shape.group.is_some() {
        return Ok(());
    }
    for (name, node) in &world.nodes {
        let spec = node.spec.as_ref();
        let open = spec.is_none_or(|s| {
            s.unschedulable != Some(true) && s.taints.iter().flatten().all(|t| t.effect == "PreferNoSchedule")
        });
        // Pods of other kinds may keep it away, and so may places that are kept for nominated pods.
        let neighbours = world
            .pods
            .values()
            .any(|(other, at)| at.is_some() && matches!(other.kind, 1 | 2));
        let fits = (shape.cpu == 0 || i64::from(shape.cpu) <= world.cpu_free(name)) && world.on(name).count() < 6;
        prop_assert!(!open || neighbours || !fits, "{name} has room");
    }
    Ok(())
}

/// The index is for looking at all nodes; with sampling both schedulers take the plain path, and must obey as well.
fn run(events: &[Event], seed: u64) -> Result<(), TestCaseError> {
    let configuration = |indexed| SchedulerConfiguration {
        seed,
        indexed,
        ..SchedulerConfiguration::default()
    };
    let mut indexed = Scheduler::new(configuration(true));
    let mut plain = Scheduler::new(configuration(false));
    let mut world = World::default();
    let mut now_ms = 0;
    let mut nominated = false;
    for event in events {
        now_ms += 700;
        let decisions = feed(&mut indexed, &world, event, now_ms);
        let again = feed(&mut plain, &world, event, now_ms);
        prop_assert_eq!(&decisions, &again, "the index must decide as the plain path does");
        match event {
            Event::Node {
                name,
                zone,
                cpu,
                taint,
                cordoned,
            } => {
                world
                    .nodes
                    .insert(format!("n{name}"), node_object(*name, *zone, *cpu, *taint, *cordoned));
            }
            Event::RemoveNode(name) => {
                world.nodes.remove(&format!("n{name}"));
            }
            Event::Pod(shape) => {
                world.pods.entry(key(shape.name)).or_insert((shape.clone(), None));
            }
            Event::RemovePod(name) => {
                world.pods.remove(&key(*name));
                world.terminating.remove(&key(*name));
            }
            Event::Terminate(name) => {
                if matches!(world.pods.get(&key(*name)), Some((_, Some(_)))) {
                    world.terminating.insert(key(*name));
                }
            }
            Event::Relabel { name, app } => {
                if let Some((shape, _)) = world.pods.get_mut(&key(*name)) {
                    shape.app = *app;
                }
            }
            Event::Group { name, pods_min } => {
                world.groups.insert(*name, usize::from(*pods_min));
            }
            Event::Forget(_) | Event::Confirm(_) | Event::Round { .. } => {}
            Event::Budget { .. } | Event::Service { .. } => {}
        }
        if let Event::Forget(name) = event {
            let placed = indexed.node_of(&key(*name)).map(|node| node.to_string());
            if let Some((_, at)) = world.pods.get_mut(&key(*name)) {
                *at = placed;
            }
        }
        for decision in &decisions {
            let shape = world.pods[decision.pod()].0.clone();
            match decision {
                Decision::Bind(binding) => {
                    check_binding(&world, &shape, &binding.node)?;
                    world.pods.get_mut(decision.pod()).expect("known").1 = Some(binding.node.to_string());
                }
                Decision::Unschedulable(why) => {
                    let counted: usize = why.diagnosis.refusals.iter().map(|refusal| refusal.nodes).sum();
                    prop_assert!(counted >= world.nodes.len() || why.diagnosis.pre_filter_message.is_some());
                    prop_assert_eq!(why.diagnosis.nodes_all, world.nodes.len());
                    if let Preemption::Nominated { victims, .. } = &why.preemption {
                        nominated = true;
                        prop_assert!(!victims.is_empty());
                        for victim in victims {
                            prop_assert!(
                                world.pods[victim].0.priority < shape.priority,
                                "{victim} is as important"
                            );
                        }
                    }
                    if !nominated {
                        check_refusal(&world, &shape)?;
                    }
                }
            }
        }
        for group in decisions.iter().filter_map(|decision| match decision {
            Decision::Bind(binding) => world.pods[&binding.pod].0.group,
            Decision::Unschedulable(_) => None,
        }) {
            let placed = world
                .pods
                .values()
                .filter(|(shape, at)| shape.group == Some(group) && at.is_some())
                .count();
            prop_assert!(placed >= world.groups[&group], "a part of the gang g{group} was placed");
        }
        recount(&indexed, &world)?;
        indexed.assert_invariants();
        plain.assert_invariants();
    }
    check_nobody_is_forgotten(&mut indexed, &world, now_ms)
}

/// When all back-offs are over, no pod is still parked that would fit: the event that made it fit has woken it.
fn check_nobody_is_forgotten(scheduler: &mut Scheduler, world: &World, now_ms: u64) -> Result<(), TestCaseError> {
    // Less than the five minutes after which parked pods are tried without any event.
    for round in 1..=20 {
        if scheduler.schedule_batch(now_ms + round * 11_000, usize::MAX).is_empty() {
            break;
        }
    }
    for (key, (shape, _)) in &world.pods {
        let parked = matches!(scheduler.stage(key), Some(Stage::Parked { .. }));
        // A gang is more than its pods; a nominated pod waits for its victims.
        if !parked || shape.group.is_some() {
            continue;
        }
        let evaluation = scheduler
            .evaluate(&pod_object(shape, None, false))
            .expect("the default profile schedules it");
        prop_assert!(
            evaluation.feasible.is_empty(),
            "{} would fit on {:?}",
            key,
            evaluation.feasible
        );
    }
    Ok(())
}

/// Every node's sums equal a recount over the objects.
fn recount(scheduler: &Scheduler, world: &World) -> Result<(), TestCaseError> {
    for name in world.nodes.keys() {
        let cluster = scheduler.cluster();
        let id = cluster
            .symbols
            .lookup(name)
            .and_then(|sym| cluster.node_id(sym))
            .expect("the node is known");
        let node = cluster.node(id);
        prop_assert_eq!(node.pods.len(), world.on(name).count());
        let cpu: i64 = world.on(name).map(|shape| i64::from(shape.cpu) * 1000).sum();
        prop_assert_eq!(node.requested.cpu_milli, cpu);
    }
    Ok(())
}

/// More cases than the usual run has, where `PROPTEST_CASES` asks for them.
fn cases() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(600),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn decisions_are_lawful_and_the_index_changes_none(
        events in prop::collection::vec(event(), 1..160), seed in any::<u64>()
    ) {
        run(&events, seed)?;
    }

    #[test]
    fn the_same_seed_gives_the_same_decisions(events in prop::collection::vec(event(), 1..120), seed in any::<u64>()) {
        let decide = || {
            let mut scheduler = Scheduler::new(SchedulerConfiguration { seed, ..SchedulerConfiguration::default() });
            let world = World::default();
            events.iter().enumerate()
                .flat_map(|(at, event)| feed(&mut scheduler, &world, event, at as u64 * 700))
                .collect::<Vec<_>>()
        };
        prop_assert_eq!(decide(), decide());
    }
}
