//! The configuration file: TOML, the flags' names with `_` for `-`. Read by `node`; parsing is pure. A key that it does
//! not know is an error that names the key, its line, and the nearest keys that exist.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// What a configuration file may say. The meaning of each value is that of the flag in `arguments`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "each field is the flag of the same name, and documented there"
)]
pub struct NodeFile {
    pub name: Option<String>,
    pub data_dir: Option<PathBuf>,
    pub address: Option<IpAddr>,
    pub bind_address: Option<IpAddr>,
    pub mesh_port: Option<u16>,
    pub https_port: Option<u16>,
    #[serde(default)]
    pub join: Vec<String>,
    pub token: Option<String>,
    pub token_file: Option<PathBuf>,
    pub cluster_cidr: Option<String>,
    pub service_cidr: Option<String>,
    pub cluster_domain: Option<String>,
    pub log: Option<String>,
    pub kubeconfig: Option<PathBuf>,
    #[serde(default)]
    pub insecure_registries: Vec<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub taints: Vec<String>,
    pub reserved_cpu: Option<String>,
    pub reserved_memory: Option<String>,
    pub unreachable_toleration_seconds: Option<u32>,
    pub scheduler_config: Option<PathBuf>,
    pub audit_policy_file: Option<PathBuf>,
    pub audit_log_path: Option<PathBuf>,
    pub audit_log_maxage: Option<u64>,
    pub audit_log_maxbackup: Option<u64>,
    pub audit_log_maxsize: Option<u64>,
    pub max_requests_inflight: Option<u32>,
    pub max_mutating_requests_inflight: Option<u32>,
}

/// Every key of `NodeFile`, for the message about one that is unknown.
const KEYS: [&str; 28] = [
    "name",
    "data_dir",
    "address",
    "bind_address",
    "mesh_port",
    "https_port",
    "join",
    "token",
    "token_file",
    "cluster_cidr",
    "service_cidr",
    "cluster_domain",
    "log",
    "kubeconfig",
    "insecure_registries",
    "labels",
    "taints",
    "reserved_cpu",
    "reserved_memory",
    "unreachable_toleration_seconds",
    "scheduler_config",
    "audit_policy_file",
    "audit_log_path",
    "audit_log_maxage",
    "audit_log_maxbackup",
    "audit_log_maxsize",
    "max_requests_inflight",
    "max_mutating_requests_inflight",
];

/// Why a configuration file is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It exists but cannot be read.
    #[error("{path} cannot be read: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// It has a key that nothing reads.
    #[error("{path}, line {line}: there is no setting {key:?}; the nearest are {near}", near = near.join(", "))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The line, from one.
        line: usize,
        /// The key.
        key: String,
        /// The three nearest that exist.
        near: Vec<&'static str>,
    },
    /// It is not TOML, or a value has the wrong type. The text shows the place.
    #[error("{path} is not a valid configuration: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The parser's words, with line and column.
        reason: String,
    },
}

impl NodeFile {
    /// Parses a file's text; `path` is for the messages.
    pub fn parse(path: &Path, text: &str) -> Result<NodeFile, FileError> {
        let malformed = |error: toml::de::Error| FileError::Malformed {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let table: toml::Table = toml::from_str(text).map_err(malformed)?;
        if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(FileError::UnknownKey {
                path: path.to_owned(),
                line: line_of(text, key),
                key: key.clone(),
                near: nearest(key, &KEYS),
            });
        }
        toml::from_str(text).map_err(malformed)
    }

    /// Reads and parses a file.
    pub fn read(path: &Path) -> Result<NodeFile, FileError> {
        let text = std::fs::read_to_string(path).map_err(|error| FileError::Unreadable {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        NodeFile::parse(path, &text)
    }
}

/// The line on which a top-level key stands, as a key or as a table's head.
fn line_of(text: &str, key: &str) -> usize {
    let names_it = |line: &str| {
        let line = line
            .trim_start()
            .trim_start_matches('[')
            .trim_start_matches(['"', '\'', ' ']);
        line.strip_prefix(key)
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    text.lines().position(names_it).map_or(1, |place| place + 1)
}

/// The three keys that take the fewest edits to reach.
fn nearest(key: &str, known: &[&'static str]) -> Vec<&'static str> {
    let mut known = known.to_vec();
    known.sort_by_key(|candidate| edits(key, candidate));
    known.truncate(3);
    known
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NodeFile, FileError> {
        NodeFile::parse(Path::new("node.toml"), text)
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_neighbours() {
        let error = parse("name = 'n1'\n\nmesh-port = 7000\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "node.toml, line 3: there is no setting \"mesh-port\"; the nearest are mesh_port, https_port, data_dir"
        );
        let FileError::UnknownKey { line, .. } = parse("name='a'\n[label]\na='b'\n").unwrap_err() else {
            panic!()
        };
        assert_eq!(line, 2);
    }

    #[test]
    fn a_wrong_type_and_broken_text_say_where() {
        let error = parse("name = 'n1'\nmesh_port = 'seven'\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("mesh_port"), "{error}");
        let error = parse("name = 'n1\n").unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }

    #[test]
    fn the_list_of_keys_is_the_list_of_fields() {
        let all = "name='n1'\ndata_dir='/d'\naddress='10.0.0.1'\nbind_address='::'\nmesh_port=1\nhttps_port=2\n\
            join=['a']\ntoken='t'\ntoken_file='f'\ncluster_cidr='c'\nservice_cidr='s'\ncluster_domain='d'\nlog='l'\n\
            kubeconfig='k'\ninsecure_registries=['r']\nlabels={a='b'}\ntaints=['t']\nreserved_cpu='1'\n\
            reserved_memory='2'\nunreachable_toleration_seconds=3\nscheduler_config='k'\naudit_policy_file='p'\naudit_log_path='-'\n\
            audit_log_maxage=1\naudit_log_maxbackup=2\naudit_log_maxsize=3\nmax_requests_inflight=4\n\
            max_mutating_requests_inflight=5\n";
        parse(all).unwrap();
        assert_eq!(all.lines().count(), KEYS.len());
        for key in KEYS {
            assert!(all.lines().any(|line| line.starts_with(&format!("{key}="))), "{key}");
        }
    }
}
