//! The steps of a container's first process, in their order, from the clone to exec. It runs in the child: whatever fails
//! is sent to the parent through the status pipe, which a successful exec closes. The order is the security argument:
//!
//! 1. cgroup first: all that follows is counted and limited;
//! 2. what needs the node's rights and files is taken while they are there: sources of mounts, the root, the filter;
//! 3. the pod's user namespace is entered, if it has one; the cgroup namespace, rooted in the container's group;
//! 4. the pivot, after which no path leads outside;
//! 5. `/proc` and its masks come before volumes, so that no volume can hide a mask;
//! 6. rights are given up last, the seccomp filter as late as it can be loaded.

use std::convert::Infallible;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::Gid;

use super::launch::{ContainerLaunch, LaunchFailure, RootSource};
use super::mounts::{ATTR_NODEV, ATTR_NOSUID, ATTR_RDONLY, DetachedMount, make_read_only, open_source};
use super::user::ResolvedUser;
use super::user_namespace::{self, map_ids};
use super::{capabilities, devices, exec, masks, rootfs, seccomp, user};

/// The descriptors that the child gets.
pub(crate) struct ChildDescriptors {
    /// Standard input.
    pub stdin: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
    /// Where a failure is reported; closed by exec.
    pub status: OwnedFd,
}

/// Runs in the child, with the pod's user namespace if it has one; never returns.
pub(crate) fn run(
    launch: &ContainerLaunch,
    descriptors: ChildDescriptors,
    user_namespace: Option<BorrowedFd<'_>>,
) -> ! {
    let streams = [&descriptors.stdin, &descriptors.stdout, &descriptors.stderr];
    let mut status = fs::File::from(descriptors.status);
    let failure = match prepare_and_exec(launch, streams, user_namespace, &mut status) {
        Err(failure) => failure,
        Ok(never) => match never {},
    };
    let text = serde_json::to_vec(&failure).unwrap_or_default();
    let _ = status.write_all(&text); // a parent that is gone has nobody to tell
    // SAFETY: _exit takes a number and never returns; destructors of the copied memory must not run in the child.
    unsafe { libc::_exit(1) }
}

pub(super) fn kernel<T>(operation: &str, result: nix::Result<T>) -> Result<T, LaunchFailure> {
    result.map_err(|errno| LaunchFailure::kernel(operation, errno))
}

fn prepare_and_exec(
    launch: &ContainerLaunch,
    streams: [&OwnedFd; 3],
    user_namespace: Option<BorrowedFd<'_>>,
    status: &mut fs::File,
) -> Result<Infallible, LaunchFailure> {
    die_with_parent()?;
    // Until exec this process has the node's rights and files; others in a shared pid namespace must not trace it.
    kernel("prctl(PR_SET_DUMPABLE)", nix::sys::prctl::set_dumpable(false))?;
    standard_streams(streams)?;
    reset_signals()?;
    enter_cgroup(launch)?;
    private_mounts()?;
    let taken = take_from_node(launch, user_namespace)?;
    if let Some(user_namespace) = user_namespace {
        user_namespace::enter(user_namespace, launch.own_pid_namespace, status)?;
        die_with_parent()?; // neither a change of user nor a clone keeps it
    }
    become_container(launch, taken)
}

/// What is taken with the node's rights from the node's files.
struct Taken {
    filter: Option<Vec<u8>>,
    binds: Vec<TakenBind>,
    devices: devices::DeviceSources,
}

/// Takes it, mounts the root and makes it the working directory.
fn take_from_node(launch: &ContainerLaunch, user_namespace: Option<BorrowedFd<'_>>) -> Result<Taken, LaunchFailure> {
    if let Some(range) = launch.user_namespace {
        user_namespace::give_output(range)?;
    }
    let filter = launch.seccomp_filter.as_deref().map(seccomp::read).transpose()?;
    let binds = take_binds(launch, user_namespace)?;
    let devices = devices::take_sources(launch.privileged, &launch.shm, user_namespace)?;
    let root = rootfs::mount_root(&launch.root, &launch.directory, launch.privileged, user_namespace)?;
    kernel("chdir to the new root", nix::unistd::chdir(&root))?;
    Ok(Taken { filter, binds, devices })
}

/// From the pivot on, in the namespaces of the container.
fn become_container(launch: &ContainerLaunch, taken: Taken) -> Result<Infallible, LaunchFailure> {
    kernel("setsid", nix::unistd::setsid().map(drop))?;
    if launch.tty {
        // SAFETY: this ioctl takes a number; descriptor 0 is the terminal.
        if unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } < 0 {
            return Err(LaunchFailure::kernel("ioctl(TIOCSCTTY)", io::Error::last_os_error()));
        }
    }
    kernel("unshare(CLONE_NEWCGROUP)", unshare(CloneFlags::CLONE_NEWCGROUP))?;
    let kernel_file_systems = devices::KernelFileSystems::make(launch.privileged)?;
    rootfs::pivot_here()?;
    kernel_file_systems.attach()?;
    devices::mount_cgroups(&launch.cgroup.mounts)?;
    devices::mount_dev(taken.devices)?;
    if !launch.privileged {
        masks::apply()?;
    }
    attach_binds(taken.binds)?;
    let user = user::resolve_in_root(&launch.user)?;
    enter_working_directory(launch)?;
    if launch.read_only_root {
        make_read_only(c"/").map_err(|error| LaunchFailure::kernel("read-only remount of /", error))?;
    }
    give_up_rights(launch, &user, taken.filter.as_deref())?;
    die_with_parent()?; // the change of user cleared it
    let mut env = launch.env.clone();
    if !env.iter().any(|(name, _)| name == "HOME") {
        env.push(("HOME".to_owned(), user.home));
    }
    Err(exec::execute(&launch.argv, &env))
}

/// A pod's parent that dies takes its containers along: nobody would collect their output and exits.
pub(super) fn die_with_parent() -> Result<(), LaunchFailure> {
    kernel(
        "prctl(PR_SET_PDEATHSIG)",
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL),
    )
}

pub(super) fn standard_streams(streams: [&OwnedFd; 3]) -> Result<(), LaunchFailure> {
    for (from, to) in streams.into_iter().zip(0..) {
        // SAFETY: dup2 takes plain numbers; the parent keeps /dev/null at 0, 1 and 2, so that none of the three
        // descriptors is one of the targets, and nothing in this process owns the targets as Rust objects.
        if unsafe { libc::dup2(from.as_raw_fd(), to) } < 0 {
            return Err(LaunchFailure::kernel(
                "dup2 of a standard stream",
                io::Error::last_os_error(),
            ));
        }
    }
    // Whatever the parent might have opened without close-on-exec ends here too (CLOSE_RANGE_CLOEXEC = 4).
    // SAFETY: close_range takes plain numbers, and with this flag closes nothing before exec.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 4) };
    Ok(())
}

/// The parent blocks signals, and Rust's runtime ignores SIGPIPE; a container starts with the defaults. Other dispositions
/// were reset when the parent started, and exec resets handlers.
pub(super) fn reset_signals() -> Result<(), LaunchFailure> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code of ours.
    kernel("sigaction", unsafe { sigaction(Signal::SIGPIPE, &default) }.map(drop))?;
    kernel("sigprocmask", SigSet::empty().thread_set_mask())
}

pub(super) fn enter_cgroup(launch: &ContainerLaunch) -> Result<(), LaunchFailure> {
    for file in &launch.cgroup.task_files {
        // "0" is the writing process: no pid of any namespace is needed.
        fs::write(file, "0").map_err(|error| LaunchFailure::kernel(format!("write to {}", file.display()), error))?;
    }
    // Lowering needs CAP_SYS_RESOURCE, which a nested machine may lack; the score is a preference among victims.
    let written = fs::write("/proc/self/oom_score_adj", launch.oom_score_adj.to_string());
    match written {
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => {
            Err(LaunchFailure::kernel("write to oom_score_adj", error))
        }
        _ => Ok(()),
    }
}

fn private_mounts() -> Result<(), LaunchFailure> {
    kernel(
        "mount(/, MS_REC|MS_PRIVATE)",
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        ),
    )
}

struct TakenBind {
    mount: DetachedMount,
    is_directory: bool,
    destination: String,
}

/// Opens the sources while they are visible. With a user namespace, ids on the disk are the pod's: what lies in a volume
/// looks the same with another range of the node's ids, after a restart of the pod's parent or on another node.
fn take_binds(
    launch: &ContainerLaunch,
    user_namespace: Option<BorrowedFd<'_>>,
) -> Result<Vec<TakenBind>, LaunchFailure> {
    let mut taken = Vec::with_capacity(launch.binds.len());
    for bind in &launch.binds {
        let source = open_source(&bind.source, &bind.sub_path)?;
        let metadata = kernel("fstat of a volume", nix::sys::stat::fstat(&source))?;
        let detached = DetachedMount::of_descriptor(&source)
            .map_err(|error| LaunchFailure::kernel(format!("open_tree of {}", bind.source.display()), error))?;
        let mut attributes = 0;
        if !launch.privileged {
            attributes |= ATTR_NODEV;
        }
        if bind.read_only {
            attributes |= ATTR_RDONLY;
        }
        if launch.no_new_privileges {
            attributes |= ATTR_NOSUID;
        }
        detached
            .set_attributes(attributes)
            .map_err(|error| LaunchFailure::kernel(format!("mount_setattr of {}", bind.source.display()), error))?;
        if let Some(user_namespace) = user_namespace {
            map_ids(&detached, user_namespace, &bind.source)?;
        }
        taken.push(TakenBind {
            mount: detached,
            is_directory: metadata.st_mode & libc::S_IFMT == libc::S_IFDIR,
            destination: bind.destination.clone(),
        });
    }
    Ok(taken)
}

/// Puts them in their places, after the pivot.
fn attach_binds(binds: Vec<TakenBind>) -> Result<(), LaunchFailure> {
    for bind in binds {
        let destination = Path::new(&bind.destination);
        if bind.is_directory {
            rootfs::make_directory(destination)?;
        } else {
            rootfs::make_file(destination)?;
        }
        bind.mount
            .attach(destination)
            .map_err(|error| LaunchFailure::kernel(format!("mount of {}", bind.destination), error))?;
    }
    Ok(())
}

pub(super) fn enter_working_directory(launch: &ContainerLaunch) -> Result<(), LaunchFailure> {
    let path = Path::new(if launch.working_dir.is_empty() {
        "/"
    } else {
        &launch.working_dir
    });
    if matches!(launch.root, RootSource::Layers(_)) {
        rootfs::make_directory(path)?;
    }
    nix::unistd::chdir(path).map_err(|errno| {
        LaunchFailure::configuration(format!(
            "the working directory {} cannot be entered: {}",
            path.display(),
            errno.desc()
        ))
    })
}

/// The bounding set, the filter, groups, group, user, capabilities. Without no_new_privs, loading a filter needs
/// CAP_SYS_ADMIN and so comes before the rights go; with it, it comes last.
pub(super) fn give_up_rights(
    launch: &ContainerLaunch,
    user: &ResolvedUser,
    filter: Option<&[u8]>,
) -> Result<(), LaunchFailure> {
    if launch.no_new_privileges {
        kernel("prctl(PR_SET_NO_NEW_PRIVS)", nix::sys::prctl::set_no_new_privs())?;
    }
    capabilities::limit_bounding_set(launch.capabilities)?;
    if let Some(filter) = filter.filter(|_| !launch.no_new_privileges) {
        seccomp::install(filter)?;
    }
    // A program that opens /dev/stdout opens the log's pipe anew, which the kernel allows its owner only.
    for stream in [1, 2] {
        // SAFETY: fchown takes plain numbers; descriptors 1 and 2 are the log's pipes, and are not closed here.
        unsafe { libc::fchown(stream, user.uid, libc::gid_t::MAX) };
    }
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    kernel("setgroups", nix::unistd::setgroups(&groups))?;
    let gid = Gid::from_raw(user.gid);
    kernel("setresgid", nix::unistd::setresgid(gid, gid, gid))?;
    let uid = nix::unistd::Uid::from_raw(user.uid);
    kernel("setresuid", nix::unistd::setresuid(uid, uid, uid))?;
    capabilities::limit_own_sets(launch.capabilities, user.uid == 0)?;
    if let Some(filter) = filter.filter(|_| launch.no_new_privileges) {
        seccomp::install(filter)?;
    }
    // SAFETY: umask takes a number and cannot fail.
    unsafe { libc::umask(0o022) };
    Ok(())
}
