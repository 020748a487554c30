//! A stream of bytes between two nodes, for what has a protocol of its own: remoting, exec, port-forward. Made by
//! `transport::open` and handed to a `RawService`. Within one node it is a pipe in memory.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::peer::Usage;

/// The read half.
pub type RawReader = Box<dyn AsyncRead + Send + Sync + Unpin>;
/// The write half. Shutting it down tells the peer that nothing more comes.
pub type RawWriter = Box<dyn AsyncWrite + Send + Sync + Unpin>;

/// A stream of bytes both ways. Dropping a half ends its direction.
pub struct RawStream {
    /// From the peer.
    pub reader: RawReader,
    /// To the peer.
    pub writer: RawWriter,
}

impl std::fmt::Debug for RawStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawStream").finish_non_exhaustive()
    }
}

impl RawStream {
    /// Over a QUIC stream; the connection is kept alive until both halves are gone.
    pub(super) fn over(send: quinn::SendStream, receive: quinn::RecvStream, usage: Usage) -> RawStream {
        let usage = std::sync::Arc::new(usage);
        RawStream {
            reader: Box::new(Half {
                stream: receive,
                _usage: usage.clone(),
            }),
            writer: Box::new(Half {
                stream: send,
                _usage: usage,
            }),
        }
    }

    /// Both ends of a pipe in memory.
    pub fn pair() -> (RawStream, RawStream) {
        let (a, b) = tokio::io::duplex(256 << 10);
        let wrap = |stream| {
            let (reader, writer) = tokio::io::split(stream);
            RawStream {
                reader: Box::new(reader),
                writer: Box::new(writer),
            }
        };
        (wrap(a), wrap(b))
    }
}

/// A half that keeps its connection in use.
struct Half<S> {
    stream: S,
    _usage: std::sync::Arc<Usage>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Half<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Half<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
