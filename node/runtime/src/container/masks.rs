//! Paths of `/proc` and `/sys` that a container must not read or write: the defaults of the OCI runtimes. Applied right
//! after `/proc` is mounted and before any volume, so that no volume can stand in their way.

use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::launch::LaunchFailure;
use super::mounts::{ATTR_RDONLY, DetachedMount};

/// Hidden: a file behind `/dev/null`, a directory behind an empty tmpfs.
pub(crate) const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Readable only.
pub(crate) const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Applies both lists (after the pivot); what the kernel does not have is skipped.
pub(crate) fn apply() -> Result<(), LaunchFailure> {
    for path in MASKED {
        let failed = |error: std::io::Error| LaunchFailure::kernel(format!("masking of {path}"), error);
        let Ok(what) = std::fs::symlink_metadata(path) else {
            continue;
        };
        if what.is_dir() {
            mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_RDONLY, Some("size=0k"))
                .map_err(|errno| failed(errno.into()))?;
        } else {
            DetachedMount::of_path(Path::new("/dev/null"))
                .and_then(|null| null.attach(Path::new(path)))
                .map_err(failed)?;
        }
    }
    for path in READ_ONLY {
        if !Path::new(path).exists() {
            continue;
        }
        let cover = || -> std::io::Result<()> {
            let own = DetachedMount::of_path(Path::new(path))?;
            own.set_attributes(ATTR_RDONLY)?;
            own.attach(Path::new(path))
        };
        cover().map_err(|error| LaunchFailure::kernel(format!("read-only mount of {path}"), error))?;
    }
    Ok(())
}
