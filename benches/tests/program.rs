//! The program itself: its files, its exit codes, and what it says about mistakes.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn scheduling(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_scheduling"))
        .args(arguments)
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

#[test]
fn every_form_of_the_results_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name| path(folder.path(), name);
    let output = scheduling(&[
        "--small",
        "--workload",
        "SchedulingBasic",
        "--repeat",
        "2",
        "--json",
        &file("a.json"),
        "--csv",
        &file("a.csv"),
        "--markdown",
        &file("a.md"),
        "--plot",
        &file("a.svg"),
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("seconds (core): the scheduler's time from the first measured pod"));
    let results: Value = serde_json::from_slice(&std::fs::read(folder.path().join("a.json")).unwrap()).unwrap();
    let results = results.as_array().expect("a list");
    assert_eq!(results.len(), 4, "two cases, two runs of each");
    for field in [
        "workload",
        "case",
        "depth",
        "timed_section",
        "decision_latency_of",
        "digest",
    ] {
        assert!(results[0][field].is_string(), "{field}: {}", results[0]);
    }
    for field in [
        "nodes",
        "pods",
        "seconds",
        "pods_per_s",
        "rss_bytes_max",
        "bound",
        "seed",
        "cpu_seconds",
    ] {
        assert!(results[0][field].is_number(), "{field}: {}", results[0]);
    }
    for field in ["p50", "p90", "p99", "max"] {
        assert!(
            results[0]["decision_latency_us"][field].is_number(),
            "{field}: {}",
            results[0]
        );
    }
    assert!(results[0]["rss_bytes_max"].as_u64().unwrap() > 1 << 20);
    assert_eq!(
        results[0]["pods_per_s_by_second"],
        Value::Null,
        "the run was shorter than 3 s"
    );
    for (name, words) in [
        ("a.csv", "workload,case,"),
        ("a.md", "| SchedulingBasic |"),
        ("a.svg", "<svg"),
    ] {
        assert!(
            std::fs::read_to_string(folder.path().join(name))
                .unwrap()
                .contains(words),
            "{name}"
        );
    }
}

#[test]
fn mistakes_are_answered_with_words_and_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let broken = path(folder.path(), "broken.yaml");
    std::fs::write(
        &broken,
        "workloads:\n- name: A\n  steps:\n  - {opcode: createNodez}\n  cases: []\n",
    )
    .unwrap();
    for (arguments, words) in [
        (
            vec!["--workload", "SchedulingBasics"],
            "near names are SchedulingBasic,",
        ),
        (
            vec!["--workload", "SchedulingBasic", "--case", "x"],
            "it has 5000Nodes_10000Pods",
        ),
        (vec!["--file", &broken], "broken.yaml:4:"),
        (vec!["--file", "/nonexistent.yaml"], "/nonexistent.yaml cannot be read"),
        (vec![], "name a `--workload`"),
    ] {
        let output = scheduling(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            text(&output.stderr).contains(words),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
    }
}

#[test]
fn a_case_that_fails_is_shown_and_fails_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let file = path(folder.path(), "own.yaml");
    let own = "
workloads:
- name: Own
  steps:
  - {opcode: createNodes, count: 1, template: node-default}
  - {opcode: createPods, count: $pods, template: pod-default, collectMetrics: true}
  cases:
  - {name: fits, params: {pods: 40}}
  - {name: does-not, params: {pods: 41}}
  - {name: too-slow, params: {pods: 1}, bounds: {seconds: 0.0}}
";
    std::fs::write(&file, own).unwrap();
    let json = path(folder.path(), "a.json");
    let output = scheduling(&["--file", &file, "--json", &json]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let results: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(results[0]["failure"], Value::Null);
    let failure = results[1]["failure"].as_str().unwrap_or_default();
    assert!(
        failure.contains("1 of its pods are not bound") && failure.contains("Insufficient cpu"),
        "{failure}"
    );
    let failure = results[2]["failure"].as_str().unwrap_or_default();
    assert!(failure.contains("the case allows 0 s"), "{failure}");
}

#[test]
fn the_list_names_every_case_with_its_size() {
    let output = scheduling(&["--list"]);
    let list = text(&output.stdout);
    assert!(
        list.contains("  5000Nodes_10000Pods: 5000 nodes, 1000 pods before, 10000 measured, threshold 680 pods/s"),
        "{list}"
    );
}

#[cfg(feature = "store")]
#[test]
fn pods_are_bound_through_the_store_by_one_voter_and_by_three() {
    let folder = tempfile::tempdir().unwrap();
    let json = path(folder.path(), "a.json");
    for voters in ["1", "3"] {
        let output = scheduling(&[
            "--small",
            "--workload",
            "SchedulingPodAntiAffinity",
            "--depth",
            "store",
            "--voters",
            voters,
            "--json",
            &json,
        ]);
        assert!(
            output.status.success(),
            "{voters}: {} {}",
            text(&output.stdout),
            text(&output.stderr)
        );
        let results: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        assert_eq!(
            (&results[0]["bound"], &results[0]["depth"]),
            (&4.into(), &"store".into())
        );
    }
}
