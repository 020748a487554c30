//! The oracle finds what it is for: one planted mistake for each rule, and the same log without it passes.

use benches::run::oracle::{Event, Subject, World, check};
use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};
use std::sync::Arc;

fn node(name: &str, more: &Value) -> Event {
    let mut value = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "zone": "z"}},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "3"}}});
    for (key, part) in more.as_object().into_iter().flatten() {
        value[key] = part.clone();
    }
    Event::Node(Arc::new(serde_json::from_value(value).expect("a node")))
}

fn pod(name: &str, labels: &Value, spec: &Value) -> Subject {
    let mut value = json!({"metadata": {"name": name, "namespace": "ns", "labels": labels},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "500m"}}}]}});
    for (key, part) in spec.as_object().into_iter().flatten() {
        value["spec"][key] = part.clone();
    }
    let shape: core::Pod = serde_json::from_value(value).expect("a pod");
    Subject {
        key: format!("ns/{name}"),
        shape: Arc::new(shape),
    }
}

/// Places pods on nodes named by number, in order, and tells the broken rule.
fn broken(nodes: &[Event], pods: &[Subject], places: &[(u32, &str)], world: &World) -> String {
    let placed = places.iter().map(|(pod, node)| Event::Placed {
        pod: *pod,
        node: (*node).into(),
    });
    let log: Vec<Event> = nodes.iter().cloned().chain(placed).collect();
    check(world, pods, &log).map_or_else(|error| error.to_string(), |()| "none".to_owned())
}

#[test]
fn every_rule_is_found_broken_and_its_opposite_passes() {
    let none = json!({});
    let blue = json!({"color": "blue"});
    let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"color": "blue"}}});
    let required = |kind: &str| json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"color": "blue"}}}]});
    let sized = |cpu: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
    let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    let picky = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]}}}});
    let cordoned = json!({"spec": {"unschedulable": true}});
    let tainted = json!({"spec": {"taints": [{"key": "t", "effect": "NoSchedule"}]}});
    let plain = || vec![node("a", &json!({})), node("b", &json!({}))];
    let b_with = |more: &Value| vec![node("a", &json!({})), node("b", more)];
    // Nodes, the pods' labels and specs, a placement that breaks the rule, one that does not, and the words.
    type Case<'a> = (
        Vec<Event>,
        Vec<(&'a Value, Value)>,
        Vec<(u32, &'a str)>,
        Vec<(u32, &'a str)>,
        &'a str,
    );
    let cases: Vec<Case<'_>> = vec![
        (
            plain(),
            vec![(&none, sized("1500m")), (&none, sized("600m"))],
            vec![(0, "a"), (1, "a")],
            vec![(0, "a"), (1, "b")],
            "cpu: 1500m of 2000m",
        ),
        (
            plain(),
            vec![(&none, sized("1m")); 4],
            vec![(0, "a"), (1, "a"), (2, "a"), (3, "a")],
            vec![(0, "a"), (1, "a"), (2, "a"), (3, "b")],
            "3 of 3 pods",
        ),
        (
            plain(),
            vec![(&none, port); 2],
            vec![(0, "a"), (1, "a")],
            vec![(0, "a"), (1, "b")],
            "host port 80/TCP",
        ),
        (
            plain(),
            vec![(&none, picky)],
            vec![(0, "b")],
            vec![(0, "a")],
            "required node affinity",
        ),
        (
            plain(),
            vec![(&none, json!({"nodeSelector": {"kubernetes.io/hostname": "a"}}))],
            vec![(0, "b")],
            vec![(0, "a")],
            "node selector",
        ),
        (
            b_with(&cordoned),
            vec![(&none, json!({}))],
            vec![(0, "b")],
            vec![(0, "a")],
            "the node is unschedulable",
        ),
        (
            b_with(&tainted),
            vec![(&none, json!({}))],
            vec![(0, "b")],
            vec![(0, "a")],
            "taint t:NoSchedule",
        ),
        (
            plain(),
            vec![(&blue, required("podAntiAffinity")); 2],
            vec![(0, "a"), (1, "a")],
            vec![(0, "a"), (1, "b")],
            "required anti-affinity",
        ),
        (
            plain(),
            vec![(&blue, required("podAntiAffinity")), (&blue, json!({}))],
            vec![(0, "a"), (1, "a")],
            vec![(0, "a"), (1, "b")],
            "keeps it away",
        ),
        (
            plain(),
            vec![(&blue, required("podAffinity")); 2],
            vec![(0, "a"), (1, "b")],
            vec![(0, "a"), (1, "a")],
            "required affinity",
        ),
        (
            plain(),
            vec![(&blue, spread); 2],
            vec![(0, "a"), (1, "a")],
            vec![(0, "a"), (1, "b")],
            "maxSkew is 1",
        ),
        (
            plain(),
            vec![(&none, json!({}))],
            vec![(0, "c")],
            vec![(0, "a")],
            "no such node",
        ),
    ];
    for (nodes, pods, wrong, right, words) in cases {
        let pods: Vec<Subject> = pods
            .iter()
            .enumerate()
            .map(|(at, (labels, spec))| pod(&format!("p{at}"), labels, spec))
            .collect();
        let found = broken(&nodes, &pods, &wrong, &World::default());
        assert!(found.contains(words), "{words}: {found}");
        assert_eq!(broken(&nodes, &pods, &right, &World::default()), "none", "{words}");
    }
}

#[test]
fn attachable_volumes_and_claims_for_one_pod_are_counted() {
    let claim = |name: &str| json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": name}}]});
    let none = json!({});
    let nodes = [node("a", &none), node("b", &none)];
    let pods = [
        pod("p0", &none, &claim("one")),
        pod("p1", &none, &claim("two")),
        pod("p2", &none, &claim("one")),
    ];
    let mut world = World::default();
    world.attachable.insert("a".to_owned(), 1);
    let found = broken(&nodes, &pods, &[(0, "a"), (1, "a")], &world);
    assert!(found.contains("1 of 1 volumes are attached"), "{found}");
    assert_eq!(broken(&nodes, &pods, &[(0, "a"), (1, "b")], &world), "none");
    world.for_one_pod.insert("ns/one".to_owned());
    let found = broken(&nodes, &pods, &[(0, "a"), (2, "b")], &world);
    assert!(found.contains("claim ns/one is for one pod"), "{found}");
}

#[test]
fn what_went_gives_back_what_it_held() {
    let none = json!({});
    let pods: Vec<Subject> = (0..4).map(|at| pod(&format!("p{at}"), &none, &none)).collect();
    let place = |pod: u32| Event::Placed { pod, node: "a".into() };
    let mut log = vec![node("a", &none), place(0), place(1), place(2), place(3)];
    assert!(check(&World::default(), &pods, &log).is_err(), "four of three pods");
    log.insert(4, Event::Gone { pod: 0 });
    assert!(check(&World::default(), &pods, &log).is_ok());
}
