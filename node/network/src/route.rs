//! Routes to the pods of other nodes: what to change, given what is wanted and what the kernel has.
//!
//! The links worker lists the kernel's routes, asks [`plan`] and sends the requests. Only routes with our protocol number are
//! ever looked at or changed. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteProtocol},
};
use rtnetlink::RouteMessageBuilder;
use serde::{Deserialize, Serialize};

use crate::{address::Ipv4Cidr, netlink::Request};

/// The number by which the kernel knows our routes (`ip route show proto 172`). Numbers from 128 on are free for
/// administrators' daemons; this one is registered by none that iproute2 knows.
pub(crate) const PROTOCOL: RouteProtocol = RouteProtocol::Other(172);

/// Another node, and where its pods are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRoute {
    /// The node's name, for messages.
    pub node: String,
    /// The node's own address, on a network that this node is connected to.
    pub node_ip: Ipv4Addr,
    /// The range from which the node's pods have their addresses.
    pub pod_cidr: Ipv4Cidr,
}

/// A route to a range through a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodRoute {
    pub(crate) pod_cidr: Ipv4Cidr,
    pub(crate) via: Ipv4Addr,
}

/// One change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RouteChange {
    /// Add the route, or point the existing one elsewhere.
    Set(PodRoute),
    /// Remove the route.
    Delete(PodRoute),
}

/// The changes that turn `present` into what `peers` ask for. Deletions come first.
pub(crate) fn plan(peers: &[PeerRoute], present: &[PodRoute]) -> Vec<RouteChange> {
    let wanted: BTreeMap<Ipv4Cidr, Ipv4Addr> = peers.iter().map(|peer| (peer.pod_cidr, peer.node_ip)).collect();
    let present: BTreeSet<PodRoute> = present.iter().copied().collect();
    let obsolete = present
        .iter()
        .filter(|route| !wanted.contains_key(&route.pod_cidr))
        .map(|route| RouteChange::Delete(*route));
    let missing = wanted
        .iter()
        .map(|(pod_cidr, via)| PodRoute {
            pod_cidr: *pod_cidr,
            via: *via,
        })
        .filter(|route| !present.contains(route))
        .map(RouteChange::Set);
    obsolete.chain(missing).collect()
}

/// The request for one change.
pub(crate) fn request(change: RouteChange) -> Request {
    let build = |route: PodRoute| {
        RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(route.pod_cidr.network(), route.pod_cidr.prefix_len())
            .gateway(route.via)
            .protocol(PROTOCOL)
            .build()
    };
    match change {
        RouteChange::Set(route) => Request::new(
            RouteNetlinkMessage::NewRoute(build(route)),
            NLM_F_CREATE | NLM_F_REPLACE,
        ),
        RouteChange::Delete(route) => Request::new(RouteNetlinkMessage::DelRoute(build(route)), 0),
    }
}

/// Asks for all IPv4 routes.
pub(crate) fn list_routes() -> RouteNetlinkMessage {
    let mut message = RouteMessageBuilder::<Ipv4Addr>::new().build();
    message.header.table = 0;
    RouteNetlinkMessage::GetRoute(message)
}

/// Those of the kernel's routes that lead to other nodes' pods and are ours.
pub(crate) fn ours(messages: &[RouteNetlinkMessage]) -> Vec<PodRoute> {
    messages
        .iter()
        .filter_map(|message| {
            let RouteNetlinkMessage::NewRoute(route) = message else {
                return None;
            };
            if route.header.protocol != PROTOCOL {
                return None;
            }
            let mut destination = None;
            let mut via = None;
            for attribute in &route.attributes {
                match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = Some(*address),
                    RouteAttribute::Gateway(RouteAddress::Inet(address)) => via = Some(*address),
                    _ => {}
                }
            }
            let pod_cidr = Ipv4Cidr::new(destination?, route.header.destination_prefix_length)?;
            Some(PodRoute { pod_cidr, via: via? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer(third: u8, node: u8) -> PeerRoute {
        PeerRoute {
            node: format!("n{node}"),
            node_ip: Ipv4Addr::new(192, 168, 0, node),
            pod_cidr: Ipv4Cidr::new(Ipv4Addr::new(10, 244, third, 0), 24).unwrap(),
        }
    }

    fn route(third: u8, node: u8) -> PodRoute {
        let peer = peer(third, node);
        PodRoute {
            pod_cidr: peer.pod_cidr,
            via: peer.node_ip,
        }
    }

    #[test]
    fn only_differences_are_changed() {
        let cases: [(&[PeerRoute], &[PodRoute], Vec<RouteChange>); 5] = [
            (&[], &[], vec![]),
            (&[peer(1, 1), peer(2, 2)], &[route(1, 1), route(2, 2)], vec![]),
            (&[peer(1, 1)], &[], vec![RouteChange::Set(route(1, 1))]),
            (&[], &[route(1, 1)], vec![RouteChange::Delete(route(1, 1))]),
            (
                &[peer(1, 9)],
                &[route(1, 1), route(3, 3)],
                vec![RouteChange::Delete(route(3, 3)), RouteChange::Set(route(1, 9))],
            ),
        ];
        for (wanted, present, expected) in cases {
            assert_eq!(plan(wanted, present), expected);
        }
    }

    proptest! {
        #[test]
        fn the_plan_leads_from_any_state_to_the_wanted_one(
            wanted in prop::collection::btree_map(0u8..8, 1u8..5, 0..8),
            present in prop::collection::btree_map(0u8..8, 1u8..5, 0..8),
        ) {
            let peers: Vec<_> = wanted.iter().map(|(third, node)| peer(*third, *node)).collect();
            let before: Vec<_> = present.iter().map(|(third, node)| route(*third, *node)).collect();
            let mut kernel: BTreeMap<_, _> = before.iter().map(|route| (route.pod_cidr, *route)).collect();
            for change in plan(&peers, &before) {
                match change {
                    RouteChange::Set(route) => { kernel.insert(route.pod_cidr, route); }
                    RouteChange::Delete(route) => { prop_assert_eq!(kernel.remove(&route.pod_cidr), Some(route)); }
                }
            }
            let expected: BTreeMap<_, _> = wanted.iter().map(|(t, n)| route(*t, *n)).map(|r| (r.pod_cidr, r)).collect();
            prop_assert_eq!(&kernel, &expected);
            let settled: Vec<_> = kernel.values().copied().collect();
            prop_assert!(plan(&peers, &settled).is_empty());
        }
    }
}
