//! The connection to what a request is proxied to: straight to its address, else over the mesh to the pod's node and there to the
//! pod's loopback address; TLS on top where the client asks for it. It knows nothing of HTTP.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use protocol::node::NodeDoor;
use protocol::session::PortSpec;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use super::plan::Destination;
use crate::outgoing::trust::{Anchors, Trust};

/// How long an address may take to answer before the way over the mesh is tried.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// How much waits in each direction of a connection over the mesh, in bytes.
const PIPE_BYTES: usize = 64 * 1024;

/// A connection, whatever carries it.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// Connects to the first of the destinations that can be had.
pub async fn connect(
    destinations: &[Destination],
    tls: bool,
    doors: &Arc<dyn NodeDoor>,
    runtime: &Handle,
) -> Result<Box<dyn Wire>, String> {
    // Pods and services show certificates that nobody vouches for; Kubernetes' proxy does not verify them either.
    let trust = Trust::new(Anchors::Anybody, None);
    let mut last = "there is no address to connect to".to_owned();
    for destination in destinations {
        let wire = match reach(destination, doors, runtime).await {
            Ok(wire) => wire,
            Err(error) => {
                last = error;
                continue;
            }
        };
        if !tls {
            return Ok(wire);
        }
        let name = ServerName::from(destination.address.ip());
        let settings = trust.client_config().map_err(|error| error.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(settings);
        match connector.connect(name, wire).await {
            Ok(wire) => return Ok(Box::new(wire)),
            Err(error) => last = format!("TLS with {}: {error}", destination.address),
        }
    }
    Err(last)
}

async fn reach(
    destination: &Destination,
    doors: &Arc<dyn NodeDoor>,
    runtime: &Handle,
) -> Result<Box<dyn Wire>, String> {
    let address = destination.address;
    let direct = match tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            // Answers are passed on part by part: nothing is gained by holding small ones back.
            let _ = stream.set_nodelay(true);
            return Ok(Box::new(stream));
        }
        Ok(Err(error)) => error,
        Err(_) => io::Error::from(io::ErrorKind::TimedOut),
    };
    let told = |error: &io::Error| format!("dial tcp {address}: connect: {}", plain(error));
    // Refused by the pod itself: the other way leads to the same pod.
    let Some((node, pod)) = destination
        .pod
        .as_ref()
        .filter(|_| direct.kind() != io::ErrorKind::ConnectionRefused)
    else {
        return Err(told(&direct));
    };
    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
    let (reading, mut writing) = tokio::io::split(theirs);
    let spec = PortSpec {
        pod: pod.clone(),
        port: address.port(),
    };
    let input = futures::stream::unfold(reading, next_part).boxed();
    let mut output = doors
        .port_forward(node, spec, input)
        .await
        .map_err(|error| format!("{}; over the mesh: {error}", told(&direct)))?;
    runtime.spawn(async move {
        while let Some(Ok(part)) = output.next().await {
            if writing.write_all(&part).await.is_err() {
                return; // the client has gone
            }
        }
        let _ = writing.shutdown().await;
    });
    Ok(Box::new(ours))
}

async fn next_part(
    mut reading: tokio::io::ReadHalf<DuplexStream>,
) -> Option<(Bytes, tokio::io::ReadHalf<DuplexStream>)> {
    let mut part = bytes::BytesMut::with_capacity(16 * 1024);
    match reading.read_buf(&mut part).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some((part.freeze(), reading)),
    }
}

/// The system's words as Go's programs have them, without the error's number.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    }
}
