//! The DNS server of a node: sockets, and the swap of zone snapshots.
//!
//! One per node process, started after the data plane. It answers pods of this node only (they reach it on the bridge), so it
//! must be told of every service of the cluster. Decisions are in `answer` and `zone`.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, Metadata, OpCode, ResponseCode},
    rr::{DNSClass, Record},
};
use hickory_server::{
    Server,
    net::runtime::Time,
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use parking_lot::{Mutex, RwLock};
use thiserror::Error;
use tokio::net::{TcpListener, UdpSocket};

use super::{
    answer::{self, Decision, Reply},
    forward::{UDP_PAYLOAD_MAX, Upstreams},
    zone::{DnsChange, Zone},
};
use crate::address::Ipv4Cidr;

/// How long an idle TCP client is kept. Clients ask once and leave; RFC 7766 asks for a few seconds.
const TCP_IDLE: Duration = Duration::from_secs(5);
/// Answers that wait for one TCP client to read them.
const TCP_ANSWERS_MAX: usize = 32;
/// RFC 1035's limit on an answer by UDP to a client that names no other.
const UDP_PAYLOAD_MIN: u16 = 512;

/// What the DNS server is told.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// The cluster's domain, such as `cluster.local`.
    pub cluster_domain: String,
    /// The ranges whose addresses belong to the cluster: unknown ones among them have no name, rather than one elsewhere.
    pub cluster_ranges: Vec<Ipv4Cidr>,
    /// Where other names are asked.
    pub upstreams: Upstreams,
}

/// Why the DNS server could not be started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DnsError {
    /// An address could not be bound.
    #[error(
        "the DNS server cannot listen on {address} ({transport}): {source}. {}",
        remedy(source)
    )]
    Bind {
        /// The address and port.
        address: SocketAddr,
        /// `udp` or `tcp`.
        transport: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "Another DNS server uses this address: stop it or let it listen elsewhere (`ss -lunp` shows which it is)"
        }
        io::ErrorKind::AddrNotAvailable => "This address is on no interface of the node: open the pod network first",
        io::ErrorKind::PermissionDenied => "Port 53 needs root or CAP_NET_BIND_SERVICE",
        _ => "Pods cannot resolve names without it",
    }
}

/// A running DNS server; it stops when this is dropped.
pub struct DnsServer {
    shared: Arc<Shared>,
    /// Held while a new snapshot is worked out: two updates must not both start from the same one.
    writing: Mutex<()>,
    addresses: Vec<SocketAddr>,
    /// Owns the sockets' tasks, which end with it.
    server: Server<Handler>,
}

struct Shared {
    zone: RwLock<Arc<Zone>>,
    upstreams: Upstreams,
    turn: AtomicUsize,
}

impl DnsServer {
    /// Listens on all the addresses, by UDP and TCP. Sockets are opened on the calling thread, so they belong to its network
    /// namespace. With port 0 the system chooses one; [`DnsServer::addresses`] tells which.
    pub async fn start(addresses: &[SocketAddr], config: DnsConfig) -> Result<Self, DnsError> {
        let zone = Zone::new(&config.cluster_domain, &config.cluster_ranges);
        let shared = Arc::new(Shared {
            zone: RwLock::new(Arc::new(zone)),
            upstreams: config.upstreams,
            turn: AtomicUsize::new(0),
        });
        let mut server = Server::new(Handler(Arc::clone(&shared)));
        let mut bound = Vec::with_capacity(addresses.len());
        for address in addresses {
            let failed = |transport, source| DnsError::Bind {
                address: *address,
                transport,
                source,
            };
            let udp = UdpSocket::bind(address).await.map_err(|source| failed("udp", source))?;
            let chosen = udp.local_addr().map_err(|source| failed("udp", source))?;
            let tcp = TcpListener::bind(chosen)
                .await
                .map_err(|source| failed("tcp", source))?;
            server.register_socket(udp);
            server.register_listener(tcp, TCP_IDLE, TCP_ANSWERS_MAX);
            bound.push(chosen);
        }
        tracing::info!(addresses = ?bound, domain = config.cluster_domain, "the DNS server listens");
        Ok(Self {
            shared,
            writing: Mutex::new(()),
            addresses: bound,
            server,
        })
    }

    /// The addresses on which the server listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The addresses without their ports, for a pod's resolver.
    pub fn nameservers(&self) -> Vec<IpAddr> {
        self.addresses.iter().map(SocketAddr::ip).collect()
    }

    /// Applies changes; questions that are asked from now on see all of them.
    pub fn update(&self, changes: impl IntoIterator<Item = DnsChange>) {
        let _writing = self.writing.lock();
        let present = Arc::clone(&self.shared.zone.read());
        let next = Arc::new(present.after(changes));
        *self.shared.zone.write() = next;
    }

    /// The present snapshot.
    pub fn zone(&self) -> Arc<Zone> {
        Arc::clone(&self.shared.zone.read())
    }

    /// Stops listening and waits for the answers that are under way.
    pub async fn stop(mut self) {
        if let Err(error) = self.server.shutdown_gracefully().await {
            tracing::warn!(%error, "the DNS server did not stop in order");
        }
    }
}

impl std::fmt::Debug for DnsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DnsServer")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

struct Handler(Arc<Shared>);

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut client: R) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        let reply = self.reply(request, &mut metadata).await;
        metadata.response_code = reply.code;
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(UDP_PAYLOAD_MIN, UDP_PAYLOAD_MAX));
            edns
        });
        let builder = MessageResponseBuilder::new(&request.queries, edns.as_ref());
        let none: [Record; 0] = [];
        let response = builder.build(metadata, &reply.answers, &reply.authority, &none, &reply.additional);
        match client.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, client = %request.src(), "the client is gone before its answer");
                ResponseInfo::from(hickory_proto::op::Header {
                    metadata,
                    counts: Default::default(),
                })
            }
        }
    }
}

impl Handler {
    async fn reply(&self, request: &Request, metadata: &mut Metadata) -> Reply {
        let refuse = |code| Reply {
            code,
            ..Reply::default()
        };
        if request.metadata.op_code != OpCode::Query {
            return refuse(ResponseCode::NotImp);
        }
        let Ok(info) = request.request_info() else {
            return refuse(ResponseCode::FormErr);
        };
        if info.query.query_class() != DNSClass::IN {
            return refuse(ResponseCode::Refused);
        }
        let question = info.query.original();
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let zone = Arc::clone(&self.0.zone.read());
        match answer::decide(&zone, question.name(), question.query_type(), turn) {
            Decision::Answer(reply) => {
                metadata.authoritative = true;
                reply
            }
            Decision::Forward { name, prefix } => {
                let id = unguessable_id();
                match self.0.upstreams.ask(&name, question.query_type(), id).await {
                    Ok(answer) => merge(prefix, answer),
                    Err(error) => {
                        tracing::debug!(%name, %error, "a name outside the cluster has no answer");
                        refuse(ResponseCode::ServFail)
                    }
                }
            }
        }
    }
}

/// A message id that nobody can guess.
#[allow(
    clippy::disallowed_methods,
    reason = "a secret of this socket's conversation, which no decision depends on"
)]
fn unguessable_id() -> u16 {
    rand::random()
}

/// An upstream's answer, after the aliases that led to it.
fn merge(mut prefix: Vec<Record>, answer: Message) -> Reply {
    prefix.extend(answer.answers);
    Reply {
        code: answer.metadata.response_code,
        answers: prefix,
        authority: answer.authorities,
        additional: answer.additionals,
    }
}
