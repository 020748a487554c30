//! The data plane and cluster DNS of one node: pod links and addresses, routes to the other nodes' pods, services in
//! nftables, and the DNS server that answers for the cluster's domain.
//!
//! Called by the node process, which owns exactly one [`PodNetwork`] and one [`DnsServer`]. Everything acts on the network
//! namespace in which the node process runs.
//!
//! How a packet travels: a pod owns a `/32` and sends everything to its gateway, the bridge's own address. The veth's host
//! end is an isolated port of that bridge, so two pods never exchange frames directly: each packet between pods is routed by
//! the node and passes netfilter's hooks. That is why services, hairpins and policies work without `br_netfilter`, and why
//! nothing in the path of a packet is a program of ours.
//!
//! This crate never decides what the cluster should look like: it is told, compares with the kernel, and applies the
//! difference. It never touches links, routes or tables that it has not made.
//!
//! Threads: a netlink socket and a child process belong to the namespace of the thread that creates them. [`PodNetwork::open`]
//! starts two worker threads, which inherit the namespace of the calling thread and do all work from there, so it does not
//! matter on which runtime thread a later call is polled.

mod address;
mod commit;
mod conntrack;
mod dns;
mod error;
mod ipam;
mod link;
mod listing;
mod netfilter;
mod netlink;
mod nft;
mod plant;
mod pod_network;
mod preflight;
mod route;
mod rules;
mod ruleset;
mod service;
mod service_chain;
mod service_env;
mod worker;

pub use address::{Ipv4Cidr, ParseCidrError};
pub use dns::forward::{ForwardError, Upstreams};
pub use dns::resolv_conf::{DnsPolicy, NodeResolver, PodDns, PodDnsConfig, ResolverOption, resolv_conf};
pub use dns::server::{DnsConfig, DnsError, DnsServer};
pub use dns::zone::{DnsChange, DnsEndpoint, DnsPort, DnsService, Lookup, Records, Zone};
pub use error::NetworkError;
pub use ipam::{AddressBook, IpamError};
pub use plant::{AttachedPod, NetNamespace, PodAddress, interface_mtu};
pub use pod_network::{NodeNetworkConfig, PodNetwork};
pub use preflight::preflight;
pub use route::PeerRoute;
pub use service::{Protocol, ServiceChange, ServiceRule};
pub use service_env::{EnvironmentPort, EnvironmentService, service_environment};
