//! A kernel that lacks a feature: a program is started so that the calls by which it would use the feature are answered as a
//! kernel without it answers them. A seccomp filter sees numbers and no strings, and a mount namespace can hide files: between
//! them they are as near as a test comes without booting another kernel.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

/// What the kernel lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacking {
    /// nfnetlink: a socket of that protocol cannot be made.
    Netfilter,
    /// overlayfs, though it is listed. A filter cannot read the file system's name: mounts without flags are refused.
    OverlayMounts,
    /// overlayfs, as /proc/filesystems tells, and every other file system beside it.
    OverlayListed,
    /// Namespaces of every kind.
    Namespaces,
    /// mount_setattr(2), which came with Linux 5.12.
    MountSetattr,
    /// cgroups: none are mounted.
    Cgroups,
}

/// `NETLINK_NETFILTER`.
const NETFILTER: u64 = libc::NETLINK_NETFILTER as u64;

/// Lets a command run on such a kernel.
pub fn without(lacking: Lacking, command: &mut Command) -> &mut Command {
    if let Some(program) = filter(lacking) {
        // SAFETY: the filter was compiled before; prctl and seccomp are async-signal-safe.
        return unsafe { command.pre_exec(move || apply_filter(&program).map_err(io::Error::other)) };
    }
    // SAFETY: system calls with constant arguments only.
    unsafe { command.pre_exec(move || hide(lacking)) }
}

/// The filter that refuses, for what a filter can see.
fn filter(lacking: Lacking) -> Option<BpfProgram> {
    let equals = |index, value| condition(index, SeccompCmpOp::Eq, value);
    let (call, refusals, errno) = match lacking {
        Lacking::Netfilter => {
            let of_netfilter = vec![equals(0, libc::AF_NETLINK as u64), equals(2, NETFILTER)];
            (libc::SYS_socket, vec![rule(of_netfilter)], libc::EPROTONOSUPPORT)
        }
        Lacking::OverlayMounts => (libc::SYS_mount, vec![rule(vec![equals(3, 0)])], libc::ENODEV),
        Lacking::Namespaces => (libc::SYS_unshare, Vec::new(), libc::EINVAL),
        Lacking::MountSetattr => (libc::SYS_mount_setattr, Vec::new(), libc::ENOSYS),
        Lacking::OverlayListed | Lacking::Cgroups => return None,
    };
    let architecture = std::env::consts::ARCH.try_into().expect("an architecture with seccomp");
    let answer = SeccompAction::Errno(errno as u32);
    let rules = BTreeMap::from([(call, refusals)]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, architecture).expect("a filter of one rule");
    Some(filter.try_into().expect("a filter of one rule can be compiled"))
}

fn condition(index: u8, operator: SeccompCmpOp, value: u64) -> SeccompCondition {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value).expect("a call has six arguments")
}

fn rule(conditions: Vec<SeccompCondition>) -> SeccompRule {
    SeccompRule::new(conditions).expect("a rule has a condition")
}

/// Hides files from the calling process, in a mount namespace of its own.
fn hide(lacking: Lacking) -> io::Result<()> {
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    match lacking {
        Lacking::OverlayListed => {
            mount(Some("/dev/null"), "/proc/filesystems", none, MsFlags::MS_BIND, none)?;
            // Nor is there a module that would be loaded at the first mount.
            match mount(Some("tmpfs"), "/lib/modules", Some("tmpfs"), MsFlags::empty(), none) {
                Err(nix::errno::Errno::ENOENT) => {}
                other => other?,
            }
        }
        Lacking::Cgroups => umount2("/sys/fs/cgroup", MntFlags::MNT_DETACH)?,
        _ => {}
    }
    Ok(())
}
