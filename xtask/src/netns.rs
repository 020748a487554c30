//! The network of the cluster that `up` starts: a namespace per node and one that holds the switch between them.
//!
//! The host gets a single link into the switch, so that it reaches the nodes; its bridges, rules and forwarding stay as
//! they are. The switch has a namespace of its own because a host that runs Docker filters what crosses a bridge of its
//! own. `ip netns exec` is not used: it hides the cgroup file systems from the program that it starts.

use crate::command;
use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

/// The network's name, the prefix of everything in it.
pub const NETWORK: &str = "act-up";
/// How many nodes the cluster has.
pub const NODES: u8 = 3;
/// The host's address in the network.
pub const HOST_ADDRESS: &str = "10.77.0.254";
/// The network's range. It lies outside of the ranges that a cluster gives to pods (10.244.0.0/16) and Services
/// (10.96.0.0/12) unless told otherwise: nodes refuse traffic to addresses of Services that do not exist.
const RANGE: &str = "10.77.0.0/24";

/// The name of a node's namespace. Nodes are counted from 1.
pub fn namespace(node: u8) -> String {
    format!("{NETWORK}-{node}")
}

/// A node's address.
pub fn address(node: u8) -> String {
    format!("10.77.0.{node}")
}

fn switch() -> String {
    format!("{NETWORK}-sw")
}

/// All namespaces.
pub fn namespaces() -> Vec<String> {
    (1..=NODES).map(namespace).chain([switch()]).collect()
}

/// Where `ip netns` keeps the handle of a namespace.
fn handle(namespace: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(namespace)
}

/// Creates the namespaces and links. Refuses when the range is in use on this machine.
pub fn create() -> Result<()> {
    let routes = ip(&format!("-o route show root {RANGE}"))?;
    if !routes.trim().is_empty() {
        bail!(
            "{RANGE} is in use on this machine ({}): free it, or stop what uses it",
            routes.trim()
        );
    }
    for line in plan() {
        ip(&line)?;
    }
    Ok(())
}

/// The commands, in order, that make the network.
fn plan() -> Vec<String> {
    let switch = switch();
    let mut lines = vec![
        format!("netns add {switch}"),
        format!("-n {switch} link set lo up"),
        format!("-n {switch} link add sw type bridge"),
        format!("-n {switch} link set sw up"),
        format!("link add {NETWORK} type veth peer name p0 netns {switch}"),
        format!("-n {switch} link set p0 master sw up"),
        format!("addr add {HOST_ADDRESS}/24 dev {NETWORK}"),
        format!("link set {NETWORK} up"),
    ];
    for node in 1..=NODES {
        let (namespace, address) = (namespace(node), address(node));
        lines.extend([
            format!("netns add {namespace}"),
            format!("-n {namespace} link set lo up"),
            format!("-n {namespace} link add eth0 type veth peer name p{node} netns {switch}"),
            format!("-n {switch} link set p{node} master sw up"),
            format!("-n {namespace} addr add {address}/24 dev eth0"),
            format!("-n {namespace} link set eth0 up"),
            // A Service's address needs some route before its packets are rewritten.
            format!("-n {namespace} route add default via {HOST_ADDRESS}"),
        ]);
    }
    lines
}

/// Removes what exists of the network.
pub fn remove() -> Result<()> {
    if link_exists()? {
        ip(&format!("link delete {NETWORK}"))?;
    }
    for namespace in namespaces() {
        if handle(&namespace).exists() {
            ip(&format!("netns delete {namespace}"))?;
        }
    }
    Ok(())
}

/// What exists of the network, in words; empty when nothing does.
pub fn remains() -> Result<Vec<String>> {
    let namespaces = namespaces().into_iter().filter(|namespace| handle(namespace).exists());
    let mut remains: Vec<String> = namespaces
        .map(|namespace| format!("network namespace {namespace}"))
        .collect();
    if link_exists()? {
        remains.push(format!("interface {NETWORK}"));
    }
    Ok(remains)
}

fn link_exists() -> Result<bool> {
    Ok(std::path::Path::new("/sys/class/net").join(NETWORK).exists())
}

/// The number of a namespace's file, by which its processes are known; `None` when it does not exist.
pub fn inode(namespace: &str) -> Option<u64> {
    handle(namespace).metadata().ok().map(|metadata| metadata.ino())
}

/// Makes a command run in a namespace. Only the network changes: mounts and cgroups are the host's.
pub fn enter(command: &mut Command, namespace: &str) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let file = open(namespace)?;
    // SAFETY: setns is a system call; nothing is allocated or locked between fork and exec.
    unsafe {
        command.pre_exec(move || Ok(setns(&file, CloneFlags::CLONE_NEWNET)?));
    }
    Ok(())
}

fn open(namespace: &str) -> Result<File> {
    let handle = handle(namespace);
    File::open(&handle).with_context(|| format!("cannot open {}: is the cluster up?", handle.display()))
}

fn ip(line: &str) -> Result<String> {
    command::output(Command::new("ip").args(line.split_whitespace()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_is_on_the_switch_with_an_address_of_its_own() {
        let plan = plan();
        for node in 1..=NODES {
            assert!(plan.contains(&format!("-n act-up-sw link set p{node} master sw up")));
            assert!(plan.contains(&format!("-n act-up-{node} addr add 10.77.0.{node}/24 dev eth0")));
        }
        assert!(
            plan.iter().all(|line| line.contains(NETWORK)),
            "no command touches what is not ours"
        );
    }

    #[test]
    fn no_address_is_one_of_a_pod_or_a_service() {
        let first_two = |address: &str| {
            let parts: Vec<u8> = address.split('.').map(|part| part.parse().unwrap()).collect();
            (parts[0], parts[1])
        };
        for address in (1..=NODES).map(address).chain([HOST_ADDRESS.to_owned()]) {
            let (first, second) = first_two(&address);
            assert!(
                first == 10 && second != 244 && !(96..112).contains(&second),
                "{address}"
            );
        }
    }

    #[test]
    fn the_names_of_links_are_short_enough_for_the_kernel() {
        assert!(NETWORK.len() < 16);
    }

    #[test]
    fn a_namespace_that_does_not_exist_is_named_in_the_error() {
        let error = enter(&mut Command::new("true"), "act-none-such").unwrap_err();
        assert!(format!("{error:#}").contains("act-none-such"));
    }
}
