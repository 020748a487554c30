//! What each name of the cluster's domain means: an immutable snapshot, and the pure step from one to the next.
//!
//! The server swaps snapshots; readers never wait. A step copies one namespace's table and the shards of the reverse table
//! that it touches, and shares the rest. Names are compared in lower case without the trailing dot.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{address::Ipv4Cidr, service::Protocol};

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsPort {
    /// The port's name; only named ports have SRV records.
    pub name: String,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The number: the service's port, or the endpoints' own port for a headless service.
    pub port: u16,
}

/// A pod behind a headless service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsEndpoint {
    /// The pod's address.
    pub ip: IpAddr,
    /// The pod's hostname, if its subdomain is the service. Others are known by their address with dashes.
    pub hostname: Option<String>,
    /// The named ports on which it listens.
    pub ports: Vec<DnsPort>,
}

/// A service, as DNS sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DnsService {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The service's own addresses; none for a headless service and for ExternalName.
    pub cluster_ips: Vec<IpAddr>,
    /// The named ports of a service with addresses.
    pub ports: Vec<DnsPort>,
    /// The ready endpoints of a headless service (all of them if it publishes addresses that are not ready).
    pub endpoints: Vec<DnsEndpoint>,
    /// The target of an ExternalName service.
    pub external_name: Option<String>,
}

/// A change of the zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsChange {
    /// The service is to be as given.
    SetService(DnsService),
    /// The service is to vanish.
    RemoveService {
        /// The namespace.
        namespace: String,
        /// The name.
        name: String,
    },
    /// The namespace exists: its pods' names resolve.
    AddNamespace(String),
    /// The namespace is gone.
    RemoveNamespace(String),
}

/// What a name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The name exists and has these records; none of them if it only has names below it.
    Found(Records),
    /// The name does not exist.
    NoSuchName,
    /// The name is outside the cluster's domain and of its addresses.
    Foreign,
}

/// The records of one name, of all types.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Records {
    /// A and AAAA.
    pub addresses: Vec<IpAddr>,
    /// SRV: port and target.
    pub services: Vec<(u16, String)>,
    /// PTR.
    pub pointers: Vec<String>,
    /// CNAME; excludes all others.
    pub alias: Option<String>,
    /// TXT.
    pub text: Option<String>,
    /// Whether the name is the top of the cluster's domain, which has SOA and NS.
    pub is_apex: bool,
}

type Services = HashMap<String, Arc<DnsService>>;
type Pointers = HashMap<IpAddr, Vec<String>>;

/// The number of shards of the reverse table: a change copies a 256th of it.
const SHARDS: usize = 256;

/// One snapshot of the cluster's names.
#[derive(Debug, Clone)]
pub struct Zone {
    domain: Arc<str>,
    reverse_ranges: Arc<[Ipv4Cidr]>,
    serial: u32,
    namespaces: HashMap<String, Arc<Services>>,
    pointers: Vec<Arc<Pointers>>,
}

impl Zone {
    /// An empty zone for a domain such as `cluster.local`. For addresses inside `reverse_ranges` the zone is the authority.
    pub fn new(domain: &str, reverse_ranges: &[Ipv4Cidr]) -> Self {
        Self {
            domain: normal(domain).into(),
            reverse_ranges: reverse_ranges.into(),
            serial: 1,
            namespaces: HashMap::new(),
            pointers: vec![Arc::default(); SHARDS],
        }
    }

    /// The domain, in lower case, without a dot at the end.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Grows with each snapshot.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// The snapshot after some changes.
    #[must_use]
    pub fn after(&self, changes: impl IntoIterator<Item = DnsChange>) -> Self {
        let mut next = self.clone();
        next.serial = next.serial.wrapping_add(1);
        for change in changes {
            match change {
                DnsChange::SetService(service) => next.set_service(service),
                DnsChange::RemoveService { namespace, name } => {
                    next.remove_service(&normal(&namespace), &normal(&name))
                }
                DnsChange::AddNamespace(name) => drop(next.namespaces.entry(normal(&name)).or_default()),
                DnsChange::RemoveNamespace(name) => next.remove_namespace(&normal(&name)),
            }
        }
        next
    }

    fn set_service(&mut self, mut service: DnsService) {
        service.namespace = normal(&service.namespace);
        service.name = normal(&service.name);
        for endpoint in &mut service.endpoints {
            endpoint.hostname = endpoint.hostname.as_deref().map(normal);
        }
        self.remove_service(&service.namespace, &service.name);
        for (address, name) in self.pointers_of(&service) {
            Arc::make_mut(&mut self.pointers[shard(address)])
                .entry(address)
                .or_default()
                .push(name);
        }
        let services = self.namespaces.entry(service.namespace.clone()).or_default();
        Arc::make_mut(services).insert(service.name.clone(), Arc::new(service));
    }

    fn remove_service(&mut self, namespace: &str, name: &str) {
        let Some(services) = self.namespaces.get_mut(namespace) else {
            return;
        };
        if !services.contains_key(name) {
            return;
        }
        let Some(removed) = Arc::make_mut(services).remove(name) else {
            return;
        };
        for (address, name) in self.pointers_of(&removed) {
            let pointers = Arc::make_mut(&mut self.pointers[shard(address)]);
            if let Some(names) = pointers.get_mut(&address) {
                names.retain(|known| *known != name);
                if names.is_empty() {
                    pointers.remove(&address);
                }
            }
        }
    }

    fn remove_namespace(&mut self, name: &str) {
        let Some(services) = self.namespaces.get(name).cloned() else {
            return;
        };
        for service in services.keys() {
            self.remove_service(name, service);
        }
        self.namespaces.remove(name);
    }

    fn pointers_of(&self, service: &DnsService) -> Vec<(IpAddr, String)> {
        let base = self.service_name(service);
        let own = service.cluster_ips.iter().map(|address| (*address, base.clone()));
        let endpoints = service
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.ip, format!("{}.{base}", label_of(endpoint))));
        own.chain(endpoints).collect()
    }

    fn service_name(&self, service: &DnsService) -> String {
        format!("{}.{}.svc.{}", service.name, service.namespace, self.domain)
    }

    /// What a name means.
    pub fn lookup(&self, name: &str) -> Lookup {
        let name = normal(name);
        if let Some(rest) = name.strip_suffix(&*self.domain) {
            if rest.is_empty() {
                return Lookup::Found(Records {
                    is_apex: true,
                    ..Records::default()
                });
            }
            if let Some(rest) = rest.strip_suffix('.') {
                let labels: Vec<&str> = rest.split('.').rev().collect();
                return found_or_none(self.below_domain(&labels));
            }
        }
        self.reverse(&name)
    }

    /// Labels from the right: `svc`, namespace, service, ...
    fn below_domain(&self, labels: &[&str]) -> Option<Records> {
        match labels {
            ["dns-version"] => Some(Records {
                text: Some("1.1.0".into()),
                ..Records::default()
            }),
            ["svc" | "pod"] => Some(Records::default()),
            ["svc" | "pod", namespace] => self.namespaces.contains_key(*namespace).then(Records::default),
            ["pod", namespace, label] => {
                let address = parse_dashed(label).filter(|_| self.namespaces.contains_key(*namespace))?;
                Some(Records {
                    addresses: vec![address],
                    ..Records::default()
                })
            }
            ["svc", namespace, service, rest @ ..] => {
                self.below_service(self.namespaces.get(*namespace)?.get(*service)?, rest)
            }
            _ => None,
        }
    }

    fn below_service(&self, service: &DnsService, labels: &[&str]) -> Option<Records> {
        if let Some(target) = &service.external_name {
            return labels.is_empty().then(|| Records {
                alias: Some(normal(target)),
                ..Records::default()
            });
        }
        match labels {
            [] => {
                let endpoints = service.endpoints.iter().map(|endpoint| endpoint.ip);
                let addresses = if is_headless(service) {
                    endpoints.collect()
                } else {
                    service.cluster_ips.clone()
                };
                Some(Records {
                    addresses: distinct(addresses),
                    ..Records::default()
                })
            }
            [label] if label.starts_with('_') => {
                let protocol = label.strip_prefix('_')?;
                let known = ports(service).any(|(_, port)| port.protocol.nft_name() == protocol);
                known.then(Records::default)
            }
            [protocol, port] if protocol.starts_with('_') => self.service_records(service, protocol, port),
            [label] => {
                let wanted = service.endpoints.iter().filter(|endpoint| label_of(endpoint) == *label);
                let addresses: Vec<IpAddr> = wanted.map(|endpoint| endpoint.ip).collect();
                (!addresses.is_empty()).then(|| Records {
                    addresses: distinct(addresses),
                    ..Records::default()
                })
            }
            _ => None,
        }
    }

    fn service_records(&self, service: &DnsService, protocol: &str, port: &str) -> Option<Records> {
        let (protocol, port) = (protocol.strip_prefix('_')?, port.strip_prefix('_')?);
        let base = self.service_name(service);
        let mut seen = BTreeSet::new();
        let services: Vec<(u16, String)> = ports(service)
            .filter(|(_, known)| known.protocol.nft_name() == protocol && known.name.eq_ignore_ascii_case(port))
            .map(|(endpoint, known)| {
                let target = endpoint.map_or_else(|| base.clone(), |endpoint| format!("{}.{base}", label_of(endpoint)));
                (known.port, target)
            })
            .filter(|record| seen.insert(record.clone()))
            .collect();
        (!services.is_empty()).then(|| Records {
            services,
            ..Records::default()
        })
    }

    fn reverse(&self, name: &str) -> Lookup {
        let Some(address) = parse_reverse(name) else {
            return Lookup::Foreign;
        };
        if let Some(names) = self.pointers[shard(address)].get(&address) {
            return Lookup::Found(Records {
                pointers: names.clone(),
                ..Records::default()
            });
        }
        match address {
            IpAddr::V4(address) if self.reverse_ranges.iter().any(|range| range.contains(address)) => {
                Lookup::NoSuchName
            }
            _ => Lookup::Foreign,
        }
    }
}

fn found_or_none(records: Option<Records>) -> Lookup {
    records.map_or(Lookup::NoSuchName, Lookup::Found)
}

fn is_headless(service: &DnsService) -> bool {
    service.cluster_ips.is_empty()
}

/// A service's ports: its own, or those of its endpoints if it is headless.
fn ports(service: &DnsService) -> impl Iterator<Item = (Option<&DnsEndpoint>, &DnsPort)> {
    let own = service
        .ports
        .iter()
        .filter(|_| !is_headless(service))
        .map(|port| (None, port));
    let endpoints = service.endpoints.iter().filter(|_| is_headless(service));
    own.chain(endpoints.flat_map(|endpoint| endpoint.ports.iter().map(move |port| (Some(endpoint), port))))
}

/// The name of an endpoint below its service.
fn label_of(endpoint: &DnsEndpoint) -> String {
    endpoint.hostname.clone().unwrap_or_else(|| match endpoint.ip {
        IpAddr::V4(address) => address.to_string().replace('.', "-"),
        IpAddr::V6(address) => address.to_string().replace(':', "-"),
    })
}

fn distinct(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// `10-244-1-2` and `fd00--2` as addresses.
fn parse_dashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6))
        .ok()
}

/// `2.1.244.10.in-addr.arpa` and the `ip6.arpa` form as addresses.
fn parse_reverse(name: &str) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<&str> = octets.split('.').rev().collect();
        // Four labels exactly: shorter names are ranges, which have no pointer.
        return if octets.len() == 4 {
            octets.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4)
        } else {
            None
        };
    }
    let nibbles: Vec<&str> = name.strip_suffix(".ip6.arpa")?.split('.').rev().collect();
    if nibbles.len() != 32 || nibbles.iter().any(|nibble| nibble.len() != 1) {
        return None;
    }
    let digits = nibbles.concat();
    u128::from_str_radix(&digits, 16)
        .ok()
        .map(|bits| IpAddr::V6(Ipv6Addr::from(bits)))
}

fn shard(address: IpAddr) -> usize {
    // The last byte differs most between the addresses of a cluster.
    match address {
        IpAddr::V4(address) => usize::from(address.octets()[3]),
        IpAddr::V6(address) => usize::from(address.octets()[15]),
    }
}

fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn port(name: &str, protocol: Protocol, port: u16) -> DnsPort {
        DnsPort {
            name: name.into(),
            protocol,
            port,
        }
    }

    fn web() -> DnsService {
        DnsService {
            namespace: "default".into(),
            name: "web".into(),
            cluster_ips: vec![ip("10.96.0.5"), ip("fd00::5")],
            ports: vec![port("http", Protocol::Tcp, 80), port("stats", Protocol::Udp, 81)],
            ..DnsService::default()
        }
    }

    fn database() -> DnsService {
        let endpoint = |address: &str, hostname: Option<&str>| DnsEndpoint {
            ip: ip(address),
            hostname: hostname.map(str::to_owned),
            ports: vec![port("sql", Protocol::Tcp, 5432)],
        };
        DnsService {
            namespace: "data".into(),
            name: "db".into(),
            endpoints: vec![endpoint("10.244.1.2", Some("db-0")), endpoint("10.244.2.3", None)],
            ..DnsService::default()
        }
    }

    fn zone() -> Zone {
        let external = DnsService {
            namespace: "default".into(),
            name: "outside".into(),
            external_name: Some("Example.com.".into()),
            ..DnsService::default()
        };
        let empty = DnsService {
            namespace: "data".into(),
            name: "empty".into(),
            ..DnsService::default()
        };
        let ranges = ["10.96.0.0/16".parse().unwrap(), "10.244.0.0/16".parse().unwrap()];
        Zone::new("cluster.local", &ranges).after([
            DnsChange::AddNamespace("default".into()),
            DnsChange::AddNamespace("bare".into()),
            DnsChange::SetService(web()),
            DnsChange::SetService(database()),
            DnsChange::SetService(external),
            DnsChange::SetService(empty),
        ])
    }

    fn addresses(list: &[&str]) -> Lookup {
        Lookup::Found(Records {
            addresses: list.iter().map(|text| ip(text)).collect(),
            ..Records::default()
        })
    }

    fn nothing() -> Lookup {
        Lookup::Found(Records::default())
    }

    #[test]
    fn names_mean_what_the_specification_says() {
        let services = |list: &[(u16, &str)]| {
            let services = list
                .iter()
                .map(|(port, target)| (*port, (*target).to_owned()))
                .collect();
            Lookup::Found(Records {
                services,
                ..Records::default()
            })
        };
        let pointer = |name: &str| {
            Lookup::Found(Records {
                pointers: vec![name.to_owned()],
                ..Records::default()
            })
        };
        let cases: Vec<(&str, Lookup)> = vec![
            ("web.default.svc.cluster.local", addresses(&["10.96.0.5", "fd00::5"])),
            ("WEB.Default.SVC.cluster.local.", addresses(&["10.96.0.5", "fd00::5"])),
            (
                "_http._tcp.web.default.svc.cluster.local",
                services(&[(80, "web.default.svc.cluster.local")]),
            ),
            (
                "_stats._udp.web.default.svc.cluster.local",
                services(&[(81, "web.default.svc.cluster.local")]),
            ),
            ("_stats._tcp.web.default.svc.cluster.local", Lookup::NoSuchName),
            ("_tcp.web.default.svc.cluster.local", nothing()),
            ("_sctp.web.default.svc.cluster.local", Lookup::NoSuchName),
            ("db.data.svc.cluster.local", addresses(&["10.244.1.2", "10.244.2.3"])),
            ("db-0.db.data.svc.cluster.local", addresses(&["10.244.1.2"])),
            ("10-244-2-3.db.data.svc.cluster.local", addresses(&["10.244.2.3"])),
            ("10-244-1-2.db.data.svc.cluster.local", Lookup::NoSuchName),
            ("a.db-0.db.data.svc.cluster.local", Lookup::NoSuchName),
            (
                "_sql._tcp.db.data.svc.cluster.local",
                services(&[
                    (5432, "db-0.db.data.svc.cluster.local"),
                    (5432, "10-244-2-3.db.data.svc.cluster.local"),
                ]),
            ),
            ("empty.data.svc.cluster.local", nothing()),
            ("web.data.svc.cluster.local", Lookup::NoSuchName),
            ("web.absent.svc.cluster.local", Lookup::NoSuchName),
            ("default.svc.cluster.local", nothing()),
            ("bare.svc.cluster.local", nothing()),
            ("absent.svc.cluster.local", Lookup::NoSuchName),
            ("svc.cluster.local", nothing()),
            ("pod.cluster.local", nothing()),
            ("other.cluster.local", Lookup::NoSuchName),
            ("1-2-3-4.bare.pod.cluster.local", addresses(&["1.2.3.4"])),
            ("fd00--2.bare.pod.cluster.local", addresses(&["fd00::2"])),
            ("1-2-3.bare.pod.cluster.local", Lookup::NoSuchName),
            ("1-2-3-4.absent.pod.cluster.local", Lookup::NoSuchName),
            ("bare.pod.cluster.local", nothing()),
            ("5.0.96.10.in-addr.arpa", pointer("web.default.svc.cluster.local")),
            ("2.1.244.10.in-addr.arpa", pointer("db-0.db.data.svc.cluster.local")),
            (
                "3.2.244.10.in-addr.arpa",
                pointer("10-244-2-3.db.data.svc.cluster.local"),
            ),
            ("9.9.244.10.in-addr.arpa", Lookup::NoSuchName),
            ("8.8.8.8.in-addr.arpa", Lookup::Foreign),
            ("244.10.in-addr.arpa", Lookup::Foreign),
            (
                "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
                pointer("web.default.svc.cluster.local"),
            ),
            ("example.com", Lookup::Foreign),
            ("notcluster.local", Lookup::Foreign),
            ("local", Lookup::Foreign),
            ("", Lookup::Foreign),
            (
                "cluster.local",
                Lookup::Found(Records {
                    is_apex: true,
                    ..Records::default()
                }),
            ),
            (
                "dns-version.cluster.local",
                Lookup::Found(Records {
                    text: Some("1.1.0".into()),
                    ..Records::default()
                }),
            ),
            (
                "outside.default.svc.cluster.local",
                Lookup::Found(Records {
                    alias: Some("example.com".into()),
                    ..Records::default()
                }),
            ),
            ("a.outside.default.svc.cluster.local", Lookup::NoSuchName),
            ("..svc.cluster.local", Lookup::NoSuchName),
        ];
        let zone = zone();
        for (name, expected) in cases {
            assert_eq!(zone.lookup(name), expected, "{name}");
        }
    }

    #[test]
    fn a_change_leaves_earlier_snapshots_as_they_were() {
        let before = zone();
        let mut moved = web();
        moved.cluster_ips = vec![ip("10.96.0.6")];
        let after = before.after([DnsChange::SetService(moved)]);
        assert_eq!(
            before.lookup("web.default.svc.cluster.local"),
            addresses(&["10.96.0.5", "fd00::5"])
        );
        assert_eq!(after.lookup("web.default.svc.cluster.local"), addresses(&["10.96.0.6"]));
        assert_eq!(after.lookup("5.0.96.10.in-addr.arpa"), Lookup::NoSuchName);
        assert!(matches!(after.lookup("6.0.96.10.in-addr.arpa"), Lookup::Found(_)));
        assert_ne!(before.serial(), after.serial());
    }

    #[test]
    fn what_is_removed_is_gone_in_both_directions() {
        let zone = zone();
        let gone = zone.after([DnsChange::RemoveService {
            namespace: "default".into(),
            name: "web".into(),
        }]);
        assert_eq!(gone.lookup("web.default.svc.cluster.local"), Lookup::NoSuchName);
        assert_eq!(gone.lookup("default.svc.cluster.local"), nothing());
        assert_eq!(gone.lookup("5.0.96.10.in-addr.arpa"), Lookup::NoSuchName);
        let gone = zone.after([
            DnsChange::RemoveNamespace("data".into()),
            DnsChange::RemoveNamespace("absent".into()),
        ]);
        assert_eq!(gone.lookup("data.svc.cluster.local"), Lookup::NoSuchName);
        assert_eq!(gone.lookup("2.1.244.10.in-addr.arpa"), Lookup::NoSuchName);
    }
}
