//! `actorium node reset`: removes what a stopped node left on this machine. It refuses while the node process runs.

use std::path::Path;

/// Ends the pods of a data directory and removes their cgroups, mounts and network. Images, keys and the store stay.
pub fn reset(data_dir: &Path) -> Result<(), String> {
    if !data_dir.exists() {
        return Err(format!(
            "{} does not exist: name the node's --data-dir",
            data_dir.display()
        ));
    }
    if !nix::unistd::geteuid().is_root() {
        return Err("only root can remove pods: run this command as root".to_owned());
    }
    if is_running(&data_dir.join("store").join("LOCK")) {
        return Err(format!(
            "the node process of {} is running: stop it first",
            data_dir.display()
        ));
    }
    runtime::destroy_all(data_dir).map_err(|error| error.to_string())?;
    remove_network(data_dir)?;
    for name in ["network", "pod-cidr"] {
        let path = data_dir.join(name);
        let removed = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("{}: {error}", path.display()));
            }
            _ => {}
        }
    }
    println!(
        "removed the pods, cgroups and network of the node in {}",
        data_dir.display()
    );
    Ok(())
}

/// Whether a process holds the store's lock.
fn is_running(lock: &Path) -> bool {
    let Ok(file) = std::fs::File::open(lock) else {
        return false;
    };
    matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock))
}

/// Opens the network as the node would, and removes all that it made.
fn remove_network(data_dir: &Path) -> Result<(), String> {
    let Ok(range) = std::fs::read_to_string(data_dir.join("pod-cidr")) else {
        return Ok(());
    };
    let settings = crate::identity::settings(data_dir).map_err(|error| error.to_string())?;
    let parse = |text: String| {
        text.trim()
            .parse::<network::Ipv4Cidr>()
            .map_err(|error| error.to_string())
    };
    let config = network::NodeNetworkConfig {
        node_name: "reset".to_owned(),
        pod_cidr: parse(range)?,
        cluster_cidr: parse(settings.cluster_cidr.to_string())?,
        service_cidr: parse(settings.service_cidr.to_string())?,
        bridge: crate::pod_network::BRIDGE.to_owned(),
        mtu: 1500,
        state_dir: data_dir.join("network"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no threads for this process: {error}"))?;
    runtime.block_on(async {
        let network = network::PodNetwork::open(config)
            .await
            .map_err(|error| error.to_string())?;
        network.tear_down().await.map_err(|error| error.to_string())
    })
}
