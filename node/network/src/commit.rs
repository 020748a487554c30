//! Hears from the kernel that an nftables transaction is in force.
//!
//! After its transaction `nft` closes its socket, and there the kernel makes it wait until what was deleted is really gone:
//! 12-16 ms, while the transaction itself takes one or two. So the nft worker listens to the kernel's announcements and goes
//! on as soon as the transaction of its own child is announced. What cannot be heard (a process in another pid namespace, an
//! overrun buffer) costs only the wait: the child's exit is the answer then.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    process::Child,
    time::Instant,
};

use netlink_packet_core::{NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::netfilter::{GENERIC_HEADER, NetfilterMessage, attribute};

/// The multicast group of nftables' announcements (NFNLGRP_NFTABLES).
const GROUP: u32 = 7;
/// Subsystem nftables (10), message "new generation" (15).
const NFT_MSG_NEWGEN: u16 = (10 << 8) | 15;
/// The process that made the generation, in network byte order.
const NFTA_GEN_PROC_PID: u16 = 2;

/// A socket that hears of every transaction in this thread's network namespace.
pub(crate) struct CommitListener {
    socket: Socket,
}

impl std::fmt::Debug for CommitListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommitListener")
            .field("fd", &self.socket.as_raw_fd())
            .finish()
    }
}

impl CommitListener {
    /// Starts to listen.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.add_membership(GROUP)?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket })
    }

    /// Forgets all announcements so far.
    pub(crate) fn skip(&self) {
        while !matches!(self.socket.recv_from_full(), Err(error) if error.kind() == io::ErrorKind::WouldBlock) {}
    }

    /// Waits until the child's transaction is announced, until the child prints something or ends, or until the instant.
    /// Returns whether the transaction was announced. What the child prints must be read by the caller then: with a full pipe it would never end.
    pub(crate) fn hears(&self, child: &Child, until: Instant) -> bool {
        let (Some(stdout), Some(stderr)) = (child.stdout.as_ref(), child.stderr.as_ref()) else {
            return false;
        };
        loop {
            // nft prints nothing about a transaction that it has applied: only complaints, or the end of its output.
            let mut sources = [
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(stdout.as_fd(), PollFlags::POLLIN),
                PollFd::new(stderr.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut sources, time_left(until)) {
                Err(Errno::EINTR) => continue,
                Err(_) | Ok(0) => return false,
                Ok(_) => {}
            }
            let printed_or_ended = sources[1..].iter().any(|source| source.any().unwrap_or(true));
            loop {
                match self.socket.recv_from_full() {
                    Ok((bytes, _)) if announces(&bytes, child.id()) => return true,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // Announcements were lost, perhaps the one that is waited for.
                    Err(_) => return false,
                }
            }
            if printed_or_ended {
                return false;
            }
        }
    }
}

/// How long `poll` may wait so as not to pass an instant; rounded up, so that it does not spin in the last millisecond.
pub(crate) fn time_left(until: Instant) -> PollTimeout {
    let left = until.saturating_duration_since(crate::worker::now());
    let milliseconds = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
    PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
}

/// Whether a datagram announces a transaction of the process.
fn announces(datagram: &[u8], process: u32) -> bool {
    let mut rest = datagram;
    while let Ok(buffer) = NetlinkBuffer::new_checked(&rest) {
        let length = buffer.length() as usize;
        if let Ok(message) = NetlinkMessage::<NetfilterMessage>::deserialize(rest)
            && is_generation_of(&message.header, &message.payload, process)
        {
            return true;
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    false
}

fn is_generation_of(header: &NetlinkHeader, payload: &NetlinkPayload<NetfilterMessage>, process: u32) -> bool {
    let NetlinkPayload::InnerMessage(message) = payload else {
        return false;
    };
    let maker = message
        .bytes
        .get(GENERIC_HEADER.len()..)
        .and_then(|attributes| attribute(attributes, NFTA_GEN_PROC_PID));
    header.message_type == NFT_MSG_NEWGEN && maker == Some(&process.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(kind: u16, process: u32) -> Vec<u8> {
        let mut body = GENERIC_HEADER.to_vec();
        body.extend([8, 0, 1, 0, 0, 0, 0, 7]);
        body.extend([8, 0, 2, 0]);
        body.extend(process.to_be_bytes());
        let mut bytes = (16 + body.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn only_the_own_childs_transaction_counts() {
        assert!(announces(&generation(NFT_MSG_NEWGEN, 42), 42));
        assert!(!announces(&generation(NFT_MSG_NEWGEN, 43), 42));
        assert!(!announces(&generation(NFT_MSG_NEWGEN - 1, 42), 42));
        let both = [generation(NFT_MSG_NEWGEN, 1), generation(NFT_MSG_NEWGEN, 42)].concat();
        assert!(announces(&both, 42));
        assert!(!announces(&[], 42));
        assert!(!announces(&generation(NFT_MSG_NEWGEN, 42)[..20], 42));
    }
}
