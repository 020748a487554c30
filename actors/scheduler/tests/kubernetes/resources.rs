//! NodeResourcesFit, NodeResourcesBalancedAllocation, and how a pod's requests are computed.

use crate::{Case, Object, node, pod};
use serde_json::{Value, json};

/// The pod, the nodes, the pods that run, and the score of each node.
type Asked = (Object, Vec<Object>, Vec<Object>, [i64; 2]);

fn sized(name: &str, cpu_milli: i64, memory: i64) -> Object {
    node(name).with(json!({"status": {"allocatable": {"cpu": format!("{cpu_milli}m"), "memory": memory.to_string()}}}))
}

fn containers(list: &[(i64, i64)]) -> Value {
    let containers: Vec<Value> = list
        .iter()
        .enumerate()
        .map(|(at, (cpu, memory))| {
            json!({"name": format!("c{at}"), "resources": {"requests": {"cpu": format!("{cpu}m"), "memory": memory.to_string()}}})
        })
        .collect();
    json!({"spec": {"containers": containers}})
}

/// The pods of Kubernetes' tables: 3000 milli-cpu in two containers, without and with 5000 bytes.
fn cpu_only() -> Object {
    pod("p").with(containers(&[(1000, 0), (2000, 0)]))
}

fn cpu_and_memory() -> Object {
    pod("p").with(containers(&[(1000, 2000), (2000, 3000)]))
}

#[test]
fn least_allocated_scores() {
    let weighted = "{name: NodeResourcesFit, args: {scoringStrategy: {type: LeastAllocated, resources: \
                    [{name: memory, weight: 2}, {name: cpu, weight: 1}]}}}";
    let table: Vec<(&str, &str, Asked)> = vec![
        (
            "nothing scheduled, nothing requested",
            "",
            (
                pod("p"),
                vec![sized("n1", 4000, 10_000), sized("n2", 4000, 10_000)],
                vec![],
                [100, 100],
            ),
        ),
        (
            "resources requested, differently sized nodes",
            "",
            (
                cpu_and_memory(),
                vec![sized("n1", 4000, 10_000), sized("n2", 6000, 10_000)],
                vec![],
                [37, 50],
            ),
        ),
        (
            "nothing requested, pods with resources",
            "",
            (
                pod("p"),
                vec![sized("n1", 10_000, 20_000), sized("n2", 10_000, 20_000)],
                vec![
                    cpu_only().on("n1"),
                    cpu_only().on("n1"),
                    cpu_only().on("n2"),
                    cpu_and_memory().on("n2"),
                ],
                [70, 57],
            ),
        ),
        (
            "resources requested, pods with resources",
            "",
            (
                cpu_and_memory(),
                vec![sized("n1", 10_000, 20_000), sized("n2", 10_000, 20_000)],
                vec![cpu_only().on("n1"), cpu_and_memory().on("n2")],
                [57, 45],
            ),
        ),
        (
            "the same, differently sized nodes",
            "",
            (
                cpu_and_memory(),
                vec![sized("n1", 10_000, 20_000), sized("n2", 10_000, 50_000)],
                vec![cpu_only().on("n1"), cpu_and_memory().on("n2")],
                [57, 60],
            ),
        ),
        (
            "memory counts twice",
            weighted,
            (
                cpu_and_memory(),
                vec![sized("n1", 4000, 10_000), sized("n2", 6000, 10_000)],
                vec![],
                [41, 50],
            ),
        ),
    ];
    for (what, config, (pod, nodes, running, want)) in table {
        let mut case = Case::configured(config, nodes).running(running);
        assert_eq!(case.scores(&pod, "NodeResourcesFit"), want, "{what}");
    }
}

#[test]
fn most_allocated_scores() {
    let config = |resources: &str| {
        format!("{{name: NodeResourcesFit, args: {{scoringStrategy: {{type: MostAllocated{resources}}}}}}}")
    };
    let weighted = ", resources: [{name: memory, weight: 2}, {name: cpu, weight: 1}]";
    let table: Vec<(&str, Asked)> = vec![
        (
            "",
            (
                pod("p"),
                vec![sized("n1", 4000, 10_000), sized("n2", 4000, 10_000)],
                vec![],
                [0, 0],
            ),
        ),
        (
            "",
            (
                cpu_and_memory(),
                vec![sized("n1", 4000, 10_000), sized("n2", 6000, 10_000)],
                vec![],
                [62, 50],
            ),
        ),
        (
            "",
            (
                pod("p"),
                vec![sized("n1", 10_000, 20_000), sized("n2", 10_000, 20_000)],
                vec![
                    cpu_only().on("n1"),
                    cpu_only().on("n1"),
                    cpu_only().on("n2"),
                    cpu_and_memory().on("n2"),
                ],
                [30, 42],
            ),
        ),
        (
            "",
            (
                cpu_and_memory(),
                vec![sized("n1", 10_000, 20_000), sized("n2", 10_000, 20_000)],
                vec![cpu_only().on("n1"), cpu_and_memory().on("n2")],
                [42, 55],
            ),
        ),
        (
            weighted,
            (
                cpu_and_memory(),
                vec![sized("n1", 4000, 10_000), sized("n2", 6000, 10_000)],
                vec![],
                [58, 50],
            ),
        ),
    ];
    for (at, (resources, (pod, nodes, running, want))) in table.into_iter().enumerate() {
        let mut case = Case::configured(&config(resources), nodes).running(running);
        assert_eq!(case.scores(&pod, "NodeResourcesFit"), want, "case {at}");
    }
}

#[test]
fn requested_to_capacity_ratio_follows_its_shape() {
    let config = |shape: &str, resources: &str| {
        format!(
            "{{name: NodeResourcesFit, args: {{scoringStrategy: {{type: RequestedToCapacityRatio, resources: [{resources}], \
             requestedToCapacityRatio: {{shape: [{shape}]}}}}}}}}"
        )
    };
    let least = config(
        "{utilization: 0, score: 10}, {utilization: 100, score: 0}",
        "{name: memory, weight: 1}, {name: cpu, weight: 1}",
    );
    for (pod, nodes, running, want) in [
        (
            pod("p"),
            vec![sized("n1", 4000, 10_000), sized("n2", 4000, 10_000)],
            vec![],
            [100, 100],
        ),
        (
            cpu_and_memory(),
            vec![sized("n1", 4000, 10_000), sized("n2", 6000, 10_000)],
            vec![],
            [38, 50],
        ),
        (
            pod("p"),
            vec![sized("n1", 4000, 10_000), sized("n2", 6000, 10_000)],
            vec![cpu_and_memory().on("n1"), cpu_and_memory().on("n2")],
            [38, 50],
        ),
    ] {
        assert_eq!(
            Case::configured(&least, nodes)
                .running(running)
                .scores(&pod, "NodeResourcesFit"),
            want
        );
    }
    // Bin packing of an extended resource.
    let foo = |name: &str, count: i64| {
        node(name).with(json!({"status": {"allocatable": {"intel.com/foo": count.to_string()}}}))
    };
    let asks = |count: i64| {
        pod("p").with(json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"intel.com/foo": count.to_string()}}}]}}))
    };
    let packing = config(
        "{utilization: 0, score: 0}, {utilization: 100, score: 10}",
        "{name: intel.com/foo, weight: 1}",
    );
    for (pod, running, want) in [
        (pod("p"), vec![], [0, 0]),
        (asks(2), vec![], [25, 50]),
        (asks(2), vec![asks(2).on("n2")], [25, 100]),
        (asks(4), vec![], [50, 100]),
    ] {
        let mut case = Case::configured(&packing, [foo("n1", 8), foo("n2", 4)]).running(running);
        assert_eq!(case.scores(&pod, "NodeResourcesFit"), want);
    }
    // A broken line with a plateau: 0 at 0 %, 5 at 50 %, 10 at 100 %.
    let broken = config(
        "{utilization: 0, score: 0}, {utilization: 50, score: 10}, {utilization: 100, score: 10}",
        "{name: intel.com/foo, weight: 1}",
    );
    let mut case = Case::configured(&broken, [foo("n1", 8), foo("n2", 4)]);
    assert_eq!(case.scores(&asks(2), "NodeResourcesFit"), [50, 100]);
}

#[test]
fn balanced_allocation_scores() {
    let table: Vec<Asked> = vec![
        (
            cpu_and_memory(),
            vec![sized("n1", 4000, 10_000), sized("n2", 6000, 10_000)],
            vec![],
            [87, 100],
        ),
        (
            cpu_and_memory(),
            vec![sized("n1", 10_000, 20_000), sized("n2", 10_000, 20_000)],
            vec![cpu_only().on("n1"), cpu_and_memory().on("n2")],
            [82, 95],
        ),
        (
            cpu_and_memory(),
            vec![sized("n1", 10_000, 20_000), sized("n2", 10_000, 50_000)],
            vec![cpu_only().on("n1"), cpu_and_memory().on("n2")],
            [82, 80],
        ),
    ];
    for (at, (pod, nodes, running, want)) in table.into_iter().enumerate() {
        let mut case = Case::new(nodes).running(running);
        assert_eq!(case.scores(&pod, "NodeResourcesBalancedAllocation"), want, "case {at}");
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let ten = |name: &str| {
        node(name).with(
            json!({"status": {"allocatable": {"cpu": "10m", "memory": "20", "pods": "32", "ephemeral-storage": "20",
            "example.com/aaa": "5", "hugepages-2Mi": "5"}}}),
        )
    };
    let asks = |list: &[(i64, i64)]| pod("p").with(containers(list));
    let init = |cpu: i64, memory: i64| {
        json!({"spec": {"initContainers": [{"name": "i", "resources": {"requests":
        {"cpu": format!("{cpu}m"), "memory": memory.to_string()}}}]}})
    };
    let extended = |name: &str, amount: i64| json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {name: amount.to_string()}}}]}});
    let table: Vec<(&str, Object, Vec<Object>, Option<&str>)> = vec![
        (
            "no resources requested always fits",
            pod("p"),
            vec![asks(&[(10, 20)])],
            None,
        ),
        (
            "too many resources fails",
            asks(&[(1, 1)]),
            vec![asks(&[(10, 20)])],
            Some("1 Insufficient cpu, 1 Insufficient memory"),
        ),
        (
            "too many resources fails due to init container cpu",
            asks(&[(1, 1)]).with(init(3, 1)),
            vec![asks(&[(8, 19)])],
            Some("1 Insufficient cpu"),
        ),
        (
            "too many resources fails due to init container memory",
            asks(&[(1, 1)]).with(init(1, 3)),
            vec![asks(&[(9, 19)])],
            Some("1 Insufficient memory"),
        ),
        (
            "init container fits because it's the max, not sum, of containers and init containers",
            asks(&[(1, 1)]).with(init(1, 1)),
            vec![asks(&[(9, 19)])],
            None,
        ),
        ("both resources fit", asks(&[(1, 1)]), vec![asks(&[(5, 5)])], None),
        (
            "one resource memory fits",
            asks(&[(2, 1)]),
            vec![asks(&[(9, 5)])],
            Some("1 Insufficient cpu"),
        ),
        (
            "one resource cpu fits",
            asks(&[(1, 2)]),
            vec![asks(&[(5, 19)])],
            Some("1 Insufficient memory"),
        ),
        ("equal edge case", asks(&[(5, 1)]), vec![asks(&[(5, 19)])], None),
        (
            "extended resource fits",
            pod("p").with(extended("example.com/aaa", 5)),
            vec![],
            None,
        ),
        (
            "extended resource capacity enforced",
            pod("p").with(extended("example.com/aaa", 10)),
            vec![],
            Some("1 Insufficient example.com/aaa"),
        ),
        (
            "extended resource allocatable enforced",
            pod("p").with(extended("example.com/aaa", 1)),
            vec![pod("q").with(extended("example.com/aaa", 5))],
            Some("1 Insufficient example.com/aaa"),
        ),
        (
            "extended resource unknown to the node",
            pod("p").with(extended("example.com/bbb", 1)),
            vec![],
            Some("1 Insufficient example.com/bbb"),
        ),
        (
            "hugepages resource capacity enforced",
            pod("p").with(extended("hugepages-2Mi", 10)),
            vec![],
            Some("1 Insufficient hugepages-2Mi"),
        ),
        (
            "ephemeral local storage request exceeds allocatable",
            pod("p").with(extended("ephemeral-storage", 25)),
            vec![],
            Some("1 Insufficient ephemeral-storage"),
        ),
        (
            "requests + overhead fits",
            asks(&[(1, 1)]).with(json!({"spec": {"overhead": {"cpu": "3m", "memory": "13"}}})),
            vec![asks(&[(5, 5)])],
            None,
        ),
        (
            "requests + overhead does not fit for memory",
            asks(&[(1, 1)]).with(json!({"spec": {"overhead": {"cpu": "1m", "memory": "15"}}})),
            vec![asks(&[(5, 5)])],
            Some("1 Insufficient memory"),
        ),
    ];
    for (what, pod, running, refused) in table {
        let mut case = Case::new([ten("n1")]).running(running.into_iter().map(|pod| pod.on("n1")));
        match refused {
            None => assert_eq!(case.feasible(&pod), ["n1"], "{what}"),
            Some(words) => {
                let message = case.refused(&pod).message();
                assert!(
                    message.starts_with(&format!("0/1 nodes are available: {words}. ")),
                    "{what}: {message}"
                );
            }
        }
    }
}

#[test]
fn the_number_of_pods_is_limited() {
    let small = node("n1").with(json!({"status": {"allocatable": {"cpu": "10m", "memory": "20", "pods": "1"}}}));
    for (asks, words) in [
        (pod("p").with(containers(&[(1, 1)])), "1 Too many pods"),
        (
            pod("p").with(containers(&[(6, 1)])),
            "1 Insufficient cpu, 1 Too many pods",
        ),
    ] {
        let mut case = Case::new([small.clone()]).running([pod("q").with(containers(&[(5, 5)])).on("n1")]);
        let message = case.refused(&asks).message();
        assert!(
            message.starts_with(&format!("0/1 nodes are available: {words}.")),
            "{message}"
        );
    }
}

#[test]
fn sidecars_run_beside_the_containers_and_before_later_init_containers() {
    // (init containers with "sidecar", containers, what is requested in all)
    let init = |name: &str, cpu: i64, sidecar: bool| {
        let mut container = json!({"name": name, "resources": {"requests": {"cpu": format!("{cpu}m")}}});
        if sidecar {
            container["restartPolicy"] = json!("Always");
        }
        container
    };
    for (inits, main, want) in [
        (vec![init("a", 5, false)], 2, 5),
        (vec![init("a", 5, true)], 2, 7),
        // The init container after the sidecar runs beside it.
        (vec![init("a", 5, true), init("b", 4, false)], 2, 9),
        // The one before does not.
        (vec![init("b", 6, false), init("a", 1, true)], 2, 6),
    ] {
        let asks = pod("p")
            .with(containers(&[(main, 0)]))
            .with(json!({"spec": {"initContainers": inits}}));
        for (capacity, fits) in [(want, true), (want - 1, false)] {
            let mut case = Case::new([sized("n1", capacity, 100)]);
            assert_eq!(!case.feasible(&asks).is_empty(), fits, "{inits:?} {capacity}");
        }
    }
}

#[test]
fn requests_of_the_whole_pod_replace_those_of_its_containers() {
    let asks = pod("p")
        .with(containers(&[(1, 1), (2, 2)]))
        .with(json!({"spec": {"resources": {"requests": {"cpu": "7m"}}}}));
    for (cpu, fits) in [(7, true), (6, false)] {
        assert_eq!(!Case::new([sized("n1", cpu, 3)]).feasible(&asks).is_empty(), fits);
    }
}
