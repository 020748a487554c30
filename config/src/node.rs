//! What a node is told to be: flags before environment before file before defaults, validated. Called once by
//! `actorium node start`. `resolve` is pure; `load` reads the files that the arguments name.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use protocol::NodeName;
use protocol::quantity::Quantity;

use crate::arguments::NodeArguments;
use crate::cidr::{CidrError, Ipv4Cidr};
use crate::file::{FileError, NodeFile};
use crate::name::{NodeNameError, check_node_name};
use crate::token::{JoinToken, TokenError};

/// Read when no file is named and it exists.
pub const DEFAULT_FILE: &str = "/etc/actorium/node.toml";
/// The mesh's UDP port unless told otherwise.
pub const DEFAULT_MESH_PORT: u16 = 7443;
/// The API's TCP port unless told otherwise.
pub const DEFAULT_HTTPS_PORT: u16 = 6443;
/// Megabytes after which an audit log is closed, unless told otherwise, as kube-apiserver's.
const AUDIT_LOG_MEGABYTES: u64 = 100;
/// Seats of requests that read, unless told otherwise. kube-apiserver has 400, whose requests wait for etcd; here what is served at
/// the same time shares the processors, and more of it only makes each wait longer.
const REQUESTS_IN_FLIGHT: u32 = 100;
/// Seats of requests that write, unless told otherwise: those that wait for the disk at the same time share a sync.
const WRITES_IN_FLIGHT: u32 = 100;
/// Bits of a node's own range of pod addresses: 254 pods, more than Kubernetes' usual 110 a node.
pub const NODE_CIDR_PREFIX: u8 = 24;

/// Seconds until the pods of a dead node are replaced, unless told otherwise. Kubernetes waits 300, since its nodes are
/// called dead for a mere hiccup; here membership has already waited out what a busy machine or a lossy network does.
pub const UNREACHABLE_TOLERATION_SECONDS: u32 = 2;

/// What only the machine knows; `cluster::machine` reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineFacts {
    /// The kernel's host name.
    pub host_name: String,
    /// The source address of the default route, if there is one.
    pub default_address: Option<IpAddr>,
}

/// What all nodes of a cluster agree on, fixed when the cluster is made. A joiner is told by the member that admits it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ClusterSettings {
    /// Addresses of pods.
    pub cluster_cidr: Ipv4Cidr,
    /// Addresses of services.
    pub service_cidr: Ipv4Cidr,
    /// The DNS domain of services.
    pub cluster_domain: String,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        ClusterSettings {
            cluster_cidr: Ipv4Cidr::around(Ipv4Addr::new(10, 244, 0, 0), 16),
            service_cidr: Ipv4Cidr::around(Ipv4Addr::new(10, 96, 0, 0), 12),
            cluster_domain: "cluster.local".to_owned(),
        }
    }
}

impl ClusterSettings {
    /// The address of the service `kubernetes`: the first of the range.
    pub fn kubernetes_service(&self) -> Ipv4Addr {
        self.service_cidr
            .nth(1)
            .expect("validation refuses a service range of fewer than 16 addresses")
    }

    /// The address of the cluster's DNS service: the tenth of the range.
    pub fn dns_service(&self) -> Ipv4Addr {
        self.service_cidr
            .nth(10)
            .expect("validation refuses a service range of fewer than 16 addresses")
    }

    /// The names and addresses by which pods and clients reach the API on any node, for its certificate.
    pub fn api_names(&self) -> Vec<String> {
        let domain = &self.cluster_domain;
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
            .map(str::to_owned)
            .into_iter()
            .chain([
                format!("kubernetes.default.svc.{domain}"),
                self.kubernetes_service().to_string(),
            ])
            .collect()
    }
}

/// A member to ask for admission, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinAddress {
    /// A name or an address.
    pub host: String,
    /// The mesh port.
    pub port: u16,
}

impl std::fmt::Display for JoinAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Whom to join, and with what right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinTarget {
    /// Members to try, in order. Not empty.
    pub addresses: Vec<JoinAddress>,
    /// The token.
    pub token: JoinToken,
}

/// What a taint does to pods that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaintEffect {
    /// They are not scheduled here.
    NoSchedule,
    /// They are scheduled here only if nowhere else.
    PreferNoSchedule,
    /// They are evicted.
    NoExecute,
}

impl TaintEffect {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            TaintEffect::NoSchedule => "NoSchedule",
            TaintEffect::PreferNoSchedule => "PreferNoSchedule",
            TaintEffect::NoExecute => "NoExecute",
        }
    }
}

/// A taint that the Node object gets when the node registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value, possibly empty.
    pub value: String,
    /// What it does.
    pub effect: TaintEffect,
}

/// What is kept from pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservedResources {
    /// Thousandths of a CPU.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

/// A node's whole configuration, valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfiguration {
    /// Its name.
    pub name: NodeName,
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// By which address others reach it.
    pub address: IpAddr,
    /// On which address it listens.
    pub bind_address: IpAddr,
    /// The mesh's UDP port.
    pub mesh_port: u16,
    /// The API's TCP port.
    pub https_port: u16,
    /// Whom to join; none starts a cluster.
    pub join: Option<JoinTarget>,
    /// For a cluster that this node starts. A joiner is told the cluster's own.
    pub settings: ClusterSettings,
    /// Tracing directives.
    pub log: String,
    /// Where the administrator's kubeconfig goes.
    pub kubeconfig: PathBuf,
    /// Registries reached by plain HTTP.
    pub insecure_registries: Vec<String>,
    /// Labels of the Node object.
    pub labels: BTreeMap<String, String>,
    /// Taints of the Node object.
    pub taints: Vec<Taint>,
    /// What is kept from pods.
    pub reserved: ReservedResources,
    /// Seconds until the pods of a dead node are replaced, for pods that do not say themselves.
    pub unreachable_toleration_seconds: u32,
    /// A file with a KubeSchedulerConfiguration.
    pub scheduler_config: Option<PathBuf>,
    /// The audit log, if there is to be one.
    pub audit: Option<AuditSettings>,
    /// How many seats requests share that flow control does not exempt.
    pub requests_in_flight_max: u32,
}

/// Where what is audited goes, by kube-apiserver's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditSettings {
    /// The policy.
    pub policy_file: PathBuf,
    /// The log; `-` is the standard output.
    pub log_path: PathBuf,
    /// Days; zero is for ever.
    pub max_age_days: u64,
    /// Closed files that are kept; zero keeps all.
    pub max_backups: u64,
    /// Bytes after which a file is closed; zero closes none.
    pub max_size_bytes: u64,
}

impl NodeConfiguration {
    /// Where the mesh listens.
    pub fn mesh_bind(&self) -> SocketAddr {
        SocketAddr::new(self.bind_address, self.mesh_port)
    }

    /// By which other nodes reach the mesh.
    pub fn mesh_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.mesh_port)
    }

    /// By which the API is reached.
    pub fn https_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.https_port)
    }

    /// The directory of keys and certificates.
    pub fn pki_dir(&self) -> PathBuf {
        self.data_dir.join("pki")
    }
}

/// Why a configuration is refused. `setting` is the flag without its dashes, which is also the file's key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// The file is at fault.
    #[error(transparent)]
    File(#[from] FileError),
    /// The name is at fault.
    #[error(transparent)]
    Name(#[from] NodeNameError),
    /// The token is at fault.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A range of addresses is at fault.
    #[error("{setting}: {source}")]
    Range {
        /// Which.
        setting: &'static str,
        /// Why.
        source: CidrError,
    },
    /// Another value is at fault.
    #[error("{setting} = {value:?}: {reason}")]
    Invalid {
        /// Which.
        setting: &'static str,
        /// Its value.
        value: String,
        /// Why, and what would be right.
        reason: String,
    },
    /// A value that only makes sense with another.
    #[error("{given} is given without {missing}: {remedy}")]
    Incomplete {
        /// What is there.
        given: &'static str,
        /// What is not.
        missing: &'static str,
        /// What to do.
        remedy: &'static str,
    },
}

/// Reads the files that the arguments name, then resolves.
pub fn load(arguments: &NodeArguments, machine: &MachineFacts) -> Result<NodeConfiguration, ConfigurationError> {
    let file = match &arguments.config {
        Some(path) => NodeFile::read(path)?,
        None if Path::new(DEFAULT_FILE).exists() => NodeFile::read(Path::new(DEFAULT_FILE))?,
        None => NodeFile::default(),
    };
    let mut arguments = arguments.clone();
    let token_file = if arguments.token.is_some() {
        None
    } else {
        arguments.token_file.clone().or_else(|| {
            if file.token.is_none() {
                file.token_file.clone()
            } else {
                None
            }
        })
    };
    if let Some(path) = token_file {
        let text = std::fs::read_to_string(&path).map_err(|error| FileError::Unreadable {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        arguments.token = Some(text.trim().to_owned());
    }
    resolve(&arguments, &file, machine)
}

/// Merges arguments (already before the environment) with the file and the defaults, and validates.
pub fn resolve(
    arguments: &NodeArguments,
    file: &NodeFile,
    machine: &MachineFacts,
) -> Result<NodeConfiguration, ConfigurationError> {
    let (a, f) = (arguments, file);
    let name = text(&a.name, &f.name).unwrap_or_else(|| machine.host_name.to_lowercase());
    check_node_name(&name)?;
    let data_dir = path(&a.data_dir, &f.data_dir).unwrap_or_else(|| "/var/lib/actorium".into());
    if !data_dir.is_absolute() {
        return Err(invalid("data-dir", data_dir.display(), "must be an absolute path"));
    }
    let address = a
        .address
        .or(f.address)
        .or(machine.default_address)
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    if address.is_unspecified() || address.is_multicast() {
        return Err(invalid(
            "address",
            address,
            "no other node can reach this address; give one of this machine's own",
        ));
    }
    Ok(NodeConfiguration {
        name: NodeName::from(name),
        kubeconfig: path(&a.kubeconfig, &f.kubeconfig).unwrap_or_else(|| data_dir.join("kubeconfig")),
        data_dir,
        address,
        bind_address: a
            .bind_address
            .or(f.bind_address)
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        mesh_port: port("mesh-port", a.mesh_port.or(f.mesh_port).unwrap_or(DEFAULT_MESH_PORT))?,
        https_port: port(
            "https-port",
            a.https_port.or(f.https_port).unwrap_or(DEFAULT_HTTPS_PORT),
        )?,
        join: join_target(&list(&a.join, &f.join), text(&a.token, &f.token))?,
        settings: settings(
            text(&a.cluster_cidr, &f.cluster_cidr),
            text(&a.service_cidr, &f.service_cidr),
            text(&a.cluster_domain, &f.cluster_domain),
        )?,
        log: text(&a.log, &f.log).unwrap_or_else(|| "info".to_owned()),
        insecure_registries: list(&a.insecure_registries, &f.insecure_registries),
        labels: labels(&a.labels, &f.labels)?,
        taints: list(&a.taints, &f.taints)
            .iter()
            .map(|text| parse_taint(text))
            .collect::<Result<_, _>>()?,
        reserved: ReservedResources {
            cpu_milli: reserved("reserved-cpu", text(&a.reserved_cpu, &f.reserved_cpu), "0")?.milli() as u64,
            memory_bytes: reserved("reserved-memory", text(&a.reserved_memory, &f.reserved_memory), "100Mi")?.units()
                as u64,
        },
        unreachable_toleration_seconds: a
            .unreachable_toleration_seconds
            .or(f.unreachable_toleration_seconds)
            .unwrap_or(UNREACHABLE_TOLERATION_SECONDS),
        scheduler_config: path(&a.scheduler_config, &f.scheduler_config),
        audit: audit(a, f)?,
        requests_in_flight_max: requests_in_flight(a, f)?,
    })
}

fn audit(a: &NodeArguments, f: &NodeFile) -> Result<Option<AuditSettings>, ConfigurationError> {
    let policy_file = path(&a.audit_policy_file, &f.audit_policy_file);
    let log_path = path(&a.audit_log_path, &f.audit_log_path);
    let (policy_file, log_path) = match (policy_file, log_path) {
        (None, None) => return Ok(None),
        (Some(policy_file), Some(log_path)) => (policy_file, log_path),
        (Some(_), None) => {
            return Err(ConfigurationError::Incomplete {
                given: "audit-policy-file",
                missing: "audit-log-path",
                remedy: "say with --audit-log-path where events are written",
            });
        }
        (None, Some(_)) => {
            return Err(ConfigurationError::Incomplete {
                given: "audit-log-path",
                missing: "audit-policy-file",
                remedy: "say with --audit-policy-file what is written; a policy with the one rule \"level: Metadata\" writes of every request who did what",
            });
        }
    };
    Ok(Some(AuditSettings {
        policy_file,
        log_path,
        max_age_days: a.audit_log_maxage.or(f.audit_log_maxage).unwrap_or(0),
        max_backups: a.audit_log_maxbackup.or(f.audit_log_maxbackup).unwrap_or(0),
        max_size_bytes: a
            .audit_log_maxsize
            .or(f.audit_log_maxsize)
            .unwrap_or(AUDIT_LOG_MEGABYTES)
            << 20,
    }))
}

fn requests_in_flight(a: &NodeArguments, f: &NodeFile) -> Result<u32, ConfigurationError> {
    let reading = a.max_requests_inflight.or(f.max_requests_inflight);
    let writing = a.max_mutating_requests_inflight.or(f.max_mutating_requests_inflight);
    let sum = u64::from(reading.unwrap_or(REQUESTS_IN_FLIGHT)) + u64::from(writing.unwrap_or(WRITES_IN_FLIGHT));
    match u32::try_from(sum) {
        Ok(sum) if sum > 0 => Ok(sum),
        _ => Err(invalid(
            "max-requests-inflight",
            sum,
            "together with max-mutating-requests-inflight it must be from 1 to 2^32-1",
        )),
    }
}

fn text(flag: &Option<String>, key: &Option<String>) -> Option<String> {
    flag.clone().or_else(|| key.clone())
}

fn path(flag: &Option<PathBuf>, key: &Option<PathBuf>) -> Option<PathBuf> {
    flag.clone().or_else(|| key.clone())
}

/// A list is taken whole from one place: adding the flags to the file would leave no way to take an entry out.
fn list(flag: &[String], key: &[String]) -> Vec<String> {
    if flag.is_empty() { key.to_vec() } else { flag.to_vec() }
}

fn labels(flags: &[String], file: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, ConfigurationError> {
    let labels = if flags.is_empty() {
        file.clone()
    } else {
        parse_labels(flags)?
    };
    for (key, value) in &labels {
        check_label(key, value)?;
    }
    Ok(labels)
}

fn invalid(setting: &'static str, value: impl std::fmt::Display, reason: impl Into<String>) -> ConfigurationError {
    ConfigurationError::Invalid {
        setting,
        value: value.to_string(),
        reason: reason.into(),
    }
}

/// Port zero would be another port at each start, and nobody would find the node.
fn port(setting: &'static str, port: u16) -> Result<u16, ConfigurationError> {
    if port == 0 {
        Err(invalid(setting, port, "must be from 1 to 65535"))
    } else {
        Ok(port)
    }
}

fn join_target(join: &[String], token: Option<String>) -> Result<Option<JoinTarget>, ConfigurationError> {
    match (join.is_empty(), token) {
        (true, None) => Ok(None),
        (true, Some(_)) => Err(ConfigurationError::Incomplete {
            given: "a token",
            missing: "join",
            remedy: "say with --join which member to ask, or leave the token out to start a new cluster",
        }),
        (false, None) => Err(ConfigurationError::Incomplete {
            given: "join",
            missing: "a token",
            remedy: "make one on a member with `actorium token create`, and give it with --token or --token-file",
        }),
        (false, Some(token)) => Ok(Some(JoinTarget {
            addresses: join
                .iter()
                .map(|text| parse_join_address(text))
                .collect::<Result<_, _>>()?,
            token: JoinToken::parse(&token)?,
        })),
    }
}

/// `host`, `host:port`, `1.2.3.4`, `::1` or `[::1]:port`.
fn parse_join_address(text: &str) -> Result<JoinAddress, ConfigurationError> {
    let bad = || {
        invalid(
            "join",
            text,
            format!("is not HOST or HOST:PORT, such as 10.0.0.1:{DEFAULT_MESH_PORT}"),
        )
    };
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(JoinAddress {
            host: address.to_string(),
            port: DEFAULT_MESH_PORT,
        });
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(JoinAddress {
            host: address.ip().to_string(),
            port: address.port(),
        });
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?),
        None => (text, DEFAULT_MESH_PORT),
    };
    let is_name = !host.is_empty()
        && host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if is_name {
        Ok(JoinAddress {
            host: host.to_owned(),
            port,
        })
    } else {
        Err(bad())
    }
}

fn settings(
    cluster_cidr: Option<String>,
    service_cidr: Option<String>,
    cluster_domain: Option<String>,
) -> Result<ClusterSettings, ConfigurationError> {
    let range = |setting, text: Option<String>, otherwise: Ipv4Cidr| match text {
        Some(text) => Ipv4Cidr::parse(&text).map_err(|source| ConfigurationError::Range { setting, source }),
        None => Ok(otherwise),
    };
    let defaults = ClusterSettings::default();
    let settings = ClusterSettings {
        cluster_cidr: range("cluster-cidr", cluster_cidr, defaults.cluster_cidr)?,
        service_cidr: range("service-cidr", service_cidr, defaults.service_cidr)?,
        cluster_domain: cluster_domain.unwrap_or(defaults.cluster_domain),
    };
    if settings.cluster_cidr.prefix() > NODE_CIDR_PREFIX {
        let reason = format!("must hold at least one node's range, so its prefix is at most {NODE_CIDR_PREFIX}");
        return Err(invalid("cluster-cidr", settings.cluster_cidr, reason));
    }
    if settings.service_cidr.prefix() > 28 {
        return Err(invalid(
            "service-cidr",
            settings.service_cidr,
            "must hold at least 16 addresses (prefix 28)",
        ));
    }
    if settings.service_cidr.overlaps(settings.cluster_cidr) {
        let reason = format!(
            "overlaps cluster-cidr {}: pods and services need ranges of their own",
            settings.cluster_cidr
        );
        return Err(invalid("service-cidr", settings.service_cidr, reason));
    }
    if check_node_name(&settings.cluster_domain).is_err() {
        return Err(invalid(
            "cluster-domain",
            &settings.cluster_domain,
            "is not a DNS domain such as cluster.local",
        ));
    }
    Ok(settings)
}

fn reserved(setting: &'static str, text: Option<String>, otherwise: &str) -> Result<Quantity, ConfigurationError> {
    let text = text.unwrap_or_else(|| otherwise.to_owned());
    match Quantity::parse(&text) {
        Ok(quantity) if !quantity.is_negative() => Ok(quantity),
        Ok(_) => Err(invalid(setting, &text, "must not be negative")),
        Err(error) => Err(invalid(setting, &text, error.to_string())),
    }
}

fn parse_labels(texts: &[String]) -> Result<BTreeMap<String, String>, ConfigurationError> {
    texts
        .iter()
        .map(|text| {
            let (key, value) = text
                .split_once('=')
                .ok_or_else(|| invalid("label", text, "is not KEY=VALUE"))?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

/// A label as Kubernetes' API would accept it.
fn check_label(key: &str, value: &str) -> Result<(), ConfigurationError> {
    let word = |text: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        text.len() <= 63
            && edge(text.chars().next())
            && edge(text.chars().last())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    let (prefix, name) = key
        .split_once('/')
        .map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let prefix_is_good = prefix.is_none_or(|prefix| {
        !prefix.is_empty()
            && prefix.len() <= 253
            && prefix
                .split('.')
                .all(|part| word(part) && part == part.to_lowercase() && !part.contains('_'))
    });
    if !prefix_is_good || !word(name) {
        return Err(invalid(
            "label",
            format!("{key}={value}"),
            "its key is not a Kubernetes label key such as zone or example.com/zone",
        ));
    }
    if !value.is_empty() && !word(value) {
        return Err(invalid(
            "label",
            format!("{key}={value}"),
            "its value is not a Kubernetes label value: at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends",
        ));
    }
    Ok(())
}

fn parse_taint(text: &str) -> Result<Taint, ConfigurationError> {
    let bad = |reason: &str| invalid("taint", text, reason);
    let (pair, effect) = text.rsplit_once(':').ok_or_else(|| bad("is not KEY[=VALUE]:EFFECT"))?;
    let effect = [
        TaintEffect::NoSchedule,
        TaintEffect::PreferNoSchedule,
        TaintEffect::NoExecute,
    ]
    .into_iter()
    .find(|candidate| candidate.as_str() == effect)
    .ok_or_else(|| bad("its effect is none of NoSchedule, PreferNoSchedule and NoExecute"))?;
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    check_label(key, value).map_err(|_| bad("its key or value is not one that a label could have"))?;
    Ok(Taint {
        key: key.to_owned(),
        value: value.to_owned(),
        effect,
    })
}

#[cfg(test)]
mod tests;
