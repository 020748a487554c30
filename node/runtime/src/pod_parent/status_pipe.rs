//! The pipe through which a child tells how its start went: nothing but an end when exec has succeeded, a report when
//! something failed, before either the pid of the process that goes on in its place. Read by the event loop.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::unistd::Pid;

use crate::container::LaunchFailure;
use crate::container::user_namespace::{NOTICE_BYTES, noticed_pid};

/// What it told.
pub(super) enum StartOutcome {
    /// Nothing yet.
    Pending,
    /// The program runs.
    Started,
    /// The child reported a failure.
    Failed(LaunchFailure),
}

/// The read end.
pub(super) struct StatusPipe {
    pipe: Option<fs::File>,
    text: Vec<u8>,
    /// The process that was cloned prepares only: the pid of the one that goes on is still to be told.
    awaits_successor: bool,
}

impl StatusPipe {
    /// Of a child whose place another process takes, or not. The descriptor must not block.
    pub(super) fn new(pipe: OwnedFd, awaits_successor: bool) -> Self {
        Self {
            pipe: Some(pipe.into()),
            text: Vec::new(),
            awaits_successor,
        }
    }

    /// To poll, until it has ended.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Whether the pid is still that of the process that prepares.
    pub(super) fn awaits_successor(&self) -> bool {
        self.awaits_successor
    }

    /// Reads what there is. `pid` becomes that of the process that goes on.
    pub(super) fn read(&mut self, pid: &mut Pid) -> StartOutcome {
        let Some(pipe) = &mut self.pipe else {
            return StartOutcome::Pending;
        };
        let mut buffer = [0; 4096];
        let is_complete = loop {
            match pipe.read(&mut buffer) {
                Ok(0) => break true,
                Ok(count) => self.text.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
                Err(error) => {
                    return StartOutcome::Failed(LaunchFailure::kernel("read of the exec status", error));
                }
            }
        };
        if self.awaits_successor
            && let Some(first) = noticed_pid(&self.text)
        {
            self.text.drain(..NOTICE_BYTES);
            self.awaits_successor = false;
            *pid = Pid::from_raw(first);
        }
        if !is_complete {
            return StartOutcome::Pending;
        }
        self.pipe = None;
        if self.text.is_empty() && self.awaits_successor {
            return StartOutcome::Failed(LaunchFailure::Kernel {
                operation: "start of the container".to_owned(),
                reason: "the process that prepared it was killed: see the kernel's log".to_owned(),
            });
        }
        if self.text.is_empty() {
            return StartOutcome::Started;
        }
        StartOutcome::Failed(
            serde_json::from_slice(&self.text).unwrap_or_else(|_| LaunchFailure::Kernel {
                operation: "start of the container".to_owned(),
                reason: format!("its report cannot be read: {}", String::from_utf8_lossy(&self.text)),
            }),
        )
    }
}
