//! Gossip's messages as bytes: each item is a length of two bytes and a message of `protocol::codec`, so that a peer one
//! version away is understood. Bytes from a peer never panic here.

use bincode::{Decode, Encode};
use bytes::{Buf, BufMut};
use foca::{Header, Member, Message, State};
use protocol::codec::{CodecError, decode, encode};

use super::identity::MemberIdentity;

/// foca's codec.
#[derive(Clone, Copy, Debug)]
pub struct GossipCodec;

/// Why an item was not written or read.
#[derive(Debug, thiserror::Error)]
pub enum GossipError {
    /// No room for it in this datagram.
    #[error("no room for {length} bytes")]
    Full {
        /// Its length.
        length: usize,
    },
    /// The datagram ends early.
    #[error("the datagram ends inside an item")]
    Short,
    /// The item is malformed.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The item has a state that does not exist.
    #[error("unknown member state {0}")]
    State(u8),
}

#[derive(Encode, Decode)]
struct WireHeader {
    source: MemberIdentity,
    source_incarnation: u16,
    destination: MemberIdentity,
    message: WireMessage,
}

/// foca's messages; grows only at the end.
#[derive(Encode, Decode)]
enum WireMessage {
    Ping(u8),
    Ack(u8),
    PingReq(MemberIdentity, u8),
    IndirectPing(MemberIdentity, u8),
    IndirectAck(MemberIdentity, u8),
    ForwardedAck(MemberIdentity, u8),
    Announce,
    Feed,
    Gossip,
    Broadcast,
    TurnUndead,
}

#[derive(Encode, Decode)]
struct WireMember {
    identity: MemberIdentity,
    incarnation: u16,
    state: u8,
}

impl foca::Codec<MemberIdentity> for GossipCodec {
    type Error = GossipError;

    fn encode_header(&mut self, header: &Header<MemberIdentity>, buffer: impl BufMut) -> Result<(), GossipError> {
        put(
            &WireHeader {
                source: header.src.clone(),
                source_incarnation: header.src_incarnation,
                destination: header.dst.clone(),
                message: to_wire(&header.message),
            },
            buffer,
        )
    }

    fn decode_header(&mut self, buffer: impl Buf) -> Result<Header<MemberIdentity>, GossipError> {
        let header: WireHeader = take(buffer)?;
        Ok(Header {
            src: header.source,
            src_incarnation: header.source_incarnation,
            dst: header.destination,
            message: from_wire(header.message),
        })
    }

    fn encode_member(&mut self, member: &Member<MemberIdentity>, buffer: impl BufMut) -> Result<(), GossipError> {
        let state = match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        };
        put(
            &WireMember {
                identity: member.id().clone(),
                incarnation: member.incarnation(),
                state,
            },
            buffer,
        )
    }

    fn decode_member(&mut self, buffer: impl Buf) -> Result<Member<MemberIdentity>, GossipError> {
        let member: WireMember = take(buffer)?;
        let state = match member.state {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            other => return Err(GossipError::State(other)),
        };
        Ok(Member::new(member.identity, member.incarnation, state))
    }
}

/// Who a datagram says that it is from; compared with the certificate of the connection on which it came.
pub fn source(datagram: &[u8]) -> Result<MemberIdentity, GossipError> {
    take::<WireHeader>(datagram).map(|header| header.source)
}

/// All living members, for an exchange of the whole state. Deaths are left out: each side finds out about those itself, and
/// a member that was cut off would accuse everyone.
pub fn encode_state<'a>(living: impl Iterator<Item = (&'a MemberIdentity, u16)>) -> Result<Vec<u8>, GossipError> {
    let all: Vec<WireMember> = living
        .map(|(identity, incarnation)| WireMember {
            identity: identity.clone(),
            incarnation,
            state: 0,
        })
        .collect();
    Ok(encode(&all)?)
}

/// The members of a peer's whole state, as living ones whatever it says.
pub fn decode_state(bytes: &[u8]) -> Result<Vec<Member<MemberIdentity>>, GossipError> {
    let all: Vec<WireMember> = decode(bytes)?;
    Ok(all
        .into_iter()
        .map(|member| Member::new(member.identity, member.incarnation, State::Alive))
        .collect())
}

fn put<T: Encode>(item: &T, mut buffer: impl BufMut) -> Result<(), GossipError> {
    let bytes = encode(item)?;
    let full = GossipError::Full { length: bytes.len() };
    let Ok(length) = u16::try_from(bytes.len()) else {
        return Err(full);
    };
    // foca wants a buffer without half an item in it.
    if buffer.remaining_mut() < bytes.len() + 2 {
        return Err(full);
    }
    buffer.put_u16(length);
    buffer.put_slice(&bytes);
    Ok(())
}

fn take<T: Decode<()>>(mut buffer: impl Buf) -> Result<T, GossipError> {
    if buffer.remaining() < 2 {
        return Err(GossipError::Short);
    }
    let length = usize::from(buffer.get_u16());
    if buffer.remaining() < length {
        return Err(GossipError::Short);
    }
    Ok(decode(&buffer.copy_to_bytes(length))?)
}

fn to_wire(message: &Message<MemberIdentity>) -> WireMessage {
    match message.clone() {
        Message::Ping(number) => WireMessage::Ping(number),
        Message::Ack(number) => WireMessage::Ack(number),
        Message::PingReq { target, probe_number } => WireMessage::PingReq(target, probe_number),
        Message::IndirectPing { origin, probe_number } => WireMessage::IndirectPing(origin, probe_number),
        Message::IndirectAck { target, probe_number } => WireMessage::IndirectAck(target, probe_number),
        Message::ForwardedAck { origin, probe_number } => WireMessage::ForwardedAck(origin, probe_number),
        Message::Announce => WireMessage::Announce,
        Message::Feed => WireMessage::Feed,
        Message::Gossip => WireMessage::Gossip,
        Message::Broadcast => WireMessage::Broadcast,
        Message::TurnUndead => WireMessage::TurnUndead,
    }
}

fn from_wire(message: WireMessage) -> Message<MemberIdentity> {
    match message {
        WireMessage::Ping(number) => Message::Ping(number),
        WireMessage::Ack(number) => Message::Ack(number),
        WireMessage::PingReq(target, probe_number) => Message::PingReq { target, probe_number },
        WireMessage::IndirectPing(origin, probe_number) => Message::IndirectPing { origin, probe_number },
        WireMessage::IndirectAck(target, probe_number) => Message::IndirectAck { target, probe_number },
        WireMessage::ForwardedAck(origin, probe_number) => Message::ForwardedAck { origin, probe_number },
        WireMessage::Announce => Message::Announce,
        WireMessage::Feed => Message::Feed,
        WireMessage::Gossip => Message::Gossip,
        WireMessage::Broadcast => Message::Broadcast,
        WireMessage::TurnUndead => Message::TurnUndead,
    }
}

#[cfg(test)]
mod tests {
    use foca::Codec;
    use proptest::prelude::*;
    use protocol::NodeName;

    use super::super::identity::MemberFacts;
    use super::*;

    fn identity(name: &str) -> MemberIdentity {
        MemberIdentity {
            name: NodeName::from(name),
            address: "[2001:db8::7]:65535".parse().unwrap(),
            incarnation: u64::MAX,
            facts: MemberFacts {
                https_address: Some("[2001:db8::7]:65535".parse().unwrap()),
                raft_id: u64::MAX,
                zone: "z".repeat(63),
                version: "10.20.30".to_owned(),
                leaving: true,
                voteless: true,
            },
        }
    }

    fn messages() -> Vec<Message<MemberIdentity>> {
        let (target, origin, probe_number) = (identity("c"), identity("c"), 7);
        vec![
            Message::Ping(7),
            Message::Ack(7),
            Message::PingReq {
                target: target.clone(),
                probe_number,
            },
            Message::IndirectPing {
                origin: origin.clone(),
                probe_number,
            },
            Message::IndirectAck { target, probe_number },
            Message::ForwardedAck { origin, probe_number },
            Message::Announce,
            Message::Feed,
            Message::Gossip,
            Message::Broadcast,
            Message::TurnUndead,
        ]
    }

    #[test]
    fn every_message_survives_the_wire() {
        for message in messages() {
            let header = Header {
                src: identity("a"),
                src_incarnation: 3,
                dst: identity("b"),
                message,
            };
            let mut bytes = Vec::new();
            GossipCodec.encode_header(&header, &mut bytes).unwrap();
            assert_eq!(source(&bytes).unwrap(), header.src);
            bytes.extend_from_slice(b"rest");
            let mut rest = &bytes[..];
            assert_eq!(GossipCodec.decode_header(&mut rest).unwrap(), header);
            assert_eq!(rest, b"rest");
        }
        for state in [State::Alive, State::Suspect, State::Down] {
            let member = Member::new(identity("a"), 9, state);
            let mut bytes = Vec::new();
            GossipCodec.encode_member(&member, &mut bytes).unwrap();
            assert_eq!(GossipCodec.decode_member(&bytes[..]).unwrap(), member);
        }
    }

    #[test]
    fn a_whole_state_survives_the_wire() {
        let (a, b) = (identity("a"), identity("b"));
        let bytes = encode_state([(&a, 1), (&b, 2)].into_iter()).unwrap();
        let expected = [Member::new(a, 1, State::Alive), Member::new(b, 2, State::Alive)];
        assert_eq!(decode_state(&bytes).unwrap(), expected);
    }

    #[test]
    fn the_largest_header_leaves_room_in_a_datagram_and_a_full_one_is_left_clean() {
        let name = "n".repeat(63);
        let header = Header {
            src: identity(&name),
            src_incarnation: u16::MAX,
            dst: identity(&name),
            message: Message::PingReq {
                target: identity(&name),
                probe_number: 255,
            },
        };
        let mut bytes = Vec::new();
        GossipCodec.encode_header(&header, &mut bytes).unwrap();
        assert!(
            bytes.len() < crate::Mesh::datagram_bytes_max() / 2 + 150,
            "{} bytes",
            bytes.len()
        );
        let mut small = Vec::new();
        let full = GossipCodec.encode_header(&header, (&mut small).limit(bytes.len() - 1));
        assert!(matches!(full, Err(GossipError::Full { .. })) && small.is_empty());
    }

    proptest! {
        #[test]
        fn bytes_from_a_peer_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = source(&bytes);
            let _ = GossipCodec.decode_member(&bytes[..]);
            let _ = decode_state(&bytes);
        }
    }
}
