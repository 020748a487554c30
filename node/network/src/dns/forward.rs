//! Questions that other servers must answer.
//!
//! Called by the DNS server for names outside the cluster. Asks one upstream after the other, by UDP and, for what does not
//! fit, by TCP. It keeps nothing: caching is the upstreams' and the clients' business.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::resolv_conf::NodeResolver;

/// How long one upstream may take. A client's resolver tries again after 5 s; two silent upstreams must fit in before.
const UPSTREAM_PATIENCE: Duration = Duration::from_millis(1500);
/// Upstreams that are tried for one question: as many as a resolver uses.
const UPSTREAMS_MAX: usize = 3;
/// The largest answer by UDP, in bytes: what passes any network unfragmented (DNS flag day 2020).
pub(crate) const UDP_PAYLOAD_MAX: u16 = 1232;
/// The port of DNS.
const PORT: u16 = 53;

/// Why other servers gave no answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// The node knows no other server.
    #[error("this node's resolv.conf names no other name server")]
    NoUpstream,
    /// All servers failed.
    #[error("no name server answered; the last one, {upstream}: {source}")]
    Unanswered {
        /// The server that was tried last.
        upstream: SocketAddr,
        /// What happened.
        source: io::Error,
    },
}

/// The servers to which foreign names are sent, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Upstreams(Vec<SocketAddr>);

impl Upstreams {
    /// The servers of the node's resolver, without `own` addresses: asking ourselves would never end.
    pub fn of_node(resolver: &NodeResolver, own: &[IpAddr]) -> Self {
        let servers = resolver.nameservers.iter().filter(|server| !own.contains(server));
        Self(
            servers
                .take(UPSTREAMS_MAX)
                .map(|server| SocketAddr::new(*server, PORT))
                .collect(),
        )
    }

    /// These servers.
    pub fn new(servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self(servers.into_iter().take(UPSTREAMS_MAX).collect())
    }

    /// The servers, in the order in which they are tried.
    pub fn servers(&self) -> &[SocketAddr] {
        &self.0
    }

    /// Asks for a name. `id` must be hard to guess: it and the random source port are what a forger must hit.
    pub(crate) async fn ask(&self, name: &Name, kind: RecordType, id: u16) -> Result<Message, ForwardError> {
        let mut failure = ForwardError::NoUpstream;
        for upstream in &self.0 {
            match timeout(UPSTREAM_PATIENCE, ask_one(*upstream, name, kind, id)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(source)) => {
                    failure = ForwardError::Unanswered {
                        upstream: *upstream,
                        source,
                    }
                }
                Err(_) => {
                    failure = ForwardError::Unanswered {
                        upstream: *upstream,
                        source: io::ErrorKind::TimedOut.into(),
                    }
                }
            }
        }
        Err(failure)
    }
}

async fn ask_one(upstream: SocketAddr, name: &Name, kind: RecordType, id: u16) -> io::Result<Message> {
    let question = question(name, kind, id);
    let bytes = question.to_vec().map_err(invalid)?;
    let answer = by_udp(upstream, &question, &bytes).await?;
    if answer.metadata.truncation {
        by_tcp(upstream, &question, &bytes).await
    } else {
        Ok(answer)
    }
}

fn question(name: &Name, kind: RecordType, id: u16) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.clone(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD_MAX);
    message.set_edns(edns);
    message
}

async fn by_udp(upstream: SocketAddr, question: &Message, bytes: &[u8]) -> io::Result<Message> {
    let any: IpAddr = if upstream.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // A connected socket takes packets from the upstream only, and hears of it at once if nobody listens there.
    socket.connect(upstream).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Anything that does not answer this question is a stray or a forgery: wait for the true answer.
        if let Ok(answer) = Message::from_vec(&buffer[..length])
            && answers(&answer, question)
        {
            return Ok(answer);
        }
    }
}

async fn by_tcp(upstream: SocketAddr, question: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(upstream).await?;
    let length = u16::try_from(bytes.len()).map_err(invalid)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(invalid)?;
    if answers(&answer, question) {
        Ok(answer)
    } else {
        Err(io::Error::other("the answer belongs to another question"))
    }
}

fn answers(answer: &Message, question: &Message) -> bool {
    answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == question.metadata.id
        && answer.queries.len() == 1
        && answer
            .queries
            .iter()
            .zip(&question.queries)
            .all(|(a, q)| a.query_type() == q.query_type() && a.name() == q.name())
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_addresses_are_never_upstreams() {
        let resolver = NodeResolver::parse(
            "nameserver 10.96.0.10\nnameserver 192.0.2.53\nnameserver 10.244.1.1\nnameserver 2001:db8::53\n",
        );
        let own = ["10.96.0.10".parse().unwrap(), "10.244.1.1".parse().unwrap()];
        let upstreams = Upstreams::of_node(&resolver, &own);
        let expected: Vec<SocketAddr> = vec!["192.0.2.53:53".parse().unwrap(), "[2001:db8::53]:53".parse().unwrap()];
        assert_eq!(upstreams.servers(), expected);
    }

    #[test]
    fn an_answer_must_match_its_question() {
        let name = Name::from_ascii("example.com.").unwrap();
        let asked = question(&name, RecordType::A, 7);
        let mut answer = asked.clone();
        assert!(!answers(&answer, &asked), "a question is no answer");
        answer.metadata.message_type = MessageType::Response;
        assert!(answers(&answer, &asked));
        answer.metadata.id = 8;
        assert!(!answers(&answer, &asked));
        answer.metadata.id = 7;
        answer.queries[0].set_query_type(RecordType::AAAA);
        assert!(!answers(&answer, &asked));
    }
}
