//! Volumes of a pod: directories of its own, file sets that are replaced atomically, paths of the node. Called while a
//! sandbox starts and when a `Files` volume changes. Blocking. It writes only below the pod's `volumes` directory, except for
//! a hostPath of type `...OrCreate`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use protocol::runtime::{FileContent, RuntimeError, VolumeSource, VolumeSpec};

use super::layout::{PodLayout, checked_name, checked_relative};
use crate::failure::{configuration, io_failure, now};
use crate::pod_parent::message::MemoryMount;

/// The symlink to the present set of files, as the kubelet names it: programs watch it to notice a change.
const CURRENT: &str = "..data";

/// Checks names and paths; nothing is made.
pub(crate) fn validate(volumes: &[VolumeSpec]) -> Result<(), RuntimeError> {
    let mut names = BTreeSet::new();
    for volume in volumes {
        checked_name("volume", &volume.name)?;
        if !names.insert(&volume.name) {
            return Err(configuration(format!("two volumes are named {:?}", volume.name)));
        }
        match &volume.source {
            VolumeSource::Files { files, .. } => {
                for path in files.keys() {
                    checked_relative("the path of a volume's file", path)?;
                    if path.starts_with("..") {
                        return Err(configuration(format!("a volume's file cannot be named {path:?}")));
                    }
                }
            }
            VolumeSource::HostPath { path, .. } if !path.is_absolute() => {
                return Err(configuration(format!("hostPath {} must be absolute", path.display())));
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_in_memory(source: &VolumeSource) -> bool {
    matches!(
        source,
        VolumeSource::EmptyDir { memory: true, .. } | VolumeSource::Files { memory: true, .. }
    )
}

/// The memory file systems that the pod's parent must mount.
pub(crate) fn memory_mounts(layout: &PodLayout, volumes: &[VolumeSpec]) -> Vec<MemoryMount> {
    volumes
        .iter()
        .filter(|volume| is_in_memory(&volume.source))
        .map(|volume| MemoryMount {
            path: layout.volume(&volume.name),
            size_bytes: match volume.source {
                VolumeSource::EmptyDir { size_limit_bytes, .. } => size_limit_bytes,
                _ => None,
            },
            mode: 0o777,
        })
        .collect()
}

/// Where a volume is reached from the node process: those in memory exist only in the mount namespace of the pod's parent.
pub(crate) fn path_from_node(layout: &PodLayout, volume: &VolumeSpec, parent_pid: i32) -> PathBuf {
    let path = layout.volume(&volume.name);
    if !is_in_memory(&volume.source) {
        return path;
    }
    let mut through = PathBuf::from(format!("/proc/{parent_pid}/root"));
    through.push(path.strip_prefix("/").unwrap_or(&path));
    through
}

/// Makes the directories, before the parent starts.
pub(crate) fn make_directories(layout: &PodLayout, volumes: &[VolumeSpec]) -> Result<(), RuntimeError> {
    for volume in volumes {
        if let VolumeSource::HostPath { path, kind } = &volume.source {
            prepare_host_path(&volume.name, path, kind)?;
            continue;
        }
        let path = layout.volume(&volume.name);
        let make = || -> io::Result<()> {
            fs::create_dir_all(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(0o777))
        };
        make().map_err(|error| io_failure(format!("making volume {}", volume.name), &error))?;
    }
    Ok(())
}

/// Fills the volumes, when the parent holds its mounts.
pub(crate) fn fill(
    layout: &PodLayout,
    volumes: &[VolumeSpec],
    fs_group: Option<u32>,
    parent_pid: i32,
) -> Result<(), RuntimeError> {
    for volume in volumes {
        let path = path_from_node(layout, volume, parent_pid);
        match &volume.source {
            VolumeSource::Files { files, .. } => write_files(&path, files, fs_group)
                .map_err(|error| io_failure(format!("writing volume {}", volume.name), &error))?,
            VolumeSource::EmptyDir { .. } => own_by_group(&path, fs_group)
                .map_err(|error| io_failure(format!("fsGroup of volume {}", volume.name), &error))?,
            VolumeSource::HostPath { .. } => {}
        }
    }
    Ok(())
}

/// The root of an emptyDir belongs to fsGroup, and so does what is made in it (set-group-id).
fn own_by_group(path: &Path, fs_group: Option<u32>) -> io::Result<()> {
    let Some(group) = fs_group else { return Ok(()) };
    chown(path, None, Some(group))?;
    fs::set_permissions(path, Permissions::from_mode(0o2777))
}

/// Replaces a set of files as the kubelet does: the new set is written beside the old one, `..data` is renamed onto it, and
/// what a container sees (`name -> ..data/name`) changes in one step. An unchanged set is left alone.
pub(crate) fn write_files(
    volume: &Path,
    files: &BTreeMap<String, FileContent>,
    fs_group: Option<u32>,
) -> io::Result<()> {
    let current = volume.join(CURRENT);
    let previous = fs::read_link(&current).ok();
    if previous.is_some() && is_same(&current, files) {
        return Ok(());
    }
    let mut version = format!("..{}", now().0);
    let mut attempt = 0;
    while volume.join(&version).exists() {
        attempt += 1; // two updates in one millisecond
        version = format!("..{}.{attempt}", now().0);
    }
    let directory = volume.join(&version);
    write_set(&directory, files, fs_group)?;
    let fresh = volume.join("..data_tmp");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(&version, &fresh)?;
    fs::rename(&fresh, &current)?;
    let visible: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &visible {
        let link = volume.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(CURRENT).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(volume)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !visible.contains(name.as_ref()) {
            fs::remove_file(entry.path())?;
        }
    }
    if let Some(previous) = previous {
        fs::remove_dir_all(volume.join(previous))?;
    }
    Ok(())
}

fn write_set(directory: &Path, files: &BTreeMap<String, FileContent>, fs_group: Option<u32>) -> io::Result<()> {
    fs::create_dir(directory)?;
    fs::set_permissions(directory, Permissions::from_mode(0o755))?;
    for (path, file) in files {
        let target = directory.join(path);
        if let Some(above) = target.parent() {
            fs::create_dir_all(above)?;
        }
        fs::write(&target, &file.content)?;
        let mut mode = file.mode & 0o777;
        if let Some(owner) = file.owner {
            lchown(&target, Some(owner), None)?;
        }
        if let Some(group) = fs_group {
            lchown(&target, None, Some(group))?;
            mode |= 0o040;
        }
        fs::set_permissions(&target, Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn is_same(current: &Path, files: &BTreeMap<String, FileContent>) -> bool {
    let mut count = 0;
    let mut stack = vec![current.to_owned()];
    while let Some(directory) = stack.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                stack.push(entry.path());
            } else {
                count += 1;
            }
        }
    }
    count == files.len()
        && files.iter().all(|(path, file)| {
            let target = current.join(path);
            fs::read(&target).is_ok_and(|content| content == file.content)
                && fs::metadata(&target)
                    .is_ok_and(|metadata| metadata.permissions().mode() & 0o737 == file.mode & 0o737)
        })
}

/// Checks or makes a path of the node, by its type.
fn prepare_host_path(volume: &str, path: &Path, kind: &str) -> Result<(), RuntimeError> {
    let made = match kind {
        "DirectoryOrCreate" if !path.exists() => fs::create_dir_all(path),
        "FileOrCreate" if !path.exists() => fs::OpenOptions::new().write(true).create_new(true).open(path).map(drop),
        _ => Ok(()),
    };
    made.map_err(|error| io_failure(format!("making hostPath {}", path.display()), &error))?;
    let metadata = fs::metadata(path).map_err(|error| {
        configuration(format!(
            "volume {volume}: hostPath {} cannot be used: {error}",
            path.display()
        ))
    })?;
    let found = metadata.file_type();
    let fits = match kind {
        "" => true,
        "Directory" | "DirectoryOrCreate" => found.is_dir(),
        "File" | "FileOrCreate" => found.is_file(),
        "Socket" => found.is_socket(),
        "CharDevice" => found.is_char_device(),
        "BlockDevice" => found.is_block_device(),
        other => {
            return Err(configuration(format!(
                "volume {volume}: {other:?} is not a hostPath type"
            )));
        }
    };
    if fits {
        Ok(())
    } else {
        Err(configuration(format!(
            "volume {volume}: hostPath {} is not of type {kind}",
            path.display()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(files: &[(&str, &str, u32)]) -> BTreeMap<String, FileContent> {
        files
            .iter()
            .map(|(path, text, mode)| {
                (
                    (*path).to_owned(),
                    FileContent {
                        content: text.as_bytes().to_vec(),
                        mode: *mode,
                        owner: None,
                    },
                )
            })
            .collect()
    }

    #[test]
    fn a_set_of_files_is_replaced_in_one_step_and_leaves_nothing_of_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let volume = directory.path();
        write_files(volume, &set(&[("a", "1", 0o644), ("sub/b", "2", 0o400)]), None).unwrap();
        assert_eq!(fs::read_to_string(volume.join("sub/b")).unwrap(), "2");
        assert_eq!(
            fs::metadata(volume.join("sub/b")).unwrap().permissions().mode() & 0o777,
            0o400
        );
        let first = fs::read_link(volume.join(CURRENT)).unwrap();

        write_files(volume, &set(&[("a", "1", 0o644), ("sub/b", "2", 0o400)]), None).unwrap();
        assert_eq!(
            fs::read_link(volume.join(CURRENT)).unwrap(),
            first,
            "an unchanged set is not rewritten"
        );

        write_files(volume, &set(&[("a", "3", 0o644), ("c", "4", 0o644)]), None).unwrap();
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "3");
        let mut names: Vec<String> = fs::read_dir(volume)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 4, "{names:?}");
        assert_eq!(&names[1..], ["..data", "a", "c"]);
    }

    #[test]
    fn paths_that_leave_a_volume_are_refused() {
        for bad in ["../x", "/etc/passwd", "..data", "a/../b"] {
            let source = VolumeSource::Files {
                files: set(&[(bad, "", 0o644)]),
                memory: false,
            };
            assert!(
                validate(&[VolumeSpec {
                    name: "v".into(),
                    source
                }])
                .is_err(),
                "{bad}"
            );
        }
    }
}
