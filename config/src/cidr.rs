//! IPv4 address ranges in CIDR notation. Used by the node's configuration, by identity (the API's service address is in
//! its certificate) and by whoever gives out addresses. Pure.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An IPv4 range: a network address and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Cidr {
    network: Ipv4Addr,
    prefix: u8,
}

/// Why a text is no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// It is not `ADDRESS/PREFIX` with an IPv4 address.
    #[error("{text:?} is not an IPv4 range such as 10.244.0.0/16")]
    Malformed {
        /// The text.
        text: String,
    },
    /// The address has bits set after the prefix: it is unclear which range was meant.
    #[error("{text:?} names an address inside a range; the range itself is {range}")]
    HostBits {
        /// The text.
        text: String,
        /// What it would be.
        range: Ipv4Cidr,
    },
}

impl Ipv4Cidr {
    /// The range of `prefix` bits around an address. `prefix` is at most 32.
    pub const fn around(address: Ipv4Addr, prefix: u8) -> Ipv4Cidr {
        assert!(prefix <= 32);
        Ipv4Cidr {
            network: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)),
            prefix,
        }
    }

    /// Parses `10.244.0.0/16`.
    pub fn parse(text: &str) -> Result<Ipv4Cidr, CidrError> {
        let malformed = || CidrError::Malformed { text: text.to_owned() };
        let (address, prefix) = text.trim().split_once('/').ok_or_else(malformed)?;
        let address: Ipv4Addr = address.parse().map_err(|_| malformed())?;
        let prefix: u8 = prefix
            .parse()
            .ok()
            .filter(|prefix| *prefix <= 32)
            .ok_or_else(malformed)?;
        let range = Ipv4Cidr::around(address, prefix);
        if range.network != address {
            return Err(CidrError::HostBits {
                text: text.to_owned(),
                range,
            });
        }
        Ok(range)
    }

    /// The first address.
    pub const fn network(self) -> Ipv4Addr {
        self.network
    }

    /// The length of the prefix in bits.
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// The number of addresses.
    pub const fn size(self) -> u64 {
        1 << (32 - self.prefix)
    }

    /// The address that many after the first.
    pub fn nth(self, offset: u64) -> Option<Ipv4Addr> {
        (offset < self.size()).then(|| Ipv4Addr::from_bits(self.network.to_bits() + offset as u32))
    }

    /// Whether the address lies in the range.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.network.to_bits()
    }

    /// Whether the two have an address in common.
    pub fn overlaps(self, other: Ipv4Cidr) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }
}

const fn mask(prefix: u8) -> u32 {
    if prefix == 0 { 0 } else { u32::MAX << (32 - prefix) }
}

impl FromStr for Ipv4Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Ipv4Cidr, CidrError> {
        Ipv4Cidr::parse(text)
    }
}

impl fmt::Display for Ipv4Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl Serialize for Ipv4Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ipv4Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Ipv4Cidr, D::Error> {
        Ipv4Cidr::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_parse_and_know_their_addresses() {
        let range = Ipv4Cidr::parse("10.96.0.0/12").unwrap();
        assert_eq!(
            (range.network(), range.prefix(), range.size()),
            (Ipv4Addr::new(10, 96, 0, 0), 12, 1 << 20)
        );
        assert_eq!(range.nth(10), Some(Ipv4Addr::new(10, 96, 0, 10)));
        assert_eq!(range.nth(1 << 20), None);
        assert!(range.contains(Ipv4Addr::new(10, 111, 255, 255)));
        assert!(!range.contains(Ipv4Addr::new(10, 112, 0, 0)));
        assert_eq!(Ipv4Cidr::parse("0.0.0.0/0").unwrap().size(), 1 << 32);
    }

    #[test]
    fn what_is_no_range_says_why() {
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "fd00::/64", "10.0.0.0/-1"] {
            assert_eq!(
                Ipv4Cidr::parse(text),
                Err(CidrError::Malformed { text: text.to_owned() }),
                "{text}"
            );
        }
        assert_eq!(
            Ipv4Cidr::parse("10.244.1.0/16").unwrap_err().to_string(),
            "\"10.244.1.0/16\" names an address inside a range; the range itself is 10.244.0.0/16"
        );
    }

    #[test]
    fn overlap_is_seen_from_both_sides() {
        let [wide, narrow, apart] =
            ["10.0.0.0/8", "10.96.0.0/12", "172.16.0.0/12"].map(|text| Ipv4Cidr::parse(text).unwrap());
        assert!(wide.overlaps(narrow) && narrow.overlaps(wide));
        assert!(!wide.overlaps(apart) && !apart.overlaps(narrow));
    }
}
