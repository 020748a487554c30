//! Makes the kernel forget flows whose endpoint is gone.
//!
//! A UDP client has no connection that would break: as long as it sends, the kernel remembers where its packets went, and
//! sends them to a pod that is no more. Called by the nft worker after a service has lost a UDP endpoint. TCP flows are left
//! alone: they may end in good order.
//!
//! rtnetlink does not speak ctnetlink, so its few messages are written here (linux/netfilter/nfnetlink_conntrack.h).

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddrV4},
};

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::{
    netfilter::{GENERIC_HEADER, NLA_F_NESTED, NetfilterMessage, attribute},
    netlink::{KernelSocket, Request, is_absent},
    service::StaleFlow,
};

/// The subsystem of connection tracking, in the upper byte of a message type.
const SUBSYSTEM: u16 = 1 << 8;
const IPCTNL_MSG_CT_GET: u16 = SUBSYSTEM | 1;
const IPCTNL_MSG_CT_DELETE: u16 = SUBSYSTEM | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// Deletes the stale flows from the kernel's table of this thread's network namespace; returns how many there were.
pub(crate) fn forget(stale: &BTreeSet<StaleFlow>) -> io::Result<usize> {
    let mut socket = KernelSocket::<NetfilterMessage>::open_protocol(NETLINK_NETFILTER)?;
    let all = NetfilterMessage {
        kind: IPCTNL_MSG_CT_GET,
        bytes: GENERIC_HEADER.to_vec(),
    };
    let requests: Vec<Request<NetfilterMessage>> = socket
        .list(all)?
        .iter()
        .filter_map(|message| deletion(&message.bytes, stale))
        .map(|message| Request::new(message, 0))
        .collect();
    let count = requests.len();
    for verdict in socket.send_batch(requests)? {
        match verdict {
            // It has aged out meanwhile.
            Err(error) if !is_absent(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(count)
}

/// The message that deletes a listed flow, if it is a stale one.
fn deletion(listed: &[u8], stale: &BTreeSet<StaleFlow>) -> Option<NetfilterMessage> {
    let attributes = listed.get(GENERIC_HEADER.len()..)?;
    let original = attribute(attributes, CTA_TUPLE_ORIG)?;
    let reply = attribute(attributes, CTA_TUPLE_REPLY)?;
    let asked = attribute(original, CTA_TUPLE_PROTO)?;
    if attribute(asked, CTA_PROTO_NUM)? != [nix::libc::IPPROTO_UDP as u8] {
        return None;
    }
    let port = port(attribute(asked, CTA_PROTO_DST_PORT)?)?;
    let answering = attribute(attribute(reply, CTA_TUPLE_IP)?, CTA_IP_V4_SRC)?;
    let address = Ipv4Addr::from(<[u8; 4]>::try_from(answering).ok()?);
    let answering_port = self::port(attribute(attribute(reply, CTA_TUPLE_PROTO)?, CTA_PROTO_SRC_PORT)?)?;
    let flow = StaleFlow {
        port,
        endpoint: SocketAddrV4::new(address, answering_port),
    };
    if !stale.contains(&flow) {
        return None;
    }
    let mut bytes = GENERIC_HEADER.to_vec();
    let length = u16::try_from(original.len() + 4).ok()?;
    bytes.extend(length.to_ne_bytes());
    bytes.extend((CTA_TUPLE_ORIG | NLA_F_NESTED).to_ne_bytes());
    bytes.extend(original);
    Some(NetfilterMessage {
        kind: IPCTNL_MSG_CT_DELETE,
        bytes,
    })
}

fn port(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(value.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nest(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
        bytes.extend((kind | NLA_F_NESTED).to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn tuple(source: [u8; 4], target: [u8; 4], protocol: u8, ports: (u16, u16)) -> Vec<u8> {
        let ip = [nest(1, &source), nest(2, &target)].concat();
        let proto = [
            nest(1, &[protocol]),
            nest(2, &ports.0.to_be_bytes()),
            nest(3, &ports.1.to_be_bytes()),
        ]
        .concat();
        [nest(1, &ip), nest(2, &proto)].concat()
    }

    fn listed(protocol: u8, service_port: u16, endpoint: [u8; 4]) -> Vec<u8> {
        let client = [10, 244, 0, 9];
        let original = tuple(client, [10, 96, 0, 7], protocol, (4000, service_port));
        let reply = tuple(endpoint, client, protocol, (5353, 4000));
        [
            GENERIC_HEADER.to_vec(),
            nest(3, &[0; 4]),
            nest(1, &original),
            nest(2, &reply),
        ]
        .concat()
    }

    #[test]
    fn only_stale_udp_flows_are_deleted() {
        let stale = BTreeSet::from([StaleFlow {
            port: 53,
            endpoint: "10.244.0.2:5353".parse().unwrap(),
        }]);
        let cases = [
            (17, 53, [10, 244, 0, 2], true),
            (6, 53, [10, 244, 0, 2], false),
            (17, 54, [10, 244, 0, 2], false),
            (17, 53, [10, 244, 0, 3], false),
        ];
        for (protocol, port, endpoint, expected) in cases {
            let message = listed(protocol, port, endpoint);
            assert_eq!(
                deletion(&message, &stale).is_some(),
                expected,
                "{protocol} {port} {endpoint:?}"
            );
        }
    }

    #[test]
    fn cut_off_messages_are_no_flows() {
        let stale = BTreeSet::new();
        let whole = listed(17, 53, [10, 244, 0, 2]);
        for length in 0..whole.len() {
            assert!(deletion(&whole[..length], &stale).is_none());
        }
        assert!(
            attribute(&[0, 0, 0, 0], 9).is_none(),
            "an attribute of no length ends the search"
        );
    }
}
