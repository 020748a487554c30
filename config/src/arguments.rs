//! The flags of `actorium node start`, each with its environment variable. clap fills an absent flag from the
//! environment, so this struct already holds "flags before environment"; `node` puts it before the file. Embedded by
//! the binary with `#[command(flatten)]`.

use std::net::IpAddr;
use std::path::PathBuf;

/// How a node is started. Each value may also stand in the configuration file, under the flag's name with `_` for `-`.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub struct NodeArguments {
    /// Configuration file (TOML). Without it, /etc/actorium/node.toml is read if it exists.
    #[arg(long, env = "ACTORIUM_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// This node's name in the cluster [default: the host name].
    #[arg(long, env = "ACTORIUM_NAME")]
    pub name: Option<String>,

    /// Where the node keeps everything [default: /var/lib/actorium].
    #[arg(long, env = "ACTORIUM_DATA_DIR", value_name = "DIRECTORY")]
    pub data_dir: Option<PathBuf>,

    /// The address by which other nodes reach this one [default: the source address of the default route].
    #[arg(long, env = "ACTORIUM_ADDRESS", value_name = "IP")]
    pub address: Option<IpAddr>,

    /// The address on which to listen [default: 0.0.0.0].
    #[arg(long, env = "ACTORIUM_BIND_ADDRESS", value_name = "IP")]
    pub bind_address: Option<IpAddr>,

    /// UDP port of the mesh between nodes [default: 7443].
    #[arg(long, env = "ACTORIUM_MESH_PORT", value_name = "PORT")]
    pub mesh_port: Option<u16>,

    /// TCP port of the Kubernetes API [default: 6443].
    #[arg(long, env = "ACTORIUM_HTTPS_PORT", value_name = "PORT")]
    pub https_port: Option<u16>,

    /// Any member's address, to join its cluster; may be repeated. Without it the node starts a cluster of its own.
    #[arg(long, env = "ACTORIUM_JOIN", value_name = "HOST[:PORT]", value_delimiter = ',')]
    pub join: Vec<String>,

    /// The join token that `actorium token create` printed on a member.
    #[arg(long, env = "ACTORIUM_TOKEN", hide_env_values = true, conflicts_with = "token_file")]
    pub token: Option<String>,

    /// A file that holds the join token.
    #[arg(long, env = "ACTORIUM_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Addresses of pods; fixed when the cluster is made [default: 10.244.0.0/16].
    #[arg(long, env = "ACTORIUM_CLUSTER_CIDR", value_name = "RANGE")]
    pub cluster_cidr: Option<String>,

    /// Addresses of services; fixed when the cluster is made [default: 10.96.0.0/12].
    #[arg(long, env = "ACTORIUM_SERVICE_CIDR", value_name = "RANGE")]
    pub service_cidr: Option<String>,

    /// The DNS domain of services; fixed when the cluster is made [default: cluster.local].
    #[arg(long, env = "ACTORIUM_CLUSTER_DOMAIN", value_name = "DOMAIN")]
    pub cluster_domain: Option<String>,

    /// What to log: a level, or directives such as `info,cluster=debug` [default: info].
    #[arg(long, env = "ACTORIUM_LOG", value_name = "DIRECTIVES")]
    pub log: Option<String>,

    /// Where to write the administrator's kubeconfig [default: kubeconfig in the data directory].
    #[arg(long, env = "ACTORIUM_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// A registry to reach by plain HTTP, as host:port; may be repeated.
    #[arg(
        long = "insecure-registry",
        env = "ACTORIUM_INSECURE_REGISTRIES",
        value_name = "HOST",
        value_delimiter = ','
    )]
    pub insecure_registries: Vec<String>,

    /// A label of the Node object; may be repeated.
    #[arg(
        long = "label",
        env = "ACTORIUM_LABELS",
        value_name = "KEY=VALUE",
        value_delimiter = ','
    )]
    pub labels: Vec<String>,

    /// A taint of the Node object; may be repeated.
    #[arg(
        long = "taint",
        env = "ACTORIUM_TAINTS",
        value_name = "KEY[=VALUE]:EFFECT",
        value_delimiter = ','
    )]
    pub taints: Vec<String>,

    /// CPU kept from pods, such as 500m [default: 0].
    #[arg(long, env = "ACTORIUM_RESERVED_CPU", value_name = "QUANTITY")]
    pub reserved_cpu: Option<String>,

    /// Memory kept from pods, such as 256Mi [default: 100Mi].
    #[arg(long, env = "ACTORIUM_RESERVED_MEMORY", value_name = "QUANTITY")]
    pub reserved_memory: Option<String>,

    /// How long the pods of a dead node are waited for before they are replaced, unless they tolerate it longer
    /// themselves [default: 2].
    #[arg(long, env = "ACTORIUM_UNREACHABLE_TOLERATION_SECONDS", value_name = "SECONDS")]
    pub unreachable_toleration_seconds: Option<u32>,

    /// A KubeSchedulerConfiguration (YAML) for the scheduler, when this node leads. The ConfigMap kube-scheduler in
    /// kube-system, if there is one, comes before it [default: the profile default-scheduler].
    #[arg(long, env = "ACTORIUM_SCHEDULER_CONFIG", value_name = "FILE")]
    pub scheduler_config: Option<PathBuf>,

    /// What to write into the audit log of this node's API: a file with an audit.k8s.io/v1 Policy.
    #[arg(long, env = "ACTORIUM_AUDIT_POLICY_FILE", value_name = "FILE")]
    pub audit_policy_file: Option<PathBuf>,

    /// The audit log, a JSON event a line; `-` is the standard output.
    #[arg(long, env = "ACTORIUM_AUDIT_LOG_PATH", value_name = "FILE")]
    pub audit_log_path: Option<PathBuf>,

    /// For how many days closed audit logs are kept; 0 for ever [default: 0].
    #[arg(long, env = "ACTORIUM_AUDIT_LOG_MAXAGE", value_name = "DAYS")]
    pub audit_log_maxage: Option<u64>,

    /// How many closed audit logs are kept; 0 keeps all [default: 0].
    #[arg(long, env = "ACTORIUM_AUDIT_LOG_MAXBACKUP", value_name = "COUNT")]
    pub audit_log_maxbackup: Option<u64>,

    /// At which size an audit log is closed and another begun; 0 closes none [default: 100].
    #[arg(long, env = "ACTORIUM_AUDIT_LOG_MAXSIZE", value_name = "MEGABYTES")]
    pub audit_log_maxsize: Option<u64>,

    /// How many seats the requests to this node's API share that flow control does not exempt; with those of
    /// max-mutating-requests-inflight. A list of many objects takes several [default: 100].
    #[arg(long, env = "ACTORIUM_MAX_REQUESTS_INFLIGHT", value_name = "COUNT")]
    pub max_requests_inflight: Option<u32>,

    /// See max-requests-inflight: priority levels share the sum of both [default: 100].
    #[arg(long, env = "ACTORIUM_MAX_MUTATING_REQUESTS_INFLIGHT", value_name = "COUNT")]
    pub max_mutating_requests_inflight: Option<u32>,
}
