//! The DNS server over real sockets: loopback for the protocol, network namespaces for how pods reach it.
//!
//! The namespace test needs root.

#![allow(clippy::disallowed_methods, reason = "waiting with a bound needs the clock")]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use network::{
    DnsChange, DnsConfig, DnsEndpoint, DnsPort, DnsServer, DnsService, NetNamespace, NodeNetworkConfig, PodNetwork,
    Protocol, Upstreams,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

const PATIENCE: Duration = Duration::from_secs(5);

fn web() -> DnsChange {
    DnsChange::SetService(DnsService {
        namespace: "default".into(),
        name: "web".into(),
        cluster_ips: vec!["10.96.0.5".parse().unwrap()],
        ports: vec![DnsPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
        }],
        ..DnsService::default()
    })
}

fn headless(endpoints: u8) -> DnsChange {
    let endpoint = |number: u8| DnsEndpoint {
        ip: IpAddr::from([10, 244, 1, number]),
        hostname: Some(format!("db-{number}")),
        ports: vec![DnsPort {
            name: "sql".into(),
            protocol: Protocol::Tcp,
            port: 5432,
        }],
    };
    DnsChange::SetService(DnsService {
        namespace: "default".into(),
        name: "db".into(),
        endpoints: (1..=endpoints).map(endpoint).collect(),
        ..DnsService::default()
    })
}

async fn server(upstreams: Upstreams) -> DnsServer {
    let config = DnsConfig {
        cluster_domain: "cluster.local".into(),
        cluster_ranges: vec!["10.96.0.0/16".parse().unwrap()],
        upstreams,
    };
    let server = DnsServer::start(&["127.0.0.1:0".parse().unwrap()], config)
        .await
        .unwrap();
    server.update([web(), headless(3)]);
    server
}

fn question(name: &str, kind: RecordType) -> Message {
    static IDS: AtomicU32 = AtomicU32::new(1);
    // The ids of one test run stay far below 65536.
    let mut message = Message::new(
        IDS.fetch_add(1, Ordering::Relaxed) as u16,
        MessageType::Query,
        OpCode::Query,
    );
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn by_udp(server: SocketAddr, question: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(&question.to_vec().unwrap()).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let length = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer))
        .await
        .expect("an answer")
        .unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(answer.metadata.id, question.metadata.id);
    answer
}

async fn by_tcp(server: SocketAddr, question: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let bytes = question.to_vec().unwrap();
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let length = tokio::time::timeout(PATIENCE, stream.read_u16())
        .await
        .expect("an answer")
        .unwrap();
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await.unwrap();
    Message::from_vec(&buffer).unwrap()
}

fn addresses(answer: &Message) -> Vec<Ipv4Addr> {
    let mut found: Vec<Ipv4Addr> = answer
        .answers
        .iter()
        .filter_map(|record| match record.data {
            RData::A(A(address)) => Some(address),
            _ => None,
        })
        .collect();
    found.sort_unstable();
    found
}

#[tokio::test]
async fn names_of_the_cluster_are_answered_by_udp_and_tcp() {
    let server = server(Upstreams::default()).await;
    let at = server.addresses()[0];
    let asked = question("web.default.svc.cluster.local.", RecordType::A);
    for answer in [by_udp(at, &asked).await, by_tcp(at, &asked).await] {
        assert_eq!(addresses(&answer), [Ipv4Addr::new(10, 96, 0, 5)]);
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
        assert_eq!(answer.answers[0].ttl, 5);
    }
    let services = by_udp(
        at,
        &question("_sql._tcp.db.default.svc.cluster.local.", RecordType::SRV),
    )
    .await;
    assert_eq!(services.answers.len(), 3);
    assert_eq!(services.additionals.len(), 3, "targets come with their addresses");
    let pointer = by_udp(at, &question("5.0.96.10.in-addr.arpa.", RecordType::PTR)).await;
    assert!(
        matches!(&pointer.answers[0].data, RData::PTR(name) if name.0.to_ascii() == "web.default.svc.cluster.local.")
    );
}

#[tokio::test]
async fn what_is_absent_and_what_has_no_such_record_are_told_apart() {
    let server = server(Upstreams::default()).await;
    let at = server.addresses()[0];
    let absent = by_udp(at, &question("absent.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(absent.metadata.response_code, ResponseCode::NXDomain);
    let empty = by_udp(at, &question("web.default.svc.cluster.local.", RecordType::AAAA)).await;
    assert_eq!(
        (empty.metadata.response_code, empty.answers.len()),
        (ResponseCode::NoError, 0)
    );
    for answer in [absent, empty] {
        assert!(matches!(answer.authorities[0].data, RData::SOA(ref soa) if soa.minimum == 5));
    }
}

#[tokio::test]
async fn updates_are_seen_by_the_next_question() {
    let server = server(Upstreams::default()).await;
    let at = server.addresses()[0];
    for endpoints in [1, 5, 0] {
        server.update([headless(endpoints)]);
        let answer = by_udp(at, &question("db.default.svc.cluster.local.", RecordType::A)).await;
        assert_eq!(addresses(&answer).len(), usize::from(endpoints));
    }
    server.update([DnsChange::RemoveService {
        namespace: "default".into(),
        name: "db".into(),
    }]);
    let answer = by_udp(at, &question("db.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn what_does_not_fit_is_marked_and_complete_by_tcp() {
    let server = server(Upstreams::default()).await;
    let at = server.addresses()[0];
    server.update([headless(200)]);
    let mut asked = question("db.default.svc.cluster.local.", RecordType::A);
    let cut = by_udp(at, &asked).await;
    assert!(cut.metadata.truncation && cut.to_vec().unwrap().len() <= 512);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    asked.set_edns(edns);
    let more = by_udp(at, &asked).await;
    assert!(more.metadata.truncation && addresses(&more).len() > addresses(&cut).len() && more.edns.is_some());
    assert_eq!(addresses(&by_tcp(at, &asked).await).len(), 200);
}

#[tokio::test]
async fn foreign_names_fail_at_once_without_an_upstream() {
    // A port on which nobody listens: the first of two upstreams refuses.
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for upstreams in [Upstreams::default(), Upstreams::new([closed])] {
        let server = server(upstreams).await;
        let started = Instant::now();
        let answer = by_udp(server.addresses()[0], &question("example.com.", RecordType::A)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        assert!(started.elapsed() < Duration::from_secs(1));
    }
}

#[tokio::test]
async fn foreign_names_are_asked_upstream_past_dead_servers_and_forgeries() {
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = upstream.local_addr().unwrap();
    let answering = tokio::spawn(async move {
        let mut buffer = vec![0; 1500];
        loop {
            let (length, from) = upstream.recv_from(&mut buffer).await.unwrap();
            let mut answer = Message::from_vec(&buffer[..length]).unwrap();
            let name = answer.queries[0].name().clone();
            answer.metadata.message_type = MessageType::Response;
            answer.add_answer(Record::from_rdata(
                name.clone(),
                60,
                RData::A(A(Ipv4Addr::new(192, 0, 2, 66))),
            ));
            let mut forged = answer.clone();
            forged.metadata.id = forged.metadata.id.wrapping_add(1);
            upstream.send_to(&forged.to_vec().unwrap(), from).await.unwrap();
            answer.answers = vec![Record::from_rdata(name, 60, RData::A(A(Ipv4Addr::new(192, 0, 2, 1))))];
            upstream.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    let server = server(Upstreams::new([closed, at])).await;
    let answer = by_udp(server.addresses()[0], &question("example.com.", RecordType::A)).await;
    assert_eq!(addresses(&answer), [Ipv4Addr::new(192, 0, 2, 1)]);
    assert!(!answer.metadata.authoritative);
    // An ExternalName is answered with its target's addresses.
    server.update([DnsChange::SetService(DnsService {
        namespace: "default".into(),
        name: "outside".into(),
        external_name: Some("example.com".into()),
        ..DnsService::default()
    })]);
    let answer = by_udp(
        server.addresses()[0],
        &question("outside.default.svc.cluster.local.", RecordType::A),
    )
    .await;
    assert_eq!(answer.answers.len(), 2);
    assert_eq!(addresses(&answer), [Ipv4Addr::new(192, 0, 2, 1)]);
    answering.abort();
}

#[tokio::test]
async fn garbage_does_not_stop_the_server() {
    let server = server(Upstreams::default()).await;
    let at = server.addresses()[0];
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for length in [0, 1, 11, 12, 13, 300] {
        for fill in [0x00, 0xff, 0xc0] {
            socket.send_to(&vec![fill; length], at).await.unwrap();
        }
    }
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(&[0xff; 400]).await.unwrap();
    let answer = by_udp(at, &question("web.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(addresses(&answer).len(), 1);
}

#[tokio::test]
async fn a_taken_port_is_reported_with_its_address() {
    let taken = server(Upstreams::default()).await;
    let at = taken.addresses()[0];
    let config = DnsConfig {
        cluster_domain: "cluster.local".into(),
        cluster_ranges: vec![],
        upstreams: Upstreams::default(),
    };
    let error = DnsServer::start(&[at], config).await.unwrap_err().to_string();
    assert!(
        error.contains(&at.to_string()) && error.contains("Another DNS server"),
        "{error}"
    );
    // The port is free again once the server has stopped.
    taken.stop().await;
    let config = DnsConfig {
        cluster_domain: "cluster.local".into(),
        cluster_ranges: vec![],
        upstreams: Upstreams::default(),
    };
    DnsServer::start(&[at], config).await.unwrap();
}

/// A network namespace, removed when dropped.
struct Namespace(String);

impl Namespace {
    fn new(role: &str) -> Self {
        let name = format!("actdns-{}-{role}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).output().unwrap();
        assert!(
            made.status.success(),
            "{} (this test needs root)",
            String::from_utf8_lossy(&made.stderr)
        );
        Self(name)
    }

    /// Runs async work on a thread of its own in this namespace.
    fn run<R: Send + 'static, F: Future<Output = R>>(
        &self,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> std::thread::JoinHandle<R> {
        let file = std::fs::File::open(format!("/run/netns/{}", self.0)).unwrap();
        std::thread::spawn(move || {
            nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET).expect("entering a namespace needs root");
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(work())
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).output();
    }
}

#[test]
fn pods_reach_the_dns_server_on_the_gateway_and_on_the_well_known_address() {
    let (node, pod) = (Namespace::new("node"), Namespace::new("pod"));
    let state = tempfile::tempdir().unwrap();
    let config = NodeNetworkConfig {
        node_name: "n1".into(),
        pod_cidr: "10.244.1.0/24".parse().unwrap(),
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        bridge: "act0".into(),
        mtu: 1500,
        state_dir: state.path().to_owned(),
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (ready, serving) = std::sync::mpsc::channel();
    let pod_path = format!("/run/netns/{}", pod.0);
    let serving_node = node.run(move || async move {
        let network = PodNetwork::open(config).await.unwrap();
        network
            .attach_pod("pod", NetNamespace::Path(pod_path.into()))
            .await
            .unwrap();
        let well_known = Ipv4Addr::new(10, 96, 0, 10);
        network.add_local_address(well_known).await.unwrap();
        let config = DnsConfig {
            cluster_domain: "cluster.local".into(),
            cluster_ranges: vec![],
            upstreams: Upstreams::default(),
        };
        let addresses = [
            SocketAddr::from((network.gateway(), 53)),
            SocketAddr::from((well_known, 53)),
        ];
        let server = DnsServer::start(&addresses, config).await.unwrap();
        server.update([web()]);
        ready.send(addresses).unwrap();
        let _ = stopped.await;
        server.stop().await;
    });
    let addresses = serving.recv_timeout(PATIENCE).expect("the node serves");
    let answers = pod.run(move || async move {
        let mut answers = Vec::new();
        for address in addresses {
            let asked = question("web.default.svc.cluster.local.", RecordType::A);
            let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
            socket.connect(address).await.unwrap();
            socket.send(&asked.to_vec().unwrap()).await.unwrap();
            let mut buffer = [0; 512];
            let length = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer))
                .await
                .expect("an answer")
                .unwrap();
            answers.push(Message::from_vec(&buffer[..length]).unwrap());
            answers.push(by_tcp(address, &asked).await);
        }
        answers
    });
    let answers = answers.join().unwrap();
    stop.send(()).unwrap();
    serving_node.join().unwrap();
    assert_eq!(answers.len(), 4);
    for answer in answers {
        assert_eq!(crate::addresses(&answer), [Ipv4Addr::new(10, 96, 0, 5)]);
    }
}
