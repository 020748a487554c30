//! Asking: calls, streams, raw streams and datagrams to other nodes. Implements `protocol::transport::Transport`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use protocol::NodeName;
use protocol::transport::{FrameStream, Purpose, Transport, TransportError};
use quinn::{RecvStream, SendStream};

use super::endpoint::{DATAGRAM_PAYLOAD, link, peer};
use super::frame::{FRAME, FRAME_BYTES_MAX, FrameError, Kind, Status, StreamHeader, read_frame, read_tag, write_frame};
use super::peer::{Link, Usage};
use super::raw::RawStream;
use super::{Inner, Mesh};

/// An answer in frames begins within this time; after that it may be silent for ever.
const STREAM_BEGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Gossip that waits longer for a connection is out of date.
const DATAGRAM_TIMEOUT: Duration = Duration::from_secs(2);

#[async_trait]
impl Transport for Mesh {
    fn local(&self) -> &NodeName {
        &self.inner.name
    }

    async fn call(
        &self,
        to: &NodeName,
        purpose: Purpose,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, TransportError> {
        self.inner.counters.calls.fetch_add(1, Ordering::Relaxed);
        within(to, deadline, async {
            if *to == self.inner.name {
                let service = self.inner.services.read().get(&purpose).cloned();
                let service = service.ok_or_else(|| TransportError::NotServed {
                    node: to.clone(),
                    purpose,
                })?;
                return Ok(service.call(to, request).await);
            }
            let mut asked = ask(
                &self.inner,
                to,
                StreamHeader {
                    purpose,
                    kind: Kind::Call,
                },
                request,
            )
            .await?;
            read_frame(&mut asked.receive, FRAME_BYTES_MAX)
                .await
                .map_err(|error| broken(to, &asked.link, &error))
        })
        .await
    }

    async fn stream(&self, to: &NodeName, purpose: Purpose, request: Bytes) -> Result<FrameStream, TransportError> {
        self.inner.counters.calls.fetch_add(1, Ordering::Relaxed);
        if *to == self.inner.name {
            let service = self.inner.services.read().get(&purpose).cloned();
            let service = service.ok_or_else(|| TransportError::NotServed {
                node: to.clone(),
                purpose,
            })?;
            return Ok(service.stream(to, request).await);
        }
        let header = StreamHeader {
            purpose,
            kind: Kind::Stream,
        };
        let asked = within(to, STREAM_BEGIN_TIMEOUT, ask(&self.inner, to, header, request)).await?;
        Ok(frames(to.clone(), asked))
    }
}

/// A request that the peer has begun to answer.
struct Asked {
    receive: RecvStream,
    link: Arc<Link>,
    /// Keeps the connection alive until the answer is read.
    _usage: Usage,
}

async fn within<T>(
    to: &NodeName,
    deadline: Duration,
    work: impl Future<Output = Result<T, TransportError>>,
) -> Result<T, TransportError> {
    let late = || TransportError::Deadline {
        node: to.clone(),
        deadline_ms: deadline.as_millis() as u64,
    };
    tokio::time::timeout(deadline, work)
        .await
        .unwrap_or_else(|_| Err(late()))
}

/// Opens a stream to a peer. A connection that turns out to be dead before anything was sent on it is replaced once.
async fn open_stream(
    mesh: &Arc<Inner>,
    to: &NodeName,
) -> Result<(SendStream, RecvStream, Arc<Link>, Usage), TransportError> {
    let mut again = true;
    loop {
        let link = link(mesh, to).await?;
        let usage = link.use_it();
        match link.connection.open_bi().await {
            Ok((send, receive)) => return Ok((send, receive, link, usage)),
            Err(_) if again => again = false,
            Err(error) => {
                return Err(TransportError::Unreachable {
                    node: to.clone(),
                    reason: error.to_string(),
                });
            }
        }
    }
}

/// Sends a request and waits until the peer says that it serves it.
async fn ask(mesh: &Arc<Inner>, to: &NodeName, header: StreamHeader, request: Bytes) -> Result<Asked, TransportError> {
    let (mut send, mut receive, link, usage) = open_stream(mesh, to).await?;
    let sent = async {
        let mut parts = [Bytes::copy_from_slice(&header.encode())];
        send.write_all_chunks(&mut parts).await?;
        write_frame(&mut send, request).await?;
        Ok::<_, FrameError>(())
    };
    // A peer that refuses before it has read all stops the stream; its status then says why.
    let sent = sent.await;
    let _ = send.finish();
    status(to, header.purpose, &link, &mut receive, sent.err()).await?;
    Ok(Asked {
        receive,
        link,
        _usage: usage,
    })
}

async fn status(
    to: &NodeName,
    purpose: Purpose,
    link: &Link,
    receive: &mut RecvStream,
    failed: Option<FrameError>,
) -> Result<(), TransportError> {
    if let Some(error @ FrameError::TooLong { .. }) = &failed {
        return Err(TransportError::Unreachable {
            node: to.clone(),
            reason: error.to_string(),
        });
    }
    match (Status::read(receive).await, failed) {
        (Ok(Status::NotServed), _) => Err(TransportError::NotServed {
            node: to.clone(),
            purpose,
        }),
        (Ok(Status::Version), _) => Err(TransportError::Unreachable {
            node: to.clone(),
            reason: "it does not know this request: one of the two nodes has to be upgraded".to_owned(),
        }),
        (Ok(Status::Served), None) => Ok(()),
        (_, Some(error)) | (Err(error), None) => Err(broken(to, link, &error)),
    }
}

/// Why a request broke off: the end of the connection says more than the end of the stream.
fn broken(to: &NodeName, link: &Link, error: &FrameError) -> TransportError {
    let reason = match link.connection.close_reason() {
        Some(reason) => reason.to_string(),
        None => error.to_string(),
    };
    TransportError::Unreachable {
        node: to.clone(),
        reason,
    }
}

/// The answer's frames. Dropping the stream tells the peer to stop.
fn frames(to: NodeName, asked: Asked) -> FrameStream {
    Box::pin(futures::stream::unfold(Some((to, asked)), |state| async move {
        let (to, mut asked) = state?;
        let frame = async {
            let Some(tag) = read_tag(&mut asked.receive).await? else {
                return Ok(None);
            };
            let bytes = read_frame(&mut asked.receive, FRAME_BYTES_MAX).await?;
            Ok::<_, FrameError>(Some((tag, bytes)))
        };
        match frame.await {
            Ok(Some((FRAME, bytes))) => Some((Ok(bytes), Some((to, asked)))),
            Ok(Some((_, reason))) => {
                let reason = String::from_utf8_lossy(&reason).into_owned();
                Some((Err(TransportError::Unreachable { node: to, reason }), None))
            }
            Ok(None) => None,
            Err(error) => {
                let error = broken(&to, &asked.link, &error);
                Some((Err(error), None))
            }
        }
    }))
}

/// Opens a raw stream.
pub async fn open(
    mesh: &Arc<Inner>,
    to: &NodeName,
    purpose: Purpose,
    deadline: Duration,
) -> Result<RawStream, TransportError> {
    mesh.counters.calls.fetch_add(1, Ordering::Relaxed);
    if *to == mesh.name {
        let service = mesh.raw_services.read().get(&purpose).cloned();
        let service = service.ok_or_else(|| TransportError::NotServed {
            node: to.clone(),
            purpose,
        })?;
        let (ours, theirs) = RawStream::pair();
        let from = to.clone();
        tokio::spawn(async move { service.serve(&from, theirs).await });
        return Ok(ours);
    }
    within(to, deadline, async {
        let (mut send, mut receive, link, usage) = open_stream(mesh, to).await?;
        let sent = send
            .write_all(
                &StreamHeader {
                    purpose,
                    kind: Kind::Raw,
                }
                .encode(),
            )
            .await;
        status(to, purpose, &link, &mut receive, sent.err().map(FrameError::from)).await?;
        Ok(RawStream::over(send, receive, usage))
    })
    .await
}

/// The one request of a machine that is not a member yet, over a connection of its own.
pub struct JoinStream;

impl JoinStream {
    /// Asks; `None` if the member does not serve joining.
    pub async fn ask(connection: &quinn::Connection, request: Bytes) -> Result<Option<Bytes>, String> {
        let exchange = async {
            let (mut send, mut receive) = connection
                .open_bi()
                .await
                .map_err(|error| FrameError::Read(error.to_string()))?;
            let header = StreamHeader {
                purpose: Purpose::Join,
                kind: Kind::Call,
            };
            send.write_all(&header.encode()).await?;
            write_frame(&mut send, request).await?;
            let _ = send.finish();
            match Status::read(&mut receive).await? {
                Status::Served => read_frame(&mut receive, FRAME_BYTES_MAX).await.map(Some),
                Status::NotServed | Status::Version => Ok(None),
            }
        };
        exchange
            .await
            .map_err(|error: FrameError| match connection.close_reason() {
                Some(reason) => reason.to_string(),
                None => error.to_string(),
            })
    }
}

/// Sends a datagram on the open connection, or when one has been made.
pub fn send_datagram(mesh: &Arc<Inner>, to: &NodeName, bytes: Bytes) -> bool {
    let peer = peer(mesh, to);
    let mut tagged = BytesMut::with_capacity(bytes.len() + 1);
    tagged.put_u8(DATAGRAM_PAYLOAD);
    tagged.extend_from_slice(&bytes);
    let tagged = tagged.freeze();
    let dropped = |mesh: &Inner| {
        mesh.counters.datagrams_dropped.fetch_add(1, Ordering::Relaxed);
        false
    };
    if bytes.len() > Mesh::datagram_bytes_max() {
        return dropped(mesh);
    }
    if let Some(link) = peer.live()
        && link.connection.send_datagram(tagged.clone()).is_ok()
    {
        mesh.counters.datagrams_sent.fetch_add(1, Ordering::Relaxed);
        return true;
    }
    let Some(place) = peer.datagram_place() else {
        return dropped(mesh);
    };
    let (mesh, to) = (mesh.clone(), to.clone());
    tokio::spawn(async move {
        let link = tokio::time::timeout(DATAGRAM_TIMEOUT, link(&mesh, &to)).await;
        let sent = matches!(link, Ok(Ok(link)) if link.connection.send_datagram(tagged).is_ok());
        let counter = if sent {
            &mesh.counters.datagrams_sent
        } else {
            &mesh.counters.datagrams_dropped
        };
        counter.fetch_add(1, Ordering::Relaxed);
        drop(place);
    });
    true
}
