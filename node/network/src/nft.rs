//! Runs the `nft` program: one transaction at a time, on the nft worker's thread.
//!
//! The only place that starts a process in this crate. It never builds rules; [`crate::ruleset`] and [`crate::service`] do.

use std::{
    io::{self, Read, Write},
    os::fd::AsFd,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, poll},
};

use nftables::batch::Batch;
use serde_json::Value;

use crate::{
    commit::{CommitListener, time_left},
    error::NetworkError,
    ruleset,
    worker::now,
};

const PROGRAM: &str = "nft";

/// How long one run may take. Loading 5,000 services takes three seconds on an idle machine; nft waits without an end for a
/// netlink answer that it missed, and everything behind it would wait with it.
const DEADLINE: Duration = Duration::from_secs(30);

/// The program, and what is needed to run it without waiting for its end.
#[derive(Debug)]
pub(crate) struct Nft {
    commits: Option<CommitListener>,
    /// Children whose transactions are in force and which are about to end, and by when they should.
    leaving: Vec<(Child, Instant)>,
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
        let until = now() + DEADLINE;
        let mut child = start(PROGRAM, &["-j", "-f", "-"], true)?;
        feed(&mut child, document.as_bytes(), until);
        if self
            .commits
            .as_ref()
            .is_some_and(|commits| commits.hears(&child, until))
        {
            self.leaving.push((child, until));
            return Ok(());
        }
        let output = finish(child, until, action)?;
        if output.status.success() {
            Ok(())
        } else {
            Err(refused(action, &output))
        }
    }

    /// What nft lists, as JSON.
    pub(crate) fn list(&mut self, what: &[&str], action: &str) -> Result<Value, NetworkError> {
        self.reap();
        let until = now() + DEADLINE;
        let child = start(PROGRAM, &[&["-j", "list"], what].concat(), false)?;
        let output = finish(child, until, action)?;
        if !output.status.success() {
            return Err(refused(action, &output));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| unreadable(action, &error))
    }

    /// Whether children are still to be reaped.
    pub(crate) fn has_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Takes note of children that have ended, and kills those that should have long ago.
    pub(crate) fn reap(&mut self) {
        let now = now();
        self.leaving.retain_mut(|(child, until)| {
            if now > *until {
                // It is gone already, or will be in a moment: the next call sees it.
                let _ = child.kill();
            }
            matches!(child.try_wait(), Ok(None))
        });
    }
}

/// Asks the kernel whether it would take a transaction. Nothing of it is carried out.
pub(crate) fn check(batch: Batch<'static>, action: &str) -> Result<(), NetworkError> {
    let document = ruleset::document(batch).map_err(|error| unreadable(action, &error))?;
    let until = now() + DEADLINE;
    let mut child = start(PROGRAM, &["-j", "--check", "-f", "-"], true)?;
    feed(&mut child, document.as_bytes(), until);
    let output = finish(child, until, action)?;
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

fn start(program: &str, arguments: &[&str], has_input: bool) -> Result<Child, NetworkError> {
    Command::new(program)
        .args(arguments)
        .stdin(if has_input { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| NetworkError::NftMissing { source })
}

/// Gives a child its input, and ends it. nft reads all of it before it answers, so writing first cannot block both sides. If
/// nft dies early the write fails with EPIPE, and its exit and words are what matters; if it does not read, `finish` ends
/// it at the same instant.
fn feed(child: &mut Child, mut input: &[u8], until: Instant) {
    let Some(mut stdin) = child.stdin.take() else { return };
    // With a full pipe the write would wait for the child alone, and past the deadline.
    if fcntl(&stdin, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).is_err() {
        return;
    }
    while !input.is_empty() {
        match stdin.write(input) {
            Ok(written) => input = &input[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut room = [PollFd::new(stdin.as_fd(), PollFlags::POLLOUT)];
                if !matches!(poll(&mut room, time_left(until)), Ok(1..) | Err(Errno::EINTR)) {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Waits for a child's end and takes what it printed. One that does not end in time is killed.
fn finish(mut child: Child, until: Instant, action: &str) -> Result<Output, NetworkError> {
    let mut printed = (Vec::new(), Vec::new());
    let complete = match (child.stdout.take(), child.stderr.take()) {
        (Some(mut stdout), Some(mut stderr)) => {
            let outputs = (read_until(&mut stdout, until), read_until(&mut stderr, until));
            match outputs {
                (Some(out), Some(err)) => {
                    printed = (out, err);
                    true
                }
                _ => false,
            }
        }
        _ => true,
    };
    // Whoever has closed its outputs is about to end: a few more looks, no long wait.
    while complete && now() < until {
        match child.try_wait() {
            Ok(Some(status)) => {
                let (stdout, stderr) = printed;
                return Ok(Output { status, stdout, stderr });
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(1)),
            Err(source) => return Err(NetworkError::NftMissing { source }),
        }
    }
    // An error means that it has ended just now.
    let _ = child.kill();
    let _ = child.wait();
    Err(NetworkError::NftHung {
        action: action.to_owned(),
        seconds: DEADLINE.as_secs(),
    })
}

/// Reads a child's output to its end; `None` if that does not come in time. nft prints its complaints in a few lines, which a
/// pipe holds, so that reading one output after the other blocks nobody.
fn read_until(output: &mut (impl Read + AsFd), until: Instant) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut part = [0; 64 << 10];
    loop {
        let mut source = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        match poll(&mut source, time_left(until)) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(_) => return None,
        }
        match output.read(&mut part) {
            Ok(0) => return Some(bytes),
            Ok(length) => bytes.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
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
        let error = start("nft-that-is-not-installed", &["list"], false)
            .unwrap_err()
            .to_string();
        assert!(error.contains("nft") && error.contains("package nftables"), "{error}");
    }

    #[test]
    fn a_child_that_neither_reads_nor_ends_is_killed_at_its_deadline() {
        let begun = now();
        let until = begun + Duration::from_millis(200);
        let mut child = start("sleep", &["60"], true).unwrap();
        let process = nix::unistd::Pid::from_raw(child.id() as i32);
        feed(&mut child, &vec![b' '; 1 << 20], until);
        let error = finish(child, until, "do it").unwrap_err();
        assert!(matches!(error, NetworkError::NftHung { .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        // Reaped: the number names no process any more.
        assert_eq!(nix::sys::signal::kill(process, None), Err(Errno::ESRCH));
    }

    #[test]
    fn what_a_child_prints_is_taken_whole_after_a_long_input() {
        let until = now() + Duration::from_secs(20);
        let mut child = start("wc", &["-c"], true).unwrap();
        feed(&mut child, &vec![b' '; 3 << 20], until);
        let output = finish(child, until, "count").unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), (3 << 20).to_string());
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
