//! Exec and attach: moves messages of `channel` between the client and a session on the pod's node.

use std::sync::Arc;

use actix_ws::{AggregatedMessage, AggregatedMessageStream};
use futures::StreamExt;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use api::status::Status;
use protocol::node::{NodeDoor, NodeDoorError};
use protocol::session::{OutputStream, SessionInput, SessionOutput};

use super::actor::{Client, Gone};
use super::channel::{self, Protocol};
use super::plan::{Plan, Work};

/// How many messages of the client wait for the container.
const INPUT_WAITING_MAX: usize = 8;

/// The whole session.
pub(super) async fn run(
    mut client: Client,
    mut messages: AggregatedMessageStream,
    protocol: Protocol,
    plan: Plan,
    doors: Arc<dyn NodeDoor>,
    runtime: Handle,
) {
    let (sender, receiver) = mpsc::channel(INPUT_WAITING_MAX);
    let mut ping = client.clone();
    let mut answering = client.clone();
    let incoming = take_input(&mut messages, &mut answering, protocol, sender);
    let outgoing = async {
        let input = futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|item| (item, receiver))
        });
        // On the main runtime: what it opens is served there, not by the worker of this one connection.
        let begun = runtime.spawn(begin(doors, plan, input.boxed())).await;
        let sent = match begun {
            Ok(Ok((output, opening))) => send_output(&mut client, protocol, output, opening).await,
            Ok(Err(status)) => fail(&mut client, protocol, &status).await,
            Err(error) => {
                tracing::error!(%error, "a session failed: a bug");
                fail(
                    &mut client,
                    protocol,
                    &Status::internal("the session could not be served"),
                )
                .await
            }
        };
        if sent.is_ok() {
            let _ = client.socket.close(Some(actix_ws::CloseCode::Normal.into())).await; // it has gone by itself
        }
    };
    tokio::select! {
        () = outgoing => {}
        () = incoming => {}
        () = ping.ping() => {}
    }
}

/// Begins the session; also says which channel the client hears of first.
async fn begin(
    doors: Arc<dyn NodeDoor>,
    plan: Plan,
    input: protocol::session::InputStream,
) -> Result<(OutputStream, u8), Status> {
    let (streams, begun) = match plan.work {
        Work::Exec(spec) => (spec.streams, doors.exec(&plan.node, spec, input).await),
        Work::Attach(spec) => {
            let streams = spec.streams;
            let begun = doors.attach(&plan.node, spec, input).await;
            (streams, begun.map(|output| output.map(attached).boxed()))
        }
        Work::Ports(_) => return Err(Status::internal("ports are not forwarded by this session")),
    };
    let opening = match (streams.stdout, streams.stderr) {
        (true, _) => channel::STDOUT,
        (false, true) => channel::STDERR,
        (false, false) => channel::STATUS,
    };
    let output = begun.map_err(|error| match error {
        NodeDoorError::Absent(what) => Status::internal(format!("container not found: {what} does not exist")),
        other => Status::internal(format!("error executing command in container: {other}")),
    })?;
    Ok((output, opening))
}

/// What a container ends with is no outcome of having been attached to it: Kubernetes tells of a success, and clients read the
/// code in the pod's status.
fn attached<E>(item: Result<SessionOutput, E>) -> Result<SessionOutput, E> {
    item.map(|output| match output {
        SessionOutput::Exited { .. } => SessionOutput::Exited { code: 0 },
        other => other,
    })
}

async fn send_output(
    client: &mut Client,
    protocol: Protocol,
    mut output: OutputStream,
    opening: u8,
) -> Result<(), Gone> {
    // Clients wait for a first message, by which they know that the session has begun.
    client
        .send(channel::encode(protocol, opening, &[]), protocol.base64)
        .await?;
    while let Some(item) = output.next().await {
        let message = match item {
            Ok(SessionOutput::Stdout(bytes)) => channel::encode(protocol, channel::STDOUT, &bytes),
            Ok(SessionOutput::Stderr(bytes)) => channel::encode(protocol, channel::STDERR, &bytes),
            Ok(SessionOutput::Exited { code }) => {
                let Some(text) = channel::exit_text(protocol, code) else {
                    return Ok(());
                };
                let message = channel::encode(protocol, channel::STATUS, text.as_bytes());
                return client.send(message, protocol.base64).await;
            }
            Err(error) => {
                let status = Status::internal(format!("error executing command in container: {error}"));
                return fail(client, protocol, &status).await;
            }
        };
        client.send(message, protocol.base64).await?;
    }
    let status = Status::internal("the session ended without an exit: the pod's node has gone, or is stopping");
    fail(client, protocol, &status).await
}

async fn fail(client: &mut Client, protocol: Protocol, status: &Status) -> Result<(), Gone> {
    let text = channel::failure_text(protocol, status);
    let message = channel::encode(protocol, channel::STATUS, text.as_bytes());
    client.send(message, protocol.base64).await
}

/// Takes what the client sends until it has gone. A container that reads no more is no reason to end.
async fn take_input(
    messages: &mut AggregatedMessageStream,
    answering: &mut Client,
    protocol: Protocol,
    sender: mpsc::Sender<SessionInput>,
) {
    while let Some(Ok(message)) = messages.next().await {
        let bytes = match message {
            AggregatedMessage::Binary(bytes) => bytes,
            // Python's client sends text where it was given text; the channel is the first character all the same.
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
        let message = channel::decode(protocol, bytes);
        if let Some(item) = message.and_then(|message| channel::input(protocol, message)) {
            let _ = sender.send(item).await; // the session is over, which its output tells
        }
    }
}
