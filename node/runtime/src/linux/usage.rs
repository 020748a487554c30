//! What a pod holds on the node's disk. Reads directories and changes nothing. Blocking.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use protocol::runtime::{PodUsage, SandboxSpec, VolumeSource};

use super::layout::PodLayout;

/// What stat(2) counts blocks in, whatever the file system's own are.
const BLOCK_BYTES: u64 = 512;

/// Measures the emptyDirs on the disk, and each container's root and logs.
pub(super) fn of_pod(layout: &PodLayout, spec: &SandboxSpec) -> PodUsage {
    let on_disk = spec
        .volumes
        .iter()
        .filter(|volume| matches!(volume.source, VolumeSource::EmptyDir { memory: false, .. }));
    let names = fs::read_dir(layout.containers()).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    PodUsage {
        volume_bytes: on_disk
            .map(|volume| (volume.name.clone(), bytes_below(vec![layout.volume(&volume.name)])))
            .collect(),
        container_bytes: names
            .map(|name| {
                let attempts = fs::read_dir(layout.container(&name)).into_iter().flatten().flatten();
                let mut places: Vec<PathBuf> = attempts.map(|attempt| attempt.path().join("upper")).collect();
                places.push(layout.container_logs(&name));
                (name, bytes_below(places))
            })
            .collect(),
    }
}

/// The blocks of all files below, each file once. What vanishes meanwhile does not count.
fn bytes_below(mut places: Vec<PathBuf>) -> u64 {
    let mut seen_links = HashSet::new();
    let mut total = 0;
    while let Some(path) = places.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        if metadata.is_dir() {
            let entries = fs::read_dir(&path).into_iter().flatten().flatten();
            places.extend(entries.map(|entry| entry.path()));
        } else if metadata.nlink() > 1 && !seen_links.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        total += metadata.blocks() * BLOCK_BYTES;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted_not_lengths_and_links_once() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name);
        let empty = bytes_below(vec![place("")]);
        fs::create_dir(place("below")).unwrap();
        fs::write(place("below/data"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(place("below/data"), place("link")).unwrap();
        std::os::unix::fs::symlink("/", place("root")).unwrap();
        fs::File::create(place("sparse")).unwrap().set_len(1 << 30).unwrap();
        let used = bytes_below(vec![place("")]) - empty;
        assert!(((1 << 20)..(1 << 20) + (64 << 10)).contains(&used), "{used}");
        assert_eq!(bytes_below(vec![place("absent")]), 0);
    }
}
