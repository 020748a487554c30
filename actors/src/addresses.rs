//! Pure allocators of addresses: pod CIDRs for nodes and cluster IPs for Services. Given what is taken, they name what is
//! free; the caller makes it unique with a compare-and-set. Used by the node's range actor and by the gateway.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;

/// An IPv4 range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Range {
    first: u32,
    prefix: u8,
}

/// Why a text is no range, or an allocation has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not `a.b.c.d/len`.
    #[error("{0:?} is no IPv4 range: write it as 10.244.0.0/16")]
    Range(String),
    /// Not an address.
    #[error("{0:?} is no IPv4 address")]
    Address(String),
    /// The address lies outside.
    #[error("the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}")]
    Outside {
        /// The address.
        address: Ipv4Addr,
        /// The range.
        range: Ipv4Range,
    },
    /// The address is taken.
    #[error("provided IP is already allocated")]
    Taken {
        /// The address.
        address: Ipv4Addr,
    },
    /// Nothing is left.
    #[error("{range} is full: no free {what} is left; configure a larger range")]
    Full {
        /// The range.
        range: Ipv4Range,
        /// What was asked for.
        what: &'static str,
    },
}

impl Ipv4Range {
    /// Parses `10.244.0.0/16`. Host bits must be zero.
    pub fn parse(text: &str) -> Result<Ipv4Range, AddressError> {
        let fail = || AddressError::Range(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(fail)?;
        let address: Ipv4Addr = address.parse().map_err(|_| fail())?;
        let prefix: u8 = prefix.parse().map_err(|_| fail())?;
        if prefix > 32 {
            return Err(fail());
        }
        let range = Ipv4Range {
            first: u32::from(address),
            prefix,
        };
        if u64::from(range.first) % range.len() == 0 {
            Ok(range)
        } else {
            Err(fail())
        }
    }

    /// How many addresses it has.
    pub fn len(&self) -> u64 {
        1 << (32 - u32::from(self.prefix))
    }

    /// A range is never empty.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Its address number `index`.
    pub fn address(&self, index: u64) -> Ipv4Addr {
        Ipv4Addr::from((u64::from(self.first) + index).min(u64::from(u32::MAX)) as u32)
    }

    /// Whether it holds an address.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u64::from(u32::from(address))
            .checked_sub(u64::from(self.first))
            .is_some_and(|index| index < self.len())
    }

    fn overlaps(&self, other: &Ipv4Range) -> bool {
        self.contains(other.address(0)) || other.contains(self.address(0))
    }

    /// The first part of it with `prefix` bits that overlaps none of `taken`.
    pub fn free_part(&self, prefix: u8, taken: &BTreeSet<Ipv4Range>) -> Result<Ipv4Range, AddressError> {
        let full = AddressError::Full {
            range: *self,
            what: "node range",
        };
        if prefix < self.prefix || prefix > 32 {
            return Err(full);
        }
        let mut part = Ipv4Range {
            first: self.first,
            prefix,
        };
        loop {
            // Sorted by their first address, so that a part is compared only with those at and before it.
            match taken.iter().find(|other| other.overlaps(&part)) {
                None => return Ok(part),
                Some(other) => {
                    let end = (u64::from(other.first) + other.len()).max(u64::from(part.first) + part.len());
                    let next = end.next_multiple_of(part.len());
                    if next + part.len() > u64::from(self.first) + self.len() {
                        return Err(full);
                    }
                    part.first = next as u32;
                }
            }
        }
    }
}

impl fmt::Display for Ipv4Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(0), self.prefix)
    }
}

/// Hands out cluster IPs. The network and broadcast addresses are never handed out, the first address belongs to the
/// `kubernetes` Service, and the lower part of the range is kept for addresses that people choose, as Kubernetes does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterIpAllocator {
    range: Ipv4Range,
}

impl ClusterIpAllocator {
    /// For a service range.
    pub fn new(range: Ipv4Range) -> ClusterIpAllocator {
        ClusterIpAllocator { range }
    }

    /// The address of the Service `default/kubernetes`.
    pub fn kubernetes(&self) -> Ipv4Addr {
        self.range.address(1)
    }

    /// The address of the cluster's DNS: the tenth, by convention.
    pub fn dns(&self) -> Ipv4Addr {
        self.range.address(10)
    }

    /// Whether a person's choice can be had.
    pub fn claim(&self, address: &str, taken: &BTreeSet<Ipv4Addr>) -> Result<Ipv4Addr, AddressError> {
        let address: Ipv4Addr = address.parse().map_err(|_| AddressError::Address(address.to_owned()))?;
        let last = self.range.address(self.range.len() - 1);
        if !self.range.contains(address) || address == self.range.address(0) || address == last {
            return Err(AddressError::Outside {
                address,
                range: self.range,
            });
        }
        if taken.contains(&address) {
            Err(AddressError::Taken { address })
        } else {
            Ok(address)
        }
    }

    /// A free address. `seed` spreads the choices of several writers over the range, so that they seldom collide.
    pub fn allocate(&self, taken: &BTreeSet<Ipv4Addr>, seed: u64) -> Result<Ipv4Addr, AddressError> {
        let reserved_low = self.reserved_low();
        let upper = self.range.len().saturating_sub(1);
        let dynamic = reserved_low + 1..upper;
        let free = |index: u64| {
            let address = self.range.address(index);
            (address != self.kubernetes() && address != self.dns() && !taken.contains(&address)).then_some(address)
        };
        let span = dynamic.end.saturating_sub(dynamic.start);
        if span > 0 {
            let offset = seed % span;
            let rotated = (0..span).map(|step| dynamic.start + (offset + step) % span);
            if let Some(address) = rotated.into_iter().find_map(free) {
                return Ok(address);
            }
        }
        let low = (1..=reserved_low.min(upper.saturating_sub(1))).find_map(free);
        low.ok_or(AddressError::Full {
            range: self.range,
            what: "cluster IP",
        })
    }

    /// Kubernetes' `min(max(16, len / 16), 256)`; none in a range too small for it.
    fn reserved_low(&self) -> u64 {
        let usable = self.range.len().saturating_sub(2);
        let reserved = (usable / 16).clamp(16, 256);
        if usable <= reserved { 0 } else { reserved }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(text: &str) -> Ipv4Range {
        Ipv4Range::parse(text).unwrap()
    }

    #[test]
    fn ranges_parse_and_print() {
        assert_eq!(range("10.244.0.0/16").to_string(), "10.244.0.0/16");
        assert_eq!(range("0.0.0.0/0").len(), 1 << 32);
        for bad in ["10.244.0.0", "10.244.0.1/16", "10.0.0.0/33", "a/8", ""] {
            assert!(Ipv4Range::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_first_free_part_is_found_and_a_full_range_says_so() {
        let taken = BTreeSet::from([range("10.0.0.0/24"), range("10.0.2.0/23")]);
        assert_eq!(
            range("10.0.0.0/16").free_part(24, &taken).unwrap(),
            range("10.0.1.0/24")
        );
        let taken = BTreeSet::from([range("10.0.0.0/25"), range("10.0.1.0/24")]);
        assert_eq!(
            range("10.0.0.0/22").free_part(24, &taken).unwrap(),
            range("10.0.2.0/24")
        );
        let full = range("10.0.0.0/24")
            .free_part(24, &BTreeSet::from([range("10.0.0.128/25")]))
            .unwrap_err();
        assert_eq!(
            full.to_string(),
            "10.0.0.0/24 is full: no free node range is left; configure a larger range"
        );
    }

    #[test]
    fn a_chosen_cluster_ip_must_lie_in_the_range_and_be_free() {
        let allocator = ClusterIpAllocator::new(range("10.96.0.0/24"));
        let taken = BTreeSet::from(["10.96.0.7".parse().unwrap()]);
        assert!(allocator.claim("10.96.0.8", &taken).is_ok());
        for bad in ["10.96.0.7", "10.96.1.1", "10.96.0.0", "10.96.0.255", "x"] {
            assert!(allocator.claim(bad, &taken).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_allocated_address_is_new_until_the_range_is_full(prefix in 24u8..30, seed in any::<u64>()) {
            let range = Ipv4Range { first: u32::from(Ipv4Addr::new(10, 96, 0, 0)), prefix };
            let allocator = ClusterIpAllocator::new(range);
            let mut taken = BTreeSet::new();
            while let Ok(address) = allocator.allocate(&taken, seed.wrapping_mul(31).wrapping_add(taken.len() as u64)) {
                prop_assert!(range.contains(address) && address != range.address(0) && address != allocator.kubernetes());
                prop_assert!(taken.insert(address));
            }
            // Network, broadcast and the two well-known addresses are left out.
            let dns_inside = range.contains(allocator.dns()) && range.len() > 11;
            prop_assert_eq!(taken.len() as u64, range.len() - 3 - u64::from(dns_inside));
        }

        #[test]
        fn node_ranges_never_overlap(count in 1usize..40) {
            let mut taken = BTreeSet::new();
            for _ in 0..count {
                let part = range("10.244.0.0/16").free_part(24, &taken).unwrap();
                prop_assert!(taken.iter().all(|other: &Ipv4Range| !other.overlaps(&part)));
                taken.insert(part);
            }
        }
    }
}
