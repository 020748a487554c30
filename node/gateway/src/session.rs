//! A long-lived client session (a watch, a followed log) is an actix actor: it moves the parts of a stream to the client,
//! is counted, and ends when the client goes or the stream does. It stands between the HTTP edge and the ractor world.

use std::convert::Infallible;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::{Actor, ActorContext, AsyncContext, Context, StreamHandler};
use bytes::Bytes;
use futures::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::request::BodyStream;

/// How many parts wait for a slow client before the session stops reading: a slow client costs bounded memory, and the
/// store drops a watcher that lags too far.
const PARTS_WAITING_MAX: usize = 256;

/// How many KiB wait for it: a hundred clients that read nothing of large objects must not cost gigabytes. A part that is
/// larger than this waits alone.
const WAITING_KIB_MAX: u32 = 256;

/// How long a client may take no part of a watch, while parts wait, before the session ends. What it missed it reads with
/// another watch.
pub const UNREAD_MAX: Duration = Duration::from_secs(15);

/// A part that waits, and its share of what may wait.
type Waiting = (Bytes, OwnedSemaphorePermit);

/// What all sessions of a node add up to.
#[derive(Debug, Default)]
pub struct SessionCounters {
    /// Open at present.
    pub open: AtomicU64,
    /// Opened since the start of the process.
    pub opened: AtomicU64,
    /// Bytes sent to clients.
    pub sent_bytes: AtomicU64,
}

/// Lives as long as a connection does. Over HTTP/2, actix sees that a client has gone only when it sends something, and
/// a watch on objects that never change would stay for its whole time.
pub struct ConnectionOpen {
    open: watch::Sender<()>,
    socket: Option<RawFd>,
}

impl ConnectionOpen {
    /// For a new connection. `socket` is what it goes over, which outlives this.
    pub fn new(socket: Option<RawFd>) -> ConnectionOpen {
        ConnectionOpen {
            open: watch::channel(()).0,
            socket,
        }
    }

    /// What a session watches.
    pub fn connection(&self) -> Connection {
        Connection(Some(self.open.subscribe()))
    }

    /// A handle by which a session can close the connection. The server waits for ever for room in the buffers of a client that
    /// has stopped reading; only the socket's end wakes it. `None` when the process has no descriptor left.
    pub fn socket(&self) -> Option<TcpStream> {
        // SAFETY: this lives in the connection's own data, which is dropped before its socket is closed.
        let socket = unsafe { BorrowedFd::borrow_raw(self.socket?) };
        socket.try_clone_to_owned().ok().map(TcpStream::from)
    }
}

/// A connection as a session sees it. The default one never closes.
#[derive(Clone, Debug, Default)]
pub struct Connection(Option<watch::Receiver<()>>);

impl Connection {
    pub(crate) async fn closed(&mut self) {
        match &mut self.0 {
            // Nothing is ever sent: it changes when the sender is dropped.
            Some(open) => while open.changed().await.is_ok() {},
            None => std::future::pending().await,
        }
    }
}

/// What ends a session whose client takes nothing any more.
#[derive(Debug, Default)]
pub struct Patience {
    /// How long nothing may be taken; for ever without a bound: a followed log waits for a person who reads it page by page.
    pub unread_max: Option<Duration>,
    /// The connection, if it carries nothing beside this session.
    pub socket: Option<TcpStream>,
}

impl Patience {
    /// Hands a part to the client; `None` when it is over with it.
    async fn send(&self, client: &mpsc::Sender<Waiting>, room: &Arc<Semaphore>, part: Bytes) -> Option<()> {
        let share = u32::try_from(part.len() / 1024 + 1).map_or(WAITING_KIB_MAX, |kib| kib.min(WAITING_KIB_MAX));
        let sending = async {
            // Never closed.
            let share = Arc::clone(room).acquire_many_owned(share).await.ok()?;
            client.send((part, share)).await.ok()
        };
        let Some(unread_max) = self.unread_max else {
            return sending.await;
        };
        let sent = tokio::time::timeout(unread_max, sending).await;
        if sent.is_err()
            && let Some(socket) = &self.socket
        {
            // It may have closed by itself.
            let _ = socket.shutdown(Shutdown::Both);
        }
        sent.ok().flatten()
    }
}

/// The actor.
pub struct Session {
    client: mpsc::Sender<Waiting>,
    patience: Option<Patience>,
    connection: Connection,
    counters: Arc<SessionCounters>,
    parts: Option<BodyStream>,
}

struct Sent(usize);

impl Session {
    /// Starts a session in the current arbiter and returns the body of the HTTP answer.
    pub fn start(
        parts: BodyStream,
        connection: Connection,
        patience: Patience,
        counters: Arc<SessionCounters>,
    ) -> impl Stream<Item = Result<Bytes, Infallible>> + 'static {
        let (client, body) = mpsc::channel(PARTS_WAITING_MAX);
        let session = Session {
            client,
            patience: Some(patience),
            connection,
            counters,
            parts: Some(parts),
        };
        Actor::start(session);
        futures::stream::unfold(body, |mut body| async move {
            // A part that is taken no longer waits: its share goes back here.
            body.recv().await.map(|(part, _)| (Ok(part), body))
        })
    }
}

impl Actor for Session {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.counters.open.fetch_add(1, Ordering::Relaxed);
        self.counters.opened.fetch_add(1, Ordering::Relaxed);
        let (Some(parts), Some(patience)) = (self.parts.take(), self.patience.take()) else {
            return context.stop();
        };
        let room = Arc::new(Semaphore::new(WAITING_KIB_MAX as usize));
        let moving = (parts, self.client.clone(), self.connection.clone(), patience, room);
        // Each part waits for room before the next is read; a client that went ends the stream.
        let moved = futures::stream::unfold(
            moving,
            |(mut parts, client, mut connection, patience, room)| async move {
                let part = tokio::select! {
                    part = futures::StreamExt::next(&mut parts) => part?,
                    () = client.closed() => return None,
                    () = connection.closed() => return None,
                };
                let size = part.len();
                patience.send(&client, &room, part).await?;
                Some((Sent(size), (parts, client, connection, patience, room)))
            },
        );
        context.add_stream(moved);
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl StreamHandler<Sent> for Session {
    fn handle(&mut self, sent: Sent, _: &mut Context<Self>) {
        self.counters.sent_bytes.fetch_add(sent.0 as u64, Ordering::Relaxed);
    }

    fn finished(&mut self, context: &mut Context<Self>) {
        context.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;

    #[test]
    fn a_session_without_events_ends_with_its_connection() {
        actix::System::new().block_on(async {
            let counters = Arc::new(SessionCounters::default());
            let open = ConnectionOpen::new(None);
            let parts = futures::stream::once(async { Bytes::from_static(b"one") }).chain(futures::stream::pending());
            let mut body = Box::pin(Session::start(
                Box::pin(parts),
                open.connection(),
                Patience::default(),
                Arc::clone(&counters),
            ));
            assert_eq!(body.next().await.map(|part| part.map(|bytes| bytes.len())), Some(Ok(3)));
            assert_eq!(counters.open.load(Ordering::Relaxed), 1);
            drop(open);
            let end = tokio::time::timeout(std::time::Duration::from_secs(5), body.next()).await;
            assert_eq!(end.expect("the body ends with the connection"), None);
            assert_eq!(counters.open.load(Ordering::Relaxed), 0);
        });
    }
    /// A socket whose other end reads nothing: the session takes what may wait, and no more; then it ends and closes the socket.
    #[test]
    fn a_session_whose_client_reads_nothing_is_bounded_and_ends() {
        use std::io::Read;
        use std::sync::atomic::AtomicUsize;

        actix::System::new().block_on(async {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            let taken = Arc::new(AtomicUsize::new(0));
            let counting = Arc::clone(&taken);
            let parts = futures::stream::repeat(Bytes::from(vec![b'x'; 10 << 10])).inspect(move |_| {
                counting.fetch_add(1, Ordering::Relaxed);
            });
            let counters = Arc::new(SessionCounters::default());
            let patience = Patience {
                unread_max: Some(Duration::from_millis(100)),
                socket: Some(server),
            };
            let connection = ConnectionOpen::new(None);
            let body = Session::start(
                Box::pin(parts),
                connection.connection(),
                patience,
                Arc::clone(&counters),
            );
            let over = async {
                while counters.opened.load(Ordering::Relaxed) == 0 || counters.open.load(Ordering::Relaxed) > 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), over)
                .await
                .expect("the session ends");
            assert!(taken.load(Ordering::Relaxed) <= WAITING_KIB_MAX as usize / 10);
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            assert_eq!(client.read(&mut [0]).unwrap(), 0, "the connection is closed");
            drop(body);
        });
    }
}
