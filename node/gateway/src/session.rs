//! A long-lived client session (a watch, a followed log) is an actix actor: it moves the parts of a stream to the client,
//! is counted, and ends when the client goes or the stream does. It stands between the HTTP edge and the ractor world.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix::{Actor, ActorContext, AsyncContext, Context, StreamHandler};
use bytes::Bytes;
use futures::Stream;
use tokio::sync::{mpsc, watch};

use crate::request::BodyStream;

/// How many parts wait for a slow client before the session stops reading: a slow client costs bounded memory, and the
/// store drops a watcher that lags too far.
const PARTS_WAITING_MAX: usize = 256;

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
}

impl ConnectionOpen {
    /// For a new connection.
    #[expect(clippy::new_without_default, reason = "a default of an open connection says nothing")]
    pub fn new() -> ConnectionOpen {
        ConnectionOpen {
            open: watch::channel(()).0,
        }
    }

    /// What a session watches.
    pub fn connection(&self) -> Connection {
        Connection(Some(self.open.subscribe()))
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

/// The actor.
pub struct Session {
    client: mpsc::Sender<Bytes>,
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
        counters: Arc<SessionCounters>,
    ) -> impl Stream<Item = Result<Bytes, Infallible>> + 'static {
        let (client, body) = mpsc::channel(PARTS_WAITING_MAX);
        let session = Session {
            client,
            connection,
            counters,
            parts: Some(parts),
        };
        Actor::start(session);
        futures::stream::unfold(body, |mut body| async move {
            body.recv().await.map(|part| (Ok(part), body))
        })
    }
}

impl Actor for Session {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.counters.open.fetch_add(1, Ordering::Relaxed);
        self.counters.opened.fetch_add(1, Ordering::Relaxed);
        let Some(parts) = self.parts.take() else {
            return context.stop();
        };
        let moving = (parts, self.client.clone(), self.connection.clone());
        // Each part waits for room before the next is read; a client that went ends the stream.
        let moved = futures::stream::unfold(moving, |(mut parts, client, mut connection)| async move {
            let part = tokio::select! {
                part = futures::StreamExt::next(&mut parts) => part?,
                () = client.closed() => return None,
                () = connection.closed() => return None,
            };
            let size = part.len();
            client.send(part).await.ok()?;
            Some((Sent(size), (parts, client, connection)))
        });
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
            let open = ConnectionOpen::new();
            let parts = futures::stream::once(async { Bytes::from_static(b"one") }).chain(futures::stream::pending());
            let mut body = Box::pin(Session::start(
                Box::pin(parts),
                open.connection(),
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
}
