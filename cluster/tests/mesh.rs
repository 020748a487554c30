//! The mesh over real sockets on loopback: who is let in, calls, streams, cancellation, dead and restarted peers.
#![allow(clippy::disallowed_methods, reason = "tests measure time")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use cluster::Mesh;
use cluster::identity::NodeIdentity;
use cluster::mesh::{MeshError, RawService, RawStream};
use futures::StreamExt;
use protocol::NodeName;
use protocol::transport::{FrameStream, Purpose, Service, Transport, TransportError};
use support::{Echo, TestAuthority, eventually, introduce, loopback, name};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SECOND: Duration = Duration::from_secs(1);

fn pair(authority: &TestAuthority) -> (Mesh, Mesh) {
    let (a, b) = (authority.mesh("a"), authority.mesh("b"));
    introduce(&a, &b);
    (a, b)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_and_streams_reach_the_service_with_the_callers_certified_name() {
    let (a, b) = pair(&TestAuthority::new());
    b.serve(Purpose::Api, Arc::new(Echo));
    let answer = a
        .call(b.name(), Purpose::Api, Bytes::from_static(b"hello"), SECOND)
        .await
        .unwrap();
    assert_eq!(&answer[..], b"a:hello");
    let frames = a
        .stream(b.name(), Purpose::Api, Bytes::from_static(b"1000"))
        .await
        .unwrap();
    let frames: Vec<_> = frames.map(Result::unwrap).collect().await;
    assert_eq!((frames.len(), &frames[999][..]), (1000, &b"999"[..]));
    // One connection carries both, in both directions.
    a.serve(Purpose::Store, Arc::new(Echo));
    let answer = b
        .call(a.name(), Purpose::Store, Bytes::from_static(b"hi"), SECOND)
        .await
        .unwrap();
    assert_eq!(&answer[..], b"b:hi");
    assert_eq!((a.counters().handshakes, b.counters().handshakes), (1, 1));
    // A node asks itself without a socket.
    let answer = b
        .call(b.name(), Purpose::Api, Bytes::from_static(b"me"), SECOND)
        .await
        .unwrap();
    assert_eq!(&answer[..], b"b:me");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_arrive_whole_and_larger_ones_are_refused() {
    let (a, b) = pair(&TestAuthority::new());
    b.serve(Purpose::Store, Arc::new(Echo));
    let large: Bytes = (0..20_000_000_u32).map(|n| n as u8).collect::<Vec<u8>>().into();
    let answer = a
        .call(b.name(), Purpose::Store, large.clone(), 20 * SECOND)
        .await
        .unwrap();
    assert!(answer[2..] == large[..]);
    let too_large = Bytes::from(vec![0; 66 << 20]);
    let error = a
        .call(b.name(), Purpose::Store, too_large, 20 * SECOND)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("longer than"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_served_and_who_is_not_known_is_said_at_once() {
    let (a, b) = pair(&TestAuthority::new());
    let call = |purpose| a.call(b.name(), purpose, Bytes::new(), SECOND);
    let not_served = TransportError::NotServed {
        node: name("b"),
        purpose: Purpose::Logs,
    };
    assert_eq!(call(Purpose::Logs).await, Err(not_served.clone()));
    b.serve(Purpose::Logs, Arc::new(Echo));
    call(Purpose::Logs).await.unwrap();
    b.stop_serving(Purpose::Logs);
    assert_eq!(call(Purpose::Logs).await, Err(not_served.clone()));
    assert_eq!(
        a.stream(b.name(), Purpose::Logs, Bytes::new()).await.err(),
        Some(not_served.clone())
    );
    assert_eq!(a.open(b.name(), Purpose::Logs, SECOND).await.err(), Some(not_served));
    let unknown = a.call(&name("z"), Purpose::Api, Bytes::new(), SECOND).await;
    assert_eq!(unknown, Err(TransportError::UnknownNode(name("z"))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_another_cluster_and_nodes_under_another_name_are_not_let_in() {
    let (ours, theirs) = (TestAuthority::new(), TestAuthority::new());
    let a = ours.mesh("a");
    a.serve(Purpose::Api, Arc::new(Echo));
    let stranger = theirs.mesh("b");
    introduce(&a, &stranger);
    for (from, to) in [(&a, &stranger), (&stranger, &a)] {
        let error = from
            .call(to.name(), Purpose::Api, Bytes::new(), 2 * SECOND)
            .await
            .unwrap_err();
        assert!(matches!(error, TransportError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("certificate"), "{error}");
    }
    // A member of ours that is not the one dialled.
    let c = ours.mesh("c");
    a.set_address(&name("d"), c.local_address());
    let error = a
        .call(&name("d"), Purpose::Api, Bytes::new(), 2 * SECOND)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("NotValidForName") || error.to_string().contains("not valid for name"),
        "{error}"
    );
    // A name that every node answers to is not a node's either.
    a.set_address(&name("localhost"), c.local_address());
    let error = a
        .call(&name("localhost"), Purpose::Api, Bytes::new(), 2 * SECOND)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("is not localhost"), "{error}");
    assert_eq!(a.counters().served, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_taken_is_named_with_the_remedy() {
    let authority = TestAuthority::new();
    let a = authority.mesh("a");
    let taken = a.local_address();
    let error = Mesh::start(&authority.identity("b"), taken).unwrap_err();
    assert!(matches!(&error, MeshError::PortInUse { address } if *address == taken));
    let text = error.to_string();
    assert!(
        text.contains(&taken.port().to_string()) && text.contains("--mesh-port"),
        "{text}"
    );
    // The port is free again when the mesh has been closed.
    a.close().await;
    drop(a);
    let limit = Instant::now() + 5 * SECOND;
    while let Err(error) = Mesh::start(&authority.identity("b"), taken) {
        assert!(Instant::now() < limit, "{error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Counts who is being answered, and never answers.
#[derive(Default)]
struct Silent {
    running: Arc<AtomicUsize>,
}

struct Running(Arc<AtomicUsize>);

impl Running {
    fn new(count: &Arc<AtomicUsize>) -> Running {
        count.fetch_add(1, Ordering::SeqCst);
        Running(count.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Service for Silent {
    async fn call(&self, _from: &NodeName, _request: Bytes) -> Bytes {
        let _running = Running::new(&self.running);
        futures::future::pending().await
    }

    async fn stream(&self, _from: &NodeName, _request: Bytes) -> FrameStream {
        let running = Running::new(&self.running);
        Box::pin(futures::stream::pending().map(move |item: Bytes| {
            let _ = &running;
            Ok(item)
        }))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_answers_a_caller_that_is_gone_is_dropped() {
    let (a, b) = pair(&TestAuthority::new());
    let running = Arc::new(AtomicUsize::new(0));
    b.serve(
        Purpose::Api,
        Arc::new(Silent {
            running: running.clone(),
        }),
    );
    let late = a
        .call(b.name(), Purpose::Api, Bytes::new(), Duration::from_millis(300))
        .await
        .unwrap_err();
    assert_eq!(
        late,
        TransportError::Deadline {
            node: name("b"),
            deadline_ms: 300
        }
    );
    let gone = || running.load(Ordering::SeqCst) == 0;
    eventually("the call's answer is dropped", SECOND, gone).await;
    let mut stream = a.stream(b.name(), Purpose::Api, Bytes::new()).await.unwrap();
    assert!(
        tokio::time::timeout(Duration::from_millis(100), stream.next())
            .await
            .is_err()
    );
    assert_eq!(running.load(Ordering::SeqCst), 1);
    drop(stream);
    eventually("the stream is dropped", SECOND, gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_peer_fails_calls_within_the_idle_timeout_and_is_reached_again_when_it_is_back() {
    let authority = TestAuthority::new();
    let a = authority.mesh("a");
    let (b, socket) = authority.lossy_mesh("b");
    introduce(&a, &b);
    b.serve(Purpose::Api, Arc::new(Echo));
    b.serve(Purpose::Logs, Arc::new(Silent::default()));
    a.call(b.name(), Purpose::Api, Bytes::new(), SECOND).await.unwrap();
    let mut stream = a.stream(b.name(), Purpose::Logs, Bytes::new()).await.unwrap();
    socket.cut_off(true);
    let began = Instant::now();
    let late = a
        .call(b.name(), Purpose::Api, Bytes::new(), Duration::from_millis(400))
        .await
        .unwrap_err();
    assert!(matches!(late, TransportError::Deadline { .. }), "{late}");
    assert!(began.elapsed() < Duration::from_millis(800));
    // The stream has no deadline: the end of the connection ends it.
    let error = tokio::time::timeout(6 * SECOND, stream.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    println!("a stream to a dead peer ended after {:?}: {error}", began.elapsed());
    assert!(began.elapsed() < Duration::from_millis(4500), "{:?}", began.elapsed());
    let error = a
        .call(b.name(), Purpose::Api, Bytes::new(), 5 * SECOND)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("did not answer"), "{error}");
    socket.cut_off(false);
    let back = Instant::now();
    while a.call(b.name(), Purpose::Api, Bytes::new(), SECOND).await.is_err() {
        assert!(back.elapsed() < 5 * SECOND);
    }
    println!("the peer was reached again after {:?}", back.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_costs_nothing_and_one_in_use_stays() {
    let (a, b) = pair(&TestAuthority::new());
    b.serve(Purpose::Api, Arc::new(Echo));
    b.serve(Purpose::Logs, Arc::new(Silent::default()));
    a.call(b.name(), Purpose::Api, Bytes::new(), SECOND).await.unwrap();
    assert_eq!(a.connected().len(), 1);
    eventually("the idle connection is closed", 6 * SECOND, || {
        a.connected().is_empty() && b.connected().is_empty()
    })
    .await;
    let mut stream = a.stream(b.name(), Purpose::Logs, Bytes::new()).await.unwrap();
    // Longer than the idle timeout; the stream's silence is what is waited for.
    assert!(
        tokio::time::timeout(5 * SECOND, stream.next()).await.is_err(),
        "the connection in use broke"
    );
    assert_eq!(a.connected().len(), 1);
    assert!(a.connected()[0].in_use);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simultaneous_dials_leave_one_connection() {
    for round in 0..5 {
        let (a, b) = pair(&TestAuthority::new());
        a.serve(Purpose::Api, Arc::new(Echo));
        b.serve(Purpose::Api, Arc::new(Echo));
        let both = futures::future::join(
            a.call(b.name(), Purpose::Api, Bytes::new(), 2 * SECOND),
            b.call(a.name(), Purpose::Api, Bytes::new(), 2 * SECOND),
        );
        let (from_a, from_b) = both.await;
        assert!(from_a.is_ok() && from_b.is_ok(), "round {round}: {from_a:?} {from_b:?}");
        // A dial that was under way may still end; then both go on with one connection, and no new one is opened.
        let go_on = async || {
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(250) {
                a.call(b.name(), Purpose::Api, Bytes::new(), SECOND).await.unwrap();
                b.call(a.name(), Purpose::Api, Bytes::new(), SECOND).await.unwrap();
            }
            (a.counters().handshakes, b.counters().handshakes)
        };
        let handshakes = go_on().await;
        assert!(
            handshakes.0 <= 2 && handshakes.0 == handshakes.1,
            "round {round}: {handshakes:?}"
        );
        assert_eq!(go_on().await, handshakes, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_on_a_restarted_peer_fail_as_soon_as_it_is_back() {
    let authority = TestAuthority::new();
    let a = authority.mesh("a");
    let identity = authority.identity("b");
    // The first life of b ends without a word: its socket is cut, and its port given to the second life.
    let first = support::LossySocket::bind();
    let b = Mesh::start_on(&identity, first.clone()).unwrap();
    let a_address = a.local_address();
    introduce(&a, &b);
    b.serve(Purpose::Logs, Arc::new(Silent::default()));
    let mut stream = a.stream(b.name(), Purpose::Logs, Bytes::new()).await.unwrap();
    first.cut_off(true);
    let second = Mesh::start(&identity, loopback()).unwrap();
    a.set_address(second.name(), second.local_address());
    second.set_address(a.name(), a_address);
    a.serve(Purpose::Api, Arc::new(Echo));
    second.serve(Purpose::Api, Arc::new(Echo));
    let began = Instant::now();
    second
        .call(a.name(), Purpose::Api, Bytes::new(), 2 * SECOND)
        .await
        .unwrap();
    let error = tokio::time::timeout(SECOND, stream.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    println!(
        "a stream to the peer's earlier life ended after {:?}: {error}",
        began.elapsed()
    );
    let answer = a
        .call(second.name(), Purpose::Api, Bytes::from_static(b"x"), SECOND)
        .await
        .unwrap();
    assert_eq!(&answer[..], b"a:x");
}

/// A process of node `b` that dies right after its handshake: it serves streams, but has not said which life it is. The
/// receiver is told when a peer has connected.
fn life_that_ends_before_its_greeting(
    identity: &NodeIdentity,
    socket: Arc<support::LossySocket>,
) -> tokio::sync::oneshot::Receiver<()> {
    let server = cluster::mesh::tls::server(identity).unwrap();
    let settings = cluster::mesh::tls::endpoint(identity);
    let runtime = Arc::new(quinn::TokioRuntime);
    let endpoint = quinn::Endpoint::new_with_abstract_socket(settings, Some(server), socket, runtime).unwrap();
    let (sender, connected) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        let _ = sender.send(());
        let mut open = Vec::new();
        while let Ok((mut send, receive)) = connection.accept_bi().await {
            // "Served", and then nothing.
            let _ = send.write_all(&[0]).await;
            open.push((send, receive));
        }
    });
    connected
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peer_was_asked_before_its_greeting_is_asked_of_its_next_life_as_soon_as_it_is_back() {
    let authority = TestAuthority::new();
    let a = authority.mesh("a");
    let identity = authority.identity("b");
    let first = support::LossySocket::bind();
    a.set_address(&name("b"), quinn::AsyncUdpSocket::local_addr(&*first).unwrap());
    let connected = life_that_ends_before_its_greeting(&identity, first.clone());
    let asking = {
        let a = a.clone();
        tokio::spawn(async move { a.stream(&name("b"), Purpose::Logs, Bytes::from_static(b"1000")).await })
    };
    tokio::time::timeout(2 * SECOND, connected).await.unwrap().unwrap();
    first.cut_off(true);
    let second = Mesh::start(&identity, loopback()).unwrap();
    introduce(&a, &second);
    a.serve(Purpose::Api, Arc::new(Echo));
    second.serve(Purpose::Logs, Arc::new(Echo));
    second
        .call(a.name(), Purpose::Api, Bytes::new(), 2 * SECOND)
        .await
        .unwrap();
    let frames = tokio::time::timeout(SECOND, async {
        let frames = asking.await.unwrap().unwrap();
        frames.map(Result::unwrap).count().await
    });
    assert_eq!(frames.await.expect("the stream leads to the peer's earlier life"), 1000);
}

struct Upper;

#[async_trait]
impl RawService for Upper {
    async fn serve(&self, from: &NodeName, mut stream: RawStream) {
        let mut text = String::new();
        stream.reader.read_to_string(&mut text).await.unwrap();
        stream
            .writer
            .write_all(format!("{from}:{}", text.to_uppercase()).as_bytes())
            .await
            .unwrap();
        stream.writer.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_streams_carry_bytes_both_ways_and_tell_their_end() {
    let (a, b) = pair(&TestAuthority::new());
    b.serve_raw(Purpose::Remoting, Arc::new(Upper));
    for (from, expected) in [(&a, "a:SHOUT"), (&b, "b:SHOUT")] {
        let mut stream = from.open(b.name(), Purpose::Remoting, SECOND).await.unwrap();
        stream.writer.write_all(b"shout").await.unwrap();
        stream.writer.shutdown().await.unwrap();
        let mut text = String::new();
        stream.reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_open_a_connection_and_arrive_with_the_senders_name() {
    let (a, b) = pair(&TestAuthority::new());
    let (sender, mut received) = tokio::sync::mpsc::channel(16);
    b.receive_datagrams(sender);
    let largest = Bytes::from(vec![7; Mesh::datagram_bytes_max()]);
    assert!(a.send_datagram(b.name(), largest.clone()));
    let datagram = tokio::time::timeout(2 * SECOND, received.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((datagram.from, datagram.bytes), (name("a"), largest));
    assert!(!a.send_datagram(b.name(), Bytes::from(vec![7; Mesh::datagram_bytes_max() + 1])));
}

/// Panics when asked to.
struct Fragile;

#[async_trait]
impl Service for Fragile {
    async fn call(&self, _from: &NodeName, request: Bytes) -> Bytes {
        if &request[..] == b"panic" {
            // Without the hook of `panic!`: reading the symbols of its backtrace takes a busy machine a second.
            std::panic::resume_unwind(Box::new("a service that panics, as this test wants it"));
        }
        request
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_panics_fails_its_own_request_alone() {
    let (a, b) = pair(&TestAuthority::new());
    b.serve(Purpose::Api, Arc::new(Fragile));
    let began = Instant::now();
    let error = a
        .call(b.name(), Purpose::Api, Bytes::from_static(b"panic"), 5 * SECOND)
        .await
        .unwrap_err();
    assert!(matches!(error, TransportError::Unreachable { .. }), "{error}");
    assert!(began.elapsed() < SECOND);
    a.call(b.name(), Purpose::Api, Bytes::from_static(b"fine"), SECOND)
        .await
        .unwrap();
    assert_eq!(a.counters().handshakes, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_sends_nonsense_harms_nobody() {
    let authority = TestAuthority::new();
    let a = authority.mesh("a");
    a.serve(Purpose::Api, Arc::new(Echo));
    let identity = authority.identity("b");
    let endpoint = quinn::Endpoint::client(loopback()).unwrap();
    let client = cluster::mesh::tls::client(&identity).unwrap();
    let connection = endpoint
        .connect_with(client, a.local_address(), "a")
        .unwrap()
        .await
        .unwrap();
    let mut greeting = connection.open_uni().await.unwrap();
    greeting.write_all(&[0, 0, 0, 0, 0, 0, 0, 1]).await.unwrap();
    greeting.finish().unwrap();
    let ask = |bytes: Vec<u8>| {
        let connection = connection.clone();
        async move {
            let (mut send, mut receive) = connection.open_bi().await.unwrap();
            // The peer may refuse before all is written.
            let _ = send.write_all(&bytes).await;
            let _ = send.finish();
            tokio::time::timeout(SECOND, receive.read_to_end(1024))
                .await
                .expect("no end within a second")
        }
    };
    // Another version, an unknown purpose, a frame of 4 GiB, a frame that ends early, nothing at all.
    assert_eq!(ask(vec![9, 4, 0, 0]).await.unwrap(), [2]);
    assert_eq!(ask(vec![1, 99, 0, 0]).await.unwrap(), [2]);
    for broken in [
        vec![1, 4, 0, 0, 255, 255, 255, 255],
        vec![1, 4, 0, 0, 0, 0, 0, 9, 1],
        vec![1, 4],
        vec![],
    ] {
        let answered = ask(broken.clone()).await;
        assert!(
            answered.as_ref().map_or(true, Vec::is_empty),
            "{broken:?} was answered: {answered:?}"
        );
    }
    assert_eq!(
        ask(vec![1, 4, 0, 0, 0, 0, 0, 2, b'h', b'i']).await.unwrap(),
        b"\0\0\0\0\x04b:hi"
    );
    for datagram in [vec![], vec![0], vec![1], vec![7; 100]] {
        connection.send_datagram(datagram.into()).unwrap();
    }
    assert_eq!(ask(vec![1, 4, 0, 0, 0, 0, 0, 0]).await.unwrap(), b"\0\0\0\0\x02b:");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures() {
    let (a, b) = pair(&TestAuthority::new());
    b.serve(Purpose::Api, Arc::new(Echo));
    let began = Instant::now();
    a.call(b.name(), Purpose::Api, Bytes::new(), SECOND).await.unwrap();
    println!("first call with its handshake: {:?}", began.elapsed());
    let mut times = Vec::new();
    for _ in 0..2000 {
        let began = Instant::now();
        a.call(b.name(), Purpose::Api, Bytes::from_static(&[1; 100]), SECOND)
            .await
            .unwrap();
        times.push(began.elapsed());
    }
    times.sort();
    println!("call of 100 bytes: p50 {:?}, p99 {:?}", times[1000], times[1980]);
    let began = Instant::now();
    let calls = (0..20_000).map(|_| a.call(b.name(), Purpose::Api, Bytes::from_static(&[1; 100]), 10 * SECOND));
    let done = futures::stream::iter(calls)
        .buffer_unordered(64)
        .filter(|result| futures::future::ready(result.is_ok()));
    assert_eq!(done.count().await, 20_000);
    println!(
        "64 calls in flight: {:.0} a second",
        20_000.0 / began.elapsed().as_secs_f64()
    );
    let chunk = Bytes::from(vec![1; 4 << 20]);
    let began = Instant::now();
    for _ in 0..25 {
        a.call(b.name(), Purpose::Api, chunk.clone(), 10 * SECOND)
            .await
            .unwrap();
    }
    let megabytes = 25.0 * 2.0 * chunk.len() as f64 / 1e6;
    println!(
        "4 MiB there and back: {:.0} MB/s",
        megabytes / began.elapsed().as_secs_f64()
    );
}
