//! Sessions with containers and pods: what is said while a command runs in a container (exec), while a client is attached
//! to a container's own streams, and while a port of a pod is forwarded; and how that crosses from one node to another.
//! The runtime serves sessions, `NodeDoor` carries them to the node where the pod runs, the gateway and the shell begin
//! them. Nothing here does I/O.
//!
//! Both directions are pulled: whoever does not read holds up the other end. Dropping the output ends the session, and
//! with it the process that exec started; the end of the input ends nothing.

use std::pin::Pin;

use bincode::{Decode, Encode};
use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use serde::{Deserialize, Serialize};

use crate::runtime::RuntimeError;

/// A command to run in a container that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
pub struct ExecSpec {
    /// The pod's uid.
    pub pod: String,
    /// The container.
    pub container: String,
    /// Program and arguments; never empty.
    pub command: Vec<String>,
    /// Which streams the client wants.
    pub streams: StreamChoice,
}

/// A client that wants the streams of a container's own first process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
pub struct AttachSpec {
    /// The pod's uid.
    pub pod: String,
    /// The container.
    pub container: String,
    /// Which streams the client wants.
    pub streams: StreamChoice,
}

/// Which standard streams are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
pub struct StreamChoice {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error; with a terminal it is one with standard output.
    pub stderr: bool,
    /// A terminal instead of pipes.
    pub tty: bool,
}

/// A port of a pod, at its loopback addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
pub struct PortSpec {
    /// The pod's uid.
    pub pod: String,
    /// The TCP port.
    pub port: u16,
}

/// What a client sends in exec and attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionInput {
    /// For standard input.
    Stdin(Bytes),
    /// Nothing more comes for standard input.
    StdinClosed,
    /// The client's terminal has this size, in characters.
    Resize {
        /// Columns.
        width: u16,
        /// Lines.
        height: u16,
    },
}

/// What a client gets in exec and attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionOutput {
    /// From standard output, or the terminal.
    Stdout(Bytes),
    /// From standard error.
    Stderr(Bytes),
    /// The process ended: its exit code, or 128 plus the signal. The last item.
    Exited {
        /// The code.
        code: i32,
    },
}

/// What the client sends.
pub type InputStream = Pin<Box<dyn Stream<Item = SessionInput> + Send>>;
/// What the client gets. Dropping it ends the session.
pub type OutputStream = Pin<Box<dyn Stream<Item = Result<SessionOutput, RuntimeError>> + Send>>;
/// Bytes for a forwarded port; the end closes that direction.
pub type PortInput = Pin<Box<dyn Stream<Item = Bytes> + Send>>;
/// Bytes from a forwarded port; the end says that the pod's side closed. Dropping it closes the connection.
pub type PortOutput = Pin<Box<dyn Stream<Item = Result<Bytes, RuntimeError>> + Send>>;

/// The first frame of a session between two nodes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum SessionRequest {
    /// Run a command.
    Exec(ExecSpec),
    /// Join a container's own streams.
    Attach(AttachSpec),
    /// Connect to a port.
    Port(PortSpec),
}

/// The answer's first frame.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum SessionAnswer {
    /// It has begun.
    Begun,
    /// It has not.
    Refused(SessionRefusal),
}

/// Why a session was not begun.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SessionRefusal {
    /// Whether the container or sandbox is absent on that node.
    pub is_absent: bool,
    /// In words.
    pub reason: String,
}

/// A frame between two nodes, after the first one of each side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionFrame {
    /// To the pod's node, or bytes of a forwarded port in either direction.
    Bytes(Bytes),
    /// To the pod's node: nothing more comes for standard input, or for the port. From it: the port's peer has closed.
    Closed,
    /// To the pod's node.
    Resize {
        /// Columns.
        width: u16,
        /// Lines.
        height: u16,
    },
    /// From the pod's node: standard error. Standard output is `Bytes`.
    Stderr(Bytes),
    /// From the pod's node: the process ended.
    Exited {
        /// Its code.
        code: i32,
    },
    /// From the pod's node: the session broke off.
    Broken(String),
}

/// Why bytes from another node are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionFrameError {
    /// Longer than it may be.
    #[error("a frame of {length} bytes is longer than the {FRAME_BYTES_MAX} that are allowed")]
    TooLong {
        /// Its length.
        length: usize,
    },
    /// Nothing of this version.
    #[error("no frame has kind {kind} and {length} bytes")]
    Unknown {
        /// Its first byte.
        kind: u8,
        /// Its length.
        length: usize,
    },
}

/// The most bytes of a frame: what is read from a pipe or a connection at once fits many times.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// Bytes of a frame's length, little endian.
pub const LENGTH_BYTES: usize = 4;

const BYTES: u8 = 0;
const CLOSED: u8 = 1;
const RESIZE: u8 = 2;
const STDERR: u8 = 3;
const EXITED: u8 = 4;
const BROKEN: u8 = 5;

impl SessionFrame {
    /// Its bytes with their length in front. What is longer than a frame may be is cut, which no caller sends.
    pub fn encode(&self) -> Bytes {
        let (kind, content): (u8, &[u8]) = match self {
            SessionFrame::Bytes(bytes) => (BYTES, bytes),
            SessionFrame::Closed => (CLOSED, &[]),
            SessionFrame::Resize { width, height } => {
                let [a, b] = width.to_le_bytes();
                let [c, d] = height.to_le_bytes();
                return framed(RESIZE, &[a, b, c, d]);
            }
            SessionFrame::Stderr(bytes) => (STDERR, bytes),
            SessionFrame::Exited { code } => return framed(EXITED, &code.to_le_bytes()),
            SessionFrame::Broken(reason) => (BROKEN, reason.as_bytes()),
        };
        framed(kind, content)
    }

    /// From a frame's bytes, without the length.
    pub fn decode(mut frame: Bytes) -> Result<SessionFrame, SessionFrameError> {
        let unknown = |kind: u8| SessionFrameError::Unknown {
            kind,
            length: frame.len(),
        };
        let (Some(&kind), length) = (frame.first(), frame.len()) else {
            return Err(unknown(u8::MAX));
        };
        let _ = frame.split_to(1);
        let refused = SessionFrameError::Unknown { kind, length };
        match (kind, frame.as_ref()) {
            (BYTES, _) => Ok(SessionFrame::Bytes(frame)),
            (CLOSED, []) => Ok(SessionFrame::Closed),
            (RESIZE, &[a, b, c, d]) => Ok(SessionFrame::Resize {
                width: u16::from_le_bytes([a, b]),
                height: u16::from_le_bytes([c, d]),
            }),
            (STDERR, _) => Ok(SessionFrame::Stderr(frame)),
            (EXITED, &[a, b, c, d]) => Ok(SessionFrame::Exited {
                code: i32::from_le_bytes([a, b, c, d]),
            }),
            (BROKEN, reason) => Ok(SessionFrame::Broken(String::from_utf8_lossy(reason).into_owned())),
            _ => Err(refused),
        }
    }
}

fn framed(kind: u8, content: &[u8]) -> Bytes {
    let content = &content[..content.len().min(FRAME_BYTES_MAX - 1)];
    let mut bytes = BytesMut::with_capacity(LENGTH_BYTES + 1 + content.len());
    bytes.put_u32_le(content.len() as u32 + 1);
    bytes.put_u8(kind);
    bytes.extend_from_slice(content);
    bytes.freeze()
}

/// The length of the next frame, checked before anything is allocated for it.
pub fn frame_length(bytes: [u8; LENGTH_BYTES]) -> Result<usize, SessionFrameError> {
    let length = u32::from_le_bytes(bytes) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(SessionFrameError::TooLong { length });
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame() -> impl Strategy<Value = SessionFrame> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
        prop_oneof![
            bytes().prop_map(SessionFrame::Bytes),
            Just(SessionFrame::Closed),
            (any::<u16>(), any::<u16>()).prop_map(|(width, height)| SessionFrame::Resize { width, height }),
            bytes().prop_map(SessionFrame::Stderr),
            any::<i32>().prop_map(|code| SessionFrame::Exited { code }),
            any::<String>().prop_map(SessionFrame::Broken),
        ]
    }

    proptest! {
        #[test]
        fn frames_round_trip(frame in frame()) {
            let bytes = frame.encode();
            let length = frame_length(*bytes.first_chunk().unwrap()).unwrap();
            prop_assert_eq!(length, bytes.len() - LENGTH_BYTES);
            prop_assert_eq!(SessionFrame::decode(bytes.slice(LENGTH_BYTES..)), Ok(frame));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = SessionFrame::decode(Bytes::from(bytes));
        }
    }

    #[test]
    fn a_length_that_no_frame_has_is_refused() {
        assert_eq!(
            frame_length(u32::MAX.to_le_bytes()),
            Err(SessionFrameError::TooLong {
                length: u32::MAX as usize
            })
        );
        assert!(SessionFrame::decode(Bytes::new()).is_err());
        assert!(SessionFrame::decode(Bytes::from_static(&[EXITED, 1])).is_err());
    }
}
