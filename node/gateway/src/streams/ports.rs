//! Port-forward as client libraries speak it: two channels for each port that the request names, data and error, each of
//! which the server begins with the port's number. The ports' connections are opened at once, and the session is over when
//! all of them have closed.

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
use super::channel::{self, Protocol};
use super::plan::{Plan, PodNames};
use super::upgrade::PARTS_WAITING_MAX;

/// What goes to the client.
pub(super) struct ToClient {
    channel: u8,
    content: Bytes,
}

/// The whole session.
pub(super) async fn run(
    mut client: Client,
    mut messages: AggregatedMessageStream,
    protocol: Protocol,
    (plan, ports): (Plan, Vec<u16>),
    doors: Arc<dyn NodeDoor>,
    runtime: Handle,
) {
    let (mut ping, mut answering) = (client.clone(), client.clone());
    let (to_client, mut from_pods) = mpsc::channel::<ToClient>(PARTS_WAITING_MAX);
    let mut inputs = Vec::new();
    let mut connections = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let (input, from_client) = mpsc::channel::<Bytes>(PARTS_WAITING_MAX);
        inputs.push(input);
        let work = connection(
            Arc::clone(&doors),
            plan.clone(),
            *port,
            index as u8 * 2,
            from_client,
            to_client.clone(),
        );
        connections.push(AbortOnDropHandle::new(runtime.spawn(work)));
    }
    drop(to_client);
    let outgoing = async {
        while let Some(part) = from_pods.recv().await {
            let message = channel::encode(protocol, part.channel, &part.content);
            client.send(message, protocol.base64).await?;
        }
        let _ = client
            .socket
            .clone()
            .close(Some(actix_ws::CloseCode::Normal.into()))
            .await; // it has gone by itself
        Ok::<(), Gone>(())
    };
    let incoming = async {
        while let Some(Ok(message)) = messages.next().await {
            let bytes = match message {
                AggregatedMessage::Binary(bytes) => bytes,
                AggregatedMessage::Text(text) => text.into_bytes(),
                AggregatedMessage::Ping(bytes) => {
                    if answering.socket.pong(&bytes).await.is_err() {
                        return;
                    }
                    continue;
                }
                AggregatedMessage::Pong(_) => continue,
                AggregatedMessage::Close(_) => return,
            };
            let Some(message) = channel::decode(protocol, bytes) else {
                continue;
            };
            let is_data = message.channel % 2 == 0;
            if let (true, Some(input)) = (is_data, inputs.get(usize::from(message.channel / 2))) {
                let _ = input.send(message.content).await; // its connection has closed
            }
        }
    };
    tokio::select! {
        _ = outgoing => {}
        () = incoming => {}
        () = ping.ping() => {}
    }
}

/// One port, on the main runtime.
async fn connection(
    doors: Arc<dyn NodeDoor>,
    plan: Plan,
    port: u16,
    data: u8,
    from_client: mpsc::Receiver<Bytes>,
    to_client: mpsc::Sender<ToClient>,
) {
    let send = |channel: u8, content: Bytes| to_client.send(ToClient { channel, content });
    for channel in [data, data + 1] {
        if send(channel, Bytes::copy_from_slice(&port.to_le_bytes()))
            .await
            .is_err()
        {
            return;
        }
    }
    let input = futures::stream::unfold(from_client, |mut from_client| async move {
        from_client.recv().await.map(|bytes| (bytes, from_client))
    });
    let spec = PortSpec {
        pod: plan.pod.uid.clone(),
        port,
    };
    let mut output = match doors.port_forward(&plan.node, spec, input.boxed()).await {
        Ok(output) => output,
        Err(error) => {
            let _ = send(data + 1, Bytes::from(failure(&plan.pod, port, &error))).await;
            return;
        }
    };
    while let Some(part) = output.next().await {
        let sent = match part {
            Ok(bytes) => send(data, bytes).await,
            Err(error) => send(data + 1, Bytes::from(failure(&plan.pod, port, &error))).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// What the kubelet says of a port that cannot be forwarded.
pub(super) fn failure(pod: &PodNames, port: u16, error: &dyn std::fmt::Display) -> String {
    format!(
        "error forwarding port {port} to pod {}, uid {}: {error}",
        pod.name, pod.uid
    )
}
