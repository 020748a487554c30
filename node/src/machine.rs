//! What this machine is, for its Node object: cores, memory, disk, kernel. Read once, when the process starts.

use std::path::Path;

use agent::node_object::NodeFacts;
use api::discovery::{KUBERNETES_MAJOR, KUBERNETES_MINOR};
use config::NodeConfiguration;

/// Kubernetes' usual bound; a /24 has room for twice as many.
const PODS_MAX: u64 = 110;

/// Reads the facts. What cannot be read is left empty: no fact but memory and cores matters for running pods.
pub fn facts(config: &NodeConfiguration) -> NodeFacts {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let disk = nix::sys::statvfs::statvfs(&config.data_dir);
    NodeFacts {
        name: config.name.to_string(),
        address: config.address.to_string(),
        https_port: config.https_port,
        cpu_milli: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64) * 1000,
        memory_bytes: memory_bytes(),
        ephemeral_storage_bytes: disk.map_or(0, |disk| disk.blocks() * disk.fragment_size()),
        pods_max: PODS_MAX,
        reserved_cpu_milli: config.reserved.cpu_milli,
        reserved_memory_bytes: config.reserved.memory_bytes,
        labels: config.labels.clone(),
        taints: config
            .taints
            .iter()
            .map(|t| (t.key.clone(), t.value.clone(), t.effect.as_str().to_owned()))
            .collect(),
        architecture: architecture().to_owned(),
        kernel_version: text("/proc/sys/kernel/osrelease"),
        os_image: os_image(Path::new("/etc/os-release")),
        machine_id: text("/etc/machine-id"),
        boot_id: text("/proc/sys/kernel/random/boot_id"),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kubernetes_version: kubernetes_version(),
    }
}

/// The release of the API with our own version behind it: `v1.37.0+actorium.0.1.0`.
pub fn kubernetes_version() -> String {
    format!(
        "v{KUBERNETES_MAJOR}.{KUBERNETES_MINOR}.0+actorium.{}",
        env!("CARGO_PKG_VERSION")
    )
}

/// Go's name of the machine's architecture, which Kubernetes uses.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("MemTotal:"));
    let kibibytes = line
        .and_then(|line| line.split_whitespace().nth(1))
        .and_then(|number| number.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

fn os_image(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map(|name| name.trim_matches('"').to_owned())
        .unwrap_or_else(|| "Linux".to_owned())
}
