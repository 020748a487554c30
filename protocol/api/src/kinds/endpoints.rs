//! core/v1 Endpoints: its row, defaults, validation and columns.

use serde_json::Value;

use super::checks::{Rule, check};
use super::endpoint_slice::shortened;
use super::{Kind, cells};
use crate::access::{Access, items_mut, set_default_text};
use crate::cause::{Causes, Path};
use crate::rules;
use crate::table::Column;

pub const KIND: Kind = Kind {
    short_names: &["ep"],
    default: |object| {
        for subset in items_mut(object, "subsets") {
            for port in items_mut(subset, "ports") {
                set_default_text(port, "protocol", "TCP");
            }
        }
    },
    validate,
    columns: &[
        Column::NAME,
        Column::text("Endpoints", "Addresses and ports that implement the service."),
        Column::AGE,
    ],
    cells: |object, now| {
        vec![
            cells::name(object),
            shortened(&socket_addresses(object)).into(),
            cells::created_ago(object, now),
        ]
    },
    ..row!("", v1, core, Endpoints, "endpoints", "endpoints")
};

fn validate(object: &Value, causes: &mut Causes) {
    let root = Path::Root;
    let list = root.field("subsets");
    for (index, subset) in object.items("subsets").iter().enumerate() {
        let at = list.index(index);
        if subset.items("addresses").is_empty() && subset.items("notReadyAddresses").is_empty() {
            causes.required(at, "must specify `addresses` or `notReadyAddresses`");
        }
        for name in ["addresses", "notReadyAddresses"] {
            let addresses = at.field(name);
            for (index, address) in subset.items(name).iter().enumerate() {
                let at = addresses.index(index);
                ordinary_ip(address.text("ip"), at.field("ip"), causes);
                check(
                    address,
                    &at,
                    &[
                        ("hostname", Rule::Form(rules::dns_label)),
                        ("nodeName", Rule::Form(rules::dns_subdomain)),
                    ],
                    causes,
                );
            }
        }
        let several = subset.items("ports").len() > 1;
        let ports = at.field("ports");
        for (index, port) in subset.items("ports").iter().enumerate() {
            let at = ports.index(index);
            let name = if several {
                Rule::RequiredForm(rules::dns_label)
            } else {
                Rule::Form(rules::dns_label)
            };
            check(port, &at, &[("name", name)], causes);
            for problem in rules::port_number(port.int("port").unwrap_or(0)) {
                causes.invalid(at.field("port"), port.int("port").unwrap_or(0), problem);
            }
            check(
                port,
                &at,
                &[
                    ("protocol", Rule::RequiredKnown(&["SCTP", "TCP", "UDP"])),
                    ("appProtocol", Rule::Form(rules::qualified_name)),
                ],
                causes,
            );
        }
    }
}

/// An address that a backend outside of the node itself can have.
pub fn ordinary_ip(text: &str, path: Path<'_>, causes: &mut Causes) {
    let Ok(address) = text.parse::<std::net::IpAddr>() else {
        for problem in rules::ip(text) {
            causes.invalid(path, text, problem);
        }
        return;
    };
    let (local, link_multicast) = match address {
        std::net::IpAddr::V4(four) => (four.is_link_local(), four.octets()[..3] == [224, 0, 0]),
        std::net::IpAddr::V6(six) => (
            six.segments()[0] & 0xffc0 == 0xfe80,
            six.segments()[0] & 0xff0f == 0xff02,
        ),
    };
    for (wrong, text_of) in [
        (address.is_unspecified(), format!("may not be unspecified ({text})")),
        (
            address.is_loopback(),
            "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned(),
        ),
        (
            local,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned(),
        ),
        (
            link_multicast,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned(),
        ),
    ] {
        if wrong {
            causes.invalid(path, text, text_of);
        }
    }
}

fn socket_addresses(object: &Value) -> Vec<String> {
    let mut all = Vec::new();
    for subset in object.items("subsets") {
        let addresses = || subset.items("addresses").iter().map(|address| address.text("ip"));
        if subset.items("ports").is_empty() {
            all.extend(addresses().map(str::to_owned));
        }
        for port in subset.items("ports") {
            let number = port.int("port").unwrap_or(0);
            // An IPv6 address stands in brackets before a port.
            all.extend(addresses().map(|ip| match ip.contains(':') {
                true => format!("[{ip}]:{number}"),
                false => format!("{ip}:{number}"),
            }));
        }
    }
    all
}
