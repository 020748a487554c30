//! What only the machine knows: its host name, and by which of its addresses others reach it. Called once, when the
//! process starts, for `config::node::load`. Acting code: it reads /proc and opens a socket, but sends nothing.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use config::node::MachineFacts;

/// Reads the machine's facts. What cannot be read is left to the configuration: the name is then empty, which it refuses
/// with a message that says so.
pub fn facts() -> MachineFacts {
    let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .unwrap_or_default()
        .trim()
        .to_owned();
    MachineFacts {
        host_name,
        default_address: default_address(),
    }
}

/// The source address that the kernel would choose for the default route. Connecting a UDP socket asks the routing table
/// and sends nothing; the destination is from a documentation range (RFC 5737), which only the default route leads to.
fn default_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_a_name() {
        assert!(!facts().host_name.is_empty());
    }
}
