//! One command that runs in a container at a client's wish, in the pod's parent: its start, and how it ends when its client
//! goes. The event loop owns it; its streams belong to the node process, nothing of them passes here.

use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use super::child::{pipe, send_signal, set_nonblocking};
use super::status_pipe::StatusPipe;
use crate::container::join::{JoiningCommand, JoiningStreams, run};
use crate::container::{ContainerLaunch, LaunchFailure, clone};

/// A command.
pub(super) struct ExecSession {
    /// Its client's connection, which no other session has.
    pub connection: u64,
    /// The request that began it.
    pub request: u64,
    /// Its process, as soon as that is known.
    pub pid: Pid,
    /// How its start goes.
    pub status: StatusPipe,
    /// Whether the client has gone: the process is ended as soon as it is known.
    pub is_abandoned: bool,
}

impl ExecSession {
    /// Clones the process that joins the container of this first process.
    pub(super) fn start(
        container: &ContainerLaunch,
        first_process: Pid,
        argv: &[String],
        streams: JoiningStreams,
        (connection, request): (u64, u64),
    ) -> Result<ExecSession, LaunchFailure> {
        // The container's process is a child that is not reaped, so the number is still its own.
        // SAFETY: pidfd_open takes plain numbers and returns a new descriptor.
        let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, first_process.as_raw(), 0) };
        if descriptor < 0 {
            return Err(LaunchFailure::kernel("pidfd_open", std::io::Error::last_os_error()));
        }
        // SAFETY: the kernel has just made this descriptor (close-on-exec), and nothing else owns it.
        let first_process = unsafe { OwnedFd::from_raw_fd(descriptor as i32) };
        let (status, status_end) = pipe("pipe for the exec status")?;
        set_nonblocking(&status)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let group = match &container.cgroup.unified {
            Some(path) => Some(
                open(path, flags, Mode::empty())
                    .map_err(|errno| LaunchFailure::kernel(format!("open of {}", path.display()), errno))?,
            ),
            None => None,
        };
        // SAFETY: this process never starts a thread (the invariant of `pod_parent`).
        let pid = unsafe { clone::fork_into(group.as_ref().map(AsFd::as_fd)) }
            .map_err(|error| LaunchFailure::kernel("clone3 of a command in the container", error))?;
        if pid == 0 {
            drop(status);
            let command = JoiningCommand {
                argv,
                container,
                first_process: first_process.as_fd(),
            };
            run(&command, streams, status_end);
        }
        Ok(ExecSession {
            connection,
            request,
            pid: Pid::from_raw(pid),
            status: StatusPipe::new(status, container.has_pids_apart()),
            is_abandoned: false,
        })
    }

    /// Ends it, because its client has gone: the process with those of its group. While the pid of the process that goes on
    /// is unknown, it waits for that: it comes, or the end of the status pipe does.
    pub(super) fn abandon(&mut self) {
        self.is_abandoned = true;
        if !self.status.awaits_successor() {
            self.kill();
        }
    }

    /// Whether this is the command's own process, and not one that only prepared it.
    pub(super) fn is_process(&self, pid: Pid) -> bool {
        self.pid == pid && !self.status.awaits_successor()
    }

    /// Sends SIGKILL to the process, which is not reaped, and to its group, which is its own since `setsid`.
    pub(super) fn kill(&self) {
        let _ = send_signal(self.pid, libc::SIGKILL); // it may have ended already
        let _ = send_signal(Pid::from_raw(-self.pid.as_raw()), libc::SIGKILL); // no group before setsid
    }
}
