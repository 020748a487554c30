//! Remoting between real processes: ractor's registries are global, so each node is a process of its own. This program is
//! both the test and the nodes: started with `node`, it runs one. Nodes read their identity from files and take commands on
//! standard input, one a line; they end when their standard input does, so that none is left behind.
#![allow(clippy::disallowed_methods, reason = "tests measure time")]

mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::identity::PkiDirectory;
use cluster::remoting::{ENVELOPE_BYTES_MAX, RemotingError};
use cluster::{Mesh, Remoting};
use futures::FutureExt;
use protocol::NodeName;
use protocol::transport::TransportError;
use support::{TestAuthority, loopback, name};

const SECOND: Duration = Duration::from_secs(1);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    match arguments.get(1).map(String::as_str) {
        Some("node") => runtime.block_on(node(Path::new(&arguments[2]), arguments[3].parse().unwrap())),
        // What `cargo test` passes on does not matter: there is one test.
        _ => runtime.block_on(async {
            tokio::time::timeout(120 * SECOND, messages_reach_the_routers_of_other_processes())
                .await
                .expect("the test did not end in two minutes");
            println!("test messages_reach_the_routers_of_other_processes ... ok");
        }),
    }
}

/// Answers `slow` late, `caller` with the caller's name, and everything else with itself in upper case.
fn handler(from: NodeName, body: Vec<u8>) -> futures::future::BoxFuture<'static, Vec<u8>> {
    async move {
        match body.as_slice() {
            b"slow" => {
                tokio::time::sleep(30 * SECOND).await;
                body
            }
            b"caller" => from.as_str().as_bytes().to_vec(),
            _ => body.to_ascii_uppercase(),
        }
    }
    .boxed()
}

/// A node's process: prints its address, then obeys `know NAME ADDRESS` and `call NAME TEXT`.
async fn node(pki: &Path, bind: SocketAddr) {
    cluster::identity::install_crypto_provider();
    let identity = PkiDirectory::new(pki).load().unwrap().unwrap();
    let mesh = Mesh::start(&identity, bind).unwrap();
    let remoting = Remoting::start(&mesh, &identity, Arc::new(handler)).await.unwrap();
    println!("{}", mesh.local_address());
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(tokio::io::stdin()));
    while let Some(line) = lines.next_line().await.unwrap() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["know", node, address] => mesh.set_address(&name(node), address.parse().unwrap()),
            ["call", node, text] => match remoting.call(&name(node), text.as_bytes().to_vec(), 5 * SECOND).await {
                Ok(answer) => println!("{}", String::from_utf8(answer).unwrap()),
                Err(error) => println!("error: {error}"),
            },
            _ => panic!("{line}"),
        }
    }
}

/// A node's process as the test sees it.
struct Process {
    child: Child,
    input: ChildStdin,
    output: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
    address: SocketAddr,
}

impl Process {
    fn start(pki: &Path, bind: SocketAddr) -> Process {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["node", pki.to_str().unwrap(), &bind.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        let address = output
            .next()
            .expect("the node's process ended")
            .unwrap()
            .parse()
            .unwrap();
        Process {
            input: child.stdin.take().unwrap(),
            child,
            output,
            address,
        }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.output.next().expect("the node's process ended").unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have been killed by the test already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This process as node `a`, and two others.
struct Cluster {
    _directory: tempfile::TempDir,
    mesh: Mesh,
    remoting: Remoting,
    b_pki: std::path::PathBuf,
    b: Process,
    c: Process,
}

impl Cluster {
    async fn start() -> Cluster {
        cluster::identity::install_crypto_provider();
        let directory = tempfile::tempdir().unwrap();
        let authority = TestAuthority::new();
        let pki = |node: &str| directory.path().join(node);
        for node in ["b", "c"] {
            PkiDirectory::new(pki(node)).store(&authority.identity(node)).unwrap();
        }
        let identity = authority.identity("a");
        let mesh = Mesh::start(&identity, loopback()).unwrap();
        let remoting = Remoting::start(&mesh, &identity, Arc::new(handler)).await.unwrap();
        let mut b = Process::start(&pki("b"), loopback());
        let mut c = Process::start(&pki("c"), loopback());
        mesh.set_address(&name("b"), b.address);
        mesh.set_address(&name("c"), c.address);
        for process in [&mut b, &mut c] {
            process.say(&format!("know a {}", mesh.local_address()));
        }
        b.say(&format!("know c {}", c.address));
        Cluster {
            b_pki: pki("b"),
            _directory: directory,
            mesh,
            remoting,
            b,
            c,
        }
    }

    async fn call(&self, node: &str, body: &[u8], deadline: Duration) -> Result<Vec<u8>, RemotingError> {
        self.remoting.call(&name(node), body.to_vec(), deadline).await
    }
}

async fn messages_reach_the_routers_of_other_processes() {
    let mut cluster = Cluster::start().await;
    each_router_is_the_one_that_was_asked_and_knows_its_caller(&mut cluster).await;
    refusals_say_why_and_come_in_time(&cluster).await;
    a_process_that_was_killed_and_started_again_is_reached_again(&mut cluster).await;
    a_process_that_is_gone_fails_calls_within_their_deadline(&mut cluster).await;
}

async fn each_router_is_the_one_that_was_asked_and_knows_its_caller(cluster: &mut Cluster) {
    let began = Instant::now();
    assert_eq!(cluster.call("b", b"hello", 5 * SECOND).await.unwrap(), b"HELLO");
    println!("first call with its session: {:?}", began.elapsed());
    assert_eq!(cluster.call("c", b"caller", 5 * SECOND).await.unwrap(), b"a");
    assert_eq!(cluster.call("a", b"caller", SECOND).await.unwrap(), b"a");
    assert_eq!(cluster.b.ask("call c caller"), "b");
    assert_eq!(cluster.b.ask("call a caller"), "b");
    assert_eq!(cluster.remoting.sessions(), [name("b"), name("c")]);
    let mut times = Vec::new();
    for _ in 0..1000 {
        let began = Instant::now();
        cluster.call("b", b"x", SECOND).await.unwrap();
        times.push(began.elapsed());
    }
    times.sort();
    println!("call: p50 {:?}, p99 {:?}", times[500], times[990]);
}

async fn refusals_say_why_and_come_in_time(cluster: &Cluster) {
    let began = Instant::now();
    let error = cluster
        .call("b", b"slow", Duration::from_millis(300))
        .await
        .unwrap_err();
    assert!(
        matches!(error, RemotingError::Transport(TransportError::Deadline { .. })),
        "{error}"
    );
    assert!(began.elapsed() < SECOND);
    assert_eq!(cluster.call("b", b"still there", SECOND).await.unwrap(), b"STILL THERE");
    let error = cluster.call("z", b"", SECOND).await.unwrap_err();
    assert!(
        matches!(error, RemotingError::Transport(TransportError::UnknownNode(_))),
        "{error}"
    );
    let large = vec![b'a'; ENVELOPE_BYTES_MAX];
    assert_eq!(
        cluster.call("b", &large, 5 * SECOND).await.unwrap(),
        large.to_ascii_uppercase()
    );
    let error = cluster
        .call("b", &vec![0; ENVELOPE_BYTES_MAX + 1], SECOND)
        .await
        .unwrap_err();
    assert!(matches!(error, RemotingError::TooLarge { .. }), "{error}");
}

async fn a_process_that_was_killed_and_started_again_is_reached_again(cluster: &mut Cluster) {
    let address = cluster.b.address;
    cluster.b.child.kill().unwrap();
    cluster.b.child.wait().unwrap();
    let killed = Instant::now();
    cluster.b = Process::start(&cluster.b_pki, address);
    cluster.b.say(&format!("know a {}", cluster.mesh.local_address()));
    let mut attempts = 1;
    while cluster.call("b", b"again", 2 * SECOND).await.is_err() {
        attempts += 1;
        assert!(
            killed.elapsed() < 10 * SECOND,
            "not reached again at attempt {attempts}"
        );
    }
    println!(
        "reached again {:?} after it was killed, at attempt {attempts}",
        killed.elapsed()
    );
    assert_eq!(cluster.b.ask("call a caller"), "b");
}

async fn a_process_that_is_gone_fails_calls_within_their_deadline(cluster: &mut Cluster) {
    cluster.c.child.kill().unwrap();
    cluster.c.child.wait().unwrap();
    let began = Instant::now();
    let error = cluster.call("c", b"anyone?", 6 * SECOND).await.unwrap_err();
    println!("a call to a dead process ended after {:?}: {error}", began.elapsed());
    assert!(began.elapsed() < 7 * SECOND);
}
