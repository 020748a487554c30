//! Port-forward as kubectl speaks it: SPDY inside of the messages of a WebSocket. Each connection that kubectl accepts
//! becomes two streams with the same `requestid`: one for errors, one for data; the pair begins a connection to the pod.
//!
//! Incoming and outgoing frames are moved apart from each other, so that a pod which answers before it has read all never
//! stands still. A pod that does not read holds up the tunnel, as SPDY has no flow control there.

use std::collections::HashMap;
use std::sync::Arc;

use actix_ws::{AggregatedMessage, AggregatedMessageStream};
use bytes::Bytes;
use futures::StreamExt;
use protocol::node::NodeDoor;
use protocol::session::PortSpec;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::actor::{Client, Gone};
use super::plan::Plan;
use super::ports::failure;
use super::spdy::{Decoder, Encoder, Frame, Headers, Reply, ResetReason, header};
use super::upgrade::PARTS_WAITING_MAX;

/// The subprotocol's name.
pub(super) const PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
/// How many connections one client may have at a time; what is more is refused.
const CONNECTIONS_MAX: usize = 1024;

/// The whole session.
pub(super) async fn run(
    mut client: Client,
    mut messages: AggregatedMessageStream,
    plan: Plan,
    doors: Arc<dyn NodeDoor>,
    runtime: Handle,
) {
    let (mut ping, mut answering) = (client.clone(), client.clone());
    let (replies, mut from_streams) = mpsc::channel::<Reply>(PARTS_WAITING_MAX);
    let mut tunnel = Tunnel {
        plan,
        doors,
        runtime,
        replies,
        halves: HashMap::new(),
        connections: HashMap::new(),
    };
    let outgoing = async {
        let mut encoder = Encoder::new();
        while let Some(reply) = from_streams.recv().await {
            client.send(encoder.encode(&reply), false).await?;
        }
        Ok::<(), Gone>(())
    };
    let incoming = async {
        let mut decoder = Decoder::new();
        while let Some(Ok(message)) = messages.next().await {
            match message {
                AggregatedMessage::Binary(bytes) => decoder.push(&bytes),
                AggregatedMessage::Ping(bytes) => {
                    if answering.socket.pong(&bytes).await.is_err() {
                        return;
                    }
                }
                AggregatedMessage::Text(_) | AggregatedMessage::Pong(_) => {}
                AggregatedMessage::Close(_) => return,
            }
            loop {
                match decoder.next_frame() {
                    Ok(None) => break,
                    Ok(Some(frame)) => tunnel.take(frame).await,
                    Err(error) => {
                        tracing::debug!(%error, "a client's tunnel was given up");
                        return;
                    }
                }
            }
        }
    };
    tokio::select! {
        _ = outgoing => {}
        () = incoming => {}
        () = ping.ping() => {}
    }
}

/// A stream whose other half has not come.
struct Half {
    stream: u32,
    is_data: bool,
    port: u16,
    is_finished: bool,
}

/// A connection to the pod, by its data stream.
struct Forwarded {
    error_stream: u32,
    input: Option<mpsc::Sender<Bytes>>,
    task: AbortOnDropHandle<()>,
}

struct Tunnel {
    plan: Plan,
    doors: Arc<dyn NodeDoor>,
    runtime: Handle,
    replies: mpsc::Sender<Reply>,
    halves: HashMap<String, Half>,
    connections: HashMap<u32, Forwarded>,
}

impl Tunnel {
    async fn take(&mut self, frame: Frame) {
        match frame {
            Frame::Open { stream, headers, fin } => self.open(stream, &headers, fin).await,
            Frame::Data { stream, bytes, fin } => {
                let Some(forwarded) = self.connections.get_mut(&stream) else {
                    return self.note_end_of_half(stream, fin);
                };
                if let (Some(input), false) = (&forwarded.input, bytes.is_empty())
                    && input.send(bytes).await.is_err()
                {
                    forwarded.input = None; // the connection has closed
                }
                if fin {
                    forwarded.input = None;
                }
            }
            Frame::Reset { stream } => {
                self.halves.retain(|_, half| half.stream != stream);
                self.connections
                    .retain(|data, forwarded| *data != stream && forwarded.error_stream != stream);
            }
            // The client's numbers are odd; an even one answers a ping of this side, which sends none.
            Frame::Ping { id } if id % 2 == 1 => self.reply(Reply::Ping { id }).await,
            Frame::Ping { .. } => {}
        }
    }

    async fn reply(&self, reply: Reply) {
        let _ = self.replies.send(reply).await; // the client has gone, and the session with it
    }

    fn note_end_of_half(&mut self, stream: u32, fin: bool) {
        if let Some(half) = self.halves.values_mut().find(|half| half.stream == stream) {
            half.is_finished |= fin;
        }
    }

    async fn open(&mut self, stream: u32, headers: &Headers, is_finished: bool) {
        self.connections.retain(|_, forwarded| !forwarded.task.is_finished());
        let reset = |reason| Reply::Reset { stream, reason };
        if self.connections.len() + self.halves.len() >= CONNECTIONS_MAX {
            return self.reply(reset(ResetReason::Refused)).await;
        }
        let Some((id, half)) = half(stream, headers, is_finished) else {
            return self.reply(reset(ResetReason::Protocol)).await;
        };
        self.reply(Reply::Accept { stream }).await;
        match self.halves.remove(&id) {
            Some(other) if other.is_data != half.is_data && other.port == half.port => self.begin(half, other),
            _ => drop(self.halves.insert(id, half)),
        }
    }

    fn begin(&mut self, one: Half, other: Half) {
        let (data, error) = if one.is_data { (one, other) } else { (other, one) };
        let (input, from_client) = mpsc::channel(PARTS_WAITING_MAX);
        let work = connection(
            Arc::clone(&self.doors),
            self.plan.clone(),
            (data.stream, error.stream, data.port),
            from_client,
            self.replies.clone(),
        );
        let forwarded = Forwarded {
            error_stream: error.stream,
            input: (!data.is_finished).then_some(input),
            task: AbortOnDropHandle::new(self.runtime.spawn(work)),
        };
        self.connections.insert(data.stream, forwarded);
    }
}

/// What a stream is for, from its headers, and the id of its pair.
fn half(stream: u32, headers: &Headers, is_finished: bool) -> Option<(String, Half)> {
    let is_data = match header(headers, "streamtype")? {
        "data" => true,
        "error" => false,
        _ => return None,
    };
    let half = Half {
        stream,
        is_data,
        port: header(headers, "port")?.parse().ok().filter(|port| *port > 0)?,
        is_finished,
    };
    Some((header(headers, "requestid")?.to_owned(), half))
}

/// One connection, on the main runtime. Both streams are closed at its end, by which the client knows it.
async fn connection(
    doors: Arc<dyn NodeDoor>,
    plan: Plan,
    (data, error, port): (u32, u32, u16),
    from_client: mpsc::Receiver<Bytes>,
    replies: mpsc::Sender<Reply>,
) {
    let send = |stream: u32, bytes: Bytes, fin: bool| replies.send(Reply::Data { stream, bytes, fin });
    let input = futures::stream::unfold(from_client, |mut from_client| async move {
        from_client.recv().await.map(|bytes| (bytes, from_client))
    });
    let spec = PortSpec {
        pod: plan.pod.uid.clone(),
        port,
    };
    let mut why = String::new();
    match doors.port_forward(&plan.node, spec, input.boxed()).await {
        Ok(mut output) => {
            while let Some(part) = output.next().await {
                match part {
                    Ok(bytes) => {
                        if send(data, bytes, false).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => why = failure(&plan.pod, port, &error),
                }
            }
        }
        Err(error) => why = failure(&plan.pod, port, &error),
    }
    let ended = send(error, Bytes::from(why), true).await;
    if ended.is_ok() {
        let _ = send(data, Bytes::new(), true).await; // the client has gone, and the session with it
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_says_what_it_is_for() {
        let headers = |kind: &str, port: &str| -> Headers {
            [("streamtype", kind), ("port", port), ("requestid", "4")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec()
        };
        let (id, found) = half(3, &headers("data", "80"), true).unwrap();
        assert_eq!((id.as_str(), found.stream, found.is_data), ("4", 3, true));
        assert_eq!((found.port, found.is_finished), (80, true));
        for (kind, port) in [("other", "80"), ("data", "0"), ("error", "70000"), ("error", "x")] {
            assert!(half(3, &headers(kind, port), false).is_none(), "{kind} {port}");
        }
        assert!(half(3, &Headers::new(), false).is_none());
    }
}
