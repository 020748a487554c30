//! What the data plane needs of its machine, checked before a node starts. Called by the node process. It changes nothing:
//! the kernel is asked whether it would take the node's own rules, and none is left in force.

use std::net::Ipv4Addr;

use crate::{address::Ipv4Cidr, error::NetworkError, nft, ruleset};

/// Checks that the program `nft` is there and that the kernel takes the fixed part of a node's table, in the calling
/// thread's network namespace. Blocking; takes some milliseconds.
///
/// # Errors
///
/// What is missing, and what to do.
pub fn preflight() -> Result<(), NetworkError> {
    // Any ranges do: which addresses the rules name makes no difference to the kernel's features.
    let range = |first: u8| Ipv4Cidr::new(Ipv4Addr::new(first, 0, 0, 0), 16);
    let (Some(pod_cidr), Some(cluster_cidr), Some(service_cidr)) = (range(10), range(10), range(11)) else {
        unreachable!("addresses that end in zeros are the first of their ranges");
    };
    let rules = ruleset::BaseRules {
        pod_cidr,
        cluster_cidr,
        service_cidr,
        bridge: "act0".to_owned(),
    };
    nft::check(ruleset::base(&rules), "check for nftables")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_runs_these_tests_as_root_lacks_nothing() {
        assert!(
            nix::unistd::geteuid().is_root(),
            "only root may ask nftables: run this test as root"
        );
        preflight().unwrap();
    }
}
