//! The one place where messages become bytes for another process: bincode 2 behind a protocol version. bincode is
//! frozen upstream, so no other module names it except to derive `Encode` and `Decode`.
//!
//! A frame is one version byte and the encoded message. A peer one version away is understood: `decode` accepts
//! `VERSION - 1` to `VERSION + 1`, and messages grow only by appending enum variants.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::enc::write::Writer;
use bincode::error::EncodeError;
use bincode::{Decode, Encode};

/// The protocol version that this build speaks.
pub const VERSION: u8 = 1;

/// The largest message in bytes; what is larger travels on a stream of its own.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

const CONFIGURATION: Configuration<LittleEndian, Varint, Limit<MESSAGE_BYTES_MAX>> =
    bincode::config::standard().with_limit::<MESSAGE_BYTES_MAX>();

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The peer speaks a version too far from ours.
    #[error("the peer speaks protocol version {theirs}, this process speaks {VERSION}: upgrade the older of the two")]
    Version {
        /// The version byte received.
        theirs: u8,
    },
    /// The bytes end early, or carry something else.
    #[error("malformed message: {0}")]
    Malformed(#[from] bincode::error::DecodeError),
    /// Nothing was received.
    #[error("empty message")]
    Empty,
    /// The message does not encode; only its size can be the reason.
    #[error("message does not encode: {0}")]
    Encode(#[from] bincode::error::EncodeError),
}

/// Encodes a message.
pub fn encode<T: Encode>(message: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::new();
    encode_into(message, &mut bytes)?;
    Ok(bytes)
}

/// Encodes a message behind what `bytes` has already. Who knows the size roughly gives it room for that.
pub fn encode_into<T: Encode>(message: &T, bytes: &mut Vec<u8>) -> Result<(), CodecError> {
    bytes.push(VERSION);
    bincode::encode_into_writer(message, Behind(bytes), CONFIGURATION)?;
    Ok(())
}

/// Writes to the end. A message has many small parts: bincode's way through `std::io::Write` asks of each whether it was
/// written.
struct Behind<'a>(&'a mut Vec<u8>);

impl Writer for Behind<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// Decodes a message. Bytes from a peer or a disk never panic here.
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, CodecError> {
    let (&theirs, rest) = bytes.split_first().ok_or(CodecError::Empty)?;
    if theirs.abs_diff(VERSION) > 1 {
        return Err(CodecError::Version { theirs });
    }
    let (message, _) = bincode::decode_from_slice(rest, CONFIGURATION)?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Key;
    use proptest::prelude::*;

    #[test]
    fn messages_round_trip_and_carry_their_version() {
        let key = Key::new("pods", "default", "web");
        let mut bytes = encode(&key).unwrap();
        assert_eq!(decode::<Key>(&bytes).unwrap(), key);
        bytes[0] = VERSION + 1;
        assert_eq!(decode::<Key>(&bytes).unwrap(), key);
        bytes[0] = VERSION + 2;
        assert!(matches!(decode::<Key>(&bytes), Err(CodecError::Version { theirs }) if theirs == VERSION + 2));
        assert!(matches!(decode::<Key>(&[]), Err(CodecError::Empty)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<crate::store::Proposal>(&bytes);
            let _ = decode::<crate::Object>(&bytes);
        }
    }
}
