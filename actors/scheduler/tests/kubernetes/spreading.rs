//! PodTopologySpread: filtering by skew, and scoring.

use crate::{Case, Object, node, pod};
use serde_json::{Value, json};

fn in_zone(name: &str, zone: &str) -> Object {
    let mut labels = json!({"node": name, "kubernetes.io/hostname": name});
    if !zone.is_empty() {
        labels["zone"] = json!(zone);
    }
    node(name).labelled(labels)
}

fn foo(name: &str) -> Object {
    pod(name).labelled(json!({"foo": "x"}))
}

fn constraint(skew: i32, key: &str, when: &str, over: Value) -> Value {
    let mut constraint = json!({"maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": when,
        "labelSelector": {"matchExpressions": [{"key": "foo", "operator": "Exists"}]}});
    over.as_object()
        .expect("an object")
        .iter()
        .for_each(|(key, value)| constraint[key] = value.clone());
    constraint
}

fn hard(skew: i32, key: &str) -> Value {
    constraint(skew, key, "DoNotSchedule", json!({}))
}

fn soft(skew: i32, key: &str) -> Value {
    constraint(skew, key, "ScheduleAnyway", json!({}))
}

fn spread(constraints: &[Value]) -> Object {
    foo("p").with(json!({"spec": {"topologySpreadConstraints": constraints}}))
}

/// So many matching pods on each node.
fn pods(counts: &[(&str, usize)]) -> Vec<Object> {
    counts
        .iter()
        .flat_map(|(node, count)| (0..*count).map(|_| foo("x").on(node)))
        .collect()
}

fn four() -> Vec<Object> {
    vec![
        in_zone("node-a", "zone1"),
        in_zone("node-b", "zone1"),
        in_zone("node-x", "zone2"),
        in_zone("node-y", "zone2"),
    ]
}

#[test]
fn skew_filters_nodes() {
    for (what, pod, nodes, running, want) in [
        (
            "no existing pods",
            spread(&[hard(1, "zone")]),
            four(),
            vec![],
            vec!["node-a", "node-b", "node-x", "node-y"],
        ),
        (
            "pods spread across zones as 3/3",
            spread(&[hard(1, "zone")]),
            four(),
            pods(&[("node-a", 2), ("node-b", 1), ("node-y", 3)]),
            vec!["node-a", "node-b", "node-x", "node-y"],
        ),
        (
            "pods spread across zones as 1/2",
            spread(&[hard(1, "zone")]),
            four(),
            pods(&[("node-a", 1), ("node-x", 1), ("node-y", 1)]),
            vec!["node-a", "node-b"],
        ),
        (
            "pods spread across nodes as 2/1/0/3",
            spread(&[hard(1, "node")]),
            four(),
            pods(&[("node-a", 2), ("node-b", 1), ("node-y", 3)]),
            vec!["node-x"],
        ),
        (
            "the same with skew 2",
            spread(&[hard(2, "node")]),
            four(),
            pods(&[("node-a", 2), ("node-b", 1), ("node-y", 3)]),
            vec!["node-b", "node-x"],
        ),
        (
            "two constraints, zone and node: 5/4 and 2/1/0/3 do not meet",
            spread(&[hard(1, "zone"), hard(1, "node")]),
            four(),
            pods(&[("node-a", 2), ("node-b", 1), ("node-y", 3)]),
            vec!["node-x"],
        ),
        (
            "two constraints that no node meets",
            spread(&[hard(1, "zone"), hard(1, "node")]),
            four(),
            pods(&[("node-a", 1), ("node-x", 2), ("node-y", 1)]),
            vec!["node-b"],
        ),
        (
            "the pod does not match its own constraint, so the skew does not grow",
            pod("p")
                .labelled(json!({"bar": "x"}))
                .with(json!({"spec": {"topologySpreadConstraints": [hard(1, "zone")]}})),
            four(),
            pods(&[("node-a", 1), ("node-x", 2)]),
            vec!["node-a", "node-b", "node-x", "node-y"],
        ),
        (
            "a node without the label is no candidate",
            spread(&[hard(1, "zone")]),
            vec![in_zone("node-a", "zone1"), in_zone("node-n", "")],
            vec![],
            vec!["node-a"],
        ),
    ] {
        assert_eq!(Case::new(nodes).running(running).feasible(&pod), want, "{what}");
    }
}

#[test]
fn too_few_domains_count_as_an_empty_one() {
    let with = |domains: i32| spread(&[constraint(1, "zone", "DoNotSchedule", json!({"minDomains": domains}))]);
    for (domains, running, fits) in [
        (1, pods(&[("node-a", 1), ("node-x", 1)]), true),
        (2, pods(&[("node-a", 1), ("node-x", 1)]), true),
        (3, pods(&[("node-a", 1), ("node-x", 1)]), false),
        (3, vec![], true),
    ] {
        assert_eq!(
            !Case::new(four()).running(running).feasible(&with(domains)).is_empty(),
            fits,
            "{domains}"
        );
    }
}

#[test]
fn inclusion_policies_say_which_nodes_count() {
    let tainted = |name: &str, zone: &str| {
        in_zone(name, zone).with(json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}))
    };
    let nodes = || {
        vec![
            in_zone("node-a", "zone1"),
            in_zone("node-b", "zone1"),
            in_zone("node-x", "zone2"),
            tainted("node-y", "zone3"),
        ]
    };
    let running = || pods(&[("node-a", 1), ("node-x", 1)]);
    let with = |over: Value| spread(&[constraint(1, "zone", "DoNotSchedule", over)]);
    // The tainted, empty zone counts unless taints are honored.
    assert!(
        Case::new(nodes())
            .running(running())
            .feasible(&with(json!({})))
            .is_empty()
    );
    assert_eq!(
        Case::new(nodes())
            .running(running())
            .feasible(&with(json!({"nodeTaintsPolicy": "Honor"}))),
        ["node-a", "node-b", "node-x"]
    );
    // Zones outside of the pod's node selector do not count unless affinity is ignored.
    let selector = json!({"spec": {"nodeSelector": {"zone": "zone1"}}});
    let honoring = with(json!({})).with(selector.clone());
    assert_eq!(
        Case::new(nodes()).running(running()).feasible(&honoring),
        ["node-a", "node-b"]
    );
    let ignoring = with(json!({"nodeAffinityPolicy": "Ignore"})).with(selector);
    assert!(Case::new(nodes()).running(running()).feasible(&ignoring).is_empty());
}

#[test]
fn label_keys_count_each_revision_alone() {
    let revision = |pod: Object, hash: &str| pod.labelled(json!({"hash": hash}));
    let with = spread(&[constraint(
        1,
        "zone",
        "DoNotSchedule",
        json!({"matchLabelKeys": ["hash"]}),
    )]);
    let running = || pods(&[("node-a", 2)]).into_iter().map(|pod| revision(pod, "1"));
    assert_eq!(
        Case::new(four())
            .running(running())
            .feasible(&revision(with.clone(), "1")),
        ["node-x", "node-y"]
    );
    assert_eq!(
        Case::new(four())
            .running(running())
            .feasible(&revision(with, "2"))
            .len(),
        4
    );
}

#[test]
fn soft_constraints_score_by_weighted_counts() {
    let hosts = || ["node-a", "node-b", "node-c", "node-d"].map(|name| in_zone(name, "zone1"));
    for (what, pod, nodes, running, want) in [
        (
            "no existing pods",
            spread(&[soft(1, "kubernetes.io/hostname")]),
            hosts().to_vec(),
            vec![],
            vec![100, 100, 100, 100],
        ),
        // ln(4 + 2) = 1.79: 4, 2, 0 and 5 points.
        (
            "2/1/0/3 on hosts",
            spread(&[soft(1, "kubernetes.io/hostname")]),
            hosts().to_vec(),
            pods(&[("node-a", 2), ("node-b", 1), ("node-d", 3)]),
            vec![20, 60, 100, 0],
        ),
        // The skew waters differences down: 5, 3, 1 and 6 points more evenly.
        (
            "the same with skew 2",
            spread(&[soft(2, "kubernetes.io/hostname")]),
            hosts().to_vec(),
            pods(&[("node-a", 2), ("node-b", 1), ("node-d", 3)]),
            vec![33, 66, 100, 16],
        ),
        // ln(2 + 2) = 1.39: zone1 has 3 * 1.39 = 4, zone2 1 * 1.39 = 1.
        (
            "3/1 in zones",
            spread(&[soft(1, "zone")]),
            four(),
            pods(&[("node-a", 2), ("node-b", 1), ("node-x", 1)]),
            vec![25, 25, 100, 100],
        ),
        (
            "a node without the label gets nothing",
            spread(&[soft(1, "zone")]),
            vec![
                in_zone("node-a", "zone1"),
                in_zone("node-n", ""),
                in_zone("node-x", "zone2"),
            ],
            pods(&[("node-a", 1)]),
            vec![0, 0, 100],
        ),
    ] {
        assert_eq!(
            Case::new(nodes).running(running).scores(&pod, "PodTopologySpread"),
            want,
            "{what}"
        );
    }
}

#[test]
fn defaults_of_the_system_spread_a_service_over_hosts_and_zones() {
    let labelled = |name: &str, zone: &str| {
        let mut labels = json!({"kubernetes.io/hostname": name});
        if !zone.is_empty() {
            labels["topology.kubernetes.io/zone"] = json!(zone);
        }
        node(name).labelled(labels)
    };
    let service = json!({"metadata": {"name": "s", "namespace": "default"}, "spec": {"selector": {"foo": "x"}}});
    let score = |nodes: Vec<Object>, running: Vec<Object>| {
        let mut case = Case::new(nodes).running(running);
        case.scheduler()
            .upsert_service(&serde_json::from_value(service.clone()).expect("well-formed"));
        case.scores(&foo("p"), "PodTopologySpread")
    };
    // Hosts weigh ln 4 = 1.39 with 2 on top, zones ln 4 with 4 on top: 8.77 and 6, rounded 9 and 6.
    assert_eq!(
        score(vec![labelled("a", "z1"), labelled("b", "z2")], pods(&[("a", 1)])),
        [66, 100]
    );
    // A node without a zone takes part, and makes one more domain: hosts ln 5 = 1.61, zones ln 5: a 2 + 4 + 3.22 = 9, b 6, c 2.
    assert_eq!(
        score(
            vec![labelled("a", "z1"), labelled("b", "z2"), labelled("c", "")],
            pods(&[("a", 1)])
        ),
        [22, 55, 100]
    );
}
