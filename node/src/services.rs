//! What the data plane is told of a Service: rules for the kernel and records for DNS, from the Service and its
//! EndpointSlices. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use network::{DnsEndpoint, DnsPort, DnsService, Protocol, ServiceRule};

/// A Service with its slices.
#[derive(Clone, Debug, Default)]
pub struct ServiceView {
    /// The Service; `None` while only slices of it are known.
    pub service: Option<Service>,
    /// Its slices by name.
    pub slices: BTreeMap<String, EndpointSlice>,
}

fn protocol(text: Option<&str>) -> Protocol {
    match text {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

/// Whether an endpoint takes new connections.
fn ready(endpoint: &Endpoint, publish_not_ready: bool) -> bool {
    publish_not_ready || endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
}

impl ServiceView {
    /// One rule for each port. A headless service, and one of the type ExternalName, has none.
    pub fn rules(&self) -> Vec<ServiceRule> {
        let Some(service) = &self.service else {
            return Vec::new();
        };
        let Some(spec) = &service.spec else { return Vec::new() };
        let Some(cluster_ip) = spec.cluster_ip.as_ref().and_then(|text| text.parse::<Ipv4Addr>().ok()) else {
            return Vec::new();
        };
        let (namespace, name) = self.names();
        let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
            let config = spec
                .session_affinity_config
                .as_ref()
                .and_then(|config| config.client_ip.as_ref());
            config.and_then(|client| client.timeout_seconds).unwrap_or(10_800) as u32
        });
        let rule = |port: &ServicePort| ServiceRule {
            name: format!(
                "{namespace}/{name}:{}",
                port.name.clone().unwrap_or_else(|| port.port.to_string())
            ),
            cluster_ip,
            protocol: protocol(port.protocol.as_deref()),
            port: port.port as u16,
            node_port: port.node_port.filter(|port| *port > 0).map(|port| port as u16),
            endpoints: self.endpoints(port),
            session_affinity_s: affinity,
        };
        spec.ports.iter().flatten().map(rule).collect()
    }

    fn names(&self) -> (String, String) {
        let metadata = self
            .service
            .as_ref()
            .map(|service| service.metadata.clone())
            .unwrap_or_default();
        (
            metadata.namespace.unwrap_or_default(),
            metadata.name.unwrap_or_default(),
        )
    }

    fn publishes_not_ready(&self) -> bool {
        let spec = self.service.as_ref().and_then(|service| service.spec.as_ref());
        spec.and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false)
    }

    /// The addresses behind a port: slices name their ports as the Service does.
    fn endpoints(&self, port: &ServicePort) -> Vec<SocketAddrV4> {
        let wanted = port.name.clone().unwrap_or_default();
        let mut found = Vec::new();
        for slice in self.slices.values() {
            let listed = slice.ports.iter().flatten();
            let mut numbers = listed
                .filter(|p| p.name.clone().unwrap_or_default() == wanted)
                .filter_map(|p| p.port);
            let Some(number) = numbers.next() else { continue };
            let ready = slice
                .endpoints
                .iter()
                .flatten()
                .filter(|endpoint| ready(endpoint, self.publishes_not_ready()));
            let addresses = ready.flat_map(|endpoint| endpoint.addresses.iter());
            found.extend(addresses.filter_map(|ip| Some(SocketAddrV4::new(ip.parse().ok()?, number as u16))));
        }
        found.sort();
        found.dedup();
        found
    }

    /// What DNS says of the Service.
    pub fn dns(&self) -> Option<DnsService> {
        let spec = self.service.as_ref()?.spec.as_ref()?;
        let (namespace, name) = self.names();
        let mut service = DnsService {
            namespace,
            name,
            ..DnsService::default()
        };
        if spec.type_.as_deref() == Some("ExternalName") {
            service.external_name = spec.external_name.clone();
            return Some(service);
        }
        service.cluster_ips = spec
            .cluster_ip
            .iter()
            .filter_map(|text| text.parse::<IpAddr>().ok())
            .collect();
        service.ports = spec
            .ports
            .iter()
            .flatten()
            .map(|port| DnsPort {
                name: port.name.clone().unwrap_or_default(),
                protocol: protocol(port.protocol.as_deref()),
                port: port.port as u16,
            })
            .collect();
        if service.cluster_ips.is_empty() {
            service.endpoints = self.dns_endpoints();
        }
        Some(service)
    }

    fn dns_endpoints(&self) -> Vec<DnsEndpoint> {
        let publish = self.publishes_not_ready();
        let mut endpoints = Vec::new();
        for slice in self.slices.values() {
            let ports: Vec<DnsPort> = slice
                .ports
                .iter()
                .flatten()
                .filter_map(|port| {
                    Some(DnsPort {
                        name: port.name.clone().unwrap_or_default(),
                        protocol: protocol(port.protocol.as_deref()),
                        port: port.port? as u16,
                    })
                })
                .collect();
            for endpoint in slice
                .endpoints
                .iter()
                .flatten()
                .filter(|endpoint| ready(endpoint, publish))
            {
                for ip in endpoint.addresses.iter().filter_map(|text| text.parse().ok()) {
                    endpoints.push(DnsEndpoint {
                        ip,
                        hostname: endpoint.hostname.clone(),
                        ports: ports.clone(),
                    });
                }
            }
        }
        endpoints
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn view(spec: serde_json::Value) -> ServiceView {
        let service =
            serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "d"}, "spec": spec})).unwrap();
        let slice = serde_json::from_value(json!({
            "metadata": {"name": "web-1"}, "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.244.1.2"], "conditions": {"ready": true}},
                {"addresses": ["10.244.2.2"], "conditions": {"ready": false}},
            ],
        }))
        .unwrap();
        ServiceView {
            service: Some(service),
            slices: BTreeMap::from([("web-1".to_owned(), slice)]),
        }
    }

    #[test]
    fn only_ready_endpoints_take_connections() {
        let view = view(json!({"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80}]}));
        let rules = view.rules();
        assert_eq!(rules[0].name, "d/web:http");
        assert_eq!(rules[0].endpoints, ["10.244.1.2:8080".parse().unwrap()]);
        assert_eq!(
            view.dns().unwrap().cluster_ips,
            ["10.96.0.7".parse::<IpAddr>().unwrap()]
        );
    }

    #[test]
    fn a_headless_service_is_in_dns_only() {
        let view = view(
            json!({"clusterIP": "None", "publishNotReadyAddresses": true, "ports": [{"name": "http", "port": 80}]}),
        );
        assert!(view.rules().is_empty());
        assert_eq!(view.dns().unwrap().endpoints.len(), 2);
    }
}
