//! Every workload parses, is sized as scheduler_perf's, and in its small size ends as it should, the same way every time.

use benches::catalog::{Catalog, Selected};
use benches::run::{RunOptions, core};
use benches::workload::Sizes;

/// Workload, case, nodes, init pods, measured pods, threshold.
type Row = (&'static str, &'static str, u64, u64, u64, Option<f64>);

/// The rows of `scheduler_perf.tsv`, but those of dynamic resources and composite pod groups.
const ROWS: &[Row] = &[
    ("SchedulingBasic", "5000Nodes_10000Pods", 5000, 1000, 10000, Some(680.0)),
    ("SchedulingBasic", "5000Nodes_50000Pods", 5000, 5000, 50000, Some(810.0)),
    // The node that all pods name is one more.
    ("SchedulingDaemonset", "15000Nodes", 15001, 0, 30000, Some(1100.0)),
    (
        "SchedulingWithMixedChurn",
        "5000Nodes_10000Pods",
        5000,
        0,
        10000,
        Some(710.0),
    ),
    (
        "SchedulingWhileGated",
        "1Node_10000GatedPods",
        1,
        30000,
        20000,
        Some(910.0),
    ),
    (
        "SchedulingDeletedPodsWithFinalizers",
        "5000Node_5000DeletingPods",
        5000,
        5000,
        5000,
        Some(830.0),
    ),
    (
        "SchedulingWithExtendedResource",
        "5000pods_5000nodes",
        5000,
        0,
        5000,
        Some(180.0),
    ),
    ("PreemptionBasic", "1000Nodes", 1000, 4000, 1000, None),
    ("PreemptionAsync", "5000Nodes", 5000, 20000, 5000, Some(570.0)),
    (
        "Unschedulable",
        "5kNodes/100Init/10kPods",
        5000,
        100,
        10000,
        Some(590.0),
    ),
    (
        "Unschedulable",
        "5kNodes/20kInit/10kPods",
        5000,
        20000,
        10000,
        Some(600.0),
    ),
    (
        "SchedulingPodAntiAffinity",
        "5000Nodes_2000Pods",
        5000,
        1000,
        2000,
        Some(60.0),
    ),
    (
        "SchedulingPodMatchingAntiAffinity",
        "5000Nodes_5000Pods",
        5000,
        1000,
        5000,
        Some(595.0),
    ),
    (
        "SchedulingPodAffinity",
        "5000Nodes_5000Pods",
        5000,
        5000,
        5000,
        Some(35.0),
    ),
    (
        "SchedulingPreferredPodAffinity",
        "5000Nodes_5000Pods",
        5000,
        5000,
        5000,
        Some(90.0),
    ),
    (
        "SchedulingPreferredPodAntiAffinity",
        "5000Nodes_5000Pods",
        5000,
        5000,
        5000,
        Some(90.0),
    ),
    (
        "SchedulingNodeAffinity",
        "5000Nodes_10000Pods",
        5000,
        5000,
        10000,
        Some(220.0),
    ),
    (
        "MixedSchedulingBasePod",
        "5000Nodes_5000Pods",
        5000,
        10000,
        5000,
        Some(140.0),
    ),
    (
        "SchedulingRequiredPodAntiAffinityWithNSSelector",
        "5000Nodes_2000Pods",
        6000,
        4000,
        2000,
        Some(24.0),
    ),
    (
        "SchedulingPreferredAntiAffinityWithNSSelector",
        "5000Nodes_2000Pods",
        5000,
        4000,
        2000,
        Some(55.0),
    ),
    (
        "SchedulingRequiredPodAffinityWithNSSelector",
        "5000Nodes_2000Pods",
        5000,
        5000,
        2000,
        Some(35.0),
    ),
    (
        "SchedulingPreferredAffinityWithNSSelector",
        "5000Nodes_5000Pods",
        5000,
        5000,
        5000,
        Some(90.0),
    ),
    (
        "SchedulingGatedPodsWithPodAffinityImpactForThroughput",
        "1Node_10000GatedPods",
        1,
        10000,
        20000,
        Some(110.0),
    ),
    ("TopologySpreading", "5000Nodes_5000Pods", 5000, 5000, 5000, Some(460.0)),
    (
        "PreferredTopologySpreading",
        "5000Nodes_5000Pods",
        5000,
        5000,
        5000,
        Some(340.0),
    ),
    (
        "DefaultTopologySpreading",
        "5000Nodes_50000Pods",
        5000,
        5000,
        50000,
        Some(160.0),
    ),
    (
        "SchedulingWithNodeInclusionPolicy",
        "5000Nodes",
        5000,
        0,
        4000,
        Some(270.0),
    ),
    (
        "SchedulingSecrets",
        "5000Nodes_10000Pods",
        5000,
        1000,
        10000,
        Some(790.0),
    ),
    (
        "SchedulingInTreePVs",
        "5000Nodes_2000Pods",
        5000,
        1000,
        2000,
        Some(290.0),
    ),
    (
        "SchedulingMigratedInTreePVs",
        "5000Nodes_5000Pods",
        5000,
        5000,
        5000,
        Some(100.0),
    ),
    ("SchedulingCSIPVs", "5000Nodes_5000Pods", 5000, 5000, 5000, Some(100.0)),
    ("PreemptionPVs", "1000Nodes", 1000, 4000, 1000, None),
    // Two groups of 480 blockers; four kinds of 500 waiting pods, and two of 480 whose number is that of the blockers.
    ("EventHandlingPodDelete", "50Nodes_500Pods", 50, 960, 2960, None),
    // The one node, and one that is unschedulable and one with a taint. Six kinds of 1,000.
    ("EventHandlingPodUpdate", "1Node_1000Pods", 3, 1000, 6000, None),
    // Three times 100 nodes, and two on which nothing fits. Six kinds of 1,000.
    ("EventHandlingNodeAdd", "100Nodes_500Pods", 302, 0, 6000, None),
    ("HostPortConflict", "20000Nodes_20000Pods", 20000, 0, 20000, None),
    ("ResourceSaturation", "20000Nodes_20000Pods", 20000, 0, 20000, None),
    ("GangScheduling", "5000Nodes_1000Gangs_3000Pods", 5000, 0, 3000, None),
    ("GangScheduling", "5000Nodes_2000Gangs_6000Pods", 5000, 0, 6000, None),
    ("GangScheduling", "5000Nodes_3000Gangs_9000Pods", 5000, 0, 9000, None),
    ("GangScheduling", "5000Nodes_3Gangs_3000Pods", 5000, 0, 3000, None),
    ("GangScheduling", "5000Nodes_6Gangs_6000Pods", 5000, 0, 6000, None),
    ("GangScheduling", "5000Nodes_9Gangs_9000Pods", 5000, 0, 9000, None),
    // The peer's table gives the sizes of composite groups as a range; how pods are divided into groups is ours.
    ("CPGBasicScheduling", "5000Nodes_3000Pods", 5000, 0, 3000, None),
    ("CPGBasicScheduling", "5000Nodes_6000Pods", 5000, 0, 6000, None),
    ("CPGBasicScheduling", "5000Nodes_9000Pods", 5000, 0, 9000, None),
    ("CPGGangScheduling", "5000Nodes_3000Pods", 5000, 0, 3000, None),
    ("CPGGangScheduling", "5000Nodes_6000Pods", 5000, 0, 6000, None),
    ("CPGGangScheduling", "5000Nodes_9000Pods", 5000, 0, 9000, None),
    (
        "SchedulingWithResourceClaimTemplate",
        "5000pods_500nodes",
        500,
        2500,
        2500,
        Some(40.0),
    ),
];

fn one(workload: &str, case: &str) -> Selected {
    let catalog = Catalog::embedded().unwrap_or_else(|error| panic!("{error}"));
    catalog
        .select(workload, Some(case))
        .unwrap_or_else(|error| panic!("{error}"))
        .remove(0)
}

fn run(case: &Selected, options: &RunOptions) -> benches::run::outcome::CaseResult {
    core::run(case, options, &mut |_, _| {})
        .unwrap_or_else(|error| panic!("{} {}: {error}", case.workload.name, case.case.name))
}

#[test]
fn every_row_of_scheduler_perf_is_there_in_its_size() {
    for (workload, case, nodes, init_pods, measured_pods, threshold) in ROWS {
        let selected = one(workload, case);
        let expected = Sizes {
            nodes: *nodes,
            init_pods: *init_pods,
            measured_pods: *measured_pods,
        };
        assert_eq!(selected.sizes().unwrap(), expected, "{workload} {case}");
        assert_eq!(selected.case.threshold, *threshold, "{workload} {case}");
    }
}

#[test]
fn no_other_case_bears_a_workload_of_scheduler_perf() {
    let catalog = Catalog::embedded().unwrap();
    for selected in catalog.cases() {
        let own = ["Scale", "MillionPods"].contains(&selected.workload.name.as_str());
        let row = ROWS
            .iter()
            .any(|row| (row.0, row.1) == (&*selected.workload.name, &*selected.case.name));
        assert!(own || row, "{} {}", selected.workload.name, selected.case.name);
    }
}

#[test]
fn every_workload_ends_as_it_should_in_its_small_size() {
    let catalog = Catalog::embedded().unwrap();
    let mut done = std::collections::BTreeSet::new();
    for selected in catalog.cases() {
        if !done.insert(selected.workload.name.clone()) {
            continue;
        }
        let small = selected.clone().small();
        let result = run(&small, &RunOptions::default());
        assert_eq!(
            result.bound,
            small.sizes().unwrap().measured_pods,
            "{}",
            selected.workload.name
        );
    }
    assert!(done.len() > 35, "{}", done.len());
}

#[test]
fn decisions_are_the_same_for_one_thread_and_two_and_for_every_run_of_a_seed() {
    for (workload, case) in [
        ("SchedulingBasic", "5000Nodes_10000Pods"),
        ("PreemptionBasic", "1000Nodes"),
        ("MixedSchedulingBasePod", "5000Nodes_5000Pods"),
        ("EventHandlingPodDelete", "50Nodes_500Pods"),
        ("GangScheduling", "5000Nodes_3000Gangs_9000Pods"),
    ] {
        let case = one(workload, case).small();
        let options = |seed, threads| RunOptions {
            seed,
            threads,
            round: 4,
            ..RunOptions::default()
        };
        let first = run(&case, &options(7, 1)).digest;
        assert!(first.is_some());
        assert_eq!(run(&case, &options(7, 1)).digest, first, "{workload}: a second run");
        assert_eq!(run(&case, &options(7, 2)).digest, first, "{workload}: two threads");
    }
    // As many nodes as it takes for the work to be shared out among threads, and pods of which no two are alike.
    let mut case = one("SchedulingWithExtendedResource", "5000pods_5000nodes").small();
    case.case
        .params
        .extend([("nodes".to_owned(), 3000), ("measuredPods".to_owned(), 200)]);
    let digest = |threads| {
        let options = RunOptions {
            threads,
            ..RunOptions::default()
        };
        run(&case, &options).digest
    };
    assert_eq!(digest(1), digest(4), "four threads over 3,000 nodes");
    let case = one("SchedulingBasic", "5000Nodes_10000Pods").small();
    let digests: std::collections::BTreeSet<_> = (0..8)
        .map(|seed| {
            let options = RunOptions {
                seed,
                ..RunOptions::default()
            };
            run(&case, &options).digest
        })
        .collect();
    assert!(digests.len() > 1, "the seed decides between equally good nodes");
}

#[test]
fn what_does_not_fit_fails_the_case_and_says_why() {
    let text = "
workloads:
- name: TooMany
  steps:
  - {opcode: createNodes, count: 1, template: node-default}
  - {opcode: createPods, count: 50, template: pod-default, collectMetrics: true}
  cases: [{name: one}]
";
    let catalog = Catalog::from_text("own.yaml", text).unwrap();
    let case = catalog.select("TooMany", None).unwrap().remove(0);
    let error = core::run(&case, &RunOptions::default(), &mut |_, _| {})
        .unwrap_err()
        .to_string();
    assert!(error.contains("10 of its pods are not bound"), "{error}");
    assert!(
        error.contains("0/1 nodes are available: 1 Insufficient cpu."),
        "{error}"
    );
}
