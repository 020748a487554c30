//! Where things lie below the data directory, and which names may become path components. Pure.

use std::path::{Path, PathBuf};

use protocol::Uid;
use protocol::runtime::RuntimeError;

use crate::failure::configuration;

/// The longest file name of every file system that matters here.
const NAME_BYTES_MAX: usize = 253;

/// The data directory of a node.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// One directory per pod.
    pub(crate) fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// Directories on their way out; `open` empties it.
    pub(crate) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    /// Compiled seccomp filters.
    pub(crate) fn filters(&self) -> PathBuf {
        self.root.join("filters")
    }

    /// Which cgroups belong to this data directory, for `destroy_all`.
    pub(crate) fn runtime_record(&self) -> PathBuf {
        self.root.join("runtime.json")
    }

    /// A pod's directory.
    pub(crate) fn pod(&self, uid: &Uid) -> Result<PodLayout, RuntimeError> {
        checked_name("uid", uid.as_str())?;
        Ok(PodLayout {
            root: self.pods().join(uid.as_str()),
        })
    }
}

/// A pod's directory.
#[derive(Clone, Debug)]
pub(crate) struct PodLayout {
    pub(crate) root: PathBuf,
}

impl PodLayout {
    /// The sandbox's record.
    pub(crate) fn record(&self) -> PathBuf {
        self.root.join("sandbox.json")
    }

    /// A file that is mounted at `/etc/NAME`.
    pub(crate) fn etc(&self, name: &str) -> PathBuf {
        self.root.join("etc").join(name)
    }

    /// What the pod's parent says on standard error.
    pub(crate) fn parent_log(&self) -> PathBuf {
        self.root.join("parent.log")
    }

    /// The pod's `/dev/shm`.
    pub(crate) fn shm(&self) -> PathBuf {
        self.root.join("shm")
    }

    /// All volumes.
    pub(crate) fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// One volume.
    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        self.volumes().join(name)
    }

    /// All containers.
    pub(crate) fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// All starts of a container.
    pub(crate) fn container(&self, name: &str) -> PathBuf {
        self.containers().join(name)
    }

    /// One start of a container.
    pub(crate) fn attempt(&self, name: &str, attempt: u32) -> PathBuf {
        self.container(name).join(attempt.to_string())
    }

    /// All logs of a container.
    pub(crate) fn container_logs(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(name)
    }

    /// The log of one start.
    pub(crate) fn log(&self, name: &str, attempt: u32) -> PathBuf {
        self.container_logs(name).join(format!("{attempt}.log"))
    }
}

/// The cgroup of a pod, below `cgroup_parent`.
pub(crate) fn pod_group(uid: &Uid) -> String {
    format!("pod{uid}")
}

/// The cgroup of one start, below its pod's.
pub(crate) fn attempt_group(name: &str, attempt: u32) -> String {
    format!("{name}-{attempt}")
}

/// The cgroup of all pods' parents, below `cgroup_parent`.
pub(crate) const PARENTS_GROUP: &str = "parents";

/// A name that becomes one path component: letters, digits, `-`, `_`, `.`, not beginning with a dot.
pub(crate) fn checked_name<'a>(what: &str, name: &'a str) -> Result<&'a str, RuntimeError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.starts_with('.') || !name.bytes().all(is_plain) {
        return Err(configuration(format!(
            "{what} {name:?} cannot name a directory: use letters, digits, '-', '_' and '.'"
        )));
    }
    Ok(name)
}

/// A relative path without `..`, such as a key of a Files volume.
pub(crate) fn checked_relative<'a>(what: &str, path: &'a str) -> Result<&'a Path, RuntimeError> {
    let parsed = Path::new(path);
    let is_inside = parsed
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_)));
    if path.is_empty() || !is_inside || path.contains('\0') {
        return Err(configuration(format!(
            "{what} {path:?} must be a relative path without '..'"
        )));
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_their_directory_are_refused() {
        for bad in ["", ".", "..", "a/b", "../x", ".hidden", "a\0b", "ü"] {
            assert!(checked_name("uid", bad).is_err(), "{bad:?}");
        }
        for good in ["0b7c2c1e-1111-4222-8333-944455556666", "web", "a.b_c-1"] {
            assert!(checked_name("uid", good).is_ok(), "{good:?}");
        }
        for bad in ["", "/etc/passwd", "../x", "a/../b", "./a"] {
            assert!(checked_relative("file", bad).is_err(), "{bad:?}");
        }
        assert!(checked_relative("file", "a/b.txt").is_ok());
    }
}
