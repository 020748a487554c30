//! Sessions between nodes: exec, attach and forwarded ports over raw streams of the mesh. `SessionService` serves those of this
//! node's pods, `NodeDoors` begins them wherever the pod runs. The mesh's flow control is what holds up a sender whose
//! receiver does not read.
//!
//! The client's end of a stream ends the session: its reading half is watched for that, whatever the container does.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cluster::Mesh;
use cluster::mesh::{RawReader, RawService, RawStream, RawWriter};
use futures::{Stream, StreamExt};
use protocol::NodeName;
use protocol::codec::{decode, encode};
use protocol::node::NodeDoorError;
use protocol::runtime::{PodRuntime, RuntimeError};
use protocol::session::{
    InputStream, LENGTH_BYTES, OutputStream, PortInput, PortOutput, SessionAnswer, SessionFrame, SessionInput,
    SessionOutput, SessionRefusal, SessionRequest, frame_length,
};
use protocol::transport::Purpose;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// A member answers within this time, or is not reached.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// While a container takes no input, what the client's end would say is not read. A frame without bytes, sent so often, finds
/// that a client has gone all the same.
const PROOF_INTERVAL: Duration = Duration::from_secs(5);
/// How many items of input wait for the container.
const ITEMS_MAX: usize = 4;

/// Serves sessions with this node's pods.
pub struct SessionService {
    /// The runtime.
    pub runtime: Arc<dyn PodRuntime>,
}

#[async_trait]
impl RawService for SessionService {
    async fn serve(&self, from: &NodeName, stream: RawStream) {
        if let Err(error) = self.session(stream).await {
            tracing::debug!(%from, %error, "a session from another node broke off");
        }
    }
}

/// What has begun.
enum Begun {
    Container(OutputStream),
    Port(PortOutput),
}

impl SessionService {
    async fn session(&self, stream: RawStream) -> std::io::Result<()> {
        let RawStream { mut reader, mut writer } = stream;
        let request = match read_message(&mut reader).await {
            Ok(Some(frame)) => decode::<SessionRequest>(&frame).map_err(std::io::Error::other)?,
            Ok(None) => return Ok(()),
            Err(error) => return Err(error),
        };
        let (sender, receiver) = mpsc::channel::<SessionFrame>(ITEMS_MAX);
        let begun = match request {
            SessionRequest::Exec(spec) => self.runtime.exec(&spec, input_of(receiver)).await.map(Begun::Container),
            SessionRequest::Attach(spec) => self
                .runtime
                .attach(&spec, input_of(receiver))
                .await
                .map(Begun::Container),
            SessionRequest::Port(spec) => {
                let output = self.runtime.port_forward(&spec, port_input_of(receiver)).await;
                output.map(Begun::Port)
            }
        };
        let answer = match &begun {
            Ok(_) => SessionAnswer::Begun,
            Err(error) => SessionAnswer::Refused(SessionRefusal {
                is_absent: matches!(error, RuntimeError::NotFound { .. }),
                reason: error.to_string(),
            }),
        };
        write_message(&mut writer, &encode(&answer).map_err(std::io::Error::other)?).await?;
        let gone = take_input(&mut reader, sender);
        let sent = async {
            match begun {
                Ok(Begun::Container(output)) => send_output(&mut writer, output.map(output_frame)).await,
                Ok(Begun::Port(output)) => {
                    let parts = output.map(|part| match part {
                        Ok(bytes) => SessionFrame::Bytes(bytes),
                        Err(error) => SessionFrame::Broken(error.to_string()),
                    });
                    let end = futures::stream::once(async { SessionFrame::Closed });
                    send_output(&mut writer, parts.chain(end)).await
                }
                Err(_) => Ok(()),
            }
        };
        let result = tokio::select! {
            result = sent => result,
            gone = gone => gone,
        };
        let _ = writer.shutdown().await; // a client that has gone needs no end
        result
    }
}

fn output_frame(item: Result<SessionOutput, RuntimeError>) -> SessionFrame {
    match item {
        Ok(SessionOutput::Stdout(bytes)) => SessionFrame::Bytes(bytes),
        Ok(SessionOutput::Stderr(bytes)) => SessionFrame::Stderr(bytes),
        Ok(SessionOutput::Exited { code }) => SessionFrame::Exited { code },
        Err(error) => SessionFrame::Broken(error.to_string()),
    }
}

/// Sends frames to a client, and in silence proofs that it is there.
async fn send_output(writer: &mut RawWriter, frames: impl Stream<Item = SessionFrame>) -> std::io::Result<()> {
    tokio::pin!(frames);
    loop {
        let frame = match tokio::time::timeout(PROOF_INTERVAL, frames.next()).await {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(()),
            Err(_) => SessionFrame::Bytes(Bytes::new()),
        };
        writer.write_all(&frame.encode()).await?;
        writer.flush().await?;
    }
}

/// Takes what the client sends until it has gone. A container that takes no more input is no reason to stop.
async fn take_input(reader: &mut RawReader, sender: mpsc::Sender<SessionFrame>) -> std::io::Result<()> {
    let mut sender = Some(sender);
    while let Some(frame) = read_message(reader).await? {
        let frame = SessionFrame::decode(frame).map_err(std::io::Error::other)?;
        if let Some(open) = &sender
            && open.send(frame).await.is_err()
        {
            sender = None;
        }
    }
    Ok(())
}

fn input_of(receiver: mpsc::Receiver<SessionFrame>) -> InputStream {
    frames_of(receiver)
        .filter_map(|frame| async move {
            match frame {
                SessionFrame::Bytes(bytes) => Some(SessionInput::Stdin(bytes)),
                SessionFrame::Closed => Some(SessionInput::StdinClosed),
                SessionFrame::Resize { width, height } => Some(SessionInput::Resize { width, height }),
                _ => None,
            }
        })
        .boxed()
}

fn port_input_of(receiver: mpsc::Receiver<SessionFrame>) -> PortInput {
    frames_of(receiver)
        .take_while(|frame| std::future::ready(*frame != SessionFrame::Closed))
        .filter_map(|frame| async move {
            match frame {
                SessionFrame::Bytes(bytes) => Some(bytes),
                _ => None,
            }
        })
        .boxed()
}

fn frames_of(receiver: mpsc::Receiver<SessionFrame>) -> impl Stream<Item = SessionFrame> {
    futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|frame| (frame, receiver))
    })
}

/// Begins a session with a pod of a node.
pub async fn exec_or_attach(
    mesh: &Mesh,
    node: &NodeName,
    request: SessionRequest,
    input: InputStream,
) -> Result<OutputStream, NodeDoorError> {
    let (reader, writer) = begin(mesh, node, request).await?;
    let frames = input.map(|item| match item {
        SessionInput::Stdin(bytes) => SessionFrame::Bytes(bytes),
        SessionInput::StdinClosed => SessionFrame::Closed,
        SessionInput::Resize { width, height } => SessionFrame::Resize { width, height },
    });
    let feeding = feed(writer, frames.boxed());
    let items = received(reader, feeding).filter_map(|frame| async move {
        match frame {
            Ok(SessionFrame::Bytes(bytes)) => Some(Ok(SessionOutput::Stdout(bytes))),
            Ok(SessionFrame::Stderr(bytes)) => Some(Ok(SessionOutput::Stderr(bytes))),
            Ok(SessionFrame::Exited { code }) => Some(Ok(SessionOutput::Exited { code })),
            Ok(SessionFrame::Broken(reason)) => Some(Err(broken(reason))),
            Ok(SessionFrame::Closed | SessionFrame::Resize { .. }) => None,
            Err(error) => Some(Err(error)),
        }
    });
    Ok(items.boxed())
}

/// Connects to a port of a pod of a node.
pub async fn port_forward(
    mesh: &Mesh,
    node: &NodeName,
    request: SessionRequest,
    input: PortInput,
) -> Result<PortOutput, NodeDoorError> {
    let (reader, writer) = begin(mesh, node, request).await?;
    let end = futures::stream::once(async { SessionFrame::Closed });
    let feeding = feed(writer, input.map(SessionFrame::Bytes).chain(end).boxed());
    let parts = received(reader, feeding)
        .take_while(|frame| std::future::ready(!matches!(frame, Ok(SessionFrame::Closed))))
        .filter_map(|frame| async move {
            match frame {
                Ok(SessionFrame::Bytes(bytes)) => Some(Ok(bytes)),
                Ok(SessionFrame::Broken(reason)) => Some(Err(broken(reason))),
                Ok(_) => None,
                Err(error) => Some(Err(error)),
            }
        });
    Ok(parts.boxed())
}

fn broken(reason: String) -> RuntimeError {
    RuntimeError::Failed {
        doing: "a session on another node".to_owned(),
        reason,
    }
}

async fn begin(mesh: &Mesh, node: &NodeName, request: SessionRequest) -> Result<(RawReader, RawWriter), NodeDoorError> {
    let unreachable = |reason: String| NodeDoorError::Unreachable {
        node: node.clone(),
        reason,
    };
    let opened = mesh.open(node, Purpose::Sessions, OPEN_DEADLINE).await;
    let RawStream { mut reader, mut writer } = opened.map_err(|error| unreachable(error.to_string()))?;
    let exchange = async {
        let message = encode(&request).map_err(std::io::Error::other)?;
        write_message(&mut writer, &message).await?;
        let answer = read_message(&mut reader).await?;
        let answer = answer.ok_or_else(|| std::io::Error::other("it ended the session at once"))?;
        decode::<SessionAnswer>(&answer).map_err(std::io::Error::other)
    };
    match exchange.await {
        Ok(SessionAnswer::Begun) => Ok((reader, writer)),
        Ok(SessionAnswer::Refused(refusal)) if refusal.is_absent => Err(NodeDoorError::Absent(refusal.reason)),
        Ok(SessionAnswer::Refused(refusal)) => Err(NodeDoorError::Refused(refusal.reason)),
        Err(error) => Err(unreachable(error.to_string())),
    }
}

/// Sends input as it comes, then keeps the stream open: its end would say that the client has gone.
fn feed(
    mut writer: RawWriter,
    frames: std::pin::Pin<Box<dyn Stream<Item = SessionFrame> + Send>>,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut frames = frames;
        while let Some(frame) = frames.next().await {
            if writer.write_all(&frame.encode()).await.is_err() || writer.flush().await.is_err() {
                return; // the session is over, which its output tells
            }
        }
        std::future::pending::<()>().await;
    }))
}

/// Frames until the session is over. Dropping them ends it.
fn received(
    reader: RawReader,
    feeding: AbortOnDropHandle<()>,
) -> impl Stream<Item = Result<SessionFrame, RuntimeError>> + Send {
    futures::stream::unfold(Some((reader, feeding)), |state| async move {
        let (mut reader, feeding) = state?;
        loop {
            let frame = match read_message(&mut reader).await {
                Ok(None) => return None,
                Ok(Some(frame)) => SessionFrame::decode(frame).map_err(|error| broken(error.to_string())),
                Err(error) => Err(broken(error.to_string())),
            };
            match frame {
                Ok(SessionFrame::Bytes(bytes)) if bytes.is_empty() => {} // a proof that this end is there
                Ok(frame) => return Some((Ok(frame), Some((reader, feeding)))),
                Err(error) => return Some((Err(error), None)),
            }
        }
    })
}

/// A length and that many bytes. `None` at the end of the stream.
async fn read_message(reader: &mut RawReader) -> std::io::Result<Option<Bytes>> {
    let mut length = [0; LENGTH_BYTES];
    match reader.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = frame_length(length).map_err(std::io::Error::other)?;
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes).await?;
    Ok(Some(Bytes::from(bytes)))
}

async fn write_message(writer: &mut RawWriter, message: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(message.len()).map_err(std::io::Error::other)?;
    writer.write_all(&length.to_le_bytes()).await?;
    writer.write_all(message).await?;
    writer.flush().await
}
