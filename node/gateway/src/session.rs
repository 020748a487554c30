//! A long-lived client session (a watch, a followed log) is an actix actor: it moves the parts of a stream to the client,
//! is counted, and ends when the client goes or the stream does. It stands between the HTTP edge and the ractor world.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix::{Actor, ActorContext, AsyncContext, Context, StreamHandler};
use bytes::Bytes;
use futures::Stream;
use tokio::sync::mpsc;

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

/// The actor.
pub struct Session {
    client: mpsc::Sender<Bytes>,
    counters: Arc<SessionCounters>,
    parts: Option<BodyStream>,
}

struct Sent(usize);

impl Session {
    /// Starts a session in the current arbiter and returns the body of the HTTP answer.
    pub fn start(
        parts: BodyStream,
        counters: Arc<SessionCounters>,
    ) -> impl Stream<Item = Result<Bytes, Infallible>> + 'static {
        let (client, body) = mpsc::channel(PARTS_WAITING_MAX);
        let session = Session { client, counters, parts: Some(parts) };
        Actor::start(session);
        futures::stream::unfold(body, |mut body| async move { body.recv().await.map(|part| (Ok(part), body)) })
    }
}

impl Actor for Session {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.counters.open.fetch_add(1, Ordering::Relaxed);
        self.counters.opened.fetch_add(1, Ordering::Relaxed);
        let Some(parts) = self.parts.take() else { return context.stop() };
        let client = self.client.clone();
        // Each part waits for room before the next is read; a client that went ends the stream.
        let moved = futures::stream::unfold((parts, client), |(mut parts, client)| async move {
            let part = tokio::select! {
                part = futures::StreamExt::next(&mut parts) => part?,
                () = client.closed() => return None,
            };
            let size = part.len();
            client.send(part).await.ok()?;
            Some((Sent(size), (parts, client)))
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
