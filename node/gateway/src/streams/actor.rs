//! One session is one actix actor. It lives on the worker that holds the client's connection, carries the session's work,
//! is counted, and ends when the work does or the connection closes; what the work holds is dropped with it, which ends the
//! command or connection on the pod's node.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, WrapFuture};
use bytes::Bytes;
use futures::future::LocalBoxFuture;

use crate::session::{Connection, SessionCounters};

/// How often a client is pinged. It need not answer: that the kernel gets no acknowledgement in the end closes the
/// connection of a machine that vanished.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(30);

/// The client's side of a session.
#[derive(Clone)]
pub(super) struct Client {
    /// The WebSocket. Sending waits for room.
    pub socket: actix_ws::Session,
    /// What all sessions add up to.
    pub counters: Arc<SessionCounters>,
}

/// The client has gone.
#[derive(Debug)]
pub(super) struct Gone;

impl From<actix_ws::Closed> for Gone {
    fn from(_: actix_ws::Closed) -> Gone {
        Gone
    }
}

impl Client {
    /// Sends a binary message, or a text one.
    pub(super) async fn send(&mut self, message: Bytes, is_text: bool) -> Result<(), Gone> {
        let size = message.len() as u64;
        match (is_text, std::str::from_utf8(&message)) {
            (true, Ok(text)) => self.socket.text(text.to_owned()).await?,
            _ => self.socket.binary(message).await?,
        }
        self.counters.sent_bytes.fetch_add(size, Ordering::Relaxed);
        Ok(())
    }

    /// Pings as long as the client is there.
    pub(super) async fn ping(&mut self) {
        loop {
            tokio::time::sleep(PING_INTERVAL).await;
            if self.socket.ping(b"").await.is_err() {
                return;
            }
        }
    }
}

/// The actor.
pub(super) struct StreamSession {
    counters: Arc<SessionCounters>,
    work: Option<LocalBoxFuture<'static, ()>>,
    connection: Connection,
}

impl StreamSession {
    /// Starts it in the current arbiter.
    pub(super) fn start(work: LocalBoxFuture<'static, ()>, connection: Connection, counters: Arc<SessionCounters>) {
        Actor::start(StreamSession {
            counters,
            work: Some(work),
            connection,
        });
    }
}

impl Actor for StreamSession {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.counters.open.fetch_add(1, Ordering::Relaxed);
        self.counters.opened.fetch_add(1, Ordering::Relaxed);
        let Some(work) = self.work.take() else {
            return context.stop();
        };
        let mut connection = self.connection.clone();
        let work = async move {
            tokio::select! {
                () = work => {}
                () = connection.closed() => {}
            }
        };
        let ends = work
            .into_actor(self)
            .map(|(), _, context: &mut Context<Self>| context.stop());
        context.spawn(ends);
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::ConnectionOpen;

    struct Dropped(Arc<tokio::sync::Notify>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }

    #[test]
    fn a_silent_session_ends_with_its_connection_and_lets_go_of_its_work() {
        actix::System::new().block_on(async {
            let counters = Arc::new(SessionCounters::default());
            let (open, dropped) = (ConnectionOpen::new(None), Arc::new(tokio::sync::Notify::new()));
            let held = Dropped(Arc::clone(&dropped));
            let work = async move {
                let _held = held;
                std::future::pending::<()>().await;
            };
            StreamSession::start(Box::pin(work), open.connection(), Arc::clone(&counters));
            tokio::task::yield_now().await;
            drop(open);
            let end = tokio::time::timeout(Duration::from_secs(5), dropped.notified()).await;
            end.expect("the work is dropped");
            assert_eq!(counters.opened.load(Ordering::Relaxed), 1);
            let begun = std::time::Instant::now();
            while counters.open.load(Ordering::Relaxed) != 0 {
                assert!(
                    begun.elapsed() < Duration::from_secs(5),
                    "the session is counted as open"
                );
                tokio::task::yield_now().await;
            }
        });
    }
}
