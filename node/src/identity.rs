//! Who this node is, settled before anything else starts: found in its data directory, made with a new cluster, or granted
//! by a member. What consensus and the others know it by is kept in `DATA_DIR/node.json`, its keys in `DATA_DIR/pki`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster::identity::{AuthorityMaterial, ClusterAuthority, IdentityError, NodeIdentity, NodeKey, PkiDirectory};
use cluster::join::{Applicant, JoinError, join};
use config::NodeConfiguration;
use config::node::ClusterSettings;
use protocol::{NodeName, UnixMillis};
use serde::{Deserialize, Serialize};

/// How long a joiner asks before it gives up: members may be starting too.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);

/// What `node.json` holds.
#[derive(Serialize, Deserialize)]
struct NodeRecord {
    name: NodeName,
    raft_id: u64,
    settings: ClusterSettings,
    /// Whether this node made the cluster: it then leads a cluster of one until others join.
    founder: bool,
}

/// Why the node has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityFailure {
    /// Keys or certificates.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The cluster did not admit it.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The record is damaged.
    #[error(
        "{path} is damaged ({reason}): remove this node from its cluster, move the data directory away and join again"
    )]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The node's address is one that pods or services may get.
    #[error(
        "this node's address {address} lies in the cluster's {setting} {range}: give the node another address, or make the cluster with another --{setting}"
    )]
    AddressInRange {
        /// The address.
        address: std::net::Ipv4Addr,
        /// The range.
        range: String,
        /// Which setting.
        setting: &'static str,
    },
    /// The data belongs to another node.
    #[error(
        "the data directory belongs to node {found}, but the configuration names this node {wanted}: start it with --name {found}, or with another --data-dir"
    )]
    OtherName {
        /// Whose data it is.
        found: NodeName,
        /// What the configuration says.
        wanted: NodeName,
    },
}

/// A settled identity.
pub struct Settled {
    /// Keys and certificates.
    pub identity: NodeIdentity,
    /// Its number in the consensus.
    pub raft_id: u64,
    /// What all nodes of the cluster agree on.
    pub settings: ClusterSettings,
    /// Members to call on.
    pub seeds: Vec<(NodeName, SocketAddr)>,
    /// Whether this node made the cluster.
    pub founder: bool,
    /// The CA, when the store does not have it as yet.
    pub new_authority: Option<AuthorityMaterial>,
}

/// Finds, makes or asks for the identity. `random` gives a raft id for a new cluster.
pub async fn settle(config: &NodeConfiguration, now: UnixMillis, random: u64) -> Result<Settled, IdentityFailure> {
    let pki = PkiDirectory::new(config.pki_dir());
    let path = config.data_dir.join("node.json");
    if let (Some(identity), Some(record)) = (pki.load()?, read_record(&path)?) {
        if identity.name != config.name {
            return Err(IdentityFailure::OtherName {
                found: identity.name,
                wanted: config.name.clone(),
            });
        }
        return Ok(Settled {
            identity,
            raft_id: record.raft_id,
            settings: record.settings,
            seeds: Vec::new(),
            founder: record.founder,
            // Still there when an earlier start ended before the store had the CA.
            new_authority: pki.founding_authority()?,
        });
    }
    let settled = match &config.join {
        Some(target) => {
            let addresses = vec![config.address];
            let applicant = Applicant {
                name: config.name.clone(),
                mesh_address: config.mesh_address(),
                addresses,
            };
            let joined = join(target, &applicant, JOIN_PATIENCE).await?;
            Settled {
                identity: joined.identity,
                raft_id: joined.raft_id,
                settings: joined.settings,
                seeds: joined.members,
                founder: false,
                new_authority: None,
            }
        }
        None => found(config, now, random)?,
    };
    check_address(config, &settled.settings)?;
    let record = NodeRecord {
        name: config.name.clone(),
        raft_id: settled.raft_id,
        settings: settled.settings.clone(),
        founder: settled.founder,
    };
    if let Some(material) = &settled.new_authority {
        pki.store_founding_authority(material)?;
    }
    // The keys last: their presence means that the identity is complete.
    write_record(&path, &record)?;
    pki.store(&settled.identity)?;
    Ok(settled)
}

/// A node whose own address lies in the range of pods or services would have its traffic taken for theirs.
fn check_address(config: &NodeConfiguration, settings: &ClusterSettings) -> Result<(), IdentityFailure> {
    let std::net::IpAddr::V4(address) = config.address else {
        return Ok(());
    };
    for (range, setting) in [
        (settings.cluster_cidr, "cluster-cidr"),
        (settings.service_cidr, "service-cidr"),
    ] {
        if range.contains(address) {
            return Err(IdentityFailure::AddressInRange {
                address,
                range: range.to_string(),
                setting,
            });
        }
    }
    Ok(())
}

/// What all nodes of the cluster agree on, as a node's data directory has it.
pub fn settings(data_dir: &Path) -> Result<ClusterSettings, IdentityFailure> {
    Ok(read_record(&data_dir.join("node.json"))?
        .map(|record| record.settings)
        .unwrap_or_default())
}

/// Makes a cluster: its CA and this node's certificate.
fn found(config: &NodeConfiguration, now: UnixMillis, random: u64) -> Result<Settled, IdentityFailure> {
    let (authority, material) = ClusterAuthority::generate(now)?;
    let key = NodeKey::generate()?;
    let request = key.signing_request(&config.name)?;
    let names = config.settings.api_names();
    let certificate = authority.issue_node(&request, &config.name, &[config.address], &names, now)?;
    let identity = NodeIdentity::new(certificate, key.to_pem(), material.certificate_pem.clone())?;
    Ok(Settled {
        identity,
        raft_id: random.max(1),
        settings: config.settings.clone(),
        seeds: Vec::new(),
        founder: true,
        new_authority: Some(material),
    })
}

fn read_record(path: &Path) -> Result<Option<NodeRecord>, IdentityFailure> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(IdentityFailure::File {
                path: path.to_owned(),
                source,
            });
        }
    };
    let damaged = |error: serde_json::Error| IdentityFailure::Record {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

fn write_record(path: &Path, record: &NodeRecord) -> Result<(), IdentityFailure> {
    let failed = |source| IdentityFailure::File {
        path: path.to_owned(),
        source,
    };
    let text = serde_json::to_vec_pretty(record).map_err(|error| IdentityFailure::Record {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    cluster::identity::write_private(path, &text).map_err(failed)
}
