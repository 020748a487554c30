//! The upgrade of a request to a WebSocket: which protocol is spoken, the handshake, the start of the session's actor. The edge
//! calls it for a request that wants one, after the API has planned the session.

use std::sync::Arc;

use actix_web::http::header::{SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use actix_web::{HttpRequest, HttpResponse, web};
use futures::FutureExt;
use tokio::runtime::Handle;

use api::status::Status;
use protocol::node::NodeDoor;

use super::actor::{Client, StreamSession};
use super::channel::{self, PORT_FORWARD, Protocol, REMOTE_COMMAND, negotiate};
use super::plan::{Plan, Work};
use super::{containers, ports, tunnel};
use crate::doorway::SessionRecord;
use crate::session::{Connection, SessionCounters};

/// How many parts of a forwarded port wait in each direction.
pub(super) const PARTS_WAITING_MAX: usize = 8;
/// The longest message: clients copy through buffers of 32 KiB, but nothing says so.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// What a connection can be turned into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// A WebSocket.
    WebSocket,
    /// SPDY, which is refused.
    Spdy,
}

/// What a request wants its connection to become. Its body is then no body: nothing of it may be read before.
pub fn upgrades_to(http: &HttpRequest) -> Option<Upgrade> {
    let value = http.headers().get(UPGRADE)?.to_str().ok()?;
    if value.eq_ignore_ascii_case("websocket") {
        Some(Upgrade::WebSocket)
    } else if value.to_ascii_lowercase().starts_with("spdy/") {
        Some(Upgrade::Spdy)
    } else {
        None
    }
}

/// What carries a session.
enum Carrier {
    Channels(Protocol),
    Tunnel,
}

/// Upgrades the connection and starts the session.
pub fn upgrade(
    http: &HttpRequest,
    payload: web::Payload,
    plan: Plan,
    doors: Arc<dyn NodeDoor>,
    (runtime, connection, counters, record): (Handle, Connection, Arc<SessionCounters>, SessionRecord),
) -> Result<HttpResponse, Status> {
    if upgrades_to(http) != Some(Upgrade::WebSocket) {
        return Err(Status::bad_request(
            "unable to upgrade: this server upgrades to WebSocket alone; use kubectl 1.31 or newer",
        ));
    }
    let offered = offered(http);
    let offered: Vec<&str> = offered.iter().map(String::as_str).collect();
    let (carrier, name) = match &plan.work {
        Work::Ports(_) if offered.contains(&tunnel::PROTOCOL) => (Carrier::Tunnel, tunnel::PROTOCOL),
        Work::Ports(ports) => {
            let protocol = negotiate(&offered, PORT_FORWARD)?.unwrap_or(PORT_FORWARD[0]);
            check_ports(ports)?;
            (Carrier::Channels(protocol), protocol.name)
        }
        Work::Exec(_) | Work::Attach(_) => match negotiate(&offered, REMOTE_COMMAND)? {
            Some(protocol) => (Carrier::Channels(protocol), protocol.name),
            None => (Carrier::Channels(channel::first_version()), ""),
        },
    };
    let names = [name];
    let known: &[&str] = if name.is_empty() { &[] } else { &names };
    let (response, socket, messages) = actix_ws::handle_with_protocols(http, payload, known)
        .map_err(|error| Status::bad_request(format!("unable to upgrade: {error}")))?;
    let messages = messages
        .max_frame_size(MESSAGE_BYTES_MAX)
        .aggregate_continuations()
        .max_continuation_size(MESSAGE_BYTES_MAX);
    let client = Client {
        socket,
        counters: Arc::clone(&counters),
    };
    let work = match (carrier, plan.work.clone()) {
        (Carrier::Tunnel, _) => tunnel::run(client, messages, plan, doors, runtime).boxed_local(),
        (Carrier::Channels(protocol), Work::Ports(ports)) => {
            ports::run(client, messages, protocol, (plan, ports), doors, runtime).boxed_local()
        }
        (Carrier::Channels(protocol), _) => {
            containers::run(client, messages, protocol, plan, doors, runtime).boxed_local()
        }
    };
    let work = async move {
        work.await;
        drop(record);
    };
    StreamSession::start(work.boxed_local(), connection, counters);
    Ok(response)
}

/// Two channels for each port have to fit into a byte.
fn check_ports(ports: &[u16]) -> Result<(), Status> {
    const PORTS_MAX: usize = 127;
    match ports.len() {
        0 => Err(Status::bad_request("you must specify at least 1 port")),
        1..=PORTS_MAX => Ok(()),
        count => Err(Status::bad_request(format!(
            "{count} ports are more than the {PORTS_MAX} that one connection forwards"
        ))),
    }
}

/// The protocols that a client offers, in its order.
fn offered(http: &HttpRequest) -> Vec<String> {
    let values = http.headers().get_all(SEC_WEBSOCKET_PROTOCOL);
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}
