//! Mounts by file descriptor: a source is cloned into a detached mount while the node's file system is still visible, and
//! moved to its place after pivot_root, when every path, whatever symlinks the image or a volume holds, can only resolve
//! inside the container's root. Paths below a volume (`subPath`) are opened so that they cannot leave it.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::launch::LaunchFailure;

// From linux/mount.h; libc does not carry them for every target.
const OPEN_TREE_CLONE: libc::c_uint = 1;
const OPEN_TREE_CLOEXEC: libc::c_uint = libc::O_CLOEXEC as libc::c_uint;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
/// No writes.
pub(crate) const ATTR_RDONLY: u64 = 0x1;
/// Set-user-id bits are ignored.
pub(crate) const ATTR_NOSUID: u64 = 0x2;
/// Device nodes cannot be opened.
pub(crate) const ATTR_NODEV: u64 = 0x4;
/// Nothing can be executed.
pub(crate) const ATTR_NOEXEC: u64 = 0x8;
/// Owners are shown as a user namespace maps them.
const ATTR_IDMAP: u64 = 0x10_0000;
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

impl MountAttributes {
    fn setting(set: u64) -> Self {
        Self {
            set,
            clear: 0,
            propagation: 0,
            user_namespace: 0,
        }
    }
}

/// A mount without a place in any file system.
#[derive(Debug)]
pub(crate) struct DetachedMount(OwnedFd);

fn c_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

impl DetachedMount {
    /// Clones what is at `path`, with everything that is mounted below it.
    pub(crate) fn of_path(path: &Path) -> io::Result<Self> {
        Self::clone_tree(libc::AT_FDCWD, &c_string(path)?, 0)
    }

    /// Clones what the descriptor refers to.
    pub(crate) fn of_descriptor(descriptor: &OwnedFd) -> io::Result<Self> {
        Self::clone_tree(descriptor.as_raw_fd(), c"", libc::AT_EMPTY_PATH)
    }

    fn clone_tree(directory: libc::c_int, path: &CStr, extra: libc::c_int) -> io::Result<Self> {
        let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (libc::AT_RECURSIVE | extra) as libc::c_uint;
        // SAFETY: the path is a NUL-terminated string that outlives the call; the kernel only reads it.
        owned(unsafe { libc::syscall(libc::SYS_open_tree, directory, path.as_ptr(), flags) }).map(Self)
    }

    /// A fresh mount of a kernel file system without options, such as `proc`. It belongs to the namespaces of the caller.
    pub(crate) fn of_file_system(kind: &CStr, attributes: u64) -> io::Result<Self> {
        // SAFETY: the name is a NUL-terminated string that outlives the call; the kernel only reads it.
        let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })?;
        let configure = |command: libc::c_uint, key: *const libc::c_char, value: *const libc::c_char| {
            // SAFETY: key and value are null or NUL-terminated strings that outlive the call; the kernel only reads them.
            check(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0) })
        };
        configure(FSCONFIG_SET_STRING, c"source".as_ptr(), kind.as_ptr())?;
        configure(FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null())?;
        // SAFETY: fsmount takes plain numbers.
        owned(unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                context.as_raw_fd(),
                FSMOUNT_CLOEXEC,
                attributes as libc::c_uint,
            )
        })
        .map(Self)
    }

    /// Sets attributes on it and all below it.
    pub(crate) fn set_attributes(&self, attributes: u64) -> io::Result<()> {
        self.set(MountAttributes::setting(attributes))
    }

    /// Shows the owners of its files, and of all below it, as the user namespace maps them: id 0 on the disk is the
    /// namespace's root. Needs rights over the file system, and a file system that can (mount_setattr(2), "ID-mapped
    /// mounts").
    pub(crate) fn map_ids(&self, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
        self.set(MountAttributes {
            user_namespace: user_namespace.as_raw_fd() as u64,
            ..MountAttributes::setting(ATTR_IDMAP)
        })
    }

    fn set(&self, attributes: MountAttributes) -> io::Result<()> {
        let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
        set_attributes(self.0.as_raw_fd(), c"", flags, &attributes)
    }

    /// Its root, as this process and what it is about to execute reach it.
    pub(crate) fn path_in_proc(&self) -> std::path::PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }

    /// Puts it at a path, and makes its root the working directory.
    pub(crate) fn attach_and_enter(self, destination: &Path) -> io::Result<()> {
        self.place(destination)?;
        Ok(nix::unistd::fchdir(&self.0)?)
    }

    /// Puts it at a path.
    pub(crate) fn attach(self, destination: &Path) -> io::Result<()> {
        self.place(destination)
    }

    fn place(&self, destination: &Path) -> io::Result<()> {
        let destination = c_string(destination)?;
        // SAFETY: both paths are NUL-terminated strings that outlive the call; the kernel only reads them.
        check(unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                destination.as_ptr(),
                MOVE_MOUNT_F_EMPTY_PATH,
            )
        })?;
        Ok(())
    }
}

/// A descriptor that a system call returned.
fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    // SAFETY: the kernel has just returned this descriptor, and nobody else owns it.
    check(result).map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
}

fn set_attributes(directory: i32, path: &CStr, flags: libc::c_int, attributes: &MountAttributes) -> io::Result<()> {
    // SAFETY: path and structure outlive the call, the structure's size is passed, the kernel only reads them.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory,
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttributes>(),
        )
    })?;
    Ok(())
}

/// Makes the mount at a path read-only, not what is mounted below it.
pub(crate) fn make_read_only(path: &CStr) -> io::Result<()> {
    set_attributes(libc::AT_FDCWD, path, 0, &MountAttributes::setting(ATTR_RDONLY))
}

/// Opens a path below a directory, refusing any that leaves it by `..`, an absolute symlink or a magic link.
pub(crate) fn open_beneath(directory: &OwnedFd, path: &Path, flags: libc::c_int) -> io::Result<OwnedFd> {
    open_resolving(
        directory,
        path,
        flags,
        libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS,
    )
}

/// Opens a path as if the directory were `/`.
pub(crate) fn open_in_root(directory: &OwnedFd, path: &Path, flags: libc::c_int) -> io::Result<OwnedFd> {
    open_resolving(
        directory,
        path,
        flags,
        libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS,
    )
}

fn open_resolving(directory: &OwnedFd, path: &Path, flags: libc::c_int, resolve: u64) -> io::Result<OwnedFd> {
    let path = c_string(path)?;
    // SAFETY: open_how is plain old data for which all zeroes is the documented default.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.resolve = resolve;
    loop {
        // SAFETY: path and structure outlive the call, the structure's size is passed, the kernel only reads them.
        let result = owned(unsafe {
            libc::syscall(
                libc::SYS_openat2,
                directory.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        });
        match result {
            Ok(descriptor) => return Ok(descriptor),
            // A rename elsewhere during the walk: openat2(2) says to try again.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Opens the source of a volume mount. A `subPath` that does not exist is made as a directory, level by level, each one
/// resolved beneath the volume.
pub(crate) fn open_source(source: &Path, sub_path: &str) -> Result<OwnedFd, LaunchFailure> {
    let open = |path: &Path, flags| {
        nix::fcntl::open(
            path,
            nix::fcntl::OFlag::from_bits_retain(flags),
            nix::sys::stat::Mode::empty(),
        )
    };
    let root = open(source, libc::O_PATH | libc::O_CLOEXEC)
        .map_err(|errno| LaunchFailure::kernel(format!("open of volume {}", source.display()), errno))?;
    if sub_path.is_empty() {
        return Ok(root);
    }
    let refused = |error: io::Error| match error.raw_os_error() {
        Some(libc::EXDEV | libc::ELOOP) => LaunchFailure::configuration(format!(
            "subPath {sub_path:?} leads out of its volume: use a path within it"
        )),
        _ => LaunchFailure::kernel(format!("open of subPath {sub_path:?} in {}", source.display()), error),
    };
    let relative = Path::new(sub_path);
    match open_beneath(&root, relative, libc::O_PATH) {
        Ok(found) => return Ok(found),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        Err(error) => return Err(refused(error)),
    }
    let mut level = root;
    let mut walked = std::path::PathBuf::new();
    let volume = open(source, libc::O_PATH | libc::O_CLOEXEC)
        .map_err(|errno| LaunchFailure::kernel(format!("open of volume {}", source.display()), errno))?;
    for component in relative.components() {
        let std::path::Component::Normal(name) = component else {
            if component == std::path::Component::CurDir {
                continue;
            }
            return Err(LaunchFailure::configuration(format!(
                "subPath {sub_path:?} must be a relative path without '..'"
            )));
        };
        match nix::sys::stat::mkdirat(&level, name, nix::sys::stat::Mode::from_bits_retain(0o750)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(errno) => return Err(refused(errno.into())),
        }
        walked.push(name);
        level = open_beneath(&volume, &walked, libc::O_PATH | libc::O_DIRECTORY).map_err(refused)?;
    }
    Ok(level)
}
