//! The namespaces that a pod's containers share. The parent moves itself into them, so that every container inherits them by
//! its clone and they live exactly as long as the parent.

use std::fs;
use std::io;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::message::ParentConfig;
use crate::container::LaunchFailure;

/// Enters them all. Single-threaded callers only.
pub(crate) fn enter(config: &ParentConfig) -> Result<Option<Pid>, LaunchFailure> {
    for file in &config.cgroup.task_files {
        fs::write(file, "0").map_err(|error| LaunchFailure::kernel(format!("write to {}", file.display()), error))?;
    }
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS;
    flags.set(CloneFlags::CLONE_NEWNET, config.own_network);
    flags.set(CloneFlags::CLONE_NEWIPC, config.own_ipc);
    unshare(flags).map_err(|errno| LaunchFailure::kernel(format!("unshare({flags:?})"), errno))?;
    nix::unistd::sethostname(&config.hostname).map_err(|errno| LaunchFailure::kernel("sethostname", errno))?;
    if config.own_network {
        raise_loopback().map_err(|error| LaunchFailure::kernel("raising lo", error))?;
    }
    for (name, value) in &config.sysctls {
        write_sysctl(name, value)?;
    }
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
    if config.shared_pids {
        hold_pid_namespace().map(Some)
    } else {
        Ok(None)
    }
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
fn hold_pid_namespace() -> Result<Pid, LaunchFailure> {
    unshare(CloneFlags::CLONE_NEWPID).map_err(|errno| LaunchFailure::kernel("unshare(CLONE_NEWPID)", errno))?;
    // SAFETY: the parent is single-threaded, so that the child may go on with a copy of its memory.
    match unsafe { fork() }
        .map_err(|errno| LaunchFailure::kernel("fork of the pid namespace's first process", errno))?
    {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
            // The parent's ready pipe must not stay open here.
            for descriptor in 0..3 {
                // SAFETY: close takes a number; nothing in this process uses its standard streams from here on.
                unsafe { libc::close(descriptor) };
            }
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
    }
}
