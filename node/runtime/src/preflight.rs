//! What a machine must offer, checked before a node starts: each missing feature with what to do about it. It changes
//! nothing that lasts: what it tries, it tries in a child process or a namespace of its own.

use std::fs;
use std::io;
use std::path::Path;

use caps::{CapSet, Capability};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use crate::cgroup::Hierarchies;

/// A feature that the machine lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingFeature {
    /// Its name.
    pub feature: &'static str,
    /// What was found, and what to do.
    pub message: String,
}

/// Capabilities without which no container can be started.
const NEEDED: [Capability; 9] = [
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_MKNOD,
    Capability::CAP_KILL,
];

/// Checks the machine. Empty when a node can run. Blocking; takes a few milliseconds.
pub fn preflight() -> Vec<MissingFeature> {
    let mut missing = Vec::new();
    let mut check = |feature: &'static str, found: Result<(), String>| {
        if let Err(message) = found {
            missing.push(MissingFeature { feature, message });
        }
    };
    check("root", is_root());
    check("capabilities", has_capabilities());
    check("kernel", kernel_is_young());
    check("overlayfs", file_system("overlay", "load the module: modprobe overlay"));
    check("mqueue", file_system("mqueue", "use a kernel with CONFIG_POSIX_MQUEUE"));
    check("namespaces", namespaces());
    check("cgroups", controllers());
    check("seccomp", seccomp());
    missing
}

/// Checks that container roots can be mounted below a data directory: its file system must carry overlayfs' upper layers.
/// Blocking; leaves nothing.
pub fn preflight_data_dir(data_dir: &Path) -> Vec<MissingFeature> {
    let trial = data_dir.join(format!("preflight-{}", std::process::id()));
    let tried = try_overlay(&trial);
    let removed = fs::remove_dir_all(&trial);
    let message = match (tried, removed) {
        (Ok(()), Ok(())) => return Vec::new(),
        (Err(reason), _) => reason,
        (_, Err(error)) => format!("{} cannot be removed: {error}", trial.display()),
    };
    vec![MissingFeature {
        feature: "data directory",
        message,
    }]
}

fn try_overlay(trial: &Path) -> Result<(), String> {
    for name in ["lower", "upper", "work", "root"] {
        let path = trial.join(name);
        fs::create_dir_all(&path).map_err(|error| {
            format!(
                "{} cannot be made: {error}; choose a data directory on a writable disk",
                path.display()
            )
        })?;
    }
    let place = |name: &str| trial.join(name).display().to_string();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},volatile",
        place("lower"),
        place("upper"),
        place("work")
    );
    let root = trial.join("root");
    // A thread with a mount namespace of its own: the mount ends with it, and nobody else sees it.
    let mounted = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
        nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        let none = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("overlay"), &root, Some("overlay"), none, Some(options.as_str()))?;
        nix::mount::umount(&root)
    });
    match mounted.join() {
        Ok(Ok(())) => Ok(()),
        Ok(Err(errno)) => Err(format!(
            "overlayfs cannot be mounted below {}: {errno}; choose a data directory on ext4, xfs, btrfs or tmpfs, not on \
             an overlay or a network file system",
            trial.display()
        )),
        Err(_) => Err("the trial mount of overlayfs panicked".to_owned()),
    }
}

fn is_root() -> Result<(), String> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(format!(
        "this process runs as uid {}: start the node as root, for example with sudo",
        nix::unistd::geteuid()
    ))
}

fn has_capabilities() -> Result<(), String> {
    let held = caps::read(None, CapSet::Effective).map_err(|error| error.to_string())?;
    let lacking: Vec<String> = NEEDED
        .iter()
        .filter(|needed| !held.contains(needed))
        .map(|needed| needed.to_string())
        .collect();
    if lacking.is_empty() {
        return Ok(());
    }
    Err(format!(
        "this process lacks {}: start it as root, and in a container as a privileged one",
        lacking.join(", ")
    ))
}

/// mount_setattr(2), the youngest call that is used.
fn kernel_is_young() -> Result<(), String> {
    // SAFETY: null pointers and a size of zero: the call fails with EINVAL where it exists, and touches nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            -1,
            std::ptr::null::<u8>(),
            0,
            std::ptr::null::<u8>(),
            0,
        )
    };
    if result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) {
        return Err("the kernel lacks mount_setattr(2): use Linux 5.12 or later".to_owned());
    }
    Ok(())
}

fn file_system(name: &str, advice: &str) -> Result<(), String> {
    let known = fs::read_to_string("/proc/filesystems").map_err(|error| format!("/proc is not mounted: {error}"))?;
    if known.lines().any(|line| line.split_whitespace().last() == Some(name)) {
        return Ok(());
    }
    // A module may be there that is loaded at the first mount.
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let module = Path::new("/lib/modules")
        .join(release.trim())
        .join(format!("kernel/fs/{name}fs"));
    if module.exists() {
        Ok(())
    } else {
        Err(format!("the kernel has no file system {name}: {advice}"))
    }
}

/// Tried in a child process, which ends right after.
fn namespaces() -> Result<(), String> {
    // SAFETY: the child calls only async-signal-safe functions (unshare and _exit), as a process with threads must.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            let flags = CloneFlags::CLONE_NEWNS
                | CloneFlags::CLONE_NEWPID
                | CloneFlags::CLONE_NEWNET
                | CloneFlags::CLONE_NEWIPC
                | CloneFlags::CLONE_NEWUTS
                | CloneFlags::CLONE_NEWCGROUP;
            let code = match unshare(flags) {
                Ok(()) => 0,
                Err(errno) => errno as i32,
            };
            // SAFETY: _exit takes a number and never returns.
            unsafe { libc::_exit(code) }
        }
        Ok(ForkResult::Parent { child }) => match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, 0)) => Ok(()),
            Ok(WaitStatus::Exited(_, code)) => Err(format!(
                "namespaces cannot be made ({}): raise /proc/sys/user/max_*_namespaces, or use a kernel with them",
                io::Error::from_raw_os_error(code)
            )),
            other => Err(format!("namespaces could not be tried: {other:?}")),
        },
        Err(errno) => Err(format!("namespaces could not be tried: fork: {errno}")),
    }
}

fn controllers() -> Result<(), String> {
    let found = Hierarchies::detect().map_err(|error| format!("/proc/self/mountinfo cannot be read: {error}"))?;
    let missing: Vec<&str> = found.missing().iter().map(|controller| controller.name()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "the cgroup controllers {} are mounted nowhere: mount cgroup2 at /sys/fs/cgroup, or boot with them enabled \
         (cgroup_enable=memory); in a network namespace, enter it with nsenter --net, which keeps /sys",
        missing.join(", ")
    ))
}

fn seccomp() -> Result<(), String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if status.lines().any(|line| line.starts_with("Seccomp:")) {
        return Ok(());
    }
    Err("the kernel has no seccomp: use one with CONFIG_SECCOMP_FILTER".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_runs_these_tests_as_root_lacks_nothing() {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test checks the machine for containers: run it as root"
        );
        assert_eq!(preflight(), Vec::new());
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(preflight_data_dir(directory.path()), Vec::new());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_data_directory_that_cannot_carry_roots_is_told_with_its_reason() {
        let missing = preflight_data_dir(Path::new("/proc"));
        assert!(missing[0].message.contains("choose a data directory"), "{missing:?}");
    }
}
