//! Owns the process of one case: the program starts itself again for each case, so that the largest resident memory is the
//! case's own and a panic ends only this case. Called by the program on both sides. The two sides speak in lines of JSON
//! over the child's standard input and output.

use crate::run::RunOptions;
use crate::run::outcome::CaseResult;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The hidden sub-command of the child.
pub const CHILD: &str = "run-one-case";

/// What the child is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The file of the workload, if it is not one that is compiled in.
    pub file: Option<PathBuf>,
    /// The workload.
    pub workload: String,
    /// The case.
    pub case: String,
    /// Whether in its small size.
    pub small: bool,
    /// `core`, `store` or `api`.
    pub depth: String,
    /// How.
    pub options: RunOptions,
}

/// What the child says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// So many measured pods are bound, of so many.
    Progress(u64, u64),
    /// The end.
    Result(Box<CaseResult>),
    /// It failed.
    Failure(String),
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// The process did not start, or its pipes broke.
    #[error("the process for the case: {0}")]
    Process(#[from] std::io::Error),
    /// It said something else than a report.
    #[error("the process for the case said `{line}`: {source}")]
    Words {
        /// What it said.
        line: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It says that the case failed.
    #[error("{0}")]
    Failed(String),
    /// It ended without a word; the panic's own is on standard error.
    #[error("the process for the case ended with {0} and no result")]
    Ended(std::process::ExitStatus),
}

/// Runs a case in a process of its own.
pub fn run(order: &Order, mut progress: impl FnMut(u64, u64)) -> Result<CaseResult, ChildError> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg(CHILD)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        serde_json::to_writer(&mut input, order).map_err(std::io::Error::from)?;
    }
    let mut outcome = None;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line?;
            match serde_json::from_str(&line) {
                Ok(Report::Progress(bound, of)) => progress(bound, of),
                Ok(Report::Result(result)) => outcome = Some(Ok(*result)),
                Ok(Report::Failure(words)) => outcome = Some(Err(ChildError::Failed(words))),
                Err(source) => outcome = Some(Err(ChildError::Words { line, source })),
            }
        }
    }
    let status = child.wait()?;
    outcome.unwrap_or(Err(ChildError::Ended(status)))
}

/// The child's side: says a report.
pub fn say(report: &Report) {
    let mut output = std::io::stdout().lock();
    let said = serde_json::to_writer(&mut output, report)
        .map_err(std::io::Error::from)
        .and_then(|()| output.write_all(b"\n"))
        .and_then(|()| output.flush());
    if let Err(error) = said {
        // Nobody listens any more.
        eprintln!("the result cannot be handed over: {error}");
        std::process::exit(1);
    }
}
