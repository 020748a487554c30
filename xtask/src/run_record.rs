//! What `up` has started, on disk, so that `down` ends exactly that and a second `up` knows of it.
//!
//! `up` writes it before and after every step, `down` reads it and removes it last. Kept in `target/up` of the clone.

use crate::process::ProcessId;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The record of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The binary that runs as the nodes.
    pub binary: PathBuf,
    /// The nodes, in the order in which they were started.
    pub nodes: Vec<NodeRecord>,
    /// The cgroups that its processes were seen in.
    #[serde(default)]
    pub cgroups: Vec<PathBuf>,
}

/// A node of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The node's name.
    pub name: String,
    /// Its network namespace.
    pub namespace: String,
    /// Its address.
    pub address: String,
    /// The directory that it owns.
    pub data_dir: PathBuf,
    /// Where it logs.
    pub log: PathBuf,
    /// Its process, once it is started.
    pub process: Option<ProcessId>,
}

/// The directory of everything that `up` writes. It is below the clone even when build products are not.
pub fn directory(workspace: &Workspace) -> PathBuf {
    workspace.root.join("target/up")
}

/// Where the kubeconfig is.
pub fn kubeconfig(workspace: &Workspace) -> PathBuf {
    directory(workspace).join("kubeconfig")
}

fn file(directory: &Path) -> PathBuf {
    directory.join("cluster.json")
}

impl RunRecord {
    /// Reads the record; `None` when no cluster was started.
    pub fn read(directory: &Path) -> Result<Option<Self>> {
        let file = file(directory);
        match std::fs::read_to_string(&file) {
            Ok(text) => {
                let record = serde_json::from_str(&text);
                Ok(Some(record.with_context(|| format!("{} is damaged", file.display()))?))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    /// Writes the record whole or not at all.
    pub fn write(&self, directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let fresh = directory.join("cluster.json.fresh");
        std::fs::write(&fresh, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(&fresh, file(directory)).context("cannot write the record of the cluster")
    }

    /// Forgets the cluster.
    pub fn remove(directory: &Path) -> Result<()> {
        match std::fs::remove_file(file(directory)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// How many of the nodes run.
    pub fn nodes_alive(&self) -> usize {
        self.nodes
            .iter()
            .filter(|node| node.process.is_some_and(ProcessId::is_alive))
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_is_gone_after_removal() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(RunRecord::read(directory.path()).unwrap(), None);
        let own = ProcessId::of(std::process::id().cast_signed()).unwrap();
        let node = |name: &str, process| NodeRecord {
            name: name.into(),
            namespace: "ns".into(),
            address: "a".into(),
            data_dir: "d".into(),
            log: "l".into(),
            process,
        };
        let record = RunRecord {
            binary: "/b".into(),
            nodes: vec![node("n1", Some(own)), node("n2", None)],
            cgroups: vec!["/c".into()],
        };
        record.write(directory.path()).unwrap();
        assert_eq!(RunRecord::read(directory.path()).unwrap(), Some(record.clone()));
        assert_eq!(record.nodes_alive(), 1);
        RunRecord::remove(directory.path()).unwrap();
        RunRecord::remove(directory.path()).unwrap();
        assert_eq!(RunRecord::read(directory.path()).unwrap(), None);
    }

    #[test]
    fn a_damaged_record_is_an_error_that_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("cluster.json"), "{").unwrap();
        assert!(format!("{:#}", RunRecord::read(directory.path()).unwrap_err()).contains("cluster.json"));
    }
}
