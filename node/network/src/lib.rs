//! The data plane and cluster DNS: bridge, veth, routes, nftables.
