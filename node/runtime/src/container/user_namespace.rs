//! A pod's user namespace (KEP-127): which ids of the node it holds, and how a process enters it. The pod's parent makes it
//! and stays outside; the first process of each container enters it here, after it has taken all that needs the node's
//! rights. Must never enter it earlier: there is no way back.

use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};

use super::clone::clone_plain;
use super::launch::LaunchFailure;
use super::mounts::DetachedMount;

/// How many user and group ids a pod has, as the kubelet gives it.
pub(crate) const IDS_PER_POD: u32 = 65_536;

/// What a person can do who cannot change the machine.
pub(crate) const WAY_OUT: &str = "or let the pod use the node's user ids (hostUsers: true)";

/// The node's ids behind a pod's: id 0 inside is `first` outside, and so on for [`IDS_PER_POD`] ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The node's id of the pod's root, for users and for groups.
    pub first: u32,
}

impl IdRange {
    /// Writes both maps of a process that has just made its user namespace.
    pub(crate) fn map(self, pid: i32) -> Result<(), LaunchFailure> {
        let line = format!("0 {} {IDS_PER_POD}\n", self.first);
        for kind in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{pid}/{kind}"), &line).map_err(|error| LaunchFailure::Kernel {
                operation: format!("write of {kind}"),
                reason: format!(
                    "{error}: the node process must hold the ids {} to {}, so do not run it inside of a user namespace, \
                     {WAY_OUT}",
                    self.first,
                    self.first + (IDS_PER_POD - 1),
                ),
            })?;
        }
        Ok(())
    }
}

/// Maps the owners of a mount's files; `path` is named when the file system cannot do it.
pub(crate) fn map_ids(mount: &DetachedMount, user_namespace: BorrowedFd<'_>, path: &Path) -> Result<(), LaunchFailure> {
    mount
        .map_ids(user_namespace)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL | libc::EPERM) => LaunchFailure::Kernel {
                operation: format!("id-mapped mount of {}", path.display()),
                reason: format!(
                    "{error}: its file system does not support id-mapped mounts on this kernel, which a pod with \
                     hostUsers: false needs; keep it on ext4, xfs or btrfs (tmpfs from Linux 6.3 on), {WAY_OUT}"
                ),
            },
            _ => LaunchFailure::kernel(format!("mount_setattr(MOUNT_ATTR_IDMAP) of {}", path.display()), error),
        })
}

/// Why a user namespace cannot be made, in words that help.
pub(crate) fn refused(errno: Errno) -> LaunchFailure {
    let advice = match errno {
        Errno::ENOSPC | Errno::EUSERS => "raise /proc/sys/user/max_user_namespaces",
        Errno::EINVAL | Errno::ENOSYS => "use a kernel with CONFIG_USER_NS",
        _ => "allow them to the node process",
    };
    LaunchFailure::Kernel {
        operation: "unshare(CLONE_NEWUSER)".to_owned(),
        reason: format!(
            "{}: the pod wants a user namespace of its own (hostUsers: false): {advice}, {WAY_OUT}",
            errno.desc()
        ),
    }
}

/// Becomes the root of the user namespace that this process is in. What it makes from here on belongs to that root.
pub(crate) fn become_root() -> Result<(), LaunchFailure> {
    let step = |operation: &str, result: nix::Result<()>| {
        result.map_err(|errno| LaunchFailure::kernel(format!("{operation} in the pod's user namespace"), errno))
    };
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    step("setgroups", nix::unistd::setgroups(&[]))?;
    step("setresgid", nix::unistd::setresgid(group, group, group))?;
    step("setresuid", nix::unistd::setresuid(user, user, user))
}

/// The standard streams of a container belong to its root, who may open them anew and give them away.
pub(crate) fn give_output(range: IdRange) -> Result<(), LaunchFailure> {
    for stream in [1, 2] {
        // SAFETY: fchown takes plain numbers; descriptors 1 and 2 are the log's pipes or the container's terminal.
        if unsafe { libc::fchown(stream, range.first, range.first) } < 0 {
            let error = std::io::Error::last_os_error();
            return Err(LaunchFailure::kernel("fchown of a standard stream", error));
        }
    }
    Ok(())
}

/// Enters the pod's user namespace, as its root, and a mount namespace that belongs to it. With a pid namespace of its own
/// the container goes on in a new process, a sibling of this one, which ends here: a pid namespace belongs to the user
/// namespace of the process that clones its first one. The pod's parent is told the pid through `status`.
pub(crate) fn enter(
    user_namespace: BorrowedFd<'_>,
    own_pid_namespace: bool,
    status: &mut fs::File,
) -> Result<(), LaunchFailure> {
    setns(user_namespace, CloneFlags::CLONE_NEWUSER)
        .map_err(|errno| LaunchFailure::kernel("setns into the pod's user namespace", errno))?;
    become_root()?;
    if own_pid_namespace {
        go_on_in_sibling(status, libc::CLONE_NEWNS | libc::CLONE_NEWPID)?;
    } else {
        unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| LaunchFailure::kernel("unshare(CLONE_NEWNS)", errno))?;
    }
    // The root came along as a mount that is locked against the namespace's owner, and pivot_root refuses such a one. Its
    // clone is not locked, but keeps what it was mounted with (mount_namespaces(7), "Restrictions on mount namespaces").
    DetachedMount::of_path(Path::new("."))
        .and_then(|root| root.attach_and_enter(Path::new(".")))
        .map_err(|error| LaunchFailure::kernel("bind mount of the root in the pod's user namespace", error))
}

/// Clones a sibling with these namespaces of its own, in which the caller returns; this process ends here. The pod's parent
/// is told the sibling's pid through `status`. Callers are forks of the pod's parent that have started no thread.
pub(crate) fn go_on_in_sibling(status: &mut fs::File, namespaces: libc::c_int) -> Result<(), LaunchFailure> {
    let (mut gate, gate_end): (PipeReader, PipeWriter) =
        std::io::pipe().map_err(|error| LaunchFailure::kernel("pipe to the container's first process", error))?;
    // SAFETY: this process is a fork of the pod's parent and has started no thread.
    let pid = unsafe { clone_plain(libc::CLONE_PARENT | namespaces) }
        .map_err(|error| LaunchFailure::kernel("clone3 of the container's first process", error))?;
    if pid != 0 {
        // In the pipe before the sibling passes the gate: whoever collects its exit can know it.
        let _ = status.write_all(&first_process_notice(pid)); // a parent that is gone has nobody to tell
        // SAFETY: _exit takes a number and never returns; destructors of the copied memory must not run here.
        unsafe { libc::_exit(0) }
    }
    drop(gate_end);
    let mut nothing = [0; 1];
    let _ = gate.read(&mut nothing); // the end of the pipe, when the other process has left
    Ok(())
}

/// The length of a notice.
pub(crate) const NOTICE_BYTES: usize = 5;

/// What the status pipe carries before anything else when a container goes on in a sibling: a zero, with which no report
/// of a failure begins, and the pid.
fn first_process_notice(pid: i32) -> [u8; NOTICE_BYTES] {
    let mut notice = [0; NOTICE_BYTES];
    notice[1..].copy_from_slice(&pid.to_le_bytes());
    notice
}

/// The pid in a notice, when that is what the bytes begin with.
pub(crate) fn noticed_pid(bytes: &[u8]) -> Option<i32> {
    let (0, pid) = bytes.first_chunk::<NOTICE_BYTES>()?.split_first()? else {
        return None;
    };
    Some(i32::from_le_bytes(pid.try_into().ok()?))
}

/// Opens a namespace of a process.
pub(crate) fn open_namespace(pid: i32, name: &str) -> Result<std::os::fd::OwnedFd, LaunchFailure> {
    let path = format!("/proc/{pid}/ns/{name}");
    fs::File::open(&path)
        .map(Into::into)
        .map_err(|error| LaunchFailure::kernel(format!("open of {path}"), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_told_from_a_report_of_failure() {
        assert_eq!(noticed_pid(&first_process_notice(70_000)), Some(70_000));
        assert_eq!(noticed_pid(&first_process_notice(70_000)[..4]), None);
        let report = serde_json::to_vec(&LaunchFailure::configuration("x")).unwrap();
        assert_eq!(noticed_pid(&report), None);
    }
}
