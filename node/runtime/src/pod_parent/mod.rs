//! The per-pod parent: one small process per pod, the parent of its containers and the holder of the namespaces that they
//! share. It is the node's own binary, re-executed as `actorium pod-parent DIRECTORY`; the binary calls [`main`] before any
//! thread starts. It outlives the node process: it has a session of its own, is nobody's child, and talks through a socket in
//! the pod's directory to whichever node process connects.
//!
//! Invariants: single-threaded (its clones may allocate); an exit is in the container's state file before the process is
//! reaped and before anybody is told; it decides nothing (no restarts, no back-off); when it dies, its containers die.

pub(crate) mod attach;
pub(crate) mod child;
pub(crate) mod event_loop;
pub(crate) mod exec;
pub(crate) mod log_writer;
pub(crate) mod message;
pub(crate) mod namespaces;
pub(crate) mod record;
pub(crate) mod status_pipe;
pub(crate) mod terminal;
pub(crate) mod user_namespace;

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::fcntl::{OFlag, open};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::unistd::setsid;

use crate::container::LaunchFailure;
use crate::container::clone::fork_into;
use message::{ParentConfig, ParentIdentity, Readiness};

/// The file with the [`ParentConfig`] in the pod's directory.
pub(crate) const CONFIG_FILE: &str = "parent.json";
/// The file with the parent's [`ParentIdentity`]: by it a later node process, or a reset, finds and ends it.
pub(crate) const IDENTITY_FILE: &str = "parent-identity.json";
/// The socket in the pod's directory.
pub(crate) const SOCKET_FILE: &str = "parent.sock";

/// Runs the parent of the pod whose directory is the first argument (what follows `pod-parent` on the command line). Returns
/// in the process that was started as soon as the parent, its grandchild so to speak, is on its own; there it returns when
/// the pod is over. Must be called before any thread starts.
pub fn main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(directory) = arguments.next().map(PathBuf::from) else {
        eprintln!("pod-parent: the pod's directory is missing; this command is for the node process only");
        return ExitCode::from(2);
    };
    // SAFETY: umask takes a number and cannot fail.
    unsafe { libc::umask(0o022) };
    // It was executed by a descriptor, whose number would be its name in `ps`.
    // SAFETY: the name is a NUL-terminated string that outlives the call.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"actorium".as_ptr()) };
    // A descriptor that the node process failed to close on exec (a listening socket, say) would be held here past its
    // death; its working directory would keep a file system busy.
    // SAFETY: close_range takes plain numbers; nothing was opened in this process yet but the standard streams.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    bound_open_files();
    let _ = nix::unistd::chdir("/"); // fails only where there is no root directory
    reset_ignored_signals();
    // A session of its own first, so that no terminal's signals reach it; then a fork, after which it is no session leader
    // and, its starter having left, the child of init.
    let _ = setsid(); // fails only for a group leader, which a freshly spawned process is not
    match read_config(&directory).and_then(|config| Ok((leave_starter(&config)?, config))) {
        Ok((true, _)) => ExitCode::SUCCESS,
        Ok((false, config)) => match set_up(&directory, &config) {
            Ok(parent) => {
                parent.run();
                ExitCode::SUCCESS
            }
            Err(failure) => {
                announce(&Readiness::Failed(failure));
                ExitCode::FAILURE
            }
        },
        Err(failure) => {
            announce(&Readiness::Failed(failure));
            ExitCode::FAILURE
        }
    }
}

/// Open files of a program that asks for no more, as a login has it: the node process has raised its own limit, and a program
/// that walks through all descriptors, or keeps them in a set of 1,024, must not inherit that.
const OPEN_FILES: u64 = 1024;

fn bound_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(OPEN_FILES), hard); // lowering is always allowed
    }
}

/// A node process that was started with ignored signals (nohup) hands them down through exec: containers must not have them.
/// SIGPIPE stays ignored here, so that a node process which goes away is an error of a write and not a death.
fn reset_ignored_signals() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in
        Signal::iterator().filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP | Signal::SIGPIPE))
    {
        // SAFETY: the default action runs no code of ours.
        let _ = unsafe { sigaction(signal, &default) }; // fails only for numbers that are no signals
    }
}

fn read_config(directory: &Path) -> Result<ParentConfig, LaunchFailure> {
    record::read_json(&directory.join(CONFIG_FILE)).map_err(|error| {
        LaunchFailure::configuration(format!("the pod's parent cannot read its {CONFIG_FILE}: {error}"))
    })
}

/// Forks; true in the process that was started, which has nothing more to do.
fn leave_starter(config: &ParentConfig) -> Result<bool, LaunchFailure> {
    let group = match &config.cgroup.unified {
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
    // SAFETY: the caller of `main` promises that no thread was started.
    let pid = unsafe { fork_into(group.as_ref().map(AsFd::as_fd)) }
        .map_err(|error| LaunchFailure::kernel("fork of the pod's parent", error))?;
    Ok(pid != 0)
}

/// One line on standard output, which the node process reads.
fn announce(readiness: &Readiness) {
    let mut line = serde_json::to_vec(readiness).unwrap_or_default();
    line.push(b'\n');
    let _ = std::io::stdout().write_all(&line); // a node process that is gone needs no answer
    let _ = std::io::stdout().flush();
}

fn set_up(directory: &Path, config: &ParentConfig) -> Result<event_loop::Parent, LaunchFailure> {
    let pid = std::process::id() as i32;
    let identity = ParentIdentity::of(pid)
        .ok_or_else(|| LaunchFailure::configuration(format!("/proc/{pid}/stat cannot be read: is /proc mounted?")))?;
    record::write_json(&directory.join(IDENTITY_FILE), &identity)
        .map_err(|error| LaunchFailure::kernel(format!("write of {IDENTITY_FILE}"), error))?;
    let kernel = |operation: &'static str| move |errno: nix::errno::Errno| LaunchFailure::kernel(operation, errno);
    let null =
        open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).map_err(kernel("open of /dev/null"))?;
    // Signals come through a descriptor. Those that would end the process are blocked too: only SIGKILL ends a pod's
    // parent from outside, so that a stray `kill` or a terminal's hang-up does not take a pod down.
    let mut signals = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        signals.add(signal);
    }
    signals.thread_block().map_err(kernel("sigprocmask"))?;
    let signal_descriptor =
        SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(kernel("signalfd"))?;
    // Under memory pressure of the machine a pod's containers go before their parent. Needs CAP_SYS_RESOURCE: a preference.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-998");
    let namespaces = namespaces::enter(config, directory)?;
    // Orphans of a container without pid namespace of its own come here and are reaped.
    nix::sys::prctl::set_child_subreaper(true).map_err(kernel("prctl(PR_SET_CHILD_SUBREAPER)"))?;
    let listener = listen(directory)
        .map_err(|error| LaunchFailure::kernel(format!("socket {SOCKET_FILE} in the pod's directory"), error))?;
    announce(&Readiness::Ready(identity));
    for stream in 0..2 {
        // SAFETY: dup2 takes plain numbers; standard error stays with the file that the node process gave.
        unsafe { libc::dup2(null.as_raw_fd(), stream) };
    }
    Ok(event_loop::Parent::new(signal_descriptor, listener, namespaces, null))
}

/// The socket is named through a descriptor of its directory: a path in a socket address is limited to 108 bytes.
fn listen(directory: &Path) -> std::io::Result<UnixListener> {
    let held = open(
        directory,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    let address = format!("/proc/self/fd/{}/{SOCKET_FILE}", held.as_raw_fd());
    let listener = UnixListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
