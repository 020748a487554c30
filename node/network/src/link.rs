//! The netlink messages for the bridge, a pod's veth pair and the pod's side of it.
//!
//! Pure: builds requests, which the links worker sends. Knows no state.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::RawFd,
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{InfoBridgePort, InfoData, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkMessage, State},
    route::{RouteProtocol, RouteScope},
};
use rtnetlink::{AddressMessageBuilder, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use sha2::{Digest, Sha256};

use crate::{
    address::{Ipv4Cidr, mac_of},
    netlink::Request,
};

/// The interface's name inside the pod.
pub(crate) const POD_INTERFACE: &str = "eth0";

/// What the name of each pod's host interface starts with.
const HOST_PREFIX: &str = "act";

/// Interface names have at most 15 characters: the prefix and 12 hexadecimal digits.
const HOST_DIGITS: usize = 12;

/// The loopback interface's index in every namespace.
const LOOPBACK_INDEX: u32 = 1;

/// The name of the host end of a pod's veth pair.
pub(crate) fn host_interface(pod_uid: &str) -> String {
    let digest = hex::encode(Sha256::digest(pod_uid.as_bytes()));
    format!("{HOST_PREFIX}{}", &digest[..HOST_DIGITS])
}

/// Whether a name is one that [`host_interface`] gives.
pub(crate) fn is_host_interface(name: &str) -> bool {
    name.strip_prefix(HOST_PREFIX).is_some_and(|digits| {
        digits.len() == HOST_DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
    })
}

/// What is needed to build one pod's link.
#[derive(Debug, Clone)]
pub(crate) struct PodLink {
    pub(crate) host_interface: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) mtu: u32,
}

/// Creates the bridge. Its MAC is set: a bridge without one takes the lowest of its ports' and changes it as pods come and go.
pub(crate) fn create_bridge(name: &str, gateway: Ipv4Addr, mtu: u32) -> Request {
    let message = LinkBridge::new(name)
        .mcast_snooping(false)
        .address(mac_of(gateway).to_vec())
        .mtu(mtu)
        .build();
    Request::new(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Brings an existing bridge into the wanted state.
pub(crate) fn repair_bridge(index: u32, gateway: Ipv4Addr, mtu: u32) -> Request {
    let message = LinkUnspec::new_with_index(index)
        .address(mac_of(gateway).to_vec())
        .mtu(mtu)
        .up()
        .build();
    Request::new(RouteNetlinkMessage::SetLink(message), 0)
}

/// Gives a link an address. Succeeds if it has it.
pub(crate) fn add_address(index: u32, address: Ipv4Addr, prefix_len: u8) -> Request {
    let message = AddressMessageBuilder::<Ipv4Addr>::new()
        .index(index)
        .address(address, prefix_len)
        .build();
    Request::new(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// Takes an address from a link.
pub(crate) fn delete_address(index: u32, address: Ipv4Addr, prefix_len: u8) -> Request {
    let message = AddressMessageBuilder::<Ipv4Addr>::new()
        .index(index)
        .address(address, prefix_len)
        .build();
    Request::new(RouteNetlinkMessage::DelAddress(message), 0)
}

/// Asks for all addresses of the namespace.
pub(crate) fn list_addresses() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetAddress(AddressMessage::default())
}

/// The link that has an address.
pub(crate) fn owner_of(address: Ipv4Addr, messages: &[RouteNetlinkMessage]) -> Option<u32> {
    messages.iter().find_map(|message| {
        let RouteNetlinkMessage::NewAddress(message) = message else {
            return None;
        };
        let owns = |attribute: &AddressAttribute| *attribute == AddressAttribute::Local(IpAddr::V4(address));
        message.attributes.iter().any(owns).then_some(message.header.index)
    })
}

/// The IPv4 addresses that the messages name for the link.
pub(crate) fn addresses_of(index: u32, messages: &[RouteNetlinkMessage]) -> Vec<(Ipv4Addr, u8)> {
    let mut found = Vec::new();
    for message in messages {
        let RouteNetlinkMessage::NewAddress(message) = message else {
            continue;
        };
        if message.header.index != index {
            continue;
        }
        for attribute in &message.attributes {
            if let AddressAttribute::Local(IpAddr::V4(address)) = attribute {
                found.push((*address, message.header.prefix_len));
            }
        }
    }
    found
}

/// The route by which the node itself reaches service addresses. Nothing is ever delivered along it: a service's packets are
/// rewritten before they leave, all others are refused by the ruleset. `source` lies in the pod range, so other nodes' pods
/// know the way back.
pub(crate) fn service_route(index: u32, service_cidr: Ipv4Cidr, source: Ipv4Addr, protocol: RouteProtocol) -> Request {
    let message = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(service_cidr.network(), service_cidr.prefix_len())
        .output_interface(index)
        .pref_source(source)
        .scope(RouteScope::Link)
        .protocol(protocol)
        .build();
    Request::new(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// Creates a pod's veth pair: the host end up and on the bridge, the peer inside the pod's namespace from its first moment
/// (moving it there afterwards would cost a second pass through the kernel). The port is isolated, so that all traffic
/// between pods is routed.
pub(crate) fn create_pod_link(link: &PodLink, bridge_index: u32, namespace: RawFd) -> Vec<Request> {
    // The peer cannot be brought up in this message (ENOTCONN): it is not connected before both ends exist.
    let peer = LinkUnspec::new_with_name(POD_INTERFACE)
        .address(mac_of(link.address).to_vec())
        .mtu(link.mtu)
        .setns_by_fd(namespace)
        .build();
    let pair = LinkVeth::new(&link.host_interface, POD_INTERFACE)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .mtu(link.mtu)
        .controller(bridge_index)
        .up()
        .build();
    vec![
        Request::new(RouteNetlinkMessage::NewLink(pair), NLM_F_CREATE | NLM_F_EXCL),
        isolate_port(&link.host_interface),
    ]
}

/// Puts an existing link on the bridge.
pub(crate) fn adopt_port(name: &str, bridge_index: u32) -> Vec<Request> {
    let message = LinkUnspec::new_with_name(name).controller(bridge_index).up().build();
    vec![
        Request::new(RouteNetlinkMessage::SetLink(message), 0),
        isolate_port(name),
    ]
}

fn isolate_port(name: &str) -> Request {
    let message = LinkUnspec::new_with_name(name)
        .set_port_kind(InfoPortKind::Bridge)
        .set_port_data(InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(true)]))
        .build();
    Request::new(RouteNetlinkMessage::NewLink(message), 0)
}

/// Configures the pod's side, inside its namespace.
pub(crate) fn configure_pod(link: &PodLink, index: u32) -> Vec<Request> {
    let up = |index| {
        Request::new(
            RouteNetlinkMessage::SetLink(LinkUnspec::new_with_index(index).up().build()),
            0,
        )
    };
    let to_gateway = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(link.gateway, 32)
        .output_interface(index)
        .scope(RouteScope::Link)
        .build();
    let default = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(link.gateway)
        .output_interface(index)
        .onlink()
        .build();
    let set = |route| Request::new(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_REPLACE);
    vec![
        up(LOOPBACK_INDEX),
        add_address(index, link.address, 32),
        up(index),
        set(to_gateway),
        set(default),
    ]
}

/// Asks for the link of a name.
pub(crate) fn find_link(name: &str) -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(LinkUnspec::new_with_name(name).build())
}

/// Asks for all links.
pub(crate) fn list_links() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(LinkMessage::default())
}

/// Deletes a link, and its peer with it.
pub(crate) fn delete_link(index: u32) -> Request {
    Request::new(
        RouteNetlinkMessage::DelLink(LinkUnspec::new_with_index(index).build()),
        0,
    )
}

/// The group of links that are to be deleted together: the kernel waits for all processors once a deletion (16-20 ms), not
/// once a link. The number is the letters "actd".
const RETIRED_GROUP: u32 = 0x6163_7464;

/// Puts a link among those that [`delete_retired`] deletes.
pub(crate) fn retire_link(name: &str) -> Request {
    let message = LinkUnspec::new_with_name(name).link_group(RETIRED_GROUP).build();
    Request::new(RouteNetlinkMessage::SetLink(message), 0)
}

/// Deletes all retired links.
pub(crate) fn delete_retired() -> Request {
    let message = LinkMessageBuilder::<LinkUnspec>::default()
        .link_group(RETIRED_GROUP)
        .build();
    Request::new(RouteNetlinkMessage::DelLink(message), 0)
}

/// What we read of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkFacts {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) controller: Option<u32>,
    pub(crate) mtu: u32,
    /// Whether frames pass: up, and with a carrier that the kernel has taken note of.
    pub(crate) operational: bool,
}

/// Reads an answer to [`find_link`] or [`list_links`].
pub(crate) fn link_facts(message: &RouteNetlinkMessage) -> Option<LinkFacts> {
    let RouteNetlinkMessage::NewLink(link) = message else {
        return None;
    };
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let controller = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    });
    let mtu = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    Some(LinkFacts {
        index: link.header.index,
        name,
        controller,
        mtu: mtu.unwrap_or_default(),
        operational: link.attributes.contains(&LinkAttribute::OperState(State::Up)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit_the_kernel_and_follow_from_the_uid() {
        let name = host_interface("5b5a7f6e-3b0c-4b7e-8d0a-111111111111");
        assert_eq!(name.len(), 15);
        assert!(is_host_interface(&name));
        assert_eq!(name, host_interface("5b5a7f6e-3b0c-4b7e-8d0a-111111111111"));
        assert_ne!(name, host_interface("5b5a7f6e-3b0c-4b7e-8d0a-111111111112"));
        for other in [
            "act0",
            "eth0",
            "act",
            "actABCDEF012345",
            "act0123456789ab0",
            "actxyz456789012",
        ] {
            assert!(!is_host_interface(other), "{other}");
        }
    }
}
