//! A blocking netlink socket: many requests in one system call, and lists.
//!
//! Used by the links worker, in the node's namespace and in those of pods, and by [`crate::conntrack`]. rtnetlink's own handle is not used for two
//! reasons: its connection needs a task per socket, which a pod's short visit does not deserve, and the kernel works on a
//! request while the sender waits, which must not happen on an async thread. The messages are built by rtnetlink's builders.

use std::{io, marker::PhantomData, os::fd::AsFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
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
pub(crate) struct Request<M = RouteNetlinkMessage> {
    pub(crate) message: M,
    pub(crate) flags: u16,
}

impl<M> Request<M> {
    pub(crate) fn new(message: M, flags: u16) -> Self {
        Self { message, flags }
    }
}

/// Requests in one system call. Each answer takes about 800 bytes of the socket's receive buffer until it is read, and what
/// does not fit is lost; the default buffer has 208 KiB.
const BATCH_MAX: usize = 64;

/// A netlink socket in the namespace of the thread that opened it, for one kind of messages.
pub(crate) struct KernelSocket<M> {
    socket: Socket,
    sequence: u32,
    messages: PhantomData<M>,
}

/// A socket for links, addresses and routes.
pub(crate) type RouteSocket = KernelSocket<RouteNetlinkMessage>;

impl RouteSocket {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        Self::open_protocol(NETLINK_ROUTE)
    }
}

impl<M: NetlinkSerializable + NetlinkDeserializable> KernelSocket<M> {
    /// Opens a socket for a netlink protocol, whose messages must be of type `M`.
    pub(crate) fn open_protocol(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        setsockopt(&socket.as_fd(), ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS_MAX))?;
        Ok(Self {
            socket,
            sequence: 0,
            messages: PhantomData,
        })
    }

    /// Sends all requests at once and returns the kernel's verdict on each. The kernel works through all of them in order,
    /// also past one that fails.
    pub(crate) fn send_batch(&mut self, requests: Vec<Request<M>>) -> io::Result<Vec<io::Result<()>>> {
        let mut verdicts = Vec::with_capacity(requests.len());
        let mut rest = requests.into_iter().peekable();
        while rest.peek().is_some() {
            verdicts.extend(self.send_at_once(rest.by_ref().take(BATCH_MAX).collect())?);
        }
        Ok(verdicts)
    }

    fn send_at_once(&mut self, requests: Vec<Request<M>>) -> io::Result<Vec<io::Result<()>>> {
        let count = requests.len();
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
    pub(crate) fn send_one(&mut self, request: Request<M>) -> io::Result<()> {
        self.send_batch(vec![request])?.into_iter().collect()
    }

    /// All objects of the kind that `message` asks for.
    pub(crate) fn list(&mut self, message: M) -> io::Result<Vec<M>> {
        self.query(message, NLM_F_REQUEST | NLM_F_DUMP)
    }

    /// The one object that `message` names; an empty answer if the kernel has none.
    pub(crate) fn find(&mut self, message: M) -> io::Result<Option<M>> {
        match self.query(message, NLM_F_REQUEST | NLM_F_ACK) {
            Ok(found) => Ok(found.into_iter().next()),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn query(&mut self, message: M, flags: u16) -> io::Result<Vec<M>> {
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

    fn numbered(&mut self, message: M, flags: u16) -> NetlinkMessage<M> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message))
    }

    fn receive(&mut self, mut each: impl FnMut(&NetlinkHeader, NetlinkPayload<M>) -> io::Result<()>) -> io::Result<()> {
        let (bytes, _) = self.socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let length = match NetlinkBuffer::new_checked(&rest) {
                Ok(buffer) => buffer.length() as usize,
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string())),
            };
            match NetlinkMessage::<M>::deserialize(rest) {
                Ok(message) => {
                    let (header, payload) = message.into_parts();
                    each(&header, payload)?;
                }
                // A kind of link that the parser does not know is none of ours; the others must still be seen.
                Err(error) => tracing::debug!(%error, "skipping a netlink message that cannot be read"),
            }
            rest = rest.get(aligned(length)..).unwrap_or(&[]);
        }
        Ok(())
    }
}

/// Netlink messages start at multiples of four bytes.
fn aligned(length: usize) -> usize {
    // A length of zero would never advance; the header alone has 16 bytes.
    length.max(16).next_multiple_of(4)
}

fn append<M: NetlinkSerializable>(message: &mut NetlinkMessage<M>, bytes: &mut Vec<u8>) {
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
