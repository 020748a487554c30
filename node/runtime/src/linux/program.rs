//! The program of the pods' parents, reached through a mount of its own that cannot be written. A process of a container is a
//! copy of its pod's parent until it executes the image's program; what it may do in that moment with `/proc/self/exe` (the
//! class of CVE-2019-5736) it does to this mount, and not to the node's binary. As the mount holds the file itself, all
//! parents that this process starts are of its own version, also after the binary was replaced on the disk.
//!
//! runc executes a copy in memory instead, which costs the size of the binary; a read-only mount costs nothing.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::container::mounts::{ATTR_NODEV, ATTR_NOSUID, ATTR_RDONLY, DetachedMount};

/// The program.
pub(crate) struct ParentProgram {
    path: PathBuf,
    mount: DetachedMount,
}

impl ParentProgram {
    /// Mounts the file read-only, in no place of any file system.
    pub(crate) fn open(path: &Path) -> io::Result<ParentProgram> {
        let mount = DetachedMount::of_path(path)?;
        mount.set_attributes(ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV)?;
        Ok(ParentProgram {
            path: path.to_owned(),
            mount,
        })
    }

    /// A command that executes it. The descriptor closes in the new process as it executes.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(self.mount.path_in_proc());
        command.arg0(&self.path);
        command
    }
}

impl std::fmt::Display for ParentProgram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.path.display().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, OpenOptions};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    use std::process::Stdio;

    /// Runs a program and keeps hold of what its `/proc/PID/exe` leads to, as an attacker would, until it has ended: while it
    /// runs, nobody can write it.
    fn hold_of(mut command: Command) -> File {
        let mut child = command.arg("60").stdout(Stdio::null()).spawn().unwrap();
        let exe = format!("/proc/{}/exe", child.id());
        let held = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(exe)
            .unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        held
    }

    fn write_through(held: &File) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .open(format!("/proc/self/fd/{}", held.as_raw_fd()))
    }

    #[test]
    fn what_runs_it_cannot_write_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sleep");
        std::fs::copy("/bin/sleep", &path).unwrap();
        let plain = write_through(&hold_of(Command::new(&path)));
        assert!(plain.is_ok(), "the test shows nothing: {plain:?}");
        drop(plain);
        let program = ParentProgram::open(&path).unwrap();
        let error = write_through(&hold_of(program.command())).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{error}");
    }
}
