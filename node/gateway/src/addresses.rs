//! Cluster addresses and node ports of Services: chosen here, pure, from what is free. That one address is given once
//! only is the store's work: the Service and an IPAddress object named by the address are created in one proposal, as
//! in KEP-1880.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// A range of addresses: `10.96.0.0/12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    first: u32,
    bits: u8,
}

/// Why no address was chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The text is no range.
    #[error("{0:?} is not an IPv4 range such as 10.96.0.0/12")]
    Range(String),
    /// Every address is taken.
    #[error("range is full: every address of {0} is allocated")]
    Full(String),
    /// The wanted address lies outside of the range.
    #[error("the provided IP {address} is not in the valid range {range}")]
    Outside {
        /// The address.
        address: String,
        /// The range.
        range: String,
    },
}

impl std::fmt::Display for AddressRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.first), self.bits)
    }
}

impl AddressRange {
    /// Parses CIDR notation.
    pub fn parse(text: &str) -> Result<AddressRange, AddressError> {
        let wrong = || AddressError::Range(text.to_owned());
        let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let bits: u8 = bits.parse().map_err(|_| wrong())?;
        if !(1..=30).contains(&bits) {
            return Err(wrong());
        }
        Ok(AddressRange {
            first: u32::from(address) & (u32::MAX << (32 - bits)),
            bits,
        })
    }

    fn len(&self) -> u32 {
        1u32 << (32 - self.bits)
    }

    /// Whether a Service may have this address: inside, and neither the first nor the last.
    pub fn check(&self, wanted: &str) -> Result<Ipv4Addr, AddressError> {
        let outside = || AddressError::Outside {
            address: wanted.to_owned(),
            range: self.to_string(),
        };
        let address: Ipv4Addr = wanted.parse().map_err(|_| outside())?;
        let offset = u32::from(address).wrapping_sub(self.first);
        if offset == 0 || offset >= self.len() - 1 {
            Err(outside())
        } else {
            Ok(address)
        }
    }

    /// A free address, searched from `start` on. The lowest 1/16 of the range (between 16 and 256 addresses) is left
    /// to Services that ask for an address of their own, as in KEP-3070, until the rest is full.
    pub fn choose(&self, used: &BTreeSet<Ipv4Addr>, start: u32) -> Result<Ipv4Addr, AddressError> {
        let usable = self.len() - 2;
        let kept = (self.len() / 16).clamp(16, 256).min(usable / 2);
        let upper = usable - kept;
        let at = |offset: u32| Ipv4Addr::from(self.first + 1 + offset);
        let from_upper = (0..upper).map(|step| at(kept + (start % upper + step) % upper));
        let mut all = from_upper.chain((0..kept).map(at));
        all.find(|address| !used.contains(address))
            .ok_or_else(|| AddressError::Full(self.to_string()))
    }
}

/// The range of node ports, as Kubernetes has it.
pub const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// A free node port, searched from `start` on.
pub fn choose_node_port(used: &BTreeSet<u16>, start: u32) -> Option<u16> {
    let (first, last) = (u32::from(*NODE_PORTS.start()), u32::from(*NODE_PORTS.end()));
    let count = last - first + 1;
    (0..count)
        .map(|step| (first + (start % count + step) % count) as u16)
        .find(|port| !used.contains(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_addresses_are_free_and_inside_until_the_range_is_full() {
        let range = AddressRange::parse("10.96.0.0/26").unwrap();
        let mut used = BTreeSet::new();
        for start in 0..62u32 {
            let address = range.choose(&used, start.wrapping_mul(7919)).unwrap();
            assert!(
                range.check(&address.to_string()).is_ok() && used.insert(address),
                "{address}"
            );
        }
        assert_eq!(
            range.choose(&used, 3).unwrap_err().to_string(),
            "range is full: every address of 10.96.0.0/26 is allocated"
        );
    }

    #[test]
    fn the_low_part_is_kept_for_those_who_ask() {
        let range = AddressRange::parse("10.96.0.0/12").unwrap();
        let address = range.choose(&BTreeSet::new(), 0).unwrap();
        assert_eq!(address, Ipv4Addr::new(10, 96, 1, 1));
    }

    #[test]
    fn addresses_outside_are_named() {
        let range = AddressRange::parse("10.96.0.0/12").unwrap();
        for bad in ["10.95.255.255", "10.96.0.0", "10.111.255.255", "web"] {
            assert!(range.check(bad).is_err(), "{bad}");
        }
        assert!(range.check("10.96.0.10").is_ok());
        assert!(AddressRange::parse("10.96.0.0").is_err() && AddressRange::parse("10.96.0.0/33").is_err());
    }
}
