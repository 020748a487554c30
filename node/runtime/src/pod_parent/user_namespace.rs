//! The making of a pod's user namespace and of the namespaces that belong to it. A short-lived child of the pod's parent makes
//! them all at once, so that the kernel makes the user namespace first and gives it the others; the parent writes the maps,
//! enters all but the user namespace, and keeps that one open for its containers.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::message::ParentConfig;
use super::namespaces::{PodNamespaces, hold_pid_namespace, write_sysctls};
use crate::container::user_namespace::{IdRange, become_root, open_namespace, refused};
use crate::container::{LaunchFailure, clone};

/// What the maker says after each of its two steps, as a line of JSON: the pid of the shared pid namespace's first process,
/// or 0 for none.
type Answer = Result<i32, LaunchFailure>;

/// Makes the user namespace and those in `shared`, and enters the latter. Single-threaded callers only.
pub(super) fn make(config: &ParentConfig, range: IdRange, shared: CloneFlags) -> Result<PodNamespaces, LaunchFailure> {
    let pipe = || std::io::pipe().map_err(|error| LaunchFailure::kernel("pipe to the namespaces' maker", error));
    let ((answers, answers_end), (orders, orders_end)) = (pipe()?, pipe()?);
    // SAFETY: the parent is single-threaded, so that the child may go on with a copy of its memory.
    let maker = unsafe { clone::clone_plain(0) }
        .map_err(|error| LaunchFailure::kernel("fork of the namespaces' maker", error))?;
    if maker == 0 {
        drop((answers, orders_end));
        be_maker(config, shared, answers_end, orders);
    }
    drop((answers_end, orders));
    let made = take_over(maker, range, shared, BufReader::new(answers), orders_end);
    let _ = waitpid(Pid::from_raw(maker), None); // its orders have ended, and so does it
    made
}

/// The parent's side, until the maker is no longer needed.
fn take_over(
    maker: i32,
    range: IdRange,
    shared: CloneFlags,
    mut answers: BufReader<PipeReader>,
    mut orders: PipeWriter,
) -> Result<PodNamespaces, LaunchFailure> {
    hear(&mut answers)?;
    range.map(maker)?;
    orders
        .write_all(b"!")
        .map_err(|error| LaunchFailure::kernel("write to the namespaces' maker", error))?;
    let pid_holder = hear(&mut answers)?;
    let user = open_namespace(maker, "user")?;
    let names = [
        (CloneFlags::CLONE_NEWUTS, "uts"),
        (CloneFlags::CLONE_NEWNET, "net"),
        (CloneFlags::CLONE_NEWIPC, "ipc"),
    ];
    for (flag, name) in names.into_iter().filter(|(flag, _)| shared.contains(*flag)) {
        enter(maker, flag, name)?;
    }
    let pid_holder = match pid_holder {
        0 => None,
        holder => {
            enter(holder, CloneFlags::CLONE_NEWPID, "pid")?;
            Some(Pid::from_raw(holder))
        }
    };
    Ok(PodNamespaces {
        pid_holder,
        user: Some(user),
    })
}

fn enter(pid: i32, flag: CloneFlags, name: &str) -> Result<(), LaunchFailure> {
    let namespace = open_namespace(pid, name)?;
    setns(namespace.as_fd(), flag).map_err(|errno| LaunchFailure::kernel(format!("setns into the pod's {name}"), errno))
}

fn hear(answers: &mut BufReader<PipeReader>) -> Answer {
    let mut line = String::new();
    let read = answers.read_line(&mut line);
    serde_json::from_str(&line).unwrap_or_else(|_| {
        Err(LaunchFailure::Kernel {
            operation: "making of the pod's user namespace".to_owned(),
            reason: format!("its maker was killed: {read:?}"),
        })
    })
}

/// The maker.
fn be_maker(config: &ParentConfig, shared: CloneFlags, mut answers: PipeWriter, mut orders: PipeReader) -> ! {
    let mut say = |answer: &Answer| {
        let mut line = serde_json::to_vec(answer).unwrap_or_default();
        line.push(b'\n');
        let _ = answers.write_all(&line); // a parent that is gone has nobody to tell
    };
    let made = unshare(CloneFlags::CLONE_NEWUSER | shared).map_err(refused);
    say(&made.clone().map(|()| 0));
    let mut order = [0; 1];
    if made.is_ok() && orders.read_exact(&mut order).is_ok() {
        say(&fit_out(config));
        let _ = orders.read(&mut order); // the end of the orders: the parent has opened what it needs
    }
    // SAFETY: _exit takes a number and never returns; destructors of the copied memory must not run in the child.
    unsafe { libc::_exit(0) }
}

/// What must be done from inside: sysctls of the ipc namespace obey its owner's root alone, and a pid namespace belongs to the
/// user namespace of the process that makes it.
fn fit_out(config: &ParentConfig) -> Answer {
    become_root()?;
    write_sysctls(config)?;
    if config.shared_pids {
        hold_pid_namespace(libc::CLONE_PARENT).map(Pid::as_raw)
    } else {
        Ok(0)
    }
}
