//! Netfilter's netlink messages as bytes: the little that rtnetlink does not speak and this crate needs.
//!
//! Used by [`crate::conntrack`] and [`crate::commit`]. Pure.

use std::io;

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};

/// `struct nfgenmsg`: family, version, resource id.
pub(crate) const GENERIC_HEADER: [u8; 4] = [nix::libc::AF_INET as u8, 0, 0, 0];
/// The flags beside an attribute's number: nested, and in network byte order.
pub(crate) const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// A message of one of netfilter's subsystems, after the netlink header.
#[derive(Debug)]
pub(crate) struct NetfilterMessage {
    pub(crate) kind: u16,
    pub(crate) bytes: Vec<u8>,
}

impl NetlinkSerializable for NetfilterMessage {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.bytes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer[..self.bytes.len()].copy_from_slice(&self.bytes);
    }
}

impl NetlinkDeserializable for NetfilterMessage {
    type Error = io::Error;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, io::Error> {
        Ok(Self {
            kind: header.message_type,
            bytes: payload.to_vec(),
        })
    }
}

/// The value of the first attribute of a kind.
pub(crate) fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    const HEADER: usize = 4;
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(attributes.get(2..HEADER)?.try_into().ok()?);
        let value = attributes.get(HEADER..length)?;
        if kind & NLA_TYPE_MASK == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(HEADER)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_and_malformed_ones_end_the_search() {
        let first = [8, 0, 1, 0x80, 1, 2, 3, 4];
        let second = [6, 0, 2, 0, 9, 9, 0, 0];
        let both = [first, second].concat();
        assert_eq!(attribute(&both, 1), Some(&[1, 2, 3, 4][..]));
        assert_eq!(attribute(&both, 2), Some(&[9, 9][..]));
        assert_eq!(attribute(&both, 3), None);
        assert_eq!(attribute(&[0, 0, 1, 0], 1), None);
        assert_eq!(attribute(&[200, 0, 1, 0], 1), None);
        assert_eq!(attribute(&[], 1), None);
    }
}
