//! The joiner's side: finds a member, recognises the cluster by the CA that the token pins, asks for admission, and checks
//! what it gets. Acting code; it writes nothing to disk, so that an attempt that fails leaves nothing behind.
#![allow(clippy::disallowed_methods)] // Acting code: patience is measured by the clock.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use config::JoinToken;
use config::node::{ClusterSettings, JoinAddress, JoinTarget};
use protocol::NodeName;
use protocol::codec::{decode, encode};
use protocol::transport::{Purpose, Transport, TransportError};
use quinn::{Endpoint, VarInt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::{JoinGrant, JoinRefusal, JoinRequest, WireReply, WireRequest};
use crate::identity::{CertificateFacts, IdentityError, NodeIdentity, NodeKey, fingerprint};
use crate::mesh::tls::{self, JOIN_PROTOCOL};
use crate::mesh::{JOIN_BYTES_MAX, JoinStream, Mesh};

/// A member answers the handshake within this time, or the next address is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A member answers the request within this time: it writes to the replicated store.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two rounds through all addresses.
const ROUND_PAUSE: Duration = Duration::from_millis(300);
/// Every node's certificate has this name; which node answers does not matter to a joiner.
const ANY_NODE: &str = "localhost";

/// Who wants to join.
#[derive(Clone, Debug)]
pub struct Applicant {
    /// The name that it wants.
    pub name: NodeName,
    /// Where its mesh will listen.
    pub mesh_address: SocketAddr,
    /// Addresses for its certificate.
    pub addresses: Vec<IpAddr>,
}

/// What a joiner has afterwards. Nothing of it is stored yet.
#[derive(Debug)]
pub struct Joined {
    /// Its identity, checked.
    pub identity: NodeIdentity,
    /// Members to call on.
    pub members: Vec<(NodeName, SocketAddr)>,
    /// What all nodes of the cluster agree on.
    pub settings: ClusterSettings,
    /// The number by which consensus knows it.
    pub raft_id: u64,
}

/// Why a machine does not become a member.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No address answered.
    #[error("no member could be asked for admission: {}. Is a node running there, and does a firewall let UDP through?", .attempts.join("; "))]
    Unreachable {
        /// Each address with what was seen.
        attempts: Vec<String>,
    },
    /// Whoever answers is not of the token's cluster.
    #[error(
        "{address} does not belong to the cluster that the join token is for: the token pins the CA {expected}, {found}. The address is of another cluster, the token is old, or someone stands between. The token's secret was not sent"
    )]
    WrongAuthority {
        /// The address.
        address: SocketAddr,
        /// The fingerprint in the token.
        expected: String,
        /// What was shown.
        found: String,
    },
    /// The cluster says no.
    #[error("{address} refuses: {refusal}")]
    Refused {
        /// Who.
        address: SocketAddr,
        /// Why.
        refusal: JoinRefusal,
    },
    /// The answer makes no sense.
    #[error("{address} answered something that is no admission: {reason}")]
    Malformed {
        /// Who.
        address: SocketAddr,
        /// What is wrong.
        reason: String,
    },
    /// This machine cannot make a key, or open a socket.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No socket.
    #[error("no UDP socket can be opened to join: {0}")]
    Socket(std::io::Error),
    /// A renewal found no member.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

/// Joins a cluster: tries the addresses in turn, again and again until `patience` is over; ends at once when a member
/// refuses for good or is of another cluster.
pub async fn join(target: &JoinTarget, applicant: &Applicant, patience: Duration) -> Result<Joined, JoinError> {
    let key = NodeKey::generate()?;
    let request = JoinRequest {
        token_id: target.token.id.clone(),
        token_secret: target.token.secret.clone(),
        name: applicant.name.clone(),
        mesh_address: applicant.mesh_address,
        addresses: applicant.addresses.clone(),
        signing_request: key.signing_request(&applicant.name)?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let until = Instant::now() + patience;
    loop {
        let mut attempts = Vec::new();
        let mut passing = None;
        for address in &target.addresses {
            for resolved in resolve(address, &mut attempts).await {
                match ask(resolved, &target.token, &request).await {
                    Ok(grant) => return accept(resolved, grant, &key, applicant, &target.token),
                    Err(Attempt::Failed(JoinError::Refused { address, refusal })) if refusal.is_passing() => {
                        passing = Some(JoinError::Refused { address, refusal });
                    }
                    Err(Attempt::Failed(error)) => return Err(error),
                    Err(Attempt::Unreachable(reason)) => attempts.push(format!("{resolved} {reason}")),
                }
            }
        }
        if Instant::now() + ROUND_PAUSE >= until {
            return Err(passing.unwrap_or(JoinError::Unreachable { attempts }));
        }
        tokio::time::sleep(ROUND_PAUSE).await;
    }
}

/// Asks a member for a new certificate for the same key. The identity is to be stored, and given to `Mesh::renew`.
pub async fn renew(
    mesh: &Mesh,
    member: &NodeName,
    identity: &NodeIdentity,
    addresses: Vec<IpAddr>,
) -> Result<NodeIdentity, JoinError> {
    let key = NodeKey::from_pem(&identity.key_pem)?;
    let request = WireRequest::Renew {
        signing_request: key.signing_request(&identity.name)?,
        addresses,
    };
    let address = mesh.address_of(member).unwrap_or_else(|| mesh.local_address());
    let bytes = encode(&request).map_err(|error| malformed(address, error))?;
    let reply = mesh
        .call(member, Purpose::Join, Bytes::from(bytes), ANSWER_TIMEOUT)
        .await?;
    match decode(&reply).map_err(|error| malformed(address, error))? {
        WireReply::Renewed { certificate_pem } => Ok(NodeIdentity::new(
            certificate_pem,
            identity.key_pem.clone(),
            identity.authority_pem.clone(),
        )?),
        WireReply::Refused(refusal) => Err(JoinError::Refused { address, refusal }),
        WireReply::Granted(_) => Err(malformed(address, "an admission instead of a certificate")),
    }
}

fn malformed(address: SocketAddr, reason: impl ToString) -> JoinError {
    JoinError::Malformed {
        address,
        reason: reason.to_string(),
    }
}

fn no_answer(within: Duration) -> String {
    format!("did not answer within {} s", within.as_secs())
}

/// How one address answered.
enum Attempt {
    /// Not at all.
    Unreachable(String),
    /// In a way that ends the matter.
    Failed(JoinError),
}

async fn resolve(address: &JoinAddress, attempts: &mut Vec<String>) -> Vec<SocketAddr> {
    match tokio::net::lookup_host((address.host.as_str(), address.port)).await {
        Ok(found) => found.collect(),
        Err(error) => {
            attempts.push(format!("{} cannot be resolved ({error})", address.host));
            Vec::new()
        }
    }
}

async fn ask(address: SocketAddr, token: &JoinToken, request: &JoinRequest) -> Result<JoinGrant, Attempt> {
    let local: SocketAddr = if address.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let endpoint = Endpoint::client(local).map_err(|error| Attempt::Failed(JoinError::Socket(error)))?;
    let answer = ask_over(&endpoint, address, token, request).await;
    endpoint.close(VarInt::from_u32(0), b"done");
    // The socket lives until the member has been told; the joiner need not wait for that.
    tokio::spawn(async move { endpoint.wait_idle().await });
    answer
}

async fn ask_over(
    endpoint: &Endpoint,
    address: SocketAddr,
    token: &JoinToken,
    request: &JoinRequest,
) -> Result<JoinGrant, Attempt> {
    let failed = |reason: String| Attempt::Failed(malformed(address, reason));
    let bytes = encode(&WireRequest::Join(request.clone())).map_err(|error| failed(error.to_string()))?;
    if bytes.len() > JOIN_BYTES_MAX {
        return Err(failed("the request is too long: too many addresses".to_owned()));
    }
    let connection = connect(endpoint, address, token, &request.name).await?;
    let exchange = JoinStream::ask(&connection, Bytes::from(bytes));
    let reply = match tokio::time::timeout(ANSWER_TIMEOUT, exchange).await {
        Ok(Ok(Some(reply))) => reply,
        Ok(Ok(None)) => return Err(Attempt::Unreachable("admits nobody at present".to_owned())),
        Ok(Err(reason)) => return Err(Attempt::Unreachable(format!("broke off ({reason})"))),
        Err(_) => return Err(Attempt::Unreachable(no_answer(ANSWER_TIMEOUT))),
    };
    match decode(&reply).map_err(|error| failed(error.to_string()))? {
        WireReply::Granted(grant) => JoinGrant::try_from(grant).map_err(|error| failed(error.to_string())),
        WireReply::Refused(refusal) => Err(Attempt::Failed(JoinError::Refused { address, refusal })),
        WireReply::Renewed { .. } => Err(failed("a renewal instead of an admission".to_owned())),
    }
}

/// Connects to a member of the cluster whose CA the token pins, and to nobody else.
async fn connect(
    endpoint: &Endpoint,
    address: SocketAddr,
    token: &JoinToken,
    name: &NodeName,
) -> Result<quinn::Connection, Attempt> {
    let pinned = Arc::new(PinnedAuthority {
        pin: token.ca_fingerprint,
        mismatch: OnceLock::new(),
    });
    let client = pinned_client(pinned.clone()).map_err(|source| {
        Attempt::Failed(
            IdentityError::Tls {
                node: name.to_string(),
                source,
            }
            .into(),
        )
    })?;
    let connecting = endpoint
        .connect_with(client, address, ANY_NODE)
        .map_err(|error| Attempt::Unreachable(error.to_string()))?;
    let error = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => return Ok(connection),
        Ok(Err(error)) => error,
        Err(_) => return Err(Attempt::Unreachable(no_answer(CONNECT_TIMEOUT))),
    };
    Err(match pinned.mismatch.get() {
        Some(found) => Attempt::Failed(JoinError::WrongAuthority {
            address,
            expected: hex::encode(token.ca_fingerprint),
            found: found.clone(),
        }),
        None if error == quinn::ConnectionError::TimedOut => Attempt::Unreachable(no_answer(CONNECT_TIMEOUT)),
        None => Attempt::Unreachable(format!("does not speak with us ({error})")),
    })
}

/// Checks that the grant is for this machine and from the pinned CA.
fn accept(
    address: SocketAddr,
    grant: JoinGrant,
    key: &NodeKey,
    applicant: &Applicant,
    token: &JoinToken,
) -> Result<Joined, JoinError> {
    let authority = CertificateFacts::from_pem(&grant.authority_pem)?;
    if fingerprint(&CertificateDer::from(authority.der.as_slice())) != token.ca_fingerprint {
        return Err(malformed(address, "its CA is not the one that it proved to belong to"));
    }
    let identity = NodeIdentity::new(grant.certificate_pem, key.to_pem(), grant.authority_pem)?;
    if identity.name != applicant.name {
        return Err(malformed(
            address,
            format!("the certificate is for {}, not {}", identity.name, applicant.name),
        ));
    }
    Ok(Joined {
        identity,
        members: grant.members,
        settings: grant.settings,
        raft_id: grant.raft_id,
    })
}

fn pinned_client(verifier: Arc<PinnedAuthority>) -> Result<quinn::ClientConfig, rustls::Error> {
    let mut tls = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    tls.alpn_protocols = vec![JOIN_PROTOCOL.to_vec()];
    tls.resumption = Resumption::disabled();
    tls::quic_client(tls)
}

/// Trusts the one CA whose certificate has the pinned hash, which the member shows beside its own; the member's
/// certificate is then verified against it as any other.
#[derive(Debug)]
struct PinnedAuthority {
    pin: [u8; 32],
    /// What was shown instead.
    mismatch: OnceLock<String>,
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(authority) = intermediates
            .iter()
            .find(|certificate| fingerprint(certificate) == self.pin)
        else {
            let found = match intermediates.last() {
                Some(other) => format!("it shows {}", hex::encode(fingerprint(other))),
                None => "it shows none".to_owned(),
            };
            // The first mismatch is the one that is told.
            let _ = self.mismatch.set(found);
            return Err(rustls::Error::General("another cluster's CA".to_owned()));
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), tls::provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = tls::provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = tls::provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}
