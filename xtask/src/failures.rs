//! What failed, once more at the end: a whole run prints thousands of lines, and the reason of a failure stands among them.
//!
//! `cargo xtask test` calls it. It passes on every line of the test runner as it comes, and must never change one.

use anyhow::{Context, Result, bail};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use crate::command;

/// How much of one failure is repeated: its beginning, where the panic is, and its end, where a test shows what it waited for.
const FIRST_LINES_MAX: usize = 25;
const LAST_LINES_MAX: usize = 10;
/// How many failures are repeated; the names of all are.
const FAILURES_MAX: usize = 12;

/// Runs the tests with the terminal's own streams, and repeats what failed when they have ended.
pub fn run(test: &mut Command) -> Result<()> {
    pass_on(test, &mut std::io::stdout().lock())
}

fn pass_on(test: &mut Command, out: &mut dyn Write) -> Result<()> {
    let mut child = test
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{}` could not be started", command::display(test)))?;
    let mut failures = Failures::default();
    let printed = child.stdout.take().context("the tests' output is not ours")?;
    for line in BufReader::new(printed).split(b'\n') {
        let line = line.context("the tests' output cannot be read")?;
        out.write_all(&line).and_then(|()| out.write_all(b"\n"))?;
        failures.heard(&String::from_utf8_lossy(&line));
    }
    out.flush()?;
    let status = child.wait().context("the tests cannot be waited for")?;
    out.write_all(failures.report().as_bytes())?;
    if !status.success() {
        bail!("`{}` failed with {status}", command::display(test));
    }
    Ok(())
}

/// What one test printed before it failed.
#[derive(Default)]
struct Failure {
    name: String,
    first: Vec<String>,
    last: VecDeque<String>,
    left_out: usize,
}

/// The failures that a test runner has printed.
#[derive(Default)]
struct Failures {
    found: Vec<Failure>,
    inside: bool,
}

impl Failures {
    fn heard(&mut self, line: &str) {
        let begun = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"));
        if let Some(name) = begun {
            self.inside = true;
            self.found.push(Failure {
                name: name.to_owned(),
                ..Failure::default()
            });
            return;
        }
        // The list of names follows the last output.
        self.inside &= line != "failures:" && !line.starts_with("test result: ");
        let Some(failure) = self.found.last_mut().filter(|_| self.inside) else {
            return;
        };
        if line.is_empty() {
            return;
        }
        if failure.first.len() < FIRST_LINES_MAX {
            failure.first.push(line.to_owned());
            return;
        }
        failure.last.push_back(line.to_owned());
        if failure.last.len() > LAST_LINES_MAX {
            failure.last.pop_front();
            failure.left_out += 1;
        }
    }

    fn report(&self) -> String {
        if self.found.is_empty() {
            return String::new();
        }
        let mut text = "\nwhat failed, once more:\n".to_owned();
        for failure in self.found.iter().take(FAILURES_MAX) {
            text.push_str(&format!("\n---- {}\n", failure.name));
            let mut add = |line: &String| text.push_str(&format!("{line}\n"));
            failure.first.iter().for_each(&mut add);
            if failure.left_out > 0 {
                add(&format!("[{} lines]", failure.left_out));
            }
            failure.last.iter().for_each(&mut add);
        }
        let names: Vec<&str> = self.found.iter().map(|failure| failure.name.as_str()).collect();
        text.push_str(&format!("\n{} failed: {}\n", names.len(), names.join(", ")));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_is_repeated_with_its_beginning_and_its_end() {
        let long: String = (0..100).map(|i| format!("line {i}\n")).collect();
        let printed = format!(
            "running 2 tests\ntest a ... FAILED\n\nfailures:\n\n---- a stdout ----\nnot as expected\n\n---- m::b stdout ----\n\
             {long}\nfailures:\n    a\n    m::b\n\ntest result: FAILED. 0 passed; 2 failed\nrunning 1 test\ntest c ... ok\n"
        );
        let mut failures = Failures::default();
        printed.lines().for_each(|line| failures.heard(line));
        let report = failures.report();
        for expected in [
            "---- a\nnot as expected\n\n---- m::b\nline 0\n",
            "line 24\n[65 lines]\nline 90\n",
            "line 99\n\n2 failed: a, m::b\n",
        ] {
            assert!(report.contains(expected), "{report}");
        }
        assert!(!report.contains("test c"), "{report}");
    }

    #[test]
    fn nothing_is_said_when_nothing_failed() {
        let mut failures = Failures::default();
        failures.heard("test a ... ok");
        assert_eq!(failures.report(), "");
    }

    #[test]
    fn a_failing_run_is_an_error() {
        let script = "printf 'x\\n---- t stdout ----\\nwhy\\n'; exit 101";
        let mut out = Vec::new();
        let error = pass_on(Command::new("sh").args(["-c", script]), &mut out).unwrap_err();
        assert!(error.to_string().contains("101"), "{error}");
        let printed = String::from_utf8(out).unwrap();
        assert_eq!(
            printed,
            "x\n---- t stdout ----\nwhy\n\nwhat failed, once more:\n\n---- t\nwhy\n\n1 failed: t\n"
        );
    }
}
