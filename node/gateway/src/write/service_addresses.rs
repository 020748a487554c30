//! The addresses of Services: each gets a cluster address of its own, which an IPAddress object reserves in the same
//! transaction, and node ports where its type has them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use api::kinds::Kind;
use api::status::Status;
use protocol::Key;
use protocol::store::{ListRequest, Precondition, Write};

use super::{Circumstances, Writer};
use crate::addresses::choose_node_port;
use crate::read::read_status;

/// The resource of the objects that keep a cluster address from being given twice.
pub(super) const IP_ADDRESSES: &str = "ipaddresses.networking.k8s.io";

impl Writer {
    /// Gives a Service its cluster address and node ports. Returns the addresses to reserve with it.
    pub(super) async fn assign_addresses(
        &self,
        kind: &Kind,
        object: &mut Value,
        bits: u64,
    ) -> Result<Vec<Ipv4Addr>, Status> {
        if (kind.group, kind.kind) != ("", "Service") {
            return Ok(Vec::new());
        }
        let service_type = object["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
        let wanted = object["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
        if service_type == "ExternalName" {
            return Ok(Vec::new());
        }
        if matches!(service_type.as_str(), "NodePort" | "LoadBalancer") {
            self.assign_node_ports(object, bits).await?;
        }
        if wanted == "None" {
            object["spec"]["clusterIPs"] = json!(["None"]);
            return Ok(Vec::new());
        }
        let address = if wanted.is_empty() {
            let taken = self
                .store
                .list(ListRequest::all(IP_ADDRESSES))
                .await
                .map_err(read_status)?;
            let used: BTreeSet<Ipv4Addr> = taken
                .items
                .iter()
                .filter_map(|(key, _)| key.name.parse().ok())
                .collect();
            self.service_range
                .choose(&used, bits as u32)
                .map_err(|error| Status::internal(error.to_string()))?
        } else {
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            self.service_range
                .check(&wanted)
                .map_err(|error| address_refused(kind, &name, &wanted, &error))?
        };
        object["spec"]["clusterIP"] = address.to_string().into();
        object["spec"]["clusterIPs"] = json!([address.to_string()]);
        Ok(vec![address])
    }

    async fn assign_node_ports(&self, object: &mut Value, bits: u64) -> Result<(), Status> {
        let services = self
            .store
            .list(ListRequest::all("services"))
            .await
            .map_err(read_status)?;
        let values = services.items.iter().filter_map(|(_, service)| service.value().ok());
        let ports = |value: &Value| -> Vec<u16> {
            let listed = value["spec"]["ports"].as_array().cloned().unwrap_or_default();
            listed
                .iter()
                .filter_map(|port| u16::try_from(port["nodePort"].as_u64()?).ok())
                .collect()
        };
        let mut used: BTreeSet<u16> = values.flat_map(|value| ports(&value)).collect();
        for port in object["spec"]["ports"].as_array_mut().into_iter().flatten() {
            if port["nodePort"].as_u64().unwrap_or(0) == 0 {
                let chosen = choose_node_port(&used, (bits >> 8) as u32);
                let chosen = chosen
                    .ok_or_else(|| Status::internal("every node port is taken: delete a Service of type NodePort"))?;
                used.insert(chosen);
                port["nodePort"] = chosen.into();
            }
        }
        Ok(())
    }

    /// The writes that remove an object: with a Service goes the reservation of its address.
    pub(super) async fn removal(
        &self,
        key: &Key,
        precondition: Precondition,
        old: &Value,
    ) -> Result<Vec<Write>, Status> {
        let mut writes = vec![Write::Delete {
            key: key.clone(),
            precondition,
        }];
        if key.resource.as_str() == "services"
            && let Some(address) = old["spec"]["clusterIP"]
                .as_str()
                .filter(|text| text.parse::<Ipv4Addr>().is_ok())
        {
            let reserved = Key::new(IP_ADDRESSES, "", address);
            if self.store.read(&reserved).await.map_err(read_status)?.is_some() {
                writes.push(Write::Delete {
                    key: reserved,
                    precondition: Precondition::None,
                });
            }
        }
        Ok(writes)
    }
}

/// An IPAddress object (networking.k8s.io/v1), named by the address.
pub(super) fn reservation(address: Ipv4Addr, service: &Value, with: &Circumstances) -> Result<Write, Status> {
    let object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(),
            "uid": with.uid,
            "creationTimestamp": with.now.rfc3339(),
            "labels": {"ipaddress.kubernetes.io/managed-by": "actorium", "ipaddress.kubernetes.io/ip-family": "IPv4"},
        },
        "spec": {"parentRef": {
            "group": "", "resource": "services",
            "namespace": service["metadata"]["namespace"], "name": service["metadata"]["name"],
        }},
    });
    let draft = protocol::Draft::encode(&object, Vec::new()).map_err(Status::internal)?;
    Ok(Write::Put {
        key: Key::new(IP_ADDRESSES, "", address.to_string()),
        precondition: Precondition::Absent,
        draft,
    })
}

/// Whether a Service names its own address.
pub(super) fn asks_for_address(service: &Value) -> bool {
    service
        .pointer("/spec/clusterIP")
        .and_then(Value::as_str)
        .is_some_and(|address| !address.is_empty())
}

pub(super) fn address_refused(kind: &Kind, name: &str, wanted: &str, why: &dyn std::fmt::Display) -> Status {
    let cause = api::cause::Cause {
        field: "spec.clusterIPs".to_owned(),
        reason: "FieldValueInvalid".into(),
        message: format!("Invalid value: [\"{wanted}\"]: failed to allocate IP {wanted}: {why}"),
    };
    Status::invalid(kind, name, vec![cause])
}
