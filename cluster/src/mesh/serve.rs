//! Answering: streams that peers open on their connections. Each is served in a task of its own; a panic in a service
//! ends that stream alone. When the caller is gone, what would answer it is dropped.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use protocol::NodeName;
use protocol::transport::{FrameStream, Purpose, SharedService, TransportError};
use quinn::{Connection, RecvStream, SendStream, VarInt};

use super::Inner;
use super::frame::{
    BROKEN, FRAME, FRAME_BYTES_MAX, FrameError, JOIN_BYTES_MAX, Kind, Status, StreamHeader, read_frame, write_frame,
};
use super::peer::Link;
use super::raw::RawStream;

/// A peer that opens a stream sends its request within this time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A joiner's whole conversation takes no longer.
const JOINER_TIMEOUT: Duration = Duration::from_secs(30);
/// Close code: done.
const CLOSE_DONE: VarInt = VarInt::from_u32(0);

/// Serves the streams of a connection to a member until it ends.
pub async fn streams(mesh: Arc<Inner>, from: NodeName, link: Arc<Link>) {
    while let Ok((send, receive)) = link.connection.accept_bi().await {
        mesh.counters.served.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(stream(mesh.clone(), from.clone(), link.clone(), send, receive));
    }
}

async fn stream(mesh: Arc<Inner>, from: NodeName, link: Arc<Link>, mut send: SendStream, mut receive: RecvStream) {
    let usage = link.use_it();
    let header = tokio::time::timeout(REQUEST_TIMEOUT, StreamHeader::read(&mut receive)).await;
    let header = match header {
        Ok(Ok(header)) => header,
        Ok(Err(FrameError::Version { .. } | FrameError::Header(_))) => return answer(&mut send, Status::Version).await,
        // The peer gave up, or never said what it wants.
        Ok(Err(_)) | Err(_) => return,
    };
    let served = match header.kind {
        Kind::Raw => {
            let service = mesh.raw_services.read().get(&header.purpose).cloned();
            let Some(service) = service else {
                return answer(&mut send, Status::NotServed).await;
            };
            if send.write_all(&[Status::Served.encode()]).await.is_err() {
                return;
            }
            service.serve(&from, RawStream::over(send, receive, usage)).await;
            return;
        }
        Kind::Call | Kind::Stream => {
            let service = mesh.services.read().get(&header.purpose).cloned();
            let Some(service) = service else {
                return answer(&mut send, Status::NotServed).await;
            };
            request(service, &from, header.kind, FRAME_BYTES_MAX, &mut send, &mut receive).await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%from, purpose = ?header.purpose, %error, "a request was not answered");
    }
    drop(usage);
}

/// Answers with a status alone. A peer that is gone by then needs no answer.
async fn answer(send: &mut SendStream, status: Status) {
    let _ = send.write_all(&[status.encode()]).await;
    let _ = send.finish();
}

/// Reads the request, asks the service, writes the answer; gives up when the caller does.
async fn request(
    service: SharedService,
    from: &NodeName,
    kind: Kind,
    limit: usize,
    send: &mut SendStream,
    receive: &mut RecvStream,
) -> Result<(), FrameError> {
    let request = tokio::time::timeout(REQUEST_TIMEOUT, read_frame(receive, limit))
        .await
        .map_err(|_| FrameError::Read("the request did not arrive in time".to_owned()))??;
    let gone = send.stopped();
    if kind == Kind::Call {
        let reply = tokio::select! {
            reply = service.call(from, request) => reply,
            _ = gone => return Ok(()),
        };
        send.write_all(&[Status::Served.encode()]).await?;
        write_frame(send, reply).await?;
    } else {
        let frames = tokio::select! {
            frames = service.stream(from, request) => frames,
            _ = gone => return Ok(()),
        };
        send.write_all(&[Status::Served.encode()]).await?;
        frames_until_gone(send, frames).await?;
    }
    // An error means that the caller has stopped reading.
    let _ = send.finish();
    Ok(())
}

async fn frames_until_gone(send: &mut SendStream, mut frames: FrameStream) -> Result<(), FrameError> {
    let gone = send.stopped();
    tokio::pin!(gone);
    loop {
        let frame = tokio::select! {
            frame = frames.next() => frame,
            _ = &mut gone => return Ok(()),
        };
        match frame {
            Some(Ok(bytes)) => {
                send.write_all(&[FRAME]).await?;
                write_frame(send, bytes).await?;
            }
            Some(Err(error)) => {
                send.write_all(&[BROKEN]).await?;
                return write_frame(send, Bytes::from(reason_of(error))).await;
            }
            None => return Ok(()),
        }
    }
}

/// The part of an error that its receiver does not know already.
fn reason_of(error: TransportError) -> String {
    match error {
        TransportError::Unreachable { reason, .. } => reason,
        other => other.to_string(),
    }
}

/// Serves a machine that wants to join: calls of `Purpose::Join`, small ones, for a short while.
pub async fn joiner(mesh: &Arc<Inner>, connection: Connection) {
    // The service is told the address, since there is no name that a certificate would vouch for.
    let from = NodeName::from(connection.remote_address().to_string());
    let conversation = async {
        while let Ok((mut send, mut receive)) = connection.accept_bi().await {
            let header = StreamHeader::read(&mut receive).await;
            let service = mesh.services.read().get(&Purpose::Join).cloned();
            match (header, service) {
                (
                    Ok(StreamHeader {
                        purpose: Purpose::Join,
                        kind: Kind::Call,
                    }),
                    Some(service),
                ) => {
                    mesh.counters.served.fetch_add(1, Ordering::Relaxed);
                    let served = request(service, &from, Kind::Call, JOIN_BYTES_MAX, &mut send, &mut receive).await;
                    if let Err(error) = served {
                        tracing::info!(%from, %error, "a joiner was not answered");
                    }
                }
                (Err(FrameError::Version { .. }), _) => answer(&mut send, Status::Version).await,
                _ => answer(&mut send, Status::NotServed).await,
            }
        }
    };
    if tokio::time::timeout(JOINER_TIMEOUT, conversation).await.is_err() {
        connection.close(CLOSE_DONE, b"joining took too long");
    }
}
