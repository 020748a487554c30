//! What stands on a stream: a header of four bytes that says what the stream is for, then frames, each a length and that
//! many bytes. Used by `transport` (asking) and `serve` (answering). Lengths from a peer are checked before anything is
//! allocated.

use bytes::Bytes;
use protocol::transport::Purpose;
use quinn::{RecvStream, SendStream};

/// The version of header and frames. A peer that sends another is answered with `Status::Version`.
pub const VERSION: u8 = 1;
/// The largest request or frame: the codec's largest message and its version byte fit.
pub const FRAME_BYTES_MAX: usize = protocol::codec::MESSAGE_BYTES_MAX + 1024;
/// The largest request of a machine that is not a member: a name, some addresses and a signing request.
pub const JOIN_BYTES_MAX: usize = 64 * 1024;

/// How a stream is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One frame each way.
    Call,
    /// One frame, then an answer in frames.
    Stream,
    /// Bytes both ways.
    Raw,
}

/// The first byte of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The answer follows.
    Served,
    /// Nothing serves this purpose, or not for this peer.
    NotServed,
    /// The peer does not know this version of the frames.
    Version,
}

/// Before each frame of an answer in frames.
pub const FRAME: u8 = 0;
/// Instead of a frame: a text that says why the answer ends early.
pub const BROKEN: u8 = 1;

/// What a stream's first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamHeader {
    /// What it is for.
    pub purpose: Purpose,
    /// How it is used.
    pub kind: Kind,
}

/// Why a stream's bytes make no sense.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer sends another version.
    #[error("the peer's frames have version {theirs}, this process knows {VERSION}")]
    Version {
        /// The peer's.
        theirs: u8,
    },
    /// No such purpose or kind.
    #[error("unknown stream header {0:?}")]
    Header([u8; 4]),
    /// A frame is longer than it may be.
    #[error("a frame of {length} bytes is longer than the {limit} that are allowed")]
    TooLong {
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// The stream ended early or broke.
    #[error("{0}")]
    Read(String),
    /// The stream broke while writing.
    #[error("{0}")]
    Write(#[from] quinn::WriteError),
}

/// Every purpose with its number on the wire. Numbers are never used again.
const PURPOSES: [(Purpose, u8); 8] = [
    (Purpose::Join, 1),
    (Purpose::Consensus, 2),
    (Purpose::Store, 3),
    (Purpose::Api, 4),
    (Purpose::Logs, 5),
    (Purpose::Remoting, 6),
    (Purpose::Membership, 7),
    (Purpose::Sessions, 8),
];

impl StreamHeader {
    /// Its bytes.
    pub fn encode(self) -> [u8; 4] {
        let purpose = PURPOSES
            .iter()
            .find(|(purpose, _)| *purpose == self.purpose)
            .map_or(0, |(_, number)| *number);
        let kind = match self.kind {
            Kind::Call => 0,
            Kind::Stream => 1,
            Kind::Raw => 2,
        };
        [VERSION, purpose, kind, 0]
    }

    /// From its bytes.
    pub fn decode(bytes: [u8; 4]) -> Result<StreamHeader, FrameError> {
        let [version, purpose, kind, _] = bytes;
        if version != VERSION {
            return Err(FrameError::Version { theirs: version });
        }
        let purpose = PURPOSES
            .iter()
            .find(|(_, number)| *number == purpose)
            .map(|(purpose, _)| *purpose);
        let kind = match kind {
            0 => Some(Kind::Call),
            1 => Some(Kind::Stream),
            2 => Some(Kind::Raw),
            _ => None,
        };
        match (purpose, kind) {
            (Some(purpose), Some(kind)) => Ok(StreamHeader { purpose, kind }),
            _ => Err(FrameError::Header(bytes)),
        }
    }

    /// Reads it from a stream.
    pub async fn read(stream: &mut RecvStream) -> Result<StreamHeader, FrameError> {
        let mut bytes = [0; 4];
        read_exact(stream, &mut bytes).await?;
        StreamHeader::decode(bytes)
    }
}

impl Status {
    /// Its byte.
    pub fn encode(self) -> u8 {
        match self {
            Status::Served => 0,
            Status::NotServed => 1,
            Status::Version => 2,
        }
    }

    /// Reads it from a stream. A byte that is none of ours can only come from another version.
    pub async fn read(stream: &mut RecvStream) -> Result<Status, FrameError> {
        let mut byte = [0];
        read_exact(stream, &mut byte).await?;
        Ok(match byte[0] {
            0 => Status::Served,
            1 => Status::NotServed,
            _ => Status::Version,
        })
    }
}

/// Writes one frame.
pub async fn write_frame(stream: &mut SendStream, bytes: Bytes) -> Result<(), FrameError> {
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong {
            length: bytes.len(),
            limit: FRAME_BYTES_MAX,
        });
    }
    let length = u32::try_from(bytes.len())
        .expect("the largest frame is far below 4 GiB")
        .to_be_bytes();
    let mut parts = [Bytes::copy_from_slice(&length), bytes];
    stream.write_all_chunks(&mut parts).await?;
    Ok(())
}

/// Reads one frame of at most `limit` bytes.
pub async fn read_frame(stream: &mut RecvStream, limit: usize) -> Result<Bytes, FrameError> {
    let mut length = [0; 4];
    read_exact(stream, &mut length).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    // The buffer grows as bytes arrive: a peer that announces 64 MiB and sends none costs nothing.
    let mut bytes = bytes::BytesMut::with_capacity(length.min(64 * 1024));
    while bytes.len() < length {
        match stream.read_chunk(length - bytes.len(), true).await {
            Ok(Some(chunk)) if bytes.is_empty() && chunk.bytes.len() == length => return Ok(chunk.bytes),
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk.bytes),
            Ok(None) => return Err(FrameError::Read("the stream ended inside a frame".to_owned())),
            Err(error) => return Err(FrameError::Read(error.to_string())),
        }
    }
    Ok(bytes.freeze())
}

/// Reads the byte before a frame; none at the end of the stream.
pub async fn read_tag(stream: &mut RecvStream) -> Result<Option<u8>, FrameError> {
    let mut byte = [0];
    match stream.read(&mut byte).await {
        Ok(Some(_)) => Ok(Some(byte[0])),
        Ok(None) => Ok(None),
        Err(error) => Err(FrameError::Read(error.to_string())),
    }
}

async fn read_exact(stream: &mut RecvStream, buffer: &mut [u8]) -> Result<(), FrameError> {
    stream
        .read_exact(buffer)
        .await
        .map_err(|error| FrameError::Read(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_wire_and_unknown_ones_are_refused() {
        for (purpose, _) in PURPOSES {
            for kind in [Kind::Call, Kind::Stream, Kind::Raw] {
                let header = StreamHeader { purpose, kind };
                assert_eq!(StreamHeader::decode(header.encode()).unwrap(), header);
            }
        }
        assert!(matches!(
            StreamHeader::decode([9, 1, 0, 0]),
            Err(FrameError::Version { theirs: 9 })
        ));
        assert!(matches!(
            StreamHeader::decode([VERSION, 0, 0, 0]),
            Err(FrameError::Header(_))
        ));
        assert!(matches!(
            StreamHeader::decode([VERSION, 1, 9, 0]),
            Err(FrameError::Header(_))
        ));
    }

    #[test]
    fn every_purpose_has_a_number_of_its_own() {
        let mut numbers: Vec<u8> = PURPOSES.iter().map(|(_, number)| *number).collect();
        numbers.dedup();
        assert_eq!(numbers.len(), PURPOSES.len());
        assert!(!numbers.contains(&0));
    }
}
