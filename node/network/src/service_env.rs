//! The environment variables by which a container finds the services of its namespace, as Kubernetes and Docker links name
//! them.
//!
//! Called when a container's environment is put together, with the services that exist then. Pure.

use std::net::IpAddr;

use crate::service::Protocol;

/// A service with an address of its own; headless ones have no variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentService {
    /// The service's name.
    pub name: String,
    /// Its address.
    pub cluster_ip: IpAddr,
    /// Its ports, in order; the first one is the service's main port.
    pub ports: Vec<EnvironmentPort>,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentPort {
    /// The port's name, if it has one.
    pub name: Option<String>,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The service's port.
    pub port: u16,
}

/// The variables for some services, in a fixed order. The caller selects the services: those of the pod's namespace and
/// `kubernetes` of the default one if the pod wants service links, else `kubernetes` only.
pub fn service_environment(services: &[EnvironmentService]) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for service in services {
        let Some(main) = service.ports.first() else { continue };
        let prefix = variable(&service.name);
        let mut set = |name: String, value: String| variables.push((name, value));
        set(format!("{prefix}_SERVICE_HOST"), service.cluster_ip.to_string());
        set(format!("{prefix}_SERVICE_PORT"), main.port.to_string());
        for port in &service.ports {
            if let Some(name) = &port.name {
                set(
                    format!("{prefix}_SERVICE_PORT_{}", variable(name)),
                    port.port.to_string(),
                );
            }
        }
        set(format!("{prefix}_PORT"), url(service.cluster_ip, main));
        for port in &service.ports {
            let of_port = format!(
                "{prefix}_PORT_{}_{}",
                port.port,
                port.protocol.nft_name().to_ascii_uppercase()
            );
            set(of_port.clone(), url(service.cluster_ip, port));
            set(format!("{of_port}_PROTO"), port.protocol.nft_name().to_owned());
            set(format!("{of_port}_PORT"), port.port.to_string());
            set(format!("{of_port}_ADDR"), service.cluster_ip.to_string());
        }
    }
    variables
}

fn url(address: IpAddr, port: &EnvironmentPort) -> String {
    let protocol = port.protocol.nft_name();
    match address {
        IpAddr::V4(address) => format!("{protocol}://{address}:{}", port.port),
        IpAddr::V6(address) => format!("{protocol}://[{address}]:{}", port.port),
    }
}

fn variable(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_named_as_kubernetes_names_them() {
        let port = |name: Option<&str>, protocol, port| EnvironmentPort {
            name: name.map(str::to_owned),
            protocol,
            port,
        };
        let services = [
            EnvironmentService {
                name: "redis-primary".into(),
                cluster_ip: "10.0.0.11".parse().unwrap(),
                ports: vec![
                    port(Some("redis-tls"), Protocol::Tcp, 6379),
                    port(None, Protocol::Udp, 53),
                ],
            },
            EnvironmentService {
                name: "six".into(),
                cluster_ip: "fd00::1".parse().unwrap(),
                ports: vec![port(None, Protocol::Tcp, 80)],
            },
            EnvironmentService {
                name: "portless".into(),
                cluster_ip: "10.0.0.12".parse().unwrap(),
                ports: vec![],
            },
        ];
        let expected = [
            ("REDIS_PRIMARY_SERVICE_HOST", "10.0.0.11"),
            ("REDIS_PRIMARY_SERVICE_PORT", "6379"),
            ("REDIS_PRIMARY_SERVICE_PORT_REDIS_TLS", "6379"),
            ("REDIS_PRIMARY_PORT", "tcp://10.0.0.11:6379"),
            ("REDIS_PRIMARY_PORT_6379_TCP", "tcp://10.0.0.11:6379"),
            ("REDIS_PRIMARY_PORT_6379_TCP_PROTO", "tcp"),
            ("REDIS_PRIMARY_PORT_6379_TCP_PORT", "6379"),
            ("REDIS_PRIMARY_PORT_6379_TCP_ADDR", "10.0.0.11"),
            ("REDIS_PRIMARY_PORT_53_UDP", "udp://10.0.0.11:53"),
            ("REDIS_PRIMARY_PORT_53_UDP_PROTO", "udp"),
            ("REDIS_PRIMARY_PORT_53_UDP_PORT", "53"),
            ("REDIS_PRIMARY_PORT_53_UDP_ADDR", "10.0.0.11"),
            ("SIX_SERVICE_HOST", "fd00::1"),
            ("SIX_SERVICE_PORT", "80"),
            ("SIX_PORT", "tcp://[fd00::1]:80"),
            ("SIX_PORT_80_TCP", "tcp://[fd00::1]:80"),
            ("SIX_PORT_80_TCP_PROTO", "tcp"),
            ("SIX_PORT_80_TCP_PORT", "80"),
            ("SIX_PORT_80_TCP_ADDR", "fd00::1"),
        ];
        let expected: Vec<(String, String)> = expected.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        assert_eq!(service_environment(&services), expected);
    }
}
