//! What peers, disks and sessions send: messages of the wire codec, keys of the store, frames of SPDY and of the channels over
//! WebSocket.

use bytes::Bytes;
use gateway::streams::channel::{self, PORT_FORWARD, REMOTE_COMMAND};
use gateway::streams::spdy::{Decoder, Frame, SpdyError};
use protocol::admin::{AdminReply, AdminRequest};
use protocol::runtime::LogRequest;
use protocol::session::{SessionAnswer, SessionRequest};
use protocol::store::{
    Change, Committed, ListPage, ListRequest, Precondition, Proposal, ProposeError, ReadError, Selection, StoreEvent,
    WatchItem, WatchRequest, Write,
};
use protocol::{Cause, Draft, Key, Revision, codec};
use serde_json::json;
use std::sync::Arc;

use crate::engine::{Outcome, Target};
use crate::mutation::Shape;

/// A number for the type, and a message of it.
pub const MESSAGE: Target = Target {
    name: "message",
    shape: Shape::Bytes,
    seeds: message_seeds,
    dictionary: &[],
    run: |bytes| {
        let Some((kind, bytes)) = bytes.split_first() else {
            return Outcome(0);
        };
        let read = READERS[usize::from(*kind) % READERS.len()];
        Outcome(u64::from(*kind) << 32 ^ read(bytes).0)
    },
};

/// Reads a message of a type. What is understood is said again in the same words.
fn read<T: bincode::Message>(bytes: &[u8]) -> Outcome {
    match codec::decode::<T>(bytes) {
        Ok(message) => {
            let said = codec::encode(&message).expect("what was read can be said");
            let again: T = codec::decode(&said).expect("and understood");
            assert_eq!(codec::encode(&again).expect("again"), said);
            Outcome(1)
        }
        Err(error) => Outcome::of(&error.to_string()),
    }
}

/// What the codec asks of a message.
mod bincode {
    /// A message.
    pub trait Message: ::bincode::Encode + ::bincode::Decode<()> {}
    impl<T: ::bincode::Encode + ::bincode::Decode<()>> Message for T {}
}

/// The types that travel.
const READERS: &[fn(&[u8]) -> Outcome] = &[
    read::<Vec<Proposal>>,
    read::<ListRequest>,
    read::<ListPage>,
    read::<WatchRequest>,
    read::<Vec<WatchItem>>,
    read::<Result<Committed, ProposeError>>,
    read::<Result<u8, ReadError>>,
    read::<AdminRequest>,
    read::<AdminReply>,
    read::<SessionRequest>,
    read::<SessionAnswer>,
    read::<LogRequest>,
    read::<Key>,
];

fn message_seeds() -> Vec<Vec<u8>> {
    fn said<T: bincode::Message>(kind: u8, message: &T) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend(codec::encode(message).expect("a message of the project's own can be said"));
        bytes
    }
    let key = Key::new("pods", "default", "a");
    let value = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a", "uid": "u", "labels": {"a": "b"}}});
    let draft = Draft::encode(&value, vec![("spec.nodeName".to_owned(), "n".to_owned())]).expect("an object");
    let object = Arc::new(draft.commit(Revision(5), None));
    let put = Write::Put {
        key: key.clone(),
        precondition: Precondition::Absent,
        draft,
    };
    let event = StoreEvent {
        revision: Revision(5),
        cause: Cause(1),
        key: key.clone(),
        change: Change::Created,
        object: Arc::clone(&object),
        previous: Some(Arc::clone(&object)),
    };
    let page = ListPage {
        items: vec![(key.clone(), object)],
        revision: Revision(5),
        more: true,
        remaining: Some(3),
    };
    let watch = WatchRequest {
        resources: vec!["pods".into()],
        after: Some(Revision(5)),
        selections: vec![Selection::field("pods", "spec.nodeName", "n")],
        ..WatchRequest::default()
    };
    let logs = LogRequest {
        namespace: "a".to_owned(),
        tail_lines: Some(5),
        ..LogRequest::default()
    };
    let mut seeds = vec![
        said(0, &vec![Proposal::one(Cause(1), put)]),
        said(1, &ListRequest::all("pods").in_namespace("default")),
        said(2, &page),
        said(3, &watch),
        said(
            4,
            &vec![WatchItem::Event(Arc::new(event)), WatchItem::Progress(Revision(9))],
        ),
        said(11, &logs),
        said(12, &key),
    ];
    // The others are small: every variant is a few bytes away.
    seeds.extend((0..READERS.len() as u8).map(|kind| vec![kind, codec::VERSION, 0, 0, 0, 0, 0, 0]));
    seeds
}

/// A key as the store keeps it.
pub const STORED_KEY: Target = Target {
    name: "stored_key",
    shape: Shape::Bytes,
    seeds: || {
        let keys = [
            Key::new("pods", "default", "a"),
            Key::new("deployments.apps", "", "b"),
            Key::new("", "", ""),
        ];
        keys.iter().map(Key::to_bytes).collect()
    },
    dictionary: &[],
    run: |bytes| match Key::from_bytes(bytes) {
        Some(key) => {
            assert_eq!(Key::from_bytes(&key.to_bytes()), Some(key));
            Outcome(1)
        }
        None => Outcome(0),
    },
};

/// The bytes of a connection that speaks SPDY. In whichever pieces they come, the frames are the same.
pub const SPDY: Target = Target {
    name: "spdy",
    shape: Shape::Bytes,
    seeds: || {
        vec![
            // Ping, data with FIN, reset, and the beginning of a stream with an empty header block.
            vec![0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1],
            vec![0, 0, 0, 1, 1, 0, 0, 3, b'a', b'b', b'c'],
            vec![0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 5],
            vec![
                0x80, 3, 0, 1, 0, 0, 0, 24, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2, 0x62,
                0x60, 0x60, 0x60, 0, 0, 0, 0,
            ],
        ]
    },
    dictionary: &[],
    run: |bytes| {
        let whole = frames(bytes, bytes.len().max(1));
        let pieces = frames(&bytes[..bytes.len().min(4 << 10)], 3);
        if bytes.len() <= 4 << 10 {
            assert_eq!(whole, pieces);
        }
        match whole {
            (frames, None) => Outcome(frames.len() as u64),
            (_, Some(error)) => Outcome::of(&error.to_string()),
        }
    },
};

/// The frames that come out when bytes come in pieces of a size.
fn frames(bytes: &[u8], size: usize) -> (Vec<Frame>, Option<SpdyError>) {
    let (mut decoder, mut frames) = (Decoder::new(), Vec::new());
    for piece in bytes.chunks(size) {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

/// A message of a WebSocket, in every protocol of exec, attach and port-forward.
pub const CHANNEL: Target = Target {
    name: "channel",
    shape: Shape::Bytes,
    seeds: || {
        let texts: [&[u8]; 5] = [
            b"\0ls\n",
            b"\x04{\"Width\":80,\"Height\":24}",
            b"\xff\0",
            b"0bHM=",
            b"4eyJXaWR0aCI6ODB9",
        ];
        texts.iter().map(|text| text.to_vec()).collect()
    },
    dictionary: &[],
    run: |bytes| {
        let mut understood = 0;
        for protocol in REMOTE_COMMAND.iter().chain(PORT_FORWARD) {
            let Some(message) = channel::decode(*protocol, Bytes::copy_from_slice(bytes)) else {
                continue;
            };
            let said = channel::encode(*protocol, message.channel, &message.content);
            assert_eq!(channel::decode(*protocol, said), Some(message.clone()));
            understood = understood << 1 | u64::from(channel::input(*protocol, message).is_some());
        }
        Outcome(understood)
    },
};
