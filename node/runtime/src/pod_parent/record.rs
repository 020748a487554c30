//! The files by which a pod's state outlives processes: where they lie, and how they are replaced atomically. Written by the
//! pod's parent (container states) and by the node's side (the sandbox).

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use protocol::runtime::ContainerState;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The state file of one start of a container.
pub(crate) fn container_state_path(container_directory: &Path) -> PathBuf {
    container_directory.join("state.json")
}

/// Replaces a file. It is not synced: after a power cut no process of the pod is left whose state it could tell, and a kill
/// of the writer cannot lose what the kernel has.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(value).map_err(io::Error::other)?)?;
    fs::rename(&temporary, path)
}

/// Reads a file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    serde_json::from_slice(&fs::read(path)?).map_err(io::Error::other)
}

/// The recorded starts of all containers of a pod, the last one of each name.
pub(crate) fn read_container_states(containers_directory: &Path) -> Vec<ContainerState> {
    let mut states: Vec<ContainerState> = Vec::new();
    for name in fs::read_dir(containers_directory).into_iter().flatten().flatten() {
        let mut last: Option<ContainerState> = None;
        for attempt in fs::read_dir(name.path()).into_iter().flatten().flatten() {
            if let Ok(state) = read_json::<ContainerState>(&container_state_path(&attempt.path()))
                && last.as_ref().is_none_or(|last| last.attempt < state.attempt)
            {
                last = Some(state);
            }
        }
        states.extend(last);
    }
    states.sort_by(|one, other| one.name.cmp(&other.name));
    states
}
