//! Port-forward on the node's side: a connection from inside of the pod's network namespace to its loopback addresses. A socket
//! belongs for ever to the namespace in which it was made, so a thread enters that one, makes the sockets and ends; all that
//! follows is ordinary.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use nix::sched::{CloneFlags, setns};
use protocol::Uid;
use protocol::runtime::RuntimeError;
use protocol::session::{PortInput, PortOutput, PortSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;

use super::Shared;
use crate::failure::configuration;

/// How much is read at once.
const READ_BYTES: usize = 32 << 10;
/// How many parts wait for the client.
const PARTS_MAX: usize = 4;
/// A loopback address answers at once, unless too many connections wait there to be accepted.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects, and moves bytes both ways until the pod's side closes or the client lets go.
pub(super) async fn forward(
    shared: &Arc<Shared>,
    spec: &PortSpec,
    input: PortInput,
) -> Result<PortOutput, RuntimeError> {
    if spec.port == 0 {
        return Err(configuration(
            "port 0 cannot be connected to: name a port from 1 to 65535",
        ));
    }
    let absent = || RuntimeError::NotFound {
        what: format!("the sandbox of pod {}", spec.pod),
    };
    let sandbox = shared.sandbox(&Uid::from(spec.pod.clone())).ok_or_else(absent)?;
    let record = sandbox.known.lock().record.clone();
    let identity = record
        .and_then(|record| record.identity)
        .filter(|identity| identity.is_alive());
    let pid = identity.ok_or_else(absent)?.pid;
    let stream = connect(pid, spec.port).await?;
    Ok(run(stream, input))
}

async fn connect(pid: i32, port: u16) -> Result<TcpStream, RuntimeError> {
    let failed = |reason: String| RuntimeError::Failed {
        doing: format!("connecting to port {port} inside of the pod"),
        reason,
    };
    let (v4, v6) = sockets_inside(pid).await.map_err(|error| failed(error.to_string()))?;
    let mut reasons = Vec::new();
    let addresses = [
        (v4, SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        (v6, SocketAddr::from((Ipv6Addr::LOCALHOST, port))),
    ];
    for (socket, address) in addresses {
        let connected = match socket {
            Ok(socket) => tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(address)).await,
            Err(error) => Ok(Err(error)),
        };
        match connected {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => reasons.push(format!("{address}: {error}")),
            Err(_) => reasons.push(format!("{address}: no answer in {} s", CONNECT_TIMEOUT.as_secs())),
        }
    }
    Err(failed(reasons.join("; ")))
}

type Sockets = (io::Result<TcpSocket>, io::Result<TcpSocket>);

/// Makes a socket of each family in the network namespace of a process. A kernel without IPv6 has one.
async fn sockets_inside(pid: i32) -> io::Result<Sockets> {
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // Sockets of tokio register with its runtime only when they connect.
    std::thread::Builder::new()
        .name("port-forward".to_owned())
        .spawn(move || {
            let made = setns(&namespace, CloneFlags::CLONE_NEWNET)
                .map(|()| (TcpSocket::new_v4(), TcpSocket::new_v6()))
                .map_err(io::Error::from);
            let _ = sender.send(made); // a client that has gone needs none
        })?;
    receiver.await.map_err(io::Error::other)?
}

fn run(mut stream: TcpStream, mut input: PortInput) -> PortOutput {
    let _ = stream.set_nodelay(true); // a preference
    let (sender, receiver) = mpsc::channel::<Result<Bytes, RuntimeError>>(PARTS_MAX);
    tokio::spawn(async move {
        let (mut reading, mut writing) = stream.split();
        let write = async {
            while let Some(bytes) = input.next().await {
                if writing.write_all(&bytes).await.is_err() {
                    break; // reading tells why
                }
            }
            let _ = writing.shutdown().await;
            std::future::pending::<()>().await;
        };
        let read = async {
            let mut buffer = BytesMut::new();
            loop {
                buffer.reserve(READ_BYTES);
                let part = match reading.read_buf(&mut buffer).await {
                    Ok(0) => return,
                    Ok(_) => Ok(buffer.split().freeze()),
                    Err(error) => Err(RuntimeError::Failed {
                        doing: "reading from the pod's port".to_owned(),
                        reason: error.to_string(),
                    }),
                };
                let is_broken = part.is_err();
                if sender.send(part).await.is_err() || is_broken {
                    return;
                }
            }
        };
        tokio::select! {
            () = read => {}
            () = write => {}
            () = sender.closed() => {}
        }
    });
    futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|part| (part, receiver))
    })
    .boxed()
}
