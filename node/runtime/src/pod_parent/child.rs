//! One container in its pod's parent: the start, its output, the record of its end. The event loop owns it and tells it which
//! of its descriptors are ready.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use nix::sys::wait::WaitStatus;
use nix::unistd::{Pid, pipe2};
use protocol::runtime::{ContainerExit, ContainerPhase, ContainerState};

use super::attach::Attachment;
use super::log_writer::{FILE_BYTES_MAX, LogWriter, OutputStream, timestamp};
use super::record::{container_state_path, write_json};
use super::status_pipe::{StartOutcome, StatusPipe};
use super::terminal::set_window_size;
use crate::container::init::{ChildDescriptors, run};
use crate::container::user_namespace::open_namespace;
use crate::container::{ContainerLaunch, LaunchFailure, clone};
use crate::failure::now;

/// A termination message is cut there (the kubelet's MaxContainerTerminationMessageLength).
const MESSAGE_BYTES_MAX: u64 = 4096;
/// When the log stands in for it: at most so many bytes and lines (MaxContainerTerminationMessageLogLength, ...LogLines).
const MESSAGE_LOG_BYTES_MAX: usize = 2048;
const MESSAGE_LOG_LINES_MAX: usize = 80;
/// How much is read from a pipe at once, and at most before other descriptors get their turn.
const READ_BYTES: usize = 64 << 10;

/// Where a container stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Cloned; exec is awaited.
    Starting,
    /// Exec succeeded.
    Running,
    /// Reaped.
    Ended,
}

/// A container.
pub(super) struct Child {
    pub launch: ContainerLaunch,
    pub state: ContainerState,
    pub pid: Pid,
    pub stage: Stage,
    /// Read ends of its output pipes.
    pub outputs: [Option<fs::File>; 2],
    /// The pipe that exec closes.
    pub status: StatusPipe,
    log: LogWriter,
    /// The write end of its standard input, when that stays open.
    stdin: Option<fs::File>,
    /// Clients of its streams.
    pub attachments: Vec<Attachment>,
    /// Who waits for the start: connection and request.
    pub waiting: Vec<(u64, u64)>,
}

pub(super) fn pipe(operation: &str) -> Result<(OwnedFd, OwnedFd), LaunchFailure> {
    pipe2(OFlag::O_CLOEXEC).map_err(|errno| LaunchFailure::kernel(operation, errno))
}

pub(super) fn set_nonblocking(descriptor: &OwnedFd) -> Result<(), LaunchFailure> {
    nix::fcntl::fcntl(descriptor, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .map(drop)
        .map_err(|errno| LaunchFailure::kernel("fcntl(O_NONBLOCK)", errno))
}

/// A container's standard streams.
struct Streams {
    /// Standard input, output and error of the child.
    of_child: [OwnedFd; 3],
    /// Where the parent reads; with a terminal both outputs are one.
    outputs: [Option<OwnedFd>; 2],
    /// Keeps an input open that nobody writes to.
    stdin_hold: Option<OwnedFd>,
}

impl Streams {
    fn make(launch: &ContainerLaunch, null: &OwnedFd) -> Result<Streams, LaunchFailure> {
        let dup = |descriptor: &OwnedFd| {
            descriptor
                .try_clone()
                .map_err(|error| LaunchFailure::kernel("dup of a standard stream", error))
        };
        if launch.tty {
            let pair = nix::pty::openpty(None, None).map_err(|errno| LaunchFailure::kernel("openpty", errno))?;
            for descriptor in [&pair.master, &pair.slave] {
                nix::fcntl::fcntl(
                    descriptor,
                    nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
                )
                .map_err(|errno| LaunchFailure::kernel("fcntl(FD_CLOEXEC)", errno))?;
            }
            set_nonblocking(&pair.master)?;
            return Ok(Streams {
                of_child: [dup(&pair.slave)?, dup(&pair.slave)?, pair.slave],
                stdin_hold: None, // the terminal's other end is the input's too
                outputs: [Some(pair.master), None],
            });
        }
        let (stdout, stdout_end) = pipe("pipe for standard output")?;
        let (stderr, stderr_end) = pipe("pipe for standard error")?;
        set_nonblocking(&stdout)?;
        set_nonblocking(&stderr)?;
        let (stdin_end, stdin_hold) = if launch.stdin {
            let (read, write) = pipe("pipe for standard input")?;
            set_nonblocking(&write)?;
            (read, Some(write))
        } else {
            (dup(null)?, None)
        };
        Ok(Streams {
            of_child: [stdin_end, stdout_end, stderr_end],
            outputs: [Some(stdout), Some(stderr)],
            stdin_hold,
        })
    }
}

/// While it lives, what this process clones belongs to the pid namespace of another one.
struct ForeignPids {
    own: OwnedFd,
}

impl ForeignPids {
    fn enter(process: Pid) -> Result<ForeignPids, LaunchFailure> {
        let own = open_namespace(nix::unistd::getpid().as_raw(), "pid_for_children")?;
        let foreign = open_namespace(process.as_raw(), "pid")?;
        setns(&foreign, CloneFlags::CLONE_NEWPID)
            .map_err(|errno| LaunchFailure::kernel("setns into the target container's pid namespace", errno))?;
        Ok(ForeignPids { own })
    }
}

impl Drop for ForeignPids {
    fn drop(&mut self) {
        // Entering what this process has held open all along, with the same rights: if the kernel refused it, every later
        // container would be in the wrong namespace, so this process must not go on.
        setns(&self.own, CloneFlags::CLONE_NEWPID).expect("the own pid namespace is entered again");
    }
}

impl Child {
    /// Clones the container's first process, into the pid namespace of `joined` if that is given. The outcome of its exec comes through the status pipe.
    pub(super) fn start(
        launch: ContainerLaunch,
        null: &OwnedFd,
        user_namespace: Option<BorrowedFd<'_>>,
        joined: Option<Pid>,
    ) -> Result<Child, LaunchFailure> {
        let log = LogWriter::open(&launch.log_path, FILE_BYTES_MAX)
            .map_err(|error| LaunchFailure::kernel(format!("log {}", launch.log_path.display()), error))?;
        let streams = Streams::make(&launch, null)?;
        let (status, status_end) = pipe("pipe for the exec status")?;
        set_nonblocking(&status)?;
        let group = match &launch.cgroup.unified {
            Some(path) => Some(
                open(
                    path,
                    OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
                    Mode::empty(),
                )
                .map_err(|errno| LaunchFailure::kernel(format!("open of {}", path.display()), errno))?,
            ),
            None => None,
        };
        let started_at = now();
        let prepares_only = launch.own_pid_namespace && user_namespace.is_some();
        let own_pid_namespace = launch.own_pid_namespace && !prepares_only;
        let own_pids = joined.map(ForeignPids::enter).transpose()?;
        // SAFETY: this process never starts a thread (the invariant of `pod_parent`).
        let pid = unsafe { clone::clone_container(own_pid_namespace, group.as_ref().map(AsFd::as_fd)) }
            .map_err(|error| LaunchFailure::kernel("clone3 of the container's first process", error));
        if !matches!(pid, Ok(0)) {
            drop(own_pids);
        }
        let pid = pid?;
        if pid == 0 {
            let [stdin, stdout, stderr] = streams.of_child;
            let descriptors = ChildDescriptors {
                stdin,
                stdout,
                stderr,
                status: status_end,
            };
            run(&launch, descriptors, user_namespace);
        }
        let state = ContainerState {
            name: launch.name.clone(),
            attempt: launch.attempt,
            image_digest: launch.image_digest.clone(),
            stop_signal: launch.stop_signal,
            phase: ContainerPhase::Running {
                pid: pid as u32,
                started_at,
            },
        };
        Ok(Child {
            launch,
            state,
            pid: Pid::from_raw(pid),
            stage: Stage::Starting,
            outputs: streams.outputs.map(|output| output.map(fs::File::from)),
            status: StatusPipe::new(status, prepares_only),
            log,
            stdin: streams.stdin_hold.map(fs::File::from),
            attachments: Vec::new(),
            waiting: Vec::new(),
        })
    }

    /// Reads the status pipe. From the notice of its pid on, the container is that process.
    pub(super) fn read_status(&mut self) -> StartOutcome {
        let outcome = self.status.read(&mut self.pid);
        if let ContainerPhase::Running { pid, .. } = &mut self.state.phase {
            *pid = self.pid.as_raw() as u32;
        }
        if matches!(outcome, StartOutcome::Started) {
            self.stage = Stage::Running;
        }
        outcome
    }

    /// Writes the state file.
    pub(super) fn record(&self) -> io::Result<()> {
        write_json(&container_state_path(&self.launch.directory), &self.state)
    }

    /// Moves output to the log: what there is, or one buffer's worth.
    pub(super) fn pump(&mut self, stream: OutputStream, all: bool) {
        let Some(pipe) = &mut self.outputs[stream as usize] else {
            return;
        };
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    self.log.push(stream, &buffer[..count], &timestamp());
                    for attachment in &mut self.attachments {
                        attachment.push(stream, &buffer[..count]);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => break,
            }
            if !all {
                return;
            }
        }
        self.log.finish(stream, &timestamp());
        self.outputs[stream as usize] = None;
    }

    /// Whether output may be read: a client that is attached and does not read holds it up, so that it loses nothing.
    pub(super) fn may_pump(&self, stream: OutputStream) -> bool {
        self.attachments.iter().all(|attachment| !attachment.owes(stream))
    }

    /// Where input for the container goes: its pipe, or its terminal. `None` when it takes none.
    pub(super) fn input(&self) -> Option<&fs::File> {
        match (self.launch.stdin, self.launch.tty) {
            (false, _) => None,
            (true, true) => self.outputs[0].as_ref(),
            (true, false) => self.stdin.as_ref(),
        }
    }

    /// Moves input between a client and the container.
    pub(super) fn feed(&mut self, connection: u64) {
        let Some(index) = self
            .attachments
            .iter()
            .position(|client| client.connection == connection)
        else {
            return;
        };
        let mut attachment = self.attachments.swap_remove(index);
        let is_over = attachment.feed(self.input());
        self.attachments.push(attachment);
        if is_over {
            self.end_input_once();
        }
    }

    /// A client has gone.
    pub(super) fn detach(&mut self, connection: u64) {
        let before = self.attachments.len();
        let gave_input = |client: &Attachment| client.connection == connection && client.gave_input;
        let is_over = self.attachments.iter().any(gave_input);
        self.attachments.retain(|client| client.connection != connection);
        if is_over && before != self.attachments.len() {
            self.end_input_once();
        }
    }

    /// The first client with input has ended it: with `stdinOnce` that is the end of the container's.
    fn end_input_once(&mut self) {
        if self.launch.stdin_once {
            self.stdin = None;
        }
    }

    /// The size of its terminal, in characters.
    pub(super) fn resize(&self, width: u16, height: u16) {
        if let (true, Some(terminal)) = (self.launch.tty, &self.outputs[0]) {
            set_window_size(terminal, width, height);
        }
    }

    /// The process ended and is not reaped yet: its output is drained, its end recorded on disk.
    pub(super) fn end(&mut self, status: WaitStatus) -> Result<ContainerExit, io::Error> {
        // With a pid namespace of its own, every other writer is gone before the first process counts as ended, and the
        // pipes end here. In a shared one, others may hold them; what they write later is still logged.
        self.pump(OutputStream::Stdout, true);
        self.pump(OutputStream::Stderr, true);
        let (exit_code, signal) = match status {
            WaitStatus::Exited(_, code) => (code, None),
            WaitStatus::Signaled(_, signal, _) => (128 + signal as i32, Some(signal as i32)),
            _ => (255, None),
        };
        let started_at = match &self.state.phase {
            ContainerPhase::Running { started_at, .. } => *started_at,
            ContainerPhase::Exited(exit) => exit.started_at,
        };
        let oom_killed = exit_code != 0 && self.was_oom_killed();
        let exit = ContainerExit {
            exit_code,
            signal,
            oom_killed,
            started_at,
            finished_at: now().max(started_at),
            message: self.last_words(exit_code),
        };
        self.state.phase = ContainerPhase::Exited(exit.clone());
        self.stage = Stage::Ended;
        self.stdin = None;
        self.record()?;
        Ok(exit)
    }

    fn was_oom_killed(&self) -> bool {
        let Some(path) = &self.launch.cgroup.oom_events else {
            return false;
        };
        oom_kills(path) > 0
    }

    fn last_words(&self, exit_code: i32) -> String {
        let mut bytes = Vec::new();
        if let Ok(file) = fs::File::open(&self.launch.termination_message) {
            let _ = file.take(MESSAGE_BYTES_MAX).read_to_end(&mut bytes); // what could be read is the message
        }
        if bytes.is_empty() && exit_code != 0 && self.launch.termination_message_from_log {
            return end_of_log(&self.launch.log_path);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The count of `oom_kill` in `memory.oom_control` (v1) or `memory.events` (v2).
pub(crate) fn oom_kills(path: &Path) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
        .unwrap_or(0)
}

/// The end of a log's current file, without the CRI prefix of its lines.
fn end_of_log(path: &Path) -> String {
    use std::io::{Seek, SeekFrom};
    // Prefixes take room too: a line of one letter has 40 bytes of it.
    const SCAN_BYTES: u64 = 16 << 10;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(SCAN_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(SCAN_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let kept = lines[lines.len().saturating_sub(MESSAGE_LOG_LINES_MAX)..].join("\n");
    let mut start = kept.len().saturating_sub(MESSAGE_LOG_BYTES_MAX);
    while !kept.is_char_boundary(start) {
        start += 1;
    }
    kept[start..].to_owned()
}

/// Sends a signal to a process that is known not to be reaped. Not by nix, which has no real-time signals.
pub(super) fn send_signal(pid: Pid, signal: i32) -> nix::Result<()> {
    // SAFETY: kill takes plain numbers.
    nix::errno::Errno::result(unsafe { libc::kill(pid.as_raw(), signal) }).map(drop)
}
