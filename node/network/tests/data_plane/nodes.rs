//! Nodes, pods and servers for the tests: network namespaces and threads that live in them.

use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use network::{
    NetNamespace, NetworkError, NodeNetworkConfig, PeerRoute, PodAddress, PodNetwork, Protocol, ServiceRule,
};
use nix::sched::{CloneFlags, setns};

/// Upper bound for anything on the local machine.
pub const PATIENCE: Duration = Duration::from_secs(5);

static NAMESPACES: AtomicU32 = AtomicU32::new(0);

pub fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("the program ip is needed");
    assert!(
        output.status.success(),
        "ip {arguments}: {} (these tests need root)",
        String::from_utf8_lossy(&output.stderr).trim()
    );
}

/// A network namespace, removed when dropped.
pub struct Namespace {
    pub name: String,
}

impl Namespace {
    pub fn new(role: &str) -> Self {
        let number = NAMESPACES.fetch_add(1, Ordering::Relaxed);
        let name = format!("acttest-{}-{number}-{role}", std::process::id());
        ip(&format!("netns add {name}"));
        Self { name }
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `work` on a thread that lives in this namespace.
    pub fn enter<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> JoinHandle<R> {
        let file = File::open(self.path()).unwrap();
        std::thread::spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET).expect("entering a namespace needs root");
            drop(file);
            work()
        })
    }

    pub fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        self.enter(work)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    pub fn sh(&self, program: &str, arguments: &str) -> (bool, String) {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.name, program])
            .args(arguments.split_whitespace())
            .output()
            .unwrap();
        // Warnings on stderr come and go with the namespaces of tests that run beside this one.
        let text = if output.status.success() {
            output.stdout
        } else {
            output.stderr
        };
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    pub fn pings(&self, target: Ipv4Addr) -> bool {
        self.sh("ping", &format!("-c 1 -W 2 {target}")).0
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}

/// A node: a namespace, its address on the nodes' network, its state on disk.
pub struct Node {
    pub namespace: Namespace,
    pub number: u8,
    pub state: tempfile::TempDir,
}

impl Node {
    pub fn new(number: u8) -> Self {
        let namespace = Namespace::new(&format!("node{number}"));
        ip(&format!("-n {} link set lo up", namespace.name));
        Self {
            namespace,
            number,
            state: tempfile::tempdir().unwrap(),
        }
    }

    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 77, self.number)
    }

    pub fn config(&self) -> NodeNetworkConfig {
        NodeNetworkConfig {
            node_name: format!("n{}", self.number),
            pod_cidr: format!("10.244.{}.0/24", self.number).parse().unwrap(),
            cluster_cidr: "10.244.0.0/16".parse().unwrap(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            bridge: "act0".into(),
            mtu: 1500,
            state_dir: self.state.path().to_owned(),
        }
    }

    pub fn try_open(&self) -> Result<PodNetwork, NetworkError> {
        let config = self.config();
        self.namespace.run(move || runtime().block_on(PodNetwork::open(config)))
    }

    pub fn open(&self) -> PodNetwork {
        self.try_open().expect("opening the pod network")
    }

    /// Names and MAC addresses of the node's links: what stays the same while carriers come up.
    pub fn links(&self) -> Vec<String> {
        let listed = self.namespace.sh("ip", "-br link").1;
        let name_and_mac = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            format!("{} {}", words[0], words[2])
        };
        listed.lines().map(name_and_mac).collect()
    }

    pub fn peer(&self) -> PeerRoute {
        PeerRoute {
            node: format!("n{}", self.number),
            node_ip: self.address(),
            pod_cidr: self.config().pod_cidr,
        }
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Joins two nodes by a cable.
pub fn join(a: &Node, b: &Node) {
    ip(&format!(
        "-n {} link add cable type veth peer name cable netns {}",
        a.namespace.name, b.namespace.name
    ));
    for node in [a, b] {
        let name = &node.namespace.name;
        ip(&format!("-n {name} addr add {}/24 dev cable", node.address()));
        ip(&format!("-n {name} link set cable up"));
    }
}

/// A pod: a namespace and its place in the network.
pub struct Pod {
    pub namespace: Namespace,
    pub uid: String,
    pub address: PodAddress,
}

impl Pod {
    pub async fn on(network: &PodNetwork, uid: &str) -> Self {
        let namespace = Namespace::new("pod");
        let address = network
            .attach_pod(uid, NetNamespace::Path(namespace.path()))
            .await
            .expect("attaching a pod");
        Self {
            namespace,
            uid: uid.to_owned(),
            address,
        }
    }

    /// Serves TCP in the pod: each connection is told the server's name and the client's address.
    pub fn serve(&self, port: u16) -> Server {
        Server::start(&self.namespace, self.uid.clone(), port)
    }

    pub fn endpoint(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.address.ip, port)
    }
}

pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(namespace: &Namespace, name: String, port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (ready, listening) = std::sync::mpsc::channel();
        let thread = namespace.enter(move || {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
            listener.set_nonblocking(true).unwrap();
            ready.send(()).unwrap();
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut stream, from)) => {
                        let _ = stream.write_all(format!("{name} {}", from.ip()).as_bytes());
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        listening.recv_timeout(PATIENCE).expect("the server listens");
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a server says to a client in the namespace: (server's name, client's address as the server saw it).
pub fn ask(client: &Namespace, address: Ipv4Addr, port: u16) -> std::io::Result<(String, String)> {
    client.run(move || {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((address, port)), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (server, seen) = answer.split_once(' ').ok_or(std::io::ErrorKind::UnexpectedEof)?;
        Ok((server.to_owned(), seen.to_owned()))
    })
}

pub fn service(number: u8, port: u16, endpoints: Vec<SocketAddrV4>) -> ServiceRule {
    ServiceRule {
        name: format!("default/s{number}:http"),
        cluster_ip: Ipv4Addr::new(10, 96, 0, number),
        protocol: Protocol::Tcp,
        port,
        node_port: None,
        endpoints,
        session_affinity_s: None,
    }
}

pub async fn two_nodes() -> (Node, PodNetwork, Node, PodNetwork) {
    let (a, b) = (Node::new(1), Node::new(2));
    join(&a, &b);
    let (on_a, on_b) = (a.open(), b.open());
    on_a.set_routes(&[b.peer()]).await.unwrap();
    on_b.set_routes(&[a.peer()]).await.unwrap();
    (a, on_a, b, on_b)
}
