//! Runs one target: its corpus first, then mutations of it until the time is over. Called by the tests. An input that is under way
//! is on disk before it runs, since a stack that overflows ends the process without a word.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::mutation::{self, Shape};

/// How long a target runs unless `ACTORIUM_FUZZ_SECONDS` says otherwise.
const SECONDS: u64 = 2;

/// Inputs that are kept because their answer was new.
const POOL_MAX: usize = 4096;

/// Longer inputs are cut: what is slow is slow already at this length.
const INPUT_BYTES_MAX: usize = 64 << 10;

/// Processor time that an input may take. Work that grows with the square of the input takes longer.
const INPUT_CPU: Duration = Duration::from_secs(2);

/// Memory by which a run may grow the process.
const GROWTH_BYTES_MAX: u64 = 512 << 20;

/// What came of an input, for the choice of what is mutated further: equal for answers that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outcome(pub u64);

impl Outcome {
    /// Of an answer in words. It is the beginning that tells answers apart: names and numbers, and what is quoted of the input,
    /// make no difference.
    pub fn of(text: &str) -> Outcome {
        const WORDS: usize = 8;
        let mut hasher = DefaultHasher::new();
        for word in text.split_whitespace().take(WORDS) {
            let plain = word.trim_end_matches([':', ',', ';', '.']);
            if plain.bytes().all(|byte| byte.is_ascii_lowercase()) {
                plain.hash(&mut hasher);
            }
        }
        Outcome(hasher.finish())
    }
}

/// Something that reads bytes.
pub struct Target {
    /// Its name: of the test, and of the folder in `corpus`.
    pub name: &'static str,
    /// How its inputs are mutated.
    pub shape: Shape,
    /// Inputs that it takes.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words that mean something to it.
    pub dictionary: &'static [&'static str],
    /// Reads an input. It panics when a promise is broken.
    pub run: fn(&[u8]) -> Outcome,
}

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    /// Inputs that ran.
    pub inputs: u64,
    /// Different answers.
    pub outcomes: usize,
}

/// Runs a target for its time. Panics, with the file of the input, at the first one that is not answered as it should be.
pub fn fuzz(target: &Target) -> Report {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let duration = Duration::from_secs(number("ACTORIUM_FUZZ_SECONDS").unwrap_or(SECONDS));
    let seed = number("FUZZ_SEED").unwrap_or(0);
    let mut run = Run::new(target);
    let before = resident_bytes_max();
    let mut pool = corpus(target.name);
    pool.extend((target.seeds)());
    assert!(!pool.is_empty(), "{} has no inputs to begin with", target.name);
    for input in &pool {
        run.one(input);
    }
    let mut random = SmallRng::seed_from_u64(seed);
    let begun = Instant::now();
    while begun.elapsed() < duration {
        let mut input = pool[random.random_range(0..pool.len())].clone();
        let other = &pool[random.random_range(0..pool.len())];
        mutation::mutate(&mut input, target.shape, target.dictionary, other, &mut random);
        input.truncate(INPUT_BYTES_MAX);
        if run.one(&input) && pool.len() < POOL_MAX {
            pool.push(input);
        }
    }
    let grown = resident_bytes_max().saturating_sub(before);
    assert!(
        grown < GROWTH_BYTES_MAX,
        "{}: the process grew by {} MiB",
        target.name,
        grown >> 20
    );
    let report = Report {
        inputs: run.inputs,
        outcomes: run.seen.len(),
    };
    println!(
        "measured: fuzz {}: {} inputs, {} different answers",
        target.name, report.inputs, report.outcomes
    );
    report
}

struct Run<'a> {
    target: &'a Target,
    seen: HashSet<Outcome>,
    inputs: u64,
    /// The input that is under way.
    under_way: File,
    path: PathBuf,
}

impl<'a> Run<'a> {
    fn new(target: &'a Target) -> Run<'a> {
        let path = std::env::temp_dir().join(format!("actorium-fuzz-{}-{}", target.name, std::process::id()));
        let under_way = File::create(&path).expect("the directory for temporary files can be written");
        Run {
            target,
            seen: HashSet::new(),
            inputs: 0,
            under_way,
            path,
        }
    }

    /// Runs an input; yields whether its answer is new.
    fn one(&mut self, input: &[u8]) -> bool {
        self.inputs += 1;
        let note = |error: std::io::Error| panic!("{} cannot be written: {error}", self.path.display());
        self.under_way
            .write_all_at(input, 0)
            .and_then(|()| self.under_way.set_len(input.len() as u64))
            .unwrap_or_else(note);
        let before = processor_time();
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.target.run)(input)));
        let took = processor_time().saturating_sub(before);
        let Ok(outcome) = outcome else {
            panic!(
                "{}: input {} made it panic; it is in {}",
                self.target.name,
                self.inputs,
                self.path.display()
            );
        };
        assert!(
            took < INPUT_CPU,
            "{}: input {} took {took:?} of processor time; it is in {}",
            self.target.name,
            self.inputs,
            self.path.display()
        );
        self.seen.insert(outcome)
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // A file that is left over is only litter.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The inputs that are kept in the tree.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let Ok(entries) = std::fs::read_dir(&directory) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let read = |path: &PathBuf| std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    paths.iter().map(read).collect()
}

/// Of this thread: other work on the machine does not count.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("every Linux has this clock")
        .into()
}

/// `VmHWM` of proc(5).
fn resident_bytes_max() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_differ_in_names_and_numbers_alone_are_alike() {
        assert_eq!(Outcome::of("field \"a\" at 1"), Outcome::of("field \"bc\" at 7"));
        assert_eq!(
            Outcome::of("unable to parse A=1: no"),
            Outcome::of("unable to parse (((: no")
        );
        assert_ne!(Outcome::of("field \"a\" at 1"), Outcome::of("no field \"a\" at 1"));
    }

    /// A harness is proven by the bug that it should catch: one that hides behind a word of the dictionary and a byte.
    #[test]
    fn a_planted_bug_is_found() {
        let planted = Target {
            name: "planted",
            shape: Shape::Text,
            seeds: || vec![b"hello".to_vec()],
            dictionary: &["needle"],
            run: |bytes| {
                let text = String::from_utf8_lossy(bytes);
                let Some(at) = text.find("needle") else {
                    return Outcome(0);
                };
                assert!(!text[at..].starts_with("needle["), "found");
                Outcome(1)
            },
        };
        let found = catch_unwind(|| fuzz(&planted)).expect_err("it is found");
        let text = found.downcast_ref::<String>().expect("a message");
        let path = text.split(" it is in ").nth(1).expect("the message names the file");
        let input = std::fs::read(path).expect("the input is there");
        assert!(String::from_utf8_lossy(&input).contains("needle["));
        std::fs::remove_file(path).expect("it can be removed");
    }
}
