//! The synthetic trace of the crate, replayed: what must hold for every policy, and what is known of the simple ones.

use benches::replay::policy::{Choice, Ours, Policy, Simple};
use benches::replay::quality::Quality;
use benches::replay::{Machine, Task, Trace, alibaba, replay};
use std::path::Path;

fn synthetic() -> Trace {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces/synthetic");
    alibaba::read(&folder).unwrap_or_else(|error| panic!("{error}"))
}

fn policies(trace: &Trace, seed: u64) -> Vec<Box<dyn Policy + '_>> {
    vec![
        Box::new(Ours::least_allocated(trace, seed)),
        Box::new(Ours::most_allocated(trace, seed)),
        Box::new(Simple::new(trace, Choice::First, seed)),
        Box::new(Simple::new(trace, Choice::Best, seed)),
        Box::new(Simple::new(trace, Choice::Random, seed)),
    ]
}

#[test]
fn the_committed_trace_is_small() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces/synthetic");
    let sizes = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len());
    assert!(sizes.sum::<u64>() < 200_000);
}

#[test]
fn every_policy_accounts_for_every_task_and_overfills_nothing() {
    let trace = synthetic();
    for mut policy in policies(&trace, 1) {
        // The gauge stops the test if a machine is overfull or a task is placed twice.
        let quality = replay(&trace, policy.as_mut(), 600);
        let name = &quality.policy;
        assert_eq!(quality.tasks, trace.tasks.len() as u64, "{name}");
        assert!(
            quality.placed + quality.left_pending >= quality.tasks,
            "{name}: {quality:?}"
        );
        assert!(
            quality.cpu_mean > 0.0 && quality.cpu_mean <= quality.cpu_peak && quality.cpu_peak <= 1.0,
            "{name}"
        );
        assert!(
            quality.memory_mean <= quality.memory_peak && quality.memory_peak <= 1.0,
            "{name}"
        );
        let fragmentation = [quality.fragmentation_median, quality.fragmentation_large];
        assert!(fragmentation.iter().all(|share| (0.0..=1.0).contains(share)), "{name}");
        assert!(
            quality.fragmentation_median <= quality.fragmentation_large,
            "{name}: a larger request fits in fewer places"
        );
        assert!(quality.nodes_used_peak <= trace.machines.len() as u64, "{name}");
        assert!(quality.pending_s.is_some(), "{name}");
    }
}

#[test]
fn packing_uses_fewer_machines_than_spreading() {
    let trace = synthetic();
    let of = |policy: &mut dyn Policy| replay(&trace, policy, 600);
    let least = of(&mut Ours::least_allocated(&trace, 1));
    let most = of(&mut Ours::most_allocated(&trace, 1));
    assert!(most.nodes_used_mean < least.nodes_used_mean, "{most:?} {least:?}");
    assert!(
        most.fragmentation_large <= least.fragmentation_large + 0.05,
        "{most:?} {least:?}"
    );
}

#[test]
fn a_replay_is_the_same_for_a_seed() {
    let trace = synthetic();
    let all = |seed| -> Vec<Quality> {
        policies(&trace, seed)
            .iter_mut()
            .map(|p| replay(&trace, p.as_mut(), 600))
            .collect()
    };
    assert_eq!(all(5), all(5));
}

fn task(name: &str, arrives_s: u64, runs_s: Option<u64>, cpu_milli: i64, priority: i32) -> Task {
    Task {
        name: name.to_owned(),
        arrives_s,
        runs_s,
        cpu_milli,
        memory_bytes: 1 << 20,
        priority,
    }
}

fn machine(name: &str, cpu_milli: i64) -> Machine {
    Machine {
        name: name.to_owned(),
        cpu_milli,
        memory_bytes: 1 << 30,
    }
}

#[test]
fn a_task_that_does_not_fit_waits_until_another_ends() {
    let trace = Trace {
        machines: vec![machine("m", 1000)],
        tasks: vec![
            task("first", 0, Some(100), 800, 0),
            task("second", 10, Some(50), 800, 0),
        ],
    };
    for mut policy in policies(&trace, 0) {
        let quality = replay(&trace, policy.as_mut(), 10);
        let pending = quality.pending_s.unwrap();
        // Ours waits for its back-off, too: a second at first, ten at most.
        let bound = if quality.policy.starts_with("actorium") {
            100.0
        } else {
            90.0
        };
        assert_eq!(quality.placed, 2, "{}", quality.policy);
        assert!(
            pending.max >= 90.0 && pending.max <= bound,
            "{}: {pending:?}",
            quality.policy
        );
    }
}

#[test]
fn a_task_of_higher_priority_preempts_and_the_other_comes_back() {
    let trace = Trace {
        machines: vec![machine("m", 1000)],
        tasks: vec![
            task("batch", 0, Some(100), 800, 0),
            task("online", 10, Some(200), 800, 100),
            task("end", 400, Some(1), 1, 0),
        ],
    };
    let mut policy = Ours::least_allocated(&trace, 0);
    let quality = replay(&trace, &mut policy, 10);
    assert_eq!((quality.preemptions, quality.placed), (1, 3), "{quality:?}");
    let mut policy = Simple::new(&trace, Choice::First, 0);
    assert_eq!(replay(&trace, &mut policy, 10).preemptions, 0);
}

#[test]
fn best_fit_takes_the_machine_with_least_left_and_first_fit_the_first() {
    let trace = Trace {
        machines: vec![machine("large", 4000), machine("small", 1000)],
        tasks: vec![task("a", 0, None, 900, 0), task("b", 1, None, 3500, 0)],
    };
    let best = replay(&trace, &mut Simple::new(&trace, Choice::Best, 0), 1);
    let first = replay(&trace, &mut Simple::new(&trace, Choice::First, 0), 1);
    assert_eq!((best.left_pending, first.left_pending), (0, 1));
}
