//! The data plane of a node, as the node process sees it.
//!
//! One [`PodNetwork`] per node process. Its calls hand work to two worker threads (links, nftables) and wait for the outcome.
//! It adopts what an earlier process has left: pods do not notice a restart.

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc};

use tokio::sync::oneshot;

use crate::{
    address::Ipv4Cidr,
    error::NetworkError,
    plant::{AttachedPod, NetNamespace, Plant, PodAddress},
    route::PeerRoute,
    rules::{Order, OrderQueue, Rules},
    ruleset::BaseRules,
    service::{ServiceChange, ServiceRule},
    worker::Worker,
};

/// What a node is told about its network.
#[derive(Debug, Clone)]
pub struct NodeNetworkConfig {
    /// The node's name, for logs.
    pub node_name: String,
    /// The range from which this node's pods have their addresses. Its first address is the node's own, on the bridge.
    pub pod_cidr: Ipv4Cidr,
    /// The range that holds all nodes' pod ranges. Traffic within it is never masqueraded.
    pub cluster_cidr: Ipv4Cidr,
    /// The range of services' addresses. What has no endpoint there is refused.
    pub service_cidr: Ipv4Cidr,
    /// The bridge's name; at most 15 characters.
    pub bridge: String,
    /// The largest packet of pods' interfaces, in bytes: that of the network between the nodes.
    pub mtu: u32,
    /// Where the address records are kept. It must survive a restart of the process, and is this node's alone.
    pub state_dir: PathBuf,
}

/// The node's data plane.
#[derive(Debug)]
pub struct PodNetwork {
    config: NodeNetworkConfig,
    gateway: Ipv4Addr,
    links: Worker<Plant>,
    rules: Worker<Rules>,
    orders: OrderQueue,
}

impl PodNetwork {
    /// Makes the bridge, the kernel's settings and the nftables table, or adopts and repairs existing ones. Acts on the
    /// network namespace of the calling thread.
    pub async fn open(config: NodeNetworkConfig) -> Result<Self, NetworkError> {
        let gateway = check(&config)?;
        let base = BaseRules {
            pod_cidr: config.pod_cidr,
            cluster_cidr: config.cluster_cidr,
            service_cidr: config.service_cidr,
            bridge: config.bridge.clone(),
        };
        let for_links = config.clone();
        let links = Worker::start("network-links", move || Plant::open(for_links, gateway)).await?;
        let orders = OrderQueue::default();
        let for_rules = Arc::clone(&orders);
        let rules = Worker::start("network-nft", move || Rules::open(base, for_rules)).await?;
        for chain in rules.run(Rules::foreign_drops).await? {
            tracing::warn!(
                chain,
                "another firewall drops forwarded packets unless it is told otherwise; let those from and to {} pass",
                config.cluster_cidr
            );
        }
        tracing::info!(node = config.node_name, pod_cidr = %config.pod_cidr, %gateway, "the pod network is open");
        Ok(Self {
            config,
            gateway,
            links,
            rules,
            orders,
        })
    }

    /// The node's address on the bridge: its pods' gateway.
    pub fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    /// What the data plane was opened with.
    pub fn config(&self) -> &NodeNetworkConfig {
        &self.config
    }

    /// Gives a pod a link and an address. Calling it again for the same pod and namespace changes nothing and returns the same
    /// address; with another namespace the link is made anew there.
    pub async fn attach_pod(&self, pod_uid: &str, namespace: NetNamespace) -> Result<PodAddress, NetworkError> {
        let pod_uid = pod_uid.to_owned();
        self.links.run(move |plant| plant.attach(&pod_uid, namespace)).await
    }

    /// Takes a pod's link away and frees its address, which is returned. `None` if the pod had none.
    pub async fn detach_pod(&self, pod_uid: &str) -> Result<Option<Ipv4Addr>, NetworkError> {
        let pod_uid = pod_uid.to_owned();
        self.links.run(move |plant| plant.detach(&pod_uid)).await
    }

    /// All pods that have an address, for comparison with those that should.
    pub async fn attached(&self) -> Result<Vec<AttachedPod>, NetworkError> {
        self.links.run(Plant::attached).await
    }

    /// Makes the routes to other nodes' pods exactly as given; only differences from the kernel's are applied. If some cannot
    /// be set, the others are, and the error lists the failures.
    pub async fn set_routes(&self, peers: &[PeerRoute]) -> Result<(), NetworkError> {
        let peers = peers.to_vec();
        self.links.run(move |plant| plant.set_routes(&peers)).await
    }

    /// Gives the node a service's address on its bridge, for a program of the node that listens on it (the DNS server on the
    /// cluster's well-known address). Such an address must have no [`ServiceRule`].
    pub async fn add_local_address(&self, address: Ipv4Addr) -> Result<(), NetworkError> {
        self.links.run(move |plant| plant.add_local_address(address)).await
    }

    /// Takes back what [`PodNetwork::add_local_address`] gave.
    pub async fn remove_local_address(&self, address: Ipv4Addr) -> Result<(), NetworkError> {
        self.links.run(move |plant| plant.remove_local_address(address)).await
    }

    /// Applies changes of services in one transaction: all or none. Changes of several callers that wait together share one. Unchanged services cost nothing.
    pub async fn apply_services(&self, changes: &[ServiceChange]) -> Result<(), NetworkError> {
        self.order(Order::Change(changes.to_vec())).await
    }

    /// Makes these services all there are, in one transaction. To be called once after a start, with everything that is known:
    /// it removes what an earlier process programmed and nobody asks for any more.
    pub async fn sync_services(&self, services: &[ServiceRule]) -> Result<(), NetworkError> {
        self.order(Order::ReplaceAll(services.to_vec())).await
    }

    /// Puts an order into the queue and waits for its outcome. Orders that come while nft is at work wait together and are
    /// carried out together.
    async fn order(&self, order: Order) -> Result<(), NetworkError> {
        let (reply, outcome) = oneshot::channel();
        self.orders.lock().push_back((order, reply));
        self.rules
            .run(|rules| {
                rules.carry_out_orders();
                Ok(())
            })
            .await?;
        outcome.await.map_err(|_| NetworkError::Worker {
            name: "network-nft",
            reason: "it panicked".to_owned(),
        })?
    }

    /// Programs one service.
    pub async fn set_service(&self, rule: ServiceRule) -> Result<(), NetworkError> {
        self.apply_services(&[ServiceChange::Set(rule)]).await
    }

    /// Removes one service.
    pub async fn remove_service(&self, name: &str) -> Result<(), NetworkError> {
        self.apply_services(&[ServiceChange::Remove(name.to_owned())]).await
    }

    /// The names of the services that this process has programmed.
    pub async fn services(&self) -> Result<Vec<String>, NetworkError> {
        self.rules.run(|rules| Ok(rules.names())).await
    }

    /// Compares the node with what the data plane has made, and corrects it: the bridge and its settings, pods' links on it,
    /// the nftables table. Returns whether the table was wrong. For a node process to call from time to time, since other
    /// programs flush rulesets and change settings. A change of services that finds the table wrong repairs it by itself.
    pub async fn repair(&self) -> Result<bool, NetworkError> {
        self.links.run(Plant::repair).await?;
        self.rules.run(Rules::repair).await
    }

    /// Removes all that the data plane has made: links, bridge, routes, table and records. `ip_forward` stays set, since
    /// others may rely on it by now.
    pub async fn tear_down(self) -> Result<(), NetworkError> {
        // Both are attempted, whatever becomes of the first.
        let rules = self.rules.run(Rules::delete_table).await;
        let links = self.links.run(Plant::tear_down).await;
        rules.and(links)
    }
}

/// Checks the configuration and works out the gateway.
fn check(config: &NodeNetworkConfig) -> Result<Ipv4Addr, NetworkError> {
    const INTERFACE_NAME_LEN_MAX: usize = 15;
    const MTU_MIN: u32 = 576;
    const MTU_MAX: u32 = 65_535;
    let refuse = |field, value: String, rule| Err(NetworkError::Configuration { field, value, rule });
    let Some(gateway) = config.pod_cidr.gateway() else {
        return refuse(
            "pod_cidr",
            config.pod_cidr.to_string(),
            "a node's pod range needs at least 4 addresses (/30 or larger)",
        );
    };
    let inside = config.cluster_cidr.contains(config.pod_cidr.network())
        && config.cluster_cidr.prefix_len() <= config.pod_cidr.prefix_len();
    if !inside {
        return refuse(
            "pod_cidr",
            config.pod_cidr.to_string(),
            "a node's pod range must lie inside cluster_cidr",
        );
    }
    let overlap = config.cluster_cidr.contains(config.service_cidr.network())
        || config.service_cidr.contains(config.cluster_cidr.network());
    if overlap {
        return refuse(
            "service_cidr",
            config.service_cidr.to_string(),
            "services' addresses must not overlap with cluster_cidr",
        );
    }
    let name_is_valid = !config.bridge.is_empty()
        && config.bridge.len() <= INTERFACE_NAME_LEN_MAX
        && config
            .bridge
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if !name_is_valid {
        return refuse(
            "bridge",
            config.bridge.clone(),
            "an interface's name has 1 to 15 letters, digits, '-' and '_'",
        );
    }
    if !(MTU_MIN..=MTU_MAX).contains(&config.mtu) {
        return refuse(
            "mtu",
            config.mtu.to_string(),
            "the MTU of an IPv4 network is from 576 to 65535",
        );
    }
    Ok(gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NodeNetworkConfig {
        NodeNetworkConfig {
            node_name: "n1".into(),
            pod_cidr: "10.244.3.0/24".parse().unwrap(),
            cluster_cidr: "10.244.0.0/16".parse().unwrap(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            bridge: "act0".into(),
            mtu: 1500,
            state_dir: PathBuf::from("/nonexistent"),
        }
    }

    #[test]
    fn the_configuration_is_checked_before_anything_is_touched() {
        assert_eq!(check(&config()).unwrap(), Ipv4Addr::new(10, 244, 3, 1));
        type Spoil = fn(&mut NodeNetworkConfig);
        let cases: [(Spoil, &str); 6] = [
            (|c| c.pod_cidr = "10.244.3.0/31".parse().unwrap(), "/30"),
            (|c| c.pod_cidr = "10.1.3.0/24".parse().unwrap(), "inside cluster_cidr"),
            (|c| c.service_cidr = "10.244.9.0/24".parse().unwrap(), "overlap"),
            (|c| c.service_cidr = "10.0.0.0/8".parse().unwrap(), "overlap"),
            (|c| c.bridge = "a/b".into(), "1 to 15"),
            (|c| c.mtu = 100, "576"),
        ];
        for (spoil, expected) in cases {
            let mut config = config();
            spoil(&mut config);
            let error = check(&config).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
