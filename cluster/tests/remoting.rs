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

async fn messages_reach_the_routers_of_other_processes() {
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
    let a_address = mesh.local_address();
    for process in [&mut b, &mut c] {
        process.say(&format!("know a {a_address}"));
    }
    b.say(&format!("know c {}", c.address));
    let call = |node: &'static str, body: &'static [u8], deadline| {
        let remoting = remoting.clone();
        async move { remoting.call(&name(node), body.to_vec(), deadline).await }
    };

    // Each router is the one of the node that was asked, and knows its caller.
    let began = Instant::now();
    assert_eq!(call("b", b"hello", 5 * SECOND).await.unwrap(), b"HELLO");
    println!("first call with its session: {:?}", began.elapsed());
    assert_eq!(call("c", b"caller", 5 * SECOND).await.unwrap(), b"a");
    assert_eq!(call("a", b"caller", SECOND).await.unwrap(), b"a");
    assert_eq!(b.ask("call c caller"), "b");
    assert_eq!(b.ask("call a caller"), "b");
    assert_eq!(remoting.sessions(), [name("b"), name("c")]);

    let mut times = Vec::new();
    for _ in 0..1000 {
        let began = Instant::now();
        call("b", b"x", SECOND).await.unwrap();
        times.push(began.elapsed());
    }
    times.sort();
    println!("call: p50 {:?}, p99 {:?}", times[500], times[990]);

    // Deadlines, and refusals that say why.
    let began = Instant::now();
    let error = call("b", b"slow", Duration::from_millis(300)).await.unwrap_err();
    assert!(
        matches!(error, RemotingError::Transport(TransportError::Deadline { .. })),
        "{error}"
    );
    assert!(began.elapsed() < SECOND);
    assert_eq!(call("b", b"still there", SECOND).await.unwrap(), b"STILL THERE");
    let error = call("z", b"", SECOND).await.unwrap_err();
    assert!(
        matches!(error, RemotingError::Transport(TransportError::UnknownNode(_))),
        "{error}"
    );
    let large = vec![b'a'; ENVELOPE_BYTES_MAX];
    assert_eq!(
        remoting.call(&name("b"), large.clone(), 5 * SECOND).await.unwrap(),
        large.to_ascii_uppercase()
    );
    let error = remoting
        .call(&name("b"), vec![0; ENVELOPE_BYTES_MAX + 1], SECOND)
        .await
        .unwrap_err();
    assert!(matches!(error, RemotingError::TooLarge { .. }), "{error}");

    // A process that is killed and started again at once, at the same place, is reached again.
    let address = b.address;
    b.child.kill().unwrap();
    b.child.wait().unwrap();
    let killed = Instant::now();
    let mut b = Process::start(&pki("b"), address);
    b.say(&format!("know a {a_address}"));
    let mut attempts = 0;
    while call("b", b"again", 2 * SECOND).await.is_err() {
        attempts += 1;
        assert!(
            killed.elapsed() < 10 * SECOND,
            "not reached again after {attempts} attempts"
        );
    }
    println!(
        "reached again {:?} after it was killed, at attempt {}",
        killed.elapsed(),
        attempts + 1
    );
    assert_eq!(b.ask("call a caller"), "b");

    // A process that is gone for good fails calls within their deadline.
    c.child.kill().unwrap();
    c.child.wait().unwrap();
    let began = Instant::now();
    let error = call("c", b"anyone?", 6 * SECOND).await.unwrap_err();
    println!("a call to a dead process ended after {:?}: {error}", began.elapsed());
    assert!(began.elapsed() < 7 * SECOND);
}
