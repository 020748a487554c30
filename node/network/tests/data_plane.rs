//! The data plane on the real kernel: nodes and pods are network namespaces that each test makes and removes.
//!
//! Needs root. Two "nodes" are joined by a veth pair, as two machines by a cable; every pod is a namespace of its own.

#![allow(clippy::disallowed_methods, reason = "waiting with a bound needs the clock")]

use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use network::{
    NetNamespace, NetworkError, NodeNetworkConfig, PeerRoute, PodAddress, PodNetwork, Protocol, ServiceChange,
    ServiceRule,
};
use nix::sched::{CloneFlags, setns};

/// Upper bound for anything on the local machine.
const PATIENCE: Duration = Duration::from_secs(5);

static NAMESPACES: AtomicU32 = AtomicU32::new(0);

fn ip(arguments: &str) {
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
struct Namespace {
    name: String,
}

impl Namespace {
    fn new(role: &str) -> Self {
        let number = NAMESPACES.fetch_add(1, Ordering::Relaxed);
        let name = format!("acttest-{}-{number}-{role}", std::process::id());
        ip(&format!("netns add {name}"));
        Self { name }
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `work` on a thread that lives in this namespace.
    fn enter<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> JoinHandle<R> {
        let file = File::open(self.path()).unwrap();
        std::thread::spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET).expect("entering a namespace needs root");
            drop(file);
            work()
        })
    }

    fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        self.enter(work)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn sh(&self, program: &str, arguments: &str) -> (bool, String) {
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

    fn pings(&self, target: Ipv4Addr) -> bool {
        self.sh("ping", &format!("-c 1 -W 2 {target}")).0
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}

/// A node: a namespace, its address on the nodes' network, its state on disk.
struct Node {
    namespace: Namespace,
    number: u8,
    state: tempfile::TempDir,
}

impl Node {
    fn new(number: u8) -> Self {
        let namespace = Namespace::new(&format!("node{number}"));
        ip(&format!("-n {} link set lo up", namespace.name));
        Self {
            namespace,
            number,
            state: tempfile::tempdir().unwrap(),
        }
    }

    fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 77, self.number)
    }

    fn config(&self) -> NodeNetworkConfig {
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

    fn try_open(&self) -> Result<PodNetwork, NetworkError> {
        let config = self.config();
        self.namespace.run(move || runtime().block_on(PodNetwork::open(config)))
    }

    fn open(&self) -> PodNetwork {
        self.try_open().expect("opening the pod network")
    }

    fn peer(&self) -> PeerRoute {
        PeerRoute {
            node: format!("n{}", self.number),
            node_ip: self.address(),
            pod_cidr: self.config().pod_cidr,
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Joins two nodes by a cable.
fn join(a: &Node, b: &Node) {
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
struct Pod {
    namespace: Namespace,
    uid: String,
    address: PodAddress,
}

impl Pod {
    async fn on(network: &PodNetwork, uid: &str) -> Self {
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
    fn serve(&self, port: u16) -> Server {
        Server::start(&self.namespace, self.uid.clone(), port)
    }

    fn endpoint(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.address.ip, port)
    }
}

struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(namespace: &Namespace, name: String, port: u16) -> Self {
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
fn ask(client: &Namespace, address: Ipv4Addr, port: u16) -> std::io::Result<(String, String)> {
    client.run(move || {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((address, port)), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (server, seen) = answer.split_once(' ').ok_or(std::io::ErrorKind::UnexpectedEof)?;
        Ok((server.to_owned(), seen.to_owned()))
    })
}

fn service(number: u8, port: u16, endpoints: Vec<SocketAddrV4>) -> ServiceRule {
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

async fn two_nodes() -> (Node, PodNetwork, Node, PodNetwork) {
    let (a, b) = (Node::new(1), Node::new(2));
    join(&a, &b);
    let (on_a, on_b) = (a.open(), b.open());
    on_a.set_routes(&[b.peer()]).await.unwrap();
    on_b.set_routes(&[a.peer()]).await.unwrap();
    (a, on_a, b, on_b)
}

#[tokio::test]
async fn pods_reach_each_other_on_one_node_and_across_nodes_with_their_own_addresses() {
    let (a, on_a, b, on_b) = two_nodes().await;
    let first = Pod::on(&on_a, "first").await;
    let second = Pod::on(&on_a, "second").await;
    let remote = Pod::on(&on_b, "remote").await;
    assert_ne!(first.address.ip, second.address.ip);
    for (from, to) in [
        (&first, &second),
        (&second, &first),
        (&first, &remote),
        (&remote, &second),
    ] {
        assert!(
            from.namespace.pings(to.address.ip),
            "{} cannot ping {}",
            from.uid,
            to.uid
        );
    }
    assert!(
        first.namespace.pings(on_a.gateway())
            && a.namespace.pings(remote.address.ip)
            && b.namespace.pings(remote.address.ip)
    );
    let _server = remote.serve(8080);
    let (server, seen) = ask(&first.namespace, remote.address.ip, 8080).unwrap();
    assert_eq!(
        (server.as_str(), seen),
        ("remote", first.address.ip.to_string()),
        "no address is rewritten between pods"
    );
    // Outside the cluster's range, a pod appears as its node.
    let _server = Server::start(&b.namespace, "node".into(), 9090);
    let (_, seen) = ask(&first.namespace, b.address(), 9090).unwrap();
    assert_eq!(seen, a.address().to_string());
}

#[tokio::test]
async fn a_service_is_balanced_over_its_endpoints_and_reached_from_pods_and_nodes() {
    let (a, on_a, _b, on_b) = two_nodes().await;
    let near = Pod::on(&on_a, "near").await;
    let far = Pod::on(&on_b, "far").await;
    let client = Pod::on(&on_a, "client").await;
    let _servers = (near.serve(8080), far.serve(8080));
    let rule = service(7, 80, vec![near.endpoint(8080), far.endpoint(8080)]);
    for network in [&on_a, &on_b] {
        network.set_service(rule.clone()).await.unwrap();
    }
    for (from, who) in [
        (&client.namespace, "a pod"),
        (&far.namespace, "a pod of the other node"),
        (&a.namespace, "the node"),
    ] {
        let mut served = std::collections::BTreeSet::new();
        // Forty draws miss one of two endpoints with a probability of 2^-39.
        for _ in 0..40 {
            served.insert(
                ask(from, rule.cluster_ip, 80)
                    .unwrap_or_else(|error| panic!("{who} cannot reach the service: {error}"))
                    .0,
            );
        }
        assert_eq!(
            served.into_iter().collect::<Vec<_>>(),
            ["far", "near"],
            "as seen from {who}"
        );
    }
    // A client keeps its address also towards an endpoint on its own node.
    on_a.set_service(service(7, 80, vec![near.endpoint(8080)]))
        .await
        .unwrap();
    assert_eq!(
        ask(&client.namespace, rule.cluster_ip, 80).unwrap(),
        ("near".into(), client.address.ip.to_string())
    );
}

#[tokio::test]
async fn a_pod_reaches_itself_through_its_service() {
    let node = Node::new(1);
    let network = node.open();
    let pod = Pod::on(&network, "alone").await;
    let _server = pod.serve(8080);
    network
        .set_service(service(7, 80, vec![pod.endpoint(8080)]))
        .await
        .unwrap();
    assert_eq!(ask(&pod.namespace, Ipv4Addr::new(10, 96, 0, 7), 80).unwrap().0, "alone");
}

#[tokio::test]
async fn endpoints_with_different_ports_are_all_used() {
    let node = Node::new(1);
    let network = node.open();
    let (one, two, client) = (
        Pod::on(&network, "one").await,
        Pod::on(&network, "two").await,
        Pod::on(&network, "client").await,
    );
    let _servers = (one.serve(8081), two.serve(8082));
    network
        .set_service(service(7, 80, vec![one.endpoint(8081), two.endpoint(8082)]))
        .await
        .unwrap();
    let served: std::collections::BTreeSet<String> = (0..40)
        .map(|_| ask(&client.namespace, Ipv4Addr::new(10, 96, 0, 7), 80).unwrap().0)
        .collect();
    assert_eq!(served.into_iter().collect::<Vec<_>>(), ["one", "two"]);
}

#[tokio::test]
async fn services_without_endpoints_and_unknown_ones_are_refused_at_once() {
    let node = Node::new(1);
    let network = node.open();
    let client = Pod::on(&network, "client").await;
    let _server = client.serve(8080);
    network
        .set_service(service(7, 80, vec![client.endpoint(8080)]))
        .await
        .unwrap();
    network.set_service(service(8, 80, vec![])).await.unwrap();
    for from in [&client.namespace, &node.namespace] {
        for (number, port) in [(8, 80), (7, 81), (99, 80)] {
            let started = Instant::now();
            let error = ask(from, Ipv4Addr::new(10, 96, 0, number), port).unwrap_err();
            assert_eq!(
                error.kind(),
                std::io::ErrorKind::ConnectionRefused,
                "10.96.0.{number}:{port} gave {error}"
            );
            assert!(started.elapsed() < Duration::from_secs(1));
        }
    }
    network.set_service(service(7, 80, vec![])).await.unwrap();
    assert_eq!(
        ask(&client.namespace, Ipv4Addr::new(10, 96, 0, 7), 80)
            .unwrap_err()
            .kind(),
        std::io::ErrorKind::ConnectionRefused
    );
}

#[tokio::test]
async fn a_node_port_leads_to_a_pod_on_any_node() {
    let (a, on_a, b, on_b) = two_nodes().await;
    let pod = Pod::on(&on_b, "pod").await;
    let _server = pod.serve(8080);
    let rule = ServiceRule {
        node_port: Some(30080),
        ..service(7, 80, vec![pod.endpoint(8080)])
    };
    for network in [&on_a, &on_b] {
        network.set_service(rule.clone()).await.unwrap();
    }
    // From the other node to both nodes' addresses, and from a node to its own.
    for (from, to) in [(&b, &a), (&a, &b), (&a, &a)] {
        assert_eq!(
            ask(&from.namespace, to.address(), 30080).unwrap().0,
            "pod",
            "from n{} to n{}",
            from.number,
            to.number
        );
    }
    on_a.remove_service(&rule.name).await.unwrap();
    assert_eq!(
        ask(&b.namespace, a.address(), 30080).unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
}

#[tokio::test]
async fn session_affinity_keeps_a_client_at_its_endpoint() {
    let node = Node::new(1);
    let network = node.open();
    let (one, two) = (Pod::on(&network, "one").await, Pod::on(&network, "two").await);
    let clients = [
        Pod::on(&network, "c1").await,
        Pod::on(&network, "c2").await,
        Pod::on(&network, "c3").await,
    ];
    let _servers = (one.serve(8080), two.serve(8080));
    let rule = ServiceRule {
        session_affinity_s: Some(600),
        ..service(7, 80, vec![one.endpoint(8080), two.endpoint(8080)])
    };
    network.set_service(rule.clone()).await.unwrap();
    let mut chosen = Vec::new();
    for client in &clients {
        let first = ask(&client.namespace, rule.cluster_ip, 80).unwrap().0;
        for _ in 0..15 {
            assert_eq!(ask(&client.namespace, rule.cluster_ip, 80).unwrap().0, first);
        }
        chosen.push(first);
    }
    // A third endpoint moves nobody.
    let third = Pod::on(&network, "three").await;
    let _third = third.serve(8080);
    let wider = ServiceRule {
        endpoints: vec![one.endpoint(8080), two.endpoint(8080), third.endpoint(8080)],
        ..rule.clone()
    };
    network.set_service(wider).await.unwrap();
    for (client, chosen) in clients.iter().zip(chosen) {
        assert_eq!(ask(&client.namespace, rule.cluster_ip, 80).unwrap().0, chosen);
    }
    network.remove_service(&rule.name).await.unwrap();
    let (_, table) = node.namespace.sh("nft", "list table inet actorium");
    assert!(
        !table.contains("aff-") && !table.contains("svc-") && !table.contains("ep-"),
        "{table}"
    );
}

#[tokio::test]
async fn udp_services_work() {
    let node = Node::new(1);
    let network = node.open();
    let (server, client) = (Pod::on(&network, "server").await, Pod::on(&network, "client").await);
    let echo = server.namespace.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:5353").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 64];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        socket.send_to(&buffer[..length], from).unwrap();
    });
    let rule = ServiceRule {
        protocol: Protocol::Udp,
        ..service(7, 53, vec![server.endpoint(5353)])
    };
    network.set_service(rule.clone()).await.unwrap();
    let answered = client.namespace.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        socket.connect((rule.cluster_ip, 53)).unwrap();
        let mut buffer = [0; 64];
        // The server thread may not listen at the first attempt.
        (0..20).any(|_| socket.send(b"hello").is_ok() && matches!(socket.recv(&mut buffer), Ok(5)))
    });
    assert!(answered);
    echo.join().unwrap();
}

#[tokio::test]
async fn a_udp_client_is_sent_to_another_endpoint_when_its_own_is_gone() {
    let node = Node::new(1);
    let network = node.open();
    let (old, new, client) = (
        Pod::on(&network, "old").await,
        Pod::on(&network, "new").await,
        Pod::on(&network, "client").await,
    );
    let receivers: Vec<UdpSocket> = [&old, &new]
        .map(|pod| {
            pod.namespace.run(|| {
                let socket = UdpSocket::bind("0.0.0.0:5353").unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket
            })
        })
        .into();
    let rule = |pod: &Pod| ServiceRule {
        protocol: Protocol::Udp,
        ..service(7, 53, vec![pod.endpoint(5353)])
    };
    network.set_service(rule(&old)).await.unwrap();
    // One socket, so that all packets belong to one flow.
    let sender = client.namespace.run(|| UdpSocket::bind("0.0.0.0:4000").unwrap());
    let target = SocketAddr::from((Ipv4Addr::new(10, 96, 0, 7), 53));
    let mut buffer = [0; 16];
    sender.send_to(b"first", target).unwrap();
    assert_eq!(receivers[0].recv(&mut buffer).unwrap(), 5);
    network.set_service(rule(&new)).await.unwrap();
    sender.send_to(b"second", target).unwrap();
    assert_eq!(receivers[1].recv(&mut buffer).unwrap(), 6);
}

#[tokio::test]
async fn a_service_leads_to_programs_of_the_nodes_themselves() {
    // As the service `kubernetes` does: its endpoints are the nodes' own addresses.
    let (a, on_a, b, on_b) = two_nodes().await;
    let pod = Pod::on(&on_a, "pod").await;
    let _servers = [&a, &b].map(|node| Server::start(&node.namespace, format!("api{}", node.number), 6443));
    let endpoints = [&a, &b].map(|node| SocketAddrV4::new(node.address(), 6443));
    for network in [&on_a, &on_b] {
        network.set_service(service(1, 443, endpoints.to_vec())).await.unwrap();
    }
    for from in [&pod.namespace, &a.namespace, &b.namespace] {
        let served: std::collections::BTreeSet<String> = (0..40)
            .map(|_| ask(from, Ipv4Addr::new(10, 96, 0, 1), 443).unwrap().0)
            .collect();
        assert_eq!(served.into_iter().collect::<Vec<_>>(), ["api1", "api2"]);
    }
}

#[tokio::test]
async fn a_new_process_adopts_what_the_killed_one_left() {
    let node = Node::new(1);
    let network = node.open();
    let (server, client) = (Pod::on(&network, "server").await, Pod::on(&network, "client").await);
    let _server = server.serve(8080);
    network
        .sync_services(&[
            service(7, 80, vec![server.endpoint(8080)]),
            service(8, 80, vec![server.endpoint(8080)]),
        ])
        .await
        .unwrap();
    let links_before = node.namespace.sh("ip", "-br link").1;
    // A killed process runs no clean-up; forgetting the value runs none either.
    std::mem::forget(network);

    let network = node.open();
    assert_eq!(node.namespace.sh("ip", "-br link").1, links_before);
    for number in [7, 8] {
        assert_eq!(
            ask(&client.namespace, Ipv4Addr::new(10, 96, 0, number), 80).unwrap().0,
            "server"
        );
    }
    let attached = network.attached().await.unwrap();
    assert_eq!(
        attached
            .iter()
            .map(|pod| (pod.pod_uid.as_str(), pod.link_present))
            .collect::<Vec<_>>(),
        [("server", true), ("client", true)]
    );
    let again = network
        .attach_pod("server", NetNamespace::Path(server.namespace.path()))
        .await
        .unwrap();
    assert_eq!(again, server.address);
    assert_eq!(
        node.namespace.sh("ip", "-br link").1,
        links_before,
        "attaching again changes nothing"
    );
    let other = Pod::on(&network, "other").await;
    assert!(![server.address.ip, client.address.ip].contains(&other.address.ip));

    let table = |node: &Node| node.namespace.sh("nft", "list table inet actorium").1;
    let before = table(&node);
    network
        .sync_services(&[
            service(7, 80, vec![server.endpoint(8080)]),
            service(8, 80, vec![server.endpoint(8080)]),
        ])
        .await
        .unwrap();
    assert_eq!(table(&node), before, "what is right already is not touched");
    network
        .sync_services(&[service(7, 80, vec![server.endpoint(8080)])])
        .await
        .unwrap();
    assert_eq!(
        ask(&client.namespace, Ipv4Addr::new(10, 96, 0, 7), 80).unwrap().0,
        "server"
    );
    assert!(ask(&client.namespace, Ipv4Addr::new(10, 96, 0, 8), 80).is_err());
    assert_eq!(table(&node).matches("chain svc-").count(), 1);
}

#[tokio::test]
async fn connections_survive_a_restart_and_changes_of_other_services() {
    let node = Node::new(1);
    let network = node.open();
    let (server, client) = (Pod::on(&network, "server").await, Pod::on(&network, "client").await);
    let rule = service(7, 80, vec![server.endpoint(8080)]);
    network.set_service(rule.clone()).await.unwrap();
    let echo = server.namespace.enter(|| {
        let (mut stream, _) = TcpListener::bind("0.0.0.0:8080").unwrap().accept().unwrap();
        let mut byte = [0];
        while stream.read(&mut byte).unwrap() == 1 {
            stream.write_all(&byte).unwrap();
        }
    });
    let (steps, step) = std::sync::mpsc::channel::<()>();
    let (answers, answer) = std::sync::mpsc::channel::<()>();
    let talk = client.namespace.enter(move || {
        let target = SocketAddr::from((rule.cluster_ip, 80));
        let deadline = Instant::now() + PATIENCE;
        let mut stream = loop {
            match TcpStream::connect_timeout(&target, PATIENCE) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        while step.recv().is_ok() {
            let mut byte = [0];
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut byte).unwrap();
            answers.send(()).unwrap();
        }
    });
    let echoes = || {
        steps.send(()).unwrap();
        answer.recv_timeout(PATIENCE).expect("the connection is alive");
    };
    echoes();
    network
        .apply_services(&[ServiceChange::Set(service(8, 80, vec![server.endpoint(1)]))])
        .await
        .unwrap();
    echoes();
    std::mem::forget(network);
    let network = node.open();
    echoes();
    network.sync_services(&[]).await.unwrap();
    echoes();
    drop(steps);
    talk.join().unwrap();
    echo.join().unwrap();
}

#[tokio::test]
async fn a_pod_whose_namespace_is_new_gets_a_new_link_with_its_address() {
    let node = Node::new(1);
    let network = node.open();
    let pod = Pod::on(&network, "pod").await;
    let replacement = Namespace::new("pod");
    let again = network
        .attach_pod("pod", NetNamespace::Path(replacement.path()))
        .await
        .unwrap();
    assert_eq!(again.ip, pod.address.ip);
    assert!(replacement.pings(network.gateway()));
    assert!(!pod.namespace.pings(network.gateway()), "the old namespace is cut off");
}

#[tokio::test]
async fn pods_cannot_exchange_frames_past_the_node() {
    let node = Node::new(1);
    let network = node.open();
    let (one, two) = (Pod::on(&network, "one").await, Pod::on(&network, "two").await);
    assert!(one.namespace.pings(two.address.ip));
    // With routes to each other's interface, the pods would ask for each other's MAC address on the bridge.
    for (from, to) in [(&one, &two), (&two, &one)] {
        ip(&format!(
            "-n {} route add {}/32 dev eth0",
            from.namespace.name, to.address.ip
        ));
    }
    assert!(!one.namespace.pings(two.address.ip));
}

#[tokio::test]
async fn the_mtu_of_the_nodes_network_is_found_by_the_nodes_address() {
    let (a, b) = (Node::new(1), Node::new(2));
    join(&a, &b);
    ip(&format!("-n {} link set cable mtu 1400", a.namespace.name));
    let address = a.address();
    assert_eq!(a.namespace.run(move || network::interface_mtu(address)).unwrap(), 1400);
    let foreign = b.address();
    let error = a
        .namespace
        .run(move || network::interface_mtu(foreign))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("192.168.77.2") && error.contains("ip address"),
        "{error}"
    );
    let config = NodeNetworkConfig {
        mtu: 1400,
        ..a.config()
    };
    let network = a
        .namespace
        .run(move || runtime().block_on(PodNetwork::open(config)))
        .unwrap();
    let pod = Pod::on(&network, "pod").await;
    let inside = pod.address.ip;
    assert_eq!(pod.namespace.run(move || network::interface_mtu(inside)).unwrap(), 1400);
}

#[tokio::test]
async fn a_failed_attachment_leaves_nothing_behind() {
    let node = Node::new(1);
    let network = node.open();
    let before = node.namespace.sh("ip", "-br link").1;
    let missing = network
        .attach_pod("pod", NetNamespace::Path("/run/netns/absent".into()))
        .await
        .unwrap_err()
        .to_string();
    assert!(missing.contains("/run/netns/absent"), "{missing}");
    let taken = Namespace::new("pod");
    ip(&format!("-n {} link add eth0 type bridge", taken.name));
    let refused = network
        .attach_pod("pod", NetNamespace::Path(taken.path()))
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("veth") && refused.contains("exists"), "{refused}");
    assert!(network.attached().await.unwrap().is_empty());
    assert_eq!(node.namespace.sh("ip", "-br link").1, before);
}

#[tokio::test]
async fn a_pod_that_is_detached_and_attached_at_once_is_connected() {
    let node = Node::new(1);
    let network = node.open();
    let pod = Pod::on(&network, "pod").await;
    for _ in 0..3 {
        network.detach_pod("pod").await.unwrap();
        let again = network
            .attach_pod("pod", NetNamespace::Path(pod.namespace.path()))
            .await
            .unwrap();
        assert_ne!(again.ip, pod.address.ip);
        assert!(pod.namespace.pings(network.gateway()));
        assert!(node.namespace.pings(again.ip));
    }
    // The deletion of what was retired spares the new link.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(pod.namespace.pings(network.gateway()));
}

#[tokio::test]
async fn changes_that_come_together_are_all_in_force() {
    let node = Node::new(1);
    let network = Arc::new(node.open());
    let pod = Pod::on(&network, "pod").await;
    let _server = pod.serve(8080);
    let mut calls = tokio::task::JoinSet::new();
    for number in 1..=40 {
        let network = Arc::clone(&network);
        let rule = service(number, 80, vec![pod.endpoint(8080)]);
        calls.spawn(async move { network.set_service(rule).await });
    }
    while let Some(outcome) = calls.join_next().await {
        outcome.unwrap().unwrap();
    }
    for number in [1, 20, 40] {
        assert_eq!(
            ask(&pod.namespace, Ipv4Addr::new(10, 96, 0, number), 80).unwrap().0,
            "pod"
        );
    }
    assert!(!network.repair().await.unwrap());
    // Once a call has returned, its change is in force: no packet takes the old way.
    for _ in 0..20 {
        network.set_service(service(1, 80, vec![])).await.unwrap();
        assert!(ask(&node.namespace, Ipv4Addr::new(10, 96, 0, 1), 80).is_err());
        network
            .set_service(service(1, 80, vec![pod.endpoint(8080)]))
            .await
            .unwrap();
        assert!(ask(&node.namespace, Ipv4Addr::new(10, 96, 0, 1), 80).is_ok());
    }
}

#[tokio::test]
async fn damage_by_others_is_repaired() {
    let node = Node::new(1);
    let network = node.open();
    let (server, client) = (Pod::on(&network, "server").await, Pod::on(&network, "client").await);
    let _server = server.serve(8080);
    let rule = service(7, 80, vec![server.endpoint(8080)]);
    network.set_service(rule.clone()).await.unwrap();
    assert!(!network.repair().await.unwrap(), "nothing is wrong");
    let works = || ask(&client.namespace, rule.cluster_ip, 80).is_ok();

    assert!(node.namespace.sh("nft", "flush ruleset").0);
    assert!(!works());
    assert!(network.repair().await.unwrap());
    assert!(works());

    // A change of another service finds the damage by itself, also when nft has pages to say about it.
    let many: Vec<ServiceRule> = (10..210)
        .map(|number| service(number, 80, vec![server.endpoint(8080)]))
        .collect();
    network.sync_services(&many).await.unwrap();
    assert!(node.namespace.sh("nft", "flush ruleset").0);
    network.sync_services(std::slice::from_ref(&rule)).await.unwrap();
    assert!(works());
    assert!(node.namespace.sh("nft", "flush ruleset").0);
    network
        .set_service(service(8, 80, vec![server.endpoint(8080)]))
        .await
        .unwrap();
    assert!(works());

    assert!(node.namespace.sh("ip", "link delete act0").0);
    assert!(node.namespace.sh("sysctl", "-q -w net.ipv4.ip_forward=0").0);
    assert!(!works());
    network.repair().await.unwrap();
    assert!(works());
}

#[tokio::test]
async fn detaching_frees_the_link_and_the_address() {
    let node = Node::new(1);
    let network = node.open();
    let pod = Pod::on(&network, "pod").await;
    assert_eq!(network.detach_pod("pod").await.unwrap(), Some(pod.address.ip));
    assert_eq!(network.detach_pod("pod").await.unwrap(), None);
    assert!(network.attached().await.unwrap().is_empty());
    let deadline = Instant::now() + PATIENCE;
    while node
        .namespace
        .sh("ip", "-br link")
        .1
        .contains(&pod.address.host_interface)
    {
        assert!(Instant::now() < deadline, "the link should be deleted soon");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(pod);
    // A pod whose namespace vanished first.
    let pod = Pod::on(&network, "pod").await;
    drop(pod);
    let deadline = Instant::now() + PATIENCE;
    while network.attached().await.unwrap().iter().any(|pod| pod.link_present) {
        assert!(Instant::now() < deadline, "the link should vanish with its namespace");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(network.detach_pod("pod").await.unwrap().is_some());
}

#[tokio::test]
async fn routes_are_set_by_difference_and_foreign_ones_are_spared() {
    let (a, b) = (Node::new(1), Node::new(2));
    join(&a, &b);
    let network = a.open();
    ip(&format!(
        "-n {} route add 10.250.0.0/24 via {}",
        a.namespace.name,
        b.address()
    ));
    let routes = || a.namespace.sh("ip", "route show proto 172").1;
    let unreachable = PeerRoute {
        node: "far".into(),
        node_ip: Ipv4Addr::new(203, 0, 113, 1),
        pod_cidr: "10.244.9.0/24".parse().unwrap(),
    };
    let error = network
        .set_routes(&[unreachable, b.peer()])
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("far") && error.contains("203.0.113.1") && error.contains("1 of 2"),
        "{error}"
    );
    assert!(
        routes().contains("10.244.2.0/24 via 192.168.77.2"),
        "the others are set: {}",
        routes()
    );
    let moved = PeerRoute {
        pod_cidr: "10.244.5.0/24".parse().unwrap(),
        ..b.peer()
    };
    network.set_routes(&[moved]).await.unwrap();
    assert!(
        routes().contains("10.244.5.0/24") && !routes().contains("10.244.2.0/24"),
        "{}",
        routes()
    );
    network.set_routes(&[]).await.unwrap();
    assert!(!routes().contains("via"), "{}", routes());
    assert!(a.namespace.sh("ip", "route").1.contains("10.250.0.0/24"));
}

#[tokio::test]
async fn teardown_leaves_nothing() {
    let (a, b) = (Node::new(1), Node::new(2));
    join(&a, &b);
    let facts = |node: &Node| {
        let mut all = String::new();
        for (program, arguments) in [
            ("ip", "-o link show type bridge"),
            ("ip", "-o link show type veth"),
            ("ip", "route"),
            ("ip", "-o addr"),
            ("nft", "list ruleset"),
        ] {
            all += &node.namespace.sh(program, arguments).1;
        }
        all
    };
    // The cable's own links and addresses are there before and after.
    let before = facts(&a);
    let network = a.open();
    let pod = Pod::on(&network, "pod").await;
    network.set_routes(&[b.peer()]).await.unwrap();
    network.add_local_address(Ipv4Addr::new(10, 96, 0, 10)).await.unwrap();
    network
        .set_service(ServiceRule {
            node_port: Some(30080),
            session_affinity_s: Some(60),
            ..service(7, 80, vec![pod.endpoint(80)])
        })
        .await
        .unwrap();
    assert_ne!(facts(&a), before);
    network.tear_down().await.unwrap();
    assert_eq!(facts(&a), before);
    assert_eq!(std::fs::read_dir(a.state.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_local_service_address_is_reached_from_pods_and_the_node() {
    let node = Node::new(1);
    let network = node.open();
    let pod = Pod::on(&network, "pod").await;
    let address = Ipv4Addr::new(10, 96, 0, 10);
    network.add_local_address(address).await.unwrap();
    network.add_local_address(address).await.unwrap();
    let _server = Server::start(&node.namespace, "dns".into(), 5300);
    for from in [&pod.namespace, &node.namespace] {
        assert_eq!(ask(from, address, 5300).unwrap().0, "dns");
    }
    network.remove_local_address(address).await.unwrap();
    network.remove_local_address(address).await.unwrap();
    assert!(ask(&pod.namespace, address, 5300).is_err());
}

#[tokio::test]
async fn without_root_the_error_says_what_is_needed() {
    let node = Node::new(1);
    let config = node.config();
    // In the node's own namespace, so that nothing else could be touched if the rights were not taken.
    let error = node.namespace.run(move || {
        drop_capabilities();
        runtime()
            .block_on(PodNetwork::open(config))
            .map(drop)
            .unwrap_err()
            .to_string()
    });
    assert!(error.contains("root") && error.contains("CAP_NET_ADMIN"), "{error}");
}

/// Takes all capabilities from the calling thread.
fn drop_capabilities() {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Sets {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    // The version number of the call with 64-bit sets, from linux/capability.h.
    let header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let none = [Sets {
        effective: 0,
        permitted: 0,
        inheritable: 0,
    }; 2];
    // SAFETY: the kernel only reads a header and two sets, both of the layout that capset(2) gives.
    let outcome = unsafe { nix::libc::syscall(nix::libc::SYS_capset, &raw const header, &raw const none) };
    assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
}
