//! The clone of a container's first process, and of a pod's parent. The caller is the per-pod parent, or a child of it that
//! has not executed anything: single-threaded and small, so that a plain fork costs little and the child may allocate. The
//! net, ipc and uts namespaces are those of the pod and are inherited; pid and mount namespaces are made here, the cgroup
//! namespace later, when the child is in its cgroup.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Forks into a v2 cgroup, or the caller's own. `Ok(0)` is the child's side.
///
/// # Safety
/// The caller must be single-threaded: the child goes on with a copy of its memory, in which another thread's locks
/// would stay locked for ever.
pub(crate) unsafe fn fork_into(cgroup: Option<BorrowedFd<'_>>) -> io::Result<i32> {
    // SAFETY: the caller vouches for being single-threaded.
    unsafe { clone_process(0, cgroup) }
}

/// Clones with a container's namespaces. `Ok(0)` is the child's side.
///
/// # Safety
/// The caller must be single-threaded: the child goes on with a copy of its memory, in which another thread's locks
/// would stay locked for ever.
pub(crate) unsafe fn clone_container(own_pid_namespace: bool, cgroup: Option<BorrowedFd<'_>>) -> io::Result<i32> {
    let mut flags = libc::CLONE_NEWNS as u64;
    if own_pid_namespace {
        flags |= libc::CLONE_NEWPID as u64;
    }
    // SAFETY: the caller vouches for being single-threaded.
    unsafe { clone_process(flags, cgroup) }
}

/// Forks with flags of clone(2): namespaces, and `CLONE_PARENT` for a sibling, a child of the caller's own parent. `Ok(0)` is
/// the child's side.
///
/// # Safety
/// The caller must be single-threaded: the child goes on with a copy of its memory, in which another thread's locks
/// would stay locked for ever.
pub(crate) unsafe fn clone_plain(flags: libc::c_int) -> io::Result<i32> {
    // SAFETY: the caller vouches for being single-threaded.
    unsafe { clone_process(flags as u64, None) }
}

/// # Safety
/// As the callers.
unsafe fn clone_process(mut flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<i32> {
    // SAFETY: clone_args is plain old data for which all zeroes is the documented "not used".
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    if flags & libc::CLONE_PARENT as u64 == 0 {
        arguments.exit_signal = libc::SIGCHLD as u64; // a sibling's is that of the caller
    }
    if let Some(directory) = cgroup {
        // The child starts in its cgroup: a write to cgroup.procs of a v2 group waits for an RCU grace period.
        flags |= 0x2_0000_0000; // CLONE_INTO_CGROUP of linux/sched.h; libc has it as a c_int, which it does not fit
        arguments.cgroup = directory.as_raw_fd() as u64;
    }
    arguments.flags = flags;
    // SAFETY: the structure lives across the call and its size is passed; without CLONE_VM and with no stack given the
    // child runs on a copy of this stack, as after fork. The caller vouches for being single-threaded.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    if pid < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(pid as i32)
    }
}
