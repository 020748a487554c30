//! A blocking netlink socket: many requests in one system call, and lists.
//!
//! Used by the links worker only, in the node's namespace and in those of pods. rtnetlink's own handle is not used for two
//! reasons: its connection needs a task per socket, which a pod's short visit does not deserve, and the kernel works on a
//! request while the sender waits, which must not happen on an async thread. The messages are built by rtnetlink's builders.

use std::{io, os::fd::AsFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::{TimeVal, TimeValLike},
};

/// The kernel answers while we send, so a missing answer means a lost one (a full receive buffer). Far above any real time.
const ANSWER_SECONDS_MAX: i64 = 10;

/// One request: the message and the flags beside `NLM_F_REQUEST` and `NLM_F_ACK`.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) message: RouteNetlinkMessage,
    pub(crate) flags: u16,
}

impl Request {
    pub(crate) fn new(message: RouteNetlinkMessage, flags: u16) -> Self {
        Self { message, flags }
    }
}

/// A netlink socket in the namespace of the thread that opened it.
pub(crate) struct RouteSocket {
    socket: Socket,
    sequence: u32,
}

impl RouteSocket {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        setsockopt(&socket.as_fd(), ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS_MAX))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends all requests at once and returns the kernel's verdict on each. The kernel works through all of them in order,
    /// also past one that fails.
    pub(crate) fn send_batch(&mut self, requests: Vec<Request>) -> io::Result<Vec<io::Result<()>>> {
        let count = requests.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(count * 128);
        for request in requests {
            let mut message = self.numbered(request.message, NLM_F_REQUEST | NLM_F_ACK | request.flags);
            append(&mut message, &mut bytes);
        }
        self.socket.send(&bytes, 0)?;
        let mut verdicts: Vec<Option<io::Result<()>>> = (0..count).map(|_| None).collect();
        let mut open = count;
        while open > 0 {
            self.receive(|header, payload| {
                let index = header.sequence_number.wrapping_sub(first) as usize;
                if let (NetlinkPayload::Error(error), Some(verdict)) = (payload, verdicts.get_mut(index))
                    && verdict.is_none()
                {
                    *verdict = Some(error.code.map_or(Ok(()), |_| Err(error.to_io())));
                    open -= 1;
                }
                Ok(())
            })?;
        }
        // The loop ends only when every verdict is there.
        Ok(verdicts.into_iter().map(|verdict| verdict.unwrap_or(Ok(()))).collect())
    }

    /// Sends one request; its failure is the error.
    pub(crate) fn send_one(&mut self, request: Request) -> io::Result<()> {
        self.send_batch(vec![request])?.into_iter().collect()
    }

    /// All objects of the kind that `message` asks for.
    pub(crate) fn list(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.query(message, NLM_F_REQUEST | NLM_F_DUMP)
    }

    /// The one object that `message` names; an empty answer if the kernel has none.
    pub(crate) fn find(&mut self, message: RouteNetlinkMessage) -> io::Result<Option<RouteNetlinkMessage>> {
        match self.query(message, NLM_F_REQUEST | NLM_F_ACK) {
            Ok(found) => Ok(found.into_iter().next()),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn query(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut message = self.numbered(message, flags);
        let expected = message.header.sequence_number;
        let mut bytes = Vec::with_capacity(64);
        append(&mut message, &mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut found = Vec::new();
        let mut done = false;
        while !done {
            self.receive(|header, payload| {
                if header.sequence_number != expected {
                    return Ok(());
                }
                match payload {
                    NetlinkPayload::InnerMessage(object) => found.push(object),
                    NetlinkPayload::Done(_) => done = true,
                    NetlinkPayload::Error(error) => {
                        done = true;
                        if error.code.is_some() {
                            return Err(error.to_io());
                        }
                    }
                    _ => {}
                }
                Ok(())
            })?;
        }
        Ok(found)
    }

    fn numbered(&mut self, message: RouteNetlinkMessage, flags: u16) -> NetlinkMessage<RouteNetlinkMessage> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        NetlinkMessage::new(header, NetlinkPayload::from(message))
    }

    fn receive(
        &mut self,
        mut each: impl FnMut(&NetlinkHeader, NetlinkPayload<RouteNetlinkMessage>) -> io::Result<()>,
    ) -> io::Result<()> {
        let (bytes, _) = self.socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            let (header, payload) = message.into_parts();
            each(&header, payload)?;
            rest = rest.get(aligned(header.length as usize)..).unwrap_or(&[]);
        }
        Ok(())
    }
}

/// Netlink messages start at multiples of four bytes.
fn aligned(length: usize) -> usize {
    // A length of zero would never advance; the header alone has 16 bytes.
    length.max(16).next_multiple_of(4)
}

fn append(message: &mut NetlinkMessage<RouteNetlinkMessage>, bytes: &mut Vec<u8>) {
    message.finalize();
    let start = bytes.len();
    let length = message.header.length as usize;
    bytes.resize(start + aligned(length), 0);
    message.serialize(&mut bytes[start..start + length]);
}

/// Whether the kernel said that the object does not exist.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(nix::libc::ENODEV | nix::libc::ENOENT | nix::libc::ESRCH | nix::libc::EADDRNOTAVAIL)
    )
}

/// Whether the kernel said that the object exists already.
pub(crate) fn is_present(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::EEXIST)
}
