//! discovery.k8s.io/v1 EndpointSlice: its row, defaults, validation and columns.

use protocol::UnixMillis;
use serde_json::Value;

use super::container::only_known;
use super::{Kind, STORED};
use crate::access::{Access, items_mut, set_default, set_default_text};
use crate::cause::{Causes, Path};
use crate::table::Column;
use crate::time::age_since;
use crate::{meta, rules};

/// Endpoints that one slice holds at most.
const ENDPOINTS_MAX: usize = 1000;
/// Addresses and ports that a table's cell shows before it counts the rest.
const SHOWN_MAX: usize = 3;

pub const KIND: Kind = Kind {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    list_kind: "EndpointSliceList",
    plural: "endpointslices",
    singular: "endpointslice",
    definition: "io.k8s.api.discovery.v1.EndpointSlice",
    schema: |generator| {
        generator.subschema_for::<k8s_openapi::api::discovery::v1::EndpointSlice>();
    },
    generation: super::Generation::Spec,
    default: |object| {
        for port in items_mut(object, "ports") {
            set_default(port, "name", "");
            set_default_text(port, "protocol", "TCP");
        }
    },
    validate,
    validate_update: |old, new, causes| {
        meta::immutable(
            new.at(&["addressType"]),
            old.at(&["addressType"]),
            Path::Root.field("addressType"),
            causes,
        );
    },
    columns: &[
        Column::NAME,
        Column::text("AddressType", "The type of address carried by this EndpointSlice."),
        Column::text("Ports", "The ports that each endpoint in this slice serves."),
        Column::text("Endpoints", "The addresses of the endpoints in this slice."),
        Column::AGE,
    ],
    cells,
    ..STORED
};

fn validate(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let family = object.text("addressType");
    if family.is_empty() {
        causes.required(root.field("addressType"), "");
    }
    only_known(object, &root, "addressType", &["FQDN", "IPv4", "IPv6"], causes);
    let list = root.field("endpoints");
    if object.items("endpoints").len() > ENDPOINTS_MAX {
        causes.too_many(list, object.items("endpoints").len(), ENDPOINTS_MAX);
        return;
    }
    for (index, endpoint) in object.items("endpoints").iter().enumerate() {
        let at = list.index(index);
        let addresses = at.field("addresses");
        if endpoint.items("addresses").is_empty() {
            causes.required(addresses, "must contain at least 1 address");
        }
        for (position, address) in endpoint.items("addresses").iter().enumerate() {
            let text = address.as_str().unwrap_or_default();
            let problem = match (family, text.parse::<std::net::IpAddr>()) {
                ("IPv4", Ok(std::net::IpAddr::V4(_))) | ("IPv6", Ok(std::net::IpAddr::V6(_))) => None,
                ("IPv4", _) => Some("must be an IPv4 address"),
                ("IPv6", _) => Some("must be an IPv6 address"),
                _ => None,
            };
            if let Some(problem) = problem {
                causes.invalid(addresses.index(position), text, problem);
            }
        }
    }
    let list = root.field("ports");
    for (index, port) in object.items("ports").iter().enumerate() {
        let at = list.index(index);
        let name = port.text("name");
        for problem in rules::dns_label(name).into_iter().filter(|_| !name.is_empty()) {
            causes.invalid(at.field("name"), name, problem);
        }
        if let Some(number) = port.int("port") {
            for problem in rules::port_number(number) {
                causes.invalid(at.field("port"), number, problem);
            }
        }
        only_known(port, &at, "protocol", &["SCTP", "TCP", "UDP"], causes);
    }
}

/// The first few, and how many more there are.
pub fn shortened(items: &[String]) -> String {
    match items.len() {
        0 => "<none>".to_owned(),
        count if count <= SHOWN_MAX => items.join(","),
        count => format!("{} + {} more...", items[..SHOWN_MAX].join(","), count - SHOWN_MAX),
    }
}

fn cells(object: &Value, now: UnixMillis) -> Vec<Value> {
    let metadata = object.at(&["metadata"]);
    let ports: Vec<String> = object
        .items("ports")
        .iter()
        .map(|port| match (port.int("port"), port.at(&["name"]).as_str()) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) => name.to_owned(),
            (None, None) => "*".to_owned(),
        })
        .collect();
    let addresses = object
        .items("endpoints")
        .iter()
        .flat_map(|endpoint| endpoint.items("addresses"));
    let addresses: Vec<String> = addresses
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    let ports = if ports.is_empty() {
        "<unset>".to_owned()
    } else {
        shortened(&ports)
    };
    let addresses = if addresses.is_empty() {
        "<unset>".to_owned()
    } else {
        shortened(&addresses)
    };
    vec![
        metadata.text("name").into(),
        object.text("addressType").into(),
        ports.into(),
        addresses.into(),
        age_since(metadata.text("creationTimestamp"), now).into(),
    ]
}
