//! IPv4 ranges in CIDR notation and what is derived from addresses: the gateway of a range, a pod's MAC address.
//!
//! Used by every other module of this crate. Pure; never touches the system.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A range of IPv4 addresses, such as `10.244.3.0/24`. The host bits are always zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Cidr {
    network: Ipv4Addr,
    prefix_len: u8,
}

/// Why a text is not an IPv4 range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not an IPv4 range: {reason} (write it as ADDRESS/BITS, for example 10.244.3.0/24)")]
pub struct ParseCidrError {
    text: String,
    reason: &'static str,
}

impl Ipv4Cidr {
    /// The range that holds `address` and has `prefix_len` leading bits; `None` past 32 bits.
    pub fn new(address: Ipv4Addr, prefix_len: u8) -> Option<Self> {
        if prefix_len > 32 {
            return None;
        }
        let network = Ipv4Addr::from(u32::from(address) & mask(prefix_len));
        Some(Self { network, prefix_len })
    }

    /// The lowest address of the range.
    pub fn network(&self) -> Ipv4Addr {
        self.network
    }

    /// The number of leading bits that all addresses of the range share.
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// Whether the range holds `address`.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix_len) == u32::from(self.network)
    }

    /// The number of addresses in the range, the network's and the broadcast address included.
    pub fn size(&self) -> u64 {
        1u64 << (32 - u32::from(self.prefix_len))
    }

    /// The address at `offset` from the lowest one; `None` past the end.
    pub fn nth(&self, offset: u64) -> Option<Ipv4Addr> {
        (offset < self.size()).then(|| {
            // The offset is below 2^32 - network, so the sum does not overflow.
            Ipv4Addr::from(u32::from(self.network) + offset as u32)
        })
    }

    /// The node's own address in its pod range: the first one after the network's. `None` for ranges of fewer than four
    /// addresses, which have no room for a gateway, a pod and a broadcast address.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        (self.size() >= 4).then(|| self.nth(1)).flatten()
    }
}

fn mask(prefix_len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0)
}

impl fmt::Display for Ipv4Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_len)
    }
}

impl FromStr for Ipv4Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |reason| ParseCidrError {
            text: text.to_owned(),
            reason,
        };
        let (address, bits) = text
            .split_once('/')
            .ok_or_else(|| refuse("the number of bits is missing"))?;
        let address: Ipv4Addr = address.parse().map_err(|_| refuse("the address is malformed"))?;
        let prefix_len: u8 = bits.parse().map_err(|_| refuse("the number of bits is malformed"))?;
        let cidr = Self::new(address, prefix_len).ok_or_else(|| refuse("there are at most 32 bits"))?;
        if cidr.network != address {
            return Err(refuse("the address has bits set beyond the prefix"));
        }
        Ok(cidr)
    }
}

impl TryFrom<String> for Ipv4Cidr {
    type Error = ParseCidrError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Ipv4Cidr> for String {
    fn from(cidr: Ipv4Cidr) -> Self {
        cidr.to_string()
    }
}

/// The MAC address of the interface that holds `address`. It follows from the address, so a neighbour entry that outlives a
/// pod is still right when the address is used again. `0a:58` is a locally administered prefix.
pub(crate) fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_parse_and_print() {
        for text in ["10.244.3.0/24", "0.0.0.0/0", "192.168.1.7/32", "10.0.0.0/8"] {
            assert_eq!(text.parse::<Ipv4Cidr>().unwrap().to_string(), text);
        }
        for text in [
            "10.244.3.0",
            "10.244.3.0/33",
            "10.244.3.1/24",
            "x/24",
            "10.0.0.0/-1",
            "::/0",
        ] {
            let error = text.parse::<Ipv4Cidr>().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_range_holds_its_addresses_and_no_others() {
        let cidr: Ipv4Cidr = "10.244.3.0/24".parse().unwrap();
        assert!(cidr.contains(Ipv4Addr::new(10, 244, 3, 255)));
        assert!(!cidr.contains(Ipv4Addr::new(10, 244, 4, 0)));
        assert_eq!(cidr.nth(255), Some(Ipv4Addr::new(10, 244, 3, 255)));
        assert_eq!(cidr.nth(256), None);
        let all: Ipv4Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains(Ipv4Addr::BROADCAST));
        assert_eq!(all.size(), 1 << 32);
    }

    #[test]
    fn the_gateway_is_the_first_usable_address() {
        let gateway = |text: &str| text.parse::<Ipv4Cidr>().unwrap().gateway();
        assert_eq!(gateway("10.244.3.0/24"), Some(Ipv4Addr::new(10, 244, 3, 1)));
        assert_eq!(gateway("10.244.3.0/30"), Some(Ipv4Addr::new(10, 244, 3, 1)));
        assert_eq!(gateway("10.244.3.0/31"), None);
    }
}
