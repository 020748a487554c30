//! `/proc`, `/sys` and `/dev` of a container. Device nodes are bind mounts of the machine's own: the tmpfs around them is
//! mounted `nodev`, so that a node which the container makes there itself (CAP_MKNOD is in the default set) opens nothing.
//! This needs no devices cgroup, which v2 would want as a BPF program.

use std::os::fd::BorrowedFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::launch::{CgroupMount, LaunchFailure};
use super::mounts::{ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, DetachedMount, make_read_only};
use super::rootfs::{make_directory, make_file};
use super::user_namespace::map_ids;

/// The devices that every container has (OCI runtime specification, "Default Devices").
const DEFAULT_DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// What is taken from the machine's file system before the pivot.
pub(crate) struct DeviceSources {
    nodes: Vec<(&'static str, DetachedMount)>,
    all: Option<DetachedMount>,
    shm: DetachedMount,
}

fn mount_step(what: &str, result: nix::Result<()>) -> Result<(), LaunchFailure> {
    result.map_err(|errno| LaunchFailure::kernel(format!("mount of {what}"), errno))
}

/// Clones the device nodes; all of the machine's `/dev` for a privileged container. With a user namespace the pod's
/// `/dev/shm` belongs to its root; the nodes stay the machine's.
pub(crate) fn take_sources(
    privileged: bool,
    shm: &Path,
    user_namespace: Option<BorrowedFd<'_>>,
) -> Result<DeviceSources, LaunchFailure> {
    let take = |path: &Path| {
        DetachedMount::of_path(path)
            .map_err(|error| LaunchFailure::kernel(format!("open_tree of {}", path.display()), error))
    };
    let shm_path = shm;
    let shm = take(shm_path)?;
    shm.set_attributes(ATTR_NODEV | ATTR_NOSUID)
        .map_err(|error| LaunchFailure::kernel("mount_setattr of /dev/shm", error))?;
    if let Some(user_namespace) = user_namespace {
        map_ids(&shm, user_namespace, shm_path)?;
    }
    if privileged {
        return Ok(DeviceSources {
            nodes: Vec::new(),
            all: Some(take(Path::new("/dev"))?),
            shm,
        });
    }
    let nodes = DEFAULT_DEVICES
        .iter()
        .map(|name| Ok((*name, take(&Path::new("/dev").join(name))?)))
        .collect::<Result<_, LaunchFailure>>()?;
    Ok(DeviceSources { nodes, all: None, shm })
}

/// `/proc` and `/sys` of the container's namespaces, not in their places yet.
pub(crate) struct KernelFileSystems {
    proc: DetachedMount,
    sys: DetachedMount,
}

impl KernelFileSystems {
    /// Makes them before the pivot: in a mount namespace that belongs to a user namespace, the kernel grants them only while
    /// the machine's own are in sight (mount_namespaces(7)).
    pub(crate) fn make(privileged: bool) -> Result<Self, LaunchFailure> {
        let safe = ATTR_NOSUID | ATTR_NOEXEC | ATTR_NODEV;
        let of_sys = if privileged { safe } else { safe | ATTR_RDONLY };
        let make = |kind: &std::ffi::CStr, attributes| {
            DetachedMount::of_file_system(kind, attributes)
                .map_err(|error| LaunchFailure::kernel(format!("mount of {}", kind.to_string_lossy()), error))
        };
        Ok(Self {
            proc: make(c"proc", safe)?,
            sys: make(c"sysfs", of_sys)?,
        })
    }

    /// Puts them in their places (after the pivot).
    pub(crate) fn attach(self) -> Result<(), LaunchFailure> {
        for (mount, path) in [(self.proc, Path::new("/proc")), (self.sys, Path::new("/sys"))] {
            make_directory(path)?;
            attach(mount, path)?;
        }
        Ok(())
    }
}

fn attach(mount: DetachedMount, path: &Path) -> Result<(), LaunchFailure> {
    mount
        .attach(path)
        .map_err(|error| LaunchFailure::kernel(format!("mount of {}", path.display()), error))
}

/// Shows the container its own cgroups, read-only: programs size themselves by their limits. Needs `/sys`, and a cgroup
/// namespace that begins at the container's groups.
pub(crate) fn mount_cgroups(mounts: &[CgroupMount]) -> Result<(), LaunchFailure> {
    let place = Path::new("/sys/fs/cgroup");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV | MsFlags::MS_RDONLY;
    let is_single = matches!(mounts, [only] if only.directory.is_empty());
    if !is_single {
        let writable = flags & !MsFlags::MS_RDONLY;
        mount_step(
            "/sys/fs/cgroup",
            mount(Some("tmpfs"), place, Some("tmpfs"), writable, Some("mode=755,size=64k")),
        )?;
    }
    for entry in mounts {
        let (kind, options) = if entry.v2 {
            ("cgroup2", None)
        } else {
            ("cgroup", Some(entry.options.as_str()))
        };
        let target = place.join(&entry.directory);
        if !is_single {
            make_directory(&target)?;
        }
        mount_step(
            "a cgroup hierarchy",
            mount(Some(kind), &target, Some(kind), flags, options),
        )?;
    }
    if is_single {
        return Ok(());
    }
    make_read_only(c"/sys/fs/cgroup").map_err(|error| LaunchFailure::kernel("read-only /sys/fs/cgroup", error))
}

/// Makes `/dev` (after the pivot).
pub(crate) fn mount_dev(sources: DeviceSources) -> Result<(), LaunchFailure> {
    let dev = Path::new("/dev");
    make_directory(dev)?;
    if let Some(all) = sources.all {
        attach(all, dev)?;
        return attach(sources.shm, Path::new("/dev/shm"));
    }
    mount_step(
        "/dev",
        mount(
            Some("tmpfs"),
            dev,
            Some("tmpfs"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_STRICTATIME,
            Some("mode=755,size=65536k"),
        ),
    )?;
    for (name, node) in sources.nodes {
        let path = dev.join(name);
        make_file(&path)?;
        attach(node, &path)?;
    }
    for directory in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
        make_directory(Path::new(directory))?;
    }
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount_step(
        "/dev/pts",
        mount(
            Some("devpts"),
            "/dev/pts",
            Some("devpts"),
            safe,
            Some("newinstance,ptmxmode=0666,mode=0620,gid=5"),
        ),
    )?;
    attach(sources.shm, Path::new("/dev/shm"))?;
    mount_step(
        "/dev/mqueue",
        mount(
            Some("mqueue"),
            "/dev/mqueue",
            Some("mqueue"),
            safe | MsFlags::MS_NODEV,
            None::<&str>,
        ),
    )?;
    for (target, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
        ("pts/ptmx", "/dev/ptmx"),
    ] {
        symlink(target, link).map_err(|error| LaunchFailure::kernel(format!("symlink {link}"), error))?;
    }
    Ok(())
}
