//! A command in a container that runs (exec): the steps of its process from the clone to exec. It runs in a child of the pod's
//! parent; whatever fails is sent through the status pipe, which a successful exec closes. The process gets what the
//! container's first one has: cgroups, namespaces, user, rights, filter, directory and environment. The order:
//!
//! 1. cgroups first: all that follows is counted and limited;
//! 2. what lies among the node's files is read while they are in sight: the filter;
//! 3. all namespaces are entered at once, by a descriptor of the container's first process; then a sibling goes on, since
//!    a pid namespace of the container's own holds only processes that are cloned after the entry;
//! 4. the terminal, if one is wanted, is made in the container's own devpts and sent to the node process;
//! 5. rights are given up last.
//!
//! Until exec the process has the node's rights inside of the container: it is not dumpable, opens nothing by a path of the
//! container but its user table and the terminal (whose kind it checks), and runs nothing.

use std::convert::Infallible;
use std::fs;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::{Mode, fstat};

use super::init::{
    die_with_parent, enter_cgroup, enter_working_directory, give_up_rights, kernel, reset_signals, standard_streams,
};
use super::launch::{ContainerLaunch, LaunchFailure};
use super::user_namespace::{become_root, give_output, go_on_in_sibling};
use super::{exec, seccomp, user};

/// What is to run.
pub(crate) struct JoiningCommand<'a> {
    /// Program and arguments.
    pub argv: &'a [String],
    /// How the container was started.
    pub container: &'a ContainerLaunch,
    /// A pidfd of its first process.
    pub first_process: BorrowedFd<'a>,
}

/// Its standard streams.
pub(crate) enum JoiningStreams {
    /// Input, output and error. The last two are pipes: they are given to the container's user.
    Pipes([OwnedFd; 3]),
    /// A terminal is made; its other end goes out through this socket.
    Terminal(OwnedFd),
}

/// Runs in the child; never returns.
pub(crate) fn run(command: &JoiningCommand<'_>, streams: JoiningStreams, status: OwnedFd) -> ! {
    let mut status = fs::File::from(status);
    let failure = match join_and_exec(command, &streams, &mut status) {
        Err(failure) => failure,
        Ok(never) => match never {},
    };
    let text = serde_json::to_vec(&failure).unwrap_or_default();
    let _ = status.write_all(&text); // a parent that is gone has nobody to tell
    // SAFETY: _exit takes a number and never returns; destructors of the copied memory must not run in the child.
    unsafe { libc::_exit(1) }
}

fn join_and_exec(
    command: &JoiningCommand<'_>,
    streams: &JoiningStreams,
    status: &mut fs::File,
) -> Result<Infallible, LaunchFailure> {
    let container = command.container;
    die_with_parent()?;
    kernel("prctl(PR_SET_DUMPABLE)", nix::sys::prctl::set_dumpable(false))?;
    if let JoiningStreams::Pipes([stdin, stdout, stderr]) = streams {
        standard_streams([stdin, stdout, stderr])?;
        if let Some(range) = container.user_namespace {
            give_output(range)?;
        }
    }
    reset_signals()?;
    enter_cgroup(container)?;
    let filter = container.seccomp_filter.as_deref().map(seccomp::read).transpose()?;
    enter_namespaces(command)?;
    if container.has_pids_apart() {
        go_on_in_sibling(status, 0)?;
    }
    die_with_parent()?; // neither a change of user nor a clone keeps it
    kernel("setsid", nix::unistd::setsid().map(drop))?;
    if let JoiningStreams::Terminal(socket) = streams {
        make_terminal(socket.as_fd())?;
    }
    let user = user::resolve_in_root(&container.user)?;
    enter_working_directory(container)?;
    give_up_rights(container, &user, filter.as_deref())?;
    die_with_parent()?;
    let mut env = container.env.clone();
    let mut add = |name: &str, value: &str| {
        if !env.iter().any(|(known, _)| known == name) {
            env.push((name.to_owned(), value.to_owned()));
        }
    };
    add("HOME", &user.home);
    if matches!(streams, JoiningStreams::Terminal(_)) {
        add("TERM", "xterm");
    }
    Err(exec::execute(command.argv, &env))
}

/// The pod's other namespaces came with the clone, and a pid namespace that containers share did too: the pids that a process
/// in it is told mean nothing to the pod's parent, which is why such a one does not clone the next.
fn enter_namespaces(command: &JoiningCommand<'_>) -> Result<(), LaunchFailure> {
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP;
    flags.set(CloneFlags::CLONE_NEWPID, command.container.has_pids_apart());
    flags.set(CloneFlags::CLONE_NEWUSER, command.container.user_namespace.is_some());
    kernel(
        "setns into the container's namespaces",
        setns(command.first_process, flags),
    )?;
    if command.container.user_namespace.is_some() {
        become_root()?;
    }
    Ok(())
}

/// Magic number of devpts (statfs(2)).
const DEVPTS_MAGIC: libc::c_long = 0x1cd1;

/// Makes a terminal in the container's devpts, as this session's controlling terminal and standard streams.
fn make_terminal(socket: BorrowedFd<'_>) -> Result<(), LaunchFailure> {
    let path = "/dev/pts/ptmx";
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let master = kernel(
        "open of /dev/pts/ptmx in the container",
        open(path, flags, Mode::empty()),
    )?;
    check_is_terminal(&master)?;
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int, which outlives the call.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) } < 0 {
        return Err(LaunchFailure::kernel("ioctl(TIOCSPTLCK)", io::Error::last_os_error()));
    }
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes flags and returns a new descriptor: the other end without any path.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if slave < 0 {
        return Err(LaunchFailure::kernel("ioctl(TIOCGPTPEER)", io::Error::last_os_error()));
    }
    // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
    let slave = unsafe { OwnedFd::from_raw_fd(slave) };
    let descriptors = [master.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let sent = sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(b"!")],
        &rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    );
    kernel("sending the terminal to the node process", sent.map(drop))?;
    standard_streams([&slave, &slave, &slave])?;
    // SAFETY: this ioctl takes a number; descriptor 0 is the terminal.
    if unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } < 0 {
        return Err(LaunchFailure::kernel("ioctl(TIOCSCTTY)", io::Error::last_os_error()));
    }
    Ok(())
}

/// A container may have put anything at that path.
fn check_is_terminal(master: &OwnedFd) -> Result<(), LaunchFailure> {
    let of_file = kernel("fstat of /dev/pts/ptmx", fstat(master))?;
    let is_ptmx = of_file.st_mode & libc::S_IFMT == libc::S_IFCHR && of_file.st_rdev == libc::makedev(5, 2);
    let file_system = kernel("fstatfs of /dev/pts/ptmx", nix::sys::statfs::fstatfs(master))?;
    if is_ptmx && file_system.filesystem_type().0 as libc::c_long == DEVPTS_MAGIC {
        return Ok(());
    }
    Err(LaunchFailure::configuration(
        "/dev/pts/ptmx in the container is not the terminals' device: without it there is no terminal, run the command \
         without one",
    ))
}
