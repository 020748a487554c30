//! Where a proxied request goes: which address and port of a pod, of a Service's endpoint or of a node. After Kubernetes'
//! `ResourceLocation` of pods, services and nodes, refusals in its words. Pure; whoever calls reads the objects.

use std::net::{IpAddr, SocketAddr};

use api::access::Access;
use api::status::Status;
use protocol::NodeName;
use serde_json::Value;

use crate::outgoing::address::ready_endpoints;

/// Where a request is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The address and port.
    pub address: SocketAddr,
    /// The pod behind it, on whose node it can be reached where the address cannot from here.
    pub pod: Option<(NodeName, String)>,
}

/// `[scheme:]name[:port]`, as a proxied object is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyName<'a> {
    /// Whether the other side speaks TLS.
    pub tls: bool,
    /// The object.
    pub name: &'a str,
    /// A number or a name; empty when nothing is said.
    pub port: &'a str,
}

impl<'a> ProxyName<'a> {
    /// Reads it; `word` names the kind in the refusal.
    pub fn parse(word: &str, text: &'a str) -> Result<ProxyName<'a>, Status> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => ("?", "", ""),
        };
        if name.is_empty() || !matches!(scheme, "" | "http" | "https") {
            return Err(Status::bad_request(format!("invalid {word} request {text:?}")));
        }
        Ok(ProxyName {
            tls: scheme == "https",
            name,
            port,
        })
    }

    fn number(&self) -> Option<u16> {
        self.port.parse().ok().filter(|port| *port > 0)
    }

    fn default_port(&self) -> u16 {
        if self.tls { 443 } else { 80 }
    }
}

/// The pod's address, and its first declared port where none is named.
pub fn of_pod(name: &ProxyName<'_>, pod: &Value) -> Result<Destination, Status> {
    let containers = pod.at(&["spec"]).items("containers");
    let declared = containers.iter().find_map(|container| container.items("ports").first());
    let declared = declared.and_then(|port| u16::try_from(port.int("containerPort")?).ok());
    let port = match name.port {
        "" => declared.unwrap_or(name.default_port()),
        _ => name
            .number()
            .ok_or_else(|| Status::bad_request(format!("invalid pod request {:?}", name.port)))?,
    };
    let address = pod.at(&["status"]).text("podIP").parse().ok();
    let address = address.filter(is_proxyable).ok_or_else(not_allowed)?;
    Ok(Destination {
        address: SocketAddr::new(address, port),
        pod: behind(pod),
    })
}

/// The pod as another node reaches it: at its loopback address, which for a pod in its node's own network is the node's.
fn behind(pod: &Value) -> Option<(NodeName, String)> {
    let (spec, node) = (pod.at(&["spec"]), pod.at(&["spec"]).text("nodeName"));
    let reachable = !spec.flag("hostNetwork") && !node.is_empty();
    reachable.then(|| (NodeName::from(node), pod.at(&["metadata"]).text("uid").to_owned()))
}

/// The ready endpoints of a Service that have the port, in the order of their slices.
pub fn of_service(name: &ProxyName<'_>, service: &Value, slices: &[Value]) -> Result<Vec<Destination>, Status> {
    let port_name = match name.number() {
        Some(number) => {
            let ports = service.at(&["spec"]).items("ports");
            let declared = ports.iter().find(|port| port.int("port") == Some(i64::from(number)));
            let declared = declared.ok_or_else(|| {
                let text = format!("no service port {number} found for service {:?}", name.name);
                Status::service_unavailable(text)
            })?;
            declared.text("name")
        }
        None => name.port,
    };
    let mut found = Vec::new();
    for (port, endpoint) in ready_endpoints(slices, port_name) {
        let addresses = endpoint.items("addresses").iter();
        let mut addresses = addresses.filter_map(|address| address.as_str()?.parse().ok());
        let Some(address) = addresses.find(is_proxyable) else {
            continue;
        };
        let target = endpoint.at(&["targetRef"]);
        let (node, uid) = (endpoint.text("nodeName"), target.text("uid"));
        let is_pod = target.text("kind") == "Pod" && !node.is_empty() && !uid.is_empty();
        found.push(Destination {
            address: SocketAddr::new(address, port),
            pod: is_pod.then(|| (NodeName::from(node), uid.to_owned())),
        });
    }
    if found.is_empty() {
        let text = format!("no endpoints available for service {:?}", name.name);
        return Err(Status::service_unavailable(text));
    }
    Ok(found)
}

/// A port of a node.
pub fn of_node(name: &ProxyName<'_>, node: &Value) -> Result<Destination, Status> {
    let kubelet = node.at(&["status", "daemonEndpoints", "kubeletEndpoint"]);
    let told = kubelet.int("Port").and_then(|port| u16::try_from(port).ok());
    let port = match (name.port, name.number()) {
        ("", _) => told.filter(|port| *port > 0).ok_or_else(|| {
            Status::bad_request(format!(
                "node {:?} has no port of its own to be proxied to: name one, as in {}:8080",
                name.name, name.name
            ))
        })?,
        (_, Some(port)) => port,
        (text, None) => return Err(Status::bad_request(format!("invalid node request {text:?}"))),
    };
    let addresses = node.at(&["status"]).items("addresses").iter();
    let mut internal = addresses.filter(|address| address.text("type") == "InternalIP");
    let address = internal.find_map(|address| address.text("address").parse().ok());
    let address = address.filter(is_proxyable).ok_or_else(not_allowed)?;
    Ok(Destination {
        address: SocketAddr::new(address, port),
        pod: None,
    })
}

fn not_allowed() -> Status {
    Status::bad_request("address not allowed")
}

/// Addresses that mean the machine of whoever connects must not be reached through the API (upstream's `IsProxyableIP`).
fn is_proxyable(address: &IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !address.is_loopback() && !link_local && !address.is_unspecified() && !address.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn named(text: &str) -> ProxyName<'_> {
        ProxyName::parse("service", text).unwrap()
    }

    #[test]
    fn names_may_have_a_scheme_and_a_port() {
        let cases = [
            ("a", (false, "a", "")),
            ("a:80", (false, "a", "80")),
            ("https:a:", (true, "a", "")),
            ("http:a:web", (false, "a", "web")),
        ];
        for (text, (tls, name, port)) in cases {
            assert_eq!(named(text), ProxyName { tls, name, port }, "{text}");
        }
        for bad in ["", ":80", "ftp:a:1", "a:b:c:d"] {
            let error = ProxyName::parse("service", bad).unwrap_err();
            assert_eq!(
                (error.code, error.message),
                (400, format!("invalid service request {bad:?}"))
            );
        }
    }

    #[test]
    fn a_pod_is_reached_at_its_first_port_and_never_at_a_loopback() {
        let pod = |ip: &str, host: bool| {
            json!({"metadata": {"uid": "u"}, "status": {"podIP": ip},
            "spec": {"nodeName": "n1", "hostNetwork": host, "containers": [{}, {"ports": [{"containerPort": 8080}]}]}})
        };
        let found = of_pod(&named("p"), &pod("10.244.0.5", false)).unwrap();
        assert_eq!(found.address, "10.244.0.5:8080".parse().unwrap());
        assert_eq!(found.pod, Some((NodeName::from("n1"), "u".to_owned())));
        assert_eq!(of_pod(&named("p:9"), &pod("10.244.0.5", true)).unwrap().pod, None);
        for ip in ["127.0.0.1", "169.254.1.1", "", "::1"] {
            assert_eq!(
                of_pod(&named("p"), &pod(ip, false)).unwrap_err().message,
                "address not allowed",
                "{ip}"
            );
        }
    }

    #[test]
    fn a_service_leads_to_ready_endpoints_of_the_port_that_is_meant() {
        let service = json!({"spec": {"ports": [{"name": "web", "port": 80}, {"name": "admin", "port": 81}]}});
        let slice = json!({"ports": [{"name": "web", "port": 8080}], "endpoints": [
            {"addresses": ["10.244.0.5"], "conditions": {"ready": false}},
            {"addresses": ["10.244.0.6"], "conditions": {"ready": true}, "nodeName": "n2", "targetRef": {"kind": "Pod", "uid": "u6"}},
            {"addresses": ["127.0.0.1"]},
            {"addresses": ["10.9.9.9"]},
        ]});
        let found = of_service(&named("s:80"), &service, std::slice::from_ref(&slice)).unwrap();
        assert_eq!(
            found,
            of_service(&named("s:web"), &service, std::slice::from_ref(&slice)).unwrap()
        );
        let addresses: Vec<String> = found.iter().map(|found| found.address.to_string()).collect();
        assert_eq!(addresses, ["10.244.0.6:8080", "10.9.9.9:8080"]);
        assert_eq!(found[0].pod, Some((NodeName::from("n2"), "u6".to_owned())));
        let refusals = [
            ("s:82", "no service port 82 found for service \"s\""),
            ("s:admin", "no endpoints available for service \"s\""),
            ("s", "no endpoints available for service \"s\""),
        ];
        for (text, message) in refusals {
            let error = of_service(&named(text), &service, std::slice::from_ref(&slice)).unwrap_err();
            assert_eq!((error.code, error.message.as_str()), (503, message), "{text}");
        }
    }

    #[test]
    fn a_node_needs_a_port() {
        let node = json!({"status": {"addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.2"}]}});
        assert_eq!(
            of_node(&named("n:99"), &node).unwrap().address,
            "10.0.0.2:99".parse().unwrap()
        );
        assert_eq!(of_node(&named("n"), &node).unwrap_err().code, 400);
        assert_eq!(of_node(&named("n:x"), &node).unwrap_err().code, 400);
    }
}
