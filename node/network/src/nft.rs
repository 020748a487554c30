//! Runs the `nft` program: one transaction at a time, on the nft worker's thread.
//!
//! The only place that starts a process in this crate. It never builds rules; [`crate::ruleset`] and [`crate::service`] do.

use std::{
    io::{self, Write},
    process::{Child, Command, Output, Stdio},
};

use nftables::batch::Batch;
use serde_json::Value;

use crate::{commit::CommitListener, error::NetworkError, ruleset};

const PROGRAM: &str = "nft";

/// The program, and what is needed to run it without waiting for its end.
#[derive(Debug)]
pub(crate) struct Nft {
    commits: Option<CommitListener>,
    /// Children whose transactions are in force and which are about to end.
    leaving: Vec<Child>,
}

impl Nft {
    /// Gets ready. The listener belongs to the calling thread's network namespace, and so do the children.
    pub(crate) fn new() -> Self {
        let commits = CommitListener::open()
            .inspect_err(
                |error| tracing::debug!(%error, "cannot hear nftables' announcements; changes wait for nft's end"),
            )
            .ok();
        Self {
            commits,
            leaving: Vec::new(),
        }
    }

    /// Applies a transaction: all of it or nothing. It is in force when this returns.
    pub(crate) fn apply(&mut self, batch: Batch<'static>, action: &str) -> Result<(), NetworkError> {
        self.reap();
        let document = ruleset::document(batch).map_err(|error| unreadable(action, &error))?;
        if let Some(commits) = &self.commits {
            commits.skip();
        }
        let child = start(PROGRAM, &["-j", "-f", "-"], Some(document.as_bytes()))?;
        if self.commits.as_ref().is_some_and(|commits| commits.hears(&child)) {
            self.leaving.push(child);
            return Ok(());
        }
        let output = finish(child)?;
        if output.status.success() {
            Ok(())
        } else {
            Err(refused(action, &output))
        }
    }

    /// What nft lists, as JSON.
    pub(crate) fn list(&mut self, what: &[&str], action: &str) -> Result<Value, NetworkError> {
        self.reap();
        let output = finish(start(PROGRAM, &[&["-j", "list"], what].concat(), None)?)?;
        if !output.status.success() {
            return Err(refused(action, &output));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| unreadable(action, &error))
    }

    /// Whether children are still to be reaped.
    pub(crate) fn has_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Takes note of children that have ended.
    pub(crate) fn reap(&mut self) {
        self.leaving.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}

/// Asks the kernel whether it would take a transaction. Nothing of it is carried out.
pub(crate) fn check(batch: Batch<'static>, action: &str) -> Result<(), NetworkError> {
    let document = ruleset::document(batch).map_err(|error| unreadable(action, &error))?;
    let output = finish(start(
        PROGRAM,
        &["-j", "--check", "-f", "-"],
        Some(document.as_bytes()),
    )?)?;
    if output.status.success() {
        Ok(())
    } else {
        Err(refused(action, &output))
    }
}

fn unreadable(action: &str, error: &serde_json::Error) -> NetworkError {
    NetworkError::NftAnswer {
        action: action.to_owned(),
        reason: error.to_string(),
    }
}

fn start(program: &str, arguments: &[&str], input: Option<&[u8]>) -> Result<Child, NetworkError> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| NetworkError::NftMissing { source })?;
    // nft reads all of its input before it answers, so writing first cannot block both sides. If nft dies early the
    // write fails with EPIPE, and its exit and words are what matters.
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        let _ = stdin.write_all(input);
    }
    Ok(child)
}

fn finish(child: Child) -> Result<Output, NetworkError> {
    child
        .wait_with_output()
        .map_err(|source| NetworkError::NftMissing { source })
}

fn refused(action: &str, output: &Output) -> NetworkError {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.trim().is_empty()).take(6).collect();
    let printed = lines.join("; ");
    explain(action, &printed)
}

/// Turns nft's words into an error that says what to do.
fn explain(action: &str, printed: &str) -> NetworkError {
    if printed.contains("Operation not permitted") {
        return NetworkError::Permission {
            action: action.to_owned(),
        };
    }
    let missing = [
        "Operation not supported",
        "Protocol not supported",
        "cache initialization failed",
    ];
    if missing.iter().any(|words| printed.contains(words)) {
        return NetworkError::MissingFeature {
            action: action.to_owned(),
            feature: "nftables with NAT",
            remedy: "Load the modules nf_tables, nft_chain_nat, nft_masq, nft_numgen, nft_fib_inet and nft_reject_inet, or use a kernel that has them",
            source: io::Error::other(printed.to_owned()),
        };
    }
    NetworkError::NftRefused {
        action: action.to_owned(),
        stderr: printed.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let error = start("nft-that-is-not-installed", &["list"], None)
            .unwrap_err()
            .to_string();
        assert!(error.contains("nft") && error.contains("package nftables"), "{error}");
    }

    #[test]
    fn the_words_of_nft_become_advice() {
        let cases = [
            (
                "Error: Could not process rule: Operation not permitted",
                "CAP_NET_ADMIN",
            ),
            (
                "Error: Could not process rule: Operation not supported",
                "nft_chain_nat",
            ),
            (
                "netlink: Error: cache initialization failed: Protocol not supported",
                "nf_tables",
            ),
            ("Error: syntax error, unexpected foo", "unexpected foo"),
        ];
        for (printed, expected) in cases {
            let text = explain("do it", printed).to_string();
            assert!(text.contains(expected) && text.contains("do it"), "{text}");
        }
    }
}
