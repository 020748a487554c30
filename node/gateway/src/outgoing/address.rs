//! Where a Service of the cluster is reached from this node's process: its ready endpoints, as its EndpointSlices have them.
//! The endpoints are dialled rather than the cluster address, so that a node whose rules are not written yet finds the
//! Service too, and one dead endpoint does not fail a request. What a choice is made of is pure (`endpoints`).

use std::net::{IpAddr, SocketAddr};

use api::access::Access;
use protocol::selector::LabelSelector;
use protocol::store::{ListRequest, ObjectStore, ReadError};
use protocol::{Key, Resource};
use serde_json::Value;

/// Why a Service leads nowhere. The texts are Kubernetes'.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// There is none of this name.
    #[error("service {0:?} not found")]
    NoService(String),
    /// It does not have this port.
    #[error("no service port {port} found for service {service:?}")]
    NoPort {
        /// The Service's name.
        service: String,
        /// The port that was asked for.
        port: u16,
    },
    /// Nobody is ready behind it.
    #[error("no endpoints available for service {0:?}")]
    NoEndpoints(String),
    /// The host name does not resolve.
    #[error("lookup {host}: {why}")]
    Lookup {
        /// The host.
        host: String,
        /// What the resolver said.
        why: String,
    },
    /// The store does not answer.
    #[error("the endpoints of the service cannot be read: {0}")]
    Store(#[from] ReadError),
    /// A stored object cannot be read.
    #[error("a stored object cannot be read: {0}")]
    Stored(#[from] serde_json::Error),
}

/// The addresses of a Service's port, of which any will do.
///
/// # Errors
///
/// Why there is none.
pub async fn of_service(
    store: &dyn ObjectStore,
    namespace: &str,
    name: &str,
    port: u16,
) -> Result<Vec<SocketAddr>, AddressError> {
    let stored = store.read(&Key::new("services", namespace, name)).await?;
    let service = stored
        .ok_or_else(|| AddressError::NoService(name.to_owned()))?
        .value()?;
    let spec = service.at(&["spec"]);
    if spec.text("type") == "ExternalName" {
        return of_host(spec.text("externalName"), port).await;
    }
    let slices = ListRequest {
        namespace: Some(namespace.into()),
        labels: LabelSelector::parse(&format!("kubernetes.io/service-name={name}")).unwrap_or_default(),
        ..ListRequest::all(Resource::new("endpointslices.discovery.k8s.io"))
    };
    let listed = store.list(slices).await?;
    let slices = listed.items.iter().map(|(_, object)| object.value());
    let slices = slices.collect::<Result<Vec<Value>, _>>()?;
    endpoints(&service, &slices, port)
}

/// The addresses of a host and port.
///
/// # Errors
///
/// What the machine's resolver says.
pub async fn of_host(host: &str, port: u16) -> Result<Vec<SocketAddr>, AddressError> {
    let failed = |why: String| AddressError::Lookup {
        host: host.to_owned(),
        why,
    };
    let found = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| failed(error.to_string()))?;
    let found: Vec<SocketAddr> = found.collect();
    if found.is_empty() {
        return Err(failed("no such host".to_owned()));
    }
    Ok(found)
}

/// The ready endpoints of a Service's port. A headless Service's port may be one that only its endpoints have.
fn endpoints(service: &Value, slices: &[Value], port: u16) -> Result<Vec<SocketAddr>, AddressError> {
    let name = service.at(&["metadata"]).text("name").to_owned();
    let ports = service.at(&["spec"]).items("ports");
    let named = ports.iter().find(|known| known.int("port") == Some(i64::from(port)));
    let Some(named) = named else {
        return Err(AddressError::NoPort { service: name, port });
    };
    let mut found = Vec::new();
    for (number, endpoint) in ready_endpoints(slices, named.text("name")) {
        let addresses = endpoint.items("addresses").iter().filter_map(Value::as_str);
        let addresses = addresses.filter_map(|address| address.parse::<IpAddr>().ok());
        found.extend(addresses.map(|address| SocketAddr::new(address, number)));
    }
    if found.is_empty() {
        return Err(AddressError::NoEndpoints(name));
    }
    Ok(found)
}

/// The endpoints of these slices that take requests at the port of this name, each with the port's number.
pub fn ready_endpoints<'a>(slices: &'a [Value], port_name: &str) -> impl Iterator<Item = (u16, &'a Value)> {
    let of_slice = move |slice: &'a Value| {
        let mut ports = slice.items("ports").iter();
        let port = ports.find(|known| known.text("name") == port_name);
        let number = port.and_then(|port| u16::try_from(port.int("port")?).ok());
        // Absent means ready, as the API says.
        let is_ready = |endpoint: &&Value| endpoint.at(&["conditions", "ready"]).as_bool().unwrap_or(true);
        let endpoints = slice.items("endpoints").iter().filter(is_ready);
        number
            .into_iter()
            .flat_map(move |number| endpoints.clone().map(move |endpoint| (number, endpoint)))
    };
    slices.iter().flat_map(of_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_ready_endpoints_of_the_named_port_are_dialled() {
        let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [
            {"name": "web", "port": 443, "targetPort": 8443}, {"name": "metrics", "port": 9090}]}});
        let slices = [json!({
            "ports": [{"name": "metrics", "port": 9090}, {"name": "web", "port": 8443}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"]},
            ],
        })];
        let found = endpoints(&service, &slices, 443).unwrap();
        let texts: Vec<String> = found.iter().map(SocketAddr::to_string).collect();
        assert_eq!(texts, ["10.0.0.1:8443", "10.0.0.3:8443"]);
        let error = endpoints(&service, &slices, 80).unwrap_err();
        assert_eq!(error.to_string(), "no service port 80 found for service \"s\"");
        let error = endpoints(&service, &[], 443).unwrap_err();
        assert_eq!(error.to_string(), "no endpoints available for service \"s\"");
    }
}
