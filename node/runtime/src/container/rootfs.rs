//! The container's root: an overlay over the image's layers (or the machine's own root, for a program of the host), and
//! the pivot into it. It runs in the container's own mount namespace, so its mounts are seen by nobody else and end with
//! the container.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;

use super::launch::{LaunchFailure, RootSource};
use super::mounts::DetachedMount;
use super::user_namespace::map_ids;

/// Mounts the root at `directory/root` and returns that path. Nothing on it can be opened as a device: nodes in an
/// image, or made with CAP_MKNOD, would otherwise reach the machine's disks. With a user namespace the files of the layers
/// appear owned as it maps them.
pub(crate) fn mount_root(
    source: &RootSource,
    directory: &Path,
    privileged: bool,
    user_namespace: Option<BorrowedFd<'_>>,
) -> Result<PathBuf, LaunchFailure> {
    let root = directory.join("root");
    let no_devices = if privileged {
        MsFlags::empty()
    } else {
        MsFlags::MS_NODEV
    };
    match source {
        RootSource::Layers(layers) => {
            if let Some(user_namespace) = user_namespace {
                cover_with_mapped(layers, user_namespace)?;
            }
            overlay(layers, directory, &root, no_devices)?;
        }
        RootSource::Host => {
            mount(
                Some("/"),
                &root,
                None::<&str>,
                MsFlags::MS_BIND | MsFlags::MS_REC,
                None::<&str>,
            )
            .map_err(|errno| LaunchFailure::kernel("bind mount of the machine's root", errno))?;
        }
    }
    Ok(root)
}

/// Mounts each layer's id-mapped clone onto the layer itself: seen only in this mount namespace, and in no need of mount
/// points of its own. overlayfs takes a mount without a place as a layer since Linux 6.15 only.
fn cover_with_mapped(layers: &[PathBuf], user_namespace: BorrowedFd<'_>) -> Result<(), LaunchFailure> {
    // An image may list a layer twice, and a mount is mapped once.
    for layer in layers.iter().collect::<BTreeSet<_>>() {
        let mapped = DetachedMount::of_path(layer)
            .map_err(|error| LaunchFailure::kernel(format!("open_tree of layer {}", layer.display()), error))?;
        map_ids(&mapped, user_namespace, layer)?;
        mapped
            .attach(layer)
            .map_err(|error| LaunchFailure::kernel(format!("mount of the mapped layer {}", layer.display()), error))?;
    }
    Ok(())
}

/// The layers are named through descriptors: the option string of mount(2) is limited to a page, in which 60 full paths
/// fit but 200 descriptors, and no path needs escaping.
fn overlay(layers: &[PathBuf], directory: &Path, root: &Path, flags: MsFlags) -> Result<(), LaunchFailure> {
    let mut held = Vec::with_capacity(layers.len());
    let mut names = Vec::with_capacity(layers.len());
    // overlayfs wants the topmost layer first, an image lists it last.
    for layer in layers.iter().rev() {
        let descriptor = open(
            layer,
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| LaunchFailure::kernel(format!("open of layer {}", layer.display()), errno))?;
        names.push(format!("/proc/self/fd/{}", descriptor.as_raw_fd()));
        held.push(descriptor);
    }
    let open_directory = |name: &str| {
        let path = directory.join(name);
        open(
            &path,
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| LaunchFailure::kernel(format!("open of {}", path.display()), errno))
    };
    let (upper, work) = (open_directory("upper")?, open_directory("work")?);
    // `volatile`: the upper directory is thrown away with the container, so its unmount need not sync it (ten times faster).
    let options = format!(
        "lowerdir={},upperdir=/proc/self/fd/{},workdir=/proc/self/fd/{},volatile",
        names.join(":"),
        upper.as_raw_fd(),
        work.as_raw_fd()
    );
    mount(Some("overlay"), root, Some("overlay"), flags, Some(options.as_str()))
        .map_err(|errno| LaunchFailure::kernel(format!("overlay mount of {} layers", layers.len()), errno))
}

fn step(operation: &str, result: nix::Result<()>) -> Result<(), LaunchFailure> {
    result.map_err(|errno| LaunchFailure::kernel(operation, errno))
}

/// Makes `root` the root of this mount namespace and lets go of the old one.
pub(crate) fn pivot(root: &Path) -> Result<(), LaunchFailure> {
    step("chdir to the new root", nix::unistd::chdir(root))?;
    pivot_here()
}

/// Makes the working directory, which is the root of a mount, the root of this mount namespace.
pub(crate) fn pivot_here() -> Result<(), LaunchFailure> {
    // pivot_root(".", ".") puts the old root on top of the new one, from where it is unmounted: no directory for it is
    // needed inside the image (pivot_root(2), "pivot_root(".", ".")").
    step("pivot_root", nix::unistd::pivot_root(".", "."))?;
    step("unmount of the old root", umount2(".", MntFlags::MNT_DETACH))?;
    step("chdir to /", nix::unistd::chdir("/"))
}

/// Makes a directory inside the root (after the pivot), with those above it.
pub(crate) fn make_directory(path: &Path) -> Result<(), LaunchFailure> {
    fs::create_dir_all(path)
        .map_err(|error| LaunchFailure::kernel(format!("mkdir {} in the container", path.display()), error))
}

/// Makes an empty file inside the root on which a file can be mounted. An existing one is not opened, which would copy it up
/// from its layer. Images ship `/etc/resolv.conf` as a symlink whose target does not exist: the target is made then (every
/// path resolves inside the root here).
pub(crate) fn make_file(path: &Path) -> Result<(), LaunchFailure> {
    let create = |exclusive: bool| {
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .create_new(exclusive)
            .truncate(false)
            .open(path)
            .map(drop)
    };
    if create(true).is_ok() || path.exists() {
        return Ok(());
    }
    let above = path.parent().unwrap_or(Path::new("/"));
    make_directory(above)?;
    if let Ok(target) = fs::read_link(path)
        && let Some(target_above) = above.join(target).parent()
    {
        make_directory(target_above)?;
    }
    // Without O_EXCL: a dangling symlink is followed and its target made.
    create(false)
        .map_err(|error| LaunchFailure::kernel(format!("creation of {} in the container", path.display()), error))
}
