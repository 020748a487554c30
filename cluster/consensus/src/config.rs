//! How consensus is started, and why it may not start.

use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::NodeName;

/// How often a leader is heard, and when it is given up.
#[derive(Clone, Copy, Debug)]
pub struct Timings {
    /// Milliseconds between two heartbeats; also the time that an append may take to reach a follower and its disk.
    pub heartbeat_ms: u64,
    /// A follower that has heard nothing for `election_max_ms` and then a time of its own between the two stands for
    /// election: at the latest after twice `election_max_ms`.
    pub election_min_ms: u64,
    /// See `election_min_ms`.
    pub election_max_ms: u64,
}

impl Default for Timings {
    fn default() -> Self {
        // A dead leader is replaced after 0.9 to 1.5 s, and after a second attempt, when the first candidate's log was
        // too short, within the 3 s in which writes must be accepted again. A leader may be late by four heartbeats on
        // a busy machine before it loses the lead.
        Timings {
            heartbeat_ms: 150,
            election_min_ms: 300,
            election_max_ms: 600,
        }
    }
}

/// What is kept, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// History younger than this can be watched and listed. Kubernetes' API server keeps five minutes.
    pub history: Duration,
    /// But no more revisions than this.
    pub history_revisions_max: u64,
    /// A snapshot is made when the log has grown by so many bytes since the last one.
    pub log_bytes: usize,
    /// Or by so many entries.
    pub log_entries: usize,
    /// Log before the snapshot that stays for members that lag a little.
    pub log_kept_bytes: usize,
    /// Bytes of the disk that are kept free: with less, writes are refused.
    pub disk_reserve_bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Retention {
            history: Duration::from_secs(300),
            history_revisions_max: 500_000,
            log_bytes: 256 << 20,
            log_entries: 50_000,
            log_kept_bytes: 64 << 20,
            disk_reserve_bytes: 64 << 20,
        }
    }
}

/// What a node's consensus is started with.
#[derive(Clone, Debug)]
pub struct ConsensusConfig {
    /// This machine.
    pub node: NodeName,
    /// Its number among the voters: drawn at random once, kept with the data. A machine that lost its data must come
    /// back under a new one, since the old one has promised votes that nobody remembers.
    pub raft_id: u64,
    /// Where log, state and snapshots lie; made if it does not exist.
    pub data_dir: PathBuf,
    /// Heartbeats and elections.
    pub timings: Timings,
    /// What is kept.
    pub retention: Retention,
    /// The store's memory.
    pub store: store::RocksOptions,
}

impl ConsensusConfig {
    /// With the defaults for everything else.
    pub fn new(node: NodeName, raft_id: u64, data_dir: impl AsRef<Path>) -> ConsensusConfig {
        ConsensusConfig {
            node,
            raft_id,
            data_dir: data_dir.as_ref().to_owned(),
            timings: Timings::default(),
            retention: Retention::default(),
            store: store::RocksOptions::default(),
        }
    }

    pub(crate) fn raft(&self) -> Result<openraft::Config, StartError> {
        let config = openraft::Config {
            cluster_name: "actorium".to_owned(),
            heartbeat_interval: self.timings.heartbeat_ms,
            election_timeout_min: self.timings.election_min_ms,
            election_timeout_max: self.timings.election_max_ms,
            enable_elect: false, // until it is known what this node owes another leader

            // A read of the log for replication is bounded by bytes, in `log_store`.
            max_payload_entries: 256,
            // What was purged is sent as a snapshot; everything else as entries.
            replication_lag_threshold: u64::MAX >> 1,
            // Snapshots and purges are triggered by bytes, in `housekeeping`.
            snapshot_policy: openraft::SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX >> 1,
            install_snapshot_timeout: 60_000,
            ..openraft::Config::default()
        };
        config.validate().map_err(|error| StartError::Config {
            reason: error.to_string(),
        })
    }
}

/// Why consensus does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error("the data directory {} cannot be used: {source}", directory.display())]
    Directory {
        /// Which.
        directory: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process uses it.
    #[error("the data directory {} is in use by process {holder}: stop that node first, or choose another directory", directory.display())]
    Locked {
        /// Which.
        directory: PathBuf,
        /// The process that holds it, as it noted itself.
        holder: String,
    },
    /// The log does not open.
    #[error(
        "the consensus log in {} does not open: {reason}. If the disk is damaged, remove this machine from the cluster, \
         move the data directory away, and join again: the other voters have everything", directory.display()
    )]
    Log {
        /// Where it lies.
        directory: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The store does not open.
    #[error(
        "the store in {} does not open: {reason}. If the disk is damaged, remove this machine from the cluster, \
         move the data directory away, and join again: the other voters have everything", directory.display()
    )]
    Store {
        /// Where it lies.
        directory: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The data belongs to another member.
    #[error(
        "the data directory {} belongs to member {found}, but this node was started as member {expected}: \
         start it with the identity that belongs to the data, or with an empty directory", directory.display()
    )]
    Identity {
        /// Which.
        directory: PathBuf,
        /// The member that the log names.
        found: u64,
        /// The member that was configured.
        expected: u64,
    },
    /// The configuration contradicts itself.
    #[error("the consensus timings cannot work: {reason}")]
    Config {
        /// What is wrong.
        reason: String,
    },
    /// Raft could not take up the state.
    #[error("consensus cannot take up what lies in {}: {reason}", directory.display())]
    Raft {
        /// Where the data lies.
        directory: PathBuf,
        /// What it said.
        reason: String,
    },
}
