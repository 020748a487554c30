//! Which cgroups on this machine are a cluster's, and their removal when its nodes did not.
//!
//! `down` calls it. A cgroup is the cluster's when its name begins with ours and every process in and below it is one of
//! the cluster's: another cluster, such as a test's, has processes of its own in its groups. What is not proven so is left.

use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where cgroup file systems are mounted.
pub const ROOT: &str = "/sys/fs/cgroup";

/// The prefix of the names of the groups that nodes make.
const PREFIX: &str = "actorium";

/// The topmost groups that hold processes of a set and no others.
pub fn held_by(root: &Path, processes: &BTreeSet<i32>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![(root.to_path_buf(), false)];
    while let Some((directory, ours)) = directories.pop() {
        for child in children(&directory) {
            let ours = ours
                || child
                    .file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
            let inside = processes_below(&child);
            if ours && !inside.is_empty() && inside.is_subset(processes) {
                found.push(child);
            } else {
                directories.push((child, ours));
            }
        }
    }
    found.sort();
    found
}

/// Those of the groups that still exist and hold no process of anyone.
pub fn left_empty(groups: &[PathBuf]) -> Vec<PathBuf> {
    groups
        .iter()
        .filter(|group| group.is_dir() && processes_below(group).is_empty())
        .cloned()
        .collect()
}

/// Removes an empty group with those below it.
pub fn remove(group: &Path) -> Result<()> {
    for child in children(group) {
        remove(&child)?;
    }
    std::fs::remove_dir(group).with_context(|| format!("cannot remove the cgroup {}", group.display()))
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = directory.read_dir().into_iter().flatten().filter_map(Result::ok);
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn processes_below(group: &Path) -> BTreeSet<i32> {
    let listed = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let own = listed.lines().filter_map(|line| line.trim().parse().ok());
    own.chain(children(group).iter().flat_map(|child| processes_below(child)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(groups: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, processes) in groups {
            let directory = root.path().join(path);
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("cgroup.procs"), processes).unwrap();
        }
        root
    }

    #[test]
    fn the_topmost_groups_with_no_process_of_others_are_the_clusters() {
        let root = hierarchy(&[
            ("cpu/actorium", ""),
            ("cpu/actorium/n1", ""),
            ("cpu/actorium/n1/pod-a", "1\n2\n"),
            ("cpu/actorium/n1/pod-exited", ""),
            ("cpu/actorium/n9/pod-of-a-test", "77\n"),
            ("pids/actorium-n1/pod-a", "1\n"),
            ("pids/user.slice", "1\n"),
        ]);
        let found = held_by(root.path(), &BTreeSet::from([1, 2]));
        assert_eq!(
            found,
            ["cpu/actorium/n1", "pids/actorium-n1"].map(|path| root.path().join(path))
        );
    }

    #[test]
    fn a_group_that_others_have_entered_since_is_not_left_empty() {
        let root = hierarchy(&[("actorium/n1/pod-a", ""), ("actorium/n2/pod-b", "5\n")]);
        let groups = ["actorium/n1", "actorium/n2", "actorium/n3"].map(|path| root.path().join(path));
        assert_eq!(left_empty(&groups), [root.path().join("actorium/n1")]);
    }

    #[test]
    fn a_group_is_removed_with_those_below_it() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("actorium/n1/pod-a")).unwrap();
        remove(&root.path().join("actorium")).unwrap();
        assert_eq!(root.path().read_dir().unwrap().count(), 0);
        assert!(remove(&root.path().join("actorium")).is_err());
    }
}
