//! The node's data plane as the rest of the process needs it: opened once the node knows its pods' range, given to the
//! runtime as `SandboxNetwork`, and kept in step with Nodes, Services and EndpointSlices.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use config::NodeConfiguration;
use config::node::ClusterSettings;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use network::{
    DnsChange, DnsConfig, DnsPolicy, DnsServer, Ipv4Cidr, NetNamespace, NodeNetworkConfig, NodeResolver, PeerRoute,
    PodDns, PodDnsConfig, PodNetwork, ResolverOption, ServiceChange, ServiceRule, Upstreams, interface_mtu,
    resolv_conf,
};
use protocol::runtime::{PodIdentity, SandboxNetwork};
use protocol::store::{Change, ListRequest, ObjectStore, WatchItem, WatchRequest};
use protocol::{Key, Object, Resource, Revision, Uid};
use tokio::sync::watch;

use crate::services::ServiceView;

/// The bridge to which the pods of a node are connected.
pub const BRIDGE: &str = "act0";
/// How often the kernel's rules and links are compared with what they should be: other programs flush rulesets, as
/// firewalls do when they are reloaded. With 1,000 services one comparison costs tens of milliseconds.
const REPAIR_PERIOD: Duration = Duration::from_secs(15);
/// How soon something is tried again that the store or the kernel refused.
const RETRY: Duration = Duration::from_millis(300);
const RESOLV_CONF: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;
/// The largest packet between nodes when their interface does not tell.
const MTU_DEFAULT: u32 = 1500;

/// What is open: the data plane and its DNS server.
struct Open {
    network: PodNetwork,
    dns: DnsServer,
}

/// The node's network; not open until its pods' range is known.
pub struct NodeNetwork {
    config: NodeConfiguration,
    settings: ClusterSettings,
    open: watch::Sender<Option<Arc<Open>>>,
    unready: watch::Sender<Option<String>>,
    resolver: NodeResolver,
}

impl NodeNetwork {
    /// A network that is not open as yet.
    pub fn new(config: NodeConfiguration, settings: ClusterSettings) -> Arc<NodeNetwork> {
        let resolver = std::fs::read_to_string(RESOLV_CONF)
            .map(|text| NodeResolver::parse(&text))
            .unwrap_or_default();
        let waiting = "the pod network is not set up: the node has no pod CIDR as yet".to_owned();
        Arc::new(NodeNetwork {
            config,
            settings,
            open: watch::Sender::new(None),
            unready: watch::Sender::new(Some(waiting)),
            resolver,
        })
    }

    /// Why pods cannot run here at present; `None` when they can.
    pub fn unready(&self) -> watch::Receiver<Option<String>> {
        self.unready.subscribe()
    }

    /// `/etc/resolv.conf` of a pod.
    pub fn resolv_conf(&self, pod: &Pod) -> String {
        let spec = pod.spec.clone().unwrap_or_default();
        let policy = match spec.dns_policy.as_deref() {
            Some("Default") => DnsPolicy::Default,
            Some("None") => DnsPolicy::None,
            Some("ClusterFirstWithHostNet") => DnsPolicy::ClusterFirstWithHostNet,
            _ => DnsPolicy::ClusterFirst,
        };
        let own = spec.dns_config.map(|own| PodDnsConfig {
            nameservers: own
                .nameservers
                .iter()
                .flatten()
                .filter_map(|ip| ip.parse().ok())
                .collect(),
            searches: own.searches.unwrap_or_default(),
            options: own
                .options
                .into_iter()
                .flatten()
                .filter_map(|option| {
                    Some(ResolverOption {
                        name: option.name?,
                        value: option.value,
                    })
                })
                .collect(),
        });
        resolv_conf(&PodDns {
            namespace: pod.metadata.namespace.as_deref().unwrap_or("default"),
            policy,
            host_network: spec.host_network.unwrap_or(false),
            config: own.as_ref(),
            cluster_dns: &[IpAddr::V4(self.settings.dns_service())],
            cluster_domain: &self.settings.cluster_domain,
            node: &self.resolver,
        })
    }

    fn range_file(&self) -> PathBuf {
        self.config.data_dir.join("pod-cidr")
    }

    /// Opens the network and keeps it in step with the store until the process ends. A range that an earlier start was
    /// given is used at once, also while the control plane is down.
    pub async fn run(self: Arc<Self>, store: Arc<dyn ObjectStore>) {
        let mut range = std::fs::read_to_string(self.range_file())
            .ok()
            .and_then(|text| text.trim().parse().ok());
        while self.open.borrow().is_none() {
            if range.is_none() {
                range = self.assigned_range(store.as_ref()).await;
            }
            match range {
                Some(pod_cidr) => {
                    if let Err(reason) = self.open(pod_cidr).await {
                        tracing::warn!(%reason, "the pod network does not open");
                        self.unready
                            .send_replace(Some(format!("the pod network does not open: {reason}")));
                        tokio::time::sleep(RETRY * 5).await;
                    }
                }
                None => tokio::time::sleep(RETRY / 6).await,
            }
        }
        tokio::spawn(Arc::clone(&self).keep_repaired());
        let mut earlier = BTreeSet::new();
        loop {
            earlier = self.follow(store.as_ref(), &earlier).await.unwrap_or(earlier);
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Puts back what others have removed, from time to time.
    async fn keep_repaired(self: Arc<Self>) {
        let mut due = tokio::time::interval(REPAIR_PERIOD);
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            let Some(open) = self.open.borrow().clone() else { return };
            match open.network.repair().await {
                Ok(false) => {}
                Ok(true) => tracing::warn!(
                    "another program had changed the nftables table inet actorium; it is as it should be again"
                ),
                Err(error) => tracing::warn!(%error, "the pod network was not compared with what it should be"),
            }
        }
    }

    /// Takes back the links and addresses of pods that the runtime does not have: their removal was cut short when the
    /// earlier node process ended. Must be called before the agent starts a pod, which would be taken for one of them.
    pub async fn release_all_but(&self, present: &BTreeSet<Uid>) -> Result<(), String> {
        if !self.range_file().exists() {
            // The first start: the network is not open, and nothing was ever attached.
            return Ok(());
        }
        let open = self.when_open().await?;
        let attached = open.network.attached().await.map_err(|error| error.to_string())?;
        for uid in orphans(attached.into_iter().map(|pod| pod.pod_uid), present) {
            tracing::info!(pod = %uid, "taking back the address of a pod that no longer exists");
            if let Err(error) = open.network.detach_pod(&uid).await {
                tracing::warn!(pod = %uid, %error, "the address of a pod that no longer exists was not taken back");
            }
        }
        Ok(())
    }

    async fn assigned_range(&self, store: &dyn ObjectStore) -> Option<Ipv4Cidr> {
        let key = Key::new("nodes", "", self.config.name.as_str());
        let node: Node = store.read(&key).await.ok()??.parse().ok()?;
        node.spec?.pod_cidr?.parse().ok()
    }

    async fn open(&self, pod_cidr: Ipv4Cidr) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let cidr = |range: config::Ipv4Cidr| range.to_string().parse::<Ipv4Cidr>().map_err(|error| text(&error));
        let cluster_cidr = cidr(self.settings.cluster_cidr)?;
        let service_cidr = cidr(self.settings.service_cidr)?;
        let mtu = match self.config.address {
            IpAddr::V4(address) => interface_mtu(address).unwrap_or(MTU_DEFAULT),
            IpAddr::V6(_) => MTU_DEFAULT,
        };
        let network = PodNetwork::open(NodeNetworkConfig {
            node_name: self.config.name.to_string(),
            pod_cidr,
            cluster_cidr,
            service_cidr,
            bridge: BRIDGE.to_owned(),
            mtu,
            state_dir: self.config.data_dir.join("network"),
        })
        .await
        .map_err(|error| text(&error))?;
        let well_known = self.settings.dns_service();
        network
            .add_local_address(well_known)
            .await
            .map_err(|error| text(&error))?;
        let addresses = [IpAddr::V4(well_known), IpAddr::V4(network.gateway())];
        let sockets = addresses.map(|address| SocketAddr::new(address, DNS_PORT));
        let dns = DnsServer::start(
            &sockets,
            DnsConfig {
                cluster_domain: self.settings.cluster_domain.clone(),
                cluster_ranges: vec![cluster_cidr, service_cidr],
                upstreams: Upstreams::of_node(&self.resolver, &addresses),
            },
        )
        .await
        .map_err(|error| text(&error))?;
        if let Err(error) = std::fs::write(self.range_file(), format!("{pod_cidr}\n")) {
            tracing::warn!(%error, "the pod range was not noted; a restart without control plane will wait for it");
        }
        self.open.send_replace(Some(Arc::new(Open { network, dns })));
        self.unready.send_replace(None);
        Ok(())
    }

    /// Lists everything, programs it, then follows the changes until the watch ends. Returns the services that DNS then
    /// knows; `earlier` are those of the picture before.
    async fn follow(
        &self,
        store: &dyn ObjectStore,
        earlier: &BTreeSet<(String, String)>,
    ) -> Option<BTreeSet<(String, String)>> {
        let open = self.open.borrow().clone()?;
        let mut picture = Picture::default();
        let revision = picture.list(store).await?;
        if let Err(error) = open.network.sync_services(&picture.rules()).await {
            tracing::warn!(%error, "services were not programmed");
            return None;
        }
        open.dns.update(picture.dns_changes(earlier));
        self.set_routes(&open, &picture).await;
        let resources = ["nodes", "services", "endpointslices.discovery.k8s.io", "namespaces"]
            .map(Resource::new)
            .to_vec();
        let known = |picture: &Picture| Some(picture.services.keys().cloned().collect());
        let request = WatchRequest {
            resources,
            after: Some(revision),
            ..WatchRequest::default()
        };
        let Ok(items) = store.watch(request).await else {
            return known(&picture);
        };
        // What has arrived together is programmed together.
        let mut batches = items.ready_chunks(512);
        while let Some(batch) = batches.next().await {
            let mut touched = Touched::default();
            for item in batch {
                match item {
                    WatchItem::Event(event) => {
                        let gone = event.change == Change::Deleted;
                        picture.take(&event.key, &event.object, gone, &mut touched);
                    }
                    WatchItem::Progress(_) => {}
                    WatchItem::Lost(error) => {
                        tracing::info!(%error, "the watch of services was lost; listing again");
                        return known(&picture);
                    }
                }
            }
            if !self.apply(&open, &mut picture, touched).await {
                break;
            }
        }
        known(&picture)
    }

    async fn apply(&self, open: &Open, picture: &mut Picture, touched: Touched) -> bool {
        let changes = picture.changes(&touched.services);
        if !changes.is_empty()
            && let Err(error) = open.network.apply_services(&changes).await
        {
            tracing::warn!(%error, "a change of services was not programmed; all are programmed anew");
            return false;
        }
        open.dns.update(picture.dns_of(&touched));
        if touched.nodes {
            self.set_routes(open, picture).await;
        }
        true
    }

    async fn set_routes(&self, open: &Open, picture: &Picture) {
        let own = self.config.name.as_str();
        let peers: Vec<PeerRoute> = picture
            .nodes
            .values()
            .filter(|peer| peer.node != own)
            .cloned()
            .collect();
        if let Err(error) = open.network.set_routes(&peers).await {
            tracing::warn!(%error, "routes to other nodes were not set");
        }
    }

    async fn when_open(&self) -> Result<Arc<Open>, String> {
        let mut open = self.open.subscribe();
        let wait = open.wait_for(Option::is_some);
        match tokio::time::timeout(Duration::from_secs(10), wait).await {
            Ok(Ok(open)) => open.clone().ok_or_else(|| "the pod network is not open".to_owned()),
            _ => Err(self
                .unready
                .borrow()
                .clone()
                .unwrap_or_else(|| "the pod network is not open".to_owned())),
        }
    }
}

#[async_trait]
impl SandboxNetwork for NodeNetwork {
    async fn attach(&self, pod: &PodIdentity, network_namespace: &Path) -> Result<Vec<IpAddr>, String> {
        let open = self.when_open().await?;
        let namespace = NetNamespace::Path(network_namespace.to_owned());
        let attached = open
            .network
            .attach_pod(pod.uid.as_str(), namespace)
            .await
            .map_err(|error| error.to_string())?;
        Ok(vec![IpAddr::V4(attached.ip)])
    }

    async fn detach(&self, pod: &Uid) -> Result<(), String> {
        let open = self.when_open().await?;
        open.network
            .detach_pod(pod.as_str())
            .await
            .map(|_| ())
            .map_err(|error| error.to_string())
    }
}

/// The attached pods that are not present.
fn orphans(attached: impl Iterator<Item = String>, present: &BTreeSet<Uid>) -> Vec<String> {
    attached
        .filter(|uid| !present.contains(&Uid::new(uid.as_str())))
        .collect()
}

/// What the store says of the network.
#[derive(Default)]
struct Picture {
    services: BTreeMap<(String, String), ServiceView>,
    programmed: BTreeMap<(String, String), Vec<ServiceRule>>,
    nodes: BTreeMap<String, PeerRoute>,
    namespaces: BTreeSet<String>,
}

/// What a batch of events has changed.
#[derive(Default)]
struct Touched {
    services: BTreeSet<(String, String)>,
    namespaces: Vec<DnsChange>,
    nodes: bool,
}

impl Picture {
    async fn list(&mut self, store: &dyn ObjectStore) -> Option<Revision> {
        let mut first = None;
        let mut touched = Touched::default();
        for resource in ["namespaces", "nodes", "services", "endpointslices.discovery.k8s.io"] {
            let page = store.list(ListRequest::all(resource)).await.ok()?;
            // From the first list on: an event that a later list has seen already changes nothing.
            first.get_or_insert(page.revision);
            for (key, object) in &page.items {
                self.take(key, object, false, &mut touched);
            }
        }
        let all: BTreeSet<_> = self.services.keys().cloned().collect();
        self.changes(&all);
        first
    }

    fn take(&mut self, key: &Key, object: &Object, gone: bool, touched: &mut Touched) {
        let (namespace, name) = (key.namespace.to_string(), key.name.to_string());
        match key.resource.as_str() {
            "nodes" => {
                touched.nodes = true;
                match peer(object).filter(|_| !gone) {
                    Some(route) => self.nodes.insert(name, route),
                    None => self.nodes.remove(&name),
                };
            }
            "namespaces" => {
                let change = if gone {
                    DnsChange::RemoveNamespace(name.clone())
                } else {
                    DnsChange::AddNamespace(name.clone())
                };
                if if gone {
                    self.namespaces.remove(&name)
                } else {
                    self.namespaces.insert(name)
                } {
                    touched.namespaces.push(change);
                }
            }
            "services" => {
                let id = (namespace, name);
                touched.services.insert(id.clone());
                self.services.entry(id).or_default().service = if gone { None } else { object.parse().ok() };
            }
            _ => {
                let Some(service) = object.header.labels.get("kubernetes.io/service-name") else {
                    return;
                };
                let id = (namespace, service.clone());
                touched.services.insert(id.clone());
                let view = self.services.entry(id).or_default();
                match object.parse().ok().filter(|_| !gone) {
                    Some(slice) => view.slices.insert(name, slice),
                    None => view.slices.remove(&name),
                };
            }
        }
    }

    fn rules(&self) -> Vec<ServiceRule> {
        self.programmed.values().flatten().cloned().collect()
    }

    /// What must be programmed for these services; forgets those of which nothing is left.
    fn changes(&mut self, touched: &BTreeSet<(String, String)>) -> Vec<ServiceChange> {
        let mut changes = Vec::new();
        for id in touched {
            let wanted = self.services.get(id).map(ServiceView::rules).unwrap_or_default();
            let before = self.programmed.remove(id).unwrap_or_default();
            let kept: BTreeSet<&str> = wanted.iter().map(|rule| rule.name.as_str()).collect();
            for old in before.iter().filter(|old| !kept.contains(old.name.as_str())) {
                changes.push(ServiceChange::Remove(old.name.clone()));
            }
            changes.extend(
                wanted
                    .iter()
                    .filter(|rule| !before.contains(rule))
                    .cloned()
                    .map(ServiceChange::Set),
            );
            if !wanted.is_empty() {
                self.programmed.insert(id.clone(), wanted);
            }
        }
        changes
    }

    fn dns_of(&mut self, touched: &Touched) -> Vec<DnsChange> {
        let mut changes = touched.namespaces.clone();
        for id in &touched.services {
            changes.push(match self.services.get(id).and_then(ServiceView::dns) {
                Some(service) => DnsChange::SetService(service),
                None => DnsChange::RemoveService {
                    namespace: id.0.clone(),
                    name: id.1.clone(),
                },
            });
            let over = self
                .services
                .get(id)
                .is_some_and(|view| view.service.is_none() && view.slices.is_empty());
            if over {
                self.services.remove(id);
            }
        }
        changes
    }

    /// Everything, and the removal of what an earlier picture had.
    fn dns_changes(&self, earlier: &BTreeSet<(String, String)>) -> Vec<DnsChange> {
        let stale = earlier.iter().filter(|id| !self.services.contains_key(id));
        let stale = stale.map(|(namespace, name)| DnsChange::RemoveService {
            namespace: namespace.clone(),
            name: name.clone(),
        });
        let mut changes: Vec<DnsChange> = stale.collect();
        changes.extend(self.namespaces.iter().cloned().map(DnsChange::AddNamespace));
        changes.extend(
            self.services
                .values()
                .filter_map(ServiceView::dns)
                .map(DnsChange::SetService),
        );
        changes
    }
}

/// Where a node's pods are.
fn peer(object: &Object) -> Option<PeerRoute> {
    let node: Node = object.parse().ok()?;
    let status = node.status?;
    let internal = status
        .addresses?
        .into_iter()
        .find(|address| address.type_ == "InternalIP")?;
    Some(PeerRoute {
        node: node.metadata.name?,
        node_ip: internal.address.parse::<Ipv4Addr>().ok()?,
        pod_cidr: node.spec?.pod_cidr?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pods_that_the_runtime_does_not_have_lose_their_addresses() {
        let attached = || ["a", "b", "c"].map(str::to_owned).into_iter();
        let present = |names: &[&str]| names.iter().map(|name| Uid::new(*name)).collect::<BTreeSet<Uid>>();
        assert_eq!(orphans(attached(), &present(&["a", "c", "d"])), ["b"]);
        assert_eq!(orphans(attached(), &present(&["a", "b", "c"])), Vec::<String>::new());
        assert_eq!(orphans(attached(), &present(&[])), ["a", "b", "c"]);
    }
}
