//! `actorium node start`: puts the parts together, in the order in which they need each other, and runs until it is told to
//! stop. It holds no policy: each part decides for itself.
//!
//! Order: the machine can run pods at all; the data directory is this process's alone; the identity; the mesh; gossip;
//! consensus and the store; the API; the runtime with the network behind it; the agent; and, while this node leads, the
//! control plane.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actors::ControlPlaneConfig;
use actors::reviewing::SharedReviewer;
use actors::scheduling::SchedulerSettings;
use agent::AgentConfig;
use api::discovery::BuildVersion;
use cluster::identity::NodeIdentity;
use cluster::join::{JoinService, TokenRecord, new_token};
use cluster::membership::{MemberFacts, MembershipOptions};
use cluster::{Membership, Mesh, Remoting};
use config::node::AuditSettings;
use config::{Kubeconfig, NodeConfiguration};
use consensus::{Consensus, ConsensusConfig, Status, StoreClient};
use gateway::addresses::AddressRange;
use gateway::audit::{AuditLog, LogOptions};
use gateway::edge::{self, Edge};
use gateway::service::{Api, ApiConfig, AuditConfig};
use protocol::runtime::PodRuntime;
use protocol::store::ObjectStore;
use protocol::transport::{Purpose, Transport};
use runtime::{LinuxRuntime, RuntimeConfig};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use supervision::{Registry, SystemClock};

use crate::authority::{self, FIRST_TOKEN_VALIDITY_MS, StoreAuthority};
use crate::clock::{now, random};
use crate::doors::{ApiReviewer, ClusterAdmin, LogService, NodeDoors};
use crate::identity::{IdentityFailure, Settled, settle};
use crate::leader::Leadership;
use crate::machine;
use crate::pod_network::NodeNetwork;
use crate::sessions::SessionService;
use crate::signer::ClusterSigner;
use crate::tokens::PodTokens;

/// Why the node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartFailure {
    /// The machine lacks something.
    #[error("this machine cannot run pods:\n{}", .0.join("\n"))]
    Machine(Vec<String>),
    /// The data directory cannot be used.
    #[error("the data directory {path} cannot be used: {source}")]
    DataDirectory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The scheduler's configuration cannot be used.
    #[error("the scheduler's configuration {path} (--scheduler-config) cannot be used: {reason}")]
    SchedulerConfiguration {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No identity.
    #[error(transparent)]
    Identity(#[from] IdentityFailure),
    /// Keys or certificates.
    #[error(transparent)]
    Keys(#[from] cluster::identity::IdentityError),
    /// The mesh.
    #[error(transparent)]
    Mesh(#[from] cluster::mesh::MeshError),
    /// Consensus.
    #[error(transparent)]
    Consensus(#[from] consensus::StartError),
    /// A new cluster of one does not begin.
    #[error("the new cluster does not begin: {0}")]
    Bootstrap(String),
    /// The HTTP edge.
    #[error(transparent)]
    Edge(#[from] edge::EdgeError),
    /// The runtime.
    #[error(transparent)]
    Runtime(#[from] protocol::runtime::RuntimeError),
    /// What is to be audited.
    #[error(transparent)]
    AuditPolicy(#[from] gateway::audit::PolicyFileError),
    /// The audit log.
    #[error("the audit log {path} cannot be written: {source}; choose another place with --audit-log-path")]
    AuditLog {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// TLS.
    #[error("the API's TLS cannot be set up: {0}")]
    Tls(String),
    /// An actor.
    #[error("the agent does not start: {0}")]
    Agent(String),
}

/// A node that runs.
pub struct Node {
    mesh: Mesh,
    consensus: Arc<Consensus>,
    edge: Edge,
}

/// Starts everything.
pub async fn start(config: NodeConfiguration) -> Result<Node, StartFailure> {
    let begun = Instant::now();
    let scheduler = scheduler_settings(&config)?;
    check_machine()?;
    // Before anything is made or asked for: a port in use must leave nothing behind.
    let socket = cluster::mesh::bind_socket(config.mesh_bind())?;
    drop(edge::bind(api_bind(&config))?);
    make_data_dir(&config)?;
    let settled = match settle(&config, now(), random() as u64).await {
        Ok(settled) => settled,
        Err(failure) => {
            leave_no_directory(&config);
            return Err(failure.into());
        }
    };
    let mesh = Mesh::start_on(&settled.identity, socket)?;
    let transport: Arc<dyn Transport> = Arc::new(mesh.clone());
    let consensus_config = ConsensusConfig::new(config.name.clone(), settled.raft_id, config.data_dir.join("store"));
    let consensus = Consensus::start(consensus_config, Arc::clone(&transport)).await?;
    mesh.serve(Purpose::Consensus, consensus.service());
    mesh.serve(Purpose::Store, consensus.store_service());
    if settled.founder {
        consensus
            .bootstrap()
            .await
            .map_err(|error| StartFailure::Bootstrap(error.to_string()))?;
    }
    let membership = start_membership(&config, &settled, &mesh);
    let candidates = {
        let (membership, consensus) = (membership.clone(), Arc::clone(&consensus));
        Arc::new(move || {
            let members = membership.members();
            let live = members
                .iter()
                .filter(|member| member.status.is_live())
                .map(|member| member.name.clone());
            live.chain(consensus.status().voters.into_values()).collect()
        })
    };
    let client = StoreClient::new(Arc::clone(&transport), Some(Arc::clone(&consensus)), candidates);
    let store: Arc<dyn ObjectStore> = Arc::clone(&client) as Arc<dyn ObjectStore>;
    let registry = Registry::new(Arc::new(SystemClock));
    let admin = ClusterAdmin::new(
        config.name.clone(),
        registry.clone(),
        membership.clone(),
        Arc::clone(&consensus),
        client,
    );
    let authority = StoreAuthority {
        store: Arc::clone(&store),
        membership: membership.clone(),
        settings: settled.settings.clone(),
    };
    mesh.serve(Purpose::Join, JoinService::new(Arc::new(authority)));
    let (edge, api) = start_gateway(&config, &settled, &store, &mesh, &admin, &consensus)?;
    let issuer = api.issuer();
    keep_first_secrets(&config, &settled, &store).await?;

    let network = NodeNetwork::new(config.clone(), settled.settings.clone());
    tokio::spawn(Arc::clone(&network).run(Arc::clone(&store)));
    let runtime = open_runtime(&config, &network).await?;
    release_orphans(&network, runtime.as_ref()).await;
    mesh.serve(
        Purpose::Logs,
        Arc::new(LogService {
            runtime: Arc::clone(&runtime),
        }),
    );
    mesh.serve_raw(
        Purpose::Sessions,
        Arc::new(SessionService {
            runtime: Arc::clone(&runtime),
        }),
    );
    let tokens = Arc::new(PodTokens {
        issuer: Arc::clone(&issuer),
        node: config.name.clone(),
    });
    start_agent(&config, &network, &store, &runtime, &registry, tokens).await?;
    let leadership = Leadership {
        consensus: Arc::clone(&consensus),
        membership: membership.clone(),
        store: Arc::clone(&store),
        registry,
        config: control_plane_config(
            &config,
            &settled,
            scheduler,
            Arc::new(ClusterSigner {
                store: Arc::clone(&store),
                issuer,
                api: Arc::clone(&api),
            }),
            api,
        ),
    };
    tokio::spawn(leadership.run());
    match Remoting::start(&mesh, &settled.identity, admin.handler()).await {
        Ok(remoting) => admin.set_remoting(remoting),
        Err(error) => tracing::error!(%error, "the shell reaches no other node's actors from here"),
    }
    tokio::spawn(tell_voteless(Arc::clone(&consensus), membership));
    tokio::spawn(announce_ready(store, config.clone(), begun, network.unready()));
    tokio::spawn(renew_certificate(
        mesh.clone(),
        settled.identity,
        config,
        Arc::clone(&consensus),
    ));
    Ok(Node { mesh, consensus, edge })
}

impl Node {
    /// Hands leadership on, closes the doors and the store. Pods run on.
    pub async fn stop(self) {
        self.consensus.step_down().await;
        self.edge.stop().await;
        self.consensus.shutdown().await;
        self.mesh.close().await;
    }
}

/// What must hold before anything is made.
fn check_machine() -> Result<(), StartFailure> {
    cluster::identity::install_crypto_provider();
    refuse(runtime::preflight())?;
    // After the runtime's: without root rights this would complain of the same once more, in other words.
    network::preflight().map_err(|error| StartFailure::Machine(vec![format!("  network: {error}")]))
}

fn refuse(missing: Vec<runtime::MissingFeature>) -> Result<(), StartFailure> {
    if missing.is_empty() {
        return Ok(());
    }
    Err(StartFailure::Machine(
        missing
            .into_iter()
            .map(|m| format!("  {}: {}", m.feature, m.message))
            .collect(),
    ))
}

/// The data directory, readable by root alone, on a file system that can hold pods.
fn make_data_dir(config: &NodeConfiguration) -> Result<(), StartFailure> {
    use std::os::unix::fs::PermissionsExt;
    let failed = |source| StartFailure::DataDirectory {
        path: config.data_dir.clone(),
        source,
    };
    std::fs::create_dir_all(&config.data_dir).map_err(failed)?;
    std::fs::set_permissions(&config.data_dir, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
    refuse(runtime::preflight_data_dir(&config.data_dir)).inspect_err(|_| leave_no_directory(config))
}

/// Removes the data directory of a node that did not start, when it holds nothing: then it was made just now.
fn leave_no_directory(config: &NodeConfiguration) {
    let _ = std::fs::remove_dir(&config.data_dir);
}

fn start_membership(config: &NodeConfiguration, settled: &Settled, mesh: &Mesh) -> Membership {
    let zone = config
        .labels
        .get("topology.kubernetes.io/zone")
        .cloned()
        .unwrap_or_default();
    Membership::start(
        mesh,
        MembershipOptions {
            address: config.mesh_address(),
            facts: MemberFacts {
                https_address: Some(config.https_address()),
                raft_id: settled.raft_id,
                zone,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                leaving: false,
                voteless: false,
            },
            seeds: settled.seeds.clone(),
            memory: Some(config.data_dir.join("members")),
        },
    )
}

fn start_gateway(
    config: &NodeConfiguration,
    settled: &Settled,
    store: &Arc<dyn ObjectStore>,
    mesh: &Mesh,
    admin: &Arc<ClusterAdmin>,
    consensus: &Arc<Consensus>,
) -> Result<(Edge, Arc<Api>), StartFailure> {
    let range = settled.settings.service_cidr.to_string();
    let service_range = AddressRange::parse(&range).map_err(|error| StartFailure::Tls(error.to_string()))?;
    let [for_readiness, for_metrics, for_leading] = std::array::from_fn(|_| Arc::clone(consensus));
    let api = Arc::new(Api::new(ApiConfig {
        store: Arc::clone(store),
        nodes: Arc::new(NodeDoors { mesh: mesh.clone() }),
        admin: Arc::clone(admin) as Arc<dyn protocol::admin::AdminDoor>,
        service_range,
        anonymous: false,
        admission: admission_settings(config),
        cluster_ca: settled.identity.authority_pem.clone(),
        address: config.https_address().to_string(),
        version: BuildVersion {
            git_version: machine::kubernetes_version(),
            platform: format!("linux/{}", machine::architecture()),
            ..BuildVersion::default()
        },
        now: Arc::new(now),
        random: Arc::new(random),
        readiness: Arc::new(move || readiness(&for_readiness.status())),
        metrics: Arc::new(move || metrics(&for_metrics)),
        requests_in_flight_max: u64::from(config.requests_in_flight_max),
        audit: config.audit.as_ref().map(open_audit).transpose()?,
        leads: Arc::new(move || for_leading.status().is_leader),
    }));
    let served = Arc::clone(&api);
    let edge = edge::start(api_bind(config), tls(&settled.identity)?, served, Arc::new(random))?;
    Ok((edge, api))
}

/// The policy is read and the log opened before the API serves: nothing that should be written down goes by unseen.
fn open_audit(settings: &AuditSettings) -> Result<AuditConfig, StartFailure> {
    let path = settings.log_path.clone();
    let options = LogOptions {
        path: path.clone(),
        size_bytes_max: settings.max_size_bytes,
        backups_max: settings.max_backups,
        age_days_max: settings.max_age_days,
    };
    Ok(AuditConfig {
        policy: gateway::audit::read_policy(&settings.policy_file)?,
        log: AuditLog::open(options).map_err(|source| StartFailure::AuditLog { path, source })?,
    })
}

/// Where the API listens.
fn api_bind(config: &NodeConfiguration) -> std::net::SocketAddr {
    std::net::SocketAddr::new(config.bind_address, config.https_port)
}

/// Whether this node's API should be asked. A node without a vote, as one that never had it or was removed, reaches the
/// store through the others, and cannot say of itself whether there is a leader.
fn readiness(status: &Status) -> Result<(), String> {
    match (&status.failed, &status.leader) {
        (Some(failed), _) => Err(format!(
            "consensus has stopped on this node: {failed}. Remove the cause and start the node process again; pods run on"
        )),
        (None, None) if status.voters.is_empty() || status.removed => Ok(()),
        (None, None) => Err("no leader is known: less than half of the voters answer".to_owned()),
        (None, Some(_)) => Ok(()),
    }
}

/// Tells the other members when this node's consensus has stopped, as after an error of its disk: the autopilot then puts
/// another one in its place. The process runs on: its pods need it, and its API goes on through the others.
async fn tell_voteless(consensus: Arc<Consensus>, membership: Membership) {
    let mut watched = consensus.watch_status();
    let stopped = watched.wait_for(|status| status.failed.is_some());
    if stopped.await.is_err() {
        return;
    }
    if let Some(member) = membership.member(consensus.node()) {
        let facts = MemberFacts {
            voteless: true,
            ..member.facts
        };
        membership.set_facts(facts).await;
    }
}

fn metrics(consensus: &Consensus) -> String {
    let (status, progress) = (consensus.status(), consensus.progress());
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, value: u64| {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"));
    };
    gauge(
        "actorium_consensus_is_leader",
        "Whether this node leads.",
        u64::from(status.is_leader),
    );
    gauge("actorium_consensus_term", "The consensus term.", status.term);
    gauge(
        "actorium_consensus_voters",
        "How many members vote.",
        status.voters.len() as u64,
    );
    gauge(
        "actorium_consensus_last_log_index",
        "Index of the last log entry.",
        progress.last_log,
    );
    gauge(
        "actorium_consensus_last_applied_index",
        "Index of the last applied entry.",
        progress.last_applied,
    );
    gauge(
        "actorium_consensus_log_syncs_total",
        "How often the log was synced to disk.",
        consensus.log_syncs(),
    );
    text
}

/// The node's certificate, and client certificates of the cluster's CA where a client shows one.
fn tls(identity: &NodeIdentity) -> Result<ServerConfig, StartFailure> {
    let failed = |error: &dyn std::fmt::Display| StartFailure::Tls(error.to_string());
    let verifier = WebPkiClientVerifier::builder(identity.roots()?)
        .allow_unauthenticated()
        .build()
        .map_err(|error| failed(&error))?;
    let config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain(), identity.key()?)
        .map_err(|error| failed(&error))?;
    Ok(config)
}

/// A new cluster's CA and first token go into the store; the token and the kubeconfig to where people find them.
async fn keep_first_secrets(
    config: &NodeConfiguration,
    settled: &Settled,
    store: &Arc<dyn ObjectStore>,
) -> Result<(), StartFailure> {
    let failed = |error: &dyn std::fmt::Display| StartFailure::Bootstrap(error.to_string());
    if let Some(material) = &settled.new_authority {
        authority::store_authority(store.as_ref(), material)
            .await
            .map_err(|error| failed(&error))?;
        let authority = cluster::identity::ClusterAuthority::load(material)?;
        let token = new_token(authority.fingerprint());
        let record = TokenRecord::new(
            &token,
            Some(now().plus_ms(FIRST_TOKEN_VALIDITY_MS)),
            "made with the cluster",
        );
        authority::store_token(store.as_ref(), &record)
            .await
            .map_err(|error| failed(&error))?;
        let admin = authority.issue_admin(now())?;
        write_kubeconfig(
            config,
            &settled.identity.authority_pem,
            &admin.certificate_pem,
            &admin.key_pem,
        )?;
        let path = config.data_dir.join("join-token");
        let text = format!("{token}\n");
        cluster::identity::write_private(&path, text.as_bytes())
            .map_err(|source| StartFailure::DataDirectory { path, source })?;
        cluster::identity::PkiDirectory::new(config.pki_dir()).remove_founding_authority()?;
    } else if !config.kubeconfig.exists() {
        let (store, config, authority_pem) = (
            Arc::clone(store),
            config.clone(),
            settled.identity.authority_pem.clone(),
        );
        tokio::spawn(async move {
            while let Err(error) = kubeconfig_from_store(store.as_ref(), &config, &authority_pem).await {
                tracing::debug!(%error, "the kubeconfig is not written as yet");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
    }
    Ok(())
}

async fn kubeconfig_from_store(
    store: &dyn ObjectStore,
    config: &NodeConfiguration,
    authority_pem: &str,
) -> Result<(), StartFailure> {
    let authority = authority::authority(store)
        .await
        .map_err(|error| StartFailure::Bootstrap(error.to_string()))?;
    let admin = authority.issue_admin(now())?;
    write_kubeconfig(config, authority_pem, &admin.certificate_pem, &admin.key_pem)
}

fn write_kubeconfig(
    config: &NodeConfiguration,
    authority: &str,
    certificate: &str,
    key: &str,
) -> Result<(), StartFailure> {
    let server = format!("https://{}", config.https_address());
    let kubeconfig = Kubeconfig::admin("actorium", &server, authority, certificate, key);
    kubeconfig
        .merge_into(&config.kubeconfig)
        .map_err(|error| StartFailure::Bootstrap(error.to_string()))
}

async fn open_runtime(
    config: &NodeConfiguration,
    network: &Arc<NodeNetwork>,
) -> Result<Arc<dyn PodRuntime>, StartFailure> {
    let program = std::env::current_exe().map_err(|source| StartFailure::DataDirectory {
        path: "/proc/self/exe".into(),
        source,
    })?;
    let mut runtime_config = RuntimeConfig::new(&config.data_dir, config.name.as_str(), program);
    runtime_config.insecure_registries = config.insecure_registries.clone();
    let opened = LinuxRuntime::open(
        runtime_config,
        Arc::clone(network) as Arc<dyn protocol::runtime::SandboxNetwork>,
    )
    .await?;
    Ok(Arc::new(opened))
}

/// Without it the node works, but addresses of removed pods stay taken: no reason not to start.
async fn release_orphans(network: &NodeNetwork, runtime: &dyn PodRuntime) {
    let released = match runtime.sandboxes().await {
        Ok(sandboxes) => {
            let present = sandboxes.into_iter().map(|sandbox| sandbox.pod.uid).collect();
            network.release_all_but(&present).await
        }
        Err(error) => Err(error.to_string()),
    };
    if let Err(reason) = released {
        tracing::warn!(reason, "addresses of pods that no longer exist were not taken back");
    }
}

async fn start_agent(
    config: &NodeConfiguration,
    network: &Arc<NodeNetwork>,
    store: &Arc<dyn ObjectStore>,
    runtime: &Arc<dyn PodRuntime>,
    registry: &Registry,
    tokens: Arc<PodTokens>,
) -> Result<(), StartFailure> {
    let for_dns = Arc::clone(network);
    let agent_config = AgentConfig {
        facts: machine::facts(config),
        resolv_conf: Arc::new(move |pod| for_dns.resolv_conf(pod)),
        unready: network.unready(),
        clock: Arc::new(SystemClock),
        random: Arc::new(random),
        tokens,
    };
    agent::start(agent_config, Arc::clone(store), Arc::clone(runtime), registry.clone())
        .await
        .map(|_| ())
        .map_err(|error| StartFailure::Agent(error.to_string()))
}

fn admission_settings(config: &NodeConfiguration) -> admission::Settings {
    admission::Settings {
        unreachable_toleration_seconds: i64::from(config.unreachable_toleration_seconds),
        ..admission::Settings::default()
    }
}

/// What the node is told of scheduling. Read at the start, so that a mistake is heard of then and not when the node leads.
fn scheduler_settings(config: &NodeConfiguration) -> Result<SchedulerSettings, StartFailure> {
    let Some(path) = &config.scheduler_config else {
        return Ok(SchedulerSettings::default());
    };
    let failed = |reason: String| StartFailure::SchedulerConfiguration {
        path: path.clone(),
        reason,
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    SchedulerSettings::parse(&text).map_err(|error| failed(error.to_string()))
}

fn control_plane_config(
    config: &NodeConfiguration,
    settled: &Settled,
    scheduler: SchedulerSettings,
    signer: Arc<ClusterSigner>,
    api: Arc<Api>,
) -> ControlPlaneConfig {
    let mut control = ControlPlaneConfig {
        cluster_cidr: settled.settings.cluster_cidr.to_string(),
        node_prefix: config::node::NODE_CIDR_PREFIX,
        service_cidr: settled.settings.service_cidr.to_string(),
        scheduler,
        ..ControlPlaneConfig::default()
    };
    control.node.default_toleration_seconds = u64::from(config.unreachable_toleration_seconds);
    control.admission = Some(admission_settings(config));
    control.cluster_ca = Some(settled.identity.authority_pem.clone());
    control.signer = Some(signer);
    control.reviewer = Some(SharedReviewer(Arc::new(ApiReviewer { api })));
    control
}

/// Says in the log when the node is Ready, and how long that took.
async fn announce_ready(
    store: Arc<dyn ObjectStore>,
    config: NodeConfiguration,
    begun: Instant,
    mut unready: tokio::sync::watch::Receiver<Option<String>>,
) {
    if unready.wait_for(Option::is_none).await.is_err() {
        return;
    }
    let key = protocol::Key::new("nodes", "", config.name.as_str());
    loop {
        if let Ok(Some(stored)) = store.read(&key).await
            && stored.value().is_ok_and(|node| {
                let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
                conditions
                    .iter()
                    .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
            })
        {
            let elapsed_ms = begun.elapsed().as_millis() as u64;
            tracing::info!(node = %config.name, api = %format!("https://{}", config.https_address()), kubeconfig = %config.kubeconfig.display(), elapsed_ms, "ready");
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Renews the node's certificate before it expires, without a restart of the mesh.
async fn renew_certificate(mesh: Mesh, identity: NodeIdentity, config: NodeConfiguration, consensus: Arc<Consensus>) {
    let mut identity = identity;
    let mut hourly = tokio::time::interval(Duration::from_secs(3600));
    loop {
        hourly.tick().await;
        if !identity.facts.renewal_due(now()) {
            continue;
        }
        let member = consensus.status().leader.unwrap_or_else(|| config.name.clone());
        match cluster::join::renew(&mesh, &member, &identity, vec![config.address]).await {
            Ok(renewed) => {
                let pki = cluster::identity::PkiDirectory::new(config.pki_dir());
                if let Err(error) = pki.store(&renewed).and_then(|()| {
                    mesh.renew(&renewed)
                        .map_err(|error| cluster::identity::IdentityError::Malformed {
                            what: "the renewed identity".to_owned(),
                            reason: error.to_string(),
                        })
                }) {
                    tracing::error!(%error, "the renewed certificate was not taken into use");
                    continue;
                }
                tracing::info!(node = %config.name, "the node's certificate was renewed");
                identity = renewed;
            }
            Err(error) => tracing::warn!(%error, "the node's certificate was not renewed; tried again in an hour"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_unless_its_consensus_has_stopped_or_knows_no_leader_that_it_should_know() {
        let voters = |names: &[&str]| {
            let numbered = names.iter().enumerate();
            numbered.map(|(id, name)| (id as u64, (*name).into())).collect()
        };
        let follower = Status {
            leader: Some("n1".into()),
            voters: voters(&["n1", "n2", "n3"]),
            ..Status::default()
        };
        let leaderless = Status {
            leader: None,
            ..follower.clone()
        };
        let cases = [
            ("a follower", follower.clone(), None),
            ("a node that never had a vote", Status::default(), None),
            ("a voter without a leader", leaderless.clone(), Some("less than half")),
            (
                "a voter that was replaced while it was away",
                Status {
                    removed: true,
                    ..leaderless
                },
                None,
            ),
            (
                "a voter whose disk failed",
                Status {
                    failed: Some("No space left on device".to_owned()),
                    ..follower
                },
                Some("No space left on device. Remove the cause"),
            ),
        ];
        for (case, status, expected) in cases {
            let outcome = readiness(&status).err();
            match expected {
                None => assert_eq!(outcome, None, "{case}"),
                Some(words) => assert!(
                    outcome.as_deref().is_some_and(|text| text.contains(words)),
                    "{case}: {outcome:?}"
                ),
            }
        }
    }
}
