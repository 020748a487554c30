//! The node's links, addresses and routes: what the links worker does on its thread.
//!
//! [`Plant`] is owned by the links worker of [`crate::PodNetwork`]. It sends what [`crate::link`] and [`crate::route`] build
//! and keeps the address book. It never decides which pods exist: leftovers are removed only when their pod is unknown to the
//! address book.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

use crate::{
    address::Ipv4Cidr,
    error::{Feature, NetworkError},
    ipam::AddressBook,
    link::{self, LinkFacts, POD_INTERFACE, PodLink},
    netlink::{RouteSocket, is_absent, is_present},
    pod_network::NodeNetworkConfig,
    route::{self, PeerRoute, RouteChange},
    worker::{Chores, now},
};

/// Where a pod's network namespace is found.
#[derive(Debug)]
pub enum NetNamespace {
    /// A file that holds the namespace open, such as `/proc/PID/ns/net` or a bind mount of it.
    Path(PathBuf),
    /// A process that lives in it.
    Pid(u32),
    /// An open descriptor of it.
    Fd(OwnedFd),
}

impl NetNamespace {
    fn open(self) -> Result<(File, String), NetworkError> {
        let path = match self {
            Self::Fd(fd) => {
                let name = format!("fd {}", fd.as_raw_fd());
                return Ok((File::from(fd), name));
            }
            Self::Path(path) => path,
            Self::Pid(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
        };
        let namespace = path.display().to_string();
        match File::open(&path) {
            Ok(file) => Ok((file, namespace)),
            Err(source) => Err(NetworkError::Namespace { namespace, source }),
        }
    }
}

/// A pod's place in the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PodAddress {
    /// The pod's address (`status.podIP`).
    pub ip: Ipv4Addr,
    /// Where the pod sends everything: the node's bridge.
    pub gateway: Ipv4Addr,
    /// The interface's name inside the pod.
    pub interface: String,
    /// The interface's name on the node.
    pub host_interface: String,
    /// The largest packet, in bytes.
    pub mtu: u32,
}

/// A pod that has an address, as found on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttachedPod {
    /// The pod's uid.
    pub pod_uid: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Whether its link exists. It vanishes with the pod's namespace; such a pod is to be detached or attached anew.
    pub link_present: bool,
}

/// The links worker's state.
pub(crate) struct Plant {
    config: NodeNetworkConfig,
    gateway: Ipv4Addr,
    socket: RouteSocket,
    /// The node's own namespace, to come back to after a visit in a pod's.
    home: File,
    bridge_index: u32,
    book: AddressBook,
    retired: Option<Retired>,
}

/// Links that are to be deleted, and the addresses that rest until then.
struct Retired {
    since: Instant,
    addresses: Vec<Ipv4Addr>,
}

/// How long a detached pod's link waits for others to be deleted with it. Most links vanish with their namespace meanwhile
/// and need no deletion at all.
const RETIREMENT: Duration = Duration::from_millis(200);

impl Chores for Plant {
    fn chore_due_in(&self) -> Option<Duration> {
        self.retired
            .as_ref()
            .map(|retired| RETIREMENT.saturating_sub(retired.since.elapsed()))
    }

    fn run_chore(&mut self) {
        let Some(mut retired) = self.retired.take() else { return };
        match self.socket.send_one(link::delete_retired()) {
            Err(error) if !is_absent(&error) => {
                tracing::warn!(%error, "cannot delete the links of detached pods; trying again");
                retired.since = now();
                self.retired = Some(retired);
            }
            _ => retired
                .addresses
                .into_iter()
                .for_each(|address| self.book.wake(address)),
        }
    }
}

impl Plant {
    /// Makes or repairs the bridge, the kernel's settings and the address book, and removes links of unknown pods.
    pub(crate) fn open(config: NodeNetworkConfig, gateway: Ipv4Addr) -> Result<Self, NetworkError> {
        let open_home = |source| NetworkError::Namespace {
            namespace: "/proc/thread-self/ns/net".into(),
            source,
        };
        let home = File::open("/proc/thread-self/ns/net").map_err(open_home)?;
        let socket = RouteSocket::open().map_err(|source| kernel("open a netlink socket", source, None))?;
        let book = AddressBook::open(config.pod_cidr, &config.state_dir.join("addresses"))?;
        let mut plant = Self {
            config,
            gateway,
            socket,
            home,
            bridge_index: 0,
            book,
            retired: None,
        };
        plant.repair()?;
        plant.remove_stray_links()?;
        Ok(plant)
    }

    /// Makes what is missing and corrects what is wrong: bridge, addresses, kernel's settings, pods' links on the bridge.
    pub(crate) fn repair(&mut self) -> Result<(), NetworkError> {
        self.set_up_bridge()?;
        self.set_kernel_settings()?;
        let known: BTreeSet<String> = self.book.iter().map(|(_, pod)| link::host_interface(pod)).collect();
        for lost in self.pod_links()? {
            if known.contains(&lost.name) && lost.controller != Some(self.bridge_index) {
                let action = format!("put {} back on the bridge", lost.name);
                self.send_all(link::adopt_port(&lost.name, self.bridge_index), &action, None)?;
            }
        }
        Ok(())
    }

    fn set_up_bridge(&mut self) -> Result<(), NetworkError> {
        let (name, mtu) = (self.config.bridge.clone(), self.config.mtu);
        let create = format!("create the bridge {name}");
        match self.socket.send_one(link::create_bridge(&name, self.gateway, mtu)) {
            Ok(()) => {}
            Err(error) if is_present(&error) => {}
            Err(source) => return Err(kernel(create, source, Some(Feature::Bridge))),
        }
        let found = self.find_link(&name)?;
        let bridge = found.ok_or_else(|| NetworkError::LinkMissing {
            name: name.clone(),
            consequence: "it was made a moment ago".into(),
        })?;
        self.bridge_index = bridge.index;
        let repair = format!(
            "set the bridge {name} up with address {}/{}",
            self.gateway,
            self.config.pod_cidr.prefix_len()
        );
        let requests = vec![
            link::repair_bridge(bridge.index, self.gateway, mtu),
            link::add_address(bridge.index, self.gateway, self.config.pod_cidr.prefix_len()),
            link::service_route(bridge.index, self.config.service_cidr, self.gateway, route::PROTOCOL),
        ];
        self.send_all(requests, &repair, Some(Feature::Bridge))
    }

    fn set_kernel_settings(&self) -> Result<(), NetworkError> {
        let bridge = format!("/proc/sys/net/ipv4/conf/{}/", self.config.bridge);
        write_setting(Path::new("/proc/sys/net/ipv4/ip_forward"), "1")?;
        // Traffic between two pods leaves by the interface on which it came. The kernel would tell the sender of a "better" way,
        // which the isolated ports do not offer, and would count that against its budget of ICMP errors for the sender. It
        // does so if either setting is on.
        write_setting(&Path::new(&bridge).join("send_redirects"), "0")?;
        write_setting(Path::new("/proc/sys/net/ipv4/conf/all/send_redirects"), "0")?;
        // Only the gateway itself may be reached through the bridge's loopback: never the node's 127.0.0.0/8.
        write_setting(&Path::new(&bridge).join("route_localnet"), "0")?;
        self.keep_netfilter_out_of_the_bridge()
    }

    /// With br_netfilter, a bridge passes frames through the IP hooks while they are still on it. A service's packet would be
    /// rewritten there and then bridged from port to port, which isolated ports refuse; ours is to be rewritten when it is
    /// routed. The setting belongs to this network namespace, and is absent where the module is not loaded. Other programs
    /// set it, too, so it is checked again with each pod.
    fn keep_netfilter_out_of_the_bridge(&self) -> Result<(), NetworkError> {
        for setting in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
            let path = Path::new("/proc/sys/net/bridge").join(setting);
            if path.exists() {
                write_setting(&path, "0")?;
            }
        }
        Ok(())
    }

    fn remove_stray_links(&mut self) -> Result<(), NetworkError> {
        let known: BTreeSet<String> = self.book.iter().map(|(_, pod)| link::host_interface(pod)).collect();
        for stray in self.pod_links()?.into_iter().filter(|link| !known.contains(&link.name)) {
            tracing::info!(
                interface = stray.name,
                "removing the link of a pod without an address record"
            );
            self.delete_link(&stray)?;
        }
        Ok(())
    }

    /// Gives the pod its link and address. A pod that has them already keeps its address; its link is made anew if it does
    /// not lead into the given namespace any more.
    pub(crate) fn attach(&mut self, pod_uid: &str, namespace: NetNamespace) -> Result<PodAddress, NetworkError> {
        let (namespace, name) = namespace.open()?;
        self.keep_netfilter_out_of_the_bridge()?;
        let known = self.book.address_of(pod_uid).is_some();
        let address = self.book.allocate(pod_uid)?;
        let link = PodLink {
            host_interface: link::host_interface(pod_uid),
            address,
            gateway: self.gateway,
            mtu: self.config.mtu,
        };
        let outcome = self.make_link(&link, &namespace, &name, known);
        if let Err(error) = outcome {
            if let Err(undo) = self.remove_link_named(&link.host_interface) {
                tracing::warn!(pod_uid, %undo, "cannot remove the link of a pod whose attachment failed");
            }
            if !known {
                self.book.release(pod_uid)?;
            }
            return Err(error);
        }
        Ok(PodAddress {
            ip: address,
            gateway: self.gateway,
            interface: POD_INTERFACE.to_owned(),
            host_interface: link.host_interface,
            mtu: link.mtu,
        })
    }

    fn make_link(&mut self, link: &PodLink, namespace: &File, name: &str, known: bool) -> Result<(), NetworkError> {
        if known && let Some(present) = self.find_link(&link.host_interface)? {
            let configured = self.visit(namespace, name, |socket| {
                let Some(inside) = find_in(socket, POD_INTERFACE)? else {
                    return Ok(false);
                };
                let addresses = socket.list(link::list_addresses())?;
                Ok(link::addresses_of(inside.index, &addresses).contains(&(link.address, 32)))
            })?;
            if configured && present.controller == Some(self.bridge_index) {
                return Ok(());
            }
            self.delete_link(&present)?;
        }
        if !known {
            // The pod may have been detached a moment ago, and its link wait for its deletion.
            self.remove_link_named(&link.host_interface)?;
        }
        let create = format!("create the veth pair {} into {name}", link.host_interface);
        let requests = link::create_pod_link(link, self.bridge_index, namespace.as_raw_fd());
        self.send_all(requests, &create, Some(Feature::Veth))?;
        let configured = self.visit(namespace, name, |socket| {
            let Some(inside) = find_in(socket, POD_INTERFACE)? else {
                return Err(io::Error::other(format!("{POD_INTERFACE} is not there")));
            };
            socket
                .send_batch(link::configure_pod(link, inside.index))?
                .into_iter()
                .collect::<io::Result<()>>()
        });
        configured.map_err(|error| match error {
            NetworkError::Netlink { source, .. } => kernel(
                format!("configure {POD_INTERFACE} with {} in {name}", link.address),
                source,
                None,
            ),
            other => other,
        })?;
        self.wait_until_frames_pass(&link.host_interface)
    }

    /// The kernel takes note of a carrier a little later than it is there, and until then the bridge drops what the pod sends:
    /// its first packet would be repeated a second later. Asking for the link makes newer kernels take note at once; older
    /// ones are asked again.
    fn wait_until_frames_pass(&mut self, host_interface: &str) -> Result<(), NetworkError> {
        const PAUSE: Duration = Duration::from_millis(1);
        const PAUSES_MAX: u32 = 2000;
        let bridge = self.config.bridge.clone();
        for name in [host_interface, &bridge] {
            let mut pauses = 0;
            while !self.find_link(name)?.is_some_and(|link| link.operational) {
                if pauses == PAUSES_MAX {
                    return Err(NetworkError::LinkMissing {
                        name: name.to_owned(),
                        consequence: "it did not come up within 2 s, so the pod has no network".to_owned(),
                    });
                }
                pauses += 1;
                std::thread::sleep(PAUSE);
            }
        }
        Ok(())
    }

    /// Takes the pod's link and address away. It is no error if it has none. The link is only marked; it goes with others a
    /// moment later, and until then the address is not given to another pod.
    pub(crate) fn detach(&mut self, pod_uid: &str) -> Result<Option<Ipv4Addr>, NetworkError> {
        let name = link::host_interface(pod_uid);
        match self.socket.send_one(link::retire_link(&name)) {
            Ok(()) => {}
            // It has vanished with its namespace: nothing to wait for.
            Err(error) if is_absent(&error) => return Ok(self.book.release(pod_uid)?),
            Err(source) => return Err(kernel(format!("retire the link {name}"), source, None)),
        }
        let released = self.book.release_later(pod_uid)?;
        let retired = self.retired.get_or_insert_with(|| Retired {
            since: now(),
            addresses: Vec::new(),
        });
        retired.addresses.extend(released);
        Ok(released)
    }

    /// All pods that have an address.
    pub(crate) fn attached(&mut self) -> Result<Vec<AttachedPod>, NetworkError> {
        let present: BTreeSet<String> = self.pod_links()?.into_iter().map(|link| link.name).collect();
        Ok(self
            .book
            .iter()
            .map(|(ip, pod)| AttachedPod {
                pod_uid: pod.to_owned(),
                ip,
                link_present: present.contains(&link::host_interface(pod)),
            })
            .collect())
    }

    /// Makes the routes to other nodes' pods as given. Those that can be set are set, even if others fail.
    pub(crate) fn set_routes(&mut self, peers: &[PeerRoute]) -> Result<(), NetworkError> {
        let listed = self
            .socket
            .list(route::list_routes())
            .map_err(|source| kernel("list the routes", source, None))?;
        let changes = route::plan(peers, &route::ours(&listed));
        let requests = changes.iter().map(|change| route::request(*change)).collect();
        let verdicts = self
            .socket
            .send_batch(requests)
            .map_err(|source| kernel("set routes", source, None))?;
        let mut failures: Vec<(Ipv4Cidr, String)> = Vec::new();
        for (change, verdict) in changes.iter().zip(verdicts) {
            match (change, verdict) {
                (_, Ok(())) => {}
                (RouteChange::Delete(_), Err(error)) if is_absent(&error) => {}
                (RouteChange::Delete(route), Err(error)) => failures.push((route.pod_cidr, error.to_string())),
                (RouteChange::Set(route), Err(error)) => {
                    let node = peers
                        .iter()
                        .find(|peer| peer.pod_cidr == route.pod_cidr)
                        .map_or("?", |peer| &peer.node);
                    failures.push((route.pod_cidr, explain_route(node, route.via, &error)));
                }
            }
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(NetworkError::Routes {
                attempted: changes.len(),
                failures,
            })
        }
    }

    /// Gives the node a service's address on its bridge, so that a program of the node (its DNS server) can listen on it.
    pub(crate) fn add_local_address(&mut self, address: Ipv4Addr) -> Result<(), NetworkError> {
        self.send_all(
            vec![link::add_address(self.bridge_index, address, 32)],
            &format!("add the address {address}"),
            None,
        )
    }

    /// Takes back what [`Plant::add_local_address`] gave.
    pub(crate) fn remove_local_address(&mut self, address: Ipv4Addr) -> Result<(), NetworkError> {
        match self
            .socket
            .send_one(link::delete_address(self.bridge_index, address, 32))
        {
            Err(error) if !is_absent(&error) => Err(kernel(format!("remove the address {address}"), error, None)),
            _ => Ok(()),
        }
    }

    /// Removes all links, addresses, routes and records.
    pub(crate) fn tear_down(&mut self) -> Result<(), NetworkError> {
        self.set_routes(&[])?;
        for link in self.pod_links()? {
            self.delete_link(&link)?;
        }
        let bridge = self.config.bridge.clone();
        self.remove_link_named(&bridge)?;
        let records = self.config.state_dir.join("addresses");
        match fs::remove_dir_all(&records) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(NetworkError::State {
                action: "remove",
                path: records,
                source,
            }),
            _ => Ok(()),
        }
    }

    /// The host ends of pods' links.
    fn pod_links(&mut self) -> Result<Vec<LinkFacts>, NetworkError> {
        let listed = self
            .socket
            .list(link::list_links())
            .map_err(|source| kernel("list the links", source, None))?;
        Ok(listed
            .iter()
            .filter_map(link::link_facts)
            .filter(|link| link::is_host_interface(&link.name))
            .collect())
    }

    fn find_link(&mut self, name: &str) -> Result<Option<LinkFacts>, NetworkError> {
        find_in(&mut self.socket, name).map_err(|source| kernel(format!("find the link {name}"), source, None))
    }

    fn remove_link_named(&mut self, name: &str) -> Result<(), NetworkError> {
        match self.find_link(name)? {
            Some(found) => self.delete_link(&found),
            None => Ok(()),
        }
    }

    fn delete_link(&mut self, found: &LinkFacts) -> Result<(), NetworkError> {
        match self.socket.send_one(link::delete_link(found.index)) {
            // A link vanishes with its pod's namespace, perhaps just now.
            Err(error) if !is_absent(&error) => Err(kernel(format!("delete the link {}", found.name), error, None)),
            _ => Ok(()),
        }
    }

    fn send_all(
        &mut self,
        requests: Vec<crate::netlink::Request>,
        action: &str,
        needs: Option<Feature>,
    ) -> Result<(), NetworkError> {
        let verdicts = self
            .socket
            .send_batch(requests)
            .map_err(|source| kernel(action, source, None))?;
        verdicts
            .into_iter()
            .collect::<io::Result<()>>()
            .map_err(|source| kernel(action, source, needs))
    }

    /// Runs `work` with a socket of the given namespace. A socket belongs for ever to the namespace in which it was opened,
    /// so this thread enters it for the opening only.
    fn visit<R>(
        &mut self,
        namespace: &File,
        name: &str,
        work: impl FnOnce(&mut RouteSocket) -> io::Result<R>,
    ) -> Result<R, NetworkError> {
        let failed = |source: io::Error| NetworkError::Namespace {
            namespace: name.to_owned(),
            source,
        };
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
        let opened = RouteSocket::open();
        // Staying in a pod's namespace would make every later request of this thread change the wrong one: this thread must
        // end rather than go on. The worker then reports itself gone.
        assert!(
            setns(&self.home, CloneFlags::CLONE_NEWNET).is_ok(),
            "cannot return to the node's network namespace"
        );
        let mut socket = opened.map_err(failed)?;
        work(&mut socket).map_err(|source| kernel(format!("work in {name}"), source, None))
    }
}

/// The MTU of the interface that has an address of the node: what [`NodeNetworkConfig::mtu`] should be where the network
/// between the nodes is reached through it. Looks in the calling thread's network namespace, and takes well under a
/// millisecond.
pub fn interface_mtu(address: Ipv4Addr) -> Result<u32, NetworkError> {
    let failed = |source| kernel(format!("find the interface with the address {address}"), source, None);
    let mut socket = RouteSocket::open().map_err(failed)?;
    let addresses = socket.list(link::list_addresses()).map_err(failed)?;
    let index = link::owner_of(address, &addresses).ok_or_else(|| NetworkError::Configuration {
        field: "node address",
        value: address.to_string(),
        rule: "it must be on an interface of this node (`ip address` lists them)",
    })?;
    let links = socket.list(link::list_links()).map_err(failed)?;
    let found = links
        .iter()
        .filter_map(link::link_facts)
        .find(|link| link.index == index);
    found.map(|link| link.mtu).ok_or_else(|| NetworkError::LinkMissing {
        name: index.to_string(),
        consequence: format!("it had the address {address} a moment ago"),
    })
}

fn find_in(socket: &mut RouteSocket, name: &str) -> io::Result<Option<LinkFacts>> {
    Ok(socket.find(link::find_link(name))?.as_ref().and_then(link::link_facts))
}

fn kernel(action: impl Into<String>, source: io::Error, needs: Option<Feature>) -> NetworkError {
    NetworkError::from_kernel(action.into(), source, needs)
}

fn explain_route(node: &str, via: Ipv4Addr, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(nix::libc::ENETUNREACH | nix::libc::EHOSTUNREACH | nix::libc::EINVAL) => format!(
            "node {node} at {via} is on no network of this node ({error}); give both nodes addresses on one network"
        ),
        _ => format!("node {node} at {via}: {error}"),
    }
}

fn write_setting(path: &Path, value: &'static str) -> Result<(), NetworkError> {
    // Writing only a difference lets a node start where /proc/sys is read-only but already right.
    if fs::read_to_string(path).is_ok_and(|present| present.trim() == value) {
        return Ok(());
    }
    fs::write(path, value).map_err(|source| NetworkError::Sysctl {
        path: path.to_owned(),
        value,
        source,
    })
}
