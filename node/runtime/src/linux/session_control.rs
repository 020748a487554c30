//! The node's end of one session's socket to a pod's parent. The session lasts as long as this socket: when it is dropped, the
//! parent ends the command, or lets go of the client. Descriptors go with the request, a terminal comes back by a socket of
//! its own.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::Path;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use protocol::runtime::RuntimeError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::connection::{REPLY_TIMEOUT, connect};
use crate::failure::io_failure;
use crate::pod_parent::message::{FromParent, ReplyBody, Request, RequestBody, encode, take_frame};

/// The id of a session's one request.
const REQUEST: u64 = 1;

/// A session's socket.
pub(super) struct SessionControl {
    reading: OwnedReadHalf,
    inbound: Vec<u8>,
}

impl SessionControl {
    /// Connects and asks. Blocking, for as long as the parent takes to read the request.
    pub(super) fn ask(
        pod_directory: &Path,
        body: RequestBody,
        descriptors: Vec<OwnedFd>,
    ) -> Result<BlockingStream, RuntimeError> {
        let failed = |error: io::Error| io_failure("asking the pod's parent for a session", &error);
        let mut stream = connect(pod_directory).map_err(failed)?;
        let frame = encode(&Request { id: REQUEST, body });
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let parts = [IoSlice::new(&frame)];
        let sent = sendmsg::<()>(stream.as_raw_fd(), &parts, &rights, MsgFlags::MSG_NOSIGNAL, None);
        let sent = sent.map_err(|errno| failed(errno.into()))?;
        stream.write_all(&frame[sent..]).map_err(failed)?;
        stream.set_nonblocking(true).map_err(failed)?;
        Ok(stream)
    }

    /// Waits until the session has begun.
    pub(super) async fn begin(stream: BlockingStream, what: &str) -> Result<(SessionControl, Resizing), RuntimeError> {
        let stream = UnixStream::from_std(stream).map_err(|error| io_failure("asking the pod's parent", &error))?;
        let (reading, writing) = stream.into_split();
        let mut control = SessionControl {
            reading,
            inbound: Vec::new(),
        };
        let reply = tokio::time::timeout(REPLY_TIMEOUT, control.reply()).await;
        match reply.unwrap_or(None) {
            Some(ReplyBody::SessionBegun) => Ok((control, Resizing(writing))),
            Some(ReplyBody::Failed(failure)) => Err(failure.into()),
            Some(ReplyBody::Absent) => Err(RuntimeError::NotFound { what: what.to_owned() }),
            Some(ReplyBody::NotUnderstood) => Err(RuntimeError::Failed {
                doing: format!("a session with {what}"),
                reason: "the pod was started by an older version that has no sessions: restart the pod".to_owned(),
            }),
            other => Err(RuntimeError::Failed {
                doing: format!("a session with {what}"),
                reason: format!("the pod's parent answered {other:?}: it is ending, or of another version"),
            }),
        }
    }

    async fn reply(&mut self) -> Option<ReplyBody> {
        loop {
            if let FromParent::Reply { id: REQUEST, body } = self.next().await? {
                return Some(body);
            }
        }
    }

    /// Waits for the process's end: its exit code. `None` when the parent has gone.
    pub(super) async fn ended(&mut self) -> Option<i32> {
        loop {
            if let FromParent::SessionEnded { code } = self.next().await? {
                return Some(code);
            }
        }
    }

    /// The next message. What this version does not know is passed over. Cancelling it loses nothing.
    async fn next(&mut self) -> Option<FromParent> {
        loop {
            while let Some(frame) = take_frame(&mut self.inbound).ok()? {
                if let Ok(message) = serde_json::from_slice(&frame) {
                    return Some(message);
                }
            }
            if self.reading.read_buf(&mut self.inbound).await.ok()? == 0 {
                return None;
            }
        }
    }
}

/// Says the size of the container's terminal, to which a client is attached.
pub(super) struct Resizing(OwnedWriteHalf);

impl Resizing {
    /// A parent that has gone needs none.
    pub(super) async fn resize(&mut self, width: u16, height: u16) {
        let body = RequestBody::Resize { width, height };
        let _ = self.0.write_all(&encode(&Request { id: REQUEST, body })).await;
    }
}

/// Takes the terminal that a command sent. Blocking; it has been sent when the session has begun.
pub(super) fn receive_terminal(socket: &BlockingStream) -> Result<OwnedFd, RuntimeError> {
    let failed = |reason: String| RuntimeError::Failed {
        doing: "taking the terminal of a command in the container".to_owned(),
        reason,
    };
    let mut byte = [0; 1];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut control = nix::cmsg_space!(RawFd);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)
        .map_err(|errno| failed(errno.desc().to_owned()))?;
    let mut owned = Vec::new();
    for part in message.cmsgs().map_err(|errno| failed(errno.desc().to_owned()))? {
        if let ControlMessageOwned::ScmRights(descriptors) = part {
            // SAFETY: the kernel has just made these descriptors, and nothing else owns them.
            owned.extend(descriptors.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
        }
    }
    owned.pop().ok_or_else(|| failed("it sent none".to_owned()))
}
