//! Taints, node affinity, images, ports, preemption and the number of nodes that are looked at.

use crate::{Case, Object, node, pod};
use scheduler::{Decision, Preemption};
use serde_json::{Value, json};

fn tainted(name: &str, taints: Value) -> Object {
    node(name).with(json!({"spec": {"taints": taints}}))
}

fn taint(key: &str, value: &str, effect: &str) -> Value {
    json!({"key": key, "value": value, "effect": effect})
}

fn tolerating(tolerations: Value) -> Object {
    pod("p").with(json!({"spec": {"tolerations": tolerations}}))
}

#[test]
fn taint_toleration_scores() {
    const PREFER: &str = "PreferNoSchedule";
    let equal = |key: &str, value: &str, effect: &str| json!({"key": key, "operator": "Equal", "value": value, "effect": effect});
    for (what, pod, nodes, want) in [
        (
            "a node whose taints are tolerated is better than one whose are not",
            tolerating(json!([equal("foo", "bar", PREFER)])),
            vec![
                tainted("a", json!([taint("foo", "bar", PREFER)])),
                tainted("b", json!([taint("foo", "blah", PREFER)])),
            ],
            vec![100, 0],
        ),
        (
            "tolerated taints do not count, however many",
            tolerating(json!([
                equal("cpu-type", "arm64", PREFER),
                equal("disk-type", "ssd", PREFER)
            ])),
            vec![
                node("a"),
                tainted("b", json!([taint("cpu-type", "arm64", PREFER)])),
                tainted(
                    "c",
                    json!([taint("cpu-type", "arm64", PREFER), taint("disk-type", "ssd", PREFER)]),
                ),
            ],
            vec![100, 100, 100],
        ),
        (
            "the more intolerable taints, the lower",
            tolerating(json!([equal("foo", "bar", PREFER)])),
            vec![
                node("a"),
                tainted("b", json!([taint("cpu-type", "arm64", PREFER)])),
                tainted(
                    "c",
                    json!([taint("cpu-type", "arm64", PREFER), taint("disk-type", "ssd", PREFER)]),
                ),
            ],
            vec![100, 50, 0],
        ),
        (
            "only the effect PreferNoSchedule is looked at",
            tolerating(json!([
                equal("cpu-type", "arm64", "NoSchedule"),
                equal("disk-type", "ssd", "NoSchedule")
            ])),
            vec![
                node("a"),
                tainted("b", json!([taint("cpu-type", "arm64", "NoSchedule")])),
                tainted(
                    "c",
                    json!([taint("cpu-type", "arm64", PREFER), taint("disk-type", "ssd", PREFER)]),
                ),
            ],
            vec![100, 100, 0],
        ),
        (
            "without tolerations the untainted node is better",
            pod("p"),
            vec![node("a"), tainted("b", json!([taint("cpu-type", "arm64", PREFER)]))],
            vec![100, 0],
        ),
    ] {
        assert_eq!(Case::new(nodes).scores(&pod, "TaintToleration"), want, "{what}");
    }
}

#[test]
fn untolerated_taints_refuse_in_kubernetes_words() {
    for (tolerations, taints, fits) in [
        (json!([]), json!([taint("dedicated", "user1", "NoSchedule")]), false),
        (
            json!([{"key": "dedicated", "value": "user1", "effect": "NoSchedule"}]),
            json!([taint("dedicated", "user1", "NoSchedule")]),
            true,
        ),
        (
            json!([{"key": "dedicated", "operator": "Equal", "value": "user2", "effect": "NoSchedule"}]),
            json!([taint("dedicated", "user1", "NoSchedule")]),
            false,
        ),
        (
            json!([{"key": "foo", "operator": "Exists", "effect": "NoSchedule"}]),
            json!([taint("foo", "bar", "NoSchedule")]),
            true,
        ),
        (
            json!([{"key": "dedicated", "operator": "Equal", "value": "user2"}, {"key": "foo", "operator": "Exists"}]),
            json!([
                taint("dedicated", "user2", "NoSchedule"),
                taint("foo", "bar", "NoSchedule")
            ]),
            true,
        ),
        (
            json!([{"key": "foo", "operator": "Equal", "value": "bar", "effect": "PreferNoSchedule"}]),
            json!([taint("foo", "bar", "NoSchedule")]),
            false,
        ),
        (
            json!([{"key": "foo", "operator": "Equal", "value": "bar"}]),
            json!([taint("foo", "bar", "NoSchedule")]),
            true,
        ),
        (
            json!([]),
            json!([taint("dedicated", "user1", "PreferNoSchedule")]),
            true,
        ),
    ] {
        let mut case = Case::new([tainted("n1", taints.clone())]);
        assert_eq!(
            !case.feasible(&tolerating(tolerations.clone())).is_empty(),
            fits,
            "{tolerations} {taints}"
        );
    }
    let message = Case::new([tainted("n1", json!([taint("dedicated", "user1", "NoSchedule")]))])
        .refused(&pod("p"))
        .message();
    assert_eq!(
        message,
        "0/1 nodes are available: 1 node(s) had untolerated taint {dedicated: user1}. preemption: 0/1 nodes are available: 1 \
         Preemption is not helpful for scheduling."
    );
}

fn preferring(terms: Value) -> Object {
    pod("p").with(
        json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}}}}),
    )
}

fn expression(key: &str, value: &str) -> Value {
    json!({"key": key, "operator": "In", "values": [value]})
}

#[test]
fn node_affinity_scores() {
    let labels = [
        json!({"foo": "bar"}),
        json!({"key": "value"}),
        json!({"foo": "bar", "key": "value", "az": "az1"}),
    ];
    let nodes = || {
        labels
            .iter()
            .zip(["m1", "m2", "m5"])
            .map(|(labels, name)| node(name).labelled(labels.clone()))
    };
    let one = json!([{"weight": 2, "preference": {"matchExpressions": [expression("foo", "bar")]}}]);
    let three = json!([
        {"weight": 2, "preference": {"matchExpressions": [expression("foo", "bar")]}},
        {"weight": 4, "preference": {"matchExpressions": [expression("key", "value")]}},
        {"weight": 5, "preference": {"matchExpressions": [expression("foo", "bar"), expression("key", "value"), expression("az", "az1")]}}]);
    assert_eq!(
        Case::new(nodes()).scores(&preferring(one.clone()), "NodeAffinity"),
        [100, 0, 100]
    );
    assert_eq!(
        Case::new(nodes()).scores(&preferring(three), "NodeAffinity"),
        [18, 36, 100]
    );
    // What the profile adds counts with what the pod prefers.
    let added = "{name: NodeAffinity, args: {addedAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 2, \
                 preference: {matchExpressions: [{key: key, operator: In, values: [value]}]}}]}}}";
    assert_eq!(
        Case::configured(added, nodes()).scores(&pod("p"), "NodeAffinity"),
        [0, 100, 100]
    );
    assert_eq!(
        Case::configured(added, nodes()).scores(&preferring(one), "NodeAffinity"),
        [50, 50, 100]
    );
}

#[test]
fn match_fields_and_numbers_restrict_nodes() {
    let requiring = |terms: Value| {
        pod("p").with(
            json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": terms}}}}}),
        )
    };
    let nodes = || {
        [
            node("n1").labelled(json!({"kernel-version": "0204"})),
            node("n2").labelled(json!({"kernel-version": "0300"})),
        ]
    };
    let field = |operator: &str, values: Value| json!({"matchFields": [{"key": "metadata.name", "operator": operator, "values": values}]});
    let number = |operator: &str, value: &str| json!({"matchExpressions": [{"key": "kernel-version", "operator": operator, "values": [value]}]});
    for (terms, want) in [
        (json!([field("In", json!(["n1"]))]), vec!["n1"]),
        (json!([field("In", json!(["n1", "n2"]))]), vec!["n1", "n2"]),
        (json!([field("NotIn", json!(["n1"]))]), vec!["n2"]),
        (json!([field("In", json!(["n9"]))]), vec![]),
        (json!([number("Gt", "0204")]), vec!["n2"]),
        (json!([number("Gt", "203")]), vec!["n1", "n2"]),
        (json!([number("Lt", "0300")]), vec!["n1"]),
        (json!([number("Gt", "v1")]), vec![]),
        // Terms are alternatives; fields and expressions of one term hold together.
        (
            json!([field("In", json!(["n1"])), number("Gt", "0204")]),
            vec!["n1", "n2"],
        ),
        (
            json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}],
            "matchExpressions": [{"key": "kernel-version", "operator": "Gt", "values": ["0204"]}]}]),
            vec![],
        ),
    ] {
        assert_eq!(Case::new(nodes()).feasible(&requiring(terms.clone())), want, "{terms}");
    }
}

#[test]
fn image_locality_scores() {
    const MIB: i64 = 1024 * 1024;
    let images = |list: &[(&str, i64)]| {
        let images: Vec<Value> = list
            .iter()
            .map(|(name, mib)| json!({"names": [name], "sizeBytes": mib * MIB}))
            .collect();
        json!({"status": {"images": images}})
    };
    let first = || {
        node("m1").with(images(&[
            ("gcr.io/40:latest", 40),
            ("gcr.io/300:latest", 300),
            ("gcr.io/2000:latest", 2000),
        ]))
    };
    let second = || node("m2").with(images(&[("gcr.io/250:latest", 250), ("gcr.io/10:latest", 10)]));
    let running = |list: &[&str]| {
        let containers: Vec<Value> = list
            .iter()
            .enumerate()
            .map(|(at, image)| json!({"name": format!("c{at}"), "image": image}))
            .collect();
        pod("p").with(json!({"spec": {"containers": containers}}))
    };
    for (what, pod, nodes, want) in [
        (
            "two images spread on two nodes",
            running(&["gcr.io/40", "gcr.io/250"]),
            vec![first(), second()],
            vec![0, 5],
        ),
        (
            "two images on one node",
            running(&["gcr.io/40", "gcr.io/300"]),
            vec![first(), second()],
            vec![7, 0],
        ),
        (
            "a large image and a small one",
            running(&["gcr.io/10", "gcr.io/2000"]),
            vec![first(), second()],
            vec![49, 0],
        ),
        (
            "the same with a third node",
            running(&["gcr.io/10", "gcr.io/2000"]),
            vec![first(), second(), node("m3")],
            vec![32, 0, 0],
        ),
        (
            "more than the limit is the limit",
            running(&["gcr.io/2000"]),
            vec![first()],
            vec![100],
        ),
        (
            "an image volume counts as a container",
            running(&["gcr.io/40"]).with(json!({"spec": {"volumes": [{"name": "v",
            "image": {"reference": "gcr.io/300"}}]}})),
            vec![first(), second()],
            vec![7, 0],
        ),
    ] {
        assert_eq!(Case::new(nodes).scores(&pod, "ImageLocality"), want, "{what}");
    }
}

#[test]
fn host_ports_conflict_by_protocol_and_address() {
    let port = |ip: &str, protocol: &str, number: i32| json!({"containerPort": number, "hostPort": number, "protocol": protocol, "hostIP": ip});
    let with = |ports: Value| pod("p").with(json!({"spec": {"containers": [{"name": "c", "ports": ports}]}}));
    for (wanted, used, fits) in [
        (json!([]), json!([]), true),
        (
            json!([port("127.0.0.1", "UDP", 8080)]),
            json!([port("127.0.0.1", "UDP", 9090)]),
            true,
        ),
        (
            json!([port("127.0.0.1", "UDP", 8080)]),
            json!([port("127.0.0.1", "UDP", 8080)]),
            false,
        ),
        (
            json!([port("127.0.0.1", "TCP", 8080)]),
            json!([port("127.0.0.1", "UDP", 8080)]),
            true,
        ),
        (
            json!([port("127.0.0.1", "TCP", 8080)]),
            json!([port("127.0.0.2", "TCP", 8080)]),
            true,
        ),
        (
            json!([port("0.0.0.0", "TCP", 8001)]),
            json!([port("127.0.0.1", "TCP", 8001)]),
            false,
        ),
        (
            json!([port("127.0.0.1", "TCP", 8001)]),
            json!([port("0.0.0.0", "TCP", 8001)]),
            false,
        ),
        (
            json!([port("10.0.10.10", "TCP", 8001), port("0.0.0.0", "TCP", 8001)]),
            json!([port("127.0.0.1", "TCP", 8001)]),
            false,
        ),
        (
            json!([port("127.0.0.1", "TCP", 8001)]),
            json!([port("0.0.0.0", "UDP", 8001)]),
            true,
        ),
        (
            json!([port("127.0.0.1", "UDP", 8001), port("127.0.0.1", "UDP", 8080)]),
            json!([port("127.0.0.1", "UDP", 8080)]),
            false,
        ),
    ] {
        let mut case = Case::new([node("m1")]).running([with(used.clone()).on("m1")]);
        assert_eq!(
            !case.feasible(&with(wanted.clone())).is_empty(),
            fits,
            "{wanted} {used}"
        );
    }
}

fn sized(name: &str, cpu: i64, priority: i32) -> Object {
    pod(name).with(json!({"spec": {"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"cpu": format!("{cpu}m")}}}]}}))
}

fn nomination(decision: &Decision) -> (String, usize) {
    match decision {
        Decision::Unschedulable(why) => match &why.preemption {
            Preemption::Nominated { node, victims } => (node.to_string(), victims.len()),
            other => panic!("{other:?}: {}", why.message()),
        },
        Decision::Bind(binding) => panic!("{} was bound to {}", binding.pod, binding.node),
    }
}

#[test]
fn preemption_picks_the_node_with_least_harm() {
    let small = |name: &str| node(name).with(json!({"status": {"allocatable": {"cpu": "1000m"}}}));
    let started =
        |pod: Object, hour: u32| pod.with(json!({"status": {"startTime": format!("2026-01-01T{hour:02}:00:00Z")}}));
    for (what, pods, want) in [
        (
            "the least important of the highest victims",
            vec![
                sized("a", 1000, 5).on("n1"),
                sized("b", 1000, 3).on("n2"),
                sized("c", 1000, 4).on("n3"),
            ],
            "n2",
        ),
        (
            "then the smallest sum of priorities",
            vec![
                sized("a", 500, 5).on("n1"),
                sized("b", 500, 4).on("n1"),
                sized("c", 500, 5).on("n2"),
                sized("d", 500, 3).on("n2"),
                sized("e", 500, 5).on("n3"),
                sized("f", 500, 5).on("n3"),
            ],
            "n2",
        ),
        (
            "then the fewest victims, also where priorities are negative",
            vec![
                sized("a", 500, -5).on("n1"),
                sized("b", 500, -6).on("n1"),
                sized("c", 1000, -5).on("n2"),
                sized("d", 300, -5).on("n3"),
                sized("e", 300, -6).on("n3"),
                sized("f", 400, -7).on("n3"),
            ],
            "n2",
        ),
        (
            "then the latest start of the most important victim",
            vec![
                started(sized("a", 1000, 5).on("n1"), 3),
                started(sized("b", 1000, 5).on("n2"), 7),
                started(sized("c", 1000, 5).on("n3"), 5),
            ],
            "n2",
        ),
    ] {
        let mut case = Case::new([small("n1"), small("n2"), small("n3")]).running(pods);
        assert_eq!(nomination(&case.decide(&sized("high", 1000, 100))).0, want, "{what}");
    }
}

#[test]
fn preemption_evicts_no_more_than_it_must_and_minds_budgets() {
    let small = |name: &str| node(name).with(json!({"status": {"allocatable": {"cpu": "1000m"}}}));
    // The pods that fit again after the preemptor was put there stay, the most important first.
    let mut case = Case::new([small("n1")]).running([
        sized("a", 300, 1).on("n1"),
        sized("b", 300, 2).on("n1"),
        sized("c", 400, 3).on("n1"),
    ]);
    assert_eq!(nomination(&case.decide(&sized("high", 300, 100))), ("n1".to_owned(), 1));
    // Fewer violated budgets count more than priorities.
    let guarded = json!({"metadata": {"labels": {"app": "guarded"}}});
    let mut case = Case::new([small("n1"), small("n2")]).running([
        sized("a", 1000, 1).with(guarded).on("n1"),
        sized("b", 1000, 50).on("n2"),
    ]);
    let budget = json!({"metadata": {"name": "b", "namespace": "default"}, "spec": {"selector": {"matchLabels": {"app": "guarded"}}},
        "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
    case.scheduler()
        .upsert_budget(&serde_json::from_value(budget).expect("well-formed"));
    assert_eq!(nomination(&case.decide(&sized("high", 1000, 100))).0, "n2");
}

#[test]
fn as_many_nodes_are_looked_at_as_in_kubernetes() {
    // Kubernetes' TestNumFeasibleNodesToFind.
    for (percentage, nodes, want) in [
        (0, 10, 10),
        (40, 10, 10),
        (0, 1000, 420),
        (40, 1000, 400),
        (0, 6000, 300),
        (40, 6000, 2400),
    ] {
        let mut scheduler = scheduler::Scheduler::new(scheduler::SchedulerConfiguration {
            percentage_of_nodes_to_score: percentage,
            ..Default::default()
        });
        for at in 0..nodes {
            scheduler.upsert_node(&serde_json::from_value(node(&format!("n{at}")).0).expect("well-formed"));
        }
        scheduler.upsert_pod(&pod("p").pod());
        let decisions = scheduler.schedule_batch(0, 1);
        let [Decision::Bind(binding)] = &decisions[..] else {
            panic!("{decisions:?}")
        };
        assert_eq!(binding.feasible_nodes, want, "{percentage} % of {nodes}");
    }
}
