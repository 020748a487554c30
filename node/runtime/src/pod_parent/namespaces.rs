//! The namespaces that a pod's containers share. The parent moves itself into them, so that every container inherits them by
//! its clone and they live exactly as long as the parent.

use std::fs;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::message::ParentConfig;
use super::user_namespace;
use crate::container::mounts::DetachedMount;
use crate::container::user_namespace::map_ids;
use crate::container::{LaunchFailure, capabilities, clone, rootfs};

/// What the parent holds for its containers beyond the namespaces that it is in itself.
pub(crate) struct PodNamespaces {
    /// The first process of the pid namespace that they share.
    pub pid_holder: Option<Pid>,
    /// The user namespace, which only containers enter: the parent needs the node's rights for the next one.
    pub user: Option<OwnedFd>,
}

/// Enters them all; `directory` is the pod's. Single-threaded callers only.
pub(crate) fn enter(config: &ParentConfig, directory: &Path) -> Result<PodNamespaces, LaunchFailure> {
    for file in &config.cgroup.task_files {
        fs::write(file, "0").map_err(|error| LaunchFailure::kernel(format!("write to {}", file.display()), error))?;
    }
    let mut shared = CloneFlags::CLONE_NEWUTS;
    shared.set(CloneFlags::CLONE_NEWNET, config.own_network);
    shared.set(CloneFlags::CLONE_NEWIPC, config.own_ipc);
    let namespaces = match config.user_namespace {
        Some(range) => user_namespace::make(config, range, shared)?,
        None => {
            unshare(shared).map_err(|errno| LaunchFailure::kernel(format!("unshare({shared:?})"), errno))?;
            write_sysctls(config)?;
            let pid_holder = config.shared_pids.then(|| hold_pid_namespace(0)).transpose()?;
            PodNamespaces { pid_holder, user: None }
        }
    };
    nix::unistd::sethostname(&config.hostname).map_err(|errno| LaunchFailure::kernel("sethostname", errno))?;
    if config.own_network {
        raise_loopback().map_err(|error| LaunchFailure::kernel("raising lo", error))?;
    }
    mount_for_containers(config)?;
    if let Some(user) = &namespaces.user {
        // Told now, for the whole pod, instead of at the start of each container: with the memory file systems below it,
        // the pod's directory is of every kind that a container is made of.
        let tree = DetachedMount::of_path(directory)
            .map_err(|error| LaunchFailure::kernel(format!("open_tree of {}", directory.display()), error))?;
        map_ids(&tree, user.as_fd(), directory)?;
    }
    Ok(namespaces)
}

/// The mount namespace that containers copy, with the pod's memory file systems. It belongs to the node also when the pod has
/// a user namespace: its mounts are then locked against the pod.
fn mount_for_containers(config: &ParentConfig) -> Result<(), LaunchFailure> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| LaunchFailure::kernel("unshare(CLONE_NEWNS)", errno))?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .map_err(|errno| LaunchFailure::kernel("mount(/, MS_REC|MS_PRIVATE)", errno))?;
    for memory in &config.memory_mounts {
        let mut options = format!("mode={:o}", memory.mode);
        if let Some(size_bytes) = memory.size_bytes {
            options.push_str(&format!(",size={size_bytes}"));
        }
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(
            Some("tmpfs"),
            &memory.path,
            Some("tmpfs"),
            flags,
            Some(options.as_str()),
        )
        .map_err(|errno| LaunchFailure::kernel(format!("tmpfs at {}", memory.path.display()), errno))?;
    }
    Ok(())
}

/// Writes the pod's sysctls, from inside of its namespaces.
pub(super) fn write_sysctls(config: &ParentConfig) -> Result<(), LaunchFailure> {
    config
        .sysctls
        .iter()
        .try_for_each(|(name, value)| write_sysctl(name, value))
}

/// `ip link set lo up`, without netlink.
fn raise_loopback() -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: ifreq is plain old data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: the request is a valid ifreq with a NUL-terminated name that outlives the call.
    if unsafe { libc::ioctl(descriptor, libc::SIOCSIFFLAGS, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Only sysctls that belong to a namespace which the pod has for itself reach this point; the name must not leave /proc/sys.
fn write_sysctl(name: &str, value: &str) -> Result<(), LaunchFailure> {
    let is_plain = !name.is_empty() && name.split(['.', '/']).all(|part| !part.is_empty());
    if !is_plain {
        return Err(LaunchFailure::configuration(format!(
            "{name:?} is not the name of a sysctl"
        )));
    }
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    fs::write(&path, value).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            LaunchFailure::configuration(format!("the kernel has no sysctl {name:?}"))
        } else {
            LaunchFailure::kernel(format!("sysctl {name}={value}"), error)
        }
    })
}

/// Makes the pid namespace that containers share, and its first process, which reaps orphans until the parent dies.
/// Containers see that process: it must be of no use to them (`confine`). `flags` is 0, or `CLONE_PARENT` from a process that
/// makes it for the pod's parent.
pub(super) fn hold_pid_namespace(flags: libc::c_int) -> Result<Pid, LaunchFailure> {
    unshare(CloneFlags::CLONE_NEWPID).map_err(|errno| LaunchFailure::kernel("unshare(CLONE_NEWPID)", errno))?;
    let (mut confined, confined_end) =
        std::io::pipe().map_err(|error| LaunchFailure::kernel("pipe to the pid namespace's first process", error))?;
    // SAFETY: the parent is single-threaded, so that the child may go on with a copy of its memory.
    let pid = unsafe { clone::clone_plain(flags) }
        .map_err(|error| LaunchFailure::kernel("clone of the pid namespace's first process", error))?;
    if pid == 0 {
        reap_for_ever(confined_end);
    }
    drop(confined_end);
    let mut answer = String::new();
    let read = confined.read_to_string(&mut answer);
    let child = Pid::from_raw(pid);
    if read.is_ok() && answer == "confined" {
        return Ok(child);
    }
    let _ = waitpid(child, None); // it has left, or was killed
    Err(LaunchFailure::Kernel {
        operation: "confinement of the pid namespace's first process".to_owned(),
        reason: answer,
    })
}

/// The first process of a shared pid namespace.
fn reap_for_ever(mut confined_end: PipeWriter) -> ! {
    if let Err(failure) = confine() {
        let _ = confined_end.write_all(format!("{failure:?}").as_bytes()); // the parent sees the end of the pipe anyway
        // SAFETY: _exit takes a number and never returns; destructors of the copied memory must not run in the child.
        unsafe { libc::_exit(1) }
    }
    let _ = confined_end.write_all(b"confined"); // a parent that is gone has taken this process along
    drop(confined_end);
    // SAFETY: close_range takes plain numbers; this process uses no descriptor from here on, and never returns to code that
    // owns one. The parent's ready pipe must not stay open here.
    unsafe { libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) };
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    loop {
        let _ = children.wait(); // SIGCHLD is blocked since before the fork: none is missed
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
    }
}

/// An empty root, no capabilities, not traceable: a container with CAP_SYS_PTRACE would otherwise reach the machine's files
/// through `/proc/1/root`.
fn confine() -> Result<(), LaunchFailure> {
    let kernel = |operation: &'static str| move |errno: nix::errno::Errno| LaunchFailure::kernel(operation, errno);
    unshare(CloneFlags::CLONE_NEWNS).map_err(kernel("unshare(CLONE_NEWNS)"))?;
    let empty = Path::new("/proc"); // any directory that exists everywhere
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), empty, Some("tmpfs"), flags, Some("size=0k")).map_err(kernel("mount of an empty root"))?;
    rootfs::pivot(empty)?;
    capabilities::limit_bounding_set(0)?;
    capabilities::limit_own_sets(0, true)?;
    nix::sys::prctl::set_dumpable(false).map_err(kernel("prctl(PR_SET_DUMPABLE)"))?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(kernel("prctl(PR_SET_PDEATHSIG)"))
}
