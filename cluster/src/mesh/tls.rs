//! TLS and QUIC settings of the mesh: who is accepted, and how quickly a dead peer is noticed. Used by `endpoint`, and by
//! `join` for the side that has no certificate yet.

use std::sync::Arc;
use std::time::Duration;

use protocol::NodeName;
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use quinn::{Connection, ConnectionId, ConnectionIdGenerator, IdleTimeout, TransportConfig, VarInt};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

use super::MeshError;
use crate::identity::{CertificateFacts, IdentityError, NodeIdentity};

/// The protocol between members: both sides show certificates of the cluster's CA.
pub const MEMBER_PROTOCOL: &[u8] = b"actorium/1";
/// The protocol of a machine without a certificate. It may only ask to join.
pub const JOIN_PROTOCOL: &[u8] = b"actorium-join/1";

/// A connection on which nothing arrives for so long is dead. Connections in use are kept alive more often than that.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a connection in use shows that it lives.
pub const KEEP_ALIVE: Duration = Duration::from_millis(700);
/// A round trip is assumed to take so long until it is measured. QUIC's default of 333 ms is made for the Internet: one
/// lost packet of a handshake would then cost a second.
const INITIAL_RTT: Duration = Duration::from_millis(30);
/// Bytes that may be under way on one stream: a snapshot fills a 10 Gbit/s link at 3 ms.
const STREAM_WINDOW: u32 = 4 << 20;
/// Bytes that may be under way on one connection.
const CONNECTION_WINDOW: u64 = 32 << 20;
/// Streams that a peer may have open at once: each watch and log that it follows is one.
const STREAMS_MAX: u32 = 16_384;
/// Bytes that are sent before the first acknowledgement: a LAN takes more than the Internet's ten packets.
const INITIAL_WINDOW: u64 = 128 << 10;
/// Length of connection ids.
const CONNECTION_ID_LENGTH: usize = 8;

/// The settings that both ends use.
pub fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    let mut congestion = quinn::congestion::CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW);
    let idle = IdleTimeout::try_from(IDLE_TIMEOUT).expect("three seconds is a valid idle timeout");
    transport
        .max_idle_timeout(Some(idle))
        .initial_rtt(INITIAL_RTT)
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(4))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .send_window(CONNECTION_WINDOW)
        .congestion_controller_factory(Arc::new(congestion))
        .datagram_receive_buffer_size(Some(1 << 20))
        .datagram_send_buffer_size(256 << 10);
    Arc::new(transport)
}

/// The endpoint's settings. Reset tokens derive from the node's key, and connection ids carry no secret of the process:
/// so a process that was killed and started again can tell its peers that their old connections are gone, and what waits
/// on them fails at once instead of after the idle timeout.
pub fn endpoint(identity: &NodeIdentity) -> quinn::EndpointConfig {
    let seed = ring::digest::digest(&ring::digest::SHA256, identity.key_pem.as_bytes());
    let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, seed.as_ref());
    let mut endpoint = quinn::EndpointConfig::new(Arc::new(reset_key));
    endpoint.cid_generator(|| Box::new(PlainConnectionIds));
    endpoint
}

/// Random connection ids, any of which is answered with a reset when it is unknown.
#[derive(Debug)]
struct PlainConnectionIds;

impl ConnectionIdGenerator for PlainConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&super::random::<CONNECTION_ID_LENGTH>())
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// How this node accepts: members with a certificate, joiners without one. Which of the two it is shows in the protocol
/// that was negotiated, and is checked by `peer_of` after the handshake.
pub fn server(identity: &NodeIdentity) -> Result<quinn::ServerConfig, MeshError> {
    let refused = |source| IdentityError::Tls {
        node: identity.name.to_string(),
        source,
    };
    let verifier = WebPkiClientVerifier::builder_with_provider(identity.roots()?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| refused(rustls::Error::General(error.to_string())))?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(refused)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(Certificates::of(identity)?));
    tls.alpn_protocols = vec![MEMBER_PROTOCOL.to_vec(), JOIN_PROTOCOL.to_vec()];
    let crypto = QuicServerConfig::try_from(tls).map_err(|error| refused(rustls::Error::General(error.to_string())))?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(transport());
    Ok(server)
}

/// Which certificates this node shows: its own to members; the CA's beside it to joiners, who know only its hash.
#[derive(Debug)]
struct Certificates {
    for_members: Arc<CertifiedKey>,
    for_joiners: Arc<CertifiedKey>,
}

impl Certificates {
    fn of(identity: &NodeIdentity) -> Result<Certificates, IdentityError> {
        let key = provider()
            .key_provider
            .load_private_key(identity.key()?)
            .map_err(|source| IdentityError::Tls {
                node: identity.name.to_string(),
                source,
            })?;
        let mut with_authority = identity.chain();
        with_authority.push(CertificateDer::from(
            CertificateFacts::from_pem(&identity.authority_pem)?.der,
        ));
        Ok(Certificates {
            for_members: Arc::new(CertifiedKey::new(identity.chain(), key.clone())),
            for_joiners: Arc::new(CertifiedKey::new(with_authority, key)),
        })
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let joins = hello
            .alpn()
            .is_some_and(|mut protocols| protocols.any(|protocol| protocol == JOIN_PROTOCOL));
        Some(if joins {
            self.for_joiners.clone()
        } else {
            self.for_members.clone()
        })
    }
}

/// How this node dials members.
pub fn client(identity: &NodeIdentity) -> Result<quinn::ClientConfig, MeshError> {
    let refused = |source| IdentityError::Tls {
        node: identity.name.to_string(),
        source,
    };
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(refused)?
        .with_root_certificates(identity.roots()?)
        .with_client_auth_cert(identity.chain(), identity.key()?)
        .map_err(refused)?;
    tls.alpn_protocols = vec![MEMBER_PROTOCOL.to_vec()];
    // Each connection shows its certificate anew: a resumed one would outlive the certificate that it began with.
    tls.resumption = Resumption::disabled();
    quic_client(tls).map_err(|error| refused(error).into())
}

/// TLS over TCP that admits members alone: for the listener on loopback that ractor_cluster cannot do without.
pub fn loopback_acceptor(identity: &NodeIdentity) -> Result<tokio_rustls::TlsAcceptor, IdentityError> {
    let refused = |source| IdentityError::Tls {
        node: identity.name.to_string(),
        source,
    };
    let verifier = WebPkiClientVerifier::builder_with_provider(identity.roots()?, provider())
        .build()
        .map_err(|error| refused(rustls::Error::General(error.to_string())))?;
    let tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(refused)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain(), identity.key()?)
        .map_err(refused)?;
    Ok(tokio_rustls::TlsAcceptor::from(Arc::new(tls)))
}

/// A QUIC client from TLS settings.
pub fn quic_client(tls: rustls::ClientConfig) -> Result<quinn::ClientConfig, rustls::Error> {
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut client = quinn::ClientConfig::new(Arc::new(crypto));
    client.transport_config(transport());
    Ok(client)
}

/// The provider of cryptography, named explicitly: the process may hold several.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A member, by the name in its certificate.
    Member(NodeName),
    /// A machine that wants to become one.
    Joiner,
}

/// Reads who the peer is from what the handshake has verified.
pub fn peer_of(connection: &Connection) -> Result<Peer, String> {
    let handshake = connection
        .handshake_data()
        .and_then(|data| data.downcast::<HandshakeData>().ok());
    let protocol = handshake.and_then(|data| data.protocol);
    match protocol.as_deref() {
        Some(JOIN_PROTOCOL) => return Ok(Peer::Joiner),
        Some(MEMBER_PROTOCOL) => {}
        other => return Err(format!("it speaks {:?}", other.map(String::from_utf8_lossy))),
    }
    let chain = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
    let certificate = chain
        .as_ref()
        .and_then(|chain| chain.first())
        .ok_or("it shows no certificate")?;
    let facts = CertificateFacts::from_der(certificate).map_err(|error| error.to_string())?;
    facts.node_name().map(Peer::Member).map_err(|error| error.to_string())
}
